//! Connections that come in: bounded in all and by source, and told apart by their first bytes.
use super::conn::{Conn, Role, Serving};
use super::pipe::Pipe;
use super::{Carrier, Closed, Link, Streams};
use crate::anode::{Place, Transport, source_prefix};
use crate::net::NetError;
use crate::sockets;
use crate::turn::server::Door;
use anode_wire::framing::FrameDecoder;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

/// Connections taken from one listener before the others have their turn.
const AT_ONCE: usize = 64;
/// Connections that the kernel keeps until we take them.
const BACKLOG: i32 = 128;
/// Tokens of listeners; those of connections are their places in the table, far below.
const LISTENERS: u64 = 1 << 32;

pub(super) struct Listener {
    socket: TcpListener,
    pub local: SocketAddr,
}

/// Which listener a token of epoll stands for.
pub(super) fn listener_of(token: u64) -> Option<usize> {
    token.checked_sub(LISTENERS).map(|index| index as usize)
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Tls,
    Http,
    Framed,
}

/// A frame of 5,635 bytes or more in front would be needed to be taken for one of the others: the first packet is a
/// HELLO or a question, and short. `None`: too early to say.
fn sniff(seen: &[u8]) -> Option<Kind> {
    const METHODS: [&[u8]; 5] = [b"POST ", b"GET ", b"HEAD ", b"PUT ", b"OPTIONS "];
    const TLS: &[u8] = &[0x16, 0x03];
    let starts = |what: &[u8]| seen.iter().zip(what).all(|(a, b)| a == b);
    let whole = |what: &[u8]| seen.len() >= what.len() && starts(what);
    if whole(TLS) {
        Some(Kind::Tls)
    } else if METHODS.iter().any(|method| whole(method)) {
        Some(Kind::Http)
    } else if starts(TLS) || METHODS.iter().any(|method| starts(method)) {
        None
    } else {
        Some(Kind::Framed)
    }
}

impl Streams {
    /// Takes connections on an address from now on.
    pub(super) fn listen(&mut self, _now: Instant, address: SocketAddr) -> Result<(), NetError> {
        let listener = open(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => NetError::PortBusy(address),
            _ => NetError::Listen { address, error },
        })?;
        let token = LISTENERS + self.listeners.len() as u64;
        self.epoll
            .add(
                &listener.socket,
                EpollEvent::new(EpollFlags::EPOLLIN, token),
            )
            .map_err(|error| NetError::Streams(error.into()))?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Where connections are accepted.
    pub fn listening(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.local)
    }

    pub(super) fn accept(&mut self, now: Instant, index: usize) {
        for _ in 0..AT_ONCE {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            let (socket, peer) = match listener.socket.accept() {
                Ok(accepted) => accepted,
                // Gone before it was taken: the next one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            self.counters.accepted += 1;
            let network = source_prefix(peer.ip());
            if !self.has_room_for(now, network) {
                self.counters.refused += 1;
                continue;
            }
            let Ok(pipe) = Pipe::new(socket) else {
                continue;
            };
            let mut conn = Conn::new(now, pipe, peer, Role::Sniffing(Vec::new()));
            conn.network = Some(network);
            if self.take_in(conn).is_ok() {
                *self.inbound.entry(network).or_default() += 1;
            }
        }
    }

    /// A full table gives up the oldest connection that nobody here has answered to, so that idle strangers do not keep
    /// others out.
    fn has_room_for(&mut self, now: Instant, network: u64) -> bool {
        let limits = &self.config.limits;
        let from_there = self.inbound.get(&network).copied().unwrap_or_default();
        if from_there >= limits.inbound_per_network {
            return false;
        }
        let inbound: usize = self.inbound.values().sum();
        if inbound < limits.inbound {
            return true;
        }
        let strangers = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.network.is_some() && !conn.answered);
        let oldest = strangers.min_by_key(|(_, conn)| conn.opened);
        let Some(oldest) = oldest.map(|(id, _)| id) else {
            return false;
        };
        self.close(now, oldest, Closed::Idle);
        true
    }

    /// The first bytes of a connection, which may turn out to be TLS, and then to hold something else. What is left of
    /// them belongs to what it has become; `None`: more is needed.
    pub(super) fn recognise(
        &mut self,
        now: Instant,
        id: usize,
        input: &[u8],
    ) -> Result<Option<Vec<u8>>, Closed> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(None);
        };
        let Role::Sniffing(seen) = &mut conn.role else {
            return Ok(None);
        };
        seen.extend_from_slice(input);
        let door = self.door.as_ref();
        let door = door.filter(|door| conn.pipe.local().is_ok_and(|at| door.stands_at(at)));
        if let Some(door) = door.filter(|_| conn.pipe.is_tls()) {
            match Door::is_turn(&conn.pipe, seen) {
                None => return Ok(None),
                Some(false) => {}
                Some(true) => {
                    let (door, seen) = (door.clone(), std::mem::take(seen));
                    self.hand_over(id, &door, seen);
                    return Ok(None);
                }
            }
        }
        let Some(kind) = sniff(seen) else {
            return Ok(None);
        };
        let seen = std::mem::take(seen);
        match kind {
            Kind::Tls if conn.pipe.is_tls() => Err(Closed::Protocol("TLS inside TLS")),
            Kind::Tls => {
                let tls = match door.and_then(Door::accept_tls) {
                    Some(tls) => tls,
                    None => self.tls.accept()?,
                };
                conn.pipe.start_tls(tls, seen);
                Ok(None)
            }
            Kind::Http => {
                conn.role = Role::Serving(Serving::default());
                Ok(Some(seen))
            }
            Kind::Framed => {
                let transport = match conn.pipe.is_tls() {
                    true => Transport::Tls,
                    false => Transport::Tcp,
                };
                let place = Place::over(transport, conn.peer)
                    .filter(|place| !self.links.contains_key(place))
                    .ok_or(Closed::Protocol("its place is taken"))?;
                conn.role = Role::Framed(FrameDecoder::new());
                conn.place = Some(place);
                let link = Link::new(now, Carrier::Frames(id), true);
                self.links.insert(place, link);
                Ok(Some(seen))
            }
        }
    }
}

impl Streams {
    /// A TURN client's: its server goes on with it.
    fn hand_over(&mut self, id: usize, door: &Door, seen: Vec<u8>) {
        let Some(conn) = self.take_out(id) else {
            return;
        };
        if let Ok(local) = conn.pipe.local() {
            door.enter(conn.pipe, conn.peer, local, seen);
        }
    }
}

fn open(address: SocketAddr) -> io::Result<Listener> {
    let socket = sockets::listen(address, BACKLOG)?;
    let local = socket.local_addr()?;
    Ok(Listener { socket, local })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_kinds_apart() {
        let cases: [(&[u8], Option<Kind>); 12] = [
            (b"", None),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Kind::Tls)),
            (b"\x16\x04", Some(Kind::Framed)),
            (b"P", None),
            (b"POST", None),
            (b"POST /", Some(Kind::Http)),
            (b"GET /z HTTP/1.1", Some(Kind::Http)),
            (b"PO\x00", Some(Kind::Framed)),
            (b"\x00", Some(Kind::Framed)),
            (b"\x00\x9b\x00\x01", Some(Kind::Framed)),
            (b"\xff\xff", Some(Kind::Framed)),
        ];
        for (seen, kind) in cases {
            assert_eq!(sniff(seen), kind, "{seen:?}");
        }
    }
}

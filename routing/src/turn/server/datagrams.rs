//! UDP of a shard: the ports that clients send to, and the relay sockets.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use anode_turn::server::{FiveTuple, IcmpError, OpenError, RelayId};
use nix::libc;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::token::Token;
use crate::turn::SetDontFragment;
use crate::turn::udp::{Appetite, Key, Sends, Share, Sip, UdpSocket, send_runs};

/// Kernel buffers of a relay socket.
const RELAY_BUFFER: usize = 512 << 10;
/// ICMP errors taken from one socket before the others have their turn.
const ERRORS: usize = 16;

/// A port that clients send to.
pub(super) struct Port {
    pub socket: UdpSocket,
    pub appetite: Appetite,
    pub secure: bool,
}

impl Port {
    pub fn new(socket: UdpSocket, secure: bool) -> Self {
        Self {
            socket,
            appetite: Appetite::LEAST,
            secure,
        }
    }
}

/// A socket that peers send to.
pub(super) struct RelaySocket {
    pub id: RelayId,
    pub kind: Kind,
}

pub(super) enum Kind {
    Udp {
        socket: UdpSocket,
        sip: Sip,
    },
    /// It only listens (RFC 6062).
    Tcp(std::net::TcpListener),
}

/// Reserved ports, bound already: any shard may come for them.
pub(super) type Kept = Arc<Mutex<HashMap<SocketAddr, UdpSocket>>>;

/// By which socket a datagram leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    Port(usize),
    Relay(RelayId),
}

pub(super) struct Datagrams {
    epoll: Arc<Epoll>,
    pub ports: Vec<Port>,
    /// By [`RelayId::slot`].
    relays: Vec<Option<RelaySocket>>,
    sends: Sends<Exit>,
    kept: Kept,
    set_dont_fragment: SetDontFragment,
    pub lost: u64,
}

impl Datagrams {
    pub fn new(
        epoll: Arc<Epoll>,
        ports: Vec<Port>,
        kept: Kept,
        set_dont_fragment: SetDontFragment,
    ) -> io::Result<Self> {
        for (index, port) in ports.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Port(index).into());
            epoll.add(&port.socket, event)?;
        }
        Ok(Self {
            epoll,
            ports,
            relays: Vec::new(),
            sends: Sends::new(),
            kept,
            set_dont_fragment,
            lost: 0,
        })
    }

    pub fn relay(&mut self, slot: usize) -> Option<&mut RelaySocket> {
        self.relays.get_mut(slot)?.as_mut()
    }

    /// Sends at the end of the batch.
    pub fn send(&mut self, key: Key<Exit>, parts: &[&[u8]]) {
        if self.sends.push(key, parts) {
            return;
        }
        self.flush();
        if !self.sends.push(key, parts) {
            self.lost += 1;
        }
    }

    /// Sends a payload of a client to a peer.
    pub fn send_to_peer(&mut self, to: &anode_turn::server::ToPeer, bytes: &[u8]) {
        let key = Key {
            exit: Exit::Relay(to.relay),
            to: to.peer,
            source: None,
            dont_fragment: to.dont_fragment,
        };
        self.send(key, &[&bytes[to.payload.clone()]]);
    }

    /// Sends to a client, from the address that it knows.
    pub fn send_to_client(&mut self, client: &FiveTuple, parts: &[&[u8]]) {
        let Some((index, port)) = self.port_of(client) else {
            self.lost += 1;
            return;
        };
        let any = port.socket.local().ip().is_unspecified();
        let key = Key {
            exit: Exit::Port(index),
            to: client.client,
            source: any.then(|| client.server.ip()),
            dont_fragment: false,
        };
        self.send(key, parts);
    }

    fn port_of(&self, client: &FiveTuple) -> Option<(usize, &Port)> {
        let server = client.server;
        self.ports.iter().enumerate().find(|(_, port)| {
            let local = port.socket.local();
            local == server
                || local.port() == server.port()
                    && local.ip().is_unspecified()
                    && local.is_ipv4() == server.is_ipv4()
        })
    }

    /// Everything leaves now.
    pub fn flush(&mut self) {
        let (ports, relays) = (&mut self.ports, &mut self.relays);
        // One socket at a time is borrowed, and given back at once.
        let mut lost = 0;
        self.sends.each(|exit, runs| {
            let socket = match exit {
                Exit::Port(index) => ports.get_mut(index).map(|port| &mut port.socket),
                Exit::Relay(id) => match relays.get_mut(id.slot()).and_then(Option::as_mut) {
                    Some(RelaySocket {
                        id: of,
                        kind: Kind::Udp { socket, .. },
                    }) if *of == id => Some(socket),
                    _ => None,
                },
            };
            lost += send_runs(runs, socket);
        });
        self.lost += lost;
    }

    /// Binds a relay socket, and the one above it where a pair is wanted.
    pub fn open(
        &mut self,
        relay: RelayId,
        address: SocketAddr,
        tcp: bool,
        pair: bool,
    ) -> Result<(), OpenError> {
        let kind = if tcp {
            Kind::Tcp(super::peers::listen(address).map_err(|e| why(&e))?)
        } else {
            let socket = self.bind(address)?;
            if pair {
                let above = SocketAddr::new(address.ip(), address.port() + 1);
                let second = self.bind(above)?;
                lock(&self.kept).insert(above, second);
            }
            udp(socket)
        };
        self.put(relay, kind)
    }

    fn bind(&self, address: SocketAddr) -> Result<UdpSocket, OpenError> {
        let socket = UdpSocket::bind(address, Share::No, RELAY_BUFFER, self.set_dont_fragment)
            .map_err(|error| why(&error))?;
        // ICMP errors are for the client to hear (RFC 8656 §11.5).
        let heard = match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        };
        heard.map_err(|_| OpenError::Failed)?;
        Ok(socket)
    }

    /// A kept port is a relay from now on.
    pub fn adopt(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError> {
        let socket = lock(&self.kept).remove(&address);
        self.put(relay, udp(socket.ok_or(OpenError::Failed)?))
    }

    fn put(&mut self, relay: RelayId, kind: Kind) -> Result<(), OpenError> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Relay(relay.slot()).into());
        let added = match &kind {
            Kind::Udp { socket, .. } => self.epoll.add(socket, event),
            Kind::Tcp(listener) => self.epoll.add(listener, event),
        };
        added.map_err(|_| OpenError::Failed)?;
        if self.relays.len() <= relay.slot() {
            self.relays.resize_with(relay.slot() + 1, || None);
        }
        self.relays[relay.slot()] = Some(RelaySocket { id: relay, kind });
        Ok(())
    }

    /// Closing takes a socket out of epoll, too.
    pub fn close(&mut self, relay: RelayId) {
        if let Some(place) = self.relays.get_mut(relay.slot())
            && place.as_ref().is_some_and(|socket| socket.id == relay)
        {
            *place = None;
        }
    }

    pub fn forget_kept(&mut self, address: SocketAddr) {
        lock(&self.kept).remove(&address);
    }
}

fn udp(socket: UdpSocket) -> Kind {
    Kind::Udp {
        socket,
        sip: Sip::LEAST,
    }
}

fn why(error: &io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => OpenError::InUse,
        _ => OpenError::Failed,
    }
}

/// A thread that panicked left a table that is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ICMP errors that wait at a relay socket, a few at a time.
pub(super) fn icmp_errors(socket: &UdpSocket) -> Vec<IcmpError> {
    let mut errors = Vec::new();
    while errors.len() < ERRORS {
        match icmp_error(socket) {
            Ok(Some(error)) => errors.push(error),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    errors
}

/// One entry of the error queue; `Ok(None)`: it is not ICMP.
fn icmp_error(socket: &UdpSocket) -> nix::Result<Option<IcmpError>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([u8; 256]);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_fd().as_raw_fd(),
        &mut data,
        Some(&mut control),
        MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
    )?;
    let peer = message.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|a| (IpAddr::V4(a.ip()), a.port()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|a| (IpAddr::V6(a.ip()), a.port()))
        })
    });
    for part in message.cmsgs()? {
        let (ControlMessageOwned::Ipv4RecvErr(error, _)
        | ControlMessageOwned::Ipv6RecvErr(error, _)) = part
        else {
            continue;
        };
        let icmp = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6];
        if let Some((ip, port)) = peer.filter(|_| icmp.contains(&error.ee_origin)) {
            return Ok(Some(IcmpError {
                kind: error.ee_type,
                code: error.ee_code,
                data: error.ee_info,
                peer: SocketAddr::new(ip, port),
            }));
        }
    }
    Ok(None)
}

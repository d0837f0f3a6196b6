//! Connections of ours: dialled when packets want them, one place at a time, with a pause after each failure.
use super::conn::{Asking, Conn, Errand, Plan, Role};
use super::pipe::Pipe;
use super::{Asks, Carrier, Closed, Link, Streams, http};
use crate::anode::{Place, Transport};
use anode_wire::framing::FrameDecoder;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use rand::TryRng as _;
use rand::rngs::SysRng;
use std::io;
use std::time::Instant;

/// Where packets are posted when the endpoint names no path.
const DEFAULT_PATH: &str = "/anode";

impl Streams {
    /// Whether packets can go to a place: there is a link, or one can be made. `socket`: [`Place::DIALLED`] or not.
    pub(super) fn open_link(&mut self, now: Instant, place: Place, socket: usize) -> bool {
        if let Some(link) = self.links.get_mut(&place) {
            let waits = link.retry_at.is_some_and(|at| at > now);
            if !matches!(link.carrier, Carrier::Nothing) {
                return true;
            }
            if link.accepted || waits {
                return false;
            }
        } else {
            let dialled = self.links.values().filter(|link| !link.accepted).count();
            if socket != Place::DIALLED
                || !place.transport().is_stream()
                || dialled >= self.config.limits.dialled
            {
                return false;
            }
            let link = Link::new(now, Carrier::Nothing, false);
            self.links.insert(place, link);
        }
        let carrier = match place.transport() {
            Transport::Http | Transport::Https => match self.asks(place) {
                Ok(asks) => Carrier::Asking(asks),
                Err(_) => return false,
            },
            _ => match self.dial(now, place, Errand::Frames) {
                Ok(id) => Carrier::Frames(id),
                Err(error) => {
                    self.failed_at_once(now, place, &error);
                    return false;
                }
            },
        };
        if let Some(link) = self.links.get_mut(&place) {
            link.carrier = carrier;
            link.retry_at = None;
        }
        self.reopen(now, place);
        self.links
            .get(&place)
            .is_some_and(|link| !matches!(link.carrier, Carrier::Nothing))
    }

    /// An HTTP link that we ask over keeps two connections.
    pub(super) fn reopen(&mut self, now: Instant, place: Place) {
        for errand in [Errand::Poll, Errand::Post] {
            let Some(link) = self.links.get_mut(&place) else {
                return;
            };
            let Carrier::Asking(asks) = &mut link.carrier else {
                return;
            };
            let missing = match errand {
                Errand::Poll => asks.poll.is_none(),
                _ => asks.post.is_none() && !link.outbox.is_empty(),
            };
            if !missing {
                continue;
            }
            match self.dial(now, place, errand) {
                Ok(id) => {
                    if let Some(Carrier::Asking(asks)) =
                        self.links.get_mut(&place).map(|link| &mut link.carrier)
                    {
                        match errand {
                            Errand::Poll => asks.poll = Some(id),
                            _ => asks.post = Some(id),
                        }
                    }
                }
                Err(error) => return self.failed_at_once(now, place, &error),
            }
        }
    }

    fn failed_at_once(&mut self, now: Instant, place: Place, error: &io::Error) {
        tracing::debug!(%place, %error, "cannot connect");
        self.counters.dial_failed += 1;
        let Some(link) = self.links.get_mut(&place) else {
            return;
        };
        self.counters.dropped_packets += link.outbox.clear();
        link.failures = link.failures.saturating_add(1);
        let pause = super::RETRY * 2u32.pow(link.failures.saturating_sub(1).min(8));
        link.retry_at = Some(now + pause.min(super::MAX_RETRY));
        if let Carrier::Asking(asks) = std::mem::replace(&mut link.carrier, Carrier::Nothing) {
            for id in [asks.post, asks.poll].into_iter().flatten() {
                self.close(now, id, Closed::Idle);
            }
        }
    }

    /// A session of its own for each link: its number joins the two connections on the other side.
    fn asks(&self, place: Place) -> io::Result<Asks> {
        let mut number = [0; 16];
        SysRng
            .try_fill_bytes(&mut number)
            .map_err(io::Error::other)?;
        let name = self.names.get(&place);
        let path = name.and_then(|name| name.path.as_deref());
        let path = path
            .filter(|path| path.starts_with('/'))
            .unwrap_or(DEFAULT_PATH);
        let joint = if path.contains('?') { '&' } else { '?' };
        let number = u128::from_be_bytes(number);
        let host = match name.and_then(|name| name.host.clone()) {
            Some(host) => host,
            None => place.address().map(|at| at.to_string()).unwrap_or_default(),
        };
        Ok(Asks {
            target: format!("{path}{joint}s={number:032x}"),
            host,
            ..Asks::default()
        })
    }

    fn dial(&mut self, now: Instant, place: Place, errand: Errand) -> io::Result<usize> {
        let Some(address) = place.address() else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let transport = place.transport();
        let host = self.names.get(&place).and_then(|name| name.host.as_deref());
        let through = transport != Transport::Tcp && !self.config.except.covers(address.ip(), host);
        let proxy = self.config.proxy.filter(|_| through);
        let through_proxy = proxy.map(|_| match host {
            Some(host) => format!("{host}:{}", address.port()),
            None => address.to_string(),
        });
        let plan = Plan {
            through_proxy,
            tls: matches!(transport, Transport::Tls | Transport::Https),
            errand,
        };
        let to = proxy.unwrap_or(address);
        let mut conn = Conn::new(now, Pipe::dial(to)?, to, Role::Connecting(plan));
        conn.place = Some(place);
        self.counters.dialled += 1;
        self.take_in(conn)
    }

    /// Puts a connection into the table and has it watched.
    pub(super) fn take_in(&mut self, mut conn: Conn) -> io::Result<usize> {
        let entry = self.conns.vacant_entry();
        let id = entry.key();
        conn.interest = conn.wanted() & (EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        self.epoll
            .add(&conn.pipe, EpollEvent::new(conn.interest, id as u64))?;
        let due = conn.due();
        entry.insert(conn);
        self.due = Some(self.due.map_or(due, |at| at.min(due)));
        Ok(id)
    }

    /// The kernel has connected, or cannot.
    pub(super) fn connected(&mut self, now: Instant, id: usize) -> Result<(), Closed> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        if !conn.pipe.is_connected()? {
            return Ok(());
        }
        let Role::Connecting(plan) = &conn.role else {
            return Ok(());
        };
        let plan = plan.clone();
        match &plan.through_proxy {
            Some(authority) => {
                http::write_connect(&mut conn.output.bytes, authority);
                conn.role = Role::AskingProxy {
                    plan,
                    answer: Vec::new(),
                };
                conn.write(now)?;
                Ok(())
            }
            None => self.through(now, id, &plan, Vec::new()),
        }
    }

    /// The way to the other side is open: what the connection was dialled for begins.
    pub(super) fn through(
        &mut self,
        now: Instant,
        id: usize,
        plan: &Plan,
        early: Vec<u8>,
    ) -> Result<(), Closed> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        let place = conn.place;
        if plan.tls {
            let host = place
                .and_then(|place| self.names.get(&place))
                .and_then(|name| name.host.as_deref());
            let ip = place.map_or(conn.peer.ip(), |place| place.ip());
            conn.pipe.start_tls(self.tls.connect(ip, host)?, early);
        } else if !early.is_empty() {
            return Err(Closed::Protocol("bytes before the tunnel stands"));
        }
        conn.role = match plan.errand {
            Errand::Frames => Role::Framed(FrameDecoder::new()),
            errand => Role::Asking(Asking::new(errand)),
        };
        conn.active = now;
        // In TLS the handshake comes first; what goes behind it waits in its buffer.
        conn.write(now)?;
        Ok(())
    }
}

//! Packets through connections: framed TCP, TLS, HTTP, HTTPS (Anode 0.8 §2.9, A33, A34, D14, D15).
//!
//! ```text
//!   send(packets, place) ─▶ Link: Outbox ─▶ Conn: Output ─▶ Pipe (TLS?) ─▶ socket ─┐
//!                            ▲ dialled when needed                              one epoll
//!   each(packets, place) ◀── Group ◀── frames ◀── role (sniff, HTTP, proxy) ◀── Pipe ◀┘
//! ```
//!
//! A *link* is what is known of one [`Place`]; a *connection* serves one link, and an HTTP link is served by two: one is
//! always held open by the other side until packets wait (long poll), the other brings ours. One listener takes all kinds,
//! told apart by their first bytes. Nothing waits for a slow connection: its packets are datagrams, the oldest go.
mod accept;
mod config;
mod conn;
mod dial;
mod end;
mod flow;
mod http;
mod link;
mod outbox;
mod overdue;
pub(crate) mod pipe;
mod proxy;
mod serve;
mod tls;

#[cfg(test)]
mod tests;

pub use config::{ServedZone, StreamConfig, StreamCounters, StreamLimits};
pub use proxy::ProxyExcept;
pub use tls::TlsError;

use super::NetError;
use crate::anode::{Place, Received};
use crate::turn::server::Door;
use accept::Listener;
use conn::{Conn, Group, Role};
use link::{Asks, Carrier, Link};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use tls::Tls;

/// Bytes that go from an outbox to a connection at once: what is there can no longer be dropped.
const CHUNK: usize = 32 << 10;
/// Bytes read at once.
const READ: usize = 64 << 10;
/// Reads from one connection before the others have their turn.
const READS: usize = 8;
/// POSTs under way on one connection; each takes a round trip.
const POSTS: usize = 8;
/// Polls that wait on the other side, so that it can answer several times in one round trip.
const POLLS: usize = 4;
/// After a connection has failed, the next one is tried this much later, twice as much after each failure.
const RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// What a place is called where its address alone is not enough.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlaceName {
    /// Host name: the certificate must be good for it, and proxies and servers are told it.
    pub host: Option<String>,
    /// Path of an HTTP endpoint, with a leading slash.
    pub path: Option<String>,
}

/// All connections of a node, and the places that they lead to.
pub(super) struct Streams {
    epoll: Epoll,
    listeners: Vec<Listener>,
    conns: Slab<Conn>,
    links: HashMap<Place, Link>,
    /// HTTP sessions by the number that their requests carry.
    sessions: HashMap<u128, Place>,
    /// Connections that came in, by source network.
    inbound: HashMap<u64, usize>,
    names: HashMap<Place, PlaceName>,
    tls: Tls,
    zone: Option<ServedZone>,
    /// Ports that a TURN server shares.
    door: Option<Door>,
    config: StreamConfig,
    /// Links that have something to send.
    listed: Vec<Place>,
    /// Connections that have more to read than their turn allowed.
    again: Vec<usize>,
    /// Places whose connection has ended, for the node.
    gone: Vec<(Place, usize)>,
    /// Not later than this something is due.
    due: Option<Instant>,
    counters: StreamCounters,
    read: Vec<u8>,
    group: Group,
    events: Vec<EpollEvent>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the other side has ended it")]
    Ended,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] http::HttpError),
    #[error("{0}")]
    Frame(#[from] anode_wire::WireError),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("the other side does not speak as it should: {0}")]
    Protocol(&'static str),
    #[error("the proxy refuses with status {0}")]
    Proxy(u16),
    #[error("it took too long")]
    TooLong,
    #[error("it is of no more use")]
    Idle,
}

impl Streams {
    pub fn new(now: Instant, config: StreamConfig) -> Result<Self, NetError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|error| NetError::Streams(error.into()))?;
        let tls = Tls::new().map_err(|error| NetError::Streams(io::Error::other(error)))?;
        let mut streams = Self {
            epoll,
            listeners: Vec::new(),
            conns: Slab::new(),
            links: HashMap::new(),
            sessions: HashMap::new(),
            inbound: HashMap::new(),
            names: HashMap::new(),
            tls,
            zone: None,
            door: None,
            listed: Vec::new(),
            again: Vec::new(),
            gone: Vec::new(),
            due: None,
            counters: StreamCounters::default(),
            read: vec![0; READ],
            group: Group::default(),
            events: vec![EpollEvent::empty(); EVENTS],
            config,
        };
        for address in streams.config.listen.clone() {
            streams.listen(now, address)?;
        }
        Ok(streams)
    }

    /// Readable when any connection wants attention.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    pub fn counters(&self) -> StreamCounters {
        self.counters
    }

    /// Connections in all.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    pub fn set_served_zone(&mut self, zone: Option<ServedZone>) {
        self.zone = zone;
    }

    /// Connections to these ports may be a TURN server's clients.
    pub fn share_tls(&mut self, door: Door) {
        self.door = Some(door);
    }

    pub fn set_certificate(&mut self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.tls.set_certificate(chain, key)
    }

    /// What places are called, and no others any more; from the next connection on.
    pub fn set_names(&mut self, names: impl IntoIterator<Item = (Place, PlaceName)>) {
        // As many as there are places to dial.
        self.names = names.into_iter().take(self.config.limits.dialled).collect();
    }

    /// A place whose connection has ended since, and whether it was dialled.
    pub fn poll_gone(&mut self) -> Option<(Place, usize)> {
        self.gone.pop()
    }

    /// Connections have been left with something unread, which the descriptor does not tell again.
    pub fn has_more(&self) -> bool {
        !self.again.is_empty()
    }

    /// Takes what connections have brought. True if more is waiting.
    pub fn receive(&mut self, now: Instant, each: &mut dyn FnMut(Received<'_>)) -> bool {
        for id in std::mem::take(&mut self.again) {
            self.readable(now, id, each);
        }
        let mut events = std::mem::take(&mut self.events);
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or_default();
        for event in &events[..count] {
            let token = event.data();
            match accept::listener_of(token) {
                Some(index) => self.accept(now, index),
                None => self.ready(now, token as usize, event.events(), each),
            }
        }
        self.events = events;
        count == EVENTS || !self.again.is_empty()
    }

    fn ready(
        &mut self,
        now: Instant,
        id: usize,
        flags: EpollFlags,
        each: &mut dyn FnMut(Received<'_>),
    ) {
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        if flags.intersects(EpollFlags::EPOLLOUT | broken) {
            self.writable(now, id);
        }
        if flags.intersects(EpollFlags::EPOLLIN | broken) {
            self.readable(now, id, each);
        }
    }

    fn writable(&mut self, now: Instant, id: usize) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let result = match conn.role {
            Role::Connecting(_) => self.connected(now, id),
            _ => conn.write(now).map(drop).map_err(Closed::from),
        };
        self.settle(now, id, result);
    }

    /// After something has happened to a connection: it ends, or goes on with what waits for it.
    fn settle(&mut self, now: Instant, id: usize, result: Result<(), Closed>) {
        match result {
            Err(closed) => self.close(now, id, closed),
            Ok(()) => {
                let place = self.conns.get(id).and_then(|conn| conn.place);
                match place {
                    Some(place) => self.flush_link(now, place),
                    None => self.watch(id),
                }
            }
        }
    }

    /// Has epoll and the clock follow what a connection waits for.
    fn watch(&mut self, id: usize) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let wanted = conn.wanted();
        if wanted != conn.interest {
            let mut event = EpollEvent::new(wanted, id as u64);
            if self.epoll.modify(&conn.pipe, &mut event).is_ok() {
                conn.interest = wanted;
            }
        }
        let due = conn.due();
        self.due = Some(self.due.map_or(due, |at| at.min(due)));
    }
}

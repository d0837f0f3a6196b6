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
mod conn;
mod dial;
mod http;
mod outbox;
pub(crate) mod pipe;
mod serve;
mod tls;

#[cfg(test)]
mod tests;

pub use tls::TlsError;

use super::NetError;
use crate::anode::{Place, Received, TransmitBatch};
use accept::Listener;
use conn::{Conn, Errand, Group, IDLE, Role};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use outbox::Outbox;
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
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
/// An HTTP session without a connection is forgotten after this time.
const SESSION_FOR: Duration = Duration::from_secs(30);
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// Bounds of what strangers can make grow.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// Connections that came in.
    pub inbound: usize,
    /// Of these, from one IPv4 address or one IPv6 /64. HTTP takes two for each peer.
    pub inbound_per_network: usize,
    /// Places that this node has dialled, or wants to.
    pub dialled: usize,
    /// Bytes that wait for all connections together.
    pub waiting: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        // D14, and twice its number for each source, because of HTTP.
        Self {
            inbound: 256,
            inbound_per_network: 16,
            dialled: 256,
            waiting: 16 << 20,
        }
    }
}

/// What the node is told about its connections at its start.
#[derive(Clone, Debug, Default)]
pub struct StreamConfig {
    /// Where connections of all kinds are accepted.
    pub listen: Vec<SocketAddr>,
    /// An HTTP proxy that TLS, HTTP and HTTPS go through, by CONNECT; framed TCP always goes straight.
    pub proxy: Option<SocketAddr>,
    /// Bounds.
    pub limits: StreamLimits,
}

/// A file that `GET /z` gives: the zone file (A8, A9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServedZone {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// When it was last changed, to the second.
    pub modified: SystemTime,
}

macro_rules! stream_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the connections since the start.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct StreamCounters { $($(#[$doc])* pub $name: u64,)* }
        impl StreamCounters {
            /// All of them with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

stream_counters! {
    /// Connections that came in.
    accepted,
    /// Of these, refused: too many in all or from one source.
    refused,
    /// Connections dialled.
    dialled,
    /// Dialled ones that never stood.
    dial_failed,
    /// Closed for what the other side sent: an impossible frame, no HTTP.
    malformed,
    /// Closed because something took too long.
    timed_out,
    /// Packets received.
    rx_packets,
    /// Packets dropped because newer ones waited behind them, or their connection was gone.
    dropped_packets,
    /// Packets to a place that just failed, or that cannot be dialled.
    dropped_unreachable,
    /// Requests for a file.
    files,
}

/// One place that packets go to or come from.
struct Link {
    outbox: Outbox,
    carrier: Carrier,
    /// The other side has dialled: when its connection ends, nobody is there any more.
    accepted: bool,
    /// When a packet last came or went.
    active: Instant,
    failures: u32,
    retry_at: Option<Instant>,
    /// It stands in the list of those that have something to send.
    listed: bool,
}

/// What carries the packets of a link.
enum Carrier {
    /// Nothing at the moment.
    Nothing,
    /// One connection with frames.
    Frames(usize),
    /// We ask: a connection for our packets, and one that is held.
    Asking(Asks),
    /// The other side asks, over these connections.
    Serving(Vec<usize>),
}

#[derive(Default)]
struct Asks {
    post: Option<usize>,
    poll: Option<usize>,
    /// What stands in the requests; it names the session.
    target: String,
    host: String,
}

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

    pub fn set_certificate(&mut self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.tls.set_certificate(chain, key)
    }

    /// What a place is called; from the next connection on.
    pub fn set_name(&mut self, place: Place, name: PlaceName) {
        // As many as there are places to dial.
        if self.names.len() < self.config.limits.dialled || self.names.contains_key(&place) {
            self.names.insert(place, name);
        }
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

    /// Takes a batch for a place that is no UDP endpoint. `socket`: see [`Place::DIALLED`]. Returns how many packets were
    /// refused at once.
    pub fn send(&mut self, now: Instant, batch: &TransmitBatch) -> usize {
        let place = batch.destination.to;
        if !self.open_link(now, place, batch.destination.socket) {
            self.counters.dropped_unreachable += batch.segments() as u64;
            return batch.segments();
        }
        let Some(link) = self.links.get_mut(&place) else {
            return batch.segments();
        };
        for packet in batch.packets() {
            self.counters.dropped_packets += link.outbox.push(packet);
        }
        link.active = now;
        if !std::mem::replace(&mut link.listed, true) {
            self.listed.push(place);
        }
        0
    }

    /// Hands to the connections what they take.
    pub fn flush(&mut self, now: Instant) {
        for place in std::mem::take(&mut self.listed) {
            if let Some(link) = self.links.get_mut(&place) {
                link.listed = false;
            }
            self.flush_link(now, place);
        }
    }

    fn flush_link(&mut self, now: Instant, place: Place) {
        let Some(link) = self.links.get_mut(&place) else {
            return;
        };
        let ids: Vec<usize> = match &link.carrier {
            Carrier::Nothing => return,
            Carrier::Frames(id) => vec![*id],
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            Carrier::Serving(ids) => ids.clone(),
        };
        for id in ids {
            let result = self.fill(now, place, id);
            match result {
                Err(closed) => self.close(now, id, closed),
                Ok(()) => self.watch(id),
            }
        }
        self.reopen(now, place);
    }

    /// Moves packets from the outbox of a link into one of its connections, as long as that takes them.
    fn fill(&mut self, now: Instant, place: Place, id: usize) -> Result<(), Closed> {
        let (Some(conn), Some(link)) = (self.conns.get_mut(id), self.links.get_mut(&place)) else {
            return Ok(());
        };
        if matches!(conn.role, Role::Connecting(_)) {
            return Ok(());
        }
        loop {
            if !conn.write(now)? {
                return Ok(());
            }
            let out = &mut conn.output.bytes;
            let wrote = match &mut conn.role {
                Role::Framed(_) => link.outbox.take(CHUNK, out) > 0,
                Role::Asking(asking) => {
                    let Carrier::Asking(asks) = &link.carrier else {
                        return Err(Closed::Idle);
                    };
                    let length = link.outbox.fitting(CHUNK);
                    let wanted = match asking.errand {
                        Errand::Poll => asking.open.len() < POLLS && asking.pause.is_none(),
                        _ => length > 0 && asking.open.len() < POSTS,
                    };
                    let length = if asking.errand == Errand::Poll {
                        0
                    } else {
                        length
                    };
                    if wanted {
                        asking.open.push_back(now);
                        http::write_post(out, &asks.target, &asks.host, length);
                        if length > 0 {
                            link.outbox.take(CHUNK, out);
                        }
                    }
                    wanted
                }
                Role::Serving(serving) => serve::answer(now, serving, &mut link.outbox, out),
                _ => false,
            };
            if !wrote {
                return match &conn.role {
                    Role::Serving(serving) if serving.last && serving.owed.is_empty() => {
                        Err(Closed::Ended)
                    }
                    _ => Ok(()),
                };
            }
            conn.active = now;
            conn.answered = true;
        }
    }

    /// When something takes too long, or a poll must be answered.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|at| (at, "connections"))
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<usize> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.due() <= now)
            .map(|(id, _)| id)
            .collect();
        for id in due {
            self.overdue(now, id);
        }
        let idle: Vec<Place> = self
            .links
            .iter()
            .filter(|(_, link)| link.due() <= now)
            .map(|(place, _)| *place)
            .collect();
        for place in idle {
            self.drop_link(now, place);
        }
        self.due = self.conns.iter().map(|(_, conn)| conn.due()).min();
        let links = self.links.values().map(Link::due).min();
        self.due = [self.due, links].into_iter().flatten().min();
    }

    fn overdue(&mut self, now: Instant, id: usize) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let place = conn.place;
        match &conn.role {
            // Held for as long as polls are held: it is answered with nothing.
            Role::Serving(serving) if serving.owed.front().is_some_and(|owed| owed.by <= now) => {
                if let Some(place) = place {
                    self.flush_link(now, place);
                }
                if self.conns.get(id).is_some_and(|conn| conn.due() <= now) {
                    self.counters.timed_out += 1;
                    self.close(now, id, Closed::TooLong);
                }
            }
            Role::Asking(asking) if asking.pause.is_some_and(|at| at <= now) => {
                if let Some(Role::Asking(asking)) =
                    self.conns.get_mut(id).map(|conn| &mut conn.role)
                {
                    asking.pause = None;
                }
                if let Some(place) = place {
                    self.flush_link(now, place);
                }
            }
            _ => {
                let idle = now.duration_since(conn.active) >= IDLE;
                self.counters.timed_out += u64::from(!idle);
                self.close(now, id, if idle { Closed::Idle } else { Closed::TooLong });
            }
        }
    }

    /// Nothing has gone this way for long: the next packet dials anew.
    fn drop_link(&mut self, now: Instant, place: Place) {
        let Some(link) = self.links.get(&place) else {
            return;
        };
        let ids: Vec<usize> = match &link.carrier {
            Carrier::Nothing => Vec::new(),
            Carrier::Frames(id) => vec![*id],
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            Carrier::Serving(ids) => ids.clone(),
        };
        let accepted = link.accepted;
        for id in ids {
            self.close(now, id, Closed::Idle);
        }
        if let Some(mut link) = self.links.remove(&place) {
            self.counters.dropped_packets += link.outbox.clear();
            self.sessions.retain(|_, at| *at != place);
            if accepted {
                self.gone.push((place, Place::ACCEPTED));
            }
        }
    }

    fn close(&mut self, now: Instant, id: usize, closed: Closed) {
        let Some(mut conn) = self.conns.try_remove(id) else {
            return;
        };
        tracing::debug!(peer = %conn.peer, place = ?conn.place, reason = %closed, "connection closed");
        if matches!(
            closed,
            Closed::Http(_) | Closed::Frame(_) | Closed::Protocol(_)
        ) {
            self.counters.malformed += 1;
        }
        let stood = !matches!(conn.role, Role::Connecting(_) | Role::AskingProxy { .. });
        if conn.network.is_none() && !stood {
            self.counters.dial_failed += 1;
        }
        if let Some(network) = conn.network
            && let Some(count) = self.inbound.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.inbound.remove(&network);
            }
        }
        let _ = conn.write(now);
        let _ = self.epoll.delete(&conn.pipe);
        let place = conn.place;
        let worked = conn.brought;
        conn.pipe.close();
        if let Some(place) = place {
            self.lose(now, place, id, worked, &closed);
        }
    }

    /// A link has lost a connection.
    fn lose(&mut self, now: Instant, place: Place, id: usize, worked: bool, closed: &Closed) {
        let Some(link) = self.links.get_mut(&place) else {
            return;
        };
        match &mut link.carrier {
            Carrier::Nothing => return,
            Carrier::Frames(known) if *known == id => {}
            Carrier::Frames(_) => return,
            Carrier::Asking(asks) => {
                let was = [&mut asks.post, &mut asks.poll]
                    .into_iter()
                    .find(|slot| **slot == Some(id));
                let Some(slot) = was else { return };
                *slot = None;
                // A server may end a connection that it has answered on; the next one is dialled at once.
                if worked && matches!(closed, Closed::Ended) {
                    if !std::mem::replace(&mut link.listed, true) {
                        self.listed.push(place);
                    }
                    return;
                }
            }
            Carrier::Serving(ids) => {
                ids.retain(|known| *known != id);
                // A session outlives its connections for a moment.
                if !ids.is_empty() || self.sessions.values().any(|at| *at == place) {
                    let due = link.due();
                    self.due = Some(self.due.map_or(due, |at| at.min(due)));
                    return;
                }
            }
        }
        if link.accepted {
            self.counters.dropped_packets += link.outbox.clear();
            self.links.remove(&place);
            self.gone.push((place, Place::ACCEPTED));
            return;
        }
        if matches!(closed, Closed::Idle) {
            if !matches!(&link.carrier, Carrier::Asking(asks) if asks.post.or(asks.poll).is_some())
            {
                link.carrier = Carrier::Nothing;
            }
            return;
        }
        // Old packets are worth nothing on a new connection.
        self.counters.dropped_packets += link.outbox.clear();
        link.failures = if worked {
            1
        } else {
            link.failures.saturating_add(1)
        };
        let pause = RETRY * 2u32.pow(link.failures.saturating_sub(1).min(8));
        link.retry_at = Some(now + pause.min(MAX_RETRY));
        let others: Vec<usize> = match std::mem::replace(&mut link.carrier, Carrier::Nothing) {
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        if worked {
            self.gone.push((place, Place::DIALLED));
        }
        for other in others {
            self.close(now, other, Closed::Idle);
        }
    }
}

impl Link {
    fn new(now: Instant, carrier: Carrier, accepted: bool) -> Self {
        Self {
            outbox: Outbox::default(),
            carrier,
            accepted,
            active: now,
            failures: 0,
            retry_at: None,
            listed: false,
        }
    }

    /// When it is forgotten, if no packet comes or goes until then.
    fn due(&self) -> Instant {
        let abandoned = matches!(&self.carrier, Carrier::Serving(ids) if ids.is_empty());
        self.active + if abandoned { SESSION_FOR } else { IDLE }
    }
}

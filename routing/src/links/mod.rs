//! RELOAD's own links: DTLS over UDP and TLS over TCP, to peers that a session of ours does not reach (reload.md §1.19, R138).
//!
//! ```text
//!   the DHT ── dial, offer, answer, start, send ──▶ Links ──▶ LinkEvent: up, message, down, described
//!                                                     │
//!                              dtls: Conversation (dimpl)    tls: Stream (rustls)
//!                                                     │             │ what a listener hands over
//!                              ice::Sessions: checks, sockets, TURN ┘
//! ```
//!
//! Over a pair that ICE has found, UDP or TCP, DTLS runs; its records are the frames of the latter. TLS is for bare
//! connections (`tls://`). Both sides always show certificates; with a shared key there is DTLS only, and no certificate.
//!
//! Nothing here waits: whoever owns [`Links`] waits for its descriptors, as [`run`] does on a thread of its own.

mod connect;
mod dtls;
mod group;
mod moves;
mod runner;
mod secret;
mod tls;

use crate::ice::{Data, Event as IceEvent, Path, Protocol, RelayServer, SessionId, Sessions};
use anode_reload::Id;
use anode_reload::body::ConnectBody;
use anode_reload::security::Certificate;
use connect::Connects;
use dtls::{Conversation, Said};
use group::Groups;
use nix::poll::{PollFd, PollFlags};
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use tls::Stream;

pub use runner::{Command, LinksHandle, run};
pub use secret::{LinkSecurity, SecurityError};

/// Links at a time.
const MAX_LINKS: usize = 1024;
/// Of these, such as have proven nothing yet; the oldest makes room.
const MAX_HALF_OPEN: usize = 128;
/// Events that wait to be taken.
const MAX_EVENTS: usize = 8192;
/// A link that is being made has so long.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Names a link.
pub type LinkKey = u64;
/// Names a CONNECT; whoever asks for it chooses.
pub type Token = u64;

/// Where a peer may be asked without more ado.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// DTLS over UDP.
    Dtls(SocketAddr),
    /// TLS over TCP.
    Tls(SocketAddr),
}

/// How a link came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// We have dialled.
    Dialled(Target),
    /// By a CONNECT.
    Connected(Token),
    /// Somebody has dialled us.
    Accepted,
}

/// What carries a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkTransport {
    /// DTLS: datagrams.
    Dtls,
    /// TLS: a stream.
    Tls,
}

/// What has come of links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// A link stands.
    Up {
        /// Which.
        link: LinkKey,
        /// Who is there. `None`: a shared key does not say; the first answer will.
        peer: Option<Id>,
        /// How it was made.
        made: Made,
        /// What carries it.
        transport: LinkTransport,
        /// Where the other side is, as packets show it.
        at: SocketAddr,
        /// Where it may be dialled another time, as far as that is known.
        listens: Option<Target>,
    },
    /// A RELOAD message.
    Message {
        /// Over which link.
        link: LinkKey,
        /// It.
        bytes: Vec<u8>,
    },
    /// A link is no more.
    Down {
        /// Which.
        link: LinkKey,
    },
    /// There will be no link to this place.
    DialFailed {
        /// Which place.
        target: Target,
        /// Why, for people.
        why: String,
    },
    /// Our side of a CONNECT, to be sent.
    Described {
        /// Which CONNECT.
        token: Token,
        /// Our side.
        body: ConnectBody,
    },
    /// A CONNECT leads to no link.
    ConnectFailed {
        /// Which.
        token: Token,
        /// Why, for people.
        why: String,
    },
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Links for which there was no room.
    pub refused: u64,
    /// Handshakes that failed: wrong certificates, wrong keys, silence.
    pub handshakes_failed: u64,
    /// Links that fell silent.
    pub lost: u64,
    /// Datagrams of strangers that begin no handshake.
    pub ignored: u64,
    /// Messages for links that are no more, or too full.
    pub unsent: u64,
    /// Events that nobody took in time.
    pub events_dropped: u64,
}

/// The links of one overlay.
pub struct Links {
    ice: Sessions,
    security: LinkSecurity,
    stun: Vec<SocketAddr>,
    relays: Vec<RelayServer>,
    conversations: Slab<Conversation>,
    by_path: HashMap<Path, usize>,
    streams: Slab<Stream>,
    connects: Connects,
    groups: Groups,
    next: LinkKey,
    events: VecDeque<LinkEvent>,
    counters: Counters,
}

impl Links {
    /// On the sockets of `ice`; `stun` and `relays` are asked for more candidates.
    pub fn new(
        now: Instant,
        ice: Sessions,
        security: LinkSecurity,
        stun: Vec<SocketAddr>,
        relays: Vec<RelayServer>,
    ) -> Self {
        let mut links = Self {
            ice,
            security,
            stun,
            relays,
            conversations: Slab::new(),
            by_path: HashMap::new(),
            streams: Slab::new(),
            connects: Connects::default(),
            groups: Groups::default(),
            next: 0,
            events: VecDeque::new(),
            counters: Counters::default(),
        };
        links.gather(now);
        links
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ice.endpoint().addresses().collect()
    }

    /// Asks for a link; [`LinkEvent::Up`] or [`LinkEvent::DialFailed`] follows.
    pub fn dial(&mut self, now: Instant, target: Target) {
        if self.is_full() {
            self.counters.refused += 1;
            return self.dial_failed(target, "there are too many links");
        }
        let made = Made::Dialled(target);
        match target {
            Target::Dtls(to) => {
                let fits = |local: &SocketAddr| {
                    let family = local.is_ipv4() == to.is_ipv4();
                    family && local.ip().is_loopback() == to.ip().is_loopback()
                };
                let local = self.ice.endpoint().addresses().find(fits);
                let Some(local) = local else {
                    return self.dial_failed(target, "there is no socket of this family");
                };
                let path = Path {
                    protocol: Protocol::Udp,
                    local,
                    remote: to,
                };
                if self.by_path.contains_key(&path) {
                    return self
                        .dial_failed(target, "there is a link already, or it is being made");
                }
                match self.security.dtls(now, true) {
                    Ok(dtls) => {
                        let key = self.key();
                        let new = Conversation::new(now, key, path, made, dtls, true);
                        self.insert(now, new);
                    }
                    Err(error) => self.dial_failed(target, &error.to_string()),
                }
            }
            Target::Tls(to) => {
                let key = self.key();
                match Stream::dial(now, key, to, &self.security) {
                    Ok(stream) => drop(self.streams.insert(stream)),
                    Err(error) => self.dial_failed(target, &error.to_string()),
                }
            }
        }
    }

    /// Shows another certificate for the same key and Peer-ID from now on. Links that stand were proven by the old one and
    /// stay; a CONNECT that has named the old one's fingerprint fails, and is repeated like any other.
    pub fn renew(&mut self, certificate: Certificate) {
        match self.security.renewed(certificate) {
            Ok(renewed) => self.security = renewed,
            Err(error) => tracing::warn!("links of the DHT: {error}"),
        }
    }

    /// Sends a message. False: there is no such link, or no room; it is lost.
    pub fn send(&mut self, now: Instant, link: LinkKey, bytes: &[u8]) -> bool {
        let mut conversations = self.conversations.iter_mut();
        let found = conversations.find(|(_, it)| it.key == link);
        let sent = match found.map(|(at, _)| at) {
            Some(at) => {
                let taken = self.conversations[at].send(bytes);
                self.settle(now, at);
                taken
            }
            None => {
                let mut streams = self.streams.iter_mut();
                let stream = streams.find(|(_, it)| it.key == link);
                stream.is_some_and(|(_, stream)| stream.send(bytes))
            }
        };
        self.counters.unsent += u64::from(!sent);
        sent
    }

    /// Ends a link, without an event.
    pub fn close(&mut self, now: Instant, link: LinkKey) {
        let mut conversations = self.conversations.iter();
        if let Some((at, _)) = conversations.find(|(_, it)| it.key == link) {
            self.conversations[at].close(now);
            self.flush(now, at);
            self.remove(at);
        }
        let mut streams = self.streams.iter();
        if let Some((at, _)) = streams.find(|(_, it)| it.key == link) {
            self.streams.remove(at).close();
        }
    }

    /// What to wait for.
    pub fn fds<'a>(&'a self, all: &mut Vec<PollFd<'a>>) {
        self.ice.fds(all);
        self.streams.iter().for_each(|(_, it)| all.push(it.fd()));
        let groups = self.groups.sockets().iter();
        all.extend(groups.map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
    }

    /// When [`Links::work`] wants to be called although nothing came.
    pub fn deadline(&mut self) -> Option<Instant> {
        let own = self.ice.deadline();
        let dtls = self.conversations.iter().map(|(_, it)| it.deadline());
        let tls = self.streams.iter().filter_map(|(_, it)| it.deadline());
        let connects = self.connects.deadline();
        let all = dtls.chain(tls).chain(own).chain(connects);
        all.chain(self.groups.deadline()).min()
    }

    /// Takes what has come and does what is due.
    pub fn work(&mut self, now: Instant) {
        self.ice.work(now);
        while let Some(data) = self.ice.poll_data() {
            self.handle(now, data);
        }
        while let Some(event) = self.ice.poll_event() {
            self.handle_ice(now, event);
        }
        while let Some(handed) = self.ice.endpoint_mut().poll_handed() {
            if self.is_full() || !self.make_room() {
                self.counters.refused += 1;
                continue;
            }
            let key = self.key();
            match Stream::accept(now, key, handed, &self.security) {
                Ok(stream) => drop(self.streams.insert(stream)),
                Err(_) => self.counters.handshakes_failed += 1,
            }
        }
        self.work_streams(now);
        self.run_conversations(now);
        self.run_connects(now);
        self.work_groups(now);
    }

    /// What has come of it all.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Ends all: links are closed, allocations given back.
    pub fn shut(&mut self, now: Instant) {
        for at in 0..self.conversations.capacity() {
            if self.conversations.contains(at) {
                self.conversations[at].close(now);
                self.flush(now, at);
            }
        }
        for (_, stream) in std::mem::take(&mut self.streams) {
            stream.close();
        }
        self.ice.endpoint_mut().shut(now);
    }

    fn gather(&mut self, now: Instant) {
        self.ice.gather(now, &self.stun, &self.relays);
    }

    fn key(&mut self) -> LinkKey {
        self.next += 1;
        self.next
    }

    fn event(&mut self, event: LinkEvent) {
        match self.events.len() < MAX_EVENTS {
            true => self.events.push_back(event),
            false => self.counters.events_dropped += 1,
        }
    }

    fn dial_failed(&mut self, target: Target, why: &str) {
        let why = why.to_owned();
        self.event(LinkEvent::DialFailed { target, why });
    }

    fn is_full(&self) -> bool {
        self.conversations.len() + self.streams.len() >= MAX_LINKS
    }

    /// Strangers who have begun something and not gone on make room for others.
    fn make_room(&mut self) -> bool {
        let half = self
            .conversations
            .iter()
            .filter(|(_, it)| it.is_half_open());
        let streams = self.streams.iter().filter(|(_, it)| it.is_half_open());
        if half.clone().count() + streams.clone().count() < MAX_HALF_OPEN {
            return true;
        }
        let oldest = half.map(|(at, it)| (it.since, at)).min();
        let oldest_stream = streams.map(|(at, it)| (it.since, at)).min();
        match (oldest, oldest_stream) {
            (Some((since, at)), stream) if stream.is_none_or(|(other, _)| since <= other) => {
                self.remove(at);
            }
            (_, Some((_, at))) => drop(self.streams.remove(at)),
            _ => return false,
        }
        self.counters.handshakes_failed += 1;
        true
    }

    fn insert(&mut self, now: Instant, conversation: Conversation) {
        let path = conversation.path;
        let at = self.conversations.insert(conversation);
        self.by_path.insert(path, at);
        self.settle(now, at);
    }

    fn remove(&mut self, at: usize) -> Conversation {
        let gone = self.conversations.remove(at);
        self.by_path.retain(|_, other| *other != at);
        if let Some(session) = gone.session {
            self.ice.end(session);
        }
        gone
    }

    fn handle(&mut self, now: Instant, data: Data) {
        let Data {
            session,
            path,
            bytes,
        } = data;
        let known = self.by_path.get(&path).copied();
        // The other side may have chosen another pair of the session than we.
        let known = known.or_else(|| {
            let session = session?;
            let mut all = self.conversations.iter();
            let at = all.find(|(_, it)| it.session == Some(session))?.0;
            self.by_path.insert(path, at);
            Some(at)
        });
        if let Some(at) = known {
            if self.conversations[at].collides(&bytes) {
                // The lower address yields; both see the same two, unless a NAT is between, and then they do not collide.
                if path.local > path.remote {
                    return;
                }
                if let Ok(begun) = self.security.dtls(now, false) {
                    self.conversations[at].yield_to(begun);
                    self.conversations[at].handle_timeout(now);
                }
            }
            self.conversations[at].handle(now, &bytes);
            return self.settle(now, at);
        }
        if path.protocol == Protocol::Udp && self.groups.is_answer(&bytes) {
            return self.dial(now, Target::Dtls(path.remote));
        }
        if !dtls::begins(&bytes) || self.is_full() || !self.make_room() {
            self.counters.ignored += 1;
            return;
        }
        let made = match session {
            None if path.protocol == Protocol::Tcp => {
                self.counters.ignored += 1;
                return;
            }
            None => Made::Accepted,
            // Before the answer has come, nobody is expected.
            Some(session) => match self.connects.token_of(session) {
                Some(token) if self.connects.expected(session).is_some() => Made::Connected(token),
                _ => return,
            },
        };
        if let Ok(dtls) = self.security.dtls(now, false) {
            let key = self.key();
            let mut new = Conversation::new(now, key, path, made, dtls, false);
            new.session = session;
            new.expect = session.and_then(|session| self.connects.expected(session));
            new.handle(now, &bytes);
            self.insert(now, new);
        }
    }

    fn handle_ice(&mut self, now: Instant, event: IceEvent) {
        match event {
            IceEvent::Selected { session, path } => self.selected(now, session, path),
            IceEvent::Failed(session) => {
                if let Some(token) = self.connects.take(session) {
                    self.connect_failed(token, "no pair of candidates works");
                }
            }
            IceEvent::Lost(session) => self.lost(session),
        }
    }

    fn lost(&mut self, session: SessionId) {
        self.connects.take(session);
        let mut all = self.conversations.iter();
        if let Some((at, _)) = all.find(|(_, it)| it.session == Some(session)) {
            let gone = self.remove(at);
            self.counters.lost += 1;
            self.over(&gone, "the way to the peer is lost");
        }
    }

    /// Tells of a conversation that has ended.
    fn over(&mut self, gone: &Conversation, why: &str) {
        if gone.is_up() {
            return self.event(LinkEvent::Down { link: gone.key });
        }
        self.counters.handshakes_failed += 1;
        match gone.made {
            Made::Dialled(target) => self.dial_failed(target, why),
            Made::Connected(token) => {
                self.connects.done(token);
                self.connect_failed(token, why);
            }
            Made::Accepted => {}
        }
    }

    /// Sends what a conversation has to send, and hears what it has to say.
    fn settle(&mut self, now: Instant, at: usize) {
        loop {
            let said = self.conversations[at].poll(now, &self.security);
            let conversation = &self.conversations[at];
            match said {
                Some(Said::Send(path, bytes)) => {
                    self.ice.send(now, path, &bytes);
                }
                Some(Said::Up(peer)) => {
                    let listens = match conversation.made {
                        Made::Dialled(target) => Some(target),
                        Made::Connected(token) => {
                            let tls = self.security.has_certificates();
                            let listens = self.connects.listening(token, conversation.path, tls);
                            self.connects.done(token);
                            listens
                        }
                        Made::Accepted => None,
                    };
                    let event = LinkEvent::Up {
                        link: conversation.key,
                        peer,
                        made: conversation.made,
                        transport: LinkTransport::Dtls,
                        at: conversation.path.remote,
                        listens,
                    };
                    self.event(event);
                }
                Some(Said::Message(bytes)) => {
                    let link = conversation.key;
                    self.event(LinkEvent::Message { link, bytes });
                }
                Some(Said::Over(why)) => {
                    let gone = self.remove(at);
                    return self.over(&gone, &why);
                }
                None => return,
            }
        }
    }

    /// Sends what is left, whatever else it says.
    fn flush(&mut self, now: Instant, at: usize) {
        while let Some(said) = self.conversations[at].poll(now, &self.security) {
            match said {
                Said::Send(path, bytes) => drop(self.ice.send(now, path, &bytes)),
                Said::Over(_) => return,
                _ => {}
            }
        }
    }

    fn run_conversations(&mut self, now: Instant) {
        let due = self.conversations.iter();
        let due = due.filter(|(_, it)| it.deadline() <= now);
        let due: Vec<usize> = due.map(|(at, _)| at).collect();
        for at in due {
            self.conversations[at].handle_timeout(now);
            self.settle(now, at);
        }
    }

    fn work_streams(&mut self, now: Instant) {
        let (mut over, mut events) = (Vec::new(), Vec::new());
        for (at, stream) in &mut self.streams {
            if let Err(why) = stream.work(now, &self.security, &mut |event| events.push(event)) {
                over.push((at, why));
            }
        }
        events.into_iter().for_each(|event| self.event(event));
        for (at, why) in over {
            let gone = self.streams.remove(at);
            if gone.is_up() {
                self.event(LinkEvent::Down { link: gone.key });
                continue;
            }
            self.counters.handshakes_failed += 1;
            if let Made::Dialled(target) = gone.made {
                self.dial_failed(target, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests;

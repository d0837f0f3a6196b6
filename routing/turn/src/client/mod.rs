//! The client: one logical allocation on one server at a time, through redirects and fresh starts.
//!
//! ```text
//!   start ─▶ Allocating ─▶ Ready ─ refreshes, permissions, channels, connections ─▶ close ─▶ Ended
//!              │  300 ─▶ Event::Redirect ─▶ restart      ChannelBind 400 ─▶ Leaving ─▶ Allocating
//!              │  437 ─▶ Event::NewSocket ─▶ restart
//!              └▶ Event::Ended { why, not_before }
//!   send:   queue ─ until the permission stands ─▶ Send indication ─ until the channel stands ─▶ ChannelData
//!   handle: answers ─▶ events;   Data, ChannelData ─ only of permitted peers ─▶ a range of the caller's bytes
//! ```

mod answers;
mod auth;
mod binding;
mod channels;
mod data;
mod interface;
mod requests;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

pub use binding::Binding;
pub use data::{Outgoing, Received};
pub use interface::{Config, Counters, Credentials, Event, Families, MakePassword, PortWish, Why};
pub use stream::{BindStep, PeerStream};

use crate::rto::Estimator;
use crate::stun::{Class, Writer, method};
use auth::Challenge;
use channels::Channels;
use data::Queue;
use requests::{Request, Transaction};

/// What the client is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Not started, or waiting for a new socket or server.
    Idle,
    Allocating,
    Ready(Allocation),
    /// Giving the allocation back; `again`: to make a new one.
    Leaving {
        again: bool,
    },
    Ended,
}

/// The allocation that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allocation {
    relayed: Vec<SocketAddr>,
    refresh_at: Instant,
    expires: Instant,
}

/// See the module.
pub struct Client {
    config: Config,
    server: SocketAddr,
    state: State,
    random: StdRng,
    estimator: Estimator,
    challenge: Option<Challenge>,
    transactions: Vec<Transaction>,
    waiting: VecDeque<requests::Waiting>,
    /// Requests that are to be asked again at a time (T41).
    later: Vec<(Instant, Request, u32)>,
    permissions: HashMap<IpAddr, Permission>,
    channels: Channels,
    queue: Queue,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    counters: Counters,
    dont_fragment: bool,
    /// Servers tried, and when (T29).
    tried: Vec<(SocketAddr, Instant)>,
    /// Servers that want no Allocate before a time (T19, T42).
    barred: Vec<(SocketAddr, Instant)>,
    /// 437s to Allocate from different ports.
    mismatches: u32,
    fresh_starts: u32,
    last_sent: Instant,
}

/// A peer that is to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    Wanted,
    /// Stands until `expires`; asked again at `refresh_at`, which is `None` while that is under way.
    Stands {
        expires: Instant,
        refresh_at: Option<Instant>,
    },
}

/// RFC 8489 §6.2.1: requests to one server at a time.
const OUTSTANDING: usize = 10;
/// Servers remembered.
const REMEMBERED: usize = 32;
/// RFC 8489 §10.
const REDIRECT_GUARD: Duration = Duration::from_secs(300);

impl Client {
    /// A client for this server. `seed`: 32 random bytes.
    #[must_use]
    pub fn new(now: Instant, config: Config, server: SocketAddr, seed: [u8; 32]) -> Self {
        Self {
            dont_fragment: config.dont_fragment,
            queue: Queue::new(config.queue),
            config,
            server,
            state: State::Idle,
            random: StdRng::from_seed(seed),
            estimator: Estimator::default(),
            challenge: None,
            transactions: Vec::new(),
            waiting: VecDeque::new(),
            later: Vec::new(),
            permissions: HashMap::new(),
            channels: Channels::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            tried: Vec::new(),
            barred: Vec::new(),
            mismatches: 0,
            fresh_starts: 0,
            last_sent: now,
        }
    }

    /// Asks for an allocation. Nothing happens while one is there or asked for.
    ///
    /// # Errors
    /// The time before which this server wants no Allocate (T19, T42).
    pub fn start(&mut self, now: Instant) -> Result<(), Instant> {
        self.barred.retain(|(_, until)| now < *until);
        if let Some((_, until)) = self
            .barred
            .iter()
            .find(|(server, _)| *server == self.server)
        {
            return Err(*until);
        }
        if matches!(self.state, State::Idle | State::Ended) {
            self.remember(now);
            self.state = State::Allocating;
            self.ask(now, Request::Allocate);
        }
        Ok(())
    }

    /// Starts again after [`Event::Redirect`] or [`Event::NewSocket`], from a new socket, perhaps to another server.
    ///
    /// # Errors
    /// As [`Client::start`].
    pub fn restart(&mut self, now: Instant, server: SocketAddr) -> Result<(), Instant> {
        self.set_server(server);
        self.start(now)
    }

    /// The server that the next [`Client::start`] asks, where its connection takes a while to stand.
    pub fn set_server(&mut self, server: SocketAddr) {
        if server != self.server {
            self.server = server;
            self.challenge = None;
            self.estimator = Estimator::default();
            self.mismatches = 0;
        }
    }

    fn remember(&mut self, now: Instant) {
        self.tried
            .retain(|(server, at)| *server != self.server && now < *at + REDIRECT_GUARD);
        if self.tried.len() >= REMEMBERED {
            self.tried.remove(0);
        }
        self.tried.push((self.server, now));
    }

    /// Gives the allocation back. [`Event::Ended`] follows.
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Ready(_) => self.leave(now, false),
            State::Leaving { .. } => self.state = State::Leaving { again: false },
            State::Ended => {}
            State::Idle | State::Allocating => self.end(Why::Closed, None),
        }
    }

    /// Lets a peer in, without sending anything (T40). The permission is kept up until [`Client::forget`].
    /// `false` if there are too many already.
    pub fn permit(&mut self, now: Instant, peer: IpAddr) -> bool {
        if let Some(permission) = self.permissions.get_mut(&peer) {
            // One that was let go is kept up again; one that is being renewed is at most asked for twice.
            if let Permission::Stands {
                expires,
                refresh_at: refresh_at @ None,
            } = permission
            {
                *refresh_at = Some((*expires - Duration::from_secs(60)).max(now));
            }
            return true;
        }
        if self.permissions.len() >= self.config.peers {
            return false;
        }
        self.permissions.insert(peer, Permission::Wanted);
        if matches!(self.state, State::Ready(_)) {
            self.ask(now, Request::Permit(vec![peer]));
        }
        true
    }

    /// Binds a channel to a peer, without sending anything (T40). `false` if there are too many already, or the relay
    /// is one for TCP, or not there yet (it is bound then by [`Client::bind`] after [`Event::Allocated`]).
    pub fn bind(&mut self, now: Instant, peer: SocketAddr) -> bool {
        let ready = !self.config.tcp && matches!(self.state, State::Ready(_));
        let known = self.permissions.contains_key(&peer.ip());
        if !ready || !known && self.permissions.len() >= self.config.peers {
            return false;
        }
        let Some(channel) = self.channels.claim(now, peer) else {
            return false;
        };
        if self.channels.begin(peer) {
            // The binding brings the permission with it: no request of its own.
            self.permissions
                .entry(peer.ip())
                .or_insert(Permission::Wanted);
            self.ask(now, Request::Bind { channel, peer });
            return true;
        }
        self.permit(now, peer.ip())
    }

    /// Stops keeping a peer's permission and channels up. What it sends until they expire is still heard.
    pub fn forget(&mut self, peer: IpAddr) {
        if let Some(Permission::Stands { refresh_at, .. }) = self.permissions.get_mut(&peer) {
            *refresh_at = None;
        } else {
            self.permissions.remove(&peer);
        }
        self.channels.release(peer);
        self.counters.queue_dropped += self.queue.drop_peer(peer);
    }

    /// Asks the server to connect to a peer (RFC 6062).
    pub fn connect(&mut self, now: Instant, peer: SocketAddr) -> bool {
        let ready = self.config.tcp && matches!(self.state, State::Ready(_));
        if ready {
            self.ask(now, Request::Connect { peer });
        }
        ready
    }

    /// The next message to send to the server: whole, padded where the transport is a stream.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The relay's addresses, while there is one.
    #[must_use]
    pub fn relayed(&self) -> &[SocketAddr] {
        if let State::Ready(allocation) = &self.state {
            &allocation.relayed
        } else {
            &[]
        }
    }

    /// The server that is used or would be.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// When [`Client::handle_timeout`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut soonest = |at: Instant| next = Some(next.map_or(at, |n| n.min(at)));
        self.transactions
            .iter()
            .for_each(|t| soonest(t.timing.next));
        self.later.iter().for_each(|(at, ..)| soonest(*at));
        if let State::Ready(allocation) = &self.state {
            soonest(allocation.refresh_at.min(allocation.expires));
            soonest(self.last_sent + self.config.keepalive);
            for permission in self.permissions.values() {
                if let Permission::Stands {
                    expires,
                    refresh_at,
                } = permission
                {
                    soonest(refresh_at.unwrap_or(*expires));
                }
            }
            if let Some(at) = self.channels.deadline() {
                soonest(at);
            }
        }
        next
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.time_requests(now);
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|l| l.0 <= now);
        self.later = rest;
        for (_, request, paced) in due {
            self.ask_again(now, request, 0, paced);
        }
        self.refresh(now);
    }

    /// Asks for what is about to expire, and drops what has (T38).
    fn refresh(&mut self, now: Instant) {
        let State::Ready(allocation) = &mut self.state else {
            return;
        };
        if allocation.expires <= now {
            return self.end(Why::Lost, None);
        }
        if allocation.refresh_at <= now {
            allocation.refresh_at = allocation.expires;
            let lifetime = self.config.lifetime;
            self.ask(now, Request::Refresh { lifetime });
        }
        let mut again = Vec::new();
        self.permissions
            .retain(|peer, permission| match permission {
                Permission::Stands { expires, .. } if *expires <= now => false,
                Permission::Stands { refresh_at, .. } => {
                    if refresh_at.is_some_and(|at| at <= now) {
                        *refresh_at = None;
                        again.push(*peer);
                    }
                    true
                }
                Permission::Wanted => true,
            });
        for peers in again.chunks(32) {
            self.ask(now, Request::Permit(peers.to_vec()));
        }
        for (channel, peer) in self.channels.due(now) {
            self.ask(now, Request::Bind { channel, peer });
        }
        if self.last_sent + self.config.keepalive <= now {
            let id = self.transaction_id();
            self.transmit(
                now,
                Writer::new(Class::Indication, method::BINDING, id).finish(),
            );
        }
    }

    fn transmit(&mut self, now: Instant, bytes: Vec<u8>) {
        self.last_sent = now;
        self.transmits.push_back(bytes);
    }

    /// An ICMP error about something sent to the server (T34).
    pub fn handle_server_icmp(&mut self, now: Instant, kind: u8, code: u8) {
        if crate::rto::is_hard(self.server.is_ipv6(), kind, code) && !self.transactions.is_empty() {
            self.dead(now, Why::Unreachable);
        }
    }

    /// The stream to the server has ended.
    pub fn stream_ended(&mut self) {
        self.end(Why::StreamEnded, None);
    }

    /// The server is gone.
    fn dead(&mut self, now: Instant, why: Why) {
        match self.state {
            State::Leaving { again: true } => self.begin_afresh(now),
            State::Leaving { again: false } => self.end(Why::Closed, None),
            _ => self.end(why, None),
        }
    }

    fn end(&mut self, why: Why, not_before: Option<Instant>) {
        if self.state == State::Ended {
            return;
        }
        self.state = State::Ended;
        self.drop_everything();
        self.counters.queue_dropped += self.queue.clear();
        self.permissions.clear();
        if let Some(until) = not_before {
            if self.barred.len() >= REMEMBERED {
                self.barred.remove(0);
            }
            self.barred.push((self.server, until));
        }
        self.events.push_back(Event::Ended { why, not_before });
    }

    /// Forgets requests and what hung on the old allocation; wishes and queued data stay.
    fn drop_everything(&mut self) {
        self.transactions.clear();
        self.waiting.clear();
        self.later.clear();
        self.channels = Channels::default();
        self.permissions
            .values_mut()
            .for_each(|p| *p = Permission::Wanted);
    }

    /// Gives the allocation back to the server, and perhaps asks for a new one after.
    fn leave(&mut self, now: Instant, again: bool) {
        self.drop_everything();
        self.state = State::Leaving { again };
        self.ask(
            now,
            Request::Refresh {
                lifetime: Duration::ZERO,
            },
        );
    }

    fn begin_afresh(&mut self, now: Instant) {
        self.drop_everything();
        self.state = State::Allocating;
        self.ask(now, Request::Allocate);
    }
}

#[cfg(test)]
mod tests;

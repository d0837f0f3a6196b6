//! The node's allocation at a TURN server: which server, and packets in and out.
//!
//! Servers are begun with in the order in which they are named, the next one a second after its predecessor; the first that gives us an
//! allocation is used, the others are left. All sockets stand behind one epoll descriptor.
use crate::anode::{Ecn, Place, Received, TransmitBatch, TurnOrder};
use crate::turn::client::{Check, TurnClient, WireError};
use anode_turn::client::{Config, Event};
use anode_turn::resolve::Server;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The next server is tried when its predecessor has not answered for so long.
const STAGGER: Duration = Duration::from_secs(1);
/// A server has so long to give us an allocation.
const PATIENCE: Duration = Duration::from_secs(20);
/// A server that failed is tried again after this time, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// At most after this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The answer to the end of an allocation is waited for so long.
const GOODBYE: Duration = Duration::from_secs(3);
/// Servers that are kept of a list.
const MAX_SERVERS: usize = 16;
/// Allocations that are being given back.
const MAX_LEAVING: usize = 8;
/// A place that so many packets go to gets a channel: 4 bytes a packet instead of 36 (RFC 8656 §12).
const CHANNEL_AFTER: u32 = 16;
/// Places whose packets are counted.
const MAX_COUNTED: usize = 256;
/// Sockets that are served in one turn.
const READY: usize = 32;

/// One server to try.
#[derive(Clone)]
pub struct TurnServer {
    /// Where, and over what.
    pub server: Server,
    /// Whom to believe there, for TLS and DTLS.
    pub check: Option<Check>,
    /// Credentials and timers.
    pub config: Config,
}

impl std::fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnServer")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

struct Known {
    server: TurnServer,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has until then.
    Trying { until: Instant },
    /// Its addresses are ours.
    Standing,
    /// It has until then to say goodbye.
    Leaving { until: Instant },
}

struct Attempt {
    id: u64,
    client: TurnClient,
    /// Of the list; `None`: the list has changed since.
    server: Option<usize>,
    stage: Stage,
    /// What epoll knows: the socket, of which wire, and whether it waits to write.
    watched: Option<(u64, bool)>,
    /// Packets to places without a channel.
    counted: HashMap<SocketAddr, u32>,
}

/// What has changed: the addresses that are ours now, none if they are lost.
pub(super) type Change = Vec<SocketAddr>;

pub(super) struct TurnLink {
    epoll: Epoll,
    servers: Vec<Known>,
    attempts: Vec<Attempt>,
    next_id: u64,
    /// An allocation is wanted.
    wanted: bool,
    /// When the next server may be tried.
    next_try: Option<Instant>,
    changes: Vec<Change>,
    /// A payload is decrypted in place: it must be ours.
    payload: Vec<u8>,
    ready: Vec<EpollEvent>,
}

impl TurnLink {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            servers: Vec::new(),
            attempts: Vec::new(),
            next_id: 0,
            wanted: false,
            next_try: None,
            changes: Vec::new(),
            payload: Vec::new(),
            ready: vec![EpollEvent::empty(); READY],
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// These servers from now on. An allocation that stands is kept.
    pub fn set_servers(&mut self, now: Instant, mut servers: Vec<TurnServer>) {
        servers.truncate(MAX_SERVERS);
        let known = |server| Known {
            server,
            failures: 0,
            not_before: None,
        };
        self.servers = servers.into_iter().map(known).collect();
        for attempt in &mut self.attempts {
            attempt.server = None;
        }
        self.leave(now, |attempt| matches!(attempt.stage, Stage::Trying { .. }));
        self.next_try = self.wanted.then_some(now);
    }

    pub fn obey(&mut self, now: Instant, order: TurnOrder) {
        self.wanted = order == TurnOrder::Allocate;
        self.next_try = self.wanted.then_some(now);
        if !self.wanted {
            self.leave(now, |_| true);
            self.changes.clear();
        }
        self.handle_timeout(now);
    }

    /// Says goodbye to some.
    fn leave(&mut self, now: Instant, which: impl Fn(&Attempt) -> bool) {
        let leaving = |attempt: &Attempt| matches!(attempt.stage, Stage::Leaving { .. });
        for attempt in &mut self.attempts {
            if !leaving(attempt) && which(attempt) {
                attempt.stage = Stage::Leaving {
                    until: now + GOODBYE,
                };
                attempt.client.close(now);
            }
        }
        while self.attempts.iter().filter(|one| leaving(one)).count() > MAX_LEAVING {
            if let Some(oldest) = self.attempts.iter().position(leaving) {
                self.attempts.remove(oldest);
            }
        }
    }

    /// What has changed about our addresses, the oldest first.
    pub fn poll_change(&mut self) -> Option<Change> {
        (!self.changes.is_empty()).then(|| self.changes.remove(0))
    }

    pub fn deadline(&self) -> Option<Instant> {
        let of = |attempt: &Attempt| {
            let own = match attempt.stage {
                Stage::Trying { until } | Stage::Leaving { until } => Some(until),
                Stage::Standing => None,
            };
            [attempt.client.deadline(), own].into_iter().flatten().min()
        };
        let attempts = self.attempts.iter().filter_map(of).min();
        [attempts, self.next_due()].into_iter().flatten().min()
    }

    /// When the next server is to be tried, if one may be.
    fn next_due(&self) -> Option<Instant> {
        let at = self.next_try?;
        let stands = |attempt: &Attempt| attempt.stage == Stage::Standing;
        if !self.wanted || self.attempts.iter().any(stands) {
            return None;
        }
        let free = self.untried().map(|(_, known)| known.not_before);
        let earliest = free.map(|not_before| not_before.map_or(at, |then| then.max(at)));
        earliest.min()
    }

    /// Servers that nobody is asking.
    fn untried(&self) -> impl Iterator<Item = (usize, &Known)> {
        let busy = |index| {
            self.attempts
                .iter()
                .any(|attempt| attempt.server == Some(index))
        };
        let all = self.servers.iter().enumerate();
        all.filter(move |(index, _)| !busy(*index))
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |attempt: &Attempt| attempt.client.deadline().is_some_and(|at| at <= now);
        for index in 0..self.attempts.len() {
            if due(&self.attempts[index]) {
                self.attempts[index].client.handle_timeout(now);
                self.watch(index);
            }
        }
        self.settle(now);
        if self.next_due().is_some_and(|at| at <= now) {
            self.try_next(now);
        }
    }

    fn try_next(&mut self, now: Instant) {
        let ready = |known: &Known| known.not_before.is_none_or(|at| at <= now);
        let next = self.untried().find(|(_, known)| ready(known));
        let Some((index, known)) = next else { return };
        let TurnServer {
            server,
            check,
            config,
        } = known.server.clone();
        self.next_try = Some(now + STAGGER);
        match TurnClient::new(now, server, config, check) {
            Ok(client) => {
                self.next_id += 1;
                self.attempts.push(Attempt {
                    id: self.next_id,
                    client,
                    server: Some(index),
                    stage: Stage::Trying {
                        until: now + PATIENCE,
                    },
                    watched: None,
                    counted: HashMap::new(),
                });
                self.watch(self.attempts.len() - 1);
            }
            Err(error) => self.failed(now, index, None, &error.to_string()),
        }
    }

    fn failed(&mut self, now: Instant, index: usize, not_before: Option<Instant>, why: &str) {
        if let Some(known) = self.servers.get_mut(index) {
            let pause = FIRST_PAUSE * (1 << known.failures.min(8));
            known.failures += 1;
            let own = now + pause.min(LONGEST_PAUSE);
            known.not_before = Some(not_before.map_or(own, |at| at.max(own)));
            let server = known.server.server.address;
            tracing::info!(%server, why, "no allocation at this TURN server");
        }
        // Another one at once.
        self.next_try = Some(now);
    }

    /// Takes what has come. True if more may be waiting.
    pub fn receive(&mut self, now: Instant, each: &mut dyn FnMut(Received<'_>)) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        let count = self
            .epoll
            .wait(&mut ready, EpollTimeout::ZERO)
            .unwrap_or_default();
        for event in &ready[..count] {
            let index = self
                .attempts
                .iter()
                .position(|attempt| attempt.id == event.data());
            if let Some(index) = index {
                self.work(now, index, each);
            }
        }
        self.ready = ready;
        if count > 0 {
            self.settle(now);
        }
        count == READY
    }

    fn work(&mut self, now: Instant, index: usize, each: &mut dyn FnMut(Received<'_>)) {
        let Self {
            attempts, payload, ..
        } = self;
        let Some(attempt) = attempts.get_mut(index) else {
            return;
        };
        let stands = attempt.stage == Stage::Standing;
        attempt.client.work(now, &mut |from, bytes| {
            if !stands {
                return;
            }
            payload.clear();
            payload.extend_from_slice(bytes);
            each(Received {
                from: Place::Turn(from),
                socket: 0,
                local_ip: None,
                ecn: Ecn::NotCapable,
                segment_size: payload.len(),
                bytes: payload,
            });
        });
        self.watch(index);
    }

    /// Has epoll follow the socket of an attempt, which a redirect may have replaced.
    fn watch(&mut self, index: usize) {
        let Some(attempt) = self.attempts.get_mut(index) else {
            return;
        };
        let Some((fd, writes)) = attempt.client.fd() else {
            attempt.watched = None;
            return;
        };
        let wanted = Some((attempt.client.wires(), writes));
        if attempt.watched == wanted {
            return;
        }
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, writes);
        let mut event = EpollEvent::new(flags, attempt.id);
        // A socket that was closed has left epoll by itself.
        let same_socket = attempt.watched.map(|(wire, _)| wire) == wanted.map(|(wire, _)| wire);
        let followed = match same_socket {
            true => self.epoll.modify(fd, &mut event),
            false => self.epoll.add(fd, event),
        };
        match followed {
            Ok(()) => attempt.watched = wanted,
            Err(error) => {
                tracing::warn!(fd = fd.as_raw_fd(), "a TURN server's socket: {error}");
            }
        }
    }

    /// Hears what the clients have to say, and lets go those whose time is over.
    fn settle(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.attempts.len() {
            match self.hear(now, index) {
                true => index += 1,
                false => drop(self.attempts.remove(index)),
            }
        }
    }

    /// False: this attempt is over.
    fn hear(&mut self, now: Instant, index: usize) -> bool {
        while let Some(event) = self.attempts[index].client.poll_event() {
            match event {
                Event::Allocated { relayed, .. } => self.stands(now, index, relayed),
                Event::Ended { why, not_before } => {
                    self.over(now, index, not_before, &why.to_string());
                    return false;
                }
                Event::PeerRefused { peer, code } => {
                    tracing::debug!(%peer, code, "the TURN server refuses a peer");
                }
                _ => {}
            }
        }
        match self.attempts[index].stage {
            Stage::Leaving { until } => now < until,
            Stage::Trying { until } if now >= until => {
                self.over(now, index, None, "it takes too long");
                false
            }
            Stage::Trying { .. } | Stage::Standing => true,
        }
    }

    /// The first that stands is used; a server may also give other addresses later, after a fresh start.
    fn stands(&mut self, now: Instant, index: usize, relayed: Vec<SocketAddr>) {
        let id = self.attempts[index].id;
        let others = self.attempts.iter();
        let taken = others
            .filter(|one| one.id != id)
            .any(|one| one.stage == Stage::Standing);
        if taken || matches!(self.attempts[index].stage, Stage::Leaving { .. }) {
            return self.leave(now, |attempt| attempt.id == id);
        }
        self.attempts[index].stage = Stage::Standing;
        let server = self.attempts[index].server;
        if let Some(known) = server.and_then(|server| self.servers.get_mut(server)) {
            known.failures = 0;
        }
        tracing::info!(server = %self.attempts[index].client.server().address, ?relayed, "an allocation at a TURN server");
        self.changes.push(relayed);
        self.leave(now, |attempt| attempt.id != id);
    }

    fn over(&mut self, now: Instant, index: usize, not_before: Option<Instant>, why: &str) {
        let attempt = &self.attempts[index];
        let why = match attempt.client.failure() {
            Some(failure) => WireError::to_string(failure),
            None => why.to_owned(),
        };
        let (stage, server) = (attempt.stage, attempt.server);
        if stage == Stage::Standing {
            self.changes.push(Vec::new());
        }
        if matches!(stage, Stage::Leaving { .. }) {
            return;
        }
        if let Some(server) = server {
            self.failed(now, server, not_before, &why);
        } else {
            self.next_try = Some(now);
        }
    }

    /// Sends a batch; the packets that did not leave.
    pub fn send(&mut self, now: Instant, batch: &TransmitBatch) -> usize {
        let standing = self
            .attempts
            .iter()
            .position(|attempt| attempt.stage == Stage::Standing);
        let (Some(index), Place::Turn(to)) = (standing, batch.destination.to) else {
            return batch.segments();
        };
        let attempt = &mut self.attempts[index];
        if attempt.counted.len() < MAX_COUNTED || attempt.counted.contains_key(&to) {
            let packets = attempt.counted.entry(to).or_default();
            let before = *packets;
            *packets = before.saturating_add(batch.segments() as u32);
            if before < CHANNEL_AFTER && *packets >= CHANNEL_AFTER {
                attempt.client.bind(now, to);
            }
        }
        let client = &mut attempt.client;
        let lost = batch
            .packets()
            .filter(|packet| !client.send(now, to, packet))
            .count();
        self.watch(index);
        self.settle(now);
        lost
    }
}

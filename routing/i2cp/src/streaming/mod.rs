//! All streams of one destination (protocol 6): opening and accepting, ids, pings, and the table of what has ended.
//!
//! ```text
//!   connect accept write read finish reset ping         poll_event
//!        │                                                  ▲
//!  ┌─────▼──────────── Streams: ids, limits, deadlines ─────┴──┐
//!  │  connection: one stream │ profile: what is known of peers │
//!  │   ├ send: window, loss  │ packet: bits, signatures        │
//!  │   ├ recv: order, acks   │                                 │
//!  │   └ rtt                 │                                 │
//!  └─────┬──────────────────────────────────────────▲──────────┘
//!        ▼                                          │
//!   poll_transmit, deadline             handle, handle_status, handle_timeout
//! ```
mod connection;
pub(crate) mod packet;
mod profile;
mod recv;
mod rtt;
mod send;

use crate::destination::{Destination, Hash};
use crate::envelope::{Ports, protocol};
use crate::error::{Error, Result};
use crate::keys::LocalDestination;
use crate::message::MessageStatus;
use crate::time::Now;
use connection::{Change, Connection, Phase, Ready};
use packet::{CLOSE, ECHO, FROM, NO_ACK, Packet, RESET, SIGNATURE, SYN};
use profile::Profiles;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an application does with a stream (Java's `i2p.streaming.profile`).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Less than a packet waits a little for more.
    #[default]
    Bulk,
    /// Everything goes out at once, and says so in its flags.
    Interactive,
}

/// When CLOSE goes out after the program has finished writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HalfClose {
    /// When the peer has closed, or was silent for three retransmission timeouts, but not less than `least` and not
    /// more than `most`. i2pd throws away what it still has to send when it sees CLOSE.
    Delayed {
        /// Shortest silence.
        least: Duration,
        /// Longest silence.
        most: Duration,
    },
    /// At once: right between peers that know half-closed streams (Java, and this implementation).
    Immediate,
}

/// Tunables; `Default` is what the program uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a peer may take to answer our SYN.
    pub connect_timeout: Duration,
    /// How long the program may take to accept or refuse.
    pub accept_timeout: Duration,
    /// Silence after which the peer is asked whether it is there; up to 10 s are added at random.
    pub keep_alive: Duration,
    /// How long less than a packet may wait for more, while others are in flight.
    pub passive_flush: Duration,
    /// Bytes of a stream that may wait to be sent.
    pub send_buffer: usize,
    /// See [`HalfClose`].
    pub half_close: HalfClose,
    /// See [`Profile`].
    pub profile: Profile,
    /// Most streams.
    pub max_streams: usize,
    /// Most streams that wait to be accepted.
    pub backlog: usize,
    /// Most SYNs and pings per second from one peer, and ten times that from all.
    pub requests_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(60),
            accept_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(90),
            passive_flush: Duration::from_millis(175),
            send_buffer: 256 * 1024,
            half_close: HalfClose::Delayed {
                least: Duration::from_secs(5),
                most: Duration::from_secs(15),
            },
            profile: Profile::Bulk,
            max_streams: 4096,
            backlog: 64,
            requests_per_second: 20,
        }
    }
}

impl Config {
    fn flush_after(&self) -> Duration {
        match self.profile {
            Profile::Bulk => self.passive_flush,
            Profile::Interactive => Duration::ZERO,
        }
    }
}

/// Names one stream; never used twice for two streams of one table that are open at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StreamId(u32);

/// Names one ping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PingId(u32);

/// Why a stream ended other than in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The peer reset it.
    #[error("reset by the peer")]
    Reset,
    /// The peer did not answer our SYN.
    #[error("the peer did not answer")]
    ConnectTimedOut,
    /// The program did not accept it in time.
    #[error("not accepted in time")]
    NotAccepted,
    /// The peer stopped answering.
    #[error("the peer stopped answering")]
    TimedOut,
    /// The router could not send our SYN.
    #[error("{0}")]
    Router(MessageStatus),
    /// The session with the router ended.
    #[error("the I2P session ended")]
    SessionLost,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A stream wants to be opened: [`Streams::accept`], [`Streams::refuse`] or [`Streams::ignore`] it.
    Incoming {
        /// The stream.
        stream: StreamId,
        /// Who opens it; proven by its signature.
        peer: Destination,
        /// The port that it is for.
        local_port: u16,
        /// The port that it comes from.
        remote_port: u16,
    },
    /// The peer accepted our stream.
    Connected(StreamId),
    /// There is data to read (edge: after the reader had drained it).
    Readable(StreamId),
    /// There is room to write (edge: after a write was cut short).
    Writable(StreamId),
    /// The peer has closed and everything was read.
    Finished(StreamId),
    /// The stream is over and forgotten; `None`: in order.
    Closed(StreamId, Option<Failure>),
    /// A ping was answered after this time, or not (within 30 s).
    Pong(PingId, Option<Duration>),
}

/// A message for the router to send, with [`protocol::STREAMING`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub to: Destination,
    /// Ports and protocol of the gzip header.
    pub ports: Ports,
    /// The packet.
    pub data: Vec<u8>,
    /// It carries a destination, whose padding compresses (I65).
    pub compress: bool,
    /// 0, or what [`Streams::handle_status`] wants to hear about.
    pub nonce: u32,
    /// How long it is worth something.
    pub ttl: Duration,
}

/// What the streams have counted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Streams that we opened.
    pub opened: u64,
    /// Streams that peers opened.
    pub accepted: u64,
    /// SYNs that were refused: nobody listens, too many wait, or too many streams.
    pub refused: u64,
    /// Packets that are malformed.
    pub malformed: u64,
    /// Packets whose signature does not verify, or that lack the one they need.
    pub forged: u64,
    /// SYNs for another destination: dropped.
    pub misdirected: u64,
    /// Packets for no stream that is known: dropped.
    pub unknown: u64,
    /// SYNs and pings beyond the rate: dropped.
    pub rate_limited: u64,
    /// Packets that came before their SYN and were kept.
    pub early: u64,
    /// Of these, dropped: too many, or no SYN came.
    pub early_dropped: u64,
    /// Packets sent again.
    pub resent: u64,
    /// Packets lost by the timer.
    pub timeouts: u64,
    /// Packets received twice.
    pub duplicates: u64,
    /// Packets beyond a stream's buffer or its end: dropped.
    pub beyond_window: u64,
    /// Acknowledgements of what was never sent: dropped.
    pub unsent_acked: u64,
    /// Pings of peers that were answered.
    pub pongs: u64,
}

/// What is known of one stream, for people to see.
#[derive(Clone, Debug)]
pub struct Info {
    /// The far side.
    pub peer: Destination,
    /// Our port and theirs.
    pub ports: (u16, u16),
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Packets that may be in flight.
    pub window: f64,
    /// Bytes that wait to be sent.
    pub unsent: usize,
    /// Bytes that wait to be read.
    pub unread: usize,
    /// The peer wants nothing more for now.
    pub choked: bool,
}

/// A stream that is over: enough to answer what still comes.
#[derive(Debug)]
struct Ended {
    peer: Destination,
    peer_id: u32,
    ports: (u16, u16),
    until: Instant,
    answer: Answer,
    answers_left: u8,
}

#[derive(Debug)]
enum Answer {
    /// Acknowledge again: our last acknowledgement was lost.
    Acknowledge { through: u32 },
    /// Reset again; the number that a CLOSE beside it carries.
    Reset { next: u32 },
}

#[derive(Debug)]
struct Ping {
    to: Hash,
    sent: Instant,
    payload: Vec<u8>,
}

/// A packet whose SYN has not come yet.
#[derive(Debug)]
struct Early {
    peer_id: u32,
    ports: Ports,
    data: Vec<u8>,
    until: Instant,
}

/// What comes too often is dropped before it costs a signature.
#[derive(Debug)]
struct Rate {
    second: Instant,
    all: u32,
    peers: HashMap<Hash, u32>,
}

const MOST_ENDED: usize = 4096;
const ENDED_FIRST: Duration = Duration::from_secs(300);
const ENDED_SECOND: Duration = Duration::from_secs(60);
/// Answers to one stream that is over.
const MOST_ANSWERS: u8 = 16;
const MOST_PINGS: usize = 256;
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// A pong returns so many bytes.
const LONGEST_ECHO: usize = 32;
const MOST_EARLY: usize = 64;
const EARLY_LIFE: Duration = Duration::from_secs(10);
/// Pongs, acknowledgements and resets outside of streams that wait to be sent.
const MOST_LOOSE: usize = 256;

/// The streams of one destination.
#[derive(Debug)]
pub struct Streams {
    keys: Arc<LocalDestination>,
    config: Config,
    rng: StdRng,
    connections: HashMap<u32, Connection>,
    /// (peer, its id) → ours, for streams that peers opened: finds repeats of a SYN, and packets to id 0.
    by_peer: HashMap<(Hash, u32), u32>,
    pending: usize,
    deadlines: BTreeSet<(Instant, u32)>,
    deadline_of: HashMap<u32, Instant>,
    /// Streams that may have something to send.
    ready: VecDeque<u32>,
    queued: std::collections::HashSet<u32>,
    loose: VecDeque<Outgoing>,
    ended: HashMap<u32, Ended>,
    ended_order: VecDeque<(Instant, u32)>,
    early: VecDeque<Early>,
    pings: HashMap<u32, Ping>,
    nonces: HashMap<u32, u32>,
    profiles: Profiles,
    rate: Option<Rate>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Streams {
    /// `seed` must be random: ids of streams come from it, and whoever guesses an id can send into its stream.
    pub fn new(keys: Arc<LocalDestination>, config: Config, seed: [u8; 32]) -> Self {
        Self {
            keys,
            config,
            rng: StdRng::from_seed(seed),
            connections: HashMap::new(),
            by_peer: HashMap::new(),
            pending: 0,
            deadlines: BTreeSet::new(),
            deadline_of: HashMap::new(),
            ready: VecDeque::new(),
            queued: std::collections::HashSet::new(),
            loose: VecDeque::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            early: VecDeque::new(),
            pings: HashMap::new(),
            nonces: HashMap::new(),
            profiles: Profiles::default(),
            rate: None,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Opens a stream. What is written before the next [`Self::poll_transmit`] goes along with the SYN, what is written
    /// before the peer answers goes behind it, up to the initial window.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn connect(
        &mut self,
        to: &Destination,
        local_port: u16,
        remote_port: u16,
        now: Now,
    ) -> Result<StreamId> {
        if self.connections.len() >= self.config.max_streams {
            return Err(Error::Full("the table of streams"));
        }
        let id = self.fresh_id();
        let until = now.instant + self.config.connect_timeout;
        let ports = (local_port, remote_port);
        let phase = Phase::Connecting { until };
        let connection = self.connection(to.clone(), ports, (id, 0), phase, now.instant);
        self.connections.insert(id, connection);
        self.counters.opened += 1;
        self.touch(id);
        Ok(StreamId(id))
    }

    fn connection(
        &mut self,
        peer: Destination,
        ports: (u16, u16),
        ids: (u32, u32),
        phase: Phase,
        now: Instant,
    ) -> Connection {
        let profile = self.profiles.get(&peer.hash(), now);
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 10_000));
        let mut connection = Connection::new(peer, ports, ids, phase, &self.config, profile, now);
        connection.keep_alive_after += jitter;
        connection
    }

    fn fresh_id(&mut self) -> u32 {
        loop {
            let id = self.rng.next_u32();
            let taken = self.connections.contains_key(&id)
                || self.ended.contains_key(&id)
                || self.pings.contains_key(&id);
            if id != 0 && !taken {
                return id;
            }
        }
    }

    /// Takes a stream that a peer wants to open: the reply goes out, with what is written before the next
    /// [`Self::poll_transmit`].
    ///
    /// # Errors
    /// [`Error::NoStream`] when it is gone, or was accepted already.
    pub fn accept(&mut self, stream: StreamId, now: Now) -> Result<()> {
        let connection = self.waiting(stream)?;
        connection.accept(now.instant);
        self.pending -= 1;
        self.counters.accepted += 1;
        self.touch(stream.0);
        if self.connections[&stream.0].recv.unread() > 0 {
            self.events.push_back(Event::Readable(stream));
        }
        self.settle(stream.0, now);
        Ok(())
    }

    /// Refuses a stream: the peer gets a RESET.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn refuse(&mut self, stream: StreamId, now: Now) -> Result<()> {
        self.waiting(stream)?;
        self.counters.refused += 1;
        self.send_reset(stream.0, now);
        Ok(())
    }

    /// Drops a stream without a word: for peers that may not know that we are here.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn ignore(&mut self, stream: StreamId) -> Result<()> {
        self.waiting(stream)?;
        self.counters.refused += 1;
        self.remove(stream.0);
        Ok(())
    }

    fn waiting(&mut self, stream: StreamId) -> Result<&mut Connection> {
        self.connections
            .get_mut(&stream.0)
            .filter(|c| matches!(c.phase, Phase::Pending { .. }))
            .ok_or(Error::NoStream)
    }

    fn existing(&mut self, stream: StreamId) -> Result<&mut Connection> {
        self.connections.get_mut(&stream.0).ok_or(Error::NoStream)
    }

    /// Writes what fits the buffer; how many bytes. After fewer than given, [`Event::Writable`] says when to go on.
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn write(&mut self, stream: StreamId, data: &[u8], now: Now) -> Result<usize> {
        let count = self.existing(stream)?.write(data, now.instant);
        self.touch(stream.0);
        Ok(count)
    }

    /// Reads what has arrived in order; 0: nothing for now (or nothing any more, after [`Event::Finished`]).
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn read(&mut self, stream: StreamId, buffer: &mut [u8], now: Now) -> Result<usize> {
        let mut rest = buffer;
        let mut copy = |piece: &[u8]| {
            let length = piece.len().min(rest.len());
            let (filled, left) = std::mem::take(&mut rest).split_at_mut(length);
            filled.copy_from_slice(&piece[..length]);
            rest = left;
            length
        };
        self.read_with(stream, &mut copy, now)
    }

    /// As [`Self::read`], without a copy: `sink` returns how much of each piece it took, and ends it by taking less.
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn read_with(
        &mut self,
        stream: StreamId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
        now: Now,
    ) -> Result<usize> {
        let count = self.existing(stream)?.read(sink, now.instant);
        self.touch(stream.0);
        self.settle(stream.0, now);
        Ok(count)
    }

    /// Bytes that [`Self::write`] would take now; 0 for a stream that is gone.
    pub fn room(&self, stream: StreamId) -> usize {
        self.connections
            .get(&stream.0)
            .map_or(0, |connection| connection.send.room())
    }

    /// Nothing more will be written; reading goes on. See [`HalfClose`].
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn finish(&mut self, stream: StreamId, now: Now) -> Result<()> {
        self.connections
            .get_mut(&stream.0)
            .ok_or(Error::NoStream)?
            .finish(&self.config);
        self.touch(stream.0);
        self.settle(stream.0, now);
        Ok(())
    }

    /// Ends a stream at once; no event follows.
    ///
    /// # Errors
    /// [`Error::NoStream`].
    pub fn reset(&mut self, stream: StreamId, now: Now) -> Result<()> {
        self.existing(stream)?;
        self.send_reset(stream.0, now);
        Ok(())
    }

    /// The session is gone, and all streams with it: the router and the peers have forgotten them or will.
    pub fn session_lost(&mut self) {
        let all: Vec<u32> = self.connections.keys().copied().collect();
        for id in all {
            self.remove(id);
            let event = Event::Closed(StreamId(id), Some(Failure::SessionLost));
            self.events.push_back(event);
        }
        for (id, _) in self.pings.drain() {
            self.events.push_back(Event::Pong(PingId(id), None));
        }
        self.loose.clear();
        self.early.clear();
        self.nonces.clear();
    }

    /// Sends a ping with at most 32 bytes of payload; more is cut off, because no more comes back.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn ping(
        &mut self,
        to: &Destination,
        local_port: u16,
        remote_port: u16,
        payload: &[u8],
        now: Now,
    ) -> Result<PingId> {
        if self.pings.len() >= MOST_PINGS || self.loose.len() >= MOST_LOOSE {
            return Err(Error::Full("the table of pings"));
        }
        let payload = &payload[..payload.len().min(LONGEST_ECHO)];
        let id = self.fresh_id();
        let packet = Packet {
            to_id: id,
            flags: ECHO | SIGNATURE | FROM,
            payload,
            ..Packet::default()
        };
        let data = packet.write(&self.keys);
        self.send_loose(to.clone(), (local_port, remote_port), data, true);
        let ping = Ping {
            to: to.hash(),
            sent: now.instant,
            payload: payload.to_vec(),
        };
        self.pings.insert(id, ping);
        Ok(PingId(id))
    }

    fn send_loose(&mut self, to: Destination, ports: (u16, u16), data: Vec<u8>, compress: bool) {
        if self.loose.len() >= MOST_LOOSE {
            self.counters.rate_limited += 1;
            return;
        }
        self.loose.push_back(Outgoing {
            to,
            ports: streaming(ports),
            data,
            compress,
            nonce: 0,
            ttl: Duration::from_secs(30),
        });
    }

    fn send_reset(&mut self, id: u32, now: Now) {
        let Some(connection) = self.remove(id) else {
            return;
        };
        let next = connection.send.next_sequence();
        // before its reply the peer's id is not known: it is told when the reply comes
        if connection.peer_id != 0 {
            let ports = (connection.local_port, connection.remote_port);
            for data in connection.reset_packets(&self.keys) {
                self.send_loose(connection.peer.clone(), ports, data, true);
            }
        }
        self.remember(&connection, Answer::Reset { next }, ENDED_FIRST, now);
    }

    fn remember(&mut self, connection: &Connection, answer: Answer, life: Duration, now: Now) {
        while self.ended.len() >= MOST_ENDED
            && let Some((_, oldest)) = self.ended_order.pop_front()
        {
            self.forget_ended(oldest);
        }
        let until = now.instant + life;
        let ended = Ended {
            peer: connection.peer.clone(),
            peer_id: connection.peer_id,
            ports: (connection.local_port, connection.remote_port),
            until,
            answer,
            answers_left: MOST_ANSWERS,
        };
        if ended.peer_id != 0 {
            self.by_peer
                .insert((ended.peer.hash(), ended.peer_id), connection.local_id);
        }
        self.ended.insert(connection.local_id, ended);
        self.ended_order.push_back((until, connection.local_id));
    }

    fn forget_ended(&mut self, id: u32) {
        if let Some(ended) = self.ended.remove(&id) {
            self.by_peer.remove(&(ended.peer.hash(), ended.peer_id));
        }
    }

    /// Takes a stream out of all tables.
    fn remove(&mut self, id: u32) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if matches!(connection.phase, Phase::Pending { .. }) {
            self.pending -= 1;
        }
        let key = (connection.peer.hash(), connection.peer_id);
        if self.by_peer.get(&key) == Some(&id) {
            self.by_peer.remove(&key);
        }
        if let Some(at) = self.deadline_of.remove(&id) {
            self.deadlines.remove(&(at, id));
        }
        self.nonces.retain(|_, stream| *stream != id);
        self.collect(&connection);
        Some(connection)
    }

    fn collect(&mut self, connection: &Connection) {
        let tally = connection.tally;
        self.counters.resent += tally.resent;
        self.counters.timeouts += tally.timeouts;
        self.counters.duplicates += tally.duplicates;
        self.counters.beyond_window += tally.refused;
        self.counters.unsent_acked += tally.unsent_acked;
    }

    /// What was counted. Numbers of a stream join them when it ends.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Streams that are open or opening.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How a stream stands.
    pub fn info(&self, stream: StreamId) -> Option<Info> {
        let connection = self.connections.get(&stream.0)?;
        Some(Info {
            peer: connection.peer.clone(),
            ports: (connection.local_port, connection.remote_port),
            rtt: connection.rtt.smoothed,
            window: connection.send.window(),
            unsent: connection.send.buffered(),
            unread: connection.recv.unread(),
            choked: connection.send.is_choked(),
        })
    }

    /// The next thing that happened. What can be waiting is bounded by the streams and the packets handled.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A stream has something to do: it may send, and its deadline moves.
    fn touch(&mut self, id: u32) {
        if self.queued.insert(id) {
            self.ready.push_back(id);
        }
    }

    fn set_deadline(&mut self, id: u32) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let at = connection.deadline(&self.config);
        match self.deadline_of.insert(id, at) {
            Some(old) if old == at => {}
            old => {
                if let Some(old) = old {
                    self.deadlines.remove(&(old, id));
                }
                self.deadlines.insert((at, id));
            }
        }
    }

    /// The next message for the router. Streams take turns; while the router's queue is full, do not ask.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Outgoing> {
        if let Some(loose) = self.loose.pop_front() {
            return Some(loose);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else {
                self.queued.remove(&id);
                continue;
            };
            if let Some(ready) = connection.next_packet(&self.keys, &self.config, now.instant) {
                self.ready.push_back(id);
                return Some(self.outgoing(id, ready));
            }
            self.queued.remove(&id);
            self.set_deadline(id);
        }
        None
    }

    fn outgoing(&mut self, id: u32, ready: Ready) -> Outgoing {
        let mut nonce = 0;
        // a status for the SYN lets a connect to nobody fail at once
        if ready.syn && ready.first {
            nonce = self.rng.next_u32().max(1);
            self.nonces.insert(nonce, id);
        }
        let connection = &self.connections[&id];
        Outgoing {
            to: connection.peer.clone(),
            ports: streaming((connection.local_port, connection.remote_port)),
            data: ready.bytes,
            compress: ready.syn,
            nonce,
            ttl: ready.ttl,
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, once [`Self::poll_transmit`] said `None`.
    pub fn deadline(&self) -> Option<Instant> {
        let stream = self.deadlines.first().map(|(at, _)| *at);
        let ping = self.pings.values().map(|ping| ping.sent + PING_TIMEOUT);
        let early = self.early.front().map(|early| early.until);
        let ended = self.ended_order.front().map(|(at, _)| *at);
        [stream, ping.min(), early, ended]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now.instant) {
            self.deadlines.remove(&(at, id));
            self.deadline_of.remove(&id);
            let mut changes = Vec::new();
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.handle_timeout(&self.config, now.instant, &mut changes);
            }
            self.apply(id, changes, now);
            self.touch(id);
        }
        let overdue = |ping: &Ping| ping.sent + PING_TIMEOUT <= now.instant;
        let silent: Vec<u32> = self
            .pings
            .iter()
            .filter(|(_, ping)| overdue(ping))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.pings.remove(&id);
            self.events.push_back(Event::Pong(PingId(id), None));
        }
        while self.early.front().is_some_and(|e| e.until <= now.instant) {
            self.early.pop_front();
            self.counters.early_dropped += 1;
        }
        while self
            .ended_order
            .front()
            .is_some_and(|(at, _)| *at <= now.instant)
            && let Some((_, id)) = self.ended_order.pop_front()
        {
            if self.ended.get(&id).is_some_and(|e| e.until <= now.instant) {
                self.forget_ended(id);
            }
        }
    }

    /// The router said what became of the message with this nonce.
    pub fn handle_status(&mut self, nonce: u32, status: MessageStatus, now: Now) {
        if status.is_interim() {
            return;
        }
        let Some(id) = self.nonces.remove(&nonce) else {
            return;
        };
        let opening = self
            .connections
            .get(&id)
            .is_some_and(|c| matches!(c.phase, Phase::Connecting { .. }));
        if opening && status.is_final_failure() {
            self.apply(id, vec![Change::Ended(Failure::Router(status))], now);
        }
    }

    /// Takes a message with [`protocol::STREAMING`].
    pub fn handle(&mut self, ports: Ports, data: &[u8], now: Now) {
        let header: Option<[u8; 8]> = data.first_chunk().copied();
        let Some([a, b, c, d, _, _, _, _]) = header else {
            self.counters.malformed += 1;
            return;
        };
        let to_id = u32::from_be_bytes([a, b, c, d]);
        let known = self
            .connections
            .get(&to_id)
            .map(|c| &c.peer)
            .or_else(|| self.ended.get(&to_id).map(|e| &e.peer))
            .cloned();
        let Ok(packet) = Packet::read(data, known.as_ref()) else {
            self.counters.malformed += 1;
            return;
        };
        if packet.has(ECHO) {
            self.echo(&packet, data, ports, now);
        } else if self.connections.contains_key(&to_id) {
            self.for_stream(to_id, &packet, data, now);
        } else if self.ended.contains_key(&to_id) {
            self.answer_ended(to_id, &packet, now);
        } else if to_id == 0 && packet.has(SYN) {
            self.syn(&packet, data, ports, now);
        } else if to_id == 0 {
            self.before_reply(&packet, data, ports, now);
        } else {
            self.counters.unknown += 1;
        }
    }

    fn for_stream(&mut self, id: u32, packet: &Packet<'_>, data: &[u8], now: Now) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let signed_kind = packet.flags & (SYN | CLOSE | RESET) != 0;
        // an id is a secret that both sides share: after the SYN both must fit. Who refuses a SYN may have no id of its
        // own to name; our id and its signature say enough then
        let nameless = packet.has(RESET) && packet.from_id == 0;
        let stranger = packet.from.as_ref().is_some_and(|f| *f != connection.peer)
            || connection.peer_id != 0 && packet.from_id != connection.peer_id && !nameless
            || connection.peer_id == 0 && packet.from_id == 0 && !nameless;
        if stranger {
            self.counters.forged += 1;
            return;
        }
        if signed_kind && packet.verify(data, &connection.peer, now.unix_ms).is_err() {
            self.counters.forged += 1;
            return;
        }
        let mut changes = Vec::new();
        if packet.has(RESET) {
            changes.push(Change::Ended(Failure::Reset));
        } else {
            connection.handle(packet, now.instant, &mut changes);
        }
        self.apply(id, changes, now);
        self.touch(id);
    }

    /// Tells the program, and buries what is over.
    fn apply(&mut self, id: u32, changes: Vec<Change>, now: Now) {
        let stream = StreamId(id);
        for change in changes {
            let Some(connection) = self.connections.get(&id) else {
                return;
            };
            let pending = matches!(connection.phase, Phase::Pending { .. });
            match change {
                Change::Connected => self.events.push_back(Event::Connected(stream)),
                // told when it is accepted
                Change::Readable | Change::Finished if pending => {}
                Change::Readable => self.events.push_back(Event::Readable(stream)),
                Change::Writable => self.events.push_back(Event::Writable(stream)),
                Change::Finished => self.events.push_back(Event::Finished(stream)),
                Change::Done => self.done(id, now),
                Change::Ended(failure) => self.failed(id, failure, now),
            }
        }
    }

    /// What a call of the program may have completed.
    fn settle(&mut self, id: u32, now: Now) {
        let mut changes = Vec::new();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.settle(&mut changes);
        }
        self.apply(id, changes, now);
    }

    fn done(&mut self, id: u32, now: Now) {
        // the peer's CLOSE must be acknowledged before the stream is forgotten
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.recv.ack_due().is_some()
        {
            connection.recv.want_ack(Duration::ZERO, now.instant);
            if let Some(ready) = connection.next_packet(&self.keys, &self.config, now.instant) {
                let (to, ports) = (
                    connection.peer.clone(),
                    (connection.local_port, connection.remote_port),
                );
                self.send_loose(to, ports, ready.bytes, false);
            }
        }
        let Some(connection) = self.remove(id) else {
            return;
        };
        self.learn(&connection, now);
        let life = if connection.closed_first {
            ENDED_FIRST
        } else {
            ENDED_SECOND
        };
        let through = connection.recv.acknowledgement().0;
        self.remember(&connection, Answer::Acknowledge { through }, life, now);
        self.events.push_back(Event::Closed(StreamId(id), None));
    }

    fn failed(&mut self, id: u32, failure: Failure, now: Now) {
        match failure {
            Failure::TimedOut | Failure::NotAccepted | Failure::ConnectTimedOut => {
                self.send_reset(id, now);
            }
            _ => {
                self.remove(id);
            }
        }
        let event = Event::Closed(StreamId(id), Some(failure));
        self.events.push_back(event);
    }

    fn learn(&mut self, connection: &Connection, now: Now) {
        let window = connection.send.window();
        let peer = connection.peer.hash();
        self.profiles
            .learn(peer, connection.rtt, window, now.instant);
    }

    /// Something for a stream that is over: our last word was lost, or the peer has not heard that we reset it.
    fn answer_ended(&mut self, id: u32, packet: &Packet<'_>, now: Now) {
        let Some(ended) = self.ended.get_mut(&id) else {
            return;
        };
        // plain acknowledgements want no answer, nor do resets: two that ended must not talk forever
        let wants = packet.sequence > 0 || packet.has(SYN);
        if packet.has(RESET) || !wants || ended.answers_left == 0 || ended.until <= now.instant {
            return;
        }
        ended.answers_left -= 1;
        let peer_id = match ended.peer_id {
            0 => packet.from_id,
            known => known,
        };
        let (to, ports) = (ended.peer.clone(), ended.ports);
        match ended.answer {
            Answer::Acknowledge { through } => {
                let ack = Packet {
                    to_id: peer_id,
                    from_id: id,
                    ack_through: through,
                    ..Packet::default()
                };
                let data = ack.write(&self.keys);
                self.send_loose(to, ports, data, false);
            }
            Answer::Reset { next } => {
                for data in connection::reset_packets(peer_id, id, next, &self.keys) {
                    self.send_loose(to.clone(), ports, data, true);
                }
            }
        }
    }

    fn allow(&mut self, peer: Option<Hash>, now: Now) -> bool {
        let limit = self.config.requests_per_second;
        let rate = match &mut self.rate {
            Some(rate)
                if now.instant.saturating_duration_since(rate.second) < Duration::from_secs(1) =>
            {
                rate
            }
            rate => rate.insert(Rate {
                second: now.instant,
                all: 0,
                peers: HashMap::new(),
            }),
        };
        let allowed = match peer {
            None => {
                rate.all += 1;
                rate.all <= limit.saturating_mul(10)
            }
            Some(peer) => {
                let count = rate.peers.entry(peer).or_default();
                *count += 1;
                *count <= limit
            }
        };
        self.counters.rate_limited += u64::from(!allowed);
        allowed
    }

    fn syn(&mut self, syn: &Packet<'_>, data: &[u8], ports: Ports, now: Now) {
        let Some(peer) = syn.from.clone() else {
            self.counters.forged += 1;
            return;
        };
        if !packet::is_for(&syn.nacks, &self.keys.destination().hash()) {
            self.counters.misdirected += 1;
            return;
        }
        // the sum before the signature, the peer's share behind it: a name that is claimed only must not pay
        if !self.allow(None, now) {
            return;
        }
        if syn.from_id == 0 || syn.verify(data, &peer, now.unix_ms).is_err() {
            self.counters.forged += 1;
            return;
        }
        let key = (peer.hash(), syn.from_id);
        if let Some(&id) = self.by_peer.get(&key) {
            return self.repeated_syn(id, syn, now);
        }
        if !self.allow(Some(peer.hash()), now) {
            return;
        }
        let id = self.fresh_id();
        if self.pending >= self.config.backlog || self.connections.len() >= self.config.max_streams
        {
            self.counters.refused += 1;
            for data in connection::reset_packets(syn.from_id, id, 1, &self.keys) {
                self.send_loose(peer.clone(), (ports.to, ports.from), data, true);
            }
            return;
        }
        let until = now.instant + self.config.accept_timeout;
        let (local, remote) = (ports.to, ports.from);
        let phase = Phase::Pending { until };
        let mut connection = self.connection(
            peer.clone(),
            (local, remote),
            (id, syn.from_id),
            phase,
            now.instant,
        );
        connection.syn_received(syn);
        connection.handle(syn, now.instant, &mut Vec::new());
        self.connections.insert(id, connection);
        self.by_peer.insert(key, id);
        self.pending += 1;
        self.events.push_back(Event::Incoming {
            stream: StreamId(id),
            peer,
            local_port: local,
            remote_port: remote,
        });
        self.touch(id);
        self.adopt_early(id, syn.from_id, ports, now);
    }

    /// Our reply was lost: what exists answers, nothing new is opened.
    fn repeated_syn(&mut self, id: u32, syn: &Packet<'_>, now: Now) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.tally.duplicates += 1;
            if connection.phase == Phase::Open {
                connection.recv.want_ack(Duration::ZERO, now.instant);
                self.touch(id);
            }
        } else {
            self.answer_ended(id, syn, now);
        }
    }

    /// Data that the opener sent before it knew our id: it belongs to the stream with its id from these ports.
    fn before_reply(&mut self, packet: &Packet<'_>, data: &[u8], ports: Ports, now: Now) {
        if packet.from_id == 0 || packet.flags & RESET != 0 {
            self.counters.unknown += 1;
            return;
        }
        // the packet names no sender; two peers with the same id and ports at once are told apart by nothing, so that
        // such packets are refused then
        let mut owners = self.connections.values().filter(|c| {
            c.peer_id == packet.from_id && c.local_port == ports.to && c.remote_port == ports.from
        });
        match (owners.next().map(|c| c.local_id), owners.next()) {
            (Some(id), None) => self.for_stream_unnamed(id, data, now),
            (Some(_), Some(_)) => self.counters.unknown += 1,
            (None, _) if self.early.len() < MOST_EARLY => {
                self.counters.early += 1;
                self.early.push_back(Early {
                    peer_id: packet.from_id,
                    ports,
                    data: data.to_vec(),
                    until: now.instant + EARLY_LIFE,
                });
            }
            (None, _) => self.counters.early_dropped += 1,
        }
    }

    /// A packet to id 0 for a stream that is known: its signature's length depends on the peer.
    fn for_stream_unnamed(&mut self, id: u32, data: &[u8], now: Now) {
        let peer = self.connections[&id].peer.clone();
        match Packet::read(data, Some(&peer)) {
            Ok(packet) if packet.has(NO_ACK) || packet.ack_through == 0 => {
                self.for_stream(id, &packet, data, now);
            }
            _ => self.counters.malformed += 1,
        }
    }

    fn adopt_early(&mut self, id: u32, peer_id: u32, ports: Ports, now: Now) {
        let (mine, others) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|early| early.peer_id == peer_id && early.ports == ports);
        self.early = others;
        let mine: VecDeque<Early> = mine;
        for early in mine {
            self.for_stream_unnamed(id, &early.data, now);
        }
    }

    /// Pings are answered, and answers told.
    fn echo(&mut self, packet: &Packet<'_>, data: &[u8], ports: Ports, now: Now) {
        if packet.to_id == 0 {
            let answered = self
                .pings
                .get(&packet.from_id)
                .is_some_and(|ping| packet.payload.starts_with(&ping.payload));
            match self.pings.remove(&packet.from_id) {
                Some(ping) if answered => {
                    let rtt = now.instant.saturating_duration_since(ping.sent);
                    let event = Event::Pong(PingId(packet.from_id), Some(rtt));
                    self.events.push_back(event);
                }
                // another payload than the one we sent: somebody guesses
                Some(ping) => {
                    self.counters.forged += 1;
                    self.pings.insert(packet.from_id, ping);
                }
                None => self.counters.unknown += 1,
            }
            return;
        }
        let Some(from) = packet.from.clone() else {
            self.counters.forged += 1;
            return;
        };
        if !self.allow(None, now) {
            return;
        }
        if packet.verify(data, &from, now.unix_ms).is_err() {
            self.counters.forged += 1;
            return;
        }
        if !self.allow(Some(from.hash()), now) {
            return;
        }
        let pong = Packet {
            from_id: packet.to_id,
            flags: ECHO,
            payload: &packet.payload[..packet.payload.len().min(LONGEST_ECHO)],
            ..Packet::default()
        };
        let data = pong.write(&self.keys);
        self.counters.pongs += 1;
        self.send_loose(from, (ports.to, ports.from), data, false);
    }

    /// To whom a ping went.
    pub fn ping_target(&self, ping: PingId) -> Option<Hash> {
        self.pings.get(&ping.0).map(|ping| ping.to)
    }
}

fn streaming((from, to): (u16, u16)) -> Ports {
    Ports {
        protocol: protocol::STREAMING,
        from,
        to,
    }
}

#[cfg(test)]
mod tests;

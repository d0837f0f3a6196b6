//! All streams of one destination (protocol 6): opening and accepting, ids, pings, and the table of what has ended.
//!
//! ```text
//!   connect accept write read finish reset ping         poll_event
//!        │                                                  ▲
//!  ┌─────▼──────────── Streams: ids, limits, deadlines ─────┴──┐
//!  │  connection: one stream │ profile: what is known of peers │
//!  │   ├ send: window, loss  │ packet: bits, signatures        │
//!  │   ├ recv: order, acks   │                                 │
//!  │   └ rtt                 │ incoming: SYNs, early packets   │
//!  │ ended: the last word    │ ping                            │
//!  └─────┬──────────────────────────────────────────▲──────────┘
//!        ▼                                          │
//!   poll_transmit, deadline             handle, handle_status, handle_timeout
//! ```
mod config;
mod connection;
mod ended;
mod event;
mod incoming;
pub(crate) mod packet;
mod ping;
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
pub use config::{Config, HalfClose, Profile};
use connection::{Change, Connection, Phase, Ready};
use ended::Ended;
pub use event::{Counters, Event, Failure, Info, Outgoing, PingId, StreamId};
use incoming::{Early, Rate};
use packet::{CLOSE, ECHO, Packet, RESET, SYN};
use ping::Ping;
use profile::Profiles;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        self.counters.join(connection.tally);
        Some(connection)
    }

    /// What was counted, of the streams that are open, too.
    pub fn counters(&self) -> Counters {
        let mut all = self.counters;
        for connection in self.connections.values() {
            all.join(connection.tally);
        }
        all
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
        let ping = self.ping_deadline();
        let early = self.early.front().map(|early| early.until);
        let ended = self.ended_order.front().map(|(at, _)| *at);
        [stream, ping, early, ended].into_iter().flatten().min()
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
        self.give_up_pings(now);
        self.drop_early(now);
        self.bury(now);
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

//! Sealed sessions at the node: packets find their session, and what the sessions say becomes peers, paths and packets
//! (Q10 to Q12, Q17, Q22 to Q27).
//!
//! `Sessions` knows pairs and keys, no addresses of the underlay. Here a pair meets its paths:
//!
//! - HELLO goes to every endpoint where the peer may be, together with EPC_REQ (Q27); what answers is nominated.
//! - A nominated endpoint gets three times what came from it until an EPC inside the session has proven it (Q25).
//! - A new session has plain proofs repeated, wakes what waited, and from then on the peer's plain packets are not heard.
use super::limits::source_prefix;
use super::output::{Queue, Way};
use super::path::INITIAL_PACKET;
use super::peer::{Peer, Speech, Standing, Tunnel};
use super::peers::PeerRef;
use super::receive::Arrival;
use super::{Destination, Node, Timer};
use crate::overlay::{Failure, OverlayEvent, OverlaySink, StreamId};
use anode_wire::message::kind as plain_kind;
use anode_wire::packet::{FLAG_FULL_SENDER, FULL_SENDER_HEADER};
use anode_wire::sealed::{
    self, Authentic, Drop, Event, Failed, MAX_DATAGRAM, Now, Outcome, Pair, PeerKey, Plain, Reason,
    Record, SEALED_BODY, SEALED_OVERHEAD, SEALED_TAIL, Sealer, Source, Started, Timestamp, To,
    Transmit, kind,
};
use anode_wire::{Address, Message, PeerId};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

/// The clocks may drift apart this far between two readings (Q17).
const CLOCK_JUMP: Duration = Duration::from_secs(5);
/// The same HELLO goes to one endpoint no more often than this.
const GREET_AGAIN: Duration = Duration::from_millis(100);
/// A stream that nothing wakes looks again after this time.
const UNBLOCK_AFTER: Duration = Duration::from_millis(250);
/// A peer that only knows the draft is offered a session again after this time.
const OFFER_AGAIN: Duration = Duration::from_secs(300);
/// Body of a message for the program (JOIN, JOINED) at most.
const MAX_CONTROL: usize = 512;
/// What each FRAGMENT costs beside its slice: the packet, its type, id, index and count.
const FRAGMENT_OVERHEAD: usize = SEALED_OVERHEAD + 1 + 6;

/// What the node keeps for its sessions.
pub(super) struct Sealing {
    /// The last reading of both clocks.
    read: Now,
    /// Whose session it is; rebuilt when it has grown over the bound.
    known: HashMap<PeerKey, (PeerRef, PeerId)>,
    /// The program was told that there is something to be kept.
    persist_told: bool,
}

impl Sealing {
    pub fn new(now: Now) -> Self {
        Self {
            read: now,
            known: HashMap::new(),
            persist_told: false,
        }
    }

    /// Both clocks, the wall clock as it goes on from its last reading.
    pub fn clock(&self, at: Instant) -> Now {
        let passed = at.saturating_duration_since(self.read.at).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        Now {
            at,
            wall: Timestamp(self.read.wall.0.saturating_add(passed)),
        }
    }
}

/// How programs' bytes go to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Channel {
    Sealed(PeerKey),
    Plain,
}

/// Which queue a message waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Control,
    Datagrams,
}

impl Node {
    /// A reading of both clocks, at least once a second while packets flow. If they have jumped apart, the machine slept,
    /// was set, or is a copy of another: all sessions are dropped before anything more is sealed (Q17).
    pub fn set_clock(&mut self, now: Now) {
        let expected = self.sealing.clock(now.at).wall;
        let jump = Duration::from_micros(expected.0.abs_diff(now.wall.0));
        self.sealing.read = now;
        if jump > CLOCK_JUMP {
            self.counters.clock_jumps += 1;
            self.sessions.drop_all();
            self.settle_sessions(now.at);
        }
    }

    /// How bytes go to this peer of the address now; `None`: they wait for a session.
    pub(super) fn channel(&self, found: PeerRef, digit: PeerId) -> Option<Channel> {
        if self.config.security.plain == Plain::Only {
            return Some(Channel::Plain);
        }
        let peer = self.peers.get(found)?;
        if let Some(tunnel) = peer.tunnel(digit) {
            return Some(Channel::Sealed(tunnel.key));
        }
        let draft = self.config.security.plain == Plain::Allow && peer.speech != Speech::Unknown;
        draft.then_some(Channel::Plain)
    }

    /// Whether a message of `body` bytes can go to this peer at once.
    pub(super) fn can_carry(&self, found: PeerRef, digit: PeerId, body: usize) -> bool {
        let Some(route) = self.peers.get(found).and_then(|peer| peer.route(digit)) else {
            return false;
        };
        match self.channel(found, digit) {
            Some(Channel::Sealed(_)) => route.affords(sealed_len(body, route.max_packet)),
            Some(Channel::Plain) => route.credit.is_none(),
            None => false,
        }
    }

    /// Starts a handshake if there is none, and no session.
    pub(super) fn want_session(&mut self, now: Instant, found: PeerRef, digit: PeerId) {
        if self.config.security.plain == Plain::Only {
            return;
        }
        let Some(address) = self.peers.get(found).map(|peer| peer.address) else {
            return;
        };
        let pair = Pair {
            address,
            peer: digit,
        };
        let clock = self.sealing.clock(now);
        if self.sessions.start(clock, pair, Reason::Traffic) == Started::Up {
            self.adopt_sessions(found, &address);
        }
        self.settle_sessions(now);
    }

    /// A peer that speaks the draft is offered a session now and then.
    pub(super) fn offer_session(&mut self, now: Instant, found: PeerRef, digit: PeerId) {
        if let Some(Peer {
            speech: Speech::Draft { try_again },
            ..
        }) = self.peers.get_mut(found)
            && *try_again <= now
        {
            *try_again = now + OFFER_AGAIN;
            self.want_session(now, found, digit);
        }
    }

    /// The peer answers, and never with a WELCOME: where the operator allows it, and it was never seen sealed, the draft
    /// is spoken with it (Q23). True if so.
    pub(super) fn speak_draft(&mut self, now: Instant, found: PeerRef) -> bool {
        if self.config.security.plain != Plain::Allow {
            return false;
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return false;
        };
        if peer.is_sealed() || self.sessions.was_sealed(&peer.address) {
            return false;
        }
        if peer.speech == Speech::Unknown {
            let try_again = now + OFFER_AGAIN;
            peer.speech = Speech::Draft { try_again };
        }
        true
    }

    /// Takes sessions into use that the peer's entry does not know: it was forgotten and is here again.
    fn adopt_sessions(&mut self, found: PeerRef, address: &Address) {
        for digit in (0..16).filter_map(PeerId::new) {
            let pair = Pair {
                address: *address,
                peer: digit,
            };
            if let Some(key) = self.sessions.lookup(&pair) {
                self.adopt_session(found, digit, key);
            }
        }
    }

    fn adopt_session(&mut self, found: PeerRef, digit: PeerId, key: PeerKey) {
        if let Some(up) = self.sessions.state(key)
            && let Some(peer) = self.peers.get_mut(found)
        {
            peer.add_tunnel(Tunnel {
                digit,
                key,
                pq: up.pq,
            });
            self.sealing.known.insert(key, (found, digit));
        }
    }

    /// Whose key it is. A peer that had to leave the table gets a new place: it has just proven itself.
    fn peer_of(&mut self, now: Instant, key: PeerKey) -> Option<(PeerRef, PeerId)> {
        if let Some((found, digit)) = self.sealing.known.get(&key).copied()
            && self.peers.get(found).is_some()
        {
            return Some((found, digit));
        }
        let pair = self.sessions.pair(key)?;
        let found = self.learn_peer(now, pair.address, Standing::Met)?;
        if let Some(peer) = self.peers.get_mut(found) {
            peer.sources.peer = true;
        }
        if self.sealing.known.len() >= 2 * self.sessions.config().limits.peers {
            self.sealing.known.clear();
        }
        self.sealing.known.insert(key, (found, pair.peer));
        self.adopt_session(found, pair.peer, key);
        Some((found, pair.peer))
    }

    /// A packet has come. False: it is none of the sessions', and nothing was done.
    pub(super) fn handle_session_packet(
        &mut self,
        now: Instant,
        way: &Way,
        bytes: &mut [u8],
        sink: &mut dyn OverlaySink,
    ) -> bool {
        let mut endpoint = [0; ENDPOINT_LEN];
        let source = Source {
            endpoint: encode_destination(&way.reply_to(), &mut endpoint),
            network: source_prefix(way.from.ip()),
        };
        let clock = self.sealing.clock(now);
        let (from, message_kind, whole, range) = match self.sessions.handle(clock, source, bytes) {
            Outcome::Plain => return false,
            Outcome::Dropped(Drop::Malformed) => {
                self.counters.dropped_malformed += 1;
                self.settle_sessions(now);
                return true;
            }
            Outcome::Dropped(_) => {
                self.counters.dropped_sealed += 1;
                self.settle_sessions(now);
                return true;
            }
            Outcome::Consumed { from } => {
                if let Some(from) = from {
                    self.note_sealed(now, &from, way, true);
                }
                self.settle_sessions(now);
                return true;
            }
            Outcome::Opened { from, kind, body } => (from, kind, None, body),
            Outcome::Reassembled { from, kind, body } => {
                self.counters.rx_reassembled += 1;
                (from, kind, Some(body), 0..0)
            }
        };
        self.counters.rx_sealed += 1;
        // An EPC is the proof itself: a question to where it comes from would be one too many.
        let sender = self.note_sealed(now, &from, way, message_kind != plain_kind::EPC);
        self.settle_sessions(now);
        let Some((sender, sender_peer)) = sender else {
            return true;
        };
        let body = whole.as_deref().unwrap_or(&bytes[range]);
        let arrival = Arrival {
            way: *way,
            hop_count: from.hop_count,
            sender_peer,
            recipient_peer: self.own.peer_id,
            body_len: body.len(),
            session: Some(from.peer),
            proven: self
                .peers
                .get(sender)
                .is_some_and(|peer| peer.is_proven_at(&way.from)),
            repeated: false,
        };
        match message_kind {
            kind::JOIN | kind::JOINED => {
                self.handle_control(now, sender, way, message_kind, body);
            }
            _ => self.handle_message(now, sender, arrival, message_kind, body, sink),
        }
        true
    }

    /// What every sealed packet does, whatever it says (Q25).
    fn note_sealed(
        &mut self,
        now: Instant,
        from: &Authentic,
        way: &Way,
        nominate: bool,
    ) -> Option<(PeerRef, PeerId)> {
        let (found, digit) = self.peer_of(now, from.peer)?;
        let peer = self.peers.get_mut(found)?;
        peer.note_heard(now, way.len);
        let on_used_path = peer.active_path().is_some_and(|path| {
            path.endpoint == way.from && path.peer_id == digit && path.is_proven()
        });
        if on_used_path && peer.is_sealed() {
            return Some((found, digit));
        }
        if !peer.is_sealed() {
            peer.answered = Some(now);
        }
        let (ipv6, standing) = (peer.ipv6, peer.standing);
        if standing == Standing::Heard {
            let limit = self.config.limits.strangers;
            self.peers.promote(now, found, Standing::Met, limit);
        }
        if from.newest && nominate {
            self.nominate(now, found, way, from.hop_count, digit, way.len);
        } else if let Some(path) = self.peers.get_mut(found)?.path_mut(&way.from) {
            path.earn(way.len);
        }
        if let Some(peer) = self.peers.get_mut(found)
            && std::mem::take(&mut peer.has_blocked_streams)
        {
            self.wake_streams_of(found);
        }
        self.contact_known(now, found, ipv6);
        Some((found, digit))
    }

    /// A message for the program itself; whoever has a key may send one.
    fn handle_control(
        &mut self,
        now: Instant,
        sender: PeerRef,
        way: &Way,
        message_kind: u8,
        body: &[u8],
    ) {
        let limits = &self.config.limits;
        let allowed = body.len() <= MAX_CONTROL
            && self.budgets.control_sources.take(now, way.from.ip())
            && self.budgets.controls.take(now, limits.controls);
        let Some(peer) = self.peers.get(sender).filter(|_| allowed) else {
            self.counters.dropped_controls += 1;
            return;
        };
        self.event(OverlayEvent::Control {
            from: peer.address,
            kind: message_kind,
            body: body.to_vec(),
        });
    }

    /// Sends what the sessions have to send, and does what they say.
    pub(super) fn settle_sessions(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.sessions.poll_transmit() {
                self.send_for_sessions(now, transmit);
            }
            let Some(event) = self.sessions.poll_event() else {
                return;
            };
            self.handle_session_event(now, event);
        }
    }

    fn handle_session_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::SessionUp {
                peer,
                pair,
                requested,
                pq,
                rekeyed,
            } => self.session_up(now, peer, pair, requested, pq, rekeyed),
            Event::SessionDown { peer, pair, .. } => {
                self.sealing.known.remove(&peer);
                if let Some(found) = self.peers.find(pair.address.as_bytes())
                    && let Some(entry) = self.peers.get_mut(found)
                {
                    entry.tunnels.retain(|tunnel| tunnel.key != peer);
                }
            }
            Event::HandshakeFailed { pair, reason } => {
                self.counters.handshakes_failed += 1;
                let Some(found) = self.peers.find(pair.address.as_bytes()) else {
                    return;
                };
                let Some(peer) = self.peers.get_mut(found) else {
                    return;
                };
                peer.hello = None;
                let (ipv6, sealed) = (peer.ipv6, peer.is_sealed());
                match reason {
                    // Whoever waits is told by the contact's own time.
                    Failed::Timeout => {}
                    _ if sealed => {}
                    Failed::KemTimeout => self.fail_contact(now, ipv6, Failure::Unreachable),
                    Failed::PqRequired | Failed::Timestamp => {
                        self.fail_contact(now, ipv6, Failure::Policy);
                    }
                }
            }
            Event::Persist(_) => {
                if !std::mem::replace(&mut self.sealing.persist_told, true) {
                    self.event(OverlayEvent::Persist);
                }
            }
        }
    }

    fn session_up(
        &mut self,
        now: Instant,
        key: PeerKey,
        pair: Pair,
        requested: Option<Pair>,
        pq: bool,
        rekeyed: bool,
    ) {
        self.counters.sessions += 1;
        let Some((found, digit)) = self.peer_of(now, key) else {
            return;
        };
        let called = requested.map(|requested| requested.peer);
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        peer.add_tunnel(Tunnel { digit, key, pq });
        if let Some(digit) = called.filter(|called| *called != PeerId::ANY) {
            peer.add_tunnel(Tunnel { digit, key, pq });
        }
        debug_assert_eq!(pair.peer, digit);
        peer.hello = None;
        peer.answered = None;
        peer.speech = Speech::Unknown;
        if !rekeyed {
            peer.demote_paths(now);
            self.handle_peer_timer(now, found);
        }
        self.contact_made(now, found);
    }

    /// A packet of the sessions' own: handshakes, KEM, confirmations, errors. They are few, and the most of them answer
    /// something: they count against what an unproven endpoint may get, but are not held back.
    fn send_for_sessions(&mut self, now: Instant, transmit: Transmit) {
        let Transmit { to, packet } = transmit;
        match to {
            To::Endpoint(endpoint) => {
                if let Some(destination) = decode_destination(&endpoint) {
                    self.push_raw(destination, &packet);
                }
            }
            To::Peer(pair) => {
                let Some(found) = self.peers.find(pair.address.as_bytes()) else {
                    return;
                };
                if is_hello(&packet) {
                    if let Some(peer) = self.peers.get_mut(found) {
                        peer.hello = Some(packet.into());
                    }
                    return self.greet_everywhere(now, found);
                }
                let Some(peer) = self.peers.get_mut(found) else {
                    return;
                };
                if let Some(route) = peer.stream_route(pair.peer) {
                    peer.spend(&route.destination.to, packet.len());
                    peer.tx_bytes += packet.len() as u64;
                    self.push_raw(route.destination, &packet);
                }
            }
        }
    }

    fn push_raw(&mut self, destination: Destination, packet: &[u8]) {
        if !self
            .control
            .push(destination, |out| out.extend_from_slice(packet))
        {
            self.counters.dropped_output += 1;
        }
    }

    /// The HELLO goes where the peer is; where nobody knows, to all places where it may be.
    fn greet_everywhere(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let sure = peer
            .active_path()
            .filter(|path| path.is_proven() && !path.is_suspect() && !peer.is_stale(now))
            .map(|path| path.endpoint);
        let places: Vec<(SocketAddr, usize)> = peer
            .paths
            .iter()
            .filter(|path| sure.is_none_or(|sure| path.endpoint == sure || path.is_probed()))
            .map(|path| (path.endpoint, path.socket))
            .collect();
        for (endpoint, socket) in places {
            if let Some(peer) = self.peers.get_mut(found)
                && let Some(path) = peer.path_mut(&endpoint)
            {
                path.greeted = None;
            }
            self.greet(now, found, endpoint, socket);
        }
    }

    /// The HELLO that waits for an answer goes along with a question to an endpoint.
    pub(super) fn greet(
        &mut self,
        now: Instant,
        found: PeerRef,
        endpoint: SocketAddr,
        socket: usize,
    ) {
        let same_family = |own: &SocketAddr| own.is_ipv4() == endpoint.is_ipv4();
        if !self.sockets.get(socket).is_some_and(same_family) {
            return;
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let Some(hello) = peer.hello.clone() else {
            return;
        };
        let Some(path) = peer.path_mut(&endpoint) else {
            return;
        };
        if path.greeted.is_some_and(|at| now < at + GREET_AGAIN) {
            return;
        }
        path.greeted = Some(now);
        peer.tx_bytes += hello.len() as u64;
        let destination = Destination {
            to: endpoint,
            socket,
            source: None,
        };
        self.push_raw(destination, &hello);
    }

    /// Queues a small message inside a session.
    pub(super) fn send_sealed_control(
        &mut self,
        now: Instant,
        to: PeerRef,
        key: PeerKey,
        destination: Destination,
        message: &Message<'_>,
    ) {
        if self
            .push_sealed(now, to, key, destination, Lane::Control, message)
            .is_err()
        {
            self.counters.dropped_output += 1;
        }
    }

    /// Seals a message into a queue; in fragments where it is larger than the path (Q21).
    pub(super) fn push_sealed(
        &mut self,
        now: Instant,
        to: PeerRef,
        key: PeerKey,
        destination: Destination,
        lane: Lane,
        message: &Message<'_>,
    ) -> Result<(), Failure> {
        let clock = self.sealing.clock(now);
        let Some(peer) = self.peers.get_mut(to) else {
            return Err(Failure::Unreachable);
        };
        let path = peer.path_mut(&destination.to);
        let max_packet = usize::from(path.map_or(INITIAL_PACKET, |path| path.max_packet));
        let total = sealed_len(message.body_len(), max_packet);
        if total <= max_packet {
            let Ok(mut sealer) = self.sessions.sealer(clock, key) else {
                return Err(self.lose_tunnel(now, to, key));
            };
            let queue = match lane {
                Lane::Control => &mut self.control,
                Lane::Datagrams => &mut self.datagrams,
            };
            if !queue.push_if(destination, |out| seal_into(&mut sealer, message, out)) {
                return Err(Failure::Busy);
            }
            self.counters.tx_sealed += 1;
        } else {
            let mut body = Vec::with_capacity(message.body_len());
            message.emit(&mut body);
            if body.len() >= MAX_DATAGRAM {
                return Err(Failure::TooBig {
                    max: MAX_DATAGRAM - 1 - (body.len() - payload_len(message)),
                });
            }
            // Large ones never go before streams.
            if !self.datagrams.has_room(total) {
                return Err(Failure::Busy);
            }
            let fragments =
                self.sessions
                    .seal_fragments(clock, key, message.kind(), &body, max_packet);
            let Ok(fragments) = fragments else {
                return Err(self.lose_tunnel(now, to, key));
            };
            self.counters.tx_fragmented += 1;
            self.counters.tx_sealed += fragments.len() as u64;
            push_all(&mut self.datagrams, destination, &fragments);
        }
        if let Some(peer) = self.peers.get_mut(to) {
            peer.tx_bytes += total as u64;
            peer.spend(&destination.to, total);
        }
        Ok(())
    }

    /// The session seals nothing more: another is wanted (Q16).
    pub(super) fn lose_tunnel(&mut self, now: Instant, found: PeerRef, key: PeerKey) -> Failure {
        if let Some(peer) = self.peers.get_mut(found) {
            peer.tunnels.retain(|tunnel| tunnel.key != key);
        }
        let digit = self
            .sessions
            .pair(key)
            .map_or(PeerId::ANY, |pair| pair.peer);
        self.want_session(now, found, digit);
        Failure::Busy
    }

    /// Gives an address places of its own in tables and budgets (Q7).
    pub fn trust(&mut self, address: &Address) {
        self.sessions.trust(address);
    }

    /// The opposite.
    pub fn distrust(&mut self, address: &Address) {
        self.sessions.distrust(address);
    }

    pub(super) fn drop_sessions_of(&mut self, now: Instant, address: &Address) {
        self.sessions.distrust(address);
        for digit in (0..16).filter_map(PeerId::new) {
            let pair = Pair {
                address: *address,
                peer: digit,
            };
            if let Some(key) = self.sessions.lookup(&pair) {
                self.sessions.drop_peer(key);
            }
        }
        self.settle_sessions(now);
    }

    /// What has to survive a restart, of every peer: timestamps and pins (Q5, Q13, Q23).
    pub fn export_records(&mut self) -> Vec<Record> {
        self.sealing.persist_told = false;
        self.sessions.records().collect()
    }

    /// What an earlier run exported. Nothing goes back by it.
    pub fn import_records(&mut self, now: Instant, records: &[Record]) {
        let clock = self.sealing.clock(now);
        for record in records {
            self.sessions.restore(clock, record);
        }
    }

    /// By an operator's word: an address that was seen sealed may be spoken to in plain again, and without ML-KEM (Q23).
    pub fn forget_pins(&mut self, address: &Address) {
        for digit in (0..16).filter_map(PeerId::new) {
            self.sessions.forget(&Pair {
                address: *address,
                peer: digit,
            });
        }
    }

    /// What the sessions have counted.
    pub fn session_counters(&self) -> &sealed::Counters {
        self.sessions.counters()
    }

    /// The name of the handshake that the present session with an address came of, the same on both sides (Q29).
    pub fn session_hash(&self, address: &Address) -> Option<[u8; 32]> {
        let found = self.peers.find(address.as_bytes())?;
        let tunnel = self.peers.get(found)?.tunnel(PeerId::ANY)?;
        self.sessions.state(tunnel.key).map(|up| up.handshake_hash)
    }

    /// Wants a session with an address. True: there is one; false: ask again. The failure of a try is told for a moment.
    pub fn connect(&mut self, now: Instant, address: &Address) -> Result<bool, Failure> {
        if self.config.security.plain == Plain::Only {
            return Err(Failure::Policy);
        }
        let found = self
            .learn_peer(now, *address, Standing::Heard)
            .ok_or(Failure::Busy)?;
        let ready = matches!(self.channel(found, PeerId::ANY), Some(Channel::Sealed(_)))
            && self.can_carry(found, PeerId::ANY, MAX_CONTROL);
        if !ready {
            self.reach(now, address.ipv6(PeerId::ANY), MAX_CONTROL)?;
        }
        Ok(ready)
    }

    /// Sends a message of the program itself (JOIN, JOINED) inside the present session with an address.
    pub fn send_sealed(
        &mut self,
        now: Instant,
        address: &Address,
        message_kind: u8,
        body: &[u8],
    ) -> Result<(), Failure> {
        let found = self
            .peers
            .find(address.as_bytes())
            .ok_or(Failure::NoSuchPeer)?;
        let peer = self.peers.get(found).ok_or(Failure::NoSuchPeer)?;
        let key = peer.tunnel(PeerId::ANY).ok_or(Failure::Unreachable)?.key;
        let route = peer.route(PeerId::ANY).ok_or(Failure::Unreachable)?;
        let len = SEALED_BODY + body.len() + SEALED_TAIL;
        if len > route.max_packet {
            return Err(Failure::TooBig {
                max: route.max_packet - SEALED_BODY - SEALED_TAIL,
            });
        }
        if !route.affords(len) {
            self.counters.dropped_unproven += 1;
            return Err(Failure::Busy);
        }
        let clock = self.sealing.clock(now);
        let packet = match self.sessions.seal_copy(clock, key, message_kind, body) {
            Ok(packet) => packet,
            Err(_) => return Err(self.lose_tunnel(now, found, key)),
        };
        if let Some(peer) = self.peers.get_mut(found) {
            peer.spend(&route.destination.to, len);
            peer.tx_bytes += len as u64;
        }
        self.counters.tx_sealed += 1;
        self.push_raw(route.destination, &packet);
        self.note_use(now, found, false);
        Ok(())
    }

    /// A stream has no session to be sealed in, or nowhere to go: it comes again after a while, or when something has changed.
    pub(super) fn block_stream(&mut self, now: Instant, found: PeerRef, id: StreamId) {
        if let Some(peer) = self.peers.get_mut(found) {
            peer.has_blocked_streams = true;
        }
        self.timers.set(
            Timer::Stream(id),
            now + UNBLOCK_AFTER,
            "stream without a session",
        );
    }
}

fn push_all(queue: &mut Queue, destination: Destination, packets: &[Vec<u8>]) {
    for packet in packets {
        // There was room for all of them.
        queue.push(destination, |out| out.extend_from_slice(packet));
    }
}

/// Appends one sealed packet.
fn seal_into(sealer: &mut Sealer<'_>, message: &Message<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.resize(start + SEALED_BODY, 0);
    message.emit(out);
    out.resize(out.len() + SEALED_TAIL, 0);
    sealer.seal(message.kind(), &mut out[start..]).is_ok()
}

/// Bytes on the wire of a message with this body, in fragments if it must be.
pub(super) fn sealed_len(body: usize, max_packet: usize) -> usize {
    let len = SEALED_BODY + body + SEALED_TAIL;
    if len <= max_packet {
        return len;
    }
    let slice = max_packet.saturating_sub(FRAGMENT_OVERHEAD).max(1);
    body + 1 + (body + 1).div_ceil(slice) * FRAGMENT_OVERHEAD
}

/// What of a message's body the program has given.
pub(super) fn payload_len(message: &Message<'_>) -> usize {
    match message {
        Message::Dgram { payload, .. } | Message::IpPacket { payload, .. } => payload.len(),
        // Less the token in front.
        Message::Ping(payload) => payload.len().saturating_sub(8),
        _ => 0,
    }
}

fn is_hello(packet: &[u8]) -> bool {
    packet
        .get(1)
        .is_some_and(|flags| flags & FLAG_FULL_SENDER != 0)
        && packet.get(FULL_SENDER_HEADER - 1) == Some(&kind::HELLO)
}

/// A destination as the sessions keep it: family, address, port, scope, socket, and own address.
const ENDPOINT_LEN: usize = 1 + 16 + 2 + 4 + 2 + 1 + 16;

fn encode_destination<'a>(from: &Destination, out: &'a mut [u8; ENDPOINT_LEN]) -> &'a [u8] {
    let (family, ip) = octets(from.to.ip());
    let scope = match from.to {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    let (own_family, own) = from.source.map_or((0, [0; 16]), octets);
    out[0] = family;
    out[1..17].copy_from_slice(&ip);
    out[17..19].copy_from_slice(&from.to.port().to_be_bytes());
    out[19..23].copy_from_slice(&scope.to_be_bytes());
    // A node has a handful of sockets.
    out[23..25].copy_from_slice(&(from.socket as u16).to_be_bytes());
    out[25] = own_family;
    out[26..].copy_from_slice(&own);
    out
}

fn decode_destination(bytes: &[u8]) -> Option<Destination> {
    let bytes: &[u8; ENDPOINT_LEN] = bytes.try_into().ok()?;
    let ip = |at: usize| -> Option<[u8; 16]> { bytes[at..at + 16].try_into().ok() };
    let port = u16::from_be_bytes([bytes[17], bytes[18]]);
    let scope = u32::from_be_bytes([bytes[19], bytes[20], bytes[21], bytes[22]]);
    let to = match address(bytes[0], ip(1)?)? {
        IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
    };
    Some(Destination {
        to,
        socket: usize::from(u16::from_be_bytes([bytes[23], bytes[24]])),
        source: address(bytes[25], ip(26)?),
    })
}

fn octets(ip: IpAddr) -> (u8, [u8; 16]) {
    match ip {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (6, ip.octets()),
    }
}

fn address(family: u8, octets: [u8; 16]) -> Option<IpAddr> {
    let ip = std::net::Ipv6Addr::from(octets);
    match family {
        4 => ip.to_ipv4_mapped().map(IpAddr::V4),
        6 => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_survive_the_sessions() {
        let cases = [
            ("192.0.2.1:8737", 0, None),
            ("192.0.2.1:8737", 1, Some("198.51.100.7")),
            ("[2001:db8::1]:1", 3, Some("2001:db8::2")),
        ];
        for (to, socket, source) in cases {
            let destination = Destination {
                to: to.parse().unwrap(),
                socket,
                source: source.map(|ip| ip.parse().unwrap()),
            };
            let mut bytes = [0; ENDPOINT_LEN];
            let encoded = encode_destination(&destination, &mut bytes);
            assert_eq!(decode_destination(encoded), Some(destination));
        }
        let scoped = Destination {
            to: SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 42)),
            socket: 2,
            source: None,
        };
        let mut bytes = [0; ENDPOINT_LEN];
        let encoded = encode_destination(&scoped, &mut bytes);
        assert_eq!(decode_destination(encoded), Some(scoped));
        assert_eq!(decode_destination(b"short"), None);
    }
}

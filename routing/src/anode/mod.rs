//! The Anode overlay as a sans-IO state machine: datagrams, time and randomness come in; packets, events and the next deadline come out.
//!
//! ```text
//!  handle_datagram ─▶ receive ─┬─ sealing (sessions) ─────┬─▶ discovery   EPC, EPI, NETID, WHOIS, ERROR
//!                        │     └─ guard (MAC) ── peers ───┼─▶ ping        PING, PONG
//!                        └─ lan (beacons), rendezvous     ├─▶ datagram    DGRAM, IPPKT
//!  open, write, ping … ─▶ contact (lookup, first path) ───┴─▶ streams     S_*
//!                                                             │
//!  poll_transmit ◀── output (batches) ◀── control, datagrams ─┘          timers ─▶ deadline
//! ```
//!
//! Everything that a packet of a stranger can make grow has a bound in [`Limits`] and a counter in [`Counters`].
mod config;
mod contact;
mod counters;
mod datagram;
mod dht;
mod direct;
mod discovery;
mod guard;
mod lan;
mod limits;
mod links;
mod mtu;
mod output;
mod path;
mod peer;
mod peers;
mod ping;
mod place;
mod receive;
mod refusal;
mod relay;
mod relays;
mod rendezvous;
mod sealing;
#[cfg(test)]
mod sim;
mod snapshot;
mod streams;
#[cfg(test)]
mod tests;
mod timers;
mod turn;
mod upkeep;

pub use anode_wire::sealed::{Now, Plain, Pq, Record, Timestamp};
pub use config::{ConfiguredPeer, Interface, Limits, NodeConfig, RelayConfig, Security};
pub use counters::Counters;
pub use dht::MAX_RELOAD;
pub use direct::{Filtering, Mapping, NetReport, RelayReach, Relayed, SECOND_SOCKET, SocketOrder};
pub(crate) use limits::Bucket;
pub use limits::Rate;
pub(crate) use limits::source_prefix;
pub use output::{Destination, Ecn, MAX_BATCH_BYTES, MAX_BATCH_SEGMENTS, Received, TransmitBatch};
pub use path::{INITIAL_PACKET, Origin};
pub use place::{Place, Transport};
pub use relay::{Onward, Registration};
pub use relays::{MAX_RELAYS, RelaySnapshot, ZoneRelay};
pub use rendezvous::RendezvousCounters;
pub use snapshot::{Lookup, PathSnapshot, PeerSnapshot, Pin};
pub use turn::TurnOrder;

use crate::overlay::{Failure, OverlayEvent, sooner};
use anode_wire::sealed::{self, Sessions};
use anode_wire::{Address, Identity, Message, PeerId};
use contact::Contacts;
use direct::Direct;
use discovery::Checks;
use guard::{Envelope, Own};
use lan::Lan;
use limits::SourceBuckets;
use links::Links;
use output::{Queue, Way};
use peer::Standing;
use peers::{PeerRef, PeerTable};
use ping::Pings;
use rand_core::CryptoRng;
use receive::Arrival;
use relay::Relay;
use relays::{Registrations, ZoneRelays};
use rendezvous::Rendezvous;
use sealing::Sealing;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;
use streams::{Carry, StreamTable};
use timers::{Timer, Timers};
use turn::Turn;

/// One node of the overlay, without its sockets.
pub struct Node {
    own: Own,
    config: NodeConfig,
    rng: Box<dyn CryptoRng + Send>,
    sessions: Sessions,
    sealing: Sealing,
    sockets: Vec<SocketAddr>,
    links: Links,
    peers: PeerTable,
    contacts: Contacts,
    checks: Checks,
    pings: Pings,
    streams: StreamTable,
    carry: Carry,
    lan: Lan,
    control: Queue,
    datagrams: Queue,
    /// Whose turn it is when both datagrams and streams have something to send.
    streams_next: bool,
    timers: Timers,
    turn: Turn,
    events: VecDeque<OverlayEvent>,
    budgets: Budgets,
    counters: Counters,
    direct: Direct,
    /// A DHT can be asked for who is not found ([`Node::set_in_dht`]).
    in_dht: bool,
    /// Raised whenever the places change where others may reach us.
    places_changed: u64,
    zone_relays: Vec<ZoneRelays>,
    registrations: Registrations,
    relay: Option<Box<Relay>>,
    rendezvous: Rendezvous,
    forwarded: Queue,
    scratch: Vec<u8>,
}

struct Budgets {
    first_contacts: Bucket,
    first_contact_sources: SourceBuckets,
    mac_failure_sources: SourceBuckets,
    reply_sources: SourceBuckets,
    netid: Bucket,
    errors: Bucket,
    sealed_only: Bucket,
    controls: Bucket,
    control_sources: SourceBuckets,
    reloads: Bucket,
    reload_sources: SourceBuckets,
}

/// Whether a packet must carry the whole sender address (D20).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// As A41 says.
    Short,
    /// EPC_REQ, PING and retransmissions.
    Full,
}

impl Node {
    /// A node that knows its key and what the operator said. `rngs` are cryptographic ones, for the node and for its
    /// sessions; both ask the system at each use outside of simulations (Q17).
    pub fn new(
        identity: Identity,
        mut config: NodeConfig,
        rngs: [Box<dyn CryptoRng + Send>; 2],
        now: Now,
    ) -> Self {
        let [mut rng, sessions_rng] = rngs;
        let mut session_limits = sealed::Limits::default();
        if let Some(relay) = &config.relay {
            // Who is registered must not have to make room for strangers.
            let places = relay.peers + relay.peers / 4;
            config.limits.strangers = config.limits.strangers.max(places);
            session_limits.peers = session_limits.peers.max(places);
            session_limits.agreements = session_limits.agreements.max(places);
        }
        let mut key = || (rng.next_u64(), rng.next_u64());
        let limits = &config.limits;
        let budgets = Budgets {
            first_contacts: Bucket::default(),
            first_contact_sources: SourceBuckets::new(limits.first_contacts_per_source, key()),
            mac_failure_sources: SourceBuckets::new(limits.mac_failures_per_source, key()),
            reply_sources: SourceBuckets::new(limits.replies_per_source, key()),
            netid: Bucket::default(),
            errors: Bucket::default(),
            sealed_only: Bucket::default(),
            controls: Bucket::default(),
            control_sources: SourceBuckets::new(limits.controls_per_source, key()),
            reloads: Bucket::default(),
            reload_sources: SourceBuckets::new(limits.reloads_per_source, key()),
        };
        let lan = Lan::new(limits, key());
        let direct = Direct::new(key());
        let relay = config.relay.map(|relay| Box::new(Relay::new(relay, key())));
        let sessions = Sessions::new(
            &identity,
            sealed::Config {
                peer: config.peer_id,
                pq: config.security.pq,
                plain: config.security.plain,
                limits: session_limits,
            },
            sessions_rng,
        );
        let mut node = Self {
            sessions,
            sealing: Sealing::new(now),
            own: Own::new(identity, config.peer_id),
            rng,
            sockets: Vec::new(),
            links: Links::default(),
            peers: PeerTable::default(),
            contacts: Contacts::default(),
            checks: Checks::default(),
            pings: Pings::default(),
            streams: StreamTable::default(),
            carry: Carry::default(),
            lan,
            control: Queue::new(limits.control_bytes),
            datagrams: Queue::new(limits.datagram_bytes),
            streams_next: false,
            timers: Timers::default(),
            turn: Turn::default(),
            events: VecDeque::new(),
            budgets,
            counters: Counters::default(),
            direct,
            in_dht: false,
            places_changed: 0,
            zone_relays: Vec::new(),
            registrations: Registrations::default(),
            relay,
            rendezvous: Rendezvous::default(),
            forwarded: Queue::new(limits.forwarded_bytes),
            scratch: Vec::new(),
            config,
        };
        for peer in std::mem::take(&mut node.config.peers) {
            node.add_peer(now.at, peer.address, &peer.places, true);
        }
        node
    }

    /// Our address.
    pub fn address(&self) -> &Address {
        &self.own.address
    }

    /// Our synthetic addresses, digit 0 first, then our peer id's where we have one.
    pub fn local(&self) -> Vec<Ipv6Addr> {
        let mut local = vec![self.own.ipv6];
        if self.own.peer_id != PeerId::ANY {
            local.push(self.own.address.ipv6(self.own.peer_id));
        }
        local
    }

    /// The local addresses of the sockets; their places in the list are the socket numbers of packets in and out.
    pub fn set_sockets(&mut self, sockets: Vec<SocketAddr>) {
        self.sockets = sockets;
        let found: Vec<PeerRef> = self.peers.iter().map(|(found, _)| found).collect();
        for found in found {
            let paths = self
                .peers
                .get(found)
                .into_iter()
                .flat_map(|peer| &peer.paths);
            let chosen: Vec<usize> = paths
                .map(|path| match path.endpoint {
                    Place::Udp(_) if !direct::is_extra(path.socket) => {
                        self.socket_for(&path.endpoint).unwrap_or(0)
                    }
                    _ => path.socket,
                })
                .collect();
            if let Some(peer) = self.peers.get_mut(found) {
                for (path, socket) in peer.paths.iter_mut().zip(chosen) {
                    path.socket = socket;
                }
            }
        }
    }

    /// Names a peer and where it may be. A pinned one is never forgotten; its places are asked when traffic wants it.
    pub fn add_peer(&mut self, now: Instant, address: Address, places: &[Place], pinned: bool) {
        if address == self.own.address {
            return;
        }
        let standing = if pinned {
            Standing::Kept
        } else {
            Standing::Met
        };
        let Some(found) = self.learn_peer(now, address, standing) else {
            return;
        };
        for place in places {
            // Before the sockets are known any number will do: `set_sockets` corrects it.
            let socket = self.socket_for(place).unwrap_or(0);
            let Some(peer) = self.peers.get_mut(found) else {
                return;
            };
            if let Some(path) = peer.add_path(now, *place, socket, Origin::Configured) {
                path.origin = Origin::Configured;
            }
        }
        if let Some(peer) = self.peers.get_mut(found) {
            peer.sources.config |= pinned;
            if places.iter().any(|place| !place.transport().is_stream()) {
                peer.want_datagrams(now);
            }
        }
        self.schedule_peer(now, found);
        if pinned {
            self.trust(&address);
            self.want(now, found);
        }
        self.probe_if_wanted(now, found);
    }

    /// Forgets a peer; its streams end with `Failure::Policy`. False if it was not known.
    pub fn remove_peer(&mut self, now: Instant, address: &Address) -> bool {
        let Some(found) = self.peers.find(address.as_bytes()) else {
            return false;
        };
        self.end_streams_of(now, found, Failure::Policy);
        self.drop_sessions_of(now, address);
        if let Some(peer) = self.peers.remove(found) {
            self.fail_contact(now, peer.ipv6, Failure::NoSuchPeer);
        }
        self.timers.cancel(Timer::Peer(found));
        self.timers.cancel(Timer::Hole(found));
        true
    }

    /// Puts a peer into the table, or finds it there. `None`: no room.
    fn learn_peer(
        &mut self,
        now: Instant,
        address: Address,
        standing: Standing,
    ) -> Option<PeerRef> {
        let limit = match standing {
            Standing::Heard => self.config.limits.heard,
            Standing::Met | Standing::Kept => self.config.limits.strangers,
        };
        let found = match self.peers.find(address.as_bytes()) {
            Some(known) => {
                self.peers.promote(now, known, standing, limit);
                Some(known)
            }
            None => self.peers.insert(now, address, standing, limit),
        };
        self.counters.peers_evicted = self.peers.evicted;
        if found.is_none() {
            self.counters.peers_refused += 1;
        }
        found
    }

    /// The socket that reaches a place; `None`: we have none of its family. What is not UDP finds its way by itself.
    fn socket_for(&self, to: &Place) -> Option<usize> {
        let over_way = to.udp().and_then(|to| self.socket_over_way(&to));
        over_way.or_else(|| self.main_socket_for(to))
    }

    /// Of the main ones, one bound to everything, or to the same kind of address.
    fn main_socket_for(&self, to: &Place) -> Option<usize> {
        let Some(to) = to.udp() else {
            return Some(0);
        };
        let score = |own: &SocketAddr| match () {
            () if own.ip().is_unspecified() => 1,
            () if own.ip().is_loopback() == to.ip().is_loopback() => 2,
            () => 0,
        };
        let usable = self.sockets.iter().enumerate();
        let usable = usable.filter(|(_, own)| own.is_ipv4() == to.is_ipv4());
        let best = usable.max_by_key(|(index, own)| (score(own), std::cmp::Reverse(*index)));
        best.map(|(index, _)| index)
    }

    /// Whether this socket sends to that kind of place.
    fn reaches(&self, socket: usize, to: &Place) -> bool {
        to.udp().is_none_or(|to| {
            if direct::is_extra(socket) {
                return self.is_v4_socket(socket) == to.is_ipv4();
            }
            let same_family = |own: &SocketAddr| own.is_ipv4() == to.is_ipv4();
            self.sockets.get(socket).is_some_and(same_family)
        })
    }

    /// Queues a message to a peer at a destination that may not be a path yet.
    fn send_control(
        &mut self,
        now: Instant,
        to: PeerRef,
        destination: Destination,
        sender: Sender,
        message: &Message<'_>,
    ) {
        self.send_control_to(now, to, PeerId::ANY, destination, sender, message);
    }

    /// The same, to just this peer of the address.
    fn send_control_to(
        &mut self,
        now: Instant,
        to: PeerRef,
        digit: PeerId,
        destination: Destination,
        sender: Sender,
        message: &Message<'_>,
    ) {
        let Some(peer) = self.peers.get_mut(to) else {
            return;
        };
        if let Some(tunnel) = peer.tunnel(digit) {
            let key = tunnel.key;
            return self.send_sealed_control(now, to, key, destination, message);
        }
        self.counters.key_agreements += u64::from(peer.key().is_none());
        peer.agree(&self.own.identity);
        let full_sender = sender == Sender::Full || peer.needs_full_sender(now);
        let envelope = Envelope {
            recipient_peer: peer.active_path().map_or(PeerId::ANY, |path| path.peer_id),
            full_sender,
        };
        peer.tx_bytes += (envelope.header_len() + message.body_len()) as u64;
        let peer = &*peer;
        let Some(key) = peer.key() else { return };
        if !self.control.push(destination, |out| {
            guard::protect(&self.own, peer, Some(key), envelope, message, out)
        }) {
            self.counters.dropped_output += 1;
        }
    }

    /// Answers a message the way it came: in the same session, or in plain.
    fn reply(&mut self, now: Instant, to: PeerRef, arrival: &Arrival, message: &Message<'_>) {
        self.reply_at(now, to, arrival, self.answer_to(to, arrival), message);
    }

    /// The same, to another place.
    fn reply_at(
        &mut self,
        now: Instant,
        to: PeerRef,
        arrival: &Arrival,
        destination: Destination,
        message: &Message<'_>,
    ) {
        match arrival.session {
            Some(key) => self.send_sealed_control(now, to, key, destination, message),
            None => self.send_control(now, to, destination, Sender::Short, message),
        }
    }

    /// Says something to the program. What it does not fetch is bounded ([`Limits::events`]): the oldest goes.
    fn event(&mut self, event: OverlayEvent) {
        if self.events.len() >= self.config.limits.events {
            self.counters.dropped_events += 1;
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<OverlayEvent> {
        self.events.pop_front()
    }

    /// Fills `batch` (cleared by the caller with the limit of its socket) with packets to one destination. False: nothing to send.
    /// Small packets go before streams; datagrams and streams take turns.
    pub fn poll_transmit(&mut self, now: Instant, batch: &mut TransmitBatch) -> bool {
        self.control.pop_into(batch);
        if batch.is_empty() {
            self.forwarded.pop_into(batch);
        }
        if batch.is_empty() && self.streams_next {
            self.fill_from_streams(now, batch);
            self.streams_next = false;
        }
        if batch.is_empty() {
            self.datagrams.pop_into(batch);
            self.streams_next = !batch.is_empty();
        }
        if batch.is_empty() {
            self.fill_from_streams(now, batch);
        }
        self.counters.tx_packets += batch.segments() as u64;
        self.counters.tx_bytes += batch.contents.len() as u64;
        !batch.is_empty()
    }

    /// When `handle_timeout` wants to be called, and why. Idle nodes without a LAN have none.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        sooner(self.timers.next(), self.sessions.deadline())
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.sessions.deadline().is_some_and(|(at, _)| at <= now) {
            self.sessions.handle_timeout(self.sealing.clock(now));
            self.settle_sessions(now);
        }
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Peer(peer) => self.handle_peer_timer(now, peer),
                Timer::Stream(stream) => self.handle_stream_timer(now, stream),
                Timer::Contact(target) => self.handle_contact_timer(now, target),
                Timer::Lan => self.handle_lan_timer(now),
                Timer::Links => self.handle_links_timer(now),
                Timer::Relay => self.handle_relay_timer(now),
                Timer::Registration => self.handle_registration_timer(now),
                Timer::Hole(peer) => self.handle_hole_timer(now, peer),
                Timer::Netcheck => self.handle_netcheck_timer(now),
                Timer::Sockets => self.handle_sockets_timer(now),
                Timer::Rendezvous => self.handle_rendezvous_timer(now),
                Timer::Turn => self.handle_turn_timer(now),
                Timer::Uplinks => self.handle_uplinks_timer(now),
            }
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters {
            key_agreements: self.counters.key_agreements + self.sessions.key_agreements(),
            ..self.counters
        }
    }

    /// The network refused packets of ours.
    pub fn note_refused(&mut self, packets: usize) {
        self.counters.tx_refused += packets as u64;
    }
}

//! What comes out of the sessions: packets that they opened, and events.
use super::places::{SOURCE_LEN, encode_source};
use crate::anode::Node;
use crate::anode::limits::source_prefix;
use crate::anode::output::Way;
use crate::anode::path::Path;
use crate::anode::peer::{Speech, Standing, Tunnel};
use crate::anode::peers::PeerRef;
use crate::anode::receive::{Arrival, carries_traffic};
use crate::overlay::{Failure, OverlayEvent, OverlaySink};
use anode_wire::PeerId;
use anode_wire::message::kind as plain_kind;
use anode_wire::sealed::{Authentic, Drop, Event, Failed, Outcome, Pair, PeerKey, Source, kind};
use std::time::Instant;

/// Body of a message for the program (JOIN, JOINED) at most.
pub(super) const MAX_CONTROL: usize = 512;

impl Node {
    /// A packet has come. False: it is none of the sessions', and nothing was done.
    pub(in crate::anode) fn handle_session_packet(
        &mut self,
        now: Instant,
        way: &Way,
        bytes: &mut [u8],
        sink: &mut dyn OverlaySink,
    ) -> bool {
        let mut endpoint = [0; SOURCE_LEN];
        let relayed = self.relayed_sender(way, bytes);
        let source = Source {
            endpoint: encode_source(&way.reply_to(), relayed.as_ref(), &mut endpoint),
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
        // Nor does a socket say where its owner is that only asks what is seen of it.
        let leads = self
            .role(way.socket)
            .is_some_and(|role| role.leads_to_peers());
        let tells = !matches!(
            message_kind,
            plain_kind::EPC | plain_kind::NETID_REQ | plain_kind::NETID
        );
        let sender = self.note_sealed(now, &from, way, tells && leads);
        if let Some((sender, _)) = sender
            && from.newest
            && carries_traffic(message_kind)
        {
            self.note_traffic(now, sender, way);
        }
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
            full_sender: false,
            proven: self
                .peers
                .get(sender)
                .is_some_and(|peer| peer.is_proven_way(way)),
            repeated: false,
        };
        match message_kind {
            kind::JOIN | kind::JOINED => {
                let session = self.sessions.handshake_hash(from.index);
                self.handle_control(now, sender, way, session, message_kind, body);
            }
            kind::RELOAD if self.config.reload => {
                self.handle_reload(now, sender, sender_peer, way, body);
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
        if way.hops > 0 {
            self.note_relayed(now);
        }
        let peer = self.peers.get_mut(found)?;
        let used = peer.is_used_way(way, digit);
        peer.note_heard_over((way.hops > 0 && !used).then_some(way.from));
        if used && peer.is_sealed() {
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
            self.nominate(now, found, way, digit, way.len);
        } else if let Some(path) = self.peers.get_mut(found)?.path_taken(way) {
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

    /// Where a peer's traffic comes from is where it thinks that the way is good: when it leaves the path that we use, that is
    /// asked at once, and not when our own packets have remained without an answer. Acknowledgements wait for none.
    fn note_traffic(&mut self, now: Instant, sender: PeerRef, way: &Way) {
        if let Some(peer) = self.peers.get_mut(sender)
            && peer.has_moved_traffic(way.from)
            && peer.question_paths(now, None)
        {
            self.handle_peer_timer(now, sender);
        }
    }

    /// A message for the program itself; whoever has a key may send one.
    fn handle_control(
        &mut self,
        now: Instant,
        sender: PeerRef,
        way: &Way,
        session: Option<[u8; 32]>,
        message_kind: u8,
        body: &[u8],
    ) {
        let limits = &self.config.limits;
        let allowed = body.len() <= MAX_CONTROL
            && self.budgets.control_sources.take(now, way.from.ip())
            && self.budgets.controls.take(now, limits.controls);
        let peer = self.peers.get(sender).filter(|_| allowed);
        let (Some(peer), Some(handshake_hash)) = (peer, session) else {
            self.counters.dropped_controls += 1;
            return;
        };
        self.event(OverlayEvent::Control {
            from: peer.address,
            network: source_prefix(way.from.ip()),
            handshake_hash,
            kind: message_kind,
            body: body.to_vec(),
        });
    }

    /// Sends what the sessions have to send, and does what they say.
    pub(in crate::anode) fn settle_sessions(&mut self, now: Instant) {
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
            Event::Persist(_) => self.tell_persist(),
        }
    }

    /// What must survive has changed: the program is told once, until it has fetched it.
    pub(in crate::anode) fn tell_persist(&mut self) {
        if !std::mem::replace(&mut self.sealing.persist_told, true) {
            self.event(OverlayEvent::Persist);
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
            // What was asked in plain has no answer from who expects it sealed.
            peer.paths.iter_mut().for_each(Path::ask_again);
            peer.vouch_for_relay(now);
            self.handle_peer_timer(now, found);
        }
        self.contact_made(now, found);
        self.consider_direct(now, found);
    }
}

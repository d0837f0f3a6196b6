//! Between a node that only seals and one that never does: the refusal that spares the programs of the second a wait (Q23).
use super::contact::with_digit;
use super::guard;
use super::limits::Rate;
use super::peers::PeerRef;
use super::receive::Arrival;
use super::{Node, Plain, Way};
use crate::overlay::{Failure, OverlayEvent};
use anode_wire::message::{error_code, kind};
use anode_wire::{Message, Packet, Party, PeerId};
use std::time::Instant;

/// "Only sealed", to all peers together: one a peer suffices for everything that it has just begun.
const SEALED_ONLY_RATE: Rate = Rate::per_second(10, 10);

impl Node {
    /// Tells a peer that speaks nothing but the draft that its traffic is not taken, so that its programs need not wait for
    /// what will not come. Only where the key is agreed already, only for what begins something, never to who was seen sealed,
    /// for it knows better (Q23), and with fewer bytes than came (S20).
    pub(super) fn refuse_plain(&mut self, now: Instant, way: &Way, packet: &Packet<&[u8]>) {
        let begins = matches!(packet.kind(), kind::S_OPEN | kind::DGRAM | kind::IPPKT);
        let full = match packet.sender() {
            Party::Full(bytes) => self.peers.find(bytes),
            Party::Id(_) => None,
        };
        let short = match packet.sender() {
            Party::Full(_) => Default::default(),
            Party::Id(id) => self.peers.with_id(&id),
        };
        let is_author = |found: &PeerRef| {
            let key = self.peers.get(*found).and_then(|peer| peer.key());
            key.is_some_and(|key| guard::is_authentic(key, packet))
        };
        let mut candidates = full.into_iter().chain(short.into_iter().flatten());
        let Some(sender) = candidates.find(|found| begins && is_author(found)) else {
            return;
        };
        let pinned = self
            .peers
            .get(sender)
            .is_none_or(|peer| self.sessions.was_sealed(&peer.address));
        if pinned {
            return;
        }
        self.note_authentic(now, sender, way, packet);
        let arrival = Arrival::plain(way, packet);
        // The MAC of the cause makes one refusal different from the next: the same bytes twice are a replay (D38).
        let cause = packet.mac();
        let refusal = Message::Error {
            code: error_code::SEALED_ONLY,
            arguments: &cause,
        };
        if self.may_reply(now, &arrival, &refusal)
            && self.budgets.sealed_only.take(now, SEALED_ONLY_RATE)
        {
            self.counters.tx_errors += 1;
            self.reply(now, sender, &arrival, &refusal);
        }
    }

    /// A peer takes nothing in plain, and there is no session: what has just begun will come to nothing. Believed of the peer
    /// itself alone, once, from where it has proven to be.
    pub(super) fn handle_sealed_only(&mut self, now: Instant, sender: PeerRef, arrival: &Arrival) {
        let Some(peer) = self.peers.get(sender) else {
            return;
        };
        let in_plain = arrival.session.is_none() && arrival.proven && !arrival.repeated;
        if !in_plain || peer.is_sealed() || self.config.security.plain == Plain::Deny {
            return;
        }
        let base = peer.ipv6;
        self.fail_opening_streams_of(now, sender, Failure::Policy);
        let digits = [PeerId::ANY, arrival.sender_peer];
        for digit in &digits[..1 + usize::from(arrival.sender_peer != PeerId::ANY)] {
            self.event(OverlayEvent::Undeliverable {
                to: with_digit(base, *digit),
                failure: Failure::Policy,
            });
        }
    }
}

//! The DHT's part in the node: RELOAD messages inside sessions, and the places that a record names (DESIGN §7).
use super::limits::source_prefix;
use super::output::Way;
use super::path::{Origin, is_dialable};
use super::peer::Standing;
use super::peers::PeerRef;
use super::{Node, Place};
use crate::overlay::{Failure, OverlayEvent};
use anode_wire::sealed::kind;
use anode_wire::{Address, PeerId};
use std::time::Instant;

/// Bytes of a RELOAD message inside a session at most (RD13).
pub const MAX_RELOAD: usize = 1120;

impl Node {
    /// A RELOAD message has come in a session. Whoever has a key may send one: budgets are per source.
    pub(super) fn handle_reload(
        &mut self,
        now: Instant,
        sender: PeerRef,
        digit: PeerId,
        way: &Way,
        body: &[u8],
    ) {
        let limits = &self.config.limits;
        let allowed = body.len() <= MAX_RELOAD
            && self.budgets.reload_sources.take(now, way.from.ip())
            && self.budgets.reloads.take(now, limits.reloads);
        let Some(peer) = self.peers.get(sender).filter(|_| allowed) else {
            self.counters.dropped_reload += 1;
            return;
        };
        self.counters.rx_reload += 1;
        self.event(OverlayEvent::Reload {
            from: peer.address,
            digit,
            network: source_prefix(way.from.ip()),
            body: body.to_vec(),
        });
    }

    /// Sends a RELOAD message to a peer inside the present session with it; where there is none, one is begun, and the
    /// message is lost.
    pub fn send_reload(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
        body: &[u8],
    ) -> Result<(), Failure> {
        let sent = self.send_in_session(now, address, digit, kind::RELOAD, body);
        if let Err(Failure::Unreachable | Failure::NoSuchPeer) = sent {
            self.reach_peer(now, address, digit)?;
        }
        sent
    }

    /// Begins a session with a peer, if there is none.
    pub fn reach_peer(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
    ) -> Result<(), Failure> {
        self.learn_peer(now, *address, Standing::Heard)
            .ok_or(Failure::Busy)?;
        self.reach(now, address.ipv6(digit), MAX_RELOAD).map(drop)
    }

    /// A DHT names places of a peer: candidates, asked only where somebody wants that peer (S16).
    pub fn add_found(&mut self, now: Instant, address: Address, places: &[Place]) {
        if address == self.own.address {
            return;
        }
        let Some(found) = self.learn_peer(now, address, Standing::Heard) else {
            return;
        };
        let mut new = false;
        for place in places.iter().take(Origin::Dht.places()) {
            let Some(socket) = self.socket_for(place).filter(|_| is_dialable(place, false)) else {
                self.counters.refused_endpoints += 1;
                continue;
            };
            let Some(peer) = self.peers.get_mut(found) else {
                return;
            };
            new |= peer.paths.iter().all(|path| path.endpoint != *place);
            peer.add_path(now, *place, socket, Origin::Dht);
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        peer.sources.dht = true;
        let ipv6 = peer.ipv6;
        self.contact_known(now, found, ipv6);
        if new {
            self.wait_longer(now, ipv6);
        }
        self.probe_if_wanted(now, found);
        self.schedule_peer(now, found);
    }

    /// Whether [`OverlayEvent::Wanted`] has somebody to ask from now on; until then nobody waits for an answer of his.
    pub fn set_in_dht(&mut self, in_dht: bool) {
        self.in_dht = in_dht;
    }

    /// A number that is another one when the places have changed where others may reach us.
    pub fn places_changed(&self) -> u64 {
        self.places_changed
    }
}

//! Using relays: the relays of a zone, which of them stand for an address, and the paths to peers that lead over them
//! (Anode 0.8 §2.3, A20 to A26, DESIGN §7).
//!
//! ```text
//!   set_relays ─▶ zones ─┬─ relays of our own address ─▶ registration: session, PING every 25 s, again after silence
//!                        └─ relays of a peer's address ─▶ paths: used at once, left for a direct one, back when that dies
//! ```
//!
//! The way there and the way back are apart: packets to a peer go over *its* relays, and what it answers comes over *ours*.
//! So an answer to a relayed packet is not sent to where that came from, and an EPC proves the relay path over which its
//! EPC_REQ went, wherever it comes in.
mod paths;
mod registration;

pub(super) use registration::Registrations;
pub use registration::RelaySnapshot;

use super::peer::Standing;
use super::{Node, Place};
use anode_wire::{Address, Endpoint, Zone};
use std::time::Instant;

/// Relays of one zone at most: a zone file has 256 KiB, and each entry here becomes a peer that is kept.
pub const MAX_RELAYS: usize = 256;
/// Zones whose relays are known at once.
const MAX_ZONES: usize = 64;

/// One relay of a zone, with places that may be dialled: who makes it has refused forbidden ranges already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneRelay {
    /// Its number in the zone file, `zr.<index>`.
    pub index: u32,
    /// Its address.
    pub address: Address,
    /// Where it may be reached, preferred ones first (A25); may be empty.
    pub endpoints: Vec<Endpoint>,
}

/// The relays of one zone as its file has them.
pub(super) struct ZoneRelays {
    zone: Zone,
    /// Entries of the file, usable or not: everybody must divide by the same number (A22).
    count: u32,
    relays: Vec<ZoneRelay>,
}

impl ZoneRelays {
    /// The number that the byte sum designates, then the next one (A22, DESIGN §7).
    fn numbers_for(&self, address: &[u8; Address::LEN]) -> impl Iterator<Item = u32> + use<> {
        let count = self.count;
        let sum = address.iter().map(|byte| u32::from(*byte)).sum();
        let first = anode_wire::zonefile::designated(sum, count);
        let second = first.filter(|_| count > 1).map(|first| (first + 1) % count);
        first.into_iter().chain(second)
    }
}

impl Node {
    /// The relays of a zone are these from now on. `count` is the number of relay entries in its file, also of those that
    /// cannot be used: the byte sum of an address is divided by it, and a number without an entry in `relays` means "no
    /// relay for that address" (D7). Beyond [`MAX_RELAYS`] the rest is not looked at.
    pub fn set_relays(&mut self, now: Instant, zone: Zone, count: u32, mut relays: Vec<ZoneRelay>) {
        relays.truncate(MAX_RELAYS);
        let mut moved = Vec::new();
        self.zone_relays.retain(|known| known.zone != zone);
        if self.zone_relays.len() >= MAX_ZONES {
            return;
        }
        for relay in &relays {
            let places: Vec<Place> = relay.endpoints.iter().flat_map(Place::accepted).collect();
            self.add_peer(now, relay.address, &places, false);
            let Some(found) = self.peers.find(relay.address.as_bytes()) else {
                continue;
            };
            self.peers.promote(now, found, Standing::Kept, 0);
            if let Some(peer) = self.peers.get_mut(found) {
                peer.sources.zone = true;
                // Where the operator says that it is, it stays.
                if !peer.sources.config && peer.keep_places(&places) {
                    moved.push(found);
                }
            }
            self.sessions.trust(&relay.address);
        }
        self.zone_relays.push(ZoneRelays {
            zone,
            count,
            relays,
        });
        self.release_relays();
        let relayed = self.peers.iter().filter(|(_, peer)| peer.has_relay_path());
        let relayed: Vec<_> = relayed.map(|(found, _)| found).collect();
        for found in relayed {
            self.add_relay_paths(now, found);
        }
        self.choose_registrations(now);
        for relay in moved {
            // It may be another process, without our session: what is sealed for that would be answered by nobody.
            if let Some(address) = self.peers.get(relay).map(|peer| peer.address) {
                self.drop_sessions_of(now, &address);
                self.sessions.trust(&address);
            }
            self.follow_relay(now, relay);
            self.contact_relay(now, relay);
            self.doubt_registrations(now);
        }
        self.use_relays_for_contacts(now);
    }

    /// Relays that no zone names any more are peers like others from now on.
    fn release_relays(&mut self) {
        let is_named = |address: &Address| {
            let mut all = self.zone_relays.iter().flat_map(|zone| &zone.relays);
            all.any(|relay| relay.address == *address)
        };
        let former = self.peers.iter().filter(|(_, peer)| peer.sources.zone);
        let former = former.filter(|(_, peer)| !is_named(&peer.address));
        let former: Vec<_> = former.map(|(found, _)| found).collect();
        for found in former {
            let Some(peer) = self.peers.get_mut(found) else {
                continue;
            };
            peer.sources.zone = false;
            if !peer.sources.config {
                let address = peer.address;
                self.peers.release(found);
                self.sessions.distrust(&address);
            }
        }
    }

    /// The relays that stand for an address, the designated one first. None for a relay of its own zone, which is reached
    /// where the zone file says. By its bytes, which need not be an address: it costs no point.
    pub(super) fn relays_for(
        &self,
        address: &[u8; Address::LEN],
    ) -> impl Iterator<Item = &ZoneRelay> {
        let [_, a, b, c, d, ..] = *address;
        let zone = Zone(u32::from_be_bytes([a, b, c, d]));
        let is_relay = |relay: &ZoneRelay| relay.address.as_bytes() == address;
        let zones = self.zone_relays.iter();
        let zone = zones
            .filter(|known| known.zone == zone)
            .find(|known| !known.relays.iter().any(is_relay));
        zone.into_iter().flat_map(|zone| {
            zone.numbers_for(address)
                .filter_map(|number| zone.relays.iter().find(|relay| relay.index == number))
        })
    }

    /// All relays of all zones, for questions that know no address.
    pub(super) fn all_relays(&self) -> impl Iterator<Item = &ZoneRelay> {
        self.zone_relays.iter().flat_map(|zone| &zone.relays)
    }
}

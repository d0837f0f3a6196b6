//! The relays of a zone, and which of them stand for an address (Anode 0.8 §2.3, A20 to A26).
use super::Node;
use anode_wire::{Address, Endpoint, Zone};
use std::time::Instant;

/// Relays of one zone at most: a zone file has 256 KiB, and each entry here becomes a peer that is kept.
pub const MAX_RELAYS: usize = 256;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ZoneRelays {
    zone: Zone,
    /// Entries of the file, usable or not: everybody must divide by the same number (A22).
    count: u32,
    relays: Vec<ZoneRelay>,
}

impl ZoneRelays {
    /// The number that the byte sum designates, then the next one (A22, DESIGN §7).
    fn numbers_for(&self, address: &Address) -> impl Iterator<Item = u32> + use<> {
        let count = self.count;
        let first = anode_wire::zonefile::designated(address.byte_sum(), count);
        let second = first.filter(|_| count > 1).map(|first| (first + 1) % count);
        first.into_iter().chain(second)
    }
}

impl Node {
    /// The relays of a zone are these from now on. `count` is the number of relay entries in its file, also of those that
    /// cannot be used: the byte sum of an address is divided by it, and a number without an entry in `relays` means "no
    /// relay for that address" (D7). Beyond [`MAX_RELAYS`] the rest is not looked at.
    pub fn set_relays(
        &mut self,
        _now: Instant,
        zone: Zone,
        count: u32,
        mut relays: Vec<ZoneRelay>,
    ) {
        relays.truncate(MAX_RELAYS);
        self.zone_relays.retain(|known| known.zone != zone);
        self.zone_relays.push(ZoneRelays {
            zone,
            count,
            relays,
        });
    }

    /// The relays that stand for an address, the designated one first.
    pub(super) fn relays_for(&self, address: &Address) -> impl Iterator<Item = &ZoneRelay> {
        let zone = self
            .zone_relays
            .iter()
            .find(|known| known.zone == address.zone());
        zone.into_iter().flat_map(|zone| {
            zone.numbers_for(address)
                .filter_map(|number| zone.relays.iter().find(|relay| relay.index == number))
        })
    }
}

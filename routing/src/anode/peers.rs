//! The peer table. The full address is the identity; a short id is a hint, and the MAC decides (D12, D22).
use super::peer::{Peer, Standing};
use anode_wire::{Address, AddressId};
use foldhash::quality::RandomState;
use slab::Slab;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::Instant;

/// Addresses with one short id that are told apart by MAC (D22).
const MAX_SAME_ID: usize = 4;
/// A place in the table, and which of its tenants is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct PeerRef {
    slot: u32,
    tenant: u32,
}

#[derive(Default)]
pub(super) struct PeerTable {
    peers: Slab<(u32, Peer)>,
    tenants: u32,
    by_address: HashMap<[u8; Address::LEN], PeerRef, RandomState>,
    by_id: HashMap<AddressId, Vec<PeerRef>, RandomState>,
    by_ipv6: HashMap<Ipv6Addr, PeerRef, RandomState>,
    /// Peers per standing.
    count: [usize; 3],
    pub evicted: u64,
}

impl PeerTable {
    pub fn get(&self, peer: PeerRef) -> Option<&Peer> {
        self.peers
            .get(peer.slot as usize)
            .filter(|(tenant, _)| *tenant == peer.tenant)
            .map(|(_, peer)| peer)
    }

    pub fn get_mut(&mut self, peer: PeerRef) -> Option<&mut Peer> {
        self.peers
            .get_mut(peer.slot as usize)
            .filter(|(tenant, _)| *tenant == peer.tenant)
            .map(|(_, peer)| peer)
    }

    pub fn find(&self, address: &[u8; Address::LEN]) -> Option<PeerRef> {
        self.by_address.get(address).copied()
    }

    pub fn find_ipv6(&self, ip: &Ipv6Addr) -> Option<PeerRef> {
        self.by_ipv6.get(ip).copied()
    }

    /// All that have this short id, at most four.
    pub fn with_id(&self, id: &AddressId) -> [Option<PeerRef>; MAX_SAME_ID] {
        let mut found = [None; MAX_SAME_ID];
        for (place, peer) in found
            .iter_mut()
            .zip(self.by_id.get(id).into_iter().flatten())
        {
            *place = Some(*peer);
        }
        found
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerRef, &Peer)> {
        self.peers.iter().map(|(slot, (tenant, peer))| {
            (
                PeerRef {
                    slot: slot as u32,
                    tenant: *tenant,
                },
                peer,
            )
        })
    }

    pub fn count(&self, standing: Standing) -> usize {
        self.count[standing as usize]
    }

    /// Puts a peer in. At `limit` of its standing the one longest of no use goes; `None` if all of them are in use.
    pub fn insert(
        &mut self,
        now: Instant,
        address: Address,
        standing: Standing,
        limit: usize,
    ) -> Option<PeerRef> {
        if standing != Standing::Kept && self.count(standing) >= limit {
            let oldest = self.oldest(now, standing)?;
            self.remove(oldest);
            self.evicted += 1;
        }
        self.tenants = self.tenants.wrapping_add(1);
        let peer = Peer::new(now, address, standing);
        let (id, ipv6) = (peer.id, peer.ipv6);
        let slot = self.peers.insert((self.tenants, peer));
        let found = PeerRef {
            slot: u32::try_from(slot).ok()?,
            tenant: self.tenants,
        };
        self.by_address.insert(*address.as_bytes(), found);
        self.by_ipv6.insert(ipv6, found);
        let same = self.by_id.entry(id).or_default();
        if same.len() < MAX_SAME_ID {
            same.push(found);
        }
        self.count[standing as usize] += 1;
        Some(found)
    }

    /// A peer has become better known; at `limit` another of its new standing goes.
    pub fn promote(&mut self, now: Instant, peer: PeerRef, standing: Standing, limit: usize) {
        let Some(old) = self.get(peer).map(|peer| peer.standing) else {
            return;
        };
        if old >= standing {
            return;
        }
        if standing != Standing::Kept
            && self.count(standing) >= limit
            && let Some(oldest) = self.oldest(now, standing)
        {
            self.remove(oldest);
            self.evicted += 1;
        }
        self.count[old as usize] -= 1;
        self.count[standing as usize] += 1;
        if let Some(peer) = self.get_mut(peer) {
            peer.standing = standing;
        }
    }

    /// The opposite for a peer that was to be kept: it is one of those that have to make room now.
    pub fn release(&mut self, peer: PeerRef) {
        let Some(found) = self.get_mut(peer) else {
            return;
        };
        if found.standing == Standing::Kept {
            found.standing = Standing::Met;
            self.count[Standing::Kept as usize] -= 1;
            self.count[Standing::Met as usize] += 1;
        }
    }

    pub fn remove(&mut self, peer: PeerRef) -> Option<Peer> {
        self.get(peer)?;
        let (_, old) = self.peers.remove(peer.slot as usize);
        self.count[old.standing as usize] -= 1;
        self.by_address.remove(old.address.as_bytes());
        self.by_ipv6.remove(&old.ipv6);
        if let Some(same) = self.by_id.get_mut(&old.id) {
            same.retain(|other| *other != peer);
            if same.is_empty() {
                self.by_id.remove(&old.id);
            }
        }
        Some(old)
    }

    fn oldest(&self, now: Instant, standing: Standing) -> Option<PeerRef> {
        self.iter()
            .filter(|(_, peer)| {
                peer.standing == standing && peer.streams == 0 && !peer.is_in_use(now)
            })
            .min_by_key(|(_, peer)| peer.touched)
            .map(|(found, _)| found)
    }

    /// Lets tests give an address a short id of another (D22 needs 2^32 key generations otherwise).
    #[cfg(test)]
    pub fn force_id(&mut self, peer: PeerRef, id: AddressId) {
        let Some(entry) = self.get_mut(peer) else {
            return;
        };
        let old = std::mem::replace(&mut entry.id, id);
        if let Some(same) = self.by_id.get_mut(&old) {
            same.retain(|other| *other != peer);
        }
        self.by_id.entry(id).or_default().push(peer);
    }
}

//! The tables of pairs and agreements: who is in them, and who makes room (Q7, S10).
use super::counters::Drop;
use super::crypto::Agreed;
use super::peer::{Peer, PeerKey};
use super::{Down, Event, Pair, Record, Sessions};
use crate::Address;
use std::sync::Arc;
use std::time::Instant;

impl Sessions {
    pub(super) fn peer(&self, key: PeerKey) -> Option<&Peer> {
        self.peers
            .get(key.slot as usize)
            .filter(|peer| peer.generation == key.generation)
    }

    pub(super) fn peer_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.peers
            .get_mut(key.slot as usize)
            .filter(|peer| peer.generation == key.generation)
    }

    pub(super) fn of_address<'a>(&'a self, address: &'a Address) -> impl Iterator<Item = &'a Peer> {
        self.ids
            .get(&address.id())
            .into_iter()
            .flatten()
            .filter_map(|key| self.peer(*key))
            .filter(move |peer| peer.pair.address == *address)
    }

    pub(super) fn keys_of(&self, address: &Address) -> Vec<PeerKey> {
        let keys = self.ids.get(&address.id()).cloned().unwrap_or_default();
        keys.into_iter()
            .filter(|key| self.peer(*key).is_some_and(|p| p.pair.address == *address))
            .collect()
    }

    /// The pair's place in the table, new if need be. `None` if all places are taken by peers that must stay.
    pub(super) fn entry(&mut self, now: Instant, pair: Pair) -> Option<PeerKey> {
        if let Some(key) = self.pairs.get(&pair).copied() {
            if let Some(peer) = self.peer_mut(key) {
                peer.used = now;
            }
            return Some(key);
        }
        if self.peers.len() >= self.config.limits.peers {
            self.evict_peers();
        }
        if self.peers.len() >= self.config.limits.peers {
            self.counters.count(Drop::PeersFull);
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let id = pair.address.id();
        let slot = self.peers.insert(Peer {
            generation: self.generation,
            pair,
            id,
            trusted: self.is_trusted(&pair.address),
            record: Record::new(pair),
            dirty: false,
            agreed: None,
            handshake: None,
            current: None,
            sessions: Vec::new(),
            last_hint: None,
            last_stale_answer: None,
            used: now,
            scheduled: None,
        });
        let key = PeerKey {
            slot: u32::try_from(slot).ok()?,
            generation: self.generation,
        };
        self.pairs.insert(pair, key);
        self.ids.entry(id).or_default().push(key);
        Some(key)
    }

    /// A sixteenth of the table: strangers without a session first, then the longest unused.
    fn evict_peers(&mut self) {
        let mut candidates: Vec<_> = self
            .pairs
            .values()
            .filter_map(|key| self.peer(*key).map(|peer| (*key, peer)))
            .filter(|(_, peer)| !peer.trusted && peer.handshake.is_none())
            .map(|(key, peer)| {
                let used = peer.sessions.iter().filter_map(|i| self.sessions.get(i));
                let used = used.map(|session| session.used).max().unwrap_or(peer.used);
                (peer.current.is_some(), used.max(peer.used), key)
            })
            .collect();
        candidates.sort_unstable();
        candidates.truncate(self.config.limits.peers / 16 + 1);
        for (was_up, _, key) in candidates {
            let pair = self.pair(key);
            for index in self
                .peer(key)
                .map(|p| p.sessions.clone())
                .unwrap_or_default()
            {
                self.remove_session(index);
            }
            if let (true, Some(pair)) = (was_up, pair) {
                self.events.push_back(Event::SessionDown {
                    peer: key,
                    pair,
                    reason: Down::Evicted,
                });
            }
            self.remove_peer(key);
            self.counters.peers_evicted += 1;
        }
    }

    fn remove_peer(&mut self, key: PeerKey) {
        let Some(peer) = self.peer(key) else { return };
        let (pair, id, scheduled) = (peer.pair, peer.id, peer.scheduled);
        if let Some(at) = scheduled {
            self.timers.remove(&(at, key));
        }
        self.pairs.remove(&pair);
        if let Some(keys) = self.ids.get_mut(&id) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.ids.remove(&id);
            }
        }
        self.peers.remove(key.slot as usize);
    }

    /// The static agreement with an address, made if it is not cached.
    pub(super) fn agree(&mut self, address: &Address) -> Option<Arc<Agreed>> {
        if let Some(known) = self.agreements.get(address.as_bytes()) {
            return Some(known.agreed.clone());
        }
        let agreed = Arc::new(Agreed::new(&self.key, address)?);
        let trusted = self.is_trusted(address);
        self.counters.agreements_evicted += self.agreements.insert(agreed.clone(), trusted);
        Some(agreed)
    }
}

//! Who is in which swarm, within bounds.

use super::{Config, Refused, source_key};
use crate::compact::decode;
use crate::types::{Event, InfoHash, PeerId, ScrapeEntry};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

/// A client as counted: a hash of peer id and key (B16). Whoever knows neither cannot aim at somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientTag(u64);

/// One address of a client in one swarm.
struct Peer {
    id: PeerId,
    client: ClientTag,
    /// Seconds since the server's start.
    expires: u32,
}

/// The addresses of one family; the key is the compact entry. Order is of no meaning: removal swaps.
type Table<const N: usize> = IndexMap<[u8; N], Peer>;

struct Client {
    addresses: u32,
    complete: bool,
}

#[derive(Default)]
pub(super) struct Swarm {
    v4: Table<6>,
    v6: Table<18>,
    clients: HashMap<ClientTag, Client>,
    complete: u32,
    downloaded: u32,
}

/// An announce, checked and reduced to what is kept.
pub(super) struct Entry {
    pub(super) hash: InfoHash,
    /// Source address and announced port.
    pub(super) endpoint: SocketAddr,
    pub(super) id: PeerId,
    pub(super) client: ClientTag,
    pub(super) complete: bool,
    pub(super) event: Option<Event>,
}

/// Which peers an answer lists.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// Not these addresses: they are the asker's.
    pub(super) asker: ClientTag,
    /// Where to begin, so that each gets others.
    pub(super) random: u32,
    pub(super) now: u32,
}

pub(super) struct Registry {
    swarms: IndexMap<InfoHash, Swarm>,
    /// Entries per source.
    sources: HashMap<u64, u16>,
    entries: usize,
    tags: RandomState,
    life: u32,
    per_source: u16,
    max_entries: usize,
    max_swarms: usize,
}

impl Registry {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            swarms: IndexMap::new(),
            sources: HashMap::new(),
            entries: 0,
            tags: RandomState::new(),
            life: u32::try_from(config.interval.as_secs() * 2).unwrap_or(u32::MAX),
            per_source: config.entries_per_source,
            max_entries: config.max_entries,
            max_swarms: config.max_swarms,
        }
    }

    pub(super) fn tag(&self, id: &PeerId, key: &[u8]) -> ClientTag {
        ClientTag(self.tags.hash_one((id, key)))
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn swarms(&self) -> usize {
        self.swarms.len()
    }

    pub(super) fn swarm(&self, hash: &InfoHash) -> Option<&Swarm> {
        self.swarms.get(hash)
    }

    /// Takes an announce; the swarm afterwards, unless nobody is in it.
    pub(super) fn announce(&mut self, entry: &Entry, now: u32) -> Result<Option<&Swarm>, Refused> {
        let source = source_key(entry.endpoint.ip());
        if entry.event == Some(Event::Stopped) {
            return Ok(self.stop(entry, source));
        }
        let expires = now.saturating_add(self.life);
        let known = self
            .swarms
            .get_full_mut(&entry.hash)
            .map(|(at, _, swarm)| (at, swarm.renew(entry, expires)));
        let at = match known {
            Some((at, true)) => at,
            absent => {
                let swarm_is_new = absent.is_none();
                if self.entries >= self.max_entries
                    || (swarm_is_new && self.swarms.len() >= self.max_swarms)
                {
                    return Err(Refused::Full);
                }
                let of_source = self.sources.get(&source).copied().unwrap_or(0);
                if of_source >= self.per_source {
                    return Err(Refused::TooManyEntries);
                }
                self.sources.insert(source, of_source + 1);
                self.entries += 1;
                let slot = self.swarms.entry(entry.hash);
                let at = slot.index();
                slot.or_default().insert(entry, expires);
                at
            }
        };
        let swarm = &mut self.swarms[at];
        if entry.event == Some(Event::Completed) {
            swarm.downloaded = swarm.downloaded.saturating_add(1);
        }
        Ok(Some(swarm))
    }

    fn stop(&mut self, entry: &Entry, source: u64) -> Option<&Swarm> {
        let (at, _, swarm) = self.swarms.get_full_mut(&entry.hash)?;
        // only whoever announced the endpoint may take it away: another client behind the same NAT may not
        if swarm.remove(entry) {
            self.entries -= 1;
            release(&mut self.sources, source);
            if self.swarms[at].is_empty() {
                self.swarms.swap_remove_index(at);
                return None;
            }
        }
        self.swarms.get_index(at).map(|(_, swarm)| swarm)
    }

    /// Removes what has expired; how many.
    pub(super) fn sweep(&mut self, now: u32) -> usize {
        self.retain(|_, peer| peer.expires > now)
    }

    pub(super) fn retain_swarms(&mut self, keep: impl Fn(&InfoHash) -> bool) {
        self.retain(|hash, _| keep(hash));
    }

    fn retain(&mut self, keep: impl Fn(&InfoHash, &Peer) -> bool) -> usize {
        let sources = &mut self.sources;
        let mut removed = 0;
        self.swarms.retain(|hash, swarm| {
            removed += swarm.retain(|ip, peer| {
                let keep = keep(hash, peer);
                if !keep {
                    release(sources, source_key(ip));
                }
                keep
            });
            !swarm.is_empty()
        });
        self.entries -= removed;
        removed
    }
}

fn release(sources: &mut HashMap<u64, u16>, source: u64) {
    if let Some(count) = sources.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            sources.remove(&source);
        }
    }
}

impl Swarm {
    /// Clients, each counted once however many addresses it has.
    pub(super) fn counts(&self) -> ScrapeEntry {
        let clients = self.clients.len() as u32;
        ScrapeEntry {
            complete: self.complete,
            downloaded: self.downloaded,
            incomplete: clients - self.complete,
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Renews an entry; false when there is none.
    fn renew(&mut self, entry: &Entry, expires: u32) -> bool {
        let port = entry.endpoint.port();
        let peer = match entry.endpoint.ip() {
            IpAddr::V4(ip) => self.v4.get_mut(&compact(ip.octets(), port)),
            IpAddr::V6(ip) => self.v6.get_mut(&compact(ip.octets(), port)),
        };
        let Some(peer) = peer else { return false };
        peer.expires = expires;
        if peer.client == entry.client {
            self.set_complete(entry.client, entry.complete);
        } else {
            let before = std::mem::replace(
                peer,
                Peer {
                    id: entry.id,
                    client: entry.client,
                    expires,
                },
            );
            self.release(before.client);
            self.acquire(entry.client, entry.complete);
        }
        true
    }

    fn insert(&mut self, entry: &Entry, expires: u32) {
        let peer = Peer {
            id: entry.id,
            client: entry.client,
            expires,
        };
        let port = entry.endpoint.port();
        match entry.endpoint.ip() {
            IpAddr::V4(ip) => drop(self.v4.insert(compact(ip.octets(), port), peer)),
            IpAddr::V6(ip) => drop(self.v6.insert(compact(ip.octets(), port), peer)),
        }
        self.acquire(entry.client, entry.complete);
    }

    /// Removes an entry of this very client; false when there is none.
    fn remove(&mut self, entry: &Entry) -> bool {
        let port = entry.endpoint.port();
        let removed = match entry.endpoint.ip() {
            IpAddr::V4(ip) => take(&mut self.v4, &compact(ip.octets(), port), entry.client),
            IpAddr::V6(ip) => take(&mut self.v6, &compact(ip.octets(), port), entry.client),
        };
        if removed {
            self.release(entry.client);
        }
        removed
    }

    fn acquire(&mut self, client: ClientTag, complete: bool) {
        self.clients
            .entry(client)
            .or_insert(Client {
                addresses: 0,
                complete: false,
            })
            .addresses += 1;
        self.set_complete(client, complete);
    }

    fn release(&mut self, client: ClientTag) {
        let Some(state) = self.clients.get_mut(&client) else {
            return;
        };
        state.addresses -= 1;
        if state.addresses == 0 {
            self.complete -= u32::from(state.complete);
            self.clients.remove(&client);
        }
    }

    fn set_complete(&mut self, client: ClientTag, complete: bool) {
        let Some(state) = self.clients.get_mut(&client) else {
            return;
        };
        self.complete = self.complete - u32::from(state.complete) + u32::from(complete);
        state.complete = complete;
    }

    fn retain(&mut self, mut keep: impl FnMut(IpAddr, &Peer) -> bool) -> usize {
        let before = self.v4.len() + self.v6.len();
        let mut gone = Vec::new();
        let mut keep = |ip: IpAddr, peer: &Peer| {
            let keep = keep(ip, peer);
            if !keep {
                gone.push(peer.client);
            }
            keep
        };
        self.v4.retain(|entry, peer| keep(decode(entry).ip(), peer));
        self.v6.retain(|entry, peer| keep(decode(entry).ip(), peer));
        gone.into_iter().for_each(|client| self.release(client));
        before - self.v4.len() - self.v6.len()
    }

    /// Calls back with up to `want` compact IPv4 entries.
    pub(super) fn choose4(
        &self,
        want: usize,
        choice: Choice,
        mut each: impl FnMut(&[u8], &PeerId),
    ) {
        choose(&self.v4, want, choice, |entry, peer| each(entry, &peer.id));
    }

    /// Calls back with up to `want` compact IPv6 entries.
    pub(super) fn choose6(
        &self,
        want: usize,
        choice: Choice,
        mut each: impl FnMut(&[u8], &PeerId),
    ) {
        choose(&self.v6, want, choice, |entry, peer| each(entry, &peer.id));
    }

    /// How `want` is shared between the families: each may have what the other leaves.
    pub(super) fn shares(&self, want: usize) -> (usize, usize) {
        let (v4, v6) = (self.v4.len(), self.v6.len());
        let four = v4.min((want / 2).max(want.saturating_sub(v6)));
        (four, v6.min(want - four))
    }
}

fn choose<const N: usize>(
    table: &Table<N>,
    want: usize,
    choice: Choice,
    mut each: impl FnMut(&[u8; N], &Peer),
) {
    let length = table.len();
    if length == 0 {
        return;
    }
    let start = choice.random as usize % length;
    let (first, second) = (start..length, 0..start);
    // what has expired or is the asker's is passed over; a look at twice as many as wanted bounds the work
    first
        .chain(second)
        .take(want.saturating_mul(2).saturating_add(16))
        .filter_map(|at| table.get_index(at))
        .filter(|(_, peer)| peer.client != choice.asker && peer.expires > choice.now)
        .take(want)
        .for_each(|(entry, peer)| each(entry, peer));
}

fn take<const N: usize>(table: &mut Table<N>, entry: &[u8; N], client: ClientTag) -> bool {
    table.get(entry).is_some_and(|peer| peer.client == client) && table.swap_remove(entry).is_some()
}

fn compact<const I: usize, const N: usize>(ip: [u8; I], port: u16) -> [u8; N] {
    let mut entry = [0; N];
    entry[..I].copy_from_slice(&ip);
    entry[I..].copy_from_slice(&port.to_be_bytes());
    entry
}

#[cfg(test)]
impl Registry {
    /// Entries counted one by one; every one must belong to a client, and every client to an entry.
    pub(super) fn sum_of_entries(&self) -> usize {
        let swarms = self.swarms.values().map(|swarm| {
            let entries = swarm.v4.len() + swarm.v6.len();
            let of_clients: u32 = swarm.clients.values().map(|client| client.addresses).sum();
            let complete = swarm
                .clients
                .values()
                .filter(|client| client.complete)
                .count();
            assert_eq!(
                (of_clients as usize, swarm.complete as usize),
                (entries, complete)
            );
            assert!(entries > 0 && swarm.clients.values().all(|client| client.addresses > 0));
            entries
        });
        swarms.sum()
    }

    /// What the limits per source believe.
    pub(super) fn sum_of_sources(&self) -> usize {
        assert!(self.sources.values().all(|count| *count > 0));
        self.sources.values().map(|count| usize::from(*count)).sum()
    }
}

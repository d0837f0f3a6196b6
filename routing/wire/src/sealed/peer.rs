//! What is known of pairs and of addresses, in bounded tables.
use super::budget::Bucket;
use super::crypto::Agreed;
use super::noise;
use super::{Pair, Record, Timestamp};
use crate::{Address, AddressId};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// A pair that [`Sessions`](super::Sessions) knows, for quick access. Stale ones find nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// A table by session index: the keys are random numbers of our own, and need no hashing against attackers.
pub(super) type IndexMap<V> = HashMap<u32, V, BuildHasherDefault<IndexHasher>>;

#[derive(Default)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        // The table looks at the highest bits, too.
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, index: u32) {
        self.0 = index.into();
    }
}

/// One pair.
pub(super) struct Peer {
    pub generation: u32,
    pub pair: Pair,
    pub id: AddressId,
    pub trusted: bool,
    pub record: Record,
    /// The record has changed and waits to be reported.
    pub dirty: bool,
    pub agreed: Option<Arc<Agreed>>,
    /// Ours, towards it.
    pub handshake: Option<Handshake>,
    /// The session that traffic is sealed in.
    pub current: Option<u32>,
    /// All its sessions, oldest first.
    pub sessions: Vec<u32>,
    pub last_hint: Option<Instant>,
    pub last_stale_answer: Option<Instant>,
    pub used: Instant,
    /// Its place in the timers.
    pub scheduled: Option<Instant>,
}

/// The initiator's side of a handshake: retries are fresh HELLOs, the last 3 stay answerable (Q9).
pub(super) struct Handshake {
    /// HELLOs sent.
    pub sent: usize,
    pub next: Instant,
    pub pending: VecDeque<PendingHello>,
    /// The first HELLO of the far side that crossed ours (Q10).
    pub crossed: Option<Timestamp>,
}

/// A HELLO that may yet be answered.
pub(super) struct PendingHello {
    pub index: u32,
    pub noise: noise::Handshake,
    pub packet: Vec<u8>,
    /// A COOKIE has had its effect.
    pub retried: bool,
    /// It was sent while there was a session: what comes of it follows that one, and does not cross it.
    pub successor: bool,
}

impl Handshake {
    /// Most HELLOs that stay answerable.
    pub const PENDING: usize = 3;
}

/// Static agreements by address (Q6, Q7).
pub(super) struct Agreements {
    table: HashMap<[u8; Address::LEN], Known>,
    limit: usize,
    uses: u64,
}

pub(super) struct Known {
    pub agreed: Arc<Agreed>,
    pub trusted: bool,
    pub bucket: Bucket,
    used: u64,
}

impl Agreements {
    pub fn new(limit: usize) -> Self {
        Self {
            table: HashMap::new(),
            limit,
            uses: 0,
        }
    }

    /// By bytes that need not be an address: only checked ones are in the table.
    pub fn get(&mut self, address: &[u8; 40]) -> Option<&mut Known> {
        let known = self.table.get_mut(address)?;
        self.uses += 1;
        known.used = self.uses;
        Some(known)
    }

    /// Returns how many had to make room.
    pub fn insert(&mut self, agreed: Arc<Agreed>, trusted: bool) -> u64 {
        let evicted = self.make_room();
        self.uses += 1;
        self.table.insert(
            *agreed.address.as_bytes(),
            Known {
                agreed,
                trusted,
                bucket: Bucket::new(),
                used: self.uses,
            },
        );
        evicted
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// A sixteenth at once, so that a flood pays for few searches.
    fn make_room(&mut self) -> u64 {
        if self.table.len() < self.limit {
            return 0;
        }
        let mut candidates: Vec<_> = self
            .table
            .iter()
            .filter(|(_, known)| !known.trusted)
            .map(|(address, known)| (known.used, *address))
            .collect();
        candidates.sort_unstable();
        candidates.truncate(self.limit / 16 + 1);
        for (_, address) in &candidates {
            self.table.remove(address);
        }
        candidates.len() as u64
    }
}

//! The facade: state, trust, persistence, what the caller polls.
use super::budget::{Bucket, NetworkBuckets};
use super::cookie::CookieJar;
use super::counters::{Counters, Drop};
use super::crypto::StaticKey;
use super::fragment::Pool;
use super::hello::Mac1Key;
use super::peer::{Agreements, IndexMap, Peer, PeerKey};
use super::session::{self, Ends, Session};
use super::{Config, Down, Event, Now, Pair, Record, Timestamp, To, Transmit};
use crate::{Address, AddressId, Identity};
use rand_core::CryptoRng;
use slab::Slab;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// All sealed sessions of one node.
pub struct Sessions {
    pub(super) config: Config,
    pub(super) own: Pair,
    pub(super) own_id: AddressId,
    pub(super) key: Arc<StaticKey>,
    pub(super) mac1: Mac1Key,
    pub(super) rng: Box<dyn CryptoRng + Send>,

    pub(super) peers: Slab<Peer>,
    pub(super) pairs: HashMap<Pair, PeerKey>,
    /// All pairs of an address; more addresses than one where short ids collide.
    pub(super) ids: HashMap<AddressId, Vec<PeerKey>>,
    pub(super) generation: u32,
    pub(super) trusted: HashMap<Address, ()>,
    pub(super) agreements: Agreements,

    pub(super) sessions: IndexMap<Box<Session>>,
    /// Indices of HELLOs and KEM offers that are under way.
    pub(super) reserved: IndexMap<PeerKey>,
    /// The responder's sessions in the order they came, confirmed and dropped ones among them.
    pub(super) unconfirmed: VecDeque<u32>,

    pub(super) timers: BTreeMap<(Instant, PeerKey), &'static str>,
    /// Peers whose session is old enough for a new handshake, and since when the first waits.
    pub(super) rekeys: Vec<PeerKey>,
    pub(super) rekeys_since: Option<Instant>,

    pub(super) cookies: CookieJar,
    pub(super) budgets: Budgets,
    pub(super) pools: Pools,
    pub(super) next_fragment: u32,

    transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    dirty: VecDeque<PeerKey>,
    pub(super) counters: Counters,
}

/// Buckets, one for each kind of first packet (Q7).
pub(super) struct Budgets {
    pub plain: Bucket,
    pub without_cookie: Bucket,
    pub with_cookie: Bucket,
    pub with_cookie_networks: NetworkBuckets,
    pub known_strangers: Bucket,
    pub cookies: Bucket,
    pub cookies_networks: NetworkBuckets,
    pub errors: Bucket,
    pub errors_networks: NetworkBuckets,
}

/// Places of the tables of networks: 16 bytes and some each.
const NETWORKS: usize = 4096;

impl Budgets {
    fn new(rng: &mut dyn CryptoRng) -> Self {
        let mut networks = || NetworkBuckets::new(NETWORKS, [rng.next_u64(), rng.next_u64()]);
        Self {
            plain: Bucket::new(),
            without_cookie: Bucket::new(),
            with_cookie: Bucket::new(),
            with_cookie_networks: networks(),
            known_strangers: Bucket::new(),
            cookies: Bucket::new(),
            cookies_networks: networks(),
            errors: Bucket::new(),
            errors_networks: networks(),
        }
    }
}

/// Memory for incomplete datagrams: strangers cannot use up that of trusted peers.
pub(super) struct Pools {
    pub trusted: Pool,
    pub others: Pool,
}

impl Pools {
    pub fn of(&mut self, trusted: bool) -> &mut Pool {
        if trusted {
            &mut self.trusted
        } else {
            &mut self.others
        }
    }
}

impl Sessions {
    /// `rng` is the system's, asked anew at each use: a restored snapshot must not repeat what it gave (Q17).
    pub fn new(identity: &Identity, config: Config, mut rng: Box<dyn CryptoRng + Send>) -> Self {
        let own = Pair {
            address: *identity.address(),
            peer: config.peer,
        };
        Self {
            own_id: own.address.id(),
            key: Arc::new(StaticKey::new(identity)),
            mac1: Mac1Key::new(&own.address),
            peers: Slab::new(),
            pairs: HashMap::new(),
            ids: HashMap::new(),
            generation: 0,
            trusted: HashMap::new(),
            agreements: Agreements::new(config.limits.agreements),
            sessions: IndexMap::default(),
            reserved: IndexMap::default(),
            unconfirmed: VecDeque::new(),
            timers: BTreeMap::new(),
            rekeys: Vec::new(),
            rekeys_since: None,
            cookies: CookieJar::new(),
            budgets: Budgets::new(&mut *rng),
            pools: Pools {
                trusted: Pool::new(config.limits.fragment_pool),
                others: Pool::new(config.limits.fragment_pool),
            },
            next_fragment: rng.next_u32(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            dirty: VecDeque::new(),
            counters: Counters::default(),
            own,
            config,
            rng,
        }
    }

    /// This node.
    pub fn own(&self) -> Pair {
        self.own
    }

    /// As it was given.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was dropped, and what work was done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Scalar multiplications on P-256 so far.
    pub fn key_agreements(&self) -> u64 {
        self.key.counted()
    }

    /// How full the tables are: pairs, cached agreements, sessions, bytes of incomplete datagrams.
    pub fn sizes(&self) -> [usize; 4] {
        [
            self.peers.len(),
            self.agreements.len(),
            self.sessions.len(),
            self.pools.trusted.used() + self.pools.others.used(),
        ]
    }

    /// Trusted addresses keep their place in every table, and have budgets of their own (Q7).
    pub fn trust(&mut self, address: &Address) {
        self.trusted.insert(*address, ());
        self.mark_trust(address, true);
        self.agree(address);
    }

    /// The opposite.
    pub fn distrust(&mut self, address: &Address) {
        self.trusted.remove(address);
        self.mark_trust(address, false);
    }

    fn mark_trust(&mut self, address: &Address, trusted: bool) {
        if let Some(known) = self.agreements.get(address.as_bytes()) {
            known.trusted = trusted;
        }
        let keys = self.keys_of(address);
        for key in keys {
            let Some(peer) = self.peer_mut(key) else {
                continue;
            };
            let was = std::mem::replace(&mut peer.trusted, trusted);
            if was != trusted {
                // Incomplete datagrams are charged to the pool of their time; start over.
                for index in peer.sessions.clone() {
                    if let Some(session) = self.sessions.get_mut(&index) {
                        session.reassembly.clear(self.pools.of(was));
                    }
                }
            }
        }
    }

    pub(super) fn is_trusted(&self, address: &Address) -> bool {
        self.trusted.contains_key(address)
    }

    /// What was on disk; merged with what is known.
    pub fn restore(&mut self, now: Now, record: &Record) {
        if let Some(peer) = self
            .entry(now.at, record.pair)
            .and_then(|key| self.peer_mut(key))
        {
            peer.record.merge(record);
        }
    }

    /// What is to be kept of a pair.
    pub fn record(&self, pair: &Pair) -> Option<Record> {
        let key = self.pairs.get(pair)?;
        self.peer(*key).map(|peer| peer.record)
    }

    /// What is to be kept of all pairs: of those that were called, or had a session.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let records = self.peers.iter().map(|(_, peer)| peer.record);
        records.filter(|record| *record != Record::new(record.pair))
    }

    /// By an operator's word: forgets what is pinned of this pair, and the timestamps (Q23).
    pub fn forget(&mut self, pair: &Pair) {
        if let Some(peer) = self
            .pairs
            .get(pair)
            .copied()
            .and_then(|key| self.peer_mut(key))
        {
            let sent = peer.record.sent;
            peer.record = Record::new(*pair);
            peer.record.sent = sent;
        }
    }

    /// The key of a known pair.
    pub fn lookup(&self, pair: &Pair) -> Option<PeerKey> {
        self.pairs.get(pair).copied()
    }

    /// Whose key it is.
    pub fn pair(&self, key: PeerKey) -> Option<Pair> {
        self.peer(key).map(|peer| peer.pair)
    }

    /// Whether traffic to this peer can be sealed, and whether ML-KEM took part.
    pub fn state(&self, key: PeerKey) -> Option<Up> {
        let session = self.sessions.get(&self.peer(key)?.current?)?;
        Some(Up {
            pq: session.pq,
            since: session.created,
            handshake_hash: session.hash,
            sealed: session.sealed(),
        })
    }

    /// The handshake that the session with this index of ours came of, while it receives; see [`Authentic::index`].
    ///
    /// [`Authentic::index`]: super::Authentic::index
    pub fn handshake_hash(&self, index: u32) -> Option<[u8; 32]> {
        self.sessions.get(&index).map(|session| session.hash)
    }

    /// Whether any peer of the address has a session.
    pub fn has_session(&self, address: &Address) -> bool {
        self.of_address(address).any(|peer| peer.current.is_some())
    }

    /// Whether any peer of the address ever had one.
    pub fn was_sealed(&self, address: &Address) -> bool {
        self.of_address(address).any(|peer| peer.record.sealed)
    }

    /// Whether there is budget left for a plain first packet of an unknown sender (Q7).
    pub fn admit_plain(&mut self, now: Now) -> bool {
        let admitted = self.budgets.plain.take(self.config.limits.plain, now.at);
        if !admitted {
            self.counters.count(Drop::Budget);
        }
        admitted
    }

    pub(super) fn next_fragment_id(&mut self) -> u32 {
        self.next_fragment = self.next_fragment.wrapping_add(1);
        self.next_fragment
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while let Some(key) = self.dirty.pop_front() {
            if let Some(peer) = self.peer_mut(key) {
                peer.dirty = false;
                return Some(Event::Persist(peer.record));
            }
        }
        None
    }

    /// Drops all sessions and handshakes at once: the clocks jumped apart or the machine is a copy, and nothing may be
    /// sealed twice under one number (Q17). Records and the static agreements stay.
    pub fn drop_all(&mut self) {
        self.cookies.clear();
        for slot in self.slots() {
            self.drop_sessions(slot);
        }
    }

    /// Drops the sessions and handshakes of one pair, for example of an address that is blocked now.
    pub fn drop_peer(&mut self, key: PeerKey) {
        if self.peer(key).is_some() {
            self.drop_sessions(key);
        }
    }

    fn drop_sessions(&mut self, key: PeerKey) {
        self.end_handshake(key);
        let Some(peer) = self.peer(key) else { return };
        let was_up = peer.current.is_some();
        let pair = peer.pair;
        for index in peer.sessions.clone() {
            self.remove_session(index);
        }
        if was_up {
            self.events.push_back(Event::SessionDown {
                peer: key,
                pair,
                reason: Down::Dropped,
            });
        }
        self.reschedule(key);
    }

    fn slots(&self) -> Vec<PeerKey> {
        let mut slots: Vec<_> = self.pairs.values().copied().collect();
        slots.sort_unstable(); // the table's own order differs from run to run
        slots
    }

    /// A random index that nothing has.
    pub(super) fn new_index(&mut self) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if index != 0
                && !self.sessions.contains_key(&index)
                && !self.reserved.contains_key(&index)
            {
                return index;
            }
        }
    }

    pub(super) fn ends(&self, key: PeerKey) -> Option<Ends> {
        let peer = self.peer(key)?;
        Some(Ends {
            own: (self.own_id, self.own.peer),
            far: (peer.id, peer.pair.peer),
        })
    }

    pub(super) fn send(&mut self, to: To, packet: Vec<u8>) {
        if self.transmits.len() >= self.config.limits.transmits {
            self.counters.count(Drop::QueueFull);
            return;
        }
        self.transmits.push_back(Transmit { to, packet });
    }

    pub(super) fn mark_dirty(&mut self, key: PeerKey) {
        let Some(peer) = self.peer_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut peer.dirty, true) {
            self.dirty.push_back(key);
        }
    }

    /// Raises what is known of the far side's timestamps and sets pins.
    pub(super) fn remember(&mut self, key: PeerKey, seen: Option<Timestamp>, pq: bool) {
        let Some(peer) = self.peer_mut(key) else {
            return;
        };
        let before = peer.record;
        peer.record.seen = peer.record.seen.max(seen.unwrap_or_default());
        peer.record.sealed = true;
        peer.record.pq |= pq;
        if peer.record != before {
            self.mark_dirty(key);
        }
    }

    /// Forgets a session; its keys are cleared.
    pub(super) fn remove_session(&mut self, index: u32) {
        let Some(mut session) = self.sessions.remove(&index) else {
            return;
        };
        if let Some(session::KemState::Offered { offer, .. }) = session.kem.as_deref() {
            self.reserved.remove(&offer.index());
        }
        let trusted = self.peer(session.peer).is_some_and(|peer| peer.trusted);
        session.reassembly.clear(self.pools.of(trusted));
        if let Some(peer) = self.peer_mut(session.peer) {
            peer.sessions.retain(|other| *other != index);
            if peer.current == Some(index) {
                peer.current = None;
            }
        }
    }

    /// Puts the peer on the list for a new handshake if this session is old (Q16).
    pub(super) fn ask_rekey(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        if (now < session.rekey_at && session.sealed() < session::REKEY_PACKETS)
            || session.rekey_asked
        {
            return;
        }
        session.rekey_asked = true;
        self.rekeys.push(session.peer);
        self.rekeys_since.get_or_insert(now);
    }
}

/// A session that traffic can be sealed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Up {
    /// ML-KEM took part in the keys.
    pub pq: bool,
    /// When its handshake was complete.
    pub since: Instant,
    /// The name of the handshake, the same on both sides (Q29).
    pub handshake_hash: [u8; 32],
    /// Packets sealed so far.
    pub sealed: u64,
}

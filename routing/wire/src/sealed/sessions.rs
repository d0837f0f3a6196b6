//! The facade: tables, sealing, starting, persistence.
use super::budget::{Bucket, NetworkBuckets};
use super::cookie::CookieJar;
use super::counters::{Counters, Drop};
use super::crypto::{Agreed, StaticKey};
use super::fragment::{self, Fragment, Pool};
use super::hello::Mac1Key;
use super::peer::{Agreements, IndexMap, Peer, PeerKey};
use super::session::{self, Ends, Session, TEXT};
use super::{
    Config, Down, Event, Now, Pair, Record, SEALED_BODY, SEALED_OVERHEAD, SEALED_TAIL, SealError,
    Timestamp, To, Transmit, kind,
};
use crate::{Address, AddressId, Identity};
use rand_core::CryptoRng;
use slab::Slab;
use std::collections::{BTreeSet, HashMap, VecDeque};
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
    pairs: HashMap<Pair, PeerKey>,
    /// All pairs of an address; more addresses than one where short ids collide.
    pub(super) ids: HashMap<AddressId, Vec<PeerKey>>,
    generation: u32,
    trusted: HashMap<Address, ()>,
    pub(super) agreements: Agreements,

    pub(super) sessions: IndexMap<Box<Session>>,
    /// Indices of HELLOs and KEM offers that are under way.
    pub(super) reserved: IndexMap<PeerKey>,
    /// The responder's sessions in the order they came, confirmed and dropped ones among them.
    pub(super) unconfirmed: VecDeque<u32>,

    pub(super) timers: BTreeSet<(Instant, PeerKey)>,
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
            timers: BTreeSet::new(),
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

    /// For many packets to one peer: looked up once, then only sealed.
    pub fn sealer(&mut self, now: Now, key: PeerKey) -> Result<Sealer<'_>, SealError> {
        let index = self
            .peer(key)
            .and_then(|peer| peer.current)
            .ok_or(SealError::NoSession)?;
        self.ask_rekey(now.at, index);
        let session = self.sessions.get_mut(&index).ok_or(SealError::NoSession)?;
        Ok(Sealer {
            session,
            now: now.at,
        })
    }

    /// Seals one packet in place. The body stands at `SEALED_BODY`, with `SEALED_TAIL` bytes of room behind it;
    /// everything else is written here. Returns the packet's number.
    pub fn seal(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        packet: &mut [u8],
    ) -> Result<u64, SealError> {
        self.sealer(now, key)?.seal(message_kind, packet)
    }

    /// Seals a message that needs no room of its own: copies the body into a new packet.
    pub fn seal_copy(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        body: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_BODY + body.len() + SEALED_TAIL];
        packet[SEALED_BODY..SEALED_BODY + body.len()].copy_from_slice(body);
        self.seal(now, key, message_kind, &mut packet)?;
        Ok(packet)
    }

    /// Seals a message as FRAGMENTs, each in a packet of at most `max_packet` bytes (Q21).
    pub fn seal_fragments(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        body: &[u8],
        max_packet: usize,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let slice = max_packet.saturating_sub(SEALED_OVERHEAD + 1 + fragment::HEADER);
        let slices = fragment::cut(message_kind, body, slice).ok_or(SealError::TooLong)?;
        let id = self.next_fragment_id();
        let mut sealer = self.sealer(now, key)?;
        fragments(&slices, id)
            .map(|body| sealer.seal_copy(kind::FRAGMENT, &body))
            .collect()
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
        self.pairs.values().copied().collect()
    }

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

    fn of_address<'a>(&'a self, address: &'a Address) -> impl Iterator<Item = &'a Peer> {
        // The ids of the table are few; computing the address' own costs three key schedules, less than it seems.
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

    /// Seals a message of the sessions' own in a given session, current or not.
    pub(super) fn send_in(&mut self, now: Instant, index: u32, message: Option<(u8, &[u8])>) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let key = session.peer;
        let mut sealer = Sealer { session, now };
        let sealed = match message {
            Some((message_kind, body)) => sealer.seal_copy(message_kind, body),
            None => sealer.seal_empty(),
        };
        if let (Ok(packet), Some(pair)) = (sealed, self.pair(key)) {
            self.send(To::Peer(pair), packet);
        }
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

/// The bodies of the FRAGMENTs of one message.
pub(super) fn fragments(slices: &[Vec<u8>], id: u32) -> impl Iterator<Item = Vec<u8>> + '_ {
    let count = slices.len() as u8;
    slices.iter().zip(0..).map(move |(slice, index)| {
        let fragment = Fragment {
            id,
            index,
            count,
            slice,
        };
        [&fragment.header()[..], slice].concat()
    })
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

/// One peer's current session, borrowed for a batch. Sealing neither looks up, locks nor allocates.
pub struct Sealer<'a> {
    session: &'a mut Session,
    now: Instant,
}

impl Sealer<'_> {
    /// See [`Sessions::seal`].
    pub fn seal(&mut self, message_kind: u8, packet: &mut [u8]) -> Result<u64, SealError> {
        if packet.len() < SEALED_BODY + SEALED_TAIL {
            return Err(SealError::TooShort);
        }
        packet[TEXT] = message_kind;
        self.session.used = self.now;
        self.session.seal(self.now, packet)
    }

    /// See [`Sessions::seal_copy`].
    pub fn seal_copy(&mut self, message_kind: u8, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_BODY + body.len() + SEALED_TAIL];
        packet[SEALED_BODY..SEALED_BODY + body.len()].copy_from_slice(body);
        self.seal(message_kind, &mut packet)?;
        Ok(packet)
    }

    /// An empty packet: proves the keys and says nothing (Q11).
    fn seal_empty(&mut self) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_OVERHEAD];
        self.session.seal(self.now, &mut packet)?;
        Ok(packet)
    }
}

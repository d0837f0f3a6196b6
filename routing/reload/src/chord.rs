//! chord-128-2-8, as repaired (R108 to R121, RD47 to RD55): a [`Topology`].
//!
//! ```text
//!              peers: everybody there is a link to; routable once an UPDATE came (R6)
//!                │ nearest r on each side            │ nearest to id + 2^(128-i)
//!   predecessors ┴ successors: the neighbour table   └ fingers: the far jumps
//!        │              │
//!        └ range        └ replicas: the first two
//! ```
//!
//! The neighbour table is always the nearest routable peers there are links to: a peer is adopted after it has answered
//! (Zave), and a lost successor is replaced by the next live one. The list is then rebuilt from that one's UPDATE.
use crate::body::{ChordUpdate, MAX_UPDATE_IDS, Membership};
use crate::topology::{Action, Hop, Input, Topology};
use crate::{Id, Now, ReloadError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Copies beside the responsible peer's own (R108).
pub const REPLICAS: usize = 2;
/// Neighbours on each side at least (R115).
pub const MIN_NEIGHBOURS: usize = 3;
/// Fingers at least (R108).
pub const MIN_FINGERS: u8 = 8;
/// An UPDATE to the neighbours waits this long for further changes.
const COALESCE: Duration = Duration::from_millis(500);
/// A peer that could not be reached is not tried again for this long.
const COOLDOWN: Duration = Duration::from_secs(30);
/// One peer is not corrected, nor questioned, more often than this.
const CORRECT_EVERY: Duration = Duration::from_secs(5);
/// After the last change of range or replicas, copies are sent once more: by then dead links are known everywhere
/// (RD73: 45 s).
const COPY_AGAIN: Duration = Duration::from_secs(60);
/// A joining node waits this long for its connections before it sends JOIN.
const SETTLE: Duration = Duration::from_secs(5);
/// One step of joining takes at most this long (RD47: 30 s for the handover).
const JOIN_STEP: Duration = Duration::from_secs(35);
/// The admitting peer gives a joining peer this long (RD47).
const HANDOVER: Duration = Duration::from_secs(30);
/// Attempts to join through one bootstrap peer.
const JOIN_ATTEMPTS: u32 = 4;
/// Fingers asked for at a time.
const FINGERS_AT_ONCE: usize = 4;
/// How soon an unknown finger is asked for again.
const FINGER_RETRY: Duration = Duration::from_secs(5);
/// Peers remembered as wanted or unreachable.
const MAX_WANTED: usize = 256;

/// Parameters of the ring.
#[derive(Clone, Debug)]
pub struct Config {
    /// Between UPDATEs to everybody (R119), `chord-128-2-8-update-frequency`.
    pub update_every: Duration,
    /// Between checks of a finger (R120), `chord-128-2-8-ping-frequency`.
    pub ping_every: Duration,
    /// Neighbours on each side; `None`: ceil(log2 N) within 3 to 15 (RD52).
    pub neighbours: Option<usize>,
    /// Fingers; `None`: as many as reach beyond the successors, at least 8 (RD53).
    pub fingers: Option<u8>,
    /// Whether neighbours are used to go straight to the owner of a key (RD50).
    pub shortcut: bool,
    /// A client sends everything through the peers it has links to, and is no part of the ring (R8).
    pub is_client: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            update_every: Duration::from_secs(600),
            ping_every: Duration::from_secs(3600),
            neighbours: None,
            fingers: None,
            shortcut: true,
            is_client: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing has been asked.
    Idle,
    /// A client.
    Client,
    /// Looking for the successor.
    Locating { attempt: u32, until: Duration },
    /// The successor is known; neighbours and fingers are being connected.
    Settling { attempt: u32, until: Duration },
    /// JOIN is sent, or answered; the UPDATE that admits is awaited.
    Admitting {
        attempt: u32,
        until: Duration,
        by: Id,
    },
    /// Part of the ring.
    Joined,
    /// Left.
    Left,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// An UPDATE has come, or this node joins through it (R6, RD49).
    routable: bool,
    /// When it may be corrected or questioned again.
    quiet_until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Finger {
    /// Who; `None`: not known yet.
    peer: Option<Id>,
    /// When to ask again.
    ask_at: Duration,
}

/// Why a PING was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Successor,
    Finger(u8),
    IsAlive,
}

/// One node's view of the ring.
pub struct Chord {
    id: Id,
    config: Config,
    stage: Stage,
    peers: BTreeMap<Id, Peer>,
    predecessors: Vec<Id>,
    successors: Vec<Id>,
    /// The predecessor that the admitting peer named, until there is a link to it.
    told_predecessor: Option<Id>,
    fingers: BTreeMap<u8, Finger>,
    /// Peers that are being connected (`None`), or could not be, and until when they rest.
    wanted: BTreeMap<Id, Option<Duration>>,
    pinging: BTreeMap<Id, Purpose>,
    admitting: Option<(Id, Duration)>,
    /// Who held copies of what range when they were last brought up to date.
    replicated: Option<(Id, Vec<Id>)>,
    /// When copies are sent once more: what was refused or lost while tables differed is made good.
    copy_again_at: Option<Duration>,
    update_at: Option<Duration>,
    /// Who gets it: neighbours of the old table and the new (R117).
    update_to: BTreeSet<Id>,
    next_update: Duration,
    next_ping: Duration,
    random: u64,
    actions: VecDeque<Action>,
}

impl Chord {
    /// A node that is no part of any ring yet. `seed` spreads timers.
    pub fn new(id: Id, config: Config, seed: u64) -> Self {
        Self {
            id,
            config,
            stage: Stage::Idle,
            peers: BTreeMap::new(),
            predecessors: Vec::new(),
            successors: Vec::new(),
            told_predecessor: None,
            fingers: BTreeMap::new(),
            wanted: BTreeMap::new(),
            pinging: BTreeMap::new(),
            admitting: None,
            replicated: None,
            copy_again_at: None,
            update_at: None,
            update_to: BTreeSet::new(),
            next_update: Duration::MAX,
            next_ping: Duration::MAX,
            random: seed | 1,
            actions: VecDeque::new(),
        }
    }

    /// A node in the middle of a ring that stands still, with the tables it would have: for measuring.
    pub fn frozen(id: Id, config: Config, ring: &[Id]) -> Self {
        let mut chord = Self::new(id, config, 1);
        chord.stage = Stage::Joined;
        let place = ring.partition_point(|other| *other < id);
        let others = ring.len().saturating_sub(1);
        let near = chord
            .config
            .neighbours
            .unwrap_or_else(|| neighbours_for(ring.len() as f64));
        let at = |offset: usize| ring[(place + offset) % ring.len()];
        for step in 1..=near.min(others) {
            for id in [at(step), at(ring.len() - step)] {
                chord.peers.insert(
                    id,
                    Peer {
                        routable: true,
                        ..Peer::default()
                    },
                );
            }
        }
        chord.rebuild_tables();
        for i in chord.finger_numbers() {
            let target = chord.finger_target(i);
            let owner = ring.partition_point(|other| *other < target) % ring.len();
            if ring[owner] != id {
                let peer = Peer {
                    routable: true,
                    ..Peer::default()
                };
                chord.peers.insert(ring[owner], peer);
                let finger = Finger {
                    peer: Some(ring[owner]),
                    ask_at: Duration::MAX,
                };
                chord.fingers.insert(i, finger);
            }
        }
        // fingers must not pass for neighbours
        chord.predecessors.truncate(near);
        chord.successors.truncate(near);
        chord
    }

    /// Takes a peer out of a frozen node's tables, as a lost link does, without any repair.
    pub fn freeze_out(&mut self, peer: Id) {
        self.peers.remove(&peer);
        self.predecessors.retain(|id| *id != peer);
        self.successors.retain(|id| *id != peer);
    }

    /// Whether a frozen node still has a neighbour on each side; without one it does not know its range.
    pub fn knows_its_range(&self) -> bool {
        !self.predecessors.is_empty()
    }

    fn random(&mut self) -> u64 {
        // xorshift: spreads timers, keeps no secret
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Between a half and the whole of `base`: UPDATEs must not all fall together (R119).
    fn spread(&mut self, base: Duration) -> Duration {
        let share = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        base.mul_f64(0.5 + share / 2.0)
    }

    fn is_joining(&self) -> bool {
        matches!(
            self.stage,
            Stage::Locating { .. } | Stage::Settling { .. } | Stage::Admitting { .. }
        )
    }

    fn neighbour_count(&self) -> usize {
        self.config.neighbours.unwrap_or_else(|| {
            let routable = self.peers.values().filter(|peer| peer.routable).count();
            let shorter = self.predecessors.len().min(self.successors.len());
            // as many on each side, up to eight, as cannot be the same peers
            let each = shorter.min(8).min(routable / 2);
            let Some(last) = each.checked_sub(1) else {
                return MIN_NEIGHBOURS;
            };
            let span = self.predecessors[last].distance_to(self.successors[last]);
            let share = span.max(1) as f64 / u128::MAX as f64;
            neighbours_for(2.0 * each as f64 / share)
        })
    }

    /// The nearest routable peers on both sides.
    fn rebuild_tables(&mut self) {
        let clockwise = |peers: &BTreeMap<Id, Peer>, count: usize| -> Vec<Id> {
            let after = peers.range(self.id..).chain(peers.range(..self.id));
            let routable = after.filter(|(_, peer)| peer.routable);
            routable.map(|(id, _)| *id).take(count).collect()
        };
        let counter = |peers: &BTreeMap<Id, Peer>, count: usize| -> Vec<Id> {
            let before = peers.range(..self.id).rev();
            let wrapped = peers.range(self.id..).rev();
            let routable = before.chain(wrapped).filter(|(_, peer)| peer.routable);
            routable.map(|(id, _)| *id).take(count).collect()
        };
        let most = MAX_UPDATE_IDS;
        let (successors, predecessors) = (clockwise(&self.peers, most), counter(&self.peers, most));
        self.successors = successors;
        self.predecessors = predecessors;
        let count = self.neighbour_count().clamp(1, most);
        self.successors.truncate(count);
        self.predecessors.truncate(count);
    }

    /// Rebuilds the tables and does what a change asks for (R116 to R118).
    fn refresh(&mut self, now: Now) {
        let (old_p, old_s) = (self.predecessors.clone(), self.successors.clone());
        let old_range = self.range();
        self.rebuild_tables();
        if let Some(told) = self.told_predecessor {
            let nearer = self
                .predecessors
                .first()
                .is_some_and(|first| first.distance_to(self.id) <= told.distance_to(self.id));
            if nearer {
                self.told_predecessor = None;
            }
        }
        if self.stage != Stage::Joined {
            return;
        }
        if (old_p, old_s) != (self.predecessors.clone(), self.successors.clone()) {
            self.announce_soon(now);
            self.copy_again_at = Some(now.at + COPY_AGAIN);
            self.plan_fingers(now);
        }
        self.move_copies(now, old_range);
    }

    fn announce_soon(&mut self, now: Now) {
        self.update_at.get_or_insert(now.at + COALESCE);
        let neighbours = self.predecessors.iter().chain(&self.successors);
        self.update_to.extend(neighbours.copied());
    }

    /// Brings copies where they belong after the range or the replica set has changed (R118).
    fn move_copies(&mut self, now: Now, old_range: Option<(Id, Id)>) {
        let (Some((after, upto)), Some((old_after, _))) = (self.range(), old_range) else {
            return;
        };
        let now_there = self.first_successors();
        let before = match &self.replicated {
            Some((_, before)) => before.clone(),
            None => Vec::new(),
        };
        if before != now_there || old_after != after {
            self.copy_again_at = Some(now.at + COPY_AGAIN);
        }
        for to in &now_there {
            if !before.contains(to) {
                self.actions.push_back(Action::Replicate {
                    to: *to,
                    after,
                    upto,
                });
            } else if old_after != after && old_after.in_range(after, upto) {
                // the range has grown: what was a replica is now ours to keep in three places
                let grown = Action::Replicate {
                    to: *to,
                    after,
                    upto: old_after,
                };
                self.actions.push_back(grown);
            }
        }
        if old_after != after
            && after.in_range(old_after, upto)
            && self.admitting.is_none_or(|(joiner, _)| joiner != after)
            && self.peers.contains_key(&after)
        {
            // a nearer predecessor without a JOIN to us: two parts of the ring have met
            let lost = Action::Replicate {
                to: after,
                after: old_after,
                upto: after,
            };
            self.actions.push_back(lost);
        }
        self.replicated = Some((after, now_there));
    }

    fn first_successors(&self) -> Vec<Id> {
        self.successors.iter().copied().take(REPLICAS).collect()
    }

    fn finger_target(&self, number: u8) -> Id {
        self.id.plus(1u128 << (128 - u32::from(number)))
    }

    /// Fingers this node should have (RD53).
    fn finger_numbers(&self) -> Vec<u8> {
        if let Some(count) = self.config.fingers {
            return (1..=count).collect();
        }
        let reach = self
            .successors
            .last()
            .map_or(u128::MAX, |last| self.id.distance_to(*last));
        (1..=127u8)
            .take_while(|number| {
                *number <= MIN_FINGERS || 1u128 << (128 - u32::from(*number)) > reach
            })
            .collect()
    }

    fn plan_fingers(&mut self, now: Now) {
        let numbers: BTreeSet<u8> = self.finger_numbers().into_iter().collect();
        self.fingers.retain(|number, _| numbers.contains(number));
        for number in numbers {
            let unknown = Finger {
                peer: None,
                ask_at: now.at,
            };
            self.fingers.entry(number).or_insert(unknown);
        }
    }

    /// Asks for fingers that are not known.
    fn ask_fingers(&mut self, now: Now) {
        if !self.is_joined() && !matches!(self.stage, Stage::Settling { .. }) {
            return;
        }
        let busy = |purpose: &&Purpose| matches!(purpose, Purpose::Finger(_));
        let mut room = FINGERS_AT_ONCE.saturating_sub(self.pinging.values().filter(busy).count());
        let due: Vec<u8> = self
            .fingers
            .iter()
            .filter(|(_, finger)| finger.peer.is_none() && finger.ask_at <= now.at)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            if room == 0 {
                return;
            }
            let target = self.finger_target(number);
            if let Some(finger) = self.fingers.get_mut(&number) {
                finger.ask_at = now.at + FINGER_RETRY;
            }
            match self.next_hop(target, &[]) {
                // its own range: there is nobody between
                Hop::Here => {
                    let itself = Finger {
                        peer: Some(self.id),
                        ask_at: Duration::MAX,
                    };
                    self.fingers.insert(number, itself);
                }
                _ => {
                    room -= 1;
                    self.ping(target, Purpose::Finger(number));
                }
            }
        }
    }

    fn ping(&mut self, key: Id, purpose: Purpose) {
        if self.pinging.insert(key, purpose).is_none() {
            self.actions.push_back(Action::Ping(key));
        }
    }

    fn connect(&mut self, now: Now, peer: Id, told_by: Option<Id>) {
        if peer == self.id || !peer.is_valid_peer() || self.peers.contains_key(&peer) {
            return;
        }
        match self.wanted.get(&peer) {
            Some(None) => return,
            Some(Some(until)) if *until > now.at => return,
            _ => {}
        }
        if self.wanted.len() >= MAX_WANTED {
            self.wanted
                .retain(|_, until| until.is_none_or(|until| until > now.at));
            if self.wanted.len() >= MAX_WANTED {
                return;
            }
        }
        self.wanted.insert(peer, None);
        self.actions.push_back(Action::Connect(peer, told_by));
    }

    /// Whether a peer would stand in the neighbour table.
    fn would_be_neighbour(&self, peer: Id) -> bool {
        let count = self.neighbour_count();
        let ahead = self
            .successors
            .get(count - 1)
            .is_none_or(|last| self.id.distance_to(peer) < self.id.distance_to(*last));
        let behind = self
            .predecessors
            .get(count - 1)
            .is_none_or(|last| peer.distance_to(self.id) < last.distance_to(self.id));
        ahead || behind
    }

    fn send_update(&mut self, to: Id) {
        let update = ChordUpdate {
            predecessors: self.predecessors.clone(),
            successors: self.successors.clone(),
        };
        if let Ok(body) = update.emit() {
            self.actions.push_back(Action::Update(to, body));
        }
    }

    fn locate(&mut self, now: Now, attempt: u32) {
        self.pinging
            .retain(|_, purpose| *purpose != Purpose::Successor);
        if attempt >= JOIN_ATTEMPTS || self.peers.is_empty() {
            self.stage = Stage::Idle;
            self.actions.push_back(Action::Alone);
            return;
        }
        let wait = Duration::from_secs(1 << attempt.min(5)) + JOIN_STEP;
        self.stage = Stage::Locating {
            attempt,
            until: now.at + wait,
        };
        self.ping(self.id.plus(1), Purpose::Successor);
    }

    fn on_connected(&mut self, now: Now, peer: Id) {
        self.wanted.remove(&peer);
        let entry = self.peers.entry(peer).or_default();
        if matches!(
            self.stage,
            Stage::Locating { .. } | Stage::Settling { .. } | Stage::Admitting { .. }
        ) {
            // R113, RD49: a joining node may route through those it has connected to
            entry.routable = true;
        }
        match self.stage {
            Stage::Joined => self.send_update(peer),
            Stage::Idle | Stage::Left | Stage::Client => {}
            _ => {
                self.refresh(now);
                self.settle(now);
            }
        }
        self.ask_fingers(now);
    }

    /// Sends JOIN once everything that was asked for is there, or time is up.
    fn settle(&mut self, now: Now) {
        let Stage::Settling { attempt, until } = self.stage else {
            return;
        };
        let waiting = self.wanted.values().any(Option::is_none)
            || self
                .pinging
                .values()
                .any(|p| matches!(p, Purpose::Finger(_)))
            || self.fingers.values().any(|finger| finger.peer.is_none());
        if waiting && now.at < until {
            return;
        }
        match self.successors.first().copied() {
            Some(by) => {
                let until = now.at + JOIN_STEP;
                self.stage = Stage::Admitting { attempt, until, by };
                self.actions.push_back(Action::Join(by));
            }
            None => self.locate(now, attempt + 1),
        }
    }

    fn on_pinged(&mut self, now: Now, key: Id, peer: Option<Id>) {
        match (self.pinging.remove(&key), peer) {
            (Some(Purpose::Successor), Some(peer)) => {
                let Stage::Locating { attempt, .. } = self.stage else {
                    return;
                };
                if peer == self.id {
                    // somebody still believes in an earlier life of this node
                    return;
                }
                self.stage = Stage::Settling {
                    attempt,
                    until: now.at + SETTLE,
                };
                self.connect(now, peer, None);
                // R113: the next successors, as long as the UPDATE of the first has not told them
                self.ping(peer.plus(1), Purpose::IsAlive);
                self.plan_fingers(now);
                self.ask_fingers(now);
                self.settle(now);
            }
            (Some(Purpose::Finger(number)), Some(peer)) => {
                if let Some(finger) = self.fingers.get_mut(&number) {
                    finger.peer = Some(peer);
                    finger.ask_at = Duration::MAX;
                }
                self.connect(now, peer, None);
                self.ask_fingers(now);
                self.settle(now);
            }
            (Some(Purpose::IsAlive), answer) => {
                if self.peers.contains_key(&key) && answer != Some(key) {
                    self.actions.push_back(Action::Disconnect(key));
                    self.on_lost(now, key);
                } else if let Some(peer) = answer
                    && self.would_be_neighbour(peer)
                {
                    self.connect(now, peer, None);
                }
                self.settle(now);
            }
            (Some(_), None) | (None, _) => self.settle(now),
        }
    }

    fn on_lost(&mut self, now: Now, peer: Id) {
        self.wanted.remove(&peer);
        if self.peers.remove(&peer).is_none() {
            return;
        }
        for finger in self.fingers.values_mut() {
            if finger.peer == Some(peer) {
                *finger = Finger {
                    peer: None,
                    ask_at: now.at,
                };
            }
        }
        if self.told_predecessor == Some(peer) {
            self.told_predecessor = None;
        }
        self.refresh(now);
        match self.stage {
            Stage::Admitting { attempt, by, .. } if by == peer => self.locate(now, attempt + 1),
            Stage::Locating { .. } | Stage::Settling { .. } if self.peers.is_empty() => {
                self.stage = Stage::Idle;
                self.actions.push_back(Action::Alone);
            }
            // R116: nobody is left; the ring goes on elsewhere, or not at all
            Stage::Joined | Stage::Client if self.peers.is_empty() => {
                self.actions.push_back(Action::Alone);
            }
            _ => self.settle(now),
        }
        self.ask_fingers(now);
    }

    fn on_update(&mut self, now: Now, from: Id, body: &[u8]) {
        let Ok(update) = ChordUpdate::parse(body) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if self.stage == Stage::Client {
            return;
        }
        peer.routable = true;
        if let Stage::Admitting { by, .. } = self.stage
            && by == from
            && update.predecessors.contains(&self.id)
        {
            self.become_member(now, &update);
        }
        self.refresh(now);
        let told: BTreeSet<Id> = update
            .predecessors
            .iter()
            .chain(&update.successors)
            .copied()
            .collect();
        for id in &told {
            if self.would_be_neighbour(*id) {
                // the teller has a link to it, and the ring may not yet know the way
                self.connect(now, *id, Some(from));
            }
        }
        if self.stage == Stage::Joined {
            self.compare(now, from, &update, &told);
        }
        self.settle(now);
        self.ask_fingers(now);
    }

    /// The admitting peer has named this node as its predecessor: from here on it is part of the ring (R113).
    fn become_member(&mut self, now: Now, update: &ChordUpdate) {
        self.stage = Stage::Joined;
        let mut before = update.predecessors.iter();
        self.told_predecessor = before
            .by_ref()
            .find(|id| **id == self.id)
            .and_then(|_| before.next())
            .copied()
            .or(update
                .predecessors
                .iter()
                .find(|id| **id != self.id)
                .copied());
        self.rebuild_tables();
        // they hold the copies already: the admitting peer was responsible, its successor a replica
        self.replicated = self
            .range()
            .map(|(after, _)| (after, self.first_successors()));
        self.next_update = now.at + self.spread(self.config.update_every);
        self.next_ping = now.at + self.spread(self.config.ping_every);
        self.actions.push_back(Action::Joined);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_update(peer);
        }
        self.plan_fingers(now);
    }

    /// The arc that a sender's tables cover around it: who lies in it and is not told is unknown to it, or gone.
    fn compare(&mut self, now: Now, from: Id, update: &ChordUpdate, told: &BTreeSet<Id>) {
        let first = update.predecessors.last().copied().unwrap_or(from);
        let last = update.successors.last().copied().unwrap_or(from);
        let in_arc = |id: Id| id.in_range(first, last);
        let missing = |id: Id| in_arc(id) && id != from && !told.contains(&id);
        let mut correct = missing(self.id);
        let neighbours: BTreeSet<Id> = self
            .predecessors
            .iter()
            .chain(&self.successors)
            .copied()
            .collect();
        for id in neighbours {
            if !missing(id) {
                continue;
            }
            correct = true;
            // R117: bracketing peers that do not know a neighbour of ours: is it still there?
            let brackets = in_arc(self.id);
            if let Some(peer) = self.peers.get_mut(&id)
                && brackets
                && peer.quiet_until <= now.at
            {
                peer.quiet_until = now.at + 12 * CORRECT_EVERY;
                self.ping(id, Purpose::IsAlive);
            }
        }
        if let Some(peer) = self.peers.get_mut(&from)
            && correct
            && peer.quiet_until <= now.at
        {
            peer.quiet_until = now.at + CORRECT_EVERY;
            self.update_to.insert(from);
            self.update_at.get_or_insert(now.at + COALESCE);
        }
    }

    fn flush_updates(&mut self) {
        self.update_at = None;
        for to in std::mem::take(&mut self.update_to) {
            if self.peers.contains_key(&to) {
                self.send_update(to);
            }
        }
    }

    fn run_join_timer(&mut self, now: Now) {
        match self.stage {
            Stage::Locating { attempt, until } | Stage::Admitting { attempt, until, .. }
                if until <= now.at =>
            {
                self.locate(now, attempt + 1);
            }
            Stage::Settling { until, .. } if until <= now.at => {
                let fingers = |purpose: &Purpose| !matches!(purpose, Purpose::Finger(_));
                self.pinging.retain(|_, purpose| fingers(purpose));
                self.settle(now);
            }
            _ => {}
        }
    }
}

/// ceil(log2 N) within 3 to 15 (RD52).
fn neighbours_for(nodes: f64) -> usize {
    (nodes.max(1.0).log2().ceil() as usize).clamp(MIN_NEIGHBOURS, MAX_UPDATE_IDS)
}

impl Topology for Chord {
    fn name(&self) -> &'static str {
        "chord-128-2-8"
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Create => {
                self.stage = Stage::Joined;
                self.next_update = now.at + self.spread(self.config.update_every);
                self.next_ping = now.at + self.spread(self.config.ping_every);
                self.actions.push_back(Action::Joined);
            }
            Input::Join(through) => {
                self.peers.entry(through).or_default().routable = true;
                match self.config.is_client {
                    true => {
                        self.stage = Stage::Client;
                        self.actions.push_back(Action::Joined);
                    }
                    false => self.locate(now, 0),
                }
            }
            Input::Connected(peer) => self.on_connected(now, peer),
            Input::Lost(peer) => self.on_lost(now, peer),
            Input::Unreachable(peer) => {
                self.wanted.insert(peer, Some(now.at + COOLDOWN));
                for finger in self.fingers.values_mut() {
                    if finger.peer == Some(peer) && !self.peers.contains_key(&peer) {
                        *finger = Finger {
                            peer: None,
                            ask_at: now.at + COOLDOWN,
                        };
                    }
                }
                self.settle(now);
            }
            Input::Pinged { key, peer } => self.on_pinged(now, key, peer),
            Input::JoinAnswered { peer, admitted } => {
                if let Stage::Admitting { attempt, by, .. } = self.stage
                    && by == peer
                    && !admitted
                {
                    // somebody else joins there, or the successor is another by now: look again, later
                    let until = now.at + Duration::from_secs(1 << attempt.min(4));
                    self.stage = Stage::Locating { attempt, until };
                }
            }
            Input::Update { from, body } => self.on_update(now, from, body),
            Input::UpdateFailed(peer) => {
                // R119: mark invalid and connect again
                if self.peers.contains_key(&peer) {
                    self.actions.push_back(Action::Disconnect(peer));
                    self.on_lost(now, peer);
                    self.connect(now, peer, None);
                }
            }
            Input::HandedOver(joiner) => {
                if let Some(peer) = self.peers.get_mut(&joiner)
                    && self.admitting.is_some_and(|(id, _)| id == joiner)
                {
                    peer.routable = true;
                    self.refresh(now);
                    self.admitting = None;
                    self.send_update(joiner);
                }
            }
            Input::Left(Membership { peer, .. }) => self.on_lost(now, *peer),
            Input::Leave => {
                if let (Some((after, upto)), Some(to)) = (self.range(), self.successors.first()) {
                    self.actions.push_back(Action::Replicate {
                        to: *to,
                        after,
                        upto,
                    });
                }
                self.stage = Stage::Left;
            }
            Input::ProbedOutside { peer, through } => {
                if self.stage == Stage::Joined && self.would_be_neighbour(peer) {
                    self.connect(now, peer, Some(through));
                }
            }
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let stage = match self.stage {
            Stage::Locating { until, .. }
            | Stage::Settling { until, .. }
            | Stage::Admitting { until, .. } => Some(until),
            _ => None,
        };
        let unknown = |finger: &&Finger| finger.peer.is_none();
        let asks = (self.is_joined() || self.is_joining())
            .then(|| {
                self.fingers
                    .values()
                    .filter(unknown)
                    .map(|f| f.ask_at)
                    .min()
            })
            .flatten();
        let joined = self.is_joined() && self.stage == Stage::Joined;
        let timers = joined.then(|| self.next_update.min(self.next_ping));
        let admitting = self.admitting.map(|(_, until)| until);
        let again = self.copy_again_at.filter(|_| self.stage == Stage::Joined);
        [stage, asks, timers, admitting, self.update_at, again]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.run_join_timer(now);
        if self.admitting.is_some_and(|(_, until)| until <= now.at) {
            self.admitting = None;
        }
        if self.update_at.is_some_and(|at| at <= now.at) {
            self.flush_updates();
        }
        if self.stage == Stage::Joined {
            if self.copy_again_at.is_some_and(|at| at <= now.at) {
                self.copy_again_at = None;
                if let Some((after, upto)) = self.range() {
                    for to in self.first_successors() {
                        let again = Action::Replicate { to, after, upto };
                        self.actions.push_back(again);
                    }
                }
                self.actions.push_back(Action::Prune);
            }
            if self.next_update <= now.at {
                self.next_update = now.at + self.spread(self.config.update_every);
                let routable = self.peers.iter().filter(|(_, peer)| peer.routable);
                for id in routable.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.send_update(id);
                }
            }
            if self.next_ping <= now.at {
                self.next_ping = now.at + self.spread(self.config.ping_every);
                let pick = self.random() as usize % self.fingers.len().max(1);
                if let Some(number) = self.fingers.keys().nth(pick).copied() {
                    self.ping(self.finger_target(number), Purpose::Finger(number));
                }
            }
        }
        self.ask_fingers(now);
        // a finger whose PING is under way is not due again before its answer
        for finger in self.fingers.values_mut() {
            if finger.peer.is_none() && finger.ask_at <= now.at {
                finger.ask_at = now.at + FINGER_RETRY;
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_hop(&self, key: Id, avoid: &[Id]) -> Hop {
        let is_mine = match self.range() {
            Some((after, upto)) => key.in_range(after, upto),
            None => key == self.id,
        };
        if is_mine {
            return Hop::Here;
        }
        let usable = |id: &Id| !avoid.contains(id);
        if self.peers.contains_key(&key) && usable(&key) {
            return Hop::To(key);
        }
        // RD50: the neighbours show who owns a key near this node
        if self.config.shortcut && self.stage == Stage::Joined {
            let whole = |list: &[Id]| list.last().copied();
            if let Some(last) = whole(&self.successors)
                && key.in_range(self.id, last)
            {
                let owner = self
                    .successors
                    .iter()
                    .find(|id| key.in_range(self.id, **id) && usable(id));
                if let Some(owner) = owner {
                    return Hop::To(*owner);
                }
            }
            if let Some(last) = whole(&self.predecessors)
                && key.in_range(last, self.id)
            {
                // the farthest one bounds the stretch and owns none of it
                let mut nearest_last = self.predecessors.iter().rev().skip(1);
                if let Some(owner) = nearest_last.find(|id| key.in_range(last, **id) && usable(id))
                {
                    return Hop::To(*owner);
                }
            }
        }
        let before = self.peers.range(..key).rev();
        let wrapped = self.peers.range(key..).rev();
        let between = before
            .chain(wrapped)
            .take_while(|(id, _)| id.in_range(self.id, key))
            .find(|(id, peer)| peer.routable && usable(id));
        if let Some((id, _)) = between {
            return Hop::To(*id);
        }
        let beyond = self
            .peers
            .range(key..)
            .chain(self.peers.range(..key))
            .find(|(id, peer)| peer.routable && usable(id));
        beyond.map_or(Hop::None, |(id, _)| Hop::To(*id))
    }

    fn range(&self) -> Option<(Id, Id)> {
        if self.stage != Stage::Joined {
            return None;
        }
        let first = self.predecessors.first().copied();
        let nearest = match (first, self.told_predecessor) {
            (Some(a), Some(b)) if b.distance_to(self.id) < a.distance_to(self.id) => Some(b),
            (a, b) => a.or(b),
        };
        Some((nearest.unwrap_or(self.id), self.id))
    }

    fn replicas(&self) -> Vec<Id> {
        let joiner = self.admitting.map(|(joiner, _)| joiner);
        self.first_successors().into_iter().chain(joiner).collect()
    }

    fn may_copy(&self, peer: Id, key: Id) -> bool {
        // a successor hands over what is becoming ours, or brings back what it kept for us
        if self.successors.contains(&peer) {
            let from = self.predecessors.first().copied();
            let (after, _) = self.range().unwrap_or((from.unwrap_or(self.id), self.id));
            return self.is_joining() || key.in_range(after, self.id);
        }
        // a predecessor replicates what it is responsible for: behind itself
        // Nearer ones may be dead without this node knowing: any predecessor of the table may be the responsible one.
        // Values carry their owners' signatures all the same.
        self.predecessors.contains(&peer) && !key.in_range(peer, self.id)
    }

    fn keeps(&self, key: Id) -> bool {
        match self.predecessors.get(REPLICAS) {
            // fewer than three predecessors: everything has a place here
            None => true,
            Some(third) => key.in_range(*third, self.id),
        }
    }

    fn admit(&mut self, now: Now, joiner: Id) -> Result<(), ReloadError> {
        let Some((after, upto)) = self.range() else {
            return Err(ReloadError::Forbidden("this node is no part of the ring"));
        };
        if joiner == self.id || !joiner.in_range(after, upto) {
            return Err(ReloadError::Refused(crate::Code::NOT_FOUND));
        }
        if !self.peers.contains_key(&joiner) {
            return Err(ReloadError::Forbidden(
                "JOIN comes over the link of the one who joins",
            ));
        }
        match self.admitting {
            Some((busy, until)) if busy != joiner && until > now.at => {
                Err(ReloadError::Busy("the place where peers join"))
            }
            _ => {
                self.admitting = Some((joiner, now.at + HANDOVER));
                let hand_over = Action::HandOver {
                    to: joiner,
                    after,
                    upto: joiner,
                };
                self.actions.push_back(hand_over);
                Ok(())
            }
        }
    }

    fn neighbours(&self) -> (Vec<Id>, Vec<Id>) {
        (self.predecessors.clone(), self.successors.clone())
    }

    fn fingers(&self) -> Vec<Id> {
        let known = self.fingers.values().filter_map(|finger| finger.peer);
        let distinct: BTreeSet<Id> = known.filter(|id| *id != self.id).collect();
        distinct.into_iter().collect()
    }

    fn is_joined(&self) -> bool {
        matches!(self.stage, Stage::Joined | Stage::Client)
    }
}

#[cfg(test)]
mod tests;

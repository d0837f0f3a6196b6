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
mod copies;
mod finger;
mod frozen;
mod join;
mod repair;
mod route;
mod table;

use crate::body::{MAX_UPDATE_IDS, Membership};
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
/// The same where one has failed: its recipient was dead, or did not know yet that it is one.
const COPY_RETRY: Duration = Duration::from_secs(10);
/// A joining node waits this long for its connections before it sends JOIN.
const SETTLE: Duration = Duration::from_secs(5);
/// One step of joining takes at most this long (RD47: 30 s for the handover).
const JOIN_STEP: Duration = Duration::from_secs(35);
/// The admitting peer gives a joining peer this long (RD47).
const HANDOVER: Duration = Duration::from_secs(30);
/// A predecessor that was named, and not reached, bounds the own range for so long (RD73: a dead one is known by then).
const TOLD_FOR: Duration = Duration::from_secs(45);
/// Attempts to join through one bootstrap peer.
const JOIN_ATTEMPTS: u32 = 4;
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
    /// Not admitted; it is looked for again.
    Resting { attempt: u32, until: Duration },
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

/// The predecessor that the admitting peer has named, until there is a link to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    peer: Id,
    /// Who has not been reached by then was dead when it was named.
    until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Finger {
    /// Who; `None`: not known yet.
    peer: Option<Id>,
    /// When to ask again; `Duration::MAX`: there is no need.
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
    /// As many neighbours on each side as there should be (RD52).
    neighbour_count: usize,
    /// The predecessor that the admitting peer named, until there is a link to it.
    told_predecessor: Option<Told>,
    fingers: BTreeMap<u8, Finger>,
    /// The neighbours there were when all fingers were asked for, and when they are asked for again.
    asked_among: BTreeSet<Id>,
    ask_again_at: Option<Duration>,
    /// Peers that are being connected (`None`), or could not be, and until when they rest.
    wanted: BTreeMap<Id, Option<Duration>>,
    pinging: BTreeMap<Id, Purpose>,
    admitting: Option<(Id, Duration)>,
    /// While this node joins: the successor that was found, and whom peers have told of.
    guide: Option<Id>,
    heard: BTreeMap<Id, BTreeSet<Id>>,
    /// How often others have not admitted this node since it began to join.
    refusals: u32,
    /// Who held copies of what range when they were last brought up to date.
    replicated: Option<(Id, Vec<Id>)>,
    /// When copies are sent once more: what was refused or lost while tables differed is made good.
    copy_again_at: Option<Duration>,
    /// When they are sent for what has changed last.
    copy_again_last: Duration,
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
            neighbour_count: MIN_NEIGHBOURS,
            told_predecessor: None,
            fingers: BTreeMap::new(),
            asked_among: BTreeSet::new(),
            ask_again_at: None,
            wanted: BTreeMap::new(),
            pinging: BTreeMap::new(),
            admitting: None,
            guide: None,
            heard: BTreeMap::new(),
            refusals: 0,
            replicated: None,
            copy_again_at: None,
            copy_again_last: Duration::ZERO,
            update_at: None,
            update_to: BTreeSet::new(),
            next_update: Duration::MAX,
            next_ping: Duration::MAX,
            random: seed | 1,
            actions: VecDeque::new(),
        }
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
                // the link may be older than the wish to join
                self.rebuild_tables();
                match (self.config.is_client, self.stage) {
                    // one more way in
                    (true, Stage::Client) => {}
                    (true, _) => {
                        self.stage = Stage::Client;
                        self.actions.push_back(Action::Joined);
                    }
                    (false, _) => {
                        self.refusals = 0;
                        self.locate(now, 0);
                    }
                }
            }
            Input::Connected(peer) => self.on_connected(now, peer),
            Input::Lost(peer) => self.on_lost(now, peer),
            Input::Unreachable(peer) => {
                self.wanted.insert(peer, Some(now.at + COOLDOWN));
                self.forget_told(now, peer);
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
                    self.look_again(now, attempt);
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
            Input::CopyFailed => self.copy_again(now, COPY_RETRY),
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
            | Stage::Resting { until, .. }
            | Stage::Settling { until, .. }
            | Stage::Admitting { until, .. } => Some(until),
            _ => None,
        };
        // where there is no room, the next answer makes some
        let asks = (self.asks_fingers() && self.finger_room() > 0)
            .then(|| self.fingers.values().map(|finger| finger.ask_at).min())
            .flatten()
            .filter(|at| *at < Duration::MAX);
        let joined = self.is_joined() && self.stage == Stage::Joined;
        let timers = joined.then(|| self.next_update.min(self.next_ping));
        let admitting = self.admitting.map(|(_, until)| until);
        let again = self.copy_again_at.filter(|_| self.stage == Stage::Joined);
        let told = self.told_predecessor.map(|told| told.until);
        let fingers = self.ask_again_at.filter(|_| self.stage == Stage::Joined);
        let ring = [stage, asks, timers, admitting, told, fingers];
        ring.into_iter()
            .chain([self.update_at, again])
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.run_join_timer(now);
        if self.admitting.is_some_and(|(_, until)| until <= now.at) {
            self.admitting = None;
        }
        if let Some(told) = self.told_predecessor.filter(|told| told.until <= now.at) {
            self.forget_told(now, told.peer);
        }
        if self.update_at.is_some_and(|at| at <= now.at) {
            self.flush_updates();
        }
        if self.stage == Stage::Joined {
            self.run_copy_again(now);
            self.run_ask_again(now);
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
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_hop(&self, key: Id, avoid: &[Id]) -> Hop {
        self.hop_towards(key, avoid)
    }

    fn range(&self) -> Option<(Id, Id)> {
        if self.stage != Stage::Joined {
            return None;
        }
        let first = self.predecessors.first().copied();
        let nearest = match (first, self.told_predecessor) {
            (Some(a), Some(b)) if b.peer.distance_to(self.id) < a.distance_to(self.id) => {
                Some(b.peer)
            }
            (a, b) => a.or(b.map(|told| told.peer)),
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
        // It has been admitted and does not know: the UPDATE was lost, or came when it had begun anew.
        let again = joiner == after && joiner != self.id;
        if !again && (joiner == self.id || !joiner.in_range(after, upto)) {
            return Err(ReloadError::Refused(crate::Code::NOT_FOUND));
        }
        let Some(peer) = self.peers.get_mut(&joiner) else {
            return Err(ReloadError::Forbidden(
                "JOIN comes over the link of the one who joins",
            ));
        };
        let is_busy = |(busy, until): (Id, Duration)| busy != joiner && until > now.at;
        if self.admitting.is_some_and(is_busy) || (again && peer.quiet_until > now.at) {
            return Err(ReloadError::Busy("the place where peers join"));
        }
        if again {
            // each time it is given all that it should have
            peer.quiet_until = now.at + HANDOVER;
        }
        let after = match again {
            true => self.predecessors.get(1).copied().unwrap_or(self.id),
            false => after,
        };
        self.admitting = Some((joiner, now.at + HANDOVER));
        self.actions.push_back(Action::HandOver {
            to: joiner,
            after,
            upto: joiner,
        });
        Ok(())
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

//! The way into the ring (R113): look for the successor, connect, JOIN, and be named by the one who admits.
use super::{Chord, JOIN_ATTEMPTS, JOIN_STEP, Purpose, Stage, TOLD_FOR, Told};
use crate::body::ChordUpdate;
use crate::topology::{Action, Topology};
use crate::{Id, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The first rest after a refusal; it doubles, to 6.4 s.
const REFUSED_WAIT: Duration = Duration::from_millis(200);
/// So many refusals are a failed attempt.
const REFUSALS: u32 = 8;
/// Peers whose last UPDATE is kept until this node knows whose counts.
const MAX_HEARD: usize = 256;

impl Chord {
    pub(super) fn is_joining(&self) -> bool {
        matches!(
            self.stage,
            Stage::Locating { .. }
                | Stage::Settling { .. }
                | Stage::Admitting { .. }
                | Stage::Resting { .. }
        )
    }

    pub(super) fn locate(&mut self, now: Now, attempt: u32) {
        self.pinging
            .retain(|_, purpose| *purpose != Purpose::Successor);
        self.guide = None;
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

    /// Somebody else joins there, or the successor is another one by now: that is over soon, and is no attempt that failed
    /// until it has happened often.
    pub(super) fn look_again(&mut self, now: Now, attempt: u32) {
        let wait = REFUSED_WAIT * (1 << self.refusals.min(5));
        self.refusals += 1;
        let until = now.at + self.spread(wait);
        let attempt = attempt + u32::from(self.refusals.is_multiple_of(REFUSALS));
        self.stage = Stage::Resting { attempt, until };
    }

    /// What a peer tells before this node is part of the ring. Its own tables hold few then, everybody would stand in them, and
    /// following all that fingers and bootstrap peers tell would lead along the ring link by link: only who is told of by the
    /// successor that was found, and by those that one tells of, is connected to.
    pub(super) fn hear(&mut self, now: Now, from: Id, told: BTreeSet<Id>) {
        if self.heard.len() >= MAX_HEARD && !self.heard.contains_key(&from) {
            return;
        }
        self.heard.insert(from, told);
        match self.guide {
            Some(guide) if guide == from => self.follow_guide(now),
            Some(guide) if self.has_told(guide, from) => self.follow_heard(now, from),
            _ => {}
        }
    }

    fn has_told(&self, teller: Id, of: Id) -> bool {
        self.heard
            .get(&teller)
            .is_some_and(|told| told.contains(&of))
    }

    /// The successor is known, or has told of others: what these had said before counts from now on.
    pub(super) fn follow_guide(&mut self, now: Now) {
        let Some(guide) = self.guide else {
            return;
        };
        self.follow_heard(now, guide);
        for from in self.heard.get(&guide).cloned().unwrap_or_default() {
            self.follow_heard(now, from);
        }
    }

    fn follow_heard(&mut self, now: Now, from: Id) {
        if let Some(told) = self.heard.get(&from).cloned() {
            self.follow(now, from, &told);
        }
    }

    /// Sends JOIN once everything that was asked for is there, or time is up.
    pub(super) fn settle(&mut self, now: Now) {
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

    /// The admitting peer has named this node as its predecessor: from here on it is part of the ring (R113).
    pub(super) fn become_member(&mut self, now: Now, update: &ChordUpdate) {
        self.stage = Stage::Joined;
        (self.guide, self.heard) = (None, BTreeMap::new());
        let mut before = update.predecessors.iter();
        let told = before
            .by_ref()
            .find(|id| **id == self.id)
            .and_then(|_| before.next())
            .copied()
            .or(update
                .predecessors
                .iter()
                .find(|id| **id != self.id)
                .copied());
        self.told_predecessor = told.map(|peer| Told {
            peer,
            until: now.at + TOLD_FOR,
        });
        self.rebuild_tables();
        self.remember_neighbours();
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

    pub(super) fn run_join_timer(&mut self, now: Now) {
        match self.stage {
            Stage::Locating { attempt, until } | Stage::Admitting { attempt, until, .. }
                if until <= now.at =>
            {
                self.locate(now, attempt + 1);
            }
            Stage::Resting { attempt, until } if until <= now.at => self.locate(now, attempt),
            Stage::Settling { until, .. } if until <= now.at => {
                let fingers = |purpose: &Purpose| !matches!(purpose, Purpose::Finger(_));
                self.pinging.retain(|_, purpose| fingers(purpose));
                self.settle(now);
            }
            _ => {}
        }
    }
}

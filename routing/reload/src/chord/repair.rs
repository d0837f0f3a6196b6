//! What peers tell and what is lost: UPDATEs, dead peers, gaps (R116, R117, R121).
use super::{COALESCE, CORRECT_EVERY, Chord, Finger, Purpose, SETTLE, Stage};
use crate::body::ChordUpdate;
use crate::topology::{Action, Topology};
use crate::{Id, Now};
use std::collections::BTreeSet;
use std::time::Duration;

impl Chord {
    pub(super) fn on_lost(&mut self, now: Now, peer: Id) {
        self.wanted.remove(&peer);
        self.heard.remove(&peer);
        self.forget_told(now, peer);
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
        self.refresh(now);
        match self.stage {
            Stage::Admitting { attempt, by, .. } if by == peer => self.locate(now, attempt + 1),
            Stage::Locating { .. } | Stage::Settling { .. } | Stage::Resting { .. }
                if self.peers.is_empty() =>
            {
                self.stage = Stage::Idle;
                self.actions.push_back(Action::Alone);
            }
            // R116: nobody is left; the ring goes on elsewhere, or not at all
            Stage::Joined if self.peers.is_empty() => self.actions.push_back(Action::Alone),
            Stage::Client if !self.peers.values().any(|peer| peer.routable) => {
                self.stage = Stage::Idle;
                self.actions.push_back(Action::Alone);
            }
            _ => self.settle(now),
        }
        self.ask_fingers(now);
    }

    /// The predecessor that was named is not there: its range is this node's. Else nobody would own it, and its two neighbours
    /// would send messages for it to and fro.
    pub(super) fn forget_told(&mut self, now: Now, peer: Id) {
        if self.told_predecessor.is_some_and(|told| told.peer == peer) {
            let old_range = self.range();
            self.told_predecessor = None;
            self.move_copies(now, old_range);
        }
    }

    pub(super) fn on_update(&mut self, now: Now, from: Id, body: &[u8]) {
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
        if self.stage == Stage::Joined {
            self.follow(now, from, &told);
            self.compare(now, from, &update, &told);
        } else {
            self.hear(now, from, told);
        }
        self.settle(now);
        self.ask_fingers(now);
    }

    /// Whoever would stand in the neighbour table is connected to.
    pub(super) fn follow(&mut self, now: Now, from: Id, told: &BTreeSet<Id>) {
        for id in told {
            if self.would_be_neighbour(*id) {
                // the teller has a link to it, and the ring may not yet know the way
                self.connect(now, *id, Some(from));
            }
        }
    }

    /// The arc that a sender's tables cover around it: who lies in it and is not told is unknown to it, or gone.
    pub(super) fn compare(
        &mut self,
        now: Now,
        from: Id,
        update: &ChordUpdate,
        told: &BTreeSet<Id>,
    ) {
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

    pub(super) fn announce_soon(&mut self, now: Now) {
        self.update_at.get_or_insert(now.at + COALESCE);
        let neighbours = self.predecessors.iter().chain(&self.successors);
        self.update_to.extend(neighbours.copied());
    }

    pub(super) fn flush_updates(&mut self) {
        self.update_at = None;
        for to in std::mem::take(&mut self.update_to) {
            if self.peers.contains_key(&to) {
                self.send_update(to);
            }
        }
    }

    pub(super) fn send_update(&mut self, to: Id) {
        let update = ChordUpdate {
            predecessors: self.predecessors.clone(),
            successors: self.successors.clone(),
        };
        if let Ok(body) = update.emit() {
            self.actions.push_back(Action::Update(to, body));
        }
    }

    pub(super) fn on_pinged(&mut self, now: Now, key: Id, peer: Option<Id>) {
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
                self.guide = Some(peer);
                self.adopt(now, peer);
                self.follow_guide(now);
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
                self.adopt(now, peer);
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

    /// This peer answers for a stretch of the ring. A link that stands already was made before either side was part of it.
    fn adopt(&mut self, now: Now, peer: Id) {
        let joining = self.is_joining();
        match self.peers.get_mut(&peer) {
            Some(known) if joining && !known.routable => {
                known.routable = true;
                self.refresh(now);
            }
            Some(_) => {}
            None => self.connect(now, peer, None),
        }
    }

    pub(super) fn on_connected(&mut self, now: Now, peer: Id) {
        // R113, RD49: a joining node may route through those it has connected to. Who came by itself may be a client (R8).
        let routable = self.wanted.remove(&peer).is_some() && self.is_joining();
        self.peers.entry(peer).or_default().routable |= routable;
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
}

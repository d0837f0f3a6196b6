//! Copies follow the range and the replica set (R112, R118).
use super::{COPY_AGAIN, Chord, REPLICAS};
use crate::topology::{Action, Topology};
use crate::{Id, Now};
use std::time::Duration;

impl Chord {
    /// Brings copies where they belong after the range or the replica set has changed (R118).
    pub(super) fn move_copies(&mut self, now: Now, old_range: Option<(Id, Id)>) {
        let (Some((after, upto)), Some((old_after, _))) = (self.range(), old_range) else {
            return;
        };
        let now_there = self.first_successors();
        let before = match &self.replicated {
            Some((_, before)) => before.clone(),
            None => Vec::new(),
        };
        if before != now_there || old_after != after {
            self.copy_again(now, COPY_AGAIN);
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

    /// Copies are sent once more after this time; however often tables change meanwhile, not later than that.
    pub(super) fn copy_again(&mut self, now: Now, after: Duration) {
        let at = now.at + after;
        self.copy_again_last = self.copy_again_last.max(at);
        self.copy_again_at = Some(self.copy_again_at.map_or(at, |known| known.min(at)));
    }

    pub(super) fn run_copy_again(&mut self, now: Now) {
        if self.copy_again_at.is_none_or(|at| at > now.at) {
            return;
        }
        // what has changed since is to be looked at in its time, too
        let last = self.copy_again_last;
        self.copy_again_at = Some(last).filter(|last| *last > now.at);
        if let Some((after, upto)) = self.range() {
            for to in self.first_successors() {
                let again = Action::Replicate { to, after, upto };
                self.actions.push_back(again);
            }
        }
        self.actions.push_back(Action::Prune);
    }

    pub(super) fn first_successors(&self) -> Vec<Id> {
        self.successors.iter().copied().take(REPLICAS).collect()
    }
}

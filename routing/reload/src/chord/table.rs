//! The neighbour table: the nearest routable peers on both sides (R109, R115, RD52).
use super::{COPY_AGAIN, Chord, MIN_NEIGHBOURS, Peer, Stage, neighbours_for};
use crate::body::MAX_UPDATE_IDS;
use crate::topology::Topology;
use crate::{Id, Now};
use std::collections::BTreeMap;

/// Neighbours on each side by which the density of the ring is judged, at most.
const DENSITY_OF: usize = 8;

impl Chord {
    /// How many neighbours a side should have (RD52), by how densely the nearest ones lie.
    fn estimate(&self) -> usize {
        self.config.neighbours.unwrap_or_else(|| {
            let routable = self.peers.values().filter(|peer| peer.routable);
            let routable = routable.take(2 * DENSITY_OF).count();
            let shorter = self.predecessors.len().min(self.successors.len());
            // as many on each side as cannot be the same peers
            let each = shorter.min(DENSITY_OF).min(routable / 2);
            let Some(last) = each.checked_sub(1) else {
                return MIN_NEIGHBOURS;
            };
            let span = self.predecessors[last].distance_to(self.successors[last]);
            let share = span.max(1) as f64 / u128::MAX as f64;
            neighbours_for(2.0 * each as f64 / share)
        })
    }

    /// The nearest routable peers on both sides.
    pub(super) fn rebuild_tables(&mut self) {
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
        // asked for with every id that is told: counted once for each table
        self.neighbour_count = self.estimate().clamp(1, most);
        self.successors.truncate(self.neighbour_count);
        self.predecessors.truncate(self.neighbour_count);
    }

    /// Rebuilds the tables and does what a change asks for (R116 to R118).
    pub(super) fn refresh(&mut self, now: Now) {
        let (old_p, old_s) = (self.predecessors.clone(), self.successors.clone());
        let old_range = self.range();
        self.rebuild_tables();
        if let Some(told) = self.told_predecessor {
            let nearer = self
                .predecessors
                .first()
                .is_some_and(|first| first.distance_to(self.id) <= told.peer.distance_to(self.id));
            if nearer {
                self.told_predecessor = None;
            }
        }
        if self.stage != Stage::Joined {
            return;
        }
        if (old_p, old_s) != (self.predecessors.clone(), self.successors.clone()) {
            self.announce_soon(now);
            self.copy_again(now, COPY_AGAIN);
            self.plan_fingers(now);
            self.see_turnover(now);
        }
        self.move_copies(now, old_range);
    }

    /// Whether a peer would stand in the neighbour table.
    pub(super) fn would_be_neighbour(&self, peer: Id) -> bool {
        let count = self.neighbour_count;
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
}

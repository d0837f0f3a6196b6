//! Rings that stand still, for measuring.
use super::{Chord, Config, Finger, Peer, Stage, neighbours_for};
use crate::Id;
use std::time::Duration;

impl Chord {
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
}

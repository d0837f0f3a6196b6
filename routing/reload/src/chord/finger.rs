//! Fingers: which there are, and who they are (R109, R120, RD53).
use super::{Chord, Finger, MIN_FINGERS, Purpose, Stage};
use crate::topology::{Hop, Topology};
use crate::{Id, Now};
use std::collections::BTreeSet;
use std::time::Duration;

/// Fingers asked for at a time.
const FINGERS_AT_ONCE: usize = 4;
/// How soon an unknown finger is asked for again.
const FINGER_RETRY: Duration = Duration::from_secs(5);

/// So long others may come or go before all fingers are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Chord {
    pub(super) fn finger_target(&self, number: u8) -> Id {
        self.id.plus(1u128 << (128 - u32::from(number)))
    }

    /// Fingers this node should have (RD53).
    pub(super) fn finger_numbers(&self) -> Vec<u8> {
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

    pub(super) fn plan_fingers(&mut self, now: Now) {
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

    /// The ring has become another one where a third of the neighbours are others than when the fingers were asked for: they
    /// are asked for again. A check of one finger an hour (R120) leaves a ring that grows with those of a smaller one, for days.
    pub(super) fn see_turnover(&mut self, now: Now) {
        let near = self.predecessors.iter().chain(&self.successors);
        let all = self.predecessors.len() + self.successors.len();
        let new = near.filter(|id| !self.asked_among.contains(id)).count();
        if new > 0 && 3 * new >= all && self.ask_again_at.is_none() {
            self.ask_again_at = Some(now.at + self.spread(ASK_AGAIN));
        }
    }

    pub(super) fn run_ask_again(&mut self, now: Now) {
        if self.ask_again_at.is_none_or(|at| at > now.at) {
            return;
        }
        self.ask_again_at = None;
        self.remember_neighbours();
        for finger in self.fingers.values_mut() {
            finger.ask_at = finger.ask_at.min(now.at);
        }
    }

    /// The fingers have been asked for in this ring.
    pub(super) fn remember_neighbours(&mut self) {
        let near = self.predecessors.iter().chain(&self.successors);
        self.asked_among = near.copied().collect();
    }

    /// Whether fingers are asked for at all.
    pub(super) fn asks_fingers(&self) -> bool {
        self.is_joined() || matches!(self.stage, Stage::Settling { .. })
    }

    /// How many more may be asked for now.
    pub(super) fn finger_room(&self) -> usize {
        let busy = |purpose: &&Purpose| matches!(purpose, Purpose::Finger(_));
        FINGERS_AT_ONCE.saturating_sub(self.pinging.values().filter(busy).count())
    }

    /// Asks for fingers that are not known, or not known any more.
    pub(super) fn ask_fingers(&mut self, now: Now) {
        if !self.asks_fingers() {
            return;
        }
        let mut room = self.finger_room();
        let due: Vec<u8> = self
            .fingers
            .iter()
            .filter(|(_, finger)| finger.ask_at <= now.at)
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
}

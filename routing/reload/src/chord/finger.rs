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

    /// Whether fingers are asked for at all.
    pub(super) fn asks_fingers(&self) -> bool {
        self.is_joined() || matches!(self.stage, Stage::Settling { .. })
    }

    /// How many more may be asked for now.
    pub(super) fn finger_room(&self) -> usize {
        let busy = |purpose: &&Purpose| matches!(purpose, Purpose::Finger(_));
        FINGERS_AT_ONCE.saturating_sub(self.pinging.values().filter(busy).count())
    }

    /// Asks for fingers that are not known.
    pub(super) fn ask_fingers(&mut self, now: Now) {
        if !self.asks_fingers() {
            return;
        }
        let mut room = self.finger_room();
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
}

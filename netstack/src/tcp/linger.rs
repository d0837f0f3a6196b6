//! TIME-WAIT without a socket: the four-tuple and two numbers are all that the kernel can still ask for.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::segment::Tuple;

/// Flows that ended in order, our FIN first. If the last ACK got lost the kernel repeats its FIN and gets it again;
/// with a RST in its place a program that still waits for its close would see an error.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    flows: HashMap<Tuple, Entry>,
    /// In the order of their end. Entries that were replaced or removed are skipped.
    order: VecDeque<(Instant, Tuple)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Instant,
    numbers: (u32, u32),
}

impl Lingering {
    /// Twice what a packet may live between us and our own kernel.
    const TIME: Duration = Duration::from_secs(10);
    const MAX: usize = 4096;

    pub fn insert(&mut self, tuple: Tuple, numbers: (u32, u32), now: Instant) {
        while let Some(&(since, oldest)) = self.order.front() {
            let over = now.saturating_duration_since(since) >= Self::TIME;
            if !over && self.order.len() < Self::MAX {
                break;
            }
            self.order.pop_front();
            if self
                .flows
                .get(&oldest)
                .is_some_and(|entry| entry.since == since)
            {
                self.flows.remove(&oldest);
            }
        }
        self.flows.insert(
            tuple,
            Entry {
                since: now,
                numbers,
            },
        );
        self.order.push_back((now, tuple));
    }

    /// Our final sequence and acknowledgement number.
    pub fn get(&self, tuple: &Tuple, now: Instant) -> Option<(u32, u32)> {
        let entry = self.flows.get(tuple)?;
        (now.saturating_duration_since(entry.since) < Self::TIME).then_some(entry.numbers)
    }

    pub fn remove(&mut self, tuple: &Tuple) {
        self.flows.remove(tuple);
    }
}

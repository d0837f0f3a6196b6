//! One budget of memory for all streams of a node, shared fairly when it is short.
//!
//! A stream may hold half of what is free, its own part counted as free (the dynamic thresholds of Choudhury and Hahne,
//! 1998): alone it gets half of the budget, `n` that want all they can get end at 1/(n + 1) each, and one part always
//! stays free for the next that comes. Nobody has to know how many there are.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the streams of a node may hold together, when nothing else is said.
pub const DEFAULT_BUDGET: usize = 256 * 1024 * 1024;

/// A budget; clones share it.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    budget: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    short: AtomicU64,
    refused: AtomicU64,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new(DEFAULT_BUDGET)
    }
}

impl Pool {
    /// A budget of so many bytes.
    pub fn new(budget: usize) -> Self {
        Self(Arc::new(Shared {
            budget,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            short: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Bytes that may be used.
    pub fn budget(&self) -> usize {
        self.0.budget
    }

    /// Bytes allocated for streams, and windows promised beyond the first.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most that was ever used.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Times that a window was made smaller because others need the memory.
    pub fn short(&self) -> u64 {
        self.0.short.load(Ordering::Relaxed)
    }

    /// Packets that were dropped because there was no memory to keep them in.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    fn free(&self) -> usize {
        self.0.budget.saturating_sub(self.used())
    }
}

/// What one half of a stream holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pool: Pool,
    held: usize,
}

impl Claim {
    pub(crate) fn new(pool: &Pool) -> Self {
        Self {
            pool: pool.clone(),
            held: 0,
        }
    }

    /// It holds `bytes` now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let shared = &self.pool.0;
        if bytes > self.held {
            let more = bytes - self.held;
            let used = shared.used.fetch_add(more, Ordering::Relaxed) + more;
            shared.peak.fetch_max(used, Ordering::Relaxed);
        } else if bytes < self.held {
            shared.used.fetch_sub(self.held - bytes, Ordering::Relaxed);
        }
        self.held = bytes;
    }

    /// What it may hold in all.
    pub(crate) fn share(&self) -> usize {
        (self.pool.free() + self.held) / 2
    }

    /// What it may allocate besides `memory` before the budget is used up.
    pub(crate) fn room(&self, memory: usize) -> usize {
        self.pool.free() + self.held.saturating_sub(memory)
    }

    /// A window was made smaller for want of memory.
    pub(crate) fn count_short(&self) {
        self.pool.0.short.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet was dropped for want of memory.
    pub(crate) fn count_refused(&self) {
        self.pool.0.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_wants_all_gets_one_part_of_n_plus_one_and_gives_it_back() {
        for n in [1, 2, 5, 30] {
            let pool = Pool::new(1_000_000);
            let mut claims: Vec<Claim> = (0..n).map(|_| Claim::new(&pool)).collect();
            for _ in 0..100 {
                for claim in &mut claims {
                    claim.set(claim.share());
                }
            }
            let part = 1_000_000 / (n + 1);
            for claim in &claims {
                assert!(claim.held.abs_diff(part) <= part / 20 + 2, "{}", claim.held);
            }
            assert!(pool.used() <= pool.budget());
            drop(claims);
            assert_eq!(pool.used(), 0);
            assert!(pool.peak() >= 1_000_000 / 2 - 1);
        }
    }

    #[test]
    fn room_is_what_is_free_and_what_was_promised() {
        let pool = Pool::new(1000);
        let (mut a, mut b) = (Claim::new(&pool), Claim::new(&pool));
        a.set(400);
        b.set(500);
        assert_eq!(a.room(100), 400, "100 are free, 300 were promised");
        assert_eq!(b.room(600), 100);
        b.set(2000);
        assert_eq!(a.share(), 200, "overdrawn");
    }
}

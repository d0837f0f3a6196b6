//! How often a source may ask: a fixed number of buckets, whatever the number of sources.

use std::hash::{BuildHasher, RandomState};

const BUCKETS: usize = 16_384;
/// In microseconds.
const SECOND: u64 = 1_000_000;
/// So many seconds' worth may come at once.
const BURST_SECONDS: u64 = 2;

/// The generic cell rate algorithm over buckets that sources are hashed into. Two sources may share one, which costs
/// them some of their rate; the hash is keyed, so that nobody can choose with whom.
pub(super) struct RateLimit {
    /// When each bucket will be empty again, in microseconds since the start.
    empty_at: Box<[u64]>,
    hash: RandomState,
    cost: u64,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> Self {
        let cost = SECOND / u64::from(per_second.max(1));
        Self {
            empty_at: vec![0; BUCKETS].into_boxed_slice(),
            hash: RandomState::new(),
            cost,
        }
    }

    /// Whether the source may ask now, in microseconds since the start.
    pub(super) fn allow(&mut self, source: u64, now: u64) -> bool {
        let bucket = &mut self.empty_at[self.hash.hash_one(source) as usize % BUCKETS];
        let empty_at = (*bucket).max(now) + self.cost;
        let allowed = empty_at - now <= BURST_SECONDS * SECOND;
        if allowed {
            *bucket = empty_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_a_burst_of_two_seconds() {
        let mut limit = RateLimit::new(10);
        assert_eq!((0..100).filter(|_| limit.allow(1, 0)).count(), 20);
        assert!(!limit.allow(1, 99_999) && limit.allow(1, 100_000) && !limit.allow(1, 100_000));
        let ten_seconds = (10 * SECOND..20 * SECOND).step_by(1_000);
        assert_eq!(
            ten_seconds.filter(|now| limit.allow(1, *now)).count(),
            20 + 99
        );
    }

    #[test]
    fn sources_hardly_disturb_each_other() {
        let mut limit = RateLimit::new(10);
        let refused = (0..1_000).filter(|source| !limit.allow(*source, 0)).count();
        assert_eq!(refused, 0);
    }
}

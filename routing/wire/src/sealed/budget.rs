//! Token buckets, so that a flood of one kind of first packet starves no other (Q7).
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// What a bucket lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once after a pause.
    pub burst: u32,
}

impl Rate {
    /// `per_second`, and `burst` at once.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

/// Counts tokens in billionths: nanoseconds times tokens a second, with nothing to round.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    billionths: u64,
    filled: Option<Instant>,
}

const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    /// Full.
    pub const fn new() -> Self {
        Self {
            billionths: 0,
            filled: None,
        }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full = u64::from(rate.burst) * TOKEN;
        self.billionths = match self.filled {
            None => full,
            Some(filled) => {
                // An hour fills every bucket that there is, and keeps the product below 2^64.
                let pause = now.saturating_duration_since(filled).min(HOUR);
                let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
                let gained = nanos.saturating_mul(u64::from(rate.per_second));
                self.billionths.saturating_add(gained).min(full)
            }
        };
        self.filled = Some(self.filled.map_or(now, |filled| filled.max(now)));
        if self.billionths < TOKEN {
            return false;
        }
        self.billionths -= TOKEN;
        true
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A bucket for every network, in fixed memory: networks that a keyed hash puts together share one.
#[derive(Debug)]
pub(super) struct NetworkBuckets {
    buckets: Box<[Bucket]>,
    key: [u64; 2],
}

impl NetworkBuckets {
    /// `key` is random: nobody shall find networks that share a bucket with another's.
    pub fn new(places: usize, key: [u64; 2]) -> Self {
        Self {
            buckets: vec![Bucket::new(); places.max(1)].into(),
            key,
        }
    }

    pub fn take(&mut self, network: u64, rate: Rate, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.key, network).hash(&mut hasher);
        let place = hasher.finish() as usize % self.buckets.len();
        self.buckets[place].take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Q7
    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 5);
        let start = Instant::now();
        let mut bucket = Bucket::new();
        assert_eq!((0..20).filter(|_| bucket.take(rate, start)).count(), 5);
        let later = start + Duration::from_millis(350);
        assert_eq!((0..20).filter(|_| bucket.take(rate, later)).count(), 3);
        let much_later = start + Duration::from_secs(100_000);
        assert_eq!((0..20).filter(|_| bucket.take(rate, much_later)).count(), 5);
    }

    // Q7: a clock that steps back gives nothing
    #[test]
    fn going_back_in_time_gains_nothing() {
        let rate = Rate::new(1000, 1);
        let start = Instant::now() + HOUR;
        let mut bucket = Bucket::new();
        assert!(bucket.take(rate, start));
        assert!(!bucket.take(rate, start - HOUR));
        assert!(!bucket.take(rate, start));
    }

    // Q7
    #[test]
    fn one_network_does_not_use_up_anothers_budget() {
        let rate = Rate::new(1, 2);
        let now = Instant::now();
        let mut buckets = NetworkBuckets::new(1 << 16, [1, 2]);
        for _ in 0..100 {
            buckets.take(7, rate, now);
        }
        let others = (100..110).filter(|n| buckets.take(*n, rate, now)).count();
        assert!(others >= 9, "{others} of 10");
    }
}

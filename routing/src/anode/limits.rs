//! Budgets: token buckets of one word, and arrays of them for sources that nobody has authenticated yet.
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many on average, so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Time in which one token comes back.
    pub interval: Duration,
    /// Largest burst, at least 1.
    pub burst: u32,
}

impl Rate {
    /// `count` a second with bursts of `burst`; 0 counts as 1.
    pub const fn per_second(count: u32, burst: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self {
            interval: Duration::from_nanos(1_000_000_000 / count as u64),
            burst,
        }
    }

    /// One in each `interval`.
    pub const fn every(interval: Duration) -> Self {
        Self { interval, burst: 1 }
    }
}

/// A token bucket kept as the time at which it would be full again (GCRA): no floating point, no refill timer.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        if self.is_empty(now, rate) {
            return false;
        }
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + rate.interval);
        true
    }

    /// Takes so many tokens if there are as many, or the bucket is full: what is larger than a burst passes a rested bucket.
    pub fn take_many(&mut self, now: Instant, rate: Rate, tokens: u32) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let missing = full_at.duration_since(now);
        let room = rate.interval * rate.burst.max(1);
        if !missing.is_zero() && missing + rate.interval * tokens > room {
            return false;
        }
        self.full_at = Some(full_at + rate.interval * tokens);
        true
    }

    /// Whether `take` would find nothing.
    pub fn is_empty(&self, now: Instant, rate: Rate) -> bool {
        let missing = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        missing + rate.interval > rate.interval * rate.burst.max(1)
    }
}

/// One bucket per source, in a fixed array: sources that fall on one slot share it, and memory never grows.
pub(super) struct SourceBuckets {
    rate: Rate,
    key: (u64, u64),
    buckets: Box<[Bucket]>,
}

impl SourceBuckets {
    const SLOTS: usize = 1024;

    /// `key` is random, so that nobody can choose sources that share the slot of another.
    pub fn new(rate: Rate, key: (u64, u64)) -> Self {
        Self {
            rate,
            key,
            buckets: vec![Bucket::default(); Self::SLOTS].into_boxed_slice(),
        }
    }

    /// Takes a token of this source.
    pub fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let slot = self.slot(source);
        self.buckets[slot].take(now, self.rate)
    }

    /// Takes so many tokens of this source; see [`Bucket::take_many`].
    pub fn take_many(&mut self, now: Instant, source: IpAddr, tokens: u32) -> bool {
        let slot = self.slot(source);
        self.buckets[slot].take_many(now, self.rate, tokens)
    }

    /// Whether this source has no token left.
    pub fn is_empty(&self, now: Instant, source: IpAddr) -> bool {
        self.buckets[self.slot(source)].is_empty(now, self.rate)
    }

    fn slot(&self, source: IpAddr) -> usize {
        let mixed =
            u128::from(source_prefix(source) ^ self.key.0).wrapping_mul(u128::from(self.key.1 | 1));
        ((mixed >> 64) as u64 ^ mixed as u64) as usize % Self::SLOTS
    }
}

/// Who counts as one source: an IPv4 address, or the /64 that one IPv6 host can fill at will.
pub(crate) fn source_prefix(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64 ^ 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_its_burst_and_then_its_rate() {
        let (start, rate) = (Instant::now(), Rate::per_second(10, 3));
        let mut bucket = Bucket::default();
        let burst = (0..10).filter(|_| bucket.take(start, rate)).count();
        assert_eq!(burst, 3);
        assert!(bucket.is_empty(start, rate));
        let later: usize = (1..=20)
            .filter(|i| bucket.take(start + Duration::from_millis(50 * i), rate))
            .count();
        assert_eq!(later, 10, "one second at ten a second");
    }

    #[test]
    fn many_tokens_at_once_pass_at_the_same_rate() {
        let (start, rate) = (Instant::now(), Rate::per_second(1_000_000, 100_000));
        let mut bucket = Bucket::default();
        let burst = (0..100)
            .filter(|_| bucket.take_many(start, rate, 10_000))
            .count();
        assert_eq!(burst, 10);
        let later: usize = (1..=100)
            .filter(|i| bucket.take_many(start + Duration::from_millis(10 * i), rate, 10_000))
            .count();
        assert_eq!(later, 100, "a million a second");
        assert!(bucket.take_many(start + Duration::from_secs(9), rate, 1_000_000));
        assert!(!bucket.take_many(start + Duration::from_secs(9), rate, 1));
    }

    #[test]
    fn an_ipv6_host_is_one_source_whatever_its_lower_half() {
        // S19
        let now = Instant::now();
        let mut sources = SourceBuckets::new(Rate::per_second(1, 2), (7, 9));
        let taken = (0..100u16)
            .filter(|i| {
                sources.take(
                    now,
                    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, *i)),
                )
            })
            .count();
        assert_eq!(taken, 2);
    }
}

//! Pacing: a token bucket filled at a little more than a congestion window per round trip, so that a window leaves
//! spread out, in bursts large enough to fill a segmentation-offload batch.
use std::time::{Duration, Instant};

/// The bucket holds what is sent in this time, within the two bounds below.
const BURST_TIME: Duration = Duration::from_millis(1);
/// A wake-up may come this late, and what should have left meanwhile is made good. Without that, a timer that is late by
/// a tenth of the burst takes a tenth of the rate.
const LATEST_WAKE_UP: Duration = Duration::from_millis(4);
const SMALLEST_BURST_PACKETS: i64 = 10;
const LARGEST_BURST: i64 = 512 * 1024;
/// Round trips below this are not paced: the timer is no finer than what it would spread.
const NOT_PACED_BELOW: Duration = Duration::from_micros(500);

/// Bytes and time in, "send now" or "wait until" out.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Bytes per second; 0: not paced.
    rate: u64,
    burst: i64,
    /// Waking up for less than this is not worth it.
    quantum: i64,
    /// Below zero by what the last packet overdrew.
    tokens: i64,
    filled: Instant,
    /// Something waits for its turn since then: what the bucket does not hold is not lost.
    held: bool,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            rate: 0,
            burst: 0,
            quantum: 0,
            tokens: 0,
            filled: now,
            held: false,
        }
    }

    /// Takes over a new window; `gain` is 2 in slow start and 1.25 after it.
    pub(crate) fn spread(
        &mut self,
        now: Instant,
        window: usize,
        rtt: Option<Duration>,
        gain: f64,
        mss: usize,
    ) {
        let rate = rtt.map_or(0, |rtt| (window as f64 * gain / rtt.as_secs_f64()) as u64);
        self.set_rate(now, rate, rtt, mss);
    }

    /// Takes over a new rate in bytes per second.
    pub(crate) fn set_rate(&mut self, now: Instant, rate: u64, rtt: Option<Duration>, mss: usize) {
        self.fill(now);
        let was_paced = self.rate != 0;
        self.rate = match rtt {
            Some(rtt) if rtt >= NOT_PACED_BELOW => rate.max(mss as u64),
            _ => 0,
        };
        let in_time = (self.rate as f64 * BURST_TIME.as_secs_f64()) as i64;
        let mss = mss as i64;
        self.burst = in_time.clamp(
            SMALLEST_BURST_PACKETS * mss,
            LARGEST_BURST.max(SMALLEST_BURST_PACKETS * mss),
        );
        self.quantum = in_time.clamp(mss, self.burst / 2);
        self.tokens = if was_paced {
            self.tokens.min(self.most())
        } else {
            self.burst
        };
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        let gained = (elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000) as u64;
        // Below one byte the time keeps counting.
        if gained > 0 {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_add(gained).min(self.most());
            self.filled = now;
        }
    }

    /// What the bucket holds.
    fn most(&self) -> i64 {
        let late = if self.held {
            (self.rate as f64 * LATEST_WAKE_UP.as_secs_f64()) as i64
        } else {
            0
        };
        self.burst.saturating_add(late)
    }

    /// Whether a packet may leave now. A packet may overdraw the bucket by its own size.
    pub(crate) fn may_send(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        // Not for every packet of a burst; but idleness fills the bucket once, not once more when it is empty.
        let fresh = now.saturating_duration_since(self.filled) < BURST_TIME;
        if self.tokens > 0 && fresh && !self.held {
            return true;
        }
        self.fill(now);
        let enough = if self.held { self.quantum } else { 1 };
        self.held = self.tokens < enough;
        !self.held
    }

    pub(crate) fn sent(&mut self, now: Instant, bytes: usize) {
        if self.rate == 0 {
            self.filled = now;
            return;
        }
        if self.tokens >= self.burst {
            self.filled = now;
        }
        self.tokens = self.tokens.saturating_sub(bytes as i64);
        self.held = false;
    }

    /// When `may_send` will say yes again.
    pub(crate) fn ready_at(&self) -> Instant {
        if self.rate == 0 || !self.held {
            return self.filled;
        }
        let missing = self.quantum.saturating_sub(self.tokens).max(0) as u128;
        let nanos = (missing * 1_000_000_000).div_ceil(u128::from(self.rate));
        self.filled
            + Duration::from_nanos(
                u64::try_from(nanos)
                    .unwrap_or(u64::MAX)
                    .clamp(1, 1_000_000_000),
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_holds_over_time_and_bursts_are_bounded() {
        let start = Instant::now();
        let mut now = start;
        let mut pacer = Pacer::new(now);
        // 1 MB per 100 ms, gain 1: 10 MB/s; 10 packets are more than 1 ms of it.
        pacer.spread(now, 1_000_000, Some(Duration::from_millis(100)), 1.0, 1200);
        let (mut sent, mut burst, mut largest) = (0usize, 0usize, 0usize);
        while now < start + Duration::from_secs(1) {
            if pacer.may_send(now) {
                pacer.sent(now, 1200);
                sent += 1200;
                burst += 1200;
                largest = largest.max(burst);
            } else {
                burst = 0;
                let ready = pacer.ready_at();
                assert!(ready > now);
                now = ready;
            }
        }
        assert!((9_900_000..10_030_000).contains(&sent), "{sent}");
        assert!(largest <= 13 * 1200, "{largest}");
    }

    #[test]
    fn a_late_wake_up_costs_no_rate_and_idleness_earns_no_burst() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        pacer.set_rate(start, 100_000_000, Some(Duration::from_millis(20)), 1200);
        let mut drain = |now: Instant| {
            let mut sent = 0u64;
            while pacer.may_send(now) {
                pacer.sent(now, 1200);
                sent += 1200;
            }
            sent
        };
        drain(start);
        let mut sent = 0;
        for wake in 1..=100 {
            sent += drain(start + Duration::from_millis(3 * wake));
        }
        assert!(
            (29_000_000..=30_100_000).contains(&sent),
            "{sent} in 300 ms"
        );
        let mut pacer = Pacer::new(start);
        pacer.set_rate(start, 100_000_000, Some(Duration::from_millis(20)), 1200);
        pacer.sent(start, 1200);
        let later = start + Duration::from_secs(1);
        let mut sent = 0;
        while pacer.may_send(later) {
            pacer.sent(later, 1200);
            sent += 1200;
        }
        assert!(sent <= 102_000, "{sent}: nobody had waited");
    }

    #[test]
    fn short_round_trips_are_not_paced() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        pacer.spread(now, 12_000, Some(Duration::from_micros(100)), 1.25, 1200);
        for _ in 0..1000 {
            assert!(pacer.may_send(now));
            pacer.sent(now, 1200);
        }
    }

    #[test]
    fn a_very_slow_rate_still_sends_within_a_second() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        pacer.spread(now, 1200, Some(Duration::from_secs(60)), 1.25, 1200);
        while pacer.may_send(now) {
            pacer.sent(now, 1200);
        }
        assert!(pacer.ready_at() <= now + Duration::from_secs(1));
    }
}

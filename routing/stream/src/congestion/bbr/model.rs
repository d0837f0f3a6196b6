//! What BBR knows of the path: filters and bounds (draft-ietf-ccwg-bbr-06 §5.5).
use std::time::{Duration, Instant};

/// How long the smallest round trip is remembered (§2, MinRTTFilterLen), and how often it is probed for
/// (ProbeRTTInterval).
const MIN_RTT_FILTER: Duration = Duration::from_secs(10);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
/// Rounds after which the acknowledgement filter turns: it remembers five to ten (ExtraAckedFilterLen is 10).
const EXTRA_ACKED_TURNS: u64 = 5;
/// Less growth than this (a quarter) in three rounds: the pipe is full (§5.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u8 = 3;
/// Loss without a queue is measured over so many packets at least, is the smallest of the last four to eight such
/// measures, and never believed to be more than this.
const FLOOR_PACKETS: u64 = 1024;
const FLOOR_MEASURES: u32 = 4;
const HIGHEST_FLOOR: f64 = 0.1;
/// No bound.
pub(super) const UNBOUNDED: u64 = u64::MAX;
/// Multiplicative decrease (Beta).
pub(super) const BETA: f64 = 0.7;

/// The largest of two periods, the present one and the one before.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct MaxOfTwo {
    before: f64,
    present: f64,
}

impl MaxOfTwo {
    pub(super) fn add(&mut self, value: f64) {
        self.present = self.present.max(value);
    }

    pub(super) fn has_sample(&self) -> bool {
        self.present > 0.0
    }

    pub(super) fn turn(&mut self) {
        self.before = self.present;
        self.present = 0.0;
    }

    pub(super) fn get(&self) -> f64 {
        self.before.max(self.present)
    }
}

/// The smallest round trip, of the last 10 s and of the last 5 (§5.3.4.3).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct MinRtt {
    smallest: Option<(Duration, Instant)>,
    recent: Option<(Duration, Instant)>,
    /// The recent one was older than 5 s when the last sample came.
    pub(super) expired: bool,
}

impl MinRtt {
    pub(super) fn get(&self) -> Option<Duration> {
        self.smallest.map(|(rtt, _)| rtt)
    }

    pub(super) fn sample(&mut self, now: Instant, rtt: Option<Duration>) {
        let older = |at: Instant, limit| now.saturating_duration_since(at) > limit;
        self.expired = self
            .recent
            .is_some_and(|(_, at)| older(at, PROBE_RTT_INTERVAL));
        if let Some(rtt) = rtt
            && (self.expired || self.recent.is_none_or(|(recent, _)| rtt < recent))
        {
            self.recent = Some((rtt, now));
        }
        let Some(recent) = self.recent else { return };
        if self
            .smallest
            .is_none_or(|(rtt, at)| recent.0 < rtt || older(at, MIN_RTT_FILTER))
        {
            self.smallest = Some(recent);
        }
    }

    /// The probe is over: the next one is due in 5 s.
    pub(super) fn probed(&mut self, now: Instant) {
        if let Some((_, at)) = &mut self.recent {
            *at = now;
        }
    }
}

/// Whether sending faster still delivers more (§5.3.1.2).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct FullPipe {
    base: f64,
    rounds: u8,
    pub(super) now: bool,
}

impl FullPipe {
    /// Starts anew from this rate.
    pub(super) fn restart(&mut self, base: f64) {
        *self = Self {
            base,
            ..Self::default()
        };
    }

    /// A round has ended that the program did not bound.
    pub(super) fn round(&mut self, rate: f64) {
        if rate >= self.base * FULL_GROWTH {
            self.restart(rate);
        } else {
            self.rounds += 1;
            self.now = self.rounds >= FULL_ROUNDS;
        }
    }
}

/// The share that the path loses although nothing waits in its queue: radio, cables, not congestion. The draft knows no
/// such thing (docs/protocol.md).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LossFloor {
    delivered: u64,
    lost: u64,
    /// Smallest measure of the present period and of the one before.
    present: Option<f64>,
    before: Option<f64>,
    measures: u32,
}

impl LossFloor {
    pub(super) fn get(&self) -> f64 {
        match (self.present, self.before) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b).unwrap_or(0.0),
        }
    }

    pub(super) fn delivered(&mut self, bytes: u64) {
        self.delivered += bytes;
    }

    pub(super) fn lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// What may be lost of `in_flight` bytes in packets of `mss` without more to it than chance: the mean and two
    /// standard deviations.
    pub(super) fn expected(&self, in_flight: u64, mss: u64) -> f64 {
        let mean = self.get() * in_flight as f64;
        mean + 2.0 * (mean * mss as f64).sqrt()
    }

    /// A round trip has ended; what a queue may have dropped says nothing.
    pub(super) fn round(&mut self, queued: bool, mss: u64) {
        if queued {
            (self.delivered, self.lost) = (0, 0);
        }
        let all = self.delivered + self.lost;
        if all < FLOOR_PACKETS * mss {
            return;
        }
        let share = (self.lost as f64 / all as f64).min(HIGHEST_FLOOR);
        (self.delivered, self.lost) = (0, 0);
        if self.measures == FLOOR_MEASURES {
            self.before = self.present.take();
            self.measures = 0;
        }
        self.measures += 1;
        self.present = Some(self.present.map_or(share, |smallest| smallest.min(share)));
    }
}

/// How much more than the bandwidth explains is acknowledged at once (§5.5.9).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ExtraAcked {
    since: Option<Instant>,
    bytes: f64,
    filter: MaxOfTwo,
    turned: u64,
}

impl ExtraAcked {
    pub(super) fn get(&self) -> u64 {
        self.filter.get() as u64
    }

    pub(super) fn restart(&mut self, now: Instant) {
        self.since = Some(now);
        self.bytes = 0.0;
    }

    /// `bytes` were acknowledged in round `round`; in Startup only the last rounds count.
    pub(super) fn acked(
        &mut self,
        now: Instant,
        bytes: u64,
        bandwidth: f64,
        most: u64,
        round: u64,
        startup: bool,
    ) {
        let elapsed = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let mut expected = bandwidth * elapsed.as_secs_f64();
        if self.bytes <= expected {
            self.restart(now);
            expected = 0.0;
        }
        self.bytes += bytes as f64;
        let turns = if startup { 1 } else { EXTRA_ACKED_TURNS };
        if round >= self.turned + turns {
            self.filter.turn();
            self.turned = round;
        }
        self.filter.add((self.bytes - expected).min(most as f64));
    }
}

/// Bounds that congestion set: the long-term one holds until probing finds better, the short-term ones until the next
/// probe (§5.5.10).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) longterm: u64,
    pub(super) shortterm: u64,
    pub(super) bandwidth: f64,
}

impl Bounds {
    pub(super) const NONE: Self = Self {
        longterm: UNBOUNDED,
        shortterm: UNBOUNDED,
        bandwidth: f64::INFINITY,
    };

    pub(super) fn forget_short_term(&mut self) {
        self.shortterm = UNBOUNDED;
        self.bandwidth = f64::INFINITY;
    }

    /// A round with losses has ended; `latest` is what it delivered, rate and volume.
    pub(super) fn congested(&mut self, latest: (f64, u64), max_bandwidth: f64, window: u64) {
        if self.bandwidth.is_infinite() {
            self.bandwidth = max_bandwidth;
        }
        if self.shortterm == UNBOUNDED {
            self.shortterm = window;
        }
        self.bandwidth = latest.0.max(BETA * self.bandwidth);
        self.shortterm = latest.1.max((BETA * self.shortterm as f64) as u64);
    }

    pub(super) fn at_least(&mut self, other: &Self) {
        self.longterm = self.longterm.max(other.longterm);
        self.shortterm = self.shortterm.max(other.shortterm);
        self.bandwidth = self.bandwidth.max(other.bandwidth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_maximum_lasts_for_two_periods() {
        let mut max = MaxOfTwo::default();
        max.add(10.0);
        max.turn();
        max.add(5.0);
        assert!((max.get() - 10.0).abs() < 1e-9);
        max.turn();
        assert!((max.get() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn the_smallest_round_trip_expires_after_five_seconds_and_is_replaced_after_ten() {
        let start = Instant::now();
        let mut min = MinRtt::default();
        min.sample(start, Some(ms(10)));
        for s in 1..=5 {
            min.sample(start + ms(1000 * s), Some(ms(30)));
            assert!(!min.expired);
        }
        min.sample(start + ms(5001), Some(ms(30)));
        assert!(min.expired && min.get() == Some(ms(10)), "time to probe");
        min.sample(start + ms(10_001), Some(ms(30)));
        assert_eq!(min.get(), Some(ms(30)));
    }

    #[test]
    fn three_rounds_without_growth_are_a_full_pipe() {
        let mut full = FullPipe::default();
        for rate in [1.0, 2.0, 4.0, 4.5, 4.9] {
            full.round(rate);
        }
        assert!(!full.now);
        full.round(4.9);
        assert!(full.now);
    }

    #[test]
    fn the_loss_floor_is_the_smallest_of_late_and_hears_nothing_of_queues() {
        let mut floor = LossFloor::default();
        let mut round = |lost: u64, queued: bool| {
            // Ten times a thousand, in packets of a byte.
            floor.delivered(10 * (1000 - lost));
            floor.lost(10 * lost);
            floor.round(queued, 1);
            (floor.get() * 1000.0).round() as u64
        };
        assert_eq!(round(10, false), 10);
        assert_eq!(round(30, false), 10);
        assert_eq!(round(5, true), 10, "what a queue does is not counted");
        for _ in 0..2 {
            assert_eq!(round(30, false), 10);
        }
        for _ in 0..3 {
            assert_eq!(round(30, false), 10, "the period before still counts");
        }
        round(30, false);
        assert_eq!(round(30, false), 30, "forgotten");
        for _ in 0..9 {
            round(900, false);
        }
        assert_eq!(round(900, false), 100, "and bounded");
    }

    #[test]
    fn a_few_packets_measure_no_loss_floor() {
        let mut floor = LossFloor::default();
        floor.lost(1000);
        floor.delivered(9000);
        floor.round(false, 1000);
        assert!(floor.get() <= 0.0);
    }

    #[test]
    fn acknowledgements_in_bursts_are_extra() {
        let mut now = Instant::now();
        let mut extra = ExtraAcked::default();
        // 1 MB/s, 20 kB every 20 ms at once: 20 kB more than the instant explains.
        for round in 0..10 {
            now += ms(20);
            extra.acked(now, 20_000, 1e6, UNBOUNDED, round, false);
        }
        assert_eq!(extra.get(), 20_000);
        now += ms(30);
        for round in 10..21 {
            for _ in 0..10 {
                now += ms(2);
                extra.acked(now, 2_000, 1e6, UNBOUNDED, round, false);
            }
        }
        assert_eq!(extra.get(), 2_000, "and it is forgotten");
    }

    #[test]
    fn short_term_bounds_follow_what_is_delivered_but_fall_no_faster_than_beta() {
        let mut bounds = Bounds::NONE;
        bounds.congested((9.0, 90), 10.0, 200);
        assert!((bounds.bandwidth - 9.0).abs() < 1e-9);
        assert_eq!(bounds.shortterm, 140);
        bounds.congested((1.0, 10), 10.0, 200);
        assert!((bounds.bandwidth - 6.3).abs() < 1e-9);
        assert_eq!(bounds.shortterm, 98);
    }
}

//! Delivery rate: how fast the path carried what was lately in flight (draft-ietf-ccwg-bbr-06 §4.1). Each packet
//! remembers what had been delivered when it left; its acknowledgement then says how much arrived meanwhile.
use crate::congestion::RateSample;
use crate::scoreboard::Acked;
use std::time::{Duration, Instant};

/// Times in a packet's record count these: 32 bits reach 274 s.
const TICK_NANOS: u128 = 64;

/// What a packet remembers of the moment it left. Counts are modulo 2³²: no more than 64 MiB is ever in flight beyond a
/// hole, so that differences are exact.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Snapshot {
    delivered: u32,
    lost: u32,
    /// Bytes in flight, with this packet.
    in_flight: u32,
    /// Ticks since the send time of the packet delivered last, and since its delivery.
    since_first: u32,
    since_delivery: u32,
    app_limited: bool,
}

impl Snapshot {
    /// Bytes in flight just after the packet left.
    pub(crate) fn in_flight(&self) -> u64 {
        u64::from(self.in_flight)
    }

    /// The program, not the path, bounded the rate at which it was sent.
    pub(crate) fn is_app_limited(&self) -> bool {
        self.app_limited
    }
}

fn ticks(from: Instant, to: Instant) -> u32 {
    let elapsed = to.saturating_duration_since(from).as_nanos() / TICK_NANOS;
    u32::try_from(elapsed).unwrap_or(u32::MAX)
}

fn duration(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) * TICK_NANOS as u64)
}

/// The counters of one sending half.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Bytes delivered and lost (or marked) since the beginning.
    delivered: u64,
    lost: u64,
    delivered_at: Instant,
    /// Send time of the packet delivered last.
    first_sent: Instant,
    /// Until more than this is delivered, samples are bounded by the program.
    app_limited: Option<u64>,
}

impl Sampler {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            lost: 0,
            delivered_at: now,
            first_sent: now,
            app_limited: None,
        }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(crate) fn is_app_limited(&self) -> bool {
        self.app_limited.is_some()
    }

    /// A packet of `len` bytes leaves while `in_flight` bytes are out (§4.1.2.2).
    pub(crate) fn sent(&mut self, now: Instant, in_flight: usize, len: usize) -> Snapshot {
        if in_flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered as u32,
            lost: self.lost as u32,
            in_flight: u32::try_from(in_flight + len).unwrap_or(u32::MAX),
            since_first: ticks(self.first_sent, now),
            since_delivery: ticks(self.delivered_at, now),
            app_limited: self.app_limited.is_some(),
        }
    }

    /// The program has nothing to send although `in_flight` bytes are less than what may be out (§4.1.2.4).
    pub(crate) fn app_limited(&mut self, in_flight: usize) {
        self.app_limited = Some(self.delivered + in_flight as u64);
    }

    /// Bytes were lost, or carried a congestion mark.
    pub(crate) fn lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// Bytes lost since a packet left.
    pub(crate) fn lost_since(&self, snapshot: &Snapshot) -> u64 {
        u64::from((self.lost as u32).wrapping_sub(snapshot.lost))
    }

    /// Counts what a message acknowledged.
    pub(crate) fn acked(&mut self, now: Instant, acked: &Acked) {
        self.delivered += acked.bytes as u64;
        self.delivered_at = now;
        if self.app_limited.is_some_and(|until| self.delivered > until) {
            self.app_limited = None;
        }
        if let Some((sent, _)) = acked.newest {
            self.first_sent = self.first_sent.max(sent);
        }
    }

    /// The sample of what `acked` counted (§4.1.2.3). An interval shorter than the smallest round trip is no measure.
    pub(crate) fn sample(
        &self,
        now: Instant,
        acked: &Acked,
        minimum: Option<Duration>,
    ) -> Option<RateSample> {
        let (sent, _) = acked.newest?;
        let snapshot = &acked.snapshot;
        let since_delivery =
            duration(snapshot.since_delivery) + now.saturating_duration_since(sent);
        let interval = duration(snapshot.since_first).max(since_delivery);
        let delivered = u64::from((self.delivered as u32).wrapping_sub(snapshot.delivered));
        let reliable = !interval.is_zero() && minimum.is_none_or(|m| interval >= m);
        Some(RateSample {
            rate: reliable.then(|| delivered as f64 / interval.as_secs_f64()),
            delivered,
            prior_delivered: self.delivered - delivered.min(self.delivered),
            lost: self.lost_since(snapshot),
            sent_in_flight: snapshot.in_flight(),
            app_limited: snapshot.app_limited,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn acked(snapshot: Snapshot, sent: Instant, bytes: usize) -> Acked {
        Acked {
            packets: 1,
            bytes,
            newest: Some((sent, 1)),
            snapshot,
            ..Acked::default()
        }
    }

    #[test]
    fn the_slower_of_sending_and_delivery_is_the_rate() {
        let start = Instant::now();
        let mut sampler = Sampler::new(start);
        let first = sampler.sent(start, 0, 1000);
        // Sent over 10 ms, delivered over 40: the path carried 1 MB/s at most 25 kB/s of it.
        let last_sent = start + ms(10);
        let last = sampler.sent(last_sent, 1000, 1000);
        let ack = acked(first, start, 1000);
        sampler.acked(start + ms(50), &ack);
        let ack = acked(last, last_sent, 1000);
        sampler.acked(start + ms(90), &ack);
        let sample = sampler.sample(start + ms(90), &ack, Some(ms(50))).unwrap();
        assert_eq!((sample.delivered, sample.prior_delivered), (2000, 0));
        let rate = sample.rate.unwrap();
        assert!((rate - 2000.0 / 0.09).abs() < 1.0, "{rate}");
        assert_eq!(sample.sent_in_flight, 2000);
    }

    #[test]
    fn an_interval_below_the_smallest_round_trip_gives_no_rate() {
        let start = Instant::now();
        let mut sampler = Sampler::new(start);
        let ack = acked(sampler.sent(start, 0, 1000), start, 1000);
        sampler.acked(start + ms(5), &ack);
        let sample = sampler.sample(start + ms(5), &ack, Some(ms(50))).unwrap();
        assert_eq!(sample.rate, None);
    }

    #[test]
    fn samples_are_app_limited_until_the_bubble_has_passed() {
        let start = Instant::now();
        let mut sampler = Sampler::new(start);
        let before = sampler.sent(start, 0, 1000);
        sampler.app_limited(1000);
        let inside = sampler.sent(start, 1000, 1000);
        assert!(!before.is_app_limited() && inside.is_app_limited());
        sampler.acked(start + ms(10), &acked(before, start, 1000));
        assert!(sampler.is_app_limited(), "1,000 were out when it began");
        sampler.acked(start + ms(11), &acked(inside, start, 1000));
        assert!(!sampler.is_app_limited());
        assert!(!sampler.sent(start + ms(12), 0, 1).is_app_limited());
    }

    #[test]
    fn losses_are_counted_from_when_the_packet_left_and_the_counters_wrap() {
        let start = Instant::now();
        let mut sampler = Sampler::new(start);
        sampler.lost = u64::from(u32::MAX) - 10;
        sampler.delivered = u64::from(u32::MAX) - 10;
        let snapshot = sampler.sent(start, 0, 1000);
        sampler.lost(2000);
        assert_eq!(sampler.lost_since(&snapshot), 2000);
        let ack = acked(snapshot, start, 1000);
        sampler.acked(start + ms(10), &ack);
        let sample = sampler.sample(start + ms(10), &ack, None).unwrap();
        assert_eq!((sample.delivered, sample.lost), (1000, 2000));
        assert_eq!(sample.prior_delivered, u64::from(u32::MAX) - 10);
    }
}

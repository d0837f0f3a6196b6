//! Round-trip time and retransmission timeout: RFC 6298 with the bounds of D34, and a windowed minimum for RACK.
use std::time::{Duration, Instant};

const INITIAL_RTO: Duration = Duration::from_secs(1);
const SMALLEST_RTO: Duration = Duration::from_millis(200);
const LARGEST_RTO: Duration = Duration::from_secs(60);
/// The variance term never falls below this (RFC 6298 §2.3, G).
const GRANULARITY: Duration = Duration::from_millis(1);
/// The minimum is that of the last one to two of these (RFC 8985 §6.1 asks for a windowed one: a path may get slower).
const MINIMUM_WINDOW: Duration = Duration::from_secs(30);

/// The estimate of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// The only sample is that of the S_OPEN, in which the peer's program took its time to accept.
    provisional: bool,
    minimum: [Duration; 2],
    minimum_since: Option<Instant>,
}

impl Default for Rtt {
    fn default() -> Self {
        Self {
            smoothed: None,
            variation: Duration::ZERO,
            provisional: false,
            minimum: [Duration::MAX; 2],
            minimum_since: None,
        }
    }
}

impl Rtt {
    /// A sample from a packet that was sent once (Karn's rule is the caller's).
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.max(Duration::from_nanos(1));
        match self.minimum_since {
            Some(since) if now.saturating_duration_since(since) < MINIMUM_WINDOW => {
                self.minimum[0] = self.minimum[0].min(rtt);
            }
            _ => {
                self.minimum = [rtt, self.minimum[0]];
                self.minimum_since = Some(now);
            }
        }
        match self.smoothed {
            Some(smoothed) if !self.provisional => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
            _ => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
        }
        self.provisional = false;
    }

    /// The sample of the handshake: used until a better one comes.
    pub(crate) fn handshake_sample(&mut self, now: Instant, rtt: Duration) {
        if self.smoothed.is_none() {
            self.sample(now, rtt);
            self.provisional = true;
        }
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The smallest of the last 30 to 60 s.
    pub(crate) fn minimum(&self) -> Option<Duration> {
        let minimum = self.minimum[0].min(self.minimum[1]);
        (minimum != Duration::MAX).then_some(minimum)
    }

    /// The timeout before backoff.
    pub(crate) fn rto(&self) -> Duration {
        match self.smoothed {
            None => INITIAL_RTO,
            Some(smoothed) => {
                (smoothed + (self.variation * 4).max(GRANULARITY)).clamp(SMALLEST_RTO, LARGEST_RTO)
            }
        }
    }

    /// The timeout after `backoff` timeouts in a row.
    pub(crate) fn rto_after(&self, backoff: u32) -> Duration {
        self.rto()
            .saturating_mul(1 << backoff.min(10))
            .min(LARGEST_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn timeout_follows_rfc_6298_within_our_bounds() {
        // D34
        let now = Instant::now();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.rto(), ms(1000));
        rtt.sample(now, ms(100));
        assert_eq!(rtt.rto(), ms(300), "R + 4 * R/2");
        rtt.sample(now, ms(200));
        // variation (3*50 + 100)/4 = 62.5, smoothed (7*100 + 200)/8 = 112.5
        assert_eq!(rtt.rto(), Duration::from_micros(362_500));
        for _ in 0..100 {
            rtt.sample(now, ms(1));
        }
        assert_eq!(rtt.rto(), ms(200), "floor");
        assert_eq!(rtt.rto_after(3), ms(1600));
        assert_eq!(rtt.rto_after(30), ms(60_000), "cap");
    }

    #[test]
    fn handshake_sample_is_replaced_by_the_first_of_data() {
        let now = Instant::now();
        let mut rtt = Rtt::default();
        rtt.handshake_sample(now, ms(3000));
        rtt.sample(now, ms(10));
        assert_eq!(rtt.smoothed(), Some(ms(10)));
        assert_eq!(rtt.minimum(), Some(ms(10)));
    }

    #[test]
    fn minimum_forgets() {
        let start = Instant::now();
        let mut rtt = Rtt::default();
        rtt.sample(start, ms(1));
        for s in 1..100 {
            rtt.sample(start + Duration::from_secs(s), ms(50));
        }
        assert_eq!(rtt.minimum(), Some(ms(50)));
    }
}

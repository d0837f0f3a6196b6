//! Round-trip time and retransmission timeout (i2cp.md §2.8; RFC 6298 with other bounds).
use std::time::Duration;

const INITIAL: Duration = Duration::from_secs(9);
const SMALLEST: Duration = Duration::from_millis(100);
pub(crate) const LARGEST: Duration = Duration::from_secs(45);
const LARGEST_SAMPLE: Duration = Duration::from_secs(60);

/// The estimate of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rtt {
    pub(crate) smoothed: Option<Duration>,
    pub(crate) deviation: Duration,
}

impl Rtt {
    /// A sample from a packet that was sent once (Karn's rule is the caller's).
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.min(LARGEST_SAMPLE);
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.deviation = rtt / 2;
            }
            Some(smoothed) => {
                self.deviation = (self.deviation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// Before any back-off.
    pub(crate) fn rto(&self) -> Duration {
        match self.smoothed {
            None => INITIAL,
            Some(smoothed) => (smoothed + self.deviation * 4).clamp(SMALLEST, LARGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_starts_at_nine_seconds_and_keeps_its_bounds() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!(rtt.rto(), ms(9000));
        rtt.sample(ms(400));
        assert_eq!(
            (rtt.smoothed, rtt.rto()),
            (Some(ms(400)), ms(400 + 4 * 200))
        );
        rtt.sample(ms(800));
        assert_eq!((rtt.smoothed, rtt.deviation), (Some(ms(450)), ms(250)));
        for _ in 0..100 {
            rtt.sample(ms(1));
        }
        assert_eq!(rtt.rto(), ms(100));
        for _ in 0..100 {
            rtt.sample(Duration::from_secs(1000));
        }
        assert_eq!(rtt.rto(), LARGEST);
        assert!(rtt.smoothed.unwrap() <= Duration::from_secs(60));
    }
}

//! When a request is sent again, and when it is given up (RFC 8489 §6.2.1).

use std::time::{Duration, Instant};

/// The three numbers of RFC 8489 §6.2.1, all configurable (T30, T31, T32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtoConfig {
    /// Time until the first repetition.
    pub initial: Duration,
    /// How often a request is sent in all.
    pub rc: u32,
    /// How many times the first wait passes after the last sending.
    pub rm: u32,
}

impl Default for RtoConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            rc: 7,
            rm: 16,
        }
    }
}

impl RtoConfig {
    /// How long a request over a stream waits: as long as one over UDP in all (Ti, 39.5 s by default).
    #[must_use]
    pub fn stream_timeout(&self) -> Duration {
        let doublings = (1_u32 << self.rc.clamp(1, 16).saturating_sub(1)) - 1;
        self.initial
            .saturating_mul(doublings.saturating_add(self.rm))
    }
}

/// The measured RTO of one server (RFC 6298 with RFC 8489's changes; T33): no floor of a second, no sample from a
/// repeated request, forgotten after ten minutes, and never below the configured initial value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimator {
    state: Option<Estimate>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    srtt: Duration,
    variance: Duration,
    at: Instant,
}

/// RFC 8489 §6.2.1: the value is stale ten minutes after the last transaction.
const STALE: Duration = Duration::from_secs(600);
const GRANULARITY: Duration = Duration::from_millis(1);

impl Estimator {
    /// Takes the time between a request that was sent once and its answer.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        let (srtt, variance) = match self.live(now) {
            None => (rtt, rtt / 2),
            Some(e) => (
                e.srtt * 7 / 8 + rtt / 8,
                e.variance * 3 / 4 + e.srtt.abs_diff(rtt) / 4,
            ),
        };
        self.state = Some(Estimate {
            srtt,
            variance,
            at: now,
        });
    }

    /// How long the next request waits before it is repeated.
    #[must_use]
    pub fn rto(&self, now: Instant, config: &RtoConfig) -> Duration {
        let measured = self.live(now).map_or(Duration::ZERO, |e| {
            e.srtt + (e.variance * 4).max(GRANULARITY)
        });
        measured.max(config.initial)
    }

    fn live(&self, now: Instant) -> Option<&Estimate> {
        self.state
            .as_ref()
            .filter(|e| now.saturating_duration_since(e.at) < STALE)
    }
}

/// What is due for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Resend,
    GiveUp,
}

/// The clock of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    first: Instant,
    pub next: Instant,
    sends: u32,
    rto: Duration,
}

impl Timing {
    /// For a request sent now.
    pub fn start(now: Instant, rto: Duration, stream: bool, config: &RtoConfig) -> Self {
        if stream {
            // One sending, and then the whole time as the wait after the last one.
            return Self {
                first: now,
                next: now + config.stream_timeout(),
                sends: u32::MAX,
                rto,
            };
        }
        let wait = if config.rc <= 1 { rto * config.rm } else { rto };
        Self {
            first: now,
            next: now + wait,
            sends: 1,
            rto,
        }
    }

    pub fn due(&mut self, now: Instant, config: &RtoConfig) -> Due {
        if now < self.next {
            return Due::Nothing;
        }
        if self.sends >= config.rc {
            return Due::GiveUp;
        }
        self.sends += 1;
        // The wait doubles; after the last sending it is Rm times the first one.
        let wait = if self.sends == config.rc {
            self.rto * config.rm
        } else {
            self.rto * (1 << (self.sends - 1).min(16))
        };
        self.next += wait;
        Due::Resend
    }

    /// The round trip, if the request was sent once (Karn).
    pub fn rtt(&self, now: Instant) -> Option<Duration> {
        matches!(self.sends, 1 | u32::MAX).then(|| now.saturating_duration_since(self.first))
    }
}

/// Whether an ICMP error ends a request at once (T34): "hard" in RFC 1122 §4.2.3.9 and its like in ICMPv6. Soft ones
/// (network, host, source route; time exceeded) may pass.
#[must_use]
pub fn is_hard(ipv6: bool, kind: u8, code: u8) -> bool {
    match (ipv6, kind) {
        (false, 3) => matches!(code, 2..=4),
        // administratively prohibited is policy and may change with the path; port unreachable is final
        (true, 1) => code == 4,
        (true, 4) => code == 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(config: &RtoConfig, rto: Duration, stream: bool) -> (Vec<u64>, u64) {
        let start = Instant::now();
        let mut timing = Timing::start(start, rto, stream, config);
        let mut sends = vec![0];
        loop {
            let at = timing.next;
            assert_eq!(
                timing.due(at - Duration::from_millis(1), config),
                Due::Nothing
            );
            match timing.due(at, config) {
                Due::Resend => sends.push((at - start).as_millis() as u64),
                _ => return (sends, (at - start).as_millis() as u64),
            }
        }
    }

    // T30, T31, T32
    #[test]
    fn requests_are_sent_and_given_up_as_the_rfc_says() {
        let config = RtoConfig::default();
        assert_eq!(
            schedule(&config, config.initial, false),
            (vec![0, 500, 1500, 3500, 7500, 15_500, 31_500], 39_500)
        );
        assert_eq!(
            schedule(&config, config.initial, true),
            (vec![0], 39_500),
            "over a stream: Ti"
        );
        let other = RtoConfig {
            initial: Duration::from_millis(100),
            rc: 3,
            rm: 4,
        };
        assert_eq!(
            schedule(&other, other.initial, false),
            (vec![0, 100, 300], 700)
        );
        let once = RtoConfig {
            rc: 1,
            rm: 2,
            ..config
        };
        assert_eq!(schedule(&once, once.initial, false), (vec![0], 1000));
    }

    // T33
    #[test]
    fn the_rto_follows_the_path_and_forgets() {
        let (config, mut estimator, start) =
            (RtoConfig::default(), Estimator::default(), Instant::now());
        assert_eq!(estimator.rto(start, &config), config.initial);
        estimator.sample(start, Duration::from_millis(900));
        assert_eq!(
            estimator.rto(start, &config),
            Duration::from_millis(2700),
            "SRTT + 4 × RTT/2"
        );
        for _ in 0..50 {
            estimator.sample(start, Duration::from_millis(900));
        }
        let settled = estimator.rto(start, &config);
        assert!((900..910).contains(&settled.as_millis()), "{settled:?}");
        for _ in 0..50 {
            estimator.sample(start, Duration::from_millis(20));
        }
        assert_eq!(
            estimator.rto(start, &config),
            config.initial,
            "never below the configured value"
        );
        estimator.sample(start, Duration::from_secs(9));
        assert_eq!(
            estimator.rto(start + STALE, &config),
            config.initial,
            "stale after ten minutes"
        );
    }

    // T33: Karn
    #[test]
    fn repeated_requests_give_no_sample() {
        let (config, start) = (RtoConfig::default(), Instant::now());
        let mut timing = Timing::start(start, config.initial, false, &config);
        assert_eq!(
            timing.rtt(start + Duration::from_millis(30)),
            Some(Duration::from_millis(30))
        );
        assert_eq!(
            timing.due(start + Duration::from_millis(500), &config),
            Due::Resend
        );
        assert_eq!(timing.rtt(start + Duration::from_millis(530)), None);
    }

    // T34
    #[test]
    fn hard_errors_are_few() {
        for (v6, kind, code, hard) in [
            (false, 3, 2, true),
            (false, 3, 3, true),
            (false, 3, 4, true),
            (false, 3, 0, false),
            (false, 3, 1, false),
            (false, 3, 5, false),
            (false, 3, 13, false),
            (false, 11, 0, false),
            (true, 1, 4, true),
            (true, 1, 0, false),
            (true, 1, 3, false),
            (true, 2, 0, false),
            (true, 4, 1, true),
        ] {
            assert_eq!(
                is_hard(v6, kind, code),
                hard,
                "v6 {v6} type {kind} code {code}"
            );
        }
    }
}

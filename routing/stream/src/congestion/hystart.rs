//! HyStart++ (RFC 9406): leaves slow start when the round trip grows, before the queue overflows.
use std::time::Duration;

const MIN_RTT_THRESHOLD: Duration = Duration::from_millis(4);
const MAX_RTT_THRESHOLD: Duration = Duration::from_millis(16);
const RTT_SAMPLES: u32 = 8;
/// Growth in conservative slow start is this many times slower.
pub(super) const CSS_GROWTH_DIVISOR: usize = 4;
const CSS_ROUNDS: u32 = 5;

/// Where slow start stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    SlowStart,
    /// Conservative slow start, since `rounds`, entered at this smallest round trip.
    Conservative {
        baseline: Duration,
        rounds: u32,
    },
    Done,
}

/// The detector of one slow start.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    phase: Phase,
    last_round: Option<Duration>,
    this_round: Option<Duration>,
    samples: u32,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::SlowStart,
            last_round: None,
            this_round: None,
            samples: 0,
        }
    }

    pub(super) fn is_conservative(&self) -> bool {
        matches!(self.phase, Phase::Conservative { .. })
    }

    /// Takes one acknowledgement into account; true: slow start ends here (RFC 9406 §4.2).
    pub(super) fn on_ack(&mut self, round_start: bool, sample: Option<Duration>) -> bool {
        if round_start {
            self.last_round = self.this_round.take();
            self.samples = 0;
            if let Phase::Conservative { rounds, .. } = &mut self.phase {
                *rounds += 1;
                if *rounds >= CSS_ROUNDS {
                    self.phase = Phase::Done;
                    return true;
                }
            }
        }
        let Some(sample) = sample else { return false };
        self.samples += 1;
        let current = self.this_round.map_or(sample, |t| t.min(sample));
        self.this_round = Some(current);
        if self.samples < RTT_SAMPLES {
            return false;
        }
        match (self.phase, self.last_round) {
            (Phase::SlowStart, Some(last)) => {
                let threshold = (last / 8).clamp(MIN_RTT_THRESHOLD, MAX_RTT_THRESHOLD);
                if current >= last + threshold {
                    self.phase = Phase::Conservative {
                        baseline: current,
                        rounds: 0,
                    };
                }
            }
            // The round trip fell again: the growth was jitter.
            (Phase::Conservative { baseline, .. }, _) if current < baseline => {
                self.phase = Phase::SlowStart
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(h: &mut HyStart, ms: u64) -> bool {
        let ends: Vec<bool> = (0..10)
            .map(|i| h.on_ack(i == 0, Some(Duration::from_millis(ms))))
            .collect();
        ends.contains(&true)
    }

    #[test]
    fn a_growing_round_trip_ends_slow_start_after_five_conservative_rounds() {
        let mut h = HyStart::new();
        assert!(
            !round(&mut h, 100) && !round(&mut h, 105),
            "5 ms are below 100/8"
        );
        assert!(!h.is_conservative());
        assert!(!round(&mut h, 120));
        assert!(h.is_conservative());
        for _ in 0..4 {
            assert!(!round(&mut h, 121));
        }
        assert!(round(&mut h, 121));
    }

    #[test]
    fn a_round_trip_that_falls_again_resumes_slow_start() {
        let mut h = HyStart::new();
        round(&mut h, 100);
        round(&mut h, 130);
        assert!(h.is_conservative());
        round(&mut h, 101);
        assert!(!h.is_conservative());
    }
}

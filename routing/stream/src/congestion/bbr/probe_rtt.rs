//! Probing for the smallest round trip: half a pipe in flight for a moment, every five seconds (§5.3.4).

use std::time::{Duration, Instant};

use super::super::AckSample;
use super::Bbr;
use super::phase::{Feedback, Phase};

/// How long half a pipe is kept in flight (ProbeRTTDuration).
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

impl Bbr {
    pub(super) fn probe_rtt_window(&self) -> u64 {
        self.pipe(self.bandwidth, Phase::window_gain(self.phase).min(0.5))
            .max(self.smallest_window())
    }

    pub(super) fn check_probe_rtt(&mut self, ack: &AckSample) {
        let probing = matches!(self.phase, Phase::ProbeRtt { .. });
        if !probing && self.min_rtt.expired && !self.restarted {
            self.save_window();
            self.phase = Phase::ProbeRtt {
                until: None,
                round_passed: false,
            };
            self.probe.feedback = Feedback::ProbeStopping;
            self.start_round();
        }
        if let Phase::ProbeRtt {
            until,
            round_passed,
        } = self.phase
        {
            match until {
                None if ack.in_flight as u64 <= self.probe_rtt_window() => {
                    self.phase = Phase::ProbeRtt {
                        until: Some(ack.now + PROBE_RTT_TIME),
                        round_passed: false,
                    };
                    self.start_round();
                }
                None => {}
                Some(_) if round_passed || self.round_start => {
                    self.phase = Phase::ProbeRtt {
                        until,
                        round_passed: true,
                    };
                    self.check_probe_rtt_over(ack.now);
                }
                Some(_) => {}
            }
        }
        self.restarted = false;
    }

    pub(super) fn check_probe_rtt_over(&mut self, now: Instant) {
        let Phase::ProbeRtt {
            until: Some(until), ..
        } = self.phase
        else {
            return;
        };
        if now <= until {
            return;
        }
        self.min_rtt.probed(now);
        self.window = self.window.max(self.known_good);
        self.bounds.forget_short_term();
        if self.filled {
            self.start_down(now);
            self.phase = Phase::Cruise;
        } else {
            self.phase = Phase::Startup;
        }
    }
}

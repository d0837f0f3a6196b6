//! Probing for bandwidth: Startup until the pipe is full, then the cycle of Down, Cruise, Refill and Up (§5.3.1 to §5.3.3).

use std::time::{Duration, Instant};

use super::super::{AckSample, RateSample};
use super::Bbr;
use super::model::{BETA, UNBOUNDED};
use super::phase::{Feedback, Phase};

/// Probing for bandwidth comes after so many round trips at the latest, as Reno would (§5.3.3.8).
const MOST_PROBE_ROUNDS: u64 = 63;
/// Rounds in Drain, at most.
const DRAIN_ROUNDS: u64 = 3;

impl Bbr {
    pub(super) fn check_full_pipe(&mut self, rate: &RateSample) {
        if self.full.now || !self.round_start || rate.app_limited {
            return;
        }
        if let Some(sample) = rate.rate {
            self.full.round(sample);
            self.filled |= self.full.now;
        }
    }

    pub(super) fn check_drain(&mut self, now: Instant, in_flight: u64) {
        if self.phase == Phase::Startup && self.filled {
            self.phase = Phase::Drain { since: self.round };
        }
        if let Phase::Drain { since } = self.phase {
            let pipe = self.with_quanta(self.pipe(self.bandwidth, 1.0));
            if in_flight <= pipe || self.round > since + DRAIN_ROUNDS {
                self.start_down(now);
            }
        }
    }

    pub(super) fn start_down(&mut self, now: Instant) {
        self.forget_signals();
        self.probe.bytes_per_step = UNBOUNDED;
        self.probe.rounds = self.draw() & 1;
        self.probe.wait = Duration::from_millis(2000 + self.draw() % 1000);
        self.probe.since = Some(now);
        self.probe.feedback = Feedback::ProbeStopping;
        self.start_round();
        self.phase = Phase::Down;
    }

    pub(super) fn start_refill(&mut self) {
        self.bounds.forget_short_term();
        self.probe.growth_rounds = 0;
        self.probe.counted = 0;
        self.probe.precautionary = false;
        self.probe.feedback = Feedback::Refilling;
        self.start_round();
        self.phase = Phase::Refill;
    }

    fn start_up(&mut self, rate: &RateSample) {
        self.probe.judged = false;
        self.probe.feedback = Feedback::ProbeStarting;
        self.start_round();
        self.full.restart(rate.rate.unwrap_or(0.0));
        self.phase = Phase::Up;
        self.steepen();
    }

    /// The long-term bound grows by 1, 2, 4 ... packets a round (§5.3.3.5).
    fn steepen(&mut self) {
        let steps = 1u64 << self.probe.growth_rounds;
        self.probe.growth_rounds = (self.probe.growth_rounds + 1).min(30);
        self.probe.bytes_per_step = (self.window / steps).max(self.mss);
    }

    /// The long-term bound and the bandwidth filter follow the probes (AdaptLongTermModel). True: a probe began.
    fn adapt_long_term(&mut self, ack: &AckSample, rate: &RateSample) -> bool {
        if self.round_start {
            match self.probe.feedback {
                Feedback::ProbeStarting => self.probe.feedback = Feedback::OfProbe,
                Feedback::ProbeStopping => {
                    self.probe.judged = true;
                    self.probe.feedback = Feedback::None;
                    if self.phase.is_steady() {
                        // As Linux: a period without a sample says nothing.
                        if !rate.app_limited && self.max_bandwidth.has_sample() {
                            self.max_bandwidth.turn();
                        }
                        // The short probe succeeded: a full one follows at once (§5.3.3.6).
                        if self.probe.precautionary && !self.probe.was_too_high {
                            self.start_refill();
                            return true;
                        }
                    }
                }
                _ => {}
            }
        }
        if self.is_too_much(rate.lost, rate.sent_in_flight) {
            // Marks come without a lost packet to judge.
            if !self.probe.judged {
                self.too_high(ack.now, rate.sent_in_flight, rate.app_limited);
            }
            return false;
        }
        if self.bounds.longterm == UNBOUNDED {
            return false;
        }
        self.bounds.longterm = self.bounds.longterm.max(rate.sent_in_flight);
        if self.phase == Phase::Up && ack.window_bound && self.window >= self.bounds.longterm {
            self.grow_long_term(ack.bytes as u64);
        }
        false
    }

    fn grow_long_term(&mut self, acked: u64) {
        self.probe.counted += acked;
        let step = self.probe.bytes_per_step;
        if self.probe.counted >= step {
            let steps = self.probe.counted / step;
            self.probe.counted -= steps * step;
            self.bounds.longterm = self.bounds.longterm.saturating_add(steps * self.mss);
        }
        if self.round_start {
            self.steepen();
        }
    }

    /// So much in flight lost too much (HandleInflightTooHigh); once per probe.
    pub(super) fn too_high(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.probe.was_too_high = true;
        self.probe.judged = true;
        if !app_limited {
            self.bounds.longterm = in_flight.max((self.target() as f64 * BETA) as u64);
        }
        if self.phase == Phase::Up {
            self.undo.phase = Some(Phase::Up);
            self.start_down(now);
        }
    }

    /// The cycle of probes for bandwidth (§5.3.3.9).
    pub(super) fn cycle(&mut self, ack: &AckSample, rate: &RateSample) {
        if !self.filled || self.adapt_long_term(ack, rate) {
            return;
        }
        let in_flight = ack.in_flight as u64;
        // A copy, so that a guard may change what the probe notes.
        let phase = self.phase;
        match phase {
            Phase::Down | Phase::Cruise if self.is_time_to_probe(ack.now) => self.start_refill(),
            Phase::Down => {
                let pipe = self.with_quanta(self.pipe(self.max_bandwidth.get(), 1.0));
                if in_flight <= self.with_headroom() && in_flight <= pipe {
                    self.phase = Phase::Cruise;
                }
            }
            Phase::Refill if self.round_start => self.start_up(rate),
            Phase::Up if self.is_time_to_go_down(ack, rate) => {
                self.probe.was_too_high = false;
                self.start_down(ack.now);
            }
            _ => {}
        }
    }

    fn is_time_to_probe(&self, now: Instant) -> bool {
        let waited = self
            .probe
            .since
            .is_none_or(|since| now.saturating_duration_since(since) > self.probe.wait);
        waited || self.probe.rounds >= (self.target() / self.mss).min(MOST_PROBE_ROUNDS)
    }

    fn is_time_to_go_down(&mut self, ack: &AckSample, rate: &RateSample) -> bool {
        if self.probe.was_too_high && ack.in_flight as u64 >= self.bounds.longterm {
            self.probe.precautionary = true;
            return true;
        }
        if ack.window_bound && self.window >= self.bounds.longterm {
            // The bound, not the path, limits the rate.
            self.full.restart(rate.rate.unwrap_or(0.0));
            return false;
        }
        self.full.now
    }
}

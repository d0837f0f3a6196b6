//! What acknowledgements and losses say in a round trip, and when loss counts as congestion (§5.5.10).

use super::super::RateSample;
use super::phase::Phase;
use super::{Bbr, PACING_MARGIN, Undo};

/// Share of a round trip's data that may be lost without the volume in flight being too high (LossThresh).
const LOSS_THRESHOLD: f64 = 0.02;
/// The same in Startup while round trips show no queue, and the loss that is no congestion is not known yet.
const STARTUP_LOSS_THRESHOLD: f64 = 0.1;
/// A round trip longer than the smallest by this part of it shows a queue.
const QUEUED_SHARE: u32 = 8;
/// Separate losses in a round before Startup ends because of them (BBRStartupFullLossCnt).
const STARTUP_LOSSES: u32 = 6;

impl Bbr {
    pub(super) fn update_round(&mut self, rate: &RateSample) {
        self.round_start = rate.prior_delivered >= self.round_ends;
        if self.round_start {
            self.start_round();
            self.round += 1;
            self.probe.rounds += 1;
        }
    }

    /// Rate and volume delivered in this round, and the bounds at the end of one with losses (§5.5.10.3).
    pub(super) fn update_signals(&mut self, rate: &RateSample) {
        let sample = rate.rate.unwrap_or(0.0);
        self.latest.0 = self.latest.0.max(sample);
        self.latest.1 = self.latest.1.max(rate.delivered);
        self.loss_round_start = rate.prior_delivered >= self.loss_round_ends;
        if self.loss_round_start {
            self.loss_round_ends = self.delivered;
        }
        if sample > 0.0 && (sample >= self.max_bandwidth.get() || !rate.app_limited) {
            self.max_bandwidth.add(sample);
        }
        self.check_startup_losses(rate);
        if self.loss_round_start {
            if self.lossy_round && !self.phase.accelerates() && self.is_congested(rate) {
                let max = self.max_bandwidth.get();
                // What was delivered lacks the margin that we left ourselves. Without it back, the bound would fall by
                // the margin in every round with a single loss, on top of what the path lost.
                let latest = (self.latest.0 / PACING_MARGIN, self.latest.1);
                self.bounds.congested(latest, max, self.window);
            }
            self.floor.round(self.is_queued(), self.mss);
            self.forget_losses();
        }
    }

    /// Whether every packet of this round has waited in a queue.
    fn is_queued(&self) -> bool {
        match (self.round_rtt, self.min_rtt.get()) {
            (Some(rtt), Some(smallest)) => rtt > smallest + smallest / QUEUED_SHARE,
            _ => true,
        }
    }

    /// Whether the losses of the round that ends are taken for congestion. The draft takes every loss for it; a path that
    /// loses one packet in a hundred by itself would then never be used. Here it is loss with a queue, more than the path
    /// loses without one; or too much of it. Down and Drain empty a queue of our own making already.
    fn is_congested(&self, rate: &RateSample) -> bool {
        if self.marked_round || self.is_too_much(rate.lost, rate.sent_in_flight) {
            return true;
        }
        let expected = self.floor.expected(rate.sent_in_flight, self.mss);
        let drains = matches!(self.phase, Phase::Down | Phase::Drain { .. });
        !drains && self.is_queued() && rate.lost as f64 > expected
    }

    /// So many bytes lost of so many in flight are too many (IsInflightTooHigh): more than the threshold beyond what the
    /// path loses by itself.
    pub(super) fn is_too_much(&self, lost: u64, in_flight: u64) -> bool {
        let expected = self.floor.expected(in_flight, self.mss);
        lost as f64 > in_flight as f64 * self.loss_threshold() + expected
    }

    pub(super) fn loss_threshold(&self) -> f64 {
        if self.phase == Phase::Startup && !self.is_queued() {
            STARTUP_LOSS_THRESHOLD
        } else {
            LOSS_THRESHOLD
        }
    }

    fn forget_losses(&mut self) {
        self.lossy_round = false;
        self.marked_round = false;
        self.round_rtt = None;
        self.loss_ranges = 0;
    }

    pub(super) fn forget_signals(&mut self) {
        self.forget_losses();
        self.latest = (0.0, 0);
    }

    /// Startup ends on persistent loss (§5.3.1.3), or on marks: those come before the queue overflows, so at once.
    fn check_startup_losses(&mut self, rate: &RateSample) {
        let persistent = self.loss_round_start
            && self.loss_ranges >= STARTUP_LOSSES
            && self.recovering.is_some_and(|since| self.round > since);
        if self.phase == Phase::Startup
            && (persistent || self.marked_round)
            && self.is_too_much(rate.lost, rate.sent_in_flight)
        {
            self.undo.phase = Some(Phase::Startup);
            self.filled = true;
            self.bounds.longterm = self.pipe(self.max_bandwidth.get(), 1.0).max(self.latest.1);
        }
    }

    pub(super) fn note_loss(&mut self, delivered: u64) {
        if !self.lossy_round {
            self.loss_round_ends = delivered;
            self.save_window();
            self.undo = Undo {
                bounds: self.bounds,
                phase: None,
            };
        }
        self.lossy_round = true;
    }
}

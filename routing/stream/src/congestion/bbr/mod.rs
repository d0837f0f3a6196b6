//! BBRv3 (draft-ietf-ccwg-bbr-06): a model of the path (bandwidth, smallest round trip, how much is safe in flight)
//! decides how fast and how much is sent. Loss bounds the model only above 2 % of a round trip's data.
//!
//! ```text
//!  Startup ──▶ Drain ──▶ Down ──▶ Cruise ──▶ Refill ──▶ Up ──▶ Down ...        any ──(5 s)──▶ ProbeRtt ──▶ Cruise
//!   ×2.77       ×0.5     ×0.9       ×1         ×1      ×1.25                                    ½ of the pipe
//! ```
//!
//! The draft has no answer to congestion marks. Here a marked packet counts in the model as the lost one that it stands
//! for (RFC 3168 §5), and is not sent again.
mod model;
mod phase;
mod probe_rtt;
mod probing;
mod signals;

use super::{
    AckSample, Congestion, CongestionControl, INITIAL_WINDOW_PACKETS, LossSample, Model,
    SMALLEST_WINDOW_PACKETS,
};
use model::{Bounds, ExtraAcked, FullPipe, LossFloor, MaxOfTwo, MinRtt, UNBOUNDED};
use phase::{Feedback, Phase};
use std::time::{Duration, Instant};

/// Share of the long-term bound left to others (Headroom).
const HEADROOM: f64 = 0.15;
/// Packets that a window never falls below (MinPipeCwnd).
const SMALLEST_PIPE_PACKETS: u64 = 4;
/// Pace a little below the bandwidth (PacingMarginPercent).
const PACING_MARGIN: f64 = 0.99;
/// What leaves at once (§5.6.3), and how many such batches the two ends may hold back (§5.5.8.1).
const QUANTUM_TIME: f64 = 0.001;
const LARGEST_QUANTUM: u64 = 64 * 1024;
const QUANTA: u64 = 3;

/// What a mistaken loss restores (§5.5.11).
#[derive(Clone, Copy, Debug)]
struct Undo {
    bounds: Bounds,
    /// The phase that the loss ended.
    phase: Option<Phase>,
}

/// The present probe for bandwidth.
#[derive(Clone, Copy, Debug)]
struct Probe {
    feedback: Feedback,
    /// Loss has not been answered yet, and belongs to the probe.
    judged: bool,
    /// The last one lost too much, so that the next is a short one; the present one was cut short for this reason.
    was_too_high: bool,
    precautionary: bool,
    /// When the present cycle began and how long it waits before probing; rounds since the last probe.
    since: Option<Instant>,
    wait: Duration,
    rounds: u64,
    /// Growth of the long-term bound: rounds, bytes per packet of growth, bytes counted.
    growth_rounds: u32,
    bytes_per_step: u64,
    counted: u64,
}

/// BBR's state; volumes in bytes, rates in bytes per second.
#[derive(Debug)]
pub struct Bbr {
    mss: u64,
    phase: Phase,
    window: u64,
    /// The window before a recovery or ProbeRtt.
    known_good: u64,
    pace: f64,
    bandwidth: f64,
    max_bandwidth: MaxOfTwo,
    min_rtt: MinRtt,
    extra: ExtraAcked,
    full: FullPipe,
    /// The pipe has been full once.
    filled: bool,
    floor: LossFloor,
    bounds: Bounds,
    probe: Probe,
    delivered: u64,
    round: u64,
    round_start: bool,
    round_ends: u64,
    /// Largest delivery of the present round: rate and volume.
    latest: (f64, u64),
    loss_round_ends: u64,
    loss_round_start: bool,
    lossy_round: bool,
    /// Marks in it.
    marked_round: bool,
    /// The smallest round trip in it.
    round_rtt: Option<Duration>,
    loss_ranges: u32,
    last_lost: u64,
    /// In recovery since this round.
    recovering: Option<u64>,
    undo: Undo,
    restarted: bool,
    random: u64,
}

impl Bbr {
    /// With the initial window. The seed spreads the probes of streams that start together.
    pub fn new(mss: usize, seed: u64) -> Self {
        let mss = mss.max(1) as u64;
        Self {
            mss,
            phase: Phase::Startup,
            window: INITIAL_WINDOW_PACKETS as u64 * mss,
            known_good: 0,
            pace: 0.0,
            bandwidth: 0.0,
            max_bandwidth: MaxOfTwo::default(),
            min_rtt: MinRtt::default(),
            extra: ExtraAcked::default(),
            full: FullPipe::default(),
            filled: false,
            floor: LossFloor::default(),
            bounds: Bounds::NONE,
            probe: Probe {
                feedback: Feedback::None,
                judged: true,
                was_too_high: false,
                precautionary: false,
                since: None,
                wait: Duration::ZERO,
                rounds: 0,
                growth_rounds: 0,
                bytes_per_step: UNBOUNDED,
                counted: 0,
            },
            delivered: 0,
            round: 0,
            round_start: false,
            round_ends: 0,
            latest: (0.0, 0),
            loss_round_ends: 0,
            loss_round_start: false,
            lossy_round: false,
            marked_round: false,
            round_rtt: None,
            loss_ranges: 0,
            last_lost: 0,
            recovering: None,
            undo: Undo {
                bounds: Bounds::NONE,
                phase: None,
            },
            restarted: false,
            random: seed,
        }
    }

    /// Splitmix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn smallest_window(&self) -> u64 {
        SMALLEST_PIPE_PACKETS * self.mss
    }

    /// A multiple of what the path holds (§5.6.4.2, BDPMultiple).
    fn pipe(&self, bandwidth: f64, gain: f64) -> u64 {
        match self.min_rtt.get() {
            Some(rtt) => (bandwidth * rtt.as_secs_f64() * gain) as u64,
            None => INITIAL_WINDOW_PACKETS as u64 * self.mss,
        }
    }

    /// With room for the batches that the ends make (QuantizationBudget).
    fn with_quanta(&self, volume: u64) -> u64 {
        let quantum = ((self.pace * QUANTUM_TIME) as u64)
            .min(LARGEST_QUANTUM)
            .max(2 * self.mss);
        let volume = volume.max(QUANTA * quantum).max(self.smallest_window());
        if self.phase == Phase::Up {
            volume + 2 * self.mss
        } else {
            volume
        }
    }

    fn target(&self) -> u64 {
        self.pipe(self.bandwidth, 1.0).min(self.window)
    }

    /// The long-term bound less what is left to others (InflightWithHeadroom).
    fn with_headroom(&self) -> u64 {
        let longterm = self.bounds.longterm;
        if longterm == UNBOUNDED {
            return UNBOUNDED;
        }
        let room = ((longterm as f64 * HEADROOM) as u64).max(self.mss);
        longterm.saturating_sub(room).max(self.smallest_window())
    }

    fn start_round(&mut self) {
        self.round_ends = self.delivered;
    }

    fn save_window(&mut self) {
        let probing = matches!(self.phase, Phase::ProbeRtt { .. });
        self.known_good = if self.recovering.is_none() && !probing {
            self.window
        } else {
            self.known_good.max(self.window)
        };
    }

    /// The bandwidth to go by, and the pace that follows (§5.6.2).
    fn set_pace(&mut self) {
        self.bandwidth = self.max_bandwidth.get().min(self.bounds.bandwidth);
        let pace = self.phase.pacing_gain() * self.bandwidth * PACING_MARGIN;
        if self.filled || pace > self.pace {
            self.pace = pace;
        }
    }

    fn set_window(&mut self, acked: u64) {
        let mut most = self.pipe(self.bandwidth, self.phase.window_gain());
        if self.filled {
            // The draft adds it in Startup as well. There the bandwidth lags behind what is delivered, and the
            // difference looks like aggregation: the queue of a whole pipe would overflow.
            most += self.extra.get();
        }
        let most = self.with_quanta(most);
        if self.filled {
            self.window = (self.window + acked).min(most);
        } else if self.window < most || self.delivered < INITIAL_WINDOW_PACKETS as u64 * self.mss {
            self.window += acked;
        }
        self.window = self.window.max(self.smallest_window());
        let cap = match self.phase {
            Phase::Down | Phase::Refill | Phase::Up => self.bounds.longterm,
            Phase::Cruise => self.with_headroom(),
            Phase::ProbeRtt { .. } => self.with_headroom().min(self.probe_rtt_window()),
            Phase::Startup | Phase::Drain { .. } => UNBOUNDED,
        };
        let cap = cap.min(self.bounds.shortterm).max(self.smallest_window());
        self.window = self.window.min(cap);
    }
}

impl CongestionControl for Bbr {
    fn window(&self) -> usize {
        self.window as usize
    }

    fn slow_start_threshold(&self) -> usize {
        usize::MAX
    }

    fn in_slow_start(&self) -> bool {
        self.phase == Phase::Startup
    }

    fn model(&self) -> Model {
        let bound = |volume: u64| (volume != UNBOUNDED).then_some(volume);
        let bandwidth = self.bounds.bandwidth;
        Model {
            phase: self.phase.name(),
            window: self.window as usize,
            pace: self.pacing_rate(),
            max_bandwidth: Some(self.max_bandwidth.get() as u64),
            bandwidth_bound: bandwidth.is_finite().then_some(bandwidth as u64),
            longterm: bound(self.bounds.longterm),
            shortterm: bound(self.bounds.shortterm),
            min_rtt: self.min_rtt.get(),
            extra: self.extra.get(),
            ..Model::default()
        }
    }

    fn pacing_rate(&self) -> Option<u64> {
        (self.pace > 0.0).then_some(self.pace as u64)
    }

    fn repairs(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        matches!(self.phase, Phase::ProbeRtt { .. })
    }

    fn on_ack(&mut self, ack: &AckSample) {
        self.round_start = false;
        self.loss_round_start = false;
        self.floor.delivered(ack.bytes as u64);
        if let Some(rtt) = ack.sample {
            self.round_rtt = Some(self.round_rtt.map_or(rtt, |smallest| smallest.min(rtt)));
        }
        if let Some(rate) = &ack.rate {
            self.delivered = rate.prior_delivered + rate.delivered;
            self.update_round(rate);
            self.update_signals(rate);
            self.extra.acked(
                ack.now,
                ack.bytes as u64,
                self.bandwidth,
                self.window,
                self.round,
                !self.filled,
            );
            self.check_full_pipe(rate);
            self.check_drain(ack.now, ack.in_flight as u64);
            self.cycle(ack, rate);
        }
        self.min_rtt.sample(ack.now, ack.sample);
        self.check_probe_rtt(ack);
        if let Some(rate) = ack.rate.filter(|_| self.loss_round_start) {
            self.latest = (rate.rate.unwrap_or(0.0), rate.delivered);
        }
        self.set_pace();
        self.set_window(ack.bytes as u64);
    }

    fn on_lost(&mut self, loss: &LossSample) {
        self.floor.lost(loss.bytes);
        self.note_loss(loss.delivered);
        if loss.position != self.last_lost + 1 {
            self.loss_ranges += 1;
        }
        self.last_lost = loss.position;
        if self.probe.judged || !self.is_too_much(loss.lost, loss.sent_in_flight) {
            return;
        }
        // At which volume before this packet the threshold was crossed (§5.5.10.2, InflightAtLoss).
        let before = loss.sent_in_flight.saturating_sub(loss.bytes) as f64;
        let lost_before = loss.lost.saturating_sub(loss.bytes) as f64;
        let threshold = self.loss_threshold() + self.floor.get();
        let prefix = (threshold * before - lost_before) / (1.0 - threshold);
        self.too_high(
            loss.now,
            (before + prefix).max(0.0) as u64,
            loss.app_limited,
        );
    }

    fn on_marked(&mut self, delivered: u64) {
        self.note_loss(delivered);
        self.marked_round = true;
    }

    fn on_congestion(&mut self, _now: Instant, kind: Congestion, _in_flight: usize) {
        if kind == Congestion::Ecn {
            return;
        }
        self.save_window();
        self.recovering.get_or_insert(self.round);
        if kind == Congestion::Timeout {
            // All that was in flight counts as lost (§5.6.4.4).
            self.window = SMALLEST_WINDOW_PACKETS as u64 * self.mss;
        }
    }

    fn on_recovered(&mut self) {
        self.recovering = None;
        self.window = self.window.max(self.known_good);
    }

    fn undo(&mut self, now: Instant) {
        self.on_recovered();
        self.lossy_round = false;
        self.full.restart(0.0);
        let undo = self.undo;
        self.bounds.at_least(&undo.bounds);
        self.undo.phase = None;
        let probing_rtt = matches!(self.phase, Phase::ProbeRtt { .. });
        match undo.phase {
            Some(Phase::Startup) if self.phase != Phase::Startup => {
                self.filled = false;
                if !probing_rtt {
                    self.phase = Phase::Startup;
                }
            }
            Some(Phase::Up) if self.phase != Phase::Up && !probing_rtt => {
                self.probe.since = Some(now);
                self.start_refill();
            }
            _ => {}
        }
    }

    fn on_restart(&mut self, now: Instant) {
        self.restarted = true;
        self.extra.restart(now);
        if self.phase.is_steady() {
            self.pace = self.bandwidth * PACING_MARGIN;
        } else {
            self.check_probe_rtt_over(now);
        }
    }

    fn on_idle(&mut self, _now: Instant, _idle: Duration, _rto: Duration) {
        // §5.4.1: the model stays; the pace spreads what leaves.
    }

    fn set_mss(&mut self, mss: usize) {
        let mss = mss.max(1) as u64;
        if self.max_bandwidth.get() <= 0.0 {
            self.window = self.window / self.mss * mss;
        }
        self.mss = mss;
    }
}

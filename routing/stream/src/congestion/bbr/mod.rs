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

use super::{
    AckSample, Congestion, CongestionControl, INITIAL_WINDOW_PACKETS, LossSample, Model,
    RateSample, SMALLEST_WINDOW_PACKETS,
};
use model::{BETA, Bounds, ExtraAcked, FullPipe, LossFloor, MaxOfTwo, MinRtt, UNBOUNDED};
use std::time::{Duration, Instant};

/// Share of a round trip's data that may be lost without the volume in flight being too high (LossThresh).
const LOSS_THRESHOLD: f64 = 0.02;
/// The same in Startup while round trips show no queue, and the loss that is no congestion is not known yet.
const STARTUP_LOSS_THRESHOLD: f64 = 0.1;
/// A round trip longer than the smallest by this part of it shows a queue.
const QUEUED_SHARE: u32 = 8;
/// Separate losses in a round before Startup ends because of them (BBRStartupFullLossCnt).
const STARTUP_LOSSES: u32 = 6;
/// Share of the long-term bound left to others (Headroom).
const HEADROOM: f64 = 0.15;
/// Packets that a window never falls below (MinPipeCwnd).
const SMALLEST_PIPE_PACKETS: u64 = 4;
/// How long half a pipe is kept in flight (ProbeRTTDuration).
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Pace a little below the bandwidth (PacingMarginPercent).
const PACING_MARGIN: f64 = 0.99;
/// Probing for bandwidth comes after so many round trips at the latest, as Reno would (§5.3.3.8).
const MOST_PROBE_ROUNDS: u64 = 63;
/// Rounds in Drain, at most.
const DRAIN_ROUNDS: u64 = 3;
/// What leaves at once (§5.6.3), and how many such batches the two ends may hold back (§5.5.8.1).
const QUANTUM_TIME: f64 = 0.001;
const LARGEST_QUANTUM: u64 = 64 * 1024;
const QUANTA: u64 = 3;

/// What the flow does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Startup,
    Drain {
        /// The round in which it began.
        since: u64,
    },
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt {
        /// Once half a pipe is in flight: when it is over at the earliest.
        until: Option<Instant>,
        /// A round trip has passed since.
        round_passed: bool,
    },
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Drain { .. } => "drain",
            Self::Down => "down",
            Self::Cruise => "cruise",
            Self::Refill => "refill",
            Self::Up => "up",
            Self::ProbeRtt { .. } => "probe-rtt",
        }
    }

    fn pacing_gain(self) -> f64 {
        match self {
            Self::Startup => 2.77,
            Self::Drain { .. } => 0.5,
            Self::Down => 0.9,
            Self::Cruise | Self::Refill | Self::ProbeRtt { .. } => 1.0,
            Self::Up => 1.25,
        }
    }

    fn window_gain(self) -> f64 {
        match self {
            Self::Up => 2.25,
            Self::ProbeRtt { .. } => 0.5,
            _ => 2.0,
        }
    }

    /// Probes for bandwidth: loss does not lower the short-term bounds.
    fn accelerates(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }

    fn is_steady(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }
}

/// Which acknowledgements come in, seen from the last probe for bandwidth (§5.3.3.9, ack_phase).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Feedback {
    None,
    Refilling,
    ProbeStarting,
    OfProbe,
    ProbeStopping,
}

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

    fn probe_rtt_window(&self) -> u64 {
        self.pipe(self.bandwidth, Phase::window_gain(self.phase).min(0.5))
            .max(self.smallest_window())
    }

    fn start_round(&mut self) {
        self.round_ends = self.delivered;
    }

    fn update_round(&mut self, rate: &RateSample) {
        self.round_start = rate.prior_delivered >= self.round_ends;
        if self.round_start {
            self.start_round();
            self.round += 1;
            self.probe.rounds += 1;
        }
    }

    /// Rate and volume delivered in this round, and the bounds at the end of one with losses (§5.5.10.3).
    fn update_signals(&mut self, rate: &RateSample) {
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
    fn is_too_much(&self, lost: u64, in_flight: u64) -> bool {
        let expected = self.floor.expected(in_flight, self.mss);
        lost as f64 > in_flight as f64 * self.loss_threshold() + expected
    }

    fn loss_threshold(&self) -> f64 {
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

    fn forget_signals(&mut self) {
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

    fn check_full_pipe(&mut self, rate: &RateSample) {
        if self.full.now || !self.round_start || rate.app_limited {
            return;
        }
        if let Some(sample) = rate.rate {
            self.full.round(sample);
            self.filled |= self.full.now;
        }
    }

    fn check_drain(&mut self, now: Instant, in_flight: u64) {
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

    fn start_down(&mut self, now: Instant) {
        self.forget_signals();
        self.probe.bytes_per_step = UNBOUNDED;
        self.probe.rounds = self.draw() & 1;
        self.probe.wait = Duration::from_millis(2000 + self.draw() % 1000);
        self.probe.since = Some(now);
        self.probe.feedback = Feedback::ProbeStopping;
        self.start_round();
        self.phase = Phase::Down;
    }

    fn start_refill(&mut self) {
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
    fn too_high(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
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
    fn cycle(&mut self, ack: &AckSample, rate: &RateSample) {
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

    fn check_probe_rtt(&mut self, ack: &AckSample) {
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

    fn check_probe_rtt_over(&mut self, now: Instant) {
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

    fn save_window(&mut self) {
        let probing = matches!(self.phase, Phase::ProbeRtt { .. });
        self.known_good = if self.recovering.is_none() && !probing {
            self.window
        } else {
            self.known_good.max(self.window)
        };
    }

    fn note_loss(&mut self, delivered: u64) {
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

    fn reset(&mut self) {
        *self = Self::new(self.mss as usize, self.random);
    }
}

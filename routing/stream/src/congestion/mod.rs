//! Congestion control: how much may be in flight. What is lost, and when to send, is decided elsewhere.
mod bbr;
mod cubic;
mod hystart;
mod newreno;

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use newreno::NewReno;

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Packets of the initial window (RFC 6928, D34).
pub const INITIAL_WINDOW_PACKETS: usize = 10;
/// Packets that a window never falls below, also after a timeout: as in RFC 9002 §7.2 two may leave, since with one and
/// a loss of 30 % both ways, every other timeout would be followed by another.
pub const SMALLEST_WINDOW_PACKETS: usize = 2;

/// What one batch of acknowledgements said.
#[derive(Clone, Copy, Debug)]
pub struct AckSample {
    /// When it came.
    pub now: Instant,
    /// Payload bytes newly acknowledged.
    pub bytes: usize,
    /// Round trip of the newest packet in it, if it was sent once.
    pub sample: Option<Duration>,
    /// Smoothed and smallest round trip.
    pub smoothed: Option<Duration>,
    /// Smallest round trip of late.
    pub minimum: Option<Duration>,
    /// A round trip of data has passed since this was last true.
    pub round_start: bool,
    /// The window, and not the program or the peer's window, held back what was sent.
    pub window_limited: bool,
    /// The same, of the congestion window alone and in the last round trip: not the pacer.
    pub window_bound: bool,
    /// Payload bytes in flight after it.
    pub in_flight: usize,
    /// How fast data was delivered, if the batch tells.
    pub rate: Option<RateSample>,
}

/// How fast the path delivered, by the newest packet of a batch of acknowledgements. Volumes are payload bytes.
#[derive(Clone, Copy, Debug)]
pub struct RateSample {
    /// Bytes per second; `None` when the interval was too short to tell.
    pub rate: Option<f64>,
    /// Delivered between the packet's departure and its acknowledgement.
    pub delivered: u64,
    /// Delivered since the stream began, when it left.
    pub prior_delivered: u64,
    /// Lost or marked since it left.
    pub lost: u64,
    /// In flight just after it left.
    pub sent_in_flight: u64,
    /// The program had too little to send then.
    pub app_limited: bool,
}

/// A packet that was deemed lost.
#[derive(Clone, Copy, Debug)]
pub struct LossSample {
    /// When it was.
    pub now: Instant,
    /// Its place in the sequence of packets.
    pub position: u64,
    /// Its payload.
    pub bytes: u64,
    /// Lost or marked since it left, with it.
    pub lost: u64,
    /// In flight just after it left.
    pub sent_in_flight: u64,
    /// The program had too little to send then.
    pub app_limited: bool,
    /// Delivered since the stream began.
    pub delivered: u64,
}

/// Why the window shrinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Congestion {
    /// Packets were lost; at most once per window of data.
    Loss,
    /// The path marked packets; at most once per window of data.
    Ecn,
    /// The retransmission timer ran out.
    Timeout,
}

/// What congestion control believes of the path: for traces. Volumes in payload bytes, rates in bytes per second; `None`
/// where the algorithm knows no such thing, or no bound is set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Model {
    /// What it does at present.
    pub phase: &'static str,
    /// The congestion window.
    pub window: usize,
    /// Payload bytes in flight.
    pub in_flight: usize,
    /// The rate at which packets leave.
    pub pace: Option<u64>,
    /// The largest delivery rate of late.
    pub max_bandwidth: Option<u64>,
    /// The short-term bound of the rate.
    pub bandwidth_bound: Option<u64>,
    /// The long-term bound of the volume in flight.
    pub longterm: Option<u64>,
    /// The short-term one.
    pub shortterm: Option<u64>,
    /// The smallest round trip of late.
    pub min_rtt: Option<Duration>,
    /// Aggregation of acknowledgements.
    pub extra: u64,
    /// The peer's window has no room for a packet that waits.
    pub peer_bound: bool,
}

/// An algorithm that sizes the congestion window. All sizes are payload bytes.
pub trait CongestionControl: Debug + Send {
    /// Bytes that may be in flight.
    fn window(&self) -> usize;
    /// Above this, slow start is over.
    fn slow_start_threshold(&self) -> usize;
    /// Whether the window still grows exponentially.
    fn in_slow_start(&self) -> bool {
        self.window() < self.slow_start_threshold()
    }
    /// What it believes of the path.
    fn model(&self) -> Model {
        Model {
            phase: if self.in_slow_start() {
                "slow start"
            } else {
                "avoidance"
            },
            window: self.window(),
            pace: self.pacing_rate(),
            ..Model::default()
        }
    }
    /// Bytes per second at which to send; `None`: spread the window over the round trip.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }
    /// Sizes the window during recovery as well: hears of every acknowledgement, and nothing else bounds what is sent.
    fn repairs(&self) -> bool {
        false
    }
    /// Sends less than the path takes for reasons of its own, so that the rate says nothing of the path.
    fn holds_back(&self) -> bool {
        false
    }
    /// Data was acknowledged; unless it `repairs`, outside of recovery only.
    fn on_ack(&mut self, ack: &AckSample);
    /// A packet was deemed lost. Comes before `on_congestion` and `on_ack`.
    fn on_lost(&mut self, _loss: &LossSample) {}
    /// Packets were marked "congestion experienced" (counted in the samples' `lost`); `delivered` bytes since the
    /// stream began. Only if it `repairs`; the others hear `on_congestion`.
    fn on_marked(&mut self, _delivered: u64) {}
    /// All that was lost is repaired.
    fn on_recovered(&mut self) {}
    /// Sending starts again with nothing in flight, after the program had nothing to send.
    fn on_restart(&mut self, _now: Instant) {}
    /// Data was lost or marked while `in_flight` bytes were out.
    fn on_congestion(&mut self, now: Instant, kind: Congestion, in_flight: usize);
    /// The last `on_congestion` of kind `Loss` or `Timeout` was a mistake: nothing had been lost.
    fn undo(&mut self, now: Instant);
    /// Nothing was in flight for `idle`, which is longer than the retransmission timeout `rto`.
    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration);
    /// The size of a full packet's payload changed.
    fn set_mss(&mut self, mss: usize);
}

/// Which algorithm a stream uses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Algorithm {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    Cubic,
    /// BBRv3 (draft-ietf-ccwg-bbr).
    #[default]
    Bbr,
    /// NewReno (RFC 5681, RFC 6582), for comparison.
    NewReno,
}

impl Algorithm {
    /// The seed spreads what streams that start together do.
    pub(crate) fn build(self, mss: usize, seed: u64) -> Box<dyn CongestionControl> {
        match self {
            Self::Cubic => Box::new(Cubic::new(mss)),
            Self::Bbr => Box::new(Bbr::new(mss, seed)),
            Self::NewReno => Box::new(NewReno::new(mss)),
        }
    }
}

/// The restart window after idleness: half for each timeout passed, not below the initial window (RFC 2861 §3).
fn decayed(window: usize, mss: usize, idle: Duration, rto: Duration) -> usize {
    let halvings = (idle.as_nanos() / rto.as_nanos().max(1)).min(30) as u32;
    (window >> halvings).max(window.min(INITIAL_WINDOW_PACKETS * mss))
}

//! Congestion control: how much may be in flight. What is lost, and when to send, is decided elsewhere.
mod cubic;
mod hystart;
mod newreno;

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
    /// Data was acknowledged outside of recovery.
    fn on_ack(&mut self, ack: &AckSample);
    /// Data was lost or marked while `in_flight` bytes were out.
    fn on_congestion(&mut self, now: Instant, kind: Congestion, in_flight: usize);
    /// The last `on_congestion` of kind `Loss` or `Timeout` was a mistake: nothing had been lost.
    fn undo(&mut self, now: Instant);
    /// Nothing was in flight for `idle`, which is longer than the retransmission timeout `rto`.
    fn on_idle(&mut self, now: Instant, idle: Duration, rto: Duration);
    /// The size of a full packet's payload changed.
    fn set_mss(&mut self, mss: usize);
    /// Another path: what was learnt of the old one is void.
    fn reset(&mut self);
}

/// Which algorithm a stream uses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Algorithm {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// NewReno (RFC 5681, RFC 6582), for comparison.
    NewReno,
}

impl Algorithm {
    pub(crate) fn build(self, mss: usize) -> Box<dyn CongestionControl> {
        match self {
            Self::Cubic => Box::new(Cubic::new(mss)),
            Self::NewReno => Box::new(NewReno::new(mss)),
        }
    }
}

/// The restart window after idleness: half for each timeout passed, not below the initial window (RFC 2861 §3).
fn decayed(window: usize, mss: usize, idle: Duration, rto: Duration) -> usize {
    let halvings = (idle.as_nanos() / rto.as_nanos().max(1)).min(30) as u32;
    (window >> halvings).max(window.min(INITIAL_WINDOW_PACKETS * mss))
}

//! What a flow does at present, and which acknowledgements come in meanwhile.

use std::time::Instant;

/// What the flow does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
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
    pub(super) fn name(self) -> &'static str {
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

    pub(super) fn pacing_gain(self) -> f64 {
        match self {
            Self::Startup => 2.77,
            Self::Drain { .. } => 0.5,
            Self::Down => 0.9,
            Self::Cruise | Self::Refill | Self::ProbeRtt { .. } => 1.0,
            Self::Up => 1.25,
        }
    }

    pub(super) fn window_gain(self) -> f64 {
        match self {
            Self::Up => 2.25,
            Self::ProbeRtt { .. } => 0.5,
            _ => 2.0,
        }
    }

    /// Probes for bandwidth: loss does not lower the short-term bounds.
    pub(super) fn accelerates(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }

    pub(super) fn is_steady(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }
}

/// Which acknowledgements come in, seen from the last probe for bandwidth (§5.3.3.9, ack_phase).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Feedback {
    None,
    Refilling,
    ProbeStarting,
    OfProbe,
    ProbeStopping,
}

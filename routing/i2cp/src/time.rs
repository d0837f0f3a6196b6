//! The time of one call.
use std::time::{Duration, Instant};

/// Both clocks, read once by the caller. Everything that waits uses the monotonic one; the other is for the dates
/// inside messages, which the router's own date corrects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// Milliseconds since 1970 as this machine believes.
    pub unix_ms: u64,
}

impl std::ops::Add<Duration> for Now {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self {
            instant: self.instant + span,
            unix_ms: self.unix_ms + span.as_millis() as u64,
        }
    }
}

//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970; a clock that stands before that says 0.
pub(crate) fn unix() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

//! Wall-clock time in HELLOs, and what is kept of a peer across restarts (Q5, Q13, Q23).
use super::Pair;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// A clock set before 1970 counts as 1970.
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// What the next HELLO to a peer carries: the greater of the clock and `last` + 1 (Q5). `None` once the numbers
    /// have run out, which only the peer itself can bring about.
    pub(super) fn next(wall: Timestamp, last: Timestamp) -> Option<Timestamp> {
        last.0.checked_add(1).map(|next| Self(next.max(wall.0)))
    }
}

/// What has to survive a restart. Losing it costs a round trip, and what is pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose.
    pub pair: Pair,
    /// The last timestamp sent to it.
    pub sent: Timestamp,
    /// The highest timestamp of its own that led to a session.
    pub seen: Timestamp,
    /// It has done ML-KEM: it must do so again (Q13).
    pub pq: bool,
    /// It has had a session with us: it is not spoken to in plain again (Q23).
    pub sealed: bool,
}

impl Record {
    pub(super) fn new(pair: Pair) -> Self {
        Self {
            pair,
            sent: Timestamp(0),
            seen: Timestamp(0),
            pq: false,
            sealed: false,
        }
    }

    /// Puts together what was known and what was read from disk: nothing goes back.
    pub(super) fn merge(&mut self, other: &Record) {
        self.sent = self.sent.max(other.sent);
        self.seen = self.seen.max(other.seen);
        self.pq |= other.pq;
        self.sealed |= other.sealed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Q5
    #[test]
    fn timestamps_follow_the_clock_and_never_repeat() {
        let next = |wall, last| Timestamp::next(Timestamp(wall), Timestamp(last));
        for (wall, last, expected) in [
            (1000, 0, Some(1000)),
            (1000, 999, Some(1000)),
            (1000, 1000, Some(1001)),
            (1000, 5000, Some(5001)),
            (0, 0, Some(1)),
            (7, u64::MAX, None),
        ] {
            assert_eq!(next(wall, last), expected.map(Timestamp));
        }
    }

    #[test]
    fn a_clock_before_1970_is_1970() {
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Timestamp::from_system(early), Timestamp(0));
        let later = UNIX_EPOCH + Duration::from_micros(7);
        assert_eq!(Timestamp::from_system(later), Timestamp(7));
    }
}

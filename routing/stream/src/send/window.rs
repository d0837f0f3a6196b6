//! The peer's window, and probing it while it is closed: the last acknowledged packet once more (D33).
use crate::recv::WINDOW_UNIT;
use crate::rtt::Rtt;
use std::time::{Duration, Instant};

/// Waits of probes stop doubling here.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Probing of a closed window.
#[derive(Debug)]
struct Probing {
    at: Instant,
    tries: u32,
    due: bool,
}

/// What the peer is ready to take.
#[derive(Default, Debug)]
pub(super) struct PeerWindow {
    /// Its end, as an offset in the stream.
    end: u64,
    probing: Option<Probing>,
    closed_since: Option<Instant>,
    /// The last packet acknowledged when the window closed: position and payload.
    last_acked: Option<(u64, Vec<u8>)>,
}

impl PeerWindow {
    /// The window, in units from offset `first` on (D33: the oldest unacknowledged byte).
    pub(super) fn set(&mut self, first: u64, units: u16) {
        self.end = first + u64::from(units) * WINDOW_UNIT as u64;
    }

    /// Room from offset `from` on.
    pub(super) fn left(&self, from: u64) -> usize {
        self.end.saturating_sub(from) as usize
    }

    /// Starts or stops probing; true: it starts.
    pub(super) fn update(&mut self, now: Instant, blocked: bool, rto: Duration) -> bool {
        if !blocked {
            self.probing = None;
            self.closed_since = None;
            return false;
        }
        self.closed_since.get_or_insert(now);
        if self.probing.is_some() {
            return false;
        }
        self.probing = Some(Probing {
            at: now + rto,
            tries: 0,
            due: false,
        });
        true
    }

    pub(super) fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// Since when it has been closed while there was something to send.
    pub(super) fn closed_since(&self) -> Option<Instant> {
        self.closed_since
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.probing.as_ref().map(|probing| probing.at)
    }

    pub(super) fn on_timeout(&mut self, now: Instant, rtt: &Rtt) {
        if let Some(probing) = &mut self.probing
            && probing.at <= now
        {
            probing.tries += 1;
            probing.due = true;
            probing.at = now + rtt.rto_after(probing.tries).min(LONGEST_WAIT);
        }
    }

    /// A probe that is due: the position to repeat (0: the S_OPEN).
    pub(super) fn poll(&mut self) -> Option<u64> {
        let probing = self.probing.as_mut().filter(|p| p.due)?;
        probing.due = false;
        Some(
            self.last_acked
                .as_ref()
                .map_or(0, |&(position, _)| position),
        )
    }

    /// The payload of the packet to repeat.
    pub(super) fn last_acked(&self) -> &[u8] {
        self.last_acked.as_ref().map_or(&[], |(_, bytes)| bytes)
    }

    pub(super) fn keep_last_acked(&mut self, last: Option<(u64, Vec<u8>)>) {
        self.last_acked = last;
    }

    /// Nothing is to be sent any more.
    pub(super) fn clear(&mut self) {
        self.probing = None;
        self.last_acked = None;
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.last_acked
            .as_ref()
            .map_or(0, |(_, bytes)| bytes.capacity())
    }
}

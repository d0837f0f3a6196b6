//! Whether a peer still hears us, and we it: what makes its paths be asked (DESIGN §7).
use super::Peer;
use crate::anode::Place;
use crate::anode::path::{Path, State};
use std::time::{Duration, Instant};

/// Stream data that stops for so long may have lost its way to us.
const QUIET_AFTER: Duration = Duration::from_secs(3);
/// The same, where so much of it came that it was a transfer, and not somebody who types.
const TRANSFER_QUIET_AFTER: Duration = Duration::from_millis(200);
/// Packets that make a transfer.
const TRANSFER: u32 = 32;
/// A path that was proven so recently is not questioned because the peer questions its own, or has left it.
const QUESTION_AGAIN: Duration = Duration::from_millis(250);
/// Something was sent that wants an answer, and nothing authentic came: the shortest wait before the paths are questioned (DESIGN §7).
const ANSWER_WITHIN: Duration = Duration::from_millis(150);
/// The other side may keep an acknowledgement for so long (D31).
const ANSWER_KEPT: Duration = Duration::from_millis(25);
/// Every packet of a transfer is noted, and most of them cost one comparison.
const QUIET_STEP: Duration = Duration::from_millis(50);

impl Peer {
    /// Traffic of this peer has come from a place. True: from another one than before.
    pub fn has_moved_traffic(&mut self, from: Place) -> bool {
        self.came_from != Some(from) && self.came_from.replace(from).is_some()
    }

    /// The peer questions its paths, or uses another one than before: ours may be as dead as its. `over`: the path that it
    /// asks over, which is alive by that; where it is the one that we use, nothing is in doubt. True if there is something
    /// to ask.
    pub fn question_paths(&mut self, now: Instant, over: Option<&Place>) -> bool {
        let used = self.active_path().map(|path| path.endpoint);
        if over.is_some_and(|over| used.is_none_or(|used| used == *over)) {
            return false;
        }
        let mut any = false;
        for path in &mut self.paths {
            let asks = match path.state {
                // The other relays of the peer.
                State::Candidate => path.is_relayed(),
                State::Probing { .. } => false,
                State::Proven { .. } => path.proven_before(now, QUESTION_AGAIN),
            };
            any |= asks && over != Some(&path.endpoint) && path.question(now);
        }
        any
    }

    /// Traffic goes to this peer; `wants_answer`: something must come back. True if its timers may have to change.
    pub fn note_use(&mut self, now: Instant, wants_answer: bool) -> bool {
        self.touched = now;
        let stale = self
            .last_used
            .is_none_or(|at| now.duration_since(at) > Duration::from_secs(1));
        if stale {
            self.last_used = Some(now);
        }
        let first_question = wants_answer && self.awaiting.is_none();
        if first_question {
            self.awaiting = Some(now);
        }
        stale || first_question
    }

    /// Something authentic came from it.
    pub fn note_heard(&mut self, now: Instant, bytes: usize) {
        self.last_heard = Some(now);
        self.touched = now;
        self.awaiting = None;
        self.rx_bytes += bytes as u64;
    }

    /// When its silence becomes suspicious.
    pub fn silence_deadline(&self) -> Option<Instant> {
        let since = self.awaiting.filter(|_| self.active_path().is_some())?;
        Some(since + self.answer_within())
    }

    /// How long an answer over the used path may take before it is questioned.
    fn answer_within(&self) -> Duration {
        let rtt = self.active_path().and_then(|path| path.rtt);
        (rtt.unwrap_or_default() * 2 + ANSWER_KEPT).max(ANSWER_WITHIN)
    }

    /// Stream data has come. True if the peer's timer has to be set.
    pub fn note_stream_data(&mut self, now: Instant) -> bool {
        self.flowing = self.flowing.saturating_add(1);
        let noted = self.quiet_noted.is_some_and(|at| now < at + QUIET_STEP);
        if noted && self.flowing != TRANSFER {
            return false;
        }
        let patience = match self.flowing {
            TRANSFER.. => self.answer_within().max(TRANSFER_QUIET_AFTER),
            _ => QUIET_AFTER,
        };
        self.quiet_noted = Some(now);
        self.quiet_check = Some(now + patience);
        true
    }

    /// Data that was flowing has stopped: true once.
    pub fn has_fallen_quiet(&mut self, now: Instant) -> bool {
        let quiet = self.quiet_check.take_if(|at| *at <= now).is_some();
        if quiet {
            self.flowing = 0;
            self.quiet_noted = None;
        }
        quiet
    }

    /// The silence was noticed: ask again only after the next question of ours.
    pub fn clear_awaiting(&mut self) {
        self.awaiting = None;
    }

    /// The used path owes an answer.
    pub fn is_suspect(&self) -> bool {
        self.active_path().is_some_and(Path::is_suspect)
    }
}

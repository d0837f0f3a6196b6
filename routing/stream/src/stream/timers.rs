//! Deadlines and what happens when they pass.
use super::{CLOSE_TRIES, HELD_FOR, Live, RELEASE_AFTER, State};
use crate::CloseReason;
use crate::recv::Receiver;
use std::time::{Duration, Instant};

const LONGEST_CLOSE_WAIT: Duration = Duration::from_secs(60);

/// The earliest of some deadlines.
#[derive(Default)]
struct Earliest(Option<(Instant, &'static str)>);

impl Earliest {
    fn consider(&mut self, at: Instant, why: &'static str) {
        if self.0.is_none_or(|(first, _)| at < first) {
            self.0 = Some((at, why));
        }
    }
}

impl Live {
    /// When `handle_timeout` wants to be called, and why.
    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let mut first = Earliest::default();
        match &self.state {
            State::Opening(opening) => first.consider(opening.deadline(), "open"),
            State::Held { since } => first.consider(*since + HELD_FOR, "unanswered open"),
            State::Answering(opening) => {
                first.consider(opening.deadline(), "open");
                self.consider_live(&mut first);
            }
            State::Open => self.consider_live(&mut first),
            State::Refused { until, .. } => first.consider(*until, "linger"),
            State::Aborting(aborting) => first.consider(aborting.next, "close"),
            State::Lingering { until } => first.consider(*until, "linger"),
            State::Draining | State::Closed => {}
        }
        first.0
    }

    fn consider_live(&self, first: &mut Earliest) {
        if let Some((at, why)) = self.send.deadline() {
            first.consider(at, why);
        }
        if let Some(at) = self.acks.deadline() {
            first.consider(at, "acknowledgement");
        }
        if let Some(since) = self.send.stalled_since() {
            first.consider(since + self.config.stall_timeout, "stall");
        }
        if let Some(since) = self.send.zero_window_since() {
            first.consider(since + self.config.zero_window_timeout, "closed window");
        }
        if !self.released {
            first.consider(self.active + RELEASE_AFTER, "idle buffers");
        }
    }

    /// A deadline has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Opening(opening) | State::Answering(opening) => {
                let goes_on = opening.on_timeout(now);
                if !goes_on {
                    return self.give_up();
                }
            }
            State::Held { since } if *since + HELD_FOR <= now => {
                self.give_up();
                return;
            }
            State::Refused { until, .. } if *until <= now => self.closed(),
            State::Aborting(aborting) if aborting.next <= now => {
                if aborting.tries >= CLOSE_TRIES {
                    self.closed();
                    return;
                }
                aborting.tries += 1;
                aborting.send = true;
                aborting.wait = (aborting.wait * 2).min(LONGEST_CLOSE_WAIT);
                aborting.next = now + aborting.wait;
            }
            State::Lingering { until } if *until <= now => self.end_linger(),
            _ => {}
        }
        if matches!(self.state, State::Answering(_) | State::Open) {
            self.live_timeout(now);
        }
    }

    fn live_timeout(&mut self, now: Instant) {
        let passed =
            |since: Option<Instant>, limit: Duration| since.is_some_and(|s| s + limit <= now);
        let stalled = passed(self.send.stalled_since(), self.config.stall_timeout);
        let closed_out = passed(
            self.send.zero_window_since(),
            self.config.zero_window_timeout,
        );
        if stalled || closed_out {
            self.fail(now, CloseReason::TimedOut);
            return;
        }
        self.send.on_timeout(now, &mut self.counters);
        // D35: a close that nobody acknowledges, while nothing else is heard either.
        let silent = self.send.recovery.backoff() > CLOSE_TRIES;
        if silent
            && self
                .send
                .lone_close_tries()
                .is_some_and(|tries| tries >= CLOSE_TRIES)
        {
            self.fail(now, CloseReason::TimedOut);
            return;
        }
        if !self.released && self.active + RELEASE_AFTER <= now {
            self.released = true;
            self.send.release();
            if self.recv.as_mut().is_some_and(Receiver::release) {
                self.acks.at_once();
            }
        }
    }

    /// The handshake came to nothing.
    fn give_up(&mut self) {
        self.aborted(CloseReason::TimedOut, false);
        self.closed();
    }

    /// The linger time is over: the end, unless the program still has to read.
    fn end_linger(&mut self) {
        if self.finished {
            self.closed()
        } else {
            self.state = State::Draining
        }
    }
}

//! The sending half's deadlines.
use super::{Closing, Sender};
use crate::Counters;
use crate::congestion::Congestion;
use crate::recovery::Timer;
use std::time::Instant;

impl Sender {
    /// What wakes the sending half next.
    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let mut first: Option<(Instant, &'static str)> = None;
        let mut consider = |at: Instant, why: &'static str| {
            if first.is_none_or(|(f, _)| at < f) {
                first = Some((at, why));
            }
        };
        if let Some((at, timer)) = self.recovery.timer(&self.board, &self.rtt) {
            consider(
                at,
                match timer {
                    Timer::Reordering => "reordering",
                    Timer::Probe => "tail-loss probe",
                    Timer::Retransmit => "retransmission",
                },
            );
        }
        if self.pacing_held {
            consider(self.pacer.ready_at(), "pacing");
        }
        if let Some(at) = self.peer.deadline() {
            consider(at, "zero-window probe");
        }
        first
    }

    /// Since when nothing has moved, if something should.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        (self.board.is_outstanding() || self.peer.is_probing()).then_some(self.progress)
    }

    /// Since when the peer's window has been closed while there was something to send.
    pub(crate) fn zero_window_since(&self) -> Option<Instant> {
        self.peer.closed_since()
    }

    /// Times that S_CLOSE was sent, once it is all that waits for an acknowledgement.
    pub(crate) fn lone_close_tries(&self) -> Option<u32> {
        match self.closing {
            Closing::Sent(position) if self.board.una() == position => Some(self.close_tries),
            _ => None,
        }
    }

    /// Timers that ran out.
    pub(crate) fn on_timeout(&mut self, now: Instant, counters: &mut Counters) {
        self.note_program();
        self.peer.on_timeout(now, &self.rtt);
        let Some((at, timer)) = self.recovery.timer(&self.board, &self.rtt) else {
            return;
        };
        if at > now {
            return;
        }
        match timer {
            Timer::Reordering => {
                let in_flight = self.board.in_flight();
                let lost = self.recovery.detect(now, &mut self.board, &self.rtt);
                self.tell_losses(now);
                if lost > 0 && !self.recovery.in_recovery() {
                    self.begin_recovery(now, in_flight, counters);
                    self.repace(now);
                }
            }
            Timer::Probe => self.probe_due = true,
            Timer::Retransmit => {
                counters.timeouts += 1;
                let in_flight = self.board.in_flight();
                let first = self.recovery.on_timeout(now, &mut self.board);
                self.tell_losses(now);
                if first {
                    self.control
                        .on_congestion(now, Congestion::Timeout, in_flight);
                    self.reduced_until = self.board.next();
                }
                self.repace(now);
            }
        }
    }

    /// There is a way again: what waited for the timer need not wait any longer.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.recovery.resume(now, &self.rtt);
    }
}

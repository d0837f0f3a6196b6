//! What acknowledgements and marks do to the sending half.
use super::{AckResult, Closing, Sender};
use crate::congestion::{AckSample, Congestion, LossSample};
use crate::recovery::Verdict;
use crate::scoreboard::Acked;
use crate::{Counters, seq};
use std::ops::Range;
use std::time::Instant;

impl Sender {
    /// Acknowledges one range.
    fn ack_range(&mut self, now: Instant, range: Range<u64>, acked: &mut Acked) {
        let soonest = self.rtt.minimum().unwrap_or_default();
        self.board.ack(now, range, soonest, acked);
    }

    /// A message's acknowledgements and window.
    pub(crate) fn on_acks(
        &mut self,
        now: Instant,
        acks: impl Iterator<Item = (u32, u8)>,
        window: u16,
        counters: &mut Counters,
    ) -> AckResult {
        self.note_program();
        let mut acked = Acked::default();
        let mut covers_highest = false;
        let mut result = AckResult::Nothing;
        let in_flight = self.board.in_flight();
        let una = self.board.una();
        for (first, count) in acks {
            if count == 0 {
                self.on_marks(now, first, counters);
                continue;
            }
            // Relative to una as it was, so that a number's meaning does not move within a message.
            let Some(start) = seq::position(first, self.isn, una) else {
                continue;
            };
            let end = start + u64::from(count);
            if end > self.board.next() {
                result = AckResult::Unsent;
                continue;
            }
            covers_highest |= end > self.board.highest_acked();
            self.ack_range(now, start..end, &mut acked);
        }
        if acked.packets == 0 {
            if covers_highest {
                self.set_window(now, window);
            }
            return result;
        }
        counters.spurious += u64::from(acked.spurious);
        self.progress = now;
        self.sampler.acked(now, &acked);
        if let Some(sent) = acked.sample_of {
            self.rtt.sample(now, now.saturating_duration_since(sent));
        }
        if let Closing::Sent(position) = self.closing
            && self.board.una() > position
        {
            self.closing = Closing::Acked;
        }
        self.after_progress(now, &acked, in_flight, self.board.una() > una, counters);
        self.free(window == 0);
        self.charge();
        self.set_window(now, window);
        if result == AckResult::Nothing {
            AckResult::Progress
        } else {
            result
        }
    }

    /// Loss recovery and congestion control, after the scoreboard.
    fn after_progress(
        &mut self,
        now: Instant,
        acked: &Acked,
        in_flight: usize,
        advanced: bool,
        counters: &mut Counters,
    ) {
        let round_start = acked.highest >= Some(self.round_end);
        if round_start {
            self.round_end = self.board.next();
        }
        let repairs = self.control.repairs();
        let grows = repairs || self.recovery.may_grow();
        let was_in_recovery = self.recovery.in_recovery();
        let verdict = self.recovery.on_ack(now, acked, &mut self.board, &self.rtt);
        self.tell_losses(now);
        match verdict {
            Verdict::Nothing => {}
            Verdict::Reduce => self.begin_recovery(now, in_flight, counters),
            Verdict::Undo => {
                self.control.undo(now);
                // RFC 4015 §4: the timer learns what it had not known.
                if let Some(sent) = acked.late {
                    self.rtt.sample(now, now.saturating_duration_since(sent));
                }
                counters.undone += 1;
            }
        }
        if was_in_recovery && !self.recovery.in_recovery() && verdict != Verdict::Undo {
            self.control.on_recovered();
        }
        if grows && (repairs || self.recovery.may_grow()) {
            let sample = acked
                .sample_of
                .map(|sent| now.saturating_duration_since(sent));
            // RFC 9438 §5.8 and Linux: in slow start, half a window in flight counts as using it.
            let half = self.control.in_slow_start() && in_flight * 2 > self.control.window();
            self.control.on_ack(&AckSample {
                now,
                bytes: acked.bytes,
                sample,
                smoothed: self.rtt.smoothed(),
                minimum: self.rtt.minimum(),
                round_start,
                window_limited: self.limited || half,
                window_bound: acked.highest < Some(self.bound_until),
                in_flight: self.board.in_flight(),
                rate: self.sampler.sample(now, acked, self.rtt.minimum()),
            });
            if self.control.holds_back() {
                self.sampler.app_limited(self.board.in_flight());
            }
            if round_start {
                self.limited = false;
            }
        }
        let threshold = self.control.slow_start_threshold();
        self.recovery.reduce_proportionally(
            acked.bytes,
            advanced,
            &self.board,
            threshold,
            self.mss,
        );
        self.repace(now);
    }

    /// Tells congestion control of every packet deemed lost since the last time.
    pub(super) fn tell_losses(&mut self, now: Instant) {
        for (position, packet) in self.board.take_losses() {
            self.sampler.lost(u64::from(packet.len));
            self.control.on_lost(&LossSample {
                now,
                position,
                bytes: u64::from(packet.len),
                lost: self.sampler.lost_since(&packet.snapshot),
                sent_in_flight: packet.snapshot.in_flight(),
                app_limited: packet.snapshot.is_app_limited(),
                delivered: self.sampler.delivered(),
            });
        }
    }

    pub(super) fn begin_recovery(
        &mut self,
        now: Instant,
        in_flight: usize,
        counters: &mut Counters,
    ) {
        counters.loss_events += 1;
        self.control.on_congestion(now, Congestion::Loss, in_flight);
        self.reduced_until = self.board.next();
        self.recovery.begin(&self.board, in_flight);
        let threshold = self.control.slow_start_threshold();
        self.recovery
            .reduce_proportionally(0, false, &self.board, threshold, self.mss);
    }

    /// The peer has seen `marks` marked packets: reduce once per window of data (RFC 3168 §6.1.2), unless congestion
    /// control weighs every mark itself.
    fn on_marks(&mut self, now: Instant, marks: u32, counters: &mut Counters) {
        let news = marks.wrapping_sub(self.marks_heard);
        if news == 0 || u64::from(news) > self.board.next() || news > u32::MAX / 2 {
            return;
        }
        self.marks_heard = marks;
        counters.marks += u64::from(news);
        if self.control.repairs() {
            self.sampler.lost(u64::from(news) * self.mss as u64);
            self.control.on_marked(self.sampler.delivered());
            return;
        }
        if self.board.una() >= self.reduced_until && !self.recovery.in_recovery() {
            self.control
                .on_congestion(now, Congestion::Ecn, self.board.in_flight());
            self.reduced_until = self.board.next();
            self.repace(now);
        }
    }

    /// Drops acknowledged bytes; keeps the last packet's when the window closed, for probing.
    fn free(&mut self, window_closed: bool) {
        let first = self.first_unacked();
        let freed = first > self.buffer.base();
        if window_closed && freed {
            let last = self
                .board
                .last_acked()
                .filter(|p| p.offset >= self.buffer.base());
            let copy = last.map(|p| {
                let bytes = self.buffer.copy(p.offset, p.len as usize);
                (self.board.una() - 1, bytes)
            });
            self.peer.keep_last_acked(copy);
        } else if !window_closed {
            self.peer.keep_last_acked(None);
        }
        self.buffer.free_below(first);
    }
}

//! The sending half: the buffer of bytes not yet acknowledged, what may leave when, and what acknowledgements do.
use crate::congestion::{AckSample, Algorithm, Congestion, CongestionControl};
use crate::pacing::Pacer;
use crate::recovery::{Recovery, Timer, Verdict};
use crate::recv::WINDOW_UNIT;
use crate::ring::Ring;
use crate::rtt::Rtt;
use crate::scoreboard::{Acked, Scoreboard};
use crate::{Counters, seq};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Payload of a full packet until the first one shows its size (D36, with short addresses).
const DEFAULT_MSS: usize = 1196;
/// The send buffer before the congestion window has shown that more is useful.
const SMALLEST_BUFFER: usize = 64 * 1024;
/// Waits of zero-window probes stop doubling here.
const LONGEST_PERSIST: Duration = Duration::from_secs(60);
/// How often the send position is noted, and how many notes make up 10 s (Q22).
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
const NOTES: usize = 11;

/// How far the close of this direction has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    /// The program may still write.
    No,
    /// S_CLOSE follows the last data.
    Wanted,
    /// Sent, at this position.
    Sent(u64),
    Acked,
}

/// What to put on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) again: bool,
    pub(crate) close: bool,
}

/// A probe of a closed window: the last acknowledged packet once more (D33).
#[derive(Debug)]
struct Persist {
    at: Instant,
    tries: u32,
    due: bool,
}

/// What a message's acknowledgements did to the sending half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AckResult {
    Nothing,
    Progress,
    /// They name what was never sent.
    Unsent,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    isn: u32,
    ring: Ring,
    /// Offset in the stream of the ring's first byte, and of the first byte never sent.
    base: u64,
    unsent: u64,
    pub(crate) board: Scoreboard,
    pub(crate) recovery: Recovery,
    pub(crate) rtt: Rtt,
    control: Box<dyn CongestionControl>,
    pacer: Pacer,
    pub(crate) closing: Closing,
    close_tries: u32,
    /// End of the peer's window, as an offset.
    window_end: u64,
    persist: Option<Persist>,
    zero_since: Option<Instant>,
    /// The last packet acknowledged when the window closed.
    last_acked: Option<(u64, Vec<u8>)>,
    max_buffer: usize,
    mss: usize,
    probe_due: bool,
    /// The window has held something back since the round began.
    limited: bool,
    pacing_held: bool,
    round_end: u64,
    reduced_until: u64,
    marks_heard: u32,
    /// Since when something is outstanding without progress.
    progress: Instant,
    notes: VecDeque<(Instant, u64)>,
    scratch: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(now: Instant, isn: u32, algorithm: Algorithm, max_buffer: usize) -> Self {
        Self {
            isn,
            ring: Ring::default(),
            base: 0,
            unsent: 0,
            board: Scoreboard::new(1),
            recovery: Recovery::new(now),
            rtt: Rtt::default(),
            control: algorithm.build(DEFAULT_MSS),
            pacer: Pacer::new(now),
            closing: Closing::No,
            close_tries: 0,
            window_end: 0,
            persist: None,
            zero_since: None,
            last_acked: None,
            max_buffer,
            mss: DEFAULT_MSS,
            probe_due: false,
            limited: false,
            pacing_held: false,
            round_end: 1,
            reduced_until: 0,
            marks_heard: 0,
            progress: now,
            notes: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn isn(&self) -> u32 {
        self.isn
    }

    pub(crate) fn sequence(&self, position: u64) -> u32 {
        seq::on_wire(self.isn, position)
    }

    pub(crate) fn position(&self, sequence: u32) -> Option<u64> {
        seq::position(sequence, self.isn, self.board.una())
    }

    /// The number that a close would take now.
    pub(crate) fn close_sequence(&self) -> u32 {
        self.sequence(self.board.next())
    }

    /// Bytes written and not acknowledged.
    pub(crate) fn buffered(&self) -> usize {
        self.ring.len()
    }

    fn unsent_len(&self) -> usize {
        self.ring.len() - (self.unsent - self.base) as usize
    }

    /// The bound of the buffer: twice what may be in flight, so that the program has time to refill it.
    fn buffer_limit(&self) -> usize {
        (2 * self.control.window()).clamp(SMALLEST_BUFFER.min(self.max_buffer), self.max_buffer)
    }

    pub(crate) fn capacity(&self) -> usize {
        match self.closing {
            Closing::No => self.buffer_limit().saturating_sub(self.ring.len()),
            _ => 0,
        }
    }

    /// Room worth waking the program for.
    pub(crate) fn has_room(&self) -> bool {
        self.capacity() >= self.buffer_limit() / 4
    }

    /// Something waits to be sent for the first time.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent_len() > 0
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        let len = data.len().min(self.capacity());
        self.ring.push(&data[..len]);
        len
    }

    pub(crate) fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Wanted;
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.closing == Closing::Acked
    }

    fn window_left(&self) -> usize {
        self.window_end.saturating_sub(self.unsent) as usize
    }

    /// Bytes that may be in flight.
    pub(crate) fn congestion_window(&self) -> usize {
        self.recovery
            .window()
            .unwrap_or_else(|| self.control.window())
    }

    /// Something to send, but the peer's window is closed and nothing is out that could bring news.
    fn is_blocked_by_peer(&self) -> bool {
        self.unsent_len() > 0 && !self.board.is_outstanding() && self.window_left() == 0
    }

    /// The payload of a full packet on this path.
    pub(crate) fn set_mss(&mut self, mss: usize) {
        if self.mss != mss && mss > 0 {
            self.mss = mss;
            self.control.set_mss(mss);
        }
    }

    /// The next packet to leave now; `room` is what a new packet's payload may take.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        room: usize,
        counters: &mut Counters,
    ) -> Option<Outgoing> {
        self.pacing_held = false;
        if self.probe_due {
            self.probe_due = false;
            if let Some(out) = self.tail_loss_probe(now, room, counters) {
                return Some(out);
            }
        }
        if !self.board.has_lost() && self.unsent_len() == 0 && self.closing != Closing::Wanted {
            return None;
        }
        if !self.pacer.may_send(now) {
            self.pacing_held = true;
            // The pacer spreads a window, it does not limit it.
            self.limited = true;
            return None;
        }
        let budget = self
            .congestion_window()
            .saturating_sub(self.board.in_flight());
        let idle = self.board.in_flight() == 0;
        if let Some((position, packet)) = self.board.next_lost() {
            if packet.len as usize > budget && !idle {
                self.limited = true;
                return None;
            }
            return Some(self.send_again(now, position, counters));
        }
        self.send_new(now, room, budget, idle, counters)
    }

    fn send_new(
        &mut self,
        now: Instant,
        room: usize,
        budget: usize,
        idle: bool,
        counters: &mut Counters,
    ) -> Option<Outgoing> {
        if self.board.is_full() {
            return None;
        }
        let unsent = self.unsent_len();
        if unsent == 0 {
            return (self.closing == Closing::Wanted).then(|| self.send_close(now, counters));
        }
        let len = unsent.min(room);
        if len == 0 {
            return None;
        }
        if len > budget && !idle {
            self.limited = true;
            return None;
        }
        let left = self.window_left();
        // RFC 9293 §3.8.6.2.1: a sliver of window is not worth a packet while others are out.
        let len = if left >= len {
            len
        } else if left > 0 && !self.board.is_outstanding() {
            left
        } else {
            return None;
        };
        Some(self.send_bytes(now, len, counters))
    }

    fn send_bytes(&mut self, now: Instant, len: usize, counters: &mut Counters) -> Outgoing {
        let was_idle = !self.board.is_outstanding();
        if was_idle {
            self.restart(now);
        }
        let offset = self.unsent;
        let position = self.board.sent(now, offset, len as u32);
        self.unsent += len as u64;
        self.note(now);
        self.account(now, len, false, was_idle);
        counters.data_sent += 1;
        counters.bytes_sent += len as u64;
        Outgoing {
            position,
            offset,
            len,
            again: false,
            close: false,
        }
    }

    fn send_close(&mut self, now: Instant, counters: &mut Counters) -> Outgoing {
        let was_idle = !self.board.is_outstanding();
        if was_idle {
            self.progress = now;
        }
        let position = self.board.sent(now, self.unsent, 0);
        self.closing = Closing::Sent(position);
        self.close_tries = 1;
        self.account(now, 0, false, was_idle);
        counters.closes_sent += 1;
        Outgoing {
            position,
            offset: self.unsent,
            len: 0,
            again: false,
            close: true,
        }
    }

    fn send_again(&mut self, now: Instant, position: u64, counters: &mut Counters) -> Outgoing {
        self.board.resent(now, position);
        let (offset, len) = self
            .board
            .get(position)
            .map_or((self.base, 0), |p| (p.offset, p.len as usize));
        let close = self.closing == Closing::Sent(position);
        if close {
            self.close_tries += 1;
        }
        self.account(now, len, true, false);
        counters.retransmitted += 1;
        Outgoing {
            position,
            offset,
            len,
            again: true,
            close,
        }
    }

    fn account(&mut self, now: Instant, len: usize, again: bool, was_idle: bool) {
        self.recovery.on_sent(now, len, again, was_idle);
        self.pacer.sent(now, len);
    }

    /// Sending starts after a pause: the window may be out of date (RFC 5681 §4.1).
    fn restart(&mut self, now: Instant) {
        self.progress = now;
        let idle = now.saturating_duration_since(self.recovery.last_sent());
        let rto = self.rtt.rto();
        if idle > rto && self.board.next() > 1 {
            self.control.on_idle(now, idle, rto);
            self.repace(now);
        }
    }

    /// RFC 8985 §7.3: new data if there is any, else the newest packet again. Neither window holds it back.
    fn tail_loss_probe(
        &mut self,
        now: Instant,
        room: usize,
        counters: &mut Counters,
    ) -> Option<Outgoing> {
        counters.probes += 1;
        let len = self.unsent_len().min(room).min(self.window_left());
        let out = if len > 0 && !self.board.is_full() {
            self.send_bytes(now, len, counters)
        } else {
            let position = self.board.newest_unacked()?;
            self.send_again(now, position, counters)
        };
        self.recovery.on_probe(&self.board, out.again);
        Some(out)
    }

    /// The payload of what `poll` returned, in one piece. The rare one that wraps around the ring's end is copied.
    pub(crate) fn payload(&mut self, out: &Outgoing) -> Payload {
        let start = (out.offset - self.base) as usize;
        let (a, b) = self.ring.range(start, out.len);
        if b.is_empty() {
            return Payload::Ring {
                start,
                len: out.len,
            };
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(a);
        self.scratch.extend_from_slice(b);
        Payload::Scratch
    }

    /// The bytes that `payload` or `poll_persist` spoke of.
    pub(crate) fn bytes(&self, payload: Payload) -> &[u8] {
        match payload {
            Payload::Ring { start, len } => self.ring.range(start, len).0,
            Payload::Scratch => &self.scratch,
            Payload::LastAcked => self.last_acked.as_ref().map_or(&[], |(_, bytes)| bytes),
        }
    }

    /// A zero-window probe that is due: the position to repeat (0: the S_OPEN).
    pub(crate) fn poll_persist(&mut self, counters: &mut Counters) -> Option<u64> {
        let persist = self.persist.as_mut().filter(|p| p.due)?;
        persist.due = false;
        counters.window_probes += 1;
        Some(
            self.last_acked
                .as_ref()
                .map_or(0, |(position, _)| *position),
        )
    }

    /// The peer's window, as of an acknowledgement up to `newest`.
    pub(crate) fn set_window(&mut self, now: Instant, window: u16) {
        // Counted from the oldest unacknowledged byte (D33).
        let first = self.board.first().map_or(self.unsent, |p| p.offset);
        self.window_end = first + u64::from(window) * WINDOW_UNIT as u64;
        self.update_persist(now);
    }

    /// Starts or stops probing the peer's window.
    pub(crate) fn update_persist(&mut self, now: Instant) {
        if !self.is_blocked_by_peer() {
            self.persist = None;
            self.zero_since = None;
            return;
        }
        self.zero_since.get_or_insert(now);
        if self.persist.is_none() {
            self.progress = now;
            self.persist = Some(Persist {
                at: now + self.rtt.rto(),
                tries: 0,
                due: false,
            });
        }
    }

    /// The peer answered while its window was closed: it lives.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.persist.is_some() {
            self.progress = now;
        }
    }

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
        let grows = self.recovery.may_grow();
        match self.recovery.on_ack(now, acked, &mut self.board, &self.rtt) {
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
        if grows && self.recovery.may_grow() {
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
            });
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

    fn begin_recovery(&mut self, now: Instant, in_flight: usize, counters: &mut Counters) {
        counters.loss_events += 1;
        self.control.on_congestion(now, Congestion::Loss, in_flight);
        self.reduced_until = self.board.next();
        self.recovery.begin(&self.board, in_flight);
        let threshold = self.control.slow_start_threshold();
        self.recovery
            .reduce_proportionally(0, false, &self.board, threshold, self.mss);
    }

    /// The peer has seen `marks` marked packets: reduce once per window of data (RFC 3168 §6.1.2).
    fn on_marks(&mut self, now: Instant, marks: u32, counters: &mut Counters) {
        let news = marks.wrapping_sub(self.marks_heard);
        if news == 0 || u64::from(news) > self.board.next() || news > u32::MAX / 2 {
            return;
        }
        self.marks_heard = marks;
        counters.marks += u64::from(news);
        if self.board.una() >= self.reduced_until && !self.recovery.in_recovery() {
            self.control
                .on_congestion(now, Congestion::Ecn, self.board.in_flight());
            self.reduced_until = self.board.next();
            self.repace(now);
        }
    }

    fn repace(&mut self, now: Instant) {
        let gain = if self.control.in_slow_start() {
            2.0
        } else {
            1.25
        };
        let window = self.congestion_window().max(self.mss);
        self.pacer
            .set_rate(now, window, self.rtt.smoothed(), gain, self.mss);
    }

    /// Drops acknowledged bytes; keeps the last packet's when the window closed, for probing.
    fn free(&mut self, window_closed: bool) {
        let first = self.board.first().map_or(self.unsent, |p| p.offset);
        let count = (first - self.base) as usize;
        if window_closed && count > 0 {
            let last = self.board.last_acked().filter(|p| p.offset >= self.base);
            self.last_acked = last.map(|p| {
                let (a, b) = self
                    .ring
                    .range((p.offset - self.base) as usize, p.len as usize);
                (self.board.una() - 1, [a, b].concat())
            });
        } else if !window_closed {
            self.last_acked = None;
        }
        self.ring.consume(count);
        self.base = first;
    }

    /// Notes where sending stands, once a second.
    fn note(&mut self, now: Instant) {
        if self
            .notes
            .back()
            .is_none_or(|&(at, _)| now.saturating_duration_since(at) >= NOTE_INTERVAL)
        {
            if self.notes.len() == NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back((now, self.board.next() - 1));
        }
    }

    /// Whether a number lies in the send window or was sent in the last 10 s (Q22).
    pub(crate) fn sent_lately(&self, now: Instant, sequence: u32) -> bool {
        let Some(position) = self.position(sequence) else {
            return false;
        };
        let lately = self
            .notes
            .iter()
            .find(|(at, _)| now.saturating_duration_since(*at) <= crate::acks::RESET_MEMORY);
        let oldest = lately.map_or(self.board.una(), |&(_, first)| first.min(self.board.una()));
        position >= oldest && position < self.board.next()
    }

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
        if let Some(persist) = &self.persist {
            consider(persist.at, "zero-window probe");
        }
        first
    }

    /// Since when nothing has moved, if something should.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        (self.board.is_outstanding() || self.persist.is_some()).then_some(self.progress)
    }

    /// Since when the peer's window has been closed while there was something to send.
    pub(crate) fn zero_window_since(&self) -> Option<Instant> {
        self.zero_since
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
        if let Some(persist) = &mut self.persist
            && persist.at <= now
        {
            persist.tries += 1;
            persist.due = true;
            persist.at = now + self.rtt.rto_after(persist.tries).min(LONGEST_PERSIST);
        }
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
                if lost > 0 && !self.recovery.in_recovery() {
                    self.begin_recovery(now, in_flight, counters);
                    self.repace(now);
                }
            }
            Timer::Probe => self.probe_due = true,
            Timer::Retransmit => {
                counters.timeouts += 1;
                let in_flight = self.board.in_flight();
                if self.recovery.on_timeout(now, &mut self.board) {
                    self.control
                        .on_congestion(now, Congestion::Timeout, in_flight);
                    self.reduced_until = self.board.next();
                }
                self.repace(now);
            }
        }
    }

    /// Another path is in use: round trip, window and pace start anew (RFC 9000 §9.4 does the same).
    pub(crate) fn path_changed(&mut self, now: Instant, rtt: Option<Duration>) {
        self.rtt.reset(now, rtt);
        self.control.reset();
        self.repace(now);
    }

    /// Drops all that was to be sent.
    pub(crate) fn clear(&mut self) {
        self.ring.clear();
        self.board = Scoreboard::new(self.board.next());
        self.base = self.unsent;
        self.persist = None;
        self.last_acked = None;
        self.probe_due = false;
        self.pacing_held = false;
        self.scratch = Vec::new();
    }

    pub(crate) fn set_max_buffer(&mut self, max: usize) {
        self.max_buffer = max;
    }

    /// Gives memory back while nothing is buffered.
    pub(crate) fn release(&mut self) {
        self.ring.release();
        self.board.release();
        self.scratch = Vec::new();
    }

    /// Bytes allocated, about.
    pub(crate) fn memory(&self) -> usize {
        self.ring.capacity() + self.board.memory() + self.scratch.capacity()
    }
}

/// Where a payload's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    Ring { start: usize, len: usize },
    Scratch,
    LastAcked,
}

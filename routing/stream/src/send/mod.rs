//! The sending half: what may leave when. `buffer` holds the bytes, `window` is what the peer allows, `feedback` is what
//! acknowledgements do, `timers` what happens without them.
mod buffer;
mod feedback;
mod timers;
mod window;

pub(crate) use buffer::Payload;

use crate::congestion::{CongestionControl, Model};
use crate::pacing::Pacer;
use crate::pool::Claim;
use crate::rate::Sampler;
use crate::recovery::Recovery;
use crate::rtt::Rtt;
use crate::scoreboard::Scoreboard;
use crate::{Config, Counters, seq};
use buffer::Buffer;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use window::PeerWindow;

/// Payload of a full packet until the first one shows its size (D36, with short addresses).
const DEFAULT_MSS: usize = 1196;
/// The send buffer before the congestion window has shown that more is useful.
const SMALLEST_BUFFER: usize = 64 * 1024;
/// What is left of it when other streams have taken all memory.
const SHORTEST_BUFFER: usize = 4096;
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
    buffer: Buffer,
    pub(crate) board: Scoreboard,
    pub(crate) recovery: Recovery,
    pub(crate) rtt: Rtt,
    sampler: Sampler,
    control: Box<dyn CongestionControl>,
    pacer: Pacer,
    pub(crate) closing: Closing,
    close_tries: u32,
    peer: PeerWindow,
    max_buffer: usize,
    claim: Claim,
    mss: usize,
    probe_due: bool,
    /// The window has held something back since the round began.
    limited: bool,
    /// The window itself, not the pacer, held something back before this position was sent.
    bound_until: u64,
    pacing_held: bool,
    round_end: u64,
    reduced_until: u64,
    marks_heard: u32,
    /// Since when something is outstanding without progress.
    progress: Instant,
    notes: VecDeque<(Instant, u64)>,
}

impl Sender {
    pub(crate) fn new(now: Instant, isn: u32, config: &Config) -> Self {
        Self {
            isn,
            buffer: Buffer::default(),
            board: Scoreboard::new(1),
            recovery: Recovery::new(now),
            rtt: Rtt::default(),
            sampler: Sampler::new(now),
            control: config.congestion.build(DEFAULT_MSS, u64::from(isn)),
            pacer: Pacer::new(now),
            closing: Closing::No,
            close_tries: 0,
            peer: PeerWindow::default(),
            max_buffer: config.max_send_buffer,
            claim: Claim::new(&config.pool),
            mss: DEFAULT_MSS,
            probe_due: false,
            limited: false,
            bound_until: 0,
            pacing_held: false,
            round_end: 1,
            reduced_until: 0,
            marks_heard: 0,
            progress: now,
            notes: VecDeque::new(),
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
        self.buffer.len()
    }

    /// Offset of the oldest byte not acknowledged.
    fn first_unacked(&self) -> u64 {
        self.board
            .first()
            .map_or(self.buffer.unsent(), |p| p.offset)
    }

    /// The bound of the buffer: twice what may be in flight, so that the program has time to refill it; and what waits
    /// behind a hole is not in flight any more, but kept.
    fn buffer_limit(&self) -> usize {
        let sent = (self.buffer.unsent() - self.buffer.base()) as usize;
        let behind = sent.saturating_sub(self.board.in_flight());
        let wanted = 2 * self.control.window() + behind;
        // Rings hold powers of two.
        let share = 1 << self.claim.share().max(SHORTEST_BUFFER).ilog2();
        let most = self.max_buffer.min(share);
        wanted.clamp(SMALLEST_BUFFER.min(most), most)
    }

    /// Holds what is allocated; gives back what is no longer wanted.
    fn charge(&mut self) {
        let limit = self.buffer_limit();
        if self.buffer.memory() > 2 * limit {
            self.buffer.shrink(limit);
        }
        self.claim.set(self.memory());
    }

    pub(crate) fn capacity(&self) -> usize {
        match self.closing {
            Closing::No => self.buffer_limit().saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }

    /// Room worth waking the program for.
    pub(crate) fn has_room(&self) -> bool {
        self.capacity() >= self.buffer_limit() / 4
    }

    /// Something waits to be sent for the first time.
    pub(crate) fn has_unsent(&self) -> bool {
        self.buffer.unsent_len() > 0
    }

    /// Notes, before it changes, that the program sends less than it could.
    fn note_program(&mut self) {
        if self.buffer.unsent_len() == 0
            && !self.board.has_lost()
            && self.board.in_flight() < self.congestion_window()
        {
            self.sampler.app_limited(self.board.in_flight());
        }
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        self.note_program();
        let len = data.len().min(self.capacity());
        self.buffer.push(&data[..len]);
        self.charge();
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
        self.peer.left(self.buffer.unsent())
    }

    /// Bytes that may be in flight.
    pub(crate) fn congestion_window(&self) -> usize {
        let recovery = self.recovery.window().filter(|_| !self.control.repairs());
        recovery.unwrap_or_else(|| self.control.window())
    }

    /// What is known of the path, for traces.
    pub(crate) fn model(&self) -> Model {
        let waits = self.buffer.unsent_len().min(self.mss);
        Model {
            in_flight: self.board.in_flight(),
            peer_bound: waits > self.window_left(),
            ..self.control.model()
        }
    }

    /// Something to send, but the peer's window is closed and nothing is out that could bring news.
    fn is_blocked_by_peer(&self) -> bool {
        self.has_unsent() && !self.board.is_outstanding() && self.window_left() == 0
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
        if !self.board.has_lost() && !self.has_unsent() && self.closing != Closing::Wanted {
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
                self.window_held();
                return None;
            }
            return Some(self.send_again(now, position, counters));
        }
        self.send_new(now, room, budget, idle, counters)
    }

    fn window_held(&mut self) {
        self.limited = true;
        self.bound_until = self.board.next();
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
        let unsent = self.buffer.unsent_len();
        if unsent == 0 {
            return (self.closing == Closing::Wanted).then(|| self.send_close(now, counters));
        }
        let len = unsent.min(room);
        if len == 0 {
            return None;
        }
        if len > budget && !idle {
            self.window_held();
            return None;
        }
        let left = self.window_left();
        // RFC 9293 §3.8.6.2.1: a sliver of window is not worth a packet while others are out.
        let len = if left >= len {
            len
        } else if left > 0 && !self.board.is_outstanding() {
            left
        } else {
            // The peer, not the path, bounds the rate from here on.
            self.sampler.app_limited(self.board.in_flight());
            return None;
        };
        Some(self.send_bytes(now, len, counters))
    }

    fn send_bytes(&mut self, now: Instant, len: usize, counters: &mut Counters) -> Outgoing {
        let was_idle = !self.board.is_outstanding();
        if was_idle {
            self.restart(now);
        }
        let offset = self.buffer.take(len);
        let position = self.board.sent(now, offset, len as u32, &mut self.sampler);
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
        let offset = self.buffer.unsent();
        let position = self.board.sent(now, offset, 0, &mut self.sampler);
        self.closing = Closing::Sent(position);
        self.close_tries = 1;
        self.account(now, 0, false, was_idle);
        counters.closes_sent += 1;
        Outgoing {
            position,
            offset,
            len: 0,
            again: false,
            close: true,
        }
    }

    fn send_again(&mut self, now: Instant, position: u64, counters: &mut Counters) -> Outgoing {
        self.board.resent(now, position, &mut self.sampler);
        let (offset, len) = self
            .board
            .get(position)
            .map_or((self.buffer.base(), 0), |p| (p.offset, p.len as usize));
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
        if self.sampler.is_app_limited() {
            self.control.on_restart(now);
            self.repace(now);
        }
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
        let len = self.buffer.unsent_len().min(room).min(self.window_left());
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
        self.buffer.payload(out.offset, out.len)
    }

    /// The bytes that `payload` or `poll_persist` spoke of.
    pub(crate) fn bytes(&self, payload: Payload) -> &[u8] {
        match payload {
            Payload::LastAcked => self.peer.last_acked(),
            payload => self.buffer.bytes(payload),
        }
    }

    /// A zero-window probe that is due: the position to repeat (0: the S_OPEN).
    pub(crate) fn poll_persist(&mut self, counters: &mut Counters) -> Option<u64> {
        let position = self.peer.poll()?;
        counters.window_probes += 1;
        Some(position)
    }

    /// The peer's window, as of an acknowledgement up to `newest`.
    pub(crate) fn set_window(&mut self, now: Instant, window: u16) {
        self.peer.set(self.first_unacked(), window);
        self.update_persist(now);
    }

    /// Starts or stops probing the peer's window.
    pub(crate) fn update_persist(&mut self, now: Instant) {
        let blocked = self.is_blocked_by_peer();
        if self.peer.update(now, blocked, self.rtt.rto()) {
            self.progress = now;
        }
    }

    /// The peer answered while its window was closed: it lives.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.peer.is_probing() {
            self.progress = now;
        }
    }

    fn repace(&mut self, now: Instant) {
        if let Some(rate) = self.control.pacing_rate() {
            let rtt = self.rtt.minimum();
            return self.pacer.set_rate(now, rate, rtt, self.mss);
        }
        let gain = if self.control.in_slow_start() {
            2.0
        } else {
            1.25
        };
        let window = self.congestion_window().max(self.mss);
        self.pacer
            .spread(now, window, self.rtt.smoothed(), gain, self.mss);
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

    /// Drops all that was to be sent.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.board = Scoreboard::new(self.board.next());
        self.peer.clear();
        self.probe_due = false;
        self.pacing_held = false;
        self.charge();
    }

    pub(crate) fn set_max_buffer(&mut self, max: usize) {
        self.max_buffer = max;
    }

    /// Gives memory back while nothing is buffered.
    pub(crate) fn release(&mut self) {
        self.buffer.release();
        self.board.release();
        self.charge();
    }

    /// Bytes allocated, about.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.memory() + self.board.memory() + self.peer.memory()
    }
}

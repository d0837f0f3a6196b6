//! The receiving half: puts packets in order, bounds what it holds, sizes the window it grants.
use crate::Config;
use crate::hold::{Hold, Place};
use crate::pool::Claim;
use crate::ranges::RangeSet;
use crate::ring::Ring;
use crate::scoreboard::MAX_SPAN;
use crate::seq;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Windows count these (Anode 0.8 §5.2.1).
pub(crate) const WINDOW_UNIT: usize = 1024;
/// The largest window: 64 MiB less 1 KiB (N8).
pub(crate) const LARGEST_WINDOW: usize = 65_535 * WINDOW_UNIT;
/// The window is measured over no less than this.
const SHORTEST_EPOCH: Duration = Duration::from_millis(2);
/// The window is this many times what came in a round trip of the handshake: slow start doubles, a repair takes a round
/// trip (and another when it is lost as well), and a queue on the way makes round trips several times longer than that one.
const HEADROOM: usize = 8;

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The next in order.
    InOrder,
    /// In order, and it filled a hole.
    FilledHole,
    /// Beyond a hole.
    OutOfOrder,
    /// Had it already.
    Duplicate,
    /// Beyond what the window allows.
    BeyondWindow,
    /// Contradicts what was said before (data beyond the close, a second close).
    Contradiction,
}

/// A payload beyond a hole, or the close.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Missing,
    Data(Place, u32),
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Receiver {
    isn: u32,
    /// The next position in order.
    next: u64,
    ring: Ring,
    /// From `next` on; empty while nothing is out of order.
    slots: VecDeque<Slot>,
    held: RangeSet,
    hold: Hold,
    held_bytes: usize,
    /// Bytes of the window: at first, as grown so far, and its bound.
    first_limit: usize,
    limit: usize,
    max_limit: usize,
    claim: Claim,
    /// Bytes received in order, read, and the end of the window granted last.
    received: u64,
    read: u64,
    granted: u64,
    /// Where the peer's close stands.
    close: Option<u64>,
    epoch: Instant,
    epoch_progress: u64,
}

impl Receiver {
    pub(crate) fn new(now: Instant, isn: u32, config: &Config) -> Self {
        let max_limit = config.max_window.clamp(WINDOW_UNIT, LARGEST_WINDOW);
        let first_limit = config.initial_window.clamp(WINDOW_UNIT, max_limit);
        Self {
            isn,
            next: 1,
            ring: Ring::default(),
            slots: VecDeque::new(),
            held: RangeSet::default(),
            hold: Hold::default(),
            held_bytes: 0,
            first_limit,
            limit: first_limit,
            max_limit,
            claim: Claim::new(&config.pool),
            received: 0,
            read: 0,
            granted: 0,
            close: None,
            epoch: now,
            epoch_progress: 0,
        }
    }

    /// The window of an S_OPEN that is sent before the peer's is known, in units.
    pub(crate) fn first_window(initial: usize, max: usize) -> u16 {
        let bytes = initial.clamp(WINDOW_UNIT, max.clamp(WINDOW_UNIT, LARGEST_WINDOW));
        u16::try_from(bytes / WINDOW_UNIT).unwrap_or(u16::MAX)
    }

    pub(crate) fn position(&self, sequence: u32) -> Option<u64> {
        seq::position(sequence, self.isn, self.next)
    }

    pub(crate) fn sequence(&self, position: u64) -> u32 {
        seq::on_wire(self.isn, position)
    }

    pub(crate) fn isn(&self) -> u32 {
        self.isn
    }

    /// The next position in order.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes in order that wait for the reader.
    pub(crate) fn unread(&self) -> usize {
        self.ring.len()
    }

    /// Everything up to the peer's close has arrived.
    pub(crate) fn is_closed(&self) -> bool {
        self.close.is_some_and(|close| self.next > close)
    }

    /// The window to grant now, in units, rounded down (N8).
    pub(crate) fn window(&self) -> u16 {
        let units = self.limit.saturating_sub(self.ring.len()) / WINDOW_UNIT;
        u16::try_from(units).unwrap_or(u16::MAX)
    }

    /// Notes that `window()` was sent.
    pub(crate) fn grant(&mut self) {
        self.granted = self.received + u64::from(self.window()) * WINDOW_UNIT as u64;
    }

    /// Whether the peer should hear of the window now: it had less than half left, and gets a quarter more at least.
    pub(crate) fn wants_update(&self) -> bool {
        if self.close.is_some() {
            return false;
        }
        let left = self.granted.saturating_sub(self.received);
        let now = u64::from(self.window()) * WINDOW_UNIT as u64;
        left < self.limit as u64 / 2
            && now >= left + (self.limit as u64 / 4).max(WINDOW_UNIT as u64)
    }

    /// A payload arrived. Memory is bounded: in order by the window, out of order by the window and `MAX_SPAN`, all by
    /// the pool, but for one payload, so that a stream gets on whatever the others hold.
    pub(crate) fn data(&mut self, position: u64, payload: &[u8]) -> Arrival {
        let arrival = self.take(position, payload);
        self.charge();
        arrival
    }

    /// Whether there is memory to allocate for a payload.
    fn affords(&self, cost: usize) -> bool {
        let affords = cost == 0 || cost <= self.claim.room(self.memory());
        if !affords {
            self.claim.count_refused();
        }
        affords
    }

    /// Holds what is allocated, and what a window beyond the first one has promised.
    fn charge(&mut self) {
        let promised = if self.limit > self.first_limit {
            self.limit
        } else {
            0
        };
        self.claim.set(self.memory().max(promised));
    }

    fn take(&mut self, position: u64, payload: &[u8]) -> Arrival {
        if self.close.is_some_and(|close| position >= close) {
            return Arrival::Contradiction;
        }
        if position < self.next || self.held.containing(position).is_some() {
            return Arrival::Duplicate;
        }
        if position == self.next {
            // Payloads beyond the hole do not count here: a peer that overran its window must not block itself.
            if self.ring.len() + payload.len() > self.limit.max(self.granted_left()) {
                return Arrival::BeyondWindow;
            }
            if self.ring.len() > 0 && !self.affords(self.ring.cost(payload.len())) {
                return Arrival::BeyondWindow;
            }
            let filled = !self.slots.is_empty();
            self.ring.push(payload);
            self.received += payload.len() as u64;
            self.advance();
            return if filled {
                Arrival::FilledHole
            } else {
                Arrival::InOrder
            };
        }
        let ahead = position - self.next;
        let used = self.ring.len() + self.held_bytes + payload.len();
        if ahead >= MAX_SPAN || used > self.limit.max(self.granted_left()) {
            return Arrival::BeyondWindow;
        }
        if !self.affords(self.hold.cost(payload.len())) {
            return Arrival::BeyondWindow;
        }
        let Some(place) = self.hold.store(payload, 2 * self.limit) else {
            return Arrival::BeyondWindow;
        };
        let index = ahead as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::Missing);
        }
        self.slots[index] = Slot::Data(place, payload.len() as u32);
        self.held_bytes += payload.len();
        self.held.insert(position..position + 1);
        Arrival::OutOfOrder
    }

    /// The peer's close arrived: nothing comes at or after `position`.
    pub(crate) fn close(&mut self, position: u64) -> Arrival {
        match self.close {
            Some(close) if close == position => return Arrival::Duplicate,
            Some(_) => return Arrival::Contradiction,
            None => {}
        }
        if position < self.next || self.held.last().is_some_and(|last| last.end > position) {
            return Arrival::Contradiction;
        }
        if position - self.next >= MAX_SPAN {
            return Arrival::BeyondWindow;
        }
        self.close = Some(position);
        if position == self.next {
            self.next += 1;
            return Arrival::InOrder;
        }
        self.held.insert(position..position + 1);
        Arrival::OutOfOrder
    }

    fn granted_left(&self) -> usize {
        self.granted.saturating_sub(self.read) as usize
    }

    /// `next` has arrived: moves on over all that waited behind it.
    fn advance(&mut self) {
        self.slots.pop_front();
        self.next += 1;
        while let Some(&Slot::Data(place, len)) = self.slots.front() {
            self.ring.push(self.hold.get(place));
            self.hold.remove(place);
            self.held_bytes -= len as usize;
            self.received += u64::from(len);
            self.slots.pop_front();
            self.next += 1;
        }
        if self.close == Some(self.next) {
            self.next += 1;
        }
        if !self.held.is_empty() {
            self.held.remove_below(self.next);
        }
    }

    /// The contiguous range around a position that has arrived.
    pub(crate) fn contiguous(&self, position: u64) -> Option<Range<u64>> {
        if position < self.next {
            Some(0..self.next)
        } else {
            self.held.containing(position)
        }
    }

    /// The range with the highest position that has arrived.
    pub(crate) fn highest(&self) -> Range<u64> {
        self.held.last().unwrap_or(0..self.next)
    }

    /// Offers what is in order; returns what was taken.
    pub(crate) fn read(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let (a, b) = self.ring.slices();
        let mut taken = 0;
        if !a.is_empty() {
            taken = sink(a).min(a.len());
            if taken == a.len() && !b.is_empty() {
                taken += sink(b).min(b.len());
            }
        }
        self.ring.consume(taken);
        self.read += taken as u64;
        if self.ring.capacity() > 2 * self.limit {
            self.ring.shrink(self.limit);
            self.charge();
        }
        taken
    }

    /// Grows the window while the reader keeps up: dynamic right-sizing. Once a round trip the window becomes a
    /// multiple of what came in it, if that is more. What waits behind a hole counts as what was read does: otherwise
    /// every loss would hold the window back for the round trip that its repair takes.
    pub(crate) fn tune(&mut self, now: Instant, rtt: Option<Duration>) {
        let elapsed = now.saturating_duration_since(self.epoch);
        let rtt = rtt
            .unwrap_or(Duration::from_millis(100))
            .max(SHORTEST_EPOCH);
        if elapsed < rtt {
            return;
        }
        let progress = self.read + self.held_bytes as u64;
        let came = progress.saturating_sub(self.epoch_progress);
        // An epoch that a pause stretched says less.
        let came = came as f64 * (rtt.as_secs_f64() / elapsed.as_secs_f64());
        let wanted = (came as usize).saturating_mul(HEADROOM).min(self.max_limit);
        self.set_limit(self.limit.max(wanted));
        self.epoch = now;
        self.epoch_progress = progress;
    }

    /// The window becomes `wanted`, or less if the pool is short; not less than the first one.
    fn set_limit(&mut self, wanted: usize) {
        let most = self.claim.share().max(self.first_limit).min(self.max_limit);
        if wanted > most {
            self.claim.count_short();
        }
        self.limit = wanted.min(most);
        self.charge();
    }

    /// Bounds the window anew; what was granted stays granted.
    pub(crate) fn set_max_limit(&mut self, max: usize) {
        self.max_limit = max.clamp(WINDOW_UNIT, LARGEST_WINDOW);
        self.limit = self.limit.min(self.max_limit);
        self.charge();
    }

    /// Gives memory back while nothing is held, and the window with it. True: the peer should hear of that.
    pub(crate) fn release(&mut self) -> bool {
        self.ring.release();
        if self.held.is_empty() {
            self.hold.clear();
            self.slots = VecDeque::new();
        }
        let shrinks = self.limit > self.first_limit;
        self.limit = self.limit.min(self.first_limit);
        self.charge();
        shrinks && self.close.is_none()
    }

    /// Drops what is out of order and will never be in order.
    pub(crate) fn drop_held(&mut self) {
        self.hold.clear();
        self.slots = VecDeque::new();
        self.held.clear();
        self.held_bytes = 0;
        self.charge();
    }

    /// Bytes allocated, about.
    pub(crate) fn memory(&self) -> usize {
        self.ring.capacity() + self.hold.memory() + self.slots.capacity() * size_of::<Slot>()
    }
}

//! What is acknowledged, and when (D31): every batch of packets at once, a lone packet after a while, anything unusual
//! immediately. A message names all that arrived since the last one, then repeats older ranges, so that a lost one
//! costs nothing.
use crate::recovery::MAX_ACK_DELAY;
use crate::recv::Receiver;
use anode_wire::message::encode_ack;
use std::ops::Range;
use std::time::{Duration, Instant};

/// (first, count) as on the wire.
pub(crate) const ENTRY: usize = 5;
/// The newest contiguous range and up to 8 more (D31).
pub(crate) const MAX_ENTRIES: usize = 9;
/// A count has 8 bits.
const LONGEST: u64 = 255;
/// New ranges remembered until they are sent; more make the acknowledgement due at once.
const MAX_FRESH: usize = 32;
/// Ranges out of order that are repeated.
const MAX_RECENT: usize = 6;
/// Messages sent, for Q22: a reset names the first number of one.
const REMEMBERED: usize = 16;
/// How long a number sent stays good for Q22.
pub(crate) const RESET_MEMORY: Duration = Duration::from_secs(10);

/// How long the acknowledgement of an answering S_OPEN or of an S_CLOSE waits: the program's first bytes, its own end or
/// another stream's packet mostly follow at once, and a packet alone is two turns of two machines.
const EDGE_DELAY: Duration = Duration::from_millis(1);

/// How something arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// In order, with nothing missing.
    Regular,
    /// The first or the last of a stream.
    Edge,
    /// Anything else: the sender should know at once.
    Odd,
}

/// When the next acknowledgement goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    Never,
    At(Instant),
    Now,
}

/// Up to `MAX_ENTRIES` entries in wire format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoded {
    bytes: [u8; ENTRY * MAX_ENTRIES],
    len: usize,
}

impl Default for Encoded {
    fn default() -> Self {
        Self {
            bytes: [0; ENTRY * MAX_ENTRIES],
            len: 0,
        }
    }
}

impl Encoded {
    /// One number alone.
    pub(crate) fn single(sequence: u32) -> Self {
        let mut encoded = Self::default();
        encoded.push(sequence, 1);
        encoded
    }

    pub(crate) fn push(&mut self, first: u32, count: u8) {
        self.bytes[self.len..self.len + ENTRY].copy_from_slice(&encode_ack(first, count));
        self.len += ENTRY;
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The acknowledging half of a receiver.
#[derive(Debug)]
pub(crate) struct Acknowledger {
    due: Due,
    /// Positions that arrived since the last message, oldest first.
    fresh: Vec<(u64, u64)>,
    /// Packets in them.
    waiting: u64,
    recent: Vec<u64>,
    /// First numbers of the last messages.
    sent: [Option<(Instant, u32)>; REMEMBERED],
    sent_index: usize,
    /// Packets that arrived marked "congestion experienced".
    marked: u32,
    longest_payload: usize,
    last_was_long: bool,
    /// The next message is sent twice.
    twice: bool,
}

impl Acknowledger {
    pub(crate) fn new() -> Self {
        Self {
            due: Due::Never,
            fresh: Vec::new(),
            waiting: 0,
            recent: Vec::new(),
            sent: [None; REMEMBERED],
            sent_index: 0,
            marked: 0,
            longest_payload: 0,
            last_was_long: false,
            twice: false,
        }
    }

    /// A position arrived (again).
    pub(crate) fn arrived(&mut self, now: Instant, position: u64, manner: Manner) {
        match self.fresh.last_mut() {
            Some((_, end)) if *end == position => *end += 1,
            _ => {
                if self.fresh.len() == MAX_FRESH {
                    self.fresh.remove(0);
                }
                self.fresh.push((position, position + 1));
            }
        }
        self.waiting += 1;
        let delay = match manner {
            Manner::Edge if self.fresh.len() <= MAX_ENTRIES => EDGE_DELAY,
            Manner::Regular if self.waiting < 2 && self.fresh.len() <= MAX_ENTRIES => MAX_ACK_DELAY,
            _ => {
                self.due = Due::Now;
                return;
            }
        };
        let at = now + delay;
        match self.due {
            Due::Now => {}
            Due::At(due) if due <= at => {}
            Due::At(_) | Due::Never => self.due = Due::At(at),
        }
    }

    /// Somebody else's packet leaves for the same place now: what waits but a moment goes with it.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if matches!(self.due, Due::At(at) if at <= now + EDGE_DELAY) {
            self.due = Due::Now;
        }
    }

    /// Whether it waits but a moment.
    pub(crate) fn is_soon(&self, now: Instant) -> bool {
        matches!(self.due, Due::At(at) if at <= now + EDGE_DELAY)
    }

    /// Notes the size of a payload: a short one after a full one ends a burst, and its sender waits for nothing else.
    pub(crate) fn payload(&mut self, len: usize) {
        if len >= self.longest_payload {
            self.longest_payload = len;
            self.last_was_long = true;
            return;
        }
        if self.last_was_long {
            self.due = Due::Now;
        }
        self.last_was_long = false;
    }

    /// A packet was marked "congestion experienced": the sender should hear of it at once.
    pub(crate) fn marked(&mut self) {
        self.marked = self.marked.wrapping_add(1);
        self.due = Due::Now;
    }

    /// The peer should hear the window.
    pub(crate) fn at_once(&mut self) {
        self.due = Due::Now;
    }

    /// The next message matters and nothing else would make good for its loss: it is sent twice.
    pub(crate) fn twice(&mut self) {
        self.twice = true;
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        match self.due {
            Due::Never => false,
            Due::At(at) => at <= now,
            Due::Now => true,
        }
    }

    /// Something waits to be acknowledged, and can ride on data.
    pub(crate) fn is_waiting(&self) -> bool {
        self.due != Due::Never
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.due {
            Due::At(at) => Some(at),
            _ => None,
        }
    }

    /// Entries that an acknowledgement riding on data would need; it rides only when they are few.
    pub(crate) fn is_small(&self) -> bool {
        self.fresh.len() <= 2 && self.recent.is_empty() && self.marked == 0
    }

    /// Writes a message's entries, at most `most`. What did not fit stays due.
    pub(crate) fn encode(&mut self, now: Instant, receiver: &Receiver, most: usize) -> Encoded {
        let mut out = Writer {
            entries: [(0, 0); MAX_ENTRIES],
            len: 0,
            most: most.min(MAX_ENTRIES),
        };
        if self.marked > 0 {
            out.most -= 1;
        }
        while let Some((start, end)) = self.fresh.pop() {
            let left = out.cover(receiver, start, end);
            if left > start {
                self.fresh.push((start, left));
                break;
            }
            if start >= receiver.next() {
                self.recent
                    .retain(|&r| r >= receiver.next() && !(start..end).contains(&r));
                self.recent.insert(0, end - 1);
                self.recent.truncate(MAX_RECENT);
            }
        }
        if self.fresh.is_empty() {
            self.waiting = 0;
            self.due = if std::mem::take(&mut self.twice) {
                Due::Now
            } else {
                Due::Never
            };
            // Window updates belong to the highest range; then the end of what is in order; then recent ranges.
            let highest = receiver.highest();
            out.repeat(receiver, highest.end - 1);
            let mut below = receiver.next();
            for _ in 0..2 {
                if below > 0 {
                    out.repeat(receiver, below - 1);
                    below = below.saturating_sub(LONGEST);
                }
            }
            self.recent.retain(|&r| r >= receiver.next());
            for &position in &self.recent {
                out.repeat(receiver, position);
            }
        } else {
            self.due = Due::Now;
        }
        let mut encoded = Encoded::default();
        for &(first, count) in &out.entries[..out.len] {
            encoded.push(receiver.sequence(first), count as u8);
        }
        if self.marked > 0 {
            // A count of 0 acknowledges nothing (D31); ours carries the number of marked packets.
            encoded.push(self.marked, 0);
        }
        self.sent[self.sent_index % REMEMBERED] = Some((now, receiver.sequence(out.entries[0].0)));
        self.sent_index = self.sent_index.wrapping_add(1);
        encoded
    }

    /// Whether a message of the last 10 s began with this number (Q22).
    pub(crate) fn began_with(&self, now: Instant, number: u32) -> bool {
        let fresh = |at: Instant| now.saturating_duration_since(at) <= RESET_MEMORY;
        self.sent
            .iter()
            .flatten()
            .any(|&(at, first)| first == number && fresh(at))
    }
}

/// Entries as positions.
struct Writer {
    entries: [(u64, u64); MAX_ENTRIES],
    len: usize,
    most: usize,
}

impl Writer {
    fn covers(&self, range: Range<u64>) -> bool {
        self.entries[..self.len]
            .iter()
            .any(|&(first, count)| first <= range.start && range.end <= first + count)
    }

    fn push(&mut self, first: u64, end: u64) -> bool {
        if self.len == self.most {
            return false;
        }
        self.entries[self.len] = (first, end - first);
        self.len += 1;
        true
    }

    /// Covers `start..end`, from its end down, and what lies next to it for free. Returns the end of what there was no
    /// room for; `start`: there was.
    fn cover(&mut self, receiver: &Receiver, start: u64, end: u64) -> u64 {
        let around = receiver.contiguous(start).unwrap_or(start..end);
        let mut high = if around.end - start <= LONGEST {
            around.end.max(end)
        } else {
            end
        };
        while high > start {
            if self.covers(start..high) {
                return start;
            }
            let low = high.saturating_sub(LONGEST).max(around.start.min(start));
            if !self.push(low, high) {
                return high;
            }
            high = low;
        }
        start
    }

    /// Repeats what lies up to `position`, if there is room.
    fn repeat(&mut self, receiver: &Receiver, position: u64) {
        if self.covers(position..position + 1) {
            return;
        }
        if let Some(around) = receiver.contiguous(position) {
            let high = around.end.min(position + 1);
            self.push(high.saturating_sub(LONGEST).max(around.start), high);
        }
    }
}

//! The receiving half of a stream: order, the reader's buffer, what to acknowledge and when (i2cp.md §2.8).
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Sequence numbers beyond the next one that are kept: a sender's span is 128, or twice its window of 128.
const SPAN: u32 = 256;
/// Unread bytes from which the peer is choked …
const HIGH_WATER: usize = 256 * 1024;
/// … and below which it may send again.
const LOW_WATER: usize = 128 * 1024;
/// Bytes of one stream that are never exceeded: what a sender that does not heed the choke fills.
pub(crate) const HARD_LIMIT: usize = 512 * 1024;
/// Largest payload taken. We announce 1812, and others send what they like (i2cp.md §2.8).
pub(crate) const LARGEST_PAYLOAD: usize = 4096;
/// Packets received since the last acknowledgement that make the next one due at once.
const ACK_EVERY: u32 = 16;

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    InOrder,
    Held,
    Duplicate,
    /// Beyond the span, the buffer or the close: dropped.
    Refused,
}

#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// The next number to hand to the reader.
    next: u32,
    held: BTreeMap<u32, (Vec<u8>, bool)>,
    held_bytes: usize,
    ready: VecDeque<Vec<u8>>,
    /// Bytes of the first of `ready` that were read.
    taken: usize,
    unread: usize,
    close_at: Option<u32>,
    choking: bool,
    ack_due: Option<Instant>,
    since_ack: u32,
}

impl Receiver {
    /// Something was received: there is something to acknowledge.
    pub(crate) fn has_any(&self) -> bool {
        self.next > 0 || !self.held.is_empty()
    }

    pub(crate) fn accept(&mut self, sequence: u32, payload: &[u8], close: bool) -> Arrival {
        if sequence < self.next || self.held.contains_key(&sequence) {
            return Arrival::Duplicate;
        }
        let contradicts = self.close_at.is_some_and(|end| sequence > end)
            || close
                && self
                    .held
                    .keys()
                    .next_back()
                    .is_some_and(|last| *last > sequence);
        if contradicts || payload.len() > LARGEST_PAYLOAD || sequence - self.next >= SPAN {
            return Arrival::Refused;
        }
        // what fills a gap frees what is held: it gets in where more that waits does not
        let limit = if sequence == self.next {
            HARD_LIMIT
        } else {
            HARD_LIMIT / 2
        };
        if self.unread + payload.len() > limit
            || sequence != self.next && self.unread + self.held_bytes + payload.len() > limit
        {
            return Arrival::Refused;
        }
        if close {
            self.close_at = Some(sequence);
        }
        if sequence != self.next {
            self.held_bytes += payload.len();
            self.held.insert(sequence, (payload.to_vec(), close));
            return Arrival::Held;
        }
        self.push(payload.to_vec());
        while let Some((payload, _)) = self.held.remove(&self.next) {
            self.held_bytes -= payload.len();
            self.push(payload);
        }
        Arrival::InOrder
    }

    fn push(&mut self, payload: Vec<u8>) {
        self.next += 1;
        self.unread += payload.len();
        if !payload.is_empty() {
            self.ready.push_back(payload);
        }
    }

    /// Offers what has arrived in order to `sink`, which returns how much of a piece it took; less than all ends it.
    pub(crate) fn read_with(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let mut count = 0;
        while let Some(first) = self.ready.front() {
            let piece = &first[self.taken..];
            let length = sink(piece).min(piece.len());
            count += length;
            self.taken += length;
            if self.taken < first.len() {
                break;
            }
            self.ready.pop_front();
            self.taken = 0;
        }
        self.unread -= count;
        count
    }

    pub(crate) fn unread(&self) -> usize {
        self.unread
    }

    /// The peer's close and everything before it has arrived.
    pub(crate) fn peer_closed(&self) -> bool {
        self.close_at.is_some_and(|end| end < self.next)
    }

    /// Nothing more will ever be read.
    pub(crate) fn is_finished(&self) -> bool {
        self.peer_closed() && self.unread == 0
    }

    /// Whether the choke changed since the last call; it does with what was received and read.
    pub(crate) fn update_choke(&mut self) -> bool {
        let was = self.choking;
        self.choking = if was {
            self.unread >= LOW_WATER
        } else {
            self.unread >= HIGH_WATER
        };
        was != self.choking
    }

    pub(crate) fn is_choking(&self) -> bool {
        self.choking
    }

    /// The highest number received, and those before it that were not.
    pub(crate) fn acknowledgement(&self) -> (u32, Vec<u32>) {
        let through = match self.held.keys().next_back() {
            Some(last) => *last,
            None => self.next.saturating_sub(1),
        };
        // there are fewer than SPAN of them, so that they fit the one-byte count
        let missing = (self.next..through).filter(|n| !self.held.contains_key(n));
        (through, missing.collect())
    }

    /// Something must be acknowledged within `delay`.
    pub(crate) fn want_ack(&mut self, delay: Duration, now: Instant) {
        self.since_ack += 1;
        let delay = if self.since_ack >= ACK_EVERY {
            Duration::ZERO
        } else {
            delay
        };
        let due = now + delay;
        self.ack_due = Some(self.ack_due.map_or(due, |old| old.min(due)));
    }

    pub(crate) fn has_gap(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn ack_due(&self) -> Option<Instant> {
        self.ack_due
    }

    /// A packet that carries the acknowledgement goes out.
    pub(crate) fn ack_sent(&mut self) {
        self.ack_due = None;
        self.since_ack = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(receiver: &mut Receiver) -> Vec<u8> {
        let mut out = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match receiver.read(&mut buffer) {
                0 => return out,
                count => out.extend_from_slice(&buffer[..count]),
            }
        }
    }

    impl Receiver {
        fn read(&mut self, buffer: &mut [u8]) -> usize {
            let mut rest = buffer;
            self.read_with(&mut |piece| {
                let length = piece.len().min(rest.len());
                let (now, later) = std::mem::take(&mut rest).split_at_mut(length);
                now.copy_from_slice(&piece[..length]);
                rest = later;
                length
            })
        }
    }

    #[test]
    fn order_is_restored_and_gaps_are_reported() {
        let mut receiver = Receiver::default();
        assert!(!receiver.has_any());
        assert_eq!(receiver.accept(0, b"a", false), Arrival::InOrder);
        assert_eq!(receiver.accept(3, b"ddd", true), Arrival::Held);
        assert_eq!(receiver.accept(3, b"ddd", true), Arrival::Duplicate);
        assert_eq!(receiver.acknowledgement(), (3, vec![1, 2]));
        assert_eq!(receiver.accept(4, b"x", false), Arrival::Refused);
        assert_eq!(receiver.accept(2, b"cc", false), Arrival::Held);
        assert_eq!(receiver.accept(1, b"bbbbbbbbb", false), Arrival::InOrder);
        assert!(receiver.peer_closed() && !receiver.is_finished());
        assert_eq!(receiver.acknowledgement(), (3, vec![]));
        assert_eq!(read_all(&mut receiver), b"abbbbbbbbbccddd");
        assert!(receiver.is_finished());
        assert_eq!(receiver.accept(0, b"a", false), Arrival::Duplicate);
    }

    // S37
    #[test]
    fn the_buffer_is_bounded_whatever_arrives() {
        let mut receiver = Receiver::default();
        let full = [0; LARGEST_PAYLOAD];
        let mut taken = 0;
        for sequence in 0..10_000 {
            if receiver.accept(sequence, &full, false) == Arrival::InOrder {
                taken += 1;
                receiver.update_choke();
            }
        }
        assert!(taken * LARGEST_PAYLOAD <= HARD_LIMIT && receiver.is_choking());
        let mut receiver = Receiver::default();
        for sequence in 1..10_000 {
            receiver.accept(sequence, &full, false);
        }
        assert!(receiver.held_bytes <= HARD_LIMIT / 2 && receiver.held.len() < 256);
        assert_eq!(receiver.accept(0, &full, false), Arrival::InOrder);
        assert!(receiver.unread <= HARD_LIMIT);
        assert_eq!(receiver.accept(u32::MAX, b"", false), Arrival::Refused);
        assert_eq!(
            receiver.accept(200, &[0; LARGEST_PAYLOAD + 1], false),
            Arrival::Refused
        );
    }

    #[test]
    fn the_choke_has_two_marks() {
        let mut receiver = Receiver::default();
        let mut sequence = 0;
        while !receiver.update_choke() {
            receiver.accept(sequence, &[0; 1000], false);
            sequence += 1;
        }
        assert!(receiver.is_choking() && receiver.unread() >= HIGH_WATER);
        let mut buffer = [0; 1000];
        let mut left = 0;
        while !receiver.update_choke() {
            receiver.read(&mut buffer);
            left = receiver.unread();
        }
        assert!(left < LOW_WATER && left > LOW_WATER - 2000);
    }

    #[test]
    fn at_most_255_numbers_can_be_missing() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.accept(255, b"", false), Arrival::Held);
        assert_eq!(receiver.acknowledgement().1.len(), 255);
        assert_eq!(receiver.accept(256, b"", false), Arrival::Refused);
    }
}

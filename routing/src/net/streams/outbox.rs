//! Packets that wait for a connection, each behind its size as it goes over the wire.
//!
//! They are datagrams: an old one is worth less than a new one, so a full outbox drops from the front.
use anode_wire::framing;

/// Bytes that wait for one place at most: what a slow line carries in a moment. More would only be delay.
pub(super) const MAX_WAITING: usize = 192 << 10;

/// A bounded queue of framed packets in one buffer.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    head: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a packet; returns how many had to go for it (itself, if it is none).
    pub fn push(&mut self, packet: &[u8]) -> u64 {
        let mut dropped = 0;
        while !self.is_empty() && self.len() + framing::PREFIX_LEN + packet.len() > MAX_WAITING {
            self.head += self.front();
            dropped += 1;
        }
        self.compact();
        dropped + u64::from(framing::encode(packet, &mut self.bytes).is_err())
    }

    /// Moves whole frames of at most `max` bytes together to the end of `out`; one at least. Returns their bytes.
    pub fn take(&mut self, max: usize, out: &mut Vec<u8>) -> usize {
        let end = self.head + self.fitting(max);
        out.extend_from_slice(&self.bytes[self.head..end]);
        let len = end - self.head;
        self.head = end;
        self.compact();
        len
    }

    /// Bytes of what `take` would move.
    pub fn fitting(&self, max: usize) -> usize {
        let mut end = 0;
        while end < self.len() {
            let frame = self.frame_at(self.head + end);
            if end > 0 && end + frame > max {
                break;
            }
            end += frame;
        }
        end
    }

    /// Forgets all; returns how many packets that were.
    pub fn clear(&mut self) -> u64 {
        let mut dropped = 0;
        while !self.is_empty() {
            self.head += self.front();
            dropped += 1;
        }
        self.compact();
        dropped
    }

    fn front(&self) -> usize {
        self.frame_at(self.head)
    }

    fn frame_at(&self, at: usize) -> usize {
        let size = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        framing::PREFIX_LEN + usize::from(size)
    }

    fn compact(&mut self) {
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > MAX_WAITING {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_packets_go_for_new_ones_and_memory_is_bounded() {
        let mut outbox = Outbox::default();
        let mut dropped = 0;
        for number in 0..1000u16 {
            let mut packet = vec![0; 1232];
            packet[..2].copy_from_slice(&number.to_be_bytes());
            dropped += outbox.push(&packet);
            assert!(outbox.len() <= MAX_WAITING && outbox.bytes.len() <= 3 * MAX_WAITING);
        }
        let waiting = MAX_WAITING / (2 + 1232);
        assert_eq!(dropped as usize, 1000 - waiting);
        let mut out = Vec::new();
        assert_eq!(outbox.take(3000, &mut out), 2 * 1234);
        assert_eq!(
            out[2..4],
            (dropped as u16).to_be_bytes(),
            "the oldest that is left"
        );
        assert_eq!(outbox.take(1, &mut out), 1234, "one packet always goes");
        assert_eq!(outbox.clear() as usize, waiting - 3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.push(&[0; 27]), 1, "no packet is that short");
        assert_eq!(outbox.push(&[0; 65_536]), 1, "none is that long");
        assert!(outbox.is_empty());
    }
}

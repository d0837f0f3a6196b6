//! Packets that wait for `poll_packet`: everything but the segments of TCP flows, which are made when asked for.

use std::collections::VecDeque;

use crate::Offload;

/// A queue bounded in bytes. One ring of bytes holds all packets, so that no packet costs an allocation.
#[derive(Debug)]
pub(crate) struct OutQueue {
    bytes: VecDeque<u8>,
    packets: VecDeque<(usize, Offload)>,
    limit: usize,
}

impl OutQueue {
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            packets: VecDeque::new(),
            limit,
        }
    }

    /// Queues the concatenation of `parts` as one packet. `false`: no room, nothing was queued.
    #[must_use]
    pub fn push(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if !self.has_room(length) {
            return false;
        }
        for part in parts {
            self.bytes.extend(*part);
        }
        self.packets.push_back((length, offload));
        true
    }

    /// Whether `length` bytes more would fit.
    pub fn has_room(&self, length: usize) -> bool {
        self.bytes.len() + length <= self.limit
    }

    /// Moves the oldest packet into `out`.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> Option<Offload> {
        let (length, offload) = self.packets.pop_front()?;
        out.clear();
        let (front, back) = self.bytes.as_slices();
        let from_front = length.min(front.len());
        out.extend_from_slice(&front[..from_front]);
        out.extend_from_slice(&back[..length - from_front]);
        self.bytes.drain(..length);
        Some(offload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_bound_across_the_wrap() {
        let mut queue = OutQueue::new(100);
        let mut out = Vec::new();
        for round in 0..50u8 {
            assert!(queue.push(&[&[round; 10], &[round; 23]], Offload::default()));
            assert!(queue.push(&[&[round; 40]], Offload::default()));
            assert!(
                !queue.push(&[&[0; 28]], Offload::default()),
                "over the limit"
            );
            assert_eq!(queue.pop(&mut out), Some(Offload::default()));
            assert_eq!(out, [round; 33]);
            assert!(queue.pop(&mut out).is_some());
            assert_eq!(out, [round; 40]);
            assert_eq!(queue.pop(&mut out), None);
        }
    }
}

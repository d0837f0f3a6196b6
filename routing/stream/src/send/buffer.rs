//! The bytes that the program wrote and the peer has not acknowledged.
use crate::ring::Ring;

/// Where a payload's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    Ring {
        start: usize,
        len: usize,
    },
    Scratch,
    /// The packet that a probe of a closed window repeats.
    LastAcked,
}

/// Bytes from the oldest unacknowledged one on; offsets count from the stream's beginning.
#[derive(Default, Debug)]
pub(super) struct Buffer {
    ring: Ring,
    /// Offset of the ring's first byte, and of the first byte never sent.
    base: u64,
    unsent: u64,
    scratch: Vec<u8>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Offset of the oldest byte kept.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Offset of the first byte never sent.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent
    }

    pub(super) fn unsent_len(&self) -> usize {
        self.ring.len() - (self.unsent - self.base) as usize
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.ring.push(data);
    }

    /// The next `len` bytes are sent; returns their offset.
    pub(super) fn take(&mut self, len: usize) -> u64 {
        let offset = self.unsent;
        self.unsent += len as u64;
        offset
    }

    /// Bytes that were sent, in one piece. The rare payload that wraps around the ring's end is copied.
    pub(super) fn payload(&mut self, offset: u64, len: usize) -> Payload {
        let start = (offset - self.base) as usize;
        let (a, b) = self.ring.range(start, len);
        if b.is_empty() {
            return Payload::Ring { start, len };
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(a);
        self.scratch.extend_from_slice(b);
        Payload::Scratch
    }

    /// The bytes that `payload` spoke of.
    pub(super) fn bytes(&self, payload: Payload) -> &[u8] {
        match payload {
            Payload::Ring { start, len } => self.ring.range(start, len).0,
            Payload::Scratch => &self.scratch,
            Payload::LastAcked => &[],
        }
    }

    /// A copy of bytes that were sent.
    pub(super) fn copy(&self, offset: u64, len: usize) -> Vec<u8> {
        let (a, b) = self.ring.range((offset - self.base) as usize, len);
        [a, b].concat()
    }

    /// Drops what lies before `first`.
    pub(super) fn free_below(&mut self, first: u64) {
        self.ring.consume((first - self.base) as usize);
        self.base = first;
    }

    /// Drops all that was to be sent, and the memory.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.base = self.unsent;
        self.scratch = Vec::new();
    }

    /// Gives memory back that a buffer of `limit` bytes does not need.
    pub(super) fn shrink(&mut self, limit: usize) {
        self.ring.shrink(limit);
    }

    /// Gives memory back while nothing is in it.
    pub(super) fn release(&mut self) {
        self.ring.release();
        self.scratch = Vec::new();
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.ring.capacity() + self.scratch.capacity()
    }
}

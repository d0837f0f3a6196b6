//! A ring of bytes that grows on demand and can give its memory back.

/// The first allocation of a ring.
const SMALLEST: usize = 4096;
/// Less than this is not worth giving back while the ring is in use.
const SHRUNK: usize = 256 * 1024;

/// First in, first out. Capacity is a power of two, so an index is a mask away.
#[derive(Default, Debug)]
pub(crate) struct Ring {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Ring {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Appends all of `data`; whoever bounds the ring does so before.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let needed = self.len + data.len();
        if needed > self.bytes.len() {
            self.grow(needed);
        }
        let at = (self.start + self.len) & (self.bytes.len().wrapping_sub(1));
        let first = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + first].copy_from_slice(&data[..first]);
        self.bytes[..data.len() - first].copy_from_slice(&data[first..]);
        self.len += data.len();
    }

    fn grow(&mut self, needed: usize) {
        self.reallocate(needed.next_power_of_two().max(SMALLEST));
    }

    /// Bytes that would have to be allocated, beside those that are, to append `more`.
    pub(crate) fn cost(&self, more: usize) -> usize {
        let needed = self.len + more;
        if needed <= self.bytes.len() {
            0
        } else {
            needed.next_power_of_two().max(SMALLEST)
        }
    }

    /// Gives most of the memory back when the content needs an eighth of it and `wanted` bytes no more than a quarter.
    /// The content is copied, so this pays for itself only after much has been taken out.
    pub(crate) fn shrink(&mut self, wanted: usize) {
        let capacity = self.bytes.len();
        let needed = wanted.max(2 * self.len).next_power_of_two().max(SHRUNK);
        if needed <= capacity / 4 {
            self.reallocate(needed);
        }
    }

    fn reallocate(&mut self, capacity: usize) {
        let mut bytes = vec![0; capacity];
        let (a, b) = self.slices();
        bytes[..a.len()].copy_from_slice(a);
        bytes[a.len()..a.len() + b.len()].copy_from_slice(b);
        self.bytes = bytes;
        self.start = 0;
    }

    /// The content in order, in at most two pieces.
    pub(crate) fn slices(&self) -> (&[u8], &[u8]) {
        self.range(0, self.len)
    }

    /// `len` bytes from `offset` on, in at most two pieces. Both must lie inside the content.
    pub(crate) fn range(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        debug_assert!(offset + len <= self.len);
        if len == 0 {
            return (&[], &[]);
        }
        let at = (self.start + offset) & (self.bytes.len() - 1);
        let first = len.min(self.bytes.len() - at);
        (&self.bytes[at..at + first], &self.bytes[..len - first])
    }

    /// Drops the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.start = if self.len == 0 {
            0
        } else {
            (self.start + count) & (self.bytes.len() - 1)
        };
    }

    /// Gives the memory back when there is nothing in it.
    pub(crate) fn release(&mut self) {
        if self.len == 0 {
            *self = Self::default();
        }
    }

    /// Drops the content and the memory.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_like_a_queue(ops in prop::collection::vec((0usize..3000, 0usize..3000), 1..60)) {
            let (mut ring, mut model) = (Ring::default(), VecDeque::new());
            let mut next = 0u8;
            for (push, pop) in ops {
                let data: Vec<u8> = (0..push).map(|_| { next = next.wrapping_add(7); next }).collect();
                ring.push(&data);
                model.extend(&data);
                let pop = pop.min(model.len());
                let (a, b) = ring.range(0, pop);
                prop_assert!(a.iter().chain(b).eq(model.iter().take(pop)));
                ring.consume(pop);
                model.drain(..pop);
                prop_assert_eq!(ring.len(), model.len());
                let (a, b) = ring.slices();
                prop_assert!(a.iter().chain(b).eq(model.iter()));
            }
        }
    }

    #[test]
    fn a_ring_in_use_gives_back_what_it_no_longer_needs() {
        let mut ring = Ring::default();
        ring.push(&[1; 5_000_000]);
        assert_eq!(ring.capacity(), 8 << 20);
        ring.consume(4_999_000);
        ring.push(&[2; 1000]);
        ring.shrink(4_000_000);
        assert_eq!(ring.capacity(), 8 << 20, "wanted again soon");
        ring.shrink(1_000_000);
        assert_eq!(ring.capacity(), 1 << 20);
        assert_eq!(ring.slices().0, [[1; 1000], [2; 1000]].concat());
        assert_eq!(ring.cost(1), 0);
        assert_eq!(ring.cost(1 << 20), 2 << 20);
    }

    #[test]
    fn an_empty_ring_gives_its_memory_back() {
        let mut ring = Ring::default();
        ring.push(&[1; 100_000]);
        ring.release();
        assert!(ring.capacity() >= 100_000, "not while something is in it");
        ring.consume(100_000);
        ring.release();
        assert_eq!(ring.capacity(), 0);
    }
}

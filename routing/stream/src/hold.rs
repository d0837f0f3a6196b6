//! Where payloads wait that arrived before their turn: a log of blocks. A payload costs a copy and no allocation of its
//! own; a block is freed or used again when all in it has been taken out.

/// Payloads are packed into blocks of this size (a larger payload gets a block of its own).
const BLOCK: usize = 16 * 1024;
/// Empty blocks kept at least.
const KEPT: usize = 4;

/// Where a payload lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    block: u32,
    start: u32,
    len: u32,
}

#[derive(Default, Debug)]
struct Block {
    bytes: Vec<u8>,
    /// Payloads in it that have not been taken out.
    live: u32,
}

/// The log.
#[derive(Default, Debug)]
pub(crate) struct Hold {
    blocks: Vec<Block>,
    /// Blocks with nothing in them, and places of blocks that were given back.
    free: Vec<u32>,
    vacant: Vec<u32>,
    current: Option<u32>,
    allocated: usize,
}

impl Hold {
    /// Stores a payload; `None` when that would take more than `limit` bytes of memory.
    pub(crate) fn store(&mut self, payload: &[u8], limit: usize) -> Option<Place> {
        let fits = |b: &Block| b.bytes.capacity() - b.bytes.len() >= payload.len();
        let index = match self.current {
            Some(index) if fits(&self.blocks[index as usize]) => index,
            _ => {
                let index = self.next_block(payload.len(), limit)?;
                self.retire_current();
                self.current = Some(index);
                index
            }
        };
        let block = &mut self.blocks[index as usize];
        let start = block.bytes.len() as u32;
        block.bytes.extend_from_slice(payload);
        block.live += 1;
        Some(Place {
            block: index,
            start,
            len: payload.len() as u32,
        })
    }

    fn next_block(&mut self, needed: usize, limit: usize) -> Option<u32> {
        let size = needed.max(BLOCK);
        if let Some(&index) = self.free.last()
            && self.blocks[index as usize].bytes.capacity() >= needed
        {
            self.free.pop();
            return Some(index);
        }
        // One block beyond the limit, so that a small limit still holds something.
        if self.allocated + size > limit + BLOCK {
            return None;
        }
        self.allocated += size;
        let block = Block {
            bytes: Vec::with_capacity(size),
            live: 0,
        };
        if let Some(index) = self.vacant.pop() {
            self.blocks[index as usize] = block;
            return Some(index);
        }
        self.blocks.push(block);
        Some((self.blocks.len() - 1) as u32)
    }

    /// Bytes that would have to be allocated, beside those that are, to store a payload.
    pub(crate) fn cost(&self, len: usize) -> usize {
        let fits = |index: &u32| {
            let bytes = &self.blocks[*index as usize].bytes;
            bytes.capacity() - bytes.len() >= len
        };
        if self.current.iter().chain(self.free.last()).any(fits) {
            0
        } else {
            len.max(BLOCK)
        }
    }

    fn retire_current(&mut self) {
        if let Some(index) = self.current.take()
            && self.blocks[index as usize].live == 0
        {
            self.recycle(index);
        }
    }

    /// A block is empty: it is kept while as many are in use, else given back.
    fn recycle(&mut self, index: u32) {
        let in_use = self.blocks.len() - self.vacant.len() - self.free.len();
        self.blocks[index as usize].bytes.clear();
        self.free.push(index);
        // Two at a time, so that those kept become fewer with those in use.
        for _ in 0..2 {
            if self.free.len() <= in_use.max(KEPT) {
                return;
            }
            if let Some(index) = self.free.pop() {
                let bytes = std::mem::take(&mut self.blocks[index as usize].bytes);
                self.allocated -= bytes.capacity();
                self.vacant.push(index);
            }
        }
    }

    /// The payload at `place`.
    pub(crate) fn get(&self, place: Place) -> &[u8] {
        &self.blocks[place.block as usize].bytes
            [place.start as usize..(place.start + place.len) as usize]
    }

    /// Takes the payload out.
    pub(crate) fn remove(&mut self, place: Place) {
        let block = &mut self.blocks[place.block as usize];
        block.live -= 1;
        if block.live == 0 {
            if self.current == Some(place.block) {
                block.bytes.clear();
            } else {
                self.recycle(place.block);
            }
        }
    }

    /// Bytes allocated.
    pub(crate) fn memory(&self) -> usize {
        self.allocated
    }

    /// Gives all memory back; what it held is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_used_again_and_the_limit_holds() {
        let mut hold = Hold::default();
        for round in 0..50u8 {
            let places: Vec<_> = (0..40)
                .map(|i| hold.store(&[round ^ i; 1000], 64 * 1024).unwrap())
                .collect();
            for (i, place) in places.iter().enumerate() {
                assert_eq!(hold.get(*place), [round ^ i as u8; 1000]);
                hold.remove(*place);
            }
        }
        assert!(hold.memory() <= 64 * 1024, "{}", hold.memory());
        let mut stored = 0;
        while hold.store(&[1; 1000], 64 * 1024).is_some() {
            stored += 1;
            assert!(stored < 100);
        }
        assert!(hold.memory() <= 80 * 1024);
    }

    #[test]
    fn what_a_large_hole_took_is_given_back_when_it_is_filled() {
        let mut hold = Hold::default();
        let mut places = Vec::new();
        assert_eq!(hold.cost(1000), BLOCK);
        for round in 0..3 {
            for _ in 0..4000 {
                places.push(hold.store(&[round; 1000], 8 << 20).unwrap());
            }
            assert!(hold.memory() > 4_000_000);
            for place in places.drain(..) {
                assert_eq!(hold.get(place), [round; 1000]);
                hold.remove(place);
            }
            assert!(hold.memory() < 200_000, "{}", hold.memory());
            assert!(hold.blocks.len() < 300, "places are used again");
        }
        assert_eq!(hold.cost(1000), 0);
    }

    #[test]
    fn one_payload_that_stays_pins_one_block_only() {
        let mut hold = Hold::default();
        let mut kept = 0;
        for _ in 0..1000 {
            let Some(place) = hold.store(&[0; 8000], 256 * 1024) else {
                break;
            };
            let Some(other) = hold.store(&[0; 8000], 256 * 1024) else {
                break;
            };
            hold.remove(other);
            let _ = place;
            kept += 1;
        }
        assert!(
            kept < 40,
            "the limit counts what is allocated, not what is stored"
        );
        assert!(hold.memory() <= 272 * 1024);
    }
}

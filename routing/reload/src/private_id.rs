//! Private ids: one id that only this node understands stands for a list of ids (R34, R35, RD16).
use crate::{Id, Now};
use aes::Aes128;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use std::time::Duration;

/// Lists kept. The oldest gives way: its messages are lost, and sent again (R33).
pub const SLOTS: usize = 1024;
/// How long a list is kept at least while there is room: as long as a transaction lasts (RD16).
pub const LIFETIME: Duration = Duration::from_secs(32);

const MARK: u64 = u64::from_be_bytes(*b"anode id");

struct Slot {
    generation: u32,
    ids: Vec<Id>,
    until: Duration,
}

/// What an id found at the front of a route list is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Private {
    /// An id of this node's: these stand in its place, in the order they were passed.
    Mine(Vec<Id>),
    /// An id of this node's that it no longer knows: the message is dropped.
    Stale,
    /// Nothing of this node's.
    Foreign,
}

/// The table. Ids are encrypted, so that nobody can make one or read a place in the table out of it.
pub struct PrivateIds {
    cipher: Aes128,
    slots: Vec<Slot>,
    next: usize,
    /// Lists that gave way before their time.
    pub evicted: u64,
}

impl PrivateIds {
    /// With a random key of this process.
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            cipher: Aes128::new(&Array::from(key)),
            slots: Vec::new(),
            next: 0,
            evicted: 0,
        }
    }

    /// An id for a list, good for `lifetime` while there is room.
    pub fn compress(&mut self, now: Now, ids: Vec<Id>, lifetime: Duration) -> Id {
        let until = now.at + lifetime;
        let place = self.next % SLOTS;
        self.next = self.next.wrapping_add(1);
        let generation = match self.slots.get_mut(place) {
            Some(slot) => {
                if slot.until > now.at {
                    self.evicted += 1;
                }
                slot.generation = slot.generation.wrapping_add(1);
                slot.ids = ids;
                slot.until = until;
                slot.generation
            }
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    ids,
                    until,
                });
                0
            }
        };
        let mut block = [0; 16];
        block[..8].copy_from_slice(&MARK.to_be_bytes());
        block[8..12].copy_from_slice(&(place as u32).to_be_bytes());
        block[12..].copy_from_slice(&generation.to_be_bytes());
        let mut block = Array::from(block);
        self.cipher.encrypt_block(&mut block);
        Id(block.into())
    }

    /// What an id stands for. A stranger's id passes for one of ours once in 2^64.
    pub fn expand(&self, now: Now, id: Id) -> Private {
        let mut block = Array::from(id.0);
        self.cipher.decrypt_block(&mut block);
        let plain = u128::from_be_bytes(block.into());
        if (plain >> 64) as u64 != MARK {
            return Private::Foreign;
        }
        let (place, generation) = ((plain >> 32) as u32, plain as u32);
        match self.slots.get(place as usize) {
            Some(slot) if slot.generation == generation && slot.until > now.at => {
                Private::Mine(slot.ids.clone())
            }
            _ => Private::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now {
            at: Duration::from_secs(seconds),
            unix: 0,
        }
    }

    // R34, R35, RD16
    #[test]
    fn an_id_stands_for_its_list_until_its_time_is_over() {
        let mut table = PrivateIds::new([3; 16]);
        let list = vec![Id([1; 16]), Id([2; 16])];
        let id = table.compress(now(0), list.clone(), LIFETIME);
        assert_eq!(table.expand(now(31), id), Private::Mine(list));
        assert_eq!(table.expand(now(32), id), Private::Stale);
        assert_eq!(table.expand(now(0), Id([9; 16])), Private::Foreign);
        let other = PrivateIds::new([4; 16]);
        assert_eq!(other.expand(now(0), id), Private::Foreign);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_gives_way() {
        let mut table = PrivateIds::new([3; 16]);
        let first = table.compress(now(0), vec![Id([1; 16])], LIFETIME);
        for n in 0..SLOTS {
            table.compress(now(1), vec![Id([n as u8; 16])], LIFETIME);
        }
        assert_eq!(table.expand(now(1), first), Private::Stale);
        assert_eq!((table.slots.len(), table.evicted), (SLOTS, 1));
    }
}

//! A fast keyed hash for the tables that every packet asks.

use std::hash::{BuildHasher, Hasher};

/// Seeds hashers with a secret, so that nobody outside can make addresses collide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u64, u64);

impl Seed {
    pub fn new(seed: [u64; 2]) -> Self {
        Self(seed[0], seed[1] | 1)
    }

    /// A number for an address, for tables of fixed size.
    pub fn number(&self, bytes: u128) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write_u64((bytes >> 64) as u64);
        hasher.write_u64(bytes as u64);
        hasher.finish()
    }
}

impl BuildHasher for Seed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded {
            state: self.0,
            key: self.1,
        }
    }
}

/// Multiplies to 128 bits and folds, as wyhash does, word by word.
pub(super) struct Folded {
    state: u64,
    key: u64,
}

impl Folded {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ 0x9E37_79B9_7F4A_7C15);
        self.state = (product as u64) ^ (product >> 64) as u64 ^ self.key.rotate_left(23);
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * 0xA076_1D64_78BD_642F;
        (product as u64) ^ (product >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::SocketAddr;

    // The low bits choose a table's slot and the top seven its tag: both must differ for neighbours.
    #[test]
    fn neighbours_are_spread() {
        let seed = Seed::new([1, 2]);
        let addresses = (0..4096_u32)
            .map(|i| SocketAddr::new(std::net::Ipv4Addr::from(0x0A00_0000 + i).into(), 5));
        let hashes: Vec<u64> = addresses.map(|a| seed.hash_one(a)).collect();
        let distinct =
            |f: fn(u64) -> u64| hashes.iter().map(|h| f(*h)).collect::<HashSet<_>>().len();
        assert_eq!(distinct(|h| h), 4096);
        assert!(
            distinct(|h| h & 0xFFF) > 2400,
            "random would be 2590 of 4096"
        );
        assert_eq!(distinct(|h| h >> 57), 128);
        assert_ne!(
            seed.hash_one(1_u64),
            Seed::new([1, 4]).hash_one(1_u64),
            "the seed matters"
        );
    }
}

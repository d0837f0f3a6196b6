//! What an ICMPv6 error about a packet that already left would have to quote.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv6Addr;

/// Enough for the kernel to find the program: IPv6 header, transport header, the first bytes behind.
const QUOTE: usize = 96;
/// Destinations remembered; a later one takes the place of an earlier one with the same hash.
const SLOTS: usize = 256;

/// The front of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    length: u8,
    bytes: [u8; QUOTE],
}

impl Quote {
    /// Keeps the front of `packet`.
    pub fn new(packet: &[u8]) -> Self {
        let length = packet.len().min(QUOTE);
        let mut bytes = [0; QUOTE];
        bytes[..length].copy_from_slice(&packet[..length]);
        // `QUOTE` fits into a byte.
        Quote {
            length: length as u8,
            bytes,
        }
    }

    /// What was kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The last packet to each of the last destinations.
pub struct Quotes {
    slots: Box<[Option<(Ipv6Addr, Quote)>]>,
    hasher: RandomState,
}

impl Default for Quotes {
    fn default() -> Self {
        Quotes {
            slots: vec![None; SLOTS].into_boxed_slice(),
            hasher: RandomState::new(),
        }
    }
}

impl Quotes {
    fn slot(&self, to: Ipv6Addr) -> usize {
        self.hasher.hash_one(to) as usize % SLOTS
    }

    /// `packet` was the last to `to`.
    pub fn remember(&mut self, to: Ipv6Addr, packet: &[u8]) {
        let slot = self.slot(to);
        self.slots[slot] = Some((to, Quote::new(packet)));
    }

    /// The last packet to `to`, if it is still known.
    pub fn get(&self, to: Ipv6Addr) -> Option<Quote> {
        self.slots[self.slot(to)]
            .filter(|(known, _)| *known == to)
            .map(|(_, quote)| quote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_packet_to_a_destination_is_quoted_and_no_others() {
        let mut quotes = Quotes::default();
        let (a, b) = ("fda0::a".parse().unwrap(), "fda0::b".parse().unwrap());
        assert!(quotes.get(a).is_none());
        quotes.remember(a, &[1; 40]);
        quotes.remember(a, &[2; 2000]);
        assert_eq!(
            quotes.get(a).map(|q| q.as_bytes().to_vec()),
            Some(vec![2; QUOTE])
        );
        assert!(quotes.get(b).is_none());
    }
}

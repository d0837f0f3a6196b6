//! Peer-IDs and Resource-IDs: 128 bits on one ring (R5, RD5, RD56, RD57, RD62).
use anode_wire::{Address, PeerId};
use p256::elliptic_curve::sec1::ToSec1Point;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;

/// A place on the ring: of a peer, of a resource, or a private id. The wire does not tell them apart (RD15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// Bytes on the wire.
    pub const LEN: usize = 16;
    /// Never a peer's; "nothing" in a FIND response (R5, R86).
    pub const ZERO: Id = Id([0; 16]);
    /// Never a peer's; "whoever receives this" on the wire (R5, R55).
    pub const WILDCARD: Id = Id([0xff; 16]);

    /// The Resource-ID of a seed: the leftmost 128 bits of its SHA-1 (RD56).
    pub fn of_seed(seed: &[u8]) -> Self {
        Self::leftmost(&Sha1::digest(seed))
    }

    /// The self-generated Peer-ID of a P-256 key: the leftmost 128 bits of SHA-256 over its SubjectPublicKeyInfo,
    /// followed by the peer digit where it is not 0 (RD62).
    pub fn of_public_key(spki: &[u8], digit: u8) -> Self {
        let mut hash = Sha256::new_with_prefix(spki);
        if digit != 0 {
            hash.update([digit]);
        }
        Self::leftmost(&hash.finalize())
    }

    /// The self-generated Peer-ID of an Anode address (RD62). Costs a point decompression (about 12 µs).
    pub fn of_address(address: &Address, peer: PeerId) -> Self {
        Self::of_public_key(&spki(address), peer.get())
    }

    fn leftmost(hash: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }

    /// Whether a peer may have it (R5).
    pub fn is_valid_peer(self) -> bool {
        self != Self::ZERO && self != Self::WILDCARD
    }

    /// As a number; the ring's arithmetic is modulo 2^128.
    pub const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// From a number.
    pub const fn from_number(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// The id `distance` further clockwise.
    pub const fn plus(self, distance: u128) -> Self {
        Self::from_number(self.number().wrapping_add(distance))
    }

    /// How far clockwise `other` is from here; 0 to itself.
    pub const fn distance_to(self, other: Id) -> u128 {
        other.number().wrapping_sub(self.number())
    }

    /// Whether it lies in the half-open arc `(after, upto]`. Equal ends mean the whole ring: a peer alone is
    /// responsible for everything (R110).
    pub const fn in_range(self, after: Id, upto: Id) -> bool {
        let arc = after.distance_to(upto);
        let here = after.distance_to(self);
        arc == 0 || (here != 0 && here <= arc)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.number())
    }
}

/// The first eight digits: enough to tell peers apart in a log.
impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}..", self.number() >> 96)
    }
}

/// DER of a SubjectPublicKeyInfo with an uncompressed P-256 point, up to the point.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The SubjectPublicKeyInfo (DER, 91 bytes) of an Anode address's key.
pub fn spki(address: &Address) -> Vec<u8> {
    let key = p256::PublicKey::from_sec1_bytes(address.public_key_bytes())
        .expect("an Address holds a point: it was checked when it was made");
    let mut der = SPKI_P256.to_vec();
    der.extend_from_slice(key.to_sec1_point(false).as_bytes());
    der
}

/// The header's Overlay field: CRC-32 (IEEE 802.3) of the name, ASCII lower case, without a trailing dot (R15, RD8).
pub fn overlay_hash(name: &str) -> u32 {
    let name = name.strip_suffix('.').unwrap_or(name);
    crc32fast::hash(name.to_ascii_lowercase().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{address, bytes};

    // R15, RD8
    #[test]
    fn overlay_names_hash_as_in_the_vectors() {
        for name in [
            "123456789",
            "example.com",
            "chord.example.com",
            "a--00000001.net",
        ] {
            let expected = bytes(&format!("overlay-crc32:{name}"));
            assert_eq!(overlay_hash(name).to_be_bytes().to_vec(), expected);
            let shouted = format!("{}.", name.to_ascii_uppercase());
            assert_eq!(overlay_hash(&shouted), overlay_hash(name));
        }
    }

    // RD56, RD57, RD62
    #[test]
    fn ids_are_those_of_the_vectors() {
        let alice = Id::of_seed(b"sip:alice@example.com");
        assert_eq!(alice.0.to_vec(), bytes("resource-id:sip:alice@example.com"));
        let mut seed = vec![0x11; 16];
        seed.push(1);
        assert_eq!(
            Id::of_seed(&seed).0.to_vec(),
            bytes("turn-seed-resource-id")
        );
        assert_eq!(spki(&address()), bytes("spki-der"));
        let peer = Id::of_address(&address(), PeerId::new(0).unwrap());
        assert_eq!(peer.0.to_vec(), bytes("peer-id-sha256"));
        let digit_one = Id::of_address(&address(), PeerId::new(1).unwrap());
        assert_ne!(digit_one, peer);
    }

    // R5
    #[test]
    fn zero_and_the_wildcard_are_no_peers() {
        assert!(!Id::ZERO.is_valid_peer());
        assert!(!Id::WILDCARD.is_valid_peer());
        assert!(Id::from_number(1).is_valid_peer());
    }

    // R110: all arithmetic is modulo 2^128
    #[test]
    fn arcs_wrap_around_the_ring() {
        let id = Id::from_number;
        let cases = [
            (5, 3, 7, true),
            (3, 3, 7, false),
            (7, 3, 7, true),
            (8, 3, 7, false),
            (1, u128::MAX - 1, 4, true),
            (u128::MAX, u128::MAX - 1, 4, true),
            (5, u128::MAX - 1, 4, false),
            (9, 6, 6, true),
            (6, 6, 6, true),
        ];
        for (key, after, upto, expected) in cases {
            assert_eq!(
                id(key).in_range(id(after), id(upto)),
                expected,
                "{key} in ({after}, {upto}]"
            );
        }
        assert_eq!(id(u128::MAX).plus(2), id(1));
        assert_eq!(id(u128::MAX).distance_to(id(1)), 2);
    }
}

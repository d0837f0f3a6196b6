//! Addresses, their short ids, zones and peer ids (Anode 0.8 §2.1, §2.2, §2.7, §3.4).
use std::net::Ipv6Addr;

/// A full ANODE-256-40 address, checked: type 1, zero bytes zero, a point on the curve (D9).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Address([u8; 40]);

impl Address {
    /// Bytes of an address.
    pub const LEN: usize = 40;
    /// Checks all of D9; costs a point decompression (about 12 µs).
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self, crate::WireError> { todo!() }
    /// The 40 bytes.
    pub fn as_bytes(&self) -> &[u8; 40] { &self.0 }
    /// The zone it claims.
    pub fn zone(&self) -> Zone { todo!() }
    /// The draft's 8-byte id; computed at each call (three AES key schedules): keep it.
    pub fn id(&self) -> AddressId { todo!() }
    /// The synthetic IPv6 with the given peer digit (fda0, 108 bits of SHA-256("anode ipv6 1" ‖ address), digit).
    pub fn ipv6(&self, _peer: PeerId) -> Ipv6Addr { todo!() }
    /// Sum of the bytes, for the choice of a zone relay (A22).
    pub fn byte_sum(&self) -> u32 { todo!() }
}
impl std::str::FromStr for Address { type Err = crate::WireError; fn from_str(_s: &str) -> Result<Self, Self::Err> { todo!() } }
/// 64 lower-case base32 characters.
impl std::fmt::Display for Address { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }

/// The 8-byte short id: a name inside packets, never proof of anything (D12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AddressId(pub [u8; 8]);
/// 16 hex digits.
impl std::fmt::Display for AddressId { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }

/// A zone number; 0 means "local only" (D5). Text: up to 8 hex digits in, 8 out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Zone(pub u32);
impl std::fmt::Display for Zone { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
impl std::str::FromStr for Zone { type Err = crate::WireError; fn from_str(_s: &str) -> Result<Self, Self::Err> { todo!() } }

/// One of the up to 15 peers that share an address; 0 = any (A44).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PeerId(u8);
impl PeerId {
    /// No particular peer.
    pub const ANY: PeerId = PeerId(0);
    /// 0 to 15, else `None`.
    pub fn new(id: u8) -> Option<Self> { (id < 16).then_some(PeerId(id)) }
    /// 0 to 15.
    pub fn get(self) -> u8 { self.0 }
}

/// Whether `ip` lies in fda0::/16.
pub fn is_synthetic(ip: Ipv6Addr) -> bool { ip.segments()[0] == 0xfda0 }
/// `ip` with peer digit 0, and its digit.
pub fn split_digit(_ip: Ipv6Addr) -> (Ipv6Addr, PeerId) { todo!() }

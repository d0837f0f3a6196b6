//! The common packet format (Anode 0.8 §3).
use crate::{AddressId, PeerId, WireError};

/// Bytes of the smallest packet.
pub const MIN_PACKET: usize = 28;
/// Header bytes with a full sender and a short recipient.
pub const FULL_SENDER_HEADER: usize = 60;
/// Header bytes with two short ids.
pub const SHORT_HEADER: usize = 28;
/// Flag: the sender is a full address.
pub const FLAG_FULL_SENDER: u8 = 1;
/// Flag: the recipient is a full address.
pub const FLAG_FULL_RECIPIENT: u8 = 2;
/// Flag: an authentication error, which must have no effect (A42).
pub const FLAG_AUTH_ERROR: u8 = 4;

/// Sender or recipient as it stands in a packet. A full one is raw bytes, not yet checked (D9): look it up before you check it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party<'a> {
    /// 40 bytes whose first is 1.
    Full(&'a [u8; 40]),
    /// A short id.
    Id(AddressId),
}

/// Everything of a header but the MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Relays passed.
    pub hop_count: u8,
    /// Only `FLAG_AUTH_ERROR` is taken from here; the address flags follow from the parties.
    pub flags: u8,
    /// Who sends.
    pub sender: Party<'a>,
    /// Who shall get it.
    pub recipient: Party<'a>,
    /// High nibble (D17).
    pub sender_peer: PeerId,
    /// Low nibble.
    pub recipient_peer: PeerId,
    /// Message type.
    pub kind: u8,
}
impl Header<'_> {
    /// Bytes of the header, 28 to 92.
    pub fn len(&self) -> usize { todo!() }
    /// Never.
    pub fn is_empty(&self) -> bool { false }
    /// Writes the header with a zero MAC into `out[..self.len()]`.
    pub fn emit(&self, _out: &mut [u8]) { todo!() }
}

/// A checked view of a packet's bytes: no accessor panics.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> { buffer: T }
impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks lengths and address types; not the MAC, not the points.
    pub fn new_checked(_buffer: T) -> Result<Self, WireError> { todo!() }
    /// Relays passed.
    pub fn hop_count(&self) -> u8 { todo!() }
    /// The flags byte.
    pub fn flags(&self) -> u8 { todo!() }
    /// The MAC field.
    pub fn mac(&self) -> [u8; 8] { todo!() }
    /// The sender.
    pub fn sender(&self) -> Party<'_> { todo!() }
    /// The recipient.
    pub fn recipient(&self) -> Party<'_> { todo!() }
    /// Sender's peer id.
    pub fn sender_peer(&self) -> PeerId { todo!() }
    /// Recipient's peer id.
    pub fn recipient_peer(&self) -> PeerId { todo!() }
    /// Message type.
    pub fn kind(&self) -> u8 { todo!() }
    /// The message's body.
    pub fn body(&self) -> &[u8] { todo!() }
    /// The whole packet.
    pub fn as_bytes(&self) -> &[u8] { self.buffer.as_ref() }
}

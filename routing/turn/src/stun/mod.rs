//! STUN messages: reading without copying, writing, integrity, text, nonces.
//!
//! Attribute types come from the crates `stun-types` and `turn-types`. Three of their parts are not used, with reason:
//!
//! - `stun_types::Message::from_bytes` reads on past the length of the header, logs a warning for every hostile
//!   packet, and overflows (a panic in debug builds) when it checks the integrity of a message near 64 KiB.
//! - `stun_types::IntegrityKey` can only be made from a password. A TURN server must store the key, not the password
//!   (RFC 8656 §5), and RFC 8489 lets the key's digest and the message's HMAC differ.
//! - `turn_types` channel framing neither writes nor skips padding, and takes 0x4000 to 0xFFFE.

pub mod integrity;
mod message;
pub(crate) mod nonce;
pub mod text;
mod writer;

pub use integrity::{Key, KeyDigest, Mac};
pub(crate) use message::transaction_number as stun_id;
pub use message::{Class, Message, TransactionId, is_stun};
pub use writer::Writer;

/// Methods (RFC 8489, RFC 8656, RFC 6062).
pub mod method {
    /// Binding.
    pub const BINDING: u16 = 0x001;
    /// Allocate.
    pub const ALLOCATE: u16 = 0x003;
    /// Refresh.
    pub const REFRESH: u16 = 0x004;
    /// Send, an indication.
    pub const SEND: u16 = 0x006;
    /// Data, an indication.
    pub const DATA: u16 = 0x007;
    /// CreatePermission.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// ChannelBind.
    pub const CHANNEL_BIND: u16 = 0x009;
    /// Connect (RFC 6062).
    pub const CONNECT: u16 = 0x00A;
    /// ConnectionBind (RFC 6062).
    pub const CONNECTION_BIND: u16 = 0x00B;
    /// ConnectionAttempt, an indication (RFC 6062).
    pub const CONNECTION_ATTEMPT: u16 = 0x00C;
}

/// Attribute types as they stand on the wire.
pub mod attr {
    #![allow(missing_docs)] // the names are the RFCs' own
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    pub const LIFETIME: u16 = 0x000D;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const EVEN_PORT: u16 = 0x0018;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const DONT_FRAGMENT: u16 = 0x001A;
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub const PASSWORD_ALGORITHM: u16 = 0x001D;
    pub const USERHASH: u16 = 0x001E;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    pub const CONNECTION_ID: u16 = 0x002A;
    pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
    pub const ALTERNATE_DOMAIN: u16 = 0x8003;
    pub const ICMP: u16 = 0x8004;
    pub const SOFTWARE: u16 = 0x8022;
    pub const ALTERNATE_SERVER: u16 = 0x8023;
    pub const FINGERPRINT: u16 = 0x8028;
    /// ADDITIONAL-ADDRESS-FAMILY's number in the draft; old clients still send it.
    pub const ADDITIONAL_ADDRESS_FAMILY_DRAFT: u16 = 0x8032;
}

#[cfg(test)]
mod vectors;

//! The Anode 0.8 wire: identities, addresses, digests, MACs, packets, messages, endpoints and zone files.
//!
//! Sans-IO: bytes and randomness come in as arguments; nothing here opens a file, a socket or a clock.

pub mod address;
pub mod endpoint;
pub mod identity;
pub mod mac;
pub mod message;
pub mod packet;
pub mod zonefile;

pub use address::{Address, AddressId, PeerId, Zone};
pub use endpoint::Endpoint;
pub use identity::Identity;
pub use mac::MacKey;
pub use message::Message;
pub use packet::{Header, Packet, Party};

/// Why bytes or text are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before the structure does.
    #[error("truncated")]
    Truncated,
}

//! The Anode 0.8 wire: everything of the protocol that is bytes, and nothing that is time, state or a socket.
//!
//! ```text
//!   address  40 bytes, base32, short id, synthetic IPv6      zonefile  key=value text, relay entries
//!   identity private scalar ─ECDH─▶ mac                      endpoint  where packets may be sent
//!               │                    │ CMAC-AES-256             │
//!               ▼                    ▼                          ▼
//!   packet   ┌ hop ┬ flags ┬ MAC ┬ sender ┬ recipient ┬ peers ┬ type ┬ body ┐
//!            └─────┴───────┴─────┴────────┴───────────┴───────┴──────┴──┬───┘
//!   message  ERROR PING PONG EPC_REQ EPC EPI NAT_T NETID_REQ NETID DGRAM│S_* IPPKT WHOIS IAM
//!   framing  packets in a TCP stream or an HTTP body         throttle  when an ERROR may answer
//! ```
//!
//! Sans-IO: bytes, time and randomness come in as arguments. No parser panics, whatever the bytes; what they
//! allocate is bounded by what they were given. `docs/spec/anode.md` numbers the requirements (A1, D1, …) that
//! the comments and tests here name.

pub mod address;
mod base32;
pub mod endpoint;
mod error;
pub mod framing;
pub mod identity;
pub mod mac;
pub mod message;
pub mod packet;
pub mod sealed;
pub mod throttle;
pub mod zonefile;

pub use address::{Address, AddressId, PeerId, Zone};
pub use endpoint::Endpoint;
pub use error::WireError;
pub use identity::Identity;
pub use mac::MacKey;
pub use message::Message;
pub use packet::{Header, Packet, Party};

#[cfg(test)]
mod vectors;

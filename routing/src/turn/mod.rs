//! STUN and TURN on real sockets: the state machines of `anode-turn` behind UDP, TCP, TLS and DTLS.
//!
//! ```text
//!   server ── a thread ("shard") a core ── anode_turn::server::Server
//!     │ ports, relays, streams, dtls, peers                       │
//!     └ udp: batches in, segments out        certificate: TLS and DTLS of both sides
//!   client ── one socket ── anode_turn::client::Client            │
//!     └ wire: UDP, TCP, TLS, DTLS ────────────────────────────────┘
//! ```
//!
//! Nothing here needs the overlay: the server runs alone, and the client serves `anode turn check` as well as a path.

pub mod certificate;
pub mod client;
mod cookie;
pub mod server;
mod udp;

/// Sets or clears DF on what an IPv4 or IPv6 UDP socket sends (RFC 8656 §14); the operating system's side of it, which
/// is not for this crate to know.
pub type SetDontFragment = fn(std::os::fd::BorrowedFd<'_>, bool) -> std::io::Result<()>;

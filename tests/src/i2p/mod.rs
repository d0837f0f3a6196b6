//! I2P for tests: a strict router of our own, and i2pd in a private network.
//!
//! ```text
//!   client ── TCP, TLS, Unix socket ──▶ router: sessions, lease sets, lookups, messages between its sessions
//!                                          │
//!                                        wire: what is read of the client, to the last byte
//!                                        lease_set: LeaseSet2 and encrypted ones, checked and opened
//!   end: the overlay without a node around it
//!   i2pd: real routers in namespaces, on one bridge
//! ```
//!
//! The router shares no code with the client but the parsing and verifying of destinations; what it reads it reads itself.

pub mod end;
pub mod i2pd;
pub mod lease_set;
pub mod router;
mod wire;

pub use router::{Password, Router, RouterOptions, Session};

//! I2P for a program that has a router beside it: the client side of I2CP, datagrams, and the streaming protocol, as
//! sans-IO state machines. Requirements I1 to I76 of the list `i2cp`; layouts are cited by its sections.
//!
//! Nothing here knows a socket, a clock or the machine's randomness. Bytes, the time ([`Now`]) and seeds come in as
//! arguments; bytes, events and the next deadline come out.
//!
//! ```text
//!            connect, write, send_datagram, lookup, ping         poll_event
//!                          │                                          ▲
//!  ┌───────────────────────▼──────── endpoint ────────────────────────┴───────┐
//!  │  streaming: SYN, windows,   │ datagram: 17, 18, │ names: b32, base 64    │
//!  │  NACKs, choke, close, ping  │ 19, 20; ports     │ keys: own destinations │
//!  ├─────────────────────────────┴───────────────────┤ destination: peers'    │
//!  │  envelope: gzip with ports and protocol         │ options: what to send  │
//!  ├─────────────────────────────────────────────────┤  and who heeds it      │
//!  │  client: handshake, session, lookups, idle      │                        │
//!  │   ├ lease_set: signed ways into us; encrypted   │                        │
//!  │   └ message: frames and messages of I2CP        │                        │
//!  └──────┬──────────────────────────────────▲───────┴────────────────────────┘
//!         ▼                                  │
//!   poll_transmit, deadline         received, handle_timeout        the router's socket
//! ```
//!
//! How to drive an [`endpoint::Endpoint`], which holds all of it for one local destination and one connection:
//!
//! 1. Connect to the router (TCP, TLS, Unix socket) and make the endpoint; it has the first bytes ready.
//! 2. After every call: write what [`poll_transmit`](endpoint::Endpoint::poll_transmit) gives until it says `None` (or
//!    stop while the socket is full: the streams wait), drain [`poll_event`](endpoint::Endpoint::poll_event), and sleep
//!    until [`deadline`](endpoint::Endpoint::deadline) at most, then call
//!    [`handle_timeout`](endpoint::Endpoint::handle_timeout).
//! 3. Bytes from the socket go into [`received`](endpoint::Endpoint::received), its end into
//!    [`connection_lost`](endpoint::Endpoint::connection_lost).
//! 4. [`Closed`](endpoint::Event::Closed) is the last event of a connection. Streams are gone by then. If the reason
//!    [is not permanent](client::CloseReason::is_permanent), connect again after a while and
//!    [`restart`](endpoint::Endpoint::restart).
//!
//! Who is trusted: the router sees the traffic's metadata and holds the X25519 key, so that it could read us; it can not
//! sign as us. A router that breaks the protocol is left. What comes from the network *through* the router is never
//! believed: it is verified or dropped and counted, and the session goes on. Tables and queues are bounded.
#![forbid(unsafe_code)]

pub mod client;
mod codec;
pub mod datagram;
pub mod destination;
mod encrypted;
pub mod endpoint;
pub mod envelope;
mod error;
pub mod keys;
mod lease_set;
pub mod message;
pub mod names;
pub mod options;
#[cfg(test)]
mod router;
pub mod streaming;
mod time;
#[cfg(test)]
mod vectors;

pub use codec::Mapping;
pub use error::{Error, Result};
pub use time::Now;

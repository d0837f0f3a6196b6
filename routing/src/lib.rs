//! The overlays: peers, paths, discovery, streams and datagrams between addresses that are public keys.
//!
//! ```text
//!   tunnel ──▶ overlay  the one trait that the program knows: flows in, flows out, all synchronous and in batches
//!                 │
//!                i2p    I2pOverlay: destinations of I2P through a router beside us
//!                 │
//!                net    AnodeOverlay: UDP sockets (GSO, GRO), LAN beacons' sockets, one `Node`
//!                 │ datagrams, time
//!               anode   Node: sans-IO; peers, paths, EPC, beacons, WHOIS, pings, datagrams, streams
//!                 │
//!      anode-wire, anode-stream
//!
//!              dht      this node in RELOAD overlays, its links in sealed sessions: anode-reload
//!              links    RELOAD's own links: DTLS and TLS, by CONNECT over ice (UDP, TCP, TURN); a thread of their own
//!              tracker  BitTorrent trackers: asking them, announcing to them, being one; tokio, beside the data path
//! ```
//!
//! `Node` takes bytes, time and randomness as arguments and can be simulated; only `net` opens sockets.
#![forbid(unsafe_code)]
pub mod anode;
mod counters;
pub mod dht;
pub mod i2p;
pub mod ice;
mod judge;
pub mod links;
pub mod net;
pub mod overlay;
mod sockets;
pub mod tracker;
pub mod turn;

pub use i2p::I2pOverlay;
pub use net::AnodeOverlay;
pub use overlay::{Failure, Overlay, OverlayEvent, OverlaySink, StreamId};

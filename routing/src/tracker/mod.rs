//! Trackers with sockets: asking one, announcing to many, being one. What is said and when, `anode-tracker` decides.
//!
//! ```text
//!   anode tracker …      the node's rendezvous            a relay's tracker
//!        │                        │                              │
//!       ask                   announcer                        server      one thread, one port for UDP and HTTP
//!        └──────┬─────────────────┤                              │
//!             http   (GET)     datagrams                    anode_tracker::server
//!               └─ socket: bound to a local address, then connected (B3, B4)
//! ```
//!
//! All of it is tokio, on a thread that carries no traffic. Nothing here looks at the addresses in an answer.
mod announcer;
mod ask;
mod http;
mod server;
mod socket;

pub use announcer::{Announcer, Names};
pub use anode_tracker::client::{About, ClientCounters, Report, TrackerId};
pub use anode_tracker::rendezvous::{
    Cidr, InvalidCidr, LocalAddress, Publish, Rotation, Scope, Unpublished, epochs_in_force,
    info_hash, next_change, pairs, scope,
};
pub use anode_tracker::server::Config as ServerConfig;
pub use anode_tracker::{
    Announce, Answer, Event, InfoHash, InvalidInfoHash, InvalidUrl, Key, PeerId, Scheme,
    ScrapeEntry, TrackerUrl,
};
pub use ask::{AskError, Question, Reply, ask};
pub use http::{GetError, get};
pub use server::{ConnectionLimits, Listeners, OwnHashes, RunningTracker, Served, Tracker};

/// Answers of one call to the tracker of a URL, over TLS: the certificates that count. `None`: https is refused.
pub type TlsConfig = Option<std::sync::Arc<tokio_rustls::rustls::ClientConfig>>;

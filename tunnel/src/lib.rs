//! The program `anode` as a library: people, files and the control socket on one side, the data thread on the other.
//!
//! ```text
//!  cli ── output                       what people type and read; exit statuses
//!   │
//!   ├── config, value, names           flags and files to checked values, with the place of what is wrong
//!   ├── zone                           the zone file: fetched, judged, kept, made
//!   ├── tracker                        meeting peers at BitTorrent trackers, and being one
//!   ├── state                          identity, trust book, learnt peers, the lock
//!   ├── control                        HTTP+JSON on a Unix socket: server in the node, client in every other command
//!   ├── dht                           the DHTs: [[dht]], the task that drives them
//!   ├── dns                           names for other programs: a responder for .anode, systemd-resolved
//!   ├── node ── command ──▶ data       a node's life; what the control side asks the data thread
//!   │                        ├ policy   who may reach this machine
//!   │                        ├ relay    relaying and relays, as the configuration has them
//!   │                        └ adapter  flows of the netstack joined to streams of the overlays
//!   ├── turn                           the TURN server alone, and commands that try one
//!   └── demo                           two nodes in namespaces of their own
//! ```
#![forbid(unsafe_code)]

pub mod adapter;
pub mod cli;
mod clock;
pub mod command;
pub mod config;
pub mod control;
pub mod data;
pub mod demo;
pub mod dht;
pub mod dns;
pub mod error;
pub mod named;
pub mod names;
pub mod node;
pub mod output;
pub mod policy;
pub mod portmap;
pub mod relay;
pub mod routes;
pub mod state;
pub mod tracker;
pub mod turn;
pub mod value;
pub mod zone;

pub use error::Error;

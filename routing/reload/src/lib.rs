//! RELOAD
#![forbid(unsafe_code)]

pub mod body;
pub mod chord;
mod codec;
pub mod config;
pub mod contents;
mod error;
pub mod fragment;
pub mod header;
mod id;
pub mod node;
pub mod private_id;
pub mod route_log;
pub mod security;
pub mod signature;
pub mod storage;
pub mod topology;
pub mod usage;

pub use body::{DataModel, DataValue, StoredData, TypeId};
pub use chord::Chord;
pub use contents::{Code, Method};
pub use error::ReloadError;
pub use header::Header;
pub use id::{Id, overlay_hash, spki};
pub use node::{Event, LinkInfo, Node, NodeConfig, Transmit};
pub use security::{Credentials, Security, SharedKey};
pub use signature::{Signature, SignerIdentity};
pub use topology::Topology;

use std::time::Duration;

/// The time, as the caller knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// Since any fixed moment; never goes back. For timers.
    pub at: Duration,
    /// Seconds since 1970. For storage times and certificates.
    pub unix: u64,
}

/// A connection to another node, numbered by the caller; a number is not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

#[cfg(test)]
mod vectors;

//! Stub docs.
#![forbid(unsafe_code)]

pub mod bencode;
pub mod compact;
pub mod http;
pub mod rendezvous;
pub mod server;
#[cfg(test)]
mod test_vectors;
mod types;
pub mod udp;
mod url;

pub use types::*;
pub use url::{InvalidUrl, MAX_URL, Scheme, TrackerUrl};

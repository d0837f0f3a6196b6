//! x
#![forbid(unsafe_code)]
pub mod client;
mod codec;
pub mod destination;
pub mod envelope;
mod error;
pub mod keys;
mod lease_set;
pub mod message;
pub mod names;
pub mod options;
#[cfg(test)]
mod router;
mod time;
#[cfg(test)]
mod vectors;
pub use codec::Mapping;
pub use error::{Error, Result};
pub use time::Now;

//! x
#![forbid(unsafe_code)]
mod error;
pub mod frame;
pub mod policy;
pub mod server;
pub mod stun;
pub use error::TurnError;
pub(crate) use stun::stun_id;

//! x
#![forbid(unsafe_code)]
pub mod client;
mod error;
pub mod frame;
pub mod policy;
pub mod resolve;
pub mod rto;
pub mod server;
pub mod stun;
pub mod uri;
pub use error::TurnError;
pub(crate) use stun::stun_id;

//! The TURN server, beside a relay or alone, and the commands that try a server.

pub mod access;
pub mod alone;
pub mod attempt;
pub mod key_users;
pub mod paths;
pub(crate) mod resolve;
pub mod role;

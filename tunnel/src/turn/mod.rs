//! The TURN server, beside a relay or alone, and the commands that try a server.

pub mod alone;
pub mod attempt;
mod resolve;
pub mod role;

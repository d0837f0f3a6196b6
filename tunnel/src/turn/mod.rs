//! The TURN server where it runs alone, and the commands that try a server.

pub mod alone;
pub mod attempt;
mod resolve;

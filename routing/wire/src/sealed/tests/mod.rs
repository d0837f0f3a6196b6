//! Requirement by requirement, with three parties on virtual time.
mod net;

mod handshake;

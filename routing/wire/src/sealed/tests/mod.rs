//! Requirement by requirement, with three parties on virtual time.
mod net;

mod flood;
mod forgery;
mod handshake;
mod kem;
mod lifetime;
mod sealed;

//! The whole crate against a second TCP.

mod model;
mod packets;
mod tcp;
mod world;

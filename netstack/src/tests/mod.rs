//! The whole crate against a second TCP.

mod tcp;
mod world;

//! The whole crate against a second TCP.

mod model;
mod tcp;
mod world;

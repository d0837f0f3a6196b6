//! The whole crate against a second TCP.

mod errors;
mod fragments;
mod model;
mod packets;
mod tcp;
mod world;

//! The program `anode` as a library.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod command;
pub mod error;
pub mod node;

pub use error::Error;

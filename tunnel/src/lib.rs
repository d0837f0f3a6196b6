//! The program `anode` as a library.
#![forbid(unsafe_code)]

pub mod command;
pub mod config;
pub mod control;
pub mod error;
pub mod names;
pub mod node;
pub mod state;
pub mod value;

pub use error::Error;

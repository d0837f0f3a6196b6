//! The bodies of the fuzz targets, a module per theme. They are plain functions of bytes that need little beside the crate
//! they are about, so that its ordinary tests can include the module, replay the corpus and mutate it.
#![forbid(unsafe_code)]

pub mod i2cp;
pub mod reload;
pub mod sealed;
pub mod steps;
pub mod tracker;
pub mod turn;
pub mod wire;

//! The bodies of the fuzz targets, one module per crate. They are plain functions of bytes without dependencies of their
//! own, so that the crates' ordinary tests can include the module, replay the corpus and mutate it.
#![forbid(unsafe_code)]

pub mod wire;

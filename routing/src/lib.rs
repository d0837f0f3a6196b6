//! The overlays. `overlay` is all that the program knows of them.
#![forbid(unsafe_code)]
pub mod overlay;
pub mod anode;
pub use overlay::{Overlay, OverlayEvent, OverlaySink, StreamId};

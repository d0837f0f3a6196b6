//! The Anode overlay.

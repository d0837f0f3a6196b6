//! Capabilities and what is missing of them.

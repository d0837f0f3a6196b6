//! Zone files (Anode 0.8 §2.1, §2.3.1).
/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("")]
pub struct Fault;

//! The vectors of docs/spec, for tests.

use serde_json::Value;

/// The whole file.
pub(crate) fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/spec/anode-vectors.json")).unwrap()
}

/// The vectors of one group.
pub(crate) fn vectors(group: &str) -> Vec<Value> {
    let vectors = document()[group]["vectors"].as_array().unwrap().clone();
    assert!(!vectors.is_empty());
    vectors
}

/// A hexadecimal text of the vectors.
pub(crate) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

//! Access to the shared test vectors, `tests/vectors/anode-vectors.json`.
use serde_json::Value;
use std::sync::OnceLock;

fn all() -> &'static Value {
    static ALL: OnceLock<Value> = OnceLock::new();
    ALL.get_or_init(|| {
        serde_json::from_str(include_str!("../tests/vectors/anode-vectors.json")).unwrap()
    })
}

/// The vectors of one group; at least one, so that no test passes by finding nothing.
pub(crate) fn vectors(group: &str) -> &'static [Value] {
    let vectors = all()[group]["vectors"]
        .as_array()
        .unwrap_or_else(|| panic!("no vectors for {group}"));
    assert!(!vectors.is_empty());
    vectors
}

/// The vector of a group whose `field` is `name`.
pub(crate) fn vector(group: &str, field: &str, name: &str) -> &'static Value {
    vectors(group)
        .iter()
        .find(|v| v[field] == name)
        .unwrap_or_else(|| panic!("no {name} in {group}"))
}

/// Bytes of a hexadecimal string.
pub(crate) fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().expect("a hexadecimal string");
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// The identity of a vector's key, in the zone that `addresses` gives it.
pub(crate) fn identity(name: &str) -> crate::Identity {
    let scalar: [u8; 32] = hex(&vector("keys", "name", name)["private"])
        .try_into()
        .unwrap();
    let zone = vector("addresses", "key", name)["zone"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    crate::Identity::from_scalar(zone, &scalar).unwrap()
}

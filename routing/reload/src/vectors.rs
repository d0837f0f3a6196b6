//! Access to the test vectors, `tests/vectors/reload-vectors.json`.
use serde_json::Value;
use std::sync::OnceLock;

fn all() -> &'static Value {
    static ALL: OnceLock<Value> = OnceLock::new();
    ALL.get_or_init(|| {
        serde_json::from_str(include_str!("../tests/vectors/reload-vectors.json")).unwrap()
    })
}

pub(crate) fn vector(name: &str) -> &'static Value {
    all()["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|vector| vector["name"] == name)
        .unwrap_or_else(|| panic!("no vector {name}"))
}

/// The bytes of a vector.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    hex(vector(name)["hex"].as_str().unwrap())
}

/// The bytes of one of its inputs.
pub(crate) fn input(name: &str, field: &str) -> Vec<u8> {
    hex(vector(name)["inputs"][field].as_str().unwrap())
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// The key of RFC 6979 A.2.5, which signs the vectors.
pub(crate) const SCALAR: &str = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";

/// Its Anode address, in zone 1.
pub(crate) fn address() -> anode_wire::Address {
    anode_wire::Address::from_bytes(&bytes("anode-address")).unwrap()
}

#[test]
fn every_vector_is_named_in_a_test() {
    let sources = [
        include_str!("id.rs"),
        include_str!("header.rs"),
        include_str!("contents.rs"),
        include_str!("fragment.rs"),
        include_str!("security/tests.rs"),
        include_str!("body/mod.rs"),
        include_str!("body/data/tests.rs"),
        include_str!("body/connect.rs"),
        include_str!("usage/turn.rs"),
        include_str!("usage/sip.rs"),
        include_str!("usage/anode.rs"),
        // `address`, which most of them use
        "\"anode-address\"",
    ];
    for vector in all()["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        // rejected alternatives (RD56, RD62) and the names of the checksums
        if ["resource-id:sha256-variant", "peer-id-sha1"].contains(&name)
            || name.starts_with("overlay-crc32:")
        {
            continue;
        }
        let quoted = format!("\"{name}\"");
        assert!(
            sources.iter().any(|source| source.contains(&quoted)),
            "no test uses {name}"
        );
    }
}

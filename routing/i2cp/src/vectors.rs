//! The vectors of the requirement list, `docs/spec/i2cp-vectors.json`.
use crate::destination::Destination;
use crate::keys::LocalDestination;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// The value at a JSON pointer.
pub(crate) fn vector(pointer: &str) -> &'static Value {
    static ALL: OnceLock<Value> = OnceLock::new();
    ALL.get_or_init(|| {
        serde_json::from_str(include_str!("../../../docs/spec/i2cp-vectors.json")).unwrap()
    })
    .pointer(pointer)
    .unwrap_or_else(|| panic!("no vector {pointer}"))
}

/// The text at a JSON pointer.
pub(crate) fn text(pointer: &str) -> &'static str {
    vector(pointer).as_str().unwrap()
}

/// The bytes of the hexadecimal string at a JSON pointer.
pub(crate) fn hex(pointer: &str) -> Vec<u8> {
    data_encoding::HEXLOWER
        .decode(text(pointer).as_bytes())
        .unwrap()
}

pub(crate) fn array<const N: usize>(pointer: &str) -> [u8; N] {
    hex(pointer).try_into().unwrap()
}

/// The keys of A or B.
pub(crate) fn keys(who: &str) -> Arc<LocalDestination> {
    Arc::new(
        LocalDestination::from_parts(
            Destination::decode(&hex(&format!("/{who}/destination"))).unwrap(),
            &array(&format!("/{who}/signing_seed")),
        )
        .unwrap(),
    )
}

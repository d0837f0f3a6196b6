//! What people write: KIND, KEY, VALUE and X of `anode dht`.

use std::str::FromStr;

use anode_routing::dht::reload::usage::{Kinds, anode, open, sip, turn};
use anode_routing::dht::reload::{DataModel, DataValue, Id, TypeId};
use anode_wire::{Address, PeerId};
use serde::{Deserialize, Serialize};

use crate::state::book::hex;
use crate::value::ValueError;

/// Bytes of a value that is given with `@FILE`.
pub const MAX_VALUE: usize = 4096;

/// A kind of data: the name of a usage, or a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KindText(pub TypeId);

impl FromStr for KindText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let kinds = Kinds::standard();
        if let Some(kind) = kinds.by_name(text) {
            return Ok(Self(kind.id));
        }
        let number = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let known = number.map(TypeId).filter(|kind| kinds.get(*kind).is_some());
        known.map(Self).ok_or_else(|| {
            ValueError::new(format!(
                "kind {text:?}: use ANODE-RECORD, SIP-REGISTRATION, TURN-SERVICE, CERTIFICATE, their numbers, or one from {:#x} to {:#x}",
                open::NUMBERS.start(),
                open::NUMBERS.end()
            ))
        })
    }
}

/// Text, or `hex:…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BytesText(pub Vec<u8>);

impl FromStr for BytesText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.strip_prefix("hex:") {
            Some(digits) => unhex(digits).map(Self),
            None => Ok(Self(text.as_bytes().to_vec())),
        }
    }
}

/// Bytes of hex digits.
pub fn unhex(digits: &str) -> Result<Vec<u8>, ValueError> {
    let wrong = || ValueError::new(format!("hex:{digits}: use two hex digits for each byte"));
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let nibble = |digit: &u8| char::from(*digit).to_digit(16).ok_or_else(wrong);
    let byte = |pair: &[u8]| Ok((nibble(&pair[0])? << 4 | nibble(&pair[1])?) as u8);
    digits.chunks_exact(2).map(byte).collect()
}

/// Where a KEY of a kind stands. `own` is the Peer-ID of this node, for whom a bare number names the own TURN pointer.
pub fn resource(kind: TypeId, key: &str, own: Id) -> Result<Id, ValueError> {
    let bytes = key.parse::<BytesText>()?.0;
    let is_text = !key.starts_with("hex:");
    let wrong = |what: &str| ValueError::new(format!("key {key:?}: {what}"));
    match kind {
        TypeId::SIP_REGISTRATION if is_text => {
            sip::resource(key).ok_or_else(|| wrong("a SIP-REGISTRATION stands under a sip: URI"))
        }
        TypeId::TURN_SERVICE if is_text => match key.parse() {
            Ok(number @ 1..=turn::MAX_DENSITY) => Ok(turn::TurnServer::resource(own, number)),
            _ => Err(wrong("a TURN-SERVICE of this node stands under 1 to 100")),
        },
        _ if bytes.is_empty() => Err(wrong("it is empty")),
        _ => Ok(Id::of_seed(&bytes)),
    }
}

/// A value as this node would store it under its own name: its address, or its Peer-ID in the overlay.
pub fn value(kind: TypeId, bytes: Vec<u8>, own: (Address, PeerId), peer: Id) -> DataValue {
    let kinds = Kinds::standard();
    match kinds.model(kind) {
        Some(DataModel::Single) | None => DataValue::Single(bytes),
        Some(DataModel::Array) => DataValue::Array {
            index: -1,
            value: bytes,
        },
        Some(DataModel::Dictionary) => DataValue::Dictionary {
            key: match kind {
                TypeId::SIP_REGISTRATION => peer.0.to_vec(),
                _ => anode::key(&own.0, own.1),
            },
            value: bytes,
        },
    }
}

/// For how long `anode dht put` stores.
pub fn lifetime(kind: TypeId) -> u32 {
    let kinds = Kinds::standard();
    kinds.get(kind).map_or(0, |kind| kind.max_lifetime)
}

/// X as `hex:` of a Resource-ID; `None`: it is something else.
pub fn resource_id(text: &str) -> Option<Result<Id, ValueError>> {
    let digits = text.strip_prefix("hex:")?;
    Some(unhex(digits).and_then(|bytes| {
        let bytes = <[u8; 16]>::try_from(bytes);
        bytes.map(Id).map_err(|_| {
            ValueError::new(format!("{text}: a Resource-ID has 16 bytes, 32 hex digits"))
        })
    }))
}

/// A stored value, for people: as text where it is one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValueDocument {
    /// Anode address of who has signed it, or its Peer-ID; `null` without a signature.
    pub owner: Option<String>,
    /// Key or index in hex, `null` for single values.
    pub key: Option<String>,
    /// The value, if it is printable text.
    pub text: Option<String>,
    /// The value.
    pub hex: String,
    /// Unix seconds, by its owner's clock.
    pub storage_time: u32,
    /// Unix seconds.
    pub expires: u64,
}

impl ValueDocument {
    /// As JSON has it.
    pub fn new(value: &anode_routing::dht::Value) -> Self {
        use anode_routing::dht::reload::SignerIdentity;
        let owner = value.owner.as_ref().map(|owner| match owner {
            SignerIdentity::Anode(address) | SignerIdentity::AnodePeer(address, _) => {
                address.to_string()
            }
            SignerIdentity::Peer(id) => hex(&id.0),
            SignerIdentity::Name(name) => name.clone(),
            SignerIdentity::Certificate(_) => "certificate".to_owned(),
        });
        let text = String::from_utf8(value.value.clone()).ok();
        let printable = |text: &String| text.chars().all(|c| !c.is_control() || c == '\n');
        Self {
            owner,
            key: value.key.as_deref().map(hex),
            text: text.filter(printable),
            hex: hex(&value.value),
            storage_time: value.storage_time,
            expires: value.expires,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_and_numbers() {
        for (text, number) in [
            ("ANODE-RECORD", 0xF0_0001),
            ("anode-record", 0xF0_0001),
            ("1", 1),
            ("0xF00010", 0xF0_0010),
            ("15728656", 0xF0_0010),
        ] {
            assert_eq!(text.parse::<KindText>().unwrap().0.0, number, "{text}");
        }
        for text in ["", "0", "4", "0xF00002", "0x1000000", "SIP", "-1", "0xzz"] {
            assert!(text.parse::<KindText>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_text_or_hex() {
        assert_eq!("abc".parse::<BytesText>().unwrap().0, b"abc");
        assert_eq!("hex:00fF".parse::<BytesText>().unwrap().0, [0, 0xff]);
        assert_eq!("hex:".parse::<BytesText>().unwrap().0, b"");
        for text in ["hex:0", "hex:0g", "hex:0 1"] {
            assert!(text.parse::<BytesText>().is_err(), "{text}");
        }
        let id = resource_id("hex:000102030405060708090a0b0c0d0e0f").unwrap();
        assert_eq!(hex(&id.unwrap().0), "000102030405060708090a0b0c0d0e0f");
        assert!(resource_id("hex:00").unwrap().is_err());
        assert!(resource_id("laptop").is_none());
    }

    // R57, RD57
    #[test]
    fn keys_lead_to_the_places_of_their_usages() {
        let own = Id([7; 16]);
        let at = |kind, key| resource(kind, key, own);
        assert_eq!(
            at(TypeId::SIP_REGISTRATION, "sip:alice@EXAMPLE.com").unwrap(),
            Id::of_seed(b"sip:alice@example.com")
        );
        assert_eq!(
            at(TypeId::TURN_SERVICE, "3").unwrap(),
            Id::of_seed(&[&[7; 16][..], &[3]].concat())
        );
        assert_eq!(at(TypeId(0xF0_0010), "x").unwrap(), Id::of_seed(b"x"));
        assert_eq!(at(TypeId(0xF0_0010), "hex:78").unwrap(), Id::of_seed(b"x"));
        assert!(at(TypeId::TURN_SERVICE, "0").is_err());
        assert!(at(TypeId::SIP_REGISTRATION, "alice").is_err());
        assert!(at(TypeId(0xF0_0010), "").is_err());
    }
}

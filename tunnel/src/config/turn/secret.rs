//! Passwords, keys and secrets in the configuration: read so that no message quotes them.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

/// Something that no message and no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hidden::<Self>(PhantomData))
    }
}

/// What a user is known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A password; only its keys are kept.
    Password(Secret),
    /// Keys, in hexadecimal.
    Keys {
        /// MD5 of name, realm and password.
        md5: Option<Secret>,
        /// SHA-256 of the same.
        sha256: Option<Secret>,
    },
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hidden::<Self>(PhantomData))
    }
}

/// `users`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserTable(pub BTreeMap<String, Credential>);

impl<'de> Deserialize<'de> for UserTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Hidden::<Self>(PhantomData))
    }
}

/// Reads secrets: serde's own messages about a wrong type would quote the value.
struct Hidden<T>(PhantomData<T>);

/// What a secret may be written as.
trait Written: Sized {
    const WHAT: &'static str;

    fn from_text(_: &str) -> Option<Self> {
        None
    }

    fn from_map<'de, A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(serde::de::Error::custom(Self::WHAT))
    }
}

impl Written for Secret {
    const WHAT: &'static str = "this must be a text in quotes";

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned().into()))
    }
}

impl Written for Credential {
    const WHAT: &'static str =
        "a user is NAME = \"password\" or NAME = { md5 = \"HEX\", sha256 = \"HEX\" }";

    fn from_text(text: &str) -> Option<Self> {
        Secret::from_text(text).map(Self::Password)
    }

    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let (mut md5, mut sha256) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "md5" => md5 = Some(map.next_value()?),
                "sha256" => sha256 = Some(map.next_value()?),
                _ => return Err(serde::de::Error::custom(Self::WHAT)),
            }
        }
        if md5.is_none() && sha256.is_none() {
            return Err(serde::de::Error::custom(Self::WHAT));
        }
        Ok(Self::Keys { md5, sha256 })
    }
}

impl Written for UserTable {
    const WHAT: &'static str = "users must be a table: users = { alice = \"password\" }";

    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut users = BTreeMap::new();
        while let Some((name, credential)) = map.next_entry()? {
            users.insert(name, credential);
        }
        Ok(Self(users))
    }
}

impl<'de, T: Written> Visitor<'de> for Hidden<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WHAT)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::custom(T::WHAT))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<T, E> {
        Err(E::custom(T::WHAT))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<T, E> {
        Err(E::custom(T::WHAT))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<T, E> {
        Err(E::custom(T::WHAT))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<T, A::Error> {
        Err(serde::de::Error::custom(T::WHAT))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }
}

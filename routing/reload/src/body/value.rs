//! Values as they are stored and carried: kinds, places, times and signatures (R66, R70 to R73).
use crate::codec::{Reader, Write};
use crate::signature::{Signature, SignerIdentity};
use crate::{Id, ReloadError};
use std::fmt;

/// Type-id of a kind of data: 24 bits (RD6, RD71).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

impl TypeId {
    /// Dictionary of a user's places.
    pub const SIP_REGISTRATION: TypeId = TypeId(1);
    /// Single value: a TURN server.
    pub const TURN_SERVICE: TypeId = TypeId(2);
    /// Array of certificates.
    pub const CERTIFICATE: TypeId = TypeId(3);
    /// Dictionary: where an Anode address is.
    pub const ANODE_RECORD: TypeId = TypeId(0xF0_0001);
    /// The first and the last type-id for private use (RD71).
    pub const PRIVATE: std::ops::RangeInclusive<u32> = 0xF0_0001..=0xFF_FFFE;

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ReloadError> {
        Ok(Self(r.u24()?))
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:06x}", self.0)
    }
}

impl fmt::Debug for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the values of a type stand at a resource (R70).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataModel {
    /// One value (R71).
    Single,
    /// Values at places 0, 1, …, some perhaps empty (R72).
    Array,
    /// One value per key (R73).
    Dictionary,
}

/// A value and its place.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum DataValue {
    /// The only one.
    Single(Vec<u8>),
    /// At a place; -1 appends (R72).
    Array {
        /// Place.
        index: i32,
        /// Value.
        value: Vec<u8>,
    },
    /// Under a key.
    Dictionary {
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
}

impl DataValue {
    pub(super) fn read(r: &mut Reader<'_>, model: DataModel) -> Result<Self, ReloadError> {
        Ok(match model {
            DataModel::Single => Self::Single(r.vec16()?.to_vec()),
            DataModel::Array => Self::Array {
                index: r.i32()?,
                value: r.vec16()?.to_vec(),
            },
            DataModel::Dictionary => Self::Dictionary {
                key: r.vec16()?.to_vec(),
                value: r.vec16()?.to_vec(),
            },
        })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), ReloadError> {
        match self {
            Self::Single(value) => out.bytes16("a value", value),
            Self::Array { index, value } => {
                out.u32(*index as u32);
                out.bytes16("a value", value)
            }
            Self::Dictionary { key, value } => {
                out.bytes16("a key", key)?;
                out.bytes16("a value", value)
            }
        }
    }

    /// The value without its place. Empty means that there is none (R79, RD45).
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Single(value) | Self::Array { value, .. } | Self::Dictionary { value, .. } => {
                value
            }
        }
    }

    /// The data model it belongs to.
    pub fn model(&self) -> DataModel {
        match self {
            Self::Single(_) => DataModel::Single,
            Self::Array { .. } => DataModel::Array,
            Self::Dictionary { .. } => DataModel::Dictionary,
        }
    }
}

/// One value as it is stored, with its times and its owner's signature (R66, RD35).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredData {
    /// Unix seconds, by its owner's clock.
    pub storage_time: u32,
    /// Seconds from the storage time.
    pub lifetime: u32,
    /// The value.
    pub value: DataValue,
    /// Missing in shared-key overlays, and where a FETCH found nothing (RD44).
    pub signature: Option<Signature>,
}

impl StoredData {
    /// What a FETCH says about a value that is not there (R79, RD44).
    pub fn missing(value: DataValue) -> Self {
        Self {
            storage_time: 0,
            lifetime: 0,
            value,
            signature: None,
        }
    }

    /// Unix time in seconds from which it counts no longer (RD39).
    pub fn expires(&self) -> u64 {
        u64::from(self.storage_time) + u64::from(self.lifetime)
    }

    /// Reads one element; the length is that of what follows it (RD35).
    pub(crate) fn read(r: &mut Reader<'_>, model: DataModel) -> Result<Self, ReloadError> {
        let len = r.u32()? as usize;
        let mut r = Reader::sub(r.take(len)?, "a stored value");
        let (storage_time, lifetime) = (r.u32()?, r.u32()?);
        let value = DataValue::read(&mut r, model)?;
        let signature = match r.is_empty() {
            true => None,
            false => Some(Signature::read(&mut r)?),
        };
        r.end()?;
        Ok(Self {
            storage_time,
            lifetime,
            value,
            signature,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), ReloadError> {
        let at = out.len();
        out.u32(0);
        out.u32(self.storage_time);
        out.u32(self.lifetime);
        self.value.write(out)?;
        if let Some(signature) = &self.signature {
            signature.write(out)?;
        }
        let len = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Bytes on the wire, its length field included.
    pub fn wire_len(&self) -> usize {
        let mut out = Vec::new();
        match self.write(&mut out) {
            Ok(()) => out.len(),
            Err(_) => usize::MAX,
        }
    }

    /// What its owner signs: resource, type, times, value and identity; the index of an array counts as 0, because an
    /// append changes it after signing (R76, RD36, RD40).
    pub fn signature_input(
        &self,
        resource: Id,
        kind: TypeId,
        identity: &SignerIdentity,
    ) -> Result<Vec<u8>, ReloadError> {
        let mut input = Vec::with_capacity(64 + self.value.bytes().len());
        input.raw(&resource.0);
        input.u24(kind.0);
        input.u32(self.storage_time);
        input.u32(self.lifetime);
        match &self.value {
            DataValue::Array { value, .. } => {
                input.u32(0);
                input.bytes16("a value", value)?;
            }
            other => other.write(&mut input)?,
        }
        identity.write(&mut input)?;
        Ok(input)
    }
}

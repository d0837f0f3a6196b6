//! STORE, FETCH, REMOVE and FIND, and the values they carry (R64 to R86).
use crate::codec::{Reader, Write};
use crate::signature::{Signature, SignerIdentity};
use crate::{Id, Method, ReloadError};
use std::collections::BTreeSet;
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

    fn read(r: &mut Reader<'_>) -> Result<Self, ReloadError> {
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
    fn read(r: &mut Reader<'_>, model: DataModel) -> Result<Self, ReloadError> {
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

/// An element of fixed length; lists of them stand back to back, without a prefix (R74, R86).
pub trait Packed: Sized {
    /// What the list is, for errors.
    const WHAT: &'static str;
    /// Bytes of one element.
    const LEN: usize;

    /// Reads one of [`Packed::LEN`] bytes.
    fn parse(bytes: &[u8]) -> Result<Self, ReloadError>;

    /// Appends one.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads a list.
    fn parse_list(bytes: &[u8]) -> Result<Vec<Self>, ReloadError> {
        Reader::new(bytes, Self::WHAT).each(|r| Self::parse(r.take(Self::LEN)?))
    }

    /// The list.
    fn emit_list(list: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN * list.len());
        list.iter().for_each(|one| one.write(&mut out));
        out
    }
}

/// A request about one resource, whose Id is its route: STORE, FETCH, REMOVE, FIND.
pub trait ResourceRequest {
    /// Its method.
    const METHOD: Method;

    /// Where it goes.
    fn resource(&self) -> Id;

    /// Its body.
    fn body(&self) -> Result<Vec<u8>, ReloadError>;
}

impl ResourceRequest for StoreRequest {
    const METHOD: Method = Method::Store;

    fn resource(&self) -> Id {
        self.resource
    }

    fn body(&self) -> Result<Vec<u8>, ReloadError> {
        self.emit()
    }
}

/// The values that are referred to are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Fetch<'a>(pub &'a References);

impl ResourceRequest for Fetch<'_> {
    const METHOD: Method = Method::Fetch;

    fn resource(&self) -> Id {
        self.0.resource
    }

    fn body(&self) -> Result<Vec<u8>, ReloadError> {
        self.0.emit()
    }
}

/// The values that are referred to shall go.
#[derive(Clone, Copy, Debug)]
pub struct Remove<'a>(pub &'a References);

impl ResourceRequest for Remove<'_> {
    const METHOD: Method = Method::Remove;

    fn resource(&self) -> Id {
        self.0.resource
    }

    fn body(&self) -> Result<Vec<u8>, ReloadError> {
        self.0.emit()
    }
}

impl ResourceRequest for FindRequest {
    const METHOD: Method = Method::Find;

    fn resource(&self) -> Id {
        self.resource
    }

    fn body(&self) -> Result<Vec<u8>, ReloadError> {
        self.emit()
    }
}

/// STORE request (R64).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreRequest {
    /// Where.
    pub resource: Id,
    /// What, each type once (R65).
    pub types: Vec<StoreType>,
}

/// The values of one type in a STORE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreType {
    /// Which type.
    pub kind: TypeId,
    /// The generation it expects, or 0 (R68).
    pub generation: u64,
    /// Its values.
    pub values: Vec<StoredData>,
}

impl StoreRequest {
    /// Reads the body; `model` knows the types. One unknown type refuses the whole (RD43).
    pub fn parse(
        bytes: &[u8],
        model: impl Fn(TypeId) -> Option<DataModel>,
    ) -> Result<Self, ReloadError> {
        const WHAT: &str = "a STORE request";
        let mut r = Reader::new(bytes, WHAT);
        let resource = r.id()?;
        let mut seen = BTreeSet::new();
        let types = Reader::sub(r.vec16()?, WHAT).each(|r| {
            let kind = TypeId::read(r)?;
            once(&mut seen, kind)?;
            let generation = r.u64()?;
            let values = Reader::sub(r.vec16()?, WHAT);
            let model = model(kind).ok_or(ReloadError::UnknownType(kind))?;
            Ok(StoreType {
                kind,
                generation,
                values: values.each(|r| StoredData::read(r, model))?,
            })
        })?;
        r.end()?;
        Ok(Self { resource, types })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        out.raw(&self.resource.0);
        out.vec16("a STORE request", |out| {
            self.types.iter().try_for_each(|one| {
                out.u24(one.kind.0);
                out.u64(one.generation);
                out.vec16("the values of a STORE", |out| {
                    one.values.iter().try_for_each(|value| value.write(out))
                })
            })
        })?;
        Ok(out)
    }
}

/// A type and its generation: the answer to STORE and REMOVE (R74, R83), and to a wrong generation (R75).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation {
    /// Which type.
    pub kind: TypeId,
    /// Its generation counter.
    pub generation: u64,
}

impl Packed for Generation {
    const WHAT: &'static str = "a list of generations";
    const LEN: usize = 11;

    fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, Self::WHAT);
        Ok(Self {
            kind: TypeId::read(&mut r)?,
            generation: r.u64()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.u24(self.kind.0);
        out.u64(self.generation);
    }
}

/// FETCH and REMOVE request: the same syntax (R77, R81).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct References {
    /// Where.
    pub resource: Id,
    /// What, each type once.
    pub types: Vec<FetchType>,
}

/// Which values of a type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchType {
    /// Which type.
    pub kind: TypeId,
    /// FETCH: the generation already known; REMOVE: the one expected; or 0.
    pub generation: u64,
    /// Which values.
    pub reference: Reference,
}

/// Which values of a type; the data model follows from the type (RD43).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// The only one.
    Single,
    /// A range.
    Array(ArrayRange),
    /// These keys; none means all.
    Dictionary(Vec<Vec<u8>>),
}

impl Reference {
    /// Everything of a data model.
    pub fn all(model: DataModel) -> Self {
        match model {
            DataModel::Single => Self::Single,
            DataModel::Array => Self::Array(ArrayRange::ALL),
            DataModel::Dictionary => Self::Dictionary(Vec::new()),
        }
    }
}

/// Places of an array, both ends included; -1 is the final element (RD42).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayRange {
    first: i32,
    last: i32,
}

impl ArrayRange {
    /// All of it.
    pub const ALL: ArrayRange = ArrayRange { first: 0, last: -1 };

    /// -1 is good as the last one only, or as both for the final element (R77, RD42).
    pub fn new(first: i32, last: i32) -> Result<Self, ReloadError> {
        let good = match (first, last) {
            (-1, -1) => true,
            (0.., -1) => true,
            (0.., 0..) => first <= last,
            _ => false,
        };
        good.then_some(Self { first, last })
            .ok_or(ReloadError::Invalid {
                what: "an array range",
                why: "it is not from a first to a later last element",
            })
    }

    /// The places it means in an array of `len` elements; `None` where it means nothing.
    pub fn places(self, len: usize) -> Option<std::ops::RangeInclusive<usize>> {
        let end = len.checked_sub(1)?;
        let last = match self.last {
            -1 => end,
            last => usize::try_from(last).ok()?.min(end),
        };
        let first = match self.first {
            -1 => end,
            first => usize::try_from(first).ok()?,
        };
        (first <= last).then_some(first..=last)
    }
}

impl References {
    /// Also the certificates that stand there, for values whose signers are not known (R80).
    #[must_use]
    pub fn with_certificates(mut self) -> Self {
        let kind = TypeId::CERTIFICATE;
        if self.types.iter().all(|one| one.kind != kind) {
            self.types.push(FetchType {
                kind,
                generation: 0,
                reference: Reference::all(DataModel::Array),
            });
        }
        self
    }

    /// Reads the body.
    pub fn parse(
        bytes: &[u8],
        model: impl Fn(TypeId) -> Option<DataModel>,
    ) -> Result<Self, ReloadError> {
        const WHAT: &str = "a FETCH or REMOVE request";
        let mut r = Reader::new(bytes, WHAT);
        let resource = r.id()?;
        let mut seen = BTreeSet::new();
        let types = Reader::sub(r.vec16()?, WHAT).each(|r| {
            let kind = TypeId::read(r)?;
            once(&mut seen, kind)?;
            let generation = r.u64()?;
            let reference = match model(kind).ok_or(ReloadError::UnknownType(kind))? {
                DataModel::Single => Reference::Single,
                DataModel::Array => Reference::Array(ArrayRange::new(r.i32()?, r.i32()?)?),
                DataModel::Dictionary => Reference::Dictionary(
                    Reader::sub(r.vec16()?, WHAT).each(|r| Ok(r.vec16()?.to_vec()))?,
                ),
            };
            Ok(FetchType {
                kind,
                generation,
                reference,
            })
        })?;
        r.end()?;
        Ok(Self { resource, types })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        out.raw(&self.resource.0);
        out.vec16("a FETCH request", |out| {
            self.types.iter().try_for_each(|one| {
                out.u24(one.kind.0);
                out.u64(one.generation);
                match &one.reference {
                    Reference::Single => Ok(()),
                    Reference::Array(range) => {
                        out.u32(range.first as u32);
                        out.u32(range.last as u32);
                        Ok(())
                    }
                    Reference::Dictionary(keys) => out.vec16("dictionary keys", |out| {
                        keys.iter().try_for_each(|key| out.bytes16("a key", key))
                    }),
                }
            })
        })?;
        Ok(out)
    }
}

/// What a FETCH found of one type (R78).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchResponse {
    /// Which type.
    pub kind: TypeId,
    /// Its generation now.
    pub generation: u64,
    /// Nothing at all where the requester's generation is still good.
    pub values: Vec<StoredData>,
}

impl FetchResponse {
    /// Reads the elements, which stand back to back (RD44).
    pub fn parse_list(
        bytes: &[u8],
        model: impl Fn(TypeId) -> Option<DataModel>,
    ) -> Result<Vec<Self>, ReloadError> {
        const WHAT: &str = "a FETCH response";
        Reader::new(bytes, WHAT).each(|r| {
            let kind = TypeId::read(r)?;
            let generation = r.u64()?;
            let values = Reader::sub(r.vec16()?, WHAT);
            let model = model(kind).ok_or(ReloadError::UnknownType(kind))?;
            Ok(Self {
                kind,
                generation,
                values: values.each(|r| StoredData::read(r, model))?,
            })
        })
    }

    /// The payload. Values of one type that would take over 65,000 bytes are an error (R78 knows no paging).
    pub fn emit_list(list: &[Self]) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        for one in list {
            out.u24(one.kind.0);
            out.u64(one.generation);
            out.vec16("the values of a FETCH response", |out| {
                one.values.iter().try_for_each(|value| value.write(out))
            })?;
        }
        Ok(out)
    }
}

/// FIND request (R84).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FindRequest {
    /// From where clockwise (RD46).
    pub resource: Id,
    /// Which types, each once; at most 85.
    pub kinds: Vec<TypeId>,
}

impl FindRequest {
    /// Reads the body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        const WHAT: &str = "a FIND request";
        let mut r = Reader::new(bytes, WHAT);
        let resource = r.id()?;
        let mut seen = BTreeSet::new();
        let kinds = Reader::sub(r.vec8()?, WHAT).each(|r| {
            let kind = TypeId::read(r)?;
            once(&mut seen, kind)?;
            Ok(kind)
        })?;
        r.end()?;
        Ok(Self { resource, kinds })
    }

    /// The body.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = self.resource.0.to_vec();
        Write::vec8(&mut out, "the types of a FIND", |out| {
            self.kinds.iter().for_each(|kind| out.u24(kind.0));
        })?;
        Ok(out)
    }
}

/// Where the next resource of a type is (R86).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FindResult {
    /// Which type.
    pub kind: TypeId,
    /// [`Id::ZERO`] where there is none.
    pub closest: Id,
}

impl Packed for FindResult {
    const WHAT: &'static str = "a FIND response";
    const LEN: usize = 19;

    fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, Self::WHAT);
        Ok(Self {
            kind: TypeId::read(&mut r)?,
            closest: r.id()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.u24(self.kind.0);
        out.raw(&self.closest.0);
    }
}

fn once(seen: &mut BTreeSet<TypeId>, kind: TypeId) -> Result<(), ReloadError> {
    match seen.insert(kind) {
        true => Ok(()),
        false => Err(ReloadError::DuplicateType(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{Code, Contents, Kind, Method, emit_contents};
    use crate::vectors::{bytes, input};

    fn model(kind: TypeId) -> Option<DataModel> {
        match kind {
            TypeId::SIP_REGISTRATION | TypeId::ANODE_RECORD => Some(DataModel::Dictionary),
            TypeId::TURN_SERVICE => Some(DataModel::Single),
            TypeId::CERTIFICATE => Some(DataModel::Array),
            _ => None,
        }
    }

    fn alice() -> Id {
        Id::of_seed(b"sip:alice@example.com")
    }

    fn stored(vector: &str, model: DataModel) -> StoredData {
        let bytes = bytes(vector);
        let mut reader = Reader::new(&bytes, "stored data");
        let stored = StoredData::read(&mut reader, model).unwrap();
        reader.end().unwrap();
        let mut out = Vec::new();
        stored.write(&mut out).unwrap();
        assert_eq!(out, bytes, "{vector}");
        assert_eq!(stored.wire_len(), bytes.len());
        for len in 0..bytes.len() {
            let cut = StoredData::read(&mut Reader::new(&bytes[..len], "s"), model);
            assert!(cut.is_err(), "{vector}: {len}");
        }
        stored
    }

    // R66, R70, R76, RD35, RD36, RD40
    #[test]
    fn stored_values_and_their_signature_inputs_are_those_of_the_vectors() {
        let single = stored("stored_data-single", DataModel::Single);
        let identity = single.signature.clone().unwrap().identity;
        assert_eq!(
            single
                .signature_input(alice(), TypeId::TURN_SERVICE, &identity)
                .unwrap(),
            input("stored_data-single", "signature_input")
        );
        let append = stored("stored_data-array-append", DataModel::Array);
        assert!(matches!(append.value, DataValue::Array { index: -1, .. }));
        assert_eq!(
            append
                .signature_input(alice(), TypeId::CERTIFICATE, &identity)
                .unwrap(),
            input("stored_data-array-append", "signature_input")
        );
        let record = stored("anode-record-stored_data", DataModel::Dictionary);
        assert_eq!(record.expires(), 1_700_000_000 + 3600);
    }

    // R64, R74
    #[test]
    fn store_is_that_of_the_vectors() {
        let vector = bytes("store-request-contents");
        let payload = Contents::parse(&vector).unwrap().payload;
        let store = StoreRequest::parse(payload, model).unwrap();
        assert_eq!(store.resource, alice());
        assert_eq!(store.types[0].kind, TypeId::TURN_SERVICE);
        assert_eq!(store.emit().unwrap(), payload);
        for len in 0..payload.len() {
            assert!(StoreRequest::parse(&payload[..len], model).is_err());
        }
        let answer = [Generation {
            kind: TypeId::TURN_SERVICE,
            generation: 1,
        }];
        let contents = emit_contents(Kind::Response(Code::OK), &Generation::emit_list(&answer));
        assert_eq!(contents, bytes("store-response-contents"));
        assert_eq!(
            Generation::parse_list(Contents::parse(&contents).unwrap().payload).unwrap(),
            answer
        );
    }

    // R65, R81, R84
    #[test]
    fn a_type_stands_once_in_a_request() {
        let one = StoreType {
            kind: TypeId::CERTIFICATE,
            generation: 0,
            values: vec![],
        };
        let twice = StoreRequest {
            resource: alice(),
            types: vec![one.clone(), one],
        };
        assert_eq!(
            StoreRequest::parse(&twice.emit().unwrap(), model),
            Err(ReloadError::DuplicateType(TypeId::CERTIFICATE))
        );
        let one = FetchType {
            kind: TypeId::TURN_SERVICE,
            generation: 0,
            reference: Reference::Single,
        };
        let twice = References {
            resource: alice(),
            types: vec![one.clone(), one],
        };
        assert_eq!(
            References::parse(&twice.emit().unwrap(), model),
            Err(ReloadError::DuplicateType(TypeId::TURN_SERVICE))
        );
        let twice = FindRequest {
            resource: alice(),
            kinds: vec![TypeId(5); 2],
        };
        assert_eq!(
            FindRequest::parse(&twice.emit().unwrap()),
            Err(ReloadError::DuplicateType(TypeId(5)))
        );
    }

    // R68, RD43
    #[test]
    fn an_unknown_type_refuses_the_whole_request() {
        let store = StoreRequest {
            resource: alice(),
            types: vec![StoreType {
                kind: TypeId(99),
                generation: 0,
                values: vec![],
            }],
        };
        let error = StoreRequest::parse(&store.emit().unwrap(), model).unwrap_err();
        assert_eq!(error, ReloadError::UnknownType(TypeId(99)));
        assert_eq!(error.code(), Code::UNKNOWN_TYPE);
    }

    // R77, R78, R79, RD43, RD44
    #[test]
    fn fetch_is_that_of_the_vectors() {
        let vector = bytes("fetch-request-contents");
        let payload = Contents::parse(&vector).unwrap().payload;
        let fetch = References::parse(payload, model).unwrap();
        assert_eq!(fetch.types.len(), 3);
        assert_eq!(fetch.types[0].reference, Reference::Single);
        assert_eq!(fetch.types[1].reference, Reference::Array(ArrayRange::ALL));
        assert_eq!(
            fetch.types[2].reference,
            Reference::Dictionary(vec![vec![0x11; 16]])
        );
        assert_eq!(
            emit_contents(Kind::Request(Method::Fetch as u16), &fetch.emit().unwrap()),
            vector
        );
        for len in 0..payload.len() {
            assert!(References::parse(&payload[..len], model).is_err());
        }

        let vector = bytes("fetch-response-contents");
        let payload = Contents::parse(&vector).unwrap().payload;
        let found = FetchResponse::parse_list(payload, model).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].values.len(), 1);
        assert_eq!((found[1].generation, found[1].values.len()), (5, 0));
        let missing = StoredData::missing(DataValue::Dictionary {
            key: vec![0x11; 16],
            value: vec![],
        });
        assert_eq!(found[2].values, [missing]);
        assert_eq!(FetchResponse::emit_list(&found).unwrap(), payload);
    }

    // R77, RD42
    #[test]
    fn array_ranges_keep_their_order() {
        for (first, last, good) in [
            (0, -1, true),
            (-1, -1, true),
            (3, 3, true),
            (4, 3, false),
            (-1, 3, false),
            (-2, -1, false),
            (0, -2, false),
            (i32::MIN, i32::MAX, false),
        ] {
            assert_eq!(
                ArrayRange::new(first, last).is_ok(),
                good,
                "{first}..{last}"
            );
        }
        let places = |first, last, len| ArrayRange::new(first, last).unwrap().places(len);
        assert_eq!(places(0, -1, 3), Some(0..=2));
        assert_eq!(places(-1, -1, 3), Some(2..=2));
        assert_eq!(places(1, 100, 3), Some(1..=2));
        assert_eq!(places(3, 100, 3), None);
        assert_eq!(places(0, -1, 0), None);
    }

    // R84, R86, RD6, RD46
    #[test]
    fn find_is_that_of_the_vectors() {
        let vector = bytes("find-request-contents");
        let payload = Contents::parse(&vector).unwrap().payload;
        let find = FindRequest::parse(payload).unwrap();
        assert_eq!(find.resource, alice());
        assert_eq!(find.kinds, [TypeId::SIP_REGISTRATION, TypeId::TURN_SERVICE]);
        assert_eq!(find.emit().unwrap(), payload);
        let vector = bytes("find-response-contents");
        let payload = Contents::parse(&vector).unwrap().payload;
        let found = FindResult::parse_list(payload).unwrap();
        assert_eq!(found[0].closest, alice());
        assert_eq!(found[1].closest, Id::ZERO);
        assert_eq!(FindResult::emit_list(&found), payload);
        assert!(FindResult::parse_list(&payload[..18]).is_err());
    }
}

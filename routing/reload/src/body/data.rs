//! STORE, FETCH, REMOVE and FIND (R64 to R86).
use super::value::{DataModel, StoredData, TypeId};
use crate::codec::{Reader, Write};
use crate::{Id, Method, ReloadError};
use std::collections::BTreeSet;

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
mod tests;

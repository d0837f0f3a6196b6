//! Reading and writing the draft's structure notation (RD1 to RD4): big-endian numbers, and vectors whose prefix counts
//! bytes: one byte for `<255>`, two for `<65000>`.
use crate::{Id, ReloadError};

/// The limit of `<65000>`.
pub(crate) const VEC16: usize = 65_000;

/// A cursor that takes fields off the front of `bytes`; every error names `what`.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], ReloadError> {
        let (taken, rest) =
            self.bytes
                .split_at_checked(len)
                .ok_or_else(|| ReloadError::Truncated {
                    what: self.what,
                    missing: len - self.bytes.len(),
                })?;
        self.bytes = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReloadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, ReloadError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, ReloadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u24(&mut self) -> Result<u32, ReloadError> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    pub fn u32(&mut self) -> Result<u32, ReloadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, ReloadError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, ReloadError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn id(&mut self) -> Result<Id, ReloadError> {
        Ok(Id(self.array()?))
    }

    pub fn vec8(&mut self) -> Result<&'a [u8], ReloadError> {
        let len = self.u8()?;
        self.take(len.into())
    }

    pub fn vec16(&mut self) -> Result<&'a [u8], ReloadError> {
        let len = usize::from(self.u16()?);
        if len > VEC16 {
            return Err(ReloadError::TooLong {
                what: self.what,
                len,
                limit: VEC16,
            });
        }
        self.take(len)
    }

    /// UTF-8 without a zero byte (RD2).
    pub fn string(&mut self) -> Result<String, ReloadError> {
        text(self.vec16()?, self.what)
    }

    /// The elements of a vector, each read by `element`, which must take at least one byte.
    pub fn each<T>(
        mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, ReloadError>,
    ) -> Result<Vec<T>, ReloadError> {
        let mut all = Vec::new();
        while !self.is_empty() {
            let before = self.bytes.len();
            all.push(element(&mut self)?);
            debug_assert!(self.bytes.len() < before);
        }
        Ok(all)
    }

    /// What is left, as a reader of something else.
    pub fn sub(bytes: &'a [u8], what: &'static str) -> Self {
        Self::new(bytes, what)
    }

    /// Everything that is left (`blob`, RD3).
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Refuses bytes that are left.
    pub fn end(self) -> Result<(), ReloadError> {
        match self.bytes.len() {
            0 => Ok(()),
            extra => Err(ReloadError::Trailing {
                what: self.what,
                extra,
            }),
        }
    }
}

/// Checks a string of the wire (RD2).
pub(crate) fn text(bytes: &[u8], what: &'static str) -> Result<String, ReloadError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(ReloadError::Text(what)),
    }
}

/// The ids of a vector: a multiple of 16 bytes.
pub(crate) fn ids(bytes: &[u8], what: &'static str) -> Result<Vec<Id>, ReloadError> {
    Reader::new(bytes, what).each(|r| r.id())
}

/// Appends fields to a buffer.
pub(crate) trait Write {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u24(&mut self, value: u32);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn raw(&mut self, bytes: &[u8]);
    /// A vector with one length byte, written by `fill`.
    fn vec8(&mut self, what: &'static str, fill: impl FnOnce(&mut Self))
    -> Result<(), ReloadError>;
    /// A vector with two length bytes, written by `fill`.
    fn vec16(
        &mut self,
        what: &'static str,
        fill: impl FnOnce(&mut Self) -> Result<(), ReloadError>,
    ) -> Result<(), ReloadError>;
    fn bytes16(&mut self, what: &'static str, bytes: &[u8]) -> Result<(), ReloadError> {
        self.vec16(what, |out| {
            out.raw(bytes);
            Ok(())
        })
    }
}

impl Write for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn u24(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes()[1..]);
    }
    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn vec8(
        &mut self,
        what: &'static str,
        fill: impl FnOnce(&mut Self),
    ) -> Result<(), ReloadError> {
        let at = self.len();
        self.push(0);
        fill(self);
        let len = self.len() - at - 1;
        self[at] = u8::try_from(len).map_err(|_| ReloadError::TooLong {
            what,
            len,
            limit: 255,
        })?;
        Ok(())
    }
    fn vec16(
        &mut self,
        what: &'static str,
        fill: impl FnOnce(&mut Self) -> Result<(), ReloadError>,
    ) -> Result<(), ReloadError> {
        let at = self.len();
        self.extend_from_slice(&[0; 2]);
        fill(self)?;
        let len = self.len() - at - 2;
        let prefix =
            u16::try_from(len)
                .ok()
                .filter(|_| len <= VEC16)
                .ok_or(ReloadError::TooLong {
                    what,
                    len,
                    limit: VEC16,
                })?;
        self[at..at + 2].copy_from_slice(&prefix.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RD1: RFC 6940 §6.3.1.1 writes "FOO" as 03 46 4f 4f under a one-byte prefix
    #[test]
    fn prefixes_count_bytes() {
        let mut out = Vec::new();
        Write::vec8(&mut out, "FOO", |out| out.raw(b"FOO")).unwrap();
        out.bytes16("FOO", b"FOO").unwrap();
        assert_eq!(out, b"\x03FOO\x00\x03FOO");
        let mut reader = Reader::new(&out, "FOO");
        assert_eq!(reader.vec8().unwrap(), b"FOO");
        assert_eq!(reader.string().unwrap(), "FOO");
        reader.end().unwrap();
    }

    #[test]
    fn vectors_over_their_limit_are_refused_in_both_directions() {
        let mut out = Vec::new();
        assert!(out.bytes16("big", &vec![0; 65_000]).is_ok());
        assert!(Vec::new().bytes16("big", &vec![0; 65_001]).is_err());
        assert!(Write::vec8(&mut Vec::new(), "big", |out| out.raw(&[0; 256])).is_err());
        let mut long = 65_001u16.to_be_bytes().to_vec();
        long.resize(70_000, 0);
        assert!(Reader::new(&long, "big").vec16().is_err());
    }

    // RD2
    #[test]
    fn strings_are_utf8_without_zero_bytes() {
        assert!(text("grüße".as_bytes(), "t").is_ok());
        assert!(text(b"\xff", "t").is_err());
        assert!(text(b"a\0b", "t").is_err());
    }
}

//! Reading and writing of the primitive types: big-endian integers, strings, mappings (i2cp.md §2.1).
use crate::error::{Error, Result};
use std::cmp::Ordering;

/// Reads a structure front to back and never beyond its end.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Error::Truncated(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Error::Truncated(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// One length byte, then so many bytes of UTF-8. What is no UTF-8 is shown with replacement characters: the only
    /// strings that routers send are for people's eyes.
    pub(crate) fn string(&mut self) -> Result<String> {
        let length = self.u8()?;
        let bytes = self.take(usize::from(length))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub(crate) fn malformed(&self, why: &'static str) -> Error {
        Error::Malformed {
            what: self.what,
            why,
        }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(Error::Trailing {
                what: self.what,
                extra,
            }),
        }
    }
}

/// Appends the primitive types to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// A string of at most 255 bytes; the caller has checked that.
    fn put_string(&mut self, text: &str) {
        debug_assert!(text.len() <= 255);
        self.put_u8(text.len() as u8);
        self.put(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A Mapping: pairs of strings of at most 255 bytes each, no key twice, in the order that signatures need: by the
/// UTF-16 code units of the key, as Java's `String.compareTo` (i2cp.md §2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pairs: Vec<(String, String)>,
    /// Bytes of all pairs on the wire.
    size: usize,
}

impl Mapping {
    /// Most bytes of pairs that the two-byte size can say.
    const LIMIT: usize = 65_535;

    /// An empty mapping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// [`Error::TooLong`] when one of them exceeds 255 bytes or the whole 65,535 (I45): nothing is ever cut off.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        for (what, text) in [("an option's name", key), ("an option's value", value)] {
            if text.len() > 255 {
                return Err(Error::TooLong {
                    what,
                    length: text.len(),
                    limit: 255,
                });
            }
        }
        let place = self.place(key);
        let old = match place {
            Ok(at) => self.cost(at),
            Err(_) => 0,
        };
        let size = self.size - old + key.len() + value.len() + 4;
        if size > Self::LIMIT {
            return Err(Error::TooLong {
                what: "a mapping",
                length: size,
                limit: Self::LIMIT,
            });
        }
        self.size = size;
        match place {
            Ok(at) => value.clone_into(&mut self.pairs[at].1),
            Err(at) => self.pairs.insert(at, (key.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.place(key).ok()?;
        Some(&self.pairs[at].1)
    }

    /// All pairs, in the order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn place(&self, key: &str) -> std::result::Result<usize, usize> {
        self.pairs.binary_search_by(|(k, _)| java_order(k, key))
    }

    fn cost(&self, at: usize) -> usize {
        self.pairs[at].0.len() + self.pairs[at].1.len() + 4
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(self.size as u16);
        for (key, value) in &self.pairs {
            out.put_string(key);
            out.put_u8(b'=');
            out.put_string(value);
            out.put_u8(b';');
        }
    }

    /// Reads one. Order is not asked for (some senders do not keep it); a key that comes twice is refused, because two
    /// readers could take different values.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let size = reader.u16()?;
        let mut inner = Reader::new("a mapping", reader.take(usize::from(size))?);
        let mut mapping = Self::new();
        while inner.remaining() > 0 {
            let key = strict_string(&mut inner)?;
            expect(&mut inner, b'=')?;
            let value = strict_string(&mut inner)?;
            expect(&mut inner, b';')?;
            if mapping.get(key).is_some() {
                return Err(inner.malformed("a key comes twice"));
            }
            mapping.set(key, value)?;
        }
        Ok(mapping)
    }
}

fn strict_string<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let length = reader.u8()?;
    let bytes = reader.take(usize::from(length))?;
    std::str::from_utf8(bytes).map_err(|_| reader.malformed("no UTF-8"))
}

fn expect(reader: &mut Reader<'_>, wanted: u8) -> Result<()> {
    if reader.u8()? == wanted {
        Ok(())
    } else {
        Err(reader.malformed("no separator where one must be"))
    }
}

fn java_order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, vector};

    fn sample() -> Mapping {
        let mut mapping = Mapping::new();
        for (key, value) in vector("/mapping/input").as_object().unwrap() {
            mapping.set(key, value.as_str().unwrap()).unwrap();
        }
        mapping
    }

    // I45
    #[test]
    fn a_mapping_is_written_in_javas_order_as_utf_8() {
        let mut bytes = Vec::new();
        sample().put(&mut bytes);
        assert_eq!(bytes, hex("/mapping/bytes"));
        let read = Mapping::read(&mut Reader::new("it", &bytes)).unwrap();
        assert_eq!(read, sample());
    }

    #[test]
    fn the_order_is_that_of_utf_16_and_not_of_code_points() {
        // U+FF5E sorts behind the surrogates of U+1F600 in UTF-16, before it as a code point
        let mut mapping = Mapping::new();
        mapping.set("\u{ff5e}", "1").unwrap();
        mapping.set("\u{1f600}", "2").unwrap();
        let keys: Vec<_> = mapping.iter().map(|(k, _)| k.to_owned()).collect();
        assert_eq!(keys, ["\u{1f600}", "\u{ff5e}"]);
    }

    // I45
    #[test]
    fn the_limit_is_255_bytes_and_not_characters() {
        let mut mapping = Mapping::new();
        let fits = "न".repeat(85);
        assert_eq!(fits.len(), 255);
        mapping.set(&fits, &fits).unwrap();
        let over = "न".repeat(86);
        assert!(matches!(mapping.set(&over, ""), Err(Error::TooLong { .. })));
        assert!(matches!(
            mapping.set("a", &over),
            Err(Error::TooLong { .. })
        ));
        assert_eq!(mapping.iter().count(), 1);
    }

    #[test]
    fn a_mapping_never_exceeds_its_two_byte_size() {
        let mut mapping = Mapping::new();
        let value = "x".repeat(255);
        let mut refused = false;
        for i in 0..300 {
            refused |= mapping.set(&format!("{i:03}"), &value).is_err();
        }
        assert!(refused && mapping.size <= 65_535);
        // replacing does not leak size
        let before = mapping.size;
        mapping.set("000", "").unwrap();
        mapping.set("000", &value).unwrap();
        assert_eq!(mapping.size, before);
    }

    // S37
    #[test]
    fn mappings_cut_short_or_with_double_keys_are_refused() {
        let bytes = hex("/mapping/bytes");
        for length in 0..bytes.len() {
            assert!(Mapping::read(&mut Reader::new("it", &bytes[..length])).is_err());
        }
        for bad in [
            &b"\x00\x0c\x01a=\x01b;\x01a=\x01c;"[..],
            b"\x00\x06\x01a:\x01b;",
            b"\x00\x06\x01a=\x01b,",
            b"\x00\x05\x01a=\x01b",
            b"\x00\x06\x01\xff=\x01b;",
        ] {
            assert!(
                Mapping::read(&mut Reader::new("it", bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}

//! Bencode (BEP 3): a reader that borrows from its input, and a writer of the canonical form.
//!
//! [`parse`] checks the whole value once, within [`MAX_DEPTH`] and [`MAX_SIZE`]; walking it afterwards cannot fail and
//! allocates nothing. Read tolerantly, because trackers differ (discovery.md §2): keys may be unsorted, unknown or
//! repeated (the first counts), and bytes after the value are ignored. Numbers are not: `i-0e`, leading zeros and
//! anything past 64 bits are refused, so that no two readers can see different values.

/// How deep lists and dictionaries may nest.
pub const MAX_DEPTH: usize = 16;
/// The largest input in bytes that is looked at.
pub const MAX_SIZE: usize = 1024 * 1024;

/// Why an input is no bencode that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_SIZE`] bytes.
    #[error("the answer is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// Lists or dictionaries nested more than [`MAX_DEPTH`] deep.
    #[error("the answer nests more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// The input ends inside a value.
    #[error("the answer is cut off")]
    Truncated,
    /// A byte that cannot stand at this offset.
    #[error("the answer is not bencoded (byte {0})")]
    Malformed(usize),
}

/// One value, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i…e`
    Int(i64),
    /// `n:…`
    Bytes(&'a [u8]),
    /// `l…e`
    List(List<'a>),
    /// `d…e`
    Dict(Dict<'a>),
}

impl<'a> Value<'a> {
    /// The bytes of a string.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The value of a number.
    pub fn as_int(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The dictionary.
    pub fn as_dict(self) -> Option<Dict<'a>> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }
}

/// A checked list; iterate over its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a>(&'a [u8]);

/// A checked dictionary; iterate over its pairs in the order of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dict<'a>(&'a [u8]);

impl<'a> Dict<'a> {
    /// The first value under `key`. Linear: whoever wants many keys iterates once.
    pub fn get(self, key: &[u8]) -> Option<Value<'a>> {
        self.into_iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

/// The values of a [`List`].
#[derive(Clone, Debug)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (value, used) = checked(self.0)?;
        self.0 = &self.0[used..];
        Some(value)
    }
}

impl<'a> IntoIterator for List<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        Values(self.0)
    }
}

/// The pairs of a [`Dict`].
#[derive(Clone, Debug)]
pub struct Pairs<'a>(Values<'a>);

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_bytes()?;
        Some((key, self.0.next()?))
    }
}

impl<'a> IntoIterator for Dict<'a> {
    type Item = (&'a [u8], Value<'a>);
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        Pairs(Values(self.0))
    }
}

/// Reads the value at the start of `input`; whatever follows it is ignored (some trackers append CR LF).
pub fn parse(input: &[u8]) -> Result<Value<'_>, Error> {
    if input.len() > MAX_SIZE {
        return Err(Error::TooLarge);
    }
    let end = Checker { input }.value(0, 0)?;
    // `end` is past a value that was just checked, so it is there
    checked(&input[..end])
        .map(|(value, _)| value)
        .ok_or(Error::Truncated)
}

/// Walks a value without building anything; recursion is bounded by [`MAX_DEPTH`].
struct Checker<'a> {
    input: &'a [u8],
}

impl Checker<'_> {
    fn value(&self, at: usize, depth: usize) -> Result<usize, Error> {
        match self.byte(at)? {
            b'i' => int(self.input, at).map(|(_, end)| end),
            b'0'..=b'9' => string(self.input, at).map(|(_, end)| end),
            b'l' => self.items(at + 1, depth + 1, |at| self.value(at, depth + 1)),
            b'd' => self.items(at + 1, depth + 1, |at| {
                let (_, value) = string(self.input, at)?;
                self.value(value, depth + 1)
            }),
            _ => Err(Error::Malformed(at)),
        }
    }

    fn items(
        &self,
        mut at: usize,
        depth: usize,
        item: impl Fn(usize) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        while self.byte(at)? != b'e' {
            at = item(at)?;
        }
        Ok(at + 1)
    }

    fn byte(&self, at: usize) -> Result<u8, Error> {
        self.input.get(at).copied().ok_or(Error::Truncated)
    }
}

/// `i<n>e` at `at`: the number and the offset behind it.
fn int(input: &[u8], at: usize) -> Result<(i64, usize), Error> {
    let rest = input.get(at + 1..).unwrap_or_default();
    // the longest number of 64 bits has 19 digits and a sign
    let window = &rest[..rest.len().min(21)];
    let Some(length) = window.iter().position(|byte| *byte == b'e') else {
        return Err(if rest.len() < 21 {
            Error::Truncated
        } else {
            Error::Malformed(at)
        });
    };
    let malformed = Error::Malformed(at);
    let text = &window[..length];
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        && (digits[0] != b'0' || text == b"0");
    if !canonical {
        return Err(malformed);
    }
    let value = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(malformed)?;
    Ok((value, at + 1 + length + 1))
}

/// `<n>:<bytes>` at `at`: the bytes and the offset behind them.
fn string(input: &[u8], at: usize) -> Result<(&[u8], usize), Error> {
    let mut length = 0usize;
    let mut digits = 0;
    loop {
        match input.get(at + digits).copied() {
            None => return Err(Error::Truncated),
            Some(b':') if digits > 0 => break,
            // a leading zero is the whole number; seven digits are more than MAX_SIZE needs
            Some(byte @ b'0'..=b'9') if digits < 7 && !(digits == 1 && length == 0) => {
                length = length * 10 + usize::from(byte - b'0');
                digits += 1;
            }
            Some(_) => return Err(Error::Malformed(at + digits)),
        }
    }
    let start = at + digits + 1;
    let bytes = input.get(start..start + length).ok_or(Error::Truncated)?;
    Ok((bytes, start + length))
}

/// The value at the start of bytes that [`Checker`] has been over, and its length; nothing at the end of a container.
fn checked(input: &[u8]) -> Option<(Value<'_>, usize)> {
    match input.first()? {
        b'i' => int(input, 0)
            .ok()
            .map(|(value, end)| (Value::Int(value), end)),
        b'l' => {
            let end = Checker { input }.value(0, 0).ok()?;
            Some((Value::List(List(&input[1..end - 1])), end))
        }
        b'd' => {
            let end = Checker { input }.value(0, 0).ok()?;
            Some((Value::Dict(Dict(&input[1..end - 1])), end))
        }
        _ => string(input, 0)
            .ok()
            .map(|(bytes, end)| (Value::Bytes(bytes), end)),
    }
}

/// Writes the canonical form to the end of a buffer. Keys of a dictionary are given in ascending order.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Writes behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// `i…e`
    pub fn int(&mut self, value: u64) -> &mut Self {
        self.out.push(b'i');
        self.decimal(value);
        self.out.push(b'e');
        self
    }

    /// `n:…`
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.string_of(bytes.len());
        self.out.extend_from_slice(bytes);
        self
    }

    /// The head of a string of `length` bytes, which the caller appends to [`Writer::raw`].
    pub fn string_of(&mut self, length: usize) -> &mut Self {
        self.decimal(length as u64);
        self.out.push(b':');
        self
    }

    /// The buffer, for bytes announced by [`Writer::string_of`].
    pub fn raw(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// `d`
    pub fn dict(&mut self) -> &mut Self {
        self.out.push(b'd');
        self
    }

    /// `l`
    pub fn list(&mut self) -> &mut Self {
        self.out.push(b'l');
        self
    }

    /// `e`, the end of a list or dictionary.
    pub fn end(&mut self) -> &mut Self {
        self.out.push(b'e');
        self
    }

    fn decimal(&mut self, value: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_read_without_copying() {
        let input = b"d4:listli1ei-2ee3:numi1800e4:text3:abce\r\n";
        let dict = parse(input).unwrap().as_dict().unwrap();
        assert_eq!(dict.get(b"num"), Some(Value::Int(1800)));
        let text = dict.get(b"text").unwrap().as_bytes().unwrap();
        assert!(input.as_ptr_range().contains(&text.as_ptr()));
        let Some(Value::List(list)) = dict.get(b"list") else {
            panic!("no list")
        };
        assert_eq!(
            list.into_iter().collect::<Vec<_>>(),
            [Value::Int(1), Value::Int(-2)]
        );
        assert_eq!(dict.get(b"none"), None);
    }

    #[test]
    fn unsorted_and_repeated_keys_are_read_and_the_first_counts() {
        let dict = parse(b"d1:bi1e1:ai2e1:bi3ee").unwrap().as_dict().unwrap();
        assert_eq!(dict.get(b"b"), Some(Value::Int(1)));
        assert_eq!(dict.into_iter().count(), 3);
    }

    // S36
    #[test]
    fn hostile_input_is_refused_with_its_reason() {
        use Error::{Malformed, TooDeep, Truncated};
        let cases: [(&[u8], Error); 26] = [
            (b"", Truncated),
            (b"x", Malformed(0)),
            (b"e", Malformed(0)),
            (b"i", Truncated),
            (b"i12", Truncated),
            (b"ie", Malformed(0)),
            (b"i-e", Malformed(0)),
            (b"i-0e", Malformed(0)),
            (b"i01e", Malformed(0)),
            (b"i+1e", Malformed(0)),
            (b"i 1e", Malformed(0)),
            (b"i9223372036854775808e", Malformed(0)),
            (b"i99999999999999999999999e", Malformed(0)),
            (b"-1:a", Malformed(0)),
            (b"3:ab", Truncated),
            (b"3", Truncated),
            (b"03:abc", Malformed(1)),
            (b"00:", Malformed(1)),
            (b"99999999:a", Malformed(7)),
            (b"18446744073709551617:a", Malformed(7)),
            (b"l", Truncated),
            (b"li1e", Truncated),
            (b"d", Truncated),
            (b"di1ei2ee", Malformed(1)),
            (b"d1:ae", Malformed(4)),
            (b"d1:a", Truncated),
        ];
        for (input, error) in cases {
            assert_eq!(
                parse(input),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(input)
            );
        }
        let deep = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(parse(&deep(MAX_DEPTH + 1)), Err(TooDeep));
        assert_eq!(parse(&vec![b'l'; 100_000]), Err(TooDeep));
        assert_eq!(parse(&b"d1:a".repeat(100_000)), Err(TooDeep));
        assert_eq!(parse(&vec![b'0'; MAX_SIZE + 1]), Err(Error::TooLarge));
    }

    #[test]
    fn the_writer_writes_the_canonical_form() {
        let mut out = Vec::new();
        Writer::new(&mut out)
            .dict()
            .bytes(b"a")
            .int(0)
            .bytes(b"b")
            .list()
            .int(u64::MAX)
            .bytes(b"")
            .end()
            .end();
        assert_eq!(out, b"d1:ai0e1:bli18446744073709551615e0:ee");
    }

    /// Walks everything; returns how many values there were.
    fn walk(value: Value<'_>) -> usize {
        1 + match value {
            Value::Int(_) | Value::Bytes(_) => 0,
            Value::List(list) => list.into_iter().map(walk).sum(),
            Value::Dict(dict) => dict.into_iter().map(|(_, value)| walk(value)).sum(),
        }
    }

    proptest! {
        // S36
        #[test]
        fn arbitrary_bytes_never_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = parse(&input) {
                prop_assert!(walk(value) <= input.len());
            }
        }

        // S36
        #[test]
        fn bencode_like_bytes_never_panic(input in "[idle0-9:a-]{0,200}") {
            if let Ok(value) = parse(input.as_bytes()) {
                prop_assert!(walk(value) <= input.len());
            }
        }

        #[test]
        fn what_is_written_is_read(number in 0..=i64::MAX as u64, text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            Writer::new(&mut out).dict().bytes(&text).int(number).end();
            let dict = parse(&out).unwrap().as_dict().unwrap();
            prop_assert_eq!(dict.get(&text), Some(Value::Int(number as i64)));
        }
    }
}

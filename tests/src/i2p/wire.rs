//! Bytes of the client, read to the last one.

use anode_i2cp::destination::Destination;
use std::collections::BTreeMap;

/// Reads from the front; whatever does not fit is told in words.
#[derive(Clone)]
pub struct Bytes<'a>(pub &'a [u8]);

pub type Read<T> = Result<T, String>;

impl<'a> Bytes<'a> {
    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let taken = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| format!("{count} bytes wanted, {} there", self.0.len()))?;
        self.0 = taken.1;
        Ok(taken.0)
    }

    pub fn number(&mut self, bytes: usize) -> Read<u64> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    pub fn string(&mut self) -> Read<String> {
        let length = self.number(1)? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|error| error.to_string())
    }

    /// Pairs as they stand there; `sorted`: they must be, without a key twice.
    pub fn mapping(&mut self, sorted: bool) -> Read<BTreeMap<String, String>> {
        let length = self.number(2)? as usize;
        let mut inner = Bytes(self.take(length)?);
        let mut pairs = BTreeMap::new();
        let mut last: Option<Vec<u16>> = None;
        while !inner.0.is_empty() {
            let key = inner.string()?;
            if inner.take(1)? != b"=" {
                return Err("no = in a mapping".into());
            }
            let value = inner.string()?;
            if inner.take(1)? != b";" {
                return Err("no ; in a mapping".into());
            }
            // as Java compares
            let order: Vec<u16> = key.encode_utf16().collect();
            if sorted && last.is_some_and(|last| last >= order) {
                return Err(format!("{key} is not in order"));
            }
            last = Some(order);
            pairs.insert(key, value);
        }
        Ok(pairs)
    }

    pub fn destination(&mut self) -> Read<Destination> {
        let head = self.0.get(384..387).ok_or("a destination is cut short")?;
        let length = 387 + usize::from(u16::from_be_bytes([head[1], head[2]]));
        Destination::decode(self.take(length)?).map_err(|error| error.to_string())
    }

    pub fn end(&self) -> Read<()> {
        match self.0 {
            [] => Ok(()),
            rest => Err(format!("{} bytes too many", rest.len())),
        }
    }
}

/// A message with its length in front.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_be_bytes().to_vec();
    out.push(kind);
    out.extend(body);
    out
}

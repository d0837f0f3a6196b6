//! Fragmentation, and reassembly at the destination (R36 to R39, RD11 to RD13).
use crate::header::{Fragment, Header};
use crate::{LinkId, Now, ReloadError};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an incomplete set is kept (RD13).
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// Incomplete sets of one link (RD13).
pub const MAX_SETS_PER_LINK: usize = 64;
/// Bytes of all incomplete sets (RD13).
pub const MAX_BYTES: usize = 1024 * 1024;
/// Bytes after the header that 14 bits of 8-byte units can place (RD11).
pub const MAX_CONTENTS: usize = 0x3fff * 8;
/// What memory a fragment costs beside its bytes; counted, so that tiny fragments are no way around the bound.
const OVERHEAD: usize = 64;

/// Cuts a message into messages of at most `limit` bytes. Works for fragments, too: a hop may cut again (R36). A message
/// that fits comes back alone.
///
/// # Errors
/// The header alone takes the limit, or the contents reach beyond 131,064 bytes.
pub fn split(header: &Header, contents: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, ReloadError> {
    if header.wire_len() + contents.len() <= limit {
        return Ok(vec![header.emit(contents)?]);
    }
    let (base, ends) = match header.fragment {
        Fragment::Whole => (0, true),
        Fragment::Part { offset, last } => (offset, last),
    };
    let room = limit.saturating_sub(header.wire_len()) / 8 * 8;
    if room == 0 {
        return Err(ReloadError::TooLong {
            what: "the forwarding header",
            len: header.wire_len() + 8,
            limit,
        });
    }
    if base + contents.len() > MAX_CONTENTS {
        return Err(ReloadError::TooLong {
            what: "a fragmented message",
            len: base + contents.len(),
            limit: MAX_CONTENTS,
        });
    }
    let count = contents.len().div_ceil(room);
    contents
        .chunks(room)
        .enumerate()
        .map(|(i, chunk)| {
            let part = Header {
                fragment: Fragment::Part {
                    offset: base + i * room,
                    last: ends && i + 1 == count,
                },
                ..header.clone()
            };
            part.emit(chunk)
        })
        .collect()
}

/// One incomplete message.
struct Set {
    header: Header,
    parts: BTreeMap<usize, Vec<u8>>,
    /// Where the last part ends, once it is here.
    total: Option<usize>,
    since: Duration,
    cost: usize,
}

/// What the destination keeps until messages are complete.
#[derive(Default)]
pub struct Reassembly {
    /// The link is part of the key: a set is never mixed from two sources (RD13).
    sets: BTreeMap<(LinkId, u64), Set>,
    bytes: usize,
    /// Sets given up: too old, too many, or contradicting themselves.
    pub dropped: u64,
}

impl Reassembly {
    /// Takes a fragment. Gives the header and the contents of the whole message once nothing is missing.
    pub fn insert(
        &mut self,
        now: Now,
        link: LinkId,
        header: Header,
        part: &[u8],
    ) -> Option<(Header, Vec<u8>)> {
        let Fragment::Part { offset, last } = header.fragment else {
            return Some((header, part.to_vec()));
        };
        let good_size = last || part.len().is_multiple_of(8);
        if part.is_empty() || !good_size || offset + part.len() > MAX_CONTENTS {
            self.dropped += 1;
            return None;
        }
        let key = (link, header.transaction);
        if !self.sets.contains_key(&key) && !self.admit(now, link) {
            self.dropped += 1;
            return None;
        }
        let set = self.sets.entry(key).or_insert_with(|| Set {
            header,
            parts: BTreeMap::new(),
            total: None,
            since: now.at,
            cost: 0,
        });
        let end = offset + part.len();
        match set.add(offset, part, last) {
            Added::Repeated => return None,
            Added::Contradiction => {
                self.remove(key);
                self.dropped += 1;
                return None;
            }
            Added::New => {}
        }
        let cost = part.len() + OVERHEAD;
        set.cost += cost;
        self.bytes += cost;
        debug_assert!(set.total.is_none_or(|total| end <= total));
        if self.bytes > MAX_BYTES {
            self.remove(key);
            self.dropped += 1;
            return None;
        }
        if !self.sets.get(&key)?.is_complete() {
            return None;
        }
        let set = self.remove(key)?;
        let header = Header {
            fragment: Fragment::Whole,
            ..set.header
        };
        Some((header, set.parts.into_values().flatten().collect()))
    }

    fn admit(&mut self, now: Now, link: LinkId) -> bool {
        self.expire(now);
        let of_link = self.sets.range((link, 0)..=(link, u64::MAX)).count();
        of_link < MAX_SETS_PER_LINK && self.bytes < MAX_BYTES
    }

    /// Gives up the sets that are too old (R39).
    pub fn expire(&mut self, now: Now) {
        let old: Vec<_> = self
            .sets
            .iter()
            .filter(|(_, set)| set.since + TIMEOUT <= now.at)
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            self.remove(key);
            self.dropped += 1;
        }
    }

    /// Forgets a link's sets.
    pub fn forget(&mut self, link: LinkId) {
        let gone: Vec<_> = self
            .sets
            .range((link, 0)..=(link, u64::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: (LinkId, u64)) -> Option<Set> {
        let set = self.sets.remove(&key)?;
        self.bytes -= set.cost;
        Some(set)
    }

    /// Bytes held, with what holding them costs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest set will be given up.
    pub fn deadline(&self) -> Option<Duration> {
        self.sets.values().map(|set| set.since + TIMEOUT).min()
    }
}

enum Added {
    New,
    Repeated,
    Contradiction,
}

impl Set {
    /// Overlaps must agree (RD13): parts are either the same as one that is here, or touch none.
    fn add(&mut self, offset: usize, part: &[u8], last: bool) -> Added {
        let end = offset + part.len();
        if let Some(known) = self.parts.get(&offset)
            && known == part
            && (!last || self.total == Some(end))
        {
            return Added::Repeated;
        }
        let before = self.parts.range(..=offset).next_back();
        let after = self.parts.range(offset..).next();
        let overlaps = before.is_some_and(|(at, known)| at + known.len() > offset)
            || after.is_some_and(|(at, _)| *at < end);
        let highest = self
            .parts
            .last_key_value()
            .map_or(0, |(at, known)| at + known.len());
        let beyond = self.total.is_some_and(|total| last || end > total);
        if overlaps || beyond || (last && highest > end) {
            return Added::Contradiction;
        }
        if last {
            self.total = Some(end);
        }
        self.parts.insert(offset, part.to_vec());
        Added::New
    }

    /// Parts do not overlap, so it is complete when their sizes add up.
    fn is_complete(&self) -> bool {
        self.total == Some(self.parts.values().map(Vec::len).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;
    use crate::body::TunnelRequest;
    use crate::contents::{Kind, Method, emit_contents};
    use crate::vectors::{bytes, hex, vector};
    use sha2::{Digest, Sha256};

    const LINK: LinkId = LinkId(1);

    fn now(seconds: u64) -> Now {
        Now {
            at: Duration::from_secs(seconds),
            unix: 1_700_000_000 + seconds,
        }
    }

    fn header() -> Header {
        let bytes = bytes("fragment-headers");
        let mut header = Header::new(
            crate::overlay_hash("a--00000001.net"),
            u64::from_be_bytes(bytes[16..24].try_into().unwrap()),
            vec![Id([0x55; 16])],
        );
        header.via = vec![];
        header
    }

    fn feed(reassembly: &mut Reassembly, at: u64, bytes: &[u8]) -> Option<(Header, Vec<u8>)> {
        let (header, part) = Header::parse(bytes).unwrap();
        reassembly.insert(now(at), LINK, header, part)
    }

    // R36, RD11, RD13
    #[test]
    fn fragments_are_those_of_the_vectors() {
        let hashes: Vec<_> = vector("fragment-headers")["inputs"]["sha256_of_each_fragment"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hash| hex(hash.as_str().unwrap()))
            .collect();
        let pdu = (0..2600u32).map(|i| (i * 7 + 3) as u8).collect();
        // the vector does not say its one-letter dialog
        let found = (b'!'..=b'~').any(|letter| {
            let tunnel = TunnelRequest {
                application: 8737,
                dialog: char::from(letter).to_string(),
                pdu: Vec::clone(&pdu),
            };
            let contents = emit_contents(
                Kind::Request(Method::Tunnel as u16),
                &tunnel.emit().unwrap(),
            );
            let parts = split(&header(), &contents, 1200).unwrap();
            assert_eq!(
                parts.iter().map(Vec::len).collect::<Vec<_>>(),
                [1196, 1196, 355]
            );
            let heads: Vec<u8> = parts.iter().flat_map(|part| part[..28].to_vec()).collect();
            assert_eq!(heads, bytes("fragment-headers"));
            let sums: Vec<_> = parts.iter().map(|p| Sha256::digest(p).to_vec()).collect();
            sums == hashes
        });
        assert!(found);
    }

    // R36, R37: cut again on the way, out of order, twice
    #[test]
    fn fragments_of_fragments_make_the_message() {
        let contents: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let mut parts = Vec::new();
        for part in split(&header(), &contents, 1200).unwrap() {
            let (header, part) = Header::parse(&part).unwrap();
            parts.extend(split(&header, part, 300).unwrap());
        }
        assert!(parts.len() > 20 && parts.iter().all(|part| part.len() <= 300));
        parts.reverse();
        let mut reassembly = Reassembly::default();
        let mut whole = None;
        for part in &parts {
            assert!(whole.is_none());
            whole = feed(&mut reassembly, 0, part);
            if whole.is_none() {
                assert!(feed(&mut reassembly, 0, part).is_none());
            }
        }
        let (header, all) = whole.unwrap();
        assert_eq!(all, contents);
        assert_eq!(header.fragment, Fragment::Whole);
        assert_eq!(reassembly.bytes(), 0);
        assert_eq!(reassembly.dropped, 0);
    }

    // R39, RD13
    #[test]
    fn incomplete_sets_end_after_15_seconds() {
        let parts = split(&header(), &[7; 3000], 1200).unwrap();
        let mut reassembly = Reassembly::default();
        assert!(feed(&mut reassembly, 0, &parts[0]).is_none());
        assert_eq!(reassembly.deadline(), Some(TIMEOUT));
        reassembly.expire(now(14));
        assert!(reassembly.bytes() > 0);
        reassembly.expire(now(15));
        assert_eq!((reassembly.bytes(), reassembly.dropped), (0, 1));
    }

    // RD13: overlaps must agree
    #[test]
    fn contradicting_fragments_drop_the_set() {
        let part = |offset, last, bytes: &[u8]| {
            Header {
                fragment: Fragment::Part { offset, last },
                ..header()
            }
            .emit(bytes)
            .unwrap()
        };
        let cases: [(Vec<u8>, Vec<u8>); 5] = [
            (part(0, false, &[1; 16]), part(0, false, &[2; 16])),
            (part(0, false, &[1; 16]), part(8, false, &[1; 16])),
            (part(8, false, &[1; 16]), part(0, false, &[1; 16])),
            (part(16, true, &[1; 16]), part(40, true, &[1; 8])),
            (part(40, false, &[1; 8]), part(16, true, &[1; 8])),
        ];
        for (i, (one, two)) in cases.iter().enumerate() {
            let mut reassembly = Reassembly::default();
            assert!(feed(&mut reassembly, 0, one).is_none());
            assert!(feed(&mut reassembly, 0, two).is_none());
            assert_eq!((reassembly.dropped, reassembly.bytes()), (1, 0), "case {i}");
        }
        // no multiple of 8, empty, beyond the end
        let mut reassembly = Reassembly::default();
        for bad in [
            part(0, false, &[1; 7]),
            part(0, true, &[]),
            part(MAX_CONTENTS, true, &[1; 8]),
        ] {
            assert!(feed(&mut reassembly, 0, &bad).is_none());
        }
        assert_eq!((reassembly.dropped, reassembly.bytes()), (3, 0));
    }

    // R39, RD13: 64 sets per link, 1 MiB in all, and tiny fragments count for what they cost
    #[test]
    fn a_flood_of_fragments_is_bounded() {
        let mut reassembly = Reassembly::default();
        for transaction in 0..10_000u64 {
            for link in [LinkId(1), LinkId(2)] {
                let mut header = header();
                header.transaction = transaction;
                header.fragment = Fragment::Part {
                    offset: 8 * (transaction as usize % 1000),
                    last: false,
                };
                reassembly.insert(now(0), link, header, &[0; 1024]);
            }
        }
        assert_eq!(reassembly.sets.len(), 2 * MAX_SETS_PER_LINK);
        assert_eq!(reassembly.dropped, 2 * (10_000 - 64));
        for offset in (0..MAX_CONTENTS - 8).step_by(8) {
            for link in 3..40 {
                let mut header = header();
                header.fragment = Fragment::Part {
                    offset,
                    last: false,
                };
                reassembly.insert(now(0), LinkId(link), header, &[0; 8]);
                assert!(reassembly.bytes() <= MAX_BYTES);
            }
        }
        reassembly.forget(LinkId(1));
        assert!(reassembly.sets.keys().all(|(link, _)| *link != LinkId(1)));
    }

    #[test]
    fn a_message_beyond_14_bits_of_offset_is_not_cut() {
        assert!(split(&header(), &vec![0; MAX_CONTENTS], 1200).is_ok());
        assert!(split(&header(), &vec![0; MAX_CONTENTS + 1], 1200).is_err());
        let mut long = header();
        long.via = vec![Id([1; 16]); 200];
        assert!(split(&long, &[0; 3000], 1200).is_err());
    }
}

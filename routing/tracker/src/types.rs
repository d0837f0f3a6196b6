//! What every protocol here speaks of: hashes, ids, events, an announce and its answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The most peers taken from one answer; the rest is counted ([`Answer::surplus`]). We ask for 30, trackers give up to
/// 200 where more is asked.
pub const MAX_PEERS: usize = 2_000;

/// The 20 bytes that name a swarm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for InfoHash {
    type Err = InvalidInfoHash;

    fn from_str(text: &str) -> Result<Self, InvalidInfoHash> {
        let digits = text.as_bytes();
        if digits.len() != 40 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidInfoHash);
        }
        let mut hash = [0; 20];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            // two hexadecimal digits were just seen
            let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(hash))
    }
}

/// A text that is no info hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an info hash is 40 hexadecimal digits")]
pub struct InvalidInfoHash;

/// The 20 bytes by which a client calls itself; opaque to a tracker (B16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

/// The number that shows a tracker that two announces are of one client (B6 to B8); `%08X` in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u32);

/// Why an announce is made; a regular repeat has no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The download is complete. We never send it.
    Completed,
    /// The first announce.
    Started,
    /// The last one.
    Stopped,
}

/// An announce as a client makes it. There is no `ip`, `ipv4` or `ipv6` in it (B9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Who.
    pub peer_id: PeerId,
    /// The same for all announces of one swarm in one run (B7).
    pub key: Key,
    /// Where peers reach us, at the address that the tracker sees.
    pub port: u16,
    /// Bytes left, more than 0: a tracker may hide seeders from seeders (discovery.md §2).
    pub left: u64,
    /// Why now.
    pub event: Option<Event>,
    /// How many peers are wanted.
    pub num_want: u32,
    /// The `tracker id` of the last answer that had one (HTTP).
    pub tracker_id: Option<Vec<u8>>,
    /// Whether compact answers are asked for (HTTP; advice only).
    pub compact: bool,
}

/// What a tracker answered to an announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How long to wait before the next announce; `None` where the tracker left it out.
    pub interval: Option<Duration>,
    /// Never to announce earlier than this, events excepted.
    pub min_interval: Option<Duration>,
    /// To be sent back in later announces.
    pub tracker_id: Option<Vec<u8>>,
    /// Something for people; the answer counts all the same.
    pub warning: Option<String>,
    /// Clients with nothing left.
    pub complete: Option<u32>,
    /// Clients with something left.
    pub incomplete: Option<u32>,
    /// Our address as the tracker saw it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// At most [`MAX_PEERS`] endpoints, as sent.
    pub peers: Vec<SocketAddr>,
    /// Endpoints past [`MAX_PEERS`].
    pub surplus: usize,
    /// Entries of a list that are no endpoint, such as DNS names.
    pub unusable: usize,
}

/// A tracker's refusal, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker refuses: {reason}")]
pub struct Refusal {
    /// Printable, at most [`MAX_TEXT`] characters.
    pub reason: String,
    /// When to come back (BEP 31), where it says so.
    pub retry: Option<Retry>,
}

/// BEP 31: when to ask again after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this long.
    After(Duration),
    /// Not in this run.
    Never,
}

/// What a tracker knows of one swarm (BEP 48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeEntry {
    /// Clients with nothing left.
    pub complete: u32,
    /// How often somebody said "completed".
    pub downloaded: u32,
    /// Clients with something left.
    pub incomplete: u32,
}

/// The longest text of a tracker that is kept, in characters.
pub const MAX_TEXT: usize = 256;

/// A text of a tracker for people and logs: cut, and without control characters that a terminal would obey.
pub(crate) fn printable(text: &[u8]) -> String {
    let text = text.get(..text.len().min(MAX_TEXT * 4)).unwrap_or_default();
    String::from_utf8_lossy(text)
        .trim_end_matches('\0')
        .chars()
        .take(MAX_TEXT)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_hashes_are_read_and_shown_as_hex() {
        let text = "ae6c5ad699f4f549df3fa37df67ea8857b0d2d2a";
        let hash: InfoHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(hash));
        for wrong in [
            "",
            "ae",
            &text[1..],
            &format!("{text}0"),
            &text.replace('a', "+"),
            "ää".repeat(10).as_str(),
        ] {
            assert_eq!(wrong.parse::<InfoHash>(), Err(InvalidInfoHash), "{wrong}");
        }
    }

    // S36
    #[test]
    fn texts_of_a_tracker_cannot_drive_a_terminal() {
        assert_eq!(printable(b"no\x1b[2Jluck\0\0"), "no [2Jluck");
        assert_eq!(printable(&[b'a'; 100_000]).len(), MAX_TEXT);
        assert_eq!(printable(b"\xff\xfe").chars().count(), 2);
    }
}

//! What the server reads: the query of an announce or a scrape.

use crate::types::{Event, InfoHash, PeerId};

/// The most hashes of one scrape that are looked at, as in UDP.
pub const MAX_SCRAPE: usize = 74;
/// The longest `key` that is kept; clients send 4 to 8 bytes.
const MAX_KEY: usize = 32;

/// Why a query is no announce or scrape; said to the client as `failure reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// `info_hash` is missing or not 20 bytes.
    #[error("info_hash is missing or not 20 bytes")]
    InfoHash,
    /// `peer_id` is missing or not 20 bytes.
    #[error("peer_id is missing or not 20 bytes")]
    PeerId,
    /// `port` is missing, no number or 0.
    #[error("port is missing or not from 1 to 65535")]
    Port,
}

/// An announce over HTTP. Whatever address it names (`ip`, `ipv4`, `ipv6`) is not read (B9, B15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Opaque (B16).
    pub peer_id: PeerId,
    /// Opaque (B16), at most 32 bytes of it.
    pub key: Vec<u8>,
    /// Not 0.
    pub port: u16,
    /// Nothing left to fetch: a "seeder". Missing counts as something left.
    pub complete: bool,
    /// Unknown events count as none.
    pub event: Option<Event>,
    /// `compact`; missing counts as 1, as every client of today reads it.
    pub compact: bool,
    /// How many peers are wanted.
    pub num_want: Option<u32>,
    /// Leave `peer id` out of a list.
    pub no_peer_id: bool,
}

impl AnnounceQuery {
    /// Reads what stands behind the `?` of the request target.
    pub fn parse(query: &str) -> Result<Self, InvalidQuery> {
        let mut info_hash = None;
        let mut peer_id = None;
        let mut read = Self {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            key: Vec::new(),
            port: 0,
            complete: false,
            event: None,
            compact: true,
            num_want: None,
            no_peer_id: false,
        };
        for (name, value) in parameters(query) {
            match name {
                "info_hash" => info_hash = twenty(value),
                "peer_id" => peer_id = twenty(value),
                "key" => read.key = decoded(value).take(MAX_KEY).collect(),
                "port" => read.port = value.parse().unwrap_or(0),
                "left" => read.complete = value.parse() == Ok(0u64),
                "compact" => read.compact = value != "0",
                "numwant" => read.num_want = value.parse().ok(),
                "no_peer_id" => read.no_peer_id = value == "1",
                "event" => {
                    read.event = match value {
                        "started" => Some(Event::Started),
                        "stopped" => Some(Event::Stopped),
                        "completed" => Some(Event::Completed),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        read.info_hash = InfoHash(info_hash.ok_or(InvalidQuery::InfoHash)?);
        read.peer_id = PeerId(peer_id.ok_or(InvalidQuery::PeerId)?);
        if read.port == 0 {
            return Err(InvalidQuery::Port);
        }
        Ok(read)
    }
}

/// A scrape over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeQuery {
    /// At most 74; a scrape of everything is not offered.
    pub hashes: Vec<InfoHash>,
}

impl ScrapeQuery {
    /// Reads what stands behind the `?` of the request target.
    pub fn parse(query: &str) -> Result<Self, InvalidQuery> {
        let hashes: Option<Vec<_>> = parameters(query)
            .filter(|(name, _)| *name == "info_hash")
            .take(MAX_SCRAPE)
            .map(|(_, value)| twenty(value).map(InfoHash))
            .collect();
        match hashes {
            Some(hashes) if !hashes.is_empty() => Ok(Self { hashes }),
            _ => Err(InvalidQuery::InfoHash),
        }
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Exactly 20 bytes behind the percent-encoding.
fn twenty(value: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let mut rest = decoded(value);
    for byte in &mut bytes {
        *byte = rest.next()?;
    }
    rest.next().is_none().then_some(bytes)
}

/// Percent-decoding to raw bytes. `+` is a space, as form encoders write it; who means a plus sends `%2B`. A `%`
/// without two digits stands for itself.
fn decoded(value: &str) -> impl Iterator<Item = u8> + '_ {
    let bytes = value.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        Some(match byte {
            b'+' => b' ',
            b'%' => match (digit(at), digit(at + 1)) {
                (Some(high), Some(low)) => {
                    at += 2;
                    (high << 4 | low) as u8
                }
                _ => byte,
            },
            _ => byte,
        })
    })
}

//! What the client reads: bodies of announces and scrapes.

use crate::bencode::{self, Dict, Value};
use crate::compact::{self, Family};
use crate::types::{Answer, InfoHash, MAX_PEERS, Refusal, Retry, ScrapeEntry, printable};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The most bytes of a body that the transport need read; more is refused.
pub const MAX_BODY: usize = bencode::MAX_SIZE;
/// A longer `tracker id` is not kept.
const MAX_TRACKER_ID: usize = 256;
/// No count of seconds beyond this is believed (a year); the client's own limits are tighter.
const MAX_SECONDS: i64 = 366 * 86_400;

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// `failure reason`, whatever the status.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A status other than 200 without a reason.
    #[error("the tracker answers with HTTP status {0}")]
    Status(u16),
    /// Redirects are not followed.
    #[error("the tracker redirects (HTTP status {0}); name the right URL")]
    Redirect(u16),
    /// The body is no bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// The body is bencode, but no answer.
    #[error("the tracker's answer is no dictionary with peers or an interval")]
    NotAnAnswer,
    /// `peers` or `peers6` has a length that is no multiple of its entries.
    #[error("the tracker's answer has {key} of {length} bytes")]
    PeersLength {
        /// `peers` or `peers6`.
        key: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

/// Reads the answer to an announce. A list of the wrong length discards the answer whole.
pub fn announce_answer(status: u16, body: &[u8]) -> Result<Answer, AnswerError> {
    let dict = dictionary(status, body)?;
    let mut answer = Answer::default();
    let mut found = false;
    for (key, value) in dict {
        match (key, value) {
            (b"interval", Value::Int(seconds)) => {
                found = true;
                answer.interval = Some(duration(seconds));
            }
            (b"min interval", Value::Int(seconds)) => answer.min_interval = Some(duration(seconds)),
            (b"tracker id", Value::Bytes(id)) if id.len() <= MAX_TRACKER_ID => {
                answer.tracker_id = Some(id.to_vec())
            }
            (b"warning message", Value::Bytes(text)) => answer.warning = Some(printable(text)),
            (b"complete", Value::Int(count)) => answer.complete = Some(clamped(count)),
            (b"incomplete", Value::Int(count)) => answer.incomplete = Some(clamped(count)),
            (b"external ip", Value::Bytes(ip)) => answer.external_ip = raw_ip(ip),
            (b"peers", Value::Bytes(bytes)) => {
                found = true;
                compact_peers("peers", bytes, Family::V4, &mut answer)?;
            }
            (b"peers6", Value::Bytes(bytes)) => {
                found = true;
                compact_peers("peers6", bytes, Family::V6, &mut answer)?;
            }
            (b"peers", Value::List(list)) => {
                found = true;
                for entry in list {
                    match entry.as_dict().and_then(listed_peer) {
                        Some(endpoint) => push(endpoint, &mut answer),
                        None => answer.unusable += 1,
                    }
                }
            }
            _ => {}
        }
    }
    if found {
        Ok(answer)
    } else {
        Err(AnswerError::NotAnAnswer)
    }
}

/// Reads the answer to a scrape: every hash that it knows, at most `limit`.
pub fn scrape_answer(
    status: u16,
    body: &[u8],
    limit: usize,
) -> Result<Vec<(InfoHash, ScrapeEntry)>, AnswerError> {
    let files = dictionary(status, body)?
        .get(b"files")
        .and_then(Value::as_dict)
        .ok_or(AnswerError::NotAnAnswer)?;
    let entries = files.into_iter().filter_map(|(hash, value)| {
        let (hash, counts) = (InfoHash(hash.try_into().ok()?), value.as_dict()?);
        let count = |key: &[u8]| counts.get(key).and_then(Value::as_int).map_or(0, clamped);
        let (complete, downloaded, incomplete) = (
            count(b"complete"),
            count(b"downloaded"),
            count(b"incomplete"),
        );
        Some((
            hash,
            ScrapeEntry {
                complete,
                downloaded,
                incomplete,
            },
        ))
    });
    Ok(entries.take(limit).collect())
}

/// The dictionary of a body that is an answer; a failure in it counts before the status does, since trackers give
/// their reasons under 200 and under 4xx alike.
fn dictionary(status: u16, body: &[u8]) -> Result<Dict<'_>, AnswerError> {
    if (300..400).contains(&status) {
        return Err(AnswerError::Redirect(status));
    }
    let parsed = bencode::parse(body);
    if let Some(refusal) = parsed.ok().and_then(Value::as_dict).and_then(refusal) {
        return Err(AnswerError::Refused(refusal));
    }
    if status != 200 {
        return Err(AnswerError::Status(status));
    }
    parsed?.as_dict().ok_or(AnswerError::NotAnAnswer)
}

fn refusal(dict: Dict<'_>) -> Option<Refusal> {
    let reason = printable(dict.get(b"failure reason")?.as_bytes()?);
    let minutes = |minutes: i64| Retry::After(duration(minutes.saturating_mul(60)));
    let retry = match dict.get(b"retry in") {
        Some(Value::Int(count)) => Some(minutes(count)),
        Some(Value::Bytes(b"never")) => Some(Retry::Never),
        Some(Value::Bytes(text)) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(minutes),
        _ => None,
    };
    Some(Refusal { reason, retry })
}

fn compact_peers(
    key: &'static str,
    bytes: &[u8],
    family: Family,
    answer: &mut Answer,
) -> Result<(), AnswerError> {
    let length = bytes.len();
    let entries =
        compact::entries(bytes, family).ok_or(AnswerError::PeersLength { key, length })?;
    entries.for_each(|endpoint| push(endpoint, answer));
    Ok(())
}

/// `{ip, port}` of a list (B10): `ip` is a text of either family; DNS names are not looked up.
fn listed_peer(entry: Dict<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = std::str::from_utf8(entry.get(b"ip")?.as_bytes()?)
        .ok()?
        .parse()
        .ok()?;
    let port = u16::try_from(entry.get(b"port")?.as_int()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

fn push(endpoint: SocketAddr, answer: &mut Answer) {
    if answer.peers.len() < MAX_PEERS {
        answer.peers.push(endpoint);
    } else {
        answer.surplus += 1;
    }
}

/// BEP 24: 4 or 16 raw bytes.
fn raw_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn duration(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(0, MAX_SECONDS).unsigned_abs())
}

fn clamped(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

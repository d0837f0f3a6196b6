//! What the client asks: a request target and the headers that matter.

use crate::types::{Announce, Event, InfoHash};
use crate::url::TrackerUrl;
use std::fmt::Write;

/// A GET request. The transport adds nothing but the framing; redirects are not to be followed, since a tracker must
/// not send its clients elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Names in lower case and values; `host` is the first.
    pub headers: Vec<(&'static str, String)>,
}

impl Request {
    fn new(url: &TrackerUrl, target: String) -> Self {
        let headers = vec![
            ("host", url.authority()),
            ("user-agent", "anode".to_owned()),
            // a compressed body could not be bounded by its length
            ("accept-encoding", "identity".to_owned()),
            ("connection", "close".to_owned()),
        ];
        Self { target, headers }
    }
}

/// The request of an announce.
pub fn announce(url: &TrackerUrl, announce: &Announce) -> Request {
    let mut target = String::with_capacity(url.target().len() + 256);
    target.push_str(url.target());
    parameter(&mut target, "info_hash", &announce.info_hash.0);
    parameter(&mut target, "peer_id", &announce.peer_id.0);
    let (port, left, compact) = (announce.port, announce.left, u8::from(announce.compact));
    // writing to a String cannot fail
    let _ = write!(
        target,
        "&port={port}&uploaded=0&downloaded=0&left={left}&compact={compact}"
    );
    let _ = write!(
        target,
        "&numwant={}&key={:08X}",
        announce.num_want, announce.key.0
    );
    if let Some(event) = announce.event {
        target.push_str("&event=");
        target.push_str(match event {
            Event::Completed => "completed",
            Event::Started => "started",
            Event::Stopped => "stopped",
        });
    }
    if let Some(id) = &announce.tracker_id {
        parameter(&mut target, "trackerid", id);
    }
    Request::new(url, target)
}

/// The request of a scrape; nothing when the URL has no scrape form (BEP 48).
pub fn scrape(url: &TrackerUrl, hashes: &[InfoHash]) -> Option<Request> {
    let mut target = url.scrape_target()?;
    for hash in hashes {
        parameter(&mut target, "info_hash", &hash.0);
    }
    Some(Request::new(url, target))
}

/// Adds `name=value`, the value percent-encoded from raw bytes: RFC 3986's unreserved characters stay.
fn parameter(target: &mut String, name: &str, value: &[u8]) {
    let glue = match target.find('?') {
        None => "?",
        Some(_) if target.ends_with(['?', '&']) => "",
        Some(_) => "&",
    };
    target.push_str(glue);
    target.push_str(name);
    target.push('=');
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            target.push(char::from(*byte));
        } else {
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

//! One tracker: its URL, and what its name resolves to (B2).

use crate::rendezvous::{LocalAddress, pairs};
use crate::url::TrackerUrl;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The most addresses of one tracker that are looked at.
const MAX_ADDRESSES: usize = 16;
/// How long a resolved name is believed, and the longest wait after a failure.
const LIFE: Duration = Duration::from_secs(3_600);
const FIRST_RETRY: Duration = Duration::from_secs(60);

enum Resolution {
    Due(Instant),
    Asked,
    /// An address stands in the URL.
    Literal,
}

pub(super) struct Tracker {
    pub(super) url: TrackerUrl,
    addresses: Vec<IpAddr>,
    resolution: Resolution,
    failures: u32,
    /// Still configured; otherwise only its `stopped` are outstanding.
    pub(super) wanted: bool,
}

impl Tracker {
    /// An address in the URL needs no resolving; a name is due now.
    pub(super) fn new(url: TrackerUrl, now: Instant) -> Self {
        let literal: Option<IpAddr> = url.host().parse().ok();
        let resolution = match literal {
            Some(_) => Resolution::Literal,
            None => Resolution::Due(now),
        };
        Self {
            url,
            addresses: literal.into_iter().collect(),
            resolution,
            failures: 0,
            wanted: true,
        }
    }

    /// When the name is to be resolved.
    pub(super) fn resolve_at(&self) -> Option<Instant> {
        match self.resolution {
            Resolution::Due(at) if self.wanted => Some(at),
            _ => None,
        }
    }

    /// The name to resolve, which is asked for now.
    pub(super) fn ask(&mut self) -> String {
        self.resolution = Resolution::Asked;
        self.url.host().to_owned()
    }

    /// Whether an answer of the resolver is expected.
    pub(super) fn asked(&self) -> bool {
        matches!(self.resolution, Resolution::Asked)
    }

    pub(super) fn resolved(&mut self, addresses: &[IpAddr], now: Instant) {
        self.addresses = addresses
            .iter()
            .map(IpAddr::to_canonical)
            .take(MAX_ADDRESSES)
            .collect();
        self.failures = 0;
        self.resolution = Resolution::Due(now + LIFE);
    }

    /// Keeps what was known, since trackers move less often than resolvers fail; when to ask again.
    pub(super) fn unresolved(&mut self, now: Instant) -> Instant {
        let retry = now + (FIRST_RETRY * 2u32.pow(self.failures.min(6))).min(LIFE);
        self.failures += 1;
        self.resolution = Resolution::Due(retry);
        retry
    }

    /// The address after `last` that a local address can reach; the first without `last`.
    pub(super) fn remote(&self, local: &LocalAddress, last: Option<IpAddr>) -> Option<SocketAddr> {
        let reachable: Vec<_> = self
            .addresses
            .iter()
            .copied()
            .filter(|ip| pairs(local, *ip))
            .collect();
        let next = last
            .and_then(|last| reachable.iter().position(|ip| *ip == last))
            .map_or(0, |at| at + 1);
        let ip = reachable.get(next).or(reachable.first())?;
        Some(SocketAddr::new(*ip, self.url.port()))
    }
}

//! The tracker that a relay runs: HTTP and UDP, both families, swarms within bounds.
//!
//! ```text
//!  datagram, source ─▶ udp ── cookie: is the source real? ─┐
//!                                                          ├▶ limits: how often ─▶ swarm: who, until when ─▶ answer
//!  target, source ──▶ http ────────────────────────────────┘
//! ```
//!
//! Only the source address of a request is ever registered (B15); whatever address a request names is not read (B9).

mod cookie;
mod http;
mod limits;
mod swarm;
mod udp;

use crate::types::InfoHash;
use cookie::Cookies;
use limits::RateLimit;
use rand_core::CryptoRng;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use swarm::{Entry, Registry, Swarm};

/// Which swarms are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// All.
    Open,
    /// These: those of the own zones and those that the configuration lists.
    Listed(HashSet<InfoHash>),
}

impl Access {
    fn allows(&self, hash: &InfoHash) -> bool {
        match self {
            Self::Open => true,
            Self::Listed(hashes) => hashes.contains(hash),
        }
    }
}

/// Limits and intervals; `Default` is what the program uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Told to clients; an entry lives twice as long.
    pub interval: Duration,
    /// Told to clients that ask over HTTP.
    pub min_interval: Duration,
    /// The most peers in one answer.
    pub max_peers: usize,
    /// The most bytes of one UDP answer.
    pub max_datagram: usize,
    /// The most entries (an endpoint in a swarm) of one source: an IPv4 address or an IPv6 /64.
    pub entries_per_source: u16,
    /// Requests a second of one source; twice as many at once.
    pub requests_per_second: u32,
    /// The most entries in all.
    pub max_entries: usize,
    /// The most swarms.
    pub max_swarms: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1_800),
            min_interval: Duration::from_secs(60),
            max_peers: 200,
            max_datagram: 1_200,
            entries_per_source: 64,
            requests_per_second: 10,
            max_entries: 100_000,
            max_swarms: 10_000,
        }
    }
}

/// What the tracker did and did not do, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connection ids given.
    pub connects: u64,
    /// Announces answered.
    pub announces: u64,
    /// Scrapes answered.
    pub scrapes: u64,
    /// Datagrams that are no request. No answer.
    pub malformed: u64,
    /// HTTP requests that are no announce or scrape, and announces with port 0.
    pub invalid: u64,
    /// Requests with a connection id that is not the source's, or too old. No answer.
    pub wrong_connection: u64,
    /// Requests over the rate of their source.
    pub limited: u64,
    /// Announces for a swarm that is not served.
    pub not_listed: u64,
    /// Announces of a source that has too many entries.
    pub too_many_entries: u64,
    /// Announces that found the tracker full.
    pub full: u64,
    /// Entries that nobody renewed.
    pub expired: u64,
}

/// The tracker.
pub struct Server {
    config: Config,
    access: Access,
    cookies: Cookies,
    /// Sources that have shown nothing yet: a flood with forged ones must not use up what real clients have.
    unproven: RateLimit,
    proven: RateLimit,
    registry: Registry,
    counters: Counters,
    start: Instant,
    next_sweep: Instant,
}

/// How often expired entries are removed; they are not given out meanwhile.
const SWEEP: Duration = Duration::from_secs(60);

/// What a client gets that does not say how many peers it wants.
const DEFAULT_WANT: usize = 50;

/// Why an announce is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    NotListed,
    Port,
    TooManyEntries,
    Full,
}

impl Refused {
    /// Said to the client.
    fn text(self) -> &'static str {
        match self {
            Self::NotListed => "this tracker does not serve this info hash",
            Self::Port => "port is missing or not from 1 to 65535",
            Self::TooManyEntries => "too many ports or swarms from this address",
            Self::Full => "this tracker is full",
        }
    }
}

impl Server {
    /// Starts empty. Connection ids are made with a key from `rng`.
    pub fn new(config: Config, access: Access, now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let rate = config.requests_per_second;
        Self {
            registry: Registry::new(&config),
            config,
            access,
            cookies: Cookies::new(rng),
            unproven: RateLimit::new(rate),
            proven: RateLimit::new(rate),
            counters: Counters::default(),
            start: now,
            next_sweep: now + SWEEP,
        }
    }

    /// Serves other swarms from now on; those that are not served any more are forgotten.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
        let access = &self.access;
        self.registry.retain_swarms(|hash| access.allows(hash));
    }

    /// When [`Server::handle_timeout`] wants to be called.
    pub fn deadline(&self) -> Instant {
        self.next_sweep
    }

    /// Removes what has expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.counters.expired += self.registry.sweep(self.seconds(now)) as u64;
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Entries held, of all swarms.
    pub fn entries(&self) -> usize {
        self.registry.entries()
    }

    /// Swarms held.
    pub fn swarms(&self) -> usize {
        self.registry.swarms()
    }

    fn seconds(&self, now: Instant) -> u32 {
        // 136 years of one process
        now.saturating_duration_since(self.start).as_secs() as u32
    }

    fn microseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_micros() as u64
    }

    /// What clients are told, in seconds.
    fn interval(&self) -> u32 {
        u32::try_from(self.config.interval.as_secs()).unwrap_or(u32::MAX)
    }

    fn register(&mut self, entry: &Entry, now: u32) -> Result<Option<&Swarm>, Refused> {
        if !self.access.allows(&entry.hash) {
            return Err(Refused::NotListed);
        }
        if entry.endpoint.port() == 0 {
            return Err(Refused::Port);
        }
        self.registry.announce(entry, now)
    }

    fn count(&mut self, refused: Refused) {
        match refused {
            Refused::NotListed => self.counters.not_listed += 1,
            Refused::Port => self.counters.invalid += 1,
            Refused::TooManyEntries => self.counters.too_many_entries += 1,
            Refused::Full => self.counters.full += 1,
        }
    }
}

/// What limits count by: an IPv4 address, or the /64 that an IPv6 host may choose from freely.
fn source_key(ip: IpAddr) -> u64 {
    match ip {
        // no /64 of a host starts so: ff00::/8 is multicast
        IpAddr::V4(ip) => 0xffff_ffff_0000_0000 | u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests;

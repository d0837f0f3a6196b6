//! The documents of the control API and of `--json`, as both sides read and write them.

mod people;
mod status;

use std::net::Ipv6Addr;
use std::time::Duration;

use anode_routing::overlay::{Failure, PathKind};
use anode_wire::PeerId;
use serde::{Deserialize, Serialize};

use crate::command::{LookupReport, PathReport, PeerReport, Target};

pub use people::{
    Invitation, InviteRequest, IssuedTicket, JoinRequest, ParsedQuestion, PolicyAnswer,
    PolicyQuestion, PolicyReloaded, TICKET_LIFETIME_MAX_S, TrustRequest, Trusted, WithdrawRequest,
};
pub use status::{
    Confinement, DnsStatus, OwnRelay, RelayPeer, RelayStatus, SecurityStatus, Status,
};

/// One of `anode peers --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// 64 base32 characters.
    pub address: String,
    /// The synthetic IPv6 with peer digit 0.
    pub ipv6: Ipv6Addr,
    /// What this machine calls it: as the trust book or `[names]` says, or `host.example.com.anode` if that led to it.
    pub name: Option<String>,
    /// Whether it may open connections to this machine.
    pub trusted: bool,
    /// The ways to it, the active one first.
    pub paths: Vec<Path>,
    /// Whether its traffic is sealed.
    pub sealed: bool,
    /// Whether its keys are post-quantum.
    pub pq: bool,
    /// Bytes from it.
    pub rx_bytes: u64,
    /// Bytes to it.
    pub tx_bytes: u64,
}

/// One way to a peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Path {
    /// Over what.
    pub kind: Kind,
    /// `udp`, `ethernet`, `tcp`, `tls`, `http`, `https`
    pub transport: String,
    /// `udp://192.0.2.1:8737`
    pub endpoint: String,
    /// The relay's address: 64 base32 characters, `null` without a relay, and where it is not known.
    #[serde(default)]
    pub relay: Option<String>,
    /// Relays passed.
    pub hops: u8,
    /// Milliseconds, `null` when not measured.
    pub rtt_ms: Option<f64>,
    /// Largest packet of the overlay in bytes.
    #[serde(default)]
    pub mtu: u16,
    /// Whether traffic takes it now.
    pub active: bool,
    /// Why the peer is relayed, of an active path over a relay: `trying`, `stranger`, `no-answer`, `no-udp`,
    /// `no-udp-there`, `both-symmetric`, `no-common-ip`, `nothing-through`, `not-hit`, `over-budget`.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Without a relay.
    Direct,
    /// Over a relay of the overlay.
    Relay,
    /// Over a TURN server.
    Turn,
    /// Through I2P's tunnels.
    I2p,
}

impl Kind {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Turn => "turn",
            Self::I2p => "i2p",
        }
    }
}

impl From<PathKind> for Kind {
    fn from(kind: PathKind) -> Self {
        match kind {
            PathKind::Direct => Self::Direct,
            PathKind::Relay => Self::Relay,
            PathKind::Turn => Self::Turn,
            PathKind::I2p => Self::I2p,
        }
    }
}

/// Milliseconds with three decimals: microseconds are what the clock is good for.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Path {
    fn new(report: &PathReport) -> Self {
        let endpoint = report.via.endpoint.to_string();
        let transport = match endpoint.split_once("://") {
            Some(("eth", _)) => "ethernet",
            Some((scheme, _)) => scheme,
            None => "udp",
        };
        let transport = transport.to_owned();
        Self {
            kind: report.via.kind.into(),
            transport,
            endpoint,
            relay: report.relay.map(|relay| relay.to_string()),
            hops: report.via.hops,
            rtt_ms: report.rtt.map(millis),
            mtu: report.mtu,
            active: report.active,
            reason: None,
        }
    }
}

impl Peer {
    /// A report with what is known of names and trust.
    pub fn new(report: &PeerReport, name: Option<String>, trusted: bool) -> Self {
        Self {
            address: report.address.to_string(),
            ipv6: report.address.ipv6(PeerId::ANY),
            name,
            trusted,
            paths: report
                .paths
                .iter()
                .map(|path| Path {
                    reason: report
                        .relayed
                        .filter(|_| path.active)
                        .map(|why| why.as_str().to_owned()),
                    ..Path::new(path)
                })
                .collect(),
            sealed: report.sealed,
            pq: report.pq,
            rx_bytes: report.rx_bytes,
            tx_bytes: report.tx_bytes,
        }
    }
}

/// Whom a request is about: an address, an overlay IPv6, or a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRequest {
    /// As people write it.
    pub target: String,
}

/// Where somebody is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupRequest {
    /// As in [`TargetRequest`].
    pub target: String,
    /// Only this source is asked, and asked anew.
    #[serde(default)]
    pub via: Option<Source>,
}

/// A source of addresses and endpoints that can be asked by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The DHT.
    Dht,
}

/// One echo.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// As people write it.
    pub target: String,
    /// Payload bytes, at most [`PING_SIZE_MAX`].
    #[serde(default)]
    pub size: usize,
    /// How long to wait, at most [`PING_TIMEOUT_MAX_MS`]; 2 s when not given.
    #[serde(default = "ping_timeout")]
    pub timeout_ms: u64,
}

fn ping_timeout() -> u64 {
    2000
}

/// Payload bytes of one echo: a packet of the smallest MTU with its headers.
pub const PING_SIZE_MAX: usize = 1100;

/// The overlay forgets echoes after 10 s.
pub const PING_TIMEOUT_MAX_MS: u64 = 10_000;

/// What became of one echo.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum PingAnswer {
    /// It was answered.
    Reply {
        /// Round trip in milliseconds.
        rtt_ms: f64,
        /// The way of the answer.
        path: Kind,
        /// Its endpoint.
        via: String,
        /// Relays passed.
        hops: u8,
    },
    /// It was not.
    Failed {
        /// Why, in words.
        reason: String,
        /// Whether that is just silence.
        timeout: bool,
    },
}

/// `anode ping --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PingSummary {
    /// Echoes sent.
    pub sent: u32,
    /// Echoes answered.
    pub received: u32,
    /// The answers.
    pub replies: Vec<PingReply>,
}

/// One answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PingReply {
    /// From 1.
    pub seq: u32,
    /// Round trip in milliseconds.
    pub rtt_ms: f64,
    /// Over what.
    pub path: Kind,
    /// The endpoint of that path.
    pub via: String,
    /// Relays passed.
    pub hops: u8,
}

/// `anode lookup --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// 64 base32 characters.
    pub address: String,
    /// The synthetic IPv6 with peer digit 0.
    pub ipv6: Ipv6Addr,
    /// Which sources knew.
    pub sources: Vec<String>,
    /// Where it is.
    pub endpoints: Vec<String>,
}

impl From<LookupReport> for Lookup {
    fn from(report: LookupReport) -> Self {
        Self {
            address: report.address.to_string(),
            ipv6: report.address.ipv6(PeerId::ANY),
            sources: report.sources,
            endpoints: report.endpoints,
        }
    }
}

/// `anode resolve --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The synthetic IPv6.
    pub ipv6: Ipv6Addr,
    /// The address, where it is known.
    pub address: Option<String>,
}

impl Resolved {
    /// Of a target.
    pub fn new(target: &Target) -> Self {
        let address = match target {
            Target::Address(address) => Some(address.to_string()),
            Target::I2p(hash) => Some(hash.b32()),
            Target::Ipv6(_) => None,
        };
        Self {
            ipv6: target.ipv6(),
            address,
        }
    }
}

/// Any failure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// One line: what is wrong, and what to do.
    pub error: String,
}

/// A failure in words.
pub fn failure_text(failure: Failure) -> &'static str {
    match failure {
        Failure::NoSuchPeer => "nobody knows this address",
        Failure::Unreachable => "known, but no path answers",
        Failure::Refused => "refused: nothing listens there",
        Failure::Policy => "refused by policy",
        Failure::TimedOut => "no answer in time",
        Failure::Reset => "reset by the peer",
        Failure::Busy => "a local limit is reached: try again",
        Failure::TooBig { .. } => "larger than the path carries",
    }
}

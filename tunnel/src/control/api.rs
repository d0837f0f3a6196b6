//! The documents of the control API and of `--json`, as both sides read and write them.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use anode_platform::privileges::{Confined, Landlock};
use anode_routing::anode::{Registration, RelaySnapshot};
use anode_routing::overlay::{Failure, PathKind};
use serde::{Deserialize, Serialize};

use crate::command::{LookupReport, PathReport, PeerReport, RelayReport, Target};
use crate::config::Security;
use crate::dns::{Hook, Names, State, by_hand};
use crate::policy::{A_STRANGER, I2P_STRANGER, Policy, Protocol, What, Who, WhoText};
use crate::state::book::{Book, Entry};
use crate::state::destinations::Destination;
use crate::value::ValueError;
use crate::zone::Members;
use anode_wire::sealed::Timestamp;
use anode_wire::sealed::ticket::Issued;
use anode_wire::{Address, PeerId};

/// `anode status --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// 64 base32 characters.
    pub address: String,
    /// The synthetic IPv6 with peer digit 0.
    pub ipv6: Ipv6Addr,
    /// The virtual interface, `null` without one.
    pub interface: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Seconds since traffic could flow.
    pub uptime_s: f64,
    /// Where it listens, as `udp://IP:PORT`.
    pub listen: Vec<String>,
    /// Interfaces on which it announces itself.
    pub lan: Vec<String>,
    /// Peers that are known.
    pub peers: usize,
    /// Peers with a live path.
    pub reachable: usize,
    /// Of these, reached through a connection because datagrams do not get there.
    #[serde(default)]
    pub tunnelled: usize,
    /// Open streams.
    pub streams: usize,
    /// Relays through which others reach this node.
    #[serde(default)]
    pub relays: Vec<OwnRelay>,
    /// `[security]`
    pub security: SecurityStatus,
    /// Names for other programs.
    pub dns: DnsStatus,
    /// The rights that it gave up.
    pub confined: Confinement,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
}

/// A relay with which the node is registered, or tries to be.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnRelay {
    /// 64 base32 characters.
    pub address: String,
    /// It has answered the last PING.
    pub registered: bool,
    /// Where it is reached.
    pub endpoint: Option<String>,
    /// Round trip to it in milliseconds.
    pub rtt_ms: Option<f64>,
}

impl OwnRelay {
    /// As JSON has it.
    pub fn new(relay: &RelaySnapshot) -> Self {
        Self {
            address: relay.address.to_string(),
            registered: relay.registered,
            endpoint: relay.endpoint.clone(),
            rtt_ms: relay.rtt.map(millis),
        }
    }
}

/// `anode relay status --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The relay's own address.
    pub address: String,
    /// Peers registered.
    pub registered: usize,
    /// Peers that may be registered.
    pub peers_max: usize,
    /// Packets passed on.
    pub relayed_packets: u64,
    /// Bytes passed on.
    pub relayed_bytes: u64,
    /// What was not passed on, or not registered, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Who is registered.
    pub peers: Vec<RelayPeer>,
}

/// One of `peers` of [`RelayStatus`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayPeer {
    /// 64 base32 characters.
    pub address: String,
    /// Which of the peers that share it; 0 without one.
    pub peer_id: u8,
    /// Where it was proven to be, as `udp://192.0.2.1:8737`.
    pub endpoint: String,
    /// Seconds until it is forgotten, unless it asks again.
    pub expires_s: f64,
}

impl RelayStatus {
    /// As JSON has it.
    pub fn new(address: &Address, report: &RelayReport) -> Self {
        let peer = |known: &Registration| RelayPeer {
            address: known.address.to_string(),
            peer_id: known.digit.get(),
            endpoint: known.at.to.to_string(),
            expires_s: millis(known.left) / 1e3,
        };
        let dropped = report.dropped.iter();
        Self {
            address: address.to_string(),
            registered: report.peers.len(),
            peers_max: report.peers_max,
            relayed_packets: report.packets,
            relayed_bytes: report.bytes,
            dropped: dropped
                .map(|(why, count)| ((*why).to_owned(), *count))
                .collect(),
            peers: report.peers.iter().map(peer).collect(),
        }
    }
}

/// What the node demands of sessions, as in the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecurityStatus {
    /// `deny`, `allow` or `only`.
    pub plain: String,
    /// `prefer`, `require` or `off`.
    pub pq: String,
}

impl From<Security> for SecurityStatus {
    fn from(security: Security) -> Self {
        Self {
            plain: security.plain.as_str().to_owned(),
            pq: security.pq.as_str().to_owned(),
        }
    }
}

/// Names for the programs of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Where the responder answers, as `IP:PORT`; `null` when it is off or could not be had.
    pub listen: Option<String>,
    /// What this machine is called, without `.anode`.
    pub name: Option<String>,
    /// Whether systemd-resolved asks the responder; `null` when that is not known yet, or there is no responder.
    pub resolved: Option<bool>,
    /// What is wrong, and the line that mends it.
    pub problem: Option<String>,
}

impl DnsStatus {
    /// As it is now.
    pub fn new(names: &Names) -> Self {
        let listen = names.state.listen();
        let (resolved, problem) = match (&names.state, names.hook()) {
            (State::Off, _) => (None, None),
            (State::Failed(why), _) => (None, Some(why.clone())),
            (State::Listening(_), Hook::Pending) => (None, None),
            (State::Listening(_), Hook::Resolved) => (Some(true), None),
            (State::Listening(_), Hook::ByHand) => (Some(false), None),
            (State::Listening(listen), Hook::None(why)) => {
                (Some(false), Some(format!("{why}: {}", by_hand(*listen))))
            }
        };
        Self {
            listen: listen.map(|listen| listen.to_string()),
            name: names.given.own_name().map(ToString::to_string),
            resolved,
            problem,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Some(listen) = &self.listen else {
            return match &self.problem {
                Some(problem) => format!("off: {problem}"),
                None => "off".to_owned(),
            };
        };
        match (self.resolved, &self.problem) {
            (Some(true), _) => format!("{listen}, asked by systemd-resolved"),
            (_, Some(problem)) => format!("{listen}; {problem}"),
            (Some(false), None) => format!("{listen}, asked by way of /etc/resolv.conf"),
            (None, None) => listen.clone(),
        }
    }
}

/// The rights that a node gave up once it stood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confinement {
    /// Capabilities that it kept.
    pub capabilities: Vec<String>,
    /// It can start no program that has more rights.
    pub no_new_privileges: bool,
    /// System calls that a node does not need are refused.
    pub seccomp: bool,
    /// Files outside of its directories are out of reach: `full`, `partly` (older kernel) or `missing`.
    pub landlock: String,
    /// No core files, no look into its memory.
    pub core_dumps_off: bool,
    /// Memory never goes to swap.
    pub memory_locked: bool,
}

impl Confinement {
    /// As JSON has it.
    pub fn new(confined: &Confined) -> Self {
        let names = confined.capabilities.iter();
        let landlock = match confined.landlock {
            Landlock::Full => "full",
            Landlock::Partly => "partly",
            Landlock::Missing => "missing",
        };
        Self {
            capabilities: names.map(ToString::to_string).collect(),
            // Without these two no node runs.
            no_new_privileges: true,
            core_dumps_off: true,
            seccomp: confined.seccomp,
            landlock: landlock.to_owned(),
            memory_locked: confined.memory_locked,
        }
    }
}

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

/// Whom to let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// 64 base32 characters.
    pub address: String,
    /// What to call it.
    #[serde(default)]
    pub name: Option<String>,
}

/// `anode trust --json`, `anode distrust --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trusted {
    /// 64 base32 characters.
    pub address: String,
    /// The synthetic IPv6 with peer digit 0.
    pub ipv6: Ipv6Addr,
    /// Its name.
    pub name: Option<String>,
    /// Whether it is let in now.
    pub trusted: bool,
    /// What people should know: a rule of the configuration that names somebody who has no name anymore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Trusted {
    /// What became of a destination of I2P.
    pub fn destination(entry: &Destination, trusted: bool) -> Self {
        Self {
            address: entry.hash.b32(),
            ipv6: entry.hash.synthetic_address(),
            name: entry.name.as_ref().map(ToString::to_string),
            trusted,
            note: None,
        }
    }

    /// What became of an entry.
    pub fn new(entry: &Entry, trusted: bool) -> Self {
        Self {
            address: entry.address.to_string(),
            ipv6: entry.address.ipv6(PeerId::ANY),
            name: entry.name.as_ref().map(ToString::to_string),
            trusted,
            note: None,
        }
    }
}

/// Whether somebody may reach something here: `anode policy check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuestion {
    /// An address, an overlay IPv6, a name, or `any`.
    pub who: String,
    /// `tcp/22`, `udp/53`, `icmp`, `ip/132`
    pub what: String,
}

/// A [`PolicyQuestion`] that makes sense.
pub struct ParsedQuestion {
    who: WhoText,
    what: (Protocol, u16),
}

impl PolicyQuestion {
    /// Checks both words.
    pub fn parse(&self) -> Result<ParsedQuestion, ValueError> {
        let what: What = self.what.parse()?;
        let what = what.single().ok_or_else(|| {
            ValueError::new(format!(
                "\"{}\": ask about one port or protocol, as in tcp/22, udp/53, icmp or ip/132",
                self.what
            ))
        })?;
        let who: WhoText = self.who.parse()?;
        if let WhoText::Zone(_) = who {
            return Err(not_one());
        }
        Ok(ParsedQuestion { who, what })
    }
}

fn not_one() -> ValueError {
    ValueError::new(
        "ask about one peer: an address, an overlay IPv6, a name, or any; not about a zone",
    )
}

impl ParsedQuestion {
    /// What `policy` says; names by `book`.
    pub fn answer(&self, policy: &Policy, book: &Book) -> Result<PolicyAnswer, ValueError> {
        let from = match self.who.resolve(book, &policy.names, &Members::default())? {
            Who::Any => A_STRANGER,
            Who::AnyI2p => I2P_STRANGER,
            Who::Peer(ip) => ip,
            Who::Members(_) => return Err(not_one()),
        };
        let (protocol, port) = self.what;
        let (verdict, reason) = policy.verdict(from, protocol, port);
        Ok(PolicyAnswer {
            verdict: verdict.as_str().to_owned(),
            rule: reason.to_string(),
            reason: reason.explain(),
        })
    }
}

/// `anode policy check --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// `allow`, `reject` or `drop`.
    pub verdict: String,
    /// The rule as it was written; `echo`, `trust` or `default` where there is none.
    pub rule: String,
    /// The same for people.
    pub reason: String,
}

/// `anode policy reload --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyReloaded {
    /// Rules of `allow`.
    pub allow: usize,
    /// Rules of `deny`.
    pub deny: usize,
    /// `reject` or `drop`: for what no rule lets in.
    pub default: String,
}

impl PolicyReloaded {
    /// Of the policy that is in force now.
    pub fn new(policy: &Policy) -> Self {
        Self {
            allow: policy.allow.len(),
            deny: policy.deny.len(),
            default: policy.otherwise.as_str().to_owned(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{} allow, {} deny, default {}",
            self.allow, self.deny, self.default
        )
    }
}

/// A ticket is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// How long it is good, at most [`TICKET_LIFETIME_MAX_S`].
    pub lifetime_s: u64,
}

/// 30 days.
pub const TICKET_LIFETIME_MAX_S: u64 = 30 * 86400;

/// `anode invite --json`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Its name, for `anode invite --withdraw`: 16 hex digits.
    pub id: String,
    /// The line for `anode join`.
    pub ticket: String,
    /// Where the joiner will look for this node, as `udp://IP:PORT`.
    pub endpoints: Vec<String>,
    /// Seconds from now.
    pub lifetime_s: u64,
}

/// One line of `anode invite --list --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IssuedTicket {
    /// 16 hex digits; not secret.
    pub id: String,
    /// Seconds that are left.
    pub expires_in_s: u64,
    /// Who has used it.
    pub taken_by: Option<String>,
}

impl IssuedTicket {
    /// As it stands at `now`.
    pub fn new(issued: &Issued, now: Timestamp) -> Self {
        let left = Duration::from_micros(issued.expires.0.saturating_sub(now.0));
        Self {
            id: super::tickets::id_text(issued.id),
            expires_in_s: left.as_secs(),
            taken_by: issued.taken_by.map(|address| address.to_string()),
        }
    }
}

/// A ticket is not to be used anymore.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawRequest {
    /// As listed.
    pub id: String,
}

/// A ticket is to be used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// What `anode invite` printed.
    pub ticket: String,
    /// What to call its maker.
    #[serde(default)]
    pub name: Option<String>,
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

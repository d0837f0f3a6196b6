//! What a node is and does: `anode status`, `anode relay status`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use anode_platform::privileges::{Confined, Landlock};
use anode_routing::anode::{Registration, RelaySnapshot};
use anode_wire::Address;
use serde::{Deserialize, Serialize};

use super::millis;
use crate::command::RelayReport;
use crate::config::Security;
use crate::dns::{Hook, Names, State, by_hand};

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

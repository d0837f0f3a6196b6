//! What a node is told at its start.
use super::Place;
use super::limits::Rate;
use anode_wire::sealed::{Plain, Pq};
use anode_wire::{Address, PeerId};
use std::net::IpAddr;
use std::time::Duration;

/// Tunables of a node; `Default` is what the program uses.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Own peer id; a node without a configured one sends 0 (DESIGN §5).
    pub peer_id: PeerId,
    /// Peers the operator named.
    pub peers: Vec<ConfiguredPeer>,
    /// Announce ourselves on the LAN and listen to announcements (D23).
    pub lan: bool,
    /// What is sealed, and how.
    pub security: Security,
    /// Relay packets for others.
    pub relay: Option<RelayConfig>,
    /// This node is, or may come to be, in a DHT: RELOAD messages are handed on.
    pub reload: bool,
    /// Bounds of every table, queue and rate.
    pub limits: Limits,
    /// The stream protocol's tunables.
    pub stream: anode_stream::Config,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            peer_id: PeerId::ANY,
            peers: Vec::new(),
            lan: true,
            security: Security::default(),
            relay: None,
            reload: false,
            limits: Limits::default(),
            stream: anode_stream::Config::default(),
        }
    }
}

/// A peer the operator named, with the places where it may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfiguredPeer {
    /// Its address.
    pub address: Address,
    /// Where it may be; may be empty (found by the LAN or by others).
    pub places: Vec<Place>,
}

/// `[security]`: sealed sessions with every peer, and what goes without one (DESIGN §5). Hints (EPC, EPI, NETID, WHOIS …)
/// may go in plain as long as there is no session, unless `plain` is `Only`: then nothing is ever sealed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Security {
    /// What programs' bytes may do without a session.
    pub plain: Plain,
    /// Whether ML-KEM takes part in the keys.
    pub pq: Pq,
}

/// `[relay]`: this node passes packets on to peers that have registered with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayConfig {
    /// Peers registered at once.
    pub peers: usize,
    /// Of these, how many from one source (an IPv4 address, an IPv6 /64).
    pub peers_per_source: usize,
    /// Bytes a second from one source, and to one peer; every packet counts for 256 bytes at least.
    pub rate: u32,
    /// Bytes a second in all.
    pub rate_in_all: u32,
    /// Also for addresses of other zones than our own.
    pub any_zone: bool,
    /// Tell registered peers of unreachable recipients (ERROR 0x04, D40), at most once a second each.
    pub errors: bool,
}

impl Default for RelayConfig {
    /// 100 Mbit/s for each and 1 Gbit/s for all.
    fn default() -> Self {
        Self {
            peers: 10_000,
            peers_per_source: 1024,
            rate: 12_500_000,
            rate_in_all: 125_000_000,
            any_zone: false,
            errors: false,
        }
    }
}

/// Bounds of every table, queue and rate.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Peers that have authenticated themselves, without the configured ones.
    pub strangers: usize,
    /// Peers only heard of (beacons, IAM): no key agreed, nothing authenticated (S32).
    pub heard: usize,
    /// Of these, how many from one source IP.
    pub heard_per_source: usize,
    /// Key agreements for packets of strangers, all together (security.md §5.2: about 0.3 ms each).
    pub first_contacts: Rate,
    /// The same per source.
    pub first_contacts_per_source: Rate,
    /// MAC failures per source, after which its packets are dropped unread (D39).
    pub mac_failures_per_source: Rate,
    /// MAC failures under one peer's name, after which only its proven paths are read (S9).
    pub mac_failures_per_peer: Rate,
    /// Replies (PONG, EPC, NETID, IAM) to one source that no EPC has proven.
    pub replies_per_source: Rate,
    /// New source endpoints of one peer that are looked at (S17).
    pub nominations: Rate,
    /// EPI hints followed, per peer.
    pub hints: Rate,
    /// NETID answers in all (D25).
    pub netid: Rate,
    /// New nodes taken from beacons, in all (12 µs each for the point check).
    pub new_beacons: Rate,
    /// The same per source.
    pub new_beacons_per_source: Rate,
    /// Unicast answers to beacons, in all (D23).
    pub beacon_replies: Rate,
    /// Unicast answers to beacons, per source (D23).
    pub beacon_replies_per_source: Rate,
    /// Streams of all peers together.
    pub streams: usize,
    /// Streams that a peer has opened and nobody has accepted, per peer (S22).
    pub pending_streams_per_peer: usize,
    /// The same in all.
    pub pending_streams: usize,
    /// Pings under way.
    pub pings: usize,
    /// EPC_REQs under way.
    pub checks: usize,
    /// Destinations that are being looked for or contacted.
    pub contacts: usize,
    /// Packets that wait for one such destination.
    pub held_packets: usize,
    /// Bytes that wait for one such destination.
    pub held_bytes: usize,
    /// Bytes that wait for all of them.
    pub held_bytes_in_all: usize,
    /// JOINs and their like from peers, in all (Q30).
    pub controls: Rate,
    /// The same per source.
    pub controls_per_source: Rate,
    /// RELOAD messages, in all.
    pub reloads: Rate,
    /// The same per source.
    pub reloads_per_source: Rate,
    /// Bytes of control packets queued for the sockets.
    pub control_bytes: usize,
    /// Bytes of datagrams queued for the sockets.
    pub datagram_bytes: usize,
    /// Bytes of packets for others that no socket would take at once.
    pub forwarded_bytes: usize,
    /// Events the program has not fetched, beyond which what can be repeated is dropped.
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: 4096,
            heard: 1024,
            heard_per_source: 16,
            first_contacts: Rate::per_second(300, 100),
            first_contacts_per_source: Rate::per_second(50, 50),
            mac_failures_per_source: Rate::per_second(100, 100),
            mac_failures_per_peer: Rate::per_second(1000, 1000),
            replies_per_source: Rate::per_second(100, 100),
            nominations: Rate::per_second(2, 6),
            hints: Rate::per_second(1, 3),
            netid: Rate::per_second(5, 5),
            new_beacons: Rate::per_second(200, 300),
            new_beacons_per_source: Rate::per_second(16, 16),
            beacon_replies: Rate::per_second(10, 10),
            beacon_replies_per_source: Rate::every(Duration::from_secs(5)),
            streams: 65_536,
            pending_streams_per_peer: 256,
            pending_streams: 4096,
            pings: 4096,
            checks: 1024,
            contacts: 1024,
            held_packets: 32,
            held_bytes: 128 << 10,
            held_bytes_in_all: 8 << 20,
            controls: Rate::per_second(20, 40),
            controls_per_source: Rate::per_second(2, 10),
            reloads: Rate::per_second(2000, 4000),
            reloads_per_source: Rate::per_second(500, 1000),
            control_bytes: 512 << 10,
            datagram_bytes: 1 << 20,
            forwarded_bytes: 1 << 20,
            events: 65_536,
        }
    }
}

/// A network interface of this machine, as the caller enumerates them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name; the overlay's own TUN must not be in the list.
    pub name: String,
    /// Its index, the scope of link-local addresses.
    pub index: u32,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// It can broadcast (IPv4) and multicast (IPv6), and is not a loopback.
    pub broadcast: bool,
    /// It leads out by a default route of this metric, the lowest first; `None`: it does not, or the choice is not ours.
    pub uplink: Option<u32>,
}

impl Interface {
    /// Whether `ip` is on this link; `scope` is the interface index that came with a link-local address.
    pub(super) fn is_on_link(&self, ip: IpAddr, scope: u32) -> bool {
        if let IpAddr::V6(v6) = ip
            && v6.is_unicast_link_local()
        {
            return scope == self.index;
        }
        self.addresses
            .iter()
            .any(|(own, length)| same_prefix(*own, ip, *length))
    }
}

fn same_prefix(a: IpAddr, b: IpAddr, length: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32 - u32::from(length.min(32));
            u64::from(u32::from(a)) >> shift == u64::from(u32::from(b)) >> shift
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128 - u32::from(length.min(128));
            u128::from(a).checked_shr(shift).unwrap_or(0)
                == u128::from(b).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

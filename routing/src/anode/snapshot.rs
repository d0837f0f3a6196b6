//! What people and files want to know of a node, as plain data.
use super::path::{Origin, Path, Through};
use super::peer::{Peer, Standing};
use super::peers::PeerRef;
use super::{Node, Place, Relayed, Timer, Transport};
use crate::overlay::{Failure, PathKind};
use anode_stream::Pool;
use anode_wire::address::{is_synthetic, split_digit};
use anode_wire::{Address, PeerId};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A peer and how packets get there.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSnapshot {
    /// Its address.
    pub address: Address,
    /// Its synthetic address, digit 0.
    pub ipv6: Ipv6Addr,
    /// The operator named it.
    pub configured: bool,
    /// It has authenticated itself since this node started.
    pub authenticated: bool,
    /// Who told us: `config`, `pin`, `lan`, `whois`, `peer`.
    pub sources: Vec<&'static str>,
    /// Proven paths first, the used one at the top.
    pub paths: Vec<PathSnapshot>,
    /// Bytes of its packets received.
    pub rx_bytes: u64,
    /// Bytes of packets sent to it.
    pub tx_bytes: u64,
    /// Open streams.
    pub streams: u32,
    /// There is a session: everything is encrypted.
    pub sealed: bool,
    /// ML-KEM took part in its keys.
    pub pq: bool,
    /// Why it is reached over a relay, where it is and direct paths were tried.
    pub relayed: Option<Relayed>,
}

/// One way to a peer.
#[derive(Clone, PartialEq, Debug)]
pub struct PathSnapshot {
    /// Direct, over a relay, or over a TURN server.
    pub kind: PathKind,
    /// `udp`, `tcp`, …
    pub transport: Transport,
    /// `udp://192.0.2.1:8737`
    pub endpoint: Place,
    /// The relay on the way, where there is one and it is known.
    pub relay: Option<Address>,
    /// Relays passed.
    pub hops: u8,
    /// Smoothed round trip of its checks.
    pub rtt: Option<Duration>,
    /// An EPC has come back over it.
    pub proven: bool,
    /// It is the one that is used.
    pub active: bool,
    /// Largest Anode packet in bytes.
    pub max_packet: u16,
}

/// What is known of a destination.
#[derive(Clone, PartialEq, Debug)]
pub enum Lookup {
    /// Not known, and a search is under way: ask again.
    Searching,
    /// Nobody knows it, or it does not answer.
    Failed(Failure),
    /// Known, and perhaps reachable.
    Found(PeerSnapshot),
}

/// What is worth keeping of a peer between two runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Its address.
    pub address: Address,
    /// Where it was proven to be.
    pub endpoints: Vec<Place>,
}

impl Node {
    /// All peers, configured ones first.
    pub fn peers(&self) -> Vec<PeerSnapshot> {
        let mut peers: Vec<(PeerRef, &Peer)> = self.peers.iter().collect();
        peers.sort_by_key(|(_, peer)| (std::cmp::Reverse(peer.standing), peer.ipv6));
        let snapshot = |(found, peer)| self.snapshot(found, peer);
        peers.into_iter().map(snapshot).collect()
    }

    /// Peers with a proven path.
    pub fn connected(&self) -> usize {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.has_proven_path())
            .count()
    }

    /// Streams in the table, those that only linger included.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// The memory that all streams share.
    pub fn stream_memory(&self) -> &Pool {
        &self.config.stream.pool
    }

    /// What is known of a synthetic address; starts a search if nothing is. Ask again while it says `Searching`.
    pub fn lookup(&mut self, now: Instant, target: Ipv6Addr) -> Lookup {
        let (base, _) = split_digit(target);
        if !is_synthetic(target) || base == self.own.ipv6 {
            return Lookup::Failed(Failure::NoSuchPeer);
        }
        if let Some((found, peer)) = self
            .peers
            .find_ipv6(&base)
            .and_then(|found| Some((found, self.peers.get(found)?)))
        {
            return Lookup::Found(self.snapshot(found, peer));
        }
        if !self.contacts.is_open(&base) {
            if let Some(failure) = self.contacts.recent_failure(now, &base) {
                return Lookup::Failed(failure);
            }
            if self.contacts.len() >= self.config.limits.contacts {
                return Lookup::Failed(Failure::Busy);
            }
            self.start_contact(now, base, PeerId::ANY);
        }
        Lookup::Searching
    }

    /// Peers that were proven, with their endpoints, for the next run.
    pub fn export_pins(&self) -> Vec<Pin> {
        let mut pins: Vec<Pin> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.standing >= Standing::Met)
            .map(|(_, peer)| Pin {
                address: peer.address,
                endpoints: peer
                    .paths
                    .iter()
                    .filter(|path| path.is_proven() && !path.is_indirect())
                    // Who has dialled us cannot be dialled there.
                    .filter(|path| path.endpoint.udp().is_some() || path.socket == Place::DIALLED)
                    .map(|path| path.endpoint)
                    .collect(),
            })
            .filter(|pin| !pin.endpoints.is_empty())
            .collect();
        pins.sort_by_key(|pin| pin.address);
        pins
    }

    /// Takes pins of an earlier run: candidates, to be proven when traffic wants them.
    pub fn import_pins(&mut self, now: Instant, pins: &[Pin]) {
        let own = self.own.address;
        for pin in pins.iter().filter(|pin| pin.address != own) {
            let Some(found) = self.learn_peer(now, pin.address, Standing::Met) else {
                continue;
            };
            for endpoint in pin
                .endpoints
                .iter()
                .filter(|endpoint| super::path::is_dialable(endpoint, true))
            {
                let Some(socket) = self.socket_for(endpoint) else {
                    continue;
                };
                let Some(peer) = self.peers.get_mut(found) else {
                    continue;
                };
                peer.sources.pin = true;
                peer.add_path(now, *endpoint, socket, Origin::Pin);
            }
            self.timers.set(Timer::Peer(found), now, "path check");
        }
    }
}

impl Node {
    fn snapshot(&self, found: PeerRef, peer: &Peer) -> PeerSnapshot {
        let active = peer.active_path().map(Path::spot);
        let is_active = |path: &Path| active == Some(path.spot());
        let mut paths: Vec<&Path> = peer.paths.iter().collect();
        paths.sort_by_key(|path| (!is_active(path), !path.is_proven(), path.rtt));
        let relay = |path: &Path| Some(self.peers.get(path.relay()?)?.address);
        PeerSnapshot {
            address: peer.address,
            ipv6: peer.ipv6,
            configured: peer.standing == Standing::Kept,
            authenticated: peer.last_heard.is_some(),
            sources: peer.sources.names(),
            paths: paths
                .into_iter()
                .map(|path| path_snapshot(path, relay(path), is_active(path)))
                .collect(),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            streams: peer.streams,
            sealed: peer.is_sealed(),
            pq: peer.is_sealed() && peer.tunnels.iter().all(|tunnel| tunnel.pq),
            relayed: self.relayed_because(found),
        }
    }
}

fn path_snapshot(path: &Path, relay: Option<Address>, active: bool) -> PathSnapshot {
    PathSnapshot {
        kind: match path.through {
            Through::Direct if path.is_turned() => PathKind::Turn,
            Through::Direct => PathKind::Direct,
            Through::Relay(_) => PathKind::Relay,
        },
        relay,
        transport: path.endpoint.transport(),
        endpoint: path.endpoint,
        hops: path.hops,
        rtt: path.rtt,
        proven: path.is_proven(),
        active,
        max_packet: path.size.usable(),
    }
}

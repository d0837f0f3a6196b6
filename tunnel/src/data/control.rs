//! Commands of the control side, carried out between two batches of packets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anode_routing::anode::{Lookup, NetReport, PathSnapshot, PeerSnapshot, Place};
use anode_routing::overlay::{Failure, Via, ViaEndpoint};
use anode_routing::{AnodeOverlay, I2pOverlay};
use anode_wire::sealed::kind;
use anode_wire::sealed::ticket::MAX_ENTRIES;
use anode_wire::{Address, Endpoint, PeerId};

use crate::adapter::Adapter;
use crate::command::{
    Command, LookupReport, MeetReport, News, PathReport, PeerReport, PingError, PingReport,
    RelayReport, Reply, StatusReport, Target,
};

use super::counters;
use super::dht::DhtLine;
use super::i2p::I2pDesk;
use super::joins::Joins;

/// Pings of people under way at most.
const MAX_PINGS: usize = 1024;
/// Lookups of people under way at most.
const MAX_LOOKUPS: usize = 256;
/// A lookup that has not ended by then has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a lookup under way is asked how far it is.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(50);
/// What is known of peers is written no more often than this, however many come and go.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

struct WaitingPing {
    deadline: Instant,
    reply: Reply<Result<PingReport, PingError>>,
}

struct WaitingLookup {
    target: Target,
    deadline: Instant,
    reply: Reply<Option<LookupReport>>,
}

/// Questions that wait for the overlay.
pub struct Control {
    i2p: I2pDesk,
    joins: Joins,
    dht: DhtLine,
    pings: HashMap<u64, WaitingPing>,
    lookups: Vec<WaitingLookup>,
    netchecks: Vec<Reply<NetReport>>,
    next_token: u64,
    next_look: Option<Instant>,
    /// When what is known of peers goes to the disk, and when it last did.
    next_keep: Option<Instant>,
    kept: Option<Instant>,
}

impl Control {
    /// With the ways in which tickets and the DHT are dealt with.
    pub fn new(joins: Joins, dht: DhtLine) -> Self {
        Control {
            i2p: I2pDesk::default(),
            joins,
            dht,
            pings: HashMap::new(),
            lookups: Vec::new(),
            netchecks: Vec::new(),
            next_token: 0,
            next_look: None,
            next_keep: None,
            kept: None,
        }
    }

    /// Carries out one command. `Shutdown` is the loop's own business.
    pub fn obey(
        &mut self,
        now: Instant,
        command: Command,
        adapter: &mut Adapter<AnodeOverlay>,
        tun_dropped: u64,
    ) {
        // An asker that went away is no error: its answer is dropped.
        match command {
            Command::Status(reply) => {
                let _ = reply.send(status(adapter.first()));
            }
            Command::Peers(reply) => {
                let _ = reply.send(adapter.first().peers().into_iter().map(report).collect());
            }
            Command::Ping {
                to,
                payload,
                timeout,
                reply,
            } => self.ping(now, to, &payload, timeout, reply, adapter),
            Command::Lookup { target, reply } => {
                if self.lookups.len() < MAX_LOOKUPS {
                    let deadline = now + LOOKUP_TIMEOUT;
                    self.lookups.push(WaitingLookup {
                        target,
                        deadline,
                        reply,
                    });
                    self.next_look = Some(now);
                }
            }
            Command::AddPeer {
                address,
                places,
                pinned,
                reply,
            } => {
                adapter.first().add_peer(now, address, &places, pinned);
                let _ = reply.send(());
            }
            Command::Trust { address, reply } => {
                // Its key is known from now on, so a packet of its own needs no introduction.
                adapter.first().add_peer(now, address, &[], true);
                adapter.first().trust(&address);
                let _ = reply.send(());
            }
            Command::SetPolicy { policy, reply } => {
                let overlay = adapter.first();
                for peer in overlay.peers() {
                    if !policy.trusted.contains(&peer.ipv6) {
                        overlay.distrust(&peer.address);
                    }
                }
                if let Some(i2p) = adapter.other::<I2pOverlay>() {
                    i2p.keep(now, &policy.destinations);
                }
                adapter.set_policy(now, *policy);
                let _ = reply.send(());
            }
            Command::SetRelays { relays, reply } => {
                super::set_relays(adapter.first(), now, relays);
                let _ = reply.send(());
            }
            Command::Dht(outputs) => self.dht.obey(now, outputs, adapter.first()),
            Command::InDht(in_dht) => adapter.first().set_in_dht(in_dht),
            Command::SetRendezvous(deny) => adapter.first().set_rendezvous(now, deny),
            Command::ShareTls(door) => adapter.first().share_tls(door),
            Command::SetTurnServers(servers) => adapter.first().set_turn_servers(now, servers),
            Command::Candidates { endpoints, tracker } => {
                adapter.first().add_candidates(now, &endpoints, tracker);
            }
            Command::Meet { address, reply } => {
                let _ = reply.send(meet(now, address, adapter.first()));
            }
            Command::Join { ticket, reply } => {
                self.joins.start(now, ticket, reply, adapter.first());
            }
            Command::Joined { to, joined } => {
                let sent = adapter
                    .first()
                    .send_sealed(now, &to, kind::JOINED, &joined.emit());
                if let Err(failure) = sent {
                    tracing::debug!(?failure, "the answer to a ticket");
                }
            }
            Command::Endpoints(reply) => {
                let _ = reply.send(endpoints(adapter.first()));
            }
            Command::Netcheck(reply) => {
                if self.netchecks.len() < MAX_LOOKUPS {
                    adapter.first().start_netcheck(now);
                    self.netchecks.push(reply);
                }
            }
            Command::SetPortMapping(mapped) => adapter.first().set_port_mapping(now, mapped),
            Command::Relay(reply) => {
                let _ = reply.send(relay(now, adapter.first()));
            }
            Command::I2p(command) => self.i2p.obey(now, command, adapter),
            Command::Counters(reply) => {
                let mut all = counters::all(adapter, tun_dropped);
                all.push(("anode_news_unheard_total".to_owned(), self.joins.unheard));
                all.push(("anode_dht_unheard_total".to_owned(), self.dht.unheard));
                let _ = reply.send(all);
            }
            Command::Shutdown => {}
        }
    }

    fn ping(
        &mut self,
        now: Instant,
        to: Target,
        payload: &[u8],
        timeout: Duration,
        reply: Reply<Result<PingReport, PingError>>,
        adapter: &mut Adapter<AnodeOverlay>,
    ) {
        let target = match to {
            Target::Address(address) => {
                adapter.first().add_peer(now, address, &[], false);
                address.ipv6(PeerId::ANY)
            }
            Target::I2p(hash) => {
                if let Some(i2p) = adapter.other::<I2pOverlay>() {
                    i2p.learn(now, hash);
                }
                hash.synthetic_address()
            }
            Target::Ipv6(ipv6) => ipv6,
        };
        if self.pings.len() >= MAX_PINGS {
            let _ = reply.send(Err(Failure::Busy));
            return;
        }
        self.next_token += 1;
        match adapter.ping(now, target, self.next_token, payload) {
            Ok(()) => {
                let deadline = now + timeout;
                self.pings
                    .insert(self.next_token, WaitingPing { deadline, reply });
            }
            Err(failure) => {
                let _ = reply.send(Err(failure));
            }
        }
    }

    /// Hands on the answers that came, and gives up what waited too long.
    pub fn settle(&mut self, now: Instant, adapter: &mut Adapter<AnodeOverlay>) {
        for message in adapter.take_control_messages() {
            self.joins.heard(&message);
        }
        self.joins.poll(now, adapter.first());
        let news = adapter.take_dht_news();
        self.dht.tell(news, adapter.first(), record_endpoints);
        if let Some(news) = self.i2p.settle(now, adapter) {
            self.joins.tell(news);
        }
        if adapter.take_persist() {
            let earliest = self.kept.map_or(now, |at| at + KEEP_INTERVAL);
            self.next_keep.get_or_insert(earliest.max(now));
        }
        if self.next_keep.is_some_and(|at| at <= now) {
            self.next_keep = None;
            self.kept = Some(now);
            let overlay = adapter.first();
            let records = overlay.export_records();
            let peers = overlay.peers().into_iter().map(report).collect();
            self.joins.tell(News::Learnt { records, peers });
        }
        for pong in adapter.take_control_pongs() {
            if let Some(waiting) = self.pings.remove(&pong.token) {
                let answer = pong.result.map(|(rtt, via)| PingReport { rtt, via });
                let _ = waiting.reply.send(answer);
            }
        }
        if self.pings.values().any(|ping| ping.deadline <= now) {
            let late: Vec<u64> = self
                .pings
                .iter()
                .filter(|(_, ping)| ping.deadline <= now)
                .map(|(token, _)| *token)
                .collect();
            for waiting in late.iter().filter_map(|token| self.pings.remove(token)) {
                let _ = waiting.reply.send(Err(Failure::TimedOut));
            }
        }
        if self.next_look.is_some_and(|at| at <= now) {
            self.look(now, adapter);
        }
        if !self.netchecks.is_empty()
            && let Some(report) = adapter.first().net_report()
        {
            let report = report.clone();
            for waiting in self.netchecks.drain(..) {
                let _ = waiting.send(report.clone());
            }
        }
    }

    fn look(&mut self, now: Instant, adapter: &mut Adapter<AnodeOverlay>) {
        let node = adapter.first();
        for waiting in std::mem::take(&mut self.lookups) {
            let found = match waiting.target {
                Target::Address(address) => node
                    .peers()
                    .into_iter()
                    .find(|peer| peer.address == address)
                    .map(Lookup::Found),
                Target::Ipv6(_) | Target::I2p(_) => None,
            };
            let ipv6 = match waiting.target {
                Target::Address(address) => address.ipv6(PeerId::ANY),
                Target::Ipv6(ipv6) => ipv6,
                Target::I2p(hash) => hash.synthetic_address(),
            };
            match found.unwrap_or_else(|| node.lookup(now, ipv6)) {
                Lookup::Found(peer) => {
                    let _ = waiting.reply.send(Some(lookup_report(peer)));
                }
                Lookup::Searching if now < waiting.deadline => self.lookups.push(waiting),
                Lookup::Searching | Lookup::Failed(_) => {
                    let _ = waiting.reply.send(None);
                }
            }
        }
        self.next_look = (!self.lookups.is_empty()).then_some(now + LOOKUP_INTERVAL);
    }

    /// When [`Control::settle`] has something to do without an event.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let pings = self.pings.values().map(|ping| ping.deadline).min();
        let pings = pings.map(|at| (at, "a ping of the control side"));
        let look = self
            .next_look
            .map(|at| (at, "a lookup of the control side"));
        let keep = self.next_keep.map(|at| (at, "peers are to be kept"));
        [
            pings,
            look,
            keep,
            self.joins.deadline(),
            self.i2p.deadline(),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

fn lookup_report(peer: PeerSnapshot) -> LookupReport {
    LookupReport {
        address: peer.address,
        sources: peer.sources.iter().map(|&source| source.into()).collect(),
        endpoints: peer
            .paths
            .into_iter()
            .map(|path| path.endpoint.to_string())
            .collect(),
    }
}

/// Starts or goes on with a search by trackers. Found is who was met there and answers directly.
fn meet(now: Instant, address: Address, overlay: &mut AnodeOverlay) -> MeetReport {
    overlay.add_peer(now, address, &[], false);
    let on = overlay.search(now, &address);
    let known = overlay.peers().into_iter();
    let mut known = known.filter(|peer| peer.address == address);
    let found = known.find(|peer| {
        let direct = |path: &PathSnapshot| path.proven && path.relay.is_none();
        peer.sources.contains(&"tracker") && peer.paths.iter().any(direct)
    });
    MeetReport {
        on,
        found: found.map(lookup_report),
    }
}

/// Of the places that a ticket has room for, those of connections, if there are any: UDP may not get through.
const TICKET_CONNECTIONS: usize = 2;

/// Where others may reach this node, as many as a ticket or a record has room for: what they have seen first, then the interfaces' own,
/// global ones before private ones, then those where it accepts connections.
fn endpoints(overlay: &AnodeOverlay) -> Vec<Place> {
    let mut own = super::places(overlay.endpoints());
    own.sort_by_key(|place| is_private(place.ip()));
    let (streams, datagrams): (Vec<_>, Vec<_>) = own
        .into_iter()
        .partition(|place| place.transport().is_stream());
    let seen = overlay.external_endpoints().into_iter().rev();
    let mut all: Vec<Place> = seen.map(Place::Udp).collect();
    for place in datagrams {
        if !all.contains(&place) {
            all.push(place);
        }
    }
    all.truncate(MAX_ENTRIES - streams.len().min(TICKET_CONNECTIONS));
    all.extend(streams.into_iter().take(TICKET_CONNECTIONS));
    all
}

/// The same as they stand in messages: for the record in a DHT.
fn record_endpoints(overlay: &AnodeOverlay) -> Vec<Endpoint> {
    endpoints(overlay).iter().map(Place::to_endpoint).collect()
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

fn status(overlay: &AnodeOverlay) -> StatusReport {
    StatusReport {
        peers: overlay.peers().len(),
        reachable: overlay.connected(),
        streams: overlay.stream_count(),
        relays: overlay.relays(),
        listen: super::places(overlay.listen()),
        tunnelled: overlay
            .peers()
            .iter()
            .filter(|peer| is_tunnelled(peer))
            .count(),
    }
}

/// Datagrams do not get there: its packets go through a connection.
fn is_tunnelled(peer: &PeerSnapshot) -> bool {
    let active = peer.paths.iter().find(|path| path.active);
    active.is_some_and(|path| path.transport.is_stream())
}

/// What this relay does, with every reason for a packet that was not passed on.
fn relay(now: Instant, overlay: &AnodeOverlay) -> Option<RelayReport> {
    let config = overlay.relay_config()?;
    let counters = overlay.counters();
    let dropped = counters.iter().filter_map(|(name, count)| {
        let why = name.strip_prefix("relay_")?;
        let is_drop = !matches!(why, "registrations" | "expired");
        is_drop.then_some((why, count))
    });
    Some(RelayReport {
        peers: overlay.registrations(now),
        peers_max: config.peers,
        packets: counters.relayed_packets,
        bytes: counters.relayed_bytes,
        dropped: dropped.collect(),
    })
}

fn report(peer: PeerSnapshot) -> PeerReport {
    let paths = peer.paths.into_iter().filter(|path| path.proven);
    PeerReport {
        address: peer.address,
        paths: paths
            .map(|path| PathReport {
                via: Via {
                    kind: path.kind,
                    endpoint: ViaEndpoint::Text(super::frames::text(&path.endpoint)),
                    hops: path.hops,
                },
                rtt: path.rtt,
                relay: path.relay,
                mtu: path.max_packet,
                active: path.active,
            })
            .collect(),
        sealed: peer.sealed,
        pq: peer.pq,
        relayed: peer.relayed,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

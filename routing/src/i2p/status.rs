//! What people see of the overlay.
use anode_i2cp::client::Phase;
use anode_i2cp::destination::Hash;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::I2pOverlay;
use super::local::State;

/// How all of it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// The router, as in the configuration.
    pub router: String,
    /// Over TLS.
    pub tls: bool,
    /// Some session is with the router.
    pub connected: bool,
    /// What the router calls itself; i2pd repeats our own version.
    pub router_version: Option<String>,
    /// Destinations of this machine.
    pub destinations: Vec<DestinationSnapshot>,
    /// Destinations that are known.
    pub known: usize,
    /// Open streams.
    pub streams: usize,
}

/// One destination of this machine.
#[derive(Clone, PartialEq, Debug)]
pub struct DestinationSnapshot {
    /// What people call it.
    pub name: Option<String>,
    /// Its hash.
    pub hash: Hash,
    /// Its synthetic address.
    pub address: Ipv6Addr,
    /// How it stands.
    pub state: State,
    /// What went wrong last, while it is not ready.
    pub problem: Option<String>,
    /// Sessions since the start.
    pub sessions: u64,
    /// Open streams.
    pub streams: usize,
}

/// A destination elsewhere with which something was exchanged.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSnapshot {
    /// Its hash.
    pub hash: Hash,
    /// Its synthetic address.
    pub address: Ipv6Addr,
    /// The address-book name that led to it.
    pub name: Option<String>,
    /// Open streams.
    pub streams: usize,
    /// Of its streams, where there are some.
    pub rtt: Option<Duration>,
    /// Bytes of programs from it.
    pub rx_bytes: u64,
    /// Bytes of programs to it.
    pub tx_bytes: u64,
}

crate::counters::counters! {
    "Counters of the overlay since the start; the names are those of the metrics.";

    /// Sessions that came up.
    sessions,
    /// Sessions and connections that ended other than by idling.
    lost,
    /// Streams opened by programs.
    streams_out,
    /// Streams opened by peers.
    streams_in,
    /// Streams of peers refused here: no port, no room, or a second destination with the same address.
    streams_refused,
    /// Datagrams received and handed on.
    datagrams_in,
    /// Datagrams sent.
    datagrams_out,
    /// Raw datagrams that answer nothing: dropped.
    raw_unasked,
    /// Datagrams whose sender proves nothing, at a port that does not take them: dropped.
    unproven,
    /// Datagrams to port 0 without a default port, or of a destination that found no place: dropped.
    datagrams_refused,
    /// Datagrams sent from a port that raw answers of another destination may come to: no room for a port of its own.
    ports_shared,
    /// Datagrams whose fate the router told too late or never: their programs hear of no failure.
    fates_forgotten,
    /// Connects, datagrams and pings that found no place to wait for a session or a lookup: refused.
    not_waited,
    /// Questions for names that found no place.
    questions_dropped,
    /// Destinations forgotten because the table was full.
    evicted,
    /// Destinations refused because another one has the same address.
    address_taken,
    /// Messages from the router.
    router_messages,
    /// Messages of the router for no session of ours, or in no order.
    router_misplaced,
    /// Payloads, datagrams and packets from the network that are malformed or not signed as they must be.
    malformed,
    /// Messages not sent because the connection to the router does not keep up.
    queue_full,
    /// Streaming packets sent again.
    resent,
    /// Streaming packets received twice.
    duplicates,
    /// SYNs and pings beyond the rate: dropped.
    rate_limited,
}

/// A peer that was quiet for so long is not listed any more.
const LISTED: Duration = Duration::from_secs(600);
/// As many are listed at most.
const MOST_LISTED: usize = 1024;

impl I2pOverlay {
    /// How all of it stands.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut router_version = None;
        let mut connected = false;
        let mut destinations = Vec::new();
        for (index, local) in self.locals.iter_mut().enumerate() {
            let state = local.state();
            let phase = local.endpoint.client().phase();
            if matches!(phase, Phase::Building | Phase::Ready) {
                connected = true;
                router_version = Some(local.endpoint.client().router_version().to_owned());
            }
            let streams = self.streams.values().filter(|s| s.local == index).count();
            destinations.push(DestinationSnapshot {
                name: local.config.name.clone(),
                hash: local.hash,
                address: local.address,
                problem: local.last_error.clone().filter(|_| state != State::Ready),
                state,
                sessions: local.sessions,
                streams,
            });
        }
        Snapshot {
            router: self.dialler.router.place.to_string(),
            tls: self.dialler.router.tls.is_some(),
            connected,
            router_version,
            destinations,
            known: self.table.len(),
            streams: self.streams.len(),
        }
    }

    /// Destinations with which something was exchanged within ten minutes, the latest first.
    pub fn peers(&mut self, now: Instant) -> Vec<PeerSnapshot> {
        let mut rtts = std::collections::HashMap::new();
        for stream in self.streams.values() {
            if let Some(inner) = stream.inner
                && let Some(info) = self.locals[stream.local].endpoint.streams().info(inner)
                && let Some(rtt) = info.rtt
            {
                rtts.insert(stream.peer, rtt);
            }
        }
        let mut peers: Vec<_> = self
            .table
            .iter()
            .filter(|(_, entry)| {
                let spoken = entry.rx_bytes + entry.tx_bytes > 0;
                entry.streams > 0 || spoken && now.saturating_duration_since(entry.used) < LISTED
            })
            .collect();
        peers.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        peers.truncate(MOST_LISTED);
        peers
            .into_iter()
            .map(|(address, entry)| PeerSnapshot {
                hash: entry.hash,
                address,
                name: entry.name.clone(),
                streams: entry.streams,
                rtt: rtts.get(&entry.hash).copied(),
                rx_bytes: entry.rx_bytes,
                tx_bytes: entry.tx_bytes,
            })
            .collect()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let mut all = Counters {
            not_waited: self.waiting.dropped,
            questions_dropped: self.questions.dropped,
            evicted: self.table.evicted,
            address_taken: self.table.taken,
            fates_forgotten: self.nonces.forgotten,
            ..self.counters
        };
        for local in &self.locals {
            let (endpoint, client, streams) = local.endpoint.counters();
            all.raw_unasked += local.ports.raw.refused;
            all.ports_shared += local.ports.shared;
            all.router_messages += client.received;
            all.router_misplaced += client.misplaced + client.foreign_session + client.unknown;
            all.queue_full += client.queue_full + endpoint.not_queued;
            all.malformed += endpoint.bad_payloads
                + endpoint.bad_datagrams
                + endpoint.unknown_protocol
                + streams.malformed
                + streams.forged
                + streams.misdirected;
            all.resent += streams.resent;
            all.duplicates += streams.duplicates;
            all.rate_limited += streams.rate_limited;
        }
        all
    }
}

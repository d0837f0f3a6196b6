//! What peers begin: SYNs, how many of them are looked at, and packets that overtook their SYN.
use super::connection::{self, Phase};
use super::packet::{self, NO_ACK, Packet, RESET};
use super::{Event, StreamId, Streams};
use crate::destination::Hash;
use crate::envelope::Ports;
use crate::time::Now;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

pub(super) const MOST_EARLY: usize = 64;
const EARLY_LIFE: Duration = Duration::from_secs(10);

/// A packet whose SYN has not come yet.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) peer_id: u32,
    pub(super) ports: Ports,
    pub(super) data: Vec<u8>,
    pub(super) until: Instant,
}

/// What comes too often is dropped before it costs a signature.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) second: Instant,
    pub(super) all: u32,
    pub(super) peers: HashMap<Hash, u32>,
}

impl Streams {
    pub(super) fn allow(&mut self, peer: Option<Hash>, now: Now) -> bool {
        let limit = self.config.requests_per_second;
        let rate = match &mut self.rate {
            Some(rate)
                if now.instant.saturating_duration_since(rate.second) < Duration::from_secs(1) =>
            {
                rate
            }
            rate => rate.insert(Rate {
                second: now.instant,
                all: 0,
                peers: HashMap::new(),
            }),
        };
        let allowed = match peer {
            None => {
                rate.all += 1;
                rate.all <= limit.saturating_mul(10)
            }
            Some(peer) => {
                let count = rate.peers.entry(peer).or_default();
                *count += 1;
                *count <= limit
            }
        };
        self.counters.rate_limited += u64::from(!allowed);
        allowed
    }

    pub(super) fn syn(&mut self, syn: &Packet<'_>, data: &[u8], ports: Ports, now: Now) {
        let Some(peer) = syn.from.clone() else {
            self.counters.forged += 1;
            return;
        };
        if !packet::is_for(&syn.nacks, &self.keys.destination().hash()) {
            self.counters.misdirected += 1;
            return;
        }
        // the sum before the signature, the peer's share behind it: a name that is claimed only must not pay
        if !self.allow(None, now) {
            return;
        }
        if syn.from_id == 0 || syn.verify(data, &peer, now.unix_ms).is_err() {
            self.counters.forged += 1;
            return;
        }
        let key = (peer.hash(), syn.from_id);
        if let Some(&id) = self.by_peer.get(&key) {
            return self.repeated_syn(id, syn, now);
        }
        if !self.allow(Some(peer.hash()), now) {
            return;
        }
        let id = self.fresh_id();
        if self.pending >= self.config.backlog || self.connections.len() >= self.config.max_streams
        {
            self.counters.refused += 1;
            for data in connection::reset_packets(syn.from_id, id, 1, &self.keys) {
                self.send_loose(peer.clone(), (ports.to, ports.from), data, true);
            }
            return;
        }
        let until = now.instant + self.config.accept_timeout;
        let (local, remote) = (ports.to, ports.from);
        let phase = Phase::Pending { until };
        let mut connection = self.connection(
            peer.clone(),
            (local, remote),
            (id, syn.from_id),
            phase,
            now.instant,
        );
        connection.syn_received(syn);
        connection.handle(syn, now.instant, &mut Vec::new());
        self.connections.insert(id, connection);
        self.by_peer.insert(key, id);
        self.pending += 1;
        self.events.push_back(Event::Incoming {
            stream: StreamId(id),
            peer,
            local_port: local,
            remote_port: remote,
        });
        self.touch(id);
        self.adopt_early(id, syn.from_id, ports, now);
    }

    /// Our reply was lost: what exists answers, nothing new is opened.
    pub(super) fn repeated_syn(&mut self, id: u32, syn: &Packet<'_>, now: Now) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.tally.duplicates += 1;
            if connection.phase == Phase::Open {
                connection.recv.want_ack(Duration::ZERO, now.instant);
                self.touch(id);
            }
        } else {
            self.answer_ended(id, syn, now);
        }
    }

    /// Data that the opener sent before it knew our id: it belongs to the stream with its id from these ports.
    pub(super) fn before_reply(
        &mut self,
        packet: &Packet<'_>,
        data: &[u8],
        ports: Ports,
        now: Now,
    ) {
        if packet.from_id == 0 || packet.flags & RESET != 0 {
            self.counters.unknown += 1;
            return;
        }
        // the packet names no sender; two peers with the same id and ports at once are told apart by nothing, so that
        // such packets are refused then
        let mut owners = self.connections.values().filter(|c| {
            c.peer_id == packet.from_id && c.local_port == ports.to && c.remote_port == ports.from
        });
        match (owners.next().map(|c| c.local_id), owners.next()) {
            (Some(id), None) => self.for_stream_unnamed(id, data, now),
            (Some(_), Some(_)) => self.counters.unknown += 1,
            (None, _) if self.early.len() < MOST_EARLY => {
                self.counters.early += 1;
                self.early.push_back(Early {
                    peer_id: packet.from_id,
                    ports,
                    data: data.to_vec(),
                    until: now.instant + EARLY_LIFE,
                });
            }
            (None, _) => self.counters.early_dropped += 1,
        }
    }

    /// A packet to id 0 for a stream that is known: its signature's length depends on the peer.
    pub(super) fn for_stream_unnamed(&mut self, id: u32, data: &[u8], now: Now) {
        let peer = self.connections[&id].peer.clone();
        match Packet::read(data, Some(&peer)) {
            Ok(packet) if packet.has(NO_ACK) || packet.ack_through == 0 => {
                self.for_stream(id, &packet, data, now);
            }
            _ => self.counters.malformed += 1,
        }
    }

    pub(super) fn adopt_early(&mut self, id: u32, peer_id: u32, ports: Ports, now: Now) {
        let (mine, others) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|early| early.peer_id == peer_id && early.ports == ports);
        self.early = others;
        let mine: VecDeque<Early> = mine;
        for early in mine {
            self.for_stream_unnamed(id, &early.data, now);
        }
    }

    /// Packets whose SYN does not come.
    pub(super) fn drop_early(&mut self, now: Now) {
        while self.early.front().is_some_and(|e| e.until <= now.instant) {
            self.early.pop_front();
            self.counters.early_dropped += 1;
        }
    }
}

//! What is relayed. No lock, no allocation, no copy: one lookup by the 5-tuple or the relay, one in the allocation.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use rand::Rng;
use turn_types::attribute::Icmp;

use super::{Command, FiveTuple, IcmpError, RelayId, Server, new_transaction};
use crate::frame::{Channel, Header};
use crate::stun::{Class, Message, Writer, attr, method};

/// A datagram for a peer: a range of the bytes that the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToPeer {
    /// From which relay socket.
    pub relay: RelayId,
    /// To whom.
    pub peer: SocketAddr,
    /// Where the payload lies in what came.
    pub payload: Range<usize>,
    /// Whether the IP header's DF bit is to be set (RFC 8656 §15).
    pub dont_fragment: bool,
}

/// A datagram for a client: what came from the peer, with this in front.
#[derive(Clone, Copy, Debug)]
pub struct ToClient {
    /// To whom.
    pub client: FiveTuple,
    /// What goes in front, and the padding behind.
    pub header: Header,
}

impl Server {
    pub(super) fn relay_channel(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        channel: Channel,
        payload: Range<usize>,
    ) -> Option<ToPeer> {
        let Some(index) = self.clients.get(from).copied() else {
            self.counters.dropped_no_allocation += 1;
            return None;
        };
        let Some(peer) = self.allocations[index].peer_of(now, channel) else {
            self.counters.dropped_no_channel += 1;
            return None;
        };
        self.relay_to(now, index, peer, payload, false)
    }

    /// RFC 8656 §11.2.
    pub(super) fn relay_send(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
    ) -> Option<ToPeer> {
        let Some(index) = self.clients.get(from).copied() else {
            self.counters.dropped_no_allocation += 1;
            return None;
        };
        let (Ok(Some(peer)), Some(payload)) = (
            message.xor_address(attr::XOR_PEER_ADDRESS),
            message.range(attr::DATA),
        ) else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        let dont_fragment = message.has(attr::DONT_FRAGMENT);
        let unknown = |kind: u16| {
            kind < 0x8000
                && !matches!(kind, attr::XOR_PEER_ADDRESS | attr::DATA)
                && (kind != attr::DONT_FRAGMENT || !self.config.dont_fragment)
        };
        if message.attributes().any(|(kind, _)| unknown(kind)) {
            self.counters.dropped_malformed += 1;
            return None;
        }
        let Some(verdict) = self.allocations[index].permits(now, peer.ip()) else {
            self.counters.dropped_no_permission += 1;
            return None;
        };
        if !self.config.policy.port(verdict, peer, &self.config.ports) {
            self.counters.dropped_policy += 1;
            return None;
        }
        self.relay_to(now, index, peer, payload, dont_fragment)
    }

    fn relay_to(
        &mut self,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        payload: Range<usize>,
        dont_fragment: bool,
    ) -> Option<ToPeer> {
        let allocation = &self.allocations[index];
        let relay = match allocation.relay_for(peer.ip()) {
            Some(relay) if !allocation.tcp && allocation.opening.is_none() => relay,
            _ => {
                self.counters.dropped_no_allocation += 1;
                return None;
            }
        };
        if !self.within_rate(now, index, payload.len()) {
            return None;
        }
        self.counters.to_peer_packets += 1;
        self.counters.to_peer_bytes += payload.len() as u64;
        Some(ToPeer {
            relay,
            peer,
            payload,
            dont_fragment,
        })
    }

    /// Takes a datagram of `payload` bytes that came to a relay socket. Gives what to send to which client.
    pub fn handle_relayed(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: SocketAddr,
        payload: usize,
    ) -> Option<ToClient> {
        let Some(index) = self
            .relay(relay)
            .filter(|r| r.expires.is_some())
            .map(|r| r.allocation)
        else {
            self.counters.dropped_no_allocation += 1;
            return None;
        };
        let allocation = &mut self.allocations[index];
        let Some(channel) = allocation.hears(now, &from) else {
            self.counters.dropped_no_permission += 1;
            return None;
        };
        let client = allocation.client;
        let header = match channel {
            Some(channel) => Header::channel(channel, payload, client.transport),
            None => {
                let mut id = [0; 12];
                self.random.fill_bytes(&mut id);
                Header::data(id, from, payload)
            }
        };
        let Some(header) = header else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        if !self.within_rate(now, index, payload) {
            return None;
        }
        self.counters.to_client_packets += 1;
        self.counters.to_client_bytes += payload as u64;
        Some(ToClient { client, header })
    }

    /// Whether this many bytes may pass for this allocation, its user and the server. Rates that are not limited cost
    /// one read each.
    pub(super) fn within_rate(&mut self, now: Instant, index: usize, bytes: usize) -> bool {
        let (allocation, ns) = (&self.allocations[index], self.shared.ns(now));
        let fine = allocation.rate.allows(ns, bytes)
            && allocation.usage.rate.allows(ns, bytes)
            && self.shared.rate.allows(ns, bytes);
        if !fine {
            self.counters.dropped_rate += 1;
        }
        fine
    }

    /// Takes an ICMP error about something that a relay sent: passed on to the client if the peer has a permission and
    /// it is of a kind that RFC 8656 §11.5 names.
    pub fn handle_icmp(&mut self, now: Instant, relay: RelayId, error: &IcmpError) {
        let kinds: &[u8] = if error.peer.is_ipv4() {
            &[3, 11]
        } else {
            &[1, 2, 3]
        };
        let Some(index) = self
            .relay(relay)
            .filter(|r| r.expires.is_some())
            .map(|r| r.allocation)
        else {
            return;
        };
        let permitted = self.allocations[index]
            .permits(now, error.peer.ip())
            .is_some();
        if !kinds.contains(&error.kind) || !permitted || !self.within_rate(now, index, 64) {
            return;
        }
        let id = new_transaction(&mut self.random);
        let bytes = Writer::new(Class::Indication, method::DATA, id)
            .xor_address(attr::XOR_PEER_ADDRESS, error.peer)
            .typed(&Icmp::new(error.kind, error.code, error.data))
            .finish();
        self.counters.icmp_forwarded += 1;
        let to = self.allocations[index].client;
        self.commands.push_back(Command::Send { to, bytes });
    }
}

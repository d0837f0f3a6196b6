//! What goes out in sessions and for them: HELLOs to places, messages into queues.
use super::Lane;
use super::places::decode_source;
use crate::anode::output::Queue;
use crate::anode::path::INITIAL_PACKET;
use crate::anode::peers::PeerRef;
use crate::anode::{Destination, Node, Place};
use crate::overlay::Failure;
use anode_wire::Message;
use anode_wire::packet::{FLAG_FULL_SENDER, FULL_SENDER_HEADER};
use anode_wire::sealed::{
    MAX_DATAGRAM, PeerKey, SEALED_BODY, SEALED_OVERHEAD, SEALED_TAIL, Sealer, To, Transmit, kind,
};
use std::time::{Duration, Instant};

/// The same HELLO goes to one endpoint no more often than this.
const GREET_AGAIN: Duration = Duration::from_millis(100);
/// What each FRAGMENT costs beside its slice: the packet, its type, id, index and count.
const FRAGMENT_OVERHEAD: usize = SEALED_OVERHEAD + 1 + 6;

impl Node {
    /// A packet of the sessions' own: handshakes, KEM, confirmations, errors. They are few, and the most of them answer
    /// something: they count against what an unproven endpoint may get, but are not held back.
    pub(super) fn send_for_sessions(&mut self, now: Instant, transmit: Transmit) {
        let Transmit { to, packet } = transmit;
        match to {
            To::Endpoint(endpoint) => match decode_source(&endpoint) {
                Some((back, None)) => self.push_raw(back, &packet),
                Some((back, Some(sender))) => self.answer_relayed(back, &sender, &packet),
                None => {}
            },
            To::Peer(pair) => {
                let Some(found) = self.peers.find(pair.address.as_bytes()) else {
                    return;
                };
                if is_hello(&packet) {
                    if let Some(peer) = self.peers.get_mut(found) {
                        peer.hello = Some(packet.into());
                    }
                    return self.greet_everywhere(now, found);
                }
                let Some(peer) = self.peers.get(found) else {
                    return;
                };
                let used = peer.stream_route(pair.peer);
                // Whoever has moved, or slept, is not where it was proven to be: also where it was heard.
                let heard = peer.unproven_route().filter(|heard| {
                    let elsewhere = used.is_none_or(|used| used.destination != heard.destination);
                    elsewhere && heard.affords(packet.len())
                });
                let routes = used.into_iter().chain(heard);
                let mut ways: Vec<Destination> = routes.map(|route| route.destination).collect();
                let over_relay = peer.heard_over_relay();
                ways.extend(over_relay.filter(|over| !ways.contains(over)));
                for way in ways {
                    if let Some(peer) = self.peers.get_mut(found) {
                        peer.spend(&way.to, packet.len());
                        peer.tx_bytes += packet.len() as u64;
                    }
                    self.push_raw(way, &packet);
                }
            }
        }
    }

    pub(in crate::anode) fn push_raw(&mut self, destination: Destination, packet: &[u8]) {
        if !self
            .control
            .push(destination, |out| out.extend_from_slice(packet))
        {
            self.counters.dropped_output += 1;
        }
    }

    /// The HELLO goes where the peer is; where nobody knows, to all places where it may be.
    fn greet_everywhere(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let sure = peer
            .active_path()
            .filter(|path| path.is_proven() && !path.is_suspect() && !peer.is_stale(now))
            .map(|path| path.endpoint);
        let places: Vec<(Place, usize)> = peer
            .paths
            .iter()
            .filter(|path| sure.is_none_or(|sure| path.endpoint == sure || path.is_probed()))
            .filter(|path| peer.may_greet(path))
            .map(|path| (path.endpoint, path.socket))
            .collect();
        for (endpoint, socket) in places {
            if let Some(peer) = self.peers.get_mut(found)
                && let Some(path) = peer.path_mut(&endpoint)
            {
                path.greeted = None;
            }
            self.greet(now, found, endpoint, socket);
        }
    }

    /// Somebody wants the peer anew, and the last HELLO may be long ago: it goes once more.
    pub(in crate::anode) fn greet_again(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found).filter(|peer| !peer.is_sealed()) else {
            return;
        };
        let places = peer.paths.iter().filter(|path| path.is_proven());
        let places: Vec<_> = places.map(|path| (path.endpoint, path.socket)).collect();
        for (endpoint, socket) in places {
            self.greet(now, found, endpoint, socket);
        }
    }

    /// The HELLO that waits for an answer goes along with a question to an endpoint.
    pub(in crate::anode) fn greet(
        &mut self,
        now: Instant,
        found: PeerRef,
        endpoint: Place,
        socket: usize,
    ) {
        if !self.reaches(socket, &endpoint) {
            return;
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let Some(hello) = peer.hello.clone() else {
            return;
        };
        let Some(path) = peer.path_mut(&endpoint) else {
            return;
        };
        if path.greeted.is_some_and(|at| now < at + GREET_AGAIN) {
            return;
        }
        path.greeted = Some(now);
        peer.tx_bytes += hello.len() as u64;
        let destination = Destination {
            to: endpoint,
            socket,
            source: None,
        };
        self.push_raw(destination, &hello);
    }

    /// Queues a small message inside a session.
    pub(in crate::anode) fn send_sealed_control(
        &mut self,
        now: Instant,
        to: PeerRef,
        key: PeerKey,
        destination: Destination,
        message: &Message<'_>,
    ) {
        if self
            .push_sealed(now, to, key, destination, Lane::Control, message)
            .is_err()
        {
            self.counters.dropped_output += 1;
        }
    }

    /// Seals a message into a queue; in fragments where it is larger than the path (Q21).
    pub(in crate::anode) fn push_sealed(
        &mut self,
        now: Instant,
        to: PeerRef,
        key: PeerKey,
        destination: Destination,
        lane: Lane,
        message: &Message<'_>,
    ) -> Result<(), Failure> {
        let clock = self.sealing.clock(now);
        let Some(peer) = self.peers.get_mut(to) else {
            return Err(Failure::Unreachable);
        };
        let path = peer.path_mut(&destination.to);
        let max_packet = usize::from(path.map_or(INITIAL_PACKET, |path| path.size.usable()));
        let total = sealed_len(message.body_len(), max_packet);
        if total <= max_packet {
            return self.push_whole(now, to, key, destination, lane, message);
        }
        let mut body = Vec::with_capacity(message.body_len());
        message.emit(&mut body);
        if body.len() >= MAX_DATAGRAM {
            return Err(Failure::TooBig {
                max: MAX_DATAGRAM - 1 - (body.len() - payload_len(message)),
            });
        }
        // Large ones never go before streams.
        if !self.datagrams.has_room(total) {
            return Err(Failure::Busy);
        }
        let fragments = self
            .sessions
            .seal_fragments(clock, key, message.kind(), &body, max_packet);
        let Ok(fragments) = fragments else {
            return Err(self.lose_tunnel(now, to, key));
        };
        self.counters.tx_fragmented += 1;
        self.counters.tx_sealed += fragments.len() as u64;
        push_all(&mut self.datagrams, destination, &fragments);
        if let Some(peer) = self.peers.get_mut(to) {
            peer.tx_bytes += total as u64;
            peer.spend(&destination.to, total);
        }
        Ok(())
    }

    /// The same in one packet, however large.
    pub(in crate::anode) fn push_whole(
        &mut self,
        now: Instant,
        to: PeerRef,
        key: PeerKey,
        destination: Destination,
        lane: Lane,
        message: &Message<'_>,
    ) -> Result<(), Failure> {
        let Ok(mut sealer) = self.sessions.sealer(self.sealing.clock(now), key) else {
            return Err(self.lose_tunnel(now, to, key));
        };
        let queue = match lane {
            Lane::Control => &mut self.control,
            Lane::Datagrams => &mut self.datagrams,
        };
        if !queue.push_if(destination, |out| seal_into(&mut sealer, message, out)) {
            return Err(Failure::Busy);
        }
        self.counters.tx_sealed += 1;
        if let Some(peer) = self.peers.get_mut(to) {
            let total = SEALED_BODY + message.body_len() + SEALED_TAIL;
            peer.tx_bytes += total as u64;
            peer.spend(&destination.to, total);
        }
        Ok(())
    }
}

fn push_all(queue: &mut Queue, destination: Destination, packets: &[Vec<u8>]) {
    for packet in packets {
        // There was room for all of them.
        queue.push(destination, |out| out.extend_from_slice(packet));
    }
}

/// Appends one sealed packet.
fn seal_into(sealer: &mut Sealer<'_>, message: &Message<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.resize(start + SEALED_BODY, 0);
    message.emit(out);
    out.resize(out.len() + SEALED_TAIL, 0);
    sealer.seal(message.kind(), &mut out[start..]).is_ok()
}

/// Bytes on the wire of a message with this body, in fragments if it must be.
pub(in crate::anode) fn sealed_len(body: usize, max_packet: usize) -> usize {
    let len = SEALED_BODY + body + SEALED_TAIL;
    if len <= max_packet {
        return len;
    }
    let slice = max_packet.saturating_sub(FRAGMENT_OVERHEAD).max(1);
    body + 1 + (body + 1).div_ceil(slice) * FRAGMENT_OVERHEAD
}

/// What of a message's body the program has given.
pub(in crate::anode) fn payload_len(message: &Message<'_>) -> usize {
    match message {
        Message::Dgram { payload, .. } | Message::IpPacket { payload, .. } => payload.len(),
        // Less the token in front.
        Message::Ping(payload) => payload.len().saturating_sub(8),
        _ => 0,
    }
}

fn is_hello(packet: &[u8]) -> bool {
    packet
        .get(1)
        .is_some_and(|flags| flags & FLAG_FULL_SENDER != 0)
        && packet.get(FULL_SENDER_HEADER - 1) == Some(&kind::HELLO)
}

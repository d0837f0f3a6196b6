//! Payload both ways, and what waits for a permission.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use turn_types::attribute::Icmp;

use super::{Client, Event, Permission, State};
use crate::frame::{HEADROOM, Header, TAILROOM, channel_data};
use crate::server::{ConnectionId, IcmpError};
use crate::stun::{Class, Message, attr, method};

/// What became of a payload.
#[derive(Clone, Copy, Debug)]
pub enum Outgoing {
    /// Send this header, the payload, and the padding to the server now.
    Now(Header),
    /// It waits for the peer's permission, which is asked for.
    Queued,
    /// It is lost: the queue or the table of peers is full, the payload too long, or there is no allocation.
    Dropped,
}

/// Payload of a peer: a range of the bytes that came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// From whom.
    pub peer: SocketAddr,
    /// Where.
    pub payload: Range<usize>,
}

impl Client {
    /// Sends a payload to a peer: at once if the peer is permitted, else after (T12).
    pub fn send(&mut self, now: Instant, peer: SocketAddr, payload: &[u8]) -> Outgoing {
        if self.permitted(now, peer.ip()) && self.queue.is_empty_for(peer.ip()) {
            return match self.header(now, peer, payload.len()) {
                Some(header) => {
                    self.last_sent = now;
                    Outgoing::Now(header)
                }
                None => Outgoing::Dropped,
            };
        }
        let alive = !matches!(self.state, State::Ended | State::Leaving { again: false })
            && !self.config.tcp;
        if alive && self.permit(now, peer.ip()) && self.queue.push(peer, payload) {
            return Outgoing::Queued;
        }
        self.counters.queue_dropped += 1;
        Outgoing::Dropped
    }

    pub(super) fn permitted(&self, now: Instant, peer: IpAddr) -> bool {
        matches!(self.permissions.get(&peer), Some(Permission::Stands { expires, .. }) if now < *expires)
    }

    fn header(&mut self, now: Instant, peer: SocketAddr, payload: usize) -> Option<Header> {
        if !matches!(self.state, State::Ready(_)) || self.config.tcp {
            return None;
        }
        match self.channels.of(now, &peer) {
            Some(channel) => Header::channel(channel, payload, self.config.transport),
            None => {
                let id = self.transaction_id();
                Header::send(id, peer, payload, self.dont_fragment)
            }
        }
    }

    /// Sends what has waited for these peers, in order.
    pub(super) fn flush(&mut self, now: Instant, permitted: &[IpAddr]) {
        for (peer, payload) in self.queue.take(permitted) {
            let Some(header) = self.header(now, peer, payload.len()) else {
                self.counters.queue_dropped += 1;
                continue;
            };
            let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
            let range = HEADROOM..HEADROOM + payload.len();
            buffer[range.clone()].copy_from_slice(&payload);
            if let Some(message) = header.wrap(&mut buffer, range) {
                self.transmit(now, buffer[message].to_vec());
            }
        }
    }

    /// Takes what came from the server: one datagram, or one message of a stream. Gives payload, if it is a permitted
    /// peer's.
    pub fn handle(&mut self, now: Instant, bytes: &[u8]) -> Option<Received> {
        if let Some((channel, payload)) = channel_data(bytes) {
            let peer = self.channels.peer(now, channel);
            // RFC 8656 §12.5 recommends the check of the permission (T15).
            let Some(peer) = peer.filter(|p| self.permitted(now, p.ip())) else {
                self.counters.stranger_channels += 1;
                return None;
            };
            return Some(Received { peer, payload });
        }
        let Ok(message) = Message::parse(bytes) else {
            self.counters.malformed += 1;
            return None;
        };
        match (message.class(), message.method()) {
            (Class::Indication, method::DATA) => return self.data(now, &message),
            (Class::Indication, method::CONNECTION_ATTEMPT) => {
                self.connection_attempt(now, &message)
            }
            (Class::Success | Class::Error, _) => self.answer(now, &message),
            _ => self.counters.strange_answers += 1,
        }
        None
    }

    /// RFC 8656 §11.4 (T14).
    fn data(&mut self, now: Instant, message: &Message<'_>) -> Option<Received> {
        let Ok(Some(peer)) = message.xor_address(attr::XOR_PEER_ADDRESS) else {
            self.counters.malformed += 1;
            return None;
        };
        let permitted = self.permitted(now, peer.ip()) && matches!(self.state, State::Ready(_));
        if !permitted {
            self.counters.stranger_data += 1;
            return None;
        }
        if let Some(payload) = message.range(attr::DATA) {
            return Some(Received { peer, payload });
        }
        match message.get::<Icmp>() {
            Ok(Some(icmp)) => {
                let error = IcmpError {
                    kind: icmp.icmp_type(),
                    code: icmp.code(),
                    data: icmp.data(),
                    peer,
                };
                self.report(Event::PeerUnreachable(error));
            }
            _ => self.counters.malformed += 1,
        }
        None
    }

    fn connection_attempt(&mut self, now: Instant, message: &Message<'_>) {
        let id = message
            .raw(attr::CONNECTION_ID)
            .and_then(|v| <[u8; 4]>::try_from(v).ok());
        let (Some(id), Ok(Some(peer))) = (id, message.xor_address(attr::XOR_PEER_ADDRESS)) else {
            self.counters.malformed += 1;
            return;
        };
        if self.config.tcp && self.permitted(now, peer.ip()) {
            self.report(Event::Incoming {
                peer,
                connection: ConnectionId(u32::from_be_bytes(id)),
            });
        } else {
            self.counters.stranger_data += 1;
        }
    }

    /// Events that a server can cause at will are dropped when nobody takes them.
    pub(super) fn report(&mut self, event: Event) {
        if self.events.len() < 1024 {
            self.events.push_back(event);
        }
    }
}

/// Payloads that wait, in order, bounded in bytes; each counts at least 64.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
    limit: usize,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    fn cost(payload: &[u8]) -> usize {
        payload.len().max(64)
    }

    pub fn push(&mut self, peer: SocketAddr, payload: &[u8]) -> bool {
        let fits = self.bytes + Self::cost(payload) <= self.limit;
        if fits {
            self.bytes += Self::cost(payload);
            self.waiting.push_back((peer, payload.to_vec()));
        }
        fits
    }

    pub fn is_empty_for(&self, peer: IpAddr) -> bool {
        !self.waiting.iter().any(|(p, _)| p.ip() == peer)
    }

    pub fn take(&mut self, peers: &[IpAddr]) -> Vec<(SocketAddr, Vec<u8>)> {
        let all = std::mem::take(&mut self.waiting);
        let (taken, rest) = all.into_iter().partition(|(p, _)| peers.contains(&p.ip()));
        self.waiting = rest;
        self.bytes = self.waiting.iter().map(|(_, p)| Self::cost(p)).sum();
        taken.into()
    }

    pub fn drop_peer(&mut self, peer: IpAddr) -> u64 {
        self.take(&[peer]).len() as u64
    }

    pub fn clear(&mut self) -> u64 {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).len() as u64
    }
}

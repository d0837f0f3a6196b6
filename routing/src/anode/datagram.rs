//! DGRAM (Anode 0.8 §4.2.10) and IPPKT (DESIGN §5): packets without delivery assurance, straight into the output queue.
use super::contact::Reach;
use super::guard::{self, Envelope};
use super::peers::PeerRef;
use super::{Node, PlainPolicy};
use crate::overlay::Failure;
use anode_wire::address::split_digit;
use anode_wire::{Message, PeerId};
use std::net::Ipv6Addr;
use std::time::Instant;

/// A packet that waits for its peer's first path.
pub(super) enum Held {
    Ping {
        token: u64,
        digit: PeerId,
        payload: Vec<u8>,
    },
    Datagram {
        digit: PeerId,
        source: u16,
        destination: u16,
        payload: Vec<u8>,
    },
    Other {
        digit: PeerId,
        next_header: u8,
        payload: Vec<u8>,
    },
}

impl Held {
    /// Bytes it takes of the budget, its own bookkeeping included.
    pub fn len(&self) -> usize {
        let (Self::Ping { payload, .. }
        | Self::Datagram { payload, .. }
        | Self::Other { payload, .. }) = self;
        payload.len() + size_of::<Self>()
    }
}

impl Node {
    /// Sends a datagram; see [`crate::Overlay::send_datagram`].
    pub fn send_datagram(
        &mut self,
        now: Instant,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let (_, digit) = split_digit(to);
        self.check_policy()?;
        match self.reach(now, to)? {
            Reach::Ready(found) => self.send_datagram_message(
                now,
                found,
                digit,
                &Message::Dgram {
                    source: from_port,
                    destination: to_port,
                    payload,
                },
            ),
            Reach::Waiting(target) => self.hold(
                target,
                Held::Datagram {
                    digit,
                    source: from_port,
                    destination: to_port,
                    payload: payload.to_vec(),
                },
            ),
        }
    }

    /// Sends another protocol's packet; see [`crate::Overlay::send_other`].
    pub fn send_other(
        &mut self,
        now: Instant,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let (_, digit) = split_digit(to);
        self.check_policy()?;
        match self.reach(now, to)? {
            Reach::Ready(found) => self.send_datagram_message(
                now,
                found,
                digit,
                &Message::IpPacket {
                    next_header,
                    payload,
                },
            ),
            Reach::Waiting(target) => self.hold(
                target,
                Held::Other {
                    digit,
                    next_header,
                    payload: payload.to_vec(),
                },
            ),
        }
    }

    /// Whether traffic may go out in plain.
    pub(super) fn check_policy(&self) -> Result<(), Failure> {
        match self.config.plain {
            PlainPolicy::Allow => Ok(()),
            PlainPolicy::Deny => Err(Failure::Policy),
        }
    }

    pub(super) fn send_datagram_message(
        &mut self,
        now: Instant,
        found: PeerRef,
        digit: PeerId,
        message: &Message<'_>,
    ) -> Result<(), Failure> {
        let peer = self.peers.get_mut(found).ok_or(Failure::Unreachable)?;
        let route = peer.route(digit).ok_or(Failure::Unreachable)?;
        let recipient_peer = if digit == PeerId::ANY {
            route.peer_id
        } else {
            digit
        };
        let envelope = Envelope {
            recipient_peer,
            full_sender: peer.needs_full_sender(now),
        };
        let len = envelope.header_len() + message.body_len();
        if len > route.max_packet {
            self.counters.too_big += 1;
            // Room for the full sender is always left out of the answer: what fits now must fit after a minute's silence too.
            let overhead = Envelope {
                full_sender: true,
                ..envelope
            }
            .header_len()
                + message.body_len()
                - payload_len(message);
            return Err(Failure::TooBig {
                max: route.max_packet - overhead,
            });
        }
        peer.agree(&self.own.identity);
        let peer = &*peer;
        let key = peer.key().ok_or(Failure::Unreachable)?;
        if !self.datagrams.push(route.destination, |out| {
            guard::protect(&self.own, peer, key, envelope, message, out)
        }) {
            self.counters.dropped_output += 1;
            return Err(Failure::Busy);
        }
        if let Some(peer) = self.peers.get_mut(found) {
            peer.tx_bytes += len as u64;
        }
        self.note_use(now, found, false);
        Ok(())
    }
}

fn payload_len(message: &Message<'_>) -> usize {
    match message {
        Message::Dgram { payload, .. } | Message::IpPacket { payload, .. } => payload.len(),
        _ => 0,
    }
}

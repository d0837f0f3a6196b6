//! DGRAM (Anode 0.8 §4.2.10) and IPPKT (DESIGN §5): packets without delivery assurance, straight into the output queue.
use super::contact::Reach;
use super::guard::{self, Envelope};
use super::peers::PeerRef;
use super::sealing::{Channel, Lane, payload_len, sealed_len};
use super::{Node, Plain};
use crate::overlay::Failure;
use anode_wire::address::split_digit;
use anode_wire::sealed::MAX_DATAGRAM;
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
    pub fn cost(&self) -> usize {
        let (Self::Ping { payload, .. }
        | Self::Datagram { payload, .. }
        | Self::Other { payload, .. }) = self;
        payload.len() + size_of::<Self>()
    }

    /// Bytes of the message's body on the wire.
    pub fn body_len(&self) -> usize {
        match self {
            Self::Ping { payload, .. } => 8 + payload.len(),
            Self::Datagram { payload, .. } => 4 + payload.len(),
            Self::Other { payload, .. } => 1 + payload.len(),
        }
    }

    /// Which of the peers it is for.
    pub fn digit(&self) -> PeerId {
        let (Self::Ping { digit, .. } | Self::Datagram { digit, .. } | Self::Other { digit, .. }) =
            self;
        *digit
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
        self.check_size(4 + payload.len(), payload.len())?;
        match self.reach(now, to, 4 + payload.len())? {
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
        self.check_size(1 + payload.len(), payload.len())?;
        match self.reach(now, to, 1 + payload.len())? {
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

    /// What is too large even in fragments need not wait for anybody (Q21). `body` has `payload` bytes of the program's.
    pub(super) fn check_size(&mut self, body: usize, payload: usize) -> Result<(), Failure> {
        if body < MAX_DATAGRAM || self.config.security.plain == Plain::Only {
            return Ok(());
        }
        self.counters.too_big += 1;
        Err(Failure::TooBig {
            max: MAX_DATAGRAM - 1 - (body - payload),
        })
    }

    pub(super) fn send_datagram_message(
        &mut self,
        now: Instant,
        found: PeerRef,
        digit: PeerId,
        message: &Message<'_>,
    ) -> Result<(), Failure> {
        let channel = self.channel(found, digit).ok_or(Failure::Unreachable)?;
        let peer = self.peers.get_mut(found).ok_or(Failure::Unreachable)?;
        let route = peer.route(digit).ok_or(Failure::Unreachable)?;
        if let Channel::Sealed(key) = channel {
            if !route.affords(sealed_len(message.body_len(), route.max_packet)) {
                self.counters.dropped_unproven += 1;
                return Err(Failure::Busy);
            }
            let lane = Lane::Datagrams;
            let result = self.push_sealed(now, found, key, route.destination, lane, message);
            match result {
                Ok(()) => self.note_own_use(now, found, false),
                Err(_) => self.counters.dropped_output += 1,
            }
            return result;
        }
        if self.config.security.plain != Plain::Only && matches!(message, Message::IpPacket { .. })
        {
            // The draft has no such message (Q23).
            return Err(Failure::Policy);
        }
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
        self.counters.key_agreements += u64::from(peer.key().is_none());
        peer.agree(&self.own.identity);
        let peer = &*peer;
        let key = peer.key().ok_or(Failure::Unreachable)?;
        if !self.datagrams.push(route.destination, |out| {
            guard::protect(&self.own, peer, Some(key), envelope, message, out)
        }) {
            self.counters.dropped_output += 1;
            return Err(Failure::Busy);
        }
        if let Some(peer) = self.peers.get_mut(found) {
            peer.tx_bytes += len as u64;
        }
        self.note_own_use(now, found, false);
        Ok(())
    }
}

//! PING and PONG (Anode 0.8 §4.2.2, §4.2.3): those of programs, by token.
use super::contact::{Reach, with_digit};
use super::datagram::Held;
use super::output::Route;
use super::peers::PeerRef;
use super::receive::Arrival;
use super::sealing::{Channel, Lane};
use super::{Node, Sender};
use crate::overlay::{Failure, OverlayEvent, PathKind, Via, ViaEndpoint};
use anode_wire::address::split_digit;
use anode_wire::packet::FULL_SENDER_HEADER;
use anode_wire::{Message, PeerId};
use rand_core::Rng as _;
use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A PING without an answer is forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// Bytes of the local token in front of the program's payload (DESIGN §6).
const TOKEN_LEN: usize = 8;

/// PINGs under way. The token on the wire is random and ours: nobody can answer what he was not asked.
#[derive(Default)]
pub(super) struct Pings {
    open: HashMap<u64, Outstanding, foldhash::fast::RandomState>,
    order: VecDeque<(Instant, u64)>,
}

struct Outstanding {
    token: u64,
    peer: PeerRef,
    sent: Instant,
}

impl Pings {
    fn expire(&mut self, now: Instant) {
        while let Some((sent, wire_token)) = self.order.front().copied() {
            if now.duration_since(sent) < FORGET_AFTER {
                return;
            }
            self.order.pop_front();
            self.open.remove(&wire_token);
        }
    }
}

impl Node {
    /// Sends an echo request; see [`crate::Overlay::ping`].
    pub fn ping(
        &mut self,
        now: Instant,
        to: Ipv6Addr,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let (_, digit) = split_digit(to);
        self.check_size(TOKEN_LEN + payload.len(), payload.len())?;
        match self.reach(now, to, TOKEN_LEN + payload.len())? {
            Reach::Ready(peer) => self.send_ping(now, peer, digit, token, payload),
            Reach::Waiting(target) => self.hold(
                target,
                Held::Ping {
                    token,
                    digit,
                    payload: payload.to_vec(),
                },
            ),
        }
    }

    pub(super) fn send_ping(
        &mut self,
        now: Instant,
        found: PeerRef,
        digit: PeerId,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.pings.expire(now);
        let channel = self.channel(found, digit);
        let route = self.peers.get(found).and_then(|peer| peer.route(digit));
        let (Some(channel), Some(route)) = (channel, route) else {
            return Err(Failure::Unreachable);
        };
        let Route {
            destination,
            max_packet,
            ..
        } = route;
        if channel == Channel::Plain && FULL_SENDER_HEADER + TOKEN_LEN + payload.len() > max_packet
        {
            self.counters.too_big += 1;
            return Err(Failure::TooBig {
                max: max_packet - FULL_SENDER_HEADER - TOKEN_LEN,
            });
        }
        // `order` also holds answered ones until their time is over: it is the bound on both.
        if self.pings.order.len() >= self.config.limits.pings {
            self.counters.dropped_pings += 1;
            return Err(Failure::Busy);
        }
        let wire_token = self.rng.next_u64();
        self.pings.open.insert(
            wire_token,
            Outstanding {
                token,
                peer: found,
                sent: now,
            },
        );
        self.pings.order.push_back((now, wire_token));
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        body.extend_from_slice(&wire_token.to_be_bytes());
        body.extend_from_slice(payload);
        let message = Message::Ping(&body);
        let result = match channel {
            Channel::Plain => {
                self.send_control(now, found, destination, Sender::Full, &message);
                Ok(())
            }
            Channel::Sealed(key) => {
                self.push_sealed(now, found, key, destination, Lane::Control, &message)
            }
        };
        self.scratch = body;
        if let Err(failure) = result {
            self.pings.open.remove(&wire_token);
            return Err(failure);
        }
        self.note_own_use(now, found, true);
        Ok(())
    }

    pub(super) fn handle_ping(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        payload: &[u8],
    ) {
        if self.handle_registration(now, sender, &arrival, payload) {
            return;
        }
        let reply = Message::Pong(payload);
        if self.may_reply(now, &arrival, &reply) {
            self.reply(now, sender, &arrival, &reply);
        }
    }

    pub(super) fn handle_pong(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        payload: &[u8],
    ) {
        if self.handle_registered(now, sender, payload)
            || self.handle_size_answer(now, sender, arrival.session.is_some(), payload)
        {
            return;
        }
        self.pings.expire(now);
        let answered = payload
            .split_first_chunk::<TOKEN_LEN>()
            .and_then(|(wire_token, rest)| {
                let wire_token = u64::from_be_bytes(*wire_token);
                let ours = self
                    .pings
                    .open
                    .get(&wire_token)
                    .is_some_and(|ping| ping.peer == sender);
                ours.then(|| self.pings.open.remove(&wire_token))
                    .flatten()
                    .map(|ping| (ping, rest))
            });
        let Some((ping, payload)) = answered else {
            self.counters.dropped_pongs += 1;
            return;
        };
        let hops = arrival.hop_count;
        let kind = match hops {
            0 if self.is_turned(sender, &arrival.way.from) => PathKind::Turn,
            0 => PathKind::Direct,
            _ => PathKind::Relay,
        };
        let via = Via {
            kind,
            endpoint: ViaEndpoint::Place(arrival.way.from),
            hops,
        };
        let rtt = now.duration_since(ping.sent);
        self.event(OverlayEvent::Pong {
            token: ping.token,
            rtt,
            via,
            payload: payload.to_vec(),
        });
    }

    /// No path to this peer answers any more.
    pub(super) fn fail_pings_of(&mut self, found: PeerRef, failure: Failure) {
        let lost: Vec<u64> = self
            .pings
            .open
            .iter()
            .filter(|(_, ping)| ping.peer == found)
            .map(|(wire_token, _)| *wire_token)
            .collect();
        let mut tokens: Vec<u64> = lost
            .iter()
            .filter_map(|wire_token| self.pings.open.remove(wire_token))
            .map(|ping| ping.token)
            .collect();
        tokens.sort_unstable();
        for token in tokens {
            self.event(OverlayEvent::PingFailed { token, failure });
        }
    }

    /// Sends what waited for a path.
    pub(super) fn send_held(&mut self, now: Instant, found: PeerRef, ipv6: Ipv6Addr, held: Held) {
        match held {
            Held::Ping {
                token,
                digit,
                payload,
            } => {
                if let Err(failure) = self.send_ping(now, found, digit, token, &payload) {
                    self.event(OverlayEvent::PingFailed { token, failure });
                }
            }
            Held::Datagram {
                digit,
                source,
                destination,
                payload,
            } => {
                let message = Message::Dgram {
                    source,
                    destination,
                    payload: &payload,
                };
                if let Err(failure) = self.send_datagram_message(now, found, digit, &message) {
                    self.event(OverlayEvent::Undeliverable {
                        to: with_digit(ipv6, digit),
                        failure,
                    });
                }
            }
            Held::Other {
                digit,
                next_header,
                payload,
            } => {
                let message = Message::IpPacket {
                    next_header,
                    payload: &payload,
                };
                if let Err(failure) = self.send_datagram_message(now, found, digit, &message) {
                    self.event(OverlayEvent::Undeliverable {
                        to: with_digit(ipv6, digit),
                        failure,
                    });
                }
            }
        }
    }
}

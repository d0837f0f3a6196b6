//! The role of a relay: packets for registered peers go on to where those were proven to be (Anode 0.8 §2.3, A16 to A26,
//! A39, A45, D18, D25, D40).
//!
//! ```text
//!   datagrams ─▶ forward ─┬─ for this node ─▶ receive ─▶ … PING ─▶ register (session, proven place) ─▶ registry
//!                         └─ recipient ─▶ registry ─▶ limits ─▶ hop count + 1 ─▶ out, as they stand
//! ```
//!
//! Forwarding looks at the header alone: no keys, no copy where a socket takes the packets as they lie, no allocation.
//! Who registers has a sealed session with the relay (or has proven itself by the draft's MAC, where the policy hears
//! that), asked from a place that answered an EPC_REQ, and is forgotten after two minutes without a PING.
mod forward;
mod registry;

pub use forward::Onward;
#[cfg(test)]
pub(super) use registry::LIFETIME;
pub use registry::Registration;

use super::limits::{Bucket, Rate, SourceBuckets};
use super::peers::PeerRef;
use super::receive::Arrival;
use super::{Node, Plain, RelayConfig, Timer};
use anode_wire::{Address, Message, PeerId};
use registry::{Bounds, NotRegistered, Registry};
use std::time::{Duration, Instant};

/// The table is looked through this often for what was not renewed.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Bytes of a PING's body where its PONG shall say that the sender is registered.
const TOKEN: usize = 8;
/// ERRORs to one peer (D40).
const ERROR_RATE: Rate = Rate::per_second(1, 1);
/// A PING from a place that is not proven yet registers its sender when the proof comes within this time.
const PROOF_WITHIN: Duration = Duration::from_secs(5);

/// What a node keeps that relays for others.
pub(super) struct Relay {
    config: RelayConfig,
    registry: Registry,
    /// Bytes forwarded, in all and per source of the packets.
    in_all: Bucket,
    sources: SourceBuckets,
}

impl Relay {
    pub fn new(config: RelayConfig, key: (u64, u64)) -> Self {
        Self {
            registry: Registry::new(Bounds {
                peers: config.peers,
                per_source: config.peers_per_source,
            }),
            in_all: Bucket::default(),
            sources: SourceBuckets::new(byte_rate(config.rate), key),
            config,
        }
    }
}

/// So many bytes a second, half a second of them at once.
fn byte_rate(bytes_a_second: u32) -> Rate {
    Rate::per_second(bytes_a_second, (bytes_a_second / 2).max(1 << 16))
}

impl Node {
    /// Peers that can be reached through this node. Empty where it does not relay.
    pub fn registrations(&self, now: Instant) -> Vec<Registration> {
        let relay = self.relay.as_deref();
        let mut all: Vec<_> = relay
            .into_iter()
            .flat_map(|relay| relay.registry.registrations(now))
            .collect();
        all.sort_by_key(|known| (known.address, known.digit.get()));
        all
    }

    /// Registrations of an earlier run, so that a restart costs the peers no more than the time it takes.
    pub fn restore_registrations(&mut self, now: Instant, known: &[Registration]) {
        // The sockets may be others than then.
        let reached = known
            .iter()
            .filter(|known| self.reaches(known.at.socket, &known.at.to));
        let reached: Vec<&Registration> = reached.collect();
        let Some(relay) = self.relay.as_deref_mut() else {
            return;
        };
        for known in reached {
            relay.registry.restore(now, known);
        }
        self.timers
            .set(Timer::Relay, now + SWEEP_EVERY, "registrations");
    }

    /// How this node relays; `None`: it does not.
    pub fn relay_config(&self) -> Option<RelayConfig> {
        self.relay.as_deref().map(|relay| relay.config)
    }

    /// A PING has come: whoever asks a relay is registered with it (A26), if it is who it says, and where it says (D40).
    /// True: the answer waits for the proof of that place, so that it says that its sender is registered.
    pub(super) fn handle_registration(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: &Arrival,
        payload: &[u8],
    ) -> bool {
        let Some(relay) = self.relay.as_deref() else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(sender) else {
            return false;
        };
        let in_order = match arrival.session {
            Some(_) => true,
            None => arrival.full_sender && self.config.security.plain != Plain::Deny,
        };
        let ours = relay.config.any_zone || peer.address.zone() == self.own.address.zone();
        if arrival.hop_count > 0 || !in_order || !ours {
            self.counters.relay_refused += 1;
            // Our nodes take an answer to a body of that length for "registered".
            return payload.len() == TOKEN;
        }
        if arrival.proven {
            // Who is not registered shall look for another relay.
            return !self.register(now, sender, arrival) && payload.len() == TOKEN;
        }
        // Ours are all so long; others get their answer at once, and are registered a moment later.
        let token: Option<[u8; TOKEN]> = payload.try_into().ok();
        peer.registers = Some((now, token));
        token.is_some()
    }

    /// A place of a peer was proven: if it has just asked, or was registered elsewhere, it is registered there.
    pub(super) fn register_proven(&mut self, now: Instant, sender: PeerRef, arrival: &Arrival) {
        let Some(relay) = self.relay.as_deref() else {
            return;
        };
        let Some(peer) = self.peers.get(sender) else {
            return;
        };
        let asked = peer.registers.filter(|(at, _)| now < *at + PROOF_WITHIN);
        if asked.is_some()
            || relay
                .registry
                .knows(now, &peer.address, arrival.sender_peer)
        {
            let registered = self.register(now, sender, arrival);
            if let Some((_, Some(token))) = asked.filter(|_| registered) {
                self.reply(now, sender, arrival, &Message::Pong(&token));
            }
        }
    }

    /// False: there is no room.
    fn register(&mut self, now: Instant, sender: PeerRef, arrival: &Arrival) -> bool {
        let (Some(relay), Some(peer)) = (self.relay.as_deref_mut(), self.peers.get_mut(sender))
        else {
            return false;
        };
        peer.registers = None;
        let (at, source) = (arrival.way.reply_to(), arrival.way.from.ip());
        let result = relay
            .registry
            .register(now, &peer.address, arrival.sender_peer, at, source);
        match result {
            Ok(new) => {
                self.counters.relay_registrations += u64::from(new);
                self.timers
                    .set(Timer::Relay, now + SWEEP_EVERY, "registrations");
                return true;
            }
            Err(NotRegistered::Full) => self.counters.relay_full += 1,
            Err(NotRegistered::Source) => self.counters.relay_full_source += 1,
            Err(NotRegistered::SameId) => self.counters.relay_same_id += 1,
        }
        false
    }

    /// Whether the peer that sent this is registered here: it may ask for a NETID at another place of its own (D25).
    pub(super) fn is_registered(&self, now: Instant, sender: PeerRef, digit: PeerId) -> bool {
        let (Some(relay), Some(peer)) = (self.relay.as_deref(), self.peers.get(sender)) else {
            return false;
        };
        relay.registry.knows(now, &peer.address, digit)
    }

    /// The full address behind a synthetic one, if it is registered here: relays answer WHOIS for their peers (DESIGN §5).
    pub(super) fn registered_address(
        &self,
        now: Instant,
        ipv6: &std::net::Ipv6Addr,
    ) -> Option<Address> {
        self.relay.as_deref()?.registry.address_of(now, ipv6)
    }

    pub(super) fn handle_relay_timer(&mut self, now: Instant) {
        let Some(relay) = self.relay.as_deref_mut() else {
            return;
        };
        relay.registry.sweep(now);
        self.counters.relay_expired = relay.registry.expired;
        if relay.registry.len() > 0 {
            self.timers
                .set(Timer::Relay, now + SWEEP_EVERY, "registrations");
        }
    }
}

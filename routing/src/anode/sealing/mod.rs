//! Sealed sessions at the node: packets find their session, and what the sessions say becomes peers, paths and packets
//! (Q10 to Q12, Q17, Q22 to Q29).
//!
//! `Sessions` knows pairs and keys, no addresses of the underlay. Here a pair meets its paths:
//!
//! - HELLO goes to every endpoint where the peer may be, together with EPC_REQ (Q27); what answers is nominated.
//! - A nominated endpoint gets three times what came from it until an EPC inside the session has proven it (Q25).
//! - A new session has plain proofs repeated, wakes what waited, and from then on the peer's plain packets are not heard.
//!
//! | file | what is in it |
//! |---|---|
//! | `inbound` | packets and events of the sessions |
//! | `outbound` | HELLOs to places, messages into queues |
//! | `places` | destinations as the sessions keep them |
//! | `program` | what the program asks of sessions: trust, records, JOINs |
mod inbound;
mod outbound;
mod places;
mod program;

pub(super) use outbound::{payload_len, sealed_len};

use super::peer::{Peer, Speech, Standing, Tunnel};
use super::peers::PeerRef;
use super::{Node, Timer};
use crate::overlay::{Failure, StreamId};
use anode_wire::sealed::{Now, Pair, PeerKey, Plain, Reason, Started, Timestamp};
use anode_wire::{Address, PeerId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The clocks may drift apart this far between two readings (Q17).
const CLOCK_JUMP: Duration = Duration::from_secs(5);
/// A stream that nothing wakes looks again after this time.
const UNBLOCK_AFTER: Duration = Duration::from_millis(250);
/// A peer that only knows the draft is offered a session again after this time.
const OFFER_AGAIN: Duration = Duration::from_secs(300);

/// What the node keeps for its sessions.
pub(super) struct Sealing {
    /// The last reading of both clocks.
    read: Now,
    /// Whose session it is; rebuilt when it has grown over the bound.
    known: HashMap<PeerKey, (PeerRef, PeerId), foldhash::fast::RandomState>,
    /// The program was told that there is something to be kept.
    persist_told: bool,
}

impl Sealing {
    pub fn new(now: Now) -> Self {
        Self {
            read: now,
            known: HashMap::default(),
            persist_told: false,
        }
    }

    /// Both clocks, the wall clock as it goes on from its last reading.
    pub fn clock(&self, at: Instant) -> Now {
        if at == self.read.at {
            return self.read;
        }
        let passed = at.saturating_duration_since(self.read.at).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        Now {
            at,
            wall: Timestamp(self.read.wall.0.saturating_add(passed)),
        }
    }
}

/// How programs' bytes go to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Channel {
    Sealed(PeerKey),
    Plain,
}

/// Which queue a message waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Control,
    Datagrams,
}

impl Node {
    /// Whether both clocks were read for this moment.
    pub fn has_clock_of(&self, at: Instant) -> bool {
        self.sealing.read.at == at
    }

    /// A reading of both clocks, at least once a second while packets flow. If they have jumped apart, the machine slept,
    /// was set, or is a copy of another: all sessions are dropped before anything more is sealed (Q17).
    pub fn set_clock(&mut self, now: Now) {
        let expected = self.sealing.clock(now.at).wall;
        let jump = Duration::from_micros(expected.0.abs_diff(now.wall.0));
        self.sealing.read = now;
        if jump > CLOCK_JUMP {
            self.counters.clock_jumps += 1;
            self.sessions.drop_all();
            self.settle_sessions(now.at);
            self.start_again(now.at);
        }
    }

    /// Whoever slept has been forgotten by its NAT, and may be elsewhere; and its peers go on in sessions that it has dropped:
    /// those that it was talking to hear of it, before they wonder.
    fn start_again(&mut self, now: Instant) {
        let peers = self.peers.iter();
        let talking = peers.filter(|(_, peer)| peer.streams > 0 || peer.is_in_use(now));
        let talking: Vec<_> = talking.map(|(_, peer)| peer.ipv6).collect();
        self.moved(now);
        for target in talking {
            self.start_contact(now, target, PeerId::ANY);
        }
    }

    /// How bytes go to this peer of the address now; `None`: they wait for a session.
    pub(in crate::anode) fn channel(&self, found: PeerRef, digit: PeerId) -> Option<Channel> {
        if self.config.security.plain == Plain::Only {
            return Some(Channel::Plain);
        }
        let peer = self.peers.get(found)?;
        if let Some(tunnel) = peer.tunnel(digit) {
            return Some(Channel::Sealed(tunnel.key));
        }
        let draft = self.config.security.plain == Plain::Allow && peer.speech != Speech::Unknown;
        draft.then_some(Channel::Plain)
    }

    /// Whether a relay of the zone is spoken to in plain: a hint that we are there, and nothing of any program.
    pub(in crate::anode) fn is_draft_relay(&self, found: PeerRef) -> bool {
        self.peers.get(found).is_some_and(|peer| {
            peer.sources.zone && peer.speech != Speech::Unknown && peer.has_proven_path()
        })
    }

    /// Whether a message of `body` bytes can go to this peer at once.
    pub(in crate::anode) fn can_carry(&self, found: PeerRef, digit: PeerId, body: usize) -> bool {
        let Some(route) = self.peers.get(found).and_then(|peer| peer.route(digit)) else {
            return false;
        };
        match self.channel(found, digit) {
            Some(Channel::Sealed(_)) => route.affords(sealed_len(body, route.max_packet)),
            Some(Channel::Plain) => route.credit.is_none(),
            None => false,
        }
    }

    /// Starts a handshake if there is none, and no session.
    pub(in crate::anode) fn want_session(&mut self, now: Instant, found: PeerRef, digit: PeerId) {
        if self.config.security.plain == Plain::Only {
            return;
        }
        let Some(address) = self.peers.get(found).map(|peer| peer.address) else {
            return;
        };
        let pair = Pair {
            address,
            peer: digit,
        };
        let clock = self.sealing.clock(now);
        if self.sessions.start(clock, pair, Reason::Traffic) == Started::Up {
            self.adopt_sessions(found, &address);
        }
        self.settle_sessions(now);
    }

    /// A peer that speaks the draft is offered a session now and then.
    pub(in crate::anode) fn offer_session(&mut self, now: Instant, found: PeerRef, digit: PeerId) {
        if let Some(Peer {
            speech: Speech::Draft { try_again },
            ..
        }) = self.peers.get_mut(found)
            && *try_again <= now
        {
            *try_again = now + OFFER_AGAIN;
            self.want_session(now, found, digit);
        }
    }

    /// The peer answers, and never with a WELCOME: where the operator allows it, and it was never seen sealed, the draft
    /// is spoken with it (Q23). True if so.
    pub(in crate::anode) fn speak_draft(&mut self, now: Instant, found: PeerRef) -> bool {
        let Some(peer) = self.peers.get_mut(found) else {
            return false;
        };
        // A relay that only knows the draft is registered with, whatever the policy: what is passed on is sealed all the same.
        if self.config.security.plain != Plain::Allow && !peer.sources.zone {
            return false;
        }
        if peer.is_sealed() || self.sessions.was_sealed(&peer.address) {
            return false;
        }
        if peer.speech == Speech::Unknown {
            let try_again = now + OFFER_AGAIN;
            peer.speech = Speech::Draft { try_again };
        }
        true
    }

    /// The session seals nothing more: another is wanted (Q16).
    pub(in crate::anode) fn lose_tunnel(
        &mut self,
        now: Instant,
        found: PeerRef,
        key: PeerKey,
    ) -> Failure {
        if let Some(peer) = self.peers.get_mut(found) {
            peer.tunnels.retain(|tunnel| tunnel.key != key);
        }
        let digit = self
            .sessions
            .pair(key)
            .map_or(PeerId::ANY, |pair| pair.peer);
        self.want_session(now, found, digit);
        Failure::Busy
    }

    /// A stream has no session to be sealed in, or nowhere to go: it comes again after a while, or when something has changed.
    pub(in crate::anode) fn block_stream(&mut self, now: Instant, found: PeerRef, id: StreamId) {
        if let Some(peer) = self.peers.get_mut(found) {
            peer.has_blocked_streams = true;
        }
        self.timers.set(
            Timer::Stream(id),
            now + UNBLOCK_AFTER,
            "stream without a session",
        );
    }

    /// Takes sessions into use that the peer's entry does not know: it was forgotten and is here again.
    pub(super) fn adopt_sessions(&mut self, found: PeerRef, address: &Address) {
        for digit in (0..16).filter_map(PeerId::new) {
            let pair = Pair {
                address: *address,
                peer: digit,
            };
            if let Some(key) = self.sessions.lookup(&pair) {
                self.adopt_session(found, digit, key);
            }
        }
    }

    pub(super) fn adopt_session(&mut self, found: PeerRef, digit: PeerId, key: PeerKey) {
        if let Some(up) = self.sessions.state(key)
            && let Some(peer) = self.peers.get_mut(found)
        {
            peer.add_tunnel(Tunnel {
                digit,
                key,
                pq: up.pq,
            });
            self.sealing.known.insert(key, (found, digit));
        }
    }

    /// Whose key it is. A peer that had to leave the table gets a new place: it has just proven itself.
    pub(super) fn peer_of(&mut self, now: Instant, key: PeerKey) -> Option<(PeerRef, PeerId)> {
        if let Some((found, digit)) = self.sealing.known.get(&key).copied()
            && self.peers.get(found).is_some()
        {
            return Some((found, digit));
        }
        let pair = self.sessions.pair(key)?;
        let found = self.learn_peer(now, pair.address, Standing::Met)?;
        if let Some(peer) = self.peers.get_mut(found) {
            peer.sources.peer = true;
        }
        if self.sealing.known.len() >= 2 * self.sessions.config().limits.peers {
            self.sealing.known.clear();
        }
        self.sealing.known.insert(key, (found, pair.peer));
        self.adopt_session(found, pair.peer, key);
        Some((found, pair.peer))
    }
}

//! From an IPv6 address to a peer that answers: the lookup, the first proof of a path, and what waits for them.
//!
//! All that a program sends to one destination shares one search. It ends with a proven path, or with one failure for
//! everything that waited; failures are remembered for a moment, so that a program that insists costs nothing (S23).
use super::datagram::Held;
use super::peers::PeerRef;
use super::{Node, Timer};
use crate::overlay::{Failure, OverlayEvent, StreamId};
use anode_wire::PeerId;
use anode_wire::address::{is_synthetic, split_digit};
use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A lookup nobody answers ends after this time.
const LOOKUP_FOR: Duration = Duration::from_secs(3);
/// A known peer none of whose candidates answers is unreachable after this time.
const CONTACT_FOR: Duration = Duration::from_secs(5);
/// A question to the peers is repeated.
const WHOIS_EVERY: Duration = Duration::from_secs(1);
/// Failures are repeated to programs without a new search for this time.
const REMEMBER_FAILURE: Duration = Duration::from_secs(2);
/// Streams that wait for one destination.
const MAX_WAITING_STREAMS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nobody has told us the address that belongs to this IPv6.
    Lookup { next_question: Instant },
    /// The address is known; its endpoints are being asked.
    Contact,
}

struct Contact {
    phase: Phase,
    started: Instant,
    held: Vec<Held>,
    held_bytes: usize,
    streams: Vec<StreamId>,
}

impl Contact {
    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Lookup { next_question } => next_question.min(self.started + LOOKUP_FOR),
            Phase::Contact => self.started + CONTACT_FOR,
        }
    }
}

/// All searches under way, and the failures just reported.
#[derive(Default)]
pub(super) struct Contacts {
    open: HashMap<Ipv6Addr, Contact>,
    failed: VecDeque<(Instant, Ipv6Addr, Failure)>,
}

impl Contacts {
    pub fn is_looking_for(&self, target: &Ipv6Addr) -> bool {
        self.open
            .get(target)
            .is_some_and(|contact| matches!(contact.phase, Phase::Lookup { .. }))
    }

    /// Lookups under way.
    pub fn lookups(&self) -> usize {
        self.open
            .values()
            .filter(|contact| matches!(contact.phase, Phase::Lookup { .. }))
            .count()
    }

    pub fn is_open(&self, target: &Ipv6Addr) -> bool {
        self.open.contains_key(target)
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// The failure that this destination's last search ended with, if that was just now.
    pub fn recent_failure(&self, now: Instant, target: &Ipv6Addr) -> Option<Failure> {
        let is_recent = |at: &Instant| now.duration_since(*at) < REMEMBER_FAILURE;
        self.failed
            .iter()
            .rev()
            .find(|(at, failed, _)| failed == target && is_recent(at))
            .map(|(.., failure)| *failure)
    }
}

/// Where a destination stands.
pub(super) enum Reach {
    /// A path is proven.
    Ready(PeerRef),
    /// A search is under way under this key.
    Waiting(Ipv6Addr),
}

impl Node {
    /// Finds the way to a synthetic address, or starts to look for it.
    pub(super) fn reach(&mut self, now: Instant, to: Ipv6Addr) -> Result<Reach, Failure> {
        let (target, _) = split_digit(to);
        if !is_synthetic(to) || target == self.own.ipv6 {
            return Err(Failure::NoSuchPeer);
        }
        if let Some(found) = self.peers.find_ipv6(&target)
            && self
                .peers
                .get(found)
                .is_some_and(|peer| peer.has_proven_path())
        {
            return Ok(Reach::Ready(found));
        }
        if self.contacts.is_open(&target) {
            return Ok(Reach::Waiting(target));
        }
        if let Some(failure) = self.contacts.recent_failure(now, &target) {
            return Err(failure);
        }
        if self.contacts.len() >= self.config.limits.contacts {
            return Err(Failure::Busy);
        }
        self.start_contact(now, target);
        Ok(Reach::Waiting(target))
    }

    /// Starts a search if none is under way.
    pub(super) fn start_contact(&mut self, now: Instant, target: Ipv6Addr) {
        if self.contacts.is_open(&target) || self.contacts.len() >= self.config.limits.contacts {
            return;
        }
        let known = self.peers.find_ipv6(&target);
        let phase = if known.is_some() {
            Phase::Contact
        } else {
            Phase::Lookup { next_question: now }
        };
        let contact = Contact {
            phase,
            started: now,
            held: Vec::new(),
            held_bytes: 0,
            streams: Vec::new(),
        };
        self.timers
            .set(Timer::Contact(target), contact.deadline(), "contact");
        self.contacts.open.insert(target, contact);
        match known {
            Some(peer) => self.probe_if_wanted(now, peer),
            None => self.handle_contact_timer(now, target),
        }
    }

    /// Has the candidates of a peer asked if something waits for it.
    pub(super) fn probe_if_wanted(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let ipv6 = peer.ipv6;
        self.contacts
            .failed
            .retain(|(_, target, _)| *target != ipv6);
        if !self.contacts.is_open(&ipv6) {
            return;
        }
        peer.note_use(now, false);
        for path in &mut peer.paths {
            if path.deadline(true).is_none() {
                path.probe(now);
            }
        }
        self.contact_known(now, found, ipv6);
        self.handle_peer_timer(now, found);
    }

    /// The address of a destination has become known: from now on its endpoints are asked.
    pub(super) fn contact_known(&mut self, now: Instant, found: PeerRef, ipv6: Ipv6Addr) {
        let Some(contact) = self.contacts.open.get_mut(&ipv6) else {
            return;
        };
        if matches!(contact.phase, Phase::Lookup { .. }) {
            contact.phase = Phase::Contact;
            contact.started = now;
            self.timers
                .set(Timer::Contact(ipv6), contact.deadline(), "contact");
            self.probe_if_wanted(now, found);
        }
    }

    pub(super) fn handle_contact_timer(&mut self, now: Instant, target: Ipv6Addr) {
        let Some(contact) = self.contacts.open.get_mut(&target) else {
            return;
        };
        let over = match contact.phase {
            Phase::Lookup { .. } => now >= contact.started + LOOKUP_FOR,
            Phase::Contact => now >= contact.started + CONTACT_FOR,
        };
        if over {
            let failure = if contact.phase == Phase::Contact {
                Failure::Unreachable
            } else {
                Failure::NoSuchPeer
            };
            return self.fail_contact(now, target, failure);
        }
        if let Phase::Lookup { next_question } = &mut contact.phase
            && *next_question <= now
        {
            *next_question = now + WHOIS_EVERY;
            self.send_whois(now, target);
        }
        if let Some(contact) = self.contacts.open.get(&target) {
            self.timers
                .set(Timer::Contact(target), contact.deadline(), "contact");
        }
    }

    /// A path is proven: what waited goes out.
    pub(super) fn contact_made(&mut self, now: Instant, found: PeerRef) {
        let Some(ipv6) = self.peers.get(found).map(|peer| peer.ipv6) else {
            return;
        };
        self.contacts
            .failed
            .retain(|(_, target, _)| *target != ipv6);
        self.wake_streams_of(found);
        let Some(contact) = self.contacts.open.remove(&ipv6) else {
            return;
        };
        self.timers.cancel(Timer::Contact(ipv6));
        for held in contact.held {
            self.send_held(now, found, ipv6, held);
        }
        for stream in contact.streams {
            self.start_stream(now, stream, found);
        }
    }

    /// The search is over without success: everybody who waited is told once.
    pub(super) fn fail_contact(&mut self, now: Instant, target: Ipv6Addr, failure: Failure) {
        let Some(contact) = self.contacts.open.remove(&target) else {
            return;
        };
        self.timers.cancel(Timer::Contact(target));
        if self.contacts.failed.len() >= self.config.limits.contacts {
            self.contacts.failed.pop_front();
        }
        self.contacts.failed.push_back((now, target, failure));
        let mut told = Vec::new();
        for held in contact.held {
            self.counters.dropped_held += 1;
            match held {
                Held::Ping { token, .. } => self.event(OverlayEvent::PingFailed { token, failure }),
                Held::Datagram { digit, .. } | Held::Other { digit, .. } => {
                    let to = with_digit(target, digit);
                    if !told.contains(&to) {
                        told.push(to);
                        self.event(OverlayEvent::Undeliverable { to, failure });
                    }
                }
            }
        }
        for stream in contact.streams {
            self.fail_stream(stream, failure);
        }
        if let Some(found) = self.peers.find_ipv6(&target) {
            self.fail_pings_of(found, failure);
            self.fail_opening_streams_of(now, found, failure);
        }
    }

    /// Keeps a packet for a destination that is being searched.
    pub(super) fn hold(&mut self, target: Ipv6Addr, held: Held) -> Result<(), Failure> {
        let limits = &self.config.limits;
        let contact = self
            .contacts
            .open
            .get_mut(&target)
            .ok_or(Failure::Unreachable)?;
        let len = held.len();
        if contact.held.len() >= limits.held_packets || contact.held_bytes + len > limits.held_bytes
        {
            self.counters.dropped_held += 1;
            return Err(Failure::Busy);
        }
        contact.held_bytes += len;
        contact.held.push(held);
        Ok(())
    }

    /// Has a stream wait for its destination.
    pub(super) fn hold_stream(
        &mut self,
        target: Ipv6Addr,
        stream: StreamId,
    ) -> Result<(), Failure> {
        let contact = self
            .contacts
            .open
            .get_mut(&target)
            .ok_or(Failure::Unreachable)?;
        if contact.streams.len() >= MAX_WAITING_STREAMS {
            return Err(Failure::Busy);
        }
        contact.streams.push(stream);
        Ok(())
    }

    /// A stream that waited was given up.
    pub(super) fn forget_waiting(&mut self, target: Ipv6Addr, stream: StreamId) {
        if let Some(contact) = self.contacts.open.get_mut(&target) {
            contact.streams.retain(|other| *other != stream);
        }
    }
}

/// The same address with another peer digit.
pub(super) fn with_digit(base: Ipv6Addr, digit: PeerId) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(base) & !0xf | u128::from(digit.get()))
}

//! From an IPv6 address to a peer that answers: the lookup, the first path and session, and what waits for them.
//!
//! All that a program sends to one destination shares one search. It ends with a session (in plain: a proven path), or with one failure for
//! everything that waited; failures are remembered for a moment, so that a program that insists costs nothing (S23).
use super::datagram::Held;
use super::peer::Peer;
use super::peers::PeerRef;
use super::sealing::Channel;
use super::{Node, Plain, Timer};
use crate::overlay::{Failure, OverlayEvent, StreamId};
use anode_wire::PeerId;
use anode_wire::address::{is_synthetic, split_digit};
use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A lookup nobody answers ends after this time.
const LOOKUP_FOR: Duration = Duration::from_secs(3);
/// The same where a DHT is asked, too (reload.md §3: 5 s for both copies of a record).
const LOOKUP_WITH_DHT_FOR: Duration = Duration::from_secs(6);
/// A known peer that has not answered by then is looked for in the DHT, too: it may be elsewhere.
const FIND_AFTER: Duration = Duration::from_millis(400);
/// A known peer none of whose candidates answers is unreachable after this time. One that answers other questions and none
/// of four HELLOs (Q9) does not seal.
const CONTACT_FOR: Duration = Duration::from_secs(5);
/// It has answered a HELLO: the rest may take this long on a bad line.
const HANDSHAKE_FOR: Duration = Duration::from_secs(15);
/// Where the policy allows it, and with relays, a peer that answers nothing but plain questions for so long is spoken to in
/// plain.
const PLAIN_AFTER: Duration = Duration::from_secs(3);
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
    /// The peers of this address that are wanted, at most 16.
    digits: Vec<PeerId>,
    /// The DHT has been asked.
    wanted: bool,
    /// It has given places after the search had begun.
    extended: bool,
    /// How long nobody may know the address.
    lookup_for: Duration,
}

impl Contact {
    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Lookup { next_question } => next_question.min(self.started + self.lookup_for),
            Phase::Contact if !self.wanted => self.started + FIND_AFTER,
            Phase::Contact => self.started + PLAIN_AFTER,
        }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.streams.is_empty()
    }
}

/// All searches under way, and the failures just reported.
#[derive(Default)]
pub(super) struct Contacts {
    open: HashMap<Ipv6Addr, Contact>,
    /// Bytes that wait in all of them.
    held_bytes: usize,
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

    /// What is being searched.
    pub fn targets(&self) -> Vec<Ipv6Addr> {
        self.open.keys().copied().collect()
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
    /// It can be sent to at once.
    Ready(PeerRef),
    /// A search is under way under this key.
    Waiting(Ipv6Addr),
}

impl Node {
    /// Finds the way to a synthetic address for a message of `body` bytes, or starts to look for it.
    pub(super) fn reach(
        &mut self,
        now: Instant,
        to: Ipv6Addr,
        body: usize,
    ) -> Result<Reach, Failure> {
        let (target, digit) = split_digit(to);
        if !is_synthetic(to) || target == self.own.ipv6 {
            return Err(Failure::NoSuchPeer);
        }
        let known = self.peers.find_ipv6(&target);
        // What came first goes first.
        let behind = self.contacts.open.get(&target);
        if let Some(found) = known
            && behind.is_none_or(|contact| contact.held.is_empty())
            && self.can_carry(found, digit, body)
        {
            if self.channel(found, digit) == Some(Channel::Plain) {
                self.offer_session(now, found, digit);
            }
            return Ok(Reach::Ready(found));
        }
        if let Some(contact) = self.contacts.open.get_mut(&target) {
            if !contact.digits.contains(&digit) {
                contact.digits.push(digit);
                if let Some(found) = known {
                    self.want_session(now, found, digit);
                }
            }
            return Ok(Reach::Waiting(target));
        }
        if let Some(failure) = self.contacts.recent_failure(now, &target) {
            return Err(failure);
        }
        if self.contacts.len() >= self.config.limits.contacts {
            return Err(Failure::Busy);
        }
        self.start_contact(now, target, digit);
        Ok(Reach::Waiting(target))
    }

    /// Starts a search if none is under way.
    pub(super) fn start_contact(&mut self, now: Instant, target: Ipv6Addr, digit: PeerId) {
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
            digits: vec![digit],
            wanted: !self.in_dht,
            extended: false,
            lookup_for: match self.in_dht {
                true => LOOKUP_WITH_DHT_FOR,
                false => LOOKUP_FOR,
            },
        };
        self.timers
            .set(Timer::Contact(target), contact.deadline(), "contact");
        self.contacts.open.insert(target, contact);
        match known {
            Some(peer) => {
                self.want(now, peer);
                self.probe_if_wanted(now, peer);
            }
            None => {
                self.ask_dht(target);
                self.handle_contact_timer(now, target);
            }
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
        self.add_relay_paths(now, found);
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let stale = peer.is_stale(now);
        peer.probe_paths(now, false);
        if stale {
            peer.paths.iter_mut().for_each(|path| path.check(now));
        }
        self.contact_known(now, found, ipv6);
        let digits = self.contacts.open.get(&ipv6).map(|c| c.digits.clone());
        for digit in digits.unwrap_or_default() {
            // Before the questions are sent: a HELLO goes along with each.
            self.want_session(now, found, digit);
        }
        self.greet_again(now, found);
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
        if contact.phase == Phase::Contact {
            return self.judge_contact(now, target);
        }
        if now >= contact.started + contact.lookup_for {
            return self.fail_contact(now, target, Failure::NoSuchPeer);
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

    /// How long a known peer is tried, and what its silence means then.
    fn judge_contact(&mut self, now: Instant, target: Ipv6Addr) {
        let Some(contact) = self.contacts.open.get(&target) else {
            return;
        };
        let started = contact.started;
        if now < started + PLAIN_AFTER {
            self.ask_dht(target);
            let next = started + PLAIN_AFTER;
            return self.timers.set(Timer::Contact(target), next, "contact");
        }
        let peer = self.peers.find_ipv6(&target);
        let peer = peer.and_then(|found| Some((found, self.peers.get(found)?)));
        let Some((found, peer)) = peer else {
            return self.fail_contact(now, target, Failure::Unreachable);
        };
        let since = |at: Option<Instant>| at.is_some_and(|at| at >= started);
        let plain_only = self.config.security.plain == Plain::Only;
        let heard = since(peer.last_heard);
        let (patience, failure) = if plain_only || !heard {
            (CONTACT_FOR, Failure::Unreachable)
        } else if since(peer.answered) || peer.is_sealed() {
            (HANDSHAKE_FOR, Failure::Unreachable)
        } else {
            (CONTACT_FOR, Failure::Policy)
        };
        let may_be_plain = self.config.security.plain == Plain::Allow || peer.sources.zone;
        if !heard && let Some(peer) = self.peers.get_mut(found) {
            // Its paths were good, so that nobody asked. Is it gone, or does it only not seal?
            peer.paths.iter_mut().for_each(|path| path.check(now));
            self.handle_peer_timer(now, found);
        }
        if may_be_plain && now >= started + PLAIN_AFTER {
            self.contact_made(now, found);
            if !self.contacts.is_open(&target) {
                return;
            }
        }
        if now >= started + patience {
            return self.fail_contact(now, target, failure);
        }
        let steps = [PLAIN_AFTER, CONTACT_FOR, HANDSHAKE_FOR];
        let next = steps.into_iter().map(|step| started + step);
        if let Some(next) = next.filter(|at| *at > now).min() {
            self.timers.set(Timer::Contact(target), next, "contact");
        }
    }

    /// Has the DHT asked, once for each search.
    fn ask_dht(&mut self, target: Ipv6Addr) {
        if let Some(contact) = self.contacts.open.get_mut(&target)
            && !std::mem::replace(&mut contact.wanted, true)
        {
            self.event(OverlayEvent::Wanted { target });
        }
    }

    /// New places of a peer have become known: whoever waits for it waits for them, too.
    pub(super) fn wait_longer(&mut self, now: Instant, target: Ipv6Addr) {
        if let Some(contact) = self.contacts.open.get_mut(&target)
            && contact.phase == Phase::Contact
            && !contact.extended
        {
            contact.extended = true;
            contact.started = now;
            self.timers
                .set(Timer::Contact(target), contact.deadline(), "contact");
        }
    }

    /// A path is proven or a session is there: what can go goes out.
    pub(super) fn contact_made(&mut self, now: Instant, found: PeerRef) {
        let Some(ipv6) = self.peers.get(found).map(|peer| peer.ipv6) else {
            return;
        };
        self.contacts
            .failed
            .retain(|(_, target, _)| *target != ipv6);
        let waited = |contact: &Contact| now >= contact.started + PLAIN_AFTER;
        let waited_for_seal = self.contacts.open.get(&ipv6).is_some_and(waited);
        let proven = |peer: &Peer| peer.has_proven_path();
        if waited_for_seal && self.peers.get(found).is_some_and(proven) {
            self.speak_draft(now, found);
        }
        self.wake_streams_of(found);
        self.relay_reached(now, found);
        let Some(contact) = self.contacts.open.get_mut(&ipv6) else {
            return;
        };
        let held = std::mem::take(&mut contact.held);
        let streams = std::mem::take(&mut contact.streams);
        let digits = contact.digits.clone();
        self.contacts.held_bytes -= std::mem::take(&mut contact.held_bytes);
        for stream in streams {
            match self.can_start(found, stream) {
                true => self.start_stream(now, stream, found),
                false => drop(self.hold_stream(ipv6, stream)),
            }
        }
        let mut going = true;
        for held in held {
            // In their order: what does not go keeps back what follows.
            going &= self.can_carry(found, held.digit(), held.body_len());
            match going {
                true => self.send_held(now, found, ipv6, held),
                false => self.put_back(ipv6, held),
            }
        }
        let reached = digits
            .into_iter()
            .any(|digit| self.can_carry(found, digit, 0));
        if reached && self.contacts.open.get(&ipv6).is_some_and(Contact::is_empty) {
            self.contacts.open.remove(&ipv6);
            self.timers.cancel(Timer::Contact(ipv6));
        }
    }

    /// The search is over without success: everybody who waited is told once.
    pub(super) fn fail_contact(&mut self, now: Instant, target: Ipv6Addr, failure: Failure) {
        let Some(contact) = self.contacts.open.remove(&target) else {
            return;
        };
        self.timers.cancel(Timer::Contact(target));
        self.contacts.held_bytes -= contact.held_bytes;
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
        let len = held.cost();
        if contact.held.len() >= limits.held_packets
            || contact.held_bytes + len > limits.held_bytes
            || self.contacts.held_bytes + len > limits.held_bytes_in_all
        {
            self.counters.dropped_held += 1;
            return Err(Failure::Busy);
        }
        contact.held_bytes += len;
        self.contacts.held_bytes += len;
        contact.held.push(held);
        Ok(())
    }

    /// Keeps what was kept before.
    fn put_back(&mut self, target: Ipv6Addr, held: Held) {
        if let Some(contact) = self.contacts.open.get_mut(&target) {
            contact.held_bytes += held.cost();
            self.contacts.held_bytes += held.cost();
            contact.held.push(held);
        }
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

//! How endpoints and addresses are learned: EPC proves, EPI hints, NETID mirrors, WHOIS asks (Anode 0.8 §4.2.4 to §4.2.8, DESIGN §5).
use super::path::{Origin, Spot, Through, is_dialable};
use super::peer::Standing;
use super::peers::PeerRef;
use super::receive::Arrival;
use super::turn::TURN_MODE;
use super::{Destination, Node, Place, Plain, Sender};
use anode_wire::message::iam_capacity;
use anode_wire::sealed::{SEALED_BODY, SEALED_TAIL};
use anode_wire::{Address, Endpoint, Message, PeerId};
use rand_core::Rng as _;
use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// An EPC_REQ is answered within this time or not at all (D24).
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an EPC_REQ inside a session.
const SEALED_CHECK: usize = SEALED_BODY + 4 + SEALED_TAIL;
/// Peers that one lookup asks.
const WHOIS_PEERS: usize = 16;

/// EPC_REQs that wait for their EPC.
#[derive(Default)]
pub(super) struct Checks {
    open: HashMap<u32, Check>,
    order: VecDeque<(Instant, u32)>,
}

/// A place where a peer may be that is no path yet, for all that is known.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub to: Place,
    pub socket: usize,
}

struct Check {
    peer: PeerRef,
    spot: Spot,
    /// An answer makes a path of the place, of this origin; `None`: it is one.
    candidate: Option<Origin>,
    sent: Instant,
    /// It was sent inside a session: only then is its answer a proof for traffic (Q25).
    sealed: bool,
}

impl Checks {
    fn expire(&mut self, now: Instant) {
        while let Some((sent, id)) = self.order.front().copied() {
            if now.duration_since(sent) < CHECK_TIMEOUT {
                return;
            }
            self.order.pop_front();
            self.open.remove(&id);
        }
    }
}

impl Node {
    /// Asks an endpoint whether the peer is there.
    pub(super) fn send_check(&mut self, now: Instant, peer: PeerRef, spot: Spot) {
        let Spot {
            endpoint, socket, ..
        } = spot;
        if !self.reaches(socket, &endpoint) {
            self.counters.refused_endpoints += 1;
            return;
        }
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let sealed = entry.is_sealed();
        // Of the peers that share the address, the one that is there: only its session is known to it.
        let path = entry.paths.iter().find(|path| spot.is_same(path));
        let digit = path.map_or(PeerId::ANY, |path| path.peer_id);
        let digit = entry.tunnel(digit).map_or(PeerId::ANY, |_| digit);
        if sealed
            && entry
                .path_mut(&endpoint)
                .is_some_and(|path| path.origin == Origin::Nominated && !path.affords(SEALED_CHECK))
        {
            self.counters.dropped_unproven += 1;
            return;
        }
        if !sealed && self.config.security.plain != Plain::Only {
            self.greet(now, peer, endpoint, socket);
        }
        let check = Check {
            peer,
            spot,
            candidate: None,
            sent: now,
            sealed,
        };
        self.ask(now, digit, check);
    }

    /// Asks a place that somebody else has named whether the peer is there: nothing goes along, and the place is kept only
    /// if the peer answers (discovery.md §3, Q28).
    pub(super) fn send_candidate_check(
        &mut self,
        now: Instant,
        peer: PeerRef,
        candidate: Candidate,
        origin: Origin,
    ) {
        let Candidate { to, socket } = candidate;
        if !self.reaches(socket, &to) {
            self.counters.refused_endpoints += 1;
            return;
        }
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        let check = Check {
            peer,
            spot: Spot {
                endpoint: to,
                socket,
                through: Through::Direct,
            },
            candidate: Some(origin),
            sent: now,
            sealed: entry.is_sealed(),
        };
        self.ask(now, PeerId::ANY, check);
    }

    fn ask(&mut self, now: Instant, digit: PeerId, check: Check) {
        self.checks.expire(now);
        if self.checks.open.len() >= self.config.limits.checks {
            self.counters.dropped_checks += 1;
            return;
        }
        let mut id = self.rng.next_u32();
        while self.checks.open.contains_key(&id) {
            id = self.rng.next_u32();
        }
        let (peer, spot) = (check.peer, check.spot);
        self.checks.open.insert(id, check);
        self.checks.order.push_back((now, id));
        let destination = Destination {
            to: spot.endpoint,
            socket: spot.socket,
            source: None,
        };
        self.tell_turned(now, peer, destination);
        let question = Message::EpcReq { id };
        self.send_control_to(now, peer, digit, destination, Sender::Full, &question);
    }

    pub(super) fn handle_epc_req(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        id: u32,
    ) {
        let reply = Message::Epc { id };
        if !self.may_reply(now, &arrival, &reply) {
            return;
        }
        if arrival.hop_count == 0 {
            self.reply(now, sender, &arrival, &reply);
            self.asked_over_turn(now, sender, &arrival.way.from);
            return self.ask_back(now, sender, &arrival);
        }
        self.answer_over_relays(now, sender, &arrival, &reply);
    }

    /// An endpoint is learned here and nowhere else (A53).
    pub(super) fn handle_epc(&mut self, now: Instant, sender: PeerRef, arrival: Arrival, id: u32) {
        self.checks.expire(now);
        let from = arrival.way.from;
        let answered = self.checks.open.get(&id).is_some_and(|check| {
            // Over a relay the answer comes back over ours, wherever the question went.
            let in_place = match check.spot.through {
                Through::Direct => check.spot.endpoint == from && arrival.hop_count == 0,
                Through::Relay(_) => true,
            };
            check.peer == sender && in_place && check.sealed == arrival.session.is_some()
        });
        let Some(check) = answered.then(|| self.checks.open.remove(&id)).flatten() else {
            self.counters.epc_unexpected += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(sender) else {
            return;
        };
        let socket = arrival.way.socket;
        if let Some(origin) = check.candidate {
            peer.sources.tracker |= origin == Origin::Tracker;
            peer.add_path(now, from, socket, origin);
        }
        let Some(index) = peer.paths.iter().position(|path| check.spot.is_same(path)) else {
            self.counters.epc_unexpected += 1;
            return;
        };
        let stays = self.peers.get(sender).is_some_and(|peer| {
            let path = &peer.paths[index];
            !path.is_relayed() && !self.moves_over(path, socket, check.sent)
        });
        let path = self.peers.get_mut(sender);
        let path = path.and_then(|peer| peer.paths.get_mut(index));
        let Some(path) = path.filter(|_| !stays) else {
            self.counters.epc_unexpected += 1;
            return;
        };
        let first = !path.is_proven();
        let doubted = first || path.is_suspect();
        path.prove(now, now.duration_since(check.sent));
        path.proven_sealed = check.sealed;
        path.peer_id = arrival.sender_peer;
        let relayed = path.is_relayed();
        let moved = !relayed && path.socket != socket;
        if moved {
            // Of several sockets the one that the answer came through.
            path.socket = socket;
            path.size.doubt();
        }
        if relayed {
            path.hops = arrival.hop_count.max(1);
        }
        if !self.choose_path(now, sender) && doubted {
            // The used one works again, perhaps by another way: streams need not wait for their timers.
            let peer = self.peers.get(sender);
            let used = peer.and_then(|peer| Some((peer.streams, peer.active_path()?)));
            if used.is_some_and(|(streams, path)| streams > 0 && check.spot.is_same(path)) {
                self.resume_streams_of(now, sender);
            }
        }
        let peer = self.peers.get(sender);
        let configured = peer.is_some_and(|peer| peer.standing == Standing::Kept);
        if !relayed {
            self.register_proven(now, sender, &arrival);
            self.follow_relay(now, sender);
            self.candidate_proven(now, sender, &from);
        }
        if moved {
            self.note_way(now, sender, &from, socket);
        }
        if first {
            self.tell_persist();
            self.counters.paths_proven += 1;
            self.contact_made(now, sender);
            // Before a session a proof counts for HELLO only (Q27).
            if configured && !relayed && self.channel(sender, PeerId::ANY).is_some() {
                self.ask_whereabouts(now, sender, &arrival);
            }
        }
        self.schedule_peer(now, sender);
        self.consider_direct(now, sender);
    }

    /// An EPI is a hint: worth an EPC_REQ if we have business with that peer, and if the endpoint may be dialled at all (A54, D16, S16).
    pub(super) fn handle_epi(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        endpoint: Endpoint,
        nat_mode: u8,
    ) {
        let to = match endpoint {
            Endpoint::Unspecified => return,
            Endpoint::Udp(to) => Some(Place::Udp(to)),
            _ => None,
        };
        let turned = nat_mode == TURN_MODE;
        if turned
            && to.is_some_and(|to| self.mark_turned(now, sender, &to))
            && arrival.hop_count == 0
        {
            return;
        }
        let heard = arrival.hop_count == 0 || self.follows_relayed_hints(now, &arrival, sender);
        let acceptable = to.filter(|to| is_dialable(to, false) && heard);
        let Some(to) = acceptable else {
            self.counters.refused_endpoints += 1;
            return;
        };
        let Some(socket) = self.socket_for(&to) else {
            self.counters.refused_endpoints += 1;
            return;
        };
        let limits = &self.config.limits;
        let Some(peer) = self.peers.get_mut(sender) else {
            return;
        };
        let interested = peer.standing == Standing::Kept || peer.is_in_use(now) || peer.streams > 0;
        if !interested || !peer.hints.take(now, limits.hints) {
            self.counters.dropped_hints += 1;
            return;
        }
        if let Some(path) = peer.add_path(now, to, socket, Origin::Hint)
            && !path.is_proven()
        {
            path.probe(now);
        }
        if turned {
            self.mark_turned(now, sender, &to);
        }
        let Some(peer) = self.peers.get_mut(sender) else {
            return;
        };
        if arrival.hop_count > 0 {
            // Somebody wants it to be direct: our side must open, too, and say where it is.
            peer.note_use(now, false);
        }
        self.handle_peer_timer(now, sender);
    }

    /// Asks peers that can be reached who holds a synthetic address.
    pub(super) fn send_whois(&mut self, now: Instant, target: Ipv6Addr) {
        let mut asked: Vec<_> = self
            .peers
            .iter()
            .filter_map(|(found, peer)| {
                Some((
                    peer.standing,
                    peer.last_heard,
                    found,
                    peer.route(PeerId::ANY)?.destination,
                ))
            })
            .collect();
        asked.sort_by_key(|(standing, heard, ..)| std::cmp::Reverse((*standing, *heard)));
        asked.truncate(WHOIS_PEERS);
        let question = Message::Whois {
            prefixes: vec![target],
        };
        for (_, _, peer, destination) in asked {
            self.send_control(now, peer, destination, Sender::Short, &question);
        }
        // Whose zone it is nobody knows: relays that we have no session with are asked in plain.
        for (relay, destination) in self.relays_without_route().into_iter().take(WHOIS_PEERS) {
            self.send_control(now, relay, destination, Sender::Full, &question);
        }
    }

    /// We answer for ourselves only; relays answer for those registered with them.
    pub(super) fn handle_whois(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        prefixes: &[Ipv6Addr],
    ) {
        let address_of = |prefix: &Ipv6Addr| match *prefix == self.own.ipv6 {
            true => Some(self.own.address),
            false => self.registered_address(now, prefix),
        };
        let known = prefixes.iter().filter_map(address_of);
        let known = known.map(|address| *address.as_bytes());
        let addresses: Vec<_> = known.take(iam_capacity(arrival.body_len)).collect();
        if addresses.is_empty() {
            self.counters.dropped_whois += 1;
            return;
        }
        let reply = Message::Iam { addresses };
        if self.may_reply(now, &arrival, &reply) {
            self.reply(now, sender, &arrival, &reply);
        }
    }

    /// Believed only where an address makes exactly the synthetic IPv6 that we are looking for (DESIGN §4).
    pub(super) fn handle_iam(
        &mut self,
        now: Instant,
        sender: PeerRef,
        addresses: &[[u8; Address::LEN]],
    ) {
        // Each check costs 12 µs: no more of them than there are questions.
        let mut checks = self.contacts.lookups();
        for bytes in addresses {
            if checks == 0 {
                self.counters.dropped_iam += 1;
                return;
            }
            checks -= 1;
            let wanted = Address::from_bytes(bytes)
                .ok()
                .filter(|address| self.contacts.is_looking_for(&address.ipv6(PeerId::ANY)));
            let Some(address) = wanted.filter(|address| *address != self.own.address) else {
                self.counters.dropped_iam += 1;
                continue;
            };
            let Some(found) = self.learn_peer(now, address, Standing::Heard) else {
                continue;
            };
            if let Some(peer) = self.peers.get_mut(found) {
                peer.sources.whois |= found != sender;
            }
            let ipv6 = address.ipv6(PeerId::ANY);
            self.contact_known(now, found, ipv6);
        }
    }
}

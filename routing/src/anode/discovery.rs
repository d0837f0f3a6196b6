//! How endpoints and addresses are learned: EPC proves, EPI hints, NETID mirrors, WHOIS asks (Anode 0.8 §4.2.4 to §4.2.8, DESIGN §5).
use super::path::{Origin, is_dialable};
use super::peer::Standing;
use super::peers::PeerRef;
use super::receive::Arrival;
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
/// External endpoints that are remembered.
const MAX_EXTERNAL: usize = 4;
/// Peers that one lookup asks.
const WHOIS_PEERS: usize = 16;

/// EPC_REQs that wait for their EPC.
#[derive(Default)]
pub(super) struct Checks {
    open: HashMap<u32, Check>,
    order: VecDeque<(Instant, u32)>,
    /// The one NETID_REQ that is under way, per id.
    netid: Option<(u32, PeerRef)>,
}

struct Check {
    peer: PeerRef,
    endpoint: Place,
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
    pub(super) fn send_check(
        &mut self,
        now: Instant,
        peer: PeerRef,
        endpoint: Place,
        socket: usize,
    ) {
        if !self.reaches(socket, &endpoint) {
            self.counters.refused_endpoints += 1;
            return;
        }
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let sealed = entry.is_sealed();
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
        self.checks.expire(now);
        if self.checks.open.len() >= self.config.limits.checks {
            self.counters.dropped_checks += 1;
            return;
        }
        let mut id = self.rng.next_u32();
        while self.checks.open.contains_key(&id) {
            id = self.rng.next_u32();
        }
        self.checks.open.insert(
            id,
            Check {
                peer,
                endpoint,
                sent: now,
                sealed,
            },
        );
        self.checks.order.push_back((now, id));
        let destination = Destination {
            to: endpoint,
            socket,
            source: None,
        };
        self.send_control(
            now,
            peer,
            destination,
            Sender::Full,
            &Message::EpcReq { id },
        );
    }

    pub(super) fn handle_epc_req(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        id: u32,
    ) {
        let reply = Message::Epc { id };
        if self.may_reply(now, &arrival, &reply) {
            self.reply(now, sender, &arrival, &reply);
        }
    }

    /// An endpoint is learned here and nowhere else (A53).
    pub(super) fn handle_epc(&mut self, now: Instant, sender: PeerRef, arrival: Arrival, id: u32) {
        self.checks.expire(now);
        let from = arrival.way.from;
        let answered = self.checks.open.get(&id).is_some_and(|check| {
            check.peer == sender
                && check.endpoint == from
                && check.sealed == arrival.session.is_some()
        }) && arrival.hop_count == 0;
        let Some(check) = answered.then(|| self.checks.open.remove(&id)).flatten() else {
            self.counters.epc_unexpected += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(sender) else {
            return;
        };
        let Some(path) = peer.path_mut(&from) else {
            self.counters.epc_unexpected += 1;
            return;
        };
        let first = !path.is_proven();
        path.prove(now, now.duration_since(check.sent));
        path.proven_sealed = check.sealed;
        path.peer_id = arrival.sender_peer;
        let configured = peer.standing == Standing::Kept;
        peer.choose_path(now);
        if first {
            self.tell_persist();
            self.counters.paths_proven += 1;
            self.contact_made(now, sender);
            // Before a session a proof counts for HELLO only (Q27).
            if configured && self.channel(sender, PeerId::ANY).is_some() {
                self.ask_netid(now, sender, &arrival);
            }
        }
        self.schedule_peer(now, sender);
    }

    /// An EPI is a hint: worth an EPC_REQ if we have business with that peer, and if the endpoint may be dialled at all (A54, D16, S16).
    pub(super) fn handle_epi(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        endpoint: Endpoint,
    ) {
        let to = match endpoint {
            Endpoint::Unspecified => return,
            Endpoint::Udp(to) => Some(Place::Udp(to)),
            _ => None,
        };
        let acceptable = to.filter(|to| is_dialable(to, false) && arrival.hop_count == 0);
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
        self.schedule_peer(now, sender);
    }

    /// Asks a peer how it sees us.
    fn ask_netid(&mut self, now: Instant, peer: PeerRef, arrival: &Arrival) {
        let id = self.rng.next_u32();
        self.checks.netid = Some((id, peer));
        self.send_control(
            now,
            peer,
            arrival.way.reply_to(),
            Sender::Full,
            &Message::NetidReq {
                id,
                endpoint: Endpoint::Unspecified,
            },
        );
    }

    /// Answers only towards the address that asked (any port): everything else would make us a reflector (D25, S21).
    pub(super) fn handle_netid_req(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        id: u32,
        endpoint: Endpoint,
    ) {
        let from = arrival.way.from;
        let to = match endpoint {
            Endpoint::Unspecified => Some(from),
            Endpoint::Udp(to) => Some(Place::Udp(to)),
            _ => None,
        };
        let own = |to: &Place| *to == from || to.ip() == from.ip() && is_dialable(to, true);
        let Some(to) = to.filter(own).filter(|_| {
            arrival.hop_count == 0 && self.budgets.netid.take(now, self.config.limits.netid)
        }) else {
            self.counters.dropped_netid += 1;
            return;
        };
        let reply = Message::Netid {
            id,
            endpoint: to.to_endpoint(),
        };
        if self.may_reply(now, &arrival, &reply) {
            let destination = Destination {
                to,
                ..arrival.way.reply_to()
            };
            self.reply_at(now, sender, &arrival, destination, &reply);
        }
    }

    pub(super) fn handle_netid(
        &mut self,
        _now: Instant,
        sender: PeerRef,
        id: u32,
        endpoint: Endpoint,
    ) {
        let Endpoint::Udp(seen) = endpoint else {
            return;
        };
        if self.checks.netid != Some((id, sender)) || !is_dialable(&Place::Udp(seen), true) {
            self.counters.ignored_messages += 1;
            return;
        }
        self.checks.netid = None;
        self.external.retain(|known| *known != seen);
        if self.external.len() >= MAX_EXTERNAL {
            self.external.pop_front();
        }
        self.external.push_back(seen);
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
    }

    /// We answer for ourselves only; relays answer for those registered with them.
    pub(super) fn handle_whois(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        prefixes: &[Ipv6Addr],
    ) {
        if !prefixes.contains(&self.own.ipv6) || iam_capacity(arrival.body_len) == 0 {
            self.counters.dropped_whois += 1;
            return;
        }
        let reply = Message::Iam {
            addresses: vec![*self.own.address.as_bytes()],
        };
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

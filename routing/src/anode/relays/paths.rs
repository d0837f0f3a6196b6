//! Paths over relays: where they come from, what nominates them, and where answers go.
use crate::anode::output::{Destination, Way};
use crate::anode::path::{Origin, Through};
use crate::anode::peers::PeerRef;
use crate::anode::receive::Arrival;
use crate::anode::upkeep::ASK_AGAIN;
use crate::anode::{Node, Place};
use anode_wire::{Address, Message, Packet, Party, PeerId};
use std::time::Instant;

impl Node {
    /// Gives a peer its paths over the relays of its address. Nothing is proven by that: they are asked like any other.
    pub(in crate::anode) fn add_relay_paths(&mut self, now: Instant, found: PeerRef) {
        if self.zone_relays.is_empty() {
            return;
        }
        let Some(address) = self.peers.get(found).map(|peer| peer.address) else {
            return;
        };
        let own = self.own.address;
        let relays: Vec<PeerRef> = self
            .relays_for(address.as_bytes())
            .filter(|relay| relay.address != own)
            .filter_map(|relay| self.peers.find(relay.address.as_bytes()))
            .collect();
        if let Some(peer) = self.peers.get_mut(found) {
            // Those of a former zone file.
            peer.drop_relay_paths_except(now, &relays);
        }
        for relay in relays {
            let Some((place, socket)) = self.place_of_relay(relay) else {
                continue;
            };
            if let Some(peer) = self.peers.get_mut(found) {
                peer.add_relay_path(now, relay, place, socket);
            }
            self.keep_relay(now, relay);
        }
    }

    /// Where a relay is: proven, or the first of the places that the zone names.
    fn place_of_relay(&self, relay: PeerRef) -> Option<(Place, usize)> {
        let peer = self.peers.get(relay)?;
        let path = peer.active_path().or_else(|| {
            let reached = |path: &&crate::anode::path::Path| {
                path.through == Through::Direct && self.reaches(path.socket, &path.endpoint)
            };
            peer.paths.iter().find(reached)
        })?;
        Some((path.endpoint, path.socket))
    }

    /// A relay is needed: if nothing is known of the way to it, it is looked for.
    fn keep_relay(&mut self, now: Instant, relay: PeerRef) {
        let proven = |peer: &crate::anode::peer::Peer| peer.has_proven_path();
        if !self.peers.get(relay).is_some_and(proven) {
            self.contact_relay(now, relay);
        }
    }

    /// The way to a relay has changed: the paths over it go along.
    pub(in crate::anode) fn follow_relay(&mut self, now: Instant, relay: PeerRef) {
        if !self.peers.get(relay).is_some_and(|peer| peer.sources.zone) {
            return;
        }
        let Some((place, socket)) = self.place_of_relay(relay) else {
            return;
        };
        let users: Vec<PeerRef> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.strays_from(relay, &place, socket))
            .map(|(found, _)| found)
            .collect();
        for found in users {
            if let Some(peer) = self.peers.get_mut(found) {
                peer.move_relay_path(relay, place, socket);
            }
            self.schedule_peer(now, found);
        }
    }

    /// Whoever is being looked for is looked for over the relays, too, and once more where that was begun already.
    pub(super) fn use_relays_for_contacts(&mut self, now: Instant) {
        for target in self.contacts.targets() {
            match self.peers.find_ipv6(&target) {
                Some(found) => {
                    self.probe_if_wanted(now, found);
                    self.greet_over_relays(now, found);
                }
                None => self.send_whois(now, target),
            }
        }
    }

    /// Whoever is being looked for, and greeted, is greeted over its relays once more.
    pub(super) fn greet_contacts_over_relays(&mut self, now: Instant) {
        for target in self.contacts.targets() {
            if let Some(found) = self.peers.find_ipv6(&target) {
                self.greet_over_relays(now, found);
            }
        }
    }

    /// The HELLO under way goes over the relays of its recipient once more: the answer to the last one may have been lost.
    fn greet_over_relays(&mut self, now: Instant, found: PeerRef) {
        let peer = self.peers.get_mut(found);
        let Some(peer) = peer.filter(|peer| !peer.is_sealed()) else {
            return;
        };
        let relayed = peer.paths.iter_mut().filter(|path| path.is_relayed());
        let relayed: Vec<_> = relayed
            .map(|path| {
                path.greeted = None;
                (path.endpoint, path.socket)
            })
            .collect();
        for (place, socket) in relayed {
            self.greet(now, found, place, socket);
        }
    }

    /// An authentic packet has come over a relay: the peer can be reached over its own relays, or, where nobody knows them,
    /// over the one that it came through. Never does it name a place where the peer itself would be (A39, Q25).
    pub(in crate::anode) fn nominate_relayed(
        &mut self,
        now: Instant,
        found: PeerRef,
        way: &Way,
        peer_id: PeerId,
        earned: usize,
    ) {
        if !self
            .peers
            .get(found)
            .is_some_and(|peer| peer.has_relay_path())
        {
            self.add_relay_paths(now, found);
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        if let Some(path) = peer.relay_path_mut(&way.from) {
            path.touched = now;
            path.peer_id = peer_id;
            if path.is_proven() && (earned == 0 || path.proven_sealed) {
                return;
            }
            if earned > 0 {
                path.earn(earned);
            }
            if path.asked.is_some_and(|at| now < at + ASK_AGAIN) {
                return;
            }
        }
        if !crate::anode::path::is_dialable(&way.from, true)
            || !peer.nominations.take(now, self.config.limits.nominations)
        {
            self.counters.dropped_nominations += 1;
            return;
        }
        let sealed = peer.is_sealed();
        if !peer.has_relay_path() {
            let Some(path) = peer.add_path(now, way.from, way.socket, Origin::Nominated) else {
                self.counters.dropped_nominations += 1;
                return;
            };
            path.through = Through::Relay(None);
            path.hops = way.hops;
            path.peer_id = peer_id;
            if earned > 0 {
                path.earn(earned);
            }
        }
        if earned > 0 && !sealed {
            // Asked as soon as the session is complete, which its own packets are about.
            return;
        }
        let candidates = peer.paths.iter_mut();
        for path in candidates.filter(|path| path.is_relayed() && !path.is_proven()) {
            path.probe(now);
        }
        self.handle_peer_timer(now, found);
    }

    /// Where an answer goes: the way back, but over the relays of the peer where its packet was relayed.
    pub(in crate::anode) fn answer_to(&self, found: PeerRef, arrival: &Arrival) -> Destination {
        let back = arrival.way.reply_to();
        if arrival.hop_count == 0 {
            return back;
        }
        let peer = self.peers.get(found);
        peer.and_then(|peer| peer.relay_destination(&arrival.way.from))
            .unwrap_or(back)
    }

    /// The answer to a question about a relay path goes over all relays of the asker: the one that we use may be just the one
    /// that is dead, and then our own paths are to be questioned, too.
    pub(in crate::anode) fn answer_over_relays(
        &mut self,
        now: Instant,
        found: PeerRef,
        arrival: &Arrival,
        answer: &Message<'_>,
    ) {
        let peer = self.peers.get(found);
        let over = peer.map(|peer| peer.relay_destinations().collect::<Vec<_>>());
        match over.filter(|over| !over.is_empty()) {
            Some(over) => {
                for destination in over {
                    self.reply_at(now, found, arrival, destination, answer);
                }
            }
            None => self.reply(now, found, arrival, answer),
        }
        if let Some(peer) = self.peers.get_mut(found)
            && peer.question_paths(now, None)
        {
            self.handle_peer_timer(now, found);
        }
    }

    /// A packet of the sessions answers one that was relayed, whose sender may be known by nothing but its address: it goes
    /// back over that sender's relays. The one it came through will do if it is one of them; if none is known, it must do.
    pub(in crate::anode) fn answer_relayed(
        &mut self,
        back: Destination,
        address: &[u8; Address::LEN],
        packet: &[u8],
    ) {
        let relays = self.relays_for(address);
        let known: Vec<Destination> = relays
            .filter_map(|relay| {
                let found = self.peers.find(relay.address.as_bytes());
                let place = found.and_then(|found| self.place_of_relay(found));
                let first = || {
                    let place = relay.endpoints.iter().find_map(Place::from_endpoint)?;
                    Some((place, self.socket_for(&place)?))
                };
                let (to, socket) = place.or_else(first)?;
                Some(Destination {
                    to,
                    socket,
                    source: None,
                })
            })
            .collect();
        if known.is_empty() || known.iter().any(|relay| relay.to == back.to) {
            return self.push_raw(back, packet);
        }
        for relay in known {
            self.push_raw(relay, packet);
        }
    }

    /// Whose packet was relayed, as far as its bytes tell: the sender's full address, or the one known by its short id.
    pub(in crate::anode) fn relayed_sender(
        &self,
        way: &Way,
        bytes: &[u8],
    ) -> Option<[u8; Address::LEN]> {
        if way.hops == 0 || self.zone_relays.is_empty() {
            return None;
        }
        match Packet::new_checked(bytes).ok()?.sender() {
            Party::Full(address) => Some(*address),
            Party::Id(id) => {
                let [known, ..] = self.peers.with_id(&id);
                Some(*self.peers.get(known?)?.address.as_bytes())
            }
        }
    }

    /// The used path of a peer has fallen silent. Where a relay is on it, that may have lost its memory, or ours of it: both
    /// ends ask their relays.
    pub(in crate::anode) fn doubt_relays(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let over: Vec<PeerRef> = peer.paths.iter().filter_map(|path| path.relay()).collect();
        if over.is_empty() && !peer.has_relay_path() {
            return;
        }
        self.doubt_registrations(now);
        for relay in over {
            if self
                .peers
                .get_mut(relay)
                .is_some_and(|peer| peer.question_paths(now, None))
            {
                self.handle_peer_timer(now, relay);
            }
        }
    }

    /// What is asked of relays that we have no session with: in plain, where they are said to be.
    pub(in crate::anode) fn relays_without_route(&self) -> Vec<(PeerRef, Destination)> {
        let relays = self.all_relays();
        let known = relays.filter_map(|relay| self.peers.find(relay.address.as_bytes()));
        let unreached = known.filter(|found| {
            let route = |peer: &crate::anode::peer::Peer| peer.route(PeerId::ANY).is_some();
            !self.peers.get(*found).is_some_and(route)
        });
        unreached
            .filter_map(|found| {
                let (to, socket) = self.place_of_relay(found)?;
                let destination = Destination {
                    to,
                    socket,
                    source: None,
                };
                Some((found, destination))
            })
            .collect()
    }
}

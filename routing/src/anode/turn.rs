//! Paths over a TURN server of ours: when one is wanted, how both sides come to know of it, and when it is given back
//! (DESIGN §7, RFC 8656; docs/protocol.md, "Over a TURN server").
//!
//! ```text
//!   a peer in use has no direct path ─▶ order ─▶ allocation ─┬─▶ EPI "I am at this relayed address", over the path that there is
//!                                                            └─▶ EPC_REQ from there to every place of the peer: lets it in
//!   a direct path ─▶ nobody needs it for a minute ─▶ given back
//! ```
//!
//! The relayed address is a UDP socket that stands elsewhere. The peer reaches it like any other; what we send through it
//! goes to a [`Place::Turn`]. Nothing here makes a path: an EPC does.
use super::discovery::Candidate;
use super::path::{Origin, is_dialable};
use super::peer::Peer;
use super::peers::PeerRef;
use super::{Destination, Node, Place, Sender, Timer};
use anode_wire::{Endpoint, Message, PeerId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The mode of an EPI whose endpoint is the relayed address of a TURN server (docs/protocol.md).
pub(super) const TURN_MODE: u8 = 2;
/// How often the peers that lack a direct path are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A peer that nothing leads to waits so long for datagrams; connections are dialled at the same time.
const UNREACHED_FOR: Duration = Duration::from_secs(1);
/// One behind a relay, for a hole in the NATs.
const RELAYED_FOR: Duration = Duration::from_secs(3);
/// The peer is told and asked again after these times, the last one again and again.
const PAUSES_S: [u64; 7] = [1, 2, 4, 8, 15, 30, 60];
/// Whoever was not reached in so many tries is no reason to keep an allocation.
const HOPELESS_AFTER: usize = 8;
/// An allocation that nobody needs is given back after this time.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Places of one peer that are let in and asked.
const MAX_PLACES: usize = 8;
/// Peers that are led over TURN at once; a server lets no client have permissions without end either.
const MAX_PEERS: usize = 64;

/// What the owner of the sockets is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnOrder {
    /// Have an allocation at one of the servers, and say so by [`Node::turn_stands`]; another one if it ends.
    Allocate,
    /// Give it back.
    Release,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
enum State {
    /// Nobody needs one.
    #[default]
    None,
    /// It is being asked for.
    Ordered,
    /// These addresses are ours.
    Standing(Vec<SocketAddr>),
}

/// A peer without a direct path.
struct Need {
    since: Instant,
    tries: usize,
    next: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Turn {
    /// The operator or the zone has named a server.
    available: bool,
    state: State,
    order: Option<TurnOrder>,
    needs: HashMap<PeerRef, Need>,
    /// Since when nobody needs the allocation.
    unneeded: Option<Instant>,
    /// The timer is set.
    looking: bool,
}

impl Node {
    /// Whether there are TURN servers to use. Without any, an allocation that stands is given back.
    pub fn set_turn_available(&mut self, now: Instant, available: bool) {
        self.turn.available = available;
        if !available {
            self.release_turn(now);
        }
    }

    /// What is to be done about the allocation.
    pub fn poll_turn(&mut self) -> Option<TurnOrder> {
        self.turn.order.take()
    }

    /// The addresses that a TURN server has given us, of each family one at most; none: they are lost.
    pub fn turn_stands(&mut self, now: Instant, relayed: Vec<SocketAddr>) {
        let before = match (&self.turn.state, relayed.is_empty()) {
            // Given back meanwhile.
            (State::None, _) => return,
            (State::Standing(before), _) => before.clone(),
            (State::Ordered, _) => Vec::new(),
        };
        if !before.is_empty() && before != relayed {
            self.drop_turn_paths(now);
        }
        self.turn.state = match relayed.is_empty() {
            true => State::Ordered,
            false => State::Standing(relayed),
        };
        for need in self.turn.needs.values_mut() {
            (need.tries, need.next) = (0, now);
        }
        self.handle_turn_timer(now);
    }

    /// Something about a peer has changed: it may need what only a TURN server can do.
    pub(super) fn consider_turn(&mut self, now: Instant, found: PeerRef) {
        if !self.turn.available || self.turn.looking {
            return;
        }
        let needs = |peer: &Peer| peer.is_in_use(now) && lacks_direct_path(peer);
        if self.peers.get(found).is_some_and(needs) {
            self.look_at_turn(now + LOOK_EVERY);
        }
    }

    fn look_at_turn(&mut self, at: Instant) {
        self.turn.looking = true;
        self.timers.set(Timer::Turn, at, "paths over TURN");
    }

    pub(super) fn handle_turn_timer(&mut self, now: Instant) {
        self.turn.looking = false;
        if !self.turn.available {
            return;
        }
        let needy = self.peers_without_direct_path(now);
        self.turn.needs.retain(|found, _| needy.contains(found));
        for found in &needy {
            self.turn.needs.entry(*found).or_insert(Need {
                since: now,
                tries: 0,
                next: now,
            });
        }
        let due: Vec<PeerRef> = needy
            .into_iter()
            .filter(|found| self.is_due(now, *found))
            .collect();
        match self.turn.state.clone() {
            State::None if !due.is_empty() => {
                self.turn.state = State::Ordered;
                self.turn.order = Some(TurnOrder::Allocate);
                self.counters.turn_orders += 1;
            }
            State::Standing(relayed) => {
                for found in due {
                    self.lead_over_turn(now, found, &relayed);
                }
            }
            State::None | State::Ordered => {}
        }
        self.release_unneeded_turn(now);
        if self.turn.state != State::None || !self.turn.needs.is_empty() {
            self.look_at_turn(now + LOOK_EVERY);
        }
    }

    /// Those that we have business with, our own relays among them, and that nothing leads to directly.
    fn peers_without_direct_path(&self, now: Instant) -> Vec<PeerRef> {
        let relays = self.relays_in_use();
        let wanted = |found: &PeerRef, peer: &Peer| {
            relays.contains(found) || peer.is_in_use(now) && super::direct::is_willing(peer, now)
        };
        let all = self.peers.iter();
        let needy = all.filter(|(found, peer)| wanted(found, peer) && lacks_direct_path(peer));
        needy.map(|(found, _)| found).take(MAX_PEERS).collect()
    }

    /// Whether a peer has waited for something better, and its next try has come.
    fn is_due(&self, now: Instant, found: PeerRef) -> bool {
        let need = self.turn.needs.get(&found);
        let path = self.peers.get(found).and_then(Peer::active_path);
        let patience = match path.filter(|path| path.is_proven()) {
            None => UNREACHED_FOR,
            Some(path) if path.is_relayed() => RELAYED_FOR,
            // It is led over TURN already.
            Some(_) => Duration::ZERO,
        };
        need.is_some_and(|need| now >= need.since + patience && now >= need.next)
    }

    /// Tells a peer where it can reach us, and asks it there where it may be: that lets its packets in.
    fn lead_over_turn(&mut self, now: Instant, found: PeerRef, relayed: &[SocketAddr]) {
        if let Some(need) = self.turn.needs.get_mut(&found) {
            let pause = PAUSES_S[need.tries.min(PAUSES_S.len() - 1)];
            need.tries += 1;
            need.next = now + Duration::from_secs(pause);
        }
        for at in self.places_over_turn(found, relayed) {
            if self.affords(now, at.ip(), 1) {
                self.ask_over_turn(now, found, Place::Turn(at));
            }
        }
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        // A relay stands where everybody reaches it.
        if let Some(route) = peer.route(PeerId::ANY).filter(|_| !peer.sources.zone) {
            self.offer_relayed(now, found, route.destination, relayed);
        }
        self.handle_peer_timer(now, found);
    }

    /// Where a peer may be, as far as the relayed addresses reach: UDP places of its own, and relayed ones.
    fn places_over_turn(&self, found: PeerRef, relayed: &[SocketAddr]) -> Vec<SocketAddr> {
        let Some(peer) = self.peers.get(found) else {
            return Vec::new();
        };
        let paths = peer.paths.iter().filter(|path| !path.is_relayed());
        let paths = paths.filter_map(|path| path.endpoint.udp());
        let mut places: Vec<SocketAddr> = Vec::new();
        for at in paths.chain(self.offered_places(found)) {
            let reached = relayed
                .iter()
                .any(|own| own.is_ipv4() == at.is_ipv4() && *own != at);
            if reached && is_dialable(&Place::Turn(at), false) && !places.contains(&at) {
                places.push(at);
            }
        }
        places.truncate(MAX_PLACES);
        places
    }

    fn ask_over_turn(&mut self, now: Instant, found: PeerRef, to: Place) {
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        if peer.path_mut(&to).is_some_and(|path| path.is_proven()) {
            return;
        }
        if peer.is_sealed() {
            return self.send_candidate_check(
                now,
                found,
                Candidate { to, socket: 0 },
                Origin::Turn,
            );
        }
        // A HELLO has to go along, as to any place where nobody has answered yet.
        if let Some(path) = peer.add_path(now, to, 0, Origin::Turn) {
            path.probe(now);
        }
    }

    fn offer_relayed(
        &mut self,
        now: Instant,
        found: PeerRef,
        destination: Destination,
        relayed: &[SocketAddr],
    ) {
        for at in relayed {
            let offer = Message::Epi {
                endpoint: Endpoint::Udp(*at),
                nat_mode: TURN_MODE,
                options: &[],
            };
            self.counters.tx_turn_offers += 1;
            self.send_control(now, found, destination, Sender::Full, &offer);
        }
    }

    /// Something goes to a peer through our TURN server: it sees a place that it must not take for ours.
    pub(super) fn tell_turned(&mut self, now: Instant, found: PeerRef, destination: Destination) {
        let Place::Turn(to) = destination.to else {
            return;
        };
        if let State::Standing(relayed) = &self.turn.state {
            let own = relayed.iter().find(|own| own.is_ipv4() == to.is_ipv4());
            let own: Vec<SocketAddr> = own.copied().into_iter().collect();
            self.offer_relayed(now, found, destination, &own);
        }
    }

    /// A peer says that it is at `at` by a TURN server. What is known as a path is one of these from now on; true.
    pub(super) fn mark_turned(&mut self, now: Instant, found: PeerRef, at: &Place) -> bool {
        let path = self
            .peers
            .get_mut(found)
            .and_then(|peer| peer.path_mut(at))
            .filter(|path| !path.is_relayed());
        let Some(path) = path else {
            return false;
        };
        if !std::mem::replace(&mut path.turned, true) {
            path.size.keep_below_turn();
            self.choose_path(now, found);
        }
        true
    }

    /// A peer has asked whether we are there. Over TURN it does so when what it uses falls silent: is what we use dead, too?
    pub(super) fn asked_over_turn(&mut self, now: Instant, found: PeerRef, from: &Place) {
        if self.is_turned(found, from)
            && let Some(peer) = self.peers.get_mut(found)
            && peer.question_paths(now, Some(from))
        {
            self.handle_peer_timer(now, found);
        }
    }

    /// Whether what comes from this place, without a relay, has come over a TURN server.
    pub(super) fn is_turned(&self, found: PeerRef, from: &Place) -> bool {
        let paths = self.peers.get(found).map(|peer| &peer.paths);
        let mut there = paths.into_iter().flatten();
        matches!(from, Place::Turn(_)) || there.any(|path| path.endpoint == *from && path.turned)
    }

    fn release_unneeded_turn(&mut self, now: Instant) {
        let kept = self.turn.needs.iter().any(|(found, need)| {
            let reached = |peer: &Peer| peer.has_proven_path();
            need.tries < HOPELESS_AFTER || self.peers.get(*found).is_some_and(reached)
        });
        if kept || self.turn.state == State::None {
            self.turn.unneeded = None;
            return;
        }
        let since = *self.turn.unneeded.get_or_insert(now);
        if now >= since + KEPT_FOR {
            self.release_turn(now);
        }
    }

    fn release_turn(&mut self, now: Instant) {
        if std::mem::take(&mut self.turn.state) != State::None {
            self.turn.order = Some(TurnOrder::Release);
            self.turn.unneeded = None;
            self.drop_turn_paths(now);
        }
    }

    /// Nothing leads through the allocation any more.
    fn drop_turn_paths(&mut self, now: Instant) {
        let paths = self.peers.iter().flat_map(|(_, peer)| &peer.paths);
        let mut places: Vec<Place> = paths
            .map(|path| path.endpoint)
            .filter(|place| matches!(place, Place::Turn(_)))
            .collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            self.note_gone(now, &place, Place::ACCEPTED);
        }
    }
}

fn lacks_direct_path(peer: &Peer) -> bool {
    let good = peer
        .active_path()
        .filter(|path| path.is_proven() && !path.is_suspect());
    good.is_none_or(|path| path.is_indirect())
}

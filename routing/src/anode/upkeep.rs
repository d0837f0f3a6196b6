//! The paths of peers over time: when they are asked, which one is used, what is done when one is silent, lost or new
//! (DESIGN §7, D24, Q25).
use super::path::{Action, Path, is_dialable};
use super::peer::Peer;
use super::peers::PeerRef;
use super::{Node, Origin, Place, Timer};
use crate::anode::output::Way;
use anode_wire::PeerId;
use std::time::{Duration, Instant};

/// However many packets come from a new place: it is not asked again sooner.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(50);

impl Node {
    /// Has the peer's timer follow its paths.
    pub(super) fn schedule_peer(&mut self, now: Instant, found: PeerRef) {
        if let Some(at) = self.peers.get(found).and_then(|peer| peer.deadline(now)) {
            self.timers
                .set(Timer::Peer(found), at.max(now), "path check");
        }
    }

    pub(super) fn handle_peer_timer(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let silent = peer.silence_deadline().is_some_and(|at| at <= now);
        if silent {
            peer.clear_awaiting();
            peer.probe_paths(now, true);
        }
        if peer.has_fallen_quiet(now) {
            // If that does not answer, the others are asked.
            if let Some(path) = peer.active_path_mut() {
                path.check(now);
            }
        }
        let was_suspect = peer.is_suspect();
        peer.stand_down_connections();
        peer.try_datagrams_again(now);
        let in_use = peer.is_in_use(now);
        let had_path = peer.has_proven_path();
        let mut asks = Vec::new();
        let mut index = 0;
        while index < peer.paths.len() {
            match peer.paths[index].act(now, in_use) {
                Some(Action::Ask) => {
                    peer.paths[index].asked = Some(now);
                    asks.push(peer.paths[index].spot());
                }
                Some(Action::Lost) => {
                    self.counters.paths_lost += 1;
                    // It may come back: asked again as a candidate while there is traffic.
                    peer.paths[index].probe(now);
                    continue;
                }
                Some(Action::Failed) => {
                    let before = peer.paths.len();
                    peer.drop_path(index);
                    if peer.paths.len() < before {
                        continue;
                    }
                }
                None => {}
            }
            index += 1;
        }
        let silent_again = !asks.is_empty() && peer.paths.iter().any(Path::is_unanswered);
        let suspect = peer.is_suspect() && !was_suspect;
        self.choose_path(now, found);
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        let (lost, ipv6) = (had_path && !peer.has_proven_path(), peer.ipv6);
        let mut relayed = peer.paths.iter().filter(|path| path.is_relayed());
        let unanswered = relayed.any(Path::is_unanswered);
        for spot in asks {
            self.send_check(now, found, spot);
        }
        if silent_again {
            self.ask_over_uplinks(now, found);
        }
        self.follow_relay(now, found);
        self.search_packet_size(now, found);
        if silent || unanswered || suspect {
            self.doubt_relays(now, found);
        }
        if suspect && let Some(peer) = self.peers.get_mut(found) {
            // Whatever else there is, connections as well.
            peer.probe_paths(now, true);
            self.handle_peer_timer(now, found);
        }
        if lost {
            self.want(now, found);
        }
        if lost && in_use {
            // Whoever waits for this peer is told when no candidate answers either.
            self.start_contact(now, ipv6, PeerId::ANY);
        }
        self.schedule_peer(now, found);
        self.consider_direct(now, found);
        self.consider_turn(now, found);
    }

    /// A program of this machine sends to a peer.
    pub(super) fn note_own_use(&mut self, now: Instant, found: PeerRef, wants_answer: bool) {
        if let Some(peer) = self.peers.get_mut(found) {
            peer.note_used_by_us(now);
        }
        self.note_use(now, found, wants_answer);
    }

    /// Chooses the path to a peer that is used; its streams learn that there is another one. True: they did.
    pub(super) fn choose_path(&mut self, now: Instant, found: PeerRef) -> bool {
        let Some(peer) = self.peers.get_mut(found) else {
            return false;
        };
        let good = |peer: &Peer| {
            let path = peer.active_path()?;
            (path.is_proven() && !path.is_suspect()).then(|| path.spot())
        };
        let before = good(peer);
        peer.choose_path(now);
        let after = good(peer);
        let resumes = after.is_some() && after != before && peer.streams > 0;
        if resumes {
            self.resume_streams_of(now, found);
        }
        resumes
    }

    /// Traffic goes to a peer.
    pub(super) fn note_use(&mut self, now: Instant, found: PeerRef, wants_answer: bool) {
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        if peer.note_use(now, wants_answer) {
            if peer.is_stale(now) {
                // After a long silence the NAT may have forgotten us, or the peer may be elsewhere: ask while the traffic flows.
                peer.paths.iter_mut().for_each(|path| path.check(now));
            }
            self.schedule_peer(now, found);
            self.consider_direct(now, found);
            self.consider_turn(now, found);
        }
    }

    /// A packet came from where the peer was not known to be, or is still being asked (A2, D24, Q25): ask there. `earned`:
    /// bytes that came in a session, 0 for plain packets.
    pub(super) fn nominate(
        &mut self,
        now: Instant,
        found: PeerRef,
        way: &Way,
        peer_id: PeerId,
        earned: usize,
    ) {
        if way.hops > 0 {
            return self.nominate_relayed(now, found, way, peer_id, earned);
        }
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        if let Some(path) = peer.path_mut(&way.from) {
            if path.is_proven() && (earned == 0 || path.proven_sealed) {
                path.peer_id = peer_id;
                return;
            }
            path.touched = now;
            if earned > 0 {
                path.earn(earned);
            }
            if path.asked.is_some_and(|at| now < at + ASK_AGAIN) {
                return;
            }
        }
        if !is_dialable(&way.from, true)
            || !peer.nominations.take(now, self.config.limits.nominations)
        {
            self.counters.dropped_nominations += 1;
            return;
        }
        let (from, socket, sealed) = (way.from, way.socket, peer.is_sealed());
        let Some(path) = peer.add_path(now, from, socket, Origin::Nominated) else {
            self.counters.dropped_nominations += 1;
            return;
        };
        path.peer_id = peer_id;
        path.socket = socket;
        path.touched = now;
        if path.credit.is_none() && earned > 0 {
            path.earn(earned);
        }
        if earned > 0 && !sealed {
            // Asked as soon as the session is complete, which its own packets are about.
            return;
        }
        path.probe(now);
        // The used path is asked at the same time: it stays if it is no slower (Q25).
        if let Some(active) = peer.active_path().map(|path| path.endpoint)
            && let Some(path) = peer.path_mut(&active)
        {
            path.check(now);
        }
        self.handle_peer_timer(now, found);
    }

    /// The connection to a place has ended. One that had been dialled from there leads nowhere now; one of ours is asked
    /// again, which dials it.
    pub fn note_gone(&mut self, now: Instant, place: &Place, socket: usize) {
        let there: Vec<PeerRef> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.paths.iter().any(|path| path.endpoint == *place))
            .map(|(found, _)| found)
            .collect();
        for found in there {
            let Some(peer) = self.peers.get_mut(found) else {
                continue;
            };
            let was_used = peer
                .active_path()
                .is_some_and(|path| path.endpoint == *place);
            peer.lose_place(place, socket == Place::ACCEPTED);
            let in_use = peer.is_in_use(now);
            if was_used && in_use {
                peer.probe_paths(now, true);
                // It has just worked: dialled again without waiting for its turn.
                if let Some(path) = peer.path_mut(place) {
                    path.probe(now);
                }
                self.counters.paths_lost += 1;
            }
            peer.choose_path(now);
            let (lost, ipv6) = (was_used && !peer.has_proven_path(), peer.ipv6);
            self.handle_peer_timer(now, found);
            if lost && in_use {
                self.start_contact(now, ipv6, PeerId::ANY);
            }
        }
    }
}

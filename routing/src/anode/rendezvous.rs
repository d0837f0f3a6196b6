//! Meeting by what trackers say (discovery.md §3): endpoints without names become paths only by an EPC.
//!
//! ```text
//!  a tracker's answer ─▶ Filter: at most 20 ─▶ Prober: when, how many ─▶ presence EPI, EPC_REQ to wanted peers
//!  presence EPI of somebody wanted ─▶ PresenceGate: one in 5 s ─▶ EPC_REQ ─▶ EPC ─▶ path
//! ```
//!
//! A tracker entry never makes more happen than these packets, none of which has more than 128 bytes: no connection, no
//! HELLO, no entry in the peer table.
use super::discovery::Candidate;
use super::path::{Origin, is_dialable};
use super::peer::Standing;
use super::peers::PeerRef;
use super::receive::Arrival;
use super::{Destination, Node, Place, Timer, Way};
use anode_tracker::rendezvous::{
    Cidr, Dropped, Filter, PresenceGate, ProbeCounters, ProbeKind, Prober, SEARCH, Time,
};
use anode_wire::Address;
use anode_wire::packet::FULL_SENDER_HEADER;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// An EPC_REQ with full sender: header and id.
const QUESTION: usize = FULL_SENDER_HEADER + 4;
/// While a search is on, whether it still is is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

/// The state of meeting at trackers.
pub(super) struct Rendezvous {
    /// `None`: off. Presence of strangers is not answered and nothing is probed.
    deny: Option<Vec<Cidr>>,
    prober: Prober<PeerRef>,
    gate: PresenceGate,
    dropped: Dropped,
    searching: bool,
    changed: bool,
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self {
            deny: None,
            prober: Prober::new(),
            gate: PresenceGate::default(),
            dropped: Dropped::default(),
            searching: false,
            changed: false,
        }
    }
}

/// What meeting at trackers has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RendezvousCounters {
    /// Entries of answers that were not taken.
    pub dropped: Dropped,
    /// Probes sent and held back.
    pub probes: ProbeCounters,
    /// Presence EPIs that were not answered because of their number or size.
    pub presence_refused: u64,
}

impl Node {
    /// Switches meeting at trackers on, with the networks that are not probed, or off.
    pub fn set_rendezvous(&mut self, now: Instant, deny: Option<Vec<Cidr>>) {
        self.rendezvous.deny = deny;
        self.rendezvous.changed = true;
        self.want_kept(now);
        self.set_rendezvous_timer(now);
    }

    /// Whether it is on.
    pub(super) fn meets(&self) -> bool {
        self.rendezvous.deny.is_some()
    }

    /// Whether peers are being searched for: trackers are then asked as often as they allow.
    pub fn is_searching(&self) -> bool {
        self.rendezvous.searching
    }

    /// Whether [`Node::is_searching`], or an address that others see us at, may say something else than at the last call.
    pub fn take_rendezvous_changed(&mut self) -> bool {
        std::mem::take(&mut self.rendezvous.changed)
    }

    /// What it has counted.
    pub fn rendezvous_counters(&self) -> RendezvousCounters {
        RendezvousCounters {
            dropped: self.rendezvous.dropped,
            probes: self.rendezvous.prober.counters(),
            presence_refused: self.rendezvous.gate.refused(),
        }
    }

    /// Endpoints that the tracker at `tracker` has named. `own`: those that lead to ourselves.
    pub fn add_candidates(
        &mut self,
        now: Instant,
        endpoints: &[SocketAddr],
        tracker: IpAddr,
        own: Vec<SocketAddr>,
    ) {
        let Some(deny) = &self.rendezvous.deny else {
            return;
        };
        let filter = Filter {
            deny: deny.clone(),
            own,
            ..Filter::default()
        };
        let selection = filter.select(endpoints, tracker, &mut self.rng);
        self.rendezvous.dropped += selection.dropped;
        let candidates: Vec<SocketAddr> = selection
            .candidates
            .into_iter()
            .filter(|endpoint| is_dialable(&Place::Udp(*endpoint), false))
            .filter(|endpoint| self.socket_for(&Place::Udp(*endpoint)).is_some())
            .filter(|endpoint| !self.is_path(&Place::Udp(*endpoint)))
            .collect();
        let prober = &mut self.rendezvous.prober;
        if candidates.iter().any(|endpoint| !prober.holds(endpoint)) {
            // Somebody new: perhaps one of ours, whose NAT opens only if both sides send at once.
            self.want_kept(now);
        }
        let time = self.time(now);
        self.rendezvous.prober.add(&candidates, time);
        self.set_rendezvous_timer(now);
    }

    /// Starts a search for a peer, unless there is a direct way to it.
    pub(super) fn want(&mut self, now: Instant, found: PeerRef) {
        if self.rendezvous.deny.is_none() || self.has_direct_path(found) {
            return;
        }
        self.rendezvous.prober.want(found, now);
        self.note_searching(now);
        self.set_rendezvous_timer(now);
    }

    /// Searches for a peer by address for ten minutes from now. False: meeting at trackers is off.
    pub fn search(&mut self, now: Instant, address: &Address) -> bool {
        if let Some(found) = self.peers.find(address.as_bytes()) {
            self.want(now, found);
        }
        self.rendezvous.deny.is_some()
    }

    /// All that the operator named, as far as there is no direct way to them.
    fn want_kept(&mut self, now: Instant) {
        let kept = self.peers.iter();
        let kept = kept.filter(|(_, peer)| peer.standing == Standing::Kept || peer.is_in_use(now));
        let kept: Vec<PeerRef> = kept.map(|(found, _)| found).collect();
        for found in kept {
            self.want(now, found);
        }
    }

    pub(super) fn handle_rendezvous_timer(&mut self, now: Instant) {
        let time = self.time(now);
        let wanted: Vec<PeerRef> = self.rendezvous.prober.wanted().collect();
        for found in wanted {
            if self.peers.get(found).is_none() || self.has_direct_path(found) {
                self.rendezvous.prober.unwant(&found);
            }
        }
        while let Some(probe) = self.rendezvous.prober.poll(time, &mut self.rng) {
            let to = Place::Udp(probe.to);
            let Some(socket) = self.socket_for(&to) else {
                continue;
            };
            match probe.kind {
                ProbeKind::Presence => self.send_beacon(Destination {
                    to,
                    socket,
                    source: None,
                }),
                ProbeKind::Request(peer) => {
                    self.send_candidate_check(now, peer, Candidate { to, socket }, Origin::Tracker);
                }
            }
        }
        self.note_searching(now);
        self.set_rendezvous_timer(now);
    }

    /// A presence EPI from beyond our links. Who is neither named nor looked for hears nothing (discovery.md §3).
    pub(super) fn handle_presence(&mut self, now: Instant, way: &Way, sender: &[u8; Address::LEN]) {
        if !matches!(way.from, Place::Udp(_)) || !is_dialable(&way.from, false) {
            self.counters.dropped_beacons += 1;
            return;
        }
        let known = self.peers.find(sender);
        let interesting = match known.and_then(|found| self.peers.get(found)) {
            Some(peer) => {
                (peer.standing == Standing::Kept
                    || peer.is_in_use(now)
                    || self.contacts.is_open(&peer.ipv6))
                    && !peer.is_proven_at(&way.from)
            }
            // Somebody may be looked for by IPv6 alone.
            None => self.contacts.lookups() > 0,
        };
        let allowed = interesting
            && self
                .rendezvous
                .gate
                .allow(way.from.ip(), way.len, QUESTION, now);
        let found = match known {
            _ if !allowed => None,
            Some(found) => Some(found),
            None => self.learn_wanted(now, sender),
        };
        let Some(found) = found else {
            self.counters.dropped_beacons += 1;
            return;
        };
        self.counters.rx_presences += 1;
        let candidate = Candidate {
            to: way.from,
            socket: way.socket,
        };
        self.send_candidate_check(now, found, candidate, Origin::Tracker);
    }

    /// A stranger whose address makes just the IPv6 that somebody looks for.
    fn learn_wanted(&mut self, now: Instant, sender: &[u8; Address::LEN]) -> Option<PeerRef> {
        let address = Address::from_bytes(sender).ok()?;
        let ipv6 = address.ipv6(anode_wire::PeerId::ANY);
        if !self.contacts.is_looking_for(&ipv6) {
            return None;
        }
        let found = self.learn_peer(now, address, Standing::Heard)?;
        self.contact_known(now, found, ipv6);
        Some(found)
    }

    /// An authentic EPC_REQ has come from a place that is no path yet: the other side has found us, and we ask back
    /// (discovery.md §3, step 3).
    pub(super) fn ask_back(&mut self, now: Instant, sender: PeerRef, arrival: &Arrival) {
        let way = &arrival.way;
        if self.rendezvous.deny.is_none() || arrival.hop_count > 0 || arrival.proven {
            return;
        }
        let limit = self.config.limits.hints;
        let Some(peer) = self.peers.get_mut(sender) else {
            return;
        };
        let interesting = peer.standing == Standing::Kept || peer.is_in_use(now);
        if interesting
            && is_dialable(&way.from, false)
            && matches!(way.from, Place::Udp(_))
            && peer.hints.take(now, limit)
        {
            let candidate = Candidate {
                to: way.from,
                socket: way.socket,
            };
            self.send_candidate_check(now, sender, candidate, Origin::Tracker);
        }
    }

    /// An endpoint has proven itself: it is no candidate any more.
    pub(super) fn candidate_proven(&mut self, now: Instant, found: PeerRef, place: &Place) {
        if let Place::Udp(endpoint) = place {
            self.rendezvous.prober.answered(*endpoint);
        }
        self.rendezvous.prober.unwant(&found);
        self.note_searching(now);
    }

    /// Where others see us has become known, or the addresses of the machine have changed.
    pub(super) fn rendezvous_moved(&mut self, now: Instant) {
        if self.rendezvous.deny.is_some() {
            self.rendezvous.changed = true;
            self.want_kept(now);
        }
    }

    fn note_searching(&mut self, now: Instant) {
        let searching = self.rendezvous.prober.searching(now);
        self.rendezvous.changed |= searching != self.rendezvous.searching;
        self.rendezvous.searching = searching;
    }

    fn set_rendezvous_timer(&mut self, now: Instant) {
        let due = self.rendezvous.prober.deadline(now);
        let look = self.rendezvous.searching.then_some(now + LOOK.min(SEARCH));
        if let Some(at) = due.into_iter().chain(look).min() {
            self.timers.set(Timer::Rendezvous, at, "rendezvous");
        }
    }

    fn has_direct_path(&self, found: PeerRef) -> bool {
        let peer = self.peers.get(found);
        let mut paths = peer.into_iter().flat_map(|peer| &peer.paths);
        paths.any(|path| path.is_proven() && !path.is_relayed())
    }

    /// Whether anybody is known to be there.
    fn is_path(&self, place: &Place) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|(_, peer)| peer.is_proven_at(place))
    }

    fn time(&self, now: Instant) -> Time {
        Time {
            now,
            unix: Duration::from_micros(self.sealing.clock(now).wall.0),
        }
    }
}

//! One peer's way from relayed to direct: both sides tell each other over the relay where they are, and ask there at the same
//! time, so that each NAT or firewall sees its own side speak first.
use super::offer::{MODE, Offer, Op, Ports};
use crate::anode::discovery::Candidate;
use crate::anode::limits::{Bucket, Rate};
use crate::anode::path::{Origin, Path, is_dialable};
use crate::anode::peer::{Peer, Standing};
use crate::anode::peers::PeerRef;
use crate::anode::receive::Arrival;
use crate::anode::sealing::Channel;
use crate::anode::{Node, Place, Plain, Sender, Timer};
use anode_wire::{Endpoint, Message, PeerId};
use rand_core::Rng as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Times between the rounds of questions (D26: five in two seconds), without the round trip.
const ROUND_GAPS_MS: [u64; 5] = [100, 150, 250, 500, 800];
/// After so many rounds ports are guessed, where they must be.
const GUESS_AFTER: usize = 3;
/// A peer that does not answer is told this often.
const REQUESTS: u32 = 4;
/// After a failure the next try waits, longer each time.
const RESTS_S: [u64; 6] = [5, 15, 30, 60, 120, 300];
/// Where nothing can help it is tried again only when something has changed, or after this time.
const HOPELESS_FOR: Duration = Duration::from_secs(600);
/// A peer that speaks the draft is told again where we are, while it is relayed.
const TELL_DRAFT_EVERY: Duration = Duration::from_secs(20);
/// So many of our places: what its budget for hints takes.
const DRAFT_PLACES: usize = 2;
/// Offers of one peer that are looked at.
const OFFERS: Rate = Rate::per_second(4, 16);

/// Why a peer is reached over a relay.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Relayed {
    /// A direct path is being looked for.
    Trying,
    /// It is not trusted, and nothing of this machine talks to it.
    Stranger,
    /// It does not answer to where we are.
    NoAnswer,
    /// Datagrams do not leave our network.
    NoDatagrams,
    /// Datagrams do not leave its network.
    NoDatagramsThere,
    /// Both NATs give each destination another port that nobody can guess.
    BothSymmetric,
    /// The one has IPv4 alone, the other IPv6, or an IPv4 that leads nowhere.
    NoCommonFamily,
    /// Both sides asked, and nothing came through.
    NothingThrough,
    /// The ports of the symmetric NAT were not hit.
    NotHit,
    /// Guessing would have taken more packets than there may be.
    OverBudget,
}

impl Relayed {
    /// One word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Stranger => "stranger",
            Self::NoAnswer => "no-answer",
            Self::NoDatagrams => "no-udp",
            Self::NoDatagramsThere => "no-udp-there",
            Self::BothSymmetric => "both-symmetric",
            Self::NoCommonFamily => "no-common-ip",
            Self::NothingThrough => "nothing-through",
            Self::NotHit => "not-hit",
            Self::OverBudget => "over-budget",
        }
    }
}

/// Where the search for a direct path stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing to be done: it is direct, or nothing goes there.
    Idle,
    /// Our places are on their way to the peer.
    Asking { tries: u32, next: Instant },
    /// Its places are being asked.
    Probing { round: usize, next: Instant },
    /// The other side is to move.
    Waiting { until: Instant },
    /// A new socket is to show which port comes next; see `guess`.
    Measuring(super::guess::Measuring),
    /// The other side was told where to aim, and we ask there, too.
    Aiming(super::guess::Aiming),
    /// Many sockets wait for a packet that hits one of them.
    Searching(super::guess::Searching),
    /// Ports of the other side's NAT are tried.
    Sweeping(super::guess::Sweeping),
    /// To be tried again.
    Resting { until: Instant },
}

/// See [`Stage`].
pub(super) struct Hole {
    pub stage: Stage,
    /// Of our request.
    pub token: u32,
    /// Of the peer's.
    their_token: Option<u32>,
    pub theirs: Vec<SocketAddr>,
    pub their_ports: Ports,
    why: Option<Relayed>,
    failures: usize,
    /// Tries with guessed ports since the last success.
    pub guesses: u32,
    offers: Bucket,
}

impl Hole {
    fn new() -> Self {
        Self {
            stage: Stage::Idle,
            token: 0,
            their_token: None,
            theirs: Vec::new(),
            their_ports: Ports::Unknown,
            why: None,
            failures: 0,
            guesses: 0,
            offers: Bucket::default(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Asking { next, .. } | Stage::Probing { next, .. } => Some(*next),
            Stage::Waiting { until } | Stage::Resting { until } => Some(*until),
            Stage::Measuring(measuring) => Some(measuring.deadline()),
            Stage::Aiming(aiming) => Some(aiming.until),
            Stage::Searching(searching) => Some(searching.deadline()),
            Stage::Sweeping(sweeping) => Some(sweeping.next),
        }
    }

    /// The peer began with guessing before its request was heard.
    pub fn note_their_token(&mut self, token: u32) {
        self.their_token = Some(token);
    }

    /// Sockets of its own may still be of use.
    pub fn needs_sockets(&self) -> bool {
        matches!(
            self.stage,
            Stage::Measuring(_) | Stage::Aiming(_) | Stage::Searching(_)
        )
    }

    /// Ports are being guessed: what only tells where the peer is does not disturb that.
    fn is_guessing(&self) -> bool {
        self.needs_sockets() || matches!(self.stage, Stage::Sweeping(_))
    }
}

impl Node {
    /// Why this peer is reached over a relay; `None`: it is not, or nobody has tried yet.
    pub(in crate::anode) fn relayed_because(&self, found: PeerRef) -> Option<Relayed> {
        let relayed = self.peers.get(found)?.active_path()?.is_indirect();
        self.direct.holes.get(&found)?.why.filter(|_| relayed)
    }

    /// Something about this peer has changed: if it is relayed, in use, and may be reached directly, that is tried.
    pub(in crate::anode) fn consider_direct(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let Some(active) = peer.active_path().filter(|path| path.is_proven()) else {
            return;
        };
        if peer.sources.zone {
            return;
        }
        if !peer.is_sealed() {
            return self.tell_draft(now, found);
        }
        let (relayed, in_use, willing) = (
            active.is_indirect(),
            peer.is_in_use(now),
            is_willing(peer, now),
        );
        if !relayed && active.asked_since().is_some() {
            // Whether it still is direct is about to be known.
            return;
        }
        let hole = self.direct.holes.get_mut(&found);
        if !relayed {
            if let Some(hole) = hole.filter(|hole| hole.stage != Stage::Idle) {
                let had_sockets = hole.needs_sockets();
                hole.stage = Stage::Idle;
                hole.why = None;
                hole.failures = 0;
                hole.guesses = 0;
                if had_sockets {
                    self.timers.set(Timer::Sockets, now, "sockets nobody needs");
                }
            }
            return;
        }
        if !in_use {
            return;
        }
        let idle = |stage: &Stage| match stage {
            Stage::Idle => true,
            Stage::Resting { until } => *until <= now,
            _ => false,
        };
        match hole {
            Some(hole) if !idle(&hole.stage) => {}
            _ if willing => self.start_hole(now, found),
            Some(hole) => hole.why = Some(Relayed::Stranger),
            None => {}
        }
    }

    /// A peer that speaks the draft in plain is told where we are by EPIs over the relay (A54): it asks there if it is
    /// interested, and tells the same of itself.
    fn tell_draft(&mut self, now: Instant, found: PeerRef) {
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let relayed = peer.active_path().is_some_and(Path::is_relayed);
        let route = peer.route(PeerId::ANY);
        let wanted = relayed && peer.is_in_use(now) && is_willing(peer, now);
        let speaks = self.channel(found, PeerId::ANY) == Some(Channel::Plain);
        let Some(route) = route.filter(|_| wanted && speaks) else {
            return;
        };
        let hole = self.direct.holes.entry(found).or_insert_with(Hole::new);
        let resting = matches!(hole.stage, Stage::Resting { until } if now < until);
        if resting {
            return;
        }
        hole.why = Some(Relayed::Trying);
        hole.stage = Stage::Resting {
            until: now + TELL_DRAFT_EVERY,
        };
        self.survey_relays(now);
        for place in self.own_places().into_iter().take(DRAFT_PLACES) {
            let hint = Message::Epi {
                endpoint: Endpoint::Udp(place),
                nat_mode: MODE,
                options: &[],
            };
            self.send_control(now, found, route.destination, Sender::Full, &hint);
        }
        self.schedule_hole(now, found);
    }

    /// Whether a hint of this peer that came over a relay is followed (Q26, Q28).
    pub(in crate::anode) fn follows_relayed_hints(
        &self,
        now: Instant,
        arrival: &Arrival,
        found: PeerRef,
    ) -> bool {
        let in_order = arrival.session.is_some() || self.config.security.plain != Plain::Deny;
        let peer = self.peers.get(found).filter(|peer| !peer.sources.zone);
        in_order && peer.is_some_and(|peer| is_willing(peer, now))
    }

    fn start_hole(&mut self, now: Instant, found: PeerRef) {
        let token = self.rng.next_u32();
        let hole = self.direct.holes.entry(found).or_insert_with(Hole::new);
        hole.token = token;
        hole.guesses = 0;
        hole.stage = Stage::Asking {
            tries: 0,
            next: now,
        };
        hole.why.get_or_insert(Relayed::Trying);
        self.survey_relays(now);
        self.handle_hole_timer(now, found);
    }

    /// We are elsewhere: the peer must hear of it, however long the last try has to rest.
    pub(super) fn punch_afresh(&mut self, now: Instant, found: PeerRef) {
        if let Some(hole) = self.direct.holes.get_mut(&found) {
            hole.stage = Stage::Idle;
            hole.failures = 0;
            self.consider_direct(now, found);
        }
    }

    /// Others see us elsewhere than before: whoever is asking at our old places hears of it.
    pub(super) fn offer_again(&mut self, now: Instant) {
        let holes = self.direct.holes.iter();
        let open = holes.filter(|(_, hole)| {
            matches!(
                hole.stage,
                Stage::Asking { .. }
                    | Stage::Probing { .. }
                    | Stage::Waiting { .. }
                    | Stage::Resting { .. }
            )
        });
        let open: Vec<(PeerRef, bool)> = open
            .map(|(found, hole)| (*found, matches!(hole.stage, Stage::Resting { .. })))
            .collect();
        for (found, resting) in open {
            match resting {
                true => self.punch_afresh(now, found),
                false => self.send_offer(now, found, Op::Request),
            }
        }
    }

    pub(super) fn schedule_hole(&mut self, now: Instant, found: PeerRef) {
        let deadline = self.direct.holes.get(&found).and_then(Hole::deadline);
        if let Some(at) = deadline {
            self.timers
                .set(Timer::Hole(found), at.max(now), "direct path");
        }
    }

    pub(in crate::anode) fn handle_hole_timer(&mut self, now: Instant, found: PeerRef) {
        let wanted = self
            .peers
            .get(found)
            .is_some_and(|peer| peer.is_in_use(now));
        let Some(hole) = self.direct.holes.get_mut(&found) else {
            return;
        };
        if !wanted {
            // Asked again when something goes there.
            hole.stage = Stage::Idle;
            self.timers.set(Timer::Sockets, now, "sockets nobody needs");
            return;
        }
        if hole.deadline().is_none_or(|at| at > now) {
            return self.schedule_hole(now, found);
        }
        match hole.stage.clone() {
            Stage::Idle => {}
            Stage::Asking { tries, .. } if tries < REQUESTS => {
                let pause = self.patience(found) * (1 << tries);
                self.set_stage(
                    found,
                    Stage::Asking {
                        tries: tries + 1,
                        next: now + pause,
                    },
                );
                self.send_offer(now, found, Op::Request);
            }
            Stage::Asking { .. } => self.rest(now, found, Relayed::NoAnswer),
            Stage::Probing { round, .. } => self.probe_round(now, found, round),
            Stage::Waiting { .. } => {
                let why = match self.guessed(found) {
                    true => Relayed::NotHit,
                    false => Relayed::NothingThrough,
                };
                self.rest(now, found, why);
            }
            Stage::Resting { .. } => {
                // Also where there is nothing to begin with now, as after a sleep: the rest is over.
                self.set_stage(found, Stage::Idle);
                self.consider_direct(now, found);
            }
            Stage::Measuring(measuring) => self.measuring_is_late(now, found, &measuring),
            Stage::Aiming(_) => self.aimed_in_vain(now, found),
            Stage::Searching(searching) => self.search_on(now, found, searching),
            Stage::Sweeping(sweeping) => self.sweep_on(now, found, sweeping),
        }
        self.schedule_hole(now, found);
    }

    pub(super) fn set_stage(&mut self, found: PeerRef, stage: Stage) {
        if let Some(hole) = self.direct.holes.get_mut(&found) {
            hole.stage = stage;
        }
    }

    /// Of the peer's request.
    pub(super) fn their_token(&self, found: PeerRef) -> u32 {
        let hole = self.direct.holes.get(&found);
        hole.and_then(|hole| hole.their_token).unwrap_or_default()
    }

    fn guessed(&self, found: PeerRef) -> bool {
        let hole = self.direct.holes.get(&found);
        hole.is_some_and(|hole| hole.guesses > 0 || hole.their_ports.is_symmetric())
    }

    /// Nothing came of it: it stays relayed for a while, and here is why.
    pub(super) fn rest(&mut self, now: Instant, found: PeerRef, why: Relayed) {
        let (own, meets) = (self.own_ports(), self.has_common_family(found));
        let Some(hole) = self.direct.holes.get_mut(&found) else {
            return;
        };
        let why = match (own, hole.their_ports) {
            (Ports::None, _) => Relayed::NoDatagrams,
            (_, Ports::None) => Relayed::NoDatagramsThere,
            _ if !meets && why != Relayed::NoAnswer => Relayed::NoCommonFamily,
            _ => why,
        };
        let rest = match why {
            Relayed::BothSymmetric | Relayed::NoCommonFamily => HOPELESS_FOR,
            _ => Duration::from_secs(RESTS_S[hole.failures.min(RESTS_S.len() - 1)]),
        };
        hole.failures += 1;
        hole.why = Some(why);
        hole.stage = Stage::Resting { until: now + rest };
        self.counters.holes_failed += 1;
        self.timers.set(Timer::Sockets, now, "sockets nobody needs");
        self.schedule_hole(now, found);
    }

    /// How long the peer may take to answer over the relay.
    pub(super) fn patience(&self, found: PeerRef) -> Duration {
        let path = self.peers.get(found).and_then(Peer::active_path);
        let rtt = path.and_then(|path| path.rtt).unwrap_or_default();
        (rtt * 2).max(Duration::from_millis(250))
    }

    /// Tells the peer where we are, over the path that is used.
    pub(super) fn send_offer(&mut self, now: Instant, found: PeerRef, op: Op) {
        let Some(hole) = self.direct.holes.get(&found) else {
            return;
        };
        let token = match op {
            Op::Ready => hole.their_token.unwrap_or_default(),
            _ => hole.token,
        };
        let offer = Offer {
            op,
            token,
            places: self.own_places(),
            ports: self.own_ports(),
            step: 0,
            window: 0,
        };
        self.send_nat_t(now, found, &offer);
    }

    pub(super) fn send_nat_t(&mut self, now: Instant, found: PeerRef, offer: &Offer) {
        let route = self
            .peers
            .get(found)
            .and_then(|peer| peer.route(PeerId::ANY));
        let Some(route) = route else { return };
        let options = offer.emit();
        let message = Message::NatT {
            mode: MODE,
            options: &options,
        };
        self.counters.tx_offers += 1;
        self.send_control(now, found, route.destination, Sender::Short, &message);
    }

    /// A peer tells where it is (NAT_T). Heard only sealed, from whoever we trust or talk to (Q28).
    pub(in crate::anode) fn handle_nat_t(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: &Arrival,
        mode: u8,
        options: &[u8],
    ) {
        let offer = Offer::parse(options).filter(|_| mode == MODE && arrival.session.is_some());
        let Some(mut offer) = offer else {
            self.counters.refused_offers += 1;
            return;
        };
        let Some(peer) = self.peers.get(sender) else {
            return;
        };
        let welcome = is_willing(peer, now) && !peer.sources.zone;
        let hole = match welcome {
            true => Some(self.direct.holes.entry(sender).or_insert_with(Hole::new)),
            false => None,
        };
        let token = hole.and_then(|hole| hole.offers.take(now, OFFERS).then_some(hole.token));
        let Some(token) = token else {
            self.counters.refused_offers += 1;
            return;
        };
        let told = offer.places.len();
        offer
            .places
            .retain(|at| is_dialable(&Place::Udp(*at), false));
        self.counters.refused_endpoints += (told - offer.places.len()) as u64;
        match offer.op {
            Op::Request => {
                let hole = self.direct.holes.entry(sender).or_insert_with(Hole::new);
                let news = hole.their_token != Some(offer.token) || hole.theirs != offer.places;
                hole.their_token = Some(offer.token);
                self.send_offer(now, sender, Op::Ready);
                self.take_places(now, sender, offer, news);
            }
            Op::Ready if offer.token == token => self.take_places(now, sender, offer, true),
            Op::Aim => self.aim_back(now, sender, &offer),
            Op::Aimed if offer.token == token => self.take_aim(now, sender, &offer),
            Op::Ready | Op::Aimed => self.counters.refused_offers += 1,
        }
    }

    /// The peer's places are known: they are asked now, as ours are by the peer.
    fn take_places(&mut self, now: Instant, found: PeerRef, offer: Offer, news: bool) {
        // Somebody wants it to be direct: that is as good as traffic.
        if let Some(peer) = self.peers.get_mut(found) {
            peer.note_use(now, false);
            if news {
                // Whoever asks may have lost what looks sound from here.
                let direct = peer.paths.iter_mut().filter(|path| !path.is_relayed());
                direct.for_each(|path| path.check(now));
                self.handle_peer_timer(now, found);
            }
        }
        let Some(hole) = self.direct.holes.get_mut(&found) else {
            return;
        };
        hole.theirs = offer.places;
        hole.their_ports = offer.ports;
        if hole.is_guessing() || !news {
            return;
        }
        hole.stage = Stage::Probing {
            round: 0,
            next: now,
        };
        self.handle_hole_timer(now, found);
    }

    fn probe_round(&mut self, now: Instant, found: PeerRef, round: usize) {
        let lost = |path: &Path| path.is_indirect() || path.asked_since().is_some();
        let relayed = |peer: &Peer| peer.active_path().is_none_or(lost);
        if !self.peers.get(found).is_some_and(relayed) {
            return self.set_stage(found, Stage::Idle);
        }
        if round == GUESS_AFTER && self.guess(now, found) {
            return;
        }
        let Some(gap) = ROUND_GAPS_MS.get(round) else {
            return self.rest(now, found, Relayed::NothingThrough);
        };
        let rtt = self.patience(found) / 4;
        self.set_stage(
            found,
            Stage::Probing {
                round: round + 1,
                next: now
                    + Duration::from_millis(*gap)
                    + rtt.saturating_sub(Duration::from_millis(62)),
            },
        );
        let theirs = self
            .direct
            .holes
            .get(&found)
            .map(|hole| hole.theirs.clone());
        for at in theirs.unwrap_or_default() {
            let Some(socket) = self.socket_for(&Place::Udp(at)) else {
                continue;
            };
            if self.affords(now, at.ip(), 1) {
                self.punch(now, found, at, socket);
            }
        }
    }

    /// Asks at a place that somebody else named: it becomes a path if it answers.
    pub(super) fn punch(&mut self, now: Instant, found: PeerRef, at: SocketAddr, socket: usize) {
        let candidate = Candidate {
            to: at.into(),
            socket,
        };
        self.counters.tx_punches += 1;
        self.send_candidate_check(now, found, candidate, Origin::Punched);
    }
}

/// Whether packets are sent to third places on this peer's word (Q28).
pub(in crate::anode) fn is_willing(peer: &Peer, now: Instant) -> bool {
    peer.standing == Standing::Kept || peer.streams > 0 || peer.is_used_by_us(now)
}

#[cfg(test)]
impl Node {
    /// Says anything to a peer.
    pub(in crate::anode) fn send_offer_for_test(
        &mut self,
        now: Instant,
        to: &anode_wire::Address,
        offer: &Offer,
    ) {
        if let Some(found) = self.peers.find(to.as_bytes()) {
            self.send_nat_t(now, found, offer);
        }
    }
}

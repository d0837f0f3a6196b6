//! The way in: bootstrap peers, the first peer of an overlay, and the look for other parts of the ring (R128, RD54, RD55).
use super::links::Why;
use super::{Dht, End, Role};
use crate::anode::Place;
use crate::links::Command;
use anode_reload::{LinkId, Now};
use anode_wire::{Address, PeerId};
use rand_core::Rng as _;
use std::time::Duration;

/// Bootstrap peers that are kept.
const MAX_CANDIDATES: usize = 64;
/// Of these, asked at a time …
const AT_ONCE: usize = 8;
/// … and once the waits are longest: more often, and no more of them a minute.
const AT_LAST: usize = 3;
/// The first wait between two rounds; it doubles.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// Whoever is alone is found so soon by those who come back, and asks as seldom for as long as nobody does.
pub(super) const MAX_ROUND: Duration = Duration::from_secs(10);

/// Between a half and the whole of a wait: those who were parted together are not to come back together.
pub(super) fn spread(wait: Duration, random: u32) -> Duration {
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// Somebody to ask first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrap {
    /// Who.
    pub address: Address,
    /// Where; empty: the overlay knows.
    pub places: Vec<Place>,
}

struct Candidate {
    peer: Bootstrap,
    /// It has answered, or not, since this node started.
    resolved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Looking for somebody who is part of the ring.
    Out,
    /// One has been found.
    Joining,
    In,
}

/// Whom to ask, and how far it is.
pub(super) struct Entry {
    create: bool,
    own: End,
    /// Of the configuration; others come and go with the zone.
    configured: Vec<Bootstrap>,
    candidates: Vec<Candidate>,
    stage: Stage,
    /// When the next round begins; `None`: nothing to do.
    next: Option<Duration>,
    gap: Duration,
    turn: usize,
    /// A partition is looked for with the next link to a member.
    probing: bool,
}

impl Entry {
    pub fn new(create: bool, own: End, configured: Vec<Bootstrap>, now: Now) -> Self {
        let mut entry = Self {
            create,
            own,
            configured,
            candidates: Vec::new(),
            stage: Stage::Out,
            next: Some(now.at),
            gap: ROUND,
            turn: 0,
            probing: false,
        };
        entry.replace(&[]);
        entry
    }

    /// Beside those of the configuration, these are asked from now on.
    fn replace(&mut self, others: &[Bootstrap]) {
        let mut candidates: Vec<Candidate> = Vec::new();
        let own = self.own.0;
        for peer in self.configured.iter().chain(others) {
            if peer.address == own || candidates.len() >= MAX_CANDIDATES {
                continue;
            }
            match candidates
                .iter_mut()
                .find(|c| c.peer.address == peer.address)
            {
                Some(known) => known.peer.places.extend(&peer.places),
                None => {
                    let mut before = self.candidates.iter();
                    let before = before.find(|c| c.peer.address == peer.address);
                    candidates.push(Candidate {
                        peer: peer.clone(),
                        resolved: before.is_some_and(|c| c.resolved),
                    });
                }
            }
        }
        self.candidates = candidates;
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// No peer is left, or joining has failed.
    pub fn alone(&mut self, now: Now, is_in: bool) {
        self.stage = match is_in {
            true => Stage::In,
            false => Stage::Out,
        };
        self.gap = ROUND;
        self.probing = is_in;
        self.next = Some(now.at + ROUND / 2);
    }

    /// Who is asked first, in order: what the operator has named comes before the zone's relays.
    pub fn candidates(&self) -> impl Iterator<Item = Address> {
        self.candidates
            .iter()
            .map(|candidate| candidate.peer.address)
    }

    /// One that is no address has been asked, too.
    pub fn ask_soon(&mut self, now: Now) {
        if self.stage == Stage::Out {
            self.next = Some(now.at);
        }
    }

    /// This bootstrap peer is there.
    pub fn resolved(&mut self, who: Address) {
        let mut candidates = self.candidates.iter_mut();
        if let Some(candidate) = candidates.find(|c| c.peer.address == who) {
            candidate.resolved = true;
        }
    }

    /// This bootstrap peer is not.
    pub fn failed(&mut self, now: Now, who: Address) {
        self.resolved(who);
        if self.stage == Stage::Out && self.create {
            self.next = Some(now.at);
        }
    }
}

impl Dht {
    /// A peer of the ring that knows of no other one.
    pub(super) fn is_alone(&self) -> bool {
        let (before, after) = self.node.topology().neighbours();
        self.is_member() && before.is_empty() && after.is_empty()
    }

    /// The way out is another one: whoever looks for others does so at once.
    pub(super) fn look_again(&mut self, now: Now) {
        if self.entry.stage == Stage::Out || self.is_alone() {
            self.entry.gap = ROUND;
            self.entry.next = Some(now.at);
            self.own_links.hurry(now);
        }
    }

    /// Beside those of the configuration, these are asked from now on: the zone's relays, and peers of an earlier run.
    pub fn set_bootstrap(&mut self, now: Now, others: &[Bootstrap]) {
        let others = if self.config.is_sealed() { others } else { &[] };
        self.entry.replace(others);
        if self.entry.stage == Stage::Out {
            self.entry.next = Some(now.at);
            self.entry.gap = ROUND;
        }
        self.handle_timeout(now);
    }

    pub(super) fn joined(&mut self, now: Now) {
        self.entry.stage = Stage::In;
        self.entry.next = None;
        self.entry.gap = ROUND;
        self.tell_membership();
        self.tell_own_membership();
        self.store_all_again(now);
    }

    /// What this node has in the ring is stored there once more.
    pub(super) fn store_all_again(&mut self, now: Now) {
        self.publisher.store_again(now);
        self.turn.joined(now);
        self.register_again(now);
    }

    /// There is a link to a member of the ring.
    pub(super) fn entry_link(&mut self, now: Now, link: LinkId) {
        match self.entry.stage {
            Stage::Out => {
                if self.node.join(now, link).is_ok() && self.entry.stage == Stage::Out {
                    self.entry.stage = Stage::Joining;
                    self.entry.next = None;
                }
            }
            Stage::Joining => {}
            Stage::In if self.config.role == Role::Client => {
                // One way in more: perhaps the one that its record should name.
                let _ = self.node.join(now, link);
                if self.access() != self.publisher.access {
                    self.publisher.store_changed(now);
                    self.register_again(now);
                }
            }
            Stage::In => {
                let (before, _) = self.node.topology().neighbours();
                if before.is_empty() || std::mem::take(&mut self.entry.probing) {
                    self.node.probe(now, link);
                }
            }
        }
    }

    /// Some bootstrap peer is asked who follows this node: it may be in another part of the ring (RD55).
    pub(super) fn probe(&mut self, now: Now) {
        let count = self.entry.candidates.len();
        let own = self.own_links.targets();
        if count + own == 0 {
            return;
        }
        let pick = self.rng.next_u32() as usize % (count + own);
        if let Some(place) = pick.checked_sub(count) {
            match self.own_links.to_target(place) {
                Ok(link) => self.node.probe(now, link),
                Err(target) => {
                    self.entry.probing = true;
                    self.tell_links(Command::Dial(target));
                }
            }
            return;
        }
        let peer = self.entry.candidates[pick].peer.clone();
        let end = (peer.address, PeerId::ANY);
        match self.links.to(end) {
            Some((link, true)) => self.node.probe(now, link),
            Some((_, false)) => {}
            None => {
                self.entry.probing = true;
                self.dial(now, end, Why::Bootstrap, peer.places, true);
            }
        }
    }

    pub(super) fn run_entry(&mut self, now: Now) {
        if self.entry.next.is_none_or(|at| at > now.at) {
            return;
        }
        self.entry.next = None;
        let (before, _) = self.node.topology().neighbours();
        match self.entry.stage {
            Stage::Joining => return,
            Stage::In if !before.is_empty() || self.entry.candidates.is_empty() => return,
            Stage::In | Stage::Out => {}
        }
        let own = self.own_links.members();
        let members: Vec<LinkId> = own.chain(self.links.to_members()).collect();
        if !members.is_empty() {
            self.entry.turn += 1;
            let link = members[self.entry.turn % members.len()];
            self.entry_link(now, link);
            if self.entry.stage == Stage::Joining {
                return;
            }
        }
        if self.entry.stage == Stage::Out && self.may_create() {
            tracing::info!(
                overlay = self.config.overlay,
                "nobody is there: this node begins the overlay"
            );
            self.node.create(now);
            return;
        }
        self.ask_outsiders();
        self.ask_candidates(now);
        self.entry.next = Some(now.at + spread(self.entry.gap, self.rng.next_u32()));
        self.entry.gap = (self.entry.gap * 2).min(MAX_ROUND);
    }

    /// The first peer begins the ring when all others have been asked: none of them is part of one (RD54).
    fn may_create(&self) -> bool {
        let asked = self.own_links.is_resolved();
        self.entry.create && asked && self.entry.candidates.iter().all(|c| c.resolved)
    }

    fn ask_candidates(&mut self, now: Now) {
        let count = self.entry.candidates.len();
        let at_once = match self.entry.gap >= MAX_ROUND {
            true => AT_LAST,
            false => AT_ONCE,
        };
        for _ in 0..count.min(at_once) {
            self.entry.turn = (self.entry.turn + 1) % count;
            let peer = self.entry.candidates[self.entry.turn].peer.clone();
            let end = (peer.address, PeerId::ANY);
            if self.links.to(end).is_none() && !self.links.is_dialling(end) {
                self.dial(now, end, Why::Bootstrap, peer.places, true);
            }
        }
    }
}

//! Links inside sealed sessions: who is at the other end the session has proven; whether it is there, keep-alives tell (RD73).
//!
//! A message 0x4B is either a RELOAD message, which begins with its magic `RELO`, or one of three frames of six bytes:
//! kind (1 ASK, 2 ANSWER, 3 CLOSE), hash of the overlay's name (4), flags (1: part of the ring). Kind 4 is of applications.
use super::applications::APPLICATION;
use super::{Dht, End, Output, Role};
use anode_reload::route_log::LogTransport;
use anode_reload::{Id, LinkId, LinkInfo, Now, overlay_hash};
use anode_wire::{Address, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::anode::MAX_RELOAD;

/// Links at a time; whoever comes then is told that there is no room.
const MAX_LINKS: usize = 1024;
/// Links being made at a time.
const MAX_DIALS: usize = 256;
/// A silent link is asked after this time (RD73).
const ASK_AFTER: Duration = Duration::from_secs(15);
/// The same where something was sent that nothing came back to, and where a question has had no answer.
const ASK_USED_AFTER: Duration = Duration::from_secs(2);
/// It is gone after so many questions without an answer (RD73)...
const MISSED: u8 = 3;
/// ...and after this, in any case (RD73).
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// The first wait of a link being made; it doubles.
const DIAL_GAP: Duration = Duration::from_millis(250);
const MAX_DIAL_GAP: Duration = Duration::from_secs(2);
/// So long a link is tried.
const DIAL_FOR: Duration = Duration::from_secs(10);
/// The same for a bootstrap peer: there are others.
const BOOTSTRAP_FOR: Duration = Duration::from_secs(5);

/// What a link says beside RELOAD messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// Are you there?
    Ask { member: bool },
    /// I am.
    Answer { member: bool },
    /// There is no link here.
    Close,
}

const MAGIC: &[u8] = b"RELO";
const ASK: u8 = 1;
const ANSWER: u8 = 2;
const CLOSE: u8 = 3;
const FRAME_LEN: usize = 6;
const MEMBER: u8 = 1;

impl Frame {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let &[kind, _, _, _, _, flags] = body else {
            return None;
        };
        let member = flags & MEMBER != 0;
        match kind {
            ASK => Some(Self::Ask { member }),
            ANSWER => Some(Self::Answer { member }),
            CLOSE => Some(Self::Close),
            _ => None,
        }
    }

    pub fn emit(self, overlay: u32) -> Vec<u8> {
        let (kind, member) = match self {
            Self::Ask { member } => (ASK, member),
            Self::Answer { member } => (ANSWER, member),
            Self::Close => (CLOSE, false),
        };
        let mut out = Vec::with_capacity(FRAME_LEN);
        out.push(kind);
        out.extend_from_slice(&overlay.to_be_bytes());
        out.push(u8::from(member) * MEMBER);
        out
    }
}

pub(super) fn overlay_of(body: &[u8]) -> Option<u32> {
    let at = match body {
        [ASK..=CLOSE, ..] if body.len() == FRAME_LEN => 1,
        [APPLICATION, ..] => 1,
        _ if body.starts_with(MAGIC) => MAGIC.len(),
        _ => return None,
    };
    let bytes = body.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

struct Link {
    id: LinkId,
    peer: Id,
    heard: Duration,
    asked: Duration,
    /// Questions since it was heard.
    missed: u8,
    /// A message went there since it was heard.
    used: bool,
    /// It is part of the ring, by its own word.
    member: bool,
}

impl Link {
    fn hear(&mut self, now: Now) {
        self.heard = now.at;
        self.missed = 0;
        self.used = false;
    }

    fn ask_at(&self) -> Duration {
        let patience = match self.used || self.missed > 0 {
            true => ASK_USED_AFTER,
            false => ASK_AFTER,
        };
        self.heard.max(self.asked) + patience
    }

    fn is_dead(&self, now: Now) -> bool {
        let unanswered = self.missed >= MISSED && self.ask_at() <= now.at;
        unanswered || self.heard + DEAD_AFTER <= now.at
    }
}

/// Why a link is being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// To come in, or to look for another part of the ring.
    Bootstrap,
    /// The ring wants it.
    Ring(Id),
}

struct Dial {
    why: Why,
    next: Duration,
    gap: Duration,
    until: Duration,
}

/// Links that stand, and those being made.
pub(super) struct Links {
    overlay: u32,
    up: BTreeMap<End, Link>,
    ends: BTreeMap<LinkId, End>,
    dials: BTreeMap<End, Dial>,
    next: u64,
}

impl Links {
    pub fn new(overlay: &str) -> Self {
        Self {
            overlay: overlay_hash(overlay),
            up: BTreeMap::new(),
            ends: BTreeMap::new(),
            dials: BTreeMap::new(),
            next: 0,
        }
    }

    pub fn overlay(&self) -> u32 {
        self.overlay
    }

    pub fn len(&self) -> usize {
        self.up.len()
    }

    pub fn end(&self, link: LinkId) -> Option<End> {
        self.ends.get(&link).copied()
    }

    /// Who has this Peer-ID, if there is a link.
    pub fn end_of(&self, peer: Id) -> Option<End> {
        let mut up = self.up.iter();
        up.find(|(_, link)| link.peer == peer).map(|(end, _)| *end)
    }

    /// Something came over a link; `None`: there is none.
    pub fn heard(&mut self, now: Now, from: End) -> Option<LinkId> {
        let link = self.up.get_mut(&from)?;
        link.hear(now);
        Some(link.id)
    }

    /// A message goes over a link.
    pub fn used(&mut self, end: End) {
        if let Some(link) = self.up.get_mut(&end) {
            link.used = true;
        }
    }

    /// The link to a peer of an address, or to any of its peers.
    pub fn to(&self, (address, digit): End) -> Option<(LinkId, bool)> {
        let all = self.up.range((address, PeerId::ANY)..);
        let mut of_address = all.take_while(|((there, _), _)| *there == address);
        of_address
            .find(|((_, there), _)| digit == PeerId::ANY || *there == digit)
            .map(|(_, link)| (link.id, link.member))
    }

    /// The link to just this peer.
    pub fn at(&self, end: End) -> Option<LinkId> {
        self.up.get(&end).map(|link| link.id)
    }

    /// Links to members of the ring.
    pub fn to_members(&self) -> Vec<LinkId> {
        let members = self.up.values().filter(|link| link.member);
        members.map(|link| link.id).collect()
    }

    /// The Peer-IDs of these.
    pub fn members(&self) -> impl Iterator<Item = Id> {
        let members = self.up.values().filter(|link| link.member);
        members.map(|link| link.peer)
    }

    /// The Peer-ID of an address's peer that is a member of the ring.
    pub fn member(&self, end: End) -> Option<Id> {
        let (id, _) = self.to(end).filter(|(_, member)| *member)?;
        Some(self.up.get(self.ends.get(&id)?)?.peer)
    }

    pub fn is_dialling(&self, end: End) -> bool {
        self.dials.contains_key(&end)
    }

    pub fn deadline(&self) -> Option<Duration> {
        let silent = |link: &Link| link.ask_at().min(link.heard + DEAD_AFTER);
        let links = self.up.values().map(silent).min();
        let dials = self.dials.values().map(|dial| dial.next.min(dial.until));
        [links, dials.min()].into_iter().flatten().min()
    }

    fn remove(&mut self, link: LinkId) -> Option<End> {
        let end = self.ends.remove(&link)?;
        self.up.remove(&end);
        Some(end)
    }

    /// Ends what was being made to this end; what it was made for.
    fn end_dials(&mut self, (address, digit): End) -> Vec<Why> {
        let mut ended = Vec::new();
        for end in [(address, digit), (address, PeerId::ANY)] {
            ended.extend(self.dials.remove(&end).map(|dial| dial.why));
        }
        ended
    }
}

impl Dht {
    pub(super) fn send_frame(&mut self, (to, digit): End, frame: Frame) {
        let body = frame.emit(self.links.overlay);
        self.out(Output::Send { to, digit, body });
    }

    pub(super) fn handle_frame(&mut self, now: Now, from: End, network: u64, frame: Frame) {
        match frame {
            Frame::Ask { member } => {
                if self.link_up(now, from, network, member) {
                    let member = self.is_member();
                    self.send_frame(from, Frame::Answer { member });
                }
            }
            Frame::Answer { member } => {
                let expected = self.links.up.contains_key(&from)
                    || self.links.is_dialling(from)
                    || self.links.is_dialling((from.0, PeerId::ANY));
                match expected {
                    true => drop(self.link_up(now, from, network, member)),
                    false => self.counters.ignored += 1,
                }
            }
            Frame::Close => {
                if let Some(link) = self.links.up.get(&from).map(|link| link.id) {
                    self.link_down(now, link);
                }
                for why in self.links.end_dials(from) {
                    self.dial_failed(now, from.0, why);
                }
            }
        }
    }

    /// A link stands, or is told once more to. False: there is no room for it.
    pub(super) fn link_up(&mut self, now: Now, end: End, network: u64, member: bool) -> bool {
        if end == self.own {
            return false;
        }
        if let Some(link) = self.links.up.get_mut(&end) {
            link.hear(now);
            let news = member && !std::mem::replace(&mut link.member, member);
            let id = link.id;
            if news {
                self.entry_link(now, id);
            }
            return true;
        }
        if self.links.up.len() >= MAX_LINKS {
            self.counters.links_refused += 1;
            self.send_frame(end, Frame::Close);
            return false;
        }
        let id = LinkId(self.links.next);
        self.links.next += 1;
        let peer = Id::of_address(&end.0, end.1);
        let link = Link {
            id,
            peer,
            heard: now.at,
            asked: now.at,
            missed: 0,
            used: false,
            member,
        };
        tracing::debug!(address = %end.0, %peer, member, "a link");
        self.links.up.insert(end, link);
        self.links.ends.insert(id, end);
        let made_for = self.links.end_dials(end);
        let info = LinkInfo {
            peer,
            mtu: Some(MAX_RELOAD),
            transport: LogTransport::Sealed,
            group: network,
        };
        self.node.link_up(now, id, info);
        self.entry.resolved(end.0);
        for why in made_for {
            if let Why::Ring(wanted) = why
                && wanted != peer
            {
                self.node.connect_failed(now, wanted);
            }
        }
        if member {
            self.entry_link(now, id);
        }
        true
    }

    fn link_down(&mut self, now: Now, link: LinkId) {
        if let Some((address, _)) = self.links.remove(link) {
            tracing::debug!(%address, "a link is gone");
        }
        self.node.link_down(now, link);
        if self.config.role == Role::Client {
            // Its record names the way to it.
            self.publisher.store_changed(now);
            self.register_again(now);
        }
    }

    /// Begins to make a link.
    pub(super) fn dial(
        &mut self,
        now: Now,
        end: End,
        why: Why,
        places: Vec<crate::anode::Place>,
        configured: bool,
    ) {
        let known = match why {
            Why::Bootstrap => self.links.to(end).is_some(),
            Why::Ring(_) => self.links.at(end).is_some(),
        };
        if known {
            return;
        }
        if self.links.dials.len() >= MAX_DIALS {
            self.counters.links_refused += 1;
            self.dial_failed(now, end.0, why);
            return;
        }
        let budget = match why {
            Why::Bootstrap => BOOTSTRAP_FOR,
            Why::Ring(_) => DIAL_FOR,
        };
        let dial = Dial {
            why,
            next: now.at,
            gap: DIAL_GAP,
            until: now.at + budget,
        };
        if self.links.dials.insert(end, dial).is_some() {
            self.entry.resolved(end.0);
        }
        self.out(Output::Reach {
            who: end.0,
            digit: end.1,
            places,
            configured,
        });
    }

    fn dial_failed(&mut self, now: Now, who: Address, why: Why) {
        match why {
            Why::Bootstrap => self.entry.failed(now, who),
            Why::Ring(peer) => self.node.connect_failed(now, peer),
        }
    }

    /// The node wants the link no longer.
    pub(super) fn close(&mut self, link: LinkId) {
        if self.close_own(link) {
            return;
        }
        if let Some(end) = self.links.remove(link) {
            self.send_frame(end, Frame::Close);
        }
    }

    /// Tells everybody that this node is part of the ring: who waits for that can come in.
    pub(super) fn tell_membership(&mut self) {
        if self.is_member() {
            let ends: Vec<End> = self.links.up.keys().copied().collect();
            for end in ends {
                self.send_frame(end, Frame::Answer { member: true });
            }
        }
    }

    /// Asks whoever there is a link to and is no member yet.
    pub(super) fn ask_outsiders(&mut self) {
        let outside = self.links.up.iter().filter(|(_, link)| !link.member);
        let ends: Vec<End> = outside.map(|(end, _)| *end).collect();
        let member = self.is_member();
        for end in ends {
            self.send_frame(end, Frame::Ask { member });
        }
    }

    /// Who stands in the tables; the others keep their links to this node alive as long as they need them. `None`: who is
    /// not part of the ring needs them all.
    fn needed(&self) -> Option<BTreeSet<Id>> {
        self.is_member().then(|| {
            let topology = self.node.topology();
            let (before, after) = topology.neighbours();
            let near = before.into_iter().chain(after);
            near.chain(topology.fingers()).collect()
        })
    }

    pub(super) fn run_links(&mut self, now: Now) {
        let member = self.is_member();
        let needed = self.needed();
        let (mut asks, mut dead) = (Vec::new(), Vec::new());
        for (end, link) in &mut self.links.up {
            if link.is_dead(now) {
                dead.push(link.id);
            } else if link.ask_at() <= now.at {
                link.asked = now.at;
                let is_needed = needed.as_ref().is_none_or(|all| all.contains(&link.peer));
                if is_needed || link.used {
                    link.missed += 1;
                    asks.push(*end);
                }
            }
        }
        let mut late = Vec::new();
        for (end, dial) in &mut self.links.dials {
            if dial.until <= now.at {
                late.push(*end);
            } else if dial.next <= now.at {
                dial.next = now.at + dial.gap;
                dial.gap = (dial.gap * 2).min(MAX_DIAL_GAP);
                asks.push(*end);
            }
        }
        for end in asks {
            self.send_frame(end, Frame::Ask { member });
        }
        for link in dead {
            self.counters.links_lost += 1;
            self.link_down(now, link);
        }
        for end in late {
            if let Some(dial) = self.links.dials.remove(&end) {
                self.dial_failed(now, end.0, dial.why);
            }
        }
    }
}

//! Ports that nobody has seen yet: a symmetric NAT gives the way to the peer another port than the way to the relays.
//!
//! | ours | theirs | who acts |
//! |---|---|---|
//! | sequence | stable | we measure a new socket, say which port comes next, and ask; they ask at the next ports |
//! | sequence | sequence | both: the lower address begins, each asks at the next ports of the other, in their order |
//! | random | stable | we knock from 256 sockets, they try up to 1,024 ports (a birthday search) |
//! | random | symmetric | nobody: two coincidences of 1 in 64,512 each |
use super::Node;
use super::offer::{Offer, Op, Ports};
use super::punch::{Relayed, Stage};
use super::sockets::Role;
use super::survey::{Purpose, own_source, second_port, step};
use crate::anode::peers::PeerRef;
use crate::anode::{Destination, Place, Sender};
use anode_wire::{Message, PeerId};
use rand_core::Rng as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Ports after the predicted one that are tried, too: other connections may have taken some.
const WINDOW: u16 = 24;
/// Of these at most, whatever the other side says.
const MAX_WINDOW: u16 = 32;
/// Tries by prediction.
const PREDICTIONS: u32 = 5;
/// A new socket must have been seen by then.
const MEASURED_WITHIN: Duration = Duration::from_millis(600);
/// Sockets that wait for a hit.
const SEARCH_SOCKETS: usize = 256;
/// They must stand by then.
const SOCKETS_WITHIN: Duration = Duration::from_millis(500);
/// A search is given up after this time.
const SEARCH_FOR: Duration = Duration::from_secs(9);
/// Ports that are tried: with 256 of 64,512 open, 98 of 100 searches hit.
const SWEEP_PORTS: u32 = 1024;
/// So many at a time, in this rhythm: 320 a second.
const SWEEP_BATCH: u32 = 8;
const SWEEP_EVERY: Duration = Duration::from_millis(25);
/// Ports that NATs give: those from 1,024 on.
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT;
/// The other side has told us where to aim by then.
const AIM_WITHIN: Duration = Duration::from_secs(3);

/// A new socket is opened and looked at from two places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Measuring {
    socket: usize,
    /// Where the peer has told us to aim, if it began.
    aim: Option<Aim>,
    /// Ports seen, in the order of the questions.
    seen: [Option<SocketAddr>; 2],
    until: Instant,
}

impl Measuring {
    pub fn deadline(&self) -> Instant {
        self.until
    }
}

/// Ports to be tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Aim {
    base: SocketAddr,
    step: i16,
    window: u16,
}

impl Aim {
    fn of(offer: &Offer) -> Option<Self> {
        Some(Self {
            base: *offer.places.iter().find(|at| at.is_ipv4())?,
            step: offer.step,
            window: offer.window.clamp(1, MAX_WINDOW),
        })
    }

    fn ports(self) -> impl Iterator<Item = SocketAddr> {
        let (base, step) = (i32::from(self.base.port()), i32::from(self.step));
        let ports = (0..i32::from(self.window)).map(move |index| base + step * index);
        let ports = ports.filter_map(|port| u16::try_from(port).ok().filter(|port| *port > 0));
        ports.map(move |port| SocketAddr::new(self.base.ip(), port))
    }
}

/// A hole is expected at this socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Aiming {
    socket: usize,
    pub until: Instant,
}

/// Sockets are being opened, then wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Searching {
    /// Where every socket knocks.
    at: SocketAddr,
    /// When the other side is told at the latest; `None`: it was.
    tell: Option<Instant>,
    until: Instant,
}

impl Searching {
    pub fn deadline(&self) -> Instant {
        self.tell.unwrap_or(self.until)
    }
}

/// Ports of one address, in an order of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Sweeping {
    target: IpAddr,
    start: u32,
    /// Has no divisor in common with the number of ports: all come, each once.
    stride: u32,
    tried: u32,
    pub next: Instant,
}

impl Sweeping {
    fn port(&self, index: u32) -> u16 {
        let step = u64::from(index) * u64::from(self.stride) % u64::from(PORTS);
        // Below 65,536.
        (FIRST_PORT + (self.start + step as u32) % PORTS) as u16
    }
}

impl Node {
    /// Asking where the peer says it is has shown nothing. True: ports are guessed from here on, by us or by the peer.
    pub(super) fn guess(&mut self, now: Instant, found: PeerRef) -> bool {
        let Some(hole) = self.direct.holes.get(&found) else {
            return false;
        };
        let Some(peer) = self.peers.get(found) else {
            return false;
        };
        if !self.has_common_family(found) {
            return false;
        }
        let (own, theirs) = (self.own_ports(), hole.their_ports);
        let begin = self.own.address.as_bytes() < peer.address.as_bytes();
        match (own, theirs) {
            (Ports::None, _) | (_, Ports::None) => return false,
            (Ports::Sequence, Ports::Sequence) if begin => self.measure(now, found, None),
            (Ports::Sequence, Ports::Stable | Ports::Unknown) => self.measure(now, found, None),
            (Ports::Random, Ports::Stable | Ports::Unknown) => self.search_ports(now, found),
            (Ports::Sequence, Ports::Sequence)
            | (Ports::Stable | Ports::Unknown, Ports::Sequence | Ports::Random) => {
                let until = now + AIM_WITHIN;
                self.set_stage(found, Stage::Waiting { until });
            }
            (Ports::Random, Ports::Sequence | Ports::Random) | (Ports::Sequence, Ports::Random) => {
                self.rest(now, found, Relayed::BothSymmetric);
            }
            (Ports::Stable | Ports::Unknown, Ports::Stable | Ports::Unknown) => return false,
        }
        true
    }

    /// Opens a socket to see which port comes next.
    fn measure(&mut self, now: Instant, found: PeerRef, aim: Option<Aim>) {
        let Some(hole) = self.direct.holes.get_mut(&found) else {
            return;
        };
        if hole.guesses >= PREDICTIONS {
            return self.rest(now, found, Relayed::NotHit);
        }
        hole.guesses += 1;
        let Some(socket) = self.direct.sockets.order(Role::Hole, Some(found)) else {
            return self.rest(now, found, Relayed::OverBudget);
        };
        let measuring = Measuring {
            socket,
            aim,
            seen: [None; 2],
            until: now + MEASURED_WITHIN + self.patience(found),
        };
        self.set_stage(found, Stage::Measuring(measuring));
        self.schedule_hole(now, found);
    }

    /// A socket for a hole stands, or cannot be had.
    pub(super) fn note_hole_socket(
        &mut self,
        now: Instant,
        found: PeerRef,
        number: usize,
        stands: bool,
    ) {
        match self.direct.holes.get(&found).map(|hole| hole.stage.clone()) {
            Some(Stage::Measuring(measuring)) if measuring.socket == number => match stands {
                true => self.look_at(now, found, number),
                false => self.rest(now, found, Relayed::OverBudget),
            },
            Some(Stage::Searching(searching)) if stands => {
                self.knock(now, found, searching.at, number);
                let mut open = self.direct.sockets.of(found).into_iter();
                if searching.tell.is_some() && open.all(|one| self.direct.sockets.is_open(one)) {
                    self.search_on(now, found, searching);
                    self.schedule_hole(now, found);
                }
            }
            _ => {}
        }
    }

    /// Two relays, or the two ports of one, say where they see a socket.
    fn look_at(&mut self, now: Instant, found: PeerRef, socket: usize) {
        let relays = self.relays_in_use();
        let places = relays
            .iter()
            .filter_map(|relay| Some((*relay, self.datagrams_to(*relay, true)?.0)));
        let mut places: Vec<(PeerRef, SocketAddr)> = places.collect();
        if let [(relay, at)] = places[..]
            && let Some(second) = second_port(at)
        {
            places.push((relay, second));
        }
        for (relay, at) in places.into_iter().take(2) {
            let purpose = Purpose::Hole(found);
            self.ask_netid(now, relay, at.into(), socket, own_source(true), purpose);
        }
    }

    /// A new socket was seen. The questions left in order, so that the order of the answers says enough: ports of a sequence
    /// are as far from the later one as they are from each other.
    pub(super) fn note_hole_seen(
        &mut self,
        now: Instant,
        found: PeerRef,
        socket: usize,
        seen: SocketAddr,
    ) {
        let Some(hole) = self.direct.holes.get_mut(&found) else {
            return;
        };
        let Stage::Measuring(measuring) = &mut hole.stage else {
            return;
        };
        if measuring.socket != socket {
            return;
        }
        match measuring.seen {
            [None, _] => measuring.seen[0] = Some(seen),
            [Some(_), None] => {
                measuring.seen[1] = Some(seen);
                self.take_measure(now, found);
            }
            _ => {}
        }
    }

    pub(super) fn measuring_is_late(&mut self, now: Instant, found: PeerRef, late: &Measuring) {
        match late.seen[0] {
            Some(_) => self.take_measure(now, found),
            None => {
                self.direct.sockets.close(late.socket);
                self.measure(now, found, late.aim);
            }
        }
    }

    /// The next port is known, as far as it can be: the peer is told, and both ask.
    fn take_measure(&mut self, now: Instant, found: PeerRef) {
        let Some(hole) = self.direct.holes.get(&found) else {
            return;
        };
        let Stage::Measuring(measuring) = hole.stage.clone() else {
            return;
        };
        let (token, theirs, their_ports) = (hole.token, hole.theirs.clone(), hole.their_ports);
        let [Some(first), second] = measuring.seen else {
            return;
        };
        // One answer alone: the most common sequence is the simplest.
        let (latest, step) = match second {
            Some(second) => (second, step(first.port(), second.port())),
            None => (first, Some(1)),
        };
        let Some(step) = step else {
            return self.rest(now, found, Relayed::NotHit);
        };
        // Answers may come in the wrong order: of two, the later port is the one further on in the sequence, whichever way
        // sequences go, and upwards is the way that they go.
        let (latest, step) = match (second, step < 0) {
            (Some(_), true) => (first, -step),
            _ => (latest, step),
        };
        let base = SocketAddr::new(latest.ip(), latest.port().saturating_add_signed(step));
        let offer = Offer {
            op: match measuring.aim {
                Some(_) => Op::Aimed,
                None => Op::Aim,
            },
            token,
            places: vec![base],
            ports: Ports::Sequence,
            step,
            window: WINDOW,
        };
        let offer = match measuring.aim {
            Some(_) => Offer {
                token: self.their_token(found),
                ..offer
            },
            None => offer,
        };
        self.send_nat_t(now, found, &offer);
        match measuring.aim {
            Some(aim) => self.fire(now, found, aim, measuring.socket),
            None if their_ports.is_symmetric() => {}
            None => {
                for at in theirs.into_iter().filter(SocketAddr::is_ipv4).take(3) {
                    if self.affords(now, at.ip(), 1) {
                        self.punch(now, found, at, measuring.socket);
                    }
                }
            }
        }
        let until = now + self.patience(found) * 2 + Duration::from_millis(200);
        let socket = measuring.socket;
        self.set_stage(found, Stage::Aiming(Aiming { socket, until }));
        self.schedule_hole(now, found);
    }

    /// Asks at predicted ports, in their order.
    fn fire(&mut self, now: Instant, found: PeerRef, aim: Aim, socket: usize) {
        if !self.affords(now, aim.base.ip(), aim.window.into()) {
            return;
        }
        for at in aim.ports() {
            self.punch(now, found, at, socket);
        }
    }

    /// The peer says which ports its NAT will give to us.
    pub(super) fn aim_back(&mut self, now: Instant, found: PeerRef, offer: &Offer) {
        let Some(aim) = Aim::of(offer) else {
            self.counters.refused_offers += 1;
            return;
        };
        let own = self.own_ports();
        if let Some(hole) = self.direct.holes.get_mut(&found) {
            hole.their_ports = offer.ports;
            hole.note_their_token(offer.token);
        }
        match (offer.ports, own) {
            // One that has not heard where we are aims at what leads nowhere.
            _ if !self.has_common_family(found) => {
                self.rest(now, found, Relayed::NoCommonFamily);
            }
            (Ports::Random, Ports::Random | Ports::Sequence) => {
                self.rest(now, found, Relayed::BothSymmetric);
            }
            (Ports::Random, _) => self.sweep(now, found, aim.base.ip()),
            (_, Ports::Sequence) => self.measure(now, found, Some(aim)),
            (_, Ports::Random) => self.rest(now, found, Relayed::BothSymmetric),
            _ => {
                if let Some(socket) = self.socket_for(&Place::Udp(aim.base)) {
                    self.fire(now, found, aim, socket);
                }
                let until = now + AIM_WITHIN;
                self.set_stage(found, Stage::Waiting { until });
                self.schedule_hole(now, found);
            }
        }
    }

    /// The answer to where we will be: the ports where the peer will be.
    pub(super) fn take_aim(&mut self, now: Instant, found: PeerRef, offer: &Offer) {
        let stage = self.direct.holes.get(&found).map(|hole| hole.stage.clone());
        match (stage, Aim::of(offer)) {
            (Some(Stage::Aiming(Aiming { socket, .. })), Some(aim)) => {
                self.fire(now, found, aim, socket);
            }
            _ => self.counters.refused_offers += 1,
        }
    }

    /// The prediction was wrong, or something was lost: once more, from a new socket.
    pub(super) fn aimed_in_vain(&mut self, now: Instant, found: PeerRef) {
        let Some(hole) = self.direct.holes.get(&found) else {
            return;
        };
        let peer = self.peers.get(found);
        let begins = peer.is_some_and(|peer| self.own.address.as_bytes() < peer.address.as_bytes());
        if let Stage::Aiming(Aiming { socket, .. }) = hole.stage {
            self.direct.sockets.close(socket);
        }
        match hole.their_ports.is_symmetric() && !begins {
            // The other side begins again.
            true => {
                let until = now + AIM_WITHIN;
                self.set_stage(found, Stage::Waiting { until });
            }
            false => self.measure(now, found, None),
        }
    }

    /// Opens many sockets: each will have a port of its own on the NAT.
    fn search_ports(&mut self, now: Instant, found: PeerRef) {
        let theirs = self
            .direct
            .holes
            .get(&found)
            .map(|hole| hole.theirs.clone());
        let at = theirs.and_then(|theirs| theirs.into_iter().find(SocketAddr::is_ipv4));
        let Some(at) = at else {
            return self.rest(now, found, Relayed::NothingThrough);
        };
        if !self.affords_search(now, at.ip()) {
            return self.rest(now, found, Relayed::OverBudget);
        }
        let mut ordered = 0;
        while ordered < SEARCH_SOCKETS {
            if self.direct.sockets.order(Role::Hole, Some(found)).is_none() {
                break;
            }
            ordered += 1;
        }
        if let Some(hole) = self.direct.holes.get_mut(&found) {
            hole.guesses += 1;
        }
        self.counters.searches += 1;
        let searching = Searching {
            at,
            tell: Some(now + SOCKETS_WITHIN),
            until: now + SEARCH_FOR,
        };
        self.set_stage(found, Stage::Searching(searching));
        self.schedule_hole(now, found);
    }

    /// The sockets stand: the other side is told to try. Later: nothing has come of it.
    pub(super) fn search_on(&mut self, now: Instant, found: PeerRef, searching: Searching) {
        if searching.tell.is_none() {
            return self.rest(now, found, Relayed::NotHit);
        }
        let seen = self.direct.survey.external();
        let Some(own) = seen.into_iter().rev().find(SocketAddr::is_ipv4) else {
            return self.rest(now, found, Relayed::NotHit);
        };
        let offer = Offer {
            op: Op::Aim,
            token: self.direct.holes.get(&found).map_or(0, |hole| hole.token),
            places: vec![own],
            ports: Ports::Random,
            step: 0,
            window: 0,
        };
        self.send_nat_t(now, found, &offer);
        let waiting = Searching {
            tell: None,
            ..searching
        };
        self.set_stage(found, Stage::Searching(waiting));
    }

    /// Tries ports of the peer's NAT, one after the other.
    fn sweep(&mut self, now: Instant, found: PeerRef, target: IpAddr) {
        let hole = self.direct.holes.get(&found);
        if hole.is_some_and(|hole| matches!(hole.stage, Stage::Sweeping(_))) {
            return;
        }
        if !self.affords_search(now, target) {
            return self.rest(now, found, Relayed::OverBudget);
        }
        self.counters.searches += 1;
        let mut stride = 1 + self.rng.next_u32() % (PORTS - 1);
        // 64,512 = 2^10 × 3^2 × 7
        while stride.is_multiple_of(2) || stride.is_multiple_of(3) || stride.is_multiple_of(7) {
            stride = stride % (PORTS - 1) + 1;
        }
        let sweeping = Sweeping {
            target,
            start: self.rng.next_u32() % PORTS,
            stride,
            tried: 0,
            next: now,
        };
        self.set_stage(found, Stage::Sweeping(sweeping));
        self.sweep_on(now, found, sweeping);
        self.schedule_hole(now, found);
    }

    pub(super) fn sweep_on(&mut self, now: Instant, found: PeerRef, sweeping: Sweeping) {
        let from_there = |path: &crate::anode::path::Path| {
            path.credit.is_some() && !path.is_relayed() && path.endpoint.ip() == sweeping.target
        };
        let peer = self.peers.get(found);
        let is_hit = peer.is_some_and(|peer| peer.paths.iter().any(from_there));
        if is_hit || sweeping.tried >= SWEEP_PORTS {
            let until = now + Duration::from_secs(2);
            return self.set_stage(found, Stage::Waiting { until });
        }
        let to = sweeping.tried + SWEEP_BATCH;
        for index in sweeping.tried..to {
            let at = SocketAddr::new(sweeping.target, sweeping.port(index));
            if let Some(socket) = self.socket_for(&Place::Udp(at)) {
                self.knock(now, found, at, socket);
            }
        }
        let further = Sweeping {
            tried: to,
            next: now + SWEEP_EVERY,
            ..sweeping
        };
        self.set_stage(found, Stage::Sweeping(further));
    }

    /// An EPC_REQ whose answer nobody waits for: whoever it reaches asks back.
    fn knock(&mut self, now: Instant, found: PeerRef, at: SocketAddr, socket: usize) {
        let destination = Destination {
            to: at.into(),
            socket,
            source: None,
        };
        let id = self.rng.next_u32();
        self.counters.tx_punches += 1;
        let question = Message::EpcReq { id };
        self.send_control_to(
            now,
            found,
            PeerId::ANY,
            destination,
            Sender::Full,
            &question,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_tries_every_port_once() {
        let sweeping = Sweeping {
            target: IpAddr::from([198, 51, 100, 1]),
            start: 60_000,
            stride: 12_345 * 2 + 1,
            tried: 0,
            next: Instant::now(),
        };
        let mut ports: Vec<u16> = (0..PORTS).map(|index| sweeping.port(index)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((ports.len() as u32, ports[0]), (PORTS, 1024));
    }

    #[test]
    fn predicted_ports_come_in_their_order_and_end_with_the_numbers() {
        let aim = |port: u16, step, window| Aim {
            base: SocketAddr::from(([198, 51, 100, 1], port)),
            step,
            window,
        };
        let ports = |aim: Aim| aim.ports().map(|at| at.port()).collect::<Vec<_>>();
        assert_eq!(ports(aim(40_000, 2, 3)), [40_000, 40_002, 40_004]);
        assert_eq!(ports(aim(65_534, 1, 10)), [65_534, 65_535]);
        assert_eq!(ports(aim(2, -1, 10)), [2, 1]);
    }
}

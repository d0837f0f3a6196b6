//! A machine with several ways out. The kernel's routes choose one, and do not notice when that one dies beyond the cable: a
//! modem that has lost its line, a router that hangs.
//!
//! A path that was good and owes its answer is asked over the other uplinks, too, each through a socket bound to its interface.
//! Where the answer comes in, the path goes on, and whatever is begun from then on goes out there. The kernel's way is asked
//! again now and then, and taken when it answers. Who is on one of our links is asked there and nowhere else.
use super::sockets::Role;
use crate::anode::limits::{Bucket, Rate};
use crate::anode::path::{Origin, Path, Spot};
use crate::anode::peer::Peer;
use crate::anode::peers::PeerRef;
use crate::anode::{Interface, Node, Place, Timer};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Uplinks that are tried beside the kernel's own.
const MAX_OTHERS: usize = 3;
/// Questions over other uplinks.
const QUESTIONS: Rate = Rate::per_second(50, 100);
/// The kernel's way is asked again after this time, which doubles whenever it has died once more.
const BACK_AFTER: Duration = Duration::from_secs(30);
const LONGEST_BACK_AFTER: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Default)]
pub(super) struct Uplinks {
    questions: Bucket,
    /// How long the kernel's way is left alone.
    back_after: Duration,
}

impl Node {
    /// The socket over the uplink in use, where that is not the kernel's to say.
    pub(in crate::anode) fn socket_over_way(&self, to: &SocketAddr) -> Option<usize> {
        let way = self.direct.sockets.way?;
        let socket = self.direct.sockets.over(way, to.is_ipv4())?;
        let usable = self.direct.sockets.is_open(socket) && !self.is_near(to.ip());
        usable.then_some(socket)
    }

    /// On one of our links, or on this machine.
    fn is_near(&self, ip: IpAddr) -> bool {
        let on_link = |one: &Interface| one.is_on_link(ip, one.index);
        ip.is_loopback() || self.links.now.iter().any(on_link)
    }

    /// A path that was good, or the only one known of a relay, does not answer where it is asked.
    fn wants_other_way(&self, peer: &Peer, path: &Path) -> bool {
        let known = peer.sources.zone && path.origin == Origin::Configured;
        let silent = path.is_suspect() || known && path.is_unanswered();
        let at = path.endpoint.udp();
        silent && !path.is_relayed() && at.is_some_and(|at| !self.is_near(at.ip()))
    }

    /// Whether `path` goes over to the socket that an answer has come through; `sent`: when it was asked there.
    pub(in crate::anode) fn moves_over(&self, path: &Path, socket: usize, sent: Instant) -> bool {
        if path.socket == socket || !path.is_proven() || path.is_suspect() {
            return true;
        }
        let sockets = &self.direct.sockets;
        match (sockets.uplink(path.socket), sockets.uplink(socket)) {
            // It has another way, which works: only the one that is in use anyway is better.
            (_, Some(uplink)) => sockets.way == Some(uplink) && path.asked_since().is_some(),
            // Back to where the kernel would send it, but not on an answer that was only late.
            (Some(_), None) => !path.is_proven_since(sent),
            (None, None) => true,
        }
    }

    /// Asks the peer's silent paths over the other ways out; sockets that are still to be opened ask when they stand.
    pub(in crate::anode) fn ask_over_uplinks(&mut self, now: Instant, found: PeerRef) {
        if self.links.uplinks().nth(1).is_none() {
            return;
        }
        let Some(peer) = self.peers.get(found) else {
            return;
        };
        let silent = peer.paths.iter();
        let silent: Vec<Spot> = silent
            .filter(|path| self.wants_other_way(peer, path))
            .map(Path::spot)
            .collect();
        for spot in silent {
            for socket in self.other_sockets(&spot) {
                self.ask_over(now, found, spot, socket);
            }
        }
    }

    /// The sockets over all uplinks but the one that a path takes, ordered where there are none yet.
    fn other_sockets(&mut self, spot: &Spot) -> Vec<usize> {
        let taken = self.direct.sockets.uplink(spot.socket);
        let v4 = spot.endpoint.udp().is_some_and(|at| at.is_ipv4());
        let mut others = Vec::new();
        // The best of them is where the kernel sends to: the main socket stands for it.
        if taken.is_some() {
            others.extend(self.main_socket_for(&spot.endpoint));
        }
        let bound: Vec<u32> = self.links.uplinks().skip(1).take(MAX_OTHERS).collect();
        for interface in bound {
            if taken == Some(interface) {
                continue;
            }
            let sockets = &mut self.direct.sockets;
            match sockets.over(interface, v4) {
                Some(socket) if sockets.is_open(socket) => others.push(socket),
                Some(_) => {}
                None => drop(sockets.order_over(interface, v4)),
            }
        }
        others
    }

    fn ask_over(&mut self, now: Instant, found: PeerRef, spot: Spot, socket: usize) {
        if self.direct.uplinks.questions.take(now, QUESTIONS) {
            self.counters.tx_other_uplinks += 1;
            self.send_check(now, found, Spot { socket, ..spot });
        } else {
            self.counters.dropped_checks += 1;
        }
    }

    /// A socket over an uplink stands, or cannot be had.
    pub(super) fn uplink_opened(&mut self, now: Instant, socket: usize) {
        if !self.direct.sockets.is_open(socket) {
            return;
        }
        let swept = now + super::SWEEP_EVERY;
        self.timers
            .set(Timer::Sockets, swept, "sockets nobody needs");
        let mut silent = Vec::new();
        for (found, peer) in self.peers.iter() {
            let paths = peer.paths.iter();
            let here = paths.filter(|path| {
                self.wants_other_way(peer, path) && self.reaches(socket, &path.endpoint)
            });
            silent.extend(here.map(|path| (found, path.spot())));
        }
        for (found, spot) in silent {
            self.ask_over(now, found, spot, socket);
        }
    }

    /// An answer has moved a path to another socket: that one's way is the one that works.
    pub(in crate::anode) fn note_way(
        &mut self,
        now: Instant,
        found: PeerRef,
        at: &Place,
        socket: usize,
    ) {
        let far = at.udp().is_some_and(|at| !self.is_near(at.ip()));
        let way = self.direct.sockets.uplink(socket);
        let tells = way.is_some() || self.role(socket) == Some(Role::Main);
        if !far || !tells {
            return;
        }
        // What it was asked over the old way was asked in vain.
        self.relay_reached(now, found);
        if way == self.direct.sockets.way {
            return;
        }
        self.direct.sockets.way = way;
        self.counters.uplink_changes += 1;
        self.places_changed += 1;
        if way.is_some() {
            let wait = &mut self.direct.uplinks.back_after;
            *wait = (*wait * 2).clamp(BACK_AFTER, LONGEST_BACK_AFTER);
            let at = now + *wait;
            self.timers
                .set(Timer::Uplinks, at, "the better uplink again");
        }
        self.ask_all_over(now, socket);
        self.moved(now);
    }

    /// Asks all that is far, and in use, over a socket.
    fn ask_all_over(&mut self, now: Instant, socket: usize) {
        let mut far = Vec::new();
        for (found, peer) in self.peers.iter() {
            let wanted = peer.sources.zone || peer.is_in_use(now);
            for path in peer.paths.iter().filter(|_| wanted) {
                let at = path.endpoint.udp().filter(|at| !self.is_near(at.ip()));
                let elsewhere = path.socket != socket && self.reaches(socket, &path.endpoint);
                if at.is_some() && path.is_proven() && !path.is_relayed() && elsewhere {
                    far.push((found, path.spot()));
                }
            }
        }
        for (found, spot) in far {
            self.ask_over(now, found, spot, socket);
        }
    }

    /// Whether the kernel's way works again.
    pub(in crate::anode) fn handle_uplinks_timer(&mut self, now: Instant) {
        if self.direct.sockets.way.is_none() {
            return;
        }
        let main = 0..self.sockets.len();
        main.for_each(|socket| self.ask_all_over(now, socket));
        let at = now + self.direct.uplinks.back_after;
        self.timers
            .set(Timer::Uplinks, at, "the better uplink again");
    }

    /// The interfaces are others: what went over one that is no uplink any more goes where the kernel says.
    pub(in crate::anode) fn follow_uplinks(&mut self, now: Instant) {
        self.direct.uplinks.back_after = Duration::ZERO;
        let links = &self.links;
        let is_uplink = |index: u32| links.uplinks().any(|uplink| uplink == index);
        let lost = self.direct.sockets.without_uplink(is_uplink);
        if self.direct.sockets.way.is_some_and(|way| !is_uplink(way)) {
            self.direct.sockets.way = None;
        }
        for socket in lost {
            self.direct.sockets.close(socket);
            self.leave_socket(socket);
        }
        self.handle_uplinks_timer(now);
    }

    /// A socket is gone: what went through it goes through a main one.
    fn leave_socket(&mut self, socket: usize) {
        let used = |path: &Path| path.socket == socket;
        let peers = self.peers.iter();
        let users = peers.filter(|(_, peer)| peer.paths.iter().any(used));
        let users: Vec<PeerRef> = users.map(|(found, _)| found).collect();
        for found in users {
            let Some(peer) = self.peers.get(found) else {
                continue;
            };
            let chosen: Vec<Option<usize>> = peer
                .paths
                .iter()
                .map(|path| used(path).then(|| self.socket_for(&path.endpoint))?)
                .collect();
            if let Some(peer) = self.peers.get_mut(found) {
                for (path, socket) in peer.paths.iter_mut().zip(chosen) {
                    path.socket = socket.unwrap_or(path.socket);
                }
            }
        }
    }
}

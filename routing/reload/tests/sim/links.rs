//! Links: they come up at both ends, fall silent, break with their nodes and at a partition.
use super::{Sim, What};
use anode_reload::route_log::LogTransport;
use anode_reload::{Id, LinkId, LinkInfo};
use rand::RngExt as _;
use std::collections::BTreeSet;
use std::time::Duration;

/// Both ends, and when each last heard of the other: `None` at an end that has no link any more.
pub(super) struct Link {
    pub(super) ends: (usize, usize),
    pub(super) heard: [Option<Duration>; 2],
}

impl Link {
    fn side(&self, place: usize) -> usize {
        usize::from(self.ends.1 == place)
    }
}

/// How often a node asks those who stand in its tables whether they are there, and how long it keeps a link that is silent, as
/// the program does inside sealed sessions.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(15);
const SILENT_FOR: Duration = Duration::from_secs(45);

impl Sim {
    /// A link between two nodes; both learn of it.
    pub fn link(&mut self, a: usize, b: usize) -> Option<u64> {
        if self.members[a].is_none() || self.members[b].is_none() || self.apart(a, b) {
            return None;
        }
        let link = self.next_link;
        self.next_link += 1;
        let heard = [Some(self.at); 2];
        let ends = (a, b);
        self.links.insert(link, Link { ends, heard });
        for place in [a, b] {
            self.of_node[place].push(link);
            let joining = self.members[place].as_ref().is_some_and(|it| !it.joined);
            if joining {
                self.most_links = self.most_links.max(self.of_node[place].len());
            }
        }
        let (id_a, id_b) = (self.id(a), self.id(b));
        let later = self.at + self.latency();
        self.push(
            later,
            What::LinkUp {
                node: b,
                link,
                peer: id_a,
            },
        );
        self.link_up(a, link, id_b);
        Some(link)
    }

    pub(super) fn link_up(&mut self, place: usize, link: u64, peer: Id) {
        let info = LinkInfo {
            peer,
            mtu: self.mtu,
            transport: LogTransport::Sealed,
            group: 0,
        };
        self.with(place, |node, now| node.link_up(now, LinkId(link), info));
    }

    pub(super) fn other_end(&self, link: u64, place: usize) -> Option<usize> {
        let (a, b) = self.links.get(&link)?.ends;
        Some(if a == place { b } else { a })
    }

    /// Something of a link's other end has come to `place`; where that link had fallen silent, it stands again, as in the program.
    pub(super) fn hear(&mut self, number: u64, place: usize) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let side = link.side(place);
        let sender = if side == 0 { link.ends.1 } else { link.ends.0 };
        let stands = link.heard[side].is_some();
        if stands || self.ends_silent_links {
            link.heard[side] = Some(self.at);
        }
        let peer = self.members[sender].as_ref().map(|member| member.node.id());
        if let Some(peer) = peer
            && !stands
            && self.ends_silent_links
            && self.members[place].is_some()
        {
            self.of_node[place].push(number);
            self.link_up(place, number, peer);
        }
    }

    /// A node has no such link any more; the other end still may.
    pub(super) fn end_link(&mut self, place: usize, number: u64) {
        self.of_node[place].retain(|other| *other != number);
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let side = link.side(place);
        link.heard[side] = None;
        if link.heard == [None; 2] {
            self.links.remove(&number);
        }
    }

    /// Asks whoever stands in the node's tables, and ends the links that are silent at this end. A dead peer's links end by
    /// [`Sim::kill`], and those across a partition by [`Sim::partition`].
    pub(super) fn sweep(&mut self, place: usize) {
        let Some(member) = self.members[place].as_ref() else {
            return;
        };
        // who is no part of the ring yet needs all of its links
        let needed = member.joined.then(|| {
            let topology = member.node.topology();
            let (before, after) = topology.neighbours();
            let near = before.into_iter().chain(after);
            near.chain(topology.fingers()).collect::<BTreeSet<Id>>()
        });
        let mut silent = Vec::new();
        for number in self.of_node[place].clone() {
            let Some(link) = self.links.get_mut(&number) else {
                continue;
            };
            let (own, other) = (link.side(place), 1 - link.side(place));
            let ends = [link.ends.0, link.ends.1];
            let Some(peer) = &self.members[ends[other]] else {
                continue;
            };
            if self.partitioned && self.side[ends[0]] != self.side[ends[1]] {
                continue;
            }
            let quiet = |time| link.heard[own].is_some_and(|heard| heard + time <= self.at);
            let is_needed = needed
                .as_ref()
                .is_none_or(|needed| needed.contains(&peer.node.id()));
            if is_needed && quiet(ASK_EVERY) {
                self.asks += 1;
                if link.heard[other].is_some() {
                    link.heard = [Some(self.at); 2];
                }
            }
            if link.heard[own].is_some_and(|heard| heard + SILENT_FOR <= self.at) {
                silent.push(number);
            }
        }
        let next = self.at + ASK_EVERY;
        self.push(next, What::Sweep { node: place });
        for number in silent {
            self.end_link(place, number);
            self.with(place, |node, now| node.link_down(now, LinkId(number)));
        }
    }

    /// Cuts the network in two by `side`; links across fail after the keep-alive.
    pub fn partition(&mut self) {
        self.partitioned = true;
        let mut across: Vec<(u64, usize, usize)> = self
            .links
            .iter()
            .map(|(link, Link { ends: (a, b), .. })| (*link, *a, *b))
            .filter(|(_, a, b)| self.side[*a] != self.side[*b])
            .collect();
        across.sort();
        for (link, a, b) in across {
            self.notice_later(a, link);
            self.notice_later(b, link);
        }
    }

    /// Sudden death: the others notice when their keep-alives fail.
    pub fn kill(&mut self, place: usize) {
        let Some(member) = self.members[place].take() else {
            return;
        };
        self.index.remove(&member.node.id());
        for link in self.of_node[place].clone() {
            let other = self.other_end(link, place);
            self.end_link(place, link);
            if let Some(other) = other {
                self.notice_later(other, link);
            }
        }
    }

    /// A link's keep-alive fails at this node.
    fn notice_later(&mut self, node: usize, link: u64) {
        let share = self.rng.random_range(0.66..1.0);
        let at = self.at + self.keepalive.mul_f64(share);
        self.push(at, What::LinkDown { node, link });
    }
}

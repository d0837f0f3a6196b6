//! The machine's own interfaces: what a change of them sets going, and how often it may.
//!
//! A link that flaps, or whoever can make it look so, must not make a node flood its peers with questions: a few changes are
//! followed at once, the next ones when the budget allows it, and then only the last of them counts.
use super::limits::{Bucket, Rate};
use super::peers::PeerRef;
use super::{Interface, Node, Timer};
use std::time::{Duration, Instant};

/// Changes that are followed: an uplink that is switched makes three or four, of links and addresses.
const FOLLOWED: Rate = Rate {
    interval: Duration::from_secs(1),
    burst: 5,
};

/// The interfaces, without the overlay's own.
#[derive(Default)]
pub(super) struct Links {
    pub now: Vec<Interface>,
    /// A change that nobody has been told of yet.
    unfollowed: bool,
    budget: Bucket,
}

impl Links {
    /// The interfaces that lead out, by their indices; where the kernel's routes lead first.
    pub fn uplinks(&self) -> impl Iterator<Item = u32> {
        let known = self.now.iter();
        let mut uplinks: Vec<(u32, u32)> = known
            .filter_map(|one| Some((one.uplink?, one.index)))
            .collect();
        uplinks.sort_unstable();
        uplinks.into_iter().map(|(_, index)| index)
    }
}

impl Node {
    /// The interfaces, without the overlay's own. A change starts a new round of beacons and questions to everybody, a few
    /// times at once and then once a second.
    pub fn set_interfaces(&mut self, now: Instant, interfaces: Vec<Interface>) {
        if interfaces == self.links.now {
            return;
        }
        self.links.now = interfaces;
        self.places_changed += 1;
        if self.links.unfollowed {
            self.counters.link_changes_joined += 1;
            return;
        }
        self.links.unfollowed = true;
        self.handle_links_timer(now);
    }

    pub(super) fn handle_links_timer(&mut self, now: Instant) {
        if !self.links.unfollowed {
            return;
        }
        if !self.links.budget.take(now, FOLLOWED) {
            let at = now + FOLLOWED.interval;
            return self.timers.set(Timer::Links, at, "flapping link");
        }
        self.links.unfollowed = false;
        self.counters.link_changes += 1;
        self.announce(now);
        self.follow_uplinks(now);
        self.moved(now);
    }

    /// We are elsewhere, or reach the others by another way: they must hear of it, and what is left must be found out.
    pub(super) fn moved(&mut self, now: Instant) {
        self.check_all_paths(now);
        self.doubt_registrations(now);
        self.network_changed(now);
        self.rendezvous_moved(now);
    }

    /// Our addresses have changed: a question on every proven path tells the peers where we are now, and us which paths are left.
    fn check_all_paths(&mut self, now: Instant) {
        let connected: Vec<PeerRef> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.has_proven_path())
            .map(|(found, _)| found)
            .collect();
        for found in connected {
            if let Some(peer) = self.peers.get_mut(found) {
                for path in &mut peer.paths {
                    path.check(now);
                    path.size.doubt();
                }
                peer.want_datagrams(now);
            }
            self.handle_peer_timer(now, found);
        }
    }
}

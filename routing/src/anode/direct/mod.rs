//! Direct paths between peers that first reach each other over a relay (DESIGN §7, D24, D26, Q28; docs/protocol.md, "Holes in NATs").
//!
//! ```text
//!   relayed, and in use ─▶ punch ── NAT_T over the relay: "I am at these places" ──▶ both ask there (EPC_REQ) ─▶ proven path
//!        ▲                   │ nothing came through, and a NAT gives each destination another port
//!   survey: NETID ──▶ ports  └─▶ guess: the next port of a sequence · 256 sockets against 1,024 guesses
//!                                         ▲
//!                               sockets: beside the main ones, ordered from whoever owns the sockets
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `survey` | where others see us, and what that says of the NAT |
//! | `offer` | the messages between the two sides |
//! | `places` | where we may be, and whether two can meet at all |
//! | `punch` | one peer's way from relayed to direct, and why it is not there |
//! | `guess` | ports that nobody has seen yet |
//! | `sockets` | more sockets than the main ones |
//! | `uplinks` | other ways out of this machine, when the kernel's is dead |
//! | `netcheck` | the whole picture, for people |
//!
//! Nothing of this decides where traffic goes: a place becomes a path by its EPC alone, and paths are ranked as ever.
mod guess;
mod netcheck;
mod offer;
mod places;
mod punch;
mod sockets;
mod survey;
mod uplinks;

pub use netcheck::{Filtering, NetReport, RelayReach};
pub use punch::Relayed;
pub(super) use punch::is_willing;
pub(super) use sockets::is_extra;
pub use sockets::{SECOND_SOCKET, SocketOrder};
pub use survey::Mapping;

#[cfg(test)]
pub(super) use offer::{Offer, Op, Ports};

use super::limits::{Bucket, Rate, SourceBuckets};
use super::peers::PeerRef;
use super::{Node, Timer};
use netcheck::Netcheck;
use punch::Hole;
use sockets::{Role, Sockets};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use survey::Survey;
use uplinks::Uplinks;

/// NETID_REQs of one source that are answered to it (S21).
const PER_ASKER: Rate = Rate::per_second(10, 40);
/// Questions to one IP address on the word of peers, whoever they are (Q28).
const PER_TARGET: Rate = Rate::per_second(20, 120);
/// The same in all.
const IN_ALL: Rate = Rate::per_second(200, 1000);
/// Searches for a port at one IP address: each sends some 1,000 packets of 80 bytes.
const SEARCH_PER_TARGET: Rate = Rate::every(Duration::from_secs(20));
/// The same in all.
const SEARCH_IN_ALL: Rate = Rate {
    interval: Duration::from_secs(10),
    burst: 3,
};
/// Sockets that nobody needs are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

/// What the node keeps for direct paths.
pub(super) struct Direct {
    survey: Survey,
    sockets: Sockets,
    uplinks: Uplinks,
    /// One for each peer that is or was to be reached directly; swept with the peers.
    holes: HashMap<PeerRef, Hole>,
    netcheck: Netcheck,
    /// We are a relay with second sockets.
    has_second: bool,
    /// NETID_REQs to us, per source.
    askers: SourceBuckets,
    targets: SourceBuckets,
    in_all: Bucket,
    search_targets: SourceBuckets,
    searches: Bucket,
}

impl Direct {
    /// `key` is random.
    pub fn new(key: (u64, u64)) -> Self {
        Self {
            survey: Survey::default(),
            sockets: Sockets::default(),
            uplinks: Uplinks::default(),
            holes: HashMap::new(),
            netcheck: Netcheck::default(),
            has_second: false,
            askers: SourceBuckets::new(PER_ASKER, key),
            targets: SourceBuckets::new(PER_TARGET, key),
            in_all: Bucket::default(),
            search_targets: SourceBuckets::new(SEARCH_PER_TARGET, key),
            searches: Bucket::default(),
        }
    }
}

impl Node {
    /// What is to be done about sockets; ask until there is nothing.
    pub fn poll_socket(&mut self) -> Option<SocketOrder> {
        self.direct.sockets.poll_order()
    }

    /// A socket that was ordered stands, or cannot be had.
    pub fn socket_opened(&mut self, now: Instant, number: usize, stands: bool) {
        if !stands {
            self.counters.sockets_refused += 1;
        }
        let uplink = self.direct.sockets.uplink(number).is_some();
        match self.direct.sockets.opened(number, stands) {
            _ if uplink => self.uplink_opened(now, number),
            Some(owner) => self.note_hole_socket(now, owner, number, stands),
            None => self.note_netcheck_socket(now, number, stands),
        }
    }

    /// What this socket is there for; `None`: it is closed, and its packets are late.
    pub(super) fn role(&self, socket: usize) -> Option<Role> {
        self.direct.sockets.role(socket)
    }

    /// Whether a socket that was ordered sends to IPv4 places, and not to IPv6 ones.
    pub(super) fn is_v4_socket(&self, socket: usize) -> bool {
        self.direct.sockets.is_v4(socket)
    }

    /// Where a peer has said that it may be (NAT_T).
    pub(super) fn offered_places(&self, found: PeerRef) -> Vec<SocketAddr> {
        let hole = self.direct.holes.get(&found);
        hole.map(|hole| hole.theirs.clone()).unwrap_or_default()
    }

    /// Something authentic has come through a socket.
    pub(super) fn note_socket(&mut self, now: Instant, socket: usize) {
        self.direct.sockets.note_heard(now, socket);
    }

    /// We are elsewhere: nothing of what was known of the NAT holds.
    pub(super) fn network_changed(&mut self, now: Instant) {
        self.direct.survey.forget();
        self.survey_relays(now);
        let holes: Vec<PeerRef> = self.direct.holes.keys().copied().collect();
        for found in holes {
            self.punch_afresh(now, found);
        }
    }

    /// Whether so many packets may go to an address that somebody else named.
    pub(super) fn affords(&mut self, now: Instant, target: IpAddr, packets: u32) -> bool {
        let direct = &mut self.direct;
        let affordable = direct.targets.take_many(now, target, packets)
            && direct.in_all.take_many(now, IN_ALL, packets);
        if !affordable {
            self.counters.dropped_punches += u64::from(packets);
        }
        affordable
    }

    #[cfg(test)]
    pub(super) fn affords_for_test(&mut self, now: Instant, target: IpAddr, packets: u32) -> bool {
        self.affords(now, target, packets)
    }

    /// Whether a search may begin, which sends some 1,000 packets to that address.
    fn affords_search(&mut self, now: Instant, target: IpAddr) -> bool {
        let direct = &mut self.direct;
        let affordable = !direct.searches.is_empty(now, SEARCH_IN_ALL)
            && direct.search_targets.take(now, target)
            && direct.searches.take(now, SEARCH_IN_ALL);
        if !affordable {
            self.counters.refused_searches += 1;
        }
        affordable
    }

    pub(super) fn handle_sockets_timer(&mut self, now: Instant) {
        let Self { direct, peers, .. } = self;
        direct.holes.retain(|found, _| peers.get(*found).is_some());
        let paths = peers.iter().flat_map(|(_, peer)| &peer.paths);
        let used: Vec<usize> = paths
            .map(|path| path.socket)
            .filter(|one| is_extra(*one))
            .collect();
        let holes = &direct.holes;
        let busy = |owner: PeerRef| holes.get(&owner).is_some_and(Hole::needs_sockets);
        let left = direct
            .sockets
            .sweep(now, |number| used.contains(&number), busy);
        if left {
            self.timers
                .set(Timer::Sockets, now + SWEEP_EVERY, "sockets nobody needs");
        }
    }
}

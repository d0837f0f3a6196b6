//! One peer: its key, its paths, and what it was last seen doing.
mod choice;
mod liveness;
mod relayed;

use super::Place;
use super::lan::Heard;
use super::limits::Bucket;
use super::output::{Destination, Route, Way};
use super::path::{CHECK_AFTER, Origin, Path, Through};
use anode_wire::sealed::PeerKey;
use anode_wire::{Address, AddressId, Identity, MacKey, PeerId};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Paths of one peer at most.
const MAX_PATHS: usize = 8;
/// A peer that has sent nothing for so long may have forgotten our address (A41).
const SHORT_SENDER_FOR: Duration = Duration::from_secs(60);
/// A peer counts as in use for so long after its last traffic.
const IN_USE_FOR: Duration = Duration::from_secs(30);
/// A connection is dialled where datagrams have had no answer for so long (DESIGN §7).
const RACE_AFTER: Duration = Duration::from_secs(1);
/// A peer that is reached through a connection is asked over datagrams again this often (D40).
const DATAGRAMS_AGAIN: Duration = Duration::from_secs(300);

/// How well we know a peer, which is also the order in which peers are forgotten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Standing {
    /// Only heard of: a beacon, an IAM.
    Heard,
    /// It has authenticated itself.
    Met,
    /// The operator named it.
    Kept,
}

/// Who told us of a peer; the names are what `anode lookup` shows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sources {
    pub config: bool,
    pub pin: bool,
    pub lan: bool,
    pub whois: bool,
    pub peer: bool,
    /// It is a relay of a zone.
    pub zone: bool,
    /// Its record, or its answer, in a DHT.
    pub dht: bool,
    /// It was met at a tracker.
    pub tracker: bool,
}

impl Sources {
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.config, "config"),
            (self.pin, "pin"),
            (self.lan, "lan"),
            (self.whois, "whois"),
            (self.peer, "peer"),
            (self.zone, "zone"),
            (self.dht, "dht"),
            (self.tracker, "tracker"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
    }
}

/// The MACs of the latest packets that could do harm if they came twice (D38).
pub(super) struct ReplayRing {
    macs: [u64; 128],
    next: usize,
}

impl ReplayRing {
    fn new() -> Self {
        Self {
            macs: [0; 128],
            next: 0,
        }
    }

    /// Whether this MAC is new; remembers it.
    fn insert(&mut self, mac: [u8; 8]) -> bool {
        let mac = u64::from_be_bytes(mac);
        if self.macs.contains(&mac) {
            return false;
        }
        self.macs[self.next % self.macs.len()] = mac;
        self.next = self.next.wrapping_add(1);
        true
    }
}

/// A session that traffic can be sealed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tunnel {
    /// The peer id that it serves: its own, or one that was called and that it answered for (A46).
    pub digit: PeerId,
    pub key: PeerKey,
    pub pq: bool,
}

/// How programs' bytes go to a peer without a session (`security.plain = "allow"`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Speech {
    /// They wait for a session.
    #[default]
    Unknown,
    /// It only knows the draft; a session is tried again from then on.
    Draft { try_again: Instant },
}

pub(super) struct Peer {
    pub address: Address,
    pub id: AddressId,
    /// With peer digit 0.
    pub ipv6: Ipv6Addr,
    pub standing: Standing,
    pub sources: Sources,
    /// Where the beacon came from that made us hear of it.
    pub heard_at: Option<IpAddr>,
    pub beacons: Heard,
    key: Option<MacKey>,
    pub paths: Vec<Path>,
    /// Index into `paths` of the one that is used.
    active: Option<usize>,
    /// The last endpoint that was proven, for streams that still hope.
    last_resort: Option<(Place, usize)>,
    pub last_heard: Option<Instant>,
    pub last_used: Option<Instant>,
    /// When something of this machine last went there, to a second.
    used_by_us: Option<Instant>,
    /// Since when something sent waits for anything authentic.
    awaiting: Option<Instant>,
    /// Where its traffic last came from: when it changes, the peer may know something of our paths that we do not.
    came_from: Option<Place>,
    /// The relay that its latest sealed packet came through, unless that is the way that we use.
    heard_over: Option<Place>,
    /// Stream data was flowing in: when its silence is worth one question. If our NAT has given us another port, the other
    /// side cannot reach us, and only a packet of ours tells it where we are.
    quiet_check: Option<Instant>,
    /// When that was last put off.
    quiet_noted: Option<Instant>,
    /// Packets of stream data that came since it was last quiet.
    flowing: u32,
    /// It is reached through a connection: when datagrams are tried again.
    datagrams_again: Option<Instant>,
    /// When it was last of any use, for eviction.
    pub touched: Instant,
    pub mac_failures: Bucket,
    pub nominations: Bucket,
    pub hints: Bucket,
    /// ERRORs of ours to it, as a relay (D40).
    pub errors: Bucket,
    /// When it asked us to relay for it from a place that is still to be proven, and what the answer will say (D40).
    pub registers: Option<(Instant, Option<[u8; 8]>)>,
    replay: Option<Box<ReplayRing>>,
    pub streams: u32,
    pub pending_streams: u32,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Its sessions, one for each of its peer ids that we talk to; at most 16.
    pub tunnels: Vec<Tunnel>,
    pub speech: Speech,
    /// Streams to it wait for a session or for the proof of a path.
    pub has_blocked_streams: bool,
    /// The latest HELLO to it, while it may be answered.
    pub hello: Option<Box<[u8]>>,
    /// It has answered a HELLO, and the session is not complete.
    pub answered: Option<Instant>,
}

impl Peer {
    pub fn new(now: Instant, address: Address, standing: Standing) -> Self {
        Self {
            id: address.id(),
            ipv6: address.ipv6(PeerId::ANY),
            address,
            standing,
            sources: Sources::default(),
            heard_at: None,
            beacons: Heard::default(),
            key: None,
            paths: Vec::new(),
            active: None,
            last_resort: None,
            last_heard: None,
            last_used: None,
            used_by_us: None,
            awaiting: None,
            came_from: None,
            heard_over: None,
            quiet_check: None,
            quiet_noted: None,
            flowing: 0,
            datagrams_again: None,
            touched: now,
            mac_failures: Bucket::default(),
            nominations: Bucket::default(),
            hints: Bucket::default(),
            errors: Bucket::default(),
            registers: None,
            replay: None,
            streams: 0,
            pending_streams: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            tunnels: Vec::new(),
            speech: Speech::default(),
            has_blocked_streams: false,
            hello: None,
            answered: None,
        }
    }

    /// The session with one of its peers; for any, that of the used path.
    pub fn tunnel(&self, digit: PeerId) -> Option<&Tunnel> {
        let of = |digit: PeerId| self.tunnels.iter().find(|tunnel| tunnel.digit == digit);
        of(digit).or_else(|| {
            let used = self.active_path().map(|path| path.peer_id);
            let any = (digit == PeerId::ANY).then(|| used.and_then(of).or(self.tunnels.first()));
            any.flatten()
        })
    }

    pub fn is_sealed(&self) -> bool {
        !self.tunnels.is_empty()
    }

    /// Takes a session into use, under its own peer id and the one that was called.
    pub fn add_tunnel(&mut self, tunnel: Tunnel) {
        self.tunnels.retain(|known| known.digit != tunnel.digit);
        self.tunnels.push(tunnel);
    }

    /// The agreed key, if it was ever needed.
    pub fn key(&self) -> Option<&MacKey> {
        self.key.as_ref()
    }

    /// Agrees the key if that was not done yet (about 0.3 ms).
    pub fn agree(&mut self, identity: &Identity) -> &MacKey {
        self.key
            .get_or_insert_with(|| identity.agree(&self.address))
    }

    /// Takes over a key that was agreed before the peer was let into the table.
    pub fn set_key(&mut self, key: MacKey) {
        self.key = Some(key);
    }

    /// Whether a packet must carry our whole address: until something comes back, and again after 60 s of silence (A41, D20).
    pub fn needs_full_sender(&self, now: Instant) -> bool {
        self.last_heard
            .is_none_or(|at| now.duration_since(at) >= SHORT_SENDER_FOR)
    }

    pub fn is_in_use(&self, now: Instant) -> bool {
        self.last_used
            .is_some_and(|at| now.duration_since(at) < IN_USE_FOR)
    }

    /// A program of this machine talks to it, or has done so just now.
    pub fn is_used_by_us(&self, now: Instant) -> bool {
        self.used_by_us
            .is_some_and(|at| now.duration_since(at) < IN_USE_FOR)
    }

    /// Something of a program goes there.
    pub fn note_used_by_us(&mut self, now: Instant) {
        self.used_by_us = Some(now);
    }

    pub fn has_proven_path(&self) -> bool {
        self.paths.iter().any(Path::is_proven)
    }

    pub fn is_proven_at(&self, source: &Place) -> bool {
        self.paths
            .iter()
            .any(|path| path.is_proven() && path.endpoint == *source)
    }

    /// Whether a packet that came this way came over a proven path: the way back of a relayed one leads over the peer's own
    /// relays, and may be another than the way it came.
    pub fn is_proven_way(&self, way: &Way) -> bool {
        match way.hops {
            0 => self.is_proven_at(&way.from),
            _ => self
                .paths
                .iter()
                .any(|path| path.is_relayed() && path.is_proven()),
        }
    }

    /// Whether the used path, proven, is the one that a packet of this peer id took.
    pub fn is_used_way(&self, way: &Way, digit: PeerId) -> bool {
        self.active_path().is_some_and(|path| {
            let took = match way.hops {
                0 => path.endpoint == way.from,
                _ => path.is_relayed(),
            };
            took && path.peer_id == digit && path.is_proven()
        })
    }

    pub fn path_mut(&mut self, endpoint: &Place) -> Option<&mut Path> {
        self.paths
            .iter_mut()
            .find(|path| path.endpoint == *endpoint)
    }

    /// The path that is used.
    pub fn active_path(&self) -> Option<&Path> {
        self.active.and_then(|index| self.paths.get(index))
    }

    pub fn active_path_mut(&mut self) -> Option<&mut Path> {
        self.active.and_then(|index| self.paths.get_mut(index))
    }

    /// The way to a peer id of this address: the used path, or one where just that peer answered (A45 for senders).
    pub fn route(&self, wanted: PeerId) -> Option<Route> {
        let Some(active) = self.active_path().filter(|path| path.is_proven()) else {
            return self.unproven_route();
        };
        // A relay finds any of the peers by the packet's own peer id (A45).
        let leads_there = |path: &Path| path.peer_id == wanted || path.is_relayed();
        if wanted == PeerId::ANY || leads_there(active) {
            return Some(route_over(active, None));
        }
        let mut proven = self.paths.iter().filter(|path| path.is_proven());
        if let Some(path) = proven.find(|path| leads_there(path)) {
            return Some(route_over(path, None));
        }
        // Its handshake is under way: what belongs to that must not go to another of the peers.
        let heard = self.paths.iter().filter(|path| path.credit.is_some());
        let of_it = heard.filter(|path| path.peer_id == wanted);
        if let Some(path) = of_it.max_by_key(|path| path.touched) {
            return Some(route_over(path, path.credit));
        }
        Some(route_over(active, None))
    }

    /// Where the peer was last heard from, sealed, and has not proven itself yet: good for three times what came (Q25).
    pub fn unproven_route(&self) -> Option<Route> {
        let heard = self.paths.iter().filter(|path| path.credit.is_some());
        let path = heard.max_by_key(|path| path.touched)?;
        Some(route_over(path, path.credit))
    }

    /// Bytes go to an endpoint: they count where it is not proven.
    pub fn spend(&mut self, to: &Place, bytes: usize) {
        if let Some(path) = self.path_mut(to) {
            path.spend(bytes);
        }
    }

    /// The way for a stream that is already open: also where nothing answers any more, so that it goes on at once when the peer is back.
    pub fn stream_route(&self, wanted: PeerId) -> Option<Route> {
        let route = self.route(wanted);
        let full = usize::from(super::path::INITIAL_PACKET);
        if route.is_some_and(|route| route.affords(full)) {
            return route;
        }
        let last = self.last_resort.map(|(to, socket)| {
            let destination = Destination {
                to,
                socket,
                source: None,
            };
            Route {
                destination,
                max_packet: full,
                peer_id: PeerId::ANY,
                credit: None,
            }
        });
        last.or(route)
    }

    /// A session begins: what only the draft's MAC has proven counts for nothing more (Q27).
    pub fn demote_paths(&mut self, now: Instant) {
        for path in &mut self.paths {
            path.demote(now);
            if path.credit.is_some() && !path.is_proven() {
                path.probe(now);
            }
        }
        self.last_resort = None;
        self.choose_path(now);
    }

    /// Adds a candidate, or finds it among the known ones. `None`: no room left by better ones.
    pub fn add_path(
        &mut self,
        now: Instant,
        endpoint: Place,
        socket: usize,
        origin: Origin,
    ) -> Option<&mut Path> {
        if let Some(index) = self.paths.iter().position(|path| path.endpoint == endpoint) {
            return self.paths.get_mut(index);
        }
        // A forger of beacons or hints must not push out what was proven or configured: each origin has its places.
        let of_origin = self
            .paths
            .iter()
            .filter(|path| path.origin == origin && !path.is_proven())
            .count();
        let crowded = of_origin >= origin.places();
        if crowded || self.paths.len() >= MAX_PATHS {
            let oldest = (0..self.paths.len())
                .filter(|index| {
                    let path = &self.paths[*index];
                    !path.is_proven()
                        && !matches!(path.origin, Origin::Configured | Origin::Relay)
                        && (!crowded || path.origin == origin)
                })
                .min_by_key(|index| self.paths[*index].touched)?;
            self.remove_path(oldest);
        }
        self.paths.push(Path::new(now, endpoint, socket, origin));
        self.paths.last_mut()
    }

    fn remove_path(&mut self, index: usize) {
        self.paths.remove(index);
        self.active = match self.active {
            Some(active) if active == index => None,
            Some(active) if active > index => Some(active - 1),
            other => other,
        };
    }

    /// A zone's relay is at these places and no others any more. True: it was at others.
    pub fn keep_places(&mut self, places: &[Place]) -> bool {
        let gone = |path: &Path| {
            path.origin == Origin::Configured
                && path.through == Through::Direct
                && !places.contains(&path.endpoint)
        };
        let before = self.paths.len();
        while let Some(index) = self.paths.iter().position(gone) {
            self.remove_path(index);
        }
        self.paths.len() < before
    }

    /// Asks on all paths: datagrams at once, connections a second later where there are datagrams to try. `again`: also
    /// where questions are under way already.
    pub fn probe_paths(&mut self, now: Instant, again: bool) {
        let later = match (self.has_datagram_paths(), again) {
            (false, _) => now,
            // What worked until now has been silent for a while, and has the first word; it has had it, if it is overdue.
            (true, true) if self.is_suspect() => now,
            (true, true) => now + self.active_path().map_or(RACE_AFTER, Path::promptly),
            (true, false) => now + RACE_AFTER,
        };
        let asked = |path: &Path| path.deadline(true).is_some();
        for path in self.paths.iter_mut().filter(|path| again || !asked(path)) {
            match path.is_fallback() {
                true => path.probe_from(now, later),
                false => path.probe(now),
            }
        }
    }

    fn has_datagram_paths(&self) -> bool {
        self.paths.iter().any(|path| !path.is_fallback())
    }

    /// Whether a HELLO may go there by itself: what would have to be dialled waits for its turn.
    pub fn may_greet(&self, path: &Path) -> bool {
        !path.is_fallback()
            || path.is_proven()
            || path.asked.is_some()
            || !self.has_datagram_paths()
    }

    /// Connections that are not needed are left alone, and end by themselves: a path that is better works.
    pub fn stand_down_connections(&mut self) {
        let Some(active) = self.active_path() else {
            return;
        };
        if !active.is_proven() || active.asked_since().is_some() {
            return;
        }
        let better = (active.distance(), active.endpoint.transport());
        let direct = !active.is_indirect();
        for path in &mut self.paths {
            let transport = path.endpoint.transport();
            // While a relay is used, TURN stands by.
            let needless = transport.is_stream() || direct && path.is_turned();
            if needless && better < (path.distance(), transport) {
                path.stand_down();
            }
        }
    }

    /// Something has changed: datagrams may work where they did not.
    pub fn want_datagrams(&mut self, now: Instant) {
        self.datagrams_again = Some(now);
    }

    /// A peer that is reached through a connection: datagrams are tried again now and then.
    pub fn try_datagrams_again(&mut self, now: Instant) {
        let through_connection = self.active_path().is_some_and(Path::is_fallback);
        if !through_connection || !self.has_datagram_paths() {
            self.datagrams_again = None;
            return;
        }
        let at = self.datagrams_again.get_or_insert(now + DATAGRAMS_AGAIN);
        if *at <= now {
            *at = now + DATAGRAMS_AGAIN;
            let datagrams = |path: &&mut Path| !path.is_fallback();
            for path in self.paths.iter_mut().filter(datagrams) {
                path.probe(now);
            }
        }
    }

    /// The connection to a place has ended. `forever`: it cannot be dialled again.
    pub fn lose_place(&mut self, place: &Place, forever: bool) {
        let index = self.paths.iter().position(|path| path.endpoint == *place);
        let Some(index) = index else { return };
        if forever {
            self.remove_path(index);
        } else {
            self.paths[index].lose();
        }
        if self.last_resort.is_some_and(|(last, _)| last == *place) {
            self.last_resort = None;
        }
    }

    /// A path has failed: forgets it, unless it may be asked again one day.
    pub fn drop_path(&mut self, index: usize) {
        if matches!(self.paths[index].origin, Origin::Nominated | Origin::Hint) {
            self.remove_path(index);
        }
    }

    /// When its paths want attention.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let in_use = self.is_in_use(now);
        let paths = self
            .paths
            .iter()
            .filter_map(|path| path.deadline(in_use))
            .min();
        let again = self.datagrams_again.filter(|_| in_use);
        let active = self.active_path().filter(|path| in_use && path.is_proven());
        let size = active.map(|path| path.size.deadline(now));
        [
            paths,
            self.silence_deadline(),
            self.quiet_check,
            again,
            size,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether this packet was not seen before (D38).
    pub fn is_fresh(&mut self, mac: [u8; 8]) -> bool {
        self.replay
            .get_or_insert_with(|| Box::new(ReplayRing::new()))
            .insert(mac)
    }

    /// Whether a proof of the used path is older than NAT bindings live.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.last_heard
            .is_none_or(|at| now.duration_since(at) > CHECK_AFTER)
    }
}

fn route_over(path: &Path, credit: Option<usize>) -> Route {
    let destination = Destination {
        to: path.endpoint,
        socket: path.socket,
        source: None,
    };
    Route {
        destination,
        max_packet: usize::from(path.size.usable()),
        peer_id: path.peer_id,
        credit,
    }
}

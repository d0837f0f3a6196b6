//! One node in one overlay: routes, asks, serves, stores.
mod copies;
mod route;
mod serve;
mod tables;
mod transact;

pub use tables::Counters;
pub use transact::{Answer, AnswerBody, RequestOptions};

use crate::body::{ConnectBody, TunnelRequest};
use crate::fragment::Reassembly;
use crate::private_id::PrivateIds;
use crate::route_log::{LogTransport, RouteLogEntry};
use crate::security::{Certificate, Security, Signer};
use crate::storage::{self, Storage};
use crate::topology::{Action, Input, Topology};
use crate::usage::Kinds;
use crate::{Code, Header, Id, LinkId, Now, ReloadError, SignerIdentity, overlay_hash};
use copies::Copies;
use rand_core::CryptoRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tables::{Answers, Bucket, Forwards, Rates, Seen};
use transact::Transaction;

/// Links at a time; more are refused.
const MAX_LINKS: usize = 4096;
/// Messages waiting to be taken by [`Node::poll_transmit`].
const MAX_QUEUE: usize = 8192;
/// Events waiting to be taken by [`Node::poll_event`].
const MAX_EVENTS: usize = 4096;
/// CONNECTs that others wait for an answer to.
const MAX_OFFERS: usize = 256;
/// How long the caller has to make a link, or to answer a CONNECT.
const CONNECT_BUDGET: Duration = Duration::from_secs(30);
/// Between looks for another part of the ring (RD55).
const PROBE_EVERY: Duration = Duration::from_secs(600);

/// What a node is told at its birth.
pub struct NodeConfig {
    /// Name of the overlay.
    pub overlay: String,
    /// Kinds it serves.
    pub kinds: Kinds,
    /// How much it stores.
    pub storage: storage::Limits,
    /// Applications that take TUNNELs, by port (R61).
    pub tunnels: BTreeSet<u16>,
    /// Whether requests for iterative routing are answered with 302; else 499 (RD10).
    pub iterative: bool,
    /// Whether version byte 0x01 is served beside 0x81 (RD14).
    pub accept_plain_version: bool,
    /// Via entries from which on they are replaced by one private id (R34).
    pub compress_via: usize,
    /// What it says about itself in route logs: version and address; `None` hides the address (RD18).
    pub software: String,
    /// Its address for route logs.
    pub address: Option<SocketAddr>,
    /// Largest message in bytes; longer ones are refused with 413 (RD58: 65,535 unless the document says otherwise).
    pub max_message: usize,
}

impl NodeConfig {
    /// The usual, for an overlay of this name.
    pub fn new(overlay: &str) -> Self {
        Self {
            overlay: overlay.to_owned(),
            kinds: Kinds::standard(),
            storage: storage::Limits::default(),
            tunnels: BTreeSet::new(),
            iterative: true,
            accept_plain_version: false,
            compress_via: 64,
            software: concat!("anode ", env!("CARGO_PKG_VERSION")).to_owned(),
            address: None,
            max_message: 65_535,
        }
    }
}

/// What a link is like.
#[derive(Clone, Copy, Debug)]
pub struct LinkInfo {
    /// Who is at the other end: the link has proven it (R138).
    pub peer: Id,
    /// Bytes of the largest datagram; `None` for streams (R9, RD13: 1,200 over DTLS, 1,120 inside SEALED).
    pub mtu: Option<usize>,
    /// For route logs.
    pub transport: LogTransport,
    /// What quotas count together, such as a hash of the source prefix.
    pub group: u64,
}

/// A message for a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Which link.
    pub link: LinkId,
    /// The message.
    pub bytes: Vec<u8>,
}

/// A request this node has made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// A CONNECT that waits for [`Node::answer_connect`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OfferId(pub u64);

/// What happens at a node.
#[derive(Debug)]
pub enum Event {
    /// It is part of the ring, or, as a client, connected.
    Joined,
    /// It has no peer left, or could not join: give it a bootstrap peer by [`Node::join`], or, where it is joined, by
    /// [`Node::probe`].
    Alone,
    /// Ten minutes are over: take up a link to some bootstrap or cached peer and call [`Node::probe`] (RD55).
    ProbeDue,
    /// It has handed over its data and said good-bye; links may be closed.
    Left,
    /// A link to `peer` is wanted: gather candidates and call [`Node::offer`], or [`Node::connect_failed`].
    ConnectWanted {
        /// To whom.
        peer: Id,
    },
    /// The peer has answered: run ICE and the security layer as the controlling side, then [`Node::link_up`] or
    /// [`Node::connect_failed`].
    ConnectAnswered {
        /// Who.
        peer: Id,
        /// Whom its signature names.
        identity: SignerIdentity,
        /// Its side.
        body: ConnectBody,
    },
    /// Somebody wants a connection: call [`Node::answer_connect`], then, for RELOAD, run ICE as the controlled side.
    ConnectOffered {
        /// To answer with.
        offer: OfferId,
        /// Its Peer-ID, if it is exact.
        peer: Option<Id>,
        /// Whom its signature names.
        identity: SignerIdentity,
        /// Its side; `application` says what for.
        body: ConnectBody,
    },
    /// The link is no longer of use: close it. The node has forgotten it already.
    Close(LinkId),
    /// A unit for an application.
    Tunnel {
        /// Whom its signature proves.
        from: Signer,
        /// A way back to him: a client's leads through the peer that it came in by.
        back: Vec<Id>,
        /// What it is.
        tunnel: TunnelRequest,
    },
    /// A request has come to its end.
    Answered {
        /// Which.
        request: RequestId,
        /// How it ended.
        result: Result<Answer, ReloadError>,
    },
}

struct Link {
    info: LinkInfo,
    since: Duration,
}

/// A CONNECT of this node's topology.
enum Connecting {
    /// The caller gathers candidates.
    Gathering {
        until: Duration,
        told_by: Option<Id>,
    },
    /// The request is on its way.
    Asked { transaction: u64 },
    /// The caller makes the link.
    Linking { until: Duration },
}

struct Offer {
    header: Header,
    key: (u64, u64),
    until: Duration,
}

/// One node in one overlay. See the crate's documentation for how to drive it.
pub struct Node {
    id: Id,
    overlay: u32,
    config: NodeConfig,
    security: Box<dyn Security>,
    topology: Box<dyn Topology>,
    storage: Storage,
    rng: Box<dyn CryptoRng + Send>,
    started: Option<Duration>,
    links: BTreeMap<LinkId, Link>,
    by_peer: BTreeMap<Id, LinkId>,
    reassembly: Reassembly,
    private: PrivateIds,
    transactions: BTreeMap<u64, Transaction>,
    timers: BTreeSet<(Duration, u64)>,
    answers: Answers,
    forwards: Forwards,
    rates: Rates,
    /// Of STOREs, by the group of the link.
    group_rates: Rates,
    store_rate: Bucket,
    seen: Seen,
    connecting: BTreeMap<Id, Connecting>,
    offers: BTreeMap<u64, Offer>,
    copies: Copies,
    probe_at: Option<Duration>,
    leaving: bool,
    loopback: VecDeque<(Header, Vec<u8>)>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Node {
    /// A node that has no links yet. `rng` makes transaction ids and the key of private ids: it must be unpredictable.
    pub fn new(
        config: NodeConfig,
        security: Box<dyn Security>,
        topology: Box<dyn Topology>,
        mut rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Self {
            id: security.peer_id(),
            overlay: overlay_hash(&config.overlay),
            storage: Storage::new(config.storage),
            config,
            security,
            topology,
            rng,
            started: None,
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            reassembly: Reassembly::default(),
            private: PrivateIds::new(key),
            transactions: BTreeMap::new(),
            timers: BTreeSet::new(),
            answers: Answers::new(),
            forwards: tables::forwards(),
            rates: tables::rates(),
            group_rates: tables::rates(),
            store_rate: Bucket::full(serve::STORE_BURST, Duration::ZERO),
            seen: tables::seen(),
            connecting: BTreeMap::new(),
            offers: BTreeMap::new(),
            copies: Copies::default(),
            probe_at: None,
            leaving: false,
            loopback: VecDeque::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Its Peer-ID.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where it is, for route logs; `None` hides it (RD18).
    pub fn set_address(&mut self, address: Option<SocketAddr>) {
        self.config.address = address;
    }

    /// TUNNELs of this application are taken from now on (R61).
    pub fn take_tunnels(&mut self, application: u16) {
        self.config.tunnels.insert(application);
    }

    /// Kinds it serves.
    pub fn kinds(&self) -> &Kinds {
        &self.config.kinds
    }

    /// Its view of the ring.
    pub fn topology(&self) -> &dyn Topology {
        self.topology.as_ref()
    }

    /// What it stores.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Links it has.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, Id)> {
        self.links.iter().map(|(link, it)| (*link, it.info.peer))
    }

    /// Peers with the oldest links, for the cache that the next start begins with (R129: ten; only peers that were
    /// directly connected).
    pub fn cacheable_peers(&self) -> Vec<Id> {
        let mut peers: Vec<_> = self.links.values().collect();
        peers.sort_by_key(|link| link.since);
        peers.iter().map(|link| link.info.peer).take(10).collect()
    }

    /// Remembers a certificate that came another way than with a message or a link.
    pub fn learn_certificate(&mut self, now: Now, der: &[u8]) {
        self.security.learn_certificate(der, now);
    }

    /// Shows another certificate for the same key and Peer-ID from now on (R126). Links and places stay as they are; whoever
    /// has a link to this node is shown it at once, others with the next message that carries one.
    ///
    /// # Errors
    /// It is for another key or Peer-ID, or this node shows none.
    pub fn renew(&mut self, now: Now, certificate: Certificate) -> Result<(), ReloadError> {
        self.security.renew(certificate)?;
        let peers: Vec<Id> = self.links.values().map(|link| link.info.peer).collect();
        for peer in peers {
            // A PING shows the certificate (R128); a peer that misses it asks for it by 401 (RD27).
            let _ = self.ping(now, vec![peer], &[], RequestOptions::default());
        }
        Ok(())
    }

    /// Signs values, for owners that store (identity as messages carry it).
    pub fn security(&self) -> &dyn Security {
        self.security.as_ref()
    }

    /// Starts a new overlay with this node as its first peer (RD54). Never call it without being told to by people.
    pub fn create(&mut self, now: Now) {
        self.topology.handle(now, Input::Create);
        self.pump(now);
    }

    /// Joins through a peer to which there is a link. A client attaches to it; it may attach to several.
    pub fn join(&mut self, now: Now, bootstrap: LinkId) -> Result<(), ReloadError> {
        let peer = self
            .links
            .get(&bootstrap)
            .ok_or(ReloadError::NotConnected)?
            .info
            .peer;
        self.topology.handle(now, Input::Join(peer));
        self.pump(now);
        Ok(())
    }

    /// Hands over what it stores and says good-bye (R90, R121, RD48). [`Event::Left`] follows.
    pub fn leave(&mut self, now: Now) {
        self.leaving = true;
        self.topology.handle(now, Input::Leave);
        self.pump(now);
        if self.copies.is_idle() {
            self.say_goodbye(now);
        }
    }

    /// Looks for another part of the ring through a link to somebody who may be in it (RD55).
    pub fn probe(&mut self, now: Now, link: LinkId) {
        self.ask_outside(now, link);
        self.pump(now);
    }

    /// A link is there, and has proven who is at its other end (R138).
    pub fn link_up(&mut self, now: Now, link: LinkId, info: LinkInfo) {
        self.started.get_or_insert(now.at);
        if self.links.len() >= MAX_LINKS || !info.peer.is_valid_peer() || info.peer == self.id {
            self.counters.links_refused += 1;
            self.emit(Event::Close(link));
            return;
        }
        let since = now.at;
        self.links.insert(link, Link { info, since });
        self.connecting.remove(&info.peer);
        // the newest link to a peer is the one that works
        self.by_peer.insert(info.peer, link);
        self.topology.handle(now, Input::Connected(info.peer));
        self.pump(now);
    }

    /// A link is gone.
    pub fn link_down(&mut self, now: Now, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else {
            return;
        };
        self.reassembly.forget(link);
        let peer = gone.info.peer;
        if self.by_peer.get(&peer) != Some(&link) {
            return;
        }
        let other = self.links.iter().find(|(_, it)| it.info.peer == peer);
        match other.map(|(other, _)| *other) {
            Some(other) => {
                self.by_peer.insert(peer, other);
            }
            None => {
                self.by_peer.remove(&peer);
                self.topology.handle(now, Input::Lost(peer));
            }
        }
        self.pump(now);
    }

    /// The caller's side of a connection that the node wanted. `body.role` is passive: this side is the (D)TLS server
    /// (RD33).
    pub fn offer(&mut self, now: Now, peer: Id, body: &ConnectBody) {
        if let Some(Connecting::Gathering { told_by, .. }) = self.connecting.get(&peer) {
            let told_by = *told_by;
            self.send_connect(now, peer, told_by, body);
        }
        self.pump(now);
    }

    /// There will be no link to this peer.
    pub fn connect_failed(&mut self, now: Now, peer: Id) {
        if self.connecting.remove(&peer).is_some() {
            self.topology.handle(now, Input::Unreachable(peer));
        }
        self.pump(now);
    }

    /// Answers a CONNECT; `None` refuses it with 404.
    pub fn answer_connect(&mut self, now: Now, offer: OfferId, body: Option<&ConnectBody>) {
        let Some(offer) = self.offers.remove(&offer.0) else {
            return;
        };
        let (code, payload) = match body.map(ConnectBody::emit) {
            Some(Ok(payload)) => (Code::OK, payload),
            _ => (Code::NOT_FOUND, Vec::new()),
        };
        self.reply(now, &offer.header, offer.key, code, payload);
        self.pump(now);
    }

    /// An id that stands for these here and is read nowhere else, for `lifetime` (R132).
    pub fn anonymous_id(&mut self, now: Now, hidden: Vec<Id>, lifetime: Duration) -> Id {
        self.private.compress(now, hidden, lifetime)
    }

    /// A route to this node that does not hold its Peer-ID, for `lifetime`: for anonymous GRUUs (R132). It leads to a place just
    /// before the Peer-ID, which this node is responsible for, and on by an id that only this node can read. `None`: it has no
    /// such place. The Peer-ID stays hidden from whoever reads the route; who uses it learns it from the answer's signature,
    /// and who asks the ring for the place as well.
    pub fn anonymous_route(&mut self, now: Now, lifetime: Duration) -> Option<Vec<Id>> {
        let (after, upto) = self.topology.range()?;
        // Places between; none of length means the whole ring.
        let between = match after.distance_to(upto) {
            0 => u128::MAX,
            span => span - 1,
        };
        let near = u64::try_from(between).unwrap_or(u64::MAX);
        let back = self.rng.next_u64().checked_rem(near)? + 1;
        let place = Id::from_number(self.id.number().wrapping_sub(back.into()));
        let hidden = self.anonymous_id(now, vec![self.id], lifetime);
        Some(vec![place, hidden])
    }

    /// Takes a message off a link.
    pub fn handle(&mut self, now: Now, link: LinkId, bytes: &[u8]) {
        self.counters.received += 1;
        self.receive(now, link, bytes);
        self.pump(now);
    }

    /// Runs what is due. Call when [`Node::deadline`] has come; calling early does no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        self.topology.handle_timeout(now);
        self.reassembly.expire(now);
        self.storage.expire(now);
        self.run_transactions(now);
        self.run_copies(now);
        self.run_connects(now);
        if self.probe_at.is_some_and(|at| at <= now.at) {
            self.probe_at = Some(now.at + PROBE_EVERY);
            self.emit(Event::ProbeDue);
        }
        self.pump(now);
    }

    /// The earliest time at which something is due.
    pub fn deadline(&self) -> Option<Duration> {
        let connecting = self.connecting.values().filter_map(|it| match it {
            Connecting::Gathering { until, .. } | Connecting::Linking { until } => Some(*until),
            Connecting::Asked { .. } => None,
        });
        let offers = self.offers.values().map(|offer| offer.until);
        [
            self.topology.deadline(),
            self.reassembly.deadline(),
            self.timers.first().map(|(at, _)| *at),
            self.copies.deadline(),
            self.probe_at,
            connecting.chain(offers).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next message to send. Call until it says `None`.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened. Call until it says `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn emit(&mut self, event: Event) {
        match self.events.len() < MAX_EVENTS {
            true => self.events.push_back(event),
            false => self.counters.events_full += 1,
        }
    }

    fn run_connects(&mut self, now: Now) {
        let over = |it: &Connecting| match it {
            Connecting::Gathering { until, .. } | Connecting::Linking { until } => *until <= now.at,
            Connecting::Asked { .. } => false,
        };
        let late: Vec<Id> = self
            .connecting
            .iter()
            .filter(|(_, it)| over(it))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            self.connecting.remove(&peer);
            self.topology.handle(now, Input::Unreachable(peer));
        }
        self.offers.retain(|_, offer| offer.until > now.at);
    }

    /// Delivers what this node sent to itself, and does what the topology wants, until nothing is left.
    fn pump(&mut self, now: Now) {
        loop {
            if let Some((header, contents)) = self.loopback.pop_front() {
                self.deliver(now, None, header, &contents, false);
                continue;
            }
            match self.topology.poll_action() {
                Some(action) => self.act(now, action),
                None => return,
            }
        }
    }

    fn act(&mut self, now: Now, action: Action) {
        match action {
            Action::Ping(key) => self.send_ping(now, key),
            Action::Connect(peer, told_by) => {
                if self.by_peer.contains_key(&peer) {
                    self.topology.handle(now, Input::Connected(peer));
                    return;
                }
                let until = now.at + CONNECT_BUDGET;
                self.connecting
                    .entry(peer)
                    .or_insert(Connecting::Gathering { until, told_by });
                self.emit(Event::ConnectWanted { peer });
            }
            Action::Disconnect(peer) => {
                if let Some(link) = self.by_peer.remove(&peer) {
                    self.links.remove(&link);
                    self.reassembly.forget(link);
                    self.emit(Event::Close(link));
                }
            }
            Action::Join(peer) => self.send_join(now, peer),
            Action::Update(peer, body) => self.send_update(now, peer, &body),
            Action::HandOver { to, after, upto } => self.copy_range(now, to, after, upto, true),
            Action::Replicate { to, after, upto } => self.copy_range(now, to, after, upto, false),
            Action::Prune => self.offload(now),
            Action::Joined => {
                self.started.get_or_insert(now.at);
                self.probe_at.get_or_insert(now.at + PROBE_EVERY);
                self.emit(Event::Joined);
            }
            Action::Alone => self.emit(Event::Alone),
        }
    }

    fn log_entry(&self, now: Now, transport: LogTransport) -> RouteLogEntry {
        let started = self.started.unwrap_or(now.at);
        let hidden = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        RouteLogEntry {
            version: self.config.software.clone(),
            transport,
            id: self.id,
            uptime: now.at.saturating_sub(started).as_secs() as u32,
            certificate: Vec::new(),
            address: self.config.address.unwrap_or(hidden),
        }
    }
}

#[cfg(test)]
mod tests;

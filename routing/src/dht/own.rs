//! Links of RELOAD's own: DTLS and TLS to peers that no session of ours reaches, by [`crate::links`]. Here is what they are
//! for: bootstrap, CONNECTs of the ring, and whose messages they carry.
use super::entry::{MAX_ROUND, ROUND, spread};
use super::{ConversationId, Dht, Output, Role};
use crate::links::{Command, LinkEvent, LinkKey, LinkTransport, Made, Target, Token};
use anode_reload::body::{ConnectBody, PingRequest};
use anode_reload::contents::{Contents, Kind, Method, emit_contents};
use anode_reload::node::OfferId;
use anode_reload::route_log::LogTransport;
use anode_reload::{Header, Id, LinkId, LinkInfo, Now, Signature};
use rand_core::Rng as _;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes of a message over DTLS (RD13).
const DTLS_MESSAGE: usize = 1200;
/// Numbers of these links: the others count from 0.
const FIRST: u64 = 1 << 63;
/// Peers that are remembered (R129).
const MAX_CACHED: usize = 10;
/// Links whose peers have not said who they are (RD61).
const MAX_NAMELESS: usize = 64;

struct Bootstrap {
    target: Target,
    /// It has answered, or not, since this node started.
    resolved: bool,
    up: Option<LinkKey>,
    next: Option<Duration>,
    gap: Duration,
}

impl Bootstrap {
    fn new(target: Target, now: Now) -> Self {
        Self {
            target,
            resolved: false,
            up: None,
            next: Some(now.at),
            gap: ROUND,
        }
    }
}

#[derive(Clone, Copy)]
enum Connect {
    /// We have asked, for this peer.
    Ours(Id),
    /// Somebody has, and is to be answered.
    Theirs(OfferId),
    /// Answered: the link may come.
    Coming,
    /// It is for a conversation of an application; the offer is to be answered.
    Application(ConversationId, Option<OfferId>),
}

struct Standing {
    peer: Id,
    /// It may be a way into the ring: whoever has dialled this node may look for one himself.
    way_in: bool,
    /// Where its other end may be dialled another time.
    listens: Option<Target>,
}

struct Nameless {
    transaction: u64,
    transport: LinkTransport,
    at: SocketAddr,
    listens: Option<Target>,
    made: Made,
}

/// See the module.
#[derive(Default)]
pub(super) struct Own {
    enabled: bool,
    bootstrap: Vec<Bootstrap>,
    /// Those that stand.
    links: BTreeMap<LinkKey, Standing>,
    nameless: BTreeMap<LinkKey, Nameless>,
    connects: BTreeMap<Token, Connect>,
    next: Token,
}

impl Own {
    pub fn new(enabled: bool, bootstrap: &[Target], now: Now) -> Self {
        let mut own = Self {
            enabled,
            ..Self::default()
        };
        own.set_targets(now, bootstrap);
        own
    }

    /// Those that were there before keep what is known of them.
    pub fn set_targets(&mut self, now: Now, targets: &[Target]) {
        self.bootstrap.retain(|it| targets.contains(&it.target));
        for target in targets {
            if !self.bootstrap.iter().any(|it| it.target == *target) {
                self.bootstrap.push(Bootstrap::new(*target, now));
            }
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Every bootstrap peer has been asked.
    pub fn is_resolved(&self) -> bool {
        self.bootstrap.iter().all(|it| it.resolved)
    }

    /// Bootstrap peers.
    pub fn targets(&self) -> usize {
        self.bootstrap.len()
    }

    /// The link to one of them, or where it is dialled.
    pub fn to_target(&self, place: usize) -> Result<LinkId, Target> {
        let it = &self.bootstrap[place];
        it.up.map(link_id).ok_or(it.target)
    }

    /// Those to which there is no link are dialled at once.
    pub fn hurry(&mut self, now: Now) {
        for it in self.bootstrap.iter_mut().filter(|it| it.up.is_none()) {
            it.gap = ROUND;
            it.next = Some(now.at);
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.bootstrap.iter().filter_map(|it| it.next).min()
    }

    /// The link's name outside.
    pub fn key(&self, link: LinkId) -> Option<LinkKey> {
        let key = link.0.checked_sub(FIRST)?;
        self.links.contains_key(&key).then_some(key)
    }

    /// Peers to dial first at the next start (R129): those that were dialled, then those that came by CONNECT, where they have
    /// said that they listen.
    pub fn cacheable(&self) -> Vec<Target> {
        let of = |dialled: bool| {
            let known = move |target: &Target| {
                let mut all = self.bootstrap.iter();
                all.any(|it| it.target == *target) == dialled
            };
            let links = self.links.values().filter(|link| link.way_in);
            links.filter_map(|link| link.listens).filter(known)
        };
        of(true).chain(of(false)).take(MAX_CACHED).collect()
    }

    /// Links to peers that are taken to be part of the ring: whether they are, joining through one tells.
    pub fn members(&self) -> impl Iterator<Item = LinkId> {
        let ways_in = self.links.iter().filter(|(_, link)| link.way_in);
        ways_in.map(|(key, _)| link_id(*key))
    }

    /// The Peer-IDs of these.
    pub fn peers(&self) -> impl Iterator<Item = Id> {
        let ways_in = self.links.values().filter(|link| link.way_in);
        ways_in.map(|link| link.peer)
    }

    /// For a connection of an application's conversation.
    pub fn application_token(
        &mut self,
        conversation: ConversationId,
        offer: Option<OfferId>,
    ) -> Token {
        self.token(Connect::Application(conversation, offer))
    }

    /// Whether this is an application's connection that this side has asked for.
    pub fn is_offered(&self, token: Token) -> bool {
        matches!(
            self.connects.get(&token),
            Some(Connect::Application(_, None))
        )
    }

    /// It has come to nothing.
    pub fn forget(&mut self, token: Token) {
        self.connects.remove(&token);
    }

    fn token(&mut self, connect: Connect) -> Token {
        self.next += 1;
        self.connects.insert(self.next, connect);
        self.next
    }
}

fn link_id(key: LinkKey) -> LinkId {
    LinkId(FIRST + key)
}

/// What quotas count together: an IPv4 address, or the /64 of an IPv6 one.
fn network(at: SocketAddr) -> u64 {
    match at.ip().to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    }
}

impl Dht {
    pub(super) fn tell_links(&mut self, command: Command) {
        self.out(Output::Links(command));
    }

    /// A connection that was being made is wanted no longer, here and where ICE works on it.
    pub(super) fn forget_connect(&mut self, token: Token) {
        self.own_links.forget(token);
        self.tell_links(Command::Forget(token));
    }

    /// Dials bootstrap peers while this node is in no ring, or alone in one.
    pub(super) fn run_own(&mut self, now: Now) {
        let is_in = self.is_in() && !self.is_alone();
        let mut dial = Vec::new();
        for it in &mut self.own_links.bootstrap {
            if it.next.is_none_or(|at| at > now.at) {
                continue;
            }
            it.next = Some(now.at + spread(it.gap, self.rng.next_u32()));
            it.gap = (it.gap * 2).min(MAX_ROUND);
            if it.up.is_none() && !(is_in && it.resolved) {
                dial.push(it.target);
            }
        }
        for target in dial {
            self.tell_links(Command::Dial(target));
        }
    }

    /// Whether this node answers in the multicast groups of its overlay, or asks there.
    pub(super) fn tell_own_membership(&mut self) {
        if self.own_links.enabled {
            let member = self.is_in() && self.config.role == Role::Peer;
            self.tell_links(Command::Member(member));
        }
    }

    /// A CONNECT that the ring wants, with our side from ICE; [`LinkEvent::Described`] brings it.
    pub(super) fn offer_own(&mut self, peer: Id) {
        let token = self.own_links.token(Connect::Ours(peer));
        self.tell_links(Command::Offer(token, ConnectBody::RELOAD));
    }

    /// The answer to one of those. False: it is none for ICE.
    pub(super) fn own_answered(&mut self, peer: Id, body: &ConnectBody) -> bool {
        let ours = |it: &Connect| matches!(it, Connect::Ours(other) if *other == peer);
        let mut connects = self.own_links.connects.iter();
        let Some(token) = connects.find(|(_, it)| ours(it)).map(|(token, _)| *token) else {
            return false;
        };
        if body.ufrag.is_empty() {
            self.own_links.connects.remove(&token);
            self.tell_links(Command::Forget(token));
            return false;
        }
        self.tell_links(Command::Start(token, body.clone(), Some(peer)));
        true
    }

    /// Somebody wants a link by ICE. False: not this one, or not here.
    pub(super) fn own_offered(
        &mut self,
        now: Now,
        offer: OfferId,
        peer: Option<Id>,
        body: &ConnectBody,
    ) -> bool {
        if body.ufrag.is_empty() || !self.own_links.enabled {
            return false;
        }
        match body.application {
            ConnectBody::RELOAD => {}
            ConnectBody::ANODE => return false,
            _ => return self.application_offered_by_ice(now, offer, peer, body),
        }
        let token = self.own_links.token(Connect::Theirs(offer));
        self.tell_links(Command::Answer(token, body.clone(), peer));
        true
    }

    /// What has come of links.
    pub fn handle_link(&mut self, now: Now, event: LinkEvent) {
        match event {
            LinkEvent::Up {
                link,
                peer,
                made,
                transport,
                at,
                listens,
            } => {
                if let Made::Connected(token) = made
                    && let Some(Connect::Application(id, _)) = self.own_links.connects.get(&token)
                {
                    let id = *id;
                    self.own_links.connects.remove(&token);
                    self.application_up(id, link);
                    return self.settle(now);
                }
                let nameless = Nameless {
                    transaction: self.rng.next_u64(),
                    transport,
                    at,
                    listens,
                    made,
                };
                match peer {
                    Some(peer) => self.own_up(now, link, peer, &nameless),
                    None => self.ask_name(link, nameless),
                }
            }
            LinkEvent::Message { link, bytes } => match self.own_links.nameless.get(&link) {
                None if self.own_links.links.contains_key(&link) => {
                    self.node.handle(now, link_id(link), &bytes);
                }
                None => match self.application_of(link) {
                    Some(id) => self.application_said(now, id, bytes),
                    None => self.counters.ignored += 1,
                },
                Some(nameless) => {
                    if let Some(peer) = name_in(&bytes, nameless.transaction)
                        && let Some(nameless) = self.own_links.nameless.remove(&link)
                    {
                        self.own_up(now, link, peer, &nameless);
                    }
                }
            },
            LinkEvent::Down { link } => match self.application_of(link) {
                Some(id) => self.application_failed(now, id),
                None => {
                    self.counters.links_lost += 1;
                    self.own_down(now, link);
                }
            },
            LinkEvent::DialFailed { target, why } => {
                tracing::debug!("DHT: {target:?}: {why}");
                let mut all = self.own_links.bootstrap.iter_mut();
                if let Some(it) = all.find(|it| it.target == target) {
                    it.resolved = true;
                    self.entry.ask_soon(now);
                }
            }
            LinkEvent::Described { token, body } => match self.own_links.connects.get(&token) {
                Some(Connect::Ours(peer)) => {
                    let peer = *peer;
                    self.node.offer(now, peer, &body);
                }
                Some(Connect::Theirs(offer)) => {
                    let offer = *offer;
                    self.own_links.connects.insert(token, Connect::Coming);
                    self.node.answer_connect(now, offer, Some(&body));
                }
                Some(Connect::Application(id, None)) => {
                    let id = *id;
                    self.application_described(now, id, token, &body);
                }
                Some(Connect::Application(id, Some(offer))) => {
                    let (id, offer) = (*id, *offer);
                    self.own_links
                        .connects
                        .insert(token, Connect::Application(id, None));
                    self.node.answer_connect(now, offer, Some(&body));
                }
                Some(Connect::Coming) | None => {}
            },
            LinkEvent::ConnectFailed { token, why } => {
                tracing::debug!("DHT: CONNECT: {why}");
                match self.own_links.connects.remove(&token) {
                    Some(Connect::Ours(peer)) => self.node.connect_failed(now, peer),
                    Some(Connect::Theirs(offer)) => self.node.answer_connect(now, offer, None),
                    Some(Connect::Application(id, offer)) => {
                        if let Some(offer) = offer {
                            self.node.answer_connect(now, offer, None);
                        }
                        self.application_failed(now, id);
                    }
                    Some(Connect::Coming) | None => {}
                }
            }
        }
        self.settle(now);
    }

    fn own_up(&mut self, now: Now, link: LinkKey, peer: Id, how: &Nameless) {
        match how.made {
            Made::Dialled(target) => {
                let mut all = self.own_links.bootstrap.iter_mut();
                if let Some(it) = all.find(|it| it.target == target) {
                    (it.resolved, it.up, it.gap) = (true, Some(link), ROUND);
                }
            }
            Made::Connected(token) => drop(self.own_links.connects.remove(&token)),
            Made::Accepted => {}
        }
        let (mtu, transport) = match how.transport {
            LinkTransport::Dtls => (Some(DTLS_MESSAGE), LogTransport::Dtls),
            LinkTransport::Tls => (None, LogTransport::Tls),
        };
        let way_in = how.made != Made::Accepted;
        let standing = Standing {
            peer,
            way_in,
            listens: how.listens,
        };
        self.own_links.links.insert(link, standing);
        let info = LinkInfo {
            peer,
            mtu,
            transport,
            group: network(how.at),
        };
        self.node.link_up(now, link_id(link), info);
        if matches!(how.made, Made::Dialled(_)) {
            self.entry_link(now, link_id(link));
        }
    }

    fn own_down(&mut self, now: Now, link: LinkKey) {
        self.own_links.nameless.remove(&link);
        if self.own_links.links.remove(&link).is_some() {
            self.node.link_down(now, link_id(link));
        }
        let mut all = self.own_links.bootstrap.iter_mut();
        if let Some(it) = all.find(|it| it.up == Some(link)) {
            it.up = None;
            it.next = Some(now.at + it.gap);
        }
    }

    /// The node wants the link no longer. False: it is none of these.
    pub(super) fn close_own(&mut self, link: LinkId) -> bool {
        let Some(key) = self.own_links.key(link) else {
            return false;
        };
        self.own_links.links.remove(&key);
        let mut all = self.own_links.bootstrap.iter_mut();
        if let Some(it) = all.find(|it| it.up == Some(key)) {
            it.up = None;
        }
        self.tell_links(Command::Close(key));
        true
    }

    /// With a shared key the handshake does not say who is there; the signature of a PING's answer does (RD29, R128).
    fn ask_name(&mut self, link: LinkKey, nameless: Nameless) {
        let route = vec![Id::WILDCARD];
        let header = Header::new(self.links.overlay(), nameless.transaction, route);
        let ping = PingRequest { infos: Vec::new() }.emit();
        let message = ping.and_then(|ping| {
            let contents = emit_contents(Kind::Request(Method::Ping as u16), &ping);
            let contents = Signature::unsigned(self.node.id()).append(contents)?;
            header.emit(&contents)
        });
        match message {
            Ok(message) if self.own_links.nameless.len() < MAX_NAMELESS => {
                self.own_links.nameless.insert(link, nameless);
                self.tell_links(Command::Send(link, message));
            }
            _ => self.tell_links(Command::Close(link)),
        }
    }
}

/// Who has signed the answer to that PING.
fn name_in(bytes: &[u8], transaction: u64) -> Option<Id> {
    let (header, contents) = Header::parse(bytes).ok()?;
    let contents = Contents::parse(contents).ok()?;
    let answers = matches!(contents.kind, Kind::Response(_)) && header.transaction == transaction;
    match contents.signature?.identity {
        anode_reload::SignerIdentity::Peer(peer) if answers => Some(peer),
        _ => None,
    }
}

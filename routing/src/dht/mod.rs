//! The DHT: one [`Dht`] is this node's part in one RELOAD overlay, with its links inside sealed sessions (reload.md §3).
//!
//! ```text
//!   people: get put find route         who is this IPv6?      where I am
//!        │ people                        │ search               │ publish
//!   ┌────▼────────────────────────────────▼─────────────────────▼───┐
//!   │ anode_reload::Node: Chord, storage, transactions               │── entry: bootstrap, create, probe
//!   └────┬────────────────────────────────▲──────────────────────────┘
//!        │ messages             links: who is there, keep-alive
//!        ▼ Output::Send                   │ handle_message
//!              message 0x4B inside sealed sessions
//! ```
//!
//! Sans-IO as everything here: messages, time and randomness come in, [`Output`]s and the next deadline come out. The sessions
//! are the overlay's business: a message to somebody without one begins one.
mod applications;
mod connect;
mod entry;
mod links;
mod own;
mod people;
mod publish;
mod search;
mod turn;

pub use anode_reload as reload;
pub use applications::bytes;
pub use applications::{ApplicationCounters, Callee, ConversationId, Ended, Heard, Registered};
pub use entry::Bootstrap;
pub use people::{Answer, Hop, PutValue, Refusal, Value};
pub use publish::OwnPlaces;
pub use turn::FoundTurn;

use crate::anode::Place;
use crate::links::{Command, Target};
use anode_reload::chord::Config as ChordConfig;
use anode_reload::security::{Certificate, Policy};
use anode_reload::usage::Kinds;
use anode_reload::{
    Chord, Credentials, Event, Id, Node, NodeConfig, Now, ReloadError, Security, SharedKey,
};
use anode_wire::{Address, Identity, PeerId};
use applications::Applications;
use connect::Connects;
use entry::Entry;
use links::{Frame, Links};
use own::Own;
use people::People;
use publish::Publisher;
use rand_core::{CryptoRng, Rng as _};
use search::Searches;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;
use turn::Turn;

/// One end of a link: a peer of an address.
type End = (Address, PeerId);

/// What this node is in an overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It stores and routes.
    Peer,
    /// It only asks, through peers that it has links to (R8).
    Client,
}

/// This node's part in one overlay.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Name of the overlay.
    pub overlay: String,
    /// What this node is in it.
    pub role: Role,
    /// Whom to ask first, beside [`Dht::set_bootstrap`].
    pub bootstrap: Vec<Bootstrap>,
    /// Begin the overlay where nobody else has (RD54).
    pub create: bool,
    /// Store where this node is (ANODE-RECORD).
    pub publish: bool,
    /// This node relays for others.
    pub relays: bool,
    /// What its links and messages prove.
    pub security: DhtSecurity,
    /// Certificates that sign those of other members.
    pub roots: Vec<Certificate>,
    /// Parameters of the ring, where the overlay's document has others.
    pub chord: Option<ChordConfig>,
    /// Where this machine's TURN server is reached (R135).
    pub turn: Option<SocketAddr>,
    /// How often a TURN server is stored, 1 to 100 (R135).
    pub turn_density: u8,
    /// Multicast groups in which its links of RELOAD's own look for members (RD60).
    pub groups: Vec<SocketAddr>,
    /// Applications that this node serves, by port (R61).
    pub applications: Vec<u16>,
    /// `sip:` URIs of its users (R131).
    pub users: Vec<String>,
    /// It has links of RELOAD's own ([`crate::links`]), which these peers are asked over first. `None`: it has not.
    pub own_links: Option<Vec<Target>>,
}

impl DhtConfig {
    /// Whom the overlay believes.
    pub fn policy(&self) -> Policy {
        Policy {
            overlay: self.overlay.clone(),
            roots: self.roots.clone(),
            self_signed: matches!(self.security, DhtSecurity::Address),
            ..Policy::default()
        }
    }

    /// This node's name in the overlay.
    pub fn peer_id(&self, identity: &Identity, digit: PeerId) -> Id {
        match &self.security {
            DhtSecurity::Address => Id::of_address(identity.address(), digit),
            DhtSecurity::Certificate(own) => own.peers().first().copied().unwrap_or(Id::ZERO),
            DhtSecurity::SharedKey(own) => *own,
        }
    }

    /// A sealed session proves an address; only where Peer-IDs are made of addresses it proves a peer.
    fn is_sealed(&self) -> bool {
        matches!(self.security, DhtSecurity::Address)
    }
}

/// What a member of an overlay proves itself by.
#[derive(Clone, Debug)]
pub enum DhtSecurity {
    /// The key of its Anode address, also inside sealed sessions (RD62).
    Address,
    /// A certificate of the overlay's credential server (R126).
    Certificate(Box<Certificate>),
    /// A key that all share; this is its random Peer-ID (RD61).
    SharedKey(Id),
}

/// What a [`Dht`] wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// A RELOAD message, for the session with a peer.
    Send {
        /// To whom.
        to: Address,
        /// To which of the peers that share the address.
        digit: PeerId,
        /// The message's body.
        body: Vec<u8>,
    },
    /// A session is wanted.
    Reach {
        /// With whom.
        who: Address,
        /// With which of the peers that share the address.
        digit: PeerId,
        /// Where it may be.
        places: Vec<Place>,
        /// The operator has named these places.
        configured: bool,
    },
    /// Somebody who was looked for may be there.
    Found {
        /// Who.
        who: Address,
        /// Where.
        places: Vec<Place>,
    },
    /// TURN servers that the overlay knows; those told before may be gone.
    TurnServers(Vec<FoundTurn>),
    /// Something of an application's conversation.
    Application {
        /// Which.
        conversation: ConversationId,
        /// What.
        heard: Heard,
    },
    /// Something for [`crate::links`].
    Links(Command),
    /// The answer to a question of [`Dht::get`] and its like.
    Answer {
        /// The question's.
        token: u64,
        /// What came of it.
        answer: Answer,
    },
}

/// What people want to see of an overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Name of the overlay.
    pub overlay: String,
    /// This node's Peer-ID.
    pub node: Id,
    /// What it is.
    pub role: Role,
    /// Whether it is part of the ring, or has an access to it.
    pub joined: bool,
    /// Predecessors and successors, nearest first, each once.
    pub neighbours: Vec<Id>,
    /// Far peers, each once.
    pub fingers: usize,
    /// Links.
    pub links: usize,
    /// Values stored.
    pub stored: usize,
    /// Bytes that they take.
    pub stored_bytes: usize,
    /// Whether the own record is in the overlay.
    pub published: bool,
    /// The `gr` value of an anonymous GRUU to it, where it serves applications (R132).
    pub anonymous_gruu: Option<String>,
}

/// What a [`Dht`] has counted, beside [`anode_reload::node::Counters`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Links that nobody had room for.
    pub links_refused: u64,
    /// Links that had fallen silent.
    pub links_lost: u64,
    /// Frames that could not be read, or of nobody there is a link to.
    pub ignored: u64,
    /// Searches begun.
    pub searches: u64,
    /// Searches for which there was no room.
    pub searches_refused: u64,
    /// Searches that found a record.
    pub found: u64,
    /// Own records stored, each copy counted.
    pub published: u64,
    /// Copies that could not be stored; they are tried again.
    pub publish_failed: u64,
    /// Outputs that nobody fetched in time.
    pub outputs_dropped: u64,
}

/// Outputs that wait to be fetched.
const MAX_OUTPUTS: usize = 16_384;

/// This node in one overlay.
pub struct Dht {
    config: DhtConfig,
    own: End,
    node: Node,
    links: Links,
    own_links: Own,
    entry: Entry,
    connects: Connects,
    publisher: Publisher,
    searches: Searches,
    turn: Turn,
    applications: Applications,
    people: People,
    rng: Box<dyn CryptoRng + Send>,
    outputs: VecDeque<Output>,
    left: bool,
    counters: Counters,
}

impl Dht {
    /// A node with the key of its Anode address, in no ring yet. `rngs` must be unpredictable.
    ///
    /// # Errors
    /// The identity cannot be used as a credential.
    pub fn new(
        identity: &Identity,
        digit: PeerId,
        config: DhtConfig,
        rngs: [Box<dyn CryptoRng + Send>; 2],
        now: Now,
    ) -> Result<Self, ReloadError> {
        let [mut rng, node_rng] = rngs;
        let security: Box<dyn Security> = match &config.security {
            DhtSecurity::SharedKey(id) => Box::new(SharedKey::new(*id)),
            DhtSecurity::Address => {
                let policy = config.policy();
                Box::new(Credentials::from_identity(identity, digit, policy)?)
            }
            DhtSecurity::Certificate(own) => {
                let own = own.as_ref().clone();
                Box::new(Credentials::of_certificate(identity, own, config.policy())?)
            }
        };
        let id = security.peer_id();
        let chord = ChordConfig {
            is_client: config.role == Role::Client,
            ..config.chord.clone().unwrap_or_default()
        };
        let chord = Chord::new(id, chord, rng.next_u64());
        let node = Node::new(
            NodeConfig {
                kinds: Kinds::standard(),
                tunnels: config.applications.iter().copied().collect(),
                ..NodeConfig::new(&config.overlay)
            },
            security,
            Box::new(chord),
            node_rng,
        );
        let own = (*identity.address(), digit);
        let sealed = config.bootstrap.iter().filter(|_| config.is_sealed());
        let entry = Entry::new(config.create, own, sealed.cloned().collect(), now);
        let targets = config.own_links.as_deref();
        let own_links = Own::new(targets.is_some(), targets.unwrap_or_default(), now);
        Ok(Self {
            own,
            node,
            links: Links::new(&config.overlay),
            own_links,
            entry,
            connects: Connects::default(),
            publisher: Publisher::default(),
            searches: Searches::default(),
            turn: Turn::new(config.turn, config.turn_density),
            applications: Applications::new(&config.applications, &config.users),
            people: People::default(),
            rng,
            outputs: VecDeque::new(),
            left: false,
            counters: Counters::default(),
            config,
        })
    }

    /// Name of the overlay.
    pub fn overlay(&self) -> &str {
        &self.config.overlay
    }

    /// Which overlay a message is of (R15): what [`Dht::overlay_hash`] says there. `None`: it is no message.
    pub fn overlay_of(body: &[u8]) -> Option<u32> {
        links::overlay_of(body)
    }

    /// See [`Dht::overlay_of`].
    pub fn overlay_hash(&self) -> u32 {
        self.links.overlay()
    }

    /// This node's Peer-ID.
    pub fn id(&self) -> Id {
        self.node.id()
    }

    /// What people want to see.
    pub fn status(&self) -> Status {
        let (before, after) = self.node.topology().neighbours();
        let mut neighbours: Vec<Id> = Vec::new();
        for id in after.into_iter().chain(before) {
            if !neighbours.contains(&id) {
                neighbours.push(id);
            }
        }
        Status {
            overlay: self.config.overlay.clone(),
            node: self.node.id(),
            role: self.config.role,
            joined: self.is_member(),
            neighbours,
            fingers: self.node.topology().fingers().len(),
            links: self.links.len() + self.own_links.len(),
            stored: self.node.storage().values(),
            stored_bytes: self.node.storage().bytes(),
            published: self.publisher.is_published(),
            anonymous_gruu: self.applications.anonymous_gruu(),
        }
    }

    /// What was counted here.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What was counted of applications.
    pub fn application_counters(&self) -> ApplicationCounters {
        self.applications.counters()
    }

    /// What the RELOAD node has counted.
    pub fn node_counters(&self) -> anode_reload::node::Counters {
        self.node.counters()
    }

    /// Peers worth asking first at the next start (R129): there was a direct link to each.
    pub fn cacheable(&self) -> Vec<Address> {
        let peers = self.node.cacheable_peers();
        let addresses = peers.into_iter().filter_map(|peer| self.links.end_of(peer));
        let mut addresses: Vec<Address> = addresses.map(|(address, _)| address).collect();
        addresses.dedup();
        addresses
    }

    /// The same for links of RELOAD's own.
    pub fn cacheable_targets(&self) -> Vec<Target> {
        self.own_links.cacheable()
    }

    /// A message out of a session. `network` is what quotas count together.
    pub fn handle_message(&mut self, now: Now, from: End, network: u64, body: &[u8]) {
        if !self.config.is_sealed() {
            self.counters.ignored += 1;
            return;
        }
        match (Frame::parse(body), applications::Frame::parse(body)) {
            (Some(frame), _) => self.handle_frame(now, from, network, frame),
            (None, Some(frame)) => self.handle_application(now, from, &frame),
            (None, None) => {
                // Whoever has lost sight of the link is told of it by its traffic, not only by the next keep-alive.
                if self.links.heard(now, from).is_none() && !self.link_up(now, from, network, false)
                {
                    return;
                }
                if let Some(link) = self.links.heard(now, from) {
                    self.node.handle(now, link, body);
                }
            }
        }
        self.settle(now);
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.node.deadline().is_some_and(|at| at <= now.at) {
            self.node.handle_timeout(now);
        }
        self.run_links(now);
        self.run_own(now);
        self.run_entry(now);
        self.run_publisher(now);
        self.run_searches(now);
        self.run_turn(now);
        self.run_applications(now);
        self.settle(now);
    }

    /// When [`Dht::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        [
            self.node.deadline(),
            self.links.deadline(),
            self.own_links.deadline(),
            self.entry.deadline(),
            self.publisher.deadline(self.is_in()),
            self.searches.deadline(),
            self.turn.deadline().filter(|_| self.is_in()),
            self.applications.deadline(self.is_in()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What it wants done. Call until it says `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Says good-bye, and hands over what it stores (R121).
    pub fn leave(&mut self, now: Now) {
        if self.config.publish {
            self.withdraw(now);
        }
        self.unregister(now);
        self.node.leave(now);
        self.settle(now);
    }

    /// Everything is handed over, and everybody told.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Where this node is, for its record, its CONNECTs and route logs.
    pub fn set_places(&mut self, now: Now, places: OwnPlaces) {
        let address = places.endpoints.iter().find_map(|endpoint| match endpoint {
            anode_wire::Endpoint::Udp(at) => Some(*at),
            _ => None,
        });
        self.node.set_address(address);
        let moved = self.publisher.endpoints() != places.endpoints;
        self.publisher.set_places(now, places);
        if moved {
            self.look_again(now);
        }
        self.handle_timeout(now);
    }

    /// These bootstrap peers are asked over links of RELOAD's own from now on.
    pub fn set_targets(&mut self, now: Now, targets: &[Target]) {
        self.own_links.set_targets(now, targets);
        self.handle_timeout(now);
    }

    /// Shows another certificate for the same key and Peer-ID from now on (R126): its place, what it stores and its links stay,
    /// and what it has stored under the old one is stored anew.
    ///
    /// # Errors
    /// The certificate is for another key or Peer-ID, or the overlay has none.
    pub fn renew(&mut self, now: Now, certificate: &Certificate) -> Result<(), ReloadError> {
        self.node.renew(now, certificate.clone())?;
        self.config.security = DhtSecurity::Certificate(Box::new(certificate.clone()));
        if self.own_links.is_enabled() {
            self.tell_links(Command::Renew(Box::new(certificate.clone())));
        }
        self.store_all_again(now);
        self.settle(now);
        Ok(())
    }

    /// Who is this address, and where (digit 0)? [`Output::Found`] follows if somebody knows.
    pub fn search(&mut self, now: Now, target: Ipv6Addr) {
        self.start_search(now, target, None);
        self.settle(now);
    }

    /// Part of the ring, so that others may join here.
    fn is_member(&self) -> bool {
        self.is_in() && self.config.role == Role::Peer
    }

    /// Part of the ring, or with an access to it: it can be asked.
    pub fn is_in(&self) -> bool {
        self.node.topology().is_joined()
    }

    fn out(&mut self, output: Output) {
        match self.outputs.len() < MAX_OUTPUTS {
            true => self.outputs.push_back(output),
            false => self.counters.outputs_dropped += 1,
        }
    }

    /// Takes what the RELOAD node has to send and to say, until it has no more.
    fn settle(&mut self, now: Now) {
        loop {
            while let Some(transmit) = self.node.poll_transmit() {
                if let Some((to, digit)) = self.links.end(transmit.link) {
                    self.links.used((to, digit));
                    let body = transmit.bytes;
                    self.out(Output::Send { to, digit, body });
                } else if let Some(link) = self.own_links.key(transmit.link) {
                    self.tell_links(Command::Send(link, transmit.bytes));
                }
            }
            match self.node.poll_event() {
                Some(event) => self.handle_event(now, event),
                None => return,
            }
        }
    }

    fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Joined => self.joined(now),
            Event::Alone => {
                self.entry.alone(now, self.is_in());
                self.own_links.hurry(now);
                self.tell_own_membership();
            }
            Event::ProbeDue => self.probe(now),
            Event::Left => self.left = true,
            Event::ConnectWanted { peer } => self.offer(now, peer),
            Event::ConnectAnswered {
                peer,
                identity,
                body,
            } => self.connect_answered(now, peer, &identity, &body),
            Event::ConnectOffered {
                offer,
                peer,
                identity,
                body,
            } => {
                if !self.own_offered(now, offer, peer, &body) {
                    self.connect_offered(now, offer, &identity, &body);
                }
            }
            Event::Close(link) => self.close(link),
            Event::Tunnel { from, back, tunnel } => self.tunnelled(now, &from, back, tunnel),
            Event::Answered { request, result } => {
                if let Some(asked) = self.people.take(request) {
                    self.tell(now, asked, result);
                } else if self.connects.is_asked(request) {
                    self.direct_answered(request, result);
                } else if self.applications.is_asked(request) {
                    self.application_answered(now, request, result);
                } else if !self.publish_answered(now, request, &result)
                    && !self.turn_answered(now, request, &result)
                {
                    self.search_answered(now, request, result);
                }
            }
        }
    }
}

/// Where a peer may be, of candidates that it has sent.
fn udp_places(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<Place> {
    addresses.into_iter().map(Place::Udp).collect()
}

#[cfg(test)]
mod tests;

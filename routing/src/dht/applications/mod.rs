//! Applications over the overlay: what a local program says goes to a peer in TUNNELs, and over a connection of its own where
//! a conversation is a long one (R61 to R63, R100, R133, R134).
//!
//! ```text
//!  open(URI) ──────▶ Resolving ─▶ Tunnelled ──CONNECT──▶ Connecting ─▶ Connected: a sealed session, or DTLS by ICE
//!  open(anonymous) ─▶ Meeting ──▶    ▲                        │ comes to nothing        │ falls silent
//!  open(route), TUNNELs of a peer ──▶└────────────────────────┴─────────────────────────┘
//! ```
//!
//! Application and peer name a conversation, so both sides mean the same one, and an answer finds whoever was asked. What
//! belongs to which dialog within it is the application's (SIP has its Call-ID). Units are datagrams: they may be lost, and
//! those of a tunnel may overtake those of a connection.

pub mod bytes;
mod callee;
mod connection;
mod registration;
mod tunnels;

use super::{Dht, End, Output};
use crate::links::{Command, LinkKey, Token};
use anode_reload::body::TunnelRequest;
use anode_reload::node::{Answer, RequestId, RequestOptions};
use anode_reload::security::Signer;
use anode_reload::usage::sip::{Resolver, gruu, wants_connect};
use anode_reload::{Id, Now, ReloadError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(super) use connection::{APPLICATION, Frame};
pub use registration::Registered;
use tunnels::{Tunnelled, Window};

/// Conversations at a time.
const MAX_CONVERSATIONS: usize = 256;
/// Of these, such as one peer has begun.
const MAX_OF_PEER: usize = 8;
/// Units of a conversation that wait until it is known who is called, or until others have been confirmed.
const MAX_WAITING: usize = 64;
/// A conversation in which nobody says anything is over.
const IDLE: Duration = Duration::from_secs(180);
/// A CONNECT that came to nothing is not repeated before this.
const CONNECT_AGAIN: Duration = Duration::from_secs(60);
/// How long one TUNNEL, or one look at a registration, is waited for.
const OPTIONS: RequestOptions = RequestOptions {
    budget: Duration::from_secs(8),
    log: false,
};

/// A route that does not name this node is shown for so long, and good for twice as long.
const ANONYMOUS_FOR: Duration = Duration::from_secs(24 * 3600);

/// Names a conversation, within one overlay and for good.
pub type ConversationId = u64;

/// Whom an application's conversation is with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Callee {
    /// Along this route; its last id is the peer.
    Route(Vec<Id>),
    /// Along a route that does not say who is at its end (an anonymous GRUU, R132): whoever answers.
    Anonymous(Vec<Id>),
    /// Wherever the registrations of this `sip:` URI lead (R131).
    Uri(String),
}

/// What comes out of a conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A peer has begun it.
    Begun {
        /// Of which application.
        application: u16,
        /// Who.
        peer: Id,
    },
    /// A unit for the local program.
    Unit(Vec<u8>),
    /// Whom it was begun with turned out to be the peer of this other conversation of the application: it goes on there.
    Same(ConversationId),
    /// There is no more of it.
    Over(Ended),
}

/// Why a conversation is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    /// Nobody has said anything for a while.
    #[error("nobody has said anything for {} s", IDLE.as_secs())]
    Idle,
    /// The URI leads nowhere.
    #[error("nobody is registered under this URI")]
    NoRegistration,
    /// No route leads to somebody who takes it.
    #[error("the peer is not there, or does not serve this application")]
    NotServed,
}

/// What was counted of applications.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ApplicationCounters {
    /// Units that came or went in TUNNELs.
    pub tunnelled: u64,
    /// Units that came or went over connections.
    pub connected: u64,
    /// Units for which there was no room, no route or no conversation.
    pub lost: u64,
    /// Conversations for which there was no room.
    pub refused: u64,
}

/// How units get to the peer.
enum Way {
    /// The peer is being looked for.
    Resolving(Box<Resolver>, Option<(RequestId, usize)>),
    /// A route that does not say who is at its end: whoever confirms the first unit. Whether one is on its way.
    Meeting(bool),
    /// In TUNNELs; a CONNECT may follow from this time on.
    Tunnelled(Duration),
    /// In TUNNELs, until the connection is proven.
    Connecting(Connecting),
    /// Inside a session. Since when units went there without anything coming back.
    Session(End, Option<Duration>),
    /// Over DTLS on a path that ICE has found.
    Link(LinkKey),
}

/// How far a connection is.
enum Connecting {
    /// ICE describes this side, or checks.
    Described(Token, Duration),
    /// The CONNECT is on its way.
    Asked(RequestId, Option<Token>),
    /// Both sides have agreed; whoever hears the other has a connection.
    Proving {
        end: End,
        next: Duration,
        until: Duration,
    },
}

struct Conversation {
    application: u16,
    /// Who; none yet while a name is resolved, or somebody is met.
    peer: Option<Id>,
    /// The route in use first, then others that may lead to the same user.
    routes: VecDeque<Vec<Id>>,
    way: Way,
    waiting: VecDeque<Vec<u8>>,
    /// Units in TUNNELs that are not confirmed yet.
    flying: usize,
    window: Window,
    /// Whether the peer has ever confirmed one.
    confirmed: bool,
    /// Said and heard since it began, or since a connection was lost.
    units: usize,
    used: Duration,
    theirs: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Applications {
    served: BTreeSet<u16>,
    all: BTreeMap<ConversationId, Conversation>,
    tunnelled: BTreeMap<RequestId, Tunnelled>,
    early: callee::Early,
    registrations: Vec<registration::Registration>,
    /// A route to this node that does not name it, and when it is made anew.
    anonymous: Option<(Vec<Id>, Duration)>,
    next: ConversationId,
    counters: ApplicationCounters,
}

impl Applications {
    pub fn new(served: &[u16], uris: &[String]) -> Self {
        Self {
            served: served.iter().copied().collect(),
            registrations: registration::of(uris),
            ..Self::default()
        }
    }

    /// The `gr` value of an anonymous GRUU that leads here (R132).
    pub fn anonymous_gruu(&self) -> Option<String> {
        self.anonymous.as_ref().map(|(route, _)| gruu(route))
    }

    pub fn counters(&self) -> ApplicationCounters {
        self.counters
    }

    pub fn deadline(&self, is_in: bool) -> Option<Duration> {
        let conversations = self.all.values().map(|it| {
            let idle = it.used + IDLE;
            match &it.way {
                Way::Connecting(Connecting::Proving { next, until, .. }) => {
                    idle.min(*next).min(*until)
                }
                Way::Connecting(Connecting::Described(_, until)) => idle.min(*until),
                _ => idle,
            }
        });
        let due = self.registrations.iter().filter_map(|it| it.due());
        conversations.chain(due.filter(|_| is_in)).min()
    }

    /// Whom a conversation may reach, as registrations would have it.
    #[cfg(test)]
    pub fn set_routes<const N: usize>(&mut self, id: ConversationId, routes: [Vec<Id>; N]) {
        self.all.get_mut(&id).expect("it stands").routes = routes.into();
    }

    fn with(&self, application: u16, peer: Id) -> Option<ConversationId> {
        let mut all = self.all.iter();
        let ours = |it: &Conversation| it.application == application && it.peer == Some(peer);
        all.find(|(_, it)| ours(it)).map(|(id, _)| *id)
    }

    /// Whether the answer to a request is for an application.
    pub fn is_asked(&self, request: RequestId) -> bool {
        self.tunnelled.contains_key(&request)
            || self.registrations.iter().any(|it| it.is_asked(request))
            || self.asking(request).is_some()
    }

    fn asking(&self, request: RequestId) -> Option<ConversationId> {
        let asks = |it: &Conversation| match &it.way {
            Way::Resolving(_, Some((asked, _))) => *asked == request,
            Way::Connecting(Connecting::Asked(asked, _)) => *asked == request,
            _ => false,
        };
        let mut all = self.all.iter();
        all.find(|(_, it)| asks(it)).map(|(id, _)| *id)
    }
}

impl Dht {
    /// Begins a conversation of an application, or goes on with the one there is. `None`: there are too many.
    pub fn open(&mut self, now: Now, application: u16, callee: &Callee) -> Option<ConversationId> {
        // What the other side says comes as TUNNELs of its own (R62).
        self.node.take_tunnels(application);
        let opened = match callee {
            Callee::Route(route) => {
                let peer = *route.last()?;
                match self.applications.with(application, peer) {
                    Some(known) => Some(known),
                    None => self.begin(now, application, Some(peer), vec![route.clone()], false),
                }
            }
            Callee::Anonymous(route) => {
                let id = self.begin(now, application, None, vec![route.clone()], false)?;
                if let Some(it) = self.applications.all.get_mut(&id) {
                    it.way = Way::Meeting(false);
                }
                Some(id)
            }
            Callee::Uri(uri) => {
                let id = self.begin(now, application, None, Vec::new(), false)?;
                let resolver = Box::new(Resolver::new(&self.config.overlay, uri));
                if let Some(it) = self.applications.all.get_mut(&id) {
                    it.way = Way::Resolving(resolver, None);
                }
                self.resolve(now, id);
                Some(id)
            }
        };
        self.settle(now);
        opened
    }

    /// What the local program says.
    pub fn say(&mut self, now: Now, conversation: ConversationId, unit: Vec<u8>) {
        self.say_on(now, conversation, unit);
        self.settle(now);
    }

    fn begin(
        &mut self,
        now: Now,
        application: u16,
        peer: Option<Id>,
        routes: Vec<Vec<Id>>,
        theirs: bool,
    ) -> Option<ConversationId> {
        let all = &self.applications.all;
        let begun = |it: &&Conversation| it.theirs && it.peer == peer;
        let of_peer = all.values().filter(begun).count();
        if all.len() >= MAX_CONVERSATIONS || (theirs && of_peer >= MAX_OF_PEER) {
            self.applications.counters.refused += 1;
            return None;
        }
        let id = self.applications.next;
        self.applications.next += 1;
        let new = Conversation {
            application,
            peer,
            routes: routes.into(),
            way: Way::Tunnelled(now.at),
            waiting: VecDeque::new(),
            flying: 0,
            window: Window::default(),
            confirmed: false,
            units: 0,
            used: now.at,
            theirs,
        };
        self.applications.all.insert(id, new);
        Some(id)
    }

    /// The conversation with a peer: the one there is, or a new one, if this node serves the application.
    fn conversation_with(
        &mut self,
        now: Now,
        application: u16,
        peer: Id,
        back: Vec<Id>,
    ) -> Option<ConversationId> {
        if let Some(known) = self.applications.with(application, peer) {
            return Some(known);
        }
        if !self.applications.served.contains(&application) {
            return None;
        }
        let id = self.begin(now, application, Some(peer), vec![back], true)?;
        self.heard_of(id, Heard::Begun { application, peer });
        Some(id)
    }

    fn heard_of(&mut self, conversation: ConversationId, heard: Heard) {
        self.out(Output::Application {
            conversation,
            heard,
        });
    }

    /// A unit has come to this node (R61).
    pub(super) fn tunnelled(
        &mut self,
        now: Now,
        from: &Signer,
        back: Vec<Id>,
        tunnel: TunnelRequest,
    ) {
        let conversation = match (back.last(), from.peers().first()) {
            (Some(peer), _) | (None, Some(peer)) => {
                self.conversation_with(now, tunnel.application, *peer, back.clone())
            }
            (None, None) => None,
        };
        let Some(id) = conversation else {
            return self.heard_early(tunnel.application, &back, tunnel.pdu);
        };
        self.applications.counters.tunnelled += 1;
        if let Some(it) = self.applications.all.get_mut(&id) {
            // A client may have come in by another peer since.
            if it.theirs && it.routes.front() != Some(&back) {
                it.routes = [back].into();
            }
        }
        self.hear_unit(now, id, tunnel.pdu);
    }

    fn hear_unit(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) {
        if let Some(it) = self.applications.all.get_mut(&id) {
            it.units += 1;
            it.used = now.at;
            self.heard_of(id, Heard::Unit(unit));
        }
    }

    fn say_on(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) {
        let Some(it) = self.applications.all.get_mut(&id) else {
            self.applications.counters.lost += 1;
            // Whoever still means this conversation is to begin another one.
            self.heard_of(id, Heard::Over(Ended::Idle));
            return;
        };
        it.units += 1;
        it.used = now.at;
        match &mut it.way {
            Way::Resolving(..) | Way::Meeting(true) => self.wait(id, unit),
            Way::Meeting(false) => self.meet(now, id, unit),
            _ if !it.waiting.is_empty() => self.wait(id, unit),
            _ => self.pass_on(now, id, unit),
        }
    }

    /// R134: a long conversation is worth a connection.
    fn connect_if_long(&mut self, now: Now, id: ConversationId) {
        let Some(it) = self.applications.all.get(&id) else {
            return;
        };
        let long = wants_connect(it.units);
        if long && matches!(it.way, Way::Tunnelled(from) if from <= now.at) {
            self.begin_connection(now, id);
        }
    }

    /// The connection comes to nothing, or is no more: TUNNELs serve.
    fn unconnected(&mut self, now: Now, id: ConversationId) {
        if let Some(it) = self.applications.all.get_mut(&id) {
            it.way = Way::Tunnelled(now.at + CONNECT_AGAIN);
            it.units = 0;
        }
    }

    /// The answer to something that was asked for an application.
    pub(super) fn application_answered(
        &mut self,
        now: Now,
        request: RequestId,
        result: Result<Answer, ReloadError>,
    ) {
        if let Some(sent) = self.applications.tunnelled.remove(&request) {
            return self.tunnel_answered(now, sent, &result);
        }
        if let Some(id) = self.applications.asking(request) {
            return match self.applications.all.get(&id).map(|it| &it.way) {
                Some(Way::Resolving(..)) => self.registrations_found(now, id, result),
                _ => self.connection_answered(now, id, result),
            };
        }
        self.registration_answered(now, request, &result);
    }

    fn end(&mut self, id: ConversationId, why: Ended) {
        let Some(gone) = self.applications.all.remove(&id) else {
            return;
        };
        self.applications.counters.lost += gone.waiting.len() as u64;
        self.leave_way(gone.way);
        self.settle_early();
        self.heard_of(id, Heard::Over(why));
    }

    /// Nobody says anything this way any more.
    fn leave_way(&mut self, way: Way) {
        match way {
            Way::Link(link) => self.tell_links(Command::Close(link)),
            Way::Connecting(
                Connecting::Described(token, _) | Connecting::Asked(_, Some(token)),
            ) => self.forget_connect(token),
            _ => {}
        }
    }

    pub(super) fn run_applications(&mut self, now: Now) {
        let idle = self.applications.all.iter();
        let idle = idle.filter(|(_, it)| it.used + IDLE <= now.at);
        let idle: Vec<ConversationId> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            self.end(id, Ended::Idle);
        }
        self.run_connections(now);
        self.run_registrations(now);
        self.run_anonymous(now);
    }

    /// Whoever serves something may be called without being named.
    fn run_anonymous(&mut self, now: Now) {
        let known = self.applications.anonymous.as_ref();
        let due = known.is_none_or(|(_, until)| *until <= now.at);
        if !due || self.applications.served.is_empty() || !self.is_member() {
            return;
        }
        let route = self.node.anonymous_route(now, 2 * ANONYMOUS_FOR);
        self.applications.anonymous = route.map(|route| (route, now.at + ANONYMOUS_FOR));
    }
}

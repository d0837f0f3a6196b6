//! Requests of this node: transactions and retransmission (R53, R54, RD20, RD28).
mod answer;

use super::{Connecting, Node, RequestId, tables};
use crate::body::{
    ConnectBody, FetchResponse, FindResult, Generation, Membership, PingRequest, PingResponse,
    ResourceRequest, TunnelRequest,
};
use crate::contents::{Kind, emit_contents};
use crate::route_log::RouteLogEntry;
use crate::security::{Signer, account};
use crate::signature::{Signature, message_input};
use crate::topology::Input;
use crate::{Code, Header, Id, LinkId, Method, Now, ReloadError, SignerIdentity};
use std::time::Duration;

/// The first wait (R53, RFC 3261 §17.1.2.1).
const T1: Duration = Duration::from_millis(500);
/// The longest wait between two transmissions.
const T2: Duration = Duration::from_secs(4);
/// 64 × T1: then it is over.
pub(super) const GIVE_UP: Duration = Duration::from_secs(32);
/// Requests under way.
const MAX_TRANSACTIONS: usize = 4096;
/// Times that a 302 is followed for one request.
const MAX_REDIRECTS: u8 = 8;

/// How a request of the caller is made.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions {
    /// How long an answer is waited for; at most 32 s. Interactive lookups use 5 s (RD28).
    pub budget: Duration,
    /// Whether hops write themselves into a log (R40).
    pub log: bool,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            budget: GIVE_UP,
            log: false,
        }
    }
}

/// A 200.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whom its signature proves.
    pub from: Signer,
    /// What it says.
    pub body: AnswerBody,
    /// Hops of the request, this node first and without the one who answers, where a log was asked for (R41).
    pub log: Vec<RouteLogEntry>,
}

/// The body of a 200.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerBody {
    /// To PING.
    Pong(PingResponse),
    /// To CONNECT.
    Connect(ConnectBody),
    /// To TUNNEL.
    Arrived,
    /// To STORE and REMOVE.
    Generations(Vec<Generation>),
    /// To FETCH. Every value that is left has been verified: signature, permission, time.
    Values {
        /// What was found.
        found: Vec<FetchResponse>,
        /// Values that were not believed.
        refused: usize,
    },
    /// To FIND.
    Found(Vec<FindResult>),
}

/// Whom a transaction is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum For {
    User,
    TopologyPing(Id),
    Join(Id),
    Update(Id),
    Connect(Id),
    /// Through this peer.
    Probe(Id),
    Copy {
        job: u64,
    },
    Replica {
        store: u64,
    },
    Goodbye,
    /// A resource that has no place here any more.
    Offload(Id),
}

pub(super) struct Transaction {
    purpose: For,
    method: Method,
    route: Vec<Id>,
    /// Common header and payload, and with the signature.
    contents: Vec<u8>,
    signed: Vec<u8>,
    /// Only this peer's answer counts (RD15).
    expect: Option<Id>,
    /// Over this link, and not over the best.
    over: Option<LinkId>,
    options: RequestOptions,
    started: Duration,
    wait: Duration,
    next: Duration,
    with_certificate: bool,
    redirects: u8,
    /// Resource of a FETCH: its values must be of there.
    resource: Id,
}

impl Node {
    /// Common header and payload, with this node's signature (R47).
    pub(super) fn sign_contents(&self, transaction: u64, contents: Vec<u8>, full: bool) -> Vec<u8> {
        let identity = self.security.identity(full);
        let Ok(input) = message_input(self.overlay, transaction, &identity, &contents) else {
            return contents;
        };
        let (algorithm, value) = self.security.sign(&input);
        let signature = Signature {
            algorithm,
            value,
            identity,
        };
        let mut signed = contents;
        match signature.write(&mut signed) {
            Ok(()) => signed,
            Err(_) => Vec::new(),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one request has all of these, and every caller names them once"
    )]
    pub(super) fn request(
        &mut self,
        now: Now,
        purpose: For,
        method: Method,
        route: Vec<Id>,
        payload: &[u8],
        expect: Option<Id>,
        over: Option<LinkId>,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        if self.transactions.len() >= MAX_TRANSACTIONS {
            self.counters.busy += 1;
            return Err(ReloadError::Busy("the table of requests"));
        }
        let mut id = self.rng.next_u64();
        while self.transactions.contains_key(&id) {
            id = self.rng.next_u64();
        }
        let contents = emit_contents(Kind::Request(method as u16), payload);
        // R128, RD27: those who have not met this node before can check it
        let with_certificate = matches!(method, Method::Ping | Method::Connect);
        let signed = self.sign_contents(id, contents.clone(), with_certificate);
        let mut resource = Id::ZERO;
        if let Some(first) = payload.first_chunk::<16>()
            && method == Method::Fetch
        {
            resource = Id(*first);
        }
        let transaction = Transaction {
            purpose,
            method,
            route,
            contents,
            signed,
            expect,
            over,
            options,
            started: now.at,
            wait: T1,
            next: now.at + T1,
            with_certificate,
            redirects: 0,
            resource,
        };
        self.timers
            .insert((transaction.next.min(now.at + options.budget), id));
        self.transactions.insert(id, transaction);
        self.send_transaction(now, id);
        Ok(RequestId(id))
    }

    fn send_transaction(&mut self, now: Now, id: u64) {
        let Some(transaction) = self.transactions.get(&id) else {
            return;
        };
        let mut header = Header::new(self.overlay, id, transaction.route.clone());
        header.log = transaction.options.log.then(Vec::new);
        let signed = transaction.signed.clone();
        match transaction.over {
            Some(link) => self.transmit(link, &header, &signed),
            None => self.dispatch(now, None, header, &signed),
        }
    }

    fn user_request(
        &mut self,
        now: Now,
        method: Method,
        route: Vec<Id>,
        payload: Result<Vec<u8>, ReloadError>,
        expect: Option<Id>,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        let payload = payload?;
        let id = self.request(
            now,
            For::User,
            method,
            route,
            &payload,
            expect,
            None,
            options,
        )?;
        self.pump(now);
        Ok(id)
    }

    /// PING along a route (R55): one id, or a source route (R26). [`Event::Answered`](super::Event::Answered) follows, as for all of these.
    pub fn ping(
        &mut self,
        now: Now,
        route: Vec<Id>,
        infos: &[u8],
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        let body = PingRequest {
            infos: infos.to_vec(),
        };
        self.user_request(now, Method::Ping, route, body.emit(), None, options)
    }

    /// Asks whoever is responsible for a resource: STORE, FETCH, REMOVE or FIND.
    pub fn ask<R: ResourceRequest>(
        &mut self,
        now: Now,
        request: &R,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        let route = vec![request.resource()];
        self.user_request(now, R::METHOD, route, request.body(), None, options)
    }

    /// TUNNEL a unit of an application along a route to its recipient (R61). Where he is named, nobody else confirms or refuses
    /// it: [`ReloadError::Elsewhere`] says that somebody has tried to (RD15).
    pub fn tunnel(
        &mut self,
        now: Now,
        route: Vec<Id>,
        to: Option<Id>,
        body: &TunnelRequest,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        self.user_request(now, Method::Tunnel, route, body.emit(), to, options)
    }

    /// CONNECT for an application along a route whose last id is the other side's; its answer must be signed by that
    /// peer (R133, RD15).
    pub fn connect(
        &mut self,
        now: Now,
        route: Vec<Id>,
        body: &ConnectBody,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        let last = route.last().copied();
        self.user_request(now, Method::Connect, route, body.emit(), last, options)
    }

    pub(super) fn send_ping(&mut self, now: Now, key: Id) {
        let body = PingRequest::default().emit().unwrap_or_default();
        let options = RequestOptions {
            budget: Duration::from_secs(8),
            log: false,
        };
        let purpose = For::TopologyPing(key);
        let sent = self.request(
            now,
            purpose,
            Method::Ping,
            vec![key],
            &body,
            None,
            None,
            options,
        );
        if sent.is_err() {
            self.topology.handle(now, Input::Pinged { key, peer: None });
        }
    }

    pub(super) fn ask_outside(&mut self, now: Now, link: LinkId) {
        let Some(through) = self.links.get(&link).map(|link| link.info.peer) else {
            return;
        };
        let body = PingRequest::default().emit().unwrap_or_default();
        // a full table is no harm: the next probe comes
        let _ = self.request(
            now,
            For::Probe(through),
            Method::Ping,
            vec![self.id.plus(1)],
            &body,
            None,
            Some(link),
            RequestOptions::default(),
        );
    }

    fn direct(&mut self, now: Now, purpose: For, method: Method, peer: Id, payload: &[u8]) -> bool {
        let over = self.by_peer.get(&peer).copied();
        let options = RequestOptions::default();
        let sent = over.is_some()
            && self
                .request(
                    now,
                    purpose,
                    method,
                    vec![peer],
                    payload,
                    Some(peer),
                    over,
                    options,
                )
                .is_ok();
        if !sent {
            self.counters.busy += 1;
        }
        sent
    }

    pub(super) fn send_join(&mut self, now: Now, peer: Id) {
        let body = Membership {
            peer: self.id,
            data: Vec::new(),
        };
        if !self.direct(now, For::Join(peer), Method::Join, peer, &body.emit()) {
            let refused = Input::JoinAnswered {
                peer,
                admitted: false,
            };
            self.topology.handle(now, refused);
        }
    }

    pub(super) fn send_update(&mut self, now: Now, peer: Id, body: &[u8]) {
        self.direct(now, For::Update(peer), Method::Update, peer, body);
    }

    pub(super) fn send_leave(&mut self, now: Now, peer: Id) {
        let body = Membership {
            peer: self.id,
            data: Vec::new(),
        };
        self.direct(now, For::Goodbye, Method::Leave, peer, &body.emit());
    }

    pub(super) fn send_copy(
        &mut self,
        now: Now,
        purpose: For,
        to: Id,
        method: Method,
        payload: &[u8],
    ) -> bool {
        self.direct(now, purpose, method, to, payload)
    }

    pub(super) fn send_connect(
        &mut self,
        now: Now,
        peer: Id,
        told_by: Option<Id>,
        body: &ConnectBody,
    ) {
        let through = told_by.filter(|id| self.by_peer.contains_key(id));
        let route: Vec<Id> = through.into_iter().chain([peer]).collect();
        let options = RequestOptions {
            budget: Duration::from_secs(16),
            log: false,
        };
        let sent = body.emit().and_then(|payload| {
            self.request(
                now,
                For::Connect(peer),
                Method::Connect,
                route,
                &payload,
                Some(peer),
                None,
                options,
            )
        });
        match sent {
            Ok(RequestId(transaction)) => {
                self.connecting
                    .insert(peer, Connecting::Asked { transaction });
            }
            Err(_) => {
                self.connecting.remove(&peer);
                self.topology.handle(now, Input::Unreachable(peer));
            }
        }
    }

    /// Takes back a CONNECT of this node's: the other side's wins (RD32).
    pub(super) fn abandon_connect(&mut self, peer: Id) {
        if let Some(Connecting::Asked { transaction }) = self.connecting.remove(&peer) {
            self.end(transaction);
        }
    }

    fn end(&mut self, id: u64) -> Option<Transaction> {
        let transaction = self.transactions.remove(&id)?;
        let due = |next: Duration| (next, id);
        self.timers.remove(&due(transaction.next));
        let last = transaction.started + transaction.options.budget;
        self.timers.remove(&due(last.min(transaction.next)));
        Some(transaction)
    }

    /// Sends again what is due, and gives up what is over (R53, R54).
    pub(super) fn run_transactions(&mut self, now: Now) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now.at
        {
            self.timers.pop_first();
            let Some(transaction) = self.transactions.get_mut(&id) else {
                continue;
            };
            let over = transaction.started + transaction.options.budget;
            if over <= now.at {
                self.counters.timeouts += 1;
                if let Some(transaction) = self.transactions.remove(&id) {
                    self.finish(now, id, transaction, Err(ReloadError::Timeout));
                }
                continue;
            }
            transaction.wait = (transaction.wait * 2).min(T2);
            transaction.next = now.at + transaction.wait;
            let next = transaction.next.min(over);
            self.timers.insert((next, id));
            self.counters.retransmitted += 1;
            self.send_transaction(now, id);
        }
    }

    /// Requests under way.
    pub fn pending_requests(&self) -> usize {
        self.transactions.len()
    }
}

/// Whether a signature's identity is one that this signer may act for: what REMOVE asks of who stored a value.
pub(super) fn is_same_owner(owner: &SignerIdentity, signer: &Signer) -> bool {
    match owner {
        SignerIdentity::Anode(address) | SignerIdentity::AnodePeer(address, _) => {
            signer.address == Some(*address)
        }
        SignerIdentity::Peer(peer) => signer.is_peer(*peer),
        SignerIdentity::Name(name) => signer.names.contains(name),
        SignerIdentity::Certificate(der) => {
            let certificate = crate::security::Certificate::from_der(der);
            certificate.is_ok_and(|it| it.peers().iter().any(|peer| signer.is_peer(*peer)))
        }
    }
}

/// The key by which repeats of a request are known: its transaction and all that it says.
pub(super) fn repeat_key(header: &Header, contents: &[u8]) -> (u64, u64) {
    (header.transaction, account(contents))
}

pub(super) fn is_cacheable(code: Code) -> bool {
    tables::is_cacheable(code)
}

//! Requests of this node: transactions, retransmission, answers (R53, R54, RD20, RD28).
use super::{CONNECT_BUDGET, Connecting, Event, Node, RequestId, tables};
use crate::body::{
    ConnectBody, FetchResponse, FindResult, Generation, Membership, Packed, PingRequest,
    PingResponse, ResourceRequest, TunnelRequest,
};
use crate::contents::{Contents, ErrorBody, Kind, emit_contents};
use crate::route_log::RouteLogEntry;
use crate::security::{Purpose, Signer, account};
use crate::signature::{Signature, message_input};
use crate::topology::Input;
use crate::usage::Claim;
use crate::{
    Code, DataValue, Header, Id, LinkId, Method, Now, ReloadError, SignerIdentity, StoredData,
    TypeId,
};
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
    /// Hops of the request, where a log was asked for (R41).
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

    /// PING along a route (R55): one id, or a source route (R26). [`Event::Answered`] follows, as for all of these.
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

    /// TUNNEL a unit of an application along a route whose last id is the recipient's (R61).
    pub fn tunnel(
        &mut self,
        now: Now,
        route: Vec<Id>,
        body: &TunnelRequest,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        self.user_request(now, Method::Tunnel, route, body.emit(), None, options)
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

    /// A response has arrived.
    pub(super) fn on_response(
        &mut self,
        now: Now,
        header: &Header,
        code: Code,
        contents: &Contents<'_>,
    ) {
        let id = header.transaction;
        let Some(transaction) = self.transactions.get(&id) else {
            self.counters.unexpected += 1;
            return;
        };
        let (expect, method) = (transaction.expect, transaction.method);
        let signer = match self.verify_message(now, header, contents) {
            Ok(signer) => signer,
            Err(_) => {
                // anybody on the way could have made it: the true answer may still come
                self.counters.unverified += 1;
                return;
            }
        };
        if code == Code::UNAUTHORIZED && self.resend_with_certificate(now, id) {
            return;
        }
        if code == Code::MOVED_TEMPORARILY && self.follow(now, id, contents.payload) {
            return;
        }
        if code == Code::OK && expect.is_some_and(|peer| !signer.is_peer(peer)) {
            // RD15: the peer is gone, and who has its place has answered
            if let Some(transaction) = self.end(id) {
                let gone = Err(ReloadError::Refused(Code::NOT_FOUND));
                self.finish(now, id, transaction, gone);
            }
            return;
        }
        let resource = transaction_resource(&self.transactions, id);
        let body = match code {
            Code::OK => self.read_answer(now, method, resource, contents.payload),
            code => Err(ReloadError::Refused(code)),
        };
        let Some(transaction) = self.end(id) else {
            return;
        };
        let identity = contents.signature.as_ref().map(|it| it.identity.clone());
        if let (For::Connect(peer), Ok(AnswerBody::Connect(body)), Some(identity)) =
            (&transaction.purpose, &body, identity)
        {
            let until = now.at + CONNECT_BUDGET;
            self.connecting.insert(*peer, Connecting::Linking { until });
            self.emit(Event::ConnectAnswered {
                peer: *peer,
                identity,
                body: body.clone(),
            });
            return;
        }
        let answer = body.map(|body| Answer {
            from: signer,
            body,
            log: header.log.clone().unwrap_or_default(),
        });
        self.finish(now, id, transaction, answer);
    }

    /// R27 of the resolutions: 401 asks for the certificate; once.
    fn resend_with_certificate(&mut self, now: Now, id: u64) -> bool {
        let Some(transaction) = self.transactions.get(&id) else {
            return false;
        };
        if transaction.with_certificate
            || self.security.identity(true) == self.security.identity(false)
        {
            return false;
        }
        let contents = transaction.contents.clone();
        let signed = self.sign_contents(id, contents, true);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.with_certificate = true;
            transaction.signed = signed;
        }
        self.send_transaction(now, id);
        true
    }

    /// R49: a 302 is followed, through the peer it names.
    fn follow(&mut self, now: Now, id: u64, payload: &[u8]) -> bool {
        let target = ErrorBody::parse(payload)
            .ok()
            .and_then(|body| body.moved_to());
        let (Some(target), Some(transaction)) = (target, self.transactions.get_mut(&id)) else {
            return false;
        };
        if transaction.redirects >= MAX_REDIRECTS || !target.is_valid_peer() {
            return false;
        }
        transaction.redirects += 1;
        let last = transaction.route.last().copied();
        transaction.route = [target].into_iter().chain(last).collect();
        self.send_transaction(now, id);
        true
    }

    fn read_answer(
        &mut self,
        now: Now,
        method: Method,
        resource: Id,
        payload: &[u8],
    ) -> Result<AnswerBody, ReloadError> {
        Ok(match method {
            Method::Ping => AnswerBody::Pong(PingResponse::parse(payload)?),
            Method::Connect => AnswerBody::Connect(ConnectBody::parse(payload)?),
            Method::Store | Method::Remove => {
                AnswerBody::Generations(Generation::parse_list(payload)?)
            }
            Method::Find => AnswerBody::Found(FindResult::parse_list(payload)?),
            Method::Fetch => {
                let kinds = &self.config.kinds;
                let mut found = FetchResponse::parse_list(payload, |kind| kinds.model(kind))?;
                let mut refused = 0;
                // R80: before the values that they vouch for
                let certificates = found.iter().filter(|one| one.kind == TypeId::CERTIFICATE);
                for data in certificates.flat_map(|one| &one.values) {
                    self.security.learn_certificate(data.value.bytes(), now);
                }
                for one in &mut found {
                    let before = one.values.len();
                    let kind = one.kind;
                    one.values
                        .retain(|data| self.believes(now, resource, kind, data));
                    refused += before - one.values.len();
                }
                self.counters.values_refused += refused as u64;
                AnswerBody::Values { found, refused }
            }
            Method::Tunnel | Method::Join | Method::Leave | Method::Update => AnswerBody::Arrived,
        })
    }

    /// Whether a fetched value is what its owner wrote, for here, and not older than what was seen before (R141).
    fn believes(&mut self, now: Now, resource: Id, kind: TypeId, data: &StoredData) -> bool {
        if data.value.bytes().is_empty() && data.signature.is_none() {
            return true;
        }
        if data.expires() <= now.unix || self.check_owner(now, resource, kind, data).is_err() {
            return false;
        }
        let place = match &data.value {
            DataValue::Single(_) => 0,
            DataValue::Array { index, .. } => *index as u64,
            DataValue::Dictionary { key, .. } => account(key),
        };
        let seen = self.seen.entry((resource, kind, place), || 0);
        let good = data.storage_time >= *seen;
        *seen = (*seen).max(data.storage_time);
        good
    }

    /// Verifies a value's signature and its owner's right to this place (R68, R139).
    pub(super) fn check_owner(
        &mut self,
        now: Now,
        resource: Id,
        kind: TypeId,
        data: &StoredData,
    ) -> Result<(), ReloadError> {
        let permission = self
            .config
            .kinds
            .get(kind)
            .ok_or(ReloadError::UnknownType(kind))?
            .permission
            .clone();
        if !self.security.protects_data() {
            return Ok(());
        }
        let signature = data
            .signature
            .as_ref()
            .ok_or(ReloadError::Unverified("the value is not signed"))?;
        let input = data.signature_input(resource, kind, &signature.identity)?;
        let signer = self
            .security
            .verify(signature, &input, Purpose::Data, now)?;
        permission(&Claim {
            resource,
            data,
            signer: &signer,
        })
    }

    /// Verifies a message's signature (R47).
    pub(super) fn verify_message(
        &mut self,
        now: Now,
        header: &Header,
        contents: &Contents<'_>,
    ) -> Result<Signer, ReloadError> {
        let signature = contents
            .signature
            .as_ref()
            .ok_or(ReloadError::Unverified("the message is not signed"))?;
        let input = message_input(
            header.overlay,
            header.transaction,
            &signature.identity,
            contents.signed,
        )?;
        self.security
            .verify(signature, &input, Purpose::Message, now)
    }

    fn finish(
        &mut self,
        now: Now,
        id: u64,
        transaction: Transaction,
        result: Result<Answer, ReloadError>,
    ) {
        match transaction.purpose {
            For::User => self.emit(Event::Answered {
                request: RequestId(id),
                result,
            }),
            For::TopologyPing(key) => {
                let peer = result.ok().and_then(|answer| answer.from.peer_near(key));
                self.topology.handle(now, Input::Pinged { key, peer });
            }
            For::Join(peer) => {
                let admitted = result.is_ok();
                let answered = Input::JoinAnswered { peer, admitted };
                self.topology.handle(now, answered);
            }
            For::Update(peer) => {
                if result == Err(ReloadError::Timeout) {
                    self.topology.handle(now, Input::UpdateFailed(peer));
                }
            }
            For::Connect(peer) => {
                // 491: the other side's CONNECT is on its way, and makes the link (RD32)
                if result.err() != Some(ReloadError::Refused(Code::REQUEST_PENDING)) {
                    self.connecting.remove(&peer);
                    self.topology.handle(now, Input::Unreachable(peer));
                } else {
                    let until = now.at + CONNECT_BUDGET;
                    self.connecting.insert(peer, Connecting::Linking { until });
                }
            }
            For::Probe(through) => {
                let key = self.id.plus(1);
                let peer = result.ok().and_then(|answer| answer.from.peer_near(key));
                if let Some(peer) = peer.filter(|peer| *peer != self.id) {
                    self.topology
                        .handle(now, Input::ProbedOutside { peer, through });
                }
            }
            For::Copy { job } => self.copy_answered(now, job),
            For::Replica { store } => self.replica_answered(now, store, result.is_ok()),
            For::Offload(resource) => {
                // 412: the owner has a newer one
                let newer = Err(ReloadError::Refused(Code::PRECONDITION_FAILED));
                let good = result.is_ok() || result == newer;
                self.offload_answered(now, resource, good);
            }
            For::Goodbye => {}
        }
    }

    /// Requests under way.
    pub fn pending_requests(&self) -> usize {
        self.transactions.len()
    }
}

fn transaction_resource(
    transactions: &std::collections::BTreeMap<u64, Transaction>,
    id: u64,
) -> Id {
    transactions.get(&id).map_or(Id::ZERO, |it| it.resource)
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

//! Answers to requests of this node: who gave them, what they say, and whether to believe it (R47, R68, R141).
use super::{Answer, AnswerBody, For, MAX_REDIRECTS, Transaction};
use crate::body::{ConnectBody, FetchResponse, FindResult, Generation, Packed, PingResponse};
use crate::contents::{Contents, ErrorBody};
use crate::node::{CONNECT_BUDGET, Connecting, Event, Node, RequestId};
use crate::route_log::RouteLogEntry;
use crate::security::{Purpose, Signer, account};
use crate::signature::message_input;
use crate::storage::MAX_AHEAD;
use crate::topology::Input;
use crate::usage::Claim;
use crate::{Code, DataValue, Header, Id, Method, Now, ReloadError, StoredData, TypeId};

impl Node {
    /// A response has arrived.
    pub(in crate::node) fn on_response(
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
        let takes_place = matches!(code, Code::OK | Code::NOT_FOUND);
        if takes_place && expect.is_some_and(|peer| !signer.is_peer(peer)) {
            // RD15: the peer is gone, or not reached this way, and who has its place has answered
            if let Some(transaction) = self.end(id) {
                self.finish(now, id, transaction, Err(ReloadError::Elsewhere));
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
            body,
            log: way_there(header.log.clone().unwrap_or_default(), &signer),
            from: signer,
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
        // RD39: who has stored it has lied, or looked at another clock; all that its owner says until then would look old
        let future = u64::from(data.storage_time) > now.unix + MAX_AHEAD;
        let over = data.expires() <= now.unix;
        if future || over || self.check_owner(now, resource, kind, data).is_err() {
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
    pub(in crate::node) fn check_owner(
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
    pub(in crate::node) fn verify_message(
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

    pub(super) fn finish(
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
            For::Copy { job } => self.copy_answered(now, job, result.is_ok()),
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
}

fn transaction_resource(
    transactions: &std::collections::BTreeMap<u64, Transaction>,
    id: u64,
) -> Id {
    transactions.get(&id).map_or(Id::ZERO, |it| it.resource)
}

/// The hops of the request: every hop of the response appends, too (R40), its sender first.
fn way_there(mut log: Vec<RouteLogEntry>, responder: &Signer) -> Vec<RouteLogEntry> {
    let is_back = |at: usize| {
        let id = log[at].id;
        // who does not log what it answers itself is behind the hop that comes twice
        responder.is_peer(id) || log[..at].iter().any(|entry| entry.id == id)
    };
    let end = (0..log.len()).find(|at| is_back(*at));
    log.truncate(end.unwrap_or(log.len()));
    log
}

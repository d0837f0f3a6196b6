//! What people ask of a DHT: get, put, find, route (`anode dht`).
use super::Dht;
use super::Output;
use anode_reload::body::{DataValue, Fetch, FetchType, FindRequest, Reference, References};
use anode_reload::node::{self, AnswerBody, RequestId, RequestOptions};
use anode_reload::usage::anode::Found;
use anode_reload::{Code, Id, Now, ReloadError, SignerIdentity, TypeId};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Questions at a time.
const MAX_ASKED: usize = 256;
/// How long people wait.
const BUDGET: Duration = Duration::from_secs(8);

/// Why a question has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// This node is in no ring.
    #[error("this node has not joined the overlay yet: `anode dht status` shows when it has")]
    Out,
    /// Nobody answered.
    #[error("no peer of the overlay answered in time")]
    TimedOut,
    /// The peer that keeps the place says no.
    #[error("the peer that keeps this place refuses: {} ({})", .0.phrase(), .0.0)]
    Refused(Code),
    /// It cannot be asked.
    #[error("{0}")]
    Wrong(String),
}

impl From<ReloadError> for Refusal {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Timeout => Self::TimedOut,
            ReloadError::Refused(code) => Self::Refused(code),
            other => Self::Wrong(other.to_string()),
        }
    }
}

/// The answer to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Of [`Dht::get`].
    Got(Result<Vec<Value>, Refusal>),
    /// Of [`Dht::put`]: the generation that the place has now.
    Put(Result<u64, Refusal>),
    /// Of [`Dht::find`]: the closest resource of the kind, and who keeps it.
    Nearest(Result<(Option<Id>, Option<Id>), Refusal>),
    /// Of [`Dht::route`].
    Route(Result<(Vec<Hop>, Duration), Refusal>),
    /// Of [`Dht::lookup`]: records of an address; empty: there is none.
    Found(Vec<Found>),
}

/// A stored value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Key or index, where the kind has such.
    pub key: Option<Vec<u8>>,
    /// What is stored.
    pub value: Vec<u8>,
    /// Whose it is.
    pub owner: Option<SignerIdentity>,
    /// Unix seconds, by its owner's clock.
    pub storage_time: u32,
    /// Unix seconds.
    pub expires: u64,
}

/// One step of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Its Peer-ID.
    pub node: Id,
    /// Where it says to be; nothing proves it.
    pub endpoint: Option<SocketAddr>,
}

/// What is to be stored, before it is signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutValue {
    /// Which kind.
    pub kind: TypeId,
    /// Where.
    pub resource: Id,
    /// What.
    pub value: DataValue,
    /// For how many seconds.
    pub lifetime: u32,
}

enum Question {
    Get,
    Put,
    Find,
    Route,
}

pub(super) struct Asked {
    token: u64,
    question: Question,
    /// What was asked for.
    key: Id,
    at: Duration,
}

/// Questions under way.
#[derive(Default)]
pub(super) struct People {
    asked: BTreeMap<RequestId, Asked>,
}

impl People {
    pub fn take(&mut self, request: RequestId) -> Option<Asked> {
        self.asked.remove(&request)
    }
}

const OPTIONS: RequestOptions = RequestOptions {
    budget: BUDGET,
    log: false,
};

impl Dht {
    /// Who has this synthetic address, and where? The answer is [`Answer::Found`].
    pub fn lookup(&mut self, now: Now, target: Ipv6Addr, token: u64) {
        self.start_search(now, target, Some(token));
        self.settle(now);
    }

    /// All values of a kind at a resource.
    pub fn get(&mut self, now: Now, kind: TypeId, resource: Id, token: u64) {
        let sent = self
            .ready()
            .and_then(|()| Ok(self.fetch_all(now, kind, resource, OPTIONS)?));
        self.asked(now, token, Question::Get, resource, sent);
    }

    pub(super) fn fetch_all(
        &mut self,
        now: Now,
        kind: TypeId,
        resource: Id,
        options: RequestOptions,
    ) -> Result<RequestId, ReloadError> {
        let model = self.node.kinds().model(kind);
        let model = model.ok_or(ReloadError::UnknownType(kind))?;
        let request = References {
            resource,
            types: vec![FetchType {
                kind,
                generation: 0,
                reference: Reference::all(model),
            }],
        };
        // R80: where signers are known by certificates, theirs come along.
        let request = match self.config.is_sealed() {
            true => request,
            false => request.with_certificates(),
        };
        self.node.ask(now, &Fetch(&request), options)
    }

    /// Stores a value in this node's name.
    pub fn put(&mut self, now: Now, put: PutValue, token: u64) {
        let time = u32::try_from(now.unix).unwrap_or(u32::MAX);
        let PutValue {
            kind,
            resource,
            value,
            lifetime,
        } = put;
        let sent = self
            .ready()
            .and_then(|()| Ok(self.store_signed(now, resource, kind, value, time, lifetime)?));
        self.asked(now, token, Question::Put, resource, sent);
    }

    /// The first resource at or after this one that has a value of this kind, among those of the peer that keeps it.
    pub fn find(&mut self, now: Now, kind: TypeId, resource: Id, token: u64) {
        let request = FindRequest {
            resource,
            kinds: vec![kind],
        };
        let sent = self.ready();
        let sent = sent.and_then(|()| Ok(self.node.ask(now, &request, OPTIONS)?));
        self.asked(now, token, Question::Find, resource, sent);
    }

    /// The way that a message for this resource or peer takes.
    pub fn route(&mut self, now: Now, to: Id, token: u64) {
        let options = RequestOptions {
            log: true,
            ..OPTIONS
        };
        let sent = self.ready();
        let sent = sent.and_then(|()| Ok(self.node.ping(now, vec![to], &[], options)?));
        self.asked(now, token, Question::Route, to, sent);
    }

    fn ready(&self) -> Result<(), Refusal> {
        match (self.is_in(), self.people.asked.len() < MAX_ASKED) {
            (false, _) => Err(Refusal::Out),
            (true, false) => Err(ReloadError::Busy("the table of questions").into()),
            (true, true) => Ok(()),
        }
    }

    fn asked(
        &mut self,
        now: Now,
        token: u64,
        question: Question,
        key: Id,
        sent: Result<RequestId, Refusal>,
    ) {
        let at = now.at;
        match sent {
            Ok(request) => {
                let asked = Asked {
                    token,
                    question,
                    key,
                    at,
                };
                self.people.asked.insert(request, asked);
            }
            Err(refusal) => {
                let answer = match question {
                    Question::Get => Answer::Got(Err(refusal)),
                    Question::Put => Answer::Put(Err(refusal)),
                    Question::Find => Answer::Nearest(Err(refusal)),
                    Question::Route => Answer::Route(Err(refusal)),
                };
                self.out(Output::Answer { token, answer });
            }
        }
        self.settle(now);
    }

    pub(super) fn tell(
        &mut self,
        now: Now,
        asked: Asked,
        result: Result<node::Answer, ReloadError>,
    ) {
        let result = result.map_err(Refusal::from);
        let answer = match asked.question {
            Question::Get => Answer::Got(result.map(values)),
            Question::Put => Answer::Put(result.map(generation)),
            Question::Find => Answer::Nearest(result.map(|answer| nearest(asked.key, answer))),
            Question::Route => {
                let own = self.node.id();
                let spent = now.at - asked.at;
                Answer::Route(result.map(|answer| (hops(own, asked.key, answer), spent)))
            }
        };
        let token = asked.token;
        self.out(Output::Answer { token, answer });
    }
}

fn values(answer: node::Answer) -> Vec<Value> {
    let AnswerBody::Values { found, .. } = answer.body else {
        return Vec::new();
    };
    // The first kind is the one that was asked for.
    let values = found.into_iter().take(1).flat_map(|one| one.values);
    let values = values.filter(|data| !data.value.bytes().is_empty());
    values
        .map(|data| {
            let expires = data.expires();
            let owner = data.signature.map(|signature| signature.identity);
            let (key, value) = match data.value {
                DataValue::Single(value) => (None, value),
                DataValue::Array { index, value } => (Some(index.to_string().into_bytes()), value),
                DataValue::Dictionary { key, value } => (Some(key), value),
            };
            Value {
                key,
                value,
                owner,
                storage_time: data.storage_time,
                expires,
            }
        })
        .collect()
}

fn generation(answer: node::Answer) -> u64 {
    match answer.body {
        AnswerBody::Generations(list) => list.first().map_or(0, |one| one.generation),
        _ => 0,
    }
}

fn nearest(key: Id, answer: node::Answer) -> (Option<Id>, Option<Id>) {
    let keeper = answer.from.peer_near(key);
    match answer.body {
        AnswerBody::Found(found) => {
            let closest = found.first().map(|one| one.closest);
            (closest.filter(|id| *id != Id::ZERO), keeper)
        }
        _ => (None, keeper),
    }
}

/// The log begins with this node itself and ends before the one who answers.
fn hops(own: Id, key: Id, answer: node::Answer) -> Vec<Hop> {
    let logged = answer.log.into_iter().filter(|entry| entry.id != own);
    let mut hops: Vec<Hop> = logged
        .map(|entry| Hop {
            node: entry.id,
            endpoint: Some(entry.address).filter(|at| at.port() != 0),
        })
        .collect();
    if let Some(last) = answer.from.peer_near(key).filter(|id| *id != own) {
        hops.push(Hop {
            node: last,
            endpoint: None,
        });
    }
    hops
}

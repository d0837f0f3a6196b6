//! What people ask of the DHTs.

use std::sync::Arc;

use anode_routing::dht::reload::usage::anode;
use anode_routing::dht::reload::{Id, TypeId};
use anode_routing::dht::{Role, Value};
use anode_wire::{Address, PeerId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::api::{Lookup, millis};
use super::server::{Answer as Reply, Body, Control, Problem};
use crate::command::{LookupReport, Target};
use crate::dht::text::{self, BytesText, ValueDocument, resource_id};
use crate::dht::{Answer, NoOverlay, PutValue, Question, Refusal, Status};
use crate::state::book::hex;

/// One of `anode dht status --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// Its name.
    pub overlay: String,
    /// This node's Peer-ID, 32 hex digits.
    pub node: String,
    /// `peer` or `client`.
    pub role: String,
    /// Whether it is part of the ring.
    pub joined: bool,
    /// Peer-IDs of its neighbours in the ring: successors, then predecessors.
    pub neighbours: Vec<String>,
    /// Far peers.
    pub fingers: usize,
    /// Links, to neighbours, fingers and others.
    pub links: usize,
    /// Values that it stores.
    pub stored: usize,
    /// Bytes that they take.
    pub stored_bytes: usize,
    /// Whether the overlay has a record of where this node is.
    pub published: bool,
    /// Where it serves applications, the `gr` value of an anonymous GRUU to it; `null` else.
    #[serde(default)]
    pub anonymous_gruu: Option<String>,
}

impl OverlayStatus {
    fn new(status: Status) -> Self {
        let role = match status.role {
            Role::Peer => "peer",
            Role::Client => "client",
        };
        Self {
            overlay: status.overlay,
            node: hex(&status.node.0),
            role: role.to_owned(),
            joined: status.joined,
            neighbours: status.neighbours.iter().map(|id| hex(&id.0)).collect(),
            fingers: status.fingers,
            links: status.links,
            stored: status.stored,
            stored_bytes: status.stored_bytes,
            published: status.published,
            anonymous_gruu: status.anonymous_gruu,
        }
    }
}

/// A question about a place of a kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// The overlay; the first when not given.
    #[serde(default)]
    pub overlay: Option<String>,
    /// Number of the kind.
    pub kind: u32,
    /// As people write it.
    pub key: String,
}

/// A value to store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutRequest {
    /// The overlay; the first when not given.
    #[serde(default)]
    pub overlay: Option<String>,
    /// Number of the kind.
    pub kind: u32,
    /// As people write it.
    pub key: String,
    /// Hex digits.
    pub value: String,
}

/// A question about a place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceRequest {
    /// The overlay; the first when not given.
    #[serde(default)]
    pub overlay: Option<String>,
    /// Number of the kind, for FIND.
    #[serde(default)]
    pub kind: u32,
    /// Address, overlay IPv6, name, or `hex:` of a Resource-ID.
    pub target: String,
}

/// `anode dht put --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Where, 32 hex digits.
    pub resource: String,
    /// The generation of the kind there.
    pub generation: u64,
}

/// `anode dht find --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nearest {
    /// From where on was asked for, 32 hex digits.
    pub from: String,
    /// The first place with a value of the kind; `null`: the peer asked has none.
    pub resource: Option<String>,
    /// Who keeps the place asked for.
    pub node: Option<String>,
}

/// `anode dht route --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Route {
    /// In the order of the way; the last one answers. Empty: this node keeps the place itself.
    pub hops: Vec<RouteHop>,
    /// From the question to the answer, in milliseconds.
    pub rtt_ms: f64,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteHop {
    /// Peer-ID, 32 hex digits.
    pub node: String,
    /// Where it says to be, `null` where it does not say.
    pub endpoint: Option<String>,
}

impl From<NoOverlay> for Problem {
    fn from(none: NoOverlay) -> Self {
        let status = match none {
            NoOverlay::None => StatusCode::NOT_FOUND,
            NoOverlay::Named(_) => StatusCode::BAD_REQUEST,
            NoOverlay::Gone => StatusCode::SERVICE_UNAVAILABLE,
        };
        Problem(status, none.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Out | Refusal::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Wrong(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem(status, refusal.to_string())
    }
}

/// Another answer than the question's: cannot be.
fn mixed_up() -> Problem {
    let text = "the DHT gave the answer to another question: please report this";
    Problem(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
}

pub(super) async fn status(State(control): State<Arc<Control>>) -> Reply<Vec<OverlayStatus>> {
    let all = control.dht.status().await;
    Ok(Json(all.into_iter().map(OverlayStatus::new).collect()))
}

pub(super) async fn get_values(
    State(control): State<Arc<Control>>,
    Body(request): Body<KeyRequest>,
) -> Reply<Vec<ValueDocument>> {
    let mut all: Vec<Value> = Vec::new();
    for resource in places_of(&control, &request).await? {
        let question = Question::Get {
            kind: request.kind,
            resource: resource.0,
        };
        match control
            .dht
            .question(request.overlay.clone(), question)
            .await?
        {
            Answer::Got(values) => all.extend(values?),
            _ => return Err(mixed_up()),
        }
    }
    // Both copies of a record say the same.
    let mut documents: Vec<ValueDocument> = all.iter().map(ValueDocument::new).collect();
    documents.sort_by(|a, b| (&a.owner, &a.key).cmp(&(&b.owner, &b.key)));
    documents.dedup_by(|later, first| {
        let same = later.owner == first.owner && later.key == first.key;
        if same && later.storage_time > first.storage_time {
            std::mem::swap(later, first);
        }
        same
    });
    match documents.is_empty() {
        false => Ok(Json(documents)),
        true => Err(Problem::not_found(format!(
            "nothing is stored under {:?}",
            request.key
        ))),
    }
}

/// Where a key's values are; an ANODE-RECORD has two places.
async fn places_of(control: &Control, request: &KeyRequest) -> Result<Vec<Id>, Problem> {
    let kind = TypeId(request.kind);
    if kind == TypeId::ANODE_RECORD && !request.key.starts_with("hex:") {
        let target = control.target(&request.key).await?;
        if let Target::I2p(_) = target {
            return Err(of_i2p(&request.key));
        }
        return Ok(anode::resources(target.ipv6()).into());
    }
    let own = own_id(control, request.overlay.as_deref()).await;
    Ok(vec![text::resource(kind, &request.key, own)?])
}

/// This node's Peer-ID in an overlay; where a credential server chose it, no address leads to it.
async fn own_id(control: &Control, overlay: Option<&str>) -> Id {
    let all = control.dht.status().await;
    let mut named = all
        .iter()
        .filter(|it| overlay.is_none_or(|name| it.overlay == name));
    let by_address = || Id::of_address(&control.address, control.digit);
    named.next().map_or_else(by_address, |it| it.node)
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    Body(request): Body<PutRequest>,
) -> Reply<Stored> {
    let kind = TypeId(request.kind);
    let bytes = format!("hex:{}", request.value).parse::<BytesText>()?.0;
    let key = KeyRequest {
        overlay: request.overlay.clone(),
        kind: request.kind,
        key: request.key,
    };
    let mut stored = None;
    let own = own_id(&control, request.overlay.as_deref()).await;
    for resource in places_of(&control, &key).await? {
        let put = PutValue {
            kind,
            resource,
            value: text::value(kind, bytes.clone(), (control.address, control.digit), own),
            lifetime: text::lifetime(kind),
        };
        let question = Question::Put(Box::new(put));
        match control
            .dht
            .question(request.overlay.clone(), question)
            .await?
        {
            Answer::Put(generation) => {
                stored = Some(Stored {
                    resource: hex(&resource.0),
                    generation: generation?,
                });
            }
            _ => return Err(mixed_up()),
        }
    }
    stored.map(Json).ok_or_else(mixed_up)
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Body(request): Body<PlaceRequest>,
) -> Reply<Nearest> {
    let resource = place(&control, &request.target).await?;
    let question = Question::Find {
        kind: request.kind,
        resource: resource.0,
    };
    match control.dht.question(request.overlay, question).await? {
        Answer::Nearest(found) => {
            let (closest, keeper) = found?;
            Ok(Json(Nearest {
                from: hex(&resource.0),
                resource: closest.map(|id| hex(&id.0)),
                node: keeper.map(|id| hex(&id.0)),
            }))
        }
        _ => Err(mixed_up()),
    }
}

pub(super) async fn route(
    State(control): State<Arc<Control>>,
    Body(request): Body<PlaceRequest>,
) -> Reply<Route> {
    let to = place(&control, &request.target).await?;
    let question = Question::Route { to: to.0 };
    match control.dht.question(request.overlay, question).await? {
        Answer::Route(way) => {
            let (hops, rtt) = way?;
            let hop = |hop: &anode_routing::dht::Hop| RouteHop {
                node: hex(&hop.node.0),
                endpoint: hop.endpoint.map(|at| format!("udp://{at}")),
            };
            Ok(Json(Route {
                hops: hops.iter().map(hop).collect(),
                rtt_ms: millis(rtt),
            }))
        }
        _ => Err(mixed_up()),
    }
}

/// X: a Resource-ID, or the peer of an address, or, of an IPv6, where its record is.
async fn place(control: &Control, text: &str) -> Result<Id, Problem> {
    if let Some(id) = resource_id(text) {
        return Ok(id?);
    }
    Ok(match control.target(text).await? {
        Target::Address(address) => Id::of_address(&address, PeerId::ANY),
        Target::Ipv6(ip) => anode::resource(ip, 0),
        Target::I2p(_) => return Err(of_i2p(text)),
    })
}

/// The DHT is of Anode addresses alone.
fn of_i2p(text: &str) -> Problem {
    let text = format!("{text} is a destination of I2P: the DHT has Anode addresses only");
    Problem(StatusCode::BAD_REQUEST, text)
}

/// `anode lookup --via dht`
pub(super) async fn lookup(control: &Control, text: &str, target: &Target) -> Reply<Lookup> {
    if let Target::I2p(_) = target {
        return Err(of_i2p(text));
    }
    let answer = control
        .dht
        .question(None, Question::Lookup(target.ipv6()))
        .await?;
    let Answer::Found(found) = answer else {
        return Err(mixed_up());
    };
    let wanted = |address: &Address| match target {
        Target::Address(target) => address == target,
        Target::Ipv6(_) => true,
        Target::I2p(_) => false,
    };
    let alive = found.iter().filter(|one| wanted(&one.address));
    let alive: Vec<_> = alive
        .filter_map(|one| Some((one, one.record.as_ref()?)))
        .collect();
    let Some((first, _)) = alive.first() else {
        return Err(Problem::not_found(format!(
            "the DHT has no record of {text}"
        )));
    };
    let endpoints = alive.iter().flat_map(|(_, record)| {
        let all = record.endpoints.iter().chain(&record.relayed);
        all.map(ToString::to_string)
    });
    let report = LookupReport {
        address: first.address,
        sources: vec!["dht".to_owned()],
        endpoints: endpoints.collect(),
    };
    Ok(Json(report.into()))
}

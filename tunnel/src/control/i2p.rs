//! I2P in the control API: how it stands, names, lookups.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use anode_routing::i2p::{self, LookupError, Question, State};
use axum::Json;
use axum::extract;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::api::{Kind, Path, Peer, TargetRequest, millis};
use super::server::{ANSWER_TIMEOUT, Answer, Body, Control, Problem};
use crate::command::{Command, CommandError, I2pCommand, Reply, Target};
use crate::names::Named;
use crate::state::destinations::{B32, Destination, I2pHost};

/// A router asks others; what it has not found by then, it has not found.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(55);

/// `anode i2p status --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct I2pStatus {
    /// As in the configuration.
    pub router: String,
    /// Over TLS.
    pub tls: bool,
    /// Whether a session is with the router.
    pub connected: bool,
    /// What the router calls itself; i2pd repeats our own version.
    pub router_version: Option<String>,
    /// Those of this machine; programs that bind to no address use the first.
    pub destinations: Vec<OwnDestination>,
    /// Open streams.
    pub streams: usize,
    /// Destinations elsewhere that are known.
    pub known: usize,
}

/// A destination of this machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnDestination {
    /// As in the configuration.
    pub name: Option<String>,
    /// `….b32.i2p`
    pub b32: String,
    /// Its synthetic address: what programs bind to, to be this destination.
    pub ipv6: Ipv6Addr,
    /// `connecting`, `ready`, `idle` or `failed`.
    pub state: String,
    /// What is wrong, while it is not ready.
    pub problem: Option<String>,
    /// Open streams.
    pub streams: usize,
    /// Sessions since the start.
    pub sessions: u64,
}

impl I2pStatus {
    fn new(report: i2p::Snapshot) -> Self {
        let own = |one: i2p::DestinationSnapshot| OwnDestination {
            name: one.name,
            b32: one.hash.b32(),
            ipv6: one.address,
            state: match one.state {
                State::Connecting => "connecting",
                State::Ready => "ready",
                State::Idle => "idle",
                State::Failed(_) => "failed",
            }
            .to_owned(),
            problem: one.problem,
            streams: one.streams,
            sessions: one.sessions,
        };
        Self {
            router: report.router,
            tls: report.tls,
            connected: report.connected,
            router_version: report.router_version,
            destinations: report.destinations.into_iter().map(own).collect(),
            streams: report.streams,
            known: report.known,
        }
    }
}

/// A destination gets a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I2pAddRequest {
    /// `site` or `site.i2p`
    pub name: String,
    /// `….b32.i2p`
    pub b32: String,
}

/// `anode i2p add --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct I2pNamed {
    /// `site.i2p`
    pub name: Option<String>,
    /// `….b32.i2p`
    pub b32: String,
    /// The synthetic address.
    pub ipv6: Ipv6Addr,
}

impl I2pNamed {
    /// Of an entry of the book.
    pub fn new(entry: &Destination) -> Self {
        Self {
            name: entry.name.as_ref().map(ToString::to_string),
            b32: entry.hash.b32(),
            ipv6: entry.hash.synthetic_address(),
        }
    }
}

/// `anode i2p lookup --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct I2pFound {
    /// The name that was asked for, if it was one.
    pub name: Option<String>,
    /// `….b32.i2p`
    pub b32: String,
    /// The synthetic address.
    pub ipv6: Ipv6Addr,
    /// The whole destination in I2P base 64, as address books have it.
    pub destination: String,
}

pub(super) fn off() -> Problem {
    Problem(
        StatusCode::NOT_FOUND,
        "I2P is off: add the section [i2p] to the configuration".to_owned(),
    )
}

impl Control {
    /// Asks the I2P overlay.
    pub(super) async fn ask_i2p<T>(
        &self,
        limit: Duration,
        make: impl FnOnce(Reply<T>) -> I2pCommand,
    ) -> Result<T, Problem> {
        if !self.names.has_i2p() {
            return Err(off());
        }
        let asked = self.data.ask(|reply| Command::I2p(make(reply)));
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CommandError::Busy.into()),
        }
    }

    pub(super) async fn find_i2p(&self, question: Question) -> Result<i2p::Destination, Problem> {
        let ask = |reply| I2pCommand::Ask { question, reply };
        let found = self.ask_i2p(LOOKUP_TIMEOUT, ask).await?;
        found.map_err(|why| {
            let status = match why {
                LookupError::TimedOut | LookupError::Closed => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::NOT_FOUND,
            };
            Problem(status, format!("the I2P router: {why}"))
        })
    }

    /// Destinations with which something was exchanged, as peers.
    pub(super) async fn i2p_peers(&self) -> Result<Vec<Peer>, Problem> {
        if !self.names.has_i2p() {
            return Ok(Vec::new());
        }
        let router = self
            .ask_i2p(ANSWER_TIMEOUT, I2pCommand::Status)
            .await?
            .router;
        let peers = self.ask_i2p(ANSWER_TIMEOUT, I2pCommand::Peers).await?;
        let book = self.book();
        let peer = |one: i2p::PeerSnapshot| {
            let entry = book.destinations.by_hash(&one.hash);
            let given = entry.and_then(|entry| entry.name.as_ref());
            Peer {
                address: one.hash.b32(),
                ipv6: one.address,
                name: given.map(ToString::to_string).or(one.name),
                trusted: entry.is_some_and(|entry| entry.trusted),
                paths: vec![Path {
                    kind: Kind::I2p,
                    transport: "i2p".to_owned(),
                    endpoint: format!("i2p://{router}"),
                    relay: None,
                    hops: 0,
                    rtt_ms: one.rtt.map(millis),
                    mtu: 0,
                    active: true,
                    reason: None,
                }],
                // end to end, by the routers
                sealed: true,
                pq: false,
                rx_bytes: one.rx_bytes,
                tx_bytes: one.tx_bytes,
            }
        };
        Ok(peers.into_iter().map(peer).collect())
    }
}

pub(super) async fn status(
    extract::State(control): extract::State<Arc<Control>>,
) -> Answer<I2pStatus> {
    let report = control.ask_i2p(ANSWER_TIMEOUT, I2pCommand::Status).await?;
    Ok(Json(I2pStatus::new(report)))
}

pub(super) async fn add(
    extract::State(control): extract::State<Arc<Control>>,
    Body(request): Body<I2pAddRequest>,
) -> Answer<I2pNamed> {
    let name: I2pHost = request.name.parse()?;
    let B32(hash) = request.b32.parse()?;
    let entry = control.change_book(|book| {
        book.destinations
            .add(hash, Some(name), false)
            .map_err(|problem| Problem(StatusCode::CONFLICT, problem))
    })?;
    control.follow_book().await?;
    Ok(Json(I2pNamed::new(&entry)))
}

pub(super) async fn lookup(
    extract::State(control): extract::State<Arc<Control>>,
    Body(request): Body<TargetRequest>,
) -> Answer<I2pFound> {
    let named: Named = request.target.parse()?;
    let (name, question) = match &named {
        Named::I2p(name) => {
            let given = control
                .book()
                .destinations
                .by_name(name)
                .map(|one| one.hash);
            let question = given.map_or_else(|| Question::Name(name.clone()), Question::Hash);
            (Some(name.clone()), question)
        }
        Named::Target(Target::I2p(hash)) => (None, Question::Hash(*hash)),
        _ => {
            return Err(Problem(
                StatusCode::BAD_REQUEST,
                format!(
                    "{:?} is no name of I2P: write ….b32.i2p or site.i2p",
                    request.target
                ),
            ));
        }
    };
    let destination = control.find_i2p(question).await?;
    let hash = destination.hash();
    Ok(Json(I2pFound {
        name,
        b32: hash.b32(),
        ipv6: hash.synthetic_address(),
        destination: destination.base64(),
    }))
}

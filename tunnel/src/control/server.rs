//! The routes: each reads a request, asks the data thread, and answers with a document.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anode_platform::privileges::Confined;
use anode_routing::i2p::Question;
use anode_routing::overlay::Failure;
use anode_wire::{Address, PeerId};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rand::Rng;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use serde::de::DeserializeOwned;

use super::api::{
    ApiError, Confinement, DnsStatus, Lookup, LookupRequest, OwnRelay, PING_SIZE_MAX,
    PING_TIMEOUT_MAX_MS, Peer, PingAnswer, PingRequest, PolicyAnswer, PolicyQuestion,
    PolicyReloaded, RelayStatus, Resolved, Source, Status as NodeStatus, TargetRequest,
    failure_text, millis,
};
use super::netcheck::Netcheck;
use super::tickets::Desk;
use super::zone::{self, ZoneDesk};
use super::{dht, i2p, metrics, people, rendezvous};
use crate::command::{Command, CommandError, DataHandle, I2pCommand, JoinNews, Reply, Target};
use crate::config::{ConfigSource, Security};
use crate::dht::DhtDesk;
use crate::dns::Names;
use crate::node::ReadyInfo;
use crate::policy::{Inbound, Policy};
use crate::portmap::Portmap;
use crate::routes::{self, Routes};
use crate::state::LockedState;
use crate::state::book::Book;
use crate::tracker::role::Services;
use crate::turn::paths::TurnDesk;
use crate::turn::role::Role;
use crate::value::ValueError;
use crate::zone::Members;
use anode_routing::anode::Place;

/// Bytes of a request's body.
const BODY_MAX: usize = 16 * 1024;

/// The data thread answers within microseconds unless it hangs.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A lookup asks others; this is longer than any source takes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// Longer than any relay is waited for.
const NETCHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// What the routes know.
pub struct Control {
    /// The way to the data thread.
    pub data: DataHandle,
    /// Who this node is.
    pub address: Address,
    /// Which of the peers that share the address.
    pub digit: PeerId,
    /// What it brought up.
    pub ready: ReadyInfo,
    /// Since when.
    pub since: Instant,
    /// Who is trusted and what peers are called; this node is the trust book's only writer while it runs.
    pub names: Arc<Names>,
    /// The tickets that it has issued.
    pub desk: Desk,
    /// Trackers: met at, and being one.
    pub services: Services,
    /// The zone's file.
    pub zone: ZoneDesk,
    /// The DHTs.
    pub dht: DhtDesk,
    /// Who may reach this machine.
    pub access: Mutex<InForce>,
    /// Where `[inbound]` is read from again.
    pub source: ConfigSource,
    /// `[security]`
    pub security: Security,
    /// The rights that it gave up.
    pub confined: Confined,
    /// What the gateway keeps open.
    pub portmap: Portmap,
    /// What routes the peers, where another node of the machine has the rest.
    pub routes: Option<Routes>,
    /// The state directory.
    pub state: LockedState,
    /// The TURN server beside it.
    pub turn: Option<Role>,
    /// The TURN servers that it may use.
    pub turn_servers: TurnDesk,
}

/// The policy in force, and what it was made of.
pub struct InForce {
    /// `[inbound]` as it was read last.
    pub inbound: Inbound,
    /// With the names of the trust book, and the members of the zone.
    pub policy: Policy,
    /// The members of the zone.
    pub members: Members,
}

/// All routes over `control`.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/relay", get(relay))
        .route("/v1/i2p", get(i2p::status))
        .route("/v1/i2p/add", post(i2p::add))
        .route("/v1/i2p/lookup", post(i2p::lookup))
        .route("/v1/ping", post(ping))
        .route("/v1/lookup", post(lookup))
        .route("/v1/netcheck", post(netcheck))
        .route("/v1/meet", post(rendezvous::meet))
        .route("/v1/resolve", post(resolve))
        .route("/v1/trust", post(people::trust))
        .route("/v1/distrust", post(people::distrust))
        .route("/v1/invite", post(people::invite))
        .route("/v1/invite/withdraw", post(people::withdraw))
        .route("/v1/tickets", get(people::tickets_issued))
        .route("/v1/join", post(people::join))
        .route("/v1/policy/check", post(policy_check))
        .route("/v1/policy/reload", post(policy_reload))
        .route("/v1/zone", get(zone::show))
        .route("/v1/zone/refresh", post(zone::refresh))
        .route("/v1/zone/accept", post(zone::accept))
        .route("/v1/dht", get(dht::status))
        .route("/v1/dht/get", post(dht::get_values))
        .route("/v1/dht/put", post(dht::put))
        .route("/v1/dht/find", post(dht::find))
        .route("/v1/dht/route", post(dht::route))
        .route("/metrics", get(metrics_text))
        .fallback(async || Problem::not_found("no such path in the control API"))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(control)
}

/// A failed request: its status and one line.
#[derive(Debug)]
pub(super) struct Problem(pub(super) StatusCode, pub(super) String);

impl Problem {
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(ApiError { error: self.1 })).into_response()
    }
}

impl From<ValueError> for Problem {
    fn from(error: ValueError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<crate::Error> for Problem {
    fn from(error: crate::Error) -> Self {
        let status = match error.exit_status() {
            2 => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

/// A JSON body whose refusal is an [`ApiError`] too.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(document) = Json::from_request(request, state).await?;
        Ok(Self(document))
    }
}

/// A request that says all by its path: `{}`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) type Answer<T> = Result<Json<T>, Problem>;

impl Control {
    pub(super) async fn ask<T>(
        &self,
        limit: Duration,
        make: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(limit, self.data.ask(make)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(CommandError::Busy.into()),
        }
    }

    /// No code that holds the book can panic halfway, so a poisoned one is as good as any.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.names
            .book
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Somebody shows a ticket (Q30). Its maker's people were not asked again: the ticket is their word.
    pub(crate) async fn joined_by(&self, shown: JoinNews) {
        let from = shown.from;
        let judged = self
            .desk
            .judge(Instant::now(), &shown, &mut self.book(), &self.state);
        let Some((joined, changed)) = judged else {
            return;
        };
        if changed {
            tracing::info!(%from, "a ticket was used: its bearer is trusted now");
            let known = self
                .ask(ANSWER_TIMEOUT, |reply| Command::Trust {
                    address: from,
                    reply,
                })
                .await;
            if let (Err(Problem(_, error)), _) | (_, Err(error)) = (
                known,
                self.follow_book().await.map_err(|error| error.to_string()),
            ) {
                tracing::error!("a ticket was used, but: {error}");
            }
        }
        // A full queue costs nothing: the joiner asks again.
        let _ = self.data.send(Command::Joined { to: from, joined });
    }

    /// As [`Control::book`].
    fn access(&self) -> MutexGuard<'_, InForce> {
        self.access
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads `[inbound]` again. A file that is wrong changes nothing.
    pub(crate) async fn reload(&self) -> Result<PolicyReloaded, crate::Error> {
        let inbound = self.source.read()?.inbound;
        let members = self.access().members.clone();
        let policy = Policy::new(&inbound, &self.book(), &members)?;
        let done = PolicyReloaded::new(&policy);
        *self.access() = InForce {
            inbound,
            policy,
            members,
        };
        self.enforce().await?;
        Ok(done)
    }

    /// The tracker's list is read again.
    pub(crate) fn reload_tracker(&self) {
        let Some(serving) = &self.services.tracker else {
            return;
        };
        let reloaded = self
            .source
            .read()
            .and_then(|config| serving.reload(&config, Some(self.address.zone())));
        if let Err(error) = reloaded {
            tracing::error!("the tracker stays as it was: {error}");
        }
    }

    /// The zone has other members.
    pub(crate) async fn follow_zone(&self, members: Members) -> Result<(), crate::Error> {
        if self.access().members == members {
            return Ok(());
        }
        self.access().members = members;
        if let Some(lost) = self.follow_book().await? {
            tracing::warn!("{lost}");
        }
        Ok(())
    }

    /// The book or the zone has changed: names mean other peers, others are trusted. What the rules lost is returned.
    pub(super) async fn follow_book(&self) -> Result<Option<String>, crate::Error> {
        let lost = {
            let book = self.book();
            let mut access = self.access();
            let (policy, lost) =
                Policy::lenient(&access.inbound, &book, &access.members, &access.policy);
            access.policy = policy;
            lost
        };
        self.enforce().await?;
        let lost = lost.into_iter().next().map(|error| {
            format!("{error}; change that rule before the next start, which would refuse it")
        });
        let unrouted = self.follow_routes().await.err();
        Ok(lost.or(unrouted.map(|error| format!("its route: {error}"))))
    }

    /// Beside another node, the routes lead to whom this one knows now.
    async fn follow_routes(&self) -> Result<(), crate::Error> {
        let Some(routes) = &self.routes else {
            return Ok(());
        };
        let known = |configured: &[_]| {
            let book = self.book();
            routes::known(configured, &book, &self.access().members)
        };
        routes.follow(known).await
    }

    /// Brings the policy to the data thread.
    async fn enforce(&self) -> Result<(), crate::Error> {
        if let Some(turn) = &self.turn {
            let access = self.access();
            turn.follow(&access.policy.trusted, &access.members);
        }
        self.insist(|reply| {
            // Taken anew each time and sent before anything else runs: the last one sent is the last one made.
            let policy = Box::new(self.access().policy.clone());
            Command::SetPolicy { policy, reply }
        })
        .await
    }

    /// Asks until the data thread has heard it: what is on disk and what is in force would differ.
    pub(crate) async fn insist(
        &self,
        make: impl Fn(Reply<()>) -> Command,
    ) -> Result<(), crate::Error> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.data.ask(&make).await {
                Err(CommandError::Busy) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return Ok(result?),
            }
        }
    }

    pub(super) async fn target(&self, text: &str) -> Result<Target, Problem> {
        let target = self.names.resolve(&text.parse()?).await?;
        match target {
            Target::I2p(_) if !self.names.has_i2p() => Err(i2p::off()),
            target => Ok(target),
        }
    }

    /// Changes the book on disk and in memory, or neither.
    pub(super) fn change_book<T>(
        &self,
        change: impl FnOnce(&mut Book) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let mut book = self.book();
        let mut changed = book.clone();
        let result = change(&mut changed)?;
        changed.save(&self.state)?;
        *book = changed;
        Ok(result)
    }
}

async fn status(State(control): State<Arc<Control>>) -> Answer<NodeStatus> {
    let report = control.ask(ANSWER_TIMEOUT, Command::Status).await?;
    Ok(Json(NodeStatus {
        address: control.address.to_string(),
        ipv6: control.address.ipv6(PeerId::ANY),
        interface: control.ready.interface.clone(),
        mtu: control.ready.mtu,
        uptime_s: millis(control.since.elapsed()) / 1e3,
        listen: report.listen.iter().map(Place::to_string).collect(),
        lan: control.ready.lan.clone(),
        peers: report.peers,
        reachable: report.reachable,
        tunnelled: report.tunnelled,
        streams: report.streams,
        relays: report.relays.iter().map(OwnRelay::new).collect(),
        security: control.security.into(),
        dns: DnsStatus::new(&control.names),
        confined: Confinement::new(&control.confined),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    }))
}

async fn peers(State(control): State<Arc<Control>>) -> Answer<Vec<Peer>> {
    let reports = control.ask(ANSWER_TIMEOUT, Command::Peers).await?;
    let trusted: HashSet<Address> = {
        let book = control.book();
        book.entries().iter().map(|entry| entry.address).collect()
    };
    let mut peers: Vec<Peer> = reports
        .iter()
        .map(|report| {
            let name = control.names.name_of(&report.address);
            Peer::new(report, name, trusted.contains(&report.address))
        })
        .collect();
    peers.extend(control.i2p_peers().await?);
    Ok(Json(peers))
}

async fn relay(State(control): State<Arc<Control>>) -> Answer<RelayStatus> {
    let report = control.ask(ANSWER_TIMEOUT, Command::Relay).await?;
    let report = report.ok_or_else(|| {
        Problem::not_found("this node does not relay: add [relay] to its configuration")
    })?;
    Ok(Json(RelayStatus::new(&control.address, &report)))
}

async fn ping(
    State(control): State<Arc<Control>>,
    Body(request): Body<PingRequest>,
) -> Answer<PingAnswer> {
    let to = control.target(&request.target).await?;
    if request.size > PING_SIZE_MAX {
        return Err(Problem(
            StatusCode::BAD_REQUEST,
            format!("size {}: use at most {PING_SIZE_MAX} bytes", request.size),
        ));
    }
    if !(1..=PING_TIMEOUT_MAX_MS).contains(&request.timeout_ms) {
        let text = format!(
            "timeout {} ms: use 1 to {PING_TIMEOUT_MAX_MS}",
            request.timeout_ms
        );
        return Err(Problem(StatusCode::BAD_REQUEST, text));
    }
    let timeout = Duration::from_millis(request.timeout_ms);
    // Random, so that an answer cannot be made without having seen the question.
    let mut payload = vec![0; request.size];
    UnwrapErr(SysRng).fill_bytes(&mut payload);
    let result = control
        .ask(timeout + ANSWER_TIMEOUT, |reply| Command::Ping {
            to,
            payload,
            timeout,
            reply,
        })
        .await?;
    Ok(Json(match result {
        Ok(report) => PingAnswer::Reply {
            rtt_ms: millis(report.rtt),
            path: report.via.kind.into(),
            via: report.via.endpoint.to_string(),
            hops: report.via.hops,
        },
        Err(failure) => PingAnswer::Failed {
            reason: failure_text(failure).to_owned(),
            timeout: failure == Failure::TimedOut,
        },
    }))
}

async fn lookup(
    State(control): State<Arc<Control>>,
    Body(request): Body<LookupRequest>,
) -> Answer<Lookup> {
    let target = control.target(&request.target).await?;
    if let Some(Source::Dht) = request.via {
        return dht::lookup(&control, &request.target, &target).await;
    }
    if let Target::I2p(hash) = target {
        control.find_i2p(Question::Hash(hash)).await?;
        let router = control
            .ask_i2p(ANSWER_TIMEOUT, I2pCommand::Status)
            .await?
            .router;
        return Ok(Json(Lookup {
            address: hash.b32(),
            ipv6: hash.synthetic_address(),
            sources: vec!["i2p".to_owned()],
            endpoints: vec![format!("i2p://{router}")],
        }));
    }
    match control
        .ask(LOOKUP_TIMEOUT, |reply| Command::Lookup { target, reply })
        .await?
    {
        Some(report) => Ok(Json(report.into())),
        None => Err(Problem::not_found(format!(
            "nobody knows where {} is",
            request.target
        ))),
    }
}

async fn netcheck(
    State(control): State<Arc<Control>>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<Netcheck> {
    let report = control.ask(NETCHECK_TIMEOUT, Command::Netcheck).await?;
    Ok(Json(Netcheck::new(&report, control.portmap.found())))
}

async fn resolve(
    State(control): State<Arc<Control>>,
    Body(request): Body<TargetRequest>,
) -> Answer<Resolved> {
    let target = control.target(&request.target).await?;
    Ok(Json(Resolved::new(&target)))
}

async fn policy_check(
    State(control): State<Arc<Control>>,
    Body(question): Body<PolicyQuestion>,
) -> Answer<PolicyAnswer> {
    let answer = question
        .parse()?
        .answer(&control.access().policy, &control.book())?;
    Ok(Json(answer))
}

async fn policy_reload(
    State(control): State<Arc<Control>>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<PolicyReloaded> {
    Ok(Json(control.reload().await?))
}

async fn metrics_text(State(control): State<Arc<Control>>) -> Result<Response, Problem> {
    let mut counters = control.ask(ANSWER_TIMEOUT, Command::Counters).await?;
    counters.extend(control.names.counters.all());
    counters.push((
        "anode_uptime_seconds".to_owned(),
        control.since.elapsed().as_secs(),
    ));
    counters.push((
        "anode_portmap_refused_total".to_owned(),
        control.portmap.refused(),
    ));
    counters.extend(control.zone.counters());
    counters.extend(control.dht.counters().await);
    counters.extend(control.services.counters());
    if let Some(turn) = &control.turn {
        counters.extend(turn.counters());
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((kind, metrics::render(&counters)).into_response())
}

//! The zone of a running node: the task that keeps its file, and what people ask about it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anode_wire::zonefile::ZoneKey;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::server::{Answer, Body, Control, Problem};
use crate::Error;
use crate::command::Command;
use crate::dht::ZoneDht;
use crate::zone::keeper::{Keeper, Outcome};
use crate::zone::{Known, Services, ZoneFrom};

/// Wishes that wait. Each may cost a fetch, so more are refused.
const WISHES: usize = 4;

/// Longer than a look takes: both ways of the draft, each within its limit.
const LOOK_TIMEOUT: Duration = Duration::from_secs(25);

/// What the task is asked for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Refresh { force: bool },
    Accept(ZoneKey),
}

/// A wish, and the way back for its answer.
pub struct Ask {
    wish: Wish,
    reply: oneshot::Sender<Result<Outcome, Error>>,
}

/// What the routes know of the zone, and their way to the task.
pub struct ZoneDesk {
    in_use: watch::Sender<Option<Arc<Known>>>,
    asks: mpsc::Sender<Ask>,
    view: Mutex<View>,
    services: watch::Sender<Services>,
}

struct View {
    zone: String,
    from: ZoneFrom,
    pin: Option<ZoneKey>,
    known: Option<Arc<Known>>,
    trouble: Option<String>,
    next: Option<Instant>,
    looks: u64,
    failures: u64,
    changes: u64,
}

impl ZoneDesk {
    /// With what the keeper has at the start, and the end that the task listens at.
    pub fn new(keeper: &Keeper) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(WISHES);
        let view = View {
            zone: keeper.zone().to_string(),
            from: keeper.from().clone(),
            pin: keeper.pin(),
            known: keeper.known().cloned(),
            trouble: None,
            next: None,
            looks: 0,
            failures: 0,
            changes: 0,
        };
        let services = keeper.known().map(|known| known.services());
        let desk = Self {
            in_use: watch::Sender::new(keeper.known().cloned()),
            asks,
            view: Mutex::new(view),
            services: watch::Sender::new(services.unwrap_or_default()),
        };
        (desk, receiver)
    }

    /// The file in use, and word of every other.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Known>>> {
        self.in_use.subscribe()
    }

    /// No code that holds the view can panic halfway, so a poisoned one is as good as any.
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the zone offers beside relays: now, and whenever a file says something else.
    pub fn follow_services(&self) -> watch::Receiver<Services> {
        self.services.subscribe()
    }

    /// A newer file may be there; nobody waits for the answer. A full queue will look anyway.
    pub fn look_soon(&self) {
        let (reply, _) = oneshot::channel();
        let wish = Wish::Refresh { force: false };
        let _ = self.asks.try_send(Ask { wish, reply });
    }

    async fn ask(&self, wish: Wish) -> Result<Outcome, Problem> {
        let busy = |text: &str| Problem(StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        let (reply, answer) = oneshot::channel();
        self.asks
            .try_send(Ask { wish, reply })
            .map_err(|_| busy("the zone's file is being looked for already: try again"))?;
        match tokio::time::timeout(LOOK_TIMEOUT, answer).await {
            Ok(Ok(Ok(outcome))) => Ok(outcome),
            Ok(Ok(Err(error))) => Err(Problem(StatusCode::BAD_GATEWAY, error.to_string())),
            Ok(Err(_)) => Err(busy("the node is ending")),
            Err(_) => Err(busy("the zone's file is still being looked for")),
        }
    }

    /// For the metrics.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let view = self.view();
        let revision = view.known.as_ref().map_or(0, |known| known.file.revision());
        let named = [
            ("anode_zone_looks_total", view.looks),
            ("anode_zone_failures_total", view.failures),
            ("anode_zone_changes_total", view.changes),
            ("anode_zone_revision", revision),
        ];
        named.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// After a look. Each trouble is told once, however often it comes (S26).
    fn publish(&self, keeper: &Keeper, looked: &Result<Outcome, Error>, next: Duration) {
        let mut view = self.view();
        view.looks += 1;
        view.pin = keeper.pin();
        view.known = keeper.known().cloned();
        view.next = Instant::now().checked_add(next);
        match looked {
            Ok(outcome) => {
                if view.trouble.take().is_some() {
                    tracing::info!("the zone file is to be had again");
                }
                if *outcome == Outcome::Taken {
                    view.changes += 1;
                }
            }
            Err(error) => {
                view.failures += 1;
                let text = error.to_string();
                if view.trouble.as_ref() != Some(&text) {
                    let used = match &view.known {
                        Some(known) => format!("revision {} stays in use", known.file.revision()),
                        None => "there is none in use".to_owned(),
                    };
                    tracing::warn!("zone file: {text}; {used}");
                    view.trouble = Some(text);
                }
            }
        }
    }
}

/// Looks for the file now and then, and when asked, and carries what it says to where it counts.
pub async fn keep(control: Arc<Control>, mut keeper: Keeper, mut asks: mpsc::Receiver<Ask>) {
    let mut in_use = keeper.known().cloned();
    // A path was read before the start; a server is asked at once, now that the node stands.
    let mut wait = match keeper.from() {
        ZoneFrom::Path(_) => keeper.next(),
        _ => Duration::ZERO,
    };
    loop {
        let ask = tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => Some(ask),
                // the node has ended
                None => return,
            },
            () = tokio::time::sleep(wait), if !keeper.is_idle() => None,
        };
        if ask.is_none() && !keeper.is_due() {
            wait = keeper.next();
            continue;
        }
        let is_idle = keeper.is_idle();
        let looked = obey(&control, &mut keeper, ask.as_ref().map(|ask| ask.wish)).await;
        remember(&control, &mut keeper);
        wait = keeper.next();
        if !is_idle {
            control.zone.publish(&keeper, &looked, wait);
        }
        if let Some(known) = keeper.known()
            && !in_use.as_ref().is_some_and(|old| old.file == known.file)
        {
            tracing::info!(
                revision = known.file.revision(),
                "another zone file is in use"
            );
            in_use = Some(Arc::clone(known));
            control.zone.in_use.send_replace(in_use.clone());
            carry(&control, known).await;
        }
        if let Some(ask) = ask {
            // Who asked may have gone.
            let _ = ask.reply.send(looked);
        }
    }
}

async fn obey(
    control: &Control,
    keeper: &mut Keeper,
    wish: Option<Wish>,
) -> Result<Outcome, Error> {
    let force = match wish {
        None => false,
        Some(_) if keeper.is_idle() => {
            return Err(Error::refused(
                "this node has no zone file: give one with zone-file, or use an identity of a zone other than 0",
            ));
        }
        Some(Wish::Refresh { force }) => force,
        Some(Wish::Accept(key)) => {
            keeper.accept(key, &control.state)?;
            false
        }
    };
    let looked = keeper.look(force).await;
    looked.map_err(|trouble| Error::refused(trouble.to_string()))
}

fn remember(control: &Control, keeper: &mut Keeper) {
    if let Err(error) = keeper.save(&control.state) {
        tracing::warn!("the zone's copy: {error}");
    }
}

async fn carry(control: &Control, known: &Known) {
    let services = known.services();
    control.zone.services.send_if_modified(|told| {
        let is_new = *told != services;
        *told = services;
        is_new
    });
    let relays = known.relays();
    let sent = control
        .insist(|reply| Command::SetRelays {
            relays: relays.clone(),
            reply,
        })
        .await;
    control
        .dht
        .follow_zone(ZoneDht::new(Some(known), None))
        .await;
    for result in [sent, control.follow_zone(known.members()).await] {
        if let Err(error) = result {
            tracing::error!("the zone has changed, but: {error}");
        }
    }
}

/// `anode zone show --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// Of this node's address, 8 hexadecimal digits.
    pub zone: String,
    /// Where its file is looked for: a path, a URL, the zone's name and IP, or `none`.
    pub from: String,
    /// The file in use, `null` without one.
    pub file: Option<FileStatus>,
    /// The key that its files must be signed with, once one was.
    pub key: Option<String>,
    /// Why the last look failed.
    pub trouble: Option<String>,
    /// Seconds until the next look.
    pub next_look_s: Option<f64>,
}

/// A zone file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Who runs it.
    pub contact: String,
    /// Its revision.
    pub revision: u64,
    /// Seconds that it is good for.
    pub ttl_s: u64,
    /// Where it came from.
    pub source: String,
    /// Seconds since it was seen there.
    pub age_s: f64,
    /// The key that signed it.
    pub signer: Option<String>,
    /// How many members it lists, `null` where it lists none or is not signed.
    pub members: Option<usize>,
    /// Relay entries, usable or not.
    pub relay_count: u32,
    /// Those that can be used.
    pub relays: Vec<RelayStatus>,
    /// URIs of its TURN servers.
    pub turn: Vec<String>,
    /// URLs of its trackers.
    pub trackers: Vec<String>,
    /// Its DHT.
    pub dht: Option<String>,
    /// What is wrong with it, line by line.
    pub faults: Vec<String>,
}

/// A relay of a zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayStatus {
    /// `zr.<index>`
    pub index: u32,
    /// 64 base32 characters.
    pub address: String,
    /// `udp://192.0.2.1:8737`
    pub endpoints: Vec<String>,
}

impl FileStatus {
    /// Of a file in use.
    pub fn new(known: &Known) -> Self {
        let file = &known.file;
        let mut relays = known.relays().relays;
        // the overlay shuffles them; people want them alike each time
        relays
            .iter_mut()
            .for_each(|relay| relay.endpoints.sort_by_key(ToString::to_string));
        Self {
            name: file.name().into_owned(),
            description: file.description().into_owned(),
            contact: file.contact().into_owned(),
            revision: file.revision(),
            ttl_s: file.ttl().as_secs(),
            source: known.source.clone(),
            age_s: known.seen.elapsed().unwrap_or_default().as_secs_f64(),
            signer: file.signer().map(|key| key.to_string()),
            members: file.members().map(<[_]>::len),
            relay_count: file.relay_count(),
            relays: relays
                .iter()
                .map(|relay| RelayStatus {
                    index: relay.index,
                    address: relay.address.to_string(),
                    endpoints: relay.endpoints.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            turn: file
                .turn_servers()
                .iter()
                .map(|server| server.uri.clone())
                .collect(),
            trackers: file.trackers().to_vec(),
            dht: file.dht().map(|dht| dht.name.clone()),
            faults: known.faults.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// An older revision is taken too.
    #[serde(default)]
    pub force: bool,
}

/// Whom to believe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    /// 66 hexadecimal digits.
    pub key: String,
}

/// `anode zone refresh --json`, `anode zone accept --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refreshed {
    /// Whether another file is in use now.
    pub changed: bool,
    /// The revision in use.
    pub revision: Option<u64>,
}

pub(super) async fn show(State(control): State<Arc<Control>>) -> Answer<ZoneStatus> {
    let view = control.zone.view();
    Ok(Json(ZoneStatus {
        zone: view.zone.clone(),
        from: view.from.to_string(),
        file: view.known.as_deref().map(FileStatus::new),
        key: view.pin.map(|key| key.to_string()),
        trouble: view.trouble.clone(),
        next_look_s: view
            .next
            .map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
    }))
}

pub(super) async fn refresh(
    State(control): State<Arc<Control>>,
    Body(request): Body<RefreshRequest>,
) -> Answer<Refreshed> {
    let force = request.force;
    let outcome = control.zone.ask(Wish::Refresh { force }).await?;
    Ok(Json(refreshed(&control, outcome)))
}

pub(super) async fn accept(
    State(control): State<Arc<Control>>,
    Body(request): Body<AcceptRequest>,
) -> Answer<Refreshed> {
    let key = request
        .key
        .parse()
        .map_err(|error: anode_wire::zonefile::ZoneKeyError| {
            Problem(StatusCode::BAD_REQUEST, error.to_string())
        })?;
    let outcome = control.zone.ask(Wish::Accept(key)).await?;
    Ok(Json(refreshed(&control, outcome)))
}

fn refreshed(control: &Control, outcome: Outcome) -> Refreshed {
    let view = control.zone.view();
    Refreshed {
        changed: outcome == Outcome::Taken,
        revision: view.known.as_ref().map(|known| known.file.revision()),
    }
}

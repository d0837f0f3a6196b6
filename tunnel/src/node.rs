//! A running node: what it is made of, and its life from start to clean end.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anode_platform::netlink::Netlink;
use anode_platform::privileges::{self, Places};
use anode_platform::tun::Sharing;
use anode_platform::{Prefix, notify};
use anode_routing::anode::{Place, Registration, RelayConfig};
use anode_routing::i2p::{I2pConfig, Known};
use anode_routing::net::ProxyExcept;
use anode_wire::sealed::Record;
use anode_wire::{Address, Identity, PeerId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle as JoinTask;

use crate::Error;
use crate::cli::save::Unwritten;
use crate::command::{Command, DataHandle, I2pCommand, News, PeerReport};
use crate::config::interface::GivenTun;
use crate::config::{ConfigSource, Security};
use crate::control;
use crate::control::listener::{Access, ControlSocket};
use crate::control::server::{Control, InForce, router};
use crate::control::tickets::Desk;
use crate::control::zone::ZoneDesk;
use crate::data;
use crate::dht::task::Task;
use crate::dht::{DhtDesk, DhtPlan};
use crate::dns::responder::Responder;
use crate::dns::{Hook, Names};
use crate::named::{self, NamedPeer};
use crate::names::Given;
use crate::policy::{Inbound, Policy};
use crate::portmap::{self, Portmap};
use crate::relay::Certificate;
use crate::routes::Routes;
use crate::state::book::Book;
use crate::state::identity::Unsaved;
use crate::state::{self, LockedState, i2p, learnt, registered, sessions};
use crate::tracker::meet::MeetPlan;
use crate::tracker::role::{self, Services};
use crate::turn;
use crate::turn::paths::{OwnKeys, TurnDesk, TurnPlan};
use crate::turn::role::Role;
use crate::zone::Relays;
use crate::zone::keeper::Keeper;
use crate::zone::others;

pub use crate::value::PeerEndpoint;

/// What the data thread needs to know: flags over config over defaults, all checked.
pub struct Settings {
    /// Who this node is.
    pub identity: Identity,
    /// Which of the peers that share the address; [`PeerId::ANY`] when not configured.
    pub peer_id: PeerId,
    /// The virtual interface.
    pub interface: Interface,
    /// Its MTU in bytes, at least 1,280; a given one keeps its own.
    pub mtu: u16,
    /// How it gets along with those of other nodes on this machine.
    pub sharing: Sharing,
    /// Where to listen. Empty: `[::]` and `0.0.0.0` on 8737 if that is free, else on any port. A port given here that is busy
    /// is an error.
    pub listen: Vec<Place>,
    /// Interfaces that take packets in raw frames, beside those of configured peers.
    pub ethernet: Vec<String>,
    /// The HTTP proxy that connections go through.
    pub proxy: Option<SocketAddr>,
    /// What is dialled without it.
    pub proxy_except: ProxyExcept,
    /// Peers of flags and config, one entry per endpoint.
    pub peers: Vec<PeerEndpoint>,
    /// Those whose place has a name.
    pub named_peers: Vec<NamedPeer>,
    /// Peers learnt in earlier runs: hints only, tried when traffic wants them.
    pub learnt: Vec<PeerEndpoint>,
    /// Announce on the LAN and listen there.
    pub lan: bool,
    /// The I2P overlay.
    pub i2p: Option<I2pConfig>,
    /// Relay for others.
    pub relay: Option<RelayConfig>,
    /// It is, or may come to be, in a DHT.
    pub dht: bool,
    /// Who was registered with this relay when it ended last.
    pub registered: Vec<Registration>,
    /// What its TLS shows, where the operator has named one.
    pub certificate: Option<Certificate>,
    /// Whose keys are known from the start.
    pub trusted: Vec<Address>,
    /// Who may reach this machine.
    pub policy: Policy,
    /// What may go unsealed.
    pub security: Security,
    /// The relays of the zone, as far as they are known at the start.
    pub relays: Option<Relays>,
    /// What earlier sessions have taught.
    pub records: Vec<Record>,
    /// The state directory; locked by this process.
    pub state_dir: PathBuf,
}

/// Which interface to bring up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Interface {
    /// None (`--no-tun`): control, ping and lookup only.
    None,
    /// The first of anode0, anode1, … that does not exist.
    FirstFree,
    /// Just this one; an error if it is taken.
    Named(String),
    /// One that is there, with the settings that it has.
    Given(GivenTun),
}

/// What stands once traffic can flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadyInfo {
    /// The interface's name, `None` without one.
    pub interface: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Of a given interface: the commands that would give it what it lacks. `None`: it is the node's own.
    pub lacks: Option<Vec<String>>,
    /// The interface of another node, which has the routes (empty: none has them yet).
    pub beside: Option<String>,
    /// The sockets' own addresses.
    pub listen: Vec<Place>,
    /// Names of the interfaces that are announced on.
    pub lan: Vec<String>,
}

/// All that a node is started with.
pub struct Plan {
    /// For the data thread.
    pub settings: Settings,
    /// Peers of flags and configuration, by their synthetic addresses with digit 0.
    pub configured: Vec<Ipv6Addr>,
    /// Where the control socket shall be.
    pub socket: PathBuf,
    /// Who may use it.
    pub access: Access,
    /// Whom this machine trusts, with names.
    pub book: Book,
    /// What keeps the zone's file.
    pub zone: Keeper,
    /// What keeps those of other zones.
    pub other_zones: Vec<Keeper>,
    /// The DHTs, if there may be any.
    pub dht: Option<DhtPlan>,
    /// `[inbound]`, of which the settings' policy was made.
    pub inbound: Inbound,
    /// Where it is read from again.
    pub source: ConfigSource,
    /// The directories that it needs while it runs.
    pub places: Places,
    /// Whether its memory is kept from swap.
    pub memory_locked: bool,
    /// The state directory.
    pub state: LockedState,
    /// The identity, if this start made it: saved when the node stands.
    pub unsaved: Option<Unsaved>,
    /// The configuration, if this start changes it: written when the interface and the sockets are there.
    pub(crate) unwritten: Option<Unwritten>,
    /// Names for the programs of this machine.
    pub dns: DnsPlan,
    /// Whether the gateway is asked to keep a port open.
    pub portmap: bool,
    /// Meeting others at trackers.
    pub meet: Option<MeetPlan>,
    /// Being a tracker; bound, and not served yet.
    pub tracker: Option<role::Prepared>,
    /// Whether somebody watches standard error, to whom new peers are told.
    pub watched: bool,
    /// TURN servers that it may use.
    pub turn_servers: TurnPlan,
    /// A TURN server beside it, its sockets bound.
    pub turn: Option<turn::role::Prepared>,
}

/// What a node's names are made of.
pub struct DnsPlan {
    /// Where to answer; `None`: nobody is answered.
    pub listen: Option<SocketAddr>,
    /// Who is asked for TXT records; none: the system's servers.
    pub servers: Vec<SocketAddr>,
    /// Names beside those of the trust book.
    pub given: Given,
}

/// Whom a node tells of what people should know.
#[derive(Clone, Copy)]
pub struct Told {
    /// A peer got its first path, so many seconds after the start.
    pub met: fn(&Book, &PeerReport, f64),
    /// Names work by themselves from now on, or this line makes them work.
    pub named: fn(&Hook, SocketAddr),
}

/// The prefixes of the overlays: Anode's and I2P's (docs/architecture.md).
pub fn overlay_prefixes() -> [Prefix; 2] {
    let prefix = |first| {
        Prefix::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), 16)
            .expect("16 is a length of IPv6 prefixes")
    };
    [prefix(0xfda0), prefix(0xfda1)]
}

/// How long the data thread may take to say goodbye to its peers and remove what it made.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often learnt peers are written down, beside at the end and when a path to a new place was proven.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);

/// How often a relay writes down who is registered, if that has changed.
const REGISTERED_INTERVAL: Duration = Duration::from_secs(10);

/// Runs a node in the foreground until a signal ends it. `ready` is called once, when traffic can flow.
///
/// Whatever fails, nothing is left behind: the interface goes with its owner, the socket's file with its own.
pub fn run(
    plan: Plan,
    ready: impl FnOnce(&ReadyInfo) -> Result<(), Error>,
    tell: Told,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the control thread"))?;
    runtime.block_on(live(plan, ready, tell))
}

async fn live(
    plan: Plan,
    ready: impl FnOnce(&ReadyInfo) -> Result<(), Error>,
    tell: Told,
) -> Result<(), Error> {
    // Before anything stands: a signal in between would leave it standing.
    let mut signals = Signals::install()?;
    let socket = ControlSocket::bind(&plan.socket, plan.access)?;
    let address = *plan.settings.identity.address();
    let digit = plan.settings.peer_id;
    let security = plan.settings.security;
    let i2p = plan.settings.i2p.is_some();
    let in_force = InForce {
        inbound: plan.inbound,
        policy: plan.settings.policy.clone(),
        members: plan.zone.members(),
    };
    let named_peers = plan.settings.named_peers.clone();
    let own_keys = OwnKeys::new(&plan.settings);
    let prepared = data::prepare(plan.settings)?;
    let (data, info) = (prepared.handle(), prepared.ready().clone());
    let mapped_port = plan.portmap.then(|| udp_port(&info.listen)).flatten();
    let netlink = mapped_port.map(|_| Netlink::open()).transpose()?;
    let (meeting, changes) = (prepared.meeting(), prepared.changes());
    // A port below 1024 needs a right that is given up in a moment.
    let responder = Responder::bind(plan.dns.listen);
    // Who is beside another node has only the routes that it asks for, also later.
    let routes = match (&info.beside, &info.interface) {
        (Some(_), Some(interface)) => {
            let own = address.ipv6(PeerId::ANY);
            Some(Routes::start(interface, own, plan.configured)?)
        }
        _ => None,
    };
    // Nothing that people may have got wrong fails after this, and no directory but the own one can be written to.
    if let Some(unwritten) = plan.unwritten {
        unwritten.write()?;
    }
    // The last moment with one thread: all that are started from here on are as confined as this one.
    let confined = privileges::confine(&plan.places, &[], plan.memory_locked)?;
    tracing::info!(?confined, "rights given up");
    let turn = plan.turn.map(|turn| turn.start(plan.source.clone()));
    let turn = turn.transpose()?;
    if let Some(door) = turn.as_ref().and_then(Role::door) {
        // It waits for the thread, and is the first that this hears.
        let _ = data.send(Command::ShareTls(door));
    }
    let (thread, word) = prepared.start()?;
    let mut ended = watch(thread);
    if let Some(unsaved) = plan.unsaved {
        unsaved.save(&plan.state)?;
    }
    let mut keeper = plan.zone;
    // Before anybody hears that the node stands: what was believed once is remembered, whatever happens next.
    keeper.save(&plan.state)?;

    let desk = Desk::new(&plan.book);
    let names = Names::new(
        Arc::new(Mutex::new(plan.book)),
        plan.dns.given,
        plan.dns.servers,
        responder.state(),
        data.clone(),
    );
    let names = Arc::new(if i2p { names.with_i2p() } else { names });
    let (zone, asks) = ZoneDesk::new(&keeper);
    let services_of_zone = zone.follow_services();
    let (turn_desk, turn_plans) = TurnDesk::new(plan.turn_servers);
    let (turn_of_dht, found_turn) = tokio::sync::watch::channel(Vec::new());
    let turn_servers = tokio::spawn(TurnPlan::keep(
        turn_plans,
        data.clone(),
        services_of_zone,
        zone.follow(),
        found_turn,
        own_keys,
    ));
    let (dht, dht_asks) = DhtDesk::new();
    let meet = match plan.meet {
        Some(meet) => Some(meet.start(data.clone(), meeting, zone.follow())?),
        None => None,
    };
    let services = Services {
        meet: meet.as_ref().map(|meet| Arc::clone(&meet.counters)),
        tracker: plan.tracker.map(role::Prepared::start).transpose()?,
    };
    let control = Arc::new(Control {
        data: data.clone(),
        address,
        digit,
        ready: info.clone(),
        since: Instant::now(),
        desk,
        names: Arc::clone(&names),
        services,
        zone,
        dht,
        access: Mutex::new(in_force),
        source: plan.source,
        security,
        confined,
        portmap: Portmap::default(),
        routes,
        state: plan.state,
        turn,
        turn_servers: turn_desk,
    });
    let named_control = Arc::clone(&control);
    let server = tokio::spawn(axum::serve(socket, router(Arc::clone(&control))).into_future());
    let of_other = |keeper| tokio::spawn(others::keep(Arc::clone(&control), keeper));
    let other_zones: Vec<_> = plan.other_zones.into_iter().map(of_other).collect();
    let zone = tokio::spawn(control::zone::keep(Arc::clone(&control), keeper, asks));
    let dht = plan.dht.map(|plan| {
        let task = Task::new(plan, data.clone(), turn_of_dht);
        tokio::spawn(task.run(word.dht, dht_asks))
    });
    let named = tokio::spawn(async move {
        if !named_peers.is_empty() {
            named::keep(named_control, named_peers).await;
        }
    });
    let memory = tokio::spawn(remember(Arc::clone(&control)));
    let registrations = tokio::spawn(remember_registered(Arc::clone(&control)));
    let met = plan.watched.then(|| Met::new(tell.met));
    let hearing = tokio::spawn(hear(Arc::clone(&control), word.news, met));
    let (end_portmap, ending) = oneshot::channel();
    let portmap = match (mapped_port, netlink) {
        (Some(port), Some(netlink)) => {
            let found = control.portmap.clone();
            let keeping = portmap::keep(netlink, changes, port, data.clone(), found, ending);
            Some(tokio::spawn(keeping))
        }
        _ => None,
    };
    let responder = responder.start(names, address, &info, tell.named);

    let told = ready(&info);
    notify::ready(&format!(
        "{} as {}",
        info.interface.as_deref().unwrap_or("no interface"),
        address.ipv6(PeerId::ANY)
    ));
    let outcome = match told {
        Err(error) => Some(Err(error)),
        Ok(()) => tokio::select! {
            result = &mut ended => Some(flatten(result)),
            () = until_stopped(&mut signals, &control, plan.watched) => None,
        },
    };

    notify::stopping();
    if outcome.is_none() {
        save_dht(&control).await;
        control.dht.leave().await;
    }
    if let Some(dht) = dht {
        dht.abort();
    }
    // Nobody listens: there is no task.
    let _ = end_portmap.send(());
    if let (None, Some(turn)) = (&outcome, &control.turn) {
        tokio::select! {
            () = turn.drain() => {}
            () = signals.stop() => {}
        }
    }
    responder.stop().await;
    if let Some(portmap) = portmap {
        let _ = portmap.await;
    }
    if let Some(meet) = meet {
        meet.stop().await;
    }
    zone.abort();
    other_zones.iter().for_each(JoinTask::abort);
    turn_servers.abort();
    named.abort();
    memory.abort();
    registrations.abort();
    hearing.abort();
    let outcome = match outcome {
        Some(Ok(())) => Err(Error::refused("the data thread ended by itself")),
        Some(Err(error)) => Err(error),
        None => {
            save_learnt(&control).await;
            save_registered(&control, &mut Vec::new()).await;
            save_destinations(&control).await;
            stop(&data, ended, signals).await
        }
    };
    server.abort();
    // The task owns the socket: its file is gone when the task is.
    let _ = server.await;
    outcome
}

/// The port of our UDP socket over IPv4.
fn udp_port(listen: &[Place]) -> Option<NonZeroU16> {
    let mut sockets = listen.iter().filter_map(Place::udp);
    let own = sockets.find(|own| own.is_ipv4() && !own.ip().is_loopback())?;
    NonZeroU16::new(own.port())
}

/// Waits for a signal that ends the node; a hangup makes it read the policy again, unless the terminal is gone.
async fn until_stopped(signals: &mut Signals, control: &Control, watched: bool) {
    while let Asked::Reload = signals.next().await {
        if watched && !std::io::stderr().is_terminal() {
            return;
        }
        match control.reload().await {
            Ok(done) => tracing::info!("policy reloaded: {}", done.text()),
            Err(error) => tracing::error!("the policy stays as it was: {error}"),
        }
        control.reload_tracker();
        if let Err(error) = control.turn_servers.reload(&control.source) {
            tracing::error!("the TURN servers to use stay as they were: {error}");
        }
        if let Some(Err(error)) = control.turn.as_ref().map(Role::reload) {
            tracing::error!("the TURN server stays as it was: {error}");
        }
        control.zone.look_soon();
    }
}

/// Ends the data thread; a second signal ends the process at once.
async fn stop(
    data: &DataHandle,
    ended: oneshot::Receiver<Result<(), Error>>,
    mut signals: Signals,
) -> Result<(), Error> {
    // A thread that has stopped, or hangs with a full queue, is what the wait below finds out.
    let _ = data.send(Command::Shutdown);
    tokio::select! {
        result = tokio::time::timeout(STOP_TIMEOUT, ended) => match result {
            Ok(result) => flatten(result),
            Err(_) => Err(Error::refused(format!("the data thread did not end within {STOP_TIMEOUT:?}"))),
        },
        () = signals.stop() => Err(Error::refused("ended at once by a second signal")),
    }
}

/// The result of the data thread, as something that can be awaited.
fn watch(thread: JoinHandle<Result<(), Error>>) -> oneshot::Receiver<Result<(), Error>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let panicked = || Error::refused("the data thread panicked: please report this");
        let result = thread.join().unwrap_or_else(|_| Err(panicked()));
        // The receiver is gone only when the process ends anyway.
        let _ = sender.send(result);
    });
    receiver
}

fn flatten(result: Result<Result<(), Error>, oneshot::error::RecvError>) -> Result<(), Error> {
    result.unwrap_or_else(|_| Err(Error::refused("the data thread is lost")))
}

/// The signals that a node hears.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn install() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(Error::io("cannot handle signals"));
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hangup: install(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while let Asked::Reload = self.next().await {}
    }
}

/// What a signal wants.
pub(crate) enum Asked {
    Stop,
    Reload,
}

/// Does what the data thread has word of.
async fn hear(control: Arc<Control>, mut news: mpsc::Receiver<News>, mut met: Option<Met>) {
    while let Some(word) = news.recv().await {
        match word {
            News::Join(shown) => control.joined_by(shown).await,
            News::Destinations(known) => keep_destinations(&control, &known),
            News::Learnt { records, peers } => {
                if let Err(error) = sessions::save(&control.state, &records) {
                    tracing::warn!("{error}");
                }
                keep_learnt(&control, &peers);
                if let Some(met) = &mut met {
                    met.tell(&control, &peers);
                }
            }
        }
    }
}

/// Writes down, now and then, where peers are.
async fn remember(control: Arc<Control>) {
    loop {
        tokio::time::sleep(SAVE_INTERVAL).await;
        save_learnt(&control).await;
        save_dht(&control).await;
    }
}

/// Of a relay: writes down who is registered, when that has changed.
async fn remember_registered(control: Arc<Control>) {
    let mut written = Vec::new();
    loop {
        tokio::time::sleep(REGISTERED_INTERVAL).await;
        if !save_registered(&control, &mut written).await {
            return;
        }
    }
}

/// False: this node does not relay.
async fn save_registered(control: &Control, written: &mut Vec<Registration>) -> bool {
    let asked = tokio::time::timeout(STOP_TIMEOUT, control.data.ask(Command::Relay)).await;
    let Ok(Ok(report)) = asked else {
        return true;
    };
    let Some(report) = report else {
        return false;
    };
    let is_same = |a: &Registration, b: &Registration| {
        (a.address, a.digit, a.at) == (b.address, b.digit, b.at)
    };
    let same = written.len() == report.peers.len()
        && written
            .iter()
            .zip(&report.peers)
            .all(|(a, b)| is_same(a, b));
    if !same {
        if let Err(error) = registered::save(&control.state, &report.peers) {
            tracing::warn!("{error}");
        }
        *written = report.peers;
    }
    true
}

/// Peers of the DHTs; those of an earlier run stay while there is none.
async fn save_dht(control: &Control) {
    let peers = control.dht.cacheable().await;
    if !peers.is_empty()
        && let Err(error) = state::dht::save(&control.state, peers)
    {
        tracing::warn!("{error}");
    }
}

async fn save_learnt(control: &Control) {
    let Ok(Ok(reports)) =
        tokio::time::timeout(STOP_TIMEOUT, control.data.ask(Command::Peers)).await
    else {
        return;
    };
    keep_learnt(control, &reports);
}

async fn save_destinations(control: &Control) {
    if !control.names.has_i2p() {
        return;
    }
    let ask = control
        .data
        .ask(|reply| Command::I2p(I2pCommand::Export(reply)));
    if let Ok(Ok(known)) = tokio::time::timeout(STOP_TIMEOUT, ask).await {
        keep_destinations(control, &known);
    }
}

fn keep_destinations(control: &Control, known: &[Known]) {
    if let Err(error) = i2p::save(&control.state, known) {
        tracing::warn!("{error}");
    }
}

fn keep_learnt(control: &Control, reports: &[PeerReport]) {
    let peers = learnt::from_reports(reports);
    if peers.is_empty() {
        return;
    }
    if let Err(error) = learnt::save(&control.state, &peers) {
        tracing::warn!("{error}");
    }
}

/// Tells of each peer when it gets its first path.
struct Met {
    known: HashSet<Address>,
    tell: fn(&Book, &PeerReport, f64),
}

impl Met {
    fn new(tell: fn(&Book, &PeerReport, f64)) -> Self {
        let known = HashSet::new();
        Self { known, tell }
    }

    fn tell(&mut self, control: &Control, peers: &[PeerReport]) {
        let reached = |peer: &&PeerReport| peer.paths.iter().any(|path| path.active);
        for peer in peers.iter().filter(reached) {
            if self.known.len() < learnt::MAX_ENTRIES && self.known.insert(peer.address) {
                let seconds = control.since.elapsed().as_secs_f64();
                (self.tell)(&control.book(), peer, seconds);
            }
        }
    }
}

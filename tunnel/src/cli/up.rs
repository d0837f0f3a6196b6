//! `anode up`: flags over configuration over defaults, then a node in the foreground.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anode_platform::privileges;
use anode_platform::tun::Sharing;
use anode_routing::anode::Place;
use anode_routing::net::ProxyExcept;
use anode_wire::{Address, PeerId, Zone};
use tracing_subscriber::EnvFilter;

use super::Done;
use super::args::{Common, Up};
use super::places::{authorities, places};
use super::save;
use crate::Error;
use crate::command::PeerReport;
use crate::config::interface::{self, Routes};
use crate::config::{self, Config, Dns};
use crate::control::listener::Access;
use crate::data;
use crate::dht::config::DhtEntry;
use crate::dht::{self, DhtPlan, ZoneDht};
use crate::dns::{Hook, by_hand};
use crate::named::PeerText;
use crate::names::{Given, Held, peer_label};
use crate::node::{self, DnsPlan, Interface, Plan, ReadyInfo, Settings, Told};
use crate::output::{self, Style};
use crate::policy::Policy;
use crate::relay::{Relay, zone_relays};
use crate::routes::{self, machines_of};
use crate::state::book::Book;
use crate::state::identity::Unsaved;
use crate::state::{self, LockedState, StateDir, i2p, identity, learnt, registered, sessions};
use crate::tracker::meet::MeetPlan;
use crate::tracker::role;
use crate::turn;
use crate::turn::key_users::KeyUsers;
use crate::turn::paths::TurnPlan;
use crate::turn::role::Prepared;
use crate::value::{EndpointText, PeerName, ValueError};
use crate::zone::ZoneFrom;
use crate::zone::keeper::{Keeper, Start};
use crate::zone::others;

pub(super) fn run(common: &Common, flags: Up) -> Result<Done, Error> {
    start(common, flags, false)
}

/// `anode relay`: the same without an interface and without a LAN, and it relays whatever the configuration says.
pub(super) fn relay(common: &Common, flags: Up) -> Result<Done, Error> {
    start(common, flags, true)
}

fn start(common: &Common, flags: Up, only_relay: bool) -> Result<Done, Error> {
    let start = Instant::now();
    if flags.die_with_parent {
        super::die_with_parent()?;
    }
    if only_relay {
        let named = common.named_config();
        let config = named.read()?;
        if let Some(turn) = config
            .turn
            .as_ref()
            .filter(|_| turn::alone::is_all(&config))
        {
            start_log(&flags, &config)?;
            return turn::alone::run(turn, &named, start).map(|()| Done::Yes);
        }
    }
    let dir = common.dir()?;
    let source = common.config_source(&dir);
    let (mut config, unwritten) = match flags.save {
        true => save::saved(&source)?,
        false => (source.read()?, None),
    };
    if only_relay {
        config.relay.get_or_insert_default();
        config.lan.enabled = false;
    }
    start_log(&flags, &config)?;
    privileges::return_freed_memory();
    let memory_locked = privileges::protect_memory()?;
    if config.relay.is_some() {
        privileges::raise_file_limit();
    }

    let socket = common.socket(&dir, &config);
    let access = dir.service_group().map_or(Access::Owner, Access::Group);
    let state = dir.lock()?;
    let book = Book::load(state.dir())?;
    let inbound = config.inbound.clone();
    // A relay stands where everybody reaches it.
    let portmap = config.portmap.enabled && config.relay.is_none();
    let turn_client = config.turn_client.clone();
    let turn = config.turn.clone();
    let turn_pointer = turn.as_ref().and_then(dht::turn_pointer);
    let dns = config.dns.clone();
    let others = config.given_names();
    let dht = config.dht.clone();
    let trackers = Trackers::of(&config);
    let zones = config.zones.clone();
    let (mut settings, configured, unsaved, zone) = settings(flags, config, &state, &book)?;
    let turn = turn.map(|turn| {
        let users = KeyUsers::new(settings.identity.clone());
        users.follow(&settings.policy.trusted, &zone.members());
        let streams = data::connections(&settings.listen, settings.relay.is_some());
        let streams = streams.into_iter().map(Place::Tcp);
        let datagrams = settings.listen.iter().filter(|own| own.udp().is_some());
        let listens: Vec<Place> = streams.chain(datagrams.copied()).collect();
        Prepared::new(&turn, &source, Some(Arc::new(users)), &listens)
    });
    let turn = turn.transpose()?;
    let dht = dht_plan(dht, &settings, &zone, state.dir(), turn_pointer)?;
    settings.dht = dht.is_some();
    let dns = dns_plan(dns, others, &settings);
    let (meet, tracker) = trackers.prepare(settings.identity.address().zone())?;
    let opening = Opening {
        address: *settings.identity.address(),
        lan: settings.lan,
        relay: settings.relay.is_some(),
        tracker: tracker.as_ref().map(role::Prepared::listen),
        start,
    };
    let path = source.path().unwrap_or(Path::new(""));
    let has_zone = *zone.from() != ZoneFrom::Nowhere;
    let turn_servers = TurnPlan::new(&turn_client, path, has_zone)?;
    let other_zones = others::keepers(&zones, settings.identity.address().zone(), state.dir())?;
    let looks_up = zone.from().needs_names()
        || zones.iter().any(|zone| zone.from().needs_names())
        || !settings.named_peers.is_empty()
        || meet.as_ref().is_some_and(MeetPlan::needs_names)
        || turn_servers.needs_names()
        || dht.as_ref().is_some_and(DhtPlan::needs_names);
    let mut places = places(&state, &socket, &source, &dns, zone.from(), looks_up);
    let of_others = zones.iter().filter_map(|zone| zone.from().directory());
    places.read.extend(of_others);
    places.read.extend(turn_client.directories(path));
    if turn_client.believes_the_system() {
        places.read_files.extend(authorities());
    }
    if let Some(turn) = &turn {
        places.read.extend_from_slice(turn.directories());
    }
    if let Some(dht) = &dht {
        places.read.extend(dht.directories());
    }
    let watched = std::io::stderr().is_terminal();
    let plan = Plan {
        settings,
        configured,
        socket,
        access,
        book,
        zone,
        other_zones,
        dht,
        inbound,
        source,
        places,
        memory_locked,
        state,
        unsaved,
        unwritten,
        dns,
        portmap,
        meet,
        tracker,
        watched,
        turn_servers,
        turn,
    };
    let told = Told { met, named };
    node::run(plan, |info| ready(&opening, info, common.json), told)?;
    Ok(Done::Yes)
}

/// The parts of the configuration that speak of trackers.
struct Trackers(Config);

impl Trackers {
    fn of(config: &Config) -> Self {
        Self(Config {
            tracker: config.tracker.clone(),
            rendezvous: config.rendezvous.clone(),
            ..Config::default()
        })
    }

    fn prepare(self, zone: Zone) -> Result<(Option<MeetPlan>, Option<role::Prepared>), Error> {
        let meet = match &self.0.rendezvous {
            Some(rendezvous) => MeetPlan::new(rendezvous, zone)?,
            None => None,
        };
        let role = self.0.tracker.as_ref();
        let role = role.map(|role| role::prepare(role, &self.0, Some(zone)));
        Ok((meet, role.transpose()?))
    }
}

/// The DHTs of this node; `None`: it is in none, and no zone file can bring it into one.
fn dht_plan(
    entries: Vec<DhtEntry>,
    settings: &Settings,
    zone: &Keeper,
    dir: &StateDir,
    turn: Option<SocketAddr>,
) -> Result<Option<DhtPlan>, Error> {
    let sealed = settings.security.plain != config::Plain::Only;
    if !sealed && entries.iter().any(|entry| entry.enabled) {
        return Err(Error::invalid(
            "[[dht]]",
            "its links are inside sealed sessions, which [security] plain = \"only\" switches off",
        ));
    }
    let plan = DhtPlan::new(
        &settings.identity,
        settings.peer_id,
        settings.relay.is_some(),
        entries,
        ZoneDht::new(zone.known().map(AsRef::as_ref), settings.relays.as_ref()),
        state::dht::load(dir),
        dir.path(),
    )?
    .with_turn(turn);
    Ok(Some(plan).filter(|plan| sealed && plan.is_wanted(!zone.is_idle())))
}

/// Where names are answered, and which this machine gives itself.
fn dns_plan(dns: Dns, others: BTreeMap<PeerName, Address>, settings: &Settings) -> DnsPlan {
    // Without an interface no program reaches what it would be answered.
    let enabled = dns.enabled && settings.interface != Interface::None;
    let listen = dns.listen.map_or(crate::dns::LISTEN, |listen| listen.0.0);
    let own_name = dns.name.map(|name| name.0).or_else(host_name);
    DnsPlan {
        listen: enabled.then_some(listen),
        servers: dns.servers.into_iter().map(|server| server.0.0).collect(),
        given: Given::new(*settings.identity.address(), own_name, others),
    }
}

/// The machine's host name, as far as it can be a name of a peer.
fn host_name() -> Option<PeerName> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let label = name.split('.').next()?;
    (label != "localhost").then(|| label.parse().ok())?
}

/// Flags over configuration over defaults.
fn settings(
    flags: Up,
    config: Config,
    state: &LockedState,
    book: &Book,
) -> Result<(Settings, Vec<Ipv6Addr>, Option<Unsaved>, Keeper), Error> {
    let interface = interface::choose(&flags, &config)?;
    let leave = flags.routes.or(config.routes).unwrap_or_default() == Routes::Peers;
    let given = config.given_names();
    let wanted = flags
        .zone
        .or(config.zone.map(|zone| zone.0))
        .map(|zone| zone.0);
    let from = match flags.zone_file {
        Some(from) => from.relative_to(Path::new("")),
        None => config.zone_file.map(|from| from.0).unwrap_or_default(),
    };
    let zone = match identity::zone(state.dir(), wanted)? {
        None if matches!(from, ZoneFrom::Draft) => Some(Zone::LOCAL),
        zone => zone,
    };
    let needs_members = config.inbound.names_a_zone();
    let start = Start::new(from, zone, needs_members, state.dir())?;
    let (identity, unsaved) = identity::load_or_generate(state.dir(), Some(start.zone))?;
    let keeper = start.keeper;
    let configured = config.listen.into_iter().map(|listen| listen.0);
    let listen: Vec<_> = if flags.listen.is_empty() {
        configured.collect()
    } else {
        flags.listen
    };
    let peers = flags
        .peer
        .into_iter()
        .chain(config.peer.into_iter().map(|peer| peer.0));
    let own = *identity.address();
    let (mut at, mut named_peers) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            PeerText::At(peer) => at.push(peer),
            PeerText::Named(peer) => named_peers.push(peer),
        }
    }
    let peers = at;
    let addresses = peers.iter().map(|peer| peer.address);
    let addresses: Vec<Address> = addresses
        .chain(named_peers.iter().map(|peer| peer.address))
        .collect();
    if addresses.contains(&own) {
        return Err(Error::invalid(
            "peer",
            ValueError::own_address().to_string(),
        ));
    }
    let configured_relays = zone_relays(&config.relays, own.zone())
        .map_err(|error| Error::invalid("[[relays]]", error.to_string()))?;
    let mut held = Held::default();
    let named = addresses.iter().map(|address| ("peer", *address));
    let trusted = book
        .entries()
        .iter()
        .map(|entry| ("trust.toml", entry.address));
    for (place, address) in named.chain(trusted) {
        held.claim(address, address.ipv6(PeerId::ANY))
            .map_err(|problem| Error::invalid(place, problem))?;
    }
    let configured = addresses.into_iter().chain(given.into_values());
    let configured = configured.map(|address| address.ipv6(PeerId::ANY));
    let configured: Vec<Ipv6Addr> = configured.collect();
    let known = routes::known(&configured, book, &keeper.members());
    let policy = Policy::new(&config.inbound, book, &keeper.members())?;
    let i2p = config.i2p.as_ref().map(|wanted| {
        let kept = policy.destinations.clone();
        i2p::prepare(wanted.get_ref(), state, kept)
    });
    let settings = Settings {
        identity,
        peer_id: flags
            .peer_id
            .or(config.peer_id.map(|id| id.0))
            .map_or(PeerId::ANY, |digit| digit.0),
        interface,
        sharing: Sharing {
            leave,
            peers: known.into_iter().filter_map(machines_of).collect(),
        },
        mtu: flags
            .mtu
            .or(config.mtu.map(|mtu| mtu.0))
            .unwrap_or_default()
            .0,
        listen: listen.into_iter().map(|listen| listen.0).collect(),
        ethernet: config
            .ethernet
            .interfaces
            .into_iter()
            .map(|name| name.0.0)
            .collect(),
        proxy: proxy(&config.proxy)?,
        proxy_except: proxy_except(&config.proxy),
        certificate: match config.relay.as_ref().and_then(|relay| relay.tls.as_ref()) {
            Some(tls) => Some(tls.read()?),
            None => None,
        },
        peers,
        named_peers,
        learnt: learnt::load(state.dir()),
        lan: config.lan.enabled,
        i2p: i2p.transpose()?,
        relay: config.relay.as_ref().map(Relay::config),
        dht: false,
        registered: registered::load(state.dir()),
        trusted: book.entries().iter().map(|entry| entry.address).collect(),
        policy,
        security: config.security,
        // What the zone file says counts, as soon as there is one.
        relays: keeper
            .known()
            .map(|known| known.relays())
            .or(configured_relays),
        records: sessions::load(state.dir()),
        state_dir: state.dir().path().to_owned(),
    };
    Ok((settings, configured, unsaved, keeper))
}

/// The HTTP proxy that connections go through: the configuration's, or that of the environment.
fn proxy(wanted: &config::Proxy) -> Result<Option<SocketAddr>, Error> {
    let named = match &wanted.http {
        Some(text) => Some(("[proxy] http", text.clone())),
        None => ["HTTPS_PROXY", "https_proxy"].into_iter().find_map(|name| {
            Some((
                name,
                std::env::var(name).ok().filter(|text| !text.is_empty())?,
            ))
        }),
    };
    let Some((place, text)) = named.filter(|(_, text)| text != "off") else {
        return Ok(None);
    };
    match text.parse::<EndpointText>().and_then(|text| text.place()) {
        Ok(Place::Http(address)) => Ok(Some(address)),
        _ if wanted.http.is_some() => Err(Error::invalid(
            place,
            format!("{text:?}: write http://IP:PORT, or \"off\""),
        )),
        // Made for other programs: what this one cannot use must not keep it from starting.
        _ => {
            tracing::warn!("{place}={text:?} is not used: it is not of the form http://IP:PORT");
            Ok(None)
        }
    }
}

/// What is dialled without it: the configuration's list, or that of the environment.
fn proxy_except(wanted: &config::Proxy) -> ProxyExcept {
    let text = match &wanted.except {
        Some(list) => list.join(","),
        None => ["NO_PROXY", "no_proxy"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok())
            .unwrap_or_default(),
    };
    match text.parse() {
        Ok(except) => except,
    }
}

/// Log lines go to standard error; `--log` over `-v` over the configuration over `warn`.
pub(super) fn start_log(flags: &Up, config: &Config) -> Result<(), Error> {
    let (place, filter) = match (&flags.log, flags.verbose, &config.log) {
        (Some(filter), _, _) => ("--log", filter.as_str()),
        (None, 0, Some(filter)) => ("log", filter.as_str()),
        (None, 0, None) => ("", "warn"),
        (None, 1, _) => ("", "info"),
        (None, _, _) => ("", "debug"),
    };
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Error::invalid(
            place,
            format!("{filter:?}: {error}; use error, warn, info, debug, trace, or target=level,…"),
        )
    })?;
    let colour = Style::stderr().is_coloured();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Else a line that nobody reads any more is told on standard error, and that it cannot be told there is a panic.
        .log_internal_errors(false)
        .with_ansi(colour);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}

/// What a node's first lines are made of, beside what it brought up.
struct Opening {
    address: Address,
    lan: bool,
    relay: bool,
    tracker: Option<String>,
    start: Instant,
}

/// Who else is on this machine.
fn shared(info: &ReadyInfo) -> String {
    match info.beside.as_deref() {
        None => String::new(),
        Some("") => "; own address and known peers only".to_owned(),
        Some(other) => format!("; beside {other}: own address and known peers only"),
    }
}

fn ready(opening: &Opening, info: &ReadyInfo, json: bool) -> Result<(), Error> {
    let Opening {
        address,
        lan: enabled,
        relay,
        start,
        ..
    } = *opening;
    let listen: Vec<String> = info.listen.iter().map(ToString::to_string).collect();
    let ipv6 = address.ipv6(PeerId::ANY);
    if json {
        output::json(&serde_json::json!({
            "address": address.to_string(),
            "ipv6": ipv6,
            "interface": info.interface,
            "listen": listen,
            "lan": info.lan,
        }))?;
    }
    let interface = match &info.interface {
        Some(name) => format!("{name} (mtu {}){}", info.mtu, shared(info)),
        None => "none".to_owned(),
    };
    let lan = match info.lan.as_slice() {
        [] if enabled => "no interface to announce on".to_owned(),
        [] => "off".to_owned(),
        names => format!("announcing on {} (udp 8737)", names.join(", ")),
    };
    let mut rows = vec![
        ("address", address.to_string()),
        ("ipv6", ipv6.to_string()),
        ("interface", interface),
        ("listen", listen.join(" ")),
        ("lan", lan),
        (
            "relay",
            if relay { "for registered peers" } else { "off" }.to_owned(),
        ),
    ];
    rows.extend(opening.tracker.clone().map(|at| ("tracker", at)));
    let lacks = info.lacks.iter().flatten();
    rows.extend(lacks.map(|command| ("missing", command.clone())));
    let style = Style::stderr();
    let spent = output::rtt(start.elapsed().as_secs_f64() * 1e3);
    eprintln!(
        "{}{} in {spent}",
        output::fields(style, &rows),
        style.green("ready")
    );
    Ok(())
}

/// Names are answered; whether programs ask by themselves, people should know.
fn named(hook: &Hook, listen: SocketAddr) {
    let style = Style::stderr();
    match hook {
        Hook::Resolved => eprintln!("{}  systemd-resolved asks {listen}", style.dim("names    ")),
        Hook::None(why) => eprintln!("{}  {why}: {}", style.dim("names    "), by_hand(listen)),
        Hook::ByHand | Hook::Pending => {}
    }
}

fn met(book: &Book, report: &PeerReport, seconds: f64) {
    let place = report
        .paths
        .iter()
        .find(|path| path.active)
        .map_or_else(|| "?".to_owned(), |path| path.via.endpoint.to_string());
    eprintln!(
        "{}  {} at {place} after {seconds:.1} s",
        Style::stderr().dim("found    "),
        peer_label(book, &report.address)
    );
}

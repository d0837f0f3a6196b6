//! The data thread: one loop that runs to completion.
//!
//! ```text
//!        TUN ──▶ netstack ──▶ adapter ──▶ overlay ──▶ UDP
//!        TUN ◀── netstack ◀── adapter ◀── overlay ◀── UDP
//!   commands ──▶ control
//! ```
//!
//! Drain what came, let every part react, send in batches, sleep. Nothing on the way locks, waits or allocates per packet.

mod control;
mod counters;
mod dht;
mod frames;
mod i2p;
mod interfaces;
mod joins;
mod link;
mod spin;
mod vnet;
mod waits;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anode_netstack::Netstack;
use anode_platform::tun::{Tun, is_gone};
use anode_platform::wake::Wake;
use anode_routing::anode::{
    ConfiguredPeer, Interface, NodeConfig, Pin, Place, Plain, Pq, RelayConfig, Security,
};
use anode_routing::net::{PlaceName, ServedZone, StreamConfig, StreamLimits};
use anode_routing::overlay::{Overlay, sooner};
use anode_routing::{AnodeOverlay, I2pOverlay};
use anode_wire::{Endpoint, PeerId};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::{Notify, mpsc, watch};

use crate::adapter::Adapter;
use crate::command::{Command, DataHandle, Meeting, News};
use crate::dht::{DhtNews, task};
use crate::node::{ReadyInfo, Settings};
use crate::zone::Relays;
use crate::{Error, config};

use control::Control;
use dht::DhtLine;
use interfaces::Interfaces;
use joins::Joins;
use link::Link;
use waits::{Readable, Watch, Watched};

/// The synthetic addresses of all Anode peers (DESIGN §4).
const PREFIX: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0), 16);
/// Answered by the node itself, so that people can tell kernel ⇄ node from node ⇄ overlay (DESIGN §4).
const MAGIC_SELF: Ipv6Addr = Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 1);
/// Packets taken from the interface before the other parts have their turn.
const TUN_BATCH: usize = 64;
/// Rounds of packets to the kernel and its answers in one turn; then everybody else is looked at.
const ECHOES: usize = 4;
/// Turns in a row that take one packet each; with more packets than turns it is bulk.
const LONE_READS: u8 = 2;
/// The largest packet of the interface: 64 KiB and the headers in front.
const TUN_BUFFER: usize = 66 * 1024;

/// The running data thread; its end tells why it ended.
pub type DataThreadHandle = JoinHandle<Result<(), Error>>;

/// News that the control side has not heard; more than this at once is lost and counted.
const NEWS: usize = 64;

/// All that the data thread works with, before it runs: the process has but one thread, so that it can give up its rights.
pub struct Prepared {
    thread: DataThread,
    handle: DataHandle,
    news: mpsc::Receiver<News>,
    dht_news: mpsc::Receiver<Vec<DhtNews>>,
    meeting: watch::Receiver<Meeting>,
    changes: Arc<Notify>,
    ready: ReadyInfo,
}

/// What the data thread says by itself.
pub struct Word {
    /// To the control side.
    pub news: mpsc::Receiver<News>,
    /// To the task of the DHTs.
    pub dht: mpsc::Receiver<Vec<DhtNews>>,
}

impl Prepared {
    /// What stands.
    pub fn ready(&self) -> &ReadyInfo {
        &self.ready
    }

    /// The way to it; commands wait until it runs.
    pub fn handle(&self) -> DataHandle {
        self.handle.clone()
    }

    /// What is announced to trackers, and word of its changes.
    pub fn meeting(&self) -> watch::Receiver<Meeting> {
        self.meeting.clone()
    }

    /// Woken by changes of links, addresses and routes.
    pub fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.changes)
    }

    /// Starts the thread; its end tells why it ended. Beside it: what the thread has to say by itself.
    pub fn start(self) -> Result<(DataThreadHandle, Word), Error> {
        let thread = self.thread;
        let handle = std::thread::Builder::new()
            .name("anode-data".into())
            .spawn(move || thread.run())
            .map_err(Error::io("cannot start the data thread"))?;
        let word = Word {
            news: self.news,
            dht: self.dht_news,
        };
        Ok((handle, word))
    }
}

/// Brings up the sockets and the interface. On failure, and when what it returns is dropped, nothing is left behind.
pub fn prepare(settings: Settings) -> Result<Prepared, Error> {
    let now = Instant::now();
    let local = local_addresses(&settings);
    let Link { tun, mtu, lacks } = Link::open(&settings, &local)?;
    let mut interfaces = Interfaces::open(tun.as_ref().map(Tun::name))?;
    let seen = interfaces.read()?;
    let changes = interfaces.changes();
    let announced = seen
        .iter()
        .filter(|interface| settings.lan && interface.broadcast);
    let lan = announced.map(|interface| interface.name.clone()).collect();
    let offload = tun.as_ref().is_some_and(Tun::offload);
    let i2p = match settings.i2p.clone() {
        Some(config) => Some(I2pOverlay::new(config, seed()?, now)?),
        None => None,
    };
    let policy = settings.policy.clone();
    let own = *settings.identity.address();
    let in_dht = settings.dht;
    let overlay = start_overlay(settings, seen, now)?;
    let ready = ReadyInfo {
        interface: tun.as_ref().map(|tun| tun.name().to_owned()),
        mtu,
        lacks,
        beside: tun.as_ref().and_then(Tun::beside).map(str::to_owned),
        listen: places(overlay.listen()),
        lan,
    };
    let others: Vec<Box<dyn Overlay + Send>> =
        i2p.into_iter().map(|i2p| Box::new(i2p) as _).collect();
    let all = || others.iter().map(|other| other.as_ref() as &dyn Overlay);
    let netstack = Netstack::new(
        anode_netstack::Config {
            mtu,
            offload,
            local: overlay
                .local()
                .into_iter()
                .chain(all().flat_map(Overlay::local))
                .collect(),
            prefixes: [overlay.prefix()]
                .into_iter()
                .chain(all().map(Overlay::prefix))
                .collect(),
            magic_self: vec![MAGIC_SELF],
            ..Default::default()
        },
        seed()?,
    );
    let wake = Arc::new(Wake::new()?);
    let (teller, news) = mpsc::channel(NEWS);
    let (dht_teller, dht_news) = mpsc::channel(task::NEWS);
    let dht = DhtLine::new(in_dht.then_some(dht_teller));
    let (told, meeting) = watch::channel(Meeting::default());
    let (handle, commands) = DataHandle::new(Arc::clone(&wake));
    let thread = DataThread {
        tun,
        adapter: Adapter::new(netstack, overlay, others, policy),
        interfaces,
        control: Control::new(Joins::new(own, teller), dht),
        meeting: told,
        commands,
        wake,
        packet: vec![0; TUN_BUFFER],
        outgoing: Vec::with_capacity(TUN_BUFFER),
        readable: Readable::default(),
        watch: Watch::new()?,
        due: None,
        tun_dropped: 0,
    };
    Ok(Prepared {
        thread,
        handle,
        news,
        dht_news,
        meeting,
        changes,
        ready,
    })
}

/// Own synthetic addresses: digit 0, and the own peer's where one is set (DESIGN §4).
fn local_addresses(settings: &Settings) -> Vec<Ipv6Addr> {
    let address = settings.identity.address();
    let mut local = vec![address.ipv6(PeerId::ANY)];
    if settings.peer_id != PeerId::ANY {
        local.push(address.ipv6(settings.peer_id));
    }
    let destinations = settings.i2p.iter().flat_map(|i2p| &i2p.destinations);
    local.extend(destinations.map(|one| one.keys.destination().hash().synthetic_address()));
    local
}

fn start_overlay(
    settings: Settings,
    interfaces: Vec<Interface>,
    now: Instant,
) -> Result<AnodeOverlay, Error> {
    let mut peers: Vec<ConfiguredPeer> = Vec::new();
    for peer in &settings.peers {
        let place = peer.endpoint;
        match peers.iter_mut().find(|known| known.address == peer.address) {
            Some(known) => known.places.push(place),
            None => peers.push(ConfiguredPeer {
                address: peer.address,
                places: vec![place],
            }),
        }
    }
    // A trusted peer's key is known from the start, so that its first packet needs no introduction.
    for address in &settings.trusted {
        if !peers.iter().any(|known| known.address == *address) {
            peers.push(ConfiguredPeer {
                address: *address,
                places: Vec::new(),
            });
        }
    }
    let config = NodeConfig {
        peer_id: settings.peer_id,
        peers,
        lan: settings.lan,
        security: security(settings.security),
        relay: settings.relay,
        reload: settings.dht,
        ..NodeConfig::default()
    };
    let learnt = settings.learnt.iter().map(|peer| Pin {
        address: peer.address,
        endpoints: vec![peer.endpoint],
    });
    let learnt: Vec<Pin> = learnt.collect();
    let datagrams: Vec<SocketAddr> = settings.listen.iter().filter_map(Place::udp).collect();
    let streams = StreamConfig {
        listen: connections(&settings.listen, settings.relay.is_some()),
        proxy: settings.proxy,
        except: settings.proxy_except,
        limits: stream_limits(settings.relay.as_ref()),
    };
    let mut overlay = AnodeOverlay::new(settings.identity, config, &datagrams, interfaces, now)?;
    overlay.configure_streams(now, streams)?;
    if let Some(certificate) = settings.certificate {
        overlay
            .set_certificate(&certificate.chain, &certificate.key)
            .map_err(|error| Error::invalid("[relay.tls]", error.to_string()))?;
    }
    for link in frames::open(&settings.ethernet, &settings.peers)? {
        overlay.add_link(link);
    }
    for address in &settings.trusted {
        overlay.trust(address);
    }
    if let Some(relays) = settings.relays {
        set_relays(&mut overlay, now, relays);
    }
    overlay.import_pins(now, &learnt);
    overlay.import_records(now, &settings.records);
    overlay.restore_registrations(now, &settings.registered);
    Ok(overlay)
}

/// Where connections are accepted: where the operator says, and at a relay on every port of its datagrams, too.
pub(crate) fn connections(listen: &[Place], relays: bool) -> Vec<SocketAddr> {
    let accepts = |place: &Place| match place {
        Place::Tcp(address) => Some(*address),
        Place::Udp(address) if relays => Some(*address),
        _ => None,
    };
    let mut accepted: Vec<SocketAddr> = listen.iter().filter_map(accepts).collect();
    accepted.sort_unstable();
    accepted.dedup();
    accepted
}

/// A relay takes two connections (HTTP) from everybody who may register, and the usual number of others.
fn stream_limits(relay: Option<&RelayConfig>) -> StreamLimits {
    let usual = StreamLimits::default();
    let Some(relay) = relay else { return usual };
    StreamLimits {
        inbound: usual.inbound + 2 * relay.peers,
        inbound_per_network: usual.inbound_per_network + 2 * relay.peers_per_source,
        ..usual
    }
}

fn set_relays(overlay: &mut AnodeOverlay, now: Instant, relays: Relays) {
    if relays.zone != overlay.address().zone() {
        overlay.set_relays(now, relays.zone, relays.count, relays.relays);
        return;
    }
    if overlay.relay_config().is_some() {
        let served = relays.served;
        overlay.set_served_zone(served.map(|(bytes, modified)| ServedZone { bytes, modified }));
    }
    let names = relays.hosts.into_iter().flat_map(|(at, host)| {
        let name = PlaceName {
            host: Some(host),
            path: None,
        };
        [Place::Tls(at), Place::Https(at)].map(|place| (place, name.clone()))
    });
    overlay.set_place_names(names);
    overlay.set_relays(now, relays.zone, relays.count, relays.relays);
}

/// `[security]` in the overlay's terms.
fn security(wanted: config::Security) -> Security {
    Security {
        plain: match wanted.plain {
            config::Plain::Deny => Plain::Deny,
            config::Plain::Allow => Plain::Allow,
            config::Plain::Only => Plain::Only,
        },
        pq: match wanted.pq {
            config::PostQuantum::Prefer => Pq::Prefer,
            config::PostQuantum::Require => Pq::Require,
            config::PostQuantum::Off => Pq::Off,
        },
    }
}

fn seed() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    SysRng
        .try_fill_bytes(&mut seed)
        .map_err(|error| Error::refused(format!("the system gives no randomness: {error}")))?;
    Ok(seed)
}

/// Endpoints of our own, as places.
fn places(endpoints: Vec<Endpoint>) -> Vec<Place> {
    endpoints.iter().filter_map(Place::from_endpoint).collect()
}

fn udp(endpoint: Endpoint) -> Option<SocketAddr> {
    match endpoint {
        Endpoint::Udp(address) => Some(address),
        _ => None,
    }
}

struct DataThread {
    tun: Option<Tun>,
    adapter: Adapter<AnodeOverlay>,
    interfaces: Interfaces,
    control: Control,
    meeting: watch::Sender<Meeting>,
    commands: Receiver<Command>,
    wake: Arc<Wake>,
    packet: Vec<u8>,
    outgoing: Vec<u8>,
    readable: Readable,
    watch: Watch,
    /// The deadline of the last sleep; `None`: nobody has one, or it was not asked for.
    due: Option<Instant>,
    tun_dropped: u64,
}

impl DataThread {
    fn run(mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            let mut more = self.drain_tun(now)?;
            more |= self.adapter.receive(now, &self.readable.overlays);
            if self.due.is_none_or(|due| due <= now) {
                self.adapter.handle_timeout(now);
            }
            if self.readable.wake && self.obey(now) {
                if let Some(i2p) = self.adapter.other::<I2pOverlay>() {
                    i2p.close(now);
                }
                return Ok(());
            }
            self.adapter.exchange(now);
            self.control.settle(now, &mut self.adapter);
            self.tell_meeting();
            self.adapter.transmit(now);
            let mut answered = self.fill_tun(now);
            // The kernel answers a packet of its own connections before the write returns, so there is most often one to read.
            for _ in 0..ECHOES {
                if !answered {
                    break;
                }
                let now = Instant::now();
                if !self.read_tun(now, 1)? {
                    break;
                }
                self.adapter.exchange(now);
                self.adapter.transmit(now);
                answered = self.fill_tun(now);
            }
            self.wait(more);
        }
    }

    /// True if more may be waiting.
    fn drain_tun(&mut self, now: Instant) -> Result<bool, Error> {
        if !self.readable.tun {
            return Ok(false);
        }
        // A single packet costs one read, not a second one to learn that it was the only one.
        let batch = if self.readable.tun_turns > LONE_READS {
            TUN_BATCH
        } else {
            1
        };
        // The next look at the descriptors tells whether there is more after a single one.
        Ok(self.read_tun(now, batch)? && batch > 1)
    }

    /// Takes up to so many packets of the operating system; false if there were fewer.
    fn read_tun(&mut self, now: Instant, packets: usize) -> Result<bool, Error> {
        let Some(tun) = &self.tun else {
            return Ok(false);
        };
        for _ in 0..packets {
            match tun.recv(&mut self.packet) {
                Ok((header, length)) => {
                    let offload = vnet::decode(header);
                    self.adapter
                        .from_os(now, offload, &mut self.packet[..length]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.readable.tun_turns = 0;
                    return Ok(false);
                }
                Err(error) if is_gone(&error) => {
                    let name = tun.name();
                    return Err(Error::refused(format!(
                        "the interface {name} was removed by somebody else"
                    )));
                }
                Err(error) => {
                    tracing::debug!(%error, "reading the interface");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Writes what the netstack has for the operating system; false if it had nothing.
    fn fill_tun(&mut self, now: Instant) -> bool {
        let Some(tun) = &self.tun else { return false };
        let mut wrote = false;
        while let Some(offload) = self.adapter.netstack.poll_packet(now, &mut self.outgoing) {
            if let Err(error) = tun.send(vnet::encode(offload), &self.outgoing) {
                // The kernel's queue is full or the interface is down: a lost packet like any other (N26).
                self.tun_dropped += 1;
                tracing::trace!(%error, "writing the interface");
            }
            wrote = true;
        }
        wrote
    }

    /// Carries out commands; true when told to stop.
    fn obey(&mut self, now: Instant) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Shutdown => return true,
                command => self
                    .control
                    .obey(now, command, &mut self.adapter, self.tun_dropped),
            }
        }
        false
    }

    /// What is announced to trackers has changed.
    fn tell_meeting(&mut self) {
        let overlay = self.adapter.first();
        if overlay.take_rendezvous_changed() {
            self.meeting.send_replace(Meeting {
                own: overlay.endpoints().into_iter().filter_map(udp).collect(),
                external: overlay.external_endpoints(),
                deprecated: self.interfaces.deprecated().to_vec(),
                searching: overlay.is_searching(),
            });
        }
    }

    /// Until something is readable or due; with more work waiting, only a look at what is readable.
    fn wait(&mut self, more: bool) {
        self.due = None;
        let now = Instant::now();
        let resting = self.interfaces.rests_until().is_some();
        let timeout = if more {
            Some(Duration::ZERO)
        } else {
            self.until_deadline(now)
        };
        let watched = Watched {
            wake: &self.wake,
            interfaces: &self.interfaces,
            resting,
            tun: self.tun.as_ref(),
            overlays: self.adapter.overlays(),
        };
        self.watch.wait(watched, now, timeout, &mut self.readable);
        if self.readable.wake {
            self.wake.drain();
        }
        if self.readable.interfaces {
            self.read_interfaces();
            // The sockets that hear beacons may be others now.
            self.readable.overlays.clear();
        }
    }

    fn until_deadline(&mut self, now: Instant) -> Option<Duration> {
        let rest = self.interfaces.rests_until().map(|at| (at, "links"));
        let parts = sooner(self.adapter.deadline(), self.control.deadline());
        let (at, reason) = sooner(parts, rest)?;
        self.due = Some(at);
        let left = at.saturating_duration_since(now);
        tracing::trace!(?left, reason, "sleep");
        Some(left)
    }

    /// The machine's own addresses changed: the overlay announces itself anew and finds its new ways.
    fn read_interfaces(&mut self) {
        let now = Instant::now();
        match self.interfaces.changed(now) {
            Ok(Some(interfaces)) => self.adapter.first().set_interfaces(now, interfaces),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "reading the interfaces"),
        }
    }
}

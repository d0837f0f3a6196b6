//! The Anode overlay on real sockets: one [`Node`] behind UDP sockets, served by whoever polls `fds()`.
mod ethernet;
mod extra;
mod lan;
pub(crate) mod streams;
mod turn;
mod turns;
mod udp;

pub use ethernet::{ETHER_TYPE, FrameLink};
pub use streams::{
    PlaceName, ProxyExcept, ServedZone, StreamConfig, StreamCounters, StreamLimits, TlsError,
};
pub use turn::TurnServer;

use crate::anode::{
    Counters, Interface, Lookup, NetReport, Node, NodeConfig, Now, PeerSnapshot, Pin, Place,
    Record, Registration, RelayConfig, RelaySnapshot, RendezvousCounters, Timestamp, TransmitBatch,
    ZoneRelay,
};
use crate::overlay::Failure;
use crate::tracker::Cidr;
use crate::turn::server::Door;
use anode_stream::Pool;
use anode_wire::{Address, Endpoint, Identity, PeerId, Zone};
use ethernet::Links;
use extra::ExtraSockets;
use lan::BeaconSockets;
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use rand_core::{CryptoRng, UnwrapErr};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime};
use streams::Streams;
use turn::TurnLink;
use udp::{ReceiveBuffers, UdpSocket};

/// Why the sockets could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// An address of `listen` is taken.
    #[error(
        "cannot listen on {0}: the port is in use by another program; name a free one with --listen, or stop the other program"
    )]
    PortBusy(SocketAddr),
    /// An address of `listen` cannot be bound for another reason.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Neither IPv4 nor IPv6 gives a UDP socket.
    #[error("cannot open a UDP socket: {0}")]
    NoSocket(io::Error),
    /// What connections need cannot be had.
    #[error("cannot prepare for connections: {0}")]
    Streams(io::Error),
}

/// The Anode overlay with its sockets.
pub struct AnodeOverlay {
    node: Node,
    sockets: Vec<UdpSocket>,
    beacons: BeaconSockets,
    buffers: ReceiveBuffers,
    batch: TransmitBatch,
    streams: Streams,
    links: Links,
    extra: ExtraSockets,
    turn: TurnLink,
    /// Orders about sockets may be left.
    ordered: Option<Instant>,
    /// `batch` holds packets that the socket did not take yet.
    blocked: Option<Instant>,
    interfaces: Vec<Interface>,
    /// See [`Overlay::fds_changes`].
    fds_changes: u64,
}

impl AnodeOverlay {
    /// Opens the sockets and starts a node. `listen` empty: port 8737 on all addresses if it is free, else any port.
    /// `interfaces` without the overlay's own. Randomness is the system's, asked at each use (Q17).
    pub fn new(
        identity: Identity,
        config: NodeConfig,
        listen: &[SocketAddr],
        interfaces: Vec<Interface>,
        now: Instant,
    ) -> Result<Self, NetError> {
        let sockets = if listen.is_empty() {
            udp::open_default().map_err(NetError::NoSocket)?
        } else {
            listen
                .iter()
                .map(|address| udp::open(*address))
                .collect::<Result<_, _>>()?
        };
        let locals: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local).collect();
        let mut beacons = BeaconSockets::new(config.lan, &locals);
        // Every stream takes numbers from the node's own: no call into the kernel for each. Keys come from the system.
        let mut system = UnwrapErr(SysRng);
        let seeded = StdRng::from_rng(&mut system);
        let rngs: [Box<dyn CryptoRng + Send>; 2] = [Box::new(seeded), Box::new(system)];
        let mut node = Node::new(identity, config, rngs, clock(Instant::now()));
        let max_segments = sockets
            .iter()
            .map(UdpSocket::max_segments)
            .min()
            .unwrap_or(1);
        let mut extra = ExtraSockets::new().map_err(NetError::NoSocket)?;
        if node.relay_config().is_some() && extra.open_second(&locals) {
            node.set_second_sockets();
        }
        node.set_sockets(locals);
        beacons.follow(&interfaces);
        node.set_interfaces(now, interfaces.clone());
        Ok(Self {
            node,
            sockets,
            beacons,
            buffers: ReceiveBuffers::new(),
            batch: TransmitBatch::new(max_segments),
            streams: Streams::new(now, StreamConfig::default())?,
            links: Links::new(),
            extra,
            turn: TurnLink::new().map_err(NetError::NoSocket)?,
            ordered: None,
            blocked: None,
            interfaces,
            fds_changes: 0,
        })
    }

    /// The relays of a zone are these from now on; see [`Node::set_relays`].
    pub fn set_relays(&mut self, now: Instant, zone: Zone, count: u32, relays: Vec<ZoneRelay>) {
        self.node.set_relays(now, zone, count, relays);
    }

    /// The relays through which others reach this node.
    pub fn relays(&self) -> Vec<RelaySnapshot> {
        self.node.relays()
    }

    /// Peers that can be reached through this node, if it relays.
    pub fn registrations(&self, now: Instant) -> Vec<Registration> {
        self.node.registrations(now)
    }

    /// Registrations of an earlier run; see [`Node::restore_registrations`].
    pub fn restore_registrations(&mut self, now: Instant, known: &[Registration]) {
        self.node.restore_registrations(now, known);
    }

    /// How this node relays; `None`: it does not.
    pub fn relay_config(&self) -> Option<RelayConfig> {
        self.node.relay_config()
    }

    /// Accepts connections, dials through a proxy, keeps other bounds: to be called before anything is sent.
    pub fn configure_streams(
        &mut self,
        now: Instant,
        config: StreamConfig,
    ) -> Result<(), NetError> {
        self.streams = Streams::new(now, config)?;
        self.fds_changes += 1;
        Ok(())
    }

    /// The TURN servers, in the order in which they are tried; none: an allocation that stands is given back.
    pub fn set_turn_servers(&mut self, now: Instant, servers: Vec<TurnServer>) {
        let any = !servers.is_empty();
        self.turn.set_servers(now, servers);
        self.node.set_turn_available(now, any);
        self.obey_turn(now);
    }

    /// Packets to and from `eth://` places go over this link from now on.
    pub fn add_link(&mut self, link: Box<dyn FrameLink>) {
        self.links.add(link);
        self.fds_changes += 1;
    }

    /// A TURN server's clients come to some of our ports, too: they are told apart inside TLS, whose certificate is its own there.
    pub fn share_tls(&mut self, door: Door) {
        self.streams.share_tls(door);
    }

    /// What `GET /z` gives to whoever connects; `None`: nothing.
    pub fn set_served_zone(&mut self, zone: Option<ServedZone>) {
        self.streams.set_served_zone(zone);
    }

    /// The certificate that connections in TLS are accepted with, in PEM, the chain from the leaf up; without one the node
    /// makes its own.
    pub fn set_certificate(&mut self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.streams.set_certificate(chain, key)
    }

    /// The host names and paths of places, and no others any more, from the next connections to them on. With a host name,
    /// the certificate there is checked.
    pub fn set_place_names(&mut self, names: impl IntoIterator<Item = (Place, PlaceName)>) {
        self.streams.set_names(names);
    }

    /// What the connections have counted.
    pub fn stream_counters(&self) -> StreamCounters {
        self.streams.counters()
    }

    /// Connections that stand or are being dialled.
    pub fn connections(&self) -> usize {
        self.streams.len()
    }

    /// The machine's interfaces have changed; without the overlay's own.
    pub fn set_interfaces(&mut self, now: Instant, interfaces: Vec<Interface>) {
        self.beacons.follow(&interfaces);
        self.fds_changes += 1;
        self.interfaces.clone_from(&interfaces);
        self.node.set_interfaces(now, interfaces);
    }

    /// Our address.
    pub fn address(&self) -> &Address {
        self.node.address()
    }

    /// Names a peer; see [`Node::add_peer`].
    pub fn add_peer(&mut self, now: Instant, address: Address, places: &[Place], pinned: bool) {
        self.node.add_peer(now, address, places, pinned);
    }

    /// Forgets a peer; false if it was not known.
    pub fn remove_peer(&mut self, now: Instant, address: &Address) -> bool {
        self.node.remove_peer(now, address)
    }

    /// All peers and their paths.
    pub fn peers(&self) -> Vec<PeerSnapshot> {
        self.node.peers()
    }

    /// Peers with a proven path.
    pub fn connected(&self) -> usize {
        self.node.connected()
    }

    /// Streams in the table, those that only linger included.
    pub fn stream_count(&self) -> usize {
        self.node.stream_count()
    }

    /// The memory that all streams share.
    pub fn stream_memory(&self) -> &Pool {
        self.node.stream_memory()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.node.counters()
    }

    /// What is known of a synthetic address; starts a search if nothing is.
    pub fn lookup(&mut self, now: Instant, target: Ipv6Addr) -> Lookup {
        self.node.lookup(now, target)
    }

    /// Proven peers and their endpoints, for the next run.
    pub fn export_pins(&self) -> Vec<Pin> {
        self.node.export_pins()
    }

    /// Takes what an earlier run exported.
    pub fn import_pins(&mut self, now: Instant, pins: &[Pin]) {
        self.node.import_pins(now, pins);
    }

    /// The addresses the sockets are bound to.
    pub fn listen(&self) -> Vec<Endpoint> {
        self.sockets
            .iter()
            .map(|socket| Endpoint::Udp(socket.local()))
            .chain(self.streams.listening().map(Endpoint::Tcp))
            .collect()
    }

    /// Where neighbours can reach us: the sockets' addresses, with all interface addresses in place of unspecified ones.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        let datagrams = self.sockets.iter().map(UdpSocket::local);
        let datagrams = datagrams.map(|local| (local, Endpoint::Udp as fn(SocketAddr) -> Endpoint));
        let streams = self.streams.listening();
        let streams = streams.map(|local| (local, Endpoint::Tcp as fn(SocketAddr) -> Endpoint));
        for (local, endpoint) in datagrams.chain(streams) {
            if !local.ip().is_unspecified() {
                endpoints.push(endpoint(local));
                continue;
            }
            let addresses = self
                .interfaces
                .iter()
                .flat_map(|interface| &interface.addresses)
                .map(|(ip, _)| *ip);
            let usable = addresses.filter(|ip| {
                ip.is_ipv4() == local.is_ipv4() && !ip.is_loopback() && !is_link_local(ip)
            });
            endpoints.extend(usable.map(|ip| endpoint(SocketAddr::new(ip, local.port()))));
        }
        endpoints
    }

    /// Gives an address a place of its own in the tables and budgets of sessions; `anode trust`.
    pub fn trust(&mut self, address: &Address) {
        self.node.trust(address);
    }

    /// The opposite.
    pub fn distrust(&mut self, address: &Address) {
        self.node.distrust(address);
    }

    /// Timestamps and pins of all peers, for the disk; [`crate::OverlayEvent::Persist`] says when.
    pub fn export_records(&mut self) -> Vec<Record> {
        self.node.export_records()
    }

    /// Takes what an earlier run exported.
    pub fn import_records(&mut self, now: Instant, records: &[Record]) {
        self.node.import_records(now, records);
    }

    /// By an operator's word: an address that was seen sealed may be spoken to in plain again (Q23).
    pub fn forget_pins(&mut self, address: &Address) {
        self.node.forget_pins(address);
    }

    /// What the sessions have counted.
    pub fn session_counters(&self) -> &anode_wire::sealed::Counters {
        self.node.session_counters()
    }

    /// Wants a session with an address; see [`Node::connect`].
    pub fn connect(&mut self, now: Instant, address: &Address) -> Result<bool, Failure> {
        self.node.connect(now, address)
    }

    /// The handshake hash of the present session with an address (Q29).
    pub fn session_hash(&self, address: &Address) -> Option<[u8; 32]> {
        self.node.session_hash(address)
    }

    /// Sends a message of the program itself (JOIN, JOINED) inside the present session; see [`Node::send_sealed`].
    pub fn send_sealed(
        &mut self,
        now: Instant,
        address: &Address,
        kind: u8,
        body: &[u8],
    ) -> Result<(), Failure> {
        self.node.send_sealed(now, address, kind, body)
    }

    /// See [`Node::send_reload`].
    pub fn send_reload(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
        body: &[u8],
    ) -> Result<(), Failure> {
        self.node.send_reload(now, address, digit, body)
    }

    /// See [`Node::reach_peer`].
    pub fn reach_peer(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
    ) -> Result<(), Failure> {
        self.node.reach_peer(now, address, digit)
    }

    /// See [`Node::add_found`].
    pub fn add_found(&mut self, now: Instant, address: Address, places: &[Place]) {
        self.node.add_found(now, address, places);
    }

    /// See [`Node::set_in_dht`].
    pub fn set_in_dht(&mut self, in_dht: bool) {
        self.node.set_in_dht(in_dht);
    }

    /// See [`Node::places_changed`].
    pub fn places_changed(&self) -> u64 {
        self.node.places_changed()
    }

    /// Looks at the network before this node; see [`Node::start_netcheck`].
    pub fn start_netcheck(&mut self, now: Instant) {
        self.node.start_netcheck(now);
    }

    /// The result of the last look; `None`: it is under way.
    pub fn net_report(&self) -> Option<&NetReport> {
        self.node.net_report()
    }

    /// A port that the gateway keeps open for us; `None`: none any more.
    pub fn set_port_mapping(&mut self, now: Instant, mapped: Option<SocketAddr>) {
        self.node.set_port_mapping(now, mapped);
    }

    /// Switches meeting at trackers on or off; see [`Node::set_rendezvous`].
    pub fn set_rendezvous(&mut self, now: Instant, deny: Option<Vec<Cidr>>) {
        self.node.set_rendezvous(now, deny);
    }

    /// Endpoints that a tracker has named; see [`Node::add_candidates`].
    pub fn add_candidates(&mut self, now: Instant, endpoints: &[SocketAddr], tracker: IpAddr) {
        let own = self.endpoints().into_iter();
        let own = own.filter_map(|own| Place::from_endpoint(&own)?.udp());
        let own = own.chain(self.node.external_endpoints()).collect();
        self.node.add_candidates(now, endpoints, tracker, own);
    }

    /// Searches for a peer by trackers; see [`Node::search`].
    pub fn search(&mut self, now: Instant, address: &Address) -> bool {
        self.node.search(now, address)
    }

    /// Whether peers are being searched for.
    pub fn is_searching(&self) -> bool {
        self.node.is_searching()
    }

    /// Whether what is to be announced may have changed; see [`Node::take_rendezvous_changed`].
    pub fn take_rendezvous_changed(&mut self) -> bool {
        self.node.take_rendezvous_changed()
    }

    /// What meeting at trackers has counted.
    pub fn rendezvous_counters(&self) -> RendezvousCounters {
        self.node.rendezvous_counters()
    }

    /// Where others have seen us.
    pub fn external_endpoints(&self) -> Vec<SocketAddr> {
        self.node.external_endpoints()
    }
}

/// Both clocks. `Instant` stands still while the machine sleeps (CLOCK_MONOTONIC; CLOCK_BOOTTIME is not to be had without
/// the platform crate): a sleep of more than 5 s looks like a jump of the wall clock, and costs a handshake. That a
/// restored snapshot is noticed rests on its wall clock having been set.
fn clock(at: Instant) -> Now {
    Now {
        at,
        wall: Timestamp::from_system(SystemTime::now()),
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;

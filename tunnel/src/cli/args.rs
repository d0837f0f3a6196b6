//! Flags and arguments. Values are parsed where they stand, by the parsers that the configuration file uses too.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use anode_routing::i2p::Hash;
use anode_wire::Address;
use anode_wire::zonefile::{
    MAX_TTL, MIN_TTL, TurnServer, ZoneKey, dht_config_url, dht_name, relay_host, tracker_url,
};
use clap::{Args, Parser, Subcommand};

use crate::config::interface::{GivenTun, Routes};
use crate::control::api::TICKET_LIFETIME_MAX_S;
use crate::dht::config::OverlayName;
use crate::dht::text::KindText;
use crate::named::PeerText;
use crate::state::destinations::{B32, I2pHost};
use crate::tracker::{HashText, UrlText};
use crate::value::{
    AddressText, InterfaceName, Listen, Mtu, PeerDigit, PeerName, ValueError, ZoneText,
};
use crate::zone::ZoneFrom;
use crate::zone::make::RelayAt;

/// A permanent network address for this machine, reachable from anywhere.
#[derive(Parser, Debug)]
#[command(
    name = "anode",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// State directory [default: /var/lib/anode as root, else $XDG_STATE_HOME/anode]
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// Configuration file [default: /etc/anode/anode.toml with the system's state directory]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// One JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Bring the virtual interface up, in the foreground
    Up(Box<Up>),
    /// Relay for others, in the foreground: neither interface nor root
    Relay(Box<Relay>),
    /// What this node is, and what it does
    Status,
    /// Who is there
    Peers,
    /// How packets get there, and why a peer stays relayed
    Paths {
        /// Go on and tell every change, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Round trips to a peer, and the path that each reply took
    Ping(Ping),
    /// This machine's address
    Address,
    /// This machine's key pair
    #[command(subcommand)]
    Key(Key),
    /// Where a peer is, and which source knew
    Lookup(LookupArgs),
    /// The IPv6 of an address or name
    Resolve(Whom),
    /// Let a peer open connections to this machine, and name it
    Trust(Trust),
    /// Take trust back: what the peer has open here ends
    Distrust(Whom),
    /// Make a ticket: `anode join` with it, on another machine, makes both trust each other
    Invite(Invite),
    /// Use a ticket that another machine's `anode invite` has made
    Join(Join),
    /// Who may reach this machine
    #[command(subcommand)]
    Policy(Policy),
    /// Destinations of I2P
    #[command(subcommand)]
    I2p(I2p),
    /// The zone: its file, and making one
    #[command(subcommand)]
    Zone(Zone),
    /// The DHT: what is stored there, and the way to it
    #[command(subcommand)]
    Dht(Dht),
    /// The NAT before this machine, its relays, and what that means
    Netcheck,
    /// Meeting at trackers: under which info hashes
    #[command(subcommand)]
    Rendezvous(RendezvousCommand),
    /// Ask a BitTorrent tracker, from every address of this machine that can
    #[command(subcommand)]
    Tracker(TrackerCommand),
    /// Try a STUN or TURN server
    #[command(subcommand)]
    Turn(Turn),
    /// What is active, and what is wrong here, with the fix
    Doctor,
    /// Routes that keep packets for the overlay from leaking while no node runs
    #[command(subcommand)]
    Guard(Guard),
    /// Two nodes on this machine, in network namespaces of their own: see it work
    Demo,
    /// Keeps the routes to peers of a node that has given up its rights (U11)
    #[command(hide = true)]
    KeepRoutes { interface: String, own: Ipv6Addr },
    /// The demo's own programs, which know nothing but ordinary sockets
    #[command(hide = true)]
    DemoTool {
        #[arg(long)]
        die_with_parent: bool,
        #[command(subcommand)]
        tool: DemoTool,
    },
}

#[derive(Args, Debug, Default)]
pub struct Up {
    /// Name of the interface [default: the first free of anode0, anode1, …]
    #[arg(long, value_name = "IF")]
    pub name: Option<InterfaceName>,
    /// MTU of the interface in bytes, 1280 to 65535 [default: 1280]
    #[arg(long)]
    pub mtu: Option<Mtu>,
    /// No interface: control, ping and lookup only
    #[arg(long)]
    pub no_tun: bool,
    /// A TUN interface that is there already, or a descriptor that this process has inherited; its settings stay as they are
    #[arg(long, value_name = "IF|fd:N", conflicts_with_all = ["name", "mtu", "no_tun", "routes"])]
    pub tun: Option<GivenTun>,
    /// What goes over the interface, when other nodes run on this machine [default: all, unless another one has it]
    #[arg(long, value_name = "WHAT")]
    pub routes: Option<Routes>,
    /// Where to listen; replaces the configuration's [default: port 8737 if free, else any]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Vec<Listen>,
    /// A peer and where it is; adds to the configuration's
    #[arg(long, value_name = "ADDRESS@ENDPOINT")]
    pub peer: Vec<PeerText>,
    /// Zone of a new identity; on an existing one it must be the same
    #[arg(long, value_name = "HEX")]
    pub zone: Option<ZoneText>,
    /// The zone file: its relays are used; a new identity is made in its zone [default: by the zone's name and IP]
    #[arg(long, value_name = "PATH|URL")]
    pub zone_file: Option<ZoneFrom>,
    /// Which of the peers that share this address, 1 to 15
    #[arg(long, value_name = "N")]
    pub peer_id: Option<PeerDigit>,
    /// What to log: a level, or target=level,… [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log more; twice for debug
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Write these flags into the configuration file, for later starts too
    #[arg(long)]
    pub save: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub die_with_parent: bool,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Relay {
    #[command(subcommand)]
    pub action: Option<RelayAction>,
    /// The same as --config
    #[arg(short = 'c', value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub run: RelayRun,
}

#[derive(Args, Debug, Default)]
pub struct RelayRun {
    /// Where to listen; replaces the configuration's [default: port 8737 if free, else any]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Vec<Listen>,
    /// Zone of a new identity; on an existing one it must be the same
    #[arg(long, value_name = "HEX")]
    pub zone: Option<ZoneText>,
    /// What to log: a level, or target=level,… [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log more; twice for debug
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub die_with_parent: bool,
}

#[derive(Subcommand, Debug)]
pub enum RelayAction {
    /// Who is registered, and what was passed on
    Status {
        /// The same as --config
        #[arg(short = 'c', value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub struct Ping {
    /// Address, overlay IPv6, or name
    #[arg(value_name = "X")]
    pub target: String,
    /// How many
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Seconds between them
    #[arg(short, long, value_name = "S", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// Seconds to wait for each reply
    #[arg(short = 'W', long, value_name = "S", default_value = "2", value_parser = timeout)]
    pub timeout: Duration,
    /// Payload bytes
    #[arg(short, long, value_name = "BYTES", default_value_t = 56, value_parser = clap::value_parser!(u16).range(0..=1100))]
    pub size: u16,
}

#[derive(Subcommand, Debug)]
pub enum Key {
    /// Make the identity
    New {
        /// Zone of the address, up to 8 hex digits [default: the configuration's, else 0]
        #[arg(long, value_name = "HEX")]
        zone: Option<ZoneText>,
        /// Replace an identity: its address is lost for good
        #[arg(long)]
        force: bool,
    },
    /// Show the identity
    Show {
        /// With the private key: whoever has it is this machine
        #[arg(long)]
        secret: bool,
    },
}

#[derive(Args, Debug)]
pub struct Whom {
    /// Address, overlay IPv6, or name
    #[arg(value_name = "X")]
    pub target: String,
}

#[derive(Args, Debug)]
pub struct LookupArgs {
    #[command(flatten)]
    pub whom: Whom,
    /// Ask just this source, and wait for it
    #[arg(long, value_name = "SOURCE")]
    pub via: Option<Via>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The zone's DHT, or the first of [[dht]]
    Dht,
    /// The trackers of [rendezvous]: minutes, not seconds
    Tracker,
}

#[derive(Subcommand, Debug)]
pub enum Dht {
    /// The overlays that this node is in
    Status(InOverlay),
    /// The values of a kind under a key
    Get {
        /// A usage's name (ANODE-RECORD, …) or a number (0xF00010, …)
        kind: KindText,
        /// Text, or hex:…; of ANODE-RECORD an address, overlay IPv6, or name
        key: String,
        #[command(flatten)]
        overlay: InOverlay,
    },
    /// Store a value under a key, in this node's name
    Put {
        /// A usage's name or a number
        kind: KindText,
        /// Text, or hex:…
        key: String,
        /// Text, hex:…, or @FILE
        value: String,
        #[command(flatten)]
        overlay: InOverlay,
    },
    /// The first place at or after X that has a value of a kind, with the peer that keeps X
    Find {
        /// A usage's name or a number
        kind: KindText,
        /// Address, overlay IPv6, name, or hex: of a Resource-ID
        #[arg(value_name = "X")]
        target: String,
        #[command(flatten)]
        overlay: InOverlay,
    },
    /// The way that a message takes
    Route {
        /// Address, overlay IPv6, name, or hex: of a Resource-ID
        #[arg(value_name = "X")]
        target: String,
        #[command(flatten)]
        overlay: InOverlay,
    },
}

#[derive(Args, Debug)]
pub struct InOverlay {
    /// The overlay [default: the first]
    #[arg(long = "overlay", value_name = "NAME")]
    pub name: Option<OverlayName>,
}

#[derive(Args, Debug)]
pub struct Trust {
    /// The peer's address, as `anode address` prints it there, or a destination of I2P (….b32.i2p)
    pub address: Trustee,
    /// What to call it here
    pub name: Option<PeerName>,
}

#[derive(Args, Debug)]
pub struct Invite {
    /// How long the ticket is good: 30s, 10m, 12h, 7d, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub expires: Duration,
    /// Show the tickets that have not expired, in place of making one
    #[arg(long, conflicts_with_all = ["expires", "withdraw"])]
    pub list: bool,
    /// Take a ticket back before it is used; trust that it has brought stays
    #[arg(long, value_name = "ID", conflicts_with = "expires")]
    pub withdraw: Option<String>,
}

#[derive(Args, Debug)]
pub struct Join {
    /// What `anode invite` printed; - reads it from standard input
    pub ticket: String,
    /// What to call the other machine here
    pub name: Option<PeerName>,
}

#[derive(Subcommand, Debug)]
pub enum Policy {
    /// Whether somebody may reach a port of this machine, and by which rule
    Check(Question),
    /// Make the running node read [inbound] again; SIGHUP does the same
    Reload,
}

#[derive(Subcommand, Debug)]
pub enum I2p {
    /// The router, and this machine's destinations
    Status,
    /// Name a destination, for programs and rules of this machine
    Add {
        /// What to call it: site or site.i2p
        name: I2pHost,
        /// The destination: 52 characters and .b32.i2p
        b32: B32,
    },
    /// Ask the router for a destination
    Lookup {
        /// ….b32.i2p or site.i2p
        #[arg(value_name = "X")]
        target: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum Zone {
    /// Make a zone: its signed file, its key, and a relay's configuration for each --relay
    New(NewZone),
    /// Raise the revision and sign, after an edit
    Sign(SignZone),
    /// What is wrong with a zone file, line by line
    Check {
        /// The file
        #[arg(value_name = "FILE|URL")]
        file: ZoneFrom,
    },
    /// What the running node knows of its zone
    Show,
    /// Make the running node look for a newer file now
    Refresh {
        /// Take an older one too
        #[arg(long)]
        force: bool,
    },
    /// Believe files that are signed by another key than before
    Accept {
        /// The new key, as its operator names it
        #[arg(value_name = "KEY")]
        key: ZoneKey,
    },
}

#[derive(Subcommand, Debug)]
pub enum TrackerCommand {
    /// Put this machine on a tracker's list, and see who else is there
    Announce {
        #[command(flatten)]
        question: TrackerQuestion,
        /// The port that others shall find us at
        #[arg(long, value_name = "N", default_value_t = 8737, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// What happened; nothing at a regular repeat
        #[arg(long, value_name = "E")]
        event: Option<TrackerEvent>,
        /// Ask for a list in place of compact peers (http)
        #[arg(long)]
        no_compact: bool,
    },
    /// See how many are on a tracker's list
    Scrape {
        #[command(flatten)]
        question: TrackerQuestion,
    },
}

#[derive(Args, Debug)]
pub struct TrackerQuestion {
    /// http://HOST:PORT/announce, https://… or udp://HOST:PORT
    pub url: UrlText,
    /// The swarm: 40 hex digits
    #[arg(long, value_name = "HEX")]
    pub info_hash: HashText,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerEvent {
    /// We are new
    Started,
    /// We have everything
    Completed,
    /// We leave
    Stopped,
}

#[derive(Subcommand, Debug)]
pub enum RendezvousCommand {
    /// The info hashes in force, for trackers with a white list
    Hash,
}

#[derive(Subcommand, Debug)]
pub enum Turn {
    /// Whether a server works, step by step, and why not
    Check {
        #[command(flatten)]
        server: TurnAt,
    },
    /// Send datagrams through a server to a peer that echoes them
    Send {
        #[command(flatten)]
        server: TurnAt,
        /// Where they go
        #[arg(value_name = "PEER:PORT")]
        peer: std::net::SocketAddr,
        /// How many
        #[arg(short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        /// Bytes in each
        #[arg(long, value_name = "B", default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=65_000))]
        size: u16,
        /// How they travel to the server
        #[arg(long, value_enum, default_value_t = TurnVia::Channel)]
        via: TurnVia,
        /// Ask the server to set DF
        #[arg(long)]
        dont_fragment: bool,
    },
}

/// `--via`
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnVia {
    /// ChannelData
    Channel,
    /// Send indications
    Send,
}

#[derive(Args, Debug)]
pub struct TurnAt {
    /// turn:HOST[:PORT][?transport=udp|tcp], turns:, stun: or stuns:
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Name
    #[arg(long, value_name = "U")]
    pub user: Option<String>,
    /// Password; other users of this machine may see it while the command runs
    #[arg(
        long,
        value_name = "P",
        requires = "user",
        conflicts_with = "password_file"
    )]
    pub password: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "F", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Authorities in PEM that the certificate may come from [default: the machine's]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct NewZone {
    /// Directory to make
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The zone, up to 8 hex digits, not 0
    #[arg(long, value_name = "HEX")]
    pub zone: ZoneText,
    /// Where a relay will be reached, UDP and TCP; IP:PORT,IP:PORT is one of both families
    #[arg(long, value_name = "IP:PORT", required = true)]
    pub relay: Vec<RelayAt>,
    /// What the zone is called [default: zone HEX]
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Mail address of who runs it
    #[arg(long, value_name = "MAIL", default_value = "")]
    pub contact: String,
    /// Host name of the relay at the same place: whoever reaches it by TLS checks its certificate ([relay.tls])
    #[arg(long, value_name = "HOST", value_parser = relay_host)]
    pub host: Vec<String>,
    /// A TURN server of the zone; with user and password after blanks where it needs them
    #[arg(long, value_name = "URI")]
    pub turn: Vec<TurnServer>,
    /// URL of a BitTorrent tracker at which the zone meets
    #[arg(long, value_name = "URL", value_parser = tracker_url)]
    pub tracker: Vec<String>,
    /// Name of the zone's RELOAD overlay [default: a--ZONE.net]
    #[arg(long, value_name = "NAME", value_parser = dht_name)]
    pub dht: Option<String>,
    /// URL of that overlay's configuration document
    #[arg(long, value_name = "URL", requires = "dht", value_parser = dht_config_url)]
    pub dht_config: Option<String>,
    /// Without a DHT
    #[arg(long, conflicts_with = "dht")]
    pub no_dht: bool,
    /// How long others use the file before they look again
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
}

#[derive(Args, Debug)]
pub struct SignZone {
    /// The zone's directory, with zone and zone.key in it; or the file, with FILE.key beside it
    #[arg(value_name = "DIR|FILE")]
    pub path: PathBuf,
    /// The zone, where the file does not say it yet
    #[arg(long, value_name = "HEX")]
    pub zone: Option<ZoneText>,
}

#[derive(Args, Debug)]
pub struct Question {
    /// Address, overlay IPv6, name, or `any` for a stranger
    pub who: String,
    /// tcp/PORT, udp/PORT, icmp or ip/NUMBER
    #[arg(value_name = "PROTO/PORT")]
    pub what: String,
}

#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Guard {
    /// Add the unreachable routes
    Add,
    /// Remove them
    Remove,
}

#[derive(Subcommand, Debug)]
pub enum DemoTool {
    /// A file over HTTP, and UDP echo, on one port
    Serve {
        /// Where to listen
        listen: std::net::SocketAddr,
        /// The file
        file: PathBuf,
    },
    /// Fetch the file and print the seconds
    Fetch {
        /// From where
        server: std::net::SocketAddr,
        /// Where to
        target: PathBuf,
    },
    /// Echo datagrams and print the seconds
    Echo {
        /// From where
        server: std::net::SocketAddr,
        /// How many
        count: u32,
    },
}

/// Whom people can trust.
#[derive(Clone, Copy, Debug)]
pub enum Trustee {
    Peer(Address),
    I2p(Hash),
}

impl std::str::FromStr for Trustee {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().contains(".i2p") {
            true => text.parse().map(|B32(hash)| Self::I2p(hash)),
            false => text.parse().map(|AddressText(address)| Self::Peer(address)),
        }
    }
}

fn seconds(
    text: &str,
    what: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Duration, ValueError> {
    let wrong = || {
        ValueError::new(format!(
            "{what} {text:?}: use {} to {} seconds",
            range.start(),
            range.end()
        ))
    };
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(wrong)?;
    Ok(Duration::from_secs_f64(number))
}

fn interval(text: &str) -> Result<Duration, ValueError> {
    seconds(text, "interval", 0.01..=3600.0)
}

fn timeout(text: &str) -> Result<Duration, ValueError> {
    seconds(text, "timeout", 0.01..=10.0)
}

/// `30s`, `10m`, `12h`, `7d`
fn lifetime(text: &str) -> Result<Duration, ValueError> {
    duration(text, 1..=TICKET_LIFETIME_MAX_S).ok_or_else(|| {
        ValueError::new(format!(
            "duration {text:?}: use a number and s, m, h or d, such as 12h; at most 30d"
        ))
    })
}

/// D4
fn ttl(text: &str) -> Result<Duration, ValueError> {
    duration(text, MIN_TTL.as_secs()..=MAX_TTL.as_secs()).ok_or_else(|| {
        ValueError::new(format!(
            "duration {text:?}: use a number and s, m, h or d, such as 1h; 60s to 7d"
        ))
    })
}

fn duration(text: &str, range: std::ops::RangeInclusive<u64>) -> Option<Duration> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let number = digits
        .parse::<u64>()
        .ok()
        .filter(|_| !digits.starts_with('+'));
    number
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| range.contains(seconds))
        .map(Duration::from_secs)
}

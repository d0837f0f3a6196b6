//! What the control side (tokio, people, the socket) asks of the data thread, and the way its answers come back.
//!
//! One bounded channel in, one `oneshot` back for each question: the data thread never waits for anybody, and a caller that
//! went away costs it one failed `send`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anode_platform::wake::Wake;
use anode_routing::anode::{NetReport, Place, Registration, RelaySnapshot, Relayed};
use anode_routing::dht::Output;
use anode_routing::i2p;
use anode_routing::net::TurnServer;
use anode_routing::overlay::{Failure, Via};
use anode_routing::turn::server::Door;
use anode_wire::Address;
use anode_wire::sealed::Record;
use anode_wire::sealed::ticket::{Join, Joined, Status, Ticket};
use tokio::sync::oneshot;

use crate::policy::Policy;
use crate::tracker::meet::Deny;
use crate::zone::Relays;

/// Commands that may wait for the data thread. More than one client at a time is rare, so a full queue means it hangs.
pub const QUEUE: usize = 64;

/// The way back for one answer. The asker may have gone: a failed `send` is no error.
pub type Reply<T> = oneshot::Sender<T>;

/// What the control side asks of the data thread; each carries the way back for its answer.
#[derive(Debug)]
pub enum Command {
    /// What is up.
    Status(Reply<StatusReport>),
    /// Who is known, and by which paths.
    Peers(Reply<Vec<PeerReport>>),
    /// One echo: resolves with the answer, or with a failure after at most `timeout`.
    Ping {
        /// Whom.
        to: Target,
        /// What comes back with the answer.
        payload: Vec<u8>,
        /// How long to wait.
        timeout: Duration,
        /// The answer.
        reply: Reply<Result<PingReport, PingError>>,
    },
    /// Where somebody is, and which sources knew; `None` when nobody does.
    Lookup {
        /// Whom.
        target: Target,
        /// The answer.
        reply: Reply<Option<LookupReport>>,
    },
    /// A peer from outside: its full address, and places where it may be.
    AddPeer {
        /// Who.
        address: Address,
        /// Where it may be.
        places: Vec<Place>,
        /// Never forgotten while the node runs.
        pinned: bool,
        /// Done.
        reply: Reply<()>,
    },
    /// This peer is trusted: its key is known from now on. What it may do, [`Command::SetPolicy`] says.
    Trust {
        /// Who.
        address: Address,
        /// Done.
        reply: Reply<()>,
    },
    /// From now on this is in force; what peers have open by the old one and may not by the new one ends.
    SetPolicy {
        /// Replaces the old one whole.
        policy: Box<Policy>,
        /// Done.
        reply: Reply<()>,
    },
    /// The zone's relays are these from now on.
    SetRelays {
        /// Replaces the old ones whole.
        relays: Relays,
        /// Done.
        reply: Reply<()>,
    },
    /// Meets others at trackers from now on, with the networks that are not probed, or does not.
    SetRendezvous(Deny),
    /// Ports of ours at which clients of our TURN server come in.
    ShareTls(Door),
    /// The TURN servers, in the order in which they are tried.
    SetTurnServers(Vec<TurnServer>),
    /// Endpoints that a tracker has named.
    Candidates {
        /// As it named them.
        endpoints: Vec<SocketAddr>,
        /// Its own address: only a private one may name private ones.
        tracker: IpAddr,
    },
    /// Searches for somebody by trackers, and says how far that is.
    Meet {
        /// Whom.
        address: Address,
        /// The answer, at once.
        reply: Reply<MeetReport>,
    },
    /// Uses a ticket: opens a session with its maker and shows the proof until there is an answer (Q29).
    Join {
        /// What the maker printed.
        ticket: Box<Ticket>,
        /// The maker's answer, or why there is none.
        reply: Reply<Result<Status, Failure>>,
    },
    /// What the DHTs want sent, reached and known.
    Dht(Vec<Output>),
    /// Whether a DHT can be asked for peers.
    InDht(bool),
    /// The answer to a JOIN; a lost one is asked for again by the joiner.
    Joined {
        /// To whom.
        to: Address,
        /// What.
        joined: Joined,
    },
    /// Where others can reach this node, the most promising first.
    Endpoints(Reply<Vec<Place>>),
    /// Look at the network before this node; the answer comes within seconds.
    Netcheck(Reply<NetReport>),
    /// A port that the gateway keeps open for us; `None`: none any more.
    SetPortMapping(Option<SocketAddr>),
    /// What this relay does; `None`: the node does not relay.
    Relay(Reply<Option<RelayReport>>),
    /// Something about I2P. Where it is off, the way back is dropped.
    I2p(I2pCommand),
    /// Every counter and gauge, named as in the metrics (`anode_rx_bytes_total`).
    Counters(Reply<Vec<(String, u64)>>),
    /// Close streams, remove the interface, end the thread.
    Shutdown,
}

/// Word that the data thread sends by itself.
#[derive(Debug)]
pub enum News {
    /// Somebody shows a ticket; the answer is [`Command::Joined`].
    Join(JoinNews),
    /// What is known of peers, to be written to disk.
    Learnt {
        /// Their sessions.
        records: Vec<Record>,
        /// Where they are.
        peers: Vec<PeerReport>,
    },
    /// Destinations of I2P that are known, to be written to disk.
    Destinations(Vec<i2p::Known>),
}

/// What the control side asks of the I2P overlay.
#[derive(Debug)]
pub enum I2pCommand {
    /// How it stands.
    Status(Reply<i2p::Snapshot>),
    /// With whom it speaks.
    Peers(Reply<Vec<i2p::PeerSnapshot>>),
    /// A program will speak to this destination.
    Learn {
        /// Who.
        hash: i2p::Hash,
        /// Done.
        reply: Reply<()>,
    },
    /// Whose address this is.
    Known {
        /// Of the I2P prefix.
        address: Ipv6Addr,
        /// `None`: nobody has told of it.
        reply: Reply<Option<i2p::Known>>,
    },
    /// Who stands behind a name, or whether a destination is there.
    Ask {
        /// What.
        question: i2p::Question,
        /// The router's answer.
        reply: Reply<Result<i2p::Destination, i2p::LookupError>>,
    },
    /// All that is known, for the disk.
    Export(Reply<Vec<i2p::Known>>),
}

/// A ticket that is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinNews {
    /// By whom.
    pub from: Address,
    /// From which network: wrong tickets are counted by it (Q30).
    pub network: u64,
    /// Of the session that it came in, which the proof is bound to.
    pub handshake_hash: [u8; 32],
    /// The proof.
    pub join: Join,
}

/// Somebody, as people name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// By the full address.
    Address(Address),
    /// By the synthetic IPv6, which needs a peer that holds it.
    Ipv6(Ipv6Addr),
    /// A destination of I2P.
    I2p(i2p::Hash),
}

/// Answer to [`Command::Status`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StatusReport {
    /// Peers that are known.
    pub peers: usize,
    /// Peers with a live path.
    pub reachable: usize,
    /// Open streams.
    pub streams: usize,
    /// Relays through which others reach this node.
    pub relays: Vec<RelaySnapshot>,
    /// Where it listens, as it is now (addresses may be unspecified).
    pub listen: Vec<Place>,
    /// Peers whose packets go through a connection, because datagrams do not get there.
    pub tunnelled: usize,
}

/// One peer of the answer to [`Command::Peers`].
#[derive(Clone, PartialEq, Debug)]
pub struct PeerReport {
    /// Who.
    pub address: Address,
    /// The ways to it, the active one first.
    pub paths: Vec<PathReport>,
    /// Whether its traffic is sealed.
    pub sealed: bool,
    /// Whether its keys are post-quantum.
    pub pq: bool,
    /// Why it is reached over a relay, where direct paths were tried.
    pub relayed: Option<Relayed>,
    /// Bytes that came from it.
    pub rx_bytes: u64,
    /// Bytes that went to it.
    pub tx_bytes: u64,
}

/// One way to a peer.
#[derive(Clone, PartialEq, Debug)]
pub struct PathReport {
    /// Kind, endpoint (`udp://192.0.2.1:8737`), hops.
    pub via: Via,
    /// Smoothed round trip, when it was measured.
    pub rtt: Option<Duration>,
    /// The relay's address, where one is on the way and is known.
    pub relay: Option<Address>,
    /// Largest packet of the overlay in bytes.
    pub mtu: u16,
    /// Whether traffic takes it now.
    pub active: bool,
}

/// Answer to [`Command::Relay`].
#[derive(Clone, PartialEq, Debug)]
pub struct RelayReport {
    /// Who is registered.
    pub peers: Vec<Registration>,
    /// How many may be.
    pub peers_max: usize,
    /// Packets passed on.
    pub packets: u64,
    /// Bytes passed on.
    pub bytes: u64,
    /// What was not passed on, or not registered, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// What is announced to trackers depends on this; the data thread tells it when it has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meeting {
    /// UDP endpoints of this machine.
    pub own: Vec<SocketAddr>,
    /// Where others have seen it, latest last.
    pub external: Vec<SocketAddr>,
    /// Own addresses that go away soon.
    pub deprecated: Vec<IpAddr>,
    /// Somebody is being searched for: trackers are asked as often as they allow.
    pub searching: bool,
}

/// Answer to [`Command::Meet`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeetReport {
    /// This node meets others at trackers.
    pub on: bool,
    /// It has been met, and answers.
    pub found: Option<LookupReport>,
}

/// One answered echo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PingReport {
    /// Round trip.
    pub rtt: Duration,
    /// The way that the answer took.
    pub via: Via,
}

/// Why an echo got no answer; [`Failure::TimedOut`] when there was just silence.
pub type PingError = Failure;

/// Where somebody is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LookupReport {
    /// Who.
    pub address: Address,
    /// Which sources knew: `config`, `pins`, `lan`, …
    pub sources: Vec<String>,
    /// Where, as `udp://192.0.2.1:8737`.
    pub endpoints: Vec<String>,
}

/// Why a command did not get through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// [`QUEUE`] commands wait already.
    #[error("the data thread is busy: try again")]
    Busy,
    /// It ended.
    #[error("the data thread has stopped")]
    Stopped,
}

/// The control side's end.
#[derive(Clone)]
pub struct DataHandle {
    sender: SyncSender<Command>,
    waker: Arc<Wake>,
}

impl DataHandle {
    /// A handle, and the end that the data thread drains when `waker` woke it.
    pub fn new(waker: Arc<Wake>) -> (Self, Receiver<Command>) {
        let (sender, receiver) = sync_channel(QUEUE);
        (Self { sender, waker }, receiver)
    }

    /// Enqueues and wakes; never blocks.
    pub fn send(&self, command: Command) -> Result<(), CommandError> {
        self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => CommandError::Busy,
            TrySendError::Disconnected(_) => CommandError::Stopped,
        })?;
        self.waker.wake();
        Ok(())
    }

    /// Sends the command that `make` builds around the way back, and waits for its answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.send(make(reply))?;
        answer.await.map_err(|_| CommandError::Stopped)
    }
}

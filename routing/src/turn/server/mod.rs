//! The server's sockets and threads.
//!
//! ```text
//!                 ┌──────────────── shard (one thread a core) ─────────────────┐
//!   clients ─UDP──▶ datagrams: ports ──┐                     ┌── datagrams: relays ──▶ peers
//!           ─DTLS─▶ sessions ──────────┤  anode_turn::Server │
//!           ─TCP──▶ streams ───────────┤                     └── peers: TCP (RFC 6062)
//!           ─TLS──▶ streams ───────────┘
//!                 └────────────────────────────────────────────────────────────┘
//! ```
//!
//! The kernel spreads UDP clients over the shards (SO_REUSEPORT). Streams are accepted by the first shard and go to the
//! one that the client's address says, since a ConnectionBind must meet its control connection.
//!
//! A shard owns its epoll descriptor, sockets, buffers and state machine; no other thread sees them. Locks: the quotas and
//! reservations of [`Shared`] and the sockets of reserved ports (`datagrams::Kept`), taken when an allocation comes or goes;
//! the certificate shown at a shared port (`door::Shown`), taken when a connection comes or the file is read again. Letters
//! of other threads come by a channel that is looked at when its eventfd says so. So a packet meets no lock. It meets no
//! allocation either (`tests/turn_allocations.rs`): what came stays in the shard's receive buffers until it is gathered into
//! the buffer that it leaves in, and these keep their memory. TLS and DTLS are the exception: rustls and dimpl allocate
//! for their records.

mod connections;
mod counters;
mod datagrams;
mod door;
mod output;
mod peers;
mod sessions;
mod shard;
mod streams;
mod token;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anode_turn::TurnError;
use anode_turn::server::{Config, Counters, Server, Shared};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::TryRng as _;
use rand::rngs::SysRng;

use super::SetDontFragment;
use super::certificate::{CertificateError, ServerCertificate};
use super::udp::{Share, UdpSocket};
use crate::anode::source_prefix;
use crate::sockets::listen;
use datagrams::{Kept, Port};
use door::Shown;
use shard::{Inbox, Shard};

pub use counters::IoCounters;
pub use door::{Door, SharedPort};

/// Kernel buffers asked for at the ports that clients send to; a system that grants less is served with less.
const PORT_BUFFER: usize = 7 << 20;
/// Connections that the kernel keeps until we take them.
const BACKLOG: i32 = 512;
/// How long a shard may take to say what it has counted.
const REPORT: Duration = Duration::from_secs(1);

/// What a server is started with.
#[derive(Clone)]
pub struct Settings {
    /// What the state machine is told. The policy's own addresses and listening ports are filled in here.
    pub turn: Config,
    /// UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// DTLS and TLS.
    pub listen_secure: Vec<SocketAddr>,
    /// Those of `listen_secure` that another part of this process accepts connections on ([`TurnServer::door`]).
    pub shared: Vec<SharedPort>,
    /// What is shown there; needed where `listen_secure` is not empty.
    pub certificate: Option<ServerCertificate>,
    /// Threads; 0: one for each core.
    pub shards: usize,
    /// How DF is set.
    pub set_dont_fragment: SetDontFragment,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address of ours that is taken.
    #[error(
        "cannot listen on {0}: the port is in use by another program; name a free one, or stop the other program"
    )]
    PortBusy(SocketAddr),
    /// An address of ours that cannot be bound for another reason.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A relay address that is none of this machine.
    #[error(
        "cannot relay from {address}: {error}; name an address of this machine in `relay`, and what others see of it in `external`"
    )]
    Relay {
        /// The address.
        address: IpAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] TurnError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Something else of the system.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// `listen` cannot change while it runs.
    #[error("the addresses to listen on cannot change while the server runs: restart it")]
    Moved,
}

/// All sockets are bound; no thread runs yet.
pub struct Bound {
    settings: Settings,
    ports: Vec<Vec<Port>>,
    listeners: Vec<Listener>,
    listening: Listening,
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// UDP and TCP.
    pub plain: Vec<SocketAddr>,
    /// DTLS and TLS.
    pub secure: Vec<SocketAddr>,
}

struct Listener {
    socket: TcpListener,
    secure: bool,
}

impl Bound {
    /// Binds everything.
    ///
    /// # Errors
    /// The first address that cannot be had, or what is wrong with the settings.
    pub fn bind(mut settings: Settings) -> Result<Self, ServerError> {
        settings.turn.check()?;
        raise_descriptors();
        let shards = match settings.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        for relay in &settings.turn.relays {
            try_relay(relay.local).map_err(|error| ServerError::Relay {
                address: relay.local,
                error,
            })?;
        }
        let mut ports: Vec<Vec<Port>> = (0..shards).map(|_| Vec::new()).collect();
        let mut listeners = Vec::new();
        let mut listening = Listening {
            plain: Vec::new(),
            secure: Vec::new(),
        };
        let plain = settings.listen.iter().map(|address| (*address, false));
        let secure = settings
            .listen_secure
            .iter()
            .map(|address| (*address, true));
        for (wanted, secure) in plain.chain(secure) {
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::AddrInUse => ServerError::PortBusy(wanted),
                _ => ServerError::Listen {
                    address: wanted,
                    error,
                },
            };
            let mut shared = settings.shared.iter().filter(|_| secure);
            let shared = shared.find(|shared| shared.address == wanted);
            let mut address = wanted;
            if shared.is_none() {
                let socket = listen(wanted, BACKLOG).map_err(failed)?;
                // Port 0: the one that TCP got.
                address = socket.local_addr()?;
                listeners.push(Listener { socket, secure });
            }
            let datagrams = shared.is_none_or(|shared| !shared.without_dtls);
            for (shard, ports) in ports.iter_mut().enumerate().filter(|_| datagrams) {
                let share = if shard == 0 {
                    Share::First
                } else {
                    Share::Next
                };
                let socket =
                    UdpSocket::bind(address, share, PORT_BUFFER, settings.set_dont_fragment)
                        .map_err(failed)?;
                ports.push(Port::new(socket, secure));
            }
            if secure {
                listening.secure.push(address);
            } else {
                listening.plain.push(address);
            }
        }
        complete(&mut settings.turn, &listening)?;
        Ok(Self {
            settings,
            ports,
            listeners,
            listening,
        })
    }

    /// Where it will be reached.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn start(self) -> Result<TurnServer, ServerError> {
        let shared = Shared::new(Instant::now());
        let nonce_secret = random()?;
        let (kept, count) = (Kept::default(), self.ports.len());
        let mut mailboxes = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..count {
            let (mailbox, receiver) = Mailbox::new()?;
            mailboxes.push(mailbox);
            receivers.push(receiver);
        }
        let mailboxes: Arc<[Mailbox]> = mailboxes.into();
        let shown = Shown::default();
        *shown.write().unwrap_or_else(PoisonError::into_inner) = self.settings.certificate.clone();
        let streams = Arc::new(AtomicUsize::new(0));
        let mut shards = Vec::new();
        let mut listeners = Some(self.listeners);
        for (index, (ports, inbox)) in self.ports.into_iter().zip(receivers).enumerate() {
            let turn = Server::new(
                self.settings.turn.clone(),
                Arc::clone(&shared),
                random()?,
                nonce_secret,
            )?;
            let shard = Shard::new(shard::Parts {
                index,
                turn,
                ports,
                listeners: listeners.take().unwrap_or_default(),
                inbox,
                mailboxes: Arc::clone(&mailboxes),
                kept: kept.clone(),
                certificate: self.settings.certificate.clone(),
                streams: Arc::clone(&streams),
                cookie_secret: random()?,
                set_dont_fragment: self.settings.set_dont_fragment,
            })?;
            shards.push(shard);
        }
        let threads = shards
            .into_iter()
            .enumerate()
            .map(|(index, shard)| {
                std::thread::Builder::new()
                    .name(format!("turn-{index}"))
                    .spawn(move || shard.run())
            })
            .collect::<io::Result<_>>()?;
        Ok(TurnServer {
            mailboxes,
            threads,
            shared,
            listening: self.listening,
            ports: self.settings.shared,
            shown,
        })
    }
}

/// A server that runs. It ends when this is dropped.
pub struct TurnServer {
    mailboxes: Arc<[Mailbox]>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    listening: Listening,
    /// Those that somebody else accepts on.
    ports: Vec<SharedPort>,
    shown: Shown,
}

/// What a server has counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// The state machines' counters, of all shards.
    pub turn: Counters,
    /// The sockets' counters.
    pub io: IoCounters,
    /// Allocations that stand.
    pub allocations: usize,
    /// TCP and TLS connections of clients.
    pub streams: usize,
    /// DTLS sessions.
    pub sessions: usize,
}

impl Snapshot {
    fn add(&mut self, other: &Self) {
        self.turn.add(&other.turn);
        self.io.add(&other.io);
        self.allocations += other.allocations;
        self.streams += other.streams;
        self.sessions += other.sessions;
    }
}

impl TurnServer {
    /// Where it is reached.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// For whoever accepts connections on the shared ports; `None`: there are none.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        let addresses: Vec<SocketAddr> = self.ports.iter().map(|port| port.address).collect();
        (!addresses.is_empty()).then(|| Door {
            addresses,
            shown: Arc::clone(&self.shown),
            mailboxes: Arc::clone(&self.mailboxes),
        })
    }

    /// Takes new settings; allocations stay. The addresses to listen on must be the same.
    ///
    /// # Errors
    /// What is wrong with them; then the old ones stay.
    pub fn reload(&self, mut settings: Settings) -> Result<(), ServerError> {
        let same = |wanted: &[SocketAddr], bound: &[SocketAddr]| {
            let fits = |(w, b): (&SocketAddr, &SocketAddr)| {
                w.ip() == b.ip() && (w.port() == b.port() || w.port() == 0)
            };
            wanted.len() == bound.len() && wanted.iter().zip(bound).all(fits)
        };
        if !same(&settings.listen, &self.listening.plain)
            || !same(&settings.listen_secure, &self.listening.secure)
        {
            return Err(ServerError::Moved);
        }
        settings.turn.check()?;
        for relay in &settings.turn.relays {
            try_relay(relay.local).map_err(|error| ServerError::Relay {
                address: relay.local,
                error,
            })?;
        }
        complete(&mut settings.turn, &self.listening)?;
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        shown.clone_from(&settings.certificate);
        drop(shown);
        for mailbox in &*self.mailboxes {
            let config = Box::new((settings.turn.clone(), settings.certificate.clone()));
            mailbox.send(Inbox::Reload(config));
        }
        Ok(())
    }

    /// Takes no new allocations, and ends the others when the drain time is over.
    pub fn drain(&self) {
        self.mailboxes.iter().for_each(|m| m.send(Inbox::Drain));
    }

    /// Allocations that stand.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.shared.allocations()
    }

    /// What was counted; a shard that is too busy to say is left out.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::default();
        self.each_snapshot().iter().for_each(|one| all.add(one));
        all
    }

    /// The same for each shard, in no order.
    #[must_use]
    pub fn each_snapshot(&self) -> Vec<Snapshot> {
        let (sender, receiver) = mpsc::channel();
        for mailbox in &*self.mailboxes {
            mailbox.send(Inbox::Report(sender.clone()));
        }
        drop(sender);
        let (until, mut all) = (Instant::now() + REPORT, Vec::new());
        while let Ok(one) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            all.push(one);
        }
        all
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|m| m.send(Inbox::Stop));
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// What wakes a shard, and what it finds then.
pub(super) struct Mailbox {
    sender: Sender<Inbox>,
    wake: Arc<EventFd>,
}

impl Mailbox {
    fn new() -> io::Result<(Self, Letters)> {
        let (sender, receiver) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
        )?);
        let letters = Letters {
            receiver,
            wake: Arc::clone(&wake),
        };
        Ok((Self { sender, wake }, letters))
    }

    fn send(&self, letter: Inbox) {
        // A shard that has ended reads no more; a full counter means that it is awake.
        let _ = self.sender.send(letter);
        let _ = self.wake.write(1);
    }
}

pub(super) struct Letters {
    receiver: Receiver<Inbox>,
    wake: Arc<EventFd>,
}

/// The policy's own addresses and ports: what the machine has now.
fn complete(config: &mut Config, listening: &Listening) -> io::Result<()> {
    let all = [listening.plain.as_slice(), &listening.secure].concat();
    config.policy.listening = all;
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    config.policy.own = addresses.collect();
    Ok(())
}

/// Each allocation is a descriptor or two: the soft limit is usually 1,024, and the hard one what the operator grants.
fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("at most {soft} sockets: {error}");
    }
}

/// Whether this machine can send from an address.
fn try_relay(address: IpAddr) -> io::Result<()> {
    std::net::UdpSocket::bind((address, 0)).map(drop)
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Which shard a client's connections go to: all of one address to one. Multiplied, so that neighbouring addresses do not
/// meet in one shard.
fn shard_of(client: IpAddr, shards: usize) -> usize {
    let hash = source_prefix(client).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    hash as usize % shards
}

/// How many of something there may be; shared by the shards.
fn take_one(count: &AtomicUsize, limit: usize) -> bool {
    let more = |now: usize| (now < limit).then_some(now + 1);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests;

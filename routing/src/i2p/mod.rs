//! The I2P overlay: destinations of this machine behind synthetic addresses of `fda1::/16`, over a router's I2CP socket.
//!
//! ```text
//!    Overlay (flows): open, write, send_datagram, ping          OverlayEvent, OverlaySink
//!         │                                                              ▲
//!  ┌──────▼──────────────────────────────────────────────────────────────┴──────┐
//!  │ table: address ⇄ hash ⇄ destination, names      waiting: for a session,    │
//!  │ names: questions of people and the DNS                   for a lookup      │
//!  ├──────────────────────────┬─────────────────────────────────────────────────┤
//!  │ local: one destination   │ ports: raw answers, port 0                      │
//!  │  anode-i2cp's Endpoint   │ status: what people see                         │
//!  │  link: TCP, TLS, Unix    │                                                 │
//!  └──────┬───────────────────┴──────────────────────────────────▲──────────────┘
//!         ▼                       one epoll descriptor           │
//!       the router, one connection for each destination
//! ```
//!
//! Served by the data thread like everything else, without a thread or a runtime of its own. A destination that is lost comes
//! back by itself: its streams are reset, its table and its datagram flows stay.
mod config;
mod events;
mod flows;
mod link;
mod local;
mod names;
mod ports;
mod status;
mod table;
mod tls;
mod waiting;

pub use anode_i2cp::Error as I2cpError;
pub use anode_i2cp::client::{Credentials, LookupError};
pub use anode_i2cp::datagram::Kind as DatagramKind;
pub use anode_i2cp::destination::{Destination, Hash};
pub use anode_i2cp::keys::LocalDestination;
pub use anode_i2cp::names::Name;
pub use anode_i2cp::options::SessionOptions;
pub use config::{DestinationConfig, I2pConfig, Known, RouterConfig, RouterPlace};
pub use local::State;
pub use names::{Answer, Question};
pub use status::{Counters, DestinationSnapshot, PeerSnapshot, Snapshot};
pub use tls::Trust;

use anode_i2cp::Now;
use anode_i2cp::streaming;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::overlay::{OverlayEvent, PathKind, StreamId, Via, ViaEndpoint};
use local::{Dialler, Local};
use names::Questions;
use table::{Origin, Table};
use tls::Tls;
use waiting::Waiting;

/// The synthetic addresses of I2P destinations (DESIGN §4).
pub const PREFIX: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfda1, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether an address is of [`PREFIX`].
pub fn is_i2p(ip: Ipv6Addr) -> bool {
    ip.segments()[0] == 0xfda1
}

/// Why the overlay cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum I2pError {
    /// Options or keys that a session cannot begin with.
    #[error("{0}")]
    Session(#[from] anode_i2cp::Error),
    /// TLS cannot be had.
    #[error("TLS to the I2P router: {0}")]
    Tls(#[from] rustls::Error),
    /// The machine refuses.
    #[error("the I2P overlay: {0}")]
    Io(#[from] std::io::Error),
}

/// A stream of a program or a peer.
#[derive(Debug)]
struct Stream {
    local: usize,
    peer: Hash,
    ports: (u16, u16),
    /// `None`: it waits for a session or a lookup.
    inner: Option<streaming::StreamId>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A program's, and the peer has not answered.
    Opening,
    /// A peer's; the program's port that it came from, which is taken while it lives.
    Incoming(u16),
    Open(Option<u16>),
}

impl Stage {
    /// The port under which a peer's stream appears here.
    fn shown_port(self) -> Option<u16> {
        match self {
            Self::Opening => None,
            Self::Incoming(port) => Some(port),
            Self::Open(port) => port,
        }
    }
}

/// A ping that is under way.
#[derive(Debug)]
struct Echo {
    token: u64,
    payload: Vec<u8>,
}

/// A datagram whose fate the router tells: where it was for, by the nonce that it carried.
#[derive(Debug, Default)]
struct Nonces {
    to: HashMap<u32, Ipv6Addr>,
    order: VecDeque<u32>,
    /// Fates that came too late, or never.
    forgotten: u64,
}

/// Fates that are waited for.
const MOST_NONCES: usize = 1024;

impl Nonces {
    fn add(&mut self, nonce: u32, to: Ipv6Addr) {
        if self.order.len() >= MOST_NONCES
            && let Some(oldest) = self.order.pop_front()
        {
            self.forgotten += u64::from(self.to.remove(&oldest).is_some());
        }
        self.to.insert(nonce, to);
        self.order.push_back(nonce);
    }
}

/// The I2P overlay of this machine.
pub struct I2pOverlay {
    dialler: Dialler,
    locals: Vec<Local>,
    table: Table,
    waiting: Waiting,
    questions: Questions,
    streams: HashMap<StreamId, Stream>,
    by_inner: HashMap<(usize, streaming::StreamId), StreamId>,
    next_stream: u64,
    /// (peer, port shown, our address, our port) of streams that peers opened.
    shown: HashSet<(Ipv6Addr, u16, Ipv6Addr, u16)>,
    next_port: u16,
    echoes: HashMap<(usize, streaming::PingId), Echo>,
    nonces: Nonces,
    random: StdRng,
    events: VecDeque<OverlayEvent>,
    /// When something was last left for the next turn of the loop.
    again: Option<Instant>,
    counters: Counters,
    ready: Vec<usize>,
}

/// Both clocks; the wall clock is for dates in messages, and may jump.
fn clock(now: Instant) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        instant: now,
        unix_ms: unix.map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX)),
    }
}

impl I2pOverlay {
    /// Starts to connect every destination. `seed` must be random.
    ///
    /// # Errors
    /// See [`I2pError`]. A router that does not answer is none: the connections are tried again.
    pub fn new(config: I2pConfig, seed: [u8; 32], now: Instant) -> Result<Self, I2pError> {
        let mut random = StdRng::from_seed(seed);
        let tls = config.router.tls.clone().map(Tls::new).transpose()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(std::io::Error::from)?;
        let dialler = Dialler {
            router: config.router,
            tls,
            epoll,
        };
        let mut locals = Vec::new();
        for destination in config.destinations {
            let mut seed = [0; 32];
            random.fill_bytes(&mut seed);
            locals.push(Local::new(destination, &dialler, seed, clock(now))?);
        }
        let mut overlay = Self {
            dialler,
            locals,
            table: Table::default(),
            waiting: Waiting::default(),
            questions: Questions::default(),
            streams: HashMap::new(),
            by_inner: HashMap::new(),
            next_stream: 0,
            shown: HashSet::new(),
            next_port: 0,
            echoes: HashMap::new(),
            nonces: Nonces::default(),
            random,
            events: VecDeque::new(),
            again: None,
            counters: Counters::default(),
            ready: Vec::new(),
        };
        overlay.import(now, &config.known);
        overlay.keep(now, &config.kept);
        overlay.take_changed();
        overlay.dial(clock(now));
        Ok(overlay)
    }

    fn import(&mut self, now: Instant, known: &[Known]) {
        // the last of the list is the first to be forgotten
        for one in known.iter().take(table::MOST).rev() {
            if let Ok(address) = self.table.learn(one.hash, None, Origin::Asked, now)
                && let Some(name) = &one.name
            {
                self.table.name(address, name);
            }
        }
    }

    /// These are never forgotten, and nobody else takes their addresses: rules and trust rest on them.
    pub fn keep(&mut self, now: Instant, hashes: &[Hash]) {
        for hash in hashes {
            // who was first stays; what it may do, the log has told
            let _ = self.table.learn(*hash, None, Origin::Kept, now);
        }
    }

    /// A program may send to this destination from now on; its address.
    pub fn learn(&mut self, now: Instant, hash: Hash) -> Option<Ipv6Addr> {
        self.table.learn(hash, None, Origin::Asked, now).ok()
    }

    /// Whose address this is, and the name that led to it.
    pub fn known(&self, address: Ipv6Addr) -> Option<Known> {
        if let Some(local) = self.locals.iter().find(|local| local.address == address) {
            return Some(Known {
                hash: local.hash,
                name: None,
            });
        }
        let entry = self.table.get(address)?;
        Some(Known {
            hash: entry.hash,
            name: entry.name.clone(),
        })
    }

    /// What is known, to be written down. Whether that is worth it, [`Self::take_changed`] says.
    pub fn export(&self) -> Vec<Known> {
        self.table.export()
    }

    /// True once after what [`Self::export`] gives has changed.
    pub fn take_changed(&mut self) -> bool {
        self.table.take_changed()
    }

    /// Whether it has.
    pub fn has_changed(&self) -> bool {
        self.table.has_changed()
    }

    /// Asks the router for a destination; the answer comes by [`Self::poll_answer`] with this token.
    pub fn ask(&mut self, now: Instant, question: &Question, token: u64) {
        let known = match question {
            Question::Name(name) if self.questions.is_confirmed(name, now) => self
                .table
                .by_name(name)
                .and_then(|entry| entry.destination.clone()),
            // whether somebody is there now, only the router can say
            Question::Name(_) | Question::Hash(_) => None,
        };
        if let Some(destination) = known {
            return self.questions.answer(token, &destination);
        }
        if !self.questions.add(question, token, now) {
            self.put_questions(clock(now));
        }
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.questions.poll()
    }

    /// Ends every session in order, as far as that needs no waiting: the router frees its tunnels at once.
    pub fn close(&mut self, now: Instant) {
        let now = clock(now);
        for (index, local) in self.locals.iter_mut().enumerate() {
            local.endpoint.client().close(now);
            // whoever ends has nobody to tell of an error
            let _ = local.transmit(&self.dialler, index, now);
        }
    }

    fn via(&self) -> Via {
        Via {
            kind: PathKind::I2p,
            endpoint: ViaEndpoint::Text(format!("i2p://{}", self.dialler.router.place)),
            hops: 0,
        }
    }
}

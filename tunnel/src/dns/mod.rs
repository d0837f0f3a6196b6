//! Names for every program: a DNS responder for `.anode` and the reverse names of overlay addresses, on a loopback address.
//!
//! ```text
//!  programs ─ C library ─ systemd-resolved or resolv.conf
//!                │                        ▲
//!                │ UDP, TCP               │ D-Bus: "ask this server for .anode"
//!  ┌─────────────▼──────┐            ┌────┴─────┐
//!  │ server             │            │ resolved │
//!  │ sockets and bounds │            └──────────┘
//!  └─────────────┬──────┘
//!         bytes  │  message: one question in, one answer out; zone: what a name means. No IO
//!  ┌─────────────▼──────┐   box.anode                   trust book, [names], own name
//!  │ Names              ├── <32>.<32>.anode             the address itself
//!  │                    ├── host.example.com.anode ──▶  real: cache ─ stub: TXT through the system's servers
//!  └─────────────┬──────┘
//!                ▼ Command::AddPeer: what was resolved is known before its first packet comes
//!           data thread
//! ```
//!
//! Everything here runs on the control thread. It answers for its own zones only, to this machine only; whatever fails is
//! a warning, and resolv.conf is never written.

pub mod counters;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
mod i2p;
pub(crate) mod message;
pub mod real;
pub mod resolved;
pub mod responder;
pub mod server;
pub mod stub;
pub mod zone;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anode_routing::i2p::Hash;
use anode_wire::address::split_digit;
use anode_wire::{Address, PeerId};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::oneshot;

use crate::command::{Command, DataHandle, Target};
use crate::names::{Given, Named};
use crate::state::book::Book;
use crate::value::{PeerName, ValueError};
use counters::Counters;
use host::HostName;
use message::{Outcome, Question};
use real::Real;
use stub::Answer;
use zone::{Meaning, Zone, address_name, meaning};

/// Where the responder listens unless it is told otherwise: a loopback address that nothing else uses, and the port that
/// resolv.conf knows alone.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 8, 7, 37)), 53);

/// How long programs may remember a name of the trust book: it may be given to another peer.
const NAME_TTL: Duration = Duration::from_secs(30);

/// How long they may remember an address: it stays what it is.
const ADDRESS_TTL: Duration = Duration::from_secs(3600);

/// Addresses whose full form is remembered, for reverse names and to tell the data thread of each but now and then.
const MAX_TOLD: usize = 1024;

/// The data thread may have forgotten a peer by then.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// All that this machine knows of names.
pub struct Names {
    /// Whom this machine trusts, with names.
    pub book: Arc<Mutex<Book>>,
    /// Names that it gives besides.
    pub given: Given,
    /// Real names.
    pub real: Real,
    /// What was done and dropped.
    pub counters: Arc<Counters>,
    /// Where names are asked for.
    pub state: State,
    data: DataHandle,
    i2p: bool,
    told: Mutex<HashMap<Ipv6Addr, (Address, Instant)>>,
    told_destinations: Mutex<HashMap<Hash, Instant>>,
    hook: Mutex<Hook>,
}

/// What has to be asked before a question can be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Later {
    /// The TXT record of a real host.
    Host(HostName),
    /// The I2P router: who has this name.
    I2p(Zone, String),
    /// The I2P overlay: whose address this is.
    I2pReverse(Ipv6Addr),
}

/// The responder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// `[dns] enabled = false`, or no interface.
    Off,
    /// It could not be had, for this reason.
    Failed(String),
    /// It answers here.
    Listening(SocketAddr),
}

/// Whether the system asks the responder by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Hook {
    /// Not known yet.
    #[default]
    Pending,
    /// systemd-resolved does.
    Resolved,
    /// resolv.conf names it.
    ByHand,
    /// Not, for this reason: people have to tell it.
    None(String),
}

impl State {
    /// Where it answers.
    pub fn listen(&self) -> Option<SocketAddr> {
        match self {
            Self::Listening(listen) => Some(*listen),
            Self::Off | Self::Failed(_) => None,
        }
    }
}

/// The line that makes a system without systemd-resolved ask `listen`.
pub fn by_hand(listen: SocketAddr) -> String {
    match listen.port() {
        53 => format!("put `nameserver {}` first in /etc/resolv.conf", listen.ip()),
        port => format!(
            "make the system's DNS server ask {}, port {port}, for `anode` (dnsmasq: server=/anode/{}#{port})",
            listen.ip(),
            listen.ip()
        ),
    }
}

impl Names {
    /// Names of `book` and `given`; real ones by `servers`, or the system's when that is empty.
    pub fn new(
        book: Arc<Mutex<Book>>,
        given: Given,
        servers: Vec<SocketAddr>,
        state: State,
        data: DataHandle,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            book,
            given,
            real: Real::new(servers, state.listen(), Arc::clone(&counters)),
            counters,
            state,
            data,
            i2p: false,
            told: Mutex::default(),
            told_destinations: Mutex::default(),
            hook: Mutex::default(),
        }
    }

    /// Whether the system asks by itself.
    pub fn hook(&self) -> Hook {
        self.hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_hook(&self, hook: Hook) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// No code that holds the book can panic halfway, so a poisoned one is as good as any.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told_destinations(&self) -> MutexGuard<'_, HashMap<Hash, Instant>> {
        self.told_destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The zones that are answered for.
    pub fn zones(&self) -> impl Iterator<Item = Zone> {
        let i2p = self.i2p;
        Zone::ALL
            .into_iter()
            .filter(move |zone| i2p || !zone.is_i2p())
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Ipv6Addr, (Address, Instant)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom somebody means.
    pub async fn resolve(&self, named: &Named) -> Result<Target, ValueError> {
        let host = match named {
            Named::Host(host) => host,
            Named::I2p(name) => return self.resolve_i2p(name).await,
            Named::Target(_) | Named::Name(_) => {
                return named.resolve(&self.book(), &self.given);
            }
        };
        let address = first_address(host, self.real.lookup(host).await)?;
        self.tell(address);
        Ok(Target::Address(address))
    }

    /// What this machine calls an address: by the trust book, by the configuration, by the TXT record that it came from.
    pub fn name_of(&self, address: &Address) -> Option<String> {
        let name = self
            .given
            .name_of(&self.book(), |other| other == address)
            .map(|name| name.to_string());
        name.or_else(|| {
            let host = self.real.host_of(address.ipv6(PeerId::ANY))?;
            Some(format!("{host}.anode"))
        })
    }

    /// Answers, or says what has to be asked first.
    pub(crate) fn answer(&self, question: &Question, tcp: bool) -> Result<Vec<u8>, Later> {
        let known = meaning(question.name()).filter(|(zone, _)| self.i2p || !zone.is_i2p());
        let Some((zone, meaning)) = known else {
            self.counters.refused.add();
            return Ok(question.answer(None, Outcome::Code(ResponseCode::Refused), tcp));
        };
        let outcome = match meaning {
            Meaning::Apex => Outcome::Apex,
            Meaning::Between => Outcome::Empty,
            Meaning::Address(address) => self.addresses(question, &[*address], ADDRESS_TTL),
            Meaning::Name(name) => match self.find(&name) {
                Some(address) => self.addresses(question, &[address], NAME_TTL),
                // The first half of an address: names are below it (RFC 8020).
                None if zone::is_half(name.as_str().as_bytes()) => Outcome::Empty,
                None => Outcome::Nobody,
            },
            // `www.box.anode` is below a peer's name, and no business of the servers outside.
            Meaning::Host(host) if self.is_peer(host.top()) => Outcome::Nobody,
            Meaning::Host(host) => return Err(Later::Host(host)),
            Meaning::Destination(hash) => self.destination(question, hash),
            Meaning::I2pName(name) => match self.named_destination(&name) {
                Some(hash) => self.destination(question, hash),
                None => return Err(Later::I2p(zone, name)),
            },
            Meaning::Reverse(ip) if zone == Zone::ReverseI2p && self.i2p => {
                return Err(Later::I2pReverse(ip));
            }
            Meaning::Reverse(ip) => match self.reverse(ip) {
                Some(name) if question.wants(RecordType::PTR) => Outcome::Pointer(name),
                Some(_) => Outcome::Empty,
                None => Outcome::Nobody,
            },
            Meaning::Nothing => Outcome::Nobody,
        };
        Ok(self.finish(question, zone, outcome, tcp))
    }

    /// Answers a question for which somebody has to be asked.
    pub(crate) async fn answer_later(
        &self,
        question: &Question,
        later: &Later,
        tcp: bool,
    ) -> Vec<u8> {
        let (zone, outcome) = match later {
            Later::Host(host) => (Zone::Anode, self.answer_host(question, host).await),
            Later::I2p(zone, name) => (*zone, self.answer_i2p_name(question, name).await),
            Later::I2pReverse(ip) => {
                let outcome = self.answer_i2p_reverse(question, *ip).await;
                (Zone::ReverseI2p, outcome)
            }
        };
        self.finish(question, zone, outcome, tcp)
    }

    async fn answer_host(&self, question: &Question, host: &HostName) -> Outcome {
        match self.real.lookup(host).await {
            Ok(Answer::Found(addresses, ttl)) => {
                self.addresses(question, &addresses, Duration::from_secs(ttl.into()))
            }
            Ok(Answer::Empty(_)) => Outcome::Empty,
            Ok(Answer::Nobody(_)) => Outcome::Nobody,
            Err(_) => Outcome::Code(ResponseCode::ServFail),
        }
    }

    fn finish(&self, question: &Question, zone: Zone, outcome: Outcome, tcp: bool) -> Vec<u8> {
        let count = match &outcome {
            Outcome::Addresses(..) | Outcome::Pointer(_) | Outcome::Apex => &self.counters.found,
            Outcome::Empty => &self.counters.empty,
            Outcome::Nobody => &self.counters.nobody,
            Outcome::Code(_) => &self.counters.failed,
        };
        count.add();
        let zone = (!matches!(outcome, Outcome::Code(_))).then_some(zone);
        question.answer(zone, outcome, tcp)
    }

    /// The addresses at a name, made known to the node; a question for anything else finds that the name exists.
    fn addresses(&self, question: &Question, addresses: &[Address], ttl: Duration) -> Outcome {
        if !question.wants(RecordType::AAAA) {
            return Outcome::Empty;
        }
        for address in addresses {
            self.tell(*address);
        }
        let ips = addresses.iter().map(|address| address.ipv6(PeerId::ANY));
        Outcome::Addresses(ips.collect(), ttl)
    }

    fn find(&self, name: &PeerName) -> Option<Address> {
        self.given.find(&self.book(), name)
    }

    fn is_peer(&self, label: &str) -> bool {
        label
            .parse::<PeerName>()
            .is_ok_and(|name| self.find(&name).is_some())
    }

    /// The name of an overlay address; of one without a name, the address as a name, where its full form is known.
    fn reverse(&self, ip: Ipv6Addr) -> Option<String> {
        let base = split_digit(ip).0;
        let is_there = |address: &Address| address.ipv6(PeerId::ANY) == base;
        if let Some(name) = self.given.name_of(&self.book(), is_there) {
            return Some(format!("{name}.anode"));
        }
        if let Some(host) = self.real.host_of(base) {
            return Some(format!("{host}.anode"));
        }
        let told = self.told().get(&base).map(|(address, _)| *address);
        let known = told.or_else(|| {
            let book = self.book();
            let mut entries = book.entries().iter();
            entries
                .find(|entry| is_there(&entry.address))
                .map(|entry| entry.address)
        });
        known.map(|address| address_name(&address))
    }

    /// Makes an address known to the node, so that the first packet to it needs nobody who knows its key.
    fn tell(&self, address: Address) {
        let ip = address.ipv6(PeerId::ANY);
        if self.given.is_own(&address) {
            return;
        }
        let now = Instant::now();
        let mut told = self.told();
        if told
            .get(&ip)
            .is_some_and(|(known, at)| *known == address && now < *at + TELL_AGAIN)
        {
            return;
        }
        // Nobody waits for the answer: the command is in the queue before the program can send its first packet.
        let (reply, _) = oneshot::channel();
        let command = Command::AddPeer {
            address,
            places: Vec::new(),
            pinned: false,
            reply,
        };
        if self.data.send(command).is_err() {
            self.counters.untold.add();
            return;
        }
        self.counters.told.add();
        if told.len() >= MAX_TOLD && !told.contains_key(&ip) {
            let oldest = told.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(ip) = oldest.map(|(ip, _)| *ip) {
                told.remove(&ip);
            }
        }
        told.insert(ip, (address, now));
    }
}

/// The first address of a real host, or what people should know when there is none.
pub fn first_address(host: &HostName, outcome: real::Outcome) -> Result<Address, ValueError> {
    let nothing = |what: &str| {
        Err(ValueError::new(format!(
            "{host} {what}: its owner has to add the TXT record `anode:ADDRESS`"
        )))
    };
    match outcome {
        Ok(Answer::Found(addresses, _)) => match addresses.first() {
            Some(address) => Ok(*address),
            None => nothing("names no Anode address"),
        },
        Ok(Answer::Empty(_)) => nothing("names no Anode address"),
        Ok(Answer::Nobody(_)) => nothing("does not exist in the DNS"),
        Err(error) => Err(ValueError::new(format!("{host}: {error}"))),
    }
}

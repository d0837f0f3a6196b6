//! The server: one state machine a shard, see the crate's page for how it is driven.
//!
//! ```text
//!   handle_client ─┬─ ChannelData, Send ──▶ data ──▶ ToPeer (a range of the caller's bytes)
//!                  └─ requests ─▶ auth ─▶ allocate · peers · connections ──▶ Command
//!   handle_relayed ─────────────────────▶ data ──▶ ToClient (a header, and the caller's bytes behind it)
//!   handle_timeout ─▶ timers: relays, connections, reservations, drain
//! ```
//!
//! Where state lives, and who may touch it:
//!
//! | state | owner | on the way of a packet |
//! |---|---|---|
//! | clients, allocations, permissions, channels, relays, connections, timers, counters | [`Server`], by `&mut` of its one thread | read, and two counters |
//! | rates of the server and of a user | [`Shared`], one atomic number each | one compare-and-swap each, where a rate is limited |
//! | users' counts, reserved ports | [`Shared`], behind a lock each | never: when an allocation or a reservation comes or goes |
//!
//! So nothing that is relayed waits for another thread, and nothing is allocated for it: `tests/relay_allocations.rs`
//! counts, and `tests/relaying.rs` relays while another thread holds both locks.

mod allocate;
mod auth;
pub mod config;
mod connections;
mod data;
mod hash;
pub mod hello;
mod interface;
mod peers;
mod request;
mod shared;
mod table;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slab::Slab;

pub use config::{Authority, Config, Keys, Quota, RelayAddress, Users};
pub use data::{ToClient, ToPeer};
pub use interface::{Command, ConnectionId, Counters, FiveTuple, IcmpError, OpenError, RelayId};
pub use shared::Shared;

use crate::TurnError;
use crate::frame::channel_data;
use crate::stun::nonce::Nonces;
use crate::stun::{Class, Message, TransactionId, Writer, attr, method};
use auth::{Signer, Sources, allowance};
use connections::Connection;
use hash::Seed;
use table::{Allocation, Relay};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Relay(RelayId),
    Connection(ConnectionId),
    Reservation { token: u64, address: SocketAddr },
    Drain,
}

impl Timer {
    /// Moves it from where it stands, if anywhere, to `at`, or takes it off.
    fn set(
        self,
        timers: &mut BTreeSet<(Instant, Self)>,
        stands: &mut Option<Instant>,
        at: Option<Instant>,
    ) {
        if let Some(old) = std::mem::replace(stands, at) {
            timers.remove(&(old, self));
        }
        timers.extend(at.map(|at| (at, self)));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { until: Instant },
}

/// One shard of a server. It keeps nothing about a client without an allocation.
pub struct Server {
    config: Config,
    shared: Arc<Shared>,
    phase: Phase,
    random: StdRng,
    nonces: Nonces,
    sources: Sources,
    /// Unix time in seconds less the shared epoch's age, for time-limited credentials.
    unix_at_epoch: i64,
    clients: HashMap<FiveTuple, usize, Seed>,
    allocations: Slab<Allocation>,
    relays: Slab<Relay>,
    /// Local addresses of relays and of reserved ports of this shard.
    bound: HashMap<SocketAddr, (), Seed>,
    connections: HashMap<ConnectionId, Connection, Seed>,
    data_clients: HashMap<FiveTuple, ConnectionId, Seed>,
    timers: BTreeSet<(Instant, Timer)>,
    commands: VecDeque<Command>,
    counters: Counters,
    generation: u32,
    seed: Seed,
    turn: usize,
    relay_ips: Vec<std::net::IpAddr>,
}

impl Server {
    /// A shard. `seed` must be 32 random bytes; the shards of one server have the same `shared`, and for nonces that
    /// any of them takes, the same `nonce_secret`.
    ///
    /// # Errors
    /// What [`Config::check`] finds.
    pub fn new(
        config: Config,
        shared: Arc<Shared>,
        seed: [u8; 32],
        nonce_secret: [u8; 32],
    ) -> Result<Self, TurnError> {
        config.check()?;
        let config = config.settled();
        shared.set_rates(&config.quota);
        let mut random = StdRng::from_seed(seed);
        let seed = Seed::new([random.next_u64(), random.next_u64()]);
        Ok(Self {
            relay_ips: relay_ips(&config),
            nonces: Nonces::new(nonce_secret),
            sources: Sources::new(
                Seed::new([random.next_u64(), random.next_u64()]),
                config.bounds.refusals_per_source,
            ),
            config,
            shared,
            phase: Phase::Serving,
            random,
            unix_at_epoch: 0,
            clients: HashMap::with_hasher(seed),
            allocations: Slab::new(),
            relays: Slab::new(),
            bound: HashMap::with_hasher(seed),
            connections: HashMap::with_hasher(seed),
            data_clients: HashMap::with_hasher(seed),
            timers: BTreeSet::new(),
            commands: VecDeque::new(),
            counters: Counters::default(),
            generation: 0,
            seed,
            turn: 0,
        })
    }

    /// Tells the time of the day, in seconds since 1970: at the start and now and then, because clocks are set.
    /// Without it no time-limited credentials are taken.
    pub fn set_unix_time(&mut self, now: Instant, unix: u64) {
        self.unix_at_epoch = unix as i64 - self.age(now).as_secs() as i64;
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.shared.epoch)
    }

    /// Takes what a client sent: one datagram, or one message of a stream as [`crate::frame::Deframer`] cuts it.
    /// Gives what goes to a peer, if it was payload.
    pub fn handle_client(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        bytes: &[u8],
    ) -> Option<ToPeer> {
        if bytes.first().is_some_and(|b| b >> 6 == 1) {
            let Some((channel, payload)) = channel_data(bytes) else {
                self.counters.dropped_malformed += 1;
                return None;
            };
            return self.relay_channel(now, from, channel, payload);
        }
        let Ok(message) = Message::parse(bytes) else {
            if !self.classic_binding(from, bytes) {
                self.counters.dropped_malformed += 1;
            }
            return None;
        };
        match (message.class(), message.method()) {
            (Class::Indication, method::SEND) => return self.relay_send(now, from, &message),
            (Class::Request, method::BINDING) => self.binding(from, &message),
            (Class::Request, _) => self.request(now, from, &message),
            // Keep-alives (RFC 8489 §7.3.2) want nothing; answers and other indications are not for a server.
            (Class::Indication, method::BINDING) => {}
            _ => self.counters.dropped_malformed += 1,
        }
        None
    }

    /// Binding needs no credentials (RFC 8489 §7.3.1).
    fn binding(&mut self, from: &FiveTuple, message: &Message<'_>) {
        const KNOWN: &[u16] = &[
            attr::USERNAME,
            attr::MESSAGE_INTEGRITY,
            attr::REALM,
            attr::NONCE,
        ];
        let unknown = message.unknown(KNOWN);
        let writer = if unknown.is_empty() {
            self.counters.successes += 1;
            Writer::success(message).xor_address(attr::XOR_MAPPED_ADDRESS, from.client)
        } else {
            self.counters.other_errors += 1;
            unknown_attributes(message, &unknown)
        };
        let bytes = self.finish(writer, message, None);
        self.send_unverified(from, message.bytes().len(), bytes);
    }

    /// A Binding request of RFC 3489, which knew no cookie: all 16 bytes are the transaction id, and the address goes
    /// back in the clear.
    fn classic_binding(&mut self, from: &FiveTuple, bytes: &[u8]) -> bool {
        let Some(header) = bytes.first_chunk::<20>() else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[..2] != [0, 1] || 20 + length != bytes.len() || crate::stun::is_stun(bytes) {
            return false;
        }
        let mut id = [0; 12];
        id.copy_from_slice(&header[8..]);
        let address = stun_types::attribute::MappedSocketAddr::new(from.client);
        let value = address.to_raw(stun_types::attribute::AttributeType::new(
            attr::MAPPED_ADDRESS,
        ));
        let mut answer = Writer::new(Class::Success, method::BINDING, id)
            .typed(&value)
            .finish();
        answer[4..8].copy_from_slice(&header[4..8]);
        self.counters.successes += 1;
        self.send_unverified(from, bytes.len(), answer);
        true
    }

    fn request(&mut self, now: Instant, from: &FiveTuple, message: &Message<'_>) {
        if !matches!(
            message.method(),
            method::ALLOCATE
                | method::REFRESH
                | method::CREATE_PERMISSION
                | method::CHANNEL_BIND
                | method::CONNECT
                | method::CONNECTION_BIND
        ) {
            return self.refuse(from, message, 400, None);
        }
        let caller = match self.authenticate(now, from, message) {
            Ok(caller) => caller,
            Err(code) => return self.challenge(now, from, message, code),
        };
        let unknown = message.unknown(self.known(message.method()));
        if !unknown.is_empty() {
            self.counters.other_errors += 1;
            let writer = unknown_attributes(message, &unknown);
            let bytes = self.finish(writer, message, Some(&caller.signer));
            return self.commands.push_back(Command::Send { to: *from, bytes });
        }
        let result = match message.method() {
            method::ALLOCATE => self.allocate(now, from, message, &caller),
            method::REFRESH => self.refresh(now, from, message, &caller),
            method::CREATE_PERMISSION => self.create_permission(now, from, message, &caller),
            method::CHANNEL_BIND => self.channel_bind(now, from, message, &caller),
            method::CONNECT => self.connect(now, from, message, &caller),
            _ => self.connection_bind(from, message, &caller),
        };
        match result {
            Ok(Some(writer)) => self.succeed(from, message, writer, &caller.signer),
            Ok(None) => {}
            Err(code) => self.refuse(from, message, code, Some(&caller.signer)),
        }
    }

    /// The attributes below 0x8000 that a request may carry.
    fn known(&self, method: u16) -> &'static [u16] {
        const WITH_DF: &[u16] = &[
            attr::USERNAME,
            attr::USERHASH,
            attr::REALM,
            attr::NONCE,
            attr::PASSWORD_ALGORITHM,
            attr::LIFETIME,
            attr::REQUESTED_ADDRESS_FAMILY,
            attr::EVEN_PORT,
            attr::REQUESTED_TRANSPORT,
            attr::RESERVATION_TOKEN,
            attr::XOR_PEER_ADDRESS,
            attr::CHANNEL_NUMBER,
            attr::CONNECTION_ID,
            attr::DATA,
            attr::DONT_FRAGMENT,
        ];
        let without_df = &WITH_DF[..WITH_DF.len() - 1];
        if method == method::ALLOCATE && self.config.dont_fragment {
            WITH_DF
        } else {
            without_df
        }
    }

    fn succeed(
        &mut self,
        from: &FiveTuple,
        message: &Message<'_>,
        writer: Writer,
        signer: &Signer,
    ) {
        self.counters.successes += 1;
        let bytes = self.finish(writer, message, Some(signer));
        self.commands.push_back(Command::Send { to: *from, bytes });
    }

    fn refuse(
        &mut self,
        from: &FiveTuple,
        message: &Message<'_>,
        code: u16,
        signer: Option<&Signer>,
    ) {
        self.count_error(code);
        let mut writer = Writer::error(message.method(), message.transaction(), code);
        if code == 300 {
            writer = self.add_alternate(writer, from);
        }
        let bytes = self.finish(writer, message, signer);
        match signer {
            Some(_) => self.commands.push_back(Command::Send { to: *from, bytes }),
            None => self.send_unverified(from, message.bytes().len(), bytes),
        }
    }

    fn count_error(&mut self, code: u16) {
        let counters = &mut self.counters;
        *match code {
            300 => &mut counters.redirected,
            400 => &mut counters.bad_requests,
            401 => &mut counters.unauthorized,
            403 => &mut counters.forbidden,
            438 => &mut counters.stale_nonces,
            486 => &mut counters.quota_reached,
            508 => &mut counters.no_capacity,
            _ => &mut counters.other_errors,
        } += 1;
    }

    fn finish(
        &self,
        mut writer: Writer,
        request: &Message<'_>,
        signer: Option<&Signer>,
    ) -> Vec<u8> {
        if !self.config.software.is_empty() {
            writer = writer.raw(attr::SOFTWARE, self.config.software.as_bytes());
        }
        if let Some(signer) = signer {
            writer = writer.sign(&signer.key, signer.mac);
        }
        if request.has_fingerprint() {
            writer.fingerprint()
        } else {
            writer
        }
        .finish()
    }

    /// Sends to somebody who has not proven anything.
    fn send_unverified(&mut self, to: &FiveTuple, request: usize, bytes: Vec<u8>) {
        if bytes.len() > allowance(to, request) {
            self.counters.dropped_amplification += 1;
            return;
        }
        self.commands.push_back(Command::Send { to: *to, bytes });
    }

    /// The next thing to do. Ask after every batch of input until there is none.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether [`Server::poll_command`] has something.
    #[must_use]
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// When [`Server::handle_timeout`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Relay(relay) => self.close_relay(relay),
                Timer::Connection(connection) => self.connection_timeout(connection),
                Timer::Reservation { token, address } => self.reservation_timeout(token, address),
                Timer::Drain => self.end_all(),
            }
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Allocations of this shard.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Takes a new configuration. Allocations stay; permissions and channels that the new policy refuses go.
    ///
    /// # Errors
    /// What [`Config::check`] finds; then the old one stays.
    pub fn reload(&mut self, config: Config) -> Result<(), TurnError> {
        config.check()?;
        let config = config.settled();
        self.shared.set_rates(&config.quota);
        self.sources.set_rate(config.bounds.refusals_per_source);
        self.relay_ips = relay_ips(&config);
        self.config = config;
        let (config, relays) = (&self.config, &self.relay_ips);
        for (_, allocation) in &mut self.allocations {
            allocation.rate.set_kbps(config.quota.kbps_per_allocation);
            allocation.hold_to(&config.policy, relays, &config.ports);
        }
        Ok(())
    }

    /// Takes no new allocations from now on and ends the others when the drain time is over; clients are sent to the
    /// alternate server where one is given.
    pub fn drain(&mut self, now: Instant) {
        if self.phase == Phase::Serving {
            let until = now + self.config.drain;
            self.phase = Phase::Draining { until };
            self.timers.insert((until, Timer::Drain));
        }
    }

    /// Whether a draining server has nothing left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.phase != Phase::Serving && self.allocations.is_empty()
    }

    fn end_all(&mut self) {
        let all: Vec<RelayId> = self.relays.iter().map(|(index, r)| r.id(index)).collect();
        for relay in all {
            self.close_relay(relay);
        }
    }

    /// Whether this client holds an allocation, or a connection to a peer: one that holds neither costs nothing to lose.
    #[must_use]
    pub fn is_known(&self, client: &FiveTuple) -> bool {
        self.clients.contains_key(client) || self.data_clients.contains_key(client)
    }

    /// A client's stream has ended, or its DTLS session.
    pub fn client_closed(&mut self, client: &FiveTuple) {
        if let Some(connection) = self.data_clients.get(client).copied() {
            self.drop_connection(connection, true);
        }
        if let Some(index) = self.clients.get(client).copied() {
            self.remove_allocation(index);
        }
    }
}

fn relay_ips(config: &Config) -> Vec<std::net::IpAddr> {
    config
        .relays
        .iter()
        .flat_map(|r| [r.local, r.external])
        .collect()
}

fn unknown_attributes(message: &Message<'_>, unknown: &[u16]) -> Writer {
    let value: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    Writer::error(message.method(), message.transaction(), 420)
        .raw(attr::UNKNOWN_ATTRIBUTES, &value)
}

fn new_transaction(random: &mut StdRng) -> TransactionId {
    let mut id = [0; 12];
    random.fill_bytes(&mut id);
    id
}

#[cfg(test)]
mod tests;

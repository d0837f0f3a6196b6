//! One connection to a router with one session on it: handshake, lease sets, sending, lookups (i2cp.md §2.4, §2.5).
use crate::codec::Mapping;
use crate::destination::Destination;
use crate::encrypted::{ENCRYPTED, Encryption};
use crate::error::{Error, Result};
use crate::keys::{LocalDestination, x25519_public};
use crate::lease_set::{LeaseSet, MOST_LEASES, STANDARD};
use crate::message::{
    self as wire, BandwidthLimits, Delivery, Frames, FromRouter, Lease, MessageStatus, Query,
    SessionId, SessionState,
};
use crate::options::{LeaseSetKind, SessionOptions};
use crate::time::Now;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Most bytes that wait for the socket before sending is refused.
const MOST_QUEUED: usize = 1024 * 1024;
/// What waits for the socket before streams make more: what lies here is old when it leaves, and delays what is urgent.
const ENOUGH_QUEUED: usize = 128 * 1024;
/// Most lookups that wait for an answer.
const MOST_LOOKUPS: usize = 256;
/// What a router is given for one lookup; less than 10 s is not allowed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(45);
/// After that a silent router has failed to answer a lookup.
const LOOKUP_GRACE: Duration = Duration::from_secs(5);
/// How long SetDate and SessionStatus may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first tunnels may take: at least five minutes.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(330);
/// i2pd publishes a lease set only if an outbound tunnel exists at that moment, and does not try again (i2cp.md
/// §2.11): the first one is sent once more after this.
const REPUBLISH_AFTER: Duration = Duration::from_secs(5);
/// How long a router may take to answer DestroySession.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// User and password for the router (I33).
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.user)
    }
}

/// Names one lookup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LookupId(u32);

/// Why a lookup found nothing (i2cp.md §2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LookupError {
    /// 1: unknown, or offline.
    #[error("not found")]
    NotFound,
    /// 2 to 4: an encrypted lease set needs more.
    #[error("its lease set is encrypted and needs a password or key")]
    NeedsSecret,
    /// 5
    #[error("its lease set could not be decrypted")]
    Decryption,
    /// 6
    #[error("its lease set was not found: it is offline")]
    Offline,
    /// 7
    #[error("the router cannot look this up")]
    Unsupported,
    /// Another code.
    #[error("failed with code {0}")]
    Other(u8),
    /// The router answered with another destination than the one whose hash was asked for.
    #[error("the router answered with a wrong destination")]
    Mismatch,
    /// No answer.
    #[error("the router did not answer")]
    TimedOut,
    /// The session ended before the answer.
    #[error("the session ended")]
    Closed,
}

/// Why the connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// We closed.
    #[error("closed")]
    Local,
    /// I46
    #[error("closed because it was idle")]
    Idle,
    /// The socket is gone.
    #[error("the connection to the router broke")]
    ConnectionLost,
    /// The router said so, in its words.
    #[error("the router closed the session: {0}")]
    Disconnected(String),
    /// The router takes no such user and password: trying again is of no use.
    #[error("the router refuses the user or password: {0}")]
    Unauthorised(String),
    /// SessionStatus 0.
    #[error("the router destroyed the session")]
    Destroyed,
    /// SessionStatus 3: bad signature, clock off, or the destination is in use on this router.
    #[error("the router calls the session invalid (is this destination in use already?)")]
    Invalid,
    /// SessionStatus 4.
    #[error("the router refused the session")]
    Refused,
    /// The handshake took too long.
    #[error("the router did not answer {0}")]
    TimedOut(&'static str),
    /// The router does not keep to the protocol.
    #[error("the router broke the protocol: {0}")]
    Protocol(Error),
}

impl CloseReason {
    /// Trying again without a change of the configuration is of no use.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unauthorised(_))
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Tunnels are up and the first lease set went out: send, look up, accept (I15).
    Ready,
    /// A gzip payload arrived.
    Payload(Vec<u8>),
    /// The fate of a message that was sent with this nonce.
    Status(u32, MessageStatus),
    /// A lookup has ended.
    Lookup(LookupId, std::result::Result<Found, LookupError>),
    /// The router's rates.
    BandwidthLimits(BandwidthLimits),
    /// The router took the changed options.
    Reconfigured,
    /// The connection is over. Nothing follows.
    Closed(CloseReason),
}

/// What a lookup found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// It hashes to what was asked for, if a hash was.
    pub destination: Destination,
    /// The options of its lease set, if they were asked for (I57).
    pub options: Mapping,
}

/// Counts since the connection began.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Messages from the router.
    pub received: u64,
    /// Payloads from the network.
    pub payloads: u64,
    /// Payloads to the network.
    pub sent: u64,
    /// Messages not sent because the socket does not keep up.
    pub queue_full: u64,
    /// Messages of types that mean nothing here.
    pub unknown: u64,
    /// Messages for another session than ours: dropped.
    pub foreign_session: u64,
    /// Messages that do not fit the state: dropped.
    pub misplaced: u64,
    /// Lease requests without a usable lease: not answered.
    pub bad_lease_requests: u64,
    /// Answers to lookups that are not (or no longer) open: dropped.
    pub unasked_replies: u64,
    /// Lease sets signed.
    pub lease_sets: u64,
}

/// What is known of a session for people to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Handshake.
    Connecting,
    /// The session exists, its tunnels do not yet.
    Building,
    /// Usable.
    Ready,
    /// Over, or about to be.
    Closed,
}

#[derive(Debug)]
enum State {
    /// GetDate is sent.
    Greeting {
        until: Instant,
    },
    /// CreateSession is sent.
    Creating {
        until: Instant,
    },
    /// The session exists; its tunnels do not.
    Building {
        session: SessionId,
        until: Instant,
    },
    Ready {
        session: SessionId,
    },
    /// DestroySession is sent.
    Closing {
        until: Instant,
        reason: CloseReason,
    },
    Closed,
}

/// How the tunnels of a session that may idle stand (I47).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tunnels {
    Full,
    Reduced,
}

#[derive(Debug)]
struct Lookup {
    query: Query,
    until: Instant,
}

/// One connection with one session. It sends when told, never by itself beyond what the protocol asks for.
#[derive(Debug)]
pub struct Client {
    keys: Arc<LocalDestination>,
    options: SessionOptions,
    encryption: ([u8; 32], Zeroizing<[u8; 32]>),
    state: State,
    frames: Frames,
    out: VecDeque<Zeroizing<Vec<u8>>>,
    queued: usize,
    events: VecDeque<Event>,
    /// Router's clock less ours, in milliseconds.
    clock_offset_ms: i64,
    router_version: String,
    lookups: HashMap<u32, Lookup>,
    next_lookup: u32,
    leases: Vec<Lease>,
    published_s: u32,
    republish: Option<Instant>,
    last_traffic: Instant,
    tunnels: Tunnels,
    /// What encrypts lease sets of type 5.
    random: rand::rngs::StdRng,
    counters: Counters,
}

impl Client {
    /// Begins on a fresh connection: the first bytes are ready in [`Self::poll_transmit`]. `seed` must be random.
    ///
    /// # Errors
    /// [`Error::TooLong`] when credentials exceed 255 bytes, [`Error::Key`] when the lease key of the options is none.
    pub fn new(
        keys: Arc<LocalDestination>,
        options: SessionOptions,
        credentials: Option<&Credentials>,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self> {
        let encryption = match &options.lease_private {
            Some(private) => (x25519_public(private)?, private.clone()),
            None => (*keys.lease_public(), Zeroizing::new(*keys.lease_private())),
        };
        let greeting = wire::get_date(credentials.map(|c| (&*c.user, &**c.password)))?;
        let mut client = Self {
            keys,
            options,
            encryption,
            state: State::Greeting {
                until: now.instant + HANDSHAKE_TIMEOUT,
            },
            frames: Frames::default(),
            out: VecDeque::new(),
            queued: 0,
            events: VecDeque::new(),
            clock_offset_ms: 0,
            router_version: String::new(),
            lookups: HashMap::new(),
            next_lookup: 1,
            leases: Vec::new(),
            published_s: 0,
            republish: None,
            last_traffic: now.instant,
            tunnels: Tunnels::Full,
            random: rand::SeedableRng::from_seed(seed),
            counters: Counters::default(),
        };
        client.push(Zeroizing::new(vec![wire::PROTOCOL]));
        client.push(greeting);
        Ok(client)
    }

    /// Takes bytes of the connection. Their number bounds the events they make; drain them before the next call.
    pub fn received(&mut self, bytes: &[u8], now: Now) {
        if matches!(self.state, State::Closed) {
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        frames.push(bytes);
        let result = self.read_frames(&mut frames, now);
        self.frames = frames;
        if let Err(error) = result {
            self.fail(CloseReason::Protocol(error), true);
        }
    }

    fn read_frames(&mut self, frames: &mut Frames, now: Now) -> Result<()> {
        while let Some((kind, body)) = frames.next()? {
            if matches!(self.state, State::Closed) {
                return Ok(());
            }
            self.counters.received += 1;
            let message = FromRouter::decode(kind, body)?;
            self.handle(message, now)?;
        }
        Ok(())
    }

    /// The connection ended without a word.
    pub fn connection_lost(&mut self) {
        let reason = match &self.state {
            State::Closing { reason, .. } => reason.clone(),
            _ => CloseReason::ConnectionLost,
        };
        self.fail(reason, false);
    }

    /// The next bytes for the connection. They can hold keys: they are wiped when dropped.
    pub fn poll_transmit(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = self.out.pop_front()?;
        self.queued -= bytes.len();
        Some(bytes)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Greeting { until }
            | State::Creating { until }
            | State::Building { until, .. }
            | State::Closing { until, .. } => Some(*until),
            State::Ready { .. } => self.idle_deadline(),
            State::Closed => return None,
        };
        let lookup = self.lookups.values().map(|lookup| lookup.until).min();
        [state, lookup, self.republish].into_iter().flatten().min()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let close = self.options.close_on_idle;
        let reduce = match self.tunnels {
            Tunnels::Full => self.options.reduce_on_idle.map(|reduce| reduce.after),
            Tunnels::Reduced => None,
        };
        let idle = [close, reduce].into_iter().flatten().min()?;
        Some(self.last_traffic + idle)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let due = |until: &Instant| *until <= now.instant;
        match &self.state {
            State::Greeting { until } if due(until) => {
                return self.fail(CloseReason::TimedOut("GetDate"), false);
            }
            State::Creating { until } if due(until) => {
                return self.fail(CloseReason::TimedOut("CreateSession"), true);
            }
            State::Building { until, .. } if due(until) => {
                return self.fail(CloseReason::TimedOut("with tunnels in time"), true);
            }
            State::Closing { until, reason } if due(until) => {
                let reason = reason.clone();
                return self.fail(reason, false);
            }
            _ => {}
        }
        let expired: Vec<u32> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| due(&lookup.until))
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.lookups.remove(&id);
            let event = Event::Lookup(LookupId(id), Err(LookupError::TimedOut));
            self.events.push_back(event);
        }
        if let State::Ready { session } = self.state {
            if self.republish.as_ref().is_some_and(due) {
                self.republish = None;
                self.publish(session, now);
            }
            self.idle(session, now);
        }
    }

    fn idle(&mut self, session: SessionId, now: Now) {
        let idle = now.instant.saturating_duration_since(self.last_traffic);
        if self
            .options
            .close_on_idle
            .is_some_and(|after| idle >= after)
        {
            return self.close_for(CloseReason::Idle, now);
        }
        if let Some(reduce) = self.options.reduce_on_idle
            && self.tunnels == Tunnels::Full
            && idle >= reduce.after
        {
            self.tunnels = Tunnels::Reduced;
            let options = SessionOptions::reduced_config(reduce.quantity);
            self.send_config(session, options, now);
        }
    }

    /// A message went in or out: the session is not idle, and gets its tunnels back (I47).
    fn traffic(&mut self, session: SessionId, now: Now) {
        self.last_traffic = now.instant;
        if self.tunnels == Tunnels::Reduced {
            self.tunnels = Tunnels::Full;
            self.send_config(session, self.options.restored_config(), now);
        }
    }

    fn send_config(&mut self, session: SessionId, options: Result<Mapping>, now: Now) {
        // these mappings are a few short pairs: they always fit
        if let Ok(options) = options {
            let date = self.router_ms(now);
            let message = wire::reconfigure_session(session, &self.keys, &options, date);
            self.push(Zeroizing::new(message));
        }
    }

    /// Milliseconds since 1970 by the router's clock.
    pub fn router_ms(&self, now: Now) -> u64 {
        now.unix_ms.saturating_add_signed(self.clock_offset_ms)
    }

    /// How far the session is.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Greeting { .. } | State::Creating { .. } => Phase::Connecting,
            State::Building { .. } => Phase::Building,
            State::Ready { .. } => Phase::Ready,
            State::Closing { .. } | State::Closed => Phase::Closed,
        }
    }

    /// What the router calls itself (i2pd 2.45.1 repeats our version).
    pub fn router_version(&self) -> &str {
        &self.router_version
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether streams should go on: the socket keeps up.
    pub fn has_room(&self) -> bool {
        matches!(self.state, State::Ready { .. }) && self.queued < ENOUGH_QUEUED
    }

    /// Sends a gzip payload. `ttl` is how long it is worth something.
    ///
    /// # Errors
    /// [`Error::NotReady`], [`Error::Full`] when the socket does not keep up, [`Error::TooLong`].
    pub fn send(
        &mut self,
        to: &Destination,
        payload: &[u8],
        nonce: u32,
        bundle: bool,
        ttl: Duration,
        now: Now,
    ) -> Result<()> {
        let State::Ready { session } = self.state else {
            return Err(Error::NotReady);
        };
        if self.queued >= MOST_QUEUED {
            self.counters.queue_full += 1;
            return Err(Error::Full("the queue to the router"));
        }
        // session, payload's length, nonce, flags, expiry
        let body = to.as_bytes().len() + payload.len() + 18;
        if body > wire::MAX_SENT_BODY {
            return Err(Error::TooLong {
                what: "an I2CP message",
                length: body,
                limit: wire::MAX_SENT_BODY,
            });
        }
        let expires_ms = self
            .router_ms(now)
            .saturating_add(ttl.as_millis().try_into().unwrap_or(u64::MAX));
        let how = Delivery {
            nonce,
            bundle,
            expires_ms,
        };
        self.traffic(session, now);
        self.counters.sent += 1;
        self.push(Zeroizing::new(wire::send_message_expires(
            session, to, payload, how,
        )));
        Ok(())
    }

    /// Looks a destination up; with its lease set's options if `with_options` (Java routers since 0.9.66 only).
    ///
    /// # Errors
    /// [`Error::NotReady`]: i2pd answers "not found" before it is. [`Error::Full`], [`Error::TooLong`].
    pub fn lookup(&mut self, query: Query, with_options: bool, now: Now) -> Result<LookupId> {
        let State::Ready { session } = self.state else {
            return Err(Error::NotReady);
        };
        if self.lookups.len() >= MOST_LOOKUPS || self.queued >= MOST_QUEUED {
            return Err(Error::Full("the table of lookups"));
        }
        if let Query::Name(name) = &query
            && name.len() > 255
        {
            return Err(Error::TooLong {
                what: "a name",
                length: name.len(),
                limit: 255,
            });
        }
        let id = self.next_lookup;
        self.next_lookup = self.next_lookup.wrapping_add(1);
        let timeout = LOOKUP_TIMEOUT.as_millis() as u32;
        let message = wire::host_lookup(session, id, timeout, &query, with_options);
        self.push(Zeroizing::new(message));
        let until = now.instant + LOOKUP_TIMEOUT + LOOKUP_GRACE;
        self.lookups.insert(id, Lookup { query, until });
        Ok(LookupId(id))
    }

    /// Asks for the router's rates.
    ///
    /// # Errors
    /// [`Error::NotReady`].
    pub fn ask_bandwidth_limits(&mut self) -> Result<()> {
        if !matches!(self.state, State::Ready { .. }) {
            return Err(Error::NotReady);
        }
        self.push(Zeroizing::new(wire::get_bandwidth_limits()));
        Ok(())
    }

    /// Changes the options of the running session.
    ///
    /// # Errors
    /// [`Error::NotReady`], or [`Error::Option`] for what only a new session can change.
    pub fn reconfigure(&mut self, options: SessionOptions, now: Now) -> Result<()> {
        let State::Ready { session } = self.state else {
            return Err(Error::NotReady);
        };
        let changes = self.options.changes_to(&options)?;
        let renew = options.lease_set_options != self.options.lease_set_options
            || options.unpublished != self.options.unpublished
            || options.client_auth != self.options.client_auth;
        self.options = options;
        // what was asked for now are all tunnels, whether the session idled or not
        self.tunnels = Tunnels::Full;
        self.last_traffic = now.instant;
        if !changes.is_empty() {
            self.send_config(session, Ok(changes), now);
        }
        if renew {
            self.publish(session, now);
        }
        Ok(())
    }

    /// Ends the session in order. [`Event::Closed`] follows within two seconds.
    pub fn close(&mut self, now: Now) {
        self.close_for(CloseReason::Local, now);
    }

    fn close_for(&mut self, reason: CloseReason, now: Now) {
        match self.state {
            State::Building { session, .. } | State::Ready { session } => {
                self.push(Zeroizing::new(wire::destroy_session(session)));
                self.state = State::Closing {
                    until: now.instant + CLOSE_TIMEOUT,
                    reason,
                };
                self.drop_lookups();
            }
            State::Greeting { .. } | State::Creating { .. } => self.fail(reason, true),
            State::Closing { .. } | State::Closed => {}
        }
    }

    fn push(&mut self, bytes: Zeroizing<Vec<u8>>) {
        self.queued += bytes.len();
        self.out.push_back(bytes);
    }

    fn drop_lookups(&mut self) {
        for (id, _) in self.lookups.drain() {
            let event = Event::Lookup(LookupId(id), Err(LookupError::Closed));
            self.events.push_back(event);
        }
    }

    /// The connection is over; `say_so` tells the router why.
    fn fail(&mut self, reason: CloseReason, say_so: bool) {
        if matches!(self.state, State::Closed) {
            return;
        }
        if say_so {
            let mut text = reason.to_string();
            while text.len() > 255 {
                text.pop();
            }
            self.push(Zeroizing::new(wire::disconnect(&text)));
        }
        self.state = State::Closed;
        self.frames = Frames::default();
        self.republish = None;
        self.drop_lookups();
        self.events.push_back(Event::Closed(reason));
    }

    fn handle(&mut self, message: FromRouter<'_>, now: Now) -> Result<()> {
        match message {
            FromRouter::SetDate { date_ms, version } => self.set_date(date_ms, &version, now)?,
            FromRouter::SessionStatus(session, state) => self.session_status(session, state, now),
            FromRouter::RequestLeaseSet(session, leases) => {
                self.lease_request(session, leases, now);
            }
            FromRouter::Payload {
                session,
                message,
                payload,
            } => self.payload(session, message, payload, now),
            FromRouter::Status {
                session,
                message,
                status,
                nonce,
            } => self.message_status(session, message, status, nonce),
            FromRouter::HostReply {
                request, answer, ..
            } => self.host_reply(request, answer),
            FromRouter::BandwidthLimits(limits) => {
                self.events.push_back(Event::BandwidthLimits(limits));
            }
            FromRouter::Disconnect(text) => self.disconnected(&text),
            FromRouter::Unknown => self.counters.unknown += 1,
        }
        Ok(())
    }

    /// The first one lets the session begin; later ones correct the clock (I11).
    fn set_date(&mut self, date_ms: u64, version: &str, now: Now) -> Result<()> {
        let offset = i64::try_from(i128::from(date_ms) - i128::from(now.unix_ms));
        self.clock_offset_ms = offset.map_err(|_| Error::Malformed {
            what: "a SetDate message",
            why: "a date beyond all bounds",
        })?;
        if matches!(self.state, State::Greeting { .. }) {
            self.router_version = printable(version);
            let options = self.options.session_config()?;
            let date = self.router_ms(now);
            let message = wire::create_session(&self.keys, &options, date);
            self.push(Zeroizing::new(message));
            self.state = State::Creating {
                until: now.instant + HANDSHAKE_TIMEOUT,
            };
        }
        Ok(())
    }

    fn session_status(&mut self, session: SessionId, status: SessionState, now: Now) {
        match (&self.state, status) {
            (State::Creating { .. }, SessionState::Created) if session != SessionId::NONE => {
                self.state = State::Building {
                    session,
                    until: now.instant + TUNNEL_TIMEOUT,
                };
            }
            // routers put any id into these, because there is no session
            (State::Creating { .. }, SessionState::Invalid) => {
                self.fail(CloseReason::Invalid, false);
            }
            (State::Creating { .. }, SessionState::Refused) => {
                self.fail(CloseReason::Refused, false);
            }
            (State::Closing { reason, .. }, SessionState::Destroyed) => {
                let reason = reason.clone();
                self.fail(reason, false);
            }
            (State::Building { session: own, .. } | State::Ready { session: own }, _)
                if *own != session =>
            {
                self.counters.foreign_session += 1;
            }
            (State::Building { .. } | State::Ready { .. }, SessionState::Destroyed) => {
                self.fail(CloseReason::Destroyed, false);
            }
            (State::Building { .. } | State::Ready { .. }, SessionState::Invalid) => {
                self.fail(CloseReason::Invalid, false);
            }
            (State::Ready { .. }, SessionState::Updated) => {
                self.events.push_back(Event::Reconfigured);
            }
            _ => self.counters.misplaced += 1,
        }
    }

    /// I13, I14: every request is answered, at once; without an answer the router ends the session.
    fn lease_request(&mut self, session: SessionId, mut leases: Vec<Lease>, now: Now) {
        let own = match self.state {
            State::Building { session, .. } | State::Ready { session } => session,
            _ => {
                self.counters.misplaced += 1;
                return;
            }
        };
        if own != session {
            self.counters.foreign_session += 1;
            return;
        }
        let router_ms = self.router_ms(now);
        leases.retain(|lease| lease.end_ms > router_ms);
        leases.truncate(MOST_LEASES);
        if leases.is_empty() {
            self.counters.bad_lease_requests += 1;
            return;
        }
        self.leases = leases;
        self.publish(session, now);
        if matches!(self.state, State::Building { .. }) {
            self.state = State::Ready { session };
            self.last_traffic = now.instant;
            self.republish = Some(now.instant + REPUBLISH_AFTER);
            self.events.push_back(Event::Ready);
        }
    }

    /// Signs the current leases and sends them. Each set is at least a second younger than the one before.
    fn publish(&mut self, session: SessionId, now: Now) {
        let router_ms = self.router_ms(now);
        self.leases.retain(|lease| lease.end_ms > router_ms);
        if self.leases.is_empty() {
            return;
        }
        let now_s = u32::try_from(router_ms / 1000).unwrap_or(u32::MAX);
        self.published_s = now_s.max(self.published_s.saturating_add(1));
        let encrypted = self.options.lease_set == LeaseSetKind::Encrypted;
        let set = LeaseSet {
            keys: &self.keys,
            encryption: &self.encryption.0,
            published_s: self.published_s,
            unpublished: self.options.unpublished,
            blinded: encrypted,
            options: &self.options.lease_set_options,
            leases: &self.leases,
        };
        let mut bytes = set.signed();
        let mut kind = STANDARD;
        if encrypted {
            kind = ENCRYPTED;
            bytes = Encryption {
                keys: &self.keys,
                secret: &self.options.secret,
                auth: &self.options.client_auth,
                day_ms: router_ms,
                published_s: self.published_s,
                lifetime_s: set.lifetime_s(),
                unpublished: self.options.unpublished,
            }
            .encrypt(&bytes, &mut self.random);
        }
        let private = &self.encryption.1;
        let message = wire::create_lease_set(session, kind, &bytes, private);
        self.counters.lease_sets += 1;
        self.push(Zeroizing::new(message));
    }

    fn payload(&mut self, session: SessionId, message: u32, payload: &[u8], now: Now) {
        let State::Ready { session: own } = self.state else {
            self.counters.misplaced += 1;
            return;
        };
        if own != session {
            self.counters.foreign_session += 1;
            return;
        }
        self.traffic(session, now);
        self.counters.payloads += 1;
        if !self.options.fast_receive {
            self.push(Zeroizing::new(wire::receive_end(session, message)));
        }
        self.events.push_back(Event::Payload(payload.to_vec()));
    }

    fn message_status(
        &mut self,
        session: SessionId,
        message: u32,
        status: MessageStatus,
        nonce: u32,
    ) {
        let State::Ready { session: own } = self.state else {
            self.counters.misplaced += 1;
            return;
        };
        if own != session {
            self.counters.foreign_session += 1;
        } else if status.0 != 0 {
            self.events.push_back(Event::Status(nonce, status));
        } else if self.queued < MOST_QUEUED {
            // a router without fastReceive announces what it holds for us (I23)
            self.push(Zeroizing::new(wire::receive_begin(session, message)));
        } else {
            self.counters.queue_full += 1;
        }
    }

    fn host_reply(
        &mut self,
        request: u32,
        answer: std::result::Result<(Destination, Mapping), u8>,
    ) {
        let Some(lookup) = self.lookups.remove(&request) else {
            self.counters.unasked_replies += 1;
            return;
        };
        let result = match (answer, lookup.query) {
            (Ok((destination, _)), Query::Hash(hash)) if destination.hash() != hash => {
                Err(LookupError::Mismatch)
            }
            (Ok((destination, options)), _) => Ok(Found {
                destination,
                options,
            }),
            (Err(1), _) => Err(LookupError::NotFound),
            (Err(2..=4), _) => Err(LookupError::NeedsSecret),
            (Err(5), _) => Err(LookupError::Decryption),
            (Err(6), _) => Err(LookupError::Offline),
            (Err(7), _) => Err(LookupError::Unsupported),
            (Err(code), _) => Err(LookupError::Other(code)),
        };
        self.events
            .push_back(Event::Lookup(LookupId(request), result));
    }

    fn disconnected(&mut self, text: &str) {
        let text = printable(text);
        let reason = match &self.state {
            // Java answers DestroySession with Disconnect
            State::Closing { reason, .. } => reason.clone(),
            _ if text.starts_with("Authorization") => CloseReason::Unauthorised(text),
            _ => CloseReason::Disconnected(text),
        };
        self.fail(reason, false);
    }
}

/// A router's words without what could mislead a terminal or a log.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;

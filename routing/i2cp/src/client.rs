//! One connection to a router with one session on it: handshake, lease sets, sending, lookups (i2cp.md §2.4, §2.5).
mod event;
mod idle;
mod leases;
mod lookup;

pub use event::{CloseReason, Counters, Credentials, Event, Phase};
pub use lookup::{Found, LookupError, LookupId};

use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::keys::{LocalDestination, x25519_public};
use crate::message::{
    self as wire, Delivery, Frames, FromRouter, Lease, MessageStatus, SessionId, SessionState,
};
use crate::options::SessionOptions;
use crate::time::Now;
use idle::Tunnels;
use lookup::Lookup;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Most bytes that wait for the socket before sending is refused.
const MOST_QUEUED: usize = 1024 * 1024;
/// What waits for the socket before streams make more: what lies here is old when it leaves, and delays what is urgent.
const ENOUGH_QUEUED: usize = 128 * 1024;
/// How long SetDate and SessionStatus may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first tunnels may take: at least five minutes.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(330);
/// How long a router may take to answer DestroySession.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

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

/// One connection with one session. It sends when told, never by itself beyond what the protocol asks for.
#[derive(Debug)]
pub struct Client {
    keys: Arc<LocalDestination>,
    options: SessionOptions,
    /// Public and private X25519 key of the lease sets, new in each session: a router that was restarted has forgotten what
    /// it had agreed upon, and i2pd, at the far end, takes nothing new from a key it knows for two minutes
    /// (`ECIESX25519_RESTART_TIMEOUT`).
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
    /// When the first lease set is sent again, the last of these times first.
    republish: Vec<Instant>,
    last_traffic: Instant,
    tunnels: Tunnels,
    /// What encrypts lease sets of type 5.
    random: StdRng,
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
        let mut random = StdRng::from_seed(seed);
        let private = options.lease_private.clone().unwrap_or_else(|| {
            let mut private = Zeroizing::new([0; 32]);
            random.fill_bytes(&mut *private);
            private
        });
        let encryption = (x25519_public(&private)?, private);
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
            republish: Vec::new(),
            last_traffic: now.instant,
            tunnels: Tunnels::Full,
            random,
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
        [state, lookup, self.republish.last().copied()]
            .into_iter()
            .flatten()
            .min()
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
        self.give_up_lookups(now);
        if let State::Ready { session } = self.state {
            if self.republish.pop_if(|at| due(at)).is_some() {
                self.publish(session, now);
            }
            self.idle(session, now);
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
                // nothing would take these off the deadline any more
                self.republish.clear();
                self.drop_lookups();
            }
            State::Greeting { .. } | State::Creating { .. } => self.fail(reason, true),
            State::Closing { .. } | State::Closed => {}
        }
    }

    /// Whether the router, which has asked for something, reads the answers, too.
    fn may_answer(&mut self) -> bool {
        let room = self.queued < MOST_QUEUED;
        self.counters.queue_full += u64::from(!room);
        room
    }

    fn push(&mut self, bytes: Zeroizing<Vec<u8>>) {
        self.queued += bytes.len();
        self.out.push_back(bytes);
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
        self.republish.clear();
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
        if !self.options.fast_receive && self.may_answer() {
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
        } else if self.may_answer() {
            // a router without fastReceive announces what it holds for us (I23)
            self.push(Zeroizing::new(wire::receive_begin(session, message)));
        }
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

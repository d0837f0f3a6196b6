//! One local address in one swarm at one tracker: when it announces, and what the last answer allows.

use super::RequestId;
use crate::rendezvous::LocalAddress;
use crate::types::{Answer, Event, Retry};
use crate::udp::Exchange;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What an interval may be.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1_800);
/// The first wait after a failure; it doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(3_600);

pub(super) enum State {
    /// The next announce is due then.
    Waiting(Instant),
    /// An HTTP request is out.
    Http { request: RequestId, until: Instant },
    /// A UDP exchange is on.
    Udp(Box<Exchange>),
    /// The tracker said "never" (BEP 31).
    Refused,
}

/// Whether the announcement is to last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Active,
    /// `stopped` is sent once; after this moment it is gone, answered or not.
    Leaving(Instant),
}

pub(super) struct Announcement {
    pub(super) local: LocalAddress,
    pub(super) remote: SocketAddr,
    pub(super) state: State,
    pub(super) life: Life,
    pub(super) tracker_id: Option<Vec<u8>>,
    /// Not until an answer has come: `started` is repeated as long as none has.
    started: bool,
    last_sent: Option<Instant>,
    sent_port: u16,
    interval: Duration,
    min_interval: Duration,
    failures: u32,
    /// Of 256: how much of the extra tenth the next interval gets.
    jitter: u8,
}

impl Announcement {
    pub(super) fn new(local: LocalAddress, remote: SocketAddr, first: Instant) -> Self {
        Self {
            local,
            remote,
            state: State::Waiting(first),
            life: Life::Active,
            tracker_id: None,
            started: false,
            last_sent: None,
            sent_port: 0,
            interval: DEFAULT_INTERVAL,
            min_interval: SHORTEST,
            failures: 0,
            jitter: 0,
        }
    }

    /// Whether the tracker may know of us.
    pub(super) fn was_sent(&self) -> bool {
        self.last_sent.is_some()
    }

    pub(super) fn event(&self) -> Option<Event> {
        match self.life {
            Life::Leaving(_) => Some(Event::Stopped),
            Life::Active if !self.started => Some(Event::Started),
            Life::Active => None,
        }
    }

    /// When something is to be done; never, once refused.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Waiting(at) => Some(*at),
            State::Http { until, .. } => Some(*until),
            State::Udp(exchange) => Some(exchange.deadline()),
            State::Refused => None,
        };
        match self.life {
            Life::Active => state,
            Life::Leaving(until) => Some(state.map_or(until, |at| at.min(until))),
        }
    }

    pub(super) fn sent(&mut self, port: u16, now: Instant, jitter: u8) {
        self.last_sent = Some(now);
        self.sent_port = port;
        self.jitter = jitter;
    }

    /// The earliest moment for another announce: never inside max(60 s, min interval) (discovery.md §3).
    fn earliest(&self, now: Instant) -> Instant {
        self.last_sent
            .map_or(now, |sent| (sent + self.min_interval).max(now))
    }

    pub(super) fn answered(&mut self, answer: &Answer, eager: bool, now: Instant) {
        self.started = true;
        self.failures = 0;
        self.interval = answer
            .interval
            .unwrap_or(DEFAULT_INTERVAL)
            .clamp(SHORTEST, LONGEST);
        self.min_interval = answer
            .min_interval
            .unwrap_or(SHORTEST)
            .clamp(SHORTEST, LONGEST);
        if answer.tracker_id.is_some() {
            self.tracker_id.clone_from(&answer.tracker_id);
        }
        let regular = self.interval + self.interval / 2560 * u32::from(self.jitter);
        let moved = self.sent_port != self.local.port;
        let next = if eager || moved {
            self.earliest(now)
        } else {
            (now + regular).max(self.earliest(now))
        };
        self.state = State::Waiting(next);
    }

    /// Backs off; when the next attempt is made.
    pub(super) fn failed(&mut self, retry: Option<Retry>, now: Instant) -> Option<Instant> {
        let doubled = FIRST_RETRY * 2u32.pow(self.failures.min(6));
        self.failures += 1;
        let wait = match retry {
            Some(Retry::Never) => {
                self.state = State::Refused;
                return None;
            }
            Some(Retry::After(wait)) => wait.clamp(SHORTEST, LONGEST),
            None => doubled.min(LAST_RETRY),
        };
        let next = (now + wait).max(self.earliest(now));
        self.state = State::Waiting(next);
        Some(next)
    }

    /// Moves the next regular announce forward, as far as it may be. A tracker that fails keeps its back-off.
    pub(super) fn hurry(&mut self, now: Instant) {
        let earliest = self.earliest(now);
        if let State::Waiting(at) = &mut self.state
            && self.failures == 0
        {
            *at = (*at).min(earliest);
        }
    }
}

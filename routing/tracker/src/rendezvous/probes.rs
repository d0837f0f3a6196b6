//! When a candidate is probed, and how much at most.

use super::candidates::below;
use rand_core::CryptoRng;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long one search for a peer goes on.
pub const SEARCH: Duration = Duration::from_secs(10 * 60);
/// The most candidates held; a candidate that no answer names any more is forgotten after [`SEARCH`].
const MAX_HELD: usize = 256;
/// The most peers searched for at a time.
const MAX_WANTED: usize = 64;
/// The most EPC_REQs to one candidate and round.
const MAX_REQUESTS: usize = 3;
/// Without a wanted peer an endpoint that did not answer is left alone this long.
const REST: Duration = Duration::from_secs(60 * 60);
/// A new candidate gets its first packets at once, unless a full minute is this near.
const NEAR: Duration = Duration::from_secs(5);
/// The second half of a round that started at a full minute, for clocks that differ by this much.
const SECOND_HALF: Duration = Duration::from_secs(2);
/// A packet that the budget has held up for longer is dropped: it would hit no common moment.
const STALE: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// A moment on both clocks: rounds are at full minutes of the wall clock, so that both sides send together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// The monotonic clock.
    pub now: Instant,
    /// Time since the Unix epoch.
    pub unix: Duration,
}

impl Time {
    fn minute(self) -> u64 {
        self.unix.as_secs() / 60
    }

    /// The start of a minute of the wall clock; now when it has begun.
    fn start_of(self, minute: u64) -> Instant {
        self.now + Duration::from_secs(minute.saturating_mul(60)).saturating_sub(self.unix)
    }
}

/// One packet to send, from the main socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe<P> {
    /// Where.
    pub to: SocketAddr,
    /// What; never larger than 128 bytes.
    pub kind: ProbeKind<P>,
}

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind<P> {
    /// A presence EPI (D23): full sender, zero recipient.
    Presence,
    /// An EPC_REQ with full sender to this peer.
    Request(P),
}

/// What was held back; nothing here is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounters {
    /// Packets handed out.
    pub sent: u64,
    /// Packets dropped because the budget was used up.
    pub over_budget: u64,
    /// Candidates not probed because they did not answer within the last hour.
    pub resting: u64,
    /// Candidates that found no room.
    pub no_room: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    listed: Instant,
    due: Instant,
    half: Half,
}

/// The state of all probing. `P` names a peer for the caller.
#[derive(Debug)]
pub struct Prober<P> {
    wanted: BTreeMap<P, Instant>,
    candidates: BTreeMap<SocketAddr, Candidate>,
    /// The minute that belongs to the last round of an IP, and when it was made. Bounded, as `probed` is, by the
    /// budget: an entry costs a packet.
    rounds: BTreeMap<IpAddr, (u64, Instant)>,
    probed: BTreeMap<SocketAddr, Instant>,
    queue: VecDeque<(Instant, Probe<P>)>,
    per_second: Budget,
    per_hour: Budget,
    counters: ProbeCounters,
}

impl<P: Copy + Ord> Default for Prober<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Copy + Ord> Prober<P> {
    /// Nothing wanted, nothing known: 20 packets in any second, 2,000 in any hour.
    pub fn new() -> Self {
        Self {
            wanted: BTreeMap::new(),
            candidates: BTreeMap::new(),
            rounds: BTreeMap::new(),
            probed: BTreeMap::new(),
            queue: VecDeque::new(),
            per_second: Budget::new(20, Duration::from_secs(1)),
            per_hour: Budget::new(2_000, Duration::from_secs(3_600)),
            counters: ProbeCounters::default(),
        }
    }

    /// Searches for a peer without a direct path for [`SEARCH`] from now. False when too many are searched for.
    pub fn want(&mut self, peer: P, now: Instant) -> bool {
        if !self.wanted.contains_key(&peer) && self.wanted.len() >= MAX_WANTED {
            return false;
        }
        self.wanted.insert(peer, now + SEARCH);
        true
    }

    /// Ends a search: the peer is found or not wanted any more.
    pub fn unwant(&mut self, peer: &P) {
        self.wanted.remove(peer);
    }

    /// Who is searched for.
    pub fn wanted(&self) -> impl Iterator<Item = P> + '_ {
        self.wanted.keys().copied()
    }

    /// Whether an endpoint is a candidate already.
    pub fn holds(&self, endpoint: &SocketAddr) -> bool {
        self.candidates.contains_key(endpoint)
    }

    /// Whether a search is on: the client then announces as often as it may.
    pub fn searching(&self, now: Instant) -> bool {
        self.wanted.values().any(|until| *until > now)
    }

    /// Takes the candidates of one answer, as [`super::Filter::select`] chose them.
    pub fn add(&mut self, candidates: &[SocketAddr], time: Time) {
        let next = time.minute() + 1;
        let soon = time.start_of(next).saturating_duration_since(time.now) <= NEAR;
        let due = if soon { time.start_of(next) } else { time.now };
        for endpoint in candidates {
            if let Some(known) = self.candidates.get_mut(endpoint) {
                known.listed = time.now;
            } else if self.candidates.len() >= MAX_HELD {
                self.counters.no_room += 1;
            } else {
                self.candidates.insert(
                    *endpoint,
                    Candidate {
                        listed: time.now,
                        due,
                        half: Half::First,
                    },
                );
            }
        }
    }

    /// The endpoint has proven itself: it is no candidate any more, and may be one again.
    pub fn answered(&mut self, endpoint: SocketAddr) {
        self.candidates.remove(&endpoint);
        self.probed.remove(&endpoint);
        self.queue.retain(|(_, probe)| probe.to != endpoint);
    }

    /// The next packet to send now.
    pub fn poll(&mut self, time: Time, rng: &mut dyn CryptoRng) -> Option<Probe<P>> {
        self.forget(time.now);
        self.plan(time, rng);
        while let Some((due, _)) = self.queue.front() {
            if time.now.saturating_duration_since(*due) > STALE {
                self.queue.pop_front();
                self.counters.over_budget += 1;
                continue;
            }
            if self.per_second.free_at(time.now) > time.now
                || self.per_hour.free_at(time.now) > time.now
            {
                return None;
            }
            let (_, probe) = self.queue.pop_front()?;
            self.per_second.spend(time.now);
            self.per_hour.spend(time.now);
            self.probed.insert(probe.to, time.now);
            self.counters.sent += 1;
            return Some(probe);
        }
        None
    }

    /// When [`Prober::poll`] may have something next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let free = self.per_second.free_at(now).max(self.per_hour.free_at(now));
        let queued = self
            .queue
            .front()
            .map(|(due, _)| free.min(*due + STALE + Duration::from_millis(1)).max(now));
        self.candidates
            .values()
            .map(|candidate| candidate.due)
            .chain(queued)
            .min()
    }

    /// What was sent and held back so far.
    pub fn counters(&self) -> ProbeCounters {
        self.counters
    }

    fn forget(&mut self, now: Instant) {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.wanted.retain(|_, until| *until > now);
        self.candidates
            .retain(|_, candidate| since(candidate.listed) < SEARCH);
        self.rounds.retain(|_, (_, made)| since(*made) < 2 * MINUTE);
        self.probed.retain(|_, sent| since(*sent) < REST);
    }

    /// Queues what is due. The order is random, so that no candidate is always behind the budget's end.
    fn plan(&mut self, time: Time, rng: &mut dyn CryptoRng) {
        let due = |candidate: &Candidate| candidate.due <= time.now;
        let mut endpoints: Vec<_> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| due(candidate))
            .map(|(endpoint, _)| *endpoint)
            .collect();
        while !endpoints.is_empty() {
            let at = below(endpoints.len(), rng);
            let endpoint = endpoints.swap_remove(at);
            match self.candidates[&endpoint].half {
                Half::First => self.first_half(endpoint, time),
                Half::Second => self.second_half(endpoint, time),
            }
        }
    }

    fn first_half(&mut self, endpoint: SocketAddr, time: Time) {
        if self.wanted.is_empty() && self.probed.contains_key(&endpoint) {
            self.candidates.remove(&endpoint);
            self.counters.resting += 1;
            return;
        }
        let minute = time.minute();
        if let Some((last, _)) = self
            .rounds
            .get(&endpoint.ip())
            .filter(|(last, _)| *last >= minute)
        {
            let due = time.start_of((last + 1).min(minute + 2));
            self.wait(endpoint, due, Half::First);
            return;
        }
        let into_minute = time.unix.saturating_sub(Duration::from_secs(minute * 60));
        // A first half in the middle of a minute has its second half, and its place, at the next full minute.
        let (belongs_to, second) = if into_minute < SECOND_HALF {
            (minute, time.now + SECOND_HALF - into_minute)
        } else {
            (minute + 1, time.start_of(minute + 1))
        };
        self.rounds.insert(endpoint.ip(), (belongs_to, time.now));
        self.queue_half(endpoint, Half::First, belongs_to, time.now);
        self.wait(endpoint, second, Half::Second);
    }

    fn second_half(&mut self, endpoint: SocketAddr, time: Time) {
        let minute = time.minute();
        self.queue_half(endpoint, Half::Second, minute, time.now);
        if self.wanted.is_empty() {
            self.candidates.remove(&endpoint);
        } else {
            self.wait(endpoint, time.start_of(minute + 1), Half::First);
        }
    }

    fn wait(&mut self, endpoint: SocketAddr, due: Instant, half: Half) {
        if let Some(candidate) = self.candidates.get_mut(&endpoint) {
            (candidate.due, candidate.half) = (due, half);
        }
    }

    /// At most four packets in both halves. The presence EPI stands where it does most: what the second half sends
    /// meets NATs that the first halves of both sides have opened.
    fn queue_half(&mut self, endpoint: SocketAddr, half: Half, minute: u64, due: Instant) {
        let count = self.wanted.len();
        // more peers than fit take turns
        let start = if count == 0 {
            0
        } else {
            (minute % count as u64) as usize
        };
        let chosen = self
            .wanted
            .keys()
            .copied()
            .cycle()
            .skip(start)
            .take(count.min(MAX_REQUESTS));
        let requests: Vec<_> = chosen.map(ProbeKind::Request).collect();
        let presence = ProbeKind::Presence;
        let plan = match (half, requests.as_slice()) {
            (_, []) => vec![presence],
            (_, [one]) => vec![presence, *one],
            (Half::First, [_, _]) => vec![presence],
            (Half::Second, [one, two]) => vec![presence, *one, *two],
            (Half::First, [one, ..]) => vec![*one],
            (Half::Second, [_, rest @ ..]) => [&[presence], rest].concat(),
        };
        self.queue.extend(
            plan.into_iter()
                .map(|kind| (due, Probe { to: endpoint, kind })),
        );
    }
}

/// At most `count` packets in any window of a length: a log of the last ones.
#[derive(Debug)]
struct Budget {
    window: Duration,
    count: usize,
    log: VecDeque<Instant>,
}

impl Budget {
    fn new(count: usize, window: Duration) -> Self {
        Self {
            window,
            count,
            log: VecDeque::new(),
        }
    }

    fn free_at(&self, now: Instant) -> Instant {
        match self.log.front() {
            Some(oldest) if self.log.len() >= self.count => *oldest + self.window,
            _ => now,
        }
    }

    fn spend(&mut self, now: Instant) {
        if self.log.len() >= self.count {
            self.log.pop_front();
        }
        self.log.push_back(now);
    }
}

/// Limits what strangers' presence EPIs make us send: one EPC_REQ per source IP and 5 s, never larger than what came in
/// plus 8 bytes.
#[derive(Debug, Default)]
pub struct PresenceGate {
    answered: BTreeMap<IpAddr, Instant>,
    refused: u64,
}

impl PresenceGate {
    const PAUSE: Duration = Duration::from_secs(5);
    const MAX_SOURCES: usize = 1_024;
    const MAX_GROWTH: usize = 8;

    /// Whether an EPC_REQ of `reply` bytes may answer a presence EPI of `received` bytes from `source`.
    pub fn allow(&mut self, source: IpAddr, received: usize, reply: usize, now: Instant) -> bool {
        let source = source.to_canonical();
        self.answered
            .retain(|_, then| now.saturating_duration_since(*then) < Self::PAUSE);
        let allowed = reply <= received + Self::MAX_GROWTH
            && !self.answered.contains_key(&source)
            && self.answered.len() < Self::MAX_SOURCES;
        if allowed {
            self.answered.insert(source, now);
        } else {
            self.refused += 1;
        }
        allowed
    }

    /// How many were not answered.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;

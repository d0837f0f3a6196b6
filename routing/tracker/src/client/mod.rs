//! Announcing to trackers: one announcement per swarm, tracker and local address that can reach it (B1 to B5).
//!
//! The IO around it resolves names, opens sockets bound to the local address it is told (bind, then connect: B3, B4),
//! one connected UDP socket per pair of addresses, and feeds back what arrives. After any input, and at
//! [`Client::deadline`], it calls [`Client::poll`] and [`Client::poll_report`] until both say `None`.

mod announcement;
mod identity;
mod report;
mod tracker;

pub use report::{About, ClientCounters, Report, RequestId, TrackerId, Transmit};

use crate::compact::Family;
use crate::http;
use crate::rendezvous::LocalAddress;
use crate::types::{Announce, Answer, InfoHash, Retry};
use crate::udp::{Ask, Connection, Exchange, Outcome, Poll, Step};
use crate::url::{Scheme, TrackerUrl};
use announcement::{Announcement, Life, State};
use identity::Identity;
use rand_core::CryptoRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tracker::Tracker;

/// The most trackers announced to.
pub const MAX_TRACKERS: usize = 32;
/// The most swarms announced: a few zones with two epochs each.
pub const MAX_SWARMS: usize = 16;
/// The most local addresses, as [`crate::rendezvous::Publish::select`] leaves.
pub const MAX_LOCALS: usize = 16;
/// The most HTTP requests at a time; others wait.
const MAX_REQUESTS: usize = 32;
/// The most reports that wait for [`Client::poll_report`].
const MAX_REPORTS: usize = 256;
/// How many peers are asked for.
const NUM_WANT: u32 = 30;
/// How long an HTTP request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `stopped` may take.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Between two announces of one local address to one tracker, whatever the swarms.
const SPACING: Duration = Duration::from_secs(60);

/// The state of all announcing of one run.
pub struct Client {
    identity: Identity,
    trackers: BTreeMap<TrackerId, Tracker>,
    swarms: BTreeSet<InfoHash>,
    locals: Vec<LocalAddress>,
    announcements: BTreeMap<About, Announcement>,
    /// Of pairs of local and tracker address, never of a tracker alone.
    connections: BTreeMap<(IpAddr, SocketAddr), Connection>,
    last_sent: BTreeMap<(TrackerId, IpAddr), Instant>,
    cancelled: VecDeque<RequestId>,
    reports: VecDeque<Report>,
    counters: ClientCounters,
    eager: bool,
    stopping: bool,
    next_tracker: u32,
    next_request: u64,
}

impl Client {
    /// Starts with nothing to announce. `secret` is random and belongs to this run: peer ids and keys come from it.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            identity: Identity::new(secret),
            trackers: BTreeMap::new(),
            swarms: BTreeSet::new(),
            locals: Vec::new(),
            announcements: BTreeMap::new(),
            connections: BTreeMap::new(),
            last_sent: BTreeMap::new(),
            cancelled: VecDeque::new(),
            reports: VecDeque::new(),
            counters: ClientCounters::default(),
            eager: false,
            stopping: false,
            next_tracker: 0,
            next_request: 0,
        }
    }

    /// Announces to these trackers, all of them: two nodes that each chose one of a tier would not meet
    /// (discovery.md §2). At most [`MAX_TRACKERS`].
    pub fn set_trackers(&mut self, urls: &[TrackerUrl], now: Instant) {
        let urls = self.limited(urls, MAX_TRACKERS);
        self.trackers
            .values_mut()
            .for_each(|tracker| tracker.wanted = urls.contains(&tracker.url));
        for url in urls {
            if self.trackers.values().any(|tracker| tracker.url == url) {
                continue;
            }
            let id = TrackerId(self.next_tracker);
            self.trackers.insert(id, Tracker::new(url, now));
            self.next_tracker += 1;
        }
        self.reconcile(now);
    }

    /// Announces these swarms, at most [`MAX_SWARMS`].
    pub fn set_swarms(&mut self, hashes: &[InfoHash], now: Instant) {
        self.swarms = self.limited(hashes, MAX_SWARMS).into_iter().collect();
        self.reconcile(now);
    }

    /// Announces these addresses, as [`crate::rendezvous::Publish::select`] chose them; at most [`MAX_LOCALS`]. An
    /// address that is gone cannot say `stopped`; a port that changed is announced as soon as the limits allow.
    pub fn set_locals(&mut self, locals: &[LocalAddress], now: Instant) {
        self.locals = self.limited(locals, MAX_LOCALS);
        for (about, announcement) in &mut self.announcements {
            let Some(local) = self.locals.iter().find(|local| local.ip == about.local) else {
                continue;
            };
            if announcement.local.port != local.port {
                announcement.hurry(now);
            }
            announcement.local = *local;
        }
        self.reconcile(now);
    }

    /// While a peer is searched for, announces are made as often as max(60 s, min interval) allows.
    pub fn set_eager(&mut self, eager: bool, now: Instant) {
        if eager && !self.eager {
            self.announcements
                .values_mut()
                .for_each(|announcement| announcement.hurry(now));
        }
        self.eager = eager;
    }

    /// Says `stopped` wherever an announce was made, for at most 2 s; see [`Client::is_finished`].
    pub fn shut_down(&mut self, now: Instant) {
        self.stopping = true;
        self.reconcile(now);
    }

    /// Whether everything is said after [`Client::shut_down`].
    pub fn is_finished(&self) -> bool {
        self.stopping && self.announcements.is_empty()
    }

    /// The URL of a tracker in a report.
    pub fn tracker(&self, id: TrackerId) -> Option<&TrackerUrl> {
        self.trackers.get(&id).map(|tracker| &tracker.url)
    }

    /// What was held back or dropped so far.
    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    /// What a name resolved to, of both families (B2); an error in words where it did not.
    pub fn resolved(&mut self, id: TrackerId, result: Result<Vec<IpAddr>, String>, now: Instant) {
        let Some(tracker) = self.trackers.get_mut(&id) else {
            return;
        };
        if !tracker.asked() {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                tracker.resolved(&addresses, now);
                self.reconcile(now);
            }
            failed => {
                let retry = tracker.unresolved(now);
                let error = failed
                    .err()
                    .unwrap_or_else(|| "the name has no address".to_owned());
                self.report(Report::Unresolved {
                    tracker: id,
                    error,
                    retry,
                });
            }
        }
    }

    /// The answer to an HTTP request; the transport stops reading at [`http::MAX_BODY`] bytes and fails instead.
    pub fn http_answer(&mut self, id: RequestId, status: u16, body: &[u8], now: Instant) {
        let Some(about) = self.take_request(id, now) else {
            return;
        };
        match http::announce_answer(status, body) {
            Ok(answer) => self.answered(about, answer, now),
            Err(http::AnswerError::Refused(refusal)) => {
                self.failed(about, refusal.to_string(), refusal.retry, now);
            }
            Err(error) => self.failed(about, error.to_string(), None, now),
        }
    }

    /// An HTTP request without an answer.
    pub fn http_failed(&mut self, id: RequestId, error: &str, now: Instant) {
        if let Some(about) = self.take_request(id, now) {
            self.failed(about, error.to_owned(), None, now);
        }
    }

    /// A datagram that arrived on the socket bound to `local` and connected to `remote`.
    pub fn datagram(&mut self, local: IpAddr, remote: SocketAddr, datagram: &[u8], now: Instant) {
        let step = self
            .announcements
            .iter_mut()
            .find_map(|(about, announcement)| {
                let State::Udp(exchange) = &mut announcement.state else {
                    return None;
                };
                if about.local != local || announcement.remote != remote {
                    return None;
                }
                match exchange.handle(datagram, now) {
                    Step::Ignored => None,
                    step => Some((*about, step)),
                }
            });
        match step {
            None => self.counters.stray += 1,
            Some((_, Step::Connected(connection))) => {
                self.connections.retain(|_, known| known.usable(now));
                self.connections.insert((local, remote), connection);
            }
            Some((_, Step::Reconnect | Step::Ignored)) => {
                self.connections.remove(&(local, remote));
            }
            Some((about, Step::Done(Ok(Outcome::Announced(answer))))) => {
                self.answered(about, answer, now)
            }
            // an exchange that announces has no other outcome
            Some((_, Step::Done(Ok(Outcome::Scraped(_))))) => {}
            Some((about, Step::Done(Err(error)))) => {
                self.failed(about, error.to_string(), None, now)
            }
        }
    }

    /// A socket that could not be bound to `local` or connected to `remote`.
    pub fn datagram_failed(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        error: &str,
        now: Instant,
    ) {
        let of_pair = |about: &About, announcement: &Announcement| {
            about.local == local
                && announcement.remote == remote
                && matches!(announcement.state, State::Udp(_))
        };
        let failed: Vec<_> = self
            .announcements
            .iter()
            .filter(|(about, it)| of_pair(about, it))
            .map(|(about, _)| *about)
            .collect();
        failed
            .into_iter()
            .for_each(|about| self.failed(about, error.to_owned(), None, now));
    }

    /// The next thing to do now.
    pub fn poll(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Option<Transmit> {
        if let Some(request) = self.cancelled.pop_front() {
            return Some(Transmit::Cancel(request));
        }
        if let Some(resolve) = self.poll_resolve(now) {
            return Some(resolve);
        }
        loop {
            let (due, about) = self.next_due(now)?;
            if due > now {
                return None;
            }
            if let Some(transmit) = self.advance(about, now, rng) {
                return Some(transmit);
            }
            if let Some(request) = self.cancelled.pop_front() {
                return Some(Transmit::Cancel(request));
            }
        }
    }

    /// What happened since the last call.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// When [`Client::poll`] has something next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let cancel = (!self.cancelled.is_empty()).then_some(now);
        let names = self.trackers.values().filter(|_| !self.stopping);
        let resolve = names.filter_map(Tracker::resolve_at).min();
        let due = self.next_due(now).map(|(due, _)| due);
        [cancel, resolve, due].into_iter().flatten().min()
    }

    fn poll_resolve(&mut self, now: Instant) -> Option<Transmit> {
        if self.stopping {
            return None;
        }
        let due = |tracker: &Tracker| tracker.resolve_at().is_some_and(|at| at <= now);
        let (id, tracker) = self.trackers.iter_mut().find(|(_, tracker)| due(tracker))?;
        Some(Transmit::Resolve {
            tracker: *id,
            host: tracker.ask(),
        })
    }

    /// The announcement that is due first, and when. One that must wait for its turn is due then; of several that
    /// wait for the same turn, the one that has waited longest.
    fn next_due(&self, now: Instant) -> Option<(Instant, About)> {
        let busy = self.requests_out() >= MAX_REQUESTS;
        let due = |(about, announcement): (&About, &Announcement)| {
            let due = announcement.due()?;
            let leaving = announcement.life != Life::Active;
            if !matches!(announcement.state, State::Waiting(_)) || leaving {
                return Some((due, due, *about));
            }
            if busy && self.is_http(about.tracker) {
                return None;
            }
            Some((
                due.max(self.turn(about.tracker, about.local, now)),
                due,
                *about,
            ))
        };
        self.announcements
            .iter()
            .filter_map(due)
            .min()
            .map(|(turn, _, about)| (turn, about))
    }

    /// When a local address may announce to a tracker again.
    fn turn(&self, tracker: TrackerId, local: IpAddr, now: Instant) -> Instant {
        self.last_sent
            .get(&(tracker, local))
            .map_or(now, |sent| *sent + SPACING)
    }

    fn is_http(&self, tracker: TrackerId) -> bool {
        self.trackers
            .get(&tracker)
            .is_some_and(|tracker| tracker.url.scheme() != Scheme::Udp)
    }

    fn requests_out(&self) -> usize {
        self.announcements
            .values()
            .filter(|it| matches!(it.state, State::Http { .. }))
            .count()
    }

    /// Does what is due for one announcement; nothing to send when that only changed its state.
    fn advance(&mut self, about: About, now: Instant, rng: &mut dyn CryptoRng) -> Option<Transmit> {
        let announcement = self.announcements.get_mut(&about)?;
        if matches!(announcement.life, Life::Leaving(until) if until <= now) {
            self.remove(about, now);
            return None;
        }
        let remote = announcement.remote;
        match &mut announcement.state {
            State::Waiting(_) => self.start(about, now, rng),
            State::Http { request, .. } => {
                self.cancelled.push_back(*request);
                announcement.state = State::Waiting(now);
                self.failed(about, "the tracker does not answer".to_owned(), None, now);
                None
            }
            State::Udp(exchange) => {
                let mut payload = Vec::new();
                match exchange.poll(now, rng, &mut payload) {
                    Poll::Transmit => Some(Transmit::Datagram {
                        local: about.local,
                        remote,
                        payload,
                    }),
                    Poll::Wait(_) => None,
                    Poll::GaveUp => {
                        self.failed(about, "the tracker does not answer".to_owned(), None, now);
                        None
                    }
                }
            }
            State::Refused => None,
        }
    }

    fn start(&mut self, about: About, now: Instant, rng: &mut dyn CryptoRng) -> Option<Transmit> {
        let tracker = self.trackers.get(&about.tracker)?;
        let announcement = self.announcements.get_mut(&about)?;
        let (peer_id, key) = self.identity.of(&about.info_hash);
        let announce = Announce {
            info_hash: about.info_hash,
            peer_id,
            key,
            port: announcement.local.port,
            left: 1,
            event: announcement.event(),
            num_want: if announcement.life == Life::Active {
                NUM_WANT
            } else {
                0
            },
            tracker_id: announcement.tracker_id.clone(),
            compact: true,
        };
        let [jitter, ..] = rng.next_u32().to_ne_bytes();
        announcement.sent(announce.port, now, jitter);
        self.last_sent.insert((about.tracker, about.local), now);
        let (local, remote) = (about.local, announcement.remote);
        if tracker.url.scheme() == Scheme::Udp {
            let ask = Ask::Announce(announce, tracker.url.target().to_owned());
            let connection = self.connections.get(&(local, remote)).copied();
            announcement.state = State::Udp(Box::new(Exchange::new(
                ask,
                Family::of(local),
                connection,
                now,
            )));
            return self.advance(about, now, rng);
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        announcement.state = State::Http {
            request: id,
            until: now + HTTP_TIMEOUT,
        };
        let tls = (tracker.url.scheme() == Scheme::Https).then(|| tracker.url.host().to_owned());
        Some(Transmit::Http {
            id,
            local,
            remote,
            tls,
            request: http::announce(&tracker.url, &announce),
        })
    }

    fn answered(&mut self, about: About, answer: Answer, now: Instant) {
        let Some(announcement) = self.announcements.get_mut(&about) else {
            return;
        };
        if announcement.life != Life::Active {
            return self.remove(about, now);
        }
        announcement.answered(&answer, self.eager, now);
        let remote = announcement.remote;
        self.report(Report::Answered {
            about,
            remote,
            answer,
        });
    }

    fn failed(&mut self, about: About, error: String, retry: Option<Retry>, now: Instant) {
        let Some(announcement) = self.announcements.get_mut(&about) else {
            return;
        };
        if announcement.life != Life::Active {
            return self.remove(about, now);
        }
        let retry = announcement.failed(retry, now);
        if let Some(tracker) = self.trackers.get(&about.tracker) {
            announcement.remote = tracker
                .remote(&announcement.local, Some(announcement.remote.ip()))
                .unwrap_or(announcement.remote);
        }
        self.report(Report::Failed {
            about,
            error,
            retry,
        });
    }

    /// The announcement whose request is over; what follows is for the caller to say.
    fn take_request(&mut self, id: RequestId, now: Instant) -> Option<About> {
        let is =
            |it: &Announcement| matches!(it.state, State::Http { request, .. } if request == id);
        let (about, announcement) = self
            .announcements
            .iter_mut()
            .find(|(_, announcement)| is(announcement))?;
        announcement.state = State::Waiting(now);
        Some(*about)
    }

    /// Makes the announcements those that should be: trackers × local addresses × swarms, where the two can meet.
    fn reconcile(&mut self, now: Instant) {
        let existing: Vec<_> = self.announcements.keys().copied().collect();
        for about in existing {
            if self.target(&about).is_none() {
                self.leave(about, now);
            }
        }
        let mut missing = Vec::new();
        for (tracker, local) in self
            .trackers
            .keys()
            .flat_map(|id| self.locals.iter().map(move |local| (*id, *local)))
        {
            for info_hash in &self.swarms {
                let about = About {
                    tracker,
                    local: local.ip,
                    info_hash: *info_hash,
                };
                if !self.announcements.contains_key(&about)
                    && let Some(remote) = self.target(&about)
                {
                    missing.push((about, Announcement::new(local, remote, now)));
                }
            }
        }
        self.announcements.extend(missing);
        let in_use: BTreeSet<_> = self
            .announcements
            .keys()
            .map(|about| about.tracker)
            .collect();
        self.trackers
            .retain(|id, tracker| tracker.wanted || in_use.contains(id));
        self.last_sent
            .retain(|_, sent| now.saturating_duration_since(*sent) < SPACING);
    }

    /// The tracker's address that an announcement goes to first; nothing when there should be none.
    fn target(&self, about: &About) -> Option<SocketAddr> {
        let tracker = self
            .trackers
            .get(&about.tracker)
            .filter(|tracker| tracker.wanted && !self.stopping)?;
        let local = self.locals.iter().find(|local| local.ip == about.local)?;
        self.swarms
            .contains(&about.info_hash)
            .then(|| tracker.remote(local, None))?
    }

    /// Says `stopped` where that is possible and means something; drops the announcement otherwise.
    fn leave(&mut self, about: About, now: Instant) {
        let has_address = self.locals.iter().any(|local| local.ip == about.local);
        let Some(announcement) = self.announcements.get_mut(&about) else {
            return;
        };
        if announcement.life != Life::Active {
            return;
        }
        let known = announcement.was_sent() && !matches!(announcement.state, State::Refused);
        if let State::Http { request, .. } = announcement.state {
            self.cancelled.push_back(request);
        }
        if known && has_address {
            announcement.life = Life::Leaving(now + STOP_TIME);
            announcement.state = State::Waiting(now);
        } else {
            self.announcements.remove(&about);
        }
    }

    /// The end of one that was leaving; it may be wanted again by now.
    fn remove(&mut self, about: About, now: Instant) {
        if let Some(Announcement {
            state: State::Http { request, .. },
            ..
        }) = self.announcements.remove(&about)
        {
            self.cancelled.push_back(request);
        }
        self.reconcile(now);
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
            self.counters.lost_reports += 1;
        }
        self.reports.push_back(report);
    }

    fn limited<T: Clone + PartialEq>(&mut self, items: &[T], limit: usize) -> Vec<T> {
        self.counters.over_limit += items.len().saturating_sub(limit) as u64;
        items[..items.len().min(limit)].to_vec()
    }
}

#[cfg(test)]
mod tests;

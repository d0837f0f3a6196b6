//! From a synthetic IPv6 address to the record of its owner: both copies at once, every value verified, the newest counts
//! (R141, R142, reload.md §3).
use super::{Answer as Told, Dht, Output};
use crate::anode::Place;
use anode_reload::body::{Fetch, FetchType, Reference, References};
use anode_reload::node::{Answer, AnswerBody, RequestId, RequestOptions};
use anode_reload::usage::anode::{self, AnodeRecord, COPIES, Found};
use anode_reload::{DataModel, Id, Now, ReloadError, StoredData, TypeId};
use anode_wire::PeerId;
use anode_wire::address::split_digit;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Duration;

/// Searches at a time.
const MAX_SEARCHES: usize = 256;
/// Results that are remembered.
const MAX_CACHED: usize = 4096;
/// How long a search may take.
const BUDGET: Duration = Duration::from_secs(5);
/// How long a found record is believed at most.
const CACHE_FOUND: Duration = Duration::from_secs(300);
/// Who is looked for again after this is asked for anew as well: the way that the record named has led nowhere.
const DOUBT_AFTER: Duration = Duration::from_secs(4);
/// How long it is believed that there is none.
const CACHE_NONE: Duration = Duration::from_secs(30);
/// Where the overlay cannot be asked yet: soon again.
const CACHE_OUT: Duration = Duration::from_secs(1);
/// Places of one peer that are handed on.
const MAX_PLACES: usize = 8;

struct Search {
    waiting: Vec<Option<RequestId>>,
    values: Vec<StoredData>,
    /// Questions of people that wait for the end.
    tokens: Vec<u64>,
    /// The overlay wants to go there; else only people want to know.
    wanted: bool,
    /// Storage time of the newest record that was handed on.
    told: Option<u32>,
    /// A copy could not be asked for: that nothing was found says little.
    failed: bool,
}

/// What a search has found.
struct Known {
    at: Duration,
    until: Duration,
    found: Vec<Found>,
}

/// Searches under way, and what they have found.
#[derive(Default)]
pub(super) struct Searches {
    open: BTreeMap<Ipv6Addr, Search>,
    of_request: BTreeMap<RequestId, Ipv6Addr>,
    cache: BTreeMap<Ipv6Addr, Known>,
    order: VecDeque<Ipv6Addr>,
}

impl Searches {
    /// The budget is the transactions' own: nothing is due here.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    fn remember(&mut self, now: Now, target: Ipv6Addr, for_time: Duration, found: Vec<Found>) {
        let known = Known {
            at: now.at,
            until: now.at + for_time,
            found,
        };
        if self.cache.insert(target, known).is_none() {
            self.order.push_back(target);
        }
        while self.order.len() > MAX_CACHED {
            if let Some(oldest) = self.order.pop_front() {
                self.cache.remove(&oldest);
            }
        }
    }

    /// What is still believed, and whether it is in doubt.
    fn cached(&self, now: Now, target: &Ipv6Addr) -> Option<(Vec<Found>, bool)> {
        let known = self
            .cache
            .get(target)
            .filter(|known| known.until > now.at)?;
        let in_doubt = !known.found.is_empty() && now.at >= known.at + DOUBT_AFTER;
        Some((known.found.clone(), in_doubt))
    }
}

fn newest_of(found: &[Found]) -> Option<u32> {
    found.iter().map(|one| one.storage_time).max()
}

impl Dht {
    pub(super) fn run_searches(&mut self, _now: Now) {}

    /// `token`: a question of people; else the overlay wants to go there.
    pub(super) fn start_search(&mut self, now: Now, target: Ipv6Addr, token: Option<u64>) {
        let (target, _) = split_digit(target);
        if let Some(search) = self.searches.open.get_mut(&target) {
            search.tokens.extend(token);
            search.wanted |= token.is_none();
            return;
        }
        // People want to know how it is now.
        let mut told = None;
        if token.is_none()
            && let Some((found, in_doubt)) = self.searches.cached(now, &target)
        {
            self.hand_on(now, &found);
            if !in_doubt {
                return;
            }
            told = newest_of(&found);
        }
        if !self.is_in() {
            self.searches.remember(now, target, CACHE_OUT, Vec::new());
            return self.end_search(Vec::new(), token.into_iter().collect());
        }
        if self.searches.open.len() >= MAX_SEARCHES {
            self.counters.searches_refused += 1;
            return self.end_search(Vec::new(), token.into_iter().collect());
        }
        self.counters.searches += 1;
        let options = RequestOptions {
            budget: BUDGET,
            log: false,
        };
        let mut waiting = Vec::new();
        for copy in 0..COPIES {
            let request = References {
                resource: anode::resource(target, copy),
                types: vec![FetchType {
                    kind: TypeId::ANODE_RECORD,
                    generation: 0,
                    reference: Reference::all(DataModel::Dictionary),
                }],
            };
            if let Ok(request) = self.node.ask(now, &Fetch(&request), options) {
                self.searches.of_request.insert(request, target);
                waiting.push(Some(request));
            }
        }
        let search = Search {
            failed: waiting.len() < COPIES.into(),
            waiting,
            values: Vec::new(),
            tokens: token.into_iter().collect(),
            wanted: token.is_none(),
            told,
        };
        self.searches.open.insert(target, search);
        self.finish_search(now, target);
    }

    pub(super) fn search_answered(
        &mut self,
        now: Now,
        request: RequestId,
        result: Result<Answer, ReloadError>,
    ) {
        let Some(target) = self.searches.of_request.remove(&request) else {
            return;
        };
        let Some(search) = self.searches.open.get_mut(&target) else {
            return;
        };
        search.waiting.retain(|waiting| *waiting != Some(request));
        match result {
            Ok(Answer {
                from,
                body: AnswerBody::Values { found, refused },
                ..
            }) => {
                tracing::debug!(%target, ?from, values = found.len(), refused, "a copy of a record");
                search.failed |= refused > 0;
                let values = found.into_iter().flat_map(|one| one.values);
                search.values.extend(values);
            }
            other => {
                tracing::debug!(%target, error = ?other.err(), "no copy of a record");
                search.failed = true;
            }
        }
        // The first good copy is enough to begin with; a newer one follows.
        let found = anode::newest(&search.values);
        let newest = newest_of(&found);
        if search.wanted && newest > search.told {
            search.told = newest;
            self.hand_on(now, &found);
        }
        self.finish_search(now, target);
    }

    /// All copies have answered, or none will.
    fn finish_search(&mut self, now: Now, target: Ipv6Addr) {
        let over = |search: &Search| search.waiting.is_empty();
        if !self.searches.open.get(&target).is_some_and(over) {
            return;
        }
        let Some(search) = self.searches.open.remove(&target) else {
            return;
        };
        let found = anode::newest(&search.values);
        let alive = |one: &&Found| one.record.is_some();
        let expires = found.iter().filter(alive).map(|one| one.expires).min();
        let keep = match expires {
            Some(at) => Duration::from_secs(at.saturating_sub(now.unix)).min(CACHE_FOUND),
            None if search.failed => CACHE_OUT,
            None => CACHE_NONE,
        };
        self.counters.found += u64::from(expires.is_some());
        self.searches.remember(now, target, keep, found.clone());
        self.end_search(found, search.tokens);
    }

    fn end_search(&mut self, found: Vec<Found>, tokens: Vec<u64>) {
        for token in tokens {
            let answer = Told::Found(found.clone());
            self.out(Output::Answer { token, answer });
        }
    }

    /// Tells the overlay where somebody is, and asks that one to meet us.
    fn hand_on(&mut self, now: Now, found: &[Found]) {
        for one in found {
            let Some(record) = &one.record else {
                continue;
            };
            let endpoints = record.endpoints.iter().chain(&record.relayed);
            let places = endpoints.filter_map(Place::from_endpoint).take(MAX_PLACES);
            self.out(Output::Found {
                who: one.address,
                places: places.collect(),
            });
            let is_peer = record.peer.is_valid_peer() && record.peer != self.node.id();
            if is_peer && record.capabilities & AnodeRecord::CONNECT != 0 {
                let route: Vec<Id> = record.route.iter().copied().chain([record.peer]).collect();
                self.ask_direct(now, (one.address, PeerId::ANY), route);
            }
        }
    }
}

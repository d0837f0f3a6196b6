//! Small bounded tables: answers kept for repeats, ways tried, rates, storage times seen.
use crate::{Code, Id, LinkId, TypeId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long an answer is kept: as long as its request may be repeated (RD28).
const ANSWER_LIFETIME: Duration = Duration::from_secs(32);
const MAX_ANSWERS: usize = 1024;
const MAX_ANSWER_BYTES: usize = 1 << 20;
const MAX_FORWARDS: usize = 2048;
const MAX_RATES: usize = 1024;
const MAX_SEEN: usize = 4096;

/// A table that forgets its oldest entry when it is full.
pub(super) struct Bounded<K, V> {
    entries: BTreeMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Ord + Clone, V> Bounded<K, V> {
    pub fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            limit,
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// The entry, made if it is not there.
    pub fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
        self.entries.entry(key).or_insert_with(new)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// What became of a request that may come again.
pub(super) enum Answer {
    /// Still being served: a repeat is passed over.
    Pending,
    /// Answered: the signed contents of the response.
    Given(Vec<u8>),
}

/// Answers by transaction and hash of the request (RD28).
pub(super) struct Answers {
    /// With the time until which they are kept.
    entries: BTreeMap<(u64, u64), (Duration, Answer)>,
    order: VecDeque<(Duration, (u64, u64), usize)>,
    bytes: usize,
    /// Answers that gave way before their time.
    pub evicted: u64,
}

impl Answers {
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            evicted: 0,
        }
    }

    pub fn get(&self, key: (u64, u64)) -> Option<&Answer> {
        self.entries.get(&key).map(|(_, answer)| answer)
    }

    pub fn put(&mut self, at: Duration, key: (u64, u64), answer: Answer) {
        let size = match &answer {
            Answer::Pending => 0,
            Answer::Given(bytes) => bytes.len(),
        };
        self.entries.insert(key, (at + ANSWER_LIFETIME, answer));
        self.bytes += size;
        self.order.push_back((at + ANSWER_LIFETIME, key, size));
        while let Some((until, key, size)) = self.order.front().copied() {
            let full = self.order.len() > 2 * MAX_ANSWERS || self.bytes > MAX_ANSWER_BYTES;
            if until > at && !full {
                return;
            }
            self.evicted += u64::from(until > at);
            self.bytes -= size;
            self.order.pop_front();
            // a younger answer to the same request stays
            if self.entries.get(&key).is_some_and(|(of, _)| *of == until) {
                self.entries.remove(&key);
            }
        }
    }
}

/// Where requests that pass through here were sent, so that a repeat takes another way.
pub(super) type Forwards = Bounded<(u64, Option<LinkId>), Vec<Id>>;

pub(super) fn forwards() -> Forwards {
    Bounded::new(MAX_FORWARDS)
}

/// A token bucket: `rate` a second, up to `burst` at once.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    pub fn full(burst: f64, at: Duration) -> Self {
        Self { tokens: burst, at }
    }

    pub fn take(&mut self, at: Duration, rate: f64, burst: f64) -> bool {
        let gone = at.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + gone * rate).min(burst);
        self.at = at;
        let good = self.tokens >= 1.0;
        if good {
            self.tokens -= 1.0;
        }
        good
    }
}

pub(super) type Rates = Bounded<u64, Bucket>;

pub(super) fn rates() -> Rates {
    Bounded::new(MAX_RATES)
}

/// Latest storage time seen of a value, against a storing peer that goes back in time (R141).
pub(super) type Seen = Bounded<(Id, TypeId, u64), u32>;

pub(super) fn seen() -> Seen {
    Bounded::new(MAX_SEEN)
}

/// What a node counts. Nothing is dropped without being counted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came over links.
    pub received: u64,
    /// Messages that went out, forwarded ones included.
    pub sent: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
    /// Messages passed on for others.
    pub forwarded: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Messages of another overlay or version.
    pub incompatible: u64,
    /// Messages whose TTL, or via list, was over.
    pub hops_exceeded: u64,
    /// Messages for which there was no next hop.
    pub unroutable: u64,
    /// Route lists with a private id that is over.
    pub stale_private: u64,
    /// Messages whose signature did not verify.
    pub unverified: u64,
    /// Requests that came again.
    pub repeated: u64,
    /// Responses nobody waits for.
    pub unexpected: u64,
    /// Requests refused because a rate was over.
    pub rate_limited: u64,
    /// Requests not made because a table was full.
    pub busy: u64,
    /// Messages dropped because the send queue was full.
    pub queue_full: u64,
    /// Events dropped because nobody took them.
    pub events_full: u64,
    /// Links refused because there are too many.
    pub links_refused: u64,
    /// Requests sent again.
    pub retransmitted: u64,
    /// Requests that were never answered.
    pub timeouts: u64,
    /// Values of answers that were refused: wrong signer, not permitted, over, or gone back in time.
    pub values_refused: u64,
    /// STOREs answered although no replica had acknowledged in time (R112).
    pub stored_alone: u64,
}

/// Whether a response should be kept for repeats: a 401 is followed by the same request with a certificate.
pub(super) fn is_cacheable(code: Code) -> bool {
    code != Code::UNAUTHORIZED && code != Code::BUSY
}

#[cfg(test)]
mod tests {
    use super::*;

    // RD28
    #[test]
    fn answers_are_kept_for_32_seconds_and_within_a_mebibyte() {
        let mut answers = Answers::new();
        let at = Duration::from_secs;
        answers.put(at(0), (1, 1), Answer::Pending);
        answers.put(at(1), (1, 1), Answer::Given(vec![1]));
        answers.put(at(32), (2, 2), Answer::Given(vec![2]));
        assert!(matches!(answers.get((1, 1)), Some(Answer::Given(_))));
        answers.put(at(33), (3, 3), Answer::Given(vec![3]));
        assert!(answers.get((1, 1)).is_none());
        for n in 0..10_000u64 {
            answers.put(at(34), (n, 9), Answer::Given(vec![0; 1000]));
            assert!(answers.bytes <= MAX_ANSWER_BYTES + 1000);
            assert!(answers.order.len() <= 2 * MAX_ANSWERS + 1);
        }
        assert!(answers.evicted > 0);
    }

    #[test]
    fn buckets_give_their_rate() {
        let mut bucket = Bucket::full(5.0, Duration::ZERO);
        let mut given = 0;
        for tenth in 0..100 {
            let at = Duration::from_millis(100 * tenth);
            given += u32::from(bucket.take(at, 2.0, 5.0));
        }
        assert!((23..=26).contains(&given), "{given}");
    }

    #[test]
    fn bounded_tables_forget_their_oldest() {
        let mut table = Bounded::new(3);
        for n in 0..10 {
            *table.entry(n, || 0) += n;
        }
        assert_eq!(table.len(), 3);
        assert_eq!((table.get(&6), table.get(&9)), (None, Some(&9)));
    }
}

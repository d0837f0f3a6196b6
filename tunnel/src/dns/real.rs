//! Real names: their TXT records, cached for as long as they say, and asked for within bounds.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anode_wire::PeerId;
use anode_wire::address::split_digit;
use tokio::sync::OnceCell;

use super::counters::Counters;
use super::host::HostName;
use super::stub::{self, Answer, StubError};

/// Names that are remembered.
const MAX_CACHED: usize = 512;

/// Names that are asked for at a time.
const MAX_UNDER_WAY: usize = 16;

/// A failure is believed this long, so that programs that try again and again cost the system's servers nothing.
const FAILURE_TTL: Duration = Duration::from_secs(2);

/// What became of a lookup.
pub type Outcome = Result<Answer, RealError>;

/// Why a name's record could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealError {
    /// No answer.
    #[error(transparent)]
    Stub(#[from] StubError),
    /// Too many other names are being asked for.
    #[error("{MAX_UNDER_WAY} other names are being looked up: try again")]
    Busy,
}

/// Looks real names up.
pub struct Real {
    /// `[dns] servers`; none: the system's.
    servers: Vec<SocketAddr>,
    /// The system's, as they were read last: a file that replaced resolv.conf may be out of reach (Landlock).
    system: Mutex<Vec<SocketAddr>>,
    /// The own responder, which must not be asked.
    own: Option<SocketAddr>,
    cache: Mutex<Cache>,
    under_way: Mutex<HashMap<HostName, Arc<OnceCell<Outcome>>>>,
    counters: Arc<Counters>,
}

impl Real {
    /// Asks `servers`, or the system's when there are none; never `own`.
    pub fn new(servers: Vec<SocketAddr>, own: Option<SocketAddr>, counters: Arc<Counters>) -> Self {
        let system = stub::system_servers(own).unwrap_or_default();
        Self {
            servers,
            system: Mutex::new(system),
            own,
            cache: Mutex::default(),
            under_way: Mutex::default(),
            counters,
        }
    }

    /// What the name's TXT records say, with the seconds that are left of them.
    pub async fn lookup(&self, host: &HostName) -> Outcome {
        if let Some(known) = self.cache().get(host, Instant::now()) {
            self.counters.cached.add();
            return known;
        }
        let Some(place) = self.place(host) else {
            self.counters.busy.add();
            return Err(RealError::Busy);
        };
        match &place.cell {
            Some(cell) => cell.get_or_init(|| self.ask(host)).await.clone(),
            // Only while it is dropped.
            None => Err(RealError::Busy),
        }
    }

    async fn ask(&self, host: &HostName) -> Outcome {
        self.counters.asked.add();
        let system;
        let servers = if self.servers.is_empty() {
            system = self.system();
            &system
        } else {
            &self.servers
        };
        let outcome = stub::ask(servers, host).await.map_err(RealError::from);
        if let Err(error) = &outcome {
            tracing::debug!(%host, "{error}");
        }
        let evicted = self
            .cache()
            .keep(host.clone(), outcome.clone(), Instant::now());
        if evicted {
            self.counters.evicted.add();
        }
        outcome
    }

    /// Read each time: the machine may have moved to another network.
    fn system(&self) -> Vec<SocketAddr> {
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(servers) = stub::system_servers(self.own) {
            *known = servers;
        }
        known.clone()
    }

    /// The host that was found at an address, its peer digit aside.
    pub fn host_of(&self, ip: Ipv6Addr) -> Option<HostName> {
        self.cache().host_of(ip, Instant::now())
    }

    /// No code that holds it can panic halfway, so a poisoned one is as good as any.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<HostName, Arc<OnceCell<Outcome>>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks for a name that is asked for already waits for the same answer.
    fn place(&self, host: &HostName) -> Option<Place<'_>> {
        let mut waiting = self.waiting();
        let cell = match waiting.get(host) {
            Some(cell) => Arc::clone(cell),
            None if waiting.len() >= MAX_UNDER_WAY => return None,
            None => Arc::clone(waiting.entry(host.clone()).or_default()),
        };
        Some(Place {
            real: self,
            host: host.clone(),
            cell: Some(cell),
        })
    }
}

/// Somebody who waits; the last one, done or given up, clears the place.
struct Place<'a> {
    real: &'a Real,
    host: HostName,
    cell: Option<Arc<OnceCell<Outcome>>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.real.waiting();
        drop(self.cell.take());
        if waiting
            .get(&self.host)
            .is_some_and(|cell| Arc::strong_count(cell) == 1)
        {
            waiting.remove(&self.host);
        }
    }
}

/// What was answered, for as long as it holds.
#[derive(Default)]
struct Cache(HashMap<HostName, Entry>);

struct Entry {
    until: Instant,
    outcome: Outcome,
    /// Of the addresses that were found, for the way back.
    ips: Vec<Ipv6Addr>,
}

impl Cache {
    fn get(&self, host: &HostName, now: Instant) -> Option<Outcome> {
        let entry = self.0.get(host).filter(|entry| now < entry.until)?;
        let left = (entry.until - now).as_secs() as u32;
        Some(match &entry.outcome {
            Ok(Answer::Found(addresses, _)) => Ok(Answer::Found(addresses.clone(), left)),
            Ok(Answer::Empty(_)) => Ok(Answer::Empty(left)),
            Ok(Answer::Nobody(_)) => Ok(Answer::Nobody(left)),
            Err(error) => Err(error.clone()),
        })
    }

    /// Whether one that still held had to go.
    fn keep(&mut self, host: HostName, outcome: Outcome, now: Instant) -> bool {
        let ttl = match &outcome {
            Ok(Answer::Found(_, ttl) | Answer::Empty(ttl) | Answer::Nobody(ttl)) => {
                Duration::from_secs(u64::from(*ttl))
            }
            Err(_) => FAILURE_TTL,
        };
        let mut evicted = false;
        if self.0.len() >= MAX_CACHED && !self.0.contains_key(&host) {
            self.0.retain(|_, entry| now < entry.until);
            if self.0.len() >= MAX_CACHED {
                let first = self.0.iter().min_by_key(|(_, entry)| entry.until);
                if let Some(host) = first.map(|(host, _)| host.clone()) {
                    self.0.remove(&host);
                    evicted = true;
                }
            }
        }
        let ips = match &outcome {
            Ok(Answer::Found(addresses, _)) => addresses
                .iter()
                .map(|address| address.ipv6(PeerId::ANY))
                .collect(),
            _ => Vec::new(),
        };
        let until = now + ttl;
        self.0.insert(
            host,
            Entry {
                until,
                outcome,
                ips,
            },
        );
        evicted
    }

    fn host_of(&self, ip: Ipv6Addr, now: Instant) -> Option<HostName> {
        let base = split_digit(ip).0;
        // Of several, the same one every time.
        self.0
            .iter()
            .filter(|(_, entry)| now < entry.until && entry.ips.contains(&base))
            .map(|(host, _)| host)
            .min()
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> HostName {
        format!("h{number}.example.com").parse().unwrap()
    }

    #[test]
    fn entries_end_with_their_time_and_the_cache_stays_small() {
        let mut cache = Cache::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.keep(host(0), Ok(Answer::Empty(10)), start);
        assert_eq!(cache.get(&host(0), at(4)), Some(Ok(Answer::Empty(6))));
        assert_eq!(cache.get(&host(0), at(10)), None);
        cache.keep(host(1), Err(RealError::Busy), start);
        assert_eq!(cache.get(&host(1), at(1)), Some(Err(RealError::Busy)));
        assert_eq!(cache.get(&host(1), at(2)), None);

        let mut evicted = 0;
        for number in 0..3 * MAX_CACHED {
            let answer = Ok(Answer::Nobody(60));
            evicted += usize::from(cache.keep(host(number), answer, at(20)));
        }
        assert_eq!(cache.0.len(), MAX_CACHED);
        assert_eq!(evicted, 2 * MAX_CACHED);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_no_place_taken() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let real = Real::new(
            vec![silent.local_addr().unwrap()],
            None,
            Arc::new(Counters::default()),
        );
        for number in 0..4 * MAX_UNDER_WAY {
            let host = host(number);
            let pair = async { tokio::join!(real.lookup(&host), real.lookup(&host)) };
            let given_up = tokio::time::timeout(Duration::from_millis(2), pair).await;
            assert!(given_up.is_err());
        }
        assert!(real.waiting().is_empty());
        assert_eq!(real.counters.busy.get(), 0);
    }
}

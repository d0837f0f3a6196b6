//! What the shards of one server share: use per user, reservations, rates. Locks are taken only when an allocation
//! comes or goes; what is relayed touches nothing but atomic counters, and those only where a rate is limited.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::Quota;

/// Holds traffic to a rate: the generic cell rate algorithm in one atomic number.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Nanoseconds since the epoch at which what was let through would have been sent at the rate.
    due: AtomicU64,
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
}

/// What may come at once, in time at the rate.
const BURST_NS: u64 = 250_000_000;

impl Rate {
    pub fn set_kbps(&self, kbps: u64) {
        self.rate.store(kbps.saturating_mul(125), Relaxed);
    }

    /// Whether `bytes` may pass now, `now_ns` after the epoch.
    pub fn allows(&self, now_ns: u64, bytes: usize) -> bool {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return true;
        }
        let cost = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        // At least one packet may pass, however low the rate.
        let limit = now_ns + BURST_NS.max(cost);
        let charge = |due: u64| {
            let next = due.max(now_ns) + cost;
            (next <= limit).then_some(next)
        };
        self.due.fetch_update(Relaxed, Relaxed, charge).is_ok()
    }
}

/// What one user has in use.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub allocations: AtomicUsize,
    pub rate: Rate,
}

/// A port kept for a client that asked for a pair (RFC 8656 §7.2).
#[derive(Clone, Debug)]
pub(super) struct Reservation {
    pub address: SocketAddr,
    pub user: String,
    pub expires: Instant,
}

/// See the module. One for all shards of a server.
#[derive(Debug)]
pub struct Shared {
    pub(super) epoch: Instant,
    pub(super) rate: Rate,
    allocations: AtomicUsize,
    users: Mutex<HashMap<String, Arc<Usage>>>,
    reservations: Mutex<HashMap<u64, Reservation>>,
}

/// Why an allocation is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    User,
    Server,
}

impl Shared {
    /// For a server that starts now.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch: now,
            rate: Rate::default(),
            allocations: AtomicUsize::new(0),
            users: Mutex::default(),
            reservations: Mutex::default(),
        })
    }

    pub(super) fn ns(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64 // 584 years
    }

    pub(super) fn set_rates(&self, quota: &Quota) {
        self.rate.set_kbps(quota.kbps);
        for usage in lock(&self.users).values() {
            usage.rate.set_kbps(quota.kbps_per_user);
        }
    }

    /// Counts one more allocation, if the quota lets it.
    pub(super) fn take(&self, user: &str, quota: &Quota) -> Result<Arc<Usage>, Full> {
        let mut users = lock(&self.users);
        let usage = users.get(user).cloned().unwrap_or_default();
        let used = usage.allocations.load(Relaxed);
        if quota.allocations_per_user > 0 && used >= quota.allocations_per_user {
            return Err(Full::User);
        }
        if quota.allocations > 0 && self.allocations.load(Relaxed) >= quota.allocations {
            return Err(Full::Server);
        }
        // Under the lock, so that two shards do not pass the limit together.
        usage.allocations.store(used + 1, Relaxed);
        usage.rate.set_kbps(quota.kbps_per_user);
        self.allocations.fetch_add(1, Relaxed);
        users
            .entry(user.to_owned())
            .or_insert_with(|| usage.clone());
        Ok(usage)
    }

    /// Gives one allocation back, at once (T3). A user without any is forgotten.
    pub(super) fn give_back(&self, user: &str) {
        let mut users = lock(&self.users);
        if let Some(usage) = users.get(user) {
            self.allocations.fetch_sub(1, Relaxed);
            if usage.allocations.fetch_sub(1, Relaxed) == 1 {
                users.remove(user);
            }
        }
    }

    /// Keeps a port for 30 s. `false` if too many are kept.
    pub(super) fn reserve(&self, token: u64, reservation: Reservation, limit: usize) -> bool {
        let mut all = lock(&self.reservations);
        let room = all.len() < limit && !all.contains_key(&token);
        if room {
            all.insert(token, reservation);
        }
        room
    }

    /// Takes a kept port, if the token is right, of this user, and not too late.
    pub(super) fn claim(&self, token: u64, user: &str, now: Instant) -> Option<SocketAddr> {
        let mut all = lock(&self.reservations);
        all.get(&token)
            .filter(|r| r.user == user && now < r.expires)?;
        all.remove(&token).map(|r| r.address)
    }

    /// Drops a kept port; gives its address if nobody has claimed it.
    pub(super) fn forget(&self, token: u64) -> Option<SocketAddr> {
        lock(&self.reservations).remove(&token).map(|r| r.address)
    }

    /// Keeps every table locked, for tests of what must not ask them.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Sized {
        (lock(&self.users), lock(&self.reservations))
    }

    /// Allocations in all shards.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.allocations.load(Relaxed)
    }
}

/// How long a port is kept (RFC 8656 §7.2: at least 30 s).
pub(super) const RESERVED: Duration = Duration::from_secs(30);

/// A thread that panicked left a table that is whole: no function here stops half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    // T8
    #[test]
    fn a_rate_is_held_after_its_burst() {
        let rate = Rate::default();
        assert!(rate.allows(0, usize::MAX), "no limit by default");
        rate.set_kbps(400); // 50 kB/s
        let mut passed = 0;
        for ms in 0..10_000_u64 {
            for _ in 0..3 {
                passed += usize::from(rate.allows(ms * 1_000_000, 100)) * 100;
            }
        }
        let expected = 500_000 + 12_500;
        assert!(
            (expected - 200..=expected + 200).contains(&passed),
            "{passed} bytes in 10 s"
        );
        rate.set_kbps(1);
        assert!(
            rate.allows(1_000_000_000_000, 60_000),
            "a packet larger than the burst passes when all is quiet"
        );
        assert!(!rate.allows(1_000_000_000_000, 1), "and is paid for");
    }

    // T3
    #[test]
    fn a_quota_counts_per_user_and_is_freed_at_once() {
        let shared = Shared::new(Instant::now());
        let quota = Quota {
            allocations_per_user: 2,
            allocations: 3,
            ..Quota::default()
        };
        assert!(shared.take("a", &quota).is_ok() && shared.take("a", &quota).is_ok());
        assert_eq!(shared.take("a", &quota).map(drop), Err(Full::User));
        assert!(shared.take("b", &quota).is_ok());
        assert_eq!(shared.take("c", &quota).map(drop), Err(Full::Server));
        shared.give_back("a");
        assert!(shared.take("a", &quota).is_ok());
        for user in ["a", "a", "b"] {
            shared.give_back(user);
        }
        assert_eq!(
            (shared.allocations(), lock(&shared.users).len()),
            (0, 0),
            "nothing stays behind"
        );
    }
}

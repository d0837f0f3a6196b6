//! What is remembered of a peer from one stream to the next (i2cp.md §2.8).
use super::rtt::Rtt;
use crate::destination::Hash;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const LIFE: Duration = Duration::from_secs(15 * 60);
const MOST: usize = 512;
/// Weight of the newer of two values.
const DAMPING: f64 = 0.75;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) rtt: Rtt,
    pub(crate) window: f64,
    at: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Profiles {
    peers: HashMap<Hash, Profile>,
}

impl Profiles {
    pub(crate) fn get(&self, peer: &Hash, now: Instant) -> Option<Profile> {
        let profile = self.peers.get(peer)?;
        (now.saturating_duration_since(profile.at) < LIFE).then_some(*profile)
    }

    pub(crate) fn learn(&mut self, peer: Hash, rtt: Rtt, window: f64, now: Instant) {
        let Some(smoothed) = rtt.smoothed else { return };
        let new = match self.get(&peer, now) {
            Some(old) => Profile {
                rtt: Rtt {
                    smoothed: old.rtt.smoothed.map(|old| damped(old, smoothed)),
                    deviation: damped(old.rtt.deviation, rtt.deviation),
                },
                window: old.window * (1.0 - DAMPING) + window * DAMPING,
                at: now,
            },
            None => Profile {
                rtt,
                window,
                at: now,
            },
        };
        if self.peers.len() >= MOST && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, p)| p.at);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.insert(peer, new);
    }
}

fn damped(old: Duration, new: Duration) -> Duration {
    old.mul_f64(1.0 - DAMPING) + new.mul_f64(DAMPING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_damped_kept_a_quarter_of_an_hour_and_bounded() {
        let (mut profiles, now) = (Profiles::default(), Instant::now());
        let rtt = |ms| Rtt {
            smoothed: Some(Duration::from_millis(ms)),
            deviation: Duration::from_millis(ms / 2),
        };
        let peer = Hash([1; 32]);
        profiles.learn(peer, Rtt::default(), 9.0, now);
        assert!(profiles.get(&peer, now).is_none());
        profiles.learn(peer, rtt(400), 8.0, now);
        profiles.learn(peer, rtt(800), 16.0, now);
        let profile = profiles.get(&peer, now).unwrap();
        assert_eq!(profile.rtt.smoothed, Some(Duration::from_millis(700)));
        assert_eq!(profile.window, 14.0);
        assert!(profiles.get(&peer, now + LIFE).is_none());
        for i in 0..1000u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&i.to_be_bytes());
            profiles.learn(
                Hash(hash),
                rtt(1),
                1.0,
                now + Duration::from_millis(i.into()),
            );
        }
        assert_eq!(profiles.peers.len(), MOST);
    }
}

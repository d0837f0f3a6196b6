//! Cookies: proof that a HELLO's source receives what is sent to it, kept by nobody (Q8).
use super::crypto::{HmacKey, hmac, hmac_key};
use rand_core::CryptoRng;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const LIFETIME: Duration = Duration::from_secs(120);

/// A cookie, or 16 zeros for none.
pub(super) type Cookie = [u8; 16];

/// None.
pub(super) const NO_COOKIE: Cookie = [0; 16];

/// The secret, and the one before: a cookie made just before a change is still good for its one retry.
pub(super) struct CookieJar {
    current: Option<(HmacKey, Instant)>,
    previous: Option<(HmacKey, Instant)>,
}

impl CookieJar {
    pub fn new() -> Self {
        Self {
            current: None,
            previous: None,
        }
    }

    /// Forgets the secrets.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    pub fn make(
        &mut self,
        now: Instant,
        endpoint: &[u8],
        sender: &[u8; 40],
        rng: &mut dyn CryptoRng,
    ) -> Cookie {
        let expired = |made: &Instant| now.saturating_duration_since(*made) >= LIFETIME;
        if self.current.as_ref().is_none_or(|(_, made)| expired(made)) {
            let mut secret = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *secret);
            self.previous = self.current.replace((hmac_key(&*secret), now));
        }
        match &self.current {
            Some((key, _)) => cookie(key, endpoint, sender),
            None => NO_COOKIE,
        }
    }

    pub fn check(&self, now: Instant, endpoint: &[u8], sender: &[u8; 40], given: &Cookie) -> bool {
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(|(_, made)| now.saturating_duration_since(*made) < 2 * LIFETIME)
            .any(|(key, _)| cookie(key, endpoint, sender).ct_eq(given).into())
    }
}

/// The sender's address has a fixed length and comes last: no two inputs run together.
fn cookie(key: &HmacKey, endpoint: &[u8], sender: &[u8; 40]) -> Cookie {
    let full = hmac(key, &[endpoint, sender]);
    std::array::from_fn(|i| full[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    // Q8
    #[test]
    fn a_cookie_is_for_one_source_one_sender_and_some_minutes() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let start = Instant::now();
        let mut jar = CookieJar::new();
        let cookie = jar.make(start, b"endpoint", &[1; 40], &mut rng);
        assert!(jar.check(start, b"endpoint", &[1; 40], &cookie));
        assert!(!jar.check(start, b"endpoinu", &[1; 40], &cookie));
        assert!(!jar.check(start, b"endpoint", &[2; 40], &cookie));
        assert!(!jar.check(start, b"endpoint", &[1; 40], &NO_COOKIE));

        let changed = start + LIFETIME;
        let second = jar.make(changed, b"endpoint", &[1; 40], &mut rng);
        assert_ne!(cookie, second);
        assert!(jar.check(changed, b"endpoint", &[1; 40], &cookie));
        assert!(!jar.check(start + 2 * LIFETIME, b"endpoint", &[1; 40], &cookie));
        jar.clear();
        assert!(!jar.check(changed, b"endpoint", &[1; 40], &second), "Q17");
    }
}

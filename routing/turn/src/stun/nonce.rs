//! Nonces that the server does not remember (T24): a time and an HMAC over it and the 5-tuple.
//!
//! ```text
//!   obMatJos2 ‖ base64(24 feature bits) ‖ base64url( seconds (4) ‖ HMAC-SHA256(secret, features ‖ seconds ‖ 5-tuple)[..16] )
//! ```
//!
//! A flood of requests without credentials leaves nothing behind, and a nonce seen elsewhere is stale here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The nonce cookie of RFC 8489 §9.2.
const COOKIE: &str = "obMatJos2";
/// Feature bit 0: password algorithms.
const PASSWORD_ALGORITHMS: u32 = 1 << 23;
/// Feature bit 1: user name anonymity.
const USERNAME_ANONYMITY: u32 = 1 << 22;

/// What the nonce cookie says that the server can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub password_algorithms: bool,
    pub userhash: bool,
}

impl Features {
    /// Reads the cookie in front of a nonce; a nonce without one promises nothing.
    pub fn of(nonce: &str) -> Self {
        let bits = nonce
            .strip_prefix(COOKIE)
            .and_then(|rest| rest.get(..4))
            .and_then(|bits| STANDARD.decode(bits).ok())
            .map_or(0, |b| b.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)));
        Self {
            password_algorithms: bits & PASSWORD_ALGORITHMS != 0,
            userhash: bits & USERNAME_ANONYMITY != 0,
        }
    }

    fn bits(self) -> [u8; 4] {
        let bits = if self.password_algorithms {
            PASSWORD_ALGORITHMS
        } else {
            0
        } | if self.userhash { USERNAME_ANONYMITY } else { 0 };
        bits.to_be_bytes()
    }

    fn cookie(self) -> String {
        format!("{COOKIE}{}", STANDARD.encode(&self.bits()[1..]))
    }
}

/// Makes and checks nonces.
pub(crate) struct Nonces {
    secret: [u8; 32],
}

impl Nonces {
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// A nonce for this 5-tuple (as bytes; over streams without the client's port), `age` after the server's start.
    pub fn make(&self, age: Duration, tuple: &[u8], features: Features) -> String {
        let seconds = age.as_secs() as u32; // wraps after 136 years
        let mut token = seconds.to_be_bytes().to_vec();
        token.extend(self.tag(features, seconds, tuple));
        format!("{}{}", features.cookie(), URL_SAFE_NO_PAD.encode(token))
    }

    /// What we offered with this nonce, if we made it for this 5-tuple not longer than `ttl` ago.
    pub fn check(
        &self,
        age: Duration,
        tuple: &[u8],
        nonce: &str,
        ttl: Duration,
    ) -> Option<Features> {
        let features = Features::of(nonce);
        let token = nonce.strip_prefix(&features.cookie())?;
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (seconds, tag) = token.split_first_chunk::<4>()?;
        let seconds = u32::from_be_bytes(*seconds);
        let fresh = (age.as_secs() as u32)
            .checked_sub(seconds)
            .is_some_and(|s| u64::from(s) <= ttl.as_secs());
        let ours = bool::from(self.tag(features, seconds, tuple)[..].ct_eq(tag));
        (ours && fresh).then_some(features)
    }

    fn tag(&self, features: Features, seconds: u32, tuple: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        // HMAC takes a key of any length, so this cannot fail.
        if let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.secret) {
            hmac.update(&features.bits());
            hmac.update(&seconds.to_be_bytes());
            hmac.update(tuple);
            tag.copy_from_slice(&hmac.finalize().into_bytes()[..16]);
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features {
        password_algorithms: true,
        userhash: true,
    };

    // T24, T44
    #[test]
    fn the_cookie_says_what_the_server_can() {
        for features in [
            ALL,
            Features::default(),
            Features {
                password_algorithms: true,
                userhash: false,
            },
        ] {
            let nonce = Nonces::new([1; 32]).make(Duration::ZERO, b"tuple", features);
            assert!(nonce.starts_with("obMatJos2"));
            assert!(nonce.len() < 64);
            assert_eq!(Features::of(&nonce), features);
        }
        assert_eq!(Features::of("obMatJos2wAAA"), ALL);
        for other in [
            "",
            "obMatJos2",
            "obMatJos2w",
            "obMatJos2????",
            "0123456789abcdef",
            "obMatJos2€€",
        ] {
            assert_eq!(Features::of(other), Features::default(), "{other:?}");
        }
    }

    // S33
    #[test]
    fn a_nonce_is_stale_elsewhere_later_and_when_touched() {
        let nonces = Nonces::new([1; 32]);
        let ttl = Duration::from_secs(3600);
        let (made, nonce) = (
            Duration::from_secs(10),
            nonces.make(Duration::from_secs(10), b"a", ALL),
        );
        let check =
            |nonces: &Nonces, age, tuple: &[u8], nonce: &str| nonces.check(age, tuple, nonce, ttl);
        assert_eq!(check(&nonces, made, b"a", &nonce), Some(ALL));
        assert_eq!(check(&nonces, made + ttl, b"a", &nonce), Some(ALL));
        let bare = Features::default().cookie();
        let stripped = nonce.replace(&ALL.cookie(), &bare);
        assert!(stripped.starts_with(&bare));
        let second = Duration::from_secs(1);
        for (age, tuple, nonce, why) in [
            (made + ttl + second, b"a", &nonce, "expired"),
            (made, b"b", &nonce, "another 5-tuple"),
            (Duration::ZERO, b"a", &nonce, "from the future"),
            (made, b"a", &stripped, "bits taken off"),
        ] {
            assert_eq!(check(&nonces, age, tuple, nonce), None, "{why}");
        }
        let others = Nonces::new([2; 32]);
        assert_eq!(check(&others, made, b"a", &nonce), None);
        for i in 0..nonce.len() {
            let mut touched = nonce.clone().into_bytes();
            touched[i] ^= 1;
            if let Ok(touched) = String::from_utf8(touched) {
                assert_eq!(check(&nonces, made, b"a", &touched), None, "byte {i}");
            }
        }
    }
}

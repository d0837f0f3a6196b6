//! What the server is told, and the limits it holds.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::TurnError;
use crate::policy::PeerPolicy;
use crate::stun::integrity::userhash;
use crate::stun::text::{Text, opaque_string, sasl_prep};
use crate::stun::{Key, KeyDigest};

/// The keys of one user. Passwords are not kept (RFC 8656 §5).
#[derive(Clone, Debug)]
pub struct Keys {
    /// MD5 of name, realm and password.
    pub md5: Option<Key>,
    /// SHA-256 of the same, for RFC 8489's password algorithm (T44).
    pub sha256: Option<Key>,
}

impl Keys {
    /// From a password that has been prepared.
    #[must_use]
    pub fn of(name: &str, realm: &str, password: &str) -> Self {
        let key = |digest| Some(Key::long_term_prepared(digest, name, realm, password));
        Self {
            md5: key(KeyDigest::Md5),
            sha256: key(KeyDigest::Sha256),
        }
    }

    pub(super) fn get(&self, digest: KeyDigest) -> Option<&Key> {
        match digest {
            KeyDigest::Md5 => self.md5.as_ref(),
            KeyDigest::Sha256 => self.sha256.as_ref(),
        }
    }
}

/// Users with fixed credentials, by name and by USERHASH.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_name: HashMap<String, Vec<Keys>>,
    by_hash: HashMap<[u8; 32], String>,
}

impl Users {
    /// Adds a user by password. The password is taken in both spellings, SASLprep (RFC 5389) and OpaqueString
    /// (RFC 8489), where they differ; then it is forgotten.
    ///
    /// # Errors
    /// [`TurnError::Prepare`] or [`TurnError::Text`] for a name or password that cannot be used.
    pub fn add_password(
        &mut self,
        realm: &str,
        name: &str,
        password: &str,
    ) -> Result<(), TurnError> {
        let name = sasl_prep("user name", name)?;
        let sasl = Zeroizing::new(sasl_prep("password", password)?);
        let opaque = Zeroizing::new(opaque_string("password", password)?);
        let mut keys = vec![Keys::of(&name, realm, &sasl)];
        if *sasl != *opaque {
            keys.push(Keys::of(&name, realm, &opaque));
        }
        self.insert(realm, name, keys)
    }

    /// Adds a user by keys.
    ///
    /// # Errors
    /// [`TurnError::Prepare`] or [`TurnError::Text`] for a name that cannot be used.
    pub fn add_keys(&mut self, realm: &str, name: &str, keys: Keys) -> Result<(), TurnError> {
        let name = sasl_prep("user name", name)?;
        self.insert(realm, name, vec![keys])
    }

    fn insert(&mut self, realm: &str, name: String, keys: Vec<Keys>) -> Result<(), TurnError> {
        if Text::Username.sent(&name)?.is_empty() {
            return Err(TurnError::Text(Text::Username, "is empty"));
        }
        self.by_hash.insert(userhash(&name, realm), name.clone());
        self.by_name.insert(name, keys);
        Ok(())
    }

    /// A user without a key of this digest, if there is one.
    fn lacking(&self, digest: KeyDigest) -> Option<&str> {
        let lacks = |keys: &Vec<Keys>| keys.iter().all(|keys| keys.get(digest).is_none());
        let found = self.by_name.iter().find(|(_, keys)| lacks(keys));
        found.map(|(name, _)| name.as_str())
    }

    pub(super) fn keys(&self, name: &str) -> Option<&[Keys]> {
        self.by_name.get(name).map(Vec::as_slice)
    }

    pub(super) fn name(&self, hash: &[u8]) -> Option<&str> {
        self.by_hash.get(hash).map(String::as_str)
    }
}

/// Users that something else knows: Anode keys, a database. It must answer at once and from memory.
pub trait Authority: Send + Sync {
    /// The keys of this name in this realm, if it may use the server now.
    fn keys(&self, name: &str, realm: &str) -> Option<Keys>;
}

/// An address that the server relays from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// What sockets bind to.
    pub local: IpAddr,
    /// What clients are told: another one where the server stands behind a static NAT.
    pub external: IpAddr,
}

/// When clients are sent elsewhere (T29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlternateWhen {
    /// Every Allocate.
    Always,
    /// Those that the server has no room for, and while it drains.
    #[default]
    Full,
}

/// Where clients are sent, answered in the family they asked on.
#[derive(Clone, Debug, Default)]
pub struct Alternate {
    /// Servers for UDP and TCP.
    pub plain: Vec<SocketAddr>,
    /// Servers for TLS and DTLS.
    pub secure: Vec<SocketAddr>,
    /// The name that the certificate there carries (ALTERNATE-DOMAIN).
    pub domain: Option<String>,
    /// When.
    pub when: AlternateWhen,
}

/// Limits on use. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Allocations of one user name at a time (486 beyond; T3, T19).
    pub allocations_per_user: usize,
    /// Allocations in all (508 beyond).
    pub allocations: usize,
    /// Kilobits a second of one allocation, both ways together (T8).
    pub kbps_per_allocation: u64,
    /// Kilobits a second of one user.
    pub kbps_per_user: u64,
    /// Kilobits a second in all.
    pub kbps: u64,
}

/// Bounds on what one allocation may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Permissions (508 beyond).
    pub permissions: usize,
    /// Channels (508 beyond).
    pub channels: usize,
    /// TCP connections to peers, bound or not (508 beyond).
    pub connections: usize,
    /// Unauthenticated answers a second to one source address (or IPv6 /64), over UDP.
    pub refusals_per_source: u32,
    /// Reservations held at a time, in all (508 beyond).
    pub reservations: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            permissions: 256,
            channels: 256,
            connections: 64,
            refusals_per_source: 50,
            reservations: 1024,
        }
    }
}

/// Everything the server is told. A new one may be given while it runs.
#[derive(Clone)]
pub struct Config {
    /// The realm: fewer than 128 characters. Over UDP, an answer with it must not exceed four times the request: keep
    /// it below 60 bytes.
    pub realm: String,
    /// Users with fixed credentials, made with the same realm.
    pub users: Users,
    /// Secrets for time-limited credentials: name `EXPIRY:USER`, password base64(HMAC-SHA1(secret, name)). The first
    /// one that fits counts, so that a secret can be changed without a gap.
    pub rest_secrets: Vec<Zeroizing<Vec<u8>>>,
    /// Users that something else knows.
    pub authority: Option<Arc<dyn Authority>>,
    /// Offer RFC 8489's SHA-256 family (T44), if every one of `users` has a key for it. An allocation made with it keeps
    /// it when a reload brings a user without.
    pub sha256: bool,
    /// How long a nonce is good; at most an hour (RFC 8656 §5).
    pub nonce_ttl: Duration,
    /// Addresses to relay from; each is used in turn (T2).
    pub relays: Vec<RelayAddress>,
    /// Ports to relay from (T20).
    pub ports: RangeInclusive<u16>,
    /// Whether TCP is relayed (RFC 6062).
    pub tcp_relay: bool,
    /// Whether the sockets can set the DF bit (T17); without it DONT-FRAGMENT is answered with 420.
    pub dont_fragment: bool,
    /// Peers that may be reached.
    pub policy: PeerPolicy,
    /// Where else clients may go.
    pub alternate: Alternate,
    /// Limits on use.
    pub quota: Quota,
    /// Bounds on what is held.
    pub bounds: Bounds,
    /// The longest lifetime granted.
    pub max_lifetime: Duration,
    /// Take channels 0x5000 to 0x7FFF from clients of RFC 5766 (T16).
    pub old_channels: bool,
    /// SOFTWARE; empty: none is sent (T25).
    pub software: String,
    /// How long a draining server keeps its allocations.
    pub drain: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("realm", &self.realm)
            .field("relays", &self.relays)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A server for this realm that relays from these addresses; nobody may use it yet.
    #[must_use]
    pub fn new(realm: &str, relays: Vec<RelayAddress>) -> Self {
        Self {
            realm: realm.to_owned(),
            users: Users::default(),
            rest_secrets: Vec::new(),
            authority: None,
            sha256: true,
            nonce_ttl: Duration::from_secs(3600),
            relays,
            ports: 49152..=65535,
            tcp_relay: true,
            dont_fragment: true,
            policy: PeerPolicy::default(),
            alternate: Alternate::default(),
            quota: Quota::default(),
            bounds: Bounds::default(),
            max_lifetime: Duration::from_secs(3600),
            old_channels: true,
            software: String::new(),
            drain: Duration::from_secs(60),
        }
    }

    /// As it is used: SHA-256 is offered if every user can have it. Clients choose from what is offered before they say
    /// who they are (RFC 8489 §9.2.3), and take the better one.
    pub(super) fn settled(mut self) -> Self {
        self.sha256 &= self.users.lacking(KeyDigest::Sha256).is_none();
        self
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`TurnError::Config`], [`TurnError::Digests`] or [`TurnError::Text`], with what is wrong.
    pub fn check(&self) -> Result<(), TurnError> {
        if Text::Realm.sent(&self.realm)?.is_empty() {
            return Err(TurnError::Text(Text::Realm, "is empty"));
        }
        Text::Software.sent(&self.software)?;
        if sasl_prep("realm", &self.realm)? != self.realm {
            return Err(TurnError::Config(
                "the realm is not in the form that SASLprep (RFC 4013) gives it",
            ));
        }
        let lacking = |digest| self.users.lacking(digest).map(str::to_owned);
        if let (Some(md5_only), Some(sha256_only)) =
            (lacking(KeyDigest::Sha256), lacking(KeyDigest::Md5))
        {
            return Err(TurnError::Digests {
                md5_only,
                sha256_only,
            });
        }
        if self.ports.is_empty() || *self.ports.start() < 1024 {
            return Err(TurnError::Config(
                "the range of relay ports is empty or reaches below 1024",
            ));
        }
        if self.relays.is_empty() && self.alternate.when != AlternateWhen::Always {
            return Err(TurnError::Config("there is no address to relay from"));
        }
        if self
            .relays
            .iter()
            .any(|r| r.local.is_ipv4() != r.external.is_ipv4())
        {
            return Err(TurnError::Config(
                "an external address is of another family than the address behind it",
            ));
        }
        if self
            .relays
            .iter()
            .any(|r| r.external.is_unspecified() || r.external.is_multicast())
        {
            return Err(TurnError::Config(
                "a relay address is no address of one host: give its external address",
            ));
        }
        if self.nonce_ttl > Duration::from_secs(3600) || self.nonce_ttl < Duration::from_secs(1) {
            return Err(TurnError::Config(
                "a nonce lives between a second and an hour",
            ));
        }
        Ok(())
    }
}

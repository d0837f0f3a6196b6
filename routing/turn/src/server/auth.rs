//! Who asks: long-term credentials (RFC 8489 §9.2), with nothing remembered about strangers.

use std::net::IpAddr;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac as _};
use sha1::Sha1;

use super::config::Keys;
use super::hash::Seed;
use super::table::Allocation;
use super::{ConnectionId, FiveTuple, Server};
use crate::frame::Transport;
use crate::stun::nonce::Features;
use crate::stun::text::{Text, sasl_prep, unquote};
use crate::stun::{Key, KeyDigest, Mac, Message, Writer, attr};

/// What answers to a caller are signed with: as the request was.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub key: Key,
    pub mac: Mac,
}

/// Somebody whose request is signed with a key of ours.
#[derive(Debug)]
pub(super) struct Caller {
    /// The name on the request: an allocation belongs to it (441).
    pub name: String,
    /// Whom its use is counted for: with time-limited names, what stands behind the time.
    pub account: String,
    pub signer: Signer,
    /// The digest chosen from the algorithms that the nonce had promised (T44).
    pub chosen: Option<KeyDigest>,
}

/// PASSWORD-ALGORITHMS as we send it: SHA-256 first, then MD5, both without parameters.
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

impl Server {
    /// What is offered to this client: what every user can have, since algorithms are chosen before a name is told; and to
    /// who holds an allocation, what its own user was offered. A client takes a smaller offer for an attack (T44), and
    /// would lose the allocation when a reload brings a user with less.
    fn features(&self, now: Instant, from: &FiveTuple, message: &Message<'_>) -> Features {
        let promised = || {
            let holder = self.holder(from, message)?;
            let digest = holder.chosen?;
            match self.keys(now, &holder.name) {
                Some((keys, _)) => keys.iter().find_map(|keys| keys.get(digest)).map(drop),
                // The user is gone, and told so in what the client believes.
                None => Some(()),
            }
        };
        let algorithms = self.config.sha256 || promised().is_some();
        Features {
            password_algorithms: algorithms,
            userhash: algorithms,
        }
    }

    /// The allocation that a request is about: the client's, or that of the connection which it is to take (RFC 6062).
    fn holder(&self, from: &FiveTuple, message: &Message<'_>) -> Option<&Allocation> {
        let of_connection = || {
            let id = message.raw(attr::CONNECTION_ID)?.try_into().ok()?;
            let id = ConnectionId(u32::from_be_bytes(id));
            Some(self.connections.get(&id)?.allocation)
        };
        let index = self.clients.get(from).copied().or_else(of_connection)?;
        self.allocations.get(index)
    }

    /// Checks a request in RFC 8489's order (§9.2.4). An error is the code to answer with.
    pub(super) fn authenticate(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<Caller, u16> {
        if !message.is_signed() {
            return Err(401);
        }
        let text = |t| message.text(t).map_err(|_| 400_u16);
        // Short-term credentials lack REALM and NONCE, and are never taken here (T10).
        let (Some(realm), Some(nonce)) = (text(Text::Realm)?, text(Text::Nonce)?) else {
            return Err(400);
        };
        let (name, hash) = (text(Text::Username)?, message.raw(attr::USERHASH));
        if name.is_none() && hash.is_none() {
            return Err(400);
        }
        let (age, ttl) = (self.age(now), self.config.nonce_ttl);
        let offered = self.nonces.check(age, &from.bytes(), nonce, ttl);
        let offered = offered.ok_or(438_u16)?;
        // A nonce that promises less than the next one would is stale.
        if !offered.password_algorithms && self.features(now, from, message).password_algorithms {
            return Err(438);
        }
        let (digest, chosen) = Self::digest(message, offered)?;
        let name = match (name, hash) {
            (Some(name), _) => name,
            (None, hash) => hash
                .and_then(|h| self.config.users.name(h))
                .ok_or(401_u16)?,
        };
        if unquote(realm) != self.config.realm {
            return Err(401);
        }
        let (keys, account) = self.keys(now, name).ok_or(401_u16)?;
        let fits = |keys: &Keys| {
            let key = keys.get(digest)?;
            let mac = key.verifies_any(message)?;
            Some(Signer {
                key: key.clone(),
                mac,
            })
        };
        let signer = keys.iter().find_map(fits).ok_or(401_u16)?;
        Ok(Caller {
            name: name.to_owned(),
            account,
            signer,
            chosen,
        })
    }

    /// Which digest makes the key, and whether it was chosen from an offer. The nonce says that we offered both, so what
    /// the client says that we offered must be just that: otherwise somebody between us took the better one away (T44).
    fn digest(
        message: &Message<'_>,
        offered: Features,
    ) -> Result<(KeyDigest, Option<KeyDigest>), u16> {
        if !offered.password_algorithms {
            return Ok((KeyDigest::Md5, None));
        }
        let (list, chosen) = (
            message.raw(attr::PASSWORD_ALGORITHMS),
            message.raw(attr::PASSWORD_ALGORITHM),
        );
        match (list, chosen) {
            (None, None) => Ok((KeyDigest::Md5, None)),
            (Some(list), Some([high, low, 0, 0])) if list == ALGORITHMS => {
                let digest = KeyDigest::from_number(u16::from_be_bytes([*high, *low]));
                digest.map(|digest| (digest, Some(digest))).ok_or(400)
            }
            _ => Err(400),
        }
    }

    /// All keys that this name may sign with, and whom its use is counted for.
    fn keys(&self, now: Instant, name: &str) -> Option<(Vec<Keys>, String)> {
        let bare = unquote(name);
        let prepared = || sasl_prep("user name", bare).ok();
        if let Some(keys) = self.config.users.keys(bare) {
            return Some((keys.to_vec(), bare.to_owned()));
        }
        if let Some(prepared) = prepared()
            && let Some(keys) = self.config.users.keys(&prepared)
        {
            return Some((keys.to_vec(), prepared));
        }
        if let Some(found) = self.time_limited(now, bare) {
            return Some(found);
        }
        let keys = self
            .config
            .authority
            .as_ref()?
            .keys(bare, &self.config.realm)?;
        Some((vec![keys], bare.to_owned()))
    }

    /// REST-style credentials: `EXPIRY:USER` with a password that follows from it.
    fn time_limited(&self, now: Instant, name: &str) -> Option<(Vec<Keys>, String)> {
        if self.config.rest_secrets.is_empty() || self.unix_at_epoch == 0 {
            return None;
        }
        let (expiry, user) = name.split_once(':').unwrap_or((name, ""));
        let expiry: i64 = expiry.parse().ok()?;
        if expiry
            <= self
                .unix_at_epoch
                .saturating_add(self.age(now).as_secs() as i64)
        {
            return None;
        }
        let keys = |secret: &zeroize::Zeroizing<Vec<u8>>| {
            let mut hmac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
            hmac.update(name.as_bytes());
            let password = STANDARD.encode(hmac.finalize().into_bytes());
            Some(Keys::of(name, &self.config.realm, &password))
        };
        let account = if user.is_empty() { name } else { user };
        Some((
            self.config.rest_secrets.iter().filter_map(keys).collect(),
            account.to_owned(),
        ))
    }

    /// Answers somebody who is not known (yet): 401 or 438 with what is needed to try again, or a plain 400. Unsigned,
    /// and over UDP only so many a second for one source.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        code: u16,
    ) {
        if from.transport == Transport::Udp
            && !self.sources.allows(self.shared.ns(now), from.client.ip())
        {
            self.counters.dropped_refusals += 1;
            return;
        }
        self.count_error(code);
        let mut writer = Writer::error(message.method(), message.transaction(), code);
        if code != 400 {
            let features = self.features(now, from, message);
            let nonce = self.nonces.make(self.age(now), &from.bytes(), features);
            writer = writer
                .raw(attr::REALM, self.config.realm.as_bytes())
                .raw(attr::NONCE, nonce.as_bytes());
            if features.password_algorithms {
                writer = writer.raw(attr::PASSWORD_ALGORITHMS, &ALGORITHMS);
            }
        }
        // SOFTWARE only where it does not make the answer larger than it may be; 8 is for FINGERPRINT.
        let request = message.bytes().len();
        let software = 4 + self.config.software.len().next_multiple_of(4);
        let bytes = if writer.size() + software + 8 <= allowance(from, request) {
            self.finish(writer, message, None)
        } else {
            writer.finish()
        };
        self.send_unverified(from, request, bytes);
    }

    /// Adds ALTERNATE-SERVER in the family and security of the asker (T29).
    pub(super) fn add_alternate(&mut self, writer: Writer, from: &FiveTuple) -> Writer {
        let Some(address) = self.alternate(from) else {
            return writer;
        };
        let raw = stun_types::attribute::AlternateServer::new(address);
        let writer = writer.typed(&raw);
        match &self.config.alternate.domain {
            Some(domain) => writer.raw(attr::ALTERNATE_DOMAIN, domain.as_bytes()),
            None => writer,
        }
    }

    /// Where this client may go instead.
    pub(super) fn alternate(&self, from: &FiveTuple) -> Option<std::net::SocketAddr> {
        let alternate = &self.config.alternate;
        let list = if from.transport.is_secure() {
            &alternate.secure
        } else {
            &alternate.plain
        };
        list.iter()
            .copied()
            .find(|a| a.is_ipv4() == from.client.is_ipv4())
    }
}

/// How long an answer may be to somebody who has proven nothing: over UDP, where the source may be forged, four times
/// what came, headers counted.
pub(super) fn allowance(to: &FiveTuple, request: usize) -> usize {
    let headers = if to.client.is_ipv4() { 28 } else { 48 };
    if to.transport == Transport::Udp {
        4 * request + 3 * headers
    } else {
        usize::MAX
    }
}

/// How many unsigned refusals each source has had: a table of fixed size, indexed by a keyed hash of the source. Two
/// sources may share a place; then they share the allowance.
pub(super) struct Sources {
    seed: Seed,
    due: Box<[u64]>,
    interval_ns: u64,
}

impl Sources {
    const PLACES: usize = 8192;

    pub fn new(seed: Seed, per_second: u32) -> Self {
        let mut sources = Self {
            seed,
            due: vec![0; Self::PLACES].into_boxed_slice(),
            interval_ns: 0,
        };
        sources.set_rate(per_second);
        sources
    }

    pub fn set_rate(&mut self, per_second: u32) {
        self.interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
    }

    fn allows(&mut self, now_ns: u64, source: IpAddr) -> bool {
        let source = match source.to_canonical() {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a) >> 64 << 64 | 1,
        };
        let place = &mut self.due[self.seed.number(source) as usize % Self::PLACES];
        let next = (*place).max(now_ns) + self.interval_ns;
        let fine = next <= now_ns + 1_000_000_000; // a second's worth at once
        if fine {
            *place = next;
        }
        fine
    }
}

//! The client's side of long-term credentials.

use super::{Client, Config};
use crate::stun::integrity::userhash;
use crate::stun::nonce::Features;
use crate::stun::text::{Text, sasl_prep};
use crate::stun::{Key, KeyDigest, Mac, Message, Writer, attr};

/// What a server's 401 or 438 told us, and the key that follows from it.
#[derive(Clone)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
    name: String,
    /// PASSWORD-ALGORITHMS as it came, and the digest chosen (T44).
    algorithms: Option<(Vec<u8>, KeyDigest)>,
    userhash: bool,
    pub key: Key,
    pub mac: Mac,
}

/// What to make of a 401 or 438.
pub(super) enum Challenged {
    /// Try again with this.
    Again(Box<Challenge>),
    /// As if it never came: somebody took the better algorithms out (T44), or it lacks what it must hold.
    Ignore,
    /// There is nothing to answer with.
    NoCredentials,
}

impl Client {
    /// Reads REALM, NONCE and PASSWORD-ALGORITHMS of a 401 or 438.
    pub(super) fn challenged(&self, message: &Message<'_>) -> Challenged {
        let old = self.challenge.as_ref();
        let Ok(Some(nonce)) = message.text(Text::Nonce) else {
            return Challenged::Ignore;
        };
        let realm = match message.text(Text::Realm) {
            Ok(Some(realm)) => realm,
            // 438 may leave it out; the realm of a server does not change.
            Ok(None) => match old {
                Some(old) => old.realm.as_str(),
                None => return Challenged::Ignore,
            },
            Err(_) => return Challenged::Ignore,
        };
        let features = Features::of(nonce);
        let offered = message.raw(attr::PASSWORD_ALGORITHMS);
        let had_algorithms = old.is_some_and(|o| o.algorithms.is_some());
        let algorithms = match (features.password_algorithms, offered) {
            // The cookie says that there are algorithms: without them it is not the server's answer.
            (true, None) => return Challenged::Ignore,
            (true, Some(offered)) => match choose(offered) {
                Some(digest) => Some((offered.to_vec(), digest)),
                None => return Challenged::Ignore,
            },
            // What has been offered once is not taken back.
            (false, _) if had_algorithms => return Challenged::Ignore,
            (false, _) => None,
        };
        let Some(credentials) = &self.config.credentials else {
            return Challenged::NoCredentials;
        };
        let Ok(name) = sasl_prep("user name", &credentials.name) else {
            return Challenged::NoCredentials;
        };
        let digest = algorithms
            .as_ref()
            .map_or(KeyDigest::Md5, |(_, digest)| *digest);
        let made = self
            .config
            .make_password
            .as_ref()
            .map(|make| make.make(realm));
        let password = made.as_ref().unwrap_or(&credentials.password);
        let Ok(key) = Key::long_term(digest, &name, realm, password) else {
            return Challenged::NoCredentials;
        };
        if Text::Username.sent(&name).is_err() {
            return Challenged::NoCredentials;
        }
        Challenged::Again(Box::new(Challenge {
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            name,
            mac: if algorithms.is_some() {
                Mac::Sha256
            } else {
                Mac::Sha1
            },
            userhash: features.userhash,
            algorithms,
            key,
        }))
    }

    /// Whether a challenge is for the realm that was answered last.
    pub(super) fn is_in_realm_of(&self, challenge: &Challenge) -> bool {
        let old = self.challenge.as_ref();
        old.is_none_or(|old| old.realm == challenge.realm)
    }

    /// Takes over a challenge; `false` if it is word for word the one that has just failed.
    pub(super) fn accept_challenge(&mut self, challenge: Challenge) -> bool {
        let same = self
            .challenge
            .as_ref()
            .is_some_and(|o| o.nonce == challenge.nonce && o.realm == challenge.realm);
        self.challenge = Some(challenge);
        !same
    }
}

impl Challenge {
    /// Adds credentials and integrity. Realm and nonce go back just as they came (T27).
    pub fn sign(&self, writer: Writer, config: &Config) -> Writer {
        let writer = if self.userhash && config.hide_name {
            writer.raw(attr::USERHASH, &userhash(&self.name, &self.realm))
        } else {
            writer.raw(attr::USERNAME, self.name.as_bytes())
        };
        let mut writer = writer
            .raw(attr::REALM, self.realm.as_bytes())
            .raw(attr::NONCE, self.nonce.as_bytes());
        if let Some((offered, digest)) = &self.algorithms {
            let [high, low] = digest.number().to_be_bytes();
            writer = writer
                .raw(attr::PASSWORD_ALGORITHMS, offered)
                .raw(attr::PASSWORD_ALGORITHM, &[high, low, 0, 0]);
        }
        writer.sign(&self.key, self.mac)
    }
}

/// The first algorithm of a PASSWORD-ALGORITHMS that we know: the server lists them by its preference.
fn choose(mut offered: &[u8]) -> Option<KeyDigest> {
    while let Some((header, rest)) = offered.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let known = KeyDigest::from_number(u16::from_be_bytes([header[0], header[1]]));
        if let Some(digest) = known
            && length == 0
        {
            return Some(digest);
        }
        offered = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

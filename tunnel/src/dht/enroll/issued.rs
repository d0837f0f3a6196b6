//! Who may have certificates, and who has which Peer-ID: whoever renews one keeps its place on the ring (R126, R143).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anode_platform::files::{read_secret, write_atomic};
use anode_routing::dht::reload::Id;
use anode_routing::dht::reload::security::{Certificate, CredentialServer, SigningRequest};
use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::digest::secret;
use super::{CredentialServerEntry, MAX_WORD, is_user, state_file};
use crate::Error;
use crate::clock::unix;
use crate::state::book::hex;

/// Bytes of a users file.
const MAX_USERS_FILE: usize = 4 << 20;
/// Machines of one user with a certificate that is still good (R143).
const MAX_MACHINES: usize = 16;
/// Certificates in all that are still good.
const MAX_ISSUED: usize = 16_384;
/// How long a root is good, in seconds: ten years.
const ROOT: u64 = 3650 * 86_400;
/// Certificates are good from an hour before, for clocks that are behind; those of hours, from a quarter of their time before.
const BEFORE: u64 = 3600;

/// Secrets of users, by their names.
type Users = BTreeMap<String, Zeroizing<String>>;

/// One certificate that was issued, by its key.
#[derive(Clone, Serialize, Deserialize)]
struct Issued {
    user: String,
    /// SHA-256 of the key, in hexadecimal digits.
    key: String,
    /// The Peer-ID.
    peer: String,
    /// Unix seconds.
    until: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Book {
    #[serde(default)]
    issued: Vec<Issued>,
}

/// Why somebody gets no certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// The request cannot be read, or asks for what this user may not have.
    Request(String),
    /// The user has too many machines, or the server too many users.
    Full,
    /// It could not be written down.
    State(String),
}

/// The overlay's key, its users, and what was issued.
pub struct Authority {
    overlay: String,
    server: CredentialServer,
    users_file: PathBuf,
    users: Users,
    state: PathBuf,
    book: Book,
    /// Seconds that a certificate is good from its making.
    lifetime: u64,
}

impl Authority {
    /// Of an earlier run, or a new one.
    ///
    /// # Errors
    /// A file cannot be read or written, or says nothing sensible.
    pub fn open(entry: &CredentialServerEntry, overlay: &str, state: &Path) -> Result<Self, Error> {
        let server = root(&state_file(state, overlay, "key"), overlay)?;
        let book = state_file(state, overlay, "issued");
        let book = match std::fs::read_to_string(&book) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                Error::refused(format!("{}: {}", book.display(), error.message()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(Error::refused(format!("{}: {error}", book.display()))),
        };
        Ok(Self {
            users: read_users(&entry.users_file, overlay)?,
            users_file: entry.users_file.clone(),
            overlay: overlay.to_owned(),
            server,
            state: state.to_owned(),
            book,
            lifetime: entry.lifetime.as_secs(),
        })
    }

    /// Its key.
    pub fn server(&self) -> &CredentialServer {
        &self.server
    }

    /// Reads the users anew. Where that fails, those that are known stay.
    pub fn read_again(&mut self) {
        match read_users(&self.users_file, &self.overlay) {
            Ok(users) => self.users = users,
            Err(error) => tracing::warn!("credential server: {error}"),
        }
    }

    /// What proves this user.
    pub fn secret(&self, user: &str) -> Option<Zeroizing<String>> {
        self.users.get(user).cloned()
    }

    /// A certificate for a user who has proven himself; for this node itself, the user has no name.
    pub fn issue(&mut self, user: &str, request: &[u8]) -> Result<Certificate, Denied> {
        let now = unix();
        let wrong = |error: &dyn std::fmt::Display| Denied::Request(error.to_string());
        let request = SigningRequest::from_der(request).map_err(|error| wrong(&error))?;
        let key = hex(&request.key_digest());
        self.book.issued.retain(|it| it.until > now);
        let known = self.book.issued.iter();
        let known = known.filter(|it| it.user == user);
        let same = known.clone().find(|it| it.key == key);
        let mut rng = UnwrapErr(SysRng);
        let peer = match same.and_then(|it| parse_id(&it.peer)) {
            Some(peer) => peer,
            None if known.count() >= MAX_MACHINES || self.book.issued.len() >= MAX_ISSUED => {
                return Err(Denied::Full);
            }
            None => crate::dht::links::random_id(),
        };
        let until = now + self.lifetime;
        let granted = [format!("{user}@{}", self.overlay)];
        let before = BEFORE.min(self.lifetime / 4);
        let valid = (now.saturating_sub(before), until);
        let certificate = self.server.renew(&request, &granted, peer, valid, &mut rng);
        let certificate = certificate.map_err(|error| wrong(&error))?;
        self.book
            .issued
            .retain(|it| it.user != user || it.key != key);
        self.book.issued.push(Issued {
            user: user.to_owned(),
            key,
            peer: peer.to_string(),
            until,
        });
        self.save()
            .map_err(|error| Denied::State(error.to_string()))?;
        Ok(certificate)
    }

    fn save(&self) -> Result<(), Error> {
        let text = toml::to_string(&self.book);
        let text = text.map_err(|error| Error::refused(error.to_string()))?;
        let file = state_file(&self.state, &self.overlay, "issued");
        Ok(write_atomic(&file, text.as_bytes(), 0o600)?)
    }
}

fn parse_id(text: &str) -> Option<Id> {
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(Id::from_number(number)).filter(|id| id.is_valid_peer())
}

/// The root's key: 64 hexadecimal digits and the second from which on it is good.
fn root(file: &Path, overlay: &str) -> Result<CredentialServer, Error> {
    let wrong = |why: &str| Error::refused(format!("{}: {why}", file.display()));
    if !file.exists() {
        let mut scalar = Zeroizing::new([0; 32]);
        UnwrapErr(SysRng).fill_bytes(&mut scalar[..]);
        let from = unix().saturating_sub(BEFORE);
        let text = Zeroizing::new(format!("{} {from}\n", hex(&scalar[..])));
        write_atomic(file, text.as_bytes(), 0o600)?;
    }
    let text = Zeroizing::new(read_secret(file, 256)?);
    let text = str::from_utf8(&text).map_err(|_| wrong("it is no text"))?;
    let (digits, from) = text
        .trim()
        .split_once(' ')
        .ok_or_else(|| wrong("it is no key of a credential server"))?;
    let scalar = Zeroizing::new(crate::dht::text::unhex(digits).unwrap_or_default());
    let scalar: Zeroizing<[u8; 32]> = Zeroizing::new(
        scalar[..]
            .try_into()
            .map_err(|_| wrong("its key has not 64 hexadecimal digits"))?,
    );
    let from: u64 = from.parse().map_err(|_| wrong("its time is no number"))?;
    CredentialServer::new(&scalar, overlay, (from, from + ROOT))
        .map_err(|error| wrong(&error.to_string()))
}

/// `user:password`, or `user:OVERLAY:` and 64 hexadecimal digits, SHA-256 of `user:OVERLAY:password`.
fn read_users(file: &Path, overlay: &str) -> Result<Users, Error> {
    let bytes = Zeroizing::new(read_secret(file, MAX_USERS_FILE)?);
    let wrong = |line: usize, why: &str| {
        // No word of the line itself: it holds a password.
        Error::refused(format!("{}:{line}: {why}", file.display()))
    };
    let text = str::from_utf8(&bytes).map_err(|_| wrong(1, "it is not in UTF-8"))?;
    let mut users = Users::new();
    for (place, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.trim_start().is_empty() || line.starts_with('#') {
            continue;
        }
        let number = place + 1;
        let (user, password) = line
            .split_once(':')
            .ok_or_else(|| wrong(number, "write user:password"))?;
        if !is_user(user) {
            return Err(wrong(
                number,
                "a user has 1 to 64 letters, digits, '-', '.', '_' and '+'",
            ));
        }
        if password.is_empty() || password.len() > MAX_WORD {
            return Err(wrong(number, "a password has 1 to 256 bytes"));
        }
        let hashed = password.rsplit_once(':').filter(|(realm, digest)| {
            let digits = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
            *realm == overlay && digest.len() == 64 && digits
        });
        let secret = match hashed {
            Some((_, digest)) => Zeroizing::new(digest.to_ascii_lowercase()),
            None => secret(user, overlay, password),
        };
        if users.insert(user.to_owned(), secret).is_some() {
            return Err(wrong(number, "this user stands twice"));
        }
    }
    match users.is_empty() {
        true => Err(wrong(1, "it names no user")),
        false => Ok(users),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anode_routing::dht::reload::security::request_for;
    use anode_wire::{Identity, Zone};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    const OVERLAY: &str = "home.example";
    const DAY: u64 = 86_400;

    fn write(file: &Path, text: &str) {
        std::fs::write(file, text).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn open(test: &Path) -> Authority {
        let entry = CredentialServerEntry {
            users_file: test.join("users"),
            lifetime: Duration::from_secs(60 * DAY),
            listen: Vec::new(),
        };
        Authority::open(&entry, OVERLAY, test).unwrap()
    }

    fn identity(number: u8) -> Identity {
        Identity::from_scalar(Zone(0), &[number; 32]).unwrap()
    }

    // R126, R127, R143: whoever renews keeps its Peer-ID, over a restart of the server too; nobody has many
    #[test]
    fn a_machine_keeps_its_place_and_a_user_has_few() {
        let test = crate::state::testing::TestDir::new();
        let test = test.path();
        write(&test.join("users"), "alice:one\nbob:two\n");
        let mut authority = open(test);
        let ask = |number: u8| request_for(&identity(number), &["alice@home.example"]).unwrap();
        let first = authority.issue("alice", &ask(1)).unwrap();
        let other = authority.issue("alice", &ask(2)).unwrap();
        assert_ne!(first.peers(), other.peers());
        assert_eq!(first.names(), ["alice@home.example"]);
        let (from, until) = first.validity();
        assert_eq!(until - from, 60 * DAY + BEFORE);
        let mut authority = open(test);
        let renewed = authority.issue("alice", &ask(1)).unwrap();
        assert_eq!(renewed.peers(), first.peers());
        assert_ne!(renewed.der(), first.der(), "another serial number");
        assert!(renewed.is_issued_by(authority.server().root()));
        assert!(matches!(
            authority.issue("bob", &ask(3)),
            Err(Denied::Request(_))
        ));
        assert!(matches!(
            authority.issue("alice", b"no request"),
            Err(Denied::Request(_))
        ));
        for number in 3..=16 {
            authority.issue("alice", &ask(number)).unwrap();
        }
        assert_eq!(authority.issue("alice", &ask(17)), Err(Denied::Full));
        let mode = |file: &str| test.join(file).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("dht-home.example.key"), 0o600);
        assert_eq!(mode("dht-home.example.issued"), 0o600);
    }

    #[test]
    fn users_are_read_as_they_are_written_and_no_password_is_told() {
        let test = crate::state::testing::TestDir::new();
        let file = test.path().join("users");
        let digest = secret("bob", OVERLAY, "secret:word");
        write(
            &file,
            &format!(
                "# people\n\nalice:secret:word\nbob:{OVERLAY}:{}\n",
                &*digest
            ),
        );
        let users = read_users(&file, OVERLAY).unwrap();
        assert_eq!(*users["alice"], *secret("alice", OVERLAY, "secret:word"));
        assert_eq!(*users["bob"], *digest);
        for (text, why) in [
            ("alice hunter2\n", "user:password"),
            ("a b:hunter2\n", "letters"),
            ("alice:\n", "1 to 256"),
            ("alice:hunter2\nalice:hunter2\n", "twice"),
            ("# nobody\n", "no user"),
        ] {
            write(&file, text);
            let error = read_users(&file, OVERLAY).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_users(&file, OVERLAY).is_err(), "others may read it");
    }
}

//! Enrollment (R123, R126, R127, RD59): an overlay whose members have certificates of its credential server.
//!
//! ```text
//!  a node: user, password-file                    `anode relay`: [dht.credential-server]
//!    client: keep ── PKCS#10 over HTTPS, Digest ──▶ server ─▶ issued: who may have what, which Peer-ID
//!    state: dht-OVERLAY.crt ◀─── certificate ──────┘        state: dht-OVERLAY.key, .issued, .xml, .pem
//! ```
//!
//! Passwords are read at the start, kept in memory that is wiped, and never logged; over the wire goes a digest of them,
//! inside TLS.

pub mod client;
mod digest;
mod issued;
mod multicast;
pub mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Path of the credential server beside that of the document (R123).
pub const CREDENTIALS_PATH: &str = "/p2psip/credentials";
/// Media type of a request (RFC 5967).
const REQUEST_TYPE: &str = "application/pkcs10";
/// Media type of an answer (RFC 2585).
const CERTIFICATE_TYPE: &str = "application/pkix-cert";
/// Bytes of a user's name, and of a password.
const MAX_WORD: usize = 256;

/// `[dht.credential-server]`: this node issues the certificates of its overlay's members.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CredentialServerEntry {
    /// `users-file = "FILE"`: who gets certificates, `user:password` on each line.
    pub users_file: PathBuf,
    /// `days = 60`: how long a certificate is good.
    #[serde(default = "sixty", deserialize_with = "days")]
    pub days: u32,
    /// `listen = ["192.0.2.1:6085"]`: where it is asked, by HTTPS.
    #[serde(default = "anywhere")]
    pub listen: Vec<SocketAddr>,
}

fn sixty() -> u32 {
    60
}

fn anywhere() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0; 8], 6085))]
}

fn days<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(deserializer)?;
    match (1..=3650).contains(&days) {
        true => Ok(days),
        false => Err(serde::de::Error::custom("days: use 1 to 3650")),
    }
}

impl CredentialServerEntry {
    /// Files are named from where the configuration is.
    pub fn locate(&mut self, directory: &Path) {
        self.users_file = directory.join(&self.users_file);
    }
}

/// A user's name, as it stands before `@OVERLAY` in a certificate.
pub fn is_user(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(letters)
}

/// What an overlay keeps in the state directory.
fn state_file(state: &Path, overlay: &str, what: &str) -> PathBuf {
    state.join(format!("dht-{overlay}.{what}"))
}

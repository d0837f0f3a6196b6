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
use std::time::Duration;

use serde::Deserialize;

use super::config::listen_list;

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
    /// `days = 60`, or a part of one: how long a certificate is good.
    #[serde(rename = "days", default = "sixty", deserialize_with = "days")]
    pub lifetime: Duration,
    /// `listen = ["192.0.2.1:6085"]`: where it is asked, by HTTPS.
    #[serde(default = "anywhere", deserialize_with = "listen_list")]
    pub listen: Vec<SocketAddr>,
}

/// Seconds of a day.
const DAY: f64 = 86_400.0;
/// Days that a certificate may be good: from some nine seconds, which are for trying renewal out.
const DAYS: std::ops::RangeInclusive<f64> = 0.0001..=3650.0;

fn sixty() -> Duration {
    Duration::from_secs(60 * 86_400)
}

fn anywhere() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0; 8], 6085))]
}

fn days<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let days = f64::deserialize(deserializer)?;
    match DAYS.contains(&days) {
        true => Ok(Duration::from_secs_f64(days * DAY)),
        false => Err(serde::de::Error::custom("days: use 0.0001 to 3650")),
    }
}

/// When a certificate is asked for anew: half of its time is over (R137: less than 30 of 60 days are left).
fn renew_after((from, until): (u64, u64), now: u64) -> Duration {
    let half = from + until.saturating_sub(from) / 2;
    Duration::from_secs(half.saturating_sub(now))
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

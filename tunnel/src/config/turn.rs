//! The section `[turn]`: a TURN server.
//!
//! ```toml
//! [turn]
//! listen = ["192.0.2.1:3478"]             # UDP and TCP
//! listen-tls = ["192.0.2.1:5349"]         # TLS and DTLS
//! relay = ["192.0.2.1"]                   # addresses to relay from
//! external = { "10.0.0.5" = "192.0.2.1" } # what others see of them
//! port-range = [49152, 65535]
//! realm = "example.org"
//! users = { alice = "password", bob = { md5 = "HEX", sha256 = "HEX" } }
//! rest-secret = "shared with who makes time-limited names"
//! quota = { allocations-per-user = 10, kbps = 100000 }
//! tls = { cert = "fullchain.pem", key = "key.pem", min-version = "1.2" }
//! deny-peers = ["198.51.100.0/24"]
//! ```

mod secret;
pub(super) mod values;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anode_routing::turn::certificate::{CertificateError, MinVersion, ServerCertificate};
use anode_routing::turn::server::Settings;
use anode_turn::TurnError;
use anode_turn::policy::PeerPolicy;
use anode_turn::server::config::{Alternate, AlternateWhen};
use anode_turn::server::{Config, Keys, RelayAddress, Users};
use anode_turn::stun::text::Text as Limited;
use anode_turn::stun::{Key, KeyDigest};
use serde::Deserialize;
use zeroize::Zeroizing;

pub use secret::{Credential, Secret, UserTable};
pub use values::{Cidr, Count, Drain, Ip, NonceTtl, Place, PortRange};

use crate::Error;
use crate::value::{Number, Text};

/// The realm of a server that is given none.
const REALM: &str = "anode";

/// The section; `None` and empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Turn {
    /// UDP and TCP.
    pub listen: Vec<Text<Place>>,
    /// TLS and DTLS.
    pub listen_tls: Vec<Text<Place>>,
    /// Addresses to relay from; those that `listen` names where it says nothing.
    pub relay: Vec<Text<Ip>>,
    /// What others see of them, where this machine stands behind a NAT of one to one.
    pub external: BTreeMap<Text<Ip>, Text<Ip>>,
    /// Ports to relay from, the last one included.
    pub port_range: Option<PortRange>,
    /// The realm of all names and passwords.
    pub realm: Option<String>,
    /// Users with fixed credentials.
    pub users: UserTable,
    /// The secret of time-limited credentials.
    pub rest_secret: Option<Secret>,
    /// Whether Anode keys are credentials, and whose.
    pub anode_users: AnodeUsers,
    /// Limits on use.
    pub quota: Quota,
    /// How long a nonce is good, in seconds.
    pub nonce_ttl_s: Option<Number<NonceTtl>>,
    /// The certificate of `listen-tls`.
    pub tls: Option<Tls>,
    /// Peers that may be reached although the built-in list refuses them.
    pub allow_peers: Vec<Text<Cidr>>,
    /// Peers that may not be reached, whatever else is said.
    pub deny_peers: Vec<Text<Cidr>>,
    /// Where clients are sent that came over UDP or TCP.
    pub alternate: Vec<Text<Place>>,
    /// Where clients are sent that came over TLS or DTLS.
    pub alternate_tls: Vec<Text<Place>>,
    /// The name that the certificate there carries.
    pub alternate_domain: Option<String>,
    /// When they are sent there.
    pub alternate_when: When,
    /// Take channels that only RFC 5766 allows.
    pub old_channels: Option<bool>,
    /// SOFTWARE in answers; none by default.
    pub software: Option<String>,
    /// How long allocations are kept after SIGTERM, in seconds.
    pub drain_s: Option<Number<Drain>>,
}

/// `quota`; 0, or nothing, is no limit. Rates are in kbit/s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quota {
    /// Allocations of one user at a time.
    pub allocations_per_user: Number<Count>,
    /// Allocations in all.
    pub allocations: Number<Count>,
    /// Of one user.
    pub kbps_per_user: Number<Count>,
    /// Of one allocation, both ways together.
    pub kbps_per_allocation: Number<Count>,
    /// In all.
    pub kbps: Number<Count>,
}

/// `tls`: PEM files, from where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The chain, from the leaf up.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The lowest version spoken.
    #[serde(default)]
    pub min_version: Version,
}

/// `min-version`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// TLS 1.2, DTLS 1.2
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3, DTLS 1.3
    #[serde(rename = "1.3")]
    V13,
}

/// `anode-users`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnodeUsers {
    /// Nobody's.
    #[default]
    Off,
    /// Those of trusted peers.
    Trusted,
    /// Those of members of our zone, too.
    Zone,
}

/// `alternate-when`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Always.
    Always,
    /// When there is no room, and while the server drains.
    #[default]
    Full,
}

impl Turn {
    /// What can be told without opening anything; `path` stands in messages.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        let wrong = |key: &str, problem: &str| {
            Err(Error::invalid(
                format!("{}: [turn] {key}", path.display()),
                problem,
            ))
        };
        if self.listen.is_empty() && self.listen_tls.is_empty() {
            return wrong(
                "listen",
                "nowhere to listen: write listen = [\"IP:3478\"], or listen-tls = [\"IP:5349\"]",
            );
        }
        let both = self
            .listen
            .iter()
            .find(|place| self.listen_tls.contains(place));
        if let Some(both) = both.filter(|place| place.0.0.port() != 0) {
            let problem = format!("{} stands in listen, too: use another port", both.0.0);
            return wrong("listen-tls", &problem);
        }
        for (key, places) in [("listen", &self.listen), ("listen-tls", &self.listen_tls)] {
            if let Some(twice) = twice(places).filter(|place| place.0.0.port() != 0) {
                return wrong(key, &format!("{} stands there twice", twice.0.0));
            }
        }
        if !self.listen_tls.is_empty() && self.tls.is_none() {
            return wrong(
                "listen-tls",
                "needs a certificate: write tls = { cert = \"FILE\", key = \"FILE\" }",
            );
        }
        for (local, external) in &self.external {
            if !self.relays().contains(&local.0.0) {
                let problem = format!("{} is none of the addresses in relay", local.0.0);
                return wrong("external", &problem);
            }
            if local.0.0.is_ipv4() != external.0.0.is_ipv4() {
                let problem = format!("{} and {} are of two families", local.0.0, external.0.0);
                return wrong("external", &problem);
            }
            if is_many(external.0.0) {
                let problem = format!("{} {OF_ONE}", external.0.0);
                return wrong("external", &problem);
            }
        }
        let redirects = self.alternate_when == When::Always;
        let elsewhere = !self.alternate.is_empty() || !self.alternate_tls.is_empty();
        if redirects && !elsewhere {
            return wrong(
                "alternate-when",
                "there is nowhere to send clients: write alternate = [\"IP:PORT\"]",
            );
        }
        if self.relays().is_empty() && !redirects {
            return wrong(
                "relay",
                "no address to relay from: write relay = [\"IP\"] with an address of this machine, since listen names none",
            );
        }
        if let Some(many) = self.relays().iter().find(|ip| is_many(**ip)) {
            return wrong("relay", &format!("{many} {OF_ONE}"));
        }
        if let Some(twice) = twice(&self.relay) {
            return wrong("relay", &format!("{} stands there twice", twice.0.0));
        }
        let alternates = [
            ("alternate", &self.alternate),
            ("alternate-tls", &self.alternate_tls),
        ];
        for (key, places) in alternates {
            let nowhere = |place: &&Text<Place>| place.0.0.port() == 0 || is_many(place.0.0.ip());
            if let Some(place) = places.iter().find(nowhere) {
                let problem = format!("{} is no place of a server: write its IP:PORT", place.0.0);
                return wrong(key, &problem);
            }
        }
        if let Some(domain) = &self.alternate_domain
            && (anode_routing::turn::certificate::Name::host(domain).is_err()
                || domain.parse::<IpAddr>().is_ok())
        {
            return wrong("alternate-domain", &format!("{domain:?} is no host name"));
        }
        if self.realm().contains(['"', '\\']) {
            let problem = "holds a quotation mark or a backslash: leave it out";
            return wrong("realm", problem);
        }
        let software = self.software.as_deref().unwrap_or_default();
        if software.contains(char::is_control) {
            return wrong("software", "holds control characters: leave them out");
        }
        if self
            .rest_secret
            .as_ref()
            .is_some_and(|secret| secret.0.is_empty())
        {
            return wrong("rest-secret", "is empty");
        }
        for (name, credential) in &self.users.0 {
            if let Err(problem) = add_user(&mut Users::default(), self.realm(), name, credential) {
                return wrong(&format!("users {name:?}"), &problem);
            }
        }
        match self.config() {
            Ok(config) => config.check().or_else(|error| {
                let key = match error {
                    TurnError::Digests { .. } => "users",
                    TurnError::Text(Limited::Software, _) => "software",
                    _ => "realm",
                };
                wrong(key, &error.to_string())
            }),
            Err(problem) => wrong("users", &problem),
        }
    }

    fn realm(&self) -> &str {
        self.realm.as_deref().unwrap_or(REALM)
    }

    /// The addresses to relay from.
    fn relays(&self) -> Vec<IpAddr> {
        if !self.relay.is_empty() {
            return self.relay.iter().map(|ip| ip.0.0).collect();
        }
        let mut relays: Vec<IpAddr> = Vec::new();
        for place in self.listen.iter().chain(&self.listen_tls) {
            let ip = place.0.0.ip();
            if !ip.is_unspecified() && !relays.contains(&ip) {
                relays.push(ip);
            }
        }
        relays
    }

    /// For people: from which addresses and ports is relayed.
    pub fn relaying(&self) -> String {
        let relays: Vec<String> = self.relays().iter().map(ToString::to_string).collect();
        let PortRange(first, last) = self.port_range.unwrap_or(PortRange(49_152, 65_535));
        format!("{} ports {first}-{last}", relays.join(" "))
    }

    /// As the state machine has it.
    pub(super) fn config(&self) -> Result<Config, String> {
        let relay = |local: IpAddr| RelayAddress {
            local,
            external: self
                .external
                .iter()
                .find(|(of, _)| of.0.0 == local)
                .map_or(local, |(_, external)| external.0.0),
        };
        let mut config = Config::new(self.realm(), self.relays().into_iter().map(relay).collect());
        for (name, credential) in &self.users.0 {
            add_user(&mut config.users, self.realm(), name, credential)?;
        }
        if let Some(secret) = &self.rest_secret {
            config.rest_secrets = vec![Zeroizing::new(secret.0.as_bytes().to_vec())];
        }
        if let Some(PortRange(first, last)) = self.port_range {
            config.ports = first..=last;
        }
        let prefixes = |list: &[Text<Cidr>]| list.iter().map(|cidr| cidr.0.0).collect();
        config.policy = PeerPolicy {
            deny: prefixes(&self.deny_peers),
            allow: prefixes(&self.allow_peers),
            ..PeerPolicy::default()
        };
        let places = |list: &[Text<Place>]| list.iter().map(|place| place.0.0).collect();
        config.alternate = Alternate {
            plain: places(&self.alternate),
            secure: places(&self.alternate_tls),
            domain: self.alternate_domain.clone(),
            when: match self.alternate_when {
                When::Always => AlternateWhen::Always,
                When::Full => AlternateWhen::Full,
            },
        };
        let number = |count: Number<Count>| count.0.0;
        config.quota = anode_turn::server::Quota {
            allocations_per_user: number(self.quota.allocations_per_user) as usize,
            allocations: number(self.quota.allocations) as usize,
            kbps_per_allocation: number(self.quota.kbps_per_allocation).into(),
            kbps_per_user: number(self.quota.kbps_per_user).into(),
            kbps: number(self.quota.kbps).into(),
        };
        if let Some(ttl) = self.nonce_ttl_s {
            config.nonce_ttl = Duration::from_secs(ttl.0.0);
        }
        if let Some(drain) = self.drain_s {
            config.drain = Duration::from_secs(drain.0.0);
        }
        config.old_channels = self.old_channels.unwrap_or(true);
        config.software = self.software.clone().unwrap_or_default();
        Ok(config)
    }

    /// Everything the server is started with; `path` is the file's, from where the certificate is looked for.
    pub fn settings(&self, path: &Path) -> Result<Settings, Error> {
        let turn = self.config().map_err(|problem| {
            Error::invalid(format!("{}: [turn] users", path.display()), problem)
        })?;
        let certificate = match &self.tls {
            Some(tls) => Some(tls.read(path)?),
            None => None,
        };
        let places = |list: &[Text<Place>]| list.iter().map(|place| place.0.0).collect();
        Ok(Settings {
            turn,
            listen: places(&self.listen),
            listen_secure: places(&self.listen_tls),
            shared: Vec::new(),
            certificate,
            shards: 0,
            set_dont_fragment: anode_platform::fragments::set_dont_fragment,
        })
    }
}

/// What stands in a list a second time.
fn twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    let mut all = list.iter().enumerate();
    all.find_map(|(at, one)| list[..at].contains(one).then_some(one))
}

/// What is wrong with an address that [`is_many`].
const OF_ONE: &str = "is no address of one machine: write the address that peers see";

/// Whether an address is that of no machine, or of many.
fn is_many(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    ip.is_unspecified() || ip.is_multicast() || broadcast
}

/// A problem never shows a password or a key.
fn add_user(
    users: &mut Users,
    realm: &str,
    name: &str,
    credential: &Credential,
) -> Result<(), String> {
    let added = match credential {
        Credential::Password(password) if password.0.is_empty() => {
            return Err("the password is empty".to_owned());
        }
        Credential::Password(password) => users.add_password(realm, name, &password.0),
        Credential::Keys { md5, sha256 } => {
            let key = |digest, hex: &Option<Secret>| {
                hex.as_ref()
                    .map(|hex| Key::from_hex(digest, &hex.0))
                    .transpose()
                    .map_err(|error| error.to_string())
            };
            let keys = Keys {
                md5: key(KeyDigest::Md5, md5)?,
                sha256: key(KeyDigest::Sha256, sha256)?,
            };
            users.add_keys(realm, name, keys)
        }
    };
    added.map_err(|error| error.to_string())
}

impl Tls {
    fn read(&self, path: &Path) -> Result<ServerCertificate, Error> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let file = |name: &Path, key: &str| {
            let full = directory.join(name);
            let place = format!("{}: [turn] tls {key} {}", path.display(), full.display());
            match std::fs::read(&full) {
                Ok(bytes) => Ok((place, Zeroizing::new(bytes))),
                Err(error) => Err(Error::invalid(place, format!("cannot read it: {error}"))),
            }
        };
        let (cert_place, cert) = file(&self.cert, "cert")?;
        let (key_place, key) = file(&self.key, "key")?;
        let min = match self.min_version {
            Version::V12 => MinVersion::V12,
            Version::V13 => MinVersion::V13,
        };
        ServerCertificate::from_pem(&cert, &key, min).map_err(|error| {
            let place = match error {
                CertificateError::NotEcdsa => key_place,
                _ => cert_place,
            };
            Error::invalid(place, error.to_string())
        })
    }

    /// The directories that the files are read from again.
    pub fn directories(&self, path: &Path) -> Vec<PathBuf> {
        let directory = path.parent().unwrap_or(Path::new(""));
        [&self.cert, &self.key]
            .into_iter()
            .map(|file| directory.join(file))
            .flat_map(|file| [file.canonicalize().ok(), Some(file)])
            .flatten()
            .filter_map(|file| file.parent().map(Path::to_owned))
            .collect()
    }
}

#[cfg(test)]
mod tests;

//! The section `[i2p]` of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anode_routing::i2p::{DatagramKind, RouterPlace, SessionOptions};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use toml::Spanned;

use super::place;
use crate::Error;
use crate::state::book::unhex;
use crate::value::{PeerName, Text, ValueError};

/// Destinations of one machine: each costs the router tunnels of its own.
const MAX_DESTINATIONS: usize = 16;

/// The section `[i2p]`: a second overlay, through the I2P router of this machine or another one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct I2p {
    /// `router = "127.0.0.1:7654"`, or `"unix:PATH"`
    pub router: Text<Router>,
    /// `tls = true`
    pub tls: bool,
    /// `tls-ca = "router.crt"`: the router's own certificate, or that of who vouches for it, in PEM
    pub tls_ca: Option<PathBuf>,
    /// `tls-fingerprint = "sha256:…"`: of the router's own certificate
    pub tls_fingerprint: Option<Text<Fingerprint>>,
    /// `user = "anode"`
    pub user: Option<String>,
    /// `password-file = "i2p.password"`: one line, readable by its owner alone
    pub password_file: Option<PathBuf>,
    /// `[[i2p.destination]]`; none: one, with its keys in the state directory
    pub destination: Vec<Destination>,
    /// `/etc/anode/anode.toml:12`
    #[serde(skip)]
    pub place: String,
}

/// `[[i2p.destination]]`: one destination of this machine, with a source address of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Destination {
    /// `name = "web"`: what people call it
    pub name: Option<Text<PeerName>>,
    /// `key-file = "web.key"`: made when it is missing
    pub key_file: Option<PathBuf>,
    /// `transient = true`: new keys at each start
    pub transient: bool,
    /// `options = { "inbound.length" = "2" }`: for router and session
    pub options: Options,
    /// `default-port = 80`: what peers send to port 0 goes there
    pub default_port: Option<Port>,
    /// `udp = { 53 = "datagram1" }`: the form of datagrams to and from a port
    pub udp: Udp,
    /// `/etc/anode/anode.toml:14`
    #[serde(skip)]
    pub place: String,
}

/// A port above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u16::try_from(number) {
            Ok(port @ 1..) => Ok(Self(port)),
            _ => Err(D::Error::custom(format!("port {number}: use 1 to 65535"))),
        }
    }
}

/// Where the router is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router(pub RouterPlace);

impl Default for Text<Router> {
    fn default() -> Self {
        Text("127.0.0.1:7654".parse().expect("an address and a port"))
    }
}

impl FromStr for Router {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(ValueError::new(format!(
                    "router {text:?}: write a path from the root, as in unix:/run/i2p/i2cp.sock"
                )));
            }
            return Ok(Self(RouterPlace::Unix(path)));
        }
        text.parse()
            .ok()
            .filter(|address: &std::net::SocketAddr| address.port() > 0)
            .map(|address| Self(RouterPlace::Tcp(address)))
            .ok_or_else(|| {
                ValueError::new(format!(
                    "router {text:?}: write IP:PORT, as in 127.0.0.1:7654, or unix:PATH"
                ))
            })
    }
}

/// `sha256:` and 64 hex digits, with colons between them or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.strip_prefix("sha256:")
            .and_then(|digits| unhex(&digits.replace(':', "")))
            .map(Self)
            .ok_or_else(|| {
                ValueError::new(format!(
                    "tls-fingerprint {text:?}: write sha256: and 64 hex digits, as `openssl x509 -fingerprint -sha256` prints them"
                ))
            })
    }
}

/// Options by name, each with its place in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    given: BTreeMap<String, (String, Range<usize>)>,
    /// Checked.
    pub session: SessionOptions,
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OptionsVisitor;

        impl<'de> Visitor<'de> for OptionsVisitor {
            type Value = Options;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("options with their values, as in { \"inbound.length\" = \"2\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                let mut given = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Spanned<toml::Value>>()? {
                    let span = value.span();
                    let text = match value.into_inner() {
                        toml::Value::String(text) => text,
                        toml::Value::Integer(number) => number.to_string(),
                        toml::Value::Boolean(flag) => flag.to_string(),
                        _ => {
                            return Err(A::Error::custom(format!(
                                "option {name}: a text in quotes is needed (a name with dots needs quotes, too)"
                            )));
                        }
                    };
                    given.insert(name, (text, span));
                }
                Ok(Options {
                    given,
                    session: SessionOptions::default(),
                })
            }
        }

        deserializer.deserialize_map(OptionsVisitor)
    }
}

/// The form of datagrams by port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Udp(pub BTreeMap<u16, DatagramKind>);

impl<'de> Deserialize<'de> for Udp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<String, String>::deserialize(deserializer)?;
        let mut kinds = BTreeMap::new();
        for (port, kind) in given {
            let number = port
                .parse::<u16>()
                .ok()
                .filter(|number| *number > 0 && number.to_string() == port)
                .ok_or_else(|| {
                    D::Error::custom(format!("udp: {port:?} is no port: use 1 to 65535"))
                })?;
            let kind = match kind.as_str() {
                "datagram1" => DatagramKind::Datagram1,
                "datagram2" => DatagramKind::Datagram2,
                "datagram3" => DatagramKind::Datagram3,
                "raw" => DatagramKind::Raw,
                _ => {
                    return Err(D::Error::custom(format!(
                        "udp: {kind:?}: use datagram1, datagram2, datagram3 or raw"
                    )));
                }
            };
            kinds.insert(number, kind);
        }
        Ok(Self(kinds))
    }
}

impl I2p {
    /// Checks what one key alone cannot know, and gives everything its place in `text`, the file at `path`.
    pub(super) fn locate(
        &mut self,
        span: Range<usize>,
        text: &str,
        path: &Path,
    ) -> Result<(), Error> {
        self.place = place(text, span.start, path);
        let directory = path.parent().unwrap_or(Path::new(""));
        for file in [&mut self.tls_ca, &mut self.password_file] {
            *file = file.take().map(|file| directory.join(file));
        }
        self.check_router()?;
        if self.destination.len() > MAX_DESTINATIONS {
            let many = format!(
                "{} destinations: at most {MAX_DESTINATIONS}",
                self.destination.len()
            );
            return Err(Error::invalid(self.place.as_str(), many));
        }
        let mut names = BTreeSet::new();
        let mut files = BTreeSet::new();
        for (number, destination) in self.destination.iter_mut().enumerate() {
            destination.place = format!("{}: [[i2p.destination]] {}", self.place, number + 1);
            let refuse = |problem: String| Err(Error::invalid(destination.place.as_str(), problem));
            destination.key_file = destination.key_file.take().map(|file| directory.join(file));
            match (&destination.key_file, destination.transient) {
                (Some(_), true) => {
                    return refuse("either key-file or transient = true, not both".to_owned());
                }
                (Some(file), false) if !files.insert(Some(file.clone())) => {
                    return refuse(format!("key-file {}: another one has it", file.display()));
                }
                (None, false) if destination.name.is_none() && !files.insert(None) => {
                    return refuse(
                        "only one can do without a name or key-file: give this one either"
                            .to_owned(),
                    );
                }
                _ => {}
            }
            if let Some(name) = &destination.name
                && !names.insert(name.0.to_string())
            {
                return refuse(format!("name {:?}: another one has it", name.0.as_str()));
            }
            destination.options.check(text, path)?;
        }
        Ok(())
    }

    fn check_router(&self) -> Result<(), Error> {
        let refuse = |problem: &str| Err(Error::invalid(self.place.as_str(), problem));
        match (self.tls, &self.tls_ca, &self.tls_fingerprint) {
            (true, None, None) => refuse(
                "tls = true needs tls-ca or tls-fingerprint: routers sign their own certificates",
            )?,
            (true, Some(_), Some(_)) => refuse("either tls-ca or tls-fingerprint, not both")?,
            (false, None, None) | (true, ..) => {}
            (false, ..) => refuse("tls-ca and tls-fingerprint are for tls = true")?,
        }
        let local = self.router.0.0.is_local();
        match (&self.user, &self.password_file) {
            (None, None) => {}
            (Some(_), Some(_)) if !self.tls && !local => {
                refuse("the password would cross the network in clear: set tls = true")?;
            }
            (Some(_), Some(_)) => {}
            (Some(_), None) => refuse("user needs password-file")?,
            (None, Some(_)) => refuse("password-file needs user")?,
        }
        Ok(())
    }
}

impl Options {
    fn check(&mut self, text: &str, path: &Path) -> Result<(), Error> {
        let pairs = self.given.iter();
        let pairs = pairs.map(|(name, (value, _))| (name.as_str(), value.as_str()));
        self.session = SessionOptions::parse(pairs).map_err(|error| {
            let message = error.to_string();
            // the option that the error names, for its line
            let named = self
                .given
                .iter()
                .find(|(name, _)| message.contains(&format!("option {name} ")))
                .or(self.given.iter().next());
            let start = named.map_or(0, |(_, (_, span))| span.start);
            Error::invalid(place(text, start, path), message)
        })?;
        Ok(())
    }
}

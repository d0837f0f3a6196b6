//! `[[dht]]`: one table for each overlay.

use std::fmt;
use std::str::FromStr;

use anode_routing::dht::{Bootstrap, Role};
use serde::Deserialize;

use crate::value::{PeerEndpoint, Text, ValueError};

/// Bytes of an overlay's name: a host name's.
const MAX_NAME: usize = 253;
/// Bootstrap peers of one overlay.
const MAX_BOOTSTRAP: usize = 64;

/// One of `[[dht]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DhtEntry {
    /// `enabled = false`: not in this overlay, also where the zone's file names it.
    pub enabled: bool,
    /// `overlay = "a--0000002a.net"`: its name; the zone's when not given.
    pub overlay: Option<Text<OverlayName>>,
    /// `role = "peer"`, or `"client"`: one that stores nothing.
    pub role: RoleName,
    /// `bootstrap = ["ADDRESS@192.0.2.1:8737"]`: whom to ask first, beside the zone's relays.
    #[serde(deserialize_with = "bootstrap_list")]
    pub bootstrap: Vec<Text<BootstrapAt>>,
    /// `create = true`: begin the overlay where nobody else has.
    pub create: bool,
    /// `publish = false`: store no record of where this node is.
    pub publish: bool,
}

impl Default for DhtEntry {
    fn default() -> Self {
        Self {
            enabled: true,
            overlay: None,
            role: RoleName::Peer,
            bootstrap: Vec::new(),
            create: false,
            publish: true,
        }
    }
}

fn bootstrap_list<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Text<BootstrapAt>>, D::Error> {
    let list: Vec<Text<BootstrapAt>> = Vec::deserialize(deserializer)?;
    match list.len() <= MAX_BOOTSTRAP {
        true => Ok(list),
        false => Err(serde::de::Error::custom(format!(
            "more than {MAX_BOOTSTRAP} bootstrap peers"
        ))),
    }
}

impl DhtEntry {
    /// Whom to ask first, with all places of each.
    pub fn bootstrap(&self) -> Vec<Bootstrap> {
        let mut all: Vec<Bootstrap> = Vec::new();
        for Text(BootstrapAt(at)) in &self.bootstrap {
            match all.iter_mut().find(|known| known.address == at.address) {
                Some(known) => known.places.push(at.endpoint),
                None => all.push(Bootstrap {
                    address: at.address,
                    places: vec![at.endpoint],
                }),
            }
        }
        all
    }
}

/// `peer` or `client`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// It stores and routes.
    #[default]
    Peer,
    /// It only asks.
    Client,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Peer => Self::Peer,
            RoleName::Client => Self::Client,
        }
    }
}

/// Name of an overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayName(pub String);

impl FromStr for OverlayName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letters) {
            true => Ok(Self(name)),
            false => Err(ValueError::new(format!(
                "overlay {text:?}: a name has 1 to {MAX_NAME} letters, digits, '-', '_' and '.'"
            ))),
        }
    }
}

/// A bootstrap peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootstrapAt(pub PeerEndpoint);

impl FromStr for BootstrapAt {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.starts_with("dtls://") || text.starts_with("tls://") {
            return Err(ValueError::new(format!(
                "bootstrap {text:?}: this version reaches peers inside sealed sessions only: write ADDRESS@ENDPOINT"
            )));
        }
        text.parse().map(Self)
    }
}

impl fmt::Display for BootstrapAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.address, self.0.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn a_table_says_all_and_nothing_must_be_said() {
        let config = Config::parse("[[dht]]\n", Path::new("x")).unwrap();
        assert_eq!(config.dht, [DhtEntry::default()]);
        assert!(config.dht[0].enabled && config.dht[0].publish && !config.dht[0].create);
        let text = format!(
            "[[dht]]\nenabled = false\noverlay = \"Home.Example.\"\nrole = \"client\"\n\
             bootstrap = [\"{ADDRESS}@192.0.2.1:8737\", \"{ADDRESS}@[2001:db8::1]:8737\"]\n\
             create = true\npublish = false\n[[dht]]\n"
        );
        let config = Config::parse(&text, Path::new("x")).unwrap();
        assert_eq!(config.dht.len(), 2);
        let first = &config.dht[0];
        assert!(!first.enabled && first.create && !first.publish);
        assert_eq!(first.overlay.as_ref().unwrap().0.0, "home.example");
        assert_eq!(first.role, RoleName::Client);
        let bootstrap = first.bootstrap();
        assert_eq!((bootstrap.len(), bootstrap[0].places.len()), (1, 2));
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_line() {
        let many = format!(
            "[[dht]]\nbootstrap = [{}]\n",
            format!("\"{ADDRESS}@192.0.2.1:1\",").repeat(65)
        );
        let cases = [
            ("[[dht]]\nrole = \"server\"\n", ":2: ", "unknown variant"),
            ("[[dht]]\noverlay = \"a b\"\n", ":2: ", "\"a b\""),
            ("[[dht]]\noverlay = \"\"\n", ":2: ", "1 to 253"),
            (
                "[[dht]]\n\nbootstrap = [\"x\"]\n",
                ":3: ",
                "ADDRESS@ENDPOINT",
            ),
            (
                "[[dht]]\nbootstrap = [\"dtls://192.0.2.1:1\"]\n",
                ":2: ",
                "sealed",
            ),
            ("[[dht]]\nfoo = 1\n", ":2: ", "unknown key `foo`"),
            ("[dht]\nenabled = true\n", ":1: ", "sequence"),
            (many.as_str(), ":2: ", "more than 64"),
        ];
        for (text, line, problem) in cases {
            let error = Config::parse(text, Path::new("/x/anode.toml")).expect_err(text);
            assert_eq!(error.exit_status(), 2);
            let message = error.to_string();
            assert!(
                message.contains(line) && message.contains(problem),
                "{message}"
            );
        }
    }
}

//! `[[dht.application]]` and `[[dht.forward]]`, as they are written.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use anode_routing::dht::Callee;
use anode_routing::dht::reload::Id;
use anode_routing::dht::reload::usage::sip;
use anode_wire::{Address, PeerId};
use serde::Deserialize;

use crate::dht::config::{At, DhtEntry};
use crate::dht::text::resource_id;
use crate::value::{Text, ValueError};

/// Tables of each sort in one overlay.
const MAX_TABLES: usize = 16;
/// Numbers that are RELOAD's and Anode's own (RD30).
const TAKEN: [u16; 2] = [6084, 8737];

/// What a local program speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Datagrams, of which some may be lost.
    #[default]
    Udp,
    /// Connections.
    Tcp,
}

/// `[[dht.application]]`: what peers say goes to a program of this machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ApplicationEntry {
    /// `port = 5060`: the application's number.
    #[serde(deserialize_with = "number")]
    pub port: u16,
    /// `protocol = "udp"`, or `"tcp"`: how the program is spoken to.
    #[serde(default)]
    pub protocol: Protocol,
    /// `to = "127.0.0.1:5060"`: where the program listens.
    #[serde(deserialize_with = "place")]
    pub to: SocketAddr,
    /// `users = ["sip:alice@home.example"]`: who is reached here (SIP-REGISTRATION).
    #[serde(default)]
    pub users: Vec<Text<SipUri>>,
}

/// `[[dht.forward]]`: what a program of this machine says goes to a peer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardEntry {
    /// `protocol = "udp"`, or `"tcp"`: how the program speaks, and the one at the other end is spoken to.
    #[serde(default)]
    pub protocol: Protocol,
    /// `listen = "127.0.0.1:5070"`: where the program speaks to.
    #[serde(deserialize_with = "place")]
    pub listen: SocketAddr,
    /// `application = 5060`: the application's number.
    #[serde(deserialize_with = "number")]
    pub application: u16,
    /// `peer = "sip:bob@home.example"`, an address, `hex:` of a Peer-ID, or `gruu:` and the value of `gr`;
    /// `anonymous:` before that of an anonymous GRUU.
    pub peer: Text<Peer>,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom(
            "an application has a number from 1 to 65535",
        )),
        taken if TAKEN.contains(&taken) => Err(serde::de::Error::custom(format!(
            "{taken} is not an application's: the overlay itself uses it"
        ))),
        number => Ok(number),
    }
}

fn place<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let Text(At(place)) = Text::deserialize(deserializer)?;
    match place.port() != 0 && !place.ip().is_unspecified() && !place.ip().is_multicast() {
        true => Ok(place),
        false => Err(serde::de::Error::custom(format!(
            "{place}: name one address of this machine, and a port"
        ))),
    }
}

/// A `sip:` URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipUri(pub String);

impl FromStr for SipUri {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let uri = sip::canonical_uri(text).filter(|uri| uri.len() <= 512);
        uri.map(Self)
            .ok_or_else(|| ValueError::new(format!("{text:?}: write sip:USER@OVERLAY")))
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a forward leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    text: String,
    /// The same for the overlay.
    pub callee: Callee,
}

fn route(peer: &str, gruu: &str) -> Result<Vec<Id>, ValueError> {
    let route = sip::parse_gruu(gruu);
    route.map_err(|error| ValueError::new(format!("peer {peer:?}: {error}")))
}

impl FromStr for Peer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let callee = if let Some(id) = resource_id(text) {
            Callee::Route(vec![id?])
        } else if let Some(gruu) = text.strip_prefix("gruu:") {
            Callee::Route(route(text, gruu)?)
        } else if let Some(gruu) = text.strip_prefix("anonymous:") {
            Callee::Anonymous(route(text, gruu)?)
        } else if let Ok(SipUri(uri)) = text.parse() {
            Callee::Uri(uri)
        } else if let Ok(address) = text.parse::<Address>() {
            Callee::Route(vec![Id::of_address(&address, PeerId::ANY)])
        } else {
            return Err(ValueError::new(format!(
                "peer {text:?}: write an address, sip:USER@OVERLAY, hex: of a Peer-ID, or gruu: (anonymous: for an anonymous one) and the value of gr"
            )));
        };
        let text = text.to_owned();
        Ok(Self { text, callee })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl DhtEntry {
    /// Whether the tables of applications can be meant together.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn check_applications(&self) -> Result<(), &'static str> {
        let mut ports: Vec<u16> = self.application.iter().map(|it| it.port).collect();
        ports.sort_unstable();
        let differ = |it: &ForwardEntry| {
            let mut served = self.application.iter();
            let mut forwards = self.forward.iter();
            let other = served.any(|own| own.port == it.application && own.protocol != it.protocol);
            let same = |own: &ForwardEntry| own.application == it.application;
            other || forwards.any(|own| same(own) && own.protocol != it.protocol)
        };
        if self.forward.iter().any(differ) {
            return Err(
                "[[dht.forward]]: one application speaks udp and tcp: give each a number of its own",
            );
        }
        match ports.windows(2).any(|two| two[0] == two[1]) {
            true => Err("[[dht.application]]: one port stands twice"),
            false if ports.len() > MAX_TABLES || self.forward.len() > MAX_TABLES => {
                Err("more than 16 [[dht.application]], or more than 16 [[dht.forward]]")
            }
            false => Ok(()),
        }
    }

    /// `sip:` URIs of this machine's users.
    pub(crate) fn users(&self) -> Vec<String> {
        let all = self.application.iter().flat_map(|it| &it.users);
        all.map(|Text(SipUri(uri))| uri.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cases::refused;
    use std::path::Path;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn applications_and_forwards_are_tables_of_an_overlay() {
        let text = format!(
            "[[dht]]\n[[dht.application]]\nport = 5060\nto = \"127.0.0.1:5060\"\n\
             users = [\"sip:alice@Home.Example;x=y\"]\n[[dht.forward]]\nlisten = \"[::1]:5070\"\n\
             application = 5060\npeer = \"sip:bob@home.example\"\n[[dht.forward]]\n\
             listen = \"127.0.0.1:5071\"\napplication = 9\npeer = \"{ADDRESS}\"\n"
        );
        let config = Config::parse(&text, Path::new("x")).unwrap();
        let entry = &config.dht[0];
        assert_eq!(entry.users(), ["sip:alice@home.example"]);
        assert_eq!(entry.check_applications(), Ok(()));
        let callee = |n: usize| entry.forward[n].peer.0.callee.clone();
        assert_eq!(callee(0), Callee::Uri("sip:bob@home.example".into()));
        let address = ADDRESS.parse().unwrap();
        let id = Id::of_address(&address, PeerId::ANY);
        assert_eq!(callee(1), Callee::Route(vec![id]));
        let gruu = format!("gruu:{}", sip::gruu(&[id, Id([1; 16])]));
        let peer: Peer = gruu.parse().unwrap();
        assert_eq!(peer.callee, Callee::Route(vec![id, Id([1; 16])]));
        let peer: Peer = gruu.replace("gruu:", "anonymous:").parse().unwrap();
        assert_eq!(peer.callee, Callee::Anonymous(vec![id, Id([1; 16])]));
        let of = |n: usize| entry.forward[n].protocol;
        assert_eq!((of(0), of(1)), (Protocol::Udp, Protocol::Udp));
        let tcp = format!(
            "[[dht.forward]]\nprotocol = \"tcp\"\nlisten = \"127.0.0.1:2\"\napplication = 80\npeer = \"{ADDRESS}\"\n"
        );
        let config = Config::parse(&format!("{text}{tcp}"), Path::new("x")).unwrap();
        assert_eq!(config.dht[0].forward[2].protocol, Protocol::Tcp);
        for number in [5060, 9] {
            let both = tcp.replace("80", &number.to_string());
            refused(&[(&format!("{text}{both}"), ":1: ", "udp and tcp")]);
        }
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_line() {
        let application = |line: &str| format!("[[dht]]\n[[dht.application]]\n{line}\n");
        let forward = |peer: &str| {
            format!(
                "[[dht]]\n[[dht.forward]]\nlisten = \"127.0.0.1:1\"\napplication = 9\npeer = \"{peer}\"\n"
            )
        };
        let cases = [
            (application("port = 0"), ":3: ", "1 to 65535"),
            (application("port = 8737"), ":3: ", "overlay itself"),
            (application("to = \"0.0.0.0:5060\""), ":3: ", "one address"),
            (application("to = \"localhost\""), ":3: ", "IP:PORT"),
            (
                application("users = [\"alice\"]"),
                ":3: ",
                "sip:USER@OVERLAY",
            ),
            (application("port = 9"), ":2: ", "to"),
            (application("protocol = \"sctp\""), ":3: ", "sctp"),
            (forward("bob"), ":5: ", "bob"),
            (forward("gruu:x"), ":5: ", "gruu:x"),
            (forward("hex:00"), ":5: ", "16 bytes"),
        ];
        let cases = cases
            .each_ref()
            .map(|(text, at, why)| (text.as_str(), *at, *why));
        refused(&cases);
    }
}

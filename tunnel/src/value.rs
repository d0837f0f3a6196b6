//! Values as people write them in flags and files: one parser for both, with messages that name the value and the fix.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anode_routing::anode::Place;
use anode_wire::{Address, Endpoint, PeerId, Zone};
use nix::net::if_::if_nametoindex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

/// What is wrong with a value, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

impl ValueError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Where a peer is expected.
    pub(crate) fn own_address() -> Self {
        Self::new(
            "this is the machine's own address: give the one that `anode address` prints on the other machine",
        )
    }
}

/// Interface name: what Linux takes, 1 to 15 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceName(pub String);

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // IFNAMSIZ is 16 with the final zero; `%` would make the kernel number it.
        if text.is_empty() || text.len() > 15 {
            return Err(ValueError::new(format!(
                "interface name {text:?} has {} bytes: Linux takes 1 to 15",
                text.len()
            )));
        }
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
        if text == "." || text == ".." || text.contains(forbidden) {
            return Err(ValueError::new(format!(
                "interface name {text:?}: use letters, digits, '-', '_' and '.'"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The smallest MTU that IPv6 allows (RFC 8200 §5), and the default.
pub const MTU_MIN: u16 = 1280;

/// MTU of the virtual interface, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mtu(pub u16);

impl Default for Mtu {
    fn default() -> Self {
        Self(MTU_MIN)
    }
}

impl TryFrom<i64> for Mtu {
    type Error = ValueError;

    fn try_from(number: i64) -> Result<Self, ValueError> {
        match u16::try_from(number) {
            Ok(mtu) if mtu >= MTU_MIN => Ok(Self(mtu)),
            _ => Err(ValueError::new(format!(
                "mtu {number}: use {MTU_MIN} to 65535"
            ))),
        }
    }
}

impl FromStr for Mtu {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text.parse::<i64>().map_err(|_| {
            ValueError::new(format!(
                "mtu {text:?}: use a number from {MTU_MIN} to 65535"
            ))
        })?;
        number.try_into()
    }
}

/// A peer digit for `--peer-id`: 0 (none) to 15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerDigit(pub PeerId);

impl TryFrom<i64> for PeerDigit {
    type Error = ValueError;

    fn try_from(number: i64) -> Result<Self, ValueError> {
        u8::try_from(number)
            .ok()
            .and_then(PeerId::new)
            .map(Self)
            .ok_or_else(|| ValueError::new(format!("peer id {number}: use 1 to 15, or 0 for none")))
    }
}

impl FromStr for PeerDigit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text
            .parse::<i64>()
            .map_err(|_| ValueError::new(format!("peer id {text:?}: use a number from 0 to 15")))?;
        number.try_into()
    }
}

/// ENDPOINT, as it is written: a transport and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndpointText {
    /// `udp://IP:PORT`, or bare `IP:PORT`.
    Udp(SocketAddr),
    /// `tcp://IP:PORT`
    Tcp(SocketAddr),
    /// `tls://HOST:PORT`
    Tls(String),
    /// `http://…`
    Http(String),
    /// `https://…`
    Https(String),
    /// `eth://IF/MAC`
    Ethernet {
        /// Interface.
        interface: InterfaceName,
        /// Hardware address.
        mac: [u8; 6],
    },
}

impl FromStr for EndpointText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return socket_address(text, text).map(Self::Udp);
        };
        match scheme {
            "udp" => socket_address(rest, text).map(Self::Udp),
            "tcp" => socket_address(rest, text).map(Self::Tcp),
            "tls" => host_and_port(rest, text).map(Self::Tls),
            "http" => url(rest, text).map(Self::Http),
            "https" => url(rest, text).map(Self::Https),
            "eth" => ethernet(rest, text),
            _ => Err(ValueError::new(format!(
                "endpoint {text:?}: unknown transport {scheme:?}: use udp, tcp, tls, http, https or eth"
            ))),
        }
    }
}

impl EndpointText {
    /// The scheme before `://`.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Tcp(_) => "tcp",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Ethernet { .. } => "eth",
        }
    }

    /// Where packets are sent. Host names are not looked up here.
    pub fn place(&self) -> Result<Place, ValueError> {
        let named = |text: &str| {
            ValueError::new(format!(
                "endpoint {text:?}: write {}://IP:PORT (host names and paths are not looked up here)",
                self.transport()
            ))
        };
        match self {
            Self::Udp(address) => Ok(Place::Udp(*address)),
            Self::Tcp(address) => Ok(Place::Tcp(*address)),
            Self::Tls(text) => text.parse().map(Place::Tls).map_err(|_| named(text)),
            Self::Http(text) | Self::Https(text) => {
                let place = Place::from_endpoint(&Endpoint::Http(text.clone()));
                let authority = text.splitn(3, '/').nth(2).unwrap_or_default();
                let bare = authority.trim_end_matches('/');
                place
                    .filter(|_| !bare.contains(['/', '?', '#']))
                    .ok_or_else(|| named(text))
            }
            Self::Ethernet { interface, mac } => match if_nametoindex(interface.0.as_str()) {
                Ok(interface) => Ok(Place::Ethernet {
                    interface,
                    mac: *mac,
                }),
                Err(_) => Err(ValueError::new(format!(
                    "there is no interface named {:?}: `ip link` lists them",
                    interface.0
                ))),
            },
        }
    }
}

fn socket_address(text: &str, whole: &str) -> Result<SocketAddr, ValueError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let fix = if text.parse::<std::net::IpAddr>().is_ok() {
        "the port is missing: write 192.0.2.1:8737 or [2001:db8::1]:8737"
    } else {
        "write IP:PORT, such as 192.0.2.1:8737 or [2001:db8::1]:8737 (only --peer takes a host name)"
    };
    Err(ValueError::new(format!("endpoint {whole:?}: {fix}")))
}

fn host_and_port(text: &str, whole: &str) -> Result<String, ValueError> {
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid {
        Ok(text.to_owned())
    } else {
        Err(ValueError::new(format!(
            "endpoint {whole:?}: write tls://HOST:PORT"
        )))
    }
}

fn url(rest: &str, whole: &str) -> Result<String, ValueError> {
    let host = rest.split('/').next().unwrap_or_default();
    // D16: at most 2,048 bytes.
    if host.is_empty() || whole.len() > 2048 || whole.contains(char::is_whitespace) {
        return Err(ValueError::new(format!(
            "endpoint {whole:?}: write a URL of at most 2048 bytes, such as https://example.org/anode"
        )));
    }
    Ok(whole.to_owned())
}

fn ethernet(rest: &str, whole: &str) -> Result<EndpointText, ValueError> {
    let wrong = || {
        ValueError::new(format!(
            "endpoint {whole:?}: write eth://IF/MAC, such as eth://eth0/02:00:00:00:00:01"
        ))
    };
    let (interface, digits) = rest.split_once('/').ok_or_else(wrong)?;
    let interface = interface.parse().map_err(|_| wrong())?;
    let mut mac = [0; 6];
    let mut parts = digits.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(EndpointText::Ethernet { interface, mac })
}

/// Where to listen: `IP:PORT` or `udp://IP:PORT`, or `tcp://IP:PORT` for connections of all kinds; port 0 takes any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen(pub Place);

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse::<EndpointText>()?.place()? {
            place @ (Place::Udp(_) | Place::Tcp(_)) => Ok(Self(place)),
            other => Err(ValueError::new(format!(
                "listen {text:?}: use udp://IP:PORT or tcp://IP:PORT; the latter takes {} too",
                other.transport().as_str()
            ))),
        }
    }
}

/// A peer and one place where it may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerEndpoint {
    /// Who.
    pub address: Address,
    /// Where.
    pub endpoint: Place,
}

impl FromStr for PeerEndpoint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, endpoint) = text.split_once('@').ok_or_else(|| {
            ValueError::new(format!(
                "peer {text:?}: write ADDRESS@ENDPOINT, such as {}…@192.0.2.1:8737",
                "aeaaaaaaaaaag"
            ))
        })?;
        let address = parse_address(address)?;
        let endpoint = endpoint.parse::<EndpointText>()?.place()?;
        let ip = endpoint.ip();
        let no_port = endpoint.address().is_some_and(|at| at.port() == 0);
        if no_port || ip.is_unspecified() || ip.is_multicast() {
            return Err(ValueError::new(format!(
                "endpoint {endpoint}: a peer needs an address of one machine and a port above 0"
            )));
        }
        Ok(Self { address, endpoint })
    }
}

/// An address with a message that carries the text.
pub fn parse_address(text: &str) -> Result<Address, ValueError> {
    text.parse::<Address>().map_err(|error| {
        ValueError::new(format!(
            "address {text:?}: {error} (an address is what `anode address` prints)"
        ))
    })
}

/// A zone with a message that carries the text.
pub fn parse_zone(text: &str) -> Result<Zone, ValueError> {
    text.parse::<Zone>()
        .map_err(|_| ValueError::new(format!("zone {text:?}: use 1 to 8 hex digits, such as 2a")))
}

/// A path from the root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbsolutePath(pub PathBuf);

impl FromStr for AbsolutePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let path = PathBuf::from(text);
        if path.is_absolute() {
            Ok(Self(path))
        } else {
            Err(ValueError::new(format!(
                "path {text:?}: write a path from the root, such as /run/anode/control.sock"
            )))
        }
    }
}

/// A name for a peer: one DNS label, as it is looked up in `NAME.anode`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerName(String);

impl PeerName {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PeerName {
    type Err = ValueError;

    /// Takes `Box` and `box.anode` for `box`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let lower = text.to_ascii_lowercase();
        let label = lower.strip_suffix(".anode").unwrap_or(&lower);
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let valid = (1..=63).contains(&label.len())
            && label.chars().all(letters)
            && !label.starts_with('-')
            && !label.ends_with('-');
        if valid {
            Ok(Self(label.to_owned()))
        } else {
            Err(ValueError::new(format!(
                "name {text:?}: use 1 to 63 letters, digits and '-', such as laptop"
            )))
        }
    }
}

/// A loopback address to answer DNS questions at: `127.8.7.37` (port 53) or `127.8.7.37:5353`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loopback(pub SocketAddr);

impl FromStr for Loopback {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let address = dns_address(text).ok_or_else(|| {
            ValueError::new(format!(
                "{text:?}: write an IP or IP:PORT with a port above 0, such as 127.8.7.37"
            ))
        })?;
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(ValueError::new(format!(
                "{text:?}: only programs of this machine are answered, use an address of 127.0.0.0/8"
            )))
        }
    }
}

/// A DNS server: `192.0.2.53` (port 53) or `192.0.2.53:5353`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsServer(pub SocketAddr);

impl FromStr for DnsServer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        dns_address(text).map(Self).ok_or_else(|| {
            ValueError::new(format!(
                "{text:?}: write the server's IP or IP:PORT, such as 192.0.2.53"
            ))
        })
    }
}

fn dns_address(text: &str) -> Option<SocketAddr> {
    let address = match text.parse::<std::net::IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 53),
        Err(_) => text.parse().ok()?,
    };
    (address.port() > 0 && !address.ip().is_unspecified()).then_some(address)
}

/// A value that stands as text in TOML and JSON and is read by its `FromStr`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Text<T>(pub T);

impl<'de, T> Deserialize<'de> for Text<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);

        impl<T> Visitor<'_> for TextVisitor<T>
        where
            T: FromStr,
            T::Err: fmt::Display,
        {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(Text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

/// A number that is read by its `TryFrom<i64>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number<T>(pub T);

impl<'de, T> Deserialize<'de> for Number<T>
where
    T: TryFrom<i64>,
    T::Error: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        T::try_from(number).map(Number).map_err(D::Error::custom)
    }
}

/// `Address` and `Zone` with the messages of this module.
macro_rules! checked {
    ($name:ident, $inner:ty, $parse:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub $inner);

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                $parse(text).map(Self)
            }
        }
    };
}
checked!(
    AddressText,
    Address,
    parse_address,
    "An address in a flag or a file."
);
checked!(ZoneText, Zone, parse_zone, "A zone in a flag or a file.");

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn every_endpoint_of_the_grammar_is_understood() {
        let cases = [
            ("192.0.2.1:8737", "udp"),
            ("udp://[2001:db8::1]:8737", "udp"),
            ("tcp://192.0.2.1:443", "tcp"),
            ("tls://relay.example.org:443", "tls"),
            ("http://example.org/anode", "http"),
            ("https://example.org", "https"),
            ("eth://eth0/02:00:00:00:00:01", "eth"),
        ];
        for (text, transport) in cases {
            let endpoint: EndpointText = text.parse().unwrap();
            assert_eq!(endpoint.transport(), transport, "{text}");
        }
        let places = [
            ("192.0.2.1:1", Ok("udp://192.0.2.1:1")),
            ("tcp://[2001:db8::1]:1", Ok("tcp://[2001:db8::1]:1")),
            ("tls://192.0.2.1:443", Ok("tls://192.0.2.1:443")),
            ("http://192.0.2.1", Ok("http://192.0.2.1:80")),
            ("https://192.0.2.1:8443/", Ok("https://192.0.2.1:8443")),
            ("tls://relay.example.org:443", Err("write tls://IP:PORT")),
            ("https://192.0.2.1/path", Err("write https://IP:PORT")),
            (
                "eth://lo/02:00:00:00:00:01",
                Ok("eth://1/02:00:00:00:00:01"),
            ),
            (
                "eth://nothere0/02:00:00:00:00:01",
                Err("no interface named \"nothere0\""),
            ),
        ];
        for (text, expected) in places {
            let place = text.parse::<EndpointText>().unwrap().place();
            match (place, expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place.to_string(), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!("tls://192.0.2.1:1".parse::<Listen>().is_err());
    }

    #[test]
    fn a_bad_endpoint_is_named_with_the_fix() {
        let cases = [
            ("", "write IP:PORT"),
            ("192.0.2.1", "the port is missing"),
            ("2001:db8::1", "the port is missing"),
            ("192.0.2.1:65536", "write IP:PORT"),
            ("example.org:8737", "only --peer takes a host name"),
            ("quic://192.0.2.1:1", "unknown transport \"quic\""),
            ("tcp://192.0.2.1", "the port is missing"),
            ("tls://:443", "tls://HOST:PORT"),
            ("tls://host:0", "tls://HOST:PORT"),
            ("http:///x", "write a URL"),
            ("https://a b", "write a URL"),
            ("eth://eth0", "eth://IF/MAC"),
            ("eth://eth0/02:00:00:00:00", "eth://IF/MAC"),
            ("eth://eth0/02:00:00:00:00:01:02", "eth://IF/MAC"),
            ("eth://eth0/02:00:00:00:00:+1", "eth://IF/MAC"),
            ("eth://averylonginterface/02:00:00:00:00:01", "eth://IF/MAC"),
        ];
        for (text, part) in cases {
            let error = text.parse::<EndpointText>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
            assert!(error.contains(text), "{text:?}: {error}");
        }
        assert!(
            format!("http://{}", "x".repeat(2048))
                .parse::<EndpointText>()
                .is_err()
        );
    }

    #[test]
    fn a_peer_is_an_address_at_an_endpoint() {
        let peer: PeerEndpoint = format!("{ADDRESS}@192.0.2.1:8737").parse().unwrap();
        assert_eq!(peer.address.to_string(), ADDRESS);
        assert_eq!(peer.endpoint.to_string(), "udp://192.0.2.1:8737");
        let cases = [
            (ADDRESS.to_owned(), "ADDRESS@ENDPOINT"),
            (format!("{ADDRESS}@"), "write IP:PORT"),
            (format!("{ADDRESS}@192.0.2.1:0"), "a port above 0"),
            (format!("{ADDRESS}@0.0.0.0:1"), "one machine"),
            (format!("{ADDRESS}@[ff02::1]:1"), "one machine"),
            (
                format!("{ADDRESS}@tls://example.org:443"),
                "write tls://IP:PORT",
            ),
            (format!("{}@192.0.2.1:1", &ADDRESS[1..]), "address \"eaaaaa"),
        ];
        for (text, part) in cases {
            let error = text.parse::<PeerEndpoint>().expect_err(&text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn names_numbers_and_zones_have_their_bounds() {
        for good in ["anode0", "x", "a.b-c_d", "exactly15bytes."] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "sixteenbyteslong",
            "a b",
            "a/b",
            "a:b",
            "an%d",
            ".",
            "..",
            "a\n",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
        for good in ["laptop", "a", "3", "a-b", &"x".repeat(63)] {
            assert!(good.parse::<PeerName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a_b", "a.b", "ä", ".anode", &"x".repeat(64)] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad:?}");
        }
        assert_eq!("1280".parse::<Mtu>(), Ok(Mtu(1280)));
        assert!("1279".parse::<Mtu>().is_err() && "x".parse::<Mtu>().is_err());
        assert_eq!("15".parse::<PeerDigit>().unwrap().0.get(), 15);
        assert!("16".parse::<PeerDigit>().is_err() && "-1".parse::<PeerDigit>().is_err());
        assert_eq!("2a".parse::<ZoneText>().unwrap().0, Zone(0x2a));
        assert!("".parse::<ZoneText>().is_err() && "123456789".parse::<ZoneText>().is_err());
    }
}

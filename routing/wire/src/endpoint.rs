//! Endpoints (Anode 0.8 §2.10).
use crate::WireError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A place where packets may be sent, as it stands in messages.
///
/// Whether it may be dialled is another question: HTTP never because a stranger said so (D16).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// 0x00: the source of the packet.
    Unspecified,
    /// 0x01
    Ethernet([u8; 6]),
    /// 0x02, 0x04. Flow and scope of an IPv6 address do not go over the wire.
    Udp(SocketAddr),
    /// 0x03, 0x05
    Tcp(SocketAddr),
    /// 0x06, at most 2,048 bytes (D16). Make it by parsing: what [`check_uri`] refuses, the other side refuses too.
    Http(String),
}

/// Longest URI of an HTTP endpoint, in bytes without the terminating null (D16).
pub const MAX_URI: usize = 2048;

const UNSPECIFIED: u8 = 0;
const ETHERNET: u8 = 1;
const UDP4: u8 = 2;
const TCP4: u8 = 3;
const UDP6: u8 = 4;
const TCP6: u8 = 5;
const HTTP: u8 = 6;

impl Endpoint {
    /// Reads one endpoint from the front of `bytes`; the rest follows.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (&kind, address) = bytes.split_first().ok_or(truncated(1, bytes))?;
        match kind {
            UNSPECIFIED => Ok((Self::Unspecified, address)),
            ETHERNET => {
                let (mac, rest) = address.split_first_chunk().ok_or(truncated(1 + 6, bytes))?;
                Ok((Self::Ethernet(*mac), rest))
            }
            UDP4 | TCP4 => {
                let (ip, rest) = address
                    .split_first_chunk::<4>()
                    .ok_or(truncated(1 + 6, bytes))?;
                Self::parse_port(kind == UDP4, Ipv4Addr::from(*ip).into(), rest, bytes)
            }
            UDP6 | TCP6 => {
                let (ip, rest) = address
                    .split_first_chunk::<16>()
                    .ok_or(truncated(1 + 18, bytes))?;
                Self::parse_port(kind == UDP6, Ipv6Addr::from(*ip).into(), rest, bytes)
            }
            HTTP => {
                let end = address
                    .iter()
                    .take(MAX_URI + 1)
                    .position(|b| *b == 0)
                    .ok_or(if address.len() > MAX_URI {
                        WireError::EndpointUri("has more than 2048 bytes")
                    } else {
                        WireError::EndpointUri("does not end with a zero byte")
                    })?;
                let uri = String::from_utf8_lossy(&address[..end]);
                check_uri(&uri)?;
                Ok((Self::Http(uri.into_owned()), &address[end + 1..]))
            }
            unknown => Err(WireError::EndpointType(unknown)),
        }
    }

    fn parse_port<'a>(
        is_udp: bool,
        ip: IpAddr,
        rest: &'a [u8],
        all: &[u8],
    ) -> Result<(Self, &'a [u8]), WireError> {
        let (port, rest) = rest
            .split_first_chunk()
            .ok_or(truncated(all.len() - rest.len() + 2, all))?;
        let address = SocketAddr::new(ip, u16::from_be_bytes(*port));
        Ok((
            if is_udp {
                Self::Udp(address)
            } else {
                Self::Tcp(address)
            },
            rest,
        ))
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        1 + match self {
            Self::Unspecified => 0,
            Self::Ethernet(_) => 6,
            Self::Udp(SocketAddr::V4(_)) | Self::Tcp(SocketAddr::V4(_)) => 6,
            Self::Udp(SocketAddr::V6(_)) | Self::Tcp(SocketAddr::V6(_)) => 18,
            Self::Http(uri) => uri.len() + 1,
        }
    }

    /// Appends it.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unspecified => out.push(UNSPECIFIED),
            Self::Ethernet(mac) => {
                out.push(ETHERNET);
                out.extend_from_slice(mac);
            }
            Self::Udp(address) => emit_ip(*address, UDP4, UDP6, out),
            Self::Tcp(address) => emit_ip(*address, TCP4, TCP6, out),
            Self::Http(uri) => {
                out.push(HTTP);
                out.extend_from_slice(uri.as_bytes());
                out.push(0);
            }
        }
    }
}

fn emit_ip(address: SocketAddr, v4: u8, v6: u8, out: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(v4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(v6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn truncated(need: usize, bytes: &[u8]) -> WireError {
    WireError::Truncated {
        what: "the endpoint",
        need,
        have: bytes.len(),
    }
}

/// Whether `uri` can stand in an HTTP endpoint: `http://` or `https://`, printable ASCII without blanks, at most
/// 2,048 bytes. Nothing that could break out of a request line or a log line comes through.
pub fn check_uri(uri: &str) -> Result<(), WireError> {
    let has_scheme = |scheme: &str| {
        uri.get(..scheme.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(scheme))
    };
    if uri.len() > MAX_URI {
        Err(WireError::EndpointUri("has more than 2048 bytes"))
    } else if !uri.bytes().all(|b| b.is_ascii_graphic()) {
        Err(WireError::EndpointUri(
            "holds a character that is not printable ASCII",
        ))
    } else if !has_scheme("http://") && !has_scheme("https://") {
        Err(WireError::EndpointUri(
            "does not start with http:// or https://",
        ))
    } else {
        Ok(())
    }
}

/// `udp://192.0.2.1:8737`, `tcp://[2001:db8::1]:8737`, `http://…`, `eth://02:00:00:00:00:01`, `unspecified`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => f.write_str("unspecified"),
            Self::Ethernet([a, b, c, d, e, g]) => {
                write!(f, "eth://{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Http(uri) => f.write_str(uri),
        }
    }
}

/// Reads what `Display` writes; a bare `IP:PORT` means UDP.
impl FromStr for Endpoint {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |hint| WireError::EndpointText {
            text: text.chars().take(80).collect(),
            hint,
        };
        const PORT: &str = "give an IP address and a port, as 192.0.2.1:8737 or [2001:db8::1]:8737";
        const MAC: &str = "give a MAC address, as eth://02:00:00:00:00:01";
        let Some((scheme, address)) = text.split_once("://") else {
            return match text {
                "unspecified" => Ok(Self::Unspecified),
                _ => text.parse().map(Self::Udp).map_err(|_| wrong(PORT)),
            };
        };
        // schemes have no case (RFC 3986 §3.1)
        match scheme.to_ascii_lowercase().as_str() {
            "udp" => address.parse().map(Self::Udp).map_err(|_| wrong(PORT)),
            "tcp" => address.parse().map(Self::Tcp).map_err(|_| wrong(PORT)),
            "eth" => parse_mac(address).map(Self::Ethernet).ok_or(wrong(MAC)),
            "http" | "https" => {
                check_uri(text)?;
                Ok(Self::Http(text.to_owned()))
            }
            _ => Err(wrong(
                "it starts with udp://, tcp://, http://, https:// or eth://",
            )),
        }
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
pub(crate) use tests::any_endpoint;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, vectors};
    use proptest::prelude::*;

    fn emitted(endpoint: &Endpoint) -> Vec<u8> {
        let mut out = Vec::new();
        endpoint.emit(&mut out);
        out
    }

    // A35, A36, A37
    #[test]
    fn vectors_pass() {
        let texts = [
            "unspecified",
            "eth://02:00:5e:10:00:01",
            "udp://192.0.2.1:8737",
            "tcp://192.0.2.1:443",
            "udp://[2001:db8::1]:8737",
            "tcp://[2001:db8::1]:4344",
            "http://relay.example/p?x=1",
        ];
        assert_eq!(vectors("endpoints").len(), texts.len());
        for (vector, text) in vectors("endpoints").iter().zip(texts) {
            let bytes = hex(&vector["endpoint"]);
            let (endpoint, rest) = Endpoint::parse(&bytes).unwrap();
            assert!(rest.is_empty());
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(text.parse(), Ok(endpoint.clone()));
            assert_eq!(emitted(&endpoint), bytes);
            assert_eq!(endpoint.wire_len(), bytes.len());
            // S2: every truncation is an error, and what follows is left alone
            for short in 0..bytes.len() {
                assert!(
                    Endpoint::parse(&bytes[..short]).is_err(),
                    "{text} cut to {short}"
                );
            }
            assert_eq!(
                Endpoint::parse(&[bytes.as_slice(), &[1, 2]].concat()),
                Ok((endpoint, [1, 2].as_slice()))
            );
        }
    }

    // D16, S2
    #[test]
    fn hostile_endpoints_are_refused() {
        let http =
            |uri: &[u8]| Endpoint::parse(&[&[HTTP], uri].concat()).map(|(endpoint, _)| endpoint);
        for kind in 7..=255 {
            assert_eq!(
                Endpoint::parse(&[kind, 0, 0, 0, 0, 0, 0]),
                Err(WireError::EndpointType(kind))
            );
        }
        for uri in [
            b"http://a/".as_slice(),
            b"\0",
            b"http://a b/\0",
            b"http://a/\r\nHost: b\0",
            b"http://\xc3\xa9/\0",
            b"http://\xff/\0",
            b"file:///etc/passwd\0",
            b"http:\0",
        ] {
            assert!(
                matches!(http(uri), Err(WireError::EndpointUri(_))),
                "{uri:?}"
            );
        }
        let long = |len: usize| [b"http://".as_slice(), &vec![b'a'; len - 7], b"\0"].concat();
        assert!(http(&long(MAX_URI)).is_ok());
        assert_eq!(
            http(&long(MAX_URI + 1)),
            Err(WireError::EndpointUri("has more than 2048 bytes"))
        );
        assert_eq!(
            http(&[b'a'; 100_000]),
            Err(WireError::EndpointUri("has more than 2048 bytes"))
        );
    }

    #[test]
    fn text_forms() {
        assert_eq!(
            "192.0.2.1:1".parse(),
            Ok(Endpoint::Udp("192.0.2.1:1".parse().unwrap()))
        );
        assert_eq!(
            "[::1]:2".parse(),
            Ok(Endpoint::Udp("[::1]:2".parse().unwrap()))
        );
        assert_eq!("HTTP://a".parse(), Ok(Endpoint::Http("HTTP://a".into())));
        assert_eq!(
            "https://a/".parse(),
            Ok(Endpoint::Http("https://a/".into()))
        );
        for wrong in [
            "",
            "192.0.2.1",
            "udp://192.0.2.1",
            "udp://[::1]",
            "tcp://relay.example:1",
            "udp://1.2.3.4:65536",
            "quic://1.2.3.4:5",
            "eth://02:00:00:00:00",
            "eth://02:00:00:00:00:00:00",
            "eth://2:0:0:0:0:0",
            "eth://+2:00:00:00:00:00",
            "http://a b/",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
        assert_eq!(
            "relay.example:1"
                .parse::<Endpoint>()
                .unwrap_err()
                .to_string(),
            "\"relay.example:1\" is not an endpoint: give an IP address and a port, as 192.0.2.1:8737 or [2001:db8::1]:8737"
        );
    }

    pub(crate) fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let address = || (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
        prop_oneof![
            Just(Endpoint::Unspecified),
            any::<[u8; 6]>().prop_map(Endpoint::Ethernet),
            address().prop_map(Endpoint::Udp),
            address().prop_map(Endpoint::Tcp),
            proptest::collection::vec(0x21u8..0x7f, 0..60).prop_map(|path| Endpoint::Http(
                format!("http://{}", String::from_utf8_lossy(&path))
            )),
        ]
    }

    proptest! {
        #[test]
        fn every_endpoint_round_trips(endpoint in any_endpoint(), rest in any::<[u8; 3]>()) {
            let mut bytes = emitted(&endpoint);
            prop_assert_eq!(bytes.len(), endpoint.wire_len());
            bytes.extend(rest);
            prop_assert_eq!(Endpoint::parse(&bytes), Ok((endpoint.clone(), rest.as_slice())));
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        // S1
        #[test]
        fn what_is_read_from_any_bytes_writes_the_same_bytes(kind in 0u8..9, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            if let Ok((endpoint, rest)) = Endpoint::parse(&bytes) {
                prop_assert_eq!([emitted(&endpoint).as_slice(), rest].concat(), bytes);
            }
        }

        #[test]
        fn no_text_makes_from_str_panic(text in "\\PC*", prefix in prop_oneof![Just(""), Just("udp://"), Just("eth://"), Just("http://")]) {
            let _ = format!("{prefix}{text}").parse::<Endpoint>();
        }
    }
}

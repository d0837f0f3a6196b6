//! A place where packets go and come from: the key of a path. What carries them there is the business of the sockets.
use anode_wire::Endpoint;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What carries packets to a place (Anode 0.8 §2.9, §2.10).
///
/// The order is the preference at equal hops: datagrams before streams, bare streams before wrapped ones (A25, DESIGN §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Transport {
    /// One packet per datagram (A32).
    Udp,
    /// Raw frames of EtherType 0x88B5.
    Ethernet,
    /// Packets behind 16-bit lengths (A33).
    Tcp,
    /// The same inside TLS.
    Tls,
    /// The same in the bodies of POSTs (A34).
    Http,
    /// HTTP inside TLS.
    Https,
    /// One packet per datagram, sent by a TURN server from an address that it has given us.
    Turn,
}

impl Transport {
    /// As in `anode paths`: `udp`, `ethernet`, `tcp`, `tls`, `http`, `https`, `turn`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ethernet => "ethernet",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Https => "https",
            Self::Turn => "turn",
        }
    }

    /// Packets go through a connection, which is dialled when they are sent.
    pub fn is_stream(self) -> bool {
        !matches!(self, Self::Udp | Self::Ethernet | Self::Turn)
    }
}

/// Where packets go to or come from. The address of a place behind a connection is the other side's, as the connection has
/// it; which host name or path of a URI belongs to it is known to the sockets alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// `udp://192.0.2.1:8737`
    Udp(SocketAddr),
    /// `tcp://192.0.2.1:8737`
    Tcp(SocketAddr),
    /// `tls://192.0.2.1:443`
    Tls(SocketAddr),
    /// `http://192.0.2.1:80`
    Http(SocketAddr),
    /// `https://192.0.2.1:443`
    Https(SocketAddr),
    /// `turn://192.0.2.1:8737`: that UDP address, as our TURN server reaches it.
    Turn(SocketAddr),
    /// `eth://2/02:00:00:00:00:01`
    Ethernet {
        /// Index of the interface.
        interface: u32,
        /// Hardware address on that link.
        mac: [u8; 6],
    },
}

impl Place {
    /// No place at all: what an empty batch says.
    pub(super) const NOWHERE: Self = Self::Udp(SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        0,
    ));

    /// Number of the socket of a place that may be dialled, where the transport has connections.
    pub const DIALLED: usize = 0;
    /// The same of one that has dialled us: it is gone with its connection.
    pub const ACCEPTED: usize = 1;

    /// The place over one of the transports that run over IP. `None` for Ethernet.
    pub fn over(transport: Transport, address: SocketAddr) -> Option<Self> {
        Some(match transport {
            Transport::Udp => Self::Udp(address),
            Transport::Tcp => Self::Tcp(address),
            Transport::Tls => Self::Tls(address),
            Transport::Http => Self::Http(address),
            Transport::Https => Self::Https(address),
            Transport::Turn => Self::Turn(address),
            Transport::Ethernet => return None,
        })
    }

    /// What carries packets there.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Http(_) => Transport::Http,
            Self::Https(_) => Transport::Https,
            Self::Turn(_) => Transport::Turn,
            Self::Ethernet { .. } => Transport::Ethernet,
        }
    }

    /// IP address and port. `None` for Ethernet.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address)
            | Self::Tcp(address)
            | Self::Tls(address)
            | Self::Http(address)
            | Self::Https(address)
            | Self::Turn(address) => Some(*address),
            Self::Ethernet { .. } => None,
        }
    }

    /// The same, of UDP alone: where a datagram socket sends it.
    pub fn udp(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(*address),
            _ => None,
        }
    }

    /// Whom budgets per source charge. All of one Ethernet link is one source, under an address that no packet has (the
    /// discard prefix, RFC 6666): hardware addresses are free to choose.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Ethernet { interface, .. } => {
                let [high, low] = [(interface >> 16) as u16, *interface as u16];
                Ipv6Addr::new(0x0100, 0, high, low, 0, 0, 0, 0).into()
            }
            Self::Udp(address)
            | Self::Tcp(address)
            | Self::Tls(address)
            | Self::Http(address)
            | Self::Https(address)
            | Self::Turn(address) => address.ip(),
        }
    }

    /// Reads an endpoint of the wire or of a file. `None` where it names no place by itself: unspecified, Ethernet (without
    /// its interface), and URIs whose host is a name.
    pub fn from_endpoint(endpoint: &Endpoint) -> Option<Self> {
        match endpoint {
            Endpoint::Udp(address) => Some(Self::Udp(*address)),
            Endpoint::Tcp(address) => Some(Self::Tcp(*address)),
            Endpoint::Http(uri) => from_uri(uri),
            Endpoint::Unspecified | Endpoint::Ethernet(_) => None,
        }
    }

    /// Where a node of ours that names this endpoint of its own can be reached: on a TCP port it takes TLS and HTTP, too. One
    /// that knows the draft alone stays silent there.
    pub fn accepted(endpoint: &Endpoint) -> Vec<Self> {
        match Self::from_endpoint(endpoint) {
            Some(place @ Self::Tcp(at)) => vec![place, Self::Tls(at), Self::Http(at)],
            place => place.into_iter().collect(),
        }
    }

    /// How it stands in messages. TLS has no type of its own: its listener takes bare TCP too.
    pub fn to_endpoint(&self) -> Endpoint {
        match self {
            Self::Udp(address) | Self::Turn(address) => Endpoint::Udp(*address),
            Self::Tcp(address) | Self::Tls(address) => Endpoint::Tcp(*address),
            Self::Http(_) | Self::Https(_) => Endpoint::Http(self.to_string()),
            Self::Ethernet { mac, .. } => Endpoint::Ethernet(*mac),
        }
    }
}

/// `http://192.0.2.1:80/path` without its path; the port may be left out.
fn from_uri(uri: &str) -> Option<Place> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (place, port): (fn(SocketAddr) -> Place, u16) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Place::Http, 80),
        "https" => (Place::Https, 443),
        _ => return None,
    };
    if let Ok(address) = authority.parse() {
        return Some(place(address));
    }
    let bare = authority
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => IpAddr::V4(authority.parse().ok()?),
    };
    Some(place(SocketAddr::new(ip, port)))
}

/// A bare socket address is UDP, as everywhere.
impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

/// As people and JSON see it. Ethernet shows the index of its interface: names are the system's.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Tls(address) => write!(f, "tls://{address}"),
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Https(address) => write!(f, "https://{address}"),
            Self::Turn(address) => write!(f, "turn://{address}"),
            Self::Ethernet { interface, mac } => {
                let [a, b, c, d, e, g] = mac;
                write!(
                    f,
                    "eth://{interface}/{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_the_command_line_reads_them() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let cases = [
            (
                Place::Udp(at("192.0.2.1:8737")),
                "udp://192.0.2.1:8737",
                "udp",
            ),
            (
                Place::Tcp(at("[2001:db8::1]:1")),
                "tcp://[2001:db8::1]:1",
                "tcp",
            ),
            (
                Place::Tls(at("192.0.2.1:443")),
                "tls://192.0.2.1:443",
                "tls",
            ),
            (
                Place::Http(at("192.0.2.1:80")),
                "http://192.0.2.1:80",
                "http",
            ),
            (
                Place::Https(at("192.0.2.1:443")),
                "https://192.0.2.1:443",
                "https",
            ),
            (
                Place::Ethernet {
                    interface: 7,
                    mac: [2, 0, 0x5e, 0, 0, 0xff],
                },
                "eth://7/02:00:5e:00:00:ff",
                "ethernet",
            ),
        ];
        for (place, text, transport) in cases {
            assert_eq!(place.to_string(), text);
            assert_eq!(place.transport().as_str(), transport);
        }
    }

    // A35
    #[test]
    fn endpoints_of_the_wire_become_places_and_back() {
        let cases = [
            ("udp://192.0.2.1:1", Some("udp://192.0.2.1:1")),
            ("tcp://[2001:db8::1]:2", Some("tcp://[2001:db8::1]:2")),
            ("http://192.0.2.1/path", Some("http://192.0.2.1:80")),
            ("https://192.0.2.1", Some("https://192.0.2.1:443")),
            (
                "http://[2001:db8::1]:8080/?x",
                Some("http://[2001:db8::1]:8080"),
            ),
            ("https://[2001:db8::1]/", Some("https://[2001:db8::1]:443")),
            ("http://relay.example/p", None),
            ("unspecified", None),
            ("eth://02:00:00:00:00:01", None),
        ];
        for (text, place) in cases {
            let endpoint: Endpoint = text.parse().unwrap();
            let found = Place::from_endpoint(&endpoint);
            assert_eq!(found.map(|place| place.to_string()).as_deref(), place);
            if let Some(place) = found {
                assert_eq!(Place::from_endpoint(&place.to_endpoint()), Some(place));
            }
        }
    }

    // S19
    #[test]
    fn an_ethernet_link_is_one_source_whatever_the_hardware_address() {
        let on = |interface, last| Place::Ethernet {
            interface,
            mac: [2, 0, 0, 0, 0, last],
        };
        assert_eq!(on(2, 1).ip(), on(2, 9).ip());
        assert_ne!(
            super::super::limits::source_prefix(on(2, 1).ip()),
            super::super::limits::source_prefix(on(3, 1).ip())
        );
    }
}

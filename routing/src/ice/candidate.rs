//! Candidates and their text form: the value of the `candidate` attribute, with its name (RFC 8445 §5.1, RFC 5245 §15.1,
//! RFC 6544 §4.5, reload.md RD31).

use super::{IceError, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Candidates of one side (reload.md RD31).
pub const MAX_CANDIDATES: usize = 32;
/// Bytes of one candidate's text (reload.md RD31).
const MAX_TEXT: usize = 256;
/// The port that stands for a connection yet to be opened (RFC 6544 §4.5: discard).
const ACTIVE_PORT: u16 = 9;

/// How a candidate was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// An address of the machine.
    Host,
    /// How a check has shown it.
    PeerReflexive,
    /// How a STUN server sees it.
    ServerReflexive,
    /// An address on a TURN server.
    Relayed,
}

/// Who opens a TCP connection (RFC 6544 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TcpRole {
    /// The side that has the candidate.
    Active,
    /// The other side.
    Passive,
    /// Both at once.
    SimultaneousOpen,
}

/// What a session would rather run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preference {
    /// RELOAD's links (reload.md R96).
    Tcp,
    /// Anode's paths.
    Udp,
}

/// One place to be reached at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The same for candidates that are likely to fail together, 1 to 32 characters.
    pub foundation: String,
    /// What carries it.
    pub protocol: Protocol,
    /// The higher, the better; below 2^31.
    pub priority: u32,
    /// Where.
    pub address: SocketAddr,
    /// How it was found.
    pub kind: Kind,
    /// Of TCP, who opens.
    pub tcp: Option<TcpRole>,
}

impl Candidate {
    /// One of ours. `place` orders addresses of the machine, the best 0.
    pub fn new(
        kind: Kind,
        protocol: Protocol,
        tcp: Option<TcpRole>,
        address: SocketAddr,
        place: usize,
        preference: Preference,
    ) -> Self {
        let address = match tcp {
            Some(TcpRole::Active) => SocketAddr::new(address.ip(), ACTIVE_PORT),
            _ => address,
        };
        let tcp_digit = match tcp {
            None => 0,
            Some(TcpRole::Active) => 1,
            Some(TcpRole::Passive) => 2,
            Some(TcpRole::SimultaneousOpen) => 3,
        };
        Self {
            foundation: format!("{}{tcp_digit}{place}", kind as u8 + 1),
            protocol,
            priority: priority(kind, protocol, tcp, place, preference),
            address,
            kind,
            tcp,
        }
    }
}

/// RFC 8445 §5.1.2.1, RFC 6544 §4.2. What the session would not rather run on lies below everything direct of what it would.
fn priority(
    kind: Kind,
    protocol: Protocol,
    tcp: Option<TcpRole>,
    place: usize,
    preference: Preference,
) -> u32 {
    let preferred = matches!(
        (protocol, preference),
        (Protocol::Udp, Preference::Udp) | (Protocol::Tcp, Preference::Tcp)
    );
    let kind = match (kind, preferred) {
        (Kind::Host, true) => 126,
        (Kind::PeerReflexive, true) => 110,
        (Kind::ServerReflexive, true) => 100,
        (Kind::Host, false) => 90,
        (Kind::PeerReflexive, false) => 80,
        (Kind::ServerReflexive, false) => 70,
        (Kind::Relayed, true) => 2,
        (Kind::Relayed, false) => 1,
    };
    let other = 0x1FFF_u32.saturating_sub(place as u32);
    let direction = match tcp {
        Some(TcpRole::Active) => 6,
        Some(TcpRole::Passive) => 4,
        Some(TcpRole::SimultaneousOpen) => 2,
        None => 7,
    };
    // One component, number 1.
    (kind << 24) | (direction << 13 | other) << 8 | 255
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, port) = (self.address.ip(), self.address.port());
        let protocol = match self.protocol {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        let kind = match self.kind {
            Kind::Host => "host",
            Kind::PeerReflexive => "prflx",
            Kind::ServerReflexive => "srflx",
            Kind::Relayed => "relay",
        };
        let Self {
            foundation,
            priority,
            ..
        } = self;
        write!(
            f,
            "candidate:{foundation} 1 {protocol} {priority} {ip} {port} typ {kind}"
        )?;
        if self.kind != Kind::Host {
            // RFC 8839 §5.1 lets the base be hidden so.
            let any = match ip {
                IpAddr::V4(_) => "0.0.0.0",
                IpAddr::V6(_) => "::",
            };
            write!(f, " raddr {any} rport 9")?;
        }
        match self.tcp {
            Some(TcpRole::Active) => f.write_str(" tcptype active"),
            Some(TcpRole::Passive) => f.write_str(" tcptype passive"),
            Some(TcpRole::SimultaneousOpen) => f.write_str(" tcptype so"),
            None => Ok(()),
        }
    }
}

impl FromStr for Candidate {
    type Err = IceError;

    fn from_str(text: &str) -> Result<Self, IceError> {
        let wrong = IceError::Candidate;
        if text.len() > MAX_TEXT {
            return Err(wrong("it is longer than 256 bytes"));
        }
        let rest = text.strip_prefix("candidate:");
        let rest = rest.ok_or(wrong("it does not begin with `candidate:`"))?;
        let mut words = rest.split_ascii_whitespace();
        let mut next = || words.next().ok_or(wrong("it is too short"));
        let foundation = next()?.to_owned();
        if foundation.len() > 32 {
            return Err(wrong("its foundation is longer than 32 characters"));
        }
        if next()? != "1" {
            return Err(wrong("its component is not 1"));
        }
        let protocol = match next()? {
            udp if udp.eq_ignore_ascii_case("udp") => Protocol::Udp,
            tcp if tcp.eq_ignore_ascii_case("tcp") => Protocol::Tcp,
            _ => return Err(wrong("it is neither for UDP nor for TCP")),
        };
        let priority = next()?.parse::<u32>().ok();
        let priority = priority.filter(|it| (1..1 << 31).contains(it));
        let priority = priority.ok_or(wrong("its priority is no number below 2^31"))?;
        let ip: IpAddr = next()?.parse().map_err(|_| wrong("it has no IP address"))?;
        let port = next()?.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or(wrong("it has no port"))?;
        if next()? != "typ" {
            return Err(wrong("it has no type"));
        }
        let kind = match next()? {
            "host" => Kind::Host,
            "prflx" => Kind::PeerReflexive,
            "srflx" => Kind::ServerReflexive,
            "relay" => Kind::Relayed,
            _ => return Err(wrong("its type is not known")),
        };
        let mut tcp = None;
        while let Some(key) = words.next() {
            let value = words.next().ok_or(wrong("it ends in a name"))?;
            if key == "tcptype" {
                tcp = Some(match value {
                    "active" => TcpRole::Active,
                    "passive" => TcpRole::Passive,
                    "so" => TcpRole::SimultaneousOpen,
                    _ => return Err(wrong("its tcptype is not known")),
                });
            }
        }
        if (protocol == Protocol::Tcp) != tcp.is_some() {
            return Err(wrong("tcptype is for TCP, and TCP needs it"));
        }
        Ok(Self {
            foundation,
            protocol,
            priority,
            address: SocketAddr::new(ip, port),
            kind,
            tcp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RD31: the examples of RFC 5245 §15.1, §17 and RFC 6544 §4.5, and our own
    #[test]
    fn candidates_are_read_and_written() {
        let text = "candidate:1 1 UDP 2130706431 10.0.1.1 8998 typ host";
        let read: Candidate = text.parse().unwrap();
        assert_eq!(read.address, "10.0.1.1:8998".parse().unwrap());
        assert_eq!(read.to_string(), text);
        let text =
            "candidate:2 1 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 10.0.1.1 rport 8998";
        let read: Candidate = text.parse().unwrap();
        assert_eq!(
            (read.kind, read.priority),
            (Kind::ServerReflexive, 1_694_498_815)
        );
        let text = "candidate:1 1 TCP 2128609279 10.0.1.1 9 typ host tcptype active";
        let read: Candidate = text.parse().unwrap();
        assert_eq!(read.tcp, Some(TcpRole::Active));
        assert_eq!(read.to_string(), text);
        let at = "[2001:db8::1]:4000".parse().unwrap();
        for (kind, tcp) in [
            (Kind::Host, None),
            (Kind::Host, Some(TcpRole::Active)),
            (Kind::Host, Some(TcpRole::Passive)),
            (Kind::Relayed, None),
        ] {
            let protocol = tcp.map_or(Protocol::Udp, |_| Protocol::Tcp);
            let made = Candidate::new(kind, protocol, tcp, at, 3, Preference::Udp);
            assert_eq!(made.to_string().parse(), Ok(made));
        }
    }

    #[test]
    fn what_is_no_candidate_is_refused() {
        for bad in [
            "",
            "candidate:",
            "1 1 UDP 1 192.0.2.1 1 typ host",
            "candidate:1 2 UDP 1 192.0.2.1 1 typ host",
            "candidate:1 1 SCTP 1 192.0.2.1 1 typ host",
            "candidate:1 1 UDP 0 192.0.2.1 1 typ host",
            "candidate:1 1 UDP 2147483648 192.0.2.1 1 typ host",
            "candidate:1 1 UDP 1 host.example 1 typ host",
            "candidate:1 1 UDP 1 192.0.2.1 0 typ host",
            "candidate:1 1 UDP 1 192.0.2.1 65536 typ host",
            "candidate:1 1 UDP 1 192.0.2.1 1 host",
            "candidate:1 1 UDP 1 192.0.2.1 1 typ moon",
            "candidate:1 1 UDP 1 192.0.2.1 1 typ host tcptype active",
            "candidate:1 1 TCP 1 192.0.2.1 1 typ host",
            "candidate:1 1 TCP 1 192.0.2.1 1 typ host tcptype lazy",
            "candidate:1 1 UDP 1 192.0.2.1 1 typ host generation",
            "candidate:123456789012345678901234567890123 1 UDP 1 192.0.2.1 1 typ host",
        ] {
            assert!(bad.parse::<Candidate>().is_err(), "{bad}");
        }
        let long = format!(
            "candidate:1 1 UDP 1 192.0.2.1 1 typ host {}",
            "a b ".repeat(99)
        );
        assert!(long.parse::<Candidate>().is_err());
    }

    // R96
    #[test]
    fn what_a_session_prefers_comes_first() {
        let at = "192.0.2.1:1".parse().unwrap();
        let udp = |kind, preference| Candidate::new(kind, Protocol::Udp, None, at, 0, preference);
        let tcp = |preference| {
            let role = Some(TcpRole::Passive);
            Candidate::new(Kind::Host, Protocol::Tcp, role, at, 0, preference)
        };
        let first = |a: Candidate, b: Candidate| a.priority > b.priority;
        assert!(first(
            tcp(Preference::Tcp),
            udp(Kind::Host, Preference::Tcp)
        ));
        assert!(first(
            udp(Kind::ServerReflexive, Preference::Udp),
            tcp(Preference::Udp)
        ));
        assert!(first(
            tcp(Preference::Udp),
            udp(Kind::Relayed, Preference::Udp)
        ));
    }
}

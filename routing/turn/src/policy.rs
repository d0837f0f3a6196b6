//! Which peers may be reached through the server (S33).
//!
//! An address has many spellings: `::ffff:127.0.0.1`, `64:ff9b::7f00:1` and `2002:7f00:1::` all mean 127.0.0.1 to
//! something on the way. An address is let through only if every address that it may mean is.
//!
//! ```text
//!   for each meaning:  deny rule? ─▶ refused     allow rule? ─▶ fine     built-in list? ─▶ refused     else fine
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::TurnError;

/// A network: an address and how many of its first bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            length,
        }
    }

    const fn v6(first: [u16; 3], length: u8) -> Self {
        Self {
            address: IpAddr::V6(Ipv6Addr::new(first[0], first[1], first[2], 0, 0, 0, 0, 0)),
            length,
        }
    }

    /// Whether the address lies in it. An IPv4 network holds no IPv6 address, whatever that means.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let drop = |bits: u8| u32::from(bits - self.length);
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                (u32::from(net) ^ u32::from(a))
                    .checked_shr(drop(32))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                (u128::from(net) ^ u128::from(a))
                    .checked_shr(drop(128))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = TurnError;

    fn from_str(text: &str) -> Result<Self, TurnError> {
        let error = || TurnError::Prefix(text.to_owned());
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse).map_err(|_| error())?;
        if length > most {
            return Err(error());
        }
        Ok(Self { address, length })
    }
}

/// What no relay should reach unless its owner says so. RFC 6890's special networks, and what can only lead back.
const BUILT_IN: &[Prefix] = &[
    Prefix::v4(0, 0, 0, 0, 8),
    Prefix::v4(10, 0, 0, 0, 8),
    Prefix::v4(100, 64, 0, 0, 10),
    Prefix::v4(127, 0, 0, 0, 8),
    Prefix::v4(169, 254, 0, 0, 16),
    Prefix::v4(172, 16, 0, 0, 12),
    Prefix::v4(192, 0, 0, 0, 24),
    Prefix::v4(192, 168, 0, 0, 16),
    Prefix::v4(198, 18, 0, 0, 15),
    Prefix::v4(224, 0, 0, 0, 3), // multicast, reserved, broadcast
    Prefix::v6([0, 0, 0], 96),   // ::, ::1 and IPv4-compatible ones
    Prefix {
        address: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0)),
        length: 96,
    }, // IPv4-mapped
    Prefix {
        address: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0xFFFF, 0, 0, 0)),
        length: 96,
    }, // IPv4-translated
    Prefix::v6([0x64, 0xFF9B, 1], 48), // local-use translation
    Prefix::v6([0x100, 0, 0], 64), // discard
    Prefix::v6([0xFC00, 0, 0], 7), // unique local; the overlay's fda0::/16 and fda1::/16 too
    Prefix::v6([0xFE00, 0, 0], 7), // link-local and site-local
    Prefix::v6([0xFF00, 0, 0], 8), // multicast
];

/// The IPv4 addresses that an IPv6 address may stand for: mapped, compatible, translated (RFC 2765), 6to4 (RFC 3056),
/// NAT64 (RFC 6052, RFC 8215), Teredo's client and server (RFC 4380), ISATAP (RFC 5214).
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = v4(s[6], s[7]);
    let zero = |range: std::ops::Range<usize>| s[range].iter().all(|x| *x == 0);
    let in_last = zero(0..6)
        || (zero(0..5) && s[5] == 0xFFFF)
        || (zero(0..4) && s[4] == 0xFFFF && s[5] == 0)
        || (s[0] == 0x64 && s[1] == 0xFF9B)
        || (s[4] & !0x0300 == 0 && s[5] == 0x5EFE);
    let teredo = s[0] == 0x2001 && s[1] == 0;
    [
        in_last.then_some(last),
        (s[0] == 0x2002).then(|| v4(s[1], s[2])),
        teredo.then(|| v4(s[2], s[3])),
        teredo.then(|| v4(!s[6], !s[7])),
    ]
    .into_iter()
    .flatten()
}

/// The rules, and the server's own addresses.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// Refused whatever else is said.
    pub deny: Vec<Prefix>,
    /// Fine although the built-in list or the next field refuses it.
    pub allow: Vec<Prefix>,
    /// The addresses of this host. A peer there is refused, except on ports that the server relays from: two clients
    /// of one server meet there.
    pub own: Vec<IpAddr>,
    /// Where the server listens. Never a peer, whatever is allowed: packets would run in circles.
    pub listening: Vec<SocketAddr>,
}

/// What may be sent to an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every port but those the server listens on.
    Fine,
    /// Only ports that the server relays from: it is the server's own address.
    RelayPorts,
    /// Nothing.
    Refused,
}

impl PeerPolicy {
    /// What may be sent to this address; `relays` are the addresses that the server relays from.
    #[must_use]
    pub fn address(&self, address: IpAddr, relays: &[IpAddr]) -> Verdict {
        let embedded = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(embedded(a).map(IpAddr::V4)),
        };
        let mut embedded = embedded.into_iter().flatten();
        if within(&self.allow, address) {
            // Whoever allows this spelling means it; only a deny rule still stands against it.
            let denied = within(&self.deny, address) || embedded.any(|a| within(&self.deny, a));
            return if denied {
                Verdict::Refused
            } else {
                Verdict::Fine
            };
        }
        // Another spelling of a relay's address is no way to meet it: only `Fine` counts for what is embedded.
        if embedded.all(|a| self.one_meaning(a, relays) == Verdict::Fine) {
            self.one_meaning(address, relays)
        } else {
            Verdict::Refused
        }
    }

    fn one_meaning(&self, address: IpAddr, relays: &[IpAddr]) -> Verdict {
        if within(&self.deny, address) {
            Verdict::Refused
        } else if within(&self.allow, address) {
            Verdict::Fine
        } else if relays.contains(&address) {
            Verdict::RelayPorts
        } else if self.own.contains(&address) || within(BUILT_IN, address) {
            Verdict::Refused
        } else {
            Verdict::Fine
        }
    }

    /// Whether this port of an address with this verdict may be sent to.
    #[must_use]
    pub fn port(&self, verdict: Verdict, peer: SocketAddr, ports: &RangeInclusive<u16>) -> bool {
        let listening = |l: &SocketAddr| {
            l.port() == peer.port()
                && (l.ip() == peer.ip()
                    || l.ip().is_unspecified() && (self.own.contains(&peer.ip()) || is_local(peer)))
        };
        let port = match verdict {
            Verdict::Fine => peer.port() != 0,
            Verdict::RelayPorts => ports.contains(&peer.port()),
            Verdict::Refused => false,
        };
        port && !self.listening.iter().any(listening)
    }
}

fn within(list: &[Prefix], address: IpAddr) -> bool {
    list.iter().any(|p| p.contains(address))
}

fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // S33: every spelling of what must not be reached
    #[test]
    fn every_notation_is_refused() {
        let policy = PeerPolicy {
            own: vec![ip("203.0.113.1"), ip("2001:db8::1")],
            ..PeerPolicy::default()
        };
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "203.0.113.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1::808:808",
            "64:ff9b:0:1::7f00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:c0a8:101::1",
            "2001:0:808:808:0:0:80ff:fffe",
            "2001:0:7f00:1::1",
            "2001:db8:5::5efe:7f00:1",
            "2600::200:5efe:10.0.0.1",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "fda0::1",
            "fda1::1",
            "fc00::1",
            "ff02::1",
            "ff0e::1",
            "100::1",
            "2001:db8::1",
            "::ffff:203.0.113.1",
            "64:ff9b::203.0.113.1",
        ] {
            assert_eq!(
                policy.address(ip(refused), &[]),
                Verdict::Refused,
                "{refused}"
            );
        }
        for fine in [
            "8.8.8.8",
            "203.0.113.2",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(policy.address(ip(fine), &[]), Verdict::Fine, "{fine}");
        }
    }

    // S33: deny before allow before the built-in list
    #[test]
    fn rules_have_an_order() {
        let prefixes = |list: &[&str]| {
            list.iter()
                .map(|p| p.parse().unwrap())
                .collect::<Vec<Prefix>>()
        };
        let policy = PeerPolicy {
            deny: prefixes(&["10.9.0.0/16", "8.8.8.8", "2001:db8:bad::/48"]),
            allow: prefixes(&[
                "10.0.0.0/8",
                "127.0.0.1/32",
                "fe80::/10",
                "8.8.0.0/16",
                "::1",
            ]),
            ..PeerPolicy::default()
        };
        for (address, verdict) in [
            ("10.1.1.1", Verdict::Fine),
            ("10.9.1.1", Verdict::Refused),
            ("64:ff9b::a09:101", Verdict::Refused),
            ("64:ff9b::a01:101", Verdict::Fine),
            ("127.0.0.1", Verdict::Fine),
            ("127.0.0.2", Verdict::Refused),
            ("::1", Verdict::Fine),
            ("::ffff:127.0.0.1", Verdict::Refused), // the mapped form itself is not allowed
            ("fe80::5", Verdict::Fine),
            ("8.8.8.8", Verdict::Refused),
            ("8.8.4.4", Verdict::Fine),
            ("2001:db8:bad::1", Verdict::Refused),
        ] {
            assert_eq!(policy.address(ip(address), &[]), verdict, "{address}");
        }
    }

    // S33: relay to relay on the own address, never to the listening ports
    #[test]
    fn own_relay_ports_are_fine_and_listening_ports_never() {
        let own = ip("203.0.113.1");
        let policy = PeerPolicy {
            own: vec![own],
            listening: vec![
                "203.0.113.1:3478".parse().unwrap(),
                "0.0.0.0:50000".parse().unwrap(),
            ],
            ..PeerPolicy::default()
        };
        let verdict = policy.address(own, &[own]);
        assert_eq!(verdict, Verdict::RelayPorts);
        for (port, fine) in [
            (49152, true),
            (65535, true),
            (3478, false),
            (22, false),
            (0, false),
            (50000, false),
        ] {
            assert_eq!(
                policy.port(verdict, SocketAddr::new(own, port), &(49152..=65535)),
                fine,
                "{port}"
            );
        }
        assert!(policy.port(
            Verdict::Fine,
            "8.8.8.8:50000".parse().unwrap(),
            &(49152..=65535)
        ));
        assert!(!policy.port(
            Verdict::Fine,
            "127.0.0.1:50000".parse().unwrap(),
            &(49152..=65535)
        ));
        assert_eq!(
            policy.address(ip("::ffff:203.0.113.1"), &[own]),
            Verdict::Refused
        );
    }

    #[test]
    fn prefixes_are_read_strictly() {
        for bad in [
            "",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/-1",
            "host",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?}");
        }
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(ip("1.2.3.4")) && !all.contains(ip("::")));
        assert!("::/0".parse::<Prefix>().unwrap().contains(ip("ff::")));
    }
}

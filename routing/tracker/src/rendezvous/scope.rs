//! How far an address reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Unspecified, multicast, broadcast, or of a range in which no host is.
    Unusable,
    /// This machine.
    Loopback,
    /// This link.
    LinkLocal,
    /// The overlay's own prefixes, fda0::/16 and fda1::/16.
    Overlay,
    /// RFC 1918, the shared space of carriers (RFC 6598), unique local and site-local IPv6.
    Private,
    /// Everything else.
    Global,
}

/// Classifies an address; one that maps IPv4 into IPv6 is read as IPv4.
pub fn scope(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        IpAddr::V4(ip) => scope4(ip),
        IpAddr::V6(ip) => scope6(ip),
    }
}

fn scope4(ip: Ipv4Addr) -> Scope {
    let [a, b, ..] = ip.octets();
    match a {
        0 | 224..=255 => Scope::Unusable,
        127 => Scope::Loopback,
        _ if ip.is_link_local() => Scope::LinkLocal,
        _ if ip.is_private() || (a == 100 && (64..128).contains(&b)) => Scope::Private,
        _ => Scope::Global,
    }
}

fn scope6(ip: Ipv6Addr) -> Scope {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Scope::Loopback,
        // unspecified and IPv4-compatible; NAT64 would turn the second into any IPv4 address, our own too
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] => Scope::Unusable,
        [0xff00..=0xffff, ..] => Scope::Unusable,
        [0xfe80..=0xfebf, ..] => Scope::LinkLocal,
        [0xfda0 | 0xfda1, ..] => Scope::Overlay,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Scope::Private,
        _ => Scope::Global,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        use Scope::*;
        for (ip, expected) in [
            ("0.0.0.0", Unusable),
            ("0.1.2.3", Unusable),
            ("224.0.0.1", Unusable),
            ("255.255.255.255", Unusable),
            ("240.0.0.1", Unusable),
            ("127.9.9.9", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("169.254.1.1", LinkLocal),
            ("10.1.1.1", Private),
            ("172.31.0.1", Private),
            ("172.32.0.1", Global),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("100.128.0.1", Global),
            ("::ffff:8.8.8.8", Global),
            ("::", Unusable),
            ("::1", Loopback),
            ("::7f00:1", Unusable),
            ("64:ff9b::7f00:1", Unusable),
            ("ff02::1", Unusable),
            ("fe80::1", LinkLocal),
            ("fda0:8ed7::1", Overlay),
            ("fda1::1", Overlay),
            ("fd00::1", Private),
            ("fc00::1", Private),
            ("fec0::1", Private),
            ("2001:db8::1", Global),
        ] {
            assert_eq!(scope(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}

//! Which addresses a zone file may name, by where it came from (S16, S27): who serves a file from the Internet must not
//! point nodes at what is inside their networks, and nobody at what is no place of one machine.
use super::Family;
use crate::address::is_synthetic;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a file came from, which is as far inside as its relays may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reach {
    /// From a server with a public address: public relays only.
    Public,
    /// From a server with a private address: also private ones (RFC 1918, RFC 6598, ULA).
    Private,
    /// From this machine, by its path or over loopback: also loopback and link-local ones.
    Local,
}

/// What is wrong with an IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Forbidden {
    /// Never a place of one machine, or not outside of the overlay.
    #[error("{0} is no address that a relay can have")]
    Never(IpAddr),
    /// Too far inside.
    #[error("{0} is not public, and this file came from a public server")]
    Inside(IpAddr),
    /// Too far inside.
    #[error("{0} is an address of this machine or link alone, and this file came from elsewhere")]
    Here(IpAddr),
}

impl Reach {
    /// The reach of a file that came from `server`; `None` where no file may come from.
    pub fn of_server(server: IpAddr) -> Option<Self> {
        needed(server)
    }

    /// Whether a file with this reach may name `ip`.
    pub fn check(self, ip: IpAddr) -> Result<(), Forbidden> {
        match needed(ip) {
            None => Err(Forbidden::Never(ip)),
            Some(needed) if needed <= self => Ok(()),
            Some(Self::Local) => Err(Forbidden::Here(ip)),
            Some(_) => Err(Forbidden::Inside(ip)),
        }
    }
}

/// The least reach that may name this address; `None`: none may.
fn needed(ip: IpAddr) -> Option<Reach> {
    match ip {
        IpAddr::V4(ip) => needed_v4(ip),
        IpAddr::V6(ip) => needed_v6(ip),
    }
}

fn needed_v4(ip: Ipv4Addr) -> Option<Reach> {
    match ip.octets() {
        [0 | 224..=255, ..] => None,
        [127, ..] | [169, 254, ..] => Some(Reach::Local),
        // RFC 6598: behind a provider's NAT
        [100, 64..=127, ..] => Some(Reach::Private),
        _ if ip.is_private() => Some(Reach::Private),
        _ => Some(Reach::Public),
    }
}

fn needed_v6(ip: Ipv6Addr) -> Option<Reach> {
    // ::ffff:0:0/96 and the like would be another spelling of an IPv4 address
    let has_v4_inside = matches!(
        ip.segments(),
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..]
    );
    match ip {
        Ipv6Addr::LOCALHOST => Some(Reach::Local),
        // no scope stands beside it: which link is meant cannot be known
        _ if ip.is_unicast_link_local() => None,
        _ if ip.is_multicast() || has_v4_inside || is_overlay(ip) => None,
        _ if ip.is_unique_local() => Some(Reach::Private),
        _ => Some(Reach::Public),
    }
}

/// An address inside of an overlay: packets for it would go through themselves.
fn is_overlay(ip: Ipv6Addr) -> bool {
    is_synthetic(ip) || ip.segments()[0] == 0xfda1
}

impl Family {
    /// Of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S16, S27
    #[test]
    fn who_serves_a_file_may_point_no_further_inside_than_it_is_itself() {
        use Reach::{Local, Private, Public};
        for (ip, needed) in [
            ("192.0.2.1", Some(Public)),
            ("8.8.8.8", Some(Public)),
            ("2001:db8::1", Some(Public)),
            ("10.1.2.3", Some(Private)),
            ("172.16.0.1", Some(Private)),
            ("172.32.0.1", Some(Public)),
            ("192.168.0.1", Some(Private)),
            ("100.64.0.1", Some(Private)),
            ("100.128.0.1", Some(Public)),
            ("fd00::1", Some(Private)),
            ("fc00::1", Some(Private)),
            ("127.0.0.1", Some(Local)),
            ("127.255.0.1", Some(Local)),
            ("::1", Some(Local)),
            ("169.254.169.254", Some(Local)),
            ("fe80::1", None),
            ("0.0.0.0", None),
            ("0.1.2.3", None),
            ("224.0.0.1", None),
            ("239.255.255.255", None),
            ("255.255.255.255", None),
            ("240.0.0.1", None),
            ("::", None),
            ("ff02::1", None),
            ("::ffff:127.0.0.1", None),
            ("::ffff:8.8.8.8", None),
            ("::7f00:1", None),
            ("64:ff9b::7f00:1", None),
            ("fda0::1", None),
            ("fda0:8ed7:8a43:c2c:b76a:57af:6262:3020", None),
            ("fda1::1", None),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            for reach in [Public, Private, Local] {
                let allowed = needed.is_some_and(|needed| needed <= reach);
                assert_eq!(reach.check(ip).is_ok(), allowed, "{ip} from {reach:?}");
            }
            assert_eq!(Reach::of_server(ip), needed, "{ip}");
        }
    }
}

//! Which of our addresses are announced, and to which tracker (B1, B2).

use super::cidr::Cidr;
use super::scope::{Scope, scope};
use crate::compact::Family;
use std::net::IpAddr;

/// The most addresses of one family that are announced.
pub const MAX_PER_FAMILY: usize = 8;

/// An address of a socket on which the node hears its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address; the announce is bound to it.
    pub ip: IpAddr,
    /// The port to announce: the socket's, or the mapped one where NETID, STUN or port mapping have shown another.
    pub port: u16,
    /// Deprecated, or temporary and past its preferred life.
    pub deprecated: bool,
    /// The source that this machine uses towards the outside. A private address is worth announcing to a public
    /// tracker only then: the tracker sees what the NAT makes of it.
    pub way_out: bool,
}

/// Why an address is not announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// Unspecified, multicast and the like.
    #[error("it is no address of a host")]
    NoHost,
    /// Only this link knows it.
    #[error("it is link-local")]
    LinkLocal,
    /// The overlay must not be carried over itself.
    #[error("it is an address of the overlay")]
    Overlay,
    /// It goes away soon.
    #[error("it is deprecated")]
    Deprecated,
    /// There is no port to announce.
    #[error("it has no port")]
    NoPort,
    /// `deny` names it, or `allow` is set and does not.
    #[error("the configuration denies it")]
    Denied,
    /// More than [`MAX_PER_FAMILY`].
    #[error("there are more than {MAX_PER_FAMILY} addresses of its family")]
    TooMany,
}

/// The configured lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// When not empty, only these are announced.
    pub allow: Vec<Cidr>,
    /// These are not, whatever `allow` says.
    pub deny: Vec<Cidr>,
}

impl Publish {
    /// Whether an address may be announced to any tracker at all.
    pub fn check(&self, local: &LocalAddress) -> Result<(), Unpublished> {
        match scope(local.ip) {
            Scope::Unusable => return Err(Unpublished::NoHost),
            Scope::LinkLocal => return Err(Unpublished::LinkLocal),
            Scope::Overlay => return Err(Unpublished::Overlay),
            Scope::Loopback | Scope::Private | Scope::Global => {}
        }
        if local.deprecated {
            return Err(Unpublished::Deprecated);
        }
        if local.port == 0 {
            return Err(Unpublished::NoPort);
        }
        let inside = |list: &[Cidr]| list.iter().any(|network| network.contains(local.ip));
        if inside(&self.deny) || (!self.allow.is_empty() && !inside(&self.allow)) {
            return Err(Unpublished::Denied);
        }
        Ok(())
    }

    /// The addresses to announce, at most [`MAX_PER_FAMILY`] of each family in the order given; what is left out goes
    /// to `left_out` with its reason.
    pub fn select(
        &self,
        locals: &[LocalAddress],
        mut left_out: impl FnMut(&LocalAddress, Unpublished),
    ) -> Vec<LocalAddress> {
        let mut selected: Vec<LocalAddress> = Vec::new();
        for local in locals {
            let family = Family::of(local.ip);
            let of_family = selected
                .iter()
                .filter(|other| Family::of(other.ip) == family)
                .count();
            let room = if of_family < MAX_PER_FAMILY {
                Ok(())
            } else {
                Err(Unpublished::TooMany)
            };
            match self.check(local).and(room) {
                Ok(()) if selected.iter().any(|other| other.ip == local.ip) => {}
                Ok(()) => selected.push(*local),
                Err(reason) => left_out(local, reason),
            }
        }
        selected
    }
}

/// Whether `local` can be the source of packets to this address of a tracker, and is worth telling it (B1, B2).
pub fn pairs(local: &LocalAddress, tracker: IpAddr) -> bool {
    if Family::of(local.ip) != Family::of(tracker) {
        return false;
    }
    match (scope(local.ip), scope(tracker)) {
        (Scope::Loopback, Scope::Loopback) => true,
        (Scope::Global | Scope::Private, Scope::Private) => true,
        (Scope::Global, Scope::Global) => true,
        (Scope::Private, Scope::Global) => local.way_out,
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn local(ip: &str) -> LocalAddress {
        LocalAddress {
            ip: ip.parse().unwrap(),
            port: 8737,
            deprecated: false,
            way_out: false,
        }
    }

    // B1
    #[test]
    fn what_is_never_announced_is_left_out_with_its_reason() {
        let publish = Publish {
            allow: vec![],
            deny: vec!["203.0.113.0/24".parse().unwrap()],
        };
        let deprecated = LocalAddress {
            deprecated: true,
            ..local("2001:db8::9")
        };
        let portless = LocalAddress {
            port: 0,
            ..local("192.0.2.1")
        };
        for (address, reason) in [
            (local("0.0.0.0"), Unpublished::NoHost),
            (local("ff02::1"), Unpublished::NoHost),
            (local("169.254.0.9"), Unpublished::LinkLocal),
            (local("fe80::1"), Unpublished::LinkLocal),
            (
                local("fda0:8ed7:8a43:c2c:b76a:57af:6262:3020"),
                Unpublished::Overlay,
            ),
            (deprecated, Unpublished::Deprecated),
            (portless, Unpublished::NoPort),
            (local("203.0.113.9"), Unpublished::Denied),
        ] {
            assert_eq!(publish.check(&address), Err(reason), "{address:?}");
        }
        for good in [
            "192.0.2.1",
            "10.0.0.1",
            "2001:db8::1",
            "fd00::1",
            "127.0.0.1",
        ] {
            assert_eq!(publish.check(&local(good)), Ok(()), "{good}");
        }
        let only = Publish {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            ..publish
        };
        assert_eq!(only.check(&local("192.0.2.1")), Ok(()));
        assert_eq!(only.check(&local("192.0.3.1")), Err(Unpublished::Denied));
    }

    #[test]
    fn at_most_eight_addresses_of_a_family_are_announced() {
        let locals: Vec<_> = (1..=12)
            .flat_map(|n| {
                [
                    local(&format!("192.0.2.{n}")),
                    local(&format!("2001:db8::{n:x}")),
                ]
            })
            .chain([local("192.0.2.1")])
            .collect();
        let mut left_out = Vec::new();
        let selected = Publish::default().select(&locals, |_, reason| left_out.push(reason));
        assert_eq!(selected.len(), 16);
        assert_eq!(left_out, [Unpublished::TooMany; 9]);
    }

    // B1, B2
    #[test]
    fn a_local_address_is_paired_with_trackers_that_it_reaches() {
        let out = LocalAddress {
            way_out: true,
            ..local("10.0.0.1")
        };
        for (address, tracker, paired) in [
            (local("192.0.2.1"), "198.51.100.1", true),
            (local("192.0.2.1"), "2001:db8::1", false),
            (local("2001:db8::1"), "198.51.100.1", false),
            (local("192.0.2.1"), "10.0.0.9", true),
            (local("10.0.0.1"), "10.0.0.9", true),
            (local("10.0.0.1"), "198.51.100.1", false),
            (out, "198.51.100.1", true),
            (local("127.0.0.1"), "127.0.0.1", true),
            (local("127.0.0.1"), "198.51.100.1", false),
            (local("192.0.2.1"), "127.0.0.1", false),
            (local("fd00::1"), "fd00::2", true),
            (local("2001:db8::1"), "fe80::1", false),
        ] {
            assert_eq!(
                pairs(&address, tracker.parse().unwrap()),
                paired,
                "{address:?} {tracker}"
            );
        }
    }
}

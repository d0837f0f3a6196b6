//! Several nodes on one machine: one has the routes, the others take what is surely theirs (U11).
//!
//! ```text
//!   fda0::/16                 dev anode0      the first: all that nobody else claims
//!   fda0::/17  from OWN       dev anode1  ┐   the second: what comes from its own address, such as the answers of
//!   fda0:8000::/17 from OWN   dev anode1  ┘   a server, or a program that was told to bind there
//!   PEER/124   from ::        dev anode1      … and flows without a source yet, to the peers that it knows
//! ```
//!
//! Halves, since Linux looks among the routes with a source before all others of the same prefix, and among those of a
//! wider prefix when none fits. From `::` alone, so that what the first node talks about with the same peer stays its own.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::libc;

use crate::netlink::{Netlink, Route};
use crate::{PlatformError, Prefix};

/// How an interface gets along with those of other nodes on this machine. The default: alone, or beside the one that was
/// there first, with no peers.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// Leave the routes to another one, even if it is still to come.
    pub leave: bool,
    /// Where flows go over this interface, beside those that come from its own addresses.
    pub peers: Vec<Prefix>,
}

/// Adds the routes; the name of the other interface, if one has them, or an empty one if none has yet.
pub(super) fn route(
    netlink: &mut Netlink,
    index: u32,
    routes: &[Prefix],
    addresses: &[Prefix],
    sharing: &Sharing,
) -> Result<Option<String>, PlatformError> {
    if sharing.leave {
        beside(netlink, index, routes, addresses, sharing)?;
        return Ok(Some(first(netlink, routes)?.unwrap_or_default()));
    }
    if let Some(other) = first(netlink, routes)? {
        beside(netlink, index, routes, addresses, sharing)?;
        return Ok(Some(other));
    }
    for &destination in routes {
        netlink.route_add(&Route {
            source: source(addresses, destination),
            ..ours(destination, index)
        })?;
    }
    Ok(None)
}

/// The interface of another node that has one of the routes.
fn first(netlink: &mut Netlink, routes: &[Prefix]) -> Result<Option<String>, PlatformError> {
    let all = netlink.routes(true)?;
    let found = all
        .into_iter()
        .find(|route| route.ours && route.from.is_none() && routes.contains(&route.destination));
    Ok(found.map(|route| route.device.unwrap_or_default()))
}

fn beside(
    netlink: &mut Netlink,
    index: u32,
    routes: &[Prefix],
    addresses: &[Prefix],
    sharing: &Sharing,
) -> Result<(), PlatformError> {
    for &destination in routes {
        let own = addresses
            .iter()
            .filter(|address| destination.contains(address.address()));
        for address in own {
            for half in halves(destination) {
                let route = Route {
                    from: Some(Prefix::host(address.address())),
                    ..ours(half, index)
                };
                netlink.route_add(&route).map_err(no_subtrees)?;
            }
        }
    }
    for &peer in &sharing.peers {
        add_peer(netlink, index, peer, source(addresses, peer))?;
    }
    Ok(())
}

/// Flows that have no source yet.
fn no_source() -> Prefix {
    Prefix::host(Ipv6Addr::UNSPECIFIED)
}

fn add_peer(
    netlink: &mut Netlink,
    index: u32,
    peer: Prefix,
    source: Option<IpAddr>,
) -> Result<(), PlatformError> {
    let added = netlink.route_add(&Route {
        from: Some(no_source()),
        source,
        ..ours(peer, index)
    });
    match added {
        // A third node knows it, too, and was faster.
        Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => Ok(()),
        result => result,
    }
}

/// The routes to peers of an interface that stands beside another one, while peers come and go. Needs CAP_NET_ADMIN.
#[derive(Debug)]
pub struct PeerRoutes {
    netlink: Netlink,
    index: u32,
    source: Ipv6Addr,
}

impl PeerRoutes {
    /// Of the interface `name`; `source` is the address of ours that flows get which take them.
    pub fn open(name: &str, source: Ipv6Addr) -> Result<Self, PlatformError> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(name)?.ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            PlatformError::io(format!("find interface {name}"), gone)
        })?;
        Ok(Self {
            netlink,
            index: link.index,
            source,
        })
    }

    /// Adds the routes that `peers` lack, and removes those of others.
    pub fn follow(&mut self, peers: &HashSet<Prefix>) -> Result<(), PlatformError> {
        let mut there = HashSet::new();
        for route in self.netlink.routes(true)? {
            let is_of_peer = route.ours && route.from == Some(no_source());
            if !is_of_peer || route.index != Some(self.index) {
                continue;
            }
            if peers.contains(&route.destination) {
                there.insert(route.destination);
                continue;
            }
            match self.netlink.route_delete(&route) {
                // Somebody else has.
                Err(PlatformError::Io { source, .. })
                    if source.raw_os_error() == Some(libc::ESRCH) => {}
                result => result?,
            }
        }
        for &peer in peers.difference(&there) {
            add_peer(
                &mut self.netlink,
                self.index,
                peer,
                Some(self.source.into()),
            )?;
        }
        Ok(())
    }
}

fn ours(destination: Prefix, index: u32) -> Route {
    Route {
        ours: true,
        ..Route::to_link(destination, index)
    }
}

/// With several addresses the kernel would choose by the longest match with the destination.
fn source(addresses: &[Prefix], destination: Prefix) -> Option<IpAddr> {
    let wide = Prefix::new(destination.address(), destination.length().min(16))?;
    addresses
        .iter()
        .map(Prefix::address)
        .find(|address| wide.contains(*address))
}

/// The two prefixes, one bit longer, that are the whole together. None of a single address.
fn halves(whole: Prefix) -> impl Iterator<Item = Prefix> {
    let upper = |length: u8| match whole.network().address() {
        IpAddr::V6(low) => {
            let bit = 1 << (128 - u32::from(length));
            Some(IpAddr::V6(Ipv6Addr::from_bits(low.to_bits() | bit)))
        }
        IpAddr::V4(_) => None,
    };
    let length = whole.length() + 1;
    let lower = Prefix::new(whole.network().address(), length);
    let upper = lower
        .and_then(|_| upper(length))
        .and_then(|address| Prefix::new(address, length));
    lower.into_iter().chain(upper)
}

fn no_subtrees(error: PlatformError) -> PlatformError {
    match error {
        PlatformError::Io { what, source } if source.raw_os_error() == Some(libc::EINVAL) => {
            PlatformError::io(
                format!(
                    "{what}: this kernel cannot route by source (CONFIG_IPV6_SUBTREES), which a second node needs; give one of the two a network namespace of its own"
                ),
                source,
            )
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_are_the_whole() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let cases = [
            ("fda0::/16", &["fda0::/17", "fda0:8000::/17"][..]),
            ("::/0", &["::/1", "8000::/1"]),
            ("fda0::2/127", &["fda0::2/128", "fda0::3/128"]),
            ("fda0::1/128", &[]),
        ];
        for (whole, expected) in cases {
            let found: Vec<_> = halves(prefix(whole)).collect();
            let expected: Vec<_> = expected.iter().map(|text| prefix(text)).collect();
            assert_eq!(found, expected, "{whole}");
        }
    }
}

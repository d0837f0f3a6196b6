//! Routes: add, list, what is in the way, and the guard that stands while the program does not run.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, refused};
use crate::{PlatformError, Prefix};

/// The table that ordinary routes stand in.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's own table of local and broadcast addresses.
pub const TABLE_LOCAL: u32 = 255;

/// The guard's metric: worse than every other route of the same prefix, so that it counts only when there is none.
/// Together with the type "unreachable" it is how the guard is known again.
pub const GUARD_METRIC: u32 = u32::MAX - 1;

/// The protocol number of routes that interfaces of this program bring with them: by it, two nodes of one machine know each
/// other's from those of strangers. Free in iproute2's `rt_protos`.
const PROTOCOL_OURS: u8 = 87;

/// What a route does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// Sends it to a link or a gateway.
    Unicast,
    /// Refuses it with ICMP unreachable.
    Unreachable,
    /// Drops it without a word.
    Blackhole,
    /// Refuses it with ICMP administratively prohibited.
    Prohibit,
    /// Anything else, by its number in `linux/rtnetlink.h`.
    Other(u8),
}

impl RouteKind {
    /// Whether packets go anywhere by it.
    pub fn carries(self) -> bool {
        matches!(self, Self::Unicast | Self::Other(_))
    }
}

/// One route of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// Only for packets from there; the unspecified address alone stands for flows that have no source yet.
    pub from: Option<Prefix>,
    /// What it does.
    pub kind: RouteKind,
    /// The link's name, where it names one that exists.
    pub device: Option<String>,
    /// The link's index.
    pub index: Option<u32>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The lower one wins among routes to the same prefix; 0 lets the kernel choose (1024 for IPv6).
    pub metric: u32,
    /// The routing table, [`TABLE_MAIN`] unless policy routing is in use.
    pub table: u32,
    /// Whether an interface of this program brought it.
    pub ours: bool,
}

impl Route {
    /// A route to `destination` over the link `index`.
    pub fn to_link(destination: Prefix, index: u32) -> Self {
        Self {
            destination,
            from: None,
            kind: RouteKind::Unicast,
            device: None,
            index: Some(index),
            gateway: None,
            source: None,
            metric: 0,
            table: TABLE_MAIN,
            ours: false,
        }
    }

    /// A route to `destination` through the next hop `gateway`.
    pub fn via(destination: Prefix, gateway: impl Into<IpAddr>) -> Self {
        Self {
            index: None,
            gateway: Some(gateway.into()),
            ..Self::to_link(destination, 0)
        }
    }

    /// The route that refuses what the overlay would have carried, while nothing better is there (DESIGN §4).
    pub fn guard(destination: Prefix) -> Self {
        Self {
            index: None,
            kind: RouteKind::Unreachable,
            metric: GUARD_METRIC,
            ..Self::to_link(destination, 0)
        }
    }

    /// Whether this is the program's own guard.
    pub fn is_guard(&self) -> bool {
        self.kind == RouteKind::Unreachable && self.metric == GUARD_METRIC
    }

    fn of_message(message: RouteMessage) -> Option<Self> {
        let header = message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let (mut destination, mut from) = (unspecified, unspecified);
        let mut route = Self {
            destination: Prefix::host(unspecified),
            from: None,
            kind: header.kind.into(),
            device: None,
            index: None,
            gateway: None,
            source: None,
            metric: 0,
            table: header.table.into(),
            ours: header.protocol == PROTOCOL_OURS.into(),
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Source(address) => from = ip(address)?,
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Oif(index) => route.index = Some(index),
                RouteAttribute::Priority(metric) => route.metric = metric,
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::MultiPath(hops) => {
                    route.index = hops.first().map(|hop| hop.interface_index);
                }
                _ => {}
            }
        }
        route.destination = Prefix::new(destination, header.destination_prefix_length)?;
        if header.source_prefix_length != 0 {
            route.from = Some(Prefix::new(from, header.source_prefix_length)?);
        }
        Some(route)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let destination = self.destination.network();
        message.header = RouteHeader {
            address_family: match destination.address() {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            },
            destination_prefix_length: destination.length(),
            source_prefix_length: self.from.map_or(0, |from| from.length()),
            // Tables above 255 stand in the attribute alone.
            table: u8::try_from(self.table).unwrap_or(0),
            protocol: match self.ours {
                true => PROTOCOL_OURS.into(),
                false => RouteProtocol::Static,
            },
            scope: match self.gateway {
                None if self.kind == RouteKind::Unicast && destination.address().is_ipv4() => {
                    RouteScope::Link
                }
                _ => RouteScope::Universe,
            },
            kind: self.kind.into(),
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(destination.address().into()));
        attributes.extend(
            self.from
                .map(|from| RouteAttribute::Source(from.address().into())),
        );
        attributes.push(RouteAttribute::Table(self.table));
        attributes.extend(self.index.map(RouteAttribute::Oif));
        attributes.extend(self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }
}

/// As `ip route` prints it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Unreachable => write!(f, "unreachable ")?,
            RouteKind::Blackhole => write!(f, "blackhole ")?,
            RouteKind::Prohibit => write!(f, "prohibit ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        write!(f, "{}", self.destination)?;
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl From<RouteType> for RouteKind {
    fn from(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Unreachable => Self::Unreachable,
            RouteType::BlackHole => Self::Blackhole,
            RouteType::Prohibit => Self::Prohibit,
            other => Self::Other(other.into()),
        }
    }
}

impl From<RouteKind> for RouteType {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => Self::Unicast,
            RouteKind::Unreachable => Self::Unreachable,
            RouteKind::Blackhole => Self::BlackHole,
            RouteKind::Prohibit => Self::Prohibit,
            RouteKind::Other(kind) => kind.into(),
        }
    }
}

/// How a route lies to a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlap {
    /// The same prefix.
    Same,
    /// Inside the prefix: it would take traffic from it.
    Inside,
    /// Around the prefix: traffic would be taken from it.
    Around,
}

/// A route that is in the way of a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// How it lies to the prefix.
    pub overlap: Overlap,
    /// The route.
    pub route: Route,
}

impl Netlink {
    /// The routes of one family in all tables.
    pub fn routes(&mut self, ipv6: bool) -> Result<Vec<Route>, PlatformError> {
        let mut message = RouteMessage::default();
        message.header.address_family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let found = self
            .dump(RouteNetlinkMessage::GetRoute(message))
            .map_err(refused("list routes".into()))?;
        let links = self.links()?;
        let mut routes: Vec<_> = found
            .into_iter()
            .filter_map(|message| match message {
                // Not the entries of the kernel's cache, which are no rules of the administrator's.
                RouteNetlinkMessage::NewRoute(message)
                    if !message.header.flags.contains(RouteFlags::Cloned) =>
                {
                    Route::of_message(message)
                }
                _ => None,
            })
            .collect();
        for route in &mut routes {
            route.device = links
                .iter()
                .find(|link| Some(link.index) == route.index)
                .map(|link| link.name.clone());
        }
        Ok(routes)
    }

    /// The route that a packet to `address` would take now, with the source address that it would get; `None` when
    /// there is none, or only one that refuses it.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<Route>, PlatformError> {
        let message = Route {
            index: None,
            ..Route::to_link(Prefix::host(address), 0)
        }
        .message();
        match self.get(RouteNetlinkMessage::GetRoute(message)) {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => {
                Ok(Route::of_message(message).filter(|route| route.kind.carries()))
            }
            Ok(_) => Ok(None),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::PermissionDenied
                ) || error.raw_os_error() == Some(nix::libc::EINVAL) =>
            {
                Ok(None)
            }
            Err(error) => Err(refused(format!("look up the route to {address}"))(error)),
        }
    }

    /// Adds a route, of protocol "static" unless it is ours; fails with `AlreadyExists` when it is there.
    pub fn route_add(&mut self, route: &Route) -> Result<(), PlatformError> {
        self.create(RouteNetlinkMessage::NewRoute(route.message()))
            .map_err(refused(format!("add route {route}")))
    }

    /// Removes a route; a metric of 0 matches any.
    pub fn route_delete(&mut self, route: &Route) -> Result<(), PlatformError> {
        self.change(RouteNetlinkMessage::DelRoute(route.message()), 0)
            .map_err(refused(format!("remove route {route}")))
    }

    /// The routes that overlap `prefix`, the narrowest first. Not counted: default routes, the guard, those of the link
    /// `except` and of other nodes on this machine, the kernel's table of local addresses, and wider ones that carry no
    /// traffic (many routers refuse fc00::/7 as a whole).
    pub fn conflicts(
        &mut self,
        prefix: Prefix,
        except: Option<u32>,
    ) -> Result<Vec<Conflict>, PlatformError> {
        let routes = self.routes(prefix.address().is_ipv6())?;
        // Their own addresses have routes, too, which the kernel makes.
        let of_nodes = routes.iter().filter(|route| route.ours);
        let of_nodes: HashSet<Option<u32>> = of_nodes.map(|route| route.index).collect();
        let mut conflicts: Vec<_> = routes
            .into_iter()
            .filter(|route| except.is_none() || route.index != except)
            .filter(|route| !of_nodes.contains(&route.index))
            .filter_map(|route| {
                let overlap = overlap(prefix, &route)?;
                Some(Conflict { overlap, route })
            })
            .collect();
        conflicts.sort_by_key(|conflict| std::cmp::Reverse(conflict.route.destination.length()));
        Ok(conflicts)
    }

    /// An error that names the first route in the way of any of `prefixes`.
    pub fn refuse_conflicts(
        &mut self,
        prefixes: &[Prefix],
        except: Option<u32>,
    ) -> Result<(), PlatformError> {
        for &prefix in prefixes {
            if let Some(conflict) = self.conflicts(prefix, except)?.into_iter().next() {
                return Err(PlatformError::RouteConflict {
                    prefix,
                    route: conflict.route.to_string(),
                });
            }
        }
        Ok(())
    }
}

fn overlap(prefix: Prefix, route: &Route) -> Option<Overlap> {
    let destination = route.destination;
    if route.table == TABLE_LOCAL || destination.length() == 0 || route.is_guard() {
        return None;
    }
    match (prefix.covers(&destination), destination.covers(&prefix)) {
        (true, true) => Some(Overlap::Same),
        (true, false) => Some(Overlap::Inside),
        (false, true) if route.kind.carries() => Some(Overlap::Around),
        _ => None,
    }
}

/// Puts an unreachable route with the worst metric under each prefix, so that nothing meant for the overlay leaves by
/// the default route while the program does not run (DESIGN §4). Routes that stand already are left as they are.
pub fn guard_add(prefixes: &[Prefix]) -> Result<(), PlatformError> {
    let mut netlink = Netlink::open()?;
    for &prefix in prefixes {
        match netlink.route_add(&Route::guard(prefix)) {
            Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Removes the guard of each prefix, where there is one.
pub fn guard_remove(prefixes: &[Prefix]) -> Result<(), PlatformError> {
    let mut netlink = Netlink::open()?;
    for &prefix in prefixes {
        match netlink.route_delete(&Route::guard(prefix)) {
            Err(PlatformError::Io { source, .. })
                if source.raw_os_error() == Some(nix::libc::ESRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(v4.into()),
        RouteAddress::Inet6(v6) => Some(v6.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_print_as_ip_prints_them() {
        let net = "fda0::/16".parse().unwrap();
        let mut route = Route::to_link(net, 3);
        route.device = Some("tailscale0".into());
        assert_eq!(route.to_string(), "fda0::/16 dev tailscale0");
        route.gateway = Some("fe80::1".parse().unwrap());
        route.table = 52;
        assert_eq!(
            route.to_string(),
            "fda0::/16 via fe80::1 dev tailscale0 table 52"
        );
        route.from = Some("fda0:1::1/128".parse().unwrap());
        assert_eq!(
            route.to_string(),
            "fda0::/16 from fda0:1::1/128 via fe80::1 dev tailscale0 table 52"
        );
        assert_eq!(Route::guard(net).to_string(), "unreachable fda0::/16");
    }

    #[test]
    fn a_route_overlaps_when_it_is_the_same_inside_or_a_used_one_around() {
        let prefix = "fda0::/16".parse().unwrap();
        let route = |text: &str, kind| Route {
            kind,
            ..Route::to_link(text.parse().unwrap(), 1)
        };
        let cases = [
            ("fda0::/16", RouteKind::Unicast, Some(Overlap::Same)),
            ("fda0::/16", RouteKind::Blackhole, Some(Overlap::Same)),
            ("fda0:1::/32", RouteKind::Unicast, Some(Overlap::Inside)),
            ("fda0:1::/32", RouteKind::Prohibit, Some(Overlap::Inside)),
            ("fd00::/8", RouteKind::Unicast, Some(Overlap::Around)),
            ("fc00::/7", RouteKind::Unreachable, None),
            ("::/0", RouteKind::Unicast, None),
            ("fda1::/16", RouteKind::Unicast, None),
            ("2001:db8::/32", RouteKind::Unicast, None),
        ];
        for (text, kind, expected) in cases {
            assert_eq!(
                overlap(prefix, &route(text, kind)),
                expected,
                "{text} {kind:?}"
            );
        }
        assert_eq!(overlap(prefix, &Route::guard(prefix)), None);
        let local = Route {
            table: TABLE_LOCAL,
            ..route("fda0::1/128", RouteKind::Other(2))
        };
        assert_eq!(overlap(prefix, &local), None);
    }
}

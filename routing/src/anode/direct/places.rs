//! Where this node may be reached directly, as it says to peers, and whether that and what they say can meet at all.
use super::offer::MAX_PLACES;
use crate::anode::Node;
use crate::anode::peers::PeerRef;
use std::net::{IpAddr, SocketAddr};

impl Node {
    /// Where we may be, the most promising first: as the gateway or others see us, then as we see ourselves.
    pub(super) fn own_places(&self) -> Vec<SocketAddr> {
        let survey = &self.direct.survey;
        let mut seen = survey.external();
        seen.reverse();
        let mut places: Vec<SocketAddr> = survey.mapped.into_iter().chain(seen).collect();
        let interfaces = self.links.now.iter().flat_map(|one| &one.addresses);
        let mut own: Vec<IpAddr> = interfaces
            .map(|(ip, _)| *ip)
            .filter(|ip| is_offered(*ip))
            .collect();
        // IPv6 first, and global addresses before private ones.
        own.sort_by_key(|ip| (ip.is_ipv4(), is_private(*ip)));
        for socket in &self.sockets {
            let of_socket = own.iter().filter(|ip| ip.is_ipv4() == socket.is_ipv4());
            let bound =
                (!socket.ip().is_unspecified() && is_offered(socket.ip())).then_some(socket.ip());
            let ips: Vec<IpAddr> = match socket.ip().is_unspecified() {
                true => of_socket.copied().collect(),
                false => bound.into_iter().collect(),
            };
            places.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, socket.port())));
        }
        let mut each: Vec<SocketAddr> = Vec::new();
        for place in places {
            if !each.contains(&place) {
                each.push(place);
            }
        }
        each.truncate(MAX_PLACES);
        each
    }

    /// Whether packets of one of the two could lead to the other, as far as their places tell.
    pub(super) fn has_common_family(&self, found: PeerRef) -> bool {
        let hole = self.direct.holes.get(&found);
        hole.is_none_or(|hole| can_meet(&self.own_places(), &hole.theirs))
    }
}

/// Not where the one has IPv6 and no IPv4 that anybody outside has seen, and the other IPv4 alone.
fn can_meet(own: &[SocketAddr], theirs: &[SocketAddr]) -> bool {
    let of = |places: &[SocketAddr]| {
        let v6 = places.iter().any(SocketAddr::is_ipv6);
        let v4 = |at: &SocketAddr| at.is_ipv4() && !is_private(at.ip());
        (v6, places.iter().any(v4))
    };
    let (v6_alone, v4_alone) = ((true, false), (false, true));
    let both = [of(own), of(theirs)];
    both != [v6_alone, v4_alone] && both != [v4_alone, v6_alone]
}

/// Whether an address of an interface is of any use to others.
fn is_offered(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => {
            let overlay = matches!(ip.segments()[0], 0xfda0 | 0xfda1);
            !overlay && !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified()
        }
    }
}

pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || a == 100 && b & 0xc0 == 64
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_alone_and_ipv4_alone_never_meet() {
        const NATTED: &[&str] = &["198.51.100.7:40000", "10.1.0.2:8737"];
        const LAN: &[&str] = &["10.1.0.3:8737"];
        const V6: &[&str] = &["[2001:db8::1]:8737", "10.2.0.2:8737"];
        const BOTH: &[&str] = &["[2001:db8::2]:8737", "192.0.2.1:8737"];
        let cases = [
            (NATTED, NATTED, true),
            (NATTED, BOTH, true),
            (NATTED, V6, false),
            (NATTED, LAN, true),
            (LAN, LAN, true),
            (V6, V6, true),
            (V6, BOTH, true),
            (V6, LAN, true),
            (NATTED, &[], true),
            (&[], &[], true),
        ];
        for (own, theirs, meet) in cases {
            let read = |places: &[&str]| -> Vec<SocketAddr> {
                places.iter().map(|at| at.parse().unwrap()).collect()
            };
            let (left, right) = (read(own), read(theirs));
            assert_eq!(can_meet(&left, &right), meet, "{own:?} and {theirs:?}");
            assert_eq!(can_meet(&right, &left), meet, "{theirs:?} and {own:?}");
        }
    }
}

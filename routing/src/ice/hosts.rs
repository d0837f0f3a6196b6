//! The machine's own addresses that others might reach.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::io;
use std::net::IpAddr;

/// Host candidates of one machine.
const MAX_HOSTS: usize = 8;

/// Addresses of interfaces that are up: no loopback, nothing link-local, nothing of the overlay; IPv6 first.
///
/// # Errors
/// What the system says.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for interface in getifaddrs()? {
        let flags = interface.flags;
        if !flags.contains(InterfaceFlags::IFF_UP) || flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let Some(address) = interface.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let v6 = address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
        all.extend(v4.or(v6).filter(|ip| is_reachable(*ip)));
    }
    all.sort_by_key(|ip| ip.is_ipv4());
    all.dedup();
    all.truncate(MAX_HOSTS);
    Ok(all)
}

fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.octets();
            // fda0::/16 and fda1::/16 are the overlays'
            !(ip.is_unicast_link_local() || a == 0xfd && b & 0xfe == 0xa0)
        }
    }
}

//! Destinations as bytes: the sessions keep them with what they have to answer, and bind cookies to them.
use crate::anode::Destination;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A destination as the sessions keep it: family, address, port, scope, socket, and own address.
pub(super) const ENDPOINT_LEN: usize = 1 + 16 + 2 + 4 + 2 + 1 + 16;

pub(super) fn encode_destination<'a>(
    from: &Destination,
    out: &'a mut [u8; ENDPOINT_LEN],
) -> &'a [u8] {
    let (family, ip) = octets(from.to.ip());
    let scope = match from.to {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    let (own_family, own) = from.source.map_or((0, [0; 16]), octets);
    out[0] = family;
    out[1..17].copy_from_slice(&ip);
    out[17..19].copy_from_slice(&from.to.port().to_be_bytes());
    out[19..23].copy_from_slice(&scope.to_be_bytes());
    // A node has a handful of sockets.
    out[23..25].copy_from_slice(&(from.socket as u16).to_be_bytes());
    out[25] = own_family;
    out[26..].copy_from_slice(&own);
    out
}

pub(super) fn decode_destination(bytes: &[u8]) -> Option<Destination> {
    let bytes: &[u8; ENDPOINT_LEN] = bytes.try_into().ok()?;
    let ip = |at: usize| -> Option<[u8; 16]> { bytes[at..at + 16].try_into().ok() };
    let port = u16::from_be_bytes([bytes[17], bytes[18]]);
    let scope = u32::from_be_bytes([bytes[19], bytes[20], bytes[21], bytes[22]]);
    let to = match address(bytes[0], ip(1)?)? {
        IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
    };
    Some(Destination {
        to,
        socket: usize::from(u16::from_be_bytes([bytes[23], bytes[24]])),
        source: address(bytes[25], ip(26)?),
    })
}

fn octets(ip: IpAddr) -> (u8, [u8; 16]) {
    match ip {
        IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (6, ip.octets()),
    }
}

fn address(family: u8, octets: [u8; 16]) -> Option<IpAddr> {
    let ip = std::net::Ipv6Addr::from(octets);
    match family {
        4 => ip.to_ipv4_mapped().map(IpAddr::V4),
        6 => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_survive_the_sessions() {
        let cases = [
            ("192.0.2.1:8737", 0, None),
            ("192.0.2.1:8737", 1, Some("198.51.100.7")),
            ("[2001:db8::1]:1", 3, Some("2001:db8::2")),
        ];
        for (to, socket, source) in cases {
            let destination = Destination {
                to: to.parse().unwrap(),
                socket,
                source: source.map(|ip| ip.parse().unwrap()),
            };
            let mut bytes = [0; ENDPOINT_LEN];
            let encoded = encode_destination(&destination, &mut bytes);
            assert_eq!(decode_destination(encoded), Some(destination));
        }
        let scoped = Destination {
            to: SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 42)),
            socket: 2,
            source: None,
        };
        let mut bytes = [0; ENDPOINT_LEN];
        let encoded = encode_destination(&scoped, &mut bytes);
        assert_eq!(decode_destination(encoded), Some(scoped));
        assert_eq!(decode_destination(b"short"), None);
    }
}

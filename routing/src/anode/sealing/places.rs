//! Destinations as bytes: the sessions keep them with what they have to answer, and bind cookies to them.
use crate::anode::{Destination, Place, Transport};
use anode_wire::Address;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A destination as the sessions keep it: transport, family, address, port, scope, socket, and own address.
const ENDPOINT_LEN: usize = 1 + 1 + 16 + 2 + 4 + 2 + 1 + 16;

/// Numbers of transports in these bytes, which never leave this machine.
const TRANSPORTS: [Transport; 7] = [
    Transport::Udp,
    Transport::Ethernet,
    Transport::Tcp,
    Transport::Tls,
    Transport::Http,
    Transport::Https,
    Transport::Turn,
];

/// The same, and whose packet it was, where that was relayed.
pub(super) const SOURCE_LEN: usize = ENDPOINT_LEN + Address::LEN;

/// Where a packet came from. The answer to a relayed one goes over the relays of its sender, so its address belongs to it.
pub(super) fn encode_source<'a>(
    back: &Destination,
    relayed: Option<&[u8; Address::LEN]>,
    out: &'a mut [u8; SOURCE_LEN],
) -> &'a [u8] {
    if let Some(place) = out.first_chunk_mut() {
        encode_destination(back, place);
    }
    match relayed {
        Some(sender) => {
            out[ENDPOINT_LEN..].copy_from_slice(sender);
            out
        }
        None => &out[..ENDPOINT_LEN],
    }
}

/// The way back, and the sender of what was relayed: not checked for anything.
pub(super) fn decode_source(bytes: &[u8]) -> Option<(Destination, Option<[u8; Address::LEN]>)> {
    let (place, sender) = bytes.split_at_checked(ENDPOINT_LEN)?;
    Some((decode_destination(place)?, sender.try_into().ok()))
}

fn encode_destination<'a>(from: &Destination, out: &'a mut [u8; ENDPOINT_LEN]) -> &'a [u8] {
    let transport = from.to.transport();
    out[0] = transport as u8;
    match from.to {
        Place::Ethernet { interface, mac } => {
            out[2..8].copy_from_slice(&mac);
            out[20..24].copy_from_slice(&interface.to_be_bytes());
        }
        Place::Udp(to)
        | Place::Tcp(to)
        | Place::Tls(to)
        | Place::Http(to)
        | Place::Https(to)
        | Place::Turn(to) => {
            let (family, ip) = octets(to.ip());
            let scope = match to {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(v6) => v6.scope_id(),
            };
            out[1] = family;
            out[2..18].copy_from_slice(&ip);
            out[18..20].copy_from_slice(&to.port().to_be_bytes());
            out[20..24].copy_from_slice(&scope.to_be_bytes());
        }
    }
    let (own_family, own) = from.source.map_or((0, [0; 16]), octets);
    // A node has a handful of sockets.
    out[24..26].copy_from_slice(&(from.socket as u16).to_be_bytes());
    out[26] = own_family;
    out[27..].copy_from_slice(&own);
    out
}

fn decode_destination(bytes: &[u8]) -> Option<Destination> {
    let bytes: &[u8; ENDPOINT_LEN] = bytes.try_into().ok()?;
    let ip = |at: usize| -> Option<[u8; 16]> { bytes[at..at + 16].try_into().ok() };
    let port = u16::from_be_bytes([bytes[18], bytes[19]]);
    let scope = u32::from_be_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
    let transport = *TRANSPORTS.get(usize::from(bytes[0]))?;
    let to = match transport {
        Transport::Ethernet => Place::Ethernet {
            interface: scope,
            mac: bytes[2..8].try_into().ok()?,
        },
        _ => {
            let address = match address(bytes[1], ip(2)?)? {
                IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
            };
            Place::over(transport, address)?
        }
    };
    Some(Destination {
        to,
        socket: usize::from(u16::from_be_bytes([bytes[24], bytes[25]])),
        source: address(bytes[26], ip(27)?),
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

    fn through_the_sessions(destination: Destination) -> Option<Destination> {
        let mut bytes = [0; ENDPOINT_LEN];
        decode_destination(encode_destination(&destination, &mut bytes))
    }

    #[test]
    fn destinations_survive_the_sessions() {
        let cases = [
            ("192.0.2.1:8737", 0, None),
            ("192.0.2.1:8737", 1, Some("198.51.100.7")),
            ("[2001:db8::1]:1", 3, Some("2001:db8::2")),
        ];
        for (to, socket, source) in cases {
            for transport in TRANSPORTS {
                let Some(to) = Place::over(transport, to.parse().unwrap()) else {
                    continue;
                };
                let destination = Destination {
                    to,
                    socket,
                    source: source.map(|ip| ip.parse().unwrap()),
                };
                assert_eq!(through_the_sessions(destination), Some(destination));
            }
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 42);
        let others = [
            Place::Udp(SocketAddr::V6(scoped)),
            Place::Ethernet {
                interface: 0x0102_0304,
                mac: [2, 3, 4, 5, 6, 7],
            },
        ];
        for to in others {
            let destination = Destination {
                to,
                socket: 2,
                source: None,
            };
            assert_eq!(through_the_sessions(destination), Some(destination));
        }
        assert_eq!(decode_destination(b"short"), None);
    }
}

//! TURN-SERVICE: where TURN servers are (R135, R136).
use super::{Claim, Kind, forbid};
use crate::codec::{Reader, Write};
use crate::route_log::{read_address, write_address};
use crate::{DataModel, Id, ReloadError, TypeId};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The highest `d` under which a server stores itself (R135).
pub const MAX_DENSITY: u8 = 100;

/// A server, stored `turn-density` times at places that follow from its Peer-ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TurnServer {
    /// Which of the places: 1 to the density.
    pub iteration: u8,
    /// Its public address.
    pub address: SocketAddr,
}

impl TurnServer {
    /// Where a server stores its pointer number `d` (RD57).
    pub fn resource(peer: Id, d: u8) -> Id {
        let mut seed = peer.0.to_vec();
        seed.push(d);
        Id::of_seed(&seed)
    }

    /// Reads a value.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, "a TURN server");
        let server = Self {
            iteration: r.u8()?,
            address: read_address(&mut r)?,
        };
        r.end()?;
        Ok(server)
    }

    /// The value.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u8(self.iteration);
        write_address(&mut out, self.address);
        out
    }
}

/// Whether a node that sees itself at `own` and that others saw at `reflexive` may serve (R135): no NAT between, and an
/// address of the public Internet.
pub fn is_candidate(own: SocketAddr, reflexive: &[SocketAddr]) -> bool {
    !reflexive.is_empty() && reflexive.iter().all(|seen| *seen == own) && is_public(own.ip())
}

fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            // RFC 6598 shares 100.64/10; 240/4 is reserved
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || shared
                || a == 0
                || a >= 240)
        }
        // 2000::/3 is what is given out
        IpAddr::V6(ip) => ip.octets()[0] >> 5 == 1,
    }
}

pub(super) fn kind() -> Kind {
    Kind {
        id: TypeId::TURN_SERVICE,
        name: "TURN-SERVICE".into(),
        model: DataModel::Single,
        max_value: 20,
        max_values: 1,
        max_lifetime: 24 * 3600,
        findable: true,
        permission: Arc::new(permit),
    }
}

fn permit(claim: &Claim<'_>) -> Result<(), ReloadError> {
    let places = |d: u8| {
        let mut peers = claim.signer.peers().iter();
        peers.any(|peer| TurnServer::resource(*peer, d) == claim.resource)
    };
    let value = claim.data.value.bytes();
    if value.is_empty() {
        return forbid(
            "the signer has no TURN server here",
            (1..=MAX_DENSITY).any(places),
        );
    }
    let server = TurnServer::parse(value)?;
    forbid(
        "a TURN server's iteration is 1 to 100",
        (1..=MAX_DENSITY).contains(&server.iteration),
    )?;
    forbid(
        "the signer's Peer-ID and the iteration do not hash to this place",
        places(server.iteration),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::Signer;
    use crate::vectors::bytes;
    use crate::{DataValue, StoredData};

    // R135, RD4, RD57
    #[test]
    fn values_are_those_of_the_vectors() {
        for (vector, address, iteration) in [
            ("turn_server-ipv4", "192.0.2.1:3478", 1),
            ("turn_server-ipv6", "[2001:db8::1]:3478", 2),
        ] {
            let bytes = bytes(vector);
            let server = TurnServer::parse(&bytes).unwrap();
            assert_eq!(server.address, address.parse().unwrap());
            assert_eq!(server.iteration, iteration);
            assert_eq!(server.emit(), bytes);
            for len in 0..bytes.len() {
                assert!(TurnServer::parse(&bytes[..len]).is_err());
            }
        }
        assert_eq!(
            TurnServer::resource(Id([0x11; 16]), 1).0.to_vec(),
            bytes("turn-seed-resource-id")
        );
    }

    // R135, R139
    #[test]
    fn only_the_peer_that_hashes_here_stores_here() {
        let peer = Id([3; 16]);
        let signer = Signer::new(vec![peer], vec![], None);
        let store = |place, iteration| {
            let value = match iteration {
                None => Vec::new(),
                Some(iteration) => TurnServer {
                    iteration,
                    address: "192.0.2.1:3478".parse().unwrap(),
                }
                .emit(),
            };
            permit(&Claim {
                resource: place,
                data: &StoredData::missing(DataValue::Single(value)),
                signer: &signer,
            })
        };
        assert!(store(TurnServer::resource(peer, 7), Some(7)).is_ok());
        assert!(store(TurnServer::resource(peer, 100), Some(100)).is_ok());
        assert!(store(TurnServer::resource(peer, 7), Some(8)).is_err());
        assert!(store(TurnServer::resource(peer, 0), Some(0)).is_err());
        assert!(store(TurnServer::resource(peer, 101), Some(101)).is_err());
        assert!(store(TurnServer::resource(Id([4; 16]), 7), Some(7)).is_err());
        assert!(store(TurnServer::resource(peer, 7), None).is_ok());
        assert!(store(Id([4; 16]), None).is_err());
    }

    // R135
    #[test]
    fn servers_are_public_and_not_behind_a_nat() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = at("198.51.100.7:3478");
        assert!(is_candidate(own, &[own, own]));
        assert!(!is_candidate(own, &[]));
        assert!(!is_candidate(own, &[own, at("198.51.100.7:3479")]));
        for private in [
            "10.0.0.1:1",
            "192.168.1.1:1",
            "127.0.0.1:1",
            "169.254.1.1:1",
            "100.64.0.1:1",
            "224.0.0.1:1",
            "0.0.0.0:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[::ffff:10.0.0.1]:1",
        ] {
            assert!(!is_candidate(at(private), &[at(private)]), "{private}");
        }
    }
}

//! Keys, places and configurations that many tests start from.
use crate::anode::{ConfiguredPeer, Interface, NodeConfig, Plain, Pq, Security};
use anode_wire::{Address, Identity, PeerId};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The identity with this number as private key.
pub fn identity(number: u16) -> Identity {
    let mut scalar = [0; 32];
    scalar[30..].copy_from_slice(&number.to_be_bytes());
    Identity::from_scalar(anode_wire::Zone(0), &scalar).unwrap()
}

pub fn address(number: u16) -> Address {
    *identity(number).address()
}

pub fn ipv6(number: u16) -> Ipv6Addr {
    address(number).ipv6(PeerId::ANY)
}

/// Host `number` lives at 192.0.2.number.
pub fn home(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, number as u8), 8737))
}

pub fn lan_interface(at: SocketAddr) -> Interface {
    Interface {
        name: "eth0".into(),
        index: 2,
        addresses: vec![(at.ip(), 24)],
        broadcast: true,
        uplink: None,
    }
}

/// No LAN, nobody configured.
pub fn quiet() -> NodeConfig {
    NodeConfig {
        lan: false,
        ..NodeConfig::default()
    }
}

/// No LAN; these are configured at their homes.
pub fn knows(numbers: &[u16]) -> NodeConfig {
    let peers = numbers.iter().map(|number| ConfiguredPeer {
        address: address(*number),
        places: vec![home(*number).into()],
    });
    NodeConfig {
        peers: peers.collect(),
        ..quiet()
    }
}

/// Nothing sealed, no LAN, nobody configured.
pub fn draft() -> NodeConfig {
    NodeConfig {
        security: DRAFT,
        ..quiet()
    }
}

/// Nothing sealed, no LAN; these are configured at their homes.
pub fn draft_knows(numbers: &[u16]) -> NodeConfig {
    NodeConfig {
        security: DRAFT,
        ..knows(numbers)
    }
}

pub const DRAFT: Security = Security {
    plain: Plain::Only,
    pq: Pq::Off,
};

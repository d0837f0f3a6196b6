//! Relays in the configuration: running one, and using ones that no zone file names.
//!
//! ```toml
//! [relay]                       # this node relays for others
//! peers = 10000
//! peers-per-source = 1024
//! rate = 12500000               # bytes a second from one source, and to one peer
//! rate-in-all = 125000000
//! any-zone = false              # also for addresses of other zones
//! errors = false                # tell registered peers of unreachable recipients
//!
//! [[relays]]                    # relays of our zone, in the order of the zone file, where there is none
//! address = "aeaa…"
//! endpoints = ["192.0.2.1:8737"]
//! ```
use anode_routing::anode::{RelayConfig, ZoneRelay};
use anode_wire::{Endpoint, Zone};
use serde::Deserialize;

use crate::value::{AddressText, EndpointText, Text, ValueError};
use crate::zone::Relays;

/// The section `[relay]`; a node without it does not relay.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Relay {
    /// Peers registered at once.
    pub peers: Option<usize>,
    /// Of these, from one source.
    pub peers_per_source: Option<usize>,
    /// Bytes a second from one source, and to one peer.
    pub rate: Option<u32>,
    /// Bytes a second in all.
    pub rate_in_all: Option<u32>,
    /// Also for addresses of other zones.
    pub any_zone: Option<bool>,
    /// Tell registered peers of unreachable recipients (D40).
    pub errors: Option<bool>,
}

impl Relay {
    /// With the defaults of what is not said.
    pub fn config(&self) -> RelayConfig {
        let default = RelayConfig::default();
        RelayConfig {
            peers: self.peers.unwrap_or(default.peers),
            peers_per_source: self.peers_per_source.unwrap_or(default.peers_per_source),
            rate: self.rate.unwrap_or(default.rate),
            rate_in_all: self.rate_in_all.unwrap_or(default.rate_in_all),
            any_zone: self.any_zone.unwrap_or(default.any_zone),
            errors: self.errors.unwrap_or(default.errors),
        }
    }
}

/// One of `[[relays]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RelayEntry {
    /// Its address.
    pub address: Text<AddressText>,
    /// Where it is.
    pub endpoints: Vec<Text<EndpointText>>,
}

/// The entries as the file of `zone` would have them, numbered in their order; `None` without any.
pub fn zone_relays(entries: &[RelayEntry], zone: Zone) -> Result<Option<Relays>, ValueError> {
    let mut relays = Vec::new();
    let mut count = 0;
    for entry in entries {
        let endpoints = entry.endpoints.iter();
        let endpoints = endpoints.map(|endpoint| Ok(Endpoint::Udp(endpoint.0.clone().udp()?)));
        relays.push(ZoneRelay {
            index: count,
            address: entry.address.0.0,
            endpoints: endpoints.collect::<Result<_, ValueError>>()?,
        });
        count += 1;
    }
    Ok((count > 0).then_some(Relays {
        zone,
        count,
        relays,
    }))
}

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
//! [relay.tls]                   # instead of a certificate that the relay makes itself
//! cert = "fullchain.pem"
//! key = "privkey.pem"
//!
//! [[relays]]                    # relays of our zone, in the order of the zone file, where there is none
//! address = "aeaa…"
//! endpoints = ["192.0.2.1:8737"]
//! ```
use std::fs;
use std::path::{Path, PathBuf};

use anode_routing::anode::{RelayConfig, ZoneRelay};
use anode_wire::Zone;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Error;
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
    /// The certificate of its TLS, instead of one that it makes itself.
    pub tls: Option<Tls>,
}

/// The section `[relay.tls]`: two PEM files, from where the configuration is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate, and those between it and its root.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Tls {
    /// Paths as they are from `directory`.
    pub fn relative_to(self, directory: &Path) -> Self {
        Self {
            cert: directory.join(self.cert),
            key: directory.join(self.key),
        }
    }

    /// Reads both.
    pub fn read(&self) -> Result<Certificate, Error> {
        let read = |what: &str, path: &Path| {
            let bytes = fs::read(path).map(Zeroizing::new);
            bytes.map_err(|error| {
                let place = format!("[relay.tls] {what}");
                Error::invalid(place, format!("cannot read {}: {error}", path.display()))
            })
        };
        Ok(Certificate {
            chain: read("cert", &self.cert)?,
            key: read("key", &self.key)?,
        })
    }
}

/// A certificate with its key, in PEM.
pub struct Certificate {
    /// From the leaf up.
    pub chain: Zeroizing<Vec<u8>>,
    /// Of the leaf.
    pub key: Zeroizing<Vec<u8>>,
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
        let endpoints = endpoints.map(|endpoint| Ok(endpoint.0.place()?.to_endpoint()));
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
        hosts: Vec::new(),
        served: None,
    }))
}

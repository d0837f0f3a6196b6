//! The own zone: where its file comes from, whether it is believed, and what the node makes of it (Anode 0.8 §2.1, D4, D5).
//!
//! ```text
//!  source    path, URL, or the draft's two ways          make   anode zone new, sign
//!    │ http: one GET, bounded in every way
//!    ▼
//!  judge     this zone? its key? not older? ──no──▶ the file in use stays, people are told once
//!    │ yes
//!    ▼
//!  keeper ──▶ store (copy and record on disk) ──▶ relays to the overlay, members to the policy
//! ```
//!
//! Only the own zone, and those that the user names ([`others`]), are ever fetched: a zone that a packet names is
//! self-asserted, and whoever makes one up could have us send requests to any address (D5).

pub mod http;
pub mod judge;
pub mod keeper;
pub mod make;
pub mod others;
pub mod source;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use anode_routing::anode::ZoneRelay;
use anode_wire::zonefile::{Dht, Fault, Reach, Relay, TurnServer, ZoneFile};
use anode_wire::{Endpoint, PeerId, Zone};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use rand::seq::SliceRandom;

pub use source::{Url, ZoneFrom};

/// A zone file in use.
#[derive(Clone, Debug)]
pub struct Known {
    /// As it was judged, without the relays that it may not name.
    pub file: ZoneFile,
    /// The own zone: an unsigned file need not say it.
    pub zone: Zone,
    /// Where it came from.
    pub source: String,
    /// When it was seen last.
    pub seen: SystemTime,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
    /// As it came: what a relay gives to whoever asks for it.
    pub bytes: Arc<[u8]>,
}

impl Known {
    /// Of a file that was taken: relays beyond `reach` are out from here on.
    pub fn new(
        mut file: ZoneFile,
        mut faults: Vec<Fault>,
        zone: Zone,
        source: String,
        reach: Reach,
        seen: SystemTime,
        bytes: &[u8],
    ) -> Self {
        faults.extend(file.restrict(reach));
        Self {
            file,
            zone,
            source,
            seen,
            faults,
            bytes: bytes.into(),
        }
    }

    /// What the overlay shall know. The addresses of a relay come in any order (A23), UDP before TCP (A25).
    pub fn relays(&self) -> Relays {
        let relay = |(index, relay): (u32, &Relay)| {
            Some(ZoneRelay {
                index,
                address: *relay.addresses.first()?,
                endpoints: endpoints(relay),
            })
        };
        Relays {
            zone: self.zone,
            count: self.file.relay_count(),
            relays: self.file.relays().filter_map(relay).collect(),
            hosts: self.hosts(),
            served: Some((self.bytes.clone(), self.seen)),
        }
    }

    fn hosts(&self) -> Vec<(SocketAddr, String)> {
        let of_relay = |(index, relay): (u32, &Relay)| {
            let named = self.file.relay_host(index).zip(relay.tcp_port);
            let places = named.map(|(host, port)| {
                let ips = relay.ips.clone().into_iter();
                let host = host.to_owned();
                ips.map(move |ip| (SocketAddr::new(ip, port.get()), host.clone()))
            });
            places.into_iter().flatten().collect::<Vec<_>>()
        };
        self.file.relays().flat_map(of_relay).collect()
    }

    /// What the zone offers beside relays.
    pub fn services(&self) -> Services {
        Services {
            signed: self.file.signer().is_some(),
            turn: self.file.turn_servers().to_vec(),
            trackers: self.file.trackers().to_vec(),
            dht: self.file.dht().cloned(),
        }
    }

    /// Who belongs to the zone, if somebody vouches for that.
    pub fn members(&self) -> Members {
        let members = self.file.members().map(|list| {
            let list = list.iter().map(|address| address.ipv6(PeerId::ANY));
            (self.zone, Arc::new(list.collect()))
        });
        Members(members)
    }
}

fn endpoints(relay: &Relay) -> Vec<Endpoint> {
    let mut ips: Vec<IpAddr> = relay.ips.clone();
    ips.shuffle(&mut UnwrapErr(SysRng));
    let udp = relay
        .udp_port
        .map(|port| (port, Endpoint::Udp as fn(SocketAddr) -> Endpoint));
    let tcp = relay
        .tcp_port
        .map(|port| (port, Endpoint::Tcp as fn(SocketAddr) -> Endpoint));
    let kinds = udp.into_iter().chain(tcp);
    kinds
        .flat_map(|(port, endpoint)| {
            ips.iter()
                .map(move |ip| endpoint(SocketAddr::new(*ip, port.get())))
        })
        .collect()
}

/// The relays of a zone, for the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relays {
    /// The zone.
    pub zone: Zone,
    /// Entries of the file, usable or not: the byte sum is divided by it (A22).
    pub count: u32,
    /// Those that can be used.
    pub relays: Vec<ZoneRelay>,
    /// Host names of TCP ports: their certificates are checked.
    pub hosts: Vec<(SocketAddr, String)>,
    /// The file they stand in, and when it was seen: a relay serves it.
    pub served: Option<(Arc<[u8]>, SystemTime)>,
}

/// What the own zone offers beside relays. Every entry was read and is within its bounds; whether its host may be asked is
/// judged where it is asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Services {
    /// The zone's key vouches for it: the file is signed by the key that was pinned.
    pub signed: bool,
    /// TURN servers, in the order of the file.
    pub turn: Vec<TurnServer>,
    /// URLs of trackers, in the order of the file.
    pub trackers: Vec<String>,
    /// The DHT.
    pub dht: Option<Dht>,
}

/// Who belongs to the own zone, by its signed file: synthetic addresses with digit 0. `None`: nobody vouches for a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members(pub Option<(Zone, Arc<HashSet<Ipv6Addr>>)>);

impl Members {
    /// Of a zone.
    pub fn of(&self, zone: Zone) -> Option<&Arc<HashSet<Ipv6Addr>>> {
        self.0
            .as_ref()
            .filter(|(own, _)| *own == zone)
            .map(|(_, members)| members)
    }
}

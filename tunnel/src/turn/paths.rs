//! The TURN servers of this node: those of the configuration, then those of the zone, then those that the DHT knows, looked
//! up and handed to the overlay.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anode_routing::anode::ZoneRelay;
use anode_routing::dht::FoundTurn;
use anode_routing::net::TurnServer;
use anode_turn::client::{Config, Credentials, MakePassword};
use anode_turn::resolve::Server;
use anode_turn::rto::RtoConfig;
use anode_turn::uri::{Host, Uri};
use anode_wire::{Endpoint, Identity};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::access::Access;
use super::key_users::password;
use super::resolve::resolve;
use crate::Error;
use crate::command::{Command, DataHandle};
use crate::config::ConfigSource;
use crate::config::turn_client::TurnClient;
use crate::node::Settings;
use crate::zone::{Known, Services};

/// Names are looked up again after this time, for they move.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// The same when a name was not found.
const LOOK_SOON: Duration = Duration::from_secs(30);
/// Servers of the zone that are looked up.
const MAX_OF_ZONE: usize = 8;

/// What the configuration says, its files read.
#[derive(Default)]
pub struct TurnPlan {
    servers: Vec<Access>,
    rto: RtoConfig,
    require_integrity: bool,
    /// Those of the zone are used, too.
    zone: bool,
}

/// The plan in force; a reload puts another one in its place.
pub struct TurnDesk {
    plan: watch::Sender<Arc<TurnPlan>>,
}

impl TurnDesk {
    /// With the plan of the start, and where it is followed.
    pub fn new(plan: TurnPlan) -> (Self, watch::Receiver<Arc<TurnPlan>>) {
        let (plan, plans) = watch::channel(Arc::new(plan));
        (Self { plan }, plans)
    }

    /// Reads `[turn-client]` and its servers again; what is wrong changes nothing. An allocation that stands is kept.
    pub fn reload(&self, source: &ConfigSource) -> Result<(), Error> {
        let client = source.read()?.turn_client;
        let path = source.path().unwrap_or(Path::new(""));
        let zone = self.plan.borrow().zone;
        let plan = TurnPlan::new(&client, path, zone)?;
        self.plan.send_replace(Arc::new(plan));
        Ok(())
    }
}

/// What Anode keys are made credentials of: our own, and those of the relays whose TURN servers know us by it.
pub struct OwnKeys {
    identity: Identity,
    /// Of the configuration.
    relays: Vec<ZoneRelay>,
}

impl OwnKeys {
    /// Of a node that is about to start.
    pub fn new(settings: &Settings) -> Self {
        let relays = settings.relays.as_ref().map(|known| known.relays.clone());
        Self {
            identity: settings.identity.clone(),
            relays: relays.unwrap_or_default(),
        }
    }

    /// For a server that a relay of our zone runs on its own address: our address as name, and what both keys make.
    fn credentials(&self, at: IpAddr, zone: &[ZoneRelay]) -> Option<(Credentials, MakePassword)> {
        let stands_there = |relay: &&ZoneRelay| {
            let mut endpoints = relay.endpoints.iter();
            endpoints.any(|endpoint| matches!(endpoint, Endpoint::Udp(of) | Endpoint::Tcp(of) if of.ip() == at))
        };
        let relay = zone.iter().chain(&self.relays).find(stands_there)?;
        let key = self.identity.agree(&relay.address);
        let name = self.identity.address().to_string();
        let credentials = Credentials {
            name: name.clone(),
            password: Zeroizing::default(),
        };
        let make = MakePassword::new(move |realm| password(&key, realm, &name));
        Some((credentials, make))
    }
}

/// A server in the order of the list, and where it was found.
struct Found {
    access: Access,
    /// Named by the zone, and not by this machine's operator.
    of_zone: bool,
    at: Vec<Server>,
}

impl TurnPlan {
    /// `path`: the configuration's. `zone`: there may be a zone file.
    pub fn new(client: &TurnClient, path: &Path, zone: bool) -> Result<Self, Error> {
        let servers = client.server.iter().map(|server| server.access(path));
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            rto: client.rto(),
            require_integrity: client.require_integrity.unwrap_or(true),
            zone,
        })
    }

    /// Whether host names are looked up.
    pub fn needs_names(&self) -> bool {
        let named = |access: &Access| matches!(access.uri.host, Host::Name(_));
        self.zone || self.servers.iter().any(named)
    }

    /// Keeps the overlay's list true.
    pub async fn keep(
        mut plans: watch::Receiver<Arc<Self>>,
        data: DataHandle,
        mut services: watch::Receiver<Services>,
        zone: watch::Receiver<Option<Arc<Known>>>,
        mut dht: watch::Receiver<Vec<FoundTurn>>,
        own: OwnKeys,
    ) {
        let mut known: Vec<Found> = Vec::new();
        let mut told: Option<Vec<(Uri, Vec<Server>)>> = None;
        loop {
            // Other passwords make other servers of the same places.
            let reread = plans.has_changed().unwrap_or_default();
            let plan = Arc::clone(&plans.borrow_and_update());
            let of_dht = dht.borrow_and_update().clone();
            let wanted = plan.wanted(&services.borrow_and_update(), &of_dht);
            let (found, missing) = look_up(wanted, known).await;
            known = found;
            let list: Vec<(Uri, Vec<Server>)> = known
                .iter()
                .map(|found| (found.access.uri.clone(), found.at.clone()))
                .collect();
            let other = reread || told.as_ref() != Some(&list);
            if other && (told.is_some() || !list.is_empty()) {
                let relays = zone.borrow().as_ref().map(|known| known.relays().relays);
                let mut relays = relays.unwrap_or_default();
                // They know us by our key, as the relays of the zone do.
                relays.extend(of_dht.iter().map(|found| ZoneRelay {
                    // None of the zone file.
                    index: u32::MAX,
                    address: found.owner,
                    endpoints: vec![Endpoint::Udp(found.at)],
                }));
                let all = known.iter();
                let servers = all.flat_map(|found| plan.servers_at(found, &own, &relays));
                let servers = servers.collect();
                // Gone with the data thread.
                if data.send(Command::SetTurnServers(servers)).is_err() {
                    return;
                }
                told = Some(list);
            }
            let pause = match missing {
                true => Some(LOOK_SOON),
                // Nothing to look up until the zone, the DHT or the configuration says something else.
                false if known.is_empty() => None,
                false => Some(LOOK_AGAIN),
            };
            let look_again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = services.changed() => if changed.is_err() {
                    return;
                },
                changed = plans.changed() => if changed.is_err() {
                    return;
                } else {
                    plans.mark_changed();
                },
                () = heard(&mut dht) => {}
                () = look_again => {}
            }
        }
    }

    fn wanted(&self, services: &Services, dht: &[FoundTurn]) -> Vec<(Access, bool)> {
        let own = self.servers.iter().map(|access| (access.clone(), false));
        let of_zone = services.turn.iter().filter(|_| self.zone);
        let of_zone = of_zone.filter_map(|server| {
            let uri: Uri = server
                .uri
                .parse()
                .inspect_err(|error| tracing::debug!(uri = %server.uri, %error, "a TURN server of the zone file"))
                .ok()?;
            let (name, password) = server.credentials.clone().unzip();
            let credentials = name.zip(password).map(|(name, password)| Credentials {
                name,
                password: password.into(),
            });
            let access = Access {
                uri,
                credentials,
                authorities: None,
            };
            Some((access, true))
        });
        let of_dht = dht.iter().filter_map(|found| {
            let access = Access {
                uri: format!("turn:{}?transport=udp", found.at).parse().ok()?,
                credentials: None,
                authorities: None,
            };
            Some((access, true))
        });
        own.chain(of_zone.take(MAX_OF_ZONE))
            .chain(of_dht.take(MAX_OF_ZONE))
            .collect()
    }

    fn servers_at(&self, found: &Found, own: &OwnKeys, zone: &[ZoneRelay]) -> Vec<TurnServer> {
        let check = match found.access.check() {
            Ok(check) => check,
            Err(error) => {
                tracing::warn!(uri = %found.access.uri, "this TURN server cannot be used: {error}");
                return Vec::new();
            }
        };
        let config = Config {
            credentials: found.access.credentials.clone(),
            rto: self.rto,
            require_integrity: self.require_integrity,
            families: anode_turn::client::Families::Both,
            ..Config::default()
        };
        let servers = found
            .at
            .iter()
            .filter(|server| !found.of_zone || may_be_asked(server.address.ip()));
        servers
            .map(|server| {
                let mut config = config.clone();
                if config.credentials.is_none()
                    && let Some((name, make)) = own.credentials(server.address.ip(), zone)
                {
                    (config.credentials, config.make_password) = (Some(name), Some(make));
                }
                TurnServer {
                    server: server.clone(),
                    check: check.clone(),
                    config,
                }
            })
            .collect()
    }
}

/// The DHT has told of servers; never, where there is none.
async fn heard(dht: &mut watch::Receiver<Vec<FoundTurn>>) {
    if dht.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A zone file names no services of this machine or link.
fn may_be_asked(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let reserved = ip.is_unspecified() || ip.is_multicast() || ip.octets()[0] >= 240;
            !reserved && !ip.is_loopback() && !ip.is_link_local() && ip.octets()[0] != 0
        }
        IpAddr::V6(ip) => {
            let overlay = matches!(ip.segments()[0], 0xfda0 | 0xfda1);
            let reserved = ip.is_unspecified() || ip.is_multicast() || ip.is_loopback();
            !reserved && !overlay && !ip.is_unicast_link_local()
        }
    }
}

/// Where the servers are now; one that is not found is where it was. Also whether one is missing.
async fn look_up(wanted: Vec<(Access, bool)>, before: Vec<Found>) -> (Vec<Found>, bool) {
    let (mut found, mut missing) = (Vec::new(), false);
    for (access, of_zone) in wanted {
        let uri = access.uri.clone();
        let looked = tokio::task::spawn_blocking(move || resolve(&uri)).await;
        let looked = looked.unwrap_or_else(|_| Err("the lookup has panicked".to_owned()));
        let at = looked.unwrap_or_else(|error| {
            tracing::info!(uri = %access.uri, "a TURN server is not found: {error}");
            missing = true;
            let same = before.iter().find(|known| known.access.uri == access.uri);
            same.map(|known| known.at.clone()).unwrap_or_default()
        });
        if !at.is_empty() {
            found.push(Found {
                access,
                of_zone,
                at,
            });
        }
    }
    (found, missing)
}

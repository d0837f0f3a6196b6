//! A port that the gateway keeps open for this node: PCP, NAT-PMP, UPnP IGD, in this order (RFC 6887, RFC 6886).
//!
//! Runs on the control thread; the data thread hears of the result alone. The gateway is one machine of the own network that
//! anybody may have set up: what it says is a hint, which peers prove or not, and everything about it has a bound.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anode_platform::netlink::Netlink;
use crab_nat::{InternetProtocol, PortMappingOptions, TimeoutConfig, natpmp, pcp};
use igd_next::{PortMappingProtocol, SearchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::command::{Command, DataHandle};

/// An address that is nowhere: the route to it is the way out (RFC 5737). Nothing is sent there.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// What is asked for; also what RFC 6886 recommends.
const LEASE: Duration = Duration::from_secs(7200);
/// Renewed no more often than this, however short the lease that the gateway gives.
const RENEW_AT_LEAST: Duration = Duration::from_secs(60);
/// A gateway that knows none of the protocols is asked again after this time.
const AGAIN: Duration = Duration::from_secs(1800);
/// Changes of links and routes come in bursts: the way out is looked at so long after the first.
const SETTLES_IN: Duration = Duration::from_secs(2);
/// All protocols together.
const ASK_FOR: Duration = Duration::from_secs(12);
/// For the search of UPnP.
const SEARCH_FOR: Duration = Duration::from_secs(3);
/// A node that ends takes its port back, if that goes quickly.
const RELEASE_WITHIN: Duration = Duration::from_millis(700);

/// A port that the gateway keeps open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortMapping {
    /// `pcp`, `nat-pmp` or `upnp`
    pub protocol: String,
    /// As `udp://198.51.100.1:8737`.
    pub external: String,
    /// Whose it is.
    pub gateway: IpAddr,
}

/// What is open now, for those who ask.
#[derive(Clone, Default)]
pub struct Portmap(Arc<Shared>);

#[derive(Default)]
struct Shared {
    found: Mutex<Option<PortMapping>>,
    refused: AtomicU64,
}

impl Portmap {
    /// The port that is open.
    pub fn found(&self) -> Option<PortMapping> {
        let found = &self.0.found;
        found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers of gateways that named a place which cannot be.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    fn set(&self, mapping: Option<PortMapping>) {
        let found = &self.0.found;
        *found.lock().unwrap_or_else(PoisonError::into_inner) = mapping;
    }

    /// What a gateway says, if it can be true.
    fn judge(&self, held: Option<Held>) -> Option<Held> {
        let held = held?;
        if is_possible(held.external) {
            return Some(held);
        }
        let (external, protocol) = (held.external, &held.shown.protocol);
        tracing::info!(%external, protocol, "the gateway names an impossible place");
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Waits for a change, and for those that come along with it.
async fn settled(changes: &Notify) {
    changes.notified().await;
    tokio::time::sleep(SETTLES_IN).await;
}

/// Where this machine's packets leave its network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WayOut {
    gateway: Ipv4Addr,
    own: Ipv4Addr,
}

impl WayOut {
    /// `None`: there is no gateway, or no NAT can be behind it, since our own address is a public one.
    fn find(netlink: &mut Netlink) -> Option<Self> {
        let route = netlink.route_to(OUTSIDE).ok().flatten()?;
        let (Some(IpAddr::V4(gateway)), Some(IpAddr::V4(own))) = (route.gateway, route.source)
        else {
            return None;
        };
        let [a, b, ..] = own.octets();
        let translated = own.is_private() || a == 100 && b & 0xc0 == 64;
        translated.then_some(Self { gateway, own })
    }
}

/// A mapping that stands, and how to take it back.
struct Held {
    shown: PortMapping,
    external: SocketAddr,
    /// In seconds.
    lease: u32,
    by: By,
}

enum By {
    Pcp(Box<crab_nat::PortMapping>),
    NatPmp(Box<crab_nat::PortMapping>),
    Upnp(Box<igd_next::aio::Gateway<igd_next::aio::tokio::Tokio>>),
}

/// Keeps a port open on whatever gateway there is, until `end` comes; then takes it back. `port`: of our UDP socket;
/// `changes`: of links and routes.
pub async fn keep(
    mut netlink: Netlink,
    changes: Arc<Notify>,
    port: NonZeroU16,
    data: DataHandle,
    found: Portmap,
    mut end: oneshot::Receiver<()>,
) {
    let mut way = None;
    let mut held: Option<Held> = None;
    let mut due = Instant::now();
    loop {
        let found_way = WayOut::find(&mut netlink);
        if found_way != way || due <= Instant::now() {
            way = found_way;
            held = match way {
                Some(way) => {
                    let asked = tokio::time::timeout(ASK_FOR, open(way, port, held.take(), &found));
                    tokio::select! {
                        answer = asked => answer.ok().flatten(),
                        _ = &mut end => return,
                    }
                }
                None => None,
            };
            found.set(held.as_ref().map(|held| held.shown.clone()));
            let external = held.as_ref().map(|held| held.external);
            // A data thread that is busy or gone hears of it the next time, or never needs to.
            let _ = data.send(Command::SetPortMapping(external));
            due = Instant::now() + held.as_ref().map_or(AGAIN, |held| renew_after(held.lease));
        }
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = settled(&changes) => {}
            _ = &mut end => break,
        }
    }
    if let Some(held) = held {
        // The lease does it otherwise.
        let _ = tokio::time::timeout(RELEASE_WITHIN, release(held)).await;
    }
}

async fn release(held: Held) {
    let gone = match held.by {
        By::Pcp(mapping) | By::NatPmp(mapping) => mapping.try_drop().await.is_ok(),
        By::Upnp(gateway) => {
            let port = held.external.port();
            let removed = gateway.remove_port(PortMappingProtocol::UDP, port).await;
            removed.is_ok()
        }
    };
    tracing::debug!(external = %held.external, gone, "the port of the gateway is given back");
}

/// When a lease of so many seconds is renewed: no gateway makes us its clock.
fn renew_after(lease: u32) -> Duration {
    (Duration::from_secs(lease.into()) / 2).clamp(RENEW_AT_LEAST, LEASE / 2)
}

fn timing() -> TimeoutConfig {
    TimeoutConfig {
        initial_timeout: Duration::from_millis(250),
        max_retries: 2,
        max_retry_timeout: Some(Duration::from_secs(1)),
    }
}

/// Asks the gateway by every protocol, the one that worked last first.
async fn open(
    way: WayOut,
    port: NonZeroU16,
    before: Option<Held>,
    found: &Portmap,
) -> Option<Held> {
    if let Some(held) = before
        && held.shown.gateway == IpAddr::V4(way.gateway)
        && let Some(renewed) = found.judge(renew(way, port, held).await)
    {
        return Some(renewed);
    }
    if let Some(held) = found.judge(by_pcp(way, port).await) {
        return Some(held);
    }
    if let Some(held) = found.judge(by_nat_pmp(way, port).await) {
        return Some(held);
    }
    found.judge(by_upnp(way, port).await)
}

async fn renew(way: WayOut, port: NonZeroU16, held: Held) -> Option<Held> {
    match held.by {
        By::Pcp(mut mapping) => {
            mapping.renew().await.ok()?;
            pcp_held(way, *mapping)
        }
        By::NatPmp(_) => by_nat_pmp(way, port).await,
        By::Upnp(gateway) => upnp_held(way, port, *gateway).await,
    }
}

fn options(port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LEASE.as_secs()).ok(),
        timeout_config: Some(timing()),
    }
}

async fn by_pcp(way: WayOut, port: NonZeroU16) -> Option<Held> {
    let request = pcp::BaseMapRequest::new(
        IpAddr::V4(way.gateway).into(),
        way.own.into(),
        InternetProtocol::Udp,
        port,
    );
    let mapping = pcp::port_mapping(request, None, None, options(port)).await;
    pcp_held(way, mapping.ok()?)
}

fn pcp_held(way: WayOut, mapping: crab_nat::PortMapping) -> Option<Held> {
    let crab_nat::PortMappingType::Pcp { external_ip, .. } = mapping.mapping_type() else {
        return None;
    };
    let ip = match external_ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => ip.to_ipv4_mapped()?,
    };
    let lease = mapping.lifetime();
    let external = SocketAddr::new(ip.into(), mapping.external_port().get());
    let by = By::Pcp(Box::new(mapping));
    Some(held(way, "pcp", external, lease, by))
}

async fn by_nat_pmp(way: WayOut, port: NonZeroU16) -> Option<Held> {
    let gateway = IpAddr::V4(way.gateway).into();
    let ip = natpmp::external_address(gateway, Some(timing()))
        .await
        .ok()?;
    let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options(port)).await;
    let mapping = mapping.ok()?;
    let lease = mapping.lifetime();
    let external = SocketAddr::new(ip.into(), mapping.external_port().get());
    let by = By::NatPmp(Box::new(mapping));
    Some(held(way, "nat-pmp", external, lease, by))
}

async fn by_upnp(way: WayOut, port: NonZeroU16) -> Option<Held> {
    let mut search = SearchOptions::default();
    search.bind_addr = SocketAddr::new(way.own.into(), 0);
    search.timeout = Some(SEARCH_FOR);
    let gateway = igd_next::aio::tokio::search_gateway(search).await.ok()?;
    if gateway.addr.ip() != IpAddr::V4(way.gateway) {
        // Somebody else on the network has answered the search.
        return None;
    }
    upnp_held(way, port, gateway).await
}

async fn upnp_held(
    way: WayOut,
    port: NonZeroU16,
    gateway: igd_next::aio::Gateway<igd_next::aio::tokio::Tokio>,
) -> Option<Held> {
    let inside = SocketAddr::new(way.own.into(), port.get());
    let lease = u32::try_from(LEASE.as_secs()).ok()?;
    let external = gateway
        .get_any_address(PortMappingProtocol::UDP, inside, lease, "anode")
        .await
        .ok()?;
    let by = By::Upnp(Box::new(gateway));
    Some(held(way, "upnp", external, lease, by))
}

fn held(way: WayOut, protocol: &str, external: SocketAddr, lease: u32, by: By) -> Held {
    Held {
        shown: PortMapping {
            protocol: protocol.to_owned(),
            external: format!("udp://{external}"),
            gateway: way.gateway.into(),
        },
        external,
        lease,
        by,
    }
}

/// Whether an outer endpoint can be one at all; whether it is true, peers find out.
fn is_possible(external: SocketAddr) -> bool {
    let IpAddr::V4(ip) = external.ip() else {
        return false;
    };
    let [first, ..] = ip.octets();
    let reserved = first == 0 || first >= 224 || ip.is_loopback() || ip.is_link_local();
    !reserved && external.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gateway_cannot_mean_is_not_believed() {
        // S16
        let cases = [
            ("198.51.100.1:8737", true),
            ("100.64.3.4:40000", true),
            ("0.0.0.0:8737", false),
            ("127.0.0.1:8737", false),
            ("169.254.1.1:8737", false),
            ("224.0.0.1:8737", false),
            ("255.255.255.255:8737", false),
            ("198.51.100.1:0", false),
            ("[2001:db8::1]:8737", false),
        ];
        for (text, expected) in cases {
            let external: SocketAddr = text.parse().expect("an endpoint");
            assert_eq!(is_possible(external), expected, "{text}");
        }
    }

    #[test]
    fn a_short_lease_does_not_make_the_gateway_our_clock() {
        for (lease, renewed) in [
            (0, RENEW_AT_LEAST),
            (7200, LEASE / 2),
            (u32::MAX, LEASE / 2),
        ] {
            assert_eq!(renew_after(lease), renewed);
        }
    }
}

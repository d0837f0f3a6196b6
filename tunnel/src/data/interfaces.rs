//! The machine's interfaces as the overlay wants to know them, and word of their changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anode_platform::PlatformError;
use anode_platform::netlink::{self, Monitor, Netlink, Route, TABLE_MAIN};
use anode_routing::anode::Interface;
use tokio::sync::Notify;

/// A look at all interfaces costs some system calls: no more than ten a second, however often links flap.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nor more than this part of the time: the routes of all the world take long.
const LOOK_SHARE: u32 = 20;

/// See the module.
pub struct Interfaces {
    netlink: Netlink,
    monitor: Monitor,
    /// The overlay's own interface, which is no way to anybody.
    own: Option<String>,
    last: Vec<Interface>,
    /// Addresses that go away soon.
    deprecated: Vec<IpAddr>,
    /// Word of changes waits in the kernel until then.
    rests_until: Option<Instant>,
    /// Who else wants to hear of changes, of routes too.
    changes: Arc<Notify>,
}

impl Interfaces {
    /// Watches the namespace of the calling thread.
    pub fn open(own: Option<&str>) -> Result<Self, PlatformError> {
        Ok(Interfaces {
            monitor: Monitor::open()?,
            netlink: Netlink::open()?,
            own: own.map(str::to_owned),
            last: Vec::new(),
            deprecated: Vec::new(),
            rests_until: None,
            changes: Arc::default(),
        })
    }

    /// All that are up, without the overlay's own.
    pub fn read(&mut self) -> Result<Vec<Interface>, PlatformError> {
        let all = self.netlink.interfaces()?;
        let others = all.into_iter().filter(|interface| {
            interface.link.flags.up && self.own.as_deref() != Some(interface.link.name.as_str())
        });
        let others: Vec<_> = others.collect();
        let addresses = others.iter().flat_map(|interface| &interface.addresses);
        let deprecated = addresses.filter(|address| address.deprecated);
        self.deprecated = deprecated.map(|address| address.prefix.address()).collect();
        let mut routes = self.netlink.routes(false)?;
        routes.extend(self.netlink.routes(true)?);
        let point_to_point = |index: u32| {
            let mut links = others.iter().map(|interface| &interface.link);
            links.any(|link| link.index == index && link.flags.point_to_point)
        };
        let uplinks = uplinks(&routes, point_to_point);
        let convert = |one: netlink::Interface| {
            let uplink = uplinks.get(&one.link.index).copied();
            convert(one, uplink)
        };
        self.last = others.into_iter().map(convert).collect();
        Ok(self.last.clone())
    }

    /// Woken by every change of links, addresses and routes.
    pub fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.changes)
    }

    /// Addresses that the kernel shuns for new flows.
    pub fn deprecated(&self) -> &[IpAddr] {
        &self.deprecated
    }

    /// Until when nobody listens, since there was a look just now.
    pub fn rests_until(&mut self) -> Option<Instant> {
        let until = self.rests_until?;
        self.rests_until = (until > Instant::now()).then_some(until);
        self.rests_until
    }

    /// Takes the word of changes; the new list if it is another one.
    pub fn changed(&mut self, now: Instant) -> Result<Option<Vec<Interface>>, PlatformError> {
        let failed = |error| PlatformError::io("watch links", error);
        let mut heard = false;
        while !self.monitor.events().map_err(failed)?.is_empty() {
            heard = true;
        }
        if !heard {
            // Somebody else than the kernel has sent something here: not worth a look.
            return Ok(None);
        }
        self.changes.notify_one();
        let before = std::mem::take(&mut self.last);
        let found = self.read()?;
        let took = now.elapsed();
        self.rests_until = Some(now + LOOK_EVERY.max(took * LOOK_SHARE));
        Ok((found != before).then_some(found))
    }
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// The links that lead out by a default route, with the best metric of each. None where somebody else chooses the ways, who
/// may have a reason to keep packets off the others: policy routing, and VPNs, which have tables of their own, or two
/// halves instead of a default route, or a link with one other end for it.
fn uplinks(routes: &[Route], is_point_to_point: impl Fn(u32) -> bool) -> HashMap<u32, u32> {
    let carrying = routes.iter().filter(|route| route.kind.carries());
    let mut found = HashMap::new();
    for route in carrying {
        match (route.destination.length(), route.table) {
            (0, TABLE_MAIN) => {}
            (0, _) | (1, _) => return HashMap::new(),
            _ => continue,
        }
        if let Some(index) = route.index {
            let metric = found.entry(index).or_insert(route.metric);
            *metric = route.metric.min(*metric);
        }
    }
    let best = found
        .iter()
        .min_by_key(|(index, metric)| (**metric, **index));
    match best {
        Some((index, _)) if is_point_to_point(*index) => HashMap::new(),
        _ => found,
    }
}

fn convert(interface: netlink::Interface, uplink: Option<u32>) -> Interface {
    let flags = interface.link.flags;
    // A virtual interface of another overlay on this machine would carry our packets inside itself (S16).
    let underlay = |address: &IpAddr| !matches!(address, IpAddr::V6(ip) if matches!(ip.segments()[0], 0xfda0 | 0xfda1));
    let addresses = interface
        .addresses
        .iter()
        .map(|entry| (entry.prefix.address(), entry.prefix.length()));
    Interface {
        name: interface.link.name,
        index: interface.link.index,
        addresses: addresses.filter(|(address, _)| underlay(address)).collect(),
        broadcast: (flags.broadcast || flags.multicast) && !flags.loopback,
        uplink,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_the_default_routes_unless_somebody_else_chooses() {
        let route = |to: &str, index, metric| Route {
            metric,
            ..Route::to_link(to.parse().unwrap(), index)
        };
        let cable_and_radio = vec![
            route("0.0.0.0/0", 2, 100),
            route("0.0.0.0/0", 3, 600),
            route("::/0", 3, 1024),
            route("10.0.0.0/8", 4, 0),
        ];
        let with = |more: Route| [cable_and_radio.clone(), vec![more]].concat();
        let policy = Route {
            table: 51_820,
            ..route("0.0.0.0/0", 5, 0)
        };
        let refused = Route::guard("::/0".parse().unwrap());
        let both = HashMap::from([(2, 100), (3, 600)]);
        let cases = [
            (cable_and_radio.clone(), both.clone()),
            (with(refused), both),
            (with(route("0.0.0.0/1", 5, 0)), HashMap::new()),
            (with(policy), HashMap::new()),
            // Link 9 has one other end.
            (with(route("0.0.0.0/0", 9, 50)), HashMap::new()),
            (Vec::new(), HashMap::new()),
        ];
        for (routes, expected) in cases {
            assert_eq!(uplinks(&routes, |index| index == 9), expected, "{routes:?}");
        }
    }
}

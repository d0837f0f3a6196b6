//! The machine's interfaces as the overlay wants to know them, and word of their changes.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anode_platform::PlatformError;
use anode_platform::netlink::{self, Monitor, Netlink};
use anode_routing::anode::Interface;

/// A look at all interfaces costs some system calls: no more than ten a second, however often links flap.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
        self.last = others.into_iter().map(convert).collect();
        Ok(self.last.clone())
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
        self.rests_until = Some(now + LOOK_EVERY);
        let before = std::mem::take(&mut self.last);
        let now = self.read()?;
        Ok((now != before).then_some(now))
    }
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

fn convert(interface: netlink::Interface) -> Interface {
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
    }
}

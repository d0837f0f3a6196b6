//! Cables and LANs.

use super::{Lab, Ns};
use anode_platform::Prefix;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::time::{Duration, Instant};

/// A cable: interface `left_name` in `left`, `right_name` in `right`, both up.
pub fn cable(left: &Ns, left_name: &str, right: &Ns, right_name: &str) {
    left.netlink(|netlink| netlink.veth_add(left_name, right_name, Some(right.netns())));
    set_up(left, left_name, true);
    set_up(right, right_name, true);
}

fn set_up(ns: &Ns, link: &str, up: bool) {
    let index = ns.index(link);
    ns.netlink(|netlink| netlink.set_up(index, up));
}

/// Which addresses the hosts of a LAN have on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// 192.0.2.0/24 and no IPv6 at all on the link.
    V4,
    /// 2001:db8:1::/64 and link-local.
    V6,
    /// Only fe80::/64.
    LinkLocal,
    /// 192.0.2.0/24, 2001:db8:1::/64, link-local.
    Both,
}

/// A switch, in a namespace of its own, that sees everything.
pub struct Lan {
    switch: Ns,
    family: Family,
    hosts: Cell<u8>,
}

/// A machine on a LAN, by its interface `eth0`.
#[derive(Clone)]
pub struct Host {
    ns: Ns,
    family: Family,
    number: u8,
}

impl Deref for Host {
    type Target = Ns;
    fn deref(&self) -> &Ns {
        &self.ns
    }
}

/// Two machines, numbers 1 and 2, on one cable without a switch.
pub fn wired(family: Family) -> (Host, Host) {
    let host = |number| Host::bare(&format!("wired{number}"), family, number);
    let (left, right) = (host(1), host(2));
    left.prepare();
    right.prepare();
    cable(&left, "eth0", &right, "eth0");
    left.configure();
    right.configure();
    (left, right)
}

impl Lan {
    /// An empty one.
    pub fn new(_lab: &Lab, family: Family) -> Self {
        let switch = Ns::new("switch");
        switch.netlink(|netlink| netlink.bridge_add("br0"));
        set_up(&switch, "br0", true);
        Self {
            switch,
            family,
            hosts: Cell::new(0),
        }
    }

    /// The namespace of the switch: every frame between two hosts crosses it.
    pub fn switch(&self) -> &Ns {
        &self.switch
    }

    /// A new machine in it, number 1, 2, 3, …
    pub fn host(&self, name: &str) -> Host {
        let host = Host::bare(name, self.family, self.hosts.get() + 1);
        self.hosts.set(host.number);
        host.prepare();
        let port = host.port();
        cable(&host, "eth0", &self.switch, &port);
        let (bridge, index) = (self.switch.index("br0"), self.switch.index(&port));
        self.switch
            .netlink(|netlink| netlink.set_master(index, Some(bridge)));
        host.configure();
        host
    }

    /// The router of [`Lan::make_router`].
    pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
    /// The same.
    pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);

    /// Has the switch be a router, too. What it has no route for vanishes, as it would outside, instead of failing at once.
    pub fn make_router(&self) {
        let index = self.switch.index("br0");
        for (address, length) in [(Self::ROUTER4.into(), 24), (Self::ROUTER6.into(), 64)] {
            let prefix = prefix(address, length);
            self.switch
                .netlink(|netlink| netlink.address_add(index, prefix));
        }
        self.switch.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// Everything that is not on the LAN goes to the router.
    pub fn route_out(&self, host: &Host) {
        super::nat::default_route(host, Self::ROUTER4.into());
        super::nat::default_route(host, Self::ROUTER6.into());
    }

    /// Pulls the cable of a machine out of the switch: its interface stays and loses the carrier.
    pub fn unplug(&self, host: &Host) {
        set_up(&self.switch, &host.port(), false);
    }

    /// Puts it back.
    pub fn plug(&self, host: &Host) {
        set_up(&self.switch, &host.port(), true);
    }
}

impl Host {
    /// A machine that has no interface yet.
    pub(super) fn bare(name: &str, family: Family, number: u8) -> Self {
        Self {
            ns: Ns::new(name),
            family,
            number,
        }
    }

    /// Its namespace.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// 192.0.2.N.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    /// 2001:db8:1::N.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(self.number))
    }

    /// Its routable address on the LAN; IPv4 where it has both.
    pub fn ip_address(&self) -> IpAddr {
        match self.family {
            Family::V4 | Family::Both => self.v4().into(),
            Family::V6 | Family::LinkLocal => self.v6().into(),
        }
    }

    /// Before its interface exists: an IPv4 link shall never have had an IPv6 address.
    fn prepare(&self) {
        if self.family == Family::V4 {
            self.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        }
    }

    /// Once its interface is up.
    fn configure(&self) {
        if self.family == Family::V4 {
            self.sysctl("net/ipv6/conf/default/disable_ipv6", "0");
        } else {
            self.await_link_local();
        }
        if matches!(self.family, Family::V4 | Family::Both) {
            self.address_add(self.v4().into(), 24);
        }
        if matches!(self.family, Family::V6 | Family::Both) {
            self.address_add(self.v6().into(), 64);
        }
    }

    /// Adds an address to its interface.
    pub fn address_add(&self, address: IpAddr, length: u8) {
        let (index, prefix) = (self.index("eth0"), prefix(address, length));
        self.netlink(|netlink| netlink.address_add(index, prefix));
    }

    /// Takes an address from its interface.
    pub fn address_remove(&self, address: IpAddr, length: u8) {
        let (index, prefix) = (self.index("eth0"), prefix(address, length));
        self.netlink(|netlink| netlink.address_delete(index, prefix));
    }

    /// The kernel gives the link-local address a moment after it sees the carrier.
    fn await_link_local(&self) {
        let index = self.index("eth0");
        let deadline = Instant::now() + Duration::from_secs(5);
        let found = || self.netlink(|netlink| netlink.addresses(Some(index)));
        while !found().iter().any(|a| a.link_local) {
            assert!(
                Instant::now() < deadline,
                "{}: no link-local address",
                self.name()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn port(&self) -> String {
        format!("port{}", self.number)
    }

    /// Switches the segmentation and checksum offloads of its interface off: frames on the wire are finished ones.
    pub fn offload_off(&self) {
        let mut command = super::command("ethtool");
        command.args([
            "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]);
        self.ns.finish(command, Duration::from_secs(10)).expect_ok();
    }
}

fn prefix(address: IpAddr, length: u8) -> Prefix {
    Prefix::new(address, length).unwrap_or_else(|| panic!("{address}/{length} is no prefix"))
}

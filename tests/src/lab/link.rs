//! Cables and LANs.

use super::{Lab, Ns};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

/// A cable: interface `left_name` in `left`, `right_name` in `right`, both up.
pub fn cable(left: &Ns, left_name: &str, right: &Ns, right_name: &str) {
    slack_cable(left, left_name, right, right_name);
    left.ip(&["link", "set", left_name, "up"]);
    right.ip(&["link", "set", right_name, "up"]);
}

/// The same with both ends still down.
fn slack_cable(left: &Ns, left_name: &str, right: &Ns, right_name: &str) {
    left.ip(&[
        "link",
        "add",
        left_name,
        "type",
        "veth",
        "peer",
        "name",
        right_name,
        "netns",
        &right.path(),
    ]);
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

impl Lan {
    /// An empty one.
    pub fn new(_lab: &Lab, family: Family) -> Self {
        let switch = Ns::new("switch");
        switch.ip(&[
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ]);
        switch.ip(&["link", "set", "br0", "up"]);
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
        let host = Host {
            ns: Ns::new(name),
            family: self.family,
            number: self.hosts.get() + 1,
        };
        self.hosts.set(host.number);
        self.plug(&host);
        host
    }

    /// Connects a machine (again), with its addresses.
    pub fn plug(&self, host: &Host) {
        let port = format!("port{}", host.number);
        if host.family == Family::V4 {
            // Before the interface exists: the link shall never have had an IPv6 address.
            host.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        }
        slack_cable(host, "eth0", &self.switch, &port);
        // The same card in a new cable: neighbours need not forget the old one first.
        host.ip(&[
            "link",
            "set",
            "eth0",
            "address",
            &format!("02:00:00:00:00:{:02x}", host.number),
        ]);
        host.ip(&["link", "set", "eth0", "up"]);
        if host.family == Family::V4 {
            host.sysctl("net/ipv6/conf/default/disable_ipv6", "0");
        }
        self.switch
            .ip(&["link", "set", &port, "master", "br0", "up"]);
        if matches!(host.family, Family::V4 | Family::Both) {
            host.address_add(IpAddr::V4(host.v4()), 24);
        }
        if matches!(host.family, Family::V6 | Family::Both) {
            host.address_add(IpAddr::V6(host.v6()), 64);
        }
    }

    /// Pulls the cable of a machine out for good; [`Lan::plug`] gives it a new one.
    pub fn unplug(&self, host: &Host) {
        self.switch
            .ip(&["link", "del", &format!("port{}", host.number)]);
    }
}

impl Host {
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

    /// Adds an address to its interface.
    pub fn address_add(&self, address: IpAddr, prefix: u8) {
        self.ns
            .ip(&["addr", "add", &format!("{address}/{prefix}"), "dev", "eth0"]);
    }

    /// Takes an address from its interface.
    pub fn address_remove(&self, address: IpAddr, prefix: u8) {
        self.ns
            .ip(&["addr", "del", &format!("{address}/{prefix}"), "dev", "eth0"]);
    }

    /// Switches the segmentation and checksum offloads of its interface off: frames on the wire are finished ones.
    pub fn offload_off(&self) {
        let mut command = super::command("ethtool");
        command.args([
            "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]);
        self.ns
            .finish(command, std::time::Duration::from_secs(10))
            .expect_ok();
    }
}

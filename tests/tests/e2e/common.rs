//! Two nodes that trust each other: what most tests start from.

use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use anode_tests::programs;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Nodes `a` and `b` on one LAN. Dropped in this order: nodes, hosts, LAN, directory.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub host_a: Host,
    pub host_b: Host,
    pub lan: Lan,
    pub lab: Lab,
}

impl Pair {
    /// They found each other without any configuration, and `a` has pinged `b` through the overlay.
    /// `None` if the lab is switched off.
    pub fn start(family: Family) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, family);
        let (host_a, host_b) = (lan.host("a"), lan.host("b"));
        let a = Node::on(&host_a, lab.directory(), "a").start();
        let b = Node::on(&host_b, lab.directory(), "b").start();
        let pair = Self {
            a,
            b,
            host_a,
            host_b,
            lan,
            lab,
        };
        pair.trust();
        programs::first_ping(&pair.host_a, pair.b.ipv6().into(), Duration::from_secs(10));
        Some(pair)
    }

    /// Each lets the other in.
    pub fn trust(&self) {
        self.a.trust(&self.b, "b");
        self.b.trust(&self.a, "a");
    }

    /// A port on `b`'s overlay address.
    pub fn b_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.b.ipv6().into(), port)
    }

    /// A port on `a`'s overlay address.
    pub fn a_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.a.ipv6().into(), port)
    }

    /// `b`'s overlay address.
    pub fn b_ip(&self) -> IpAddr {
        self.b.ipv6().into()
    }
}

/// Two nodes that know each other's address and do not trust each other. `b` has a policy.
pub struct Strangers {
    pub b: Node,
    pub a: Node,
    pub host_a: Host,
    pub host_b: Host,
    _lan: Lan,
    _lab: Lab,
}

impl Strangers {
    /// With this in `[inbound]`; `a` has pinged `b`. `None` if the lab is switched off.
    pub fn start(inbound: &str) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let (host_a, host_b) = (lan.host("a"), lan.host("b"));
        let a = Node::on(&host_a, lab.directory(), "a").start();
        let b = Node::on(&host_b, lab.directory(), "b")
            .config(&format!("[inbound]\n{inbound}"))
            .start();
        // Echo is always answered.
        programs::first_ping(&host_a, b.ipv6().into(), Duration::from_secs(10));
        Some(Self {
            b,
            a,
            host_a,
            host_b,
            _lan: lan,
            _lab: lab,
        })
    }

    /// A port on `b`'s overlay address.
    pub fn b_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.b.ipv6().into(), port)
    }

    /// Writes the policy of `b` anew and has it read.
    pub fn reload(&self, inbound: &str) {
        let file = self.b.state().with_extension("toml");
        fs::write(&file, format!("[inbound]\n{inbound}\n")).expect("the configuration");
        self.b.cli(&["policy", "reload"]).expect_ok();
    }
}

/// An overlay address that nobody has.
pub const NOBODY: Ipv6Addr = Ipv6Addr::new(0xfda0, 1, 2, 3, 4, 5, 6, 0x70);

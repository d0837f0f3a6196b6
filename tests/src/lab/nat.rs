//! NAT boxes: a namespace between a LAN and the machines behind it (RFC 4787), built of nftables.

use super::{Host, Lan, Ns, cable, command};
use anode_platform::Prefix;
use anode_platform::netlink::Route;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

/// Which packets a NAT that keeps ports lets in (RFC 4787 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtering {
    /// From anywhere, once something has left from that port.
    EndpointIndependent,
    /// From hosts that something was sent to.
    AddressDependent,
    /// From just the ports that something was sent to.
    AddressAndPortDependent,
}

/// A symmetric NAT: another, random port for each place that is sent to, open for just that place.
pub struct Nat {
    outside: Host,
    number: u8,
    hosts: std::cell::Cell<u8>,
}

impl Nat {
    /// A box whose outer interface is on `lan`, with 10.`number`.0.0/24 behind it.
    pub fn new(lan: &Lan, number: u8) -> Self {
        let outside = lan.host(&format!("nat{number}"));
        outside.netlink(|netlink| netlink.bridge_add("in0"));
        let index = outside.index("in0");
        outside.netlink(|netlink| netlink.set_up(index, true));
        add_address(&outside, "in0", Ipv4Addr::new(10, number, 0, 1));
        outside.sysctl("net/ipv4/ip_forward", "1");
        let nat = Self {
            outside,
            number,
            hosts: std::cell::Cell::new(1),
        };
        nat.rules(
            "table ip nat {\n chain post {\n  type nat hook postrouting priority 100\n  oifname \"eth0\" masquerade fully-random\n }\n}\n\
             table ip filter {\n chain forward {\n  type filter hook forward priority 0\n  iifname \"eth0\" ct state established,related accept\n  iifname \"eth0\" drop\n }\n}\n",
        );
        nat
    }

    /// From now on it gives a machine its own port outside, as long as that is free, and lets in only what answers.
    pub fn keep_ports(&self) {
        self.keep_ports_and_filter(Filtering::AddressAndPortDependent);
    }

    /// The same with another kind of filtering.
    pub fn keep_ports_and_filter(&self, filtering: Filtering) {
        let restriction = match filtering {
            Filtering::AddressDependent => "ip saddr @sent ",
            _ => "",
        };
        // A packet that the box takes for itself would leave an entry in its table, in whose way the machine behind it then
        // gets another port: real boxes drop it, too.
        let inwards = match filtering {
            Filtering::AddressAndPortDependent => String::new(),
            _ => format!(
                " chain pre {{\n  type nat hook prerouting priority -100\n  iifname \"eth0\" meta l4proto udp {restriction}dnat to udp dport map @owner\n }}\n"
            ),
        };
        self.rules(&format!(
            "flush ruleset\ntable ip box {{\n\
             map owner {{\n  type inet_service : ipv4_addr\n  flags dynamic,timeout\n  timeout 60s\n  size 4096\n }}\n\
             set sent {{\n  type ipv4_addr\n  flags dynamic,timeout\n  timeout 60s\n  size 4096\n }}\n\
             {inwards}\
             chain input {{\n  type filter hook input priority 0\n  iifname \"eth0\" meta l4proto udp drop\n }}\n\
             chain post {{\n  type nat hook postrouting priority 100\n  oifname \"eth0\" masquerade\n }}\n\
             chain forward {{\n  type filter hook forward priority 0\n\
             iifname \"in0\" meta l4proto udp update @owner {{ udp sport : ip saddr }} update @sent {{ ip daddr }}\n\
             iifname \"eth0\" ct state established,related accept\n\
             iifname \"eth0\" ct status dnat accept\n\
             iifname \"eth0\" drop\n }}\n}}\n"
        ));
    }

    /// A new machine behind it: 10.N.0.2, 10.N.0.3, …
    pub fn machine(&self, name: &str) -> Ns {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let machine = Ns::new(name);
        let port = format!("in{number}");
        cable(&machine, "eth0", &self.outside, &port);
        let (bridge, port) = (self.outside.index("in0"), self.outside.index(&port));
        self.outside
            .netlink(|netlink| netlink.set_master(port, Some(bridge)));
        add_address(&machine, "eth0", Ipv4Addr::new(10, self.number, 0, number));
        let everywhere = Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).expect("a prefix");
        let gateway = Ipv4Addr::new(10, self.number, 0, 1);
        machine.netlink(|netlink| netlink.route_add(&Route::via(everywhere, gateway)));
        machine
    }

    /// The box itself.
    pub fn ns(&self) -> &Ns {
        self.outside.ns()
    }

    /// Loads rules.
    fn rules(&self, text: &str) {
        let mut nft = command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut process = self.outside.start(nft);
        let mut input = process.stdin().expect("it reads rules");
        input.write_all(text.as_bytes()).expect("nft reads");
        drop(input);
        process.finish(Duration::from_secs(10)).expect_ok();
    }
}

fn add_address(ns: &Ns, link: &str, address: Ipv4Addr) {
    let index = ns.index(link);
    let prefix = Prefix::new(IpAddr::V4(address), 24).expect("a prefix");
    ns.netlink(|netlink| netlink.address_add(index, prefix));
}

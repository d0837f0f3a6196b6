//! NAT boxes: a namespace between a LAN and the machines behind it (RFC 4787), built of nftables.

use super::{Host, Lan, Ns, cable, command};
use crate::programs;
use anode_platform::Prefix;
use anode_platform::netlink::Route;
use std::cell::Cell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// What a box does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatKind {
    /// One port for all destinations, open to everybody ("full cone").
    Full,
    /// One port for all destinations, open to addresses that were sent to ("restricted cone").
    Address,
    /// One port for all destinations, open to just where was sent to ("port-restricted cone").
    Port,
    /// Another, random port for each destination, open for just that one ("symmetric").
    Random,
    /// The same, and the ports come one after the other.
    Sequence,
    /// Nothing but TCP gets out.
    NoUdp,
    /// Nothing but connections to this address and port get out: an HTTP proxy.
    ProxyOnly(Ipv4Addr, u16),
    /// IPv4 does not get out; IPv6 is not translated, and nothing comes in that was not asked for.
    Firewall6,
}

/// Ports of [`NatKind::Sequence`]: nftables counts over a map, since the number as a port would have its bytes in the wrong order.
const SEQUENCE: std::ops::Range<u16> = 40_000..42_048;

/// A NAT, or a firewall.
pub struct Nat {
    outside: Host,
    ns: Ns,
    number: u8,
    kind: Cell<NatKind>,
    /// Its own outer address.
    address: Ipv4Addr,
    hosts: Cell<u8>,
}

impl Nat {
    /// A symmetric NAT with random ports whose outer interface is on `lan`, with 10.`number`.0.0/24 behind it.
    pub fn new(lan: &Lan, number: u8) -> Self {
        Self::of_kind(lan, number, NatKind::Random)
    }

    /// The same of another kind; of a firewall, 2001:db8:`number`::/64 lies behind it.
    pub fn of_kind(lan: &Lan, number: u8, kind: NatKind) -> Self {
        let outside = lan.host(&format!("nat{number}"));
        let (ns, address) = (outside.ns().clone(), outside.v4());
        Self::around(outside, ns, address, number, kind)
    }

    /// One behind this one, as a home router behind the NAT of a provider: 10.`number`.0.0/24 lies behind it.
    pub fn inner(&self, number: u8, kind: NatKind) -> Self {
        let ns = self.machine(&format!("nat{number}"));
        let address = Ipv4Addr::new(10, self.number, 0, self.hosts.get());
        Self::around(self.outside.clone(), ns, address, number, kind)
    }

    fn around(outside: Host, ns: Ns, address: Ipv4Addr, number: u8, kind: NatKind) -> Self {
        ns.netlink(|netlink| netlink.bridge_add("in0"));
        let index = ns.index("in0");
        ns.netlink(|netlink| netlink.set_up(index, true));
        add_address(&ns, "in0", Ipv4Addr::new(10, number, 0, 1).into(), 24);
        ns.sysctl("net/ipv4/ip_forward", "1");
        if kind == NatKind::Firewall6 {
            ns.sysctl("net/ipv6/conf/all/forwarding", "1");
            add_address(&ns, "in0", gateway6(number).into(), 64);
        }
        let nat = Self {
            outside,
            ns,
            number,
            kind: Cell::new(kind),
            address,
            hosts: Cell::new(1),
        };
        nat.load();
        nat
    }

    /// From now on it gives a machine its own port outside, as long as that is free, and lets in only what answers.
    pub fn keep_ports(&self) {
        self.keep_ports_and_filter(Filtering::AddressAndPortDependent);
    }

    /// The same with another kind of filtering.
    pub fn keep_ports_and_filter(&self, filtering: Filtering) {
        self.kind.set(match filtering {
            Filtering::EndpointIndependent => NatKind::Full,
            Filtering::AddressDependent => NatKind::Address,
            Filtering::AddressAndPortDependent => NatKind::Port,
        });
        self.load();
    }

    /// A new machine behind it: 10.N.0.2, 10.N.0.3, …
    pub fn machine(&self, name: &str) -> Ns {
        let machine = Ns::new(name);
        self.plug(&machine, "eth0");
        machine
    }

    /// Puts an interface of a machine behind it: 10.N.0.2, 10.N.0.3, … with the default route through it.
    pub fn plug(&self, machine: &Ns, interface: &str) {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let port = format!("in{number}");
        cable(machine, interface, &self.ns, &port);
        let (bridge, port) = (self.ns.index("in0"), self.ns.index(&port));
        self.ns
            .netlink(|netlink| netlink.set_master(port, Some(bridge)));
        let own = Ipv4Addr::new(10, self.number, 0, number);
        add_address(machine, interface, own.into(), 24);
        default_route(machine, Ipv4Addr::new(10, self.number, 0, 1).into());
        if self.kind.get() == NatKind::Firewall6 {
            let [a, b, c, ..] = gateway6(self.number).segments();
            let own = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, number.into());
            add_address(machine, interface, own.into(), 64);
            default_route(machine, gateway6(self.number).into());
        }
    }

    /// The way to what lies behind a firewall, for its neighbours on the LAN: no NAT hides it.
    pub fn way_in(&self) -> Option<Route> {
        let to = network6(self.number);
        (self.kind.get() == NatKind::Firewall6).then(|| Route::via(to, self.outside.v6()))
    }

    /// The box itself.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// What lies behind it is 10.N.0.0/24.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its outer address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its power is cycled: every mapping is forgotten, and nothing from outside finds the way in.
    pub fn forget(&self) {
        self.load();
        let mut flush = command(programs::need("conntrack"));
        flush.arg("-F");
        self.ns.finish(flush, Duration::from_secs(10)).expect_ok();
    }

    /// Whether packets to this place come out of it: no path through it, from then on.
    pub fn block(&self, to: IpAddr) {
        self.rules(&format!(
            "table inet block {{\n chain forward {{\n  type filter hook forward priority -20\n  ip daddr {to} drop\n  ip saddr {to} drop\n }}\n}}\n"
        ));
    }

    /// Takes [`Nat::block`] back.
    pub fn unblock(&self) {
        self.rules("delete table inet block\n");
    }

    /// Bytes and packets that have left it, by the kernel's counters.
    pub fn packets_out(&self) -> u64 {
        let text = self
            .ns
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("it is there"));
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with("eth0"));
        let packets = line.and_then(|line| line.split_whitespace().nth(10)?.parse().ok());
        packets.unwrap_or_default()
    }

    fn load(&self) {
        let own = self.address;
        let inside = format!("10.{}.0.0/24", self.number);
        // Who owns an inner port, and where was sent to from it, as far as packets that come in need to know.
        let (track, inbound) = match self.kind.get() {
            NatKind::Full => (
                "iifname \"in0\" meta l4proto udp update @owner { udp sport : ip saddr }"
                    .to_owned(),
                format!(
                    "iifname \"eth0\" ip daddr {own} meta l4proto udp dnat to udp dport map @owner"
                ),
            ),
            NatKind::Address => (
                "iifname \"in0\" meta l4proto udp update @owner { udp sport : ip saddr }\n  \
                 iifname \"in0\" meta l4proto udp update @sent { ip daddr . udp sport }"
                    .to_owned(),
                format!(
                    "iifname \"eth0\" ip daddr {own} ip saddr . udp dport @sent dnat to udp dport map @owner"
                ),
            ),
            _ => (String::new(), String::new()),
        };
        let outbound = match self.kind.get() {
            NatKind::Random => {
                format!("oifname \"eth0\" ip saddr {inside} masquerade fully-random")
            }
            NatKind::Sequence => {
                let ports: Vec<String> = SEQUENCE
                    .enumerate()
                    .map(|(index, port)| format!("{index} : {own} . {port}"))
                    .collect();
                format!(
                    "oifname \"eth0\" ip saddr {inside} meta l4proto udp snat ip to numgen inc mod {} map {{ {} }}\n  \
                     oifname \"eth0\" ip saddr {inside} masquerade",
                    SEQUENCE.len(),
                    ports.join(", ")
                )
            }
            _ => format!("oifname \"eth0\" ip saddr {inside} masquerade"),
        };
        let forbidden = match self.kind.get() {
            NatKind::NoUdp => "meta l4proto udp drop".to_owned(),
            NatKind::ProxyOnly(ip, port) => {
                format!(
                    "iifname \"in0\" ip daddr != {ip} drop\n  iifname \"in0\" tcp dport != {port} drop\n  meta l4proto udp drop"
                )
            }
            NatKind::Firewall6 => "meta nfproto ipv4 drop".to_owned(),
            _ => String::new(),
        };
        // What nobody behind it has asked for must not become a connection of the box itself: it would take the port away
        // from the machine that asks a moment later.
        self.rules(&format!(
            "flush ruleset
table ip nat {{
 map owner {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 120s; }}
 set sent {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }}
 chain note {{
  type filter hook prerouting priority -200
  {track}
 }}
 chain inbound {{
  type nat hook prerouting priority -100
  {inbound}
 }}
 chain outbound {{
  type nat hook postrouting priority 100
  {outbound}
 }}
}}
table inet filter {{
 chain forward {{
  type filter hook forward priority 0
  {forbidden}
  ct state established,related accept
  ct status dnat accept
  iifname \"eth0\" drop
 }}
 chain input {{
  type filter hook input priority 0
  iifname \"eth0\" meta l4proto {{ icmp, ipv6-icmp }} accept
  iifname \"eth0\" ct state established,related accept
  iifname \"eth0\" drop
 }}
}}
"
        ));
    }

    /// Loads rules.
    fn rules(&self, text: &str) {
        let mut nft = command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut process = self.ns.start(nft);
        let mut input = process.stdin().expect("it reads rules");
        input.write_all(text.as_bytes()).expect("nft reads");
        drop(input);
        process.finish(Duration::from_secs(10)).expect_ok();
    }
}

/// What lies behind a firewall with this number.
fn network6(number: u8) -> Prefix {
    let [a, b, c, ..] = gateway6(number).segments();
    let network = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
    Prefix::new(network, 64).expect("a prefix")
}

fn gateway6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x100 + u16::from(number), 0, 0, 0, 0, 1)
}

fn add_address(ns: &Ns, link: &str, address: IpAddr, length: u8) {
    let index = ns.index(link);
    let prefix = Prefix::new(address, length).expect("a prefix");
    ns.netlink(|netlink| netlink.address_add(index, prefix));
}

/// Everything that is not on its links goes to this one.
pub fn default_route(ns: &Ns, gateway: IpAddr) {
    let everywhere = match gateway {
        IpAddr::V4(_) => Prefix::new(Ipv4Addr::UNSPECIFIED, 0),
        IpAddr::V6(_) => Prefix::new(Ipv6Addr::UNSPECIFIED, 0),
    };
    let everywhere = everywhere.expect("a prefix");
    ns.netlink(|netlink| netlink.route_add(&Route::via(everywhere, gateway)));
}

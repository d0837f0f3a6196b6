//! An internet in small: relays, and sites with everything that stands between a machine and the rest of the world.

use super::nat::default_route;
use super::{Family, Host, Lab, Lan, Nat, NatKind, Node, NodeBuilder, Ns, Proc, command};
use crate::programs;
use anode_platform::netlink::Route;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// What stands between a machine and the internet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Site {
    /// Nothing.
    Open,
    /// A full cone.
    Full,
    /// An address-restricted cone.
    Address,
    /// A port-restricted cone.
    Port,
    /// A symmetric NAT with random ports.
    Random,
    /// A symmetric NAT with ports in sequence.
    Sequence,
    /// A port-restricted cone behind another one.
    Double,
    /// A port-restricted cone behind a symmetric one with random ports.
    DoubleRandom,
    /// No UDP at all.
    NoUdp,
    /// An HTTP proxy that connects to port 443, and nothing else.
    Proxy,
    /// IPv6 alone, behind a stateful firewall.
    Firewall6,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Open,
        Self::Full,
        Self::Address,
        Self::Port,
        Self::Random,
        Self::Sequence,
        Self::Double,
        Self::DoubleRandom,
        Self::NoUdp,
        Self::Proxy,
        Self::Firewall6,
    ];

    /// As in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Full => "full",
            Self::Address => "address",
            Self::Port => "port",
            Self::Random => "random",
            Self::Sequence => "seq",
            Self::Double => "double",
            Self::DoubleRandom => "double-random",
            Self::NoUdp => "no-udp",
            Self::Proxy => "proxy",
            Self::Firewall6 => "v6-firewall",
        }
    }
}

/// Relays, a proxy, and a router that knows nobody's private networks.
pub struct Internet {
    relays: Vec<(Node, Host)>,
    proxy: Option<(Proc, SocketAddr)>,
    lan: Lan,
    lab: Lab,
    sites: std::cell::Cell<u8>,
    /// Machines and firewalls on the LAN, which know the ways to each other's networks (IPv6 has no NAT to hide them).
    neighbours: std::cell::RefCell<Vec<Ns>>,
    ways: std::cell::RefCell<Vec<Route>>,
}

/// One machine with what stands before it. The outermost box first.
pub struct Place {
    /// The machine.
    pub ns: Ns,
    /// The boxes.
    pub nats: Vec<Nat>,
    /// What it is.
    pub site: Site,
}

/// The port of the proxy.
const PROXY: u16 = 3128;

impl Internet {
    /// With so many relays, and no other heavy test beside it while the guard is kept. `None` if the lab is switched off.
    pub fn alone(relays: usize) -> Option<(Self, MutexGuard<'static, ()>)> {
        let alone = super::heavy();
        Some((Self::new(relays)?, alone))
    }

    /// With so many relays. `None` if the lab is switched off.
    pub fn new(relays: usize) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::Both);
        lan.make_router();
        let mut internet = Self {
            relays: Vec::new(),
            proxy: None,
            lan,
            lab,
            sites: std::cell::Cell::new(0),
            neighbours: std::cell::RefCell::default(),
            ways: std::cell::RefCell::default(),
        };
        for index in 0..relays {
            let host = internet.lan.host(&format!("relay{index}"));
            internet.lan.route_out(&host);
            internet.meet(host.ns());
            let relay = internet.relay(&host, index).start();
            internet.relays.push((relay, host));
        }
        Some(internet)
    }

    fn relay(&self, host: &Host, index: usize) -> NodeBuilder {
        let (v4, v6) = (host.v4(), host.v6());
        Node::on(host, self.lab.directory(), &format!("relay{index}"))
            .relay()
            .args(&["--listen", &format!("udp://{v4}:8737")])
            .args(&["--listen", &format!("udp://[{v6}]:8737")])
            .args(&["--listen", &format!("tcp://{v4}:443")])
    }

    /// The relays.
    pub fn relays(&mut self) -> impl Iterator<Item = &mut Node> {
        self.relays.iter_mut().map(|(relay, _)| relay)
    }

    /// Files of this test.
    pub fn directory(&self) -> &std::path::Path {
        self.lab.directory()
    }

    /// What everybody meets on.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// A machine behind a site of its own.
    pub fn place(&mut self, site: Site) -> Place {
        let number = self.sites.get() + 1;
        self.sites.set(number);
        if site == Site::Open {
            let host = self.lan.host(&format!("open{number}"));
            self.lan.route_out(&host);
            self.meet(host.ns());
            return Place {
                ns: host.ns().clone(),
                nats: Vec::new(),
                site,
            };
        }
        let (outer, inner) = match site {
            Site::Open | Site::Port => (NatKind::Port, None),
            Site::Full => (NatKind::Full, None),
            Site::Address => (NatKind::Address, None),
            Site::Random => (NatKind::Random, None),
            Site::Sequence => (NatKind::Sequence, None),
            Site::Double => (NatKind::Port, Some(NatKind::Port)),
            Site::DoubleRandom => (NatKind::Random, Some(NatKind::Port)),
            Site::NoUdp => (NatKind::NoUdp, None),
            Site::Proxy => {
                let at = self.proxy();
                (NatKind::ProxyOnly(at, PROXY), None)
            }
            Site::Firewall6 => (NatKind::Firewall6, None),
        };
        let mut nats = vec![self.nat(number, outer)];
        if let Some(inner) = inner {
            nats.push(nats[0].inner(number + 100, inner));
        }
        let ns = nats[nats.len() - 1].machine(&format!("{}{number}", site.as_str()));
        Place { ns, nats, site }
    }

    /// A box with the way out.
    pub fn nat(&self, number: u8, kind: NatKind) -> Nat {
        let nat = Nat::of_kind(&self.lan, number, kind);
        default_route(nat.ns(), Lan::ROUTER4.into());
        default_route(nat.ns(), Lan::ROUTER6.into());
        if let Some(way) = nat.way_in() {
            for neighbour in self.neighbours.borrow().iter() {
                neighbour.netlink(|netlink| netlink.route_add(&way));
            }
            self.meet(nat.ns());
            self.ways.borrow_mut().push(way);
        }
        nat
    }

    /// Somebody new on the LAN knows the ways that are there.
    fn meet(&self, newcomer: &Ns) {
        for way in self.ways.borrow().iter() {
            newcomer.netlink(|netlink| netlink.route_add(way));
        }
        self.neighbours.borrow_mut().push(newcomer.clone());
    }

    fn proxy(&mut self) -> Ipv4Addr {
        if let Some((_, at)) = &self.proxy
            && let std::net::IpAddr::V4(at) = at.ip()
        {
            return at;
        }
        let host = self.lan.host("proxy");
        let at = SocketAddr::new(host.v4().into(), PROXY);
        let file = self.lab.directory().join("tinyproxy.conf");
        let text = format!(
            "Port {PROXY}\nListen {}\nTimeout 60\nMaxClients 50\nLogLevel Connect\nConnectPort 443\n",
            host.v4()
        );
        std::fs::write(&file, text).expect("a file");
        let mut proxy = command(programs::need("tinyproxy"));
        proxy.args(["-d", "-c"]).arg(&file);
        let process = host.start(proxy);
        let begin = Instant::now();
        while host.run(|| std::net::TcpStream::connect(at)).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{}",
                process.stderr()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.proxy = Some((process, at));
        host.v4()
    }

    /// A node there, which knows the relays.
    pub fn node(&self, place: &Place, name: &str) -> NodeBuilder {
        let node = Node::on(&place.ns, self.lab.directory(), name).config(&self.entries());
        match (&self.proxy, place.site) {
            (Some((_, at)), Site::Proxy) => {
                node.config(&format!("[proxy]\nhttp = \"http://{at}\""))
            }
            _ => node,
        }
    }

    /// What nodes have in their configuration: no zone file stands behind it, so that nothing but relays is tested.
    pub fn entries(&self) -> String {
        let entry = |(relay, host): &(Node, Host)| {
            let (v4, v6): (Ipv4Addr, Ipv6Addr) = (host.v4(), host.v6());
            format!(
                "[[relays]]\naddress = \"{}\"\nendpoints = [\"udp://{v4}:8737\", \"udp://[{v6}]:8737\", \"tcp://{v4}:443\"]\n",
                relay.address(),
            )
        };
        let entries: String = self.relays.iter().map(entry).collect();
        entries
    }

    /// Waits until a node is registered with all relays that stand for it.
    #[track_caller]
    pub fn registered(&self, node: &Node) {
        node.wait("registration", Duration::from_secs(15), || {
            let status = node.json(&["status"]);
            let relays = status["relays"].as_array().expect("a list");
            !relays.is_empty() && relays.iter().all(|relay| relay["registered"] == true)
        });
    }
}

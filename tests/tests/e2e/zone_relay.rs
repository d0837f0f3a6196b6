//! A zone from one command, its relay from another, and machines behind NATs that know nothing but where its file is.

use anode_tests::lab::{Family, Host, Lab, Lan, Nat, Node, Proc, anode_binary, command, heavy};
use anode_tests::{programs, traffic};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The zone, its relay, and two NATs with nothing behind them. Dropped in this order.
struct Scene {
    relay: Option<Proc>,
    zone: PathBuf,
    host: Host,
    nats: [Nat; 2],
    lan: Lan,
    lab: Lab,
}

impl Scene {
    /// `None` if the lab is switched off.
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let nats = [Nat::new(&lan, 1), Nat::new(&lan, 2)];
        let host = lan.host("relay");
        let zone = new_zone(&lab, &host, "0000002a");
        let mut scene = Self {
            relay: None,
            zone,
            host,
            nats,
            lan,
            lab,
        };
        scene.start_relay();
        Some(scene)
    }

    fn start_relay(&mut self) {
        self.relay = Some(relay_of(&self.zone, &self.host));
    }

    /// A node behind a NAT, in the zone whose file the relay serves.
    fn node(&self, nat: usize, name: &str, block: bool) -> Node {
        let machine = self.nats[nat].machine(name);
        if block {
            let mut nft = command(programs::need("nft"));
            nft.arg("table inet lab { chain out { type filter hook output priority 0; oifname eth0 meta l4proto udp drop; }; }");
            machine.finish(nft, SOON).expect_ok();
        }
        let url = format!("http://{}:8737/z", self.host.v4());
        Node::on(&machine, self.lab.directory(), name)
            .no_lan()
            .args(&["--zone-file", &url])
            .start()
    }
}

/// A zone with one relay on `host`: its directory.
fn new_zone(lab: &Lab, host: &Host, zone: &str) -> PathBuf {
    let directory = lab.directory().join(zone);
    let mut new = command(anode_binary());
    new.args(["zone", "new"])
        .arg(&directory)
        .args(["--zone", zone, "--relay"])
        .arg(format!("{}:8737", host.v4()));
    host.finish(new, SOON).expect_ok();
    directory
}

/// Its relay, as an ordinary user would start it: neither an interface nor a right.
fn relay_of(zone: &Path, host: &Host) -> Proc {
    let mut relay = command("setpriv");
    relay
        .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(anode_binary())
        .args(["relay", "-c"])
        .arg(zone.join("relay-0.toml"));
    let mut relay = host.start(relay);
    relay.wait_stderr_line("ready", SOON).expect("it is ready");
    relay
}

/// Kind and transport of the path that is used.
fn used(from: &Node, to: &Node) -> (String, String) {
    let paths = from.json(&["paths"]);
    let paths = paths.as_array().expect("a list");
    let is_used = |path: &&Value| path["address"] == to.address() && path["active"] == true;
    let used = paths.iter().find(is_used).expect("a path");
    let text = |key: &str| used[key].as_str().expect("a text").to_owned();
    (text("kind"), text("transport"))
}

/// Bytes one way over TCP, compared.
fn transfer(from: &Node, to: &Node) {
    const SIZE: u64 = 4_000_000;
    let at = SocketAddr::new(to.ipv6().into(), 7_000);
    let (near, far) = traffic::pair(from.ns(), to.ns(), at);
    let receiver = thread::spawn(move || traffic::receive_all(far));
    let sent = traffic::send_noise(&near, 7, SIZE).expect("the stream takes everything");
    drop(near);
    let got = receiver.join().expect("no panic");
    assert_eq!(got.expect("the stream ends well"), (SIZE, sent));
}

#[test]
fn two_machines_behind_nats_need_the_url_of_the_zone_and_nothing_else() {
    // A5, A8, A16, A20, A26, D40
    let _alone = heavy();
    let Some(scene) = Scene::start() else {
        return;
    };
    let (a, b) = (scene.node(0, "a", false), scene.node(1, "b", false));
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(a.ns(), b.ipv6().into(), SOON);
    assert_eq!(used(&a, &b), ("relay".into(), "udp".into()));
    assert_eq!(a.json(&["status"])["tunnelled"], 0);
    transfer(&a, &b);
}

#[test]
fn where_udp_is_blocked_the_relay_is_reached_by_a_connection() {
    // A20, A25
    let _alone = heavy();
    let Some(mut scene) = Scene::start() else {
        return;
    };
    let (a, b) = (scene.node(0, "a", true), scene.node(1, "b", false));
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(a.ns(), b.ipv6().into(), SOON);
    let (kind, transport) = used(&a, &b);
    assert!(kind == "relay" && transport != "udp", "{kind} {transport}");
    let tunnelled = a.json(&["status"])["tunnelled"].as_u64();
    assert!(tunnelled.is_some_and(|count| count > 0), "{tunnelled:?}");
    transfer(&a, &b);
    transfer(&b, &a);

    // The relay is started again: everybody is back on it by himself.
    scene.relay = None;
    scene.start_relay();
    b.wait("an echo over the new relay", SOON, || {
        b.ping(&a.ipv6().to_string(), 1) == 1
    });
}

#[test]
fn machines_of_two_zones_reach_each_other_over_the_relays_of_both() {
    // U11, A26: each node is in one zone and knows where the relays of the other are
    let _alone = heavy();
    let Some(scene) = Scene::start() else {
        return;
    };
    let host = scene.lan.host("relay of the other zone");
    let zone = new_zone(&scene.lab, &host, "0000002b");
    let _relay = relay_of(&zone, &host);
    let url = |host: &Host| format!("http://{}:8737/z", host.v4());
    let node = |nat: usize, name: &str, own: &Host, zone: &str, other: &Host| {
        let machine = scene.nats[nat].machine(name);
        let zones = format!(
            "[[zones]]\nzone = \"{zone}\"\nzone-file = \"{}\"",
            url(other)
        );
        Node::on(&machine, scene.lab.directory(), name)
            .no_lan()
            .config(&zones)
            .args(&["--zone-file", &url(own)])
            .start()
    };
    let a = node(0, "a", &scene.host, "2b", &host);
    let b = node(1, "b", &host, "2a", &scene.host);
    assert_ne!(a.json(&["address"])["zone"], b.json(&["address"])["zone"]);
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(a.ns(), b.ipv6().into(), SOON);
    assert_eq!(used(&a, &b), ("relay".into(), "udp".into()));
    transfer(&a, &b);
    transfer(&b, &a);
}

//! A TURN server beside a node: Anode keys as its credentials, and one TLS port for both.

use super::{Authority, EC, check, expect_all, send, text};
use anode_tests::lab::{Host, Internet, Node, Site, command, heavy};
use anode_tests::programs;
use anode_tests::traffic::UdpEcho;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// A relay with a TURN server, whose TLS is on the port of the relay's own.
pub struct Beside {
    pub relay: Node,
    pub host: Host,
    pub ca: std::path::PathBuf,
}

impl Beside {
    pub fn start(internet: &Internet, more: &str) -> Self {
        let host = internet.lan().host("relay");
        internet.lan().route_out(&host);
        let ip = host.v4();
        let authority = Authority::new(internet.directory(), "authority");
        let leaf = authority.leaf("leaf", &format!("IP:{ip}"), 2, &EC);
        let (cert, key) = (text(&leaf.certificate), text(&leaf.key));
        let turn = format!(
            "[turn]\nlisten = [\"{ip}:3478\"]\nlisten-tls = [\"{ip}:443\"]\nrealm = \"example.org\"\n\
             users = {{ alice = \"secret\" }}\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n\
             allow-peers = [\"192.0.2.0/24\"]\n{more}\n[relay]\n",
        );
        let relay = Node::on(&host, internet.directory(), "relay")
            .relay()
            .args(&["--listen", &format!("udp://{ip}:8737")])
            .args(&["--listen", &format!("tcp://{ip}:443")])
            .config(&turn)
            .start();
        Self {
            relay,
            ca: authority.certificate,
            host,
        }
    }

    /// Those that stand.
    fn allocations(&self) -> f64 {
        self.relay.metrics().all()["anode_turn_allocations"]
    }

    /// What nodes know of it: the relay, and that it has a TURN server.
    fn entries(&self) -> String {
        let ip = self.host.v4();
        format!(
            "[[relays]]\naddress = \"{}\"\nendpoints = [\"udp://{ip}:8737\"]\n[[turn-client.server]]\nuri = \"turn:{ip}:3478\"\n",
            self.relay.address()
        )
    }
}

fn over_turn(from: &Node, to: &Node) -> bool {
    let paths = from.json(&["paths"]);
    let mut all = paths.as_array().expect("a list").iter();
    all.any(|path: &Value| {
        path["address"] == to.address() && path["kind"] == "turn" && path["rtt_ms"].is_number()
    })
}

// RD: Anode keys as long-term credentials (docs/spec/reload.md), for the trusted alone
#[test]
fn the_key_of_a_trusted_node_is_its_credential_and_that_of_a_stranger_is_not() {
    let Some(mut internet) = Internet::new(0) else {
        return;
    };
    let _alone = heavy();
    let beside = Beside::start(&internet, "anode-users = \"trusted\"");
    let places = [Site::Random, Site::Random].map(|site| internet.place(site));
    let entries = beside.entries();
    let [a, b] = [("a", 0), ("b", 1)].map(|(name, place)| {
        let node = internet.node(&places[place], name).config(&entries);
        node.no_lan().start()
    });
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    let allocations = || beside.allocations();
    let ping = |count: &str| a.json(&["ping", b.address(), "-c", count, "-i", "0.5"]);
    assert_eq!(ping("14")["replies"][0]["path"], "relay");
    assert!(a.metrics().sum("turn_orders") >= 1.0, "it has asked");
    assert_eq!(allocations(), 0.0, "a stranger's key");
    beside.relay.trust(&a, "a");
    a.wait("a path over TURN", SOON, || {
        ping("1");
        over_turn(&a, &b)
    });
    // b is a stranger still.
    assert_eq!(allocations(), 1.0);
}

#[test]
fn one_tls_port_serves_turn_clients_nodes_and_browsers() {
    let Some(internet) = Internet::new(0) else {
        return;
    };
    let beside = Beside::start(&internet, "");
    let (client, peer) = (internet.lan().host("client"), internet.lan().host("peer"));
    let ip = beside.host.v4();
    let uri = format!("turns:{ip}:443");
    let report = check(&client, &uri, &beside.ca);
    assert_eq!(report["ok"], true, "{report}");
    let dtls = check(&client, &format!("{uri}?transport=udp"), &beside.ca);
    assert_eq!(dtls["ok"], true, "{dtls}");
    let at = SocketAddr::new(peer.v4().into(), 3480);
    let _echo = UdpEcho::start(&peer, at);
    let sent = send(&client, &uri, at, text(&beside.ca), &["-n", "200"]);
    expect_all(&sent);

    let node = Node::on(&client, internet.directory(), "node")
        .no_lan()
        .peer(&beside.relay, &format!("tls://{ip}:443"))
        .start();
    let answer = node.json(&["ping", beside.relay.address(), "-c", "3", "-i", "0.1"]);
    assert_eq!(answer["received"], 3, "{answer}");
    assert_eq!(answer["replies"][0]["via"], format!("tls://{ip}:443"));

    let mut curl = command(programs::need("curl"));
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(&beside.ca)
        .arg(format!("https://{ip}:443/z"));
    let page = client.finish(curl, Duration::from_secs(10));
    assert_eq!(page.stdout(), "404", "{page}");
    assert_eq!(beside.allocations(), 0.0, "all were given back");
}

// R98, R135, R136: nobody has named the TURN server; the relay has stored it in the DHT, and knows those whom it trusts
#[test]
fn a_turn_server_that_the_dht_knows_carries_a_path() {
    let Some(mut internet) = Internet::new(0) else {
        return;
    };
    let _alone = heavy();
    let overlay = "[[dht]]\noverlay = \"home.example\"\n";
    let stores = format!("anode-users = \"trusted\"\n{overlay}create = true");
    let beside = Beside::start(&internet, &stores);
    let places = [Site::Random, Site::Random].map(|site| internet.place(site));
    let (ip, relay) = (beside.host.v4(), beside.relay.address());
    let entries = format!(
        "[[relays]]\naddress = \"{relay}\"\nendpoints = [\"udp://{ip}:8737\"]\n\
         {overlay}bootstrap = [\"{relay}@{ip}:8737\"]\n"
    );
    let [a, b] = [("a", 0), ("b", 1)].map(|(name, place)| {
        let node = internet.node(&places[place], name).config(&entries);
        node.no_lan().prepare()
    });
    let mut nodes = [a, b];
    for (node, name) in nodes.iter_mut().zip(["a", "b"]) {
        beside.relay.trust(node, name);
        node.start();
    }
    let [a, b] = nodes;
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    a.wait("a path over TURN", SOON, || {
        a.json(&["ping", b.address(), "-c", "1"]);
        over_turn(&a, &b)
    });
    assert!(beside.allocations() >= 1.0);
}

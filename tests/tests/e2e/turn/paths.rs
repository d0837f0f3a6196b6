//! TURN as a path of the overlay: taken when nothing else leads there, left as soon as something does.

use super::{Authority, EC, PORT, anode, serve, text};
use anode_tests::flow::Flow;
use anode_tests::lab::{Host, Internet, NatKind, Node, Place, Proc, Site, heavy};
use anode_tests::matrix::{Pair, kind};
use serde_json::Value;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// What a gap may be on a loaded machine; the figure is printed.
const GAP: Duration = Duration::from_secs(3);

/// A TURN server on the internet of the lab: 3478 for everybody, TLS on 443.
struct Turn {
    _server: Proc,
    host: Host,
    ca: String,
}

impl Turn {
    fn start(internet: &Internet) -> Self {
        let directory = internet.directory();
        let host = internet.lan().host("turn");
        internet.lan().route_out(&host);
        let ip = host.v4();
        let authority = Authority::new(directory, "authority");
        let leaf = authority.leaf("leaf", &format!("IP:{ip}"), 2, &EC);
        let config = directory.join("turn.toml");
        let (cert, key) = (text(&leaf.certificate), text(&leaf.key));
        let lines = format!(
            "[turn]\nlisten = [\"{ip}:{PORT}\"]\nlisten-tls = [\"{ip}:443\"]\nrealm = \"example.org\"\n\
             users = {{ alice = \"secret\" }}\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n\
             allow-peers = [\"192.0.2.0/24\"]\n",
        );
        fs::write(&config, lines).expect("written");
        let server = serve(&host, &config);
        Self {
            _server: server,
            ca: text(&authority.certificate).to_owned(),
            host,
        }
    }

    /// What a node says of it: its UDP port, and TLS on 443.
    fn entries(&self) -> String {
        let ip = self.host.v4();
        let entry = |uri: &str| {
            format!(
                "[[turn-client.server]]\nuri = \"{uri}\"\nuser = \"alice\"\npassword = \"secret\"\nca = \"{}\"\n",
                self.ca
            )
        };
        entry(&format!("turn:{ip}:{PORT}")) + &entry(&format!("turns:{ip}:443"))
    }
}

/// All paths from one to the other.
fn paths(from: &Node, to: &Node) -> Vec<Value> {
    let paths = from.json(&["paths"]);
    let all = paths.as_array().expect("a list").clone();
    all.into_iter()
        .filter(|path| path["address"] == to.address())
        .collect()
}

/// A path over TURN has been measured.
fn stands_by(from: &Node, to: &Node) -> bool {
    let of_turn = |path: &Value| path["kind"] == "turn" && path["rtt_ms"].is_number();
    paths(from, to).iter().any(of_turn)
}

/// A pair of which only the first knows of the TURN server.
fn pair(internet: &mut Internet, turn: &Turn, sites: [Site; 2]) -> Pair {
    let places = sites.map(|site| internet.place(site));
    let a = internet
        .node(&places[0], "a")
        .config(&turn.entries())
        .no_lan();
    let (a, b) = (a.start(), internet.node(&places[1], "b").no_lan().start());
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    Pair { a, b, places }
}

/// TURN has been measured, from both sides, and is not used.
fn await_standby(pair: &Pair) {
    let begin = Instant::now();
    pair.a.wait("TURN", SOON, || stands_by(&pair.a, &pair.b));
    pair.b.wait("TURN", SOON, || stands_by(&pair.b, &pair.a));
    println!("TURN stands by after {:?}", begin.elapsed());
    assert_eq!(kinds(pair), ["relay", "relay"]);
}

fn kinds(pair: &Pair) -> [String; 2] {
    [kind(&pair.a, &pair.b).0, kind(&pair.b, &pair.a).0]
}

fn await_kind(pair: &Pair, wanted: &str) {
    let begin = Instant::now();
    pair.a
        .wait(wanted, SOON, || kinds(pair) == [wanted, wanted]);
    println!("{wanted} after {:?}", begin.elapsed());
}

// DESIGN §7
#[test]
fn behind_two_symmetric_nats_turn_stands_by_and_carries_on_when_the_relays_die() {
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let turn = Turn::start(&internet);
    let pair = pair(&mut internet, &turn, [Site::Random, Site::Random]);
    let flow = Flow::start(&pair.a, &pair.b);
    await_standby(&pair);
    internet.relays().for_each(Node::kill);
    await_kind(&pair, "turn");
    for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        let answer = from.json(&["ping", to.address(), "-c", "3", "-i", "0.1"]);
        assert_eq!(answer["replies"][2]["path"], "turn", "{answer}");
    }
    thread::sleep(Duration::from_secs(1));
    // A relay of the zone comes before TURN.
    internet.relays().for_each(Node::start);
    await_kind(&pair, "relay");
    thread::sleep(Duration::from_secs(1));
    let gap = flow.finish();
    println!("relay dead, TURN, relay back: longest gap of the transfer {gap:?}");
    assert!(gap < GAP, "{gap:?}");
}

// DESIGN §7
#[test]
fn a_transfer_goes_from_direct_over_the_relay_to_turn_and_back_to_direct() {
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let turn = Turn::start(&internet);
    let pair = pair(&mut internet, &turn, [Site::Port, Site::Port]);
    let flow = Flow::start(&pair.a, &pair.b);
    assert!(pair.await_direct(SOON).is_some(), "{:?}", kinds(&pair));
    let orders = |node: &Node| node.metrics().sum("turn_orders");
    assert_eq!(orders(&pair.a), 0.0, "no allocation while it is direct");
    let far = IpAddr::from(pair.places[1].nats[0].address());
    pair.places[0].nats[0].block(far);
    await_kind(&pair, "relay");
    await_standby(&pair);
    internet.relays().for_each(Node::kill);
    await_kind(&pair, "turn");
    thread::sleep(Duration::from_secs(1));
    pair.places[0].nats[0].unblock();
    let direct = pair.await_direct(Duration::from_secs(90));
    println!("direct {direct:?} after the way was free");
    assert!(direct.is_some(), "{:?}", kinds(&pair));
    thread::sleep(Duration::from_secs(1));
    let gap = flow.finish();
    println!("direct, relay, TURN, direct: longest gap of the transfer {gap:?}");
    assert!(gap < GAP, "{gap:?}");
}

// DESIGN §7, T35, U5: nothing but connections to port 443 gets out
#[test]
fn turns_on_443_crosses_a_network_that_blocks_everything_else() {
    let Some(internet) = Internet::new(0) else {
        return;
    };
    let turn = Turn::start(&internet);
    // Neither UDP nor any other port or host.
    let nat = internet.nat(1, NatKind::ProxyOnly(turn.host.v4(), 443));
    let inside = Place {
        ns: nat.machine("inside"),
        nats: vec![nat],
        site: Site::NoUdp,
    };
    let outside = internet.lan().host("outside");
    internet.lan().route_out(&outside);
    let b = Node::on(&outside, internet.directory(), "b")
        .no_lan()
        .start();
    let a = internet
        .node(&inside, "a")
        .config(&turn.entries())
        .no_lan()
        .peer(&b, &format!("udp://{}:8737", outside.v4()))
        .start();
    b.trust(&a, "a");
    let begin = Instant::now();
    let answer = a.json(&["ping", b.address(), "-c", "5", "-i", "0.2", "-W", "8"]);
    println!(
        "first contact through TLS on 443 within {:?}: {answer}",
        begin.elapsed()
    );
    assert_eq!(answer["replies"][4]["path"], "turn", "{answer}");
    assert_eq!(
        (kind(&a, &b).0, kind(&b, &a).0),
        ("turn".into(), "turn".into())
    );
    let used = paths(&a, &b)
        .into_iter()
        .find(|path| path["active"] == true);
    assert_eq!(used.expect("one is used")["transport"], "turn");
    let flow = Flow::start(&a, &b);
    thread::sleep(Duration::from_secs(3));
    let gap = flow.finish();
    println!("longest gap of a transfer through TLS {gap:?}");
    assert!(gap < GAP, "{gap:?}");
}

#[test]
fn a_server_that_the_zone_file_names_is_used_over_tcp() {
    let Some(internet) = Internet::new(0) else {
        return;
    };
    let turn = Turn::start(&internet);
    let ip = turn.host.v4();
    let zone = internet.directory().join("zone");
    let server = format!("turn:{ip}:{PORT}?transport=tcp alice secret");
    // Its relay is not there.
    let made = anode(
        &turn.host,
        &[
            "zone",
            "new",
            text(&zone),
            "--zone",
            "2a",
            "--relay",
            "192.0.2.99:8737",
            "--turn",
            &server,
        ],
    );
    made.expect_ok();
    let nat = internet.nat(1, NatKind::ProxyOnly(ip, PORT));
    let inside = nat.machine("inside");
    let outside = internet.lan().host("outside");
    internet.lan().route_out(&outside);
    let b = Node::on(&outside, internet.directory(), "b")
        .no_lan()
        .start();
    let a = Node::on(&inside, internet.directory(), "a")
        .no_lan()
        .args(&["--zone", "2a", "--zone-file", text(&zone.join("zone"))])
        .peer(&b, &format!("udp://{}:8737", outside.v4()))
        .start();
    b.trust(&a, "a");
    let answer = a.json(&["ping", b.address(), "-c", "5", "-i", "0.2", "-W", "8"]);
    assert_eq!(answer["replies"][4]["path"], "turn", "{answer}");
}

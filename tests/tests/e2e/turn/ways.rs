//! TURN as the only way: between a machine with IPv4 alone and one with IPv6 alone, over IPv6, and by servers that come later.

use super::{PORT, serve, text};
use anode_tests::lab::{Family, Host, Lab, Lan, Node, Proc, command};
use anode_tests::matrix::kind;
use anode_tests::programs;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A LAN with a TURN server, which relays to everybody there.
struct Ways {
    _server: Proc,
    turn: Host,
    lan: Lan,
    lab: Lab,
}

impl Ways {
    fn start(family: Family) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, family);
        let turn = lan.host("turn");
        let own: Vec<IpAddr> = match family {
            Family::V4 => vec![turn.v4().into()],
            Family::V6 => vec![turn.v6().into()],
            _ => vec![turn.v4().into(), turn.v6().into()],
        };
        let listen: Vec<String> = own
            .iter()
            .map(|ip| SocketAddr::new(*ip, PORT).to_string())
            .collect();
        let config = lab.directory().join("turn.toml");
        let lines = format!(
            "[turn]\nlisten = {listen:?}\nusers = {{ alice = \"hunter2\" }}\n\
             allow-peers = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n"
        );
        fs::write(&config, lines).expect("written");
        let server = serve(&turn, &config);
        Some(Self {
            _server: server,
            turn,
            lan,
            lab,
        })
    }

    fn node(&self, host: &Host, name: &str) -> anode_tests::lab::NodeBuilder {
        Node::on(host, self.lab.directory(), name).no_lan()
    }
}

/// What a node says of the server.
fn entry(ip: IpAddr, password: &str) -> String {
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!(
        "[[turn-client.server]]\nuri = \"turn:{host}:{PORT}\"\nuser = \"alice\"\npassword = \"{password}\"\n"
    )
}

/// Whether pings come back, the last of them over TURN.
fn over_turn(from: &Node, to: &Node) -> bool {
    let ping = [
        "ping",
        to.address(),
        "-c",
        "3",
        "-i",
        "0.2",
        "-W",
        "6",
        "--json",
    ];
    let answer: Option<Value> = serde_json::from_slice(&from.cli(&ping).out).ok();
    answer.is_some_and(|answer| answer["replies"][2]["path"] == "turn")
}

/// Over which address of the other one's view the path in use goes.
fn relayed(from: &Node, to: &Node) -> IpAddr {
    let paths = from.json(&["paths"]);
    let used = |path: &&Value| path["address"] == to.address() && path["active"] == true;
    let path = paths.as_array().expect("a list").iter().find(used);
    let endpoint = path.expect("a path")["endpoint"]
        .as_str()
        .expect("an endpoint");
    let at: SocketAddr = endpoint
        .trim_start_matches("udp://")
        .parse()
        .expect("an address");
    at.ip()
}

/// Nothing of UDP passes between a machine and an address.
fn cut(host: &Host, other: IpAddr) {
    let family = if other.is_ipv4() { "ip" } else { "ip6" };
    let mut nft = command(programs::need("nft"));
    nft.arg(format!(
        "table inet cut {{ chain out {{ type filter hook output priority 0; {family} daddr {other} meta l4proto udp drop; }}; \
         chain in {{ type filter hook input priority 0; {family} saddr {other} meta l4proto udp drop; }}; }}"
    ));
    host.finish(nft, SOON).expect_ok();
}

#[test]
fn a_node_with_ipv4_alone_reaches_one_with_ipv6_alone_over_turn() {
    let Some(ways) = Ways::start(Family::Both) else {
        return;
    };
    let (old, new) = (ways.lan.host("old"), ways.lan.host("new"));
    old.address_remove(old.v6().into(), 64);
    new.address_remove(new.v4().into(), 24);
    let b = ways.node(&new, "b").start();
    let a = ways
        .node(&old, "a")
        .config(&entry(ways.turn.v4().into(), "hunter2"))
        .peer(&b, &format!("udp://[{}]:8737", new.v6()))
        .start();
    b.trust(&a, "a");
    a.wait("TURN", SOON, || over_turn(&a, &b));
    // b sees the address that the server relays from, and has no IPv4 to see another one.
    assert_eq!(kind(&b, &a).0, "turn");
    assert_eq!(relayed(&b, &a), IpAddr::from(ways.turn.v6()));
}

#[test]
fn nodes_with_ipv6_alone_talk_over_turn_when_nothing_else_passes() {
    let Some(ways) = Ways::start(Family::V6) else {
        return;
    };
    let (left, right) = (ways.lan.host("left"), ways.lan.host("right"));
    cut(&left, right.v6().into());
    let b = ways.node(&right, "b").start();
    let a = ways
        .node(&left, "a")
        .config(&entry(ways.turn.v6().into(), "hunter2"))
        .peer(&b, &format!("udp://[{}]:8737", right.v6()))
        .start();
    b.trust(&a, "a");
    a.wait("TURN", SOON, || over_turn(&a, &b));
    assert_eq!(relayed(&b, &a), IpAddr::from(ways.turn.v6()));
}

#[test]
fn a_hangup_brings_other_servers_and_a_wrong_file_changes_nothing() {
    let Some(ways) = Ways::start(Family::V4) else {
        return;
    };
    let (left, right) = (ways.lan.host("left"), ways.lan.host("right"));
    cut(&left, right.v4().into());
    let b = ways.node(&right, "b").start();
    let mut a = ways
        .node(&left, "a")
        .args(&["--log", "trace"])
        .peer(&b, &format!("udp://{}:8737", right.v4()))
        .start();
    b.trust(&a, "a");
    let lost = |a: &Node| a.cli(&["ping", b.address(), "-c", "2", "-i", "0.1", "-W", "1"]);
    assert_ne!(lost(&a).code(), 0);

    let config = a.state().with_extension("toml");
    let before = fs::read_to_string(&config).expect("the configuration");
    let reread = |a: &mut Node, more: &str| {
        fs::write(&config, format!("{before}{more}")).expect("written");
        a.process().signal(Signal::SIGHUP);
    };
    let at = ways.turn.v4().into();
    reread(&mut a, &entry(at, "hunter3"));
    assert_ne!(lost(&a).code(), 0);
    reread(&mut a, &entry(at, "hunter2"));
    a.wait("TURN", SOON, || over_turn(&a, &b));

    reread(
        &mut a,
        "[[turn-client.server]]\nuri = \"turn:nowhere\"\nuser = \"alice\"\npassword = [\"hunter4\"]\n",
    );
    a.wait("a word about it", SOON, || {
        a.log().contains("stay as they were")
    });
    assert!(over_turn(&a, &b), "{}", text(&config));
    // No password, right or wrong, at the most talkative level.
    assert!(!a.log().contains("hunter"));
}

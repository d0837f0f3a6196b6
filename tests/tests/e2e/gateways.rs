//! Ports that a gateway opens: found and used when it is honest, dropped and counted when it cannot be.

use anode_tests::gateway::{nat_pmp, pcp, pcp_for_another, serve, serve_upnp};
use anode_tests::lab::{Internet, Nat, Node, Site, command};
use anode_tests::matrix::{Pinging, kind};
use anode_tests::programs;
use std::net::Ipv4Addr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// What the gateways open.
const OUTER: u16 = 20_001;

/// It does what it says: what comes to that port goes to the machine.
fn open_port(nat: &Nat) {
    let mut nft = command(programs::need("nft"));
    nft.arg(format!(
        "add rule ip nat inbound iifname eth0 udp dport {OUTER} dnat to 10.{}.0.2:8737",
        nat.number()
    ));
    nat.ns().finish(nft, SOON).expect_ok();
}

#[track_caller]
fn mapping(node: &Node) -> serde_json::Value {
    node.wait("the gateway's port", SOON, || {
        !node.json(&["netcheck"])["portmap"].is_null()
    });
    node.json(&["netcheck"])["portmap"].clone()
}

#[test]
fn a_port_that_the_gateway_opens_makes_two_symmetric_nats_direct() {
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    for protocol in ["pcp", "nat-pmp", "upnp"] {
        let places = [Site::Random, Site::Random].map(|site| internet.place(site));
        let nat = &places[0].nats[0];
        let outside = nat.address();
        match protocol {
            "pcp" => serve(nat, pcp(outside, OUTER)),
            "nat-pmp" => serve(nat, nat_pmp(outside, OUTER)),
            _ => serve_upnp(nat, &outside.to_string(), OUTER, None),
        }
        open_port(nat);
        let start = |place, side: &str| {
            let node = internet.node(place, &format!("{side}-{protocol}"));
            node.no_lan().start()
        };
        let (a, b) = (start(&places[0], "mapped"), start(&places[1], "other"));
        a.trust(&b, "b");
        b.trust(&a, "a");
        for node in [&a, &b] {
            internet.registered(node);
        }
        let found = mapping(&a);
        assert_eq!(found["protocol"], protocol, "{found}");
        assert_eq!(found["external"], format!("udp://{outside}:{OUTER}"));
        let pinging = Pinging::start(&a, b.ipv6().into());
        pinging.first(SOON);
        b.wait("a direct path", SOON, || kind(&b, &a).0 == "direct");
        assert_eq!(kind(&a, &b).0, "direct", "{protocol}");
    }
}

/// Gateways that say nonsense, and how many impossible places they name at least.
fn hostile(nat: &Nat, what: &str) -> f64 {
    let outside = nat.address();
    match what {
        "noise" => serve(nat, |request| vec![0xa5; request.len() + 900]),
        "empty" => serve(nat, |_| Vec::new()),
        "another's nonce" => serve(nat, pcp_for_another(outside, OUTER)),
        "group" => serve(nat, nat_pmp(Ipv4Addr::new(224, 0, 0, 1), OUTER)),
        "loopback" => serve(nat, pcp(Ipv4Addr::LOCALHOST, OUTER)),
        "no address" => serve_upnp(nat, "everywhere", OUTER, None),
        "zero" => serve_upnp(nat, "0.0.0.0", OUTER, None),
        "somebody else" => serve_upnp(
            nat,
            "198.51.100.1",
            OUTER,
            Some(Ipv4Addr::new(192, 0, 2, 9)),
        ),
        other => panic!("{other}"),
    }
    f64::from(u8::from(matches!(what, "group" | "loopback" | "zero")))
}

#[test]
fn a_hostile_gateway_changes_nothing() {
    // S16
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let names = [
        "noise",
        "empty",
        "another's nonce",
        "group",
        "loopback",
        "no address",
        "zero",
        "somebody else",
    ];
    // Side by side: each search takes seconds.
    let nodes: Vec<(&str, f64, Node)> = names
        .into_iter()
        .map(|name| {
            let place = internet.place(Site::Port);
            let refusals = hostile(&place.nats[0], name);
            let state = name.replace([' ', '\''], "-");
            let node = internet.node(&place, &state).no_lan().start();
            (name, refusals, node)
        })
        .collect();
    for (name, refusals, node) in &nodes {
        internet.registered(node);
        node.wait("it was asked", SOON, || {
            node.metrics().sum("portmap_refused") >= *refusals
        });
        println!("{name}: {refusals} impossible places");
    }
    std::thread::sleep(Duration::from_secs(6));
    for (name, refusals, mut node) in nodes {
        let found = node.json(&["netcheck"])["portmap"].clone();
        assert!(found.is_null(), "{name}: {found}");
        assert_eq!(node.metrics().sum("portmap_refused"), refusals, "{name}");
        node.terminate().expect_ok();
    }
}

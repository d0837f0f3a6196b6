//! Direct paths in life: relayed first, then direct, back when that dies, and a running transfer through all of it.

use anode_tests::flow::{Flow, short};
use anode_tests::lab::{Internet, Nat, NatKind, Node, Ns, Proc, Site};
use anode_tests::matrix::{Pair, Pinging, kind};
use serde_json::Value;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// The documents that a running `anode paths --watch --json` has shown of a peer.
fn watched(watch: &Proc, peer: &Node) -> Vec<Value> {
    let text = watch.stdout();
    // A line that is still being written is none yet.
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let documents = lines.map(|line| serde_json::from_str(line).expect("one document a line"));
    documents
        .filter(|document: &Value| document["address"] == peer.address())
        .collect()
}

#[test]
fn ping_and_paths_show_the_relay_first_and_then_the_direct_path() {
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let pair = Pair::start(&mut internet, [Site::Port, Site::Port]);
    let watch = pair.a.in_background(&["paths", "--watch", "--json"]);
    let answer = pair
        .a
        .json(&["ping", pair.b.address(), "-c", "25", "-i", "0.1"]);
    let replies = answer["replies"].as_array().expect("a list");
    assert_eq!(answer["received"], 25, "{answer}");
    assert_eq!(replies[0]["path"], "relay");
    assert_eq!(replies[24]["path"], "direct");
    let shown = pair.a.cli(&["paths"]).expect_ok().stdout();
    assert!(
        shown.contains("direct") && shown.contains("standby"),
        "{shown}"
    );

    // The way is lost and found again: whoever watches sees it happen.
    let last = |kind: &str| {
        let seen = watched(&watch, &pair.b);
        seen.last().is_some_and(|seen| seen["path"]["kind"] == kind)
    };
    pair.a.wait("the watcher sees it", SOON, || last("direct"));
    let pinging = pair.pinging();
    pinging.first(SOON);
    let far = IpAddr::from(pair.places[1].nats[0].address());
    pair.places[0].nats[0].block(far);
    pair.a.wait("the relay is shown, and why", SOON, || {
        let seen = watched(&watch, &pair.b);
        let reason = seen.last().map(|seen| seen["path"]["reason"].clone());
        last("relay") && reason.is_some_and(|reason| reason.is_string())
    });
    let seen = watched(&watch, &pair.b);
    let times = seen.iter().map(|seen| seen["after_s"].as_f64());
    assert!(times.is_sorted(), "{seen:?}");
}

#[test]
fn a_transfer_outlives_the_direct_path_and_comes_back_to_it() {
    // DESIGN §7
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let (pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Port]);
    let pinging = pair.pinging();
    let far = IpAddr::from(pair.places[1].nats[0].address());
    pair.places[0].nats[0].block(far);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(kind(&pair.a, &pair.b).0, "relay");
    println!(
        "direct path dead: longest gap between echoes {:?}",
        pinging.longest_gap()
    );
    pair.places[0].nats[0].unblock();
    let back = pair.await_direct(Duration::from_secs(60));
    println!("direct again {back:?} after the way was free");
    assert!(back.is_some());
    short(flow.finish(), "direct path dead");
}

#[test]
fn nats_that_forget_everything_and_relays_that_die_do_not_end_a_transfer() {
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let (pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Port]);
    pair.places[0].nats[0].forget();
    thread::sleep(Duration::from_secs(3));
    let back = pair.await_direct(SOON);
    println!("direct again {back:?} after 3 s");
    assert!(back.is_some(), "{:?}", kind(&pair.a, &pair.b));
    short(flow.finish(), "NAT started again");

    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_millis(500));
    internet.relays().for_each(Node::kill);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(kind(&pair.a, &pair.b).0, "direct");
    internet.relays().for_each(Node::start);
    thread::sleep(Duration::from_secs(1));
    short(flow.finish(), "all relays dead and back");
}

/// Takes the machine's uplink away and gives it another one, behind another NAT.
fn switch_uplink(internet: &Internet, machine: &Ns, number: u8, kind: NatKind) -> Nat {
    let nat = internet.nat(number, kind);
    let index = machine.index("eth0");
    machine.netlink(|netlink| netlink.set_up(index, false));
    nat.plug(machine, "eth1");
    nat
}

#[test]
fn a_machine_and_then_both_at_once_change_their_network_under_a_transfer() {
    // A2, D24, U10
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let (pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Full]);
    let _new = switch_uplink(&internet, &pair.places[0].ns, 60, NatKind::Port);
    thread::sleep(Duration::from_secs(2));
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    short(flow.finish(), "one side has moved");

    let (pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Port]);
    let places = [61, 62].into_iter().zip(&pair.places);
    let _new: Vec<Nat> = places
        .map(|(number, place)| switch_uplink(&internet, &place.ns, number, NatKind::Port))
        .collect();
    thread::sleep(Duration::from_secs(3));
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    short(flow.finish(), "both sides have moved");
}

#[test]
fn two_machines_behind_one_nat_find_the_short_way() {
    let Some((internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let nat = internet.nat(1, NatKind::Port);
    let machines = ["a", "b"].map(|name| nat.machine(name));
    let [a, b] = ["a", "b"].map(|name| {
        let machine = &machines[usize::from(name == "b")];
        let place = anode_tests::lab::Place {
            ns: machine.clone(),
            nats: Vec::new(),
            site: Site::Port,
        };
        internet.node(&place, name).no_lan().start()
    });
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    let pinging = Pinging::start(&a, b.ipv6().into());
    pinging.first(SOON);
    a.wait("the short way", SOON, || kind(&a, &b).0 == "direct");
    let paths = a.json(&["paths"]);
    let used = paths.as_array().expect("a list").iter();
    let used = used.filter(|path| path["address"] == b.address() && path["active"] == true);
    let endpoints: Vec<&str> = used.filter_map(|path| path["endpoint"].as_str()).collect();
    assert_eq!(endpoints, ["udp://10.1.0.3:8737"]);
}

#[test]
fn netcheck_tells_what_stands_before_a_machine() {
    // the contract of the command line
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let cases = [
        (Site::Open, true, "none", "endpoint-independent"),
        (
            Site::Full,
            true,
            "endpoint-independent",
            "endpoint-independent",
        ),
        (
            Site::Address,
            true,
            "endpoint-independent",
            "address-dependent",
        ),
        (
            Site::Port,
            true,
            "endpoint-independent",
            "address-port-dependent",
        ),
        (
            Site::Random,
            true,
            "address-port-dependent",
            "address-port-dependent",
        ),
        (
            Site::Sequence,
            true,
            "address-port-dependent",
            "address-port-dependent",
        ),
        (Site::NoUdp, false, "unknown", "unknown"),
    ];
    for (site, udp, mapping, filtering) in cases {
        let place = internet.place(site);
        let node = internet.node(&place, &format!("check-{}", site.as_str()));
        let node = node.no_lan().start();
        internet.registered(&node);
        let found = node.json(&["netcheck"]);
        let name = site.as_str();
        assert_eq!(found["udp"], udp, "{name}: {found}");
        assert_eq!(found["mapping"], mapping, "{name}: {found}");
        assert_eq!(found["filtering"], filtering, "{name}: {found}");
        assert!(found["portmap"].is_null(), "{name}: {found}");
        // Those of the kernel do not turn round what is sent to their own outside.
        let turns = match mapping {
            "none" | "unknown" => Value::Null,
            _ => Value::Bool(false),
        };
        assert_eq!(found["hairpin"], turns, "{name}: {found}");
        assert!(
            found["verdict"]
                .as_str()
                .expect("a sentence")
                .ends_with('.')
        );
        let relays = found["relays"].as_array().expect("a list");
        let reached = |transport: &str| {
            let mut of = relays
                .iter()
                .filter(|place| place["transport"] == transport);
            of.any(|place| place["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0))
        };
        assert_eq!(reached("udp"), udp, "{name}: {found}");
        for transport in ["tcp", "tls", "http"] {
            assert!(reached(transport), "{name}: {transport}: {found}");
        }
        let external: Vec<&Value> = found["external"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(external.is_empty(), !udp, "{name}: {found}");
        let text = node.cli(&["netcheck"]).expect_ok().stdout();
        assert!(text.contains(mapping) && text.contains("RTT"), "{text}");
    }
}

//! Peers are found and reached: on a LAN without any configuration, at configured places, and while they move.

use crate::common::Pair;
use anode_tests::lab::{Family, Lab, Lan, Node, heavy};
use anode_tests::{programs, traffic};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The promise is one second from `ready`; a machine that builds something beside may need longer.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

fn found_on_a_lan(family: Family) {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, family);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let a = Node::on(&host_a, lab.directory(), "a").start();
    let b = Node::on(&host_b, lab.directory(), "b").start();
    let ready = Instant::now();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), FOUND_WITHIN);
    println!(
        "{family:?}: ready after {:?}, first reply {:?} after the second node's ready",
        b.ready_after(),
        ready.elapsed()
    );
    programs::first_ping(&host_b, a.ipv6().into(), FOUND_WITHIN);

    let peer = a.peer(&b).expect("the peer is listed");
    let path = &peer["paths"][0];
    assert_eq!(path["kind"], "direct", "{peer}");
    assert_eq!(path["hops"], 0, "{peer}");
    let endpoint = path["endpoint"].as_str().unwrap_or_default();
    let prefix = match family {
        Family::V4 => "udp://192.0.2.2:",
        _ => "udp://[fe80:",
    };
    assert!(endpoint.starts_with(prefix), "{peer}");
}

#[test]
fn nodes_on_an_ipv4_lan_find_each_other_without_configuration() {
    // A55, D23, A35, A52, A53, A54
    found_on_a_lan(Family::V4);
}

#[test]
fn nodes_on_a_link_with_only_link_local_addresses_find_each_other() {
    // A55, D23
    found_on_a_lan(Family::LinkLocal);
}

#[test]
fn a_late_comer_is_known_to_those_who_were_there_before() {
    // D23: the answer to a beacon not heard before
    let Some(pair) = Pair::start(Family::Both) else {
        return;
    };
    // The announcements of the start are over; the next regular one is half a minute away.
    std::thread::sleep(Duration::from_secs(4));
    let host_c = pair.lan.host("c");
    let c = Node::on(&host_c, pair.lab.directory(), "c").start();
    for (node, name) in [(&pair.a, "a"), (&pair.b, "b")] {
        node.trust(&c, "c");
        c.trust(node, name);
        programs::first_ping(&host_c, node.ipv6().into(), FOUND_WITHIN);
    }
    programs::first_ping(&pair.host_a, c.ipv6().into(), FOUND_WITHIN);
}

fn configured_peer(family: Family) {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, family);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let bare = |ip: IpAddr, port: u16| std::net::SocketAddr::new(ip, port).to_string();
    let listen = bare(host_b.ip_address(), 4242);
    let b = Node::on(&host_b, lab.directory(), "b")
        .no_lan()
        .args(&["--listen", &listen])
        .start();
    let listens = b.json(&["status"])["listen"].to_string();
    assert!(
        listens.contains(&format!("\"udp://{listen}\"")),
        "{listens}"
    );
    // Only one of them knows where the other is.
    let a = Node::on(&host_a, lab.directory(), "a")
        .no_lan()
        .peer(&b, &format!("udp://{listen}"))
        .start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), FOUND_WITHIN);
    programs::first_ping(&host_b, a.ipv6().into(), FOUND_WITHIN);
    let peer = a.peer(&b).expect("the peer is listed");
    assert_eq!(
        peer["paths"][0]["endpoint"],
        format!("udp://{listen}"),
        "{peer}"
    );
}

#[test]
fn a_configured_peer_is_reached_over_ipv4_without_lan_announcements() {
    // A32, A52
    configured_peer(Family::V4);
}

#[test]
fn a_configured_peer_is_reached_over_ipv6_without_lan_announcements() {
    // A32, A35
    configured_peer(Family::V6);
}

#[test]
fn without_announcements_nobody_is_found() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let a = Node::on(&host_a, lab.directory(), "a").no_lan().start();
    let b = Node::on(&host_b, lab.directory(), "b").start();
    assert_eq!(b.ping(&a.ipv6().to_string(), 3), 0);
    assert!(a.peer(&b).is_none() && b.peer(&a).is_none());
}

#[test]
fn pings_of_all_sizes_come_back() {
    // A51, N20
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    for size in [
        1, 2, 7, 8, 15, 16, 17, 56, 100, 255, 256, 512, 1_000, 1_024, 1_099, 1_100,
    ] {
        let answer = programs::ping(&pair.host_a, pair.b_ip(), size, 5);
        assert_eq!(answer.received, 5, "{size} bytes");
    }
    // Its own address is answered too, without leaving the machine (N24).
    assert_eq!(
        programs::ping(&pair.host_a, pair.a.ipv6().into(), 56, 2).received,
        2
    );
}

#[test]
fn a_node_without_arguments_is_ready_at_once_and_makes_its_identity() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let node = Node::on(&lan.host("a"), lab.directory(), "fresh").start();
    // The promise is one second; what is asserted by the harness is ten, since this machine may be busy.
    println!("ready after {:?}", node.ready_after());
    assert!(
        node.log().contains(node.address()) || node.log().contains(&node.ipv6().to_string()),
        "{}",
        node.log()
    );
    let mode = std::fs::metadata(node.state().join("identity.key"))
        .expect("an identity")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    // S31
}

#[test]
fn a_restarted_node_keeps_its_address_and_is_found_again() {
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let before = pair.b.ipv6();
    pair.b.terminate();
    pair.b.start();
    let now = pair.b.json(&["address"])["ipv6"]
        .as_str()
        .map(str::to_owned);
    assert_eq!(now, Some(before.to_string()));
    let gap = programs::first_ping(&pair.host_a, pair.b_ip(), Duration::from_secs(15));
    println!("reachable {gap:?} after the restart");
}

#[test]
fn a_transfer_goes_on_while_one_side_changes_its_address() {
    // D24, S17, A2
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let receiver = std::thread::spawn(move || traffic::receive_all(far));
    let sender = std::thread::spawn(move || -> std::io::Result<Vec<traffic::Sum>> {
        // About three seconds, so that the change falls into the middle.
        let sums = (1..=30).map(|seed| {
            std::thread::sleep(Duration::from_millis(100));
            traffic::send_noise(&near, seed, 200_000)
        });
        sums.collect()
    });
    std::thread::sleep(Duration::from_millis(1_200));
    let moved = Ipv4Addr::new(192, 0, 2, 99);
    // In this order: an address that goes takes those of its net that came after it along.
    pair.host_a.address_remove(pair.host_a.v4().into(), 24);
    pair.host_a.address_add(moved.into(), 24);
    let changed = Instant::now();
    programs::first_ping(&pair.host_a, pair.b_ip(), Duration::from_secs(20));
    println!("a ping passes {:?} after the change", changed.elapsed());
    sender
        .join()
        .expect("no panic")
        .expect("the stream takes everything");
    let (count, sum) = receiver
        .join()
        .expect("no panic")
        .expect("the stream ends well");
    assert_eq!(count, 30 * 200_000);
    // Thirty pieces, each of its own seed: the whole is their concatenation.
    let mut whole = Vec::new();
    for seed in 1..=30 {
        traffic::send_noise(&mut whole, seed, 200_000).expect("memory");
    }
    assert_eq!(sum, traffic::receive_all(&whole[..]).expect("memory").1);
    pair.b
        .wait("b knows the new place", Duration::from_secs(10), || {
            let peer = pair.b.peer(&pair.a).unwrap_or_default();
            let paths = peer["paths"].as_array().cloned().unwrap_or_default();
            let active = paths
                .into_iter()
                .find(|path| path["active"] == true)
                .unwrap_or_default();
            active["endpoint"]
                .as_str()
                .is_some_and(|e| e.starts_with("udp://192.0.2.99:"))
        });
}

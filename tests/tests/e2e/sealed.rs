//! Sealed sessions: nothing readable on the cable, and nobody locked out by what was lost.

use crate::common::Pair;
use anode_tests::capture::{self, Capture};
use anode_tests::lab::{Family, Lab, Lan, Node};
use anode_tests::programs;
use anode_tests::traffic::{UdpEcho, udp};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);
/// The promise is one second; a machine that builds something beside may need longer.
const BACK_WITHIN: Duration = Duration::from_secs(3);
const MARKER: &[u8] = b"XYZZY-a-marker-that-nobody-may-read";

/// What two sealed nodes may say in the open: errors, what finds and proves endpoints, and the sessions' own packets.
const OPEN_TYPES: [(u8, &str); 10] = [
    (0x00, "ERROR"),
    (0x03, "EPC_REQ"),
    (0x04, "EPC"),
    (0x05, "EPI"),
    (0x40, "HELLO"),
    (0x41, "WELCOME"),
    (0x42, "SEALED"),
    (0x43, "COOKIE"),
    (0x46, "WHOIS"),
    (0x47, "IAM"),
];

fn contains(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}

#[track_caller]
fn assert_sealed(node: &Node, peer: &Node) {
    node.wait("sealed and post-quantum", LIMIT, || {
        node.peer(peer)
            .is_some_and(|peer| peer["sealed"] == true && peer["pq"] == true)
    });
}

/// `from` sends datagrams to an echo at `to`, with a new socket each, until one comes back.
#[track_caller]
fn until_echoed(from: &Node, to: SocketAddr) -> Duration {
    let start = Instant::now();
    loop {
        let socket = udp(from.ns(), SocketAddr::new(from.ipv6().into(), 0));
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        let _ = socket.send_to(b"there?", to);
        if socket.recv_from(&mut [0; 10]).is_ok() {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < LIMIT,
            "no echo within {LIMIT:?}\n{}\n{:#?}\n{:#?}",
            from.log(),
            from.peers(),
            from.metrics()
                .all()
                .iter()
                .filter(|(_, v)| **v != 0.0)
                .collect::<Vec<_>>(),
        );
    }
}

#[test]
fn nothing_of_two_nodes_with_default_settings_is_readable_on_the_cable() {
    // Q18, Q23, Q26, U2: sealed without being asked to
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    for host in [&host_a, &host_b] {
        // Frames as they are, not several in one.
        host.offload_off();
    }
    // From the first packet on.
    let cable = Capture::start(lan.switch());
    let a = Node::on(&host_a, lab.directory(), "a").start();
    let b = Node::on(&host_b, lab.directory(), "b").start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), LIMIT);

    let files = lab.directory().join("files");
    fs::create_dir(&files).expect("a directory");
    let body = MARKER.repeat(1_000);
    fs::write(files.join("marked"), &body).expect("a file");
    let at = |port| SocketAddr::new(b.ipv6().into(), port);
    let _server = programs::http_server(&host_b, at(8080), &files);
    let got = programs::curl(&host_a, &format!("http://{}/marked", at(8080)), LIMIT).expect_ok();
    assert!(got.out == body);
    let _echo = UdpEcho::start(&host_b, at(7));
    let socket = udp(&host_a, SocketAddr::new(a.ipv6().into(), 0));
    for _ in 0..10 {
        socket.send_to(MARKER, at(7)).expect("sent");
        let mut buffer = [0; 100];
        let (count, _) = socket.recv_from(&mut buffer).expect("echoed");
        assert_eq!(&buffer[..count], MARKER);
    }
    assert_eq!(a.ping(b.address(), 2), 2);

    assert_sealed(&a, &b);
    assert_sealed(&b, &a);
    let status = a.json(&["status"]);
    assert_eq!(status["security"]["plain"], "deny", "{status}");

    let frames = cable.frames();
    assert!(frames.iter().all(|frame| !contains(frame, MARKER)));
    let mut counts = [0; 256];
    for datagram in frames.iter().filter_map(|frame| capture::datagram(frame)) {
        let kind = capture::message_type(&datagram.payload).unwrap_or_else(|| {
            panic!(
                "{} to {}: no Anode packet: {:02x?}",
                datagram.from, datagram.to, datagram.payload
            )
        });
        counts[usize::from(kind)] += 1;
    }
    for (kind, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let name = OPEN_TYPES
            .iter()
            .find(|(open, _)| usize::from(*open) == kind);
        let (_, name) = name.unwrap_or_else(|| panic!("{count} packets of type {kind:#04x}"));
        println!("{count} frames with {name}");
    }
    // The capture saw the traffic: 35,000 bytes are 29 packets at least, and each crosses the switch.
    assert!(counts[0x42] >= 29, "{} SEALED seen", counts[0x42]);
    assert!(counts[0x40] > 0 && counts[0x41] > 0);
}

#[test]
fn the_marker_is_seen_where_nothing_is_sealed() {
    // The counterpart: the same look at the cable finds what is in the open.
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let cable = Capture::start(lan.switch());
    let node = |host, name| {
        Node::on(host, lab.directory(), name)
            .config("[security]\nplain = \"only\"")
            .start()
    };
    let (a, b) = (node(&host_a, "a"), node(&host_b, "b"));
    a.trust(&b, "b");
    b.trust(&a, "a");
    let echo = SocketAddr::new(b.ipv6().into(), 7);
    let _echo = UdpEcho::start(&host_b, echo);
    until_echoed(&a, echo);
    let socket = udp(&host_a, SocketAddr::new(a.ipv6().into(), 0));
    socket.send_to(MARKER, echo).expect("sent");
    socket.recv_from(&mut [0; 100]).expect("echoed");
    assert!(cable.frames().iter().any(|frame| contains(frame, MARKER)));
    for (node, other) in [(&a, &b), (&b, &a)] {
        let peer = node.peer(other).expect("the peer is listed");
        assert_eq!(peer["sealed"], false, "{peer}");
        assert_eq!(peer["pq"], false, "{peer}");
        let status = node.json(&["status"]);
        assert_eq!(status["security"]["plain"], "only", "{status}");
    }
}

/// `lose` is done to the state of a node between its crash and its start.
fn back_after_a_crash(what: &str, lose: fn(&Node)) {
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let (at_a, at_b) = (pair.a_at(7), pair.b_at(7));
    for restarted in ["a", "b"] {
        for asking in ["a", "b"] {
            assert_sealed(&pair.a, &pair.b);
            assert_sealed(&pair.b, &pair.a);
            let node = if restarted == "a" {
                &mut pair.a
            } else {
                &mut pair.b
            };
            node.kill();
            lose(node);
            node.start();
            let back = if asking == "a" {
                let _echo = UdpEcho::start(&pair.host_b, at_b);
                until_echoed(&pair.a, at_b)
            } else {
                let _echo = UdpEcho::start(&pair.host_a, at_a);
                until_echoed(&pair.b, at_a)
            };
            println!("{what}: {restarted} started anew, {asking} sends: back after {back:?}");
            assert!(
                back < BACK_WITHIN,
                "{restarted} started anew, {asking} sends: {back:?}"
            );
        }
    }
    assert_sealed(&pair.a, &pair.b);
    assert_sealed(&pair.b, &pair.a);
}

#[test]
fn traffic_is_back_soon_after_either_side_crashed() {
    // Q24
    back_after_a_crash("crash", |_| {});
}

#[test]
fn a_lost_memory_of_sessions_locks_nobody_out() {
    // Q5
    back_after_a_crash("crash and lost sessions.toml", |node| {
        let file = node.state().join("sessions.toml");
        fs::remove_file(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    });
}

#[test]
fn a_state_directory_with_nothing_but_the_identity_locks_nobody_out() {
    // Q5
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    assert_sealed(&pair.b, &pair.a);
    pair.b.kill();
    for entry in fs::read_dir(pair.b.state()).expect("its state").flatten() {
        if entry.file_name() != "identity.key" {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    pair.b.start();
    // The trust is lost as well: what b opens itself still works.
    let to = pair.a_at(7);
    let _echo = UdpEcho::start(&pair.host_a, to);
    let back = until_echoed(&pair.b, to);
    println!("lost state: back after {back:?}");
    assert!(back < BACK_WITHIN, "{back:?}");
    assert_sealed(&pair.a, &pair.b);
}

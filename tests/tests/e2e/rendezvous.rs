//! Nodes that meet at trackers, and what a hostile tracker can make of them.

use anode_tests::capture::{Capture, Datagram, message_type};
use anode_tests::lab::{Family, Filtering, Lab, Lan, Nat, Node, Ns, anode_binary, command};
use anode_tests::programs;
use anode_tests::tracker::{AnodeTracker, Scripted, Seen, await_round, compact_answer};
use anode_wire::message::kind;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);
/// Both sides announce once a minute while they search, and send together at full minutes: two minutes, and some.
const MEETING: Duration = Duration::from_secs(150);

fn rendezvous(trackers: &[String], secret: &str) -> String {
    format!("[rendezvous]\ntrackers = {trackers:?}\nsecret = {secret:?}\n")
}

// B5: nothing in common but a tracker and a secret; every kind of filtering, over UDP and HTTP.
#[test]
fn two_behind_nats_meet_by_a_tracker_and_a_secret_alone() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let server = lan.host("tracker");
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&server, lab.directory(), text);
    let kinds = [
        (Filtering::EndpointIndependent, "udp", ""),
        (Filtering::AddressDependent, "http", "/announce"),
        (Filtering::AddressAndPortDependent, "udp", ""),
    ];
    let mut pairs = Vec::new();
    for (place, (filtering, scheme, path)) in kinds.into_iter().enumerate() {
        let number = place as u8 * 2 + 1;
        let nats = [number, number + 1].map(|number| Nat::new(&lan, number));
        nats.iter()
            .for_each(|nat| nat.keep_ports_and_filter(filtering));
        let config = rendezvous(
            &[format!("{scheme}://{}:6969{path}", server.v4())],
            &format!("{filtering:?}"),
        );
        let node = |name: &str, machine: &Ns| {
            Node::on(machine, lab.directory(), &format!("{name}{place}"))
                .no_lan()
                .config(&config)
                .start()
        };
        let machines = [nats[0].machine("a"), nats[1].machine("b")];
        let (a, b) = (node("a", &machines[0]), node("b", &machines[1]));
        a.trust(&b, "b");
        b.trust(&a, "a");
        pairs.push((filtering, a, b, nats));
    }
    let start = Instant::now();
    for (filtering, a, b, _) in &pairs {
        let met = |from: &Node, to: &Node| {
            let peer = from.peer(to);
            peer.is_some_and(|peer| {
                peer["paths"]
                    .as_array()
                    .is_some_and(|paths| !paths.is_empty())
            })
        };
        a.wait(&format!("{filtering:?}: a path"), MEETING, || {
            met(a, b) && met(b, a)
        });
        println!(
            "{filtering:?}: a path on both sides after {:.0} s",
            start.elapsed().as_secs_f64()
        );
        programs::first_ping(a.ns(), b.ipv6().into(), LIMIT);
        let found = a.json(&["lookup", "b", "--via", "tracker"]);
        let sources = found["sources"].as_array().expect("a list");
        assert!(sources.iter().any(|source| source == "tracker"), "{found}");
        let peer = a.peer(b).expect("known");
        assert_eq!(peer["paths"][0]["kind"], "direct", "{peer}");
        assert_eq!(peer["sealed"], true, "{peer}");
    }
}

/// One machine on a LAN with a scripted tracker, and a node that is told of it.
fn with_scripted(config_more: &str, answer: &[u8]) -> Option<(Node, Scripted, Lan, Lab)> {
    let lab = Lab::open()?;
    let lan = Lan::new(&lab, Family::V4);
    let (server, host) = (lan.host("tracker"), lan.host("a"));
    host.address_add(IpAddr::from([192, 0, 2, 77]), 24);
    let at: SocketAddr = (server.v4(), 6969).into();
    let tracker = Scripted::start(&server, at, answer);
    let config = rendezvous(&[format!("http://{at}/x/announce?pass=1")], "s");
    let node = Node::on(&host, lab.directory(), "a")
        .no_lan()
        .config(&format!("{config}{config_more}"))
        .start();
    Some((node, tracker, lan, lab))
}

fn wait_for(tracker: &Scripted, what: &str, condition: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = tracker.seen();
        if condition(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn events(seen: &[Seen], event: &str) -> BTreeSet<IpAddr> {
    let of = seen
        .iter()
        .filter(|seen| seen.parameter("event") == Some(event));
    of.map(|seen| seen.from.ip()).collect()
}

// B1, B3, B4, B6, B7, B8, B9
#[test]
fn every_address_is_announced_from_itself_and_stopped_at_the_end() {
    let answer = b"d8:intervali1800e5:peers0:e";
    let Some((mut node, tracker, _lan, _lab)) = with_scripted("", answer) else {
        return;
    };
    let own: BTreeSet<IpAddr> = ["192.0.2.2", "192.0.2.77"]
        .map(|ip| ip.parse().unwrap())
        .into();
    wait_for(&tracker, "both addresses", |seen| {
        events(seen, "started") == own
    });
    // Another address appears: announced at once, by netlink's word.
    let late: IpAddr = "192.0.2.99".parse().unwrap();
    let prefix = anode_platform::Prefix::new(late, 24).unwrap();
    let index = node.ns().index("eth0");
    node.ns()
        .netlink(|netlink| netlink.address_add(index, prefix));
    wait_for(&tracker, "the new address", |seen| {
        events(seen, "started").contains(&late)
    });
    node.ns()
        .netlink(|netlink| netlink.address_delete(index, prefix));
    let start = Instant::now();
    let done = node.terminate();
    assert_eq!(done.code(), 0, "{done}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let seen = tracker.seen();
    assert_eq!(
        events(&seen, "stopped"),
        own,
        "the one that is gone cannot speak"
    );
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for seen in &seen {
        assert!(
            seen.target.starts_with("/x/announce?pass=1&info_hash="),
            "{}",
            seen.target
        );
        for forbidden in ["ip", "ipv4", "ipv6"] {
            assert_eq!(seen.parameter(forbidden), None, "{}", seen.target);
        }
        for name in ["info_hash", "peer_id", "key", "port"] {
            values
                .entry(name)
                .or_default()
                .insert(seen.parameter(name).expect(name));
        }
        assert_ne!(seen.parameter("left"), Some("0"));
    }
    for (name, values) in &values {
        assert_eq!(values.len(), 1, "one {name} for all: {values:?}");
    }
    assert_eq!(values["key"].first().map(|key| key.len()), Some(8));
    assert_eq!(values["port"].first(), Some(&"8737"));
    assert_eq!(
        seen.len(),
        2 + 1 + 2,
        "nothing is announced twice: {seen:?}"
    );
}

#[test]
fn what_deny_names_is_not_announced_and_nothing_is_without_trackers() {
    let answer = b"d8:intervali1800e5:peers0:e";
    let more = "deny = [\"192.0.2.77/32\"]\n";
    let Some((node, tracker, lan, lab)) = with_scripted(more, answer) else {
        return;
    };
    wait_for(&tracker, "one address", |seen| !seen.is_empty());
    std::thread::sleep(Duration::from_millis(500));
    let seen = tracker.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].from.ip().to_string(), "192.0.2.2");
    let hash = hash_of(&node);
    let announced = seen[0].parameter("info_hash").unwrap();
    assert_eq!(unescape(announced), hash.trim());
    // Off unless it is switched on.
    let other = Node::on(&lan.host("b"), lab.directory(), "b")
        .no_lan()
        .start();
    let done = other.cli(&["lookup", node.address(), "--via", "tracker"]);
    assert_eq!(done.code(), 1);
    assert!(
        done.stderr.contains("name some in [rendezvous] trackers"),
        "{done}"
    );
}

/// What `anode rendezvous hash` says with the node's own configuration.
fn hash_of(node: &Node) -> String {
    let file = node.state().with_extension("toml").display().to_string();
    let arguments = ["rendezvous", "hash", "--config", &file];
    node.cli(&arguments).expect_ok().stdout()
}

fn unescape(text: &str) -> String {
    let (mut hex, mut rest) = (String::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            hex.extend(
                rest.by_ref()
                    .take(2)
                    .map(|digit| char::from(digit).to_ascii_lowercase()),
            );
        } else {
            hex += &format!("{byte:02x}");
        }
    }
    hex
}

/// 10,000 entries of all kinds that a tracker should not name, and 9,000 that it may.
fn hostile() -> Vec<SocketAddr> {
    let global = (0..9_000u32).map(|n| {
        let ip = Ipv4Addr::from(0xC633_6400 + (n << 4));
        SocketAddr::from((ip, 1_024 + (n % 60_000) as u16))
    });
    let private = (0..500u32).map(|n| SocketAddr::from((Ipv4Addr::from(0x0A00_0000 + n), 9_000)));
    let low = (0..250u32).map(|n| SocketAddr::from((Ipv4Addr::from(0xCB00_7100 + n), 53)));
    let nowhere = (0..250u32).map(|n| SocketAddr::from((Ipv4Addr::from(0xE000_0000 + n), 9_000)));
    global.chain(private).chain(low).chain(nowhere).collect()
}

// S36: one hostile answer makes a node send a few small packets, and nothing but these.
#[test]
fn ten_thousand_hostile_entries_cost_their_victims_next_to_nothing() {
    let answer = compact_answer(1_800, &hostile());
    let Some((node, tracker, lan, lab)) = with_scripted("", &answer) else {
        return;
    };
    // Everything that is sent anywhere crosses this host, as a router that everybody is behind.
    let router = lan.host("router");
    let everywhere = anode_platform::Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).unwrap();
    let route = anode_platform::netlink::Route::via(everywhere, router.v4());
    node.ns().netlink(|netlink| netlink.route_add(&route));
    let stranger = Node::on(&lan.host("s"), lab.directory(), "s")
        .no_lan()
        .prepare();
    let capture = Capture::start(router.ns());
    node.cli(&["trust", stranger.address()]).expect_ok();
    wait_for(&tracker, "both addresses", |seen| seen.len() >= 2);
    tracker.say(b"d8:intervali1800e5:peers0:e");
    // The first half of a round comes at once, the second at the next full minute.
    await_round();
    let frames = capture.frames();
    let own: IpAddr = "192.0.2.2".parse().unwrap();
    let is_ours = |from: Ipv4Addr| own == IpAddr::V4(from) || from == Ipv4Addr::new(192, 0, 2, 77);
    let sent: Vec<Datagram> = frames
        .iter()
        .filter_map(|frame| anode_tests::capture::datagram(frame))
        .filter(|datagram| is_ours(*datagram.from.ip()))
        .collect();
    let others = frames.iter().filter(|frame| {
        let ip = frame.get(14..).unwrap_or_default();
        frame[12..14] == [8, 0] && ip.get(9) != Some(&17) && ip.get(12..16) == Some(&[192, 0, 2, 2])
    });
    assert_eq!(others.count(), 0, "UDP and nothing else");
    let hosts: BTreeSet<_> = sent.iter().map(|datagram| *datagram.to.ip()).collect();
    let bytes: usize = sent.iter().map(|datagram| datagram.payload.len()).sum();
    println!(
        "{} packets, {bytes} bytes, to {} hosts",
        sent.len(),
        hosts.len()
    );
    // Two announces (one per address) were answered; 20 candidates each, at most 4 packets to one in a round.
    assert!(
        !sent.is_empty() && hosts.len() <= 40,
        "{} hosts",
        hosts.len()
    );
    for host in &hosts {
        let to_it = sent
            .iter()
            .filter(|datagram| datagram.to.ip() == host)
            .count();
        assert!(to_it <= 8, "{to_it} packets to {host} in two minutes");
    }
    for datagram in &sent {
        assert!(datagram.payload.len() <= 128, "{datagram:?}");
        assert!(datagram.to.port() >= 1_024);
        assert!(!datagram.to.ip().is_private() && !datagram.to.ip().is_multicast());
        let message = message_type(&datagram.payload);
        assert!(
            matches!(message, Some(kind::EPI | kind::EPC_REQ)),
            "{message:?}"
        );
    }
    let metrics = node.metrics();
    assert!(metrics.sum("anode_overlay_key_agreements_total") <= 2.0);
    assert!(metrics.sum("anode_peers") <= 2.0, "nobody was made up");
    assert!(
        metrics.sum("anode_rendezvous_entries_") > 3_900.0,
        "what was not taken is counted"
    );
}

// S36: whatever a tracker answers, it is one line in the log and another try later.
#[test]
fn answers_that_are_none_end_in_words_and_a_pause() {
    let deep = [b"d5:peers".as_slice(), &b"l".repeat(5_000)].concat();
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 100 << 20);
    let long = [long.as_bytes(), &vec![b'1'; 2 << 20]].concat();
    let cases: [(&[u8], &str); 9] = [
        (b"d14:failure reason6:no way8:retry in5:nevere", "no way"),
        (b"no bencode", "bencod"),
        (&deep, "nests more than 16 levels"),
        (b"d8:intervali60e5:peers-3:abce", "bencod"),
        (b"d8:intervali60e5:peers7:abcdefge", "peers of 7 bytes"),
        (
            b"d8:intervali60e6:peers619:abcdefghijklmnopqrse",
            "peers6 of 19 bytes",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://192.0.2.3:8080/\r\ncontent-length: 0\r\n\r\n",
            "redirect",
        ),
        (
            b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            "status 500",
        ),
        (&long, "more than"),
    ];
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (server, host) = (lan.host("tracker"), lan.host("a"));
    let mut trackers = Vec::new();
    let mut urls = Vec::new();
    for (place, (answer, _)) in cases.iter().enumerate() {
        let at: SocketAddr = (server.v4(), 7_000 + place as u16).into();
        trackers.push(Scripted::start(&server, at, answer));
        urls.push(format!("http://{at}/announce"));
    }
    let node = Node::on(&host, lab.directory(), "a")
        .no_lan()
        .config(&rendezvous(&urls, "s"))
        .start();
    for (place, (_, words)) in cases.iter().enumerate() {
        let port = format!(":{}/announce: ", 7_000 + place);
        node.wait(&format!("{words} at {port}"), LIMIT, || {
            let log = node.log();
            log.lines()
                .any(|line| line.contains(&port) && line.contains(words))
        });
    }
    std::thread::sleep(Duration::from_secs(1));
    for tracker in &trackers {
        assert_eq!(
            tracker.seen().len(),
            1,
            "no hurry, and no redirect followed"
        );
    }
    assert_eq!(node.cli(&["status"]).code(), 0, "the node lives");
}

// Those of the signed zone file, and only where the configuration says so.
#[test]
fn trackers_of_the_signed_zone_file_are_used_if_they_may_be() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let server = lan.host("tracker");
    let at: SocketAddr = (server.v4(), 6969).into();
    let tracker = Scripted::start(&server, at, b"d8:intervali1800e5:peers0:e");
    let zone = lab.directory().join("zone");
    let anode = |arguments: &[&str]| {
        let mut anode = command(anode_binary());
        anode.args(arguments);
        server.finish(anode, LIMIT)
    };
    let place = zone.to_str().expect("a path");
    let relay = format!("{}:8737", server.v4());
    anode(&["zone", "new", place, "--zone", "2a", "--relay", &relay]).expect_ok();
    let file = zone.join("zone");
    let text = fs::read_to_string(&file).expect("the zone file");
    fs::write(&file, format!("{text}tracker.0=http://{at}/announce\n")).expect("written");
    anode(&["zone", "sign", place]).expect_ok();
    let node = |name: &str, may: bool| {
        Node::on(&lan.host(name), lab.directory(), name)
            .config(&format!("zone-file = \"{}\"", file.display()))
            .no_lan()
            .config(&format!("[rendezvous]\nzone-trackers = {may}\n"))
            .start()
    };
    let quiet = node("quiet", false);
    let loud = node("loud", true);
    let seen = wait_for(&tracker, "the zone's tracker", |seen| !seen.is_empty());
    assert_eq!(
        seen[0].from.ip().to_string(),
        "192.0.2.3",
        "not the one that may not"
    );
    let hash = hash_of(&loud);
    assert_eq!(
        unescape(seen[0].parameter("info_hash").unwrap()),
        hash.trim()
    );
    // The tracker leaves the file: the node leaves the tracker.
    fs::write(&file, text).expect("written");
    anode(&["zone", "sign", place]).expect_ok();
    wait_for(&tracker, "stopped", |seen| {
        !events(seen, "stopped").is_empty()
    });
    assert_eq!(tracker.seen().len(), 2);
    assert_eq!(quiet.metrics().sum("anode_rendezvous_trackers"), 0.0);
}

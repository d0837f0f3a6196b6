//! Machines behind symmetric NATs, and relays outside: reachable from the first packet on, whatever relay dies.

use anode_tests::flow::{Flow, short};
use anode_tests::lab::{Family, Host, Lab, Lan, Nat, Node, Ns, heavy};
use anode_tests::light::Light;
use anode_tests::{programs, traffic};
use anode_wire::message::kind;
use anode_wire::{Address, Message, Packet};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

/// Relays on the LAN, and two NATs with nothing behind them. Dropped in this order.
struct Zone2 {
    relays: Vec<Node>,
    hosts: Vec<Host>,
    nats: [Nat; 2],
    _lan: Lan,
    lab: Lab,
}

impl Zone2 {
    /// `None` if the lab is switched off.
    fn start(count: usize) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let nats = [Nat::new(&lan, 1), Nat::new(&lan, 2)];
        let hosts: Vec<Host> = (0..count).map(|i| lan.host(&format!("relay{i}"))).collect();
        let mut zone = Self {
            relays: Vec::new(),
            hosts,
            nats,
            _lan: lan,
            lab,
        };
        for index in 0..count {
            zone.relays.push(zone.relay(index).start());
        }
        Some(zone)
    }

    fn relay(&self, index: usize) -> anode_tests::lab::NodeBuilder {
        let host = &self.hosts[index];
        let listen = format!("{}:8737", host.v4());
        Node::on(host, self.lab.directory(), &format!("relay{index}"))
            .relay()
            .args(&["--listen", &listen])
    }

    /// What nodes of the zone have in their configuration.
    fn entries(&self) -> String {
        let entry = |(relay, host): (&Node, &Host)| {
            format!(
                "[[relays]]\naddress = \"{}\"\nendpoints = [\"udp://{}:8737\"]\n",
                relay.address(),
                host.v4()
            )
        };
        self.relays.iter().zip(&self.hosts).map(entry).collect()
    }

    fn node(&self, ns: &Ns, name: &str) -> anode_tests::lab::NodeBuilder {
        Node::on(ns, self.lab.directory(), name)
            .config(&self.entries())
            .no_lan()
    }

    /// One machine behind each NAT, a node on each; they trust each other and are registered.
    fn pair(&self) -> (Node, Node) {
        let machines = ["a", "b"].map(|name| {
            let nat = &self.nats[usize::from(name == "b")];
            nat.machine(name)
        });
        let a = self.node(&machines[0], "a").start();
        let b = self.node(&machines[1], "b").start();
        a.trust(&b, "b");
        b.trust(&a, "a");
        for node in [&a, &b] {
            registered(node);
        }
        (a, b)
    }

    /// The relay over which `from` reaches `to`.
    fn used(&self, from: &Node, to: &Node) -> usize {
        let path = active(from, to);
        let relay = path["relay"].as_str().expect("over a relay").to_owned();
        let place = |node: &Node| node.address() == relay;
        self.relays.iter().position(place).expect("one of ours")
    }
}

/// Waits until a node is registered with all relays that stand for it.
#[track_caller]
fn registered(node: &Node) {
    node.wait("registration", LIMIT, || {
        let status = node.json(&["status"]);
        let relays = status["relays"].as_array().expect("a list");
        !relays.is_empty() && relays.iter().all(|relay| relay["registered"] == true)
    });
}

#[track_caller]
fn active(from: &Node, to: &Node) -> Value {
    let paths = from.json(&["paths"]);
    let paths = paths.as_array().expect("a list");
    let mut of_peer = paths.iter().filter(|path| path["address"] == to.address());
    let active = of_peer.find(|path| path["active"] == true);
    active
        .unwrap_or_else(|| panic!("no path: {paths:?}"))
        .clone()
}

/// The longest time between two answers while the kernel pings every 50 ms and `meanwhile` happens; and what was lost.
fn longest_silence(
    from: &Node,
    to: IpAddr,
    count: u32,
    meanwhile: impl FnOnce(),
) -> (Duration, u32) {
    let interval = Duration::from_millis(50);
    let ns = from.ns().clone();
    let pinging = thread::spawn(move || programs::ping_times(&ns, to, count, interval));
    thread::sleep(Duration::from_secs(1));
    meanwhile();
    let times = pinging.join().expect("no panic");
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.fold(0.0, f64::max);
    (Duration::from_secs_f64(longest), count - times.len() as u32)
}

#[test]
fn two_behind_symmetric_nats_reach_each_other_from_the_first_packet() {
    // A16, A20, A22, A26, A39, D40, U7: two machines of ours are the relays
    let Some(zone) = Zone2::start(1) else {
        return;
    };
    let (a, b) = zone.pair();
    let _alone = heavy();
    let first = programs::ping(a.ns(), b.ipv6().into(), 56, 1);
    assert_eq!(first.received, 1, "the very first packet is answered");
    println!("first reply over the relay after {:.1} ms", first.rtt_ms[0]);
    let more = programs::ping(a.ns(), b.ipv6().into(), 56, 20);
    assert_eq!(more.received, 20);

    let path = active(&a, &b);
    assert_eq!(path["kind"], "relay");
    assert_eq!(path["transport"], "udp");
    assert_eq!(path["hops"], 1);
    assert_eq!(path["relay"], zone.relays[0].address());
    assert_eq!(
        path["endpoint"],
        format!("udp://{}:8737", zone.hosts[0].v4())
    );
    assert!(path["mtu"].as_u64() >= Some(1232) && path["rtt_ms"].as_f64() > Some(0.0));
    let replies = a.json(&["ping", b.address(), "-c", "2", "-i", "0.1"]);
    let named = |reply: &Value| reply["path"] == "relay" && reply["hops"] == 1;
    assert!(
        replies["replies"]
            .as_array()
            .expect("a list")
            .iter()
            .all(named)
    );

    let (near, far) = traffic::pair(a.ns(), b.ns(), SocketAddr::new(b.ipv6().into(), 9000));
    let start = Instant::now();
    const SIZE: u64 = 20_000_000;
    let receiver = thread::spawn(move || traffic::receive_all(far));
    let sent = traffic::send_noise(&near, 7, SIZE).expect("the stream takes everything");
    drop(near);
    let got = receiver
        .join()
        .expect("no panic")
        .expect("the stream ends well");
    assert_eq!(got, (SIZE, sent));
    let rate = SIZE as f64 * 8e-6 / start.elapsed().as_secs_f64();
    println!("{SIZE} bytes over the relay at {rate:.0} Mbit/s (its limit is 100)");

    let status = zone.relays[0].json(&["relay", "status"]);
    assert_eq!(status["registered"], 2);
    assert!(status["relayed_bytes"].as_u64() > Some(SIZE));
    assert_eq!(status["dropped"]["unregistered"], 0);
}

#[test]
fn a_relay_that_is_started_again_costs_no_more_than_its_absence() {
    // D40
    let Some(mut zone) = Zone2::start(1) else {
        return;
    };
    let (a, b) = zone.pair();
    let _alone = heavy();
    programs::ping(a.ns(), b.ipv6().into(), 56, 3);
    let status = zone.relays[0].json(&["relay", "status"]);
    assert_eq!(status["registered"], 2);
    // In order: it has written down who is registered.
    let relay = &mut zone.relays[0];
    let (silence, _) = longest_silence(&a, b.ipv6().into(), 80, || {
        relay.terminate().expect_ok();
        relay.start();
    });
    println!("relay restarted: longest silence {silence:?}");
    assert!(silence < Duration::from_millis(1500), "{silence:?}");
    // It loses its memory, too.
    let state = zone.relays[0].state().join("registered.toml");
    let relay = &mut zone.relays[0];
    let (silence, _) = longest_silence(&a, b.ipv6().into(), 120, || {
        relay.kill();
        std::fs::remove_file(&state).expect("it was written");
        relay.start();
    });
    println!("relay restarted without its memory: longest silence {silence:?}");
    assert!(silence < Duration::from_secs(4), "{silence:?}");
    registered(&a);
}

#[test]
fn a_dead_relay_is_left_within_a_second_and_a_transfer_goes_on() {
    // D40, A22: the designated one and the next
    let Some(mut zone) = Zone2::start(2) else {
        return;
    };
    let (a, b) = zone.pair();
    let _alone = heavy();
    programs::ping(a.ns(), b.ipv6().into(), 56, 5);
    let dead = zone.used(&a, &b);
    let relay = &mut zone.relays[dead];
    let (silence, lost) = longest_silence(&a, b.ipv6().into(), 100, || relay.kill());
    println!("relay killed: longest silence {silence:?}, {lost} of 100 lost");
    assert!(silence < Duration::from_secs(1), "{silence:?}");
    assert_ne!(zone.used(&a, &b), dead);

    zone.relays[dead].start();
    registered(&a);
    registered(&b);
    let flow = Flow::start(&a, &b);
    thread::sleep(Duration::from_millis(700));
    let dead = zone.used(&a, &b);
    zone.relays[dead].kill();
    thread::sleep(Duration::from_secs(2));
    assert_ne!(zone.used(&a, &b), dead);
    short(flow.finish(), "the relay of a transfer dies");

    zone.relays[dead].start();
    registered(&a);
    registered(&b);
    let flow = Flow::start(&a, &b);
    thread::sleep(Duration::from_millis(700));
    let used = zone.used(&a, &b);
    zone.relays[used].terminate().expect_ok();
    zone.relays[used].start();
    thread::sleep(Duration::from_secs(2));
    short(flow.finish(), "the relay of a transfer starts again");
}

#[test]
fn two_machines_of_one_address_are_reached_by_their_digit() {
    // A44, A45, A46
    let Some(zone) = Zone2::start(1) else {
        return;
    };
    let (a, b) = zone.pair();
    drop(b);
    let machines = [zone.nats[0].machine("m3"), zone.nats[1].machine("m5")];
    let first = zone
        .node(&machines[0], "m3")
        .args(&["--peer-id", "3"])
        .prepare();
    std::fs::create_dir_all(zone.lab.directory().join("m5")).expect("a directory");
    let key = |name: &str| zone.lab.directory().join(name).join("identity.key");
    std::fs::copy(key("m3"), key("m5")).expect("the same key");
    restrict(&zone.lab.directory().join("m5"), 0o700);
    restrict(&key("m5"), 0o600);
    let mut first = first;
    first.start();
    let second = zone
        .node(&machines[1], "m5")
        .args(&["--peer-id", "5"])
        .start();
    assert_eq!(first.address(), second.address());
    for node in [&first, &second] {
        registered(node);
    }
    let base = u128::from(first.ipv6());
    let digit = |digit: u128| IpAddr::from(std::net::Ipv6Addr::from(base | digit));
    for (ns, number) in [(&machines[0], 3), (&machines[1], 5)] {
        // Only the machine with this digit has an address that answers under it.
        let before = received(ns);
        let pinged = programs::ping(a.ns(), digit(number), 56, 5);
        assert_eq!(pinged.received, 5, "digit {number}");
        assert!(received(ns) >= before, "digit {number}");
    }
    let pinged = programs::ping(a.ns(), digit(0), 56, 5);
    assert_eq!(pinged.received, 5, "digit 0 reaches one of them");
    let status = zone.relays[0].json(&["relay", "status"]);
    let peers = status["peers"].as_array().expect("a list");
    let mut digits: Vec<u64> = peers
        .iter()
        .filter(|peer| peer["address"] == first.address())
        .map(|peer| peer["peer_id"].as_u64().expect("a number"))
        .collect();
    digits.sort_unstable();
    assert_eq!(digits, [3, 5]);
}

fn restrict(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Packets that a machine's underlay has received.
fn received(ns: &Ns) -> u64 {
    let text =
        ns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("it is there"));
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("eth0"));
    let packets = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    packets.unwrap_or_default()
}

#[test]
fn two_hundred_peers_are_registered_and_reach_each_other() {
    // A26, D40; peers that speak the draft, which this relay hears
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let (host, clients) = (lan.host("relay"), lan.host("clients"));
    let listen = format!("{}:8737", host.v4());
    let relay = Node::on(&host, lab.directory(), "relay")
        .relay()
        .args(&["--listen", &listen])
        .config("[security]\nplain = \"allow\"")
        .start();
    let _alone = heavy();
    let relay_address: Address = relay.address().parse().expect("an address");
    let at: SocketAddr = listen.parse().expect("an endpoint");
    let start = Instant::now();
    let own: SocketAddr = (clients.v4(), 0).into();
    let peers: Vec<Light> = (0..200)
        .map(|number| Light::new(clients.ns(), number, own, at))
        .collect();
    for peer in &peers {
        peer.register(&relay_address);
    }
    assert_eq!(relay.json(&["relay", "status"])["registered"], 200);
    println!(
        "200 peers registered after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let mut arrived = 0;
    for (index, peer) in peers.iter().enumerate() {
        let other = &peers[(index + 77) % peers.len()];
        let key = peer.identity().agree(other.address());
        peer.send(other.address(), &key, &Message::Ping(b"over the relay"));
        let bytes = other.await_kind(kind::PING, &relay_address, Duration::from_secs(2));
        let bytes = bytes.expect("it arrives");
        let packet = Packet::new_checked(&bytes[..]).expect("a packet");
        assert_eq!(packet.hop_count(), 1);
        assert!(
            other.identity().agree(peer.address()).verify(&bytes),
            "unchanged but for that"
        );
        arrived += 1;
    }
    assert_eq!(arrived, 200);
    let status = relay.json(&["relay", "status"]);
    assert_eq!(status["relayed_packets"], 200);
}

#[test]
fn a_relay_needs_neither_root_nor_an_interface_and_ends_in_order() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("relay");
    // As `anode zone new` writes it: the state beside the file.
    let directory = std::env::temp_dir().join(format!("anode-relay-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("relay-0")).expect("a directory");
    restrict(&directory.join("relay-0"), 0o700);
    let file = directory.join("relay-0.toml");
    std::fs::write(
        &file,
        format!(
            "state = \"relay-0\"\nlisten = [\"{}:8737\"]\n[relay]\n",
            host.v4()
        ),
    )
    .expect("it is written");
    for path in [&directory, &directory.join("relay-0"), &file] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("we are root");
    }
    let words = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut command = anode_tests::lab::command("setpriv");
    command
        .args(words)
        .arg("--inh-caps=-all")
        .arg(reachable_binary(&directory));
    command.arg("relay").arg("-c").arg(&file);
    let before = host.interfaces();
    let mut process = host.start(command);
    let ready = process.wait_stderr_line("ready", LIMIT);
    assert!(ready.is_ok(), "{ready:?}");
    assert_eq!(host.interfaces(), before, "no interface");
    assert!(directory.join("relay-0/identity.key").exists());
    let mut status = anode_tests::lab::command(anode_tests::lab::anode_binary());
    status.args(["relay", "status", "--json", "-c"]).arg(&file);
    let status = host.finish(status, LIMIT).expect_ok();
    let status: Value = serde_json::from_slice(&status.out).expect("a document");
    assert_eq!(
        (&status["registered"], &status["peers_max"]),
        (&0.into(), &10_000.into())
    );
    process.signal(nix::sys::signal::Signal::SIGTERM);
    process.finish(LIMIT).expect_ok();
    assert!(!directory.join("relay-0/control.sock").exists());
    std::fs::remove_dir_all(&directory).expect("it is ours");
}

/// The program where everybody may run it.
fn reachable_binary(directory: &std::path::Path) -> std::path::PathBuf {
    let copy = directory.join("anode");
    std::fs::copy(anode_tests::lab::anode_binary(), &copy).expect("a copy");
    restrict(&copy, 0o755);
    restrict(directory, 0o755);
    copy
}

#[test]
fn a_node_that_does_not_relay_says_how_to_make_it() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    let node = Node::on(&host, lab.directory(), "a").start();
    let done = node.cli(&["relay", "status"]);
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stderr.contains("[relay]"), "{done}");
}

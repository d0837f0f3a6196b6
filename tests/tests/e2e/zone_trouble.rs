//! A zone in trouble: what is dead, forged, changed or simple-minded, and how soon traffic flows all the same.

use anode_tests::lab::{Family, Host, Lab, Lan, Nat, Node, Ns, Proc, anode_binary, command, heavy};
use anode_tests::{programs, traffic};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// A zone of some relays, a web server for its file, and two NATs with nothing behind them. Dropped in this order.
struct Scene {
    relays: Vec<Option<Proc>>,
    web: Option<Proc>,
    hosts: Vec<Host>,
    web_host: Host,
    zone: PathBuf,
    nats: [Nat; 2],
    lan: Lan,
    lab: Lab,
}

impl Scene {
    /// `None` if the lab is switched off. `at`: where the relay on a host is.
    fn new(count: usize, at: impl Fn(&Host) -> String) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::Both);
        let nats = [Nat::new(&lan, 1), Nat::new(&lan, 2)];
        let hosts: Vec<Host> = (0..count)
            .map(|number| lan.host(&format!("relay{number}")))
            .collect();
        let web_host = lan.host("web");
        let zone = lab.directory().join("zone");
        let mut new = command(anode_binary());
        new.args(["zone", "new"]).arg(&zone);
        new.args(["--zone", "2a", "--ttl", "1m"]);
        for host in &hosts {
            new.args(["--relay", &at(host)]);
        }
        web_host.finish(new, SOON).expect_ok();
        Some(Self {
            relays: (0..count).map(|_| None).collect(),
            web: None,
            hosts,
            web_host,
            zone,
            nats,
            lan,
            lab,
        })
    }

    fn v4(count: usize) -> Option<Self> {
        let mut scene = Self::new(count, |host| format!("{}:8737", host.v4()))?;
        (0..count).for_each(|number| scene.start_relay(number));
        Some(scene)
    }

    fn start_relay(&mut self, number: usize) {
        let mut relay = command(anode_binary());
        let config = self.zone.join(format!("relay-{number}.toml"));
        relay.args(["relay", "-c"]).arg(config);
        let mut relay = self.hosts[number].start(relay);
        relay.wait_stderr_line("ready", SOON).expect("it is ready");
        self.relays[number] = Some(relay);
    }

    fn start_web(&mut self) {
        let at = SocketAddr::new(self.web_host.v4().into(), 8080);
        self.web = Some(programs::http_server(&self.web_host, at, &self.zone));
    }

    fn url(&self) -> String {
        format!("http://{}:8080/zone", self.web_host.v4())
    }

    fn path(&self) -> String {
        self.zone.join("zone").to_str().expect("a path").to_owned()
    }

    fn start(&self, ns: &Ns, name: &str, zone_file: &str) -> Node {
        Node::on(ns, self.lab.directory(), name)
            .no_lan()
            .args(&["--zone-file", zone_file])
            .start()
    }

    /// One machine behind each NAT, a node on each; they trust each other.
    fn pair(&self, zone_file: &str) -> (Node, Node) {
        let node = |number: usize, name: &str| {
            let machine = self.nats[number].machine(name);
            self.start(&machine, name, zone_file)
        };
        let (a, b) = (node(0, "a"), node(1, "b"));
        befriend(&a, &b);
        (a, b)
    }

    /// The number of the relay over which `from` reaches `to`.
    fn used(&self, from: &Node, to: &Node) -> usize {
        let relay = active(from, to)["relay"].clone();
        let is_it = |number: &usize| {
            let key = self.zone.join(format!("relay-{number}/identity.key"));
            let text = fs::read_to_string(key).expect("its identity");
            relay.as_str().is_some_and(|relay| text.contains(relay))
        };
        let found = (0..self.relays.len()).find(is_it);
        found.unwrap_or_else(|| panic!("no relay of ours: {relay}"))
    }
}

fn befriend(a: &Node, b: &Node) {
    a.trust(b, "b");
    b.trust(a, "a");
}

#[track_caller]
fn active(from: &Node, to: &Node) -> Value {
    let mut used = None;
    // The first answers may come before the path is proven.
    from.wait("a path", SOON, || {
        let paths = from.json(&["paths"]);
        let paths = paths.as_array().expect("a list");
        let is_used = |path: &&Value| path["address"] == to.address() && path["active"] == true;
        used = paths.iter().find(is_used).cloned();
        used.is_some()
    });
    used.expect("it was waited for")
}

/// From the start of a ping to its first answer.
#[track_caller]
fn first(what: &str, a: &Node, b: &Node, limit: Duration) -> Duration {
    let took = programs::first_ping(a.ns(), b.ipv6().into(), limit);
    println!("{what}: first reply after {took:?}");
    took
}

/// Bytes one way over TCP, compared; the longest time without any, after `meanwhile` has happened to them.
fn transfer(from: &Node, to: &Node, size: u64, meanwhile: impl FnOnce()) -> Duration {
    let at = SocketAddr::new(to.ipv6().into(), 7_000);
    let (near, far) = traffic::pair(from.ns(), to.ns(), at);
    let receiver = thread::spawn(move || {
        let mut gaps = Gaps::new(far);
        let got = traffic::receive_all(&mut gaps).expect("the stream ends well");
        (got, gaps.longest)
    });
    let sender = thread::spawn(move || traffic::send_noise(near, 7, size));
    meanwhile();
    let sent = sender.join().expect("no panic");
    let (got, longest) = receiver.join().expect("no panic");
    assert_eq!(got, (size, sent.expect("it takes everything")));
    longest
}

/// A stream that measures its longest pause.
struct Gaps {
    stream: std::net::TcpStream,
    last: Option<Instant>,
    longest: Duration,
}

impl Gaps {
    fn new(stream: std::net::TcpStream) -> Self {
        Self {
            stream,
            last: None,
            longest: Duration::ZERO,
        }
    }
}

impl std::io::Read for Gaps {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer)?;
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        Ok(read)
    }
}

#[test]
fn who_has_ipv4_alone_and_who_has_ipv6_alone_meet_at_a_relay_that_has_both() {
    // A23, A35
    let at = |host: &Host| format!("{}:8737,[{}]:8737", host.v4(), host.v6());
    let Some(mut scene) = Scene::new(1, at) else {
        return;
    };
    scene.start_relay(0);
    let _alone = heavy();
    let (four, six) = (scene.lan.host("four"), scene.lan.host("six"));
    four.address_remove(four.v6().into(), 64);
    four.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    six.address_remove(six.v4().into(), 24);
    let a = scene.start(&four, "a", &scene.path());
    let b = scene.start(&six, "b", &scene.path());
    befriend(&a, &b);
    first("IPv4 alone with IPv6 alone", &a, &b, SOON);
    for (node, other, ip) in [
        (&a, &b, scene.hosts[0].v4().to_string()),
        (&b, &a, format!("[{}]", scene.hosts[0].v6())),
    ] {
        let path = active(node, other);
        assert_eq!(path["kind"], "relay");
        assert_eq!(path["endpoint"], format!("udp://{ip}:8737"));
    }
    transfer(&a, &b, 4_000_000, || ());
    transfer(&b, &a, 4_000_000, || ());
}

#[test]
fn a_dead_server_and_a_dead_relay_keep_nobody_apart() {
    // A11, A22, D4, D40
    let Some(mut scene) = Scene::v4(2) else {
        return;
    };
    scene.start_web();
    let _alone = heavy();
    let url = scene.url();
    let (mut a, mut b) = scene.pair(&url);
    first("everything alive", &a, &b, SOON);
    for node in [&a, &b] {
        let shown = node.json(&["zone", "show"]);
        assert_eq!(shown["file"]["source"], url, "{shown}");
    }

    scene.web = None;
    for node in [&mut a, &mut b] {
        node.terminate().expect_ok();
        node.start();
    }
    first("zone server dead, both started again", &a, &b, SOON);

    let dead = scene.used(&a, &b);
    let size = 40_000_000;
    let mut relays = std::mem::take(&mut scene.relays);
    let pause = transfer(&a, &b, size, || {
        thread::sleep(Duration::from_millis(700));
        relays[dead] = None;
    });
    scene.relays = relays;
    println!("its relay dies under a transfer: longest pause {pause:?}");
    // Below a second on a quiet machine; each further timer that a busy one misses doubles the next.
    assert!(pause < Duration::from_secs(5), "{pause:?}");
    assert_ne!(scene.used(&a, &b), dead);

    for node in [&mut a, &mut b] {
        node.terminate().expect_ok();
        node.start();
    }
    first(
        "zone server and a relay dead, both started again",
        &a,
        &b,
        SOON,
    );
    transfer(&b, &a, 4_000_000, || ());

    scene.start_relay(dead);
    scene.start_web();
    a.wait("both relays know it again", SOON, || {
        let status = a.json(&["status"]);
        let relays = status["relays"].as_array().expect("a list");
        relays.len() == 2 && relays.iter().all(|relay| relay["registered"] == true)
    });
}

#[test]
fn a_relay_that_moves_is_followed_and_a_forged_file_is_not() {
    // A6, A7, S27
    let Some(mut scene) = Scene::v4(1) else {
        return;
    };
    let _alone = heavy();
    let (a, b) = scene.pair(&scene.path());
    first("before the change", &a, &b, SOON);

    // The relay moves to another port, and the file with it.
    let config = scene.zone.join("relay-0.toml");
    let text = fs::read_to_string(&config).expect("its configuration");
    fs::write(&config, text.replace(":8737", ":9737")).expect("written");
    let file = scene.zone.join("zone");
    let text = fs::read_to_string(&file).expect("the zone file");
    let begin = Instant::now();
    scene.relays[0] = None;
    scene.start_relay(0);
    fs::write(&file, text.replace(":8737:8737:", ":9737:9737:")).expect("written");
    let mut sign = command(anode_binary());
    sign.args(["zone", "sign"]).arg(&scene.zone);
    scene.web_host.finish(sign, SOON).expect_ok();
    let there = format!("udp://{}:9737", scene.hosts[0].v4());
    a.wait("the new place", SOON, || {
        programs::ping(a.ns(), b.ipv6().into(), 56, 1).received == 1
            && active(&a, &b)["endpoint"] == there
    });
    println!(
        "the relay has moved and the file says so: answers over the new place after {:?}",
        begin.elapsed()
    );

    // A forger changes it back: nobody follows, and traffic flows as before.
    let good = fs::read_to_string(&file).expect("the zone file");
    let forged = good
        .replace(":9737:9737:", ":8737:8737:")
        .replace("r=2", "r=3");
    assert_ne!(forged, good);
    fs::write(&file, forged).expect("written");
    let trouble = |node: &Node| node.json(&["zone", "show"])["trouble"].clone();
    let noticed = a.wait("the refusal", SOON, || {
        trouble(&a)
            .as_str()
            .is_some_and(|text| text.contains("sig= is not by key="))
    });
    let pinged = programs::ping(a.ns(), b.ipv6().into(), 56, 20);
    println!(
        "a forged file: refused after {noticed:?}, 20 pings of which {} came back",
        pinged.received
    );
    assert_eq!(pinged.received, 20);
    assert_eq!(active(&a, &b)["endpoint"], there);
    fs::write(&file, good).expect("written");
    a.wait("the end of the trouble", SOON, || trouble(&a).is_null());
}

/// Nodes that have a relay in their configuration, wherever they think that it is.
fn named_pair(scene: &Scene, relay: &Node, at: &str) -> (Node, Node) {
    let entry = format!(
        "[[relays]]\naddress = \"{}\"\nendpoints = [\"udp://{at}\"]",
        relay.address()
    );
    let node = |number: usize, name: &str| {
        let machine = scene.nats[number].machine(name);
        Node::on(&machine, scene.lab.directory(), name)
            .config(&entry)
            .no_lan()
            .start()
    };
    let (a, b) = (node(0, "a"), node(1, "b"));
    befriend(&a, &b);
    (a, b)
}

#[test]
fn a_relay_that_knows_the_draft_alone_is_enough() {
    // A16, A26, D40
    let Some(scene) = Scene::new(1, |host| format!("{}:8737", host.v4())) else {
        return;
    };
    let _alone = heavy();
    let at = format!("{}:8737", scene.hosts[0].v4());
    // It has never heard of sessions, and answers no HELLO.
    let relay = Node::on(&scene.hosts[0], scene.lab.directory(), "relay")
        .relay()
        .args(&["--listen", &at])
        .config("[security]\nplain = \"only\"")
        .start();
    let (a, b) = named_pair(&scene, &relay, &at);
    first("a relay that knows the draft alone", &a, &b, SOON);
    assert_eq!(active(&a, &b)["relay"], relay.address());
    assert_eq!(a.peer(&b).expect("it is listed")["sealed"], true);
    transfer(&a, &b, 4_000_000, || ());
    let status = relay.json(&["relay", "status"]);
    assert_eq!(status["registered"], 2, "{status}");
}

/// What is done to packets on their way through, each to so many of a thousand.
#[derive(Clone, Copy, Default, Debug)]
struct Mischief {
    drop: u32,
    reorder: u32,
    alter: u32,
}

/// Sits where others think that a relay is, and passes on what it does not spoil.
struct Mangler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mangler {
    fn start(host: &Host, port: u16, relay: u16, mischief: Mischief) -> Self {
        let at = |port: u16| SocketAddr::new(host.v4().into(), port);
        let bind = |port: u16| {
            let socket = host.run(|| UdpSocket::bind(at(port)).expect("a socket"));
            socket.set_nonblocking(true).expect("it can");
            socket
        };
        let front = bind(port);
        let netns = host.ns().clone();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ip) = (Arc::clone(&stop), host.v4());
        let thread = thread::spawn(move || {
            let upstream = move || {
                let socket = netns.run(|| UdpSocket::bind((ip, 0)).expect("a socket"));
                socket.connect((ip, relay)).expect("UDP connects at once");
                socket.set_nonblocking(true).expect("it can");
                socket
            };
            mangle(&front, upstream, mischief, &stopped);
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Mangler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the mangler does not panic");
        }
    }
}

/// Until it is stopped. A client has a socket of its own towards the relay, as behind a NAT.
fn mangle(
    front: &UdpSocket,
    upstream: impl Fn() -> UdpSocket,
    mischief: Mischief,
    stop: &AtomicBool,
) {
    let mut clients: Vec<(SocketAddr, UdpSocket)> = Vec::new();
    let mut noise = traffic::Noise::new(3);
    // A packet that is held back until the next one of its way has passed.
    let mut held: Vec<Option<Vec<u8>>> = Vec::new();
    let mut buffer = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        let mut spoil = |bytes: &mut [u8], send: &dyn Fn(&[u8]), held: &mut Option<Vec<u8>>| {
            let mut chance = |of_thousand: u32| noise.word() % 1000 < u64::from(of_thousand);
            if chance(mischief.drop) {
                return;
            }
            if chance(mischief.alter) {
                let at = bytes.len() / 2;
                bytes[at] ^= 0x40;
            }
            if held.is_none() && chance(mischief.reorder) {
                *held = Some(bytes.to_vec());
                return;
            }
            send(bytes);
            if let Some(late) = held.take() {
                send(&late);
            }
        };
        while let Ok((length, from)) = front.recv_from(&mut buffer) {
            idle = false;
            let known = clients.iter().position(|(client, _)| *client == from);
            let index = known.unwrap_or_else(|| {
                clients.push((from, upstream()));
                held.extend([None, None]);
                clients.len() - 1
            });
            let send = |bytes: &[u8]| drop(clients[index].1.send(bytes));
            spoil(&mut buffer[..length], &send, &mut held[2 * index]);
        }
        for (index, (client, socket)) in clients.iter().enumerate() {
            while let Ok(length) = socket.recv(&mut buffer) {
                idle = false;
                let send = |bytes: &[u8]| drop(front.send_to(bytes, client));
                spoil(&mut buffer[..length], &send, &mut held[2 * index + 1]);
            }
        }
        if idle {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn a_relay_that_drops_reorders_and_alters_costs_time_and_nothing_else() {
    // A28, S27
    for (what, mischief) in [
        (
            "drops a packet in 20",
            Mischief {
                drop: 50,
                ..Mischief::default()
            },
        ),
        (
            "reorders a packet in 10",
            Mischief {
                reorder: 100,
                ..Mischief::default()
            },
        ),
        (
            "alters a packet in 20",
            Mischief {
                alter: 50,
                ..Mischief::default()
            },
        ),
    ] {
        let Some(scene) = Scene::new(1, |host| format!("{}:8737", host.v4())) else {
            return;
        };
        let _alone = heavy();
        let host = &scene.hosts[0];
        let at = |port: u16| format!("{}:{port}", host.v4());
        let relay = Node::on(host, scene.lab.directory(), "relay")
            .relay()
            .args(&["--listen", &at(9737)])
            .start();
        let _mangler = Mangler::start(host, 8737, 9737, mischief);
        let (a, b) = named_pair(&scene, &relay, &at(8737));
        first(&format!("a relay that {what}"), &a, &b, SOON);
        assert_eq!(active(&a, &b)["kind"], "relay");
        let begin = Instant::now();
        transfer(&a, &b, 2_000_000, || ());
        let took = begin.elapsed();
        println!("a relay that {what}: 2 MB, every byte right, in {took:?}");
        assert!(took < Duration::from_secs(30), "{what}: {took:?}");
    }
}

/// A certificate for `name` by an authority of its own; the files of both and of the key.
fn certificate(scene: &Scene, name: &str) -> [PathBuf; 3] {
    let file = |suffix: &str| scene.lab.directory().join(format!("{name}.{suffix}"));
    let [ca, ca_key, cert, key] = ["ca.pem", "ca.key", "pem", "key"].map(file);
    let openssl = |arguments: &[&str]| {
        let mut openssl = command(programs::need("openssl"));
        openssl.args(arguments);
        openssl
    };
    let ec = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ];
    let mut make = openssl(&[&["req", "-x509", "-subj", "/CN=lab authority"][..], &ec].concat());
    make.arg("-keyout").arg(&ca_key).arg("-out").arg(&ca);
    scene.web_host.finish(make, SOON).expect_ok();
    let subject = format!("/CN={name}");
    let alternative = format!("subjectAltName=DNS:{name}");
    let mut make = openssl(&[&["req", "-x509", "-subj", &subject][..], &ec].concat());
    make.args(["-addext", &alternative]);
    make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    make.arg("-CA").arg(&ca).arg("-CAkey").arg(&ca_key);
    make.arg("-keyout").arg(&key).arg("-out").arg(&cert);
    scene.web_host.finish(make, SOON).expect_ok();
    [ca, cert, key]
}

/// Connections get out whose first bytes are TLS, and nothing else: a firewall that looks into them.
const TLS_ALONE: &str = "table inet lab { chain out { \
    type filter hook output priority 0; policy drop; \
    oifname != \"eth0\" accept; \
    tcp dport 8737 ct mark 1 accept; \
    tcp dport 8737 @ih,0,8 0x16 ct mark set 1 accept; \
    tcp dport 8737 meta length < 61 accept; \
}; }";

#[test]
fn a_certificate_is_checked_where_the_zone_file_names_a_host() {
    let Some(mut scene) = Scene::new(1, |host| format!("{}:8737", host.v4())) else {
        return;
    };
    let [ca, cert, key] = certificate(&scene, "relay.example");
    let config = scene.zone.join("relay-0.toml");
    let tls = format!("[relay.tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let text = fs::read_to_string(&config).expect("its configuration");
    fs::write(&config, text + &tls).expect("written");
    scene.start_relay(0);
    let file = scene.zone.join("zone");
    let unnamed = scene.lab.directory().join("unnamed");
    fs::copy(&file, &unnamed).expect("a copy");
    let text = fs::read_to_string(&file).expect("the zone file");
    fs::write(&file, text + "host.0=relay.example\r\n").expect("written");
    let mut sign = command(anode_binary());
    sign.args(["zone", "sign"]).arg(&scene.zone);
    scene.web_host.finish(sign, SOON).expect_ok();

    let [_, other, _] = certificate(&scene, "other.example");
    let node = |name: &str, zone_file: &PathBuf, trusted: &PathBuf| {
        let machine = scene.nats[0].machine(name);
        let mut nft = command(programs::need("nft"));
        nft.arg(TLS_ALONE);
        machine.finish(nft, SOON).expect_ok();
        let trusted = format!("SSL_CERT_FILE={}", trusted.display());
        Node::on(&machine, scene.lab.directory(), name)
            .no_lan()
            .args(&["--zone-file", zone_file.to_str().expect("a path")])
            .wrapper(&["env", &trusted])
            .start()
    };
    let registered = |node: &Node| {
        let status = node.json(&["status"]);
        let relay = &status["relays"][0];
        let endpoint = relay["endpoint"].as_str().unwrap_or_default().to_owned();
        (relay["registered"] == true, endpoint)
    };
    let over_tls = format!("tls://{}:8737", scene.hosts[0].v4());
    let trusting = node("trusting", &file, &ca);
    let doubting = node("doubting", &file, &other);
    let careless = node("careless", &unnamed, &other);
    for node in [&trusting, &careless] {
        let took = node.wait("registration over TLS", SOON, || registered(node).0);
        println!("TLS alone: registered after {took:?}");
        assert_eq!(registered(node).1, over_tls);
    }
    thread::sleep(Duration::from_secs(3));
    assert!(!registered(&doubting).0, "{:?}", registered(&doubting));
    assert!(doubting.metrics().sum("anode_connections_dialled_total") > 0.0);
}

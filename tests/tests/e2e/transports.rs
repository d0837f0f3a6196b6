//! Packets through what a network lets out: each transport alone, none but a proxy, nothing but port 443.

use anode_tests::lab::{Family, Host, Lab, Lan, Node, Proc, command, heavy};
use anode_tests::{programs, traffic};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A machine that builds something beside may need longer than the promise.
const REACHED_WITHIN: Duration = Duration::from_secs(10);

/// Rules of nftables on a host, all in one table.
fn filter(host: &Host, rules: &str) {
    let mut nft = command(programs::need("nft"));
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut process = host.start(nft);
    let mut input = process.stdin().expect("piped");
    writeln!(input, "table inet lab {{\n{rules}\n}}").expect("nft listens");
    drop(input);
    process.finish(Duration::from_secs(10)).expect_ok();
}

/// Only this goes out of the host and comes in as answer to it; everything else vanishes, as behind a careless firewall.
fn only_out(host: &Host, what: &str) {
    let rules = format!(
        "chain out {{
             type filter hook output priority 0; policy drop;
             oifname \"lo\" accept; oifname \"anode*\" accept; {what} accept;
         }}
         chain in {{
             type filter hook input priority 0; policy drop;
             iifname \"lo\" accept; iifname \"anode*\" accept; meta l4proto icmpv6 accept;
             ct state established,related accept;
         }}"
    );
    filter(host, &rules);
}

struct Scene {
    a: Node,
    b: Node,
    host_a: Host,
    host_b: Host,
    _lan: Lan,
    lab: Lab,
}

impl Scene {
    /// `b` listens for everything on this port; `a` knows it at these endpoints and can send nothing but `allowed`.
    fn new(family: Family, port: u16, allowed: &str, endpoints: &[&str]) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, family);
        let (host_a, host_b) = (lan.host("a"), lan.host("b"));
        only_out(&host_a, allowed);
        let at =
            |scheme: &str| format!("{scheme}://{}", SocketAddr::new(host_b.ip_address(), port));
        let b = Node::on(&host_b, lab.directory(), "b")
            .no_lan()
            .args(&["--listen", &at("udp"), "--listen", &at("tcp")])
            .start();
        let mut builder = Node::on(&host_a, lab.directory(), "a").no_lan();
        for scheme in endpoints {
            builder = builder.peer(&b, &at(scheme));
        }
        let prepared = builder.clone().prepare();
        prepared.trust(&b, "b");
        b.trust(&prepared, "a");
        let a = builder.start();
        Some(Self {
            a,
            b,
            host_a,
            host_b,
            _lan: lan,
            lab,
        })
    }

    /// Ping, a transfer and datagrams, sealed, all over this transport; how long the first answer took.
    fn carries(&self, transport: &str) -> Duration {
        let took = programs::first_ping(&self.host_a, self.b.ipv6().into(), REACHED_WITHIN);
        let path = self.path();
        assert_eq!(path["transport"], transport, "{path}");
        let endpoint = path["endpoint"].as_str().unwrap_or_default();
        assert!(endpoint.starts_with(&format!("{transport}://")), "{path}");
        let peer = self.a.peer(&self.b).expect("the peer is listed");
        assert_eq!(peer["sealed"], true, "{peer}");
        let pinged = programs::ping(&self.host_a, self.b.ipv6().into(), 1000, 5);
        assert_eq!(pinged.received, 5);

        let _heavy = heavy();
        const LEN: u64 = 5_000_000;
        let at = SocketAddr::new(self.b.ipv6().into(), 5000);
        let (near, far) = traffic::pair(&self.host_a, &self.host_b, at);
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (sent, received) = std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let sum = traffic::send_noise(from, 3, LEN);
                    from.shutdown(std::net::Shutdown::Write).expect("a stream");
                    sum
                });
                let received = traffic::receive_all(to).expect("all of it");
                (sender.join().expect("no panic").expect("sent"), received)
            });
            assert_eq!(received, (LEN, sent));
        }

        let echo = traffic::UdpEcho::start(&self.host_b, SocketAddr::new(self.b.ipv6().into(), 7));
        let socket = traffic::udp(&self.host_a, SocketAddr::new(self.a.ipv6().into(), 0));
        let to = SocketAddr::new(self.b.ipv6().into(), 7);
        let mut buffer = [0; 2000];
        for size in [1, 500, 1200] {
            let datagram = vec![size as u8; size];
            socket.send_to(&datagram, to).expect("sent");
            let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..len], from), (datagram.as_slice(), to));
        }
        drop(echo);
        assert_eq!(self.path()["transport"], transport);
        let status = self.a.json(&["status"]);
        let tunnelled = u64::from(transport != "udp");
        assert_eq!(status["tunnelled"], tunnelled, "{status}");
        took
    }

    fn path(&self) -> serde_json::Value {
        let peer = self.a.peer(&self.b).expect("the peer is listed");
        let paths = peer["paths"].as_array().expect("a list").clone();
        paths
            .into_iter()
            .find(|path| path["active"] == true)
            .unwrap_or_else(|| panic!("no active path: {peer}"))
    }
}

fn alone(family: Family, transport: &str, allowed: &str) {
    let Some(scene) = Scene::new(family, 8737, allowed, &[transport]) else {
        return;
    };
    let took = scene.carries(transport);
    println!("{transport} alone, {family:?}: first reply after {took:?}");
}

const TCP_ALONE: &str = "tcp dport 8737";

#[test]
fn udp_alone_carries_everything() {
    // A32
    alone(Family::V4, "udp", "udp dport 8737");
}

#[test]
fn tcp_alone_carries_everything() {
    // A33, D14
    alone(Family::V4, "tcp", TCP_ALONE);
}

#[test]
fn tcp_over_ipv6_alone_carries_everything() {
    // A33, A35
    alone(
        Family::V6,
        "tcp",
        "meta l4proto icmpv6 accept; tcp dport 8737",
    );
}

#[test]
fn tls_alone_carries_everything() {
    alone(Family::V4, "tls", TCP_ALONE);
}

#[test]
fn http_alone_carries_everything() {
    // A34, D15
    alone(Family::V4, "http", TCP_ALONE);
}

#[test]
fn https_alone_carries_everything() {
    // A34, D15
    alone(Family::V4, "https", TCP_ALONE);
}

fn hardware_address(host: &Host) -> String {
    let found = host.run(|| {
        let mut all = nix::ifaddrs::getifaddrs().expect("interfaces");
        all.find_map(|entry| {
            let link = entry.address?.as_link_addr()?.addr()?;
            (entry.interface_name == "eth0").then_some(link)
        })
    });
    let bytes = found.expect("it has an eth0");
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn raw_ethernet_alone_carries_everything() {
    // A35: no IP between the two at all
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    only_out(&host_a, "ip daddr 127.0.0.1");
    only_out(&host_b, "ip daddr 127.0.0.1");
    let mac = hardware_address(&host_b);
    let b = Node::on(&host_b, lab.directory(), "b")
        .no_lan()
        .config("[ethernet]\ninterfaces = [\"eth0\"]")
        .start();
    let builder = Node::on(&host_a, lab.directory(), "a")
        .no_lan()
        .peer(&b, &format!("eth://eth0/{}", mac));
    let prepared = builder.clone().prepare();
    prepared.trust(&b, "b");
    b.trust(&prepared, "a");
    let a = builder.start();
    let took = programs::first_ping(&host_a, b.ipv6().into(), REACHED_WITHIN);
    println!("raw Ethernet alone: first reply after {took:?}");
    let peer = a.peer(&b).expect("the peer is listed");
    let path = &peer["paths"][0];
    assert_eq!(path["transport"], "ethernet", "{peer}");
    assert_eq!(path["endpoint"], format!("eth://eth0/{}", mac), "{peer}");
    assert_eq!(peer["sealed"], true, "{peer}");
    let (near, far) = traffic::pair(&host_a, &host_b, SocketAddr::new(b.ipv6().into(), 5000));
    let received = std::thread::scope(|scope| {
        let sender = scope.spawn(move || traffic::send_noise(&near, 3, 2_000_000).expect("sent"));
        let received = traffic::receive_all(&far).expect("all");
        (received, sender.join().expect("no panic"))
    });
    assert_eq!(received.0, (2_000_000, received.1));
}

#[test]
fn where_udp_is_blocked_a_node_is_on_the_overlay_within_three_seconds() {
    // A25, D40
    let all = ["udp", "tcp", "tls", "http"];
    let Some(scene) = Scene::new(Family::V4, 8737, TCP_ALONE, &all) else {
        return;
    };
    let took = scene.carries("tcp");
    println!("UDP blocked: first reply after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let shown = scene.a.cli(&["status"]).expect_ok().stdout();
    assert!(shown.contains("1 tunnelled"), "{shown}");
}

#[test]
fn where_only_tls_on_port_443_gets_out_that_is_enough() {
    // The first bytes must look like TLS: a firewall that looks into connections.
    let looks = "tcp dport 443";
    let all = ["udp", "tls", "https"];
    let Some(scene) = Scene::new(Family::V4, 443, looks, &all) else {
        return;
    };
    let took = scene.carries("tls");
    println!("port 443 alone: first reply after {took:?}");
}

/// tinyproxy on a host; connections to these ports only.
fn tinyproxy(host: &Host, lab: &Lab, ports: &[u16]) -> Proc {
    let file = lab.directory().join("tinyproxy.conf");
    let mut text = format!(
        "Port 3128\nListen {}\nTimeout 60\nMaxClients 50\nLogLevel Connect\n",
        host.v4()
    );
    for port in ports {
        text.push_str(&format!("ConnectPort {port}\n"));
    }
    std::fs::write(&file, text).expect("a file");
    let mut proxy = command(programs::need("tinyproxy"));
    proxy.args(["-d", "-c"]).arg(&file);
    let proxy = host.start(proxy);
    let at = SocketAddr::new(host.v4().into(), 3128);
    let begin = Instant::now();
    while host.run(|| TcpStream::connect(at)).is_err() {
        assert!(begin.elapsed() < REACHED_WITHIN, "{}", proxy.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    proxy
}

#[test]
fn behind_a_proxy_that_only_connects_to_443_everything_works() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b, host_p) = (lan.host("a"), lan.host("b"), lan.host("p"));
    let _proxy = tinyproxy(&host_p, &lab, &[443]);
    let proxy = format!("{}:3128", host_p.v4());
    // Nothing but the proxy: not even the relay's own port.
    only_out(&host_a, &format!("ip daddr {} tcp dport 3128", host_p.v4()));
    let at = |scheme: &str| format!("{scheme}://{}:443", host_b.v4());
    let b = Node::on(&host_b, lab.directory(), "b")
        .no_lan()
        .args(&["--listen", &at("udp"), "--listen", &at("tcp")])
        .start();
    for (name, scheme) in [("tls", "tls"), ("https", "https"), ("http", "http")] {
        let builder = Node::on(&host_a, lab.directory(), name)
            .no_lan()
            .config(&format!("[proxy]\nhttp = \"http://{proxy}\""))
            .peer(&b, &at("udp"))
            .peer(&b, &at("tcp"))
            .peer(&b, &at(scheme));
        let prepared = builder.clone().prepare();
        prepared.trust(&b, "b");
        b.trust(&prepared, name);
        let a = builder.start();
        let took = programs::first_ping(&host_a, b.ipv6().into(), REACHED_WITHIN);
        println!("HTTP proxy alone, {scheme}: first reply after {took:?}");
        let peer = a.peer(&b).expect("the peer is listed");
        assert_eq!(peer["paths"][0]["transport"], scheme, "{peer}");
        let (near, far) = traffic::pair(&host_a, &host_b, SocketAddr::new(b.ipv6().into(), 5000));
        let received = std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let sum = traffic::send_noise(&near, 3, 2_000_000).expect("sent");
                drop(near);
                sum
            });
            (
                traffic::receive_all(&far).expect("all"),
                sender.join().expect("no panic"),
            )
        });
        assert_eq!(received.0, (2_000_000, received.1));
    }
}

#[test]
fn hostile_streams_leave_a_node_as_it_was() {
    // S1, S19, D14, D15
    let Some(scene) = Scene::new(Family::V4, 8737, TCP_ALONE, &["tcp"]) else {
        return;
    };
    programs::first_ping(&scene.host_a, scene.b.ipv6().into(), REACHED_WITHIN);
    let at = SocketAddr::new(scene.host_b.v4().into(), 8737);
    let dial = || traffic::connect(&scene.host_a, at, Duration::from_secs(5)).expect("it listens");
    let endless = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let hostile: [(&str, Vec<u8>, usize); 7] = [
        ("frames of length 0", vec![0; 1 << 20], 1),
        ("a frame of 5 bytes", vec![0, 5, 1, 2, 3, 4, 5], 1),
        (
            "frames of 65,535 bytes",
            [vec![0xff, 0xff], vec![7; 65_535]].concat(),
            20,
        ),
        ("never completed", vec![0xff, 0xff, 1], 1),
        (
            "a body that is cut",
            b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc".to_vec(),
            1,
        ),
        (
            "odd chunks",
            [endless.clone(), b"-1\r\n\r\n".to_vec()].concat(),
            1,
        ),
        (
            "an endless body",
            [endless, b"1\r\n\0\r\n".repeat(1000)].concat(),
            1000,
        ),
    ];
    // One after the other: a source has sixteen connections.
    let mut open = Vec::new();
    for (what, bytes, times) in hostile {
        let mut stream = dial();
        let sent = (0..times)
            .take_while(|_| stream.write_all(&bytes).is_ok())
            .count();
        println!("{what}: {sent} of {times} taken");
        open.push(stream);
    }
    let pinged = programs::ping(&scene.host_a, scene.b.ipv6().into(), 100, 20);
    assert_eq!(
        pinged.received, 20,
        "the peer's own connection is not disturbed"
    );
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let metrics = scene.b.metrics();
        let malformed = metrics.sum("anode_connections_malformed_total");
        let late = metrics.sum("anode_connections_timed_out_total");
        if malformed >= 3.0 && late >= 2.0 {
            break;
        }
        assert!(
            Instant::now() < limit,
            "malformed {malformed}, timed out {late}"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(open);
    let idle: Vec<TcpStream> = (0..40)
        .map_while(|_| traffic::connect(&scene.host_a, at, Duration::from_secs(1)).ok())
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        scene.b.metrics().sum("anode_connections_refused_total") > 0.0,
        "{} connections",
        idle.len()
    );
    let pinged = programs::ping(&scene.host_a, scene.b.ipv6().into(), 100, 5);
    assert_eq!(pinged.received, 5);
    assert!(scene.lab.directory().exists());
}

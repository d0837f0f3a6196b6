//! What a tracker costs: announces a second for one core over UDP and HTTP, beside the trackers that are here; memory of
//! its peers; and how soon two nodes meet by a tracker alone.
//!
//! ```text
//!   64 sockets, 16 announces under way on each ──▶ tracker        UDP: one connection id per socket
//!   4 threads, a connection per announce ─────────▶ tracker       HTTP
//! ```
//!
//! What counts is answers for a second of the tracker's own processor time: the load comes from the same machine.

use super::{Plan, report::median};
use crate::lab::{Family, Host, Lab, Lan, Nat, Node, Ns, Proc, command};
use crate::programs;
use crate::tracker::{AnodeTracker, Scripted, await_round, compact_answer};
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SOCKETS: usize = 64;
const WINDOW: u64 = 16;
const HTTP_THREADS: usize = 4;
/// Peers asked for.
const WANT: u32 = 30;
/// For the memory: ports of one address.
const PEERS: u16 = 50_000;
/// Two searches and some.
const MEETING: Duration = Duration::from_secs(180);
const HASH: [u8; 20] = [7; 20];
const HASH_TEXT: &str = "0707070707070707070707070707070707070707";

/// Answers for a core and second, per run.
struct Row {
    name: &'static str,
    per_core: Vec<f64>,
    per_second: Vec<f64>,
}

/// What was measured.
pub struct Report {
    rows: Vec<Row>,
    missing: Vec<&'static str>,
    kib_for_10_000: u64,
    met: Vec<(&'static str, f64)>,
    hostile: (usize, usize, usize),
}

/// Measures all.
///
/// # Panics
/// If a tracker or a node fails.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    let lan = Lan::new(lab, Family::V4);
    let (server, load) = (lan.host("tracker"), lan.host("load"));
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\"]\nopen = true\n\
        limits = { ports-per-ip = 65535, requests-per-second = 1000000, entries = 1000000, connections = 4096, connections-per-ip = 4096 }\n";
    let own = AnodeTracker::start(&server, lab.directory(), text);
    let at = |port: u16| SocketAddr::from((server.v4(), port));
    let mut rows = vec![
        measure("anode, UDP", &load, &own.process, at(6969), plan, udp),
        measure("anode, HTTP", &load, &own.process, at(6969), plan, http),
    ];
    let mut missing = Vec::new();
    match aquatic(&server, lab.directory()) {
        Some(process) => {
            rows.push(measure(
                "aquatic_udp, UDP",
                &load,
                &process,
                at(3000),
                plan,
                udp,
            ));
        }
        None => missing.push("aquatic_udp (tests/trackers --fetch-only)"),
    }
    match opentracker(&server, lab.directory()) {
        Some(process) => {
            rows.push(measure(
                "opentracker, UDP",
                &load,
                &process,
                at(6970),
                plan,
                udp,
            ));
            rows.push(measure(
                "opentracker, HTTP",
                &load,
                &process,
                at(6970),
                plan,
                http,
            ));
        }
        None => missing.push("opentracker (tests/packages)"),
    }
    let before = own.process.memory_kib();
    fill(&load, at(6969));
    let grown = own.process.memory_kib().saturating_sub(before);
    drop(own);
    Report {
        rows,
        missing,
        kib_for_10_000: grown * 10_000 / u64::from(PEERS),
        met: met(lab),
        hostile: hostile(lab),
    }
}

fn measure(
    name: &'static str,
    load: &Host,
    tracker: &Proc,
    at: SocketAddr,
    plan: &Plan,
    put: fn(&Ns, SocketAddr, Duration) -> u64,
) -> Row {
    let mut row = Row {
        name,
        per_core: Vec::new(),
        per_second: Vec::new(),
    };
    for _ in 0..plan.runs {
        let (cpu, start) = (tracker.cpu_seconds(), Instant::now());
        let answers = put(load, at, plan.length) as f64;
        assert!(answers > 0.0, "{name} answers nothing");
        row.per_second.push(answers / start.elapsed().as_secs_f64());
        row.per_core
            .push(answers / (tracker.cpu_seconds() - cpu).max(1e-3));
    }
    row
}

/// Answered announces.
fn udp(ns: &Ns, at: SocketAddr, length: Duration) -> u64 {
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| connected(ns, at)).collect();
    thread::scope(|scope| {
        let halves = sockets.chunks(SOCKETS / 2);
        let threads: Vec<_> = halves
            .map(|sockets| scope.spawn(move || keep_asking(sockets, length)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    })
}

fn connected(ns: &Ns, at: SocketAddr) -> UdpSocket {
    let socket = ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at)?;
        Ok::<_, std::io::Error>(socket)
    });
    let socket = socket.expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    socket
}

/// The id that the tracker gives to this socket's address.
fn connection_id(socket: &UdpSocket) -> [u8; 8] {
    let mut request = 0x0417_2710_1980u64.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0, 1, 2, 3, 4]);
    let mut answer = [0; 64];
    for _ in 0..5 {
        socket.send(&request).expect("sent");
        if let Ok(16..) = socket.recv(&mut answer) {
            return answer[8..16].try_into().expect("8 bytes");
        }
    }
    panic!("no connection id from {:?}", socket.peer_addr());
}

fn announce(id: [u8; 8], peer: u64, port: u16, want: u32) -> Vec<u8> {
    let mut request = id.to_vec();
    request.extend([0, 0, 0, 1, 9, 9, 9, 9]);
    request.extend(HASH);
    request.extend([b'-'; 12]);
    request.extend(peer.to_be_bytes());
    request.extend(0u64.to_be_bytes());
    request.extend(1u64.to_be_bytes());
    request.extend(0u64.to_be_bytes());
    request.extend([0, 0, 0, 0, 0, 0, 0, 0]);
    request.extend((peer as u32).to_be_bytes());
    request.extend(want.to_be_bytes());
    request.extend(port.to_be_bytes());
    request
}

fn keep_asking(sockets: &[UdpSocket], length: Duration) -> u64 {
    let requests: Vec<Vec<u8>> = sockets
        .iter()
        .enumerate()
        .map(|(place, socket)| {
            let port = socket.local_addr().expect("bound").port();
            announce(
                connection_id(socket),
                place as u64 ^ u64::from(port),
                port,
                WANT,
            )
        })
        .collect();
    for (socket, request) in sockets.iter().zip(&requests) {
        socket.set_nonblocking(true).expect("non-blocking");
        (0..WINDOW).for_each(|_| drop(socket.send(request)));
    }
    let (mut answers, mut buffer) = (0, [0; 2_048]);
    let (start, mut last) = (Instant::now(), Instant::now());
    while start.elapsed() < length {
        let before = answers;
        for (socket, request) in sockets.iter().zip(&requests) {
            while let Ok(size) = socket.recv(&mut buffer) {
                answers += u64::from(size >= 20 && buffer[3] == 1);
                let _ = socket.send(request);
            }
        }
        if answers > before {
            last = Instant::now();
        } else if last.elapsed() > Duration::from_millis(200) {
            // Everything under way was lost.
            last = Instant::now();
            for (socket, request) in sockets.iter().zip(&requests) {
                let _ = socket.send(request);
            }
        }
    }
    answers
}

fn http(ns: &Ns, at: SocketAddr, length: Duration) -> u64 {
    let answers = AtomicU64::new(0);
    let hash = "%07".repeat(20);
    thread::scope(|scope| {
        for thread in 0..HTTP_THREADS {
            let (answers, hash) = (&answers, &hash);
            scope.spawn(move || {
                ns.run(|| {
                    let start = Instant::now();
                    let mut answer = Vec::new();
                    while start.elapsed() < length {
                        let request = format!(
                            "GET /announce?info_hash={hash}&peer_id=-XX0001-{thread:012}&port={}&uploaded=0&downloaded=0&left=1&compact=1&numwant={WANT} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
                            5_000 + thread
                        );
                        let Ok(mut stream) = TcpStream::connect(at) else { continue };
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                        answer.clear();
                        if stream.write_all(request.as_bytes()).is_ok() && stream.read_to_end(&mut answer).is_ok() {
                            let peers = answer.windows(5).any(|word| word == b"peers");
                            answers.fetch_add(u64::from(peers), Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
    answers.into_inner()
}

/// One peer on each of many ports.
fn fill(ns: &Ns, at: SocketAddr) {
    let socket = connected(ns, at);
    let id = connection_id(&socket);
    let mut buffer = [0; 2_048];
    for port in 1..=PEERS {
        let request = announce(id, u64::from(port) << 8, port, 0);
        for _ in 0..5 {
            socket.send(&request).expect("sent");
            if socket.recv(&mut buffer).is_ok() {
                break;
            }
        }
    }
}

fn aquatic(server: &Host, directory: &Path) -> Option<Proc> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trackers/bin/aquatic_udp");
    if !program.exists() {
        return None;
    }
    let config = directory.join("aquatic.toml");
    // One worker, as ours has one thread.
    let text = "socket_workers = 1\n[network]\naddress = \"0.0.0.0:3000\"\n";
    fs::write(&config, text).expect("the configuration");
    let mut start = command(program);
    start.arg("-c").arg(&config);
    let process = server.start(start);
    thread::sleep(Duration::from_secs(2));
    Some(process)
}

fn opentracker(server: &Host, directory: &Path) -> Option<Proc> {
    programs::find("opentracker").ok()?;
    fs::write(directory.join("list"), format!("{HASH_TEXT}\n")).expect("the white list");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory, open).expect("our own directory");
    let mut start = command("opentracker");
    start
        .args(["-i", &server.v4().to_string(), "-p", "6970", "-P", "6970"])
        .args(["-u", "nobody", "-w", "list", "-d"])
        .arg(directory);
    let process = server.start(start);
    thread::sleep(Duration::from_secs(1));
    Some(process)
}

/// Seconds from the start of the second node to the first answered ping: on open ground, and behind NATs that keep ports
/// and let in only what answers.
fn met(lab: &Lab) -> Vec<(&'static str, f64)> {
    let lan = Lan::new(lab, Family::V4);
    let server = lan.host("tracker2");
    let home = lab.directory().join("met");
    fs::create_dir_all(&home).expect("a directory");
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&server, &home, text);
    let nats = [Nat::new(&lan, 1), Nat::new(&lan, 2)];
    nats.iter().for_each(Nat::keep_ports);
    let open: [Ns; 2] = ["open1", "open2"].map(|name| lan.host(name).ns().clone());
    let behind = [nats[0].machine("behind1"), nats[1].machine("behind2")];
    [("no NAT", open), ("port-restricted NATs", behind)]
        .into_iter()
        .enumerate()
        .map(|(place, (what, machines))| {
            let config = format!(
                "[rendezvous]\ntrackers = [\"udp://{}:6969\"]\nsecret = \"{what}\"\n",
                server.v4()
            );
            let node = |number: usize| {
                Node::on(&machines[number], &home, &format!("n{place}{number}"))
                    .no_lan()
                    .config(&config)
                    .prepare()
            };
            let [mut first, mut second] = [node(0), node(1)];
            first.cli(&["trust", second.address(), "other"]).expect_ok();
            second.cli(&["trust", first.address(), "other"]).expect_ok();
            first.start();
            thread::sleep(Duration::from_secs(20));
            let start = Instant::now();
            second.start();
            programs::first_ping(second.ns(), first.ipv6().into(), MEETING);
            (what, start.elapsed().as_secs_f64())
        })
        .collect()
}

/// Packets, bytes and hosts because of one answer of 10,000 entries, within a round.
fn hostile(lab: &Lab) -> (usize, usize, usize) {
    let lan = Lan::new(lab, Family::V4);
    let (server, host, router) = (lan.host("tracker3"), lan.host("node"), lan.host("router"));
    let entries: Vec<SocketAddr> = (0..10_000u32)
        .map(|n| {
            SocketAddr::from((
                Ipv4Addr::from(0xC633_6400 + (n << 4)),
                1_024 + (n % 60_000) as u16,
            ))
        })
        .collect();
    let at: SocketAddr = (server.v4(), 6969).into();
    let tracker = Scripted::start(&server, at, &compact_answer(1_800, &entries));
    let everywhere =
        anode_platform::Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).expect("a prefix");
    let route = anode_platform::netlink::Route::via(everywhere, router.v4());
    host.netlink(|netlink| netlink.route_add(&route));
    let capture = crate::capture::Capture::start(&router);
    let home = lab.directory().join("hostile");
    fs::create_dir_all(&home).expect("a directory");
    let wanted = Node::on(&router, &home, "wanted").no_lan().prepare();
    let config = format!("[rendezvous]\ntrackers = [\"http://{at}/announce\"]\n");
    let node = Node::on(&host, &home, "node")
        .no_lan()
        .config(&config)
        .prepare();
    node.cli(&["trust", wanted.address(), "wanted"]).expect_ok();
    let mut node = node;
    node.start();
    while tracker.seen().is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    tracker.say(b"d8:intervali1800e5:peers0:e");
    await_round();
    let sent: Vec<_> = capture
        .frames()
        .iter()
        .filter_map(|frame| crate::capture::datagram(frame))
        .filter(|datagram| *datagram.from.ip() == host.v4())
        .collect();
    let bytes = sent.iter().map(|datagram| datagram.payload.len()).sum();
    let mut hosts: Vec<_> = sent.iter().map(|datagram| *datagram.to.ip()).collect();
    hosts.sort();
    hosts.dedup();
    (sent.len(), bytes, hosts.len())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}  {:>14}  {:>22}",
            "tracker", "answers/s", "answers/s for a core"
        )?;
        for row in &self.rows {
            let middle = |values: &[f64]| median(values).unwrap_or_default();
            let (second, core) = (middle(&row.per_second), middle(&row.per_core));
            writeln!(f, "{:<20}  {second:>14.0}  {core:>22.0}", row.name)?;
        }
        for what in &self.missing {
            writeln!(f, "not here: {what}")?;
        }
        writeln!(f, "memory: {} KiB for 10,000 peers", self.kib_for_10_000)?;
        for (what, seconds) in &self.met {
            writeln!(
                f,
                "first ping, {what}: {seconds:.1} s after the start of the second node"
            )?;
        }
        let (packets, bytes, hosts) = self.hostile;
        write!(
            f,
            "one answer of 10,000 entries: {packets} packets, {bytes} bytes, to {hosts} hosts"
        )
    }
}

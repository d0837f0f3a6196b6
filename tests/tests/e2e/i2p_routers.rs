//! I2P over real routers: i2pd in a private network, which all cases share.

use crate::i2p_lab::{
    LIMIT, READY, destination, echo_server, echoed, get, get_half_closed, learn, noise_file, serve,
};
use crate::names::{RESPONDER, Resolving, curl};
use anode_tests::i2p::i2pd::{self, I2pNet, I2pd};
use anode_tests::lab::{Lab, Node};
use anode_tests::programs;
use anode_tests::traffic::{self, UdpEcho};
use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Tunnels without hops, a pair each way.
const ZERO_HOPS: &str =
    "inbound.length = 0\noutbound.length = 0\ninbound.quantity = 2\noutbound.quantity = 2\n";
/// The first destination has no hops either, the second two each way.
const DESTINATIONS: &str = "[i2p]\n\
    [[i2p.destination]]\nkey-file = \"KEYS\"\noptions = { \"inbound.length\" = \"0\", \"outbound.length\" = \"0\", \
     \"inbound.quantity\" = \"2\", \"outbound.quantity\" = \"2\" }\n\
    [[i2p.destination]]\nname = \"far\"\noptions = { \"inbound.length\" = \"2\", \"outbound.length\" = \"2\", \
     \"inbound.quantity\" = \"2\", \"outbound.quantity\" = \"2\" }";
/// Half-closed requests in a row, none of which may lose its answer.
const REQUESTS: usize = 20;
const FILE: usize = 300_000;
const LARGE: u64 = 100_000_000;

/// Two nodes behind different routers; the second router has tunnels of its own.
struct World {
    a: Node,
    b: Node,
    net: I2pNet,
    file: Vec<u8>,
    /// Last, for its directory is everybody's.
    lab: Lab,
}

impl World {
    fn start(lab: Lab) -> Self {
        let server = |name: &str, kind: &str, port: u16| {
            format!(
                "[{name}]\ntype = {kind}\nhost = 127.0.0.1\nport = {port}\nkeys = {name}.dat\nsignaturetype = 7\n{ZERO_HOPS}"
            )
        };
        let [keys_a, keys_b] = ["a.keys", "b.keys"].map(|name| {
            let file = lab.directory().join(name);
            (i2pd::make_keys(&file), file)
        });
        let client = format!(
            "[to-a]\ntype = client\naddress = 127.0.0.1\nport = 7100\ndestination = {}\ndestinationport = 80\n\
             keys = to-a.dat\nsignaturetype = 7\n{ZERO_HOPS}",
            keys_a.0.hash().b32()
        );
        let tunnels = [
            server("echo", "server", 7000),
            server("web", "http", 8000),
            server("udp", "udpserver", 7001),
            client,
        ]
        .concat();
        let net = I2pNet::start(&lab, &["", &tunnels, ""]);
        let node = |router: &I2pd, name: &str, keys: &Path| {
            let destinations = DESTINATIONS.replace("KEYS", &keys.display().to_string());
            Node::on(&router.host, lab.directory(), name)
                .no_lan()
                .args(&["--log", "info"])
                .config(&destinations)
                .config("[inbound]\nallow = [\"any-i2p tcp/1-65535\"]")
                .start()
        };
        let a = node(&net.routers[0], "a", &keys_a.1);
        let b = node(&net.routers[1], "b", &keys_b.1);
        let file = noise_file(lab.directory(), "file", FILE);
        Self {
            a,
            b,
            net,
            file,
            lab,
        }
    }

    fn near(&self) -> &I2pd {
        &self.net.routers[0]
    }

    fn far(&self) -> &I2pd {
        &self.net.routers[1]
    }

    /// The address of a tunnel of the far router, once its lease set is found.
    #[track_caller]
    fn tunnel(&mut self, keys: &str) -> (Ipv6Addr, String) {
        let name = self.net.routers[1].destination(keys).hash().b32();
        self.found(&name);
        (learn(&self.a, &self.near().host, &name), name)
    }

    #[track_caller]
    fn found(&self, name: &str) {
        let start = Instant::now();
        while !self.a.cli(&["i2p", "lookup", name]).ok() {
            assert!(
                start.elapsed() < READY,
                "{name} is not found\n{}\n--- its router\n{}\n--- ours\n{}",
                self.a.log(),
                self.far().log(),
                self.near().log()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// What is tried in a world; the last one breaks it.
type Case = fn(&mut World);

/// A node's destination with a name: its own name and its address, once it is ready.
#[track_caller]
fn named(node: &Node, name: &str) -> (String, Ipv6Addr) {
    let mut found = Value::Null;
    node.wait("the destination is ready", READY, || {
        let status = node.json(&["i2p", "status"]);
        let all = status["destinations"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        found = all
            .into_iter()
            .find(|one| one["name"] == name)
            .unwrap_or(Value::Null);
        found["state"] == "ready"
    });
    let text = |key: &str| found[key].as_str().expect("a text").to_owned();
    (text("b32"), text("ipv6").parse().expect("an address"))
}

fn port(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)
}

/// Connects from one of a node's addresses.
fn connect_from(router: &I2pd, from: Ipv6Addr, to: SocketAddr) -> io::Result<TcpStream> {
    router.host.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&port(from, 0).into())?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        let stream = TcpStream::from(socket);
        SockRef::from(&stream).set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    })
}

/// Takes everything that a connection sends, and says its digest when the sender has finished.
fn digest_server(router: &I2pd, at: SocketAddr) {
    serve(traffic::listen(&router.host, at), |mut stream| {
        let (_, sum) = traffic::receive_all(&mut stream)?;
        stream.write_all(&sum)
    });
}

/// Sends noise to a [`digest_server`]; true if it got every byte.
fn digested(mut stream: TcpStream, count: u64) -> io::Result<bool> {
    let sent = traffic::send_noise(&stream, 11, count)?;
    stream.shutdown(Shutdown::Write)?;
    let mut sum = Vec::new();
    stream.read_to_end(&mut sum)?;
    Ok(sum == sent)
}

fn said(what: &str, start: Instant) {
    eprintln!("{:6.2} s  {what}", start.elapsed().as_secs_f64());
}

// I2, I5, I13, I14, I15, I37; the routers' SAM and proxies are off (I3), and the nodes are programs of their own (I6)
#[test]
fn two_nodes_and_the_tunnels_of_i2pd_meet_over_real_routers() {
    let Some(lab) = Lab::open() else { return };
    let _alone = anode_tests::lab::heavy();
    let start = Instant::now();
    let mut world = World::start(lab);
    said("routers and nodes run", start);
    let cases: [(&str, Case); 8] = [
        ("two nodes", two_nodes),
        ("100 MB", a_large_transfer),
        ("a server tunnel", a_server_tunnel),
        ("a web tunnel", half_closed_requests_to_a_web_tunnel),
        ("a UDP tunnel", a_udp_tunnel),
        ("a client tunnel", a_client_tunnel),
        ("two hops", two_hops),
        ("a crash of a router", a_router_that_is_killed),
    ];
    for (what, case) in cases {
        case(&mut world);
        said(what, start);
    }
}

fn two_nodes(world: &mut World) {
    destination(&world.a);
    let (name, ip) = destination(&world.b);
    world.found(&name);
    let host = &world.near().host;
    assert_eq!(learn(&world.a, host, &name), ip);
    let pinged = world.a.json(&["ping", &name, "-c", "3", "-W", "5"]);
    assert!(
        pinged["received"].as_u64() >= Some(1),
        "{pinged}\n{}",
        world.a.log()
    );
    echo_server(&world.far().host, port(ip, 7));
    let whole = echoed(host, port(ip, 7), 6, 1_000_000);
    assert!(whole.expect("an answer"), "{}", world.a.log());
    let at = port(ip, 80);
    let _web = programs::http_server(&world.far().host, at, world.lab.directory());
    for _ in 0..REQUESTS {
        assert!(get_half_closed(host, at, "/file").expect("an answer") == world.file);
    }
}

fn a_large_transfer(world: &mut World) {
    let (_, ip) = destination(&world.b);
    digest_server(world.far(), port(ip, 9));
    let stream = traffic::connect(&world.near().host, port(ip, 9), LIMIT).expect("a connection");
    let start = Instant::now();
    assert!(
        digested(stream, LARGE).expect("an answer"),
        "{}",
        world.a.log()
    );
    let megabytes = LARGE as f64 / 1e6 / start.elapsed().as_secs_f64();
    eprintln!("{LARGE} bytes at {megabytes:.1} MB/s");
}

fn a_server_tunnel(world: &mut World) {
    echo_server(&world.far().host, loopback(7000));
    let (echo, _) = world.tunnel("echo.dat");
    // its own server closes only when we do: nothing is half-closed here
    let mut stream =
        traffic::connect(&world.near().host, port(echo, 7), LIMIT).expect("a connection");
    let sent = traffic::Noise::new(7).bytes(FILE);
    let mut writer = stream.try_clone().expect("another handle");
    let noise = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&noise));
    let mut got = vec![0; FILE];
    stream.read_exact(&mut got).expect("all of it");
    writing.join().expect("no panic").expect("all of it");
    assert!(got == sent);
}

/// i2pd drops what it still has to send when it sees CLOSE.
fn half_closed_requests_to_a_web_tunnel(world: &mut World) {
    let _web = programs::http_server(&world.far().host, loopback(8000), world.lab.directory());
    let (web, name) = world.tunnel("web.dat");
    let host = &world.near().host;
    for round in 0..REQUESTS {
        let got = get_half_closed(host, port(web, 80), "/file");
        let got = got.unwrap_or_else(|e| panic!("{round}: {e}\n{}", world.a.log()));
        assert!(got == world.file, "{round}: {} bytes", got.len());
    }
    let resolving = Resolving::with(&world.lab, "a", &format!("nameserver {RESPONDER}\n"));
    let done = curl(&resolving, host, &format!("http://{name}/file"));
    assert!(done.expect_ok().out == world.file);
}

fn a_udp_tunnel(world: &mut World) {
    let _echo = UdpEcho::start(&world.far().host, loopback(7001));
    let (udp, _) = world.tunnel("udp.dat");
    let (_, own) = destination(&world.a);
    let socket = traffic::udp(&world.near().host, port(own, 5353));
    socket.set_read_timeout(Some(LIMIT)).expect("a socket");
    for size in [1, 1200, 9000] {
        let sent = traffic::Noise::new(size as u64).bytes(size);
        socket.send_to(&sent, port(udp, 7001)).expect("it leaves");
        let mut buffer = vec![0; 65_536];
        let (count, from) = socket.recv_from(&mut buffer).expect("an echo");
        assert!(
            buffer[..count] == sent && from.ip() == IpAddr::V6(udp),
            "{size} from {from}"
        );
    }
}

/// Programs behind the other router reach a service of ours through a tunnel of i2pd. They close nothing by halves: i2pd would
/// close all.
fn a_client_tunnel(world: &mut World) {
    let (_, ip) = destination(&world.a);
    let at = port(ip, 80);
    let _web = programs::http_server(&world.near().host, at, world.lab.directory());
    let far = &world.far().host;
    // i2pd asks for the lease set when the tunnel is first used, and closes the connection until it has it
    let start = Instant::now();
    let got = loop {
        match get(far, loopback(7100), "/file") {
            Ok(got) => break got,
            Err(error) => assert!(start.elapsed() < READY, "{error}\n{}", world.a.log()),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(got == world.file, "{} bytes", got.len());
}

fn two_hops(world: &mut World) {
    let ((_, from), (name, to)) = (named(&world.a, "far"), named(&world.b, "far"));
    world.found(&name);
    assert_eq!(learn(&world.a, &world.near().host, &name), to);
    digest_server(world.far(), port(to, 9));
    let stream = connect_from(world.near(), from, port(to, 9));
    let stream = stream.unwrap_or_else(|e| panic!("{e}\n{}", world.a.log()));
    assert!(
        digested(stream, 1_000_000).expect("an answer"),
        "{}",
        world.a.log()
    );
}

/// Programs hear of it at once, and reach the other node again over a new session.
fn a_router_that_is_killed(world: &mut World) {
    let (name, ip) = destination(&world.b);
    let to = port(ip, 7);
    let stream = traffic::connect(&world.near().host, to, LIMIT).expect("a connection");
    let mut writer = stream.try_clone().expect("another handle");
    let sending = std::thread::spawn(move || traffic::send_noise(&mut writer, 8, LARGE));
    std::thread::sleep(Duration::from_millis(500));
    world.net.routers[0].kill();
    let killed = Instant::now();
    assert!(
        sending.join().expect("no panic").is_err(),
        "the program hears of it"
    );
    let heard = killed.elapsed();
    assert!(heard < Duration::from_secs(3), "{heard:?}");
    drop(stream);
    world.net.routers[0].restart();
    let restarted = Instant::now();
    destination(&world.a);
    let sessions = &world.a.json(&["i2p", "status"])["destinations"][0]["sessions"];
    assert_eq!(*sessions, 2, "{}", world.a.log());
    eprintln!(
        "a session again after {:.1} s",
        restarted.elapsed().as_secs_f64()
    );
    world.found(&name);
    let host = &world.near().host;
    world.a.wait("b is reached again", READY, || {
        echoed(host, to, 9, 100_000).is_ok_and(|whole| whole)
    });
    eprintln!(
        "b is reached again after {:.1} s",
        restarted.elapsed().as_secs_f64()
    );
}

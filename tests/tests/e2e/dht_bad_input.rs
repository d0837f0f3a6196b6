//! What a node's DHT hears from strangers before any handshake, and from a member of its overlay that says what it should not:
//! a peer of the test's own, with a good certificate and links over DTLS and TLS.

mod intruder;
mod member;

use anode_routing::dht::reload::body::{PingRequest, TypeId};
use anode_routing::dht::reload::{Credentials, Header, Id, Method, overlay_hash};
use anode_routing::links::Target;
use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use intruder::{Intruder, links, sign, signer, store, unix, value};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_json::Value;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const OVERLAY: &str = "test.example";
const PORT: u16 = 6084;
const SOON: Duration = Duration::from_secs(20);
const OPEN: TypeId = TypeId(0xF0_0010);
/// KiB that a node may grow by under all of this: its tables have bounds, and so have its queues.
const GROWTH: u64 = 64 << 10;

/// Two nodes that are a ring, and a host that has none.
struct World {
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    bad: Host,
    lan: Lan,
    lab: Lab,
}

impl World {
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let bad = lan.host("bad");
        let mut world = Self {
            nodes: Vec::new(),
            hosts: Vec::new(),
            bad,
            lan,
            lab,
        };
        world.node("create = true");
        world.join();
        Some(world)
    }

    fn node(&mut self, lines: &str) {
        let name = format!("node{}", self.nodes.len());
        let host = self.lan.host(&name);
        let config = format!(
            "[[dht]]\noverlay = \"{OVERLAY}\"\nlisten = [\"{}:{PORT}\"]\n{lines}\n",
            host.v4()
        );
        let node = Node::on(&host, self.lab.directory(), &name);
        self.nodes.push(node.no_lan().config(&config).start());
        self.hosts.push(host);
    }

    /// One more node joins by DTLS, and has its place.
    fn join(&mut self) {
        let bootstrap = format!("bootstrap = [\"dtls://{}\"]", self.target());
        self.node(&bootstrap);
        let last = self.nodes.len() - 1;
        let node = &self.nodes[last];
        node.wait("its place", SOON, || {
            status(node)["joined"] == true && neighbours(node) == last
        });
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.hosts[0].v4().into(), PORT)
    }

    fn id(&self) -> Id {
        let status = status(&self.nodes[0]);
        let hex = status["node"].as_str().expect("an id");
        Id::from_number(u128::from_str_radix(hex, 16).expect("hex"))
    }

    /// Still there, none the fatter, and still what its neighbour knows it for.
    #[track_caller]
    fn unharmed(&mut self, before: u64) {
        let [first, second, ..] = &mut self.nodes[..] else {
            panic!("two nodes")
        };
        assert!(first.process().running(), "{}", first.log());
        assert!(!first.log().contains("panicked"), "{}", first.log());
        let after = first.memory_kib();
        println!("memory: {before} KiB before, {after} KiB after");
        assert!(after < before + GROWTH, "{before} KiB, now {after}");
        let got = second.json(&["dht", "get", "0xF00010", "kept"]);
        assert_eq!(got[0]["text"], "from before");
        assert_eq!(status(first)["joined"], true);
        assert!(neighbours(second) > 0);
    }

    fn keep(&mut self) -> u64 {
        let put = ["dht", "put", "0xF00010", "kept", "from before"];
        self.nodes[1].cli(&put).expect_ok();
        self.nodes[0].memory_kib()
    }
}

fn status(node: &Node) -> Value {
    node.json(&["dht", "status"])[0].clone()
}

fn neighbours(node: &Node) -> usize {
    status(node)["neighbours"].as_array().map_or(0, Vec::len)
}

// S35, R25: whoever shows nothing gets nothing, and takes nothing from those who do
#[test]
fn noise_before_the_handshake_keeps_nobody_out() {
    let Some(mut world) = World::start() else {
        return;
    };
    let before = world.keep();
    let target = world.target();
    let mut rng = StdRng::seed_from_u64(1);
    let socket = || {
        let at = SocketAddr::new(world.bad.v4().into(), 0);
        world.bad.run(|| UdpSocket::bind(at)).expect("a socket")
    };
    // A real first message, as this very program would send it.
    let hears = socket();
    hears.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut caller = links(&world.bad, 9);
    caller.dial(
        Instant::now(),
        Target::Dtls(hears.local_addr().expect("bound")),
    );
    caller.work(Instant::now());
    let mut hello = vec![0; 2048];
    let (length, _) = hears.recv_from(&mut hello).expect("a ClientHello");
    hello.truncate(length);
    assert!(hello[0] == 22 && hello[1] == 0xfe, "{:02x?}", &hello[..13]);

    let ping = PingRequest::default().emit().expect("short");
    let contents = sign(&signer(9), 1, Method::Ping as u16, &ping);
    let reload = Header::new(overlay_hash(OVERLAY), 1, vec![Id::WILDCARD]);
    let reload = reload.emit(&contents).expect("short");
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[9; 12]].concat();
    let mut all: Vec<Vec<u8>> = Vec::new();
    for sample in [&hello, &reload, &stun] {
        all.extend((0..=sample.len()).map(|length| sample[..length].to_vec()));
    }
    for length in (0..1472).step_by(7) {
        let mut noise = vec![0; length];
        rng.fill_bytes(&mut noise);
        all.push(noise.clone());
        // as a record of each type, of a length that it has not
        if length > 13 {
            noise[..3].copy_from_slice(&[20 + (length % 8) as u8, 0xfe, 0xfd]);
            all.push(noise);
        }
    }
    for _ in 0..1000 {
        let mut changed = hello.clone();
        for _ in 0..rng.random_range(1..5) {
            let place = rng.random_range(0..changed.len());
            changed[place] = rng.random();
        }
        all.push(changed);
    }
    println!("{} datagrams", all.len());
    let from = socket();
    for (count, bytes) in all.iter().enumerate() {
        from.send_to(bytes, target).expect("sent");
        if count % 50 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    // Handshakes that are begun and left alone, from more places than may be half open.
    let begun: Vec<UdpSocket> = (0..300).map(|_| socket()).collect();
    for socket in &begun {
        socket.send_to(&hello, target).expect("sent");
    }
    // The same over TCP: silence, noise, a record that announces more than there is, and half of a message.
    let connect = || world.bad.run(|| TcpStream::connect_timeout(&target, SOON));
    let silent: Vec<TcpStream> = (0..300).filter_map(|_| connect().ok()).collect();
    let mut noise = vec![0; 20_000];
    rng.fill_bytes(&mut noise);
    let record = [&[22, 3, 1, 0xff, 0xff][..], &noise].concat();
    for bytes in [
        &noise[..],
        &record,
        &record[..300],
        &reload,
        &hello,
        &noise[..1],
    ] {
        for _ in 0..20 {
            let Ok(mut stream) = connect() else { continue };
            // It may well be closed by now.
            let _ = stream.write_all(bytes);
        }
    }
    let ignored = world.nodes[0].metrics().sum("anode_dht_own_");
    assert!(ignored > 0.0, "{:?}", world.nodes[0].metrics().all());
    // Meanwhile somebody comes in, over either.
    world.join();
    Intruder::new(&world, 10, Target::Tls(target)).pings();
    world.unharmed(before);
    drop((begun, silent));
}

// S35, R140, RD64: whoever has a certificate may ask for much, and gets his share; others get theirs meanwhile
#[test]
fn a_flood_of_puts_takes_no_more_than_its_share() {
    let Some(mut world) = World::start() else {
        return;
    };
    let before = world.keep();
    let target = Target::Dtls(world.target());
    let stored = |world: &World| {
        status(&world.nodes[0])["stored"]
            .as_u64()
            .expect("a number")
    };
    let at_first = stored(&world);
    let mut intruder = Intruder::new(&world, 40, target);
    let mut flood = |world: &World, signers: u16, time: Duration| {
        let (begun, mut said) = (Instant::now(), 0u64);
        let owners: Vec<Credentials> = (0..signers).map(|n| signer(100 + n)).collect();
        while begun.elapsed() < time {
            let owner = &owners[said as usize % owners.len()];
            said += 1;
            let near = Id::from_number(intruder.node.number() - u128::from(said));
            let data = value(near, owner, owner, vec![b'x'; 900], unix());
            let header = intruder.header(near);
            let body = store(near, OPEN, data);
            let contents = sign(owner, header.transaction, Method::Store as u16, &body);
            let message = header.emit(&contents).expect("short");
            // What finds no room is lost.
            intruder.links.send(Instant::now(), intruder.link, &message);
            if said % 16 == 0 {
                intruder.turn();
            }
        }
        let spent = begun.elapsed().as_secs_f64();
        (said, spent, stored(world))
    };
    // One who floods in his own name gets 5 a second and 20 at once.
    let (said, spent, after_one) = flood(&world, 1, Duration::from_secs(2));
    let kept = after_one - at_first;
    println!("one signer: {said} STOREs in {spent:.1} s, {kept} kept");
    assert!(
        kept > 0 && kept as f64 <= 20.0 + 5.0 * (spent + 3.0),
        "{kept}"
    );

    // In many names, which cost him nothing: 100 a second and 200 at once, the half of what the node has time for. Somebody else
    // asks at the same time.
    let cpu = world.nodes[0].cpu_seconds();
    let (spent, after_many) = std::thread::scope(|scope| {
        let user = &world.nodes[1];
        let asks = scope.spawn(move || {
            let mut slowest = Duration::ZERO;
            for n in 0..10 {
                std::thread::sleep(Duration::from_millis(200));
                let begun = Instant::now();
                let key = format!("key {n}");
                user.cli(&["dht", "put", "0xF00010", &key, "honest"])
                    .expect_ok();
                let got = user.json(&["dht", "get", "0xF00010", &key]);
                assert_eq!(got[0]["text"], "honest");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        let mut sum = (0, 0.0, after_one);
        while !asks.is_finished() {
            let (said, spent, after) = flood(&world, 64, Duration::from_secs(1));
            sum = (sum.0 + said, sum.1 + spent, after);
        }
        let slowest = asks.join().expect("it is served");
        println!(
            "64 signers: {} STOREs in {:.1} s; another's put and get took {slowest:?} at most",
            sum.0, sum.1
        );
        (sum.1, sum.2)
    });
    let used = world.nodes[0].cpu_seconds() - cpu;
    let kept = after_many - after_one;
    println!("{kept} kept; {:.0} % of a processor", 100.0 * used / spent);
    assert!(
        kept as f64 <= 200.0 + 100.0 * (spent + 3.0) + 20.0,
        "{kept}"
    );
    let metrics = world.nodes[0].metrics();
    let limited = metrics.sum("anode_dht_rate_limited");
    assert!(limited > 0.0, "{:?}", metrics.all());
    world.unharmed(before);
}

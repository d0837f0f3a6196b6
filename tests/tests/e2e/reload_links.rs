//! RELOAD over links of its own: rings over DTLS and TLS, where no session of ours leads, and who is kept out of them.

use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

const PORT: u16 = 6084;
const SOON: Duration = Duration::from_secs(45);

/// Machines that know nobody, have no zone and hear no beacons: nothing but the DHT's own links connects them.
struct World {
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    lan: Lan,
    lab: Lab,
}

impl World {
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        Some(Self {
            nodes: Vec::new(),
            hosts: Vec::new(),
            lan,
            lab,
        })
    }

    /// So many machines in one ring, all by links of this kind to the first.
    fn ring(scheme: &str, count: usize) -> Option<Self> {
        let mut world = Self::start()?;
        world.node("test.example", "create = true");
        let bootstrap = world.first(scheme);
        for _ in 1..count {
            world.node("test.example", &bootstrap);
        }
        world.closed(count);
        Some(world)
    }

    /// One more machine with these lines below `[[dht]]`, beside where it listens.
    fn node(&mut self, overlay: &str, lines: &str) -> usize {
        self.node_with(overlay, lines, None)
    }

    /// The same with a peer digit, and the key of another machine.
    fn node_with(&mut self, overlay: &str, lines: &str, shares: Option<(&str, usize)>) -> usize {
        let name = format!("node{}", self.nodes.len());
        let host = self.lan.host(&name);
        if let Some((_, other)) = shares {
            let state = self.lab.directory().join(&name);
            fs::create_dir_all(&state).expect("a directory");
            let key = state.join("identity.key");
            fs::copy(self.nodes[other].state().join("identity.key"), &key).expect("a key");
            for (path, mode) in [(state, 0o700), (key, 0o600)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
            }
        }
        let config = format!(
            "[[dht]]\noverlay = \"{overlay}\"\nlisten = [\"{}:{PORT}\"]\n{lines}\n",
            host.v4()
        );
        let node = Node::on(&host, self.lab.directory(), &name);
        let digit = shares.map(|(digit, _)| ["--peer-id", digit]);
        let node = node.no_lan().config(&config);
        let node = node
            .args(digit.as_ref().map_or(&[][..], |it| &it[..]))
            .start();
        self.hosts.push(host);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Where the first machine will be: a host that is there already, or the next one of this network.
    fn lan_address(&self) -> std::net::Ipv4Addr {
        let first = self.hosts.first().map(Host::v4);
        first.unwrap_or(std::net::Ipv4Addr::new(192, 0, 2, 1))
    }

    /// `bootstrap = […]` for the first one.
    fn first(&self, scheme: &str) -> String {
        let at = self.hosts[0].v4();
        format!("bootstrap = [\"{scheme}://{at}:{PORT}\"]")
    }

    fn status(&self, node: usize) -> Value {
        self.nodes[node].json(&["dht", "status"])[0].clone()
    }

    fn neighbours(&self, node: usize) -> usize {
        let status = self.status(node);
        status["neighbours"].as_array().map_or(0, Vec::len)
    }

    /// Waits until each of the first `count` has all others as neighbours.
    #[track_caller]
    fn closed(&self, count: usize) {
        let begin = Instant::now();
        for node in 0..count {
            while self.neighbours(node) < count - 1 {
                let all = || (0..count).map(|node| self.status(node)).collect::<Vec<_>>();
                assert!(
                    begin.elapsed() < SOON,
                    "node {node}: {:#?}\n{}",
                    all(),
                    self.nodes[node].log()
                );
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        println!("{count} nodes: closed after {:?}", begin.elapsed());
    }

    /// What one stores the other finds.
    #[track_caller]
    fn stores(&self, from: usize, to: usize) {
        let put = ["dht", "put", "0xF00010", "a key", "a value"];
        self.nodes[from].cli(&put).expect_ok();
        let got = self.nodes[to].json(&["dht", "get", "0xF00010", "a key"]);
        assert!(got.to_string().contains("a value"), "{got}");
    }

    fn metric(&self, node: usize, name: &str) -> f64 {
        self.nodes[node].metrics().sum(name)
    }
}

// R2, R32, R113, R138, R101 to R107: links to the first by DTLS, all others by CONNECT and ICE
#[test]
fn a_ring_over_dtls_alone() {
    let Some(world) = World::ring("dtls", 4) else {
        return;
    };
    world.stores(1, 3);
}

// R2, R9
#[test]
fn a_ring_over_tls_alone() {
    let Some(world) = World::ring("tls", 2) else {
        return;
    };
    world.stores(1, 0);
}

// R129: whoever starts again finds its overlay by a peer that it had a link to by ICE, when the one it once asked has gone
#[test]
fn a_peer_met_by_ice_is_the_way_back_after_a_restart() {
    let Some(mut world) = World::ring("dtls", 4) else {
        return;
    };
    world.nodes[1].terminate();
    let kept = world.nodes[1].state().join("dht.toml");
    let kept = std::fs::read_to_string(kept).expect("peers of this run");
    let met = format!("dtls://{}:{PORT}", world.hosts[2].v4());
    assert!(kept.contains(&met), "{kept}");
    world.nodes[0].terminate();
    world.nodes[1].start();
    // A neighbour is known before the ring has taken it in.
    world.nodes[1].wait("its overlay", SOON, || {
        world.status(1)["joined"] == true && world.neighbours(1) == 2
    });
    world.stores(1, 2);
}

/// A server that has one document, for whoever asks.
fn serve(host: &Host, document: String) -> SocketAddr {
    let at = SocketAddr::new(host.v4().into(), 8080);
    let listener = host.run(|| TcpListener::bind(at)).expect("a listener");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // What is asked for does not matter.
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/p2p-overlay+xml\r\n";
            let length = document.len();
            let _ = write!(stream, "{head}Content-Length: {length}\r\n\r\n{document}");
        }
    });
    at
}

// R123, R124, R125, R128: the overlay's document says whom to ask, from a file and from a server
#[test]
fn the_configuration_document_leads_to_the_ring() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.node("test.example", "create = true");
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <overlay xmlns=\"urn:ietf:params:xml:ns:p2p:overlay\" name=\"test.example\" expiration=\"86400\">\
         <dht name=\"chord-128-2-8\"/><bootstrap-peer address=\"{}\" port=\"{PORT}\"/>\
         <self-signed-permitted digest=\"sha256\">true</self-signed-permitted></overlay>",
        world.hosts[0].v4()
    );
    let file = world.lab.directory().join("overlay.xml");
    std::fs::write(&file, &document).expect("written");
    let at = serve(&world.hosts[0], document);
    let name = world.node("test.example", &format!("config = \"{}\"", file.display()));
    let from_server = world.node(
        "test.example",
        &format!("config = \"http://{at}/p2psip/enroll\""),
    );
    world.closed(3);
    world.stores(name, from_server);
}

// RD62: machines that share an address are told apart by their peer digits; they have no session with each other, and are
// neighbours by links of RELOAD's own
#[test]
fn machines_that_share_an_address_are_neighbours() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.node("test.example", "create = true");
    let bootstrap = world.first("dtls");
    for digit in ["1", "2"] {
        world.node_with("test.example", &bootstrap, Some((digit, 0)));
    }
    let address = |node: usize| world.nodes[node].address();
    assert_eq!((address(1), address(2)), (address(0), address(0)));
    world.closed(3);
    world.stores(1, 2);
}

// R13, RD61: who has the key is a member, who has not is none
#[test]
fn a_ring_with_a_shared_key() {
    let Some(mut world) = World::start() else {
        return;
    };
    let file = |world: &World, name: &str, text: &str| {
        let path = world.lab.directory().join(name);
        std::fs::write(&path, text).expect("written");
        format!("shared-key-file = \"{}\"", path.display())
    };
    let key = file(&world, "key", "correct horse battery staple\n");
    let other = file(&world, "other", "correct horse battery stable\n");
    world.node("test.example", &format!("create = true\n{key}"));
    let bootstrap = world.first("dtls");
    for _ in 0..2 {
        world.node("test.example", &format!("{bootstrap}\n{key}"));
    }
    world.closed(3);
    world.stores(1, 2);
    let stranger = world.node("test.example", &format!("{bootstrap}\n{other}"));
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(world.status(stranger)["joined"], false);
    assert_eq!(world.neighbours(0), 2);
}

// R138: a certificate of another overlay is none
#[test]
fn a_stranger_stays_outside() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.node("test.example", "create = true");
    for scheme in ["dtls", "tls"] {
        let bootstrap = world.first(scheme);
        let stranger = world.node("other.example", &bootstrap);
        let begin = Instant::now();
        let failed = "anode_dht_own_links_failed_total";
        let before = world.metric(0, failed);
        while world.metric(0, failed) <= before && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(world.status(stranger)["joined"], false);
        assert_eq!(world.metric(0, "anode_dht_links{"), 0.0);
        assert!(world.metric(0, failed) > 0.0, "{scheme}");
    }
}

// R125, RD60: the document names a group, and nobody: whoever is in the ring answers there
#[test]
fn a_multicast_group_leads_to_the_ring() {
    let Some(mut world) = World::start() else {
        return;
    };
    let document = "<overlay name=\"test.example\"><multicast-bootstrap address=\"239.255.60.84\" port=\"6085\"/>\
         <self-signed-permitted>true</self-signed-permitted></overlay>";
    let file = world.lab.directory().join("overlay.xml");
    std::fs::write(&file, document).expect("written");
    let config = format!("config = \"{}\"", file.display());
    world.node("test.example", &format!("create = true\n{config}"));
    for _ in 0..2 {
        world.node("test.example", &config);
    }
    world.closed(3);
    world.stores(1, 2);
}

// R14, RD70: an overlay moves to another one: written to both, read from the first, then from the second
#[test]
fn an_overlay_moves_to_another_one() {
    let Some(mut world) = World::start() else {
        return;
    };
    let document = |world: &World, stage: u8| {
        let at = world.lan_address();
        let overlay = |name: &str, port: u16, more: &str| {
            format!(
                "<overlay name=\"{name}\"><bootstrap-peer address=\"{at}\" port=\"{port}\"/>\
                 <self-signed-permitted>true</self-signed-permitted>{more}</overlay>"
            )
        };
        let migration = format!("<migration overlay=\"new.example\" stage=\"{stage}\"/>");
        let both = overlay("test.example", PORT, &migration) + &overlay("new.example", 6184, "");
        let file = world.lab.directory().join(format!("stage{stage}.xml"));
        std::fs::write(&file, format!("<overlays>{both}</overlays>")).expect("written");
        format!("config = \"{}\"", file.display())
    };
    // The first peer has tables for both, so that there is somebody to ask in each.
    let at = world.lan_address();
    let second = format!(
        "create = true\n[[dht]]\noverlay = \"new.example\"\ncreate = true\nlisten = [\"{at}:6184\"]"
    );
    world.node("test.example", &second);
    let (one, two) = (document(&world, 1), document(&world, 2));
    let writes = world.node("test.example", &one);
    let reads = world.node("test.example", &two);
    for node in [writes, reads] {
        world.nodes[node].wait("both overlays", SOON, || {
            let all = world.nodes[node].json(&["dht", "status"]);
            let all = all.as_array().cloned().unwrap_or_default();
            all.len() == 2 && all.iter().all(|one| one["joined"] == true)
        });
    }
    let put = |node: usize, overlay: &[&str], key: &str| {
        let put = [&["dht", "put", "0xF00010", key, "a value"], overlay].concat();
        world.nodes[node].cli(&put).expect_ok();
    };
    let finds = |node: usize, overlay: &[&str], key: &str| {
        let get = [&["dht", "get", "0xF00010", key], overlay].concat();
        world.nodes[node].cli(&get).code() == 0
    };
    let (old, new) = (["--overlay", "test.example"], ["--overlay", "new.example"]);
    put(writes, &[], "both");
    let reader = &world.nodes[0];
    reader.wait("the value in both", SOON, || {
        finds(0, &old, "both") && finds(0, &new, "both")
    });
    put(0, &old, "old");
    put(0, &new, "new");
    assert!(
        finds(writes, &[], "old") && !finds(writes, &[], "new"),
        "stage 1 reads the old one"
    );
    assert!(
        finds(reads, &[], "old") && finds(reads, &[], "new"),
        "stage 2 reads both"
    );
}

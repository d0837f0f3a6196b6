//! An overlay whose members have certificates: the relay's credential server issues them to whoever knows a password.

use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use anode_tests::programs;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const OVERLAY: &str = "home.example";
const SOON: Duration = Duration::from_secs(20);

struct World {
    overlay: &'static str,
    relay: Node,
    hosts: Vec<Host>,
    lan: Lan,
    lab: Lab,
}

impl World {
    fn start(overlay: &'static str) -> Option<Self> {
        Self::issuing(overlay, "60")
    }

    /// With certificates that are good for so many days.
    fn issuing(overlay: &'static str, days: &str) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let host = lan.host("relay");
        let users = secret(&lab, "users", "alice:correct horse\nbob:battery staple\n");
        let config = format!(
            "listen = [\"{at}:8737\"]\n[relay]\n[[dht]]\noverlay = \"{overlay}\"\ncreate = true\n\
             listen = [\"{at}:6084\"]\n[dht.credential-server]\nusers-file = \"{}\"\ndays = {days}",
            users.display(),
            at = host.v4()
        );
        let relay = Node::on(&host, lab.directory(), "relay").relay();
        let relay = relay.config(&config).start();
        Some(Self {
            overlay,
            relay,
            hosts: vec![host],
            lan,
            lab,
        })
    }

    fn document(&self) -> String {
        self.kept("xml")
    }

    /// What the credential server has written for its operator.
    fn kept(&self, what: &str) -> String {
        let file = self
            .relay
            .state()
            .join(format!("dht-{}.{what}", self.overlay));
        file.display().to_string()
    }

    /// A machine that shows this password as this user.
    fn node(&mut self, name: &str, user: &str, password: &str) -> Node {
        let document = format!("config = \"{}\"\n", self.document());
        self.node_with(name, user, password, &document, &[])
    }

    fn node_with(
        &mut self,
        name: &str,
        user: &str,
        password: &str,
        document: &str,
        wrapper: &[&str],
    ) -> Node {
        let host = self.lan.host(name);
        let file = secret(&self.lab, &format!("{name}.password"), password);
        let config = format!(
            "[[dht]]\noverlay = \"{}\"\n{document}listen = [\"{}:6084\"]\n\
             user = \"{user}\"\npassword-file = \"{}\"",
            self.overlay,
            host.v4(),
            file.display()
        );
        let node = Node::on(&host, self.lab.directory(), name).no_lan();
        let node = node.config(&config).wrapper(wrapper).start();
        self.hosts.push(host);
        node
    }
}

fn secret(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.directory().join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    path
}

fn status(node: &Node) -> Value {
    node.json(&["dht", "status"])[0].clone()
}

fn neighbours(node: &Node) -> usize {
    status(node)["neighbours"].as_array().map_or(0, Vec::len)
}

// R12, R122, R123, R126, R127, R135, R138, R139, R143, RD59: alice and bob get certificates and make a ring, mallory gets none
#[test]
fn whoever_knows_a_password_gets_a_certificate_and_a_place() {
    let Some(mut world) = World::start(OVERLAY) else {
        return;
    };
    let mut alice = world.node("alice", "alice", "correct horse\n");
    let bob = world.node("bob", "bob", "battery staple");
    let mallory = world.node("mallory", "alice", "wrong horse");
    for node in [&world.relay, &alice, &bob] {
        node.wait("all three as members", SOON, || {
            assert!(!node.log().contains("panicked"), "{}", node.log());
            neighbours(node) == 2
        });
    }
    let put = ["dht", "put", "0xF00010", "a key", "a value"];
    alice.cli(&put).expect_ok();
    let got = bob.json(&["dht", "get", "0xF00010", "a key"]);
    assert_eq!(got[0]["text"], "a value");
    // In the name of the Peer-ID that her certificate holds: a TURN server at a place that follows from it (R135).
    let pointer = "hex:0101c63364010d96";
    let put = ["dht", "put", "TURN-SERVICE", "1", pointer];
    alice.cli(&put).expect_ok();
    let own = status(&alice)["node"].as_str().map(str::to_owned);
    let place = format!("hex:{}01", own.expect("an id"));
    let got = bob.json(&["dht", "get", "TURN-SERVICE", &place]);
    assert_eq!(
        format!("hex:{}", got[0]["hex"].as_str().expect("hex")),
        pointer
    );
    let put = ["dht", "put", "TURN-SERVICE", "1", "hex:0201c63364010d96"];
    assert_eq!(
        alice.cli(&put).code(),
        1,
        "the second one has another place"
    );

    mallory.wait("a refusal", SOON, || {
        mallory.log().contains("password of alice")
    });
    assert_eq!(mallory.json(&["dht", "status"]), serde_json::json!([]));
    for node in [&world.relay, &alice, &bob, &mallory] {
        for word in ["correct horse", "battery staple", "wrong horse"] {
            assert!(!node.log().contains(word), "{}", node.log());
        }
    }

    // The certificate is kept: the same place again, although nobody issues any.
    let before = status(&alice)["node"].clone();
    let file = alice.state().join(format!("dht-{OVERLAY}.crt"));
    let certificate = fs::read(&file).expect("a certificate");
    alice.terminate();
    world.relay.kill();
    alice.start();
    assert_eq!(status(&alice)["node"], before);
    assert_eq!(fs::read(&file).expect("a certificate"), certificate);

    // Lost, it is issued anew, for the same place.
    alice.terminate();
    fs::remove_file(&file).expect("it was there");
    world.relay.start();
    alice.start();
    alice.wait("another certificate", SOON, || file.exists());
    assert_ne!(fs::read(&file).expect("a certificate"), certificate);
    alice.wait("its place", SOON, || status(&alice)["node"] == before);
}

// R126, R137, R138: certificates are renewed while all goes on: places, links and what is stored stay, also when the first ones
// have expired long since
#[test]
fn a_renewed_certificate_changes_nothing_but_itself() {
    // 17 s; they are renewed after six and a half.
    let Some(mut world) = World::issuing(OVERLAY, "0.0002") else {
        return;
    };
    let begun = Instant::now();
    let lifetime = Duration::from_millis(17_280);
    let alice = world.node("alice", "alice", "correct horse");
    let bob = world.node("bob", "bob", "battery staple");
    let nodes = [&world.relay, &alice, &bob];
    for node in nodes {
        node.wait("all three as members", SOON, || neighbours(node) == 2);
    }
    alice
        .cli(&["dht", "put", "0xF00010", "a key", "a value"])
        .expect_ok();
    let files = [&alice, &bob].map(|node| node.state().join(format!("dht-{OVERLAY}.crt")));
    let shown = || {
        files
            .each_ref()
            .map(|file| fs::read(file).expect("a certificate"))
    };
    let places = || nodes.map(|node| status(node)["node"].clone());
    let lost = || nodes.map(|node| node.metrics().sum("anode_dht_links_lost_total"));
    let (before, at, gone) = (shown(), places(), lost());
    alice.wait("other certificates", SOON, || {
        shown().iter().zip(&before).all(|(now, then)| now != then)
    });
    // The relay's own first one is the oldest: when it has expired, so have all first ones.
    std::thread::sleep((lifetime + Duration::from_secs(1)).saturating_sub(begun.elapsed()));
    assert_eq!(places(), at);
    assert_eq!(lost(), gone, "links stay");
    for node in nodes {
        assert_eq!(neighbours(node), 2);
        let got = node.json(&["dht", "get", "0xF00010", "a key"]);
        assert_eq!(got[0]["text"], "a value");
        let log = node.log();
        assert!(!log.contains("entering anew"), "{log}");
    }
}

// R122, R123: by the name alone, as DNS SRV has it; the server shows the name's certificate
#[test]
fn an_overlay_is_found_by_its_name_in_the_dns() {
    let Some(mut world) = World::start(OVERLAY) else {
        return;
    };
    let host = &world.hosts[0];
    let records = [
        format!("--srv-host=_p2p_enroll._tcp.{OVERLAY},box.{OVERLAY},6085"),
        format!("--host-record=box.{OVERLAY},{}", host.v4()),
    ];
    let dns = SocketAddr::new(host.v4().into(), 53);
    let _dns = programs::dnsmasq(host, dns, &records);
    let resolv = world.lab.directory().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\n", host.v4())).expect("written");
    let run = format!(
        "mount --bind {} /etc/resolv.conf && SSL_CERT_FILE={} exec \"$@\"",
        resolv.display(),
        world.kept("pem")
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &run, "sh"];
    let alice = world.node_with("alice", "alice", "correct horse", "", &wrapper);
    alice.wait("its place", SOON, || neighbours(&alice) == 1);
}

// R122, R123: under .local, by multicast DNS
#[test]
fn an_overlay_of_this_network_is_found_by_multicast_dns() {
    let Some(mut world) = World::start("home.local") else {
        return;
    };
    let trust = format!("SSL_CERT_FILE={}", world.kept("pem"));
    let wrapper = ["env", &trust];
    let alice = world.node_with("alice", "alice", "correct horse", "", &wrapper);
    alice.wait("its place", SOON, || neighbours(&alice) == 1);
    // Whoever does not trust the root that the server shows does not believe it.
    let stranger = world.node_with("eve", "alice", "correct horse", "", &[]);
    stranger.wait("a refusal", SOON, || stranger.log().contains("TLS"));
    assert_eq!(stranger.json(&["dht", "status"]), serde_json::json!([]));
}

// R126, S35: what cannot be meant is told at the start
#[test]
fn a_credential_server_that_makes_no_sense_is_refused() {
    let Some(world) = World::start(OVERLAY) else {
        return;
    };
    let host = &world.hosts[0];
    let good = secret(&world.lab, "good", "alice:x\n");
    let open = secret(&world.lab, "open", "alice:x\n");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("ours");
    let server = "[dht.credential-server]\nusers-file = ";
    let listen = "listen = [\"127.0.0.1:6090\"]";
    let config = |lines: &str, file: &PathBuf| format!("{lines}\n{server}\"{}\"\n", file.display());
    let cases = [
        (config("", &good), 2, "links of its own"),
        (
            config(&format!("{listen}\nuser = \"a\""), &good),
            2,
            "password-file",
        ),
        (
            format!("user = \"a\"\npassword-file = \"{}\"", open.display()),
            2,
            "chmod 600",
        ),
        (config(listen, &open), 2, "chmod 600"),
        (format!("{}days = 0\n", config(listen, &good)), 2, "3650"),
        (
            format!("{}days = 0.00001\n", config(listen, &good)),
            2,
            "3650",
        ),
        (
            format!("{}days = \"1\"\n", config(listen, &good)),
            2,
            "string",
        ),
        (format!("{}hours = 1\n", config(listen, &good)), 2, "hours"),
        ("user = \"a b\"".to_owned(), 2, "letters"),
        (
            format!("config = \"{}\"", world.document()),
            1,
            "password-file",
        ),
        (
            "user = \"a\"\npassword-file = \"x\"\nconfig = \"\"".to_owned(),
            2,
            "config is empty",
        ),
    ];
    for (number, (lines, code, says)) in cases.into_iter().enumerate() {
        let node = Node::on(host, world.lab.directory(), &format!("bad{number}")).relay();
        let config = format!(
            "listen = [\"127.0.0.1:0\"]\n[relay]\n[[dht]]\noverlay = \"{OVERLAY}\"\n{lines}"
        );
        let done = host.finish(node.config(&config).command(), SOON);
        assert_eq!(done.code(), code, "{lines}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{lines}: {}", done.stderr);
    }
}

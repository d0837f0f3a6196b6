//! Zone files over real HTTP: fetched, kept through the server's death, changed under way, forged.

use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node, Proc, anode_binary, command};
use anode_tests::programs;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SOON: Duration = Duration::from_secs(10);

/// A zone that one machine serves, and another machine that lives in it. Dropped in this order.
struct Zone {
    server: Option<Proc>,
    web: Host,
    host: Host,
    /// What `anode zone new` made.
    zone: PathBuf,
    /// What the server serves.
    served: PathBuf,
    edits: std::cell::Cell<u64>,
    _lan: Lan,
    lab: Lab,
}

impl Zone {
    fn new(zone: &str) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::Both);
        let (web, host) = (lan.host("web"), lan.host("node"));
        let directory = lab.directory().join("zone");
        let served = lab.directory().join("served");
        fs::create_dir(&served).expect("a directory");
        let zone = Self {
            server: None,
            zone: directory,
            served,
            edits: std::cell::Cell::new(0),
            web,
            host,
            _lan: lan,
            lab,
        }
        .made(zone);
        Some(zone)
    }

    fn made(self, zone: &str) -> Self {
        let place = self.zone.to_str().expect("a path").to_owned();
        let relay = format!("{}:8737", self.web.v4());
        self.anode(&["zone", "new", &place, "--zone", zone, "--relay", &relay])
            .expect_ok();
        self
    }

    fn anode(&self, arguments: &[&str]) -> Done {
        let mut anode = command(anode_binary());
        anode.args(arguments);
        self.host.finish(anode, SOON)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.zone.join("zone")).expect("the zone file")
    }

    /// Makes a key and a certificate for it.
    fn certificate(&self, certificate: &Path, key: &Path, what: &[&str]) {
        let mut make = command("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(what)
            .arg("-keyout")
            .arg(key)
            .arg("-out")
            .arg(certificate);
        self.host.finish(make, SOON).expect_ok();
    }

    /// Edits the zone file and signs it.
    fn edit(&self, more: &str) {
        let text = self.text() + more;
        fs::write(self.zone.join("zone"), text).expect("written");
        let place = self.zone.to_str().expect("a path").to_owned();
        self.anode(&["zone", "sign", &place]).expect_ok();
    }

    /// Puts a file where the server finds it, later than any before it by HTTP's clock, which knows seconds.
    fn publish(&self, name: &str, text: &str) {
        let path = self.served.join(name);
        fs::write(&path, text).expect("written");
        self.edits.set(self.edits.get() + 1);
        let date = SystemTime::now() - Duration::from_secs(1000 - self.edits.get() * 10);
        let file = File::options().write(true).open(&path).expect("the file");
        file.set_modified(date).expect("a date");
    }

    fn serve(&mut self, at: SocketAddr) {
        self.server = Some(programs::http_server(&self.web, at, &self.served));
    }

    fn node(&self, arguments: &[&str]) -> Node {
        Node::on(&self.host, self.lab.directory(), "state")
            .no_lan()
            .args(arguments)
            .start()
    }
}

fn revision(node: &Node) -> u64 {
    let status = node.json(&["zone", "show"]);
    status["file"]["revision"].as_u64().unwrap_or_default()
}

fn trouble(node: &Node) -> String {
    let status = node.json(&["zone", "show"]);
    status["trouble"].as_str().unwrap_or_default().to_owned()
}

// A5 to A8, D4, D5
#[test]
fn a_fresh_node_lives_in_the_zone_of_its_url_and_survives_the_death_of_the_server() {
    let Some(mut zone) = Zone::new("2a") else {
        return;
    };
    zone.publish("zone", &zone.text());
    let at = SocketAddr::new(zone.web.v4().into(), 8080);
    zone.serve(at);
    let url = format!("http://{at}/zone");
    let mut node = zone.node(&["--zone-file", &url]);
    assert_eq!(node.json(&["address"])["zone"], "0000002a");
    node.wait("the file", SOON, || revision(&node) == 1);
    let status = node.json(&["zone", "show"]);
    let file = &status["file"];
    assert_eq!(
        (&status["from"], &file["source"]),
        (&Value::from(&*url), &Value::from(&*url))
    );
    assert_eq!(file["signer"], status["key"]);
    let endpoints = file["relays"][0]["endpoints"].as_array().expect("a list");
    let relay = format!("udp://{}:8737", zone.web.v4());
    assert!(endpoints.contains(&Value::from(relay)), "{status}");

    node.terminate();
    zone.server = None;
    node.start();
    assert_eq!(
        revision(&node),
        1,
        "the copy is in use before any server answers"
    );
    node.wait("the trouble", SOON, || trouble(&node).contains(&url));
    assert!(
        node.ready_after() < Duration::from_secs(5),
        "{:?}",
        node.ready_after()
    );
    zone.edit("");
    zone.publish("zone", &zone.text());
    zone.serve(at);
    node.cli(&["zone", "refresh"]).expect_ok();
    assert_eq!((revision(&node), trouble(&node)), (2, String::new()));
}

// S27
#[test]
fn a_change_takes_effect_under_way_and_a_forgery_never() {
    let Some(mut zone) = Zone::new("2a") else {
        return;
    };
    zone.publish("zone", &zone.text());
    let at = SocketAddr::new(zone.web.v4().into(), 8080);
    zone.serve(at);
    let url = format!("http://{at}/zone");
    let mut node = zone.node(&["--zone-file", &url]);
    node.wait("the file", SOON, || revision(&node) == 1);
    let policy = "[lan]\nenabled = false\n[inbound]\nallow = [\"zone:2a tcp/22\"]\n";
    let config = node.state().with_extension("toml");
    fs::write(&config, policy).expect("written");
    let refused = node.cli(&["policy", "reload"]);
    assert_eq!(refused.code(), 2, "{refused}");
    assert!(
        refused
            .to_string()
            .contains("no signed list of members of zone 0000002a"),
        "{refused}"
    );

    // a member of another zone than the file's is a mistake
    let stranger = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
    fs::write(
        zone.zone.join("zone"),
        zone.text() + &format!("member.box={stranger}\r\n"),
    )
    .expect("written");
    let place = zone.zone.to_str().expect("a path").to_owned();
    let wrong = zone.anode(&["zone", "sign", &place]);
    assert_eq!(wrong.code(), 2, "{wrong}");
    assert!(wrong.to_string().contains("is of zone 00000000"), "{wrong}");
    let own = node.address().to_owned();
    let text = zone.text().replace(stranger, &own);
    fs::write(zone.zone.join("zone"), text).expect("written");
    zone.edit("");
    zone.publish("zone", &zone.text());
    // a hangup looks, too
    fs::write(&config, "[lan]\nenabled = false\n").expect("written");
    node.process().signal(Signal::SIGHUP);
    node.wait("revision 2", SOON, || revision(&node) == 2);
    fs::write(&config, policy).expect("written");
    node.cli(&["policy", "reload"]).expect_ok();
    let ipv6 = node.ipv6().to_string();
    let allowed = node.json(&["policy", "check", &ipv6, "tcp/22"]);
    assert_eq!(allowed["verdict"], "allow", "{allowed}");

    let good = zone.text();
    let verdict_of = |answer: Value| answer["verdict"].as_str().unwrap_or_default().to_owned();
    for (forged, why) in [
        (good.replace("r=2", "r=99"), "sig= is not by key="),
        (
            good.replace("8737:8737", "9999:9999"),
            "sig= is not by key=",
        ),
        (
            good.lines()
                .filter(|line| !line.starts_with("sig=") && !line.starts_with("key="))
                .map(|line| format!("{line}\r\n"))
                .collect(),
            "it is not signed",
        ),
        ("<html>404</html>".to_owned(), "is missing"),
        ("x=".repeat(200_000), "more than 262144 bytes"),
    ] {
        zone.publish("zone", &forged);
        let refused = node.cli(&["zone", "refresh"]);
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.to_string().contains(why), "{why}: {refused}");
        assert_eq!(revision(&node), 2);
        assert_eq!(
            verdict_of(node.json(&["policy", "check", &ipv6, "tcp/22"])),
            "allow"
        );
    }

    // another key: whoever took the server over, or the operator who lost the old one
    fs::remove_file(zone.zone.join("zone.key")).expect("removed");
    let other = zone.lab.directory().join("other");
    let other_text = other.to_str().expect("a path").to_owned();
    let relay = format!("{}:8737", zone.web.v4());
    let made = zone
        .anode(&[
            "zone",
            "new",
            &other_text,
            "--zone",
            "2a",
            "--relay",
            &relay,
            "--json",
        ])
        .expect_ok();
    let made: Value = serde_json::from_slice(&made.out).expect("JSON");
    zone.publish(
        "zone",
        &fs::read_to_string(other.join("zone")).expect("the file"),
    );
    let refused = node.cli(&["zone", "refresh", "--force"]);
    assert_eq!(refused.code(), 1, "{refused}");
    let key = made["key"].as_str().expect("a key");
    assert!(
        refused
            .to_string()
            .contains(&format!("anode zone accept {key}")),
        "{refused}"
    );
    node.cli(&["zone", "accept", key]).expect_ok();
    assert_eq!(revision(&node), 1);
    // its members are gone, and with them what they might do
    assert_eq!(
        verdict_of(node.json(&["policy", "check", &ipv6, "tcp/22"])),
        "reject"
    );
}

// A8, A9, D5, D6: 192.0.2.1 as a zone is its server's address. A10: whoever has registered the zone's name is asked first
#[test]
fn without_a_configuration_the_zone_is_asked_by_its_name_and_by_its_ip() {
    let Some(mut zone) = Zone::new("c0000201") else {
        return;
    };
    assert_eq!(zone.web.v4().octets(), [192, 0, 2, 1]);
    zone.publish("z", &zone.text());
    zone.serve(SocketAddr::new(zone.web.v4().into(), 80));
    let node = zone.node(&["--zone", "c0000201"]);
    node.wait("the file by IP", Duration::from_secs(25), || {
        revision(&node) == 1
    });
    let status = node.json(&["zone", "show"]);
    assert_eq!(status["file"]["source"], "http://192.0.2.1/z", "{status}");
    drop(node);

    // the name, which only IPv6 has here
    let v6 = zone.web.v6();
    zone.serve(SocketAddr::new(v6.into(), 80));
    let dns = SocketAddr::new(zone.web.v4().into(), 53);
    let _dns = programs::dns_server(&zone.web, dns, "a--c0000201.net", v6);
    let resolv = zone.lab.directory().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\n", zone.web.v4())).expect("written");
    let mount = format!(
        "mount --bind {} /etc/resolv.conf && exec \"$@\"",
        resolv.display()
    );
    let node = Node::on(&zone.host, zone.lab.directory(), "by-name")
        .no_lan()
        .args(&["--zone", "c0000201"])
        .wrapper(&["unshare", "--mount", "sh", "-c", &mount, "sh"])
        .start();
    node.wait("the file by name", SOON, || revision(&node) == 1);
    let status = node.json(&["zone", "show"]);
    assert_eq!(
        status["file"]["source"], "http://a--c0000201.net/z",
        "{status}"
    );
}

/// `http.server` behind TLS: the certificate and its key, then where to listen, then what to serve.
const HTTPS: &str = "
import functools, http.server, ssl, sys
pem, ip, port, directory = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
server = http.server.ThreadingHTTPServer((ip, int(port)), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)
server.socket = context.wrap_socket(server.socket, server_side=True)
print('serving', flush=True)
server.serve_forever()
";

#[test]
fn https_is_believed_by_the_certificates_that_the_machine_trusts_and_by_no_others() {
    let Some(zone) = Zone::new("2a") else {
        return;
    };
    zone.publish("zone", &zone.text());
    let pem = zone.lab.directory().join("server.pem");
    let pem_text = pem.to_str().expect("a path");
    zone.certificate(
        &pem,
        &pem,
        &[
            "-subj",
            "/CN=zone",
            "-addext",
            &format!("subjectAltName=IP:{}", zone.web.v4()),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ],
    );
    let mut serve = command("python3");
    serve
        .args(["-c", HTTPS, pem_text, &zone.web.v4().to_string(), "8443"])
        .arg(&zone.served);
    let mut server = zone.web.start(serve);
    server
        .wait_stdout_line("serving", SOON)
        .expect("the server");

    let url = format!("https://{}:8443/zone", zone.web.v4());
    let node = |name: &str, trusted: &str| {
        Node::on(&zone.host, zone.lab.directory(), name)
            .no_lan()
            .args(&["--zone", "2a", "--zone-file", &url])
            .wrapper(&["env", trusted])
            .start()
    };
    let trusting = node("trusting", &format!("SSL_CERT_FILE={pem_text}"));
    trusting.wait("the file", SOON, || revision(&trusting) == 1);
    drop(trusting);
    // another certificate to trust, not the server's
    let other = zone.lab.directory().join("other.pem");
    zone.certificate(&other, Path::new("/dev/null"), &["-subj", "/CN=other"]);
    let doubting = node("doubting", &format!("SSL_CERT_FILE={}", other.display()));
    doubting.wait("the trouble", SOON, || trouble(&doubting).contains("TLS: "));
    assert_eq!(revision(&doubting), 0);
}

//! `anode tracker …` and the tracker of a relay, as a stranger with the binary meets them.

use anode_tests::lab::{Family, Lab, Lan, Node, Ns, Proc, anode_binary, command};
use anode_tests::tracker::AnodeTracker;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// What is announced.
pub const HASH: &str = "ae6c5ad699f4f549df3fa37df67ea8857b0d2d2a";

/// Of its own `/metrics`, which its machine alone may read.
pub fn metric(ns: &Ns, at: &str, name: &str) -> u64 {
    let mut curl = command("curl");
    curl.args(["-sS", &format!("http://{at}/metrics")]);
    let text = ns.finish(curl, LIMIT).expect_ok().stdout();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {text}"))
        .parse()
        .expect("a number")
}

/// `anode tracker …` without a node; its list, or its exit status with what it said.
pub fn ask(ns: &Ns, directory: &Path, args: &[&str]) -> (i32, Value, String) {
    let mut tracker = command(anode_binary());
    tracker
        .arg("--state")
        .arg(directory.join("nobody"))
        .args(["--json", "tracker"])
        .args(args);
    let done = ns.finish(tracker, Duration::from_secs(30));
    let list = serde_json::from_str(&done.stdout()).unwrap_or(Value::Null);
    (done.code(), list, done.stderr)
}

/// `anode tracker announce`, which must succeed.
#[track_caller]
pub fn announce(ns: &Ns, directory: &Path, url: &str, more: &[&str]) -> Vec<Value> {
    let args = [&["announce", url, "--info-hash", HASH], more].concat();
    let (code, list, said) = ask(ns, directory, &args);
    assert_eq!(code, 0, "{url}: {list}\n{said}");
    list.as_array().expect("a list").clone()
}

/// The peers that its answers name.
pub fn peers(list: &[Value]) -> BTreeSet<String> {
    let all = list.iter().filter_map(|entry| entry["peers"].as_array());
    all.flatten()
        .filter_map(|peer| Some(peer.as_str()?.to_owned()))
        .collect()
}

fn locals(list: &[Value]) -> Vec<&str> {
    list.iter()
        .filter_map(|entry| entry["local"].as_str())
        .collect()
}

const KEYS: [&str; 9] = [
    "complete",
    "error",
    "external_ip",
    "incomplete",
    "interval",
    "local",
    "peers",
    "tracker",
    "warning",
];

// B1, B2, B3, B5, B11, B12, B14, B15, B16: every address asks for itself, and everybody learns of all of them.
#[test]
fn every_address_announces_itself_and_all_are_told() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (server, host) = (lan.host("tracker"), lan.host("client"));
    host.address_add("192.0.2.77".parse().unwrap(), 24);
    host.address_add("2001:db8:1::77".parse().unwrap(), 64);
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\", \"[::]:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&server, lab.directory(), text);
    let own = [
        host.v4().to_string(),
        "192.0.2.77".to_owned(),
        host.v6().to_string(),
        "2001:db8:1::77".to_owned(),
    ];
    let urls = |scheme: &str| {
        [
            format!("{scheme}://{}:6969/announce", server.v4()),
            format!("{scheme}://[{}]:6969/announce", server.v6()),
        ]
    };
    for (scheme, port) in [("http", "9000"), ("udp", "9001")] {
        let mut heard = Vec::new();
        for url in urls(scheme) {
            let list = announce(
                &host,
                lab.directory(),
                &url,
                &["--port", port, "--event", "started"],
            );
            assert_eq!(list.len(), 2, "two addresses of that family: {list:?}");
            for entry in &list {
                let entry = entry.as_object().expect("an object");
                let keys: Vec<&str> = entry.keys().map(String::as_str).collect();
                assert_eq!(keys, KEYS);
                assert_eq!(entry["tracker"], url.as_str());
                assert_eq!(entry["interval"], 1800);
                assert_eq!(entry["error"], Value::Null);
                if scheme == "http" {
                    assert_eq!(entry["external_ip"], entry["local"]);
                }
            }
            heard.extend(locals(&list).into_iter().map(str::to_owned));
        }
        heard.sort();
        let mut expected = own.to_vec();
        expected.sort();
        assert_eq!(heard, expected, "{scheme}");
    }
    // A neighbour is told of both families over HTTP, and of its own over UDP.
    let other = lan.host("other");
    let [four, six] = urls("http");
    for url in [&four, &six] {
        let list = announce(&other, lab.directory(), url, &["--port", "9002"]);
        let peers: Vec<&str> = list[0]["peers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for ip in &own {
            for port in [9000, 9001] {
                let endpoint = match ip.contains(':') {
                    true => format!("[{ip}]:{port}"),
                    false => format!("{ip}:{port}"),
                };
                assert!(
                    peers.contains(&endpoint.as_str()),
                    "{endpoint} in {peers:?}"
                );
            }
        }
        assert!(
            !peers.iter().any(|peer| list[0]["local"]
                .as_str()
                .is_some_and(|own| peer.contains(own))),
            "not itself: {peers:?}"
        );
    }
    let [four, _] = urls("udp");
    let list = announce(&other, lab.directory(), &four, &["--port", "9002"]);
    let peers = list[0]["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 4, "IPv4 alone: {peers:?}");

    for url in [&four, &urls("http")[1]] {
        let (code, list, said) = ask(
            &other,
            lab.directory(),
            &["scrape", url, "--info-hash", HASH],
        );
        assert_eq!(code, 0, "{said}");
        // A client is one whatever its addresses (B16), and two where HTTP and UDP write its key differently: two (ports) of the
        // one, and two of the neighbour.
        let entry = &list[0];
        assert_eq!(
            (entry["complete"].as_u64(), entry["incomplete"].as_u64()),
            (Some(0), Some(4)),
            "{entry}"
        );
        assert_eq!(entry["tracker"], url.as_str());
    }
    let list = announce(
        &other,
        lab.directory(),
        &four,
        &["--port", "9002", "--event", "stopped"],
    );
    assert_eq!(list[0]["peers"], Value::Array(Vec::new()));
    assert_eq!(
        metric(&server, "127.0.0.1:6969", "anode_tracker_entries"),
        9
    );
    assert_eq!(
        metric(
            &server,
            "[::1]:6969",
            "anode_tracker_wrong_connection_total"
        ),
        0
    );
}

fn loopback(_lab: &Lab) -> Ns {
    Ns::new("alone")
}

#[test]
fn a_refusal_is_told_in_the_trackers_own_words() {
    let Some(lab) = Lab::open() else { return };
    let ns = loopback(&lab);
    let text = "[tracker]\nlisten = [\"127.0.0.1:6969\", \"[::1]:6969\"]\n";
    let tracker = AnodeTracker::start(&ns, lab.directory(), text);
    for url in ["http://127.0.0.1:6969/announce", "udp://[::1]:6969"] {
        let args = ["announce", url, "--info-hash", HASH];
        let (code, list, said) = ask(&ns, lab.directory(), &args);
        assert_eq!(code, 1);
        assert!(
            said.contains("this tracker does not serve this info hash"),
            "{said}"
        );
        let error = list[0]["error"].as_str().expect("an error");
        assert!(
            error.contains("this tracker does not serve this info hash"),
            "{error}"
        );
        assert_eq!(list[0]["interval"], Value::Null);
    }
    // A hangup reads the list again, and a mistake in it changes nothing.
    fs::write(
        &tracker.config,
        format!("{text}info-hashes = [\"{HASH}\"]\n"),
    )
    .unwrap();
    hang_up(&tracker.process);
    let url = "udp://127.0.0.1:6969";
    let deadline = std::time::Instant::now() + LIMIT;
    while ask(
        &ns,
        lab.directory(),
        &["announce", url, "--info-hash", HASH],
    )
    .0 != 0
    {
        assert!(std::time::Instant::now() < deadline, "served after SIGHUP");
    }
    fs::write(&tracker.config, "[tracker]\nopne = true\n").unwrap();
    hang_up(&tracker.process);
    std::thread::sleep(Duration::from_millis(200));
    announce(&ns, lab.directory(), url, &[]);
    let said = tracker.process.stderr();
    assert!(said.contains("the tracker stays as it was"), "{said}");
    terminate(&tracker.process);
    let done = tracker.process.finish(LIMIT);
    assert_eq!(done.code(), 0, "{done}");
    let ready = done
        .stderr
        .lines()
        .filter(|line| line.starts_with("ready"))
        .count();
    assert_eq!(ready, 1, "{done}");
}

fn signal(process: &Proc, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(process.pid() as i32);
    nix::sys::signal::kill(pid, signal).expect("it runs");
}

fn hang_up(process: &Proc) {
    signal(process, nix::sys::signal::Signal::SIGHUP);
}

fn terminate(process: &Proc) {
    signal(process, nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn a_tracker_alone_needs_no_root_and_no_state() {
    let Some(lab) = Lab::open() else { return };
    let ns = loopback(&lab);
    let config = lab.directory().join("t.toml");
    fs::write(
        &config,
        "[tracker]\nlisten = [\"127.0.0.1:6970\"]\nopen = true\n",
    )
    .unwrap();
    fs::set_permissions(
        lab.directory(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut start = command("setpriv");
    start
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ])
        .arg(anode_binary())
        .args(["relay", "-c"])
        .arg(&config)
        .env_remove("HOME")
        .env_remove("XDG_STATE_HOME");
    let mut process = ns.start(start);
    process
        .wait_stderr_line("ready", LIMIT)
        .unwrap_or_else(|said| panic!("{said}"));
    announce(&ns, lab.directory(), "http://127.0.0.1:6970/announce", &[]);
    terminate(&process);
    assert_eq!(process.finish(LIMIT).code(), 0);
    let left: Vec<_> = fs::read_dir(lab.directory())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["t.toml"], "no state, no socket");
}

#[test]
fn what_cannot_be_asked_is_said_at_once() {
    let Some(lab) = Lab::open() else { return };
    let ns = loopback(&lab);
    for (args, code, part) in [
        (
            vec!["announce", "ftp://x/", "--info-hash", HASH],
            2,
            "http://, https:// or udp://",
        ),
        (
            vec!["announce", "udp://127.0.0.1", "--info-hash", HASH],
            2,
            "no valid port",
        ),
        (
            vec!["announce", "udp://127.0.0.1:1", "--info-hash", "abc"],
            2,
            "40 hexadecimal digits",
        ),
        (vec!["announce", "udp://127.0.0.1:1"], 2, "--info-hash"),
        (
            vec![
                "announce",
                "udp://127.0.0.1:1",
                "--info-hash",
                HASH,
                "--port",
                "0",
            ],
            2,
            "0",
        ),
        (
            vec![
                "announce",
                "udp://127.0.0.1:1",
                "--info-hash",
                HASH,
                "--event",
                "x",
            ],
            2,
            "started",
        ),
        // Nobody there, and nobody reachable.
        (
            vec!["announce", "udp://127.0.0.1:1", "--info-hash", HASH],
            1,
            "no answer from 127.0.0.1:1",
        ),
        (
            vec![
                "announce",
                "http://127.0.0.1:1/announce",
                "--info-hash",
                HASH,
            ],
            1,
            "no connection from 127.0.0.1",
        ),
        (
            vec!["announce", "udp://192.0.2.1:1", "--info-hash", HASH],
            1,
            "no address of this machine",
        ),
        (
            vec!["scrape", "http://127.0.0.1:1/x", "--info-hash", HASH],
            1,
            "no scrape form",
        ),
    ] {
        let (status, _, said) = ask(&ns, lab.directory(), &args);
        assert_eq!(status, code, "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

/// An HTTPS server that always says the same.
const HTTPS: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"d8:intervali1800e5:peers6:\xc0\x00\x02\x09\x23\x28e"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass
server = http.server.HTTPServer((sys.argv[1], 7443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

// B5: the same over HTTPS, if the certificate is good for the tracker.
#[test]
fn https_trackers_are_asked_if_their_certificate_is_good() {
    let Some(lab) = Lab::open() else { return };
    let ns = loopback(&lab);
    let path = |name: &str| lab.directory().join(name).display().to_string();
    let (key, certificate, script) = (path("key.pem"), path("cert.pem"), path("server.py"));
    let mut openssl = command("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-subj",
            "/CN=tracker",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    ns.finish(openssl, LIMIT).expect_ok();
    fs::write(&script, HTTPS).unwrap();
    let mut start = command("python3");
    start.args([&script, "127.0.0.1", &certificate, &key]);
    let mut server = ns.start(start);
    server
        .wait_stdout_line("ready", LIMIT)
        .unwrap_or_else(|said| panic!("{said}"));
    for (url, trusted, expected) in [
        (
            "https://127.0.0.1:7443/announce",
            true,
            Ok("192.0.2.9:9000"),
        ),
        ("https://127.0.0.1:7443/announce", false, Err("TLS: ")),
        // The same server under a name that its certificate does not carry.
        ("https://localhost:7443/announce", true, Err("TLS: ")),
    ] {
        let mut tracker = command(anode_binary());
        tracker.args(["--json", "tracker", "announce", url, "--info-hash", HASH]);
        if trusted {
            tracker.env("SSL_CERT_FILE", &certificate);
        }
        let done = ns.finish(tracker, Duration::from_secs(30));
        let list: Value = serde_json::from_str(&done.stdout()).unwrap_or_else(|_| panic!("{done}"));
        match expected {
            Ok(peer) => assert_eq!(list[0]["peers"][0], peer, "{done}"),
            Err(part) => {
                assert_eq!(done.code(), 1, "{done}");
                let error = list[0]["error"].as_str().expect("an error");
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

// A relay that is a tracker too: one process, its counters with the others, its zone's own hashes served unasked.
#[test]
fn a_relay_is_a_tracker_for_its_own_zone() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (host, other) = (lan.host("relay"), lan.host("b"));
    let listen = format!(
        "listen = [\"{}:6969\", \"[{}]:6969\"]",
        host.v4(),
        host.v6()
    );
    let mut relay = Node::on(&host, lab.directory(), "relay")
        .relay()
        .config(&format!(
            "zone = \"2a\"\n[relay]\n[tracker]\n{listen}\n[rendezvous]\nsecret = \"s\"\n"
        ))
        .start();
    let file = relay.state().with_extension("toml").display().to_string();
    let hash = relay
        .cli(&["rendezvous", "hash", "--config", &file])
        .expect_ok()
        .stdout()
        .trim()
        .to_owned();
    for url in [
        format!("http://{}:6969/announce", host.v4()),
        format!("udp://[{}]:6969", host.v6()),
    ] {
        let (code, _, said) = ask(
            &other,
            lab.directory(),
            &["announce", &url, "--info-hash", &hash],
        );
        assert_eq!(code, 0, "{said}");
        let (code, _, said) = ask(
            &other,
            lab.directory(),
            &["announce", &url, "--info-hash", HASH],
        );
        assert_eq!(code, 1);
        assert!(said.contains("does not serve this info hash"), "{said}");
    }
    let metrics = relay.metrics();
    assert_eq!(metrics.sum("anode_tracker_announces_total"), 2.0);
    assert_eq!(metrics.sum("anode_tracker_not_listed_total"), 2.0);
    assert_eq!(metrics.sum("anode_tracker_entries"), 2.0);
    assert_eq!(relay.terminate().code(), 0);
}

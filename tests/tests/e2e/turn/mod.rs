//! STUN and TURN: our server with coturn's client, our client with coturn's server, and both against what must not work.

mod alpn;
mod beside;
mod certificates;
mod chromium;
mod command;
mod contract;
mod dns;
mod foreign;
mod idle;
mod keys;
mod life;
mod paths;
mod peers;
mod probe;
mod raw;
mod reload;
mod scripted;
mod session;
mod users;
mod ways;

use anode_tests::lab::{Done, Family, Host, Lab, Lan, Proc, anode_binary, command};
use anode_tests::programs;
use anode_tests::traffic::UdpEcho;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;
/// Where the echo is, and one above: coturn's client sends to both.
const ECHO: u16 = 3480;

/// A certificate authority of one test.
struct Authority {
    directory: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// A certificate and its key.
struct Leaf {
    certificate: PathBuf,
    key: PathBuf,
}

fn openssl(arguments: &[&str]) {
    let mut openssl = command(programs::need("openssl"));
    openssl.args(arguments);
    let done = openssl.output().expect("openssl runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 2] = ["-newkey", "rsa:2048"];

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let file = |end: &str| directory.join(format!("{name}.{end}"));
        let (certificate, key) = (file("pem"), file("key"));
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", &subject];
        arguments.extend(EC);
        arguments.extend(["-keyout", text(&key), "-out", text(&certificate)]);
        openssl(&arguments);
        Self {
            directory: directory.to_owned(),
            certificate,
            key,
        }
    }

    /// A certificate for these names (`DNS:…,IP:…`; none: only a common name), good for so many days.
    fn leaf(&self, name: &str, names: &str, days: i32, key_kind: &[&str]) -> Leaf {
        let file = |end: &str| self.directory.join(format!("{name}.{end}"));
        let (request, certificate, key) = (file("csr"), file("pem"), file("key"));
        let extensions = file("ext");
        let mut lines = "basicConstraints=CA:FALSE\n".to_owned();
        if !names.is_empty() {
            lines += &format!("subjectAltName={names}\n");
        }
        fs::write(&extensions, lines).expect("written");
        let mut arguments = vec!["req", "-nodes", "-subj", "/CN=turn.test"];
        arguments.extend(key_kind);
        arguments.extend(["-keyout", text(&key), "-out", text(&request)]);
        openssl(&arguments);
        let days = days.to_string();
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&self.certificate),
            "-CAkey",
            text(&self.key),
            "-CAcreateserial",
            "-days",
            &days,
            "-extfile",
            text(&extensions),
            "-out",
            text(&certificate),
        ]);
        Leaf { certificate, key }
    }
}

/// Where a server is to stand, and its client. Dropped in this order.
struct Ground {
    at: Host,
    client: Host,
    lan: Lan,
    lab: Lab,
}

impl Ground {
    fn open(family: Family) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, family);
        Some(Self {
            at: lan.host("turn"),
            client: lan.host("client"),
            lan,
            lab,
        })
    }

    fn ip(&self) -> IpAddr {
        self.at.ip_address()
    }

    /// Where the server listens.
    fn own(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), PORT)
    }

    /// A peer that echoes, and where.
    fn echo(&self) -> (UdpEcho, SocketAddr) {
        let peer = self.lan.host("peer");
        let at = SocketAddr::new(peer.ip_address(), ECHO);
        (UdpEcho::start(&peer, at), at)
    }

    fn file(&self, lines: &str) -> PathBuf {
        let config = self.lab.directory().join("turn.toml");
        fs::write(&config, lines).expect("written");
        config
    }

    /// A server of one user, and of these lines below its `[turn]`.
    fn serve(&self, more: &str) -> Changing {
        let own = self.own();
        let head = format!("[turn]\nlisten = [\"{own}\"]\nusers = {{ alice = \"secret\" }}\n");
        self.serve_with(head, more)
    }

    /// The same with another beginning.
    fn serve_with(&self, head: String, more: &str) -> Changing {
        let config = self.file(&format!("{head}{more}\n"));
        let server = serve(&self.at, &config);
        Changing {
            server,
            config,
            head,
        }
    }
}

/// A server whose file changes, after lines that stay.
struct Changing {
    server: Proc,
    config: PathBuf,
    head: String,
}

impl Changing {
    fn reread(&mut self, more: &str) {
        let text = format!("{}{more}\n", self.head);
        self.reread_all(&text, "reloaded");
    }

    /// Reads another file, and says so in a line with this word.
    fn reread_all(&mut self, text: &str, word: &str) {
        let logged = |server: &mut Proc| server.stderr().matches(word).count();
        let before = logged(&mut self.server);
        fs::write(&self.config, text).expect("written");
        self.server.signal(Signal::SIGHUP);
        let deadline = Instant::now() + LIMIT;
        while logged(&mut self.server) == before {
            assert!(Instant::now() < deadline, "{}", self.server.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A server, and a peer that echoes. Dropped in this order.
struct World {
    server: Proc,
    _echoes: [UdpEcho; 2],
    authority: Authority,
    config: PathBuf,
    peer: Host,
    ground: Ground,
}

impl Deref for World {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl World {
    /// `more` stands below `[turn]`, whose addresses, users and certificate are there.
    fn start(family: Family, more: &str) -> Option<Self> {
        let ground = Ground::open(family)?;
        let peer = ground.lan.host("peer");
        let authority = Authority::new(ground.lab.directory(), "authority");
        let ip = ground.ip();
        let names = format!("DNS:turn.test,IP:{ip}");
        let leaf = authority.leaf("leaf", &names, 2, &EC);
        let config = ground.file(&Self::config(ip, &leaf, more));
        let server = serve(&ground.at, &config);
        let echo = |port| UdpEcho::start(&peer, SocketAddr::new(peer.ip_address(), port));
        Some(Self {
            server,
            _echoes: [echo(ECHO), echo(ECHO + 1)],
            authority,
            config,
            peer,
            ground,
        })
    }

    fn config(ip: IpAddr, leaf: &Leaf, more: &str) -> String {
        let [plain, tls] = [PORT, TLS_PORT].map(|port| SocketAddr::new(ip, port));
        let (cert, key) = (text(&leaf.certificate), text(&leaf.key));
        format!(
            "[turn]\nlisten = [\"{plain}\"]\nlisten-tls = [\"{tls}\"]\nrealm = \"example.org\"\n\
             users = {{ alice = \"secret\" }}\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n\
             allow-peers = [\"{}\"]\n{more}\n",
            if ip.is_ipv4() {
                "10.0.0.0/8"
            } else {
                "fc00::/7"
            },
        )
    }

    fn peer_at(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip_address(), ECHO)
    }

    /// `turn:` and `turns:` over each transport.
    fn uri(&self, transport: &str) -> String {
        let host = match self.ip() {
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        match transport {
            "udp" => format!("turn:{host}:{PORT}"),
            "tcp" => format!("turn:{host}:{PORT}?transport=tcp"),
            "tls" => format!("turns:{host}:{TLS_PORT}"),
            "dtls" => format!("turns:{host}:{TLS_PORT}?transport=udp"),
            other => panic!("{other} is no transport"),
        }
    }

    fn anode(&self, arguments: &[&str]) -> Done {
        anode(&self.client, arguments)
    }

    /// `anode turn check`, with the right name and password.
    fn check(&self, uri: &str) -> Value {
        check(&self.client, uri, &self.authority.certificate)
    }

    /// `anode turn send` to the echo, with the right name and password.
    fn send(&self, uri: &str, more: &[&str]) -> Value {
        let ca = text(&self.authority.certificate);
        send(&self.client, uri, self.peer_at(), ca, more)
    }

    /// Reads the configuration again, with these lines below `[turn]`.
    fn reload(&self, leaf: &Leaf, more: &str) {
        fs::write(&self.config, Self::config(self.ip(), leaf, more)).expect("written");
        self.server.signal(Signal::SIGHUP);
    }
}

/// `anode relay -c FILE`, as an ordinary user, until it is ready.
fn serve(host: &Host, config: &Path) -> Proc {
    let mut relay = command(anode_binary());
    relay.args(["relay", "-c", text(config), "--log", "info"]);
    let mut server = host.start(relay);
    let ready = server.wait_stderr_line("ready", LIMIT);
    ready.unwrap_or_else(|why| panic!("{why}"));
    server
}

fn anode(host: &Host, arguments: &[&str]) -> Done {
    let mut anode = command(anode_binary());
    anode.args(arguments);
    host.finish(anode, Duration::from_secs(60))
}

fn json(done: &Done) -> Value {
    serde_json::from_slice(&done.out)
        .unwrap_or_else(|error| panic!("{}: {error}: {}{}", done.what, done.stdout(), done.stderr))
}

const ALICE: [&str; 4] = ["--user", "alice", "--password", "secret"];

fn check(host: &Host, uri: &str, ca: &Path) -> Value {
    let mut arguments = vec!["turn", "check", uri, "--json", "--ca", text(ca)];
    arguments.extend(ALICE);
    let done = anode(host, &arguments);
    let report = json(&done);
    assert_eq!(done.code(), i32::from(report["ok"] != true), "{report}");
    report
}

fn send(host: &Host, uri: &str, peer: SocketAddr, ca: &str, more: &[&str]) -> Value {
    let peer = peer.to_string();
    let mut arguments = vec!["turn", "send", uri, &peer, "--json", "--ca", ca];
    arguments.extend(ALICE);
    arguments.extend(more);
    let done = anode(host, &arguments);
    let report = json(&done);
    let all = report["error"].is_null() && report["sent"] == report["received"];
    assert_eq!(done.code(), i32::from(!all), "{report}");
    report
}

/// All sent, all back.
#[track_caller]
fn expect_all(report: &Value) {
    assert!(report["error"].is_null(), "{report}");
    assert_eq!(report["sent"], report["received"], "{report}");
    assert!(
        report["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{report}"
    );
}

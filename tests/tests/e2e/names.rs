//! Names: ordinary programs reach peers by them, and the system is told where to ask.

use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node, NodeBuilder, Proc, command};
use anode_tests::programs;
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Where a node answers unless it is told otherwise.
pub const RESPONDER: &str = "127.8.7.37";

/// The C library as if the machine had this resolv.conf: `WORDS…` runs the rest of a command so.
pub struct Resolving {
    words: Vec<String>,
}

impl Resolving {
    pub fn with(lab: &Lab, name: &str, resolv_conf: &str) -> Self {
        let file = |kind: &str, text: &str| {
            let path = lab.directory().join(format!("{name}-{kind}"));
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let script = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";
        let words = ["unshare", "--mount", "sh", "-c", script, "sh"].map(str::to_owned);
        let files = [
            file("resolv.conf", resolv_conf),
            file("nsswitch.conf", "hosts: files dns\n"),
        ];
        Self {
            words: words.into_iter().chain(files).collect(),
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut made = command(&self.words[0]);
        made.args(&self.words[1..])
            .arg(programs::need(program))
            .args(arguments);
        made
    }

    pub fn run(&self, host: &Host, program: &str, arguments: &[&str]) -> Done {
        host.finish(self.command(program, arguments), LIMIT)
    }

    fn node(&self, builder: NodeBuilder) -> NodeBuilder {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        builder.wrapper(&words)
    }
}

fn ping(resolving: &Resolving, host: &Host, name: &str) -> Done {
    resolving.run(host, "ping", &["-c", "1", "-W", "5", name])
}

pub fn curl(resolving: &Resolving, host: &Host, url: &str) -> Done {
    let arguments = [
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "10",
        url,
    ];
    resolving.run(host, "curl", &arguments)
}

/// The status and the records of `dig`'s answer.
pub fn dig(host: &Host, arguments: &[&str]) -> (String, Vec<String>) {
    let server = format!("@{RESPONDER}");
    let mut asked = command(programs::need("dig"));
    asked
        .arg(server)
        .args(["+time=5", "+tries=1"])
        .args(arguments);
    let done = host.finish(asked, LIMIT).expect_ok();
    let text = done.stdout();
    let status = text
        .split("status: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap_or_else(|| panic!("no status: {done}"))
        .to_owned();
    let answers = text
        .split(";; ANSWER SECTION:\n")
        .nth(1)
        .unwrap_or("")
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect();
    (status, answers)
}

/// Machine `a` calls machine `b` `box`, and serves its user names; `b` has a web server.
struct Pair {
    a: Node,
    b: Node,
    host_a: Host,
    host_b: Host,
    resolving: Resolving,
    _web: Proc,
    _lan: Lan,
    _lab: Lab,
}

impl Pair {
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let (host_a, host_b) = (lan.host("a"), lan.host("b"));
        let resolving = Resolving::with(&lab, "a", &format!("nameserver {RESPONDER}\n"));
        let a = resolving
            .node(Node::on(&host_a, lab.directory(), "a"))
            .config("[dns]\nname = \"laptop\"")
            .start();
        let b = Node::on(&host_b, lab.directory(), "b").start();
        a.trust(&b, "box");
        b.trust(&a, "a");
        std::fs::write(lab.directory().join("file"), "hello\n").expect("a file");
        let at = SocketAddr::new(b.ipv6().into(), 80);
        let web = programs::http_server(&host_b, at, lab.directory());
        Some(Self {
            a,
            b,
            host_a,
            host_b,
            resolving,
            _web: web,
            _lan: lan,
            _lab: lab,
        })
    }
}

/// `<32>.<32>.anode`
fn split(address: &str) -> String {
    format!("{}.{}.anode", &address[..32], &address[32..])
}

#[test]
fn ordinary_programs_reach_peers_by_name() {
    // U14: by a petname and by the key, without any server
    let Some(pair) = Pair::start() else { return };
    ping(&pair.resolving, &pair.host_a, "box.anode").expect_ok();
    ping(&pair.resolving, &pair.host_a, "laptop.anode").expect_ok();
    for name in ["box.anode", "BOX.Anode", &split(pair.b.address())] {
        let done = curl(
            &pair.resolving,
            &pair.host_a,
            &format!("http://{name}/file"),
        );
        assert_eq!(done.expect_ok().out, b"hello\n", "{name}");
    }
    let done = curl(&pair.resolving, &pair.host_a, "http://nobody.anode/");
    assert_eq!(done.code(), 6, "curl calls this an unknown host: {done}");

    // As people with dnsmasq do it.
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
    let forward = format!("--server=/anode/{RESPONDER}");
    let _dnsmasq = programs::dnsmasq(&pair.host_a, local, &[forward]);
    assert_eq!(
        programs::dig(&pair.host_a, local, "box.anode"),
        [pair.b.ipv6()]
    );

    // The commands of the program, with and without the zone's name.
    for name in ["box", "box.anode", &split(pair.b.address())] {
        assert_eq!(pair.a.ping(name, 1), 1, "{name}");
        let found = pair.a.json(&["lookup", name]);
        assert_eq!(found["address"], pair.b.address(), "{name}");
    }
    let status = pair.a.json(&["status"]);
    assert_eq!(status["dns"]["listen"], format!("{RESPONDER}:53"));
    assert_eq!(status["dns"]["name"], "laptop");
    // resolv.conf names it: nothing is left to be done. The other machine's does not, and its people are told once.
    let line = format!("put `nameserver {RESPONDER}` first in /etc/resolv.conf");
    pair.a
        .wait("it is known that nothing is to be done", LIMIT, || {
            pair.a.json(&["status"])["dns"]["resolved"] == false
        });
    assert!(pair.a.json(&["status"])["dns"]["problem"].is_null());
    assert_eq!(pair.a.log().matches(&line).count(), 0, "{}", pair.a.log());
    pair.b
        .wait("people are told", LIMIT, || pair.b.log().contains(&line));
    assert_eq!(pair.b.log().matches(&line).count(), 1, "{}", pair.b.log());
    let problem = pair.b.json(&["status"])["dns"]["problem"].clone();
    assert!(
        problem.as_str().is_some_and(|text| text.contains(&line)),
        "{problem}"
    );
}

#[test]
fn a_name_that_was_resolved_needs_nobody_who_knows_its_key() {
    // Nothing announces anybody: `a` knows where a machine at `b`'s place is, and only the name says which one.
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let b = Node::on(&host_b, lab.directory(), "b").no_lan().start();
    let resolving = Resolving::with(&lab, "a", &format!("nameserver {RESPONDER}\n"));
    let a = resolving
        .node(Node::on(&host_a, lab.directory(), "a"))
        .no_lan()
        .start();
    let before = a.peers().len();
    let (status, answers) = dig(&host_a, &[&split(b.address()), "AAAA"]);
    assert_eq!(
        (status.as_str(), answers),
        ("NOERROR", vec![b.ipv6().to_string()])
    );
    a.wait("the address is known", LIMIT, || a.peer(&b).is_some());
    assert_eq!(a.peers().len(), before + 1);
    assert_eq!(a.metrics().sum("anode_dns_told_total"), 1.0);
}

#[test]
fn dig_sees_a_well_behaved_server_over_udp_and_tcp() {
    // S28
    let Some(pair) = Pair::start() else { return };
    let ip = pair.b.ipv6().to_string();
    let soa_end = "5".to_owned();
    for tcp in ["+notcp", "+tcp"] {
        let ask = |arguments: &[&str]| dig(&pair.host_a, &[&[tcp][..], arguments].concat());
        let good = |answers: &[&String]| {
            let answers: Vec<String> = answers.iter().map(|text| (*text).clone()).collect();
            ("NOERROR".to_owned(), answers)
        };
        assert_eq!(ask(&["box.anode", "AAAA"]), good(&[&ip]), "{tcp}");
        assert_eq!(
            ask(&["-x", &ip]),
            good(&[&"box.anode.".to_owned()]),
            "{tcp}"
        );
        assert_eq!(ask(&["box.anode", "A"]), good(&[]), "{tcp}");
        assert_eq!(ask(&["box.anode", "TYPE65000"]), good(&[]), "{tcp}");
        assert_eq!(ask(&["anode", "SOA"]), good(&[&soa_end]), "{tcp}");
        let code = |arguments: &[&str]| ask(arguments).0;
        assert_eq!(code(&["nobody.anode", "AAAA"]), "NXDOMAIN", "{tcp}");
        assert_eq!(code(&["-x", "fda0::42"]), "NXDOMAIN", "{tcp}");
        assert_eq!(code(&["-x", "fda1::42"]), "NXDOMAIN", "{tcp}");
        assert_eq!(code(&["-x", "2001:db8::1"]), "REFUSED", "{tcp}");
        assert_eq!(code(&["example.com", "A"]), "REFUSED", "{tcp}");
        assert_eq!(code(&["box.anode", "CH", "TXT"]), "REFUSED", "{tcp}");
        assert_eq!(
            code(&["+opcode=status", "+noedns", "anode"]),
            "NOTIMP",
            "{tcp}"
        );
    }
    // The name of a peer without one is its address.
    pair.a.cli(&["distrust", "box"]).expect_ok();
    let (_, answers) = dig(&pair.host_a, &["-x", &ip]);
    assert_eq!(answers, [split(pair.b.address()) + "."]);
}

#[test]
fn other_machines_are_not_answered_even_where_the_kernel_lets_them_in() {
    // S28: routes 127.0.0.0/8 from the LAN, as a careless administrator does.
    let Some(pair) = Pair::start() else { return };
    pair.host_a.sysctl("net/ipv4/conf/all/route_localnet", "1");
    pair.host_b.sysctl("net/ipv4/conf/all/route_localnet", "1");
    let mut route = command(programs::need("ip"));
    route.args([
        "route",
        "add",
        RESPONDER,
        "via",
        &pair.host_a.v4().to_string(),
        "dev",
        "eth0",
    ]);
    let mut rule = command(programs::need("ip"));
    rule.args([
        "rule", "add", "pref", "0", "to", RESPONDER, "lookup", "main",
    ]);
    let mut local = command(programs::need("ip"));
    local.args(["rule", "add", "pref", "1", "lookup", "local"]);
    let mut gone = command(programs::need("ip"));
    gone.args(["rule", "del", "pref", "0", "lookup", "local"]);
    for command in [route, rule, local, gone] {
        pair.host_b.finish(command, LIMIT).expect_ok();
    }
    let mut asked = command("dig");
    asked.args([
        &format!("@{RESPONDER}"),
        "-b",
        &pair.host_b.v4().to_string(),
    ]);
    asked.args(["+time=1", "+tries=1", "box.anode", "AAAA"]);
    let done = pair.host_b.finish(asked, LIMIT);
    assert_ne!(done.code(), 0, "{done}");
    assert!(
        pair.a.metrics().sum("why=\"stranger\"") >= 1.0,
        "the question did not arrive"
    );
}

#[test]
fn the_txt_record_of_a_real_name_leads_to_its_machine() {
    // A31, D13
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b, host_dns) = (lan.host("a"), lan.host("b"), lan.host("dns"));
    let b = Node::on(&host_b, lab.directory(), "b").start();
    let server = SocketAddr::new(host_dns.v4().into(), 53);
    let address = b.address();
    let records = [
        // Split in two strings, beside another record, and behind an alias.
        format!(
            "--txt-record=host.example.com,anode:{},{}",
            &address[..9],
            &address[9..]
        ),
        "--txt-record=host.example.com,v=spf1 -all".to_owned(),
        "--txt-record=plain.example.com,hello".to_owned(),
        "--cname=www.example.com,host.example.com".to_owned(),
        "--local=/example.com/".to_owned(),
        "--local-ttl=60".to_owned(),
    ];
    let log = programs::dnsmasq(&host_dns, server, &records);
    let conf = format!("nameserver {RESPONDER}\nnameserver {}\n", server.ip());
    let resolving = Resolving::with(&lab, "a", &conf);
    let a = resolving
        .node(Node::on(&host_a, lab.directory(), "a"))
        .start();
    b.trust(&a, "a");
    std::fs::write(lab.directory().join("file"), "hello\n").expect("a file");
    let at = SocketAddr::new(b.ipv6().into(), 80);
    let _web = programs::http_server(&host_b, at, lab.directory());

    for name in ["host.example.com.anode", "www.example.com.anode"] {
        let done = curl(&resolving, &host_a, &format!("http://{name}/file"));
        assert_eq!(done.expect_ok().out, b"hello\n", "{name}\n{}", log.stderr());
        let resolved = a.json(&["resolve", name]);
        assert_eq!(resolved["address"], address, "{name}");
        assert_eq!(a.ping(name, 1), 1, "{name}");
    }
    // One question for each name, however often it was used.
    let asked = |name: &str| log.stderr().matches(&format!("query[TXT] {name} ")).count();
    assert_eq!(asked("host.example.com"), 1, "{}", log.stderr());
    // Where no other name is known, that one is shown.
    let peer = a.peer(&b).expect("known");
    assert_eq!(peer["name"], "host.example.com.anode", "{peer}");
    assert_eq!(
        dig(&host_a, &["-x", &b.ipv6().to_string()]).1,
        ["host.example.com.anode."]
    );

    let (status, answers) = dig(&host_a, &["plain.example.com.anode", "AAAA"]);
    assert_eq!((status.as_str(), answers.len()), ("NOERROR", 0));
    assert_eq!(
        dig(&host_a, &["gone.example.com.anode", "AAAA"]).0,
        "NXDOMAIN"
    );
    let done = a.cli(&["ping", "plain.example.com.anode"]);
    assert_eq!(done.code(), 2, "{done}");
    assert!(done.stderr.contains("anode:ADDRESS"), "{done}");
    // Nothing below a peer's name goes outside.
    a.trust(&b, "box");
    assert_eq!(dig(&host_a, &["www.box.anode", "AAAA"]).0, "NXDOMAIN");
    assert_eq!(asked("www.box"), 0, "{}", log.stderr());

    // The server goes: what is known stays, the rest fails soon and says so.
    drop(log);
    assert_eq!(
        dig(&host_a, &["host.example.com.anode", "AAAA"]).0,
        "NOERROR"
    );
    let done = a.cli(&["resolve", "new.example.com.anode"]);
    assert_ne!(done.code(), 0, "{done}");
    assert!(done.stderr.contains("no DNS server answered"), "{done}");
}

#[test]
fn a_port_that_is_taken_costs_the_names_and_nothing_else() {
    // U9
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    let taken = SocketAddr::new(Ipv4Addr::new(127, 8, 7, 37).into(), 53);
    let _other = programs::dnsmasq(&host, taken, &[]);
    let a = Node::on(&host, lab.directory(), "a").start();
    let status = a.json(&["status"]);
    assert!(status["dns"]["listen"].is_null(), "{status}");
    let problem = status["dns"]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("another [dns] listen"), "{status}");
    assert!(a.log().contains(problem), "{}", a.log());
    let checks = a.json(&["doctor"])["checks"].clone();
    let dns = checks
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["layer"] == "dns").cloned())
        .expect("a check of the names");
    assert_eq!(dns["state"], "warn", "{dns}");
}

/// A system bus of its own, and the real systemd-resolved on it, in the network of `host`.
struct System {
    resolved: Option<Proc>,
    bus: Proc,
    address: String,
    program: PathBuf,
    scratch: PathBuf,
    host: Host,
}

impl System {
    fn start(lab: &Lab, host: &Host) -> Self {
        let unpacked = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../target/lab/systemd-resolved"
        );
        let places = [
            "/usr/lib/systemd",
            "/lib/systemd",
            &format!("{unpacked}/lib/systemd"),
            &format!("{unpacked}/usr/lib/systemd"),
        ]
        .map(|place| Path::new(place).join("systemd-resolved"));
        let program = places
            .into_iter()
            .find(|file| file.is_file())
            .expect("systemd-resolved is missing: run tests/packages");
        let scratch = lab.directory().join("system");
        std::fs::create_dir(&scratch).expect("a directory");
        let socket = scratch.join("bus");
        let config = scratch.join("bus.conf");
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
             <allow send_destination=\"*\"/><allow send_type=\"signal\"/><allow receive_sender=\"*\"/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).expect("a file");
        let mut daemon = command(programs::need("dbus-daemon"));
        daemon.args(["--nofork", "--nopidfile", "--nosyslog"]);
        daemon.arg(format!("--config-file={}", config.display()));
        let mut bus = host.start(daemon);
        let deadline = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(
                bus.running() && Instant::now() < deadline,
                "{}",
                bus.stderr()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut system = Self {
            resolved: None,
            bus,
            address: format!("unix:path={}", socket.display()),
            program,
            scratch,
            host: host.clone(),
        };
        system.start_resolved();
        system
    }

    /// As the user nobody, who has the rights that its unit gives it, with a /run of its own that outlives it.
    fn start_resolved(&mut self) {
        let run = self.scratch.join("run");
        let script = "mkdir -p \"$1/systemd/resolve\" && chown -R 65534:65534 \"$1\" && mount --bind \"$1\" /run && shift && exec \"$@\"";
        let mut command = command("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&run);
        command.args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
        let rights = "+net_raw,+net_bind_service,+setpcap";
        command.args(["--inh-caps", rights, "--ambient-caps", rights]);
        command.arg(&self.program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        command
            .env("SYSTEMD_LOG_LEVEL", "debug")
            .env("SYSTEMD_LOG_TARGET", "console");
        let mut resolved = self.host.start(command);
        let deadline = Instant::now() + LIMIT;
        while !self
            .call(&[
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.NameHasOwner",
                "string:org.freedesktop.resolve1",
            ])
            .contains("true")
        {
            assert!(
                resolved.running() && Instant::now() < deadline,
                "{}\n{}",
                resolved.stderr(),
                self.bus.stderr()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.resolved = Some(resolved);
    }

    fn call(&self, words: &[&str]) -> String {
        let mut send = command(programs::need("dbus-send"));
        send.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        send.args([
            "--system",
            "--print-reply=literal",
            &format!("--dest={}", words[0]),
        ])
        .args(&words[1..]);
        self.host.finish(send, LIMIT).stdout()
    }

    /// A property of its manager: the settings of every link.
    fn property(&self, name: &str) -> String {
        let name = format!("string:{name}");
        self.call(&[
            "org.freedesktop.resolve1",
            "/org/freedesktop/resolve1",
            "org.freedesktop.DBus.Properties.Get",
            "string:org.freedesktop.resolve1.Manager",
            &name,
        ])
    }
}

#[test]
fn systemd_resolved_is_told_and_forgets() {
    // U9, S38
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let mut system = System::start(&lab, &host_a);
    let resolving = Resolving::with(&lab, "a", "nameserver 127.0.0.53\n");
    let on_bus = format!("DBUS_SYSTEM_BUS_ADDRESS={}", system.address);
    let words: Vec<&str> = ["env", &on_bus]
        .into_iter()
        .chain(resolving.words.iter().map(String::as_str))
        .collect();
    let mut a = Node::on(&host_a, lab.directory(), "a")
        .wrapper(&words)
        .start();
    let b = Node::on(&host_b, lab.directory(), "b").start();
    a.trust(&b, "box");
    b.trust(&a, "a");
    let told = |a: &Node| {
        // Until then it may still say that systemd-resolved does not run.
        a.wait("systemd-resolved asks", LIMIT, || {
            a.json(&["status"])["dns"]["resolved"] == true
        });
    };
    told(&a);
    // The C library asks resolved's own stub, which asks the responder.
    ping(&resolving, &host_a, "box.anode").expect_ok();
    let domains = system.property("Domains");
    for domain in ["anode", "0.a.d.f.ip6.arpa", "1.a.d.f.ip6.arpa"] {
        assert!(domains.contains(domain), "{domains}");
    }
    // Other names do not come our way.
    let foreign = a.metrics().sum("result=\"refused\"");
    let _ = resolving.run(&host_a, "ping", &["-c", "1", "-W", "1", "www.example.com"]);
    assert_eq!(a.metrics().sum("result=\"refused\""), foreign);

    // It starts anew, and knows again.
    system.resolved = None;
    a.wait("its end is noticed", LIMIT, || {
        a.json(&["status"])["dns"]["resolved"] == false
    });
    system.start_resolved();
    told(&a);
    ping(&resolving, &host_a, "box.anode").expect_ok();

    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        a.process().signal(signal);
        a.process().wait(LIMIT).expect("it ends");
        a.kill();
        let deadline = Instant::now() + LIMIT;
        while system.property("DNS").contains(RESPONDER)
            || system.property("Domains").contains("anode")
        {
            assert!(
                Instant::now() < deadline,
                "after {signal}: {}",
                system.property("Domains")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        a.start();
        told(&a);
    }
}

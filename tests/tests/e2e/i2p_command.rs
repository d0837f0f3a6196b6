//! The program and its destinations, with a strict router of our own: commands, names, what a wrong section is told.

use crate::i2p::{Directory, certificate};
use anode_tests::i2p::{Password, Router, RouterOptions};
use anode_tests::lab::anode_binary;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `anode up --no-tun` with a configuration of its own, as an ordinary user starts it.
struct Program {
    state: PathBuf,
    child: Child,
    log: Arc<std::sync::Mutex<String>>,
}

impl Program {
    fn start(directory: &Path, name: &str, config: &str) -> Self {
        let state = directory.join(name);
        let file = state.with_extension("toml");
        let whole = format!("[lan]\nenabled = false\n{config}");
        std::fs::write(&file, whole).expect("a file");
        let mut child = Command::new(anode_binary())
            .args([
                "up",
                "--no-tun",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "trace",
                "--state",
            ])
            .arg(&state)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = Arc::new(std::sync::Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let kept = Arc::clone(&log);
        let (told, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line.contains("ready in") {
                    let _ = told.send(());
                }
                let mut log = kept.lock().expect("nobody panicked");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let program = Self { state, child, log };
        if ready.recv_timeout(Duration::from_secs(20)).is_err() {
            panic!("not ready: {}", program.log());
        }
        program
    }

    fn log(&self) -> String {
        self.log.lock().expect("nobody panicked").clone()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&self.state, arguments)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run(&[arguments, &["--json"]].concat());
        let text = String::from_utf8_lossy(&done.stdout);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {said}{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Its first destination, once it is ready.
    #[track_caller]
    fn destination(&self) -> Value {
        let start = Instant::now();
        loop {
            let status = self.json(&["i2p", "status"]);
            if status["destinations"][0]["state"] == "ready" {
                assert_eq!(status["connected"], true);
                return status["destinations"][0].clone();
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{status}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(anode_binary());
    command.args(arguments).arg("--state").arg(state);
    command.output().expect("it runs")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn the_program_tells_names_resolves_and_pings_destinations() {
    let (tls, _, pem) = certificate();
    let router = Router::tcp(RouterOptions {
        tls: Some(tls),
        password: Some(Password {
            user: "joe",
            password: "s3cret-of-joe",
        }),
        ..RouterOptions::default()
    });
    let directory = Directory::new("program");
    let file = |name: &str, content: &str| {
        let path = directory.0.join(name);
        std::fs::write(&path, content).unwrap();
        let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, only_me).unwrap();
    };
    file("router.crt", &pem);
    file("password", "s3cret-of-joe\n");
    let config = format!(
        "[i2p]\nrouter = \"{}\"\ntls = true\ntls-ca = \"router.crt\"\nuser = \"joe\"\npassword-file = \"password\"\n",
        router.place()
    );
    let more = format!(
        "{config}[[i2p.destination]]\nname = \"web\"\noptions = {{ \"inbound.length\" = \"1\" }}\n[[i2p.destination]]\ntransient = true\n"
    );
    let a = Program::start(&directory.0, "a", &more);
    let b = Program::start(&directory.0, "b", &config);
    let (of_a, of_b) = (a.destination(), b.destination());
    assert_eq!(of_a["name"], "web");
    assert!(of_b["name"].is_null());
    assert!(text(&of_a, "ipv6").starts_with("fda1:"));
    let status = a.json(&["i2p", "status"]);
    assert_eq!(text(&status, "router"), router.place());
    assert_eq!(status["destinations"].as_array().unwrap().len(), 2);

    // a name without anybody's word
    let b32 = text(&of_b, "b32");
    assert_eq!(a.json(&["resolve", b32])["ipv6"], of_b["ipv6"]);
    let found = a.json(&["i2p", "lookup", b32]);
    assert_eq!(
        (&found["b32"], &found["ipv6"]),
        (&of_b["b32"], &of_b["ipv6"])
    );
    let sum = a.json(&["ping", b32, "-c", "3", "-i", "0.05", "-W", "5"]);
    assert_eq!(sum["received"], 3, "{sum}\n{}", a.log());
    assert_eq!(sum["replies"][0]["path"], "i2p");
    assert_eq!(a.json(&["lookup", b32])["sources"][0], "i2p");
    let peers = a.json(&["peers"]);
    assert!(peers.as_array().is_some(), "{peers}");

    // names of people, then of the router
    let named = a.json(&["i2p", "add", "box", b32]);
    assert_eq!(named["name"], "box.i2p");
    assert_eq!(a.json(&["resolve", "box.i2p"])["ipv6"], of_b["ipv6"]);
    let destination = router
        .sessions()
        .into_iter()
        .map(|session| session.destination)
        .find(|one| one.hash().b32() == b32)
        .unwrap();
    router.name("site.i2p", &destination);
    assert_eq!(a.json(&["resolve", "site.i2p"])["ipv6"], of_b["ipv6"]);
    assert_eq!(a.json(&["i2p", "lookup", "SITE.i2p"])["name"], "site.i2p");
    let nobody = a.run(&["i2p", "lookup", "nobody.i2p"]);
    assert_eq!(nobody.status.code(), Some(1));
    let bad = a.run(&["i2p", "lookup", "a_b.i2p"]);
    assert_eq!(bad.status.code(), Some(2));
    let taken = a.run(&["i2p", "add", "box", text(&of_a, "b32")]);
    assert_ne!(taken.status.code(), Some(0));

    // trust, and who may come
    let trusted = a.json(&["trust", b32, "box"]);
    assert_eq!(
        (&trusted["ipv6"], &trusted["trusted"]),
        (&of_b["ipv6"], &Value::Bool(true))
    );
    assert_eq!(a.json(&["policy", "check", b32, "tcp/22"])["rule"], "trust");
    a.json(&["distrust", "box.i2p"]);
    assert_eq!(
        a.json(&["policy", "check", b32, "tcp/22"])["verdict"],
        "reject"
    );

    // keys stay, secrets do not show
    drop(a);
    let a = Program::start(&directory.0, "a", &more);
    assert_eq!(a.destination()["b32"], of_a["b32"]);
    // what was known is known
    assert_eq!(a.json(&["resolve", "site.i2p"])["ipv6"], of_b["ipv6"]);
    for program in [&a, &b] {
        assert!(
            !program.log().contains("s3cret"),
            "the password is in a log"
        );
    }
    assert_eq!(router.violations(), [] as [String; 0]);
}

#[test]
fn a_wrong_section_is_refused_with_its_place_and_the_fix() {
    let directory = Directory::new("config");
    let key = "[[i2p.destination]]\nkey-file = \"k\"\n";
    let cases: &[(&str, u32, &str)] = &[
        ("router = \"localhost\"", 2, "IP:PORT"),
        ("router = \"unix:run/x\"", 2, "a path from the root"),
        ("ruoter = \"127.0.0.1:1\"", 2, "unknown key `ruoter`"),
        ("tls = true", 1, "needs tls-ca or tls-fingerprint"),
        ("tls-ca = \"x\"", 1, "for tls = true"),
        ("tls = true\ntls-fingerprint = \"md5:1\"", 3, "sha256:"),
        ("user = \"joe\"", 1, "user needs password-file"),
        ("password-file = \"x\"", 1, "needs user"),
        (
            "router = \"192.0.2.1:7654\"\nuser = \"joe\"\npassword-file = \"x\"",
            1,
            "in clear: set tls = true",
        ),
        (
            "[[i2p.destination]]\noptions = { \"inbound.length\" = \"8\" }",
            3,
            "a number from 0 to 7",
        ),
        (
            "[[i2p.destination]]\n\noptions = { \"i2cp.password\" = \"x\" }",
            4,
            "belongs to the router's section",
        ),
        (
            "[[i2p.destination]]\noptions = { \"i2cp.tcp.host\" = \"x\" }",
            3,
            "belongs to the router's section",
        ),
        (
            "[[i2p.destination]]\noptions = { \"i2cp.leaseSetType\" = \"7\" }",
            3,
            "meta lease sets",
        ),
        ("[[i2p.destination]]\nudp = { 0 = \"raw\" }", 3, "no port"),
        (
            "[[i2p.destination]]\nudp = { 53 = \"tcp\" }",
            3,
            "datagram1",
        ),
        ("[[i2p.destination]]\ndefault-port = 0", 3, "use 1 to 65535"),
        (
            "[[i2p.destination]]\nkey-file = \"k\"\ntransient = true",
            1,
            "not both",
        ),
        (&format!("{key}{key}"), 1, "another one has it"),
        (
            "[[i2p.destination]]\n[[i2p.destination]]",
            1,
            "name or key-file",
        ),
    ];
    for (number, (lines, line, part)) in cases.iter().enumerate() {
        let file = directory.0.join(format!("{number}.toml"));
        std::fs::write(&file, format!("[i2p]\n{lines}\n")).unwrap();
        let state = directory.0.join("state");
        let config = file.display().to_string();
        let done = run(&state, &["up", "--no-tun", "--config", &config]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{lines:?}: {said}");
        let place = format!("{config}:{line}: ");
        assert!(
            said.contains(&place) && said.contains(part),
            "{lines:?}: {said}"
        );
    }
    // without the section, commands say what is missing
    let program = Program::start(&directory.0, "off", "");
    for arguments in [
        &["i2p", "status"][..],
        &["ping", &anode_i2cp::destination::Hash([1; 32]).b32()],
    ] {
        let done = program.run(arguments);
        assert!(!done.status.success());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains("add the section [i2p]"), "{said}");
    }
}

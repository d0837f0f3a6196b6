//! The contract of the command line, tried on the program itself: exit statuses, messages, documents.

// A test that cannot go on shall panic.
#![allow(clippy::unwrap_used)]

mod common;
mod confined;
mod policy;
mod tickets;
mod zone;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{ADDRESS_1, ADDRESS_2, IPV6_1, IPV6_2, KEY, Node, State};
use serde_json::{Value, json};

#[test]
fn address_key_and_resolve_work_without_a_node() {
    let state = State::with_key();
    let document = state.json(&["address"]);
    let id = document["id"].as_str().unwrap();
    assert!(
        id.len() == 16 && id.chars().all(|c| c.is_ascii_hexdigit()),
        "{id}"
    );
    let expected = json!({"address": ADDRESS_1, "ipv6": IPV6_1, "id": id, "zone": "00000000"});
    assert_eq!(document, expected);
    assert!(
        state
            .ok(&["address"])
            .contains(&format!("address  {ADDRESS_1}\n"))
    );

    let shown = state.ok(&["key", "show"]);
    assert!(shown.contains(ADDRESS_1) && !shown.contains(KEY), "{shown}");
    assert!(state.ok(&["key", "show", "--secret"]).contains(KEY));

    for (text, ipv6) in [(ADDRESS_1, IPV6_1), (ADDRESS_2, IPV6_2), (IPV6_2, IPV6_2)] {
        assert_eq!(state.ok(&["resolve", text]), format!("{ipv6}\n"));
    }
    let resolved = state.json(&["resolve", ADDRESS_2]);
    assert_eq!(resolved, json!({"ipv6": IPV6_2, "address": ADDRESS_2}));
}

#[test]
fn key_new_makes_one_identity_and_refuses_a_second() {
    let state = State::new();
    let first = state.json(&["key", "new", "--zone", "2a"]);
    assert_eq!(first["zone"], "0000002a");
    let path = state.0.join("identity.key");
    assert_eq!(first["file"], path.to_str().unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let error = state.fails_in_one_line(1, &["key", "new"]);
    assert!(error.contains("--force"), "{error}");
    assert_eq!(state.json(&["address"])["address"], first["address"]);
    let second = state.json(&["key", "new", "--force"]);
    assert_ne!(second["address"], first["address"]);
    assert_eq!(state.json(&["address"])["address"], second["address"]);
}

#[test]
fn without_an_identity_the_fix_is_told() {
    let state = State::new();
    let error = state.fails_in_one_line(1, &["address"]);
    assert!(
        error.contains("anode key new") && error.contains(state.0.to_str().unwrap()),
        "{error}"
    );
    assert!(state.names().is_empty(), "nothing is left behind");
}

#[test]
fn a_key_that_others_can_read_is_refused_everywhere() {
    let state = State::new();
    let path = state.write("identity.key", KEY, 0o644);
    for arguments in [&["address"][..], &["key", "show"], &["up", "--no-tun"]] {
        let error = state.fails_in_one_line(2, arguments);
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("chmod 600"),
            "{error}"
        );
    }
}

#[test]
fn trust_works_without_a_node_and_names_resolve() {
    let state = State::with_key();
    let trusted = state.json(&["trust", ADDRESS_2, "Box"]);
    let expected = json!({"address": ADDRESS_2, "ipv6": IPV6_2, "name": "box", "trusted": true});
    assert_eq!(trusted, expected);
    for name in ["box", "BOX", "box.anode"] {
        assert_eq!(state.ok(&["resolve", name]), format!("{IPV6_2}\n"));
    }
    let own = state.fails_in_one_line(2, &["trust", ADDRESS_1]);
    assert!(own.contains("own address"), "{own}");
    let gone = state.json(&["distrust", "box"]);
    assert_eq!(gone["trusted"], false);
    let error = state.fails_in_one_line(2, &["resolve", "box"]);
    assert!(error.contains("anode trust"), "{error}");
    state.fails_in_one_line(2, &["distrust", ADDRESS_2]);
}

#[test]
fn a_damaged_trust_book_is_named_with_its_line() {
    let state = State::with_key();
    state.write("trust.toml", "[[peer]]\naddress = \"x\"\n", 0o600);
    let error = state.fails_in_one_line(2, &["trust", ADDRESS_2]);
    assert!(error.contains("trust.toml:2: "), "{error}");
}

#[test]
fn wrong_usage_is_status_2_and_names_the_flag_and_the_value() {
    let state = State::with_key();
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["up", "--nonsense"], "--nonsense"),
        (
            &["up", "--name", "averylonginterface"],
            "Linux takes 1 to 15",
        ),
        (&["up", "--mtu", "1279"], "use 1280 to 65535"),
        (&["up", "--listen", "8737"], "write IP:PORT"),
        (
            &["up", "--listen", "tls://192.0.2.1:443"],
            "transport tls is not supported yet: use udp://",
        ),
        (&["up", "--peer", "192.0.2.1:8737"], "ADDRESS@ENDPOINT"),
        (&["up", "--zone", "xyz"], "hex digits"),
        (&["up", "--peer-id", "16"], "use 1 to 15"),
        (
            &["up", "--config", "/nonexistent.toml"],
            "/nonexistent.toml",
        ),
        (&["up", "--no-tun", "--log", "a=b=c"], "--log"),
        (&["key", "new", "--zone", "123456789"], "hex digits"),
        (&["ping"], "<X>"),
        (&["ping", "box", "-c", "0"], "0"),
        (&["ping", "box", "-i", "0"], "interval"),
        (&["ping", "box", "-W", "11"], "timeout"),
        (&["trust", "xyz"], "xyz"),
        (&["trust", ADDRESS_2, "a b"], "a b"),
        (&["resolve", "2001:db8::1"], "fda0:"),
        (&["resolve", "no such"], "no such"),
    ];
    for (arguments, part) in cases {
        let error = state.fails(2, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(state.run(&["--version"]).status.code(), Some(0));
    assert_eq!(state.run(&["up", "--help"]).status.code(), Some(0));
}

#[test]
fn a_bad_x_is_status_2_and_no_node_is_status_1() {
    let state = State::with_key();
    let bad = [
        "nobody",
        "2001:db8::1",
        &ADDRESS_1[1..],
        &ADDRESS_1.replace('g', "1"),
        &ADDRESS_1.replacen('a', "b", 1),
    ];
    for x in bad {
        for command in ["ping", "lookup", "resolve"] {
            let error = state.fails_in_one_line(2, &[command, x]);
            assert!(error.contains(x), "{command}: {error}");
        }
    }
    let socket = state.0.join("control.sock");
    let expected = format!(
        "error: anode is not running (no socket at {}): start it with `anode up`\n",
        socket.display()
    );
    for arguments in [
        &["status"][..],
        &["peers"],
        &["paths"],
        &["ping", ADDRESS_2],
        &["lookup", ADDRESS_2],
    ] {
        assert_eq!(state.fails(1, arguments), expected, "{arguments:?}");
    }
}

#[test]
fn an_unknown_key_in_the_configuration_is_named_with_its_line() {
    let state = State::with_key();
    let config = state.write("anode.toml", "mtu = 1280\n\n[lan]\nenable = true\n", 0o644);
    let config = config.to_str().unwrap();
    for command in ["up", "status"] {
        let error = state.fails_in_one_line(2, &[command, "--config", config]);
        assert!(
            error.contains(&format!("{config}:4: unknown key `enable`")),
            "{error}"
        );
    }
    assert_eq!(
        state.names(),
        ["anode.toml", "identity.key"],
        "nothing is left behind"
    );
}

#[test]
fn a_zone_other_than_the_identitys_is_refused() {
    let state = State::with_key();
    let error = state.fails_in_one_line(2, &["up", "--no-tun", "--zone", "2a"]);
    assert!(
        error.contains("0000002a") && error.contains("00000000"),
        "{error}"
    );
}

#[test]
fn a_pipe_that_closes_early_is_no_error() {
    let state = State::with_key();
    let mut child = state
        .command(&["address"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn up_makes_an_identity_says_ready_answers_and_removes_its_socket() {
    let state = State::new();
    let mut node = Node::start(&state, &[]);
    let status = state.json(&["status"]);
    let address = state.json(&["address"]);
    assert_eq!(status["address"], address["address"]);
    assert_eq!(status["ipv6"], address["ipv6"]);
    assert_eq!(status["interface"], Value::Null);
    assert!(status["uptime_s"].as_f64().unwrap() < 60.0);
    assert!(status["listen"].is_array() && status["peers"].is_number());
    assert_eq!(state.json(&["peers"]), json!([]));
    assert_eq!(state.json(&["paths"]), json!([]));
    assert!(
        node.said
            .iter()
            .any(|line| line.contains(address["address"].as_str().unwrap()))
    );
    assert_eq!(mode(&state.0.join("control.sock")), 0o600);

    node.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(node.ends_within(Duration::from_secs(10)), Some(0));
    assert!(!state.0.join("control.sock").exists());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_node_that_cannot_start_leaves_no_identity_and_no_socket() {
    let state = State::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let error = state.fails_in_one_line(1, &["up", "--no-tun", "--listen", &port]);
    assert!(
        error.contains(&port) && error.contains("--listen"),
        "{error}"
    );
    assert_eq!(state.names(), ["lock"]);
}

#[test]
fn trust_on_a_running_node_counts_at_once_and_is_kept() {
    let state = State::with_key();
    let node = Node::start(&state, &[]);
    state.json(&["trust", ADDRESS_2, "box"]);
    assert_eq!(state.ok(&["resolve", "box"]), format!("{IPV6_2}\n"));
    // Nobody is there: the name is known, the echo is lost.
    let summary: Value = {
        let output = state.run(&["ping", "box", "-c", "1", "-W", "0.1", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(summary, json!({"sent": 1, "received": 0, "replies": []}));
    drop(node);
    assert_eq!(state.ok(&["resolve", "box"]), format!("{IPV6_2}\n"));
}

#[test]
fn one_directory_holds_one_node_and_a_killed_one_leaves_room() {
    let state = State::with_key();
    let node = Node::start(&state, &[]);
    let error = state.fails_in_one_line(1, &["up", "--no-tun"]);
    assert!(error.contains(&node.child.id().to_string()), "{error}");
    state.fails_in_one_line(1, &["key", "new", "--force"]);
    // Killed, not ended: its socket stays, and the next one takes it over.
    drop(node);
    assert!(state.0.join("control.sock").exists());
    let _next = Node::start(&state, &[]);
    assert_eq!(state.json(&["status"])["address"], ADDRESS_1);
}

#[test]
fn ready_as_json_is_one_document_and_the_control_path_is_configurable() {
    let state = State::with_key();
    let socket = state.0.join("elsewhere.sock");
    let text = format!(
        "control = {socket:?}\nlisten = [\"127.0.0.1:0\"]\nno-tun = true\n[lan]\nenabled = false\n"
    );
    let config = state.write("anode.toml", &text, 0o644);
    let config = config.to_str().unwrap();
    let mut node = Node::spawn(state.command(&["up", "--json", "--config", config]));
    assert!(socket.exists());
    let status = state.json(&["status", "--config", config]);
    assert_eq!(status["address"], ADDRESS_1);
    node.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(node.ends_within(Duration::from_secs(10)), Some(0));
    let document: Value = serde_json::from_reader(node.child.stdout.take().unwrap()).unwrap();
    assert_eq!(document["ipv6"], IPV6_1);
    assert_eq!(document["interface"], Value::Null);
}

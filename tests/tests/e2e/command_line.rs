//! The contract that scripts rely on: shapes of the JSON answers, exit statuses, trust.

use crate::common::{NOBODY, Pair};
use anode_tests::lab::{Done, Family, Lab, Lan, Node};
use anode_tests::traffic;
use serde_json::Value;
use std::time::Duration;

/// A key and what its value must be.
type Expected = (&'static str, fn(&Value) -> bool);

/// Fails unless `value` has these keys, of these kinds.
#[track_caller]
fn assert_shape(value: &Value, shape: &[Expected]) {
    for (key, kind) in shape {
        assert!(
            value.get(key).is_some_and(kind),
            "`{key}` is missing or of another kind in {value}"
        );
    }
}

fn code(done: &Done, expected: i32) {
    assert_eq!(done.code(), expected, "{done}");
}

#[test]
fn status_peers_ping_and_lookup_have_their_shapes() {
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let (a, b) = (&pair.a, &pair.b);

    let status = a.json(&["status"]);
    assert_shape(
        &status,
        &[
            ("address", Value::is_string),
            ("ipv6", Value::is_string),
            ("interface", Value::is_string),
            ("uptime_s", Value::is_number),
            ("listen", Value::is_array),
            ("peers", Value::is_u64),
        ],
    );
    assert_eq!(
        (&status["address"], &status["peers"]),
        (&Value::from(a.address()), &Value::from(1))
    );
    assert_eq!(status["interface"], "anode0");
    let listen = status["listen"].as_array().expect("a list");
    assert!(
        listen.iter().any(|l| l
            .as_str()
            .is_some_and(|l| l.starts_with("udp://") && l.ends_with(":8737"))),
        "{status}"
    );

    let peer = a.peer(b).expect("it is listed");
    assert_shape(
        &peer,
        &[
            ("address", Value::is_string),
            ("ipv6", Value::is_string),
            ("name", Value::is_string),
            ("paths", Value::is_array),
            ("sealed", Value::is_boolean),
            ("rx_bytes", Value::is_u64),
            ("tx_bytes", Value::is_u64),
        ],
    );
    assert_eq!(
        (&peer["name"], &peer["ipv6"]),
        (&Value::from("b"), &Value::from(b.ipv6().to_string()))
    );
    assert!(
        peer["rx_bytes"].as_u64() > Some(0) && peer["tx_bytes"].as_u64() > Some(0),
        "{peer}"
    );
    assert_shape(
        &peer["paths"][0],
        &[
            ("kind", |v| v == "direct"),
            ("transport", |v| v == "udp"),
            ("endpoint", |v| {
                v.as_str()
                    .is_some_and(|e| e.starts_with("udp://192.0.2.2:"))
            }),
            ("hops", |v| v == 0),
            ("rtt_ms", Value::is_number),
            ("active", |v| v == true),
        ],
    );

    // By address, by IPv6, and by the name given with `trust`.
    for target in [b.address(), &b.ipv6().to_string(), "b", "b.anode"] {
        let answer = a.json(&["ping", target, "-c", "3", "-i", "0.05", "-W", "2"]);
        assert_eq!(
            (&answer["sent"], &answer["received"]),
            (&Value::from(3), &Value::from(3)),
            "{target}: {answer}"
        );
        let replies = answer["replies"].as_array().expect("a list");
        assert_eq!(replies.len(), 3);
        for reply in replies {
            assert_shape(
                reply,
                &[
                    ("seq", Value::is_u64),
                    ("rtt_ms", Value::is_number),
                    ("path", |v| v == "direct"),
                ],
            );
            assert!(reply.get("via").is_some(), "{reply}");
        }
        assert_eq!(
            a.cli(&["resolve", target]).expect_ok().stdout().trim(),
            b.ipv6().to_string()
        );
    }

    let found = a.json(&["lookup", &b.ipv6().to_string()]);
    assert_shape(
        &found,
        &[("sources", Value::is_array), ("endpoints", Value::is_array)],
    );
    assert_eq!(
        (&found["address"], &found["ipv6"]),
        (
            &Value::from(b.address()),
            &Value::from(b.ipv6().to_string())
        )
    );
    assert!(
        found["sources"]
            .as_array()
            .is_some_and(|s| s.iter().any(|s| s == "lan")),
        "{found}"
    );

    code(&a.cli(&["lookup", &NOBODY.to_string(), "--json"]), 1);
    code(
        &a.cli(&["ping", &NOBODY.to_string(), "-c", "1", "-W", "1", "--json"]),
        1,
    );
    for bad in ["1", "not an address", "192.0.2.1", "aeaa"] {
        for command in ["ping", "lookup", "resolve", "trust"] {
            let done = a.cli(&[command, bad]);
            // A word could be a name that nobody gave yet: that is no usage error for the commands that look names up.
            assert!(
                done.code() == 2 || (done.code() == 1 && command != "trust" && command != "ping"),
                "{done}"
            );
            assert!(done.stderr.contains(bad) && done.out.is_empty(), "{done}");
        }
    }
}

#[test]
fn human_output_is_short_and_names_things() {
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let status = pair.a.cli(&["status"]).expect_ok().stdout();
    assert!(
        status.contains(pair.a.address()) && status.contains("anode0"),
        "{status}"
    );
    let peers = pair.a.cli(&["peers"]).expect_ok().stdout();
    assert!(
        peers.contains("192.0.2.2") && peers.contains('b'),
        "{peers}"
    );
    let ping = pair.a.cli(&["ping", "b", "-c", "1"]).expect_ok().stdout();
    assert!(ping.contains("ms") && ping.contains("direct"), "{ping}");
    for text in [status, peers, ping] {
        assert!(!text.contains('\u{1b}'), "colour codes in a pipe: {text:?}");
        assert!(text.lines().count() < 25, "{text}");
    }
}

#[test]
fn an_identity_is_made_shown_and_kept() {
    // A12, A14, D8
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    let node = Node::on(&host, lab.directory(), "a").prepare();
    let shown = node.json(&["address"]);
    let text = |key: &str| shown[key].as_str().unwrap_or_default();
    assert!(
        text("address").len() == 64
            && text("address")
                .bytes()
                .all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')),
        "{shown}"
    );
    assert!(
        node.ipv6().segments()[0] == 0xfda0 && node.ipv6().octets()[15] & 15 == 0,
        "{shown}"
    );
    assert_eq!(
        (text("id").len(), text("zone")),
        (16, "00000000"),
        "{shown}"
    );

    let file = std::fs::read_to_string(node.state().join("identity.key")).expect("the identity");
    assert!(
        file.starts_with(&format!("ANODE-256-40:{}:", text("address"))),
        "the draft's identity string"
    );
    let secret = file.trim().rsplit(':').next().expect("the last part");
    assert_eq!(secret.len(), 64);
    let show = node.cli(&["key", "show"]).expect_ok();
    assert!(
        !show.stdout().contains(secret) && !show.stderr.contains(secret),
        "the secret is shown"
    );
    // S31

    let done = node.cli(&["key", "new"]);
    assert!(!done.ok() && done.stderr.contains("--force"), "{done}");
    assert_eq!(
        std::fs::read_to_string(node.state().join("identity.key")).expect("still there"),
        file
    );
    node.cli(&["key", "new", "--force", "--zone", "2a"])
        .expect_ok();
    let new = node.json(&["address"]);
    assert_eq!(new["zone"], "0000002a");
    assert_ne!(new["address"], shown["address"]);
}

#[test]
fn commands_without_a_node_say_that_none_runs() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let node = Node::on(&lan.host("a"), lab.directory(), "a").prepare();
    for command in [
        &["status"][..],
        &["peers"],
        &["ping", node.address()],
        &["lookup", node.address()],
    ] {
        let done = node.cli(command);
        code(&done, 1);
        assert!(
            done.stderr.contains("control.sock") && done.stderr.contains("anode up"),
            "{done}"
        );
    }
}

#[test]
fn trust_is_kept_over_a_restart_and_taken_back() {
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    pair.b.terminate();
    pair.b.start();
    pair.b.wait(
        "the peer is back under its name",
        Duration::from_secs(15),
        || pair.b.peer(&pair.a).is_some_and(|peer| peer["name"] == "a"),
    );
    let (near, _far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    drop(near);
    assert_eq!(
        pair.b.cli(&["resolve", "a"]).expect_ok().stdout().trim(),
        pair.a.ipv6().to_string()
    );
    pair.b.cli(&["distrust", pair.a.address()]).expect_ok();
    assert!(
        !pair.b.cli(&["resolve", "a"]).ok(),
        "the name is gone with the trust"
    );
    // Whoever was never trusted cannot be distrusted by a typing error.
    let done = pair.b.cli(&["distrust", "nobody"]);
    assert!(!done.ok() && done.stderr.contains("nobody"), "{done}");
}

#[test]
fn metrics_are_served_on_the_control_socket_to_its_owner_only() {
    // S29
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let mode = std::fs::metadata(pair.a.state().join("control.sock"))
        .expect("the socket")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    let before = pair.a.metrics();
    assert!(!before.all().is_empty());
    assert!(
        before.all().keys().all(|name| name.starts_with("anode_")),
        "{:?}",
        before.all()
    );
    assert_eq!(pair.a.ping("b", 5), 5);
    let after = pair.a.metrics();
    assert!(
        after.sum("rx_bytes_total") > before.sum("rx_bytes_total"),
        "{:?}",
        after.all()
    );
}

//! Tickets: two machines come to trust each other, and nobody else does.

use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node};
use anode_tests::programs;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

/// Machines `a`, `b`, `c` that find each other by nothing but a ticket.
struct Three {
    a: Node,
    b: Node,
    c: Node,
    host_a: Host,
    host_b: Host,
    _lan: Lan,
    lab: Lab,
}

impl Three {
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let (host_a, host_b, host_c) = (lan.host("a"), lan.host("b"), lan.host("c"));
        let node = |host, name| Node::on(host, lab.directory(), name).no_lan().start();
        Some(Self {
            a: node(&host_a, "a"),
            b: node(&host_b, "b"),
            c: node(&host_c, "c"),
            host_a,
            host_b,
            _lan: lan,
            lab,
        })
    }
}

fn invite(node: &Node, arguments: &[&str]) -> String {
    let done = node.cli(&[&["invite"], arguments].concat()).expect_ok();
    let out = done.stdout();
    let ticket = out.trim_end();
    // The ticket alone, for scripts.
    assert!(
        ticket.starts_with("anode-ticket-") && !ticket.contains(char::is_whitespace),
        "{out:?}"
    );
    ticket.to_owned()
}

#[track_caller]
fn assert_refused(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.code(), code, "{done}");
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?} in: {done}");
    }
}

/// Whether the trust book of `node` has `other`.
fn trusts(node: &Node, other: &Node) -> bool {
    node.peer(other)
        .is_some_and(|peer| peer["trusted"] == serde_json::Value::Bool(true))
}

/// `client` fetches a file from `server` over the overlay.
fn assert_fetched(client: &Host, server: &Host, node: &Node, directory: &std::path::Path) {
    let address = SocketAddr::new(node.ipv6().into(), 8080);
    let _server = programs::http_server(server, address, directory);
    let got = programs::curl(client, &format!("http://{address}/file"), LIMIT).expect_ok();
    assert_eq!(got.out, b"through a ticket");
}

#[test]
fn a_ticket_brings_two_machines_together_and_no_third() {
    // Q29, Q30
    let Some(lab) = Three::start() else { return };
    let ticket = invite(&lab.a, &[]);
    let start = Instant::now();
    lab.b.cli(&["join", &ticket, "inviter"]).expect_ok();
    println!("joined after {:?}", start.elapsed());

    assert!(trusts(&lab.a, &lab.b) && trusts(&lab.b, &lab.a));
    let named = lab.b.peer(&lab.a).expect("listed");
    assert_eq!(named["name"], "inviter", "{named}");
    assert_eq!(named["sealed"], true, "{named}");
    let files = lab.lab.directory().join("files");
    fs::create_dir(&files).expect("a directory");
    fs::write(files.join("file"), "through a ticket").expect("a file");
    assert_fetched(&lab.host_b, &lab.host_a, &lab.a, &files);
    assert_fetched(&lab.host_a, &lab.host_b, &lab.b, &files);

    // The same machine may use it again, another may not.
    lab.b.cli(&["join", &ticket, "inviter"]).expect_ok();
    let refused = lab.c.cli(&["join", &ticket]);
    assert_refused(&refused, 1, &["ticket"]);
    assert!(!trusts(&lab.a, &lab.c) && !trusts(&lab.c, &lab.a));
    // And what was given stays.
    assert!(trusts(&lab.a, &lab.b) && trusts(&lab.b, &lab.a));
}

#[test]
fn a_ticket_survives_the_restart_of_its_maker_and_is_used_once_all_the_same() {
    // Q30
    let Some(mut lab) = Three::start() else {
        return;
    };
    let ticket = invite(&lab.a, &["--expires", "10m"]);
    lab.a.kill();
    lab.a.start();
    lab.b.cli(&["join", &ticket]).expect_ok();
    lab.a.kill();
    lab.a.start();
    assert_refused(&lab.c.cli(&["join", &ticket]), 1, &["ticket"]);
    lab.b.cli(&["join", &ticket]).expect_ok();
    assert!(!trusts(&lab.a, &lab.c));
}

#[test]
fn an_operator_sees_the_open_tickets_and_takes_one_back() {
    // Q30
    let Some(mut lab) = Three::start() else {
        return;
    };
    let made = lab.a.json(&["invite", "--expires", "10m"]);
    let (gone, id) = (
        made["ticket"].as_str().expect("a ticket"),
        made["id"].as_str().expect("a name"),
    );
    let used = invite(&lab.a, &[]);
    lab.b.cli(&["join", &used]).expect_ok();
    let listed = lab.a.json(&["invite", "--list"]);
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{listed:?}");
    let users: Vec<_> = listed.iter().map(|one| one["taken_by"].as_str()).collect();
    assert_eq!(users, [None, Some(lab.b.address())]);
    // No secret is shown to who looks at a screen.
    let shown = lab.a.cli(&["invite", "--list"]).expect_ok().stdout();
    assert!(
        shown.contains(id) && !shown.contains("anode-ticket-"),
        "{shown}"
    );

    lab.a.cli(&["invite", "--withdraw", id]).expect_ok();
    assert_refused(&lab.c.cli(&["join", gone]), 1, &["ticket", "withdrawn"]);
    assert_refused(
        &lab.a.cli(&["invite", "--withdraw", id]),
        1,
        &[id, "--list"],
    );
    assert_refused(
        &lab.a.cli(&["invite", "--withdraw", "hello"]),
        2,
        &["16 hex digits"],
    );
    lab.a.kill();
    lab.a.start();
    assert_refused(&lab.c.cli(&["join", gone]), 1, &["ticket", "withdrawn"]);
    // What a ticket has brought stays when it is taken back.
    let left = lab.a.json(&["invite", "--list"]);
    let done = lab
        .a
        .cli(&["invite", "--withdraw", left[0]["id"].as_str().expect("one")]);
    assert!(done.expect_ok().stderr.contains("anode distrust"));
    assert!(trusts(&lab.a, &lab.b) && !trusts(&lab.a, &lab.c));
}

#[test]
fn a_ticket_that_is_too_late_or_no_ticket_is_refused_with_the_reason() {
    // Q29
    let Some(lab) = Three::start() else { return };
    let ticket = invite(&lab.a, &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1_200));
    let late = lab.b.cli(&["join", &ticket]);
    assert_ne!(late.code(), 0, "{late}");
    assert_refused(&late, late.code(), &["expired", "anode invite"]);
    println!("expired ticket: exit status {}", late.code());

    let good = invite(&lab.a, &[]);
    let mut wrong_character = good.clone();
    wrong_character.replace_range(40..41, "!");
    assert_refused(
        &lab.b.cli(&["join", &wrong_character]),
        2,
        &["ticket", "'!' at place 41"],
    );
    let mut altered = good.clone();
    let other = if &good[60..61] == "a" { "b" } else { "a" };
    altered.replace_range(60..61, other);
    assert_refused(&lab.b.cli(&["join", &altered]), 2, &["ticket", "checksum"]);
    assert_refused(&lab.b.cli(&["join", &good[..60]]), 2, &["not complete"]);
    assert_refused(&lab.b.cli(&["join", "hello"]), 2, &["anode-ticket-"]);
    assert_refused(&lab.a.cli(&["join", &good]), 2, &["this machine's own"]);
    assert_refused(
        &lab.a.cli(&["invite", "--expires", "31d"]),
        2,
        &["--expires"],
    );
    assert!(!trusts(&lab.a, &lab.b) && !trusts(&lab.b, &lab.a));
}

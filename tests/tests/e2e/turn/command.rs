//! `anode turn check` and `send`, and `[turn-client]`: the ways that the other tests do not take.

use super::*;
use anode_tests::lab::Node;
use anode_tests::traffic;
use std::collections::BTreeMap;

// STUN alone needs no name; a password may stand in a file; people get a line for each step
#[test]
fn a_check_is_told_in_steps() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let (ip, ca) = (world.ip(), text(&world.authority.certificate));
    let file = world.lab.directory().join("password");
    fs::write(&file, "secret\n").expect("written");
    let with_file = ["--user", "alice", "--password-file", text(&file)];
    for (uri, more, steps) in [
        (format!("stun:{ip}"), &[][..], &["resolve", "binding"][..]),
        (
            format!("stuns:{ip}:{TLS_PORT}"),
            &[],
            &["resolve", "connect", "tls", "binding"],
        ),
        (
            format!("turns:{ip}:{TLS_PORT}?transport=udp"),
            &with_file,
            &["resolve", "dtls", "binding", "allocate", "release"],
        ),
    ] {
        let mut arguments = vec!["turn", "check", &uri, "--ca", ca];
        arguments.extend(more);
        let told = world.anode(&arguments);
        assert_eq!(told.code(), 0, "{}", told.stderr);
        let said = told.stdout();
        // A head, a line for each step, and the verdict.
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), steps.len() + 2, "{said}");
        for (line, step) in lines[1..].iter().zip(steps) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[..2], [*step, "ok"], "{said}");
        }
        assert!(lines[lines.len() - 1].ends_with("works"), "{said}");

        arguments.push("--json");
        let report = json(&world.anode(&arguments));
        let keys: Vec<&String> = report.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["mapped", "ok", "relayed", "steps", "uri"]);
        assert_eq!(report["uri"], uri);
        for (step, name) in report["steps"].as_array().expect("steps").iter().zip(steps) {
            assert_eq!(
                (&step["step"], &step["ok"]),
                (&(*name).into(), &true.into())
            );
            assert!(step["ms"].is_number() && step["error"].is_null(), "{step}");
        }
    }
    // Nobody there: the step that failed says so, and the status is 1.
    let nowhere = format!("turn:{}:9", world.peer.ip_address());
    let mut arguments = vec!["turn", "check", &nowhere];
    arguments.extend(ALICE);
    let told = world.anode(&arguments);
    assert_eq!(told.code(), 1);
    assert!(told.stdout().contains("failed"), "{}", told.stdout());
}

// What does not come back is counted, and is a failure
#[test]
fn what_is_sent_into_silence_is_a_failure() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let peer = SocketAddr::new(world.peer.ip_address(), 9);
    let _silent = traffic::udp(&world.peer, peer);
    let ca = text(&world.authority.certificate);
    let report = send(&world.client, &world.uri("udp"), peer, ca, &["-n", "3"]);
    assert_eq!(
        (&report["sent"], &report["received"]),
        (&3.into(), &0.into())
    );
    assert!(report["rtt_ms"].is_null(), "{report}");
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|why| why.contains("3 of 3")),
        "{report}"
    );
    let printed = world.anode(&[
        "turn",
        "send",
        &world.uri("udp"),
        &world.peer_at().to_string(),
        "-n",
        "2",
        "--size",
        "8",
        "--user",
        "alice",
        "--password",
        "secret",
    ]);
    assert_eq!(printed.code(), 0, "{}", printed.stderr);
    assert_eq!(printed.stdout().lines().count(), 2, "{}", printed.stdout());
}

// T30, T31: a node asks a silent server as often and as soon as its file says
#[test]
fn a_node_asks_a_silent_server_as_its_file_says() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let silent = traffic::udp(&ground.at, ground.own());
    silent.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let lines = format!(
        "[turn-client]\nrto-ms = 80\nrc = 3\nrm = 4\n[[turn-client.server]]\nuri = \"turn:{}\"\nuser = \"alice\"\npassword = \"secret\"\n",
        ground.own()
    );
    // Somebody who is not there any more: nothing else leads to him.
    let gone = ground.lan.host("gone");
    let b = Node::on(&gone, ground.lab.directory(), "b")
        .no_lan()
        .start();
    let target = b.address().to_owned();
    let a = Node::on(&ground.client, ground.lab.directory(), "a")
        .no_lan()
        .config(&lines)
        .peer(&b, &format!("udp://{}:8737", gone.v4()))
        .start();
    drop(b);
    let mut asked: BTreeMap<[u8; 12], Vec<Instant>> = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| a.cli(&["ping", &target, "-c", "4", "-i", "1", "-W", "1"]));
        let mut buffer = [0; 2048];
        // Until a second transaction has begun: the first one has been given up by then.
        while asked.len() < 2 {
            let length = silent.recv(&mut buffer).expect("a request");
            let id = buffer[..length][8..20].try_into().expect("12 bytes");
            asked.entry(id).or_default().push(Instant::now());
        }
    });
    let first = asked.values().find(|times| times.len() > 1);
    let first = first.expect("one that was repeated");
    assert_eq!(first.len(), 3, "sent three times");
    // 80 and 160 ms apart; a busy machine may be late, and then the next one comes the sooner.
    let took = first[2] - first[0];
    let expected = Duration::from_millis(200)..Duration::from_secs(2);
    assert!(expected.contains(&took), "{took:?}");
}

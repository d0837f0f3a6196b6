//! `anode turn check` and `send`: the ways that the other tests do not take.

use super::*;
use anode_tests::traffic;

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

//! Programs that know nothing of anode use it.

use crate::common::Pair;
use anode_tests::lab::{Family, heavy};
use anode_tests::{programs, traffic};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn curl_fetches_from_an_http_server() {
    // N1, N4
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let body = traffic::Noise::new(5).bytes(3_000_001);
    std::fs::write(pair.lab.directory().join("small"), "hello\n").expect("a file");
    std::fs::write(pair.lab.directory().join("large"), &body).expect("a file");
    let server = programs::http_server(&pair.host_b, pair.b_at(80), pair.lab.directory());
    let get = |name: &str| {
        programs::curl(
            &pair.host_a,
            &format!("http://{}/{name}", pair.b_at(80)),
            Duration::from_secs(20),
        )
    };
    assert_eq!(get("small").expect_ok().out, b"hello\n");
    assert!(get("large").expect_ok().out == body, "the body differs");
    assert_eq!(get("missing").code(), 22, "curl reports a 404 so");
    // The server sees who asks: the address that the peer's key gives it (S14, N25).
    let log = server.stderr();
    assert!(log.contains(&pair.a.ipv6().to_string()), "{log}");
}

#[test]
fn ssh_runs_a_command_and_holds_a_session() {
    // N6, N10
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let sshd = programs::Sshd::start(&pair.host_b, pair.b_at(22), pair.lab.directory());
    let done = pair.host_a.finish(
        sshd.client("echo out; echo err >&2; exit 7"),
        Duration::from_secs(20),
    );
    assert_eq!(
        (done.code(), done.stdout().as_str()),
        (7, "out\n"),
        "{done}\n{}",
        sshd.log()
    );
    assert!(done.stderr.contains("err"), "{done}");

    // A session that stays: lines go there and come back, with pauses, then a megabyte each way.
    let mut client = sshd.client("cat");
    client.stdin(Stdio::piped());
    let mut session = pair.host_a.start(client);
    let mut input = session.stdin().expect("piped");
    for line in 0..20 {
        writeln!(input, "line {line} of a long session").expect("the session lives");
        let expected = format!("line {line} of");
        session
            .wait_stdout_line(&expected, Duration::from_secs(10))
            .unwrap_or_else(|why| panic!("{why}"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let block = "x".repeat(999) + "\n";
    for _ in 0..1_000 {
        input
            .write_all(block.as_bytes())
            .expect("the session lives");
    }
    writeln!(input, "end of session").expect("the session lives");
    drop(input);
    let done = session.finish(Duration::from_secs(20)).expect_ok();
    let reader = BufReader::new(&done.out[..]);
    assert_eq!(
        reader
            .lines()
            .filter(|l| l.as_ref().is_ok_and(|l| l.len() == 999))
            .count(),
        1_000
    );
    assert!(done.stdout().ends_with("end of session\n"));
}

#[test]
fn iperf3_measures_tcp_both_ways_and_udp() {
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    let _server = programs::iperf3_server(&pair.host_b, pair.b_at(5201));
    let measure =
        |arguments: &[&str]| programs::iperf3(&pair.host_a, pair.b_at(5201), 2, arguments);
    for arguments in [&[][..], &["--reverse"], &["--parallel", "4"]] {
        let speed = measure(arguments).bits_per_second;
        println!("TCP {arguments:?}: {:.0} Mbit/s", speed / 1e6);
        assert!(speed > 1e6, "TCP {arguments:?}: {speed} bit/s");
    }
    for arguments in [
        &["--udp", "--bitrate", "20M", "--length", "1100"][..],
        &["--udp", "--bitrate", "1M", "--length", "64"],
    ] {
        let measured = measure(arguments);
        println!("{arguments:?}: {measured:?}");
        assert!(
            measured.packets > 100 && measured.lost_percent < 20.0,
            "{arguments:?}: {measured:?}"
        );
    }
}

#[test]
fn dns_over_udp_is_answered() {
    // A59, N18
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let answer = "2001:db8::53".parse().expect("an address");
    let _server = programs::dns_server(&pair.host_b, pair.b_at(53), "host.test", answer);
    let start = Instant::now();
    assert_eq!(
        programs::dig(&pair.host_a, pair.b_at(53), "host.test"),
        [answer]
    );
    assert!(programs::dig(&pair.host_a, pair.b_at(53), "other.test").is_empty());
    // Nothing was repeated: dig waits two seconds before that.
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

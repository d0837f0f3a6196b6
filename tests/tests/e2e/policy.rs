//! Who gets in: strangers by rules alone, and not a moment longer than the rules say.

use crate::common::Strangers;
use anode_tests::lab::{Host, Node};
use anode_tests::traffic::{self, UdpEcho, accept, connect, listen};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);
/// Longer than anything that is answered takes here.
const SILENCE: Duration = Duration::from_secs(2);

fn assert_open(client: &Host, server: &Host, address: SocketAddr) {
    let listener = listen(server, address);
    let mut near = connect(client, address, LIMIT).expect("let in");
    let mut far = accept(&listener);
    near.write_all(b"in").expect("sent");
    let mut heard = [0; 2];
    far.read_exact(&mut heard).expect("received");
    assert_eq!(&heard, b"in");
}

#[test]
fn a_stranger_is_refused_at_once_and_let_in_by_rule_reload_and_trust() {
    // S40, U1
    let Some(lab) = Strangers::start("allow = [\"any tcp/22\"]") else {
        return;
    };
    let refused = |port| {
        let start = Instant::now();
        let error = connect(&lab.host_a, lab.b_at(port), LIMIT).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    };
    let _service = listen(&lab.host_b, lab.b_at(80));
    refused(80);
    refused(9);
    assert_open(&lab.host_a, &lab.host_b, lab.b_at(22));

    // The other direction is b's own: a's policy decides, and answers pass b's.
    lab.a.trust(&lab.b, "b");
    let own = SocketAddr::new(lab.a.ipv6().into(), 8080);
    assert_open(&lab.host_b, &lab.host_a, own);

    lab.reload("allow = [\"any tcp/8000-8100\"]");
    refused(22);
    assert_open(&lab.host_a, &lab.host_b, lab.b_at(8080));
    lab.b.trust(&lab.a, "a");
    assert_open(&lab.host_a, &lab.host_b, lab.b_at(22));
}

#[test]
fn what_is_open_ends_when_it_is_no_longer_allowed() {
    let Some(lab) = Strangers::start("") else {
        return;
    };
    lab.b.trust(&lab.a, "a");
    lab.a.trust(&lab.b, "b");
    let (mut theirs, mut served) = traffic::pair(&lab.host_a, &lab.host_b, lab.b_at(9000));
    let own = SocketAddr::new(lab.a.ipv6().into(), 9001);
    let (mut ours, mut there) = traffic::pair(&lab.host_b, &lab.host_a, own);
    lab.b.cli(&["distrust", "a"]).expect_ok();
    let mut rest = Vec::new();
    for (stream, who) in [(&mut theirs, "the peer"), (&mut served, "the service")] {
        let error = stream.read_to_end(&mut rest).expect_err("it ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{who}: {error}");
    }
    // What b itself opened goes on.
    ours.write_all(b"on").expect("sent");
    let mut heard = [0; 2];
    there.read_exact(&mut heard).expect("received");
    there.write_all(b"and on").expect("sent");
    let mut heard = [0; 6];
    ours.read_exact(&mut heard).expect("received");
}

#[test]
fn drop_is_silence_and_datagrams_pass_by_rule_or_as_answers() {
    let Some(lab) = Strangers::start("default = \"drop\"\nallow = [\"any udp/7\"]") else {
        return;
    };
    let error = connect(&lab.host_a, lab.b_at(80), SILENCE).expect_err("silence");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");

    let _open = UdpEcho::start(&lab.host_b, lab.b_at(7));
    let _closed = UdpEcho::start(&lab.host_b, lab.b_at(8));
    let echoed = |client: &Host, from: &Node, to: SocketAddr| {
        let socket = traffic::udp(client, SocketAddr::new(from.ipv6().into(), 0));
        socket.set_read_timeout(Some(SILENCE)).expect("a socket");
        socket.send_to(b"abc", to).expect("sent");
        let mut buffer = [0; 10];
        socket
            .recv_from(&mut buffer)
            .is_ok_and(|(size, _)| &buffer[..size] == b"abc")
    };
    assert!(echoed(&lab.host_a, &lab.a, lab.b_at(7)), "by rule");
    assert!(!echoed(&lab.host_a, &lab.a, lab.b_at(8)), "no rule");
    let there = SocketAddr::new(lab.a.ipv6().into(), 7);
    let _server = UdpEcho::start(&lab.host_a, there);
    lab.a.trust(&lab.b, "b");
    assert!(echoed(&lab.host_b, &lab.b, there), "an answer to b's own");
    let dropped = lab.b.metrics().sum("verdict=\"drop\"");
    assert!(dropped >= 2.0, "{dropped}");
}

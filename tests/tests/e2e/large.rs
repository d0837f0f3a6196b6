//! What is larger than a packet of the path, and what is neither TCP, UDP nor echo: sealed, with the settings of a newcomer.

use crate::common::{Pair, Strangers};
use anode_tests::lab::{Family, Host};
use anode_tests::programs;
use anode_tests::traffic::{Noise, UdpEcho, udp};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);
/// An error of a peer comes after one round trip.
const SOON: Duration = Duration::from_secs(1);
/// Longer than anything that is answered takes here.
const SILENCE: Duration = Duration::from_millis(1_500);
/// For experiments (RFC 3692): no kernel does anything with it.
const EXPERIMENT: u8 = 253;
const SCTP: u8 = 132;
/// DATA of IPPKT and DGRAM at most: 64 KiB less the message's type and ports (Q21), which is less than UDP's own 65,527.
const LARGEST: usize = 65_000;

/// A socket of this IP protocol on the node's overlay address.
fn raw(host: &Host, own: Ipv6Addr, protocol: u8) -> Socket {
    let socket = host
        .run(|| Socket::new(Domain::IPV6, Type::RAW, Some(i32::from(protocol).into())))
        .expect("a raw socket");
    socket.bind(&at(own, 0)).expect("bound");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

fn at(ip: Ipv6Addr, port: u16) -> SockAddr {
    SocketAddrV6::new(ip, port, 0, 0).into()
}

/// A UDP socket that hears the errors of its one peer.
fn connected(host: &Host, own: Ipv6Addr, peer: SocketAddr) -> UdpSocket {
    let socket = udp(host, SocketAddr::new(own.into(), 0));
    socket.connect(peer).expect("connected");
    socket
}

/// What a socket is told about what it sent, within `limit`.
fn told(socket: &Socket, limit: Duration) -> io::Error {
    socket.set_read_timeout(Some(limit)).expect("a timeout");
    let mut socket = socket;
    let heard = socket.read(&mut [0; 100]);
    heard.expect_err("nobody answers")
}

/// The kernel's timeouts of reads.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn datagrams_above_the_path_cross_both_ways_as_they_were() {
    // N18, N19, Q21
    for family in [Family::V4, Family::LinkLocal] {
        let Some(pair) = Pair::start(family) else {
            return;
        };
        assert_eq!(pair.a.peer(&pair.b).expect("listed")["sealed"], true);
        let ends = [
            (&pair.host_a, pair.a_at(0), &pair.host_b, pair.b_at(7)),
            (&pair.host_b, pair.b_at(0), &pair.host_a, pair.a_at(7)),
        ];
        for (client, from, server, to) in ends {
            let _echo = UdpEcho::start(server, to);
            let socket = udp(client, from);
            let mut buffer = vec![0; 70_000];
            for size in [1_200, 1_232, 1_233, 1_500, 9_000, LARGEST] {
                let sent = Noise::new(size as u64).bytes(size);
                socket.send_to(&sent, to).expect("sent");
                let (count, source) = socket
                    .recv_from(&mut buffer)
                    .unwrap_or_else(|e| panic!("{size} bytes to {to}: {e}"));
                assert_eq!(source, to);
                assert!(buffer[..count] == sent, "{size} bytes came back altered");
            }
        }
    }
}

#[test]
fn pings_above_the_path_are_answered_whole() {
    // N18, N20
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    for (host, target) in [(&pair.host_a, pair.b.ipv6()), (&pair.host_b, pair.a.ipv6())] {
        for size in [1_400, 8_000, 60_000] {
            // `ping` compares what comes back with what it sent.
            let pinged = programs::ping(host, target.into(), size, 5);
            assert_eq!(pinged.received, 5, "{size} bytes to {target}");
        }
    }
}

#[test]
fn a_closed_port_is_told_to_the_program_that_called_it() {
    // N21
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let ends = [
        (&pair.host_a, pair.a.ipv6(), pair.b_at(9)),
        (&pair.host_b, pair.b.ipv6(), pair.a_at(9)),
    ];
    for (host, own, to) in ends {
        // Small and in fragments; another program of the same machine hears nothing of it.
        for size in [10, 5_000] {
            let socket = connected(host, own, to);
            let bystander = connected(host, own, to);
            let start = Instant::now();
            socket.send(&vec![1; size]).expect("sent");
            let error = socket.recv(&mut [0; 10]).expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            bystander
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("a timeout");
            let error = bystander.recv(&mut [0; 10]).expect_err("it sent nothing");
            assert!(is_silence(&error), "{error}");
        }
    }
}

#[test]
fn what_no_session_can_carry_is_refused_with_the_size_that_fits() {
    // N18, Q21
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let far = udp(&pair.host_b, pair.b_at(7));
    let near = connected(&pair.host_a, pair.a.ipv6(), pair.b_at(7));
    let mut buffer = vec![0; 70_000];
    // The largest that UDP itself knows.
    for size in [65_507, 65_527] {
        let sent = Noise::new(size as u64).bytes(size);
        let carried = near.send(&sent).is_ok() && far.recv_from(&mut buffer).is_ok();
        println!("{size} bytes carried: {carried}");
        assert!(carried, "{size} bytes are below 64 KiB with their ports");
        assert!(buffer[..size] == sent);
    }
    let error = near.send(&vec![0; 65_528]).expect_err("more than UDP has");
    assert_eq!(error.raw_os_error(), Some(90), "EMSGSIZE: {error}");
    near.send(b"small").expect("the way is open still");
    assert_eq!(far.recv_from(&mut buffer).expect("received").0, 5);
}

#[test]
fn another_protocol_passes_where_a_rule_lets_it_and_its_answers_pass_without() {
    // N26
    let Some(lab) = Strangers::start("allow = [\"any ip/253\"]") else {
        return;
    };
    let (a, b) = (lab.a.ipv6(), lab.b.ipv6());
    let (near, far) = (
        raw(&lab.host_a, a, EXPERIMENT),
        raw(&lab.host_b, b, EXPERIMENT),
    );
    let (mut near, mut far) = (&near, &far);
    let mut buffer = vec![0; 70_000];
    // The last ones go in fragments of the kernel's and of ours.
    for size in [1, 100, 1_240, 3_000, 60_000] {
        let sent = Noise::new(size as u64).bytes(size);
        near.send_to(&sent, &at(b, 0)).expect("sent");
        let count = far
            .read(&mut buffer)
            .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
        assert!(buffer[..count] == sent, "{size} bytes arrived altered");
        // `a` has no rule for anybody.
        far.send_to(&sent, &at(a, 0)).expect("sent");
        let count = near
            .read(&mut buffer)
            .unwrap_or_else(|e| panic!("{size} bytes back: {e}"));
        assert!(buffer[..count] == sent, "{size} bytes came back altered");
    }
}

#[test]
fn a_protocol_that_no_rule_lets_in_is_told_so_or_met_with_silence() {
    // N22
    for (default, answered) in [("reject", true), ("drop", false)] {
        let inbound = format!("default = \"{default}\"\nallow = [\"any ip/132\"]");
        let Some(lab) = Strangers::start(&inbound) else {
            return;
        };
        let (a, b) = (lab.a.ipv6(), lab.b.ipv6());
        let far = raw(&lab.host_b, b, EXPERIMENT);
        let near = raw(&lab.host_a, a, EXPERIMENT);
        near.connect(&at(b, 0)).expect("connected");
        let start = Instant::now();
        near.send(b"let me in").expect("sent");
        let error = told(&near, SILENCE);
        if answered {
            // ICMPv6 1/1, as the kernel has it.
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        } else {
            assert!(is_silence(&error), "{error}");
        }
        let error = told(&far, Duration::from_millis(100));
        assert!(is_silence(&error), "it came in: {error}");
        let verdict = format!("protocol=\"other\",verdict=\"{default}\"");
        let counted = lab.b.metrics().sum(&format!("verdict=\"{default}\""));
        assert!(counted >= 1.0, "{verdict}: {counted}");
    }
}

#[test]
fn a_datagram_that_the_policy_refuses_is_told_so_or_met_with_silence() {
    // N22
    for (default, answered) in [("reject", true), ("drop", false)] {
        let inbound = format!("default = \"{default}\"\nallow = [\"any udp/7\"]");
        let Some(lab) = Strangers::start(&inbound) else {
            return;
        };
        let (a, b) = (lab.a.ipv6(), lab.b.ipv6());
        let _service = udp(&lab.host_b, SocketAddr::new(b.into(), 53));
        for size in [0, 1, 1_000, 20_000] {
            let socket = connected(&lab.host_a, a, SocketAddr::new(b.into(), 53));
            socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
            let start = Instant::now();
            socket.send(&vec![5; size]).expect("sent");
            let error = socket.recv(&mut [0; 10]).expect_err("refused");
            if answered {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{size}: {error}");
                assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            } else {
                assert!(is_silence(&error), "{size}: {error}");
            }
        }
        // What is let in is not hurt by what is not.
        let _echo = UdpEcho::start(&lab.host_b, SocketAddr::new(b.into(), 7));
        let socket = connected(&lab.host_a, a, SocketAddr::new(b.into(), 7));
        socket.send(b"in").expect("sent");
        assert_eq!(socket.recv(&mut [0; 10]).expect("echoed"), 2);
    }
}

#[test]
fn a_flood_of_refused_datagrams_is_answered_at_a_bounded_rate() {
    // S20
    let Some(lab) = Strangers::start("") else {
        return;
    };
    let (a, b) = (lab.a.ipv6(), lab.b.ipv6());
    let socket = connected(&lab.host_a, a, SocketAddr::new(b.into(), 53));
    let before = lab.b.metrics().sum("refusals_sent");
    let start = Instant::now();
    for _ in 0..2_000 {
        // An error that has come in between is handed out in place of the send.
        let _ = socket.send(&[0; 100]);
    }
    std::thread::sleep(Duration::from_millis(300));
    let (elapsed, after) = (start.elapsed().as_secs_f64(), lab.b.metrics());
    let sent = after.sum("refusals_sent") - before;
    let limit = 10.0 + 10.0 * (elapsed + 1.0);
    assert!(sent >= 1.0 && sent <= limit, "{sent} in {elapsed} s");
    assert!(after.sum("refusals_limited") >= 100.0, "{:?}", after.all());
}

#[test]
fn sctp_passes_where_a_rule_lets_it() {
    let Some(lab) = Strangers::start("allow = [\"any ip/132\"]") else {
        return;
    };
    let (a, b) = (lab.a.ipv6(), lab.b.ipv6());
    let sctp = |host: &Host| {
        let protocol = Some(Protocol::from(i32::from(SCTP)));
        host.run(|| Socket::new(Domain::IPV6, Type::STREAM, protocol))
    };
    match (sctp(&lab.host_a), sctp(&lab.host_b)) {
        (Ok(near), Ok(far)) => {
            far.bind(&at(b, 5_000)).expect("bound");
            far.listen(1).expect("listening");
            near.bind(&at(a, 0)).expect("bound");
            near.connect_timeout(&at(b, 5_000), LIMIT)
                .expect("an association");
            let (served, _) = far.accept().expect("accepted");
            near.send(b"over sctp").expect("sent");
            let mut buffer = [0; 100];
            served.set_read_timeout(Some(LIMIT)).expect("a timeout");
            let count = (&served).read(&mut buffer).expect("received");
            assert_eq!(&buffer[..count], b"over sctp");
        }
        (Err(error), _) | (_, Err(error)) => {
            println!("this kernel has no SCTP ({error}): its packets by hand");
            let (near, far) = (raw(&lab.host_a, a, SCTP), raw(&lab.host_b, b, SCTP));
            // Ports, tag, checksum, one INIT chunk (RFC 9260 §3.3.2).
            let mut init = vec![0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0];
            init.extend([
                1, 0, 0, 20, 1, 2, 3, 4, 0, 1, 0, 0, 0, 10, 0, 10, 5, 6, 7, 8,
            ]);
            near.send_to(&init, &at(b, 0)).expect("sent");
            let mut buffer = [0; 100];
            let count = (&far).read(&mut buffer).expect("received");
            assert_eq!(&buffer[..count], init);
        }
    }
}

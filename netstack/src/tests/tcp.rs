//! TCP: opening, closing, and all that can go wrong, with smoltcp as the kernel.

use std::net::SocketAddrV6;
use std::time::Duration;

use smoltcp::socket::tcp::{RecvError, State};

use super::world::*;
use crate::*;

fn both(test: impl Fn(World)) {
    for offload in [false, true] {
        test(World::new(config(offload)));
    }
}

fn peer(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(PEER, port, 0, 0)
}

fn program(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(MACHINE, port, 0, 0)
}

#[test]
fn connect_succeeds_only_after_the_peer_accepted() {
    // N1, N2, N11
    both(|mut world| {
        let handle = world.connect(50_000, peer(80));
        world.pass(Duration::from_secs(20));
        assert_eq!(world.kernel(handle).state(), State::SynSent);
        let events = world.take_events();
        let [Event::TcpOpen { flow, from, to }] = events[..] else {
            panic!("one flow however often the SYN comes, got {events:?}")
        };
        assert_eq!((from, to), (program(50_000), peer(80)));
        assert!(world.net.counters().tcp_duplicate_syn >= 3);
        assert_eq!(world.net.flows(), 1);
        world.net.tcp_accept(world.now, flow);
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Established);
        assert_eq!(world.net.flows(), 1);
    });
}

#[test]
fn data_and_orderly_end_in_both_directions() {
    // N4, N5
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.kernel(handle).send_slice(b"question").unwrap();
        world.kernel(handle).close();
        world.run();
        assert_eq!(world.take_events(), [Event::TcpReadable { flow }]);
        assert_eq!(world.read_all(flow), b"question");
        assert_eq!(world.take_events(), [Event::TcpFinished { flow }]);

        // The other direction is still open.
        assert_eq!(world.net.tcp_send(world.now, flow, b"answer"), 6);
        world.net.tcp_finish(world.now, flow);
        world.run();
        let mut answer = [0; 20];
        assert_eq!(world.kernel(handle).recv_slice(&mut answer), Ok(6));
        assert_eq!(&answer[..6], b"answer");
        assert_eq!(
            world.kernel(handle).recv_slice(&mut answer),
            Err(RecvError::Finished)
        );
        assert_eq!(world.take_events(), [Event::TcpClosed { flow }]);
        assert_eq!(world.net.flows(), 0);
    });
}

#[test]
fn the_simultaneous_end_loses_nothing() {
    // N4, N5
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.kernel(handle).send_slice(b"left").unwrap();
        world.kernel(handle).close();
        world.net.tcp_send(world.now, flow, b"right");
        world.net.tcp_finish(world.now, flow);
        world.pass(Duration::from_secs(1));
        let mut bytes = [0; 20];
        assert_eq!(world.kernel(handle).recv_slice(&mut bytes), Ok(5));
        // Unread bytes keep the flow, even past smoltcp's TIME-WAIT, which would throw them away.
        world.pass(Duration::from_secs(30));
        assert_eq!(world.net.flows(), 1);
        assert_eq!(world.read_all(flow), b"left");
        let expected = [
            Event::TcpReadable { flow },
            Event::TcpFinished { flow },
            Event::TcpClosed { flow },
        ];
        assert_eq!(world.take_events(), expected);
        assert_eq!(world.net.flows(), 0);
    });
}

#[test]
fn refused_unreachable_and_forgotten() {
    // N1, N3
    both(|mut world| {
        let refused = world.connect(50_001, peer(1));
        world.run();
        let [Event::TcpOpen { flow, .. }] = world.take_events()[..] else {
            panic!()
        };
        world.net.tcp_refuse(world.now, flow);
        world.run();
        assert_eq!(
            world.kernel(refused).state(),
            State::Closed,
            "RST|ACK with the right number"
        );
        assert_eq!(world.net.flows(), 0);

        for (why, code) in [
            (Unreachable::NoRoute, 0),
            (Unreachable::Prohibited, 1),
            (Unreachable::Address, 3),
            (Unreachable::Port, 4),
        ] {
            world.connect(50_100 + u16::from(code), peer(2));
            world.run();
            let [Event::TcpOpen { flow, .. }] = world.take_events()[..] else {
                panic!()
            };
            world.net.tcp_unreachable(world.now, flow, why);
            world.run();
            let (packet, _) = world.datagrams.pop().expect("an ICMPv6 error");
            assert_eq!((packet[40], packet[41]), (1, code));
            assert_eq!(
                packet[48 + 40..48 + 42],
                (50_100 + u16::from(code)).to_be_bytes(),
                "quotes the SYN"
            );
            assert_eq!(world.net.flows(), 0);
        }

        let retried = world.connect(50_200, peer(3));
        world.run();
        let [Event::TcpOpen { flow, .. }] = world.take_events()[..] else {
            panic!()
        };
        world.net.tcp_forget(flow);
        assert_eq!(world.net.flows(), 0);
        world.pass(Duration::from_secs(2));
        let again = world.take_events();
        let opened = again.iter().find_map(|event| match event {
            Event::TcpOpen { flow, from, .. } if from.port() == 50_200 => Some(*flow),
            _ => None,
        });
        let second = opened.expect("the kernel tries again");
        assert_ne!(second, flow, "ids are not used twice");
        world.net.tcp_accept(world.now, second);
        world.run();
        assert_eq!(world.kernel(retried).state(), State::Established);
    });
}

#[test]
fn a_peer_that_is_never_found_is_unreachable_in_the_end() {
    // N2
    both(|mut world| {
        world.connect(50_000, peer(80));
        world.run();
        world.pass(Netstack::OPEN_TIMEOUT - Duration::from_millis(1));
        let [Event::TcpOpen { flow, .. }] = world.take_events()[..] else {
            panic!()
        };
        assert!(
            world.datagrams.is_empty(),
            "an error is final: none while the search runs"
        );
        world.pass(Duration::from_millis(1));
        assert_eq!(world.take_events(), [Event::TcpReset { flow }]);
        assert_eq!(world.datagrams[0].0[40..42], [1, 3]);
        assert_eq!(world.net.counters().tcp_timed_out, 1);
    });
}

#[test]
fn a_reset_of_the_program_is_not_an_end() {
    // N3
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.kernel(handle).send_slice(b"half").unwrap();
        world.run();
        world.kernel(handle).abort();
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpReadable { flow }, Event::TcpReset { flow }]
        );
        assert_eq!(world.net.flows(), 0);

        // Also behind a FIN that was read.
        let (handle, flow) = world.open(50_001);
        world.kernel(handle).close();
        world.run();
        assert_eq!(world.take_events(), [Event::TcpFinished { flow }]);
        world.kernel(handle).abort();
        world.run();
        assert_eq!(world.take_events(), [Event::TcpReset { flow }]);
    });
}

#[test]
fn our_reset_reaches_the_program() {
    // N3
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.net.tcp_send(world.now, flow, &[1; 5000]);
        world.net.tcp_reset(world.now, flow);
        assert_eq!(world.net.tcp_send(world.now, flow, b"x"), 0);
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Closed);
        let error = world.kernel(handle).recv_slice(&mut [0; 10]);
        assert_eq!(error, Err(RecvError::InvalidState), "a RST, not a FIN");
        assert_eq!(world.net.flows(), 0);
        assert_eq!(world.take_events(), [], "who resets is not told so");
    });
}

#[test]
fn a_lost_reset_is_sent_again_when_the_program_speaks() {
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.cut_off = true;
        world.net.tcp_reset(world.now, flow);
        world.run();
        world.cut_off = false;
        assert_eq!(world.net.flows(), 0);
        world.kernel(handle).send_slice(b"hello?").unwrap();
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Closed);
        assert_eq!(world.net.counters().tcp_unknown, 1);
    });
}

#[test]
fn a_lost_last_ack_is_sent_again() {
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.net.tcp_finish(world.now, flow);
        world.run();
        world.cut_off = true;
        world.kernel(handle).close();
        world.run();
        assert_eq!(world.net.flows(), 0);
        world.cut_off = false;
        assert_eq!(world.kernel(handle).state(), State::LastAck);
        world.pass(Duration::from_secs(2));
        assert_eq!(world.kernel(handle).state(), State::Closed);
        assert_eq!(
            world.net.counters().tcp_unknown,
            0,
            "answered with ACK, not with RST"
        );
    });
}

#[test]
fn a_reused_port_replaces_what_was_there() {
    // N12
    both(|mut world| {
        // A flow that waits, one that stands, one that is closing, and one in TIME-WAIT.
        for stage in 0..4 {
            let port = 51_000 + stage;
            let old = match stage {
                0 => {
                    let handle = world.connect(port, peer(80));
                    world.run();
                    world.sockets.remove(handle);
                    let [Event::TcpOpen { flow, .. }] = world.take_events()[..] else {
                        panic!()
                    };
                    Some(flow)
                }
                1 | 2 => {
                    let (handle, flow) = world.open(port);
                    if stage == 2 {
                        world.net.tcp_finish(world.now, flow);
                        world.run();
                    }
                    world.sockets.remove(handle);
                    Some(flow)
                }
                _ => {
                    let (handle, flow) = world.open(port);
                    world.net.tcp_finish(world.now, flow);
                    world.run();
                    world.kernel(handle).close();
                    world.run();
                    world.sockets.remove(handle);
                    assert_eq!(world.net.flows(), 0);
                    None
                }
            };
            world.take_events();
            let handle = world.connect(port, peer(80));
            world.run();
            let events = world.take_events();
            let new = match (&events[..], old) {
                ([Event::TcpOpen { flow, .. }], None) => *flow,
                ([Event::TcpReset { flow: gone }, Event::TcpOpen { flow, .. }], Some(old)) => {
                    assert_eq!(*gone, old);
                    *flow
                }
                other => panic!("stage {stage}: {other:?}"),
            };
            world.net.tcp_accept(world.now, new);
            world.run();
            assert_eq!(
                world.kernel(handle).state(),
                State::Established,
                "at once, stage {stage}"
            );
            world.net.tcp_reset(world.now, new);
            world.run();
            world.take_events();
            assert_eq!(world.net.flows(), 0);
        }
        assert_eq!(world.net.counters().tcp_replaced, 3);
    });
}

#[test]
fn connecting_to_a_local_program() {
    // N13, N25
    both(|mut world| {
        let server = world.listen(22);
        let flow = world
            .net
            .tcp_connect(world.now, peer(40_000), program(22))
            .unwrap();
        assert_eq!(
            world.net.tcp_connect(world.now, peer(40_000), program(22)),
            None,
            "in use"
        );
        // Both may be asked for before the connection stands.
        assert_eq!(world.net.tcp_send(world.now, flow, b"early"), 0);
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpConnected { flow }, Event::TcpWritable { flow }]
        );
        let remote = world.kernel(server).remote_endpoint().unwrap();
        assert_eq!(
            remote.to_string(),
            format!("[{PEER}]:40000").replace(['[', ']'], "")
        );
        world.net.tcp_send(world.now, flow, b"hello");
        world.net.tcp_finish(world.now, flow);
        world.run();
        let mut bytes = [0; 10];
        assert_eq!(world.kernel(server).recv_slice(&mut bytes), Ok(5));
        world.kernel(server).close();
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpFinished { flow }, Event::TcpClosed { flow }]
        );
    });
}

#[test]
fn a_kernel_in_time_wait_is_reset_and_called_again_at_once() {
    // N12, N13
    let mut world = World::new(config(false));
    let flow = world
        .net
        .tcp_connect(world.now, peer(80), program(50_000))
        .unwrap();
    let mut sent = Vec::new();
    let mut next = |world: &mut World| {
        let mut out = Vec::new();
        world.net.poll_packet(world.now, &mut out)?;
        let header = etherparse::TcpHeaderSlice::from_slice(&out[40..]).unwrap();
        sent.push(header.to_header());
        sent.last().cloned()
    };
    let old = |tcp: &mut etherparse::TcpHeader| {
        tcp.ack = true;
        tcp.acknowledgment_number = 7_777;
    };
    let mut syns = Vec::new();
    // The first and three more; no time passes.
    for _ in 0..4 {
        let syn = next(&mut world).expect("a SYN at once");
        assert!(syn.syn && !syn.ack);
        assert!(!syns.contains(&syn.sequence_number), "a fresh one");
        syns.push(syn.sequence_number);
        let mut answer = segment(50_000, 9_000, old, b"");
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut answer, &mut world.sink);
        let reset = next(&mut world).expect("a reset");
        assert!(reset.rst && reset.sequence_number == 7_777);
    }
    // A kernel that never forgets is not called without end: what is left is smoltcp's own second.
    assert!(next(&mut world).is_none());
    let deadline = world.net.deadline().unwrap().0;
    assert!(deadline > world.now + Duration::from_millis(500));

    let last = *syns.last().unwrap();
    let accepts = |tcp: &mut etherparse::TcpHeader| {
        tcp.syn = true;
        tcp.ack = true;
        tcp.acknowledgment_number = last.wrapping_add(1);
    };
    let mut answer = segment(50_000, 9_000, accepts, b"");
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut answer, &mut world.sink);
    assert_eq!(world.net.poll_event(), Some(Event::TcpConnected { flow }));
}

#[test]
fn a_finish_before_the_connection_stands_is_not_lost() {
    both(|mut world| {
        let server = world.listen(22);
        let flow = world
            .net
            .tcp_connect(world.now, peer(40_000), program(22))
            .unwrap();
        world.net.tcp_finish(world.now, flow);
        world.run();
        assert_eq!(world.kernel(server).state(), State::CloseWait);

        let client = world.connect(50_000, peer(80));
        world.run();
        let Some(Event::TcpOpen { flow, .. }) = world.take_events().pop() else {
            panic!()
        };
        world.net.tcp_accept(world.now, flow);
        world.net.tcp_finish(world.now, flow);
        world.run();
        assert_eq!(world.kernel(client).state(), State::CloseWait);
    });
}

#[test]
fn a_local_program_that_is_not_there_or_does_not_answer() {
    both(|mut world| {
        let flow = world
            .net
            .tcp_connect(world.now, peer(40_000), program(23))
            .unwrap();
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpRefused {
                flow,
                timed_out: false
            }]
        );
        world.cut_off = true;
        let flow = world
            .net
            .tcp_connect(world.now, peer(40_000), program(23))
            .unwrap();
        world.pass(Duration::from_secs(30));
        assert_eq!(
            world.take_events(),
            [Event::TcpRefused {
                flow,
                timed_out: true
            }]
        );
        assert_eq!(world.net.flows(), 0);
        assert_eq!(world.net.deadline(), None, "nothing is left to wait for");
    });
}

#[test]
fn addresses_and_ports_that_cannot_be_connected() {
    let mut world = World::new(config(true));
    let with = |ip: &str, port| SocketAddrV6::new(ip.parse().unwrap(), port, 0, 0);
    for (from, to) in [
        (with("::", 1), program(22)),
        (with("ff02::1", 1), program(22)),
        (peer(0), program(22)),
        (peer(1), program(0)),
        (peer(1), with("::", 22)),
        (peer(1), with("ff02::1", 22)),
    ] {
        assert_eq!(
            world.net.tcp_connect(world.now, from, to),
            None,
            "{from} {to}"
        );
    }
    assert_eq!(world.net.flows(), 0);
}

#[test]
fn a_kernel_that_vanished_is_given_up() {
    both(|mut world| {
        let (_, flow) = world.open(50_000);
        world.cut_off = true;
        world.net.tcp_send(world.now, flow, b"anyone?");
        world.pass(Duration::from_secs(400));
        assert_eq!(world.take_events(), [Event::TcpReset { flow }]);
        assert_eq!(world.net.flows(), 0);
    });
}

#[test]
fn idle_and_stalled_flows_live_on() {
    // N6, N7: no keep-alive, no idle limit; a program or a peer that does not read is not a dead one.
    both(|mut world| {
        let (idle, idle_flow) = world.open(50_000);
        let (stalled, stalled_flow) = world.open(50_001);
        let (deaf, deaf_flow) = world.open(50_002);
        world.net.tcp_send(world.now, deaf_flow, &[2; 100_000]);
        let sent = world.kernel(stalled).send_slice(&[1; 100_000]).unwrap();
        world.pass(Duration::from_millis(2));
        world.kernel(stalled).send_slice(&[1; 100_000]).unwrap();
        world.pass(Duration::from_secs(3600));
        world.take_events();
        for handle in [idle, stalled, deaf] {
            assert_eq!(world.kernel(handle).state(), State::Established);
        }
        let mut total = 0;
        while total < 32 * 1024 {
            let read = world.read_all(stalled_flow).len();
            assert!(read > 0 && sent > 0);
            total += read;
        }
        assert_eq!(world.net.tcp_send(world.now, idle_flow, b"still there"), 11);
        world.run();
        assert_eq!(world.kernel(idle).recv_queue(), 11);
    });
}

#[test]
fn a_window_that_is_full_stops_the_program_and_opens_again() {
    // N7
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        let mut sent = 0;
        for _ in 0..20 {
            sent += world.kernel(handle).send_slice(&[3; 16 * 1024]).unwrap();
            world.run();
        }
        assert!(
            sent <= 32 * 1024 + 16 * 1024,
            "32 KiB here and 16 KiB there, not {sent}"
        );
        assert_eq!(
            world.take_events(),
            [Event::TcpReadable { flow }],
            "told once"
        );
        let mut read = 0;
        while read < sent {
            let got = world.read_all(flow).len();
            assert!(got > 0, "stuck at {read} of {sent}");
            read += got;
        }

        // And towards the program.
        let mut given = 0;
        loop {
            let taken = world.net.tcp_send(world.now, flow, &[4; 10_000]);
            given += taken;
            world.run();
            if taken < 10_000 && world.net.tcp_send_capacity(flow) == 0 {
                break;
            }
        }
        world.take_events();
        let mut bytes = vec![0; 64 * 1024];
        let mut got = world.kernel(handle).recv_slice(&mut bytes).unwrap();
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpWritable { flow }],
            "told once"
        );
        while got < given {
            let more = world.kernel(handle).recv_slice(&mut bytes).unwrap();
            assert!(more > 0, "stuck at {got} of {given}");
            got += more;
            world.run();
        }
    });
}

#[test]
fn data_in_a_syn_is_left_to_be_sent_again() {
    // N14
    let mut world = World::new(config(false));
    let mut syn = segment(50_000, 1000, |tcp| tcp.syn = true, b"fast open");
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
    let Some(Event::TcpOpen { flow, .. }) = world.net.poll_event() else {
        panic!()
    };
    world.net.tcp_accept(world.now, flow);
    let mut out = Vec::new();
    assert!(world.net.poll_packet(world.now, &mut out).is_some());
    let answer = etherparse::TcpHeaderSlice::from_slice(&out[40..]).unwrap();
    assert!(answer.syn() && answer.ack());
    assert_eq!(answer.acknowledgment_number(), 1001, "only the SYN");
    assert_eq!(
        world
            .net
            .tcp_recv(world.now, flow, &mut |bytes| bytes.len()),
        0
    );
}

#[test]
fn the_syn_ack_offers_what_the_interface_can_do() {
    // N16, N17
    both(|mut world| {
        let offload = world.wire_offload();
        let mut syn = segment(
            50_000,
            1000,
            |tcp| {
                tcp.syn = true;
                tcp.set_options(&[
                    etherparse::TcpOptionElement::MaximumSegmentSize(1220),
                    etherparse::TcpOptionElement::WindowScale(7),
                    etherparse::TcpOptionElement::SelectiveAcknowledgementPermitted,
                    etherparse::TcpOptionElement::Timestamp(1, 0),
                ])
                .unwrap();
            },
            b"",
        );
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
        let Some(Event::TcpOpen { flow, .. }) = world.net.poll_event() else {
            panic!()
        };
        world.net.tcp_accept(world.now, flow);
        let mut out = Vec::new();
        let given = world.net.poll_packet(world.now, &mut out).unwrap();
        assert_eq!(given.checksum.is_some(), offload);
        let answer = etherparse::TcpHeaderSlice::from_slice(&out[40..]).unwrap();
        let options: Vec<_> = answer.options_iterator().map(Result::unwrap).collect();
        use etherparse::TcpOptionElement::*;
        assert!(options.contains(&MaximumSegmentSize(1220)), "{options:?}");
        assert!(options.contains(&SelectiveAcknowledgementPermitted));
        assert!(
            options
                .iter()
                .any(|option| matches!(option, WindowScale(_)))
        );
        assert!(!options.iter().any(|option| matches!(option, Timestamp(..))));
    });
}

#[test]
fn small_writes_leave_at_once_and_their_ack_rides_or_comes_within_a_millisecond() {
    // N10
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        let mut out = Vec::new();
        for _ in 0..3 {
            world.net.tcp_send(world.now, flow, b"x");
            assert!(
                world.net.poll_packet(world.now, &mut out).is_some(),
                "nothing waits for an ACK"
            );
            assert_eq!(out.len(), 61);
        }
        for answer in [true, false] {
            world.pass(Duration::from_secs(2));
            world.kernel(handle).send_slice(b"y").unwrap();
            let before = world.segments_seen;
            world.run();
            assert_eq!(world.segments_seen, before, "an answer may be on its way");
            if answer {
                world.net.tcp_send(world.now, flow, b"z");
                world.run();
                assert_eq!(world.segments_seen, before + 1, "the ACK rides on it");
            }
            world.pass(Duration::from_millis(1));
            assert_eq!(world.segments_seen, before + 1, "one ACK in time");
            assert_eq!(world.read_all(flow), b"y");
            world.take_events();
            if answer {
                let woken = world.net.deadline().map(|(at, _)| at - world.now);
                assert!(woken.is_none_or(|wait| wait > Duration::from_millis(5)));
            }
        }
    });
}

#[test]
fn a_program_that_listens_first_accepts_with_the_first_data_and_any_other_at_once() {
    both(|mut world| {
        // Who speaks first, and whether the program learns of the connection at once.
        let rounds = [(true, true), (true, false), (false, false), (false, true)];
        for (port, (we_speak_first, at_once)) in (40_000..).zip(rounds) {
            let server = world.listen(22);
            let flow = world
                .net
                .tcp_connect(world.now, peer(port), program(22))
                .unwrap();
            world.run();
            assert_eq!(world.take_events(), [Event::TcpConnected { flow }]);
            let accepted = world.kernel(server).state() == State::Established;
            assert_eq!(accepted, at_once, "from {port}");
            if we_speak_first {
                let before = world.segments_seen;
                world.net.tcp_send(world.now, flow, b"hello");
                world.run();
                assert_eq!(world.segments_seen, before + 1, "one brings both");
                assert_eq!(world.kernel(server).recv_queue(), 5);
            } else {
                world.pass(Duration::from_millis(1));
                world.kernel(server).send_slice(b"220 hello").unwrap();
                world.pass(Duration::from_millis(1));
                assert_eq!(world.read_all(flow), b"220 hello");
            }
            assert_eq!(world.kernel(server).state(), State::Established);
            world.net.tcp_reset(world.now, flow);
            world.run();
            world.take_events();
        }
    });
}

#[test]
fn both_sides_may_dial_at_once() {
    // N13
    both(|mut world| {
        let flow = world
            .net
            .tcp_connect(world.now, peer(7), program(7))
            .unwrap();
        let handle = world.connect(7, peer(7));
        world.pass(Duration::from_secs(3));
        assert_eq!(world.kernel(handle).state(), State::Established);
        assert_eq!(
            world.take_events(),
            [Event::TcpConnected { flow }],
            "one connection, not two"
        );
        assert_eq!(world.net.flows(), 1);
        world.net.tcp_send(world.now, flow, b"hello");
        world.run();
        assert_eq!(world.kernel(handle).recv_queue(), 5);
    });
}

#[test]
fn urgent_data_is_delivered_inline() {
    // N15
    let mut world = World::new(config(false));
    let (_, flow) = world.open(50_000);
    let mut found = None;
    world.net.handle_packet(
        world.now,
        Offload::default(),
        &mut segment(50_001, 9, |tcp| tcp.syn = true, b""),
        &mut world.sink,
    );
    while let Some(event) = world.net.poll_event() {
        if let Event::TcpOpen { flow, .. } = event {
            found = Some(flow);
        }
    }
    let urgent = found.unwrap();
    assert_ne!(urgent, flow);
    world.net.tcp_accept(world.now, urgent);
    let mut out = Vec::new();
    world.net.poll_packet(world.now, &mut out).unwrap();
    let theirs = etherparse::TcpHeaderSlice::from_slice(&out[40..])
        .unwrap()
        .sequence_number();
    let mut data = segment(
        50_001,
        10,
        |tcp| {
            tcp.ack = true;
            tcp.acknowledgment_number = theirs.wrapping_add(1);
            tcp.urg = true;
            tcp.urgent_pointer = 1;
        },
        b"ab",
    );
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut data, &mut world.sink);
    assert_eq!(world.read_all(urgent), b"ab");
}

#[test]
fn floods_of_syns_to_one_peer_leave_room_for_others() {
    // S23
    let mut world = World::new(config(true));
    for port in 0..1000 {
        let mut syn = segment(1000 + port, 1, |tcp| tcp.syn = true, b"");
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
    }
    assert_eq!(world.net.flows(), 64 / 8);
    assert_eq!(world.net.counters().tcp_no_room, 1000 - 8);
    let other = SocketAddrV6::new("fda0:cccc::1".parse().unwrap(), 80, 0, 0);
    world.connect(60_000, other);
    world.run();
    let opened = world
        .take_events()
        .into_iter()
        .any(|event| matches!(event, Event::TcpOpen { to, .. } if to == other));
    assert!(opened);
    world.pass(Duration::from_secs(61));
    assert_eq!(world.net.flows(), 0);
}

#[test]
fn the_table_has_a_bound() {
    // S23
    let mut world = World::new(Config {
        max_flows: 16,
        ..config(true)
    });
    let mut connected = 0;
    for port in 0..20 {
        connected += usize::from(
            world
                .net
                .tcp_connect(world.now, peer(1000 + port), program(22))
                .is_some(),
        );
    }
    assert_eq!(connected, 16);
    world.connect(60_000, peer(80));
    world.net.handle_timeout(world.now);
    let mut syn = segment(60_000, 1, |tcp| tcp.syn = true, b"");
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
    assert_eq!(world.net.flows(), 16);
    assert_eq!(world.net.counters().tcp_no_room, 1);
}

#[test]
fn connections_to_the_node_itself_are_refused() {
    both(|mut world| {
        let handle = world.connect(50_000, SocketAddrV6::new(NODE, 80, 0, 0));
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Closed);
        assert_eq!(world.take_events(), []);
    });
}

#[test]
fn bulk_goes_in_super_packets_where_they_are_understood() {
    // N17
    both(|mut world| {
        let offload = world.wire_offload();
        let (handle, flow) = world.open(50_000);
        world.net.tcp_send(world.now, flow, &[9; 15_000]);
        world.run();
        assert_eq!(world.kernel(handle).recv_queue(), 15_000);
        assert_eq!(world.super_packets_seen > 0, offload);
    });
}

#[test]
fn ten_thousand_idle_flows_cost_nothing() {
    let mut world = World::new(Config {
        tcp_buffer: 4096,
        max_flows: 20_000,
        ..config(true)
    });
    let (handle, flow) = world.open(50_000);
    // Peers' connections to a listening program, answered by hand: ten thousand kernel sockets would be slow to scan.
    let mut out = Vec::new();
    for index in 0..10_000u32 {
        let from = SocketAddrV6::new(PEER, 1000 + index as u16, 0, 0);
        world.net.tcp_connect(world.now, from, program(22)).unwrap();
        world.net.poll_packet(world.now, &mut out).unwrap();
        let syn = etherparse::TcpHeaderSlice::from_slice(&out[40..])
            .unwrap()
            .to_header();
        let mut answer = segment_to(
            22,
            from.port(),
            7,
            |tcp| {
                tcp.syn = true;
                tcp.ack = true;
                tcp.acknowledgment_number = syn.sequence_number.wrapping_add(1);
            },
            b"",
        );
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut answer, &mut world.sink);
        while world.net.poll_packet(world.now, &mut out).is_some() {}
    }
    while world.net.poll_event().is_some() {}
    assert_eq!(world.net.flows(), 10_001);
    // Timers of the opening have run out.
    world.pass(Duration::from_secs(5));
    assert_eq!(world.net.deadline(), None, "idle flows have no timers");

    let before = world.net.counters().flow_polls;
    for _ in 0..100 {
        world.kernel(handle).send_slice(b"ping").unwrap();
        world.run();
        assert_eq!(world.read_all(flow).len(), 4);
    }
    let polls = world.net.counters().flow_polls - before;
    assert!(
        polls <= 100 * 6,
        "only the busy flow is asked: {polls} times for 100 round trips"
    );
}

/// A segment from a program to the peer's port 80.
fn segment(
    port: u16,
    sequence: u32,
    change: impl FnOnce(&mut etherparse::TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    segment_to(port, 80, sequence, change, payload)
}

pub fn segment_to(
    from: u16,
    to: u16,
    sequence: u32,
    change: impl FnOnce(&mut etherparse::TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = etherparse::TcpHeader::new(from, to, sequence, 60_000);
    change(&mut tcp);
    tcp.checksum = tcp
        .calc_checksum_ipv6_raw(MACHINE.octets(), PEER.octets(), payload)
        .unwrap();
    let length = (tcp.header_len() + payload.len()) as u16;
    let mut packet = crate::packet::ipv6_header(MACHINE, PEER, 6, length).to_vec();
    packet.extend_from_slice(&tcp.to_bytes());
    packet.extend_from_slice(payload);
    packet
}

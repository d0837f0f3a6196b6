//! Connections that come about, and the truth for those that do not.
use super::*;

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
fn connections_to_the_node_itself_are_refused() {
    both(|mut world| {
        let handle = world.connect(50_000, SocketAddrV6::new(NODE, 80, 0, 0));
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Closed);
        assert_eq!(world.take_events(), []);
    });
}

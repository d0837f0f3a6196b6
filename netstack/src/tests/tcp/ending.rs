//! Connections that end: in order, by a reset, or since the other side is gone.
use super::*;

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

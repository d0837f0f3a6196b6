//! Streams across nodes: transfers, roaming, closing, limits, turns.
use super::*;
use crate::overlay::StreamId;

/// Bytes that are not periodic in anything a packet could hide.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(super) fn open(sim: &mut Sim, from: usize, number: u16, port: u16) -> StreamId {
    let now = sim.now;
    sim.hosts[from]
        .node
        .open(now, 40_000, ipv6(number), port)
        .unwrap()
}

fn transfer(sim: &mut Sim, len: usize, limit: Duration) -> Duration {
    let data = pattern(len);
    let stream = open(sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    let took = sim.until(limit, "the transfer", |sim| sim.has_finished(1));
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(
        sim.hosts[1].program.read[&incoming] == data,
        "every byte arrives once and in order"
    );
    took
}

#[test]
fn ten_megabytes_cross_a_link_that_loses_and_reorders() {
    // A60, A64, A65
    let mut sim = Sim::pair(3);
    sim.link = Link {
        jitter: ms(2),
        loss: 50,
        duplicate: 10,
        ..Link::default()
    };
    let took = transfer(&mut sim, 10 << 20, secs(600));
    println!("10 MiB with 5 % loss, 1 % duplicates, 2 ms jitter, 20 ms RTT: {took:?}");
}

#[test]
fn a_transfer_goes_on_while_the_sender_roams() {
    // A2, S17
    for roamer in [0, 1] {
        let mut sim = Sim::pair(40 + roamer as u64);
        sim.link.rate = 12_500_000;
        let data = pattern(20 << 20);
        let stream = open(&mut sim, 0, 2, 80);
        sim.write(0, stream, data.clone());
        sim.run(ms(400));
        let before = sim.bytes_read(1);
        assert!(before > 0 && before < data.len(), "{before}");
        sim.hosts[roamer].at = elsewhere(7);
        // Who roams does not know it: its next packets tell. A silent receiver is asked by its own acknowledgements' silence.
        let took = sim.until(secs(60), "progress", |sim| {
            sim.bytes_read(1) > before + (4 << 20)
        });
        println!("host {} roamed: 4 MiB more after {took:?}", roamer + 1);
        assert!(took < secs(10), "{took:?}");
        sim.until(secs(60), "the end", |sim| sim.has_finished(1));
        let incoming = sim.hosts[1].program.accepted[0];
        assert!(sim.hosts[1].program.read[&incoming] == data);
        assert_eq!(
            sim.used(1 - roamer, roamer as u16 + 1),
            Some("udp://198.51.100.7:4000".into())
        );
    }
}

#[test]
fn a_transfer_survives_a_partition_of_twenty_seconds() {
    let mut sim = Sim::pair(43);
    sim.link.rate = 12_500_000;
    let data = pattern(20 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    sim.run(ms(400));
    sim.cut.push((home(1), home(2)));
    sim.run(secs(20));
    sim.cut.clear();
    sim.until(secs(120), "the end", |sim| sim.has_finished(1));
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(sim.hosts[1].program.read[&incoming] == data);
}

#[test]
fn a_restarted_peer_is_met_again() {
    // A41, D20
    let mut sim = Sim::draft_pair(44);
    open(&mut sim, 0, 2, 80);
    sim.run(secs(1));
    sim.restart(1, 2, draft());
    // It knows nobody's short id; PING carries the whole address and is answered at once.
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
    let now = sim.now;
    let second = sim.hosts[0].node.open(now, 40_001, ipv6(2), 80).unwrap();
    sim.until(secs(3), "the second stream", |sim| {
        sim.has_event(0, |event| {
            *event == OverlayEvent::StreamOpened { stream: second }
        })
    });
}

#[test]
fn half_close_and_close_are_told_to_both() {
    // A63, D35
    let mut sim = Sim::pair(45);
    let stream = open(&mut sim, 0, 2, 80);
    sim.until(secs(1), "the stream", |sim| {
        !sim.hosts[1].program.accepted.is_empty()
    });
    let incoming = sim.hosts[1].program.accepted[0];
    sim.write(0, stream, b"question".to_vec());
    sim.until(secs(1), "the end of the question", |sim| {
        sim.has_event(1, |e| {
            *e == OverlayEvent::StreamFinished { stream: incoming }
        })
    });
    sim.run(secs(1));
    assert!(!sim.has_event(0, |event| matches!(
        event,
        OverlayEvent::StreamFinished { .. }
    )));
    sim.write(1, incoming, b"answer".to_vec());
    sim.until(secs(1), "the close", |sim| {
        sim.has_event(0, |event| *event == OverlayEvent::StreamClosed { stream })
    });
    sim.until(secs(1), "the close", |sim| {
        sim.has_event(1, |event| {
            *event == OverlayEvent::StreamClosed { stream: incoming }
        })
    });
    assert_eq!(sim.hosts[0].program.read[&stream], b"answer");
    assert_eq!(sim.hosts[0].node.stream_count(), 1, "it lingers");
    sim.run(secs(130));
    assert_eq!(
        (
            sim.hosts[0].node.stream_count(),
            sim.hosts[1].node.stream_count()
        ),
        (0, 0)
    );
    assert_eq!((sim.peer(0, 2).streams, sim.peer(1, 1).streams), (0, 0));
}

#[test]
fn refusals_say_why() {
    // A61, DESIGN §5
    for (failure, told) in [
        (Failure::Refused, Failure::Refused),
        (Failure::Policy, Failure::Policy),
        (Failure::Reset, Failure::Reset),
        (Failure::TimedOut, Failure::TimedOut),
    ] {
        let mut sim = Sim::pair(46);
        sim.hosts[1].program.accepts = false;
        let stream = open(&mut sim, 0, 2, 80);
        sim.until(secs(1), "the stream", |sim| {
            sim.has_event(1, |event| {
                matches!(event, OverlayEvent::StreamIncoming { .. })
            })
        });
        let Some((
            _,
            OverlayEvent::StreamIncoming {
                stream: incoming,
                from,
                from_port,
                to,
                to_port,
            },
        )) = sim.hosts[1].program.events.last().cloned()
        else {
            panic!("not incoming")
        };
        assert_eq!(
            (from, from_port, to, to_port),
            (ipv6(1), 40_000, ipv6(2), 80),
            "D28, S14"
        );
        let now = sim.now;
        sim.hosts[1].node.abort(now, incoming, failure);
        sim.until(secs(1), "the refusal", |sim| {
            sim.has_event(0, |event| {
                *event
                    == OverlayEvent::StreamFailed {
                        stream,
                        failure: told,
                    }
            })
        });
    }
}

#[test]
fn a_reset_reaches_the_other_end_of_an_open_stream() {
    let mut sim = Sim::pair(47);
    let stream = open(&mut sim, 0, 2, 80);
    sim.until(secs(1), "the answer", |sim| {
        sim.has_event(0, |event| *event == OverlayEvent::StreamOpened { stream })
    });
    let incoming = sim.hosts[1].program.accepted[0];
    let now = sim.now;
    sim.hosts[0].node.abort(now, stream, Failure::Reset);
    sim.until(secs(1), "the reset", |sim| {
        sim.has_event(1, |event| {
            *event
                == OverlayEvent::StreamFailed {
                    stream: incoming,
                    failure: Failure::Reset,
                }
        })
    });
    assert!(
        !sim.has_event(0, |event| matches!(
            event,
            OverlayEvent::StreamFailed { .. }
        )),
        "who resets is told nothing"
    );
}

#[test]
fn a_flood_of_opens_is_capped_per_peer_and_in_all() {
    // S22
    let mut sim = Sim::draft_pair(48);
    sim.hosts[1].program.accepts = false;
    sim.hosts[1].node.config.limits.pending_streams = 300;
    sim.ping(0, ipv6(2)).unwrap();
    let open = |from: u16, link: u16| {
        let links = anode_wire::message::Links {
            sender: link,
            receiver: 80,
        };
        packet(
            from,
            2,
            &Message::Stream(anode_wire::message::StreamMessage::Open {
                links,
                window: 64,
                isn: 7,
                flags: 1,
            }),
            true,
        )
    };
    for link in 1..=1000 {
        sim.inject(home(1), home(2), open(1, link));
        // Repeats of an S_OPEN multiply nothing.
        sim.inject(home(1), home(2), open(1, 1));
    }
    sim.run(ms(100));
    assert_eq!(sim.hosts[1].node.stream_count(), 256);
    for link in 1..=1000 {
        sim.inject(home(3), home(2), open(3, link));
    }
    sim.run(ms(100));
    assert_eq!(sim.hosts[1].node.stream_count(), 300);
    assert_eq!(sim.counters(1).dropped_opens, 744 + 956);
    // Nobody answers them: their time is limited.
    sim.run(secs(200));
    assert_eq!(sim.hosts[1].node.stream_count(), 0);
    assert_eq!(sim.hosts[1].node.streams.pending, 0);
}

#[test]
fn a_source_port_in_use_gets_another_link_id() {
    // A62, S25, N12
    let mut sim = Sim::pair(49);
    let (first, second) = (open(&mut sim, 0, 2, 80), open(&mut sim, 0, 2, 80));
    assert_ne!(first, second);
    sim.run(secs(1));
    for stream in [first, second] {
        assert!(sim.has_event(0, |event| *event == OverlayEvent::StreamOpened { stream }));
    }
    let ports: Vec<u16> = sim.hosts[1]
        .program
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            OverlayEvent::StreamIncoming { from_port, .. } => Some(*from_port),
            _ => None,
        })
        .collect();
    assert!(
        ports.len() == 2 && ports[0] == 40_000 && ports[1] != 40_000,
        "{ports:?}"
    );
}

#[test]
fn pings_overtake_a_bulk_transfer() {
    for (mut sim, wanted) in [
        (Sim::draft_pair(50), kind::PING),
        (Sim::pair(50), anode_wire::sealed::kind::SEALED),
    ] {
        let bulk = open(&mut sim, 0, 2, 80);
        sim.run(ms(200));
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        assert!(node.write(now, bulk, &[5; 100_000]) > 10_000);
        node.ping(now, ipv6(2), 1, b"small").unwrap();
        let mut batch = TransmitBatch::new(64);
        assert!(node.poll_transmit(now, &mut batch));
        let packets: Vec<(u8, bool)> = batch
            .packets()
            .map(|packet| {
                let kind = Packet::new_checked(packet).unwrap().kind();
                (kind, packet.len() < 80)
            })
            .collect();
        assert_eq!(packets, [(wanted, true)]);
        batch.clear(64);
        assert!(node.poll_transmit(now, &mut batch));
        assert!(batch.segments() > 1);
    }
}

#[test]
fn streams_take_turns() {
    let mut sim = Sim::pair(51);
    let streams: Vec<StreamId> = (0..10)
        .map(|port| open(&mut sim, 0, 2, 80 + port))
        .collect();
    sim.run(ms(200));
    for stream in &streams {
        sim.write(0, *stream, pattern(4 << 20));
    }
    sim.run(ms(700));
    let shares: Vec<usize> = sim.hosts[1].program.read.values().map(Vec::len).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(shares.len() == 10 && *least * 2 > *most, "{shares:?}");
}

#[test]
fn batches_hold_equal_packets_of_several_streams() {
    let mut sim = Sim::pair(52);
    let streams: Vec<StreamId> = (0..4).map(|port| open(&mut sim, 0, 2, 80 + port)).collect();
    sim.run(ms(200));
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    for stream in &streams {
        assert!(node.write(now, *stream, &[5; 100_000]) > 10_000);
    }
    let mut batch = TransmitBatch::new(64);
    let mut sizes = Vec::new();
    loop {
        batch.clear(64);
        if !node.poll_transmit(now, &mut batch) {
            break;
        }
        assert!(batch.contents.len() <= MAX_BATCH_BYTES && batch.segments() <= MAX_BATCH_SEGMENTS);
        assert!(batch.packets().all(|packet| packet.len() <= 1232));
        sizes.push(batch.segments());
    }
    assert!(
        sizes.iter().sum::<usize>() >= 40 && sizes[0] > 16,
        "{sizes:?}"
    );
}

#[test]
fn datagrams_that_come_joined_are_judged_one_by_one() {
    // D11, Q18, S6: what GRO joins is checked together, and one bad packet costs no other.
    for (mut sim, sealed) in [(Sim::draft_pair(53), false), (Sim::pair(53), true)] {
        let data = pattern(100_000);
        let stream = open(&mut sim, 0, 2, 80);
        sim.run(ms(200));
        let now = sim.now;
        let host = &mut sim.hosts[0];
        let taken = host.node.write(now, stream, &data);
        let mut batch = TransmitBatch::new(64);
        assert!(host.node.poll_transmit(now, &mut batch));
        assert!(batch.segments() >= 8, "{}", batch.segments());
        let size = batch.segment_size;
        batch.contents[3 * size + 70] ^= 1;
        let before = sim.counters(1);
        let host = &mut sim.hosts[1];
        let received = Received {
            from: Place::Udp(home(1)),
            socket: 0,
            local_ip: None,
            ecn: Ecn::NotCapable,
            segment_size: size,
            bytes: &mut batch.contents,
        };
        let segments = received.bytes.chunks(size).count() as u64;
        host.node.handle_datagram(now, received, &mut host.program);
        let after = sim.counters(1);
        assert_eq!(after.rx_packets - before.rx_packets, segments);
        let forged = (
            after.dropped_bad_mac - before.dropped_bad_mac,
            after.dropped_sealed - before.dropped_sealed,
        );
        assert_eq!(forged, if sealed { (0, 1) } else { (1, 0) });
        sim.pump();
        let incoming = sim.hosts[1].program.accepted[0];
        let read = sim.hosts[1].program.read[&incoming].len();
        assert!(
            read > 2_000 && read < 4 * size,
            "three packets before the bad one: {read}"
        );
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (data.clone(), taken));
        sim.until(secs(5), "the rest", |sim| {
            sim.hosts[1].program.read[&incoming].len() == data.len()
        });
        assert!(sim.hosts[1].program.read[&incoming] == data);
    }
}

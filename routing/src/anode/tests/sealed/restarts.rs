//! Machines that restart, are lost, or whose clocks jump.
use super::*;

/// A transfer under way from host 1 to host 2.
fn transfer_under_way(seed: u64) -> (Sim, StreamId) {
    let mut sim = Sim::pair(seed);
    sim.link.rate = 12_500_000;
    let stream = open(&mut sim, 0, 2, 80);
    let data = pattern(40 << 20);
    sim.write(0, stream, data);
    sim.run(ms(600));
    assert!(sim.bytes_read(1) > 100_000);
    (sim, stream)
}

#[test]
fn a_receiver_that_restarts_resets_within_a_second() {
    // Q22, Q24
    let (mut sim, stream) = transfer_under_way(70);
    sim.restart(1, 2, quiet());
    let failed = OverlayEvent::StreamFailed {
        stream,
        failure: Failure::Reset,
    };
    let took = sim.until(secs(1), "the reset", |sim| {
        sim.has_event(0, |event| *event == failed)
    });
    println!("the receiver restarted: reset after {took:?}");
    let second = open(&mut sim, 0, 2, 81);
    sim.until(ms(500), "the second stream", |sim| {
        sim.has_event(0, |e| *e == OverlayEvent::StreamOpened { stream: second })
    });
}

#[test]
fn a_sender_that_restarts_resets_within_a_second() {
    // Q22, Q24: the receiver's acknowledgements meet a node that knows nothing of them.
    let (mut sim, _) = transfer_under_way(71);
    let incoming = sim.hosts[1].program.accepted[0];
    sim.restart(0, 1, knows(&[2]));
    // Nothing may be on the way to acknowledge: what the program there writes tells.
    let now = sim.now;
    sim.hosts[1].node.write(now, incoming, b"are you there?");
    let failed = OverlayEvent::StreamFailed {
        stream: incoming,
        failure: Failure::Reset,
    };
    let took = sim.until(secs(1), "the reset", |sim| {
        sim.has_event(1, |event| *event == failed)
    });
    println!("the sender restarted: reset after {took:?}");
    let second = open(&mut sim, 0, 2, 81);
    sim.until(ms(500), "the second stream", |sim| {
        sim.has_event(0, |e| *e == OverlayEvent::StreamOpened { stream: second })
    });
}

#[test]
fn who_restarts_is_back_within_a_second_whatever_is_lost() {
    // Q5, Q24: either side, both, with and without what was on the disk, with a clock that was set back by a day
    for (restarts, keeps, back) in [
        ([true, false], true, 0),
        ([false, true], true, 0),
        ([true, true], true, 0),
        ([true, false], false, 86_400),
        ([false, true], false, 86_400),
        ([true, true], false, 86_400),
    ] {
        let mut sim = Sim::pair(72);
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(5));
        sim.back = secs(back);
        for (index, number) in [(0, 1), (1, 2)] {
            if !restarts[index] {
                continue;
            }
            let records = sim.hosts[index].node.export_records();
            let config = if index == 0 { knows(&[2]) } else { quiet() };
            sim.restart(index, number, config);
            let now = sim.now;
            if keeps {
                sim.hosts[index].node.import_records(now, &records);
            }
        }
        // A program that repeats itself ten times a second.
        let begin = sim.now;
        let mut reached = None;
        for token in 0..20 {
            let now = sim.now;
            let _ = sim.hosts[0].node.ping(now, ipv6(2), 7_000 + token, b"x");
            sim.run(ms(100));
            let pong = |e: &OverlayEvent| matches!(e, OverlayEvent::Pong { token: 7_000.., .. });
            if sim.has_event(0, pong) {
                reached = Some(sim.now - begin);
                break;
            }
        }
        let reached = reached.unwrap_or(Duration::MAX);
        assert!(
            reached <= secs(1),
            "{restarts:?} {keeps} {back}: {reached:?}"
        );
    }
}

#[test]
fn a_dead_peer_is_noticed_and_a_late_one_found() {
    // D24, Q9, S23
    let mut sim = Sim::pair(87);
    sim.ping(0, ipv6(2)).unwrap();
    sim.hosts[1].up = false;
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    let took = sim.now - begin;
    assert!(took > secs(5) && took < secs(7), "{took:?}");
    assert_eq!(sim.counters(0).paths_lost, 1);
    // It comes up again while somebody asks for it, with nothing that it knew.
    sim.run(secs(3));
    let now = sim.now;
    sim.hosts[0].node.ping(now, ipv6(2), 9, b"x").unwrap();
    sim.run(ms(1500));
    sim.restart(1, 2, quiet());
    sim.until(secs(2), "the pong", |sim| {
        sim.has_event(0, |e| matches!(e, OverlayEvent::Pong { token: 9, .. }))
    });
    // Nobody at all: five seconds, a handful of packets, and silence.
    let mut sim = Sim::new(88);
    sim.host(1, knows(&[2]));
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    assert_eq!(sim.now - begin, secs(5));
    sim.run(secs(60));
    let sent = sim.hosts[0].sent.0;
    assert!(sent <= 20, "{sent} packets");
    sim.run(secs(600));
    assert_eq!(sim.hosts[0].sent.0, sent);
    assert_eq!(sim.hosts[0].node.deadline(), None);
}

#[test]
fn clocks_that_jump_apart_drop_all_sessions_before_anything_is_sealed() {
    // Q17
    let mut sim = Sim::pair(81);
    sim.ping(0, ipv6(2)).unwrap();
    let drift = sim.clock_of(ms(4_900));
    sim.hosts[0].node.set_clock(drift);
    assert!(sim.peer(0, 2).sealed, "clocks may drift");
    let jump = sim.clock_of(secs(60));
    sim.hosts[0].node.set_clock(jump);
    assert!(!sim.peer(0, 2).sealed);
    assert_eq!(sim.counters(0).clock_jumps, 1);
    sim.record = Some(Vec::new());
    assert!(sim.ping(0, ipv6(2)).is_ok());
    let first = recorded(&sim, home(1), seal::SEALED);
    assert!(!recorded(&sim, home(1), seal::HELLO).is_empty());
    let counter = |packet: &[u8]| u64::from_be_bytes(packet[32..40].try_into().unwrap());
    assert_eq!(counter(&first[0]), 0, "a new session");
}

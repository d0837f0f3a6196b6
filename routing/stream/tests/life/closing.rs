//! How a stream ends: in order, by a reset, with a peer that knows nothing of it, or by silence.
use super::*;

#[test]
fn half_close_in_every_order() {
    // A63, D30, D35, N3, N4
    for (name, first, second) in [("client first", 0, 1), ("server first", 1, 0)] {
        for loss in [0.0, 0.2] {
            let mut sim = Sim::new(5, lan().loss(loss));
            sim.ends[first].to_write = 50_000;
            sim.ends[second].to_write = 80_000;
            sim.ends[second].finish_after_peer = true;
            assert!(sim.run(s(200), Sim::complete), "{name} {loss}");
            let closed = sim.ends[second].when(Event::Finished).unwrap();
            assert!(
                closed < sim.ends[first].when(Event::Finished).unwrap(),
                "{name}"
            );
        }
    }
    let mut sim = Sim::new(6, lan());
    sim.ends[0].to_write = 50_000;
    sim.ends[1].to_write = 50_000;
    assert!(sim.run(s(20), Sim::complete), "both at once");
    assert!(
        sim.run(s(70), |s| s.ends.iter().all(|e| e.saw(Event::Closed))),
        "60 s later both are forgotten"
    );
    let closed =
        sim.ends[0].when(Event::Closed).unwrap() - sim.ends[0].when(Event::Flushed).unwrap();
    assert!(closed >= s(60), "{closed:?}");
    assert!(
        sim.ends
            .iter()
            .all(|e| e.stream.as_ref().unwrap().memory() < 200_000)
    );
}

#[test]
fn the_close_takes_the_number_after_the_last_data_and_is_acknowledged() {
    // D30, D35, N5
    let now = Instant::now();
    let mut stream = opened(now, 64);
    stream.write(now, &[1; 2000]);
    stream.finish(now);
    assert_eq!(stream.write(now, b"more"), 0);
    assert_eq!(
        all(&mut stream, now),
        ["DATA 101 1196", "DATA 102 804", "CLOSE 0 100 103"]
    );
    ack(&mut stream, now, 64, &[(101, 2)]);
    assert_eq!(events(&mut stream), [], "no room is announced after finish");
    ack(&mut stream, now, 64, &[(103, 1)]);
    assert_eq!(events(&mut stream), [Event::Flushed]);
    // The peer goes on, then closes; its close is delivered after its data and acknowledged, again when repeated.
    close(&mut stream, now, 0, 500, 502);
    assert_eq!(events(&mut stream), []);
    data(&mut stream, now, 501, b"bye");
    assert_eq!(events(&mut stream), [Event::Readable]);
    assert_eq!(stream.read(now, &mut |b| b.len()), 3);
    assert_eq!(events(&mut stream), [Event::Finished]);
    assert_eq!(all(&mut stream, now), ["ACK [(500, 3)] window 256"]);
    close(&mut stream, now + s(59), 0, 500, 502);
    assert_eq!(all(&mut stream, now + s(59)).len(), 1, "lingering");
    close(&mut stream, now, 0, 501, 502);
    assert_eq!(stream.counters().misplaced, 1, "a close with a foreign ISN");
}

#[test]
fn a_lone_close_is_tried_six_times() {
    // D35
    let mut now = Instant::now();
    let mut stream = opened(now, 64);
    stream.finish(now);
    let mut sent = 0;
    loop {
        sent += all(&mut stream, now)
            .iter()
            .filter(|m| m.starts_with("CLOSE 0"))
            .count();
        if events(&mut stream).contains(&Event::Aborted {
            reason: CloseReason::TimedOut,
            by_peer: false,
        }) {
            break;
        }
        now = stream.deadline().unwrap().0;
        stream.handle_timeout(now);
    }
    assert!((6..=8).contains(&sent), "{sent}");
}

#[test]
fn a_lone_close_gets_through_a_loss_of_30_percent_both_ways() {
    // D35: six tries, of which the repeats are acknowledged twice from the second on.
    let mut failed = 0;
    for seed in 0..1000 {
        let mut sim = Sim::new(seed, lan());
        sim.ends[0].finish = false;
        sim.ends[1].finish = false;
        sim.run(ms(50), |_| false);
        assert!(sim.ends[0].saw(Event::Opened));
        sim.links = [lan().loss(0.3); 2];
        let now = sim.now;
        sim.ends[0].stream().finish(now);
        let done = sim.run(s(200), |s| s.any_aborted() || s.ends[0].saw(Event::Flushed));
        assert!(done);
        failed += u32::from(sim.any_aborted());
    }
    assert!(failed <= 4, "{failed} of 1000");
}

#[test]
fn a_lingering_stream_acknowledges_repeats_and_knows_nothing_else() {
    // D35
    let now = Instant::now();
    let mut stream = opened(now, 64);
    stream.write(now, &[1; 2000]);
    stream.finish(now);
    all(&mut stream, now);
    ack(&mut stream, now, 64, &[(101, 3)]);
    data(&mut stream, now, 501, b"bye");
    close(&mut stream, now, 0, 500, 502);
    assert_eq!(stream.read(now, &mut |b| b.len()), 3);
    while stream.poll_event().is_some() {}
    let soon = now + ms(1);
    assert_eq!(stream.deadline(), Some((soon, "acknowledgement")));
    assert_eq!(all(&mut stream, now), [""; 0], "it waits for company");
    assert_eq!(all(&mut stream, soon), ["ACK [(500, 3)] window 256"]);
    assert_eq!(stream.memory(), 0);
    data(&mut stream, now, 501, b"bye");
    assert_eq!(all(&mut stream, now), ["ACK [(501, 1), (500, 3)] window 0"]);
    for answers in [1, 2, 2] {
        close(&mut stream, now, 0, 500, 502);
        assert_eq!(
            all(&mut stream, now),
            vec!["ACK [(502, 1), (500, 3)] window 0"; answers],
            "the peer tries six times only: twice from the second repeat on"
        );
    }
    let open = StreamMessage::Open {
        links: BACK,
        window: 1,
        isn: 500,
        flags: 1,
    };
    stream.handle(now, &open);
    assert_eq!(all(&mut stream, now).len(), 1);
    data(&mut stream, now, 502, b"beyond the close");
    close(&mut stream, now, 0, 500, 501);
    assert_eq!(stream.counters().contradictions, 2);
    data(&mut stream, now, 900_000, b"foreign");
    assert_eq!(all(&mut stream, now), [""; 0]);
    assert!(stream.yields_to(now, 501) && !stream.yields_to(now, 500));
    let (at, why) = stream.deadline().unwrap();
    assert_eq!((at, why), (now + s(60), "linger"));
    stream.handle_timeout(at);
    assert_eq!(events(&mut stream), [Event::Closed]);
    assert!(stream.is_closed() && stream.deadline().is_none());
}

#[test]
fn a_reset_ends_both_directions_and_is_acknowledged() {
    // N3, A63, D35
    let mut sim = Sim::new(8, lan());
    sim.ends[0].to_write = u64::MAX;
    sim.ends[1].finish = false;
    assert!(!sim.run(s(1), |_| false));
    let now = sim.now;
    sim.ends[1].stream().abort(now, CloseReason::Reset);
    assert!(sim.run(s(5), |s| s.ends[1].saw(Event::Closed)));
    assert_eq!(sim.ends[0].aborted(), Some((CloseReason::Reset, true)));
    assert!(
        !sim.ends[0].saw(Event::Finished),
        "a reset never looks like an end"
    );
    assert_eq!(sim.ends[1].aborted(), None, "no event for one's own abort");
    assert_eq!(sim.ends[0].stream().write_capacity(), 0);
}

#[test]
fn a_reset_is_repeated_six_times_and_then_forgotten() {
    // D35
    let mut now = Instant::now();
    let mut stream = opened(now, 64);
    stream.abort(now, CloseReason::Reset);
    let mut sent = vec![];
    while let Some((at, _)) = stream.deadline() {
        sent.extend(all(&mut stream, now));
        now = at;
        stream.handle_timeout(now);
    }
    assert_eq!(sent, ["CLOSE 16 100 101"; 6]);
    assert_eq!(events(&mut stream), [Event::Closed]);
}

#[test]
fn unknown_streams_answer_with_a_reset_that_only_the_right_peer_believes() {
    // Q22, D35
    let now = Instant::now();
    let unknown = StreamMessage::Data {
        links: LINKS,
        sequence: 77,
        payload: b"?",
    };
    assert_eq!(
        reset_for(&unknown).map(|r| sim::describe(&r)).as_deref(),
        Some("CLOSE 16 77 77")
    );
    let bytes = encode_ack(55, 3);
    let acks = Acks::from_bytes(&bytes).expect("whole entries");
    let answer = reset_for(&StreamMessage::Ack {
        links: LINKS,
        window: 1,
        acks,
    })
    .unwrap();
    assert_eq!(
        (sim::describe(&answer), answer.links()),
        ("CLOSE 16 55 55".to_owned(), BACK)
    );
    assert_eq!(reset_for(&answer), None, "never to a close");

    let reset = |n: u32| StreamMessage::Close {
        links: BACK,
        flags: 0,
        reason: 0x10,
        initial: n,
        sequence: n,
    };
    let mut stream = opened(now, 64);
    stream.write(now, &[1; 3000]);
    all(&mut stream, now);
    for (number, believed) in [
        (100, false),
        (101, true),
        (103, true),
        (104, false),
        (90, false),
        (500, true),
        (501, false),
    ] {
        assert_eq!(
            stream.believes_reset(now, &reset(number)),
            believed,
            "{number}"
        );
    }
    ack(&mut stream, now, 64, &[(101, 3)]);
    assert!(
        stream.believes_reset(now + s(9), &reset(102)),
        "sent in the last 10 s"
    );
    assert!(!stream.believes_reset(now + s(30), &reset(102)));
    assert!(!stream.believes_reset(now + s(30), &reset(500)));
    stream.handle(now, &reset(102));
    assert_eq!(events(&mut stream), [], "in plain nothing is believed");
    assert!(!stream.handle_reset(now, &reset(90)));
    assert!(stream.handle_reset(now, &reset(102)));
    assert_eq!(
        events(&mut stream),
        [
            Event::Aborted {
                reason: CloseReason::Reset,
                by_peer: true
            },
            Event::Closed
        ]
    );
}

#[test]
fn a_restarted_peer_resets_at_once_inside_sealed_and_stays_silent_in_plain() {
    // Q22, D35, D37
    for sealed in [true, false] {
        let mut sim = Sim::new(9, lan());
        sim.sealed = sealed;
        sim.ends[0].to_write = u64::MAX;
        sim.run(s(1), |_| false);
        sim.ends[1].stream = None;
        sim.ends[1].answer = Answer::Ignore;
        let died = sim.now;
        assert!(sim.run(s(300), Sim::any_aborted), "{sealed}");
        let after = sim.now - died;
        if sealed {
            assert_eq!(sim.ends[0].aborted(), Some((CloseReason::Reset, true)));
            assert!(after < ms(100), "{after:?}");
        } else {
            assert_eq!(sim.ends[0].aborted(), Some((CloseReason::TimedOut, false)));
            assert!((s(119)..s(125)).contains(&after), "D37: {after:?}");
        }
    }
}

#[test]
fn a_black_hole_times_out_after_120_seconds_and_a_short_one_does_not() {
    // D37
    let mut sim = Sim::new(10, lan());
    sim.ends[0].to_write = u64::MAX;
    sim.run(s(1), |_| false);
    sim.blackhole = true;
    sim.run(s(60), |_| false);
    sim.blackhole = false;
    let before = sim.ends[1].got;
    sim.run(s(62), |_| false);
    assert!(!sim.any_aborted() && sim.ends[1].got > before + 1_000_000);
    sim.blackhole = true;
    let from = sim.now;
    assert!(sim.run(s(200), |s| s.ends[0].aborted().is_some()));
    assert_eq!(sim.ends[0].aborted(), Some((CloseReason::TimedOut, false)));
    assert!(
        (s(119)..s(122)).contains(&(sim.now - from)),
        "{:?}",
        sim.now - from
    );
}

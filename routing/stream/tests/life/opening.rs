//! How a stream comes about, or does not.
use super::*;

#[test]
fn an_open_is_repeated_at_1_2_4_8_16_seconds_and_then_times_out() {
    // D29
    let start = Instant::now();
    let mut stream = Stream::open(&Config::default(), start, LINKS, 1, 7);
    let mut at = vec![];
    assert!(next(&mut stream, start).is_some());
    while let Some((when, _)) = stream.deadline() {
        stream.handle_timeout(when);
        if let Some(open) = stream.poll_transmit(when, 1204) {
            assert!(open.is_retransmission(), "D20");
            assert!(matches!(
                open.message(),
                StreamMessage::Open {
                    isn: 7,
                    flags: 1,
                    ..
                }
            ));
            at.push((when - start).as_secs());
        }
    }
    assert_eq!(at, [1, 2, 4, 8, 16]);
    assert_eq!(
        events(&mut stream),
        [
            Event::Aborted {
                reason: CloseReason::TimedOut,
                by_peer: false
            },
            Event::Closed
        ]
    );
}

#[test]
fn an_incoming_open_is_held_until_accepted_and_its_repeats_are_swallowed() {
    // N1, A61, D28, D29
    let now = Instant::now();
    let mut stream = Stream::incoming(&Config::default(), now, BACK, 64, 100, 500);
    let open = StreamMessage::Open {
        links: LINKS,
        window: 64,
        isn: 100,
        flags: 1,
    };
    stream.handle(now, &open);
    assert_eq!(all(&mut stream, now), [""; 0]);
    stream.accept(now);
    assert_eq!(all(&mut stream, now), ["OPEN 500 window 256"]);
    // Repeated with the same number: answered again. With another: ignored, unless idle for over 60 s.
    stream.handle(now, &open);
    assert_eq!(all(&mut stream, now), ["OPEN 500 window 256"]);
    stream.handle(
        now,
        &StreamMessage::Open {
            links: LINKS,
            window: 64,
            isn: 101,
            flags: 1,
        },
    );
    assert_eq!(all(&mut stream, now), [""; 0]);
    assert!(!stream.yields_to(now + s(59), 101) && stream.yields_to(now + s(60), 101));
    assert!(
        !stream.yields_to(now + s(60), 100),
        "a repeat never replaces"
    );
    // Data acknowledges the second S_OPEN: it is not repeated any more.
    stream.handle(
        now,
        &StreamMessage::Data {
            links: LINKS,
            sequence: 101,
            payload: b"hello",
        },
    );
    assert_eq!(
        stream.deadline().map(|(_, why)| why),
        Some("acknowledgement")
    );
}

#[test]
fn a_held_open_that_nobody_answers_ends() {
    // S22
    let now = Instant::now();
    let mut stream = Stream::incoming(&Config::default(), now, BACK, 64, 100, 500);
    let (at, _) = stream.deadline().unwrap();
    assert_eq!(at, now + s(60));
    stream.handle_timeout(at);
    assert!(events(&mut stream).contains(&Event::Closed));
    assert_eq!(all(&mut stream, at), [""; 0]);
}

#[test]
fn data_before_the_answering_open_is_dropped() {
    // D29
    let now = Instant::now();
    let mut stream = Stream::open(&Config::default(), now, LINKS, 1, 100);
    data(&mut stream, now, 501, b"early");
    assert_eq!(stream.readable(), 0);
    assert_eq!(stream.counters().misplaced, 1);
}

#[test]
fn crossing_opens_make_one_stream_even_when_packets_are_lost() {
    // D29, N13
    for lost in 0..6 {
        let config = Config::default();
        let mut now = Instant::now();
        let mut ends = [
            Stream::open(&config, now, LINKS, 1, 100),
            Stream::open(&config, now, BACK, 1, 900),
        ];
        let mut count = 0;
        for _ in 0..200 {
            let mut wire: Vec<(usize, u8, Vec<u8>)> = vec![];
            for (who, end) in ends.iter_mut().enumerate() {
                while let Some(t) = end.poll_transmit(now, 1204) {
                    count += 1;
                    let mut body = vec![0; t.message().len()];
                    t.message().emit(&mut body);
                    if count != lost {
                        wire.push((1 - who, t.message().kind(), body));
                    }
                }
            }
            now += ms(10);
            for (to, kind, body) in wire {
                ends[to].handle(now, &StreamMessage::parse(kind, &body).unwrap());
            }
            for end in &mut ends {
                end.handle_timeout(now);
            }
        }
        assert!(count < 12, "the handshake does not end: {count}");
        for end in &mut ends {
            assert_eq!(events(end), [Event::Opened], "lost {lost}");
            assert_eq!(end.write(now, b"x"), 1);
        }
    }
}

#[test]
fn a_refusal_has_the_openers_number_twice_and_is_checked() {
    // A61, A63, D35
    for (reason, event) in [(1, CloseReason::Refused), (0x11, CloseReason::Policy)] {
        let now = Instant::now();
        let mut stream = Stream::open(&Config::default(), now, LINKS, 1, 100);
        next(&mut stream, now);
        close(&mut stream, now, reason, 101, 101);
        close(&mut stream, now, reason, 100, 101);
        assert_eq!(events(&mut stream), [], "foreign numbers");
        let open = StreamMessage::Open {
            links: LINKS,
            window: 1,
            isn: 100,
            flags: 1,
        };
        let refusal = refusal_for(&open, event).unwrap();
        assert_eq!(sim::describe(&refusal), format!("CLOSE {reason} 100 100"));
        assert_eq!(refusal.links(), BACK);
        stream.handle(now, &refusal);
        assert_eq!(
            events(&mut stream),
            [
                Event::Aborted {
                    reason: event,
                    by_peer: true
                },
                Event::Closed
            ]
        );
        assert_eq!(
            all(&mut stream, now),
            [""; 0],
            "a refusal is not acknowledged"
        );
    }
}

#[test]
fn refusing_ends_the_openers_stream() {
    // A61, D35
    let mut sim = Sim::new(3, lan());
    sim.ends[1].answer = Answer::Refuse(CloseReason::Refused);
    assert!(sim.run(s(5), Sim::any_aborted));
    assert_eq!(sim.ends[0].aborted(), Some((CloseReason::Refused, true)));
    assert!(sim.elapsed() < ms(20));
    assert!(
        sim.run(s(100), |s| s.ends[1].saw(Event::Closed)),
        "the refuser forgets it after a while"
    );
}

#[test]
fn a_late_accept_still_opens() {
    // N1, N2
    let mut sim = Sim::new(4, lan());
    sim.ends[1].answer = Answer::After(s(9));
    sim.ends[0].to_write = 1000;
    assert!(sim.run(s(60), Sim::complete));
    assert!(sim.ends[0].when(Event::Opened).unwrap() > sim.start + s(9));
}

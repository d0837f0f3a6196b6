//! Opening, closing, refusing, resetting, stalling: the life of a stream as its program sees it.
mod sim;

use anode_stream::{CloseReason, Config, Event, Stream, refusal_for, reset_for};
use anode_wire::message::{Acks, Links, StreamMessage, encode_ack};
use sim::{Answer, LINKS, Link, Sim};
use std::time::{Duration, Instant};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn lan() -> Link {
    Link::new(100_000_000, ms(5))
}

/// What `poll_transmit` says next, in words.
fn next(stream: &mut Stream, now: Instant) -> Option<String> {
    stream
        .poll_transmit(now, 1204)
        .map(|t| sim::describe(t.message()))
}

fn all(stream: &mut Stream, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| next(stream, now)).collect()
}

fn events(stream: &mut Stream) -> Vec<Event> {
    std::iter::from_fn(|| stream.poll_event()).collect()
}

const BACK: Links = Links {
    sender: LINKS.receiver,
    receiver: LINKS.sender,
};

/// An opened stream, ISN 100, whose peer has ISN 500 and a window of `window` KiB; the handshake is over.
fn opened(now: Instant, window: u16) -> Stream {
    let mut stream = Stream::open(&Config::default(), now, LINKS, 1, 100);
    assert_eq!(all(&mut stream, now), ["OPEN 100 window 256"]);
    stream.handle(
        now,
        &StreamMessage::Open {
            links: BACK,
            window,
            isn: 500,
            flags: 1,
        },
    );
    assert_eq!(
        all(&mut stream, now),
        [""; 0],
        "it waits for the first data"
    );
    stream.hurry(now);
    assert_eq!(all(&mut stream, now), ["ACK [(500, 1)] window 256"]);
    assert_eq!(events(&mut stream), [Event::Opened]);
    stream
}

fn ack(stream: &mut Stream, now: Instant, window: u16, ranges: &[(u32, u8)]) {
    let bytes: Vec<u8> = ranges
        .iter()
        .flat_map(|&(first, count)| encode_ack(first, count))
        .collect();
    let acks = Acks::from_bytes(&bytes).expect("whole entries");
    stream.handle(
        now,
        &StreamMessage::Ack {
            links: BACK,
            window,
            acks,
        },
    );
}

fn data(stream: &mut Stream, now: Instant, sequence: u32, payload: &[u8]) {
    stream.handle(
        now,
        &StreamMessage::Data {
            links: BACK,
            sequence,
            payload,
        },
    );
}

fn close(stream: &mut Stream, now: Instant, reason: u8, initial: u32, sequence: u32) {
    stream.handle(
        now,
        &StreamMessage::Close {
            links: BACK,
            flags: 0,
            reason,
            initial,
            sequence,
        },
    );
}

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

#[test]
fn a_reader_that_stops_closes_the_window_and_is_probed_until_it_goes_on() {
    // D33, N7, S24
    let config = Config {
        max_window: 32 * 1024,
        ..Config::default()
    };
    let mut sim = Sim::with_config(11, lan(), &config);
    sim.ends[0].to_write = 300_000;
    sim.ends[1].read_from = Some(sim.start + s(600));
    sim.run(s(590), |_| false);
    let held = sim.ends[1].stream().readable();
    assert!((30_000..=32_768).contains(&held), "{held}");
    let counters = sim.ends[0].stream().counters();
    assert!((8..40).contains(&counters.window_probes), "{counters:?}");
    assert_eq!(sim.ends[1].stream().counters().beyond_window, 0);
    assert!(sim.ends[1].peak_memory < 200_000 && sim.ends[0].peak_memory < 200_000);
    assert!(sim.run(s(100), Sim::complete));
}

#[test]
fn a_lost_window_update_does_not_hang_the_stream() {
    // D33
    let config = Config {
        max_window: 16 * 1024,
        ..Config::default()
    };
    for seed in 0..20 {
        let mut sim = Sim::with_config(seed, lan().loss(0.15), &config);
        sim.ends[0].to_write = 100_000;
        sim.ends[1].read_rate = Some(20_000);
        assert!(
            sim.run(s(200), Sim::complete),
            "seed {seed}: {:?}",
            sim.ends[0].stream().counters()
        );
    }
}

#[test]
fn a_window_that_stays_closed_for_too_long_ends_the_stream() {
    // S24
    let config = Config {
        max_window: 8 * 1024,
        zero_window_timeout: s(300),
        ..Config::default()
    };
    let mut sim = Sim::with_config(12, lan(), &config);
    sim.ends[0].to_write = 300_000;
    sim.ends[1].read_from = Some(sim.start + s(10_000));
    assert!(sim.run(s(400), Sim::any_aborted));
    assert_eq!(sim.ends[0].aborted(), Some((CloseReason::TimedOut, false)));
}

#[test]
fn the_probe_of_a_closed_window_is_the_last_packet_byte_for_byte() {
    // D33, N9
    let mut now = Instant::now();
    let mut stream = opened(now, 2);
    stream.write(now, &(0..=255).cycle().take(4000).collect::<Vec<u8>>());
    assert_eq!(
        all(&mut stream, now),
        ["DATA 101 1196"],
        "852 bytes of window are a sliver"
    );
    now += ms(10);
    ack(&mut stream, now, 0, &[(101, 1)]);
    assert_eq!(all(&mut stream, now), [""; 0]);
    let (at, why) = stream.deadline().unwrap();
    assert_eq!(why, "zero-window probe");
    stream.handle_timeout(at);
    let probe = stream.poll_transmit(at, 1204).unwrap();
    assert!(probe.is_retransmission());
    let StreamMessage::Data {
        sequence: 101,
        payload,
        ..
    } = *probe.message()
    else {
        panic!("{probe:?}")
    };
    assert!(payload.iter().copied().eq((0..=255).cycle().take(1196)));
    ack(&mut stream, at, 4, &[(101, 1)]);
    assert_eq!(
        all(&mut stream, at),
        ["DATA 102 1196", "DATA 103 1196", "DATA 104 412"]
    );
}

#[test]
fn a_retransmission_keeps_its_boundaries_when_the_path_shrinks() {
    // N9
    let mut now = Instant::now();
    let mut stream = opened(now, 64);
    stream.write(now, &[9; 3000]);
    let first: Vec<String> = std::iter::from_fn(|| {
        stream
            .poll_transmit(now, 1204)
            .map(|t| sim::describe(t.message()))
    })
    .collect();
    assert_eq!(first, ["DATA 101 1196", "DATA 102 1196", "DATA 103 608"]);
    for _ in 0..4 {
        let (at, _) = stream.deadline().unwrap();
        now = at;
        stream.handle_timeout(now);
    }
    let again = stream.poll_transmit(now, 500).unwrap();
    assert!(again.is_retransmission());
    assert!(first.contains(&sim::describe(again.message())), "{again:?}");
}

#[test]
fn windows_are_rounded_down_to_whole_kibibytes() {
    // N8, A61, A65
    let now = Instant::now();
    let config = Config {
        initial_window: 10_000,
        max_window: 10_000,
        ..Config::default()
    };
    let mut stream = Stream::open(&config, now, LINKS, 1, 100);
    assert_eq!(all(&mut stream, now), ["OPEN 100 window 9"]);
    stream.handle(
        now,
        &StreamMessage::Open {
            links: BACK,
            window: 1,
            isn: 500,
            flags: 1,
        },
    );
    data(&mut stream, now, 501, &[0; 100]);
    data(&mut stream, now, 502, &[0; 100]);
    assert_eq!(
        all(&mut stream, now),
        ["ACK [(500, 3)] window 9"],
        "9,800 are 9 units"
    );
    data(&mut stream, now, 503, &[0; 9801]);
    assert_eq!(
        (stream.readable(), stream.counters().beyond_window),
        (200, 1)
    );
    let largest = Config {
        initial_window: usize::MAX,
        max_window: usize::MAX,
        ..Config::default()
    };
    let mut stream = Stream::open(&largest, now, LINKS, 1, 100);
    assert_eq!(
        all(&mut stream, now),
        ["OPEN 100 window 65535"],
        "64 MiB less 1 KiB"
    );
}

#[test]
fn acknowledgements_are_ranges_with_counts_and_repeat_what_is_held() {
    // A65, D31
    let now = Instant::now();
    let mut stream = opened(now, 64);
    for n in [501, 502, 504, 505, 508] {
        data(&mut stream, now, n, b"x");
    }
    assert_eq!(
        all(&mut stream, now),
        ["ACK [(508, 1), (504, 2), (500, 3)] window 255"]
    );
    data(&mut stream, now, 504, b"x");
    assert_eq!(
        all(&mut stream, now),
        ["ACK [(504, 2), (508, 1), (500, 3)] window 255"],
        "a duplicate is acknowledged again"
    );
    data(&mut stream, now, 503, b"x");
    assert_eq!(
        all(&mut stream, now),
        ["ACK [(500, 6), (508, 1)] window 255"]
    );
    for n in 0..3000u32 {
        data(&mut stream, now, 509 + n, b"");
    }
    data(&mut stream, now, 506, b"");
    data(&mut stream, now, 507, b"");
    let mut covered = std::collections::BTreeSet::new();
    while let Some(t) = stream.poll_transmit(now, 1204) {
        let StreamMessage::Ack { acks, .. } = t.message() else {
            panic!()
        };
        assert!(acks.count() <= 9);
        covered.extend(
            acks.iter()
                .flat_map(|(first, count)| first..first + u32::from(count)),
        );
    }
    assert!(
        (506..3509).all(|n| covered.contains(&n)),
        "a long batch takes several messages"
    );
}

#[test]
fn a_lone_packet_is_acknowledged_late_or_on_data_and_two_at_once() {
    // A66, D31, D32
    let now = Instant::now();
    let mut stream = opened(now, 64);
    data(&mut stream, now, 501, &[1; 700]);
    assert_eq!(all(&mut stream, now), [""; 0]);
    assert_eq!(stream.deadline().map(|(at, _)| at), Some(now + ms(25)));
    stream.write(now, b"answer");
    assert_eq!(all(&mut stream, now), ["DACK 101 6 [(500, 2)] window 255"]);
    assert_eq!(stream.counters().acks_sent, 1, "only the handshake's");
    data(&mut stream, now, 502, &[1; 700]);
    data(&mut stream, now, 503, &[1; 700]);
    assert_eq!(all(&mut stream, now), ["ACK [(500, 4)] window 253"]);
    data(&mut stream, now, 504, &[1; 100]);
    assert_eq!(all(&mut stream, now).len(), 1, "the short end of a burst");
}

#[test]
fn foreign_acknowledgements_are_dropped_and_many_end_the_stream() {
    // S24
    let now = Instant::now();
    let mut stream = opened(now, 64);
    stream.write(now, &[1; 3000]);
    all(&mut stream, now);
    ack(&mut stream, now, 64, &[(104, 1)]);
    ack(&mut stream, now, 64, &[(101, 255)]);
    ack(&mut stream, now, 64, &[(101, 0)]);
    assert_eq!(
        (stream.unacknowledged(), stream.counters().unsent_acked),
        (3000, 2)
    );
    for _ in 0..100 {
        ack(&mut stream, now, 64, &[(5000, 1)]);
    }
    assert_eq!(
        events(&mut stream),
        [Event::Aborted {
            reason: CloseReason::ProtocolError,
            by_peer: false
        }]
    );
    assert_eq!(all(&mut stream, now), ["CLOSE 2 100 104"]);
}

#[test]
fn splitting_acknowledgements_does_not_speed_the_sender_up() {
    // S24
    let window_after = |pieces: u32| {
        let mut now = Instant::now();
        let mut stream = opened(now, 60_000);
        stream.write(now, &[1; 60_000]);
        let sent = all(&mut stream, now).len() as u32;
        now += ms(50);
        for first in 0..sent {
            for _ in 0..pieces {
                ack(&mut stream, now, 60_000, &[(101 + first, 1)]);
            }
        }
        stream.congestion_window()
    };
    assert_eq!(window_after(1), window_after(50));
}

#[test]
fn contradictions_are_dropped_and_counted() {
    // S24
    let now = Instant::now();
    let mut stream = opened(now, 64);
    close(&mut stream, now, 0, 500, 503);
    data(&mut stream, now, 503, b"beyond the close");
    data(&mut stream, now, 504, b"beyond the close");
    close(&mut stream, now, 0, 500, 505);
    close(&mut stream, now, 0, 500, 501);
    assert_eq!(stream.counters().contradictions, 4);
    data(&mut stream, now, 501, b"a");
    data(&mut stream, now, 501, b"other bytes");
    data(&mut stream, now, 502, b"b");
    let mut got = vec![];
    stream.read(now, &mut |b| {
        got.extend_from_slice(b);
        b.len()
    });
    assert_eq!(got, b"ab");
}

#[test]
fn marked_packets_reduce_the_rate_without_loss() {
    let mut link = Link::new(50_000_000, ms(20));
    link.mark_above = Some(60_000);
    let mut sim = Sim::new(13, link);
    sim.ends[0].to_write = 40_000_000;
    assert!(sim.run(s(30), Sim::complete), "{:?}", sim.elapsed());
    let counters = sim.ends[0].stream().counters();
    assert!(
        counters.marks > 0 && counters.retransmitted == 0 && counters.loss_events == 0,
        "{counters:?}"
    );
    assert_eq!(sim.dropped_at_queue, 0);
}

#[test]
fn idle_streams_cost_no_buffers_and_no_timer() {
    let mut sim = Sim::new(14, lan());
    for end in &mut sim.ends {
        end.to_write = 5_000_000;
        end.finish = false;
    }
    assert!(sim.run(s(20), |s| s.ends.iter().all(|e| e.got == 5_000_000)));
    sim.run(s(60), |_| false);
    for end in &mut sim.ends {
        assert_eq!((end.stream().memory(), end.stream().deadline()), (0, None));
        assert!(end.peak_memory > 100_000);
        end.to_write = 6_000_000;
    }
    assert!(
        sim.run(s(20), |s| s.ends.iter().all(|e| e.got == 6_000_000)),
        "and go on"
    );
}

#[test]
fn the_window_grows_for_a_reader_that_keeps_up_and_only_for_it() {
    for (rate, grows) in [(None, true), (Some(300_000), false)] {
        let mut sim = Sim::new(15, Link::new(200_000_000, ms(50)));
        sim.ends[0].to_write = u64::MAX;
        sim.skip_content();
        sim.ends[1].read_rate = rate;
        sim.run(s(8), |_| false);
        let memory = sim.ends[1].peak_memory;
        let carried = sim.ends[1].got * 8 / 8;
        if grows {
            assert!(
                carried > 120_000_000,
                "{carried} bytes in 8 s: a window of 256 KiB would carry 20 MB"
            );
        } else {
            assert!(memory < 1_100_000, "{memory}");
        }
    }
}

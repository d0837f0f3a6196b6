//! Windows and acknowledgements, honest ones and others.
use super::*;

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

//! Bytes that arrive, in any weather.
use super::*;
use proptest::prelude::*;

// I2, I15
#[test]
fn a_stream_opens_carries_and_closes() {
    let (took, world) = transfer(FAIR, 1, 300_000);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let counters = world.ends[0].counters();
    assert_eq!(
        (counters.opened, counters.resent, counters.timeouts),
        (1, 0, 0)
    );
    assert_eq!(world.ends[1].counters().accepted, 1);
}

#[test]
fn streams_survive_delay_loss_repeats_and_reordering() {
    let mut table = String::new();
    for (delay, jitter, loss, repeat) in [
        (1, 0, 0.0, 0.0),
        (50, 0, 0.0, 0.0),
        (400, 0, 0.0, 0.0),
        (50, 0, 0.01, 0.0),
        (50, 0, 0.05, 0.02),
        (50, 40, 0.03, 0.02),
        (400, 300, 0.05, 0.05),
        (50, 20, 0.20, 0.10),
    ] {
        let weather = Weather {
            delay: delay * MS,
            jitter: jitter * MS,
            loss,
            repeat,
        };
        let mut times: Vec<Duration> = (1..=5)
            .map(|seed| transfer(weather, seed, 1_000_000).0)
            .collect();
        times.sort();
        let median = times[2];
        table += &format!(
            "{delay:>4}+{jitter:<3} ms  loss {:>2.0} %  repeats {:>2.0} %  {:>6.1} s  {:>7.0} kB/s\n",
            loss * 100.0,
            repeat * 100.0,
            median.as_secs_f64(),
            1000.0 / median.as_secs_f64()
        );
        assert!(median < Duration::from_secs(300), "{table}");
    }
    println!("{table}");
}

#[test]
fn a_slow_reader_chokes_the_sender_and_lets_it_go_on() {
    let mut world = World::new(FAIR, 10);
    let (a, b) = world.open();
    let data = pattern(2_000_000);
    let mut written = 0;
    let end = world.now.instant + Duration::from_secs(120);
    loop {
        if written < data.len() {
            written += world.ends[0].write(a, &data[written..], world.now).unwrap();
        }
        if !world.step(end) {
            break;
        }
        assert!(world.ends[1].info(b).unwrap().unread <= recv::HARD_LIMIT);
    }
    let info = world.ends[0].info(a).unwrap();
    assert!(info.choked && written < data.len(), "{info:?}");
    let before = world.sent[0];
    world.run(Duration::from_secs(60));
    assert!(
        world.sent[0] - before < 12,
        "only probes while choked: {}",
        world.sent[0] - before
    );
    let mut got = Vec::new();
    world.run_until(Duration::from_secs(300), |w| {
        if written < data.len() {
            written += w.ends[0].write(a, &data[written..], w.now).unwrap();
        }
        got.extend(w.read_all(1, b));
        got.len() == data.len()
    });
    assert!(got == data);
}

#[test]
fn an_idle_stream_is_kept_alive_and_a_dead_peer_is_found_out() {
    let mut world = World::new(FAIR, 11);
    let (a, b) = world.open();
    world.run(Duration::from_secs(600));
    assert_eq!((world.ends[0].len(), world.ends[1].len()), (1, 1));
    assert!((6..40).contains(&world.sent[0]), "{}", world.sent[0]);
    world.filter = |_, _| true;
    world.run(Duration::from_secs(1200));
    for (who, id) in [(0, a), (1, b)] {
        assert!(
            world.events[who].contains(&Event::Closed(id, Some(Failure::TimedOut))),
            "{:?}",
            world.events[who]
        );
    }
}

#[test]
fn an_outage_of_ten_seconds_is_survived() {
    let mut world = World::new(FAIR, 12);
    let (a, b) = world.open();
    let data = pattern(200_000);
    assert_eq!(world.ends[0].write(a, &data, world.now), Ok(data.len()));
    world.run(100 * MS);
    world.filter = |_, _| true;
    world.run(Duration::from_secs(10));
    world.filter = |_, _| false;
    let mut got = Vec::new();
    let took = world.run_until(Duration::from_secs(60), |w| {
        got.extend(w.read_all(1, b));
        got.len() == data.len()
    });
    assert!(got == data && took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn one_loss_is_repaired_by_nacks_before_the_timer() {
    let mut world = World::new(FAIR, 13);
    let (a, b) = world.open();
    // the third data packet is lost once
    world.filter = |from, data| from == 0 && data[8..12] == [0, 0, 0, 3];
    world.ends[0].write(a, &pattern(60_000), world.now).unwrap();
    world.step(world.now.instant + MS);
    world.filter = |_, _| false;
    world.run(Duration::from_secs(5));
    assert_eq!(world.read_all(1, b), pattern(60_000));
    world.ends[0].reset(a, world.now).unwrap();
    let counters = world.ends[0].counters();
    assert_eq!((counters.resent, counters.timeouts), (1, 0));
}

#[test]
fn small_writes_share_packets_unless_interactive() {
    let mut sent = Vec::new();
    for profile in [Profile::Bulk, Profile::Interactive] {
        let config = Config {
            profile,
            ..Config::default()
        };
        let mut world = World::with(FAIR, 14, config);
        let (a, b) = world.open();
        let before = world.sent[0];
        for i in 0..100u8 {
            world.ends[0].write(a, &[i], world.now).unwrap();
            world.run(MS);
        }
        world.run(Duration::from_secs(2));
        assert_eq!(world.read_all(1, b).len(), 100);
        sent.push(world.sent[0] - before);
    }
    assert!(sent[0] < 12 && sent[1] > 20, "{sent:?}");
}

// i2pd's web tunnels take the end of a packet for the end of a line: a request in pieces must leave in one
#[test]
fn a_request_that_is_written_in_pieces_leaves_in_one_packet() {
    for pause in [Duration::ZERO, MS] {
        let mut world = World::new(FAIR, 14);
        let (a, b) = world.open();
        let before = world.ends[1].connections[&b.0].recv.acknowledgement().0;
        for piece in ["GET ", "/file", " HTTP/1.0\r\n\r\n"] {
            let count = world.ends[0].write(a, piece.as_bytes(), world.now);
            assert_eq!(count, Ok(piece.len()));
            world.run(pause);
        }
        world.run(25 * MS);
        assert_eq!(world.read_all(1, b), b"GET /file HTTP/1.0\r\n\r\n");
        let after = world.ends[1].connections[&b.0].recv.acknowledgement().0;
        assert_eq!(after - before, 1, "packets");
    }
}

#[test]
fn what_was_learnt_of_a_peer_helps_the_next_stream() {
    let (_, mut world) = transfer(FAIR, 15, 500_000);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 1, world.now).unwrap();
    let info = world.ends[0].info(a).unwrap();
    assert!(info.rtt.is_some() && info.window > 10.0, "{info:?}");
}

#[test]
fn many_streams_at_once_share_the_wire() {
    let mut world = World::new(
        Weather {
            loss: 0.02,
            jitter: 10 * MS,
            ..FAIR
        },
        19,
    );
    let mut open = Vec::new();
    for _ in 0..30 {
        open.push(world.open());
        world.run(60 * MS);
    }
    let data = pattern(40_000);
    for (a, _) in &open {
        assert_eq!(world.ends[0].write(*a, &data, world.now), Ok(data.len()));
    }
    let mut got = vec![Vec::new(); open.len()];
    world.run_until(Duration::from_secs(120), |w| {
        for (all, (_, b)) in got.iter_mut().zip(&open) {
            all.extend(w.read_all(1, *b));
        }
        got.iter().all(|all| all.len() == data.len())
    });
    assert!(got.iter().all(|all| *all == data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_weather_delivers_the_same_bytes(
        seed: u8, delay in 0u32..300, jitter in 0u32..200, loss in 0.0..0.15f64, repeat in 0.0..0.2f64, length in 0usize..60_000,
    ) {
        let weather = Weather { delay: delay * MS, jitter: jitter * MS, loss, repeat };
        transfer(weather, seed, length);
    }
}

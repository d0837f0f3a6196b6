//! How streams end.
use super::*;

#[test]
fn reset_ends_the_far_side_even_if_the_first_one_is_lost() {
    let mut world = World::new(FAIR, 8);
    let (a, b) = world.open();
    world.filter = |from, _| from == 0;
    world.ends[0].reset(a, world.now).unwrap();
    world.run(MS);
    world.filter = |_, _| false;
    assert_eq!(world.ends[1].write(b, b"still there?", world.now), Ok(12));
    world.run(Duration::from_secs(2));
    assert_eq!(world.take(1), [Event::Closed(b, Some(Failure::Reset))]);
    assert_eq!(
        world.ends[0].write(a, b"x", world.now),
        Err(Error::NoStream)
    );
}

#[test]
fn a_reset_comes_with_a_close_for_peers_that_take_it_for_an_acknowledgement() {
    let mut world = World::new(FAIR, 8);
    let (a, b) = world.open();
    world.ends[0].write(a, b"abc", world.now).unwrap();
    world.run(Duration::from_secs(1));
    world.ends[0].reset(a, world.now).unwrap();
    // this peer ignores the RESET, as i2pd does
    world.filter = |_, data| {
        let flags = 17 + 4 * usize::from(data[16]) + 1;
        data[flags + 1] & RESET as u8 != 0
    };
    world.run(Duration::from_secs(1));
    assert_eq!(world.read_all(1, b), b"abc");
    world.run(MS);
    assert!(
        world.events[1].contains(&Event::Finished(b)),
        "{:?}",
        world.events[1]
    );
}

/// A peer that, as i2pd, does not know half-closed streams: at CLOSE it throws away what it still has to send, and closes.
struct Hasty {
    world: World,
    a: StreamId,
    b: StreamId,
    /// Still to be written.
    answer: Vec<u8>,
    cut: bool,
}

impl Hasty {
    /// A opens a stream and sends a request; its program says that this was all.
    fn asked(weather: Weather, seed: u8, length: usize) -> Self {
        let hasty = Config {
            says_half_close: false,
            half_close: HalfClose::Immediate,
            ..Config::default()
        };
        let mut world = World::between(FAIR, seed, [Config::default(), hasty]);
        let (a, b) = world.open();
        world.weather = weather;
        world.ends[0].write(a, b"GET /", world.now).unwrap();
        world.ends[0].finish(a, world.now).unwrap();
        Self {
            world,
            a,
            b,
            answer: pattern(length),
            cut: false,
        }
    }

    /// Time passes; whether CLOSE came.
    fn wait(&mut self, span: Duration) -> bool {
        let end = self.world.now.instant + span;
        while self.world.step(end) {
            self.world.read_all(1, self.b);
        }
        self.world.events[1].contains(&Event::Finished(self.b))
    }

    /// Answers until `left` bytes are still to be written, or CLOSE comes; what of it A got.
    fn answer(&mut self, left: usize) -> Vec<u8> {
        let (a, b) = (self.a, self.b);
        let (mut got, length) = (Vec::new(), self.answer.len() - left);
        let (mut written, mut cut) = (0, false);
        let answer = &self.answer;
        self.world.run_until(Duration::from_secs(1000), |w| {
            w.read_all(1, b);
            cut |= w.events[1].contains(&Event::Finished(b));
            if written < length && !cut {
                written += w.ends[1].write(b, &answer[written..length], w.now).unwrap();
            }
            got.extend(w.read_all(0, a));
            cut || got.len() == length
        });
        self.cut = cut;
        self.answer.drain(..written);
        got
    }
}

// i2pd drops what it has to send at CLOSE: a program's end of writing must not lose the answer
#[test]
fn close_is_held_back_until_the_answer_has_come() {
    let lossy = Weather {
        delay: 400 * MS,
        jitter: 300 * MS,
        loss: 0.05,
        repeat: 0.05,
    };
    for (weather, thinks, pauses) in [
        (FAIR, 0, 0),
        (FAIR, 30, 0),
        (FAIR, 58, 18),
        (lossy, 0, 15),
        (lossy, 50, 0),
    ] {
        for seed in 1..=3 {
            let what = format!("thinks {thinks} s, pauses {pauses} s, seed {seed}");
            let mut peer = Hasty::asked(weather, seed, 300_000);
            peer.wait(Duration::from_secs(thinks));
            let mut got = peer.answer(150_000);
            peer.wait(Duration::from_secs(pauses));
            got.extend(peer.answer(0));
            assert!(
                !peer.cut && got == pattern(300_000),
                "{what}: {}",
                got.len()
            );
            let (mut world, b) = (peer.world, peer.b);
            world.ends[1].finish(b, world.now).unwrap();
            world.run(Duration::from_secs(60));
            assert!(world.ends.iter().all(Streams::is_empty), "{what}");
        }
    }
}

#[test]
fn a_change_of_tunnels_in_the_middle_of_an_answer_does_not_end_it() {
    let mut peer = Hasty::asked(FAIR, 4, 300_000);
    let mut got = peer.answer(200_000);
    peer.world.filter = |_, _| true;
    peer.wait(Duration::from_secs(10));
    peer.world.filter = |_, _| false;
    got.extend(peer.answer(0));
    assert!(!peer.cut && got == pattern(300_000), "{}", got.len());
}

#[test]
fn a_held_close_goes_out_after_the_time_that_is_stated() {
    // nothing comes
    let mut peer = Hasty::asked(FAIR, 9, 1000);
    assert!(!peer.wait(Duration::from_secs(59)));
    assert!(peer.wait(Duration::from_secs(2)));
    // something comes, and then no more
    let mut peer = Hasty::asked(FAIR, 9, 1000);
    peer.answer(500);
    assert!(!peer.wait(Duration::from_secs(19)));
    assert!(peer.wait(Duration::from_secs(9)));
    // the other direction is still open
    peer.world.ends[1]
        .write(peer.b, b"late", peer.world.now)
        .unwrap();
    peer.world.run(Duration::from_secs(1));
    assert_eq!(peer.world.read_all(0, peer.a), b"late");
}

#[test]
fn peers_that_know_half_closed_streams_hear_of_the_end_at_once() {
    let mut world = World::new(FAIR, 9);
    let (a, b) = world.open();
    let took = |world: &mut World, who: usize, stream| {
        world.run_until(Duration::from_secs(70), |w| {
            w.read_all(who, stream);
            w.events[who].contains(&Event::Finished(stream))
        })
    };
    world.ends[0].write(a, b"all", world.now).unwrap();
    world.ends[0].finish(a, world.now).unwrap();
    assert!(took(&mut world, 1, b) < Duration::from_secs(1));
    world.ends[1].write(b, &pattern(50_000), world.now).unwrap();
    world.ends[1].finish(b, world.now).unwrap();
    let mut got = Vec::new();
    world.run_until(Duration::from_secs(10), |w| {
        got.extend(w.read_all(0, a));
        w.ends[0].is_empty()
    });
    assert!(got == pattern(50_000));
}

/// An answer whose end is the end of the stream, to whom it may be.
#[test]
fn the_end_of_an_answer_of_ours_is_told_at_once() {
    let stranger = Config {
        says_half_close: false,
        ..Config::default()
    };
    for (answer, least, most) in [(&b"answer"[..], 0, 1), (b"", 18, 22)] {
        let mut world = World::between(FAIR, 9, [stranger.clone(), Config::default()]);
        let (a, b) = world.open();
        world.ends[0].write(a, b"question", world.now).unwrap();
        world.run(Duration::from_secs(1));
        world.ends[1].write(b, answer, world.now).unwrap();
        world.ends[1].finish(b, world.now).unwrap();
        let took = world.run_until(Duration::from_secs(70), |w| {
            w.read_all(0, a);
            w.events[0].contains(&Event::Finished(a))
        });
        // who has said nothing yet may still be taking what comes
        assert!((least..most).contains(&took.as_secs()), "{took:?}");
    }
}

#[test]
fn half_closed_streams_work_at_once_when_configured() {
    let config = Config {
        half_close: HalfClose::Immediate,
        ..Config::default()
    };
    let mut world = World::with(FAIR, 9, config);
    let (a, b) = world.open();
    world.ends[0].write(a, b"question", world.now).unwrap();
    world.ends[0].finish(a, world.now).unwrap();
    let took = world.run_until(Duration::from_secs(3), |w| {
        w.read_all(1, b);
        w.events[1].contains(&Event::Finished(b))
    });
    assert!(took < Duration::from_secs(1));
    world.ends[1].write(b, &pattern(50_000), world.now).unwrap();
    world.ends[1].finish(b, world.now).unwrap();
    let mut got = Vec::new();
    world.run_until(Duration::from_secs(10), |w| {
        got.extend(w.read_all(0, a));
        w.ends[0].is_empty()
    });
    assert!(got == pattern(50_000));
}

#[test]
fn the_session_takes_all_streams_and_pings_with_it() {
    let mut world = World::new(FAIR, 18);
    let (a, _) = world.open();
    let b = keys("B").destination().clone();
    let ping = world.ends[0].ping(&b, 0, 0, b"", world.now).unwrap();
    world.ends[0].session_lost();
    world.transmit();
    let events = world.take(0);
    assert_eq!(
        events,
        [
            Event::Closed(a, Some(Failure::SessionLost)),
            Event::Pong(ping, None)
        ]
    );
    assert_eq!(world.ends[0].deadline(), None);
}

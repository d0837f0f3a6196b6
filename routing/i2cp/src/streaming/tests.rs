use super::incoming::MOST_EARLY;
use super::packet::{FROM, NO_ACK, SIGNATURE};
use super::*;
use crate::router::start;
use crate::vectors::{hex, keys};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// What the network does to a message.
#[derive(Clone, Copy)]
struct Weather {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    repeat: f64,
}

const FAIR: Weather = Weather {
    delay: Duration::from_millis(20),
    jitter: Duration::ZERO,
    loss: 0.0,
    repeat: 0.0,
};

/// Two tables of streams with a network between them, on virtual time.
struct World {
    now: Now,
    ends: [Streams; 2],
    wire: BTreeSet<(Instant, u64)>,
    messages: HashMap<u64, (usize, Ports, Vec<u8>)>,
    number: u64,
    rng: StdRng,
    weather: Weather,
    events: [Vec<Event>; 2],
    /// Messages that left each end.
    sent: [u64; 2],
    /// Drops every message that it holds for.
    filter: fn(usize, &[u8]) -> bool,
}

impl World {
    fn new(weather: Weather, seed: u8) -> Self {
        Self::with(weather, seed, Config::default())
    }

    fn with(weather: Weather, seed: u8, config: Config) -> Self {
        Self {
            now: start(),
            ends: [
                Streams::new(keys("A"), config.clone(), [seed; 32]),
                Streams::new(keys("B"), config, [seed ^ 0xff; 32]),
            ],
            wire: BTreeSet::new(),
            messages: HashMap::new(),
            number: 0,
            rng: StdRng::from_seed([seed; 32]),
            weather,
            events: [vec![], vec![]],
            sent: [0, 0],
            filter: |_, _| false,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        f64::from(self.rng.next_u32()) < share * f64::from(u32::MAX)
    }

    fn transmit(&mut self) {
        for from in 0..2 {
            while let Some(out) = self.ends[from].poll_transmit(self.now) {
                let to = if out.to == *keys("A").destination() {
                    0
                } else {
                    1
                };
                assert_ne!(from, to);
                self.sent[from] += 1;
                let copies = 1 + u32::from(self.chance(self.weather.repeat));
                for _ in 0..copies {
                    if self.chance(self.weather.loss) || (self.filter)(from, &out.data) {
                        continue;
                    }
                    let jitter = self
                        .weather
                        .jitter
                        .mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
                    self.number += 1;
                    let at = self.now.instant + self.weather.delay + jitter;
                    self.wire.insert((at, self.number));
                    self.messages
                        .insert(self.number, (to, out.ports, out.data.clone()));
                }
            }
            while let Some(event) = self.ends[from].poll_event() {
                self.events[from].push(event);
            }
        }
    }

    /// Moves to the next thing that happens, not beyond `end`; whether there was one.
    fn step(&mut self, end: Instant) -> bool {
        self.transmit();
        let wire = self.wire.first().map(|(at, _)| *at);
        let next = [wire, self.ends[0].deadline(), self.ends[1].deadline()];
        let Some(at) = next.into_iter().flatten().min().filter(|at| *at <= end) else {
            self.now = self.now + end.saturating_duration_since(self.now.instant);
            return false;
        };
        self.now = self.now + at.saturating_duration_since(self.now.instant);
        for end in &mut self.ends {
            if end.deadline().is_some_and(|d| d <= self.now.instant) {
                end.handle_timeout(self.now);
            }
        }
        while let Some((_, number)) = self.wire.pop_first_if_due(self.now.instant) {
            let (to, ports, data) = self.messages.remove(&number).unwrap();
            self.ends[to].handle(ports, &data, self.now);
        }
        self.transmit();
        true
    }

    fn run(&mut self, span: Duration) {
        let end = self.now.instant + span;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(steps < 2_000_000, "it does not come to rest");
        }
    }

    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> Duration {
        let begin = self.now.instant;
        let end = begin + limit;
        loop {
            self.transmit();
            if done(self) {
                break;
            }
            assert!(self.step(end), "not within {limit:?}: {:?}", self.events);
        }
        self.now.instant - begin
    }

    fn take(&mut self, who: usize) -> Vec<Event> {
        std::mem::take(&mut self.events[who])
    }

    /// A stream from A to B, open at both ends.
    fn open(&mut self) -> (StreamId, StreamId) {
        let b = keys("B").destination().clone();
        let a = self.ends[0].connect(&b, 5, 80, self.now).unwrap();
        let b = self.incoming(Duration::from_secs(300));
        self.ends[1].accept(b, self.now).unwrap();
        self.run_until(Duration::from_secs(300), |w| {
            w.events[0].contains(&Event::Connected(a))
        });
        self.take(0);
        (a, b)
    }

    fn incoming(&mut self, limit: Duration) -> StreamId {
        let mut found = None;
        self.run_until(limit, |w| {
            found = w.events[1].iter().find_map(|event| match event {
                Event::Incoming { stream, .. } => Some(*stream),
                _ => None,
            });
            found.is_some()
        });
        self.take(1);
        found.unwrap()
    }

    fn read_all(&mut self, who: usize, stream: StreamId) -> Vec<u8> {
        let mut out = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.ends[who].read(stream, &mut buffer, self.now) {
            out.extend_from_slice(&buffer[..count]);
        }
        out
    }
}

trait PopDue {
    fn pop_first_if_due(&mut self, now: Instant) -> Option<(Instant, u64)>;
}

impl PopDue for BTreeSet<(Instant, u64)> {
    fn pop_first_if_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        self.first().filter(|(at, _)| *at <= now)?;
        self.pop_first()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect()
}

/// Sends `length` bytes from A to B and closes both sides; how long it took.
fn transfer(weather: Weather, seed: u8, length: usize) -> (Duration, World) {
    // Opened in fair weather: a connect whose every SYN is lost times out, and rightly so.
    let mut world = World::new(FAIR, seed);
    let (a, b) = world.open();
    world.weather = weather;
    let data = pattern(length);
    let (mut written, mut got) = (0, Vec::new());
    let mut finished = false;
    let took = world.run_until(Duration::from_secs(3600), |w| {
        if written < length {
            written += w.ends[0].write(a, &data[written..], w.now).unwrap();
            if written == length {
                w.ends[0].finish(a, w.now).unwrap();
            }
        }
        let more = w.read_all(1, b);
        got.extend_from_slice(&more);
        if got.len() == length && !finished {
            finished = true;
            w.ends[1].finish(b, w.now).unwrap();
        }
        finished
    });
    assert!(got == data, "the bytes differ");
    world.run_until(Duration::from_secs(700), |w| {
        w.ends.iter().all(Streams::is_empty)
    });
    for (who, id) in [(0, a), (1, b)] {
        assert!(
            world.events[who].contains(&Event::Closed(id, None)),
            "{:?}",
            world.events[who]
        );
    }
    (took, world)
}

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
            .map(|seed| transfer(weather, seed, 300_000).0)
            .collect();
        times.sort();
        let median = times[2];
        table += &format!(
            "{delay:>4}+{jitter:<3} ms  loss {:>2.0} %  repeats {:>2.0} %  {:>6.1} s  {:>7.0} kB/s\n",
            loss * 100.0,
            repeat * 100.0,
            median.as_secs_f64(),
            300.0 / median.as_secs_f64()
        );
        assert!(median < Duration::from_secs(120), "{table}");
    }
    println!("{table}");
}

#[test]
fn a_lost_syn_or_reply_is_sent_again_and_opens_one_stream() {
    for lost in 0..2 {
        let mut world = World::new(FAIR, 7);
        world.filter = if lost == 0 {
            |from, _| from == 0
        } else {
            |from, _| from == 1
        };
        let b = keys("B").destination().clone();
        let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
        world.run(Duration::from_secs(1));
        let early = world.events[1].iter().find_map(|e| match e {
            Event::Incoming { stream, .. } => Some(*stream),
            _ => None,
        });
        if let Some(id) = early {
            world.ends[1].accept(id, world.now).unwrap();
            world.run(Duration::from_secs(1));
        }
        world.filter = |_, _| false;
        world.run(Duration::from_secs(12));
        if lost == 0 {
            let id = world.incoming(MS);
            world.ends[1].accept(id, world.now).unwrap();
            world.run(Duration::from_secs(1));
        }
        assert!(world.events[0].contains(&Event::Connected(a)), "{lost}");
        assert_eq!((world.ends[0].len(), world.ends[1].len()), (1, 1));
    }
}

#[test]
fn data_written_before_the_reply_goes_along() {
    let mut world = World::new(FAIR, 3);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 9, 80, world.now).unwrap();
    let data = pattern(6000);
    assert_eq!(world.ends[0].write(a, &data, world.now), Ok(6000));
    let id = world.incoming(Duration::from_secs(1));
    world.run(Duration::from_secs(1));
    assert_eq!(
        world.read_all(1, id),
        data,
        "all came before the stream was accepted"
    );
    world.ends[1].accept(id, world.now).unwrap();
    assert_eq!(world.ends[1].info(id).unwrap().ports, (80, 9));
    world.run(Duration::from_secs(1));
    assert!(world.events[0].contains(&Event::Connected(a)));
}

#[test]
fn packets_ahead_of_their_syn_wait_for_it() {
    let mut world = World::new(FAIR, 3);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 9, 80, world.now).unwrap();
    world.ends[0].write(a, &pattern(5190), world.now).unwrap();
    let mut out = Vec::new();
    while let Some(message) = world.ends[0].poll_transmit(world.now) {
        out.push(message);
    }
    assert!(out.len() >= 3);
    assert_eq!((out[0].compress, out[0].nonce != 0), (true, true));
    for message in out.iter().rev() {
        world.ends[1].handle(message.ports, &message.data, world.now);
    }
    let id = world.incoming(MS);
    assert_eq!(world.read_all(1, id), pattern(5190));
    // those whose SYN never comes are forgotten
    let mut world = World::new(FAIR, 3);
    for message in out.iter().skip(1).cycle().take(100) {
        world.ends[1].handle(message.ports, &message.data, world.now);
    }
    assert_eq!(world.ends[1].counters().early, MOST_EARLY as u64);
    world.run(Duration::from_secs(11));
    assert_eq!(world.ends[1].counters().early_dropped, 100);
    assert!(world.ends[1].early.is_empty());
}

/// i2pd sends 1812 bytes whatever is announced.
#[test]
fn packets_beyond_the_announced_size_are_taken() {
    let mut world = World::new(FAIR, 3);
    let (_, b) = world.open();
    let connection = &world.ends[1].connections[&b.0];
    let (to_id, from_id) = (connection.local_id, connection.peer_id);
    let ports = Ports {
        protocol: 6,
        from: 5,
        to: 80,
    };
    for (sequence, length) in [(1, 1812), (2, 4096), (3, 4097)] {
        let payload = &pattern(length)[..];
        let packet = Packet {
            to_id,
            from_id,
            sequence,
            flags: NO_ACK,
            payload,
            ..Packet::default()
        };
        world.ends[1].handle(ports, &packet.write(&keys("A")), world.now);
    }
    assert_eq!(
        world.read_all(1, b),
        [pattern(1812), pattern(4096)].concat()
    );
}

#[test]
fn a_refused_stream_is_reset_and_an_ignored_one_times_out() {
    let mut world = World::new(FAIR, 4);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let id = world.incoming(Duration::from_secs(1));
    world.ends[1].refuse(id, world.now).unwrap();
    assert_eq!(world.ends[1].accept(id, world.now), Err(Error::NoStream));
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(0), [Event::Closed(a, Some(Failure::Reset))]);
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let id = world.incoming(Duration::from_secs(1));
    world.ends[1].ignore(id).unwrap();
    world.filter = |_, _| true;
    let took = world.run_until(Duration::from_secs(70), |w| !w.events[0].is_empty());
    assert_eq!(
        world.take(0),
        [Event::Closed(a, Some(Failure::ConnectTimedOut))]
    );
    assert!(took >= Duration::from_secs(59));
}

#[test]
fn a_stream_nobody_accepts_is_reset_and_the_backlog_is_bounded() {
    let mut world = World::new(FAIR, 5);
    let b = keys("B").destination().clone();
    let streams: Vec<StreamId> = (0..80)
        .map(|_| {
            world.run(60 * MS);
            world.ends[0].connect(&b, 0, 80, world.now).unwrap()
        })
        .collect();
    world.run(Duration::from_secs(1));
    assert_eq!(world.ends[1].len(), 64);
    world.run(Duration::from_secs(60));
    assert!(world.ends[1].is_empty());
    let closed = world.take(0);
    for stream in streams {
        assert!(closed.contains(&Event::Closed(stream, Some(Failure::Reset))));
    }
}

#[test]
fn status_21_fails_a_connect_at_once() {
    let mut world = World::new(FAIR, 6);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let syn = world.ends[0].poll_transmit(world.now).unwrap();
    assert_ne!(syn.nonce, 0);
    for (nonce, status) in [(syn.nonce ^ 1, 21), (syn.nonce, 1)] {
        world.ends[0].handle_status(nonce, MessageStatus(status), world.now);
        assert_eq!(world.ends[0].poll_event(), None);
    }
    world.ends[0].handle_status(syn.nonce, MessageStatus(21), world.now);
    let failure = Failure::Router(MessageStatus(21));
    assert_eq!(
        world.ends[0].poll_event(),
        Some(Event::Closed(a, Some(failure)))
    );
}

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

/// A local end of writing must not lose the answer: CLOSE is held back while the peer sends.
#[test]
fn close_is_held_back_while_the_answer_comes() {
    let mut world = World::new(FAIR, 9);
    let (a, b) = world.open();
    world.ends[0].write(a, b"GET /", world.now).unwrap();
    world.ends[0].finish(a, world.now).unwrap();
    let answer = pattern(300_000);
    let (mut written, mut got, mut saw_close_at) = (0, Vec::new(), None);
    world.run_until(Duration::from_secs(100), |w| {
        if written < answer.len() {
            written += w.ends[1].write(b, &answer[written..], w.now).unwrap();
            if written == answer.len() {
                w.ends[1].finish(b, w.now).unwrap();
            }
        }
        got.extend(w.read_all(0, a));
        w.read_all(1, b);
        if w.events[1].contains(&Event::Finished(b)) && saw_close_at.is_none() {
            saw_close_at = Some(got.len());
        }
        w.events[0].contains(&Event::Finished(a))
    });
    assert!(got == answer);
    assert!(
        saw_close_at.is_none_or(|length| length == answer.len()),
        "{saw_close_at:?}"
    );
    world.run(Duration::from_secs(20));
    assert!(world.ends.iter().all(Streams::is_empty));
}

#[test]
fn a_held_close_goes_out_when_the_peer_stays_silent() {
    let mut world = World::new(FAIR, 9);
    let (a, b) = world.open();
    world.ends[0]
        .write(a, b"data until the end", world.now)
        .unwrap();
    world.ends[0].finish(a, world.now).unwrap();
    let took = world.run_until(Duration::from_secs(30), |w| {
        w.read_all(1, b);
        w.events[1].contains(&Event::Finished(b))
    });
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(16)).contains(&took),
        "{took:?}"
    );
    // and the other direction is still open
    world.ends[1].write(b, b"answer", world.now).unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.read_all(0, a), b"answer");
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

#[test]
fn what_was_learnt_of_a_peer_helps_the_next_stream() {
    let (_, mut world) = transfer(FAIR, 15, 500_000);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 1, world.now).unwrap();
    let info = world.ends[0].info(a).unwrap();
    assert!(info.rtt.is_some() && info.window > 10.0, "{info:?}");
}

#[test]
fn pings_are_answered_or_time_out() {
    let mut world = World::new(FAIR, 16);
    let b = keys("B").destination().clone();
    let ping = world.ends[0].ping(&b, 1, 2, &[7; 40], world.now).unwrap();
    assert_eq!(world.ends[0].ping_target(ping), Some(b.hash()));
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(0), [Event::Pong(ping, Some(40 * MS))]);
    assert_eq!(world.ends[1].counters().pongs, 1);
    world.filter = |_, _| true;
    let ping = world.ends[0].ping(&b, 0, 0, b"", world.now).unwrap();
    world.run(Duration::from_secs(31));
    assert_eq!(world.take(0), [Event::Pong(ping, None)]);
}

#[test]
fn the_ping_of_the_vectors_is_answered_as_in_the_vectors() {
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 2,
    };
    streams.handle(ports, &hex("/streaming/ping"), start());
    let pong = streams.poll_transmit(start()).unwrap();
    assert_eq!(pong.data, hex("/streaming/pong"));
    assert_eq!((pong.ports.from, pong.ports.to), (2, 1));
}

#[test]
fn the_syn_of_the_vectors_opens_a_stream_at_its_receiver_only() {
    let now = start();
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 80,
    };
    let syn = hex("/streaming/syn_A_to_B/bytes");
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    streams.handle(ports, &syn, now);
    streams.handle(ports, &syn, now);
    let Some(Event::Incoming {
        stream,
        peer,
        local_port,
        remote_port,
    }) = streams.poll_event()
    else {
        panic!()
    };
    assert_eq!(
        (&peer, local_port, remote_port),
        (keys("A").destination(), 80, 1)
    );
    assert_eq!(streams.poll_event(), None);
    streams.accept(stream, now).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(streams.read(stream, &mut buffer, now), Ok(3));
    assert_eq!(&buffer[..3], b"GET");
    let reply = streams.poll_transmit(now).unwrap();
    let read = Packet::read(&reply.data, None).unwrap();
    assert!(read.has(SYN) && !read.has(NO_ACK) && read.nacks.is_empty());
    assert_eq!(
        (read.to_id, read.max_size, read.ack_through),
        (0x0102_0304, 1812, 0)
    );
    // somebody who gets it although it was for B must not answer
    let mut streams = Streams::new(keys("A"), Config::default(), [1; 32]);
    streams.handle(ports, &syn, now);
    assert_eq!(
        (streams.poll_event(), streams.counters().misdirected),
        (None, 1)
    );
}

// S37
#[test]
fn forged_closes_resets_and_strangers_change_nothing() {
    let mut world = World::new(FAIR, 17);
    let (a, b) = world.open();
    let ids = {
        let connection = &world.ends[1].connections[&b.0];
        (connection.local_id, connection.peer_id)
    };
    let b_keys = keys("B");
    let ports = Ports {
        protocol: 6,
        from: 5,
        to: 80,
    };
    let base = Packet {
        to_id: ids.0,
        from_id: ids.1,
        sequence: 1,
        ..Packet::default()
    };
    // signed by somebody else, or not at all, or with another id
    for flags in [
        CLOSE,
        RESET,
        CLOSE | SIGNATURE,
        RESET | SIGNATURE,
        RESET | SIGNATURE | FROM,
    ] {
        let packet = Packet {
            flags,
            ..base.clone()
        };
        world.ends[1].handle(ports, &packet.write(&b_keys), world.now);
    }
    let foreign = Packet {
        from_id: ids.1 ^ 1,
        payload: b"inserted",
        ..base.clone()
    };
    world.ends[1].handle(ports, &foreign.write(&b_keys), world.now);
    assert_eq!(world.ends[1].counters().forged, 6);
    // acknowledges what was never sent
    let early = Packet {
        sequence: 0,
        ack_through: 1000,
        ..base
    };
    world.ends[1].handle(ports, &early.write(&b_keys), world.now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(1), []);
    world.ends[0].write(a, b"unharmed", world.now).unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.read_all(1, b), b"unharmed");
}

// S37
#[test]
fn floods_of_syns_and_pings_are_limited_before_and_after_the_signature() {
    let now = start();
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 80,
    };
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    for id in 1..=300 {
        let nacks = packet::hash_as_nacks(&keys("B").destination().hash());
        let flags = SYN | SIGNATURE | FROM | NO_ACK;
        let syn = Packet {
            from_id: id,
            nacks,
            flags,
            ..Packet::default()
        };
        streams.handle(ports, &syn.write(&keys("A")), now);
    }
    assert_eq!(streams.len(), 20);
    assert_eq!(streams.counters().rate_limited, 280);
    let mut out = 0;
    for _ in 0..1000 {
        streams.handle(ports, &hex("/streaming/ping"), now);
    }
    while streams.poll_transmit(now).is_some() {
        out += 1;
    }
    assert_eq!(out, 0, "the budget of this second is spent");
    streams.handle(ports, &hex("/streaming/ping"), now + Duration::from_secs(2));
    assert!(streams.poll_transmit(now).is_some());
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

    // S37
    #[test]
    fn noise_in_an_open_stream_never_panics_and_never_grows(
        seed: u8, packets in proptest::collection::vec((any::<u32>(), any::<u32>(), 0u16..0x1000, proptest::collection::vec(any::<u8>(), 0..60), proptest::collection::vec(any::<u32>(), 0..9)), 1..60),
    ) {
        let mut world = World::new(FAIR, seed);
        let (_, b) = world.open();
        let ids = { let c = &world.ends[1].connections[&b.0]; (c.local_id, c.peer_id) };
        let ports = Ports { protocol: 6, from: 5, to: 80 };
        for (sequence, ack_through, flags, payload, nacks) in &packets {
            let packet = Packet {
                to_id: ids.0, from_id: ids.1, sequence: sequence % 300, ack_through: ack_through % 4, flags: flags & !packet::OFFLINE, nacks: nacks.clone(), payload, delay: 61_000,
                ..Packet::default()
            };
            // signed by A: everything a hostile peer can do to its own stream
            world.ends[1].handle(ports, &packet.write(&keys("A")), world.now);
            world.transmit();
        }
        world.run(Duration::from_secs(600));
        prop_assert!(world.ends[1].len() <= 1 + packets.len());
        prop_assert!(world.ends[1].loose.len() <= MOST_LOOSE);
    }
}

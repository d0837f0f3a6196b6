//! Two tables of streams with a network between them, on virtual time.
mod closing;
mod hostile;
mod opening;
mod weather;

use super::*;
use crate::router::start;
use crate::vectors::keys;

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
        Self::between(weather, seed, [config.clone(), config])
    }

    fn between(weather: Weather, seed: u8, [a, b]: [Config; 2]) -> Self {
        Self {
            now: start(),
            ends: [
                Streams::new(keys("A"), a, [seed; 32]),
                Streams::new(keys("B"), b, [seed ^ 0xff; 32]),
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
    // Opened without loss: a connect whose every SYN is lost times out, and rightly so.
    let calm = Weather {
        loss: 0.0,
        repeat: 0.0,
        ..weather
    };
    let mut world = World::new(calm, seed);
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

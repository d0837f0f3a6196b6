use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A fake clock that starts at a second of a minute, and everything that was sent.
struct World {
    prober: Prober<u32>,
    rng: StdRng,
    start: Instant,
    offset: Duration,
    time: Time,
    sent: Vec<(Duration, Probe<u32>)>,
}

impl World {
    fn new(second_of_minute: u64) -> Self {
        let start = Instant::now();
        let offset = Duration::from_secs(28_333_334 * 60 + second_of_minute);
        let time = Time {
            now: start,
            unix: offset,
        };
        Self {
            prober: Prober::new(),
            rng: StdRng::seed_from_u64(3),
            start,
            offset,
            time,
            sent: vec![],
        }
    }

    /// Lets time pass, polling exactly at the deadlines.
    fn run(&mut self, length: Duration) {
        let end = self.time.now + length;
        loop {
            while let Some(probe) = self.prober.poll(self.time, &mut self.rng) {
                self.sent.push((self.time.now - self.start, probe));
            }
            match self.prober.deadline(self.time.now) {
                Some(next) if next <= end => {
                    assert!(next > self.time.now, "a deadline in the past would spin");
                    self.set(next);
                }
                _ => break,
            }
        }
        self.set(end);
    }

    fn set(&mut self, now: Instant) {
        self.time = Time {
            now,
            unix: self.offset + (now - self.start),
        };
    }

    fn seconds(&self) -> Vec<u64> {
        self.sent.iter().map(|(at, _)| at.as_secs()).collect()
    }
}

fn endpoints(count: u32) -> Vec<SocketAddr> {
    (0..count)
        .map(|n| SocketAddr::new(IpAddr::from((0x5000_0000 + n * 256).to_be_bytes()), 9_000))
        .collect()
}

#[test]
fn without_a_wanted_peer_a_candidate_gets_one_round_an_hour() {
    let mut world = World::new(30);
    for _ in 0..12 {
        world.prober.add(&endpoints(1), world.time);
        world.run(Duration::from_secs(300));
    }
    assert_eq!(
        world.seconds(),
        [0, 30],
        "at once, and at the next full minute"
    );
    assert!(
        world
            .sent
            .iter()
            .all(|(_, probe)| probe.kind == ProbeKind::Presence)
    );
    assert_eq!(world.prober.counters().resting, 11);
    world.prober.add(&endpoints(1), world.time);
    world.run(Duration::from_secs(300));
    world.prober.add(&endpoints(1), world.time);
    world.run(Duration::from_secs(300));
    assert_eq!(world.sent.len(), 4, "after an hour once more");
}

#[test]
fn a_search_has_a_round_at_every_full_minute_and_two_seconds_later() {
    let mut world = World::new(57);
    assert!(world.prober.want(7, world.time.now));
    world.prober.add(&endpoints(1), world.time);
    world.run(Duration::from_secs(200));
    assert_eq!(
        world.seconds(),
        [
            3, 3, 5, 5, 63, 63, 65, 65, 123, 123, 125, 125, 183, 183, 185, 185
        ]
    );
    world.run(SEARCH);
    let last = *world.seconds().last().unwrap();
    assert!(
        (540..=605).contains(&last),
        "a search ends after ten minutes: {last}"
    );
}

#[test]
fn both_sides_send_in_the_same_seconds() {
    let seconds = |start: u64| {
        let mut world = World::new(start);
        world.prober.want(1, world.time.now);
        world.prober.add(&endpoints(1), world.time);
        world.run(Duration::from_secs(180));
        world
            .seconds()
            .iter()
            .map(|at| at + start)
            .filter(|at| *at >= 120)
            .collect::<Vec<_>>()
    };
    assert_eq!(seconds(58)[..8], seconds(31)[..8]);
}

#[test]
fn a_round_never_exceeds_four_packets_to_a_candidate() {
    for wanted in 0..6u32 {
        let mut world = World::new(0);
        (0..wanted).for_each(|peer| assert!(world.prober.want(peer, world.time.now)));
        world.prober.add(&endpoints(1), world.time);
        world.run(Duration::from_secs(50));
        assert!(world.sent.len() <= 4, "{wanted}: {:?}", world.sent);
        let presence = world
            .sent
            .iter()
            .filter(|(_, probe)| probe.kind == ProbeKind::Presence)
            .count();
        assert!(
            presence >= 1 && world.sent.len() - presence <= 3,
            "{wanted}"
        );
        let second = world
            .sent
            .iter()
            .filter(|(at, _)| at.as_secs() == 2)
            .count();
        assert!(second >= 1, "something must follow once both NATs are open");
    }
}

#[test]
fn more_wanted_peers_than_fit_take_turns() {
    let mut world = World::new(0);
    (0..8).for_each(|peer| assert!(world.prober.want(peer, world.time.now)));
    world.prober.add(&endpoints(1), world.time);
    world.run(SEARCH - Duration::from_secs(1));
    for peer in 0..8 {
        assert!(
            world
                .sent
                .iter()
                .any(|(_, probe)| probe.kind == ProbeKind::Request(peer)),
            "{peer}"
        );
    }
    (8..64).for_each(|peer| assert!(world.prober.want(peer, world.time.now)));
    assert!(
        !world.prober.want(99, world.time.now),
        "the list is bounded"
    );
    assert!(
        world.prober.want(9, world.time.now),
        "renewing needs no room"
    );
}

// S36
#[test]
fn one_ip_gets_one_round_a_minute_whatever_its_ports() {
    let mut world = World::new(20);
    world.prober.want(1, world.time.now);
    let ports: Vec<_> = (9_000..9_020)
        .map(|port| SocketAddr::new(IpAddr::from([192, 0, 2, 1]), port))
        .collect();
    world.prober.add(&ports, world.time);
    world.run(Duration::from_secs(580));
    for window in 0..580 {
        let inside = world
            .seconds()
            .iter()
            .filter(|at| (window..window + 58).contains(*at))
            .count();
        assert!(
            inside <= 4,
            "{inside} packets in the minute from second {window}"
        );
    }
    assert!(world.sent.len() >= 30, "{}", world.sent.len());
}

// S36
#[test]
fn the_budget_holds_for_any_number_of_answers() {
    let mut world = World::new(0);
    (0..3).for_each(|peer| assert!(world.prober.want(peer, world.time.now)));
    for round in 0..60 {
        (0..3).for_each(|peer| assert!(world.prober.want(peer, world.time.now)));
        let candidates: Vec<_> = (0..250u32)
            .map(|n| {
                SocketAddr::new(
                    IpAddr::from((0x5000_0000 + (round * 250 + n) * 256).to_be_bytes()),
                    9_000,
                )
            })
            .collect();
        world.prober.add(&candidates, world.time);
        world.run(MINUTE);
    }
    let times: Vec<_> = world.sent.iter().map(|(at, _)| *at).collect();
    let hour = times
        .iter()
        .filter(|at| **at < Duration::from_secs(3_600))
        .count();
    assert_eq!(hour, 2_000, "no more in an hour");
    for (at, time) in times.iter().enumerate().skip(20) {
        assert!(
            *time - times[at - 20] >= Duration::from_secs(1),
            "no more than 20 in any second"
        );
    }
    let counters = world.prober.counters();
    assert_eq!(counters.sent, times.len() as u64);
    assert!(counters.over_budget > 0 && counters.no_room > 0);
    assert!(world.prober.candidates.len() <= MAX_HELD && world.prober.queue.len() <= MAX_HELD * 4);
    assert!(world.prober.probed.len() <= 2_000);
}

#[test]
fn an_endpoint_that_has_proven_itself_is_left_alone() {
    let mut world = World::new(10);
    world.prober.want(1, world.time.now);
    world.prober.add(&endpoints(2), world.time);
    world.run(Duration::from_secs(1));
    assert_eq!(world.sent.len(), 4);
    world.prober.answered(endpoints(1)[0]);
    world.prober.unwant(&1);
    assert!(!world.prober.searching(world.time.now));
    world.run(Duration::from_secs(300));
    assert_eq!(
        world.sent.len(),
        5,
        "the other one gets the second half of its round"
    );
}

#[test]
fn jumps_of_the_wall_clock_only_move_the_rounds() {
    let mut world = World::new(0);
    world.prober.want(1, world.time.now);
    world.prober.add(&endpoints(1), world.time);
    world.run(Duration::from_secs(30));
    for jump in [-86_400i64, 86_400] {
        world.offset =
            Duration::from_secs(world.offset.as_secs().checked_add_signed(jump).unwrap());
        let before = world.sent.len();
        world.run(Duration::from_secs(240));
        assert!(
            (8..=20).contains(&(world.sent.len() - before)),
            "{jump}: {}",
            world.sent.len() - before
        );
    }
}

// S36
#[test]
fn presence_of_strangers_is_answered_once_in_five_seconds_and_never_amplified() {
    let mut gate = PresenceGate::default();
    let now = Instant::now();
    let ip = |n: u32| IpAddr::from((0x5000_0000 + n).to_be_bytes());
    assert!(gate.allow(ip(0), 96, 104, now));
    assert!(!gate.allow(ip(0), 96, 104, now + Duration::from_millis(4_999)));
    assert!(!gate.allow("::ffff:80.0.0.0".parse().unwrap(), 96, 104, now));
    assert!(gate.allow(ip(0), 96, 104, now + Duration::from_secs(5)));
    assert!(!gate.allow(ip(1), 96, 105, now));
    let allowed = (2..10_000)
        .filter(|n| gate.allow(ip(*n), 96, 96, now + Duration::from_secs(6)))
        .count();
    assert_eq!(allowed, 1_023, "the table is bounded");
    assert_eq!(gate.refused(), 3 + 9_998 - 1_023);
}

//! Two nodes and an attacker between them, on virtual time.
use super::super::*;
use crate::{Identity, Zone};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;

pub const A: usize = 0;
pub const B: usize = 1;
/// The attacker's endpoint.
pub const EVE: usize = 2;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn identity(seed: u8) -> Identity {
    Identity::from_scalar(Zone(seed.into()), &[seed + 1; 32]).unwrap()
}

/// What the attacker does with a packet on its way.
pub enum Verdict {
    Pass,
    Drop,
    Delay(Duration),
    /// As often as there are packets.
    Instead(Vec<Vec<u8>>),
}

pub struct Node {
    pub sessions: Sessions,
    pub identity: Identity,
    pub config: Config,
    /// How far its wall clock is off, in microseconds.
    pub skew: i64,
    /// Message bodies that arrived.
    pub heard: Vec<Vec<u8>>,
    pub outcomes: Vec<Outcome>,
    pub events: Vec<Event>,
    pub records: Vec<Record>,
    waiting: VecDeque<Vec<u8>>,
}

pub struct Flight {
    at: Instant,
    number: u64,
    pub from: usize,
    pub to: usize,
    pub packet: Vec<u8>,
}

pub type Attacker = Box<dyn FnMut(&Flight, &mut StdRng) -> Verdict>;

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub delay: Duration,
    pub attacker: Attacker,
    /// Everything that was sent, before the attacker has touched it.
    pub log: Vec<(Duration, usize, Vec<u8>)>,
    /// What came to the attacker's own endpoint.
    pub eves: Vec<Vec<u8>>,
    pub rng: StdRng,
    flights: Vec<Flight>,
    number: u64,
    seed: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, [Config::default(), Config::default()])
    }

    pub fn with_pq(seed: u64, pq: [Pq; 2]) -> Self {
        Self::with(
            seed,
            pq.map(|pq| Config {
                pq,
                ..Config::default()
            }),
        )
    }

    pub fn with(seed: u64, configs: [Config; 2]) -> Self {
        let mut world = Self {
            start: Instant::now() + Duration::from_secs(1_000_000),
            now: Instant::now(),
            nodes: Vec::new(),
            delay: ms(20),
            attacker: Box::new(|_, _| Verdict::Pass),
            log: Vec::new(),
            eves: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            flights: Vec::new(),
            number: 0,
            seed,
        };
        world.now = world.start;
        for (i, config) in configs.into_iter().enumerate() {
            let identity = identity(i as u8);
            let rng = world.fresh_rng();
            world.nodes.push(Node {
                sessions: Sessions::new(&identity, config.clone(), rng),
                identity,
                config,
                skew: 0,
                heard: Vec::new(),
                outcomes: Vec::new(),
                events: Vec::new(),
                records: Vec::new(),
                waiting: VecDeque::new(),
            });
        }
        world
    }

    fn fresh_rng(&mut self) -> Box<StdRng> {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        Box::new(StdRng::seed_from_u64(self.seed))
    }

    pub fn another_rng(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.rng.next_u64())
    }

    /// Kills a node and starts it again, with what it had on disk or without.
    pub fn restart(&mut self, node: usize, with_state: bool) {
        let rng = self.fresh_rng();
        let now = self.clock(node);
        let it = &mut self.nodes[node];
        it.sessions = Sessions::new(&it.identity, it.config.clone(), rng);
        it.waiting.clear();
        if with_state {
            for record in &it.records {
                it.sessions.restore(now, record);
            }
        } else {
            it.records.clear();
        }
    }

    pub fn clock(&self, node: usize) -> Now {
        let micros = (self.now - self.start).as_micros() as i64 + 1_700_000_000_000_000;
        Now {
            at: self.now,
            wall: Timestamp((micros + self.nodes[node].skew) as u64),
        }
    }

    pub fn pair(&self, node: usize) -> Pair {
        self.nodes[node].sessions.own()
    }

    pub fn key(&self, node: usize) -> PeerKey {
        let pair = self.pair(1 - node);
        self.nodes[node].sessions.lookup(&pair).unwrap()
    }

    pub fn up(&self, node: usize) -> Option<Up> {
        let pair = self.pair(1 - node);
        let sessions = &self.nodes[node].sessions;
        sessions.lookup(&pair).and_then(|key| sessions.state(key))
    }

    pub fn both_up(&self) -> bool {
        self.up(A).is_some() && self.up(B).is_some()
    }

    pub fn start(&mut self, node: usize, reason: Reason) -> Started {
        let pair = self.pair(1 - node);
        let now = self.clock(node);
        let started = self.nodes[node].sessions.start(now, pair, reason);
        self.pump(node);
        started
    }

    /// Wants a session with any pair.
    pub fn start_with(&mut self, node: usize, pair: Pair) -> Started {
        let now = self.clock(node);
        let started = self.nodes[node].sessions.start(now, pair, Reason::Traffic);
        self.pump(node);
        started
    }

    /// Sends a message as soon as there is a session.
    pub fn say(&mut self, node: usize, body: &[u8]) {
        self.nodes[node].waiting.push_back(body.to_vec());
        self.start(node, Reason::Traffic);
        self.flush(node);
    }

    fn flush(&mut self, node: usize) {
        while self.up(node).is_some() {
            let Some(body) = self.nodes[node].waiting.pop_front() else {
                break;
            };
            let (key, now) = (self.key(node), self.clock(node));
            let sessions = &mut self.nodes[node].sessions;
            match sessions.seal_copy(now, key, crate::message::kind::DGRAM, &body) {
                Ok(packet) => self.launch(node, 1 - node, packet),
                Err(_) => {
                    self.nodes[node].waiting.push_front(body);
                    break;
                }
            }
        }
    }

    /// Puts a packet into the network.
    pub fn launch(&mut self, from: usize, to: usize, packet: Vec<u8>) {
        self.log.push((self.now - self.start, from, packet.clone()));
        let flight = Flight {
            at: self.now + self.delay,
            number: 0,
            from,
            to,
            packet,
        };
        match (self.attacker)(&flight, &mut self.rng) {
            Verdict::Pass => self.inject(flight.at, from, to, flight.packet),
            Verdict::Drop => {}
            Verdict::Delay(more) => self.inject(flight.at + more, from, to, flight.packet),
            Verdict::Instead(packets) => {
                for packet in packets {
                    self.inject(flight.at, from, to, packet);
                }
            }
        }
    }

    /// A packet that arrives, whoever made it.
    pub fn inject(&mut self, at: Instant, from: usize, to: usize, packet: Vec<u8>) {
        self.number += 1;
        self.flights.push(Flight {
            at,
            number: self.number,
            from,
            to,
            packet,
        });
    }

    /// Gives a node a packet right now, from the attacker's endpoint; what it says to that.
    pub fn hand(&mut self, node: usize, packet: &[u8]) -> Outcome {
        let now = self.clock(node);
        let mut packet = packet.to_vec();
        let endpoint = [EVE as u8];
        let source = Source {
            endpoint: &endpoint,
            network: EVE as u64,
        };
        let outcome = self.nodes[node].sessions.handle(now, source, &mut packet);
        self.pump(node);
        outcome
    }

    fn deliver(&mut self, mut flight: Flight) {
        if flight.to == EVE {
            self.eves.push(flight.packet);
            return;
        }
        let now = self.clock(flight.to);
        let node = &mut self.nodes[flight.to];
        let endpoint = [flight.from as u8];
        let source = Source {
            endpoint: &endpoint,
            network: flight.from as u64,
        };
        let outcome = node.sessions.handle(now, source, &mut flight.packet);
        match &outcome {
            Outcome::Opened { body, .. } => node.heard.push(flight.packet[body.clone()].to_vec()),
            Outcome::Reassembled { body, .. } => node.heard.push(body.clone()),
            _ => {}
        }
        node.outcomes.push(outcome);
        self.pump(flight.to);
    }

    /// Takes out what a node has to send and to say.
    fn pump(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].sessions.poll_transmit() {
            let to = match &transmit.to {
                To::Endpoint(endpoint) => usize::from(endpoint[0]),
                To::Peer(pair) => (0..2)
                    .find(|i| self.nodes[*i].identity.address() == &pair.address)
                    .unwrap(),
            };
            self.launch(node, to, transmit.packet);
        }
        let mut up = false;
        while let Some(event) = self.nodes[node].sessions.poll_event() {
            match event {
                Event::Persist(record) => {
                    let records = &mut self.nodes[node].records;
                    records.retain(|r| r.pair != record.pair);
                    records.push(record);
                }
                event => {
                    up |= matches!(event, Event::SessionUp { .. });
                    self.nodes[node].events.push(event);
                }
            }
        }
        if up {
            self.flush(node);
        }
    }

    /// The next thing that happens, not after `end`.
    fn next(&self, end: Instant) -> Option<Instant> {
        let flights = self.flights.iter().map(|flight| flight.at);
        let timers = self.nodes.iter().filter_map(|n| n.sessions.deadline());
        flights
            .chain(timers.map(|(at, _)| at))
            .min()
            .filter(|at| *at <= end)
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        while let Some(at) = self.next(end) {
            steps += 1;
            assert!(steps < 2_000_000, "time does not move on");
            self.now = self.now.max(at);
            let due = self
                .flights
                .iter()
                .enumerate()
                .filter(|(_, flight)| flight.at <= self.now)
                .min_by_key(|(_, flight)| (flight.at, flight.number))
                .map(|(i, _)| i);
            if let Some(i) = due {
                let flight = self.flights.swap_remove(i);
                self.deliver(flight);
            }
            for node in 0..2 {
                let deadline = self.nodes[node].sessions.deadline();
                if deadline.is_some_and(|(at, _)| at <= self.now) {
                    let now = self.clock(node);
                    self.nodes[node].sessions.handle_timeout(now);
                    self.pump(node);
                }
            }
        }
        self.now = end;
    }

    /// Runs until both sides have a session; how long that took.
    pub fn connect(&mut self) -> Duration {
        let begin = self.now;
        self.start(A, Reason::Traffic);
        for _ in 0..12_000 {
            if self.both_up() {
                return self.now - begin;
            }
            self.run(ms(10));
            if self.failed(A) {
                self.start(A, Reason::Traffic);
            }
        }
        panic!("no session within two minutes");
    }

    fn failed(&self, node: usize) -> bool {
        matches!(
            self.nodes[node].events.last(),
            Some(Event::HandshakeFailed { .. })
        )
    }

    pub fn dropped(&self, node: usize, reason: Drop) -> u64 {
        self.nodes[node].sessions.counters().dropped(reason)
    }

    /// Packets of a type that a node has sent, in plain.
    pub fn sent(&self, node: usize, message_kind: u8) -> Vec<Vec<u8>> {
        self.log
            .iter()
            .filter(|(_, from, packet)| *from == node && kind_of(packet) == message_kind)
            .map(|(_, _, packet)| packet.clone())
            .collect()
    }

    pub fn lower(&self) -> usize {
        usize::from(self.pair(B) < self.pair(A))
    }
}

pub fn kind_of(packet: &[u8]) -> u8 {
    crate::Packet::new_checked(packet).unwrap().kind()
}

/// Loses a share of all packets.
pub fn lossy(percent: u32) -> Attacker {
    Box::new(move |_, rng| {
        if rng.next_u32() % 100 < percent {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    })
}

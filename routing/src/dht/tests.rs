//! Many nodes in one process on virtual time; sessions are there at once where both can be reached.
mod applications;
mod own;
mod records;
mod ring;
mod transfer;

use super::*;
use anode_reload::TypeId;
use anode_reload::body::DataValue;
use anode_reload::usage::anode as record;
use anode_wire::{Endpoint, Zone};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};

const LATENCY: Duration = Duration::from_millis(15);

/// Whether the net loses what this node says to that one.
type Loses = Box<dyn FnMut(usize, usize, &[u8]) -> bool>;

struct Net {
    at: Duration,
    nodes: Vec<Dht>,
    of: BTreeMap<End, usize>,
    wire: BTreeMap<(Duration, u64), (usize, usize, Vec<u8>)>,
    order: u64,
    dead: BTreeSet<usize>,
    found: Vec<(usize, Address, Vec<Place>)>,
    answers: BTreeMap<(usize, u64), Answer>,
    reached: usize,
    sent: u64,
    /// Where node 0 has a TURN server.
    turn: Option<SocketAddr>,
    turn_found: BTreeMap<usize, Vec<FoundTurn>>,
    /// Applications that nodes serve.
    served: Vec<(usize, u16)>,
    heard: Vec<(usize, ConversationId, Heard)>,
    /// What is lost on the way: of whom, to whom, which message.
    loses: Option<Loses>,
    /// What one message costs its recipient: one after the other is served.
    work: Duration,
    /// Until when nodes are busy.
    busy: BTreeMap<usize, Duration>,
}

fn identity(n: usize) -> Identity {
    let mut scalar = [7; 32];
    scalar[24..].copy_from_slice(&(n as u64 + 1).to_be_bytes());
    Identity::from_scalar(Zone(9), &scalar).unwrap()
}

fn endpoint(n: usize) -> Endpoint {
    Endpoint::Udp(SocketAddr::from(([192, 0, 2, n as u8 + 1], 8737)))
}

fn rng(seed: u64) -> Box<dyn CryptoRng + Send> {
    Box::new(StdRng::seed_from_u64(seed))
}

impl Net {
    fn new() -> Self {
        Self {
            at: Duration::from_secs(1),
            nodes: Vec::new(),
            of: BTreeMap::new(),
            wire: BTreeMap::new(),
            order: 0,
            dead: BTreeSet::new(),
            found: Vec::new(),
            answers: BTreeMap::new(),
            reached: 0,
            sent: 0,
            turn: None,
            turn_found: BTreeMap::new(),
            served: Vec::new(),
            heard: Vec::new(),
            loses: None,
            work: Duration::ZERO,
            busy: BTreeMap::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            at: self.at,
            unix: 1_700_000_000 + self.at.as_secs(),
        }
    }

    fn add(&mut self, create: bool, role: Role, bootstrap: &[usize]) -> usize {
        let n = self.nodes.len();
        let dht = self.make(n, create, role, bootstrap);
        self.of.insert(dht.own, n);
        self.nodes.push(dht);
        self.drain(n);
        n
    }

    /// The same machine again, which knows nothing any more.
    fn restart(&mut self, n: usize, create: bool, bootstrap: &[usize]) {
        self.nodes[n] = self.make(n, create, Role::Peer, bootstrap);
        self.dead.remove(&n);
        self.drain(n);
    }

    fn make(&self, n: usize, create: bool, role: Role, bootstrap: &[usize]) -> Dht {
        let own = identity(n);
        let config = DhtConfig {
            overlay: "a--00000009.net".into(),
            role,
            bootstrap: bootstrap
                .iter()
                .map(|other| Bootstrap {
                    address: *identity(*other).address(),
                    places: vec![],
                })
                .collect(),
            create,
            publish: true,
            relays: n == 0,
            security: DhtSecurity::Address,
            roots: vec![],
            chord: None,
            turn: self.turn.filter(|_| n == 0),
            turn_density: 2,
            groups: vec![],
            applications: self
                .served
                .iter()
                .filter(|(node, _)| *node == n)
                .map(|(_, it)| *it)
                .collect(),
            users: vec![],
            own_links: None,
        };
        let seeds = [rng(n as u64 * 2), rng(n as u64 * 2 + 1)];
        let mut dht = Dht::new(&own, PeerId::ANY, config, seeds, self.now()).unwrap();
        let endpoints = vec![endpoint(n)];
        dht.set_places(self.now(), OwnPlaces { endpoints });
        dht
    }

    fn ring(count: usize) -> Self {
        Self::ring_with_turn(count, None)
    }

    fn ring_with_turn(count: usize, turn: Option<SocketAddr>) -> Self {
        let mut net = Self::new();
        net.turn = turn;
        net.add(true, Role::Peer, &[]);
        for _ in 1..count {
            net.add(false, Role::Peer, &[0]);
            net.run(Duration::from_secs(3));
        }
        net.run(Duration::from_secs(30));
        net
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].poll_output() {
            match output {
                Output::Send { to, digit, body } => {
                    assert!(body.len() <= crate::anode::MAX_RELOAD);
                    assert_eq!(Dht::overlay_of(&body), Some(self.nodes[n].overlay_hash()));
                    self.sent += 1;
                    let Some(other) = self.of.get(&(to, digit)).copied() else {
                        continue;
                    };
                    if self.loses.as_mut().is_some_and(|it| it(n, other, &body)) {
                        continue;
                    }
                    self.order += 1;
                    let busy = self.busy.entry(other).or_default();
                    *busy = (*busy).max(self.at + LATENCY) + self.work;
                    self.wire.insert((*busy, self.order), (n, other, body));
                }
                Output::TurnServers(found) => drop(self.turn_found.insert(n, found)),
                Output::Reach { .. } => self.reached += 1,
                Output::Found { who, places } => self.found.push((n, who, places)),
                Output::Answer { token, answer } => {
                    self.answers.insert((n, token), answer);
                }
                Output::Application {
                    conversation,
                    heard,
                } => self.heard.push((n, conversation, heard)),
                Output::Links(command) => panic!("no links of its own: {command:?}"),
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.at + time;
        loop {
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let live = (0..self.nodes.len()).filter(|n| !self.dead.contains(n));
            let timer = live
                .filter_map(|n| Some((self.nodes[n].deadline()?, n)))
                .min();
            let next = [wire, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.at = end;
                return;
            };
            self.at = self.at.max(next);
            if wire == Some(next) {
                let (_, (from, to, body)) = self.wire.pop_first().unwrap();
                if self.dead.contains(&to) || self.dead.contains(&from) {
                    continue;
                }
                let (now, from) = (self.now(), self.nodes[from].own);
                self.nodes[to].handle_message(now, from, 0, &body);
                self.drain(to);
            } else if let Some((_, n)) = timer {
                let now = self.now();
                self.nodes[n].handle_timeout(now);
                self.drain(n);
            }
        }
    }

    fn with(&mut self, n: usize, act: impl FnOnce(&mut Dht, Now)) {
        let now = self.now();
        act(&mut self.nodes[n], now);
        self.drain(n);
    }

    fn ip(&self, n: usize) -> Ipv6Addr {
        self.nodes[n].own.0.ipv6(PeerId::ANY)
    }

    fn answer(&mut self, n: usize, token: u64) -> Answer {
        self.run(Duration::from_secs(9));
        self.answers.remove(&(n, token)).expect("an answer")
    }

    fn lookup(&mut self, n: usize, target: Ipv6Addr) -> Vec<record::Found> {
        self.with(n, |dht, now| dht.lookup(now, target, 77));
        match self.answer(n, 77) {
            Answer::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }
}

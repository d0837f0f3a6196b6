//! Many nodes in one process on virtual time: latency, loss, sudden death, partitions, from one seed.
#![allow(dead_code, reason = "every user takes a part of it")]

pub mod liars;
mod links;

use anode_reload::body::{ConnectBody, PingRequest, Role};
use anode_reload::chord::Config;
use anode_reload::node::{Answer, AnswerBody, RequestId, RequestOptions};
use anode_reload::{
    Chord, Event, Id, LinkId, Node, NodeConfig, Now, ReloadError, Security, SharedKey,
};
use liars::Lie;
use links::{ASK_EVERY, Link};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

pub const OVERLAY: &str = "sim.example";
const EPOCH: u64 = 1_700_000_000;

enum What {
    Message {
        to: usize,
        link: u64,
        bytes: Vec<u8>,
    },
    Timer {
        node: usize,
    },
    LinkUp {
        node: usize,
        link: u64,
        peer: Id,
    },
    LinkDown {
        node: usize,
        link: u64,
    },
    Rejoin {
        node: usize,
    },
    /// A node looks which of its links it still needs.
    Sweep {
        node: usize,
    },
}

pub struct Member {
    pub node: Node,
    timer: Option<Duration>,
    pub joined: bool,
    pub left: bool,
    pub started: Duration,
    /// What it does to what it sends, if it is a liar.
    pub lie: Option<Lie>,
}

pub struct Sim {
    pub at: Duration,
    pub rng: StdRng,
    pub members: Vec<Option<Member>>,
    index: HashMap<Id, usize>,
    links: HashMap<u64, Link>,
    of_node: Vec<Vec<u64>>,
    next_link: u64,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    slab: Vec<Option<What>>,
    free: Vec<usize>,
    order: u64,
    pub loss: f64,
    /// Which side of a partition a node is on.
    pub side: Vec<u8>,
    pub partitioned: bool,
    pub keepalive: Duration,
    pub delivered: u64,
    pub answers: BTreeMap<(usize, RequestId), Result<Answer, ReloadError>>,
    pub mtu: Option<usize>,
    pub chord: Config,
    /// Whether messages and values are signed, so that liars can be told from others.
    pub signed: bool,
    /// Whether links that stand in the tables of neither end fall silent and end. Set it before there are nodes.
    pub ends_silent_links: bool,
    /// As many links a node had at once that was not in the ring yet.
    pub most_links: usize,
    /// Questions whether a peer is still there, each with an answer, that this has taken.
    pub asks: u64,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        Self {
            at: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            members: Vec::new(),
            index: HashMap::new(),
            links: HashMap::new(),
            of_node: Vec::new(),
            next_link: 1,
            queue: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
            order: 0,
            loss: 0.0,
            side: Vec::new(),
            partitioned: false,
            keepalive: Duration::from_secs(45),
            delivered: 0,
            answers: BTreeMap::new(),
            mtu: Some(1120),
            chord: Config::default(),
            signed: false,
            ends_silent_links: false,
            most_links: 0,
            asks: 0,
        }
    }

    pub fn now(&self) -> Now {
        Now {
            at: self.at,
            unix: EPOCH + self.at.as_secs(),
        }
    }

    fn push(&mut self, at: Duration, what: What) {
        let place = match self.free.pop() {
            Some(place) => {
                self.slab[place] = Some(what);
                place
            }
            None => {
                self.slab.push(Some(what));
                self.slab.len() - 1
            }
        };
        self.order += 1;
        self.queue.push(Reverse((at, self.order, place)));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(10_000..60_000))
    }

    pub fn random_id(&mut self) -> Id {
        Id::from_number(self.rng.random())
    }

    /// A node with a random id, and no security but the shared key's unless this overlay is signed.
    pub fn add(&mut self) -> usize {
        let id = self.random_id();
        self.add_as(id)
    }

    /// The same with this id.
    pub fn add_as(&mut self, id: Id) -> usize {
        let chord = self.chord.clone();
        match self.signed {
            false => self.add_with(Box::new(SharedKey::new(id)), chord, |_| {}),
            true => self.add_with(Box::new(liars::Marked::new(id)), chord, |config| {
                config.kinds.add(liars::record());
            }),
        }
    }

    pub fn add_with(
        &mut self,
        security: Box<dyn Security>,
        chord: Config,
        change: impl FnOnce(&mut NodeConfig),
    ) -> usize {
        let id = security.peer_id();
        let seed = self.rng.random();
        let mut config = NodeConfig::new(OVERLAY);
        config.tunnels.insert(8737);
        change(&mut config);
        let node = Node::new(
            config,
            security,
            Box::new(Chord::new(id, chord, seed)),
            Box::new(StdRng::seed_from_u64(self.rng.random())),
        );
        let place = self.members.len();
        self.members.push(Some(Member {
            node,
            timer: None,
            joined: false,
            left: false,
            started: self.at,
            lie: None,
        }));
        self.of_node.push(Vec::new());
        self.side.push(0);
        self.index.insert(id, place);
        if self.ends_silent_links {
            let first = self.at + ASK_EVERY.mul_f64(self.rng.random());
            self.push(first, What::Sweep { node: place });
        }
        place
    }

    pub fn create(&mut self) -> usize {
        let first = self.add();
        self.with(first, |node, now| node.create(now));
        first
    }

    /// Does something at a node, and takes what comes out.
    pub fn with<T>(&mut self, place: usize, act: impl FnOnce(&mut Node, Now) -> T) -> Option<T> {
        let now = self.now();
        let result = act(&mut self.members[place].as_mut()?.node, now);
        self.drain(place);
        Some(result)
    }

    pub fn node(&self, place: usize) -> &Node {
        &self.members[place].as_ref().expect("alive").node
    }

    pub fn id(&self, place: usize) -> Id {
        self.node(place).id()
    }

    pub fn alive(&self) -> Vec<usize> {
        let live = |(place, member): (usize, &Option<Member>)| {
            member.as_ref().filter(|m| !m.left).map(|_| place)
        };
        self.members.iter().enumerate().filter_map(live).collect()
    }

    fn apart(&self, a: usize, b: usize) -> bool {
        self.partitioned && self.side[a] != self.side[b]
    }

    fn random_live(&mut self, not: usize) -> Option<usize> {
        // the first nodes are the stable base: bootstrap peers are taken from them
        let base: Vec<usize> = self
            .alive()
            .into_iter()
            .filter(|p| *p != not)
            .take(64)
            .collect();
        let joined = |p: &usize| self.members[*p].as_ref().is_some_and(|m| m.joined);
        let base: Vec<usize> = base
            .into_iter()
            .filter(|p| joined(p) && !self.apart(*p, not))
            .collect();
        match base.len() {
            0 => None,
            n => Some(base[self.rng.random_range(0..n)]),
        }
    }

    /// Starts joining through a bootstrap peer.
    pub fn join(&mut self, place: usize) {
        let Some(bootstrap) = self.random_live(place) else {
            let later = self.at + Duration::from_secs(5);
            self.push(later, What::Rejoin { node: place });
            return;
        };
        if let Some(link) = self.link(place, bootstrap) {
            // the link must be there at both ends
            let wait = self.at + Duration::from_millis(80);
            self.run_until(wait.min(self.at));
            self.with(place, |node, now| node.join(now, LinkId(link)));
        }
    }

    fn probe(&mut self, place: usize) {
        if let Some(bootstrap) = self.random_live(place) {
            let known = self.of_node[place]
                .iter()
                .copied()
                .find(|link| self.other_end(*link, place) == Some(bootstrap));
            let link = known.or_else(|| self.link(place, bootstrap));
            if let Some(link) = link {
                self.with(place, |node, now| node.probe(now, LinkId(link)));
            }
        }
    }

    fn drain(&mut self, place: usize) {
        loop {
            let Some(member) = self.members[place].as_mut() else {
                return;
            };
            if let Some(transmit) = member.node.poll_transmit() {
                let mut bytes = transmit.bytes;
                if let Some(lie) = member.lie {
                    match lie(member.node.id(), bytes) {
                        Some(told) => bytes = told,
                        None => continue,
                    }
                }
                let link = transmit.link.0;
                let Some(to) = self.other_end(link, place) else {
                    continue;
                };
                let lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
                if !lost && !self.apart(place, to) {
                    let at = self.at + self.latency();
                    self.push(at, What::Message { to, link, bytes });
                }
                continue;
            }
            let Some(event) = member.node.poll_event() else {
                break;
            };
            self.event(place, event);
        }
        let Some(member) = self.members[place].as_mut() else {
            return;
        };
        if let Some(deadline) = member.node.deadline() {
            let deadline = deadline.max(self.at + Duration::from_micros(1));
            if member.timer.is_none_or(|at| at > deadline || at <= self.at) {
                member.timer = Some(deadline);
                self.push(deadline, What::Timer { node: place });
            }
        }
    }

    fn event(&mut self, place: usize, event: Event) {
        match event {
            Event::Joined => {
                if let Some(member) = &mut self.members[place] {
                    member.joined = true;
                }
            }
            Event::Left => {
                if let Some(member) = &mut self.members[place] {
                    member.left = true;
                }
            }
            Event::Alone => {
                let at = self.at + Duration::from_secs(5);
                self.push(at, What::Rejoin { node: place });
            }
            Event::ProbeDue => self.probe(place),
            Event::ConnectWanted { peer } => {
                let body = ConnectBody::sealed(Role::Passive);
                self.with(place, |node, now| node.offer(now, peer, &body));
            }
            Event::ConnectOffered { offer, .. } => {
                let body = ConnectBody::sealed(Role::Active);
                self.with(place, |node, now| {
                    node.answer_connect(now, offer, Some(&body))
                });
            }
            Event::ConnectAnswered { peer, .. } => {
                let other = self.index.get(&peer).copied();
                if other.and_then(|other| self.link(place, other)).is_none() {
                    self.with(place, |node, now| node.connect_failed(now, peer));
                }
            }
            Event::Close(link) => {
                let other = self.other_end(link.0, place);
                self.end_link(place, link.0);
                if let Some(other) = other {
                    let at = self.at + self.latency();
                    self.push(
                        at,
                        What::LinkDown {
                            node: other,
                            link: link.0,
                        },
                    );
                }
            }
            Event::Answered { request, result } => {
                self.answers.insert((place, request), result);
            }
            Event::Tunnel { .. } => {}
        }
    }

    pub fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, _, place))) = self.queue.peek().copied()
            && at <= end
        {
            self.queue.pop();
            self.at = at;
            let what = self.slab[place].take();
            self.free.push(place);
            match what {
                Some(What::Message { to, link, bytes }) => {
                    self.delivered += 1;
                    self.hear(link, to);
                    self.with(to, |node, now| node.handle(now, LinkId(link), &bytes));
                }
                Some(What::Timer { node }) => {
                    let due = self.members[node]
                        .as_ref()
                        .is_some_and(|m| m.timer == Some(at));
                    if due {
                        self.with(node, |node, now| node.handle_timeout(now));
                    }
                }
                Some(What::LinkUp { node, link, peer }) => self.link_up(node, link, peer),
                Some(What::Sweep { node }) => self.sweep(node),
                Some(What::LinkDown { node, link }) => {
                    self.end_link(node, link);
                    self.with(node, |node, now| node.link_down(now, LinkId(link)));
                }
                Some(What::Rejoin { node }) => {
                    let member = self.members[node].as_ref();
                    match member.map(|m| m.joined) {
                        Some(true) => self.probe(node),
                        Some(false) => self.join(node),
                        None => {}
                    }
                }
                None => {}
            }
        }
        self.at = end;
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(self.at + time);
    }

    /// A ring of `count` nodes, joined a few at a time, and then left to settle.
    pub fn ring(seed: u64, count: usize) -> Self {
        Self::ring_with(seed, count, Config::default())
    }

    pub fn ring_with(seed: u64, count: usize, chord: Config) -> Self {
        let mut sim = Self::new(seed);
        sim.chord = chord;
        sim.form(count);
        sim
    }

    /// The first node, and `count - 1` more.
    pub fn form(&mut self, count: usize) {
        self.create();
        self.grow(count - 1);
    }

    pub fn grow(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let size = self.alive().len();
            let batch = (size / 4).clamp(1, 1024).min(left);
            for _ in 0..batch {
                let place = self.add();
                self.join(place);
            }
            left -= batch;
            self.run(Duration::from_secs(8));
        }
        for _ in 0..60 {
            if self.members.iter().flatten().all(|member| member.joined) {
                break;
            }
            self.run(Duration::from_secs(5));
        }
        self.run(Duration::from_secs(30));
    }

    /// Live ids in ring order.
    pub fn ids(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .alive()
            .into_iter()
            .map(|place| self.id(place))
            .collect();
        ids.sort();
        ids
    }

    pub fn owner(&self, key: Id) -> Id {
        let ids = self.ids();
        ids[ids.partition_point(|id| *id < key) % ids.len()]
    }

    pub fn place(&self, id: Id) -> usize {
        self.index[&id]
    }

    /// Nodes whose first neighbours are not the true ones.
    pub fn wrong_neighbours(&self) -> usize {
        let ids = self.ids();
        let wrong = |place: &usize| {
            let id = self.id(*place);
            let at = ids.partition_point(|other| *other < id);
            let next = ids[(at + 1) % ids.len()];
            let last = ids[(at + ids.len() - 1) % ids.len()];
            let (before, after) = self.node(*place).topology().neighbours();
            ids.len() > 1 && (before.first() != Some(&last) || after.first() != Some(&next))
        };
        self.alive().iter().filter(|place| wrong(place)).count()
    }

    /// Which share of the fingers that nodes should have they do have.
    pub fn right_fingers(&self) -> f64 {
        let ids = self.ids();
        let (mut all, mut right) = (0, 0);
        for place in self.alive() {
            let (own, topology) = (self.id(place), self.node(place).topology());
            let (_, after) = topology.neighbours();
            let near = after.last().map_or(0, |last| own.distance_to(*last));
            let has = topology.fingers();
            // beyond the neighbours, at least 8 (RD53)
            let jumps = (1..=127).map(|number| (number, 1u128 << (128 - number)));
            for (_, jump) in jumps.take_while(|(number, jump)| *number <= 8 || *jump > near) {
                let target = own.plus(jump);
                let owner = ids[ids.partition_point(|id| *id < target) % ids.len()];
                all += 1;
                right += usize::from(owner == own || has.contains(&owner));
            }
        }
        right as f64 / all as f64
    }

    /// Asks for random keys from random nodes, with logs. Gives hops of the right answers, and how many were wrong or
    /// missing.
    pub fn lookups(&mut self, count: usize, budget: Duration) -> Lookups {
        let mut asked = Vec::new();
        let (alive, ids) = (self.alive(), self.ids());
        for _ in 0..count {
            let place = alive[self.rng.random_range(0..alive.len())];
            let key = self.random_id();
            let options = RequestOptions { budget, log: true };
            let body = PingRequest::default().infos;
            let sent = self
                .with(place, |node, now| node.ping(now, vec![key], &body, options))
                .expect("alive");
            asked.push((place, key, sent));
            self.run(Duration::from_millis(5));
        }
        self.run(budget + Duration::from_secs(1));
        let mut result = Lookups::default();
        for (place, key, sent) in asked {
            let owner = ids[ids.partition_point(|id| *id < key) % ids.len()];
            let answer = sent
                .ok()
                .and_then(|sent| self.answers.remove(&(place, sent)));
            match answer {
                Some(Ok(Answer {
                    from,
                    body: AnswerBody::Pong(_),
                    log,
                })) => match from.is_peer(owner) {
                    true => result.hops.push(log.len()),
                    false => result.wrong += 1,
                },
                _ => result.lost += 1,
            }
        }
        result.hops.sort_unstable();
        result
    }
}

#[derive(Default, Debug)]
pub struct Lookups {
    pub hops: Vec<usize>,
    pub wrong: usize,
    pub lost: usize,
}

impl Lookups {
    pub fn mean(&self) -> f64 {
        self.hops.iter().sum::<usize>() as f64 / self.hops.len().max(1) as f64
    }
    pub fn p99(&self) -> usize {
        self.hops[(self.hops.len() * 99).div_ceil(100).max(1) - 1]
    }
    pub fn right(&self) -> f64 {
        let all = self.hops.len() + self.wrong + self.lost;
        self.hops.len() as f64 / all as f64
    }
}

//! Many nodes in one process on virtual time; sessions are there at once where both can be reached.
use super::*;
use anode_reload::TypeId;
use anode_reload::body::DataValue;
use anode_reload::usage::anode as record;
use anode_wire::{Endpoint, Zone};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};

const LATENCY: Duration = Duration::from_millis(15);

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
        self.of.insert(dht.own, n);
        self.nodes.push(dht);
        self.drain(n);
        n
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
                    self.order += 1;
                    self.wire
                        .insert((self.at + LATENCY, self.order), (n, other, body));
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

// R54, R88, R113, R128, RD54: the first peer begins, the others come in through it, and all know their neighbours
#[test]
fn a_ring_forms_around_the_first_peer() {
    let net = Net::ring(8);
    let mut ids: Vec<Id> = net.nodes.iter().map(Dht::id).collect();
    ids.sort();
    for node in &net.nodes {
        let status = node.status();
        assert!(status.joined && status.published, "{:?}", status.node);
        let place = ids.iter().position(|id| *id == status.node).unwrap();
        assert_eq!(status.neighbours[0], ids[(place + 1) % 8]);
        assert!(status.fingers > 0 && status.links >= 6);
    }
    let stored: usize = net.nodes.iter().map(|node| node.status().stored).sum();
    // two copies of each record, each in three places at least: joins leave more behind, until they are pruned
    assert!(stored >= 8 * 2 * 3, "{stored}");
}

// RD54: only who is told to begins a ring; the others wait for one
#[test]
fn nobody_begins_a_ring_by_itself() {
    let mut net = Net::new();
    net.add(false, Role::Peer, &[]);
    net.add(false, Role::Peer, &[0]);
    net.run(Duration::from_secs(120));
    assert!(net.nodes.iter().all(|node| !node.status().joined));
    // the first relay has both of them as bootstrap peers: they are there, and in no ring
    net.add(true, Role::Peer, &[0, 1]);
    net.run(Duration::from_secs(15));
    assert!(net.nodes[2].status().joined);
    net.run(Duration::from_secs(60));
    assert!(net.nodes.iter().all(|node| node.status().joined));
}

// RD54, R128: a first peer that starts again comes back into its ring, and does not begin another
#[test]
fn a_first_peer_that_starts_again_joins_what_it_began() {
    let mut net = Net::ring(5);
    let own = net.nodes[0].own;
    net.dead.insert(0);
    net.run(Duration::from_secs(90));
    let others: Vec<usize> = (1..5).collect();
    let again = net.nodes.len();
    let n = net.add(true, Role::Peer, &others);
    assert_eq!(n, again);
    assert_ne!(net.nodes[n].own, own);
    net.run(Duration::from_secs(60));
    let status = net.nodes[n].status();
    assert!(status.joined && status.neighbours.len() >= 4, "{status:?}");
}

// R141, R142: a record is found by its IPv6 from everywhere, and tells where its owner is
#[test]
fn whoever_has_the_ipv6_finds_address_and_places() {
    let mut net = Net::ring(6);
    for (from, to) in [(1, 5), (4, 2), (3, 0)] {
        let found = net.lookup(from, net.ip(to));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, net.nodes[to].own.0);
        let record = found[0].record.clone().unwrap();
        assert_eq!(record.endpoints, [endpoint(to)]);
        assert_eq!(record.peer, net.nodes[to].id());
        assert_eq!(record.flags & record::AnodeRecord::RELAY != 0, to == 0);
    }
    let nobody: Ipv6Addr = "fda0:1:2:3:4:5:6:7780".parse().unwrap();
    assert!(net.lookup(2, nobody).is_empty());
}

// reload.md §3: the overlay's search hands the places on, and both sides are asked to meet (CONNECT 8737)
#[test]
fn a_search_hands_places_on_and_asks_the_other_to_come() {
    let mut net = Net::ring(6);
    net.found.clear();
    net.reached = 0;
    let target = net.ip(4);
    net.with(2, |dht, now| dht.search(now, target));
    net.run(Duration::from_secs(2));
    let to = net.nodes[4].own.0;
    let places = vec![Place::from_endpoint(&endpoint(4)).unwrap()];
    assert!(
        net.found
            .iter()
            .all(|(n, who, at)| (*n, *who, at) == (2, to, &places))
    );
    // by the record, and by its owner's answer
    assert!(net.found.len() >= 2, "{:?}", net.found);
    assert!(net.reached >= 1, "the other side begins, too");
    // remembered: nothing is sent for the next question
    let before = net.nodes[2].counters().searches;
    net.with(2, |dht, now| dht.search(now, target));
    assert_eq!(net.nodes[2].counters().searches, before);
    // Wanted once more a while later: the places were of no use, so they are handed on and asked for anew.
    net.run(Duration::from_secs(10));
    net.found.clear();
    net.with(2, |dht, now| dht.search(now, target));
    assert!(!net.found.is_empty());
    assert_eq!(net.nodes[2].counters().searches, before + 1);
}

// A record changes at once when an endpoint does, and is refreshed before it expires (reload.md §3)
#[test]
fn records_follow_their_owner_and_do_not_expire() {
    let mut net = Net::ring(6);
    let moved = OwnPlaces {
        endpoints: vec![endpoint(200)],
    };
    net.run(Duration::from_secs(20));
    net.with(3, |dht, now| dht.set_places(now, moved));
    net.run(Duration::from_secs(1));
    let target = net.ip(3);
    let record = net.lookup(5, target)[0].record.clone().unwrap();
    assert_eq!(record.endpoints, [endpoint(200)]);
    let before = net.lookup(5, target)[0].storage_time;
    net.run(Duration::from_secs(4000));
    let found = net.lookup(5, target);
    assert!(found[0].storage_time >= before + 2000, "refreshed");
    // ten changes in a second are three STOREs of each copy, and the last is told after ten seconds
    let published = net.nodes[3].counters().published;
    for n in 100..110 {
        let places = OwnPlaces {
            endpoints: vec![endpoint(n)],
        };
        net.with(3, |dht, now| dht.set_places(now, places));
        net.run(Duration::from_millis(100));
    }
    net.run(Duration::from_secs(15));
    assert!(net.nodes[3].counters().published - published <= 8);
    let record = net.lookup(5, target)[0].record.clone().unwrap();
    assert_eq!(record.endpoints, [endpoint(109)]);
}

// R98, R135, R136: a server is stored at places of its Peer-ID, and found from random ones, with whose it is
#[test]
fn a_turn_server_is_found_by_those_who_have_none() {
    let at: SocketAddr = "192.0.2.1:3478".parse().unwrap();
    let mut net = Net::ring_with_turn(6, Some(at));
    net.run(Duration::from_secs(5000));
    let owner = *identity(0).address();
    for n in 1..6 {
        assert_eq!(
            net.turn_found.get(&n),
            Some(&vec![FoundTurn { at, owner }]),
            "{n}"
        );
    }
    assert!(!net.turn_found.contains_key(&0), "its own");
    // Where there is none, none is found.
    let mut net = Net::ring(6);
    net.run(Duration::from_secs(1300));
    assert!(net.turn_found.is_empty());
}

// R121: who leaves takes its record back
#[test]
fn who_leaves_is_not_found_any_more() {
    let mut net = Net::ring(6);
    let target = net.ip(2);
    net.with(2, Dht::leave);
    net.run(Duration::from_secs(2));
    net.dead.insert(2);
    net.run(Duration::from_secs(10));
    let found = net.lookup(4, target);
    assert!(found.iter().all(|one| one.record.is_none()), "{found:?}");
}

// RD73: dead links are noticed after 45 s, the ring closes, and records survive
#[test]
fn sudden_death_is_noticed_and_nothing_is_lost() {
    let mut net = Net::ring(8);
    net.dead.extend([3, 6]);
    net.run(Duration::from_secs(120));
    assert!(net.nodes[0].counters().links_lost >= 1);
    for to in [1, 2, 4] {
        assert_eq!(net.lookup(7, net.ip(to)).len(), 1, "{to}");
    }
}

// R8: a client finds and is found, and stores nothing
#[test]
fn a_client_finds_and_is_found() {
    let mut net = Net::ring(6);
    let client = net.add(false, Role::Client, &[1]);
    net.run(Duration::from_secs(20));
    let status = net.nodes[client].status();
    assert!(!status.joined && status.published, "{status:?}");
    assert_eq!(status.stored, 0);
    assert_eq!(net.lookup(client, net.ip(3)).len(), 1);
    let found = net.lookup(4, net.ip(client));
    let record = found[0].record.clone().unwrap();
    assert_ne!(record.flags & record::AnodeRecord::CLIENT, 0);
    assert_eq!(record.route, [net.nodes[1].id()]);
}

// R8: a client with several ways in names the operator's, and another when that one is gone
#[test]
fn a_clients_record_names_a_way_that_works() {
    let mut net = Net::ring(6);
    let client = net.add(false, Role::Client, &[1, 2]);
    net.run(Duration::from_secs(20));
    let route = |net: &mut Net| {
        let ip = net.ip(client);
        let found = net.lookup(4, ip);
        found[0].record.clone().expect("it is there").route
    };
    assert_eq!(route(&mut net), [net.nodes[1].id()]);
    net.dead.insert(1);
    net.run(Duration::from_secs(60));
    assert_eq!(route(&mut net), [net.nodes[2].id()]);
    assert_eq!(net.lookup(client, net.ip(3)).len(), 1);
}

// RD73: a link that is used and silent is found dead well before one at rest
#[test]
fn a_used_link_that_is_dead_is_noticed_within_seconds() {
    let mut net = Net::ring(3);
    net.dead.insert(2);
    let to = net.nodes[2].id();
    net.with(0, |dht, now| dht.route(now, to, 1));
    let lost = net.nodes[0].counters().links_lost;
    net.run(Duration::from_secs(9));
    assert_eq!(net.nodes[0].counters().links_lost, lost + 1);
}

// R40, R86: what people ask
#[test]
fn people_put_get_find_and_see_the_way() {
    let mut net = Net::ring(8);
    let kind = TypeId(0xF0_0010);
    let resource = Id::of_seed(b"board");
    let (own, digit) = net.nodes[3].own;
    let put = PutValue {
        kind,
        resource,
        value: DataValue::Dictionary {
            key: record::key(&own, digit),
            value: b"hello".to_vec(),
        },
        lifetime: 600,
    };
    net.with(3, |dht, now| dht.put(now, put, 1));
    assert!(matches!(net.answer(3, 1), Answer::Put(Ok(generation)) if generation > 0));
    net.with(7, |dht, now| dht.get(now, kind, resource, 2));
    let Answer::Got(Ok(values)) = net.answer(7, 2) else {
        panic!("values")
    };
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].value, b"hello");
    assert_eq!(
        values[0].owner,
        Some(anode_reload::SignerIdentity::Anode(own))
    );
    net.with(7, |dht, now| dht.find(now, kind, resource, 3));
    let Answer::Nearest(Ok((closest, keeper))) = net.answer(7, 3) else {
        panic!("a place")
    };
    assert_eq!(closest, Some(resource));
    net.with(7, |dht, now| dht.route(now, resource, 4));
    let Answer::Route(Ok((hops, _))) = net.answer(7, 4) else {
        panic!("a route")
    };
    match keeper == Some(net.nodes[7].id()) {
        true => assert!(hops.is_empty()),
        false => assert_eq!(hops.last().map(|hop| hop.node), keeper),
    }
    // an unknown kind, and a place that only another may write
    net.with(7, |dht, now| dht.get(now, TypeId(99), resource, 5));
    assert!(matches!(net.answer(7, 5), Answer::Got(Err(_))));
    let forged = PutValue {
        kind,
        resource,
        value: DataValue::Dictionary {
            key: record::key(&own, digit),
            value: b"lie".to_vec(),
        },
        lifetime: 600,
    };
    net.with(5, |dht, now| dht.put(now, forged, 6));
    let refused = Refusal::Refused(anode_reload::Code::FORBIDDEN);
    assert_eq!(net.answer(5, 6), Answer::Put(Err(refused)));
}

#[test]
fn nobody_is_asked_before_there_is_a_ring() {
    let mut net = Net::new();
    net.add(false, Role::Peer, &[]);
    net.with(0, |dht, now| dht.route(now, Id::of_seed(b"x"), 1));
    assert_eq!(net.answer(0, 1), Answer::Route(Err(Refusal::Out)));
    assert!(net.lookup(0, "fda0::10".parse().unwrap()).is_empty());
}

// S35, RD74: cut and changed frames and messages, from strangers and from ends of links
#[test]
fn garbage_changes_nothing() {
    let mut net = Net::ring(4);
    let hash = net.nodes[1].overlay_hash();
    let stranger = *identity(99).address();
    let friend = net.nodes[2].own;
    let mut bodies = vec![
        vec![],
        vec![1],
        b"RELO".to_vec(),
        vec![9; 6],
        vec![0x52; 1120],
    ];
    for kind in 0..6u8 {
        let mut frame = vec![kind];
        frame.extend_from_slice(&hash.to_be_bytes());
        frame.push(0xff);
        for len in 0..=frame.len() {
            bodies.push(frame[..len].to_vec());
        }
    }
    let links = net.nodes[1].status().links;
    for body in &bodies {
        for from in [(stranger, PeerId::ANY), friend] {
            net.with(1, |dht, now| dht.handle_message(now, from, 0, body));
        }
    }
    net.run(Duration::from_secs(120));
    // CLOSE is believed of the one at the other end only, and what is needed is linked again
    assert!(net.nodes[1].status().links <= links + 1);
    assert!(net.nodes[1].status().joined);
    assert_eq!(net.lookup(1, net.ip(3)).len(), 1);
}

// S35: links have a bound, and who finds no room is told
#[test]
fn links_are_bounded() {
    let mut net = Net::ring(2);
    let hash = net.nodes[0].overlay_hash();
    let ask = Frame::Ask { member: false }.emit(hash);
    for n in 100..1200 {
        let from = (*identity(n).address(), PeerId::ANY);
        net.with(0, |dht, now| dht.handle_message(now, from, 0, &ask));
    }
    assert_eq!(net.nodes[0].status().links, 1024);
    assert!(net.nodes[0].counters().links_refused >= 70);
    net.run(Duration::from_secs(60));
    assert_eq!(net.nodes[0].status().links, 1, "silent ones are gone");
}

/// What a node has heard in its conversations, without who began them.
fn units(net: &Net, n: usize) -> Vec<&[u8]> {
    let of = net.heard.iter().filter(|(node, ..)| *node == n);
    of.filter_map(|(_, _, heard)| match heard {
        Heard::Unit(unit) => Some(unit.as_slice()),
        _ => None,
    })
    .collect()
}

// R61 to R63, R133, R134: a short conversation is tunnelled, a long one has a connection, and answers find their way
#[test]
fn an_application_is_tunnelled_and_then_connected() {
    let mut net = Net::new();
    net.served.push((3, 5060));
    net.add(true, Role::Peer, &[]);
    for _ in 1..5 {
        net.add(false, Role::Peer, &[0]);
        net.run(Duration::from_secs(3));
    }
    net.run(Duration::from_secs(20));
    let callee = Callee::Route(vec![net.nodes[3].id()]);
    let now = net.now();
    let call = net.nodes[1].open(now, 5060, &callee).unwrap();
    assert_eq!(net.nodes[1].open(now, 5060, &callee), Some(call));
    let mut answered = None;
    for n in 0..12u8 {
        let now = net.now();
        net.nodes[1].say(now, call, vec![n; 10]);
        net.drain(1);
        net.run(Duration::from_millis(500));
        let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 3).unwrap();
        answered = Some(*theirs);
        let (now, theirs) = (net.now(), *theirs);
        net.nodes[3].say(now, theirs, vec![100 + n; 10]);
        net.drain(3);
        net.run(Duration::from_millis(500));
    }
    assert!(matches!(
        net.heard[0],
        (3, _, Heard::Begun { application: 5060, peer }) if peer == net.nodes[1].id()
    ));
    let said: Vec<Vec<u8>> = (0..12).map(|n| vec![n; 10]).collect();
    assert_eq!(units(&net, 3), said);
    assert_eq!(units(&net, 1).len(), 12);
    for node in [1, 3] {
        let counters = net.nodes[node].application_counters();
        assert!(
            counters.tunnelled >= 4 && counters.connected >= 10,
            "{counters:?}"
        );
        assert_eq!(counters.lost, 0);
    }
    // What is too long for a session goes in a tunnel, whole.
    let before = net.nodes[1].application_counters().tunnelled;
    let now = net.now();
    net.nodes[1].say(now, call, vec![7; 30_000]);
    net.drain(1);
    net.run(Duration::from_secs(2));
    assert_eq!(units(&net, 3).last(), Some(&&[7; 30_000][..]));
    assert_eq!(net.nodes[1].application_counters().tunnelled, before + 1);
    // Nobody says anything: both forget it.
    net.run(Duration::from_secs(200));
    let over = (1, call, Heard::Over(Ended::Idle));
    assert!(net.heard.contains(&over));
    let over = (3, answered.unwrap(), Heard::Over(Ended::Idle));
    assert!(net.heard.contains(&over));
}

// RD34: who does not serve an application says so; R8: a client is answered by way of its access
#[test]
fn an_application_that_nobody_serves_is_refused_and_clients_are_answered() {
    let mut net = Net::new();
    net.served.push((2, 9));
    for n in 0..4 {
        let bootstrap: &[usize] = if n == 0 { &[] } else { &[0] };
        net.add(n == 0, Role::Peer, bootstrap);
        net.run(Duration::from_secs(3));
    }
    let client = net.add(false, Role::Client, &[1]);
    net.run(Duration::from_secs(20));
    let to = |n: usize, net: &Net| Callee::Route(vec![net.nodes[n].id()]);
    let (served, other) = (to(2, &net), to(3, &net));
    let now = net.now();
    let good = net.nodes[client].open(now, 9, &served).unwrap();
    let bad = net.nodes[client].open(now, 9, &other).unwrap();
    net.nodes[client].say(now, good, b"there?".to_vec());
    net.nodes[client].say(now, bad, b"there?".to_vec());
    net.drain(client);
    net.run(Duration::from_secs(3));
    assert!(
        net.heard
            .contains(&(client, bad, Heard::Over(Ended::NotServed)))
    );
    assert_eq!(units(&net, 2), [b"there?"]);
    let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 2).unwrap();
    let theirs = *theirs;
    let now = net.now();
    net.nodes[2].say(now, theirs, b"here".to_vec());
    net.drain(2);
    net.run(Duration::from_secs(3));
    assert_eq!(units(&net, client), [b"here"]);
}

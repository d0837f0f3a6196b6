//! Rings of many nodes on virtual time.
mod sim;

use sim::Sim;
use std::collections::BTreeSet;
use std::time::Duration;

// R3, R53, R110, R113, R117, RD47, RD49, RD50
#[test]
fn rings_form_and_every_lookup_is_right() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5), (4, 16), (5, 64)] {
        let mut sim = Sim::ring(seed, count);
        assert!(sim.members.iter().flatten().all(|m| m.joined), "{count}");
        assert_eq!(sim.wrong_neighbours(), 0, "{count} nodes");
        let lookups = sim.lookups(200, Duration::from_secs(5));
        assert_eq!((lookups.wrong, lookups.lost), (0, 0), "{count} nodes");
    }
}

// R113, RD47: nobody waits for timers of others while everybody answers
#[test]
fn nodes_that_come_together_are_soon_a_ring() {
    for (seed, count) in [(21, 1), (22, 2), (23, 3), (24, 7), (25, 31)] {
        let mut sim = Sim::new(seed);
        sim.create();
        for _ in 0..count {
            let place = sim.add();
            sim.join(place);
        }
        let begun = sim.at;
        let all_in = |sim: &Sim| sim.members.iter().flatten().all(|m| m.joined);
        while !all_in(&sim) || sim.wrong_neighbours() > 0 {
            sim.run(Duration::from_millis(50));
            let spent = sim.at - begun;
            assert!(spent < Duration::from_secs(120), "{count} nodes");
        }
        let spent = sim.at - begun;
        println!("{count} beside the first: a ring after {spent:?}");
        let most = Duration::from_millis(2000 + 150 * count);
        assert!(spent <= most, "{count} beside the first: {spent:?}");
    }
}

use anode_reload::body::{
    Fetch, FetchResponse, FindRequest, Reference, References, Remove, StoreRequest, StoreType,
    TunnelRequest,
};
use anode_reload::chord::Config;
use anode_reload::node::{Answer, AnswerBody, RequestOptions};
use anode_reload::storage::everything;
use anode_reload::{DataModel, DataValue, Id, ReloadError, StoredData, TypeId};
use rand::RngExt;

const KIND: TypeId = TypeId::TURN_SERVICE;

fn value(sim: &Sim, n: u32) -> StoredData {
    StoredData {
        storage_time: sim.now().unix as u32,
        lifetime: 20_000,
        value: DataValue::Single(n.to_be_bytes().to_vec()),
        signature: None,
    }
}

fn put(sim: &mut Sim, from: usize, resource: Id, n: u32) -> bool {
    let request = StoreRequest {
        resource,
        types: vec![StoreType {
            kind: KIND,
            generation: 0,
            values: vec![value(sim, n)],
        }],
    };
    let options = RequestOptions::default();
    let sent = sim
        .with(from, |node, now| {
            node.ask(now, &request, options).expect("room")
        })
        .expect("a live node with room");
    for _ in 0..70 {
        sim.run(Duration::from_millis(500));
        if let Some(answer) = sim.answers.remove(&(from, sent)) {
            return answer.is_ok();
        }
    }
    false
}

/// Fetches all resources at once; gives how many were found with the right value.
fn found(sim: &mut Sim, resources: &[(Id, u32)]) -> usize {
    let mut asked = Vec::new();
    let alive = sim.alive();
    for (n, (resource, number)) in resources.iter().enumerate() {
        let from = alive[n % alive.len()];
        let request = everything(*resource, KIND, DataModel::Single);
        let options = RequestOptions::default();
        let sent = sim.with(from, |node, now| {
            node.ask(now, &Fetch(&request), options)
                .expect("a live node with room")
        });
        asked.push((from, sent.expect("a live node with room"), *number));
    }
    sim.run(Duration::from_secs(33));
    let right = |(from, sent, number): &(usize, _, u32)| match sim.answers.get(&(*from, *sent)) {
        Some(Ok(Answer {
            body: AnswerBody::Values { found, .. },
            ..
        })) => found[0]
            .values
            .iter()
            .any(|data| data.value.bytes() == number.to_be_bytes()),
        _ => false,
    };
    asked.iter().filter(|it| right(it)).count()
}

fn fill(sim: &mut Sim, count: u32) -> Vec<(Id, u32)> {
    let alive = sim.alive();
    (0..count)
        .map(|n| {
            let resource = sim.random_id();
            let from = alive[n as usize % alive.len()];
            assert!(put(sim, from, resource, n));
            (resource, n)
        })
        .collect()
}

// R108, R112, R118, RD45, RD73: nothing is lost while fewer than all replicas fail at once
#[test]
fn stored_values_survive_the_sudden_death_of_two_of_three() {
    let mut sim = Sim::ring(21, 48);
    let stored = fill(&mut sim, 60);
    for round in 0..3 {
        // of every four neighbours in the ring, two die
        let ids = sim.ids();
        let doomed: Vec<Id> = ids
            .chunks_exact(6)
            .flat_map(|six| [six[1], six[2]])
            .collect();
        for id in doomed {
            let place = sim.place(id);
            sim.kill(place);
        }
        sim.run(Duration::from_secs(180));
        assert_eq!(sim.wrong_neighbours(), 0, "round {round}");
        assert_eq!(found(&mut sim, &stored), stored.len(), "round {round}");
    }
}

// R112: an answered STORE survives the storing peer
#[test]
fn an_answered_store_survives_the_peer_that_answered() {
    let mut sim = Sim::ring(22, 24);
    for n in 0..6 {
        let resource = sim.random_id();
        let owner = sim.owner(resource);
        let owner = sim.place(owner);
        let from = *sim.alive().iter().find(|place| **place != owner).unwrap();
        assert!(put(&mut sim, from, resource, n));
        sim.kill(owner);
        sim.run(Duration::from_secs(120));
        assert_eq!(found(&mut sim, &[(resource, n)]), 1);
    }
    let alone: u64 = sim
        .members
        .iter()
        .flatten()
        .map(|m| m.node.counters().stored_alone)
        .sum();
    assert_eq!(alone, 0);
}

// R90, R91, R121, RD48
#[test]
fn leavers_hand_over_and_the_ring_closes_at_once() {
    let mut sim = Sim::ring(23, 32);
    let stored = fill(&mut sim, 40);
    for _ in 0..20 {
        let alive = sim.alive();
        let place = alive[sim.rng.random_range(0..alive.len())];
        sim.with(place, |node, now| node.leave(now));
        sim.run(Duration::from_secs(4));
        sim.kill(place);
        sim.run(Duration::from_secs(4));
    }
    assert_eq!(sim.alive().len(), 12);
    assert_eq!(sim.wrong_neighbours(), 0);
    assert_eq!(found(&mut sim, &stored), stored.len());
}

// R11, R118, RD55: two halves live on and merge, as if all had been stored in the order of storage times
#[test]
fn a_partition_heals_and_both_halves_keep_their_values() {
    let mut sim = Sim::ring(24, 24);
    let before = fill(&mut sim, 12);
    for place in sim.alive() {
        sim.side[place] = (place % 2) as u8;
    }
    sim.partition();
    sim.run(Duration::from_secs(240));
    let mut all = before.clone();
    for n in 100..112 {
        let resource = sim.random_id();
        let from = sim.alive()[n as usize % 24];
        assert!(put(&mut sim, from, resource, n));
        all.push((resource, n));
    }
    sim.partitioned = false;
    sim.run(Duration::from_secs(1500));
    assert_eq!(sim.wrong_neighbours(), 0);
    assert_eq!(found(&mut sim, &all), all.len());
}

// R53, R54, RD28: loss, and no request is served twice
#[test]
fn lookups_and_stores_get_through_heavy_loss() {
    let mut sim = Sim::ring(25, 64);
    sim.loss = 0.1;
    let lookups = sim.lookups(300, Duration::from_secs(32));
    assert_eq!(lookups.wrong, 0);
    assert!(lookups.right() > 0.99, "{}", lookups.right());
    let resource = sim.random_id();
    assert!(put(&mut sim, 1, resource, 7));
    assert_eq!(found(&mut sim, &[(resource, 7)]), 1);
}

// R116, RD73, reload.md §4.3: right after 20 % died, and after the repair
#[test]
fn lookups_are_right_while_the_ring_repairs_itself() {
    let mut sim = Sim::ring(26, 200);
    let alive = sim.alive();
    for place in alive {
        if sim.rng.random_bool(0.2) {
            sim.kill(place);
        }
    }
    // Until keep-alives fail, a fifth of all keys has a dead owner. The others are reached on other ways.
    let during = sim.lookups(300, Duration::from_secs(16));
    assert_eq!(during.wrong, 0);
    assert!(during.right() >= 0.78, "{}", during.right());
    sim.run(Duration::from_secs(180));
    let after = sim.lookups(300, Duration::from_secs(5));
    assert_eq!((after.wrong, after.lost), (0, 0), "after the repair");
    assert_eq!(sim.wrong_neighbours(), 0);
}

// R8, R66, RD66: a client stores and is reached, and is nobody's neighbour
#[test]
fn clients_take_part_without_being_part() {
    let mut sim = Sim::ring(27, 16);
    let id = sim.random_id();
    let config = Config {
        is_client: true,
        ..Config::default()
    };
    let client = sim.add_with(Box::new(anode_reload::SharedKey::new(id)), config, |_| {});
    sim.join(client);
    sim.run(Duration::from_secs(5));
    let resource = sim.random_id();
    assert!(put(&mut sim, client, resource, 9));
    assert_eq!(found(&mut sim, &[(resource, 9)]), 1);
    assert_eq!(sim.node(client).storage().values(), 0);
    let (_, access) = sim.node(client).links().next().unwrap();
    // R26: through its access point, along a source route
    let far = *sim
        .alive()
        .iter()
        .find(|place| sim.id(**place) != access)
        .unwrap();
    let tunnel = TunnelRequest {
        application: 8737,
        dialog: "d".into(),
        pdu: vec![1; 3000],
    };
    let route = vec![access, id];
    let options = RequestOptions {
        budget: Duration::from_secs(9),
        log: true,
    };
    let sent = sim
        .with(far, |node, now| {
            node.tunnel(now, route, None, &tunnel, options).unwrap()
        })
        .unwrap();
    sim.run(Duration::from_secs(10));
    let answer = sim.answers.remove(&(far, sent)).unwrap().unwrap();
    assert!(
        answer.from.is_peer(id),
        "R36, R38: in fragments, to the client"
    );
    // R40, R41: the log names every hop once, the client's access point last, and not the way back
    let hops: Vec<Id> = answer.log.iter().map(|entry| entry.id).collect();
    assert_eq!(
        (hops.first(), hops.last()),
        (Some(&sim.id(far)), Some(&access))
    );
    let distinct: BTreeSet<&Id> = hops.iter().collect();
    assert!(
        distinct.len() == hops.len() && !hops.contains(&id),
        "{hops:?}"
    );
    let (before, after) = sim.node(sim.place(access)).topology().neighbours();
    assert!(!before.contains(&id) && !after.contains(&id));
}

// R109, R120: most nodes came when the ring was smaller, and asked for their fingers then
#[test]
fn fingers_follow_a_ring_that_grows() {
    let mut sim = Sim::ring(33, 200);
    sim.run(Duration::from_secs(30));
    let right = sim.right_fingers();
    println!("{right:.3} of all fingers are the right ones");
    assert!(right >= 0.8, "{right}");
}

// R86, R87, R136: walking all servers by FIND
#[test]
fn find_walks_the_whole_ring() {
    let mut sim = Sim::ring(28, 12);
    let mut stored = fill(&mut sim, 8);
    stored.sort();
    let mut seen = Vec::new();
    let mut key = Id::from_number(1);
    for _ in 0..200 {
        let request = FindRequest {
            resource: key,
            kinds: vec![KIND, TypeId::CERTIFICATE, TypeId(99)],
        };
        let options = RequestOptions::default();
        let sent = sim
            .with(3, |node, now| node.ask(now, &request, options).unwrap())
            .unwrap();
        sim.run(Duration::from_secs(2));
        let answer = sim.answers.remove(&(3, sent)).unwrap().unwrap();
        let AnswerBody::Found(found) = answer.body else {
            panic!("an answer to FIND")
        };
        // CERTIFICATE may not be walked; an unknown type has nothing
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].closest, Id::ZERO);
        let next = match found[0].closest {
            Id::ZERO => answer.from.peers()[0].plus(1),
            resource => resource.plus(1),
        };
        // the range of the first peer begins behind the last one, and goes on where the walk began
        if next.number() < key.number() {
            break;
        }
        if found[0].closest != Id::ZERO {
            seen.push(found[0].closest);
        }
        key = next;
    }
    let expected: Vec<Id> = stored.iter().map(|(resource, _)| *resource).collect();
    assert_eq!(seen, expected);
}

// R81, R83, RD45: REMOVE reaches the replicas, and what is removed stays so when its peer dies
#[test]
fn a_removed_value_does_not_come_back() {
    let mut sim = Sim::ring(29, 16);
    let resource = sim.random_id();
    assert!(put(&mut sim, 2, resource, 5));
    sim.run(Duration::from_secs(5));
    let request = References {
        resource,
        types: vec![anode_reload::body::FetchType {
            kind: KIND,
            generation: 0,
            reference: Reference::Single,
        }],
    };
    let options = RequestOptions::default();
    let sent = sim
        .with(3, |node, now| {
            node.ask(now, &Remove(&request), options).unwrap()
        })
        .unwrap();
    sim.run(Duration::from_secs(5));
    assert!(sim.answers.remove(&(3, sent)).unwrap().is_ok());
    for _ in 0..2 {
        assert_eq!(found(&mut sim, &[(resource, 5)]), 0);
        let owner = sim.owner(resource);
        let owner = sim.place(owner);
        sim.kill(owner);
        sim.run(Duration::from_secs(120));
    }
}

fn corrupt(_own: Id, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    // something after the header, so that it gets as far as it can
    if let Some(byte) = bytes.get_mut(90) {
        *byte ^= 0x40;
    }
    Some(bytes)
}

// R47, R76, S35: with signatures, a peer that changes what it passes on is not believed, and its victims recover
#[test]
fn liars_on_the_way_are_not_believed() {
    use anode_reload::security::Policy;
    use anode_reload::{Credentials, Security};
    use anode_wire::{PeerId, Zone};
    let mut sim = Sim::new(30);
    let policy = Policy {
        overlay: sim::OVERLAY.into(),
        self_signed: true,
        zone: Zone(1),
        ..Policy::default()
    };
    let mut keys = Vec::new();
    for n in 1..=10u8 {
        let made = Credentials::self_made(&[n; 32], PeerId::ANY, policy.clone()).unwrap();
        let place = sim.add_with(Box::new(made), Config::default(), |_| {});
        keys.push(Credentials::self_made(&[n; 32], PeerId::ANY, policy.clone()).unwrap());
        match n {
            1 => {
                sim.with(place, |node, now| node.create(now));
            }
            _ => sim.join(place),
        }
        sim.run(Duration::from_secs(12));
    }
    assert!(sim.members.iter().flatten().all(|m| m.joined));
    assert_eq!(sim.wrong_neighbours(), 0);
    // everybody publishes where it is
    use anode_reload::usage::anode;
    let ip = |key: &Credentials| key.address().ipv6(PeerId::ANY);
    for (place, key) in keys.iter().enumerate() {
        for copy in 0..anode::COPIES {
            let resource = anode::resource(ip(key), copy);
            let mut data = StoredData {
                storage_time: sim.now().unix as u32,
                lifetime: anode::LIFETIME,
                value: DataValue::Dictionary {
                    key: anode::key(key.address(), PeerId::ANY),
                    value: anode::AnodeRecord {
                        peer: key.peer_id(),
                        ..Default::default()
                    }
                    .emit()
                    .unwrap(),
                },
                signature: None,
            };
            let identity = key.identity(true);
            let input = data
                .signature_input(resource, TypeId::ANODE_RECORD, &identity)
                .unwrap();
            data.signature = Some(key.sign_as_address(&input));
            let kind = TypeId::ANODE_RECORD;
            let request = StoreRequest {
                resource,
                types: vec![StoreType {
                    kind,
                    generation: 0,
                    values: vec![data],
                }],
            };
            let options = RequestOptions::default();
            sim.with(place, |node, now| node.ask(now, &request, options).unwrap());
        }
        sim.run(Duration::from_secs(2));
    }
    sim.answers.clear();
    for liar in [4, 7] {
        sim.members[liar].as_mut().unwrap().lie = Some(corrupt);
    }
    let (mut complete, mut asked) = (0, 0);
    for place in [0, 1, 2, 3] {
        for key in &keys {
            let requests: Vec<_> = anode::resources(ip(key))
                .into_iter()
                .map(|resource| {
                    let request = everything(resource, TypeId::ANODE_RECORD, DataModel::Dictionary);
                    let options = RequestOptions {
                        budget: Duration::from_secs(5),
                        log: false,
                    };
                    sim.with(place, |node, now| {
                        node.ask(now, &Fetch(&request), options).unwrap()
                    })
                    .unwrap()
                })
                .collect();
            sim.run(Duration::from_secs(6));
            let values: Vec<StoredData> = requests
                .iter()
                .filter_map(|sent| sim.answers.remove(&(place, *sent))?.ok())
                .flat_map(|answer| match answer.body {
                    AnswerBody::Values { found, .. } => found,
                    _ => Vec::<FetchResponse>::new(),
                })
                .flat_map(|response| response.values)
                .collect();
            let records = anode::newest(&values);
            asked += 1;
            complete += usize::from(!records.is_empty());
            for record in records {
                assert_eq!(record.address, *key.address());
                assert_eq!(record.record.unwrap().peer, key.peer_id());
            }
        }
    }
    // a fifth of the ring lies; two copies are asked for
    assert!(complete * 10 >= asked * 7, "{complete} of {asked}");
    let unverified: u64 = sim
        .members
        .iter()
        .flatten()
        .map(|m| m.node.counters().unverified + m.node.counters().malformed)
        .sum();
    assert!(unverified > 0);
}

// R89, R113: a storing node restarts empty and its neighbours give it back what is its own
#[test]
fn a_restarted_node_recovers_from_its_neighbours() {
    let mut sim = Sim::ring(31, 16);
    let stored = fill(&mut sim, 40);
    let victim = 5;
    let id = sim.id(victim);
    let had = sim.node(victim).storage().values();
    assert!(had > 0);
    sim.kill(victim);
    sim.run(Duration::from_secs(90));
    let again = sim.add_with(
        Box::new(anode_reload::SharedKey::new(id)),
        Config::default(),
        |_| {},
    );
    sim.join(again);
    sim.run(Duration::from_secs(60));
    let (after, upto) = sim.node(again).topology().range().unwrap();
    let own = stored
        .iter()
        .filter(|(resource, _)| resource.in_range(after, upto))
        .count();
    assert!(sim.node(again).storage().values() >= own);
    assert_eq!(found(&mut sim, &stored), stored.len());
}

// RD15: a peer that is gone is not taken for the one who has its place
#[test]
fn a_message_to_a_vanished_peer_is_answered_by_nobody_in_its_name() {
    let mut sim = Sim::ring(32, 8);
    let gone = sim.random_id();
    let body = anode_reload::body::ConnectBody::sealed(anode_reload::body::Role::Passive);
    let options = RequestOptions {
        budget: Duration::from_secs(5),
        log: false,
    };
    let sent = sim
        .with(2, |node, now| {
            node.connect(now, vec![gone], &body, options).unwrap()
        })
        .unwrap();
    sim.run(Duration::from_secs(6));
    let answer = sim.answers.remove(&(2, sent)).unwrap();
    assert_eq!(answer, Err(ReloadError::Elsewhere));
}

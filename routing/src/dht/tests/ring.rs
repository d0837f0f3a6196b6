//! The ring of sealed sessions: how it forms, what people ask of it, what dies, and what strangers send.
use super::*;
use std::cell::Cell;
use std::rc::Rc;

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

/// Five nodes that know each other, and the time until all are neighbours.
fn five() -> Net {
    let mut net = Net::new();
    for n in 0..5 {
        net.add(n == 0, Role::Peer, &[0, 1, 2, 3, 4]);
        net.run(Duration::from_secs(3));
    }
    net.run(Duration::from_secs(60));
    net
}

fn until_all_are_neighbours(net: &mut Net) -> Duration {
    let begin = net.at;
    while net
        .nodes
        .iter()
        .any(|node| node.status().neighbours.len() < 4)
    {
        net.run(Duration::from_millis(100));
        assert!(net.at < begin + Duration::from_secs(900), "never");
    }
    net.at - begin
}

// R116, RD55: whoever is alone of a ring is soon part of it again, however long that was
#[test]
fn the_last_of_a_ring_is_soon_back() {
    for minutes in [0.5, 1.0, 2.0, 5.0, 20.0] {
        let gone = Duration::from_secs_f64(60.0 * minutes);
        let mut net = five();
        let asked = Rc::new(Cell::new(0u32));
        let counted = Rc::clone(&asked);
        net.loses = Some(Box::new(move |from, to, _| {
            counted.set(counted.get() + u32::from(from == 2));
            (from == 2) != (to == 2)
        }));
        net.run(gone);
        assert_eq!(net.nodes[2].status().neighbours.len(), 0);
        asked.set(0);
        net.run(Duration::from_secs(60));
        let asked = asked.get();
        net.loses = None;
        let parted = until_all_are_neighbours(&mut net);
        let mut net = five();
        net.dead.extend([0, 1, 3, 4]);
        net.run(gone);
        for n in [0, 1, 3, 4] {
            net.restart(n, n == 0, &[0]);
        }
        let restarted = until_all_are_neighbours(&mut net);
        println!(
            "{gone:?}, {asked} frames a minute: parted {parted:?}, others started again {restarted:?}"
        );
        assert!(parted.max(restarted) <= Duration::from_secs(11));
        assert!(asked <= 5 * 3 * 12, "{asked}");
    }
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

//! Records of nodes and TURN servers: found, followed, refreshed, taken back.
use super::*;

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
    // The ring was there before the server's pointers were, and its tables change: not every look finds it.
    net.run(Duration::from_secs(120));
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

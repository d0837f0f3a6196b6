//! Finding peers, first contact, paths and their timers.
use super::*;

#[test]
fn a_configured_peer_answers_a_ping_within_two_round_trips() {
    // A2, A51, A52, A53
    let mut sim = Sim::draft_pair(1);
    let first = sim.ping(0, ipv6(2)).unwrap();
    assert_eq!(first, ms(40), "EPC_REQ, EPC, PING, PONG at 10 ms each");
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
    assert_eq!(sim.used(0, 2), Some("udp://192.0.2.2:8737".into()));
    assert_eq!(
        sim.used(1, 1),
        Some("udp://192.0.2.1:8737".into()),
        "the other side has proven its way back"
    );
    assert_eq!(sim.peer(0, 2).paths[0].kind, PathKind::Direct);
}

#[test]
fn two_machines_on_a_lan_need_no_configuration() {
    // A55, D23
    let mut sim = Sim::new(2);
    sim.lan_host_with(1, DRAFT);
    sim.run(secs(10));
    // The late comer knows the early one by the answer to its first beacon, not by the 30 s rhythm.
    sim.lan_host_with(2, DRAFT);
    sim.run(ms(200));
    for index in 0..2 {
        assert_eq!(sim.hosts[index].node.peers().len(), 1, "host {index}");
        assert_eq!(
            sim.counters(index).paths_proven,
            0,
            "nobody asks before traffic wants the peer"
        );
    }
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(40));
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
    assert_eq!(sim.peer(0, 2).sources, ["lan"]);
}

#[test]
fn a_neighbour_that_starts_again_knows_everybody_within_a_quarter_of_a_second() {
    // D23: whenever it does, in the slow rhythm of its beacons, and though it was heard of before.
    for wait in [ms(1300), secs(7), secs(24), secs(29), secs(35), secs(61)] {
        let mut sim = Sim::new(5);
        sim.lan_host_with(1, DRAFT);
        sim.lan_host_with(2, DRAFT);
        sim.run(wait + secs(5));
        let config = NodeConfig {
            security: DRAFT,
            ..NodeConfig::default()
        };
        sim.restart(0, 1, config);
        let (now, interface) = (sim.now, lan_interface(home(1)));
        sim.hosts[0].node.set_interfaces(now, vec![interface]);
        sim.run(ms(300));
        assert_eq!(
            sim.hosts[0].node.peers().len(),
            1,
            "after {wait:?} it knows the other"
        );
        // The rhythm itself makes nobody answer.
        sim.run(secs(10));
        let told = |sim: &Sim| sim.counters(1).tx_beacons;
        let before = told(&sim);
        sim.run(secs(300));
        let slow = told(&sim) - before;
        assert!((9..=12).contains(&slow), "{slow} beacons in 300 s");
    }
}

#[test]
fn failures_come_once_and_in_time() {
    // S23
    let mut sim = Sim::new(4);
    sim.host(1, draft_knows(&[2]));
    let nobody = ipv6(77);
    let begin = sim.now;
    assert_eq!(sim.ping(0, nobody), Err(Failure::NoSuchPeer));
    assert_eq!(sim.now - begin, secs(3));
    assert_eq!(
        sim.ping(0, nobody),
        Err(Failure::NoSuchPeer),
        "remembered for a moment"
    );
    assert_eq!(sim.now - begin, secs(3));
    sim.run(secs(3));
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    assert_eq!(sim.now - begin, secs(5));
    assert_eq!(
        sim.hosts[0].sent.0, 6,
        "EPC_REQs at 0, 0.25, 0.5, 1, 2 and 3 s"
    );
    sim.run(secs(60));
    assert_eq!(sim.hosts[0].sent.0, 6, "and then silence");
    assert_eq!(sim.hosts[0].node.deadline(), None);
}

#[test]
fn everything_that_waits_is_told() {
    let mut sim = Sim::new(5);
    sim.host(1, draft_knows(&[2]));
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    node.ping(now, ipv6(2), 1, b"x").unwrap();
    node.ping(now, ipv6(2), 2, b"x").unwrap();
    node.send_datagram(now, 1, ipv6(2), 2, b"x").unwrap();
    node.send_datagram(now, 1, ipv6(2), 2, b"y").unwrap();
    let stream = node.open(now, 5, ipv6(2), 80).unwrap();
    sim.run(secs(6));
    let events: Vec<_> = sim.hosts[0]
        .program
        .events
        .iter()
        .map(|(_, event)| event.clone())
        .collect();
    let failure = Failure::Unreachable;
    assert_eq!(
        events,
        [
            OverlayEvent::PingFailed { token: 1, failure },
            OverlayEvent::PingFailed { token: 2, failure },
            OverlayEvent::Undeliverable {
                to: ipv6(2),
                failure
            },
            OverlayEvent::StreamFailed { stream, failure },
        ]
    );
    assert_eq!(sim.hosts[0].node.stream_count(), 0);
}

#[test]
fn a_peer_that_comes_up_late_is_found_while_we_still_ask() {
    let mut sim = Sim::draft_pair(6);
    sim.hosts[1].up = false;
    let now = sim.now;
    sim.hosts[0].node.ping(now, ipv6(2), 9, b"x").unwrap();
    sim.run(ms(1500));
    sim.hosts[1].up = true;
    sim.until(secs(2), "the pong", |sim| {
        sim.has_event(0, |event| {
            matches!(event, OverlayEvent::Pong { token: 9, .. })
        })
    });
}

#[test]
fn a_dead_peer_is_noticed_while_traffic_flows() {
    // D24
    let mut sim = Sim::draft_pair(7);
    sim.ping(0, ipv6(2)).unwrap();
    sim.hosts[1].up = false;
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    let took = sim.now - begin;
    assert!(
        took > secs(5) && took < secs(7),
        "{took:?}: three missed checks, then five seconds of asking"
    );
    assert_eq!(sim.counters(0).paths_lost, 1);
}

#[test]
fn an_idle_node_is_silent_and_sleeps() {
    // D24, U17: re-checks only in use
    let mut sim = Sim::draft_pair(8);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(120));
    let before = (sim.hosts[0].sent, sim.hosts[1].sent);
    sim.run(secs(3600));
    assert_eq!((sim.hosts[0].sent, sim.hosts[1].sent), before);
    assert_eq!(
        (sim.hosts[0].node.deadline(), sim.hosts[1].node.deadline()),
        (None, None)
    );
    assert_eq!(
        sim.ping(0, ipv6(2)).unwrap(),
        ms(20),
        "the path is still there"
    );
}

#[test]
fn paths_in_use_are_checked_every_25_seconds() {
    // D24
    let mut sim = Sim::draft_pair(9);
    sim.ping(0, ipv6(2)).unwrap();
    sim.record = Some(Vec::new());
    for _ in 0..100 {
        let now = sim.now;
        sim.hosts[0]
            .node
            .send_datagram(now, 1, ipv6(2), 2, b"one way")
            .unwrap();
        sim.run(secs(1));
    }
    assert_eq!(
        recorded(&sim, home(1), kind::EPC_REQ).len(),
        3,
        "each 25 s after the last answer"
    );
}

#[test]
fn lookups_and_pins_are_plain_data() {
    let mut sim = Sim::draft_pair(10);
    let now = sim.now;
    assert_eq!(sim.hosts[0].node.lookup(now, ipv6(9)), Lookup::Searching);
    sim.run(secs(4));
    let now = sim.now;
    assert_eq!(
        sim.hosts[0].node.lookup(now, ipv6(9)),
        Lookup::Failed(Failure::NoSuchPeer)
    );
    sim.ping(1, ipv6(1)).unwrap_err();
    sim.ping(0, ipv6(2)).unwrap();
    let now = sim.now;
    let Lookup::Found(peer) = sim.hosts[0].node.lookup(now, ipv6(2)) else {
        panic!("not found")
    };
    assert_eq!((peer.address, peer.sources), (address(2), vec!["config"]));
    let pins = sim.hosts[1].node.export_pins();
    assert_eq!(
        pins,
        [Pin {
            address: address(1),
            endpoints: vec![home(1).into()]
        }]
    );
    sim.restart(1, 2, draft());
    let now = sim.now;
    sim.hosts[1].node.import_pins(now, &pins);
    assert_eq!(
        sim.ping(1, ipv6(1)).unwrap(),
        ms(40),
        "no configuration, only the pin"
    );
}

#[test]
fn a_removed_peer_is_forgotten_with_its_streams() {
    let mut sim = Sim::draft_pair(11);
    let now = sim.now;
    let stream = sim.hosts[0].node.open(now, 5, ipv6(2), 80).unwrap();
    sim.run(secs(1));
    let now = sim.now;
    assert!(sim.hosts[0].node.remove_peer(now, &address(2)));
    sim.pump();
    assert!(sim.has_event(0, |event| *event
        == OverlayEvent::StreamFailed {
            stream,
            failure: Failure::Policy
        }));
    assert!(sim.hosts[0].node.peers().is_empty());
    assert!(!sim.hosts[0].node.remove_peer(now, &address(2)));
}

#[test]
fn a_short_sender_is_used_for_60_seconds_after_an_answer() {
    // A41, D20, A47
    let mut sim = Sim::draft_pair(12);
    sim.record = Some(Vec::new());
    let full = |sim: &mut Sim| {
        sim.record = Some(Vec::new());
        let now = sim.now;
        sim.hosts[0]
            .node
            .send_datagram(now, 1, ipv6(2), 2, b"x")
            .unwrap();
        sim.pump();
        let sent = recorded(sim, home(1), kind::DGRAM);
        assert_eq!(sent.len(), 1);
        sent[0][1] & FLAG_FULL_SENDER != 0
    };
    sim.ping(0, ipv6(2)).unwrap();
    assert!(!full(&mut sim), "it has answered");
    sim.run(secs(40));
    assert!(!full(&mut sim), "less than a minute ago");
    sim.run(secs(100));
    assert!(full(&mut sim), "silent for more than a minute");
    sim.run(ms(100));
    assert!(
        !full(&mut sim),
        "the stale path was asked at the same time, and has answered"
    );
    let pings = |sim: &Sim| recorded(sim, home(1), kind::PING);
    sim.record = Some(Vec::new());
    sim.ping(0, ipv6(2)).unwrap();
    sim.ping(0, ipv6(2)).unwrap();
    assert!(
        pings(&sim)
            .iter()
            .all(|ping| ping[1] & FLAG_FULL_SENDER != 0),
        "PING and EPC_REQ always carry it"
    );
    assert!(
        recorded(&sim, home(1), kind::EPC_REQ)
            .iter()
            .all(|check| check[1] & FLAG_FULL_SENDER != 0)
    );
    assert!(
        recorded(&sim, home(2), kind::PONG)
            .iter()
            .all(|pong| pong[1] & FLAG_FULL_SENDER == 0),
        "an answer need not"
    );
}

#[test]
fn what_is_larger_than_the_path_is_refused_with_what_fits() {
    // D36, U8
    let mut sim = Sim::draft_pair(13);
    sim.ping(0, ipv6(2)).unwrap();
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    assert_eq!(
        node.send_datagram(now, 1, ipv6(2), 2, &[0; 1300]),
        Err(Failure::TooBig { max: 1168 })
    );
    assert_eq!(node.send_datagram(now, 1, ipv6(2), 2, &[0; 1168]), Ok(()));
    assert_eq!(
        node.send_other(now, ipv6(2), 58, &[0; 1300]),
        Err(Failure::TooBig { max: 1171 })
    );
    assert_eq!(
        node.ping(now, ipv6(2), 1, &[0; 1300]),
        Err(Failure::TooBig { max: 1164 })
    );
    assert_eq!(node.ping(now, ipv6(2), 1, &[0; 1164]), Ok(()));
    sim.run(secs(1));
    assert_eq!(sim.hosts[1].program.datagrams.len(), 1);
}

#[test]
fn peer_ids_choose_the_digit_of_the_source() {
    // A44, A46, D41, S14
    let mut sim = Sim::new(14);
    sim.host(
        1,
        NodeConfig {
            peer_id: PeerId::new(5).unwrap(),
            ..draft_knows(&[2])
        },
    );
    sim.host(2, draft());
    assert_eq!(
        sim.hosts[0].node.local(),
        [ipv6(1), address(1).ipv6(PeerId::new(5).unwrap())]
    );
    sim.ping(0, ipv6(2)).unwrap();
    let now = sim.now;
    sim.hosts[0]
        .node
        .send_datagram(now, 1, ipv6(2), 2, b"x")
        .unwrap();
    // Called by a digit that is not its own it answers all the same, as itself (A46).
    sim.hosts[0]
        .node
        .send_datagram(now, 1, address(2).ipv6(PeerId::new(7).unwrap()), 2, b"y")
        .unwrap();
    sim.hosts[0]
        .node
        .send_other(now, ipv6(2), 58, b"z")
        .unwrap();
    sim.run(secs(1));
    let from = address(1).ipv6(PeerId::new(5).unwrap());
    let program = &sim.hosts[1].program;
    assert_eq!(
        program.datagrams,
        [
            (from, 1, ipv6(2), 2, b"x".to_vec()),
            (from, 1, ipv6(2), 2, b"y".to_vec())
        ]
    );
    assert_eq!(program.others, [(from, 58, b"z".to_vec())]);
}

#[test]
fn whois_finds_an_address_among_the_connected_and_lies_are_refused() {
    // DESIGN §4, §5 (WHOIS, IAM)
    let mut sim = Sim::draft_pair(15);
    sim.ping(0, ipv6(2)).unwrap();
    // Host 1 looks for somebody; host 2 is asked and is not the one.
    let now = sim.now;
    assert_eq!(sim.hosts[0].node.lookup(now, ipv6(3)), Lookup::Searching);
    sim.run(ms(100));
    assert_eq!(sim.counters(1).dropped_whois, 1);
    // It lies: another address, bytes that are no address.
    let lies = Message::Iam {
        addresses: vec![*address(4).as_bytes(), [1; 40]],
    };
    sim.inject(home(2), home(1), packet(2, 1, &lies, true));
    sim.run(ms(100));
    assert_eq!(
        sim.counters(0).dropped_iam,
        2,
        "one for the first, one for all beyond the questions that are open"
    );
    assert_eq!(sim.hosts[0].node.peers().len(), 1);
    let truth = Message::Iam {
        addresses: vec![*address(3).as_bytes()],
    };
    sim.inject(home(2), home(1), packet(2, 1, &truth, true));
    sim.run(ms(100));
    let now = sim.now;
    let Lookup::Found(found) = sim.hosts[0].node.lookup(now, ipv6(3)) else {
        panic!("not found")
    };
    assert_eq!((found.address, found.sources), (address(3), vec!["whois"]));
    // We answer for ourselves, never with more than was asked for.
    sim.record = Some(Vec::new());
    let question = Message::Whois {
        prefixes: vec![ipv6(1)],
    };
    sim.inject(home(2), home(1), packet(2, 1, &question, true));
    sim.run(ms(100));
    let answer = recorded(&sim, home(1), kind::IAM);
    assert_eq!(answer.len(), 1);
    assert!(answer[0].len() <= packet(2, 1, &question, true).len());
}

#[test]
fn a_configured_endpoint_is_asked_from_a_socket_of_its_family() {
    let v6: SocketAddr = "[2001:db8::2]:8737".parse().unwrap();
    let peer = |number, endpoint| ConfiguredPeer {
        address: address(number),
        places: vec![Place::Udp(endpoint)],
    };
    let config = NodeConfig {
        peers: vec![peer(2, v6), peer(3, home(3))],
        ..draft()
    };
    let mut sim = Sim::new(16);
    let mut node = sim.node(1, config);
    let bound = |text: &str| text.parse::<SocketAddr>().unwrap();
    node.set_sockets(vec![bound("0.0.0.0:8737"), bound("[::]:8737")]);
    let mut asked = Vec::new();
    let mut batch = TransmitBatch::new(64);
    for number in [2, 3] {
        node.ping(sim.now, ipv6(number), 1, b"x").unwrap();
        batch.clear(64);
        assert!(node.poll_transmit(sim.now, &mut batch));
        asked.push((batch.destination.to, batch.destination.socket));
    }
    assert_eq!(asked, [(Place::Udp(v6), 1), (Place::Udp(home(3)), 0)]);
    // Without a socket of that family nothing is sent, and the failure comes in its time.
    node.set_sockets(vec![bound("0.0.0.0:8737")]);
    node.remove_peer(sim.now, &address(2));
    node.add_peer(sim.now, address(2), &[Place::Udp(v6)], true);
    node.ping(sim.now, ipv6(2), 2, b"x").unwrap();
    batch.clear(64);
    assert!(!node.poll_transmit(sim.now, &mut batch));
    let failed = OverlayEvent::PingFailed {
        token: 2,
        failure: Failure::Unreachable,
    };
    node.handle_timeout(sim.now + secs(6));
    assert!(std::iter::from_fn(|| node.poll_event()).any(|event| event == failed));
}

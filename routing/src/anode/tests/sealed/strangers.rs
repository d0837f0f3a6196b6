//! Packets that are recorded, altered, in plain, or of somebody else.
use super::*;

#[test]
fn recorded_packets_have_no_effect_when_they_come_again() {
    // Q20, Q25, S7, S17
    let mut sim = Sim::pair(73);
    sim.record = Some(Vec::new());
    talk(&mut sim);
    sim.run(secs(5));
    let tape: Vec<Flying> = sim
        .record
        .take()
        .unwrap()
        .into_iter()
        .map(|(_, f)| f)
        .collect();
    let before = (
        sim.hosts[1].program.events.len(),
        sim.hosts[1].program.datagrams.len(),
    );
    for wait in [0, 61, 300] {
        sim.run(secs(wait));
        sim.record = Some(Vec::new());
        for flying in &tape {
            sim.inject(elsewhere(1), flying.to, flying.bytes.clone());
            sim.inject(flying.from, flying.to, flying.bytes.clone());
        }
        sim.run(secs(10));
        let bytes: usize = tape.iter().map(|flying| flying.bytes.len()).sum();
        let reflected = sent_to(&sim, elsewhere(1));
        assert!(
            reflected < bytes / 4,
            "after {wait} s: {reflected} of {bytes} bytes"
        );
        assert_eq!(sim.used(1, 1), Some("udp://192.0.2.1:8737".into()));
        assert!(
            sim.peer(1, 1)
                .paths
                .iter()
                .all(|path| !path.proven || path.active)
        );
        assert_eq!(sim.hosts[1].program.datagrams.len(), before.1);
    }
    let streams = |e: &OverlayEvent| {
        matches!(
            e,
            OverlayEvent::StreamIncoming { .. } | OverlayEvent::StreamFailed { .. }
        )
    };
    let news = &sim.hosts[1].program.events[before.0..];
    assert!(!news.iter().any(|(_, event)| streams(event)), "{news:?}");
    assert!(sim.ping(1, ipv6(1)).is_ok());
}

#[test]
fn altered_copies_and_disorder_cost_nothing_but_time() {
    // Q18, Q19, Q20, S6, S8
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::seed_from_u64(74);
    let mut sim = Sim::pair(74);
    sim.link = Link {
        jitter: ms(6),
        loss: 20,
        duplicate: 100,
        rate: 12_500_000,
        ..Link::default()
    };
    let data = pattern(2 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    let finished = |sim: &Sim| sim.has_finished(1);
    let begin = sim.now;
    while !finished(&sim) {
        assert!(sim.now - begin < secs(120));
        sim.record = Some(Vec::new());
        sim.run(ms(10));
        for (_, flying) in sim.record.take().unwrap() {
            let mut bytes = flying.bytes;
            // Not the hop count, which is nobody's.
            let at = rng.random_range(1..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            sim.inject(flying.from, flying.to, bytes);
        }
    }
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(sim.hosts[1].program.read[&incoming] == data);
    assert!(sim.counters(1).dropped_sealed > 500);
    assert!(
        sim.hosts[0]
            .program
            .events
            .iter()
            .all(|(_, e)| !matches!(e, OverlayEvent::StreamFailed { .. }))
    );
}

#[test]
fn with_a_session_plain_packets_of_that_peer_are_not_heard() {
    // Q26
    let mut sim = Sim::pair(76);
    sim.ping(0, ipv6(2)).unwrap();
    let endpoint = Endpoint::Udp(elsewhere(9));
    let plain = [
        Message::Ping(b"hello"),
        Message::EpcReq { id: 1 },
        Message::Epc { id: 1 },
        Message::Epi {
            endpoint: endpoint.clone(),
            nat_mode: 0,
            options: &[],
        },
        Message::NetidReq { id: 2, endpoint },
        Message::Dgram {
            source: 1,
            destination: 2,
            payload: SECRET,
        },
    ];
    let count = plain.len() as u64;
    // Until the search for larger packets is over.
    sim.run(secs(10));
    sim.record = Some(Vec::new());
    for message in &plain {
        // With the right MAC, from the right place and from another.
        sim.inject(home(1), home(2), packet(1, 2, message, true));
        sim.inject(elsewhere(3), home(2), packet(1, 2, message, true));
    }
    sim.run(secs(2));
    assert_eq!(sim.counters(1).dropped_policy, 2 * count);
    assert_eq!(
        sim.record.iter().flatten().count(),
        0,
        "and nothing is answered"
    );
    assert_eq!(sim.peer(1, 1).paths.len(), 1);
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
}

#[test]
fn an_endpoint_that_has_not_proven_itself_gets_three_times_what_came_from_it() {
    // Q25, S17, S20
    let mut sim = Sim::pair(77);
    sim.link.rate = 12_500_000;
    open(&mut sim, 0, 2, 80);
    sim.run(ms(500));
    let incoming = sim.hosts[1].program.accepted[0];
    sim.write(1, incoming, pattern(20 << 20));
    sim.run(ms(300));
    // The real path dies; somebody passes on, from another place, what host 1 still sends.
    sim.cut.push((home(1), home(2)));
    let victim = elsewhere(8);
    let mut passed_on = 0;
    let begin = sim.now;
    let mut to_victim = 0;
    while sim.now - begin < secs(20) {
        sim.record = Some(Vec::new());
        sim.run(ms(50));
        for (_, flying) in sim.record.take().unwrap() {
            if flying.from == Place::Udp(home(1)) {
                passed_on += flying.bytes.len();
                sim.inject(victim, home(2), flying.bytes);
            } else if flying.to == Place::Udp(victim) {
                to_victim += flying.bytes.len();
            }
        }
    }
    println!("{passed_on} bytes came from there, {to_victim} went there");
    assert!(passed_on > 0 && to_victim > 0);
    assert!(to_victim <= 3 * passed_on, "{to_victim} to {passed_on}");
    assert!(!sim.peer(1, 1).paths.iter().any(|path| path.proven));
}

#[test]
fn more_than_an_unproven_path_takes_waits_for_its_proof() {
    // Q25: thirty datagrams before there is a session, all of them arrive in their order
    let mut sim = Sim::pair(80);
    for count in 0..30u8 {
        datagram(&mut sim, 0, 2, &[count; 1000]).unwrap();
    }
    sim.run(ms(200));
    let got: Vec<u8> = sim.hosts[1]
        .program
        .datagrams
        .iter()
        .map(|d| d.4[0])
        .collect();
    assert_eq!(got, (0..30).collect::<Vec<_>>());
    assert_eq!(sim.counters(0).dropped_unproven, 0);
}

#[test]
fn a_stranger_cannot_take_the_place_of_a_peer_and_who_holds_the_address_can() {
    // S18, A46: peer ids tell machines of one address apart; they prove nothing beyond its key.
    let [one, two] = [1, 2].map(|digit| PeerId::new(digit).unwrap());
    let config = |peer_id, config| NodeConfig { peer_id, ..config };
    let mut sim = Sim::new(190);
    sim.host(1, knows(&[2]));
    sim.host(2, config(one, quiet()));
    sim.host(3, config(one, knows(&[1])));
    let called = address(2).ipv6(one);
    let call = |sim: &mut Sim, payload: &[u8]| {
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        node.send_datagram(now, 1, called, 2, payload).unwrap();
        sim.run(secs(2));
    };
    sim.record = Some(Vec::new());
    call(&mut sim, b"before");
    // The stranger has the same peer id, a session of its own, and all that the other has sent, which it sends again from
    // where it is, as every peer.
    sim.ping(2, ipv6(1)).unwrap();
    let sent = sim.record.iter().flatten().map(|(_, flying)| flying);
    let heard: Vec<Vec<u8>> = sent
        .filter(|flying| flying.from == Place::Udp(home(2)))
        .map(|flying| flying.bytes.clone())
        .collect();
    assert!(heard.len() >= 4);
    for bytes in heard {
        for digit in 0..16 {
            let mut again = bytes.clone();
            let at = if again[1] & FLAG_FULL_SENDER == 0 {
                26
            } else {
                58
            };
            again[at] = again[at] & 0x0f | digit << 4;
            sim.inject(home(3), home(1), again);
            sim.inject(home(3), home(1), bytes.clone());
        }
        sim.run(ms(20));
    }
    call(&mut sim, b"after");
    let got = |sim: &Sim, index: usize| {
        let datagrams = &sim.hosts[index].program.datagrams;
        datagrams.iter().map(|d| d.4.clone()).collect::<Vec<_>>()
    };
    assert_eq!(got(&sim, 1), [b"before".to_vec(), b"after".to_vec()]);
    assert!(got(&sim, 2).is_empty());
    assert!(sim.used(0, 2).unwrap().contains(&home(2).to_string()));

    // Another machine with the same key in its place answers for it.
    sim.restart(1, 2, config(two, quiet()));
    sim.run(secs(1));
    call(&mut sim, b"lost with the session, perhaps");
    call(&mut sim, b"to the other");
    assert!(got(&sim, 1).contains(&b"to the other".to_vec()));
}

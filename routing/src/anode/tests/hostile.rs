//! Packets that lie, come twice, come in floods or cannot be read.
use super::*;

#[test]
fn what_is_not_for_us_or_not_possible_is_counted_and_has_no_answer() {
    // A42, D18, S1, S6, S11
    let mut sim = Sim::draft_pair(20);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(60));
    sim.record = Some(Vec::new());
    let good = packet(1, 2, &Message::Ping(b"hello"), true);
    let flipped = |at: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        bytes
    };
    type Counter = fn(&Counters) -> u64;
    let cases: Vec<(&str, Vec<u8>, Counter)> = vec![
        ("empty", vec![], |c| c.dropped_malformed),
        ("truncated", good[..40].to_vec(), |c| c.dropped_malformed),
        ("hop count 255", flipped(0, 0xff), |c| c.dropped_hop_limit),
        ("auth error flag", flipped(1, 4), |c| c.dropped_auth_error),
        ("flipped MAC", flipped(2, 1), |c| c.dropped_bad_mac),
        ("flipped payload", flipped(good.len() - 1, 1), |c| {
            c.dropped_bad_mac
        }),
        ("flipped type", flipped(59, 2), |c| c.dropped_bad_mac),
        (
            "for another recipient",
            packet(1, 3, &Message::Ping(b"hello"), true),
            |c| c.dropped_not_for_us,
        ),
        (
            "our own address as sender",
            packet(2, 2, &Message::Ping(b"hello"), true),
            |c| c.dropped_own_sender,
        ),
        (
            "our own id as sender",
            packet(2, 2, &Message::Ping(b"hello"), false),
            |c| c.dropped_unknown_sender,
        ),
        (
            "an unknown short sender",
            packet(9, 2, &Message::Ping(b"hello"), false),
            |c| c.dropped_unknown_sender,
        ),
        ("an address off the curve", flipped(18 + 20, 0x55), |c| {
            c.dropped_bad_address + c.dropped_bad_mac
        }),
    ];
    for (what, bytes, counter) in cases {
        let before = counter(&sim.counters(1));
        sim.inject(elsewhere(1), home(2), bytes);
        sim.run(ms(50));
        assert_eq!(counter(&sim.counters(1)), before + 1, "{what}");
    }
    assert_eq!(
        sent_to(&sim, elsewhere(1)),
        0,
        "nothing is answered to who has not authenticated itself"
    );
    // The MAC does not cover the hop count (A39): relays may raise it.
    let mut relayed = good.clone();
    relayed[0] = 3;
    sim.inject(home(1), home(2), relayed);
    sim.run(ms(50));
    assert_eq!(recorded(&sim, home(2), kind::PONG).len(), 1);
}

#[test]
fn random_and_mutated_packets_change_nothing() {
    // S1, S3, S20
    use rand::{RngExt as _, SeedableRng as _};
    let mut sim = Sim::draft_pair(21);
    sim.record = Some(Vec::new());
    let now = sim.now;
    let stream = sim.hosts[0].node.open(now, 7, ipv6(2), 80).unwrap();
    sim.write(0, stream, vec![7; 20_000]);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(100));
    let corpus: Vec<Vec<u8>> = sim
        .record
        .take()
        .unwrap()
        .into_iter()
        .map(|(_, flying)| flying.bytes)
        .collect();
    let mut rng = rand::rngs::StdRng::seed_from_u64(21);
    sim.record = Some(Vec::new());
    let peers = sim.hosts[1].node.peers().len();
    for round in 0..4000 {
        let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
        match round % 4 {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => bytes.extend(std::iter::repeat_n(0xa5, rng.random_range(1..70_000))),
            2 => {
                // Not the hop count, which is nobody's.
                let at = rng.random_range(1..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            _ => {
                bytes = (0..rng.random_range(0..1500))
                    .map(|_| rng.random())
                    .collect()
            }
        }
        sim.inject(elsewhere((round % 200) as u8), home(2), bytes);
        sim.run(ms(20));
    }
    let answered: usize = (0..200).map(|last| sent_to(&sim, elsewhere(last))).sum();
    assert_eq!(answered, 0);
    assert_eq!(sim.hosts[1].node.peers().len(), peers);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
}

#[test]
fn a_replayed_packet_from_another_source_does_not_move_the_path() {
    // S7, S17, D24, D38
    let mut sim = Sim::draft_pair(22);
    sim.record = Some(Vec::new());
    let now = sim.now;
    let stream = sim.hosts[0].node.open(now, 7, ipv6(2), 80).unwrap();
    sim.write(0, stream, vec![7; 50_000]);
    sim.hosts[0]
        .node
        .send_datagram(now, 1, ipv6(2), 2, b"once")
        .unwrap();
    sim.ping(0, ipv6(2)).unwrap();
    sim.inject(
        home(1),
        home(2),
        packet(
            1,
            2,
            &Message::NetidReq {
                id: 1,
                endpoint: Endpoint::Unspecified,
            },
            true,
        ),
    );
    sim.run(secs(5));
    let tape: Vec<Vec<u8>> = sim
        .record
        .take()
        .unwrap()
        .into_iter()
        .filter(|(_, f)| f.from == Place::Udp(home(1)))
        .map(|(_, f)| f.bytes)
        .collect();
    assert!(tape.len() > 40);
    let (events, datagrams) = (
        sim.hosts[1].program.events.len(),
        sim.hosts[1].program.datagrams.len(),
    );
    for wait in [0, 61] {
        sim.run(secs(wait));
        sim.record = Some(Vec::new());
        let bytes: usize = tape.iter().map(Vec::len).sum();
        for packet in &tape {
            sim.inject(elsewhere(1), home(2), packet.clone());
            sim.inject(elsewhere(1), home(1), packet.clone());
        }
        sim.run(secs(10));
        assert_eq!(sim.used(1, 1), Some("udp://192.0.2.1:8737".into()));
        assert!(
            sim.peer(1, 1)
                .paths
                .iter()
                .all(|path| !path.proven || path.active),
            "nothing else is proven"
        );
        assert_eq!(
            sim.hosts[1].program.events.len(),
            events,
            "no stream comes to life again"
        );
        assert_eq!(sim.hosts[1].program.datagrams.len(), datagrams);
        let reflected = sent_to(&sim, elsewhere(1));
        assert!(
            reflected < bytes / 10,
            "{reflected} of {bytes} bytes: a few EPC_REQs to the new source, no more"
        );
    }
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
}

#[test]
fn only_a_right_epc_proves() {
    // A53, D24
    let mut sim = Sim::draft_pair(23);
    sim.cut.push((home(1), home(2)));
    sim.record = Some(Vec::new());
    let now = sim.now;
    sim.hosts[0].node.ping(now, ipv6(2), 1, b"x").unwrap();
    sim.run(ms(300));
    let requests = recorded(&sim, home(1), kind::EPC_REQ);
    let id = |packet: &[u8]| u32::from_be_bytes(packet[packet.len() - 4..].try_into().unwrap());
    let answer = packet(
        2,
        1,
        &Message::Epc {
            id: id(&requests[0]),
        },
        true,
    );
    let mut relayed = answer.clone();
    relayed[0] = 1;
    // Of its own accord; from another place; over a relay; by somebody else.
    sim.inject(home(2), elsewhere(9), vec![]);
    sim.cut.clear();
    sim.hosts[1].up = false;
    let wrong = [
        (
            home(2),
            packet(
                2,
                1,
                &Message::Epc {
                    id: id(&requests[0]).wrapping_add(1),
                },
                true,
            ),
        ),
        (elsewhere(1), answer.clone()),
        (home(2), relayed),
        (
            home(2),
            packet(
                3,
                1,
                &Message::Epc {
                    id: id(&requests[0]),
                },
                true,
            ),
        ),
    ];
    for (count, (from, bytes)) in wrong.into_iter().enumerate() {
        sim.inject(from, home(1), bytes);
        sim.run(ms(5));
        assert_eq!(sim.counters(0).epc_unexpected, count as u64 + 1);
    }
    assert_eq!(sim.counters(0).paths_proven, 0);
    sim.inject(home(2), home(1), answer.clone());
    sim.run(ms(5));
    assert_eq!(sim.counters(0).paths_proven, 1);
    sim.inject(home(2), home(1), answer);
    sim.run(ms(5));
    assert_eq!(sim.counters(0).epc_unexpected, 5, "an id is used once");
    // The other request's answer comes after more than five seconds.
    sim.run(secs(6));
    sim.inject(
        home(2),
        home(1),
        packet(
            2,
            1,
            &Message::Epc {
                id: id(&requests[1]),
            },
            true,
        ),
    );
    sim.run(ms(5));
    assert_eq!(sim.counters(0).epc_unexpected, 6);
}

#[test]
fn forgers_are_cut_off_and_cannot_silence_the_peer_they_imitate() {
    // D39, S9
    let mut sim = Sim::draft_pair(24);
    sim.ping(0, ipv6(2)).unwrap();
    let mut forged = packet(1, 2, &Message::Ping(b"hello"), true);
    forged[2] ^= 1;
    for _ in 0..1000 {
        sim.inject(elsewhere(1), home(2), forged.clone());
        sim.inject(home(1), home(2), forged.clone());
    }
    sim.run(ms(100));
    let counters = sim.counters(1);
    assert!(counters.dropped_blocked_source >= 890, "{counters:?}");
    assert!(
        counters.dropped_bad_mac >= 1100,
        "the proven path's own source is always read: {counters:?}"
    );
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
}

#[test]
fn key_agreements_for_strangers_are_budgeted() {
    // S19
    let mut sim = Sim::draft_pair(25);
    sim.hosts[1].node.config.limits.first_contacts = Rate::per_second(20, 20);
    sim.ping(0, ipv6(2)).unwrap();
    for number in 1000..1200 {
        // Valid addresses, MACs of another pair: each costs a key agreement to refuse.
        let mut bytes = packet(1, 2, &Message::Ping(b"hello"), true);
        bytes[10..50].copy_from_slice(address(number).as_bytes());
        sim.inject(elsewhere((number % 200) as u8), home(2), bytes);
    }
    sim.run(ms(500));
    let counters = sim.counters(1);
    assert!(counters.dropped_bad_mac <= 30, "{counters:?}");
    assert_eq!(
        counters.dropped_bad_mac + counters.dropped_first_contact,
        200
    );
    assert_eq!(sim.hosts[1].node.peers().len(), 1);
    assert_eq!(
        sim.ping(0, ipv6(2)).unwrap(),
        ms(20),
        "who is known does not notice"
    );
}

#[test]
fn strangers_fill_their_part_of_the_table_and_no_more() {
    let mut sim = Sim::draft_pair(26);
    sim.hosts[1].node.config.limits.strangers = 10;
    sim.hosts[1].node.config.limits.first_contacts_per_source = Rate::per_second(1000, 1000);
    let now = sim.now;
    sim.hosts[1].node.add_peer(now, address(1), &[], true);
    for number in 100..140 {
        sim.inject(
            elsewhere(1),
            home(2),
            packet(number, 2, &Message::Ping(b"x"), true),
        );
    }
    sim.run(ms(100));
    assert_eq!(sim.hosts[1].node.peers().len(), 11);
    assert_eq!(sim.counters(1).peers_evicted, 30);
    assert!(
        sim.hosts[1]
            .node
            .peers()
            .iter()
            .any(|peer| peer.address == address(1)),
        "who was named stays"
    );
}

#[test]
fn equal_short_ids_are_told_apart_by_mac() {
    // D22, S10, A48
    let mut sim = Sim::new(27);
    sim.host(1, draft_knows(&[2]));
    sim.host(2, draft());
    sim.host(3, draft_knows(&[2]));
    sim.ping(0, ipv6(2)).unwrap();
    sim.ping(2, ipv6(2)).unwrap();
    // Host 2 is made to see host 3's packets under host 1's id, as if the two had collided.
    let table = &mut sim.hosts[1].node.peers;
    let (first, third) = (
        table.find(address(1).as_bytes()).unwrap(),
        table.find(address(3).as_bytes()).unwrap(),
    );
    table.force_id(third, address(1).id());
    assert_eq!(
        table
            .with_id(&address(1).id())
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
        [first, third]
    );
    let mut bytes = Vec::new();
    let key: MacKey = identity(3).agree(&address(2));
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Id(address(1).id()),
        recipient: Party::Id(address(2).id()),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: kind::DGRAM,
    };
    Message::Dgram {
        source: 1,
        destination: 2,
        payload: b"who",
    }
    .emit_packet(&header, Some(&key), &mut bytes);
    sim.inject(home(3), home(2), bytes);
    sim.run(ms(10));
    assert_eq!(
        sim.hosts[1].program.datagrams,
        [(ipv6(3), 1, ipv6(2), 2, b"who".to_vec())]
    );
    assert_eq!(
        sim.counters(1).dropped_bad_mac,
        0,
        "a wrong guess among equals is no forgery"
    );
}

#[test]
fn netid_is_no_reflector() {
    // A57, A58, D25, S20, S21
    let mut sim = Sim::draft_pair(28);
    sim.ping(0, ipv6(2)).unwrap();
    assert_eq!(
        sim.hosts[0].node.external_endpoints(),
        [home(1)],
        "asked once of a configured peer"
    );
    sim.record = Some(Vec::new());
    let ask = |sim: &mut Sim, id, endpoint| {
        sim.inject(
            home(1),
            home(2),
            packet(1, 2, &Message::NetidReq { id, endpoint }, true),
        );
        sim.run(ms(300));
    };
    let victim: SocketAddr = "203.0.113.9:53".parse().unwrap();
    ask(&mut sim, 1, Endpoint::Udp(victim));
    ask(&mut sim, 2, Endpoint::Tcp(home(1)));
    ask(&mut sim, 3, Endpoint::Http("http://192.0.2.1/".into()));
    assert_eq!(
        (sent_to(&sim, victim), sim.counters(1).dropped_netid),
        (0, 3)
    );
    let other_port = SocketAddr::new(home(1).ip(), 99);
    ask(&mut sim, 4, Endpoint::Udp(other_port));
    assert!(
        sent_to(&sim, other_port) > 0,
        "the address that asks may name another of its ports"
    );
    for id in 10..60 {
        sim.inject(
            home(1),
            home(2),
            packet(
                1,
                2,
                &Message::NetidReq {
                    id,
                    endpoint: Endpoint::Udp(other_port),
                },
                true,
            ),
        );
    }
    sim.record = Some(Vec::new());
    sim.run(ms(100));
    assert!(
        recorded(&sim, home(2), kind::NETID).len() <= 5,
        "five in a second, to other places than where they come from"
    );
    for id in 100..200 {
        let question = Message::NetidReq {
            id,
            endpoint: Endpoint::Unspecified,
        };
        sim.inject(home(1), home(2), packet(1, 2, &question, true));
    }
    sim.record = Some(Vec::new());
    sim.run(ms(100));
    let answers = recorded(&sim, home(2), kind::NETID).len();
    assert!((30..=41).contains(&answers), "{answers} back to the source");
}

#[test]
fn hints_are_followed_within_a_budget_and_never_into_forbidden_places() {
    // A54, D16, S16
    let mut sim = Sim::draft_pair(29);
    sim.ping(0, ipv6(2)).unwrap();
    sim.record = Some(Vec::new());
    let hint = |sim: &mut Sim, endpoint| {
        sim.inject(
            home(2),
            home(1),
            packet(
                2,
                1,
                &Message::Epi {
                    endpoint,
                    nat_mode: 0,
                    options: &[],
                },
                true,
            ),
        );
        sim.run(ms(10));
    };
    let forbidden = [
        Endpoint::Udp("127.0.0.1:8737".parse().unwrap()),
        Endpoint::Udp("224.0.0.1:8737".parse().unwrap()),
        Endpoint::Udp("[fda0::1]:8737".parse().unwrap()),
        Endpoint::Udp("[::ffff:127.0.0.1]:8737".parse().unwrap()),
        Endpoint::Udp("0.0.0.0:8737".parse().unwrap()),
        Endpoint::Http("http://intranet/".into()),
        Endpoint::Ethernet([2, 0, 0, 0, 0, 1]),
    ];
    let count = forbidden.len() as u64;
    forbidden
        .into_iter()
        .for_each(|endpoint| hint(&mut sim, endpoint));
    assert_eq!(sim.counters(0).refused_endpoints, count);
    assert_eq!(sim.hosts[0].node.peers()[0].paths.len(), 1);
    for last in 0..50 {
        hint(&mut sim, Endpoint::Udp(elsewhere(last)));
    }
    sim.run(secs(20));
    let hinted: usize = (0..50)
        .filter(|last| sent_to(&sim, elsewhere(*last)) > 0)
        .count();
    assert!(hinted <= 4, "{hinted} places were asked");
    assert_eq!(sim.used(0, 2), Some("udp://192.0.2.2:8737".into()));
}

#[test]
fn errors_change_nothing_and_are_throttled() {
    // A50, D21, S11
    let mut sim = Sim::draft_pair(30);
    sim.ping(0, ipv6(2)).unwrap();
    sim.record = Some(Vec::new());
    for code in 0..20 {
        sim.inject(
            home(1),
            home(2),
            packet(
                1,
                2,
                &Message::Error {
                    code,
                    arguments: b"?",
                },
                true,
            ),
        );
    }
    sim.run(ms(100));
    assert_eq!(sim.counters(1).rx_errors, 20);
    assert_eq!(sent_to(&sim, home(1)), 0);
    // An authentic packet that cannot be read: one ERROR a second.
    let broken = |n: u8| {
        let mut bytes = packet(1, 2, &Message::EpcReq { id: u32::from(n) }, true);
        bytes.push(n);
        identity(1).agree(&address(2)).sign(&mut bytes);
        bytes
    };
    (0..20).for_each(|n| sim.inject(home(1), home(2), broken(n)));
    sim.run(ms(100));
    assert_eq!(
        (
            sim.counters(1).dropped_bad_message,
            sim.counters(1).tx_errors
        ),
        (20, 1)
    );
}

#[test]
fn a_flood_of_beacons_is_bounded_and_costs_no_key_agreement() {
    // S32, D23
    let mut sim = Sim::new(31);
    sim.lan_host_with(1, DRAFT);
    sim.run(secs(5));
    sim.record = Some(Vec::new());
    // 2,000 invented nodes from 200 invented machines; real points, as a forger would make them.
    let beacons: Vec<Vec<u8>> = (1000..3000).map(beacon).collect();
    for round in 0..5u64 {
        for (count, bytes) in beacons.iter().enumerate() {
            let from =
                SocketAddr::from(([192, 0, 2, (count % 200) as u8 + 10], 1000 + round as u16));
            sim.inject(from, home(1), bytes.clone());
        }
        sim.run(secs(2));
    }
    let node = &sim.hosts[0].node;
    assert!(node.peers.count(Standing::Heard) <= 1024);
    assert!(
        node.peers
            .iter()
            .all(|(_, peer)| peer.key().is_none() && peer.paths.len() <= 2)
    );
    let answers = sim
        .record
        .iter()
        .flatten()
        .filter(|(_, f)| {
            f.from == Place::Udp(home(1)) && f.to.ip().to_string() != "255.255.255.255"
        })
        .count();
    assert!(answers <= 110, "{answers} unicast beacons in ten seconds");
    assert_eq!(recorded(&sim, home(1), kind::EPC_REQ).len(), 0);
    // Not from another network, not relayed, not with LAN switched off.
    let before = sim.counters(0).rx_beacons;
    sim.inject(elsewhere(1), home(1), beacon(9));
    let mut relayed = beacon(9);
    relayed[0] = 1;
    sim.inject(home(9), home(1), relayed);
    sim.run(ms(10));
    assert_eq!(sim.counters(0).rx_beacons, before);
    // A true neighbour still gets in.
    sim.lan_host_with(2, DRAFT);
    sim.run(secs(1));
    assert!(sim.ping(1, ipv6(1)).is_ok());
}

#[test]
fn a_hundred_nodes_boot_on_one_lan_without_a_storm() {
    // S32, U16
    let mut sim = Sim::new(32);
    for number in 1..=100 {
        sim.lan_host_with(number, DRAFT);
    }
    sim.run(secs(20));
    let beacons: u64 = (0..100).map(|index| sim.counters(index).tx_beacons).sum();
    assert!(beacons <= 100 * (4 + 20), "{beacons}");
    let known: Vec<usize> = (0..100)
        .map(|index| sim.hosts[index].node.peers().len())
        .collect();
    assert!(known.iter().all(|known| *known == 99), "{known:?}");
}

#[test]
fn queues_and_tables_of_the_program_side_are_bounded() {
    // S23
    let mut sim = Sim::new(33);
    sim.host(1, draft_knows(&[2]));
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    let held = (0..100)
        .filter(|_| node.send_datagram(now, 1, ipv6(2), 2, &[0; 100]).is_ok())
        .count();
    assert_eq!(held, 32);
    assert_eq!(node.counters().dropped_held, 68);
    let mut target = 0u128;
    let mut next = || {
        target += 16;
        Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfda0, 1, 0, 0, 0, 0, 0, 0)) + target)
    };
    let searches = (0..2000)
        .filter(|_| node.ping(now, next(), 1, b"x").is_ok())
        .count();
    assert_eq!(searches, 1023, "1,024 with the one above");
    assert_eq!(node.ping(now, next(), 1, b"x"), Err(Failure::Busy));
    sim.run(secs(60));
    assert_eq!(sim.hosts[0].node.deadline(), None, "all of them have ended");
    sim.host(2, draft());
    sim.ping(0, ipv6(2)).unwrap();
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    let pings = (0..6000)
        .filter(|token| node.ping(now, ipv6(2), *token, b"x").is_ok())
        .count();
    assert_eq!(pings, 4095, "4,096 with the one before");
    let datagrams = (0..3000)
        .filter(|_| node.send_datagram(now, 1, ipv6(2), 2, &[0; 1000]).is_ok())
        .count();
    assert!(
        (1000..1050).contains(&datagrams),
        "{datagrams} of 1 KB in a queue of 1 MiB"
    );
    sim.run(secs(11));
    assert!(sim.ping(0, ipv6(2)).is_ok(), "forgotten after ten seconds");
}

#[test]
fn the_plain_policy_closes_traffic_but_not_the_hints() {
    // Q23 (its plain half)
    let mut sim = Sim::new(34);
    sim.host(1, draft_knows(&[2]));
    sim.host(
        2,
        NodeConfig {
            security: Security::default(),
            ..draft()
        },
    );
    sim.ping(0, ipv6(2)).unwrap();
    let now = sim.now;
    sim.hosts[0]
        .node
        .send_datagram(now, 1, ipv6(2), 2, b"x")
        .unwrap();
    sim.hosts[0].node.open(now, 1, ipv6(2), 2).unwrap();
    // What it sends itself waits for a session that will never be, and then it says so.
    sim.hosts[1]
        .node
        .send_datagram(now, 1, ipv6(1), 2, b"x")
        .unwrap();
    let stream = sim.hosts[1].node.open(now, 1, ipv6(1), 2).unwrap();
    sim.run(ms(500));
    assert!(sim.hosts[1].program.datagrams.is_empty() && sim.hosts[1].program.accepted.is_empty());
    assert_eq!(sim.counters(1).dropped_policy, 2);
    sim.run(secs(9));
    assert!(sim.hosts[0].program.datagrams.is_empty() && sim.hosts[0].program.accepted.is_empty());
    let failure = Failure::Policy;
    for event in [
        OverlayEvent::Undeliverable {
            to: ipv6(1),
            failure,
        },
        OverlayEvent::StreamFailed { stream, failure },
    ] {
        let told = &sim.hosts[1].program.events;
        assert!(
            told.iter().any(|(_, told)| *told == event),
            "{event:?} in {told:?}"
        );
    }
}

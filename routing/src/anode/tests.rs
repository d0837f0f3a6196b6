//! What nodes do to each other on a simulated underlay. The harness is `sim`.
use super::sim::*;
use super::*;
use crate::overlay::PathKind;
use anode_wire::message::kind;
use anode_wire::packet::FLAG_FULL_SENDER;
use anode_wire::{AddressId, Header, MacKey, Packet, Party};
use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A packet as host `from` would send it to host `to`, with a right MAC.
fn packet(from: u16, to: u16, message: &Message<'_>, full_sender: bool) -> Vec<u8> {
    let (own, id) = (address(from), address(from).id());
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: if full_sender {
            Party::Full(own.as_bytes())
        } else {
            Party::Id(id)
        },
        recipient: Party::Id(address(to).id()),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: message.kind(),
    };
    let mut bytes = Vec::new();
    message.emit_packet(
        &header,
        Some(&identity(from).agree(&address(to))),
        &mut bytes,
    );
    bytes
}

fn beacon(number: u16) -> Vec<u8> {
    let own = address(number);
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Full(own.as_bytes()),
        recipient: Party::Id(AddressId::EVERYBODY),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: kind::EPI,
    };
    let mut bytes = Vec::new();
    Message::Epi {
        endpoint: Endpoint::Unspecified,
        nat_mode: 0,
        options: &[],
    }
    .emit_packet(&header, None, &mut bytes);
    bytes
}

fn elsewhere(last: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, last], 4000))
}

/// What was recorded of one kind, sent by `from`.
fn recorded(sim: &Sim, from: SocketAddr, wanted: u8) -> Vec<Vec<u8>> {
    let all = sim.record.iter().flatten();
    all.filter(|(_, flying)| {
        flying.from == from && Packet::new_checked(&flying.bytes[..]).unwrap().kind() == wanted
    })
    .map(|(_, flying)| flying.bytes.clone())
    .collect()
}

/// Bytes that went to an endpoint.
fn sent_to(sim: &Sim, to: SocketAddr) -> usize {
    sim.record
        .iter()
        .flatten()
        .filter(|(_, flying)| flying.to == to)
        .map(|(_, flying)| flying.bytes.len())
        .sum()
}

mod contact {
    use super::*;

    #[test]
    fn a_configured_peer_answers_a_ping_within_two_round_trips() {
        // A2, A51, A52, A53
        let mut sim = Sim::pair(1);
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
        sim.lan_host(1);
        sim.run(secs(10));
        // The late comer knows the early one by the answer to its first beacon, not by the 30 s rhythm.
        sim.lan_host(2);
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
    fn failures_come_once_and_in_time() {
        // S23
        let mut sim = Sim::new(4);
        sim.host(1, knows(&[2]));
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
        sim.host(1, knows(&[2]));
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
        let mut sim = Sim::pair(6);
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
        let mut sim = Sim::pair(7);
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
        // D24: re-checks only in use
        let mut sim = Sim::pair(8);
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
        let mut sim = Sim::pair(9);
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
        let mut sim = Sim::pair(10);
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
                endpoints: vec![home(1)]
            }]
        );
        sim.restart(1, 2, quiet());
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
        let mut sim = Sim::pair(11);
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
        let mut sim = Sim::pair(12);
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
        // D36
        let mut sim = Sim::pair(13);
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
                ..knows(&[2])
            },
        );
        sim.host(2, quiet());
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
        let mut sim = Sim::pair(15);
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
}

mod hostile {
    use super::*;

    #[test]
    fn what_is_not_for_us_or_not_possible_is_counted_and_has_no_answer() {
        // A42, D18, S1, S6, S11
        let mut sim = Sim::pair(20);
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
        let mut sim = Sim::pair(21);
        sim.record = Some(Vec::new());
        let now = sim.now;
        let stream = sim.hosts[0].node.open(now, 7, ipv6(2), 80).unwrap();
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (vec![7; 20_000], 0));
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
        let mut sim = Sim::pair(22);
        sim.record = Some(Vec::new());
        let now = sim.now;
        let stream = sim.hosts[0].node.open(now, 7, ipv6(2), 80).unwrap();
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (vec![7; 50_000], 0));
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
            .filter(|(_, f)| f.from == home(1))
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
        let mut sim = Sim::pair(23);
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
        let mut sim = Sim::pair(24);
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
        let mut sim = Sim::pair(25);
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
        let mut sim = Sim::pair(26);
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
        sim.host(1, knows(&[2]));
        sim.host(2, quiet());
        sim.host(3, knows(&[2]));
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
        let mut sim = Sim::pair(28);
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
                        endpoint: Endpoint::Unspecified,
                    },
                    true,
                ),
            );
        }
        sim.record = Some(Vec::new());
        sim.run(ms(100));
        assert_eq!(
            recorded(&sim, home(2), kind::NETID).len(),
            5,
            "five in a second"
        );
    }

    #[test]
    fn hints_are_followed_within_a_budget_and_never_into_forbidden_places() {
        // A54, D16, S16
        let mut sim = Sim::pair(29);
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
        let mut sim = Sim::pair(30);
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
        sim.lan_host(1);
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
            .filter(|(_, f)| f.from == home(1) && f.to.ip().to_string() != "255.255.255.255")
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
        sim.lan_host(2);
        sim.run(secs(1));
        assert!(sim.ping(1, ipv6(1)).is_ok());
    }

    #[test]
    fn a_hundred_nodes_boot_on_one_lan_without_a_storm() {
        // S32
        let mut sim = Sim::new(32);
        for number in 1..=100 {
            sim.lan_host(number);
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
        sim.host(1, knows(&[2]));
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
        sim.host(2, quiet());
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
        sim.host(1, knows(&[2]));
        sim.host(
            2,
            NodeConfig {
                plain: PlainPolicy::Deny,
                ..quiet()
            },
        );
        sim.ping(0, ipv6(2)).unwrap();
        let now = sim.now;
        sim.hosts[0]
            .node
            .send_datagram(now, 1, ipv6(2), 2, b"x")
            .unwrap();
        sim.hosts[0].node.open(now, 1, ipv6(2), 2).unwrap();
        assert_eq!(
            sim.hosts[1].node.send_datagram(now, 1, ipv6(1), 2, b"x"),
            Err(Failure::Policy)
        );
        assert_eq!(
            sim.hosts[1].node.open(now, 1, ipv6(1), 2),
            Err(Failure::Policy)
        );
        sim.run(ms(500));
        assert!(
            sim.hosts[1].program.datagrams.is_empty() && sim.hosts[1].program.accepted.is_empty()
        );
        assert_eq!(sim.counters(1).dropped_policy, 2);
    }
}

mod streams {
    use super::*;
    use crate::overlay::StreamId;

    /// Bytes that are not periodic in anything a packet could hide.
    fn pattern(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn open(sim: &mut Sim, from: usize, number: u16, port: u16) -> StreamId {
        let now = sim.now;
        sim.hosts[from]
            .node
            .open(now, 40_000, ipv6(number), port)
            .unwrap()
    }

    fn transfer(sim: &mut Sim, len: usize, limit: Duration) -> Duration {
        let data = pattern(len);
        let stream = open(sim, 0, 2, 80);
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (data.clone(), 0));
        let took = sim.until(limit, "the transfer", |sim| {
            sim.has_event(1, |event| {
                matches!(event, OverlayEvent::StreamFinished { .. })
            })
        });
        let incoming = sim.hosts[1].program.accepted[0];
        assert!(
            sim.hosts[1].program.read[&incoming] == data,
            "every byte arrives once and in order"
        );
        took
    }

    #[test]
    fn ten_megabytes_cross_a_link_that_loses_and_reorders() {
        // A60, A64, A65
        let mut sim = Sim::pair(3);
        sim.link = Link {
            jitter: ms(2),
            loss: 50,
            duplicate: 10,
            ..Link::default()
        };
        let took = transfer(&mut sim, 10 << 20, secs(600));
        println!("10 MiB with 5 % loss, 1 % duplicates, 2 ms jitter, 20 ms RTT: {took:?}");
    }

    #[test]
    fn a_transfer_goes_on_while_the_sender_roams() {
        // A2, S17
        for roamer in [0, 1] {
            let mut sim = Sim::pair(40 + roamer as u64);
            sim.link.rate = 12_500_000;
            let data = pattern(20 << 20);
            let stream = open(&mut sim, 0, 2, 80);
            sim.hosts[0]
                .program
                .to_write
                .insert(stream, (data.clone(), 0));
            sim.run(ms(400));
            let read = |sim: &Sim| {
                sim.hosts[1]
                    .program
                    .read
                    .values()
                    .map(Vec::len)
                    .sum::<usize>()
            };
            let before = read(&sim);
            assert!(before > 0 && before < data.len(), "{before}");
            sim.hosts[roamer].at = elsewhere(7);
            // Who roams does not know it: its next packets tell. A silent receiver is asked by its own acknowledgements' silence.
            let took = sim.until(secs(60), "progress", |sim| read(sim) > before + (4 << 20));
            println!("host {} roamed: 4 MiB more after {took:?}", roamer + 1);
            assert!(took < secs(10), "{took:?}");
            sim.until(secs(60), "the end", |sim| {
                sim.has_event(1, |event| {
                    matches!(event, OverlayEvent::StreamFinished { .. })
                })
            });
            let incoming = sim.hosts[1].program.accepted[0];
            assert!(sim.hosts[1].program.read[&incoming] == data);
            assert_eq!(
                sim.used(1 - roamer, roamer as u16 + 1),
                Some("udp://198.51.100.7:4000".into())
            );
        }
    }

    #[test]
    fn a_transfer_survives_a_partition_of_twenty_seconds() {
        let mut sim = Sim::pair(43);
        sim.link.rate = 12_500_000;
        let data = pattern(20 << 20);
        let stream = open(&mut sim, 0, 2, 80);
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (data.clone(), 0));
        sim.run(ms(400));
        sim.cut.push((home(1), home(2)));
        sim.run(secs(20));
        sim.cut.clear();
        sim.until(secs(120), "the end", |sim| {
            sim.has_event(1, |event| {
                matches!(event, OverlayEvent::StreamFinished { .. })
            })
        });
        let incoming = sim.hosts[1].program.accepted[0];
        assert!(sim.hosts[1].program.read[&incoming] == data);
    }

    #[test]
    fn a_restarted_peer_is_met_again() {
        // A41, D20
        let mut sim = Sim::pair(44);
        open(&mut sim, 0, 2, 80);
        sim.run(secs(1));
        sim.restart(1, 2, quiet());
        // It knows nobody's short id; PING carries the whole address and is answered at once.
        assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
        let now = sim.now;
        let second = sim.hosts[0].node.open(now, 40_001, ipv6(2), 80).unwrap();
        sim.until(secs(3), "the second stream", |sim| {
            sim.has_event(0, |event| {
                *event == OverlayEvent::StreamOpened { stream: second }
            })
        });
    }

    #[test]
    fn half_close_and_close_are_told_to_both() {
        // A63, D35
        let mut sim = Sim::pair(45);
        let stream = open(&mut sim, 0, 2, 80);
        sim.until(secs(1), "the stream", |sim| {
            !sim.hosts[1].program.accepted.is_empty()
        });
        let incoming = sim.hosts[1].program.accepted[0];
        sim.hosts[0]
            .program
            .to_write
            .insert(stream, (b"question".to_vec(), 0));
        sim.until(secs(1), "the end of the question", |sim| {
            sim.has_event(1, |e| {
                *e == OverlayEvent::StreamFinished { stream: incoming }
            })
        });
        sim.run(secs(1));
        assert!(!sim.has_event(0, |event| matches!(
            event,
            OverlayEvent::StreamFinished { .. }
        )));
        sim.hosts[1]
            .program
            .to_write
            .insert(incoming, (b"answer".to_vec(), 0));
        sim.until(secs(1), "the close", |sim| {
            sim.has_event(0, |event| *event == OverlayEvent::StreamClosed { stream })
        });
        sim.until(secs(1), "the close", |sim| {
            sim.has_event(1, |event| {
                *event == OverlayEvent::StreamClosed { stream: incoming }
            })
        });
        assert_eq!(sim.hosts[0].program.read[&stream], b"answer");
        assert_eq!(sim.hosts[0].node.stream_count(), 1, "it lingers");
        sim.run(secs(130));
        assert_eq!(
            (
                sim.hosts[0].node.stream_count(),
                sim.hosts[1].node.stream_count()
            ),
            (0, 0)
        );
        assert_eq!((sim.peer(0, 2).streams, sim.peer(1, 1).streams), (0, 0));
    }

    #[test]
    fn refusals_say_why() {
        // A61, DESIGN §5
        for (failure, told) in [
            (Failure::Refused, Failure::Refused),
            (Failure::Policy, Failure::Policy),
            (Failure::Reset, Failure::Reset),
            (Failure::TimedOut, Failure::TimedOut),
        ] {
            let mut sim = Sim::pair(46);
            sim.hosts[1].program.accepts = false;
            let stream = open(&mut sim, 0, 2, 80);
            sim.until(secs(1), "the stream", |sim| {
                sim.has_event(1, |event| {
                    matches!(event, OverlayEvent::StreamIncoming { .. })
                })
            });
            let Some((
                _,
                OverlayEvent::StreamIncoming {
                    stream: incoming,
                    from,
                    from_port,
                    to,
                    to_port,
                },
            )) = sim.hosts[1].program.events.last().cloned()
            else {
                panic!("not incoming")
            };
            assert_eq!(
                (from, from_port, to, to_port),
                (ipv6(1), 40_000, ipv6(2), 80),
                "D28, S14"
            );
            let now = sim.now;
            sim.hosts[1].node.abort(now, incoming, failure);
            sim.until(secs(1), "the refusal", |sim| {
                sim.has_event(0, |event| {
                    *event
                        == OverlayEvent::StreamFailed {
                            stream,
                            failure: told,
                        }
                })
            });
        }
    }

    #[test]
    fn a_reset_reaches_the_other_end_of_an_open_stream() {
        let mut sim = Sim::pair(47);
        let stream = open(&mut sim, 0, 2, 80);
        sim.until(secs(1), "the answer", |sim| {
            sim.has_event(0, |event| *event == OverlayEvent::StreamOpened { stream })
        });
        let incoming = sim.hosts[1].program.accepted[0];
        let now = sim.now;
        sim.hosts[0].node.abort(now, stream, Failure::Reset);
        sim.until(secs(1), "the reset", |sim| {
            sim.has_event(1, |event| {
                *event
                    == OverlayEvent::StreamFailed {
                        stream: incoming,
                        failure: Failure::Reset,
                    }
            })
        });
        assert!(
            !sim.has_event(0, |event| matches!(
                event,
                OverlayEvent::StreamFailed { .. }
            )),
            "who resets is told nothing"
        );
    }

    #[test]
    fn a_flood_of_opens_is_capped_per_peer_and_in_all() {
        // S22
        let mut sim = Sim::pair(48);
        sim.hosts[1].program.accepts = false;
        sim.hosts[1].node.config.limits.pending_streams = 300;
        sim.ping(0, ipv6(2)).unwrap();
        let open = |from: u16, link: u16| {
            let links = anode_wire::message::Links {
                sender: link,
                receiver: 80,
            };
            packet(
                from,
                2,
                &Message::Stream(anode_wire::message::StreamMessage::Open {
                    links,
                    window: 64,
                    isn: 7,
                    flags: 1,
                }),
                true,
            )
        };
        for link in 1..=1000 {
            sim.inject(home(1), home(2), open(1, link));
            // Repeats of an S_OPEN multiply nothing.
            sim.inject(home(1), home(2), open(1, 1));
        }
        sim.run(ms(100));
        assert_eq!(sim.hosts[1].node.stream_count(), 256);
        for link in 1..=1000 {
            sim.inject(home(3), home(2), open(3, link));
        }
        sim.run(ms(100));
        assert_eq!(sim.hosts[1].node.stream_count(), 300);
        assert_eq!(sim.counters(1).dropped_opens, 744 + 956);
        // Nobody answers them: their time is limited.
        sim.run(secs(200));
        assert_eq!(sim.hosts[1].node.stream_count(), 0);
        assert_eq!(sim.hosts[1].node.streams.pending, 0);
    }

    #[test]
    fn a_source_port_in_use_gets_another_link_id() {
        // A62, S25, N12
        let mut sim = Sim::pair(49);
        let (first, second) = (open(&mut sim, 0, 2, 80), open(&mut sim, 0, 2, 80));
        assert_ne!(first, second);
        sim.run(secs(1));
        for stream in [first, second] {
            assert!(sim.has_event(0, |event| *event == OverlayEvent::StreamOpened { stream }));
        }
        let ports: Vec<u16> = sim.hosts[1]
            .program
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                OverlayEvent::StreamIncoming { from_port, .. } => Some(*from_port),
                _ => None,
            })
            .collect();
        assert!(
            ports.len() == 2 && ports[0] == 40_000 && ports[1] != 40_000,
            "{ports:?}"
        );
    }

    #[test]
    fn pings_overtake_a_bulk_transfer() {
        let mut sim = Sim::pair(50);
        let bulk = open(&mut sim, 0, 2, 80);
        sim.run(ms(200));
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        assert!(node.write(now, bulk, &[5; 100_000]) > 10_000);
        node.ping(now, ipv6(2), 1, b"small").unwrap();
        let mut batch = TransmitBatch::new(64);
        assert!(node.poll_transmit(now, &mut batch));
        let kinds: Vec<u8> = batch
            .packets()
            .map(|packet| Packet::new_checked(packet).unwrap().kind())
            .collect();
        assert_eq!(kinds, [kind::PING]);
        batch.clear(64);
        assert!(node.poll_transmit(now, &mut batch));
        assert!(batch.segments() > 1);
    }

    #[test]
    fn streams_take_turns() {
        let mut sim = Sim::pair(51);
        let streams: Vec<StreamId> = (0..10)
            .map(|port| open(&mut sim, 0, 2, 80 + port))
            .collect();
        sim.run(ms(200));
        for stream in &streams {
            sim.hosts[0]
                .program
                .to_write
                .insert(*stream, (pattern(4 << 20), 0));
        }
        sim.run(ms(700));
        let shares: Vec<usize> = sim.hosts[1].program.read.values().map(Vec::len).collect();
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(shares.len() == 10 && *least * 2 > *most, "{shares:?}");
    }

    #[test]
    fn batches_hold_equal_packets_of_several_streams() {
        let mut sim = Sim::pair(52);
        let streams: Vec<StreamId> = (0..4).map(|port| open(&mut sim, 0, 2, 80 + port)).collect();
        sim.run(ms(200));
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        for stream in &streams {
            assert!(node.write(now, *stream, &[5; 100_000]) > 10_000);
        }
        let mut batch = TransmitBatch::new(64);
        let mut sizes = Vec::new();
        loop {
            batch.clear(64);
            if !node.poll_transmit(now, &mut batch) {
                break;
            }
            assert!(
                batch.contents.len() <= MAX_BATCH_BYTES && batch.segments() <= MAX_BATCH_SEGMENTS
            );
            assert!(batch.packets().all(|packet| packet.len() <= 1232));
            sizes.push(batch.segments());
        }
        assert!(
            sizes.iter().sum::<usize>() >= 40 && sizes[0] > 16,
            "{sizes:?}"
        );
    }
}

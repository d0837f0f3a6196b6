//! Changed, repeated, reflected and invented packets (Q18 to Q20, Q23, Q24, S6 to S12).
use super::super::hello::UnknownIndex;
use super::super::*;
use super::net::*;
use crate::message::kind as plain;
use crate::packet::FLAG_AUTH_ERROR;
use crate::{Packet, PeerId};
use rand::Rng;

fn sealed_by(world: &mut World, node: usize, body: &[u8]) -> Vec<u8> {
    let (key, now) = (world.key(node), world.clock(node));
    let sessions = &mut world.nodes[node].sessions;
    sessions.seal_copy(now, key, plain::DGRAM, body).unwrap()
}

// Q18, S6, S9: all 16 bytes of the tag count, wherever they stand; the hop count does not
#[test]
fn no_bit_of_a_sealed_packet_can_be_changed_but_the_hop_count() {
    let mut world = World::new(1);
    world.connect();
    let packet = sealed_by(&mut world, A, b"do not touch");
    for bit in 8..packet.len() * 8 {
        let mut changed = packet.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let outcome = world.hand(B, &changed);
        let refused = matches!(outcome, Outcome::Dropped(_) | Outcome::Plain);
        assert!(refused, "bit {bit}: {outcome:?}");
    }
    assert!(world.dropped(B, Drop::Tag) > 128);
    let mut relayed = packet;
    relayed[0] = 9;
    match world.hand(B, &relayed) {
        Outcome::Opened { from, body, .. } => {
            assert_eq!((from.hop_count, body), (9, SEALED_BODY..SEALED_BODY + 12));
        }
        other => panic!("{other:?}"),
    }
}

// Q18, S6: cut and lengthened packets
#[test]
fn truncated_and_lengthened_packets_are_refused() {
    let mut world = World::new(2);
    world.connect();
    let packet = sealed_by(&mut world, A, b"0123456789");
    for len in 0..packet.len() {
        let outcome = world.hand(B, &packet[..len]);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{len}: {outcome:?}");
    }
    let longer = [&packet[..], &[0]].concat();
    assert_eq!(world.hand(B, &longer), Outcome::Dropped(Drop::Tag));
}

// Q19
#[test]
fn ids_and_peer_ids_must_be_the_sessions_own() {
    let mut world = World::new(3);
    world.connect();
    let packet = sealed_by(&mut world, A, b"me");
    for at in (10..28).filter(|at| *at != 27) {
        let mut changed = packet.clone();
        changed[at] ^= 0x11;
        assert_eq!(world.hand(B, &changed), Outcome::Dropped(Drop::WrongParty));
    }
    // Of another peer of the same address: a session of its own, an index of its own.
    let other = Config {
        peer: PeerId::new(3).unwrap(),
        ..Config::default()
    };
    let a = identity(A as u8);
    let mut third = Sessions::new(&a, other, Box::new(world.another_rng()));
    assert_eq!(third.own().address, world.pair(A).address);
    let mut copy = packet.clone();
    let source = Source {
        endpoint: b"x",
        network: 1,
    };
    let now = world.clock(A);
    let outcome = third.handle(now, source, &mut copy);
    assert_eq!(outcome, Outcome::Dropped(Drop::NotForUs));
}

// Q20, S8
#[test]
fn packets_pass_in_any_order_once() {
    let mut world = World::new(4);
    world.connect();
    let mut packets: Vec<_> = (0..3000u32)
        .map(|i| sealed_by(&mut world, A, &i.to_be_bytes()))
        .collect();
    for i in (1..packets.len()).rev() {
        let j = world.rng.next_u32() as usize % (i + 1);
        packets.swap(i, j);
    }
    let mut newest = 0;
    for packet in &packets {
        match world.hand(B, packet) {
            Outcome::Opened { from, .. } => {
                assert_eq!(from.newest, from.counter > newest || newest == 0);
                newest = newest.max(from.counter);
            }
            other => panic!("{other:?}"),
        }
    }
    for packet in &packets {
        assert_eq!(world.hand(B, packet), Outcome::Dropped(Drop::Replay));
    }
}

// Q20, S8: a forged counter does not move the window
#[test]
fn the_window_moves_only_for_authentic_packets() {
    let mut world = World::new(5);
    world.connect();
    let packet = sealed_by(&mut world, A, b"small number");
    let mut forged = packet.clone();
    forged[32..40].copy_from_slice(&(1u64 << 40).to_be_bytes());
    assert_eq!(world.hand(B, &forged), Outcome::Dropped(Drop::Tag));
    assert!(matches!(world.hand(B, &packet), Outcome::Opened { .. }));
}

// S7, U2: every packet of a whole life, again, to everybody
#[test]
fn replays_have_no_effect_on_anybody() {
    let mut world = World::new(6);
    world.say(A, b"one");
    world.run(secs(1));
    world.say(B, b"two");
    world.run(secs(1));
    let log = world.log.clone();
    let before = (world.up(A), world.up(B));
    for wait in [ms(1), secs(61)] {
        world.run(wait);
        for (_, _, packet) in &log {
            for node in [A, B] {
                let outcome = world.hand(node, packet);
                let refused = matches!(outcome, Outcome::Dropped(_) | Outcome::Plain);
                assert!(refused, "{outcome:?}");
            }
        }
    }
    assert_eq!((world.up(A), world.up(B)), before);

    // To a third party: it is not meant.
    let c = identity(7);
    let mut third = Sessions::new(&c, Config::default(), Box::new(world.another_rng()));
    for (_, _, packet) in &log {
        let now = world.clock(A);
        let source = Source {
            endpoint: b"x",
            network: 1,
        };
        let outcome = third.handle(now, source, &mut packet.clone());
        assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
    }
    assert_eq!(third.sizes(), [0; 4]);

    // After a restart with its disk.
    world.restart(B, true);
    for (_, _, packet) in &log {
        let outcome = world.hand(B, packet);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
    }
    assert!(world.up(B).is_none());
    let heard = world.nodes[B].heard.len();
    world.run(secs(1));
    assert_eq!(world.nodes[B].heard.len(), heard);
}

// S7: after a restart without its disk an old HELLO gets an answer, and no session comes of it
#[test]
fn an_old_hello_leads_to_no_session_even_without_the_disk() {
    let mut world = World::new(7);
    world.say(A, b"secret");
    world.run(secs(1));
    let log = world.log.clone();
    world.restart(B, false);
    for (_, from, packet) in &log {
        if *from == A {
            world.hand(B, packet);
        }
    }
    assert!(world.up(B).is_none());
    assert_eq!(world.nodes[B].heard, [b"secret".to_vec()], "no second time");
    world.run(secs(30));
    assert_eq!(world.nodes[B].sessions.sizes()[2], 0);
}

// S7
#[test]
fn ones_own_packets_sent_back_are_dropped() {
    let mut world = World::new(8);
    world.start(A, Reason::Traffic);
    let hello = world.sent(A, kind::HELLO)[0].clone();
    let mut reflected = hello.clone();
    reflected[50..58].copy_from_slice(&world.pair(A).address.id().0);
    assert_eq!(world.hand(A, &hello), Outcome::Dropped(Drop::NotForUs));
    assert_eq!(world.hand(A, &reflected), Outcome::Dropped(Drop::Reflected));
    assert_eq!(world.start_with(A, world.pair(A)), Started::Own);
}

// Q24: restart of the far side is noticed by its ERROR, and repaired within a second
#[test]
fn a_restarted_peer_is_found_again_within_a_second() {
    for node in [A, B] {
        let mut world = World::new(9);
        world.connect();
        world.run(secs(20));
        world.restart(node, true);
        world.run(ms(100));
        world.say(1 - node, b"lost");
        world.run(secs(1));
        world.say(1 - node, b"heard");
        world.run(ms(100));
        assert_eq!(world.nodes[node].heard, [b"heard".to_vec()]);
        let errors = world.sent(node, plain::ERROR);
        assert_eq!(errors.len(), 1);
        let error = Packet::new_checked(&errors[0][..]).unwrap();
        assert_eq!(error.flags(), FLAG_AUTH_ERROR);
        assert_eq!(error.as_bytes().len(), 42, "less than any cause");
        assert_eq!(&error.body()[..2], &[0, 2]);
    }
}

// Q24, S11
#[test]
fn errors_are_believed_for_three_seconds_and_start_one_hello() {
    let mut world = World::new(10);
    world.connect();
    world.run(secs(10));
    let packet = sealed_by(&mut world, A, b"the cause");
    let view = Packet::new_checked(&packet[..]).unwrap();
    let (index, counter) = (hello::be32(&packet, 28), hello::be64(&packet, 32));
    let error = |index, counter| UnknownIndex { index, counter }.answer(&view);
    let hellos = world.sent(A, kind::HELLO).len();

    for wrong in [error(index ^ 1, counter), error(index, counter + 1)] {
        assert_eq!(world.hand(A, &wrong), Outcome::Dropped(Drop::NotExpected));
    }
    assert_eq!(world.sent(A, kind::HELLO).len(), hellos);
    let good = error(index, counter);
    for _ in 0..20 {
        assert_eq!(world.hand(A, &good), Outcome::Consumed { from: None });
    }
    assert_eq!(world.sent(A, kind::HELLO).len(), hellos + 1);
    assert!(world.up(A).is_some(), "no session is dropped for it");
    world.run(ms(3100));
    assert_eq!(world.hand(A, &good), Outcome::Dropped(Drop::NotExpected));
}

// Q24: an index of ours with the far side's ids, and floods
#[test]
fn errors_go_only_to_packets_for_us_and_are_throttled() {
    let mut world = World::new(11);
    world.connect();
    let packet = sealed_by(&mut world, A, b"x");
    let mut foreign = packet.clone();
    foreign[28] ^= 1;
    foreign[18] ^= 1;
    assert_eq!(world.hand(B, &foreign), Outcome::Dropped(Drop::NotForUs));
    let mut unknown = packet;
    unknown[28] ^= 1;
    for _ in 0..10_000 {
        assert_eq!(
            world.hand(B, &unknown),
            Outcome::Dropped(Drop::UnknownIndex)
        );
    }
    let limit = u64::from(world.nodes[B].config.limits.errors_network.burst);
    assert_eq!(world.nodes[B].sessions.counters().errors_sent, limit);
    assert_eq!(world.dropped(B, Drop::ErrorThrottled), 10_000 - limit);
}

// Q23, Q26, S12
#[test]
fn what_may_go_in_plain() {
    let traffic = [plain::DGRAM, plain::S_OPEN, plain::S_CLOSE, plain::S_DATA];
    let sealed_only = [
        plain::IPPKT,
        kind::FRAGMENT,
        kind::KEM,
        kind::JOIN,
        kind::JOINED,
        kind::RELOAD,
        kind::SEALED,
    ];
    let hints = [plain::PING, plain::EPC_REQ, plain::EPI, plain::NETID];
    for policy in [Plain::Deny, Plain::Allow, Plain::Only] {
        let config = || Config {
            plain: policy,
            ..Config::default()
        };
        let mut world = World::with(12, [config(), config()]);
        let b = world.pair(B).address;
        let permitted = |world: &World, message_kind, for_os| {
            let sessions = &world.nodes[A].sessions;
            sessions.plain_permitted(&b, message_kind, for_os)
        };
        for message_kind in traffic {
            let expected = policy != Plain::Deny;
            assert_eq!(permitted(&world, message_kind, false), expected);
        }
        assert_eq!(
            permitted(&world, plain::PING, true),
            policy != Plain::Deny,
            "on behalf of the OS"
        );
        assert!(hints.iter().all(|kind| permitted(&world, *kind, false)));
        assert!(
            !sealed_only
                .iter()
                .any(|kind| permitted(&world, *kind, false))
        );

        if policy == Plain::Only {
            assert_eq!(world.start(A, Reason::Traffic), Started::PlainOnly);
            let mut other = World::new(12);
            other.start(B, Reason::Traffic);
            let hello = other.sent(B, kind::HELLO)[0].clone();
            assert_eq!(world.hand(A, &hello), Outcome::Dropped(Drop::PlainOnly));
            continue;
        }
        // Once seen sealed, and long after: no way back without the operator (S12), across a restart.
        world.connect();
        assert!(permitted(&world, kind::HELLO, false));
        assert!(!hints.iter().any(|kind| permitted(&world, *kind, false)));
        world.restart(A, true);
        assert!(hints.iter().all(|kind| permitted(&world, *kind, false)));
        assert!(!permitted(&world, plain::DGRAM, false));
        let pair = world.pair(B);
        world.nodes[A].sessions.forget(&pair);
        assert_eq!(
            permitted(&world, plain::DGRAM, false),
            policy != Plain::Deny
        );
    }
}

// S10, U21: two addresses with one short id are told apart by key
#[test]
fn a_colliding_short_id_does_not_reach_anothers_session() {
    let mut world = World::new(13);
    world.connect();
    // The table of short ids, made to hold a second address under B's id.
    let other = Pair {
        address: *identity(8).address(),
        peer: PeerId::ANY,
    };
    let now = world.now;
    let sessions = &mut world.nodes[A].sessions;
    let key = sessions.entry(now, other).unwrap();
    let id = world.nodes[B].sessions.own().address.id();
    world.nodes[A]
        .sessions
        .ids
        .get_mut(&id)
        .unwrap()
        .insert(0, key);
    let b = world.pair(B).address;
    assert!(world.nodes[A].sessions.has_session(&b));
    assert!(!world.nodes[A].sessions.has_session(&other.address));
    let packet = sealed_by(&mut world, B, b"from b");
    match world.hand(A, &packet) {
        Outcome::Opened { from, .. } => {
            assert_eq!(world.nodes[A].sessions.pair(from.peer), Some(world.pair(B)));
        }
        other => panic!("{other:?}"),
    }
}

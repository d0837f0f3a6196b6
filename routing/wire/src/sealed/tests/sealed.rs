//! The packet to the byte, fragments, and what the caller gets (Q18, Q19, Q21, Q25's `newest`).
use super::super::*;
use super::net::*;
use crate::message::kind as plain;
use crate::{Header, Party};
use proptest::prelude::*;

// Q18, Q19
#[test]
fn a_sealed_packet_is_laid_out_as_specified() {
    let mut world = World::new(1);
    world.connect();
    let (key, now) = (world.key(A), world.clock(A));
    let body = b"body";
    let mut packet = vec![0xee; SEALED_BODY + body.len() + SEALED_TAIL];
    packet[SEALED_BODY..][..4].copy_from_slice(body);
    let sessions = &mut world.nodes[A].sessions;
    let number = sessions.seal(now, key, plain::DGRAM, &mut packet).unwrap();
    assert_eq!(packet.len(), 28 + 4 + 8 + 1 + 4 + 8);

    let mut expected = [0; 28];
    Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Id(world.pair(A).address.id()),
        recipient: Party::Id(world.pair(B).address.id()),
        sender_peer: world.pair(A).peer,
        recipient_peer: world.pair(B).peer,
        kind: 0x42,
    }
    .emit(&mut expected);
    expected[2..10].copy_from_slice(&packet[2..10]);
    assert_eq!(packet[..28], expected);
    assert_ne!(packet[2..10], [0; 8], "the first half of the tag");
    assert_eq!(packet[32..40], number.to_be_bytes());
    assert_ne!(&packet[41..45], body);
    assert!(matches!(
        world.hand(B, &packet),
        Outcome::Opened { kind: 9, .. }
    ));
}

// Q18: sealing again gives other bytes: the counter moves
#[test]
fn counters_start_at_zero_under_new_keys_and_never_repeat() {
    let mut world = World::new(2);
    world.connect();
    let (key, now) = (world.key(B), world.clock(B));
    let sessions = &mut world.nodes[B].sessions;
    let mut sealer = sessions.sealer(now, key).unwrap();
    let mut packet = [0; 60];
    let first = sealer.seal(plain::DGRAM, &mut packet).unwrap();
    assert!(first <= 1, "at most the empty answer came before");
    for next in first + 1..first + 100 {
        assert_eq!(sealer.seal(plain::DGRAM, &mut packet), Ok(next));
    }
    assert_eq!(
        sealer.seal(plain::DGRAM, &mut [0; 48]),
        Err(SealError::TooShort)
    );
}

// Q21
#[test]
fn large_messages_cross_as_fragments() {
    let mut world = World::new(3);
    world.connect();
    for len in [0, 1, 1100, 1177, 30_000, MAX_DATAGRAM - 1] {
        let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let (key, now) = (world.key(A), world.clock(A));
        let sessions = &mut world.nodes[A].sessions;
        let packets = sessions
            .seal_fragments(now, key, plain::DGRAM, &body, 1232)
            .unwrap();
        assert!(packets.iter().all(|packet| packet.len() <= 1232));
        for packet in packets.into_iter().rev() {
            world.launch(A, B, packet);
        }
        world.run(ms(100));
        assert!(world.nodes[B].heard.pop() == Some(body), "{len}");
    }
    assert_eq!(world.nodes[B].sessions.sizes()[3], 0);
    let (key, now) = (world.key(A), world.clock(A));
    let sessions = &mut world.nodes[A].sessions;
    let too_large = vec![0; MAX_DATAGRAM];
    let sealed = sessions.seal_fragments(now, key, plain::DGRAM, &too_large, 1232);
    assert_eq!(sealed, Err(SealError::TooLong));
}

// Q21: 5 s, and all memory comes back
#[test]
fn incomplete_datagrams_are_forgotten() {
    let mut world = World::new(4);
    world.connect();
    for _ in 0..50 {
        let (key, now) = (world.key(A), world.clock(A));
        let sessions = &mut world.nodes[A].sessions;
        let mut packets = sessions
            .seal_fragments(now, key, plain::DGRAM, &[7; 20_000], 1232)
            .unwrap();
        packets.pop();
        packets.into_iter().for_each(|p| world.launch(A, B, p));
    }
    world.run(secs(1));
    let held = world.nodes[B].sessions.sizes()[3];
    assert!(held > 200_000 && held <= 256 * 1024, "{held}");
    assert!(world.dropped(B, Drop::FragmentRoom) > 0);
    world.run(secs(5));
    assert_eq!(world.nodes[B].sessions.sizes()[3], 0);
    assert!(world.dropped(B, Drop::FragmentTimeout) >= 10);
    assert!(world.nodes[B].heard.is_empty());
}

// Q21: what is cut must be what may come whole
#[test]
fn fragments_of_the_sessions_own_messages_are_refused() {
    let mut world = World::new(5);
    world.connect();
    for message_kind in [kind::FRAGMENT, kind::HELLO, kind::SEALED, kind::KEM] {
        let (key, now) = (world.key(A), world.clock(A));
        let sessions = &mut world.nodes[A].sessions;
        let packets = sessions
            .seal_fragments(now, key, message_kind, &[1; 2000], 1232)
            .unwrap();
        let outcomes: Vec<_> = packets.iter().map(|p| world.hand(B, p)).collect();
        assert!(matches!(outcomes[1], Outcome::Dropped(_)), "{outcomes:?}");
    }
}

// A stale key finds nothing
#[test]
fn sealing_without_a_session_says_so() {
    let mut world = World::new(6);
    world.attacker = Box::new(|_, _| Verdict::Drop);
    world.start(A, Reason::Traffic);
    let (key, now) = (world.key(A), world.clock(A));
    let sessions = &mut world.nodes[A].sessions;
    assert_eq!(
        sessions.seal_copy(now, key, plain::DGRAM, b"x"),
        Err(SealError::NoSession)
    );
    let stale = PeerKey {
        generation: key.generation.wrapping_sub(1),
        ..key
    };
    assert_eq!(sessions.pair(stale), None);
    assert_eq!(sessions.state(stale), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    // Q18
    #[test]
    fn bodies_of_every_length_and_type_come_through(body in prop::collection::vec(any::<u8>(), 0..1500), message_kind in 0u8..0x40) {
        let mut world = World::with_pq(7, [Pq::Off, Pq::Off]);
        world.connect();
        let (key, now) = (world.key(A), world.clock(A));
        let mut packet = world.nodes[A].sessions.seal_copy(now, key, message_kind, &body).unwrap();
        let now = world.clock(B);
        let source = Source { endpoint: b"x", network: 0 };
        match world.nodes[B].sessions.handle(now, source, &mut packet) {
            Outcome::Opened { kind, body: range, .. } => {
                prop_assert_eq!(kind, message_kind);
                prop_assert_eq!(&packet[range], &body[..]);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

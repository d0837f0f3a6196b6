//! ML-KEM inside the session: losses, order, policy, pins (Q12 to Q15).
use super::super::session::Stage;
use super::super::*;
use super::net::*;
use crate::message::kind as plain;
use rand::Rng;

/// Every packet late by a different amount, a third of them twice, a share lost.
fn rough(percent: u32) -> Attacker {
    Box::new(move |flight, rng| match rng.next_u32() % 100 {
        share if share < percent => Verdict::Drop,
        share if share % 3 == 0 => Verdict::Delay(ms(rng.next_u32() as u64 % 90)),
        share if share % 3 == 1 => Verdict::Instead(vec![flight.packet.clone(); 2]),
        _ => Verdict::Pass,
    })
}

// Q13
#[test]
fn it_comes_through_loss_copies_and_disorder() {
    for seed in 0..100 {
        let mut world = World::new(2000 + seed);
        world.attacker = rough(seed as u32 / 2);
        world.connect();
        let (a, b) = (world.up(A).unwrap(), world.up(B).unwrap());
        assert!(a.pq && b.pq, "seed {seed}");
    }
}

// Q13: a repeated key gets the same answer and costs nothing
#[test]
fn the_responder_answers_copies_of_a_key_without_new_work() {
    let mut world = World::new(1);
    let mut late = 0;
    world.attacker = Box::new(move |flight, _| {
        // All answers but the fourth are lost.
        if flight.from == B && kind_of(&flight.packet) == kind::SEALED {
            late += 1;
            if late < 4 {
                return Verdict::Drop;
            }
        }
        Verdict::Pass
    });
    world.connect();
    world.run(secs(1));
    let answers: Vec<_> = world
        .sent(B, kind::SEALED)
        .into_iter()
        .filter(|packet| packet.len() > 1000)
        .collect();
    assert!(answers.len() >= 4);
    assert_eq!(answers[0].len(), SEALED_OVERHEAD + 1 + 1097);
    assert!(answers[0].len() <= MAX_HANDSHAKE_PACKET);
    assert_eq!(world.nodes[B].sessions.counters().kem_operations, 1);
    assert_eq!(world.nodes[A].sessions.counters().kem_operations, 2);
}

// Q13: two FRAGMENTs, repeated at 250 ms, doubling, to 10 s
#[test]
fn the_key_goes_as_two_fragments_on_a_doubling_schedule() {
    let mut world = World::new(2);
    world.attacker = Box::new(|flight, _| match (flight.from, kind_of(&flight.packet)) {
        (B, kind::SEALED) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    world.start(A, Reason::Traffic);
    world.run(secs(59));
    let mut times: Vec<_> = world
        .log
        .iter()
        .filter(|(_, from, packet)| *from == A && kind_of(packet) == kind::SEALED)
        .map(|(at, _, packet)| {
            assert!(packet.len() <= MAX_HANDSHAKE_PACKET);
            *at
        })
        .collect();
    assert!(times.chunks(2).all(|pair| pair[0] == pair[1]));
    times.dedup();
    let waits: Vec<_> = times
        .windows(2)
        .map(|w| (w[1] - w[0]).as_millis())
        .collect();
    assert_eq!(
        waits[..8],
        [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]
    );
}

// Q13, Q14: silence never downgrades
#[test]
fn without_its_answer_there_is_no_session_and_no_traffic() {
    let mut world = World::new(3);
    world.attacker = Box::new(|flight, _| match (flight.from, kind_of(&flight.packet)) {
        (B, kind::SEALED) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    world.say(A, b"must not leave");
    world.run(secs(65));
    assert!(world.up(A).is_none() && world.up(B).is_none());
    assert!(world.nodes[B].heard.is_empty());
    assert!(world.nodes[A].events.contains(&Event::HandshakeFailed {
        pair: world.pair(B),
        reason: Failed::KemTimeout,
    }));
}

// Q14
#[test]
fn before_it_is_through_a_session_takes_nothing_else() {
    let mut world = World::new(4);
    world.attacker = Box::new(|flight, _| match (flight.from, kind_of(&flight.packet)) {
        (B, kind::SEALED) => Verdict::Drop,
        _ => Verdict::Pass,
    });
    world.start(A, Reason::Traffic);
    world.run(secs(1));
    let index = *world.nodes[A]
        .sessions
        .sessions
        .iter()
        .find(|(_, session)| matches!(session.stage, Stage::Kem))
        .unwrap()
        .0;
    let now = world.now;
    for (message, expected) in [
        (Some((plain::DGRAM, &b"early"[..])), Some(Drop::BeforeKem)),
        (Some((kind::JOIN, &b"early"[..])), Some(Drop::BeforeKem)),
        (Some((kind::HELLO, &b"odd"[..])), Some(Drop::Malformed)),
        (Some((kind::KEM, &b"odd"[..])), Some(Drop::Kem)),
        // One whole fragment, of a DGRAM.
        (
            Some((kind::FRAGMENT, &[0, 0, 0, 9, 0, 1, 9, 1, 2][..])),
            Some(Drop::BeforeKem),
        ),
        (None, None),
    ] {
        world.nodes[A].sessions.send_in(now, index, message);
        let packet = world.nodes[A].sessions.poll_transmit().unwrap().packet;
        let outcome = world.hand(B, &packet);
        match expected {
            Some(reason) => assert_eq!(outcome, Outcome::Dropped(reason), "{message:?}"),
            None => assert!(matches!(outcome, Outcome::Consumed { .. })),
        }
    }
    assert!(world.up(B).is_none());
}

// Q13, Q14: what the peer says of itself in the handshake decides
#[test]
fn policies_meet() {
    use Pq::*;
    for (a, b, expected) in [
        (Prefer, Prefer, Some(true)),
        (Prefer, Require, Some(true)),
        (Require, Require, Some(true)),
        (Prefer, Off, Some(false)),
        (Off, Prefer, Some(false)),
        (Off, Off, Some(false)),
        (Require, Off, None),
        (Off, Require, None),
    ] {
        let mut world = World::with_pq(5, [a, b]);
        world.say(A, b"x");
        world.run(secs(40));
        assert_eq!(world.up(A).map(|up| up.pq), expected, "{a:?} calls {b:?}");
        assert_eq!(world.up(B).map(|up| up.pq), expected);
        assert_eq!(world.nodes[B].heard.len(), usize::from(expected.is_some()));
    }
}

// Q13, Q14, S12: a peer once seen with it is held to it, across restarts of both
#[test]
fn a_peer_that_has_done_it_must_go_on() {
    for caller in [A, B] {
        let mut world = World::new(6);
        world.connect();
        world.run(secs(1));
        world.nodes[B].config.pq = Pq::Off;
        world.restart(B, true);
        world.restart(A, true);
        world.start(caller, Reason::Traffic);
        world.run(secs(30));
        assert!(world.up(A).is_none() && world.up(B).is_none());
        assert!(world.dropped(A, Drop::PqRequired) > 0);
        // By an operator's word it goes on without.
        let b = world.pair(B);
        world.nodes[A].sessions.forget(&b);
        world.start(caller, Reason::Traffic);
        world.run(secs(5));
        assert!(!world.up(A).unwrap().pq);
    }
}

// Q14: during a rekey traffic stays on the previous session
#[test]
fn traffic_stays_on_the_previous_session_meanwhile() {
    let mut world = World::new(7);
    world.connect();
    world.run(secs(1));
    world.attacker = Box::new(|flight, _| {
        let kem = kind_of(&flight.packet) == kind::SEALED && flight.packet.len() > 600;
        if kem { Verdict::Drop } else { Verdict::Pass }
    });
    let (key, now) = (world.key(A), world.clock(A));
    world.nodes[A].sessions.start_peer(now, key, Reason::Rekey);
    world.start(A, Reason::Rekey);
    for i in 0..20u8 {
        world.run(ms(200));
        world.say(A, &[i]);
        world.say(B, &[i]);
    }
    world.run(ms(100));
    assert_eq!(world.nodes[A].heard.len(), 20);
    assert_eq!(world.nodes[B].heard.len(), 20);
}

// Q12, Q15: the formulas, computed here once more from their parts
#[test]
fn keys_are_derived_as_specified() {
    use super::super::crypto::{first_keys, kem_keys};
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let hmac = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let hkdf = |salt: &[u8], input: &[u8], info: &[u8]| {
        let prk = hmac(salt, &[input]);
        let first = hmac(&prk, &[info, &[1]]);
        (first, hmac(&prk, &[&first, info, &[2]]))
    };
    let (hash, split, secret) = ([1; 32], [2; 64], [3; 32]);
    let keys = first_keys(&hash, &split);
    let (i2r, r2i) = hkdf(&hash, &split, b"anode sealed 1");
    assert_eq!(
        (*keys.initiator_to_responder, *keys.responder_to_initiator),
        (i2r, r2i)
    );
    let keys = kem_keys(&hash, b"step 1", b"step 2", &split, &secret);
    let salt = Sha256::digest([&hash[..], b"step 1", b"step 2"].concat());
    let (i2r, r2i) = hkdf(&salt, &[&split[..], &secret].concat(), b"anode kem 1");
    assert_eq!(
        (*keys.initiator_to_responder, *keys.responder_to_initiator),
        (i2r, r2i)
    );
}

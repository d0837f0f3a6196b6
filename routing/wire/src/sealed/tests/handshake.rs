//! HELLO, WELCOME, confirmation, and what comes between (Q1 to Q5, Q9 to Q11).
use super::super::hello::{self, CookieReply, Hello, Welcome};
use super::super::*;
use super::net::*;
use crate::packet::{FLAG_AUTH_ERROR, FLAG_FULL_SENDER};
use crate::{Packet, Party};

// Q1, Q11, Q13
#[test]
fn two_nodes_get_a_post_quantum_session_and_talk_both_ways() {
    let mut world = World::new(1);
    world.say(A, b"hello");
    world.run(secs(1));
    world.say(B, b"hello yourself");
    world.run(secs(1));
    assert_eq!(world.nodes[B].heard, [b"hello".to_vec()]);
    assert_eq!(world.nodes[A].heard, [b"hello yourself".to_vec()]);
    let (a, b) = (world.up(A).unwrap(), world.up(B).unwrap());
    assert!(a.pq && b.pq);
    assert_eq!(a.handshake_hash, b.handshake_hash);
}

// Q3: the layouts, by offsets written out here
#[test]
fn hello_and_welcome_have_their_fields_where_the_specification_says() {
    let mut world = World::new(2);
    world.connect();
    let hello = &world.sent(A, kind::HELLO)[0];
    let welcome = &world.sent(B, kind::WELCOME)[0];
    for (packet, sender) in [(hello, A), (welcome, B)] {
        assert!(packet.len() <= MAX_HANDSHAKE_PACKET);
        assert_eq!(packet[1], FLAG_FULL_SENDER);
        assert_eq!(&packet[10..50], world.pair(sender).address.as_bytes());
        assert_eq!(&packet[50..58], &world.pair(1 - sender).address.id().0);
        let mac = world.nodes[sender]
            .identity
            .agree(&world.pair(1 - sender).address);
        assert!(mac.verify(packet), "the draft's CMAC");
    }
    assert_eq!((hello[59], hello[60]), (0x40, 1));
    assert_eq!(&hello[65..73], &1_700_000_000_000_000u64.to_be_bytes());
    assert_eq!(&hello[89..105], &[0; 16], "no cookie");
    assert_eq!(hello[105], 4, "an uncompressed point");
    assert_eq!(hello.len(), 60 + 45 + 65 + 4 + 16);
    assert_eq!((welcome[59], welcome[60]), (0x41, 1));
    assert_eq!(&welcome[65..69], &hello[61..65], "the receiver's index");
    assert_eq!(welcome[69], 4);
    assert_eq!(welcome.len(), 60 + 9 + 65 + 9 + 16);
    assert!(welcome.len() < hello.len(), "S20: no amplification");
}

// Q2: whatever the prologue binds, one other bit of it and the handshake fails though the CMAC is right
#[test]
fn the_prologue_binds_indices_times_addresses_and_peer_ids() {
    let offsets = [
        ("index", 64),
        ("timestamp", 72),
        ("peer ids, sender's", 58),
        ("peer ids, recipient's", 58),
    ];
    for (what, at) in offsets {
        let mut world = World::new(3);
        let mac = world.nodes[A].identity.agree(&world.pair(B).address);
        let mac1 = hello::Mac1Key::new(&world.pair(B).address);
        world.start(A, Reason::Traffic);
        let mut hello = world.sent(A, kind::HELLO)[0].clone();
        hello[at] ^= if what.contains("sender's") { 0x20 } else { 1 };
        mac1.sign(&mut hello, 60);
        mac.sign(&mut hello);
        assert_eq!(
            world.hand(B, &hello),
            Outcome::Dropped(Drop::Noise),
            "{what}"
        );
        assert!(world.up(B).is_none());
    }
}

// Q2: the session belongs to the pair that WELCOME's payload names; the caller hears both its wish and whom it has got
#[test]
fn a_call_to_any_peer_of_an_address_ends_with_the_one_that_answers() {
    let peer = crate::PeerId::new(9).unwrap();
    let with_peer = Config {
        peer,
        ..Config::default()
    };
    let mut world = World::with(5, [Config::default(), with_peer]);
    let any = Pair {
        peer: crate::PeerId::ANY,
        ..world.pair(B)
    };
    world.start_with(A, any);
    world.run(secs(2));
    assert!(world.nodes[A].events.iter().any(|event| matches!(
        event,
        Event::SessionUp { pair, requested: Some(requested), .. }
            if pair.peer == peer && *requested == any
    )));
    assert!(world.both_up());
    assert_eq!(world.start_with(A, any), Started::Up);
}

// Q4
#[test]
fn mac1_is_the_specified_hmac_and_guards_every_byte() {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let mut world = World::new(6);
    world.start(A, Reason::Traffic);
    let hello = world.sent(A, kind::HELLO)[0].clone();

    let mut zeroed = hello[1..].to_vec();
    zeroed[1..9].fill(0);
    zeroed[72..104].fill(0);
    let key = Sha256::new()
        .chain_update(b"anode mac1")
        .chain_update(world.pair(B).address.as_bytes())
        .finalize();
    let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap();
    hmac.update(&zeroed);
    assert_eq!(hello[73..89], hmac.finalize().into_bytes()[..16]);

    let before = world.nodes[B].sessions.key_agreements();
    for at in (1..hello.len()).filter(|at| !(2..10).contains(at) && !(89..105).contains(at)) {
        let mut changed = hello.clone();
        changed[at] ^= 4;
        let outcome = world.hand(B, &changed);
        assert!(
            matches!(outcome, Outcome::Dropped(_) | Outcome::Plain),
            "byte {at}: {outcome:?}"
        );
    }
    assert!(world.dropped(B, Drop::Mac1) > 150);
    assert_eq!(world.nodes[B].sessions.key_agreements(), before, "no work");
    assert_eq!(world.sent(B, kind::WELCOME).len(), 0, "and no answer");
}

// Q5
#[test]
fn a_repeated_hello_is_stale_once_its_session_has_been_used() {
    let mut world = World::new(7);
    world.connect();
    let hello = world.sent(A, kind::HELLO)[0].clone();
    let before = world.nodes[B].sessions.key_agreements();
    assert_eq!(world.hand(B, &hello), Outcome::Dropped(Drop::Stale));
    assert_eq!(world.hand(B, &hello), Outcome::Dropped(Drop::Stale));
    world.run(secs(1));
    assert_eq!(world.eves.len(), 1, "one COOKIE a second and pair");
    let cookie = Packet::new_checked(&world.eves[0][..]).unwrap();
    assert_eq!(cookie.flags() & FLAG_AUTH_ERROR, 0);
    let mac = world.nodes[A].identity.agree(&world.pair(B).address);
    assert!(mac.verify(cookie.as_bytes()));
    let stored = CookieReply::parse(cookie.body()).unwrap().stored;
    assert_eq!(
        stored,
        Hello::parse(Packet::new_checked(&hello[..]).unwrap().body())
            .unwrap()
            .timestamp
    );
    assert_eq!(world.nodes[B].sessions.key_agreements(), before);
    assert!(world.up(B).is_some(), "nothing happened to the session");
}

// Q5: the value moves when a SEALED packet has opened, not before
#[test]
fn the_stored_timestamp_moves_only_with_a_used_session() {
    let mut world = World::new(8);
    let pair = world.pair(A);
    world.attacker = Box::new(|flight, _| {
        if flight.from == B {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    world.start(A, Reason::Traffic);
    world.run(secs(1));
    assert!(!world.sent(B, kind::WELCOME).is_empty());
    assert_eq!(
        world.nodes[B].sessions.record(&pair).unwrap().seen,
        Timestamp(0)
    );
    world.attacker = Box::new(|_, _| Verdict::Pass);
    world.connect();
    assert!(world.nodes[B].sessions.record(&pair).unwrap().seen > Timestamp(0));
}

// Q5: state lost and clock set back an hour; one round trip more, and nobody is locked out
#[test]
fn a_node_that_lost_disk_and_clock_gets_in_again_within_a_second() {
    for (with_state, skew) in [(false, -3_600_000_000), (true, -3_600_000_000), (false, 0)] {
        let mut world = World::new(9);
        world.connect();
        world.run(secs(5));
        world.restart(A, with_state);
        world.nodes[A].skew = skew;
        world.say(A, b"again");
        world.run(secs(1));
        assert_eq!(
            world.nodes[B].heard,
            [b"again".to_vec()],
            "{with_state} {skew}"
        );
        if !with_state && skew != 0 {
            assert_eq!(world.sent(B, kind::COOKIE).len(), 1);
        }
    }
}

// Q5: going beyond the stored value holds for that peer only
#[test]
fn a_greater_timestamp_is_sent_to_the_peer_that_asked_for_it_only() {
    let mut world = World::new(10);
    world.connect();
    world.restart(A, false);
    world.nodes[A].skew = -3_600_000_000;
    world.say(A, b"again");
    world.run(secs(1));
    let other = Pair {
        address: *identity(9).address(),
        peer: crate::PeerId::ANY,
    };
    let now = world.clock(A);
    let b = world.pair(B);
    let sessions = &mut world.nodes[A].sessions;
    sessions.start(now, other, Reason::Traffic);
    assert_eq!(sessions.record(&other).unwrap().sent, now.wall);
    assert!(sessions.record(&b).unwrap().sent > now.wall);
}

// Q5, S7: a forged COOKIE with a huge timestamp has no effect
#[test]
fn only_a_cookie_with_the_right_mac_moves_timestamps() {
    let mut world = World::new(11);
    world.attacker = Box::new(|_, _| Verdict::Drop);
    world.start(A, Reason::Traffic);
    let hello = world.sent(A, kind::HELLO)[0].clone();
    let reply = CookieReply {
        index: hello::be32(&hello, 61),
        cookie: [1; 16],
        stored: Timestamp(u64::MAX - 5),
    };
    let (a, b) = (world.pair(A), world.pair(B));
    let envelope = |flags| hello::Envelope {
        flags,
        sender: Party::Full(b.address.as_bytes()),
        recipient: a.address.id(),
        sender_peer: b.peer,
        recipient_peer: a.peer,
    };
    let forged = reply.packet(&envelope(0));
    assert_eq!(world.hand(A, &forged), Outcome::Dropped(Drop::Cmac));
    world.hand(A, &reply.packet(&envelope(FLAG_AUTH_ERROR)));
    world.run(secs(1));
    let sent = world.nodes[A].sessions.record(&b).unwrap().sent;
    assert!(sent < Timestamp(1_800_000_000_000_000), "{sent:?}");
}

// Q9
#[test]
fn retries_are_fresh_hellos_on_a_doubling_schedule_and_then_an_end() {
    let mut world = World::new(12);
    world.attacker = Box::new(|_, _| Verdict::Drop);
    world.start(A, Reason::Traffic);
    world.run(secs(60));
    let hellos: Vec<_> = world.log.iter().map(|(at, _, p)| (*at, p)).collect();
    assert_eq!(hellos.len(), 6);
    for (pair, wait) in hellos.windows(2).zip([0.5, 1.0, 2.0, 4.0, 8.0]) {
        let waited = (pair[1].0 - pair[0].0).as_secs_f64();
        assert!((wait * 0.89..wait * 1.11).contains(&waited), "{waited}");
        let [first, second] = [pair[0].1, pair[1].1];
        assert_ne!(first[61..65], second[61..65], "the index is new");
        assert!(first[65..73] < second[65..73], "the timestamp is newer");
        assert_ne!(first[105..170], second[105..170], "the key is new");
    }
    let failed = Event::HandshakeFailed {
        pair: world.pair(B),
        reason: Failed::Timeout,
    };
    assert_eq!(world.nodes[A].events, [failed]);
    assert_eq!(world.nodes[A].sessions.deadline(), None);
}

// Q9
#[test]
fn a_round_trip_above_the_retry_interval_still_ends_in_a_session() {
    for delay in [300, 700, 1500, 2500] {
        let mut world = World::new(13);
        world.delay = ms(delay);
        let took = world.connect();
        assert!(took < ms(delay) * 8, "{took:?} at {delay} ms");
        world.say(A, b"far away");
        world.say(B, b"very far");
        world.run(secs(30));
        assert_eq!(world.nodes[B].heard, [b"far away".to_vec()]);
        assert_eq!(world.nodes[A].heard, [b"very far".to_vec()]);
    }
}

// Q9: what a pair may have pending is bounded on both sides
#[test]
fn no_more_than_three_handshakes_of_a_pair_are_pending() {
    let mut world = World::new(14);
    world.attacker = Box::new(|flight, _| {
        if flight.from == B {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    world.start(A, Reason::Traffic);
    world.run(secs(12));
    assert!(world.sent(A, kind::HELLO).len() >= 5);
    assert_eq!(world.nodes[A].sessions.reserved.len(), 3);
    assert_eq!(world.nodes[B].sessions.sizes()[2], 3);
    world.run(secs(60));
    assert_eq!(world.nodes[A].sessions.reserved.len(), 0);
    assert_eq!(world.nodes[B].sessions.sizes()[2], 0);
}

// Q9, Q24
#[test]
fn hints_start_one_hello_in_two_seconds() {
    let mut world = World::new(15);
    world.attacker = Box::new(|_, _| Verdict::Drop);
    world.start(A, Reason::Hint);
    let key = world.key(A);
    world.nodes[A].sessions.end_handshake(key);
    assert_eq!(world.start(A, Reason::Hint), Started::Throttled);
    world.run(ms(1900));
    assert_eq!(world.start(A, Reason::Hint), Started::Throttled);
    world.run(ms(100));
    assert_eq!(world.start(A, Reason::Hint), Started::Pending);
    assert_eq!(world.sent(A, kind::HELLO).len(), 2);
}

// Q10
#[test]
fn crossing_hellos_become_one_session_started_by_the_lower() {
    let mut world = World::new(16);
    world.say(A, b"from a");
    world.say(B, b"from b");
    world.run(secs(2));
    assert_eq!(world.nodes[B].heard, [b"from a".to_vec()]);
    assert_eq!(world.nodes[A].heard, [b"from b".to_vec()]);
    let lower = world.lower();
    assert_eq!(world.sent(lower, kind::WELCOME).len(), 0);
    let hellos = world.sent(lower, kind::HELLO);
    assert_eq!(hellos.len(), 2, "repeated, not made anew");
    assert_eq!(hellos[0], hellos[1]);
    assert_eq!(
        world.up(A).unwrap().handshake_hash,
        world.up(B).unwrap().handshake_hash
    );
}

// Q10: the lower one's HELLOs never arrive
#[test]
fn a_second_crossing_hello_is_answered() {
    let mut world = World::new(17);
    let lower = world.lower();
    world.attacker = Box::new(move |flight, _| {
        if flight.from == lower && kind_of(&flight.packet) == kind::HELLO {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    world.say(lower, b"down");
    world.say(1 - lower, b"up");
    world.run(secs(2));
    assert_eq!(world.nodes[lower].heard, [b"up".to_vec()]);
    assert_eq!(world.nodes[1 - lower].heard, [b"down".to_vec()]);
}

// Q10, Q11, S13: crossing handshakes under loss converge, and nothing that was sealed is lost by us
#[test]
fn crossing_handshakes_converge_whatever_is_lost() {
    for seed in 0..60 {
        for percent in [0, 10, 30, 50] {
            let mut world = World::new(1000 + seed);
            world.attacker = lossy(percent);
            world.start(A, Reason::Traffic);
            world.run(ms(seed * 3));
            world.start(B, Reason::Traffic);
            for _ in 0..240 {
                if world.both_up() {
                    break;
                }
                world.run(ms(500));
                for node in [A, B] {
                    if world.up(node).is_none() {
                        world.start(node, Reason::Traffic);
                    }
                }
            }
            assert!(world.both_up(), "seed {seed}, {percent} %");
            world.attacker = lossy(0);
            world.run(secs(30));
            for (from, text) in [(A, b"ping"), (B, b"pong")] {
                world.nodes[1 - from].heard.clear();
                world.say(from, text);
                world.run(secs(1));
                assert_eq!(
                    world.nodes[1 - from].heard,
                    [text.to_vec()],
                    "seed {seed}, {percent} %"
                );
            }
        }
    }
}

// Q11
#[test]
fn the_responder_keeps_the_old_session_until_the_new_one_is_used() {
    let mut world = World::new(18);
    world.connect();
    world.run(secs(1));
    let old = world.up(B).unwrap().handshake_hash;
    // A starts anew; nothing sealed of it reaches B.
    let welcomes = world.sent(B, kind::WELCOME).len();
    world.attacker = Box::new(|flight, _| {
        if flight.from == A && kind_of(&flight.packet) == kind::SEALED {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let key = world.key(A);
    let now = world.clock(A);
    world.nodes[A].sessions.start_peer(now, key, Reason::Rekey);
    world.start(A, Reason::Rekey);
    world.run(secs(5));
    assert!(world.sent(B, kind::WELCOME).len() > welcomes);
    assert_eq!(world.up(B).unwrap().handshake_hash, old);
    world.say(B, b"still the old one");
    world.run(secs(1));
    assert_eq!(world.nodes[A].heard, [b"still the old one".to_vec()]);
}

// Q11: without ML-KEM, too, the initiator's empty packet confirms, and is repeated until something comes back
#[test]
fn an_empty_packet_confirms_and_is_repeated() {
    let mut world = World::with_pq(19, [Pq::Off, Pq::Prefer]);
    let mut lost = 0;
    world.attacker = Box::new(move |flight, _| {
        if flight.from == A && kind_of(&flight.packet) == kind::SEALED && lost < 2 {
            lost += 1;
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    world.connect();
    let empties = world.sent(A, kind::SEALED);
    assert_eq!(empties.len(), 3);
    assert!(empties.iter().all(|packet| packet.len() == SEALED_OVERHEAD));
    world.run(secs(60));
    assert_eq!(
        world.sent(A, kind::SEALED).len(),
        3,
        "none after the answer"
    );
    assert!(!world.up(A).unwrap().pq);
}

// Q3, Q8: property tests of the codecs
mod codecs {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::parse(&bytes);
            let _ = Welcome::parse(&bytes);
            let _ = CookieReply::parse(&bytes);
            let _ = hello::UnknownIndex::parse(&bytes);
            let _ = hello::WelcomePayload::parse(&bytes);
            let _ = hello::parse_hello_payload(&bytes);
        }

        #[test]
        fn bodies_round_trip(index in any::<u32>(), time in any::<u64>(), noise in prop::collection::vec(any::<u8>(), 90..200)) {
            let mut body = Vec::new();
            Hello::emit_fixed(&mut body, index, Timestamp(time));
            body.extend_from_slice(&noise);
            let hello = Hello::parse(&body).unwrap();
            prop_assert_eq!((hello.version, hello.index, hello.timestamp.0), (1, index, time));
            prop_assert_eq!(hello.noise, &noise[..]);

            let mut body = Vec::new();
            Welcome::emit_fixed(&mut body, index, index ^ 1);
            body.extend_from_slice(&noise);
            let welcome = Welcome::parse(&body).unwrap();
            prop_assert_eq!((welcome.index, welcome.receiver), (index, index ^ 1));
        }

        // S1: whatever comes in, nothing panics, and nothing goes out to it
        #[test]
        fn random_packets_have_no_effect(packet in prop::collection::vec(any::<u8>(), 0..200), message_kind in 0x40u8..0x48, flags in 0u8..8) {
            let mut world = World::new(20);
            let mut packet = packet;
            if packet.len() > 60 {
                packet[1] = flags;
                packet[27] = message_kind;
                packet[59] = message_kind;
                let id = world.pair(B).address.id().0;
                packet[18..26].copy_from_slice(&id);
            }
            let outcome = world.hand(B, &packet);
            let heard = matches!(outcome, Outcome::Opened { .. } | Outcome::Reassembled { .. });
            prop_assert!(!heard);
            world.run(secs(1));
            // Only a SEALED packet that is addressed to B gets an ERROR, which is shorter.
            prop_assert!(world.eves.iter().all(|answer| answer.len() < packet.len()));
        }
    }
}

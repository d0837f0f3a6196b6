//! Rekeying, ends, clock jumps, silence (Q15 to Q17, S13).
use super::super::*;
use super::net::*;
use crate::message::kind as plain;
use std::time::Duration;

/// Both sides send numbered messages at a pace; how many were lost.
fn talk(world: &mut World, time: Duration, pace: Duration) -> (usize, usize) {
    let heard = [world.nodes[A].heard.len(), world.nodes[B].heard.len()];
    let count = (time.as_millis() / pace.as_millis()) as u32;
    for i in 0..count {
        for node in [A, B] {
            world.say(node, &i.to_be_bytes());
        }
        world.run(pace);
    }
    world.run(secs(2));
    let got = |node: usize| world.nodes[node].heard.len() - heard[node];
    (count as usize - got(A), count as usize - got(B))
}

fn hashes(world: &World) -> Vec<[u8; 32]> {
    [A, B]
        .iter()
        .map(|node| world.up(*node).unwrap().handshake_hash)
        .collect()
}

// Q15, Q16, S13
#[test]
fn rekeying_under_load_loses_nothing() {
    for seed in 0..4 {
        let mut world = World::new(100 + seed);
        world.connect();
        let first = hashes(&world);
        assert_eq!(talk(&mut world, secs(400), ms(40)), (0, 0));
        let last = hashes(&world);
        assert_ne!(first, last);
        assert_eq!(last[0], last[1]);
        let starts = world.sent(world.lower(), kind::HELLO).len();
        assert!((3..=5).contains(&starts), "{starts} by the lower address");
        assert!(world.sent(1 - world.lower(), kind::HELLO).len() <= 1);
        assert!(world.nodes.iter().all(|n| n.sessions.sizes()[2] <= 3));
    }
}

// Q16, S13: both start at once, again and again
#[test]
fn simultaneous_rekeying_converges_and_loses_nothing() {
    for seed in 0..20 {
        let mut world = World::new(200 + seed);
        world.connect();
        world.run(secs(1));
        for round in 0..5 {
            for node in [A, B] {
                let (key, now) = (world.key(node), world.clock(node));
                world.nodes[node]
                    .sessions
                    .start_peer(now, key, Reason::Rekey);
                world.start(node, Reason::Rekey);
                world.run(ms((seed * 7 + round) % 60));
            }
            assert_eq!(talk(&mut world, secs(15), ms(20)), (0, 0), "seed {seed}");
            let hashes = hashes(&world);
            assert_eq!(hashes[0], hashes[1], "seed {seed}, round {round}");
        }
    }
}

// Q16, S13: under loss what is lost is what the network loses
#[test]
fn rekeying_under_loss_keeps_the_session_up() {
    for seed in 0..6 {
        let mut world = World::new(300 + seed);
        world.connect();
        world.run(secs(1));
        world.attacker = lossy(20);
        let (a, b) = talk(&mut world, secs(300), ms(100));
        let sent = 3000.0;
        assert!(
            (a as f64) < sent * 0.3 && (b as f64) < sent * 0.3,
            "{a} {b}"
        );
        let downs = |node: usize| {
            let events = &world.nodes[node].events;
            events
                .iter()
                .filter(|event| matches!(event, Event::SessionDown { .. }))
                .count()
        };
        assert_eq!((downs(A), downs(B)), (0, 0));
    }
}

// Q16: one-way traffic is rekeyed as well, whichever side sends
#[test]
fn one_way_traffic_is_rekeyed_too() {
    for node in [A, B] {
        let mut world = World::new(17);
        world.connect();
        for i in 0..2000u32 {
            world.say(node, &i.to_be_bytes());
            world.run(ms(200));
        }
        assert_eq!(world.nodes[1 - node].heard.len(), 2000);
    }
}

// Q16
#[test]
fn two_idle_peers_stay_silent_and_their_sessions_end() {
    let mut world = World::new(1);
    world.connect();
    world.run(secs(5));
    let sent = world.log.len();
    world.run(secs(180));
    assert_eq!(world.log.len(), sent, "two idle peers stay silent");
    world.run(secs(600));
    assert_eq!(world.log.len(), sent);
    for node in [A, B] {
        assert_eq!(world.nodes[node].sessions.sizes()[2], 0);
        assert!(world.nodes[node].events.iter().any(|event| matches!(
            event,
            Event::SessionDown {
                reason: Down::Expired,
                ..
            }
        )));
    }
    assert_eq!(world.nodes[A].sessions.deadline(), None);
    assert!(matches!(world.start(A, Reason::Traffic), Started::Pending));
}

// Q16: also when nobody turns the timers
#[test]
fn nothing_is_sealed_after_180_seconds() {
    let mut world = World::new(2);
    world.connect();
    let key = world.key(A);
    let mut now = world.clock(A);
    let mut packet = world.nodes[A]
        .sessions
        .seal_copy(now, key, plain::DGRAM, b"kept back")
        .unwrap();
    now.at += secs(180);
    let sessions = &mut world.nodes[A].sessions;
    assert_eq!(
        sessions.seal_copy(now, key, plain::DGRAM, b"x"),
        Err(SealError::Expired)
    );
    let mut late = world.clock(B);
    late.at += secs(191);
    let source = Source {
        endpoint: b"x",
        network: 0,
    };
    let outcome = world.nodes[B].sessions.handle(late, source, &mut packet);
    assert_eq!(outcome, Outcome::Dropped(Drop::Expired));
}

// Q16, S13: long before a counter could come round
#[test]
fn a_used_up_counter_asks_for_new_keys_and_then_stops() {
    let mut world = World::new(3);
    world.connect();
    let (key, now) = (world.key(A), world.clock(A));
    let hellos = world.sent(A, kind::HELLO).len();
    let sessions = &mut world.nodes[A].sessions;
    let index = sessions.peer(key).unwrap().current.unwrap();
    let skip = |sessions: &mut Sessions, counter| {
        let session = sessions.sessions.get_mut(&index).unwrap();
        session.skip_to(counter);
    };
    skip(sessions, (1 << 48) - 1);
    sessions.seal_copy(now, key, plain::DGRAM, b"x").unwrap();
    sessions.seal_copy(now, key, plain::DGRAM, b"x").unwrap();
    assert!(sessions.deadline().is_some());
    skip(sessions, (1 << 48) + (1 << 40));
    assert_eq!(
        sessions.seal_copy(now, key, plain::DGRAM, b"x"),
        Err(SealError::Expired)
    );
    world.run(secs(1));
    assert_eq!(world.sent(A, kind::HELLO).len(), hellos + 1);
}

// Q17
#[test]
fn a_jump_of_the_clock_drops_everything_and_leaves_no_number_to_repeat() {
    let mut world = World::new(4);
    world.connect();
    world.run(secs(1));
    let key = world.key(A);
    world.nodes[A].sessions.drop_all();
    assert_eq!(world.nodes[A].sessions.sizes()[2], 0);
    let now = world.clock(A);
    let sealed = world.nodes[A]
        .sessions
        .seal_copy(now, key, plain::DGRAM, b"x");
    assert_eq!(sealed, Err(SealError::NoSession));
    world.say(A, b"new keys");
    world.run(secs(1));
    assert!(world.nodes[A].events.iter().any(|event| matches!(
        event,
        Event::SessionDown {
            reason: Down::Dropped,
            ..
        }
    )));
    assert_eq!(world.nodes[B].heard, [b"new keys".to_vec()]);

    // In the middle of a handshake.
    world.restart(B, true);
    world.start(B, Reason::Traffic);
    world.nodes[B].sessions.drop_all();
    assert_eq!(world.nodes[B].sessions.deadline(), None);
    assert!(world.nodes[B].sessions.reserved.is_empty());
}

// S13: same long-term keys, same clock; what comes out depends on randomness that is gone
#[test]
fn long_term_keys_alone_do_not_give_the_session_keys() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.say(A, b"the same text");
        world.run(secs(1));
        let packets = world.sent(A, kind::SEALED);
        (
            world.up(A).unwrap().handshake_hash,
            packets.last().unwrap()[40..].to_vec(),
        )
    };
    let (first, second, again) = (run(5), run(6), run(5));
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
    assert_eq!(first, again, "the simulation itself is reproducible");
}

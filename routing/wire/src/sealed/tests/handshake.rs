//! HELLO, WELCOME, confirmation, and what comes between (Q1 to Q11).
use super::super::*;
use super::net::*;

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

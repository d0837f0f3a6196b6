//! Sealed sessions between nodes (Q1 to Q28, as far as a node shows them).
use super::*;

/// The session has cost one round trip more than the draft's first contact.
const FIRST_REPLY: Duration = ms(60);

#[test]
fn a_first_reply_takes_three_round_trips_and_the_next_one() {
    // Q3, Q11, Q13, Q25: HELLO and WELCOME, KEM and its answer, PING and PONG at 10 ms each way.
    let mut sim = Sim::pair(60);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), FIRST_REPLY);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
    for (index, number) in [(0, 2), (1, 1)] {
        let peer = sim.peer(index, number);
        assert!(peer.sealed && peer.pq && peer.paths[0].proven, "{peer:?}");
    }
}

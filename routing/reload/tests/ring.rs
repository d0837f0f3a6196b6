//! Rings of many nodes on virtual time.
mod sim;

use sim::Sim;
use std::time::Duration;

// R3, R53, R110, R113, R117, RD47, RD49, RD50
#[test]
fn rings_form_and_every_lookup_is_right() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5), (4, 16), (5, 64)] {
        let mut sim = Sim::ring(seed, count);
        assert!(sim.members.iter().flatten().all(|m| m.joined), "{count}");
        assert_eq!(sim.wrong_neighbours(), 0, "{count} nodes");
        let lookups = sim.lookups(200, Duration::from_secs(5));
        assert_eq!((lookups.wrong, lookups.lost), (0, 0), "{count} nodes");
    }
}

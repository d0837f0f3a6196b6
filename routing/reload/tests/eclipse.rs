//! A node whose whole neighbourhood is somebody else's.
mod sim;

use anode_reload::Id;
use sim::{Sim, liars};
use std::time::Duration;

/// On each side.
const SYBILS: u128 = 8;

// S35, R142, R143: Sybils that sit around a node and pass nothing on are all its neighbours; its fingers still lead out, so that
// it reads what others have stored, and what they say in owners' names is not believed
#[test]
fn whoever_surrounds_a_node_does_not_cut_it_off() {
    for lie in [liars::swallow, liars::forge] {
        let mut sim = Sim::new(41);
        sim.signed = true;
        sim.create();
        sim.grow(127);
        let owners: Vec<usize> = (0..60).map(|n| 2 * n).collect();
        liars::publish(&mut sim, &owners);
        let victim = 51;
        let place = sim.id(victim);
        let mut sybils = Vec::new();
        for n in 1..=SYBILS {
            let behind = Id::from_number(place.number().wrapping_sub(n));
            for at in [place.plus(n), behind] {
                let sybil = sim.add_as(at);
                sim.join(sybil);
                sim.run(Duration::from_secs(5));
                sybils.push(sybil);
            }
        }
        sim.run(Duration::from_secs(60));
        for sybil in sybils {
            sim.members[sybil].as_mut().expect("it lives").lie = Some(lie);
        }
        sim.run(Duration::from_secs(60));
        let (before, after) = sim.node(victim).topology().neighbours();
        let near = |id: &Id| {
            let (ahead, behind) = (place.distance_to(*id), id.distance_to(place));
            ahead.min(behind) <= SYBILS
        };
        let taken = before.iter().chain(&after).filter(|id| near(id)).count();
        assert_eq!(taken as u128, 2 * SYBILS, "{before:?} {after:?}");
        let believed = liars::readers_believe(&mut sim, &[victim], &owners);
        println!("{:.1} % right; {believed:?}", believed.right_percent());
        assert_eq!((believed.wrong, believed.old), (0, 0), "{believed:?}");
        assert!(believed.right_percent() >= 90.0, "{believed:?}");
    }
}

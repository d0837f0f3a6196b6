//! What a running transfer makes of another path, of another rate.
use super::direct::{is_direct, two_before};
use super::pauses::direct_pair;
use super::relay::*;
use super::*;
use std::net::{IpAddr, Ipv4Addr};

const NATS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
];

/// What a transfer brings from the second to the fifth second after a change, in bytes a second.
fn rate_after_a_second(sim: &mut Sim, to: usize) -> u64 {
    sim.run(secs(1));
    let before = received(sim, to);
    sim.run(secs(4));
    (received(sim, to) - before) as u64 / 4
}

// What was learnt of the old path is given up by measuring the new one; begun anew, a stream overfills a slow path and is silent
// for seconds (docs/architecture.md, "When a path dies").
#[test]
fn a_transfer_fills_another_path_within_a_second() {
    for delay in [ms(1), ms(10), ms(40)] {
        for (relayed, direct) in [
            (100_000, 2_000_000),
            (500_000, 500_000),
            (2_000_000, 500_000),
        ] {
            let mut sim = relays(131, 2);
            sim.link.delay = delay;
            sim.link.rate = direct;
            for host in 0..2 {
                sim.hosts[host].rate = Some(relayed);
            }
            let kinds = [Some(Kind::PortRestricted); 2];
            let (mut sim, a, b) = two_before(sim, 2, kinds, quiet);
            sim.outside_cut = Some((NATS[0], NATS[1]));
            transfer(&mut sim, a, 2, 100_000_000);
            sim.run(secs(8));
            assert!(!is_direct(&sim, a, 2));
            sim.outside_cut = None;
            sim.until(secs(60), "direct", |sim| is_direct(sim, a, 2));
            let rate = rate_after_a_second(&mut sim, b);
            assert!(is_direct(&sim, a, 2));
            assert!(
                rate > direct / 2,
                "{delay:?}: {rate} B/s of {direct}, {relayed} before"
            );
        }
        // The other way, to a relay that is no slower.
        let (mut sim, a, b) = direct_pair(133, delay);
        sim.link.rate = 500_000;
        transfer(&mut sim, a, 2, 100_000_000);
        sim.run(secs(5));
        assert!(is_direct(&sim, a, 2));
        sim.outside_cut = Some((NATS[0], NATS[1]));
        let rate = rate_after_a_second(&mut sim, b);
        assert!(!is_direct(&sim, a, 2));
        assert!(rate > 250_000, "{delay:?}: {rate} B/s over the relay");
    }
}

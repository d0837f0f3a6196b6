//! Machines with two uplinks, of which the one that the routes name dies without a word.
use super::direct::is_direct;
use super::pauses::{DELAYS, direct_pair, judge, pause};
use super::*;
use std::net::IpAddr;

/// The second interface.
const RADIO: u32 = 3;
/// The NATs before the first and the second.
const OUTSIDE: [u8; 2] = [1, 11];

/// Gives a host, number 1 behind NAT 1, a second uplink behind NAT 11.
fn second_uplink(sim: &mut Sim, index: usize) {
    sim.nats
        .push(Nat::of_kind(Kind::PortRestricted, OUTSIDE[1]));
    let (first, second) = (sim.hosts[index].at, behind(OUTSIDE[1], 1));
    sim.hosts[index].second = Some((RADIO, second.ip()));
    let radio = Interface {
        name: "radio0".into(),
        index: RADIO,
        uplink: Some(600),
        ..lan_interface(second)
    };
    let cable = Interface {
        uplink: Some(100),
        ..lan_interface(first)
    };
    let now = sim.now;
    sim.hosts[index]
        .node
        .set_interfaces(now, vec![radio, cable]);
    sim.run(secs(2));
}

/// Nothing passes the outside of NAT 1.
fn cable_is_dead(packet: &mut Flying) -> bool {
    let outside = IpAddr::from([198, 51, 100, OUTSIDE[0]]);
    packet.from.ip() != outside && packet.to.ip() != outside
}

#[test]
fn a_transfer_to_whose_uplink_dies_goes_on_over_the_other_one_and_back_when_the_first_works() {
    // A2, D24
    let mut late = Vec::new();
    for delay in DELAYS {
        let (mut sim, a, b) = direct_pair(127, delay);
        second_uplink(&mut sim, a);
        let took = pause(&mut sim, b, (a, 1), secs(6), |sim| {
            sim.meddler = Some(cable_is_dead);
        });
        judge("the uplink of the receiver dies", delay, took, &mut late);
        assert_eq!(sim.counters(a).uplink_changes, 1);
        sim.until(secs(15), "a direct path over it", |sim| {
            is_direct(sim, a, 2) && is_direct(sim, b, 1)
        });
        // Its relays are asked over the first one again.
        sim.meddler = None;
        sim.until(secs(40), "the way back", |sim| {
            sim.counters(a).uplink_changes == 2
        });
        assert!(sim.ping(b, ipv6(1)).is_ok());
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_transfer_from_whose_uplink_dies_goes_on_over_the_other_one() {
    // A2, D24
    let mut late = Vec::new();
    for delay in DELAYS {
        let (mut sim, a, b) = direct_pair(127, delay);
        second_uplink(&mut sim, a);
        let took = pause(&mut sim, a, (b, 2), secs(6), |sim| {
            sim.meddler = Some(cable_is_dead);
        });
        judge("the uplink of the sender dies", delay, took, &mut late);
        assert_eq!(sim.counters(a).uplink_changes, 1);
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_peer_that_dies_makes_nobody_leave_an_uplink() {
    let (mut sim, a, b) = direct_pair(131, ms(10));
    second_uplink(&mut sim, a);
    sim.ping(a, ipv6(2)).unwrap();
    sim.hosts[b].up = false;
    assert!(sim.ping(a, ipv6(2)).is_err());
    let counters = sim.counters(a);
    assert!(counters.tx_other_uplinks > 0, "it was asked there, too");
    assert_eq!(counters.uplink_changes, 0);
}

#[test]
fn with_one_uplink_nothing_is_asked_twice() {
    let (mut sim, a, b) = direct_pair(137, ms(10));
    sim.hosts[b].up = false;
    assert!(sim.ping(a, ipv6(2)).is_err());
    assert_eq!(sim.counters(a).tx_other_uplinks, 0);
    assert_eq!(sim.hosts[a].extra_sockets(), 0);
}

//! Paths over a TURN server, on virtual time (DESIGN §7).
use super::direct::two;
use super::relay::*;
use super::*;
use crate::anode::sim::Turn;

/// Pings from a to b every 100 ms for a time; how long the slowest took, those that were lost being asked again.
fn chat(sim: &mut Sim, a: usize, time: Duration) -> Duration {
    let (until, mut slowest) = (sim.now + time, Duration::ZERO);
    while sim.now < until {
        let (begin, token) = (sim.now, sim.hosts[a].program.events.len() as u64);
        while !is_answered(sim, a, token) {
            assert!(sim.now < begin + secs(20), "nothing comes back");
            let now = sim.now;
            // Where nothing leads there for a moment, that is told at once.
            let _ = sim.hosts[a].node.ping(now, ipv6(2), token, b"hello");
            sim.run(ms(100));
        }
        slowest = slowest.max(sim.now - begin);
    }
    slowest
}

fn is_answered(sim: &Sim, index: usize, wanted: u64) -> bool {
    let mut events = sim.hosts[index].program.events.iter();
    events.any(|(_, event)| matches!(event, OverlayEvent::Pong { token, .. } if *token == wanted))
}

fn kind_of(sim: &Sim, index: usize, number: u16) -> Option<PathKind> {
    active(sim, index, number).map(|path| path.kind)
}

fn stands_by(sim: &Sim, index: usize, number: u16) -> bool {
    let paths = sim.peer(index, number).paths;
    paths
        .iter()
        .any(|path| path.kind == PathKind::Turn && path.proven)
}

/// Both behind symmetric NATs with random ports, and the first may use TURN.
fn hopeless(seed: u64) -> (Sim, usize, usize) {
    let (mut sim, a, b) = two(seed, 2, [Some(Kind::Random), Some(Kind::Random)]);
    sim.turn = Some(Turn::default());
    let now = sim.now;
    sim.hosts[a].node.set_turn_available(now, true);
    (sim, a, b)
}

#[test]
fn turn_stands_by_while_a_relay_works_and_takes_over_when_it_dies() {
    for seed in 0..5 {
        let (mut sim, a, b) = hopeless(seed);
        chat(&mut sim, a, secs(8));
        assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Relay), "seed {seed}");
        assert_eq!(kind_of(&sim, b, 1), Some(PathKind::Relay), "seed {seed}");
        assert!(
            stands_by(&sim, a, 2) && stands_by(&sim, b, 1),
            "seed {seed}"
        );
        for relay in 0..2 {
            sim.hosts[relay].up = false;
        }
        let slowest = chat(&mut sim, a, secs(5));
        assert!(slowest <= secs(1), "{slowest:?}, seed {seed}");
        assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Turn), "seed {seed}");
        assert_eq!(kind_of(&sim, b, 1), Some(PathKind::Turn), "seed {seed}");
    }
}

#[test]
fn a_direct_path_needs_no_allocation() {
    let (mut sim, a, _) = two(
        1,
        1,
        [Some(Kind::PortRestricted), Some(Kind::PortRestricted)],
    );
    sim.turn = Some(Turn::default());
    let now = sim.now;
    sim.hosts[a].node.set_turn_available(now, true);
    chat(&mut sim, a, secs(10));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Direct));
    assert_eq!(sim.hosts[a].node.counters().turn_orders, 0);
    assert_eq!(sim.turn.unwrap().client, None);
}

#[test]
fn an_allocation_that_nobody_needs_is_given_back() {
    let (mut sim, a, _) = hopeless(3);
    chat(&mut sim, a, secs(8));
    let client = |sim: &Sim| sim.turn.as_ref().unwrap().client;
    assert_eq!(client(&sim), Some(a));
    // In use for 30 s after the last packet, and kept for a minute after that.
    sim.run(secs(60));
    assert_eq!(client(&sim), Some(a));
    sim.run(secs(60));
    assert_eq!(client(&sim), None);
    let paths = sim.peer(a, 2).paths;
    let over_turn = paths
        .iter()
        .filter(|path| path.transport == Transport::Turn);
    assert_eq!(over_turn.count(), 0);
    sim.record = Some(Vec::new());
    sim.run(secs(60));
    // Two nodes renew themselves at two relays every 25 s, once with new sessions; nothing is said every second any more.
    let sent = sim.record.as_ref().unwrap().len();
    assert!(sent < 120, "{sent} packets of idle nodes");
}

#[test]
fn a_machine_without_datagrams_reaches_an_open_one_through_its_turn_server() {
    let mut sim = Sim::new(7);
    let a = sim.host(1, knows(&[2]));
    let b = sim.host(2, quiet());
    let now = sim.now;
    sim.hosts[b].node.add_peer(now, address(1), &[], true);
    sim.turn = Some(Turn::default());
    sim.hosts[a].node.set_turn_available(now, true);
    // What a sends by itself vanishes; the server stands outside.
    sim.cut.push((home(1), home(2)));
    assert!(sim.ping(a, ipv6(2)).is_ok(), "the first packet has waited");
    sim.run(ms(500));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Turn));
    let path = active(&sim, b, 1).unwrap();
    assert_eq!(
        (path.kind, path.transport),
        (PathKind::Turn, Transport::Udp)
    );
    assert_eq!(path.endpoint, Place::Udp(Turn::RELAYED));
    // What was seen there is nothing to remember: the address goes with the allocation.
    assert!(sim.hosts[b].node.export_pins().is_empty());
}

#[test]
fn nobody_else_has_us_make_an_allocation() {
    // Q28: a stranger that talks to us, behind a relay
    let (mut sim, a, b) = two(5, 1, [Some(Kind::Random), Some(Kind::Random)]);
    sim.turn = Some(Turn::default());
    let now = sim.now;
    sim.hosts[b].node.remove_peer(now, &address(1));
    sim.hosts[b].node.set_turn_available(now, true);
    chat(&mut sim, a, secs(10));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Relay));
    assert_eq!(sim.hosts[b].node.counters().turn_orders, 0);
}

#[test]
fn a_dead_direct_path_gives_way_to_the_relay_and_that_to_turn() {
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(9, 2, kinds);
    sim.turn = Some(Turn::default());
    let now = sim.now;
    sim.hosts[a].node.set_turn_available(now, true);
    chat(&mut sim, a, secs(5));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Direct));
    let outer = [0, 1].map(|index: usize| sim.nats[index].seen_at(0).ip());
    sim.outside_cut = Some((outer[0], outer[1]));
    chat(&mut sim, a, secs(8));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Relay));
    assert!(stands_by(&sim, a, 2) && stands_by(&sim, b, 1));
    for relay in 0..2 {
        sim.hosts[relay].up = false;
    }
    let slowest = chat(&mut sim, a, secs(5));
    assert!(slowest <= secs(1), "{slowest:?}");
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Turn));
    sim.outside_cut = None;
    chat(&mut sim, a, secs(30));
    assert_eq!(kind_of(&sim, a, 2), Some(PathKind::Direct));
}

//! Peers, strangers and relays that name places of others: nobody is flooded on their word (Q28, S16, S20, S21).
use super::direct::{time_to_direct, two, two_before};
use super::relay::*;
use super::*;
use crate::anode::direct::{Offer, Op, Ports};
use std::net::IpAddr;

#[test]
fn a_stranger_is_not_asked_where_it_is_and_its_word_sends_nobody_anywhere() {
    // Q28, S16
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(23, 1, kinds);
    let now = sim.now;
    // b does not know a: what a says is not followed.
    sim.hosts[b].node.remove_peer(now, &address(1));
    assert_eq!(time_to_direct(&mut sim, a, b, secs(4)), None);
    assert_eq!(sim.peer(a, 2).relayed, Some(Relayed::NoAnswer));
    assert!(sim.counters(b).refused_offers > 0);
    assert_eq!(sim.counters(b).tx_punches, 0);
}

#[test]
fn third_parties_get_no_more_than_the_budget_whatever_a_peer_names() {
    // Q28, S16, S20, S21
    let (mut sim, a, b) = two(29, 1, [Some(Kind::PortRestricted), None]);
    sim.ping(a, ipv6(2)).unwrap();
    let victim = IpAddr::from([203, 0, 113, 9]);
    let forbidden = [
        "127.0.0.1:9",
        "224.0.0.1:9",
        "0.0.0.0:9",
        "[fda0::1]:9",
        "[::1]:9",
        "240.0.0.1:9",
    ];
    sim.record = Some(Vec::new());
    for round in 0..200u32 {
        let places: Vec<SocketAddr> = match round % 2 {
            0 => (0..8)
                .map(|port| SocketAddr::new(victim, 1000 + port))
                .collect(),
            _ => forbidden.iter().map(|at| at.parse().unwrap()).collect(),
        };
        for op in [Op::Request, Op::Aim, Op::Aimed, Op::Ready] {
            let ports = [Ports::Stable, Ports::Sequence, Ports::Random][round as usize % 3];
            let offer = Offer {
                op,
                token: round,
                places: places.clone(),
                ports,
                step: 1,
                window: u16::MAX,
            };
            let now = sim.now;
            sim.hosts[a]
                .node
                .send_offer_for_test(now, &address(2), &offer);
        }
        sim.run(ms(50));
    }
    let all = sim.record.iter().flatten();
    let to_victim = all
        .clone()
        .filter(|(_, flying)| flying.to.ip() == victim)
        .count();
    // 120 at once and 20 a second for ten seconds, and one search.
    assert!(
        to_victim <= 120 + 10 * 20 + 1024 + 32,
        "{to_victim} packets"
    );
    for text in forbidden {
        let at: SocketAddr = text.parse().unwrap();
        assert_eq!(sent_to(&sim, at), 0, "{text}");
    }
    let counters = sim.counters(b);
    assert!(counters.refused_endpoints > 0 && counters.refused_offers > 0);
    // And the two still talk.
    assert!(sim.ping(a, ipv6(2)).is_ok());
}

#[test]
fn all_peers_together_have_one_budget_for_each_address() {
    // Q28, S20
    let mut sim = Sim::pair(43);
    let now = sim.now;
    let target = |last: u8| IpAddr::from([203, 0, 113, last]);
    let node = &mut sim.hosts[0].node;
    let granted = |node: &mut Node, at: IpAddr, now| {
        (0..10_000)
            .filter(|_| node.affords_for_test(now, at, 1))
            .count()
    };
    assert_eq!(granted(node, target(1), now), 120);
    assert_eq!(granted(node, target(1), now + secs(1)), 20);
    let of_all: usize = (2..100)
        .map(|last| granted(node, target(last), now + secs(1)))
        .sum();
    assert!(of_all <= 1000 + 200, "{of_all} to all addresses together");
    assert!(sim.counters(0).dropped_punches > 0);
}

#[test]
fn answers_to_netid_that_nobody_asked_for_change_nothing() {
    // S20, S21
    let (mut sim, a, _) = two(37, 2, [Some(Kind::PortRestricted), None]);
    let before = sim.hosts[a].node.external_endpoints();
    for id in 0..500 {
        let lie = Message::Netid {
            id,
            endpoint: Endpoint::Udp("203.0.113.66:1".parse().unwrap()),
        };
        let bytes = packet(2, 1, &lie, true);
        sim.inject(home(2), behind(1, 1), bytes);
    }
    sim.run(secs(2));
    assert_eq!(sim.hosts[a].node.external_endpoints(), before);
}

/// A machine that has nothing to do with any of it.
const VICTIM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

/// The first relay sees whoever comes from the first NAT as the victim, says so, and still reaches it.
fn first_relay_lies(packet: &mut Flying) -> bool {
    let outside = IpAddr::from([198, 51, 100, 1]);
    let relay = home(200).ip();
    let lie = |at: Place, ip: IpAddr| at.udp().map(|at| SocketAddr::new(ip, at.port()).into());
    if packet.from.ip() == outside && packet.to.ip() == relay {
        packet.from = lie(packet.from, VICTIM).unwrap_or(packet.from);
    } else if packet.from.ip() == relay && packet.to.ip() == VICTIM {
        packet.to = lie(packet.to, outside).unwrap_or(packet.to);
    }
    true
}

#[test]
fn a_relay_that_says_we_are_somebody_else_sends_nobody_there_beyond_the_budget() {
    // S20, S21, Q28
    for other in [None, Some(Kind::PortRestricted), Some(Kind::Random)] {
        let mut sim = relays(47, 2);
        sim.meddler = Some(first_relay_lies);
        let kinds = [Some(Kind::PortRestricted), other];
        let (mut sim, a, b) = two_before(sim, 2, kinds, quiet);
        let told = sim.hosts[a].node.external_endpoints();
        assert!(told.iter().any(|at| at.ip() == VICTIM), "{told:?}");
        sim.record = Some(Vec::new());
        let direct = time_to_direct(&mut sim, a, b, secs(10));
        let sent = |from: IpAddr| {
            let all = sim.record.iter().flatten();
            all.filter(|(_, flying)| flying.to.ip() == VICTIM && flying.from.ip() == from)
                .count()
        };
        let to_victim = sent(sim.hosts[b].at.ip()) + sent([198, 51, 100, 2].into());
        println!("{other:?}: direct after {direct:?}, {to_victim} packets to somebody else");
        assert!(to_victim <= 120 + 10 * 20 + 1024 + 256, "{to_victim}");
        if other != Some(Kind::Random) {
            assert!(direct.is_some(), "the honest relay's answer is tried, too");
            assert!(to_victim <= 10, "{to_victim}");
        }
        assert!(sim.ping(a, ipv6(2)).is_ok());
    }
}

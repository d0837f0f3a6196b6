//! From relayed to direct through NATs of every kind, on virtual time (RFC 4787, D24 to D26, Q28, DESIGN §7).
use super::relay::*;
use super::*;
use std::net::IpAddr;

const KINDS: [Kind; 5] = [
    Kind::FullCone,
    Kind::AddressRestricted,
    Kind::PortRestricted,
    Kind::Sequence,
    Kind::Random,
];

/// Hosts 1 and 2 behind NATs of these kinds (`None`: open), trusting each other, and relays before them.
pub(super) fn two(seed: u64, relays_wanted: u16, kinds: [Option<Kind>; 2]) -> (Sim, usize, usize) {
    two_before(relays(seed, relays_wanted), relays_wanted, kinds, quiet)
}

/// The same, with these relays before them and configured so.
pub(super) fn two_before(
    mut sim: Sim,
    relays_wanted: u16,
    kinds: [Option<Kind>; 2],
    config: fn() -> NodeConfig,
) -> (Sim, usize, usize) {
    let hosts: Vec<usize> = [1, 2]
        .into_iter()
        .zip(kinds)
        .map(|(number, kind)| {
            let at = match kind {
                Some(kind) => {
                    sim.nats.push(Nat::of_kind(kind, number as u8));
                    behind(number as u8, number)
                }
                None => home(number),
            };
            let index = sim.host_at(at, number, config());
            let now = sim.now;
            let node = &mut sim.hosts[index].node;
            node.set_interfaces(now, vec![lan_interface(at)]);
            join(&mut sim, index, relays_wanted);
            index
        })
        .collect();
    let (a, b) = (hosts[0], hosts[1]);
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    sim.run(ms(200));
    trust(&mut sim, a, 2);
    trust(&mut sim, b, 1);
    (sim, a, b)
}

fn trust(sim: &mut Sim, index: usize, number: u16) {
    let now = sim.now;
    let node = &mut sim.hosts[index].node;
    node.add_peer(now, address(number), &[], true);
}

pub(super) fn is_direct(sim: &Sim, index: usize, number: u16) -> bool {
    active(sim, index, number).is_some_and(|path| path.kind == PathKind::Direct)
}

/// Pings from a to b every 100 ms until both are direct, or the time is over. When that was, after the first reply.
pub(super) fn time_to_direct(
    sim: &mut Sim,
    a: usize,
    b: usize,
    limit: Duration,
) -> Option<Duration> {
    sim.ping(a, ipv6(2)).expect("the first packet is answered");
    let begin = sim.now;
    while sim.now < begin + limit {
        if is_direct(sim, a, 2) && is_direct(sim, b, 1) {
            return Some(sim.now - begin);
        }
        let now = sim.now;
        let token = 1 << 40 | (now - begin).as_millis() as u64;
        let _ = sim.hosts[a].node.ping(now, ipv6(2), token, b"on");
        sim.run(ms(20));
    }
    None
}

#[test]
fn cones_become_direct_within_half_a_second_of_the_first_reply() {
    // A54, A56, A57, D24, D26
    use Kind::{AddressRestricted, FullCone, PortRestricted};
    let cones = [
        None,
        Some(FullCone),
        Some(AddressRestricted),
        Some(PortRestricted),
    ];
    for near in cones {
        for far in cones {
            let (mut sim, a, b) = two(3, 2, [near, far]);
            let took = time_to_direct(&mut sim, a, b, secs(5));
            let took = took.unwrap_or_else(|| panic!("{near:?} and {far:?} stay relayed"));
            assert!(took <= ms(500), "{near:?} and {far:?}: {took:?}");
            assert!(sim.ping(a, ipv6(2)).unwrap() <= ms(20), "the short way");
        }
    }
}

#[test]
fn a_symmetric_nat_reaches_everything_that_filters_by_address_at_most() {
    // D26
    use Kind::{AddressRestricted, FullCone, Random, Sequence};
    for near in [Sequence, Random] {
        for far in [None, Some(FullCone), Some(AddressRestricted)] {
            for kinds in [[Some(near), far], [far, Some(near)]] {
                let (mut sim, a, b) = two(5, 2, kinds);
                let took = time_to_direct(&mut sim, a, b, secs(5));
                let took = took.unwrap_or_else(|| panic!("{kinds:?} stay relayed"));
                assert!(took <= secs(1), "{kinds:?}: {took:?}");
            }
        }
    }
}

#[test]
fn ports_in_a_sequence_are_predicted() {
    use Kind::{PortRestricted, Sequence};
    for relays in [1, 2] {
        for kinds in [
            [Sequence, PortRestricted],
            [PortRestricted, Sequence],
            [Sequence, Sequence],
        ] {
            let (mut sim, a, b) = two(7, relays, kinds.map(Some));
            let took = time_to_direct(&mut sim, a, b, secs(10));
            let took = took.unwrap_or_else(|| panic!("{kinds:?}, {relays} relays: relayed"));
            assert!(took <= secs(3), "{kinds:?}, {relays} relays: {took:?}");
        }
    }
}

#[test]
fn a_random_port_is_found_by_many_sockets_within_the_budget() {
    // Q28
    let (mut hits, mut tries) = (0, 0);
    for seed in 0..10 {
        for kinds in [
            [Kind::Random, Kind::PortRestricted],
            [Kind::PortRestricted, Kind::Random],
        ] {
            let (mut sim, a, b) = two(seed, 2, kinds.map(Some));
            let before = sim.hosts[a].sent.0 + sim.hosts[b].sent.0;
            let took = time_to_direct(&mut sim, a, b, secs(10));
            let sent = sim.hosts[a].sent.0 + sim.hosts[b].sent.0 - before;
            tries += 1;
            hits += usize::from(took.is_some());
            assert!(sent < 256 + 1024 + 2000, "{sent} packets");
            sim.run(secs(120));
            let left = [a, b].map(|host| sim.hosts[host].extra_sockets());
            assert!(
                left.iter().sum::<usize>() <= 8,
                "{left:?} sockets stay open"
            );
        }
    }
    assert!(hits * 10 >= tries * 9, "{hits} of {tries}");
}

#[test]
fn peers_that_speak_the_draft_tell_each_other_by_hints_over_the_relay() {
    // A54, A55, A56
    let mut sim = Sim::new(71);
    sim.host(
        200,
        NodeConfig {
            relay: Some(RelayConfig::default()),
            ..draft()
        },
    );
    let kinds = [Some(Kind::PortRestricted); 2];
    let (mut sim, a, b) = two_before(sim, 1, kinds, draft);
    let took = time_to_direct(&mut sim, a, b, secs(5));
    assert!(took.is_some_and(|took| took <= secs(2)), "{took:?}");
    assert!(!sim.peer(a, 2).sealed);
}

#[test]
fn two_random_symmetric_nats_stay_relayed_and_say_why() {
    let (mut sim, a, b) = two(11, 2, [Some(Kind::Random), Some(Kind::Random)]);
    assert_eq!(time_to_direct(&mut sim, a, b, secs(8)), None);
    for (host, other) in [(a, 2), (b, 1)] {
        assert_eq!(sim.peer(host, other).relayed, Some(Relayed::BothSymmetric));
        assert_eq!(
            sim.hosts[host].node.mapping(),
            Mapping::AddressPortDependent
        );
        assert_eq!(sim.hosts[host].extra_sockets(), 0);
    }
    let (a, b) = (sim.counters(a), sim.counters(b));
    assert_eq!((a.searches, b.searches), (0, 0));
}

#[test]
fn whoever_cannot_send_datagrams_stays_relayed_and_says_why() {
    let (mut sim, a, b) = two(13, 1, [None, Some(Kind::PortRestricted)]);
    sim.run(secs(1));
    assert!(time_to_direct(&mut sim, a, b, secs(3)).is_some());
    assert_eq!(sim.hosts[a].node.mapping(), Mapping::None);
    assert_eq!(sim.hosts[b].node.mapping(), Mapping::EndpointIndependent);
    assert_eq!(sim.peer(a, 2).relayed, None);
}

#[test]
fn a_nat_that_forgets_everything_costs_less_than_a_second_of_a_transfer() {
    // DESIGN §7
    for kind in KINDS {
        let (mut sim, a, b) = two(17, 2, [Some(kind), None]);
        assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
        let silence = longest_silence_while(&mut sim, a, 2, secs(8), |sim| {
            sim.nats[0].forget();
        });
        assert!(silence <= secs(1), "{kind:?}: {silence:?}");
        assert!(is_direct(&sim, a, 2), "{kind:?}: direct again");
    }
}

#[test]
fn a_direct_path_that_dies_is_left_for_the_relay_within_a_second() {
    // DESIGN §7
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(19, 2, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    let silence = longest_silence_while(&mut sim, a, 2, secs(5), |sim| {
        sim.outside_cut = Some((
            IpAddr::from([198, 51, 100, 1]),
            IpAddr::from([198, 51, 100, 2]),
        ));
    });
    assert!(silence <= secs(1), "{silence:?}");
    assert!(!is_direct(&sim, a, 2));
    sim.outside_cut = None;
    let back = time_to_direct(&mut sim, a, b, secs(40));
    assert!(back.is_some(), "direct again when the way is free");
}

#[test]
fn a_netcheck_tells_every_kind_of_nat() {
    // RFC 4787 §4.1, §5, §6
    use Kind::{AddressRestricted, FullCone, PortRestricted, Random, Sequence};
    let cases = [
        (None, Mapping::None, Filtering::EndpointIndependent),
        (
            Some(FullCone),
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
        ),
        (
            Some(AddressRestricted),
            Mapping::EndpointIndependent,
            Filtering::AddressDependent,
        ),
        (
            Some(PortRestricted),
            Mapping::EndpointIndependent,
            Filtering::AddressPortDependent,
        ),
        (
            Some(Sequence),
            Mapping::AddressPortDependent,
            Filtering::AddressPortDependent,
        ),
        (
            Some(Random),
            Mapping::AddressPortDependent,
            Filtering::AddressPortDependent,
        ),
    ];
    for (kind, mapping, filtering) in cases {
        for hairpin in [false, true] {
            let (mut sim, a, _) = two(31, 2, [kind, None]);
            if kind.is_some() {
                sim.nats[0].hairpin = hairpin;
            }
            let now = sim.now;
            sim.hosts[a].node.start_netcheck(now);
            sim.until(secs(3), "the report", |sim| {
                sim.hosts[a].node.net_report().is_some()
            });
            let report = sim.hosts[a].node.net_report().unwrap().clone();
            assert!(report.udp, "{kind:?}");
            assert_eq!(
                (report.mapping, report.filtering),
                (mapping, filtering),
                "{kind:?}"
            );
            let turns = match kind {
                Some(FullCone) => Some(hairpin),
                None => None,
                _ => report.hairpin,
            };
            assert_eq!(report.hairpin, turns, "{kind:?}");
            assert_eq!(report.in_sequence, kind == Some(Sequence));
            assert_eq!(report.relays.len(), 2);
            assert!(
                report.relays.iter().all(|relay| relay.rtt == Some(ms(20))),
                "{report:?}"
            );
            sim.run(secs(60));
            assert_eq!(sim.hosts[a].extra_sockets(), 0);
        }
    }
}

#[test]
fn an_idle_pair_sends_nothing_to_each_other() {
    // U17
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(41, 1, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    sim.run(secs(60));
    sim.record = Some(Vec::new());
    sim.run(secs(600));
    let between = |flying: &Flying| {
        let ends = [flying.from.ip(), flying.to.ip()];
        let outside = [1, 2].map(|last| IpAddr::from([198, 51, 100, last]));
        ends == outside || ends == [outside[1], outside[0]]
    };
    let all = sim.record.iter().flatten();
    assert_eq!(all.filter(|(_, flying)| between(flying)).count(), 0);
    // And it is reached at once when it is wanted again.
    assert!(sim.ping(a, ipv6(2)).is_ok());
}

#[test]
fn an_idle_node_with_two_relays_wakes_less_than_ten_times_a_minute_and_stays_reachable() {
    // U17, D40: one packet at a time here; sessions are made anew among it
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(83, 2, kinds);
    sim.ping(a, ipv6(2)).unwrap();
    sim.run(secs(120));
    for (minutes, forgets) in [(20, false), (2, true)] {
        if forgets {
            sim.nats[1].forget();
        }
        let before = sim.hosts[b].woken;
        sim.run(secs(60 * minutes));
        let woken = (sim.hosts[b].woken - before) as f64 / minutes as f64;
        println!("{woken:.2} wake-ups a minute");
        assert!(forgets || woken < 10.0, "{woken:.2} a minute");
        // Both of its relays know where it is.
        for relay in [0, 1] {
            sim.hosts[1 - relay].up = false;
            let took = sim.ping(a, ipv6(2)).expect("over the other relay");
            assert!(took < secs(2), "{took:?}");
            sim.hosts[1 - relay].up = true;
            sim.run(secs(60));
        }
    }
}

/// The longest time without an answer while pings go every 50 ms and something happens a second later.
fn longest_silence_while(
    sim: &mut Sim,
    from: usize,
    to: u16,
    time: Duration,
    meanwhile: impl FnOnce(&mut Sim),
) -> Duration {
    let before = longest_silence(sim, from, to, secs(1));
    meanwhile(sim);
    before.max(longest_silence(sim, from, to, time))
}

/// The host is behind another NAT from now on, and has seen that its addresses changed.
pub(super) fn moves(sim: &mut Sim, index: usize, number: u16, nat: u8) {
    sim.nats.push(Nat::of_kind(Kind::PortRestricted, nat));
    let at = behind(nat, number);
    sim.hosts[index].at = at;
    let now = sim.now;
    let node = &mut sim.hosts[index].node;
    node.set_interfaces(now, vec![lan_interface(at)]);
}

#[test]
fn either_side_and_both_at_once_change_their_network_within_a_second() {
    // A2, D24
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    for movers in [[true, false], [false, true], [true, true]] {
        let (mut sim, a, b) = two(47, 2, kinds);
        assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
        let silence = longest_silence_while(&mut sim, a, 2, secs(5), |sim| {
            if movers[0] {
                moves(sim, a, 1, 11);
            }
            if movers[1] {
                moves(sim, b, 2, 12);
            }
        });
        assert!(silence <= secs(1), "{movers:?}: {silence:?}");
        assert!(is_direct(&sim, a, 2) && is_direct(&sim, b, 1), "{movers:?}");
    }
}

#[test]
fn direct_paths_need_no_relay_once_they_stand() {
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(53, 2, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    let silence = longest_silence_while(&mut sim, a, 2, secs(60), |sim| {
        sim.hosts[0].up = false;
        sim.hosts[1].up = false;
    });
    assert!(silence <= ms(200), "{silence:?}");
    assert!(is_direct(&sim, a, 2) && is_direct(&sim, b, 1));
}

#[test]
fn a_clock_that_jumps_costs_a_handshake_and_no_more() {
    // Q17
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(59, 2, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    let silence = longest_silence_while(&mut sim, a, 2, secs(5), |sim| {
        let later = sim.clock_of(secs(3600));
        sim.hosts[a].node.set_clock(later);
    });
    assert!(silence <= secs(1), "{silence:?}");
    assert!(is_direct(&sim, a, 2) && is_direct(&sim, b, 1));
}

#[test]
fn a_machine_without_an_address_for_a_while_is_back_when_it_has_one() {
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(61, 2, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    let now = sim.now;
    sim.hosts[a].node.set_interfaces(now, Vec::new());
    let away = sim.hosts[a].at;
    sim.hosts[a].at = SocketAddr::from(([169, 254, 0, 1], 8737));
    sim.run(secs(20));
    sim.hosts[a].at = away;
    let now = sim.now;
    sim.hosts[a]
        .node
        .set_interfaces(now, vec![lan_interface(away)]);
    let back = time_to_direct(&mut sim, a, b, secs(5));
    assert!(back.is_some_and(|took| took <= secs(1)), "{back:?}");
}

#[test]
fn two_behind_one_nat_find_the_short_way() {
    // A54, DESIGN §7: it does not turn packets round
    let mut sim = relays(67, 2);
    sim.nats.push(Nat::of_kind(Kind::PortRestricted, 1));
    let hosts: Vec<usize> = [1, 2]
        .into_iter()
        .map(|number| {
            let at = behind(1, number);
            let index = sim.host_at(at, number, quiet());
            let now = sim.now;
            let node = &mut sim.hosts[index].node;
            node.set_interfaces(now, vec![lan_interface(at)]);
            join(&mut sim, index, 2);
            index
        })
        .collect();
    let (a, b) = (hosts[0], hosts[1]);
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    trust(&mut sim, a, 2);
    trust(&mut sim, b, 1);
    assert!(time_to_direct(&mut sim, a, b, secs(2)).is_some());
    assert_eq!(sim.used(a, 2), Some("udp://10.1.0.2:8737".to_owned()));
}

#[test]
fn an_interface_that_flaps_hundreds_of_times_a_second_makes_no_flood() {
    // S20: forged or not
    let kinds = [Some(Kind::PortRestricted), Some(Kind::PortRestricted)];
    let (mut sim, a, b) = two(73, 2, kinds);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    let at = sim.hosts[a].at;
    let before = (sim.hosts[a].sent.0, sim.hosts[b].sent.0);
    let changes = sim.counters(a).link_changes;
    for round in 0..5_000u32 {
        let present = if round % 2 == 0 {
            vec![]
        } else {
            vec![lan_interface(at)]
        };
        let now = sim.now;
        sim.hosts[a].node.set_interfaces(now, present);
        sim.run(ms(2));
    }
    let counters = sim.counters(a);
    let followed = counters.link_changes - changes;
    assert!((10..=16).contains(&followed), "{followed} in 10 s");
    assert!(counters.link_changes_joined >= 4_900);
    let sent = (
        sim.hosts[a].sent.0 - before.0,
        sim.hosts[b].sent.0 - before.1,
    );
    println!(
        "5,000 changes in 10 s: {} packets of ours, {} of the peer",
        sent.0, sent.1
    );
    assert!(sent.0 <= 16 * 40 && sent.1 <= 16 * 40, "{sent:?}");
    // The last state counts, and the two still talk.
    sim.run(secs(2));
    assert!(sim.ping(a, ipv6(2)).is_ok());
}

#[test]
fn every_pair_has_its_first_reply_within_four_round_trips_of_the_relay_path() {
    // Handshake, KEM, echo; 40 ms from one end over a relay to the other and back
    let mut kinds: Vec<Option<Kind>> = KINDS.into_iter().map(Some).collect();
    kinds.push(None);
    let mut slowest = Duration::ZERO;
    for near in &kinds {
        for far in &kinds {
            let (mut sim, a, _) = two(79, 2, [*near, *far]);
            let took = sim.ping(a, ipv6(2)).expect("the first packet is answered");
            assert!(took <= 4 * ms(40), "{near:?} and {far:?}: {took:?}");
            slowest = slowest.max(took);
        }
    }
    println!(
        "slowest first reply of {} pairs: {slowest:?}",
        kinds.len() * kinds.len()
    );
}

//! Two machines that reach nothing but relays (A16 to A26, A39, A45, D18, D25, D38, D40, DESIGN §7).
mod service;

use super::*;
use crate::anode::relay::LIFETIME;

/// Numbers of relays; each lives at its home.
const R: u16 = 200;

fn relay() -> NodeConfig {
    NodeConfig {
        relay: Some(RelayConfig::default()),
        ..quiet()
    }
}

/// The same, reached over TCP, too.
pub(super) fn zone_over_tcp(count: u16) -> Vec<ZoneRelay> {
    let mut zone = zone(count);
    for relay in &mut zone {
        let Some(Endpoint::Udp(at)) = relay.endpoints.first().cloned() else {
            continue;
        };
        relay.endpoints.push(Endpoint::Tcp(at));
    }
    zone
}

/// The zone file's entries for relays `R`, `R + 1`, …
fn zone(count: u16) -> Vec<ZoneRelay> {
    (0..count)
        .map(|index| ZoneRelay {
            index: u32::from(index),
            address: address(R + index),
            endpoints: vec![Endpoint::Udp(home(R + index))],
        })
        .collect()
}

/// A zone of so many relays (hosts 0 to count - 1), and nobody in it yet.
pub(super) fn relays(seed: u64, count: u16) -> Sim {
    let mut sim = Sim::new(seed);
    for index in 0..count {
        sim.host(R + index, relay());
    }
    sim
}

/// Host `number` behind a symmetric NAT of its own, in the zone of these relays.
fn natted(sim: &mut Sim, number: u16, count: u16, config: NodeConfig) -> usize {
    let inside = sim.nats.len() as u8 + 1;
    sim.nats.push(Nat::new(inside));
    let index = sim.host_at(behind(inside, number), number, config);
    join(sim, index, count);
    index
}

pub(super) fn join(sim: &mut Sim, index: usize, count: u16) {
    let now = sim.now;
    let relays = zone(count);
    let node = &mut sim.hosts[index].node;
    node.set_relays(now, anode_wire::Zone(0), u32::from(count), relays);
}

pub(super) fn is_registered(sim: &Sim, index: usize) -> bool {
    let relays = sim.hosts[index].node.relays();
    !relays.is_empty() && relays.iter().all(|relay| relay.registered)
}

/// Hosts 1 and 2 behind NATs of their own, registered with what stands for them.
fn two_behind_nats(seed: u64, count: u16) -> (Sim, usize, usize) {
    behind_nats(relays(seed, count), count)
}

/// The same, before these relays.
pub(super) fn behind_nats(mut sim: Sim, count: u16) -> (Sim, usize, usize) {
    let a = natted(&mut sim, 1, count, quiet());
    let b = natted(&mut sim, 2, count, quiet());
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    (sim, a, b)
}

pub(super) fn active(sim: &Sim, index: usize, number: u16) -> Option<PathSnapshot> {
    let paths = sim.peer(index, number).paths;
    paths.into_iter().find(|path| path.active)
}

pub(super) fn learn(sim: &mut Sim, index: usize, number: u16) {
    let now = sim.now;
    let node = &mut sim.hosts[index].node;
    node.add_peer(now, address(number), &[], false);
}

/// Opens a stream and writes.
pub(super) fn transfer(
    sim: &mut Sim,
    from: usize,
    to: u16,
    bytes: usize,
) -> (crate::StreamId, Vec<u8>) {
    let now = sim.now;
    let stream = sim.hosts[from]
        .node
        .open(now, 40_000, ipv6(to), 80)
        .unwrap();
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    sim.write(from, stream, data.clone());
    (stream, data)
}

pub(super) fn received(sim: &Sim, index: usize) -> usize {
    let program = &sim.hosts[index].program;
    program.read.values().map(Vec::len).sum()
}

#[test]
fn two_behind_symmetric_nats_talk_over_the_relay_from_the_first_packet() {
    // A16, A17, A20, A22, A26, A39
    for count in [1, 2, 3, 5] {
        let (mut sim, a, b) = two_behind_nats(u64::from(count), count);
        learn(&mut sim, a, 2);
        let rtt = sim.ping(a, ipv6(2)).unwrap();
        // 40 ms from one end to the other and back: handshake, KEM, echo.
        assert!(rtt <= ms(160), "{count} relays: {rtt:?}");
        let path = active(&sim, a, 2).unwrap();
        assert_eq!(path.kind, PathKind::Relay);
        assert_eq!(path.hops, 1);
        let relay = path.relay.unwrap();
        assert!((0..count).any(|index| address(R + index) == relay));
        assert!(sim.ping(a, ipv6(2)).unwrap() <= ms(40));
        assert!(sim.ping(b, ipv6(1)).unwrap() <= ms(40));
        let relayed: u64 = (0..usize::from(count))
            .map(|index| sim.counters(index).relayed_packets)
            .sum();
        assert!(relayed > 0);
    }
}

#[test]
fn an_ipv6_alone_is_found_by_asking_the_relays() {
    // DESIGN §4, §5
    for count in [1, 4] {
        let (mut sim, a, _) = two_behind_nats(7, count);
        let rtt = sim.ping(a, ipv6(2)).unwrap();
        assert!(rtt <= ms(200), "WHOIS, handshake, KEM, echo: {rtt:?}");
        assert!(sim.peer(a, 2).sources.contains(&"whois"));
        assert!(sim.ping(a, ipv6(77)).is_err(), "nobody has that one");
    }
}

#[test]
fn a_stream_goes_over_a_relay_that_loses_and_reorders() {
    let (mut sim, a, b) = two_behind_nats(11, 2);
    learn(&mut sim, a, 2);
    sim.link.loss = 20;
    sim.link.jitter = ms(5);
    let (_, data) = transfer(&mut sim, a, 2, 200_000);
    sim.until(secs(60), "the transfer", |sim| received(sim, b) >= 200_000);
    let program = &sim.hosts[b].program;
    assert!(program.read.values().any(|read| *read == data));
}

/// The longest time between two answers while host `from` pings `to` every 50 ms.
pub(super) fn longest_silence(sim: &mut Sim, from: usize, to: u16, time: Duration) -> Duration {
    let (begin, until) = (sim.now, sim.now + time);
    let mut token = 1 << 32;
    let tokens = token..;
    while sim.now < until {
        let now = sim.now;
        // A failure is silence, too.
        let _ = sim.hosts[from].node.ping(now, ipv6(to), token, b"again");
        token += 1;
        sim.run(ms(50));
    }
    let events = sim.hosts[from].program.events.iter();
    let events = events.filter(|(at, _)| *at >= begin);
    let answers = events.filter_map(|(at, event)| match event {
        OverlayEvent::Pong { token, .. } if tokens.contains(token) => Some(*at),
        _ => None,
    });
    let times: Vec<Instant> = [begin].into_iter().chain(answers).chain([until]).collect();
    times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap()
}

/// Which relay (as host index) host `index` uses towards `number`.
pub(super) fn used_relay(sim: &Sim, index: usize, number: u16) -> usize {
    let relay = active(sim, index, number).unwrap().relay.unwrap();
    (0..8)
        .find(|index| address(R + *index as u16) == relay)
        .unwrap()
}

#[test]
fn a_dead_relay_is_left_for_the_next_within_a_second() {
    // D40, DESIGN §7
    for count in [2, 5] {
        let (mut sim, a, b) = two_behind_nats(20 + u64::from(count), count);
        learn(&mut sim, a, 2);
        sim.ping(a, ipv6(2)).unwrap();
        // Both on the way there and on the way back.
        for (end, other) in [(a, 2), (b, 1)] {
            let dead = used_relay(&sim, end, other);
            sim.hosts[dead].up = false;
            let silence = longest_silence(&mut sim, a, 2, secs(5));
            // Where both ends have relays of their own, the one learns of it from the questions of the other.
            let limit = secs(1);
            assert!(silence <= limit, "{count} relays: {silence:?}");
            sim.hosts[dead].up = true;
            sim.run(secs(30));
        }
    }
}

#[test]
fn a_relay_that_forgets_everything_knows_its_peers_again_within_seconds() {
    // D40
    for kept in [true, false] {
        let (mut sim, a, _) = two_behind_nats(31, 1);
        learn(&mut sim, a, 2);
        sim.ping(a, ipv6(2)).unwrap();
        let now = sim.now;
        let known = sim.hosts[0].node.registrations(now);
        assert_eq!(known.len(), 2);
        sim.restart(0, R, relay());
        if kept {
            sim.hosts[0].node.restore_registrations(now, &known);
        }
        let silence = longest_silence(&mut sim, a, 2, secs(10));
        let limit = if kept { ms(150) } else { secs(3) };
        assert!(silence <= limit, "registrations kept: {kept}: {silence:?}");
        sim.run(secs(30));
        let now = sim.now;
        assert_eq!(sim.hosts[0].node.registrations(now).len(), 2);
    }
}

#[test]
fn a_transfer_survives_the_death_of_its_relay() {
    let (mut sim, a, b) = two_behind_nats(33, 2);
    learn(&mut sim, a, 2);
    sim.ping(a, ipv6(2)).unwrap();
    let (_, data) = transfer(&mut sim, a, 2, 3_000_000);
    sim.link.rate = 1_000_000;
    sim.until(secs(30), "half of it", |sim| received(sim, b) > 1_000_000);
    let dead = used_relay(&sim, a, 2);
    sim.hosts[dead].up = false;
    // What is under way still arrives.
    sim.run(ms(100));
    let before = received(&sim, b);
    let gap = ms(100) + sim.until(secs(5), "more of it", |sim| received(sim, b) > before);
    println!("its relay dies: more of the transfer after {gap:?}");
    assert!(gap < secs(1), "{gap:?}");
    sim.until(secs(60), "the rest", |sim| received(sim, b) == data.len());
}

#[test]
fn a_nat_that_forgets_is_noticed_by_traffic_and_by_renewal() {
    // D40, A2
    let (mut sim, a, b) = two_behind_nats(35, 2);
    learn(&mut sim, a, 2);
    sim.ping(a, ipv6(2)).unwrap();
    sim.nats[1].forget();
    let silence = longest_silence(&mut sim, b, 1, secs(4));
    assert!(
        silence <= secs(2),
        "its own packets open it again: {silence:?}"
    );
    sim.nats[0].forget();
    sim.nats[1].forget();
    sim.run(secs(27));
    assert!(sim.ping(a, ipv6(2)).unwrap() <= ms(500));
}

#[test]
fn the_direct_path_is_preferred_once_proven_and_left_when_it_dies() {
    // D24, Q25, DESIGN §7
    let mut sim = relays(37, 2);
    let (a, b) = (sim.host(1, knows(&[2])), sim.host(2, quiet()));
    join(&mut sim, a, 2);
    join(&mut sim, b, 2);
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    let ends = (home(1), home(2));
    sim.cut.push(ends);
    sim.ping(a, ipv6(2)).unwrap();
    assert_eq!(active(&sim, a, 2).unwrap().kind, PathKind::Relay);
    sim.cut.clear();
    longest_silence(&mut sim, a, 2, secs(30));
    assert_eq!(active(&sim, a, 2).unwrap().kind, PathKind::Direct);
    assert_eq!(active(&sim, a, 2).unwrap().hops, 0);
    sim.cut.push(ends);
    let silence = longest_silence(&mut sim, a, 2, secs(5));
    assert!(silence <= secs(1), "{silence:?}");
    assert_eq!(active(&sim, a, 2).unwrap().kind, PathKind::Relay);
}

#[test]
fn peers_of_one_address_are_told_apart_by_their_digit() {
    // A44, A45, A46, S18
    let mut sim = relays(39, 2);
    let digits = [3, 5].map(|digit| PeerId::new(digit).unwrap());
    let shared = |digit| NodeConfig {
        peer_id: digit,
        ..quiet()
    };
    let a = natted(&mut sim, 1, 2, quiet());
    let machines = digits.map(|digit| natted(&mut sim, 2, 2, shared(digit)));
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && machines.iter().all(|index| is_registered(sim, *index))
    });
    learn(&mut sim, a, 2);
    for (machine, digit) in machines.iter().zip(digits) {
        let to = address(2).ipv6(digit);
        for payload in 0..3u8 {
            let now = sim.now;
            let node = &mut sim.hosts[a].node;
            node.send_datagram(now, 7, to, 9, &[payload]).unwrap();
            sim.run(ms(500));
        }
        let got = &sim.hosts[*machine].program.datagrams;
        assert_eq!(got.len(), 3, "digit {}", digit.get());
        assert!(got.iter().all(|(_, _, at, ..)| *at == to));
    }
    // Digit 0 reaches one of them, and always the same one.
    let before = machines.map(|index| sim.hosts[index].program.datagrams.len());
    for _ in 0..6 {
        let now = sim.now;
        let node = &mut sim.hosts[a].node;
        node.send_datagram(now, 7, ipv6(2), 9, b"any").unwrap();
        sim.run(ms(100));
    }
    let more = [0, 1].map(|i| sim.hosts[machines[i]].program.datagrams.len() - before[i]);
    assert!(more == [6, 0] || more == [0, 6], "{more:?}");
    assert!(sim.hosts[0].node.registrations(sim.now).len() >= 3);
}

#[test]
fn a_relay_that_alters_or_drops_costs_time_and_nothing_else() {
    // Q25, Q27, S15
    let alters: fn(&mut Flying) -> bool = |packet| {
        // From the first relay: hop counts that lie, bits turned, every third lost.
        if packet.from == Place::Udp(home(R)) {
            let number = packet.bytes[packet.bytes.len() - 1];
            packet.bytes[0] = number % 3;
            if number.is_multiple_of(3) {
                return false;
            }
            if number % 3 == 1 {
                let last = packet.bytes.len() / 2;
                packet.bytes[last] ^= 0x10;
            }
        }
        true
    };
    let (mut sim, a, b) = two_behind_nats(53, 2);
    sim.meddler = Some(alters);
    learn(&mut sim, a, 2);
    let (_, data) = transfer(&mut sim, a, 2, 50_000);
    sim.until(secs(120), "the transfer", |sim| {
        received(sim, b) == data.len()
    });
    let program = &sim.hosts[b].program;
    assert!(program.read.values().any(|read| *read == data));
}

#[test]
fn a_new_zone_file_moves_everybody_to_its_relays() {
    // A22, D4
    let (mut sim, a, b) = two_behind_nats(55, 1);
    learn(&mut sim, a, 2);
    sim.ping(a, ipv6(2)).unwrap();
    sim.host(R + 1, relay());
    let now = sim.now;
    let new = ZoneRelay {
        index: 0,
        address: address(R + 1),
        endpoints: vec![Endpoint::Udp(home(R + 1))],
    };
    for index in [a, b] {
        let node = &mut sim.hosts[index].node;
        node.set_relays(now, anode_wire::Zone(0), 1, vec![new.clone()]);
    }
    sim.hosts[0].up = false;
    sim.run(secs(5));
    assert!(is_registered(&sim, a) && is_registered(&sim, b));
    longest_silence(&mut sim, a, 2, secs(5));
    let path = active(&sim, a, 2).unwrap();
    assert_eq!(path.relay, Some(address(R + 1)));
}

#[test]
fn a_relay_that_moves_is_followed_as_soon_as_the_zone_file_says_so() {
    // A26, D40
    let (mut sim, a, b) = two_behind_nats(56, 1);
    learn(&mut sim, a, 2);
    assert!(sim.ping(a, ipv6(2)).is_ok());
    // The same key on another machine; nobody answers where it was.
    sim.hosts[0].up = false;
    let there = home(R + 50);
    sim.host_at(there, R, relay());
    let now = sim.now;
    for index in [a, b] {
        let moved = ZoneRelay {
            endpoints: vec![Endpoint::Udp(there)],
            ..zone(1)[0].clone()
        };
        let node = &mut sim.hosts[index].node;
        node.set_relays(now, anode_wire::Zone(0), 1, vec![moved]);
    }
    let took = sim.until(secs(10), "registration there", |sim| {
        let there = format!("udp://{there}");
        let is_there = |index: usize| {
            let relays = sim.hosts[index].node.relays();
            relays[0].registered && relays[0].endpoint.as_ref() == Some(&there)
        };
        is_there(a) && is_there(b)
    });
    assert!(took <= secs(3), "{took:?}");
    let start = sim.now;
    while sim.ping(a, ipv6(2)).is_err() {
        assert!(sim.now - start <= secs(3), "traffic over the new place");
    }
}

#[test]
fn an_address_whose_number_is_missing_has_no_relay() {
    // D7, A22
    let mut sim = Sim::new(57);
    let a = sim.host(1, quiet());
    let now = sim.now;
    let sum = address(1).byte_sum();
    for missing in 0..4 {
        let relays: Vec<ZoneRelay> = zone(4);
        let relays = relays.into_iter().filter(|relay| relay.index != missing);
        let node = &mut sim.hosts[a].node;
        node.set_relays(now, anode_wire::Zone(0), 4, relays.collect());
        let wanted = [sum % 4, (sum + 1) % 4].into_iter();
        let wanted = wanted.filter(|index| *index != missing);
        let wanted: Vec<Address> = wanted.map(|index| address(R + index as u16)).collect();
        let chosen: Vec<Address> = node.relays().iter().map(|relay| relay.address).collect();
        let sorted = |mut all: Vec<Address>| {
            all.sort();
            all
        };
        assert_eq!(sorted(chosen), sorted(wanted), "without {missing}");
    }
}

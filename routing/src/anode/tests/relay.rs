//! Two machines that reach nothing but relays (A16 to A26, A39, A45, D18, D25, D38, D40, DESIGN §7).
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
fn relays(seed: u64, count: u16) -> Sim {
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

fn join(sim: &mut Sim, index: usize, count: u16) {
    let now = sim.now;
    let relays = zone(count);
    let node = &mut sim.hosts[index].node;
    node.set_relays(now, anode_wire::Zone(0), u32::from(count), relays);
}

fn is_registered(sim: &Sim, index: usize) -> bool {
    let relays = sim.hosts[index].node.relays();
    !relays.is_empty() && relays.iter().all(|relay| relay.registered)
}

/// Hosts 1 and 2 behind NATs of their own, registered with what stands for them.
fn two_behind_nats(seed: u64, count: u16) -> (Sim, usize, usize) {
    let mut sim = relays(seed, count);
    let a = natted(&mut sim, 1, count, quiet());
    let b = natted(&mut sim, 2, count, quiet());
    sim.until(secs(5), "registration", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    (sim, a, b)
}

fn active(sim: &Sim, index: usize, number: u16) -> Option<PathSnapshot> {
    let paths = sim.peer(index, number).paths;
    paths.into_iter().find(|path| path.active)
}

fn learn(sim: &mut Sim, index: usize, number: u16) {
    let now = sim.now;
    let node = &mut sim.hosts[index].node;
    node.add_peer(now, address(number), &[], false);
}

/// Opens a stream and writes.
fn transfer(sim: &mut Sim, from: usize, to: u16, bytes: usize) -> (crate::StreamId, Vec<u8>) {
    let now = sim.now;
    let stream = sim.hosts[from]
        .node
        .open(now, 40_000, ipv6(to), 80)
        .unwrap();
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let program = &mut sim.hosts[from].program;
    program.to_write.insert(stream, (data.clone(), 0));
    (stream, data)
}

fn received(sim: &Sim, index: usize) -> usize {
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

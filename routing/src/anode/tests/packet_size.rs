//! How large packets become, and what happens when they no longer pass.
use super::streams::{open, pattern};
use super::*;

fn largest(sim: &Sim, index: usize, number: u16) -> u16 {
    let peer = sim.peer(index, number);
    let mut used = peer.paths.iter().filter(|path| path.active);
    used.next().unwrap().max_packet
}

fn wide(mut sim: Sim, bytes: usize) -> Sim {
    sim.link.largest = bytes;
    sim
}

#[test]
fn a_path_in_use_gets_packets_of_an_ethernet_frame() {
    // D36
    for draft in [false, true] {
        let sim = if draft {
            Sim::draft_pair(71)
        } else {
            Sim::pair(71)
        };
        let mut sim = wide(sim, 1452);
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(5));
        assert_eq!(largest(&sim, 0, 2), 1452, "draft: {draft}");
        let asked = sim.counters(0).size_probes;
        assert_eq!(asked, 4, "1,452 once, 8,952 three times");
        assert_eq!(sim.counters(0).dropped_pongs, 0);
        // A datagram that would have needed two packets.
        let now = sim.now;
        let payload = [7; 1200];
        let node = &mut sim.hosts[0].node;
        node.send_datagram(now, 1000, ipv6(2), 2000, &payload)
            .unwrap();
        sim.run(secs(1));
        assert_eq!(sim.hosts[1].program.datagrams.len(), 1);
        assert_eq!(sim.counters(0).tx_fragmented, 0);
    }
}

#[test]
fn jumbo_frames_are_used_where_they_pass() {
    // D36
    let mut sim = wide(Sim::pair(72), 8952);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(1));
    assert_eq!(largest(&sim, 0, 2), 8952);
    assert_eq!(sim.counters(0).size_probes, 2);
}

#[test]
fn a_path_that_nobody_uses_is_not_asked() {
    // D36
    let mut sim = wide(Sim::pair(73), 1452);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(600));
    let asked = sim.counters(0).size_probes;
    sim.run(secs(3600));
    assert_eq!(sim.counters(0).size_probes, asked);
}

#[test]
fn a_transfer_survives_a_way_that_has_become_narrower() {
    // D36, N9, U8
    let mut sim = wide(Sim::pair(74), 1452);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(2));
    let data = pattern(4 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    sim.until(secs(10), "half of it", |sim| {
        sim.bytes_read(1) > data.len() / 2
    });
    sim.link.largest = 1300;
    let took = sim.until(secs(60), "the rest", |sim| sim.has_finished(1));
    println!("the rest of 4 MiB behind a way that is narrower now: {took:?}");
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(sim.hosts[1].program.read[&incoming] == data);
    assert!(sim.counters(0).black_holes >= 1);
    sim.run(secs(10));
    assert!((1284..=1300).contains(&largest(&sim, 0, 2)));
}

#[test]
fn an_echo_that_was_not_asked_for_makes_no_packet_larger() {
    // D36, S16
    let mut sim = Sim::pair(75);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(10));
    let now = sim.now;
    let node = &mut sim.hosts[1].node;
    let found = node.peers.find(address(1).as_bytes()).unwrap();
    let destination = node
        .peers
        .get(found)
        .unwrap()
        .route(PeerId::ANY)
        .unwrap()
        .destination;
    let Some(sealing::Channel::Sealed(key)) = node.channel(found, PeerId::ANY) else {
        panic!("no session");
    };
    sim.link.largest = 1452;
    let echo = vec![0; 1400];
    let lane = sealing::Lane::Control;
    let message = Message::Pong(&echo);
    let node = &mut sim.hosts[1].node;
    node.push_whole(now, found, key, destination, lane, &message)
        .unwrap();
    sim.run(secs(1));
    assert_eq!(sim.counters(0).dropped_pongs, 1);
    assert_eq!(largest(&sim, 0, 2), INITIAL_PACKET);
}

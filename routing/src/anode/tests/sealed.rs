//! Sealed sessions between nodes (Q1 to Q29, as far as a node shows them).
use super::streams::{open, pattern};
use super::*;
use crate::overlay::StreamId;
use anode_wire::sealed::kind as seal;

mod policies;
mod restarts;
mod strangers;
mod tickets;

/// HELLO and WELCOME, KEM and its answer, question and answer, at 10 ms each.
const FIRST_REPLY: Duration = ms(60);
/// What programs write and nobody else may read.
const SECRET: &[u8] = b"the quick brown fox jumps over the lazy dog";

fn with(security: Security, config: NodeConfig) -> NodeConfig {
    NodeConfig { security, ..config }
}

fn security(plain: Plain, pq: Pq) -> Security {
    Security { plain, pq }
}

/// Hosts 1 and 2 under these policies, the first with the second configured.
fn pair_under(seed: u64, first: Security, second: Security) -> Sim {
    let mut sim = Sim::new(seed);
    sim.host(1, with(first, knows(&[2])));
    sim.host(2, with(second, quiet()));
    sim
}

/// Kinds of all packets that were recorded.
fn kinds(sim: &Sim) -> std::collections::BTreeSet<u8> {
    let all = sim.record.iter().flatten();
    all.map(|(_, flying)| Packet::new_checked(&flying.bytes[..]).unwrap().kind())
        .collect()
}

fn datagram(sim: &mut Sim, from: usize, number: u16, payload: &[u8]) -> Result<(), Failure> {
    let now = sim.now;
    let node = &mut sim.hosts[from].node;
    node.send_datagram(now, 1, ipv6(number), 2, payload)
}

/// Everything a program can do, each once.
fn talk(sim: &mut Sim) {
    sim.ping(0, ipv6(2)).unwrap();
    datagram(sim, 0, 2, SECRET).unwrap();
    let stream = open(sim, 0, 2, 80);
    let data = SECRET.repeat(100);
    sim.write(0, stream, data.clone());
    sim.until(secs(10), "the stream's end", |sim| sim.has_finished(1));
    assert!(sim.hosts[1].program.read.values().any(|read| *read == data));
    assert_eq!(sim.hosts[1].program.datagrams[0].4, SECRET);
}

#[test]
fn a_first_reply_takes_three_round_trips_and_the_next_one() {
    // Q3, Q11, Q13, Q25
    let mut sim = Sim::pair(60);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), FIRST_REPLY);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
    sim.run(secs(1));
    let external = sim.hosts[0].node.external_endpoints();
    assert_eq!(external, [home(1)], "NETID, inside the session");
    for (index, number) in [(0, 2), (1, 1)] {
        let peer = sim.peer(index, number);
        assert!(peer.sealed && peer.pq && peer.paths[0].proven, "{peer:?}");
    }
}

#[test]
fn two_machines_on_a_lan_are_sealed_without_configuration() {
    // A55, Q3
    let mut sim = Sim::new(61);
    sim.lan_host(1);
    sim.lan_host(2);
    sim.run(secs(1));
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), FIRST_REPLY);
    assert!(sim.peer(0, 2).sealed && sim.peer(1, 1).sealed);
}

#[test]
fn who_listens_reads_nothing_that_programs_write() {
    // Q18, Q23
    let mut sim = Sim::pair(62);
    sim.record = Some(Vec::new());
    talk(&mut sim);
    for (_, flying) in sim.record.iter().flatten() {
        let leak = flying
            .bytes
            .windows(12)
            .any(|seen| SECRET.windows(12).any(|s| s == seen));
        assert!(!leak, "{:02x?}", flying.bytes);
    }
    let allowed = [
        kind::EPC_REQ,
        kind::EPC,
        seal::HELLO,
        seal::WELCOME,
        seal::SEALED,
    ];
    let seen = kinds(&sim);
    assert!(
        seen.iter().all(|kind| allowed.contains(kind)),
        "{seen:02x?}"
    );
    // Once there is a session, everything goes in it.
    sim.record = Some(Vec::new());
    sim.run(secs(60));
    talk_more(&mut sim);
    assert_eq!(kinds(&sim).into_iter().collect::<Vec<_>>(), [seal::SEALED]);
}

fn talk_more(sim: &mut Sim) {
    sim.ping(1, ipv6(1)).unwrap();
    sim.run(secs(30));
    sim.ping(0, ipv6(2)).unwrap();
}

#[test]
fn sessions_come_about_on_a_line_that_loses_a_third() {
    // Q9, Q11, Q13
    let mut times = Vec::new();
    for seed in 0..40 {
        let mut sim = Sim::pair(1000 + seed);
        sim.link = Link {
            loss: 300,
            jitter: ms(5),
            duplicate: 50,
            ..Link::default()
        };
        let begin = sim.now;
        let answered = |sim: &Sim| sim.has_event(0, |e| matches!(e, OverlayEvent::Pong { .. }));
        while !answered(&sim) {
            assert!(sim.now - begin < secs(30), "seed {seed}");
            let now = sim.now;
            let _ = sim.hosts[0].node.ping(now, ipv6(2), 1, b"x");
            sim.run(ms(500));
        }
        times.push(sim.now - begin);
        assert!(sim.peer(0, 2).sealed);
    }
    times.sort();
    println!(
        "30 % loss, 40 runs: first reply after {:?} (median), {:?} (worst)",
        times[20], times[39]
    );
}

#[test]
fn handshakes_that_cross_end_in_one_session() {
    // Q10
    for seed in 0..20 {
        let mut sim = Sim::new(1100 + seed);
        sim.link.jitter = ms(8);
        sim.host(1, knows(&[2]));
        sim.host(2, knows(&[1]));
        let now = sim.now;
        sim.hosts[0].node.ping(now, ipv6(2), 1, b"x").unwrap();
        sim.hosts[1].node.ping(now, ipv6(1), 2, b"x").unwrap();
        sim.until(secs(2), "both answers", |sim| {
            let answered = |index| sim.has_event(index, |e| matches!(e, OverlayEvent::Pong { .. }));
            answered(0) && answered(1)
        });
        sim.run(secs(3));
        let hash = |index: usize, number| sim.hosts[index].node.session_hash(&address(number));
        assert_eq!(hash(0, 2), hash(1, 1), "seed {seed}");
        assert!(hash(0, 2).is_some());
    }
}

#[test]
fn a_session_is_renewed_in_the_middle_of_a_transfer() {
    // Q15, Q16
    let mut sim = Sim::pair(75);
    sim.link.rate = 200_000;
    let data = pattern(60 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    let first = sim.hosts[0].node.session_hash(&address(2));
    sim.run(secs(150));
    let incoming = sim.hosts[1].program.accepted[0];
    let read = sim.hosts[1].program.read[&incoming].len();
    assert!(read > 20 << 20, "{read} bytes at 200,000 B/s");
    assert!(sim.hosts[1].program.read[&incoming] == data[..read]);
    for index in 0..2 {
        assert_eq!(sim.counters(index).sessions, 2, "host {index}");
        assert_eq!(
            sim.counters(index).dropped_sealed,
            0,
            "nothing was lost by it"
        );
    }
    assert_ne!(first, sim.hosts[0].node.session_hash(&address(2)));
    // And never later than 180 s: nothing is sealed with old keys.
    sim.run(secs(150));
    assert!(sim.counters(0).sessions >= 3);
    let read = sim.hosts[1].program.read[&incoming].len();
    assert!(sim.hosts[1].program.read[&incoming] == data[..read] && read > 50 << 20);
}

#[test]
fn what_is_larger_than_a_packet_goes_in_fragments() {
    // Q21, DESIGN §5
    let mut sim = Sim::pair(78);
    let large = pattern(65_000);
    datagram(&mut sim, 0, 2, &large).unwrap();
    sim.until(secs(1), "the datagram", |sim| {
        sim.hosts[1].program.datagrams.len() == 1
    });
    assert!(sim.hosts[1].program.datagrams[0].4 == large);
    let now = sim.now;
    let payload = pattern(60_000);
    let node = &mut sim.hosts[0].node;
    node.ping(now, ipv6(2), 9, &payload).unwrap();
    sim.until(secs(1), "the pong", |sim| {
        sim.has_event(0, |event| {
            matches!(event, OverlayEvent::Pong { token: 9, payload: back, .. } if *back == payload)
        })
    });
    let now = sim.now;
    let node = &mut sim.hosts[0].node;
    let other = pattern(20_000);
    node.send_other(now, ipv6(2), 132, &other).unwrap();
    assert_eq!(node.send_datagram(now, 1, ipv6(2), 2, &[0; 65_531]), Ok(()));
    let too_big = [
        (node.send_datagram(now, 1, ipv6(2), 2, &[0; 65_532]), 65_531),
        (node.ping(now, ipv6(2), 1, &[0; 65_528]), 65_527),
        (node.send_other(now, ipv6(2), 132, &[0; 65_535]), 65_534),
    ];
    for (result, max) in too_big {
        assert_eq!(result, Err(Failure::TooBig { max }));
    }
    sim.run(secs(1));
    assert!(sim.hosts[1].program.others == [(ipv6(1), 132, other)]);
    assert_eq!(sim.hosts[1].program.datagrams[1].4.len(), 65_531);
}

#[test]
fn fragments_cross_a_lossy_line_whole_or_not_at_all() {
    // Q21
    let mut sim = Sim::pair(79);
    sim.ping(0, ipv6(2)).unwrap();
    sim.link = Link {
        loss: 300,
        jitter: ms(5),
        duplicate: 50,
        ..Link::default()
    };
    let sent = pattern(3_000);
    for _ in 0..300 {
        datagram(&mut sim, 0, 2, &sent).unwrap();
        sim.run(ms(20));
    }
    sim.run(secs(10));
    let arrived = sim.hosts[1].program.datagrams.len();
    assert!(
        sim.hosts[1]
            .program
            .datagrams
            .iter()
            .all(|datagram| datagram.4 == sent)
    );
    // Three fragments each: 0.7 cubed.
    assert!((60..150).contains(&arrived), "{arrived} of 300");
    assert_eq!(
        sim.hosts[1].node.sessions.sizes()[3],
        0,
        "nothing incomplete is kept"
    );
}

#[test]
fn idle_nodes_are_silent_and_sleep_when_their_session_is_over() {
    // Q16
    let mut sim = Sim::pair(82);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(30));
    let before = (sim.hosts[0].sent, sim.hosts[1].sent);
    sim.run(secs(3600));
    assert_eq!((sim.hosts[0].sent, sim.hosts[1].sent), before);
    for host in &sim.hosts {
        assert_eq!(host.node.deadline(), None);
        assert_eq!(host.node.sessions.sizes()[2], 0, "no session is left");
    }
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), FIRST_REPLY);
}

#[test]
fn peer_ids_of_a_session_are_the_digits_that_programs_see() {
    // Q19, A44, A46, S14
    let five = PeerId::new(5).unwrap();
    let mut sim = Sim::new(83);
    sim.host(
        1,
        NodeConfig {
            peer_id: five,
            ..knows(&[2])
        },
    );
    sim.host(2, quiet());
    sim.ping(0, ipv6(2)).unwrap();
    datagram(&mut sim, 0, 2, b"x").unwrap();
    let now = sim.now;
    let seven = address(2).ipv6(PeerId::new(7).unwrap());
    let node = &mut sim.hosts[0].node;
    // Called by a digit that is not its own it answers all the same, as itself.
    node.send_datagram(now, 1, seven, 2, b"y").unwrap();
    node.send_other(now, ipv6(2), 58, b"z").unwrap();
    sim.run(secs(1));
    let from = address(1).ipv6(five);
    let program = &sim.hosts[1].program;
    assert_eq!(
        program.datagrams,
        [
            (from, 1, ipv6(2), 2, b"x".to_vec()),
            (from, 1, ipv6(2), 2, b"y".to_vec())
        ]
    );
    assert_eq!(program.others, [(from, 58, b"z".to_vec())]);
    let now = sim.now;
    sim.hosts[1]
        .node
        .send_datagram(now, 1, from, 2, b"back")
        .unwrap();
    sim.run(secs(1));
    assert_eq!(sim.hosts[0].program.datagrams.len(), 1);
}

#[test]
fn congestion_marks_slow_a_sealed_stream_without_loss() {
    // RFC 3168; only inside SEALED
    let mut sim = Sim::pair(86);
    sim.link.rate = 12_500_000;
    sim.link.mark = 20;
    let data = pattern(8 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    sim.until(secs(60), "the end", |sim| sim.has_finished(1));
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(sim.hosts[1].program.read[&incoming] == data);
    let counters = sim.hosts[0].node.stream_counters(stream).unwrap();
    assert!(counters.marks > 10, "{counters:?}");
    let mut sim = Sim::draft_pair(86);
    sim.record = Some(Vec::new());
    talk(&mut sim);
    assert!(
        sim.record
            .iter()
            .flatten()
            .all(|(_, flying)| !flying.ecn_capable)
    );
}

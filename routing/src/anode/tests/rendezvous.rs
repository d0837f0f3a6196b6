//! Meeting by what a tracker says: who answers, what is sent, and what never becomes of an entry.
use super::*;
use std::net::{IpAddr, Ipv4Addr};

const TRACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn meets(sim: &mut Sim, index: usize) {
    let now = sim.now;
    sim.hosts[index].node.set_rendezvous(now, Some(Vec::new()));
}

fn named(sim: &mut Sim, index: usize, endpoints: &[SocketAddr]) {
    let (now, own) = (sim.now, vec![sim.hosts[index].at]);
    let node = &mut sim.hosts[index].node;
    node.add_candidates(now, endpoints, TRACKER, own);
}

/// Hosts 1 and 2, each with the other's address and no idea where it is.
fn strangers_in_place(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.host(1, nowhere(2));
    sim.host(2, nowhere(1));
    for index in 0..2 {
        meets(&mut sim, index);
    }
    sim.record = Some(Vec::new());
    sim
}

/// Its address is known, and no place.
fn nowhere(peer: u16) -> NodeConfig {
    NodeConfig {
        peers: vec![ConfiguredPeer {
            address: address(peer),
            places: Vec::new(),
        }],
        ..quiet()
    }
}

// Discovery §3, steps 2 and 3: an entry is nothing, an EPC makes it a path, and the session follows the traffic.
#[test]
fn an_entry_becomes_a_path_by_an_epc_and_carries_a_session() {
    let mut sim = strangers_in_place(31);
    named(&mut sim, 0, &[home(2), elsewhere(9)]);
    assert!(sim.peer(0, 2).paths.is_empty(), "an entry is no path");
    sim.run(secs(5));
    for (index, other) in [(0, 2), (1, 1)] {
        let peer = sim.peer(index, other);
        assert_eq!(peer.paths.len(), 1, "{peer:?}");
        assert!(peer.paths[0].proven);
        assert!(peer.sources.contains(&"tracker"), "{peer:?}");
        assert!(!peer.sealed, "nobody has sent anything");
    }
    assert!(sim.ping(0, ipv6(2)).is_ok());
    assert!(sim.peer(0, 2).sealed && sim.peer(1, 1).sealed);
    assert!(!sim.hosts[0].node.is_searching(), "it is found");
}

// Discovery §3: both announce, both probe at full minutes, so that NATs which let in only answers are open on both sides.
#[test]
fn two_behind_port_restricted_nats_meet_at_a_full_minute() {
    let mut sim = Sim::new(32);
    sim.nats = vec![Nat::keeping_ports(1), Nat::keeping_ports(2)];
    let seen: Vec<SocketAddr> = sim.nats.iter().map(|nat| nat.seen_at(8737)).collect();
    sim.host_at(behind(1, 2), 1, nowhere(2));
    sim.host_at(behind(2, 2), 2, nowhere(1));
    for index in 0..2 {
        meets(&mut sim, index);
    }
    // The second comes first to hear of the other; the first asks again a minute later.
    named(&mut sim, 1, &[seen[0]]);
    sim.run(secs(40));
    assert!(sim.peer(1, 1).paths.is_empty());
    named(&mut sim, 0, &[seen[1]]);
    sim.run(secs(65));
    assert!(sim.ping(0, ipv6(2)).is_ok());
    assert!(sim.ping(1, ipv6(1)).is_ok());
    // Idle for long: nobody but the tracker could help again, so the NATs are kept open.
    sim.run(secs(3_600));
    assert!(sim.ping(1, ipv6(1)).is_ok());
}

// S36: whatever the answers name, there are few packets, small ones, and of two kinds only.
#[test]
fn hostile_entries_get_few_small_probes_and_leave_nothing_behind() {
    let mut sim = strangers_in_place(33);
    let keys = sim.counters(0).key_agreements;
    let entries: Vec<SocketAddr> = (0..10_000u32)
        .map(|n| SocketAddr::from((Ipv4Addr::from(0x5000_0000 + n * 64), 1_024 + (n % 9) as u16)))
        .collect();
    named(&mut sim, 0, &entries);
    let start = sim.now;
    sim.run(secs(59));
    let sent: Vec<_> = sim
        .record
        .iter()
        .flatten()
        .filter(|(_, packet)| packet.from == Place::Udp(home(1)))
        .collect();
    assert!(
        (20..=20 * 4).contains(&sent.len()),
        "{} packets",
        sent.len()
    );
    let bytes: usize = sent.iter().map(|(_, packet)| packet.bytes.len()).sum();
    assert!(bytes <= 10_000, "{bytes} bytes");
    for (_, packet) in &sent {
        assert!(packet.bytes.len() <= 128);
        let kind_of = Packet::new_checked(&packet.bytes[..]).unwrap().kind();
        assert!(matches!(kind_of, kind::EPI | kind::EPC_REQ), "{kind_of:#x}");
        assert!(
            matches!(packet.to, Place::Udp(_)),
            "never TCP or HTTP because of an entry"
        );
    }
    // Ten minutes of searching: nobody answers, nobody was made up.
    sim.run(secs(600));
    assert_eq!(sim.hosts[0].node.peers().len(), 1);
    assert!(sim.peer(0, 2).paths.is_empty());
    assert!(
        sim.counters(0).key_agreements <= keys + 1,
        "one, with the peer that is wanted"
    );
    let before = sim.hosts[0].sent.0;
    sim.run(secs(3_000));
    assert!(!sim.hosts[0].node.is_searching());
    assert_eq!(
        sim.hosts[0].sent.0,
        before,
        "the search is over after {:?}",
        sim.now - start
    );
}

// Discovery §3, step 4 and limits; S36.
#[test]
fn presence_is_answered_to_those_who_are_wanted_and_once_in_five_seconds() {
    let mut sim = strangers_in_place(34);
    // A stranger; somebody who is trusted, from a place nobody knows; the same again.
    for _ in 0..10 {
        sim.inject(elsewhere(3), home(1), beacon(3));
        sim.inject(elsewhere(2), home(1), beacon(2));
    }
    sim.run(secs(1));
    assert_eq!(sent_to(&sim, elsewhere(3)), 0, "strangers hear nothing");
    let answers = recorded(&sim, home(1), kind::EPC_REQ);
    assert_eq!(answers.len(), 1, "one in 5 s");
    assert!(answers[0].len() <= beacon(2).len() + 8);
    assert!(sim.peer(0, 2).paths.is_empty(), "a presence proves nothing");
    assert_eq!(sim.hosts[0].node.peers().len(), 1, "and makes nobody known");
    assert_eq!(sim.hosts[0].node.rendezvous_counters().presence_refused, 9);
    sim.run(secs(5));
    sim.inject(elsewhere(2), home(1), beacon(2));
    sim.run(secs(1));
    assert_eq!(recorded(&sim, home(1), kind::EPC_REQ).len(), 2);
}

#[test]
fn without_a_tracker_neither_presence_nor_entries_do_anything() {
    let mut sim = Sim::new(35);
    sim.host(1, nowhere(2));
    sim.record = Some(Vec::new());
    sim.inject(elsewhere(2), home(1), beacon(2));
    named(&mut sim, 0, &[home(2)]);
    sim.run(secs(120));
    assert_eq!(sim.hosts[0].sent.0, 0);
    assert!(!sim.hosts[0].node.is_searching());
}

// A53: nobody who has no key of ours makes a place a path, whatever a tracker says of it.
#[test]
fn an_answer_from_elsewhere_or_from_somebody_else_makes_no_path() {
    let mut sim = strangers_in_place(36);
    sim.host(3, nowhere(1));
    named(&mut sim, 0, &[home(3)]);
    sim.run(ms(5));
    // Host 3 answers every question, with its own key and as itself.
    for id in 0..50 {
        let forged = packet(3, 1, &Message::Epc { id }, true);
        sim.inject(home(3), home(1), forged);
    }
    sim.run(secs(70));
    let peers = sim.hosts[0].node.peers();
    let paths: usize = peers.iter().map(|peer| peer.paths.len()).sum();
    assert_eq!(paths, 0, "{peers:?}");
}

// Discovery §3: somebody may be looked for by IPv6 alone, and then a presence with just that address counts.
#[test]
fn a_presence_answers_a_search_by_ipv6() {
    let mut sim = Sim::new(37);
    sim.host(1, quiet());
    sim.host(2, nowhere(1));
    for index in 0..2 {
        meets(&mut sim, index);
    }
    let now = sim.now;
    assert!(matches!(
        sim.hosts[0].node.lookup(now, ipv6(2)),
        Lookup::Searching
    ));
    sim.inject(elsewhere(4), home(1), beacon(4));
    sim.inject(home(2), home(1), beacon(2));
    sim.run(secs(1));
    let peers = sim.hosts[0].node.peers();
    assert_eq!(peers.len(), 1, "not the other one: {peers:?}");
    assert_eq!(peers[0].ipv6, ipv6(2));
    assert!(peers[0].paths.iter().any(|path| path.proven));
}

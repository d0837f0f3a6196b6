//! What a relay does for whom, and what not.
use super::*;

/// A packet for host `to` that came to the relay from elsewhere.
fn stray(from: u16, to: u16, hops: u8) -> Vec<u8> {
    let mut bytes = packet(from, to, &Message::Ping(b"stray"), true);
    bytes[0] = hops;
    bytes
}

#[test]
fn what_must_not_be_relayed_is_dropped_and_counted() {
    // A19, A39, D18, D40, S15
    let (mut sim, _, _) = two_behind_nats(41, 1);
    let relayed = |sim: &Sim| sim.counters(0).relayed_packets;
    let send = |sim: &mut Sim, from, bytes| {
        sim.inject(from, home(R), bytes);
        sim.run(ms(100));
    };
    let before = relayed(&sim);
    send(&mut sim, elsewhere(9), stray(9, 2, 16));
    assert_eq!(relayed(&sim), before + 1, "16 relays are allowed");
    for hops in [17, 200, 255] {
        send(&mut sim, elsewhere(9), stray(9, 2, hops));
    }
    assert_eq!(sim.counters(0).dropped_hop_limit, 3);
    // What arrived was answered, and nobody knows where host 9 is.
    let unregistered = sim.counters(0).relay_unregistered;
    send(&mut sim, elsewhere(9), stray(9, 77, 0));
    assert_eq!(sim.counters(0).relay_unregistered, unregistered + 1);
    let now = sim.now;
    let at = sim.hosts[0].node.registrations(now);
    let at = at.iter().find(|known| known.address == address(2)).unwrap();
    let back = at.at.to.udp().unwrap();
    send(&mut sim, back, stray(9, 2, 0));
    assert_eq!(sim.counters(0).relay_back, 1);
    assert_eq!(relayed(&sim), before + 1);
    // For itself: never out again.
    send(&mut sim, elsewhere(9), stray(9, R, 0));
    assert_eq!(relayed(&sim), before + 1);
}

#[test]
fn two_relays_that_point_at_each_other_make_no_loop() {
    // D18, S15: a forger that forwards between the two has them believe that host 2 is at the other
    let mut sim = relays(43, 2);
    let now = sim.now;
    for (index, other) in [(0, R + 1), (1, R)] {
        let known = Registration {
            address: address(2),
            digit: PeerId::ANY,
            at: Destination {
                to: Place::Udp(home(other)),
                socket: 0,
                source: None,
            },
            left: secs(100),
        };
        sim.hosts[index].node.restore_registrations(now, &[known]);
    }
    sim.inject(elsewhere(9), home(R), stray(9, 2, 0));
    sim.run(secs(5));
    let relayed: u64 = (0..2)
        .map(|index| sim.counters(index).relayed_packets)
        .sum();
    // It goes over once, and would come back to where it came from.
    assert_eq!(relayed, 1);
    assert_eq!(sim.counters(1).relay_back, 1);
}

#[test]
fn nobody_registers_for_another_nor_from_elsewhere() {
    // D38, D40, S7, S17, S18
    let (mut sim, a, _) = two_behind_nats(45, 1);
    let now = sim.now;
    let before = sim.hosts[0].node.registrations(now);
    sim.record = Some(Vec::new());
    sim.run(secs(26));
    let nat = before
        .iter()
        .find(|known| known.address == address(1))
        .unwrap();
    let sealed = recorded(&sim, nat.at.to, anode_wire::sealed::kind::SEALED);
    assert!(!sealed.is_empty(), "the PING of the renewal is among them");
    // Replayed from elsewhere, with a right MAC in plain, forged, and relayed.
    for bytes in sealed {
        sim.inject(elsewhere(9), home(R), bytes);
    }
    sim.inject(
        elsewhere(9),
        home(R),
        packet(1, R, &Message::Ping(b"here"), true),
    );
    let mut forged = packet(1, R, &Message::Ping(b"here"), true);
    forged[4] ^= 1;
    sim.inject(elsewhere(9), home(R), forged);
    let mut relayed = packet(9, R, &Message::Ping(b"here"), true);
    relayed[0] = 1;
    sim.inject(elsewhere(9), home(R), relayed);
    sim.run(secs(3));
    let now = sim.now;
    let after = sim.hosts[0].node.registrations(now);
    let places = |all: &[Registration]| -> Vec<_> {
        all.iter()
            .map(|known| (known.address, known.at.to))
            .collect()
    };
    assert_eq!(places(&before), places(&after));
    learn(&mut sim, a, 2);
    assert!(sim.ping(a, ipv6(2)).is_ok());
}

#[test]
fn draft_peers_register_where_the_policy_hears_them() {
    // D40: PING with full sender address and a valid MAC, from a place that has answered an EPC_REQ
    for (security, registers) in [(DRAFT, true), (Security::default(), false)] {
        let mut sim = Sim::new(47);
        sim.host(
            R,
            NodeConfig {
                security,
                ..relay()
            },
        );
        let a = sim.host(1, draft());
        join(&mut sim, a, 1);
        sim.run(secs(5));
        let now = sim.now;
        let known = sim.hosts[0].node.registrations(now);
        assert_eq!(known.len(), usize::from(registers), "{security:?}");
    }
}

#[test]
fn a_relay_that_knows_the_draft_alone_carries_what_is_sealed() {
    // A16, A26, D40: it answers no HELLO; its peers do not need it to
    let mut sim = Sim::new(48);
    sim.host(
        R,
        NodeConfig {
            security: DRAFT,
            ..relay()
        },
    );
    let a = natted(&mut sim, 1, 1, quiet());
    let b = natted(&mut sim, 2, 1, quiet());
    sim.until(secs(5), "registration in plain", |sim| {
        is_registered(sim, a) && is_registered(sim, b)
    });
    learn(&mut sim, a, 2);
    assert!(sim.ping(a, ipv6(2)).is_ok());
    assert!(sim.peer(a, 2).sealed);
    let silence = longest_silence(&mut sim, a, 2, secs(90));
    assert!(silence < ms(500), "registrations are renewed: {silence:?}");

    // Whoever has sealed once is never spoken to in plain again (Q23).
    let (mut sim, a, _) = two_behind_nats(49, 1);
    sim.restart(
        0,
        R,
        NodeConfig {
            security: DRAFT,
            ..relay()
        },
    );
    sim.run(secs(60));
    assert!(!is_registered(&sim, a), "silence does not downgrade");
}

#[test]
fn registrations_end_and_tables_are_bounded() {
    // D40, S32
    let mut sim = Sim::new(49);
    let config = RelayConfig {
        peers: 3,
        peers_per_source: 2,
        ..RelayConfig::default()
    };
    let limited = NodeConfig {
        relay: Some(config),
        ..quiet()
    };
    sim.host(R, limited);
    sim.nats.push(Nat::new(1));
    for number in 1..=3 {
        let index = sim.host_at(behind(1, number), number, quiet());
        join(&mut sim, index, 1);
    }
    sim.run(secs(5));
    let registered = |sim: &Sim| sim.hosts[0].node.registrations(sim.now).len();
    assert_eq!(registered(&sim), 2, "one source has two places");
    assert!(sim.counters(0).relay_full_source > 0);
    for number in 4..=5 {
        natted(&mut sim, number, 1, quiet());
    }
    sim.run(secs(5));
    assert_eq!(registered(&sim), 3, "the table has three places");
    assert!(sim.counters(0).relay_full > 0);
    for host in &mut sim.hosts[1..] {
        host.up = false;
    }
    sim.run(LIFETIME + secs(31));
    assert_eq!(registered(&sim), 0);
    assert_eq!(sim.counters(0).relay_expired, 3);
    let why = sim.hosts[0].node.deadline().map(|(_, why)| why);
    assert_ne!(why, Some("registrations"), "nothing to wake up for");
}

#[test]
fn a_flood_is_cut_to_its_rate_and_others_go_on() {
    // A19, S20, U7
    let mut sim = Sim::new(51);
    let config = RelayConfig {
        rate: 100_000,
        ..RelayConfig::default()
    };
    let limited = NodeConfig {
        relay: Some(config),
        ..quiet()
    };
    sim.host(R, limited);
    let a = natted(&mut sim, 1, 1, quiet());
    let _b = natted(&mut sim, 2, 1, quiet());
    let _c = natted(&mut sim, 3, 1, quiet());
    sim.run(secs(2));
    learn(&mut sim, a, 2);
    sim.ping(a, ipv6(2)).unwrap();
    let before = sim.counters(0).relayed_bytes;
    // One source floods host 3, ten times what it may.
    for _ in 0..100 {
        for _ in 0..100 {
            let mut bytes = stray(9, 3, 0);
            bytes.resize(1000, 0);
            sim.inject(elsewhere(9), home(R), bytes);
        }
        sim.run(ms(100));
        assert!(sim.ping(a, ipv6(2)).is_ok());
    }
    let passed = sim.counters(0).relayed_bytes - before;
    assert!(passed < 2_000_000, "{passed} of 10 MB in 12 s");
    let dropped = sim.counters(0).relay_recipient_limit + sim.counters(0).relay_source_limit;
    assert!(dropped > 8_000, "{dropped}");
}

#[test]
fn only_a_registered_peer_may_have_its_netid_sent_elsewhere() {
    // D25, S21
    let mut sim = Sim::new(59);
    let open = NodeConfig {
        security: DRAFT,
        ..relay()
    };
    sim.host(R, open);
    let a = sim.host(1, draft());
    join(&mut sim, a, 1);
    sim.until(secs(5), "registration", |sim| is_registered(sim, a));
    sim.record = Some(Vec::new());
    let third = elsewhere(33);
    let message = Message::NetidReq {
        id: 7,
        endpoint: Endpoint::Udp(third),
    };
    sim.inject(elsewhere(9), home(R), packet(9, R, &message, true));
    sim.run(secs(1));
    assert_eq!(
        (sent_to(&sim, third), sim.counters(0).dropped_netid),
        (0, 1)
    );
    sim.inject(home(1), home(R), packet(1, R, &message, true));
    sim.run(secs(1));
    assert!(sent_to(&sim, third) > 0);
    assert_eq!(sim.counters(0).dropped_netid, 1);
}

#[test]
fn groups_for_one_recipient_leave_as_one_batch() {
    let (mut sim, _, _) = two_behind_nats(61, 1);
    let now = sim.now;
    let mut group = Vec::new();
    for _ in 0..10 {
        let mut bytes = stray(9, 2, 0);
        bytes.resize(600, 7);
        group.extend_from_slice(&bytes);
    }
    let mut other = stray(9, 1, 0);
    other.resize(600, 7);
    group.extend_from_slice(&other);
    let mut sizes = Vec::new();
    let received = Received {
        from: elsewhere(9).into(),
        socket: 0,
        local_ip: None,
        ecn: Ecn::Capable0,
        bytes: &mut group,
        segment_size: 600,
    };
    let Host { node, program, .. } = &mut sim.hosts[0];
    node.receive(now, received, program, &mut |packets| {
        assert_eq!(packets.ecn, Ecn::Capable0);
        assert!(packets.bytes.chunks(600).all(|packet| packet[0] == 1));
        sizes.push(packets.bytes.len() / packets.segment_size);
        true
    });
    assert_eq!(sizes, [10, 1]);
}

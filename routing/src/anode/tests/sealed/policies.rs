//! Who seals, who speaks the draft, and what the two tell each other (Q13, Q23).
use super::*;

#[test]
fn plain_only_speaks_the_draft_alone() {
    // Q23, DESIGN §5
    let mut sim = Sim::draft_pair(63);
    sim.record = Some(Vec::new());
    talk(&mut sim);
    let seen = kinds(&sim);
    assert!(seen.iter().all(|kind| *kind < 0x40), "{seen:02x?}");
    assert!(!sim.peer(0, 2).sealed);
    // The search for larger packets is over.
    sim.run(secs(10));
    // A HELLO has no answer but the draft's ERROR for what it does not know.
    let mut caller = Sim::pair(63);
    caller.record = Some(Vec::new());
    let now = caller.now;
    caller.hosts[0].node.ping(now, ipv6(2), 1, b"x").unwrap();
    caller.pump();
    let hello = recorded(&caller, home(1), seal::HELLO)[0].clone();
    sim.record = Some(Vec::new());
    sim.inject(home(1), home(2), hello);
    sim.run(secs(1));
    let answered = kinds(&sim);
    assert!(
        answered.iter().all(|kind| *kind == kind::ERROR),
        "{answered:02x?}"
    );
}

#[test]
fn a_node_that_seals_and_one_that_never_does_tell_their_programs_so() {
    // Q23: the failure is `Policy`, whoever calls.
    for caller in [0, 1] {
        let mut sim = pair_under(64, Security::default(), DRAFT);
        let sealing = 0;
        if caller == 1 {
            // The one that never seals calls: its packets are heard as hints alone.
            sim.ping(1, ipv6(1)).unwrap_err();
            let now = sim.now;
            let at = [Place::Udp(home(1))];
            sim.hosts[1].node.add_peer(now, address(1), &at, true);
            sim.run(secs(3));
            datagram(&mut sim, 1, 1, SECRET).unwrap();
            sim.run(secs(1));
            assert!(sim.hosts[0].program.datagrams.is_empty());
            assert_eq!(sim.counters(0).dropped_policy, 1);
        }
        let begin = sim.now;
        assert_eq!(sim.ping(sealing, ipv6(2)), Err(Failure::Policy));
        assert_eq!(
            sim.now - begin,
            secs(5),
            "four HELLOs, and an answer to EPC_REQ only"
        );
        assert_eq!(datagram(&mut sim, 0, 2, SECRET), Err(Failure::Policy));
    }
}

#[test]
fn what_is_sent_in_plain_to_a_node_that_seals_is_refused_in_one_round_trip() {
    // Q23, S20: its programs are told, each once for what they began; who recorded the refusal can say nothing with it.
    let deny = security(Plain::Deny, Pq::Prefer);
    let mut sim = Sim::new(164);
    sim.host(1, with(DRAFT, knows(&[2])));
    sim.host(2, with(deny, quiet()));
    // A plain echo without a session is a hint, and answered: nothing of a program's is in it that counts.
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(40));
    sim.record = Some(Vec::new());
    let failed = |sim: &Sim| {
        let events = &sim.hosts[0].program.events;
        let failures = events.iter().filter_map(|(_, event)| match event {
            OverlayEvent::StreamFailed { stream, failure } => Some((*stream, *failure)),
            _ => None,
        });
        failures.collect::<Vec<_>>()
    };
    let first = open(&mut sim, 0, 2, 80);
    sim.run(ms(100));
    assert_eq!(failed(&sim), [(first, Failure::Policy)]);
    let second = open(&mut sim, 0, 2, 81);
    sim.run(ms(100));
    let both = [(first, Failure::Policy), (second, Failure::Policy)];
    assert_eq!(failed(&sim), both, "not the same refusal twice");
    sim.hosts[0].program.events.clear();
    datagram(&mut sim, 0, 2, SECRET).unwrap();
    sim.run(ms(100));
    let undeliverable = |event: &OverlayEvent| {
        *event
            == OverlayEvent::Undeliverable {
                to: ipv6(2),
                failure: Failure::Policy,
            }
    };
    assert!(sim.has_event(0, undeliverable));
    assert!(sim.hosts[1].program.datagrams.is_empty());

    // Recorded and sent again, it does nothing.
    let refusals = recorded(&sim, home(2), kind::ERROR);
    assert_eq!(refusals.len(), 3);
    sim.hosts[0].program.events.clear();
    let now = sim.now;
    // Its network is gone for a moment: what it opens is not answered.
    let waiting = sim.hosts[0].node.open(now, 9, ipv6(2), 82).unwrap();
    for refusal in refusals {
        sim.inject(elsewhere(9), home(1), refusal.clone());
        sim.inject(home(2), home(1), refusal);
    }
    sim.link.loss = 1000;
    sim.run(ms(100));
    assert!(failed(&sim).is_empty(), "{waiting:?}");

    // More than ten a second are not said.
    sim.link.loss = 0;
    sim.run(secs(5));
    let before = sim.counters(1).tx_errors;
    for port in 0..200 {
        datagram(&mut sim, 0, 2, &[port]).unwrap();
    }
    sim.run(ms(100));
    assert!(sim.counters(1).tx_errors - before <= 11);
}

#[test]
fn allow_speaks_the_draft_with_who_knows_nothing_else() {
    // Q23
    let allow = security(Plain::Allow, Pq::Prefer);
    let mut sim = pair_under(65, allow, DRAFT);
    let first = sim.ping(0, ipv6(2)).unwrap();
    assert!(first >= secs(3) && first < ms(3100), "{first:?}");
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20), "known from now on");
    talk(&mut sim);
    assert_eq!(datagram(&mut sim, 1, 1, b"back"), Ok(()));
    sim.run(secs(1));
    assert_eq!(sim.hosts[0].program.datagrams.len(), 1);
    assert!(!sim.peer(0, 2).sealed);
    let now = sim.now;
    assert_eq!(
        sim.hosts[0].node.send_other(now, ipv6(2), 132, b"sctp"),
        Err(Failure::Policy),
        "the draft has no message for it"
    );
    // Called by it, we answer in plain at once.
    let mut sim = pair_under(66, DRAFT, allow);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(40));
    talk(&mut sim);
    // Two that allow it seal all the same.
    let mut sim = pair_under(67, allow, allow);
    assert_eq!(sim.ping(0, ipv6(2)).unwrap(), FIRST_REPLY);
    assert!(sim.peer(0, 2).sealed);
}

#[test]
fn who_was_once_sealed_is_not_spoken_to_in_plain_again() {
    // Q23, S12
    let allow = security(Plain::Allow, Pq::Prefer);
    let mut sim = pair_under(68, allow, allow);
    sim.ping(0, ipv6(2)).unwrap();
    let records = sim.hosts[0].node.export_records();
    assert!(records.iter().any(|record| record.sealed && record.pq));
    sim.restart(0, 1, with(allow, knows(&[2])));
    let now = sim.now;
    sim.hosts[0].node.import_records(now, &records);
    sim.restart(1, 2, draft());
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Policy));
    // Nor heard: only hints come in.
    let now = sim.now;
    let message = Message::Dgram {
        source: 1,
        destination: 2,
        payload: SECRET,
    };
    sim.inject(home(2), home(1), packet(2, 1, &message, true));
    sim.run(ms(100));
    assert!(sim.hosts[0].program.datagrams.is_empty());
    // An operator's word changes it.
    sim.hosts[0].node.forget_pins(&address(2));
    sim.now = now + secs(10);
    assert!(sim.ping(0, ipv6(2)).is_ok());
}

#[test]
fn post_quantum_policies_meet() {
    // Q13, Q14
    for (first, second, pq) in [
        (Pq::Prefer, Pq::Prefer, Some(true)),
        (Pq::Prefer, Pq::Off, Some(false)),
        (Pq::Off, Pq::Prefer, Some(false)),
        (Pq::Require, Pq::Prefer, Some(true)),
        (Pq::Require, Pq::Off, None),
        (Pq::Off, Pq::Require, None),
    ] {
        let mut sim = pair_under(
            69,
            security(Plain::Deny, first),
            security(Plain::Deny, second),
        );
        let result = sim.ping(0, ipv6(2));
        match pq {
            Some(pq) => {
                assert!(result.is_ok(), "{first:?} {second:?} {result:?}");
                assert_eq!((sim.peer(0, 2).pq, sim.peer(1, 1).pq), (pq, pq));
            }
            None => assert_eq!(result, Err(Failure::Policy), "{first:?} {second:?}"),
        }
    }
}

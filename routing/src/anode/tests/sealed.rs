//! Sealed sessions between nodes (Q1 to Q29, as far as a node shows them).
use super::streams::{open, pattern};
use super::*;
use crate::overlay::StreamId;
use anode_wire::sealed::kind as seal;

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

/// A transfer under way from host 1 to host 2.
fn transfer_under_way(seed: u64) -> (Sim, StreamId) {
    let mut sim = Sim::pair(seed);
    sim.link.rate = 12_500_000;
    let stream = open(&mut sim, 0, 2, 80);
    let data = pattern(40 << 20);
    sim.write(0, stream, data);
    sim.run(ms(600));
    assert!(sim.bytes_read(1) > 100_000);
    (sim, stream)
}

#[test]
fn a_receiver_that_restarts_resets_within_a_second() {
    // Q22, Q24
    let (mut sim, stream) = transfer_under_way(70);
    sim.restart(1, 2, quiet());
    let failed = OverlayEvent::StreamFailed {
        stream,
        failure: Failure::Reset,
    };
    let took = sim.until(secs(1), "the reset", |sim| {
        sim.has_event(0, |event| *event == failed)
    });
    println!("the receiver restarted: reset after {took:?}");
    let second = open(&mut sim, 0, 2, 81);
    sim.until(ms(500), "the second stream", |sim| {
        sim.has_event(0, |e| *e == OverlayEvent::StreamOpened { stream: second })
    });
}

#[test]
fn a_sender_that_restarts_resets_within_a_second() {
    // Q22, Q24: the receiver's acknowledgements meet a node that knows nothing of them.
    let (mut sim, _) = transfer_under_way(71);
    let incoming = sim.hosts[1].program.accepted[0];
    sim.restart(0, 1, knows(&[2]));
    // Nothing may be on the way to acknowledge: what the program there writes tells.
    let now = sim.now;
    sim.hosts[1].node.write(now, incoming, b"are you there?");
    let failed = OverlayEvent::StreamFailed {
        stream: incoming,
        failure: Failure::Reset,
    };
    let took = sim.until(secs(1), "the reset", |sim| {
        sim.has_event(1, |event| *event == failed)
    });
    println!("the sender restarted: reset after {took:?}");
    let second = open(&mut sim, 0, 2, 81);
    sim.until(ms(500), "the second stream", |sim| {
        sim.has_event(0, |e| *e == OverlayEvent::StreamOpened { stream: second })
    });
}

#[test]
fn who_restarts_is_back_within_a_second_whatever_is_lost() {
    // Q5, Q24: either side, both, with and without what was on the disk, with a clock that was set back by a day
    for (restarts, keeps, back) in [
        ([true, false], true, 0),
        ([false, true], true, 0),
        ([true, true], true, 0),
        ([true, false], false, 86_400),
        ([false, true], false, 86_400),
        ([true, true], false, 86_400),
    ] {
        let mut sim = Sim::pair(72);
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(5));
        sim.back = secs(back);
        for (index, number) in [(0, 1), (1, 2)] {
            if !restarts[index] {
                continue;
            }
            let records = sim.hosts[index].node.export_records();
            let config = if index == 0 { knows(&[2]) } else { quiet() };
            sim.restart(index, number, config);
            let now = sim.now;
            if keeps {
                sim.hosts[index].node.import_records(now, &records);
            }
        }
        // A program that repeats itself ten times a second.
        let begin = sim.now;
        let mut reached = None;
        for token in 0..20 {
            let now = sim.now;
            let _ = sim.hosts[0].node.ping(now, ipv6(2), 7_000 + token, b"x");
            sim.run(ms(100));
            let pong = |e: &OverlayEvent| matches!(e, OverlayEvent::Pong { token: 7_000.., .. });
            if sim.has_event(0, pong) {
                reached = Some(sim.now - begin);
                break;
            }
        }
        let reached = reached.unwrap_or(Duration::MAX);
        assert!(
            reached <= secs(1),
            "{restarts:?} {keeps} {back}: {reached:?}"
        );
    }
}

#[test]
fn a_dead_peer_is_noticed_and_a_late_one_found() {
    // D24, Q9, S23
    let mut sim = Sim::pair(87);
    sim.ping(0, ipv6(2)).unwrap();
    sim.hosts[1].up = false;
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    let took = sim.now - begin;
    assert!(took > secs(5) && took < secs(7), "{took:?}");
    assert_eq!(sim.counters(0).paths_lost, 1);
    // It comes up again while somebody asks for it, with nothing that it knew.
    sim.run(secs(3));
    let now = sim.now;
    sim.hosts[0].node.ping(now, ipv6(2), 9, b"x").unwrap();
    sim.run(ms(1500));
    sim.restart(1, 2, quiet());
    sim.until(secs(2), "the pong", |sim| {
        sim.has_event(0, |e| matches!(e, OverlayEvent::Pong { token: 9, .. }))
    });
    // Nobody at all: five seconds, a handful of packets, and silence.
    let mut sim = Sim::new(88);
    sim.host(1, knows(&[2]));
    let begin = sim.now;
    assert_eq!(sim.ping(0, ipv6(2)), Err(Failure::Unreachable));
    assert_eq!(sim.now - begin, secs(5));
    sim.run(secs(60));
    let sent = sim.hosts[0].sent.0;
    assert!(sent <= 20, "{sent} packets");
    sim.run(secs(600));
    assert_eq!(sim.hosts[0].sent.0, sent);
    assert_eq!(sim.hosts[0].node.deadline(), None);
}

#[test]
fn recorded_packets_have_no_effect_when_they_come_again() {
    // Q20, Q25, S7, S17
    let mut sim = Sim::pair(73);
    sim.record = Some(Vec::new());
    talk(&mut sim);
    sim.run(secs(5));
    let tape: Vec<Flying> = sim
        .record
        .take()
        .unwrap()
        .into_iter()
        .map(|(_, f)| f)
        .collect();
    let before = (
        sim.hosts[1].program.events.len(),
        sim.hosts[1].program.datagrams.len(),
    );
    for wait in [0, 61, 300] {
        sim.run(secs(wait));
        sim.record = Some(Vec::new());
        for flying in &tape {
            sim.inject(elsewhere(1), flying.to, flying.bytes.clone());
            sim.inject(flying.from, flying.to, flying.bytes.clone());
        }
        sim.run(secs(10));
        let bytes: usize = tape.iter().map(|flying| flying.bytes.len()).sum();
        let reflected = sent_to(&sim, elsewhere(1));
        assert!(
            reflected < bytes / 4,
            "after {wait} s: {reflected} of {bytes} bytes"
        );
        assert_eq!(sim.used(1, 1), Some("udp://192.0.2.1:8737".into()));
        assert!(
            sim.peer(1, 1)
                .paths
                .iter()
                .all(|path| !path.proven || path.active)
        );
        assert_eq!(sim.hosts[1].program.datagrams.len(), before.1);
    }
    let streams = |e: &OverlayEvent| {
        matches!(
            e,
            OverlayEvent::StreamIncoming { .. } | OverlayEvent::StreamFailed { .. }
        )
    };
    let news = &sim.hosts[1].program.events[before.0..];
    assert!(!news.iter().any(|(_, event)| streams(event)), "{news:?}");
    assert!(sim.ping(1, ipv6(1)).is_ok());
}

#[test]
fn altered_copies_and_disorder_cost_nothing_but_time() {
    // Q18, Q19, Q20, S6, S8
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand::rngs::StdRng::seed_from_u64(74);
    let mut sim = Sim::pair(74);
    sim.link = Link {
        jitter: ms(6),
        loss: 20,
        duplicate: 100,
        rate: 12_500_000,
        ..Link::default()
    };
    let data = pattern(2 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    let finished = |sim: &Sim| sim.has_finished(1);
    let begin = sim.now;
    while !finished(&sim) {
        assert!(sim.now - begin < secs(120));
        sim.record = Some(Vec::new());
        sim.run(ms(10));
        for (_, flying) in sim.record.take().unwrap() {
            let mut bytes = flying.bytes;
            // Not the hop count, which is nobody's.
            let at = rng.random_range(1..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            sim.inject(flying.from, flying.to, bytes);
        }
    }
    let incoming = sim.hosts[1].program.accepted[0];
    assert!(sim.hosts[1].program.read[&incoming] == data);
    assert!(sim.counters(1).dropped_sealed > 500);
    assert!(
        sim.hosts[0]
            .program
            .events
            .iter()
            .all(|(_, e)| !matches!(e, OverlayEvent::StreamFailed { .. }))
    );
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
fn with_a_session_plain_packets_of_that_peer_are_not_heard() {
    // Q26
    let mut sim = Sim::pair(76);
    sim.ping(0, ipv6(2)).unwrap();
    let endpoint = Endpoint::Udp(elsewhere(9));
    let plain = [
        Message::Ping(b"hello"),
        Message::EpcReq { id: 1 },
        Message::Epc { id: 1 },
        Message::Epi {
            endpoint: endpoint.clone(),
            nat_mode: 0,
            options: &[],
        },
        Message::NetidReq { id: 2, endpoint },
        Message::Dgram {
            source: 1,
            destination: 2,
            payload: SECRET,
        },
    ];
    let count = plain.len() as u64;
    // Until the search for larger packets is over.
    sim.run(secs(10));
    sim.record = Some(Vec::new());
    for message in &plain {
        // With the right MAC, from the right place and from another.
        sim.inject(home(1), home(2), packet(1, 2, message, true));
        sim.inject(elsewhere(3), home(2), packet(1, 2, message, true));
    }
    sim.run(secs(2));
    assert_eq!(sim.counters(1).dropped_policy, 2 * count);
    assert_eq!(
        sim.record.iter().flatten().count(),
        0,
        "and nothing is answered"
    );
    assert_eq!(sim.peer(1, 1).paths.len(), 1);
    assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
}

#[test]
fn an_endpoint_that_has_not_proven_itself_gets_three_times_what_came_from_it() {
    // Q25, S17, S20
    let mut sim = Sim::pair(77);
    sim.link.rate = 12_500_000;
    open(&mut sim, 0, 2, 80);
    sim.run(ms(500));
    let incoming = sim.hosts[1].program.accepted[0];
    sim.write(1, incoming, pattern(20 << 20));
    sim.run(ms(300));
    // The real path dies; somebody passes on, from another place, what host 1 still sends.
    sim.cut.push((home(1), home(2)));
    let victim = elsewhere(8);
    let mut passed_on = 0;
    let begin = sim.now;
    let mut to_victim = 0;
    while sim.now - begin < secs(20) {
        sim.record = Some(Vec::new());
        sim.run(ms(50));
        for (_, flying) in sim.record.take().unwrap() {
            if flying.from == Place::Udp(home(1)) {
                passed_on += flying.bytes.len();
                sim.inject(victim, home(2), flying.bytes);
            } else if flying.to == Place::Udp(victim) {
                to_victim += flying.bytes.len();
            }
        }
    }
    println!("{passed_on} bytes came from there, {to_victim} went there");
    assert!(passed_on > 0 && to_victim > 0);
    assert!(to_victim <= 3 * passed_on, "{to_victim} to {passed_on}");
    assert!(!sim.peer(1, 1).paths.iter().any(|path| path.proven));
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
fn more_than_an_unproven_path_takes_waits_for_its_proof() {
    // Q25: thirty datagrams before there is a session, all of them arrive in their order
    let mut sim = Sim::pair(80);
    for count in 0..30u8 {
        datagram(&mut sim, 0, 2, &[count; 1000]).unwrap();
    }
    sim.run(ms(200));
    let got: Vec<u8> = sim.hosts[1]
        .program
        .datagrams
        .iter()
        .map(|d| d.4[0])
        .collect();
    assert_eq!(got, (0..30).collect::<Vec<_>>());
    assert_eq!(sim.counters(0).dropped_unproven, 0);
}

#[test]
fn clocks_that_jump_apart_drop_all_sessions_before_anything_is_sealed() {
    // Q17
    let mut sim = Sim::pair(81);
    sim.ping(0, ipv6(2)).unwrap();
    let drift = sim.clock_of(ms(4_900));
    sim.hosts[0].node.set_clock(drift);
    assert!(sim.peer(0, 2).sealed, "clocks may drift");
    let jump = sim.clock_of(secs(60));
    sim.hosts[0].node.set_clock(jump);
    assert!(!sim.peer(0, 2).sealed);
    assert_eq!(sim.counters(0).clock_jumps, 1);
    sim.record = Some(Vec::new());
    assert!(sim.ping(0, ipv6(2)).is_ok());
    let first = recorded(&sim, home(1), seal::SEALED);
    assert!(!recorded(&sim, home(1), seal::HELLO).is_empty());
    let counter = |packet: &[u8]| u64::from_be_bytes(packet[32..40].try_into().unwrap());
    assert_eq!(counter(&first[0]), 0, "a new session");
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
fn messages_of_the_program_travel_inside_the_session() {
    // Q29, Q30
    let mut sim = Sim::pair(84);
    let now = sim.now;
    assert_eq!(sim.hosts[0].node.connect(now, &address(2)), Ok(false));
    assert_eq!(
        sim.hosts[0]
            .node
            .send_sealed(now, &address(2), seal::JOIN, b"early"),
        Err(Failure::Unreachable)
    );
    sim.run(ms(200));
    let now = sim.now;
    assert_eq!(sim.hosts[0].node.connect(now, &address(2)), Ok(true));
    let hash = sim.hosts[0].node.session_hash(&address(2));
    assert!(hash.is_some() && hash == sim.hosts[1].node.session_hash(&address(1)));
    let join = |sim: &mut Sim| {
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        node.send_sealed(now, &address(2), seal::JOIN, b"ticket and proof")
            .unwrap();
        sim.run(ms(1));
    };
    join(&mut sim);
    sim.run(ms(100));
    let told = OverlayEvent::Control {
        from: address(1),
        network: super::super::limits::source_prefix(home(1).ip()),
        handshake_hash: hash.unwrap(),
        kind: seal::JOIN,
        body: b"ticket and proof".to_vec(),
    };
    assert!(sim.has_event(1, |event| *event == told));
    for _ in 0..100 {
        join(&mut sim);
    }
    sim.run(ms(100));
    let heard = sim.hosts[1]
        .program
        .events
        .iter()
        .filter(|(_, e)| *e == told)
        .count();
    assert!(heard <= 12, "{heard} in a second");
    assert_eq!(sim.counters(1).dropped_controls as usize, 101 - heard);
    // In plain there is no such thing.
    let mut bytes = packet(1, 2, &Message::Ping(b"ticket and proof"), true);
    bytes[anode_wire::packet::FULL_SENDER_HEADER - 1] = seal::JOIN;
    identity(1).agree(&address(2)).sign(&mut bytes);
    let before = sim.counters(1).dropped_policy;
    sim.inject(home(1), home(2), bytes);
    sim.run(ms(10));
    assert_eq!(sim.counters(1).dropped_policy, before + 1);
}

/// The messages for its program that a host has not been asked for yet, each with the handshake that it came by.
fn controls(sim: &mut Sim, index: usize) -> Vec<([u8; 32], u8, Vec<u8>)> {
    let events = std::mem::take(&mut sim.hosts[index].program.events);
    let controls = events.into_iter().filter_map(|(_, event)| match event {
        OverlayEvent::Control {
            handshake_hash,
            kind,
            body,
            ..
        } => Some((handshake_hash, kind, body)),
        _ => None,
    });
    controls.collect()
}

#[test]
fn a_ticket_is_taken_although_the_session_is_replaced_while_it_is_shown() {
    // Q29, Q30, Q16: the JOIN leaves in one session and arrives, or is answered, when there is another.
    use anode_wire::sealed::Timestamp;
    use anode_wire::sealed::ticket::{Issued, Join, Joined, Status, Ticket, Tickets, Verdict};
    use rand::SeedableRng as _;
    // Which of the two begins the new handshake, and whether the answer to the first JOIN is lost.
    for (joiner, lost) in [(0, false), (1, false), (0, true), (1, true)] {
        let inviter = 1 - joiner;
        let (own, maker) = (address(joiner as u16 + 1), address(inviter as u16 + 1));
        let mut sim = Sim::pair(184);
        sim.ping(0, ipv6(2)).unwrap();
        let ticket = Ticket::new(
            maker,
            Timestamp(u64::MAX),
            &mut rand::rngs::StdRng::seed_from_u64(7),
        );
        let mut tickets = Tickets::new();
        assert!(tickets.add(Timestamp(0), Issued::from(&ticket)));
        let mut trusted = false;
        let mut judge = |sim: &mut Sim, trusted: &mut bool| {
            let now = sim.now;
            for (hash, message, body) in controls(sim, inviter) {
                assert_eq!(message, seal::JOIN);
                let join = Join::parse(&body).unwrap();
                let status = match tickets.judge(now, Timestamp(1), 0, &own, &hash, &join) {
                    Verdict::Take(id) => {
                        *trusted = true;
                        tickets.commit(id, &own);
                        Status::Taken
                    }
                    Verdict::Answer(joined) => joined.status,
                    Verdict::Silence => continue,
                };
                let id = join.id;
                let node = &mut sim.hosts[inviter].node;
                node.send_sealed(now, &own, seal::JOINED, &Joined { id, status }.emit())
                    .unwrap();
            }
        };
        let show = |sim: &mut Sim| {
            let now = sim.now;
            let node = &mut sim.hosts[joiner].node;
            let hash = node.session_hash(&maker).unwrap();
            let join = Join {
                id: ticket.id,
                proof: ticket.proof(&hash, &own),
            };
            node.send_sealed(now, &maker, seal::JOIN, &join.emit())
                .unwrap();
            hash
        };
        // Older than 120 s, the session is renewed by whoever seals next (Q16): here it is the JOIN itself, which is on the
        // way for longer than the handshake takes.
        sim.run(secs(140));
        controls(&mut sim, inviter);
        sim.record = Some(Vec::new());
        sim.link.loss = 1000;
        let first = show(&mut sim);
        sim.pump();
        sim.link.loss = 0;
        let homes = [home(joiner as u16 + 1), home(inviter as u16 + 1)];
        let late = recorded(&sim, homes[0], seal::SEALED).remove(0);
        sim.run(secs(2));
        assert_eq!(controls(&mut sim, inviter), []);
        sim.inject(homes[0], homes[1], late);
        sim.run(ms(1));
        let renewed = sim.hosts[joiner].node.session_hash(&maker).unwrap();
        assert_ne!(first, renewed, "the session was replaced");
        judge(&mut sim, &mut trusted);
        assert!(trusted, "the inviter trusts");
        if lost {
            sim.link.loss = 1000;
            sim.run(ms(50));
            sim.link.loss = 0;
            sim.run(secs(1));
            assert_eq!(controls(&mut sim, joiner), []);
            assert_eq!(show(&mut sim), renewed);
            sim.run(ms(50));
            judge(&mut sim, &mut trusted);
        }
        sim.run(ms(50));
        let answers = controls(&mut sim, joiner);
        let taken = Joined {
            id: ticket.id,
            status: Status::Taken,
        };
        assert_eq!(
            answers,
            [(renewed, seal::JOINED, taken.emit().to_vec())],
            "the joiner trusts"
        );
    }
}

#[test]
fn what_must_survive_is_announced_once_until_it_is_exported() {
    // Q5, Q13, Q23
    let mut sim = Sim::pair(85);
    sim.ping(0, ipv6(2)).unwrap();
    let told = |sim: &Sim, index: usize| {
        let events = sim.hosts[index].program.events.iter();
        events.filter(|(_, e)| *e == OverlayEvent::Persist).count()
    };
    assert_eq!((told(&sim, 0), told(&sim, 1)), (1, 1));
    let records = sim.hosts[0].node.export_records();
    assert_eq!(
        records.iter().map(|r| r.pair.address).collect::<Vec<_>>(),
        [address(2)]
    );
    let seen = sim.hosts[1].node.export_records();
    assert!(seen[0].sealed && seen[0].pq && seen[0].seen.0 > 0);
    sim.restart(1, 2, quiet());
    sim.run(secs(1));
    // The next session is something new to be kept.
    let _ = sim.ping(0, ipv6(2));
    assert_eq!(told(&sim, 0), 2);
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

#[test]
fn a_stranger_cannot_take_the_place_of_a_peer_and_who_holds_the_address_can() {
    // S18, A46: peer ids tell machines of one address apart; they prove nothing beyond its key.
    let [one, two] = [1, 2].map(|digit| PeerId::new(digit).unwrap());
    let config = |peer_id, config| NodeConfig { peer_id, ..config };
    let mut sim = Sim::new(190);
    sim.host(1, knows(&[2]));
    sim.host(2, config(one, quiet()));
    sim.host(3, config(one, knows(&[1])));
    let called = address(2).ipv6(one);
    let call = |sim: &mut Sim, payload: &[u8]| {
        let now = sim.now;
        let node = &mut sim.hosts[0].node;
        node.send_datagram(now, 1, called, 2, payload).unwrap();
        sim.run(secs(2));
    };
    sim.record = Some(Vec::new());
    call(&mut sim, b"before");
    // The stranger has the same peer id, a session of its own, and all that the other has sent, which it sends again from
    // where it is, as every peer.
    sim.ping(2, ipv6(1)).unwrap();
    let sent = sim.record.iter().flatten().map(|(_, flying)| flying);
    let heard: Vec<Vec<u8>> = sent
        .filter(|flying| flying.from == Place::Udp(home(2)))
        .map(|flying| flying.bytes.clone())
        .collect();
    assert!(heard.len() >= 4);
    for bytes in heard {
        for digit in 0..16 {
            let mut again = bytes.clone();
            let at = if again[1] & FLAG_FULL_SENDER == 0 {
                26
            } else {
                58
            };
            again[at] = again[at] & 0x0f | digit << 4;
            sim.inject(home(3), home(1), again);
            sim.inject(home(3), home(1), bytes.clone());
        }
        sim.run(ms(20));
    }
    call(&mut sim, b"after");
    let got = |sim: &Sim, index: usize| {
        let datagrams = &sim.hosts[index].program.datagrams;
        datagrams.iter().map(|d| d.4.clone()).collect::<Vec<_>>()
    };
    assert_eq!(got(&sim, 1), [b"before".to_vec(), b"after".to_vec()]);
    assert!(got(&sim, 2).is_empty());
    assert!(sim.used(0, 2).unwrap().contains(&home(2).to_string()));

    // Another machine with the same key in its place answers for it.
    sim.restart(1, 2, config(two, quiet()));
    sim.run(secs(1));
    call(&mut sim, b"lost with the session, perhaps");
    call(&mut sim, b"to the other");
    assert!(got(&sim, 1).contains(&b"to the other".to_vec()));
}

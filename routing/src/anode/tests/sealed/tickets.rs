//! What the program says inside of a session: its own messages, tickets, records.
use super::*;

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
        network: crate::anode::limits::source_prefix(home(1).ip()),
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

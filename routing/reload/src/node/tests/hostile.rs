//! What strangers and liars send: said again, crossed, in floods, forged, and noise.
use super::*;

// R144, RD63: what was signed once and is said again by somebody else does nothing
#[test]
fn replayed_requests_do_nothing() {
    let gone = Membership {
        peer: id(0x90),
        data: vec![],
    };
    let leave = message(0x90, Method::Leave, vec![id(0x50)], &gone.emit(), 3);
    let mut node = bench();
    assert_eq!(answers(&mut node, 2, &leave), [(2, 403)]);
    assert_eq!(node.topology().neighbours().0, [id(0x90)]);
    // over its own link it counts
    assert_eq!(answers(&mut bench(), 1, &leave), [(1, 200)]);
}

// RD32: both ask at once; the larger Peer-ID's CONNECT stands
#[test]
fn crossing_connects_make_one_link() {
    for (other, expected) in [(0x40, Some(491)), (0x70, None)] {
        let mut node = bench();
        node.act(at(0), Action::Connect(id(other), None));
        drain(&mut node);
        let body = ConnectBody::sealed(crate::body::Role::Passive);
        node.offer(at(0), id(other), &body);
        drain(&mut node);
        let theirs = message(
            other,
            Method::Connect,
            vec![id(0x50)],
            &body.emit().unwrap(),
            9,
        );
        node.handle(at(1), LinkId(2), &theirs);
        let (sent, events) = drain(&mut node);
        let refused = codes(sent).first().map(|(_, code)| *code);
        assert_eq!(refused, expected, "{other:x}");
        let offered = |event: &Event| matches!(event, Event::ConnectOffered { .. });
        assert_eq!(events.iter().any(offered), expected.is_none());
    }
}

// RD63, S35: CONNECTs of one signer are few, and answers to a flood bounded
#[test]
fn a_flood_of_connects_is_limited() {
    let mut node = bench();
    let body = ConnectBody::sealed(crate::body::Role::Passive)
        .emit()
        .unwrap();
    let mut busy = 0;
    for transaction in 0..1000 {
        let connect = message(0x20, Method::Connect, vec![id(0x50)], &body, transaction);
        let codes = answers(&mut node, 2, &connect);
        busy += codes.iter().filter(|(_, code)| *code == 503).count();
    }
    assert!(busy > 900 && node.offers.len() <= 10);
}

// RD58, S35: a message beyond the limit is refused before anything in it is looked at, and of answers nothing is said
#[test]
fn oversize_messages_are_refused() {
    let mut node = bench_with(|config| config.max_message = 200);
    for (infos, expected) in [(10, 200), (200, 413)] {
        let body = PingRequest {
            infos: vec![9; infos],
        };
        let ping = message(
            0x20,
            Method::Ping,
            vec![id(0x50)],
            &body.emit().unwrap(),
            infos as u64,
        );
        assert_eq!(ping.len() > 200, expected == 413);
        assert_eq!(answers(&mut node, 2, &ping), [(2, expected)]);
    }
    let answer = Header::new(overlay_hash(OVERLAY), 1, vec![id(0x50)])
        .emit(&signed(0x20, Kind::Response(Code::OK), &[0; 200]))
        .unwrap();
    assert_eq!(answers(&mut node, 2, &answer), []);
    assert_eq!(node.counters().malformed, 2);
}

// S35, RD20: answers that nobody waits for, or of the wrong signer
#[test]
fn forged_responses_change_nothing() {
    let mut node = bench();
    for transaction in 0..100 {
        let forged = Header::new(overlay_hash(OVERLAY), transaction, vec![id(0x50)])
            .emit(&signed(0x20, Kind::Response(Code::OK), &[]))
            .unwrap();
        node.handle(at(1), LinkId(2), &forged);
    }
    assert_eq!(node.counters().unexpected, 100);
    assert!(drain(&mut node).1.is_empty());
}

// RD74, S35: every cut and many changes of real messages, and noise: no panic, no unbounded table
#[test]
fn garbage_does_no_harm() {
    let mut node = bench();
    let mut rng = StdRng::seed_from_u64(4);
    let update = crate::body::ChordUpdate {
        predecessors: vec![id(3); 15],
        successors: vec![id(4); 15],
    };
    let connect = ConnectBody::sealed(crate::body::Role::Passive)
        .emit()
        .unwrap();
    let samples = [
        ping(0x20, vec![id(0x50)], 1),
        message(
            0x20,
            Method::Store,
            vec![id(0x30)],
            &store_of(0x30, &[0, 1]),
            2,
        ),
        message(
            0x90,
            Method::Update,
            vec![id(0x50)],
            &update.emit().unwrap(),
            3,
        ),
        message(0x20, Method::Connect, vec![id(0x50)], &connect, 4),
        message(0x20, Method::Find, vec![id(0x30)], &[0x30; 20], 5),
        message(0x20, Method::Fetch, vec![id(0x30)], &store_of(0x30, &[]), 6),
        message(0x20, Method::Join, vec![id(0x50)], &id(0x20).0, 7),
    ];
    for sample in &samples {
        for len in 0..sample.len() {
            let mut cut = sample[..len].to_vec();
            if len >= 16 {
                cut[13..16].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
            }
            node.handle(at(1), LinkId(2), &cut);
        }
        drain(&mut node);
    }
    for round in 0..20_000u64 {
        let mut bytes = samples[rng.random_range(0..samples.len())].clone();
        for _ in 0..rng.random_range(1..6) {
            let place = rng.random_range(4..bytes.len());
            if !(13..16).contains(&place) {
                bytes[place] = rng.random();
            }
        }
        node.handle(at(round), LinkId(1 + round % 2), &bytes);
        drain(&mut node);
        node.handle_timeout(at(round));
        drain(&mut node);
    }
    assert!(node.counters().malformed > 0);
    assert!(node.reassembly.bytes() <= fragment_limit());
    assert!(node.pending_requests() <= 4096);
}

//! What is asked, and what is answered: each method, its codes, repeats.
use super::*;

// R55, R57, R128: a PING to the wildcard, to the id, and to a key of the range
#[test]
fn pings_are_answered_with_what_was_asked() {
    for target in [Id::WILDCARD, id(0x50), id(0x30)] {
        let mut node = bench();
        node.handle(at(1), LinkId(2), &ping(0x20, vec![target], 7));
        let (sent, _) = drain(&mut node);
        let (link, header, contents) = &sent[0];
        assert_eq!((*link, header.transaction), (2, 7));
        assert_eq!(header.route, [id(0x20)], "the via list reversed");
        let contents = Contents::parse(contents).unwrap();
        assert_eq!(contents.kind, Kind::Response(Code::OK));
        let pong = crate::body::PingResponse::parse(contents.payload).unwrap();
        assert_eq!(pong.infos.len(), 2);
    }
}

// R85: FIND asks whoever is responsible
#[test]
fn find_is_answered_by_the_responsible_peer_only() {
    let mut node = bench();
    let find = crate::body::FindRequest {
        resource: id(0x80),
        kinds: vec![TypeId::TURN_SERVICE],
    };
    let body = find.emit().unwrap();
    // 0x80 is 0x90's; the message ends here all the same
    let elsewhere = message(0x20, Method::Find, vec![id(0x50)], &body, 1);
    assert_eq!(answers(&mut node, 2, &elsewhere), [(2, 404)]);
    let here = crate::body::FindRequest {
        resource: id(0x30),
        ..find
    };
    let body = here.emit().unwrap();
    let here = message(0x20, Method::Find, vec![id(0x30)], &body, 2);
    assert_eq!(answers(&mut node, 2, &here), [(2, 200)]);
}

// R62, R92, RD34: TUNNEL and UPDATE are answered by success, and by nothing more
#[test]
fn tunnel_and_update_are_confirmed() {
    let mut node = bench_with(|config| {
        config.tunnels.insert(9);
    });
    let tunnel = crate::body::TunnelRequest {
        application: 9,
        dialog: "x".into(),
        pdu: vec![1],
    };
    let update = crate::body::ChordUpdate::default().emit().unwrap();
    for (method, body) in [
        (Method::Tunnel, tunnel.emit().unwrap()),
        (Method::Update, update),
    ] {
        let request = message(0x90, method, vec![id(0x50)], &body, method as u64);
        node.handle(at(5), LinkId(1), &request);
        let (sent, _) = drain(&mut node);
        let answer = sent.iter().find_map(|(_, header, contents)| {
            let contents = Contents::parse(contents).ok()?;
            let is_answer = header.transaction == method as u64;
            is_answer.then_some((contents.kind, contents.payload.len()))
        });
        assert_eq!(answer, Some((Kind::Response(Code::OK), 0)), "{method:?}");
    }
}

// R49, RD21, RD25, RD27, RD74
#[test]
fn requests_that_cannot_be_served_get_their_code() {
    let mut node = bench();
    let unsigned = Header::new(overlay_hash(OVERLAY), 1, vec![id(0x50)])
        .emit(&emit_contents(Kind::Request(1), &[0]))
        .unwrap();
    assert_eq!(answers(&mut node, 2, &unsigned), [(2, 401)]);
    let unknown = signed(0x20, Kind::Request(21), &[]);
    let unknown = Header::new(overlay_hash(OVERLAY), 2, vec![id(0x50)])
        .emit(&unknown)
        .unwrap();
    assert_eq!(answers(&mut node, 2, &unknown), [(2, 400)]);
    let garbage = message(0x20, Method::Store, vec![id(0x30)], &[1, 2, 3], 3);
    assert_eq!(answers(&mut node, 2, &garbage), [(2, 400)]);
    let mut store = vec![0x30; 16];
    store.extend_from_slice(&[0, 13, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let store = message(0x20, Method::Store, vec![id(0x30)], &store, 4);
    assert_eq!(answers(&mut node, 2, &store), [(2, 415)]);
    let tunnel = crate::body::TunnelRequest {
        application: 1,
        dialog: String::new(),
        pdu: vec![],
    };
    let tunnel = message(
        0x20,
        Method::Tunnel,
        vec![id(0x50)],
        &tunnel.emit().unwrap(),
        5,
    );
    assert_eq!(answers(&mut node, 2, &tunnel), [(2, 404)]);
}

// R47, RD15, RD47, RD48, RD49: JOIN, LEAVE and UPDATE only over the link of the one they are about
#[test]
fn ring_messages_come_over_their_own_link() {
    let body = |n: u8| {
        Membership {
            peer: id(n),
            data: vec![],
        }
        .emit()
    };
    for method in [Method::Join, Method::Leave] {
        let mut node = bench();
        // about somebody else
        let other = message(0x20, method, vec![id(0x50)], &body(0x30), 1);
        assert_eq!(answers(&mut node, 2, &other), [(2, 403)]);
        // signed by somebody else than the link's peer
        let forged = message(0x90, method, vec![id(0x50)], &body(0x90), 2);
        assert_eq!(answers(&mut node, 2, &forged), [(2, 403)]);
        // to a key and not to the peer
        let key = message(0x20, method, vec![id(0x30)], &body(0x20), 3);
        assert_eq!(answers(&mut node, 2, &key), [(2, 404)]);
        let (before, _) = node.topology().neighbours();
        assert_eq!(before, [id(0x90)]);
    }
    // its own place, over its own link
    let mut node = bench();
    let join = message(0x20, Method::Join, vec![id(0x50)], &body(0x20), 4);
    assert_eq!(answers(&mut node, 2, &join), [(2, 200)]);
    assert_eq!(node.topology().range(), Some((id(0x20), id(0x50))));
}

// R112, RD28: the answer waits for a replica or a second; a repeat does not store, nor answer, twice
#[test]
fn a_store_is_answered_when_a_replica_has_it() {
    let mut node = bench();
    let store = message(
        0x20,
        Method::Store,
        vec![id(0x30)],
        &store_of(0x30, &[0]),
        5,
    );
    node.handle(at(10), LinkId(2), &store);
    let (sent, _) = drain(&mut node);
    assert_eq!(sent.len(), 1, "the replica comes first");
    let (link, replica, _) = &sent[0];
    assert_eq!((*link, &replica.route), (1, &vec![id(0x90)]));
    node.handle(at(20), LinkId(2), &store);
    assert!(drain(&mut node).0.is_empty(), "still pending");
    let good = replica.clone().response(None);
    let good = Header {
        route: vec![id(0x50)],
        ..good
    };
    let good = good
        .emit(&signed(0x90, Kind::Response(Code::OK), &[]))
        .unwrap();
    node.handle(at(30), LinkId(1), &good);
    assert_eq!(codes(drain(&mut node).0), [(2, 200)]);
    assert_eq!(
        answers(&mut node, 2, &store),
        [(2, 200)],
        "the same answer again"
    );
    assert_eq!(node.storage().values(), 1);
    assert_eq!(node.counters().stored_alone, 0);
    // a second one, whose replica says nothing
    let alone = message(
        0x20,
        Method::Store,
        vec![id(0x31)],
        &store_of(0x31, &[0]),
        6,
    );
    node.handle(at(1000), LinkId(2), &alone);
    drain(&mut node);
    node.handle_timeout(at(1999));
    assert!(codes(drain(&mut node).0).is_empty());
    node.handle_timeout(at(2000));
    assert_eq!(codes(drain(&mut node).0), [(2, 200)]);
    assert_eq!(node.counters().stored_alone, 1);
}

// R75, R67, RD39: 412 carries the generations; future and foreign places are refused
#[test]
fn stores_that_do_not_fit_are_refused() {
    let mut node = bench();
    let mut transaction = 10;
    let mut store = |node: &mut Node, resource: u8, time: u32| {
        transaction += 1;
        let body = store_of(resource, &[time]);
        let message = message(0x20, Method::Store, vec![id(resource)], &body, transaction);
        node.handle(at(2000 * transaction), LinkId(2), &message);
        node.handle_timeout(at(2000 * transaction + 1100));
        drain(node).0
    };
    assert_eq!(codes(store(&mut node, 0x30, 5)), [(2, 200)]);
    let old = store(&mut node, 0x30, 4);
    let contents = Contents::parse(&old[0].2).unwrap();
    assert_eq!(contents.kind, Kind::Response(Code::PRECONDITION_FAILED));
    let info = ErrorBody::parse(contents.payload).unwrap().info;
    let generations = <crate::body::Generation as crate::body::Packed>::parse_list(&info).unwrap();
    assert!(generations[0].generation > 0);
    assert_eq!(codes(store(&mut node, 0x31, 4000)), [(2, 403)]);
    // a copy from somebody who is no neighbour
    let copy = message(
        0x20,
        Method::Store,
        vec![id(0x50)],
        &store_of(0x80, &[9]),
        99,
    );
    assert_eq!(answers(&mut node, 2, &copy), [(2, 404)]);
}

// R53, R54: eleven transmissions of one transaction, then a timeout
#[test]
fn requests_are_repeated_as_in_rfc_3261() {
    let mut node = bench();
    let options = RequestOptions::default();
    let request = node.ping(at(0), vec![id(0x80)], &[], options).unwrap();
    let mut times = vec![0];
    let mut last = drain(&mut node).0.remove(0).2;
    let mut ended = None;
    for millis in (100..40_000).step_by(100) {
        node.handle_timeout(at(millis));
        let (sent, events) = drain(&mut node);
        for (_, header, contents) in sent {
            if header.transaction == request.0 {
                times.push(millis);
                assert_eq!(contents, last);
                last = contents;
            }
        }
        for event in events {
            if let Event::Answered {
                request: of,
                result,
            } = event
                && of == request
            {
                ended = Some((millis, result.unwrap_err()));
            }
        }
    }
    let seconds: Vec<f64> = times.iter().map(|millis| *millis as f64 / 1000.0).collect();
    assert_eq!(
        seconds,
        [0., 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    );
    assert_eq!(ended, Some((32_000, ReloadError::Timeout)));
    assert_eq!(GIVE_UP, Duration::from_secs(32));
    assert_eq!(node.pending_requests(), 0);
}

// R33, R54: what was lost with a peer on the way comes through another one, as the same transaction
#[test]
fn a_request_survives_the_peer_that_carried_it() {
    let mut node = bench();
    link(&mut node, 3, 0xa0);
    let update = crate::body::ChordUpdate::default().emit().unwrap();
    let update = message(0xa0, Method::Update, vec![id(0x50)], &update, 1);
    node.handle(at(0), LinkId(3), &update);
    drain(&mut node);
    let options = RequestOptions::default();
    let request = node.ping(at(0), vec![id(0x80)], &[], options).unwrap();
    let of_request = |sent: Vec<Sent>| {
        let mut sent = sent.into_iter();
        sent.find(|(_, header, _)| header.transaction == request.0)
            .expect("it is sent")
    };
    let (first, ..) = of_request(drain(&mut node).0);
    node.link_down(at(100), LinkId(first));
    drain(&mut node);
    node.handle_timeout(at(500));
    let (second, header, _) = of_request(drain(&mut node).0);
    assert_ne!(first, second);
    let pong = crate::body::PingResponse {
        response_id: 1,
        infos: vec![],
    };
    let contents = signed(0x80, Kind::Response(Code::OK), &pong.emit().unwrap());
    let response = header.response(Some(id(0x50))).emit(&contents).unwrap();
    node.handle(at(600), LinkId(second), &response);
    let (_, events) = drain(&mut node);
    assert!(
        events.iter().any(
            |event| matches!(event, Event::Answered { request: of, result: Ok(_) } if *of == request)
        ),
        "{events:?}"
    );
}

// R129: at most ten, and only peers with links
#[test]
fn the_cache_of_peers_holds_ten() {
    let mut node = node_with(0x50, |_| {});
    for n in 1..=20 {
        link(&mut node, n.into(), n);
    }
    assert_eq!(node.cacheable_peers().len(), 10);
    // links that cannot be: this node itself, the wildcard, nobody
    for (number, peer) in [(100, 0x50), (101, 0), (102, 0xff)] {
        link(&mut node, number, peer);
    }
    assert_eq!(node.counters().links_refused, 3);
    assert_eq!(node.links().count(), 20);
}

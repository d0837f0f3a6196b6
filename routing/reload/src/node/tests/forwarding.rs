//! Headers, route and via lists, private ids, fragments.
use super::*;

// R16, R17, R25, RD9, RD10, RD14, RD25, RD65
#[test]
fn headers_that_are_not_served_are_answered() {
    let mut node = bench();
    let base = ping(0x20, vec![id(0x80)], 7);
    let changed = |at: usize, value: u8| {
        let mut message = base.clone();
        message[at] = value;
        message
    };
    assert_eq!(answers(&mut node, 2, &changed(4, 0xff)), [(2, 498)]);
    assert_eq!(answers(&mut node, 2, &changed(12, 0x82)), [(2, 498)]);
    assert_eq!(answers(&mut node, 2, &changed(12, 0x01)), [(2, 498)]);
    assert_eq!(answers(&mut node, 2, &changed(8, 0)), [(2, 483)]);
    assert_eq!(answers(&mut node, 2, &changed(8, 101)), []);
    assert_eq!(answers(&mut node, 2, &changed(9, 7)), [(2, 499)]);
    assert_eq!(answers(&mut node, 2, &changed(9, 2)), [(2, 302)]);
    let mut strict = bench_with(|config| config.iterative = false);
    assert_eq!(answers(&mut strict, 2, &changed(9, 2)), [(2, 499)]);
    // RD9: a TTL of 0 is good enough for the destination
    let mut here = ping(0x20, vec![id(0x50)], 8);
    here[8] = 0;
    assert_eq!(answers(&mut node, 2, &here), [(2, 200)]);
    let mut plain = bench_with(|config| config.accept_plain_version = true);
    let mut old = ping(0x20, vec![id(0x50)], 8);
    old[12] = 0x01;
    assert_eq!(answers(&mut plain, 2, &old), [(2, 200)]);
}

// RD9: a TTL above 100 goes nowhere
#[test]
fn a_message_that_would_live_too_long_is_dropped() {
    for (ttl, forwarded) in [(100, 1), (101, 0), (255, 0)] {
        let mut node = bench();
        let mut message = ping(0x20, vec![id(0x80)], 7);
        message[8] = ttl;
        node.handle(at(1), LinkId(2), &message);
        assert_eq!(drain(&mut node).0.len(), forwarded, "{ttl}");
        let counters = node.counters();
        assert_eq!(counters.forwarded, forwarded as u64);
        assert_eq!(counters.hops_exceeded, 1 - forwarded as u64);
    }
}

// RD12: without FRAG, LFRG says nothing
#[test]
fn a_last_fragment_bit_alone_is_ignored() {
    let mut node = bench();
    let mut whole = ping(0x20, vec![id(0x50)], 7);
    whole[10] |= 0x40;
    assert_eq!(answers(&mut node, 2, &whole), [(2, 200)]);
}

// R7, R28: up, to a direct link, or where the topology says
#[test]
fn a_message_goes_up_straight_or_around() {
    for (target, link) in [(0x50, None), (0x30, None), (0x20, Some(2)), (0x70, Some(1))] {
        let mut node = bench();
        node.handle(at(1), LinkId(1), &ping(0x90, vec![id(target)], 7));
        let (sent, _) = drain(&mut node);
        let (took, header, _) = &sent[0];
        match link {
            // answered: the response goes back
            None => assert_eq!((*took, &header.route), (1, &vec![id(0x90)])),
            Some(link) => assert_eq!((*took, &header.route), (link, &vec![id(target)])),
        }
    }
}

// R26, R29, R30, R31, RD17: who forwards appends the sender and counts down
#[test]
fn forwarding_appends_the_sender_and_counts_down() {
    let mut node = bench();
    let message = ping(0x20, vec![id(0x50), id(0x80)], 7);
    node.handle(at(1), LinkId(2), &message);
    let (sent, _) = drain(&mut node);
    let (link, header, contents) = &sent[0];
    assert_eq!(*link, 1, "towards the peer that owns it");
    assert_eq!((header.ttl, &header.via), (99, &vec![id(0x20)]));
    assert_eq!(header.route, [id(0x80)], "its own entry is taken off");
    // the contents are not touched
    let (_, original) = Header::parse(&message).unwrap();
    assert_eq!(contents, original);
    assert_eq!(node.counters().forwarded, 1);
}

// R34, R35, RD16, RD17: a long via list becomes one id, which only this node can read back
#[test]
fn via_lists_are_compressed_and_expanded() {
    let mut node = bench_with(|config| config.compress_via = 3);
    let mut request = Header::new(overlay_hash(OVERLAY), 7, vec![id(0x80)]);
    request.via = vec![id(1), id(2)];
    let contents = signed(1, Kind::Request(1), &[0]);
    node.handle(at(1), LinkId(2), &request.emit(&contents).unwrap());
    let (sent, _) = drain(&mut node);
    let via = sent[0].1.via.clone();
    assert_eq!(via.len(), 1);
    // the answer comes back over this node to 0x20, then 2, then 1
    let response = Header::new(overlay_hash(OVERLAY), 7, vec![id(0x50), via[0]]);
    let contents = signed(0x80, Kind::Response(Code::OK), &[]);
    let response = response.emit(&contents).unwrap();
    node.handle(at(2), LinkId(1), &response);
    let (sent, _) = drain(&mut node);
    assert_eq!(sent[0].0, 2);
    assert_eq!(sent[0].1.route, [id(0x20), id(2), id(1)]);
    // after its time it is dropped
    node.handle(at(40_000), LinkId(1), &response);
    assert!(drain(&mut node).0.is_empty());
    assert_eq!(node.counters().stale_private, 1);
}

// S35: lists that are full, loops through this node, and a private id that holds itself
#[test]
fn forged_lists_end() {
    let mut node = bench();
    let mut full = Header::new(overlay_hash(OVERLAY), 7, vec![id(0x80)]);
    full.via = vec![id(1); 255];
    let contents = signed(1, Kind::Request(1), &[0]);
    node.handle(at(1), LinkId(2), &full.emit(&contents).unwrap());
    assert!(drain(&mut node).0.is_empty());
    let mut turns = Header::new(overlay_hash(OVERLAY), 8, vec![id(0x50); 255]);
    turns.route[254] = id(0x90);
    node.handle(at(1), LinkId(2), &turns.emit(&contents).unwrap());
    assert_eq!(drain(&mut node).0.len(), 1, "its own entries cost nothing");
    let inner = node
        .private
        .compress(at(0), vec![id(0x90)], Duration::from_secs(60));
    let mut hidden = inner;
    for _ in 0..20 {
        hidden = node
            .private
            .compress(at(0), vec![hidden], Duration::from_secs(60));
    }
    let deep = Header::new(overlay_hash(OVERLAY), 9, vec![hidden]);
    node.handle(at(1), LinkId(2), &deep.emit(&contents).unwrap());
    assert!(drain(&mut node).0.is_empty());
}

// R32: a joining peer that nobody can route to yet has its answers by the via list
#[test]
fn whoever_is_not_routable_yet_gets_its_answers() {
    let mut node = bench();
    assert_ne!(
        node.topology().next_hop(id(0x18), &[]),
        crate::topology::Hop::To(id(0x20))
    );
    node.handle(at(1), LinkId(2), &ping(0x20, vec![id(0x80)], 7));
    let (sent, _) = drain(&mut node);
    let (link, request, _) = &sent[0];
    assert_eq!(*link, 1);
    // what 0x90 received came from this node
    let response = request.response(Some(id(0x50)));
    assert_eq!(response.route, [id(0x50), id(0x20)]);
    let contents = signed(0x90, Kind::Response(Code::OK), &[]);
    node.handle(at(2), LinkId(1), &response.emit(&contents).unwrap());
    let (sent, _) = drain(&mut node);
    assert_eq!((sent[0].0, &sent[0].1.route), (2, &vec![id(0x20)]));
}

// R36 to R38: what is larger than the link's datagrams goes in fragments, both ways
#[test]
fn large_messages_are_cut_to_the_link() {
    let mut node = node_with(0x50, |config| {
        config.tunnels.insert(9);
    });
    let info = LinkInfo {
        peer: id(0x20),
        mtu: Some(1120),
        transport: LogTransport::Sealed,
        group: 0,
    };
    node.link_up(at(0), LinkId(1), info);
    drain(&mut node);
    let tunnel = crate::body::TunnelRequest {
        application: 9,
        dialog: "x".into(),
        pdu: vec![7; 5000],
    };
    let options = RequestOptions::default();
    node.tunnel(at(0), vec![id(0x20)], None, &tunnel, options)
        .unwrap();
    let (sent, _) = drain(&mut node);
    assert!(sent.len() >= 5);
    assert!(sent.iter().all(|(_, header, contents)| {
        header.wire_len() + contents.len() <= 1120 - 32
            && matches!(header.fragment, Fragment::Part { .. })
    }));
    let whole = message(
        0x20,
        Method::Tunnel,
        vec![id(0x50)],
        &tunnel.emit().unwrap(),
        5,
    );
    let (header, contents) = Header::parse(&whole).unwrap();
    for part in crate::fragment::split(&header, contents, 1120).unwrap() {
        node.handle(at(1), LinkId(1), &part);
    }
    let (sent, events) = drain(&mut node);
    assert!(matches!(&events[..], [Event::Tunnel { tunnel: got, .. }] if *got == tunnel));
    assert_eq!(codes(sent), [(1, 200)]);
}

// R132: an anonymous id leads here without naming this node
#[test]
fn an_anonymous_id_leads_to_its_owner() {
    let mut node = bench();
    let own = node.id();
    let hidden = node.anonymous_id(at(0), vec![own], Duration::from_secs(3600));
    assert_ne!(hidden, own);
    let asked = answers(&mut node, 2, &ping(0x20, vec![hidden], 3));
    assert_eq!(asked, [(2, 200)]);
    // With the place before it, it is found from anywhere, for its time.
    let hour = Duration::from_secs(3600);
    let route = node.anonymous_route(at(0), hour).expect("it has a range");
    assert!(!route.contains(&own));
    assert!(route[0].distance_to(own) <= u128::from(u64::MAX));
    let asked = answers(&mut node, 2, &ping(0x20, route.clone(), 4));
    assert_eq!(asked, [(2, 200)]);
    let stale = node.counters().stale_private;
    node.handle(at(3_600_001), LinkId(2), &ping(0x20, route, 5));
    assert_eq!(node.counters().stale_private, stale + 1);
}

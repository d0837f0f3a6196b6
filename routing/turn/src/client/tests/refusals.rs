//! Servers that refuse, and send elsewhere.

use super::*;
use proptest::prelude::*;

// T17, T18: DONT-FRAGMENT is asked for, given up when unknown; another 420 is final
#[test]
fn dont_fragment_is_given_up() {
    let mut script = Script::new(Config {
        dont_fragment: true,
        ..config()
    });
    script.client.start(script.now).unwrap();
    script.login();
    let asked = script.one(method::ALLOCATE);
    assert!(asked.message().has(attr::DONT_FRAGMENT));
    script.refuse(&asked, 420, |w| w.raw(attr::UNKNOWN_ATTRIBUTES, &[0, 0x1A]));
    let asked = script.one(method::ALLOCATE);
    assert!(!asked.message().has(attr::DONT_FRAGMENT));
    assert_eq!(script.events(), [Event::NoDontFragment]);
    script.refuse(&asked, 420, |w| w.raw(attr::UNKNOWN_ATTRIBUTES, &[0, 0x1A]));
    assert!(matches!(
        script.events()[..],
        [Event::Ended {
            why: Why::Refused { code: 420, .. },
            not_before: None
        }]
    ));
    // Send carries it while the server knows it
    let mut script = Script::ready(Config {
        dont_fragment: true,
        ..config()
    });
    script.permitted(PEER);
    let Outgoing::Now(header) = script.client.send(script.now, address(PEER), b"") else {
        panic!()
    };
    assert!(
        Message::parse(header.bytes())
            .unwrap()
            .has(attr::DONT_FRAGMENT)
    );
}

// T19: a minute after 486 and 508
#[test]
fn a_full_server_is_left_alone() {
    for code in [486, 508] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        script.login();
        let asked = script.one(method::ALLOCATE);
        script.refuse(&asked, code, |w| w);
        let until = script.now + secs(60);
        assert!(
            matches!(&script.events()[..], [Event::Ended { not_before: Some(at), .. }] if *at == until)
        );
        script.now += secs(59);
        assert_eq!(script.client.start(script.now), Err(until));
        assert!(script.asked().is_empty());
        script.now += secs(1);
        assert_eq!(script.client.start(script.now), Ok(()));
        assert_eq!(script.asked().len(), 1);
    }
}

// T21: 400 to ChannelBind: the allocation is given back and made anew; a server that always does so is left
#[test]
fn a_refused_channel_starts_afresh() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    for round in 0..4 {
        assert!(script.client.bind(script.now, address(PEER)));
        let asked = script.one(method::CHANNEL_BIND);
        script.refuse(&asked, 400, |w| w);
        if round == 3 {
            break;
        }
        let refresh = script.one(method::REFRESH);
        assert_eq!(refresh.message().raw(attr::LIFETIME), Some(&[0; 4][..]));
        script.succeed(&refresh, |w| w.number(attr::LIFETIME, 0));
        script.allocated();
        let permission = script.one(method::CREATE_PERMISSION);
        script.succeed(&permission, |w| w);
        assert!(
            matches!(
                script.events()[..],
                [Event::Allocated { .. }, Event::Permitted(_)]
            ),
            "all is there again"
        );
    }
    assert!(matches!(
        script.events()[..],
        [Event::Ended {
            why: Why::Refused { code: 400, .. },
            ..
        }]
    ));
}

// T29: same transport and credentials; a server tried within five minutes is not tried again
#[test]
fn redirects() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    let other = address("203.0.113.2:3478");
    let to =
        |server| move |w: Writer| w.typed(&stun_types::attribute::AlternateServer::new(server));
    let asked = script.one(method::ALLOCATE);
    let answer = to(other)(Writer::error(method::ALLOCATE, asked.id(), 300))
        .raw(attr::ALTERNATE_DOMAIN, b"b.example");
    script.hear(&answer.finish());
    assert_eq!(
        script.events(),
        [Event::Redirect {
            server: other,
            domain: Some("b.example".into())
        }]
    );
    script.now += secs(299);
    script.client.restart(script.now, other).unwrap();
    script.login();
    let asked = script.one(method::ALLOCATE);
    script.refuse(&asked, 300, to(address(SERVER)));
    let why = Why::RedirectLoop(address(SERVER));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why,
            not_before: None
        }],
        "it points back"
    );
    // after five minutes the first one may be tried again
    script.now += secs(2);
    script.client.restart(script.now, other).unwrap();
    let asked = script.one(method::ALLOCATE);
    script.refuse(&asked, 300, to(address(SERVER)));
    assert!(matches!(script.events()[..], [Event::Redirect { .. }]));
    for nonsense in ["0.0.0.0:1", "224.0.0.1:1", "203.0.113.9:0"] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        let asked = script.one(method::ALLOCATE);
        script.hear(
            &to(address(nonsense))(Writer::error(method::ALLOCATE, asked.id(), 300)).finish(),
        );
        assert!(
            matches!(script.events()[..], [Event::Ended { .. }]),
            "{nonsense}"
        );
    }
}

// T41: 442 and 443 are asked again after 500, 1000, 2000 ms, then no more
#[test]
fn some_refusals_are_asked_again_slowly() {
    for code in [442, 443] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        script.login();
        for wait in [500, 1000, 2000] {
            let asked = script.one(method::ALLOCATE);
            script.refuse(&asked, code, |w| w);
            script.pass(Duration::from_millis(wait - 1));
            assert!(script.asked().is_empty(), "{wait} ms have not passed");
            script.pass(Duration::from_millis(1));
        }
        let asked = script.one(method::ALLOCATE);
        script.refuse(&asked, code, |w| w);
        assert!(matches!(script.events()[..], [Event::Ended { .. }]));
        let mut script = Script::ready(config());
        script.client.permit(script.now, address(PEER).ip());
        for wait in [500, 1000, 2000] {
            let asked = script.one(method::CREATE_PERMISSION);
            script.refuse(&asked, code, |w| w);
            script.pass(Duration::from_millis(wait));
        }
        let asked = script.one(method::CREATE_PERMISSION);
        script.refuse(&asked, code, |w| w);
        assert_eq!(
            script.events(),
            [Event::PeerRefused {
                peer: address(PEER).ip(),
                code
            }]
        );
    }
}

// T42: another port, three in all, then two minutes; 437 to anything else: gone
#[test]
fn mismatches() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    script.login();
    for last in [false, false, true] {
        let asked = script.one(method::ALLOCATE);
        script.refuse(&asked, 437, |w| w);
        if last {
            break;
        }
        assert_eq!(script.events(), [Event::NewSocket]);
        script.client.restart(script.now, address(SERVER)).unwrap();
    }
    let until = script.now + secs(120);
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Mismatch,
            not_before: Some(until)
        }]
    );
    assert_eq!(script.client.start(script.now + secs(119)), Err(until));
    assert_eq!(script.client.start(script.now + secs(120)), Ok(()));
    // once only: the second port works
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    script.login();
    let asked = script.one(method::ALLOCATE);
    script.refuse(&asked, 437, |w| w);
    script.client.restart(script.now, address(SERVER)).unwrap();
    script.allocated();
    assert!(matches!(
        script.events()[..],
        [Event::NewSocket, Event::Allocated { .. }]
    ));
    script.client.permit(script.now, address(PEER).ip());
    let asked = script.one(method::CREATE_PERMISSION);
    script.refuse(&asked, 437, |w| w);
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Lost,
            not_before: None
        }]
    );
}

// T11: one bad peer of many does not keep the others out
#[test]
fn a_refused_group_is_asked_one_by_one() {
    let mut script = Script::new(config());
    let (good, bad): (IpAddr, IpAddr) = (
        "198.51.100.1".parse().unwrap(),
        "198.51.100.2".parse().unwrap(),
    );
    script.client.permit(script.now, good);
    script.client.permit(script.now, bad);
    script.client.start(script.now).unwrap();
    script.login();
    script.allocated();
    let asked = script.one(method::CREATE_PERMISSION);
    script.refuse(&asked, 403, |w| w);
    for asked in script.asked() {
        let peer = asked
            .message()
            .xor_address(attr::XOR_PEER_ADDRESS)
            .unwrap()
            .unwrap()
            .ip();
        if peer == bad {
            script.refuse(&asked, 403, |w| w)
        } else {
            script.succeed(&asked, |w| w)
        }
    }
    let events = script.events();
    assert!(
        events.contains(&Event::Permitted(good))
            && events.contains(&Event::PeerRefused {
                peer: bad,
                code: 403
            })
    );
}

// T28: reason phrases that are no UTF-8, padded or too long do not make an answer unreadable
#[test]
fn reason_phrases_are_only_shown() {
    for (reason, shown) in [
        (&b"No\0\0"[..], Some("No")),
        (b"\xFF", Some("\u{FFFD}")),
        (&[b'x'; 764], None),
    ] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        let asked = script.one(method::ALLOCATE);
        let value = [&[0, 0, 5, 0][..], reason].concat();
        script.hear(
            &Writer::new(Class::Error, method::ALLOCATE, asked.id())
                .raw(attr::ERROR_CODE, &value)
                .finish(),
        );
        match (script.events().pop(), shown) {
            (
                Some(Event::Ended {
                    why: Why::Refused { code: 500, reason },
                    ..
                }),
                Some(shown),
            ) => assert_eq!(reason, shown),
            (None, None) => assert_eq!(script.client.counters().malformed, 1),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    // Whatever a server sends: no panic, no payload of strangers, everything stays bounded.
    #[test]
    fn hostile_servers(
        messages in proptest::collection::vec(
            (any::<u16>(), any::<bool>(), proptest::collection::vec((0_usize..16, proptest::collection::vec(any::<u8>(), 0..24)), 0..6)),
            0..40,
        ),
    ) {
        const KINDS: [u16; 16] = [
            0x09, 0x0A, 0x0D, 0x12, 0x13, 0x14, 0x15, 0x16, 0x20, 0x22, 0x2A, 0x8002, 0x8003, 0x8004, 0x8023, 0x1D,
        ];
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        script.client.permit(script.now, address(PEER).ip());
        let mut last = script.one(method::ALLOCATE);
        for (kind, reuse, attributes) in messages {
            let id = if reuse { last.id() } else { [9; 12] };
            let class = [Class::Success, Class::Error, Class::Indication, Class::Request][usize::from(kind % 4)];
            let method = if reuse { last.method() } else { kind >> 2 & 15 };
            let mut writer = Writer::new(class, method, id);
            for (kind, value) in attributes {
                writer = writer.raw(KINDS[kind], &value);
            }
            prop_assert_eq!(script.hear(&writer.finish()), None);
            script.step();
            if let Some(asked) = script.asked().pop() {
                last = asked;
            }
            prop_assert!(script.client.transactions.len() <= OUTSTANDING);
        }
        prop_assert!(script.client.events.len() <= 1024);
    }
}

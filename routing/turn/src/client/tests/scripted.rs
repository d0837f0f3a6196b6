//! Servers that misbehave.

use super::*;
use crate::frame::Transport;
use crate::server::IcmpError;
use proptest::prelude::*;

// T30, T31, T32: a silent server
#[test]
fn silence() {
    for (transport, expected) in [
        (
            Transport::Udp,
            vec![0, 500, 1500, 3500, 7500, 15_500, 31_500],
        ),
        (Transport::Tcp, vec![0]),
    ] {
        let mut script = Script::new(Config {
            transport,
            ..config()
        });
        script.client.start(script.now).unwrap();
        let mut sends = vec![];
        let mut at = 0;
        let end = loop {
            sends.extend(script.asked().iter().map(|_| at));
            let Some(ms) = script.step() else { break at };
            at = ms;
        };
        assert_eq!((sends, end), (expected, 39_500), "{transport:?}");
        assert_eq!(
            script.events(),
            [Event::Ended {
                why: Why::Silence,
                not_before: None
            }]
        );
    }
}

// T33: a path of 900 ms: after the first measurement nothing is repeated any more
#[test]
fn a_slow_path_is_learned() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    let first = script.asked().remove(0);
    script.pass(Duration::from_millis(900));
    assert_eq!(script.asked().len(), 1, "repeated: nothing is known yet");
    script.hear(&Script::challenge(&first, 401, NONCE));
    // Karn: no sample; this one is repeated too, so its answer gives none either
    let second = script.asked().remove(0);
    script.pass(Duration::from_millis(400));
    script.succeed(&second, |w| {
        w.xor_address(attr::XOR_RELAYED_ADDRESS, address(RELAY))
            .number(attr::LIFETIME, 600)
    });
    script.events();
    // measured 400 ms: 400 + 4 × 200 = 1200 ms
    script.client.permit(script.now, address(PEER).ip());
    script.one(method::CREATE_PERMISSION);
    script.pass(Duration::from_millis(1199));
    assert!(script.asked().is_empty());
    script.pass(Duration::from_millis(1));
    assert_eq!(script.asked().len(), 1);
}

// T34
#[test]
fn hard_icmp_errors_end_it_and_soft_ones_do_not() {
    for (kind, code, hard) in [
        (3, 3, true),
        (3, 2, true),
        (3, 0, false),
        (3, 1, false),
        (3, 5, false),
        (11, 0, false),
    ] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        script.client.handle_server_icmp(script.now, kind, code);
        let ended = Event::Ended {
            why: Why::Unreachable,
            not_before: None,
        };
        assert_eq!(
            script.events(),
            if hard { vec![ended] } else { vec![] },
            "type {kind} code {code}"
        );
    }
}

// T12: queued until the permission stands, flushed in order, bounded
#[test]
fn data_waits_for_its_permission() {
    let mut script = Script::ready(Config {
        queue: 1000,
        ..config()
    });
    for i in 0..3_u8 {
        assert!(matches!(
            script.client.send(script.now, address(PEER), &[i; 100]),
            Outgoing::Queued
        ));
    }
    let asked = script.one(method::CREATE_PERMISSION);
    assert!(
        matches!(
            script.client.send(script.now, address(PEER), &[3; 701]),
            Outgoing::Dropped
        ),
        "the queue is full"
    );
    assert_eq!(script.client.counters().queue_dropped, 1);
    script.pass(secs(3));
    script.sent();
    script.succeed(&asked, |w| w);
    let payloads: Vec<u8> = script
        .sent()
        .iter()
        .map(|b| Message::parse(b).unwrap().raw(attr::DATA).unwrap()[0])
        .collect();
    assert_eq!(payloads, [0, 1, 2], "in order, as Send indications");
    let Outgoing::Now(header) = script.client.send(script.now, address(PEER), &[4; 5]) else {
        panic!()
    };
    assert_eq!(header.bytes()[..2], [0, 0x16]);
    // with a channel: ChannelData, and meanwhile Send
    assert!(script.client.bind(script.now, address(PEER)));
    let asked = script.one(method::CHANNEL_BIND);
    assert!(
        matches!(script.client.send(script.now, address(PEER), b"x"), Outgoing::Now(h) if h.bytes().len() > 4)
    );
    script.succeed(&asked, |w| w);
    assert!(
        matches!(script.client.send(script.now, address(PEER), b"x"), Outgoing::Now(h) if h.bytes().len() == 4)
    );
    // a peer that is refused: what waited is dropped and counted
    script
        .client
        .send(script.now, address("198.51.100.66:1"), b"x");
    let asked = script.one(method::CREATE_PERMISSION);
    script.refuse(&asked, 403, |w| w);
    assert_eq!(script.client.counters().queue_dropped, 2);
    assert!(script.events().contains(&Event::PeerRefused {
        peer: "198.51.100.66".parse().unwrap(),
        code: 403
    }));
}

// T13: over a stream what was queued is padded
#[test]
fn queued_data_is_padded_in_streams() {
    let mut script = Script::ready(Config {
        transport: Transport::Tcp,
        ..config()
    });
    script.bound(PEER);
    let Outgoing::Now(header) = script.client.send(script.now, address(PEER), &[1; 101]) else {
        panic!()
    };
    assert_eq!(header.total(101), 108);
}

// T14, T15, S34: strangers
#[test]
fn data_of_strangers_is_dropped() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    let heard = data(PEER, b"hello");
    let received = script.hear(&heard).unwrap();
    assert_eq!(
        (received.peer, &heard[received.payload]),
        (address(PEER), &b"hello"[..])
    );
    assert!(
        script.hear(&data("198.51.100.8:9000", b"x")).is_none(),
        "no permission"
    );
    let no_peer = Writer::new(Class::Indication, method::DATA, [1; 12])
        .raw(attr::DATA, b"x")
        .finish();
    assert!(script.hear(&no_peer).is_none());
    let no_data = Writer::new(Class::Indication, method::DATA, [1; 12])
        .xor_address(attr::XOR_PEER_ADDRESS, address(PEER));
    assert!(script.hear(&no_data.finish()).is_none());
    assert_eq!(
        (
            script.client.counters().stranger_data,
            script.client.counters().malformed
        ),
        (1, 2)
    );
    let number = script.bound(PEER);
    let on = |number: u16| [&number.to_be_bytes()[..], &[0, 1, 7]].concat();
    assert_eq!(
        script.hear(&on(number)),
        Some(Received {
            peer: address(PEER),
            payload: 4..5
        })
    );
    for other in [number + 1, 0x4FFF, 0x7FFF, 0x3FFF, 0x8000, 0xFFFF] {
        assert!(script.hear(&on(other)).is_none(), "{other:x}");
    }
    // T15: the channel stands, its permission does not
    script.client.forget(address(PEER).ip());
    script.pass(secs(301));
    assert!(script.hear(&on(number)).is_none());
    assert!(script.hear(&data(PEER, b"x")).is_none());
}

// RFC 8656 §11.6: ICMP, only about permitted peers
#[test]
fn icmp_about_peers() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    let icmp = |peer: &str| {
        let w = Writer::new(Class::Indication, method::DATA, [1; 12])
            .xor_address(attr::XOR_PEER_ADDRESS, address(peer));
        w.raw(attr::ICMP, &[0, 0, 3, 4, 0, 0, 5, 120]).finish()
    };
    script.hear(&icmp(PEER));
    script.hear(&icmp("198.51.100.8:1"));
    let error = IcmpError {
        kind: 3,
        code: 4,
        data: 1400,
        peer: address(PEER),
    };
    assert_eq!(script.events(), [Event::PeerUnreachable(error)]);
}

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

// T27: quotes around the realm are not part of the key, and go back as they came
#[test]
fn quoted_realms() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    let challenge = Writer::error(method::ALLOCATE, asked.id(), 401)
        .raw(attr::REALM, b"\"realm\"\0")
        .raw(attr::NONCE, b"n");
    script.hear(&challenge.finish());
    let asked = script.one(method::ALLOCATE);
    assert_eq!(asked.message().raw(attr::REALM), Some(&b"\"realm\"\0"[..]));
    assert!(script.key.verifies(Mac::Sha1, &asked.message()));
}

// T22, T23, T24: strings beyond their limits are not answered; those at the limit are
#[test]
fn long_strings() {
    for (realm, nonce, heard) in [
        ("\u{20AC}".repeat(127), "n".repeat(127), true),
        ("r".repeat(128), "n".into(), false),
        ("r".into(), "n".repeat(128), false),
        ("r".into(), "\u{1F600}".repeat(127), true),
    ] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        let asked = script.one(method::ALLOCATE);
        let answer = Writer::error(method::ALLOCATE, asked.id(), 401);
        script.hear(
            &answer
                .raw(attr::REALM, realm.as_bytes())
                .raw(attr::NONCE, nonce.as_bytes())
                .finish(),
        );
        assert_eq!(script.asked().len(), usize::from(heard));
    }
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

// T38: what is refreshed when
#[test]
fn everything_is_kept_up() {
    let mut script = Script::ready(config());
    let number = script.bound(PEER);
    script.start = script.now;
    let (mut refreshes, mut permissions, mut channels, mut keepalives) =
        (vec![], vec![], vec![], vec![]);
    while let Some(ms) = script.step() {
        if ms > 1_200_000 {
            break;
        }
        let at = ms / 1000;
        for bytes in script.sent() {
            let asked = Asked(bytes);
            match (asked.message().class(), asked.method()) {
                (Class::Indication, method::BINDING) => keepalives.push(at),
                (_, method::REFRESH) => refreshes.push(at),
                (_, method::CREATE_PERMISSION) => permissions.push(at),
                (_, method::CHANNEL_BIND) => {
                    assert_eq!(asked.channel(), number);
                    channels.push(at);
                }
                other => panic!("{other:?}"),
            }
            if asked.message().class() == Class::Request {
                script.succeed(&asked, |w| w.number(attr::LIFETIME, 600));
            }
        }
    }
    assert_eq!(refreshes, [540, 1080]);
    assert_eq!(channels, [540, 1080]);
    // a ChannelBind renews the permission too
    assert_eq!(permissions, [240, 480, 780, 1020]);
    assert_eq!(keepalives[..3], [15, 30, 45]);
    assert!(
        keepalives.windows(2).all(|w| w[1] - w[0] <= 30),
        "{keepalives:?}"
    );
}

// T39: unsigned and wrongly signed answers do not count, the request goes on
#[test]
fn answers_must_be_signed() {
    for strict in [true, false] {
        let mut script = Script::new(Config {
            require_integrity: strict,
            ..config()
        });
        script.client.start(script.now).unwrap();
        script.login();
        let asked = script.one(method::ALLOCATE);
        let success = || {
            Writer::new(Class::Success, method::ALLOCATE, asked.id())
                .xor_address(attr::XOR_RELAYED_ADDRESS, address(RELAY))
                .number(attr::LIFETIME, 600)
        };
        script.hear(&success().finish());
        script.hear(
            &success()
                .sign(&Key::from_bytes(b"wrong"), Mac::Sha1)
                .finish(),
        );
        script.hear(
            &Writer::error(method::ALLOCATE, asked.id(), 403)
                .sign(&Key::from_bytes(b"wrong"), Mac::Sha1)
                .finish(),
        );
        assert_eq!(script.events(), [], "never came");
        assert_eq!(script.client.counters().bad_integrity, 3);
        script.hear(&Writer::error(method::ALLOCATE, asked.id(), 403).finish());
        assert_eq!(
            script.events().len(),
            usize::from(!strict),
            "an unsigned refusal"
        );
        if strict {
            script.hear(&success().sign(&script.key.clone(), Mac::Sha1).finish());
            assert!(matches!(script.events()[..], [Event::Allocated { .. }]));
        }
    }
}

// 401 and 438: wrong passwords end it, fresh nonces are taken, but not for ever
#[test]
fn challenges() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    script.login();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, "another"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "the password is wrong"
    );
    let mut script = Script::ready(config());
    script.client.permit(script.now, address(PEER).ip());
    for nonce in ["b", "c", "d"] {
        let asked = script.one(method::CREATE_PERMISSION);
        script.hear(&Script::challenge(&asked, 438, nonce));
    }
    let asked = script.one(method::CREATE_PERMISSION);
    assert_eq!(asked.message().raw(attr::NONCE), Some(&b"d"[..]));
    script.hear(&Script::challenge(&asked, 438, "e"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "it never has enough"
    );
    let mut script = Script::new(Config {
        credentials: None,
        ..config()
    });
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, "n"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "there are none"
    );
}

// T44: the cookie promises algorithms; an answer without them is somebody else's
#[test]
fn bidding_down_is_not_heard() {
    let cookie = "obMatJos2wAAAnonce";
    let both = [0, 2, 0, 0, 0, 1, 0, 0];
    let mut script = Script::new(Config {
        hide_name: true,
        ..config()
    });
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, cookie));
    assert!(script.asked().is_empty());
    assert_eq!(script.client.counters().bad_integrity, 1);
    let challenge = |asked: &Asked, code, nonce: &str, list: &[u8]| {
        Writer::error(asked.method(), asked.id(), code)
            .raw(attr::REALM, b"realm")
            .raw(attr::NONCE, nonce.as_bytes())
            .raw(attr::PASSWORD_ALGORITHMS, list)
            .finish()
    };
    script.hear(&challenge(&asked, 401, cookie, &[0, 9, 0, 0]));
    assert!(script.asked().is_empty(), "none that we know");
    script.hear(&challenge(&asked, 401, cookie, &both));
    let asked = script.one(method::ALLOCATE);
    let message = asked.message();
    assert_eq!(message.raw(attr::PASSWORD_ALGORITHMS), Some(&both[..]));
    assert_eq!(
        message.raw(attr::PASSWORD_ALGORITHM),
        Some(&[0, 2, 0, 0][..])
    );
    assert!(message.has(attr::USERHASH) && !message.has(attr::USERNAME));
    assert!(
        Key::long_term(KeyDigest::Sha256, "alice", "realm", "secret")
            .unwrap()
            .verifies(Mac::Sha256, &message)
    );
    // what was offered is not taken back with a nonce without the cookie
    script.hear(&Script::challenge(&asked, 438, "plain"));
    assert!(script.asked().is_empty() && script.events().is_empty());
}

// T40: a permission and a channel without data
#[test]
fn permissions_and_channels_without_data() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    assert!(script.client.bind(script.now, address("198.51.100.9:1")));
    let asked = script.one(method::CHANNEL_BIND);
    script.succeed(&asked, |w| w);
    let peer = address("198.51.100.9:1");
    let events = script.events();
    assert_eq!(
        events,
        [Event::Permitted(peer.ip()), Event::Bound(peer)],
        "it brings its permission"
    );
    // refused for its port: the address may still be let in
    assert!(script.client.bind(script.now, address("198.51.100.10:1")));
    let asked = script.one(method::CHANNEL_BIND);
    script.refuse(&asked, 403, |w| w);
    script.one(method::CREATE_PERMISSION);
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

// At most ten requests at a time, the others follow
#[test]
fn ten_requests_at_a_time() {
    let mut script = Script::ready(config());
    for i in 1..=25 {
        assert!(
            script
                .client
                .permit(script.now, format!("198.51.100.{i}").parse().unwrap())
        );
    }
    let mut waves = vec![];
    loop {
        let asked = script.asked();
        if asked.is_empty() {
            break;
        }
        waves.push(asked.len());
        asked.iter().for_each(|a| script.succeed(a, |w| w));
    }
    assert_eq!(waves, [10, 10, 5]);
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

// No log line or error holds a password
#[test]
fn passwords_are_not_printed() {
    let text = format!("{:?}", config());
    assert!(text.contains("alice") && !text.contains("secret"), "{text}");
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

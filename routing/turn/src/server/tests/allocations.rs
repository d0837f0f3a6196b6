//! Allocate and Refresh.

use super::*;
use std::collections::HashSet;

// The plain course: 401, then a relay, its answer's attributes, idempotence
#[test]
fn an_allocation_is_made_once() {
    let mut lab = Lab::new(config());
    let from = client(1000);
    let writer = udp(Writer::new(Class::Request, method::ALLOCATE, lab.id()));
    let bytes = lab.sign(&from, writer);
    let first = lab.raw(&from, &bytes).unwrap();
    assert_eq!((first.code(), first.lifetime()), (0, 600));
    let relayed = first.relayed();
    assert_eq!(relayed.len(), 1);
    assert!(relayed[0].ip() == address(PEER).ip() || relayed[0].ip().to_string() == "203.0.113.1");
    assert_eq!(
        first.message().xor_address(attr::XOR_MAPPED_ADDRESS),
        Ok(Some(from.client))
    );
    assert!(
        !first.message().has(attr::SOFTWARE),
        "SOFTWARE is off (T25)"
    );
    // the same request again gets the same answer; another one 437
    lab.pass(5);
    let again = lab.raw(&from, &bytes).unwrap();
    assert_eq!(
        (again.code(), again.relayed(), again.lifetime()),
        (0, relayed, 595)
    );
    assert_eq!(lab.allocate(&from).code(), 437);
    assert_eq!(lab.server.allocations(), 1);
}

// T25
#[test]
fn software_is_sent_when_set() {
    let mut lab = Lab::new(Config {
        software: "anode".into(),
        ..config()
    });
    let answer = lab.allocate(&client(1));
    assert_eq!(answer.message().text(Text::Software), Ok(Some("anode")));
}

// T20: random ports of the range, none below 49152, no sequence
#[test]
fn ports_are_random() {
    let bounds = Bounds {
        refusals_per_source: 1000,
        ..Bounds::default()
    };
    let mut lab = Lab::new(Config { bounds, ..config() });
    let ports: Vec<u16> = (1..=300)
        .map(|port| {
            lab.next_id = 0;
            lab.allocate(&client(port)).relayed()[0].port()
        })
        .collect();
    assert!(ports.iter().all(|p| *p >= 49152));
    assert_eq!(
        ports.iter().collect::<HashSet<_>>().len(),
        300,
        "no port twice"
    );
    let neighbours = ports
        .windows(2)
        .filter(|w| w[0].abs_diff(w[1]) <= 2)
        .count();
    assert!(
        neighbours < 5,
        "{neighbours} of 299 steps look like a sequence"
    );
    let upper = ports.iter().filter(|p| **p >= 57344).count();
    assert!(
        (100..200).contains(&upper),
        "{upper} of 300 in the upper half"
    );
}

// T2: every address is used, pairs stay on one
#[test]
fn several_relay_addresses() {
    let mut lab = Lab::new(Config {
        relays: vec![
            relay_address("203.0.113.1"),
            relay_address("203.0.113.2"),
            relay_address("2001:db8:1::1"),
        ],
        ..config()
    });
    let mut used = HashSet::new();
    for port in 1..10 {
        let answer = lab.ask(&client(port), method::ALLOCATE, |w| {
            udp(w).raw(attr::EVEN_PORT, &[0x80])
        });
        used.insert(answer.relayed()[0].ip());
        let token = answer
            .message()
            .raw(attr::RESERVATION_TOKEN)
            .unwrap()
            .to_vec();
        let other = lab.ask(&client(100 + port), method::ALLOCATE, |w| {
            udp(w).raw(attr::RESERVATION_TOKEN, &token)
        });
        let (even, odd) = (answer.relayed()[0], other.relayed()[0]);
        assert_eq!(
            (even.port() % 2, odd),
            (0, SocketAddr::new(even.ip(), even.port() + 1))
        );
    }
    assert_eq!(used.len(), 2);
}

// Reservations: held 30 s, for their user, once
#[test]
fn reservations_expire_and_have_an_owner() {
    let mut lab = Lab::new(config());
    let pair = |lab: &mut Lab, port| {
        let answer = lab.ask(&client(port), method::ALLOCATE, |w| {
            udp(w).raw(attr::EVEN_PORT, &[0x80])
        });
        answer
            .message()
            .raw(attr::RESERVATION_TOKEN)
            .unwrap()
            .to_vec()
    };
    let take = |lab: &mut Lab, port, token: &[u8]| {
        lab.ask(&client(port), method::ALLOCATE, |w| {
            udp(w).raw(attr::RESERVATION_TOKEN, token)
        })
        .code()
    };
    let token = pair(&mut lab, 1);
    lab.pass(29);
    lab.user = "bob";
    assert_eq!(take(&mut lab, 2, &token), 508, "another user's");
    lab.user = "alice";
    assert_eq!(take(&mut lab, 3, &token), 0);
    assert_eq!(take(&mut lab, 4, &token), 508, "used");
    let token = pair(&mut lab, 5);
    lab.pass(30);
    assert!(
        lab.commands
            .iter()
            .any(|c| matches!(c, Command::CloseReserved { .. }))
    );
    assert_eq!(take(&mut lab, 6, &token), 508, "expired");
    assert_eq!(take(&mut lab, 7, &[1; 8]), 508, "never given");
}

// A socket that cannot be had: another port, then 508, and the quota is free again
#[test]
fn busy_ports_are_tried_around() {
    let mut lab = Lab::new(Config {
        quota: Quota {
            allocations_per_user: 1,
            ..Quota::default()
        },
        ..config()
    });
    lab.open = |address| {
        if address.port() % 4 == 0 {
            Ok(())
        } else {
            Err(OpenError::InUse)
        }
    };
    assert_eq!(lab.allocate(&client(1)).relayed()[0].port() % 4, 0);
    assert_eq!(
        lab.ask(&client(1), method::REFRESH, |w| w.number(attr::LIFETIME, 0))
            .code(),
        0
    );
    lab.open = |_| Err(OpenError::InUse);
    assert_eq!(lab.allocate(&client(2)).code(), 508);
    lab.open = |_| Err(OpenError::Failed);
    assert_eq!(lab.allocate(&client(3)).code(), 508);
    lab.open = |_| Ok(());
    assert_eq!(lab.allocate(&client(4)).code(), 0);
}

// T3, T19: 486 by user name, freed at once by deletion and by expiry
#[test]
fn the_quota_is_per_user() {
    let mut lab = Lab::new(Config {
        quota: Quota {
            allocations_per_user: 5,
            allocations: 7,
            ..Quota::default()
        },
        ..config()
    });
    for port in 1..=5 {
        assert_eq!(lab.allocate(&client(port)).code(), 0);
    }
    assert_eq!(lab.allocate(&client(6)).code(), 486);
    lab.user = "bob";
    assert_eq!(
        lab.allocate(&client(7)).code(),
        0,
        "by name, not by address"
    );
    assert_eq!(lab.allocate(&client(8)).code(), 0);
    assert_eq!(lab.allocate(&client(9)).code(), 508, "the server is full");
    lab.user = "alice";
    assert_eq!(
        lab.ask(&client(1), method::REFRESH, |w| w.number(attr::LIFETIME, 0))
            .code(),
        0
    );
    assert_eq!(lab.allocate(&client(6)).code(), 0, "freed at once");
    lab.pass(600);
    assert_eq!(lab.server.allocations(), 0);
    for port in 11..=15 {
        lab.next_id = 0;
        assert_eq!(lab.allocate(&client(port)).code(), 0);
    }
}

// RFC 8656 §7.2, §8.2: lifetimes
#[test]
fn lifetimes_are_granted_and_end() {
    let mut lab = Lab::new(config());
    let from = client(1);
    for (asked, granted) in [(1_u32, 600), (600, 600), (1800, 1800), (99_999, 3600)] {
        let answer = lab.ask(&from, method::ALLOCATE, |w| {
            udp(w).number(attr::LIFETIME, asked)
        });
        assert_eq!(answer.lifetime(), granted, "asked for {asked}");
        assert_eq!(
            lab.ask(&from, method::REFRESH, |w| w.number(attr::LIFETIME, 0))
                .lifetime(),
            0
        );
    }
    assert_eq!(lab.ask(&from, method::REFRESH, |w| w).code(), 437, "gone");
    let relay = lab.allocate(&from).relayed()[0];
    lab.pass(590);
    assert_eq!(lab.ask(&from, method::REFRESH, |w| w).lifetime(), 600);
    lab.pass(599);
    assert_eq!(lab.server.allocations(), 1);
    lab.pass(1);
    assert_eq!(lab.server.allocations(), 0);
    let closed = Command::CloseRelay {
        relay: lab.relays[&relay],
    };
    assert!(lab.commands.contains(&closed));
    assert!(lab.relayed(relay, PEER, 1).is_none());
}

// RFC 8656: families; the draft's number too
#[test]
fn families() {
    let mut lab = Lab::new(config());
    let kind = |answer: &Answer| {
        answer
            .relayed()
            .iter()
            .map(SocketAddr::is_ipv6)
            .collect::<Vec<_>>()
    };
    let v6 = lab.ask(&client(1), method::ALLOCATE, |w| {
        udp(w).raw(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    assert_eq!(kind(&v6), [true]);
    for (port, number) in [
        (2, attr::ADDITIONAL_ADDRESS_FAMILY),
        (3, attr::ADDITIONAL_ADDRESS_FAMILY_DRAFT),
    ] {
        let both = lab.ask(&client(port), method::ALLOCATE, |w| {
            udp(w).raw(number, &[2, 0, 0, 0])
        });
        assert_eq!(kind(&both), [false, true]);
    }
    // one family refreshed away, the other stays
    let one = lab.ask(&client(2), method::REFRESH, |w| {
        w.number(attr::LIFETIME, 0)
            .raw(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
    });
    assert_eq!((one.code(), lab.server.allocations()), (0, 3));
    assert_eq!(
        lab.permit(&client(2), &[PEER]),
        443,
        "no IPv4 relay any more"
    );
    assert_eq!(lab.permit(&client(2), &["[2001:db8:2::1]:1"]), 0);
    let gone = lab.ask(&client(2), method::REFRESH, |w| {
        w.raw(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
    });
    assert_eq!(gone.code(), 443);
    // a server without IPv6
    let mut lab = Lab::new(Config {
        relays: vec![relay_address("203.0.113.1")],
        ..config()
    });
    let v6 = lab.ask(&client(1), method::ALLOCATE, |w| {
        udp(w).raw(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    assert_eq!(v6.code(), 440);
    let both = lab.ask(&client(2), method::ALLOCATE, |w| {
        udp(w).raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    assert_eq!(kind(&both), [false]);
    assert_eq!(
        both.message().raw(attr::ADDRESS_ERROR_CODE).unwrap()[..4],
        [2, 0, 4, 40]
    );
}

// RFC 8656 §7.2: what cannot be together, and what cannot be
#[test]
fn allocate_is_refused_with_the_right_code() {
    let mut lab = Lab::new(Config {
        dont_fragment: false,
        ..config()
    });
    let mut port = 0;
    let mut code = |build: &dyn Fn(Writer) -> Writer| {
        port += 1;
        lab.ask(&client(port), method::ALLOCATE, build).code()
    };
    let token = |w: Writer| w.raw(attr::RESERVATION_TOKEN, &[1; 8]);
    let family = |w: Writer, f| w.raw(attr::REQUESTED_ADDRESS_FAMILY, &[f, 0, 0, 0]);
    let both = |w: Writer| w.raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(code(&|w| w), 400, "no transport");
    assert_eq!(
        code(&|w| w.raw(attr::REQUESTED_TRANSPORT, &[17])),
        400,
        "a short one"
    );
    assert_eq!(
        code(&|w| w.raw(attr::REQUESTED_TRANSPORT, &[132, 0, 0, 0])),
        442
    );
    assert_eq!(code(&tcp), 400, "TCP over UDP (T9)");
    assert_eq!(code(&|w| token(udp(w)).raw(attr::EVEN_PORT, &[0])), 400);
    assert_eq!(code(&|w| family(token(udp(w)), 1)), 400);
    assert_eq!(code(&|w| both(token(udp(w)))), 400);
    assert_eq!(code(&|w| both(family(udp(w), 1))), 400);
    assert_eq!(code(&|w| both(udp(w)).raw(attr::EVEN_PORT, &[0x80])), 400);
    assert_eq!(
        code(&|w| udp(w).raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0])),
        400
    );
    assert_eq!(code(&|w| family(udp(w), 9)), 440);
    assert_eq!(code(&|w| udp(w).raw(attr::LIFETIME, &[1])), 400);
    assert_eq!(code(&|w| udp(w).raw(0x7F00, b"?")), 420);
    assert_eq!(
        code(&|w| udp(w).raw(0xFF00, b"?")),
        0,
        "optional ones are ignored"
    );
    // T17: a server that cannot says 420 and lists 0x001A
    let answer = lab.ask(&client(99), method::ALLOCATE, |w| {
        udp(w).raw(attr::DONT_FRAGMENT, &[])
    });
    assert_eq!(
        (
            answer.code(),
            answer.message().raw(attr::UNKNOWN_ATTRIBUTES)
        ),
        (420, Some(&[0, 0x1A][..]))
    );
    let mut able = Lab::new(config());
    assert_eq!(
        able.ask(&client(1), method::ALLOCATE, |w| udp(w)
            .raw(attr::DONT_FRAGMENT, &[]))
            .code(),
        0
    );
}

// T29: 300 by configuration, in the family and security asked
#[test]
fn clients_are_sent_elsewhere() {
    let alternate = Alternate {
        plain: vec![address("[2001:db8::9]:3478"), address("198.51.100.9:3478")],
        secure: vec![address("198.51.100.9:5349")],
        domain: Some("turn.example.net".into()),
        when: AlternateWhen::Always,
    };
    let mut lab = Lab::new(Config {
        alternate: alternate.clone(),
        ..config()
    });
    for (from, server) in [
        (client(1), "198.51.100.9:3478"),
        (over(Transport::Tls, 2), "198.51.100.9:5349"),
    ] {
        let answer = lab.allocate(&from);
        assert_eq!(answer.code(), 300);
        assert_eq!(
            answer.message().address(attr::ALTERNATE_SERVER),
            Ok(Some(address(server)))
        );
        assert_eq!(
            answer.message().raw(attr::ALTERNATE_DOMAIN),
            Some(&b"turn.example.net"[..])
        );
    }
    // only when full
    let quota = Quota {
        allocations: 1,
        ..Quota::default()
    };
    let alternate = Alternate {
        when: AlternateWhen::Full,
        ..alternate
    };
    let mut lab = Lab::new(Config {
        alternate,
        quota,
        ..config()
    });
    assert_eq!(lab.allocate(&client(1)).code(), 0);
    assert_eq!(lab.allocate(&client(2)).code(), 300);
}

// Drain: no new allocations, the old ones end when the time is over
#[test]
fn draining_ends() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.allocate(&client(1)).code(), 0);
    assert!(!lab.server.is_drained());
    lab.server.drain(lab.now);
    assert_eq!(lab.allocate(&client(2)).code(), 508);
    assert_eq!(
        lab.ask(&client(1), method::REFRESH, |w| w).lifetime(),
        60,
        "not longer than the drain"
    );
    lab.pass(59);
    assert_eq!(lab.server.allocations(), 1);
    lab.pass(1);
    assert!(lab.server.is_drained());
}

// T4, T6: a new configuration while allocations live; a wrong one changes nothing
#[test]
fn reload_keeps_allocations() {
    let mut lab = Lab::new(config());
    let relay = lab.allocate(&client(1)).relayed()[0];
    assert_eq!(lab.permit(&client(1), &[PEER, "198.51.101.1:1"]), 0);
    assert_eq!(lab.bind(&client(1), 0x4000, "198.51.101.1:1"), 0);
    let mut stricter = config();
    stricter.policy.deny = vec!["198.51.101.0/24".parse().unwrap()];
    lab.server.reload(stricter).unwrap();
    assert!(lab.relayed(relay, PEER, 1).is_some(), "still there");
    assert!(
        lab.relayed(relay, "198.51.101.1:1", 1).is_none(),
        "refused now"
    );
    assert!(lab.channel(&client(1), 0x4000, b"x").is_none());
    assert_eq!(lab.permit(&client(1), &["198.51.101.1:1"]), 403);
    for wrong in [
        Config {
            realm: String::new(),
            ..config()
        },
        Config {
            realm: "\u{20AC}".repeat(128),
            ..config()
        },
        Config {
            relays: vec![],
            ..config()
        },
        Config {
            relays: vec![relay_address("0.0.0.0")],
            ..config()
        },
        Config {
            ports: 80..=65535,
            ..config()
        },
        Config {
            nonce_ttl: Duration::from_secs(7200),
            ..config()
        },
        Config {
            software: "s".repeat(128),
            ..config()
        },
    ] {
        assert!(lab.server.reload(wrong).is_err());
    }
    assert_eq!(lab.permit(&client(1), &[PEER]), 0);
}

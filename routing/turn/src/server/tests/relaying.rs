//! Permissions, channels and what is relayed.

use super::*;
use crate::frame::HEADROOM;

fn ready() -> (Lab, FiveTuple, SocketAddr) {
    let mut lab = Lab::new(config());
    let relay = lab.allocate(&client(1)).relayed()[0];
    (lab, client(1), relay)
}

// T7: what is relayed waits for nobody: another shard may hold every table that they share
#[test]
fn relaying_takes_no_lock() {
    let mut limited = config();
    (limited.quota.kbps, limited.quota.kbps_per_user) = (1_000_000, 1_000_000);
    let mut lab = Lab::new(limited);
    let from = client(1);
    let relay = lab.allocate(&from).relayed()[0];
    assert_eq!(lab.bind(&from, 0x4000, PEER), 0);
    let shared = Arc::clone(&lab.server.shared);
    let (done, is_done) = std::sync::mpsc::channel();
    let held = shared.hold();
    let relaying = std::thread::spawn(move || {
        for _ in 0..100 {
            assert!(lab.channel(&from, 0x4000, b"one").is_some());
            assert!(lab.send(&from, PEER, b"two").is_some());
            assert!(lab.relayed(relay, PEER, 100).is_some());
            assert!(lab.relayed(relay, "198.51.100.7:1", 100).is_some());
        }
        done.send(()).unwrap();
    });
    let waited = is_done.recv_timeout(Duration::from_secs(30));
    drop(held);
    relaying.join().unwrap();
    assert_eq!(waited, Ok(()));
}

// T11: 1..n addresses, all or nothing, ports ignored
#[test]
fn permissions_are_all_or_nothing() {
    let (mut lab, from, relay) = ready();
    assert_eq!(lab.permit(&from, &[]), 400);
    assert_eq!(
        lab.permit(&from, &["198.51.100.1:1", "[2001:db8::1]:1"]),
        443
    );
    assert_eq!(lab.permit(&from, &["198.51.100.1:1", "127.0.0.1:1"]), 403);
    let bad = lab.ask(&from, method::CREATE_PERMISSION, |w| {
        w.xor_address(attr::XOR_PEER_ADDRESS, address("198.51.100.1:1"))
            .raw(attr::XOR_PEER_ADDRESS, &[0, 9, 0, 0])
    });
    assert_eq!(bad.code(), 400);
    assert!(
        lab.relayed(relay, "198.51.100.1:1", 1).is_none(),
        "nothing is installed by a refused request"
    );
    assert_eq!(lab.permit(&from, &["198.51.100.1:1", "198.51.100.2:1"]), 0);
    for peer in ["198.51.100.1:1", "198.51.100.1:999", "198.51.100.2:5"] {
        assert!(lab.relayed(relay, peer, 1).is_some(), "{peer}");
    }
}

// T11: exactly 300 s, refreshed by CreatePermission and ChannelBind only
#[test]
fn permissions_last_five_minutes() {
    let (mut lab, from, relay) = ready();
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    lab.pass(299);
    assert!(lab.send(&from, PEER, b"x").is_some() && lab.relayed(relay, PEER, 1).is_some());
    lab.ask(&from, method::REFRESH, |w| w);
    lab.pass(1);
    assert!(
        lab.send(&from, PEER, b"x").is_none(),
        "neither data nor Refresh keep it"
    );
    assert!(lab.relayed(relay, PEER, 1).is_none());
    assert_eq!(lab.bind(&from, 0x4000, PEER), 0);
    lab.pass(299);
    assert!(lab.relayed(relay, PEER, 1).is_some());
    assert_eq!(lab.server.counters().dropped_no_permission, 2);
}

// T16: numbers, and one channel for one peer both ways
#[test]
fn channel_numbers() {
    let (mut lab, from, _) = ready();
    for (number, code) in [
        (0x3FFF, 400),
        (0x4000, 0),
        (0x4FFF, 0),
        (0x5000, 0),
        (0x7FFF, 0),
        (0x8000, 400),
        (0xFFFF, 400),
    ] {
        assert_eq!(
            lab.bind(&from, number, &format!("198.51.100.1:{}", number.max(1))),
            code,
            "{number:x}"
        );
    }
    assert_eq!(
        lab.bind(&from, 0x4000, "198.51.100.9:9"),
        400,
        "the number has another peer"
    );
    assert_eq!(
        lab.bind(&from, 0x4001, &format!("198.51.100.1:{}", 0x4000)),
        400,
        "the peer has another number"
    );
    assert_eq!(
        lab.bind(&from, 0x4000, &format!("198.51.100.1:{}", 0x4000)),
        0,
        "again is fine"
    );
    assert_eq!(lab.bind(&from, 0x4002, "[2001:db8::1]:1"), 443);
    assert_eq!(lab.bind(&from, 0x4002, "10.0.0.1:1"), 403);
    assert_eq!(
        lab.ask(&from, method::CHANNEL_BIND, |w| w
            .raw(attr::CHANNEL_NUMBER, &[0x40, 9, 0, 0]))
            .code(),
        400
    );
    let none = lab.ask(&from, method::CHANNEL_BIND, |w| {
        w.xor_address(attr::XOR_PEER_ADDRESS, address(PEER))
    });
    assert_eq!(none.code(), 400);
    let mut strict = Lab::new(Config {
        old_channels: false,
        ..config()
    });
    strict.allocate(&from);
    assert_eq!(
        (
            strict.bind(&from, 0x4FFF, PEER),
            strict.bind(&from, 0x5000, "198.51.100.1:1")
        ),
        (0, 400)
    );
}

// T13, T16: ChannelData both ways, padding, empty datagrams, unbound channels
#[test]
fn channel_data_is_relayed() {
    let (mut lab, from, relay) = ready();
    assert!(lab.channel(&from, 0x4000, b"early").is_none());
    assert_eq!(lab.bind(&from, 0x4000, PEER), 0);
    for size in [0, 1, 101, 203, 1200] {
        let payload = vec![7; size];
        let out = lab.channel(&from, 0x4000, &payload).unwrap();
        assert_eq!(
            (out.peer, out.payload, out.dont_fragment),
            (address(PEER), 4..4 + size, false)
        );
        let back = lab.relayed(relay, PEER, size).unwrap();
        assert_eq!(
            (back.client, back.header.total(size)),
            (from, 4 + size),
            "no padding over UDP"
        );
    }
    assert_eq!(
        lab.server.handle_client(lab.now, &from, b"\x40\0\0\x05abc"),
        None,
        "shorter than its length"
    );
    assert!(
        lab.server
            .handle_client(lab.now, &from, b"\x40\0\0\x03abc\0")
            .is_some(),
        "padded, although it need not"
    );
    assert_eq!(
        lab.server.handle_client(lab.now, &from, b"\x80\0\0\0"),
        None
    );
    assert!(lab.channel(&from, 0x4001, b"x").is_none(), "unbound");
    assert!(
        lab.channel(&client(2), 0x4000, b"x").is_none(),
        "somebody else"
    );
    // another port of the peer has no channel: Data
    let data = lab.relayed(relay, "198.51.100.7:9001", 3).unwrap();
    let mut buffer = [9; HEADROOM + 6];
    let range = data
        .header
        .wrap(&mut buffer, HEADROOM..HEADROOM + 3)
        .unwrap();
    let message = Message::parse(&buffer[range]).unwrap();
    assert_eq!(
        (message.class(), message.method()),
        (Class::Indication, method::DATA)
    );
    assert_eq!(
        message.xor_address(attr::XOR_PEER_ADDRESS),
        Ok(Some(address("198.51.100.7:9001")))
    );
    assert_eq!(message.raw(attr::DATA), Some(&[9; 3][..]));
    // 600 s
    lab.pass(299);
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    lab.ask(&from, method::REFRESH, |w| w.number(attr::LIFETIME, 3600));
    lab.pass(300);
    assert!(lab.channel(&from, 0x4000, b"x").is_some());
    lab.pass(1);
    assert!(lab.channel(&from, 0x4000, b"x").is_none(), "expired");
    // T13: a stream is padded
    let stream = over(Transport::Tcp, 5);
    let relay = lab.allocate(&stream).relayed()[0];
    assert_eq!(lab.bind(&stream, 0x4000, PEER), 0);
    assert_eq!(
        lab.relayed(relay, PEER, 101).unwrap().header.total(101),
        108
    );
}

// Send: permission, attributes, DF (T17)
#[test]
fn send_indications_are_relayed() {
    let (mut lab, from, _) = ready();
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    let out = lab.send(&from, PEER, b"hello").unwrap();
    assert_eq!((out.peer, out.dont_fragment), (address(PEER), false));
    let bytes = send_indication(PEER, b"hello", |w| w.raw(attr::DONT_FRAGMENT, &[]));
    let out = lab.server.handle_client(lab.now, &from, &bytes).unwrap();
    assert!(out.dont_fragment);
    assert_eq!(&bytes[out.payload], b"hello");
    assert!(
        lab.send(&from, "198.51.100.8:1", b"x").is_none(),
        "no permission"
    );
    let unknown = send_indication(PEER, b"x", |w| w.raw(0x7F00, b""));
    assert!(lab.server.handle_client(lab.now, &from, &unknown).is_none());
    let empty = Writer::new(Class::Indication, method::SEND, [1; 12])
        .raw(attr::DATA, b"x")
        .finish();
    assert!(
        lab.server.handle_client(lab.now, &from, &empty).is_none(),
        "no peer"
    );
    assert!(lab.drain().is_empty(), "indications are never answered");
}

// S33: every request type refuses every notation; relay-to-relay is fine, the listening port never
#[test]
fn forbidden_peers() {
    let mut lab = Lab::new(config());
    let from = client(1);
    lab.ask(&from, method::ALLOCATE, |w| {
        udp(w).raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    for peer in [
        "0.0.0.0:1",
        "127.0.0.1:1",
        "169.254.1.1:1",
        "224.0.0.1:1",
        "10.0.0.1:1",
        "[::]:1",
        "[::1]:1",
        "[fe80::1]:1",
        "[::ffff:127.0.0.1]:1",
        "[64:ff9b::7f00:1]:1",
        "[2002:7f00:1::]:1",
        "[fda0::1]:1",
        "[ff02::1]:1",
        "[::ffff:203.0.113.1]:50000",
    ] {
        assert_eq!(lab.permit(&from, &[peer]), 403, "CreatePermission {peer}");
        assert_eq!(lab.bind(&from, 0x4000, peer), 403, "ChannelBind {peer}");
        assert!(lab.send(&from, peer, b"x").is_none(), "Send {peer}");
    }
    assert_eq!(
        lab.permit(&from, &["203.0.113.1:1"]),
        0,
        "the relays' own address"
    );
    assert!(
        lab.send(&from, "203.0.113.1:50000", b"x").is_some(),
        "relay to relay"
    );
    assert!(
        lab.send(&from, "203.0.113.1:3478", b"x").is_none(),
        "never to the listening port"
    );
    assert!(lab.send(&from, "203.0.113.1:22", b"x").is_none());
    assert_eq!(lab.bind(&from, 0x4000, "203.0.113.1:3478"), 403);
    assert_eq!(lab.server.counters().dropped_policy, 2);
}

// T8: 50 kB/s, both ways together; what exceeds is dropped and counted
#[test]
fn bandwidth_is_held() {
    for quota in [
        Quota {
            kbps_per_allocation: 400,
            ..Quota::default()
        },
        Quota {
            kbps_per_user: 400,
            ..Quota::default()
        },
        Quota {
            kbps: 400,
            ..Quota::default()
        },
    ] {
        let mut lab = Lab::new(Config { quota, ..config() });
        let relay = lab.allocate(&client(1)).relayed()[0];
        assert_eq!(lab.bind(&client(1), 0x4000, PEER), 0);
        let mut passed = 0;
        for _ in 0..4000 {
            lab.now += Duration::from_millis(1);
            passed += usize::from(lab.channel(&client(1), 0x4000, &[0; 100]).is_some()) * 100;
            passed += usize::from(lab.relayed(relay, PEER, 100).is_some()) * 100;
        }
        assert!(
            (200_000..=213_000).contains(&passed),
            "{passed} bytes in 4 s at 50 kB/s"
        );
        assert!(lab.server.counters().dropped_rate > 5000);
    }
}

// RFC 8656 §11.5: ICMP errors reach the client
#[test]
fn icmp_is_forwarded() {
    let (mut lab, from, relay) = ready();
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    let error = |kind, peer: &str| IcmpError {
        kind,
        code: 4,
        data: 1400,
        peer: address(peer),
    };
    for (error, forwarded) in [
        (error(3, PEER), true),
        (error(11, PEER), true),
        (error(5, PEER), false),
        (error(3, "198.51.100.8:1"), false),
    ] {
        lab.server.handle_icmp(lab.now, lab.relays[&relay], &error);
        let messages = lab.drain();
        assert_eq!(messages.len(), usize::from(forwarded), "{error:?}");
        if let Some((to, answer)) = messages.first() {
            let message = answer.message();
            assert_eq!(
                (*to, message.method(), message.has(attr::DATA)),
                (from, method::DATA, false)
            );
            assert_eq!(
                message.raw(attr::ICMP),
                Some(&[0, 0, error.kind, 4, 0, 0, 5, 120][..])
            );
            assert_eq!(
                message.xor_address(attr::XOR_PEER_ADDRESS),
                Ok(Some(address(PEER)))
            );
        }
    }
}

// T11, T16: what was looked up for the last datagram holds no longer than what it was looked up from
#[test]
fn the_peer_last_talked_to_is_held_to_its_permission_and_to_the_policy() {
    let (mut lab, from, relay) = ready();
    let other = "198.51.100.77:7";
    assert_eq!(lab.bind(&from, 0x4000, PEER), 0);
    assert_eq!(lab.bind(&from, 0x4001, other), 0);
    let header = |lab: &mut Lab, peer| {
        let back = lab.relayed(relay, peer, 4)?;
        Some(back.header.bytes()[..2].to_vec())
    };
    for _ in 0..2 {
        for (channel, peer) in [(0x4000_u16, PEER), (0x4001, other)] {
            let out = lab.channel(&from, channel, b"x").unwrap();
            assert_eq!(out.peer, address(peer));
            assert_eq!(header(&mut lab, peer), Some(channel.to_be_bytes().to_vec()));
        }
    }
    // Another port of the same peer has no channel.
    assert_ne!(
        header(&mut lab, "198.51.100.77:8"),
        Some(vec![0x40, 1]),
        "an indication"
    );
    lab.pass(300);
    assert_eq!(lab.ask(&from, method::REFRESH, |w| w).code(), 0);
    assert!(lab.relayed(relay, other, 1).is_none(), "no permission");
    assert!(lab.channel(&from, 0x4001, b"x").is_some(), "still bound");
    assert_eq!(lab.permit(&from, &[other]), 0);
    assert_eq!(header(&mut lab, other), Some(vec![0x40, 1]));
    assert_eq!(lab.permit(&from, &[PEER, other]), 0);
    lab.pass(299);
    assert!(lab.channel(&from, 0x4001, b"x").is_some());
    lab.pass(1);
    assert!(lab.channel(&from, 0x4001, b"x").is_none(), "600 s");
    assert_eq!(lab.bind(&from, 0x4000, other), 0, "free again");
    assert_eq!(
        lab.channel(&from, 0x4000, b"x").unwrap().peer,
        address(other)
    );
    assert_eq!(header(&mut lab, other), Some(vec![0x40, 0]));
    let mut config = config();
    config.policy.deny = vec!["198.51.100.77/32".parse().unwrap()];
    lab.server.reload(config).unwrap();
    assert!(lab.channel(&from, 0x4000, b"x").is_none());
    assert!(lab.relayed(relay, other, 1).is_none());
}

//! Floods, forged sources, malformed attributes.

use super::*;
use proptest::prelude::*;

// At most four times the request, headers counted; the source's share; nothing kept
#[test]
fn strangers_get_little() {
    let mut lab = Lab::new(Config {
        software: "a rather long name of software".into(),
        ..config()
    });
    let mut answers = 0;
    for i in 0..20_000_u32 {
        let from = FiveTuple {
            client: SocketAddr::from(([192, 0, 2, (i % 4) as u8], i as u16)),
            ..client(1)
        };
        let request = match i % 3 {
            0 => Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish(),
            1 => udp(Writer::new(Class::Request, method::ALLOCATE, [1; 12])).finish(),
            _ => Writer::new(Class::Request, method::REFRESH, [1; 12])
                .sign(&Key::from_bytes(b"x"), Mac::Sha1)
                .finish(),
        };
        if let Some(answer) = lab.raw(&from, &request) {
            answers += 1;
            let (got, sent) = (answer.0.len() + 28, request.len() + 28);
            assert!(got <= 4 * sent, "{got} bytes for {sent}");
        }
    }
    assert_eq!(answers, 4 * 50, "each source has its second's worth");
    assert_eq!(lab.server.counters().dropped_refusals, 20_000 - 200);
    assert_eq!(
        (lab.server.allocations(), lab.server.deadline()),
        (0, None),
        "nothing is kept"
    );
    lab.now += Duration::from_secs(1);
    assert!(
        lab.raw(
            &client(1),
            &Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish()
        )
        .is_some()
    );
    // a realm too long for the smallest request: no answer rather than a large one
    let mut long = Lab::new(Config {
        realm: "r".repeat(127),
        users: Users::default(),
        ..config()
    });
    assert!(
        long.raw(
            &client(1),
            &Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish()
        )
        .is_none()
    );
    assert_eq!(long.server.counters().dropped_amplification, 1);
    let stream = over(Transport::Tcp, 1);
    assert!(
        long.raw(
            &stream,
            &Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish()
        )
        .is_some()
    );
}

// STUN: Binding, unknown attributes, RFC 3489
#[test]
fn binding() {
    let mut lab = Lab::new(config());
    for from in [
        client(77),
        FiveTuple {
            client: address("[2001:db8::5]:77"),
            ..client(1)
        },
    ] {
        let request = Writer::new(Class::Request, method::BINDING, [5; 12])
            .fingerprint()
            .finish();
        let answer = lab.raw(&from, &request).unwrap();
        assert_eq!(
            answer.message().xor_address(attr::XOR_MAPPED_ADDRESS),
            Ok(Some(from.client))
        );
        assert_eq!(answer.message().transaction(), [5; 12]);
        assert!(answer.message().has_fingerprint(), "as the request");
    }
    let unknown = Writer::new(Class::Request, method::BINDING, [5; 12])
        .raw(0x7777, b"")
        .finish();
    let answer = lab.raw(&client(1), &unknown).unwrap();
    assert_eq!(
        (
            answer.code(),
            answer.message().raw(attr::UNKNOWN_ATTRIBUTES)
        ),
        (420, Some(&[0x77, 0x77][..]))
    );
    let mut classic = vec![0, 1, 0, 0];
    classic.extend([9; 16]);
    let answer = lab.raw(&client(77), &classic).unwrap().0;
    assert_eq!(answer[..2], [1, 1]);
    assert_eq!(
        answer[4..20],
        [9; 16],
        "all 16 bytes are its transaction id"
    );
    assert_eq!(answer[20..], [0, 1, 0, 8, 0, 1, 0, 77, 192, 0, 2, 5]);
    let keepalive = Writer::new(Class::Indication, method::BINDING, [5; 12]).finish();
    assert_eq!(lab.raw(&client(1), &keepalive), None);
    let odd = Writer::new(Class::Request, 0x0FF, [5; 12]).finish();
    assert_eq!(lab.raw(&client(1), &odd).unwrap().code(), 400);
}

// Tables are bounded, with 508
#[test]
fn an_allocation_has_bounds() {
    let bounds = Bounds {
        permissions: 3,
        channels: 2,
        ..Bounds::default()
    };
    let mut lab = Lab::new(Config { bounds, ..config() });
    let from = client(1);
    lab.allocate(&from);
    let peers: Vec<String> = (1..9).map(|i| format!("198.51.100.{i}:1")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(lab.permit(&from, &peers[..4]), 508);
    assert_eq!(lab.permit(&from, &peers[..2]), 0);
    assert_eq!(
        (
            lab.bind(&from, 0x4000, peers[0]),
            lab.bind(&from, 0x4001, peers[1])
        ),
        (0, 0)
    );
    assert_eq!(lab.bind(&from, 0x4002, peers[2]), 508);
    assert_eq!(lab.permit(&from, &peers[3..4]), 0);
    assert_eq!(lab.permit(&from, &peers[4..5]), 508);
    lab.pass(300);
    assert_eq!(lab.permit(&from, &peers[4..7]), 0, "expired ones make room");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    // Any attributes in any request, signed by a user of ours: no panic, at most one answer, tables in step.
    #[test]
    fn signed_nonsense(
        method in 1_u16..14,
        attributes in proptest::collection::vec((0_usize..24, proptest::collection::vec(any::<u8>(), 0..24)), 0..8),
        stream in any::<bool>(),
    ) {
        const KINDS: [u16; 24] = [
            0x0D, 0x12, 0x13, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x20, 0x22, 0x2A, 0x0C, 0x8000, 0x8001, 0x8002, 0x8003,
            0x8004, 0x8022, 0x8023, 0x8032, 0x1D, 0x1E, 0x7F00, 0x09,
        ];
        let mut lab = Lab::new(config());
        let from = over(if stream { Transport::Tcp } else { Transport::Udp }, 1);
        if method % 2 == 0 {
            lab.allocate(&from);
        }
        let mut writer = Writer::new(Class::Request, method, [99; 12]);
        if method == 3 {
            writer = udp(writer);
        }
        for (kind, value) in &attributes {
            writer = writer.raw(KINDS[*kind], value);
        }
        let bytes = lab.sign(&from, writer);
        lab.server.handle_client(lab.now, &from, &bytes);
        prop_assert!(lab.drain().len() <= 1);
        // the same, cut and bent
        for at in 0..bytes.len() {
            lab.server.handle_client(lab.now, &from, &bytes[..at]);
            let mut bent = bytes.clone();
            bent[at] ^= 0x55;
            lab.server.handle_client(lab.now, &from, &bent);
            lab.drain();
        }
        prop_assert!(lab.server.allocations() <= 1);
        lab.pass(4000);
        prop_assert_eq!(lab.server.allocations(), 0);
        prop_assert_eq!(lab.server.shared.allocations(), 0);
        prop_assert!(lab.server.relays.is_empty() && lab.server.bound.is_empty() && lab.server.timers.is_empty());
    }
}

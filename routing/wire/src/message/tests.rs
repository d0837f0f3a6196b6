use super::*;
use crate::address::split_digit;
use crate::endpoint::any_endpoint;
use crate::vectors::{hex, identity, vector, vectors};
use crate::{Address, Endpoint, Packet, PeerId};
use proptest::prelude::*;
use std::net::Ipv6Addr;

fn emitted(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0xee];
    message.emit(&mut out);
    assert_eq!(out.remove(0), 0xee, "emit appends");
    assert_eq!(out.len(), message.body_len());
    out
}

fn body(name: &str) -> (u8, Vec<u8>) {
    let bytes = hex(&vector("packets", "name", name)["packet"]);
    let packet = Packet::new_checked(bytes).unwrap();
    (packet.kind(), packet.body().to_vec())
}

const LINKS: Links = Links {
    sender: 0x8001,
    receiver: 80,
};
const BACK: Links = Links {
    sender: 80,
    receiver: 0x8001,
};

/// The vectors' packets, as the messages that their descriptions say they are.
// A49 to A54, A56 to A66, D23, D27, D28, D31, D32
#[test]
fn vectors_hold_the_messages_they_are_said_to_hold() {
    let ack = encode_ack(0xffff_fffe, 1);
    let two = [encode_ack(0x1122_3345, 1), encode_ack(0x1122_3348, 3)].concat();
    let acks = |bytes| Acks::from_bytes(bytes).unwrap();
    let udp = |text: &str| Endpoint::Udp(text.parse().unwrap());
    let epi = |endpoint| Message::Epi {
        endpoint,
        nat_mode: 0,
        options: &[],
    };
    let cases = [
        (
            "PING full sender, short recipient, empty payload",
            Message::Ping(&[]),
        ),
        ("PING payload \"hello\"", Message::Ping(b"hello")),
        ("PONG short ids both", Message::Pong(b"hello")),
        ("PING both addresses full", Message::Ping(&[0; 16])),
        (
            "PING relayed twice: hop 2, MAC as at hop 0",
            Message::Ping(b"hello"),
        ),
        ("EPC_REQ", Message::EpcReq { id: 0x0102_0304 }),
        ("EPC", Message::Epc { id: 0x0102_0304 }),
        (
            "EPI unspecified endpoint, NAT-T mode 0, no options",
            epi(Endpoint::Unspecified),
        ),
        ("EPI UDP/IPv6 endpoint", epi(udp("[2001:db8::1]:8737"))),
        (
            "NAT_T mode 0 empty",
            Message::NatT {
                mode: 0,
                options: &[],
            },
        ),
        (
            "NETID_REQ unspecified",
            Message::NetidReq {
                id: 0xcafe_babe,
                endpoint: Endpoint::Unspecified,
            },
        ),
        (
            "NETID",
            Message::Netid {
                id: 0xcafe_babe,
                endpoint: udp("198.51.100.7:40000"),
            },
        ),
        (
            "DGRAM",
            Message::Dgram {
                source: 4660,
                destination: 7,
                payload: b"datagram",
            },
        ),
        (
            "ERROR 0x0004 relay recipient not reachable",
            Message::Error {
                code: error_code::UNREACHABLE,
                arguments: &[],
            },
        ),
        ("to self address (self agreement)", Message::Ping(&[])),
        (
            "presence EPI (LAN broadcast form)",
            epi(Endpoint::Unspecified),
        ),
    ];
    let streams = [
        (
            "S_OPEN alice->bob",
            StreamMessage::Open {
                links: LINKS,
                window: 64,
                isn: 0x1122_3344,
                flags: 0,
            },
        ),
        (
            "S_OPEN bob->alice (answer)",
            StreamMessage::Open {
                links: BACK,
                window: 32,
                isn: 0xffff_fffe,
                flags: 1,
            },
        ),
        (
            "S_ACK alice->bob of the answer",
            StreamMessage::Ack {
                links: LINKS,
                window: 64,
                acks: acks(&ack),
            },
        ),
        (
            "S_DATA alice->bob first",
            StreamMessage::Data {
                links: LINKS,
                sequence: 0x1122_3345,
                payload: b"GET",
            },
        ),
        (
            "S_DATA bob->alice, seq ffffffff then 00000000 (wrap)",
            StreamMessage::Data {
                links: BACK,
                sequence: 0,
                payload: b"two",
            },
        ),
        (
            "S_ACK bob->alice two ranges",
            StreamMessage::Ack {
                links: BACK,
                window: 31,
                acks: acks(&two),
            },
        ),
        (
            "S_DACK bob->alice with the added sequence number",
            StreamMessage::Dack {
                links: BACK,
                window: 31,
                acks: acks(&two[..5]),
                sequence: 0xffff_ffff,
                payload: b"OK",
            },
        ),
        (
            "S_CLOSE alice->bob reason 0",
            StreamMessage::Close {
                links: LINKS,
                flags: 0,
                reason: 0,
                initial: 0x1122_3344,
                sequence: 0x1122_3346,
            },
        ),
        (
            "S_CLOSE bob->alice, connection refused",
            StreamMessage::Close {
                links: Links {
                    sender: 81,
                    receiver: 0x8001,
                },
                flags: 0,
                reason: 1,
                initial: 0x1122_3344,
                sequence: 0x1122_3344,
            },
        ),
    ];
    assert_eq!(cases.len() + streams.len(), vectors("packets").len());
    let streams = streams.map(|(name, message)| (name, Message::Stream(message)));
    for (name, message) in cases.into_iter().chain(streams) {
        let (kind, body) = body(name);
        assert_eq!(Message::parse(kind, &body), Ok(message.clone()), "{name}");
        assert_eq!(message.kind(), kind, "{name}");
        assert_eq!(emitted(&message), body, "{name}");
    }
}

// A49, D17: a type that nobody defined
#[test]
fn unknown_types_are_refused() {
    let known = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24, 0x44, 0x46, 0x47,
    ];
    for kind in (0..=255).filter(|kind| !known.contains(kind)) {
        assert_eq!(
            Message::parse(kind, &[0; 64]),
            Err(WireError::MessageType(kind))
        );
        assert_eq!(
            StreamMessage::parse(kind, &[0; 64]),
            Err(WireError::MessageType(kind))
        );
    }
}

// S2: bodies of fixed size have that size
#[test]
fn bytes_behind_a_body_of_fixed_size_are_refused() {
    for name in [
        "EPC_REQ",
        "EPC",
        "NETID_REQ unspecified",
        "NETID",
        "S_OPEN alice->bob",
        "S_CLOSE alice->bob reason 0",
    ] {
        let (kind, mut body) = body(name);
        body.push(0);
        let error = Message::parse(kind, &body).unwrap_err();
        assert!(
            matches!(error, WireError::TrailingBytes { extra: 1, .. }),
            "{name}: {error}"
        );
    }
}

/// Messages that end in a payload become shorter ones; what cannot is an error that says how much is needed.
// S1, S2
#[test]
fn every_truncation_is_an_error_or_a_shorter_message() {
    let open_ended = [kind::PING, kind::PONG];
    for vector in vectors("packets") {
        let (kind, body) = body(vector["name"].as_str().unwrap());
        for short in 0..body.len() {
            match Message::parse(kind, &body[..short]) {
                Ok(message) => assert_eq!(emitted(&message), body[..short]),
                Err(WireError::Truncated { need, have, .. }) => assert!(need > have),
                Err(WireError::Acks(_)) => assert!(matches!(kind, kind::S_ACK | kind::S_DACK)),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            body.is_empty() || open_ended.contains(&kind) || Message::parse(kind, &[]).is_err()
        );
    }
}

// A54, D17: flags that nobody defined are ignored; S_CLOSE shows them
#[test]
fn undefined_flags_are_ignored() {
    let (kind, mut body) = body("EPI UDP/IPv6 endpoint");
    let plain = body.clone();
    body[0] = 0xff;
    assert_eq!(Message::parse(kind, &body), Message::parse(kind, &plain));
}

// A65, D31
#[test]
fn an_ack_count_includes_the_first_number() {
    // the example of §5.2.4: "1, 4" acknowledges 1, 2, 3 and 4
    let bytes = [0, 0, 0, 1, 4];
    let acks = Acks::from_bytes(&bytes).unwrap();
    let numbers: Vec<u32> = acks
        .iter()
        .flat_map(|(first, count)| (0..u32::from(count)).map(move |i| first + i))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!((acks.count(), acks.as_bytes()), (1, bytes.as_slice()));
    // a count of 0 is read, and acknowledges nothing
    let nothing = encode_ack(9, 0);
    assert_eq!(
        Acks::from_bytes(&nothing)
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [(9, 0)]
    );
}

// A65, D31, S2
#[test]
fn acks_that_are_none_uneven_or_too_many_are_refused() {
    for len in [0, 1, 4, 6, 9, 256 * 5] {
        assert_eq!(Acks::from_bytes(&vec![0; len]), Err(WireError::Acks(len)));
    }
    assert_eq!(Acks::from_bytes(&[0; 255 * 5]).unwrap().count(), MAX_ACKS);
    // S_ACK without acks, S_DACK with a count past the end or of zero
    assert!(Message::parse(kind::S_ACK, &[0; 6]).is_err());
    assert!(Message::parse(kind::S_DACK, &[0, 1, 0, 2, 0, 3, 255, 0, 0, 0, 0, 0]).is_err());
    assert_eq!(
        Message::parse(kind::S_DACK, &[0; 11]),
        Err(WireError::Acks(0))
    );
}

// A66, D32
#[test]
fn the_longest_list_of_acks_fits_a_dack() {
    let bytes = [7; 255 * 5];
    let acks = Acks::from_bytes(&bytes).unwrap();
    let dack = Message::Stream(StreamMessage::Dack {
        links: LINKS,
        window: 1,
        acks,
        sequence: 5,
        payload: b"x",
    });
    assert_eq!(Message::parse(kind::S_DACK, &emitted(&dack)), Ok(dack));
}

fn prefix(name: &str) -> Ipv6Addr {
    identity(name).address().ipv6(PeerId::ANY)
}

// S20: a question is as large as the answer that it may bring
#[test]
fn whois_is_padded_to_the_largest_answer() {
    for count in [0, 1, 2, 255] {
        let prefixes = vec![prefix("alice"); count];
        let question = emitted(&Message::Whois {
            prefixes: prefixes.clone(),
        });
        let answer = emitted(&Message::Iam {
            addresses: vec![[1; 40]; count],
        });
        assert_eq!(question.len(), answer.len());
        assert_eq!(question.len(), 1 + count * 40);
        assert_eq!(iam_capacity(question.len()), count);
        // padding means nothing, and its absence is the asker's loss
        let bare = &question[..1 + count * 16];
        assert_eq!(
            Message::parse(kind::WHOIS, bare),
            Ok(Message::Whois {
                prefixes: prefixes.clone()
            })
        );
        assert!(iam_capacity(bare.len()) < count.max(1));
        let padded = [question.as_slice(), &[0xff; 100]].concat();
        assert_eq!(
            Message::parse(kind::WHOIS, &padded),
            Ok(Message::Whois { prefixes })
        );
    }
    assert_eq!(iam_capacity(0), 0);
    assert_eq!(iam_capacity(usize::MAX), WHOIS_MAX);
}

#[test]
fn more_than_255_are_not_sent() {
    let whois = emitted(&Message::Whois {
        prefixes: vec![prefix("alice"); 300],
    });
    assert_eq!(whois.len(), 1 + 255 * 40);
    assert!(
        matches!(Message::parse(kind::WHOIS, &whois), Ok(Message::Whois { prefixes }) if prefixes.len() == 255)
    );
    let iam = emitted(&Message::Iam {
        addresses: vec![[1; 40]; 300],
    });
    assert!(
        matches!(Message::parse(kind::IAM, &iam), Ok(Message::Iam { addresses }) if addresses.len() == 255)
    );
}

#[test]
fn whois_asks_for_synthetic_addresses_without_a_digit() {
    for wrong in ["fda1::10", "2001:db8::10", "::", "fda0::1"] {
        let wrong: Ipv6Addr = wrong.parse().unwrap();
        let body = [&[1], wrong.octets().as_slice()].concat();
        assert_eq!(
            Message::parse(kind::WHOIS, &body),
            Err(WireError::WhoisPrefix(wrong))
        );
    }
}

// S2
#[test]
fn counts_past_the_end_are_refused() {
    for count in 1..=255 {
        let body = [count; 16];
        assert!(Message::parse(kind::WHOIS, &body).is_err());
        assert!(Message::parse(kind::IAM, &body).is_err());
    }
    assert!(Message::parse(kind::IAM, &[0, 1]).is_err());
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..80)
}

/// Every message, from parts that the strategies make; `check` sees it while they live.
fn each_message(
    (a, b): (u16, u16),
    (c, d): (u32, u32),
    (e, f): (u8, u8),
    (endpoint, bytes): (Endpoint, Vec<u8>),
    ranges: Vec<(u32, u8)>,
    whois: Vec<u128>,
    check: &mut dyn FnMut(Message<'_>),
) {
    let payload = bytes.as_slice();
    let links = Links {
        sender: a,
        receiver: b,
    };
    let acks: Vec<u8> = ranges
        .iter()
        .flat_map(|(first, count)| encode_ack(*first, *count))
        .collect();
    let acks = Acks::from_bytes(&acks).unwrap();
    let prefixes: Vec<Ipv6Addr> = whois
        .iter()
        .map(|bits| split_digit(Ipv6Addr::from(0xfda0 << 112 | bits >> 16)).0)
        .collect();
    let addresses = whois
        .iter()
        .map(|bits| [*bits as u8; Address::LEN])
        .collect();
    for message in [
        Message::Error {
            code: a,
            arguments: payload,
        },
        Message::Ping(payload),
        Message::Pong(payload),
        Message::EpcReq { id: c },
        Message::Epc { id: c },
        Message::Epi {
            endpoint: endpoint.clone(),
            nat_mode: e,
            options: payload,
        },
        Message::NatT {
            mode: e,
            options: payload,
        },
        Message::NetidReq {
            id: c,
            endpoint: endpoint.clone(),
        },
        Message::Netid { id: c, endpoint },
        Message::Dgram {
            source: a,
            destination: b,
            payload,
        },
        Message::Stream(StreamMessage::Open {
            links,
            window: a,
            isn: c,
            flags: e,
        }),
        Message::Stream(StreamMessage::Close {
            links,
            flags: e,
            reason: f,
            initial: c,
            sequence: d,
        }),
        Message::Stream(StreamMessage::Data {
            links,
            sequence: c,
            payload,
        }),
        Message::Stream(StreamMessage::Ack {
            links,
            window: a,
            acks,
        }),
        Message::Stream(StreamMessage::Dack {
            links,
            window: a,
            acks,
            sequence: c,
            payload,
        }),
        Message::IpPacket {
            next_header: e,
            payload,
        },
        Message::Whois { prefixes },
        Message::Iam { addresses },
    ] {
        check(message);
    }
}

proptest! {
    // A50 to A54, A56 to A66, A36
    #[test]
    fn every_message_round_trips_and_survives_truncation(
        ab in any::<(u16, u16)>(), cd in any::<(u32, u32)>(), ef in any::<(u8, u8)>(),
        content in (any_endpoint(), payload()),
        ranges in proptest::collection::vec(any::<(u32, u8)>(), 1..20),
        whois in proptest::collection::vec(any::<u128>(), 0..10),
    ) {
        each_message(ab, cd, ef, content, ranges, whois, &mut |message| {
            let body = emitted(&message);
            assert_eq!(Message::parse(message.kind(), &body), Ok(message.clone()));
            for short in 0..body.len() {
                if let Ok(shorter) = Message::parse(message.kind(), &body[..short]) {
                    // what is cut off is a payload, or padding
                    match shorter {
                        Message::Whois { .. } => assert_eq!(shorter, message),
                        _ => assert_eq!(emitted(&shorter), body[..short]),
                    }
                }
            }
        });
    }

    // S1
    #[test]
    fn what_is_read_from_any_bytes_is_read_again_from_what_it_writes(
        kind in prop_oneof![0u8..10, 20u8..25, 0x44u8..0x48, any::<u8>()],
        body in proptest::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..200),
    ) {
        if let Ok(message) = Message::parse(kind, &body) {
            let again = emitted(&message);
            prop_assert_eq!(Message::parse(kind, &again), Ok(message));
        }
    }
}

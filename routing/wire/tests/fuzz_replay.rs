//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../../tests/fuzz/src/sealed.rs"]
mod sealed;
#[path = "../../../tests/fuzz/src/wire.rs"]
mod wire;

use anode_wire::message::{Acks, Links};
use anode_wire::message::{StreamMessage, encode_ack};
use anode_wire::sealed::Timestamp;
use anode_wire::sealed::ticket::{Join, Joined, Status, Ticket};
use anode_wire::{Endpoint, Identity, Message, Packet, PeerId, Zone};
use rand::SeedableRng;
use rand::rngs::StdRng;
use replay::{Corpus, MUTATIONS, Target};

const SEALED_VECTORS: &str = include_str!("../../../docs/vectors/sealed.json");
const ZONE_VECTORS: &str = include_str!("../../../docs/vectors/zonefile.json");
const VECTORS: &str = include_str!("vectors/anode-vectors.json");
/// Of each target that shakes hands, which takes about a millisecond.
const HANDSHAKE_MUTATIONS: usize = 1_000;
fn targets() -> Vec<Target> {
    let mut all = replay::targets("wire", wire::TARGETS, |_| MUTATIONS);
    all.extend(replay::targets(
        "sealed",
        sealed::TARGETS,
        |name| match name {
            "ticket" => MUTATIONS,
            _ => HANDSHAKE_MUTATIONS,
        },
    ));
    all
}

/// One valid input of every kind: what the mutations start from.
fn seeds(target: &str) -> Corpus {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let group = |name: &str, field: &str| {
        let field = field.to_owned();
        let vectors = vectors[name]["vectors"].as_array().unwrap().clone();
        vectors
            .into_iter()
            .map(move |vector| vector[&field].as_str().unwrap().to_owned())
    };
    let numbered = |inputs: Vec<Vec<u8>>| {
        let names = (0..).map(|i| format!("vector-{i:02}"));
        names.zip(inputs).collect::<Corpus>()
    };
    match target {
        "wire_packet" => numbered(group("packets", "packet").map(hex).collect()),
        "wire_message" => {
            let mut corpus = Corpus::new();
            for packet in group("packets", "packet").map(hex) {
                let packet = Packet::new_checked(packet).unwrap();
                let input = [&[packet.kind()], packet.body()].concat();
                corpus.insert(
                    format!("type-{:02x}-{}", packet.kind(), packet.body().len()),
                    input,
                );
            }
            for message in own_messages() {
                let mut input = vec![message.kind()];
                message.emit(&mut input);
                corpus.insert(
                    format!("type-{:02x}-{}", message.kind(), input.len() - 1),
                    input,
                );
            }
            corpus
        }
        "wire_endpoint" => {
            let texts = [
                "udp://192.0.2.1:8737",
                "tcp://[2001:db8::1]:1",
                "eth://02:00:00:00:00:01",
                "https://a/b",
            ];
            let texts = texts.iter().map(|text| text.as_bytes().to_vec());
            numbered(
                group("endpoints", "endpoint")
                    .map(hex)
                    .chain(texts)
                    .collect(),
            )
        }
        "wire_zonefile" => {
            let mut inputs: Vec<_> = group("zone_dictionary", "input").map(hex).collect();
            let address = group("addresses", "base32").next().unwrap();
            inputs.push(
                format!(
                    ";a zone\r\nn=test\r\nd=line\\\r\nbreak\r\nc=a@b\r\nr=7\r\nttl=3600\r\nzr.0=1.2.3.4:4343:4344:{address}\r\n\
                     zr.1=2.3.4.5,2001\\:db8\\:\\:1:4343::{address}\r\nzr.x=\r\nunknown\r\n"
                )
                .into_bytes(),
            );
            let vector: serde_json::Value = serde_json::from_str(ZONE_VECTORS).unwrap();
            inputs.push(vector["signed"].as_str().unwrap().as_bytes().to_vec());
            numbered(inputs)
        }
        "wire_address_text" => {
            let texts = group("addresses", "base32")
                .chain(group("addresses", "dns_txt"))
                .map(String::into_bytes);
            numbered(
                texts
                    .chain(group("addresses", "address").map(hex))
                    .collect(),
            )
        }
        "wire_identity_string" => numbered(
            group("addresses", "identity_string")
                .map(String::into_bytes)
                .collect(),
        ),
        "wire_framing" => {
            let frames: Vec<Vec<u8>> = group("stream_framing", "tcp_frame_16bit_be")
                .map(hex)
                .collect();
            let stream = [&[7], frames.concat().as_slice(), &[0, 0], &frames[0]].concat();
            let literal = group("stream_framing", "http_frame_literal_16byte_be")
                .map(hex)
                .next()
                .unwrap();
            numbered(vec![
                [&[1], frames[0].as_slice()].concat(),
                stream,
                [&[3], literal.as_slice()].concat(),
            ])
        }
        "sealed_sessions" => session_seeds(),
        "sealed_fragments" => fragment_seeds(),
        "sealed_ticket" => ticket_seeds(),
        unknown => panic!("no seeds for {unknown}"),
    }
}

/// Messages that the vectors do not have, or not in every form.
fn own_messages() -> Vec<Message<'static>> {
    let identity = Identity::from_scalar(Zone::LOCAL, &[9; 32]).unwrap();
    let (address, prefix) = (
        *identity.address().as_bytes(),
        identity.address().ipv6(PeerId::ANY),
    );
    let acks: &'static [u8] = Box::leak(
        [encode_ack(5, 2), encode_ack(u32::MAX, 255)]
            .concat()
            .into_boxed_slice(),
    );
    let links = Links {
        sender: 1,
        receiver: 2,
    };
    vec![
        Message::Epi {
            endpoint: Endpoint::Http("http://relay.example/p".into()),
            nat_mode: 1,
            options: b"options",
        },
        Message::Epi {
            endpoint: Endpoint::Ethernet([2, 0, 0, 0, 0, 1]),
            nat_mode: 0,
            options: &[],
        },
        Message::NetidReq {
            id: 1,
            endpoint: Endpoint::Tcp("[2001:db8::1]:4344".parse().unwrap()),
        },
        Message::IpPacket {
            next_header: 58,
            payload: &[1, 2, 3, 4],
        },
        Message::Whois {
            prefixes: vec![prefix, prefix],
        },
        Message::Iam {
            addresses: vec![address, address],
        },
        Message::Stream(StreamMessage::Dack {
            links,
            window: 9,
            acks: Acks::from_bytes(acks).unwrap(),
            sequence: 3,
            payload: b"payload",
        }),
    ]
}

/// Scripts of the two nodes' lives; see `sealed::sessions` for what the bytes say.
fn session_seeds() -> Corpus {
    const START: u8 = 0;
    const PASS: u8 = 1;
    const DELIVER: u8 = 2;
    const COPY: u8 = 3;
    const LOSE: u8 = 4;
    const FLIP: u8 = 5;
    const CUT: u8 = 6;
    const FORGE: u8 = 7;
    const RAW: u8 = 8;
    const SEAL: u8 = 9;
    const SAY: u8 = 10;
    const WAIT: u8 = 11;
    const TRUST: u8 = 12;
    const DROP_ALL: u8 = 13;
    const RESTART: u8 = 14;
    const CLOCK: u8 = 15;
    const SECOND_NODE: u8 = 16;
    /// Cookies on both nodes; no ML-KEM on both.
    const COOKIES: u8 = 0x11;
    const WITHOUT_KEM: u8 = 0x44;
    const UP: [u8; 7] = [START, PASS, PASS, PASS, PASS, PASS, PASS];
    let after = |setup: u8, rest: &[u8]| [&[setup], UP.as_slice(), rest].concat();
    let talk = [SEAL, 1, SEAL | SECOND_NODE, 80, PASS, PASS, SEAL, 255, PASS];
    let vectors: serde_json::Value = serde_json::from_str(SEALED_VECTORS).unwrap();
    let raw = vectors["handshakes"][0]["packets"].as_array().unwrap();
    let raw = raw.iter().flat_map(|packet| {
        let packet = hex(packet["packet"].as_str().unwrap().to_owned());
        let kept = packet.len().min(255);
        [&[RAW, kept as u8], &packet[..kept]].concat()
    });
    let scripts = [
        ("handshake", after(0, &talk)),
        ("without-kem", after(WITHOUT_KEM, &talk)),
        ("kem-required", after(0x88, &talk)),
        ("kem-impossible", after(0x84, &talk)),
        ("cookies", after(COOKIES, &talk)),
        ("peer-ids", after(0x22, &talk)),
        ("crossing", {
            let both = [0, START, START | SECOND_NODE];
            [&both, [PASS; 8].as_slice(), &talk].concat()
        }),
        ("copies", {
            let copies = [
                0, START, COPY, 0, COPY, 0, DELIVER, 0, COPY, 1, COPY, 0, PASS,
            ];
            [&copies, [PASS; 6].as_slice(), &talk, &[COPY, 0, COPY, 1]].concat()
        }),
        ("disorder", {
            let order = [
                SEAL, 1, SEAL, 2, SEAL, 3, DELIVER, 2, COPY, 0, DELIVER, 0, LOSE, 0,
            ];
            after(0, &order)
        }),
        ("losses", {
            let lost = [
                0, START, LOSE, 0, WAIT, 10, PASS, LOSE, 0, WAIT, 11, PASS, PASS,
            ];
            [&lost, [WAIT, 10, PASS].repeat(6).as_slice(), &talk].concat()
        }),
        ("restart", {
            let lost = [RESTART | SECOND_NODE, SEAL, 1, PASS, PASS, PASS, PASS, PASS];
            let kept = [
                RESTART | SECOND_NODE | 0x20,
                SEAL,
                1,
                PASS,
                PASS,
                PASS,
                PASS,
                PASS,
            ];
            after(0, &[lost.as_slice(), &kept, &talk].concat())
        }),
        ("clock-back", {
            let back = [
                CLOCK, 39, RESTART, START, PASS, PASS, WAIT, 11, PASS, PASS, PASS, PASS,
            ];
            after(0, &[back.as_slice(), &talk].concat())
        }),
        ("rekey", {
            let old = [
                WAIT, 17, SEAL, 1, PASS, WAIT, 13, PASS, PASS, PASS, PASS, WAIT, 15,
            ];
            after(
                0,
                &[old.as_slice(), &talk, &old, &talk, &[WAIT, 25]].concat(),
            )
        }),
        ("forged", {
            let altered = [
                0, START, FLIP, 0, 0, 70, 1, CUT, 0, 0, 60, 0, FORGE, 0, 0, 110, 9, FORGE, 0, 0,
                62, 1,
            ];
            [&altered, [PASS; 6].as_slice(), &talk, &[FLIP, 0, 0, 29, 1]].concat()
        }),
        ("inside", {
            let fragments = [
                SAY, 0x45, 9, 0, 0, 0, 1, 0, 2, 1, 2, 3, SAY, 0x45, 9, 0, 0, 0, 1, 1, 2, 4, 5, 6,
                PASS,
            ];
            let kem = [
                SAY, 0x48, 3, 1, 2, 3, PASS, SAY, 0x40, 1, 0, PASS, SAY, 0x42, 0, PASS,
            ];
            after(
                0,
                &[fragments.as_slice(), &kem, &[WAIT, 13], &talk].concat(),
            )
        }),
        ("orders", {
            let orders = [
                TRUST,
                TRUST | 0x20,
                TRUST | 0x40,
                TRUST | 0x60,
                PASS,
                PASS,
                TRUST | 0x80,
                DROP_ALL,
                START,
            ];
            after(0, &[orders.as_slice(), &UP, &talk].concat())
        }),
        ("raw", [&[0], raw.collect::<Vec<_>>().as_slice()].concat()),
    ];
    scripts
        .map(|(name, script)| (name.to_owned(), script))
        .into()
}

/// Id, place, count, length in fives and filling of one FRAGMENT after the other.
fn fragment_seeds() -> Corpus {
    let wait = [0xff, 130, 0, 0, 0, 0];
    let whole = [1, 0, 3, 40, 9, 1, 2, 3, 7, 9, 1, 1, 3, 40, 9];
    let scripts = [
        ("whole", whole.to_vec()),
        ("too-late", [&whole[..10], &wait, &whole].concat()),
        (
            "contradiction",
            vec![1, 0, 3, 40, 9, 1, 0, 3, 40, 8, 1, 1, 4, 1, 1],
        ),
        (
            "impossible",
            vec![1, 3, 3, 40, 9, 1, 0, 0, 40, 9, 1, 0, 1, 0, 9],
        ),
        (
            "many",
            (0..=250).flat_map(|id| [id, 0, 255, 200, 1]).collect(),
        ),
        (
            "large",
            (0..=250).flat_map(|at| [7, at, 255, 220, 2]).collect(),
        ),
    ];
    scripts
        .map(|(name, script)| (name.to_owned(), script))
        .into()
}

fn ticket_seeds() -> Corpus {
    let vectors: serde_json::Value = serde_json::from_str(SEALED_VECTORS).unwrap();
    let text = vectors["ticket"]["text"].as_str().unwrap();
    let inviter: [u8; 40] = hex(vectors["ticket"]["inviter"].as_str().unwrap().to_owned())
        .try_into()
        .unwrap();
    let address = anode_wire::Address::from_bytes(&inviter).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let bare = Ticket::new(address, Timestamp(1), &mut rng);
    let join = Join {
        id: bare.id,
        proof: [3; 32],
    };
    let joined = Joined {
        id: bare.id,
        status: Status::Taken,
    };
    let inputs = [
        ("full", text.as_bytes().to_vec()),
        ("upper-case", text.to_uppercase().into_bytes()),
        ("bare", bare.to_text().unwrap().as_bytes().to_vec()),
        ("join", join.emit().to_vec()),
        ("joined", joined.emit().to_vec()),
    ];
    inputs.map(|(name, input)| (name.to_owned(), input)).into()
}

fn hex(text: String) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

// S1, S2
replay::tests!();

//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

#[path = "../../../tests/fuzz/src/wire.rs"]
mod targets;

use anode_wire::message::{Acks, Links};
use anode_wire::message::{StreamMessage, encode_ack};
use anode_wire::{Endpoint, Identity, Message, Packet, PeerId, Zone};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use targets::TARGETS;

const VECTORS: &str = include_str!("vectors/anode-vectors.json");
/// In all, spread evenly over the targets.
const MUTATIONS: usize = 200_000;
/// Set to write the seeds below into the corpus.
const WRITE: &str = "ANODE_WRITE_CORPUS";

/// The corpus of each target, by file name.
type Corpus = BTreeMap<String, Vec<u8>>;

fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(format!("wire_{target}"))
}

fn committed(target: &str) -> Corpus {
    let files =
        std::fs::read_dir(directory(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    files
        .map(|file| {
            let file = file.unwrap();
            (
                file.file_name().into_string().unwrap(),
                std::fs::read(file.path()).unwrap(),
            )
        })
        .collect()
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
    let hex = |text: String| {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect::<Vec<u8>>()
    };
    match target {
        "packet" => numbered(group("packets", "packet").map(hex).collect()),
        "message" => {
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
        "endpoint" => {
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
        "zonefile" => {
            let mut inputs: Vec<_> = group("zone_dictionary", "input").map(hex).collect();
            let address = group("addresses", "base32").next().unwrap();
            inputs.push(
                format!(
                    ";a zone\r\nn=test\r\nd=line\\\r\nbreak\r\nc=a@b\r\nr=7\r\nttl=3600\r\nzr.0=1.2.3.4:4343:4344:{address}\r\n\
                     zr.1=2.3.4.5,2001\\:db8\\:\\:1:4343::{address}\r\nzr.x=\r\nunknown\r\n"
                )
                .into_bytes(),
            );
            numbered(inputs)
        }
        "address_text" => {
            let texts = group("addresses", "base32")
                .chain(group("addresses", "dns_txt"))
                .map(String::into_bytes);
            numbered(
                texts
                    .chain(group("addresses", "address").map(hex))
                    .collect(),
            )
        }
        "identity_string" => numbered(
            group("addresses", "identity_string")
                .map(String::into_bytes)
                .collect(),
        ),
        "framing" => {
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

/// Set `ANODE_WRITE_CORPUS=1` to write the seeds after a change of the codecs.
#[test]
fn the_committed_corpus_holds_every_seed() {
    for (target, _) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() > 2, "{target}");
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(directory(target)).unwrap();
            for (name, input) in &seeds {
                std::fs::write(directory(target).join(name), input).unwrap();
            }
        }
        let committed = committed(target);
        for (name, input) in seeds {
            assert_eq!(
                committed.get(&name),
                Some(&input),
                "{target}/{name}: run once with {WRITE}=1"
            );
        }
    }
}

// S1
#[test]
fn every_target_survives_its_corpus_and_its_truncations() {
    for (target, body) in TARGETS {
        for input in committed(target).values() {
            for len in 0..=input.len() {
                body(&input[..len]);
            }
        }
    }
}

// S1, S2
#[test]
fn every_target_survives_mutations_of_its_corpus() {
    let mut rng = StdRng::seed_from_u64(0x0a0d_e008);
    for (target, body) in TARGETS {
        let corpus: Vec<Vec<u8>> = committed(target).into_values().collect();
        for _ in 0..MUTATIONS / TARGETS.len() {
            let mut input = corpus[rng.random_range(0..corpus.len())].clone();
            for _ in 0..rng.random_range(1..4) {
                mutate(&mut input, &corpus, &mut rng);
            }
            body(&input);
        }
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut impl Rng) {
    const INTERESTING: [u8; 12] = [0, 1, 2, 3, 27, 28, 40, 0x7f, 0x80, 0xfe, 0xff, b'\\'];
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = INTERESTING[rng.random_range(0..INTERESTING.len())],
        2 if at < input.len() => input[at] = rng.random(),
        3 => input.insert(at, rng.random()),
        4 if at < input.len() => drop(input.remove(at)),
        5 => input.truncate(at),
        _ => {
            // the end of another input behind the start of this one
            let other = &corpus[rng.random_range(0..corpus.len())];
            input.truncate(at);
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
    }
}

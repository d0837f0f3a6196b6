//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

#[path = "../../../tests/fuzz/src/i2cp.rs"]
mod i2cp;
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../../tests/fuzz/src/steps.rs"]
mod steps;

use anode_i2cp::datagram::{Kind, encode};
use anode_i2cp::envelope::{Effort, Gzip, MAX_INFLATED, Ports, protocol};
use anode_i2cp::names;
use flate2::{Compress, Compression, Crc, FlushCompress};
use i2cp::keys;
use i2cp::messages::{self as router, handshake};
use i2cp::streaming::{self as peer, flag};
use replay::{Corpus, MUTATIONS, Target};
use serde_json::Value;
use steps::step;

/// Of the targets that make a session or streams each time, with signatures.
const STATE_MUTATIONS: usize = 2_000;

fn targets() -> Vec<Target> {
    replay::targets("i2cp", i2cp::TARGETS, |name| match name {
        "texts" => MUTATIONS / 2,
        _ => STATE_MUTATIONS,
    })
}

/// One valid input of every kind: what the mutations start from.
fn seeds(target: &str) -> Corpus {
    match target {
        "i2cp_texts" => texts(),
        "i2cp_messages" => routers(),
        "i2cp_streaming" => peers(),
        "i2cp_datagrams" => payloads(),
        unknown => panic!("no seeds for {unknown}"),
    }
}

fn corpus<const N: usize>(inputs: [(&str, Vec<u8>); N]) -> Corpus {
    inputs.map(|(name, input)| (name.to_owned(), input)).into()
}

/// The bytes of the requirement list's vectors at a JSON pointer.
fn hex(pointer: &str) -> Vec<u8> {
    let all = include_str!("../../../docs/spec/i2cp-vectors.json");
    let all: Value = serde_json::from_str(all).unwrap();
    let text = all.pointer(pointer).unwrap().as_str().unwrap();
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn texts() -> Corpus {
    let ours = &keys()[0];
    let destination = hex("/A/destination");
    let key = names::base64(&[7; 32]);
    // P-521: four bytes of the key stand in the certificate
    let mut excess = destination[..384].to_vec();
    excess.extend([5, 0, 8, 0, 3, 0, 0, 1, 2, 3, 4]);
    let options = format!(
        "inbound.length=2\ni2cp.leaseSetType=5\ni2cp.leaseSetAuthType=2\ni2cp.leaseSetClient.psk.0=bob:{key}\n\
         i2cp.leaseSetPrivateKey=4:{key}\ni2cp.leaseSetOption.0=_smtp._tcp=0 86400 25\ni2cp.reduceOnIdle=true\n\
         i2cp.messageReliability=none\nother=1\n"
    );
    corpus([
        ("destination", destination.clone()),
        ("destination-p521", excess),
        (
            "destination-dsa",
            [&destination[..384], &[0, 0, 0]].concat(),
        ),
        (
            "destination-base64",
            names::base64(&destination).into_bytes(),
        ),
        ("key-file", ours.to_file().to_vec()),
        ("key-text", ours.to_text().as_bytes().to_vec()),
        ("name-hash", ours.destination().hash().b32().into_bytes()),
        ("name-blinded", ours.blinded_name(true, false).into_bytes()),
        ("name-host", b"Some-Host.Example.i2p.alt.".to_vec()),
        ("options", options.into_bytes()),
    ])
}

/// What routers say. The first byte says what session it is.
fn routers() -> Corpus {
    let own = |kind: u8, body: &[u8]| step(router::OWN, 0, &[&[kind], body].concat());
    let other = |kind: u8, body: &[u8]| step(router::MESSAGE, 0, &[&[kind], body].concat());
    let read = step(router::READ, 1, &[]);
    let leases = hex("/request_variable_leaseset")[7..].to_vec();
    let peer = keys()[1].destination().as_bytes().to_vec();
    let found = [&[0], &peer[..], b"\0\x06\x01a=\x01b;"].concat();
    corpus([
        ("handshake", {
            let mut talk = vec![0];
            talk.extend(&read);
            talk.extend(step(router::STREAM, 3, &handshake()));
            talk.extend(step(router::SEND, 3, b"payload"));
            talk.extend(&read);
            talk.extend(own(22, &[0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]));
            talk.extend(own(20, &[0]));
            talk
        }),
        ("lookups", {
            let mut talk = vec![router::IS_READY];
            talk.extend(step(router::LOOKUP, 3, &[]));
            talk.extend(step(router::LOOKUP, 3, b"a.i2p"));
            talk.extend(step(router::LOOKUP, 3, &[5; 32]));
            talk.extend(step(router::LOOKUP, 3, b"never-answered.i2p"));
            talk.extend(&read);
            talk.extend(step(router::REPLY, 3, &found));
            talk.extend(step(router::REPLY, 3, &[6]));
            talk.extend(step(router::REPLY, 3, &found));
            talk.extend(step(router::READ, 16, &[]));
            talk
        }),
        ("slow-receive-and-idle", {
            let mut talk = vec![router::IS_READY | router::SLOW_RECEIVE | router::IDLES];
            talk.extend(own(22, &[0, 0, 0, 2, 0, 0, 0, 0, 5, 0, 0, 0, 0]));
            talk.extend(own(31, &[0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3]));
            talk.extend(&read);
            talk.extend(step(router::READ, 18, &[]));
            talk.extend(step(router::SEND, 17, b"back"));
            talk.extend(own(20, &[2]));
            talk.extend(step(router::READ, 19, &[]));
            talk.extend(step(router::READ, 18, &[]));
            talk
        }),
        ("encrypted-and-changed", {
            let mut talk = vec![router::IS_READY | router::ENCRYPTED];
            talk.extend(own(37, &leases));
            talk.extend(own(
                21,
                &[&[1][..], &[7; 36], &[0, 0, 1, 0x8c, 0, 0, 0, 0]].concat(),
            ));
            talk.extend(step(router::CHANGE, 2, &[2]));
            talk.extend(step(router::CHANGE, 2, &[5]));
            talk.extend(other(23, &[1; 64]));
            talk.extend(other(33, b"\0\0\x01\x8b\xcf\xe5\x68\0\x060.9.66"));
            talk.extend(other(99, b"what"));
            talk.extend(step(router::CHANGE, 2, &[0]));
            talk.extend(other(30, b"\x04done"));
            talk
        }),
        ("flood", {
            let mut talk = vec![router::IS_READY];
            for _ in 0..60 {
                talk.extend(step(router::SEND, 0, &[9; 1023]));
            }
            talk.extend(own(37, &leases));
            talk.extend(read);
            talk
        }),
    ])
}

/// A packet for `tests/fuzz/src/i2cp/streaming.rs`.
fn packet(
    which: u8,
    numbers: [u8; 3],
    flags: u16,
    delay: u16,
    nacks: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let [high, low] = flags.to_be_bytes();
    let [slow, slower] = delay.to_be_bytes();
    let head = [
        which, numbers[0], numbers[1], numbers[2], high, low, slow, slower,
    ];
    let packet = [&head[..], &[nacks.len() as u8], nacks, payload].concat();
    step(peer::PACKET, 3, &packet)
}

const OPENS: u16 = flag::SYN | flag::SIGNATURE | flag::FROM | flag::MAX_SIZE | flag::NO_ACK;
const ANSWERS: u16 = flag::SYN | flag::SIGNATURE | flag::FROM | flag::MAX_SIZE;
const CLOSES: u16 = flag::CLOSE | flag::SIGNATURE;
const RESETS: u16 = flag::RESET | flag::SIGNATURE | flag::FROM;
const CHOKE: u16 = 61_000;

fn peers() -> Corpus {
    let opens = packet(0, [9, 0, 0], OPENS, 0, &[], b"GET");
    corpus([
        ("accepted", {
            [
                opens.clone(),
                step(peer::ACCEPT, 3, &[]),
                packet(1, [9, 2, 0], flag::DELAY, 0, &[], b"later"),
                packet(1, [9, 1, 0], 0, 0, &[], b"sooner"),
                step(peer::READ, 3, &[20]),
                step(peer::WRITE, 3, b"answer"),
                step(peer::FINISH, 3, &[]),
                packet(1, [9, 0, 1], 0, 0, &[], b""),
                packet(1, [9, 3, 1], CLOSES, 0, &[], b"end"),
                packet(1, [9, 4, 1], 0, 0, &[], b"after it"),
            ]
            .concat()
        }),
        ("opened", {
            [
                step(peer::CONNECT, 0, &[]),
                step(peer::WRITE, 0, &[5; 100]),
                step(peer::READ, 1, &[]),
                packet(1, [9, 0, 0], ANSWERS, 0, &[], b""),
                step(peer::WRITE, 5, &[200; 100]),
                packet(1, [9, 0, 6], flag::DELAY, CHOKE, &[2, 3], b""),
                packet(1, [9, 0, 7], flag::DELAY, 0, &[2], b""),
                packet(1, [9, 1, 9], RESETS, 0, &[], b""),
            ]
            .concat()
        }),
        ("refused", {
            let many = (1..7).map(|id| packet(0, [id, 0, 0], OPENS, 0, &[], b""));
            let mut talk = many.collect::<Vec<_>>().concat();
            talk.extend(step(peer::REFUSE, 3, &[0, 0]));
            talk.extend(step(peer::REFUSE, 3, &[0]));
            talk.extend(packet(0, [1, 0, 0], OPENS, 0, &[], b""));
            talk.extend(packet(1, [1, 5, 0], 0, 0, &[], b"not heard"));
            talk.extend(step(peer::READ, 17, &[]));
            talk
        }),
        ("pings", {
            let ping = flag::ECHO | flag::SIGNATURE | flag::FROM;
            let mut talk = step(peer::PING, 0, b"are you there");
            talk.extend(packet(0, [9, 0, 0], flag::ECHO, 0, &[], b"no"));
            talk.extend(step(peer::RAW, 1, &hex("/streaming/ping")));
            talk.extend(step(peer::CONNECT, 1, &[]));
            talk.extend(packet(1, [0, 0, 0], ping, 0, &[], b"who"));
            talk.extend(step(peer::STATUS, 1, &[21]));
            talk.extend(step(peer::READ, 16, &[]));
            talk
        }),
        ("early-and-lost", {
            [
                packet(0, [9, 1, 0], flag::NO_ACK, 0, &[], b"before its SYN"),
                opens,
                step(peer::ACCEPT, 3, &[]),
                step(peer::WRITE, 3, &[60; 400]),
                step(peer::READ, 17, &[]),
                step(peer::SESSION_LOST, 3, &[]),
                step(peer::RAW, 3, &hex("/streaming/close_seq_6")),
            ]
            .concat()
        }),
    ])
}

/// A gzip payload of zeros, which few bytes are enough for.
fn bomb(length: usize) -> Vec<u8> {
    let data = vec![0; length];
    let mut out = hex("/gzip_stored/payload")[..10].to_vec();
    out.reserve(length / 100 + 100);
    Compress::new(Compression::best(), false)
        .compress_vec(&data, &mut out, FlushCompress::Finish)
        .unwrap();
    let mut crc = Crc::new();
    crc.update(&data);
    out.extend(crc.sum().to_le_bytes());
    out.extend((length as u32).to_le_bytes());
    out
}

/// What comes from the network. The first byte is the protocol of an honest envelope, or 0: there is none.
fn payloads() -> Corpus {
    let [own, peer] = keys();
    let to = own.destination().hash();
    let datagram = |kind: Kind| {
        let data = encode(kind, peer, &to, b"some words").unwrap();
        [&[kind.protocol()], &data[..]].concat()
    };
    let raw = |payload: Vec<u8>| [&[0], &payload[..]].concat();
    let ports = Ports {
        protocol: protocol::DATAGRAM1,
        from: 1,
        to: 2,
    };
    let data = encode(Kind::Datagram1, peer, &to, &[b'a'; 300]).unwrap();
    let mut named = hex("/gzip_deflate_decode_only/payload");
    named[3] = 8;
    named.splice(10..10, *b"a name\0");
    corpus([
        ("datagram1", datagram(Kind::Datagram1)),
        ("datagram2", datagram(Kind::Datagram2)),
        ("datagram3", datagram(Kind::Datagram3)),
        ("raw", datagram(Kind::Raw)),
        (
            "of-another",
            [&[19], &hex("/datagram2/with_options")[..]].concat(),
        ),
        ("stored", raw(hex("/gzip_stored/payload"))),
        ("bad-sum", raw(hex("/gzip_bad_crc_must_be_dropped"))),
        ("named", raw(named)),
        ("deflated", {
            raw(Gzip::default().seal(ports, &data, Effort::Deflate).unwrap())
        }),
        ("largest", raw(bomb(MAX_INFLATED))),
        ("bomb", raw(bomb(MAX_INFLATED + 1))),
        ("large-bomb", raw(bomb(2_000_000))),
        ("ping", [&[6], &hex("/streaming/ping")[..]].concat()),
        ("ports", (0..60).flat_map(|n| [18, n, n * 3]).collect()),
    ])
}

// I63, S37
replay::tests!();

//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../../tests/fuzz/src/turn.rs"]
mod turn;

use anode_turn::Transport;
use anode_turn::frame::{Channel, Header};
use anode_turn::stun::{Class, Key, Mac, Writer, attr, method};
use replay::{Corpus, MUTATIONS, Target};
use turn::talk::{PEER, RELAYED, kind};

/// Of the targets that make a server or a client each time.
const SERVER_MUTATIONS: usize = 4_000;

fn targets() -> Vec<Target> {
    replay::targets("turn", turn::TARGETS, |name| match name {
        "strangers" | "members" | "servers" => SERVER_MUTATIONS,
        _ => MUTATIONS,
    })
}

/// One valid input of every kind: what the mutations start from.
fn seeds(target: &str) -> Corpus {
    match target {
        "turn_hello" => hellos(),
        "turn_message" => messages(),
        "turn_frames" => streams(),
        "turn_strangers" => talks(),
        "turn_members" => memberships(),
        "turn_servers" => services(),
        unknown => panic!("no seeds for {unknown}"),
    }
}

fn corpus<const N: usize>(inputs: [(&str, Vec<u8>); N]) -> Corpus {
    inputs.map(|(name, input)| (name.to_owned(), input)).into()
}

/// As OpenSSL and others send it: two suites, extensions as given.
fn hello(version: [u8; 2], session: &[u8], cookie: &[u8], extensions: &[u8]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend((0..32).map(|byte| byte * 3));
    for short in [session, cookie] {
        body.push(short.len() as u8);
        body.extend(short);
    }
    body.extend([0, 4, 0xC0, 0x2B, 0xC0, 0x2C, 1, 0]);
    if !extensions.is_empty() {
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
    }
    let length = body.len() as u8;
    let record = [22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0, length + 12];
    let message = [1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length];
    [&record[..], &message, &body].concat()
}

fn hellos() -> Corpus {
    const OLD: [u8; 2] = [0xFE, 0xFF];
    const NEW: [u8; 2] = [0xFE, 0xFD];
    // extended_master_secret; supported_versions: 1.3 and 1.2, 1.3 alone
    const BOTH: [u8; 13] = [0, 23, 0, 0, 0, 43, 0, 5, 4, 0xFE, 0xFC, 0xFE, 0xFD];
    const ALONE: [u8; 7] = [0, 43, 0, 3, 2, 0xFE, 0xFC];
    corpus([
        ("dtls-1.0", hello(OLD, &[], &[], &[])),
        ("dtls-1.2", hello(NEW, &[], &[], &[])),
        ("dtls-1.2-session", hello(NEW, &[9; 32], &[], &BOTH[..4])),
        ("dtls-1.2-cookie", hello(NEW, &[], &[5; 32], &BOTH[..4])),
        ("dtls-1.3-or-1.2", hello(NEW, &[], &[], &BOTH)),
        ("dtls-1.3-alone", hello(NEW, &[], &[], &ALONE)),
    ])
}

fn request(method: u16) -> Writer {
    Writer::new(Class::Request, method, [7; 12])
}

fn allocate() -> Writer {
    request(method::ALLOCATE).raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

fn signed(writer: Writer, mac: Mac) -> Vec<u8> {
    writer
        .raw(attr::USERNAME, b"alice")
        .raw(attr::REALM, b"example.org")
        .raw(attr::NONCE, b"obMatJos2AAAA0123456789")
        .sign(&Key::from_bytes(b"a key of some bytes"), mac)
        .fingerprint()
        .finish()
}

fn channel_data(payload: usize, transport: Transport) -> Vec<u8> {
    let channel = Channel::new(0x4000).unwrap();
    let header = Header::channel(channel, payload, transport).unwrap();
    let padding = &[0; 3][..header.padding()];
    [header.bytes(), &vec![1; payload], padding].concat()
}

fn messages() -> Corpus {
    let peer = "198.51.100.7:9000".parse().unwrap();
    let peer6 = "[2001:db8::7]:9000".parse().unwrap();
    let header = Header::send([3; 12], peer6, 4, true).unwrap();
    corpus([
        ("binding", request(method::BINDING).fingerprint().finish()),
        ("allocate", allocate().finish()),
        ("allocate-signed", signed(allocate(), Mac::Sha1)),
        ("allocate-sha256", signed(allocate(), Mac::Sha256)),
        ("permission", {
            let both = request(method::CREATE_PERMISSION)
                .xor_address(attr::XOR_PEER_ADDRESS, peer)
                .xor_address(attr::XOR_PEER_ADDRESS, peer6);
            signed(both, Mac::Sha1)
        }),
        ("error", {
            let error = Writer::error(method::ALLOCATE, [7; 12], 420);
            error.raw(attr::UNKNOWN_ATTRIBUTES, &[0, 26]).finish()
        }),
        ("send", {
            let mut bytes = [header.bytes(), b"data"].concat();
            bytes.resize(bytes.len() + header.padding(), 0);
            bytes
        }),
        ("channel-data", channel_data(101, Transport::Udp)),
    ])
}

fn streams() -> Corpus {
    let several = |piece: u8| {
        let sizes = [0, 1, 101, 203, 4];
        let data = sizes.map(|size| channel_data(size, Transport::Tcp));
        [&[piece], data.concat().as_slice(), &allocate().finish()].concat()
    };
    corpus([
        ("whole", several(255)),
        ("pieces", several(7)),
        ("too-long", {
            [&[9], channel_data(LONG, Transport::Tcp).as_slice()].concat()
        }),
    ])
}

/// More than the target's streams may hold.
const LONG: usize = 400;

/// Datagrams behind their lengths.
fn talks() -> Corpus {
    let talk = |datagrams: &[Vec<u8>]| -> Vec<u8> {
        let one = |datagram: &Vec<u8>| [&[datagram.len() as u8], datagram.as_slice()].concat();
        datagrams.iter().flat_map(one).collect()
    };
    let refresh = request(method::REFRESH).number(attr::LIFETIME, 0);
    corpus([
        ("polite", {
            let binding = request(method::BINDING).finish();
            talk(&[binding, allocate().finish(), signed(allocate(), Mac::Sha1)])
        }),
        ("insistent", talk(&vec![allocate().finish(); 60])),
        ("as-if-let-in", {
            let peer = "198.51.100.7:9000".parse().unwrap();
            let permission = request(method::CREATE_PERMISSION);
            let permission = permission.xor_address(attr::XOR_PEER_ADDRESS, peer);
            talk(&[
                signed(refresh, Mac::Sha256),
                signed(permission, Mac::Sha1),
                channel_data(20, Transport::Udp),
            ])
        }),
        ("rfc-3489", {
            let classic = [&[0, 1, 0, 0][..], &[9; 16]].concat();
            talk(&[classic.clone(), classic])
        }),
    ])
}

/// A step of a talk, and an attribute within one: a kind, a length, bytes.
fn step(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind, bytes.len() as u8], bytes].concat()
}

fn peer_attribute(number: u8) -> Vec<u8> {
    step(PEER, &[number])
}

fn memberships() -> Corpus {
    let with = |of: u16, value: &[u8]| step(kind(of), value);
    let udp = with(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let tcp = with(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    let even = with(attr::EVEN_PORT, &[0x80]);
    let both = with(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let number = with(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
    let over_tcp = 16;
    corpus([
        ("channels-and-sends", {
            let data = [peer_attribute(0), with(attr::DATA, b"hello")].concat();
            [
                step(0, &udp),
                step(2, &[peer_attribute(0), peer_attribute(1)].concat()),
                step(3, &[number, peer_attribute(2)].concat()),
                step(6, &data),
                step(7, &channel_data(5, Transport::Udp)),
                step(8, &[2, 0, 0]),
                step(9, &[3]),
                step(1, &with(attr::LIFETIME, &[0; 4])),
            ]
            .concat()
        }),
        ("pairs", {
            [
                step(0, &[udp.clone(), even].concat()),
                step(0, &[udp.clone(), both].concat()),
                step(14, &[1]),
                step(32, &udp),
                step(10, &[4]),
                step(15, &[0]),
                step(10, &[200]),
            ]
            .concat()
        }),
        ("connections", {
            [
                step(over_tcp, &tcp),
                step(over_tcp | 2, &peer_attribute(0)),
                step(over_tcp | 4, &peer_attribute(1)),
                step(12, &[2]),
                step(11, &[0]),
                step(over_tcp | 32 | 5, &with(attr::CONNECTION_ID, &[0, 0, 0, 1])),
                step(12, &[1]),
                step(over_tcp | 13, &[]),
            ]
            .concat()
        }),
    ])
}

fn services() -> Corpus {
    let with = |of: u16, value: &[u8]| step(kind(of), value);
    let code = |code: [u8; 2]| with(attr::ERROR_CODE, &[0, 0, code[0], code[1]]);
    let (named, signed) = (8, 16);
    let granted = [step(RELAYED, &[1]), with(attr::LIFETIME, &[0, 0, 2, 88])].concat();
    let start = [step(named | 2, &code([4, 1])), step(signed | 1, &granted)].concat();
    let then = |steps: &[Vec<u8>]| [start.clone(), steps.concat()].concat();
    corpus([
        ("honest", {
            let data = [peer_attribute(0), with(attr::DATA, b"hello")].concat();
            then(&[
                step(5, &[0]),
                step(signed | 1, &[]),
                step(3, &data),
                step(8 | 5, &[1]),
                step(signed | 1, &[]),
                step(0, &channel_data(5, Transport::Udp)),
                step(4, &[255]),
                step(6, &[0]),
            ])
        }),
        ("elsewhere", {
            let at = with(attr::ALTERNATE_SERVER, &[0, 1, 13, 150, 203, 0, 113, 9]);
            [
                step(2, &[code([3, 0]), at.clone()].concat()),
                step(2, &[code([3, 0]), at].concat()),
                step(2, &code([4, 37])),
                step(2, &code([4, 86])),
            ]
            .concat()
        }),
        ("refusals", {
            then(&[
                step(5, &[0]),
                step(signed | 2, &code([4, 3])),
                step(8 | 5, &[1]),
                step(signed | 2, &code([4, 0])),
                step(named | 32 | 2, &code([4, 38])),
                step(7, &[3, 3]),
                step(8 | 7, &[]),
            ])
        }),
    ])
}

// S1, S2
replay::tests!();

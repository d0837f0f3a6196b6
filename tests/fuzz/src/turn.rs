//! Targets for `anode-turn`: nothing may panic, strangers get little and leave nothing behind, and nor do those who are let in.

// By path, because tests of the crate include this file by path.
#[path = "turn/members.rs"]
mod members;
#[path = "turn/servers.rs"]
mod servers;
#[path = "turn/talk.rs"]
pub mod talk;

use anode_turn::Transport;
use anode_turn::frame::{Deframer, channel_data};
use anode_turn::server::hello::{Cookies, Hello};
use anode_turn::server::{Command, Config, FiveTuple, RelayAddress, Server, Shared};
use anode_turn::stun::Message;
pub use members::members;
pub use servers::servers;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("hello", hello),
    ("message", message),
    ("frames", frames),
    ("strangers", strangers),
    ("members", members),
    ("servers", servers),
];

/// IPv4 and UDP headers.
const HEADERS: usize = 28;
const REALM: &str = "example.org";
/// The largest message that the streams of [`frames`] may hold.
const LIMIT: usize = 300;

fn client(transport: Transport, port: u16) -> FiveTuple {
    FiveTuple {
        transport,
        client: ([192, 0, 2, 1], port).into(),
        server: ([192, 0, 2, 9], 3478).into(),
    }
}

/// A server of one user, with relays of both families.
fn config() -> Config {
    let addresses = [
        [203, 0, 113, 1].into(),
        [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into(),
    ];
    let relays = addresses.map(|ip: IpAddr| RelayAddress {
        local: ip,
        external: ip,
    });
    let mut config = Config::new(REALM, relays.into());
    let added = config.users.add_password(REALM, "alice", "secret");
    added.expect("a name and a password");
    config
}

/// The first datagram of a DTLS client. It is answered by a cookie that is good for it alone.
pub fn hello(data: &[u8]) {
    let Some(hello) = Hello::parse(data) else {
        return;
    };
    let (cookies, age) = (Cookies::new([7; 32]), Duration::from_secs(1000));
    let [here, there] = [1, 2].map(|port| client(Transport::Dtls, port));
    assert_eq!(
        cookies.check(age, &here, &hello),
        None,
        "a cookie by chance"
    );
    let cookie = cookies.make(age, &here, &hello);
    assert!(hello.verify_request(&cookie).len() < data.len());

    let first = hello.without_cookie();
    let bare = Hello::parse(&first).expect("what is written can be read");
    assert_eq!(
        (bare.speaks(), bare.random()),
        (hello.speaks(), hello.random())
    );
    assert_eq!(bare.without_cookie(), first);

    let second = with_cookie(&first, &cookie);
    let Some(second) = Hello::parse(&second) else {
        assert!(first.len() + cookie.len() > 0xFFFF, "{}", first.len());
        return;
    };
    assert_eq!(cookies.check(age, &here, &second), Some(cookie));
    assert_eq!(cookies.check(age, &there, &second), None);
    assert_eq!(second.without_cookie(), first);
}

/// The ClientHello again, with its cookie and all lengths.
fn with_cookie(first: &[u8], cookie: &[u8]) -> Vec<u8> {
    // Headers, version and random, the session's id behind its length.
    let at = 25 + 34;
    let at = at + 1 + usize::from(first[at]);
    let mut whole = [
        &first[..at],
        &[cookie.len() as u8],
        cookie,
        &first[at + 1..],
    ]
    .concat();
    let record = (whole.len() - 13) as u16;
    let body = ((whole.len() - 25) as u32).to_be_bytes();
    whole[11..13].copy_from_slice(&record.to_be_bytes());
    whole[14..17].copy_from_slice(&body[1..]);
    whole[22..25].copy_from_slice(&body[1..]);
    whole
}

/// A datagram, read as STUN and as ChannelData.
pub fn message(data: &[u8]) {
    if let Some((channel, payload)) = channel_data(data) {
        assert!(payload.end <= data.len() && channel.number() >> 14 == 1);
    }
    let Ok(message) = Message::parse(data) else {
        return;
    };
    assert_eq!(message.bytes(), data);
    let mut kinds: Vec<u16> = Vec::new();
    for (kind, value) in message.attributes() {
        assert!(value.len() + 24 <= data.len());
        let _ = (message.address(kind), message.xor_address(kind));
        let addresses = message.xor_addresses(kind).filter(Result::is_ok);
        assert!(addresses.count() * 8 <= data.len());
        kinds.push(kind);
    }
    let _ = message.error_code();
    assert!(message.unknown(&kinds).is_empty());
}

/// A stream, in pieces of the size that the first byte says: what comes out does not depend on it.
pub fn frames(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    let cut = |size: usize| {
        let (mut deframer, mut messages) = (Deframer::new(LIMIT), Vec::new());
        for mut piece in stream.chunks(size) {
            while !piece.is_empty() {
                piece = &piece[deframer.push(piece)..];
                loop {
                    match deframer.next_message() {
                        Ok(Some(message)) => messages.push(message.to_vec()),
                        Ok(None) => break,
                        Err(_) => return (messages, None),
                    }
                }
            }
        }
        (messages, Some(deframer.into_rest()))
    };
    let (messages, rest) = cut(usize::from(*piece).max(1));
    assert!(messages.iter().all(|message| message.len() <= LIMIT));
    assert!(rest.as_ref().is_none_or(|rest| rest.len() <= LIMIT));
    assert_eq!((messages, rest), cut(1));
}

/// Datagrams and messages of clients without a password, each behind its length of one byte, and time that passes.
pub fn strangers(data: &[u8]) {
    let mut now = Instant::now();
    let shared = Shared::new(now);
    let server = Server::new(config(), Arc::clone(&shared), [1; 32], [2; 32]);
    let mut server = server.expect("a configuration that works");
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first() {
        let (datagram, next) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = next;
        now += Duration::from_millis(u64::from(*length));
        let transport = [Transport::Udp, Transport::Tcp][usize::from(length & 1)];
        let from = client(transport, 1 + u16::from(length & 6));
        let relayed = server.handle_client(now, &from, datagram);
        assert!(relayed.is_none(), "nobody is let in");
        let mut answers = 0;
        while let Some(command) = server.poll_command() {
            let Command::Send { to, bytes } = command else {
                panic!("a stranger moves more than an answer");
            };
            assert_eq!(to, from);
            answers += 1;
            let within = bytes.len() + HEADERS <= 4 * (datagram.len() + HEADERS);
            assert!(within || transport.is_stream(), "{}", bytes.len());
        }
        assert!(answers <= 1);
    }
    assert_eq!((server.allocations(), shared.allocations()), (0, 0));
}

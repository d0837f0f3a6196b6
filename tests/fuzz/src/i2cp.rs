//! Targets for `anode-i2cp`: nothing may panic, what is accepted is written the same again, and neither the router nor a peer
//! makes a session grow or outlive its deadlines.

// By path, because tests of the crate include this file by path; they have `steps` in their root, as the library has.
#[path = "i2cp/messages.rs"]
pub mod messages;
#[path = "i2cp/streaming.rs"]
pub mod streaming;

use anode_i2cp::datagram::{self, Datagram, Kind, RawAnswers, Sender};
use anode_i2cp::destination::Destination;
use anode_i2cp::endpoint::{Endpoint, Event};
use anode_i2cp::envelope::{Effort, Gzip, MAX_INFLATED, MAX_MESSAGE, Ports, protocol};
use anode_i2cp::keys::LocalDestination;
use anode_i2cp::names::{self, Name};
use anode_i2cp::options::SessionOptions;
use anode_i2cp::{Now, streaming as streams};
pub use messages::messages;
use messages::{SESSION, frame, handshake};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
pub use streaming::streaming;

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("texts", texts),
    ("messages", messages),
    ("streaming", streaming),
    ("datagrams", datagrams),
];

/// Milliseconds since 1970 when every target begins.
pub const START_MS: u64 = 1_700_000_000_000;

/// Ours, and those of the peer, who may sign what it likes.
pub fn keys() -> &'static [Arc<LocalDestination>; 2] {
    static KEYS: OnceLock<[Arc<LocalDestination>; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        [1, 2].map(|seed| Arc::new(LocalDestination::generate(&mut StdRng::seed_from_u64(seed))))
    })
}

fn start() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: START_MS,
    }
}

/// Destinations, key files, names and options, as bytes and as text.
pub fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for read in [Destination::decode(bytes), Destination::from_base64(&text)] {
        let Ok(destination) = read else { continue };
        let again = Destination::from_base64(&destination.base64()).expect("it was written");
        assert_eq!(again.as_bytes(), destination.as_bytes());
        assert_eq!(again.hash(), destination.hash());
        // nobody signs with nothing
        assert!(destination.verify("it", b"", &[0; 64]).is_err());
    }
    if let Ok(decoded) = names::decode_base64("it", &text) {
        assert_eq!(names::base64(&decoded), text);
    }
    if let Ok(keys) = LocalDestination::from_file(bytes) {
        let again = LocalDestination::from_file(keys.to_text().as_bytes()).expect("written");
        assert_eq!(again.destination(), keys.destination());
        assert_eq!(again.to_file(), keys.to_file());
        let signature = keys.sign(b"it");
        let verified = keys.destination().verify("it", b"it", &signature);
        assert_eq!(verified, Ok(()));
    }
    match text.parse() {
        Ok(Name::Hash(hash)) => assert_eq!(hash.b32().parse(), Ok(Name::Hash(hash))),
        Ok(Name::Blinded(blinded)) => {
            assert_eq!(blinded.name().parse(), Ok(Name::Blinded(blinded)));
        }
        Ok(Name::Host(host)) => {
            assert!(host.len() <= 67 && host.ends_with(".i2p"));
            assert_eq!(host.parse(), Ok(Name::Host(host)));
        }
        Err(error) => assert!(error.to_string().chars().count() < 1000),
    }
    options(&text);
}

/// Lines of `name=value`. What they make goes to the router in pairs that it can take, and without our secrets.
fn options(text: &str) {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let Ok(options) = SessionOptions::parse(pairs.clone()) else {
        return;
    };
    let none = options.changes_to(&options);
    assert!(none.is_ok_and(|changes| changes.is_empty()) || text.len() > 60_000);
    let Ok(config) = options.session_config() else {
        assert!(text.len() > 60_000);
        return;
    };
    for (name, value) in config.iter() {
        assert!((1..=255).contains(&name.len()) && value.len() <= 255);
        assert_ne!(name, "i2cp.leaseSetPrivateKey");
        assert!(!name.starts_with("i2cp.leaseSetClient.psk."));
    }
    let shown = format!("{options:?}");
    for (name, value) in pairs {
        let secret = name.starts_with("i2cp.leaseSetClient.psk.");
        assert!(!secret || !shown.contains(&format!("{name:?}: {value:?}")));
    }
}

/// A payload from the network: as gzip, as each kind of datagram, and at an endpoint. The first byte says how it comes:
/// its protocol, in an honest envelope, or as it is (0).
pub fn datagrams(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let mut gzip = Gzip::default();
    enveloped(bytes, &mut gzip);
    for kind in [Kind::Raw, Kind::Datagram1, Kind::Datagram2, Kind::Datagram3] {
        decoded(kind, bytes, usize::from(*how));
    }
    answers(bytes);
    let ports = Ports {
        protocol: *how,
        from: 7,
        to: 80,
    };
    let payload = match how {
        0 => bytes.to_vec(),
        _ => gzip
            .seal(ports, bytes, Effort::Deflate)
            .expect("a small one"),
    };
    arrived(&payload);
}

fn enveloped(bytes: &[u8], gzip: &mut Gzip) {
    let opened = gzip.open(bytes);
    assert_eq!(
        opened,
        Gzip::default().open(bytes),
        "what was opened before counts"
    );
    let Ok((ports, data)) = opened else { return };
    assert!(data.len() <= MAX_INFLATED);
    for effort in [Effort::Stored, Effort::Deflate] {
        let Ok(again) = gzip.seal(ports, &data, effort) else {
            assert!(ports.protocol == 0 || data.len() > MAX_MESSAGE);
            continue;
        };
        assert!(again.len() <= data.len() + 23);
        assert_eq!(gzip.open(&again), Ok((ports, data.clone())));
    }
}

/// A datagram says of whom it is and for whom, and who alters a bit of it makes another one of it or none.
fn decoded(kind: Kind, bytes: &[u8], flip: usize) {
    let [own, peer] = keys();
    let own = own.destination().hash();
    let Ok(read) = datagram::decode(kind, &own, bytes, START_MS) else {
        return;
    };
    assert!(read.payload.len() <= bytes.len());
    assert!(
        bytes
            .windows(read.payload.len().max(1))
            .any(|it| it == read.payload)
            || read.payload.is_empty()
    );
    match (kind, &read.sender) {
        (Kind::Raw, Sender::Unknown) => assert_eq!(read.payload, bytes),
        (Kind::Datagram3, Sender::Claimed(hash)) => assert_eq!(hash.0, bytes[..32]),
        (Kind::Datagram1 | Kind::Datagram2, Sender::Signed(from)) => {
            assert!(bytes.starts_with(from.as_bytes()));
            let mut altered = bytes.to_vec();
            altered[flip * bytes.len() / 256] ^= 1;
            let altered = datagram::decode(kind, &own, &altered, START_MS);
            // what pads a destination is signed by nobody, but makes it another destination
            assert!(altered.is_err() || altered.is_ok_and(|it| it.sender != read.sender));
            let other = datagram::decode(kind, &peer.destination().hash(), bytes, START_MS);
            assert_eq!(other.is_ok(), kind == Kind::Datagram1);
        }
        other => panic!("{other:?}"),
    }
    if let Ok(written) = datagram::encode(kind, peer, &own, &read.payload) {
        assert_eq!(written.len(), kind.overhead() + read.payload.len());
        let again = datagram::decode(kind, &own, &written, START_MS);
        let sender = match kind {
            Kind::Raw => Sender::Unknown,
            Kind::Datagram3 => Sender::Claimed(peer.destination().hash()),
            Kind::Datagram1 | Kind::Datagram2 => Sender::Signed(peer.destination().clone()),
        };
        let payload = read.payload;
        assert_eq!(again, Ok(Datagram { sender, payload }));
    }
}

/// Ports that are sent from and to, each with seconds: an answer without a sender is of whom was sent to last.
fn answers(bytes: &[u8]) {
    let (life, start) = (Duration::from_secs(120), Instant::now());
    let (mut table, mut sent) = (RawAnswers::default(), HashMap::new());
    let (mut now, mut refused) = (Duration::ZERO, 0);
    let hashes = keys().each_ref().map(|keys| keys.destination().hash());
    for step in bytes.as_chunks::<3>().0 {
        let [local, remote, seconds] = *step;
        now += Duration::from_secs(u64::from(seconds / 2));
        let pair = (u16::from(local % 4), u16::from(remote % 4));
        if seconds % 2 == 0 {
            let to = hashes[usize::from(local / 128)];
            table.sent(pair.0, pair.1, to, start + now);
            sent.insert(pair, (to, now));
        } else {
            let known = sent.get(&pair).filter(|(_, at)| now - *at < life);
            refused += u64::from(known.is_none());
            let sender = table.sender(pair.0, pair.1, start + now);
            assert_eq!(sender, known.map(|(to, _)| *to));
        }
    }
    assert_eq!((table.refused, table.evicted), (refused, 0));
}

/// A payload at an endpoint: it is told or counted, once, and nobody is answered who did not sign.
fn arrived(payload: &[u8]) {
    let now = start();
    let options = SessionOptions::default();
    let config = streams::Config::default();
    let endpoint = Endpoint::new(keys()[0].clone(), options, None, config, [3; 32], now);
    let mut endpoint = endpoint.expect("defaults that work");
    endpoint.received(&handshake(), now);
    assert_eq!(endpoint.poll_event(), Some(Event::Ready));
    while endpoint.poll_transmit(now).is_some() {}
    let length = (payload.len() as u32).to_be_bytes();
    let body = [&SESSION[..], &[0, 0, 0, 1], &length, payload].concat();
    endpoint.received(&frame(31, &body), now);
    let (mut told, mut streaming) = (0, 0);
    while let Some(event) = endpoint.poll_event() {
        match event {
            Event::Datagram {
                kind,
                ports,
                datagram,
            } => {
                told += 1;
                assert_eq!(kind.protocol(), ports.protocol);
                assert!(datagram.payload.len() <= MAX_INFLATED);
            }
            Event::Stream(_) => streaming += 1,
            other => panic!("{other:?}"),
        }
    }
    let (counters, client, of_streams) = endpoint.counters();
    assert_eq!(client.payloads, 1);
    let dropped = counters.bad_payloads + counters.bad_datagrams + counters.unknown_protocol;
    let is_stream = Gzip::default()
        .open(payload)
        .is_ok_and(|(ports, _)| ports.protocol == protocol::STREAMING);
    assert_eq!(dropped + told + u64::from(is_stream), 1);
    assert!(streaming <= u64::from(is_stream));
    let mut answers = 0;
    while endpoint.poll_transmit(now).is_some() {
        answers += 1;
    }
    assert!(answers <= of_streams.pongs);
}

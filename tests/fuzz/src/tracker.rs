//! Targets for `anode-tracker`: nothing may panic, what is accepted is written the same again, nobody gets more out of us
//! than the limits say, and what strangers leave behind goes away.

// By path, because tests of the crate include this file by path; they have `steps` in their root, as the library has.
#[path = "tracker/client.rs"]
pub mod client;
#[path = "tracker/server.rs"]
pub mod server;

use crate::steps::steps;
use anode_tracker::bencode::{self, Value, Writer};
use anode_tracker::compact::{self, Family};
use anode_tracker::http::{self, AnnounceQuery, MAX_BODY, ScrapeQuery};
use anode_tracker::rendezvous::{
    Cidr, Filter, MAX_CANDIDATES, PresenceGate, ProbeKind, Prober, Time,
};
use anode_tracker::udp::packet::{self, AnnounceHead, MAX_SCRAPE, Request};
use anode_tracker::{
    Announce, Answer, InfoHash, Key, MAX_PEERS, MAX_TEXT, MAX_URL, Retry, TrackerUrl,
};
pub use client::client;
use rand::SeedableRng;
use rand::rngs::StdRng;
pub use server::server;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("parsers", parsers),
    ("client", client),
    ("server", server),
    ("candidates", candidates),
];

/// No interval of an HTTP answer is longer.
const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// Bytes and text as everything that a tracker, a tracker's client or a configuration may say.
pub fn parsers(bytes: &[u8]) {
    bencoded(bytes);
    answers(bytes);
    lists(bytes);
    datagrams(bytes);
    let text = String::from_utf8_lossy(bytes);
    url(&text);
    queries(&text);
    if let Ok(hash) = text.parse::<InfoHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(network) = text.parse::<Cidr>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

/// What is read is the canonical form of each value, so that it is written the same again.
fn bencoded(bytes: &[u8]) {
    let Ok(value) = bencode::parse(bytes) else {
        return;
    };
    let mut again = Vec::new();
    let values = write(value, 0, &mut again);
    assert!(bytes.starts_with(&again), "{value:?}");
    assert!(values <= bytes.len());
}

/// Writes a value; how many there are in it.
fn write(value: Value<'_>, depth: usize, out: &mut Vec<u8>) -> usize {
    assert!(depth <= bencode::MAX_DEPTH);
    match value {
        Value::Int(number) => match u64::try_from(number) {
            Ok(number) => drop(Writer::new(out).int(number)),
            // the writer has no use for them
            Err(_) => out.extend(format!("i{number}e").bytes()),
        },
        Value::Bytes(bytes) => drop(Writer::new(out).bytes(bytes)),
        Value::List(list) => {
            Writer::new(out).list();
            let inside: usize = list.into_iter().map(|it| write(it, depth + 1, out)).sum();
            Writer::new(out).end();
            return 1 + inside;
        }
        Value::Dict(dict) => {
            Writer::new(out).dict();
            let mut inside = 0;
            for (key, value) in dict {
                Writer::new(out).bytes(key);
                inside += write(value, depth + 1, out);
            }
            Writer::new(out).end();
            return 1 + inside;
        }
    }
    1
}

/// The body of an HTTP answer, under a status that counts and others.
fn answers(bytes: &[u8]) {
    for status in [200, 302, 400] {
        match http::announce_answer(status, bytes) {
            Ok(answer) => {
                assert_eq!(status, 200);
                within_limits(&answer, bytes.len());
                let intervals = [answer.interval, answer.min_interval];
                assert!(intervals.into_iter().flatten().all(|it| it <= YEAR));
            }
            Err(http::AnswerError::Refused(refusal)) => {
                printable(&refusal.reason);
                if let Some(Retry::After(wait)) = refusal.retry {
                    assert!(wait <= YEAR);
                }
            }
            Err(error) => assert!(error.to_string().len() <= MAX_TEXT),
        }
        if let Ok(entries) = http::scrape_answer(status, bytes, MAX_SCRAPE) {
            assert!(status == 200 && entries.len() <= MAX_SCRAPE);
        }
    }
}

/// An answer keeps what the crate says of answers.
pub fn within_limits(answer: &Answer, length: usize) {
    assert!(length <= MAX_BODY);
    assert!(answer.peers.len() <= MAX_PEERS);
    assert!(answer.surplus == 0 || answer.peers.len() == MAX_PEERS);
    assert!(answer.peers.len() + answer.surplus + answer.unusable <= length);
    assert!(answer.tracker_id.as_ref().is_none_or(|id| id.len() <= 256));
    answer.warning.iter().for_each(|text| printable(text));
}

fn printable(text: &str) {
    assert!(text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control));
}

/// Compact endpoints of both families.
fn lists(bytes: &[u8]) {
    for family in [Family::V4, Family::V6] {
        let Some(entries) = compact::entries(bytes, family) else {
            continue;
        };
        let mut again = Vec::new();
        for endpoint in entries {
            assert_eq!(Family::of(endpoint.ip()), family);
            compact::push(endpoint, &mut again);
        }
        assert_eq!(again, bytes);
    }
}

/// A datagram as a request and as an answer.
fn datagrams(bytes: &[u8]) {
    let mut again = Vec::new();
    match Request::parse(bytes) {
        None => {}
        Some(Request::Connect(transaction)) => {
            packet::write_connect(transaction, &mut again);
            assert!(bytes.starts_with(&again));
        }
        Some(Request::Scrape(request)) => {
            let hashes: Vec<_> = request.hashes().collect();
            assert!((1..=MAX_SCRAPE).contains(&hashes.len()));
            packet::write_scrape(request.connection, request.transaction, &hashes, &mut again);
            assert!(bytes.starts_with(&again));
        }
        Some(Request::Announce(request)) => {
            let target = request.options.target().collect::<Vec<_>>().concat();
            assert!(target.len() <= bytes.len());
            let Ok(target) = String::from_utf8(target) else {
                return;
            };
            let announce = Announce {
                info_hash: request.info_hash,
                peer_id: request.peer_id,
                key: Key(u32::from_be_bytes(request.key)),
                port: request.port,
                left: request.left,
                event: request.event,
                num_want: request.num_want.unwrap_or(u32::MAX),
                tracker_id: None,
                compact: true,
            };
            let (connection, transaction) = (request.connection, request.transaction);
            packet::write_announce(connection, transaction, &announce, &target, &mut again);
            let Some(Request::Announce(second)) = Request::parse(&again) else {
                panic!("what is written can be read");
            };
            let options = second.options.target().collect::<Vec<_>>().concat();
            assert_eq!(options, target.as_bytes());
            // the options are the same by what they say, not by how they are cut
            let options = request.options;
            assert_eq!(packet::AnnounceRequest { options, ..second }, request);
        }
    }
    again.clear();
    match packet::Answer::parse(bytes) {
        None => return,
        Some((transaction, packet::Answer::Connect(connection))) => {
            packet::write_connected(transaction, connection, &mut again);
        }
        Some((transaction, packet::Answer::Announce(body))) => {
            let Some((head, peers)) = AnnounceHead::parse(body) else {
                return;
            };
            packet::write_announced(transaction, head, &mut again);
            again.extend(peers);
        }
        Some((transaction, packet::Answer::Scrape(body))) => {
            packet::write_scraped(transaction, &mut again);
            for entry in packet::scrape_entries(body) {
                packet::write_scrape_entry(entry, &mut again);
            }
        }
        Some((transaction, packet::Answer::Error(text))) => {
            let Ok(text) = std::str::from_utf8(text) else {
                return;
            };
            packet::write_error(transaction, text, &mut again);
        }
    }
    assert!(bytes.starts_with(&again));
}

/// A tracker's URL is shown as one that is read the same, and no request made of it can be more than one line.
fn url(text: &str) {
    let Ok(url) = text.parse::<TrackerUrl>() else {
        return;
    };
    assert!(text.len() <= MAX_URL && url.port() > 0 && !url.host().is_empty());
    assert_eq!(url.to_string().parse().as_ref(), Ok(&url));
    let announce = Announce {
        info_hash: InfoHash([0xA5; 20]),
        peer_id: anode_tracker::PeerId(*b"-AN0100-\r\n GET / HTT"),
        key: Key(7),
        port: 8737,
        left: 1,
        event: None,
        num_want: 30,
        tracker_id: Some(b"a b\r\nc: d&port=1".to_vec()),
        compact: true,
    };
    let requests = [
        Some(http::announce(&url, &announce)),
        http::scrape(&url, &[announce.info_hash]),
    ];
    for request in requests.into_iter().flatten() {
        assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(request.headers[0], ("host", url.authority()));
        assert!(request.target.len() <= MAX_URL + 500);
    }
}

/// What stands behind the `?` of a request to a tracker.
fn queries(text: &str) {
    let url: TrackerUrl = "http://t/announce".parse().expect("a URL");
    if let Ok(query) = AnnounceQuery::parse(text) {
        assert!(query.port != 0 && query.key.len() <= 32);
        let announce = Announce {
            info_hash: query.info_hash,
            peer_id: query.peer_id,
            key: Key(1),
            port: query.port,
            left: u64::from(!query.complete),
            event: query.event,
            num_want: query.num_want.unwrap_or(0),
            tracker_id: None,
            compact: query.compact,
        };
        let request = http::announce(&url, &announce);
        let (_, again) = request.target.split_once('?').expect("a query");
        let again = AnnounceQuery::parse(again).expect("what is written can be read");
        let expected = AnnounceQuery {
            key: b"00000001".to_vec(),
            num_want: Some(announce.num_want),
            no_peer_id: false,
            ..query
        };
        assert_eq!(again, expected);
    }
    if let Ok(query) = ScrapeQuery::parse(text) {
        assert!((1..=MAX_SCRAPE).contains(&query.hashes.len()));
        let request = http::scrape(&url, &query.hashes).expect("a URL with a scrape form");
        let (_, again) = request.target.split_once('?').expect("a query");
        assert_eq!(ScrapeQuery::parse(again), Ok(query));
    }
}

/// The peers of answers and the presence of strangers, with time: the budget of probes is kept whatever trackers name.
/// A step's bytes are compact endpoints.
pub fn candidates(talk: &[u8]) {
    let mut rng = StdRng::seed_from_u64(1);
    let (start, mut now) = (Instant::now(), Duration::ZERO);
    let own: SocketAddr = ([192, 0, 2, 1], 8737).into();
    let deny: Cidr = "203.0.113.0/24".parse().expect("a network");
    let filter = Filter {
        own: vec![own],
        deny: vec![deny],
        ..Filter::default()
    };
    let (mut prober, mut gate) = (Prober::<u8>::new(), PresenceGate::default());
    let mut sent = VecDeque::new();
    let mut of_minute: BTreeMap<(u64, SocketAddr), u32> = BTreeMap::new();
    let mut answered: BTreeMap<IpAddr, Duration> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for step in steps(talk).take(100) {
        now += Duration::from_millis(1 << (step.later % 20));
        let family = [Family::V4, Family::V6][usize::from(step.kind >> 7)];
        let whole = step.bytes.len() - step.bytes.len() % family.entry_size();
        let entries = compact::entries(&step.bytes[..whole], family);
        let peers: Vec<_> = entries.expect("whole entries").collect();
        let time = Time {
            now: start + now,
            unix: Duration::from_secs(1_700_000_000) + now,
        };
        match step.kind % 5 {
            0 => {
                let tracker = IpAddr::from([[192, 0, 2, 7], [10, 0, 0, 7]][peers.len() % 2]);
                let selection = filter.select(&peers, tracker, &mut rng);
                let taken = &selection.candidates;
                assert!(taken.len() <= MAX_CANDIDATES);
                let none = |peer: &SocketAddr| {
                    peer.port() < filter.lowest_port || *peer == own || deny.contains(peer.ip())
                };
                assert!(!taken.iter().any(none));
                let lost = selection.dropped;
                let lost = [
                    lost.scope,
                    lost.private,
                    lost.own,
                    lost.port,
                    lost.denied,
                    lost.repeated,
                    lost.surplus,
                ];
                assert_eq!(taken.len() + lost.iter().sum::<usize>(), peers.len());
                named.extend(taken.iter().copied());
                prober.add(taken, time);
            }
            1 => {
                let _ = prober.want(step.later, time.now);
                assert!(prober.wanted().count() <= 64);
            }
            2 => prober.unwant(&step.later),
            3 => peers.iter().for_each(|peer| prober.answered(*peer)),
            _ => {
                for peer in peers {
                    let source = peer.ip().to_canonical();
                    if gate.allow(source, usize::from(step.later), 120, time.now) {
                        assert!(usize::from(step.later) + 8 >= 120);
                        let before = answered.insert(source, now);
                        assert!(before.is_none_or(|at| now - at >= Duration::from_secs(5)));
                    }
                }
            }
        }
        while let Some(probe) = prober.poll(time, &mut rng) {
            assert!(named.contains(&probe.to));
            if let ProbeKind::Request(_) = probe.kind {
                // at most three a round; two rounds may touch one minute
                let minute = time.unix.as_secs() / 60;
                let count = of_minute.entry((minute, probe.to)).or_default();
                *count += 1;
                assert!(*count <= 6, "{}", probe.to);
            }
            sent.push_back(now);
            let since = |span: u64| {
                let span = Duration::from_secs(span);
                sent.iter().filter(|at| now - **at < span).count()
            };
            assert!(since(1) <= 20 && since(3_600) <= 2_000);
        }
        let held = named.iter().filter(|peer| prober.holds(peer)).count();
        assert!(held <= 256);
        assert!(prober.deadline(time.now).is_none_or(|at| at > time.now));
    }
}

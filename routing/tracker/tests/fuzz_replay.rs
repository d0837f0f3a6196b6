//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../../tests/fuzz/src/steps.rs"]
mod steps;
#[path = "../../../tests/fuzz/src/tracker.rs"]
mod tracker;

use anode_tracker::bencode::Writer;
use anode_tracker::udp::packet::{self, AnnounceHead, ConnectionId, TransactionId};
use anode_tracker::{
    Announce, Event, InfoHash, Key, PeerId, ScrapeEntry, TrackerUrl, compact, http,
};
use replay::{Corpus, MUTATIONS, Target};
use steps::step;
use tracker::client::{ADDRESSES, ANSWER, CHANGE, DATAGRAM, EAGER, NO_ANSWER, NO_SOCKET, STRAY};

/// Of the targets that make a server or a client each time.
const STATE_MUTATIONS: usize = 2_000;

fn targets() -> Vec<Target> {
    replay::targets("tracker", tracker::TARGETS, |name| match name {
        "parsers" => MUTATIONS,
        _ => STATE_MUTATIONS,
    })
}

/// One valid input of every kind: what the mutations start from.
fn seeds(target: &str) -> Corpus {
    match target {
        "tracker_parsers" => texts(),
        "tracker_client" => trackers(),
        "tracker_server" => askers(),
        "tracker_candidates" => answers(),
        unknown => panic!("no seeds for {unknown}"),
    }
}

fn corpus<const N: usize>(inputs: [(&str, Vec<u8>); N]) -> Corpus {
    inputs.map(|(name, input)| (name.to_owned(), input)).into()
}

fn announce(event: Option<Event>, port: u16) -> Announce {
    Announce {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId(*b"-AN0100-abcdefghijkl"),
        key: Key(0x0102_0304),
        port,
        left: 1,
        event,
        num_want: 30,
        tracker_id: None,
        compact: true,
    }
}

fn target(announce: &Announce) -> Vec<u8> {
    let url: TrackerUrl = "http://t/announce".parse().unwrap();
    http::announce(&url, announce).target.into_bytes()
}

fn scrape(hashes: &[InfoHash]) -> Vec<u8> {
    let url: TrackerUrl = "http://t/announce".parse().unwrap();
    http::scrape(&url, hashes).unwrap().target.into_bytes()
}

fn query(target: &[u8]) -> Vec<u8> {
    let at = target.iter().position(|byte| *byte == b'?').unwrap();
    target[at + 1..].to_vec()
}

fn endpoints(of: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    of.iter()
        .for_each(|text| compact::push(text.parse().unwrap(), &mut out));
    out
}

const PEERS: [&str; 3] = ["192.0.2.50:8737", "198.51.100.9:51413", "203.0.113.1:9000"];
const PEERS6: [&str; 2] = ["[2001:db8::50]:8737", "[2001:db8:2::9]:51413"];

/// An answer with everything that one may hold.
fn full_answer() -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out)
        .dict()
        .bytes(b"complete")
        .int(3)
        .bytes(b"external ip")
        .bytes(&[192, 0, 2, 1])
        .bytes(b"incomplete")
        .int(2)
        .bytes(b"interval")
        .int(1800)
        .bytes(b"min interval")
        .int(300)
        .bytes(b"peers")
        .bytes(&endpoints(&PEERS))
        .bytes(b"peers6")
        .bytes(&endpoints(&PEERS6))
        .bytes(b"tracker id")
        .bytes(b"id of\r\nthe tracker")
        .bytes(b"warning message")
        .bytes(b"be\x1b[2J warned")
        .end();
    out
}

const LISTED: &[u8] = b"d8:intervali900e5:peersld2:ip9:192.0.2.77:peer id20:-AN0100-abcdefghijkl4:porti8737eed2:ip9:t.example4:porti1eeee";
const REFUSAL: &[u8] = b"d14:failure reason9:not today8:retry in2:15e";
const NEVER: &[u8] = b"d14:failure reason2:no8:retry in5:nevere";

fn texts() -> Corpus {
    let (connection, transaction) = (ConnectionId(*b"connect!"), TransactionId(0x0505_0505));
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let head = AnnounceHead {
        interval: 900,
        leechers: 2,
        seeders: 1,
    };
    let hashes = [InfoHash([7; 20]), InfoHash([8; 20])];
    let started = announce(Some(Event::Started), 8737);
    let listed = {
        let mut text = String::from_utf8(query(&target(&started))).unwrap();
        text.push_str("&no_peer_id=1&compact=0&ip=203.0.113.9&ipv6=%5B::1%5D");
        text.into_bytes()
    };
    corpus([
        ("answer", full_answer()),
        ("answer-listed", LISTED.to_vec()),
        ("refusal", REFUSAL.to_vec()),
        ("refusal-never", NEVER.to_vec()),
        (
            "scraped",
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi-1e10:incompletei3eeee"
                .to_vec(),
        ),
        ("deep", b"lllllllllllllllleeeeeeeeeeeeeeee".to_vec()),
        (
            "url",
            b"https://[2001:db8::1]:6969/announce?pass=a%20b".to_vec(),
        ),
        ("url-udp", b"udp://tracker.example:80/announce".to_vec()),
        (
            "info-hash",
            b"AE6c5ad699f4f549df3fa37df67ea8857b0d2d2a".to_vec(),
        ),
        ("network", b"2001:db8::/48".to_vec()),
        ("query", query(&target(&started))),
        ("query-listed", listed),
        ("query-scrape", query(&scrape(&hashes))),
        (
            "connect",
            written(&|out| packet::write_connect(transaction, out)),
        ),
        (
            "connected",
            written(&|out| packet::write_connected(transaction, connection, out)),
        ),
        (
            "announce",
            written(&|out| {
                packet::write_announce(connection, transaction, &started, "/announce?a", out);
            }),
        ),
        (
            "announced",
            written(&|out| {
                packet::write_announced(transaction, head, out);
                out.extend(endpoints(&PEERS));
            }),
        ),
        (
            "scrape",
            written(&|out| packet::write_scrape(connection, transaction, &hashes, out)),
        ),
        (
            "scrape-answer",
            written(&|out| {
                packet::write_scraped(transaction, out);
                packet::write_scrape_entry(ScrapeEntry::default(), out);
            }),
        ),
        (
            "error",
            written(&|out| packet::write_error(transaction, "go away\0", out)),
        ),
        ("peers-v6", endpoints(&PEERS6)),
    ])
}

/// What trackers say to the client of `tracker_client`. A step's first byte says which request it is for.
fn trackers() -> Corpus {
    let answer = |status: u8, body: &[u8]| [&[0, status], body].concat();
    let minutes = |count: u8| count << 3;
    let connected = [&[0][..], b"connect!"].concat();
    let announced = [
        &[0, 0, 0, 3, 132, 0, 0, 0, 1, 0, 0, 0, 2][..],
        &endpoints(&PEERS),
    ]
    .concat();
    let announced6 = [
        &[1, 0, 0, 3, 132, 0, 0, 0, 1, 0, 0, 0, 2][..],
        &endpoints(&PEERS6),
    ]
    .concat();
    corpus([
        ("http", {
            [
                step(ADDRESSES, 0, &[0, 198, 51, 100, 8]),
                step(ANSWER, 1, &answer(0, &full_answer())),
                step(ANSWER, 0, &answer(0, LISTED)),
                step(ANSWER | minutes(31), 0, &answer(0, &full_answer())),
                step(ANSWER | minutes(31), 0, &answer(0, REFUSAL)),
                step(ANSWER | minutes(20), 0, &answer(0, NEVER)),
                step(ANSWER | minutes(31), 0, &answer(3, b"moved")),
                step(NO_ANSWER | minutes(2), 40, &[0]),
            ]
            .concat()
        }),
        ("udp", {
            let second = |bytes: &[u8]| [&[1], &bytes[1..]].concat();
            [
                step(DATAGRAM, 1, &connected),
                step(DATAGRAM, 0, &announced),
                step(DATAGRAM, 1, &second(&connected)),
                step(DATAGRAM, 0, &announced6),
                step(DATAGRAM | minutes(15), 10, &connected),
                step(DATAGRAM, 1, &[&[200][..], b"no such hash\0"].concat()),
                step(STRAY, 0, &[&[0][..], &announced].concat()),
                step(NO_SOCKET, 200, &[1]),
            ]
            .concat()
        }),
        ("eager-and-moving", {
            [
                step(ADDRESSES, 0, &[255]),
                step(EAGER, 0, &[0]),
                step(ANSWER, 5, &answer(0, b"d8:intervali0e12:min intervali0ee")),
                step(ANSWER | minutes(1), 5, &answer(0, b"d8:intervali0ee")),
                step(CHANGE, 5, &[4, 9]),
                step(CHANGE | minutes(1), 5, &[9]),
                step(CHANGE | minutes(2), 5, &[255]),
                step(ADDRESSES | minutes(2), 0, &[0, 10, 0, 0, 1]),
                step(EAGER, 0, &[1]),
            ]
            .concat()
        }),
    ])
}

/// Those who ask the server: the way that a step comes, from whom it does.
fn askers() -> Corpus {
    let udp = |announce: &Announce| {
        let mut out = Vec::new();
        let (connection, transaction) = (ConnectionId([0; 8]), TransactionId(9));
        packet::write_announce(connection, transaction, announce, "/a", &mut out);
        out
    };
    let mut connect = Vec::new();
    packet::write_connect(TransactionId(9), &mut connect);
    let mut scraping = Vec::new();
    let hashes = [InfoHash([7; 20]), InfoHash([8; 20])];
    packet::write_scrape(
        ConnectionId([0; 8]),
        TransactionId(9),
        &hashes,
        &mut scraping,
    );
    let (raw, proven, of_another, access, page) = (0, 1, 2, 3, 4);
    let from = |source: u8, how: u8| 6 * source + how;
    let started = announce(Some(Event::Started), 8737);
    corpus([
        ("udp", {
            let mut talk = Vec::new();
            for source in 0..6 {
                talk.extend(step(from(source, raw), 1, &connect));
                talk.extend(step(from(source, proven), 0, &udp(&started)));
            }
            talk.extend(step(from(0, proven), 1, &scraping));
            talk.extend(step(from(1, of_another), 1, &udp(&started)));
            talk.extend(step(
                from(0, proven),
                1,
                &udp(&announce(Some(Event::Stopped), 8737)),
            ));
            talk.extend(step(from(0, proven), 200, &udp(&started)));
            talk
        }),
        ("http", {
            let mut talk = Vec::new();
            for source in 0..6 {
                let mut asked = announce(Some(Event::Started), 8737 + u16::from(source));
                asked.peer_id.0[19] = source;
                asked.compact = source % 2 == 0;
                talk.extend(step(from(source, page), 1, &target(&asked)));
            }
            talk.extend(step(from(0, page), 1, &scrape(&hashes)));
            talk.extend(step(from(0, page), 1, b"/favicon.ico"));
            talk.extend(step(from(3, page), 1, b"/announce?info_hash=a"));
            talk
        }),
        ("full", {
            let mut talk = Vec::new();
            for port in 1..=5 {
                for source in 0..6 {
                    let mut asked = announce(None, port);
                    asked.info_hash.0 = [port as u8; 20];
                    asked.peer_id.0[19] = source;
                    talk.extend(step(from(source, page), 1, &target(&asked)));
                }
            }
            talk.extend(step(access, 1, &[1, 2]));
            talk.extend(step(access, 1, &[]));
            talk.extend(step(from(0, page), 255, &target(&announce(None, 0))));
            talk
        }),
        ("insistent", step(from(2, raw), 0, &connect).repeat(40)),
    ])
}

/// Answers with peers and other things that move the prober.
fn answers() -> Corpus {
    let peers = endpoints(&PEERS);
    let six = 128;
    let seconds = 10;
    corpus([
        ("search", {
            [
                step(1, 0, &[]),
                step(0, 3, &peers),
                step(six, 3, &endpoints(&PEERS6)),
                step(1, seconds, &[]),
                step(0, seconds + 5, &peers),
                step(1, seconds + 6, &[]),
                step(3, 2, &peers[..6]),
                step(2, 16, &[]),
                step(0, 17, &peers),
            ]
            .concat()
        }),
        ("presence", {
            let gate = |later| step(4, later, &peers);
            [gate(120), gate(119), gate(140), gate(111), gate(132)].concat()
        }),
        ("flood", {
            let many = |net: u8| -> Vec<u8> {
                let entry = |host: u8| [198, net, host, 1, 200, host];
                (0..60).flat_map(entry).collect()
            };
            let mut talk = step(1, 0, &[]);
            for net in 0..40 {
                talk.extend(step(0, 11, &many(net)));
                talk.extend(step(1, 12, &[]));
            }
            talk
        }),
    ])
}

// B9, B15, S36
replay::tests!();

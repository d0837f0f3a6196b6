mod limits;

use super::*;
use crate::http::{self, AnswerError};
use crate::types::{Announce, Answer, Event, Key, PeerId, ScrapeEntry};
use crate::udp::packet::{self, ConnectionId, TransactionId};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::net::SocketAddr;

const HASH: InfoHash = InfoHash([7; 20]);

struct World {
    server: Server,
    rng: StdRng,
    now: Instant,
}

impl World {
    fn with(config: Config) -> Self {
        let (mut rng, now) = (StdRng::seed_from_u64(5), Instant::now());
        Self {
            server: Server::new(config, Access::Open, now, &mut rng),
            rng,
            now,
        }
    }

    /// Without a rate limit in the way.
    fn new() -> Self {
        Self::with(Config {
            requests_per_second: 1_000,
            ..Config::default()
        })
    }

    fn after(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        if self.now >= self.server.deadline() {
            self.server.handle_timeout(self.now);
        }
    }

    fn send(&mut self, source: &str, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let answered = self.server.udp(
            source.parse().unwrap(),
            datagram,
            self.now,
            &mut self.rng,
            &mut out,
        );
        assert_eq!(answered, !out.is_empty());
        answered.then_some(out)
    }

    fn connect(&mut self, source: &str) -> ConnectionId {
        let mut request = Vec::new();
        packet::write_connect(TransactionId(1), &mut request);
        let answer = self.send(source, &request).unwrap();
        assert_eq!(answer.len(), 16);
        match packet::Answer::parse(&answer) {
            Some((TransactionId(1), packet::Answer::Connect(id))) => id,
            other => panic!("{other:?}"),
        }
    }

    fn udp(
        &mut self,
        source: &str,
        announce: &Announce,
    ) -> Result<(packet::AnnounceHead, Vec<u8>), String> {
        let mut request = Vec::new();
        packet::write_announce(
            self.connect(source),
            TransactionId(2),
            announce,
            "/announce",
            &mut request,
        );
        let answer = self.send(source, &request).unwrap();
        match packet::Answer::parse(&answer) {
            Some((TransactionId(2), packet::Answer::Announce(body))) => {
                let (head, peers) = packet::AnnounceHead::parse(body).unwrap();
                Ok((head, peers.to_vec()))
            }
            Some((TransactionId(2), packet::Answer::Error(text))) => {
                Err(String::from_utf8(text.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn raw_http(&mut self, source: &str, target: &str) -> (u16, Vec<u8>) {
        let mut out = Vec::new();
        let status = self.server.http(
            source.parse().unwrap(),
            target,
            self.now,
            &mut self.rng,
            &mut out,
        );
        (status, out)
    }

    fn http(&mut self, source: &str, announce: &Announce) -> Result<Answer, AnswerError> {
        let request = http::announce(&"http://t/announce".parse().unwrap(), announce);
        let (status, body) = self.raw_http(source, &request.target);
        http::announce_answer(status, &body)
    }

    fn scrape(&mut self) -> Option<ScrapeEntry> {
        let request = http::scrape(
            &"http://t/announce".parse().unwrap(),
            &[HASH, HASH, InfoHash([9; 20])],
        )
        .unwrap();
        let (status, body) = self.raw_http("192.0.2.250", &request.target);
        let entries = http::scrape_answer(status, &body, 10).unwrap();
        assert!(entries.len() <= 1);
        entries.first().map(|(hash, entry)| {
            assert_eq!(*hash, HASH);
            *entry
        })
    }
}

fn client(n: u8, port: u16) -> Announce {
    Announce {
        info_hash: HASH,
        peer_id: PeerId([n; 20]),
        key: Key(n.into()),
        port,
        left: 1,
        event: Some(Event::Started),
        num_want: 30,
        tracker_id: None,
        compact: true,
    }
}

fn sorted(mut peers: Vec<SocketAddr>) -> Vec<String> {
    peers.sort();
    peers.iter().map(ToString::to_string).collect()
}

// B12, B14
#[test]
fn every_compact_request_gets_peers_and_peers6_whatever_its_family() {
    let mut world = World::new();
    world.http("192.0.2.1", &client(1, 1001)).unwrap();
    world.http("2001:db8::1", &client(2, 1002)).unwrap();
    for (asker, source) in [(3, "192.0.2.3"), (4, "2001:db8::4")] {
        let answer = world.http(source, &client(asker, 1003)).unwrap();
        let peers = sorted(answer.peers);
        assert!(
            peers.contains(&"192.0.2.1:1001".to_owned())
                && peers.contains(&"[2001:db8::1]:1002".to_owned())
        );
        assert_eq!(answer.external_ip, Some(source.parse().unwrap()));
        assert_eq!(
            (answer.interval, answer.min_interval),
            (
                Some(Duration::from_secs(1800)),
                Some(Duration::from_secs(60))
            )
        );
    }
    let request = http::announce(
        &"http://t/announce".parse().unwrap(),
        &Announce {
            num_want: 0,
            ..client(5, 1)
        },
    );
    let (_, body) = world.raw_http("192.0.2.5", &request.target);
    let text = String::from_utf8_lossy(&body);
    assert!(
        text.contains("5:peers0:") && text.contains("6:peers60:"),
        "both keys stand even when empty: {text}"
    );
}

// B10
#[test]
fn a_list_holds_both_families_as_text() {
    let mut world = World::new();
    world.http("192.0.2.1", &client(1, 1001)).unwrap();
    world.http("2001:db8::1", &client(2, 1002)).unwrap();
    let asker = Announce {
        compact: false,
        ..client(3, 1003)
    };
    let answer = world.http("192.0.2.3", &asker).unwrap();
    assert_eq!(
        sorted(answer.peers),
        ["192.0.2.1:1001", "[2001:db8::1]:1002"]
    );
    let target = http::announce(&"http://t/announce".parse().unwrap(), &asker).target;
    let with = world.raw_http("192.0.2.3", &target).1;
    let without = world
        .raw_http("192.0.2.3", &format!("{target}&no_peer_id=1"))
        .1;
    assert!(
        with.windows(9).any(|text| text == b"7:peer id")
            && !without.windows(9).any(|text| text == b"7:peer id")
    );
}

// B15, B9
#[test]
fn only_the_source_address_is_registered() {
    let mut world = World::new();
    let mut target = http::announce(&"http://t/announce".parse().unwrap(), &client(1, 1001)).target;
    target.push_str("&ip=203.0.113.66&ipv4=203.0.113.67:9&ipv6=2001:db8::66");
    world.raw_http("192.0.2.1", &target);
    let mut request = Vec::new();
    packet::write_announce(
        world.connect("192.0.2.2:5"),
        TransactionId(2),
        &client(2, 1002),
        "",
        &mut request,
    );
    request[84..88].copy_from_slice(&[203, 0, 113, 68]);
    world.send("192.0.2.2:5", &request).unwrap();
    let answer = world.http("192.0.2.3", &client(3, 1003)).unwrap();
    assert_eq!(sorted(answer.peers), ["192.0.2.1:1001", "192.0.2.2:1002"]);
}

// B16
#[test]
fn a_client_is_counted_once_and_every_address_is_listed() {
    let mut world = World::new();
    for source in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        world.http(source, &client(1, 1001)).unwrap();
    }
    assert_eq!(
        world.scrape(),
        Some(ScrapeEntry {
            complete: 0,
            downloaded: 0,
            incomplete: 1
        })
    );
    let answer = world.http("192.0.2.9", &client(2, 1002)).unwrap();
    assert_eq!((answer.peers.len(), answer.incomplete), (4, Some(2)));
    // keys are bytes: 8 digits, 7 digits, raw ones, none
    for (n, key) in [
        "&key=075BCD15",
        "&key=75bcd15",
        "&key=%00%ff%2b",
        "&key=",
        "",
    ]
    .iter()
    .enumerate()
    {
        let target = format!(
            "/announce?info_hash=%07{}&peer_id={}&port=9{key}",
            "%07".repeat(19),
            "s".repeat(20)
        );
        world.raw_http(&format!("192.0.2.{}", 20 + n), &target);
    }
    assert_eq!(
        world.scrape().unwrap().incomplete,
        2 + 4,
        "no key and an empty one are the same"
    );
}

#[test]
fn counts_follow_what_clients_say() {
    let mut world = World::new();
    world.http("192.0.2.1", &client(1, 1)).unwrap();
    world.http("192.0.2.2", &client(2, 1)).unwrap();
    let done = Announce {
        left: 0,
        event: Some(Event::Completed),
        ..client(1, 1)
    };
    world.http("192.0.2.1", &done).unwrap();
    assert_eq!(
        world.scrape(),
        Some(ScrapeEntry {
            complete: 1,
            downloaded: 1,
            incomplete: 1
        })
    );
    // another client takes over the same endpoint
    world.http("192.0.2.1", &client(3, 1)).unwrap();
    assert_eq!(
        world.scrape(),
        Some(ScrapeEntry {
            complete: 0,
            downloaded: 1,
            incomplete: 2
        })
    );
    for (source, n) in [("192.0.2.1", 3), ("192.0.2.2", 2)] {
        let answer = world
            .http(
                source,
                &Announce {
                    event: Some(Event::Stopped),
                    ..client(n, 1)
                },
            )
            .unwrap();
        assert!(answer.peers.is_empty());
    }
    assert_eq!(
        (
            world.scrape(),
            world.server.entries(),
            world.server.swarms()
        ),
        (None, 0, 0)
    );
}

#[test]
fn a_stop_removes_only_what_the_same_client_announced() {
    let mut world = World::new();
    world.http("192.0.2.1", &client(1, 1)).unwrap();
    let stop = |n| Announce {
        event: Some(Event::Stopped),
        ..client(n, 1)
    };
    world.http("192.0.2.1", &stop(2)).unwrap();
    world.http("192.0.2.2", &stop(1)).unwrap();
    assert_eq!(world.server.entries(), 1);
    world.http("192.0.2.1", &stop(1)).unwrap();
    assert_eq!(world.server.entries(), 0);
}

// B11: 6 bytes an entry over IPv4, 18 over IPv6; one socket for both families
#[test]
fn udp_answers_have_entries_of_the_family_of_the_packet() {
    let mut world = World::new();
    world
        .udp("[::ffff:192.0.2.1]:700", &client(1, 8737))
        .unwrap();
    world.udp("[2001:db8::1]:700", &client(2, 8737)).unwrap();
    let (head, peers) = world.udp("[::ffff:192.0.2.9]:700", &client(3, 1)).unwrap();
    assert_eq!(peers, [192, 0, 2, 1, 0x22, 0x21]);
    assert_eq!(
        head,
        packet::AnnounceHead {
            interval: 1800,
            leechers: 3,
            seeders: 0
        }
    );
    let (_, peers) = world.udp("[2001:db8::9]:700", &client(4, 1)).unwrap();
    assert_eq!(
        (peers.len(), &peers[..2], &peers[15..]),
        (18, &[0x20, 1][..], &[1, 0x22, 0x21][..])
    );
    // announced over UDP, asked for over HTTP
    assert_eq!(
        world.http("192.0.2.10", &client(5, 1)).unwrap().peers.len(),
        4
    );
}

#[test]
fn scrapes_over_udp_know_what_scrapes_over_http_know() {
    let mut world = World::new();
    world.udp("192.0.2.1:5", &client(1, 1)).unwrap();
    let mut request = Vec::new();
    packet::write_scrape(
        world.connect("192.0.2.1:5"),
        TransactionId(4),
        &[InfoHash([1; 20]), HASH],
        &mut request,
    );
    let answer = world.send("192.0.2.1:5", &request).unwrap();
    let Some((_, packet::Answer::Scrape(body))) = packet::Answer::parse(&answer) else {
        panic!("no scrape")
    };
    let one = ScrapeEntry {
        complete: 0,
        downloaded: 0,
        incomplete: 1,
    };
    assert_eq!(
        packet::scrape_entries(body).collect::<Vec<_>>(),
        [ScrapeEntry::default(), one]
    );
    assert_eq!(world.scrape(), Some(one));
}

/// What the bookkeeping must add up to.
fn consistent(world: &World) {
    let registry = &world.server.registry;
    assert!(registry.entries() <= world.server.config.max_entries);
    assert!(registry.swarms() <= world.server.config.max_swarms);
    assert_eq!(registry.sum_of_entries(), registry.entries());
    assert_eq!(registry.sum_of_sources(), registry.entries());
}

proptest! {
    // S36
    #[test]
    fn arbitrary_datagrams_are_never_amplified(
        datagrams in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..150), 0u8..4), 1..30),
    ) {
        let mut world = World::new();
        for (mut datagram, action) in datagrams {
            if datagram.len() >= 16 {
                datagram[8..12].copy_from_slice(&[0, 0, 0, action]);
                if action == 0 {
                    datagram[..8].copy_from_slice(&packet::MAGIC.to_be_bytes());
                }
            }
            if let Some(answer) = world.send("192.0.2.1:5", &datagram) {
                prop_assert!(answer.len() <= datagram.len());
            }
        }
        prop_assert_eq!(world.server.entries(), 0);
    }

    #[test]
    fn any_sequence_of_announces_keeps_the_books(
        steps in proptest::collection::vec((0u8..6, 0u8..3, 1u16..4, 0u8..3, 0u8..8, any::<bool>()), 1..200),
    ) {
        let config = Config {
            max_entries: 20, max_swarms: 2, entries_per_source: 5, requests_per_second: 1_000, ..Config::default()
        };
        let mut world = World::with(config);
        for (host, n, port, swarm, what, v6) in steps {
            let event = match what {
                0 | 1 => Some(Event::Stopped),
                2 => Some(Event::Completed),
                _ => None,
            };
            let info_hash = InfoHash([swarm; 20]);
            let announce = Announce { info_hash, event, left: u64::from(what % 2), ..client(n, port) };
            let source = if v6 { format!("2001:db8::{host}") } else { format!("192.0.2.{host}") };
            let _ = world.http(&source, &announce);
            if what == 7 {
                world.after(1_000);
            }
            consistent(&world);
        }
        world.after(4_000);
        consistent(&world);
        prop_assert_eq!((world.server.entries(), world.server.swarms()), (0, 0));
    }
}

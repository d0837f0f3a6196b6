use super::*;
use crate::tracker::{Announce, Event, Key, PeerId, Question, Reply, TrackerUrl, ask};
use anode_tracker::Answer;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HASH: InfoHash = InfoHash([7; 20]);

fn start(served: Served, connections: ConnectionLimits) -> (Arc<Tracker>, RunningTracker) {
    let addresses = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let listeners = Listeners::bind(&addresses).unwrap();
    let tracker = Tracker::new(Config::default(), served, connections).unwrap();
    let tracker = Arc::new(tracker);
    let running = tracker.start(listeners).unwrap();
    (tracker, running)
}

fn open() -> Served {
    Served {
        open: true,
        ..Served::default()
    }
}

fn counter(tracker: &Tracker, name: &str) -> u64 {
    let all = tracker.counters();
    let found = all.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{name}")).1
}

fn announce(n: u8, event: Option<Event>) -> Question {
    Question::Announce(Announce {
        info_hash: HASH,
        peer_id: PeerId([n; 20]),
        key: Key(n.into()),
        port: 9_000 + u16::from(n),
        left: 1,
        event,
        num_want: 30,
        tracker_id: None,
        compact: true,
    })
}

async fn tell(scheme: &str, at: SocketAddr, question: &Question) -> Result<Answer, String> {
    let url: TrackerUrl = format!("{scheme}://{at}/announce").parse().unwrap();
    match ask(&url, at.ip(), at, question, &None).await {
        Ok(Reply::Announced(answer)) => Ok(answer),
        Ok(Reply::Scraped(_)) => panic!("nobody asked for a scrape"),
        Err(error) => Err(error.to_string()),
    }
}

// B3, B11, B14, B15: both protocols and families on one port, and everybody is told of everybody.
#[tokio::test]
async fn udp_and_http_of_both_families_meet_in_one_swarm() {
    let (tracker, running) = start(open(), ConnectionLimits::default());
    let [four, six] = running.listen() else {
        panic!("two addresses")
    };
    let cases = [
        ("udp", *four),
        ("http", *four),
        ("udp", *six),
        ("http", *six),
    ];
    for (n, (scheme, at)) in cases.into_iter().enumerate() {
        let question = announce(n as u8, Some(Event::Started));
        let answer = tell(scheme, at, &question).await.unwrap();
        assert_eq!(answer.incomplete, Some(n as u32 + 1), "{scheme} {at}");
        let of_family = |v6| {
            answer
                .peers
                .iter()
                .filter(|peer| peer.is_ipv6() == v6)
                .count()
        };
        // Over HTTP both families whatever the asker's, over UDP the asker's alone; never the asker itself.
        let expected = [(0, 0), (1, 0), (0, 0), (2, 1)][n];
        assert_eq!(
            (of_family(false), of_family(true)),
            expected,
            "{scheme} {at}"
        );
        if scheme == "http" {
            assert_eq!(answer.external_ip, Some(at.ip()));
        }
    }
    let url: TrackerUrl = format!("udp://{four}").parse().unwrap();
    let scrape = ask(&url, four.ip(), *four, &Question::Scrape(HASH), &None).await;
    let Ok(Reply::Scraped(entry)) = scrape else {
        panic!("{scrape:?}")
    };
    assert_eq!((entry.complete, entry.incomplete), (0, 4));
    tell("udp", *four, &announce(0, Some(Event::Stopped)))
        .await
        .unwrap();
    assert_eq!(counter(&tracker, "anode_tracker_entries"), 3);
    assert_eq!(counter(&tracker, "anode_tracker_announces_total"), 5);
    assert_eq!(counter(&tracker, "anode_tracker_tx_refused_total"), 0);
}

#[tokio::test]
async fn a_closed_tracker_serves_what_is_listed_and_says_so_in_words() {
    let own = OwnHashes {
        secret: b"secret".to_vec(),
        zone: [0, 0, 0, 42],
        rotation: Rotation::Daily,
    };
    let hashes: Vec<_> = own.in_force(unix()).collect();
    let served = Served {
        own: vec![own],
        ..Served::default()
    };
    let (tracker, running) = start(served, ConnectionLimits::default());
    let at = running.listen()[0];
    for scheme in ["udp", "http"] {
        let refused = tell(scheme, at, &announce(1, None)).await.unwrap_err();
        assert!(
            refused.contains("does not serve this info hash"),
            "{refused}"
        );
        for hash in &hashes {
            let Question::Announce(mut own) = announce(1, None) else {
                unreachable!()
            };
            own.info_hash = *hash;
            tell(scheme, at, &Question::Announce(own)).await.unwrap();
        }
    }
    tracker.set_served(open());
    tell("udp", at, &announce(1, None)).await.unwrap();
    assert_eq!(counter(&tracker, "anode_tracker_not_listed_total"), 2);
}

/// All that the tracker sends until it closes.
async fn raw(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_no_announce_gets_a_short_answer() {
    let (tracker, running) = start(open(), ConnectionLimits::default());
    let at = running.listen()[0];
    let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for (request, status, body) in [
        (
            "GET /announce?info_hash=short",
            "200",
            "info_hash is missing or not 20 bytes",
        ),
        ("GET /stats", "404", "/announce and /scrape"),
        ("POST /announce", "405", "answers GET"),
        ("GET /metrics", "200", "anode_tracker_invalid_total 2"),
    ] {
        let answer = raw(at, format!("{request} {head}").as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(body), "{answer}");
        assert!(!answer.to_lowercase().contains("location"), "{answer}");
    }
    let long = format!("GET /announce?{} {head}", "x".repeat(20_000));
    let answer = raw(at, long.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let garbage = raw(at, b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n").await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"),
        "{garbage}"
    );
    assert!(counter(&tracker, "anode_tracker_connections_broken_total") >= 1);
    tell("http", at, &announce(1, None)).await.unwrap();
}

// S36: somebody who connects and says nothing keeps nobody else out.
#[tokio::test]
async fn connections_of_one_source_are_few() {
    let limits = ConnectionLimits {
        in_all: 8,
        per_source: 3,
    };
    let (tracker, running) = start(open(), limits);
    let at = running.listen()[0];
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(tokio::net::TcpStream::connect(at).await.unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while counter(&tracker, "anode_tracker_connections_refused_total") < 3 {
        assert!(Instant::now() < deadline, "three of six are refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Another source, and the same one over UDP.
    let other: IpAddr = "127.0.0.2".parse().unwrap();
    let url: TrackerUrl = format!("http://{at}/announce").parse().unwrap();
    ask(&url, other, at, &announce(1, None), &None)
        .await
        .unwrap();
    tell("udp", at, &announce(2, None)).await.unwrap();
    drop(silent);
    let deadline = Instant::now() + Duration::from_secs(5);
    while tell("http", at, &announce(3, None)).await.is_err() {
        assert!(Instant::now() < deadline, "places are given back");
    }
}

#[test]
fn a_busy_port_is_named() {
    let first = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let at = first.addresses()[0];
    let (named, error) = Listeners::bind(&[at]).err().unwrap();
    assert_eq!((named, error.kind()), (at, io::ErrorKind::AddrInUse));
}

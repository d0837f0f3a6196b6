use super::*;
use crate::bencode::Writer;
use crate::test_vectors::{document, hex};
use crate::types::*;
use crate::url::TrackerUrl;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

fn sample() -> Announce {
    Announce {
        info_hash: InfoHash(*b"\x00\x01 aZ09-._~+&=%?#\xff\x80/"),
        peer_id: PeerId(*b"-AN0100-\x00\n\r &=?%+abc"),
        key: Key(0xABC),
        port: 8737,
        left: 1,
        event: Some(Event::Started),
        num_want: 30,
        tracker_id: Some(b"a b".to_vec()),
        compact: true,
    }
}

fn url(text: &str) -> TrackerUrl {
    text.parse().unwrap()
}

fn endpoints(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

// B6, B9
#[test]
fn an_announce_is_the_documented_target_and_names_no_address() {
    let request = announce(&url("http://t.example:6969/announce"), &sample());
    assert_eq!(
        request.target,
        "/announce?info_hash=%00%01%20aZ09-._~%2B%26%3D%25%3F%23%FF%80%2F\
         &peer_id=-AN0100-%00%0A%0D%20%26%3D%3F%25%2Babc\
         &port=8737&uploaded=0&downloaded=0&left=1&compact=1&numwant=30&key=00000ABC&event=started&trackerid=a%20b"
    );
    assert_eq!(request.headers[0], ("host", "t.example:6969".to_owned()));
    assert!(
        request
            .headers
            .contains(&("accept-encoding", "identity".to_owned()))
    );
    for name in ["ip=", "ipv4=", "ipv6="] {
        assert!(!request.target.contains(&format!("&{name}")));
    }
}

#[test]
fn the_query_of_the_url_is_kept() {
    for (text, start) in [
        (
            "http://t/announce?passkey=1",
            "/announce?passkey=1&info_hash=",
        ),
        ("http://t/announce?", "/announce?info_hash="),
        ("http://t/a?x&", "/a?x&info_hash="),
        ("http://t", "/?info_hash="),
    ] {
        assert!(
            announce(&url(text), &sample()).target.starts_with(start),
            "{text}"
        );
    }
    let request = scrape(
        &url("http://t/announce?k=1"),
        &[InfoHash([b'a'; 20]), InfoHash([b'b'; 20])],
    )
    .unwrap();
    let (a, b) = ("a".repeat(20), "b".repeat(20));
    assert_eq!(
        request.target,
        format!("/scrape?k=1&info_hash={a}&info_hash={b}")
    );
    assert_eq!(scrape(&url("http://t/tracker"), &[]), None);
}

// B16
#[test]
fn our_own_server_reads_what_our_client_writes() {
    let sent = sample();
    let request = announce(&url("http://t/announce"), &sent);
    let (_, query) = request.target.split_once('?').unwrap();
    let read = AnnounceQuery::parse(query).unwrap();
    assert_eq!(
        (read.info_hash, read.peer_id, read.port),
        (sent.info_hash, sent.peer_id, sent.port)
    );
    assert_eq!(read.key, b"00000ABC");
    assert_eq!(
        (read.event, read.num_want, read.compact, read.complete),
        (sent.event, Some(30), true, false)
    );
}

// B9, B15, B16
#[test]
fn queries_of_other_clients_are_read_and_their_addresses_are_not() {
    let id = "-TR3000-abcdefghijkl";
    let base = format!("info_hash=%AA%bbccccccccccccccccc+&peer_id={id}");
    let read = AnnounceQuery::parse(&format!(
        "{base}&port=51413&left=0&key=75bcd15&compact=0&no_peer_id=1&numwant=x&event=paused&ip=192.0.2.1&ipv6=::1&supportcrypto=1"
    ))
    .unwrap();
    assert_eq!(read.info_hash.0, *b"\xaa\xbbccccccccccccccccc ");
    assert_eq!(read.key, b"75bcd15");
    assert!(read.complete && !read.compact && read.no_peer_id);
    assert_eq!((read.num_want, read.event), (None, None));
    let raw = AnnounceQuery::parse(&format!("{base}&port=1&key=%00%FF%zz%4")).unwrap();
    assert_eq!(raw.key, b"\x00\xff%zz%4");
    let long = AnnounceQuery::parse(&format!("{base}&port=1&key={}", "k".repeat(5_000))).unwrap();
    assert_eq!(long.key.len(), 32);
}

#[test]
fn incomplete_queries_are_refused_with_their_reason() {
    let (hash, id) = ("h".repeat(20), "p".repeat(20));
    for (query, error) in [
        (String::new(), InvalidQuery::InfoHash),
        (
            format!("info_hash={}&peer_id={id}&port=1", "h".repeat(19)),
            InvalidQuery::InfoHash,
        ),
        (
            format!("info_hash={}&peer_id={id}&port=1", "h".repeat(21)),
            InvalidQuery::InfoHash,
        ),
        (format!("info_hash={hash}&port=1"), InvalidQuery::PeerId),
        (format!("info_hash={hash}&peer_id={id}"), InvalidQuery::Port),
        (
            format!("info_hash={hash}&peer_id={id}&port=0"),
            InvalidQuery::Port,
        ),
        (
            format!("info_hash={hash}&peer_id={id}&port=65536"),
            InvalidQuery::Port,
        ),
        (
            format!("info_hash={hash}&peer_id={id}&port=-1"),
            InvalidQuery::Port,
        ),
    ] {
        assert_eq!(AnnounceQuery::parse(&query), Err(error), "{query}");
    }
    assert_eq!(ScrapeQuery::parse(""), Err(InvalidQuery::InfoHash));
    assert_eq!(
        ScrapeQuery::parse("info_hash=short"),
        Err(InvalidQuery::InfoHash)
    );
    let many = vec![format!("info_hash={hash}"); 1_000].join("&");
    assert_eq!(ScrapeQuery::parse(&many).unwrap().hashes.len(), 74);
}

// B12
#[test]
fn the_example_of_the_vectors_is_read() {
    let body = hex(&document()["compact_endpoints"]["example_bencoded_answer"]);
    let answer = announce_answer(200, &body).unwrap();
    assert_eq!(answer.interval, Some(Duration::from_secs(1800)));
    assert_eq!(
        answer.peers,
        endpoints(&["192.0.2.1:8737", "[2001:db8::1]:8737"])
    );
}

// B10, B12, B13
#[test]
fn peers_and_peers6_are_read_in_any_combination() {
    let v4 = "5:peers6:\u{1}\u{2}\u{3}\u{4}\0\u{5}";
    let v6 = "6:peers618:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{7}\0\u{8}";
    let list = "5:peersld2:ip9:192.0.2.97:peer id3:xyz4:porti9eed2:ip11:2001:db8::94:porti9eed2:ip6:a.host4:porti9eed4:porti9eee";
    let empty = "5:peers0:";
    for (peers, expected, unusable) in [
        (v4.to_owned(), vec!["1.2.3.4:5"], 0),
        (v6.to_owned(), vec!["[::7]:8"], 0),
        (format!("{v4}{v6}"), vec!["1.2.3.4:5", "[::7]:8"], 0),
        (format!("{v6}{v4}"), vec!["[::7]:8", "1.2.3.4:5"], 0),
        (format!("{empty}{v6}"), vec!["[::7]:8"], 0),
        (
            format!("{list}{v6}"),
            vec!["192.0.2.9:9", "[2001:db8::9]:9", "[::7]:8"],
            2,
        ),
        (empty.to_owned(), vec![], 0),
        (String::new(), vec![], 0),
        ("6:futureli1ee".to_owned(), vec![], 0),
    ] {
        let body = format!("d8:intervali900e{peers}e\r\n");
        let answer = announce_answer(200, body.as_bytes()).unwrap();
        assert_eq!(answer.peers, endpoints(&expected), "{body:?}");
        assert_eq!(answer.unusable, unusable);
    }
}

#[test]
fn every_field_of_an_answer_is_read() {
    let mut body = Vec::new();
    Writer::new(&mut body)
        .dict()
        .bytes(b"complete")
        .int(3)
        .bytes(b"external ip")
        .bytes(&[192, 0, 2, 7])
        .bytes(b"incomplete")
        .int(u64::from(u32::MAX) + 5)
        .bytes(b"interval")
        .int(i64::MAX as u64)
        .bytes(b"min interval")
        .int(300)
        .bytes(b"tracker id")
        .bytes(b"\x00id")
        .bytes(b"warning message")
        .bytes(b"slow\x07")
        .end();
    let answer = announce_answer(200, &body).unwrap();
    assert_eq!(
        (answer.complete, answer.incomplete),
        (Some(3), Some(u32::MAX))
    );
    assert_eq!(answer.external_ip, Some("192.0.2.7".parse().unwrap()));
    assert_eq!(answer.interval, Some(Duration::from_secs(366 * 86_400)));
    assert_eq!(answer.min_interval, Some(Duration::from_secs(300)));
    assert_eq!(answer.tracker_id.as_deref(), Some(&b"\x00id"[..]));
    assert_eq!(answer.warning.as_deref(), Some("slow "));
}

#[test]
fn refusals_are_read_under_any_status() {
    let after = |minutes: u64| Some(Retry::After(Duration::from_secs(minutes * 60)));
    for (rest, retry) in [
        ("", None),
        ("8:retry ini5e", after(5)),
        ("8:retry in1:5", after(5)),
        ("8:retry in5:never", Some(Retry::Never)),
        ("8:retry in4:soon", None),
        ("8:retry ini-5e", after(0)),
        ("8:retry ini9223372036854775807e", after(366 * 1440)),
    ] {
        let body = format!("d14:failure reason4:nope8:intervali9e{rest}e");
        for status in [200, 400, 500] {
            let reason = "nope".to_owned();
            let expected = AnswerError::Refused(Refusal { reason, retry });
            assert_eq!(
                announce_answer(status, body.as_bytes()),
                Err(expected.clone()),
                "{body}"
            );
            assert_eq!(scrape_answer(status, body.as_bytes(), 1), Err(expected));
        }
    }
}

// S36
#[test]
fn hostile_answers_are_refused_or_bounded() {
    let peers = |bytes: &[u8]| {
        let mut body = Vec::new();
        Writer::new(&mut body)
            .dict()
            .bytes(b"peers")
            .bytes(bytes)
            .end();
        body
    };
    let many = announce_answer(200, &peers(&[10, 0, 0, 1, 9, 9].repeat(10_000))).unwrap();
    assert_eq!(
        (many.peers.len(), many.surplus),
        (MAX_PEERS, 10_000 - MAX_PEERS)
    );
    let length = AnswerError::PeersLength {
        key: "peers",
        length: 7,
    };
    assert_eq!(announce_answer(200, &peers(&[1; 7])), Err(length));
    let wrong6 = b"d6:peers66:\x01\x02\x03\x04\x05\x06e";
    assert_eq!(
        announce_answer(200, wrong6),
        Err(AnswerError::PeersLength {
            key: "peers6",
            length: 6
        })
    );
    for (status, body, error) in [
        (
            200,
            &b"<html>"[..],
            AnswerError::Bencode(crate::bencode::Error::Malformed(0)),
        ),
        (200, b"le", AnswerError::NotAnAnswer),
        (200, b"de", AnswerError::NotAnAnswer),
        (
            200,
            b"",
            AnswerError::Bencode(crate::bencode::Error::Truncated),
        ),
        (302, b"d8:intervali1ee", AnswerError::Redirect(302)),
        (404, b"not found", AnswerError::Status(404)),
        (503, b"d8:intervali1ee", AnswerError::Status(503)),
    ] {
        assert_eq!(announce_answer(status, body), Err(error), "{status}");
    }
    let huge = announce_answer(200, &vec![b'd'; MAX_BODY + 1]);
    assert_eq!(
        huge,
        Err(AnswerError::Bencode(crate::bencode::Error::TooLarge))
    );
}

#[test]
fn scrapes_are_read() {
    let hash = [7u8; 20];
    let mut body = Vec::new();
    Writer::new(&mut body).dict().bytes(b"files").dict();
    Writer::new(&mut body).bytes(b"short").dict().end();
    Writer::new(&mut body)
        .bytes(&hash)
        .dict()
        .bytes(b"complete")
        .int(1)
        .bytes(b"downloaded")
        .int(2);
    Writer::new(&mut body)
        .bytes(b"incomplete")
        .int(3)
        .end()
        .end();
    Writer::new(&mut body)
        .bytes(b"flags")
        .dict()
        .bytes(b"min_request_interval")
        .int(60)
        .end()
        .end();
    let entry = ScrapeEntry {
        complete: 1,
        downloaded: 2,
        incomplete: 3,
    };
    assert_eq!(
        scrape_answer(200, &body, 10),
        Ok(vec![(InfoHash(hash), entry)])
    );
    assert_eq!(scrape_answer(200, &body, 0), Ok(vec![]));
    assert_eq!(
        scrape_answer(200, b"d5:filesi1ee", 1),
        Err(AnswerError::NotAnAnswer)
    );
}

proptest! {
    // S36
    #[test]
    fn arbitrary_bodies_never_panic(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = announce_answer(status, &body);
        let _ = scrape_answer(status, &body, 10);
    }

    // S36
    #[test]
    fn answers_with_one_byte_changed_never_panic(at in 0usize..62, byte: u8) {
        let mut body = hex(&document()["compact_endpoints"]["example_bencoded_answer"]);
        let last = body.len() - 1;
        body[at.min(last)] = byte;
        if let Ok(answer) = announce_answer(200, &body) {
            prop_assert!(answer.peers.len() <= 10);
        }
    }

    // S36
    #[test]
    fn arbitrary_queries_never_panic(query in "\\PC{0,200}") {
        let _ = AnnounceQuery::parse(&query);
        let _ = ScrapeQuery::parse(&query);
    }

    #[test]
    fn any_hash_and_id_survive_the_encoding(hash: [u8; 20], id: [u8; 20]) {
        let sent = Announce { info_hash: InfoHash(hash), peer_id: PeerId(id), ..sample() };
        let request = announce(&url("http://t/announce"), &sent);
        let read = AnnounceQuery::parse(request.target.split_once('?').unwrap().1).unwrap();
        prop_assert_eq!((read.info_hash.0, read.peer_id.0), (hash, id));
    }
}

use super::packet::*;
use super::*;
use crate::compact::Family;
use crate::types::{Announce, Event, InfoHash, Key, PeerId, ScrapeEntry};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

fn sample() -> Announce {
    Announce {
        info_hash: InfoHash([0xAA; 20]),
        peer_id: PeerId([0xBB; 20]),
        key: Key(0x0102_0304),
        port: 8737,
        left: 1,
        event: Some(Event::Started),
        num_want: 30,
        tracker_id: None,
        compact: true,
    }
}

fn ask() -> Ask {
    Ask::Announce(sample(), "/announce".to_owned())
}

/// A tracker's side of a test: builds answers to the last datagram.
struct Wire {
    exchange: Exchange,
    rng: StdRng,
    start: Instant,
    sent: Vec<u8>,
}

impl Wire {
    fn new(ask: Ask, family: Family) -> Self {
        let start = Instant::now();
        Self {
            exchange: Exchange::new(ask, family, None, start),
            rng: StdRng::seed_from_u64(1),
            start,
            sent: vec![],
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn poll(&mut self, seconds: u64) -> Poll {
        self.sent.clear();
        self.exchange
            .poll(self.at(seconds), &mut self.rng, &mut self.sent)
    }

    fn transaction(&self) -> TransactionId {
        TransactionId(u32::from_be_bytes(self.sent[12..16].try_into().unwrap()))
    }

    fn action(&self) -> u32 {
        u32::from_be_bytes(self.sent[8..12].try_into().unwrap())
    }

    fn connect(&mut self, seconds: u64) -> Step {
        let mut answer = Vec::new();
        write_connected(self.transaction(), ConnectionId(*b"connect!"), &mut answer);
        self.exchange.handle(&answer, self.at(seconds))
    }

    /// Connected and asked at second 0.
    fn asked(ask: Ask, family: Family) -> Self {
        let mut wire = Self::new(ask, family);
        assert_eq!(wire.poll(0), Poll::Transmit);
        assert!(matches!(wire.connect(0), Step::Connected(_)));
        assert_eq!(wire.poll(0), Poll::Transmit);
        wire
    }

    fn answer(&mut self, peers: &[u8]) -> Step {
        let mut answer = Vec::new();
        write_announced(
            self.transaction(),
            AnnounceHead {
                interval: 900,
                leechers: 2,
                seeders: 3,
            },
            &mut answer,
        );
        answer.extend_from_slice(peers);
        self.exchange.handle(&answer, self.start)
    }
}

// B5, B6, B9
#[test]
fn requests_have_the_documented_bytes() {
    let mut wire = Wire::new(ask(), Family::V4);
    assert_eq!(wire.poll(0), Poll::Transmit);
    assert_eq!(wire.sent.len(), CONNECT_SIZE);
    assert_eq!(
        wire.sent[..12],
        [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0]
    );
    wire.connect(0);
    assert_eq!(wire.poll(0), Poll::Transmit);
    let sent = &wire.sent;
    assert_eq!(sent[..8], *b"connect!");
    assert_eq!(sent[8..12], [0, 0, 0, 1]);
    assert_eq!(sent[16..36], [0xAA; 20]);
    assert_eq!(sent[36..56], [0xBB; 20]);
    assert_eq!(sent[64..72], 1u64.to_be_bytes(), "left");
    assert_eq!(sent[80..84], [0, 0, 0, 2], "event");
    assert_eq!(sent[84..88], [0; 4], "no address is named");
    assert_eq!(sent[88..92], [1, 2, 3, 4], "key");
    assert_eq!(sent[92..96], [0, 0, 0, 30], "numwant");
    assert_eq!(sent[96..98], 8737u16.to_be_bytes());
    // as libtorrent writes it
    assert_eq!(sent[98..], *b"\x02\x09/announce");
}

#[test]
fn a_long_path_is_sent_in_chunks_and_read_back() {
    let path = format!("/{}", "x".repeat(599));
    let mut out = Vec::new();
    write_announce(
        ConnectionId([0; 8]),
        TransactionId(1),
        &sample(),
        &path,
        &mut out,
    );
    let Some(Request::Announce(read)) = Request::parse(&out) else {
        panic!("not read")
    };
    let chunks: Vec<_> = read.options.target().collect();
    assert_eq!(
        chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(),
        [255, 255, 90]
    );
    assert_eq!(chunks.concat(), path.as_bytes());
    assert_eq!(
        (read.port, read.key, read.num_want, read.left),
        (8737, [1, 2, 3, 4], Some(30), 1)
    );
}

#[test]
fn options_are_skipped_and_hostile_ones_end_the_list() {
    for (options, target) in [
        (&b""[..], &b""[..]),
        (b"\x02\x00", b""),
        (b"\x01\x01\x02\x02/a\x00\x02\x01b", b"/a"),
        (b"\x07\x03xyz\x02\x01/\x02\x02ab", b"/ab"),
        (b"\x02\xff/a", b""),
        (b"\x02", b""),
        (b"\x09\x05abc", b""),
    ] {
        let mut out = Vec::new();
        write_announce(
            ConnectionId([0; 8]),
            TransactionId(1),
            &sample(),
            "",
            &mut out,
        );
        out.extend_from_slice(options);
        let Some(Request::Announce(read)) = Request::parse(&out) else {
            panic!("not read")
        };
        assert_eq!(
            read.options.target().collect::<Vec<_>>().concat(),
            target,
            "{options:?}"
        );
    }
}

// B11: 6-byte entries over IPv4, 18-byte entries over IPv6, by the family of the socket
#[test]
fn entries_are_read_by_the_family_of_the_socket() {
    let v4 = [192, 0, 2, 1, 0x22, 0x21, 192, 0, 2, 2, 0, 1];
    let Step::Done(Ok(Outcome::Announced(answer))) = Wire::asked(ask(), Family::V4).answer(&v4)
    else {
        panic!()
    };
    assert_eq!(
        answer.peers,
        [
            "192.0.2.1:8737".parse().unwrap(),
            "192.0.2.2:1".parse().unwrap()
        ]
    );
    assert_eq!((answer.complete, answer.incomplete), (Some(3), Some(2)));
    assert_eq!(answer.interval, Some(Duration::from_secs(900)));
    let mut v6 = [0u8; 18];
    v6[..2].copy_from_slice(&[0x20, 1]);
    v6[17] = 9;
    let Step::Done(Ok(Outcome::Announced(answer))) = Wire::asked(ask(), Family::V6).answer(&v6)
    else {
        panic!()
    };
    assert_eq!(answer.peers, ["[2001::]:9".parse().unwrap()]);
}

// S36: one tracker answers over IPv6 with entries of 6 bytes
#[test]
fn entries_of_another_family_are_refused_whole() {
    let answer = Wire::asked(ask(), Family::V6).answer(&[1; 12]);
    assert_eq!(answer, Step::Done(Err(AnswerError::PeersLength(12))));
    let answer = Wire::asked(ask(), Family::V4).answer(&[1; 13]);
    assert_eq!(answer, Step::Done(Err(AnswerError::PeersLength(13))));
}

#[test]
fn resends_follow_15_times_2_to_the_n_and_end() {
    let mut wire = Wire::new(ask(), Family::V4);
    let mut sent_at = Vec::new();
    let mut first = None;
    let gave_up = (0..20_000).find(|second| match wire.poll(*second) {
        Poll::Transmit => {
            sent_at.push(*second);
            assert_eq!(
                *first.get_or_insert(wire.transaction()),
                wire.transaction(),
                "a late answer still counts"
            );
            false
        }
        Poll::Wait(until) => {
            assert!(until > wire.at(*second));
            false
        }
        Poll::GaveUp => true,
    });
    assert_eq!(sent_at, [0, 15, 45, 105, 225, 465, 945, 1905, 3825]);
    assert_eq!(gave_up, Some(7665));
}

// the third example of BEP 15
#[test]
fn an_announce_that_times_out_connects_again_once_its_id_is_old() {
    let mut wire = Wire::new(ask(), Family::V4);
    assert_eq!(wire.poll(0), Poll::Transmit);
    wire.connect(1);
    let mut sent = Vec::new();
    for second in 2..1_000 {
        if wire.poll(second) == Poll::Transmit {
            sent.push((second, wire.action()));
        }
    }
    assert_eq!(
        sent,
        [
            (2, 1),
            (17, 1),
            (47, 1),
            (107, 0),
            (227, 0),
            (467, 0),
            (947, 0)
        ]
    );
}

#[test]
fn a_tracker_that_only_answers_connects_is_asked_ever_more_rarely() {
    let mut wire = Wire::new(ask(), Family::V4);
    let mut packets = 0;
    let end = (0..40_000).find(|second| match wire.poll(*second) {
        Poll::Transmit => {
            packets += 1;
            if wire.action() == 0 {
                wire.connect(*second);
            }
            false
        }
        Poll::Wait(_) => false,
        Poll::GaveUp => true,
    });
    assert!(end.is_some_and(|end| end > 3_840), "{end:?}");
    assert!(packets <= 11, "{packets}");
}

#[test]
fn a_cached_connection_saves_the_connect_and_a_refused_one_is_forgotten() {
    let mut wire = Wire::new(ask(), Family::V4);
    wire.poll(0);
    let Step::Connected(connection) = wire.connect(0) else {
        panic!("not connected")
    };
    assert!(connection.usable(wire.at(59)) && !connection.usable(wire.at(60)));

    wire.exchange = Exchange::new(ask(), Family::V4, Some(connection), wire.at(10));
    assert_eq!((wire.poll(10), wire.action()), (Poll::Transmit, 1));
    let mut error = Vec::new();
    write_error(wire.transaction(), "Connection ID missmatch.\0", &mut error);
    assert_eq!(wire.exchange.handle(&error, wire.at(10)), Step::Reconnect);
    assert_eq!((wire.poll(10), wire.action()), (Poll::Transmit, 0));
    wire.connect(10);
    assert_eq!((wire.poll(10), wire.action()), (Poll::Transmit, 1));
    let mut error = Vec::new();
    write_error(wire.transaction(), "no\0", &mut error);
    let Step::Done(Err(AnswerError::Refused(refusal))) = wire.exchange.handle(&error, wire.at(10))
    else {
        panic!()
    };
    assert_eq!(refusal.reason, "no");

    wire.exchange = Exchange::new(ask(), Family::V4, Some(connection), wire.at(60));
    assert_eq!((wire.poll(60), wire.action()), (Poll::Transmit, 0));
}

// S36
#[test]
fn answers_of_others_are_ignored() {
    let mut wire = Wire::asked(ask(), Family::V4);
    let TransactionId(transaction) = wire.transaction();
    let mut answers: Vec<Vec<u8>> = vec![vec![], vec![0; 7], vec![0, 0, 0, 9, 0, 0, 0, 0]];
    let head = AnnounceHead {
        interval: 1,
        leechers: 0,
        seeders: 0,
    };
    let mut of_another = Vec::new();
    write_announced(TransactionId(transaction ^ 1), head, &mut of_another);
    let mut wrong_action = Vec::new();
    write_scraped(TransactionId(transaction), &mut wrong_action);
    let mut second_connect = Vec::new();
    write_connected(
        TransactionId(transaction),
        ConnectionId([1; 8]),
        &mut second_connect,
    );
    answers.extend([of_another, wrong_action, second_connect]);
    for answer in answers {
        assert_eq!(
            wire.exchange.handle(&answer, wire.start),
            Step::Ignored,
            "{answer:?}"
        );
    }
    // what one tracker sends for a hash that is not on its list
    let mut short = Vec::new();
    write_announced(TransactionId(transaction), head, &mut short);
    assert_eq!(
        wire.exchange.handle(&short[..8], wire.start),
        Step::Done(Err(AnswerError::TooShort))
    );
    assert_eq!(
        wire.exchange.handle(&short[..19], wire.start),
        Step::Done(Err(AnswerError::TooShort))
    );
}

#[test]
fn a_scrape_is_asked_and_answered() {
    let hashes = vec![InfoHash([1; 20]), InfoHash([2; 20])];
    let mut wire = Wire::asked(Ask::Scrape(hashes.clone()), Family::V4);
    let Some(Request::Scrape(request)) = Request::parse(&wire.sent) else {
        panic!("not read")
    };
    assert_eq!(request.hashes().collect::<Vec<_>>(), hashes);
    let entries = [1, 2, 3].map(|n| ScrapeEntry {
        complete: n,
        downloaded: 2,
        incomplete: 3,
    });
    let mut answer = Vec::new();
    write_scraped(wire.transaction(), &mut answer);
    entries
        .iter()
        .for_each(|entry| write_scrape_entry(*entry, &mut answer));
    let step = wire.exchange.handle(&answer, wire.start);
    assert_eq!(
        step,
        Step::Done(Ok(Outcome::Scraped(entries[..2].to_vec()))),
        "no more than asked for"
    );
    let many = vec![InfoHash([3; 20]); 100];
    assert_eq!(
        Wire::asked(Ask::Scrape(many), Family::V4).sent.len(),
        16 + 74 * 20
    );
}

proptest! {
    // S36
    #[test]
    fn arbitrary_datagrams_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), action in 0u8..5) {
        if bytes.len() > 12 {
            bytes[8..12].copy_from_slice(&[0, 0, 0, action]);
        }
        if let Some(Request::Announce(request)) = Request::parse(&bytes) {
            prop_assert!(request.options.target().map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }
        let mut wire = Wire::asked(ask(), Family::V6);
        let transaction = wire.transaction().0.to_be_bytes();
        if bytes.len() > 8 {
            bytes[..4].copy_from_slice(&[0, 0, 0, action]);
            bytes[4..8].copy_from_slice(&transaction);
        }
        let _ = wire.exchange.handle(&bytes, wire.start);
    }
}

//! Two endpoints on one router.
use super::*;
use crate::datagram::Sender;
use crate::router::{Router, start};
use crate::streaming::{Failure, StreamId};
use crate::vectors::{hex, keys};

/// Two endpoints on one router, without delay.
struct Pair {
    router: Router,
    ends: [Endpoint; 2],
    now: Now,
    events: [Vec<Event>; 2],
}

impl Pair {
    fn ready(options: &[(&str, &str)]) -> Self {
        let now = start();
        let mut router = Router::default();
        let ends = ["A", "B"].map(|who| {
            router.accept();
            let options = SessionOptions::parse(options.iter().copied()).unwrap();
            let config = streaming::Config::default();
            Endpoint::new(
                keys(who),
                options,
                None,
                config,
                [who.as_bytes()[0]; 32],
                now,
            )
            .unwrap()
        });
        let events = [vec![], vec![]];
        let mut pair = Self {
            router,
            ends,
            now,
            events,
        };
        pair.settle();
        for at in 0..2 {
            pair.router.request_leases(at, now);
        }
        pair.settle();
        assert_eq!(pair.take(0), [Event::Ready]);
        assert_eq!(pair.take(1), [Event::Ready]);
        pair
    }

    fn settle(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for at in 0..2 {
                while let Some(bytes) = self.ends[at].poll_transmit(self.now) {
                    self.router.received(at, &bytes, self.now);
                    quiet = false;
                }
            }
            for sent in std::mem::take(&mut self.router.sent) {
                self.router.deliver(&sent);
            }
            for at in 0..2 {
                let bytes = std::mem::take(&mut self.router.connections[at].to_client);
                if !bytes.is_empty() {
                    self.ends[at].received(&bytes, self.now);
                    quiet = false;
                }
                while let Some(event) = self.ends[at].poll_event() {
                    self.events[at].push(event);
                }
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        loop {
            let next = self.ends.iter().filter_map(Endpoint::deadline).min();
            let Some(at) = next.filter(|at| *at <= end.instant) else {
                break;
            };
            self.now = self.now + at.saturating_duration_since(self.now.instant);
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = end;
    }

    fn take(&mut self, at: usize) -> Vec<Event> {
        std::mem::take(&mut self.events[at])
    }

    fn open(&mut self) -> (StreamId, StreamId) {
        let b = keys("B").destination().clone();
        let a = self.ends[0].streams().connect(&b, 0, 80, self.now).unwrap();
        self.settle();
        let Some(Event::Stream(streaming::Event::Incoming { stream, .. })) = self.take(1).pop()
        else {
            panic!()
        };
        self.ends[1].streams().accept(stream, self.now).unwrap();
        self.settle();
        let connected = Event::Stream(streaming::Event::Connected(a));
        assert!(self.take(0).contains(&connected));
        (a, stream)
    }
}

// I1, I67
#[test]
fn datagrams_of_every_kind_and_streams_share_one_session() {
    for options in [
        &[][..],
        &[("i2cp.gzip", "false"), ("i2cp.fastReceive", "false")],
    ] {
        let mut pair = Pair::ready(options);
        let (a, b) = (
            keys("A").destination().clone(),
            keys("B").destination().clone(),
        );
        for (kind, sender) in [
            (Kind::Datagram1, Sender::Signed(a.clone())),
            (Kind::Raw, Sender::Unknown),
            (Kind::Datagram2, Sender::Signed(a.clone())),
            (Kind::Datagram3, Sender::Claimed(a.hash())),
        ] {
            for length in [0, 1, 1300, 60_000] {
                let payload = vec![length as u8; length];
                let now = pair.now;
                pair.ends[0]
                    .send_datagram(kind, &b, (5000, 53), &payload, 0, now)
                    .unwrap();
                pair.settle();
                let ports = Ports {
                    protocol: kind.protocol(),
                    from: 5000,
                    to: 53,
                };
                let datagram = Datagram {
                    sender: sender.clone(),
                    payload,
                };
                assert_eq!(
                    pair.take(1),
                    [Event::Datagram {
                        kind,
                        ports,
                        datagram
                    }]
                );
            }
            let now = pair.now;
            let over = pair.ends[0].send_datagram(kind, &b, (1, 2), &[0; 61_001], 0, now);
            assert!(matches!(over, Err(Error::TooLong { .. })));
        }
        let (stream, other) = pair.open();
        let now = pair.now;
        pair.ends[0].streams().write(stream, b"hello", now).unwrap();
        pair.pass(Duration::from_millis(10));
        let (mut buffer, now) = ([0; 9], pair.now);
        assert_eq!(pair.ends[1].streams().read(other, &mut buffer, now), Ok(5));
    }
}

// I65
#[test]
fn what_carries_a_destination_is_compressed_even_without_gzip() {
    let mut pair = Pair::ready(&[("i2cp.gzip", "false")]);
    let b = keys("B").destination().clone();
    let now = pair.now;
    let mut sizes = Vec::new();
    for kind in [Kind::Datagram1, Kind::Raw] {
        pair.ends[0]
            .send_datagram(kind, &b, (1, 2), &[7; 200], 0, now)
            .unwrap();
        while let Some(bytes) = pair.ends[0].poll_transmit(now) {
            pair.router.received(0, &bytes, now);
        }
        sizes.push(pair.router.sent.pop().unwrap().payload.len());
    }
    assert!(sizes[0] < 300, "{sizes:?}");
    assert_eq!(sizes[1], 223, "stored");
}

// S37, I63
#[test]
fn bad_payloads_from_the_network_are_counted_and_the_session_goes_on() {
    let mut pair = Pair::ready(&[]);
    let to = keys("B").destination().hash();
    for payload in [
        hex("/gzip_bad_crc_must_be_dropped"),
        vec![],
        vec![0x1f, 0x8b],
    ] {
        let sent = crate::router::Sent {
            from: 0,
            to,
            payload,
            nonce: 0,
        };
        pair.router.deliver(&sent);
    }
    let mut gzip = Gzip::default();
    for protocol in [17, 99] {
        let ports = Ports {
            protocol,
            from: 0,
            to: 0,
        };
        let payload = gzip.seal(ports, b"no datagram", Effort::Stored).unwrap();
        pair.router.deliver(&crate::router::Sent {
            from: 0,
            to,
            payload,
            nonce: 0,
        });
    }
    pair.settle();
    let counters = pair.ends[1].counters().0;
    assert_eq!(
        (
            counters.bad_payloads,
            counters.bad_datagrams,
            counters.unknown_protocol
        ),
        (3, 1, 1)
    );
    assert_eq!(pair.take(1), []);
    pair.open();
}

#[test]
fn connecting_to_nobody_fails_at_once() {
    let mut pair = Pair::ready(&[]);
    let nobody = LocalDestination::generate(&mut StdRng::seed_from_u64(9));
    let now = pair.now;
    let to = nobody.destination().clone();
    let stream = pair.ends[0].streams().connect(&to, 0, 80, now).unwrap();
    pair.settle();
    let failure = Failure::Router(MessageStatus(21));
    let closed = Event::Stream(streaming::Event::Closed(stream, Some(failure)));
    assert!(pair.take(0).contains(&closed));
}

// S37
#[test]
fn a_router_restart_ends_the_streams_and_a_new_session_works() {
    let mut pair = Pair::ready(&[]);
    let (stream, _) = pair.open();
    let now = pair.now;
    pair.take(0);
    pair.ends[0].connection_lost(now);
    let first = pair.ends[0].poll_event();
    let failure = Some(Failure::SessionLost);
    assert_eq!(
        first,
        Some(Event::Stream(streaming::Event::Closed(stream, failure)))
    );
    let second = pair.ends[0].poll_event();
    assert_eq!(second, Some(Event::Closed(CloseReason::ConnectionLost)));
    assert_eq!(pair.ends[0].deadline(), None);
    pair.router.connections[0] = crate::router::Connection::default();
    pair.ends[0]
        .restart(SessionOptions::default(), None, now)
        .unwrap();
    pair.settle();
    pair.router.request_leases(0, now);
    pair.settle();
    assert_eq!(pair.take(0), [Event::Ready]);
    pair.open();
}

#[test]
fn a_large_transfer_runs_through_router_and_gzip() {
    let mut pair = Pair::ready(&[]);
    let (stream, other) = pair.open();
    let data: Vec<u8> = (0..2_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    let (mut written, mut got) = (0, Vec::new());
    let mut buffer = vec![0; 65_536];
    for _ in 0..100_000 {
        let now = pair.now;
        if written < data.len() {
            written += pair.ends[0]
                .streams()
                .write(stream, &data[written..], now)
                .unwrap();
        }
        pair.pass(Duration::from_millis(5));
        let now = pair.now;
        while let Ok(count @ 1..) = pair.ends[1].streams().read(other, &mut buffer, now) {
            got.extend_from_slice(&buffer[..count]);
        }
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data);
}

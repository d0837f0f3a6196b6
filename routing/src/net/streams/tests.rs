//! What strangers do to connections.
use super::*;
use crate::anode::TransmitBatch;
use anode_wire::framing;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::SystemTime;

/// Connections that accept, with what has come over them.
struct Served {
    streams: Streams,
    now: Instant,
    packets: Vec<(Place, Vec<u8>)>,
}

impl Served {
    fn new(limits: StreamLimits) -> Self {
        let now = Instant::now();
        let config = StreamConfig {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            limits,
            ..StreamConfig::default()
        };
        Self {
            streams: Streams::new(now, config).unwrap(),
            now,
            packets: Vec::new(),
        }
    }

    fn dial(&self) -> TcpStream {
        let at = self.streams.listening().next().unwrap();
        let stream = TcpStream::connect(at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        stream
    }

    /// Serves for a moment of real time; the clock that it is told stands still.
    fn turn(&mut self) {
        for _ in 0..20 {
            let packets = &mut self.packets;
            self.streams.receive(self.now, &mut |received| {
                let from = received.from;
                for packet in received.bytes.chunks(received.segment_size) {
                    packets.push((from, packet.to_vec()));
                }
            });
            self.streams.flush(self.now);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.streams.handle_timeout(self.now);
        self.turn();
    }

    fn answer(&mut self, place: Place, packet: &[u8]) {
        let mut batch = TransmitBatch::new(64);
        batch.contents.extend_from_slice(packet);
        batch.commit(
            crate::anode::Destination {
                to: place,
                socket: Place::ACCEPTED,
                source: None,
            },
            crate::anode::Ecn::NotCapable,
            packet.len(),
        );
        assert_eq!(self.streams.send(self.now, &batch), 0);
        self.streams.flush(self.now);
    }

    /// What a client gets, up to the end of its patience; and whether the connection has ended.
    fn heard(&mut self, client: &mut TcpStream) -> (Vec<u8>, bool) {
        self.turn();
        let mut all = Vec::new();
        let mut buffer = [0; 65_536];
        loop {
            match client.read(&mut buffer) {
                Ok(0) => return (all, true),
                Ok(len) => all.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (all, true),
                Err(_) => return (all, false),
            }
        }
    }

    fn tell(&mut self, client: &mut TcpStream, bytes: &[u8]) -> (String, bool) {
        let mut writer = client.try_clone().unwrap();
        std::thread::scope(|scope| {
            // It may be closed in the middle.
            let writing = scope.spawn(move || writer.write_all(bytes).is_ok());
            while !writing.is_finished() {
                self.turn();
            }
        });
        let (heard, ended) = self.heard(client);
        (String::from_utf8_lossy(&heard).into_owned(), ended)
    }
}

fn framed(packets: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for packet in packets {
        framing::encode(packet, &mut out).unwrap();
    }
    out
}

fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    http::write_post(&mut out, target, "test", body.len());
    out.extend_from_slice(body);
    out
}

// A33, D14
#[test]
fn frames_come_and_go_over_the_connection_that_brought_them() {
    let mut served = Served::new(StreamLimits::default());
    let mut client = served.dial();
    let stream = framed(&[&[1; 60], &[2; 60], &[3; 1232], &[4; 28]]);
    // A keepalive in front, and everything in two pieces.
    client
        .write_all(&[&[0, 0], &stream[..100]].concat())
        .unwrap();
    served.turn();
    let (_, ended) = served.tell(&mut client, &stream[100..]);
    assert!(!ended);
    let place = Place::Tcp(client.local_addr().unwrap());
    let got: Vec<_> = served
        .packets
        .iter()
        .map(|(from, p)| (*from, p.len(), p[0]))
        .collect();
    assert_eq!(
        got,
        [
            (place, 60, 1),
            (place, 60, 2),
            (place, 1232, 3),
            (place, 28, 4)
        ]
    );
    served.answer(place, &[9; 100]);
    let (heard, _) = served.heard(&mut client);
    assert_eq!(heard, framed(&[&[9; 100]]));
    drop(client);
    served.turn();
    assert_eq!(served.streams.poll_gone(), Some((place, Place::ACCEPTED)));
    assert_eq!((served.streams.len(), served.streams.links.len()), (0, 0));
    let mut batch = TransmitBatch::new(64);
    batch.destination.to = place;
    batch.destination.socket = Place::ACCEPTED;
    served.streams.send(served.now, &batch);
    assert_eq!(
        served.streams.len(),
        0,
        "nobody is dialled where he came from"
    );
}

// S1, D14
#[test]
fn impossible_and_endless_frames_end_their_connection() {
    let mut served = Served::new(StreamLimits::default());
    for short in [1u16, 27] {
        let mut client = served.dial();
        let (_, ended) = served.tell(&mut client, &[&short.to_be_bytes()[..], &[0; 64]].concat());
        assert!(ended, "a frame of {short} bytes");
    }
    assert_eq!(served.streams.counters().malformed, 2);
    let mut whole = served.dial();
    let largest = framed(&[&[7; 65_535]]);
    assert!(
        !served.tell(&mut whole, &largest).1,
        "the largest packet there is"
    );
    assert_eq!(
        served.packets.pop().map(|(_, packet)| packet.len()),
        Some(65_535)
    );
    // Announced and never completed: a byte now and then is not enough.
    let mut slow = served.dial();
    assert!(!served.tell(&mut slow, &[0xff, 0xff, 1]).1);
    for _ in 0..3 {
        served.pass(Duration::from_secs(4));
        assert!(!served.tell(&mut slow, &[1]).1);
    }
    served.pass(Duration::from_secs(4));
    assert!(
        served.heard(&mut slow).1,
        "fifteen seconds for one frame are enough"
    );
    // Says nothing at all.
    let mut silent = served.dial();
    assert!(!served.heard(&mut silent).1);
    served.pass(Duration::from_secs(11));
    assert!(served.heard(&mut silent).1);
    assert_eq!(served.streams.counters().timed_out, 2);
    // Complete, and then nothing for two minutes.
    assert!(!served.heard(&mut whole).1);
    served.pass(Duration::from_secs(121));
    assert!(served.heard(&mut whole).1);
    assert_eq!(served.streams.len(), 0);
}

// S19
#[test]
fn connections_are_bounded_in_all_and_by_source() {
    let few = StreamLimits {
        inbound: 6,
        inbound_per_network: 4,
        ..StreamLimits::default()
    };
    let mut served = Served::new(few);
    let mut clients: Vec<TcpStream> = (0..6).map(|_| served.dial()).collect();
    served.turn();
    let ended = clients
        .iter_mut()
        .filter_map(|client| served.heard(client).1.then_some(()));
    assert_eq!(ended.count(), 2, "one source has four");
    assert_eq!(
        (served.streams.len(), served.streams.counters().refused),
        (4, 2)
    );
    // In all: whoever has said nothing that anybody answered to makes room.
    served.streams.config.limits = StreamLimits {
        inbound: 4,
        inbound_per_network: 100,
        ..StreamLimits::default()
    };
    let talking: Vec<usize> = served.streams.conns.iter().map(|(id, _)| id).collect();
    for id in &talking[1..] {
        served.streams.conns[*id].answered = true;
    }
    let _new = served.dial();
    served.turn();
    assert_eq!(served.streams.len(), 4);
    assert_eq!(served.streams.counters().refused, 2);
    for (_, conn) in &mut served.streams.conns {
        conn.answered = true;
    }
    let _refused = served.dial();
    served.turn();
    assert_eq!(
        (served.streams.len(), served.streams.counters().refused),
        (4, 3)
    );
}

// A34, D15
#[test]
fn a_poll_is_held_until_packets_wait_and_two_connections_make_one_session() {
    let mut served = Served::new(StreamLimits::default());
    let target = "/x?s=000102030405060708090a0b0c0d0e0f";
    let (mut poster, mut poller) = (served.dial(), served.dial());
    let (heard, _) = served.tell(&mut poster, &post(target, &framed(&[&[1; 40]])));
    assert!(
        heard.starts_with("HTTP/1.1 200 OK") && heard.ends_with("\r\n\r\n"),
        "{heard}"
    );
    let place = Place::Http(poster.local_addr().unwrap());
    assert_eq!(served.packets, [(place, vec![1; 40])]);
    assert_eq!(
        served.tell(&mut poller, &post(target, b"")),
        (String::new(), false)
    );
    served.answer(place, &[2; 50]);
    let (heard, _) = served.heard(&mut poller);
    assert!(heard.ends_with(&framed(&[&[2; 50]])), "{heard:?}");
    assert!(served.heard(&mut poster).0.is_empty());
    // Nothing waits: the next poll is answered with nothing, in its time.
    assert_eq!(
        served.tell(&mut poller, &post(target, b"")),
        (String::new(), false)
    );
    served.pass(Duration::from_secs(19));
    assert!(served.heard(&mut poller).0.is_empty());
    served.pass(Duration::from_secs(2));
    let (heard, ended) = served.heard(&mut poller);
    assert!(heard.windows(17).any(|w| w == b"Content-Length: 0") && !ended);
    // Without connections the session lives for a moment, and then its place is gone.
    drop((poster, poller));
    served.turn();
    assert_eq!(served.streams.poll_gone(), None);
    served.pass(Duration::from_secs(31));
    served.pass(Duration::from_secs(100));
    assert_eq!(served.streams.poll_gone(), Some((place, Place::ACCEPTED)));
    assert!(served.streams.sessions.is_empty());
}

// A34: a peer that knows the draft alone has one connection, and is answered on it
#[test]
fn a_post_without_a_session_is_answered_on_its_own_connection() {
    let mut served = Served::new(StreamLimits::default());
    let mut client = served.dial();
    let coded = framed(&[&[5; 30]]);
    let chunked = [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n".as_slice(),
        &coded[..16],
        b"\r\n10;odd\r\n",
        &coded[16..],
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let (heard, _) = served.tell(&mut client, &chunked);
    assert!(heard.starts_with("HTTP/1.1 200 OK"), "{heard}");
    let place = Place::Http(client.local_addr().unwrap());
    assert_eq!(served.packets, [(place, vec![5; 30])]);
    served.answer(place, &[6; 30]);
    let (heard, _) = served.tell(&mut client, &post("/", b""));
    assert!(heard.contains("Content-Length: 32"), "{heard}");
}

// S1, S27, D15
#[test]
fn odd_requests_end_their_connection_and_nothing_else() {
    let mut served = Served::new(StreamLimits::default());
    let target = "/x?s=000102030405060708090a0b0c0d0e0f";
    let cut = framed(&[&[1; 40]]);
    let endless = [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        &b"1\r\n\0\r\n".repeat(1 << 20),
    ]
    .concat();
    let mut many = Vec::new();
    (0..20).for_each(|_| many.extend_from_slice(&post(target, b"")));
    let cases: [(&str, Vec<u8>); 8] = [
        ("a packet that is cut", post(target, &cut[..20])),
        ("a frame too short", post(target, &[0, 5, 1, 2, 3, 4, 5])),
        ("no HTTP", b"POST \r\n\r\n".to_vec()),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
        ),
        (
            "too long",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n".to_vec(),
        ),
        ("endless", endless),
        ("polls without end", many),
        (
            "a head without end",
            [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 10_000]].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut client = served.dial();
        let (_, ended) = served.tell(&mut client, &bytes);
        assert!(ended, "{what}");
        drop(client);
        served.turn();
    }
    assert_eq!(served.streams.len(), 0);
    assert_eq!(served.streams.counters().malformed, 8);
    assert!(served.packets.is_empty());
    // Slow in the head, slow in the body.
    for begun in [b"GET /z HT".to_vec(), post(target, &cut)[..170].to_vec()] {
        let mut client = served.dial();
        assert!(!served.tell(&mut client, &begun).1);
        for _ in 0..3 {
            served.pass(Duration::from_secs(4));
            served.tell(&mut client, &begun[..1]);
        }
        served.pass(Duration::from_secs(4));
        assert!(served.heard(&mut client).1);
    }
}

// A8, D5
#[test]
fn the_zone_file_is_served_with_its_date() {
    let mut served = Served::new(StreamLimits::default());
    let mut client = served.dial();
    let (heard, _) = served.tell(&mut client, b"GET /z HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(heard.starts_with("HTTP/1.1 404"), "{heard}");
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    served.streams.set_served_zone(Some(ServedZone {
        bytes: Arc::from(b"n=zone".as_slice()),
        modified,
    }));
    let (heard, _) = served.tell(&mut client, b"GET /z HTTP/1.1\r\nHost: x\r\n\r\n");
    let date = "Tue, 14 Nov 2023 22:13:20 GMT";
    assert!(
        heard.starts_with("HTTP/1.1 200")
            && heard.contains(date)
            && heard.ends_with("\r\n\r\nn=zone"),
        "{heard}"
    );
    let conditional = format!("GET /z HTTP/1.0\r\nIf-Modified-Since: {date}\r\n\r\n");
    let (heard, ended) = served.tell(&mut client, conditional.as_bytes());
    assert!(heard.starts_with("HTTP/1.1 304") && ended, "{heard}");
    let mut client = served.dial();
    let (heard, _) = served.tell(
        &mut client,
        b"PUT /z HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert!(heard.starts_with("HTTP/1.1 405"), "{heard}");
    // Fetching alone does not keep a connection for long.
    served.pass(Duration::from_secs(16));
    assert!(served.heard(&mut client).1);
}

// A slow reader costs a bounded amount of memory, and nobody waits for it
#[test]
fn who_takes_nothing_loses_old_packets_and_then_the_connection() {
    let mut served = Served::new(StreamLimits::default());
    let mut client = served.dial();
    served.tell(&mut client, &framed(&[&[1; 60]]));
    let place = Place::Tcp(client.local_addr().unwrap());
    for _ in 0..20_000 {
        served.answer(place, &[3; 1232]);
    }
    let link = &served.streams.links[&place];
    assert!(link.outbox.len() <= outbox::MAX_WAITING);
    assert!(served.streams.counters().dropped_packets > 10_000);
    served.pass(Duration::from_secs(16));
    assert_eq!(served.streams.len(), 0);
}

// A34: a server that knows the draft alone need not hold a poll
#[test]
fn a_server_that_answers_polls_at_once_is_not_asked_without_pause() {
    let mut asking = Served::new(StreamLimits::default());
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Http(server.local_addr().unwrap());
    let mut batch = TransmitBatch::new(64);
    batch.contents.extend_from_slice(&[1; 60]);
    let to = crate::anode::Destination {
        to: place,
        socket: Place::DIALLED,
        source: None,
    };
    batch.commit(to, crate::anode::Ecn::NotCapable, 60);
    assert_eq!(asking.streams.send(asking.now, &batch), 0);
    asking.turn();
    // One brings the packet, the other one polls.
    let mut clients: Vec<TcpStream> = (0..2).map(|_| server.accept().unwrap().0).collect();
    let mut polls = 0;
    for _ in 0..5 {
        asking.turn();
        for client in &mut clients {
            client
                .set_read_timeout(Some(Duration::from_millis(5)))
                .unwrap();
            let mut buffer = [0; 65_536];
            let len = client.read(&mut buffer).unwrap_or(0);
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            for _ in 0..text.matches("POST ").count() {
                let mut answer = Vec::new();
                http::write_packets_head(&mut answer, 0, true);
                client.write_all(&answer).unwrap();
            }
            polls += text.matches("Content-Length: 0").count();
        }
    }
    assert_eq!(polls, POLLS);
    asking.pass(Duration::from_secs(2));
    let mut more = [0; 4096];
    let again = clients
        .iter_mut()
        .filter(|client| (&**client).read(&mut more).is_ok())
        .count();
    assert_eq!(again, 1, "the next round of polls");
}

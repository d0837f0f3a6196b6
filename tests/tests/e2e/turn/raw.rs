//! Bytes by hand against the server, and what its peers see.

use super::session::Session;
use super::*;
use anode_tests::traffic;
use anode_turn::client::Event;
use anode_turn::stun::{Class, Writer, attr, method};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::UdpSocket;

/// IPv4 and UDP headers.
const HEADERS: usize = 28;

fn stranger(world: &World) -> UdpSocket {
    let socket = traffic::udp(&world.client, SocketAddr::new(world.client.ip_address(), 0));
    socket.connect(world.own()).expect("a way there");
    socket
}

fn allocate(id: u8) -> Vec<u8> {
    Writer::new(Class::Request, method::ALLOCATE, [id; 12])
        .raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish()
}

/// All that comes within a while.
fn answers(socket: &UdpSocket, wait: Duration) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    let mut buffer = [0; 65_536];
    std::iter::from_fn(|| {
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
    .collect()
}

// Answers to strangers are at most four times what they sent, headers counted; nonsense gets none
#[test]
fn nobody_is_flooded_through_the_server() {
    let Some(world) = World::start(
        Family::V4,
        "software = \"a name that is as long as it may be\"",
    ) else {
        return;
    };
    let socket = stranger(&world);
    let empty = |method| Writer::new(Class::Request, method, [1; 12]).finish();
    let unknown = Writer::new(Class::Request, method::BINDING, [2; 12]);
    let unknown = (1..40).fold(unknown, |writer, kind| writer.raw(0x7000 + kind, &[]));
    let mut requests = vec![
        empty(method::BINDING),
        empty(method::ALLOCATE),
        empty(method::REFRESH),
        empty(0x7FF),
        allocate(3),
        unknown.finish(),
        // RFC 3489's Binding request
        [&[0, 1, 0, 0][..], &[9; 16]].concat(),
    ];
    // Each of them cut anywhere, and with a wrong length.
    for request in requests.clone() {
        for cut in 0..request.len() {
            requests.push(request[..cut].to_vec());
        }
        let mut longer = request.clone();
        longer[3] ^= 4;
        requests.push(longer);
    }
    for request in requests {
        socket.send(&request).expect("sent");
        for answer in answers(&socket, Duration::from_millis(15)) {
            let (out, back) = (request.len() + HEADERS, answer.len() + HEADERS);
            assert!(back <= 4 * out, "{back} bytes for {out}: {request:02x?}");
            assert!(request.len() >= 20, "an answer to {request:02x?}");
        }
    }
    assert_eq!(
        world.check(&world.uri("udp"))["ok"],
        true,
        "and it works still"
    );
}

// U15: a flood of Allocates gets a bounded number of answers, and keeps nobody else out
#[test]
fn a_flood_without_credentials_is_answered_sparingly() {
    let Some(mut world) = World::start(Family::V4, "") else {
        return;
    };
    let before = world.server.memory_kib();
    let socket = stranger(&world);
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(2) {
        for id in 0..64 {
            // A full buffer of ours loses what we wanted to flood with.
            let _ = socket.send(&allocate(id));
            count += 1;
        }
    }
    let refused = answers(&socket, Duration::from_millis(300)).len();
    assert!(count > 5_000, "no flood: {count}");
    // 50 a second, and a second's worth at once
    assert!((1..=250).contains(&refused), "{refused} answers to {count}");
    let other = check(&world.peer, &world.uri("udp"), &world.authority.certificate);
    assert_eq!(other["ok"], true, "{other}");
    let grown = world.server.memory_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    assert!(world.server.running());
}

// T17: DF is set for Sends that ask for it, and else is not
#[test]
fn peers_see_df_when_it_is_asked_for() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    // A raw socket gets the IP header.
    let raw = world.peer.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        std::io::Result::Ok(socket)
    });
    let raw: UdpSocket = raw.expect("root may").into();
    for (flags, expected) in [
        (&["--dont-fragment", "--via", "send"][..], true),
        (&["--via", "send"], false),
    ] {
        let more = [&["-n", "3", "--size", "777"][..], flags].concat();
        expect_all(&world.send(&world.uri("udp"), &more));
        // Datagrams that left together may still be one packet here.
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = raw.recv(&mut buffer) {
            if length >= 20 + 8 + 777 && buffer[12..16] == octets(world.ip()) {
                seen.push(buffer[6] & 0x40 != 0);
            }
        }
        assert!(
            !seen.is_empty() && seen.iter().all(|df| *df == expected),
            "{expected}: {seen:?}"
        );
    }
    // Without DF, what is larger than the link goes in fragments.
    for transport in ["udp", "tcp"] {
        expect_all(&world.send(&world.uri(transport), &["--size", "4000", "--via", "send"]));
    }
}

fn octets(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => [0; 4],
    }
}

// A peer that cannot be reached costs its own packets and nothing more; what ICMP says is told (RFC 8656 §11.5)
#[test]
fn unreachable_peers_disturb_nobody() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let mut session = Session::allocated(&world.client, world.own());
    let peer = world.peer_at();
    let nowhere: SocketAddr = "203.0.113.77:9".parse().expect("an address");
    session.permit(peer.ip());
    session.permit(nowhere.ip());
    for _ in 0..20 {
        session.send(nowhere, b"lost");
    }
    assert!(session.echoes(peer, b"after ENETUNREACH"));
    let closed = SocketAddr::new(peer.ip(), 9);
    session.send(closed, b"to a closed port");
    let event = session.until(|event| matches!(event, Event::PeerUnreachable(_)));
    let Event::PeerUnreachable(error) = event else {
        unreachable!("as it was asked for");
    };
    assert_eq!((error.kind, error.code, error.peer), (3, 3, closed));
    assert!(session.echoes(peer, b"after ICMP"));
}

// T2, T20: every relay address is used, and ports show no sequence
#[test]
fn relays_are_spread_over_addresses_and_ports() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let second: IpAddr = "10.99.0.1".parse().expect("an address");
    ground.at.address_add(second, 32);
    let _server = ground.serve(&format!(
        "relay = [\"{}\", \"{second}\"]\nport-range = [50000, 59999]",
        ground.ip()
    ));
    let sessions: Vec<Session> = (0..60)
        .map(|_| Session::allocated(&ground.client, ground.own()))
        .collect();
    let relayed: Vec<SocketAddr> = sessions.iter().map(Session::relayed).collect();
    for ip in [ground.ip(), second] {
        let count = relayed.iter().filter(|relay| relay.ip() == ip).count();
        assert!(count >= 15, "{count} of 60 on {ip}");
    }
    assert!(
        relayed
            .iter()
            .all(|relay| (50_000..60_000).contains(&relay.port()))
    );
    let rising = relayed
        .windows(2)
        .filter(|w| w[0].port() < w[1].port())
        .count();
    assert!(
        (10..50).contains(&rising),
        "{rising} of 59 rise: a sequence"
    );
}

// S33: what must not be reached is refused in every spelling, and the server's own ports are
#[test]
fn forbidden_peers_are_refused_in_every_spelling() {
    let Some(world) = World::start(Family::V6, "") else {
        return;
    };
    for peer in [
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::127.0.0.1]:80",
        "[64:ff9b::7f00:1]:80",
        "[2002:7f00:1::]:80",
        "[fe80::1]:80",
        "[ff02::1]:80",
    ] {
        let peer: SocketAddr = peer.parse().expect("an address");
        let ca = text(&world.authority.certificate);
        let report = send(&world.client, &world.uri("udp"), peer, ca, &["-n", "1"]);
        let why = report["error"].as_str().expect("why");
        assert!(why.contains("403"), "{peer}: {report}");
    }
    let own = SocketAddr::new(world.ip(), PORT);
    let ca = text(&world.authority.certificate);
    let report = send(&world.client, &world.uri("udp"), own, ca, &["-n", "1"]);
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|why| why.contains("403")),
        "{report}"
    );
}

// Rubbish over every transport: the server goes on
#[test]
fn rubbish_over_streams_ends_only_its_own_connection() {
    use std::io::{Read, Write};
    let Some(mut world) = World::start(Family::V4, "") else {
        return;
    };
    for (port, bytes) in [
        (PORT, &b"GET / HTTP/1.1\r\n\r\n"[..]),
        (PORT, &[0xFF; 64]),
        (PORT, &[0; 64]),
        (PORT, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        (TLS_PORT, &[0xFF; 64]),
        (TLS_PORT, b"\0\x01\0\0\x21\x12\xa4\x42aaaaaaaaaaaa"),
    ] {
        let at = SocketAddr::new(world.ip(), port);
        let mut stream = traffic::connect(&world.client, at, LIMIT).expect("it listens");
        stream.write_all(bytes).expect("sent");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut rest = Vec::new();
        // TLS says goodbye with an alert; nothing else is said.
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || rest.is_empty(), "{bytes:02x?}: {ended:?}");
        assert!(rest.len() < 16, "{rest:02x?}");
    }
    let udp = stranger(&world);
    udp.connect(SocketAddr::new(world.ip(), TLS_PORT))
        .expect("a way there");
    for length in [0, 1, 12, 13, 14, 27, 28, 200, 1400] {
        for first in [0, 20, 21, 22, 23, 64, 255] {
            let mut datagram = vec![0xFE; length];
            datagram.iter_mut().take(1).for_each(|byte| *byte = first);
            udp.send(&datagram).expect("sent");
        }
    }
    for transport in ["udp", "tcp", "tls", "dtls"] {
        assert_eq!(
            world.check(&world.uri(transport))["ok"],
            true,
            "{transport}"
        );
    }
    assert!(world.server.running());
}

/// A ClientHello of DTLS 1.2 without a cookie, as short as one can be.
fn hello(random: u8) -> Vec<u8> {
    let mut body = vec![0xFE, 0xFD];
    body.extend([random; 32]);
    body.extend([0, 0, 0, 2, 0xC0, 0x2B, 1, 0]);
    let length = body.len() as u8;
    let mut words = vec![22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, length + 12];
    words.extend([1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length]);
    words.extend(body);
    words
}

// U15: first words over DTLS cost no memory, and little else, before a cookie has come back; whoever brings it gets in meanwhile
#[test]
fn a_flood_of_dtls_hellos_is_answered_briefly_and_forgotten() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let at = SocketAddr::new(world.ip(), TLS_PORT);
    let sockets: Vec<UdpSocket> = (0..200)
        .map(|_| {
            let any = SocketAddr::new(world.client.ip_address(), 0);
            let socket = traffic::udp(&world.client, any);
            socket.connect(at).expect("a way there");
            socket
        })
        .collect();
    let (memory, cpu, start) = (
        world.server.memory_kib(),
        world.server.cpu_seconds(),
        Instant::now(),
    );
    let flood = || {
        let mut asked = 0_u32;
        while start.elapsed() < Duration::from_secs(2) {
            for (number, socket) in sockets.iter().enumerate() {
                // A full buffer of ours loses what we wanted to flood with.
                asked += u32::from(socket.send(&hello(number as u8)).is_ok());
            }
        }
        asked
    };
    let (asked, honest) = std::thread::scope(|scope| {
        let flood = scope.spawn(flood);
        let mut honest = Vec::new();
        while start.elapsed() < Duration::from_secs(1) {
            honest.push(world.check(&world.uri("dtls"))["ok"] == true);
        }
        (flood.join().expect("no panic"), honest)
    });
    let each = (world.server.cpu_seconds() - cpu) * 1e6 / f64::from(asked);
    let grown = world.server.memory_kib().saturating_sub(memory);
    println!("{asked} hellos: {each:.1} µs of the server each, {grown} KiB more");
    assert!(asked > 5_000, "no flood: {asked}");
    let mut answered = 0;
    for socket in &sockets {
        for answer in answers(socket, Duration::from_millis(1)) {
            assert_eq!((answer.len(), answer[13]), (60, 3), "HelloVerifyRequest");
            answered += 1;
        }
    }
    assert!(answered > 0 && answered <= asked);
    assert!(grown < 4 * 1024, "{grown} KiB more");
    assert!(each < 100.0, "{each} µs");
    assert!(!honest.is_empty() && honest.iter().all(|got_in| *got_in));
    assert_eq!(world.check(&world.uri("dtls"))["ok"], true);
}

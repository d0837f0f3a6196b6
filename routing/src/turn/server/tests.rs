#[path = "../../../tests/loopback/mod.rs"]
mod loopback;

use super::sessions::{STRANGERS, STRANGERS_OF_ONE};
use super::*;
use crate::turn::certificate::{Authorities, MinVersion, Name, connect_dtls};
use crate::turn::client::{Blocking, Check};
use anode_turn::Transport;
use anode_turn::client::{Config as ClientConfig, Credentials};
use anode_turn::resolve::Server as At;
use dimpl::Output;
use loopback::settings;
use std::net::UdpSocket as StdSocket;
use x509_cert::der::pem::{LineEnding, encode_string};

fn client(server: &TurnServer, transport: Transport) -> Blocking {
    allocate(server.listening().plain[0], transport, None)
}

fn allocate(address: SocketAddr, transport: Transport, check: Option<Check>) -> Blocking {
    let config = ClientConfig {
        credentials: Some(Credentials {
            name: "alice".into(),
            password: "secret".to_owned().into(),
        }),
        ..ClientConfig::default()
    };
    let at = At { address, transport };
    Blocking::allocate(at, config, check).unwrap().0
}

/// A server of DTLS, and how its clients check it.
fn with_dtls(min: MinVersion) -> (TurnServer, Check) {
    let ip: IpAddr = "127.0.0.1".parse().unwrap();
    let made = rcgen::generate_simple_self_signed(vec![ip.to_string()]).unwrap();
    let pem = |label: &str, der: &[u8]| encode_string(label, LineEnding::LF, der).unwrap();
    let certificate = pem("CERTIFICATE", made.cert.der());
    let key = pem("PRIVATE KEY", &made.signing_key.serialize_der());
    let mut settings = settings(1);
    settings.listen_secure = vec![SocketAddr::new(ip, 0)];
    settings.certificate =
        Some(ServerCertificate::from_pem(certificate.as_bytes(), key.as_bytes(), min).unwrap());
    let check = Check {
        authorities: Authorities::from_pem(certificate.as_bytes()).unwrap(),
        name: Name::address(ip),
    };
    (Bound::bind(settings).unwrap().start().unwrap(), check)
}

/// The first datagram of a DTLS client.
fn first_words() -> Vec<u8> {
    let now = Instant::now();
    let mut dtls = connect_dtls(now).unwrap();
    dtls.handle_timeout(now).unwrap();
    let mut buffer = [0; 2048];
    loop {
        match dtls.poll_output(&mut buffer) {
            Output::Packet(bytes) => return bytes.to_vec(),
            Output::Timeout(_) => panic!("it says nothing"),
            _ => {}
        }
    }
}

fn stranger(to: SocketAddr) -> StdSocket {
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

fn answer(socket: &StdSocket, words: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 4096];
    socket.send(words).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

// No state before the cookie has come back, whoever asks and however often; whoever is honest gets in meanwhile
#[test]
fn a_flood_of_first_words_over_dtls_leaves_nothing_behind() {
    let (server, check) = with_dtls(MinVersion::V12);
    let at = server.listening().secure[0];
    let hello = first_words();
    let sockets: Vec<StdSocket> = (0..100).map(|_| stranger(at)).collect();
    for round in 0..30 {
        for socket in &sockets {
            let asked = answer(socket, &hello);
            assert!(
                asked.len() < hello.len(),
                "{} for {}",
                asked.len(),
                hello.len()
            );
            assert_eq!((asked[0], asked[13]), (22, 3), "HelloVerifyRequest");
        }
        if round == 15 {
            let honest = allocate(at, Transport::Dtls, Some(check.clone()));
            assert_eq!(server.snapshot().sessions, 1, "of 1,500 who asked");
            honest.close().unwrap();
        }
    }
    let counted = server.snapshot();
    assert_eq!((counted.sessions, counted.io.refused_sessions), (0, 0));
}

#[test]
fn a_cookie_is_worth_nothing_to_others() {
    let (server, _) = with_dtls(MinVersion::V12);
    let at = server.listening().secure[0];
    let hello = first_words();
    let (thief, victim) = (stranger(at), stranger(at));
    let asked = answer(&thief, &hello);
    // The session's id is empty: the cookie's length follows at 60. With it everything is 32 bytes longer.
    assert_eq!(hello[59..61], [0, 0]);
    let mut with_cookie = [&hello[..60], &asked[27..60], &hello[61..]].concat();
    for (at, length) in [(11, 13), (14, 25), (22, 25)] {
        let wide = (with_cookie.len() - length) as u32;
        let bytes = wide.to_be_bytes();
        match at {
            11 => with_cookie[11..13].copy_from_slice(&bytes[2..]),
            _ => with_cookie[at..at + 3].copy_from_slice(&bytes[1..]),
        }
    }
    (with_cookie[10], with_cookie[18]) = (1, 1);
    assert_eq!(answer(&victim, &with_cookie)[13], 3, "asked for his own");
    assert_eq!(server.snapshot().sessions, 0);
    assert_eq!(answer(&thief, &with_cookie)[13], 2, "ServerHello");
    assert_eq!(server.snapshot().sessions, 1);
}

// T4: the lowest version is obeyed over DTLS, too
#[test]
fn dtls_1_3_alone_is_served_where_it_is_wanted() {
    let (server, check) = with_dtls(MinVersion::V13);
    let client = allocate(server.listening().secure[0], Transport::Dtls, Some(check));
    assert_eq!(server.allocations(), 1);
    client.close().unwrap();
}

// For DTLS 1.3 there is a session before its cookie has come back: so many of one source, so many in all, and whoever
// answers is not pushed out
#[test]
fn sessions_that_nobody_has_answered_for_are_bounded() {
    let (server, check) = with_dtls(MinVersion::V13);
    let at = server.listening().secure[0];
    let honest = allocate(at, Transport::Dtls, Some(check.clone()));
    let hello = first_words();
    let speak = |source: u8| {
        let socket = StdSocket::bind(SocketAddr::from(([127, 0, 1, source], 0))).unwrap();
        socket.send_to(&hello, at).unwrap();
        socket
    };
    // Each waits for its turn: what a full socket loses would not be counted.
    let heard = |socket: &StdSocket| {
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket.recv(&mut [0; 2048]).unwrap()
    };
    let of_one: Vec<StdSocket> = (0..STRANGERS_OF_ONE + 20).map(|_| speak(1)).collect();
    for socket in &of_one[..STRANGERS_OF_ONE] {
        let length = heard(socket);
        assert!(length <= 3 * hello.len(), "{length} for {}", hello.len());
    }
    let counted = server.snapshot();
    assert_eq!(counted.sessions, 1 + STRANGERS_OF_ONE);
    assert_eq!(counted.io.refused_sessions, 20);
    for source in 2..=20 {
        for _ in 0..STRANGERS_OF_ONE {
            heard(&speak(source));
        }
    }
    assert_eq!(server.snapshot().sessions, 1 + STRANGERS);
    let second = allocate(at, Transport::Dtls, Some(check));
    assert_eq!(server.allocations(), 2);
    honest.close().unwrap();
    second.close().unwrap();
}

// T7: clients are spread over the threads, and each thread serves its own alone; T37: through the waiting client
#[test]
fn every_thread_has_clients_of_its_own() {
    let server = Bound::bind(settings(2)).unwrap().start().unwrap();
    let echo = StdSocket::bind("127.0.0.1:0").unwrap();
    let peer = echo.local_addr().unwrap();
    let mut clients: Vec<Blocking> = (0..24).map(|_| client(&server, Transport::Udp)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.admit(peer, number % 2 == 0).unwrap();
        assert!(client.send(peer, &[number as u8; 100]));
        let mut buffer = [0; 200];
        let (length, from) = echo.recv_from(&mut buffer).unwrap();
        echo.send_to(&buffer[..length], from).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        let back = client.receive(until).unwrap();
        assert_eq!(back, Some((peer, vec![number as u8; 100])));
    }
    let shares: Vec<usize> = server
        .each_snapshot()
        .iter()
        .map(|one| one.allocations)
        .collect();
    assert_eq!((shares.len(), shares.iter().sum::<usize>()), (2, 24));
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    for client in clients {
        client.close().unwrap();
    }
    assert_eq!(server.allocations(), 0);
}

// T7: streams go to the thread that their address says, all of one address to one
#[test]
fn streams_of_one_address_meet_in_one_thread() {
    let server = Bound::bind(settings(3)).unwrap().start().unwrap();
    let clients: Vec<Blocking> = (0..6).map(|_| client(&server, Transport::Tcp)).collect();
    let mut shares: Vec<usize> = server
        .each_snapshot()
        .iter()
        .map(|one| one.streams)
        .collect();
    shares.sort_unstable();
    assert_eq!(shares, [0, 0, 6]);
    drop(clients);
    // Their ends take the allocations along.
    let until = Instant::now() + Duration::from_secs(5);
    while server.allocations() > 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_taken_port_and_a_foreign_address_are_named() {
    let first = Bound::bind(settings(1)).unwrap();
    let mut second = settings(1);
    second.listen = first.listening().plain.clone();
    assert!(matches!(Bound::bind(second), Err(ServerError::PortBusy(_))));
    let mut foreign = settings(1);
    foreign.turn.relays[0].local = "192.0.2.1".parse().unwrap();
    foreign.turn.relays[0].external = "192.0.2.1".parse().unwrap();
    assert!(matches!(
        Bound::bind(foreign),
        Err(ServerError::Relay { .. })
    ));
}

//! Servers that a test plays against a node: what `[turn-client]` says is what they meet.

use super::*;
use anode_tests::lab::Node;
use anode_tests::traffic;
use anode_turn::stun::{Class, Key, KeyDigest, Mac, Message, TransactionId, Writer, attr, method};
use std::net::UdpSocket;
use std::thread;

const REALM: &str = "scripted";

/// A node that has nothing but a TURN server to reach somebody by, who is not there any more.
struct Asker {
    node: Node,
    target: String,
}

impl Asker {
    /// One for each server, with these lines below its `[turn-client]`.
    fn start(ground: &Ground, servers: &[(&UdpSocket, &str)]) -> Vec<Self> {
        let gone = ground.lan.host("gone");
        let directory = ground.lab.directory();
        let b = Node::on(&gone, directory, "b").no_lan().start();
        let target = b.address().to_owned();
        let secret = directory.join("secret");
        fs::write(&secret, "secret\n").expect("written");
        let start = |(number, (server, lines)): (usize, &(&UdpSocket, &str))| {
            let at = server.local_addr().expect("bound");
            let lines = format!(
                "[turn-client]\n{lines}\n[[turn-client.server]]\nuri = \"turn:{at}\"\nuser = \"alice\"\npassword-file = \"{}\"\n",
                text(&secret)
            );
            let name = format!("a{number}");
            let host = ground.lan.host(&name);
            let node = Node::on(&host, directory, &name).no_lan();
            let endpoint = format!("udp://{}:8737", gone.v4());
            let node = node.config(&lines).peer(&b, &endpoint).start();
            let target = target.clone();
            Self { node, target }
        };
        servers.iter().enumerate().map(start).collect()
    }

    /// Wants to reach him while `meanwhile` goes on.
    fn asks<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        let ping = ["ping", &self.target, "-c", "60", "-i", "1", "-W", "1"];
        let _asking = self.node.in_background(&ping);
        meanwhile()
    }
}

/// A server's socket.
fn server(ground: &Ground, port: u16) -> UdpSocket {
    let socket = traffic::udp(&ground.at, SocketAddr::new(ground.ip(), port));
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

/// One message of a client.
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("a request");
    (buffer[..length].to_vec(), from)
}

/// When each sending of each Allocate came, until the first of the `count`th.
fn allocates(socket: &UdpSocket, count: usize) -> Vec<Vec<Instant>> {
    let mut asked: Vec<(TransactionId, Vec<Instant>)> = Vec::new();
    while asked.len() < count {
        let (bytes, _) = receive(socket);
        let message = Message::parse(&bytes).expect("STUN");
        assert_eq!(message.method(), method::ALLOCATE);
        let id = message.transaction();
        let known = asked.iter_mut().find(|(of, _)| *of == id);
        match known {
            Some((_, times)) => times.push(Instant::now()),
            None => asked.push((id, vec![Instant::now()])),
        }
    }
    asked.into_iter().map(|(_, times)| times).collect()
}

// T30, T31, T32: a node asks a silent server as soon, as often and as patiently as its file says
#[test]
fn a_node_asks_a_silent_server_as_its_file_says() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let sockets = [PORT, PORT + 1].map(|port| server(&ground, port));
    let lines = [
        "rto-ms = 80\nrc = 3\nrm = 1",
        "rto-ms = 80\nrc = 3\nrm = 40",
    ];
    let askers = Asker::start(&ground, &[(&sockets[0], lines[0]), (&sockets[1], lines[1])]);
    let waits: Vec<Duration> = thread::scope(|scope| {
        let ask = |(asker, socket)| {
            let asker: &Asker = asker;
            scope.spawn(move || asker.asks(|| allocates(socket, 2)))
        };
        let running: Vec<_> = askers.iter().zip(&sockets).map(ask).collect();
        let all = running.into_iter().map(|one| one.join().expect("it ends"));
        let wait = |asked: Vec<Vec<Instant>>| {
            let first = &asked[0];
            assert_eq!(first.len(), 3, "sent three times");
            // 80 and 160 ms apart; a busy machine may be late, and then the next one comes the sooner.
            let took = first[2] - first[0];
            let expected = Duration::from_millis(200)..Duration::from_secs(2);
            assert!(expected.contains(&took), "{took:?}");
            asked[1][0] - first[2]
        };
        all.map(wait).collect()
    });
    // 1 x 80 and 40 x 80 ms until it is given up, and then both pause for two seconds.
    println!("given up, and tried again, after {waits:?}");
    let longer = waits[1].saturating_sub(waits[0]);
    let expected = Duration::from_millis(2_200)..Duration::from_millis(5_000);
    assert!(expected.contains(&longer), "{waits:?}");
}

/// How a scripted server signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Signature {
    None,
    Wrong,
    Right,
}

impl Signature {
    fn sign(self, writer: Writer) -> Vec<u8> {
        let key = |password| {
            let key = Key::long_term(KeyDigest::Md5, "alice", REALM, password);
            key.expect("a key")
        };
        match self {
            Self::None => writer.finish(),
            Self::Wrong => writer.sign(&key("guessed"), Mac::Sha1).finish(),
            Self::Right => writer.sign(&key("secret"), Mac::Sha1).finish(),
        }
    }
}

/// A server that asks for credentials and then answers each Allocate by `answer`. What it got after that: how often the
/// first signed Allocate, and whether a request that only a client with an allocation has.
fn play(socket: &UdpSocket, answer: impl Fn(&Message<'_>) -> Vec<u8>) -> (usize, bool) {
    let (mut first, mut count, mut believed) = (None, 0, false);
    let mut end = Instant::now() + LIMIT;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let message = Message::parse(&buffer[..length]).expect("STUN");
        let say = |bytes: &[u8]| {
            socket.send_to(bytes, from).expect("sent");
        };
        match message.method() {
            method::ALLOCATE if !message.is_signed() => {
                let writer = Writer::error(message.method(), message.transaction(), 401);
                let writer = writer
                    .raw(attr::REALM, REALM.as_bytes())
                    .raw(attr::NONCE, b"for now");
                say(&writer.finish());
            }
            method::ALLOCATE => {
                if first.is_none() {
                    end = Instant::now() + Duration::from_millis(2_500);
                }
                let id = *first.get_or_insert(message.transaction());
                count += usize::from(id == message.transaction());
                say(&answer(&message));
            }
            _ => believed |= message.class() == Class::Request,
        }
    }
    (count, believed)
}

// T39: answers to a signed request without a signature, or with a wrong one, are none; refusals without one are heard if the
// file says so
#[test]
fn a_node_believes_a_server_as_far_as_its_file_says() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let relayed = SocketAddr::new(ground.ip(), 50_000);
    let granted = |message: &Message<'_>, signature: Signature| {
        let writer = Writer::success(message)
            .xor_address(attr::XOR_RELAYED_ADDRESS, relayed)
            .xor_address(attr::XOR_MAPPED_ADDRESS, relayed)
            .number(attr::LIFETIME, 600);
        signature.sign(writer)
    };
    let refused = |message: &Message<'_>, signature: Signature| {
        signature.sign(Writer::error(message.method(), message.transaction(), 486))
    };
    // Whether it requires integrity, what it is told and how, whether it goes on asking, whether it takes the allocation.
    let cases = [
        (true, true, Signature::None, true, false),
        (true, true, Signature::Wrong, true, false),
        (true, true, Signature::Right, false, true),
        (true, false, Signature::None, true, false),
        (true, false, Signature::Right, false, false),
        (false, true, Signature::None, true, false),
        (false, false, Signature::Wrong, true, false),
        (false, false, Signature::None, false, false),
    ];
    let sockets: Vec<UdpSocket> = (0..cases.len() as u16)
        .map(|at| server(&ground, PORT + at))
        .collect();
    let lines = cases.map(|(required, ..)| {
        format!("rto-ms = 100\nrc = 4\nrm = 40\nrequire-integrity = {required}")
    });
    let servers: Vec<(&UdpSocket, &str)> = sockets
        .iter()
        .zip(&lines)
        .map(|(socket, lines)| (socket, lines.as_str()))
        .collect();
    let askers = Asker::start(&ground, &servers);
    thread::scope(|scope| {
        let (granted, refused) = (&granted, &refused);
        for ((asker, socket), case) in askers.iter().zip(&sockets).zip(cases) {
            scope.spawn(move || {
                let (_, grants, signature, asks_on, takes) = case;
                let answer = |message: &Message<'_>| match grants {
                    true => granted(message, signature),
                    false => refused(message, signature),
                };
                let (count, believed) = asker.asks(|| play(socket, answer));
                assert!(count > 0, "never asked: {case:?}");
                assert_eq!((count > 1, believed), (asks_on, takes), "{case:?}: {count}");
            });
        }
    });
}

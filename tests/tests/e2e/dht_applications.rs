//! Programs that speak through an overlay: datagrams of a local socket go in TUNNELs, and over a connection of their own once
//! a conversation is long.

use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(40);
/// Where the served program is, and where a program speaks to the forward.
const PROGRAM: &str = "127.0.0.1:5060";
const FORWARD: &str = "127.0.0.1:5070";

/// A program that answers each datagram with the same, and its own name before it, until it hears `over`.
fn answering(host: &Host, name: &'static str) -> JoinHandle<()> {
    let socket = host.run(|| UdpSocket::bind(PROGRAM)).expect("a socket");
    socket.set_read_timeout(Some(2 * SOON)).expect("a timeout");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if &buffer[..len] == b"over" {
                return;
            }
            let answer = [name.as_bytes(), b" heard ", &buffer[..len]].concat();
            let _ = socket.send_to(&answer, from);
        }
    })
}

/// A program that speaks to a forward.
struct Caller(UdpSocket);

impl Caller {
    fn new(host: &Host) -> Self {
        let socket = host.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(FORWARD)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            std::io::Result::Ok(socket)
        });
        Self(socket.expect("a socket"))
    }

    /// Says something until it is answered: datagrams may be lost, and the overlay may not be there yet.
    #[track_caller]
    fn answered(&self, text: &str, expected: &str, nodes: &[&Node]) {
        let begin = Instant::now();
        let mut buffer = vec![0; 65_535];
        loop {
            // A refusal of the one before is no reason to stop.
            let _ = self.0.send(text.as_bytes());
            while let Ok(len) = self.0.recv(&mut buffer) {
                if &buffer[..len] == expected.as_bytes() {
                    return;
                }
            }
            let logs = || nodes.iter().map(|node| node.log()).collect::<Vec<_>>();
            assert!(
                begin.elapsed() < SOON,
                "{text}: no answer\n{}",
                logs().join("\n---\n")
            );
        }
    }

    /// A call of so many words, each answered.
    #[track_caller]
    fn call(&self, words: usize, name: &str, nodes: &[&Node]) {
        for n in 0..words {
            let text = format!("word {n}");
            self.answered(&text, &format!("{name} heard {text}"), nodes);
        }
    }
}

/// Where a program takes connections, where others connect to the forward, and to one that leads to nobody.
const TCP_PROGRAM: &str = "127.0.0.1:5062";
const TCP_FORWARD: &str = "127.0.0.1:5072";
const TCP_NOWHERE: &str = "127.0.0.1:5073";

/// Lines of a node that serves connections of application 5062.
fn tcp_served() -> String {
    format!("[[dht.application]]\nport = 5062\nprotocol = \"tcp\"\nto = \"{TCP_PROGRAM}\"\n")
}

/// Lines of a node whose programs connect to those of a peer: of application 5062, and of one that it does not serve.
fn tcp_forwards(peer: &str) -> String {
    let forward = |listen: &str, number: u16| {
        format!(
            "[[dht.forward]]\nprotocol = \"tcp\"\nlisten = \"{listen}\"\napplication = {number}\npeer = \"{peer}\"\n"
        )
    };
    forward(TCP_FORWARD, 5062) + &forward(TCP_NOWHERE, 5063)
}

/// A program that hears a connection out, says how much that was, and says it all again.
fn echoing(host: &Host, connections: usize) -> JoinHandle<()> {
    let listener = host.run(|| TcpListener::bind(TCP_PROGRAM));
    let listener = listener.expect("a listener");
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).expect("to its end");
            write!(stream, "{} bytes:", heard.len()).expect("written");
            stream.write_all(&heard).expect("written");
        }
    })
}

/// Says something over a connection, to its end, and hears the answer.
fn connected(host: &Host, to: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = host.run(|| TcpStream::connect(to))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    Ok(heard)
}

/// Connections of programs pass through: whole, several at once, and those that nobody takes are reset.
#[track_caller]
fn programs_connect(serving: &Host, calling: &Host, nodes: &[&Node]) {
    let program = echoing(serving, 3);
    let logs = || nodes.iter().map(|node| node.log()).collect::<Vec<_>>();
    let say = |bytes: &[u8]| {
        let heard = connected(calling, TCP_FORWARD, bytes);
        let heard = heard.unwrap_or_else(|error| panic!("{error}\n{}", logs().join("\n---\n")));
        let expected = [format!("{} bytes:", bytes.len()).as_bytes(), bytes].concat();
        assert!(heard == expected, "{} bytes heard", heard.len());
    };
    say(b"hello");
    let long: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| say(&long));
        scope.spawn(|| say(b""));
    });
    program.join().expect("it ends");
    // Nobody listens there any more, and nobody serves the other application.
    for to in [TCP_FORWARD, TCP_NOWHERE] {
        let refused = connected(calling, to, b"hello").expect_err("a reset");
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(kinds.contains(&refused.kind()), "{to}: {refused}");
    }
}

fn count(node: &Node, what: &str) -> f64 {
    node.metrics()
        .sum(&format!("anode_dht_applications_{what}_total"))
}

/// The call has begun in TUNNELs, and gone over to a connection.
#[track_caller]
fn begun_tunnelled_then_connected(nodes: &[&Node], caller: &Caller, name: &str) {
    let begin = Instant::now();
    while nodes.iter().any(|node| count(node, "connected") < 3.0) {
        caller.call(1, name, nodes);
        let logs = || nodes.iter().map(|node| node.log()).collect::<Vec<_>>();
        assert!(
            begin.elapsed() < SOON,
            "no connection\n{}",
            logs().join("\n---\n")
        );
    }
    for node in nodes {
        assert!(count(node, "tunnelled") >= 2.0);
    }
    let before = count(nodes[0], "tunnelled");
    caller.call(5, name, nodes);
    assert_eq!(
        count(nodes[0], "tunnelled"),
        before,
        "the connection serves"
    );
}

// R61 to R63, R100, R133, R134: a program speaks to that of another machine, by its address alone
#[test]
fn programs_speak_through_the_sessions_of_a_zone() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let hosts = ["first", "bob", "alice"].map(|name| lan.host(name));
    let overlay = "[[dht]]\noverlay = \"home.example\"\n";
    let node = |n: usize, name: &str, lines: &str| {
        let node = Node::on(&hosts[n], lab.directory(), name).no_lan();
        node.config(&format!("{overlay}{lines}"))
            .args(&["--log", "warn,anode_routing::dht=debug"])
            .start()
    };
    let first = node(0, "first", "create = true\n");
    let bootstrap = format!(
        "bootstrap = [\"{}@{}:8737\"]\n",
        first.address(),
        hosts[0].v4()
    );
    let served = format!(
        "{bootstrap}[[dht.application]]\nport = 5060\nto = \"{PROGRAM}\"\n{}",
        tcp_served()
    );
    let bob = node(1, "bob", &served);
    let forward = format!(
        "{bootstrap}[[dht.forward]]\nlisten = \"{FORWARD}\"\napplication = 5060\npeer = \"{}\"\n{}",
        bob.address(),
        tcp_forwards(bob.address())
    );
    let alice = node(2, "alice", &forward);
    let program = answering(&hosts[1], "bob");
    let caller = Caller::new(&hosts[2]);
    caller.call(1, "bob", &[&alice, &bob]);
    begun_tunnelled_then_connected(&[&alice, &bob], &caller, "bob");
    // A long one does not fit in a session's message: it is tunnelled, in fragments.
    let long = "x".repeat(9000);
    caller.answered(&long, &format!("bob heard {long}"), &[&alice, &bob]);
    assert_eq!(count(&first, "tunnelled"), 0.0, "nobody else hears of it");
    caller.0.send(b"over").expect("sent");
    program.join().expect("it ends");
    programs_connect(&hosts[1], &hosts[2], &[&alice, &bob]);
}

// R80, R95, R103, R106, R131, R133, R134, R145: a user is found by his registration, which his certificate lets him make;
// a long call goes over DTLS on a path of ICE
#[test]
fn a_user_is_called_by_his_sip_address() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let hosts = ["relay", "bob", "alice"].map(|name| lan.host(name));
    let secret = |name: &str, text: &str| {
        let path = lab.directory().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        path.display().to_string()
    };
    let config = format!(
        "listen = [\"{at}:8737\"]\n[relay]\n[[dht]]\noverlay = \"home.example\"\ncreate = true\n\
         listen = [\"{at}:6084\"]\n[dht.credential-server]\nusers-file = \"{}\"",
        secret("users", "alice:one\nbob:two\n"),
        at = hosts[0].v4()
    );
    let relay = Node::on(&hosts[0], lab.directory(), "relay").relay();
    let relay = relay.config(&config).start();
    let document = relay.state().join("dht-home.example.xml");
    let node = |n: usize, name: &str, password: &str, lines: &str| {
        let config = format!(
            "[[dht]]\noverlay = \"home.example\"\nconfig = \"{}\"\nlisten = [\"{}:6084\"]\n\
             user = \"{name}\"\npassword-file = \"{}\"\n{lines}",
            document.display(),
            hosts[n].v4(),
            secret(&format!("{name}.password"), password),
        );
        let node = Node::on(&hosts[n], lab.directory(), name).no_lan();
        node.config(&config)
            .args(&["--log", "warn,anode_routing::dht=debug"])
            .start()
    };
    let served = format!(
        "[[dht.application]]\nport = 5060\nto = \"{PROGRAM}\"\nusers = [\"sip:bob@home.example\"]\n{}",
        tcp_served()
    );
    let bob = node(1, "bob", "two", &served);
    let forward = format!(
        "[[dht.forward]]\nlisten = \"{FORWARD}\"\napplication = 5060\npeer = \"sip:bob@home.example\"\n{}",
        tcp_forwards("sip:bob@home.example")
    );
    let alice = node(2, "alice", "one", &forward);
    let program = answering(&hosts[1], "bob");
    let caller = Caller::new(&hosts[2]);
    caller.call(1, "bob", &[&alice, &bob]);
    let registered = alice.json(&["dht", "get", "SIP-REGISTRATION", "sip:bob@home.example"]);
    let place = bob.json(&["dht", "status"])[0]["node"].clone();
    assert_eq!(registered[0]["key"], place, "{registered}");
    begun_tunnelled_then_connected(&[&alice, &bob], &caller, "bob");
    // Nobody registers under the name of another.
    let value = format!("hex:{}", registered[0]["hex"].as_str().expect("a value"));
    let put = [
        "dht",
        "put",
        "SIP-REGISTRATION",
        "sip:bob@home.example",
        &value,
    ];
    let stolen = alice.cli(&put);
    assert_ne!(stolen.code(), 0, "{}", stolen.stderr);
    caller.0.send(b"over").expect("sent");
    program.join().expect("it ends");
    programs_connect(&hosts[1], &hosts[2], &[&alice, &bob]);
}

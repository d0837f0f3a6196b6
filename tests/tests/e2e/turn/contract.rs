//! What the file says is what clients meet: other servers, limits, the server's name.

use super::session::Session;
use super::*;
use anode_tests::traffic;
use anode_turn::client::Event;
use anode_turn::stun::{Class, Message, Writer, attr, method};
use std::time::Instant;

/// A server in a file of these lines, read again when they change.
struct Changing {
    server: Proc,
    config: PathBuf,
}

impl Changing {
    fn start(lab: &Lab, at: &Host, lines: &str) -> Self {
        let config = lab.directory().join("turn.toml");
        fs::write(&config, lines).expect("written");
        let server = serve(at, &config);
        Self { server, config }
    }

    fn reread(&mut self, lines: &str) {
        let logged = |server: &mut Proc| server.stderr().matches("reloaded").count();
        let before = logged(&mut self.server);
        fs::write(&self.config, lines).expect("written");
        self.server.signal(Signal::SIGHUP);
        let deadline = Instant::now() + LIMIT;
        while logged(&mut self.server) == before {
            assert!(Instant::now() < deadline, "{}", self.server.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// T29: sent to the server of the family that asks, with the name its certificate carries; at once, or when it is full
#[test]
fn clients_are_sent_elsewhere_in_the_family_in_which_they_ask() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::Both);
    let (at, client) = (lan.host("turn"), lan.host("client"));
    let own: [SocketAddr; 2] = [(at.v4(), PORT).into(), (at.v6(), PORT).into()];
    let lines = |when: &str| {
        format!(
            "[turn]\nlisten = [\"{}\", \"{}\"]\nusers = {{ alice = \"secret\" }}\nquota = {{ allocations = 1 }}\n\
             alternate = [\"[2001:db8:1::99]:3478\", \"192.0.2.99:3478\"]\nalternate-domain = \"turn.example.net\"\n\
             alternate-when = \"{when}\"\n",
            own[0], own[1]
        )
    };
    let elsewhere = |server: &str| Event::Redirect {
        server: server.parse().expect("an address"),
        domain: Some("turn.example.net".to_owned()),
    };
    let meets = |from: SocketAddr| {
        let mut session = Session::start(&client, from, "alice");
        let met = |e: &Event| matches!(e, Event::Redirect { .. } | Event::Allocated { .. });
        (session.until(met), session)
    };
    let mut server = Changing::start(&lab, &at, &lines("always"));
    let expected = ["192.0.2.99:3478", "[2001:db8:1::99]:3478"].map(elsewhere);
    assert_eq!(own.map(|from| meets(from).0), expected);
    server.reread(&lines("full"));
    let (first, _held) = meets(own[0]);
    assert!(matches!(first, Event::Allocated { .. }), "{first:?}");
    assert_eq!(own.map(|from| meets(from).0), expected);
}

// T8: each of the three rates holds what passes, from the moment the file says so, and of an allocation that stands
#[test]
fn rates_of_the_file_hold() {
    const BURST: usize = 60;
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let (at, client, peer) = (lan.host("turn"), lan.host("client"), lan.host("peer"));
    let echo = SocketAddr::new(peer.ip_address(), ECHO);
    let _echo = UdpEcho::start(&peer, echo);
    let own = SocketAddr::new(at.ip_address(), PORT);
    let lines = |more: &str| {
        format!("[turn]\nlisten = [\"{own}\"]\nusers = {{ alice = \"secret\" }}\n{more}\n")
    };
    let mut server = Changing::start(&lab, &at, &lines(""));
    let mut session = Session::allocated(&client, own);
    session.permit(echo.ip());
    // 60 kB out and as much back.
    let mut echoed = || session.count_echoes(echo, BURST, Duration::from_millis(300));
    assert_eq!(echoed(), BURST);
    for rate in ["kbps-per-allocation", "kbps-per-user", "kbps"] {
        server.reread(&lines(&format!("quota = {{ {rate} = 400 }}")));
        let passed = echoed();
        assert!((1..BURST / 2).contains(&passed), "{rate}: {passed}");
    }
    server.reread(&lines(""));
    assert_eq!(echoed(), BURST);
}

// T25: the name of the program is told only if one is configured
#[test]
fn the_name_of_the_program_is_told_as_the_file_says() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let (at, client) = (lan.host("turn"), lan.host("client"));
    let own = SocketAddr::new(at.ip_address(), PORT);
    let lines = |name: &str| {
        format!("[turn]\nlisten = [\"{own}\"]\nusers = {{ alice = \"secret\" }}\n{name}\n")
    };
    let told = || {
        let socket = traffic::udp(&client, SocketAddr::new(client.ip_address(), 0));
        socket.connect(own).expect("a way there");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let request = Writer::new(Class::Request, method::BINDING, [5; 12]).finish();
        socket.send(&request).expect("sent");
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("an answer");
        let answer = Message::parse(&buffer[..length]).expect("STUN");
        answer.raw(attr::SOFTWARE).map(<[u8]>::to_vec)
    };
    let mut server = Changing::start(&lab, &at, &lines("software = \"\""));
    assert_eq!(told(), None);
    server.reread(&lines("software = \"somebody 1.0\""));
    assert_eq!(told(), Some(b"somebody 1.0".to_vec()));
}

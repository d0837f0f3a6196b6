//! The file read again: what each field says counts from then on, and allocations that stand go on.

use super::session::Session;
use super::users::{digest, gets_in, hex};
use super::*;
use anode_tests::traffic;
use anode_turn::client::{Event, Why};
use anode_turn::stun::text::Text;
use anode_turn::stun::{Class, Message, Writer, attr, method};
use std::time::SystemTime;

/// A server whose users may change, too, and a peer that echoes.
struct Stage {
    server: Changing,
    _echo: UdpEcho,
    echo: SocketAddr,
    ground: Ground,
}

impl Stage {
    fn start(more: &str) -> Option<Self> {
        let ground = Ground::open(Family::V4)?;
        let (_echo, echo) = ground.echo();
        let head = format!("[turn]\nlisten = [\"{}\"]\n", ground.own());
        Some(Self {
            _echo,
            echo,
            server: ground.serve_with(head, more),
            ground,
        })
    }

    /// Somebody with an allocation through which the peer is reached.
    fn held(&self) -> Session {
        let mut session = Session::allocated(&self.ground.client, self.ground.own());
        session.permit(self.echo.ip());
        assert!(session.echoes(self.echo, b"before"));
        session
    }

    /// Where a new client is relayed from, or why it is not.
    fn newcomer(&self) -> Result<SocketAddr, Why> {
        let mut session = Session::start(&self.ground.client, self.ground.own(), "alice");
        let found = session.until(|e| matches!(e, Event::Allocated { .. } | Event::Ended { .. }));
        match found {
            Event::Allocated { relayed, .. } => Ok(relayed[0]),
            Event::Ended { why, .. } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    /// Has the file read again with these lines below Alice's; who has an allocation notices nothing.
    fn reread(&mut self, held: &mut Session, lines: &str) {
        self.server.reread(&format!("{ALICE}\n{lines}"));
        assert!(
            held.echoes(self.echo, format!("after {lines}").as_bytes()),
            "{lines}"
        );
    }

    /// What a stranger is asked in.
    fn challenge(&self, what: Text) -> String {
        let own = SocketAddr::new(self.ground.client.ip_address(), 0);
        let socket = traffic::udp(&self.ground.client, own);
        socket.connect(self.ground.own()).expect("a way there");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let request = Writer::new(Class::Request, method::ALLOCATE, [5; 12])
            .raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .finish();
        socket.send(&request).expect("sent");
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("an answer");
        let answer = Message::parse(&buffer[..length]).expect("STUN");
        let text = answer.text(what).expect("a text");
        text.expect("it is there").to_owned()
    }
}

const ALICE: &str = "users = { alice = \"secret\" }";

// T2, T3, T4, T20: ports, addresses, their outside, the number of allocations, the realm, secrets, addresses to listen on
#[test]
fn each_field_counts_from_the_moment_it_is_read() {
    let Some(mut stage) = Stage::start(ALICE) else {
        return;
    };
    let mut held = stage.held();
    let before = held.relayed();
    stage.reread(&mut held, "port-range = [40000, 40050]");
    let at = stage.newcomer().expect("an allocation");
    assert!((40_000..=40_050).contains(&at.port()), "{at}");
    stage.reread(&mut held, "relay = [\"127.0.0.1\"]");
    let at = stage.newcomer().expect("an allocation");
    assert_eq!(at.ip(), IpAddr::from([127, 0, 0, 1]));
    let external = format!(
        "external = {{ \"{}\" = \"203.0.113.5\" }}",
        stage.ground.ip()
    );
    stage.reread(&mut held, &external);
    let at = stage.newcomer().expect("an allocation");
    assert_eq!(at.ip(), IpAddr::from([203, 0, 113, 5]));
    for (quota, code) in [("allocations = 1", 508), ("allocations-per-user = 1", 486)] {
        stage.reread(&mut held, &format!("quota = {{ {quota} }}"));
        let refused = stage.newcomer().expect_err("one stands");
        let with_code = matches!(refused, Why::Refused { code: with, .. } if with == code);
        assert!(with_code, "{quota}: {refused}");
    }
    stage.reread(&mut held, "rest-secret = \"north\"");
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let name = format!("{}:carol", unix.expect("after 1970").as_secs() + 600);
    let password = {
        use base64::Engine as _;
        let tag = digest(&["-sha1", "-hmac", "north"], &name);
        base64::engine::general_purpose::STANDARD.encode(tag)
    };
    assert!(gets_in(&stage.ground, &name, &password));
    stage.reread(&mut held, "");
    assert!(!gets_in(&stage.ground, &name, &password));
    assert_eq!(held.relayed(), before);
    // Where it listens stays as it is as long as it runs; that is said, and the file counts for nothing else.
    let listen = stage.server.head.replace(":3478", ":3479");
    let lines = format!("{listen}{ALICE}\nport-range = [41000, 41050]\n");
    stage
        .server
        .reread_all(&lines, "cannot change while the server runs: restart");
    let at = stage.newcomer().expect("an allocation");
    assert!(!(41_000..=41_050).contains(&at.port()), "{at}");
}

// T4: the realm changes, and with it what everybody's key is made of; who has an allocation is asked anew, and keeps it
#[test]
fn another_realm_is_asked_for_and_ends_nothing() {
    let Some(mut stage) = Stage::start(ALICE) else {
        return;
    };
    let mut held = stage.held();
    assert_eq!(stage.challenge(Text::Realm), "anode");
    stage
        .server
        .reread(&format!("{ALICE}\nrealm = \"example.org\""));
    assert_eq!(stage.challenge(Text::Realm), "example.org");
    assert!(held.echoes(stage.echo, b"after"));
    held.permit("192.0.2.250".parse().expect("an address"));
    assert!(stage.newcomer().is_ok());
}

// T4, T44: a user who has an MD5 key alone comes, and ends nobody's allocation that was made with SHA-256, nonces that end
// included; of a user who goes, what stands lasts as long as it was promised
#[test]
fn users_come_and_go_and_allocations_of_others_stay() {
    let Some(mut stage) = Stage::start(&format!("{ALICE}\nnonce-ttl-s = 1")) else {
        return;
    };
    let promise = |stage: &Stage| stage.challenge(Text::Nonce)[..13].to_owned();
    let bits = |text: &str| format!("obMatJos2{text}");
    assert_eq!(promise(&stage), bits("wAAA"), "algorithms and hidden names");
    let mut held = stage.held();
    let key = hex(&digest(&["-md5"], "old:anode:a word"));
    let users = format!("users = {{ alice = \"secret\", old = {{ md5 = \"{key}\" }} }}");
    stage.server.reread(&format!("{users}\nnonce-ttl-s = 1"));
    assert_eq!(promise(&stage), bits("AAAA"), "what all of them can");
    for name in ["alice", "old"] {
        let password = if name == "old" { "a word" } else { "secret" };
        assert!(gets_in(&stage.ground, name, password), "{name}");
    }
    for last in [250, 251] {
        // The nonce of before has ended, and the next one promises what it did.
        std::thread::sleep(Duration::from_millis(2_100));
        held.permit(IpAddr::from([192, 0, 2, last]));
    }
    assert!(held.echoes(stage.echo, b"after"));

    stage
        .server
        .reread(&format!("users = {{ old = {{ md5 = \"{key}\" }} }}"));
    assert!(!gets_in(&stage.ground, "alice", "secret"));
    assert!(gets_in(&stage.ground, "old", "a word"));
    // What she has lasts as long as she was told.
    assert!(held.echoes(stage.echo, b"for now"));
}

// `drain-s` as the file has it when the end comes
#[test]
fn the_time_of_a_drain_is_the_one_last_read() {
    let Some(mut stage) = Stage::start(&format!("{ALICE}\ndrain-s = 600")) else {
        return;
    };
    let _held = stage.held();
    stage.server.reread(&format!("{ALICE}\ndrain-s = 1"));
    let asked = Instant::now();
    stage.server.server.signal(Signal::SIGTERM);
    let status = stage.server.server.wait(LIMIT).expect("it ends");
    let took = asked.elapsed();
    assert!(
        status.success() && took > Duration::from_millis(700),
        "{took:?}"
    );
}

//! Servers that a client has chosen, and that answer what they like.
use super::REALM;
use super::talk::{attributes, peer, steps};
use anode_turn::client::{Client, Config, Credentials, Event};
use anode_turn::stun::{Class, Key, KeyDigest, Mac, Message, Writer, attr, method};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const SERVER: ([u8; 4], u16) = ([203, 0, 113, 1], 3478);
/// Messages that one step may cause.
const MOST: usize = 300;

struct World {
    client: Client,
    now: Instant,
    /// The last request.
    request: Option<Vec<u8>>,
    /// Those whom the program has asked for.
    wanted: BTreeSet<IpAddr>,
    key: Key,
}

/// Steps of a server, of its client's program, and of time. Payload comes only of peers that were asked for.
pub fn servers(data: &[u8]) {
    let now = Instant::now();
    let config = Config {
        credentials: Some(Credentials {
            name: "alice".into(),
            password: "secret".to_owned().into(),
        }),
        require_integrity: data.len().is_multiple_of(2),
        tcp: data.len().is_multiple_of(3),
        ..Config::default()
    };
    let mut client = Client::new(now, config, SERVER.into(), [3; 32]);
    client.start(now).expect("nothing is in the way");
    let key = Key::long_term(KeyDigest::Md5, "alice", REALM, "secret");
    let mut world = World {
        client,
        now,
        request: None,
        wanted: BTreeSet::new(),
        key: key.expect("a key"),
    };
    world.settle();
    for (kind, bytes) in steps(data) {
        world.step(kind, bytes);
        world.settle();
    }
    world.client.close(world.now);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.client.relayed(), [], "it has given everything back");
}

impl World {
    fn step(&mut self, kind: u8, bytes: &[u8]) {
        let first = bytes.first().copied().unwrap_or_default();
        let (now, to) = (self.now, peer(first));
        match kind & 7 {
            0 => self.hear(bytes),
            1 | 2 => self.answer(kind, bytes),
            3 => {
                const METHODS: [u16; 2] = [method::DATA, method::CONNECTION_ATTEMPT];
                let method = METHODS[usize::from(kind >> 3 & 1)];
                let indication = Writer::new(Class::Indication, method, [9; 12]);
                self.hear(&attributes(indication, bytes).finish());
            }
            4 => self.pass(Duration::from_millis(100 * u64::from(first))),
            5 => {
                self.wanted.insert(to.ip());
                match kind >> 3 & 3 {
                    0 => drop(self.client.permit(now, to.ip())),
                    1 => drop(self.client.bind(now, to)),
                    2 => drop(self.client.connect(now, to)),
                    _ => drop(self.client.send(now, to, bytes)),
                }
            }
            // What it sends until its permission ends is heard still.
            6 => self.client.forget(to.ip()),
            _ if kind & 8 == 0 => self.client.handle_server_icmp(now, first, first >> 4),
            _ => self.client.stream_ended(),
        }
    }

    /// Answers the last request: an error or not, signed or not, with these attributes.
    fn answer(&mut self, kind: u8, bytes: &[u8]) {
        let Some(request) = self.request.clone() else {
            return;
        };
        let request = Message::parse(&request).expect("a message of ours");
        let writer = match kind & 3 {
            1 => Writer::success(&request),
            _ => Writer::new(Class::Error, request.method(), request.transaction()),
        };
        let mut writer = attributes(writer, bytes);
        if kind & 8 != 0 {
            writer = writer
                .raw(attr::REALM, REALM.as_bytes())
                .raw(attr::NONCE, &[b'n', b'0' + (kind >> 5)]);
        }
        if kind & 16 != 0 {
            writer = writer.sign(&self.key, Mac::Sha1);
        }
        self.hear(&writer.finish());
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Some(received) = self.client.handle(self.now, bytes) {
            assert!(received.payload.end <= bytes.len());
            let from: SocketAddr = received.peer;
            assert!(
                self.wanted.contains(&from.ip()),
                "nobody has asked for {from}"
            );
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.client.deadline().filter(|at| *at <= end) {
            wakes += 1;
            assert!(wakes < 20_000, "it turns without end");
            self.now = at.max(self.now);
            self.client.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        let mut sent = 0;
        while let Some(bytes) = self.client.poll_transmit() {
            sent += 1;
            assert!(sent < MOST, "a flood");
            let request = Message::parse(&bytes).ok();
            if request.is_some_and(|message| message.class() == Class::Request) {
                self.request = Some(bytes);
            }
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Redirect { server, .. } => drop(self.client.restart(self.now, server)),
                Event::NewSocket => drop(self.client.restart(self.now, SERVER.into())),
                _ => {}
            }
        }
    }
}

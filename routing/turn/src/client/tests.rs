//! Scripted servers that misbehave, our own server that does not, and a clock turned by hand.

mod credentials;
mod payload;
mod refusals;
mod timing;
mod together;

use super::*;
use crate::stun::{Key, KeyDigest, Mac, Message, TransactionId, attr};

const SERVER: &str = "203.0.113.1:3478";
const RELAY: &str = "203.0.113.1:50000";
const PEER: &str = "198.51.100.7:9000";
const NONCE: &str = "nonce-1";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn config() -> Config {
    let credentials = Credentials {
        name: "alice".into(),
        password: "secret".to_owned().into(),
    };
    Config {
        credentials: Some(credentials),
        ..Config::default()
    }
}

/// A client and the hand that plays its server.
struct Script {
    client: Client,
    now: Instant,
    start: Instant,
    key: Key,
}

/// A request as the script sees it.
struct Asked(Vec<u8>);

impl Asked {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    fn method(&self) -> u16 {
        self.message().method()
    }

    fn id(&self) -> TransactionId {
        self.message().transaction()
    }

    fn channel(&self) -> u16 {
        let value = self.message().raw(attr::CHANNEL_NUMBER).unwrap();
        u16::from_be_bytes([value[0], value[1]])
    }
}

impl Script {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let client = Client::new(now, config, address(SERVER), [3; 32]);
        let key = Key::long_term(KeyDigest::Md5, "alice", "realm", "secret").unwrap();
        Self {
            client,
            now,
            start: now,
            key,
        }
    }

    /// A client with an allocation.
    fn ready(config: Config) -> Self {
        let mut script = Self::new(config);
        script.client.start(script.now).unwrap();
        script.login();
        script.allocated();
        let events = script.events();
        assert!(
            matches!(events[..], [Event::Allocated { .. }]),
            "{events:?}"
        );
        script
    }

    /// Everything that the client sends now; requests only.
    fn asked(&mut self) -> Vec<Asked> {
        let is_request = |b: &Vec<u8>| Message::parse(b).is_ok_and(|m| m.class() == Class::Request);
        self.sent()
            .into_iter()
            .filter(is_request)
            .map(Asked)
            .collect()
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.client.poll_transmit()).collect()
    }

    fn one(&mut self, method: u16) -> Asked {
        let mut asked = self.asked();
        let methods: Vec<u16> = asked.iter().map(Asked::method).collect();
        assert_eq!(methods, [method]);
        asked.remove(0)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn hear(&mut self, bytes: &[u8]) -> Option<Received> {
        self.client.handle(self.now, bytes)
    }

    fn challenge(asked: &Asked, code: u16, nonce: &str) -> Vec<u8> {
        let writer = Writer::error(asked.method(), asked.id(), code);
        writer
            .raw(attr::REALM, b"realm")
            .raw(attr::NONCE, nonce.as_bytes())
            .finish()
    }

    /// Answers the first Allocate with 401.
    fn login(&mut self) {
        let asked = self.one(method::ALLOCATE);
        assert!(
            !asked.message().is_signed(),
            "the first request carries no credentials"
        );
        self.hear(&Self::challenge(&asked, 401, NONCE));
    }

    fn allocated(&mut self) {
        let asked = self.one(method::ALLOCATE);
        assert!(self.key.verifies(Mac::Sha1, &asked.message()));
        self.succeed(&asked, |w| {
            w.xor_address(attr::XOR_RELAYED_ADDRESS, address(RELAY))
                .xor_address(attr::XOR_MAPPED_ADDRESS, address("192.0.2.1:1"))
                .number(attr::LIFETIME, 600)
        });
    }

    fn succeed(&mut self, asked: &Asked, build: impl FnOnce(Writer) -> Writer) {
        let writer = Writer::new(Class::Success, asked.method(), asked.id());
        let bytes = build(writer).sign(&self.key, Mac::Sha1).finish();
        self.hear(&bytes);
    }

    fn refuse(&mut self, asked: &Asked, code: u16, build: impl FnOnce(Writer) -> Writer) {
        let writer = Writer::error(asked.method(), asked.id(), code);
        let bytes = build(writer).sign(&self.key, Mac::Sha1).finish();
        self.hear(&bytes);
    }

    /// Turns the clock, doing what is due on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.client.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.client.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Turns the clock to the next thing due and gives the milliseconds since the start.
    fn step(&mut self) -> Option<u128> {
        let at = self.client.deadline()?;
        self.now = at.max(self.now);
        self.client.handle_timeout(self.now);
        Some((self.now - self.start).as_millis())
    }

    fn permitted(&mut self, peer: &str) {
        assert!(self.client.permit(self.now, address(peer).ip()));
        let asked = self.one(method::CREATE_PERMISSION);
        self.succeed(&asked, |w| w);
        assert_eq!(self.events(), [Event::Permitted(address(peer).ip())]);
    }

    fn bound(&mut self, peer: &str) -> u16 {
        assert!(self.client.bind(self.now, address(peer)));
        let asked = self.asked().pop().unwrap();
        self.succeed(&asked, |w| w);
        self.events();
        asked.channel()
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn data(peer: &str, payload: &[u8]) -> Vec<u8> {
    Writer::new(Class::Indication, method::DATA, [1; 12])
        .xor_address(attr::XOR_PEER_ADDRESS, address(peer))
        .raw(attr::DATA, payload)
        .finish()
}

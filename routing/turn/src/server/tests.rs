//! Raw probes: a client that writes its bytes itself, a clock that is turned by hand, sockets that always open.

mod allocations;
mod attributes;
mod authentication;
mod hostile;
mod relaying;
mod tcp;

use std::collections::BTreeMap;

use super::config::*;
use super::*;
use crate::frame::Transport;
use crate::stun::text::Text;
use crate::stun::{Key, KeyDigest, Mac};

const REALM: &str = "example.org";
const PEER: &str = "198.51.100.7:9000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(port: u16) -> FiveTuple {
    over(Transport::Udp, port)
}

fn over(transport: Transport, port: u16) -> FiveTuple {
    FiveTuple {
        transport,
        client: SocketAddr::from(([192, 0, 2, 5], port)),
        server: address("203.0.113.1:3478"),
    }
}

fn relay_address(text: &str) -> RelayAddress {
    RelayAddress {
        local: text.parse().unwrap(),
        external: text.parse().unwrap(),
    }
}

fn config() -> Config {
    let mut config = Config::new(
        REALM,
        vec![relay_address("203.0.113.1"), relay_address("2001:db8:1::1")],
    );
    for name in ["alice", "bob"] {
        config.users.add_password(REALM, name, "secret").unwrap();
    }
    config.policy.own = vec![
        "203.0.113.1".parse().unwrap(),
        "2001:db8:1::1".parse().unwrap(),
    ];
    config.policy.listening = vec![address("203.0.113.1:3478")];
    config
}

/// An answer, kept as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer(Vec<u8>);

impl Answer {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// 0 is success.
    fn code(&self) -> u16 {
        self.message().error_code().map_or(0, |(code, _)| code)
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        self.message()
            .xor_addresses(attr::XOR_RELAYED_ADDRESS)
            .map(Result::unwrap)
            .collect()
    }

    fn lifetime(&self) -> u32 {
        u32::from_be_bytes(
            self.message()
                .raw(attr::LIFETIME)
                .unwrap()
                .try_into()
                .unwrap(),
        )
    }
}

struct Lab {
    server: Server,
    now: Instant,
    user: &'static str,
    password: &'static str,
    nonces: BTreeMap<String, String>,
    next_id: u8,
    /// Commands other than answers.
    commands: Vec<Command>,
    /// What opening a socket says; sockets by address.
    open: fn(&SocketAddr) -> Result<(), OpenError>,
    relays: BTreeMap<SocketAddr, RelayId>,
}

impl Lab {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self {
            server: Server::new(config, Shared::new(now), [7; 32], [8; 32]).unwrap(),
            now,
            user: "alice",
            password: "secret",
            nonces: BTreeMap::new(),
            next_id: 0,
            commands: Vec::new(),
            open: |_| Ok(()),
            relays: BTreeMap::new(),
        }
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.server.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.server.handle_timeout(self.now);
            let _ = self.drain();
        }
        self.now = end;
        self.server.handle_timeout(self.now);
        let _ = self.drain();
    }

    /// Does what the server wants; gives the messages to clients.
    fn drain(&mut self) -> Vec<(FiveTuple, Answer)> {
        let mut messages = Vec::new();
        while let Some(command) = self.server.poll_command() {
            match &command {
                Command::Send { to, bytes } => messages.push((*to, Answer(bytes.clone()))),
                Command::OpenRelay { relay, address, .. }
                | Command::AdoptRelay { relay, address } => {
                    let result = (self.open)(address);
                    if result.is_ok() {
                        self.relays.insert(*address, *relay);
                    }
                    self.commands.push(command.clone());
                    self.server.relay_opened(self.now, *relay, result);
                }
                _ => self.commands.push(command),
            }
        }
        messages
    }

    fn id(&mut self) -> TransactionId {
        self.next_id += 1;
        [self.next_id; 12]
    }

    /// Sends raw bytes; the first answer to this client.
    fn raw(&mut self, from: &FiveTuple, bytes: &[u8]) -> Option<Answer> {
        assert_eq!(
            self.server.handle_client(self.now, from, bytes),
            None,
            "no payload in a request"
        );
        self.drain()
            .into_iter()
            .find(|(to, _)| to == from)
            .map(|(_, answer)| answer)
    }

    fn nonce(&mut self, from: &FiveTuple) -> String {
        let key = format!("{from:?}");
        if let Some(nonce) = self.nonces.get(&key) {
            return nonce.clone();
        }
        let bytes = Writer::new(Class::Request, method::REFRESH, self.id()).finish();
        let answer = self.raw(from, &bytes).unwrap();
        assert_eq!(answer.code(), 401);
        let nonce = answer
            .message()
            .text(Text::Nonce)
            .unwrap()
            .unwrap()
            .to_owned();
        self.nonces.insert(key, nonce.clone());
        nonce
    }

    fn key(&self) -> Key {
        Key::long_term(KeyDigest::Md5, self.user, REALM, self.password).unwrap()
    }

    /// Credentials on a request.
    fn sign(&mut self, from: &FiveTuple, writer: Writer) -> Vec<u8> {
        let nonce = self.nonce(from);
        writer
            .raw(attr::USERNAME, self.user.as_bytes())
            .raw(attr::REALM, REALM.as_bytes())
            .raw(attr::NONCE, nonce.as_bytes())
            .sign(&self.key(), Mac::Sha1)
            .finish()
    }

    /// A signed request and its answer, which must be signed too.
    fn ask(
        &mut self,
        from: &FiveTuple,
        method: u16,
        build: impl FnOnce(Writer) -> Writer,
    ) -> Answer {
        let writer = build(Writer::new(Class::Request, method, self.id()));
        let bytes = self.sign(from, writer);
        let answer = self.raw(from, &bytes).expect("an answer");
        if answer.code() != 401 && answer.code() != 438 {
            assert!(
                self.key().verifies(Mac::Sha1, &answer.message()),
                "answers to a known user are signed"
            );
        }
        answer
    }

    fn allocate(&mut self, from: &FiveTuple) -> Answer {
        self.ask(from, method::ALLOCATE, udp)
    }

    fn permit(&mut self, from: &FiveTuple, peers: &[&str]) -> u16 {
        let peers: Vec<SocketAddr> = peers.iter().map(|p| address(p)).collect();
        let build = |w| {
            peers
                .iter()
                .fold(w, |w: Writer, p| w.xor_address(attr::XOR_PEER_ADDRESS, *p))
        };
        self.ask(from, method::CREATE_PERMISSION, build).code()
    }

    fn bind(&mut self, from: &FiveTuple, number: u16, peer: &str) -> u16 {
        let [high, low] = number.to_be_bytes();
        let build = |w: Writer| {
            w.raw(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, address(peer))
        };
        self.ask(from, method::CHANNEL_BIND, build).code()
    }

    fn send(&mut self, from: &FiveTuple, peer: &str, payload: &[u8]) -> Option<ToPeer> {
        let bytes = send_indication(peer, payload, |w| w);
        self.server.handle_client(self.now, from, &bytes)
    }

    fn channel(&mut self, from: &FiveTuple, number: u16, payload: &[u8]) -> Option<ToPeer> {
        let bytes = [
            &number.to_be_bytes(),
            &(payload.len() as u16).to_be_bytes(),
            payload,
        ]
        .concat();
        self.server.handle_client(self.now, from, &bytes)
    }

    fn relayed(&mut self, relay: SocketAddr, from: &str, payload: usize) -> Option<ToClient> {
        let relay = self.relays[&relay];
        self.server
            .handle_relayed(self.now, relay, address(from), payload)
    }
}

fn udp(writer: Writer) -> Writer {
    writer.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
}

fn tcp(writer: Writer) -> Writer {
    writer.raw(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0])
}

fn send_indication(peer: &str, payload: &[u8], more: impl FnOnce(Writer) -> Writer) -> Vec<u8> {
    let writer = Writer::new(Class::Indication, method::SEND, [3; 12])
        .xor_address(attr::XOR_PEER_ADDRESS, address(peer));
    more(writer).raw(attr::DATA, payload).finish()
}

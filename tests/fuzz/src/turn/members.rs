//! Clients who are let in: whatever they ask, and whatever becomes of their sockets, nothing stays behind.
use super::talk::{attributes, peer, steps};
use super::{REALM, client};
use anode_turn::Transport;
use anode_turn::server::{
    Command, Config, ConnectionId, FiveTuple, IcmpError, OpenError, RelayId, Server, Shared,
};
use anode_turn::stun::text::Text;
use anode_turn::stun::{Class, Key, KeyDigest, Mac, Message, Writer, attr, method};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sockets of a server, as far as it has told of them.
#[derive(Default)]
struct Sockets {
    relays: BTreeSet<RelayId>,
    kept: BTreeSet<SocketAddr>,
    connections: BTreeSet<ConnectionId>,
    /// What comes of the next ones.
    failing: Option<OpenError>,
}

struct World {
    server: Server,
    now: Instant,
    sockets: Sockets,
    key: Key,
    asked: u32,
    /// The last answer with a nonce.
    nonce: Option<String>,
}

fn config() -> Config {
    let mut config = super::config();
    config.bounds.refusals_per_source = u32::MAX;
    config
}

/// Steps of clients who sign, of their peers, of time, and of the machine.
pub fn members(data: &[u8]) {
    let now = Instant::now();
    let shared = Shared::new(now);
    let server = Server::new(config(), Arc::clone(&shared), [1; 32], [2; 32]);
    let key = Key::long_term(KeyDigest::Md5, "alice", REALM, "secret");
    let mut world = World {
        server: server.expect("a configuration that works"),
        now,
        sockets: Sockets::default(),
        key: key.expect("a key"),
        asked: 0,
        nonce: None,
    };
    for (kind, bytes) in steps(data) {
        world.step(kind, bytes);
        assert!(world.server.allocations() <= 4, "one for each client");
        assert_eq!(shared.allocations(), world.server.allocations());
    }
    world.pass(Duration::from_secs(2 * 3600));
    assert_eq!((world.server.allocations(), shared.allocations()), (0, 0));
    let left = world.sockets;
    assert!(left.relays.is_empty(), "{:?}", left.relays);
    assert!(left.kept.is_empty(), "{:?}", left.kept);
    assert!(left.connections.is_empty(), "{:?}", left.connections);
}

impl World {
    fn step(&mut self, kind: u8, bytes: &[u8]) {
        let transport = [Transport::Udp, Transport::Tcp][usize::from(kind >> 4 & 1)];
        let from = client(transport, 1 + u16::from(kind >> 5 & 1));
        let first = bytes.first().copied().unwrap_or_default();
        match kind & 15 {
            0..=5 => {
                const METHODS: [u16; 6] = [
                    method::ALLOCATE,
                    method::REFRESH,
                    method::CREATE_PERMISSION,
                    method::CHANNEL_BIND,
                    method::CONNECT,
                    method::CONNECTION_BIND,
                ];
                self.ask(&from, METHODS[usize::from(kind & 15)], bytes);
            }
            6 => {
                let send = Writer::new(Class::Indication, method::SEND, [4; 12]);
                self.hear(&from, &attributes(send, bytes).finish());
            }
            7 => self.hear(&from, bytes),
            8 => {
                let Some(relay) = self.relay(first) else {
                    return;
                };
                let size = bytes.len() * 257;
                let to = self
                    .server
                    .handle_relayed(self.now, relay, peer(first), size);
                if let Some(to) = to {
                    assert!(to.header.total(size) >= size + 4);
                    assert!(self.server.is_known(&to.client));
                }
            }
            9 => {
                let Some(relay) = self.relay(first) else {
                    return;
                };
                let error = IcmpError {
                    kind: first,
                    code: 0,
                    data: 1280,
                    peer: peer(first >> 2),
                };
                self.server.handle_icmp(self.now, relay, &error);
            }
            10 => self.pass(Duration::from_secs(10 * u64::from(first))),
            11 => {
                let Some(relay) = self.relay(first) else {
                    return;
                };
                let accepted = self.server.peer_accepted(self.now, relay, peer(first >> 2));
                self.sockets.connections.extend(accepted);
            }
            12 => {
                let mut all = self.sockets.connections.iter().copied();
                let Some(id) = all.nth(usize::from(first >> 2)) else {
                    return;
                };
                match first & 3 {
                    0 => self.closed(id),
                    1 => drop(self.server.may_pass(self.now, id, 1000)),
                    2 => self.server.peer_connected(self.now, id, true),
                    // Its socket is gone already.
                    _ => {
                        self.sockets.connections.remove(&id);
                        self.server.peer_connected(self.now, id, false);
                    }
                }
            }
            13 => self.server.client_closed(&from),
            14 => {
                self.sockets.failing = match first % 3 {
                    0 => None,
                    1 => Some(OpenError::InUse),
                    _ => Some(OpenError::Failed),
                }
            }
            _ => {
                let mut changed = config();
                let denied = peer(first).ip().to_string().parse();
                changed.policy.deny = vec![denied.expect("an address")];
                self.server.reload(changed).expect("it works");
            }
        }
        self.obey();
    }

    fn relay(&self, number: u8) -> Option<RelayId> {
        let mut all = self.sockets.relays.iter().copied();
        all.nth(usize::from(number & 3))
    }

    fn ask(&mut self, from: &FiveTuple, method: u16, bytes: &[u8]) {
        self.asked += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.asked.to_be_bytes());
        // Any request without a signature is answered with a nonce.
        let challenge = Writer::new(Class::Request, method::REFRESH, id).finish();
        self.hear(from, &challenge);
        let Some(nonce) = self.nonce.clone() else {
            return;
        };
        let request = attributes(Writer::new(Class::Request, method, id), bytes)
            .raw(attr::USERNAME, b"alice")
            .raw(attr::REALM, REALM.as_bytes())
            .raw(attr::NONCE, nonce.as_bytes())
            .sign(&self.key, Mac::Sha1);
        self.hear(from, &request.finish());
    }

    fn hear(&mut self, from: &FiveTuple, bytes: &[u8]) {
        if let Some(to) = self.server.handle_client(self.now, from, bytes) {
            assert!(self.sockets.relays.contains(&to.relay));
            assert!(to.payload.end <= bytes.len());
        }
        self.obey();
    }

    fn closed(&mut self, id: ConnectionId) {
        self.sockets.connections.remove(&id);
        self.server.connection_closed(id);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.server.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.server.handle_timeout(self.now);
            self.obey();
        }
        self.now = end;
    }

    fn obey(&mut self) {
        while let Some(command) = self.server.poll_command() {
            let Sockets {
                relays,
                kept,
                connections,
                failing,
            } = &mut self.sockets;
            match command {
                Command::Send { bytes, .. } => {
                    let message = Message::parse(&bytes).expect("a message of ours");
                    if let Ok(Some(nonce)) = message.text(Text::Nonce) {
                        self.nonce = Some(nonce.to_owned());
                    }
                }
                Command::OpenRelay {
                    relay,
                    address,
                    pair,
                    ..
                } => {
                    let result = failing.map_or(Ok(()), Err);
                    if result.is_ok() {
                        assert!(relays.insert(relay), "opened twice");
                        let above = SocketAddr::new(address.ip(), address.port() + 1);
                        assert!(!pair || kept.insert(above), "kept twice");
                    }
                    self.server.relay_opened(self.now, relay, result);
                }
                Command::AdoptRelay { relay, address } => {
                    assert!(kept.remove(&address), "what is not kept");
                    assert!(relays.insert(relay), "opened twice");
                    self.server.relay_opened(self.now, relay, Ok(()));
                }
                Command::CloseRelay { relay } => {
                    relays.remove(&relay);
                }
                Command::CloseReserved { address } => {
                    assert!(kept.remove(&address), "what is not kept");
                }
                Command::Connect {
                    connection, relay, ..
                } => {
                    assert!(relays.contains(&relay) && connections.insert(connection));
                }
                Command::Join { connection, client } => {
                    assert!(connections.contains(&connection));
                    assert!(client.transport.is_stream());
                }
                Command::CloseConnection { connection } => self.closed(connection),
                Command::CloseClient { client } => self.server.client_closed(&client),
            }
        }
    }
}

//! Our client on our server, without a socket between.

use super::*;
use crate::frame::{Deframer, HEADROOM, TAILROOM, Transport};
use crate::server::{self, Command, FiveTuple, RelayAddress, Server, Shared};
use std::collections::HashMap;

struct Pair {
    server: Server,
    client: Client,
    tuple: FiveTuple,
    now: Instant,
    relays: HashMap<server::RelayId, SocketAddr>,
    commands: Vec<Command>,
    deframer: Deframer,
    /// Payloads that came out at the server's side: peer and bytes.
    at_peer: Vec<(SocketAddr, Vec<u8>)>,
}

impl Pair {
    fn new(server: server::Config, client: Config) -> Self {
        let now = Instant::now();
        let tuple = FiveTuple {
            transport: client.transport,
            client: address("192.0.2.1:4000"),
            server: address(SERVER),
        };
        let mut pair = Self {
            server: Server::new(server, Shared::new(now), [1; 32], [2; 32]).unwrap(),
            client: Client::new(now, client, address(SERVER), [3; 32]),
            tuple,
            now,
            relays: HashMap::new(),
            commands: Vec::new(),
            deframer: Deframer::new(65_556),
            at_peer: Vec::new(),
        };
        pair.client.start(now).unwrap();
        pair.run();
        pair
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let mut messages = vec![bytes.to_vec()];
        if self.tuple.transport.is_stream() {
            self.deframer.push(bytes);
            messages.clear();
            while let Some(message) = self.deframer.next_message().unwrap() {
                messages.push(message.to_vec());
            }
        }
        for message in messages {
            if let Some(out) = self.server.handle_client(self.now, &self.tuple, &message) {
                self.at_peer.push((out.peer, message[out.payload].to_vec()));
            }
        }
    }

    fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(bytes) = self.client.poll_transmit() {
                self.deliver(&bytes);
                idle = false;
            }
            while let Some(command) = self.server.poll_command() {
                idle = false;
                match command {
                    Command::Send { to, bytes } if to == self.tuple => {
                        assert_eq!(self.client.handle(self.now, &bytes), None)
                    }
                    Command::OpenRelay { relay, address, .. }
                    | Command::AdoptRelay { relay, address } => {
                        self.relays.insert(relay, address);
                        self.server.relay_opened(self.now, relay, Ok(()));
                    }
                    other => self.commands.push(other),
                }
            }
            if idle {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = [self.client.deadline(), self.server.deadline()]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = at.max(self.now);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    fn send(&mut self, peer: &str, payload: &[u8]) {
        if let Outgoing::Now(header) = self.client.send(self.now, address(peer), payload) {
            let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
            buffer[HEADROOM..HEADROOM + payload.len()].copy_from_slice(payload);
            let range = header
                .wrap(&mut buffer, HEADROOM..HEADROOM + payload.len())
                .unwrap();
            self.deliver(&buffer[range]);
        }
        self.run();
    }

    fn back(&mut self, peer: &str, payload: &[u8]) -> Option<Vec<u8>> {
        let relay = *self.relays.keys().next().unwrap();
        let out = self
            .server
            .handle_relayed(self.now, relay, address(peer), payload.len())?;
        let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + payload.len()].copy_from_slice(payload);
        let range = out
            .header
            .wrap(&mut buffer, HEADROOM..HEADROOM + payload.len())
            .unwrap();
        let message = &buffer[range];
        let cut = crate::frame::cut(message).unwrap().unwrap();
        let received = self.client.handle(self.now, &message[..cut.message])?;
        assert_eq!(received.peer, address(peer));
        Some(message[received.payload].to_vec())
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }
}

fn server_config() -> server::Config {
    let ip = "203.0.113.1".parse().unwrap();
    let mut config = server::Config::new(
        "example.org",
        vec![RelayAddress {
            local: ip,
            external: ip,
        }],
    );
    config
        .users
        .add_password("example.org", "alice", "secret")
        .unwrap();
    config
}

// All transports, odd sizes, both ways, Send and channels (T13)
#[test]
fn payload_passes_both_ways() {
    for transport in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ] {
        for sha256 in [true, false] {
            let mut pair = Pair::new(
                server::Config {
                    sha256,
                    ..server_config()
                },
                Config {
                    transport,
                    hide_name: sha256,
                    ..config()
                },
            );
            assert!(
                matches!(pair.events()[..], [Event::Allocated { .. }]),
                "{transport:?}"
            );
            for channel in [false, true] {
                if channel {
                    assert!(pair.client.bind(pair.now, address(PEER)));
                    pair.run();
                }
                for size in [0, 1, 101, 203, 1200] {
                    let payload = vec![size as u8; size];
                    pair.send(PEER, &payload);
                    assert_eq!(pair.at_peer.pop(), Some((address(PEER), payload.clone())));
                    assert_eq!(pair.back(PEER, &payload), Some(payload));
                }
            }
            assert!(pair.back("198.51.100.99:1", b"stranger").is_none());
        }
    }
}

// T38: two hours, over nonces that expire; nothing is lost on the way
#[test]
fn an_allocation_lives_for_hours() {
    let mut pair = Pair::new(server_config(), config());
    pair.client.bind(pair.now, address(PEER));
    pair.run();
    for i in 0..240_u8 {
        pair.pass(Duration::from_secs(30));
        pair.send(PEER, &[i]);
        assert_eq!(
            pair.at_peer.pop(),
            Some((address(PEER), vec![i])),
            "after {} s",
            30 * u32::from(i)
        );
        assert_eq!(pair.back(PEER, &[i]), Some(vec![i]));
    }
    assert!(
        pair.server.counters().stale_nonces >= 1,
        "the nonce was renewed"
    );
    pair.client.close(pair.now);
    pair.run();
    assert_eq!(
        pair.events().last(),
        Some(&Event::Ended {
            why: Why::Closed,
            not_before: None
        })
    );
    assert_eq!(pair.server.allocations(), 0);
}

// T9: a connection to a peer and one from it
#[test]
fn tcp_is_relayed() {
    let client = Config {
        transport: Transport::Tcp,
        tcp: true,
        ..config()
    };
    let mut pair = Pair::new(server_config(), client.clone());
    pair.client.permit(pair.now, address("198.51.100.8:1").ip());
    assert!(pair.client.connect(pair.now, address(PEER)));
    pair.run();
    let Some(Command::Connect { connection, .. }) = pair.commands.pop() else {
        panic!()
    };
    pair.server.peer_connected(pair.now, connection, true);
    let relay = *pair.relays.keys().next().unwrap();
    let second = pair
        .server
        .peer_accepted(pair.now, relay, address("198.51.100.8:1"))
        .unwrap();
    pair.run();
    let events = pair.events();
    assert!(events.contains(&Event::Connected {
        peer: address(PEER),
        connection
    }));
    assert!(events.contains(&Event::Incoming {
        peer: address("198.51.100.8:1"),
        connection: second
    }));
    for (port, id) in [(5001, connection), (5002, second)] {
        let tuple = FiveTuple {
            client: SocketAddr::new(pair.tuple.client.ip(), port),
            ..pair.tuple
        };
        let mut stream = PeerStream::new(&mut pair.client, id);
        let mut request = stream.request(&client);
        let mut steps = 0;
        loop {
            steps += 1;
            pair.server.handle_client(pair.now, &tuple, &request);
            let Some(Command::Send { to, bytes }) = pair.server.poll_command() else {
                panic!()
            };
            assert_eq!(to, tuple);
            match stream.handle(&mut pair.client, &bytes) {
                BindStep::Send(again) => request = again,
                BindStep::Joined => break,
                BindStep::Failed(why) => panic!("{why}"),
            }
        }
        assert_eq!(steps, 1, "a client's connections share its nonce");
        assert_eq!(
            pair.server.poll_command(),
            Some(Command::Join {
                connection: id,
                client: tuple
            })
        );
    }
}

// Wishes about port and family
#[test]
fn pairs_and_families() {
    let reserve = Config {
        port: PortWish::Even { reserve: true },
        ..config()
    };
    let mut pair = Pair::new(server_config(), reserve);
    let Some(Event::Allocated {
        relayed,
        reservation: Some(token),
        mapped,
    }) = pair.client.poll_event()
    else {
        panic!()
    };
    assert_eq!(
        (relayed[0].port() % 2, mapped),
        (0, Some(pair.tuple.client))
    );
    pair.tuple.client.set_port(4001);
    pair.client = Client::new(
        pair.now,
        Config {
            port: PortWish::Kept(token),
            ..config()
        },
        address(SERVER),
        [4; 32],
    );
    pair.client.start(pair.now).unwrap();
    pair.run();
    assert_eq!(
        pair.client.relayed(),
        [SocketAddr::new(relayed[0].ip(), relayed[0].port() + 1)]
    );
    let v6 = "2001:db8:1::1".parse().unwrap();
    let mut server = server_config();
    server.relays.push(RelayAddress {
        local: v6,
        external: v6,
    });
    for (families, expected) in [
        (Families::Default, vec![false]),
        (Families::V6, vec![true]),
        (Families::Both, vec![false, true]),
    ] {
        let pair = Pair::new(
            server.clone(),
            Config {
                families,
                ..config()
            },
        );
        let got: Vec<bool> = pair
            .client
            .relayed()
            .iter()
            .map(SocketAddr::is_ipv6)
            .collect();
        assert_eq!(got, expected);
    }
}

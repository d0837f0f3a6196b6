//! A server whose clients have their allocations, permissions and channels: for what is looked at while it relays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anode_turn::Transport;
use anode_turn::client::{Client, Config as ClientConfig, Credentials};
use anode_turn::frame::{Channel, HEADROOM, Header, TAILROOM};
use anode_turn::server::{Command, Config, FiveTuple, RelayAddress, RelayId, Server, Shared};

/// One allocation, with one channel.
pub struct Session {
    pub tuple: FiveTuple,
    pub relay: RelayId,
}

/// Whom the channel of an allocation leads to.
pub fn peer(i: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, (100 + i / 250) as u8, (1 + i % 250) as u8], 9000))
}

/// A configuration of one user.
pub fn config() -> Config {
    let ip = "203.0.113.1".parse().unwrap();
    let relay = RelayAddress {
        local: ip,
        external: ip,
    };
    let mut config = Config::new("example.org", vec![relay]);
    config
        .users
        .add_password("example.org", "alice", "secret")
        .unwrap();
    config.bounds.refusals_per_source = u32::MAX;
    config
}

/// A server with this many allocations; the time one took, answers of both sides included.
pub fn server(
    now: Instant,
    config: Config,
    transport: Transport,
    allocations: usize,
) -> (Server, Vec<Session>, Duration) {
    let mut server = Server::new(config, Shared::new(now), [1; 32], [2; 32]).unwrap();
    let credentials = Credentials {
        name: "alice".into(),
        password: "secret".to_owned().into(),
    };
    let config = ClientConfig {
        credentials: Some(credentials),
        ..ClientConfig::default()
    };
    let (mut sessions, mut spent) = (Vec::new(), Duration::ZERO);
    for i in 0..allocations {
        let from = SocketAddr::from((
            [192, 0, (2 + i / 50_000) as u8, 1],
            (1000 + i % 50_000) as u16,
        ));
        let tuple = FiveTuple {
            transport,
            client: from,
            server: "203.0.113.1:3478".parse().unwrap(),
        };
        let mut client = Client::new(now, config.clone(), tuple.server, [i as u8; 32]);
        client.start(now).unwrap();
        let mut relay = None;
        for bind in [false, true] {
            if bind {
                assert!(client.bind(now, peer(i)));
            }
            while let Some(bytes) = client.poll_transmit() {
                let start = Instant::now();
                server.handle_client(now, &tuple, &bytes);
                while let Some(command) = server.poll_command() {
                    match command {
                        Command::OpenRelay { relay: id, .. } => {
                            relay = Some(id);
                            server.relay_opened(now, id, Ok(()));
                        }
                        Command::Send { bytes, .. } => drop(client.handle(now, &bytes)),
                        other => panic!("{other:?}"),
                    }
                }
                spent += start.elapsed();
            }
        }
        sessions.push(Session {
            tuple,
            relay: relay.unwrap(),
        });
    }
    (server, sessions, spent / allocations as u32)
}

/// A payload of this size, with its header around it.
pub fn message(header: Header, size: usize) -> Vec<u8> {
    let mut data = vec![0; HEADROOM + size + TAILROOM];
    let whole = header.wrap(&mut data, HEADROOM..HEADROOM + size).unwrap();
    data[whole].to_vec()
}

/// ChannelData on the first channel that a client binds.
pub fn on_channel(size: usize, transport: Transport) -> Vec<u8> {
    let channel = Channel::new(0x4000).unwrap();
    message(Header::channel(channel, size, transport).unwrap(), size)
}

/// A Send indication.
pub fn sent_to(peer: SocketAddr, size: usize) -> Vec<u8> {
    message(Header::send([7; 12], peer, size, false).unwrap(), size)
}

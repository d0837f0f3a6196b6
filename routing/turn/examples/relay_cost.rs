//! What relaying costs without sockets: nanoseconds for each packet, beside a copy of the same packet.
//!
//! `cargo run --release -p anode-turn --example relay_cost`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anode_turn::Transport;
use anode_turn::client::{Client, Config as ClientConfig, Credentials};
use anode_turn::frame::{Channel, HEADROOM, Header, TAILROOM};
use anode_turn::server::{Command, Config, FiveTuple, RelayAddress, RelayId, Server, Shared};

struct Session {
    tuple: FiveTuple,
    relay: RelayId,
}

fn peer(i: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, (100 + i / 250) as u8, (1 + i % 250) as u8], 9000))
}

/// A server with this many allocations, each with one channel; the time one took, answers of both sides included.
fn server(now: Instant, allocations: usize) -> (Server, Vec<Session>, Duration) {
    let ip = "203.0.113.1".parse().unwrap();
    let mut config = Config::new(
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
    config.bounds.refusals_per_source = u32::MAX;
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
            transport: Transport::Udp,
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

fn measure(name: &str, rounds: usize, mut packet: impl FnMut(usize)) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..rounds).for_each(&mut packet);
        best = best.min(start.elapsed().as_nanos() as f64 / rounds as f64);
    }
    println!("  {name:<40} {best:>7.1} ns");
}

fn main() {
    const ROUNDS: usize = 1_000_000;
    for allocations in [8, 5000] {
        let now = Instant::now();
        let (mut server, sessions, each) = server(now, allocations);
        println!(
            "{allocations} allocations; Allocate and ChannelBind of both sides: {:.1} µs",
            each.as_secs_f64() * 1e6
        );
        for size in [160, 1200] {
            println!(" {size} bytes");
            let channel = Channel::new(0x4000).unwrap();
            let mut data = vec![0; HEADROOM + size + TAILROOM];
            let range = HEADROOM..HEADROOM + size;
            let header = Header::channel(channel, size, Transport::Udp).unwrap();
            let whole = header.wrap(&mut data, range.clone()).unwrap();
            let message = data[whole].to_vec();
            measure("ChannelData, client to peer", ROUNDS, |i| {
                let session = &sessions[i % allocations];
                black_box(server.handle_client(now, &session.tuple, &message).unwrap());
            });
            let sends: Vec<Vec<u8>> = (0..allocations)
                .map(|i| {
                    let header = Header::send([7; 12], peer(i), size, false).unwrap();
                    let whole = header.wrap(&mut data, range.clone()).unwrap();
                    data[whole].to_vec()
                })
                .collect();
            measure("Send, client to peer", ROUNDS, |i| {
                let i = i % allocations;
                black_box(
                    server
                        .handle_client(now, &sessions[i].tuple, &sends[i])
                        .unwrap(),
                );
            });
            for (name, port) in [
                ("ChannelData, peer to client", 9000),
                ("Data, peer to client", 9001),
            ] {
                measure(name, ROUNDS, |i| {
                    let i = i % allocations;
                    let mut from = peer(i);
                    from.set_port(port);
                    let out = server
                        .handle_relayed(now, sessions[i].relay, from, size)
                        .unwrap();
                    black_box(out.header.wrap(&mut data, range.clone()).unwrap());
                });
            }
            let mut copy = vec![0; size];
            measure("memcpy of the packet", ROUNDS, |_| {
                copy.copy_from_slice(black_box(&data[range.clone()]))
            });
        }
    }
}

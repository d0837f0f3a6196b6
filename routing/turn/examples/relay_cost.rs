//! What relaying costs without sockets: nanoseconds for each packet, beside a copy of the same packet.
//!
//! `cargo run --release -p anode-turn --example relay_cost`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use anode_turn::Transport;
use anode_turn::frame::{HEADROOM, TAILROOM};

#[path = "../tests/ready/mod.rs"]
mod ready;

use ready::{on_channel, peer, sent_to};

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
        let (mut server, sessions, each) =
            ready::server(now, ready::config(), Transport::Udp, allocations);
        println!(
            "{allocations} allocations; Allocate and ChannelBind of both sides: {:.1} µs",
            each.as_secs_f64() * 1e6
        );
        for size in [160, 1200] {
            println!(" {size} bytes");
            let mut data = vec![0; HEADROOM + size + TAILROOM];
            let range = HEADROOM..HEADROOM + size;
            let message = on_channel(size, Transport::Udp);
            measure("ChannelData, client to peer", ROUNDS, |i| {
                let session = &sessions[i % allocations];
                black_box(server.handle_client(now, &session.tuple, &message).unwrap());
            });
            let sends: Vec<Vec<u8>> = (0..allocations).map(|i| sent_to(peer(i), size)).collect();
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

//! What one UDP announce costs the server, beside reading the packet alone, and what 10,000 peers cost in memory.
//!
//! `cargo run --release -p anode-tracker --example announces`
#![forbid(unsafe_code)]

use anode_tracker::server::{Access, Config, Server};
use anode_tracker::udp::packet::{self, Request, TransactionId};
use anode_tracker::{Announce, InfoHash, Key, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

const PEERS: u32 = 10_000;
/// What memory is divided by, so that pages of the process do not matter.
const TENFOLD: u32 = 10;
const ROUNDS: u32 = 100;

fn main() {
    let now = Instant::now();
    for (name, v6, want) in [
        ("IPv4, 30 peers", false, 30),
        ("IPv4, 196 peers", false, 200),
        ("IPv6, 30 peers", true, 30),
    ] {
        let mut rng = StdRng::seed_from_u64(1);
        let config = Config {
            requests_per_second: u32::MAX,
            max_entries: usize::MAX,
            ..Config::default()
        };
        let mut server = Server::new(config, Access::Open, now, &mut rng);
        let requests: Vec<_> = (0..PEERS)
            .map(|n| request(&mut server, n, v6, want, now, &mut rng))
            .collect();
        let mut out = Vec::with_capacity(1_500);
        let mut serve = |now| {
            for (source, datagram) in &requests {
                out.clear();
                assert!(server.udp(*source, datagram, now, &mut rng, &mut out));
                black_box(&out);
            }
        };
        // the first round makes the entries
        serve(now);
        // a connection id of the current minute costs one MAC, one of two minutes ago three
        let fresh = per_announce(|| serve(now + Duration::from_millis(1)));
        let oldest = per_announce(|| serve(now + Duration::from_secs(150)));
        let parse = per_announce(|| {
            requests.iter().for_each(|(_, datagram)| {
                black_box(Request::parse(black_box(datagram)));
            })
        });
        println!(
            "{name}: {fresh:.0} ns an announce ({oldest:.0} ns with the oldest id), {parse:.1} ns to read it; {:.2} million a second",
            1_000.0 / fresh
        );
    }
    for (name, v6) in [("IPv4", false), ("IPv6", true)] {
        let mut rng = StdRng::seed_from_u64(1);
        let config = Config {
            requests_per_second: u32::MAX,
            max_entries: usize::MAX,
            ..Config::default()
        };
        let before = resident();
        let mut server = Server::new(config, Access::Open, now, &mut rng);
        let mut out = Vec::with_capacity(1_500);
        for n in 0..PEERS * TENFOLD {
            let (source, datagram) = request(&mut server, n, v6, 0, now, &mut rng);
            out.clear();
            assert!(server.udp(source, &datagram, now, &mut rng, &mut out));
        }
        let grown = resident().saturating_sub(before) / u64::from(TENFOLD) / 1_024;
        println!(
            "{name}: {grown} KiB for {PEERS} peers (a tenth of {} in one swarm)",
            server.entries()
        );
    }
}

/// A client's announce with a valid connection id.
fn request(
    server: &mut Server,
    n: u32,
    v6: bool,
    want: u32,
    now: Instant,
    rng: &mut StdRng,
) -> (SocketAddr, Vec<u8>) {
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n) << 64 | 1))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + n))
    };
    let source = SocketAddr::new(ip, 8737);
    let mut connect = Vec::new();
    packet::write_connect(TransactionId(1), &mut connect);
    let mut answer = Vec::new();
    assert!(server.udp(source, &connect, now, rng, &mut answer));
    let Some((_, packet::Answer::Connect(connection))) = packet::Answer::parse(&answer) else {
        panic!("no id")
    };
    let mut id = [7; 20];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let announce = Announce {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId(id),
        key: Key(n),
        port: 8737,
        left: 1,
        event: None,
        num_want: want,
        tracker_id: None,
        compact: true,
    };
    let mut datagram = Vec::new();
    packet::write_announce(
        connection,
        TransactionId(2),
        &announce,
        "/announce",
        &mut datagram,
    );
    (source, datagram)
}

/// Nanoseconds per announce: the best of many rounds over all peers.
fn per_announce(mut round: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed()
    });
    times.min().unwrap_or_default().as_secs_f64() * 1e9 / f64::from(PEERS)
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap_or(0)
        * 1_024
}

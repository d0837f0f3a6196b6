//! Nothing is allocated for what is relayed, nor for what is dropped on the way.
//!
//! Without the harness of tests, whose own thread allocates now and then: the allocator counts for the whole process.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anode_turn::Transport;
use anode_turn::frame::HEADROOM;

mod ready;

use ready::{on_channel, peer, sent_to};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const CLIENTS: usize = 8;
const ROUNDS: usize = 5_000;

/// Blocks allocated while `act` is done so often, after it was done once for each client.
fn blocks(mut act: impl FnMut(usize)) -> u64 {
    (0..CLIENTS).for_each(&mut act);
    let before = dhat::HeapStats::get().total_blocks;
    (CLIENTS..CLIENTS + ROUNDS).for_each(act);
    dhat::HeapStats::get().total_blocks - before
}

const SIZE: usize = 1_200;

// T7, T8, T13, T14: no allocation for a packet, whichever way and over whichever transport, whether it passes or not
fn main() {
    let _counting = dhat::Profiler::builder().testing().build();
    let counted = blocks(|i| drop(black_box(vec![i; 3])));
    assert_eq!(counted, ROUNDS as u64, "it counts");

    let start = Instant::now();
    let mut limited = ready::config();
    limited.quota.kbps_per_allocation = 1_000;
    limited.quota.kbps_per_user = 4_000;
    limited.quota.kbps = 8_000;
    for (config, transport) in [
        (ready::config(), Transport::Udp),
        (ready::config(), Transport::Tcp),
        (limited, Transport::Udp),
    ] {
        let is_limited = config.quota.kbps > 0;
        let (mut server, sessions, _) = ready::server(start, config, transport, CLIENTS);
        let channel = on_channel(SIZE, transport);
        let sends: Vec<Vec<u8>> = (0..CLIENTS).map(|i| sent_to(peer(i), SIZE)).collect();
        let foreign = sent_to("192.0.2.200:5000".parse().unwrap(), SIZE);
        let unbound = [&[0x4F, 0xFF], &channel[2..]].concat();
        let mut buffer = vec![0; HEADROOM + SIZE + 3];
        let mut passed = 0;
        let relaying = blocks(|i| {
            let now = start + Duration::from_millis(i as u64);
            let at = i % CLIENTS;
            let (tuple, relay) = (&sessions[at].tuple, sessions[at].relay);
            for message in [&channel, &sends[at]] {
                let to = server.handle_client(now, tuple, black_box(message));
                passed += usize::from(to.is_some_and(|to| to.peer == peer(at)));
            }
            // On the channel, and as a Data indication.
            for port in [peer(at).port(), 9001] {
                let from = SocketAddr::new(peer(at).ip(), port);
                let to = server.handle_relayed(now, relay, from, SIZE);
                passed += usize::from(to.is_some_and(|to| {
                    let range = HEADROOM..HEADROOM + SIZE;
                    to.client == *tuple && to.header.wrap(&mut buffer, range).is_some()
                }));
            }
            assert!(!server.has_commands(), "nothing else comes of it");
        });
        assert_eq!(relaying, 0, "{transport:?}, limited: {is_limited}");
        match is_limited {
            false => assert_eq!(passed, 4 * (CLIENTS + ROUNDS)),
            true => assert!((1_000..10_000).contains(&passed), "{passed} passed"),
        }
        let counted = *server.counters();
        assert_eq!(
            counted.to_peer_packets + counted.to_client_packets,
            passed as u64
        );

        let nobody = anode_turn::server::FiveTuple {
            client: "192.0.2.99:1".parse().unwrap(),
            ..sessions[0].tuple
        };
        let dropping = blocks(|i| {
            let now = start + Duration::from_millis(i as u64);
            let (tuple, relay) = (&sessions[0].tuple, sessions[0].relay);
            let stranger = "192.0.2.200:5000".parse().unwrap();
            for (from, message) in [
                (&nobody, &channel),
                (&nobody, &sends[0]),
                (tuple, &unbound),
                (tuple, &foreign),
            ] {
                assert_eq!(server.handle_client(now, from, black_box(message)), None);
            }
            assert_eq!(
                server.handle_client(now, tuple, b"neither of the two"),
                None
            );
            assert!(server.handle_relayed(now, relay, stranger, SIZE).is_none());
        });
        assert_eq!(dropping, 0, "dropped, {transport:?}");
        assert_eq!(
            server.counters().dropped_no_permission,
            2 * (CLIENTS + ROUNDS) as u64
        );
    }
    println!("relaying allocates nothing: ok");
}

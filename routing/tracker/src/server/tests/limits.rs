//! Lifetimes, limits and floods.
use super::*;

// S36: cookies
#[test]
fn requests_without_a_connection_id_of_their_own_get_no_answer() {
    let mut world = World::new();
    let stolen = world.connect("192.0.2.1:5");
    let mut request = Vec::new();
    packet::write_announce(stolen, TransactionId(2), &client(1, 1), "", &mut request);
    assert_eq!(world.send("192.0.2.2:5", &request), None);
    assert!(
        world.send("192.0.2.1:6", &request).is_some(),
        "another port of the same host may use it"
    );
    world.after(119);
    assert!(
        world.send("192.0.2.1:5", &request).is_some(),
        "an id is good for two minutes"
    );
    world.after(61);
    assert_eq!(world.send("192.0.2.1:5", &request), None);
    assert_eq!(world.server.counters().wrong_connection, 2);
    assert_eq!(world.server.entries(), 1);
}

// libtorrent's second address stops with the connection id of its first (discovery.md §2)
#[test]
fn a_stop_with_the_connection_id_of_another_address_is_survived() {
    let mut world = World::new();
    let first = world.connect("192.0.2.1:5");
    world.udp("192.0.2.1:5", &client(1, 1)).unwrap();
    world.udp("192.0.2.2:5", &client(1, 1)).unwrap();
    let stop = Announce {
        event: Some(Event::Stopped),
        ..client(1, 1)
    };
    let mut request = Vec::new();
    packet::write_announce(first, TransactionId(3), &stop, "", &mut request);
    assert!(world.send("192.0.2.1:5", &request).is_some());
    assert_eq!(world.send("192.0.2.2:5", &request), None);
    assert_eq!(world.server.entries(), 1);
    world.after(3_700);
    assert_eq!(
        (world.server.entries(), world.server.counters().expired),
        (0, 1)
    );
}

#[test]
fn entries_live_for_two_intervals_and_are_not_given_out_later() {
    let mut world = World::new();
    world.udp("192.0.2.1:5", &client(1, 1)).unwrap();
    world.now += Duration::from_secs(3_599);
    assert_eq!(world.udp("192.0.2.2:5", &client(2, 1)).unwrap().1.len(), 6);
    world.now += Duration::from_secs(1);
    assert_eq!(
        world.udp("192.0.2.2:5", &client(2, 1)).unwrap().1.len(),
        0,
        "before any sweep"
    );
    world.after(1);
    assert_eq!(world.server.entries(), 1);
}

#[test]
fn answers_keep_within_their_limits() {
    let mut world = World::new();
    for n in 0..300u32 {
        let v4 = std::net::Ipv4Addr::from(0x0A00_0000 + n);
        let v6 = std::net::Ipv6Addr::from(
            0x2001_0db8_0000_0000_0000_0000_0000_0000 + (u128::from(n) << 64),
        );
        world
            .http(&v4.to_string(), &client((n % 200) as u8, 1))
            .unwrap();
        world
            .http(&v6.to_string(), &client((n % 200) as u8, 1))
            .unwrap();
    }
    let many = Announce {
        num_want: u32::MAX >> 1,
        ..client(250, 1)
    };
    assert_eq!(world.udp("192.0.2.1:5", &many).unwrap().1.len(), 196 * 6);
    assert_eq!(
        world.udp("[2001:db8:ffff::1]:5", &many).unwrap().1.len(),
        65 * 18
    );
    let answer = world
        .http(
            "192.0.2.2",
            &Announce {
                num_want: 1_000_000,
                ..client(251, 1)
            },
        )
        .unwrap();
    assert_eq!(answer.peers.len(), 200);
    assert_eq!(
        answer.peers.iter().filter(|peer| peer.is_ipv4()).count(),
        100
    );
    let first = world.udp("192.0.2.1:5", &client(250, 1)).unwrap().1;
    assert_ne!(
        first,
        world.udp("192.0.2.1:5", &client(250, 1)).unwrap().1,
        "each gets others"
    );
    let everyone = Announce {
        num_want: u32::MAX,
        ..client(252, 1)
    };
    assert_eq!(
        world.udp("192.0.2.3:5", &everyone).unwrap().1.len(),
        50 * 6,
        "-1 is the tracker's default"
    );
}

// S36
#[test]
fn one_source_has_a_bounded_number_of_entries() {
    let mut world = World::new();
    let refusal = "too many ports or swarms from this address";
    for port in 1..=64 {
        world.udp("192.0.2.1:5", &client(1, port)).unwrap();
        world
            .udp(&format!("[2001:db8::{port:x}]:5"), &client(1, port))
            .unwrap();
    }
    assert_eq!(
        world.udp("192.0.2.1:5", &client(1, 65)).unwrap_err(),
        refusal
    );
    assert_eq!(
        world.udp("[2001:db8::ffff]:5", &client(1, 65)).unwrap_err(),
        refusal,
        "a /64 is one source"
    );
    let elsewhere = Announce {
        info_hash: InfoHash([8; 20]),
        ..client(1, 1)
    };
    assert_eq!(
        world.udp("192.0.2.1:5", &elsewhere).unwrap_err(),
        refusal,
        "of all swarms"
    );
    world.udp("192.0.2.1:5", &client(1, 64)).unwrap();
    world.udp("192.0.2.2:5", &client(1, 65)).unwrap();
    world
        .udp(
            "192.0.2.1:5",
            &Announce {
                event: Some(Event::Stopped),
                ..client(1, 64)
            },
        )
        .unwrap();
    world.udp("192.0.2.1:5", &client(1, 65)).unwrap();
    assert_eq!(world.server.counters().too_many_entries, 3);
}

// S36
#[test]
fn a_full_tracker_serves_those_it_knows() {
    let mut world = World::with(Config {
        max_entries: 3,
        max_swarms: 2,
        requests_per_second: 1_000,
        ..Config::default()
    });
    let swarm = |n: u8| Announce {
        info_hash: InfoHash([n; 20]),
        ..client(1, 1)
    };
    world.udp("192.0.2.1:5", &swarm(1)).unwrap();
    world.udp("192.0.2.1:5", &swarm(2)).unwrap();
    assert_eq!(
        world.udp("192.0.2.1:5", &swarm(3)).unwrap_err(),
        "this tracker is full"
    );
    world.udp("192.0.2.2:5", &swarm(2)).unwrap();
    assert_eq!(
        world.udp("192.0.2.3:5", &swarm(2)).unwrap_err(),
        "this tracker is full"
    );
    world.udp("192.0.2.1:5", &swarm(2)).unwrap();
    assert_eq!(
        (
            world.server.entries(),
            world.server.swarms(),
            world.server.counters().full
        ),
        (3, 2, 2)
    );
}

#[test]
fn only_listed_swarms_are_served() {
    let mut world = World::new();
    world.udp("192.0.2.1:5", &client(1, 1)).unwrap();
    world
        .server
        .set_access(Access::Listed(HashSet::from([InfoHash([8; 20])])));
    assert_eq!((world.server.entries(), world.server.swarms()), (0, 0));
    let refusal = "this tracker does not serve this info hash";
    assert_eq!(
        world.udp("192.0.2.1:5", &client(1, 1)).unwrap_err(),
        refusal
    );
    let Err(AnswerError::Refused(said)) = world.http("192.0.2.1", &client(1, 1)) else {
        panic!("not refused")
    };
    assert_eq!(said.reason, refusal);
    world
        .udp(
            "192.0.2.1:5",
            &Announce {
                info_hash: InfoHash([8; 20]),
                ..client(1, 1)
            },
        )
        .unwrap();
    assert_eq!(world.server.counters().not_listed, 2);
}

// S36
#[test]
fn rates_are_limited_and_forged_connects_do_not_starve_real_clients() {
    let mut world = World::with(Config::default());
    let id = world.connect("192.0.2.1:5");
    let mut connect = Vec::new();
    packet::write_connect(TransactionId(1), &mut connect);
    let answered = (0..1_000)
        .filter(|_| world.send("192.0.2.1:5", &connect).is_some())
        .count();
    assert_eq!(answered, 19);
    let mut announce = Vec::new();
    packet::write_announce(id, TransactionId(2), &client(1, 1), "", &mut announce);
    let answered = (0..1_000)
        .filter(|_| world.send("192.0.2.1:5", &announce).is_some())
        .count();
    assert_eq!(answered, 20, "announces have their own budget");
    let Err(AnswerError::Refused(said)) = world.http("192.0.2.1", &client(1, 1)) else {
        panic!("not refused")
    };
    assert_eq!(
        said.retry,
        Some(crate::types::Retry::After(Duration::from_secs(60)))
    );
    assert_eq!(world.server.counters().limited, 981 + 980 + 1);
}

#[test]
fn wrong_requests_are_told_why_over_http_only() {
    let mut world = World::new();
    let (status, body) = world.raw_http("192.0.2.1", "/announce?info_hash=x");
    assert_eq!(
        (status, body.as_slice()),
        (
            200,
            &b"d14:failure reason36:info_hash is missing or not 20 bytese"[..]
        )
    );
    assert_eq!(world.raw_http("192.0.2.1", "/stats").0, 404);
    assert_eq!(world.raw_http("192.0.2.1", "/scrape").0, 200);
    assert_eq!(
        world.udp("192.0.2.1:5", &client(1, 0)).unwrap_err(),
        "port is missing or not from 1 to 65535"
    );
    assert_eq!(world.send("192.0.2.1:5", b"hello"), None);
    assert_eq!(
        (
            world.server.counters().invalid,
            world.server.counters().malformed
        ),
        (4, 1)
    );
}

#[test]
fn answers_go_into_the_callers_buffer_without_growing_it() {
    let mut world = World::new();
    for n in 0..250u8 {
        world.udp(&format!("10.0.0.{n}:5"), &client(n, 1)).unwrap();
    }
    let id = world.connect("192.0.2.1:5");
    let mut request = Vec::new();
    packet::write_announce(
        id,
        TransactionId(2),
        &Announce {
            num_want: 200,
            ..client(251, 1)
        },
        "",
        &mut request,
    );
    let mut out = Vec::with_capacity(1_200);
    let (place, source) = (out.as_ptr(), "192.0.2.1:5".parse().unwrap());
    assert!(
        world
            .server
            .udp(source, &request, world.now, &mut world.rng, &mut out)
    );
    assert_eq!(
        (out.as_ptr(), out.capacity(), out.len()),
        (place, 1_200, 20 + 196 * 6)
    );
}

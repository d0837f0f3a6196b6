//! Datagrams and connections beside each other: which is asked when, and which is used.
use super::streams::{open, pattern};
use super::*;

/// Host 2 can be reached over everything; host 1 knows all of it.
pub(super) fn everything(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let over = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Http,
    ];
    let places = over.map(|transport| Place::over(transport, home(2)).unwrap());
    let config = NodeConfig {
        peers: vec![ConfiguredPeer {
            address: address(2),
            places: places.to_vec(),
        }],
        ..quiet()
    };
    sim.host(1, config);
    sim.host(2, quiet());
    sim
}

/// Packets that host 1 has sent over connections.
fn through_connections(sim: &Sim) -> usize {
    let sent = sim.record.iter().flatten();
    sent.filter(|(_, flying)| flying.from.transport().is_stream())
        .count()
}

// A25, D40, DESIGN §7
#[test]
fn where_datagrams_answer_no_connection_is_dialled() {
    let mut sim = everything(60);
    sim.record = Some(Vec::new());
    for _ in 0..20 {
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(3));
    }
    assert_eq!(through_connections(&sim), 0);
    assert_eq!(sim.used(0, 2), Some("udp://192.0.2.2:8737".into()));
}

// A25, D40, DESIGN §7
#[test]
fn blocked_datagrams_cost_a_second_and_are_preferred_again_within_five_minutes() {
    let mut sim = everything(61);
    sim.no_datagrams = true;
    let took = sim.ping(0, ipv6(2)).unwrap();
    assert!(took >= secs(1) && took < ms(1500), "{took:?}");
    assert_eq!(sim.used(0, 2), Some("tcp://192.0.2.2:8737".into()));
    assert!(sim.peer(0, 2).sealed);
    // The others have answered too; they are not kept alive.
    sim.run(secs(10));
    sim.record = Some(Vec::new());
    for _ in 0..10 {
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(3));
    }
    let used = sim.record.take().unwrap();
    let is_used = |flying: &Flying| matches!(flying.from, Place::Tcp(_) | Place::Udp(_));
    assert!(used.iter().all(|(_, flying)| is_used(flying)));
    sim.no_datagrams = false;
    let begin = sim.now;
    while sim.used(0, 2) != Some("udp://192.0.2.2:8737".into()) {
        assert!(sim.now - begin < secs(305), "UDP works and is not used");
        sim.ping(0, ipv6(2)).unwrap();
        sim.run(secs(5));
    }
    sim.record = Some(Vec::new());
    sim.run(secs(5));
    sim.ping(0, ipv6(2)).unwrap();
    assert_eq!(through_connections(&sim), 0);
}

// DESIGN §7
#[test]
fn datagrams_that_stop_in_the_middle_cost_a_transfer_less_than_a_second() {
    let mut sim = everything(62);
    sim.link.rate = 2_000_000;
    let data = pattern(20 << 20);
    let stream = open(&mut sim, 0, 2, 80);
    sim.write(0, stream, data.clone());
    sim.run(secs(2));
    assert!(sim.bytes_read(1) > 0);
    sim.no_datagrams = true;
    // What is under way still arrives.
    sim.run(ms(100));
    let before = sim.bytes_read(1);
    let pause = ms(100) + sim.until(secs(10), "data again", |sim| sim.bytes_read(1) > before);
    println!("datagrams stop: data again after {pause:?}");
    assert!(pause < secs(1), "{pause:?}");
    assert_eq!(sim.used(0, 2), Some("tcp://192.0.2.2:8737".into()));
    sim.until(secs(60), "the end", |sim| sim.bytes_read(1) == data.len());
    assert!(sim.hosts[1].program.read.values().next() == Some(&data));
}

// The other side's port lives as long as its connection
#[test]
fn a_connection_that_ended_is_dialled_again_by_its_owner_and_never_by_the_other_side() {
    let mut sim = everything(63);
    sim.no_datagrams = true;
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(6));
    let now = sim.now;
    let theirs = Place::Tcp(home(1));
    sim.hosts[1].node.note_gone(now, &theirs, Place::ACCEPTED);
    let left = sim.peer(1, 1).paths;
    assert!(left.iter().all(|path| path.endpoint != theirs), "{left:?}");
    sim.hosts[0]
        .node
        .note_gone(now, &Place::Tcp(home(2)), Place::DIALLED);
    sim.ping(0, ipv6(2)).unwrap();
    sim.run(secs(3));
    assert_eq!(sim.used(0, 2), Some("tcp://192.0.2.2:8737".into()));
}

//! An attacker on the LAN, who sees every packet and sends what it likes.

use crate::common::Pair;
use anode_tests::capture::{Capture, Datagram, Forger};
use anode_tests::lab::{Family, Host, heavy};
use anode_tests::traffic::{self, Noise};
use anode_tests::{lab::Node, programs};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Where things stand in a packet (A38).
const HOPS: usize = 0;
const FLAGS: usize = 1;
const SENDER: usize = 10;
const FULL_SENDER: u8 = 1;
const FULL_RECIPIENT: u8 = 2;

fn type_at(packet: &[u8]) -> usize {
    let length = |flag: u8| if packet[FLAGS] & flag == 0 { 8 } else { 40 };
    SENDER + length(FULL_SENDER) + length(FULL_RECIPIENT) + 1
}

/// A pair under attack.
struct Scene {
    pair: Pair,
    attacker: Host,
    forger: Forger,
    /// What went from `a` to `b` while ping, UDP and TCP were used.
    recorded: Vec<Datagram>,
}

impl Scene {
    fn start() -> Option<Self> {
        let lab_pair = Pair::start(Family::V4)?;
        // Frames as they are, not several in one.
        lab_pair.host_a.offload_off();
        lab_pair.host_b.offload_off();
        let attacker = lab_pair.lan.host("attacker");
        let forger = Forger::new(&attacker);
        let mut scene = Self {
            pair: lab_pair,
            attacker,
            forger,
            recorded: Vec::new(),
        };
        scene.record();
        Some(scene)
    }

    fn record(&mut self) {
        let pair = &self.pair;
        let capture = Capture::start(pair.lan.switch());
        pair.a.ping(pair.b.address(), 3);
        programs::ping(&pair.host_a, pair.b_ip(), 56, 5);
        let _echo = traffic::UdpEcho::start(&pair.host_b, pair.b_at(7));
        let socket = traffic::udp(&pair.host_a, pair.a_at(0));
        for _ in 0..5 {
            socket.send_to(b"a datagram", pair.b_at(7)).expect("sent");
            socket.recv_from(&mut [0; 100]).expect("echoed");
        }
        let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
        traffic::send_noise(&near, 1, 20_000).expect("sent");
        drop(near);
        traffic::receive_all(far).expect("received");
        let seen = capture.datagrams(usize::MAX, Duration::from_millis(300));
        self.recorded = seen
            .into_iter()
            .filter(|d| *d.from.ip() == pair.host_a.v4() && *d.to.ip() == pair.host_b.v4())
            .collect();
        // The switch's bridge and its ports show the same frame more than once.
        self.recorded.dedup();
        assert!(
            self.recorded.len() >= 20,
            "only {} packets seen",
            self.recorded.len()
        );
        assert!(
            self.recorded.iter().all(|d| d.payload.len() >= 28),
            "an Anode packet has at least 28 bytes"
        );
    }

    /// Sends as `a` would, to `b`.
    fn forge(&self, from: SocketAddrV4, to: SocketAddrV4, payload: Vec<u8>) {
        let _ = self.forger.send(&Datagram { from, to, payload });
    }

    /// From the attacker's own address.
    fn own(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.attacker.v4(), 6666)
    }

    /// Sends each variant from the real sender's address and from the attacker's.
    fn attack(&self, variants: impl Iterator<Item = (Datagram, Vec<u8>)>) -> u64 {
        let mut sent = 0;
        for (original, payload) in variants {
            self.forge(original.from, original.to, payload.clone());
            self.forge(self.own(), original.to, payload);
            sent += 2;
            if sent % 256 == 0 {
                // Not more than the socket's buffer holds: lost ones prove nothing.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        sent
    }

    /// Both run, the attacked one counted drops, and new traffic passes.
    fn survived(mut self, before: f64, at_least: f64) {
        for node in [&mut self.pair.a, &mut self.pair.b] {
            assert!(node.process().running(), "{}", node.log());
        }
        let b = &self.pair.b;
        b.wait("the drops are counted", Duration::from_secs(5), || {
            drops(b) >= before + at_least
        });
        println!("drops: {before} before, {} after", drops(b));
        assert_eq!(
            programs::ping(&self.pair.host_a, self.pair.b_ip(), 56, 5).received,
            5
        );
        let (near, far) = traffic::pair(&self.pair.host_a, &self.pair.host_b, self.pair.b_at(9001));
        let receiver = std::thread::spawn(move || traffic::receive_all(far));
        let sum = traffic::send_noise(&near, 2, 1_000_000).expect("sent");
        drop(near);
        assert_eq!(
            receiver.join().expect("no panic").expect("received"),
            (1_000_000, sum)
        );
        let log = b.log();
        assert!(!log.contains("panicked"), "{log}");
        // S26: an attacker does not write the log.
        assert!(
            log.lines().count() < 200,
            "{} lines of log",
            log.lines().count()
        );
    }
}

fn drops(node: &Node) -> f64 {
    node.metrics().sum("overlay_dropped")
}

#[test]
fn packets_cut_at_every_length_are_dropped_and_counted() {
    // S1, S2, A38
    let Some(scene) = Scene::start() else { return };
    let before = drops(&scene.pair.b);
    let cut = scene.recorded.iter().take(40).flat_map(|d| {
        (0..d.payload.len())
            .step_by(if d.payload.len() > 200 { 13 } else { 1 })
            .map(|n| (d.clone(), d.payload[..n].to_vec()))
    });
    let sent = scene.attack(cut);
    scene.survived(before, sent as f64 / 4.0);
}

#[test]
fn flipped_bits_are_dropped_and_counted_and_a_transfer_goes_on() {
    // S1, S6, A43, D19
    let Some(scene) = Scene::start() else { return };
    let _alone = heavy();
    let before = drops(&scene.pair.b);
    let (near, far) = traffic::pair(
        &scene.pair.host_a,
        &scene.pair.host_b,
        scene.pair.b_at(9000),
    );
    let receiver = std::thread::spawn(move || traffic::receive_all(far));
    let sender = std::thread::spawn(move || traffic::send_noise(near, 7, 30_000_000));
    // The hop count is not covered by the MAC (A39): its flips are left to the replays.
    let flipped = scene.recorded.iter().take(30).flat_map(|d| {
        (8..d.payload.len() * 8)
            .step_by(if d.payload.len() > 200 { 37 } else { 3 })
            .map(|bit| {
                let mut payload = d.payload.clone();
                payload[bit / 8] ^= 1 << (bit % 8);
                (d.clone(), payload)
            })
    });
    let sent = scene.attack(flipped);
    let sum = sender
        .join()
        .expect("no panic")
        .expect("the stream takes everything");
    assert_eq!(
        receiver
            .join()
            .expect("no panic")
            .expect("the stream ends well"),
        (30_000_000, sum)
    );
    scene.survived(before, sent as f64 / 4.0);
}

#[test]
fn replays_change_nothing() {
    // S7, D38, D24, A39, S15: also with other hop counts, 255 among them
    let Some(scene) = Scene::start() else { return };
    let before = drops(&scene.pair.b);
    let place = |scene: &Scene| {
        let peer = scene.pair.b.peer(&scene.pair.a).unwrap_or_default();
        let paths = peer["paths"].as_array().cloned().unwrap_or_default();
        paths
            .into_iter()
            .find(|path| path["active"] == true)
            .map(|path| path["endpoint"].clone())
    };
    let true_place = place(&scene);
    let replayed = scene.recorded.iter().flat_map(|d| {
        [0, 1, 16, 254, 255].map(|hops| {
            let mut payload = d.payload.clone();
            payload[HOPS] = hops;
            (d.clone(), payload)
        })
    });
    scene.attack(replayed);
    // Reflected to their sender.
    for d in &scene.recorded {
        scene.forge(d.to, d.from, d.payload.clone());
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place(&scene), true_place, "a replay moved the path");
    scene.survived(before, 10.0);
}

#[test]
fn a_datagram_replayed_from_elsewhere_is_not_delivered() {
    // S7, D38
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    pair.host_a.offload_off();
    let attacker = pair.lan.host("attacker");
    let elsewhere = traffic::udp(&attacker, SocketAddr::new(attacker.v4().into(), 0));
    let (near, far) = (
        traffic::udp(&pair.host_a, pair.a_at(0)),
        traffic::udp(&pair.host_b, pair.b_at(7)),
    );
    let capture = Capture::start(pair.lan.switch());
    near.send_to(&[0x5a; 321], pair.b_at(7)).expect("sent");
    assert_eq!(far.recv_from(&mut [0; 500]).expect("received").0, 321);
    let seen = capture.datagrams(usize::MAX, Duration::from_millis(200));
    let recorded: Vec<_> = seen
        .iter()
        .filter(|d| *d.to.ip() == pair.host_b.v4() && d.payload.len() > 321)
        .collect();
    assert!(
        !recorded.is_empty(),
        "the datagram was not seen on the wire"
    );
    far.set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    // From a place that the peer has not proven. From its own place a copy looks like the same words said twice, which
    // are legal: without a sealed session no number tells them apart.
    for d in recorded.iter().cycle().take(100) {
        elsewhere
            .send_to(&d.payload, SocketAddr::V4(d.to))
            .expect("sent");
    }
    assert!(
        far.recv_from(&mut [0; 500]).is_err(),
        "a copy was delivered"
    );
}

#[test]
fn unknown_types_are_dropped() {
    // D17, A49
    let Some(scene) = Scene::start() else { return };
    let before = drops(&scene.pair.b);
    let packet = scene
        .recorded
        .iter()
        .min_by_key(|d| d.payload.len())
        .expect("recorded")
        .clone();
    let typed = (0..=255).map(|kind| {
        let mut payload = packet.payload.clone();
        let at = type_at(&payload);
        payload[at] = kind;
        (packet.clone(), payload)
    });
    let sent = scene.attack(typed);
    scene.survived(before, sent as f64 / 4.0);
}

#[test]
fn packets_in_the_receivers_own_name_are_dropped() {
    // S15, A38
    let Some(scene) = Scene::start() else { return };
    let before = drops(&scene.pair.b);
    let id = scene.pair.b.json(&["address"])["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let id: Vec<u8> = (0..8)
        .map(|i| u8::from_str_radix(&id[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect();
    let own = scene.recorded.iter().map(|d| {
        // The short form, whatever stood there.
        let mut payload = d.payload.clone();
        if payload[FLAGS] & FULL_SENDER != 0 {
            payload.drain(SENDER..SENDER + 32);
            payload[FLAGS] &= !FULL_SENDER;
        }
        payload[SENDER..SENDER + 8].copy_from_slice(&id);
        (d.clone(), payload)
    });
    let sent = scene.attack(own);
    scene.survived(before, sent as f64 / 4.0);
}

#[test]
fn oversized_and_random_packets_are_dropped_without_an_answer() {
    // S1, S3, S20
    let Some(scene) = Scene::start() else { return };
    let before = drops(&scene.pair.b);
    let capture = Capture::start(&scene.attacker);
    let socket = traffic::udp(&scene.attacker, SocketAddr::V4(scene.own()));
    let target = scene.recorded[0].to;
    let mut noise = Noise::new(3);
    let mut sent = 0;
    for size in [
        0, 1, 27, 28, 60, 92, 1_232, 1_472, 1_473, 9_000, 30_000, 65_507,
    ] {
        for _ in 0..20 {
            socket.send_to(&noise.bytes(size), target).expect("sent");
            // A real head with a tail that does not belong to it.
            let mut long = scene.recorded[sent % scene.recorded.len()].payload.clone();
            long.resize(long.len().max(size), 0x55);
            socket.send_to(&long, target).expect("sent");
            sent += 2;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    // Real heads that were not lengthened are replays of a known peer from a new place: the node may ask that place
    // who it is, a few times. Never more than came.
    let seen = capture.datagrams(usize::MAX, Duration::from_millis(100));
    let bytes = |to_us: bool| -> usize {
        let ours = seen.iter().filter(|d| {
            if to_us {
                d.to == scene.own()
            } else {
                d.from == scene.own()
            }
        });
        ours.map(|d| d.payload.len() + 28).sum()
    };
    println!(
        "{sent} datagrams; {} bytes sent, {} came back",
        bytes(false),
        bytes(true)
    );
    assert!(
        bytes(true) <= bytes(false) / 10,
        "{} bytes came back for {}",
        bytes(true),
        bytes(false)
    );
    scene.survived(before, sent as f64 / 4.0);
}

#[test]
fn a_flood_of_announcements_does_not_stop_traffic() {
    // S32, D23
    let Some(mut scene) = Scene::start() else {
        return;
    };
    let _alone = heavy();
    let memory = scene.pair.b.memory_kib();
    let mut noise = Noise::new(32);
    let broadcast = SocketAddrV4::new(std::net::Ipv4Addr::BROADCAST, 8737);
    let socket = traffic::udp(&scene.attacker, SocketAddr::V4(scene.own()));
    socket.set_broadcast(true).expect("broadcast");
    for round in 0..20_000 {
        // Presence: flags 1, no MAC, a full address of nobody, no recipient, EPI with the source as endpoint.
        let mut packet = vec![0, 1];
        packet.extend([0; 8]);
        packet.extend([1, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(noise.bytes(32));
        packet.extend([0; 8]);
        packet.extend([0x10, 5, 0, 0, 0]);
        socket.send_to(&packet, broadcast).expect("sent");
        if round % 128 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let grown = scene.pair.b.memory_kib().saturating_sub(memory);
    println!("memory grew by {grown} KiB");
    assert!(grown < 20_000, "{grown} KiB");
    let before = 0.0;
    scene.survived(before, 0.0);
}

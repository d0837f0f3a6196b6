//! Datagrams of all sizes.

use crate::common::Pair;
use anode_platform::Prefix;
use anode_tests::lab::Family;
use anode_tests::traffic::{Noise, UdpEcho, udp};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

#[test]
fn datagrams_of_all_sizes_are_echoed_as_they_were() {
    // A59, N18
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _echo = UdpEcho::start(&pair.host_b, pair.b_at(7));
    let socket = udp(&pair.host_a, pair.a_at(0));
    let mut noise = Noise::new(1);
    let mut buffer = [0; 2_000];
    for size in [
        1, 2, 3, 10, 64, 100, 255, 256, 500, 512, 1_000, 1_023, 1_024, 1_025, 1_099, 1_100,
    ] {
        let sent = noise.bytes(size);
        socket.send_to(&sent, pair.b_at(7)).expect("sent");
        let (count, from) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
        assert_eq!(from, pair.b_at(7));
        assert!(
            buffer[..count] == sent,
            "{size} bytes came back as {count} others"
        );
    }
}

#[test]
fn an_empty_datagram_arrives_empty() {
    // N18
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let (near, far) = (
        udp(&pair.host_a, pair.a_at(0)),
        udp(&pair.host_b, pair.b_at(7)),
    );
    near.send_to(&[], pair.b_at(7)).expect("sent");
    let (count, from) = far
        .recv_from(&mut [0; 10])
        .expect("an empty datagram is one too");
    assert_eq!((count, from), (0, near.local_addr().expect("bound")));
}

#[test]
fn many_flows_of_datagrams_stay_apart() {
    // N18, N26
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _echo = UdpEcho::start(&pair.host_b, pair.b_at(7));
    let sockets: Vec<_> = (0..100).map(|_| udp(&pair.host_a, pair.a_at(0))).collect();
    for (number, socket) in sockets.iter().enumerate() {
        socket
            .send_to(&(number as u32).to_be_bytes(), pair.b_at(7))
            .expect("sent");
    }
    for (number, socket) in sockets.iter().enumerate() {
        let mut buffer = [0; 10];
        let (count, _) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("socket {number}: {e}"));
        assert_eq!(&buffer[..count], (number as u32).to_be_bytes());
    }
}

#[test]
fn a_datagram_larger_than_the_interface_is_cut_or_refused_never_delivered_short() {
    // N18, N19
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let far = udp(&pair.host_b, pair.b_at(7));
    far.set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let near = udp(&pair.host_a, pair.a_at(0));
    let mut buffer = vec![0; 70_000];
    for size in [1_232, 1_233, 1_400, 3_000, 9_000, 65_000] {
        let sent = Noise::new(size as u64).bytes(size);
        if near.send_to(&sent, pair.b_at(7)).is_err() {
            continue;
        }
        if let Ok((count, _)) = far.recv_from(&mut buffer) {
            assert!(
                buffer[..count] == sent,
                "{size} bytes arrived as {count} others"
            );
        }
    }
    // And the way is still open for those that fit.
    near.send_to(b"small", pair.b_at(7)).expect("sent");
    assert_eq!(far.recv_from(&mut buffer).expect("received").0, 5);
}

#[test]
fn multicast_and_foreign_sources_do_not_leave_the_machine() {
    // N23, N24, S4
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let interface = pair.a.json(&["status"])["interface"]
        .as_str()
        .expect("a name")
        .to_owned();
    let before = pair.a.metrics();
    let socket = udp(&pair.host_a, pair.a_at(0));
    let scope = pair.host_a.index(&interface);
    let group = SocketAddrV6::new("ff02::fb".parse().expect("an address"), 5353, 0, scope);
    let far = udp(&pair.host_b, (Ipv6Addr::UNSPECIFIED, 5353).into());
    far.set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    for _ in 0..10 {
        let _ = socket.send_to(b"to all", group);
    }
    // A second address on the interface is not ours on the overlay.
    let foreign = IpAddr::V6(Ipv6Addr::new(
        0xfda0, 0xbad, 0xbad, 0xbad, 0xbad, 0xbad, 0xbad, 0xbad0,
    ));
    pair.host_a
        .netlink(|netlink| netlink.address_add(scope, Prefix::host(foreign)));
    let liar = udp(&pair.host_a, SocketAddr::new(foreign, 0));
    for _ in 0..10 {
        let _ = liar.send_to(b"not me", pair.b_at(5353));
    }
    assert!(
        far.recv_from(&mut [0; 10]).is_err(),
        "something crossed the overlay"
    );
    let after = pair.a.metrics();
    for reason in ["foreign_source", "not_for_overlay"] {
        let grown = after.sum(reason) - before.sum(reason);
        assert!(grown >= 10.0, "{reason} grew by {grown}: {:?}", after.all());
    }
    assert!(pair.a.process().running());
}

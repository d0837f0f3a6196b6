//! ICMPv6 errors: which packets cause one, of which type and code, and how many.

use std::net::Ipv6Addr;
use std::time::Duration;

use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv6};

use super::fragments::fragment;
use super::packets::{
    ICMP, UDP, echo_request, extended, from_machine, packet, padding, udp, udp_header, udp_to,
};
use super::world::*;
use crate::*;

/// Parses an error with etherparse and checks all that is common to them.
pub(super) fn error(packet: &[u8], quoted: &[u8]) -> (Ipv6Addr, Icmpv6Type) {
    assert!(packet.len() <= 1280);
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else {
        panic!()
    };
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
        panic!()
    };
    assert_eq!(ip.header().destination_addr(), MACHINE);
    assert_eq!(usize::from(ip.header().payload_length()), packet.len() - 40);
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    assert!(
        packet[48..] == quoted[..quoted.len().min(1232)],
        "quotes as much as fits"
    );
    (ip.header().source_addr(), icmp.icmp_type())
}

#[test]
fn errors_have_the_right_type_code_source_and_quote() {
    // N18, N21, N22
    use icmpv6::{DestUnreachableCode as Code, TimeExceededCode};
    let mut world = World::new(config(true));
    for length in [0, 100, 1184, 1185, 1232] {
        let quote = udp(&vec![1; length]);
        for (why, code, source) in [
            (Unreachable::NoRoute, Code::NoRoute, MACHINE),
            (Unreachable::Prohibited, Code::Prohibited, MACHINE),
            (Unreachable::Address, Code::Address, MACHINE),
            (Unreachable::Port, Code::Port, PEER),
        ] {
            world.net.unreachable_to_os(world.now, &quote, why);
            let packets = world.drain();
            assert_eq!(
                error(&packets[0].0, &quote),
                (source, Icmpv6Type::DestinationUnreachable(code))
            );
        }
        for (mtu, said) in [(1400, 1400), (1280, 1280), (600, 1280)] {
            world.net.too_big_to_os(world.now, &quote, mtu);
            let packets = world.drain();
            assert_eq!(
                error(&packets[0].0, &quote),
                (MACHINE, Icmpv6Type::PacketTooBig { mtu: said })
            );
        }
        for hop_limit in [0, 1] {
            let mut quote = quote.clone();
            quote[7] = hop_limit;
            world.handle(quote.clone());
            let packets = world.drain();
            let expected = Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded);
            assert_eq!(error(&packets[0].0, &quote), (MACHINE, expected));
        }
        let quote = udp_to("2001:db8::1".parse().unwrap(), &vec![1; length]);
        world.handle(quote.clone());
        let packets = world.drain();
        assert_eq!(
            error(&packets[0].0, &quote),
            (MACHINE, Icmpv6Type::DestinationUnreachable(Code::NoRoute))
        );
    }
    assert_eq!(world.net.counters().hop_limit, 10);
    assert_eq!(world.net.counters().no_route, 5);
    assert!(world.sink.udp.is_empty());
}

#[test]
fn some_packets_never_cause_errors() {
    // N21, RFC 4443 §2.4 (e)
    let mut world = World::new(config(true));
    let icmp = |kind| from_machine(ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]);
    let first_fragment = fragment(ICMP, 1, 0, true, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let later_fragment = fragment(ICMP, 1, 8, true, &[128, 0, 0, 0, 0, 0, 0, 0]);
    let forbidden = [
        icmp(1),
        icmp(2),
        icmp(3),
        icmp(4),
        icmp(127),
        icmp(137),
        first_fragment,
        later_fragment,
        udp_to("ff02::1".parse().unwrap(), b"x"),
        packet("::".parse().unwrap(), PEER, UDP, &udp_header(1, 2, b"")),
        packet(PEER, MACHINE, UDP, &udp_header(1, 2, b"")),
        icmp(128)[..40].to_vec(),
        vec![],
        vec![0x60; 20],
        extended(&vec![(60, padding()); 9], UDP, &[0; 8]),
    ];
    let count = forbidden.len() as u64;
    for quote in forbidden {
        world
            .net
            .unreachable_to_os(world.now, &quote, Unreachable::Address);
        assert_eq!(world.drain(), []);
    }
    assert_eq!(world.net.counters().errors_forbidden, count);
    world
        .net
        .unreachable_to_os(world.now, &icmp(128), Unreachable::Address);
    assert_eq!(world.drain().len(), 1, "an echo request may");
}

#[test]
fn errors_are_limited() {
    // N20, N21
    let mut world = World::new(config(true));
    for _ in 0..1000 {
        world
            .net
            .unreachable_to_os(world.now, &udp(b"x"), Unreachable::Port);
    }
    assert_eq!(world.drain().len(), 100);
    assert_eq!(world.net.counters().errors_limited, 900);
    world.now += Duration::from_secs(1);
    for _ in 0..10 {
        world
            .net
            .unreachable_to_os(world.now, &echo_request(PEER, b""), Unreachable::Address);
    }
    assert_eq!(
        world.drain().len(),
        1,
        "ping to an unreachable peer: one a second"
    );
    world.now += Duration::from_secs(1);
    world
        .net
        .unreachable_to_os(world.now, &echo_request(PEER, b""), Unreachable::Address);
    assert_eq!(world.drain().len(), 1);
}

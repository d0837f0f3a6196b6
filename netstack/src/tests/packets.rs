//! Packets that are no TCP: bad ones, extension headers, echo, other protocols, and the queue to the kernel.

mod bad;

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use etherparse::Icmpv6Slice;
use proptest::prelude::*;

use super::fragments::{cut, fragment, reassemble};
use super::tcp::segment_to;
use super::world::*;
use crate::packet::{fill_checksum, ipv6_header, set_payload_length};
use crate::*;

pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 58;

pub(super) fn from_machine(next_header: u8, payload: &[u8]) -> Vec<u8> {
    packet(MACHINE, PEER, next_header, payload)
}

pub(super) fn packet(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv6_header(from, to, next_header, 0).to_vec();
    packet.extend_from_slice(payload);
    set_payload_length(&mut packet);
    fill_checksum(&mut packet, 40, from, to, next_header);
    packet
}

pub(super) fn udp(payload: &[u8]) -> Vec<u8> {
    udp_to(PEER, payload)
}

pub(super) fn udp_to(to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    packet(MACHINE, to, UDP, &udp_header(1000, 53, payload))
}

pub(super) fn udp_header(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for field in [from, to, 8 + payload.len() as u16, 0] {
        datagram.extend_from_slice(&field.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    datagram
}

pub(super) fn echo_request(to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0x12, 0x34, 0, 9];
    message.extend_from_slice(payload);
    packet(MACHINE, to, ICMP, &message)
}

/// Extension headers in front of `rest`, whose type is `last`; the checksum, if any, is not theirs to change.
pub(super) fn extended(headers: &[(u8, Vec<u8>)], last: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, (_, content)) in headers.iter().enumerate() {
        body.push(headers.get(index + 1).map_or(last, |next| next.0));
        body.extend_from_slice(content);
    }
    body.extend_from_slice(rest);
    let mut packet = ipv6_header(MACHINE, PEER, headers[0].0, 0).to_vec();
    packet.extend_from_slice(&body);
    set_payload_length(&mut packet);
    packet
}

pub(super) fn padding() -> Vec<u8> {
    vec![0, 1, 4, 0, 0, 0, 0]
}

impl World {
    pub(super) fn handle(&mut self, mut packet: Vec<u8>) {
        self.handle_with(Offload::default(), &mut packet);
    }

    pub(super) fn handle_with(&mut self, offload: Offload, packet: &mut [u8]) {
        self.net
            .handle_packet(self.now, offload, packet, &mut self.sink);
    }

    /// Everything that goes to the kernel, uncut.
    pub(super) fn drain(&mut self) -> Vec<(Vec<u8>, Offload)> {
        let mut packets = Vec::new();
        let mut out = Vec::new();
        while let Some(offload) = self.net.poll_packet(self.now, &mut out) {
            packets.push((out.clone(), offload));
        }
        packets
    }
}

#[test]
fn eight_extension_headers_are_no_obstacle() {
    // S4
    let mut world = World::new(config(false));
    let transport = udp(b"payload")[40..].to_vec();
    world.handle(extended(&vec![(60, padding()); 8], UDP, &transport));
    assert_eq!(world.sink.udp[0].2, b"payload");

    // TCP behind them is handled like any other.
    let syn = segment_to(50_000, 80, 1, |tcp| tcp.syn = true, b"");
    world.handle(extended(
        &[
            (0, padding()),
            (43, vec![0, 0, 0, 0, 0, 0, 0]),
            (60, padding()),
        ],
        6,
        &syn[40..],
    ));
    let Some(Event::TcpOpen { flow, .. }) = world.net.poll_event() else {
        panic!()
    };
    world.net.tcp_accept(world.now, flow);
    assert_eq!(world.drain().len(), 1, "SYN-ACK");
}

#[test]
fn echo_requests_pass_with_id_sequence_and_payload() {
    // N20
    for offload in [false, true] {
        let mut world = World::new(config(offload));
        for length in [0, 1, 56, 1232, 1233, 8000, 65_000] {
            let payload = vec![0x5a; length];
            let request = echo_request(PEER, &payload);
            let packets = if request.len() <= 1280 {
                vec![request]
            } else {
                cut(&request, 1232, 5)
            };
            for packet in packets {
                world.handle(packet);
            }
            let (from, to, id, sequence, heard, quote) = world.sink.echo.pop().unwrap();
            assert_eq!((from, to, id, sequence), (MACHINE, PEER, 0x1234, 9));
            assert!(heard == payload);
            assert_eq!(quote.len(), (48 + length).min(1232));
            assert_eq!(world.drain(), [], "nobody answers for the peer");

            world.net.echo_reply_to_os(to, from, id, sequence, &heard);
            let reply = reassemble(&world.drain());
            assert_eq!(reply[40..42], [129, 0]);
            assert_eq!(reply[44..48], [0x12, 0x34, 0, 9]);
            assert!(reply[48..] == payload);
            assert!(
                Icmpv6Slice::from_slice(&reply[40..])
                    .unwrap()
                    .is_checksum_valid(PEER.octets(), MACHINE.octets())
            );
        }
    }
}

#[test]
fn the_node_itself_answers_at_its_magic_address() {
    let mut world = World::new(config(true));
    let mut request = echo_request(NODE, b"kernel to node");
    request[7] = 1; // Also with the last hop.
    world.handle(request);
    let packets = world.drain();
    let [(reply, _)] = &packets[..] else { panic!() };
    let header = etherparse::Ipv6HeaderSlice::from_slice(reply).unwrap();
    assert_eq!(
        (header.source_addr(), header.destination_addr()),
        (NODE, MACHINE)
    );
    assert_eq!(reply[40], 129);
    assert_eq!(&reply[48..], b"kernel to node");
    assert_eq!(world.net.counters().echo_self, 1);
    assert!(world.sink.echo.is_empty());

    world.handle(udp_to(NODE, b"x"));
    let packets = world.drain();
    assert_eq!(packets[0].0[40..42], [1, 4], "no service there");
    world.handle(packet(MACHINE, NODE, 132, &[0; 20]));
    assert_eq!(world.net.counters().not_for_overlay, 1);
}

#[test]
fn other_protocols_pass_as_they_are() {
    let mut world = World::new(config(true));
    world.handle(from_machine(132, b"sctp, or so"));
    assert_eq!(world.sink.other[0].2, 132);
    assert_eq!(world.sink.other[0].3, b"sctp, or so");
    // A checksum that the kernel left to us is completed, wherever it is.
    let mut packet = from_machine(200, &[1, 2, 0, 0, 3, 4]);
    world.handle_with(
        Offload {
            checksum: Some((40, 2)),
            segments: None,
        },
        &mut packet,
    );
    assert_eq!(world.sink.other[1].3, [1, 2, !4, !6, 3, 4]);
    // ICMPv6 errors and echo replies are the policy's to judge.
    for kind in [1, 3, 129, 135] {
        world.handle(from_machine(ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(world.sink.other.last().unwrap().2, ICMP);
        assert_eq!(world.sink.other.last().unwrap().3[0], kind);
    }

    world.net.other_to_os(PEER, MACHINE, 132, b"back");
    let packets = world.drain();
    assert_eq!((packets[0].0[6], &packets[0].0[40..]), (132, &b"back"[..]));
    // The sender's checksum was about other addresses.
    world
        .net
        .other_to_os(PEER, MACHINE, ICMP, &[129, 0, 0xde, 0xad, 0, 1, 0, 2]);
    let packets = world.drain();
    let slice = Icmpv6Slice::from_slice(&packets[0].0[40..]).unwrap();
    assert!(slice.is_checksum_valid(PEER.octets(), MACHINE.octets()));
    // Whatever the overlay gives, nothing panics.
    for payload in [&[][..], &[1], &[0; 70_000]] {
        world.net.other_to_os(PEER, MACHINE, ICMP, payload);
        world.net.other_to_os(PEER, MACHINE, 0, payload);
    }
}

#[test]
fn the_queue_to_the_kernel_is_bounded() {
    // N26
    let mut world = World::new(Config {
        queue_bytes: 10_000,
        ..config(true)
    });
    let (from, to) = (
        SocketAddrV6::new(PEER, 1, 0, 0),
        SocketAddrV6::new(MACHINE, 2, 0, 0),
    );
    for _ in 0..100 {
        world.net.udp_to_os(from, to, &[0; 952]);
    }
    assert_eq!(world.net.counters().queue_full, 90);
    // All fragments or none.
    assert_eq!(world.drain().len(), 10);
    world.net.udp_to_os(from, to, &[0; 9900]);
    assert_eq!(world.drain(), []);
    assert_eq!(world.net.counters().queue_full, 91);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    // S4: whatever comes, with whatever offload, nothing panics and every packet is accounted for.
    #[test]
    fn arbitrary_packets_never_panic(
        packets in prop::collection::vec((packet_strategy(), offload_strategy()), 1..20),
    ) {
        let mut world = World::new(config(true));
        let count = packets.len() as u64;
        for (mut packet, offload) in packets {
            world.handle_with(offload, &mut packet);
            // Callers answer with what they were given.
            let quotes: Vec<Vec<u8>> = world.sink.udp.drain(..).map(|datagram| datagram.3)
                .chain(world.sink.echo.drain(..).map(|echo| echo.5))
                .chain(world.sink.other.drain(..).map(|other| other.4))
                .collect();
            for quote in quotes {
                world.net.unreachable_to_os(world.now, &quote, Unreachable::Address);
                world.net.too_big_to_os(world.now, &quote, 1300);
            }
            while let Some(event) = world.net.poll_event() {
                if let Event::TcpOpen { flow, .. } = event {
                    world.net.tcp_accept(world.now, flow);
                }
            }
            for (packet, _) in world.drain() {
                prop_assert!(etherparse::Ipv6HeaderSlice::from_slice(&packet).is_ok());
            }
        }
        prop_assert_eq!(world.net.counters().from_os, count);
        world.pass(Duration::from_secs(61));
    }

    // A flow under fire from segments with its ports and anything else.
    #[test]
    fn arbitrary_segments_never_panic(
        segments in prop::collection::vec(
            (any::<u16>(), -70_000i64..70_000, -70_000i64..70_000, any::<u16>(), prop::collection::vec(any::<u8>(), 0..40), 0usize..3000, 0u8..8),
            1..60,
        ),
        accept in any::<bool>(),
    ) {
        let mut world = World::new(config(true));
        world.handle(segment_to(50_000, 80, 1000, |tcp| tcp.syn = true, b""));
        let Some(Event::TcpOpen { mut flow, .. }) = world.net.poll_event() else { panic!() };
        let mut ours = 0;
        if accept {
            world.net.tcp_accept(world.now, flow);
            let packets = world.drain();
            ours = i64::from(etherparse::TcpHeaderSlice::from_slice(&packets[0].0[40..]).unwrap().sequence_number());
        }
        for (flags, sequence, acknowledgement, window, options, length, call) in segments {
            let packet = segment_to(50_000, 80, (1000 + sequence / 40) as u32, |tcp| {
                tcp.acknowledgment_number = (ours + acknowledgement / 40) as u32;
                tcp.window_size = window;
                tcp.syn = flags & 0x0f == 1;
                tcp.fin = flags & 0x30 == 0x10;
                tcp.rst = flags & 0xff00 == 0x0100;
                tcp.ack = flags & 0xc0 != 0;
                tcp.urg = flags & 0x100 != 0;
                let padded = options.len() / 4 * 4;
                tcp.set_options_raw(&options[..padded]).unwrap();
            }, &vec![1; length]);
            world.handle(packet);
            match call {
                0 => { world.net.tcp_send(world.now, flow, &[2; 5000]); }
                1 => { world.net.tcp_recv(world.now, flow, &mut |bytes| bytes.len() / 2); }
                2 => world.net.tcp_finish(world.now, flow),
                3 => world.pass(Duration::from_millis(700)),
                4 if length == 7 => world.net.tcp_reset(world.now, flow),
                5 => world.net.tcp_accept(world.now, flow),
                _ => {}
            }
            world.drain();
            while let Some(event) = world.net.poll_event() {
                if let Event::TcpOpen { flow: new, .. } = event {
                    flow = new;
                }
            }
        }
        prop_assert!(world.net.flows() <= 1);
    }
}

pub(super) fn offload_strategy() -> impl Strategy<Value = Offload> {
    let small = || prop_oneof![Just(40u16), Just(6), Just(16), Just(2), any::<u16>()];
    let segments = (any::<bool>(), small(), small()).prop_map(|(tcp, size, header_len)| Segments {
        kind: if tcp {
            SegmentKind::Tcp6
        } else {
            SegmentKind::Udp
        },
        size,
        header_len,
    });
    (
        prop::option::of((small(), small())),
        prop::option::of(segments),
    )
        .prop_map(|(checksum, segments)| Offload { checksum, segments })
}

/// From noise to packets that are almost right.
pub(super) fn packet_strategy() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let next_header = prop_oneof![
        Just(0u8),
        Just(6),
        Just(17),
        Just(43),
        Just(44),
        Just(58),
        Just(60),
        any::<u8>()
    ];
    let shaped = (
        next_header,
        body.clone(),
        any::<bool>(),
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    )
        .prop_map(|(next_header, body, right, flips)| {
            let mut packet = from_machine(next_header, &body);
            if !right {
                for (at, value) in flips {
                    let length = packet.len();
                    packet[at % length] = value;
                }
            }
            packet
        });
    let extension = (
        prop::collection::vec(prop_oneof![Just(0u8), Just(43), Just(44), Just(60)], 1..4),
        body.clone(),
    )
        .prop_map(|(kinds, body)| {
            let headers: Vec<_> = kinds.into_iter().map(|kind| (kind, padding())).collect();
            extended(&headers, UDP, &body)
        });
    let fragments = (
        any::<u8>(),
        0u32..3,
        0usize..20,
        any::<bool>(),
        body.clone(),
    )
        .prop_map(|(next_header, id, offset, more, body)| {
            fragment(next_header, id, offset * 8, more, &body)
        });
    prop_oneof![body, shaped, extension, fragments]
}

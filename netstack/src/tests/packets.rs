//! Packets that are no TCP: bad ones, extension headers, echo, other protocols, and the queue to the kernel.

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
fn bad_packets_are_dropped_and_counted_by_cause() {
    // S4, N23, N24
    let good = udp(b"hello");
    let change = |change: fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet
    };
    let transport = &good[40..];
    let many = |count| extended(&vec![(60, padding()); count], UDP, transport);
    let long = |bytes: usize| {
        let mut header = vec![(bytes / 8 - 1) as u8];
        header.resize(bytes - 1, 0);
        header
    };
    let to = |address: &str| udp_to(address.parse().unwrap(), b"x");
    let checksum = Some((40, 6));
    let segments = |kind, size, header_len| {
        Some(Segments {
            kind,
            size,
            header_len,
        })
    };
    let none = Offload::default();
    let tcp = segment_to(1, 2, 3, |_| {}, b"");
    type Case = (&'static str, Vec<u8>, Offload, fn(&Counters) -> u64);
    let table: Vec<Case> = vec![
        ("empty", vec![], none, |c| c.truncated),
        ("one byte", vec![0x60], none, |c| c.truncated),
        ("39 bytes", good[..39].to_vec(), none, |c| c.truncated),
        ("cut", good[..good.len() - 1].to_vec(), none, |c| {
            c.truncated
        }),
        (
            "payload length too large",
            change(|p| p[4..6].copy_from_slice(&[0xff, 0xff])),
            none,
            |c| c.truncated,
        ),
        (
            "payload length too small",
            change(|p| p[5] -= 1),
            none,
            |c| c.trailing_bytes,
        ),
        ("bytes behind", change(|p| p.push(0)), none, |c| {
            c.trailing_bytes
        }),
        ("version 0", change(|p| p[0] = 0x00), none, |c| c.not_ipv6),
        ("version 4", change(|p| p[0] = 0x45), none, |c| c.not_ipv6),
        ("version 5", change(|p| p[0] = 0x50), none, |c| c.not_ipv6),
        ("version 15", change(|p| p[0] = 0xf0), none, |c| c.not_ipv6),
        ("payload length 0", change(|p| p[4..6].fill(0)), none, |c| {
            c.jumbo
        }),
        (
            "nothing but a header",
            ipv6_header(MACHINE, PEER, UDP, 0).to_vec(),
            none,
            |c| c.jumbo,
        ),
        (
            "jumbo payload option",
            extended(&[(0, vec![0, 0xc2, 4, 0, 1, 0, 0])], UDP, transport),
            none,
            |c| c.jumbo,
        ),
        ("nine extension headers", many(9), none, |c| c.bad_extension),
        (
            "too many bytes of them",
            extended(&[(60, long(1024))], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "an extension header past the end",
            extended(&[(60, vec![200, 1, 4, 0, 0, 0, 0])], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "an extension header cut",
            from_machine(60, &[17, 0, 1]),
            none,
            |c| c.bad_extension,
        ),
        (
            "hop-by-hop not in front",
            extended(&[(60, padding()), (0, padding())], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "an option past its header",
            extended(&[(60, vec![0, 1, 200, 0, 0, 0, 0])], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "an option without length",
            extended(&[(60, vec![0, 0, 0, 0, 0, 0, 5])], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "an unknown option that must not be skipped",
            extended(&[(60, vec![0, 0x45, 0, 0, 0, 0, 0])], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        (
            "a routing header with segments left",
            extended(&[(43, vec![0, 0, 1, 0, 0, 0, 0])], UDP, transport),
            none,
            |c| c.bad_extension,
        ),
        ("no next header", from_machine(59, &[0; 8]), none, |c| {
            c.bad_extension
        }),
        ("mobility", from_machine(135, &[0; 8]), none, |c| {
            c.bad_extension
        }),
        (
            "fragment header cut",
            from_machine(44, &[17, 0, 0]),
            none,
            |c| c.bad_extension,
        ),
        (
            "fragment without payload",
            from_machine(44, &[17, 0, 0, 1, 0, 0, 0, 1]),
            none,
            |c| c.bad_fragment,
        ),
        (
            "fragment of odd size",
            from_machine(44, &[17, 0, 0, 1, 0, 0, 0, 1, 9]),
            none,
            |c| c.bad_fragment,
        ),
        (
            "fragment past 65,535",
            from_machine(44, &[17, 0, 0xff, 0xf9, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
            none,
            |c| c.bad_fragment,
        ),
        (
            "a fragment in an atomic fragment",
            from_machine(
                44,
                &[44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 2, 1, 2],
            ),
            none,
            |c| c.bad_fragment,
        ),
        (
            "an empty atomic fragment",
            from_machine(44, &[17, 0, 0, 0, 0, 0, 0, 1]),
            none,
            |c| c.jumbo,
        ),
        ("multicast", to("ff02::16"), none, |c| c.not_for_overlay),
        (
            "router solicitation",
            packet(
                "fe80::1".parse().unwrap(),
                "ff02::2".parse().unwrap(),
                ICMP,
                &[133, 0, 0, 0, 0, 0, 0, 0],
            ),
            none,
            |c| c.not_for_overlay,
        ),
        ("link-local", to("fe80::1"), none, |c| c.not_for_overlay),
        ("loopback", to("::1"), none, |c| c.not_for_overlay),
        ("unspecified", to("::"), none, |c| c.not_for_overlay),
        (
            "somebody else's source",
            packet(PEER, PEER, UDP, &udp_header(1, 2, b"")),
            none,
            |c| c.foreign_source,
        ),
        ("to ourselves", to(&MACHINE.to_string()), none, |c| {
            c.to_ourselves
        }),
        ("wrong UDP checksum", change(|p| p[47] ^= 1), none, |c| {
            c.bad_checksum
        }),
        (
            "no UDP checksum",
            change(|p| p[46..48].fill(0)),
            none,
            |c| c.bad_checksum,
        ),
        ("UDP header cut", from_machine(UDP, &[0; 7]), none, |c| {
            c.bad_transport
        }),
        (
            "UDP length too large",
            {
                let mut datagram = udp_header(1, 2, b"abc");
                datagram[5] += 1;
                from_machine(UDP, &datagram)
            },
            none,
            |c| c.bad_transport,
        ),
        (
            "UDP length too small",
            {
                let mut datagram = udp_header(1, 2, b"abc");
                datagram[5] -= 1;
                from_machine(UDP, &datagram)
            },
            none,
            |c| c.bad_transport,
        ),
        (
            "to UDP port 0",
            from_machine(UDP, &udp_header(1, 0, b"abc")),
            none,
            |c| c.bad_transport,
        ),
        (
            "ICMPv6 header cut",
            from_machine(ICMP, &[128, 0, 0, 0, 0]),
            none,
            |c| c.bad_transport,
        ),
        (
            "wrong ICMPv6 checksum",
            {
                let mut packet = echo_request(PEER, b"x");
                packet[42] ^= 0x80;
                packet
            },
            none,
            |c| c.bad_checksum,
        ),
        ("TCP header cut", from_machine(6, &[0; 19]), none, |c| {
            c.bad_transport
        }),
        (
            "TCP data offset 4",
            {
                let mut packet = tcp.clone();
                packet[52] = 0x40;
                fill_checksum(&mut packet, 40, MACHINE, PEER, 6);
                packet
            },
            none,
            |c| c.bad_transport,
        ),
        (
            "TCP data offset past the end",
            {
                let mut packet = tcp.clone();
                packet[52] = 0xf0;
                fill_checksum(&mut packet, 40, MACHINE, PEER, 6);
                packet
            },
            none,
            |c| c.bad_transport,
        ),
        (
            "wrong TCP checksum",
            {
                let mut packet = tcp.clone();
                packet[56] ^= 1;
                packet
            },
            none,
            |c| c.bad_checksum,
        ),
        (
            "from TCP port 0",
            segment_to(0, 2, 3, |_| {}, b""),
            none,
            |c| c.bad_transport,
        ),
        (
            "to TCP port 0",
            segment_to(2, 0, 3, |_| {}, b""),
            none,
            |c| c.bad_transport,
        ),
        (
            "SYN and FIN",
            segment_to(1, 2, 3, |t| (t.syn, t.fin) = (true, true), b""),
            none,
            |c| c.bad_transport,
        ),
        (
            "SYN and RST",
            segment_to(1, 2, 3, |t| (t.syn, t.rst) = (true, true), b""),
            none,
            |c| c.bad_transport,
        ),
        (
            "checksum start elsewhere",
            good.clone(),
            Offload {
                checksum: Some((41, 6)),
                segments: None,
            },
            |c| c.bad_offload,
        ),
        (
            "checksum field elsewhere",
            good.clone(),
            Offload {
                checksum: Some((40, 16)),
                segments: None,
            },
            |c| c.bad_offload,
        ),
        (
            "checksum field past the end",
            from_machine(132, &[0; 8]),
            Offload {
                checksum: Some((40, 7)),
                segments: None,
            },
            |c| c.bad_offload,
        ),
        (
            "checksum far past the end",
            good.clone(),
            Offload {
                checksum: Some((0xffff, 0xffff)),
                segments: None,
            },
            |c| c.bad_offload,
        ),
        (
            "segments of 0 bytes",
            good.clone(),
            Offload {
                checksum,
                segments: segments(SegmentKind::Udp, 0, 48),
            },
            |c| c.bad_offload,
        ),
        (
            "headers past the end",
            good.clone(),
            Offload {
                checksum,
                segments: segments(SegmentKind::Udp, 1, 54),
            },
            |c| c.bad_offload,
        ),
        (
            "TCP segments in UDP",
            good.clone(),
            Offload {
                checksum,
                segments: segments(SegmentKind::Tcp6, 1, 48),
            },
            |c| c.bad_offload,
        ),
        (
            "UDP segments in TCP",
            tcp.clone(),
            Offload {
                checksum: Some((40, 16)),
                segments: segments(SegmentKind::Udp, 1, 60),
            },
            |c| c.bad_offload,
        ),
        (
            "segments in ICMPv6",
            echo_request(PEER, b""),
            Offload {
                checksum: None,
                segments: segments(SegmentKind::Udp, 1, 40),
            },
            |c| c.bad_offload,
        ),
        (
            "a fragment with offload",
            from_machine(44, &[17, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
            Offload {
                checksum,
                segments: None,
            },
            |c| c.bad_offload,
        ),
    ];
    for (name, mut packet, offload, counter) in table {
        let mut world = World::new(config(true));
        world.handle_with(offload, &mut packet);
        let counters = world.net.counters();
        assert_eq!(counter(&counters), 1, "{name}: {counters:?}");
        assert_eq!(counters.from_os, 1);
        assert_eq!(world.drain(), [], "{name} is not answered");
        let sink = &world.sink;
        assert!(
            sink.udp.is_empty() && sink.echo.is_empty() && sink.other.is_empty(),
            "{name}"
        );
        assert_eq!(world.net.poll_event(), None, "{name}");
        assert_eq!(world.net.flows(), 0, "{name}");
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

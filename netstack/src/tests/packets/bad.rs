//! Packets that nobody should send, each with the counter that it ends in.
use super::*;

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

//! Datagrams of every size: whole, cut by the kernel, put together again within bounds.

use std::net::SocketAddrV6;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::packets::{UDP, from_machine, udp, udp_header};
use super::world::*;
use crate::packet::{ipv6_header, partial_checksum, set_payload_length};
use crate::*;

#[test]
fn datagrams_of_every_size_pass_both_ways() {
    // N18
    for offload in [false, true] {
        let mut world = World::new(config(offload));
        for length in [
            0, 1, 2, 1000, 1232, 1233, 1240, 5000, 64_000, 65_000, 65_527,
        ] {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let from = SocketAddrV6::new(PEER, if length == 1 { 0 } else { 53 }, 0, 0);
            let to = SocketAddrV6::new(MACHINE, 1000, 0, 0);
            world.net.udp_to_os(from, to, &payload);
            let packets = world.drain();
            let packet = reassemble(&packets);
            assert_eq!(packets.len() > 1, length > 1232);
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Udp(slice)) = sliced.transport else {
                panic!()
            };
            assert_eq!(slice.payload(), payload);
            assert_eq!(
                (slice.source_port(), slice.destination_port()),
                (from.port(), to.port())
            );
            let whole = slice
                .to_header()
                .calc_checksum_ipv6_raw(PEER.octets(), MACHINE.octets(), &payload)
                .unwrap();
            if packets[0].1.checksum.is_some() {
                assert!(offload && packets.len() == 1);
                assert_eq!(packets[0].1.checksum, Some((40, 6)));
                let mut completed = packet.clone();
                let sum = etherparse::checksum::Sum16BitWords::new()
                    .add_slice(&completed[40..])
                    .ones_complement();
                completed[46..48].copy_from_slice(&sum.to_ne_bytes());
                assert_eq!(completed[46..48], whole.to_be_bytes());
            } else {
                assert_eq!(slice.checksum(), whole);
            }

            // Back: the kernel cuts as we did.
            let answer = packet_with_fragments(&udp_header(from.port(), 53, &payload));
            for fragment in answer {
                world.handle(fragment);
            }
            let (heard_from, _, heard, _) = world.sink.udp.pop().expect("the datagram");
            assert_eq!(heard_from, SocketAddrV6::new(MACHINE, from.port(), 0, 0));
            assert!(heard == payload, "of {length} bytes");
        }
        world.net.udp_to_os(
            SocketAddrV6::new(PEER, 1, 0, 0),
            SocketAddrV6::new(MACHINE, 1, 0, 0),
            &[0; 65_528],
        );
        assert_eq!(world.drain(), []);
        assert_eq!(world.net.counters().oversize, 1);
    }
}

/// A datagram of the machine, in fragments if it has to be.
pub(super) fn packet_with_fragments(datagram: &[u8]) -> Vec<Vec<u8>> {
    let whole = from_machine(UDP, datagram);
    if whole.len() <= 1280 {
        return vec![whole];
    }
    cut(&whole, 1232, 77)
}

pub(super) fn cut(whole: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let next_header = whole[6];
    let pieces: Vec<_> = whole[40..].chunks(size).collect();
    let fragment = |(index, piece): (usize, &&[u8])| {
        fragment(
            next_header,
            id,
            index * size,
            index + 1 < pieces.len(),
            piece,
        )
    };
    pieces.iter().enumerate().map(fragment).collect()
}

pub(super) fn fragment(
    next_header: u8,
    id: u32,
    offset: usize,
    more: bool,
    piece: &[u8],
) -> Vec<u8> {
    let mut body = vec![next_header, 0];
    body.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(piece);
    let mut packet = ipv6_header(MACHINE, PEER, 44, 0).to_vec();
    packet.extend_from_slice(&body);
    set_payload_length(&mut packet);
    packet
}

/// What a kernel does with fragments; checks them on the way with etherparse.
pub(super) fn reassemble(packets: &[(Vec<u8>, Offload)]) -> Vec<u8> {
    if let [(packet, _)] = packets {
        assert!(packet.len() <= 1280);
        return packet.clone();
    }
    let mut whole = packets[0].0[..40].to_vec();
    let mut expected = 0;
    for (index, (packet, offload)) in packets.iter().enumerate() {
        assert!(packet.len() <= 1280);
        assert_eq!(*offload, Offload::default());
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let Some(NetSlice::Ipv6(ip)) = sliced.net else {
            panic!()
        };
        assert_eq!(usize::from(ip.header().payload_length()), packet.len() - 40);
        let header = etherparse::Ipv6FragmentHeaderSlice::from_slice(&packet[40..]).unwrap();
        assert_eq!(usize::from(header.fragment_offset().value()) * 8, expected);
        assert_eq!(header.more_fragments(), index + 1 < packets.len());
        assert_eq!(
            header.identification(),
            u32::from_be_bytes(packets[0].0[44..48].try_into().unwrap())
        );
        whole[6] = header.next_header().0;
        expected += packet.len() - 48;
        whole.extend_from_slice(&packet[48..]);
    }
    set_payload_length(&mut whole);
    whole
}

#[test]
fn super_packets_of_datagrams_are_cut() {
    let mut world = World::new(config(true));
    for (length, size, expected) in [
        (0, 10, vec![0]),
        (10, 10, vec![10]),
        (25, 10, vec![10, 10, 5]),
        (30, 10, vec![10, 10, 10]),
    ] {
        let payload: Vec<u8> = (0..length).collect();
        let mut packet = udp(&payload);
        let checksum = partial_checksum(&mut packet, 40, MACHINE, PEER, UDP);
        let segments = Some(Segments {
            kind: SegmentKind::Udp,
            size,
            header_len: 48,
        });
        world.handle_with(Offload { checksum, segments }, &mut packet);
        let heard = std::mem::take(&mut world.sink.udp);
        assert_eq!(
            heard
                .iter()
                .map(|datagram| datagram.2.len())
                .collect::<Vec<_>>(),
            expected
        );
        assert_eq!(
            heard
                .iter()
                .flat_map(|datagram| datagram.2.clone())
                .collect::<Vec<_>>(),
            payload
        );
    }
}

#[test]
fn fragments_in_any_order_and_with_copies() {
    let payload: Vec<u8> = (0..9000u32).map(|at| at as u8).collect();
    let whole = udp(&payload);
    let fragments = cut(&whole, 1232, 5);
    let reversed: Vec<_> = fragments.iter().rev().cloned().collect();
    let mut shuffled = fragments.clone();
    shuffled.swap(0, 4);
    shuffled.swap(1, 6);
    let doubled: Vec<_> = fragments
        .iter()
        .take(7)
        .flat_map(|fragment| [fragment.clone(), fragment.clone()])
        .chain(fragments[7..].to_vec())
        .collect();
    for order in [fragments, reversed, shuffled, doubled] {
        let mut world = World::new(config(false));
        for fragment in order {
            world.handle(fragment);
        }
        assert_eq!(world.sink.udp.len(), 1);
        assert!(world.sink.udp[0].2 == payload);
        assert_eq!(world.net.counters().reassembled, 1);
        assert_eq!(world.net.deadline(), None);
    }
}

#[test]
fn overlapping_fragments_drop_the_whole_datagram() {
    // S4, RFC 5722
    let whole = udp(&[7; 2000]);
    let body = &whole[40..];
    let first = fragment(UDP, 5, 0, true, &body[..1000]);
    let second = fragment(UDP, 5, 1000, false, &body[1000..]);
    let overlapping = [
        fragment(UDP, 5, 992, true, &body[992..1008]),
        fragment(UDP, 5, 0, true, &body[..8]),
        fragment(UDP, 5, 0, true, &[0; 1000]),
        fragment(UDP, 5, 8, false, &body[8..992]),
    ];
    for (index, third) in overlapping.into_iter().enumerate() {
        let mut world = World::new(config(false));
        for packet in [&first, &third, &second, &first, &second] {
            world.handle(packet.clone());
        }
        assert_eq!(world.sink.udp.len(), 0, "case {index}");
        assert_eq!(world.net.counters().fragment_overlap, 1, "case {index}");
        // The id may be used again when that is forgotten.
        world.pass(Duration::from_secs(9));
        world.handle(first.clone());
        world.handle(second.clone());
        assert_eq!(world.sink.udp.len(), 1, "case {index}");
    }
    // Two different ends.
    let mut world = World::new(config(false));
    world.handle(second.clone());
    world.handle(fragment(UDP, 5, 3000, false, &[0; 16]));
    world.handle(first);
    assert_eq!(world.net.counters().fragment_overlap, 1);
    assert_eq!(world.sink.udp.len(), 0);
}

#[test]
fn missing_fragments_time_out_and_reassembly_is_bounded() {
    // S4
    let mut world = World::new(config(false));
    world.handle(fragment(UDP, 1, 0, true, &[0; 8]));
    let (deadline, why) = world.net.deadline().unwrap();
    assert_eq!(
        (deadline, why),
        (world.now + Duration::from_secs(8), "fragments")
    );
    world.pass(Duration::from_secs(8));
    assert_eq!(world.net.counters().fragment_timeout, 1);
    assert_eq!(world.net.deadline(), None);

    // Too many datagrams: the oldest go, a fresh one still passes.
    for id in 0..1000 {
        world.handle(fragment(UDP, id, 8, true, &[0; 1200]));
    }
    assert_eq!(world.net.counters().fragment_no_room, 1000 - 64);
    // Too many bytes.
    for id in 0..64 {
        for index in 0..50 {
            world.handle(fragment(
                UDP,
                10_000 + id,
                8 + index * 1200,
                true,
                &[0; 1200],
            ));
        }
    }
    assert!(world.net.counters().fragment_no_room > 1000);
    // Too many pieces.
    let before = world.net.counters().fragment_no_room;
    for index in 0..129 {
        world.handle(fragment(UDP, 20_000, 8 + index * 8, true, &[0; 8]));
    }
    assert!(world.net.counters().fragment_no_room > before);
    for packet in cut(&udp(&[1; 4000]), 1232, 99_999) {
        world.handle(packet);
    }
    assert_eq!(world.sink.udp.len(), 1);
    world.pass(Duration::from_secs(8));
    assert_eq!(world.net.deadline(), None);
}

#[test]
fn a_lone_fragment_is_a_packet() {
    // RFC 6946
    let mut world = World::new(config(false));
    let whole = udp(b"atomic");
    world.handle(fragment(UDP, 5, 0, false, &whole[40..]));
    assert_eq!(world.sink.udp[0].2, b"atomic");
}

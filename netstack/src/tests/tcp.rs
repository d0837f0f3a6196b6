//! TCP: opening, closing, and all that can go wrong, with smoltcp as the kernel.

mod ending;
mod opening;

use std::net::SocketAddrV6;
use std::time::Duration;

use smoltcp::socket::tcp::{RecvError, State};

use super::world::*;
use crate::*;

fn both(test: impl Fn(World)) {
    for offload in [false, true] {
        test(World::new(config(offload)));
    }
}

fn peer(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(PEER, port, 0, 0)
}

fn program(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(MACHINE, port, 0, 0)
}

#[test]
fn idle_and_stalled_flows_live_on() {
    // N6, N7: no keep-alive, no idle limit; a program or a peer that does not read is not a dead one.
    both(|mut world| {
        let (idle, idle_flow) = world.open(50_000);
        let (stalled, stalled_flow) = world.open(50_001);
        let (deaf, deaf_flow) = world.open(50_002);
        world.net.tcp_send(world.now, deaf_flow, &[2; 100_000]);
        let sent = world.kernel(stalled).send_slice(&[1; 100_000]).unwrap();
        world.pass(Duration::from_millis(2));
        world.kernel(stalled).send_slice(&[1; 100_000]).unwrap();
        world.pass(Duration::from_secs(3600));
        world.take_events();
        for handle in [idle, stalled, deaf] {
            assert_eq!(world.kernel(handle).state(), State::Established);
        }
        let mut total = 0;
        while total < 32 * 1024 {
            let read = world.read_all(stalled_flow).len();
            assert!(read > 0 && sent > 0);
            total += read;
        }
        assert_eq!(world.net.tcp_send(world.now, idle_flow, b"still there"), 11);
        world.run();
        assert_eq!(world.kernel(idle).recv_queue(), 11);
    });
}

#[test]
fn a_window_that_is_full_stops_the_program_and_opens_again() {
    // N7
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        let mut sent = 0;
        for _ in 0..20 {
            sent += world.kernel(handle).send_slice(&[3; 16 * 1024]).unwrap();
            world.run();
        }
        assert!(
            sent <= 32 * 1024 + 16 * 1024,
            "32 KiB here and 16 KiB there, not {sent}"
        );
        assert_eq!(
            world.take_events(),
            [Event::TcpReadable { flow }],
            "told once"
        );
        let mut read = 0;
        while read < sent {
            let got = world.read_all(flow).len();
            assert!(got > 0, "stuck at {read} of {sent}");
            read += got;
        }

        // And towards the program.
        let mut given = 0;
        loop {
            let taken = world.net.tcp_send(world.now, flow, &[4; 10_000]);
            given += taken;
            world.run();
            if taken < 10_000 && world.net.tcp_send_capacity(flow) == 0 {
                break;
            }
        }
        world.take_events();
        let mut bytes = vec![0; 64 * 1024];
        let mut got = world.kernel(handle).recv_slice(&mut bytes).unwrap();
        world.run();
        assert_eq!(
            world.take_events(),
            [Event::TcpWritable { flow }],
            "told once"
        );
        while got < given {
            let more = world.kernel(handle).recv_slice(&mut bytes).unwrap();
            assert!(more > 0, "stuck at {got} of {given}");
            got += more;
            world.run();
        }
    });
}

#[test]
fn small_writes_leave_at_once_and_their_ack_rides_or_comes_within_a_millisecond() {
    // N10
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        let mut out = Vec::new();
        for _ in 0..3 {
            world.net.tcp_send(world.now, flow, b"x");
            assert!(
                world.net.poll_packet(world.now, &mut out).is_some(),
                "nothing waits for an ACK"
            );
            assert_eq!(out.len(), 61);
        }
        for answer in [true, false] {
            world.pass(Duration::from_secs(2));
            world.kernel(handle).send_slice(b"y").unwrap();
            let before = world.segments_seen;
            world.run();
            assert_eq!(world.segments_seen, before, "an answer may be on its way");
            if answer {
                world.net.tcp_send(world.now, flow, b"z");
                world.run();
                assert_eq!(world.segments_seen, before + 1, "the ACK rides on it");
            }
            world.pass(Duration::from_millis(1));
            assert_eq!(world.segments_seen, before + 1, "one ACK in time");
            assert_eq!(world.read_all(flow), b"y");
            world.take_events();
            if answer {
                let woken = world.net.deadline().map(|(at, _)| at - world.now);
                assert!(woken.is_none_or(|wait| wait > Duration::from_millis(5)));
            }
        }
    });
}

#[test]
fn urgent_data_is_delivered_inline() {
    // N15
    let mut world = World::new(config(false));
    let (_, flow) = world.open(50_000);
    let mut found = None;
    world.net.handle_packet(
        world.now,
        Offload::default(),
        &mut segment(50_001, 9, |tcp| tcp.syn = true, b""),
        &mut world.sink,
    );
    while let Some(event) = world.net.poll_event() {
        if let Event::TcpOpen { flow, .. } = event {
            found = Some(flow);
        }
    }
    let urgent = found.unwrap();
    assert_ne!(urgent, flow);
    world.net.tcp_accept(world.now, urgent);
    let mut out = Vec::new();
    world.net.poll_packet(world.now, &mut out).unwrap();
    let theirs = etherparse::TcpHeaderSlice::from_slice(&out[40..])
        .unwrap()
        .sequence_number();
    let mut data = segment(
        50_001,
        10,
        |tcp| {
            tcp.ack = true;
            tcp.acknowledgment_number = theirs.wrapping_add(1);
            tcp.urg = true;
            tcp.urgent_pointer = 1;
        },
        b"ab",
    );
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut data, &mut world.sink);
    assert_eq!(world.read_all(urgent), b"ab");
}

#[test]
fn floods_of_syns_to_one_peer_leave_room_for_others() {
    // S23
    let mut world = World::new(config(true));
    for port in 0..1000 {
        let mut syn = segment(1000 + port, 1, |tcp| tcp.syn = true, b"");
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
    }
    assert_eq!(world.net.flows(), 64 / 8);
    assert_eq!(world.net.counters().tcp_no_room, 1000 - 8);
    let other = SocketAddrV6::new("fda0:cccc::1".parse().unwrap(), 80, 0, 0);
    world.connect(60_000, other);
    world.run();
    let opened = world
        .take_events()
        .into_iter()
        .any(|event| matches!(event, Event::TcpOpen { to, .. } if to == other));
    assert!(opened);
    world.pass(Duration::from_secs(61));
    assert_eq!(world.net.flows(), 0);
}

#[test]
fn the_table_has_a_bound() {
    // S23
    let mut world = World::new(Config {
        max_flows: 16,
        ..config(true)
    });
    let mut connected = 0;
    for port in 0..20 {
        connected += usize::from(
            world
                .net
                .tcp_connect(world.now, peer(1000 + port), program(22))
                .is_some(),
        );
    }
    assert_eq!(connected, 16);
    world.connect(60_000, peer(80));
    world.net.handle_timeout(world.now);
    let mut syn = segment(60_000, 1, |tcp| tcp.syn = true, b"");
    world
        .net
        .handle_packet(world.now, Offload::default(), &mut syn, &mut world.sink);
    assert_eq!(world.net.flows(), 16);
    assert_eq!(world.net.counters().tcp_no_room, 1);
}

#[test]
fn bulk_goes_in_super_packets_where_they_are_understood() {
    // N17
    both(|mut world| {
        let offload = world.wire_offload();
        let (handle, flow) = world.open(50_000);
        world.net.tcp_send(world.now, flow, &[9; 15_000]);
        world.run();
        assert_eq!(world.kernel(handle).recv_queue(), 15_000);
        assert_eq!(world.super_packets_seen > 0, offload);
    });
}

#[test]
fn ten_thousand_idle_flows_cost_nothing() {
    let mut world = World::new(Config {
        tcp_buffer: 4096,
        max_flows: 20_000,
        ..config(true)
    });
    let (handle, flow) = world.open(50_000);
    // Peers' connections to a listening program, answered by hand: ten thousand kernel sockets would be slow to scan.
    let mut out = Vec::new();
    for index in 0..10_000u32 {
        let from = SocketAddrV6::new(PEER, 1000 + index as u16, 0, 0);
        world.net.tcp_connect(world.now, from, program(22)).unwrap();
        world.net.poll_packet(world.now, &mut out).unwrap();
        let syn = etherparse::TcpHeaderSlice::from_slice(&out[40..])
            .unwrap()
            .to_header();
        let mut answer = segment_to(
            22,
            from.port(),
            7,
            |tcp| {
                tcp.syn = true;
                tcp.ack = true;
                tcp.acknowledgment_number = syn.sequence_number.wrapping_add(1);
            },
            b"",
        );
        world
            .net
            .handle_packet(world.now, Offload::default(), &mut answer, &mut world.sink);
        while world.net.poll_packet(world.now, &mut out).is_some() {}
    }
    while world.net.poll_event().is_some() {}
    assert_eq!(world.net.flows(), 10_001);
    // Timers of the opening have run out.
    world.pass(Duration::from_secs(5));
    assert_eq!(world.net.deadline(), None, "idle flows have no timers");

    let before = world.net.counters().flow_polls;
    for _ in 0..100 {
        world.kernel(handle).send_slice(b"ping").unwrap();
        world.run();
        assert_eq!(world.read_all(flow).len(), 4);
    }
    let polls = world.net.counters().flow_polls - before;
    assert!(
        polls <= 100 * 6,
        "only the busy flow is asked: {polls} times for 100 round trips"
    );
}

/// A segment from a program to the peer's port 80.
fn segment(
    port: u16,
    sequence: u32,
    change: impl FnOnce(&mut etherparse::TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    segment_to(port, 80, sequence, change, payload)
}

pub fn segment_to(
    from: u16,
    to: u16,
    sequence: u32,
    change: impl FnOnce(&mut etherparse::TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = etherparse::TcpHeader::new(from, to, sequence, 60_000);
    change(&mut tcp);
    tcp.checksum = tcp
        .calc_checksum_ipv6_raw(MACHINE.octets(), PEER.octets(), payload)
        .unwrap();
    let length = (tcp.header_len() + payload.len()) as u16;
    let mut packet = crate::packet::ipv6_header(MACHINE, PEER, 6, length).to_vec();
    packet.extend_from_slice(&tcp.to_bytes());
    packet.extend_from_slice(payload);
    packet
}

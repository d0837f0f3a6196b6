//! SYNs, replies, and what overtakes them; pings.
use super::super::incoming::MOST_EARLY;
use super::super::packet::NO_ACK;
use super::*;
use crate::vectors::hex;

#[test]
fn a_lost_syn_or_reply_is_sent_again_and_opens_one_stream() {
    for lost in 0..2 {
        let mut world = World::new(FAIR, 7);
        world.filter = if lost == 0 {
            |from, _| from == 0
        } else {
            |from, _| from == 1
        };
        let b = keys("B").destination().clone();
        let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
        world.run(Duration::from_secs(1));
        let early = world.events[1].iter().find_map(|e| match e {
            Event::Incoming { stream, .. } => Some(*stream),
            _ => None,
        });
        if let Some(id) = early {
            world.ends[1].accept(id, world.now).unwrap();
            world.run(Duration::from_secs(1));
        }
        world.filter = |_, _| false;
        world.run(Duration::from_secs(12));
        if lost == 0 {
            let id = world.incoming(MS);
            world.ends[1].accept(id, world.now).unwrap();
            world.run(Duration::from_secs(1));
        }
        assert!(world.events[0].contains(&Event::Connected(a)), "{lost}");
        assert_eq!((world.ends[0].len(), world.ends[1].len()), (1, 1));
    }
}

#[test]
fn data_written_before_the_reply_goes_along() {
    let mut world = World::new(FAIR, 3);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 9, 80, world.now).unwrap();
    let data = pattern(6000);
    assert_eq!(world.ends[0].write(a, &data, world.now), Ok(6000));
    let id = world.incoming(Duration::from_secs(1));
    world.run(Duration::from_secs(1));
    assert_eq!(
        world.read_all(1, id),
        data,
        "all came before the stream was accepted"
    );
    world.ends[1].accept(id, world.now).unwrap();
    assert_eq!(world.ends[1].info(id).unwrap().ports, (80, 9));
    world.run(Duration::from_secs(1));
    assert!(world.events[0].contains(&Event::Connected(a)));
}

#[test]
fn packets_ahead_of_their_syn_wait_for_it() {
    let mut world = World::new(FAIR, 3);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 9, 80, world.now).unwrap();
    world.ends[0].write(a, &pattern(5190), world.now).unwrap();
    let mut out = Vec::new();
    while let Some(message) = world.ends[0].poll_transmit(world.now) {
        out.push(message);
    }
    assert!(out.len() >= 3);
    assert_eq!((out[0].compress, out[0].nonce != 0), (true, true));
    for message in out.iter().rev() {
        world.ends[1].handle(message.ports, &message.data, world.now);
    }
    let id = world.incoming(MS);
    assert_eq!(world.read_all(1, id), pattern(5190));
    // those whose SYN never comes are forgotten
    let mut world = World::new(FAIR, 3);
    for message in out.iter().skip(1).cycle().take(100) {
        world.ends[1].handle(message.ports, &message.data, world.now);
    }
    assert_eq!(world.ends[1].counters().early, MOST_EARLY as u64);
    world.run(Duration::from_secs(11));
    assert_eq!(world.ends[1].counters().early_dropped, 100);
    assert!(world.ends[1].early.is_empty());
}

/// i2pd sends 1812 bytes whatever is announced.
#[test]
fn packets_beyond_the_announced_size_are_taken() {
    let mut world = World::new(FAIR, 3);
    let (_, b) = world.open();
    let connection = &world.ends[1].connections[&b.0];
    let (to_id, from_id) = (connection.local_id, connection.peer_id);
    let ports = Ports {
        protocol: 6,
        from: 5,
        to: 80,
    };
    for (sequence, length) in [(1, 1812), (2, 4096), (3, 4097)] {
        let payload = &pattern(length)[..];
        let packet = Packet {
            to_id,
            from_id,
            sequence,
            flags: NO_ACK,
            payload,
            ..Packet::default()
        };
        world.ends[1].handle(ports, &packet.write(&keys("A")), world.now);
    }
    assert_eq!(
        world.read_all(1, b),
        [pattern(1812), pattern(4096)].concat()
    );
}

#[test]
fn a_refused_stream_is_reset_and_an_ignored_one_times_out() {
    let mut world = World::new(FAIR, 4);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let id = world.incoming(Duration::from_secs(1));
    world.ends[1].refuse(id, world.now).unwrap();
    assert_eq!(world.ends[1].accept(id, world.now), Err(Error::NoStream));
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(0), [Event::Closed(a, Some(Failure::Reset))]);
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let id = world.incoming(Duration::from_secs(1));
    world.ends[1].ignore(id).unwrap();
    world.filter = |_, _| true;
    let took = world.run_until(Duration::from_secs(70), |w| !w.events[0].is_empty());
    assert_eq!(
        world.take(0),
        [Event::Closed(a, Some(Failure::ConnectTimedOut))]
    );
    assert!(took >= Duration::from_secs(59));
}

#[test]
fn a_stream_nobody_accepts_is_reset_and_the_backlog_is_bounded() {
    let mut world = World::new(FAIR, 5);
    let b = keys("B").destination().clone();
    let streams: Vec<StreamId> = (0..80)
        .map(|_| {
            world.run(60 * MS);
            world.ends[0].connect(&b, 0, 80, world.now).unwrap()
        })
        .collect();
    world.run(Duration::from_secs(1));
    assert_eq!(world.ends[1].len(), 64);
    world.run(Duration::from_secs(60));
    assert!(world.ends[1].is_empty());
    let closed = world.take(0);
    for stream in streams {
        assert!(closed.contains(&Event::Closed(stream, Some(Failure::Reset))));
    }
}

#[test]
fn status_21_fails_a_connect_at_once() {
    let mut world = World::new(FAIR, 6);
    let b = keys("B").destination().clone();
    let a = world.ends[0].connect(&b, 0, 80, world.now).unwrap();
    let syn = world.ends[0].poll_transmit(world.now).unwrap();
    assert_ne!(syn.nonce, 0);
    for (nonce, status) in [(syn.nonce ^ 1, 21), (syn.nonce, 1)] {
        world.ends[0].handle_status(nonce, MessageStatus(status), world.now);
        assert_eq!(world.ends[0].poll_event(), None);
    }
    world.ends[0].handle_status(syn.nonce, MessageStatus(21), world.now);
    let failure = Failure::Router(MessageStatus(21));
    assert_eq!(
        world.ends[0].poll_event(),
        Some(Event::Closed(a, Some(failure)))
    );
}

#[test]
fn pings_are_answered_or_time_out() {
    let mut world = World::new(FAIR, 16);
    let b = keys("B").destination().clone();
    let ping = world.ends[0].ping(&b, 1, 2, &[7; 40], world.now).unwrap();
    assert_eq!(world.ends[0].ping_target(ping), Some(b.hash()));
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(0), [Event::Pong(ping, Some(40 * MS))]);
    assert_eq!(world.ends[1].counters().pongs, 1);
    world.filter = |_, _| true;
    let ping = world.ends[0].ping(&b, 0, 0, b"", world.now).unwrap();
    world.run(Duration::from_secs(31));
    assert_eq!(world.take(0), [Event::Pong(ping, None)]);
}

#[test]
fn the_ping_of_the_vectors_is_answered_as_in_the_vectors() {
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 2,
    };
    streams.handle(ports, &hex("/streaming/ping"), start());
    let pong = streams.poll_transmit(start()).unwrap();
    assert_eq!(pong.data, hex("/streaming/pong"));
    assert_eq!((pong.ports.from, pong.ports.to), (2, 1));
}

#[test]
fn the_syn_of_the_vectors_opens_a_stream_at_its_receiver_only() {
    let now = start();
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 80,
    };
    let syn = hex("/streaming/syn_A_to_B/bytes");
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    streams.handle(ports, &syn, now);
    streams.handle(ports, &syn, now);
    let Some(Event::Incoming {
        stream,
        peer,
        local_port,
        remote_port,
    }) = streams.poll_event()
    else {
        panic!()
    };
    assert_eq!(
        (&peer, local_port, remote_port),
        (keys("A").destination(), 80, 1)
    );
    assert_eq!(streams.poll_event(), None);
    streams.accept(stream, now).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(streams.read(stream, &mut buffer, now), Ok(3));
    assert_eq!(&buffer[..3], b"GET");
    let reply = streams.poll_transmit(now).unwrap();
    let read = Packet::read(&reply.data, None).unwrap();
    assert!(read.has(SYN) && !read.has(NO_ACK) && read.nacks.is_empty());
    assert_eq!(
        (read.to_id, read.max_size, read.ack_through),
        (0x0102_0304, 1812, 0)
    );
    // somebody who gets it although it was for B must not answer
    let mut streams = Streams::new(keys("A"), Config::default(), [1; 32]);
    streams.handle(ports, &syn, now);
    assert_eq!(
        (streams.poll_event(), streams.counters().misdirected),
        (None, 1)
    );
}

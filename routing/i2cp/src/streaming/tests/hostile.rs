//! Peers that do as they like.
use super::super::packet::{FROM, NO_ACK, SIGNATURE};
use super::*;
use crate::vectors::hex;
use proptest::prelude::*;

// S37
#[test]
fn forged_closes_resets_and_strangers_change_nothing() {
    let mut world = World::new(FAIR, 17);
    let (a, b) = world.open();
    let ids = {
        let connection = &world.ends[1].connections[&b.0];
        (connection.local_id, connection.peer_id)
    };
    let b_keys = keys("B");
    let ports = Ports {
        protocol: 6,
        from: 5,
        to: 80,
    };
    let base = Packet {
        to_id: ids.0,
        from_id: ids.1,
        sequence: 1,
        ..Packet::default()
    };
    // signed by somebody else, or not at all, or with another id
    for flags in [
        CLOSE,
        RESET,
        CLOSE | SIGNATURE,
        RESET | SIGNATURE,
        RESET | SIGNATURE | FROM,
    ] {
        let packet = Packet {
            flags,
            ..base.clone()
        };
        world.ends[1].handle(ports, &packet.write(&b_keys), world.now);
    }
    let foreign = Packet {
        from_id: ids.1 ^ 1,
        payload: b"inserted",
        ..base.clone()
    };
    world.ends[1].handle(ports, &foreign.write(&b_keys), world.now);
    assert_eq!(world.ends[1].counters().forged, 6);
    // acknowledges what was never sent
    let early = Packet {
        sequence: 0,
        ack_through: 1000,
        ..base
    };
    world.ends[1].handle(ports, &early.write(&b_keys), world.now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.take(1), []);
    world.ends[0].write(a, b"unharmed", world.now).unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.read_all(1, b), b"unharmed");
}

// S37
#[test]
fn floods_of_syns_and_pings_are_limited_before_and_after_the_signature() {
    let now = start();
    let ports = Ports {
        protocol: 6,
        from: 1,
        to: 80,
    };
    let mut streams = Streams::new(keys("B"), Config::default(), [1; 32]);
    for id in 1..=300 {
        let nacks = packet::hash_as_nacks(&keys("B").destination().hash());
        let flags = SYN | SIGNATURE | FROM | NO_ACK;
        let syn = Packet {
            from_id: id,
            nacks,
            flags,
            ..Packet::default()
        };
        streams.handle(ports, &syn.write(&keys("A")), now);
    }
    assert_eq!(streams.len(), 20);
    assert_eq!(streams.counters().rate_limited, 280);
    let mut out = 0;
    for _ in 0..1000 {
        streams.handle(ports, &hex("/streaming/ping"), now);
    }
    while streams.poll_transmit(now).is_some() {
        out += 1;
    }
    assert_eq!(out, 0, "the budget of this second is spent");
    streams.handle(ports, &hex("/streaming/ping"), now + Duration::from_secs(2));
    assert!(streams.poll_transmit(now).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    // S37
    #[test]
    fn noise_in_an_open_stream_never_panics_and_never_grows(
        seed: u8, packets in proptest::collection::vec((any::<u32>(), any::<u32>(), 0u16..0x1000, proptest::collection::vec(any::<u8>(), 0..60), proptest::collection::vec(any::<u32>(), 0..9)), 1..60),
    ) {
        let mut world = World::new(FAIR, seed);
        let (_, b) = world.open();
        let ids = { let c = &world.ends[1].connections[&b.0]; (c.local_id, c.peer_id) };
        let ports = Ports { protocol: 6, from: 5, to: 80 };
        for (sequence, ack_through, flags, payload, nacks) in &packets {
            let packet = Packet {
                to_id: ids.0, from_id: ids.1, sequence: sequence % 300, ack_through: ack_through % 4, flags: flags & !packet::OFFLINE, nacks: nacks.clone(), payload, delay: 61_000,
                ..Packet::default()
            };
            // signed by A: everything a hostile peer can do to its own stream
            world.ends[1].handle(ports, &packet.write(&keys("A")), world.now);
            world.transmit();
        }
        world.run(Duration::from_secs(600));
        prop_assert!(world.ends[1].len() <= 1 + packets.len());
        prop_assert!(world.ends[1].loose.len() <= MOST_LOOSE);
    }
}

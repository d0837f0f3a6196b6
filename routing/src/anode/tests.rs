//! What nodes do to each other on a simulated underlay. The harness is `sim`.
use super::sim::*;
use super::*;
use crate::overlay::{OverlaySink, PathKind};
use anode_wire::message::kind;
use anode_wire::packet::FLAG_FULL_SENDER;
use anode_wire::{AddressId, Header, MacKey, Packet, Party};
use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

mod contact {
    use super::*;

    #[test]
    fn a_configured_peer_answers_a_ping_within_two_round_trips() {
        // A2, A51, A52, A53
        let mut sim = Sim::pair(1);
        let first = sim.ping(0, ipv6(2)).unwrap();
        assert_eq!(first, ms(40), "EPC_REQ, EPC, PING, PONG at 10 ms each");
        assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(20));
        assert_eq!(sim.used(0, 2), Some("udp://192.0.2.2:8737".into()));
        assert_eq!(sim.used(1, 1), Some("udp://192.0.2.1:8737".into()), "the other side has proven its way back");
        assert_eq!(sim.peer(0, 2).paths[0].kind, PathKind::Direct);
    }

    #[test]
    fn two_machines_on_a_lan_need_no_configuration() {
        // A55, D23
        let mut sim = Sim::new(2);
        sim.lan_host(1);
        sim.run(secs(10));
        // The late comer knows the early one by the answer to its first beacon, not by the 30 s rhythm.
        sim.lan_host(2);
        sim.run(ms(200));
        for index in 0..2 {
            assert_eq!(sim.hosts[index].node.peers().len(), 1, "host {index}");
            assert_eq!(sim.counters(index).paths_proven, 0, "nobody asks before traffic wants the peer");
        }
        assert_eq!(sim.ping(0, ipv6(2)).unwrap(), ms(40));
        assert_eq!(sim.ping(1, ipv6(1)).unwrap(), ms(20));
        assert_eq!(sim.peer(0, 2).sources, ["lan"]);
    }
}

mod streams {
    use super::*;
    use crate::overlay::StreamId;

    /// Bytes that are not periodic in anything a packet could hide.
    fn pattern(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn open(sim: &mut Sim, from: usize, number: u16, port: u16) -> StreamId {
        let now = sim.now;
        sim.hosts[from].node.open(now, 40_000, ipv6(number), port).unwrap()
    }

    fn transfer(sim: &mut Sim, len: usize, limit: Duration) -> Duration {
        let data = pattern(len);
        let stream = open(sim, 0, 2, 80);
        sim.hosts[0].program.to_write.insert(stream, (data.clone(), 0));
        let took = sim.until(limit, "the transfer", |sim| sim.has_event(1, |event| matches!(event, OverlayEvent::StreamFinished { .. })));
        let incoming = sim.hosts[1].program.accepted[0];
        assert!(sim.hosts[1].program.read[&incoming] == data, "every byte arrives once and in order");
        took
    }

    #[test]
    fn ten_megabytes_cross_a_link_that_loses_and_reorders() {
        // A60, A64, A65
        let mut sim = Sim::pair(3);
        sim.link = Link { delay: ms(10), jitter: ms(2), loss: 50, duplicate: 10 };
        let took = transfer(&mut sim, 10 << 20, secs(600));
        println!("10 MiB with 5 % loss, 1 % duplicates, 2 ms jitter, 20 ms RTT: {took:?}");
    }
}

//! TCP: opening, closing, and all that can go wrong, with smoltcp as the kernel.

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
fn connect_succeeds_only_after_the_peer_accepted() {
    // N1, N2, N11
    both(|mut world| {
        let handle = world.connect(50_000, peer(80));
        world.pass(Duration::from_secs(20));
        assert_eq!(world.kernel(handle).state(), State::SynSent);
        let events = world.take_events();
        let [Event::TcpOpen { flow, from, to }] = events[..] else {
            panic!("one flow however often the SYN comes, got {events:?}")
        };
        assert_eq!((from, to), (program(50_000), peer(80)));
        assert!(world.net.counters().tcp_duplicate_syn >= 3);
        assert_eq!(world.net.flows(), 1);
        world.net.tcp_accept(world.now, flow);
        world.run();
        assert_eq!(world.kernel(handle).state(), State::Established);
        assert_eq!(world.net.flows(), 1);
    });
}

#[test]
fn data_and_orderly_end_in_both_directions() {
    // N4, N5
    both(|mut world| {
        let (handle, flow) = world.open(50_000);
        world.kernel(handle).send_slice(b"question").unwrap();
        world.kernel(handle).close();
        world.run();
        assert_eq!(world.take_events(), [Event::TcpReadable { flow }]);
        assert_eq!(world.read_all(flow), b"question");
        assert_eq!(world.take_events(), [Event::TcpFinished { flow }]);

        // The other direction is still open.
        assert_eq!(world.net.tcp_send(world.now, flow, b"answer"), 6);
        world.net.tcp_finish(world.now, flow);
        world.run();
        let mut answer = [0; 20];
        assert_eq!(world.kernel(handle).recv_slice(&mut answer), Ok(6));
        assert_eq!(&answer[..6], b"answer");
        assert_eq!(
            world.kernel(handle).recv_slice(&mut answer),
            Err(RecvError::Finished)
        );
        assert_eq!(world.take_events(), [Event::TcpClosed { flow }]);
        assert_eq!(world.net.flows(), 0);
    });
}

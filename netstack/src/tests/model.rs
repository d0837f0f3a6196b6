//! Random schedules of data, FIN, RST, stalls and time against a model that knows only byte streams.

use std::net::SocketAddrV6;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};

use super::world::*;
use crate::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    ProgramSends(usize),
    ProgramReads(usize),
    ProgramFinishes,
    ProgramResets,
    PeerSends(usize),
    PeerReads(usize),
    PeerFinishes,
    PeerResets,
    /// Packets move.
    Run,
    /// Milliseconds.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..40_000).prop_map(Step::ProgramSends),
        4 => (1usize..40_000).prop_map(Step::ProgramReads),
        4 => (1usize..40_000).prop_map(Step::PeerSends),
        4 => (1usize..40_000).prop_map(Step::PeerReads),
        1 => Just(Step::ProgramFinishes),
        1 => Just(Step::PeerFinishes),
        6 => Just(Step::Run),
        2 => (0u64..3000).prop_map(Step::Pass),
    ]
}

/// Resets are rare enough that most schedules end in order.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Step::ProgramResets)),
        1 => Just(Some(Step::PeerResets)),
    ];
    (prop::collection::vec(step(), 1..60), end).prop_map(|(mut steps, end)| {
        steps.extend(end);
        steps
    })
}

/// One direction of a stream: the byte at `n` is a function of `n` and of the direction.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    salt: u64,
    sent: usize,
    received: usize,
    finished: bool,
    end_seen: bool,
}

impl Stream {
    fn new(salt: u64) -> Self {
        Self {
            salt,
            ..Self::default()
        }
    }

    fn byte(&self, at: usize) -> u8 {
        ((at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.salt)
            >> 29) as u8
    }

    fn next(&self, length: usize) -> Vec<u8> {
        (self.sent..self.sent + length)
            .map(|at| self.byte(at))
            .collect()
    }

    fn check(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            assert!(self.received < self.sent, "bytes that nobody sent");
            assert!(!self.end_seen, "bytes behind the end");
            assert_eq!(byte, self.byte(self.received), "at {}", self.received);
            self.received += 1;
        }
    }
}

/// How the netstack said that a flow is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gone {
    Closed,
    Reset,
}

struct Pair {
    handle: SocketHandle,
    flow: FlowId,
    /// From the program to the peer, and back.
    up: Stream,
    down: Stream,
    gone: Option<Gone>,
    reset_by_program: bool,
    reset_by_peer: bool,
}

impl Pair {
    fn reset(&self) -> bool {
        self.reset_by_program || self.reset_by_peer
    }

    fn take(&mut self, world: &mut World, step: Step) {
        match step {
            Step::ProgramSends(length) if !self.up.finished && !self.reset() => {
                let bytes = self.up.next(length);
                self.up.sent += world.kernel(self.handle).send_slice(&bytes).unwrap_or(0);
            }
            Step::ProgramReads(length) => self.program_reads(world, length),
            Step::ProgramFinishes if !self.reset() => {
                self.up.finished = true;
                world.kernel(self.handle).close();
            }
            Step::ProgramResets if !self.reset() => {
                self.reset_by_program = true;
                world.kernel(self.handle).abort();
            }
            Step::PeerSends(length) if !self.down.finished => {
                let bytes = self.down.next(length);
                self.down.sent += world.net.tcp_send(world.now, self.flow, &bytes);
            }
            Step::PeerReads(length) => self.peer_reads(world, length),
            Step::PeerFinishes if !self.reset() => {
                self.down.finished = true;
                world.net.tcp_finish(world.now, self.flow);
            }
            Step::PeerResets if !self.reset() => {
                self.reset_by_peer = true;
                world.net.tcp_reset(world.now, self.flow);
            }
            _ => {}
        }
    }

    fn program_reads(&mut self, world: &mut World, length: usize) {
        let mut bytes = vec![0; length];
        match world.kernel(self.handle).recv_slice(&mut bytes) {
            Ok(read) => self.down.check(&bytes[..read]),
            Err(RecvError::Finished) => {
                assert!(self.down.finished, "an end that nobody sent (N3)");
                assert_eq!(
                    self.down.received, self.down.sent,
                    "an end before the last byte (N5)"
                );
                self.down.end_seen = true;
            }
            Err(RecvError::InvalidState) => {}
        }
    }

    fn peer_reads(&mut self, world: &mut World, mut length: usize) {
        let up = &mut self.up;
        world.net.tcp_recv(world.now, self.flow, &mut |bytes| {
            let taken = bytes.len().min(length);
            length -= taken;
            up.check(&bytes[..taken]);
            taken
        });
    }

    fn told(&mut self, event: Event) {
        assert_eq!(self.gone, None, "{event:?} after the flow was gone");
        match event {
            Event::TcpFinished { .. } => {
                assert!(self.up.finished, "an end that nobody sent (N3)");
                assert_eq!(
                    self.up.received, self.up.sent,
                    "an end before the last byte (N5)"
                );
                assert!(!self.up.end_seen, "told twice");
                self.up.end_seen = true;
            }
            Event::TcpClosed { .. } => {
                assert!(self.up.end_seen && self.down.finished);
                self.gone = Some(Gone::Closed);
            }
            Event::TcpReset { .. } => {
                assert!(self.reset_by_program, "a reset that nobody sent");
                self.gone = Some(Gone::Reset);
            }
            Event::TcpReadable { .. } | Event::TcpWritable { .. } => {}
            other => panic!("{other:?} of an open flow"),
        }
    }
}

fn settle(world: &mut World, pairs: &mut [Pair]) {
    for event in world.take_events() {
        let flow = match event {
            Event::TcpOpen { flow, .. }
            | Event::TcpConnected { flow }
            | Event::TcpRefused { flow, .. }
            | Event::TcpReadable { flow }
            | Event::TcpWritable { flow }
            | Event::TcpFinished { flow }
            | Event::TcpReset { flow }
            | Event::TcpClosed { flow } => flow,
        };
        let pair = pairs
            .iter_mut()
            .find(|pair| pair.flow == flow)
            .expect("a flow of ours");
        pair.told(event);
    }
    // Unlike a kernel, smoltcp as one forgets unread bytes when TIME-WAIT is over.
    for pair in pairs {
        if world.kernel(pair.handle).state() == State::TimeWait {
            pair.program_reads(world, 100_000);
            pair.program_reads(world, 1);
        }
    }
}

/// Opens one flow in either direction.
fn open(world: &mut World, index: u16, by_peer: bool) -> Pair {
    let (handle, flow) = if by_peer {
        let handle = world.listen(2000 + index);
        let from = SocketAddrV6::new(PEER, 40_000 + index, 0, 0);
        let to = SocketAddrV6::new(MACHINE, 2000 + index, 0, 0);
        let flow = world.net.tcp_connect(world.now, from, to).expect("room");
        world.run();
        assert_eq!(world.take_events(), [Event::TcpConnected { flow }]);
        (handle, flow)
    } else {
        world.open(50_000 + index)
    };
    Pair {
        handle,
        flow,
        up: Stream::new((u64::from(index) * 2) << 40),
        down: Stream::new((u64::from(index) * 2 + 1) << 40),
        gone: None,
        reset_by_program: false,
        reset_by_peer: false,
    }
}

/// The same schedule twice, the second time with sockets that were used.
fn check(offload: bool, by_peer: Vec<bool>, schedule: Vec<(usize, Step)>) {
    let mut world = World::new(config(offload));
    for generation in 0..2 {
        check_once(&mut world, generation * 100, &by_peer, &schedule);
    }
}

fn check_once(world: &mut World, first_port: u16, by_peer: &[bool], schedule: &[(usize, Step)]) {
    let mut pairs: Vec<Pair> = by_peer
        .iter()
        .zip(first_port..)
        .map(|(&by_peer, index)| open(world, index, by_peer))
        .collect();
    for &(index, step) in schedule {
        match step {
            Step::Run => world.run(),
            Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
            _ => {
                let index = index % pairs.len();
                pairs[index].take(world, step);
            }
        }
        settle(world, &mut pairs);
    }
    // Everybody reads what is left and closes.
    for round in 0..200 {
        for pair in &mut pairs {
            pair.program_reads(world, 100_000);
            pair.peer_reads(world, usize::MAX);
            if round == 100 {
                pair.take(world, Step::ProgramFinishes);
                pair.take(world, Step::PeerFinishes);
            }
        }
        world.pass(Duration::from_millis(50));
        settle(world, &mut pairs);
    }
    // Kernel sockets in TIME-WAIT, and window probes, take their time. In steps shorter than TIME-WAIT: what a probe brings
    // has to be read before that is over, and to make room for what follows.
    for _ in 0..26 {
        world.pass(Duration::from_secs(5));
        for pair in &mut pairs {
            pair.program_reads(world, 100_000);
            pair.peer_reads(world, usize::MAX);
        }
        settle(world, &mut pairs);
    }
    for pair in &mut pairs {
        if pair.reset() {
            continue;
        }
        assert_eq!(pair.gone, Some(Gone::Closed));
        assert_eq!(
            (pair.up.received, pair.down.received),
            (pair.up.sent, pair.down.sent)
        );
        assert!(pair.up.end_seen && pair.down.end_seen);
    }
    for pair in &pairs {
        let state = world
            .sockets
            .get::<smoltcp::socket::tcp::Socket>(pair.handle)
            .state();
        assert_eq!(state, State::Closed);
        if pair.reset_by_program && !pair.reset_by_peer {
            // A RST that crosses the end of the flow finds nothing to reset.
            assert!(pair.gone.is_some(), "{:?} {:?}", pair.up, pair.down);
        }
    }
    assert_eq!(world.net.flows(), 0, "nothing is left");
    assert_eq!(world.net.counters().queue_full, 0);
    assert_eq!(world.net.counters().bad_checksum, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    // N3, N4, N5, N7, N12: what one side sends the other reads, once, in order, up to the end or the reset.
    #[test]
    fn every_byte_arrives_once_in_order_or_the_flow_is_reset(
        offload in any::<bool>(),
        by_peer in prop::collection::vec(any::<bool>(), 1..4),
        steps in steps(),
        indices in prop::collection::vec(0usize..4, 61),
    ) {
        check(offload, by_peer, indices.into_iter().zip(steps).collect());
    }
}

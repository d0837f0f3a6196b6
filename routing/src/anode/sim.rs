//! Nodes on a simulated underlay and virtual time. Everything follows from the seed.
mod config;
mod host;
mod nat;
mod turn;

use super::*;
use crate::overlay::{OverlaySink, StreamId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub use config::{
    DRAFT, address, draft, draft_knows, home, identity, ipv6, knows, lan_interface, quiet,
};
pub use host::{Host, Program};
pub use nat::{Kind, Nat, behind};
pub use turn::Turn;

/// What the underlay does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub delay: Duration,
    /// Added at random, so that packets overtake each other.
    pub jitter: Duration,
    /// In thousandths.
    pub loss: u32,
    /// In thousandths.
    pub duplicate: u32,
    /// Packets that can be are marked "congestion experienced", in thousandths.
    pub mark: u32,
    /// Larger packets are lost, in bytes.
    pub largest: usize,
    /// Bytes a second that each host can send, with a queue of 50 ms before them; 0: no limit.
    pub rate: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            mark: 0,
            largest: usize::from(INITIAL_PACKET),
            rate: 0,
        }
    }
}

/// A packet on its way, or recorded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flying {
    pub from: Place,
    pub to: Place,
    /// It may be marked instead of dropped (ECT(0)).
    pub ecn_capable: bool,
    pub bytes: Vec<u8>,
}

pub struct Sim {
    start: Instant,
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub link: Link,
    /// How far the wall clock is set back on machines that start.
    pub back: Duration,
    /// Nothing passes between these two.
    pub cut: Vec<(SocketAddr, SocketAddr)>,
    /// Nothing passes between these two, outside of NATs.
    pub outside_cut: Option<(IpAddr, IpAddr)>,
    pub nats: Vec<Nat>,
    /// A TURN server gives an allocation to whoever wants one; at most one at a time.
    pub turn: Option<Turn>,
    /// What happens to every packet on its way, outside of NATs: it may be changed, or lost (false).
    pub meddler: Option<fn(&mut Flying) -> bool>,
    /// Datagrams vanish; connections stand.
    pub no_datagrams: bool,
    /// Everything that was sent, if switched on.
    pub record: Option<Vec<(Instant, Flying)>>,
    wire: BinaryHeap<Reverse<(Instant, u64, Flying)>>,
    sequence: u64,
    rng: StdRng,
    batch: TransmitBatch,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            hosts: Vec::new(),
            link: Link::default(),
            back: Duration::ZERO,
            cut: Vec::new(),
            outside_cut: None,
            nats: Vec::new(),
            turn: None,
            meddler: None,
            no_datagrams: false,
            record: None,
            wire: BinaryHeap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            batch: TransmitBatch::new(64),
        }
    }

    /// Adds host `number` (its key, its place) without LAN; returns its index.
    pub fn host(&mut self, number: u16, config: NodeConfig) -> usize {
        self.host_at(home(number), number, config)
    }

    /// The same, elsewhere.
    pub fn host_at(&mut self, at: SocketAddr, number: u16, config: NodeConfig) -> usize {
        let is_relay = config.relay.is_some();
        let mut node = self.node(number, config);
        node.set_sockets(vec![SocketAddr::from(([0, 0, 0, 0], 8737))]);
        let mut extra = BTreeMap::new();
        if is_relay {
            node.set_second_sockets();
            extra.insert(SECOND_SOCKET, 8738);
        }
        let program = Program {
            accepts: true,
            ..Program::default()
        };
        self.hosts.push(Host {
            node,
            at,
            extra,
            second: None,
            over_second: BTreeSet::new(),
            next_port: 30_000,
            program,
            up: true,
            slept: Duration::ZERO,
            wakes: false,
            sent: (0, 0),
            woken: 0,
            rate: None,
            line_free: self.now,
        });
        self.hosts.len() - 1
    }

    pub fn node(&mut self, number: u16, config: NodeConfig) -> Node {
        Node::new(
            identity(number),
            config,
            std::array::from_fn(|_| -> Box<dyn rand_core::CryptoRng + Send> {
                Box::new(StdRng::seed_from_u64(self.rng.random()))
            }),
            self.clock(),
        )
    }

    /// Both clocks, the wall clock ahead by so much.
    pub fn clock_of(&self, ahead: Duration) -> Now {
        let mut now = self.clock();
        now.wall.0 += ahead.as_micros() as u64;
        now
    }

    /// Both clocks of a host that starts now.
    pub fn clock(&self) -> Now {
        let passed = (self.now - self.start).as_micros() as u64;
        Now {
            at: self.now,
            wall: Timestamp(1_700_000_000_000_000 + passed - self.back.as_micros() as u64),
        }
    }

    /// A host that announces itself on the one LAN there is.
    pub fn lan_host(&mut self, number: u16) -> usize {
        self.lan_host_with(number, Security::default())
    }

    pub fn lan_host_with(&mut self, number: u16, security: Security) -> usize {
        let config = NodeConfig {
            security,
            ..NodeConfig::default()
        };
        let index = self.host(number, config);
        let interface = lan_interface(home(number));
        let now = self.now;
        self.hosts[index].node.set_interfaces(now, vec![interface]);
        index
    }

    /// Hosts 1 and 2, the first with the second configured.
    pub fn pair(seed: u64) -> Self {
        let mut sim = Self::new(seed);
        sim.host(1, knows(&[2]));
        sim.host(2, quiet());
        sim
    }

    /// The same, speaking the draft.
    pub fn draft_pair(seed: u64) -> Self {
        let mut sim = Self::new(seed);
        sim.host(1, draft_knows(&[2]));
        sim.host(2, draft());
        sim
    }

    /// The machine of this host loses its memory and starts again.
    pub fn restart(&mut self, index: usize, number: u16, config: NodeConfig) {
        let mut node = self.node(number, config);
        node.set_sockets(vec![SocketAddr::from(([0, 0, 0, 0], 8737))]);
        self.hosts[index].node = node;
        self.hosts[index].up = true;
        self.hosts[index].program = Program {
            accepts: true,
            ..Program::default()
        };
    }

    /// Puts bytes on the wire as if `from` had sent them.
    pub fn inject(&mut self, from: impl Into<Place>, to: impl Into<Place>, bytes: Vec<u8>) {
        let packet = Flying {
            from: from.into(),
            to: to.into(),
            ecn_capable: false,
            bytes,
        };
        self.fly(packet, Duration::from_millis(1));
    }

    fn fly(&mut self, packet: Flying, delay: Duration) {
        self.sequence += 1;
        self.wire
            .push(Reverse((self.now + delay, self.sequence, packet)));
    }

    fn send(&mut self, mut packet: Flying) {
        if packet.bytes.len() > self.link.largest {
            return;
        }
        let inside = packet.from;
        if !self.nats.iter().all(|nat| nat.lets_out(&packet)) {
            return;
        }
        self.nats.iter_mut().for_each(|nat| nat.out(&mut packet));
        if let Some(record) = &mut self.record {
            record.push((self.now, packet.clone()));
        }
        let mut queued = Duration::ZERO;
        if self.link.rate > 0
            && let Some(host) = self
                .hosts
                .iter_mut()
                .find(|host| inside.address().is_some_and(|at| host.is_at(at.ip())))
        {
            let rate = host.rate.unwrap_or(self.link.rate);
            host.line_free = host.line_free.max(self.now)
                + Duration::from_nanos(packet.bytes.len() as u64 * 1_000_000_000 / rate);
            queued = host.line_free - self.now;
            if queued > Duration::from_millis(50) {
                host.line_free = self.now + Duration::from_millis(50);
                return;
            }
        }
        let copies = 1 + u32::from(self.rng.random_range(0..1000) < self.link.duplicate);
        for _ in 0..copies {
            if self.rng.random_range(0..1000) < self.link.loss {
                continue;
            }
            let jitter = self.link.jitter.as_micros() as u64;
            let delay = queued
                + self.link.delay
                + Duration::from_micros(if jitter == 0 {
                    0
                } else {
                    self.rng.random_range(0..jitter)
                });
            self.fly(packet.clone(), delay);
        }
    }

    /// Lets every host send what it has, and tell its programs what happened.
    pub fn pump(&mut self) {
        let clocks = self.clock();
        for index in 0..self.hosts.len() {
            if self.hosts[index].up {
                self.hosts[index].look_at_clocks(clocks);
            }
            self.run_program(index);
            while self.hosts[index].up {
                let host = &mut self.hosts[index];
                let now = host.clock(self.now);
                host.obey_orders(now);
                if let Some(turn) = &mut self.turn {
                    while let Some(order) = host.node.poll_turn() {
                        host.node.turn_stands(now, turn.obey(index, order));
                    }
                }
                self.batch.clear(64);
                if !host.node.poll_transmit(now, &mut self.batch) {
                    break;
                }
                let to = self.batch.destination.to;
                let transport = to.transport();
                let mut at = host.at;
                let socket = self.batch.destination.socket;
                if transport == Transport::Udp && socket >= SECOND_SOCKET {
                    let Some(port) = host.extra.get(&socket) else {
                        continue;
                    };
                    at.set_port(*port);
                    if let Some((_, ip)) =
                        host.second.filter(|_| host.over_second.contains(&socket))
                    {
                        at.set_ip(ip);
                    }
                }
                let mut from = Place::over(transport, at).expect("hosts have IP alone");
                let mut to = to;
                if let Place::Turn(peer) = to {
                    let turn = self.turn.as_mut().filter(|turn| turn.client == Some(index));
                    let Some(turn) = turn else { continue };
                    turn.permitted.push(peer.ip());
                    (from, to) = (Turn::RELAYED.into(), peer.into());
                }
                let ecn_capable = self.batch.ecn == Ecn::Capable0;
                let packets: Vec<Vec<u8>> = self.batch.packets().map(<[u8]>::to_vec).collect();
                for bytes in packets {
                    self.hosts[index].sent.0 += 1;
                    self.hosts[index].sent.1 += bytes.len() as u64;
                    if to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
                        let neighbours: Vec<_> = self
                            .hosts
                            .iter()
                            .filter(|host| host.up)
                            .map(|host| Place::Udp(host.at))
                            .collect();
                        neighbours.into_iter().for_each(|to| {
                            self.send(Flying {
                                from,
                                to,
                                ecn_capable,
                                bytes: bytes.clone(),
                            })
                        });
                    } else {
                        self.send(Flying {
                            from,
                            to,
                            ecn_capable,
                            bytes,
                        });
                    }
                }
                self.run_program(index);
            }
        }
    }

    fn run_program(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let now = host.clock(self.now);
        let Host { node, program, .. } = host;
        while let Some(event) = node.poll_event() {
            match &event {
                OverlayEvent::StreamIncoming { stream, .. } if program.accepts => {
                    node.accept(now, *stream);
                    program.accepted.push(*stream);
                }
                OverlayEvent::StreamReadable { stream } => {
                    let buffer = program.read.entry(*stream).or_default();
                    node.read(now, *stream, &mut |bytes| {
                        buffer.extend_from_slice(bytes);
                        bytes.len()
                    });
                }
                _ => {}
            }
            program.events.push((self.now, event));
        }
        program.to_write.retain(|stream, (data, done)| {
            *done += node.write(now, *stream, &data[*done..]);
            if *done == data.len() {
                node.finish(now, *stream);
            }
            *done < data.len()
        });
    }

    /// The next thing that happens; false if nothing will before `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        self.pump();
        let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
        let timers = self
            .hosts
            .iter()
            .filter(|host| host.up)
            .filter_map(Host::deadline)
            .min();
        let Some(next) = [arrival, timers]
            .into_iter()
            .flatten()
            .min()
            .filter(|at| *at <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.wire.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, packet))) = self.wire.pop() else {
                break;
            };
            self.deliver(packet);
        }
        let clocks = self.clock();
        for host in self.hosts.iter_mut().filter(|host| host.up) {
            if host.deadline().is_some_and(|at| at <= self.now) {
                host.look_at_clocks(clocks);
                host.woken += 1;
                host.node.handle_timeout(host.clock(self.now));
            }
        }
        self.pump();
        true
    }

    fn deliver(&mut self, mut packet: Flying) {
        let ends = [packet.from.ip(), packet.to.ip()];
        if self
            .outside_cut
            .is_some_and(|(a, b)| ends == [a, b] || ends == [b, a])
        {
            return;
        }
        let meddled = self.meddler.is_none_or(|meddle| meddle(&mut packet));
        if !meddled || !self.nats.iter().all(|nat| nat.back(&mut packet)) {
            return;
        }
        let Flying {
            from,
            to,
            ecn_capable,
            mut bytes,
        } = packet;
        let (Some(near), Some(far)) = (from.address(), to.address()) else {
            return;
        };
        if self.no_datagrams && matches!(to, Place::Udp(_)) {
            return;
        }
        let ends = (near, far);
        let marked = ecn_capable && self.rng.random_range(0..1000) < self.link.mark;
        if self
            .cut
            .iter()
            .any(|(a, b)| [(*a, *b), (*b, *a)].contains(&ends))
        {
            return;
        }
        let turn = self.turn.as_ref();
        let relayed = turn.filter(|_| to == Place::Udp(Turn::RELAYED));
        let relayed = relayed.filter(|turn| turn.permitted.contains(&near.ip()));
        let client = relayed.and_then(|turn| turn.client);
        let clocks = self.clock();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            if !host.up {
                continue;
            }
            let over_turn = client == Some(index);
            let socket = host.socket_at(&to).or(over_turn.then_some(0));
            let Some(socket) = socket else {
                continue;
            };
            let from = if over_turn { Place::Turn(near) } else { from };
            let received = Received {
                from,
                socket,
                local_ip: None,
                ecn: match (marked, ecn_capable) {
                    (true, _) => Ecn::Experienced,
                    (false, true) => Ecn::Capable0,
                    (false, false) => Ecn::NotCapable,
                },
                segment_size: bytes.len(),
                bytes: &mut bytes,
            };
            host.look_at_clocks(clocks);
            host.woken += 1;
            let now = host.clock(self.now);
            host.node.handle_datagram(now, received, &mut host.program);
        }
    }

    /// A machine sleeps for a time, in which the others go on.
    pub fn sleep(&mut self, index: usize, time: Duration) {
        self.hosts[index].up = false;
        self.run(time);
        let host = &mut self.hosts[index];
        host.up = true;
        host.slept += time;
        host.wakes = true;
    }

    /// Runs for a time.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until something is so, or panics after `limit`. Returns how long it took.
    pub fn until(
        &mut self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let (begin, until) = (self.now, self.now + limit);
        self.pump();
        while !done(self) {
            assert!(self.step(until), "{what} did not happen within {limit:?}");
        }
        self.now - begin
    }

    /// Pings and waits; the round trip as the program measures it.
    pub fn ping(&mut self, from: usize, to: Ipv6Addr) -> Result<Duration, Failure> {
        let token = self.rng.random();
        let begin = self.now;
        let now = self.hosts[from].clock(self.now);
        self.hosts[from].node.ping(now, to, token, b"hello")?;
        let until = self.now + Duration::from_secs(20);
        loop {
            self.pump();
            for (at, event) in &self.hosts[from].program.events {
                match event {
                    OverlayEvent::Pong {
                        token: answered, ..
                    } if *answered == token => return Ok(*at - begin),
                    OverlayEvent::PingFailed {
                        token: failed,
                        failure,
                    } if *failed == token => return Err(*failure),
                    _ => {}
                }
            }
            if !self.step(until) {
                return Err(Failure::TimedOut);
            }
        }
    }

    /// Bytes that a host's programs have read, of all streams.
    pub fn bytes_read(&self, index: usize) -> usize {
        let read = self.hosts[index].program.read.values();
        read.map(Vec::len).sum()
    }

    pub fn counters(&self, index: usize) -> Counters {
        self.hosts[index].node.counters()
    }

    pub fn has_event(&self, index: usize, wanted: impl Fn(&OverlayEvent) -> bool) -> bool {
        self.hosts[index]
            .program
            .events
            .iter()
            .any(|(_, event)| wanted(event))
    }

    /// The other end of a stream has written all that it will.
    pub fn has_finished(&self, index: usize) -> bool {
        self.has_event(index, |event| {
            matches!(event, OverlayEvent::StreamFinished { .. })
        })
    }

    /// What the program writes into a stream, as fast as it takes it, and ends it.
    pub fn write(&mut self, index: usize, stream: StreamId, data: Vec<u8>) {
        let program = &mut self.hosts[index].program;
        program.to_write.insert(stream, (data, 0));
    }

    pub fn peer(&self, index: usize, number: u16) -> PeerSnapshot {
        let ip = ipv6(number);
        self.hosts[index]
            .node
            .peers()
            .into_iter()
            .find(|peer| peer.ipv6 == ip)
            .unwrap()
    }

    /// The endpoint that is used towards a peer.
    pub fn used(&self, index: usize, number: u16) -> Option<String> {
        self.peer(index, number)
            .paths
            .into_iter()
            .find(|path| path.active)
            .map(|path| path.endpoint.to_string())
    }
}

//! The stack: its state and its calls.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use crate::fragment::Reassembly;
use crate::packet::{UDP_HEADER, protocol};
use crate::queue::OutQueue;
use crate::tcp::{Flows, Outside};
use crate::{Config, Counters, Event, FlowId, MIN_MTU, Offload, Sink, Unreachable, icmp};

/// The stack.
pub struct Netstack {
    pub(crate) config: Config,
    pub(crate) flows: Flows,
    pub(crate) reassembly: Reassembly,
    pub(crate) queue: OutQueue,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    pub(crate) limiter: icmp::Limiter,
    /// Identification of the next datagram that is cut.
    pub(crate) fragment_id: u32,
    /// Where packets for the queue are built.
    pub(crate) scratch: Vec<u8>,
}

impl Netstack {
    /// How long a program's SYN is kept while the peer is being found.
    pub const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

    /// Starts empty. `seed` feeds initial sequence numbers.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let config = config.clamped();
        Self {
            flows: Flows::new(&config, seed),
            reassembly: Reassembly::default(),
            queue: OutQueue::new(config.queue_bytes),
            events: VecDeque::new(),
            counters: Counters::default(),
            limiter: icmp::Limiter::new(),
            fragment_id: u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]),
            scratch: Vec::new(),
            config,
        }
    }

    /// A packet (or super-packet) of the operating system. `packet` may be changed.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        offload: Offload,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) {
        self.counters.from_os += 1;
        if let Err(reject) = self.sort(now, offload, packet, sink) {
            self.counters.count(reject);
            tracing::trace!(
                ?reject,
                length = packet.len(),
                "packet of the operating system dropped"
            );
        }
    }

    /// The next packet for the operating system, written into `out` (its content is replaced; up to 65,535 bytes with
    /// offload). `None`: nothing, and `out` holds nothing of use.
    pub fn poll_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Offload> {
        // Datagrams, errors and resets are small and overtake bulk.
        let offload = match self.queue.pop(out) {
            Some(offload) => Some(offload),
            None => {
                let (flows, mut outside) = self.parts();
                flows.poll_packet(now, out, &mut outside)
            }
        };
        self.counters.to_os += u64::from(offload.is_some());
        offload
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` wants to be called, and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let tcp = self.flows.deadline().map(|at| (at, "tcp"));
        let fragments = self.reassembly.deadline().map(|at| (at, "fragments"));
        tcp.into_iter().chain(fragments).min()
    }

    /// Timers. May leave packets and events.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembly.expire(now, &mut self.counters);
        let mut expired = Vec::new();
        let (flows, mut outside) = self.parts();
        flows.handle_timeout(now, &mut outside, |syn| expired.push(syn));
        // N2: before the program's kernel gives up by itself.
        for syn in expired {
            self.error(now, icmp::Error::Unreachable(Unreachable::Address), &syn);
        }
    }

    /// The table, and what it writes to besides.
    fn parts(&mut self) -> (&mut Flows, Outside<'_>) {
        let outside = Outside {
            queue: &mut self.queue,
            events: &mut self.events,
            counters: &mut self.counters,
        };
        (&mut self.flows, outside)
    }

    /// Lets the SYN-ACK go.
    pub fn tcp_accept(&mut self, now: Instant, flow: FlowId) {
        let (flows, mut outside) = self.parts();
        flows.accept(now, flow, &mut outside);
    }

    /// Answers the SYN with RST; the flow is gone.
    pub fn tcp_refuse(&mut self, _now: Instant, flow: FlowId) {
        let (flows, mut outside) = self.parts();
        flows.refuse_waiting(flow, &mut outside);
    }

    /// Answers the SYN with an ICMPv6 error; the flow is gone.
    pub fn tcp_unreachable(&mut self, now: Instant, flow: FlowId, why: Unreachable) {
        if let Some(syn) = self.flows.forget(flow) {
            self.error(now, icmp::Error::Unreachable(why), &syn);
        }
    }

    /// Forgets a flow that waits for its SYN-ACK without an answer (the kernel will try again or time out).
    pub fn tcp_forget(&mut self, flow: FlowId) {
        self.flows.forget(flow);
    }

    /// Connects to a program of this machine as `from` (the peer's synthetic address). `None`: too many flows, the tuple
    /// is in use, or an address or port is none to connect with.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        from: SocketAddrV6,
        to: SocketAddrV6,
    ) -> Option<FlowId> {
        let (flows, mut outside) = self.parts();
        flows.connect(now, from, to, &mut outside)
    }

    /// Offers received bytes to `sink`, which returns how many it took; returns the sum.
    pub fn tcp_recv(
        &mut self,
        _now: Instant,
        flow: FlowId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        let (flows, mut outside) = self.parts();
        flows.receive(flow, sink, &mut outside)
    }

    /// Takes bytes for the program; returns how many. Nothing before the connection stands.
    pub fn tcp_send(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> usize {
        self.flows.send(now, flow, data)
    }

    /// Room that `tcp_send` has now, in bytes.
    pub fn tcp_send_capacity(&self, flow: FlowId) -> usize {
        self.flows.send_room(flow)
    }

    /// FIN after what was sent.
    pub fn tcp_finish(&mut self, now: Instant, flow: FlowId) {
        self.flows.finish(now, flow);
    }

    /// RST; the flow is gone, and the RST leaves with `poll_packet`.
    pub fn tcp_reset(&mut self, _now: Instant, flow: FlowId) {
        let (flows, mut outside) = self.parts();
        flows.reset(flow, &mut outside);
    }

    /// A datagram for a program, up to 65,527 bytes; above the MTU it goes in fragments.
    pub fn udp_to_os(&mut self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8]) {
        let Ok(length) = u16::try_from(UDP_HEADER + payload.len()) else {
            self.counters.oversize += 1;
            return;
        };
        let [f1, f2] = from.port().to_be_bytes();
        let [t1, t2] = to.port().to_be_bytes();
        let [l1, l2] = length.to_be_bytes();
        let header = [f1, f2, t1, t2, l1, l2, 0, 0];
        self.send(*from.ip(), *to.ip(), protocol::UDP, &header, payload);
    }

    /// An echo reply for a program.
    pub fn echo_reply_to_os(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        id: u16,
        sequence: u16,
        payload: &[u8],
    ) {
        let header = icmp::echo_header(icmp::ECHO_REPLY, id, sequence);
        self.send(from, to, protocol::ICMPV6, &header, payload);
    }

    /// Another protocol's packet. ICMPv6 gets a new checksum: the addresses need not be those that the sender saw.
    pub fn other_to_os(&mut self, from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) {
        self.send(from, to, next_header, &[], payload);
    }

    /// An ICMPv6 error that quotes a packet of the operating system (rate limited, RFC 4443 §2.4 f).
    pub fn unreachable_to_os(&mut self, now: Instant, quote: &[u8], why: Unreachable) {
        self.error(now, icmp::Error::Unreachable(why), quote);
    }

    /// Packet too big with this MTU in bytes, 1,280 at least (N18).
    pub fn too_big_to_os(&mut self, now: Instant, quote: &[u8], mtu: u32) {
        self.error(now, icmp::Error::TooBig(mtu.max(u32::from(MIN_MTU))), quote);
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Live TCP flows, those that wait for their peer included.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}

//! IPv6 packets of the operating system ⇄ flows. Knows smoltcp and etherparse; knows no overlay and no OS. Sans-IO.
//!
//! ```text
//!   packets of the kernel, super-packets           packets for the kernel, super-packets
//!                │ handle_packet                                ▲ poll_packet
//!   ┌────────────▼─────────────────────────────────────────────┴───────────────┐
//!   │ packet    version, lengths, extension headers, source, checksum          │
//!   │    │                                                                     │
//!   │    ├─ fragment   reassembly, bounded; and cutting for the kernel         │
//!   │    ├─ tcp        four-tuple → flow; one smoltcp socket per flow,         │
//!   │    │    │        a queue of those with work, a heap of timers            │
//!   │    │    └─ device, segment, linger                                       │
//!   │    ├─ UDP, echo requests, other protocols ──► Sink                       │
//!   │    └─ icmp       errors about what cannot be carried ──► queue ──────────┤
//!   └────────────┬─────────────────────────────────────────────▲───────────────┘
//!                │ poll_event, Sink, tcp_recv                  │ tcp_*, udp_to_os, echo_reply_to_os, …
//!                ▼                                             │
//!             overlay                                       overlay
//! ```
//!
//! TCP ends here: the kernel's segments go into a smoltcp socket, its bytes come out of [`Netstack::tcp_recv`]. A
//! program's SYN is held back until its peer has answered, so that `connect()` tells the truth. Datagrams have no state
//! here: they pass through a [`Sink`] and come back through `*_to_os`.
//!
//! The caller's loop: `handle_packet` for what the interface has, then events until there are none, then `poll_packet`
//! until there are none, then sleep until [`Netstack::deadline`]. Calls that name a flow which is gone do nothing.
#![forbid(unsafe_code)]

mod config;
mod counters;
mod fragment;
mod icmp;
mod packet;
mod queue;
mod tcp;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

pub use config::{Config, MIN_MTU};
pub use counters::Counters;

use fragment::Reassembly;
use icmp::QUOTE_MAX;
use packet::{
    Drop, Header, ICMP_HEADER, IPV6_HEADER, UDP_HEADER, Upper, check_checksum, fill_checksum,
    ipv6_header, partial_checksum, protocol, strip_extensions, upper,
};
use queue::OutQueue;
use tcp::{Flows, Outside};

/// How a super-packet is to be cut, and what of its checksum is left to do (the virtio-net header without its encoding).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum holds only the pseudo-header sum: (start of the transport header, offset of the field in it).
    pub checksum: Option<(u16, u16)>,
    /// Segments of `size` payload bytes each behind `header_len` bytes of headers.
    pub segments: Option<Segments>,
}

/// See [`Offload`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// TCP over IPv6 or UDP.
    pub kind: SegmentKind,
    /// Payload bytes of each but the last.
    pub size: u16,
    /// Bytes of IP and transport header. From the kernel it is a hint, which may be too large.
    pub header_len: u16,
}

/// See [`Segments`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP over IPv6.
    Tcp6,
    /// UDP (USO).
    Udp,
}

/// A TCP flow of the operating system. Never reused while anything of it can still come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowId(pub u64);

/// What an ICMPv6 error says (RFC 4443; what programs see: `netstack.md` 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unreachable {
    /// 1/0
    NoRoute,
    /// 1/1
    Prohibited,
    /// 1/3
    Address,
    /// 1/4
    Port,
}

/// What the operating system wants. Payload-carrying kinds go through [`Sink`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A program connects: the SYN-ACK is held back until `tcp_accept`, `tcp_refuse` or `tcp_unreachable`.
    TcpOpen {
        /// The new flow.
        flow: FlowId,
        /// The program.
        from: SocketAddrV6,
        /// The peer.
        to: SocketAddrV6,
    },
    /// A `tcp_connect` of ours was accepted by a local program.
    TcpConnected {
        /// The flow.
        flow: FlowId,
    },
    /// A `tcp_connect` of ours was refused (RST) or timed out. The flow is gone.
    TcpRefused {
        /// The flow.
        flow: FlowId,
        /// Nobody answered within 20 s.
        timed_out: bool,
    },
    /// Bytes to read with `tcp_recv`. Comes once until `tcp_recv` is called; whoever then leaves bytes unread comes
    /// back for them without being told.
    TcpReadable {
        /// The flow.
        flow: FlowId,
    },
    /// A quarter of the buffer is free for `tcp_send` after it had taken less than offered. Comes once.
    TcpWritable {
        /// The flow.
        flow: FlowId,
    },
    /// The program closed its direction and everything was read.
    TcpFinished {
        /// The flow.
        flow: FlowId,
    },
    /// The program reset the connection, or gave up connecting. The flow is gone, and what was not read with it.
    TcpReset {
        /// The flow.
        flow: FlowId,
    },
    /// Both directions ended in order. The flow is gone.
    TcpClosed {
        /// The flow.
        flow: FlowId,
    },
}

/// Where packets with payload go while they are handled: no copy, no allocation.
pub trait Sink {
    /// A UDP datagram of a program. `quote` is the packet (up to 1,232 bytes) for `unreachable_to_os`.
    fn udp(&mut self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8], quote: &[u8]);
    /// An echo request of a program.
    fn echo(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        id: u16,
        sequence: u16,
        payload: &[u8],
        quote: &[u8],
    );
    /// Any other protocol (also ICMPv6 errors).
    fn other(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
        quote: &[u8],
    );
}

/// The stack.
pub struct Netstack {
    config: Config,
    flows: Flows,
    reassembly: Reassembly,
    queue: OutQueue,
    events: VecDeque<Event>,
    counters: Counters,
    limiter: icmp::Limiter,
    /// Identification of the next datagram that is cut.
    fragment_id: u32,
    /// Where packets for the queue are built.
    scratch: Vec<u8>,
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
        if let Err(drop) = self.sort(now, offload, packet, sink) {
            self.counters.count(drop);
            tracing::trace!(
                ?drop,
                length = packet.len(),
                "packet of the operating system dropped"
            );
        }
    }

    /// Whether the packet may come from this machine and go to an overlay, and then on.
    fn sort(
        &mut self,
        now: Instant,
        offload: Offload,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Drop> {
        let header = Header::parse(packet)?;
        let Header { from, to, .. } = header;
        // N23: the kernel sends these on its own as soon as the interface is up.
        if to.is_multicast()
            || to.is_unicast_link_local()
            || to.is_loopback()
            || to.is_unspecified()
        {
            return Err(Drop::NotForOverlay);
        }
        if !self.config.local.contains(&from) {
            return Err(Drop::ForeignSource);
        }
        if self.config.local.contains(&to) {
            return Err(Drop::ToOurselves);
        }
        if !self.config.magic_self.contains(&to) && !self.config.serves(to) {
            self.counters.no_route += 1;
            self.error(now, icmp::Error::Unreachable(Unreachable::NoRoute), packet);
            return Ok(());
        }
        match upper(packet, header.next_header)? {
            Upper::Whole { protocol, at } => {
                self.whole(now, &header, protocol, at, offload, packet, sink)
            }
            Upper::Fragment(fragment) => {
                if offload != Offload::default() {
                    return Err(Drop::Offload);
                }
                if fragment.offset == 0 && !fragment.more {
                    return self.reassembled(now, fragment::unwrap_atomic(packet, &fragment), sink);
                }
                let whole =
                    self.reassembly
                        .insert(now, &header, &fragment, packet, &mut self.counters)?;
                match whole {
                    Some(mut whole) => self.reassembled(now, &mut whole, sink),
                    None => Ok(()),
                }
            }
        }
    }

    /// A packet that came in fragments, as if it had not.
    fn reassembled(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Drop> {
        let header = Header::parse(packet)?;
        match upper(packet, header.next_header)? {
            Upper::Whole { protocol, at } => {
                self.whole(now, &header, protocol, at, Offload::default(), packet, sink)
            }
            // Fragments of fragments.
            Upper::Fragment(_) => Err(Drop::Fragment),
        }
    }

    /// A whole packet whose transport header starts at `at`.
    #[expect(clippy::too_many_arguments, reason = "what was read of one packet")]
    fn whole(
        &mut self,
        now: Instant,
        header: &Header,
        protocol: u8,
        at: usize,
        offload: Offload,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Drop> {
        let to_self = self.config.magic_self.contains(&header.to);
        // N22
        if header.hop_limit <= 1 && !to_self {
            self.counters.hop_limit += 1;
            self.error(now, icmp::Error::HopLimit, packet);
            return Ok(());
        }
        if let Some(segments) = offload.segments {
            let kind = match protocol {
                protocol::TCP => Some(SegmentKind::Tcp6),
                protocol::UDP => Some(SegmentKind::Udp),
                _ => None,
            };
            if kind != Some(segments.kind)
                || segments.size == 0
                || usize::from(segments.header_len) > packet.len()
            {
                return Err(Drop::Offload);
            }
        }
        check_checksum(packet, at, header, protocol, &offload)?;
        match protocol {
            protocol::TCP => {
                let packet = if at == IPV6_HEADER {
                    packet
                } else {
                    strip_extensions(packet, at, protocol)
                };
                let mut outside = Outside {
                    queue: &mut self.queue,
                    events: &mut self.events,
                    counters: &mut self.counters,
                };
                if to_self {
                    self.flows.refuse(header, packet, &mut outside)
                } else {
                    self.flows.ingress(now, header, packet, &mut outside)
                }
            }
            protocol::UDP if to_self => {
                self.error(now, icmp::Error::Unreachable(Unreachable::Port), packet);
                Ok(())
            }
            protocol::UDP => self.udp(header, at, offload.segments, packet, sink),
            protocol::ICMPV6 => self.icmp(header, at, to_self, packet, sink),
            _ if to_self => Err(Drop::NotForOverlay),
            _ => {
                self.counters.other_from_os += 1;
                sink.other(
                    header.from,
                    header.to,
                    protocol,
                    &packet[at..],
                    quote(packet),
                );
                Ok(())
            }
        }
    }

    /// A datagram, or several of one size behind one header.
    fn udp(
        &mut self,
        header: &Header,
        at: usize,
        segments: Option<Segments>,
        packet: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Drop> {
        let udp =
            etherparse::UdpHeaderSlice::from_slice(&packet[at..]).map_err(|_| Drop::Transport)?;
        if usize::from(udp.length()) != packet.len() - at || udp.destination_port() == 0 {
            return Err(Drop::Transport);
        }
        let from = SocketAddrV6::new(header.from, udp.source_port(), 0, 0);
        let to = SocketAddrV6::new(header.to, udp.destination_port(), 0, 0);
        let payload = &packet[at + UDP_HEADER..];
        // A datagram without payload is one all the same.
        let size = segments
            .map_or(payload.len(), |segments| usize::from(segments.size))
            .max(1);
        let (first, rest) = payload.split_at(size.min(payload.len()));
        for datagram in std::iter::once(first).chain(rest.chunks(size)) {
            self.counters.udp_from_os += 1;
            sink.udp(from, to, datagram, quote(packet));
        }
        Ok(())
    }

    fn icmp(
        &mut self,
        header: &Header,
        at: usize,
        to_self: bool,
        packet: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Drop> {
        let message = &packet[at..];
        let Some((&[kind, code, _, _, i1, i2, s1, s2], payload)) =
            message.split_first_chunk::<ICMP_HEADER>()
        else {
            return Err(Drop::Transport);
        };
        let (id, sequence) = (u16::from_be_bytes([i1, i2]), u16::from_be_bytes([s1, s2]));
        match (kind, code, to_self) {
            (icmp::ECHO_REQUEST, 0, true) => {
                self.counters.echo_self += 1;
                self.echo_reply_to_os(header.to, header.from, id, sequence, payload);
            }
            (icmp::ECHO_REQUEST, 0, false) => {
                self.counters.echo_from_os += 1;
                sink.echo(header.from, header.to, id, sequence, payload, quote(packet));
            }
            (_, _, true) => return Err(Drop::NotForOverlay),
            (_, _, false) => {
                self.counters.other_from_os += 1;
                sink.other(
                    header.from,
                    header.to,
                    protocol::ICMPV6,
                    message,
                    quote(packet),
                );
            }
        }
        Ok(())
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

    /// Builds a packet, or its fragments, and queues it.
    fn send(&mut self, from: Ipv6Addr, to: Ipv6Addr, protocol: u8, header: &[u8], payload: &[u8]) {
        let Ok(length) = u16::try_from(header.len() + payload.len()) else {
            self.counters.oversize += 1;
            return;
        };
        let packet = &mut self.scratch;
        packet.clear();
        packet.extend_from_slice(&ipv6_header(from, to, protocol, length));
        packet.extend_from_slice(header);
        packet.extend_from_slice(payload);
        let fits = packet.len() <= usize::from(self.config.mtu);
        let mut offload = Offload::default();
        if protocol == protocol::UDP && self.config.offload && fits {
            offload.checksum = partial_checksum(packet, IPV6_HEADER, from, to, protocol);
        } else if matches!(protocol, protocol::UDP | protocol::ICMPV6) {
            fill_checksum(packet, IPV6_HEADER, from, to, protocol);
        }
        let queued = if fits {
            self.queue.push(&[packet], offload)
        } else {
            self.counters.fragmented += 1;
            self.fragment_id = self.fragment_id.wrapping_add(1);
            let (mtu, id) = (self.config.mtu, self.fragment_id);
            fragment::push_fragments(
                &mut self.queue,
                from,
                to,
                protocol,
                &packet[IPV6_HEADER..],
                mtu,
                id,
            )
        };
        self.counters.queue_full += u64::from(!queued);
    }

    /// An ICMPv6 error that quotes a packet of the operating system (rate limited, RFC 4443 §2.4 f).
    pub fn unreachable_to_os(&mut self, now: Instant, quote: &[u8], why: Unreachable) {
        self.error(now, icmp::Error::Unreachable(why), quote);
    }

    /// Packet too big with this MTU in bytes, 1,280 at least (N18).
    pub fn too_big_to_os(&mut self, now: Instant, quote: &[u8], mtu: u32) {
        self.error(now, icmp::Error::TooBig(mtu.max(u32::from(MIN_MTU))), quote);
    }

    /// Queues an error about `packet`, if it may be sent.
    fn error(&mut self, now: Instant, error: icmp::Error, packet: &[u8]) {
        let quoted = icmp::quoted(packet).filter(|quoted| self.config.local.contains(&quoted.from));
        let (Some(quoted), Some(&own)) = (quoted, self.config.local.first()) else {
            self.counters.errors_forbidden += 1;
            return;
        };
        let repeated = error == icmp::Error::Unreachable(Unreachable::Address)
            && quoted.echo
            && !self.limiter.allow_destination(now, quoted.to);
        if repeated || !self.limiter.allow(now) {
            self.counters.errors_limited += 1;
            return;
        }
        // A closed port is the destination's word; everything else is ours (N21, N22).
        let source = match error {
            icmp::Error::Unreachable(Unreachable::Port) => quoted.to,
            _ => own,
        };
        icmp::write_error(&mut self.scratch, source, quoted.from, error, packet);
        if self.queue.push(&[&self.scratch], Offload::default()) {
            self.counters.errors_sent += 1;
        } else {
            self.counters.queue_full += 1;
        }
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

/// As much of a packet as an error about it may quote.
fn quote(packet: &[u8]) -> &[u8] {
    &packet[..packet.len().min(QUOTE_MAX)]
}

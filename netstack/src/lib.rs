//! IPv6 packets of the operating system ⇄ flows. Knows smoltcp and etherparse; knows no overlay and no OS. Sans-IO.
#![forbid(unsafe_code)]
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

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
    /// Bytes of IP and transport header.
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

/// Tunables.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interface's MTU in bytes.
    pub mtu: u16,
    /// The interface takes and gives super-packets and partial checksums.
    pub offload: bool,
    /// Addresses of this machine on the interface; packets from others are dropped and counted.
    pub local: Vec<Ipv6Addr>,
    /// Destinations that belong to overlays: (prefix, length). Others are answered "no route".
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// Bytes of each of the two smoltcp buffers of a TCP flow.
    pub tcp_buffer: usize,
    /// TCP flows at most.
    pub max_flows: usize,
}
impl Default for Config { fn default() -> Self { todo!() } }

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
    TcpOpen { flow: FlowId, from: SocketAddrV6, to: SocketAddrV6 },
    /// A `tcp_connect` of ours was accepted by a local program.
    TcpConnected { flow: FlowId },
    /// A `tcp_connect` of ours was refused (RST) or timed out. The flow is gone.
    TcpRefused { flow: FlowId, timed_out: bool },
    /// Bytes to read with `tcp_recv` (edge).
    TcpReadable { flow: FlowId },
    /// Room for `tcp_send` again after it had taken less than offered (edge).
    TcpWritable { flow: FlowId },
    /// The program closed its direction and everything was read.
    TcpFinished { flow: FlowId },
    /// The program reset the connection, or gave up connecting. The flow is gone.
    TcpReset { flow: FlowId },
    /// Both directions ended in order. The flow is gone.
    TcpClosed { flow: FlowId },
}

/// Where packets with payload go while they are handled: no copy, no allocation.
pub trait Sink {
    /// A UDP datagram of a program. `quote` is the packet (up to 1,232 bytes) for `unreachable_to_os`.
    fn udp(&mut self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8], quote: &[u8]);
    /// An echo request of a program.
    fn echo(&mut self, from: Ipv6Addr, to: Ipv6Addr, id: u16, sequence: u16, payload: &[u8], quote: &[u8]);
    /// Any other protocol (also ICMPv6 errors).
    fn other(&mut self, from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8], quote: &[u8]);
}

/// Everything that was counted; names are the fields'.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Packets from the operating system.
    pub from_os: u64,
    /// Packets to it.
    pub to_os: u64,
}

/// The stack.
pub struct Netstack {}
impl Netstack {
    /// Starts empty. `seed` feeds initial sequence numbers.
    pub fn new(_config: Config, _seed: [u8; 32]) -> Self { todo!() }
    /// A packet (or super-packet) of the operating system.
    pub fn handle_packet(&mut self, _now: Instant, _offload: Offload, _packet: &mut [u8], _sink: &mut dyn Sink) { todo!() }
    /// The next packet for the operating system, written into `out` (cleared first; up to 65,535 bytes with offload). `None`: nothing.
    pub fn poll_packet(&mut self, _now: Instant, _out: &mut Vec<u8>) -> Option<Offload> { todo!() }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> { todo!() }
    /// When `handle_timeout` wants to be called, and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> { todo!() }
    /// Timers.
    pub fn handle_timeout(&mut self, _now: Instant) { todo!() }

    /// Lets the SYN-ACK go.
    pub fn tcp_accept(&mut self, _now: Instant, _flow: FlowId) { todo!() }
    /// Answers the SYN with RST; the flow is gone.
    pub fn tcp_refuse(&mut self, _now: Instant, _flow: FlowId) { todo!() }
    /// Answers the SYN with an ICMPv6 error from `source`; the flow is gone.
    pub fn tcp_unreachable(&mut self, _now: Instant, _flow: FlowId, _why: Unreachable) { todo!() }
    /// Forgets a flow that waits for its SYN-ACK without an answer (the kernel will try again or time out).
    pub fn tcp_forget(&mut self, _flow: FlowId) { todo!() }
    /// Connects to a program of this machine as `from` (the peer's synthetic address). `None`: too many flows or the tuple is in use.
    pub fn tcp_connect(&mut self, _now: Instant, _from: SocketAddrV6, _to: SocketAddrV6) -> Option<FlowId> { todo!() }
    /// Offers received bytes to `sink`, which returns how many it took; returns the sum.
    pub fn tcp_recv(&mut self, _now: Instant, _flow: FlowId, _sink: &mut dyn FnMut(&[u8]) -> usize) -> usize { todo!() }
    /// Takes bytes for the program; returns how many.
    pub fn tcp_send(&mut self, _now: Instant, _flow: FlowId, _data: &[u8]) -> usize { todo!() }
    /// Room that `tcp_send` has now.
    pub fn tcp_send_capacity(&self, _flow: FlowId) -> usize { todo!() }
    /// FIN after what was sent.
    pub fn tcp_finish(&mut self, _now: Instant, _flow: FlowId) { todo!() }
    /// RST; the flow is gone once it has left.
    pub fn tcp_reset(&mut self, _now: Instant, _flow: FlowId) { todo!() }

    /// A datagram for a program.
    pub fn udp_to_os(&mut self, _from: SocketAddrV6, _to: SocketAddrV6, _payload: &[u8]) { todo!() }
    /// An echo reply for a program.
    pub fn echo_reply_to_os(&mut self, _from: Ipv6Addr, _to: Ipv6Addr, _id: u16, _sequence: u16, _payload: &[u8]) { todo!() }
    /// Another protocol's packet.
    pub fn other_to_os(&mut self, _from: Ipv6Addr, _to: Ipv6Addr, _next_header: u8, _payload: &[u8]) { todo!() }
    /// An ICMPv6 error that quotes a packet of the operating system (rate limited, RFC 4443 §2.4 f).
    pub fn unreachable_to_os(&mut self, _now: Instant, _quote: &[u8], _why: Unreachable) { todo!() }
    /// Packet too big with this MTU.
    pub fn too_big_to_os(&mut self, _now: Instant, _quote: &[u8], _mtu: u32) { todo!() }
    /// What was counted.
    pub fn counters(&self) -> Counters { todo!() }
    /// Live TCP flows.
    pub fn flows(&self) -> usize { todo!() }
    /// How long a program's SYN is kept while the peer is being found.
    pub const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
}

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
mod egress;
mod fragment;
mod icmp;
mod ingress;
mod packet;
mod queue;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::{Ipv6Addr, SocketAddrV6};

pub use config::{Config, MIN_MTU};
pub use counters::Counters;
pub use icmp::prohibited;
pub use stack::Netstack;

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

//! TCP headers outside of smoltcp: what the flow table must know of a segment, and the answers for unknown flows.

use std::net::{Ipv6Addr, SocketAddrV6};

use etherparse::{TcpHeader, TcpHeaderSlice, TcpOptionElement};

use crate::packet::{
    Drop, Header, IPV6_HEADER, TCP_HEADER, fill_checksum, ipv6_header, protocol, set_payload_length,
};

/// Both ends of a flow, the machine's first, whoever opened it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tuple {
    pub program: (Ipv6Addr, u16),
    pub peer: (Ipv6Addr, u16),
}

impl Tuple {
    pub fn program(&self) -> SocketAddrV6 {
        SocketAddrV6::new(self.program.0, self.program.1, 0, 0)
    }

    pub fn peer(&self) -> SocketAddrV6 {
        SocketAddrV6::new(self.peer.0, self.peer.1, 0, 0)
    }
}

/// A segment of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub tuple: Tuple,
    pub sequence: u32,
    acknowledgement: u32,
    pub syn: bool,
    pub ack: bool,
    pub rst: bool,
    fin: bool,
    /// Bytes of the TCP header.
    pub header_len: usize,
    payload_len: usize,
    /// Maximum segment size; only read from SYN and SYN-ACK.
    pub mss: Option<u16>,
}

impl Segment {
    /// Reads a fixed header directly followed by TCP.
    pub fn parse(header: &Header, packet: &[u8]) -> Result<Self, Drop> {
        let tcp =
            TcpHeaderSlice::from_slice(&packet[IPV6_HEADER..]).map_err(|_| Drop::Transport)?;
        let (syn, ack, rst, fin) = (tcp.syn(), tcp.ack(), tcp.rst(), tcp.fin());
        if tcp.source_port() == 0
            || tcp.destination_port() == 0
            || (syn && (rst || fin))
            || (rst && fin)
        {
            return Err(Drop::Transport);
        }
        let header_len = tcp.slice().len();
        let mss = || {
            tcp.options_iterator().find_map(|option| match option {
                // As smoltcp and Linux treat it, zero is no size.
                Ok(TcpOptionElement::MaximumSegmentSize(size)) if size != 0 => Some(size),
                _ => None,
            })
        };
        Ok(Self {
            tuple: Tuple {
                program: (header.from, tcp.source_port()),
                peer: (header.to, tcp.destination_port()),
            },
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            syn,
            ack,
            rst,
            fin,
            header_len,
            payload_len: packet.len() - IPV6_HEADER - header_len,
            mss: if syn { mss() } else { None },
        })
    }

    /// The RST for a segment that belongs to nothing (RFC 9293 §3.10.7.1).
    pub fn reset(&self) -> [u8; IPV6_HEADER + TCP_HEADER] {
        if self.ack {
            return self.answer(self.acknowledgement, None, true);
        }
        let length = self.payload_len as u32 + u32::from(self.syn) + u32::from(self.fin);
        self.answer(0, Some(self.sequence.wrapping_add(length)), true)
    }

    /// An ACK for a flow that has ended in order.
    pub fn last_ack(
        &self,
        (sequence, acknowledgement): (u32, u32),
    ) -> [u8; IPV6_HEADER + TCP_HEADER] {
        self.answer(sequence, Some(acknowledgement), false)
    }

    fn answer(&self, sequence: u32, ack: Option<u32>, rst: bool) -> [u8; IPV6_HEADER + TCP_HEADER] {
        let Tuple { program, peer } = self.tuple;
        let mut tcp = TcpHeader::new(peer.1, program.1, sequence, 0);
        tcp.rst = rst;
        tcp.ack = ack.is_some();
        tcp.acknowledgment_number = ack.unwrap_or(0);
        let mut packet = [0; IPV6_HEADER + TCP_HEADER];
        let header = ipv6_header(peer.0, program.0, protocol::TCP, TCP_HEADER as u16);
        packet[..IPV6_HEADER].copy_from_slice(&header);
        packet[IPV6_HEADER..].copy_from_slice(&tcp.to_bytes());
        fill_checksum(&mut packet, IPV6_HEADER, peer.0, program.0, protocol::TCP);
        packet
    }
}

/// Keeps what is needed of a SYN: its headers. Data in it is dropped; the program's kernel sends it again (N14).
pub(super) fn hold(packet: &[u8], header_len: usize) -> Box<[u8]> {
    let mut held: Box<[u8]> = packet[..IPV6_HEADER + header_len].into();
    set_payload_length(&mut held);
    held
}

/// Sequence and acknowledgement number of a packet of ours.
pub(super) fn numbers(packet: &[u8]) -> (u32, u32) {
    let at = |start: usize| {
        let bytes = packet
            .get(start..start + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    };
    (at(IPV6_HEADER + 4), at(IPV6_HEADER + 8))
}

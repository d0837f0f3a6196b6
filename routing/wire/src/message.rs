//! The messages of Anode 0.8 §4 and §5 and of our additions 0x46, 0x47 (WHOIS, IAM).
use crate::{Address, Endpoint, WireError};
use std::net::Ipv6Addr;

/// Message type numbers.
pub mod kind {
    #![allow(missing_docs)]
    pub const ERROR: u8 = 0x00;
    pub const PING: u8 = 0x01;
    pub const PONG: u8 = 0x02;
    pub const EPC_REQ: u8 = 0x03;
    pub const EPC: u8 = 0x04;
    pub const EPI: u8 = 0x05;
    pub const NAT_T: u8 = 0x06;
    pub const NETID_REQ: u8 = 0x07;
    pub const NETID: u8 = 0x08;
    pub const DGRAM: u8 = 0x09;
    pub const S_OPEN: u8 = 20;
    pub const S_CLOSE: u8 = 21;
    pub const S_DATA: u8 = 22;
    pub const S_ACK: u8 = 23;
    pub const S_DACK: u8 = 24;
    pub const IPPKT: u8 = 0x44;
    pub const WHOIS: u8 = 0x46;
    pub const IAM: u8 = 0x47;
}

/// A parsed message body; payloads are borrowed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Message<'a> {
    /// §4.2.1
    Error { code: u16, arguments: &'a [u8] },
    /// §4.2.2
    Ping(&'a [u8]),
    /// §4.2.3
    Pong(&'a [u8]),
    /// §4.2.4
    EpcReq { id: u32 },
    /// §4.2.5
    Epc { id: u32 },
    /// §4.2.6
    Epi { endpoint: Endpoint, nat_mode: u8, options: &'a [u8] },
    /// §4.2.7
    NatT { mode: u8, options: &'a [u8] },
    /// §4.2.8
    NetidReq { id: u32, endpoint: Endpoint },
    /// §4.2.9
    Netid { id: u32, endpoint: Endpoint },
    /// §4.2.10
    Dgram { source: u16, destination: u16, payload: &'a [u8] },
    /// §5
    Stream(StreamMessage<'a>),
    /// DESIGN 0x44: next header, payload
    IpPacket { next_header: u8, payload: &'a [u8] },
    /// DESIGN 0x46: synthetic addresses asked for (peer digit 0); at most 255
    Whois { prefixes: Vec<Ipv6Addr> },
    /// DESIGN 0x47: full addresses, unchecked bytes
    Iam { addresses: Vec<[u8; Address::LEN]> },
}
impl<'a> Message<'a> {
    /// Reads the body of a message of the given type.
    pub fn parse(_kind: u8, _body: &'a [u8]) -> Result<Self, WireError> { todo!() }
    /// The type number.
    pub fn kind(&self) -> u8 { todo!() }
    /// Appends the body.
    pub fn emit(&self, _out: &mut Vec<u8>) { todo!() }
}

/// The two ids in front of every stream message: (sender's link id, receiver's), D28.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Links {
    /// The sender's link id (a source port where S_OPEN had flag 01).
    pub sender: u16,
    /// The receiver's link id or port ("destination port").
    pub receiver: u16,
}

/// §5.2
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMessage<'a> {
    /// §5.2.1. `window` in 1,024-byte units.
    Open { links: Links, window: u16, isn: u32, flags: u8 },
    /// §5.2.2
    Close { links: Links, flags: u8, reason: u8, initial: u32, sequence: u32 },
    /// §5.2.3
    Data { links: Links, sequence: u32, payload: &'a [u8] },
    /// §5.2.4
    Ack { links: Links, window: u16, acks: Acks<'a> },
    /// §5.2.5 with D32: the sequence number stands between the acks and the payload.
    Dack { links: Links, window: u16, acks: Acks<'a>, sequence: u32, payload: &'a [u8] },
}

impl<'a> StreamMessage<'a> {
    /// Reads the body of a stream message.
    pub fn parse(_kind: u8, _body: &'a [u8]) -> Result<Self, WireError> { todo!() }
    /// The link ids.
    pub fn links(&self) -> Links { todo!() }
    /// The type number.
    pub fn kind(&self) -> u8 { todo!() }
    /// Bytes of the body.
    pub fn len(&self) -> usize { todo!() }
    /// Never.
    pub fn is_empty(&self) -> bool { false }
    /// Writes the body into `out[..self.len()]`.
    pub fn emit(&self, _out: &mut [u8]) { todo!() }
}

/// Ack ranges on the wire: a multiple of 5 bytes, each (first sequence number, count including the first), D31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acks<'a>(&'a [u8]);
impl<'a> Acks<'a> {
    /// From wire bytes; the length must be a multiple of 5, at least one range.
    pub fn from_bytes(_bytes: &'a [u8]) -> Result<Self, WireError> { todo!() }
    /// (first, count) in the order of the wire; count 0 acknowledges nothing.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8)> + 'a { self.0.chunks_exact(5).map(|c| (u32::from_be_bytes([c[0], c[1], c[2], c[3]]), c[4])) }
    /// The wire bytes.
    pub fn as_bytes(&self) -> &'a [u8] { self.0 }
}

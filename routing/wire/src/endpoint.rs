//! Endpoints (Anode 0.8 §2.10).
use crate::WireError;
use std::net::SocketAddr;

/// A place where packets may be sent, as it stands in messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// 0x00: the source of the packet.
    Unspecified,
    /// 0x01
    Ethernet([u8; 6]),
    /// 0x02, 0x04
    Udp(SocketAddr),
    /// 0x03, 0x05
    Tcp(SocketAddr),
    /// 0x06, at most 2,048 bytes (D16)
    Http(String),
}
impl Endpoint {
    /// Reads one endpoint from the front of `bytes`; the rest follows.
    pub fn parse(_bytes: &[u8]) -> Result<(Self, &[u8]), WireError> { todo!() }
    /// Appends it.
    pub fn emit(&self, _out: &mut Vec<u8>) { todo!() }
}
/// `udp://192.0.2.1:8737`, `tcp://[2001:db8::1]:8737`, `http://…`, `eth://02:00:00:00:00:01`, `unspecified`.
impl std::fmt::Display for Endpoint { fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }

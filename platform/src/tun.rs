//! The TUN device, with segmentation and checksum offload.
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

/// What the interface shall be.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// At most 15 bytes.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Try IFF_VNET_HDR with TSO/USO and checksum offload.
    pub offload: bool,
    /// Addresses with prefix length.
    pub addresses: Vec<(Ipv6Addr, u8)>,
    /// Routes with prefix length (`fda0::/16`).
    pub routes: Vec<(Ipv6Addr, u8)>,
}
/// The virtio-net header (10 bytes, host byte order), decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// Bit 0: needs checksum; bit 1: data valid.
    pub flags: u8,
    /// 0 none, 1 TCPv4, 4 TCPv6, 5 UDP_L4; bit 7 ECN.
    pub gso_type: u8,
    /// Bytes of all headers.
    pub header_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where it is stored, from there.
    pub csum_offset: u16,
}
/// An interface that exists as long as this value (and its process).
pub struct Tun {}
impl Tun {
    /// Creates and configures it: name, MTU, addresses (nodad), routes, up. Leaves nothing behind on failure.
    pub fn create(_config: &TunConfig) -> Result<Self, crate::PlatformError> { todo!() }
    /// The interface's name.
    pub fn name(&self) -> &str { todo!() }
    /// Whether super-packets and partial checksums cross it.
    pub fn offload(&self) -> bool { todo!() }
    /// Reads one packet without blocking into `buf` (64 KiB + 1 KiB); `WouldBlock` when there is none.
    pub fn recv(&self, _buf: &mut [u8]) -> io::Result<(VnetHeader, usize)> { todo!() }
    /// Writes one packet.
    pub fn send(&self, _header: VnetHeader, _packet: &[u8]) -> io::Result<()> { todo!() }
}
impl AsFd for Tun { fn as_fd(&self) -> BorrowedFd<'_> { todo!() } }

//! IPv6 packets by hand, for the far side of a TUN.

use std::net::Ipv6Addr;

pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// An IPv6 packet as far as the tests look at it.
#[derive(Debug)]
pub struct Packet {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub next_header: u8,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn parse(bytes: &[u8]) -> Self {
        assert_eq!(bytes[0] >> 4, 6, "not IPv6: {bytes:02x?}");
        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        assert_eq!(bytes.len(), 40 + length);
        let address =
            |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
        Self {
            source: address(8),
            destination: address(24),
            next_header: bytes[6],
            payload: bytes[40..].to_vec(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.extend([self.next_header, 64]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.payload);
        bytes
    }

    /// The sum over the pseudo header (RFC 8200 §8.1) and `payload`, not complemented.
    fn sum(&self, payload: &[u8]) -> u16 {
        let mut bytes = Vec::new();
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend((self.payload.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.next_header]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// Writes the whole checksum at `at` of the payload.
    pub fn with_checksum(mut self, at: usize) -> Self {
        self.payload[at..at + 2].fill(0);
        let sum = !self.sum(&self.payload);
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Writes the pseudo header's sum at `at`: the kernel adds the rest.
    pub fn with_partial_checksum(mut self, at: usize) -> Self {
        let sum = self.sum(&[]);
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Whether the checksum inside the payload is right: then everything sums up to all ones.
    pub fn checksum_is_right(&self) -> bool {
        self.sum(&self.payload) == 0xffff
    }
}

pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend(((8 + data.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// Where the checksum stands in a UDP header.
pub const UDP_CHECKSUM: usize = 6;
/// Where it stands in an ICMPv6 header.
pub const ICMPV6_CHECKSUM: usize = 2;

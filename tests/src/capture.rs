//! What is on the wire, and how to put packets there that should not be.

use crate::lab::Ns;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// One UDP datagram over IPv4, as it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where it came from.
    pub from: SocketAddrV4,
    /// Where it went.
    pub to: SocketAddrV4,
    /// What it carried.
    pub payload: Vec<u8>,
}

/// Sees every frame in a namespace.
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Starts to look; frames from now on are kept by the kernel until read (some 16 MiB of them).
    pub fn start(ns: &Ns) -> Self {
        let socket = ns.run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        });
        let socket = socket.expect("root may capture");
        setsockopt(&socket, RcvBufForce, &(16 << 20)).expect("root may have a large buffer");
        Self { socket }
    }

    /// Every frame seen until now, as it was.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut frame = vec![0; 70_000];
        while let Ok(size) = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            found.push(frame[..size].to_vec());
        }
        found
    }

    /// The UDP datagrams seen until now, or until `limit` when there are fewer than `wanted`.
    pub fn datagrams(&self, wanted: usize, limit: Duration) -> Vec<Datagram> {
        let deadline = Instant::now() + limit;
        let mut found = Vec::new();
        let mut frame = vec![0; 70_000];
        while found.len() < wanted {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => found.extend(datagram(&frame[..size])),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => break,
            }
        }
        found
    }
}

/// The type of an Anode packet, if it is long enough to have one (A38).
pub fn message_type(packet: &[u8]) -> Option<u8> {
    let flags = packet.get(1)?;
    let length = |full: u8| if flags & full == 0 { 8 } else { 40 };
    packet.get(10 + length(1) + length(2) + 1).copied()
}

/// Reads Ethernet, IPv4 (no fragments), UDP.
pub fn datagram(frame: &[u8]) -> Option<Datagram> {
    let ip = frame.get(14..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
    if frame[12..14] != [8, 0] || ip[0] >> 4 != 4 || *ip.get(9)? != 17 || fragment != 0 {
        return None;
    }
    let address = |at: usize| -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?,
        ))
    };
    let udp = ip.get(header..)?;
    let word =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?])) };
    let size = usize::from(word(4)?);
    Some(Datagram {
        from: SocketAddrV4::new(address(12)?, word(0)?),
        to: SocketAddrV4::new(address(16)?, word(2)?),
        payload: udp.get(8..size)?.to_vec(),
    })
}

/// Sends UDP datagrams from any IPv4 address and port, as an attacker on the link can.
pub struct Forger {
    socket: socket2::Socket,
}

impl Forger {
    /// One in `ns`.
    pub fn new(ns: &Ns) -> Self {
        // IPPROTO_RAW: the IPv4 header is ours.
        let protocol = socket2::Protocol::from(255);
        let socket = ns.run(|| {
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol))
        });
        Self {
            socket: socket.expect("root may forge"),
        }
    }

    /// Sends it; what does not fit the link is refused by the kernel.
    pub fn send(&self, datagram: &Datagram) -> std::io::Result<()> {
        let size = 28 + datagram.payload.len();
        let mut packet = Vec::with_capacity(size);
        packet.extend_from_slice(&[0x45, 0]);
        packet.extend_from_slice(&(size as u16).to_be_bytes());
        // The kernel fills in the identification and the checksum of the header.
        packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend_from_slice(&datagram.from.ip().octets());
        packet.extend_from_slice(&datagram.to.ip().octets());
        packet.extend_from_slice(&datagram.from.port().to_be_bytes());
        packet.extend_from_slice(&datagram.to.port().to_be_bytes());
        packet.extend_from_slice(&((8 + datagram.payload.len()) as u16).to_be_bytes());
        // Zero: no UDP checksum, as IPv4 allows.
        packet.extend_from_slice(&[0, 0]);
        packet.extend_from_slice(&datagram.payload);
        self.socket
            .send_to(&packet, &socket2::SockAddr::from(datagram.to))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_stands_behind_short_and_full_addresses() {
        for (flags, place) in [(0, 27), (1, 59), (2, 59), (3, 91)] {
            let mut packet = vec![0; place + 1];
            packet[1] = flags;
            packet[place] = 0x42;
            assert_eq!(message_type(&packet), Some(0x42), "flags {flags}");
            assert_eq!(message_type(&packet[..place]), None, "flags {flags}");
        }
    }

    #[test]
    fn a_frame_is_read_and_a_broken_one_is_not() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([
            0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame.extend([0x22, 0x21, 0, 7, 0, 11, 0, 0]);
        frame.extend(b"abc");
        let seen = datagram(&frame).unwrap();
        assert_eq!(seen.from, "192.0.2.1:8737".parse().unwrap());
        assert_eq!(seen.to, "192.0.2.2:7".parse().unwrap());
        assert_eq!(seen.payload, b"abc");
        for size in 0..frame.len() {
            assert_eq!(datagram(&frame[..size]), None, "{size} bytes");
        }
    }
}

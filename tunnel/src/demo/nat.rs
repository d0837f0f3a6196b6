//! A home router in a thread: what a machine sends into its only interface leaves from another address and port, and only
//! who was sent to may answer.
//!
//! ```text
//!   namespace of a party                      this thread                namespace of the internet
//!   10.0.0.2 ── wan0 (TUN) ── IPv4, UDP ──▶ one mapping per inner port ──▶ socket on the public address, any port
//! ```
//!
//! Endpoint-independent mapping, address- and port-dependent filtering (RFC 4787 §4.1, §5): the usual router. UDP alone;
//! everything else is dropped. It needs neither packages nor modules of the kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use anode_platform::netlink::{Netlink, Route};
use anode_platform::netns::NetNs;
use anode_platform::tun::{RECEIVE_BUFFER, Tun, TunConfig};
use anode_platform::{PlatformError, Prefix};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Error;

/// The machine behind it, the same behind every NAT.
pub(super) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Sockets that one machine may have open; a node has two.
const MAPPINGS: usize = 16;
/// Places outside that one mapping lets in.
const PERMITTED: usize = 64;
/// Packets taken from one side before the other has its turn.
const TURN: usize = 64;
/// IPv4 without options, and UDP.
const HEADERS: usize = 28;
const UDP: u8 = 17;

/// One inner port, and what stands for it outside.
struct Mapping {
    inside: u16,
    outside: UdpSocket,
    permitted: Vec<SocketAddrV4>,
}

struct Nat {
    tun: Tun,
    public: Ipv4Addr,
    mappings: Vec<Mapping>,
    buffer: Vec<u8>,
}

/// Puts `inner` behind a NAT whose outer address is `public`, one of the namespace `internet`. It works until the process
/// ends.
pub(super) fn start(inner: &NetNs, internet: &NetNs, public: Ipv4Addr) -> Result<(), Error> {
    let tun = inner.run(wan)??;
    let internet = internet
        .as_fd()
        .try_clone_to_owned()
        .map_err(Error::io("duplicate a descriptor"))?;
    let nat = Nat {
        tun,
        public,
        mappings: Vec::new(),
        buffer: vec![0; RECEIVE_BUFFER],
    };
    let started = std::thread::Builder::new().name(format!("nat {public}"));
    started
        .spawn(move || {
            if let Err(error) = NetNs::from(internet).enter() {
                eprintln!("the NAT {public}: {error}");
                return;
            }
            if let Err(error) = nat.run() {
                eprintln!("the NAT {public}: {error}");
            }
        })
        .map_err(Error::io("cannot start a NAT"))?;
    Ok(())
}

/// The machine's only interface, with the whole world behind it.
fn wan() -> Result<Tun, PlatformError> {
    let tun = Tun::create(&TunConfig {
        name: "wan0".to_owned(),
        mtu: 1500,
        offload: false,
        addresses: Vec::new(),
        routes: Vec::new(),
    })?;
    let mut netlink = Netlink::open()?;
    if let (Some(own), Some(world)) = (
        Prefix::new(INSIDE, 24),
        Prefix::new(Ipv4Addr::UNSPECIFIED, 0),
    ) {
        netlink.address_add(tun.index(), own)?;
        netlink.route_add(&Route::to_link(world, tun.index()))?;
    }
    Ok(tun)
}

impl Nat {
    fn run(mut self) -> io::Result<()> {
        loop {
            let mut waiting = vec![PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)];
            let sockets = self.mappings.iter();
            waiting.extend(sockets.map(|mapping| {
                let fd = mapping.outside.as_fd();
                PollFd::new(fd, PollFlags::POLLIN)
            }));
            poll(&mut waiting, PollTimeout::NONE)?;
            for _ in 0..TURN {
                match self.tun.recv(&mut self.buffer) {
                    Ok((_, length)) => self.outward(length),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            for index in 0..self.mappings.len() {
                self.inward(index);
            }
        }
    }

    /// A packet of the machine: leaves from the mapping of its port, which lets its receiver in from now on.
    fn outward(&mut self, length: usize) {
        let Some((from, to, payload)) = parse(&self.buffer[..length]) else {
            return;
        };
        let known = self.mappings.iter().position(|known| known.inside == from);
        let Some(index) = known.or_else(|| map(&mut self.mappings, self.public, from)) else {
            return;
        };
        let mapping = &mut self.mappings[index];
        if !mapping.permitted.contains(&to) && mapping.permitted.len() < PERMITTED {
            mapping.permitted.push(to);
        }
        // As lost as on any other way.
        let _ = mapping.outside.send_to(payload, to);
    }

    /// Packets for a mapping: from whom the machine has sent to, and from nobody else.
    fn inward(&mut self, index: usize) {
        let mapping = &self.mappings[index];
        for _ in 0..TURN {
            // An error is that of an earlier packet, or says that there is none.
            let Ok((length, SocketAddr::V4(from))) =
                mapping.outside.recv_from(&mut self.buffer[HEADERS..])
            else {
                return;
            };
            if mapping.permitted.contains(&from) {
                write_headers(&mut self.buffer, length, from, mapping.inside);
                let packet = &self.buffer[..HEADERS + length];
                // Full, or not of a size that it takes: lost.
                let _ = self.tun.send(Default::default(), packet);
            }
        }
    }
}

/// A new mapping, if there is room.
fn map(mappings: &mut Vec<Mapping>, public: Ipv4Addr, inside: u16) -> Option<usize> {
    if mappings.len() == MAPPINGS {
        return None;
    }
    let outside = UdpSocket::bind((public, 0)).ok()?;
    outside.set_nonblocking(true).ok()?;
    mappings.push(Mapping {
        inside,
        outside,
        permitted: Vec::new(),
    });
    Some(mappings.len() - 1)
}

/// Source port, receiver and payload of an IPv4 packet (RFC 791) with a whole UDP datagram (RFC 768) in it.
fn parse(packet: &[u8]) -> Option<(u16, SocketAddrV4, &[u8])> {
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_whole_udp = packet[0] >> 4 == 4
        && header >= 20
        && packet.get(9) == Some(&UDP)
        && word(6)? & 0x3fff == 0;
    let to: [u8; 4] = *packet.get(16..)?.first_chunk()?;
    let (from, port) = (word(header)?, word(header + 2)?);
    let end = header + usize::from(word(header + 4)?);
    let payload = packet.get(header + 8..end)?;
    is_whole_udp.then(|| (from, SocketAddrV4::new(to.into(), port), payload))
}

/// Headers for a payload of `length` bytes, for the machine's port `to`.
fn write_headers(buffer: &mut [u8], length: usize, from: SocketAddrV4, to: u16) {
    // A datagram from a socket is at most 65,507 bytes long.
    let (total, datagram) = ((HEADERS + length) as u16, (8 + length) as u16);
    let ip = &mut buffer[..HEADERS];
    ip.fill(0);
    (ip[0], ip[8], ip[9]) = (0x45, 63, UDP);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&INSIDE.octets());
    let sum: u32 = ip[..20]
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip[20..22].copy_from_slice(&from.port().to_be_bytes());
    ip[22..24].copy_from_slice(&to.to_be_bytes());
    // The checksum stays 0: none, which RFC 768 allows. Packets do not leave this machine.
    ip[24..26].copy_from_slice(&datagram.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_are_written_are_read_again() {
        let from: SocketAddrV4 = "203.0.113.10:8737".parse().unwrap();
        let mut packet = vec![0; HEADERS];
        packet.extend(b"hello");
        write_headers(&mut packet, 5, from, 4242);
        assert_eq!(
            parse(&packet),
            Some((8737, SocketAddrV4::new(INSIDE, 4242), &b"hello"[..]))
        );
        let sum: u32 = packet[..20]
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "RFC 791 §3.1");
    }

    #[test]
    fn what_is_no_whole_datagram_is_dropped() {
        let from: SocketAddrV4 = "203.0.113.10:8737".parse().unwrap();
        let mut good = vec![0; HEADERS];
        good.extend(b"hello");
        write_headers(&mut good, 5, from, 4242);
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None, "{length}");
        }
        for (at, value) in [
            (0, 0x65),
            (0, 0x44),
            (6, 0x20),
            (7, 1),
            (9, 6),
            (25, 7),
            (24, 1),
        ] {
            let mut packet = good.clone();
            packet[at] = value;
            assert_eq!(parse(&packet), None, "{at}: {value}");
        }
    }
}

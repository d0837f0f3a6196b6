//! Raw frames of one EtherType on one link (packet(7)). Opening needs CAP_NET_RAW; using does not.
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom, sendto,
    socket,
};

use crate::PlatformError;

/// A hardware address.
pub type Mac = [u8; 6];

/// Sends and receives frames without their Ethernet header, which the kernel makes and takes off.
#[derive(Debug)]
pub struct FrameSocket {
    fd: OwnedFd,
    interface: u32,
    ether_type: u16,
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FrameSocket {
    /// Opens one on the interface of this name.
    pub fn open(interface: &str, ether_type: u16) -> Result<Self, PlatformError> {
        let failed = |what: &str, errno: nix::Error| PlatformError::Io {
            what: format!("{what} {interface}"),
            source: errno.into(),
        };
        let index = if_nametoindex(interface).map_err(|e| failed("find the interface", e))?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        // Without a protocol nothing is received before it is bound to this one link.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None)
            .map_err(|e| failed("open a socket for raw frames (it needs CAP_NET_RAW) on", e))?;
        let address = link_address(index, ether_type, [0; 6])
            .ok_or_else(|| failed("make the address of", nix::Error::EINVAL))?;
        bind(fd.as_raw_fd(), &address).map_err(|e| failed("receive raw frames on", e))?;
        Ok(Self {
            fd,
            interface: index,
            ether_type,
        })
    }

    /// Index of its interface.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Sends one frame; `WouldBlock` when the link's queue is full.
    pub fn send(&self, to: Mac, payload: &[u8]) -> io::Result<()> {
        let address =
            link_address(self.interface, self.ether_type, to).ok_or(io::ErrorKind::InvalidInput)?;
        sendto(self.fd.as_raw_fd(), payload, &address, MsgFlags::empty())?;
        Ok(())
    }

    /// Receives one frame: who sent it, and how many bytes of `buffer` it fills. Links pad short ones.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(Mac, usize)> {
        let (len, from) = recvfrom::<LinkAddr>(self.fd.as_raw_fd(), buffer)?;
        let mac = from.and_then(|from| from.addr()).unwrap_or_default();
        Ok((mac, len))
    }
}

fn link_address(interface: u32, ether_type: u16, mac: Mac) -> Option<LinkAddr> {
    // SAFETY: sockaddr_ll holds integers alone; all zeros are valid.
    let mut raw: libc::sockaddr_ll = unsafe { mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = ether_type.to_be();
    raw.sll_ifindex = i32::try_from(interface).ok()?;
    raw.sll_halen = mac.len() as u8;
    raw.sll_addr[..mac.len()].copy_from_slice(&mac);
    let len = mem::size_of_val(&raw) as libc::socklen_t;
    // SAFETY: `raw` is a whole sockaddr_ll of this length, and lives until the call has copied it.
    unsafe { LinkAddr::from_raw((&raw as *const libc::sockaddr_ll).cast(), Some(len)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = FrameSocket::open("nothere0", 0x88b5)
            .unwrap_err()
            .to_string();
        assert!(error.contains("nothere0"), "{error}");
    }

    #[test]
    fn frames_come_back_from_loopback_with_their_length() {
        // Root is needed for the namespace and the socket.
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let ns = NetNs::new().unwrap();
        let (mac, payload) = ns
            .run(|| {
                let socket = FrameSocket::open("lo", 0x88b5).unwrap();
                socket.send([0; 6], b"over a link").unwrap();
                let mut buffer = [0; 100];
                let begin = std::time::Instant::now();
                loop {
                    match socket.receive(&mut buffer) {
                        Ok((mac, len)) => return (mac, buffer[..len].to_vec()),
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                    assert!(begin.elapsed().as_secs() < 5, "no frame");
                }
            })
            .unwrap();
        assert_eq!(
            (mac, payload.as_slice()),
            ([0; 6], b"over a link".as_slice())
        );
    }
}

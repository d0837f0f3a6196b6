//! UDP sockets beside the main ones: those that the node orders for holes in NATs, and the second ones of a relay. They stand
//! behind one epoll descriptor: some are there for seconds only, and hundreds of them at a time.
use super::udp::{self, ReceiveBuffers, Refused, UdpSocket};
use crate::anode::{Interface, Received, SECOND_SOCKET, SocketOrder, TransmitBatch};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// Sockets that are served before others have their turn.
const READY: usize = 64;

pub(super) struct ExtraSockets {
    epoll: Epoll,
    sockets: HashMap<usize, UdpSocket>,
    ready: Vec<EpollEvent>,
}

impl ExtraSockets {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sockets: HashMap::new(),
            ready: vec![EpollEvent::empty(); READY],
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Opens the second sockets of a relay, one port above its main ones. False: not all of them could be had; the node
    /// then does not offer them.
    pub fn open_second(&mut self, main: &[SocketAddr]) -> bool {
        for (index, address) in main.iter().enumerate() {
            let above = address.port().checked_add(1);
            let above = above.map(|port| SocketAddr::new(address.ip(), port));
            let opened = above.and_then(|above| udp::open_small(above).ok());
            if !opened.is_some_and(|socket| self.add(SECOND_SOCKET + index, socket)) {
                return false;
            }
        }
        true
    }

    /// Carries out an order. For one that opens: its number, and whether it stands.
    pub fn obey(&mut self, order: SocketOrder, links: &[Interface]) -> Option<(usize, bool)> {
        match order {
            SocketOrder::Open {
                number,
                v4,
                interface,
            } => {
                let any = match v4 {
                    true => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    false => Ipv6Addr::UNSPECIFIED.into(),
                };
                let any = SocketAddr::new(any, 0);
                let device = |index: u32| links.iter().find(|link| link.index == index);
                let opened = match interface.map(device) {
                    None => udp::open_small(any),
                    Some(Some(link)) => udp::open_over(any, &link.name),
                    Some(None) => Err(io::ErrorKind::NotFound.into()),
                };
                let stands = opened.is_ok_and(|socket| self.add(number, socket));
                Some((number, stands))
            }
            SocketOrder::Close(number) => {
                // Closed, it leaves epoll by itself.
                self.sockets.remove(&number);
                None
            }
        }
    }

    fn add(&mut self, number: usize, socket: UdpSocket) -> bool {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
        let added = self.epoll.add(socket.as_fd(), event).is_ok();
        if added {
            self.sockets.insert(number, socket);
        }
        added
    }

    /// Sends a batch; returns what of it the network refused. `WouldBlock`: nothing was taken.
    pub fn send(&self, batch: &TransmitBatch) -> io::Result<Refused> {
        match self.sockets.get(&batch.destination.socket) {
            Some(socket) => socket.send(batch),
            None => Ok(Refused {
                packets: batch.segments(),
                too_large: false,
            }),
        }
    }

    /// Takes what has come. True if more may be waiting.
    pub fn receive(
        &mut self,
        buffers: &mut ReceiveBuffers,
        each: &mut dyn FnMut(Received<'_>),
    ) -> bool {
        if self.sockets.is_empty() {
            return false;
        }
        let Ok(count) = self.epoll.wait(&mut self.ready, EpollTimeout::ZERO) else {
            return false;
        };
        let mut more = count == READY;
        for event in &self.ready[..count] {
            let number = event.data() as usize;
            if let Some(socket) = self.sockets.get(&number) {
                more |= buffers.receive(socket, &mut |packets| {
                    each(Received {
                        socket: number,
                        ..packets
                    })
                });
            }
        }
        more
    }
}

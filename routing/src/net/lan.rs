//! Receive-only sockets for beacons: bound to the broadcast and the all-nodes address alone, so that several nodes on one
//! machine hear every beacon and none takes another's packets (DESIGN §5, D23).
use super::udp::{PORT, ReceiveBuffers, UdpSocket};
use crate::anode::{Interface, Received};
use crate::sockets::unbound;
use socket2::{Protocol, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

pub(super) struct BeaconSockets {
    enabled: bool,
    /// Index of the main socket that answers, per family, and whether it hears beacons itself.
    main_v4: Option<Main>,
    main_v6: Option<Main>,
    open: Vec<Beacon>,
}

#[derive(Clone, Copy)]
struct Main {
    index: usize,
    hears_beacons: bool,
}

struct Beacon {
    address: SocketAddr,
    socket: UdpSocket,
    answers: usize,
}

impl BeaconSockets {
    pub fn new(enabled: bool, locals: &[SocketAddr]) -> Self {
        let main = |v4: bool| {
            let index = locals
                .iter()
                .position(|local| local.is_ipv4() == v4 && !local.ip().is_loopback())?;
            Some(Main {
                index,
                hears_beacons: locals[index].ip().is_unspecified() && locals[index].port() == PORT,
            })
        };
        Self {
            enabled,
            main_v4: main(true),
            main_v6: main(false),
            open: Vec::new(),
        }
    }

    /// Opens and closes sockets so that every interface that can be heard is. What the system refuses is left out: beacons are a convenience.
    pub fn follow(&mut self, interfaces: &[Interface]) {
        let wanted = self.wanted(interfaces);
        self.open
            .retain(|beacon| wanted.iter().any(|(address, _)| *address == beacon.address));
        for (address, answers) in wanted {
            if self.open.iter().any(|beacon| beacon.address == address) {
                continue;
            }
            match bind_shared(address) {
                Ok(socket) => self.open.push(Beacon {
                    address,
                    socket,
                    answers,
                }),
                Err(error) => tracing::debug!(%address, %error, "no beacons will be heard here"),
            }
        }
    }

    fn wanted(&self, interfaces: &[Interface]) -> Vec<(SocketAddr, usize)> {
        let mut wanted = Vec::new();
        let usable = || interfaces.iter().filter(|interface| interface.broadcast);
        if !self.enabled {
            return wanted;
        }
        if let Some(main) = self.main_v4.filter(|main| !main.hears_beacons)
            && usable().any(|interface| interface.addresses.iter().any(|(ip, _)| ip.is_ipv4()))
        {
            wanted.push((SocketAddr::from((Ipv4Addr::BROADCAST, PORT)), main.index));
        }
        if let Some(main) = self.main_v6.filter(|main| !main.hears_beacons) {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            for interface in usable() {
                if interface
                    .addresses
                    .iter()
                    .any(|(ip, _)| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
                {
                    wanted.push((
                        SocketAddrV6::new(all_nodes, PORT, 0, interface.index).into(),
                        main.index,
                    ));
                }
            }
        }
        wanted
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|beacon| beacon.socket.as_fd())
    }

    /// Takes one batch from each that is ready; what comes is answered from the main socket.
    pub fn receive(
        &self,
        buffers: &mut ReceiveBuffers,
        is_ready: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(Received<'_>),
    ) {
        for beacon in &self.open {
            if !is_ready() {
                continue;
            }
            buffers.receive(&beacon.socket, &mut |datagram| {
                each(Received {
                    socket: beacon.answers,
                    ..datagram
                })
            });
        }
    }
}

fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    UdpSocket::new(socket)
}

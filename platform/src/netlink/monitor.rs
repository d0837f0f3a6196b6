//! Word of links, addresses and routes that come and go, for roaming.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Link, RECEIVE_BUFFER, messages, retry_interrupted};
use crate::PlatformError;

/// Multicast groups of rtnetlink as bits (`linux/rtnetlink.h`, RTMGRP_*): links, IPv4 and IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// What changed. Ask [`super::Netlink`] for the present state: events tell that and where, not everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// A link is new or changed.
    Link(Link),
    /// A link is gone.
    LinkGone {
        /// The index it had.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// A link got or lost an address.
    Addresses {
        /// The link's index.
        index: u32,
    },
    /// A route came or went.
    Routes,
    /// Events came faster than they were read, and some are lost: look at everything afresh.
    Overrun,
}

/// A socket that becomes readable when links, addresses or routes of its namespace change.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens in the calling thread's namespace; needs no privilege.
    pub fn open() -> Result<Self, PlatformError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|e: io::Error| PlatformError::io("watch links", e))?,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Reads what came, without blocking: at most one datagram's events. Empty when there is nothing more.
    pub fn events(&mut self) -> io::Result<Vec<LinkEvent>> {
        self.buffer.clear();
        let received = retry_interrupted(|| self.socket.recv_from(&mut self.buffer, 0));
        match received {
            // Only the kernel (port 0) is believed: other processes may send here, too.
            Ok((_, from)) if from.port_number() == 0 => {}
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                return Ok(vec![LinkEvent::Overrun]);
            }
            Err(error) => return Err(error),
        }
        Ok(messages(&self.buffer).filter_map(event).collect())
    }
}

fn event(bytes: &[u8]) -> Option<LinkEvent> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return None;
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(LinkEvent::Link(Link::from_message(link))),
        RouteNetlinkMessage::DelLink(link) => Some(gone(link)),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(LinkEvent::Addresses {
                index: address.header.index,
            })
        }
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
            Some(LinkEvent::Routes)
        }
        _ => None,
    }
}

fn gone(message: LinkMessage) -> LinkEvent {
    let link = Link::from_message(message);
    LinkEvent::LinkGone {
        index: link.index,
        name: link.name,
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket keeps its descriptor open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

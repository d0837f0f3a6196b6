//! Links, addresses and routes over rtnetlink; no `ip` calls.
//!
//! [`Netlink`] is one socket in the network namespace of the thread that opened it. Every request waits for the kernel's
//! answer, which comes within the same system call or two; nothing here is meant for the data path.

mod address;
mod link;
mod monitor;
mod route;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::PlatformError;

pub use address::InterfaceAddress;
pub use link::{Flags, Interface, Link};
pub use monitor::{LinkEvent, Monitor};
pub use route::{
    Conflict, GUARD_METRIC, Overlap, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN, guard_add,
    guard_remove,
};

/// The kernel writes at most 32 KiB of a dump at once (`netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A dump that changed under way is asked for again, this often at most.
const DUMP_ATTEMPTS: usize = 10;

/// One rtnetlink socket of the opening thread's network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens the socket; needs no privilege.
    pub fn open() -> Result<Self, PlatformError> {
        let mut socket =
            Socket::new(NETLINK_ROUTE).map_err(|e| PlatformError::io("open netlink", e))?;
        socket
            .bind_auto()
            .and_then(|_| socket.connect(&SocketAddr::new(0, 0)))
            .map_err(|e| PlatformError::io("bind netlink", e))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Sends one change and waits for its acknowledgement; `flags` in addition to REQUEST and ACK.
    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(sequence, |_| {}).map(|_| ())
    }

    /// As [`Self::change`], for something that must not exist yet.
    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Asks for one object.
    fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut found = None;
        self.receive(sequence, |message| found = Some(message))?;
        Ok(found)
    }

    /// Asks for a whole table; once more when it changed while it was read.
    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut found = Vec::new();
            let whole = self.receive(sequence, |message| found.push(message))?;
            if whole {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the table kept changing while it was read",
        ))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_interrupted(|| self.socket.send(&bytes, 0))?;
        Ok(self.sequence)
    }

    /// Reads the answer to `sequence` to its end. Returns whether it is consistent.
    fn receive(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let mut whole = true;
        loop {
            self.buffer.clear();
            let length = retry_interrupted(|| self.socket.recv(&mut self.buffer, 0))?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for bytes in messages(&self.buffer) {
                let header = NetlinkBuffer::new(bytes);
                // Left over from a request that was given up.
                if header.sequence_number() != sequence {
                    continue;
                }
                whole &= header.flags() & NLM_F_DUMP_INTR == 0;
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
                    Ok(message) => match message.payload {
                        NetlinkPayload::Done(_) => return Ok(whole),
                        NetlinkPayload::Error(error) if error.code.is_none() => return Ok(whole),
                        NetlinkPayload::Error(error) => return Err(error.to_io()),
                        NetlinkPayload::InnerMessage(inner) => each(inner),
                        _ => {}
                    },
                    // One object with an attribute that the codec does not know must not hide all others.
                    Err(error) => tracing::warn!(%error, "netlink message not understood"),
                }
            }
        }
    }
}

/// The netlink messages in one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
        let message = bytes.get(..length)?;
        // Messages are aligned to 4 bytes; the last one need not be padded.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Turns the kernel's EPERM into the capability that is missing.
fn refused(what: String) -> impl FnOnce(io::Error) -> PlatformError {
    |source| match source.raw_os_error() {
        Some(nix::libc::EPERM) => PlatformError::NoPermission {
            what,
            capability: "CAP_NET_ADMIN",
        },
        _ => PlatformError::io(what, source),
    }
}

//! UDP in batches: what one call receives, and what leaves in as few calls as possible.
//!
//! ```text
//!   recvmmsg, GRO ─▶ Received: up to 32 buffers of equal datagrams
//!   push(exit, to, bytes) ─▶ Run: equal datagrams to one place ─▶ sendmsg with UDP_SEGMENT
//! ```
//!
//! Datagrams to one place keep their order. They are copied once, into the run that they leave in: a kilobyte costs less
//! than a hundredth of a call.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::SetDontFragment;

/// What one receive call may put into one buffer (GRO).
const RECEIVE_BUFFER: usize = 65_535;
/// Larger datagrams are not joined: a segment must fit the device's MTU, while a single one may be fragmented.
const MAX_SEGMENT: usize = 1452;
/// The kernel's limits for one call (UDP_MAX_SEGMENTS, and the length of an IP packet).
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 64_000;
/// Places that datagrams are gathered for before they must leave.
const MAX_RUNS: usize = 64;

/// A bound, non-blocking UDP socket.
pub(super) struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    local: SocketAddr,
    dont_fragment: bool,
    set_dont_fragment: SetDontFragment,
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How a port is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// With nobody.
    No,
    /// With later sockets of this process: the kernel spreads clients over them.
    First,
    /// With those that are there.
    Next,
}

impl UdpSocket {
    /// Binds; IPv6 sockets take no IPv4.
    pub fn bind(
        address: SocketAddr,
        share: Share,
        buffer: usize,
        set_dont_fragment: SetDontFragment,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if share == Share::Next {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        if share == Share::First {
            // Only now, so that a port that another program serves is not taken over.
            socket.set_reuse_port(true)?;
        }
        // What the system does not grant is not an error.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("not an IP socket"))?;
        // quinn-udp wants DF set always; a relay passes on what is larger than the path, too.
        set_dont_fragment(socket.as_fd(), false)?;
        Ok(Self {
            socket,
            state,
            local,
            dont_fragment: false,
            set_dont_fragment,
        })
    }

    /// The address it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    fn hold_fragmentation(&mut self, dont_fragment: bool) -> io::Result<()> {
        if self.dont_fragment != dont_fragment {
            (self.set_dont_fragment)(self.socket.as_fd(), dont_fragment)?;
            self.dont_fragment = dont_fragment;
        }
        Ok(())
    }

    /// Sends a run; gives how many of its datagrams are lost.
    fn send(&mut self, run: &Run) -> usize {
        if self.hold_fragmentation(run.key.dont_fragment).is_err() {
            return run.count;
        }
        let whole = self.state.max_gso_segments() >= run.count;
        if run.count > 1 && whole && self.call(run, &run.bytes, Some(run.segment)).is_ok() {
            return 0;
        }
        if run.segment == 0 {
            return usize::from(self.send_one(run, &[]).is_err());
        }
        // One that fails takes no other with it: a device without offload, a datagram too large, a place not reachable.
        run.bytes
            .chunks(run.segment)
            .filter(|datagram| self.send_one(run, datagram).is_err())
            .count()
    }

    /// An error may be that of an earlier datagram, told by ICMP: this one has not been tried then.
    fn send_one(&self, run: &Run, datagram: &[u8]) -> io::Result<()> {
        match self.call(run, datagram, None) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.call(run, datagram, None)
            }
            other => other,
        }
    }

    fn call(&self, run: &Run, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: run.key.to,
            ecn: None,
            contents,
            segment_size,
            src_ip: run.key.source,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

/// Buffers for one receive call; their pages are touched only as far as datagrams fill them.
pub(super) struct ReceiveBuffers {
    bytes: Vec<u8>,
    metas: Vec<RecvMeta>,
}

/// One or more datagrams of one sender.
pub(super) struct Received<'a> {
    pub from: SocketAddr,
    /// The address of ours that they came to.
    pub to: Option<IpAddr>,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Received<'a> {
    /// Each of them; one without payload too.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let empty = self.bytes.is_empty().then_some(&self.bytes[..0]);
        empty
            .into_iter()
            .chain(self.bytes.chunks(self.stride.max(1)))
    }
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BUFFER * BATCH_SIZE],
            metas: vec![RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl ReceiveBuffers {
    /// A place holder, while the real ones are in use.
    pub fn none() -> Self {
        Self {
            bytes: Vec::new(),
            metas: Vec::new(),
        }
    }

    /// Takes up to `most` buffers full from the socket; errors are those of earlier sends. Gives how many were filled.
    pub fn receive(&mut self, socket: &UdpSocket, most: usize) -> usize {
        let mut chunks = self.bytes.chunks_exact_mut(RECEIVE_BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let most = most.clamp(1, BATCH_SIZE);
        socket
            .state
            .recv(
                (&socket.socket).into(),
                &mut slices[..most],
                &mut self.metas,
            )
            .unwrap_or(0)
    }

    /// What the last call received into its first `count` buffers.
    pub fn received(&self, count: usize) -> impl Iterator<Item = Received<'_>> {
        let buffers = self.bytes.chunks_exact(RECEIVE_BUFFER);
        let filled = self.metas.iter().zip(buffers).take(count);
        filled.map(|(meta, buffer)| Received {
            from: meta.addr,
            to: meta.dst_ip,
            bytes: &buffer[..meta.len.min(RECEIVE_BUFFER)],
            stride: meta.stride,
        })
    }
}

/// How many buffers to offer to a socket: as many as it has filled lately, since each costs a little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appetite(usize);

impl Appetite {
    pub const LEAST: Self = Self(1);

    pub fn buffers(self) -> usize {
        self.0
    }

    /// After a call that filled `count`.
    pub fn learn(&mut self, count: usize) {
        self.0 = if count >= self.0 {
            (self.0 * 2).min(BATCH_SIZE)
        } else {
            (count + 1).max(self.0 / 2)
        };
    }
}

/// Where and how a datagram leaves. `E` names the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key<E> {
    pub exit: E,
    pub to: SocketAddr,
    /// From which address of ours, where the socket has several.
    pub source: Option<IpAddr>,
    pub dont_fragment: bool,
}

/// Equal datagrams to one place; the last may be shorter.
pub(super) struct Run {
    key: Key<()>,
    segment: usize,
    count: usize,
    /// The last one was shorter: nothing can follow it.
    ended: bool,
    bytes: Vec<u8>,
}

/// Datagrams that wait for the end of a batch.
pub(super) struct Sends<E> {
    runs: Vec<Run>,
    exits: Vec<E>,
}

impl<E: Copy + PartialEq> Sends<E> {
    pub fn new() -> Self {
        Self {
            runs: Vec::new(),
            exits: Vec::new(),
        }
    }

    /// Adds a datagram made of these parts. `false`: there is no room, [`Sends::flush`] first.
    #[must_use]
    pub fn push(&mut self, key: Key<E>, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let (exit, key) = (
            key.exit,
            Key {
                exit: (),
                to: key.to,
                source: key.source,
                dont_fragment: key.dont_fragment,
            },
        );
        let used = self.exits.len();
        let last = (0..used)
            .rev()
            .find(|at| self.exits[*at] == exit && self.runs[*at].key == key);
        let at = match last.filter(|at| self.runs[*at].takes(length)) {
            Some(at) => at,
            None if used == MAX_RUNS => return false,
            None => {
                self.exits.push(exit);
                if self.runs.len() == used {
                    self.runs.push(Run {
                        key,
                        segment: 0,
                        count: 0,
                        ended: false,
                        bytes: Vec::new(),
                    });
                }
                let run = &mut self.runs[used];
                (run.key, run.segment, run.count) = (key, length, 0);
                run.bytes.clear();
                used
            }
        };
        let run = &mut self.runs[at];
        run.count += 1;
        run.ended = length < run.segment || length == 0 || length > MAX_SEGMENT;
        for part in parts {
            run.bytes.extend_from_slice(part);
        }
        true
    }

    /// Takes everything out, in order: each run is to be sent by the socket that its exit names.
    pub fn each(&mut self, mut send: impl FnMut(E, &Run)) {
        for (exit, run) in self.exits.drain(..).zip(&self.runs) {
            send(exit, run);
        }
    }
}

impl Run {
    /// Sends it; gives how many of its datagrams are lost. Without a socket all are.
    pub fn send(&self, socket: Option<&mut UdpSocket>) -> u64 {
        socket.map_or(self.count, |socket| socket.send(self)) as u64
    }

    fn takes(&self, length: usize) -> bool {
        !self.ended
            && length <= self.segment
            && self.count < MAX_SEGMENTS
            && self.bytes.len() + length <= MAX_RUN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(exit: u8, port: u16) -> Key<u8> {
        Key {
            exit,
            to: SocketAddr::from(([127, 0, 0, 1], port)),
            source: None,
            dont_fragment: false,
        }
    }

    #[test]
    fn equal_datagrams_to_one_place_leave_together() {
        let mut sends = Sends::new();
        for size in [100, 100, 40, 100, 0, 0, 1500, 1500] {
            assert!(sends.push(key(1, 9), &[&vec![7; size]]));
            assert!(sends.push(key(2, 9), &[&[1; 60], &[2; 40]]));
        }
        let runs = |sends: &Sends<u8>, exit: u8| -> Vec<(usize, usize)> {
            let all = sends.exits.iter().zip(&sends.runs);
            let of = all.filter(|(e, _)| **e == exit);
            of.map(|(_, run)| (run.count, run.bytes.len())).collect()
        };
        let expected = [(3, 240), (2, 100), (1, 0), (1, 1500), (1, 1500)];
        assert_eq!(runs(&sends, 1), expected);
        assert_eq!(runs(&sends, 2), [(8, 800)]);
        let mut lost = 0;
        sends.each(|_, run| lost += run.send(None));
        assert_eq!(lost, 16, "all lost without a socket");
        assert!(sends.exits.is_empty());
    }

    #[test]
    fn a_full_table_says_so_and_keeps_order() {
        let mut sends = Sends::new();
        for port in 0..MAX_RUNS as u16 {
            assert!(sends.push(key(0, 1 + port), &[&[0; 10]]));
        }
        assert!(!sends.push(key(0, 9999), &[&[0; 10]]));
        assert!(sends.push(key(0, 5), &[&[0; 10]]), "one that has its place");
    }

    #[test]
    fn appetite_follows_what_comes() {
        let mut appetite = Appetite::LEAST;
        for expected in [2, 4, 8, 16, 32, 32] {
            appetite.learn(appetite.buffers());
            assert_eq!(appetite.buffers(), expected);
        }
        for expected in [16, 8, 4, 2, 2] {
            appetite.learn(1);
            assert_eq!(appetite.buffers(), expected);
        }
        appetite.learn(0);
        assert_eq!(appetite.buffers(), 1);
    }
}

//! UDP in batches: what one call receives, and what leaves in as few calls as possible.
//!
//! ```text
//!   recvmmsg, GRO ─▶ Received: up to 32 buffers of equal datagrams
//!   push(exit, to, bytes) ─▶ Run: equal datagrams to one place ─▶ several: sendmsg with UDP_SEGMENT
//!                                                              ─▶ one each, by one socket: sendmmsg
//! ```
//!
//! Datagrams to one place keep their order. They are copied once, into the run that they leave in: a kilobyte costs less
//! than a hundredth of a call.

mod gather;

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt,
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Protocol, SockAddr, Socket, Type};

use super::SetDontFragment;
use crate::sockets::unbound;
pub(super) use gather::{Key, Sends};
use gather::{MAX_RUNS, Run};

/// What one receive call may put into one buffer (GRO).
const RECEIVE_BUFFER: usize = 65_535;

/// What one call sends to many places, beside their bytes. The kernel's view of it is full of pointers, so it stays with its thread.
struct Envelopes {
    headers: MultiHeaders<SockaddrStorage>,
    to: Vec<Option<SockaddrStorage>>,
}

thread_local! {
    static ENVELOPES: RefCell<Envelopes> = RefCell::new(Envelopes {
        headers: MultiHeaders::preallocate(MAX_RUNS, None),
        to: Vec::with_capacity(MAX_RUNS),
    });
}

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
        let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
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
        hear_no_more_than_needed(&socket, local)?;
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

    /// Sends runs in their order; gives how many of their datagrams are lost.
    fn send_all(&mut self, runs: &[Run]) -> usize {
        let (mut rest, mut lost) = (runs, 0);
        while let Some(first) = rest.first() {
            let alike =
                |run: &&Run| run.is_plain() && run.key.dont_fragment == first.key.dont_fragment;
            let together = rest.iter().take_while(alike).count().max(1);
            lost += match together {
                1 => self.send(first),
                _ => self.send_each(&rest[..together]),
            };
            rest = &rest[together..];
        }
        lost
    }

    /// Sends runs of one datagram each in one call, if all goes well.
    fn send_each(&mut self, runs: &[Run]) -> usize {
        if self.hold_fragmentation(runs[0].key.dont_fragment).is_err() {
            return runs.len();
        }
        let (mut rest, mut lost) = (runs, 0);
        while let Some(last) = rest.len().checked_sub(1) {
            let sent = self.call_each(rest).unwrap_or(0);
            rest = &rest[sent..];
            // What the call has ended at is tried alone, and the others after it.
            if sent <= last {
                lost += usize::from(self.send_one(&rest[0], &rest[0].bytes).is_err());
                rest = &rest[1..];
            }
        }
        lost
    }

    fn call_each(&self, runs: &[Run]) -> io::Result<usize> {
        let runs = &runs[..runs.len().min(MAX_RUNS)];
        let bytes: [[IoSlice<'_>; 1]; MAX_RUNS] = std::array::from_fn(|at| {
            let run = runs.get(at);
            [IoSlice::new(run.map_or(&[], |run| &run.bytes))]
        });
        ENVELOPES.with_borrow_mut(|Envelopes { headers, to }| {
            to.clear();
            to.extend(runs.iter().map(|run| Some(run.key.to.into())));
            let sent = sendmmsg(
                self.socket.as_raw_fd(),
                headers,
                &bytes[..runs.len()],
                to,
                [] as [ControlMessage<'_>; 0],
                MsgFlags::empty(),
            )?;
            Ok(sent.count())
        })
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
        if segment_size.is_none() && run.key.source.is_none() {
            let sent = self.socket.send_to(contents, &SockAddr::from(run.key.to));
            return sent.map(drop);
        }
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

/// Switches off what quinn-udp asks the kernel for and nobody here reads. Each is a copy into the control data of every datagram:
/// its time, its TOS byte, and on a socket with one address that address.
fn hear_no_more_than_needed(socket: &Socket, local: SocketAddr) -> nix::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &false)?;
    let everywhere = local.ip().is_unspecified();
    match local {
        SocketAddr::V4(_) => {
            setsockopt(socket, sockopt::IpRecvTos, &false)?;
            setsockopt(socket, sockopt::Ipv4PacketInfo, &everywhere)
        }
        SocketAddr::V6(_) => {
            setsockopt(socket, sockopt::Ipv6RecvTClass, &false)?;
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &everywhere)
        }
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
    /// The address of ours that they came to, where the socket has several.
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

/// The same for a socket that mostly has one datagram: one buffer, for a second costs a look that finds nothing. It is offered
/// more while it is found full in one round after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sip {
    buffers: usize,
    round: u32,
    full: bool,
}

impl Sip {
    pub const LEAST: Self = Self {
        buffers: 1,
        round: 0,
        full: false,
    };

    /// For this round; rounds are counted.
    pub fn buffers(&mut self, round: u32) -> usize {
        let again = self.full && round.wrapping_sub(self.round) == 1;
        self.buffers = if again {
            (self.buffers * 2).min(BATCH_SIZE)
        } else {
            1
        };
        self.round = round;
        self.buffers
    }

    /// After a call that filled `count`.
    pub fn learn(&mut self, count: usize) {
        self.full = count >= self.buffers;
    }
}

/// Sends them; gives how many datagrams are lost. Without a socket all are.
pub(super) fn send_runs(runs: &[Run], socket: Option<&mut UdpSocket>) -> u64 {
    let all = || runs.iter().map(|run| run.count).sum();
    socket.map_or_else(all, |socket| socket.send_all(runs)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_sip_grows_only_while_every_round_finds_it_full() {
        let mut sip = Sip::LEAST;
        // Round, datagrams that wait, buffers offered.
        for (round, wait, offered) in [
            (1, 1, 1),
            (9, 1, 1),
            (10, 7, 2),
            (11, 5, 4),
            (12, 1, 8),
            (13, 1, 1),
            (14, 1, 2),
            (20, 9, 1),
        ] {
            assert_eq!(sip.buffers(round), offered, "round {round}");
            sip.learn(offered.min(wait));
        }
    }

    fn no_fragmentation(_: BorrowedFd<'_>, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn bound(address: &str) -> UdpSocket {
        let address = address.parse().unwrap();
        UdpSocket::bind(address, Share::No, 1 << 20, no_fragmentation).unwrap()
    }

    #[test]
    fn one_call_serves_many_and_one_that_fails_takes_no_other_with_it() {
        let (mut from, to) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
        let mut sends = Sends::new();
        // Port 0 is nowhere.
        let nowhere = Key {
            exit: 0,
            to: SocketAddr::from(([127, 0, 0, 1], 0)),
            source: None,
            dont_fragment: false,
        };
        let good = Key {
            to: to.local(),
            ..nowhere
        };
        for (number, place) in [good, nowhere, good, good, nowhere].into_iter().enumerate() {
            // A longer one each time, so that none joins the one before.
            assert!(sends.push(place, &[&vec![number as u8; 10 + number]]));
        }
        let mut lost = 0;
        sends.each(|_, runs| lost += send_runs(runs, Some(&mut from)));
        assert_eq!(lost, 2);
        let mut buffers = ReceiveBuffers::default();
        let count = buffers.receive(&to, 8);
        let got: Vec<(SocketAddr, usize, Option<IpAddr>)> = buffers
            .received(count)
            .flat_map(|one| {
                let of = |datagram: &[u8]| (one.from, datagram.len(), one.to);
                one.datagrams().map(of).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(got, [10, 12, 13].map(|size| (from.local(), size, None)));
    }

    #[test]
    fn a_socket_of_many_addresses_still_says_which() {
        for (everywhere, one) in [("0.0.0.0:0", "127.0.0.3"), ("[::]:0", "::1")] {
            let socket = bound(everywhere);
            let one: IpAddr = one.parse().unwrap();
            let from = std::net::UdpSocket::bind(SocketAddr::new(one, 0)).unwrap();
            let to = SocketAddr::new(one, socket.local().port());
            from.send_to(b"hello", to).unwrap();
            let mut buffers = ReceiveBuffers::default();
            let count = buffers.receive(&socket, 1);
            let said = buffers
                .received(count)
                .map(|one| one.to)
                .collect::<Vec<_>>();
            assert_eq!(said, [Some(one)], "{everywhere}");
        }
    }
}

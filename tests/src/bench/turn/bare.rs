//! The loop without logic: datagrams in by recvmmsg from one port, out of a socket for each flow, and back.
//!
//! It does what no server can leave out (one system call for many datagrams in, one for each of another flow out, GSO where
//! they belong to one) and nothing else: which socket is next stands in the datagram. A relay hears any peer and sends to any, so
//! its sockets are not connected: each datagram looks up its route, as that of a server does. One thread serves all.

use super::generator::{INDEX_AT, batch_receive};
use crate::lab::Host;
use crate::traffic;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg, sendto, setsockopt,
    sockopt,
};
use nix::sys::time::TimeValLike;
use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

/// The token of the port clients send to.
const PORT: u64 = u64::MAX;
/// Datagrams to clients that leave in one call.
const GATHER: usize = 64;

pub struct Bare {
    pub port: SocketAddr,
    /// Where peers find the flows.
    pub relayed: Vec<SocketAddr>,
    micros: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    /// With a socket for each flow; all of them send to `peer`.
    pub fn start(host: &Host, flows: usize, peer: SocketAddr) -> Self {
        let port = traffic::udp(host, SocketAddr::new(host.v4().into(), 0));
        let relays: Vec<UdpSocket> = (0..flows)
            .map(|_| traffic::udp(host, SocketAddr::new(host.v4().into(), 0)))
            .collect();
        let SocketAddr::V4(peer) = peer else {
            panic!("the lab's LAN is IPv4");
        };
        let peer = SockaddrIn::from(peer);
        for socket in relays.iter().chain([&port]) {
            socket.set_nonblocking(true).expect("it is a socket");
            setsockopt(socket, sockopt::UdpGroSegment, &true).expect("GRO");
        }
        setsockopt(&port, sockopt::RcvBufForce, &(7 << 20)).expect("a buffer");
        let at = |socket: &UdpSocket| socket.local_addr().expect("bound");
        let (own, relayed) = (at(&port), relays.iter().map(at).collect());
        let (micros, stop) = (Arc::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (micros, stop) = (Arc::clone(&micros), Arc::clone(&stop));
            move || serve(&port, &relays, &peer, &micros, &stop)
        });
        Self {
            port: own,
            relayed,
            micros,
            stop,
            thread: Some(thread),
        }
    }

    /// Processor seconds so far.
    pub fn cpu(&self) -> f64 {
        self.micros.load(Relaxed) as f64 / 1e6
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

fn serve(
    port: &UdpSocket,
    relays: &[UdpSocket],
    peer: &SockaddrIn,
    micros: &AtomicU64,
    stop: &AtomicBool,
) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let watch = |socket: &UdpSocket, token| {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(socket.as_fd(), event).expect("followed");
    };
    watch(port, PORT);
    for (index, relay) in relays.iter().enumerate() {
        watch(relay, index as u64);
    }
    let mut clients =
        vec![SockaddrIn::from(SocketAddrV4::new([0, 0, 0, 0].into(), 0)); relays.len()];
    let mut headers = MultiHeaders::preallocate(GATHER, None);
    let mut events = vec![EpollEvent::empty(); 256];
    while !stop.load(Relaxed) {
        let count = epoll
            .wait(&mut events, EpollTimeout::from(20u8))
            .unwrap_or_default();
        let mut back: Vec<(usize, Vec<u8>)> = Vec::new();
        for event in &events[..count] {
            if event.data() == PORT {
                batch_receive(port, &mut |from, bytes, segment| {
                    let index = index_in(bytes).min(relays.len() - 1);
                    if let Some(from) = from {
                        clients[index] = from;
                    }
                    send_group(&relays[index], bytes, segment, peer);
                });
            } else {
                let index = event.data() as usize;
                batch_receive(&relays[index], &mut |_, bytes, segment| {
                    if segment < bytes.len() {
                        send_group(port, bytes, segment, &clients[index]);
                    } else {
                        back.push((index, bytes.to_vec()));
                    }
                });
            }
        }
        for some in back.chunks(GATHER) {
            let to: Vec<Option<SockaddrIn>> = some
                .iter()
                .map(|(index, _)| Some(clients[*index]))
                .collect();
            let slices: Vec<[IoSlice<'_>; 1]> = some
                .iter()
                .map(|(_, bytes)| [IoSlice::new(bytes)])
                .collect();
            let _ = sendmmsg(
                port.as_raw_fd(),
                &mut headers,
                &slices,
                to,
                [] as [ControlMessage<'_>; 0],
                MsgFlags::empty(),
            );
        }
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread has used something");
        let total = usage.user_time() + usage.system_time();
        micros.store(total.num_microseconds() as u64, Relaxed);
    }
}

fn index_in(bytes: &[u8]) -> usize {
    let number = bytes.get(INDEX_AT..INDEX_AT + 4);
    number.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

fn send_group(socket: &UdpSocket, bytes: &[u8], segment: usize, to: &SockaddrIn) {
    let fd = socket.as_raw_fd();
    if segment >= bytes.len() {
        let _ = sendto(fd, bytes, to, MsgFlags::empty());
        return;
    }
    let size = segment as u16;
    let control = [ControlMessage::UdpGsoSegments(&size)];
    let slices = [IoSlice::new(bytes)];
    let _ = sendmsg(fd, &slices, &control, MsgFlags::empty(), Some(to));
}

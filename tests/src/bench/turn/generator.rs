//! What is sent through a server, and counted where it comes out.

use crate::lab::Host;
use crate::traffic;
use anode_turn::client::{Client, Config, Credentials, Event};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg,
    setsockopt, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where a flow's number stands: behind a channel's header.
pub const INDEX_AT: usize = 4;
/// Datagrams received in one call.
const BATCH: usize = 32;
/// The largest group that the kernel joins.
const GROUP: usize = 65_536;

/// One allocation of ours, its channel bound to the peer.
pub struct Flow {
    pub socket: UdpSocket,
    pub relayed: SocketAddr,
    channel: [u8; 2],
}

/// Gets who sent it, a group, and how large its datagrams are.
pub type Each<'a> = &'a mut dyn FnMut(Option<SockaddrIn>, &[u8], usize);

/// Receives what is there, as far as one call goes; whether there may be more.
pub fn batch_receive(socket: &UdpSocket, each: Each<'_>) -> bool {
    thread_local! {
        static BUFFERS: std::cell::RefCell<Vec<Vec<u8>>> =
            std::cell::RefCell::new(vec![vec![0; GROUP]; BATCH]);
    }
    BUFFERS.with_borrow_mut(|buffers| {
        let mut headers =
            MultiHeaders::<SockaddrIn>::preallocate(BATCH, Some(nix::cmsg_space!(i32)));
        let mut got = Vec::with_capacity(BATCH);
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let received = recvmmsg(
                socket.as_raw_fd(),
                &mut headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            );
            let Ok(received) = received else {
                return false;
            };
            for message in received {
                let segment = message.cmsgs().ok().and_then(|mut all| {
                    all.find_map(|control| match control {
                        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                        _ => None,
                    })
                });
                let segment = segment.unwrap_or(message.bytes).max(1);
                got.push((message.address, message.bytes, segment));
            }
        }
        let more = got.len() == BATCH;
        for ((from, length, segment), buffer) in got.into_iter().zip(buffers.iter()) {
            each(from, &buffer[..length], segment);
        }
        more
    })
}

/// Makes so many allocations, a window of them at a time; their channels are not bound.
pub struct Opening {
    clients: Vec<(UdpSocket, Client)>,
}

impl Opening {
    pub fn allocate(host: &Host, sources: &[IpAddr], server: SocketAddr, flows: usize) -> Self {
        let mut clients = Vec::with_capacity(flows);
        for number in 0..flows {
            // Servers hold each source to so many first requests a second.
            let own = sources[number % sources.len()];
            let socket = traffic::udp(host, SocketAddr::new(own, 0));
            let soon = Some(Duration::from_millis(20));
            socket.set_read_timeout(soon).expect("a timeout");
            socket.connect(server).expect("a way there");
            let credentials = Credentials {
                name: "lab".to_owned(),
                password: "lab".to_owned().into(),
            };
            let config = Config {
                credentials: Some(credentials),
                require_integrity: false,
                ..Config::default()
            };
            let mut seed = [7; 32];
            seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let now = Instant::now();
            let mut client = Client::new(now, config, server, seed);
            client.start(now).expect("nothing is in the way");
            until(&socket, &mut client, |event| {
                matches!(event, Event::Allocated { .. })
            });
            clients.push((socket, client));
        }
        Self { clients }
    }

    /// Binds a channel of each to the peer.
    pub fn bind(self, peer: SocketAddr) -> Vec<Flow> {
        let bind = |(socket, mut client): (UdpSocket, Client)| {
            client.bind(Instant::now(), peer);
            until(&socket, &mut client, |event| *event == Event::Bound(peer));
            let anode_turn::client::Outgoing::Now(header) = client.send(Instant::now(), peer, b"")
            else {
                panic!("the channel is bound");
            };
            let bytes = header.bytes();
            Flow {
                relayed: client.relayed()[0],
                channel: [bytes[0], bytes[1]],
                socket,
            }
        };
        self.clients.into_iter().map(bind).collect()
    }
}

fn until(socket: &UdpSocket, client: &mut Client, wanted: impl Fn(&Event) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut buffer = [0; 2048];
    loop {
        while let Some(bytes) = client.poll_transmit() {
            socket.send(&bytes).expect("sent");
        }
        while let Some(event) = client.poll_event() {
            if wanted(&event) {
                return;
            }
            assert!(!matches!(event, Event::Ended { .. }), "{event:?}");
        }
        assert!(Instant::now() < deadline, "the server does not answer");
        client.handle_timeout(Instant::now());
        if let Ok(length) = socket.recv(&mut buffer) {
            client.handle(Instant::now(), &buffer[..length]);
        }
    }
}

/// Sockets of flows without a server between: what they send has the same bytes.
pub fn bare_flows(host: &Host, port: SocketAddr, relayed: &[SocketAddr]) -> Vec<Flow> {
    let flow = |relayed: &SocketAddr| {
        let socket = traffic::udp(host, SocketAddr::new(host.v4().into(), 0));
        socket.connect(port).expect("a way there");
        Flow {
            socket,
            relayed: *relayed,
            channel: [0x40, 0],
        }
    };
    relayed.iter().map(flow).collect()
}

/// Counts what arrives at sockets, until it is dropped.
pub struct Sink {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub fn start(sockets: Vec<UdpSocket>) -> Self {
        let (count, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        for socket in &sockets {
            setsockopt(socket, sockopt::UdpGroSegment, &true).expect("GRO");
            // With thousands of them each needs little.
            if sockets.len() < 100 {
                setsockopt(socket, sockopt::RcvBufForce, &(7 << 20)).expect("a buffer");
            }
        }
        let thread = std::thread::spawn({
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            move || {
                let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
                for (index, socket) in sockets.iter().enumerate() {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
                    epoll.add(socket.as_fd(), event).expect("followed");
                }
                let mut events = vec![EpollEvent::empty(); 256];
                while !stop.load(Relaxed) {
                    // What waits a moment comes in larger groups.
                    std::thread::sleep(Duration::from_millis(1));
                    let ready = epoll.wait(&mut events, EpollTimeout::from(10u8));
                    for event in &events[..ready.unwrap_or_default()] {
                        let socket = &sockets[event.data() as usize];
                        // One call a millisecond would be a limit of its own.
                        while batch_receive(socket, &mut |_, bytes, segment| {
                            count.fetch_add(bytes.len().div_ceil(segment) as u64, Relaxed);
                        }) {}
                    }
                }
            }
        });
        Self {
            count,
            stop,
            thread: Some(thread),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From clients to the peer.
    Up,
    /// Back.
    Down,
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub way: Way,
    /// Bytes of payload.
    pub size: usize,
    /// Datagrams of one flow that leave in one call.
    pub burst: usize,
    /// Datagrams a second.
    pub rate: f64,
}

/// Sends at a rate, flow after flow, for a while; how many datagrams.
pub fn send(flows: &[Flow], peer: &UdpSocket, load: Load, length: Duration) -> u64 {
    let header = if load.way == Way::Up { INDEX_AT } else { 0 };
    let segment = load.size + header;
    let mut groups: Vec<(Vec<u8>, Option<SockaddrIn>)> = Vec::with_capacity(flows.len());
    for (index, flow) in flows.iter().enumerate() {
        let mut one = Vec::with_capacity(segment);
        if load.way == Way::Up {
            one.extend_from_slice(&flow.channel);
            one.extend_from_slice(&(load.size as u16).to_be_bytes());
        }
        one.extend_from_slice(&(index as u32).to_be_bytes());
        one.resize(segment, 0x5a);
        let to = match (load.way, flow.relayed) {
            (Way::Down, SocketAddr::V4(at)) => {
                Some(SockaddrIn::from(SocketAddrV4::new(*at.ip(), at.port())))
            }
            _ => None,
        };
        groups.push((one.repeat(load.burst), to));
    }
    let size = segment as u16;
    let offload = [ControlMessage::UdpGsoSegments(&size)];
    let control: &[ControlMessage<'_>] = if load.burst > 1 { &offload } else { &[] };
    let (start, mut sent, mut next) = (Instant::now(), 0_u64, 0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            return sent;
        }
        let due = (elapsed.as_secs_f64() * load.rate) as u64;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(300));
            continue;
        }
        // What was missed in a longer pause is not made up for in one blow.
        for _ in 0..(due - sent).div_ceil(load.burst as u64).min(256) {
            let (bytes, to) = &groups[next];
            let socket = match load.way {
                Way::Up => &flows[next].socket,
                Way::Down => peer,
            };
            let slices = [IoSlice::new(bytes)];
            let taken = sendmsg(
                socket.as_raw_fd(),
                &slices,
                control,
                MsgFlags::empty(),
                to.as_ref(),
            );
            sent += load.burst as u64 * u64::from(taken.is_ok());
            next = (next + 1) % groups.len();
        }
    }
}

/// One datagram of a flow, up.
pub fn send_one(flow: &Flow, size: usize) {
    let mut bytes = flow.channel.to_vec();
    bytes.extend_from_slice(&(size as u16).to_be_bytes());
    bytes.resize(INDEX_AT + size, 0);
    flow.socket.send(&bytes).expect("sent");
}

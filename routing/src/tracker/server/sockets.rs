//! The tracker's sockets, and the loop of its datagrams.
use super::{Tracker, count};
use crate::sockets::{on_one_port, unbound};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};

/// Longer datagrams are cut: a scrape of 74 hashes has 1,496 bytes, an announce with options seldom more than 200.
const DATAGRAM: usize = 2_048;
/// Batches that are answered before others of the thread have their turn.
const BATCHES: usize = 16;
/// Kernel buffers asked for.
const SOCKET_BUFFER: usize = 4 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Sockets that are bound and not yet served: a right to low ports can be given up in between.
pub struct Listeners {
    udp: Vec<Socket>,
    tcp: Vec<Socket>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds each address for both protocols. With port 0, to the same free port of both. The error names the address.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut bound = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            addresses: Vec::new(),
        };
        for address in addresses {
            let (udp, tcp, at) = on_one_port(*address, pair).map_err(|error| (*address, error))?;
            bound.udp.push(udp);
            bound.tcp.push(tcp);
            bound.addresses.push(at);
        }
        Ok(bound)
    }

    /// With the ports that were found.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn into_sockets(self) -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
        let udp = self.udp.into_iter();
        let udp = udp.map(|socket| UdpSocket::from_std(socket.into()));
        let tcp = self.tcp.into_iter();
        let tcp = tcp.map(|socket| TcpListener::from_std(socket.into()));
        Ok((
            udp.collect::<io::Result<_>>()?,
            tcp.collect::<io::Result<_>>()?,
        ))
    }
}

fn pair(address: SocketAddr) -> io::Result<(Socket, Socket, SocketAddr)> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    let bound = tcp.local_addr()?;
    let at = bound
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))?;
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    udp.bind(&at.into())?;
    tcp.listen(BACKLOG)?;
    // What the system does not grant is not an error.
    let _ = udp.set_recv_buffer_size(SOCKET_BUFFER);
    Ok((udp, tcp, at))
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = unbound(address, kind, protocol)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Answers datagrams, each from the address that it came to: clients hear no other.
pub(super) async fn serve(tracker: Arc<Tracker>, socket: UdpSocket) {
    let state = match UdpSocketState::new((&socket).into()) {
        Ok(state) => state,
        Err(error) => return tracing::error!(%error, "a tracker's socket"),
    };
    let mut bytes = vec![0; DATAGRAM * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut answers = Answers::default();
    loop {
        if let Err(error) = socket.readable().await {
            return tracing::error!(%error, "a tracker's socket");
        }
        for _ in 0..BATCHES {
            let mut chunks = bytes.chunks_exact_mut(DATAGRAM);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let received = socket.try_io(Interest::READABLE, || {
                state.recv((&socket).into(), &mut slices, &mut metas)
            });
            let received = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Word of an earlier answer that did not arrive.
                Err(_) => continue,
            };
            answers.of_batch(&tracker, &bytes, &metas[..received]);
            answers.send(&tracker, &socket, &state);
            if received < BATCH_SIZE {
                break;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Answers of one batch, one after the other in one buffer.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// Which of the batch's datagrams, and where the answer ends.
    ends: Vec<(SocketAddr, Option<std::net::IpAddr>, usize)>,
}

impl Answers {
    fn of_batch(&mut self, tracker: &Tracker, bytes: &[u8], metas: &[RecvMeta]) {
        self.bytes.clear();
        self.ends.clear();
        let now = Instant::now();
        let mut state = tracker.state();
        let state = &mut *state;
        for (meta, chunk) in metas.iter().zip(bytes.chunks_exact(DATAGRAM)) {
            let received = &chunk[..meta.len.min(DATAGRAM)];
            // Datagrams of one client that came together lie in one piece (GRO).
            for datagram in received.chunks(meta.stride.max(1)) {
                count(&tracker.counters.rx_datagrams);
                let answered =
                    state
                        .server
                        .udp(meta.addr, datagram, now, &mut state.rng, &mut self.bytes);
                if answered {
                    self.ends.push((meta.addr, meta.dst_ip, self.bytes.len()));
                }
            }
        }
    }

    fn send(&self, tracker: &Tracker, socket: &UdpSocket, state: &UdpSocketState) {
        let mut start = 0;
        for (to, from, end) in &self.ends {
            let transmit = Transmit {
                destination: *to,
                ecn: None,
                contents: &self.bytes[start..*end],
                segment_size: None,
                src_ip: *from,
            };
            start = *end;
            // One that finds no room is lost, and asked for again.
            let sent = socket.try_io(Interest::WRITABLE, || {
                state.try_send(socket.into(), &transmit)
            });
            count(match sent {
                Ok(()) => &tracker.counters.tx_datagrams,
                Err(_) => &tracker.counters.tx_refused,
            });
        }
    }
}

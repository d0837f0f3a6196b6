//! UDP sockets with what the kernel offers: segmentation offload both ways, ECN, batched calls (through quinn-udp).
use super::NetError;
use crate::anode::{Ecn, Onward, Place, Received, TransmitBatch};
use crate::sockets::unbound;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// The port of Anode (A55).
pub(super) const PORT: u16 = 8737;
/// Kernel buffers asked for; a system that grants less is served with less.
const SOCKET_BUFFER: usize = 7 << 20;
/// Buffers offered to a socket that was not full.
const FEW: usize = 4;
/// What one receive call may put into one buffer (GRO).
const RECEIVE_BUFFER: usize = 65_535;

/// Packets of a batch that the network did not take.
#[derive(Clone, Copy, Default)]
pub(super) struct Refused {
    pub packets: usize,
    /// Because of their size.
    pub too_large: bool,
}

/// A bound, non-blocking UDP socket.
pub(super) struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl UdpSocket {
    /// Takes a bound socket into service.
    pub fn new(socket: Socket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("not an IP socket"))?;
        Ok(Self {
            socket,
            state,
            local,
        })
    }

    /// Asks for room; what the system does not grant is not an error.
    fn ask_for_buffers(&self) {
        let (state, socket) = (&self.state, &self.socket);
        let _ = state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER);
        let _ = state.set_send_buffer_size(socket.into(), SOCKET_BUFFER);
    }

    /// The address it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Packets that one call takes: 1 without offload.
    pub fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends what is relayed from where it lies. False: nothing was taken, as it does not go over UDP, or there is no room.
    pub fn send_onward(&self, packets: &Onward<'_>) -> bool {
        let Some(destination) = packets.destination.to.udp() else {
            return false;
        };
        let max_bytes = packets.segment_size * self.max_segments();
        for call in packets.bytes.chunks(max_bytes.max(1)) {
            let transmit = Transmit {
                destination,
                ecn: to_codepoint(packets.ecn),
                contents: call,
                segment_size: Some(packets.segment_size),
                src_ip: packets.destination.source,
            };
            if self
                .state
                .try_send((&self.socket).into(), &transmit)
                .is_err()
            {
                return false;
            }
        }
        true
    }

    /// Sends a batch; returns what of it the network refused. `WouldBlock`: nothing was taken.
    pub fn send(&self, batch: &TransmitBatch) -> io::Result<Refused> {
        let source = batch.destination.source;
        match self.try_send(batch, &batch.contents, Some(batch.segment_size), source) {
            Ok(()) => Ok(Refused::default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // The device refuses offload (quinn-udp then stops using it), or the source address is gone, or one packet is
            // too large for the interface: packet by packet, each on its own.
            Err(_) => {
                let mut refused = Refused::default();
                for packet in batch.packets() {
                    if let Err(error) = self.try_send(batch, packet, None, None) {
                        refused.packets += 1;
                        refused.too_large |= error.raw_os_error() == Some(nix::libc::EMSGSIZE);
                    }
                }
                Ok(refused)
            }
        }
    }

    fn try_send(
        &self,
        batch: &TransmitBatch,
        contents: &[u8],
        segment_size: Option<usize>,
        src_ip: Option<IpAddr>,
    ) -> io::Result<()> {
        let Some(destination) = batch.destination.to.udp() else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let transmit = Transmit {
            destination,
            ecn: to_codepoint(batch.ecn),
            contents,
            segment_size,
            src_ip,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

fn to_codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotCapable => None,
        Ecn::Capable0 => Some(EcnCodepoint::Ect0),
        Ecn::Capable1 => Some(EcnCodepoint::Ect1),
        Ecn::Experienced => Some(EcnCodepoint::Ce),
    }
}

fn from_codepoint(ecn: Option<EcnCodepoint>) -> Ecn {
    match ecn {
        None => Ecn::NotCapable,
        Some(EcnCodepoint::Ect0) => Ecn::Capable0,
        Some(EcnCodepoint::Ect1) => Ecn::Capable1,
        Some(EcnCodepoint::Ce) => Ecn::Experienced,
    }
}

/// Bytes that one batch may bring. What is received is read, raised, sealed or opened, and sent again: that is cheap while
/// it still lies in the processor's second cache, which has 256 KiB and more.
const BATCH_BYTES: usize = 128 << 10;

/// Buffers for one batch of receive calls; their pages are touched only as far as packets fill them.
pub(super) struct ReceiveBuffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    /// Buffers offered to the next call. Each costs its preparation, so a socket that had little is offered few; and large
    /// groups get no more than fit the cache.
    offered: usize,
}

impl ReceiveBuffers {
    pub fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BUFFER * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            offered: FEW,
        }
    }

    /// Takes what is waiting at the socket, up to [`BATCH_SIZE`] groups. True if more may be waiting. `Received::socket` is for
    /// the caller to set.
    pub fn receive(&mut self, socket: &UdpSocket, each: &mut dyn FnMut(Received<'_>)) -> bool {
        let mut taken = 0;
        while taken < BATCH_SIZE {
            let wanted = self.offered.min(BATCH_SIZE - taken);
            match self.take(socket, wanted, each) {
                Ok(count) if count == wanted => taken += count,
                Ok(_) => return false,
                // An ICMP error of an earlier packet (ECONNREFUSED and its like): it says nothing that EPC does not know better.
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// One call for at most `wanted` groups; how many came.
    fn take(
        &mut self,
        socket: &UdpSocket,
        wanted: usize,
        each: &mut dyn FnMut(Received<'_>),
    ) -> io::Result<usize> {
        let mut chunks = self.bytes.chunks_exact_mut(RECEIVE_BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for slice in &mut slices[..wanted] {
            *slice = IoSliceMut::new(chunks.next().unwrap_or_default());
        }
        let count = socket.state.recv(
            (&socket.socket).into(),
            &mut slices[..wanted],
            &mut self.metas[..wanted],
        )?;
        for (meta, chunk) in self
            .metas
            .iter()
            .zip(self.bytes.chunks_exact_mut(RECEIVE_BUFFER))
            .take(count)
        {
            each(Received {
                from: Place::Udp(meta.addr),
                socket: 0,
                local_ip: meta.dst_ip,
                ecn: from_codepoint(meta.ecn),
                bytes: &mut chunk[..meta.len.min(RECEIVE_BUFFER)],
                segment_size: meta.stride.max(1),
            });
        }
        let bytes: usize = self.metas[..count].iter().map(|meta| meta.len).sum();
        let fitting = (BATCH_BYTES * count / bytes.max(1)).clamp(1, BATCH_SIZE);
        self.offered = if count == wanted {
            fitting
        } else {
            fitting.min(FEW)
        };
        Ok(count)
    }
}

/// A socket on an address that the operator named.
pub(super) fn open(address: SocketAddr) -> Result<UdpSocket, NetError> {
    bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => NetError::PortBusy(address),
        _ => NetError::Listen { address, error },
    })
}

/// The sockets of a node nobody told where to listen: all addresses of both families, one port, 8737 if it is free.
pub(super) fn open_default() -> io::Result<Vec<UdpSocket>> {
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for port in [PORT, 0, 0, 0] {
        match open_pair(port) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open_pair(port: u16) -> io::Result<Vec<UdpSocket>> {
    let v4 = match bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        other => other,
    };
    let port = v4.as_ref().map_or(port, |socket| socket.local().port());
    match (v4, bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))) {
        (Ok(v4), Ok(v6)) => Ok(vec![v4, v6]),
        // Half of the port is somebody else's.
        (_, Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // A machine without one of the families.
        (Ok(v4), Err(_)) => Ok(vec![v4]),
        (Err(_), Ok(v6)) => Ok(vec![v6]),
        (Err(error), Err(_)) => Err(error),
    }
}

/// One of many, with the buffers that the system gives unasked.
pub(super) fn open_small(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&address.into())?;
    UdpSocket::new(socket)
}

/// One that sends and hears over one interface alone, whatever the routes say; Linux lets everybody do that since 5.7.
pub(super) fn open_over(address: SocketAddr, device: &str) -> io::Result<UdpSocket> {
    let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(&address.into())?;
    let udp = UdpSocket::new(socket)?;
    udp.ask_for_buffers();
    Ok(udp)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
    if address.is_ipv4() {
        socket.set_broadcast(true)?;
    }
    socket.bind(&address.into())?;
    // Only now: the port is ours alone, and yet beacon sockets (of others, too) may be bound beside it (DESIGN §5).
    socket.set_reuse_address(true)?;
    let udp = UdpSocket::new(socket)?;
    udp.ask_for_buffers();
    Ok(udp)
}

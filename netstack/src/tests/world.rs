//! A kernel made of smoltcp on the other side of a perfect interface, and a clock for both.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::packet::{IPV6_HEADER, fill_checksum, partial_checksum, protocol};
use crate::*;

pub const MACHINE: Ipv6Addr = Ipv6Addr::new(0xfda0, 0xaaaa, 0, 0, 0, 0, 0, 0x10);
pub const PEER: Ipv6Addr = Ipv6Addr::new(0xfda0, 0xbbbb, 0, 0, 0, 0, 0, 0x20);
pub const NODE: Ipv6Addr = Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 1);

pub fn config(offload: bool) -> Config {
    Config {
        offload,
        local: vec![MACHINE],
        magic_self: vec![NODE],
        prefixes: vec![(Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0), 16)],
        tcp_buffer: 32 * 1024,
        max_flows: 64,
        ..Config::default()
    }
}

/// Source, destination, payload, quote.
pub type Datagram = (SocketAddrV6, SocketAddrV6, Vec<u8>, Vec<u8>);
/// Source, destination, id, sequence, payload, quote.
pub type Echo = (Ipv6Addr, Ipv6Addr, u16, u16, Vec<u8>, Vec<u8>);
/// Source, destination, next header, payload, quote.
pub type Other = (Ipv6Addr, Ipv6Addr, u8, Vec<u8>, Vec<u8>);

/// Keeps what the netstack hands out.
#[derive(Default)]
pub struct Recorder {
    pub udp: Vec<Datagram>,
    pub echo: Vec<Echo>,
    pub other: Vec<Other>,
}

impl Sink for Recorder {
    fn udp(&mut self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8], quote: &[u8]) {
        self.udp.push((from, to, payload.to_vec(), quote.to_vec()));
    }
    fn echo(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        id: u16,
        sequence: u16,
        payload: &[u8],
        quote: &[u8],
    ) {
        self.echo
            .push((from, to, id, sequence, payload.to_vec(), quote.to_vec()));
    }
    fn other(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
        quote: &[u8],
    ) {
        self.other
            .push((from, to, next_header, payload.to_vec(), quote.to_vec()));
    }
}

/// The kernel's end of the interface.
pub struct Wire {
    offload: bool,
    mtu: usize,
    to_kernel: VecDeque<Vec<u8>>,
    from_kernel: VecDeque<Vec<u8>>,
}

pub struct Receive(Vec<u8>);
pub struct Transmit<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Receive, Transmit<'_>)> {
        let packet = self.to_kernel.pop_front()?;
        Some((Receive(packet), Transmit(&mut self.from_kernel)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.from_kernel))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        if self.offload {
            capabilities.max_transmission_unit = 65_535;
            capabilities.segmentation.tcpv6 = NonZeroUsize::new(65_535);
            // What arrives was cut and completed by `deliver`: the kernel verifies it.
            capabilities.checksum.tcp = Checksum::Rx;
        } else {
            capabilities.max_transmission_unit = self.mtu;
        }
        capabilities
    }
}

/// Netstack and kernel.
pub struct World {
    pub now: Instant,
    start: Instant,
    pub net: Netstack,
    pub events: Vec<Event>,
    pub sink: Recorder,
    pub wire: Wire,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    /// Packets to the kernel that are no TCP, as they came.
    pub datagrams: Vec<(Vec<u8>, Offload)>,
    /// Segments to the kernel, after cutting.
    pub segments_seen: usize,
    pub super_packets_seen: usize,
    /// Packets to the kernel are thrown away.
    pub cut_off: bool,
}

impl World {
    pub fn new(config: Config) -> Self {
        let now = Instant::now();
        let mut wire = Wire {
            offload: config.offload,
            mtu: usize::from(config.mtu),
            to_kernel: VecDeque::new(),
            from_kernel: VecDeque::new(),
        };
        let mut interface_config = InterfaceConfig::new(HardwareAddress::Ip);
        interface_config.random_seed = 4711;
        let mut interface =
            Interface::new(interface_config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::Ipv6(MACHINE), 16))
                .expect("room for one");
        });
        Self {
            now,
            start: now,
            net: Netstack::new(config, [7; 32]),
            events: Vec::new(),
            sink: Recorder::default(),
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            datagrams: Vec::new(),
            segments_seen: 0,
            super_packets_seen: 0,
            cut_off: false,
        }
    }

    fn socket() -> tcp::Socket<'static> {
        let ring = || tcp::SocketBuffer::new(vec![0; 16 * 1024]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = Self::socket();
        socket
            .listen(IpEndpoint::new(IpAddress::Ipv6(MACHINE), port))
            .expect("a fresh socket");
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, local: u16, to: SocketAddrV6) -> SocketHandle {
        let mut socket = Self::socket();
        socket
            .connect(
                self.interface.context(),
                IpEndpoint::new(IpAddress::Ipv6(*to.ip()), to.port()),
                IpEndpoint::new(IpAddress::Ipv6(MACHINE), local),
            )
            .expect("a fresh socket");
        self.sockets.add(socket)
    }

    pub fn kernel(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Moves packets until nothing moves.
    pub fn run(&mut self) {
        let mut out = Vec::new();
        for _ in 0..10_000 {
            let elapsed = (self.now - self.start).as_micros();
            let time =
                smoltcp::time::Instant::from_micros(i64::try_from(elapsed).expect("a short test"));
            self.interface.poll(time, &mut self.wire, &mut self.sockets);
            let mut moved = false;
            while let Some(packet) = self.wire.from_kernel.pop_front() {
                moved = true;
                self.kernel_sends(packet);
            }
            while let Some(offload) = self.net.poll_packet(self.now, &mut out) {
                moved = true;
                if !self.cut_off {
                    self.deliver(&out, offload);
                }
            }
            while let Some(event) = self.net.poll_event() {
                self.events.push(event);
            }
            if !moved {
                return;
            }
        }
        panic!("packets without end");
    }

    /// What the kernel's side of a virtio header does on transmission.
    pub fn kernel_sends(&mut self, mut packet: Vec<u8>) {
        let mut offload = Offload::default();
        if self.wire.offload && packet[6] == protocol::TCP {
            let header = IPV6_HEADER + usize::from(packet[52] >> 4) * 4;
            let to = destination(&packet);
            offload.checksum = partial_checksum(&mut packet, IPV6_HEADER, MACHINE, to, 6);
            let size = self.wire.mtu - header;
            offload.segments = (packet.len() - header > size).then_some(Segments {
                kind: SegmentKind::Tcp6,
                size: size as u16,
                header_len: header as u16,
            });
        }
        self.net
            .handle_packet(self.now, offload, &mut packet, &mut self.sink);
    }

    /// What it does on reception, done the long way: cut, complete the checksums, hand over.
    fn deliver(&mut self, packet: &[u8], offload: Offload) {
        if packet[6] != protocol::TCP {
            self.datagrams.push((packet.to_vec(), offload));
            return;
        }
        let header = IPV6_HEADER + usize::from(packet[52] >> 4) * 4;
        let Some(segments) = offload.segments else {
            assert!(
                packet.len() <= self.wire.mtu,
                "above the MTU without a size to cut at"
            );
            self.hand_over(packet.to_vec(), offload);
            return;
        };
        assert_eq!(segments.kind, SegmentKind::Tcp6);
        assert_eq!(usize::from(segments.header_len), header);
        self.super_packets_seen += 1;
        let pieces: Vec<_> = packet[header..]
            .chunks(usize::from(segments.size))
            .collect();
        for (index, piece) in pieces.iter().enumerate() {
            let mut cut = packet[..header].to_vec();
            cut.extend_from_slice(piece);
            let first = u32::from_be_bytes([packet[44], packet[45], packet[46], packet[47]]);
            let sequence = first.wrapping_add((index * usize::from(segments.size)) as u32);
            cut[44..48].copy_from_slice(&sequence.to_be_bytes());
            crate::packet::set_payload_length(&mut cut);
            if index + 1 < pieces.len() {
                cut[53] &= !0x09; // FIN and PSH belong to the last.
            }
            assert!(cut.len() <= self.wire.mtu);
            self.hand_over(cut, offload);
        }
    }

    fn hand_over(&mut self, mut packet: Vec<u8>, offload: Offload) {
        let from = etherparse::Ipv6HeaderSlice::from_slice(&packet)
            .expect("IPv6")
            .source_addr();
        if offload.checksum.is_some() {
            assert_eq!(offload.checksum, Some((40, 16)));
            fill_checksum(&mut packet, IPV6_HEADER, from, MACHINE, protocol::TCP);
        }
        self.segments_seen += 1;
        self.wire.to_kernel.push_back(packet);
    }

    /// Lets time pass, with every timer on its way.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            let elapsed = (self.now - self.start).as_micros();
            let kernel = self
                .interface
                .poll_at(
                    smoltcp::time::Instant::from_micros(
                        i64::try_from(elapsed).expect("a short test"),
                    ),
                    &self.sockets,
                )
                .map(|at| {
                    self.start
                        + Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
                });
            let net = self.net.deadline().map(|(at, _)| at);
            let next = kernel
                .into_iter()
                .chain(net)
                .min()
                .map_or(end, |at| at.min(end));
            self.now = self
                .now
                .max(next)
                .max(self.now + Duration::from_micros(1))
                .min(end);
            self.net.handle_timeout(self.now);
            self.run();
            if self.now >= end {
                return;
            }
        }
        panic!("timers without end");
    }

    pub fn wire_offload(&self) -> bool {
        self.wire.offload
    }

    /// Takes the recorded events.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A program connects and the peer accepts.
    pub fn open(&mut self, local: u16) -> (SocketHandle, FlowId) {
        let handle = self.connect(local, SocketAddrV6::new(PEER, 80, 0, 0));
        self.run();
        let flow = match self.take_events()[..] {
            [Event::TcpOpen { flow, .. }] => flow,
            ref other => panic!("expected one TcpOpen, got {other:?}"),
        };
        self.net.tcp_accept(self.now, flow);
        self.run();
        assert_eq!(self.kernel(handle).state(), tcp::State::Established);
        (handle, flow)
    }

    pub fn read_all(&mut self, flow: FlowId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.net.tcp_recv(self.now, flow, &mut |piece| {
            bytes.extend_from_slice(piece);
            piece.len()
        });
        self.run();
        bytes
    }
}

pub fn destination(packet: &[u8]) -> Ipv6Addr {
    etherparse::Ipv6HeaderSlice::from_slice(packet)
        .expect("IPv6")
        .destination_addr()
}

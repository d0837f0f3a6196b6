//! A kernel made of smoltcp against the netstack, in memory and on one thread: what TCP termination costs.
//!
//! `cargo run --release -p anode-netstack --example throughput`
//!
//! Both ends run on the same thread, so that the netstack's share is measured by the clock around its calls. The last
//! lines say what idle flows cost in memory, read from /proc where there is one.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anode_netstack::{Config, Event, FlowId, Netstack, Offload, SegmentKind, Segments, Sink};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

const MACHINE: Ipv6Addr = Ipv6Addr::new(0xfda0, 0xaaaa, 0, 0, 0, 0, 0, 0);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfda0, 0xbbbb, 0, 0, 0, 0, 0, 0);
const MTU: usize = 1280;
/// Bytes moved per measurement.
const BYTES: usize = 2 << 30;

struct Nothing;

impl Sink for Nothing {
    fn udp(&mut self, _: SocketAddrV6, _: SocketAddrV6, _: &[u8], _: &[u8]) {}
    fn echo(&mut self, _: Ipv6Addr, _: Ipv6Addr, _: u16, _: u16, _: &[u8], _: &[u8]) {}
    fn other(&mut self, _: Ipv6Addr, _: Ipv6Addr, _: u8, _: &[u8], _: &[u8]) {}
}

/// The kernel's end. Buffers go round, so that the measurement is not one of the allocator.
struct Wire {
    offload: bool,
    to_kernel: VecDeque<Vec<u8>>,
    from_kernel: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

struct Receive<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);
struct Transmit<'a>(&'a mut VecDeque<Vec<u8>>, Vec<u8>);

impl RxToken for Receive<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.0);
        self.1.push(self.0);
        result
    }
}

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, length: usize, write: F) -> R {
        self.1.resize(length, 0);
        let result = write(&mut self.1);
        self.0.push_back(self.1);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Receive<'a>;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Receive<'_>, Transmit<'_>)> {
        let packet = self.to_kernel.pop_front()?;
        let empty = self.spare.pop().unwrap_or_default();
        Some((
            Receive(packet, &mut self.spare),
            Transmit(&mut self.from_kernel, empty),
        ))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit<'_>> {
        let empty = self.spare.pop().unwrap_or_default();
        Some(Transmit(&mut self.from_kernel, empty))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        if self.offload {
            capabilities.max_transmission_unit = 65_535;
            capabilities.segmentation.tcpv6 = NonZeroUsize::new(65_535);
            capabilities.checksum.tcp = Checksum::None;
        }
        capabilities
    }
}

struct Bench {
    start: Instant,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    net: Netstack,
    out: Vec<u8>,
    /// Time spent in the netstack.
    spent: Duration,
    packets: u64,
}

impl Bench {
    fn new(offload: bool, tcp_buffer: usize) -> Self {
        let mut wire = Wire {
            offload,
            to_kernel: VecDeque::new(),
            from_kernel: VecDeque::new(),
            spare: Vec::new(),
        };
        let config = InterfaceConfig::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv6(MACHINE), 16));
        });
        let config = Config {
            offload,
            local: vec![MACHINE],
            prefixes: vec![(Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0), 16)],
            tcp_buffer,
            ..Config::default()
        };
        Self {
            start: Instant::now(),
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            net: Netstack::new(config, [1; 32]),
            out: Vec::new(),
            spent: Duration::ZERO,
            packets: 0,
        }
    }

    fn kernel(&mut self) {
        let elapsed = self.start.elapsed().as_micros();
        let now = smoltcp::time::Instant::from_micros(i64::try_from(elapsed).unwrap_or(0));
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Packets of the kernel into the netstack.
    fn up(&mut self) {
        while let Some(mut packet) = self.wire.from_kernel.pop_front() {
            let header = 40 + usize::from(packet[52] >> 4) * 4;
            let mut offload = Offload::default();
            if self.wire.offload {
                offload.checksum = Some((40, 16));
                offload.segments = (packet.len() > MTU).then_some(Segments {
                    kind: SegmentKind::Tcp6,
                    size: (MTU - header) as u16,
                    header_len: header as u16,
                });
            }
            let began = Instant::now();
            self.net
                .handle_packet(began, offload, &mut packet, &mut Nothing);
            self.spent += began.elapsed();
            self.packets += u64::from(packet.len() > header);
            self.wire.spare.push(packet);
        }
    }

    /// And back.
    fn down(&mut self) {
        loop {
            let began = Instant::now();
            let given = self.net.poll_packet(began, &mut self.out);
            self.spent += began.elapsed();
            let Some(_) = given else { return };
            self.packets += u64::from(self.out.len() > 100);
            let mut packet = self.wire.spare.pop().unwrap_or_default();
            std::mem::swap(&mut packet, &mut self.out);
            self.wire.to_kernel.push_back(packet);
        }
    }

    fn round(&mut self) {
        self.kernel();
        self.up();
        self.down();
        self.kernel();
        self.up();
    }

    fn open(&mut self, port: u16) -> (SocketHandle, FlowId) {
        let ring = || tcp::SocketBuffer::new(vec![0; 1 << 20]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.set_ack_delay(None);
        let to = IpEndpoint::new(IpAddress::Ipv6(PEER), 80);
        let from = IpEndpoint::new(IpAddress::Ipv6(MACHINE), port);
        socket
            .connect(self.interface.context(), to, from)
            .expect("a fresh socket");
        let handle = self.sockets.add(socket);
        self.round();
        let Some(Event::TcpOpen { flow, .. }) = self.net.poll_event() else {
            panic!("no SYN came")
        };
        self.net.tcp_accept(Instant::now(), flow);
        self.round();
        (handle, flow)
    }

    /// Bytes from the program to the peer.
    fn upload(&mut self) {
        let (handle, flow) = self.open(1);
        let data = vec![7; 64 * 1024];
        self.measure("program -> peer", |bench| {
            let socket = bench.sockets.get_mut::<tcp::Socket>(handle);
            while socket.send_slice(&data) == Ok(data.len()) {}
            bench.kernel();
            bench.up();
            while bench.net.poll_event().is_some() {}
            let began = Instant::now();
            let read = bench
                .net
                .tcp_recv(began, flow, &mut |bytes| std::hint::black_box(bytes).len());
            bench.spent += began.elapsed();
            bench.down();
            read
        });
    }

    /// Bytes from the peer to the program.
    fn download(&mut self) {
        let (handle, flow) = self.open(2);
        let data = vec![7; 64 * 1024];
        self.measure("peer -> program", |bench| {
            let began = Instant::now();
            while bench.net.tcp_send(began, flow, &data) == data.len() {}
            bench.spent += began.elapsed();
            bench.down();
            bench.kernel();
            let socket = bench.sockets.get_mut::<tcp::Socket>(handle);
            let mut read = 0;
            while let Ok(more @ 1..) = socket.recv(|bytes| (bytes.len(), bytes.len())) {
                read += more;
            }
            bench.kernel();
            bench.up();
            while bench.net.poll_event().is_some() {}
            read
        });
    }

    fn measure(&mut self, name: &str, mut round: impl FnMut(&mut Self) -> usize) {
        (self.spent, self.packets) = (Duration::ZERO, 0);
        let began = Instant::now();
        let mut total = 0;
        while total < BYTES {
            total += round(self);
        }
        let both = began.elapsed();
        let gigabits = |time: Duration| total as f64 * 8.0 / time.as_secs_f64() / 1e9;
        println!(
            "offload {:5}  {name}  {:5.1} Gb/s netstack alone, {:5.1} both ends; {:6.0} ns and {:6.0} B per data packet",
            self.wire.offload,
            gigabits(self.spent),
            gigabits(both),
            self.spent.as_nanos() as f64 / self.packets as f64,
            total as f64 / self.packets as f64,
        );
    }
}

/// Resident memory in bytes, where /proc tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = status.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Connections of peers to a program that answers every SYN and then one byte: what they hold when nothing moves.
fn idle_memory(flows: u16) {
    let mut bench = Bench::new(true, Config::default().tcp_buffer);
    let before = resident();
    let mut opened = Vec::new();
    for port in 1..=flows {
        let from = SocketAddrV6::new(PEER, port, 0, 0);
        let to = SocketAddrV6::new(MACHINE, 22, 0, 0);
        let flow = bench
            .net
            .tcp_connect(Instant::now(), from, to)
            .expect("room");
        bench.net.poll_packet(Instant::now(), &mut bench.out);
        answer(&mut bench, 0x12);
        while bench
            .net
            .poll_packet(Instant::now(), &mut bench.out)
            .is_some()
        {}
        while bench.net.poll_event().is_some() {}
        opened.push(flow);
    }
    let opened_only = resident();
    for &flow in &opened {
        bench.net.tcp_send(Instant::now(), flow, &[1; 100]);
    }
    while bench
        .net
        .poll_packet(Instant::now(), &mut bench.out)
        .is_some()
    {}
    let used = resident();
    let began = Instant::now();
    let polls = 1000;
    for _ in 0..polls {
        bench.net.poll_packet(Instant::now(), &mut bench.out);
    }
    let poll = began.elapsed() / polls;
    if let (Some(before), Some(opened_only), Some(used)) = (before, opened_only, used) {
        let each = |after: usize| after.saturating_sub(before) / usize::from(flows);
        println!(
            "{flows} idle flows: {} B each when opened, {} B each after 100 B to the program; a poll takes {poll:?}",
            each(opened_only),
            each(used),
        );
    }
}

/// Turns the SYN in `out` into the program's answer with these flags.
fn answer(bench: &mut Bench, flags: u8) {
    let syn = &bench.out;
    let mut packet = syn[..60].to_vec();
    packet[4..6].copy_from_slice(&20u16.to_be_bytes());
    packet[8..24].copy_from_slice(&syn[24..40]);
    packet[24..40].copy_from_slice(&syn[8..24]);
    packet[40..42].copy_from_slice(&syn[42..44]);
    packet[42..44].copy_from_slice(&syn[40..42]);
    let sequence = u32::from_be_bytes([syn[44], syn[45], syn[46], syn[47]]);
    packet[48..52].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    packet[52] = 0x50;
    packet[53] = flags;
    let offload = Offload {
        checksum: Some((40, 16)),
        segments: None,
    };
    bench
        .net
        .handle_packet(Instant::now(), offload, &mut packet, &mut Nothing);
}

fn main() {
    for offload in [true, false] {
        for _ in 0..2 {
            Bench::new(offload, Config::default().tcp_buffer).upload();
            Bench::new(offload, Config::default().tcp_buffer).download();
        }
    }
    idle_memory(10_000);
}

//! What a relay costs: packets a second for one core, beside a loop that passes datagrams on without looking at them.
//!
//! ```text
//!   sender ── packets for a registered peer ──▶ relay (or loop) ──▶ receiver, who lets them lie
//! ```
//!
//! Both take groups from the kernel as it joins them (GRO) and give them back in one call (GSO). Bulk is 1,232 bytes of one
//! sender, 52 to a call; scattered is 100 bytes of 64 senders, each packet by itself; single is 1,000 bytes of ten senders,
//! which coturn passes on in its turn, where it is installed.

pub(super) mod coturn;

use super::{Plan, report::median};
use crate::lab::{Family, Host, Lab, Lan, Node};
use crate::light::Light;
use crate::programs;
use crate::sealed_light::SealedLight;
use anode_wire::message::kind;
use anode_wire::{Address, Message};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use nix::sys::time::TimeValLike;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 8737;
const LOOP_PORT: u16 = 9000;
/// Addresses of the clients' machine: the relay's budget for strangers is per source.
const SOURCES: u16 = 100;
const REGISTERED: u16 = 10_000;

/// Packets as a load has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    Bulk,
    Scattered,
    Single,
}

impl Load {
    fn size(self) -> usize {
        match self {
            Self::Bulk => 1232,
            Self::Scattered => 100,
            Self::Single => 1000,
        }
    }

    fn senders(self) -> usize {
        match self {
            Self::Bulk => 1,
            Self::Scattered => 64,
            Self::Single => 10,
        }
    }
}

#[derive(Default, Debug)]
struct Row {
    per_second: Vec<f64>,
    micros: Vec<f64>,
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    rows: Vec<(&'static str, Row)>,
    memory_kib: [u64; 2],
    registered: u16,
    seconds: f64,
    /// Memory before and after, and seconds, with a session for each.
    sealed: ([u64; 2], f64),
}

/// Measures all.
///
/// # Panics
/// If the relay or a socket fails.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    let lan = Lan::new(lab, Family::V4);
    let (host, sender, receiver) = (lan.host("relay"), lan.host("sender"), lan.host("receiver"));
    let listen = format!("{}:{PORT}", host.v4());
    let mut relay = Node::on(&host, lab.directory(), "relay")
        .relay()
        .args(&["--listen", &listen])
        .config("[security]\nplain = \"allow\"")
        .config("[relay]\nrate = 4000000000\nrate-in-all = 4000000000\npeers = 20000\n")
        .start();
    let address: Address = relay.address().parse().expect("an address");
    let at: SocketAddr = listen.parse().expect("an endpoint");
    let before = relay.memory_kib();
    let (registered, seconds) = register_many(&sender, &receiver, &address, at);
    let memory_kib = [before, relay.memory_kib()];
    let sealed = register_sealed(lab, [&sender, &receiver, &host]);

    let sink = Light::new(&receiver, u16::MAX, (receiver.v4(), 9000).into(), at);
    sink.register(&address);
    sink.take_groups();
    // Where the loop sends to is a socket of the same kind: what nobody wants costs the sender less.
    let deaf = SocketAddrV4::new(receiver.v4(), 9001);
    let other = Light::new(
        &receiver,
        u16::MAX,
        deaf.into(),
        (host.v4(), LOOP_PORT).into(),
    );
    other.take_groups();
    let bare = Bare::start(&host, deaf);
    let mut rows = [
        "bulk, loop",
        "bulk, relay",
        "scattered, loop",
        "scattered, relay",
        "single, loop",
        "single, relay",
        "single, coturn",
    ]
    .map(|name| (name, Row::default()));
    for _ in 0..plan.runs {
        sink.register(&address);
        for (place, load) in [Load::Bulk, Load::Scattered, Load::Single]
            .into_iter()
            .enumerate()
        {
            let to = SocketAddrV4::new(host.v4(), LOOP_PORT);
            let measured = measure(&sender, to, &sink, load, plan.length, || {
                (bare.passed.load(Ordering::Relaxed), bare.cpu())
            });
            rows[2 * place].1.push(measured);
            let to = SocketAddrV4::new(host.v4(), PORT);
            let measured = measure(&sender, to, &sink, load, plan.length, || {
                let passed = relay.metrics().sum("anode_overlay_relayed_packets_total") as u64;
                (passed, relay.cpu_seconds())
            });
            rows[2 * place + 1].1.push(measured);
        }
        if programs::find("turnserver").is_ok() {
            rows[6]
                .1
                .push(coturn::measure(lab, &host, &sender, &receiver));
        }
    }
    drop(bare);
    Report {
        rows: rows.into(),
        memory_kib,
        registered,
        seconds,
        sealed,
    }
}

impl Row {
    fn push(&mut self, (per_second, micros): (f64, f64)) {
        self.per_second.push(per_second);
        self.micros.push(micros);
    }
}

/// Registers so many light peers, 100 addresses sharing the work; how many, and how long it took.
fn register_many(sender: &Host, receiver: &Host, relay: &Address, at: SocketAddr) -> (u16, f64) {
    let machines = [sender, receiver];
    let own = |number: u16| source_address(machines, number % SOURCES);
    for source in 0..SOURCES {
        machines[usize::from(source % 2)].address_add(own(source).into(), 24);
    }
    let start = Instant::now();
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..SOURCES {
            let count = &count;
            scope.spawn(move || {
                for number in (worker..REGISTERED).step_by(usize::from(SOURCES)) {
                    let ns = machines[usize::from(worker % 2)];
                    let light = Light::new(ns, number, (own(worker), 0).into(), at);
                    light.register(relay);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let registered = count.load(Ordering::Relaxed) as u16;
    (registered, start.elapsed().as_secs_f64())
}

/// A relay of its own, and 10,000 peers that seal.
fn register_sealed(lab: &Lab, [sender, receiver, host]: [&Host; 3]) -> ([u64; 2], f64) {
    let listen = format!("{}:{}", host.v4(), PORT + 10);
    let mut relay = Node::on(host, lab.directory(), "sealing-relay")
        .relay()
        .args(&["--listen", &listen])
        .config("[relay]\npeers = 20000\n")
        .start();
    let address: Address = relay.address().parse().expect("an address");
    let at: SocketAddr = listen.parse().expect("an endpoint");
    let before = relay.memory_kib();
    let start = Instant::now();
    let machines = [sender, receiver];
    thread::scope(|scope| {
        for worker in 0..SOURCES {
            let address = &address;
            scope.spawn(move || {
                let ns = machines[usize::from(worker % 2)];
                let own = (source_address(machines, worker), 0).into();
                for number in (worker..REGISTERED).step_by(usize::from(SOURCES)) {
                    let mut peer = SealedLight::new(ns, number, own, address, at);
                    peer.register(Duration::from_secs(120));
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let status = relay.json(&["relay", "status"]);
    assert_eq!(status["registered"], REGISTERED, "all of them");
    ([before, relay.memory_kib()], seconds)
}

/// One of the addresses that share the work, on one of the two machines in turn.
fn source_address(machines: [&Host; 2], source: u16) -> std::net::Ipv4Addr {
    let [a, b, c, _] = machines[usize::from(source % 2)].v4().octets();
    std::net::Ipv4Addr::new(a, b, c, 100 + source as u8)
}

/// Sends as fast as it goes; packets a second of processor time of who passes them on, and its µs a packet. `counted`:
/// packets passed on so far, and processor seconds.
fn measure(
    sender: &Host,
    to: SocketAddrV4,
    recipient: &Light,
    load: Load,
    length: Duration,
    mut counted: impl FnMut() -> (u64, f64),
) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let from = Light::new(sender, 20_000, (sender.v4(), 0).into(), to.into());
    let key = from.identity().agree(recipient.address());
    let payload = vec![0x5a; load.size() - 60];
    let packet = from.packet(recipient.address(), &key, &Message::Ping(&payload));
    debug_assert_eq!((packet.len(), packet[59]), (load.size(), kind::PING));
    let thread = thread::spawn({
        let (stop, sender) = (stop.clone(), sender.clone());
        move || send(&sender, to, &packet, load, &stop)
    });
    thread::sleep(Duration::from_millis(200));
    let (start, before) = (Instant::now(), counted());
    thread::sleep(length);
    let (after, wall) = (counted(), start.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("no panic");
    thread::sleep(Duration::from_millis(100));
    let packets = (after.0 - before.0) as f64;
    (
        packets / wall,
        (after.1 - before.1) * 1e6 / packets.max(1.0),
    )
}

fn send(host: &Host, to: SocketAddrV4, packet: &[u8], load: Load, stop: &AtomicBool) {
    let sockets: Vec<UdpSocket> = (0..load.senders())
        .map(|_| host.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket")))
        .collect();
    let group: Vec<u8> = packet.repeat(if load == Load::Bulk { 52 } else { 1 });
    let segment = packet.len() as u16;
    let to = SockaddrIn::from(to);
    let offload = [ControlMessage::UdpGsoSegments(&segment)];
    let control: &[ControlMessage<'_>] = if load == Load::Bulk { &offload } else { &[] };
    let slices = [IoSlice::new(&group)];
    while !stop.load(Ordering::Relaxed) {
        for socket in &sockets {
            // A full queue is no failure: the next one comes at once.
            let _ = sendmsg(
                socket.as_raw_fd(),
                &slices,
                control,
                MsgFlags::empty(),
                Some(&to),
            );
        }
    }
}

/// The loop without logic.
struct Bare {
    passed: Arc<AtomicU64>,
    micros: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bare {
    fn start(host: &Host, to: SocketAddrV4) -> Self {
        let socket = host.run(|| UdpSocket::bind((host.v4(), LOOP_PORT)).expect("a socket"));
        setsockopt(&socket, sockopt::UdpGroSegment, &true).expect("GRO");
        setsockopt(&socket, sockopt::RcvBuf, &(7 << 20)).expect("a buffer");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let (passed, micros, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = thread::spawn({
            let (passed, micros, stop) = (passed.clone(), micros.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..256 {
                        pass_on(&socket, to, &passed);
                    }
                    micros.store(thread_cpu(), Ordering::Relaxed);
                }
            }
        });
        Self {
            passed,
            micros,
            stop,
            thread: Some(thread),
        }
    }

    fn cpu(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

fn thread_cpu() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread has used something");
    let total = usage.user_time() + usage.system_time();
    total.num_microseconds() as u64
}

fn pass_on(socket: &UdpSocket, to: SocketAddrV4, passed: &AtomicU64) {
    let mut buffer = [0; 65_535];
    let mut control = nix::cmsg_space!(i32);
    let (length, segment) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let Ok(received) = received else { return };
        let segment = received.cmsgs().ok().and_then(|mut all| {
            all.find_map(|message| match message {
                ControlMessageOwned::UdpGroSegments(size) => u16::try_from(size).ok(),
                _ => None,
            })
        });
        (received.bytes, segment)
    };
    let size = segment.unwrap_or(length as u16);
    let slices = [IoSlice::new(&buffer[..length])];
    let offload = [ControlMessage::UdpGsoSegments(&size)];
    let grouped = usize::from(size) < length;
    let control: &[ControlMessage<'_>] = if grouped { &offload } else { &[] };
    let to = SockaddrIn::from(to);
    let _ = sendmsg(
        socket.as_raw_fd(),
        &slices,
        control,
        MsgFlags::empty(),
        Some(&to),
    );
    let packets = length.div_ceil(usize::from(size).max(1));
    passed.fetch_add(packets as u64, Ordering::Relaxed);
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "load and who passes it on   packets/s   µs a packet   packets/s for a core"
        )?;
        for (name, row) in self.rows.iter().filter(|(_, row)| !row.micros.is_empty()) {
            let of = |values: &[f64]| median(values).unwrap_or(f64::NAN);
            let (rate, micros) = (of(&row.per_second), of(&row.micros));
            writeln!(
                f,
                "{name:<24} {rate:>12.0} {micros:>13.3} {:>22.0}",
                1e6 / micros
            )?;
        }
        let ([before, after], seconds) = self.sealed;
        writeln!(
            f,
            "memory: {before} KiB, with {} peers registered in sealed sessions {after} KiB ({:.0} bytes each); registered in {seconds:.1} s",
            self.registered,
            (after.saturating_sub(before)) as f64 * 1024.0 / f64::from(self.registered),
        )?;
        let [before, after] = self.memory_kib;
        write!(
            f,
            "memory: {before} KiB, with {} peers registered {after} KiB ({:.0} bytes each, without sessions); registered in {:.1} s",
            self.registered,
            (after.saturating_sub(before)) as f64 * 1024.0 / f64::from(self.registered),
            self.seconds
        )
    }
}

//! A paced TCP flow between two nodes while a third machine floods one of them with forged first packets.
//!
//! ```text
//!   a ═══ paced flow over the overlay ═══▶ b          quiet, then one kind of flood after the other, several times
//!                                          ▲
//!   attacker ── 50,000 forged packets a second, every one from another address and port
//! ```
//!
//! What the flood costs the kernel alone is measured by the same packets to a socket that nobody reads (made, carried,
//! dropped), and to one that a loop reads and forgets (received).

mod forged;

use super::load::{PacedStream, Streams};
use super::{Plan, report::median};
use crate::capture::{Datagram, Forger};
use crate::lab::{Family, Host, Lab, Lan, Node};
use crate::{programs, traffic};
use anode_platform::Prefix;
use anode_platform::netlink::Route;
use forged::{Kind, Target};
use nix::sys::resource::{UsageWho, getrusage};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where nodes listen.
const NODE_PORT: u16 = 8737;
/// A socket beside the node.
const OTHER_PORT: u16 = 8738;
/// The flow has its pace again, and the flood its rate, after this.
const SETTLE: Duration = Duration::from_millis(500);

/// What was measured, a row for each kind of flood.
#[derive(Debug)]
pub struct Report {
    capacity: f64,
    pace: f64,
    memory_kib: [u64; 2],
    agreements: f64,
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Row {
    name: &'static str,
    /// Forged packets per second.
    sent: Vec<f64>,
    /// Of the flow's goodput just before.
    share: Vec<f64>,
    /// Processor time of the machine that forges, µs a packet: makes it, and carries it to the socket.
    carried: Vec<f64>,
    /// Processor time of who receives beyond that of the quiet time before, µs a packet sent.
    received: Vec<f64>,
    /// Key agreements a second.
    agreements: Vec<f64>,
    memory_kib: u64,
}

/// Measures all kinds of flood at `rate` packets per second.
///
/// # Panics
/// If a node or the flow fails.
pub fn run(lab: &Lab, plan: &Plan, rate: f64) -> Report {
    let lan = Lan::new(lab, Family::V4);
    let (host_a, host_b, attacker) = (lan.host("a"), lan.host("b"), lan.host("attacker"));
    // The Internet lies behind the attacker: answers to spoofed sources leave the machine, and end there.
    let everywhere = Prefix::new(Ipv4Addr::UNSPECIFIED, 0).expect("a prefix");
    host_b.netlink(|netlink| netlink.route_add(&Route::via(everywhere, attacker.v4())));
    let a = Node::on(&host_a, lab.directory(), "a").start();
    let mut b = Node::on(&host_b, lab.directory(), "b").start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), Duration::from_secs(10));

    let streams = Streams::new(&host_a, &host_b, b.ipv6().into(), 1);
    let capacity = median(&[(); 3].map(|()| streams.run(plan.length).0)).unwrap_or(f64::NAN) / 8.0;
    let pace = capacity / 2.0;
    let flow = PacedStream::start(&host_a, &host_b, b.ipv6().into(), pace);
    let mut scene = Scene {
        length: plan.length,
        rate,
        target: Target::of(&b),
        host: &host_b,
        attacker: Forger::new(&attacker),
        flow,
        node: &mut b,
    };
    thread::sleep(SETTLE);
    let before = (scene.node.memory_kib(), agreements(scene.node));
    let mut rows: Vec<Row> = Vec::new();
    for run in 0..plan.runs {
        let aims = [Aim::Unread, Aim::Read]
            .into_iter()
            .chain(Kind::ALL.into_iter().map(Aim::Node));
        for (place, aim) in aims.enumerate() {
            if run == 0 {
                rows.push(Row {
                    name: aim.name(),
                    ..Row::default()
                });
            }
            scene.measure(aim, &mut rows[place]);
        }
    }
    // Buffers of the flood are given back by then, if they are at all.
    thread::sleep(Duration::from_secs(5));
    Report {
        capacity,
        pace,
        memory_kib: [before.0, scene.node.memory_kib()],
        agreements: agreements(scene.node) - before.1,
        rows,
    }
}

/// Where a flood goes.
#[derive(Clone, Copy)]
enum Aim {
    /// To a socket that nobody reads: the kernel drops all but the first.
    Unread,
    /// To a socket that a loop reads.
    Read,
    Node(Kind),
}

impl Aim {
    fn name(self) -> &'static str {
        match self {
            Self::Unread => "kernel: a socket nobody reads",
            Self::Read => "kernel: a loop of recv",
            Self::Node(kind) => kind.name(),
        }
    }
}

struct Scene<'a> {
    length: Duration,
    rate: f64,
    target: Target,
    host: &'a Host,
    attacker: Forger,
    flow: PacedStream,
    node: &'a mut Node,
}

impl Scene<'_> {
    /// A quiet time, then the flood.
    fn measure(&mut self, aim: Aim, row: &mut Row) {
        let (kind, port) = match aim {
            Aim::Unread | Aim::Read => (Kind::WrongMac1, OTHER_PORT),
            Aim::Node(kind) => (kind, NODE_PORT),
        };
        let packets = self.target.forge(kind);
        thread::sleep(SETTLE);
        let quiet = self.observe();

        let stop = Arc::new(AtomicBool::new(false));
        let at = SocketAddr::new(self.host.v4().into(), OTHER_PORT);
        let _unread = matches!(aim, Aim::Unread).then(|| traffic::udp(self.host, at));
        let reader = matches!(aim, Aim::Read).then(|| {
            let socket = traffic::udp(self.host, at);
            let stop = stop.clone();
            thread::spawn(move || read(&socket, &stop))
        });
        let (loud, (sent, seconds, own_cpu)) = thread::scope(|scope| {
            let to = SocketAddrV4::new(self.host.v4(), port);
            let (forger, rate) = (&self.attacker, self.rate);
            let stopped = stop.clone();
            let flood = scope.spawn(move || flood(forger, to, packets, rate, &stopped));
            thread::sleep(SETTLE);
            let before = agreements(self.node);
            let loud = Self::watch(&self.flow, self.node, self.length);
            row.agreements
                .push((agreements(self.node) - before) / self.length.as_secs_f64());
            stop.store(true, Ordering::Relaxed);
            (loud, flood.join().expect("the attacker does not panic"))
        });
        let rate = sent as f64 / seconds;
        let received = match reader {
            Some(reader) => reader.join().expect("the reader does not panic") / sent as f64,
            None => (loud.cpu_share - quiet.cpu_share) / rate,
        };
        row.sent.push(rate);
        row.share.push(loud.goodput / quiet.goodput);
        row.carried.push(own_cpu / sent as f64 * 1e6);
        if !matches!(aim, Aim::Unread) {
            row.received.push(received * 1e6);
        }
        row.memory_kib = self.node.memory_kib();
    }

    fn observe(&mut self) -> Observed {
        Self::watch(&self.flow, self.node, self.length)
    }

    fn watch(flow: &PacedStream, node: &mut Node, length: Duration) -> Observed {
        let (start, bytes, cpu) = (Instant::now(), flow.arrived(), node.cpu_seconds());
        thread::sleep(length);
        let seconds = start.elapsed().as_secs_f64();
        Observed {
            goodput: (flow.arrived() - bytes) as f64 / seconds,
            cpu_share: (node.cpu_seconds() - cpu) / seconds,
        }
    }
}

struct Observed {
    /// Bytes per second.
    goodput: f64,
    /// Of one processor, by the node.
    cpu_share: f64,
}

fn agreements(node: &Node) -> f64 {
    node.metrics().sum("key_agreements")
}

/// Sends until told to stop: how many, in how many seconds, with how much processor time.
fn flood(
    forger: &Forger,
    to: SocketAddrV4,
    packets: Vec<Vec<u8>>,
    rate: f64,
    stop: &AtomicBool,
) -> (u64, f64, f64) {
    let mut forged: Vec<Datagram> = packets
        .into_iter()
        .map(|payload| Datagram {
            from: to,
            to,
            payload,
        })
        .collect();
    let (start, cpu) = (Instant::now(), thread_cpu());
    let (mut tried, mut sent, count) = (0u64, 0u64, forged.len());
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        if due <= tried {
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        // Who was held up does not make up for it in one burst.
        tried = tried.max(due.saturating_sub(1_000));
        let datagram = &mut forged[tried as usize % count];
        datagram.from = spoofed(tried);
        sent += u64::from(forger.send(datagram).is_ok());
        tried += 1;
    }
    (sent, start.elapsed().as_secs_f64(), thread_cpu() - cpu)
}

/// An address of 11.0.0.0/8 and a port, another for each number.
fn spoofed(number: u64) -> SocketAddrV4 {
    let [.., x, y, z] = (number as u32).wrapping_mul(0x9e37_79b1).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(11, x, y, z), 1_024 + (number % 60_000) as u16)
}

/// Receives and forgets; its processor time.
fn read(socket: &UdpSocket, stop: &AtomicBool) -> f64 {
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    let mut buffer = [0; 2_048];
    let cpu = thread_cpu();
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.recv_from(&mut buffer);
    }
    thread_cpu() - cpu
}

/// User and system time of this thread, in seconds.
fn thread_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("Linux knows");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabits = |bytes: f64| bytes * 8.0 / 1e6;
        writeln!(
            f,
            "path: {:.0} Mbit/s; flow: paced at {:.0} Mbit/s",
            megabits(self.capacity),
            megabits(self.pace)
        )?;
        writeln!(
            f,
            "memory of the node: {} KiB before, {} KiB after; {} key agreements in all\n",
            self.memory_kib[0], self.memory_kib[1], self.agreements
        )?;
        writeln!(
            f,
            "{:32} {:>9} {:>18} {:>12} {:>12} {:>13} {:>11}",
            "flood",
            "packets/s",
            "goodput % (worst)",
            "sender µs",
            "receiver µs",
            "agreements/s",
            "memory KiB"
        )?;
        for row in &self.rows {
            let middle = |values: &[f64], digits: usize| {
                median(values).map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
            };
            let worst = row.share.iter().copied().fold(f64::INFINITY, f64::min);
            let share = median(&row.share).unwrap_or(f64::NAN);
            writeln!(
                f,
                "{:32} {:>9} {:>18} {:>12} {:>12} {:>13} {:>11}",
                row.name,
                middle(&row.sent, 0),
                format!("{:.1} ({:.1})", share * 100.0, worst * 100.0),
                middle(&row.carried, 2),
                middle(&row.received, 2),
                middle(&row.agreements, 0),
                row.memory_kib
            )?;
        }
        Ok(())
    }
}

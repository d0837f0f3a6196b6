//! The overlay beside the plain link it runs on, as ratios: alternating runs in one sitting, medians. What a flood of
//! forged packets ([`flood`]), the end of a node ([`restart`]) and relaying ([`relay`]) cost, a tracker ([`tracker`]) and a TURN server ([`turn`]). And what goes through each of
//! the [`transports`].
//!
//! ```text
//!   machine a ──veth── machine b          every measure is taken over the link's own addresses (plain) and over
//!     anode                anode          the overlay's (anode), one after the other, several times
//! ```

pub mod compare;
pub mod delaybox;
pub mod flood;
pub mod i2p;
pub mod idle;
mod load;
pub mod matrix;
pub mod relay;
mod report;
pub mod restart;
pub mod tracker;
pub mod transports;
pub mod turn;

pub use report::{Report, Unit};

use crate::lab::{Family, Host, Lab, Node, wired};
use crate::programs;
use load::{Datagrams, Streams};
use report::median;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What to measure and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Alternations; the median of them counts.
    pub runs: u32,
    /// Length of one measure.
    pub length: Duration,
    /// Only the plain link, without any node.
    pub plain_only: bool,
}

/// Measures everything.
///
/// # Panics
/// If a node or a program fails.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    let (host_a, host_b) = wired(Family::V4);
    let mut report = Report::default();
    let mut nodes = (!plan.plain_only).then(|| {
        let pair = start(lab, &host_a, &host_b, &mut report);
        first_replies(lab, plan, &mut report);
        pair
    });
    for _ in 0..plan.runs {
        let plain = Way {
            from: &host_a,
            to: &host_b,
            from_ip: host_a.ip_address(),
            to_ip: host_b.ip_address(),
        };
        plain.measure(plan, None, &mut |name, unit, value| {
            report.plain(name, unit, value)
        });
        if let Some((a, b)) = &mut nodes {
            let way = Way {
                from_ip: a.ipv6().into(),
                to_ip: b.ipv6().into(),
                ..plain
            };
            way.measure(plan, Some((a, b)), &mut |name, unit, value| {
                report.anode(name, unit, value)
            });
        }
    }
    report
}

/// Starts both, lets them trust and find each other, and notes what they need when idle.
fn start(lab: &Lab, host_a: &Host, host_b: &Host, report: &mut Report) -> (Node, Node) {
    let mut a = Node::on(host_a, lab.directory(), "a").start();
    let b = Node::on(host_b, lab.directory(), "b").start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(host_a, b.ipv6().into(), Duration::from_secs(10));
    let cpu = a.cpu_seconds();
    let idle = Duration::from_secs(5);
    std::thread::sleep(idle);
    report.anode(
        "memory of an idle node",
        Unit::MebiBytes,
        a.memory_kib() as f64 / 1024.0,
    );
    let share = (a.cpu_seconds() - cpu) / idle.as_secs_f64() * 100.0;
    report.anode("processor of an idle node", Unit::Percent, share);
    (a, b)
}

/// From the start of the second node's process to the first echo reply through it.
fn first_replies(lab: &Lab, plan: &Plan, report: &mut Report) {
    for run in 0..plan.runs {
        let (host_a, host_b) = wired(Family::V4);
        let name = |who: &str| format!("first-{who}{run}");
        let b = Node::on(&host_b, lab.directory(), &name("b")).start();
        let prepared = Node::on(&host_a, lab.directory(), &name("a")).prepare();
        prepared.trust(&b, "b");
        b.trust(&prepared, "a");
        let start = Instant::now();
        let a = Node::on(&host_a, lab.directory(), &name("a")).start();
        programs::first_ping(&host_a, b.ipv6().into(), Duration::from_secs(10));
        report.anode(
            "`anode up` to ready",
            Unit::Milliseconds,
            a.ready_after().as_secs_f64() * 1e3,
        );
        report.anode(
            "`anode up` to first reply",
            Unit::Milliseconds,
            start.elapsed().as_secs_f64() * 1e3,
        );
    }
}

/// One way between two machines.
#[derive(Clone, Copy)]
struct Way<'a> {
    from: &'a Host,
    to: &'a Host,
    from_ip: IpAddr,
    to_ip: IpAddr,
}

type Note<'a> = &'a mut dyn FnMut(&'static str, Unit, f64);

impl Way<'_> {
    fn reversed(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            from_ip: self.to_ip,
            to_ip: self.from_ip,
        }
    }

    fn measure(self, plan: &Plan, mut nodes: Option<(&mut Node, &mut Node)>, note: Note<'_>) {
        for (name, streams, way) in [
            ("TCP, 1 stream, a to b", 1, self),
            ("TCP, 1 stream, b to a", 1, self.reversed()),
            ("TCP, 4 streams, a to b", 4, self),
            ("TCP, 4 streams, b to a", 4, self.reversed()),
        ] {
            let before = (nodes.as_mut().map(cpu_of), machine_seconds());
            let streams = Streams::new(way.from, way.to, way.to_ip, streams);
            let (bits_per_second, bytes) = streams.run(plan.length);
            note(name, Unit::GigabitsPerSecond, bits_per_second / 1e9);
            if name == "TCP, 1 stream, a to b" {
                let gigabytes = bytes as f64 / 1e9;
                note(
                    "processor of all, per GB",
                    Unit::Seconds,
                    (machine_seconds() - before.1) / gigabytes,
                );
                if let (Some(nodes), Some(before)) = (nodes.as_mut(), before.0) {
                    note(
                        "processor of both nodes, per GB",
                        Unit::Seconds,
                        (cpu_of(nodes) - before) / gigabytes,
                    );
                }
            }
        }
        for (name, size) in [
            ("UDP, 64 B, without loss", 64),
            ("UDP, 1,100 B, without loss", 1_100),
        ] {
            let datagrams = Datagrams {
                from: self.from,
                to: self.to,
                from_ip: self.from_ip,
                to_ip: self.to_ip,
                size,
            };
            note(
                name,
                Unit::PacketsPerSecond,
                datagrams.lossless_rate(plan.length),
            );
        }
        let interval = Duration::from_millis(5);
        let count = (plan.length.as_secs_f64() / interval.as_secs_f64()) as u32;
        let mut times = programs::ping_every(self.from, self.to_ip, 56, count, interval).rtt_ms;
        times.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            times
                .get((times.len() as f64 * q) as usize)
                .copied()
                .unwrap_or(f64::NAN)
                * 1e3
        };
        note("ping, half are below", Unit::Microseconds, quantile(0.5));
        note("ping, 99 % are below", Unit::Microseconds, quantile(0.99));
    }
}

fn cpu_of(nodes: &mut (&mut Node, &mut Node)) -> f64 {
    nodes.0.cpu_seconds() + nodes.1.cpu_seconds()
}

/// Processor time of the whole machine, idle and stolen time left out.
fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_else(|e| panic!("/proc/stat: {e}"));
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait), irq, softirq; USER_HZ is 100.
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|&i| ticks.get(i))
        .sum::<f64>()
        / 100.0
}

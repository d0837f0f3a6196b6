//! What is measured of one peer in one run, from its start to its end.

use super::peers::{End, Peer, Role, Site};
use super::report::{Better, Figure};
use super::{Group, Options, connects, echo};
use crate::bench::load::{Datagrams, Streams};
use crate::bench::{Unit, machine_seconds};
use crate::lab::{Family, Host, wired};
use crate::programs;
use nix::sys::resource::{UsageWho, getrusage};
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const MIB: f64 = 1024.0;
/// A peer that is not reached by then is not reached.
const FIRST_REPLY_WITHIN: Duration = Duration::from_secs(20);
/// Handshakes, rekeying at the start and discovery are over.
const SETTLE: Duration = Duration::from_millis(500);
/// After connections were opened.
const REST: Duration = Duration::from_secs(5);
/// Idle TCP connections beside a busy one.
const IDLE_FLOWS: usize = 10_000;

/// Both ends of a peer, running.
pub struct Running<'a> {
    peer: &'a Peer,
    hosts: [&'a Host; 2],
    ends: [End; 2],
}

impl<'a> Running<'a> {
    /// Starts the second machine's end, then the first's; how long the latter took to its first echo reply, in seconds.
    ///
    /// # Panics
    /// If the peer does not come up or does not carry a ping.
    pub fn start(peer: &'a Peer, directory: &Path, hosts: [&'a Host; 2]) -> (Self, f64) {
        let [mut near, mut far] = peer.wire(&Site { directory, hosts });
        far.start();
        let began = Instant::now();
        near.start();
        let replied = echo::first_reply(hosts[0], far.ip, FIRST_REPLY_WITHIN)
            .unwrap_or_else(|why| panic!("{}: {why}\n{}{}", peer.name, near.words(), far.words()));
        let ends = [near, far];
        thread::sleep(SETTLE);
        let running = Self { peer, hosts, ends };
        (running, (replied - began).as_secs_f64())
    }

    fn processes_seconds(&self) -> f64 {
        self.ends.iter().map(End::cpu_seconds).sum()
    }

    /// Of the larger end.
    fn memory_mib(&self) -> f64 {
        let kib = self.ends.iter().map(End::memory_kib).max();
        kib.unwrap_or(0) as f64 / MIB
    }

    /// What a TCP stream needs to know to go from the first machine to the second, or back.
    pub fn streams(&self, count: usize, back: bool) -> Streams<'_> {
        let (from, to) = if back { (1, 0) } else { (0, 1) };
        Streams::new(self.hosts[from], self.hosts[to], self.ends[to].ip, count)
    }

    fn far_ip(&self) -> IpAddr {
        self.ends[1].ip
    }

    /// # Panics
    /// If one of its processes has ended.
    fn assert_alive(&mut self) {
        for end in &mut self.ends {
            assert!(
                end.alive(),
                "{} ended by itself:\n{}",
                self.peer.name,
                end.words()
            );
        }
    }
}

/// Runs everything of `options` but the long line.
///
/// # Panics
/// If the peer fails; what it gave until then was told.
pub fn run(peer: &Peer, directory: &Path, options: &Options, tell: &mut dyn FnMut(&Figure, f64)) {
    let (near, far) = wired(Family::V4);
    let (mut running, first_reply) = Running::start(peer, directory, [&near, &far]);
    let carries = peer.role != Role::Link;
    let mut note = |name: &str, unit, better, value| {
        let name = name.to_owned();
        tell(&Figure { name, unit, better }, value);
    };
    if carries && options.has(Group::Start) {
        note(
            "start to first ping",
            Unit::Milliseconds,
            Better::Less,
            first_reply * 1e3,
        );
    }
    if carries && options.has(Group::Memory) {
        note(
            "memory, idle",
            Unit::MebiBytes,
            Better::Less,
            running.memory_mib(),
        );
    }
    if options.has(Group::Rtt) {
        let times = round_trips(&near, running.far_ip(), options.length);
        note(
            "RTT idle, p50",
            Unit::Microseconds,
            Better::Less,
            quantile(&times, 0.5),
        );
        note(
            "RTT idle, p99",
            Unit::Microseconds,
            Better::Less,
            quantile(&times, 0.99),
        );
    }
    if options.has(Group::Connect) {
        for (name, threads) in [("connects, 1 at a time", 1), ("connects, 8 at a time", 8)] {
            let rate = connects::rate(&near, &far, running.far_ip(), threads, options.length);
            note(name, Unit::PerSecond, Better::More, rate);
        }
    }
    if options.has(Group::Tcp) {
        transfers(&running, options, carries, &mut note);
    }
    if options.has(Group::Loaded) {
        let times = loaded_round_trips(&running, options.length);
        note(
            "RTT under TCP load, p50",
            Unit::Microseconds,
            Better::Less,
            quantile(&times, 0.5),
        );
        note(
            "RTT under TCP load, p99",
            Unit::Microseconds,
            Better::Less,
            quantile(&times, 0.99),
        );
    }
    if options.has(Group::Udp) {
        for (name, size) in [
            ("UDP 64 B without loss", 64),
            ("UDP 1,200 B without loss", 1_200),
        ] {
            let datagrams = Datagrams {
                from: &near,
                to: &far,
                from_ip: running.ends[0].ip,
                to_ip: running.far_ip(),
                size,
            };
            note(
                name,
                Unit::PacketsPerSecond,
                Better::More,
                datagrams.lossless_rate(options.length),
            );
        }
    }
    if carries && options.has(Group::Memory) {
        note(
            "memory, after the battery",
            Unit::MebiBytes,
            Better::Less,
            running.memory_mib(),
        );
    }
    if peer.role == Role::Anode && options.has(Group::Flows) {
        idle_flows(&running, options.length, &mut note);
    }
    running.assert_alive();
}

type Note<'a> = &'a mut dyn FnMut(&str, Unit, Better, f64);

fn transfers(running: &Running<'_>, options: &Options, carries: bool, note: Note<'_>) {
    for (name, count, back) in [
        ("TCP 1 stream", 1, false),
        ("TCP 1 stream, back", 1, true),
        ("TCP 4 streams", 4, false),
        ("TCP 4 streams, back", 4, true),
    ] {
        let before = (
            running.processes_seconds(),
            own_seconds(),
            machine_seconds(),
        );
        let (bits_per_second, bytes) = running.streams(count, back).run(options.length);
        note(
            name,
            Unit::GigabitsPerSecond,
            Better::More,
            bits_per_second / 1e9,
        );
        if count > 1 || back {
            continue;
        }
        let gigabytes = bytes as f64 / 1e9;
        let processes = running.processes_seconds() - before.0;
        if carries {
            note(
                "CPU per GB, the peer",
                Unit::Seconds,
                Better::Less,
                processes / gigabytes,
            );
        }
        let with_load = processes + own_seconds() - before.1;
        note(
            "CPU per GB, peer and load",
            Unit::Seconds,
            Better::Less,
            with_load / gigabytes,
        );
        let machine = machine_seconds() - before.2;
        note(
            "CPU per GB, whole machine",
            Unit::Seconds,
            Better::Less,
            machine / gigabytes,
        );
    }
}

/// The goodput of one stream alone and beside idle connections.
fn idle_flows(running: &Running<'_>, length: Duration, note: Note<'_>) {
    let alone = running.streams(1, false).run(length).0;
    let flows = super::flows::Idle::open(running.hosts, running.far_ip(), IDLE_FLOWS);
    note(
        "opening 10,000 flows",
        Unit::PerSecond,
        Better::More,
        flows.opened_per_second(),
    );
    // What was opened has timers of its own for some seconds.
    thread::sleep(REST);
    let cpu = running.processes_seconds();
    thread::sleep(length);
    let share = (running.processes_seconds() - cpu) / length.as_secs_f64() * 100.0;
    note(
        "processor with 10,000 idle flows",
        Unit::Percent,
        Better::Less,
        share,
    );
    note(
        "memory with 10,000 idle flows",
        Unit::MebiBytes,
        Better::Less,
        running.memory_mib(),
    );
    let beside = running.streams(1, false).run(length).0;
    note(
        "goodput beside 10,000 idle flows",
        Unit::Percent,
        Better::More,
        beside / alone * 100.0,
    );
    drop(flows);
}

/// Round trips in microseconds, sorted.
fn round_trips(from: &Host, to: IpAddr, length: Duration) -> Vec<f64> {
    let interval = Duration::from_millis(5);
    let count = (length.as_secs_f64() / interval.as_secs_f64()) as u32;
    let pinged = programs::ping_every(from, to, 56, count.max(20), interval);
    let mut times: Vec<f64> = pinged.rtt_ms.iter().map(|ms| ms * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

fn loaded_round_trips(running: &Running<'_>, length: Duration) -> Vec<f64> {
    let streams = running.streams(1, false);
    thread::scope(|scope| {
        // Longer than the pings take, whatever the load makes of them.
        let load = scope.spawn(move || streams.run(length + SETTLE * 2));
        thread::sleep(SETTLE);
        let times = round_trips(running.hosts[0], running.far_ip(), length);
        load.join().expect("the load does not break");
        times
    })
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process, which sends and receives: user and system, in seconds.
fn own_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("Linux knows");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

//! What a relayed datagram costs: our TURN server beside coturn and beside a loop without logic, with one generator.
//!
//! ```text
//!   clients: allocations with channels ──▶ server (ours, coturn's, or the loop) ──▶ peer, which counts
//!            count ◀────────────────────────                                    ◀── sends to the relayed addresses
//! ```
//!
//! CPU is the server's own (/proc/PID/stat, or the loop's thread), without what the kernel does in interrupts.

mod bare;
mod generator;

use super::relay::coturn;
use super::{Plan, report::median};
use crate::lab::{Family, Host, Lab, Lan, Proc, anode_binary, command};
use crate::programs;
use crate::traffic;
use bare::Bare;
use generator::{Flow, Load, Opening, Sink, Way, bare_flows, send};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 3478;
const PEER: u16 = 9000;
/// The last numbers of the clients' addresses.
const SOURCES: std::ops::Range<u8> = 100..200;
const FEW: usize = 8;
const MANY: usize = 5000;
/// Datagrams a second that every server takes.
const STEADY: f64 = 60_000.0;
/// Rates that are tried for the largest without loss.
const STEP: f64 = 15_000.0;
const HIGHEST: f64 = 300_000.0;

/// Who passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Loop,
    Anode,
    Coturn,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Anode => "anode",
            Self::Coturn => "coturn",
        }
    }
}

/// One of them, with allocations.
enum Relay {
    Loop(Bare),
    Server(Proc),
}

impl Relay {
    fn cpu(&self) -> f64 {
        match self {
            Self::Loop(bare) => bare.cpu(),
            Self::Server(server) => server.cpu_seconds(),
        }
    }
}

struct Row {
    who: Who,
    flows: usize,
    load: Load,
    /// µs a datagram, and what share was lost.
    micros: Vec<f64>,
    lost: Vec<f64>,
}

#[derive(Default)]
struct Allocation {
    micros: Vec<f64>,
    kib: Vec<f64>,
    start_kib: Vec<f64>,
    /// Added to a round trip, in µs.
    latency: Vec<f64>,
    /// Datagrams a second without loss, up and down.
    highest: [Vec<f64>; 2],
}

/// What was measured.
pub struct Report {
    rows: Vec<Row>,
    each: Vec<(Who, Allocation)>,
    plain_rtt: f64,
}

/// Measures all.
///
/// # Panics
/// If a server or a socket fails.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    raise_descriptors();
    let lan = Lan::new(lab, Family::V4);
    let (host, clients, peers) = (lan.host("server"), lan.host("clients"), lan.host("peers"));
    for source in sources(&clients) {
        clients.address_add(source, 24);
    }
    let mut report = Report {
        rows: Vec::new(),
        each: Vec::new(),
        plain_rtt: round_trip_plain(&clients, &peers),
    };
    let mut all = vec![Who::Loop, Who::Anode];
    if programs::find("turnserver").is_ok() {
        all.push(Who::Coturn);
    }
    for _ in 0..plan.runs {
        for flows in [FEW, MANY] {
            for who in &all {
                let machines = [&host, &clients, &peers];
                measure(lab, machines, *who, flows, plan.length, &mut report);
            }
        }
    }
    report
}

fn measure(
    lab: &Lab,
    [host, clients, peers]: [&Host; 3],
    who: Who,
    flows: usize,
    length: Duration,
    report: &mut Report,
) {
    let peer_at = SocketAddr::new(peers.v4().into(), PEER);
    let peer = traffic::udp(peers, peer_at);
    let (relay, all) = start(lab, [host, clients], who, flows, peer_at, report);
    let twin = |socket: &UdpSocket| socket.try_clone().expect("another descriptor");
    let sinks = [
        Sink::start(vec![twin(&peer)]),
        Sink::start(all.iter().map(|flow| twin(&flow.socket)).collect()),
    ];
    // The loop learns where the clients are.
    let first = Load {
        way: Way::Up,
        size: 160,
        burst: 1,
        rate: 20_000.0,
    };
    send(&all, &peer, first, Duration::from_millis(400));
    let mut loads = Vec::new();
    for size in [1200, 160] {
        for way in [Way::Up, Way::Down] {
            loads.push((way, size, 1, STEADY));
        }
    }
    if flows == FEW {
        loads.extend([Way::Up, Way::Down].map(|way| (way, 1200, 16, STEADY)));
    }
    for (way, size, burst, rate) in loads {
        let load = Load {
            way,
            size,
            burst,
            rate,
        };
        let (micros, lost) = once(&relay, &all, &peer, &sinks, load, length);
        report.note(who, flows, load, micros, lost);
    }
    if flows == FEW {
        for (place, way) in [Way::Up, Way::Down].into_iter().enumerate() {
            let highest = highest(&all, &peer, &sinks, way);
            report.of(who).highest[place].push(highest);
        }
        drop(sinks);
        let added = round_trip(&all[0], &peer) - report.plain_rtt;
        report.of(who).latency.push(added);
    }
}

/// Starts a server and makes the allocations; for the loop, its sockets.
fn start(
    lab: &Lab,
    [host, clients]: [&Host; 2],
    who: Who,
    flows: usize,
    peer: SocketAddr,
    report: &mut Report,
) -> (Relay, Vec<Flow>) {
    let at = SocketAddr::new(host.v4().into(), PORT);
    let server = match who {
        Who::Loop => {
            let bare = Bare::start(host, flows, peer);
            let all = bare_flows(clients, bare.port, &bare.relayed);
            return (Relay::Loop(bare), all);
        }
        Who::Anode => anode(lab.directory(), host, at),
        Who::Coturn => {
            let turn = coturn::start(lab.directory(), host, at);
            // It binds within milliseconds, and says so nowhere.
            thread::sleep(Duration::from_secs(1));
            turn
        }
    };
    let (cpu, memory) = (server.cpu_seconds(), server.memory_kib());
    let opening = Opening::allocate(clients, &sources(clients), at, flows);
    if flows == MANY {
        let each = report.of(who);
        let of_one = |total: f64| total / flows as f64;
        each.micros.push(of_one((server.cpu_seconds() - cpu) * 1e6));
        each.kib
            .push(of_one(server.memory_kib().saturating_sub(memory) as f64));
        each.start_kib.push(memory as f64);
    }
    (Relay::Server(server), opening.bind(peer))
}

fn anode(directory: &Path, host: &Host, at: SocketAddr) -> Proc {
    let config = directory.join("turn.toml");
    let text = format!(
        "[turn]\nlisten = [\"{at}\"]\nrealm = \"lab\"\nusers = {{ lab = \"lab\" }}\nallow-peers = [\"0.0.0.0/0\"]\n"
    );
    fs::write(&config, text).expect("written");
    let mut relay = command(anode_binary());
    relay.arg("relay").arg("-c").arg(&config);
    let mut server = host.start(relay);
    let ready = server.wait_stderr_line("ready", Duration::from_secs(10));
    ready.unwrap_or_else(|why| panic!("{why}"));
    server
}

/// One load: µs a datagram that arrived, and what share did not.
fn once(
    relay: &Relay,
    flows: &[Flow],
    peer: &UdpSocket,
    sinks: &[Sink; 2],
    load: Load,
    length: Duration,
) -> (f64, f64) {
    let sink = &sinks[usize::from(load.way == Way::Down)];
    let (cpu, count) = (relay.cpu(), sink.count());
    let sent = send(flows, peer, load, length);
    thread::sleep(Duration::from_millis(150));
    let arrived = sink.count() - count;
    let micros = (relay.cpu() - cpu) * 1e6 / arrived.max(1) as f64;
    (micros, 1.0 - arrived as f64 / sent.max(1) as f64)
}

/// The highest rate at which nothing is lost, of those tried.
fn highest(flows: &[Flow], peer: &UdpSocket, sinks: &[Sink; 2], way: Way) -> f64 {
    let mut good = 0.0;
    let mut rate = STEADY;
    while rate <= HIGHEST {
        let load = Load {
            way,
            size: 1200,
            burst: 1,
            rate,
        };
        let length = Duration::from_millis(700);
        let sink = &sinks[usize::from(way == Way::Down)];
        let count = sink.count();
        let sent = send(flows, peer, load, length);
        thread::sleep(Duration::from_millis(150));
        let arrived = sink.count() - count;
        // The generator has its limits, too.
        let reached = sent as f64 >= 0.97 * rate * length.as_secs_f64();
        if !reached || arrived < sent {
            break;
        }
        good = rate;
        rate += STEP;
    }
    good
}

/// Median of many round trips of one datagram through a flow, in µs.
fn round_trip(flow: &Flow, peer: &UdpSocket) -> f64 {
    let mut times = Vec::new();
    let mut buffer = [0; 2048];
    for socket in [peer, &flow.socket] {
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a timeout");
        socket.set_nonblocking(true).expect("a socket");
        while socket.recv(&mut buffer).is_ok() {}
        socket.set_nonblocking(false).expect("a socket");
    }
    for _ in 0..500 {
        let start = Instant::now();
        generator::send_one(flow, 160);
        let Ok((length, from)) = peer.recv_from(&mut buffer) else {
            continue;
        };
        peer.send_to(&buffer[..length], from).expect("sent");
        if flow.socket.recv(&mut buffer).is_ok() {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    median(&times).unwrap_or(f64::NAN)
}

fn round_trip_plain(clients: &Host, peers: &Host) -> f64 {
    let peer = traffic::udp(peers, SocketAddr::new(peers.v4().into(), PEER + 1));
    let flow = bare_flows(
        clients,
        peer.local_addr().expect("bound"),
        &[peer.local_addr().expect("bound")],
    );
    round_trip(&flow[0], &peer)
}

/// Addresses that the clients' machine has beside its own.
fn sources(clients: &Host) -> Vec<IpAddr> {
    let [a, b, c, _] = clients.v4().octets();
    let source = |number| Ipv4Addr::new(a, b, c, SOURCES.start + number).into();
    (0..SOURCES.len() as u8).map(source).collect()
}

fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What the system does not grant shows when sockets run out.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

impl Report {
    fn note(&mut self, who: Who, flows: usize, load: Load, micros: f64, lost: f64) {
        let same = |row: &&mut Row| {
            row.who == who
                && row.flows == flows
                && (row.load.way, row.load.size, row.load.burst)
                    == (load.way, load.size, load.burst)
        };
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.micros.push(micros);
            row.lost.push(lost);
            return;
        }
        self.rows.push(Row {
            who,
            flows,
            load,
            micros: vec![micros],
            lost: vec![lost],
        });
    }

    fn of(&mut self, who: Who) -> &mut Allocation {
        let place = match self.each.iter().position(|(known, _)| *known == who) {
            Some(place) => place,
            None => {
                self.each.push((who, Allocation::default()));
                self.each.len() - 1
            }
        };
        &mut self.each[place].1
    }

    /// Of another one under the same load.
    fn beside(&self, row: &Row, who: Who) -> Option<f64> {
        let same = |other: &&Row| {
            other.who == who
                && other.flows == row.flows
                && (other.load.way, other.load.size, other.load.burst)
                    == (row.load.way, row.load.size, row.load.burst)
        };
        median(&self.rows.iter().find(same)?.micros)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "flows  bytes  burst  way   who        µs   x loop  x coturn   lost"
        )?;
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| {
            let way = row.load.way == Way::Down;
            (
                row.flows,
                row.load.burst,
                std::cmp::Reverse(row.load.size),
                way,
            )
        });
        for row in rows {
            let micros = median(&row.micros).unwrap_or(f64::NAN);
            let ratio = |who| {
                self.beside(row, who)
                    .map_or(f64::NAN, |other| micros / other)
            };
            writeln!(
                f,
                "{:>5} {:>6} {:>6}  {:<5} {:<8} {micros:>5.2} {:>8.2} {:>9.2} {:>5.1}%",
                row.flows,
                row.load.size,
                row.load.burst,
                if row.load.way == Way::Up {
                    "up"
                } else {
                    "down"
                },
                row.who.name(),
                ratio(Who::Loop),
                ratio(Who::Coturn),
                100.0 * median(&row.lost).unwrap_or(f64::NAN),
            )?;
        }
        writeln!(
            f,
            "\nwho      no loss up  no loss down   µs an allocation   KiB an allocation   KiB at start   added to a round trip, µs"
        )?;
        for (who, each) in &self.each {
            let of = |values: &[f64]| median(values).unwrap_or(f64::NAN);
            writeln!(
                f,
                "{:<8} {:>10.0} {:>13.0} {:>18.0} {:>19.1} {:>14.0} {:>27.0}",
                who.name(),
                of(&each.highest[0]),
                of(&each.highest[1]),
                of(&each.micros),
                of(&each.kib),
                of(&each.start_kib),
                of(&each.latency),
            )?;
        }
        write!(
            f,
            "a round trip without anybody between: {:.0} µs",
            self.plain_rtt
        )
    }
}

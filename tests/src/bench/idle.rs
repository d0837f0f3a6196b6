//! What a node does while nobody wants anything of it: packets on the wire, and how often it wakes.

use crate::lab::{Internet, Node, Place, Site};
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// One measure.
#[derive(Debug)]
pub struct Row {
    peers: u32,
    length: Duration,
    packets: u64,
    bytes: u64,
    wakes: u64,
}

/// A node behind a NAT, registered with two relays, that knows nobody, and one that knows a hundred peers.
#[derive(Debug, Default)]
pub struct Idle {
    rows: Vec<Row>,
}

/// Watches each for `length`. `None` if the lab is switched off.
pub fn run(length: Duration) -> Option<Idle> {
    let mut internet = Internet::new(2)?;
    let mut idle = Idle::default();
    for peers in [0, 100] {
        let place = internet.place(Site::Port);
        let others: Vec<Node> = (0..peers)
            .map(|number| {
                let elsewhere = internet.node(&place, &format!("known-{number}"));
                elsewhere.prepare()
            })
            .collect();
        let mut builder = internet.node(&place, &format!("idle-{peers}")).no_lan();
        for other in &others {
            builder = builder.peer(other, "udp://192.0.2.77:8737");
        }
        let mut node = builder.start();
        internet.registered(&node);
        // What a start brings is over.
        std::thread::sleep(Duration::from_secs(10));
        let before = (traffic(&place), wakes(&mut node), Instant::now());
        std::thread::sleep(length);
        let (packets, bytes) = traffic(&place);
        idle.rows.push(Row {
            peers,
            length: before.2.elapsed(),
            packets: packets - before.0.0,
            bytes: bytes - before.0.1,
            wakes: wakes(&mut node) - before.1,
        });
    }
    Some(idle)
}

/// Packets and bytes of its interface, both ways.
fn traffic(place: &Place) -> (u64, u64) {
    let text = place
        .ns
        .run(|| fs::read_to_string("/proc/thread-self/net/dev").expect("it is there"));
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("eth0"));
    let numbers: Vec<u64> = line
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1))
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers[1] + numbers[9], numbers[0] + numbers[8])
}

/// How often threads of the node have gone to sleep by themselves so far.
fn wakes(node: &mut Node) -> u64 {
    let pid = node.process().pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_thread = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line?.trim().parse::<u64>().ok()
    };
    threads.flatten().filter_map(of_thread).sum()
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| known peers | packets an hour | KB an hour | wake-ups a minute |"
        )?;
        writeln!(f, "|---|---|---|---|")?;
        for row in &self.rows {
            let hours = row.length.as_secs_f64() / 3600.0;
            writeln!(
                f,
                "| {} | {:.0} | {:.0} | {:.1} |",
                row.peers,
                row.packets as f64 / hours,
                row.bytes as f64 / 1e3 / hours,
                row.wakes as f64 / (hours * 60.0),
            )?;
        }
        Ok(())
    }
}

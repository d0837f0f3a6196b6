//! Figures of rings beside the tables of `docs/spec/reload.md` §4.3 and §4.4.
//!
//! `cargo run --release -p anode-reload --example ring -- [tables | loss | grow N | churn N MINUTES [SECONDS]]`
//!
//! - `tables`: nodes that stand still, with perfect tables: the parameters of the tables, and what is shipped.
//! - `loss`: lookups right after a part of 1,000 such nodes died.
//! - `grow N`: N nodes join by themselves (up to 16,384), then 4,000 lookups, messages and bytes at rest, wall time, memory.
//! - `churn N MINUTES [SECONDS]`: N nodes with exponential sessions of MINUTES for six hours, deaths noticed within SECONDS (45);
//!   which share of records has no copy, and how many copies the others have.

#[path = "../tests/sim/mod.rs"]
mod sim;

use anode_reload::body::{StoreRequest, StoreType};
use anode_reload::chord::Config;
use anode_reload::node::{RequestId, RequestOptions};
use anode_reload::topology::Hop;
use anode_reload::{Chord, DataValue, Id, ReloadError, StoredData, Topology, TypeId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sim::Sim;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: usize| {
        let given = arguments.get(place).and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    match arguments.first().map(String::as_str) {
        Some("loss") => loss(),
        Some("grow") => grow(number(1, 1024)),
        Some("churn") => churn(number(1, 256), number(2, 60), number(3, 45)),
        _ => tables(),
    }
}

fn fixed(fingers: u8, neighbours: usize) -> Config {
    Config {
        fingers: Some(fingers),
        neighbours: Some(neighbours),
        shortcut: false,
        ..Config::default()
    }
}

fn ring(count: usize, seed: u64) -> Vec<Id> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ids: Vec<Id> = (0..count).map(|_| Id::from_number(rng.random())).collect();
    ids.sort();
    ids
}

fn frozen(ring: &[Id], config: &Config) -> BTreeMap<Id, Chord> {
    let node = |id: &Id| (*id, Chord::frozen(*id, config.clone(), ring));
    ring.iter().map(node).collect()
}

#[derive(Default)]
struct Figures {
    hops: Vec<usize>,
    wrong: usize,
    stuck: usize,
    timeouts: usize,
}

impl Figures {
    fn mean(&self) -> f64 {
        self.hops.iter().sum::<usize>() as f64 / self.hops.len().max(1) as f64
    }
    fn p99(&mut self) -> usize {
        self.hops.sort_unstable();
        let place = self.hops.len() * 99 / 100;
        self.hops.get(place).copied().unwrap_or(0)
    }
}

fn walk(nodes: &mut BTreeMap<Id, Chord>, lookups: usize, seed: u64, figures: &mut Figures) {
    let mut rng = StdRng::seed_from_u64(seed);
    let live: Vec<Id> = nodes.keys().copied().collect();
    for _ in 0..lookups {
        let key = Id::from_number(rng.random());
        let owner = live[live.partition_point(|other| *other < key) % live.len()];
        let mut here = live[rng.random_range(0..live.len())];
        let mut hops = 0;
        for step in 0.. {
            figures.timeouts += learn_range(nodes, here, key);
            let node = &nodes[&here];
            let lost = step > 4000 || !node.knows_its_range();
            match if lost {
                Hop::None
            } else {
                node.next_hop(key, &[])
            } {
                Hop::Here if here == owner => figures.hops.push(hops),
                Hop::Here => figures.wrong += 1,
                Hop::None => figures.stuck += 1,
                Hop::To(next) if nodes.contains_key(&next) => {
                    here = next;
                    hops += 1;
                    continue;
                }
                Hop::To(dead) => {
                    nodes.get_mut(&here).expect("a live node").freeze_out(dead);
                    figures.timeouts += 1;
                    continue;
                }
            }
            break;
        }
    }
}

/// Who may own a key behind a dead predecessor finds out that it is dead. Gives the timeouts that this cost.
fn learn_range(nodes: &mut BTreeMap<Id, Chord>, here: Id, key: Id) -> usize {
    let mut timeouts = 0;
    loop {
        let (before, _) = nodes[&here].neighbours();
        let (Some(first), Some(last)) = (before.first(), before.last()) else {
            return timeouts;
        };
        if nodes.contains_key(first) || !key.in_range(*last, here) {
            return timeouts;
        }
        nodes
            .get_mut(&here)
            .expect("a live node")
            .freeze_out(*first);
        timeouts += 1;
    }
}

fn tables() {
    println!("mean / p99 hops, 4,000 lookups, nodes that stand still (list of §4.3 in brackets)");
    println!(
        "{:>6} {:>6}  {:>20}  {:>20}  {:>20}  {:>12}  {:>12}",
        "N",
        "½log2N",
        "all fingers, s=1",
        "8 fingers, 3+3",
        "16 fingers, 3+3",
        "shipped",
        "no shortcut"
    );
    let listed: [(usize, [&str; 3]); 6] = [
        (64, ["3.83/6", "3.53/6", "3.53/6"]),
        (256, ["4.84/8", "4.64/7", "4.64/7"]),
        (1024, ["5.87/9", "5.77/9", "5.68/9"]),
        (4096, ["6.83/11", "7.89/13", "6.65/10"]),
        (8192, ["7.40/11", "10.69/19", "7.23/11"]),
        (16384, ["7.85/12", "15.89/29", "7.67/12"]),
    ];
    for (count, listed) in listed {
        let ring = ring(count, 7);
        let measure = |config: &Config| {
            let mut figures = Figures::default();
            walk(&mut frozen(&ring, config), 4000, 8, &mut figures);
            assert_eq!((figures.wrong, figures.stuck), (0, 0));
            format!("{:.2}/{}", figures.mean(), figures.p99())
        };
        let mut columns = Vec::new();
        for (config, listed) in [fixed(127, 1), fixed(8, 3), fixed(16, 3)]
            .iter()
            .zip(listed)
        {
            columns.push(format!("{} ({listed})", measure(config)));
        }
        let shipped = measure(&Config::default());
        let plain = measure(&Config {
            shortcut: false,
            ..Config::default()
        });
        println!(
            "{count:>6} {:>6.1}  {:>20}  {:>20}  {:>20}  {shipped:>12}  {plain:>12}",
            (count as f64).log2() / 2.0,
            columns[0],
            columns[1],
            columns[2]
        );
    }
}

fn loss() {
    println!(
        "sudden loss of a part of 1,000 nodes, no repair, 3 × 2,000 lookups: right, mean hops, mean timeouts"
    );
    let settings = [
        ("8 fingers, 3+3", fixed(8, 3)),
        ("16 fingers, 8+8", fixed(16, 8)),
        ("8 fingers, 10+10", fixed(8, 10)),
        ("shipped", Config::default()),
    ];
    for (name, config) in settings {
        for part in [0.0, 0.1, 0.2, 0.3, 0.5] {
            let mut figures = Figures::default();
            for seed in 0..3 {
                let ring = ring(1000, 100 + seed);
                let mut nodes = frozen(&ring, &config);
                let mut rng = StdRng::seed_from_u64(seed);
                nodes.retain(|_, _| !rng.random_bool(part));
                walk(&mut nodes, 2000, seed, &mut figures);
            }
            let all = (figures.hops.len() + figures.wrong + figures.stuck) as f64;
            println!(
                "{name:>18} {:>3.0} %  right {:.4}  hops {:.2}  timeouts {:.2}  wrong {} stuck {}",
                part * 100.0,
                figures.hops.len() as f64 / all,
                figures.mean(),
                figures.timeouts as f64 / all,
                figures.wrong,
                figures.stuck
            );
        }
    }
}

/// A ring whose links end when nobody needs them, as the program's do.
fn formed(seed: u64, count: usize) -> Sim {
    let mut sim = Sim::new(seed);
    sim.ends_silent_links = true;
    sim.form(count);
    sim
}

fn grow(count: usize) {
    let begun = Instant::now();
    let mut sim = formed(5, count);
    let joined = sim
        .members
        .iter()
        .flatten()
        .filter(|member| member.joined)
        .count();
    println!(
        "{count} nodes: {joined} joined in {:.0} s of virtual and {:.1} s of real time, {} messages; wrong neighbours: {}",
        sim.at.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        sim.delivered,
        sim.wrong_neighbours()
    );
    println!(
        "fingers that are the right ones: {:.3}; links of a node that joins, at most: {}",
        sim.right_fingers(),
        sim.most_links
    );
    let lookups = sim.lookups(4000, Duration::from_secs(5));
    println!(
        "lookups: mean {:.2} hops, p99 {}, wrong {}, lost {}  (½ log2 N = {:.1})",
        lookups.mean(),
        lookups.p99(),
        lookups.wrong,
        lookups.lost,
        (count as f64).log2() / 2.0
    );
    let total = |sim: &Sim| {
        let each = sim
            .members
            .iter()
            .flatten()
            .map(|member| member.node.counters());
        each.fold((0, 0), |(sent, bytes), it| {
            (sent + it.sent, bytes + it.sent_bytes)
        })
    };
    if count <= 4096 {
        let (before, asks) = (total(&sim), sim.asks);
        sim.run(Duration::from_secs(3600));
        let after = total(&sim);
        println!(
            "at rest, per node and hour: {} messages, {} bytes; {} questions whether a link is alive, each with its answer",
            (after.0 - before.0) / count as u64,
            (after.1 - before.1) / count as u64,
            (sim.asks - asks) / count as u64
        );
    }
    let links: usize = sim
        .members
        .iter()
        .flatten()
        .map(|m| m.node.links().count())
        .sum();
    println!(
        "links per node: {:.1}; memory of the process: {}",
        links as f64 / count as f64,
        memory()
    );
    println!(
        "real time in all: {:.1} s; of a processor: {}",
        begun.elapsed().as_secs_f64(),
        processor()
    );
}

/// Clock ticks a second, as `/proc` counts them (`USER_HZ`).
const TICKS: f64 = 100.0;

/// What this process has had of processors: on a busy machine the clock says little.
fn processor() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in brackets, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = after_name.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    match (next(), next()) {
        (Some(user), Some(system)) => format!("{:.1} s", (user + system) / TICKS),
        _ => "unknown".to_owned(),
    }
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("unknown").trim().to_owned()
}

/// Records that churn is measured with.
const RECORDS: usize = 400;

/// What became of the copies of all records, and why.
#[derive(Default)]
struct Copies {
    /// Samples by the number of live copies: none, one, two, three, more.
    samples: [u64; 5],
    /// Times that the last copy was lost: with the node that had it, and while that node lived.
    died: u64,
    dropped: u64,
    /// How many copies a record had for the minute before, at those times.
    before: [u64; 5],
    stores: u64,
    refused: u64,
    timed_out: u64,
}

/// Exponential sessions, a new node for each that dies, owners that store again every 1,200 s.
fn churn(count: usize, minutes: usize, noticed: usize) {
    let mut sim = formed(9, count);
    sim.keepalive = Duration::from_secs(noticed as u64);
    // the first eight are the stable base (RD54): the others' sessions are what is asked for
    let mean = minutes as f64 * 60.0;
    let rate = (count - BASE) as f64 / mean;
    let resources: Vec<Id> = (0..RECORDS).map(|_| sim.random_id()).collect();
    let number_of: BTreeMap<Id, usize> = resources.iter().copied().zip(0..).collect();
    let mut copies = Copies::default();
    // who had copies, 60 s and 0 s ago
    let mut holders: Vec<[Vec<usize>; 2]> = vec![Default::default(); RECORDS];
    let mut owners: BTreeMap<usize, Owner> = BTreeMap::new();
    for second in 0..6 * 3600u64 {
        if second % 3 == 0 {
            // each record is stored again once in 1,200 s
            owners.insert((second / 3) as usize % RECORDS, Owner::due(sim.at));
        }
        run_owners(&mut sim, &resources, &mut owners, &mut copies);
        if second % 5 == 0 && second > 1500 {
            let alive = sim.alive();
            let mut held = vec![Vec::new(); RECORDS];
            for place in &alive {
                let all = sim.node(*place).storage().resources_in(Id::ZERO, Id::ZERO);
                let known = all.iter().filter_map(|resource| number_of.get(resource));
                known.for_each(|record| held[*record].push(*place));
            }
            for (record, now) in held.into_iter().enumerate() {
                copies.samples[now.len().min(4)] += 1;
                let [earlier, last] = &mut holders[record];
                if now.is_empty() && !last.is_empty() {
                    copies.before[earlier.len().min(4)] += 1;
                    match last.iter().any(|place| alive.contains(place)) {
                        true => copies.dropped += 1,
                        false => copies.died += 1,
                    }
                }
                *last = now;
                if second % 60 == 0 {
                    *earlier = last.clone();
                }
            }
        }
        if sim.rng.random_bool(rate.min(1.0)) {
            let alive = sim.alive();
            let pick = sim.rng.random_range(BASE..alive.len());
            sim.kill(alive[pick]);
            let place = sim.add();
            sim.join(place);
        }
        sim.run(Duration::from_secs(1));
    }
    let all: u64 = copies.samples.iter().sum();
    let share = |count: u64| 100.0 * count as f64 / all as f64;
    println!(
        "{count} nodes, sessions of {minutes} min, deaths noticed within {noticed} s, 6 h: no copy {:.3} % of the time ({} of {all} samples)",
        share(copies.samples[0]),
        copies.samples[0]
    );
    println!(
        "  one copy {:.2} %, two {:.2} %, three {:.2} %, more {:.2} %",
        share(copies.samples[1]),
        share(copies.samples[2]),
        share(copies.samples[3]),
        share(copies.samples[4])
    );
    println!(
        "  the last copy died with its node {} times, was dropped {} times; a minute before there were 0, 1, 2, 3, more: {:?}",
        copies.died, copies.dropped, copies.before
    );
    println!(
        "  STOREs {}, refused {}, without an answer {}",
        copies.stores, copies.refused, copies.timed_out
    );
}

/// The first nodes never die: the stable base (RD54).
const BASE: usize = 8;

/// The owner of a record stores it, and again soon when that failed, as the program does.
struct Owner {
    at: Duration,
    retry: Duration,
    asked: Option<(usize, RequestId)>,
}

impl Owner {
    fn due(at: Duration) -> Self {
        Self {
            at,
            retry: Duration::from_secs(2),
            asked: None,
        }
    }
}

fn run_owners(
    sim: &mut Sim,
    resources: &[Id],
    owners: &mut BTreeMap<usize, Owner>,
    copies: &mut Copies,
) {
    let mut done = Vec::new();
    for (record, owner) in owners.iter_mut() {
        if let Some(asked) = owner.asked {
            match sim.answers.remove(&asked) {
                None => continue,
                Some(Ok(_)) => {
                    done.push(*record);
                    continue;
                }
                Some(Err(error)) => {
                    match error {
                        ReloadError::Timeout => copies.timed_out += 1,
                        _ => copies.refused += 1,
                    }
                    owner.asked = None;
                    owner.at = sim.at + owner.retry;
                    owner.retry *= 2;
                }
            }
        }
        if owner.at <= sim.at {
            copies.stores += 1;
            owner.asked = store(sim, resources[*record]);
        }
    }
    for record in done {
        owners.remove(&record);
    }
}

fn store(sim: &mut Sim, resource: Id) -> Option<(usize, RequestId)> {
    let data = StoredData {
        storage_time: sim.now().unix as u32,
        lifetime: 3600,
        value: DataValue::Single(vec![1; 8]),
        signature: None,
    };
    let request = StoreRequest {
        resource,
        types: vec![StoreType {
            kind: TypeId::TURN_SERVICE,
            generation: 0,
            values: vec![data],
        }],
    };
    let from = sim.alive()[0];
    let asked = sim.with(from, |node, now| {
        node.ask(now, &request, RequestOptions::default())
    });
    Some((from, asked?.ok()?))
}

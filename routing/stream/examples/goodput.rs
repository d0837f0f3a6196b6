//! Prints goodput against the link's capacity for a grid of loss and round-trip time, on virtual time, and what the
//! state machine costs in real time: `cargo run --release -p anode-stream --example goodput [cubic|bbr|newreno] [cpu]`;
//! with `cpu` the cost alone.
#[path = "../tests/sim/mod.rs"]
mod sim;

use anode_stream::{Algorithm, Config, Stream};
use anode_wire::message::{Links, StreamMessage};
use sim::{LINKS, Link, MAX_BODY, Sim};
use std::time::{Duration, Instant};

const LOSSES: [f64; 6] = [0.0, 0.001, 0.01, 0.03, 0.1, 0.3];
const ROUND_TRIPS: [f64; 5] = [0.2, 20.0, 100.0, 200.0, 600.0];
const RATE: u64 = 100_000_000;

fn main() {
    let asked = std::env::args().nth(1);
    let congestion = match asked.as_deref() {
        Some("cubic") => Algorithm::Cubic,
        Some("bbr") => Algorithm::Bbr,
        Some("newreno") => Algorithm::NewReno,
        _ => Algorithm::default(),
    };
    let config = Config {
        congestion,
        ..Config::default()
    };
    if std::env::args().nth(2).as_deref() != Some("cpu") {
        print_goodput(&config);
    }
    print_cost(&config);
}

fn print_goodput(config: &Config) {
    let congestion = config.congestion;
    println!(
        "Goodput in % of a link of {} Mbit/s, {congestion:?}, one stream, 60 s of virtual time,",
        RATE / 1_000_000
    );
    println!(
        "queue of one bandwidth-delay product (96 kB at least), loss of data only, headers count as capacity used.\n"
    );
    print!("{:>10}", "RTT \\ loss");
    for loss in LOSSES {
        print!("{:>9}", format!("{} %", loss * 100.0));
    }
    println!();
    for rtt in ROUND_TRIPS {
        print!("{:>10}", format!("{rtt} ms"));
        for loss in LOSSES {
            print!("{:>9.2}", 100.0 * goodput(config, rtt, loss));
        }
        println!();
    }
    println!();
}

fn print_cost(config: &Config) {
    let (mut best, mut with_copies) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        best = best.min(cpu(config, 1));
        with_copies = with_copies.min(cpu(config, 44));
    }
    println!("state machine, both ends together, 1,196-byte payloads, no loss, one core:");
    println!(
        "  {with_copies:.0} ns/packet in batches of 44 (write, send, receive, read, acknowledge)"
    );
    println!("  {best:.0} ns/packet one at a time");
    println!("  10 Gbit/s leaves {:.0} ns/packet", 1196.0 * 8.0 / 10.0);
}

/// Share of the link's capacity that a bulk transfer gets, its start included.
fn goodput(config: &Config, rtt_ms: f64, loss: f64) -> f64 {
    let link = Link::new(RATE, Duration::from_secs_f64(rtt_ms / 2000.0));
    let mut sim = Sim::with_config(11, link.loss(loss), config);
    sim.links[1].loss = 0.0;
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    let limit = Duration::from_secs(60);
    sim.run(limit, |s| s.any_aborted());
    sim.ends[1].got as f64 * 8.0 / limit.as_secs_f64() / RATE as f64
}

/// Nanoseconds per packet of both ends' state machines, without a network between them.
fn cpu(config: &Config, batch: usize) -> f64 {
    const PACKETS: usize = 1_000_000;
    let started = Instant::now();
    let mut now = started;
    let mut a = Stream::open(config, now, LINKS, 1, 1);
    let other = Links {
        sender: LINKS.receiver,
        receiver: LINKS.sender,
    };
    let mut b = Stream::incoming(config, now, other, 256, 1, 2);
    b.accept(now);
    let chunk = vec![7u8; 64 * 1024];
    let mut wire = vec![vec![0u8; MAX_BODY + 64]; batch];
    let mut meta = Vec::with_capacity(batch);
    let (mut packets, mut clock) = (0, Duration::ZERO);
    while packets < PACKETS {
        let real = Instant::now();
        while a.write_capacity() >= chunk.len() && a.write(now, &chunk) > 0 {}
        loop {
            meta.clear();
            while meta.len() < batch {
                let Some(transmit) = a.poll_transmit(now, MAX_BODY) else {
                    break;
                };
                let message = transmit.message();
                message.emit(&mut wire[meta.len()][..message.len()]);
                meta.push((message.kind(), message.len()));
            }
            if meta.is_empty() {
                break;
            }
            for ((kind, len), bytes) in meta.iter().zip(&wire) {
                if let Ok(message) = StreamMessage::parse(*kind, &bytes[..*len]) {
                    b.handle(now, &message);
                    packets += 1;
                }
            }
            b.read(now, &mut |bytes| bytes.len());
            while let Some(transmit) = b.poll_transmit(now, MAX_BODY) {
                let message = transmit.message();
                let mut ack = [0u8; 128];
                message.emit(&mut ack[..message.len()]);
                if let Ok(message) = StreamMessage::parse(message.kind(), &ack[..message.len()]) {
                    a.handle(now, &message);
                }
            }
            while b.poll_event().is_some() {}
        }
        while a.poll_event().is_some() {}
        clock += real.elapsed();
        now += Duration::from_micros(50);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    clock.as_nanos() as f64 / packets as f64
}

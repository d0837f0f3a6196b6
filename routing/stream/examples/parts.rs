//! What each part of a stream costs per packet, beside the copy that it cannot do without:
//! `cargo run --release -p anode-stream --example parts`.
#![allow(missing_docs)]

use anode_stream::{Algorithm, Config, Stream};
use anode_wire::message::{Links, StreamMessage};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MAX_BODY: usize = 1204;
const PAYLOAD: usize = 1196;
const BATCH: usize = 44;
const PACKETS: usize = 400_000;
const RUNS: usize = 5;
const LINKS: Links = Links {
    sender: 40_000,
    receiver: 80,
};

/// Time spent in each part.
#[derive(Clone, Copy, Default)]
struct Spent {
    write: Duration,
    send: Duration,
    receive: Duration,
    read: Duration,
    acknowledge: Duration,
    feedback: Duration,
    packets: usize,
}

const PARTS: [(&str, &str); 6] = [
    ("write", "one copy into the send ring"),
    ("poll_transmit, emit", "one copy out of it, into the packet"),
    (
        "handle data",
        "one copy into the receive ring; behind a hole two",
    ),
    ("read", "none: the reader sees the ring"),
    ("acknowledge", "none; once a batch"),
    (
        "handle acknowledgements",
        "none; once a batch, with congestion control",
    ),
];

fn main() {
    println!(
        "ns per packet of {PAYLOAD} B payload, batches of {BATCH}, best of {RUNS} runs of {PACKETS} packets\n"
    );
    println!("| part | CUBIC | BBR | BBR, 1 % lost | copies |");
    println!("| --- | ---: | ---: | ---: | --- |");
    let cases = [
        best(Algorithm::Cubic, 0),
        best(Algorithm::Bbr, 0),
        best(Algorithm::Bbr, 100),
    ];
    for (index, (part, copies)) in PARTS.iter().enumerate() {
        let [a, b, c] = cases.map(|case| case[index]);
        println!("| {part} | {a:.0} | {b:.0} | {c:.0} | {copies} |");
    }
    let [a, b, c] = cases.map(|case| case.iter().sum::<f64>());
    println!("| all | {a:.0} | {b:.0} | {c:.0} | |");
    println!(
        "\nlimit: one copy of {PAYLOAD} B from cache {:.0} ns, from 64 MiB {:.0} ns",
        copy(64 * 1024),
        copy(64 << 20)
    );
}

/// The best run's nanoseconds per packet, by part.
fn best(congestion: Algorithm, lost_every: usize) -> [f64; 6] {
    let run = |_| {
        let spent = transfer(congestion, lost_every);
        let each = [
            spent.write,
            spent.send,
            spent.receive,
            spent.read,
            spent.acknowledge,
            spent.feedback,
        ];
        each.map(|time| time.as_nanos() as f64 / spent.packets as f64)
    };
    let runs = (0..RUNS).map(run);
    runs.min_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()))
        .unwrap_or_default()
}

/// One transfer over a round trip of 1 ms, of which every `lost_every`th packet does not arrive.
fn transfer(congestion: Algorithm, lost_every: usize) -> Spent {
    let config = Config {
        congestion,
        ..Config::default()
    };
    let started = Instant::now();
    let mut now = started;
    let mut a = Stream::open(&config, now, LINKS, 1, 1);
    let other = Links {
        sender: LINKS.receiver,
        receiver: LINKS.sender,
    };
    let mut b = Stream::incoming(&config, now, other, 256, 1, 2);
    b.accept(now);
    let chunk = vec![7u8; 64 * 1024];
    let mut wire = vec![vec![0u8; MAX_BODY + 64]; BATCH];
    let mut sent = Vec::with_capacity(BATCH);
    let mut spent = Spent::default();
    while spent.packets < PACKETS {
        let clock = Instant::now();
        while a.write_capacity() >= chunk.len() && a.write(now, &chunk) > 0 {}
        let mut clock = lap(clock, &mut spent.write);
        loop {
            sent.clear();
            while sent.len() < BATCH {
                let Some(transmit) = a.poll_transmit(now, MAX_BODY) else {
                    break;
                };
                let message = transmit.message();
                message.emit(&mut wire[sent.len()][..message.len()]);
                sent.push((message.kind(), message.len()));
            }
            clock = lap(clock, &mut spent.send);
            if sent.is_empty() {
                break;
            }
            for ((kind, len), bytes) in sent.iter().zip(&wire) {
                spent.packets += 1;
                if lost_every > 0 && spent.packets.is_multiple_of(lost_every) {
                    continue;
                }
                if let Ok(message) = StreamMessage::parse(*kind, &bytes[..*len]) {
                    b.handle(now, &message);
                }
            }
            clock = lap(clock, &mut spent.receive);
            b.read(now, &mut |bytes| bytes.len());
            clock = lap(clock, &mut spent.read);
            now += Duration::from_micros(20);
            while let Some(transmit) = b.poll_transmit(now, MAX_BODY) {
                let message = transmit.message();
                let (kind, len) = (message.kind(), message.len());
                let mut ack = [0u8; 128];
                message.emit(&mut ack[..len]);
                clock = lap(clock, &mut spent.acknowledge);
                if let Ok(message) = StreamMessage::parse(kind, &ack[..len]) {
                    a.handle(now, &message);
                }
                clock = lap(clock, &mut spent.feedback);
            }
            clock = lap(clock, &mut spent.acknowledge);
            while b.poll_event().is_some() {}
        }
        while a.poll_event().is_some() {}
        now += Duration::from_millis(1);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    spent
}

/// Adds what has passed since `clock`; the time now.
fn lap(clock: Instant, part: &mut Duration) -> Instant {
    let now = Instant::now();
    *part += now - clock;
    now
}

/// Nanoseconds that a copy of a payload takes when its source lies somewhere in `size` bytes.
fn copy(size: usize) -> f64 {
    let source = vec![1u8; size];
    let mut target = vec![0u8; PAYLOAD];
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let clock = Instant::now();
        let mut at = 0;
        for _ in 0..PACKETS {
            target.copy_from_slice(black_box(&source[at..at + PAYLOAD]));
            black_box(&mut target);
            at += PAYLOAD;
            if at + PAYLOAD > size {
                at = 0;
            }
        }
        best = best.min(clock.elapsed().as_nanos() as f64 / PACKETS as f64);
    }
    best
}

//! Prints how streams share a bottleneck, and how long a packet of anybody's waits there, on virtual time:
//! `cargo run --release -p anode-stream --example fairness`.
#[path = "../tests/sim/mod.rs"]
mod sim;

use anode_stream::Algorithm::{self, Bbr, Cubic, NewReno};
use sim::shared::{Bottleneck, compete};
use std::time::Duration;

const RATE: u64 = 100_000_000;
const SETS: [&[Algorithm]; 8] = [
    &[Cubic],
    &[Bbr],
    &[NewReno],
    &[Cubic, Cubic],
    &[Bbr, Bbr],
    &[Bbr, Cubic],
    &[Cubic, Bbr],
    &[Bbr, NewReno],
];

fn main() {
    println!(
        "Shares of a bottleneck of {} Mbit/s (in %, headers not counted), 60 s of virtual time of which the last 50",
        RATE / 1_000_000
    );
    println!("count; streams start 100 ms apart in the order named. Wait in its queue in ms.\n");
    println!("| RTT | buffer | streams | shares | queue median | p99 | dropped |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for round_trip in [20, 100] {
        for buffer in [0.1, 0.25, 1.0, 4.0] {
            for algorithms in SETS {
                let bottleneck = Bottleneck {
                    rate: RATE,
                    round_trip: Duration::from_millis(round_trip),
                    buffer,
                    time: Duration::from_secs(60),
                    settle: Duration::from_secs(10),
                };
                let outcome = compete(&bottleneck, algorithms);
                let names: Vec<String> = algorithms.iter().map(|a| format!("{a:?}")).collect();
                let shares: Vec<String> = outcome
                    .shares
                    .iter()
                    .map(|s| format!("{:.0}", 100.0 * s))
                    .collect();
                println!(
                    "| {round_trip} ms | {buffer} BDP | {} | {} | {:.1} ms | {:.1} ms | {:.2} % |",
                    names.join(" + "),
                    shares.join(" : "),
                    outcome.median,
                    outcome.p99,
                    100.0 * outcome.dropped
                );
            }
        }
    }
}

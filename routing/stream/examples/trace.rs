//! Prints what one transfer's congestion control believes of a line, every tenth of a second of virtual time:
//! `cargo run --release -p anode-stream --example trace [Mbit/s] [RTT in ms] [loss in %] [seconds] [seed]`.
//! The queue holds one round trip.
#[path = "../tests/sim/mod.rs"]
mod sim;

use anode_stream::Config;
use sim::{Link, Sim};
use std::time::Duration;

const STEP: Duration = Duration::from_millis(100);

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|text| text.parse::<f64>().expect("a number"));
    let mut next = |default: f64| numbers.next().unwrap_or(default);
    let (rate, round_trip, loss) = (next(1000.0) * 1e6, next(100.0), next(1.0) / 100.0);
    let (seconds, seed) = (next(10.0), next(11.0) as u64);
    let delay = Duration::from_secs_f64(round_trip / 2000.0);
    let link = Link::new(rate as u64, delay).loss(loss);
    let mut sim = Sim::with_config(seed, link, &Config::default());
    sim.links[1].loss = 0.0;
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    println!(
        "{:>6} {:>10} {:>6} {:>7} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>5} {:>5}",
        "s",
        "phase",
        "got",
        "pace",
        "max",
        "bound",
        "window",
        "flight",
        "long",
        "short",
        "extra",
        "lost",
        "queue",
        "spur",
        "peer"
    );
    let mut before = (0, 0, 0, 0);
    let mut total = (0u64, 0.0);
    let steps = (seconds / STEP.as_secs_f64()) as u32;
    for step in 1..=steps {
        sim.run(STEP, |_| false);
        let got = sim.ends[1].got;
        let stream = sim.ends[0].stream();
        let Some(model) = stream.model() else { break };
        let counters = stream.counters();
        let now = (
            got,
            counters.retransmitted,
            sim.dropped_at_queue,
            counters.spurious,
        );
        let mbit = |rate: u64| rate as f64 * 8.0 / 1e6;
        let goodput = mbit(now.0 - before.0) / STEP.as_secs_f64();
        let kb =
            |volume: Option<u64>| volume.map_or("-".into(), |v| format!("{:.0}", v as f64 / 1e3));
        let speed = |rate: Option<u64>| rate.map_or("-".into(), |r| format!("{:.0}", mbit(r)));
        println!(
            "{:>6.1} {:>10} {goodput:>6.0} {:>7} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>5} {:>5}",
            f64::from(step) * STEP.as_secs_f64(),
            model.phase,
            speed(model.pace),
            speed(model.max_bandwidth),
            speed(model.bandwidth_bound),
            kb(Some(model.window as u64)),
            kb(Some(model.in_flight as u64)),
            kb(model.longterm),
            kb(model.shortterm),
            kb(Some(model.extra)),
            now.1 - before.1,
            now.2 - before.2,
            now.3 - before.3,
            if model.peer_bound { "bound" } else { "" },
        );
        if f64::from(step) * STEP.as_secs_f64() > (20.0 * round_trip / 1000.0).max(1.0) {
            total.0 += now.0 - before.0;
            total.1 += STEP.as_secs_f64();
        }
        before = now;
    }
    println!(
        "mean without the first 20 round trips: {:.0} Mbit/s",
        total.0 as f64 * 8.0 / 1e6 / total.1
    );
}

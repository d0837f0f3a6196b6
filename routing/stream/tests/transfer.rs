//! Every byte arrives once and in order, whatever the link does, or the stream fails with its reason.
#[allow(missing_docs)]
mod sim;

use sim::{Link, Rng, Sim};
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_clean_link_carries_both_directions() {
    let mut sim = Sim::new(1, Link::new(100_000_000, ms(10)));
    sim.ends[0].to_write = 2_000_000;
    sim.ends[1].to_write = 1_000_000;
    assert!(sim.run(Duration::from_secs(30), Sim::complete));
    for end in &mut sim.ends {
        let counters = end.stream().counters();
        assert_eq!(
            (counters.spurious, counters.timeouts, counters.beyond_window),
            (0, 0, 0),
            "{counters:?}"
        );
    }
}

#[test]
fn every_byte_arrives_once_and_in_order_whatever_the_link_does() {
    // A63, A64, A65, D30, D31, D34, D35
    let mut rng = Rng(7);
    let mut aborted = 0;
    for seed in 0..250 {
        let delay = [0, 1, 10, 50, 150, 300][rng.below(6) as usize];
        let rate = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000][rng.below(4) as usize];
        let mut link = Link::new(rate, ms(delay))
            .loss([0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3][rng.below(7) as usize]);
        link.jitter = ms([0, 1, 20, 100][rng.below(4) as usize]);
        link.duplication = [0.0, 0.05, 0.3][rng.below(3) as usize];
        if rng.chance(0.3) {
            link.queue = 15_000;
        }
        let mut sim = Sim::new(seed, link);
        sim.ends[0].to_write = rng.below(300_000);
        sim.ends[1].to_write = rng.below(300_000);
        let label = format!(
            "seed {seed} {link:?} {} {}",
            sim.ends[0].to_write, sim.ends[1].to_write
        );
        sim.trace = std::env::var("TRACE").is_ok_and(|t| t == seed.to_string());
        let done = sim.run(Duration::from_secs(900), |s| {
            s.complete() || s.any_aborted()
        });
        if sim.any_aborted() {
            aborted += 1;
            println!(
                "ABORT {label} {:?} {:?} {:?}",
                sim.elapsed(),
                sim.ends[0].events,
                sim.ends[1].events
            );
        } else {
            assert!(
                done,
                "{label}: {:?} {:?} got {} {}",
                sim.ends[0].events, sim.ends[1].events, sim.ends[0].got, sim.ends[1].got
            );
        }
        let (a, b) = (
            sim.ends[0].stream().counters(),
            sim.ends[1]
                .stream
                .as_ref()
                .map(|s| s.counters())
                .unwrap_or_default(),
        );
        println!(
            "{:?} rate {} loss {} delay {} jitter {:?} dup {} q {}: {} {} sent {}+{} re {}+{} spur {}+{} rto {}+{} ev {}+{} undo {} steps {}",
            sim.elapsed(),
            link.rate,
            link.loss,
            delay,
            link.jitter,
            link.duplication,
            link.queue,
            sim.ends[0].to_write,
            sim.ends[1].to_write,
            a.data_sent,
            b.data_sent,
            a.retransmitted,
            b.retransmitted,
            a.spurious,
            b.spurious,
            a.timeouts,
            b.timeouts,
            a.loss_events,
            b.loss_events,
            a.undone + b.undone,
            sim.steps
        );
    }
    assert_eq!(aborted, 0);
}

//! Every byte arrives once and in order, whatever the link does, or the stream fails with its reason.
mod sim;

use anode_stream::{Algorithm, CloseReason, Config};
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
    // A60, A63, A64, A65, A66, D30, D31, D34, D35: numbers wrap in half of the runs (see the simulation's ISN).
    let mut rng = Rng(7);
    let mut aborted = 0;
    for seed in 0..1000 {
        let delay = [0, 1, 10, 50, 150, 300][rng.below(6) as usize];
        let rate = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000][rng.below(4) as usize];
        let loss = [0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3][rng.below(7) as usize];
        let mut link = Link::new(rate, ms(delay)).loss(loss);
        link.jitter = ms([0, 1, 20, 100][rng.below(4) as usize]);
        link.duplication = [0.0, 0.05, 0.3][rng.below(3) as usize];
        if rng.chance(0.3) {
            link.queue = 15_000;
        }
        let congestion = match rng.below(10) {
            0..5 => Algorithm::Bbr,
            5..8 => Algorithm::Cubic,
            _ => Algorithm::NewReno,
        };
        let mut sim = Sim::with_config(
            seed,
            link,
            &Config {
                congestion,
                ..Config::default()
            },
        );
        sim.ends[0].to_write = rng.below(300_000);
        sim.ends[1].to_write = rng.below(300_000);
        if rng.chance(0.2) {
            sim.ends[1].read_rate = Some(50_000 + rng.below(500_000));
        }
        // TRACE=seed prints every message of one run.
        sim.trace = std::env::var("TRACE").is_ok_and(|t| t == seed.to_string());
        let done = sim.run(Duration::from_secs(900), |s| {
            s.complete() || s.any_aborted()
        });
        let label = format!(
            "seed {seed} {congestion:?} {link:?} got {} and {}",
            sim.ends[0].got, sim.ends[1].got
        );
        if sim.any_aborted() {
            // D37 allows it where a third of everything is lost, and then says so.
            assert!(loss >= 0.2, "{label}");
            let reason = sim.ends.iter().find_map(|e| e.aborted()).unwrap();
            assert_eq!(reason, (CloseReason::TimedOut, false), "{label}");
            aborted += 1;
        } else {
            assert!(done, "{label}");
        }
        let retransmitted: u64 = sim
            .ends
            .iter_mut()
            .filter_map(|e| e.stream.as_mut())
            .map(|s| s.counters().retransmitted)
            .sum();
        if loss == 0.0 && link.jitter.is_zero() && sim.dropped_at_queue == 0 {
            // A queue that fills faster than the timer learns costs a probe or a timeout, which is seen to be needless.
            assert!(retransmitted <= 5, "{retransmitted}: {label}");
        }
    }
    assert!(aborted <= 4, "{aborted} of 1000 runs timed out");
}

#[test]
fn a_long_transfer_wraps_the_sequence_numbers_and_grows_its_window() {
    // D30, N8
    let mut sim = Sim::new(3, Link::new(1_000_000_000, ms(20)).loss(0.0005));
    sim.ends[0].isn = u32::MAX - 5;
    sim.ends[0].to_write = 20_000_000;
    assert!(sim.run(Duration::from_secs(60), Sim::complete));
}

#[test]
fn reordering_alone_is_not_taken_for_loss_for_long() {
    // D34: RACK's reordering window widens.
    let mut link = Link::new(50_000_000, ms(25));
    link.jitter = ms(10);
    let mut sim = Sim::new(4, link);
    sim.ends[0].to_write = 20_000_000;
    assert!(sim.run(Duration::from_secs(60), Sim::complete));
    let counters = sim.ends[0].stream().counters();
    let needless = counters.retransmitted.saturating_sub(sim.dropped_at_queue);
    assert!(
        needless * 100 < counters.data_sent,
        "{needless} of {counters:?}"
    );
}

#[test]
fn a_delay_spike_is_undone() {
    // D34: a spurious timeout or loss gives the window back.
    let mut sim = Sim::new(5, Link::new(20_000_000, ms(20)));
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    sim.run(Duration::from_secs(5), |_| false);
    let before = sim.ends[0].stream().congestion_window();
    sim.links = [Link::new(20_000_000, ms(500)); 2];
    sim.run(ms(100), |_| false);
    sim.links = [Link::new(20_000_000, ms(20)); 2];
    sim.run(Duration::from_secs(3), |_| false);
    let after = sim.ends[0].stream().congestion_window();
    assert!(
        after * 2 > before,
        "{before} -> {after}: {:?}",
        sim.ends[0].stream().counters()
    );
}

//! What congestion control makes of a path: how it fills it, shares it, and what it leaves of its queue.
mod sim;

use anode_stream::{Algorithm, Config, Pool};
use sim::shared::{Bottleneck, compete};
use sim::{Link, Sim};
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn config(congestion: Algorithm) -> Config {
    Config {
        congestion,
        ..Config::default()
    }
}

/// Share of a link's capacity that end 0's data gets in `time`.
fn goodput(congestion: Algorithm, link: Link, time: Duration) -> f64 {
    let mut sim = Sim::with_config(11, link, &config(congestion));
    sim.links[1].loss = 0.0;
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    sim.run(time, |_| false);
    sim.ends[1].got as f64 * 8.0 / time.as_secs_f64() / link.rate as f64
}

#[test]
fn bbr_is_not_slowed_by_a_loss_of_one_percent() {
    let link = Link::new(20_000_000, ms(50)).loss(0.01);
    let (bbr, cubic) = (
        goodput(Algorithm::Bbr, link, s(30)),
        goodput(Algorithm::Cubic, link, s(30)),
    );
    assert!(bbr > 0.6, "{bbr}");
    assert!(bbr > 5.0 * cubic, "{bbr} against {cubic}");
}

#[test]
fn random_loss_costs_bbr_little_more_than_what_is_lost() {
    // D34
    // The window has to grow behind the holes, and a lost repair waits for a second one.
    for (round_trip, loss, least) in [
        (20, 0.001, 0.9),
        (20, 0.01, 0.87),
        (20, 0.03, 0.7),
        (100, 0.01, 0.85),
        (100, 0.03, 0.7),
    ] {
        let link = Link::new(400_000_000, ms(round_trip / 2)).loss(loss);
        let mut sim = Sim::with_config(11, link, &config(Algorithm::Bbr));
        sim.links[1].loss = 0.0;
        sim.ends[0].to_write = u64::MAX;
        sim.skip_content();
        sim.run(ms(20 * round_trip).max(s(1)), |_| false);
        let got = sim.ends[1].got;
        sim.run(s(2), |_| false);
        let share = (sim.ends[1].got - got) as f64 * 8.0 / 2.0 / 400e6;
        assert!(share > least, "{round_trip} ms, {loss}: {share}");
    }
}

#[test]
fn bbr_alone_leaves_the_queue_empty_most_of_the_time() {
    let bottleneck = Bottleneck {
        rate: 50_000_000,
        round_trip: ms(40),
        buffer: 4.0,
        time: s(20),
        settle: s(3),
    };
    let outcome = compete(&bottleneck, &[Algorithm::Bbr]);
    assert!(outcome.shares[0] > 0.85, "{outcome:?}");
    assert!(outcome.median < 5.0, "{outcome:?}");
    assert!(outcome.p99 < 60.0, "at most a second pipe: {outcome:?}");
    assert!(outcome.dropped < 0.001, "{outcome:?}");
}

#[test]
fn neither_kind_of_stream_starves_the_other() {
    let bottleneck = Bottleneck {
        rate: 50_000_000,
        round_trip: ms(20),
        buffer: 1.0,
        time: s(30),
        settle: s(5),
    };
    for pair in [
        [Algorithm::Bbr, Algorithm::Bbr],
        [Algorithm::Bbr, Algorithm::Cubic],
        [Algorithm::Cubic, Algorithm::Bbr],
        [Algorithm::Cubic, Algorithm::Cubic],
    ] {
        let outcome = compete(&bottleneck, &pair);
        let sum: f64 = outcome.shares.iter().sum();
        assert!(sum > 0.9, "{pair:?} {outcome:?}");
        for share in &outcome.shares {
            assert!(*share > 0.2, "{pair:?} {outcome:?}");
        }
    }
}

#[test]
fn bbr_finds_new_bandwidth_and_gives_lost_bandwidth_up() {
    let mut sim = Sim::with_config(12, Link::new(20_000_000, ms(20)), &config(Algorithm::Bbr));
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    let mut phase = |rate: u64, settle: Duration| {
        sim.links[0] = Link::new(rate, ms(20));
        sim.run(settle, |_| false);
        let (got, dropped) = (sim.ends[1].got, sim.dropped_at_queue);
        sim.run(s(5), |_| false);
        let share = (sim.ends[1].got - got) as f64 * 8.0 / 5.0 / rate as f64;
        (share, sim.dropped_at_queue - dropped)
    };
    assert!(phase(20_000_000, s(3)).0 > 0.85);
    let (share, _) = phase(100_000_000, s(10));
    assert!(share > 0.8, "found {share} of five times the rate");
    let (share, dropped) = phase(10_000_000, s(10));
    assert!(share > 0.85, "{share}");
    assert!(
        dropped < 500,
        "{dropped} dropped in 5 s of a tenth of the rate"
    );
}

#[test]
fn a_path_of_a_gigabit_and_100_ms_is_filled_within_seconds_and_idleness_gives_the_memory_back() {
    let mut sim = Sim::with_config(
        13,
        Link::new(1_000_000_000, ms(50)),
        &config(Algorithm::default()),
    );
    sim.ends[0].to_write = 700_000_000;
    sim.ends[0].finish = false;
    sim.ends[1].finish = false;
    sim.skip_content();
    sim.run(s(3), |_| false);
    let got = sim.ends[1].got;
    sim.run(s(2), |_| false);
    let rate = (sim.ends[1].got - got) as f64 * 8.0 / 2.0;
    assert!(rate > 800e6, "{rate} bit/s in the fourth and fifth second");
    assert!(sim.ends[0].peak_memory > 12_500_000, "a pipe is buffered");
    assert!(sim.run(s(20), |s| s.ends[1].got == 700_000_000));
    sim.run(s(15), |_| false);
    for end in &mut sim.ends {
        assert_eq!(end.stream().memory(), 0);
    }
}

#[test]
fn a_pool_bounds_what_all_hold_and_a_full_one_stops_nobody() {
    // D33, N8
    // Both ends share the pool here: a window promised and a buffer.
    const BUDGET: usize = 4 << 20;
    let config = Config {
        pool: Pool::new(BUDGET),
        ..config(Algorithm::default())
    };
    let link = Link::new(1_000_000_000, ms(50)).loss(0.01);
    let mut sim = Sim::with_config(15, link, &config);
    sim.links[1].loss = 0.0;
    sim.ends[0].to_write = 30_000_000;
    sim.ends[0].finish = false;
    sim.ends[1].finish = false;
    // For a while nobody reads: all that is promised is filled.
    sim.ends[1].read_from = Some(sim.start + s(3));
    assert!(sim.run(s(60), |sim| sim.ends[1].got == 30_000_000));
    let peak = config.pool.peak();
    assert!(peak <= BUDGET + BUDGET / 4, "{peak}");
    assert!(peak > BUDGET / 2, "{peak}");
    assert!(config.pool.short() > 0, "the line would take more");
    sim.run(s(15), |_| false);
    assert_eq!(config.pool.used(), 0, "idleness gives it back");
    // The window went back with the memory, and grows again.
    sim.ends[0].to_write = 60_000_000;
    assert!(sim.run(s(60), |sim| sim.ends[1].got == 60_000_000));
    drop(sim);
    assert_eq!(config.pool.used(), 0);
}

#[test]
fn what_the_pool_cannot_hold_is_dropped_counted_and_sent_again() {
    // D33
    let link = Link::new(100_000_000, ms(20)).loss(0.02);
    let mut sim = Sim::with_config(16, link, &config(Algorithm::default()));
    let pool = Pool::new(64 * 1024);
    sim.ends[1].config.pool = pool.clone();
    sim.ends[0].to_write = 2_000_000;
    sim.ends[0].finish = false;
    sim.ends[1].finish = false;
    assert!(sim.run(s(120), |sim| sim.ends[1].got == 2_000_000));
    assert!(pool.refused() > 0);
    // What waited behind a hole is there twice while it moves.
    assert!(pool.peak() <= 128 * 1024, "{}", pool.peak());
}

#[test]
fn a_global_limit_set_later_bounds_what_a_stream_holds() {
    let mut sim = Sim::with_config(
        14,
        Link::new(200_000_000, ms(50)),
        &config(Algorithm::default()),
    );
    sim.ends[0].to_write = u64::MAX;
    sim.skip_content();
    sim.run(s(3), |_| false);
    let before = sim.ends[0].stream().memory();
    assert!(before > 2_000_000, "{before}");
    for end in &mut sim.ends {
        end.stream().set_limits(512 * 1024, 512 * 1024);
    }
    sim.run(s(2), |_| false);
    let got = sim.ends[1].got;
    sim.run(s(2), |_| false);
    let per_round_trip = (sim.ends[1].got - got) / 20;
    assert!(
        (100_000..=600_000).contains(&per_round_trip),
        "the window follows: {per_round_trip}"
    );
    assert!(sim.ends[0].stream().unacknowledged() <= 512 * 1024);
}

//! Every byte arrives once and in order, whatever the link does, or the stream fails with its reason.
#[allow(missing_docs)]
mod sim;

use sim::{Link, Sim};
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_clean_link_carries_both_directions() {
    let mut sim = Sim::new(1, Link::new(100_000_000, ms(10)));
    sim.ends[0].to_write = 2_000_000;
    sim.ends[1].to_write = 1_000_000;
    let done = sim.run(Duration::from_secs(30), Sim::complete);
    println!(
        "{:?} {:?} {:?}",
        sim.elapsed(),
        sim.ends[0].events,
        sim.ends[1].events
    );
    println!("{:?}", sim.ends[0].stream().counters());
    println!("{:?}", sim.ends[1].stream().counters());
    assert!(done);
}

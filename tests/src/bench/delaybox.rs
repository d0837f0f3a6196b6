//! What the delay box itself can carry: TCP of the plain machines at its ends.

use super::load::{Datagrams, Streams};
use super::{Plan, report::median};
use crate::lab::delay::{Conditions, long_line};
use std::fmt;
use std::time::Duration;

/// Gigabits a second by one-way delay, and datagrams a second.
#[derive(Default, Debug)]
pub struct Limits {
    streams: Vec<(Duration, Vec<f64>)>,
    datagrams: Vec<f64>,
}

/// Measures one TCP stream at no delay, at 10 and at 50 ms one way, and datagrams of 1,200 B without loss.
///
/// # Panics
/// If the machines do not reach each other.
pub fn run(plan: &Plan) -> Limits {
    let mut limits = Limits::default();
    let (near, far, line) = long_line(1);
    for host in [&near, &far] {
        host.sysctl("net/ipv4/tcp_rmem", "4096 131072 134217728");
        host.sysctl("net/ipv4/tcp_wmem", "4096 131072 134217728");
    }
    for delay in [0, 10, 50].map(Duration::from_millis) {
        line.set(Conditions {
            delay,
            ..Conditions::default()
        });
        let mut streams = Streams::new(&near, &far, far.ip_address(), 1);
        streams.warm_up = Duration::from_millis(300) + delay * 40;
        let runs = (0..plan.runs).map(|_| streams.run(plan.length).0 / 1e9);
        limits.streams.push((delay, runs.collect()));
    }
    line.set(Conditions::default());
    let datagrams = Datagrams {
        from: &near,
        to: &far,
        from_ip: near.ip_address(),
        to_ip: far.ip_address(),
        size: 1_200,
    };
    let rates = (0..plan.runs).map(|_| datagrams.lossless_rate(plan.length));
    limits.datagrams = rates.collect();
    limits
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (delay, runs) in &self.streams {
            let gigabits = median(runs).unwrap_or(f64::NAN);
            writeln!(f, "TCP, 1 stream, {delay:?} one way: {gigabits:.2} Gbit/s")?;
        }
        let rate = median(&self.datagrams).unwrap_or(f64::NAN);
        writeln!(f, "UDP, 1,200 B, without loss: {rate:.0} packets/s")
    }
}

//! TCP over a long line with loss, with each of the kernel's congestion controls.

use super::Options;
use super::battery::Running;
use super::peers::Peer;
use super::report::{Better, Figure};
use crate::bench::Unit;
use crate::lab::Host;
use crate::lab::delay::{Bottleneck, Conditions, long_line};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The same packets are lost in every run.
const SEED: u64 = 0xa0de;
/// Slow start is over after so many round trips, and after this at the least.
const WARM_UP: (u32, Duration) = (20, Duration::from_secs(1));
/// A measure lasts so many round trips at the least.
const LEAST_TRIPS: u32 = 40;

/// What a line is like, beside its bottleneck.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Condition {
    /// Round trip in milliseconds.
    pub rtt: u32,
    /// Percent.
    pub loss: f64,
}

/// Measures one stream under every condition of `options`.
///
/// # Panics
/// If the peer fails; what it gave until then was told.
pub fn run(peer: &Peer, directory: &Path, options: &Options, tell: &mut dyn FnMut(&Figure, f64)) {
    let (near, far, line) = long_line(SEED);
    for host in [&near, &far] {
        widen(host);
    }
    let (running, _) = Running::start(peer, directory, [&near, &far]);
    for condition in &options.conditions {
        let rtt = Duration::from_millis(condition.rtt.into());
        line.set(Conditions {
            delay: rtt / 2,
            loss: condition.loss / 100.0,
            bottleneck: options.rate.map(|rate| Bottleneck {
                rate,
                queue: (rate / 8.0 * rtt.as_secs_f64().max(0.01)) as usize,
            }),
        });
        for control in controls() {
            let mut streams = running.streams(1, false);
            streams.congestion = control;
            streams.warm_up = (rtt * WARM_UP.0).max(WARM_UP.1);
            let (bits_per_second, _) = streams.run(options.length.max(rtt * LEAST_TRIPS));
            let figure = Figure {
                name: name(*condition, control),
                unit: Unit::MegabitsPerSecond,
                better: Better::More,
            };
            tell(&figure, bits_per_second / 1e6);
        }
    }
}

/// The congestion controls that rows are made for.
pub const CONTROLS: [&str; 2] = ["cubic", "bbr"];

/// Those of [`CONTROLS`] that this kernel has.
pub fn controls() -> Vec<&'static str> {
    let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let listed = fs::read_to_string(path).unwrap_or_default();
    CONTROLS
        .into_iter()
        .filter(|control| listed.split_whitespace().any(|name| name == *control))
        .collect()
}

/// The row of a condition and a congestion control.
pub fn name(condition: Condition, control: &str) -> String {
    format!(
        "TCP, {} ms, {} % loss, {control}",
        condition.rtt, condition.loss
    )
}

/// Lets TCP's windows grow to what the longest line holds: the rivals' streams shall not be bound by the kernel's default.
fn widen(host: &Host) {
    host.sysctl("net/ipv4/tcp_rmem", "4096 131072 67108864");
    host.sysctl("net/ipv4/tcp_wmem", "4096 131072 67108864");
}

//! One TCP stream through each transport, beside the same stream over the plain link; and how soon the first reply came.

use super::load::Streams;
use super::{Plan, Report, Unit};
use crate::lab::{Family, Lab, Node, wired};
use crate::programs;
use std::time::Duration;

/// Names of the rows, by transport: goodput, and the first reply after `ready`.
const TRANSPORTS: [(&str, &str, &str); 5] = [
    ("udp", "goodput through UDP", "first reply through UDP"),
    ("tcp", "goodput through TCP", "first reply through TCP"),
    ("tls", "goodput through TLS", "first reply through TLS"),
    ("http", "goodput through HTTP", "first reply through HTTP"),
    (
        "https",
        "goodput through HTTPS",
        "first reply through HTTPS",
    ),
];

/// Measures them in turn, `plan.runs` times.
///
/// # Panics
/// If a node does not reach the other.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    let mut report = Report::default();
    for run in 0..plan.runs {
        for (transport, goodput, first) in TRANSPORTS {
            let (host_a, host_b) = wired(Family::V4);
            let plain = Streams::new(&host_a, &host_b, host_b.ip_address(), 1);
            report.plain(
                goodput,
                Unit::GigabitsPerSecond,
                plain.run(plan.length).0 / 1e9,
            );
            let at = |scheme: &str| format!("{scheme}://{}:8737", host_b.v4());
            let b = Node::on(&host_b, lab.directory(), &format!("b-{transport}{run}"))
                .no_lan()
                .args(&["--listen", &at("udp"), "--listen", &at("tcp")])
                .start();
            let builder = Node::on(&host_a, lab.directory(), &format!("a-{transport}{run}"))
                .no_lan()
                .peer(&b, &at(transport));
            let prepared = builder.clone().prepare();
            prepared.trust(&b, "b");
            b.trust(&prepared, "a");
            let _a = builder.start();
            let took = programs::first_ping(&host_a, b.ipv6().into(), Duration::from_secs(10));
            report.anode(first, Unit::Milliseconds, took.as_secs_f64() * 1e3);
            let through = Streams {
                to_ip: b.ipv6().into(),
                ..plain
            };
            report.anode(
                goodput,
                Unit::GigabitsPerSecond,
                through.run(plan.length).0 / 1e9,
            );
        }
    }
    report
}

//! The overlay beside every other that is installed: the same measures, alternating, in one table.
//!
//! ```text
//!   run 1: link, anode, anode-plain, wireguard-go, …   each: two new machines on a cable, start, battery, end
//!   run 2: the same again, in the reverse order                                                        ┐
//!   …                                                                                                  ├▶ report
//!   long lines: the same peers on two machines with a delay box between them, TCP under loss           ┘
//! ```
//!
//! Every measure is taken with new machines and new processes. Medians are shown; what carries a ratio is compared with the
//! best rival of its row. Who is not installed stands in the table as absent, who broke off is named with its last words.

mod battery;
mod connects;
mod echo;
mod flows;
mod long;
mod options;
mod peers;
mod report;

pub use long::Condition;
pub use options::{Group, Options, USAGE};
pub use report::Report;

use crate::lab::Lab;
use peers::Peer;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Measures.
///
/// # Errors
/// If a peer is asked for that there is none of.
pub fn run(lab: &Lab, options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    let mut present = Vec::new();
    for peer in options.columns()? {
        let found = peer.found();
        if found.is_ok() {
            present.push(peer);
        }
        report.column(peer.name, found);
    }
    let battery = options.groups.iter().any(|group| *group != Group::Long);
    for run in 0..options.runs {
        let mut order = present.clone();
        // Who follows whom changes: what one leaves behind in caches and clocks is not always the same one's gain.
        if run % 2 == 1 {
            order.reverse();
        }
        for peer in &order {
            if battery {
                attempt(lab, peer, run, options, &mut report, battery::run);
            }
        }
        for peer in &order {
            if options.has(Group::Long) {
                attempt(lab, peer, run, options, &mut report, long::run);
            }
        }
    }
    Ok(report)
}

type Measure = fn(&Peer, &Path, &Options, &mut Report);

/// One peer's failure is a line of the report and does not end the others' runs.
fn attempt(
    lab: &Lab,
    peer: &Peer,
    run: u32,
    options: &Options,
    report: &mut Report,
    measure: Measure,
) {
    eprintln!("run {}: {}", run + 1, peer.name);
    let directory = directory(lab);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        measure(peer, &directory, options, report);
    }));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        report.failed(peer.name, text.unwrap_or("a thread panicked"));
    }
    let _ = fs::remove_dir_all(&directory);
    // The kernel takes namespaces apart in the background.
    thread::sleep(Duration::from_millis(300));
}

fn directory(lab: &Lab) -> PathBuf {
    let path = lab.directory().join("peer");
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

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

pub use flows::hold;
pub use long::Condition;
pub use options::{Child, Group, Options, USAGE};
pub use report::Report;

use crate::lab::{Lab, command};
use options::Part;
use peers::Peer;
use std::time::Duration;
use std::{fs, thread};

/// Measures.
///
/// # Errors
/// If a peer is asked for that there is none of.
pub fn run(options: &Options) -> Result<Report, String> {
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
                attempt(peer, run, Part::Battery, options, &mut report);
            }
        }
        for peer in &order {
            if options.has(Group::Long) {
                attempt(peer, run, Part::Long, options, &mut report);
            }
        }
    }
    Ok(report)
}

/// One peer's measures in a process of its own: what breaks there is a line of the report, and ends nobody else's run.
fn attempt(peer: &Peer, run: u32, part: Part, options: &Options, report: &mut Report) {
    eprintln!("run {}: {}", run + 1, peer.name);
    let own = std::env::current_exe().expect("Linux knows the program");
    let mut child = command(own);
    child.arg("compare").args(&options.arguments);
    child.args(["--child", &format!("{}:{}", part.name(), peer.name)]);
    match child.output() {
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                report.read(peer.name, line);
            }
            if !output.status.success() {
                report.failed(peer.name, &String::from_utf8_lossy(&output.stderr));
            }
        }
        Err(error) => report.failed(peer.name, &error.to_string()),
    }
    // The kernel takes namespaces apart in the background.
    thread::sleep(Duration::from_millis(300));
}

/// What [`run`] starts for each peer: measures and prints each figure at once.
///
/// # Panics
/// If the peer fails.
pub fn child(lab: &Lab, options: &Options, child: &Child) {
    let directory = lab.directory().join("peer");
    fs::create_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut tell = |figure: &report::Figure, value| println!("{}", report::line(figure, value));
    match child.part {
        Part::Battery => battery::run(child.peer, &directory, options, &mut tell),
        Part::Long => long::run(child.peer, &directory, options, &mut tell),
    }
}

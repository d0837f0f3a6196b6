//! `bench [flood|restart|transports] [--runs N] [--seconds S] [--rate N] [--plain] [--json]`: measures in the lab. Needs root.
#![forbid(unsafe_code)]

use anode_tests::bench::{self, Plan, flood, restart};
use anode_tests::lab::Lab;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "usage: bench [flood|restart|transports] [--runs N] [--seconds S] [--rate N] [--plain] [--json]
  (nothing)    the overlay beside the plain link, as ratios
  flood        a paced flow under a flood of forged first packets
  restart      from the end of a node to traffic again
  transports   one TCP stream through UDP, TCP, TLS, HTTP and HTTPS, beside the plain link
  --runs N     alternations, the median counts (default 5)
  --seconds S  length of one measure (default 2)
  --rate N     forged packets per second (default 50000; only flood)
  --plain      only the plain link (only without a mode)
  --json       medians and single values for programs (only without a mode)";

enum Mode {
    Ratios,
    Flood,
    Restart,
    Transports,
}

fn main() -> ExitCode {
    let mut plan = Plan {
        runs: 5,
        length: Duration::from_secs(2),
        plain_only: false,
    };
    let (mut mode, mut rate, mut json) = (Mode::Ratios, 50_000.0, false);
    let mut arguments = std::env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        Some("flood") => mode = Mode::Flood,
        Some("restart") => mode = Mode::Restart,
        Some("transports") => mode = Mode::Transports,
        _ => {}
    }
    if !matches!(mode, Mode::Ratios) {
        arguments.next();
    }
    while let Some(argument) = arguments.next() {
        let mut number = |limit: f64| {
            arguments
                .next()
                .and_then(|value| value.parse::<f64>().ok())
                .filter(|n| *n > 0.0 && *n < limit)
        };
        match (argument.as_str(), &mode) {
            ("--runs", _) => match number(1e4) {
                Some(runs) => plan.runs = (runs as u32).max(1),
                None => return usage(),
            },
            ("--seconds", _) => match number(1e4) {
                Some(seconds) => plan.length = Duration::from_secs_f64(seconds),
                None => return usage(),
            },
            ("--rate", Mode::Flood) => match number(1e7) {
                Some(packets) => rate = packets,
                None => return usage(),
            },
            ("--plain", Mode::Ratios) => plan.plain_only = true,
            ("--json", Mode::Ratios) => json = true,
            _ => return usage(),
        }
    }
    let Some(lab) = Lab::open() else {
        return ExitCode::FAILURE;
    };
    match mode {
        Mode::Flood => println!("{}", flood::run(&lab, &plan, rate)),
        Mode::Transports => println!("{}", bench::transports::run(&lab, &plan)),
        Mode::Restart => println!("{}", restart::run(&lab, &plan)),
        Mode::Ratios if json => println!("{}", bench::run(&lab, &plan).json()),
        Mode::Ratios => println!(
            "{} runs of {:?}, medians; ratio = anode / plain link\n\n{}",
            plan.runs,
            plan.length,
            bench::run(&lab, &plan)
        ),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

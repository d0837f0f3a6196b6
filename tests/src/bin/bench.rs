//! `bench [--runs N] [--seconds S] [--plain] [--json]`: the overlay beside the plain link, as ratios. Needs root.
#![forbid(unsafe_code)]

use anode_tests::bench::{self, Plan};
use anode_tests::lab::Lab;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: bench [--runs N] [--seconds S] [--plain] [--json]
  --runs N     alternations, the median counts (default 5)
  --seconds S  length of one measure (default 2)
  --plain      only the plain link
  --json       medians and single values for programs";

fn main() -> ExitCode {
    let mut plan = Plan {
        runs: 5,
        length: Duration::from_secs(2),
        plain_only: false,
    };
    let mut json = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|value| value.parse::<f64>().ok())
                .filter(|n| *n > 0.0 && *n < 1e4)
        };
        match argument.as_str() {
            "--runs" => match number() {
                Some(runs) => plan.runs = runs as u32,
                None => return usage(),
            },
            "--seconds" => match number() {
                Some(seconds) => plan.length = Duration::from_secs_f64(seconds),
                None => return usage(),
            },
            "--plain" => plan.plain_only = true,
            "--json" => json = true,
            _ => return usage(),
        }
    }
    let Some(lab) = Lab::open() else {
        return ExitCode::FAILURE;
    };
    let report = bench::run(&lab, &plan);
    if json {
        println!("{}", report.json());
    } else {
        println!(
            "{} runs of {:?}, medians; ratio = anode / plain link\n\n{report}",
            plan.runs, plan.length
        );
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

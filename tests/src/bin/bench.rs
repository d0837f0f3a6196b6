//! `bench [compare|delaybox|flood|i2p|idle|matrix|relay|restart|tracker|transports|turn] …`: measures in the lab. Needs root.
#![forbid(unsafe_code)]

use anode_tests::bench::compare::{self, Options};
use anode_tests::bench::{self, Plan, delaybox, flood, relay, restart, tracker};
use anode_tests::lab::Lab;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "usage: bench [compare|delaybox|flood|i2p|idle|matrix|relay|restart|tracker|transports|turn] [--runs N] [--seconds S] [--rate N] [--plain] [--json]
  (nothing)    the overlay beside the plain link, as ratios
  compare      every other overlay that is installed beside ours (bench compare --help)
  delaybox     what the lab's long line can carry
  flood        a paced flow under a flood of forged first packets
  i2p          goodput through routers of i2pd beside their own tunnels, time to a session and a first byte, memory of a stream
  idle         packets and wake-ups of a node that nobody wants anything of; --seconds: how long
  matrix       every pair of NATs: direct or relayed, how soon; --runs: tries where ports are guessed; a name: only its pairs
  restart      from the end of a node to traffic again
  relay        what passing packets on costs, beside a loop without logic
  tracker      announces a second beside other trackers, memory, how soon two nodes meet by one
  transports   one TCP stream through UDP, TCP, TLS, HTTP and HTTPS, beside the plain link
  turn         what a relayed datagram and an allocation cost, beside coturn and a loop without logic
  --runs N     alternations, the median counts (default 5)
  --seconds S  length of one measure (default 2)
  --rate N     forged packets per second (default 50000; only flood)
  --plain      only the plain link (only without a word)
  --json       medians and single values for programs (only without a word)";

enum Mode {
    Ratios,
    DelayBox,
    Flood,
    I2p,
    Idle,
    Restart,
    Relay,
    Tracker,
    Transports,
    Turn,
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
        // What `compare` starts to hold the far ends of idle connections.
        Some("hold") => return hold(arguments.nth(1)),
        Some("compare") => return compare(arguments.skip(1)),
        Some("matrix") => return matrix(arguments.skip(1)),
        Some("delaybox") => mode = Mode::DelayBox,
        Some("flood") => mode = Mode::Flood,
        Some("i2p") => mode = Mode::I2p,
        Some("idle") => mode = Mode::Idle,
        Some("restart") => mode = Mode::Restart,
        Some("relay") => mode = Mode::Relay,
        Some("tracker") => mode = Mode::Tracker,
        Some("transports") => mode = Mode::Transports,
        Some("turn") => mode = Mode::Turn,
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
        Mode::DelayBox => println!("{}", delaybox::run(&plan)),
        Mode::Idle => match bench::idle::run(plan.length) {
            Some(idle) => println!("{idle}"),
            None => return ExitCode::FAILURE,
        },
        Mode::I2p => println!("{}", bench::i2p::run(&lab, &plan)),
        Mode::Flood => println!("{}", flood::run(&lab, &plan, rate)),
        Mode::Relay => println!("{}", relay::run(&lab, &plan)),
        Mode::Tracker => println!("{}", tracker::run(&lab, &plan)),
        Mode::Transports => println!("{}", bench::transports::run(&lab, &plan)),
        Mode::Turn => println!("{}", bench::turn::run(&lab, &plan)),
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

/// Exit status 1: a pair is not what it should be.
fn matrix(arguments: impl Iterator<Item = String>) -> ExitCode {
    let (mut tries, mut only) = (20, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => match arguments.next().and_then(|runs| runs.parse().ok()) {
                Some(runs) if runs > 0 => tries = runs,
                _ => return usage(),
            },
            name if !name.starts_with('-') => only = Some(name.to_owned()),
            _ => return usage(),
        }
    }
    let Some(matrix) = bench::matrix::run(tries, only.as_deref()) else {
        return ExitCode::FAILURE;
    };
    println!("{matrix}");
    let faults = matrix.faults();
    for fault in &faults {
        println!("not as expected: {fault}");
    }
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn compare(arguments: impl Iterator<Item = String>) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{}", compare::USAGE);
            return ExitCode::from(2);
        }
    };
    let Some(lab) = Lab::open() else {
        return ExitCode::FAILURE;
    };
    if let Some(child) = &options.child {
        compare::child(&lab, &options, child);
        return ExitCode::SUCCESS;
    }
    let before = load_average();
    match compare::run(&options) {
        Ok(report) => println!(
            "{} runs of {:?}, medians; in parentheses the ratio to the best rival of the row, which is bold\n\n{report}\n\
             load average before and after: {before} – {}",
            options.runs,
            options.length,
            load_average()
        ),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn hold(address: Option<String>) -> ExitCode {
    let Some(address) = address.and_then(|text| text.parse().ok()) else {
        return usage();
    };
    if let Err(error) = compare::hold(address) {
        eprintln!("{address}: {error}");
    }
    ExitCode::FAILURE
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

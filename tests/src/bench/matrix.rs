//! Every pair of sites: what it reaches, how soon, at what price; pairs whose ports are guessed many times.

use crate::lab::{Internet, Site};
use crate::matrix::{Expected, Outcome, expected, judge, try_pair};
use std::fmt;
use std::time::Duration;

/// Relays of the zone: with two, the mapping of a NAT can be told.
const RELAYS: usize = 2;
/// Pairs that share one internet: its LAN has 254 addresses.
const PAIRS_EACH: usize = 24;
/// A loaded machine may take longer, in the same order.
const SLACK: u32 = 3;

/// One pair of sites.
#[derive(Debug)]
pub struct Cell {
    sites: [Site; 2],
    outcomes: Vec<Outcome>,
}

/// All pairs.
#[derive(Debug, Default)]
pub struct Matrix {
    cells: Vec<Cell>,
}

/// Runs all pairs, those that guess `tries` times. Only pairs with a site whose name contains `only`, if it is given.
/// `None` if the lab is switched off.
pub fn run(tries: u32, only: Option<&str>) -> Option<Matrix> {
    let mut matrix = Matrix::default();
    let mut internet = Internet::new(RELAYS)?;
    let mut used = 0;
    for (index, a) in Site::ALL.into_iter().enumerate() {
        for b in Site::ALL.into_iter().skip(index) {
            let named = |wanted: &str| format!("{}-{}", a.as_str(), b.as_str()).contains(wanted);
            if !only.is_none_or(named) {
                continue;
            }
            let rounds = match expected(a, b) {
                Expected::Mostly(..) => tries,
                _ => 1,
            };
            let mut outcomes = Vec::new();
            for round in 0..rounds {
                if used == PAIRS_EACH {
                    internet = Internet::new(RELAYS)?;
                    used = 0;
                }
                used += 1;
                let sites = match round % 2 {
                    0 => [a, b],
                    _ => [b, a],
                };
                let outcome = try_pair(&mut internet, sites);
                eprintln!("{} - {}: {outcome}", a.as_str(), b.as_str());
                outcomes.push(outcome);
            }
            matrix.cells.push(Cell {
                sites: [a, b],
                outcomes,
            });
        }
    }
    Some(matrix)
}

impl Cell {
    fn hits(&self) -> u32 {
        let limit = match expected(self.sites[0], self.sites[1]) {
            Expected::Direct(limit) | Expected::Mostly(limit, _) => limit * SLACK,
            Expected::Relayed(_) => Duration::ZERO,
        };
        let direct = self.outcomes.iter().filter_map(|outcome| outcome.direct);
        direct.filter(|time| *time <= limit).count() as u32
    }

    /// What is wrong with it, if something is.
    fn fault(&self) -> Option<String> {
        match expected(self.sites[0], self.sites[1]) {
            Expected::Mostly(_, of_twenty) => {
                let tries = self.outcomes.len() as u32;
                (self.hits() * 20 < of_twenty * tries).then(|| {
                    format!(
                        "{} of {tries} direct, {of_twenty} of 20 wanted",
                        self.hits()
                    )
                })
            }
            _ => {
                let verdicts = self.outcomes.iter();
                verdicts
                    .filter_map(|outcome| judge(self.sites, outcome, SLACK).err())
                    .next()
            }
        }
    }
}

impl Matrix {
    /// Cells that are not what they should be, in words.
    pub fn faults(&self) -> Vec<String> {
        let named = |cell: &Cell| {
            let [a, b] = cell.sites.map(Site::as_str);
            cell.fault().map(|why| format!("{a} - {b}: {why}"))
        };
        self.cells.iter().filter_map(named).collect()
    }
}

fn median(mut values: Vec<Duration>) -> Option<Duration> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Option<Duration>| match time {
            Some(time) => format!("{:.0}", time.as_secs_f64() * 1e3),
            None => "-".to_owned(),
        };
        writeln!(
            f,
            "| pair | path | direct | first reply, ms | to direct, ms | slowest | packets |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for cell in &self.cells {
            let outcomes = cell.outcomes.iter();
            let direct: Vec<Duration> = outcomes.clone().filter_map(|o| o.direct).collect();
            let first = outcomes
                .clone()
                .map(|outcome| outcome.first_reply)
                .collect();
            let mut packets: Vec<u64> = outcomes.clone().map(|outcome| outcome.packets).collect();
            packets.sort_unstable();
            let path = match (&cell.outcomes.first(), direct.is_empty()) {
                (_, false) => "direct".to_owned(),
                (Some(first), true) => {
                    format!("relay: {}", first.reason.as_deref().unwrap_or("-"))
                }
                (None, true) => "-".to_owned(),
            };
            writeln!(
                f,
                "| {} – {} | {path} | {} of {} | {} | {} | {} | {} |",
                cell.sites[0].as_str(),
                cell.sites[1].as_str(),
                direct.len(),
                cell.outcomes.len(),
                ms(median(first)),
                ms(median(direct.clone())),
                ms(direct.into_iter().max()),
                packets.get(packets.len() / 2).copied().unwrap_or_default(),
            )?;
        }
        Ok(())
    }
}

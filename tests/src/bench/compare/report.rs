//! One table: a row for each figure, a column for each peer, medians and what they are to the best rival of the row.

use super::peers::{self, Role};
use crate::bench::{Unit, median};
use std::collections::BTreeMap;
use std::fmt;

/// Which of two values wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// The higher one.
    More,
    /// The lower one.
    Less,
}

/// What a row shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Its name, unique in the table.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Which way is up.
    pub better: Better,
}

/// Everything measured, in the order of its first measure.
#[derive(Default, Debug)]
pub struct Report {
    rows: Vec<Row>,
    /// The version of each peer, or why it is not there.
    columns: BTreeMap<&'static str, Result<String, String>>,
    failures: Vec<String>,
}

#[derive(Debug)]
struct Row {
    figure: Figure,
    values: BTreeMap<&'static str, Vec<f64>>,
}

/// One measure, for [`Report::read`].
pub fn line(figure: &Figure, value: f64) -> String {
    let better = match figure.better {
        Better::More => "more",
        Better::Less => "less",
    };
    format!("{}\t{}\t{better}\t{value}", figure.name, figure.unit.name())
}

/// What a figure of ours must reach.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Bound {
    /// Of the best rival's figure.
    Ratio(f64),
    /// In the row's unit.
    Value(f64),
}

impl Report {
    /// A column that will be measured, with its version, or one that is absent, with the reason.
    pub fn column(&mut self, peer: &'static str, found: Result<String, String>) {
        self.columns.insert(peer, found);
    }

    /// Notes one measure.
    pub fn note(&mut self, figure: Figure, peer: &'static str, value: f64) {
        let at = self
            .rows
            .iter()
            .position(|row| row.figure.name == figure.name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                figure,
                values: BTreeMap::new(),
            });
            self.rows.len() - 1
        });
        self.rows[at].values.entry(peer).or_default().push(value);
    }

    /// Notes a measure that [`line`] wrote; `false` if it is none.
    pub fn read(&mut self, peer: &'static str, line: &str) -> bool {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, unit, better, value] = fields[..] else {
            return false;
        };
        let better = match better {
            "more" => Better::More,
            "less" => Better::Less,
            _ => return false,
        };
        let (Some(unit), Ok(value)) = (Unit::named(unit), value.parse()) else {
            return false;
        };
        let name = name.to_owned();
        self.note(Figure { name, unit, better }, peer, value);
        true
    }

    /// Notes a run that broke off.
    pub fn failed(&mut self, peer: &str, why: &str) {
        let first: Vec<&str> = why
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(4)
            .collect();
        self.failures.push(format!("{peer}: {}", first.join(" / ")));
    }
}

impl Row {
    fn median(&self, peer: &str) -> Option<f64> {
        median(self.values.get(peer)?)
    }

    /// The best rival and its median.
    fn best(&self) -> Option<(&'static str, f64)> {
        let rivals = peers::ALL.iter().filter(|peer| peer.role == Role::Rival);
        let medians = rivals.filter_map(|peer| Some((peer.name, self.median(peer.name)?)));
        let order = |a: &(&str, f64), b: &(&str, f64)| match self.figure.better {
            Better::More => a.1.total_cmp(&b.1),
            Better::Less => b.1.total_cmp(&a.1),
        };
        medians.filter(|(_, value)| value.is_finite()).max_by(order)
    }

    fn cell(&self, peer: &str) -> String {
        let Some(value) = self.median(peer) else {
            return "–".into();
        };
        let shown = self.figure.unit.show(value);
        match self.best() {
            Some((best, _)) if best == peer => format!("**{shown}**"),
            Some((_, best)) if best != 0.0 => format!("{shown} ({:.2})", value / best),
            _ => shown,
        }
    }

    /// Whether a value stands the bound.
    fn stands(&self, value: f64, bound: Bound) -> Option<bool> {
        let limit = match bound {
            Bound::Value(limit) => limit,
            Bound::Ratio(ratio) => ratio * self.best()?.1,
        };
        Some(match self.figure.better {
            Better::More => value >= limit,
            Better::Less => value <= limit,
        })
    }
}

/// Goal and floor of a figure of ours.
fn bounds(figure: &str, column: &str) -> Option<[Bound; 2]> {
    use Bound::{Ratio, Value};
    if column == "anode-plain" {
        let tcp = [
            "TCP 1 stream",
            "TCP 1 stream, back",
            "TCP 4 streams",
            "TCP 4 streams, back",
        ];
        return tcp.contains(&figure).then_some([Ratio(3.5), Ratio(2.0)]);
    }
    Some(match figure {
        "TCP 1 stream" | "TCP 1 stream, back" | "TCP 4 streams" | "TCP 4 streams, back" => {
            [Ratio(2.7), Ratio(1.5)]
        }
        "CPU per GB, whole machine" | "CPU per GB, peer and load" => [Ratio(0.35), Ratio(0.6)],
        "UDP 64 B without loss" | "UDP 1,200 B without loss" => [Ratio(1.8), Ratio(1.2)],
        "RTT idle, p50" | "RTT idle, p99" => [Ratio(0.95), Ratio(1.2)],
        "RTT under TCP load, p50" => [Ratio(0.8), Value(1_500.0)],
        "connects, 1 at a time" => [Ratio(1.2), Ratio(0.8)],
        "connects, 8 at a time" => [Ratio(2.0), Ratio(1.2)],
        "memory, idle" => [Value(12.0), Value(24.0)],
        "memory, after the battery" => [Value(64.0), Value(128.0)],
        "start to first ping" => [Value(15.0), Value(30.0)],
        "goodput beside 10,000 idle flows" => [Value(95.0), Value(90.0)],
        "TCP, 100 ms, 1 % loss, cubic" => [Ratio(5.0), Ratio(3.0)],
        "TCP, 100 ms, 1 % loss, bbr" => [Ratio(1.0), Ratio(0.8)],
        _ => return None,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = peers::ALL.iter().filter_map(|peer| {
            let found = self.columns.get(peer.name)?;
            Some((peer.name, found))
        });
        let columns: Vec<_> = asked.collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        writeln!(f, "| figure | unit | {} |", names.join(" | "))?;
        writeln!(f, "|---|---|{}", "---:|".repeat(names.len()))?;
        let versions = columns.iter().map(|(_, found)| match found {
            Ok(version) => version.as_str(),
            Err(_) => "absent",
        });
        writeln!(
            f,
            "| version | | {} |",
            versions.collect::<Vec<_>>().join(" | ")
        )?;
        for row in &self.rows {
            let cells = columns.iter().map(|(name, found)| match found {
                Ok(_) => row.cell(name),
                Err(_) => "absent".into(),
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            writeln!(
                f,
                "| {} | {} | {cells} |",
                row.figure.name,
                row.figure.unit.name()
            )?;
        }
        self.goals(f)?;
        for (name, found) in &columns {
            if let Err(why) = found {
                writeln!(f, "\nabsent: {name}: {why}")?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "\nfailed: {failure}")?;
        }
        Ok(())
    }
}

impl Report {
    fn goals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n| figure | ours | value | best rival | ratio | goal | floor | verdict |"
        )?;
        writeln!(f, "|---|---|---:|---|---:|---:|---:|---|")?;
        for row in &self.rows {
            for column in ["anode", "anode-plain"] {
                let (Some(bounds), Some(value)) =
                    (bounds(&row.figure.name, column), row.median(column))
                else {
                    continue;
                };
                let unit = row.figure.unit;
                let [goal, floor] = bounds.map(|bound| match bound {
                    Bound::Ratio(ratio) => format!("{ratio} x"),
                    Bound::Value(limit) => format!("{} {}", unit.show(limit), unit.name()),
                });
                let verdict = match bounds.map(|bound| row.stands(value, bound)) {
                    [Some(true), _] => "goal reached",
                    [_, Some(true)] => "floor kept, goal missed",
                    [_, Some(false)] => "**floor missed**",
                    _ => "no rival measured",
                };
                let (rival, ratio) =
                    row.best().map_or(("–".into(), "–".into()), |(name, best)| {
                        (
                            format!("{name} {}", unit.show(best)),
                            format!("{:.2}", value / best),
                        )
                    });
                writeln!(
                    f,
                    "| {} | {column} | {} {} | {rival} | {ratio} | {goal} | {floor} | {verdict} |",
                    row.figure.name,
                    unit.show(value),
                    unit.name()
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, unit: Unit, better: Better) -> Figure {
        Figure {
            name: name.into(),
            unit,
            better,
        }
    }

    fn report() -> Report {
        let mut report = Report::default();
        for name in ["link", "anode", "boringtun", "nebula"] {
            report.column(name, Ok("1.0".into()));
        }
        report.column("tinc", Err("`tincd` is missing".into()));
        let tcp = figure("TCP 1 stream", Unit::GigabitsPerSecond, Better::More);
        let rtt = figure("RTT idle, p50", Unit::Microseconds, Better::Less);
        for (peer, gigabits, micros) in [
            ("link", 40.0, 20.0),
            ("anode", 4.0, 120.0),
            ("boringtun", 2.0, 100.0),
            ("nebula", 1.0, 200.0),
        ] {
            // The median counts, not the outlier.
            for factor in [1.0, 1.0, 9.0] {
                report.note(tcp.clone(), peer, gigabits * factor);
            }
            report.note(rtt.clone(), peer, micros);
        }
        report
    }

    #[test]
    fn every_cell_is_a_median_beside_the_best_rival_whichever_way_is_up() {
        let text = report().to_string();
        assert!(text.contains("| TCP 1 stream | Gbit/s | 40.00 (20.00) | 4.00 (2.00) | **2.00** | 1.00 (0.50) | absent |"), "{text}");
        assert!(
            text.contains(
                "| RTT idle, p50 | µs | 20 (0.20) | 120 (1.20) | **100** | 200 (2.00) | absent |"
            ),
            "{text}"
        );
    }

    #[test]
    fn verdicts_say_which_goals_and_floors_are_missed() {
        let mut report = report();
        let memory = figure("memory, idle", Unit::MebiBytes, Better::Less);
        report.note(memory, "anode", 30.0);
        let text = report.to_string();
        assert!(
            text.contains("| 2.00 | 2.7 x | 1.5 x | floor kept, goal missed |"),
            "{text}"
        );
        assert!(
            text.contains("| 1.20 | 0.95 x | 1.2 x | floor kept, goal missed |"),
            "{text}"
        );
        assert!(
            text.contains("| 12.0 MiB | 24.0 MiB | **floor missed** |"),
            "{text}"
        );
    }

    #[test]
    fn a_measure_is_read_as_it_was_written() {
        let mut report = report();
        let rows = report.rows.len();
        for unit in Unit::ALL {
            let written = line(&figure(unit.name(), unit, Better::Less), 2.5);
            assert!(report.read("anode", &written), "{written}");
        }
        assert_eq!(report.rows.len(), rows + Unit::ALL.len());
        assert_eq!(report.rows[rows].figure.unit, Unit::ALL[0]);
        for noise in ["", "ready", "a\tb\tmore\t1", "a\t%\tmore\tx"] {
            assert!(!report.read("anode", noise), "{noise}");
        }
    }

    #[test]
    fn who_is_absent_or_failed_is_named() {
        let mut report = report();
        report.failed("nebula", "no reply\n\nits log");
        let text = report.to_string();
        assert!(text.contains("absent: tinc: `tincd` is missing"), "{text}");
        assert!(
            text.contains("failed: nebula: no reply / its log"),
            "{text}"
        );
    }
}

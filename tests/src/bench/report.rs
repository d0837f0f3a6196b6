//! Medians beside each other.

use serde_json::{Value, json};
use std::fmt;

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// 10⁹ bits a second; more is better.
    GigabitsPerSecond,
    /// More is better.
    PacketsPerSecond,
    /// Less is better.
    Microseconds,
    /// Less is better.
    Milliseconds,
    /// Processor time; less is better.
    Seconds,
    /// Less is better.
    MebiBytes,
    /// Of whatever the figure names.
    Percent,
    /// 10⁶ bits a second; more is better.
    MegabitsPerSecond,
    /// Events; more is better.
    PerSecond,
}

impl Unit {
    /// Every unit.
    pub(super) const ALL: [Self; 9] = [
        Self::GigabitsPerSecond,
        Self::PacketsPerSecond,
        Self::Microseconds,
        Self::Milliseconds,
        Self::Seconds,
        Self::MebiBytes,
        Self::Percent,
        Self::MegabitsPerSecond,
        Self::PerSecond,
    ];

    /// The unit of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GigabitsPerSecond => "Gbit/s",
            Self::PacketsPerSecond => "packets/s",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::MebiBytes => "MiB",
            Self::Percent => "%",
            Self::MegabitsPerSecond => "Mbit/s",
            Self::PerSecond => "/s",
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::PacketsPerSecond | Self::Microseconds | Self::Milliseconds => {
                format!("{value:.0}")
            }
            Self::PerSecond => format!("{value:.0}"),
            Self::MebiBytes | Self::Percent | Self::MegabitsPerSecond => format!("{value:.1}"),
            Self::GigabitsPerSecond | Self::Seconds => format!("{value:.2}"),
        }
    }
}

/// Everything measured, in the order of its first measure.
#[derive(Default, Debug)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    unit: Unit,
    plain: Vec<f64>,
    anode: Vec<f64>,
}

impl Report {
    /// Notes one measure of the plain link.
    pub fn plain(&mut self, name: &'static str, unit: Unit, value: f64) {
        self.row(name, unit).plain.push(value);
    }

    /// Notes one measure of the overlay.
    pub fn anode(&mut self, name: &'static str, unit: Unit, value: f64) {
        self.row(name, unit).anode.push(value);
    }

    fn row(&mut self, name: &'static str, unit: Unit) -> &mut Row {
        let at = self
            .rows
            .iter()
            .position(|row| row.name == name)
            .unwrap_or_else(|| {
                self.rows.push(Row {
                    name,
                    unit,
                    plain: Vec::new(),
                    anode: Vec::new(),
                });
                self.rows.len() - 1
            });
        &mut self.rows[at]
    }

    /// The same for programs: medians and every single value.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let ratio = row.ratio();
            json!({"name": row.name, "unit": row.unit.name(), "plain": median(&row.plain), "anode": median(&row.anode),
                   "ratio": ratio, "plain_runs": row.plain, "anode_runs": row.anode})
        };
        self.rows.iter().map(row).collect()
    }
}

impl Row {
    /// Overlay to plain link.
    fn ratio(&self) -> Option<f64> {
        Some(median(&self.anode)? / median(&self.plain)?)
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:32} {:>12} {:>12} {:10} {:>8}",
            "", "plain link", "anode", "", "ratio"
        )?;
        for row in &self.rows {
            let show = |values: &[f64]| {
                median(values).map_or_else(|| "-".into(), |value| row.unit.show(value))
            };
            let ratio = row
                .ratio()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let (plain, anode) = (show(&row.plain), show(&row.anode));
            writeln!(
                f,
                "{:32} {plain:>12} {anode:>12} {:10} {ratio:>8}",
                row.name,
                row.unit.name()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_beside_each_other_with_their_ratio() {
        let mut report = Report::default();
        for value in [1.0, 9.0, 4.0] {
            report.plain("TCP", Unit::GigabitsPerSecond, value);
        }
        for value in [1.0, 3.0] {
            report.anode("TCP", Unit::GigabitsPerSecond, value);
        }
        report.anode("memory", Unit::MebiBytes, 20.0);
        let json = report.json();
        assert_eq!(
            (&json[0]["plain"], &json[0]["anode"], &json[0]["ratio"]),
            (&json!(4.0), &json!(2.0), &json!(0.5))
        );
        assert_eq!(
            (&json[1]["plain"], &json[1]["ratio"]),
            (&Value::Null, &Value::Null)
        );
        assert!(
            report.to_string().contains("4.00         2.00 Gbit/s"),
            "{report}"
        );
    }
}

//! All that people read: colours, tables, units; and the one JSON document for scripts.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::Error;

/// Whether and how to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        Self::when(io::stdout().is_terminal())
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self::when(io::stderr().is_terminal())
    }

    /// Never.
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    /// Only on a terminal, and not where NO_COLOR (no-color.org) or a dumb terminal forbids it.
    fn when(terminal: bool) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: terminal && !forbidden,
        }
    }

    /// Whether it colours at all.
    pub fn is_coloured(self) -> bool {
        self.colour
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What matters.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What is there for completeness.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Good.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bad.
    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }
}

/// Writes to standard output. A reader that has gone (`anode peers | head -1`) is no error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output")(error))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON document to standard output.
pub fn json(document: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(document)
        .map_err(|error| Error::refused(format!("cannot write JSON: {error}")))?;
    text.push('\n');
    print(&text)
}

/// Aligned `label  value` lines.
pub fn fields(style: Style, rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let line = |(label, value): &(&str, String)| {
        format!("{}  {value}\n", style.dim(&format!("{label:width$}")))
    };
    rows.iter().map(line).collect()
}

/// A table with a head; the last column is not padded.
pub fn table(style: Style, head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let mut text = style.dim(&line(&head)) + "\n";
    for row in rows {
        text += &line(row);
        text.push('\n');
    }
    text
}

/// `0.31 ms`, `12.4 ms`, `210 ms`
pub fn rtt(ms: f64) -> String {
    let decimals = match ms {
        ms if ms < 10.0 => 2,
        ms if ms < 100.0 => 1,
        _ => 0,
    };
    format!("{ms:.decimals$} ms")
}

/// `512 B`, `1.2 kB`, `67.1 MB`: powers of 1,000.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `812 Mb/s`, `1.24 Gb/s`: bits, powers of 1,000.
pub fn bit_rate(bytes: u64, seconds: f64) -> String {
    let bits = bytes as f64 * 8.0 / seconds.max(1e-9);
    if bits >= 1e9 {
        format!("{:.2} Gb/s", bits / 1e9)
    } else {
        format!("{:.0} Mb/s", bits / 1e6)
    }
}

/// `42 s`, `3 min 5 s`, `2 h 10 min`, `12 d 3 h`
pub fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_short_and_exact_at_their_edges() {
        let times = [(0.3141, "0.31 ms"), (12.44, "12.4 ms"), (210.4, "210 ms")];
        for (ms, text) in times {
            assert_eq!(rtt(ms), text);
        }
        let sizes = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_960, "1.0 MB"),
            (67_108_864, "67.1 MB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
        let spans = [
            (59.9, "59 s"),
            (185.0, "3 min 5 s"),
            (7800.0, "2 h 10 min"),
            (1_047_600.0, "12 d 3 h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(bit_rate(125_000_000, 1.0), "1.00 Gb/s");
        assert_eq!(bit_rate(1_250_000, 0.1), "100 Mb/s");
    }

    #[test]
    fn columns_align_by_characters() {
        let rows = [
            vec!["aea…uw".to_owned(), "1".to_owned()],
            vec!["box".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(Style::plain(), &["NAME", "RX"], &rows),
            "NAME    RX\naea…uw  1\nbox     22\n"
        );
        let rows = [("ipv6", "x".to_owned()), ("address", "y".to_owned())];
        assert_eq!(fields(Style::plain(), &rows), "ipv6     x\naddress  y\n");
    }
}

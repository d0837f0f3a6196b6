//! What to measure, of whom, how often, for how long; and how the command line says it.

use super::long::Condition;
use super::peers::{self, Peer};
use std::time::Duration;

/// Of `bench compare`.
pub const USAGE: &str = "usage: bench compare [--quick] [--only GROUP,…] [--peers NAME,…] [--runs N] [--seconds S]
                     [--rtt MS,…] [--loss PERCENT,…] [--rate MBIT]
  --quick      one run of 0.7 s each, and of the long lines only 100 ms with 0 and 1 % loss
  --only       tcp udp rtt loaded connect start memory flows long (default: all)
  --peers      columns by name (default: all)
  --runs N     alternations, the median counts (default 3)
  --seconds S  length of one measure (default 2)
  --rtt, --loss  of the long lines (default 20,100,200 and 0,0.1,1,3)
  --rate MBIT  bottleneck of the long lines, with a queue of one round trip (default 1000; 0: none)";

/// What belongs together and can be asked for alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// TCP throughput and processor time.
    Tcp,
    /// Datagrams without loss.
    Udp,
    /// Round trips of an idle path.
    Rtt,
    /// Round trips beside a TCP stream.
    Loaded,
    /// New connections.
    Connect,
    /// From the start of a process to the first answer.
    Start,
    /// Resident memory.
    Memory,
    /// Ten thousand idle connections; ours only.
    Flows,
    /// Delay and loss.
    Long,
}

impl Group {
    /// All of them with the names that `--only` takes.
    pub const ALL: [(&'static str, Self); 9] = [
        ("tcp", Self::Tcp),
        ("udp", Self::Udp),
        ("rtt", Self::Rtt),
        ("loaded", Self::Loaded),
        ("connect", Self::Connect),
        ("start", Self::Start),
        ("memory", Self::Memory),
        ("flows", Self::Flows),
        ("long", Self::Long),
    ];
}

/// What to measure, of whom, how often and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Alternations.
    pub runs: u32,
    /// Length of one measure.
    pub length: Duration,
    /// What to measure.
    pub groups: Vec<Group>,
    /// Names of columns; empty for all.
    pub peers: Vec<String>,
    /// Of the long line.
    pub conditions: Vec<Condition>,
    /// As they were given.
    pub arguments: Vec<String>,
    /// Only this, for [`super::run`].
    pub child: Option<Child>,
    /// Its bottleneck in bits per second, if it shall have one; the queue before it holds one round trip.
    pub rate: Option<f64>,
}

/// What one process measures of one peer.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub(super) part: Part,
    pub(super) peer: &'static Peer,
}

/// A share of the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Battery,
    Long,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Battery => "battery",
            Self::Long => "long",
        }
    }
}

impl Options {
    pub(super) fn has(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The columns asked for; or the name that no column has.
    pub(super) fn columns(&self) -> Result<Vec<&'static Peer>, String> {
        if self.peers.is_empty() {
            return Ok(peers::ALL.iter().collect());
        }
        let named = |name: &String| {
            let peer = peers::ALL.iter().find(|peer| peer.name == name);
            peer.ok_or_else(|| {
                let known: Vec<&str> = peers::ALL.iter().map(|peer| peer.name).collect();
                format!("no peer `{name}`; there are {}", known.join(", "))
            })
        };
        self.peers.iter().map(named).collect()
    }
}

impl Options {
    /// Reads the arguments after `compare`.
    ///
    /// # Errors
    /// Which argument is not understood.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let arguments: Vec<String> = arguments.into_iter().collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let (mut rtts, mut losses) = match quick {
            true => (vec![100.0], vec![0.0, 1.0]),
            false => (vec![20.0, 100.0, 200.0], vec![0.0, 0.1, 1.0, 3.0]),
        };
        let mut options = Self {
            runs: if quick { 1 } else { 3 },
            length: Duration::from_secs_f64(if quick { 0.7 } else { 2.0 }),
            groups: Group::ALL.iter().map(|(_, group)| *group).collect(),
            peers: Vec::new(),
            conditions: Vec::new(),
            rate: Some(1e9),
            arguments: arguments.clone(),
            child: None,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--quick" {
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--only" => options.groups = list(&value, group)?,
                "--peers" => options.peers = list(&value, |name| Ok(name.to_owned()))?,
                "--runs" => options.runs = number(&value, 1.0, 1e4)? as u32,
                "--seconds" => {
                    options.length = Duration::from_secs_f64(number(&value, 0.05, 1e4)?);
                }
                "--rtt" => rtts = list(&value, |rtt| number(rtt, 0.0, 1e4))?,
                "--loss" => losses = list(&value, |loss| number(loss, 0.0, 90.0))?,
                "--rate" => {
                    let megabits = number(&value, 0.0, 1e5)?;
                    options.rate = (megabits > 0.0).then_some(megabits * 1e6);
                }
                "--child" => options.child = Some(child(&value)?),
                _ => return Err(format!("no option `{argument}`")),
            }
        }
        for rtt in rtts {
            options
                .conditions
                .extend(losses.iter().map(|&loss| Condition {
                    rtt: rtt as u32,
                    loss,
                }));
        }
        options.columns()?;
        Ok(options)
    }
}

fn list<T>(text: &str, each: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(|part| each(part.trim())).collect()
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let read = text.parse().ok().filter(|n| (least..=most).contains(n));
    read.ok_or_else(|| format!("`{text}` is no number from {least} to {most}"))
}

/// `PART:PEER`.
fn child(text: &str) -> Result<Child, String> {
    let (part, peer) = text.split_once(':').unwrap_or((text, ""));
    let part = [Part::Battery, Part::Long]
        .into_iter()
        .find(|known| known.name() == part);
    let peer = peers::ALL.iter().find(|known| known.name == peer);
    part.zip(peer)
        .map(|(part, peer)| Child { part, peer })
        .ok_or_else(|| format!("`{text}` is not for people"))
}

fn group(name: &str) -> Result<Group, String> {
    let found = Group::ALL.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, group)| *group)
        .ok_or_else(|| format!("no group `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_narrow_what_is_measured() {
        let all = parse("").unwrap();
        assert_eq!(
            (all.groups.len(), all.conditions.len(), all.runs),
            (9, 12, 3)
        );
        let some = parse("--only tcp,long --peers link,anode --quick --runs 4 --rate 0").unwrap();
        assert_eq!(some.groups, [Group::Tcp, Group::Long]);
        assert_eq!((some.peers.len(), some.runs, some.rate), (2, 4, None));
        assert_eq!(
            some.conditions,
            [0.0, 1.0].map(|loss| Condition { rtt: 100, loss })
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, part) in [
            ("--only tpc", "`tpc`"),
            ("--peers anode,zerotier", "`zerotier`"),
            ("--runs 0", "`0`"),
            ("--loss", "--loss needs a value"),
            ("--plain x", "--plain"),
        ] {
            let why = parse(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}

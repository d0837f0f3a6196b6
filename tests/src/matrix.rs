//! The matrix of what stands between two machines: which pairs become direct, how soon, and at what price.

use crate::flow::Flow;
use crate::lab::{Internet, Node, Place, Proc, Site, command};
use crate::programs;
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a pair is expected to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Direct, within this time after the first reply.
    Direct(Duration),
    /// The same in so many of 20 tries at least: ports are guessed.
    Mostly(Duration, u32),
    /// Relayed, for this reason.
    Relayed(&'static [&'static str]),
}

/// What two sites are expected to reach.
pub fn expected(a: Site, b: Site) -> Expected {
    use Site::*;
    let half = Duration::from_millis(500);
    let cone = |site| matches!(site, Open | Full | Address | Port | Double);
    let by_address = |site| matches!(site, Open | Full | Address);
    let random = |site| matches!(site, Random | DoubleRandom);
    let one = |left: &dyn Fn(Site) -> bool, right: &dyn Fn(Site) -> bool| {
        left(a) && right(b) || left(b) && right(a)
    };
    let is = |wanted: Site| move |site: Site| site == wanted;
    let blocked = |site| matches!(site, NoUdp | Proxy);
    if blocked(a) || blocked(b) {
        return Expected::Relayed(&["no-udp", "no-udp-there", "nothing-through", "trying"]);
    }
    if a == Firewall6 || b == Firewall6 {
        // Who has no IPv6 has nothing in common with it.
        return match one(&is(Firewall6), &|site| matches!(site, Open | Firewall6)) {
            true => Expected::Direct(half),
            false => Expected::Relayed(&["no-common-ip", "trying"]),
        };
    }
    if cone(a) && cone(b) {
        return Expected::Direct(half);
    }
    if one(&|site| random(site) || site == Sequence, &by_address) {
        return Expected::Direct(Duration::from_secs(1));
    }
    if one(&is(Sequence), &cone) {
        return Expected::Mostly(Duration::from_secs(3), 18);
    }
    if a == Sequence && b == Sequence {
        return Expected::Mostly(Duration::from_secs(3), 16);
    }
    if one(&random, &cone) {
        return Expected::Mostly(Duration::from_secs(10), 18);
    }
    Expected::Relayed(&["both-symmetric"])
}

/// What came of one pair.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first packet to the first reply.
    pub first_reply: Duration,
    /// From there to the first look that showed both sides direct.
    pub direct: Option<Duration>,
    /// Kind of the used path, and why it is relayed if it is.
    pub kind: String,
    /// See [`Outcome::kind`].
    pub reason: Option<String>,
    /// Packets that went to places that peers had named, of both sides.
    pub packets: u64,
    /// Echoes sent, and of these answered, after the first reply.
    pub echoes: (u64, u64),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
        write!(f, "first reply {}, ", ms(self.first_reply))?;
        match self.direct {
            Some(time) => write!(f, "direct after {}", ms(time))?,
            None => write!(
                f,
                "{} ({})",
                self.kind,
                self.reason.as_deref().unwrap_or("-")
            )?,
        }
        let (sent, answered) = self.echoes;
        write!(f, ", {} packets, {answered} of {sent} echoes", self.packets)
    }
}

/// Two machines with a node each, which trust each other and are registered.
pub struct Pair {
    /// One side.
    pub a: Node,
    /// The other.
    pub b: Node,
    /// What stands before them.
    pub places: [Place; 2],
}

impl Pair {
    /// Starts both and waits until their path is direct, which it must be within 20 s.
    pub fn direct(internet: &mut Internet, sites: [Site; 2]) -> Self {
        const SOON: Duration = Duration::from_secs(20);
        let pair = Self::start(internet, sites);
        let pinging = pair.pinging();
        pinging.first(SOON);
        let direct = pair.await_direct(SOON);
        assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
        pair
    }

    /// The same, and a second later: a transfer between them that has found its speed.
    pub fn busy(internet: &mut Internet, sites: [Site; 2]) -> (Self, Flow) {
        let pair = Self::direct(internet, sites);
        let flow = Flow::start(&pair.a, &pair.b);
        std::thread::sleep(Duration::from_secs(1));
        (pair, flow)
    }

    /// Starts both.
    pub fn start(internet: &mut Internet, sites: [Site; 2]) -> Self {
        let places = sites.map(|site| internet.place(site));
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |place: &Place, side: &str| format!("{}-{side}-{number}", place.site.as_str());
        let start = |place: &Place, side: &str| {
            let node = internet.node(place, &name(place, side)).no_lan();
            node.start()
        };
        let (a, b) = (start(&places[0], "a"), start(&places[1], "b"));
        a.trust(&b, "b");
        b.trust(&a, "a");
        for node in [&a, &b] {
            internet.registered(node);
        }
        Self { a, b, places }
    }

    /// Pings without an end from a to b, every 50 ms.
    pub fn pinging(&self) -> Pinging {
        Pinging::start(&self.a, self.b.ipv6().into())
    }

    /// Both see the other directly.
    pub fn is_direct(&self) -> bool {
        kind(&self.a, &self.b).0 == "direct" && kind(&self.b, &self.a).0 == "direct"
    }

    /// Waits for that while packets flow.
    pub fn await_direct(&self, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.is_direct() {
                return Some(start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Packets to places that peers had named.
    pub fn punches(&self) -> u64 {
        let of = |node: &Node| node.metrics().sum("tx_punches") as u64;
        of(&self.a) + of(&self.b)
    }
}

/// Kind of the path that is used, and why it is relayed.
pub fn kind(from: &Node, to: &Node) -> (String, Option<String>) {
    let paths = from.json(&["paths"]);
    let paths = paths.as_array().expect("a list");
    let is_used = |path: &&Value| path["address"] == to.address() && path["active"] == true;
    match paths.iter().find(is_used) {
        Some(path) => (
            path["kind"].as_str().unwrap_or_default().to_owned(),
            path["reason"].as_str().map(str::to_owned),
        ),
        None => ("none".to_owned(), None),
    }
}

/// A running `ping`.
pub struct Pinging {
    process: Proc,
}

impl Pinging {
    /// Every 50 ms.
    pub fn start(from: &Node, to: IpAddr) -> Self {
        let mut ping = command(programs::need("ping"));
        ping.args(["-n", "-D", "-O", "-i", "0.05", &to.to_string()]);
        Self {
            process: from.ns().start(ping),
        }
    }

    /// When each answer came, in seconds of the wall clock, and the number of the last echo.
    pub fn answers(&self) -> (Vec<f64>, u64) {
        let text = self.process.stdout();
        let mut last = 0;
        let mut times = Vec::new();
        for line in text.lines() {
            let number = line.split("icmp_seq=").nth(1);
            let number = number.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            last = last.max(number.unwrap_or(0));
            let time = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            if let Some((time, rest)) = time
                && rest.contains("bytes from")
                && let Ok(time) = time.parse()
            {
                times.push(time);
            }
        }
        (times, last)
    }

    /// The longest time between two answers so far.
    pub fn longest_gap(&self) -> Duration {
        let (times, _) = self.answers();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_secs_f64(gaps.fold(0.0, f64::max))
    }

    /// Waits for the first answer.
    #[track_caller]
    pub fn first(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        while self.answers().0.is_empty() {
            assert!(
                start.elapsed() < limit,
                "no answer within {limit:?}: {}",
                self.process.stdout()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }
}

/// Brings two sites together and looks for what is expected at most.
pub fn try_pair(internet: &mut Internet, sites: [Site; 2]) -> Outcome {
    let pair = Pair::start(internet, sites);
    let limit = match expected(sites[0], sites[1]) {
        Expected::Direct(_) => Duration::from_secs(8),
        Expected::Mostly(limit, _) => limit + Duration::from_secs(3),
        // Long enough for a guess that nobody should have tried.
        Expected::Relayed(_) => Duration::from_secs(4),
    };
    let before = pair.punches();
    let pinging = pair.pinging();
    let first_reply = pinging.first(Duration::from_secs(10));
    let direct = pair.await_direct(limit);
    let (kind, reason) = kind(&pair.a, &pair.b);
    let (times, sent) = pinging.answers();
    Outcome {
        first_reply,
        direct,
        kind,
        reason,
        packets: pair.punches() - before,
        echoes: (sent, times.len() as u64),
    }
}

/// Whether an outcome is what one try must be. `slack` is for a loaded machine.
pub fn judge(sites: [Site; 2], outcome: &Outcome, slack: u32) -> Result<(), String> {
    let late = |limit: Duration| match outcome.direct {
        Some(time) if time <= limit * slack => Ok(()),
        Some(time) => Err(format!("direct only after {time:?}")),
        None => Err(format!("stays relayed: {:?}", outcome.reason)),
    };
    match expected(sites[0], sites[1]) {
        Expected::Direct(limit) | Expected::Mostly(limit, _) => late(limit),
        Expected::Relayed(reasons) => match (outcome.direct, &outcome.reason) {
            (Some(_), _) => Err("direct, though nobody could expect it".to_owned()),
            (None, Some(reason)) if reasons.contains(&reason.as_str()) => Ok(()),
            (None, reason) => Err(format!("relayed because of {reason:?}, not {reasons:?}")),
        },
    }
}

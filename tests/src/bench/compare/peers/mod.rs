//! The peers: how each is found, configured between two machines, started, and stopped.
//!
//! A file per kind of peer turns a [`Site`] (two machines that reach each other) into two [`End`]s. Files and keys are made
//! before anything is timed; what an end's start does is what a service manager and the peer's own setup tool would do.

mod anode;
mod link;
mod n2n;
mod nebula;
mod openvpn;
mod tinc;
mod wireguard;
mod yggdrasil;

use crate::lab::{Host, Proc, command};
use crate::programs;
use anode_platform::Prefix;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a peer may take to bring its interface up.
const PATIENCE: Duration = Duration::from_secs(15);

/// One way to carry traffic between two machines.
#[derive(Debug)]
pub struct Peer {
    /// Its column.
    pub name: &'static str,
    /// What it is in the comparison.
    pub role: Role,
    /// Its main program, for the version, and that program's argument; then what else it needs.
    programs: &'static [&'static str],
    version: &'static str,
    wire: fn(&Site) -> [End; 2],
}

/// What a column is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// What carries everything else: the limit, and not a rival.
    Link,
    /// Ours.
    Anode,
    /// Theirs.
    Rival,
}

/// Every peer, in the order of the columns.
pub static ALL: [Peer; 11] = [
    Peer {
        name: "link",
        role: Role::Link,
        programs: &[],
        version: "",
        wire: link::wire,
    },
    Peer {
        name: "anode",
        role: Role::Anode,
        programs: &[],
        version: "",
        wire: anode::sealed,
    },
    Peer {
        name: "anode-plain",
        role: Role::Anode,
        programs: &[],
        version: "",
        wire: anode::plain,
    },
    Peer {
        name: "wireguard-go",
        role: Role::Rival,
        programs: &["wireguard-go", "wg"],
        version: "--version",
        wire: wireguard::go,
    },
    Peer {
        name: "boringtun",
        role: Role::Rival,
        programs: &["boringtun-cli", "wg"],
        version: "--version",
        wire: wireguard::boringtun,
    },
    Peer {
        name: "gotatun",
        role: Role::Rival,
        programs: &["gotatun", "wg"],
        version: "--version",
        wire: wireguard::gotatun,
    },
    Peer {
        name: "yggdrasil",
        role: Role::Rival,
        programs: &["yggdrasil"],
        version: "-version",
        wire: yggdrasil::wire,
    },
    Peer {
        name: "nebula",
        role: Role::Rival,
        programs: &["nebula", "nebula-cert"],
        version: "-version",
        wire: nebula::wire,
    },
    Peer {
        name: "tinc",
        role: Role::Rival,
        programs: &["tincd"],
        version: "--version",
        wire: tinc::wire,
    },
    Peer {
        name: "n2n",
        role: Role::Rival,
        programs: &["edge", "supernode"],
        version: "-h",
        wire: n2n::wire,
    },
    Peer {
        name: "openvpn",
        role: Role::Rival,
        programs: &["openvpn", "openssl"],
        version: "--version",
        wire: openvpn::wire,
    },
];

/// Two machines that reach each other, and where to keep files.
pub struct Site<'a> {
    /// Keys and configurations; empty.
    pub directory: &'a Path,
    /// The machines.
    pub hosts: [&'a Host; 2],
}

/// Starts the processes of an end and gives it its interface.
type Start = Box<dyn Fn(&Host) -> Vec<Proc>>;

/// A peer on one machine. Dropped, it is stopped.
pub struct End {
    /// What the other machine calls this one.
    pub ip: IpAddr,
    host: Host,
    start: Start,
    stop: Box<dyn Fn()>,
    running: Vec<Proc>,
}

impl Peer {
    /// What its main program says of its version; or which program is missing.
    pub fn found(&self) -> Result<String, String> {
        for name in self.programs {
            program(name)?;
        }
        let Some(first) = self.programs.first() else {
            return Ok("of this tree".into());
        };
        let asked = Command::new(program(first)?).arg(self.version).output();
        let output = asked.map_err(|e| format!("{first}: {e}"))?;
        let said = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&said);
        // The first word with a digit: `v0.0.1`, `1.2.3`.
        let version = text
            .split_whitespace()
            .find(|word| word.contains(|c: char| c.is_ascii_digit()) && word.contains('.'));
        version
            .map(|word| word.trim_matches([',', 'v', '.']).to_owned())
            .ok_or_else(|| format!("{first} does not run: {}", text.trim()))
    }

    /// Both ends, ready to be started.
    ///
    /// # Panics
    /// If a tool of the peer fails.
    pub fn wire(&self, site: &Site<'_>) -> [End; 2] {
        (self.wire)(site)
    }
}

impl End {
    fn new(
        host: &Host,
        ip: impl Into<IpAddr>,
        start: impl Fn(&Host) -> Vec<Proc> + 'static,
    ) -> Self {
        Self {
            ip: ip.into(),
            host: host.clone(),
            start: Box::new(start),
            stop: Box::new(|| {}),
            running: Vec::new(),
        }
    }

    /// What must be done after its processes were ended.
    fn cleaned_by(mut self, stop: impl Fn() + 'static) -> Self {
        self.stop = Box::new(stop);
        self
    }

    /// Starts it; it has its interface and address when this returns.
    ///
    /// # Panics
    /// If it does not come up, with its words.
    pub fn start(&mut self) {
        self.running = (self.start)(&self.host);
    }

    /// Processor time of its processes, user and system, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.running.iter().map(Proc::cpu_seconds).sum()
    }

    /// Resident memory of its processes in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.running.iter().map(Proc::memory_kib).sum()
    }

    /// Whether all its processes still run.
    pub fn alive(&mut self) -> bool {
        self.running.iter_mut().all(Proc::running)
    }

    /// The last words of its processes.
    pub fn words(&self) -> String {
        let last = |text: String| text.chars().rev().take(600).collect::<Vec<_>>();
        self.running
            .iter()
            .flat_map(|process| [process.stdout(), process.stderr()])
            .map(|text| last(text).into_iter().rev().collect::<String>())
            .collect()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.running.clear();
        (self.stop)();
    }
}

/// Where a peer's program is: what `tests/bench-peers` fetched, then what is installed.
fn program(name: &str) -> Result<PathBuf, String> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/bench-peers/bin")
        .join(name);
    match fs::canonicalize(fetched) {
        Ok(path) if path.is_file() => Ok(path),
        _ => programs::find(name).map_err(|_| format!("`{name}` is missing (tests/bench-peers)")),
    }
}

/// A command of a program that [`Peer::found`] has found.
fn run(name: &str) -> Command {
    command(program(name).unwrap_or_else(|missing| panic!("{missing}")))
}

/// Runs a peer's tool to its end and gives what it printed.
#[track_caller]
fn tool(host: &Host, name: &str, arguments: &[&str]) -> String {
    let mut command = run(name);
    command.args(arguments);
    let done = host.finish(command, PATIENCE).expect_ok();
    done.stdout().trim().to_owned()
}

#[track_caller]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[track_caller]
fn make_directory(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// Waits for what a process brings up, asking every half millisecond.
#[track_caller]
fn await_up(process: &mut Proc, what: &str, mut up: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !up() {
        assert!(
            process.running() && Instant::now() < deadline,
            "no {what}:\n{}{}",
            process.stdout(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Waits for a link that a process makes.
#[track_caller]
fn await_link(host: &Host, process: &mut Proc, link: &str) {
    await_up(process, link, || {
        host.netlink(|netlink| netlink.link(link)).is_some()
    });
}

/// Waits for an address that a process gives its own link.
#[track_caller]
fn await_address(host: &Host, process: &mut Proc, ip: IpAddr) {
    await_up(process, &ip.to_string(), || {
        let addresses = host.netlink(|netlink| netlink.addresses(None));
        addresses
            .iter()
            .any(|address| address.prefix.address() == ip)
    });
}

/// Gives a link its address and MTU and switches it on, as a peer's setup tool does.
#[track_caller]
fn configure(host: &Host, link: &str, ip: IpAddr, length: u8, mtu: Option<u32>) {
    let index = host.index(link);
    let prefix = Prefix::new(ip, length).expect("a prefix");
    if let Some(mtu) = mtu {
        host.netlink(|netlink| netlink.set_mtu(index, mtu));
    }
    host.netlink(|netlink| netlink.address_add(index, prefix));
    host.netlink(|netlink| netlink.set_up(index, true));
}

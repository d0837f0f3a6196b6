//! A node: `anode up` on a host, and what its user types.

use super::{Done, Ns, Proc, command};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest a command of the user may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a node may take to say `ready`. The promise is one second; a loaded machine shall not fail a test.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The program under test: `$ANODE_BIN`, else built once from this workspace, optimised.
///
/// # Panics
/// If it does not build.
pub fn anode_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("ANODE_BIN") {
        Some(path) => fs::canonicalize(&path)
            .unwrap_or_else(|e| panic!("ANODE_BIN={}: {e}", path.to_string_lossy())),
        None => build(),
    })
}

fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace");
    // Cargo locks its directory itself; this lock keeps waiting test programs from printing about it.
    let _ = fs::create_dir_all(root.join("target"));
    let lock =
        File::create(root.join("target/.anode-tests-build")).expect("target/ can be written");
    lock.lock().expect("a file lock");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "anode",
            "--message-format=json-render-diagnostics",
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "the program does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "anode")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program it built")
}

/// What a node is started with.
#[derive(Clone)]
pub struct NodeBuilder {
    ns: Ns,
    state: PathBuf,
    arguments: Vec<String>,
    config: String,
    wrapper: Vec<String>,
    verb: &'static str,
}

impl NodeBuilder {
    /// Adds arguments of `anode up`.
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Adds lines to its configuration file.
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// No announcements on the LAN, so that peers must be configured.
    pub fn no_lan(self) -> Self {
        self.config("[lan]\nenabled = false")
    }

    /// Knows this peer at this endpoint.
    pub fn peer(self, peer: &Node, endpoint: &str) -> Self {
        let value = format!("{}@{endpoint}", peer.address());
        self.args(&["--peer", &value])
    }

    /// It is a relay: `anode relay` instead of `anode up`.
    pub fn relay(mut self) -> Self {
        self.verb = "relay";
        self
    }

    /// Runs it through another program, such as `setpriv --…`.
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// Makes the identity without starting anything: its address is known to others before it runs.
    pub fn prepare(self) -> Node {
        let node = Node {
            builder: self,
            process: None,
            address: OnceLock::new(),
            ready_after: Duration::ZERO,
        };
        if !node.builder.state.join("identity.key").exists() {
            node.cli(&["key", "new"]).expect_ok();
        }
        node
    }

    /// Starts it and waits until traffic can flow.
    ///
    /// # Panics
    /// If it does not get ready, with its log.
    pub fn start(self) -> Node {
        let mut node = Node {
            builder: self,
            process: None,
            address: OnceLock::new(),
            ready_after: Duration::ZERO,
        };
        node.start();
        node
    }

    /// The command that [`NodeBuilder::start`] runs.
    pub fn command(&self) -> Command {
        let binary = anode_binary();
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = command(first);
                command.args(rest).arg(binary);
                command
            }
            None => command(binary),
        };
        command
            .arg(self.verb)
            .arg("--state")
            .arg(&self.state)
            .args(&self.arguments);
        if !self.config.is_empty() {
            let file = self.state.with_extension("toml");
            fs::write(&file, &self.config).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            command.arg("--config").arg(file);
        }
        command
    }
}

/// A node. Dropped, it is killed.
pub struct Node {
    builder: NodeBuilder,
    process: Option<Proc>,
    address: OnceLock<(String, Ipv6Addr)>,
    ready_after: Duration,
}

impl Node {
    /// A node on `ns` with the state directory `NAME` in `directory`.
    pub fn on(ns: &Ns, directory: &Path, name: &str) -> NodeBuilder {
        NodeBuilder {
            ns: ns.clone(),
            state: directory.join(name),
            arguments: Vec::new(),
            config: String::new(),
            wrapper: Vec::new(),
            verb: "up",
        }
    }

    /// Starts it (again) and waits for `ready`.
    pub fn start(&mut self) {
        self.process = None;
        let mut process = self.builder.ns.start(self.builder.command());
        if let Err(why) = process.wait_stderr_line("ready", READY_WITHIN) {
            panic!("{}: {why}", self.builder.ns.name());
        }
        self.ready_after = process.started().elapsed();
        self.process = Some(process);
    }

    /// From its start to its `ready` line.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Where it runs.
    pub fn ns(&self) -> &Ns {
        &self.builder.ns
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.builder.state
    }

    /// Its process.
    ///
    /// # Panics
    /// If it has not been started.
    pub fn process(&mut self) -> &mut Proc {
        self.process.as_mut().expect("the node was started")
    }

    /// What it logged since its last start.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Proc::stderr).unwrap_or_default()
    }

    /// Its address in base32.
    pub fn address(&self) -> &str {
        &self.identity().0
    }

    /// Its synthetic IPv6.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.identity().1
    }

    fn identity(&self) -> &(String, Ipv6Addr) {
        self.address.get_or_init(|| {
            let answer = self.json(&["address"]);
            let text = |key: &str| {
                answer[key]
                    .as_str()
                    .unwrap_or_else(|| panic!("no `{key}` in {answer}"))
                    .to_owned()
            };
            (
                text("address"),
                text("ipv6").parse().expect("`ipv6` is an IPv6 address"),
            )
        })
    }

    /// Runs a command of the program on this node's state.
    pub fn cli(&self, arguments: &[&str]) -> Done {
        self.builder.ns.finish(self.asking(arguments), PATIENCE)
    }

    /// The same for one that goes on until it is dropped.
    pub fn in_background(&self, arguments: &[&str]) -> Proc {
        self.builder.ns.start(self.asking(arguments))
    }

    fn asking(&self, arguments: &[&str]) -> Command {
        let mut command = command(anode_binary());
        command
            .args(arguments)
            .arg("--state")
            .arg(&self.builder.state);
        command
    }

    /// Runs a command with `--json` and reads its answer: exit status 0 and exactly one document.
    ///
    /// # Panics
    /// Otherwise, with everything the program said.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.cli(&[arguments, &["--json"]].concat()).expect_ok();
        serde_json::from_slice(&done.out)
            .unwrap_or_else(|e| panic!("not one JSON document ({e}): {done}"))
    }

    /// Lets `other` in and names it.
    #[track_caller]
    pub fn trust(&self, other: &Node, name: &str) {
        self.cli(&["trust", other.address(), name]).expect_ok();
    }

    /// `anode peers`.
    #[track_caller]
    pub fn peers(&self) -> Vec<Value> {
        let answer = self.json(&["peers"]);
        answer
            .as_array()
            .unwrap_or_else(|| panic!("`peers` is a list, not {answer}"))
            .clone()
    }

    /// What it reports of one peer, if it knows it.
    #[track_caller]
    pub fn peer(&self, other: &Node) -> Option<Value> {
        self.peers()
            .into_iter()
            .find(|peer| peer["address"] == other.address())
    }

    /// `anode ping` to `target`; the number of replies.
    #[track_caller]
    pub fn ping(&self, target: &str, count: u32) -> u64 {
        let count = count.to_string();
        let done = self.cli(&[
            "ping", target, "-c", &count, "-i", "0.1", "-W", "2", "--json",
        ]);
        let answer: Value = serde_json::from_slice(&done.out)
            .unwrap_or_else(|e| panic!("not one JSON document ({e}): {done}"));
        answer["received"]
            .as_u64()
            .unwrap_or_else(|| panic!("no `received`: {done}"))
    }

    /// Ends it as a service manager does, and waits until it is gone.
    ///
    /// # Panics
    /// If it needs more than five seconds.
    #[track_caller]
    pub fn terminate(&mut self) -> Done {
        let process = self.process.take().expect("the node runs");
        process.signal(Signal::SIGTERM);
        process.finish(Duration::from_secs(5))
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Processor time it has used, user and system, in seconds.
    pub fn cpu_seconds(&mut self) -> f64 {
        self.process().cpu_seconds()
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&mut self) -> u64 {
        self.process().memory_kib()
    }

    /// Its counters, from its control socket.
    ///
    /// # Panics
    /// If it does not tell them, with its log.
    pub fn metrics(&self) -> Metrics {
        self.ask_metrics()
            .unwrap_or_else(|e| panic!("control.sock: {e}\n{}", self.log()))
    }

    fn ask_metrics(&self) -> io::Result<Metrics> {
        let mut socket = UnixStream::connect(self.state().join("control.sock"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: anode\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(Metrics::parse(body)),
            false => Err(io::Error::other(head.to_owned())),
        }
    }

    /// Waits until `condition` holds, asking every 20 ms.
    ///
    /// # Panics
    /// If it does not within `limit`, with this node's log.
    #[track_caller]
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Duration {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < limit,
                "not within {limit:?}: {what}\n--- log\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    }
}

/// A test that fails shows what its nodes have logged and counted: what happens once in a hundred runs is told then, or never.
impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() || self.process.is_none() {
            return;
        }
        println!("--- {}: log\n{}", self.state().display(), self.log());
        match self.ask_metrics() {
            Ok(metrics) => {
                let counted = metrics.all().iter().filter(|(_, value)| **value != 0.0);
                for (name, value) in counted {
                    println!("{name} {value}");
                }
            }
            Err(error) => println!("no counters: {error}"),
        }
    }
}

/// The counters of a node, by name with labels.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(
            text.lines()
                .filter(|l| !l.starts_with('#'))
                .filter_map(line)
                .collect(),
        )
    }

    /// The sum over all series whose name or labels contain `part`.
    pub fn sum(&self, part: &str) -> f64 {
        self.0
            .iter()
            .filter(|(name, _)| name.contains(part))
            .map(|(_, value)| value)
            .sum()
    }

    /// Every series.
    pub fn all(&self) -> &BTreeMap<String, f64> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn metrics_are_read_with_their_labels_and_without_comments() {
        let text = "# HELP anode_drops_total Packets dropped\nanode_drops_total{reason=\"mac\"} 3\nanode_drops_total{reason=\"hop\"} 4\nother 1.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("anode_drops_total"), 7.0);
        assert_eq!(metrics.sum("reason=\"mac\""), 3.0);
        assert_eq!(metrics.all().len(), 3);
    }
}

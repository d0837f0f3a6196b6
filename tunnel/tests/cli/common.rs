//! The program in a state directory of its own, and a node that runs while a test does.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const KEY: &str = "ANODE-256-40:aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw:0000000000000000000000000000000000000000000000000000000000000001";
pub const ADDRESS_1: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
pub const IPV6_1: &str = "fda0:8ed7:8a43:c2c:b76a:57af:6262:3020";
pub const ADDRESS_2: &str = "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";
pub const IPV6_2: &str = "fda0:cd00:8989:4303:c3ee:44a0:16e:9720";

/// A state directory of its own, that goes with this value.
pub struct State(pub PathBuf);

impl State {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("anode-cli-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    pub fn with_key() -> Self {
        let state = Self::new();
        state.write("identity.key", KEY, 0o600);
        state
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anode"));
        command
            .arg("--state")
            .arg(&self.0)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that must work, and must say nothing on standard error.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {error}");
        assert_eq!(error, "", "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Standard error of a command that must fail with `status`, and must say nothing on standard output.
    pub fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert!(!error.is_empty(), "{arguments:?}");
        error
    }

    /// As [`Self::fails`], for errors of our own: exactly one line.
    pub fn fails_in_one_line(&self, status: i32, arguments: &[&str]) -> String {
        let error = self.fails(status, arguments);
        assert!(
            error.starts_with("error: ") && error.lines().count() == 1,
            "{error}"
        );
        error
    }

    /// What the running node counts.
    pub fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.0.join("control.sock")).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: anode\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A node without an interface and without a LAN, on a port of its own.
pub struct Node {
    pub child: Child,
    pub said: Vec<String>,
}

impl Node {
    pub fn start(state: &State, arguments: &[&str]) -> Self {
        let config = state.write("quiet.toml", "[lan]\nenabled = false\n", 0o644);
        Self::start_with(state, config.to_str().unwrap(), arguments)
    }

    /// With a configuration file, which should switch the LAN off.
    pub fn start_with(state: &State, config: &str, arguments: &[&str]) -> Self {
        let mut command = state.command(&["up", "--no-tun", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(config).args(arguments);
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let stderr = child.stderr.take().unwrap();
        for line in BufReader::new(stderr).lines() {
            let line = line.unwrap();
            let ready = line.starts_with("ready");
            said.push(line);
            if ready {
                return Self { child, said };
            }
        }
        panic!("not ready: {said:?}, {:?}", child.wait());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still running after {limit:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

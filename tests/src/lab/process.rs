//! Processes with their output kept and a deadline for everything.

use super::Ns;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A command that dies with the thread that starts it, without standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// The command as a person would type it.
pub(super) fn words(command: &Command) -> String {
    let all: Vec<_> = command
        .get_args()
        .skip(2)
        .map(|a| a.to_string_lossy())
        .collect();
    all.join(" ")
}

/// A running process. Dropped, it and its process group are killed.
pub struct Proc {
    what: String,
    child: Child,
    started: Instant,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    /// Keeps the namespace's starting thread alive.
    _ns: Ns,
}

/// What a process left.
pub struct Done {
    /// What was run.
    pub what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub out: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Done {
    /// Exit status 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// The exit status; 128 + n after signal n.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Itself, if the exit status is 0.
    ///
    /// # Panics
    /// Otherwise, with everything it said.
    #[track_caller]
    pub fn expect_ok(self) -> Self {
        assert!(self.ok(), "{self}");
        self
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {} after {:?}",
            self.what, self.status, self.elapsed
        )?;
        write!(
            f,
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout(),
            self.stderr
        )
    }
}

impl Proc {
    /// `spawn` is given a function that prepares the command: pipes, and a process group of its own.
    pub(super) fn new(ns: Ns, what: String, spawn: impl FnOnce(fn(&mut Command)) -> Child) -> Self {
        let mut child = spawn(|command| {
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0);
        });
        let stdout = Stream::follow(child.stdout.take().expect("piped"));
        let stderr = Stream::follow(child.stderr.take().expect("piped"));
        Self {
            what,
            child,
            started: Instant::now(),
            stdout,
            stderr,
            _ns: ns,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its standard input, if the command was given a pipe for it.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until standard error shows a line that starts with `start`, and gives that line.
    pub fn wait_stderr_line(&mut self, start: &str, limit: Duration) -> Result<String, String> {
        let stream = self.stderr.clone();
        self.wait_line(&stream, start, limit)
    }

    /// The same for standard output.
    pub fn wait_stdout_line(&mut self, start: &str, limit: Duration) -> Result<String, String> {
        let stream = self.stdout.clone();
        self.wait_line(&stream, start, limit)
    }

    fn wait_line(
        &mut self,
        stream: &Stream,
        start: &str,
        limit: Duration,
    ) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(line) = stream.line(
                start,
                deadline.min(Instant::now() + Duration::from_millis(50)),
            ) {
                return Ok(line);
            }
            let ended = self.child.try_wait().expect("our own child");
            if ended.is_none() && Instant::now() < deadline {
                continue;
            }
            // Its last words may still be in the pipe.
            if let Some(line) = stream.line(start, Instant::now() + Duration::from_millis(200)) {
                return Ok(line);
            }
            let why = match ended {
                Some(status) => format!("it ended with {status}"),
                None => format!("not within {limit:?}"),
            };
            return Err(format!(
                "`{}` did not print a line `{start}…`: {why}\n--- stdout\n{}\n--- stderr\n{}",
                self.what,
                self.stdout(),
                self.stderr()
            ));
        }
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Processor time it has used, user and system, in seconds; 0 once it is gone.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = self.proc_file("stat");
        // The second field, in parentheses, may hold spaces.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|&i| fields.get(i)?.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every Linux that Rust runs on.
        ticks as f64 / 100.0
    }

    /// Resident memory in KiB; 0 once it is gone.
    pub fn memory_kib(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(0)
    }

    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid() as i32), signal);
    }

    /// Waits for its end; `None` if that did not come within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end and gives all it said.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Done {
        let Some(status) = self.wait(limit) else {
            panic!(
                "`{}` still runs after {limit:?}\n--- stdout\n{}\n--- stderr\n{}",
                self.what,
                self.stdout(),
                self.stderr()
            );
        };
        let elapsed = self.started.elapsed();
        // A child of its own may hold the pipes open longer; what matters was written before the end.
        let patience = Instant::now() + Duration::from_millis(500);
        self.stdout.end(patience);
        self.stderr.end(patience);
        Done {
            what: self.what.clone(),
            status,
            out: self.stdout.bytes(),
            stderr: self.stderr(),
            elapsed,
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Everything that came out of one pipe.
struct Stream {
    state: Mutex<Gathered>,
    changed: Condvar,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn follow(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let stream = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = stream.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = writer.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                writer.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        stream
    }

    fn bytes(&self) -> Vec<u8> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bytes
            .clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits for new output until `condition` gives something or the time is over.
    fn until<T>(
        &self,
        deadline: Instant,
        mut condition: impl FnMut(&Gathered) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = condition(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn line(&self, start: &str, deadline: Instant) -> Option<String> {
        self.until(deadline, |state| {
            let text = String::from_utf8_lossy(&state.bytes);
            let whole = &text[..text.rfind('\n')? + 1];
            whole
                .lines()
                .find(|line| line.starts_with(start))
                .map(str::to_owned)
        })
    }

    fn end(&self, deadline: Instant) {
        self.until(deadline, |state| state.ended.then_some(()));
    }
}

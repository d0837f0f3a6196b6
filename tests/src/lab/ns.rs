//! One network namespace: anonymous, held by a thread, gone with the process.

use super::process::{Done, Proc};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. Clones are the same one; it ends with the last of them, and what still runs in it is killed.
#[derive(Clone)]
pub struct Ns {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    file: File,
    /// Closing it ends the keeper.
    jobs: Option<mpsc::Sender<Job>>,
    /// The thread that starts processes. It must live as long as they do: the kernel sends their death signal when the
    /// *thread* that started them ends.
    keeper: Option<JoinHandle<()>>,
}

impl Ns {
    /// A new namespace with only its loopback, up. `name` is for messages.
    pub fn new(name: &str) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (hand_over, handed) = mpsc::channel::<File>();
        let keeper = thread::Builder::new()
            .name(format!("ns-{name}"))
            .spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("a new network namespace");
                let file = File::open("/proc/thread-self/ns/net").expect("the namespace just made");
                hand_over.send(file).expect("the maker waits for it");
                for job in inbox {
                    job();
                }
            })
            .expect("a thread");
        let file = handed
            .recv()
            .expect("the keeper panicked: its message stands above");
        let inner = Inner {
            name: name.to_owned(),
            file,
            jobs: Some(jobs),
            keeper: Some(keeper),
        };
        let ns = Self {
            inner: Arc::new(inner),
        };
        // Addresses must be usable at once; no duplicate can exist here.
        ns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        ns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        // What most machines use. Where the machine restricts the choice for namespaces, its own default stays.
        let _ = ns.try_sysctl("net/ipv4/tcp_congestion_control", "cubic");
        ns.ip(&["link", "set", "lo", "up"]);
        ns
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// A path by which other processes can open it, while this process lives.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.inner.file.as_raw_fd()
        )
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in it wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(&self.inner.file, nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("enter the namespace");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a process made with [`super::command`].
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self, mut command: Command) -> Proc {
        let what = super::process::words(&command);
        Proc::new(self.clone(), what.clone(), |prepare| {
            prepare(&mut command);
            self.spawn(command)
                .unwrap_or_else(|e| panic!("cannot start {what}: {e}"))
        })
    }

    /// Runs a process to its end.
    ///
    /// # Panics
    /// If it takes longer than `limit`, with what it said so far.
    pub fn finish(&self, command: Command, limit: Duration) -> Done {
        self.start(command).finish(limit)
    }

    fn spawn(&self, mut command: Command) -> std::io::Result<Child> {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(command.spawn());
        });
        self.inner
            .jobs
            .as_ref()
            .expect("open until dropped")
            .send(job)
            .expect("the keeper lives until dropped");
        answered.recv().expect("the keeper answers every job")
    }

    /// Runs `ip` in it.
    ///
    /// # Panics
    /// If `ip` fails, with its words.
    pub fn ip(&self, arguments: &[&str]) -> String {
        let mut command = super::command("ip");
        command.args(arguments);
        let done = self.finish(command, Duration::from_secs(10));
        assert!(
            done.ok(),
            "{}: ip {}: {}",
            self.name(),
            arguments.join(" "),
            done.stderr
        );
        done.stdout()
    }

    /// Sets a value below /proc/sys.
    ///
    /// # Panics
    /// If there is no such value or it cannot be set.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.try_sysctl(path, value)
            .unwrap_or_else(|e| panic!("{}: {path} = {value}: {e}", self.name()));
    }

    fn try_sysctl(&self, path: &str, value: &str) -> std::io::Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{path}"), value))
    }

    /// Names of its interfaces.
    pub fn interfaces(&self) -> Vec<String> {
        self.run(|| {
            let list = nix::net::if_::if_nameindex().expect("the kernel lists interfaces");
            list.iter()
                .map(|i| i.name().to_string_lossy().into_owned())
                .collect()
        })
    }

    /// IPv6 routes of all tables as `destination/length interface`, the destination as 32 hex digits.
    pub fn routes6(&self) -> Vec<String> {
        let table = self
            .run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"))
            .expect("the kernel lists routes");
        let line = |line: &str| {
            let field: Vec<&str> = line.split_whitespace().collect();
            format!(
                "{}/{} {}",
                field[0],
                u8::from_str_radix(field[1], 16).unwrap_or(0),
                field.last().unwrap_or(&"")
            )
        };
        table.lines().map(line).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Processes that left their group (ssh sessions do) are found by the namespace they are in.
        if let Ok(own) = self.file.metadata() {
            kill_inhabitants(own.ino());
        }
        self.jobs = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn kill_inhabitants(inode: u64) {
    let me = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        if pid != me && fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| m.ino() == inode) {
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

//! One network namespace: anonymous, held by a thread, gone with the process.

use super::process::{Done, Proc};
use anode_platform::PlatformError;
use anode_platform::netlink::{Netlink, Route};
use anode_platform::netns::NetNs;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
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
    netns: NetNs,
    netlink: Mutex<Netlink>,
    /// Closing it ends the keeper.
    jobs: Option<mpsc::Sender<Job>>,
    /// The thread that starts processes. It must live as long as they do: the kernel sends their death signal when the
    /// *thread* that started them ends.
    keeper: Option<JoinHandle<()>>,
}

impl Ns {
    /// A new namespace with only its loopback, up. `name` is for messages.
    pub fn new(name: &str) -> Self {
        let netns = NetNs::new().unwrap_or_else(|e| panic!("{e}"));
        let netlink = netns.run(Netlink::open).and_then(|opened| opened);
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inside = NetNs::open(&descriptor_path(&netns)).unwrap_or_else(|e| panic!("{e}"));
        let keeper = thread::Builder::new()
            .name(format!("ns-{name}"))
            .spawn(move || {
                inside.enter().unwrap_or_else(|e| panic!("{e}"));
                for job in inbox {
                    job();
                }
            })
            .expect("a thread");
        let inner = Inner {
            name: name.to_owned(),
            netns,
            netlink: Mutex::new(netlink.unwrap_or_else(|e| panic!("{e}"))),
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
        ns
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in it wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inner
            .netns
            .run(work)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    /// The handle that links are moved by.
    pub fn netns(&self) -> &NetNs {
        &self.inner.netns
    }

    /// Changes or asks something of its links, addresses and routes.
    ///
    /// # Panics
    /// If the kernel refuses it.
    #[track_caller]
    pub fn netlink<T>(&self, work: impl FnOnce(&mut Netlink) -> Result<T, PlatformError>) -> T {
        let mut netlink = self
            .inner
            .netlink
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut netlink).unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    /// The index of a link.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn index(&self, link: &str) -> u32 {
        self.netlink(|netlink| netlink.link(link))
            .unwrap_or_else(|| panic!("{}: no link {link}", self.name()))
            .index
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

    /// Names of its interfaces, sorted.
    pub fn interfaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .netlink(Netlink::links)
            .into_iter()
            .map(|link| link.name)
            .collect();
        names.sort();
        names
    }

    /// Its IPv6 routes, of all tables.
    pub fn routes6(&self) -> Vec<Route> {
        self.netlink(|netlink| netlink.routes(true))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Processes that left their group (ssh sessions do) are found by the namespace they are in.
        if let Ok(own) = fs::metadata(descriptor_path(&self.netns)) {
            kill_inhabitants(own.ino());
        }
        self.jobs = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn descriptor_path(netns: &NetNs) -> PathBuf {
    Path::new("/proc/self/fd").join(netns.as_fd().as_raw_fd().to_string())
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

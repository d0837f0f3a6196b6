//! Networks on one machine: namespaces, cables between them, LANs, and nodes inside.
//!
//! ```text
//!   Lab ── directory of this test, what the machine must offer
//!    ├─ Ns ── a network namespace, held by one thread; processes and sockets are made inside it
//!    │   └─ Proc ── a process there, with its output and a deadline for everything
//!    ├─ DelayBox ── a long line between two hosts: delay, loss, a bottleneck
//!    ├─ Lan ── a bridge in a namespace of its own, hosts plugged in
//!    │   └─ Nat ── a NAT or firewall of any kind plugged in, with machines behind it
//!    ├─ Internet ── relays, a proxy, and sites with all that stands between a machine and the world
//!    └─ Node ── `anode up` on a host, and the commands a user gives it
//! ```

pub mod delay;
mod link;
mod nat;
mod node;
mod ns;
mod process;
mod site;

pub use link::{Family, Host, Lan, cable, wired};
pub use nat::{Filtering, Nat, NatKind, default_route};
pub use node::{Metrics, Node, NodeBuilder, anode_binary};
pub use ns::Ns;
pub use process::{Done, Proc, command};
pub use site::{Internet, Place, Site};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

/// Set to 1, tests that need the lab do nothing and say so. The only way in which they pass without it.
pub const SKIP: &str = "ANODE_TEST_SKIP_LAB";

const DIRECTORY_PREFIX: &str = "anode-lab-";

/// The directory of one test, removed when it ends, and the proof that the machine can run it.
pub struct Lab {
    directory: PathBuf,
}

impl Lab {
    /// `None` only if [`SKIP`] is set.
    ///
    /// # Panics
    /// If the machine lacks something, with the package or privilege to add.
    pub fn open() -> Option<Self> {
        if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
            eprintln!("skipped: {SKIP}=1");
            return None;
        }
        static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
        if let Err(why) = FOUND.get_or_init(check_machine) {
            panic!("the lab cannot run here: {why} (or set {SKIP}=1 to leave these tests out)");
        }
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);

        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{DIRECTORY_PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", directory.display()));
        Some(Self { directory })
    }

    /// An empty directory of this test, for state, keys and files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A failed test leaves its logs in the panic message; the directory has no further use.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Lets one heavy test run at a time: transfers and floods beside each other would only measure each other.
pub fn heavy() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_machine() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it needs root (network namespaces, interfaces)".into());
    }
    fs::File::open("/dev/net/tun")
        .map_err(|e| format!("/dev/net/tun: {e} (modprobe tun, or pass the device in)"))?;
    crate::programs::find("setpriv")?;
    anode_platform::netns::NetNs::new()
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Removes the directories of test processes that died without cleaning up.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|n| n.strip_prefix(DIRECTORY_PREFIX))
            .and_then(|n| n.split('-').next())
            .and_then(|n| n.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

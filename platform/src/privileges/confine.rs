//! Giving up, once a node stands, all that it will not need again.

use std::io;
use std::os::unix::fs::MetadataExt;

use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use super::places::{self, Landlock, Places};
use super::{Capability, has, keep_only, no_core_dumps, no_new_privileges, syscalls};
use crate::PlatformError;

/// What was given up. Nothing of it comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confined {
    /// Capabilities that are left.
    pub capabilities: Vec<Capability>,
    /// Whether system calls are filtered; false on processors that the filter does not know.
    pub seccomp: bool,
    /// Whether files outside of the node's directories are out of reach.
    pub landlock: Landlock,
    /// Whether memory is kept from swap.
    pub memory_locked: bool,
}

/// Keeps memory, with the keys in it, out of core files and out of swap. At the start, before there are keys. Whether the
/// memory is locked: that needs an unlimited RLIMIT_MEMLOCK (systemd: `LimitMEMLOCK=infinity`) or the right to raise it.
pub fn protect_memory() -> Result<bool, PlatformError> {
    no_core_dumps()?;
    // Under a limit, every allocation beyond it would fail from then on: then rather not at all.
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok()
        || getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    // Pages are locked when they are first used: reserved address space costs nothing.
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(unlimited && mlockall(flags).is_ok())
}

/// Raises the limit of open files to what the system allows at most: a relay has two connections from some peers.
pub fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What is allowed can be set; and else the limit is what it was.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Gives freed memory of flows back to the system: blocks of 128 KiB and more are mapped one by one, always.
///
/// By default the C library raises that threshold with the first such block that is freed (M_MMAP_THRESHOLD, mallopt(3)),
/// and buffers of flows come to lie between others that stay: measured, an idle TCP flow kept 86 to 279 KB instead of 9.7.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        const THRESHOLD: libc::c_int = 128 << 10;
        // SAFETY: mallopt takes two integers and changes only the allocator's own settings, under its own lock.
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD) };
        // It fails only for a value out of range, and this is the default's value.
        debug_assert_eq!(set, 1);
    }
}

/// Confines the calling thread, and the threads that it starts later: call it when there are no others. The interface and
/// the sockets that exist stay usable; new UDP, TCP, netlink and Unix sockets can be made.
///
/// `keep`: capabilities for what is still to come (ports below 1024, raw sockets).
pub fn confine(
    places: &Places,
    keep: &[Capability],
    memory_locked: bool,
) -> Result<Confined, PlatformError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        let why = format!("{threads} threads run already, of which others would stay unconfined");
        return Err(PlatformError::io("give up rights", io::Error::other(why)));
    }
    let mut keep = keep.to_vec();
    if places
        .write
        .iter()
        .chain(&places.read)
        .any(|path| is_foreign(path))
    {
        // Root who works in another user's directory: files there are opened and given back by these. Landlock keeps
        // them to these directories.
        keep.extend([
            Capability::Chown,
            Capability::DacOverride,
            Capability::Fowner,
        ]);
    }
    no_new_privileges()?;
    keep_only(&keep)?;
    let landlock = places::restrict(places)?;
    let seccomp = syscalls::restrict()?;
    Ok(Confined {
        capabilities: keep
            .into_iter()
            .filter(|capability| has(*capability))
            .collect(),
        seccomp,
        landlock,
        memory_locked,
    })
}

fn is_foreign(path: &std::path::Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.uid() != geteuid().as_raw())
}

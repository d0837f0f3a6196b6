//! Network and user namespaces.
//!
//! A network namespace belongs to a thread. [`NetNs::enter`] moves the calling thread for good (a program's main thread,
//! before it starts others), [`NetNs::run`] does work on a thread of its own, [`NetNs::command`] starts a program inside.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::PlatformError;
use crate::netlink::Netlink;

/// Where `ip netns` keeps named namespaces.
const NAMED: &str = "/run/netns";

/// A network namespace, alive as long as this value, a process in it, or its name under /run/netns.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// The calling thread's.
    pub fn current() -> Result<Self, PlatformError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new one without a name, with its loopback up. Needs CAP_SYS_ADMIN in the user namespace.
    pub fn new() -> Result<Self, PlatformError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| denied("make a network namespace", errno))?;
            loopback_up()?;
            Self::current()
        })
    }

    /// By a path such as /run/netns/NAME or /proc/PID/ns/net.
    pub fn open(path: &Path) -> Result<Self, PlatformError> {
        let file =
            File::open(path).map_err(|e| PlatformError::at("open network namespace", path, e))?;
        Ok(Self { fd: file.into() })
    }

    /// By its name under /run/netns, as `ip netns` shows it.
    pub fn named(name: &str) -> Result<Self, PlatformError> {
        Self::open(&named_path(name)?)
    }

    /// That of a process.
    pub fn of_process(pid: u32) -> Result<Self, PlatformError> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Moves the calling thread in, for good. Needs CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<(), PlatformError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| denied("enter a network namespace", errno))
    }

    /// Runs `work` on a thread inside and waits for it. A panic comes through.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PlatformError> {
        on_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Makes `command` start its program inside.
    pub fn command<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command, PlatformError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|e| PlatformError::io("duplicate a descriptor", e))?;
        let enter = move || setns(&fd, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns; it neither
        // allocates nor locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

impl From<OwnedFd> for NetNs {
    /// Of a descriptor of one, such as a duplicate.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A network namespace under /run/netns, where `ip netns exec NAME` finds it. The name goes away on drop, the
/// namespace with it once nothing is inside.
#[derive(Debug)]
pub struct NamedNetNs {
    netns: NetNs,
    path: PathBuf,
}

impl NamedNetNs {
    /// Makes a namespace and its name. Needs CAP_SYS_ADMIN and a mount namespace whose /run may be written.
    pub fn create(name: &str) -> Result<Self, PlatformError> {
        let path = named_path(name)?;
        share_directory()?;
        // Before the namespace: a name that is taken is refused for certain.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => PlatformError::NamespaceTaken(name.into()),
                _ => PlatformError::at("make", &path, e),
            })?;
        let made = NetNs::new().and_then(|netns| {
            let source = format!("/proc/self/fd/{}", netns.fd.as_raw_fd());
            bind(Path::new(&source), &path)?;
            Ok(netns)
        });
        match made {
            Ok(netns) => Ok(Self { netns, path }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Removes a name that an earlier run left behind.
    pub fn remove(name: &str) -> Result<(), PlatformError> {
        let path = named_path(name)?;
        unbind(&path).map_err(|e| PlatformError::at("remove", &path, e))
    }

    /// The namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }
}

impl Drop for NamedNetNs {
    fn drop(&mut self) {
        if let Err(error) = unbind(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "network namespace's name stays");
        }
    }
}

/// Moves the calling process into a user namespace where it is root, and into a network namespace of its own with
/// loopback up: what an unprivileged user needs to make TUN devices and links. The process must have one thread only:
/// call it first thing in `main`.
pub fn enter_user_namespace() -> Result<(), PlatformError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| denied("make a user namespace", errno))?;
    // Without "deny" an unprivileged process may not write gid_map (user_namespaces(7)).
    write_map("setgroups", "deny")?;
    write_map("uid_map", &format!("0 {uid} 1"))?;
    write_map("gid_map", &format!("0 {gid} 1"))?;
    loopback_up()
}

fn write_map(file: &str, text: &str) -> Result<(), PlatformError> {
    let path = Path::new("/proc/self").join(file);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => PlatformError::NamespaceDenied { source, fix: FIX },
            _ => PlatformError::at("write", &path, source),
        })
}

/// Brings the loopback of the calling thread's namespace up; a new namespace has it down.
pub fn loopback_up() -> Result<(), PlatformError> {
    /// Every namespace's loopback has this index.
    const LOOPBACK: u32 = 1;
    Netlink::open()?.set_up(LOOPBACK, true)
}

const FIX: &str = "run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1 (Debian), \
                   kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces above 0";

fn denied(what: &str, errno: nix::Error) -> PlatformError {
    use nix::errno::Errno::{EINVAL, ENOSPC, EPERM, EUSERS};
    match errno {
        EPERM if what.starts_with("make a user") => PlatformError::NamespaceDenied {
            source: errno.into(),
            fix: FIX,
        },
        // The limits of /proc/sys/user are reached, or 0.
        ENOSPC | EUSERS => PlatformError::NamespaceDenied {
            source: errno.into(),
            fix: FIX,
        },
        EPERM => PlatformError::NoPermission {
            what: what.into(),
            capability: "CAP_SYS_ADMIN",
        },
        EINVAL => PlatformError::io(
            format!("{what} (a process of several threads cannot)"),
            errno,
        ),
        _ => PlatformError::io(what, errno),
    }
}

fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, PlatformError> + Send,
) -> Result<T, PlatformError> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    })
}

fn named_path(name: &str) -> Result<PathBuf, PlatformError> {
    let bad =
        name.is_empty() || name.len() > 255 || name.contains('/') || [".", ".."].contains(&name);
    if bad {
        return Err(PlatformError::io(
            format!("network namespace name \"{name}\""),
            io::Error::from(io::ErrorKind::InvalidInput),
        ));
    }
    Ok(Path::new(NAMED).join(name))
}

/// Makes /run/netns a shared mount, as `ip netns` does, so that names made here are seen, and go away, in all mount
/// namespaces that share it.
fn share_directory() -> Result<(), PlatformError> {
    let path = Path::new(NAMED);
    std::fs::create_dir_all(path).map_err(|e| PlatformError::at("make", path, e))?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
    };
    // EINVAL: it is no mount point yet.
    if let Err(nix::Error::EINVAL) = share() {
        bind(path, path)?;
        share().map_err(|e| PlatformError::at("share", path, e))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<(), PlatformError> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| match errno {
        nix::Error::EPERM => PlatformError::NoPermission {
            what: format!("mount {}", target.display()),
            capability: "CAP_SYS_ADMIN",
        },
        _ => PlatformError::at("mount", target, errno),
    })
}

fn unbind(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: nothing is mounted there; only the file was left.
        Ok(()) | Err(nix::Error::EINVAL) => std::fs::remove_file(path),
        Err(errno) => Err(errno.into()),
    }
}

//! The seccomp filter: the system calls that a running node makes, and no others.
//!
//! No program is started from here on, no namespace entered, no process looked into, no code made: `execve`, `ptrace`,
//! `mount`, `setns`, `bpf`, `io_uring` and some 250 others fail with EPERM, and memory is never both written and run.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::PlatformError;

/// What needs no look at its arguments.
const ALLOWED: &[libc::c_long] = &[
    // memory
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // files: state, configuration
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // threads
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // signals
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // sockets; which, `socket` says
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // randomness
    libc::SYS_getrandom,
];

/// Calls that newer architectures no longer have, and that a C library may still make.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_getdents,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[libc::c_long] = &[];

/// Kinds of sockets that a node opens.
const SOCKETS: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Terminal calls by which a program types into the terminal that it was started from.
const TYPING: [u64; 2] = [libc::TIOCSTI, 0x541c];

/// Installs the filter on the calling thread; threads that it starts inherit it. `Ok(false)`: not for this processor.
/// Not to be undone.
pub(super) fn restrict() -> Result<bool, PlatformError> {
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let program = compile(architecture).map_err(|error| {
        PlatformError::io("make the seccomp filter", std::io::Error::other(error))
    })?;
    seccompiler::apply_filter(&program).map_err(|error| {
        PlatformError::io("install the seccomp filter", std::io::Error::other(error))
    })?;
    Ok(true)
}

fn compile(architecture: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().chain(LEGACY) {
        rules.insert(*call, Vec::new());
    }
    let not_executable =
        SeccompCondition::new(2, Dword, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![not_executable.clone()])?]);
    }
    let sockets = SOCKETS.map(|family| {
        let is = SeccompCondition::new(0, Dword, SeccompCmpOp::Eq, family as u64)?;
        SeccompRule::new(vec![is])
    });
    let sockets: Vec<SeccompRule> = sockets.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socketpair, sockets.clone());
    rules.insert(libc::SYS_socket, sockets);
    let typing = TYPING.map(|request| SeccompCondition::new(1, Qword, SeccompCmpOp::Ne, request));
    let typing: Vec<SeccompCondition> = typing.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(typing)?]);

    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture)?;
    filter.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: the filter stays.
    fn confined<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| restrict().unwrap().then(work));
            thread.join().unwrap()
        })
    }

    #[test]
    fn no_program_starts_and_ordinary_work_goes_on() {
        let Some((started, raw, udp, file, thread)) = confined(|| {
            let started = std::process::Command::new("/bin/true").status();
            let raw = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Packet,
                nix::sys::socket::SockType::Raw,
                nix::sys::socket::SockFlag::empty(),
                None,
            );
            let udp = std::net::UdpSocket::bind("127.0.0.1:0");
            let file = std::fs::read_to_string("/proc/self/status");
            let thread = std::thread::spawn(|| vec![1u8; 1 << 20].len()).join();
            (
                started.map(drop),
                raw.map(drop),
                udp.map(drop),
                file,
                thread,
            )
        }) else {
            return;
        };
        assert_eq!(
            started.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        assert_eq!(raw, Err(nix::errno::Errno::EPERM));
        udp.unwrap();
        assert!(file.unwrap().contains("Seccomp:"));
        assert_eq!(thread.unwrap(), 1 << 20);
    }
}

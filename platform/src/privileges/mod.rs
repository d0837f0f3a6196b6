//! Privileges: what is there, what is missing, and giving up what is no longer needed.
//!
//! ```text
//!  start ─▶ protect_memory ─▶ interface, sockets (CAP_NET_ADMIN) ─▶ confine ─▶ threads, traffic
//!                                                                    │ capabilities, no_new_privs
//!                                                                    │ places: Landlock
//!                                                                    │ syscalls: seccomp
//! ```

mod confine;
mod places;
mod syscalls;

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{getsockopt, sockopt};

use crate::PlatformError;

pub use confine::{Confined, confine, protect_memory, raise_file_limit, return_freed_memory};
pub use places::{Landlock, Places};

/// A capability that some part of anode can use (`linux/capability.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Capability {
    /// To give files to another user.
    Chown = 0,
    /// To read and write files of other users.
    DacOverride = 1,
    /// To change the modes of other users' files.
    Fowner = 3,
    /// To bind ports below 1024 (a relay on 80 and 443).
    NetBindService = 10,
    /// To make the interface and its routes: all that `anode up` needs.
    NetAdmin = 12,
    /// To speak Ethernet directly.
    NetRaw = 13,
    /// To make and enter network namespaces.
    SysAdmin = 21,
}

impl Capability {
    /// `CAP_NET_ADMIN` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chown => "CAP_CHOWN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::Fowner => "CAP_FOWNER",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the calling thread has `capability` now (its effective set). In a user namespace that is over what belongs to
/// that namespace.
pub fn has(capability: Capability) -> bool {
    kernel::get().is_ok_and(|sets| sets.effective & capability.bit() != 0)
}

/// Keeps the capabilities in `keep`, as far as they are there, and gives up all others: effective, permitted,
/// inheritable and ambient. Not to be undone, and programs started from here get none.
///
/// Capabilities belong to a thread: call this before others are started, or in each of them.
pub fn keep_only(keep: &[Capability]) -> Result<(), PlatformError> {
    let failed = |error| PlatformError::io("give up capabilities", error);
    let mask = keep
        .iter()
        .fold(0, |mask, capability| mask | capability.bit());
    let mut sets = kernel::get().map_err(failed)?;
    sets.permitted &= mask;
    // After a change of user (prctl PR_SET_KEEPCAPS) they are permitted and not effective.
    sets.effective = sets.permitted;
    sets.inheritable = 0;
    kernel::set(sets).map_err(failed)
}

/// No program started from here can gain rights again, by set-user-ID or file capabilities. Not to be undone.
pub fn no_new_privileges() -> Result<(), PlatformError> {
    prctl::set_no_new_privs().map_err(|errno| PlatformError::io("set no_new_privs", errno))
}

/// Keeps the keys in memory from core files and from other processes of the same user. The process's files under /proc
/// then belong to root: [`crate::netns::enter_user_namespace`] comes before.
pub fn no_core_dumps() -> Result<(), PlatformError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .and_then(|()| prctl::set_dumpable(false))
        .map_err(|errno| PlatformError::io("switch core dumps off", errno))
}

/// Who is at the other end of a Unix socket, as the kernel noted it when it was connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCredentials {
    /// Process.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// SO_PEERCRED of a connected Unix stream socket.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<PeerCredentials> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(PeerCredentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// capget(2) and capset(2), which the C library does not wrap.
mod kernel {
    use super::{io, libc};

    /// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits for each set.
    const VERSION: u32 = 0x2008_0522;

    #[repr(C)]
    struct Header {
        version: u32,
        /// 0: the calling thread.
        pid: libc::c_int,
    }

    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct Word {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    /// One bit per capability.
    #[derive(Clone, Copy)]
    pub(super) struct Sets {
        pub(super) effective: u64,
        pub(super) permitted: u64,
        pub(super) inheritable: u64,
    }

    pub(super) fn get() -> io::Result<Sets> {
        let mut header = header();
        let mut words = [Word::default(); 2];
        // SAFETY: both pointers are to live values of the layout that version 3 of the call writes.
        let result =
            unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
        done(result)?;
        let join =
            |word: fn(&Word) -> u32| u64::from(word(&words[0])) | u64::from(word(&words[1])) << 32;
        Ok(Sets {
            effective: join(|word| word.effective),
            permitted: join(|word| word.permitted),
            inheritable: join(|word| word.inheritable),
        })
    }

    pub(super) fn set(sets: Sets) -> io::Result<()> {
        let mut header = header();
        let word = |shift| Word {
            effective: (sets.effective >> shift) as u32,
            permitted: (sets.permitted >> shift) as u32,
            inheritable: (sets.inheritable >> shift) as u32,
        };
        let words = [word(0), word(32)];
        // SAFETY: both pointers are to live values of the layout that version 3 of the call reads.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
        // Ambient capabilities fall with the inheritable ones (capabilities(7)).
        done(result)
    }

    fn header() -> Header {
        Header {
            version: VERSION,
            pid: 0,
        }
    }

    fn done(result: libc::c_long) -> io::Result<()> {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_socket_pair_is_this_process() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&socket).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
    }

    #[test]
    fn a_thread_that_gave_its_capabilities_up_has_none() {
        std::thread::spawn(|| {
            keep_only(&[]).unwrap();
            for capability in [Capability::NetAdmin, Capability::SysAdmin] {
                assert!(!has(capability), "{capability}");
            }
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(
                    status.contains(&format!("{set}:\t0000000000000000\n")),
                    "{status}"
                );
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_is_kept_is_still_there() {
        std::thread::spawn(|| {
            let before = has(Capability::NetAdmin);
            keep_only(&[Capability::NetAdmin]).unwrap();
            assert_eq!(has(Capability::NetAdmin), before);
            assert!(!has(Capability::NetRaw));
        })
        .join()
        .unwrap();
    }
}

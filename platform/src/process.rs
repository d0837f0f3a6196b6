//! Children and the end of this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};

use crate::PlatformError;

/// Makes `command`'s program be killed when the thread that starts it ends, however that happens.
///
/// The kernel looks at the thread, not at the process: start such programs from one that lives on.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = Pid::this();
    let arrange = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended between the fork and the line above.
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from(nix::errno::Errno::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it neither allocates nor locks.
    unsafe { command.pre_exec(arrange) }
}

/// SIGINT and SIGTERM as a descriptor.
#[derive(Debug)]
pub struct Termination {
    fd: SignalFd,
}

impl Termination {
    /// From now on these signals no longer end the process; they make the descriptor readable. Call it before other
    /// threads are started: they inherit this. Programs started with [`Command`] do not.
    pub fn new() -> Result<Self, PlatformError> {
        let failed = |errno| PlatformError::io("catch SIGINT and SIGTERM", errno);
        let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        mask.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&mask, flags).map_err(failed)?;
        Ok(Self { fd })
    }

    /// Whether one of the signals has come since the last call.
    pub fn take(&self) -> bool {
        matches!(self.fd.read_signal(), Ok(Some(_)))
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::raise;

    use super::*;
    use crate::wake::{PollFd, PollFlags, poll};

    #[test]
    fn a_signal_makes_the_descriptor_readable_once() {
        std::thread::spawn(|| {
            let termination = Termination::new().unwrap();
            assert!(!termination.take());
            raise(Signal::SIGTERM).unwrap();
            let mut fds = [PollFd::new(termination.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1);
            assert!(termination.take());
            assert!(!termination.take());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_child_is_killed_when_the_thread_that_started_it_ends() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            die_with_parent(command.arg("60")).spawn().unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}

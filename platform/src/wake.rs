//! Waiting for descriptors, and waking the one who waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::ppoll;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

pub use nix::poll::{PollFd, PollFlags};

use crate::PlatformError;

/// Wakes a thread that waits in [`poll`]. Wakes before the drain count as one.
#[derive(Debug)]
pub struct Wake {
    fd: EventFd,
}

impl Wake {
    /// One descriptor.
    pub fn new() -> Result<Self, PlatformError> {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map(|fd| Self { fd })
            .map_err(|errno| PlatformError::io("make an eventfd", errno))
    }

    /// Makes the descriptor readable until it is drained; from any thread, never blocks.
    pub fn wake(&self) {
        // It fails only when the counter is full: then it is readable already.
        let _ = self.fd.write(1);
    }

    /// Takes the wakes back. Returns whether there were any.
    ///
    /// Drain first, then look at what the wake announced: a wake in between is then seen by the next [`poll`].
    pub fn drain(&self) -> bool {
        self.fd.read().is_ok()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of `fds` is ready or `timeout` has passed (nanoseconds count; `None` waits for ever). Returns how
/// many are ready; [`PollFd::any`] and [`PollFd::revents`] tell which. Signals do not end the wait.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    // A timeout beyond the clock's range is as good as none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut left = timeout.filter(|_| deadline.is_some());
    loop {
        match ppoll(fds, left.map(TimeSpec::from), None) {
            Ok(ready) => return Ok(ready.unsigned_abs() as usize),
            Err(Errno::EINTR) => {
                left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_ends_a_wait_and_stays_until_it_is_drained() {
        let wake = Wake::new().unwrap();
        let ready = |timeout| {
            let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, Some(timeout)).unwrap()
        };
        assert_eq!(ready(Duration::ZERO), 0);
        assert!(!wake.drain());

        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                wake.wake();
                wake.wake();
            });
            assert_eq!(ready(Duration::from_secs(10)), 1);
        });
        assert_eq!(ready(Duration::ZERO), 1);
        assert!(wake.drain());
        assert_eq!(ready(Duration::ZERO), 0);
    }

    #[test]
    fn a_timeout_is_never_cut_short() {
        for timeout in [Duration::from_micros(300), Duration::from_millis(7)] {
            let start = Instant::now();
            assert_eq!(poll(&mut [], Some(timeout)).unwrap(), 0);
            assert!(start.elapsed() >= timeout);
        }
    }
}

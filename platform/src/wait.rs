//! Waiting for one of many descriptors, which are told to the kernel once and not with each wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::PlatformError;
use crate::wake::{PollFd, PollFlags, poll};

/// Descriptors that one wait names at most; the others come first with the next.
const EVENTS: usize = 64;

/// Descriptors that are waited for until they can be read, or have failed. One that is closed leaves the set by itself.
#[derive(Debug)]
pub struct WaitSet {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    /// Those of the last wait.
    ready: usize,
    /// The kernel waits by nanoseconds (Linux 5.11), and does not refuse to.
    precise: bool,
}

impl WaitSet {
    /// An empty one.
    pub fn new() -> Result<Self, PlatformError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| PlatformError::io("make an epoll descriptor", errno))?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); EVENTS],
            ready: 0,
            precise: true,
        })
    }

    /// Waits for this one, too; [`WaitSet::ready`] names it by `token`. An error where it is in the set already.
    pub fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        Ok(self.epoll.add(fd, event)?)
    }

    /// Watches one of the set, or does not for a while; its failure is told in both cases.
    pub fn set_watched(&self, fd: impl AsFd, token: u64, watched: bool) -> io::Result<()> {
        let flags = if watched {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        };
        let mut event = EpollEvent::new(flags, token);
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Waits until one is ready, `timeout` has passed (nanoseconds count; `None` waits for ever), or a signal came. Returns how
    /// many are ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.ready = 0;
        self.ready = match self.wait_once(timeout) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        Ok(self.ready)
    }

    fn wait_once(&mut self, timeout: Option<Duration>) -> nix::Result<usize> {
        if timeout == Some(Duration::ZERO) {
            return self.epoll.wait(&mut self.events, EpollTimeout::ZERO);
        }
        if self.precise {
            match epoll_pwait2(&self.epoll, &mut self.events, timeout) {
                // Not known, or not allowed by a sandbox that does not know it.
                Err(Errno::ENOSYS | Errno::EPERM) => self.precise = false,
                result => return result,
            }
        }
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).map_err(|error| {
            error
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw)
        })?;
        self.epoll.wait(&mut self.events, EpollTimeout::ZERO)
    }

    /// The tokens of those that the last wait has found.
    pub fn ready(&self) -> impl Iterator<Item = u64> + '_ {
        self.events[..self.ready].iter().map(EpollEvent::data)
    }
}

/// As epoll_wait(2), by nanoseconds.
fn epoll_pwait2(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    timeout: Option<Duration>,
) -> nix::Result<usize> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let most = i32::try_from(events.len()).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open while `epoll` is borrowed; `EpollEvent` is a transparent `epoll_event`, and `most` of them
    // may be written; `timeout` is null or points to a timespec that lives until the call returns; no signal mask is given.
    let ready = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.0.as_raw_fd(),
            events.as_mut_ptr(),
            most,
            timeout,
            ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    Errno::result(ready).map(|ready| ready.unsigned_abs() as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::wake::Wake;

    fn found(set: &mut WaitSet, timeout: Duration) -> Vec<u64> {
        set.wait(Some(timeout)).unwrap();
        let mut found: Vec<u64> = set.ready().collect();
        found.sort_unstable();
        found
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn it_names_who_is_ready_until_it_is_drained() {
        for precise in [true, false] {
            let mut set = WaitSet::new().unwrap();
            set.precise = precise;
            let wakes = [Wake::new().unwrap(), Wake::new().unwrap()];
            for (wake, token) in wakes.iter().zip([7, 1 << 40]) {
                set.watch(wake, token).unwrap();
            }
            assert!(set.watch(&wakes[0], 3).is_err(), "it is in the set already");
            assert!(found(&mut set, Duration::ZERO).is_empty());
            wakes[1].wake();
            assert_eq!(found(&mut set, LONG), [1 << 40]);
            wakes[0].wake();
            assert_eq!(found(&mut set, LONG), [7, 1 << 40]);
            wakes[1].drain();
            assert_eq!(found(&mut set, Duration::ZERO), [7]);
            set.set_watched(&wakes[0], 7, false).unwrap();
            assert!(found(&mut set, Duration::ZERO).is_empty());
            set.set_watched(&wakes[0], 8, true).unwrap();
            assert_eq!(found(&mut set, LONG), [8]);
            drop(wakes);
            assert!(found(&mut set, Duration::ZERO).is_empty());
        }
    }

    #[test]
    fn somebody_else_ends_the_wait() {
        let (mut set, wake) = (WaitSet::new().unwrap(), Wake::new().unwrap());
        set.watch(&wake, 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                wake.wake();
            });
            assert_eq!(set.wait(None).unwrap(), 1);
        });
    }

    #[test]
    fn a_timeout_is_never_cut_short() {
        for precise in [true, false] {
            let mut set = WaitSet::new().unwrap();
            set.precise = precise;
            for timeout in [Duration::from_micros(300), Duration::from_millis(7)] {
                let start = Instant::now();
                assert!(found(&mut set, timeout).is_empty());
                assert!(start.elapsed() >= timeout);
            }
        }
    }
}

//! What the data thread waits for, and what of it was found readable.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anode_platform::tun::Tun;
use anode_platform::wait::WaitSet;
use anode_platform::wake::Wake;
use anode_routing::overlay::{Overlay, Ready};

use super::interfaces::Interfaces;
use super::spin::Spin;
use crate::Error;

const WAKE: u64 = 0;
const INTERFACES: u64 = 1;
const TUN: u64 = 2;
/// From this bit on stands the overlay's place, counted from 1; below it the descriptor's among its own.
const OVERLAY: u32 = 32;

/// Everybody who is waited for.
pub struct Watched<'a, O> {
    pub wake: &'a Wake,
    /// The watch over links and addresses, and whether it rests.
    pub interfaces: &'a Interfaces,
    pub resting: bool,
    pub tun: Option<&'a Tun>,
    pub overlays: O,
}

/// What the last wait has found.
#[derive(Default)]
pub struct Readable {
    /// There are commands.
    pub wake: bool,
    /// Word of changed links or addresses.
    pub interfaces: bool,
    pub tun: bool,
    /// For how many turns in a row the interface was readable, and no read of theirs found nothing.
    pub tun_turns: u8,
    /// One for each overlay; who has none here may have anything.
    pub overlays: Vec<Ready>,
}

impl Readable {
    fn clear(&mut self, overlays: usize) {
        self.wake = false;
        self.interfaces = false;
        self.tun = false;
        self.overlays.clear();
        self.overlays.resize(overlays, Ready::NONE);
    }

    fn add(&mut self, token: u64) {
        match token {
            WAKE => self.wake = true,
            INTERFACES => self.interfaces = true,
            TUN => self.tun = true,
            _ => {
                let (overlay, index) = (token >> OVERLAY, token as u32);
                if let Some(ready) = self.overlays.get_mut(overlay as usize - 1) {
                    ready.add(index as usize, true);
                }
            }
        }
    }
}

/// The set as the kernel knows it.
pub struct Watch {
    set: WaitSet,
    spin: Spin,
    overlays: usize,
    resting: bool,
    /// The sum of [`Overlay::fds_changes`] that the set stands for; `None`: it is not complete.
    stands_for: Option<u64>,
}

impl Watch {
    /// To be filled with the first wait.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            set: WaitSet::new()?,
            spin: Spin::default(),
            overlays: 0,
            resting: false,
            stands_for: None,
        })
    }

    /// Until something is readable, or `timeout` has passed since `now`.
    pub fn wait<'a, O>(
        &mut self,
        watched: Watched<'a, O>,
        now: Instant,
        timeout: Option<Duration>,
        readable: &mut Readable,
    ) where
        O: Iterator<Item = &'a dyn Overlay> + Clone,
    {
        let changes = watched.overlays.clone().map(Overlay::fds_changes).sum();
        if self.stands_for != Some(changes) {
            match self.follow(&watched) {
                Ok(()) => self.stands_for = Some(changes),
                Err(error) => tracing::warn!(%error, "a socket is not heard"),
            }
        }
        if self.resting != watched.resting {
            let wanted = !watched.resting;
            match (self.set).set_watched(watched.interfaces, INTERFACES, wanted) {
                Ok(()) => self.resting = watched.resting,
                Err(error) => tracing::warn!(%error, "the watch over links"),
            }
        }
        let set = &mut self.set;
        let mut poll = |timeout| set.wait(timeout);
        if let Err(error) = self.spin.wait(&mut poll, now, timeout) {
            tracing::warn!(%error, "waiting for packets");
        }
        readable.clear(self.overlays);
        self.set.ready().for_each(|token| readable.add(token));
        readable.tun_turns = if readable.tun {
            readable.tun_turns.saturating_add(1)
        } else {
            0
        };
    }

    /// Makes the set anew: a descriptor may have been closed, and its number be another's by now.
    fn follow<'a, O>(&mut self, watched: &Watched<'a, O>) -> Result<(), Error>
    where
        O: Iterator<Item = &'a dyn Overlay> + Clone,
    {
        let failed = Error::io("cannot wait for a descriptor");
        let set = WaitSet::new()?;
        let mut result = set
            .watch(watched.wake, WAKE)
            .and_then(|()| set.watch(watched.interfaces, INTERFACES));
        if let Some(tun) = watched.tun {
            result = result.and_then(|()| set.watch(tun, TUN));
        }
        self.overlays = 0;
        for overlay in watched.overlays.clone() {
            self.overlays += 1;
            let mut token = (self.overlays as u64) << OVERLAY;
            overlay.fds(&mut |fd| {
                // Whoever can be heard shall be, even where one cannot.
                let watched = set.watch(fd.as_fd(), token);
                if result.is_ok() {
                    result = watched;
                }
                token += 1;
            });
        }
        self.set = set;
        self.resting = false;
        result.map_err(failed)
    }
}

//! A destination of this machine: its endpoint, the connection under it, and when that is made again.
use anode_i2cp::Now;
use anode_i2cp::client::{CloseReason, Phase};
use anode_i2cp::datagram::Kind;
use anode_i2cp::destination::Hash;
use anode_i2cp::endpoint::Endpoint;
use anode_i2cp::streaming;
use nix::sys::epoll::{Epoll, EpollEvent};
use std::io;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::config::{DestinationConfig, RouterConfig};
use super::link::{Link, Turn};
use super::ports::Ports;
use super::tls::Tls;

/// The pause after the first failure; it doubles up to [`LONGEST_PAUSE`], with up to a quarter more at random.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(320);
/// The longest while nobody listens on this machine: asking costs nothing, and who starts the router again does not wait
/// for minutes.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);

/// How a destination stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// A connection or its session is being made, or will be at a time that is known.
    Connecting,
    /// Reachable, and able to reach.
    Ready,
    /// Closed because nothing went in or out (I46); opened again by traffic.
    Idle,
    /// Given up, for this reason: only another configuration helps.
    Failed(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Life {
    /// There is a connection.
    Linked,
    /// There will be one.
    Waiting {
        until: Instant,
    },
    Idle,
    Failed(String),
}

pub(super) struct Local {
    pub(super) config: DestinationConfig,
    pub(super) hash: Hash,
    pub(super) address: Ipv6Addr,
    pub(super) endpoint: Endpoint,
    pub(super) ports: Ports,
    link: Option<Link>,
    life: Life,
    failures: u32,
    /// The router is on this machine, and nobody listens there.
    absent: bool,
    /// Its first connection is the one that the endpoint was made for.
    fresh: bool,
    pub(super) last_error: Option<String>,
    pub(super) sessions: u64,
}

/// What all destinations dial.
pub(super) struct Dialler {
    pub(super) router: RouterConfig,
    pub(super) tls: Option<Tls>,
    pub(super) epoll: Epoll,
}

impl Local {
    pub(super) fn new(
        config: DestinationConfig,
        dialler: &Dialler,
        seed: [u8; 32],
        now: Now,
    ) -> anode_i2cp::Result<Self> {
        let hash = config.keys.destination().hash();
        let endpoint = Endpoint::new(
            config.keys.clone(),
            config.options.clone(),
            dialler.router.credentials.as_ref(),
            streaming::Config::default(),
            seed,
            now,
        )?;
        Ok(Self {
            hash,
            address: hash.synthetic_address(),
            endpoint,
            ports: Ports::default(),
            link: None,
            life: Life::Waiting { until: now.instant },
            failures: 0,
            absent: false,
            fresh: true,
            last_error: None,
            sessions: 0,
            config,
        })
    }

    pub(super) fn is_ready(&mut self) -> bool {
        self.endpoint.client().phase() == Phase::Ready
    }

    pub(super) fn state(&mut self) -> State {
        if self.is_ready() {
            return State::Ready;
        }
        match &self.life {
            Life::Failed(why) => State::Failed(why.clone()),
            Life::Idle => State::Idle,
            Life::Linked | Life::Waiting { .. } => State::Connecting,
        }
    }

    /// Traffic wants it. False: it will not come back by itself.
    pub(super) fn wake(&mut self, now: Now) -> bool {
        match self.life {
            Life::Idle => {
                self.life = Life::Waiting { until: now.instant };
                true
            }
            Life::Failed(_) => false,
            // after a failure the program is told at once, and not when the pause is over
            Life::Waiting { until } => self.failures == 0 || until <= now.instant,
            Life::Linked => true,
        }
    }

    pub(super) fn kind_of(&self, local_port: u16, remote_port: u16) -> Kind {
        let of = |port| self.config.udp.get(&port).copied();
        of(remote_port)
            .or_else(|| of(local_port))
            .unwrap_or(Kind::Datagram1)
    }

    /// Reads the connection. Events of the endpoint follow.
    pub(super) fn receive(&mut self, now: Now) -> Result<Turn, io::Error> {
        match &mut self.link {
            Some(link) => link.receive(&mut self.endpoint, now),
            None => Ok(Turn::Drained),
        }
    }

    /// Writes what is ready, and waits for room where there is none.
    pub(super) fn transmit(&mut self, dialler: &Dialler, index: usize, now: Now) -> io::Result<()> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        link.transmit(&mut self.endpoint, now)?;
        let wanted = link.wanted();
        if wanted != link.interest {
            let mut event = EpollEvent::new(wanted, index as u64);
            dialler.epoll.modify(&*link, &mut event)?;
            link.interest = wanted;
        }
        Ok(())
    }

    /// Dials, if it is time to.
    pub(super) fn dial_if_due(&mut self, dialler: &Dialler, index: usize, now: Now) {
        match self.life {
            Life::Waiting { until } if until <= now.instant => {}
            _ => return,
        }
        if !self.fresh {
            let options = self.config.options.clone();
            let credentials = dialler.router.credentials.as_ref();
            // the same options and credentials were good once
            if let Err(error) = self.endpoint.restart(options, credentials, now) {
                self.life = Life::Failed(error.to_string());
                return;
            }
        }
        self.fresh = false;
        let dialled = Link::dial(&dialler.router.place, dialler.tls.as_ref()).and_then(|link| {
            let event = EpollEvent::new(link.interest, index as u64);
            dialler.epoll.add(&link, event)?;
            Ok(link)
        });
        match dialled {
            Ok(link) => {
                self.link = Some(link);
                self.life = Life::Linked;
            }
            Err(error) => {
                self.life = Life::Linked;
                self.lost(dialler, &error, now);
            }
        }
    }

    /// The connection is over without a word of the router. [`Self::ended`] follows as an event of the endpoint.
    pub(super) fn lost(&mut self, dialler: &Dialler, error: &io::Error, now: Now) {
        self.last_error = Some(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the router closed the connection".to_owned(),
            _ => error.to_string(),
        });
        let nobody = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        self.absent = dialler.router.place.is_local() && nobody.contains(&error.kind());
        self.unlink(dialler);
        self.endpoint.connection_lost(now);
    }

    fn unlink(&mut self, dialler: &Dialler) {
        if let Some(link) = self.link.take() {
            // the descriptor leaves the set by being closed as well
            let _ = dialler.epoll.delete(&link);
        }
    }

    /// The session is up.
    pub(super) fn established(&mut self) {
        self.failures = 0;
        self.last_error = None;
        self.sessions += 1;
    }

    /// The endpoint is closed for this reason: what comes next, and how long from now. `chance` is random.
    pub(super) fn ended(
        &mut self,
        dialler: &Dialler,
        reason: &CloseReason,
        chance: u32,
        now: Now,
    ) -> Option<Duration> {
        // the last words (Disconnect) go out as far as that needs no waiting
        if let Some(link) = &mut self.link {
            let _ = link.transmit(&mut self.endpoint, now);
        }
        self.unlink(dialler);
        if *reason == CloseReason::Idle {
            self.life = Life::Idle;
            return None;
        }
        if *reason != CloseReason::ConnectionLost || self.last_error.is_none() {
            self.last_error = Some(reason.to_string());
        }
        if reason.is_permanent() {
            self.life = Life::Failed(reason.to_string());
            return None;
        }
        let pause = pause(self.failures, std::mem::take(&mut self.absent), chance);
        self.failures = self.failures.saturating_add(1);
        self.life = Life::Waiting {
            until: now.instant + pause,
        };
        Some(pause)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.life {
            Life::Linked => self.endpoint.deadline(),
            Life::Waiting { until } => Some(until),
            Life::Idle | Life::Failed(_) => None,
        }
    }
}

/// How long until the next try, after so many failures in a row before this one.
fn pause(failures: u32, absent: bool, chance: u32) -> Duration {
    let longest = match absent {
        true => LONGEST_ABSENCE,
        false => LONGEST_PAUSE,
    };
    let pause = (FIRST_PAUSE * 2u32.saturating_pow(failures.min(16))).min(longest);
    pause + pause.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_that_is_near_where_nobody_listens() {
        let seconds = |absent| [0, 1, 2, 3, 4, 8, 9, 1000].map(|n| pause(n, absent, 0).as_secs());
        assert_eq!(seconds(false), [1, 2, 4, 8, 16, 256, 320, 320]);
        assert_eq!(seconds(true), [1, 2, 4, 8, 10, 10, 10, 10]);
        assert_eq!(pause(9, false, u32::MAX), Duration::from_secs(400));
    }
}

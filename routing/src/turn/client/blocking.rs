//! The client for a program that waits: a loop around [`TurnClient`], and nothing that it does not do (T37).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anode_turn::client::{Binding, Config, Event, Why};
use anode_turn::resolve::Server;
use anode_turn::rto::RtoConfig;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::TryRng as _;
use rand::rngs::SysRng;

use super::wire::Wire;
use super::{Check, Stage, TurnClient, WireError};

/// How long TCP and TLS may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The way to the server.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server's answer, or that there was none.
    #[error("{0}")]
    Ended(Why),
    /// The server does not let this peer in.
    #[error("the server refuses the peer {peer}: {code}{}", reason(*code))]
    PeerRefused {
        /// Which one.
        peer: IpAddr,
        /// Its code.
        code: u16,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    TooLong(Duration),
    /// Something of the system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a code means, for people.
fn reason(code: u16) -> &'static str {
    match code {
        403 => " Forbidden (its policy)",
        443 => " Peer Address Family Mismatch",
        508 => " Insufficient Capacity",
        _ => "",
    }
}

/// What an allocation brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// The relay's addresses.
    pub relayed: Vec<SocketAddr>,
    /// How the server sees us.
    pub mapped: Option<SocketAddr>,
}

/// A client that waits.
pub struct Blocking {
    turn: TurnClient,
    payloads: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// Waits until the wire has something, or a moment has come.
fn wait(fd: Option<(std::os::fd::BorrowedFd<'_>, bool)>, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout =
        PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
    let mut fds = fd.map(|(fd, writes)| {
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, writes);
        [PollFd::new(fd, flags)]
    });
    let fds: &mut [PollFd<'_>] = match &mut fds {
        Some(fds) => fds,
        None => &mut [],
    };
    match poll(fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects a wire until it is open; gives the time when TCP stood, if that came first.
fn open(wire: &mut Wire) -> Result<Option<Instant>, BlockingError> {
    let (until, mut connected) = (Instant::now() + CONNECT, None);
    loop {
        let now = Instant::now();
        let before = wire.stage();
        wire.work(now, &mut |_| {})?;
        if before == Stage::Connecting && wire.stage() != Stage::Connecting {
            connected = Some(now);
        }
        if wire.stage() == Stage::Open {
            return Ok(connected);
        }
        if now >= until {
            return Err(BlockingError::TooLong(CONNECT));
        }
        let next = wire.deadline().map_or(until, |at| at.min(until));
        wait(Some((wire.fd(), wire.wants_write())), next)?;
    }
}

/// How the connection to a server came about.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// How long TCP took; `None` over UDP.
    pub tcp: Option<Duration>,
    /// How long TLS or DTLS took; `None` without.
    pub secured: Option<Duration>,
    /// How the server sees us, and how long that took to learn.
    pub mapped: (SocketAddr, Duration),
}

/// Asks a server how it sees us, over a socket of its own.
///
/// # Errors
/// How far it came stands in the second half.
pub fn probe(
    server: &Server,
    rto: RtoConfig,
    check: Option<Check>,
) -> Result<Reached, (ProbeStep, BlockingError)> {
    let start = Instant::now();
    let stream = server.transport.is_stream();
    let first = if stream {
        ProbeStep::Connect
    } else {
        ProbeStep::Secure
    };
    let at = |step| move |error: BlockingError| (step, error);
    let mut wire = Wire::dial(start, server.address, server.transport, check)
        .map_err(|error| at(first)(error.into()))?;
    let connected = open(&mut wire).map_err(|error| match wire.stage() {
        Stage::Connecting => (ProbeStep::Connect, error),
        _ => (ProbeStep::Secure, error),
    })?;
    let opened = Instant::now();
    let mut id = [0; 12];
    SysRng
        .try_fill_bytes(&mut id)
        .map_err(|error| at(ProbeStep::Binding)(io::Error::other(error.to_string()).into()))?;
    let mut binding = Binding::new(opened, server.transport, rto, id);
    let mapped = bind(&mut wire, &mut binding).map_err(at(ProbeStep::Binding))?;
    wire.close(Instant::now());
    let tcp = connected.map(|at| at - start);
    Ok(Reached {
        tcp,
        secured: server
            .transport
            .is_secure()
            .then(|| opened - connected.unwrap_or(start)),
        mapped: (mapped, opened.elapsed()),
    })
}

/// The steps of [`probe`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeStep {
    /// TCP.
    Connect,
    /// TLS or DTLS; over plain UDP, that there is a way at all.
    Secure,
    /// The Binding request.
    Binding,
}

fn bind(wire: &mut Wire, binding: &mut Binding) -> Result<SocketAddr, BlockingError> {
    loop {
        let now = Instant::now();
        while let Some(bytes) = binding.poll_transmit() {
            wire.send(now, &[&bytes])?;
        }
        let mut answer = None;
        let worked = wire.work(now, &mut |message| {
            answer = answer.take().or_else(|| binding.handle(message));
        });
        if let Some(answer) = answer {
            return answer.map_err(BlockingError::Ended);
        }
        worked?;
        binding.handle_timeout(now).map_err(BlockingError::Ended)?;
        let next = wire
            .deadline()
            .map_or(binding.deadline(), |at| at.min(binding.deadline()));
        wait(Some((wire.fd(), wire.wants_write())), next)?;
    }
}

impl Blocking {
    /// Connects to a server and asks for an allocation; waits for it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn allocate(
        server: Server,
        config: Config,
        check: Option<Check>,
    ) -> Result<(Self, Allocated), BlockingError> {
        let turn = TurnClient::new(Instant::now(), server, config, check)?;
        let mut all = Self {
            turn,
            payloads: VecDeque::new(),
        };
        let until = Instant::now() + CONNECT;
        loop {
            // Once it is open, the requests have their own clock.
            let limit = (all.turn.stage() != Some(Stage::Open)).then_some(until);
            match all.next_event(limit)? {
                Some(Event::Allocated {
                    relayed, mapped, ..
                }) => {
                    return Ok((all, Allocated { relayed, mapped }));
                }
                Some(_) => {}
                None if limit.is_some_and(|until| until <= Instant::now()) => {
                    return Err(BlockingError::TooLong(CONNECT));
                }
                None => {}
            }
        }
    }

    /// The next event, or `None` when `until` has come or a payload has. The end of the allocation is an error.
    fn next_event(&mut self, until: Option<Instant>) -> Result<Option<Event>, BlockingError> {
        loop {
            let (now, before) = (Instant::now(), self.payloads.len());
            let payloads = &mut self.payloads;
            self.turn.work(now, &mut |peer, payload| {
                payloads.push_back((peer, payload.to_vec()))
            });
            match self.turn.poll_event() {
                Some(Event::Ended { why, .. }) => {
                    return Err(match self.turn.failure.take() {
                        Some(failure) => failure.into(),
                        None => BlockingError::Ended(why),
                    });
                }
                Some(event) => return Ok(Some(event)),
                None => {}
            }
            if self.payloads.len() > before || until.is_some_and(|until| until <= now) {
                return Ok(None);
            }
            let next = [self.turn.deadline(), until].into_iter().flatten().min();
            wait(self.turn.fd(), next.unwrap_or(now + CONNECT))?;
        }
    }

    /// Lets a peer in, over a channel or by a permission alone; waits until it is.
    ///
    /// # Errors
    /// That the server refuses, or why there is no allocation any more.
    pub fn admit(&mut self, peer: SocketAddr, channel: bool) -> Result<(), BlockingError> {
        let now = Instant::now();
        if channel {
            self.turn.bind(now, peer);
        } else {
            self.turn.permit(now, peer.ip());
        }
        loop {
            match self.next_event(None)? {
                Some(Event::Bound(bound)) if bound == peer => return Ok(()),
                Some(Event::Permitted(ip)) if !channel && ip == peer.ip() => return Ok(()),
                Some(Event::PeerRefused { peer, code }) => {
                    return Err(BlockingError::PeerRefused { peer, code });
                }
                _ => {}
            }
        }
    }

    /// Sends a payload; `false`: it is lost.
    pub fn send(&mut self, peer: SocketAddr, payload: &[u8]) -> bool {
        self.turn.send(Instant::now(), peer, payload)
    }

    /// Waits for a payload, until a moment.
    ///
    /// # Errors
    /// Why there is no allocation any more.
    pub fn receive(
        &mut self,
        until: Instant,
    ) -> Result<Option<(SocketAddr, Vec<u8>)>, BlockingError> {
        loop {
            if let Some(payload) = self.payloads.pop_front() {
                return Ok(Some(payload));
            }
            if self.next_event(Some(until))?.is_none() && self.payloads.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Gives the allocation back; waits for the server's word, but not for long.
    ///
    /// # Errors
    /// That the server does not confirm.
    pub fn close(mut self) -> Result<(), BlockingError> {
        self.turn.close(Instant::now());
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            match self.next_event(Some(until)) {
                Err(BlockingError::Ended(Why::Closed)) => return Ok(()),
                Err(error) => return Err(error),
                Ok(None) if Instant::now() >= until => {
                    return Err(BlockingError::Ended(Why::Silence));
                }
                Ok(_) => {}
            }
        }
    }
}

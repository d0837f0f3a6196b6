//! One connection: what it is about to become, what it carries, and when it has taken too long.
use super::http::{Body, Request};
use super::pipe::Pipe;
use crate::anode::{Place, Received};
use anode_wire::framing::FrameDecoder;
use nix::sys::epoll::EpollFlags;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A connection of ours must stand, TLS and all, within this time.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// One that came in must say what it is within this time.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// What was begun (a frame, a head, a body) must be complete within this time.
const COMPLETE_WITHIN: Duration = Duration::from_secs(15);
/// The other side takes nothing for so long: it is gone.
const STUCK_FOR: Duration = Duration::from_secs(15);
/// Nothing complete has come or gone for so long (D14).
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// The same for who only fetches files.
const IDLE_FETCHING: Duration = Duration::from_secs(15);
/// An answer to packets is due within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// An answer to a poll, which the other side holds for 20 s (D15).
const POLL_WITHIN: Duration = Duration::from_secs(35);

/// What a connection of ours does first, and then.
#[derive(Clone)]
pub(super) struct Plan {
    /// `host:port` that a proxy is asked for.
    pub through_proxy: Option<String>,
    pub tls: bool,
    pub errand: Errand,
}

/// What a connection of ours carries in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Errand {
    /// Frames, both ways.
    Frames,
    /// POSTs with packets.
    Post,
    /// POSTs without, which are answered when packets wait.
    Poll,
}

pub(super) enum Role {
    /// The kernel is connecting.
    Connecting(Plan),
    /// The proxy was asked, and its answer is not complete.
    AskingProxy {
        plan: Plan,
        answer: Vec<u8>,
    },
    /// It came in, and its first bytes do not say yet what it is.
    Sniffing(Vec<u8>),
    Framed(FrameDecoder),
    Serving(Serving),
    Asking(Asking),
}

/// HTTP from the side that answers.
#[derive(Default)]
pub(super) struct Serving {
    /// A head that is not complete.
    pub head: Vec<u8>,
    pub request: Option<Incoming>,
    /// Answers that are due, the first one first.
    pub owed: VecDeque<Owed>,
    /// No request is read any more: after the last answer it closes.
    pub last: bool,
}

/// A request whose body is coming.
pub(super) struct Incoming {
    pub request: Request,
    pub frames: FrameDecoder,
    /// It has brought packets: its answer does not wait.
    pub brought: bool,
}

pub(super) struct Owed {
    /// Answered then, whether packets wait or not.
    pub by: Instant,
    pub keep_alive: bool,
}

/// An answer whose body is coming.
pub(super) struct Answer {
    pub body: Body,
    pub frames: FrameDecoder,
    pub brought: bool,
}

/// HTTP from the side that asks.
pub(super) struct Asking {
    pub errand: Errand,
    /// A head that is not complete.
    pub head: Vec<u8>,
    pub answer: Option<Answer>,
    /// When each request went out whose answer is not complete.
    pub open: VecDeque<Instant>,
    /// The other side does not hold polls: none goes out before.
    pub pause: Option<Instant>,
}

impl Asking {
    pub fn new(errand: Errand) -> Self {
        Self {
            errand,
            head: Vec::new(),
            answer: None,
            open: VecDeque::new(),
            pause: None,
        }
    }
}

/// What goes out next.
#[derive(Default)]
pub(super) struct Output {
    pub bytes: Vec<u8>,
    head: usize,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }
}

pub(super) struct Conn {
    pub pipe: Pipe,
    /// The other end of the TCP connection; of a proxy, where there is one.
    pub peer: SocketAddr,
    /// Where its packets come from and go to, once that is known.
    pub place: Option<Place>,
    /// It came in: the network that it is charged to.
    pub network: Option<u64>,
    pub role: Role,
    pub output: Output,
    /// What epoll watches it for.
    pub interest: EpollFlags,
    pub opened: Instant,
    /// When something complete last came or went.
    pub active: Instant,
    /// Since when something has begun and not ended.
    pub unfinished: Option<Instant>,
    /// Since when output waits for the other side.
    pub stuck: Option<Instant>,
    /// Packets went out over it: somebody here cares about who is there.
    pub answered: bool,
    /// Something complete has come over it.
    pub brought: bool,
}

impl Conn {
    pub fn new(now: Instant, pipe: Pipe, peer: SocketAddr, role: Role) -> Self {
        Self {
            pipe,
            peer,
            place: None,
            network: None,
            role,
            output: Output::default(),
            interest: EpollFlags::empty(),
            opened: now,
            active: now,
            unfinished: None,
            stuck: None,
            answered: false,
            brought: false,
        }
    }

    /// When it has taken too long at what it is doing.
    pub fn due(&self) -> Instant {
        let patience = match &self.role {
            Role::Connecting(_) | Role::AskingProxy { .. } => return self.opened + READY_WITHIN,
            Role::Sniffing(_) => return self.opened + FIRST_BYTES,
            Role::Asking(asking) => {
                let within = match asking.errand {
                    Errand::Poll => POLL_WITHIN,
                    _ => ANSWER_WITHIN,
                };
                let answer = asking.open.front().map(|at| *at + within);
                let patience = answer.unwrap_or(self.active + IDLE);
                asking.pause.map_or(patience, |at| patience.min(at))
            }
            Role::Framed(_) => self.active + IDLE,
            Role::Serving(serving) => match serving.owed.front() {
                Some(owed) => owed.by,
                None if self.place.is_none() => self.active + IDLE_FETCHING,
                None => self.active + IDLE,
            },
        };
        let unfinished = self.unfinished.map(|at| at + COMPLETE_WITHIN);
        let stuck = self.stuck.map(|at| at + STUCK_FOR);
        [Some(patience), unfinished, stuck]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(patience)
    }

    /// Writes what waits. True: nothing is left.
    pub fn write(&mut self, now: Instant) -> io::Result<bool> {
        self.pipe.flush_tls()?;
        while !self.output.is_empty() {
            match self.pipe.write(&self.output.bytes[self.output.head..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.output.head += len;
                    self.stuck = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck.get_or_insert(now);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.bytes.clear();
        self.output.head = 0;
        if self.pipe.wants_write() {
            self.stuck.get_or_insert(now);
        } else {
            self.stuck = None;
        }
        Ok(true)
    }

    /// What it waits for.
    pub fn wanted(&self) -> EpollFlags {
        let connecting = matches!(self.role, Role::Connecting(_));
        let mut wanted = EpollFlags::empty();
        if connecting || !self.output.is_empty() || self.pipe.wants_write() {
            wanted |= EpollFlags::EPOLLOUT;
        }
        // Who does not take what was asked for may not ask for more.
        let serving_much = matches!(self.role, Role::Serving(_)) && !self.output.is_empty();
        if !connecting && !serving_much {
            wanted |= EpollFlags::EPOLLIN;
        }
        wanted
    }
}

/// Packets that came together and have one length lie one behind the other, as the system joins datagrams (GRO).
#[derive(Default)]
pub(super) struct Group {
    bytes: Vec<u8>,
    size: usize,
}

/// Bytes of a group at most.
const MAX_GROUP: usize = 60_000;

impl Group {
    /// Takes a packet; what was taken before is handed on where this one does not fit behind it.
    pub fn push(
        &mut self,
        place: Place,
        socket: usize,
        packet: &[u8],
        each: &mut dyn FnMut(Received<'_>),
    ) {
        let open = !self.bytes.is_empty() && self.bytes.len().is_multiple_of(self.size);
        if !open || packet.len() > self.size || self.bytes.len() + packet.len() > MAX_GROUP {
            self.hand_on(place, socket, each);
            self.size = packet.len();
        }
        self.bytes.extend_from_slice(packet);
    }

    /// Hands on what was taken.
    pub fn hand_on(&mut self, place: Place, socket: usize, each: &mut dyn FnMut(Received<'_>)) {
        if self.bytes.is_empty() {
            return;
        }
        each(Received {
            from: place,
            socket,
            local_ip: None,
            ecn: crate::anode::Ecn::NotCapable,
            bytes: &mut self.bytes,
            segment_size: self.size,
        });
        self.bytes.clear();
    }
}

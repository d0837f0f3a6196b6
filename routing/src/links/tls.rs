//! One TLS connection: RELOAD messages back to back, each tells its length (R9).

use super::secret::{LinkSecurity, SecurityError};
use super::{HANDSHAKE, LinkEvent, LinkKey, LinkTransport, Made, Target};
use crate::ice::Handed;
use crate::net::streams::pipe::Pipe;
use anode_reload::Id;
use anode_reload::header::framed_len;
use nix::poll::{PollFd, PollFlags};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Bytes that wait to be sent.
const MAX_WAITING: usize = 256 << 10;
/// Bytes of a message (R20 allows 16 MiB, RD58's default is this).
const MAX_MESSAGE: usize = 65_535;
/// Bytes that are read in one turn.
const TURN: usize = 128 << 10;
/// Asked after 15 s of silence, three times: the kernel does what STUN does over UDP (RD73).
const ASK_AFTER: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Handshake,
    Up,
}

/// See the module.
pub(super) struct Stream {
    pub key: LinkKey,
    pub made: Made,
    pub since: Instant,
    at: SocketAddr,
    pipe: Pipe,
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    buffer: Vec<u8>,
}

impl Stream {
    pub fn dial(
        now: Instant,
        key: LinkKey,
        to: SocketAddr,
        security: &LinkSecurity,
    ) -> Result<Self, SecurityError> {
        // What cannot be secured is not begun.
        security.connect_tls(to.ip())?;
        let pipe = Pipe::dial(to)?;
        let made = Made::Dialled(Target::Tls(to));
        Ok(Self::new(now, key, to, made, pipe, Stage::Connecting))
    }

    pub fn accept(
        now: Instant,
        key: LinkKey,
        handed: Handed,
        security: &LinkSecurity,
    ) -> Result<Self, SecurityError> {
        let mut pipe = Pipe::new(handed.socket)?;
        pipe.start_tls(security.accept_tls()?, handed.early);
        let (at, made) = (handed.from, Made::Accepted);
        Ok(Self::new(now, key, at, made, pipe, Stage::Handshake))
    }

    fn new(
        now: Instant,
        key: LinkKey,
        at: SocketAddr,
        made: Made,
        pipe: Pipe,
        stage: Stage,
    ) -> Self {
        let keepalive = TcpKeepalive::new()
            .with_time(ASK_AFTER)
            .with_interval(ASK_AFTER)
            .with_retries(2);
        let socket = pipe.as_fd();
        let socket = SockRef::from(&socket);
        // A system without them finds out later.
        let _ = socket.set_tcp_keepalive(&keepalive);
        let _ = socket.set_tcp_user_timeout(Some(ASK_AFTER * 3));
        Self {
            key,
            made,
            since: now,
            at,
            pipe,
            stage,
            input: Vec::new(),
            output: Vec::new(),
            buffer: vec![0; 16 << 10],
        }
    }

    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub fn is_half_open(&self) -> bool {
        self.stage != Stage::Up && self.made == Made::Accepted
    }

    pub fn deadline(&self) -> Option<Instant> {
        (self.stage != Stage::Up).then(|| self.since + HANDSHAKE)
    }

    pub fn fd(&self) -> PollFd<'_> {
        let waits = !self.output.is_empty() && self.stage == Stage::Up;
        let write = self.stage == Stage::Connecting || waits || self.pipe.wants_write();
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, write);
        PollFd::new(self.pipe.as_fd(), flags)
    }

    /// False: there is no room for it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        if self.output.len() + bytes.len() > MAX_WAITING || bytes.len() > MAX_MESSAGE {
            return false;
        }
        self.output.extend_from_slice(bytes);
        // What breaks it, the next turn will find.
        let _ = self.flush();
        true
    }

    pub fn close(mut self) {
        let _ = self.flush();
        self.pipe.close();
    }

    /// Takes and gives what there is. An error ends it, in words for people.
    pub fn work(
        &mut self,
        now: Instant,
        security: &LinkSecurity,
        event: &mut dyn FnMut(LinkEvent),
    ) -> Result<(), String> {
        if self.deadline().is_some_and(|at| at <= now) {
            return Err("no answer, or none that fits".to_owned());
        }
        if self.stage == Stage::Connecting {
            if !self.pipe.is_connected().map_err(text)? {
                return Ok(());
            }
            let tls = security.connect_tls(self.at.ip());
            let tls = tls.map_err(|error| error.to_string())?;
            self.pipe.start_tls(tls, Vec::new());
            self.pipe.flush_tls().map_err(text)?;
            self.stage = Stage::Handshake;
        }
        let mut taken = 0;
        let mut ended = None;
        while taken < TURN {
            match self.pipe.read(&mut self.buffer) {
                Ok(0) => {
                    ended = Some("the peer has ended it".to_owned());
                    break;
                }
                Ok(length) => {
                    taken += length;
                    self.input.extend_from_slice(&self.buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    ended = Some(text(error));
                    break;
                }
            }
            // Before all that was announced is here, nothing of it is looked at.
            if self.stage == Stage::Up {
                self.cut(event)?;
            }
        }
        if self.stage == Stage::Handshake && self.pipe.is_tls() && !self.pipe.is_handshaking() {
            let peer = self.peer(security)?;
            self.stage = Stage::Up;
            event(LinkEvent::Up {
                link: self.key,
                peer: Some(peer),
                made: self.made,
                transport: LinkTransport::Tls,
                at: self.at,
                listens: match self.made {
                    Made::Dialled(target) => Some(target),
                    Made::Connected(_) | Made::Accepted => None,
                },
            });
            self.cut(event)?;
        }
        if let Some(why) = ended {
            return Err(why);
        }
        if self.stage == Stage::Up {
            self.flush().map_err(text)?;
        }
        Ok(())
    }

    /// The certificate was believed in the handshake; it is read once more for whose it is.
    fn peer(&self, security: &LinkSecurity) -> Result<Id, String> {
        let leaf = self.pipe.peer_certificate();
        let leaf = leaf.ok_or_else(|| "the peer shows no certificate".to_owned())?;
        security.check(leaf).map_err(|error| error.to_string())
    }

    fn cut(&mut self, event: &mut dyn FnMut(LinkEvent)) -> Result<(), String> {
        let mut at = 0;
        let length = |rest: &[u8]| framed_len(rest, MAX_MESSAGE).map_err(|e| e.to_string());
        while let Some(length) = length(&self.input[at..])? {
            let Some(whole) = self.input.get(at..at + length) else {
                break;
            };
            event(LinkEvent::Message {
                link: self.key,
                bytes: whole.to_vec(),
            });
            at += length;
        }
        self.input.drain(..at);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.stage != Stage::Up {
            return Ok(());
        }
        while !self.output.is_empty() {
            match self.pipe.write(&self.output) {
                Ok(taken) => drop(self.output.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pipe.flush_tls()
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

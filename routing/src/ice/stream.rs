//! A TCP connection of ICE: messages in frames of RFC 4571, a length of two bytes before each.

use super::Path;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Bytes that wait to be sent; more frames are lost, as datagrams are.
const MAX_WAITING: usize = 64 << 10;
/// Bytes that are read in one turn.
const TURN: usize = 64 << 10;
/// How long a connection may take to stand, and how long a stranger's may say nothing that proves it.
pub(super) const UNPROVEN: Duration = Duration::from_secs(10);
/// What TLS begins with: a handshake record. As the length of a frame it would be longer than any first check.
const TLS: [u8; 2] = [0x16, 0x03];

/// What a stranger's connection turns out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Speaks {
    /// Not enough was said.
    Nothing,
    Frames,
    Tls,
}

pub(super) struct Stream {
    socket: TcpStream,
    pub path: Path,
    connecting: bool,
    /// A check has come over it that fitted; or we have opened it.
    pub proven: bool,
    pub since: Instant,
    pub speaks: Speaks,
    input: Vec<u8>,
    output: VecDeque<u8>,
    pub lost: u64,
}

impl Stream {
    pub fn accepted(now: Instant, socket: TcpStream, path: Path) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::new(now, socket, path, false))
    }

    fn new(now: Instant, socket: TcpStream, path: Path, ours: bool) -> Self {
        Self {
            socket,
            path,
            connecting: ours,
            proven: ours,
            since: now,
            speaks: if ours {
                Speaks::Frames
            } else {
                Speaks::Nothing
            },
            input: Vec::new(),
            output: VecDeque::new(),
            lost: 0,
        }
    }

    /// Opens one from the address of `path.local`, at any port.
    pub fn dial(now: Instant, path: Path) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(path.remote),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SockAddr::from(SocketAddr::new(path.local.ip(), 0)))?;
        match socket.connect(&path.remote.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            other => other?,
        }
        Ok(Self::new(now, socket.into(), path, true))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn wants_write(&self) -> bool {
        self.connecting || !self.output.is_empty()
    }

    /// When it is given up, unless it proves to be of use.
    pub fn deadline(&self) -> Option<Instant> {
        (self.connecting || !self.proven).then(|| self.since + UNPROVEN)
    }

    /// Sends a message, or loses it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let fits = u16::try_from(bytes.len());
        let (Ok(length), true) = (fits, self.output.len() + bytes.len() < MAX_WAITING) else {
            self.lost += 1;
            return false;
        };
        self.output.extend(length.to_be_bytes());
        self.output.extend(bytes);
        true
    }

    /// Takes and gives what the socket has and takes; whole messages go to `message`.
    ///
    /// # Errors
    /// It is over.
    pub fn work(&mut self, buffer: &mut [u8], message: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if self.connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            if self.socket.peer_addr().is_err() {
                return Ok(());
            }
            self.connecting = false;
        }
        self.flush()?;
        let mut taken = 0;
        while taken < TURN && self.speaks != Speaks::Tls {
            // Whose kind is not known is read no further than needed to know it: TLS is another's business.
            let room = if self.speaks == Speaks::Nothing {
                2
            } else {
                buffer.len()
            };
            match self.socket.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    taken += length;
                    self.input.extend_from_slice(&buffer[..length]);
                    self.cut(message);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut(&mut self, message: &mut dyn FnMut(&[u8])) {
        if self.speaks == Speaks::Nothing {
            self.speaks = match self.input.first_chunk() {
                None => return,
                Some(&TLS) => Speaks::Tls,
                Some(_) => Speaks::Frames,
            };
        }
        if self.speaks == Speaks::Tls {
            return;
        }
        let mut at = 0;
        while let Some((length, rest)) = self.input[at..].split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(whole) = rest.get(..length) else {
                break;
            };
            message(whole);
            at += 2 + length;
        }
        self.input.drain(..at);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.socket.write(front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => drop(self.output.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The socket, and what was read from it.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.input)
    }
}

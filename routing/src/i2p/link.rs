//! The connection to the router: TCP or Unix socket, with TLS or without. Nothing here blocks.
use anode_i2cp::Now;
use anode_i2cp::endpoint::Endpoint;
use nix::sys::epoll::EpollFlags;
use rustls::ClientConnection;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use zeroize::Zeroizing;

use super::config::RouterPlace;
use super::tls::Tls;

/// Bytes taken from the socket at once.
const READ: usize = 64 << 10;
/// Reads before others have their turn.
const TURNS: usize = 4;
/// Bytes gathered for one write.
const WRITE: usize = 64 << 10;
/// Plain bytes that TLS holds while the socket takes none.
const TLS_BUFFER: usize = 128 << 10;

/// How far a turn came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// The socket has no more for now.
    Drained,
    /// More may be waiting.
    More,
}

pub(super) struct Link {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    connected: bool,
    /// What the socket has not taken yet, from `sent` on; wiped, because lease sets carry keys.
    out: Zeroizing<Vec<u8>>,
    sent: usize,
    blocked: bool,
    pub(super) interest: EpollFlags,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link {
    /// Starts to connect; the socket turns writable when that has ended.
    pub(super) fn dial(to: &RouterPlace, tls: Option<&Tls>) -> io::Result<Self> {
        let (socket, address) = match to {
            RouterPlace::Tcp(to) => {
                let socket =
                    Socket::new(Domain::for_address(*to), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_tcp_nodelay(true)?;
                (socket, SockAddr::from(*to))
            }
            RouterPlace::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                (socket, SockAddr::unix(path)?)
            }
        };
        socket.set_nonblocking(true)?;
        let connected = match socket.connect(&address) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => false,
            Err(error) => return Err(error),
        };
        let tls = match tls {
            Some(tls) => {
                let mut connection = tls.connect(to).map_err(io::Error::other)?;
                connection.set_buffer_limit(Some(TLS_BUFFER));
                Some(Box::new(connection))
            }
            None => None,
        };
        Ok(Self {
            socket,
            tls,
            connected,
            out: Zeroizing::new(Vec::with_capacity(WRITE)),
            sent: 0,
            blocked: false,
            interest: EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        })
    }

    /// What is to be waited for.
    pub(super) fn wanted(&self) -> EpollFlags {
        let waits = !self.connected
            || self.blocked
            || self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        match waits {
            true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            false => EpollFlags::EPOLLIN,
        }
    }

    /// Carries what has come to the endpoint.
    ///
    /// # Errors
    /// The connection is over; an end in order is [`io::ErrorKind::UnexpectedEof`].
    pub(super) fn receive(&mut self, endpoint: &mut Endpoint, now: Now) -> io::Result<Turn> {
        if !self.is_connected()? {
            return Ok(Turn::Drained);
        }
        let mut buffer = [0; READ];
        for _ in 0..TURNS {
            match self.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => endpoint.received(&buffer[..count], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Turn::Drained);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::More)
    }

    /// Carries what the endpoint has to send, as far as the socket takes it; the rest stays there.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn transmit(&mut self, endpoint: &mut Endpoint, now: Now) -> io::Result<()> {
        if !self.is_connected()? {
            return Ok(());
        }
        self.blocked = false;
        loop {
            while self.out.len() < WRITE
                && let Some(bytes) = endpoint.poll_transmit(now)
            {
                self.out.extend_from_slice(&bytes);
            }
            if self.out.is_empty() {
                return self.flush_tls();
            }
            match self.write() {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
            }
        }
    }

    fn is_connected(&mut self) -> io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            self.connected = self.socket.peer_addr().is_ok();
        }
        Ok(self.connected)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(tls) = &mut self.tls else {
                return (&self.socket).read(buffer);
            };
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut &self.socket)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // handshake messages, or the alert that says what was wrong
            let flushed = self.flush_tls();
            processed.map_err(io::Error::other)?;
            flushed?;
        }
    }

    fn write(&mut self) -> io::Result<usize> {
        let bytes = &self.out[self.sent..];
        let Some(tls) = &mut self.tls else {
            return (&self.socket).write(bytes);
        };
        let taken = tls.writer().write(bytes)?;
        self.flush_tls()?;
        match taken {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.wants_write() {
            match tls.write_tls(&mut &self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

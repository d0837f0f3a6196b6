//! The bytes of one connection, in TLS or bare. Nothing here blocks.
use rustls::Connection;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes that the kernel holds beyond what it has sent: packets are datagrams, and what waits there cannot be dropped.
const NOT_SENT: u32 = 64 << 10;

pub(crate) struct Pipe {
    raw: Raw,
    tls: Option<Box<Connection>>,
}

/// The socket, and what was read from it too early.
struct Raw {
    socket: TcpStream,
    early: Vec<u8>,
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            return self.socket.read(buffer);
        }
        let len = self.early.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.early[..len]);
        self.early.drain(..len);
        Ok(len)
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.socket.as_fd()
    }
}

impl Pipe {
    /// A connection that was accepted.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        tune(&Socket::from(socket.try_clone()?))?;
        Ok(Self {
            raw: Raw {
                socket,
                early: Vec::new(),
            },
            tls: None,
        })
    }

    /// Starts to connect; the socket turns writable when that has ended.
    pub fn dial(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        tune(&socket)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            other => other?,
        }
        Ok(Self {
            raw: Raw {
                socket: socket.into(),
                early: Vec::new(),
            },
            tls: None,
        })
    }

    /// Whether the connection stands; an error says why it never will.
    pub fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.raw.socket.take_error()? {
            return Err(error);
        }
        Ok(self.raw.socket.peer_addr().is_ok())
    }

    /// Whether TLS is still being agreed on.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the other side has shown, once TLS is agreed on.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = self.tls.as_ref()?.peer_certificates()?;
        chain.first().map(|leaf| leaf.as_ref())
    }

    /// What was agreed on beside TLS itself (RFC 7301).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn_protocol()
    }

    /// The own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.raw.socket.local_addr()
    }

    /// From here on all is TLS. `early`: bytes of it that were read already.
    pub fn start_tls(&mut self, connection: Box<Connection>, early: Vec<u8>) {
        self.raw.early = early;
        self.tls = Some(connection);
    }

    /// Plain bytes. 0: the other side has ended.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(tls) = &mut self.tls else {
                return self.raw.read(buffer);
            };
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.raw)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // Handshake messages, or the alert that says what was wrong.
            let flushed = self.flush_tls();
            processed.map_err(io::Error::other)?;
            flushed?;
        }
    }

    /// Takes plain bytes as far as there is room.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.write_record(bytes);
        self.flush_tls()?;
        taken
    }

    /// The same, but TLS keeps what it has made of them until [`Self::flush_tls`]: a record of their own, where they fit
    /// into one.
    pub fn write_record(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.raw.socket.write(bytes);
        };
        let taken = tls.writer().write(bytes)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Whether TLS has bytes of its own that the socket did not take.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Hands to the socket what TLS has for it.
    pub fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.wants_write() {
            match tls.write_tls(&mut self.raw.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says goodbye as far as that goes without waiting.
    pub fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = self.flush_tls();
        }
        let _ = self.raw.socket.shutdown(Shutdown::Write);
    }
}

fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // A kernel that does not know it has longer queues.
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT);
    Ok(())
}

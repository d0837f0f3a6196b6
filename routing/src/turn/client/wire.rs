//! What a client's messages travel in: UDP, TCP, TLS or DTLS. Nothing here waits.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use anode_turn::frame::Deframer;
use anode_turn::{Transport, TurnError};
use dimpl::{Dtls, Output};

use crate::net::streams::pipe::Pipe;
use crate::turn::certificate::{Authorities, CertificateError, Name, connect_dtls};

/// The largest message: a STUN header and 65,535 bytes.
const MESSAGE: usize = 65_556;
/// Bytes that wait for a stream: more are lost, or end it if they are no payload.
const WAITING: usize = 256 << 10;
/// Datagrams or reads in one turn.
const TURN: usize = 64;

/// Why a wire does not stand, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It has ended.
    #[error("the server has ended the connection")]
    Ended,
    /// It has broken.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// TLS says why, such as a certificate for another name.
    #[error("TLS: {0}")]
    Tls(String),
    /// DTLS says why.
    #[error("DTLS: {0}")]
    Dtls(String),
    /// The certificate is not believed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The stream carries something else.
    #[error(transparent)]
    Framing(#[from] TurnError),
    /// An ICMP error: nothing listens there (T34).
    #[error("nothing listens at the server's address")]
    Refused,
    /// TLS or DTLS wants to know whom to believe.
    #[error("there is nothing to check the server's certificate by")]
    NoName,
}

/// What a server's certificate is checked by.
#[derive(Clone)]
pub struct Check {
    /// Whom we believe.
    pub authorities: Authorities,
    /// What it must be good for.
    pub name: Name,
}

/// How far a wire has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// TCP is being connected.
    Connecting,
    /// TLS or DTLS is being agreed on.
    Handshaking,
    /// Messages can be sent.
    Open,
}

pub(super) struct Wire {
    form: Form,
    stage: Stage,
    read: Vec<u8>,
}

enum Form {
    Udp(UdpSocket),
    Stream(Box<Stream>),
    Dtls(Box<Secured>),
}

struct Stream {
    pipe: Pipe,
    check: Option<Check>,
    deframer: Deframer,
    output: Vec<u8>,
}

struct Secured {
    socket: UdpSocket,
    dtls: Dtls,
    check: Check,
    verified: bool,
    deadline: Instant,
    record: Vec<u8>,
}

impl Wire {
    /// Starts to connect. TLS and DTLS need `check`.
    pub fn dial(
        now: Instant,
        server: SocketAddr,
        transport: Transport,
        check: Option<Check>,
    ) -> Result<Self, WireError> {
        if transport.is_secure() && check.is_none() {
            return Err(WireError::NoName);
        }
        let (form, stage) = match (transport, check) {
            (Transport::Dtls, Some(check)) => {
                let secured = Secured {
                    socket: udp(server)?,
                    dtls: connect_dtls(now)?,
                    check,
                    verified: false,
                    deadline: now,
                    record: vec![0; MESSAGE],
                };
                (Form::Dtls(Box::new(secured)), Stage::Handshaking)
            }
            (Transport::Udp | Transport::Dtls, _) => (Form::Udp(udp(server)?), Stage::Open),
            (Transport::Tcp | Transport::Tls, check) => {
                let stream = Stream {
                    pipe: Pipe::dial(server).map_err(WireError::Connect)?,
                    check,
                    deframer: Deframer::new(MESSAGE),
                    output: Vec::new(),
                };
                (Form::Stream(Box::new(stream)), Stage::Connecting)
            }
        };
        Ok(Self {
            form,
            stage,
            read: vec![0; MESSAGE],
        })
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.form {
            Form::Udp(socket) => socket.as_fd(),
            Form::Dtls(secured) => secured.socket.as_fd(),
            Form::Stream(stream) => stream.pipe.as_fd(),
        }
    }

    /// Whether it waits to write, beside to read.
    pub fn wants_write(&self) -> bool {
        match &self.form {
            Form::Stream(stream) => {
                self.stage == Stage::Connecting
                    || !stream.output.is_empty()
                    || stream.pipe.wants_write()
            }
            _ => false,
        }
    }

    /// When [`Wire::work`] wants to be called although nothing came.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.form {
            Form::Dtls(secured) => Some(secured.deadline),
            _ => None,
        }
    }

    /// Does what is due, and reads nothing.
    pub fn tick(&mut self, now: Instant) -> Result<(), WireError> {
        match &mut self.form {
            Form::Dtls(secured) if secured.deadline <= now => {
                secured.dtls.handle_timeout(now).map_err(dtls_error)?;
                secured.drain(now, &mut self.stage, &mut |_| {})
            }
            _ => Ok(()),
        }
    }

    /// Takes what has come, and hands the messages out.
    pub fn work(&mut self, now: Instant, message: &mut dyn FnMut(&[u8])) -> Result<(), WireError> {
        match &mut self.form {
            Form::Udp(socket) => {
                for _ in 0..TURN {
                    match datagram(socket, &mut self.read)? {
                        Some(length) => message(&self.read[..length]),
                        None => break,
                    }
                }
                Ok(())
            }
            Form::Stream(stream) => stream.work(&mut self.stage, &mut self.read, message),
            Form::Dtls(secured) => secured.work(now, &mut self.stage, &mut self.read, message),
        }
    }

    /// Sends one message, made of these parts. `false`: it was payload and there is no room.
    pub fn send(&mut self, now: Instant, parts: &[&[u8]]) -> Result<bool, WireError> {
        match &mut self.form {
            Form::Udp(socket) => {
                let bytes = parts.concat();
                Ok(sent(socket.send(&bytes))?)
            }
            Form::Stream(stream) => {
                let length: usize = parts.iter().map(|part| part.len()).sum();
                if stream.output.len() + length > WAITING {
                    return Ok(false);
                }
                parts
                    .iter()
                    .for_each(|part| stream.output.extend_from_slice(part));
                if self.stage == Stage::Open {
                    stream.flush()?;
                }
                Ok(true)
            }
            Form::Dtls(secured) => {
                let dtls = &mut secured.dtls;
                dtls.handle_timeout(now).map_err(dtls_error)?;
                dtls.send_application_data(&parts.concat())
                    .map_err(dtls_error)?;
                // A message that comes just now is one of the next turn's.
                secured.drain(now, &mut self.stage, &mut |_| {})?;
                Ok(true)
            }
        }
    }

    /// Says goodbye where that is usual.
    pub fn close(self, now: Instant) {
        match self.form {
            Form::Udp(_) => {}
            Form::Stream(mut stream) => {
                let _ = stream.flush();
                stream.pipe.close();
            }
            Form::Dtls(mut secured) => {
                if secured.dtls.close().is_ok() {
                    let mut stage = self.stage;
                    let _ = secured.drain(now, &mut stage, &mut |_| {});
                }
            }
        }
    }
}

fn udp(server: SocketAddr) -> Result<UdpSocket, WireError> {
    let any: std::net::IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let open = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        // The kernel lets through what comes from the server alone, and tells of a closed port.
        socket.connect(server)?;
        Ok(socket)
    };
    open().map_err(WireError::Connect)
}

/// One datagram, if there is one. Soft ICMP errors say nothing that silence would not say (RFC 1122 §4.2.3.9).
fn datagram(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>, WireError> {
    match socket.recv(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(WireError::Refused),
        Err(_) => Ok(None),
    }
}

fn sent(result: io::Result<usize>) -> Result<bool, WireError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(WireError::Refused),
        // The loss of that datagram.
        Err(_) => Ok(false),
    }
}

fn dtls_error(error: dimpl::Error) -> WireError {
    WireError::Dtls(error.to_string())
}

/// TLS's own errors come wrapped as those of a socket.
fn pipe_error(error: io::Error) -> WireError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(tls) => WireError::Tls(tls.to_string()),
        None => WireError::Io(error),
    }
}

impl Stream {
    fn work(
        &mut self,
        stage: &mut Stage,
        buffer: &mut [u8],
        message: &mut dyn FnMut(&[u8]),
    ) -> Result<(), WireError> {
        if *stage == Stage::Connecting {
            if !self.pipe.is_connected().map_err(WireError::Connect)? {
                return Ok(());
            }
            *stage = Stage::Open;
            if let Some(check) = self.check.take() {
                let tls = check.authorities.connect_tls(&check.name);
                let tls = tls.map_err(|error| WireError::Tls(error.to_string()))?;
                self.pipe.start_tls(tls, Vec::new());
                self.pipe.flush_tls()?;
                *stage = Stage::Handshaking;
            }
        }
        let mut closed = None;
        for _ in 0..TURN {
            let room = self.deframer.room().min(buffer.len());
            match self.pipe.read(&mut buffer[..room]) {
                Ok(0) => {
                    closed = Some(WireError::Ended);
                    break;
                }
                Ok(length) => {
                    self.deframer.push(&buffer[..length]);
                    while let Some(whole) = self.deframer.next_message()? {
                        message(whole);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    closed = Some(pipe_error(error));
                    break;
                }
            }
        }
        if let Some(error) = closed {
            return Err(error);
        }
        if *stage == Stage::Handshaking && !self.pipe.is_handshaking() {
            *stage = Stage::Open;
        }
        if *stage == Stage::Open {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WireError> {
        while !self.output.is_empty() {
            match self.pipe.write(&self.output) {
                Ok(taken) => drop(self.output.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(pipe_error(error)),
            }
        }
        Ok(self.pipe.flush_tls()?)
    }
}

impl Secured {
    fn work(
        &mut self,
        now: Instant,
        stage: &mut Stage,
        buffer: &mut [u8],
        message: &mut dyn FnMut(&[u8]),
    ) -> Result<(), WireError> {
        self.dtls.handle_timeout(now).map_err(dtls_error)?;
        self.drain(now, stage, message)?;
        for _ in 0..TURN {
            let Some(length) = datagram(&self.socket, buffer)? else {
                break;
            };
            self.dtls
                .handle_packet(&buffer[..length])
                .map_err(dtls_error)?;
            self.drain(now, stage, message)?;
        }
        Ok(())
    }

    fn drain(
        &mut self,
        now: Instant,
        stage: &mut Stage,
        message: &mut dyn FnMut(&[u8]),
    ) -> Result<(), WireError> {
        loop {
            match self.dtls.poll_output(&mut self.record) {
                Output::Packet(bytes) => {
                    sent(self.socket.send(bytes))?;
                }
                Output::PeerCert(leaf) => {
                    let checked = self.check.authorities.verify_leaf(leaf, &self.check.name);
                    checked.map_err(|error| WireError::Dtls(error.to_string()))?;
                    self.verified = true;
                }
                Output::Connected if self.verified => *stage = Stage::Open,
                Output::Connected => {
                    return Err(WireError::Dtls("the server shows no certificate".into()));
                }
                Output::ApplicationData(bytes) if *stage == Stage::Open => message(bytes),
                Output::CloseNotify => return Err(WireError::Ended),
                Output::BufferTooSmall { needed } => self.record.resize(needed, 0),
                Output::Timeout(at) => {
                    self.deadline = at.max(now + std::time::Duration::from_millis(1));
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

//! TCP and TLS connections of clients.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anode_turn::Transport;
use anode_turn::frame::Deframer;
use anode_turn::server::{ConnectionId, FiveTuple};
use nix::sys::epoll::Epoll;

use super::connections::{Connection, Connections, SLOW};
use super::take_one;
use super::token::Token;
use crate::anode::source_prefix;
use crate::net::streams::pipe::Pipe;
use crate::turn::certificate::ServerCertificate;

/// The largest message: a STUN header and 65,535 bytes.
const MESSAGE: usize = 65_556;
/// Bytes that wait for a client; datagrams beyond are lost, as they would be in a router.
const WAITING: usize = 256 << 10;
/// Answers beyond these end the connection: its client does not read.
const PATIENCE: usize = 2 * WAITING;
/// Connections of all shards.
const STREAMS: usize = 16_384;
/// Of one source, an IPv4 address or an IPv6 /64: data connections of RFC 6062 count too.
const STREAMS_OF_ONE: usize = 1024;
/// A connection that carries no allocation is not kept longer than this.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// What a connection carries.
pub(super) enum Carries {
    /// Messages.
    Messages(Deframer),
    /// A peer's bytes, from the ConnectionBind on (RFC 6062).
    Peer(ConnectionId),
}

/// A client's connection.
pub(super) struct Stream {
    pub five: FiveTuple,
    pub carries: Carries,
    heard: bool,
    network: u64,
    opened: Instant,
}

pub(super) struct Streams {
    pub all: Connections<Stream>,
    by_client: HashMap<FiveTuple, usize>,
    by_network: HashMap<u64, usize>,
    count: Arc<AtomicUsize>,
    pub refused: u64,
    pub dropped: u64,
}

impl Streams {
    pub fn new(epoll: Arc<Epoll>, count: Arc<AtomicUsize>) -> Self {
        Self {
            all: Connections::new(epoll, Token::Stream),
            by_client: HashMap::new(),
            by_network: HashMap::new(),
            count,
            refused: 0,
            dropped: 0,
        }
    }

    /// Takes a connection in; one too many is closed.
    pub fn add(&mut self, now: Instant, socket: TcpStream, secure: Option<&ServerCertificate>) {
        if self.try_add(now, socket, secure).is_none() {
            self.refused += 1;
        }
    }

    fn try_add(
        &mut self,
        now: Instant,
        socket: TcpStream,
        secure: Option<&ServerCertificate>,
    ) -> Option<usize> {
        let five = FiveTuple {
            transport: match secure {
                Some(_) => Transport::Tls,
                None => Transport::Tcp,
            },
            client: socket.peer_addr().ok()?,
            server: socket.local_addr().ok()?,
        };
        self.admit(now, five, |_| {
            let mut pipe = Pipe::new(socket).ok()?;
            if let Some(certificate) = secure {
                pipe.start_tls(certificate.accept_tls().ok()?, Vec::new());
            }
            Some(pipe)
        })
    }

    /// Takes in one that was accepted elsewhere; `None`: one too many.
    pub fn add_entered(&mut self, now: Instant, pipe: Pipe, five: FiveTuple) -> Option<usize> {
        let taken = self.admit(now, five, |_| Some(pipe));
        self.refused += u64::from(taken.is_none());
        taken
    }

    /// Within the bounds, `make` gives the connection.
    fn admit(
        &mut self,
        now: Instant,
        five: FiveTuple,
        make: impl FnOnce(&FiveTuple) -> Option<Pipe>,
    ) -> Option<usize> {
        let network = source_prefix(five.client.ip());
        let from_there = self.by_network.get(&network).copied().unwrap_or_default();
        if from_there >= STREAMS_OF_ONE || !take_one(&self.count, STREAMS) {
            return None;
        }
        let taken = make(&five).and_then(|pipe| self.enter(now, pipe, five, network));
        if taken.is_none() {
            self.count.fetch_sub(1, Relaxed);
        }
        taken
    }

    fn enter(&mut self, now: Instant, pipe: Pipe, five: FiveTuple, network: u64) -> Option<usize> {
        let stream = Stream {
            five,
            carries: Carries::Messages(Deframer::new(MESSAGE)),
            heard: false,
            network,
            opened: now,
        };
        let index = self.all.add(pipe, false, stream).ok()?;
        self.by_client.insert(five, index);
        *self.by_network.entry(network).or_default() += 1;
        Some(index)
    }

    pub fn of(&self, client: &FiveTuple) -> Option<usize> {
        self.by_client.get(client).copied()
    }

    /// Reads; `Ok(0)`: the other side has ended. A connection that is closing reads nothing any more.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self.all.get(index) {
            Some(stream) if stream.is_read() => {
                let read = stream.pipe.read(buffer);
                stream.heard |= matches!(read, Ok(1..));
                read
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Queues payload for a client; what does not fit is lost.
    pub fn send_datagram(&mut self, client: &FiveTuple, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let found = self.of(client);
        match found.and_then(|index| Some((index, self.all.get(index)?))) {
            Some((index, stream)) if stream.output.len() + length <= WAITING => {
                self.all.push_message(index, parts);
            }
            _ => self.dropped += 1,
        }
    }

    /// Queues an answer.
    pub fn send_message(&mut self, now: Instant, client: &FiveTuple, bytes: &[u8]) {
        let Some(index) = self.of(client) else {
            return;
        };
        self.all.push_message(index, &[bytes]);
        if let Some(stream) = self.all.get(index)
            && stream.output.len() > PATIENCE
        {
            stream.give_up(now);
        }
    }

    /// Takes it out; the caller tells the state machine.
    pub fn remove(&mut self, index: usize) -> Option<FiveTuple> {
        let stream = self.all.remove(index)?;
        self.by_client.remove(&stream.five);
        if let Some(count) = self.by_network.get_mut(&stream.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&stream.network);
            }
        }
        self.count.fetch_sub(1, Relaxed);
        Some(stream.five)
    }

    /// Connections that have been there too long for what they carry.
    pub fn overdue(&self, now: Instant, is_known: impl Fn(&FiveTuple) -> bool) -> Vec<usize> {
        let overdue = |stream: &Connection<Stream>| {
            let age = now.saturating_duration_since(stream.opened);
            stream.is_late(now)
                || !stream.heard && age > SLOW
                || age > IDLE && !is_known(&stream.five)
        };
        let all = self.all.iter().filter(|(_, stream)| overdue(stream));
        all.map(|(index, _)| index).collect()
    }
}

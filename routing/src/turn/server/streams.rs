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
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use slab::Slab;

use super::output::Output;
use super::shard::Token;
use super::take_one;
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
/// A TLS handshake takes no longer, nor does the rest of what a closed connection still has to send.
const SLOW: Duration = Duration::from_secs(15);

/// What a connection carries.
pub(super) enum Carries {
    /// Messages.
    Messages(Deframer),
    /// A peer's bytes, from the ConnectionBind on (RFC 6062).
    Peer(ConnectionId),
}

pub(super) struct Stream {
    pub pipe: Pipe,
    pub five: FiveTuple,
    pub carries: Carries,
    pub output: Output,
    /// Nothing is read: the other side of the relay takes no more.
    pub paused: bool,
    /// It ends when its output is empty.
    closing: Option<Instant>,
    heard: bool,
    network: u64,
    opened: Instant,
    interest: EpollFlags,
}

pub(super) struct Streams {
    epoll: Arc<Epoll>,
    all: Slab<Stream>,
    by_client: HashMap<FiveTuple, usize>,
    by_network: HashMap<u64, usize>,
    /// Those with something to send.
    dirty: Vec<usize>,
    count: Arc<AtomicUsize>,
    pub refused: u64,
    pub dropped: u64,
}

impl Streams {
    pub fn new(epoll: Arc<Epoll>, count: Arc<AtomicUsize>) -> Self {
        Self {
            epoll,
            all: Slab::new(),
            by_client: HashMap::new(),
            by_network: HashMap::new(),
            dirty: Vec::new(),
            count,
            refused: 0,
            dropped: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
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
    ) -> Option<()> {
        let five = FiveTuple {
            transport: match secure {
                Some(_) => Transport::Tls,
                None => Transport::Tcp,
            },
            client: socket.peer_addr().ok()?,
            server: socket.local_addr().ok()?,
        };
        let network = source_prefix(five.client.ip());
        let from_there = self.by_network.get(&network).copied().unwrap_or_default();
        if from_there >= STREAMS_OF_ONE || !take_one(&self.count, STREAMS) {
            return None;
        }
        let taken = self.enter(now, socket, secure, five, network);
        if taken.is_none() {
            self.count.fetch_sub(1, Relaxed);
        }
        taken
    }

    fn enter(
        &mut self,
        now: Instant,
        socket: TcpStream,
        secure: Option<&ServerCertificate>,
        five: FiveTuple,
        network: u64,
    ) -> Option<()> {
        let mut pipe = Pipe::new(socket).ok()?;
        if let Some(certificate) = secure {
            pipe.start_tls(certificate.accept_tls().ok()?, Vec::new());
        }
        let entry = self.all.vacant_entry();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Stream(entry.key()).into());
        self.epoll.add(&pipe, event).ok()?;
        self.by_client.insert(five, entry.key());
        *self.by_network.entry(network).or_default() += 1;
        entry.insert(Stream {
            pipe,
            five,
            carries: Carries::Messages(Deframer::new(MESSAGE)),
            output: Output::default(),
            paused: false,
            closing: None,
            heard: false,
            network,
            opened: now,
            interest: EpollFlags::EPOLLIN,
        });
        Some(())
    }

    pub fn get(&mut self, index: usize) -> Option<&mut Stream> {
        self.all.get_mut(index)
    }

    pub fn of(&self, client: &FiveTuple) -> Option<usize> {
        self.by_client.get(client).copied()
    }

    /// Reads; `Ok(0)`: the other side has ended. A connection that is closing reads nothing any more.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self.all.get_mut(index) {
            Some(stream) if stream.closing.is_none() && !stream.paused => {
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
        match self
            .of(client)
            .and_then(|index| Some((index, self.all.get_mut(index)?)))
        {
            Some((index, stream)) if stream.output.len() + length <= WAITING => {
                parts.iter().for_each(|part| stream.output.push(part));
                self.dirty.push(index);
            }
            _ => self.dropped += 1,
        }
    }

    /// Queues an answer.
    pub fn send_message(&mut self, now: Instant, client: &FiveTuple, bytes: &[u8]) {
        let Some(index) = self.of(client) else {
            return;
        };
        let stream = &mut self.all[index];
        stream.output.push(bytes);
        self.dirty.push(index);
        if stream.output.len() > PATIENCE {
            stream.closing = Some(now);
        }
    }

    /// Queues bytes of a joined peer. The caller holds the bound by pausing the peer.
    pub fn push(&mut self, index: usize, bytes: &[u8]) {
        if let Some(stream) = self.all.get_mut(index) {
            stream.output.push(bytes);
            self.dirty.push(index);
        }
    }

    /// Ends it when what is queued has left.
    pub fn close_after(&mut self, now: Instant, index: usize) {
        if let Some(stream) = self.all.get_mut(index) {
            stream.closing.get_or_insert(now + SLOW);
            self.dirty.push(index);
        }
    }

    /// What is written now; gives the connections that have ended, and those that are empty again.
    pub fn flush(
        &mut self,
        now: Instant,
        mut ended: impl FnMut(usize),
        mut drained: impl FnMut(usize),
    ) {
        for index in std::mem::take(&mut self.dirty) {
            match self.write(now, index) {
                Ok(true) => drained(index),
                Ok(false) => {}
                Err(_) => ended(index),
            }
        }
    }

    /// Writes one connection's queue; `Ok(true)`: it is empty. An error: the connection is over.
    fn write(&mut self, now: Instant, index: usize) -> io::Result<bool> {
        let Some(stream) = self.all.get_mut(index) else {
            return Ok(false);
        };
        let empty = stream.output.flush(&mut stream.pipe)?;
        let late = stream.closing.is_some_and(|until| until <= now);
        if stream.closing.is_some() && (empty || late) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.update(index, !empty)?;
        Ok(empty)
    }

    /// Something can be written again, or read.
    pub fn touch(&mut self, index: usize) {
        self.dirty.push(index);
    }

    pub fn pause(&mut self, index: usize, paused: bool) {
        if let Some(stream) = self.all.get_mut(index) {
            stream.paused = paused;
            self.dirty.push(index);
        }
    }

    fn update(&mut self, index: usize, writes: bool) -> io::Result<()> {
        let stream = &mut self.all[index];
        let mut interest = EpollFlags::empty();
        interest.set(
            EpollFlags::EPOLLIN,
            !stream.paused && stream.closing.is_none(),
        );
        interest.set(EpollFlags::EPOLLOUT, writes);
        if interest != stream.interest {
            stream.interest = interest;
            let mut event = EpollEvent::new(interest, Token::Stream(index).into());
            self.epoll.modify(&stream.pipe, &mut event)?;
        }
        Ok(())
    }

    /// Takes it out; the caller tells the state machine.
    pub fn remove(&mut self, index: usize) -> Option<FiveTuple> {
        let stream = self.all.try_remove(index)?;
        self.by_client.remove(&stream.five);
        if let Some(count) = self.by_network.get_mut(&stream.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&stream.network);
            }
        }
        self.count.fetch_sub(1, Relaxed);
        stream.pipe.close();
        Some(stream.five)
    }

    /// Connections that have been there too long for what they carry.
    pub fn overdue(&self, now: Instant, is_known: impl Fn(&FiveTuple) -> bool) -> Vec<usize> {
        let overdue = |stream: &Stream| {
            let age = now.saturating_duration_since(stream.opened);
            stream.closing.is_some_and(|until| until <= now)
                || !stream.heard && age > SLOW
                || age > IDLE && !is_known(&stream.five)
        };
        let all = self.all.iter().filter(|(_, stream)| overdue(stream));
        all.map(|(index, _)| index).collect()
    }
}

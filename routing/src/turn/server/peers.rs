//! TCP between relays and peers (RFC 6062).

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anode_turn::server::{ConnectionId, FiveTuple};
use nix::libc;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::output::Output;
use super::shard::Token;
use crate::net::streams::pipe::Pipe;

/// Bytes that a peer may send before its connection is bound; then its window closes.
const EARLY: usize = 64 << 10;
/// What one side has not taken yet, before the other is no longer read.
pub(super) const HIGH: usize = 64 << 10;
/// What a closed connection still has to send takes no longer.
const SLOW: Duration = Duration::from_secs(15);

pub(super) struct Peer {
    pub id: ConnectionId,
    pipe: Pipe,
    connected: bool,
    /// The client's connection, once it is bound.
    pub client: Option<FiveTuple>,
    /// What came before.
    early: Vec<u8>,
    pub output: Output,
    pub paused: bool,
    closing: Option<Instant>,
    interest: EpollFlags,
}

/// What became of a connection that was ready.
pub(super) enum Progress {
    /// It stands now.
    Connected,
    /// It never will.
    Failed,
    /// Nothing new.
    Same,
}

pub(super) struct Peers {
    epoll: Arc<Epoll>,
    all: Slab<Peer>,
    by_id: HashMap<ConnectionId, usize>,
    dirty: Vec<usize>,
}

/// A relay's socket for TCP: connections to peers leave from its address, too.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.bind(&address.into())?;
    // Only now: nobody else listens there, and yet sockets that dial may be bound beside it.
    socket.set_reuse_port(true)?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn dial(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(from)?;
    socket.set_reuse_port(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    Ok(socket.into())
}

impl Peers {
    pub fn new(epoll: Arc<Epoll>) -> Self {
        Self {
            epoll,
            all: Slab::new(),
            by_id: HashMap::new(),
            dirty: Vec::new(),
        }
    }

    /// Starts to connect from a relay's address.
    pub fn connect(
        &mut self,
        id: ConnectionId,
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<()> {
        self.add(id, Pipe::new(dial(from, to)?)?, false)
    }

    /// Takes in a connection of a peer.
    pub fn accepted(&mut self, id: ConnectionId, socket: TcpStream) -> io::Result<()> {
        self.add(id, Pipe::new(socket)?, true)
    }

    fn add(&mut self, id: ConnectionId, pipe: Pipe, connected: bool) -> io::Result<()> {
        let interest = if connected {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::EPOLLOUT
        };
        let entry = self.all.vacant_entry();
        let event = EpollEvent::new(interest, Token::Peer(entry.key()).into());
        self.epoll.add(&pipe, event)?;
        self.by_id.insert(id, entry.key());
        entry.insert(Peer {
            id,
            pipe,
            connected,
            client: None,
            early: Vec::new(),
            output: Output::default(),
            paused: false,
            closing: None,
            interest,
        });
        Ok(())
    }

    pub fn get(&mut self, index: usize) -> Option<&mut Peer> {
        self.all.get_mut(index)
    }

    pub fn of(&self, id: ConnectionId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Whether a connection that was being made stands.
    pub fn progress(&mut self, index: usize) -> Progress {
        let Some(peer) = self.all.get_mut(index).filter(|peer| !peer.connected) else {
            return Progress::Same;
        };
        match peer.pipe.is_connected() {
            Ok(true) => {
                peer.connected = true;
                self.dirty.push(index);
                Progress::Connected
            }
            Ok(false) => Progress::Same,
            Err(_) => Progress::Failed,
        }
    }

    /// Reads; `Ok(0)`: the other side has ended. Before the connection is bound bytes are kept, and its window fills.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let blocked = || io::ErrorKind::WouldBlock.into();
        let peer = self.all.get_mut(index).ok_or_else(blocked)?;
        if peer.closing.is_some() || peer.paused || !peer.connected {
            return Err(blocked());
        }
        if peer.client.is_some() {
            return peer.pipe.read(buffer);
        }
        let room = EARLY.saturating_sub(peer.early.len()).min(buffer.len());
        if room == 0 {
            peer.paused = true;
            self.dirty.push(index);
            return Err(blocked());
        }
        let read = peer.pipe.read(&mut buffer[..room])?;
        peer.early.extend_from_slice(&buffer[..read]);
        if read == 0 {
            // The end of what it had to say; the client may still bind and hear it.
            if peer.early.is_empty() {
                return Ok(0);
            }
            peer.paused = true;
            self.dirty.push(index);
            return Err(blocked());
        }
        Ok(read)
    }

    /// Binds it to a client's connection; gives what came before.
    pub fn join(&mut self, id: ConnectionId, client: FiveTuple) -> Option<(usize, Vec<u8>)> {
        let index = self.of(id)?;
        let peer = self.all.get_mut(index)?;
        peer.client = Some(client);
        peer.paused = false;
        self.dirty.push(index);
        Some((index, std::mem::take(&mut peer.early)))
    }

    /// Queues bytes of the client. The caller holds the bound by pausing the client.
    pub fn push(&mut self, index: usize, bytes: &[u8]) {
        if let Some(peer) = self.all.get_mut(index) {
            peer.output.push(bytes);
            self.dirty.push(index);
        }
    }

    pub fn pause(&mut self, index: usize, paused: bool) {
        if let Some(peer) = self.all.get_mut(index) {
            peer.paused = paused;
            self.dirty.push(index);
        }
    }

    pub fn touch(&mut self, index: usize) {
        self.dirty.push(index);
    }

    /// Ends it when what is queued has left.
    pub fn close_after(&mut self, now: Instant, id: ConnectionId) {
        if let Some(index) = self.of(id)
            && let Some(peer) = self.all.get_mut(index)
        {
            peer.closing.get_or_insert(now + SLOW);
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

    fn write(&mut self, now: Instant, index: usize) -> io::Result<bool> {
        let Some(peer) = self
            .all
            .get_mut(index)
            .filter(|peer| peer.connected || peer.closing.is_some())
        else {
            return Ok(false);
        };
        let empty = !peer.connected || peer.output.flush(&mut peer.pipe)?;
        let late = peer.closing.is_some_and(|until| until <= now);
        if peer.closing.is_some() && (empty || late) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, !peer.paused && peer.closing.is_none());
        interest.set(EpollFlags::EPOLLOUT, !empty);
        if interest != peer.interest {
            peer.interest = interest;
            let mut event = EpollEvent::new(interest, Token::Peer(index).into());
            self.epoll.modify(&peer.pipe, &mut event)?;
        }
        Ok(empty)
    }

    /// Takes it out; the caller tells the state machine.
    pub fn remove(&mut self, index: usize) -> Option<ConnectionId> {
        let peer = self.all.try_remove(index)?;
        self.by_id.remove(&peer.id);
        peer.pipe.close();
        Some(peer.id)
    }

    pub fn overdue(&self, now: Instant) -> Vec<usize> {
        let late = |peer: &Peer| peer.closing.is_some_and(|until| until <= now);
        let all = self.all.iter().filter(|(_, peer)| late(peer));
        all.map(|(index, _)| index).collect()
    }
}

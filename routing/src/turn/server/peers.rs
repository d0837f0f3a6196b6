//! TCP between relays and peers (RFC 6062).

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use anode_turn::server::{ConnectionId, FiveTuple};
use nix::libc;
use nix::sys::epoll::Epoll;
use socket2::{Protocol, Socket, Type};

use super::connections::Connections;
use super::token::Token;
use crate::net::streams::pipe::Pipe;
use crate::sockets::unbound;

/// Bytes that a peer may send before its connection is bound; then its window closes.
const EARLY: usize = 64 << 10;
/// What one side has not taken yet, before the other is no longer read.
pub(super) const HIGH: usize = 64 << 10;
/// A connection to a peer.
pub(super) struct Peer {
    pub id: ConnectionId,
    /// The client's connection, once it is bound.
    pub client: Option<FiveTuple>,
    /// What came before.
    early: Vec<u8>,
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
    pub all: Connections<Peer>,
    by_id: HashMap<ConnectionId, usize>,
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
    let socket = unbound(address, Type::STREAM, Protocol::TCP)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
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
            all: Connections::new(epoll, Token::Peer),
            by_id: HashMap::new(),
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
        let peer = Peer {
            id,
            client: None,
            early: Vec::new(),
        };
        let index = self.all.add(pipe, !connected, peer)?;
        self.by_id.insert(id, index);
        Ok(())
    }

    pub fn of(&self, id: ConnectionId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Whether a connection that was being made stands.
    pub fn progress(&mut self, index: usize) -> Progress {
        let Some(peer) = self.all.get(index).filter(|peer| peer.connecting) else {
            return Progress::Same;
        };
        match peer.pipe.is_connected() {
            Ok(true) => {
                peer.connecting = false;
                self.all.touch(index);
                Progress::Connected
            }
            Ok(false) => Progress::Same,
            Err(_) => Progress::Failed,
        }
    }

    /// Reads; `Ok(0)`: the other side has ended. Before the connection is bound bytes are kept, and its window fills.
    pub fn read(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let blocked = || io::ErrorKind::WouldBlock.into();
        let peer = self.all.get(index).filter(|peer| peer.is_read());
        let peer = peer.ok_or_else(blocked)?;
        if peer.client.is_some() {
            return peer.pipe.read(buffer);
        }
        let room = EARLY.saturating_sub(peer.early.len()).min(buffer.len());
        if room == 0 {
            self.all.pause(index, true);
            return Err(blocked());
        }
        let read = peer.pipe.read(&mut buffer[..room])?;
        peer.early.extend_from_slice(&buffer[..read]);
        if read == 0 {
            // The end of what it had to say; the client may still bind and hear it.
            if peer.early.is_empty() {
                return Ok(0);
            }
            self.all.pause(index, true);
            return Err(blocked());
        }
        Ok(read)
    }

    /// Binds it to a client's connection; gives what came before.
    pub fn join(&mut self, id: ConnectionId, client: FiveTuple) -> Option<(usize, Vec<u8>)> {
        let index = self.of(id)?;
        let peer = self.all.get(index)?;
        peer.client = Some(client);
        let early = std::mem::take(&mut peer.early);
        self.all.pause(index, false);
        Some((index, early))
    }

    /// Ends it when what is queued has left.
    pub fn close_after(&mut self, now: Instant, id: ConnectionId) {
        if let Some(index) = self.of(id) {
            self.all.close_after(now, index);
        }
    }

    /// Takes it out; the caller tells the state machine.
    pub fn remove(&mut self, index: usize) -> Option<ConnectionId> {
        let peer = self.all.remove(index)?;
        self.by_id.remove(&peer.id);
        Some(peer.id)
    }

    pub fn overdue(&self, now: Instant) -> Vec<usize> {
        let late = self.all.iter().filter(|(_, peer)| peer.is_late(now));
        late.map(|(index, _)| index).collect()
    }
}

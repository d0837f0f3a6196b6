//! Connections of a shard: messages of clients, and the bytes of joined ones (RFC 6062).
//!
//! ```text
//!   client's stream ─ read_stream ─ messages ─▶ state machine
//!                              └─ joined ─▶ pass ─▶ peer's stream     one side is not read while the other is full,
//!   peer's stream ── read_peer ─ joined ──▶ pass ─▶ client's stream   or while both are held to a rate
//! ```

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anode_turn::frame::Deframer;
use anode_turn::server::{ConnectionId, FiveTuple, RelayId};

use super::super::peers::HIGH;
use super::super::streams::Carries;
use super::{HOLD, Held, READS, Shard, Side};

impl Shard {
    pub(super) fn read_stream(&mut self, now: Instant, index: usize) {
        let mut read = std::mem::take(&mut self.read);
        let mut more = true;
        for _ in 0..READS {
            match self.streams.read(index, &mut read) {
                Ok(0) => self.stream_ended(index),
                Ok(count) => {
                    self.stream_bytes(now, index, &read[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.stream_ended(index),
            }
            more = false;
            break;
        }
        if more {
            self.again.push(Side::Client(index));
        }
        self.read = read;
    }

    pub(super) fn stream_bytes(&mut self, now: Instant, index: usize, bytes: &[u8]) {
        let Some(stream) = self.streams.all.get(index) else {
            return;
        };
        let five = stream.five;
        let mut deframer = match &mut stream.carries {
            Carries::Peer(connection) => {
                let connection = *connection;
                return self.pass(now, connection, Side::Client(index), bytes);
            }
            Carries::Messages(deframer) => std::mem::replace(deframer, Deframer::new(0)),
        };
        let mut rest = bytes;
        loop {
            rest = &rest[deframer.push(rest)..];
            loop {
                match deframer.next_message() {
                    Ok(Some(message)) => {
                        if let Some(to) = self.turn.handle_client(now, &five, message) {
                            self.datagrams.send_to_peer(&to, message);
                            continue;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return self.stream_ended(index),
                }
                // A ConnectionBind may have made it a data connection: what follows is the peer's.
                self.obey(now);
                match self.streams.all.get(index).map(|stream| &stream.carries) {
                    Some(Carries::Messages(_)) => {}
                    Some(Carries::Peer(connection)) => {
                        let connection = *connection;
                        let mut bytes = deframer.into_rest();
                        bytes.extend_from_slice(rest);
                        return self.pass(now, connection, Side::Client(index), &bytes);
                    }
                    None => return,
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        if let Some(stream) = self.streams.all.get(index) {
            stream.carries = Carries::Messages(deframer);
        }
    }

    pub(super) fn stream_ended(&mut self, index: usize) {
        if let Some(client) = self.streams.remove(index) {
            self.turn.client_closed(&client);
        }
    }

    pub(super) fn peer_accepted(
        &mut self,
        now: Instant,
        relay: RelayId,
        socket: TcpStream,
        from: SocketAddr,
    ) {
        // The state machine counts those that it does not let in.
        if let Some(id) = self.turn.peer_accepted(now, relay, from)
            && self.peers.accepted(id, socket).is_err()
        {
            self.turn.connection_closed(id);
        }
    }

    pub(super) fn peer_connected(&mut self, now: Instant, index: usize, connected: bool) {
        let Some(id) = self.peers.all.get(index).map(|peer| peer.id) else {
            return;
        };
        if !connected {
            self.peers.remove(index);
        }
        self.turn.peer_connected(now, id, connected);
    }

    pub(super) fn read_peer(&mut self, now: Instant, index: usize) {
        let mut read = std::mem::take(&mut self.read);
        let mut more = true;
        for _ in 0..READS {
            match self.peers.read(index, &mut read) {
                Ok(0) => self.peer_ended(index),
                Ok(count) => {
                    let bound = self
                        .peers
                        .all
                        .get(index)
                        .filter(|peer| peer.client.is_some());
                    if let Some(id) = bound.map(|peer| peer.id) {
                        self.pass(now, id, Side::Peer(index), &read[..count]);
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.peer_ended(index),
            }
            more = false;
            break;
        }
        if more {
            self.again.push(Side::Peer(index));
        }
        self.read = read;
    }

    pub(super) fn peer_ended(&mut self, index: usize) {
        if let Some(id) = self.peers.remove(index) {
            self.turn.connection_closed(id);
        }
    }

    /// Passes bytes of a joined connection on, unless they exceed a rate: then both they and their side wait.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        from: Side,
        bytes: &[u8],
    ) {
        if bytes.is_empty() {
            return;
        }
        if !self.turn.may_pass(now, connection, bytes.len()) {
            self.pause(from, true);
            self.held.push(Held {
                until: now + HOLD,
                connection,
                from,
                bytes: bytes.to_vec(),
            });
            return;
        }
        let waiting = match from {
            Side::Client(_) => self.peers.of(connection).map(|index| {
                self.peers.all.push(index, bytes);
                self.peers
                    .all
                    .get(index)
                    .map_or(0, |peer| peer.output.len())
            }),
            Side::Peer(index) => self.client_of(index).map(|client| {
                self.streams.all.push(client, bytes);
                self.streams
                    .all
                    .get(client)
                    .map_or(0, |stream| stream.output.len())
            }),
        };
        if waiting.is_some_and(|waiting| waiting > HIGH) {
            self.pause(from, true);
        }
    }

    pub(super) fn client_of(&mut self, peer: usize) -> Option<usize> {
        let client = self.peers.all.get(peer)?.client?;
        self.streams.of(&client)
    }

    pub(super) fn pause(&mut self, side: Side, paused: bool) {
        match side {
            Side::Client(index) => self.streams.all.pause(index, paused),
            Side::Peer(index) => self.peers.all.pause(index, paused),
        }
    }

    /// Bytes whose rate may have room again. A connection that has ended meanwhile passes nothing.
    pub(super) fn release(&mut self, now: Instant) {
        if self.held.iter().all(|held| held.until > now) {
            return;
        }
        for held in std::mem::take(&mut self.held) {
            let alive = self.peers.of(held.connection).is_some();
            if held.until > now {
                self.held.push(held);
            } else if alive {
                self.pause(held.from, false);
                self.again.push(held.from);
                self.pass(now, held.connection, held.from, &held.bytes);
            }
        }
    }

    pub(super) fn join(&mut self, now: Instant, connection: ConnectionId, client: FiveTuple) {
        let stream = self.streams.of(&client);
        let Some((index, early)) = self.peers.join(connection, client) else {
            return;
        };
        if let Some(stream) = stream.and_then(|stream| self.streams.all.get(stream)) {
            stream.carries = Carries::Peer(connection);
        }
        self.pass(now, connection, Side::Peer(index), &early);
        self.again.push(Side::Peer(index));
    }

    pub(super) fn resume_peer_of(&mut self, stream: usize) {
        let Some(Carries::Peer(connection)) = self.streams.all.get(stream).map(|s| &s.carries)
        else {
            return;
        };
        let connection = *connection;
        if let Some(index) = self.peers.of(connection)
            && !self.is_held(Side::Peer(index))
            && self
                .peers
                .all
                .get(index)
                .is_some_and(|peer| peer.paused && peer.client.is_some())
        {
            self.pause(Side::Peer(index), false);
            self.again.push(Side::Peer(index));
        }
    }

    pub(super) fn resume_client_of(&mut self, peer: usize) {
        if let Some(index) = self.client_of(peer)
            && !self.is_held(Side::Client(index))
            && self
                .streams
                .all
                .get(index)
                .is_some_and(|stream| stream.paused)
        {
            self.pause(Side::Client(index), false);
            self.again.push(Side::Client(index));
        }
    }

    pub(super) fn is_held(&self, side: Side) -> bool {
        self.held.iter().any(|held| held.from == side)
    }
}

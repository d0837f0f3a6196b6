//! TCP between relays and peers (RFC 6062).
//!
//! ```text
//!   Connect ─▶ Connecting ─▶ Unbound ─ ConnectionBind on another stream ─▶ Bound ─▶ either side closes
//!   a peer connects ──────────▲  30 s each, then 447 or closed
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use super::auth::{Caller, Signer};
use super::request::required;
use super::{Command, ConnectionId, FiveTuple, RelayId, Server, Timer, new_transaction};
use crate::policy::Verdict;
use crate::stun::{Class, Message, Writer, attr, method};

/// How long a peer may take to answer, and a client to bind (RFC 6062 §5.2, §5.4).
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    pub allocation: usize,
    peer: SocketAddr,
    state: State,
    deadline: Option<Instant>,
}

enum State {
    /// The Connect that waits for its answer.
    Connecting {
        request: Vec<u8>,
        signer: Signer,
    },
    Unbound,
    Bound {
        client: FiveTuple,
    },
}

impl Server {
    /// RFC 6062 §5.2.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        let index = self.owned(from, caller)?;
        if !self.allocations[index].tcp {
            return Err(400);
        }
        let peer = required(message.xor_address(attr::XOR_PEER_ADDRESS))?;
        let verdict = self.verdict(index, peer.ip())?;
        if !self.config.policy.port(verdict, peer, &self.config.ports) {
            return Err(403);
        }
        let relay = self.allocations[index]
            .relay_for(peer.ip())
            .ok_or(443_u16)?;
        if self.connected_to(index, peer) {
            return Err(446);
        }
        let state = State::Connecting {
            request: message.bytes().to_vec(),
            signer: caller.signer.clone(),
        };
        let connection = self
            .add_connection(now, index, peer, state)
            .ok_or(508_u16)?;
        self.commands.push_back(Command::Connect {
            connection,
            relay,
            peer,
        });
        Ok(None)
    }

    fn connected_to(&self, index: usize, peer: SocketAddr) -> bool {
        let of = |id: &ConnectionId| self.connections.get(id).is_some_and(|c| c.peer == peer);
        self.allocations[index].connections.iter().any(of)
    }

    fn add_connection(
        &mut self,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        state: State,
    ) -> Option<ConnectionId> {
        if self.allocations[index].connections.len() >= self.config.bounds.connections {
            return None;
        }
        let id = loop {
            let id = ConnectionId(self.random.next_u32());
            if !self.connections.contains_key(&id) {
                break id;
            }
        };
        self.allocations[index].connections.push(id);
        self.connections.insert(
            id,
            Connection {
                allocation: index,
                peer,
                state,
                deadline: None,
            },
        );
        self.set_deadline(id, Some(now + PATIENCE));
        Some(id)
    }

    fn set_deadline(&mut self, id: ConnectionId, deadline: Option<Instant>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let timer = Timer::Connection(id);
        timer.set(&mut self.timers, &mut connection.deadline, deadline);
    }

    /// Says what became of a [`Command::Connect`].
    pub fn peer_connected(&mut self, now: Instant, id: ConnectionId, connected: bool) {
        if !connected {
            return self.connect_failed(id, false);
        }
        let connecting = |c: &&mut Connection| matches!(c.state, State::Connecting { .. });
        let Some(connection) = self.connections.get_mut(&id).filter(connecting) else {
            return;
        };
        let State::Connecting { request, signer } =
            std::mem::replace(&mut connection.state, State::Unbound)
        else {
            return;
        };
        let client = self.allocations[connection.allocation].client;
        self.set_deadline(id, Some(now + PATIENCE));
        // It was parsed when it came.
        let Ok(message) = Message::parse(&request) else {
            return;
        };
        let writer = Writer::success(&message).number(attr::CONNECTION_ID, id.0);
        self.succeed(&client, &message, writer, &signer);
    }

    fn connect_failed(&mut self, id: ConnectionId, close: bool) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let client = self.allocations[connection.allocation].client;
        if let State::Connecting { request, signer } = &connection.state {
            let (request, signer) = (request.clone(), signer.clone());
            if let Ok(message) = Message::parse(&request) {
                self.refuse(&client, &message, 447, Some(&signer));
            }
        }
        self.drop_connection(id, close);
    }

    pub(super) fn connection_timeout(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.deadline = None;
        }
        self.connect_failed(id, true);
    }

    /// A peer has connected to a relay's listening socket. `None`: close it at once.
    pub fn peer_accepted(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: SocketAddr,
    ) -> Option<ConnectionId> {
        let id = self.accept(now, relay, from);
        if id.is_none() {
            self.counters.dropped_connections += 1;
        }
        id
    }

    fn accept(&mut self, now: Instant, relay: RelayId, from: SocketAddr) -> Option<ConnectionId> {
        let index = self
            .relay(relay)
            .filter(|r| r.expires.is_some())?
            .allocation;
        let allocation = &self.allocations[index];
        let verdict = allocation.permits(now, from.ip())?;
        if !allocation.tcp || verdict == Verdict::Refused || self.connected_to(index, from) {
            return None;
        }
        let to = allocation.client;
        let id = self.add_connection(now, index, from, State::Unbound)?;
        let bytes = Writer::new(
            Class::Indication,
            method::CONNECTION_ATTEMPT,
            new_transaction(&mut self.random),
        )
        .number(attr::CONNECTION_ID, id.0)
        .xor_address(attr::XOR_PEER_ADDRESS, from)
        .finish();
        self.commands.push_back(Command::Send { to, bytes });
        Some(id)
    }

    /// RFC 6062 §5.4: a new stream of the same user takes a connection.
    pub(super) fn connection_bind(
        &mut self,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        if !from.transport.is_stream()
            || self.clients.contains_key(from)
            || self.data_clients.contains_key(from)
        {
            return Err(400);
        }
        let id = message
            .raw(attr::CONNECTION_ID)
            .and_then(|v| <[u8; 4]>::try_from(v).ok())
            .ok_or(400_u16)?;
        let id = ConnectionId(u32::from_be_bytes(id));
        let connection = self.connections.get_mut(&id).ok_or(400_u16)?;
        if self.allocations[connection.allocation].name != caller.name {
            return Err(441);
        }
        if !matches!(connection.state, State::Unbound) {
            return Err(400);
        }
        connection.state = State::Bound { client: *from };
        self.set_deadline(id, None);
        self.data_clients.insert(*from, id);
        let writer = Writer::success(message).number(attr::CONNECTION_ID, id.0);
        self.succeed(from, message, writer, &caller.signer);
        self.commands.push_back(Command::Join {
            connection: id,
            client: *from,
        });
        Ok(None)
    }

    /// Whether this many bytes of a joined connection may pass now; if not, try again a little later: nothing is lost
    /// in a stream.
    pub fn may_pass(&mut self, now: Instant, id: ConnectionId, bytes: usize) -> bool {
        let Some(index) = self.connections.get(&id).map(|c| c.allocation) else {
            return false;
        };
        self.within_rate(now, index, bytes)
    }

    /// A connection to a peer has ended.
    pub fn connection_closed(&mut self, id: ConnectionId) {
        self.drop_connection(id, false);
    }

    /// Takes a connection away, with the client's stream if it has one. `close`: the peer's side is open still.
    pub(super) fn drop_connection(&mut self, id: ConnectionId, close: bool) {
        self.set_deadline(id, None);
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(allocation) = self.allocations.get_mut(connection.allocation) {
            allocation.connections.retain(|c| *c != id);
        }
        if close {
            self.commands
                .push_back(Command::CloseConnection { connection: id });
        }
        if let State::Bound { client } = connection.state {
            self.data_clients.remove(&client);
            self.commands.push_back(Command::CloseClient { client });
        }
    }
}

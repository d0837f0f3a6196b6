//! What the state machine wants done, and what leaves at the end of a turn.

use std::net::SocketAddr;
use std::time::Instant;

use anode_turn::Transport;
use anode_turn::server::{Command, ConnectionId, FiveTuple, RelayId};

use super::super::connections::Found;
use super::super::datagrams::Kind;
use super::Shard;

impl Shard {
    /// Does all that the state machine wants done.
    pub(super) fn obey(&mut self, now: Instant) {
        while let Some(command) = self.turn.poll_command() {
            match command {
                Command::Send { to, bytes } => match to.transport {
                    Transport::Udp => self.datagrams.send_to_client(&to, &[&bytes]),
                    Transport::Tcp | Transport::Tls => self.streams.send_message(now, &to, &bytes),
                    Transport::Dtls => {
                        self.sessions.send(now, &to, &[&bytes], &mut self.datagrams);
                    }
                },
                Command::OpenRelay {
                    relay,
                    address,
                    tcp,
                    pair,
                } => {
                    let opened = self.datagrams.open(relay, address, tcp, pair);
                    self.turn.relay_opened(now, relay, opened);
                }
                Command::AdoptRelay { relay, address } => {
                    let adopted = self.datagrams.adopt(relay, address);
                    self.turn.relay_opened(now, relay, adopted);
                }
                Command::CloseRelay { relay } => {
                    // What it was given to send before leaves by it.
                    self.datagrams.flush();
                    self.datagrams.close(relay);
                }
                Command::CloseReserved { address } => self.datagrams.forget_kept(address),
                Command::Connect {
                    connection,
                    relay,
                    peer,
                } => self.dial_peer(now, connection, relay, peer),
                Command::Join { connection, client } => self.join(now, connection, client),
                Command::CloseConnection { connection } => self.peers.close_after(now, connection),
                Command::CloseClient { client } => self.close_client(now, client),
            }
        }
    }

    fn dial_peer(&mut self, now: Instant, id: ConnectionId, relay: RelayId, to: SocketAddr) {
        let from = match self.datagrams.relay(relay.slot()).map(|relay| &relay.kind) {
            Some(Kind::Tcp(listener)) => listener.local_addr().ok(),
            _ => None,
        };
        let dialled = from.is_some_and(|from| self.peers.connect(id, from, to).is_ok());
        if !dialled {
            self.turn.peer_connected(now, id, false);
        }
    }

    fn close_client(&mut self, now: Instant, client: FiveTuple) {
        match client.transport {
            Transport::Tcp | Transport::Tls => {
                if let Some(index) = self.streams.of(&client) {
                    self.streams.all.close_after(now, index);
                }
            }
            Transport::Dtls => self.sessions.close(&client, now, &mut self.datagrams),
            Transport::Udp => {}
        }
    }

    pub(super) fn flush(&mut self, now: Instant) {
        self.datagrams.flush();
        self.streams.all.flush(now);
        while let Some((index, found)) = self.streams.all.found() {
            match found {
                Found::Ended => self.stream_ended(index),
                Found::Drained => self.resume_peer_of(index),
            }
        }
        self.peers.all.flush(now);
        while let Some((index, found)) = self.peers.all.found() {
            match found {
                Found::Ended => self.peer_ended(index),
                Found::Drained => self.resume_client_of(index),
            }
        }
        // What has ended may have told the state machine, which may want more closed.
        if self.turn.has_commands() {
            self.obey(now);
            self.datagrams.flush();
        }
    }
}

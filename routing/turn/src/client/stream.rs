//! Taking a peer's TCP connection on a new stream to the server (RFC 6062 §4.3).

use super::auth::{Challenge, Challenged};
use super::{Client, Config, Why};
use crate::server::ConnectionId;
use crate::stun::{Class, Message, Writer, attr, method};

/// One new stream that takes one connection: send [`PeerStream::request`], feed what comes to [`PeerStream::handle`]
/// until it is joined. Give it 30 s: the server does the same.
pub struct PeerStream {
    connection: ConnectionId,
    challenge: Option<Challenge>,
    tries: u32,
    id: [u8; 12],
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum BindStep {
    /// Send this.
    Send(Vec<u8>),
    /// From the next byte on the stream is the peer's.
    Joined,
    /// It did not work: close the stream.
    Failed(Why),
}

impl PeerStream {
    /// For a connection that [`super::Event`] named, with the client's credentials.
    #[must_use]
    pub fn new(client: &mut Client, connection: ConnectionId) -> Self {
        Self {
            connection,
            challenge: client.challenge.clone(),
            tries: 0,
            id: client.transaction_id(),
        }
    }

    /// The request to send first.
    #[must_use]
    pub fn request(&self, config: &Config) -> Vec<u8> {
        let writer = Writer::new(Class::Request, method::CONNECTION_BIND, self.id)
            .number(attr::CONNECTION_ID, self.connection.0);
        match &self.challenge {
            Some(challenge) => challenge.sign(writer, config).finish(),
            None => writer.finish(),
        }
    }

    /// Takes the answer: one message, cut by [`crate::frame::Deframer`].
    pub fn handle(&mut self, client: &mut Client, bytes: &[u8]) -> BindStep {
        let Ok(message) = Message::parse(bytes) else {
            return BindStep::Failed(Why::Nonsense);
        };
        let genuine = match &self.challenge {
            Some(challenge) => challenge.key.verifies(challenge.mac, &message),
            None => client.config.credentials.is_none(),
        };
        if message.transaction() != self.id || message.method() != method::CONNECTION_BIND {
            return BindStep::Failed(Why::Nonsense);
        }
        match (message.class(), message.error_code()) {
            (Class::Success, _) if genuine => BindStep::Joined,
            (Class::Error, Ok((401 | 438, _))) if self.tries < 2 => {
                let Challenged::Again(challenge) = client.challenged(&message) else {
                    return BindStep::Failed(Why::Credentials);
                };
                self.tries += 1;
                self.challenge = Some(*challenge);
                self.id = client.transaction_id();
                BindStep::Send(self.request(&client.config))
            }
            (Class::Error, Ok((401 | 438, _))) => BindStep::Failed(Why::Credentials),
            (Class::Error, Ok((code, reason))) => BindStep::Failed(Why::Refused { code, reason }),
            _ => BindStep::Failed(Why::Nonsense),
        }
    }
}

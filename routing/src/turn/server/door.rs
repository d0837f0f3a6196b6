//! A TLS port that the overlay's connections come through, too: their owner accepts, and brings us those that turn out to be
//! a TURN client's.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anode_turn::Transport;
use anode_turn::server::FiveTuple;
use rustls::Connection;

use super::shard::Inbox;
use super::{Mailbox, shard_of};
use crate::net::streams::pipe::Pipe;
use crate::turn::certificate::ServerCertificate;

/// What is shown at the door; a reload changes it.
pub(super) type Shown = Arc<RwLock<Option<ServerCertificate>>>;

/// An address of `listen_secure` that somebody else listens on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedPort {
    /// The address.
    pub address: SocketAddr,
    /// Its UDP port is taken, too: no DTLS there.
    pub without_dtls: bool,
}

/// For whoever accepts connections there.
#[derive(Clone)]
pub struct Door {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) shown: Shown,
    pub(super) mailboxes: Arc<[Mailbox]>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// Whether a connection to this address of ours may be a TURN client's.
    pub(crate) fn stands_at(&self, local: SocketAddr) -> bool {
        let here = |at: &SocketAddr| {
            at.port() == local.port() && (at.ip() == local.ip() || at.ip().is_unspecified())
        };
        self.addresses.iter().any(here)
    }

    /// TLS with the server's certificate, for either kind of client; `None`: there is none.
    pub(crate) fn accept_tls(&self) -> Option<Box<Connection>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref()?.accept_shared_tls().ok()
    }

    /// Whether the first bytes inside are STUN's: a framed packet begins with its size, which is larger than any number of a
    /// method. `None`: too early to say.
    pub(crate) fn is_turn(pipe: &Pipe, seen: &[u8]) -> Option<bool> {
        if pipe.alpn() == Some(b"stun.turn".as_slice()) {
            return Some(true);
        }
        match seen {
            [] | [0] => None,
            [0, method, ..] => Some(usize::from(*method) < anode_wire::packet::SHORT_HEADER),
            _ => Some(false),
        }
    }

    /// Brings a connection in, with what was read of it.
    pub(crate) fn enter(&self, pipe: Pipe, client: SocketAddr, server: SocketAddr, seen: Vec<u8>) {
        let five = FiveTuple {
            transport: Transport::Tls,
            client,
            server,
        };
        let shard = shard_of(client.ip(), self.mailboxes.len());
        self.mailboxes[shard].send(Inbox::Entered {
            pipe: Box::new(pipe),
            five,
            seen,
        });
    }
}

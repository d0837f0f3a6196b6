//! What a session tells, and what it is told about the router.
use super::{Found, LookupError, LookupId};
use crate::error::Error;
use crate::message::{BandwidthLimits, MessageStatus};
use zeroize::Zeroizing;

/// User and password for the router (I33).
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.user)
    }
}

/// Why the connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// We closed.
    #[error("closed")]
    Local,
    /// I46
    #[error("closed because it was idle")]
    Idle,
    /// The socket is gone.
    #[error("the connection to the router broke")]
    ConnectionLost,
    /// The router said so, in its words.
    #[error("the router closed the session: {0}")]
    Disconnected(String),
    /// The router takes no such user and password: trying again is of no use.
    #[error("the router refuses the user or password: {0}")]
    Unauthorised(String),
    /// SessionStatus 0.
    #[error("the router destroyed the session")]
    Destroyed,
    /// SessionStatus 3: bad signature, clock off, or the destination is in use on this router.
    #[error("the router calls the session invalid (is this destination in use already?)")]
    Invalid,
    /// SessionStatus 4.
    #[error("the router refused the session")]
    Refused,
    /// The handshake took too long.
    #[error("the router did not answer {0}")]
    TimedOut(&'static str),
    /// The router does not keep to the protocol.
    #[error("the router broke the protocol: {0}")]
    Protocol(Error),
}

impl CloseReason {
    /// Trying again without a change of the configuration is of no use.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unauthorised(_))
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Tunnels are up and the first lease set went out: send, look up, accept (I15).
    Ready,
    /// A gzip payload arrived.
    Payload(Vec<u8>),
    /// The fate of a message that was sent with this nonce.
    Status(u32, MessageStatus),
    /// A lookup has ended.
    Lookup(LookupId, std::result::Result<Found, LookupError>),
    /// The router's rates.
    BandwidthLimits(BandwidthLimits),
    /// The router took the changed options.
    Reconfigured,
    /// The connection is over. Nothing follows.
    Closed(CloseReason),
}

/// Counts since the connection began.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Messages from the router.
    pub received: u64,
    /// Payloads from the network.
    pub payloads: u64,
    /// Payloads to the network.
    pub sent: u64,
    /// Messages not sent because the socket does not keep up.
    pub queue_full: u64,
    /// Messages of types that mean nothing here.
    pub unknown: u64,
    /// Messages for another session than ours: dropped.
    pub foreign_session: u64,
    /// Messages that do not fit the state: dropped.
    pub misplaced: u64,
    /// Lease requests without a usable lease: not answered.
    pub bad_lease_requests: u64,
    /// Answers to lookups that are not (or no longer) open: dropped.
    pub unasked_replies: u64,
    /// Lease sets signed.
    pub lease_sets: u64,
}

/// What is known of a session for people to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Handshake.
    Connecting,
    /// The session exists, its tunnels do not yet.
    Building,
    /// Usable.
    Ready,
    /// Over, or about to be.
    Closed,
}

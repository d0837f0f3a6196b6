//! What a client asks of the IO, and what it tells.

use crate::http::Request;
use crate::types::{Answer, InfoHash};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// A tracker of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerId(pub(super) u32);

/// An HTTP request of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// What the IO is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Resolve a name to all its addresses of both families, then [`super::Client::resolved`].
    Resolve {
        /// Whose name it is.
        tracker: TrackerId,
        /// The name.
        host: String,
    },
    /// GET over a connection from `local` to `remote`, then [`super::Client::http_answer`] or [`super::Client::http_failed`].
    Http {
        /// To be handed back.
        id: RequestId,
        /// What to bind before connecting.
        local: IpAddr,
        /// What to connect to.
        remote: SocketAddr,
        /// For HTTPS the name that the certificate must carry.
        tls: Option<String>,
        /// Target and headers.
        request: Request,
    },
    /// Close the connection of this request; its answer is not wanted any more.
    Cancel(RequestId),
    /// Send from a socket that is bound to `local` and connected to `remote`.
    Datagram {
        /// What the socket is bound to.
        local: IpAddr,
        /// What it is connected to.
        remote: SocketAddr,
        /// What to send.
        payload: Vec<u8>,
    },
}

/// Which announcement a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// The tracker.
    pub tracker: TrackerId,
    /// The local address.
    pub local: IpAddr,
    /// The swarm.
    pub info_hash: InfoHash,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A tracker answered.
    Answered {
        /// Whom.
        about: About,
        /// The tracker's address, which decides whether private candidates are taken.
        remote: SocketAddr,
        /// Its answer.
        answer: Answer,
    },
    /// An announce failed.
    Failed {
        /// Whose.
        about: About,
        /// In words for people.
        error: String,
        /// When it is tried again; never in this run when the tracker said so.
        retry: Option<Instant>,
    },
    /// A tracker's name was not resolved.
    Unresolved {
        /// Whose.
        tracker: TrackerId,
        /// In words for people.
        error: String,
        /// When it is tried again.
        retry: Instant,
    },
}

/// What was held back or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Trackers, swarms or addresses past the limits.
    pub over_limit: u64,
    /// Datagrams that answer nothing that was asked.
    pub stray: u64,
    /// Reports that nobody fetched.
    pub lost_reports: u64,
}

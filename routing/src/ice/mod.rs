//! ICE (RFC 8445) with TCP candidates (RFC 6544): two that can talk through a third find a way to each other.
//!
//! ```text
//!   program ── begin, describe ─▶ the other side's description, over any signalling (RELOAD's CONNECT)
//!      │ start
//!   Sessions ── one Agent a session: checks, nomination, consent (the crate `is`)
//!      │ Path, bytes
//!   Endpoint ── UDP sockets and TCP listeners · gather: server-reflexive · our TURN client: relayed
//! ```
//!
//! [`Agent`], [`Candidate`] and the gathering are sans-IO; [`Endpoint`] owns the sockets, and whoever owns that waits for
//! its descriptors. One endpoint serves any number of sessions and what else shares its ports: DTLS, TLS, and Binding
//! requests of strangers, which it answers as a STUN server does (reload.md R97, R100).
//!
//! Bounds: 32 candidates a side, 100 pairs a session, 64 addresses that checks may reveal, 256 sessions, 512 connections.

mod agent;
mod candidate;
mod endpoint;
mod gather;
mod hosts;
mod sessions;
mod stream;

use std::net::SocketAddr;

pub use agent::{Agent, AgentEvent};
pub use candidate::{Candidate, Kind, MAX_CANDIDATES, Preference, TcpRole};
pub use endpoint::{Counters, Endpoint, Handed, RelayServer};
pub use hosts::own_addresses;
pub use sessions::{Data, Event, SessionId, Sessions};

/// What carries a candidate's packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A connection; messages are framed as in RFC 4571.
    Tcp,
}

/// One way between two addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    /// What carries it.
    pub protocol: Protocol,
    /// Our address: a socket's, a relay's, or what stands for a connection that we open.
    pub local: SocketAddr,
    /// Theirs, as packets show it.
    pub remote: SocketAddr,
}

/// Which side decides (RFC 8445 §6.1.1). In RELOAD whoever sends the CONNECT (R102).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It nominates.
    Controlling,
    /// It follows.
    Controlled,
}

/// What one side tells the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// User name fragment, 4 to 256 characters (RFC 8445 §5.3).
    pub ufrag: String,
    /// Password, 22 to 256 characters.
    pub password: String,
    /// Where it can be reached, the best first.
    pub candidates: Vec<Candidate>,
}

/// Why a session cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IceError {
    /// A candidate's text is not that of RFC 8445 §15.1 or RFC 6544 §4.5.
    #[error("a candidate: {0}")]
    Candidate(&'static str),
    /// Its fragment or its password is too short or too long to be safe.
    #[error("the other side's user name fragment or password has a wrong length")]
    Credentials,
    /// None of its candidates can be reached from here.
    #[error("the other side has no candidate that could be reached from here")]
    NoCandidate,
    /// There is no room.
    #[error("there are too many ICE sessions")]
    Full,
}

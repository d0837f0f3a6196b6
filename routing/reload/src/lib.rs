//! RELOAD (draft-bryan-p2psip-reload-02, with the decisions of `docs/spec/reload.md`) as a sans-IO state machine: one
//! [`Node`] is one node in one overlay. A program that is in several overlays has several nodes (R4).
//!
//! ```text
//!   store fetch remove find ping connect tunnel          usage: who may store what where
//!        │ requests                ▲ events               anode · turn · sip · certificate · yours
//!  ┌─────▼──────────────────────── │ ──────────────────────────────────┐
//!  │ node  transact: retransmission, answers   serve: ten methods      │
//!  │       copies: replicas, handover          storage: three models   │──── topology: where keys live
//!  │       route: route and via lists, private ids, TTL, route log     │        └ chord: join, stabilise, fingers
//!  └─────┬──────────────────────── ▲ ──────────────────────────────────┘
//!        │ header · fragment       │ contents · body · signature ──────────── security: keys, certificates, shared key
//!        ▼ transmits               │ messages
//!      links: DTLS, TLS, or inside an Anode sealed session               config: the overlay's document
//! ```
//!
//! Bytes, time and randomness come in as arguments; messages, events and the next deadline come out. There is no socket,
//! no clock, no file and no thread in here.
//!
//! # How to drive a node
//!
//! 1. Make links: a sealed session, DTLS or TLS, authenticated at both ends. [`Node::link_up`] says who is there; the
//!    node believes it (R138). [`Node::link_down`] when keep-alives fail (RD73: every 15 s, dead after 45 s).
//! 2. [`Node::create`] for the very first peer of an overlay, [`Node::join`] for all others, and for clients.
//! 3. Feed every message that a link delivers to [`Node::handle`]: one datagram, or one message cut off a stream by
//!    [`header::framed_len`].
//! 4. After every call, take [`Node::poll_transmit`] and [`Node::poll_event`] until both say `None`, then sleep until
//!    [`Node::deadline`] and call [`Node::handle_timeout`].
//! 5. When [`Event::ConnectWanted`] comes, gather candidates and call [`Node::offer`]; when [`Event::ConnectOffered`]
//!    comes, call [`Node::answer_connect`]; then run ICE and the security layer, and go on at 1. Inside a zone there is
//!    nothing to gather: [`body::ConnectBody::sealed`].
//!
//! A message is not proof of anything before [`Security::verify`] has said so, and a value not before its owner's
//! signature and the access rule of its [`usage::Kind`] have been checked; the node does both, for what it stores and for
//! what it fetches. Every table has a bound, and [`node::Counters`] count what a bound has cost.
//!
//! The requirements (R…) and decisions (RD…) that comments and tests name are numbered in `docs/spec/reload.md`.
#![forbid(unsafe_code)]

pub mod body;
pub mod chord;
mod codec;
pub mod config;
pub mod contents;
mod error;
pub mod fragment;
pub mod header;
mod id;
pub mod node;
pub mod private_id;
pub mod route_log;
pub mod security;
pub mod signature;
pub mod storage;
pub mod topology;
pub mod usage;

pub use body::{DataModel, DataValue, StoredData, TypeId};
pub use chord::Chord;
pub use contents::{Code, Method};
pub use error::ReloadError;
pub use header::Header;
pub use id::{Id, overlay_hash, spki};
pub use node::{Event, LinkInfo, Node, NodeConfig, Transmit};
pub use security::{Credentials, Security, SharedKey};
pub use signature::{Signature, SignerIdentity};
pub use topology::Topology;

use std::time::Duration;

/// The time, as the caller knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// Since any fixed moment; never goes back. For timers.
    pub at: Duration,
    /// Seconds since 1970. For storage times and certificates.
    pub unix: u64,
}

/// A connection to another node, numbered by the caller; a number is not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

#[cfg(test)]
mod vectors;

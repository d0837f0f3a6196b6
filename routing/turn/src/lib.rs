//! STUN (RFC 8489, RFC 5389) and TURN (RFC 8656, RFC 5766, RFC 6062): server and client as sans-IO state machines.
//!
//! ```text
//!        program                                          clients            peers
//!   permit bind send│▲ events                    messages │▲                 │▲ datagrams, streams
//!  ┌────────────────▼┴─── client ───┐      ┌──────────────▼┴──── server ─────▼┴───┐
//!  │ requests ⇄ answers   rto       │      │ auth   allocate   peers  connections │
//!  │ channels  data, queue  stream  │      │ data   table      shared  config     │
//!  └────────────────┬▲──────────────┘      └──┬────────┬───────────────┬▲─────────┘
//!    poll_transmit  ▼│ handle, deadline       │        │  poll_command ▼│ relay_opened, peer_connected …
//!  ┌─────────────────────── frame: ChannelData, Data, Send; streams ──────────────┐  policy   which peers
//!  ├─────────────────────── stun: messages, integrity, text, nonces ──────────────┤  uri, resolve  URI ─▶ servers
//!  └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing here knows a socket, a clock, a resolver, TLS or the randomness of the machine: bytes, [`Instant`]s and 32
//! random bytes at the start come in; messages, commands, events and the next deadline come out. The client does not
//! need the server and neither needs a runtime (T1). `docs/spec/turn.md` numbers the requirements (T1 …) that comments
//! and tests name.
//!
//! # Driving a server
//!
//! One [`server::Server`] a core ("shard"), one [`server::Shared`] for all of them: quotas, total rates and reserved
//! ports. A shard owns its clients and their relay sockets, so no packet takes a lock. UDP clients are spread by the
//! kernel (`SO_REUSEPORT`); streams by the client's IP address, because a ConnectionBind (RFC 6062) must reach the
//! shard of its control connection.
//!
//! - A datagram of a client, or a message of a stream as [`frame::Deframer`] cuts it: `handle_client`. `Some(ToPeer)`
//!   names a relay, a peer, and the *range* of the given bytes to send; nothing is copied.
//! - A datagram on a relay socket: `handle_relayed` with its length. `Some(ToClient)` holds a [`frame::Header`] of at
//!   most [`frame::HEADROOM`] bytes to send in front of the datagram (scattered, or written around it with
//!   [`frame::Header::wrap`] when it was read into a buffer with room) and the padding behind.
//! - After every batch of input: do all of `poll_command`, in order. Sockets named in `OpenRelay` are bound at once
//!   and reported with `relay_opened`; a port that is taken is reported as such and another one follows.
//! - A send error on a relay socket is the loss of that packet and nothing else. ICMP errors of the error queue go to
//!   `handle_icmp`.
//! - Sleep until `deadline`, then `handle_timeout`. Call `set_unix_time` at the start and each minute if time-limited
//!   credentials are used.
//!
//! # Driving a client
//!
//! `start`, then as above: `handle` what comes (payload comes back as a range), send all of `poll_transmit`, look at
//! `poll_event`, sleep until `deadline`, `handle_timeout`. [`client::Client::send`] gives the header to put in front of
//! a payload, or keeps it until its peer is let in. `Event::Redirect` and `Event::NewSocket` ask for a new socket and
//! then [`client::Client::restart`]. A blocking interface is a loop around the same calls (T37).
//!
//! [`Instant`]: std::time::Instant
#![forbid(unsafe_code)]

pub mod client;
mod error;
pub mod frame;
pub mod policy;
pub mod resolve;
pub mod rto;
pub mod server;
pub mod stun;
pub mod uri;

pub use error::TurnError;
pub use frame::Transport;
pub(crate) use stun::stun_id;

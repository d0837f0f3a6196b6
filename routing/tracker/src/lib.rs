//! BitTorrent trackers as a meeting point for nodes that have nothing in common but a secret: both roles, and the rules
//! by which the overlay uses them (BEP 3, 7, 12, 15, 23, 24, 31, 41, 48).
//!
//! ```text
//!   rendezvous: info hashes in force, addresses worth announcing          rendezvous: candidates ─▶ probes
//!        │ set_swarms, set_locals            (the caller wires these)           ▲ peers of an answer
//!  ┌─────▼──────────────────────────── client ──────────────────────────────────┴───────┐      ┌──── server ─────┐
//!  │ swarms × trackers × local addresses ─▶ announcements: when, what, back-off         │      │ cookies, limits │
//!  │        ├─ http::announce ⇄ http::announce_answer        udp::Exchange (15·2^n) ─┤  │      │ swarms          │
//!  └────────┼────────────────────────────────────────────────────────────────────────┼──┘      └──┬───────────┬──┘
//!           │ Transmit::Http, bound to a local address       Transmit::Datagram      │            │ http      │ udp
//!  ─ ─ ─ ─ ─▼─ ─ ─ ─ ─ ─ ─ ─ the caller's sockets, resolver, clock, randomness ─ ─ ─ ▼─ ─ ─ ─ ─ ─ ▼─ ─ ─ ─ ─ ─▼─ ─
//!
//!   below all of them:  bencode   compact (6- and 18-byte entries)   udp::packet   http::AnnounceQuery   url   types
//! ```
//!
//! # The contract
//!
//! Nothing here knows a socket, a clock, a file or the machine's randomness (hash tables aside, whose keys decide
//! nothing that is seen). Bytes, `now` and a random generator come in; requests, reports and the next deadline come out.
//!
//! *Client.* [`client::Client`] is told trackers, swarms and local addresses as often as they change. The caller asks
//! [`client::Client::poll`] until it says `None` and does what it says:
//!
//! | [`client::Transmit`] | the caller | and says |
//! |---|---|---|
//! | `Resolve` | resolves A and AAAA | `resolved` |
//! | `Http` | binds to `local`, connects to `remote` (TLS for the named host), sends the GET, follows no redirect, reads at most [`http::MAX_BODY`] bytes | `http_answer`, `http_failed` |
//! | `Cancel` | closes that connection | nothing |
//! | `Datagram` | sends from a socket bound to `local` and connected to `remote`; closes it when idle for 2 minutes | `datagram` for what arrives, `datagram_failed` |
//!
//! Then [`client::Client::poll_report`], and sleep until [`client::Client::deadline`]. On shutdown: `shut_down`, go on
//! until `is_finished`, which takes 2 s at most. The client times requests out by itself.
//!
//! *Rendezvous.* [`rendezvous::info_hash`] for every epoch of [`rendezvous::epochs_in_force`] goes to the client, again
//! at [`rendezvous::next_change`]; [`rendezvous::Publish::select`] says which addresses do. The peers of a
//! report pass [`rendezvous::Filter::select`] and enter [`rendezvous::Prober`], whose probes the caller writes and sends
//! from its main socket. Only an EPC that proves its sender makes a path of a candidate; no TCP or HTTP connection is
//! ever opened because of one.
//!
//! *Server.* [`server::Server::udp`] and [`server::Server::http`] take a request with its source and append the answer
//! to the caller's buffer. [`server::Server::handle_timeout`] is due at [`server::Server::deadline`].
//!
//! A single question, as `anode tracker announce` asks it, needs no client: [`http::announce`] and
//! [`http::announce_answer`], or one [`udp::Exchange`]; [`Tiers`] says whom to ask.
//!
//! # Bounds
//!
//! Bencode: 1 MiB, 16 levels. An answer: 2,000 peers kept, texts of 256 characters. The client: 32 trackers, 16 swarms,
//! 16 local addresses, 32 HTTP requests at a time. Candidates: 20 of an answer, 256 held; probes: 20 a second, 2,000 an
//! hour, 4 to a candidate and round. The server: [`server::Config`]. What is dropped is counted.
#![forbid(unsafe_code)]

pub mod bencode;
pub mod client;
pub mod compact;
pub mod http;
pub mod rendezvous;
pub mod server;
#[cfg(test)]
mod test_vectors;
mod tiers;
mod types;
pub mod udp;
mod url;

pub use tiers::Tiers;
pub use types::*;
pub use url::{InvalidUrl, MAX_URL, Scheme, TrackerUrl};

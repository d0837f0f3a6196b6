//! Sealed sessions: everything between two of our nodes is encrypted, forward secret and post-quantum (Q1 to Q24).
//!
//! Sans-IO: packets, time and randomness come in, packets, events and the next deadline come out. One [`Sessions`]
//! serves all peers of a node.
//!
//! ```text
//!   packet ─▶ Sessions::handle ─┬─ HELLO ─▶ mac1 ─▶ cookie ─▶ budgets ─▶ CMAC ─▶ Noise ─▶ WELCOME   responder.rs
//!                               ├─ WELCOME, COOKIE, ERROR: only as answers to what we sent           initiator.rs
//!                               └─ SEALED ─▶ window ─▶ tag ─┬─ KEM, FRAGMENT, empty                  receive.rs
//!                                                           └─▶ Opened: type and body, in place
//!   type, body ─▶ Sessions::seal ─▶ packet, in place
//!
//!   initiator            HELLO ───────▶                  responder
//!                              ◀─────── WELCOME
//!                   KEM step 1 ═══════▶                  ═ SEALED under the Noise keys
//!                              ◀═══════ KEM step 2
//!          traffic, or nothing ≡══════▶                  ≡ SEALED under the keys after ML-KEM
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `sessions`, `tables` | the facade: state, persistence, trust; who is known and who makes room |
//! | `initiator`, `responder`, `receive`, `sealing`, `timers` | its ways to be called |
//! | `hello`, `fragment`, `kem`, `ticket` | messages, to the byte |
//! | `noise`, `crypto` | the handshake's resolver and the primitives |
//! | `session`, `replay` | one session, its window |
//! | `peer`, `timestamps` | what is known of a pair, what is kept on disk |
//! | `cookie`, `budget`, `counters`, `policy` | standing up to strangers |
//!
//! # Primitives
//!
//! One crate for one purpose, by measurement (`examples/sealed_speed.rs`; Zen 3, one core):
//!
//! - `aws-lc-rs`: AES-256-GCM in place with a detached tag (1,280 bytes: 285 ns, `ring` 246, `aes-gcm` 601; 65,000 bytes:
//!   6.5 µs, 7.4, 21.5) and P-256 with a static key (45 µs, `p256` 280 µs, HACL* 217 µs). `ring` has no static agreement
//!   and does not clear its keys; `graviola` is as fast, but needs AVX2 and ADX. `aws-lc-rs` does both, clears its keys
//!   when they are dropped, and builds with a C compiler alone.
//! - `ml-kem`: ML-KEM-768 with deterministic entry points, so that randomness is the caller's.
//! - `sha2`, `hmac`, `hkdf`: as in the rest of this crate.
//! - `snow`: the Noise protocol itself.

mod budget;
mod cookie;
mod counters;
mod crypto;
mod fragment;
mod hello;
mod initiator;
mod kem;
mod noise;
mod peer;
mod policy;
mod receive;
mod replay;
mod responder;
mod sealing;
mod session;
mod sessions;
mod tables;
pub mod ticket;
mod timers;
mod timestamps;

#[cfg(test)]
mod tests;

pub use budget::Rate;
pub use counters::{Counters, Drop};
pub use fragment::MAX_DATAGRAM;
pub use hello::VERSION;
pub use peer::PeerKey;
pub use policy::Plain;
pub use replay::WINDOW;
pub use sealing::Sealer;
pub use sessions::{Sessions, Up};
pub use timestamps::{Record, Timestamp};

use crate::{Address, PeerId};
use std::ops::Range;
use std::time::Instant;

/// Message types of the sealed sessions.
pub mod kind {
    /// First message of a handshake.
    pub const HELLO: u8 = 0x40;
    /// Its answer.
    pub const WELCOME: u8 = 0x41;
    /// Everything after.
    pub const SEALED: u8 = 0x42;
    /// "Come again, with this."
    pub const COOKIE: u8 = 0x43;
    /// A slice of a message; only inside SEALED.
    pub const FRAGMENT: u8 = 0x45;
    /// ML-KEM; only inside SEALED.
    pub const KEM: u8 = 0x48;
    /// A ticket's proof; only inside SEALED.
    pub const JOIN: u8 = 0x49;
    /// Its answer; only inside SEALED.
    pub const JOINED: u8 = 0x4A;
    /// A RELOAD message; only inside SEALED.
    pub const RELOAD: u8 = 0x4B;
}

/// Where a message's body stands in a sealed packet: behind header (28), index (4), counter (8) and type (1).
pub const SEALED_BODY: usize = 41;
/// What follows the body: the last 8 bytes of the tag.
pub const SEALED_TAIL: usize = 8;
/// Bytes of a sealed packet without type and body: the empty packet.
pub const SEALED_OVERHEAD: usize = SEALED_BODY - 1 + SEALED_TAIL;
/// Bytes of the largest packet that the handshake sends (D36).
pub const MAX_HANDSHAKE_PACKET: usize = 1232;

/// One peer of one address: sessions, timestamps and pins belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Pair {
    /// Whose key.
    pub address: Address,
    /// Which of the peers that share it; 0 where a node has no peer id, or (when calling) for any of them.
    pub peer: PeerId,
}

/// Both clocks; read once for a batch of packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic.
    pub at: Instant,
    /// Only for the timestamps of HELLOs.
    pub wall: Timestamp,
}

/// Where a packet came from, in the caller's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source<'a> {
    /// The endpoint; cookies are bound to it, answers go back to it.
    pub endpoint: &'a [u8],
    /// What a sender cannot vary for nothing (an IPv4 address, an IPv6 /64): budgets are shared within it.
    pub network: u64,
}

/// Where a packet goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// Over the best path to this peer.
    Peer(Pair),
    /// To [`Source::endpoint`] of a packet that came in.
    Endpoint(Box<[u8]>),
}

/// A packet to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub to: To,
    /// All of it.
    pub packet: Vec<u8>,
}

/// Whether ML-KEM takes part in the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pq {
    /// With all that can; one that has done so once must go on.
    #[default]
    Prefer,
    /// No session without.
    Require,
    /// Never offered.
    Off,
}

/// Bounds and budgets; the defaults suit a machine of any size.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Pairs that are known at once. Untrusted ones make room, the longest unused first.
    pub peers: usize,
    /// Static agreements that are kept; those of trusted addresses always are.
    pub agreements: usize,
    /// Sessions that strangers have asked for and not confirmed.
    pub unconfirmed: usize,
    /// Bytes of incomplete datagrams, of trusted peers and of all others each.
    pub fragment_pool: usize,
    /// Packets that wait for `poll_transmit`.
    pub transmits: usize,
    /// Plain first packets of unknown senders (Q7; see [`Sessions::admit_plain`]).
    pub plain: Rate,
    /// HELLOs of unknown senders without a cookie.
    pub without_cookie: Rate,
    /// HELLOs of unknown senders with a cookie.
    pub with_cookie: Rate,
    /// The same, for each network.
    pub with_cookie_network: Rate,
    /// HELLOs of an address whose agreement is cached, each.
    pub known: Rate,
    /// HELLOs of addresses whose agreement is cached and that are not trusted, together.
    pub known_strangers: Rate,
    /// COOKIEs sent in all.
    pub cookies: Rate,
    /// COOKIEs sent to each network.
    pub cookies_network: Rate,
    /// ERRORs for unknown indices, in all.
    pub errors: Rate,
    /// ERRORs for unknown indices, to each network.
    pub errors_network: Rate,
}

impl Default for Limits {
    /// A stranger's HELLO costs about a quarter of a millisecond: strangers together get at most a quarter of a core.
    fn default() -> Self {
        Self {
            peers: 4096,
            agreements: 4096,
            unconfirmed: 1024,
            fragment_pool: 8 << 20,
            transmits: 1024,
            plain: Rate::new(500, 200),
            without_cookie: Rate::new(200, 100),
            with_cookie: Rate::new(400, 200),
            with_cookie_network: Rate::new(20, 20),
            known: Rate::new(5, 10),
            known_strangers: Rate::new(400, 200),
            cookies: Rate::new(10_000, 2000),
            cookies_network: Rate::new(20, 20),
            errors: Rate::new(1000, 200),
            errors_network: Rate::new(50, 50),
        }
    }
}

/// How a node's sessions behave.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// This node's peer id; 0 for none.
    pub peer: PeerId,
    /// Post-quantum policy.
    pub pq: Pq,
    /// What may go in plain.
    pub plain: Plain,
    /// Bounds and budgets.
    pub limits: Limits,
}

/// Why a session is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Something is to be sent.
    Traffic,
    /// Something unauthenticated says that the session is gone; at most one HELLO per pair and 2 s (Q9).
    Hint,
    /// The session is old (Q16).
    Rekey,
}

/// What [`Sessions::start`] did.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Started {
    /// There is a session.
    Up,
    /// A handshake has begun, or goes on.
    Pending,
    /// A hint too soon after another.
    Throttled,
    /// The pair is this node itself.
    Own,
    /// No room for another peer.
    Full,
    /// The policy is to speak in plain only.
    PlainOnly,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SealError {
    /// Call `start` and wait for [`Event::SessionUp`].
    #[error("there is no session with this peer")]
    NoSession,
    /// The session's time is over, or its counter has run out.
    #[error("the session is too old to seal anything more")]
    Expired,
    /// Less than an empty packet.
    #[error("a sealed packet has at least 48 bytes")]
    TooShort,
    /// More than the cipher takes, or than 255 fragments or 64 KiB hold.
    #[error("too large to be sealed")]
    TooLong,
}

/// An authentic packet of a session: what nominates a path (Q25).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authentic {
    /// Who sealed it.
    pub peer: PeerKey,
    /// Our index of the session.
    pub index: u32,
    /// Its number in the session.
    pub counter: u64,
    /// Relays passed, as the packet claims.
    pub hop_count: u8,
    /// Highest number so far, of a session that has not been replaced.
    pub newest: bool,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A message; its body now stands in clear at `body` of the packet.
    Opened {
        /// The session's packet.
        from: Authentic,
        /// Message type.
        kind: u8,
        /// Where the body is.
        body: Range<usize>,
    },
    /// The last missing FRAGMENT of a message.
    Reassembled {
        /// The session's packet that completed it.
        from: Authentic,
        /// Message type.
        kind: u8,
        /// The body.
        body: Vec<u8>,
    },
    /// It was for the sessions themselves; `from` where it was a session's packet.
    Consumed {
        /// The session's packet.
        from: Option<Authentic>,
    },
    /// Nothing of the sealed sessions: a plain packet, to be judged by [`Sessions::plain_permitted`].
    Plain,
    /// Without effect, and counted.
    Dropped(Drop),
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Down {
    /// Its time was over and no other took its place.
    Expired,
    /// All were dropped (Q17), or this peer's were.
    Dropped,
    /// It made room for another.
    Evicted,
}

/// Why a handshake ended without a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failed {
    /// No answer to any HELLO.
    Timeout,
    /// The peer is up, but its ML-KEM did not come through.
    KemTimeout,
    /// The peer cannot do ML-KEM; policy or its past demand it.
    PqRequired,
    /// The peer's stored timestamp leaves no greater one. Its operator has to forget this node.
    Timestamp,
}

/// What the caller should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Traffic can be sealed.
    SessionUp {
        /// With whom.
        peer: PeerKey,
        /// The same.
        pair: Pair,
        /// The pair that `start` was called with, where it asked for any peer of the address.
        requested: Option<Pair>,
        /// ML-KEM took part in the keys.
        pq: bool,
        /// There was a session before.
        rekeyed: bool,
    },
    /// There is no session with this peer any more.
    SessionDown {
        /// With whom.
        peer: PeerKey,
        /// The same.
        pair: Pair,
        /// Why.
        reason: Down,
    },
    /// A handshake that was started here came to nothing.
    HandshakeFailed {
        /// With whom.
        pair: Pair,
        /// Why.
        reason: Failed,
    },
    /// This has changed and should be on disk before long.
    Persist(Record),
}

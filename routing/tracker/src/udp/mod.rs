//! Announce and scrape over UDP (BEP 15, entries of 18 bytes over IPv6, BEP 41 options).
//!
//! ```text
//!   client                                                     server
//!   Exchange: connect, ask, resend after 15·2^n s              Server (crate::server)
//!      │ packet::write_…                                          │ packet::Request::parse
//!      └────────────── packet: the seven layouts ─────────────────┘
//! ```

mod exchange;
pub mod packet;

pub use exchange::{AnswerError, Ask, CONNECTION_LIFE, Connection, Exchange, Outcome, Poll, Step};

#[cfg(test)]
mod tests;

//! The stream protocol (Anode 0.8 §5) as a sans-IO state machine: one [`Stream`] is one end of one connection.
//!
//! Messages, bytes and the time come in as arguments; messages, events and the next deadline come out. Nothing here
//! knows a socket, a clock or randomness: the initial sequence number is an argument, and seeds what is drawn.
//!
//! ```text
//!        write / finish / abort              read            poll_event
//!              │                               ▲                 ▲
//!  ┌───────────▼─────────── stream: opening, closing, events ────┴──────────┐
//!  │  send: buffer, windows            │  recv: order, window tuning        │
//!  │   ├ scoreboard: fate of packets   │   ├ hold: what came out of order   │
//!  │   ├ recovery: RACK, probes, timer │   └ acks: what to acknowledge, when│
//!  │   ├ rtt, rate: what the path does │                                    │
//!  │   ├ congestion: CUBIC, BBR, Reno  │  seq: 32 bits on the wire ⇄ 64 in  │
//!  │   └ pacing                        │  ranges, ring: the containers      │
//!  │                                   │  pool: memory shared by all streams│
//!  └───────────┬───────────────────────────────┬────────────────────────────┘
//!              ▼                               ▲
//!        poll_transmit, deadline         handle, handle_timeout
//! ```
//!
//! How to drive one: after a batch of [`Stream::handle`], [`Stream::read`], [`Stream::write`] or
//! [`Stream::handle_timeout`], drain [`Stream::poll_event`], call [`Stream::poll_transmit`] until it says `None`, then
//! sleep until [`Stream::deadline`]. One acknowledgement answers a batch.
#![forbid(unsafe_code)]

mod acks;
pub mod congestion;
mod hold;
mod pacing;
mod pool;
mod ranges;
mod rate;
mod recovery;
mod recv;
mod ring;
mod rtt;
mod scoreboard;
mod send;
mod seq;
mod stateless;
mod stream;

pub use congestion::Algorithm;
pub use pool::{DEFAULT_BUDGET, Pool};
pub use stateless::{refusal_for, reset_for};
pub use stream::{Stream, Transmit};

use recv::LARGEST_WINDOW;
use std::time::Duration;

/// Tunables; `Default` is what the program uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// Receive window in bytes before tuning has seen anything.
    pub initial_window: usize,
    /// Largest receive window in bytes (at most 65,535 × 1,024). It is reached only while the reader keeps up, a round
    /// trip brings enough to need it, and `pool` has the memory.
    pub max_window: usize,
    /// Largest send buffer in bytes. It is twice the congestion window until then, and less when `pool` is short.
    pub max_send_buffer: usize,
    /// A stream with data outstanding and no progress for this long ends with reason 3 (D37: 120 s).
    pub stall_timeout: Duration,
    /// A stream with data to send ends with reason 3 when the peer, although it answers, keeps its window closed for
    /// this long. Long, because a paused reader (a pager, a stopped terminal) is no error; finite, because a hostile
    /// one would pin the send buffer.
    pub zero_window_timeout: Duration,
    /// How long a stream that both sides have closed still acknowledges repeats (D35: 60 s).
    pub linger: Duration,
    /// The memory that this stream shares with all others that were given a clone of it.
    pub pool: Pool,
    /// Congestion control; docs/benchmarks/streams.md has the measurements behind the default.
    pub congestion: Algorithm,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_window: 256 * 1024,
            max_window: LARGEST_WINDOW,
            max_send_buffer: 64 * 1024 * 1024,
            stall_timeout: Duration::from_secs(120),
            zero_window_timeout: Duration::from_secs(2 * 60 * 60),
            linger: Duration::from_secs(60),
            pool: Pool::default(),
            congestion: Algorithm::default(),
        }
    }
}

/// Why a stream ended (S_CLOSE reasons; DESIGN §5 adds 0x10 and 0x11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// 00
    Application,
    /// 01
    Refused,
    /// 02
    ProtocolError,
    /// 03
    TimedOut,
    /// 0x10
    Reset,
    /// 0x11
    Policy,
    /// Anything else.
    Other(u8),
}

impl CloseReason {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Application => 0,
            Self::Refused => 1,
            Self::ProtocolError => 2,
            Self::TimedOut => 3,
            Self::Reset => 0x10,
            Self::Policy => 0x11,
            Self::Other(code) => code,
        }
    }

    /// From the byte on the wire.
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Application,
            1 => Self::Refused,
            2 => Self::ProtocolError,
            3 => Self::TimedOut,
            0x10 => Self::Reset,
            0x11 => Self::Policy,
            code => Self::Other(code),
        }
    }
}

/// What happened to a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The peer answered our S_OPEN.
    Opened,
    /// There is data to read (edge: after the reader had drained it).
    Readable,
    /// There is room to write again (edge: after a write was cut short).
    Writable,
    /// The peer will send no more and everything was read.
    Finished,
    /// All that was written and our close are acknowledged.
    Flushed,
    /// The stream is over abnormally: refused, reset, timed out, protocol error. Not reported for one's own `abort`.
    /// Only `Closed` follows; what had arrived in order can still be read until then.
    Aborted {
        /// Why.
        reason: CloseReason,
        /// The peer said so (else we did).
        by_peer: bool,
    },
    /// Nothing more is to be said or answered: forget the stream. After both directions have closed this comes when
    /// the linger time is over and everything was read; after an abort, when the peer knows or six tries are through.
    Closed,
}

/// What a stream has counted since it began.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// S_DATA and S_DACK sent for the first time, and their payload.
    pub data_sent: u64,
    /// Payload bytes sent for the first time.
    pub bytes_sent: u64,
    /// S_DATA and S_CLOSE sent again.
    pub retransmitted: u64,
    /// Of these, needless ones (the original had arrived).
    pub spurious: u64,
    /// Times that loss shrank the congestion window.
    pub loss_events: u64,
    /// Times that this was taken back.
    pub undone: u64,
    /// Times that the retransmission timer ran out.
    pub timeouts: u64,
    /// Tail-loss probes.
    pub probes: u64,
    /// Zero-window probes.
    pub window_probes: u64,
    /// S_OPEN sent, with repeats.
    pub opens_sent: u64,
    /// S_CLOSE sent for the first time.
    pub closes_sent: u64,
    /// S_ACK sent.
    pub acks_sent: u64,
    /// S_DACK sent: acknowledgements that rode on data.
    pub acks_ridden: u64,
    /// Messages of any kind received.
    pub received: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Packets that came before one that was sent earlier.
    pub out_of_order: u64,
    /// Packets received more than once.
    pub duplicates: u64,
    /// Packets beyond the granted window: dropped.
    pub beyond_window: u64,
    /// Data beyond the close, a second close: dropped.
    pub contradictions: u64,
    /// Acknowledgements of what was never sent: dropped.
    pub unsent_acked: u64,
    /// Messages that do not fit the state of the stream, or whose numbers are foreign: dropped.
    pub misplaced: u64,
    /// Packets of ours that arrived marked "congestion experienced", as the peer says.
    pub marks: u64,
}

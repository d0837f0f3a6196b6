//! What the streams tell, and what they give to the router.
use super::connection::Tally;
use crate::destination::Destination;
use crate::envelope::Ports;
use crate::message::MessageStatus;
use std::time::Duration;

/// Names one stream; never used twice for two streams of one table that are open at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StreamId(pub(super) u32);

/// Names one ping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PingId(pub(super) u32);

/// Why a stream ended other than in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The peer reset it.
    #[error("reset by the peer")]
    Reset,
    /// The peer did not answer our SYN.
    #[error("the peer did not answer")]
    ConnectTimedOut,
    /// The program did not accept it in time.
    #[error("not accepted in time")]
    NotAccepted,
    /// The peer stopped answering.
    #[error("the peer stopped answering")]
    TimedOut,
    /// The router could not send our SYN.
    #[error("{0}")]
    Router(MessageStatus),
    /// The session with the router ended.
    #[error("the I2P session ended")]
    SessionLost,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A stream wants to be opened: [`Streams::accept`](super::Streams::accept), [`Streams::refuse`](super::Streams::refuse) or [`Streams::ignore`](super::Streams::ignore) it.
    Incoming {
        /// The stream.
        stream: StreamId,
        /// Who opens it; proven by its signature.
        peer: Destination,
        /// The port that it is for.
        local_port: u16,
        /// The port that it comes from.
        remote_port: u16,
    },
    /// The peer accepted our stream.
    Connected(StreamId),
    /// There is data to read (edge: after the reader had drained it).
    Readable(StreamId),
    /// There is room to write (edge: after a write was cut short).
    Writable(StreamId),
    /// The peer has closed and everything was read.
    Finished(StreamId),
    /// The stream is over and forgotten; `None`: in order.
    Closed(StreamId, Option<Failure>),
    /// A ping was answered after this time, or not (within 30 s).
    Pong(PingId, Option<Duration>),
}

/// A message for the router to send, with [`STREAMING`](crate::envelope::protocol::STREAMING).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub to: Destination,
    /// Ports and protocol of the gzip header.
    pub ports: Ports,
    /// The packet.
    pub data: Vec<u8>,
    /// It carries a destination, whose padding compresses (I65).
    pub compress: bool,
    /// 0, or what [`Streams::handle_status`](super::Streams::handle_status) wants to hear about.
    pub nonce: u32,
    /// How long it is worth something.
    pub ttl: Duration,
}

/// What the streams have counted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Streams that we opened.
    pub opened: u64,
    /// Streams that peers opened.
    pub accepted: u64,
    /// SYNs that were refused: nobody listens, too many wait, or too many streams.
    pub refused: u64,
    /// Packets that are malformed.
    pub malformed: u64,
    /// Packets whose signature does not verify, or that lack the one they need.
    pub forged: u64,
    /// SYNs for another destination: dropped.
    pub misdirected: u64,
    /// Packets for no stream that is known: dropped.
    pub unknown: u64,
    /// SYNs and pings beyond the rate: dropped.
    pub rate_limited: u64,
    /// Packets that came before their SYN and were kept.
    pub early: u64,
    /// Of these, dropped: too many, or no SYN came.
    pub early_dropped: u64,
    /// Packets sent again.
    pub resent: u64,
    /// Packets lost by the timer.
    pub timeouts: u64,
    /// Packets received twice.
    pub duplicates: u64,
    /// Packets beyond a stream's buffer or its end: dropped.
    pub beyond_window: u64,
    /// Acknowledgements of what was never sent: dropped.
    pub unsent_acked: u64,
    /// Pings of peers that were answered.
    pub pongs: u64,
}

impl Counters {
    /// Adds the numbers of one stream.
    pub(super) fn join(&mut self, tally: Tally) {
        self.resent += tally.resent;
        self.timeouts += tally.timeouts;
        self.duplicates += tally.duplicates;
        self.beyond_window += tally.refused;
        self.unsent_acked += tally.unsent_acked;
    }
}

/// What is known of one stream, for people to see.
#[derive(Clone, Debug)]
pub struct Info {
    /// The far side.
    pub peer: Destination,
    /// Our port and theirs.
    pub ports: (u16, u16),
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Packets that may be in flight.
    pub window: f64,
    /// Bytes that wait to be sent.
    pub unsent: usize,
    /// Bytes that wait to be read.
    pub unread: usize,
    /// The peer wants nothing more for now.
    pub choked: bool,
}

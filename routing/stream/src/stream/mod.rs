//! One end of one stream: opening, closing, and the dialogue between the two halves.
mod handle;
mod inbound;
mod lingering;
mod outbound;
mod program;
mod timers;

pub use handle::Stream;

use crate::acks::{Acknowledger, Encoded};
use crate::recv::Receiver;
use crate::send::Sender;
use crate::{CloseReason, Config, Counters, Event};
use anode_wire::message::{Acks, Links, StreamMessage};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// S_OPEN is repeated this long after the first (D29), and given up after the last.
const OPEN_REPEATS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
const OPEN_GIVEN_UP: Duration = Duration::from_secs(32);
/// An S_OPEN that the program has not answered is forgotten: its sender has given up long ago.
const HELD_FOR: Duration = Duration::from_secs(60);
/// S_CLOSE is sent this often (D35).
const CLOSE_TRIES: u32 = 6;
/// After this long without a word a live key yields to an S_OPEN with another ISN (D29).
const IDLE_YIELDS: Duration = Duration::from_secs(60);
/// Buffers are given back after this much idleness.
const RELEASE_AFTER: Duration = Duration::from_secs(10);
/// Acknowledgements of what was never sent that are put down to a mix-up; more end the stream (a peer that invents
/// them makes us send faster than the path can take).
const UNSENT_ACKS_FORGIVEN: u64 = 100;
/// S_OPEN flag 01: the link id is a port (A62).
const FLAG_PORT: u8 = 1;
/// Body bytes before the payload: S_DATA, and S_DACK without its acknowledgements.
const DATA_HEADER: usize = 8;
const DACK_HEADER: usize = 11;
/// Entries on an S_DACK.
const DACK_ENTRIES: usize = 3;

/// S_OPEN, until it is answered or acknowledged.
#[derive(Clone, Copy, Debug)]
struct Opening {
    since: Instant,
    /// Repeats that the timer has asked for.
    repeats: usize,
    send: bool,
}

impl Opening {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            repeats: 0,
            send: true,
        }
    }

    fn deadline(&self) -> Instant {
        self.since
            + OPEN_REPEATS
                .get(self.repeats)
                .copied()
                .unwrap_or(OPEN_GIVEN_UP)
    }

    /// The timer: false when the tries are through.
    fn on_timeout(&mut self, now: Instant) -> bool {
        while self.deadline() <= now {
            if self.repeats == OPEN_REPEATS.len() {
                return false;
            }
            self.repeats += 1;
            self.send = true;
        }
        true
    }
}

/// S_CLOSE that ends both directions, until it is acknowledged.
#[derive(Clone, Copy, Debug)]
struct Aborting {
    reason: CloseReason,
    sequence: u32,
    tries: u32,
    next: Instant,
    wait: Duration,
    send: bool,
}

/// Where the stream stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Our S_OPEN is out, nothing has come back.
    Opening(Opening),
    /// The peer's S_OPEN is held until the program accepts.
    Held { since: Instant },
    /// We have answered; the peer has not shown that it knows.
    Answering(Opening),
    /// Both know both.
    Open,
    /// An S_OPEN was refused: repeats of it get the same answer.
    Refused {
        reason: CloseReason,
        until: Instant,
        send: bool,
    },
    /// We ended both directions.
    Aborting(Aborting),
    /// Over; the peer's repeats are still acknowledged.
    Lingering { until: Instant },
    /// Nothing is answered any more, but the program has not read everything.
    Draining,
    /// Over.
    Closed,
}

/// A stream until it lingers with everything read. Buffers are allocated when used and given back when idle.
#[derive(Debug)]
struct Live {
    config: Config,
    links: Links,
    flags: u8,
    state: State,
    /// Known to know our S_OPEN: something came that presumes it.
    confirmed: bool,
    /// The S_OPENs crossed and ours may be lost: repeat it.
    reopen: bool,
    send: Sender,
    /// Once the peer's S_OPEN is known.
    recv: Option<Receiver>,
    acks: Acknowledger,
    /// The peer's S_CLOSE that ended both directions, to be acknowledged alone.
    final_ack: Option<u32>,
    /// Times that the peer repeated its close.
    close_repeats: u8,
    events: VecDeque<Event>,
    /// The reader has emptied the buffer and wants to hear of more.
    wants_read: bool,
    /// A write was cut short.
    wants_write: bool,
    finished: bool,
    flushed: bool,
    heard: Instant,
    active: Instant,
    released: bool,
    counters: Counters,
    /// Entries of the message that `poll_transmit` returned last.
    encoded: Encoded,
}

/// A message ready to be sent; borrows the stream's buffer.
#[derive(Debug)]
pub struct Transmit<'a> {
    message: StreamMessage<'a>,
    retransmission: bool,
}

impl<'a> Transmit<'a> {
    /// An acknowledgement alone. `encoded` holds whole entries, one at least.
    fn ack(links: Links, window: u16, encoded: &'a Encoded) -> Option<Self> {
        let acks = Acks::from_bytes(encoded.as_bytes()).ok()?;
        Some(Self {
            message: StreamMessage::Ack {
                links,
                window,
                acks,
            },
            retransmission: false,
        })
    }
}

impl Transmit<'_> {
    /// The message; `len()`, `kind()` and `emit()` put it on the wire.
    pub fn message(&self) -> &StreamMessage<'_> {
        &self.message
    }

    /// Sent before: the packet carries the full sender address (D20).
    pub fn is_retransmission(&self) -> bool {
        self.retransmission
    }
}

impl Live {
    /// Our side opens. `links.sender` is ours. `flag 01` set: it is a source port.
    fn open(config: &Config, now: Instant, links: Links, flags: u8, isn: u32) -> Self {
        Self::new(
            config,
            now,
            links,
            flags,
            isn,
            State::Opening(Opening::new(now)),
        )
    }

    /// The peer's S_OPEN arrived; nothing is answered before `accept` or `abort` (repeats of the S_OPEN are
    /// swallowed). `links.sender` is ours. What is not accepted within 60 s ends as timed out.
    fn incoming(
        config: &Config,
        now: Instant,
        links: Links,
        window: u16,
        peer_isn: u32,
        isn: u32,
    ) -> Self {
        let mut stream = Self::new(
            config,
            now,
            links,
            FLAG_PORT,
            isn,
            State::Held { since: now },
        );
        stream.send.set_window(now, window);
        stream.recv = Some(Receiver::new(now, peer_isn, config));
        stream
    }

    fn new(config: &Config, now: Instant, links: Links, flags: u8, isn: u32, state: State) -> Self {
        Self {
            config: config.clone(),
            links,
            flags,
            state,
            confirmed: false,
            reopen: false,
            send: Sender::new(now, isn, config),
            recv: None,
            acks: Acknowledger::new(),
            final_ack: None,
            close_repeats: 0,
            events: VecDeque::new(),
            wants_read: true,
            wants_write: false,
            finished: false,
            flushed: false,
            heard: now,
            active: now,
            released: true,
            counters: Counters::default(),
            encoded: Encoded::default(),
        }
    }

    /// Answers the S_OPEN with ours.
    fn accept(&mut self, now: Instant) {
        if let State::Held { .. } = self.state {
            self.state = State::Answering(Opening::new(now));
        }
    }

    /// What the program may learn after its data was acknowledged.
    fn after_write_side(&mut self, now: Instant) {
        if self.wants_write && self.send.has_room() {
            self.wants_write = false;
            self.events.push_back(Event::Writable);
        }
        if self.send.is_flushed() && !self.flushed {
            self.flushed = true;
            self.events.push_back(Event::Flushed);
            self.maybe_linger(now);
        }
    }

    /// What the program may learn after reading, or after the peer's close.
    fn after_read_side(&mut self, now: Instant) {
        let Some(recv) = &self.recv else { return };
        let closed = recv.is_closed();
        if closed && recv.unread() == 0 && !self.finished {
            self.finished = true;
            self.events.push_back(Event::Finished);
        }
        if matches!(self.state, State::Draining) && self.finished {
            self.closed();
        } else if closed {
            self.maybe_linger(now);
        }
    }

    fn maybe_linger(&mut self, now: Instant) {
        let read_done = self.recv.as_ref().is_some_and(Receiver::is_closed);
        if read_done
            && self.send.is_flushed()
            && matches!(self.state, State::Open | State::Answering(_))
        {
            self.linger(now);
        }
    }

    fn linger(&mut self, now: Instant) {
        self.state = State::Lingering {
            until: now + self.config.linger,
        };
        self.send.clear();
    }

    /// Tells the program that the stream ended abnormally.
    fn aborted(&mut self, reason: CloseReason, by_peer: bool) {
        self.events.clear();
        self.events.push_back(Event::Aborted { reason, by_peer });
        self.finished = true;
        self.flushed = true;
        self.send.clear();
        if let Some(recv) = &mut self.recv {
            recv.drop_held();
        }
    }

    fn closed(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.send.clear();
            self.events.push_back(Event::Closed);
        }
    }

    /// Ends the stream from here and tells the program.
    fn fail(&mut self, now: Instant, reason: CloseReason) {
        self.abort(now, reason);
        let closed = matches!(self.state, State::Closed);
        self.aborted(reason, false);
        if closed {
            self.events.push_back(Event::Closed);
        }
    }
}

//! The stream protocol (Anode 0.8 §5) as a sans-IO state machine: one `Stream` is one end of one connection.
use anode_wire::message::{Links, StreamMessage};
use std::time::{Duration, Instant};

/// Tunables; `Default` is what the program uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest receive window in bytes (at most 65,535 × 1,024).
    pub max_window: usize,
    /// Largest send buffer in bytes.
    pub max_send_buffer: usize,
    /// A stream with data outstanding and no progress for this long ends with reason 3 (D37: 120 s).
    pub stall_timeout: Duration,
}
impl Default for Config { fn default() -> Self { todo!() } }

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
    /// The stream is over abnormally: refused, reset, timed out, protocol error. Nothing follows.
    Aborted {
        /// Why.
        reason: CloseReason,
        /// The peer said so (else we did).
        by_peer: bool,
    },
    /// Both directions are closed and the linger time is over: forget the stream.
    Closed,
}

/// One end of one stream.
pub struct Stream {}

/// A message ready to be sent; borrows the stream's send buffer.
pub struct Transmit<'a> { message: StreamMessage<'a>, retransmission: bool }
impl Transmit<'_> {
    /// The message; `len()`, `kind()` and `emit()` put it on the wire.
    pub fn message(&self) -> &StreamMessage<'_> { &self.message }
    /// Sent before: the packet carries the full sender address (D20).
    pub fn is_retransmission(&self) -> bool { self.retransmission }
}

impl Stream {
    /// Our side opens. `links.sender` is ours. `flag 01` set: it is a source port.
    pub fn open(_config: &Config, _now: Instant, _links: Links, _flags: u8, _isn: u32) -> Self { todo!() }
    /// The peer's S_OPEN arrived; nothing is answered before `accept` or `abort` (repeats of the S_OPEN are swallowed). `links.sender` is ours.
    pub fn incoming(_config: &Config, _now: Instant, _links: Links, _window: u16, _peer_isn: u32, _isn: u32) -> Self { todo!() }
    /// Answers the S_OPEN with ours.
    pub fn accept(&mut self, _now: Instant) { todo!() }
    /// A message of this stream arrived.
    pub fn handle(&mut self, _now: Instant, _message: &StreamMessage<'_>) { todo!() }
    /// The packet that carried the last message was marked "congestion experienced".
    pub fn handle_ecn(&mut self, _now: Instant) { todo!() }
    /// The next message to send now, at most `max` bytes of body; `None`: nothing (or the pacer says wait: see `deadline`).
    pub fn poll_transmit(&mut self, _now: Instant, _max: usize) -> Option<Transmit<'_>> { todo!() }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> { todo!() }
    /// When `handle_timeout` wants to be called, and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> { todo!() }
    /// A deadline has passed.
    pub fn handle_timeout(&mut self, _now: Instant) { todo!() }
    /// Takes as much of `data` as there is room for; 0 after `finish`.
    pub fn write(&mut self, _now: Instant, _data: &[u8]) -> usize { todo!() }
    /// Bytes that `write` would take now.
    pub fn write_capacity(&self) -> usize { todo!() }
    /// Offers what is in order to `sink`, which returns how much it took; returns the sum. Opens the window.
    pub fn read(&mut self, _now: Instant, _sink: &mut dyn FnMut(&[u8]) -> usize) -> usize { todo!() }
    /// No more will be written (half-close): S_CLOSE 00 after all that was written.
    pub fn finish(&mut self, _now: Instant) { todo!() }
    /// Ends both directions at once with this reason (refuses an incoming stream).
    pub fn abort(&mut self, _now: Instant, _reason: CloseReason) { todo!() }
    /// The link ids, ours first.
    pub fn links(&self) -> Links { todo!() }
    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> { todo!() }
}

//! The handle of a stream: a live one, or what is left of it.
use super::lingering::{Ended, Lingering};
use super::{Live, State, Transmit};
use crate::acks::Encoded;
use crate::congestion::Model;
use crate::{CloseReason, Config, Counters, Event};
use anode_wire::message::{Links, StreamMessage};
use std::time::{Duration, Instant};

/// One end of one stream. Buffers are allocated when used and given back when idle; a stream that lingers with
/// everything read keeps some 300 bytes.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Live(Box<Live>),
    Lingering(Box<Lingering>),
}

impl Live {
    /// What is to be kept of a stream whose program has seen everything and whose acknowledgements are out.
    fn remains(&self) -> Option<Lingering> {
        let State::Lingering { until } = self.state else {
            return None;
        };
        let recv = self.recv.as_ref()?;
        let settled = self.finished
            && self.events.is_empty()
            && self.final_ack.is_none()
            && !self.acks.is_waiting()
            && recv.unread() == 0;
        settled.then(|| Lingering {
            links: self.links,
            peer: Ended {
                isn: recv.isn(),
                next: recv.next(),
                orderly: recv.is_closed(),
            },
            until,
            counters: self.counters,
            close_repeats: self.close_repeats,
            asked: None,
            over: false,
            reported: false,
            encoded: Encoded::default(),
        })
    }
}

impl Stream {
    /// Our side opens. `links.sender` is ours. `flag 01` set: it is a source port.
    pub fn open(config: &Config, now: Instant, links: Links, flags: u8, isn: u32) -> Self {
        let live = Live::open(config, now, links, flags, isn);
        Self(Inner::Live(Box::new(live)))
    }

    /// The peer's S_OPEN arrived; nothing is answered before `accept` or `abort` (repeats of the S_OPEN are
    /// swallowed). `links.sender` is ours. What is not accepted within 60 s ends as timed out.
    pub fn incoming(
        config: &Config,
        now: Instant,
        links: Links,
        window: u16,
        peer_isn: u32,
        isn: u32,
    ) -> Self {
        let live = Live::incoming(config, now, links, window, peer_isn, isn);
        Self(Inner::Live(Box::new(live)))
    }

    /// Answers the S_OPEN with ours.
    pub fn accept(&mut self, now: Instant) {
        match &mut self.0 {
            Inner::Live(live) => live.accept(now),
            Inner::Lingering(_) => {}
        }
    }

    /// A message of this stream arrived.
    pub fn handle(&mut self, now: Instant, message: &StreamMessage<'_>) {
        match &mut self.0 {
            Inner::Live(live) => live.handle(now, message),
            Inner::Lingering(lingering) => lingering.handle(message),
        }
    }

    /// The packet that carried the last message was marked "congestion experienced". The next acknowledgement tells
    /// the sender, which reduces its rate without a loss.
    pub fn handle_ecn(&mut self, now: Instant) {
        match &mut self.0 {
            Inner::Live(live) => live.handle_ecn(now),
            Inner::Lingering(_) => {}
        }
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.0 {
            Inner::Live(live) => live.handle_timeout(now),
            Inner::Lingering(lingering) => lingering.handle_timeout(now),
        }
    }

    /// Whether an acknowledgement waits, but only a moment, for something to leave with.
    pub fn waits_for_company(&self, now: Instant) -> bool {
        matches!(&self.0, Inner::Live(live) if live.acks.is_soon(now))
    }

    /// Something leaves for the same peer now: what waits for company goes with it, with the next `poll_transmit`.
    pub fn hurry(&mut self, now: Instant) {
        if let Inner::Live(live) = &mut self.0 {
            live.acks.hurry(now);
        }
    }

    /// When `handle_timeout` wants to be called, and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        match &self.0 {
            Inner::Live(live) => live.deadline(),
            Inner::Lingering(lingering) => (!lingering.over).then_some((lingering.until, "linger")),
        }
    }

    /// The next message to send now, at most `max` bytes of body; `None`: nothing (or the pacer says wait: see
    /// `deadline`). Call until `None`.
    ///
    /// `max` shapes new data only. A packet's payload is fixed when it is first sent (N9), so a retransmission can
    /// exceed a `max` that has shrunk since: the caller sends it in fragments.
    pub fn poll_transmit(&mut self, now: Instant, max: usize) -> Option<Transmit<'_>> {
        if let Inner::Live(live) = &self.0
            && let Some(remains) = live.remains()
        {
            self.0 = Inner::Lingering(Box::new(remains));
        }
        match &mut self.0 {
            Inner::Live(live) => live.poll_transmit(now, max),
            Inner::Lingering(lingering) => lingering.poll_transmit(),
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        match &mut self.0 {
            Inner::Live(live) => live.poll_event(),
            Inner::Lingering(lingering) => lingering.poll_event(),
        }
    }

    /// Takes as much of `data` as there is room for; 0 after `finish` and after the end. Data written before the peer
    /// has answered the S_OPEN waits for it.
    pub fn write(&mut self, now: Instant, data: &[u8]) -> usize {
        match &mut self.0 {
            Inner::Live(live) => live.write(now, data),
            Inner::Lingering(_) => 0,
        }
    }

    /// Bytes that `write` would take now.
    pub fn write_capacity(&self) -> usize {
        match &self.0 {
            Inner::Live(live) => live.write_capacity(),
            Inner::Lingering(_) => 0,
        }
    }

    /// Retransmission timeouts since anything was last acknowledged.
    pub fn timeouts_in_a_row(&self) -> u32 {
        match &self.0 {
            Inner::Live(live) => live.timeouts_in_a_row(),
            Inner::Lingering(_) => 0,
        }
    }

    /// Bytes written and not yet acknowledged.
    pub fn unacknowledged(&self) -> usize {
        match &self.0 {
            Inner::Live(live) => live.unacknowledged(),
            Inner::Lingering(_) => 0,
        }
    }

    /// Bytes that `read` would offer now.
    pub fn readable(&self) -> usize {
        match &self.0 {
            Inner::Live(live) => live.readable(),
            Inner::Lingering(_) => 0,
        }
    }

    /// Offers what is in order to `sink`, which returns how much it took; returns the sum. Opens the window.
    pub fn read(&mut self, now: Instant, sink: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        match &mut self.0 {
            Inner::Live(live) => live.read(now, sink),
            Inner::Lingering(_) => 0,
        }
    }

    /// No more will be written (half-close): S_CLOSE 00 after all that was written.
    pub fn finish(&mut self, now: Instant) {
        match &mut self.0 {
            Inner::Live(live) => live.finish(now),
            Inner::Lingering(_) => {}
        }
    }

    /// Ends both directions at once with this reason (refuses an incoming stream). What was not sent is dropped (N5).
    /// Only `Closed` follows. Keep driving the stream until then, or forget it at once and let the peer find out.
    pub fn abort(&mut self, now: Instant, reason: CloseReason) {
        match &mut self.0 {
            Inner::Live(live) => live.abort(now, reason),
            Inner::Lingering(_) => {}
        }
    }

    /// The link ids, ours first.
    pub fn links(&self) -> Links {
        match &self.0 {
            Inner::Live(live) => live.links(),
            Inner::Lingering(lingering) => lingering.links,
        }
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        match &self.0 {
            Inner::Live(live) => live.rtt(),
            Inner::Lingering(_) => None,
        }
    }

    /// Bytes that congestion control lets be in flight.
    pub fn congestion_window(&self) -> usize {
        match &self.0 {
            Inner::Live(live) => live.congestion_window(),
            Inner::Lingering(_) => 0,
        }
    }

    /// What congestion control believes of the path, for traces.
    pub fn model(&self) -> Option<Model> {
        match &self.0 {
            Inner::Live(live) => Some(live.model()),
            Inner::Lingering(_) => None,
        }
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        match &self.0 {
            Inner::Live(live) => live.counters(),
            Inner::Lingering(lingering) => lingering.counters,
        }
    }

    /// Bytes of memory allocated for buffers, about.
    pub fn memory(&self) -> usize {
        match &self.0 {
            Inner::Live(live) => live.memory(),
            Inner::Lingering(_) => 0,
        }
    }

    /// Neither `Opened` nor accepted yet.
    pub fn is_opening(&self) -> bool {
        match &self.0 {
            Inner::Live(live) => live.is_opening(),
            Inner::Lingering(_) => false,
        }
    }

    /// `Closed` was, or is about to be, reported.
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            Inner::Live(live) => live.is_closed(),
            Inner::Lingering(lingering) => lingering.over,
        }
    }

    /// There is a way to the peer again, after one on which nothing arrived any more: if a retransmission waits for its
    /// timer, it goes at once, and so does an acknowledgement.
    pub fn resume(&mut self, now: Instant) {
        match &mut self.0 {
            Inner::Live(live) => live.resume(now),
            Inner::Lingering(_) => {}
        }
    }

    /// Bounds the buffers anew, in bytes: for sharing a budget among streams. What is buffered or granted stays.
    pub fn set_limits(&mut self, max_window: usize, max_send_buffer: usize) {
        match &mut self.0 {
            Inner::Live(live) => live.set_limits(max_window, max_send_buffer),
            Inner::Lingering(_) => {}
        }
    }

    /// Whether an S_OPEN with this number on the stream's key begins a new one: the stream is over, or nothing was
    /// heard of the peer for 60 s (D29). The caller forgets this stream then.
    pub fn yields_to(&self, now: Instant, peer_isn: u32) -> bool {
        match &self.0 {
            Inner::Live(live) => live.yields_to(now, peer_isn),
            Inner::Lingering(lingering) => peer_isn != lingering.peer.isn,
        }
    }

    /// Whether a reset for an unknown stream (S_CLOSE 0x10 with two equal numbers, Q22) is to be believed: the number
    /// lies in the send window, or was sent, in data or as the first of an acknowledgement, in the last 10 s.
    pub fn believes_reset(&self, now: Instant, message: &StreamMessage<'_>) -> bool {
        match &self.0 {
            Inner::Live(live) => live.believes_reset(now, message),
            Inner::Lingering(_) => false,
        }
    }

    /// A reset for an unknown stream arrived inside SEALED (in plain it is not to be heard, D35). Ends the stream if it
    /// is to be believed, else counts it; true if it ended.
    /// A stream of which only the acknowledgements are left is not ended by it: there is nothing to end.
    pub fn handle_reset(&mut self, now: Instant, message: &StreamMessage<'_>) -> bool {
        match &mut self.0 {
            Inner::Live(live) => live.handle_reset(now, message),
            Inner::Lingering(lingering) => {
                lingering.counters.received += 1;
                lingering.counters.misplaced += 1;
                false
            }
        }
    }
}

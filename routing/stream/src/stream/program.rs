//! What the program that uses the stream can do and ask.
use super::{Aborting, Live, State};
use crate::congestion::Model;
use crate::recv::Receiver;
use crate::{CloseReason, Counters, Event};
use anode_wire::message::Links;
use std::time::{Duration, Instant};

impl Live {
    /// The next event.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes as much of `data` as there is room for; 0 after `finish` and after the end. Data written before the peer
    /// has answered the S_OPEN waits for it.
    pub(super) fn write(&mut self, now: Instant, data: &[u8]) -> usize {
        let taken = if self.is_writable() {
            self.send.write(data)
        } else {
            0
        };
        self.wants_write |= taken < data.len();
        if taken > 0 {
            self.active = now;
            self.released = false;
            self.send.update_persist(now);
        }
        taken
    }

    /// Bytes that `write` would take now.
    pub(super) fn write_capacity(&self) -> usize {
        if self.is_writable() {
            self.send.capacity()
        } else {
            0
        }
    }

    /// Retransmission timeouts since anything was last acknowledged.
    pub(super) fn timeouts_in_a_row(&self) -> u32 {
        self.send.recovery.backoff()
    }

    /// Bytes written and not yet acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.send.buffered()
    }

    fn is_writable(&self) -> bool {
        matches!(
            self.state,
            State::Opening(_) | State::Held { .. } | State::Answering(_) | State::Open
        )
    }

    /// Bytes that `read` would offer now.
    pub(super) fn readable(&self) -> usize {
        self.recv.as_ref().map_or(0, Receiver::unread)
    }

    /// Offers what is in order to `sink`, which returns how much it took; returns the sum. Opens the window.
    pub(super) fn read(&mut self, now: Instant, sink: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let Some(recv) = &mut self.recv else { return 0 };
        let taken = recv.read(sink);
        if recv.unread() == 0 {
            self.wants_read = true;
        }
        if taken > 0 {
            self.active = now;
            recv.tune(now, self.send.rtt.smoothed());
            if recv.wants_update() {
                self.acks.at_once();
            }
            self.after_read_side(now);
        }
        taken
    }

    /// No more will be written (half-close): S_CLOSE 00 after all that was written.
    pub(super) fn finish(&mut self, now: Instant) {
        if self.is_writable() {
            self.send.close();
            self.active = now;
        }
    }

    /// Ends both directions at once with this reason (refuses an incoming stream). What was not sent is dropped (N5).
    /// Only `Closed` follows. Keep driving the stream until then, or forget it at once and let the peer find out.
    pub(super) fn abort(&mut self, now: Instant, reason: CloseReason) {
        match self.state {
            State::Held { .. } => {
                self.state = State::Refused {
                    reason,
                    until: now + self.config.linger,
                    send: true,
                };
            }
            State::Opening(opening) if opening.send && opening.repeats == 0 => self.closed(),
            State::Opening(_) | State::Answering(_) | State::Open => {
                let sequence = self.send.close_sequence();
                let wait = self.send.rtt.rto();
                self.state = State::Aborting(Aborting {
                    reason,
                    sequence,
                    tries: 1,
                    next: now + wait,
                    wait,
                    send: true,
                });
            }
            // Both directions are over; what was not read is not wanted.
            State::Lingering { .. } => self.finished = true,
            State::Draining => self.closed(),
            State::Refused { .. } | State::Aborting(_) | State::Closed => return,
        }
        self.events.retain(|e| *e == Event::Closed);
        self.send.clear();
        if let Some(recv) = &mut self.recv {
            recv.drop_held();
        }
    }

    /// The link ids, ours first.
    pub(super) fn links(&self) -> Links {
        self.links
    }

    /// Smoothed round-trip time.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.send.rtt.smoothed()
    }

    /// Bytes that congestion control lets be in flight.
    pub(super) fn congestion_window(&self) -> usize {
        self.send.congestion_window()
    }

    /// What congestion control believes of the path.
    pub(super) fn model(&self) -> Model {
        self.send.model()
    }

    /// What it has counted.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of memory allocated for buffers, about.
    pub(super) fn memory(&self) -> usize {
        self.send.memory() + self.recv.as_ref().map_or(0, Receiver::memory)
    }

    /// Neither `Opened` nor accepted yet.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_) | State::Held { .. })
    }

    /// `Closed` was, or is about to be, reported.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// There is a way to the peer again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.send.resume(now);
        if self.recv.is_some() {
            // What was acknowledged over the old path may not have arrived.
            self.acks.at_once();
        }
    }

    /// Bounds the buffers anew, in bytes: for sharing a budget among streams. What is buffered or granted stays.
    pub(super) fn set_limits(&mut self, max_window: usize, max_send_buffer: usize) {
        self.config.max_window = max_window;
        self.config.max_send_buffer = max_send_buffer;
        self.send.set_max_buffer(max_send_buffer);
        if let Some(recv) = &mut self.recv {
            recv.set_max_limit(max_window);
        }
    }
}

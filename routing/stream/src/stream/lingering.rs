//! What is left of a stream when both directions have closed and everything was read: enough to acknowledge what the
//! peer repeats, until the linger time is over (D35).
use super::Transmit;
use crate::acks::Encoded;
use crate::{CloseReason, Counters, Event, seq};
use anode_wire::message::{Links, StreamMessage};
use std::time::Instant;

/// A count of an acknowledgement has 8 bits.
const LONGEST: u64 = 255;

/// The peer's direction as it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) isn: u32,
    /// The position after the last that arrived in order.
    pub(super) next: u64,
    /// The peer's close is below it: all has arrived.
    pub(super) orderly: bool,
}

/// How often a close that came so many times again is acknowledged: from the second repeat on twice. Its sender tries
/// six times only (D35), and by then has lost two of our answers.
pub(super) fn answers(repeats: u8) -> u8 {
    if repeats > 1 { 2 } else { 1 }
}

/// A lingering stream.
#[derive(Debug)]
pub(super) struct Lingering {
    pub(super) links: Links,
    pub(super) peer: Ended,
    pub(super) until: Instant,
    pub(super) counters: Counters,
    /// Times that the peer repeated its close.
    pub(super) close_repeats: u8,
    /// The number to acknowledge, and how often.
    pub(super) asked: Option<(u32, u8)>,
    pub(super) over: bool,
    pub(super) reported: bool,
    pub(super) encoded: Encoded,
}

impl Lingering {
    pub(super) fn handle(&mut self, message: &StreamMessage<'_>) {
        self.counters.received += 1;
        if self.over {
            self.counters.misplaced += 1;
            return;
        }
        match *message {
            StreamMessage::Open { isn, .. } if isn == self.peer.isn => self.asked = Some((isn, 1)),
            StreamMessage::Data { sequence, .. } | StreamMessage::Dack { sequence, .. }
                if self.peer.orderly =>
            {
                self.on_data(sequence)
            }
            StreamMessage::Close {
                reason,
                initial,
                sequence,
                ..
            } if initial == self.peer.isn && initial != sequence => self.on_close(reason, sequence),
            StreamMessage::Ack { .. } if self.peer.orderly => {}
            _ => self.counters.misplaced += 1,
        }
    }

    fn position(&self, sequence: u32) -> Option<u64> {
        seq::position(sequence, self.peer.isn, self.peer.next)
    }

    fn on_data(&mut self, sequence: u32) {
        match self.position(sequence).filter(|&p| p > 0) {
            None => self.counters.misplaced += 1,
            // The last position is the close.
            Some(position) if position + 1 < self.peer.next => {
                self.counters.duplicates += 1;
                self.asked = Some((sequence, 1));
            }
            Some(_) => self.counters.contradictions += 1,
        }
    }

    fn on_close(&mut self, reason: u8, sequence: u32) {
        let Some(position) = self.position(sequence) else {
            self.counters.misplaced += 1;
            return;
        };
        if reason != CloseReason::Application.code() {
            self.asked = Some((sequence, 1));
        } else if !self.peer.orderly {
            self.counters.misplaced += 1;
        } else if position + 1 == self.peer.next {
            self.counters.duplicates += 1;
            self.close_repeats = self.close_repeats.saturating_add(1);
            self.asked = Some((sequence, answers(self.close_repeats)));
        } else {
            self.counters.contradictions += 1;
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        let (sequence, times) = self.asked?;
        self.asked = (times > 1).then_some((sequence, times - 1));
        self.counters.acks_sent += 1;
        self.encoded = Encoded::single(sequence);
        if self.peer.orderly {
            let count = self.peer.next.min(LONGEST);
            let first = seq::on_wire(self.peer.isn, self.peer.next - count);
            self.encoded.push(first, count as u8);
        }
        Transmit::ack(self.links, 0, &self.encoded)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.over |= self.until <= now;
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let due = self.over && !self.reported;
        self.reported |= due;
        due.then_some(Event::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lingers_is_small() {
        assert!(size_of::<Lingering>() <= 320, "{}", size_of::<Lingering>());
    }
}

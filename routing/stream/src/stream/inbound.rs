//! What messages from the peer do.
use super::lingering::answers;
use super::{IDLE_YIELDS, Live, State, UNSENT_ACKS_FORGIVEN};
use crate::recv::{Arrival, Receiver};
use crate::send::AckResult;
use crate::{CloseReason, Event};
use anode_wire::message::{Acks, StreamMessage};
use std::time::Instant;

impl Live {
    /// A message of this stream arrived.
    pub(super) fn handle(&mut self, now: Instant, message: &StreamMessage<'_>) {
        self.counters.received += 1;
        match *message {
            StreamMessage::Open { window, isn, .. } => self.on_open(now, window, isn),
            StreamMessage::Close {
                reason,
                initial,
                sequence,
                ..
            } => self.on_close(now, reason, initial, sequence),
            StreamMessage::Data {
                sequence, payload, ..
            } => {
                if self.is_established() {
                    self.confirm(now);
                    self.on_data(now, sequence, payload);
                }
            }
            StreamMessage::Ack { window, acks, .. } => self.on_acks(now, window, acks),
            StreamMessage::Dack {
                window,
                acks,
                sequence,
                payload,
                ..
            } => {
                self.on_acks(now, window, acks);
                if self.is_established() {
                    self.on_data(now, sequence, payload);
                }
            }
        }
    }

    /// Whether data and acknowledgements mean anything now; counts what comes when they do not.
    fn is_established(&mut self) -> bool {
        match self.state {
            State::Answering(_) | State::Open => true,
            // Repeats after an orderly end are acknowledged again.
            State::Lingering { .. } if self.recv.as_ref().is_some_and(Receiver::is_closed) => true,
            // Data before the answering S_OPEN is dropped (D29); what comes after the end as well.
            _ => {
                self.counters.misplaced += 1;
                false
            }
        }
    }

    /// The peer has shown that it knows our S_OPEN.
    fn confirm(&mut self, now: Instant) {
        self.heard = now;
        self.confirmed = true;
        if let State::Answering(opening) = self.state {
            if opening.repeats == 0 {
                self.send
                    .rtt
                    .handshake_sample(now, now.saturating_duration_since(opening.since));
            }
            // Data that outran a lost S_OPEN was dropped (D29), and its timer has backed off meanwhile.
            self.send.recovery.peer_listens(now);
            self.state = State::Open;
        }
    }

    fn on_open(&mut self, now: Instant, window: u16, isn: u32) {
        match &mut self.state {
            State::Opening(opening) => {
                if opening.repeats == 0 {
                    self.send
                        .rtt
                        .handshake_sample(now, now.saturating_duration_since(opening.since));
                }
                self.send.set_window(now, window);
                self.recv = Some(Receiver::new(now, isn, &self.config));
                self.acks.arrived(now, 0, false);
                self.heard = now;
                self.active = now;
                self.state = State::Open;
                self.events.push_back(Event::Opened);
            }
            // A repeat (D29). Another number on a live key is the caller's matter, see `yields_to`.
            _ if self.recv.as_ref().is_none_or(|r| r.isn() != isn) => self.counters.misplaced += 1,
            State::Held { .. } => {}
            State::Answering(opening) => opening.send = true,
            State::Open => {
                // It has not heard us: the S_ACK was lost, or the S_OPENs crossed and ours was. Not confirmed, we repeat
                // ours as well; confirmed, the S_ACK alone ends the exchange.
                self.acks.arrived(now, 0, false);
                self.heard = now;
                if !self.confirmed {
                    self.reopen = true;
                }
            }
            State::Refused { send, .. } => *send = true,
            State::Lingering { .. } => self.acks.arrived(now, 0, false),
            State::Aborting(_) | State::Draining | State::Closed => {}
        }
    }

    fn on_close(&mut self, now: Instant, reason: u8, initial: u32, sequence: u32) {
        if let State::Opening(_) = self.state {
            // D35: a refusal has our number in both fields, and no acknowledgement is expected.
            if initial == self.send.isn() && sequence == initial {
                self.aborted(CloseReason::from_code(reason), true);
                self.closed();
            } else {
                self.counters.misplaced += 1;
            }
            return;
        }
        let known = self.recv.as_ref().is_some_and(|r| r.isn() == initial) && initial != sequence;
        if !known
            || matches!(
                self.state,
                State::Refused { .. } | State::Draining | State::Closed
            )
        {
            self.counters.misplaced += 1;
            return;
        }
        if reason != CloseReason::Application.code() {
            self.on_abort(now, CloseReason::from_code(reason), sequence);
            return;
        }
        if !self.is_established() {
            return;
        }
        self.confirm(now);
        let Some(recv) = &mut self.recv else { return };
        let Some(position) = recv.position(sequence) else {
            self.counters.misplaced += 1;
            return;
        };
        match recv.close(position) {
            Arrival::Contradiction => self.counters.contradictions += 1,
            Arrival::BeyondWindow => self.counters.beyond_window += 1,
            Arrival::Duplicate => {
                self.counters.duplicates += 1;
                // It may not have arrived in order yet; what has, is acknowledged again.
                self.acks.arrived(now, position, false);
                self.close_repeats = self.close_repeats.saturating_add(1);
                if answers(self.close_repeats) > 1 {
                    self.acks.twice();
                }
            }
            _ => self.acks.arrived(now, position, false),
        }
        self.after_read_side(now);
    }

    /// The peer ended both directions.
    fn on_abort(&mut self, now: Instant, reason: CloseReason, sequence: u32) {
        if self
            .recv
            .as_ref()
            .is_none_or(|r| r.position(sequence).is_none())
        {
            self.counters.misplaced += 1;
            return;
        }
        self.final_ack = Some(sequence);
        match self.state {
            State::Lingering { .. } => {}
            State::Aborting(_) => self.linger(now),
            _ => {
                self.aborted(reason, true);
                self.linger(now);
            }
        }
    }

    fn on_data(&mut self, now: Instant, sequence: u32, payload: &[u8]) {
        let Some(recv) = &mut self.recv else { return };
        let Some(position) = recv.position(sequence).filter(|&p| p > 0) else {
            self.counters.misplaced += 1;
            return;
        };
        let arrival = recv.data(position, payload);
        match arrival {
            Arrival::InOrder | Arrival::FilledHole => {
                self.active = now;
                self.released = false;
                let regular = arrival == Arrival::InOrder;
                self.acks.arrived(now, position, regular);
                if regular {
                    self.acks.payload(payload.len());
                }
                if self.wants_read && recv.unread() > 0 {
                    self.wants_read = false;
                    self.events.push_back(Event::Readable);
                }
                if recv.is_closed() {
                    self.after_read_side(now);
                }
            }
            Arrival::OutOfOrder => {
                self.active = now;
                self.released = false;
                self.counters.out_of_order += 1;
                self.acks.arrived(now, position, false);
                recv.tune(now, self.send.rtt.smoothed());
            }
            Arrival::Duplicate => {
                // Always acknowledged again (D31): it may be a zero-window probe, or our acknowledgement was lost.
                self.counters.duplicates += 1;
                self.acks.arrived(now, position, false);
            }
            Arrival::BeyondWindow => {
                self.counters.beyond_window += 1;
                self.acks.at_once();
            }
            Arrival::Contradiction => self.counters.contradictions += 1,
        }
    }

    fn on_acks(&mut self, now: Instant, window: u16, acks: Acks<'_>) {
        if let State::Aborting(aborting) = self.state {
            let hit = |(first, count): (u32, u8)| {
                aborting.sequence.wrapping_sub(first) < u32::from(count)
            };
            if acks.iter().any(hit) {
                self.closed();
            }
            return;
        }
        if !self.is_established() || matches!(self.state, State::Lingering { .. }) {
            return;
        }
        let result = self
            .send
            .on_acks(now, acks.iter(), window, &mut self.counters);
        if result == AckResult::Unsent {
            self.counters.unsent_acked += 1;
            if self.counters.unsent_acked > UNSENT_ACKS_FORGIVEN {
                self.fail(now, CloseReason::ProtocolError);
            }
            return;
        }
        self.confirm(now);
        self.send.heard(now);
        if result == AckResult::Progress {
            self.active = now;
            self.after_write_side(now);
        }
    }

    /// The packet that carried the last message was marked "congestion experienced". The next acknowledgement tells
    /// the sender, which reduces its rate without a loss.
    pub(super) fn handle_ecn(&mut self, _now: Instant) {
        if matches!(self.state, State::Answering(_) | State::Open) {
            self.acks.marked();
        }
    }

    /// Whether an S_OPEN with this number on the stream's key begins a new one: the stream is over, or nothing was
    /// heard of the peer for 60 s (D29). The caller forgets this stream then.
    pub(super) fn yields_to(&self, now: Instant, peer_isn: u32) -> bool {
        if self.recv.as_ref().is_some_and(|r| r.isn() == peer_isn) {
            return false;
        }
        match self.state {
            State::Lingering { .. }
            | State::Refused { .. }
            | State::Aborting(_)
            | State::Draining
            | State::Closed => true,
            State::Opening(_) => false,
            _ => now.saturating_duration_since(self.heard) >= IDLE_YIELDS,
        }
    }

    /// Whether a reset for an unknown stream (S_CLOSE 0x10 with two equal numbers, Q22) is to be believed: the number
    /// lies in the send window, or was sent, in data or as the first of an acknowledgement, in the last 10 s.
    pub(super) fn believes_reset(&self, now: Instant, message: &StreamMessage<'_>) -> bool {
        let StreamMessage::Close {
            reason,
            initial,
            sequence,
            ..
        } = *message
        else {
            return false;
        };
        let form = reason == CloseReason::Reset.code() && initial == sequence;
        form && (self.send.sent_lately(now, sequence) || self.acks.began_with(now, sequence))
    }

    /// A reset for an unknown stream arrived inside SEALED (in plain it is not to be heard, D35). Ends the stream if it
    /// is to be believed, else counts it; true if it ended.
    pub(super) fn handle_reset(&mut self, now: Instant, message: &StreamMessage<'_>) -> bool {
        self.counters.received += 1;
        let live = matches!(
            self.state,
            State::Answering(_) | State::Open | State::Aborting(_) | State::Lingering { .. }
        );
        if !live || !self.believes_reset(now, message) {
            self.counters.misplaced += 1;
            return false;
        }
        if matches!(self.state, State::Answering(_) | State::Open) {
            self.aborted(CloseReason::Reset, true);
        }
        // The peer knows nothing of the stream: there is nobody to answer.
        self.closed();
        true
    }
}

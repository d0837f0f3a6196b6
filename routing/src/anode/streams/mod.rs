//! The streams of all peers: who is who (D28), limits (S22, S25), and whose turn it is to send.
//!
//! What a stream does is `anode-stream`'s business. Here a packet finds its stream, and a stream that has something to
//! do stands in `ready`; idle ones cost nothing but their memory.
mod program;
mod schedule;
mod table;

pub(super) use schedule::Carry;
pub(super) use table::StreamTable;

use super::output::Ecn;
use super::peers::PeerRef;
use super::receive::Arrival;
use super::{Node, Timer};
use crate::overlay::{Failure, OverlayEvent, StreamId};
use anode_stream::{CloseReason, Event, Stream, reset_for};
use anode_wire::Message;
use anode_wire::message::{Links, StreamMessage};
use anode_wire::sealed::{SEALED_BODY, SEALED_TAIL};
use rand_core::Rng as _;
use std::time::{Duration, Instant};
use table::{Entry, Phase};

/// Bytes of a sealed reset.
const RESET_LEN: usize = SEALED_BODY + 14 + SEALED_TAIL;
/// After so many retransmission timeouts without progress it may be the size of the packets (RFC 8899 §4.3).
const DOUBT_SIZE_AFTER: u32 = 2;
/// A stream that the program neither accepts nor refuses ends after this time.
const ACCEPT_WITHIN: Duration = Duration::from_secs(60);
/// What is over keeps its place this long at most, to answer late packets (D35).
const LINGER: Duration = Duration::from_secs(60);
/// Streams that linger; the oldest goes.
const MAX_LINGERING: usize = 8192;

impl Node {
    /// A stream message has come.
    pub(super) fn handle_stream(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        message: &StreamMessage<'_>,
    ) {
        let links = message.links();
        let sender_peer = arrival.sender_peer;
        let Some(id) = self
            .streams
            .by_key
            .get(&(sender, links.receiver, links.sender))
            .copied()
        else {
            return match message {
                StreamMessage::Open { window, isn, .. } => {
                    self.handle_open(now, sender, arrival, links, *window, *isn)
                }
                _ => self.handle_unknown_stream(now, sender, &arrival, message),
            };
        };
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        let Some(stream) = entry.stream.as_mut() else {
            return;
        };
        if let StreamMessage::Open { window, isn, .. } = message
            && !arrival.repeated
            && stream.yields_to(now, *isn)
        {
            // The peer has forgotten the old one and uses its numbers again (D29, N12).
            match entry.phase {
                Phase::Over { .. } => self.remove_stream(id),
                _ => self.fail_stream(id, Failure::Reset),
            }
            return self.handle_open(now, sender, arrival, links, *window, *isn);
        }
        if arrival.session.is_some() && stream.believes_reset(now, message) {
            // Over there nobody knows this stream, after a restart for example (Q22).
            stream.handle_reset(now, message);
            return self.after_stream(now, id);
        }
        if entry.phase == Phase::Opening {
            entry.remote_peer = sender_peer;
        }
        stream.handle(now, message);
        let carries_data = matches!(
            message,
            StreamMessage::Data { .. } | StreamMessage::Dack { .. }
        );
        if arrival.way.ecn == Ecn::Experienced {
            stream.handle_ecn(now);
        }
        if carries_data
            && self
                .peers
                .get_mut(sender)
                .is_some_and(|peer| peer.note_stream_data(now))
        {
            self.schedule_peer(now, sender);
        }
        self.after_stream(now, id);
    }

    /// A message for a stream that is not here. In plain nobody answers (D35); inside a session a reset does (Q22).
    fn handle_unknown_stream(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: &Arrival,
        message: &StreamMessage<'_>,
    ) {
        self.counters.dropped_unknown_stream += 1;
        let reset = arrival.session.and_then(|_| reset_for(message));
        let Some(reset) = reset else { return };
        // As often as replies to a source that is not proven, wherever it comes from.
        if self.budgets.reply_sources.take(now, arrival.way.from.ip())
            && (arrival.proven || arrival.way.len >= RESET_LEN)
        {
            self.counters.tx_resets += 1;
            self.reply(now, sender, arrival, &Message::Stream(reset));
        }
    }

    /// A peer opens a stream.
    fn handle_open(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        links: Links,
        window: u16,
        isn: u32,
    ) {
        if arrival.repeated {
            // A recorded S_OPEN whose stream is long gone (S7).
            self.counters.dropped_replay += 1;
            return;
        }
        self.make_room_for_stream();
        let limits = &self.config.limits;
        let full =
            self.streams.pending >= limits.pending_streams || self.streams.len() >= limits.streams;
        let sender_peer = arrival.sender_peer;
        let from = self.program_source(sender, sender_peer);
        let (Some(peer), Some(from)) = (self.peers.get_mut(sender), from) else {
            return;
        };
        if full || peer.pending_streams as usize >= limits.pending_streams_per_peer {
            self.counters.dropped_opens += 1;
            return;
        }
        peer.streams += 1;
        let ours = Links {
            sender: links.receiver,
            receiver: links.sender,
        };
        let stream = Stream::incoming(
            &self.config.stream,
            now,
            ours,
            window,
            isn,
            self.rng.next_u32(),
        );
        let entry = Entry {
            stream: Some(stream),
            peer: Some(sender),
            phase: Phase::Pending { since: now },
            remote_peer: sender_peer,
            ready: false,
        };
        let id = self.streams.insert(entry);
        self.streams
            .by_key
            .insert((sender, links.receiver, links.sender), id);
        self.count_pending(id, true);
        self.counters.streams += 1;
        self.timers
            .set(Timer::Stream(id), now + ACCEPT_WITHIN, "stream accept");
        let to = self.own.ipv6_for(arrival.recipient_peer);
        self.event(OverlayEvent::StreamIncoming {
            stream: id,
            from,
            from_port: links.sender,
            to,
            to_port: links.receiver,
        });
    }

    fn count_pending(&mut self, id: StreamId, more: bool) {
        let change = |count: usize| {
            if more {
                count + 1
            } else {
                count.saturating_sub(1)
            }
        };
        self.streams.pending = change(self.streams.pending);
        if let Some(peer) = self
            .streams
            .get(id)
            .and_then(|entry| entry.peer)
            .and_then(|peer| self.peers.get_mut(peer))
        {
            peer.pending_streams = change(peer.pending_streams as usize) as u32;
        }
    }

    pub(super) fn handle_stream_timer(&mut self, now: Instant, id: StreamId) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        match entry.phase {
            Phase::Pending { since } if now >= since + ACCEPT_WITHIN => {
                self.event(OverlayEvent::StreamFailed {
                    stream: id,
                    failure: Failure::TimedOut,
                });
                return self.abort(now, id, Failure::TimedOut);
            }
            Phase::Over { since } if now >= since + LINGER => return self.remove_stream(id),
            _ => {}
        }
        let before = entry.stream.as_ref().map_or(0, Stream::timeouts_in_a_row);
        if let Some(stream) = entry.stream.as_mut()
            && stream.deadline().is_some_and(|(at, _)| at <= now)
        {
            stream.handle_timeout(now);
        }
        let lost = entry.stream.as_ref().map_or(0, Stream::timeouts_in_a_row);
        if lost > before
            && let Some(found) = entry.peer
            && self
                .peers
                .get_mut(found)
                .is_some_and(|peer| peer.question_paths(now, None))
        {
            // Something else of the peer may still come through: it is not silent, and yet does not hear us.
            self.handle_peer_timer(now, found);
        }
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        if lost >= DOUBT_SIZE_AFTER
            && let Some(found) = entry.peer
        {
            self.doubt_packet_size(now, found);
        }
        self.after_stream(now, id);
    }

    /// A stream was touched: tells the program what happened, and gives it a turn to send.
    fn after_stream(&mut self, now: Instant, id: StreamId) {
        self.drain_stream_events(now, id);
        self.streams.mark_ready(id);
    }

    fn drain_stream_events(&mut self, now: Instant, id: StreamId) {
        while let Some(entry) = self.streams.get_mut(id) {
            let Some(event) = entry.stream.as_mut().and_then(Stream::poll_event) else {
                return;
            };
            if event == Event::Closed {
                return self.remove_stream(id);
            }
            if let Phase::Over { .. } = entry.phase {
                continue;
            }
            match event {
                Event::Opened => {
                    entry.phase = Phase::Open {
                        finished: false,
                        flushed: false,
                    };
                    self.event(OverlayEvent::StreamOpened { stream: id });
                }
                Event::Readable => self.event(OverlayEvent::StreamReadable { stream: id }),
                Event::Writable => self.event(OverlayEvent::StreamWritable { stream: id }),
                Event::Finished => {
                    self.event(OverlayEvent::StreamFinished { stream: id });
                    self.close_half(now, id, |finished, _| *finished = true);
                }
                Event::Flushed => self.close_half(now, id, |_, flushed| *flushed = true),
                Event::Aborted { reason, .. } => {
                    self.event(OverlayEvent::StreamFailed {
                        stream: id,
                        failure: failure_of(reason),
                    });
                    self.make_over(now, id);
                }
                Event::Closed => {}
            }
        }
    }

    fn close_half(&mut self, now: Instant, id: StreamId, close: impl FnOnce(&mut bool, &mut bool)) {
        let Some(Entry {
            phase: Phase::Open { finished, flushed },
            ..
        }) = self.streams.get_mut(id)
        else {
            return;
        };
        close(finished, flushed);
        if *finished && *flushed {
            self.event(OverlayEvent::StreamClosed { stream: id });
            self.make_over(now, id);
        }
    }

    /// The program hears no more of it; the other end may still need an answer.
    fn make_over(&mut self, now: Instant, id: StreamId) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        let was_pending = matches!(entry.phase, Phase::Pending { .. });
        entry.phase = Phase::Over { since: now };
        if was_pending {
            self.count_pending(id, false);
        }
        self.streams.lingering.push_back(id);
        self.timers
            .set(Timer::Stream(id), now + LINGER, "stream linger");
        self.make_room_for_stream();
    }

    /// Lets the oldest go of those that only linger, when there are too many of them.
    fn make_room_for_stream(&mut self) {
        while self.streams.lingering.len() > MAX_LINGERING
            || self.streams.len() >= self.config.limits.streams
                && !self.streams.lingering.is_empty()
        {
            if let Some(oldest) = self.streams.lingering.pop_front() {
                self.remove_stream(oldest);
            }
        }
    }

    fn remove_stream(&mut self, id: StreamId) {
        let Some(entry) = self.streams.get(id) else {
            return;
        };
        if matches!(entry.phase, Phase::Pending { .. }) {
            self.count_pending(id, false);
        }
        let (_, entry) = self.streams.entries.remove((id.0 & 0xffff_ffff) as usize);
        if let (Some(found), Some(stream)) = (entry.peer, entry.stream) {
            let links = stream.links();
            self.streams
                .by_key
                .remove(&(found, links.sender, links.receiver));
            if let Some(peer) = self.peers.get_mut(found) {
                peer.streams = peer.streams.saturating_sub(1);
            }
        }
        self.timers.cancel(Timer::Stream(id));
    }

    /// A stream that never reached its peer.
    pub(super) fn fail_stream(&mut self, id: StreamId, failure: Failure) {
        if self.streams.get(id).is_some() {
            self.remove_stream(id);
            self.event(OverlayEvent::StreamFailed {
                stream: id,
                failure,
            });
        }
    }

    /// No path to this peer answers: whoever still waits for the answer to an S_OPEN is told.
    pub(super) fn fail_opening_streams_of(
        &mut self,
        _now: Instant,
        peer: PeerRef,
        failure: Failure,
    ) {
        for id in self.streams.ids_of(peer) {
            if self
                .streams
                .get(id)
                .is_some_and(|entry| entry.phase == Phase::Opening)
            {
                self.fail_stream(id, failure);
            }
        }
    }

    /// The peer is removed.
    pub(super) fn end_streams_of(&mut self, _now: Instant, peer: PeerRef, failure: Failure) {
        for id in self.streams.ids_of(peer) {
            match self.streams.get(id).map(|entry| entry.phase) {
                Some(Phase::Over { .. }) => self.remove_stream(id),
                _ => self.fail_stream(id, failure),
            }
        }
    }

    /// Another path to this peer is used than the one that fell silent: what waits to be sent again goes over it at once.
    pub(super) fn resume_streams_of(&mut self, now: Instant, peer: PeerRef) {
        for id in self.streams.ids_of(peer) {
            let Some(stream) = self.streams.live(id) else {
                continue;
            };
            stream.resume(now);
            stream.handle_timeout(now);
            self.after_stream(now, id);
        }
    }

    /// A path to this peer is proven: streams that had nowhere to send have their turn.
    pub(super) fn wake_streams_of(&mut self, peer: PeerRef) {
        for id in self.streams.ids_of(peer) {
            self.streams.mark_ready(id);
        }
    }
}

fn close_reason(failure: Failure) -> CloseReason {
    match failure {
        Failure::Refused | Failure::NoSuchPeer | Failure::Unreachable => CloseReason::Refused,
        Failure::Policy => CloseReason::Policy,
        Failure::TimedOut => CloseReason::TimedOut,
        Failure::Reset | Failure::Busy | Failure::TooBig { .. } => CloseReason::Reset,
    }
}

fn failure_of(reason: CloseReason) -> Failure {
    match reason {
        CloseReason::Refused => Failure::Refused,
        CloseReason::TimedOut => Failure::TimedOut,
        CloseReason::Policy => Failure::Policy,
        CloseReason::Application
        | CloseReason::ProtocolError
        | CloseReason::Reset
        | CloseReason::Other(_) => Failure::Reset,
    }
}

//! Whose turn it is: streams that have something to send fill batches, a quantum each, and then rest until their deadline.
use super::Phase;
use crate::anode::Node;
use crate::anode::guard::{self, Envelope};
use crate::anode::output::{Destination, Ecn, TransmitBatch};
use crate::anode::timers::Timer;
use crate::overlay::StreamId;
use anode_stream::Stream;
use anode_wire::message::StreamMessage;
use anode_wire::packet::FULL_SENDER_HEADER;
use anode_wire::{Message, PeerId};
use std::time::{Duration, Instant};

/// Packets a stream may send before the next one has its turn.
const QUANTUM: usize = 16;
/// Shortest wait for a stream that says "now" and yet has nothing to send.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A packet that did not fit the batch it was made for: the first one of the next batch.
#[derive(Default)]
pub(in crate::anode) struct Carry {
    packet: Vec<u8>,
    to: Option<Destination>,
}

impl Node {
    /// Fills the batch from the streams that have something to send, a quantum each in turn, as long as they go to one place.
    pub(in crate::anode) fn fill_from_streams(&mut self, now: Instant, batch: &mut TransmitBatch) {
        if let Some(destination) = self.carry.to.take() {
            batch.contents.extend_from_slice(&self.carry.packet);
            batch.commit(destination, Ecn::NotCapable, self.carry.packet.len());
        }
        while let Some(id) = self.streams.ready.front().copied() {
            match self.send_quantum(now, id, batch) {
                Turn::Elsewhere => return,
                Turn::BatchFull => {
                    self.streams.ready.rotate_left(1);
                    return;
                }
                Turn::Over => self.streams.ready.rotate_left(1),
                Turn::Idle => {
                    self.streams.ready.pop_front();
                    self.rest_stream(now, id);
                }
            }
        }
    }

    /// One turn of one stream.
    fn send_quantum(&mut self, now: Instant, id: StreamId, batch: &mut TransmitBatch) -> Turn {
        let Some(entry) = self.streams.get_mut(id) else {
            return Turn::Idle;
        };
        let remote_peer = entry.remote_peer;
        let (Some(stream), Some(found)) = (entry.stream.as_mut(), entry.peer) else {
            return Turn::Idle;
        };
        let Some(peer) = self.peers.get_mut(found) else {
            return Turn::Idle;
        };
        let Some(route) = peer.stream_route(remote_peer) else {
            return Turn::Idle;
        };
        if !batch.is_empty() && batch.destination != route.destination {
            return Turn::Elsewhere;
        }
        peer.agree(&self.own.identity);
        let Some(key) = peer.key() else {
            return Turn::Idle;
        };
        let recipient_peer = if remote_peer == PeerId::ANY {
            route.peer_id
        } else {
            remote_peer
        };
        let needs_full_sender = peer.needs_full_sender(now);
        // Room for a full sender is always left: a retransmission carries it (D20) and must not outgrow the path.
        let max_body = route.max_packet - FULL_SENDER_HEADER;
        let (mut wants_answer, mut sent, mut bytes) = (false, 0, 0);
        let turn = loop {
            if !batch.is_empty() && !batch.has_room(route.max_packet) {
                break Turn::BatchFull;
            }
            if sent == QUANTUM {
                break Turn::Over;
            }
            let Some(transmit) = stream.poll_transmit(now, max_body) else {
                break Turn::Idle;
            };
            let message = *transmit.message();
            let envelope = Envelope {
                recipient_peer,
                full_sender: needs_full_sender || transmit.is_retransmission(),
            };
            let len = envelope.header_len() + message.len();
            wants_answer |= !matches!(
                message,
                StreamMessage::Ack { .. } | StreamMessage::Close { .. }
            );
            sent += 1;
            bytes += len;
            let fits = batch.fits(&route.destination, Ecn::NotCapable, len);
            let out = if fits {
                &mut batch.contents
            } else {
                &mut self.carry.packet
            };
            if !fits {
                out.clear();
            }
            guard::protect(
                &self.own,
                peer,
                key,
                envelope,
                &Message::Stream(message),
                out,
            );
            if !fits {
                self.carry.to = Some(route.destination);
                break Turn::BatchFull;
            }
            batch.commit(route.destination, Ecn::NotCapable, len);
        };
        if sent > 0 {
            if let Some(peer) = self.peers.get_mut(found) {
                peer.tx_bytes += bytes as u64;
            }
            self.note_use(now, found, wants_answer);
        }
        turn
    }

    /// A stream has nothing to send now: it sleeps until its deadline, or is gone if nothing is left of it.
    fn rest_stream(&mut self, now: Instant, id: StreamId) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        entry.ready = false;
        let deadline = entry.stream.as_ref().and_then(Stream::deadline);
        match (deadline, entry.phase) {
            (Some((at, reason)), _) => {
                self.timers
                    .set(Timer::Stream(id), at.max(now + SHORTEST_WAIT), reason)
            }
            (None, Phase::Over { .. }) => self.remove_stream(id),
            (None, _) => {}
        }
        self.drain_stream_events(now, id);
    }
}

/// How a stream's turn ended.
enum Turn {
    /// It has nothing to send now.
    Idle,
    /// Its quantum is used up.
    Over,
    /// The batch takes no more.
    BatchFull,
    /// It sends to another place than this batch.
    Elsewhere,
}

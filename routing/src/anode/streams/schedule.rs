//! Whose turn it is: streams that have something to send fill batches, a quantum each, and then rest until their deadline.
use super::Phase;
use crate::anode::Node;
use crate::anode::guard::{self, Envelope};
use crate::anode::output::{Destination, Ecn, Route, TransmitBatch};
use crate::anode::peers::PeerRef;
use crate::anode::sealing::{Channel, Lane};
use crate::anode::timers::Timer;
use crate::overlay::StreamId;
use anode_stream::Stream;
use anode_wire::message::StreamMessage;
use anode_wire::packet::FULL_SENDER_HEADER;
use anode_wire::sealed::{PeerKey, SEALED_BODY, SEALED_TAIL};
use anode_wire::{Message, PeerId};
use std::time::{Duration, Instant};

/// So many full packets' worth of bytes a stream may send before the next one has its turn: who sends little ones has as
/// much of the path as who sends large ones, and nobody owes more than a packet.
const QUANTUM: usize = 16;
/// Streams whose acknowledgement may leave with another's packet; the others' leave a millisecond later.
const MAX_COMPANY: usize = 64;
/// Shortest wait for a stream that says "now" and yet has nothing to send.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A packet that did not fit the batch it was made for: the first one of the next batch.
#[derive(Default)]
pub(in crate::anode) struct Carry {
    packet: Vec<u8>,
    to: Option<(Destination, Ecn)>,
}

impl Node {
    /// Fills the batch from the streams that have something to send, a quantum each in turn, as long as they go to one place.
    pub(in crate::anode) fn fill_from_streams(&mut self, now: Instant, batch: &mut TransmitBatch) {
        if let Some((destination, ecn)) = self.carry.to.take() {
            batch.contents.extend_from_slice(&self.carry.packet);
            batch.commit(destination, ecn, self.carry.packet.len());
        }
        self.gather_company(now);
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
                Turn::Blocked => {
                    self.streams.ready.pop_front();
                    if let Some(entry) = self.streams.get_mut(id) {
                        entry.ready = false;
                        if let Some(found) = entry.peer {
                            self.block_stream(now, found, id);
                        }
                    }
                }
            }
        }
    }

    /// When streams send, acknowledgements that wait a moment for company leave in the same batch.
    fn gather_company(&mut self, now: Instant) {
        if self.streams.ready.is_empty() {
            return;
        }
        while let Some(id) = self.streams.in_company.pop() {
            let stream = self.streams.live(id);
            if let Some(stream) = stream.filter(|stream| stream.waits_for_company(now)) {
                stream.hurry(now);
                self.streams.mark_ready(id);
            }
        }
    }

    /// One turn of one stream.
    fn send_quantum(&mut self, now: Instant, id: StreamId, batch: &mut TransmitBatch) -> Turn {
        let Some(entry) = self.streams.get(id) else {
            return Turn::Idle;
        };
        let digit = entry.remote_peer;
        let Some(found) = entry.peer.filter(|_| entry.stream.is_some()) else {
            return Turn::Idle;
        };
        let Some(channel) = self.channel(found, digit) else {
            self.want_session(now, found, digit);
            return Turn::Blocked;
        };
        let route = self
            .peers
            .get(found)
            .and_then(|peer| peer.stream_route(digit));
        let Some(route) = route else {
            return Turn::Blocked;
        };
        if !batch.is_empty() && batch.destination != route.destination {
            return Turn::Elsewhere;
        }
        match channel {
            Channel::Sealed(key) => self.send_sealed_quantum(now, id, found, key, &route, batch),
            Channel::Plain => self.send_plain_quantum(now, id, found, &route, batch),
        }
    }

    /// Packets are written and sealed where they will be sent from: one look at the session for all of them.
    fn send_sealed_quantum(
        &mut self,
        now: Instant,
        id: StreamId,
        found: PeerRef,
        key: PeerKey,
        route: &Route,
        batch: &mut TransmitBatch,
    ) -> Turn {
        // The answers come back marked where a queue on the way grows, and the stream slows down before it loses.
        let ecn = Ecn::Capable0;
        let Some(stream) = self.streams.live(id) else {
            return Turn::Idle;
        };
        let Ok(mut sealer) = self.sessions.sealer(self.sealing.clock(now), key) else {
            self.lose_tunnel(now, found, key);
            return Turn::Blocked;
        };
        let max_body = route.max_packet - SEALED_BODY - SEALED_TAIL;
        let mut sent = Sent::default();
        let turn = loop {
            if !batch.is_empty() && !batch.has_room(route.max_packet) {
                break Turn::BatchFull;
            }
            if sent.bytes >= QUANTUM * route.max_packet {
                break Turn::Over;
            }
            if !route.affords(sent.bytes + route.max_packet) {
                self.counters.dropped_unproven += 1;
                break Turn::Blocked;
            }
            let Some(transmit) = stream.poll_transmit(now, max_body) else {
                break Turn::Idle;
            };
            let message = transmit.message();
            let len = SEALED_BODY + message.len() + SEALED_TAIL;
            sent.note(message, len);
            if len > route.max_packet {
                // Made for a larger path (N9).
                sent.oversize = Some(owned_body(message));
                break Turn::Over;
            }
            let fits = batch.fits(&route.destination, ecn, len);
            let out = if fits {
                &mut batch.contents
            } else {
                self.carry.packet.clear();
                &mut self.carry.packet
            };
            let start = out.len();
            out.resize(start + len, 0);
            let packet = &mut out[start..];
            message.emit(&mut packet[SEALED_BODY..len - SEALED_TAIL]);
            if sealer.seal(message.kind(), packet).is_err() {
                // The stream takes it for lost and sends it again in the next session.
                out.truncate(start);
                break Turn::Blocked;
            }
            self.counters.tx_sealed += 1;
            if !fits {
                self.carry.to = Some((route.destination, ecn));
                break Turn::BatchFull;
            }
            batch.commit(route.destination, ecn, len);
        };
        if let Some((kind, body)) = sent.oversize.take()
            && let Ok(message) = Message::parse(kind, &body)
        {
            // What does not find room is lost, and sent again.
            let _ = self.push_sealed(
                now,
                found,
                key,
                route.destination,
                Lane::Datagrams,
                &message,
            );
        }
        self.note_sent(now, found, route, &sent);
        turn
    }

    /// The draft's packets; their MACs are made side by side when all of them stand in the batch.
    fn send_plain_quantum(
        &mut self,
        now: Instant,
        id: StreamId,
        found: PeerRef,
        route: &Route,
        batch: &mut TransmitBatch,
    ) -> Turn {
        let Some(entry) = self.streams.get_mut(id) else {
            return Turn::Idle;
        };
        let remote_peer = entry.remote_peer;
        let (Some(stream), Some(peer)) = (entry.stream.as_mut(), self.peers.get_mut(found)) else {
            return Turn::Idle;
        };
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
        let ecn = Ecn::NotCapable;
        let first = batch.contents.len();
        let mut sent = Sent::default();
        let turn = loop {
            if !batch.is_empty() && !batch.has_room(route.max_packet) {
                break Turn::BatchFull;
            }
            if sent.bytes >= QUANTUM * route.max_packet {
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
            sent.note(&message, len);
            let message = Message::Stream(message);
            if !batch.fits(&route.destination, ecn, len) {
                let out = &mut self.carry.packet;
                out.clear();
                guard::protect(&self.own, peer, Some(key), envelope, &message, out);
                self.carry.to = Some((route.destination, ecn));
                break Turn::BatchFull;
            }
            guard::protect(
                &self.own,
                peer,
                None,
                envelope,
                &message,
                &mut batch.contents,
            );
            batch.commit(route.destination, ecn, len);
        };
        key.sign_each(&mut batch.contents[first..], batch.segment_size);
        self.note_sent(now, found, route, &sent);
        turn
    }

    fn note_sent(&mut self, now: Instant, found: PeerRef, route: &Route, sent: &Sent) {
        if sent.packets == 0 {
            return;
        }
        if let Some(peer) = self.peers.get_mut(found) {
            peer.tx_bytes += sent.bytes as u64;
            if route.credit.is_some() {
                peer.spend(&route.destination.to, sent.bytes);
            }
        }
        self.note_use(now, found, sent.wants_answer);
    }

    /// A stream has nothing to send now: it sleeps until its deadline, or is gone if nothing is left of it.
    fn rest_stream(&mut self, now: Instant, id: StreamId) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        entry.ready = false;
        let deadline = entry.stream.as_ref().and_then(Stream::deadline);
        let waits = (entry.stream.as_ref()).is_some_and(|stream| stream.waits_for_company(now));
        let over = matches!(entry.phase, Phase::Over { .. });
        if waits && self.streams.in_company.len() < MAX_COMPANY {
            self.streams.in_company.push(id);
        }
        let wanted = deadline.map(|(at, reason)| (at.max(now + SHORTEST_WAIT), reason));
        self.timers.replace(now, Timer::Stream(id), wanted);
        if wanted.is_none() && over {
            self.remove_stream(id);
        }
        self.drain_stream_events(now, id);
    }
}

/// What a stream has sent in its turn.
#[derive(Default)]
struct Sent {
    packets: usize,
    bytes: usize,
    wants_answer: bool,
    /// A message that is larger than a packet.
    oversize: Option<(u8, Vec<u8>)>,
}

impl Sent {
    fn note(&mut self, message: &StreamMessage<'_>, len: usize) {
        self.packets += 1;
        self.bytes += len;
        self.wants_answer |= !matches!(
            message,
            StreamMessage::Ack { .. } | StreamMessage::Close { .. }
        );
    }
}

fn owned_body(message: &StreamMessage<'_>) -> (u8, Vec<u8>) {
    let mut body = vec![0; message.len()];
    message.emit(&mut body);
    (message.kind(), body)
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
    /// It has no session, or its peer's endpoint may get no more until it is proven.
    Blocked,
}

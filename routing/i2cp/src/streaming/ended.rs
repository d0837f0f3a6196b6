//! Streams that are over: a last acknowledgement or reset may have been lost, and whoever asks again is told again.
use super::connection::{self, Connection};
use super::packet::{Packet, RESET, SYN};
use super::{Event, StreamId, Streams};
use crate::destination::Destination;
use crate::time::Now;
use std::time::{Duration, Instant};

const MOST_ENDED: usize = 4096;
const ENDED_FIRST: Duration = Duration::from_secs(300);
const ENDED_SECOND: Duration = Duration::from_secs(60);
/// Answers to one stream that is over.
const MOST_ANSWERS: u8 = 16;

/// A stream that is over: enough to answer what still comes.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: Destination,
    pub(super) peer_id: u32,
    pub(super) ports: (u16, u16),
    pub(super) until: Instant,
    pub(super) answer: Answer,
    pub(super) answers_left: u8,
}

#[derive(Debug)]
pub(super) enum Answer {
    /// Acknowledge again: our last acknowledgement was lost.
    Acknowledge { through: u32 },
    /// Reset again; the number that a CLOSE beside it carries.
    Reset { next: u32 },
}

impl Streams {
    pub(super) fn send_reset(&mut self, id: u32, now: Now) {
        let Some(connection) = self.remove(id) else {
            return;
        };
        let next = connection.send.next_sequence();
        // before its reply the peer's id is not known: it is told when the reply comes
        if connection.peer_id != 0 {
            let ports = (connection.local_port, connection.remote_port);
            for data in connection.reset_packets(&self.keys) {
                self.send_loose(connection.peer.clone(), ports, data, true);
            }
        }
        self.remember(&connection, Answer::Reset { next }, ENDED_FIRST, now);
    }

    pub(super) fn remember(
        &mut self,
        connection: &Connection,
        answer: Answer,
        life: Duration,
        now: Now,
    ) {
        while self.ended.len() >= MOST_ENDED
            && let Some((_, oldest)) = self.ended_order.pop_front()
        {
            self.forget_ended(oldest);
        }
        let until = now.instant + life;
        let ended = Ended {
            peer: connection.peer.clone(),
            peer_id: connection.peer_id,
            ports: (connection.local_port, connection.remote_port),
            until,
            answer,
            answers_left: MOST_ANSWERS,
        };
        if ended.peer_id != 0 {
            self.by_peer
                .insert((ended.peer.hash(), ended.peer_id), connection.local_id);
        }
        self.ended.insert(connection.local_id, ended);
        self.ended_order.push_back((until, connection.local_id));
    }

    pub(super) fn forget_ended(&mut self, id: u32) {
        if let Some(ended) = self.ended.remove(&id) {
            self.by_peer.remove(&(ended.peer.hash(), ended.peer_id));
        }
    }

    pub(super) fn done(&mut self, id: u32, now: Now) {
        // the peer's CLOSE must be acknowledged before the stream is forgotten
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.recv.ack_due().is_some()
        {
            connection.recv.want_ack(Duration::ZERO, now.instant);
            if let Some(ready) = connection.next_packet(&self.keys, &self.config, now.instant) {
                let (to, ports) = (
                    connection.peer.clone(),
                    (connection.local_port, connection.remote_port),
                );
                self.send_loose(to, ports, ready.bytes, false);
            }
        }
        let Some(connection) = self.remove(id) else {
            return;
        };
        self.learn(&connection, now);
        let life = if connection.closed_first {
            ENDED_FIRST
        } else {
            ENDED_SECOND
        };
        let through = connection.recv.acknowledgement().0;
        self.remember(&connection, Answer::Acknowledge { through }, life, now);
        self.events.push_back(Event::Closed(StreamId(id), None));
    }

    /// Something for a stream that is over: our last word was lost, or the peer has not heard that we reset it.
    pub(super) fn answer_ended(&mut self, id: u32, packet: &Packet<'_>, now: Now) {
        let Some(ended) = self.ended.get_mut(&id) else {
            return;
        };
        // plain acknowledgements want no answer, nor do resets: two that ended must not talk forever
        let wants = packet.sequence > 0 || packet.has(SYN);
        if packet.has(RESET) || !wants || ended.answers_left == 0 || ended.until <= now.instant {
            return;
        }
        ended.answers_left -= 1;
        let peer_id = match ended.peer_id {
            0 => packet.from_id,
            known => known,
        };
        let (to, ports) = (ended.peer.clone(), ended.ports);
        match ended.answer {
            Answer::Acknowledge { through } => {
                let ack = Packet {
                    to_id: peer_id,
                    from_id: id,
                    ack_through: through,
                    ..Packet::default()
                };
                let data = ack.write(&self.keys);
                self.send_loose(to, ports, data, false);
            }
            Answer::Reset { next } => {
                for data in connection::reset_packets(peer_id, id, next, &self.keys) {
                    self.send_loose(to.clone(), ports, data, true);
                }
            }
        }
    }

    /// Forgets those whose time is over.
    pub(super) fn bury(&mut self, now: Now) {
        while self
            .ended_order
            .front()
            .is_some_and(|(at, _)| *at <= now.instant)
            && let Some((_, id)) = self.ended_order.pop_front()
        {
            if self.ended.get(&id).is_some_and(|e| e.until <= now.instant) {
                self.forget_ended(id);
            }
        }
    }
}

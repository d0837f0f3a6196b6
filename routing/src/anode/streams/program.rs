//! What the program does with streams: opens, answers, writes, reads, ends.
use std::net::Ipv6Addr;
use std::time::Instant;

use anode_stream::Stream;
use anode_wire::address::split_digit;
use anode_wire::message::Links;
use rand_core::Rng as _;

use super::close_reason;
use super::table::{Entry, Phase, StreamTable};
use crate::anode::Node;
use crate::anode::contact::Reach;
use crate::anode::peers::PeerRef;
use crate::overlay::{Failure, StreamId};

/// S_OPEN flag: the link id is a source port (A62).
const FLAG_SOURCE_PORT: u8 = 1;
/// Bytes of an S_OPEN's body.
const S_OPEN_LEN: usize = 11;

impl Node {
    /// Opens a stream; see [`crate::Overlay::open`].
    pub fn open(
        &mut self,
        now: Instant,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
    ) -> Result<StreamId, Failure> {
        self.make_room_for_stream();
        if self.streams.len() >= self.config.limits.streams {
            return Err(Failure::Busy);
        }
        let (target, digit) = split_digit(to);
        let reach = self.reach(now, to, S_OPEN_LEN)?;
        let phase = Phase::Waiting {
            target,
            from_port,
            to_port,
        };
        let id = self.streams.insert(Entry {
            stream: None,
            peer: None,
            phase,
            remote_peer: digit,
            ready: false,
        });
        match reach {
            Reach::Ready(peer) => self.start_stream(now, id, peer),
            Reach::Waiting(target) => {
                if let Err(failure) = self.hold_stream(target, id) {
                    self.remove_stream(id);
                    return Err(failure);
                }
            }
        }
        Ok(id)
    }

    /// Whether the peer that a waiting stream calls is reached; a stream that is gone has nothing to wait for.
    pub(in crate::anode) fn can_start(&self, found: PeerRef, id: StreamId) -> bool {
        self.streams
            .get(id)
            .is_none_or(|entry| self.can_carry(found, entry.remote_peer, S_OPEN_LEN))
    }

    /// Its peer is reached: the S_OPEN may go.
    pub(in crate::anode) fn start_stream(&mut self, now: Instant, id: StreamId, peer: PeerRef) {
        let Some(Entry {
            phase: Phase::Waiting {
                from_port, to_port, ..
            },
            ..
        }) = self.streams.get(id)
        else {
            return;
        };
        let (from_port, to_port) = (*from_port, *to_port);
        let Some((link, flags)) = self.choose_link(peer, from_port, to_port) else {
            return self.fail_stream(id, Failure::Busy);
        };
        let links = Links {
            sender: link,
            receiver: to_port,
        };
        let stream = Stream::open(&self.config.stream, now, links, flags, self.rng.next_u32());
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        entry.stream = Some(stream);
        entry.peer = Some(peer);
        entry.phase = Phase::Opening;
        self.streams.by_key.insert((peer, link, to_port), id);
        self.counters.streams += 1;
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.streams += 1;
        }
        self.streams.mark_ready(id);
    }

    /// The program's source port where it is free, so that the peer sees it; else any number without flag 01 (A62, N12).
    fn choose_link(&mut self, peer: PeerRef, from_port: u16, to_port: u16) -> Option<(u16, u8)> {
        let free = |link: u16, streams: &StreamTable| {
            link != 0 && !streams.by_key.contains_key(&(peer, link, to_port))
        };
        if free(from_port, &self.streams) {
            return Some((from_port, FLAG_SOURCE_PORT));
        }
        let start = self.rng.next_u32() as u16;
        (0..=u16::MAX)
            .map(|step| start.wrapping_add(step))
            .find(|link| free(*link, &self.streams))
            .map(|link| (link, 0))
    }

    /// Lets an incoming stream in; see [`crate::Overlay::accept`].
    pub fn accept(&mut self, now: Instant, id: StreamId) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        if let (Phase::Pending { .. }, Some(stream)) = (entry.phase, entry.stream.as_mut()) {
            stream.accept(now);
            entry.phase = Phase::Open {
                finished: false,
                flushed: false,
            };
            self.count_pending(id, false);
            self.after_stream(now, id);
        }
    }

    /// Refuses or resets a stream; see [`crate::Overlay::abort`].
    pub fn abort(&mut self, now: Instant, id: StreamId, failure: Failure) {
        let Some(entry) = self.streams.get_mut(id) else {
            return;
        };
        match (entry.phase, entry.stream.as_mut()) {
            (Phase::Over { .. }, _) => {}
            (Phase::Waiting { target, .. }, _) => {
                self.forget_waiting(target, id);
                self.remove_stream(id);
            }
            (_, None) => self.remove_stream(id),
            (_, Some(stream)) => {
                stream.abort(now, close_reason(failure));
                self.make_over(now, id);
                self.after_stream(now, id);
            }
        }
    }

    /// Ends an incoming stream in silence; see [`crate::Overlay::forget`].
    pub fn forget(&mut self, id: StreamId) {
        let phase = self.streams.get(id).map(|entry| entry.phase);
        if matches!(phase, Some(Phase::Pending { .. })) {
            self.remove_stream(id);
        }
    }

    /// No more will be written; see [`crate::Overlay::finish`].
    pub fn finish(&mut self, now: Instant, id: StreamId) {
        if let Some(stream) = self.streams.live(id) {
            stream.finish(now);
            self.after_stream(now, id);
        }
    }

    /// Takes bytes; see [`crate::Overlay::write`].
    pub fn write(&mut self, now: Instant, id: StreamId, data: &[u8]) -> usize {
        let Some(stream) = self.streams.live(id) else {
            return 0;
        };
        let taken = stream.write(now, data);
        self.after_stream(now, id);
        taken
    }

    /// What a stream has counted.
    #[cfg(test)]
    pub fn stream_counters(&self, id: StreamId) -> Option<anode_stream::Counters> {
        Some(self.streams.get(id)?.stream.as_ref()?.counters())
    }

    /// Room for `write`; see [`crate::Overlay::write_capacity`].
    pub fn write_capacity(&self, id: StreamId) -> usize {
        self.streams
            .get(id)
            .and_then(|entry| entry.stream.as_ref())
            .map_or(0, Stream::write_capacity)
    }

    /// Gives bytes; see [`crate::Overlay::read`].
    pub fn read(
        &mut self,
        now: Instant,
        id: StreamId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        let Some(stream) = self.streams.live(id) else {
            return 0;
        };
        let taken = stream.read(now, sink);
        self.after_stream(now, id);
        taken
    }
}

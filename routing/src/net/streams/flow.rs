//! Packets on their way out: into the outbox of a link, and from there into its connections as long as those take them.
use super::conn::{Errand, Role};
use super::link::Carrier;
use super::{CHUNK, Closed, POLLS, POSTS, Streams, http, serve};
use crate::anode::{Place, TransmitBatch};
use std::time::Instant;

impl Streams {
    /// Takes a batch for a place that is no UDP endpoint. `socket`: see [`Place::DIALLED`]. Returns how many packets were
    /// refused at once.
    pub fn send(&mut self, now: Instant, batch: &TransmitBatch) -> usize {
        let place = batch.destination.to;
        if !self.open_link(now, place, batch.destination.socket) {
            self.counters.dropped_unreachable += batch.segments() as u64;
            return batch.segments();
        }
        let Some(link) = self.links.get_mut(&place) else {
            return batch.segments();
        };
        for packet in batch.packets() {
            self.counters.dropped_packets += link.outbox.push(packet);
        }
        link.active = now;
        if !std::mem::replace(&mut link.listed, true) {
            self.listed.push(place);
        }
        0
    }

    /// Hands to the connections what they take.
    pub fn flush(&mut self, now: Instant) {
        for place in std::mem::take(&mut self.listed) {
            if let Some(link) = self.links.get_mut(&place) {
                link.listed = false;
            }
            self.flush_link(now, place);
        }
    }

    pub(super) fn flush_link(&mut self, now: Instant, place: Place) {
        let Some(link) = self.links.get_mut(&place) else {
            return;
        };
        let ids: Vec<usize> = match &link.carrier {
            Carrier::Nothing => return,
            Carrier::Frames(id) => vec![*id],
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            Carrier::Serving(ids) => ids.clone(),
        };
        for id in ids {
            let result = self.fill(now, place, id);
            match result {
                Err(closed) => self.close(now, id, closed),
                Ok(()) => self.watch(id),
            }
        }
        self.reopen(now, place);
    }

    /// Moves packets from the outbox of a link into one of its connections, as long as that takes them.
    fn fill(&mut self, now: Instant, place: Place, id: usize) -> Result<(), Closed> {
        let (Some(conn), Some(link)) = (self.conns.get_mut(id), self.links.get_mut(&place)) else {
            return Ok(());
        };
        if matches!(conn.role, Role::Connecting(_)) {
            return Ok(());
        }
        loop {
            if !conn.write(now)? {
                return Ok(());
            }
            let out = &mut conn.output.bytes;
            let wrote = match &mut conn.role {
                Role::Framed(_) => link.outbox.take(CHUNK, out) > 0,
                Role::Asking(asking) => {
                    let Carrier::Asking(asks) = &link.carrier else {
                        return Err(Closed::Idle);
                    };
                    let length = link.outbox.fitting(CHUNK);
                    let wanted = match asking.errand {
                        Errand::Poll => asking.open.len() < POLLS && asking.pause.is_none(),
                        _ => length > 0 && asking.open.len() < POSTS,
                    };
                    let length = if asking.errand == Errand::Poll {
                        0
                    } else {
                        length
                    };
                    if wanted {
                        asking.open.push_back(now);
                        http::write_post(out, &asks.target, &asks.host, length);
                        if length > 0 {
                            link.outbox.take(CHUNK, out);
                        }
                    }
                    wanted
                }
                Role::Serving(serving) => serve::answer(now, serving, &mut link.outbox, out),
                _ => false,
            };
            if !wrote {
                return match &conn.role {
                    Role::Serving(serving) if serving.last && serving.owed.is_empty() => {
                        Err(Closed::Ended)
                    }
                    _ => Ok(()),
                };
            }
            conn.active = now;
            conn.answered = true;
        }
    }
}

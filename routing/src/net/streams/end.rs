//! Connections that end, and what that means for their links.
use super::conn::{Conn, Role};
use super::link::Carrier;
use super::{Closed, MAX_RETRY, RETRY, Streams};
use crate::anode::Place;
use std::time::Instant;

impl Streams {
    /// Nothing has gone this way for long: the next packet dials anew.
    pub(super) fn drop_link(&mut self, now: Instant, place: Place) {
        let Some(link) = self.links.get(&place) else {
            return;
        };
        let ids: Vec<usize> = match &link.carrier {
            Carrier::Nothing => Vec::new(),
            Carrier::Frames(id) => vec![*id],
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            Carrier::Serving(ids) => ids.clone(),
        };
        let accepted = link.accepted;
        for id in ids {
            self.close(now, id, Closed::Idle);
        }
        if let Some(mut link) = self.links.remove(&place) {
            self.counters.dropped_packets += link.outbox.clear();
            self.sessions.retain(|_, at| *at != place);
            if accepted {
                self.gone.push((place, Place::ACCEPTED));
            }
        }
    }

    pub(super) fn close(&mut self, now: Instant, id: usize, closed: Closed) {
        let Some(mut conn) = self.take_out(id) else {
            return;
        };
        tracing::debug!(peer = %conn.peer, place = ?conn.place, reason = %closed, "connection closed");
        if matches!(
            closed,
            Closed::Http(_) | Closed::Frame(_) | Closed::Protocol(_)
        ) {
            self.counters.malformed += 1;
        }
        let stood = !matches!(conn.role, Role::Connecting(_) | Role::AskingProxy { .. });
        if conn.network.is_none() && !stood {
            self.counters.dial_failed += 1;
        }
        let _ = conn.write(now);
        let place = conn.place;
        let worked = conn.brought;
        conn.pipe.close();
        if let Some(place) = place {
            self.lose(now, place, id, worked, &closed);
        }
    }

    /// It is none of ours any more.
    pub(super) fn take_out(&mut self, id: usize) -> Option<Conn> {
        let conn = self.conns.try_remove(id)?;
        if let Some(network) = conn.network
            && let Some(count) = self.inbound.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.inbound.remove(&network);
            }
        }
        let _ = self.epoll.delete(&conn.pipe);
        Some(conn)
    }

    /// A link has lost a connection.
    fn lose(&mut self, now: Instant, place: Place, id: usize, worked: bool, closed: &Closed) {
        let Some(link) = self.links.get_mut(&place) else {
            return;
        };
        match &mut link.carrier {
            Carrier::Nothing => return,
            Carrier::Frames(known) if *known == id => {}
            Carrier::Frames(_) => return,
            Carrier::Asking(asks) => {
                let was = [&mut asks.post, &mut asks.poll]
                    .into_iter()
                    .find(|slot| **slot == Some(id));
                let Some(slot) = was else { return };
                *slot = None;
                // A server may end a connection that it has answered on; the next one is dialled at once.
                if worked && matches!(closed, Closed::Ended) {
                    if !std::mem::replace(&mut link.listed, true) {
                        self.listed.push(place);
                    }
                    return;
                }
            }
            Carrier::Serving(ids) => {
                ids.retain(|known| *known != id);
                // A session outlives its connections for a moment.
                if !ids.is_empty() || self.sessions.values().any(|at| *at == place) {
                    let due = link.due();
                    self.due = Some(self.due.map_or(due, |at| at.min(due)));
                    return;
                }
            }
        }
        if link.accepted {
            self.counters.dropped_packets += link.outbox.clear();
            self.links.remove(&place);
            self.gone.push((place, Place::ACCEPTED));
            return;
        }
        if matches!(closed, Closed::Idle) {
            if !matches!(&link.carrier, Carrier::Asking(asks) if asks.post.or(asks.poll).is_some())
            {
                link.carrier = Carrier::Nothing;
            }
            return;
        }
        // Old packets are worth nothing on a new connection.
        self.counters.dropped_packets += link.outbox.clear();
        link.failures = if worked {
            1
        } else {
            link.failures.saturating_add(1)
        };
        let pause = RETRY * 2u32.pow(link.failures.saturating_sub(1).min(8));
        link.retry_at = Some(now + pause.min(MAX_RETRY));
        let others: Vec<usize> = match std::mem::replace(&mut link.carrier, Carrier::Nothing) {
            Carrier::Asking(asks) => [asks.post, asks.poll].into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        if worked {
            self.gone.push((place, Place::DIALLED));
        }
        for other in others {
            self.close(now, other, Closed::Idle);
        }
    }
}

//! What takes too long.
use super::conn::{IDLE, Role};
use super::{Closed, Link, Streams};
use crate::anode::Place;
use std::time::Instant;

impl Streams {
    /// When something takes too long, or a poll must be answered.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|at| (at, "connections"))
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<usize> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.due() <= now)
            .map(|(id, _)| id)
            .collect();
        for id in due {
            self.overdue(now, id);
        }
        let idle: Vec<Place> = self
            .links
            .iter()
            .filter(|(_, link)| link.due() <= now)
            .map(|(place, _)| *place)
            .collect();
        for place in idle {
            self.drop_link(now, place);
        }
        self.due = self.conns.iter().map(|(_, conn)| conn.due()).min();
        let links = self.links.values().map(Link::due).min();
        self.due = [self.due, links].into_iter().flatten().min();
    }

    fn overdue(&mut self, now: Instant, id: usize) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let place = conn.place;
        match &conn.role {
            // Held for as long as polls are held: it is answered with nothing.
            Role::Serving(serving) if serving.owed.front().is_some_and(|owed| owed.by <= now) => {
                if let Some(place) = place {
                    self.flush_link(now, place);
                }
                if self.conns.get(id).is_some_and(|conn| conn.due() <= now) {
                    self.counters.timed_out += 1;
                    self.close(now, id, Closed::TooLong);
                }
            }
            Role::Asking(asking) if asking.pause.is_some_and(|at| at <= now) => {
                if let Some(Role::Asking(asking)) =
                    self.conns.get_mut(id).map(|conn| &mut conn.role)
                {
                    asking.pause = None;
                }
                if let Some(place) = place {
                    self.flush_link(now, place);
                }
            }
            _ => {
                let idle = now.duration_since(conn.active) >= IDLE;
                self.counters.timed_out += u64::from(!idle);
                self.close(now, id, if idle { Closed::Idle } else { Closed::TooLong });
            }
        }
    }
}

//! TUNNELs of conversations: how many fly, what waits, and another way where one leads nowhere (R61, R134).
//!
//! A TUNNEL is signed, checked, confirmed by a signed answer, and sent again after 0.5 s (R53). So few of a conversation fly at a
//! time that they are confirmed before that; the others wait here, and what finds no room is lost, which is how a stream that
//! goes in them learns to send less.
use super::{ConversationId, Dht, Ended, MAX_WAITING, OPTIONS, Way};
use anode_reload::body::TunnelRequest;
use anode_reload::node::Answer;
use anode_reload::usage::sip::gruu;
use anode_reload::{Code, Id, Now, ReloadError};
use std::time::Duration;

/// TUNNELs that wait for their confirmations.
const MAX_TUNNELLED: usize = 256;
/// Of these, of one conversation, at most.
const MAX_WINDOW: usize = 32;
/// And at least.
const MIN_WINDOW: usize = 4;
/// Confirmed later than this, units are too many for somebody on the way: after 0.5 s each is sent again (R53), which makes them
/// more, and later still.
const SLOW: Duration = Duration::from_millis(400);
/// Neighbours by whom a peer is looked for that is not reached straight.
const DETOURS: usize = 3;

/// How many units of a conversation fly: one more for each round that is confirmed in time, the half where one is late.
pub(super) struct Window {
    size: usize,
    /// Confirmed in time since it has grown.
    confirmed: usize,
    /// What was sent before this has been paid for.
    since: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: 2 * MIN_WINDOW,
            confirmed: 0,
            since: Duration::ZERO,
        }
    }
}

impl Window {
    fn confirmed(&mut self, now: Now, sent: Duration) {
        if now.at.saturating_sub(sent) > SLOW {
            return self.late(now, sent);
        }
        self.confirmed += 1;
        if self.confirmed >= self.size {
            self.confirmed = 0;
            self.size = (self.size + 1).min(MAX_WINDOW);
        }
    }

    fn late(&mut self, now: Now, sent: Duration) {
        if sent >= self.since {
            self.since = now.at;
            self.confirmed = 0;
            self.size = (self.size / 2).max(MIN_WINDOW);
        }
    }
}

/// A unit on its way, for another route if this one fails.
pub(super) struct Tunnelled {
    sent: Duration,
    pub conversation: ConversationId,
    route: Vec<Id>,
    unit: Vec<u8>,
}

impl Dht {
    pub(super) fn wait(&mut self, id: ConversationId, unit: Vec<u8>) {
        match self.applications.all.get_mut(&id) {
            Some(it) if it.waiting.len() < MAX_WAITING => it.waiting.push_back(unit),
            _ => self.applications.counters.lost += 1,
        }
    }

    /// By the connection, if there is one.
    pub(super) fn pass_on(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) {
        let Some(unit) = self.say_connected(now, id, unit) else {
            return;
        };
        match self.applications.all.get(&id) {
            Some(it) if it.flying >= it.window.size => self.wait(id, unit),
            _ => drop(self.say_tunnelled(now, id, unit)),
        }
        self.connect_if_long(now, id);
    }

    /// Says what has waited, as far as it may go now.
    pub(super) fn say_waiting(&mut self, now: Now, id: ConversationId) {
        while let Some(it) = self.applications.all.get_mut(&id)
            && it.flying < it.window.size
            && !matches!(it.way, Way::Resolving(..) | Way::Meeting(_))
            && let Some(unit) = it.waiting.pop_front()
        {
            self.pass_on(now, id, unit);
        }
    }

    /// R134: the destination's GRUU is the dialog's name. False: it is lost.
    pub(super) fn say_tunnelled(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) -> bool {
        let counters = &mut self.applications.counters;
        let Some(it) = self.applications.all.get(&id) else {
            return false;
        };
        let Some(route) = it.routes.front().cloned() else {
            counters.lost += 1;
            return false;
        };
        if self.applications.tunnelled.len() >= MAX_TUNNELLED {
            counters.lost += 1;
            return false;
        }
        let body = TunnelRequest {
            application: it.application,
            dialog: gruu(&route),
            pdu: unit,
        };
        let to = it.peer.filter(|_| !matches!(it.way, Way::Meeting(_)));
        match self.node.tunnel(now, route.clone(), to, &body, OPTIONS) {
            Ok(request) => {
                counters.tunnelled += 1;
                if let Some(it) = self.applications.all.get_mut(&id) {
                    it.flying += 1;
                }
                let unit = body.pdu;
                let sent = Tunnelled {
                    sent: now.at,
                    conversation: id,
                    route,
                    unit,
                };
                self.applications.tunnelled.insert(request, sent);
                true
            }
            Err(_) => {
                counters.lost += 1;
                false
            }
        }
    }

    pub(super) fn tunnel_answered(
        &mut self,
        now: Now,
        sent: Tunnelled,
        result: &Result<Answer, ReloadError>,
    ) {
        let id = sent.conversation;
        let Some(it) = self.applications.all.get_mut(&id) else {
            return;
        };
        it.flying = it.flying.saturating_sub(1);
        match result {
            Ok(answer) => {
                it.confirmed = true;
                it.window.confirmed(now, sent.sent);
                self.met(now, id, answer);
            }
            Err(error) => {
                tracing::debug!(%error, "a unit was not taken");
                it.window.late(now, sent.sent);
                self.not_taken(now, sent, error);
            }
        }
        self.say_waiting(now, id);
    }

    fn not_taken(&mut self, now: Now, sent: Tunnelled, error: &ReloadError) {
        let id = sent.conversation;
        let Some(it) = self.applications.all.get(&id) else {
            return;
        };
        // RD34: by the peer himself, or by whoever is at the end of a route that does not name him.
        let refused = *error == ReloadError::Refused(Code::NOT_FOUND);
        if matches!(it.way, Way::Meeting(_)) && !refused {
            return self.not_met(now, id);
        }
        // Of several units on one route the first that fails gives the route up; the others only follow it.
        if it.routes.front() == Some(&sent.route) && !self.take_next_route(id, error) {
            self.applications.counters.lost += 1;
            // What has been there once may be again: whoever waits for confirmations gives up by himself.
            let known = self
                .applications
                .all
                .get(&id)
                .is_some_and(|it| it.confirmed);
            if refused || (*error == ReloadError::Elsewhere && !known) {
                self.end(id, Ended::NotServed);
            }
            return;
        }
        let id = self.joined_with_known(now, id);
        self.say_tunnelled(now, id, sent.unit);
    }

    /// The route in use leads nowhere. False: there is no other one.
    fn take_next_route(&mut self, id: ConversationId, error: &ReloadError) -> bool {
        let (before, after) = self.node.topology().neighbours();
        let Some(it) = self.applications.all.get_mut(&id) else {
            return false;
        };
        let gone = it.routes.pop_front().unwrap_or_default();
        if it.routes.is_empty()
            && let [peer] = gone[..]
            && *error == ReloadError::Elsewhere
        {
            // R26, R30: where two that cannot reach each other are neighbours on the ring, each takes the other's place for its
            // own; others have links to both.
            let mut near: Vec<Id> = Vec::new();
            for id in after.into_iter().chain(before) {
                if id != peer && !near.contains(&id) {
                    near.push(id);
                }
            }
            near.truncate(DETOURS);
            it.routes = near.into_iter().map(|by| vec![by, peer]).collect();
        }
        let other = !it.routes.is_empty();
        if !other {
            it.routes = gone.last().map(|peer| vec![*peer]).into_iter().collect();
        }
        it.peer = it.routes.front().and_then(|route| route.last()).copied();
        other
    }
}

//! Who is called: wherever the registrations of a URI lead (R131), or whoever is at the end of an anonymous route (R132).
//!
//! What the program says meanwhile waits, and so does what the peer says before it is known that it is him.
use super::{ConversationId, Dht, Ended, Heard, MAX_WAITING, OPTIONS, Way};
use anode_reload::node::{Answer, AnswerBody};
use anode_reload::usage::sip::SipRegistration;
use anode_reload::{Id, Now, ReloadError, TypeId};

/// Units of peers that may be those whom this node is about to meet.
#[derive(Default)]
pub(super) struct Early(Vec<EarlyUnit>);

struct EarlyUnit {
    application: u16,
    peer: Id,
    unit: Vec<u8>,
}

impl Dht {
    /// Says the first unit along an anonymous route.
    pub(super) fn meet(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) {
        let sent = self.say_tunnelled(now, id, unit);
        if let Some(it) = self.applications.all.get_mut(&id) {
            it.way = Way::Meeting(sent);
        }
    }

    /// Who has confirmed a unit along an anonymous route is the peer from now on: what he says comes under his name.
    pub(super) fn met(&mut self, now: Now, id: ConversationId, answer: &Answer) {
        if let Some(it) = self.applications.all.get_mut(&id)
            && matches!(it.way, Way::Meeting(_))
            && let Some(peer) = answer.from.peers().first().copied()
        {
            it.peer = Some(peer);
            it.routes = [vec![peer]].into();
            it.way = Way::Tunnelled(now.at);
            let id = self.joined_with_known(now, id);
            self.settle_early();
            self.say_waiting(now, id);
        }
    }

    /// Nobody has confirmed it: the next unit is another attempt.
    pub(super) fn not_met(&mut self, now: Now, id: ConversationId) {
        self.applications.counters.lost += 1;
        let Some(it) = self.applications.all.get_mut(&id) else {
            return;
        };
        it.way = Way::Meeting(false);
        if let Some(unit) = it.waiting.pop_front() {
            self.meet(now, id, unit);
        }
        self.settle_early();
    }

    /// A unit of somebody with whom there is no conversation: he may be the one at the end of an anonymous route, whose
    /// confirmation was lost, or is late.
    pub(super) fn heard_early(&mut self, application: u16, back: &[Id], unit: Vec<u8>) {
        let early = &mut self.applications.early.0;
        match back.last() {
            Some(peer) if early.len() < MAX_WAITING => early.push(EarlyUnit {
                application,
                peer: *peer,
                unit,
            }),
            _ => self.applications.counters.lost += 1,
        }
        self.settle_early();
    }

    /// Hands on what came early, and drops what nobody is being met for any more.
    pub(super) fn settle_early(&mut self) {
        for early in std::mem::take(&mut self.applications.early.0) {
            let known = self.applications.with(early.application, early.peer);
            let mut all = self.applications.all.values();
            let meets = all.any(|it| {
                it.application == early.application && matches!(it.way, Way::Meeting(true))
            });
            match known {
                Some(id) => {
                    self.applications.counters.tunnelled += 1;
                    self.heard_of(id, Heard::Unit(early.unit));
                }
                None if meets => self.applications.early.0.push(early),
                None => self.applications.counters.lost += 1,
            }
        }
    }

    /// Application and peer name a conversation: where there is one with this peer already, this one goes on in it, or else
    /// what the peer says would come out of the other one. Which it is from now on.
    pub(super) fn joined_with_known(&mut self, now: Now, id: ConversationId) -> ConversationId {
        let known = self.applications.all.get(&id).and_then(|it| {
            let mut others = self.applications.all.iter();
            let same = others.find(|(other, them)| {
                **other != id && them.application == it.application && them.peer == it.peer
            });
            it.peer.and(same).map(|(other, _)| *other)
        });
        let Some(known) = known else {
            return id;
        };
        if let Some(gone) = self.applications.all.remove(&id) {
            self.leave_way(gone.way);
            if let Some(it) = self.applications.all.get_mut(&known) {
                it.used = now.at;
                it.flying += gone.flying;
                it.waiting.extend(gone.waiting);
            }
        }
        let sent = self.applications.tunnelled.values_mut();
        for it in sent.filter(|it| it.conversation == id) {
            it.conversation = known;
        }
        self.heard_of(id, Heard::Same(known));
        known
    }

    /// Looks at the next registration on the way from a URI to routes; bounded by the resolver (R145).
    pub(super) fn resolve(&mut self, now: Now, id: ConversationId) {
        while let Some(it) = self.applications.all.get_mut(&id)
            && let Way::Resolving(resolver, _) = &mut it.way
            && let Some((resource, depth)) = resolver.next_fetch()
        {
            let sent = self.fetch_all(now, TypeId::SIP_REGISTRATION, resource, OPTIONS);
            if let Ok(request) = sent
                && let Some(it) = self.applications.all.get_mut(&id)
                && let Way::Resolving(_, asked) = &mut it.way
            {
                *asked = Some((request, depth));
                return;
            }
        }
        let Some(it) = self.applications.all.get_mut(&id) else {
            return;
        };
        let Way::Resolving(resolver, _) = &mut it.way else {
            return;
        };
        it.routes = std::mem::take(&mut resolver.routes).into();
        it.routes.retain(|route| !route.is_empty());
        it.peer = it.routes.front().and_then(|route| route.last()).copied();
        it.way = Way::Tunnelled(now.at);
        if it.peer.is_none() {
            return self.end(id, Ended::NoRegistration);
        }
        let id = self.joined_with_known(now, id);
        self.say_waiting(now, id);
    }

    pub(super) fn registrations_found(
        &mut self,
        now: Now,
        id: ConversationId,
        result: Result<Answer, ReloadError>,
    ) {
        let Some(it) = self.applications.all.get_mut(&id) else {
            return;
        };
        let Way::Resolving(resolver, asked) = &mut it.way else {
            return;
        };
        let depth = asked.take().map_or(0, |(_, depth)| depth);
        if let Ok(Answer {
            body: AnswerBody::Values { found, .. },
            ..
        }) = result
        {
            // The first kind is the one that was asked for; certificates may follow it.
            let values = found.into_iter().take(1).flat_map(|one| one.values);
            let values = values.filter(|data| !data.value.bytes().is_empty());
            let parsed = values.filter_map(|data| SipRegistration::parse(data.value.bytes()).ok());
            resolver.found(depth, parsed);
        }
        self.resolve(now, id);
    }
}

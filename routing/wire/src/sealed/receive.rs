//! Packets in: which kind they are, and what is inside SEALED (Q11, Q13 to Q15, Q18 to Q21, Q24).
use super::counters::Drop;
use super::crypto;
use super::fragment::{self, Fragment};
use super::hello::{UnknownIndex, be32, be64};
use super::peer::PeerKey;
use super::session::{COUNTER, INDEX, KemState, Role, Session, Stage, TEXT, Unconfirmed};
use super::{
    Authentic, Event, Now, Outcome, Pair, Plain, SEALED_BODY, SEALED_OVERHEAD, SEALED_TAIL,
    Sessions, Source, To, kem, kind,
};
use crate::packet::{FLAG_AUTH_ERROR, FLAG_FULL_RECIPIENT, FLAG_FULL_SENDER, SHORT_HEADER};
use crate::{Packet, PeerId};
use std::time::{Duration, Instant};

/// What a replaced session still receives (Q15).
const RETIRING: Duration = Duration::from_secs(10);
/// Two sessions of one pair that were made within this time may have crossed each other.
const CROSSED: Duration = Duration::from_secs(10);
/// Empty packets are not answered more often than this.
const EMPTY_SPACING: Duration = Duration::from_millis(100);
const SHORT_FLAGS: u8 = FLAG_FULL_SENDER | FLAG_FULL_RECIPIENT | FLAG_AUTH_ERROR;
const KIND: usize = SHORT_HEADER - 1;

impl Sessions {
    /// Takes a packet from the network. It is decrypted in place; whatever the outcome, its bytes are not to be sent on.
    pub fn handle(&mut self, now: Now, from: Source<'_>, packet: &mut [u8]) -> Outcome {
        let sealed = packet.len() >= SHORT_HEADER
            && packet[1] & SHORT_FLAGS == 0
            && packet[KIND] == kind::SEALED;
        let result = if sealed {
            self.handle_sealed(now, from, packet)
        } else {
            self.handle_other(now, from, packet)
        };
        match result {
            Ok(outcome) => outcome,
            Err(reason) => Outcome::Dropped(self.counters.count(reason)),
        }
    }

    fn handle_other(&mut self, now: Now, from: Source<'_>, packet: &[u8]) -> Result<Outcome, Drop> {
        let packet = Packet::new_checked(packet).map_err(|_| Drop::Malformed)?;
        match packet.kind() {
            kind::HELLO if self.config.plain == Plain::Only => Err(Drop::PlainOnly),
            kind::HELLO => self.handle_hello(now, from, &packet),
            kind::WELCOME => self.handle_welcome(now, &packet),
            kind::COOKIE => self.handle_cookie(now, from, &packet),
            // With full addresses or as an error there is no such thing (Q19).
            kind::SEALED => Err(Drop::Malformed),
            crate::message::kind::ERROR if packet.is_auth_error() => {
                match UnknownIndex::parse(packet.body()) {
                    Some(error) => self.handle_unknown_index(now, &packet, &error),
                    None => Ok(Outcome::Plain),
                }
            }
            _ => Ok(Outcome::Plain),
        }
    }

    fn handle_sealed(
        &mut self,
        now: Now,
        from: Source<'_>,
        packet: &mut [u8],
    ) -> Result<Outcome, Drop> {
        if packet.len() < SEALED_OVERHEAD {
            return Err(Drop::Malformed);
        }
        let index = be32(packet, INDEX);
        let Some(session) = self.sessions.get_mut(&index) else {
            return Err(self.answer_unknown_index(now, from, packet));
        };
        if now.at >= session.expires_at() {
            return Err(Drop::Expired);
        }
        let opening = session.open(packet)?;
        session.used = now.at;
        let end = packet.len() - SEALED_TAIL;
        let message_kind = (end > TEXT).then(|| packet[TEXT]);
        let from = Authentic {
            peer: session.peer,
            index,
            counter: opening.counter,
            hop_count: packet[0],
            newest: opening.newest && session.retire_at.is_none(),
        };
        if session.retire_at.is_some() && message_kind.is_some_and(is_traffic) {
            // The far side has not changed over yet: what it sends must not be lost.
            session.retire_at = Some(now.at + RETIRING);
        }
        let needs_rekey = now.at >= session.rekey_at && !session.rekey_asked;
        if opening.first {
            self.first_opened(now.at, index);
        }

        let Some(message_kind) = message_kind else {
            self.handle_empty(now.at, index);
            return Ok(Outcome::Consumed { from: Some(from) });
        };
        let body = SEALED_BODY..end;
        if self.stage_is_live(index) && is_traffic(message_kind) {
            if needs_rekey {
                self.ask_rekey(now.at, index);
            }
            return Ok(Outcome::Opened {
                from,
                kind: message_kind,
                body,
            });
        }
        match message_kind {
            kind::FRAGMENT => self.handle_fragment(now.at, from, &packet[body]),
            kind::KEM => {
                self.handle_kem(now.at, index, &packet[body], None)?;
                Ok(Outcome::Consumed { from: Some(from) })
            }
            _ if is_traffic(message_kind) => Err(Drop::BeforeKem),
            _ => Err(Drop::Malformed),
        }
    }

    fn stage_is_live(&self, index: u32) -> bool {
        let session = self.sessions.get(&index);
        session.is_some_and(|session| matches!(session.stage, Stage::Live))
    }

    /// A responder's session is confirmed; or an initiator's is heard in for the first time (Q11).
    fn first_opened(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let key = session.peer;
        match std::mem::replace(&mut session.stage, Stage::Live) {
            Stage::Unconfirmed(Unconfirmed::Noise { timestamp, .. }) => {
                let with_kem = session.kem.is_some();
                if with_kem {
                    session.stage = Stage::Kem;
                }
                self.drop_other_unconfirmed(key, index);
                self.remember(key, Some(timestamp), false);
                if !with_kem {
                    self.make_current(now, key, index);
                    self.retire_others(now, key, index);
                }
            }
            Stage::Unconfirmed(Unconfirmed::Kem) => {
                self.remember(key, None, true);
                self.make_current(now, key, index);
                self.retire_others(now, key, index);
            }
            Stage::Kem => session.stage = Stage::Kem,
            Stage::Live => {
                session.confirm = None;
                self.retire_others(now, key, index);
            }
        }
        self.reschedule(key);
    }

    /// The initiator has taken one of our answers; the others it will never use.
    fn drop_other_unconfirmed(&mut self, key: PeerKey, index: u32) {
        let sessions = self.peer(key).map(|peer| peer.sessions.clone());
        for other in sessions.unwrap_or_default() {
            let unconfirmed = self.sessions.get(&other).is_some_and(|session| {
                matches!(session.stage, Stage::Unconfirmed(Unconfirmed::Noise { .. }))
            });
            if other != index && unconfirmed {
                self.remove_session(other);
            }
        }
    }

    pub(super) fn add_session(&mut self, key: PeerKey, session: Session) {
        let index = session.local;
        self.sessions.insert(index, Box::new(session));
        if let Some(peer) = self.peer_mut(key) {
            peer.sessions.push(index);
        }
    }

    /// Traffic is sealed in this session from now on, unless one that crossed it goes first.
    pub(super) fn make_current(&mut self, now: Instant, key: PeerKey, index: u32) {
        let (Some(peer), Some(session)) = (self.peer(key), self.sessions.get(&index)) else {
            return;
        };
        let (pair, before, pq) = (peer.pair, peer.current, session.pq);
        let mut requested = session.requested;
        if before.is_some_and(|before| self.goes_first(now, before, index, pair)) {
            return;
        }
        // A handshake with "any peer of this address" has found what it looked for.
        let any = Pair {
            peer: PeerId::ANY,
            ..pair
        };
        for ended in [Some(key), self.lookup(&any)].into_iter().flatten() {
            if ended != key && self.peer(ended).is_some_and(|p| p.handshake.is_some()) {
                requested = Some(any);
            }
            self.end_handshake(ended);
            self.reschedule(ended);
        }
        if let Some(peer) = self.peer_mut(key) {
            peer.current = Some(index);
            peer.used = now;
        }
        self.events.push_back(Event::SessionUp {
            peer: key,
            pair,
            requested,
            pq,
            rekeyed: before.is_some(),
        });
    }

    /// Whether the session `old` goes before `new`: they crossed, and the lower pair started the old one. Both sides
    /// come to the same answer whatever order they saw them in.
    fn goes_first(&self, now: Instant, old: u32, new: u32, far: Pair) -> bool {
        let (Some(old), Some(new)) = (self.sessions.get(&old), self.sessions.get(&new)) else {
            return false;
        };
        let crossed = old.role != new.role
            && !new.successor
            && new.created.saturating_duration_since(old.created) < CROSSED
            && now < old.expires_at();
        let old_is_ours = old.role == Role::Initiator;
        crossed && old_is_ours == (self.own < far) && new.pq <= old.pq
    }

    /// The far side has sealed in this session: it has what it needs to use it.
    fn retire_others(&mut self, now: Instant, key: PeerKey, index: u32) {
        let Some(peer) = self.peer(key) else { return };
        if peer.current != Some(index) {
            return;
        }
        let created = self.sessions.get(&index).map(|session| session.created);
        for other in peer.sessions.clone() {
            let Some(session) = self.sessions.get_mut(&other) else {
                continue;
            };
            let older = Some(session.created) <= created;
            let done = matches!(session.stage, Stage::Live | Stage::Kem);
            if other != index && older && done {
                session.retire_at.get_or_insert(now + RETIRING);
            }
        }
    }

    /// The initiator's empty packet is answered, so that it can stop repeating it.
    fn handle_empty(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let answered = session
            .last_empty
            .is_some_and(|last| now < last + EMPTY_SPACING);
        if session.role == Role::Initiator || answered || !matches!(session.stage, Stage::Live) {
            return;
        }
        session.last_empty = Some(now);
        self.send_in(now, index, None);
    }

    fn handle_fragment(
        &mut self,
        now: Instant,
        from: Authentic,
        body: &[u8],
    ) -> Result<Outcome, Drop> {
        let fragment = Fragment::parse(body).ok_or(Drop::Fragment)?;
        if self.repeats_answered_key(from.index, fragment.id) {
            self.repeat_kem_answer(now, from.index);
            return Ok(Outcome::Consumed { from: Some(from) });
        }
        let trusted = self.peer(from.peer).is_some_and(|peer| peer.trusted);
        let session = self
            .sessions
            .get_mut(&from.index)
            .ok_or(Drop::UnknownIndex)?;
        let live = matches!(session.stage, Stage::Live);
        let pool = self.pools.of(trusted);
        let whole = session.reassembly.add(now, fragment, pool);
        self.reschedule(from.peer);
        let Some(mut whole) = whole? else {
            return Ok(Outcome::Consumed { from: Some(from) });
        };
        let message_kind = whole.remove(0);
        if message_kind == kind::KEM {
            self.handle_kem(now, from.index, &whole, Some(fragment.id))?;
            return Ok(Outcome::Consumed { from: Some(from) });
        }
        if !fragment::may_carry(message_kind) || !is_traffic(message_kind) {
            return Err(Drop::Malformed);
        }
        if !live {
            return Err(Drop::BeforeKem);
        }
        Ok(Outcome::Reassembled {
            from,
            kind: message_kind,
            body: whole,
        })
    }

    /// Whether a FRAGMENT is one of a key that has been answered: one of them is enough to ask again.
    fn repeats_answered_key(&self, index: u32, id: u32) -> bool {
        let kem = self.sessions.get(&index).and_then(|s| s.kem.as_deref());
        matches!(kem, Some(KemState::Answered { fragment_id: Some(known), .. }) if *known == id)
    }

    fn repeat_kem_answer(&mut self, now: Instant, index: u32) {
        let kem = self.sessions.get(&index).and_then(|s| s.kem.as_deref());
        if let Some(KemState::Answered { step2, .. }) = kem {
            let step2 = step2.clone();
            self.send_in(now, index, Some((kind::KEM, &step2)));
        }
    }

    /// Step 1 at the responder, step 2 at the initiator (Q13).
    fn handle_kem(
        &mut self,
        now: Instant,
        index: u32,
        body: &[u8],
        fragment_id: Option<u32>,
    ) -> Result<(), Drop> {
        let session = self.sessions.get_mut(&index).ok_or(Drop::UnknownIndex)?;
        let key = session.peer;
        match session.kem.as_deref() {
            Some(KemState::Offered { .. }) => self.finish_kem(now, index, body)?,
            Some(KemState::Awaited { .. }) => self.answer_kem(now, index, body, fragment_id)?,
            Some(KemState::Answered { step1, .. }) if **step1 == *body => {
                self.repeat_kem_answer(now, index);
            }
            Some(KemState::Answered { .. }) | None => return Err(Drop::Kem),
        }
        self.reschedule(key);
        Ok(())
    }

    fn answer_kem(
        &mut self,
        now: Instant,
        index: u32,
        step1: &[u8],
        fragment_id: Option<u32>,
    ) -> Result<(), Drop> {
        kem::step1_index(step1).ok_or(Drop::Kem)?;
        let new_index = self.new_index();
        self.counters.kem_operations += 1;
        let answer = kem::answer(step1, new_index, &mut *self.rng).ok_or(Drop::Kem)?;
        let session = self.sessions.get_mut(&index).ok_or(Drop::UnknownIndex)?;
        let answered = Box::new(KemState::Answered {
            step1: step1.into(),
            step2: answer.step2.clone().into(),
            fragment_id,
        });
        let Some(KemState::Awaited { split }) = session.kem.replace(answered).map(|kem| *kem)
        else {
            return Err(Drop::Kem);
        };
        let keys = crypto::kem_keys(&session.hash, step1, &answer.step2, &split, &answer.secret);
        let stage = Stage::Unconfirmed(Unconfirmed::Kem);
        self.add_kem_session(
            now,
            index,
            (new_index, answer.initiator_index),
            stage,
            &keys,
        )?;
        self.send_in(now, index, Some((kind::KEM, &answer.step2)));
        Ok(())
    }

    fn finish_kem(&mut self, now: Instant, index: u32, step2: &[u8]) -> Result<(), Drop> {
        let session = self.sessions.get_mut(&index).ok_or(Drop::UnknownIndex)?;
        let key = session.peer;
        let Some(KemState::Offered { offer, split, .. }) = session.kem.as_deref() else {
            return Err(Drop::Kem);
        };
        let (remote, secret) = offer.finish(step2).ok_or(Drop::Kem)?;
        let local = offer.index();
        let keys = crypto::kem_keys(&session.hash, offer.step1(), step2, split, &secret);
        self.counters.kem_operations += 1;
        session.kem = None;
        session.retire_at = Some(now + RETIRING);
        self.reserved.remove(&local);
        self.add_kem_session(now, index, (local, remote), Stage::Live, &keys)?;
        self.confirm(now, local);
        self.remember(key, None, true);
        self.make_current(now, key, local);
        Ok(())
    }

    /// The session that the KEM within `index` has led to: its age is that of the handshake (Q16).
    fn add_kem_session(
        &mut self,
        now: Instant,
        index: u32,
        indices: (u32, u32),
        stage: Stage,
        keys: &crypto::KeyPair,
    ) -> Result<(), Drop> {
        let session = self.sessions.get(&index).ok_or(Drop::UnknownIndex)?;
        let key = session.peer;
        let ends = self.ends(key).ok_or(Drop::UnknownIndex)?;
        let mut new = Session::new(
            now,
            key,
            ends,
            indices,
            session.role,
            stage,
            session.hash,
            keys,
            (session.created, session.rekey_at),
        );
        new.pq = true;
        new.requested = session.requested;
        new.successor = session.successor;
        self.add_session(key, new);
        Ok(())
    }

    /// A SEALED packet for a session that is not here: after a restart, for example (Q24).
    fn answer_unknown_index(&mut self, now: Now, from: Source<'_>, packet: &[u8]) -> Drop {
        let Ok(view) = Packet::new_checked(packet) else {
            return Drop::Malformed;
        };
        if view.recipient() != crate::Party::Id(self.own_id) {
            return Drop::NotForUs;
        }
        let limits = &self.config.limits;
        let admitted =
            self.budgets
                .errors_networks
                .take(from.network, limits.errors_network, now.at)
                && self.budgets.errors.take(limits.errors, now.at);
        if !admitted {
            self.counters.count(Drop::ErrorThrottled);
            return Drop::UnknownIndex;
        }
        let error = UnknownIndex {
            index: be32(packet, INDEX),
            counter: be64(packet, COUNTER),
        };
        let answer = error.answer(&view);
        self.counters.errors_sent += 1;
        self.send(To::Endpoint(from.endpoint.into()), answer);
        Drop::UnknownIndex
    }
}

/// What the caller gets to see: everything but the sessions' own messages.
fn is_traffic(message_kind: u8) -> bool {
    !matches!(
        message_kind,
        kind::HELLO | kind::WELCOME | kind::SEALED | kind::COOKIE | kind::FRAGMENT | kind::KEM
    )
}

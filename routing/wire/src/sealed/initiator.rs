//! The initiator's side: HELLOs, what answers them, and hints that lead to one (Q5, Q8 to Q11, Q13, Q24).
use super::counters::Drop;
use super::crypto;
use super::hello::{
    self, Capabilities, CookieReply, Envelope, Hello, Mac1Key, UnknownIndex, Welcome,
    WelcomePayload,
};
use super::peer::{Handshake, PeerKey, PendingHello};
use super::session::{KemState, Repeat, Role, SEAL_LIMIT, Session, Stage};
use super::{
    Authentic, Event, Failed, Now, Outcome, Pair, Plain, Pq, Reason, Sessions, Source, Started,
    Timestamp, To, fragment, kem, kind, noise, sealing,
};
use crate::{Packet, Party, PeerId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long each HELLO is waited for; the last one as long as the one before (Q9).
const WAITS: [Duration; 6] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(8),
];
/// Hints lead to no more than one HELLO in this time (Q9, Q24).
const HINT_SPACING: Duration = Duration::from_secs(2);
/// How long a handshake of the far side's making may take before a wish of ours starts another.
const INCOMING: Duration = Duration::from_secs(1);
/// The same for one whose Noise part is complete: ML-KEM is repeated on a schedule of its own.
const INCOMING_KEM: Duration = Duration::from_secs(8);
/// Largest slice of a FRAGMENT that carries a KEM key: two of them, in packets of at most 1,232 bytes.
const KEM_SLICE: usize = (kem::STEP1_LEN + 1).div_ceil(2);

impl Sessions {
    /// Wants a session with a pair. Cheap to repeat; the result comes as an event.
    pub fn start(&mut self, now: Now, pair: Pair, reason: Reason) -> Started {
        if pair == self.own {
            return Started::Own;
        }
        if self.config.plain == Plain::Only {
            return Started::PlainOnly;
        }
        let Some(key) = self.entry(now.at, pair) else {
            return Started::Full;
        };
        let started = self.start_peer(now, key, reason);
        self.reschedule(key);
        started
    }

    pub(super) fn start_peer(&mut self, now: Now, key: PeerKey, reason: Reason) -> Started {
        let Some(peer) = self.peer(key) else {
            return Started::Full;
        };
        if peer.handshake.is_some() {
            return Started::Pending;
        }
        let usable = |index| {
            let session = self.sessions.get(&index);
            session.is_some_and(|session| now.at < session.created + SEAL_LIMIT)
        };
        let family = self.family(key);
        let mut current = family
            .iter()
            .filter_map(|key| self.peer(*key).and_then(|peer| peer.current));
        if reason == Reason::Traffic && current.any(usable) {
            return Started::Up;
        }
        if reason == Reason::Hint {
            let last = peer.last_hint;
            if last.is_some_and(|last| now.at < last + HINT_SPACING) {
                return Started::Throttled;
            }
        }

        let waits_until = family
            .iter()
            .filter_map(|key| self.incoming(now.at, *key))
            .max();
        let Some(peer) = self.peer_mut(key) else {
            return Started::Full;
        };
        if reason == Reason::Hint {
            peer.last_hint = Some(now.at);
        }
        peer.handshake = Some(Handshake {
            sent: 0,
            next: waits_until.unwrap_or(now.at),
            pending: VecDeque::new(),
            crossed: None,
        });
        if waits_until.is_none() {
            self.send_hello(now, key);
        }
        Started::Pending
    }

    /// Whose sessions a wish for this pair can be met by: any peer's of the address, where it is for any.
    fn family(&self, key: PeerKey) -> Vec<PeerKey> {
        match self.pair(key) {
            Some(pair) if pair.peer == PeerId::ANY => self.keys_of(&pair.address),
            _ => vec![key],
        }
    }

    /// Until when a handshake that the far side has begun, or that waits for ML-KEM, may go on undisturbed.
    fn incoming(&self, now: Instant, key: PeerKey) -> Option<Instant> {
        let sessions = self.peer(key)?.sessions.iter();
        sessions
            .filter_map(|index| self.sessions.get(index))
            .filter_map(|session| match session.stage {
                Stage::Unconfirmed(_) => Some(session.created + INCOMING),
                Stage::Kem if session.retire_at.is_none() => Some(session.created + INCOMING_KEM),
                _ => None,
            })
            .filter(|until| *until > now)
            .max()
    }

    /// The next HELLO of the pair's handshake: a fresh one each time (Q9).
    pub(super) fn send_hello(&mut self, now: Now, key: PeerKey) {
        if let Err(reason) = self.try_send_hello(now, key) {
            self.fail_handshake(key, reason);
        }
    }

    fn try_send_hello(&mut self, now: Now, key: PeerKey) -> Result<(), Failed> {
        let Some(pair) = self.pair(key) else {
            return Ok(());
        };
        // An address is checked when it is made: the agreement fails only if the library does.
        let agreed = self.agree(&pair.address).ok_or(Failed::Timeout)?;
        let index = self.new_index();
        let jitter = self.jitter();
        let known = |key: &PeerKey| self.peer(*key).is_some_and(|peer| peer.current.is_some());
        let successor = self.family(key).iter().any(known);
        let Some(peer) = self.peer_mut(key) else {
            return Ok(());
        };
        peer.agreed = Some(agreed.clone());
        let timestamp = Timestamp::next(now.wall, peer.record.sent).ok_or(Failed::Timestamp)?;
        peer.record.sent = timestamp;
        self.mark_dirty(key);

        let prologue = hello::prologue(index, timestamp, &self.own, &pair.address, pair.peer);
        let (packet, noise) = self
            .build_hello(&agreed, pair.peer, index, timestamp, &prologue)
            .map_err(|_| Failed::Timeout)?;
        let Some(peer) = self.peer_mut(key) else {
            return Ok(());
        };
        let Some(handshake) = peer.handshake.as_mut() else {
            return Ok(());
        };
        let wait = WAITS[handshake.sent.min(WAITS.len() - 1)];
        handshake.sent += 1;
        handshake.next = now.at + wait.mul_f64(jitter);
        handshake.pending.push_back(PendingHello {
            index,
            noise,
            packet: packet.clone(),
            retried: false,
            successor,
        });
        let oldest = (handshake.pending.len() > Handshake::PENDING)
            .then(|| handshake.pending.pop_front())
            .flatten();
        self.reserved.insert(index, key);
        if let Some(oldest) = oldest {
            self.reserved.remove(&oldest.index);
        }
        self.counters.hellos_sent += 1;
        self.send(To::Peer(pair), packet);
        Ok(())
    }

    fn build_hello(
        &mut self,
        agreed: &std::sync::Arc<crypto::Agreed>,
        recipient_peer: PeerId,
        index: u32,
        timestamp: Timestamp,
        prologue: &[u8],
    ) -> Result<(Vec<u8>, noise::Handshake), noise::NoiseFailed> {
        let mut noise = noise::Handshake::initiator(&self.key, agreed, prologue, &mut *self.rng)?;
        let mut packet = self.envelope(agreed.id, recipient_peer).start(kind::HELLO);
        let body = packet.len();
        Hello::emit_fixed(&mut packet, index, timestamp);
        noise.write(&hello::hello_payload(self.capabilities()), &mut packet)?;
        Mac1Key::new(&agreed.address).sign(&mut packet, body);
        agreed.mac.sign(&mut packet);
        Ok((packet, noise))
    }

    /// From us, with our full address, authenticated by CMAC.
    pub(super) fn envelope(
        &self,
        recipient: crate::AddressId,
        recipient_peer: PeerId,
    ) -> Envelope<'_> {
        Envelope {
            flags: 0,
            sender: Party::Full(self.own.address.as_bytes()),
            recipient,
            sender_peer: self.own.peer,
            recipient_peer,
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.config.pq != Pq::Off)
    }

    /// 0.9 to 1.1.
    fn jitter(&mut self) -> f64 {
        0.9 + f64::from(self.rng.next_u32()) / f64::from(u32::MAX) * 0.2
    }

    /// The time of the next retry has come.
    pub(super) fn handshake_timeout(&mut self, now: Now, key: PeerKey) {
        let Some(handshake) = self.peer(key).and_then(|peer| peer.handshake.as_ref()) else {
            return;
        };
        if now.at < handshake.next {
            return;
        }
        if handshake.sent < WAITS.len() {
            self.send_hello(now, key);
        } else {
            self.fail_handshake(key, Failed::Timeout);
        }
    }

    pub(super) fn fail_handshake(&mut self, key: PeerKey, reason: Failed) {
        self.end_handshake(key);
        let Some(peer) = self.peer(key) else { return };
        let pair = peer.pair;
        // An old session that is still in use asks again.
        if let Some(session) = peer.current.and_then(|index| self.sessions.get_mut(&index)) {
            session.rekey_asked = false;
        }
        self.events
            .push_back(Event::HandshakeFailed { pair, reason });
    }

    /// Forgets the pair's own handshake; its secrets are cleared.
    pub(super) fn end_handshake(&mut self, key: PeerKey) {
        let Some(handshake) = self.peer_mut(key).and_then(|peer| peer.handshake.take()) else {
            return;
        };
        for pending in &handshake.pending {
            self.reserved.remove(&pending.index);
        }
    }

    /// The pending HELLO with this index.
    fn pending(&mut self, key: PeerKey, index: u32) -> Option<&mut PendingHello> {
        let handshake = self.peer_mut(key)?.handshake.as_mut()?;
        handshake.pending.iter_mut().find(|p| p.index == index)
    }

    pub(super) fn handle_welcome(
        &mut self,
        now: Now,
        packet: &Packet<&[u8]>,
    ) -> Result<Outcome, Drop> {
        let welcome = Welcome::parse(packet.body()).ok_or(Drop::Malformed)?;
        if welcome.version != hello::VERSION {
            return Err(Drop::Version);
        }
        let requested = *self
            .reserved
            .get(&welcome.receiver)
            .ok_or(Drop::UnknownIndex)?;
        let address = self.check_answer(requested, packet)?;

        let pending = self
            .pending(requested, welcome.receiver)
            .ok_or(Drop::UnknownIndex)?;
        let payload = pending.noise.read(welcome.noise).map_err(|_| Drop::Noise)?;
        // From here on it is the far side itself that speaks, for the first and last time to this HELLO.
        let payload = WelcomePayload::parse(&payload)
            .filter(|payload| {
                payload.index == welcome.index && payload.peer == packet.sender_peer()
            })
            .ok_or(Drop::Malformed)?;
        let pair = Pair {
            address,
            peer: payload.peer,
        };
        let key = self.entry(now.at, pair).ok_or(Drop::PeersFull)?;
        let with_kem = match self.kem_wanted(key, payload.capabilities) {
            Some(with_kem) => with_kem,
            None => {
                self.fail_handshake(requested, Failed::PqRequired);
                self.reschedule(requested);
                return Err(Drop::PqRequired);
            }
        };
        self.finish_initiator(now, requested, key, &welcome, with_kem)?;
        self.reschedule(requested);
        self.reschedule(key);
        Ok(Outcome::Consumed {
            from: Some(Authentic {
                peer: key,
                index: welcome.receiver,
                counter: 0,
                hop_count: packet.hop_count(),
                newest: true,
            }),
        })
    }

    /// Whether ML-KEM follows Noise; `None` if there must be no session (Q14).
    pub(super) fn kem_wanted(&self, key: PeerKey, theirs: Capabilities) -> Option<bool> {
        if self.config.pq == Pq::Off {
            return Some(false);
        }
        let pinned = self.peer(key).is_some_and(|peer| peer.record.pq);
        match theirs.has_kem() {
            true => Some(true),
            false if pinned || self.config.pq == Pq::Require => None,
            false => Some(false),
        }
    }

    /// An answer with CMAC to something that we sent to this peer: from its address, and by its key.
    fn check_answer(
        &mut self,
        key: PeerKey,
        packet: &Packet<&[u8]>,
    ) -> Result<crate::Address, Drop> {
        let peer = self.peer(key).ok_or(Drop::UnknownIndex)?;
        let address = peer.pair.address;
        let from_it = match packet.sender() {
            Party::Full(bytes) => bytes == address.as_bytes(),
            Party::Id(_) => false,
        };
        if !from_it {
            return Err(Drop::WrongParty);
        }
        let agreed = peer.agreed.as_ref().ok_or(Drop::UnknownIndex)?;
        if !agreed.mac.verify(packet.as_bytes()) {
            return Err(Drop::Cmac);
        }
        Ok(address)
    }

    fn finish_initiator(
        &mut self,
        now: Now,
        requested: PeerKey,
        key: PeerKey,
        welcome: &Welcome<'_>,
        with_kem: bool,
    ) -> Result<(), Drop> {
        let Some(peer) = self.peer_mut(requested) else {
            return Err(Drop::UnknownIndex);
        };
        let (agreed, sent) = (peer.agreed.clone(), peer.record.sent);
        let handshake = peer.handshake.as_mut().ok_or(Drop::UnknownIndex)?;
        let place = handshake
            .pending
            .iter()
            .position(|pending| pending.index == welcome.receiver)
            .ok_or(Drop::UnknownIndex)?;
        let pending = handshake.pending.remove(place);
        let successor = pending.as_ref().is_some_and(|pending| pending.successor);
        let noise = pending.map(|pending| pending.noise);
        self.end_handshake(requested);
        self.reserved.remove(&welcome.receiver);
        let split = noise
            .ok_or(Drop::UnknownIndex)?
            .split()
            .map_err(|_| Drop::Noise)?;
        self.counters.handshakes += 1;
        if let Some(peer) = self.peer_mut(key) {
            peer.agreed = agreed;
            peer.record.sent = peer.record.sent.max(sent);
        }

        let ends = self.ends(key).ok_or(Drop::UnknownIndex)?;
        let keys = crypto::first_keys(&split.hash, &split.keys);
        let rekey_at = self.rekey_at(now.at, key);
        let stage = if with_kem { Stage::Kem } else { Stage::Live };
        let index = welcome.receiver;
        let mut session = Session::new(
            now.at,
            key,
            ends,
            (index, welcome.index),
            Role::Initiator,
            stage,
            split.hash,
            &keys,
            (now.at, rekey_at),
        );
        if with_kem {
            let new_index = self.new_index();
            self.reserved.insert(new_index, key);
            session.kem = Some(Box::new(KemState::Offered {
                offer: kem::Offer::new(new_index, &mut *self.rng),
                split: split.keys,
                fragment_id: self.next_fragment_id(),
                repeat: Repeat::new(now.at),
            }));
            self.counters.kem_operations += 1;
        }
        session.successor = successor;
        session.requested = self.pair(requested).filter(|_| requested != key);
        self.add_session(key, session);
        if with_kem {
            self.send_kem_offer(now.at, index);
        } else {
            self.confirm(now.at, index);
            self.remember(key, None, false);
            self.make_current(now.at, key, index);
        }
        Ok(())
    }

    /// The encapsulation key, as two FRAGMENTs (Q13).
    pub(super) fn send_kem_offer(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get(&index) else {
            return;
        };
        let Some(KemState::Offered {
            offer, fragment_id, ..
        }) = session.kem.as_deref()
        else {
            return;
        };
        let id = *fragment_id;
        let slices = fragment::cut(kind::KEM, offer.step1(), KEM_SLICE).unwrap_or_default();
        for body in sealing::fragments(&slices, id) {
            self.send_in(now, index, Some((kind::FRAGMENT, &body)));
        }
    }

    /// Tells the responder that its WELCOME, or its ciphertext, has arrived; again until something comes back (Q11).
    pub(super) fn confirm(&mut self, now: Instant, index: u32) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.confirm = Some((Repeat::new(now), 0));
        }
        self.send_in(now, index, None);
    }

    pub(super) fn handle_cookie(
        &mut self,
        now: Now,
        from: Source<'_>,
        packet: &Packet<&[u8]>,
    ) -> Result<Outcome, Drop> {
        let reply = CookieReply::parse(packet.body()).ok_or(Drop::Malformed)?;
        let key = *self.reserved.get(&reply.index).ok_or(Drop::NotExpected)?;
        if packet.is_auth_error() {
            self.retry_with_cookie(from, key, &reply)?;
            return Ok(Outcome::Consumed { from: None });
        }
        self.check_answer(key, packet)?;
        let peer = self.peer_mut(key).ok_or(Drop::NotExpected)?;
        let handshake = peer.handshake.as_ref().ok_or(Drop::NotExpected)?;
        // The newest HELLO only: older ones were answered late, and the newer one is under way.
        let newest = handshake.pending.back().map(|pending| pending.index);
        // And no more often than retries without it: a peer cannot keep this going for ever.
        let exhausted = handshake.sent >= WAITS.len();
        if newest != Some(reply.index) || peer.record.sent > reply.stored || exhausted {
            return Err(Drop::NotExpected);
        }
        peer.record.sent = reply.stored;
        self.send_hello(now, key);
        self.reschedule(key);
        Ok(Outcome::Consumed { from: None })
    }

    /// Sends the same HELLO once more, with the cookie, to where the cookie came from (Q8).
    fn retry_with_cookie(
        &mut self,
        from: Source<'_>,
        key: PeerKey,
        reply: &CookieReply,
    ) -> Result<(), Drop> {
        if !reply.has_cookie() {
            return Err(Drop::NotExpected);
        }
        let agreed = self.peer(key).and_then(|peer| peer.agreed.clone());
        let agreed = agreed.ok_or(Drop::NotExpected)?;
        let pending = self
            .pending(key, reply.index)
            .filter(|pending| !pending.retried)
            .ok_or(Drop::NotExpected)?;
        pending.retried = true;
        let mut packet = pending.packet.clone();
        hello::set_cookie(
            &mut packet,
            crate::packet::FULL_SENDER_HEADER,
            &reply.cookie,
        );
        agreed.mac.sign(&mut packet);
        self.counters.hellos_sent += 1;
        self.send(To::Endpoint(from.endpoint.into()), packet);
        Ok(())
    }

    /// An index of ours is unknown over there, says somebody (Q24).
    pub(super) fn handle_unknown_index(
        &mut self,
        now: Now,
        packet: &Packet<&[u8]>,
        error: &UnknownIndex,
    ) -> Result<Outcome, Drop> {
        let Party::Id(sender) = packet.sender() else {
            return Err(Drop::Malformed);
        };
        if packet.recipient() != Party::Id(self.own_id) {
            return Err(Drop::NotForUs);
        }
        let sent_it = |key: &&PeerKey| {
            self.peer(**key).is_some_and(|peer| {
                let sessions = peer.sessions.iter().filter_map(|i| self.sessions.get(i));
                sessions
                    .filter(|session| session.remote == error.index)
                    .any(|session| session.sent_lately(now.at, error.counter))
            })
        };
        let keys = self.ids.get(&sender);
        let key = *keys
            .into_iter()
            .flatten()
            .find(sent_it)
            .ok_or(Drop::NotExpected)?;
        self.start_peer(now, key, Reason::Hint);
        self.reschedule(key);
        Ok(Outcome::Consumed { from: None })
    }
}

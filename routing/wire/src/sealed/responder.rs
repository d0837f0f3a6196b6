//! The responder's side: from a stranger's packet to a session, the cheap checks first (Q4 to Q11).
use super::cookie::NO_COOKIE;
use super::counters::Drop;
use super::crypto::{self, Agreed};
use super::hello::{self, CookieReply, Hello, Welcome, WelcomePayload};
use super::noise;
use super::peer::PeerKey;
use super::session::{KemState, Role, Session, Stage, Unconfirmed};
use super::{Now, Outcome, Pair, Sessions, Source, Timestamp, To, kind};
use crate::packet::FLAG_AUTH_ERROR;
use crate::{Address, Packet, Party, PeerId};
use std::sync::Arc;
use std::time::Duration;

/// Unconfirmed sessions that a pair may have (Q9).
const UNCONFIRMED: usize = 3;
/// A HELLO that is not newer gets no more than one answer in this time (Q5).
const STALE_SPACING: Duration = Duration::from_secs(1);
/// A handshake of ours waits this long when one of the far side's has been answered (Q10).
const YIELD: Duration = Duration::from_secs(1);

impl Sessions {
    /// In the order of Q6.
    pub(super) fn handle_hello(
        &mut self,
        now: Now,
        from: Source<'_>,
        packet: &Packet<&[u8]>,
    ) -> Result<Outcome, Drop> {
        let hello = Hello::parse(packet.body()).ok_or(Drop::Malformed)?;
        let Party::Full(sender) = packet.sender() else {
            return Err(Drop::Malformed);
        };
        if packet.is_auth_error() || packet.as_bytes().len() > super::MAX_HANDSHAKE_PACKET {
            return Err(Drop::Malformed);
        }
        self.check_recipient(packet)?;
        if sender == self.own.address.as_bytes() && packet.sender_peer() == self.own.peer {
            return Err(Drop::Reflected);
        }
        if hello.version != hello::VERSION {
            return Err(Drop::Version);
        }
        let body = packet.as_bytes().len() - packet.body().len();
        if !self.mac1.verify(packet.as_bytes(), body) {
            return Err(Drop::Mac1);
        }

        let agreed = self.admit_hello(now, from, packet, sender, &hello)?;
        let pair = Pair {
            address: agreed.address,
            peer: packet.sender_peer(),
        };
        let key = self.entry(now.at, pair).ok_or(Drop::PeersFull)?;
        if let Some(peer) = self.peer_mut(key) {
            peer.agreed = Some(agreed.clone());
        }
        let outcome = self.handle_admitted(now, from, key, packet, &hello, &agreed);
        self.reschedule(key);
        outcome
    }

    fn check_recipient(&self, packet: &Packet<&[u8]>) -> Result<(), Drop> {
        let for_us = match packet.recipient() {
            Party::Id(id) => id == self.own_id,
            Party::Full(address) => address == self.own.address.as_bytes(),
        };
        for_us.then_some(()).ok_or(Drop::NotForUs)
    }

    /// Cookies, budgets, and the draft's MAC (Q6 to Q8). A sender whose agreement is cached is checked by MAC first:
    /// whoever forges its HELLOs does not use up its budget.
    fn admit_hello(
        &mut self,
        now: Now,
        from: Source<'_>,
        packet: &Packet<&[u8]>,
        sender: &[u8; 40],
        hello: &Hello<'_>,
    ) -> Result<Arc<Agreed>, Drop> {
        let limits = &self.config.limits;
        if let Some(known) = self.agreements.get(sender) {
            if !known.agreed.mac.verify(packet.as_bytes()) {
                return Err(Drop::Cmac);
            }
            let among_strangers = known.trusted
                || self
                    .budgets
                    .known_strangers
                    .take(limits.known_strangers, now.at);
            if !among_strangers || !known.bucket.take(limits.known, now.at) {
                return Err(Drop::Budget);
            }
            return Ok(known.agreed.clone());
        }

        if self
            .cookies
            .check(now.at, from.endpoint, sender, &hello.cookie)
        {
            let admitted = self.budgets.with_cookie_networks.take(
                from.network,
                limits.with_cookie_network,
                now.at,
            ) && self.budgets.with_cookie.take(limits.with_cookie, now.at);
            if !admitted {
                return Err(Drop::Budget);
            }
        } else if !self
            .budgets
            .without_cookie
            .take(limits.without_cookie, now.at)
        {
            return Err(self.demand_cookie(now, from, packet, sender, hello));
        }

        let address = Address::from_bytes(sender).map_err(|_| Drop::Address)?;
        let agreed = Arc::new(Agreed::new(&self.key, &address).ok_or(Drop::Address)?);
        if !agreed.mac.verify(packet.as_bytes()) {
            return Err(Drop::Cmac);
        }
        let trusted = self.is_trusted(&address);
        self.counters.agreements_evicted += self.agreements.insert(agreed.clone(), trusted);
        Ok(agreed)
    }

    /// "Come again, with this": no agreement, no state, and less than what came (Q8).
    fn demand_cookie(
        &mut self,
        now: Now,
        from: Source<'_>,
        packet: &Packet<&[u8]>,
        sender: &[u8; 40],
        hello: &Hello<'_>,
    ) -> Drop {
        let limits = &self.config.limits;
        let admitted =
            self.budgets
                .cookies_networks
                .take(from.network, limits.cookies_network, now.at)
                && self.budgets.cookies.take(limits.cookies, now.at);
        if !admitted {
            return Drop::CookieBudget;
        }
        let reply = CookieReply {
            index: hello.index,
            cookie: self
                .cookies
                .make(now.at, from.endpoint, sender, &mut *self.rng),
            stored: Timestamp(0),
        };
        let mut envelope = self.envelope(packet.sender().id(), packet.sender_peer());
        envelope.flags = FLAG_AUTH_ERROR;
        let packet = reply.packet(&envelope);
        self.counters.cookies_sent += 1;
        self.send(To::Endpoint(from.endpoint.into()), packet);
        Drop::CookieDemanded
    }

    /// The HELLO has the right MAC.
    fn handle_admitted(
        &mut self,
        now: Now,
        from: Source<'_>,
        key: PeerKey,
        packet: &Packet<&[u8]>,
        hello: &Hello<'_>,
        agreed: &Arc<Agreed>,
    ) -> Result<Outcome, Drop> {
        let peer = self.peer(key).ok_or(Drop::PeersFull)?;
        if hello.timestamp <= peer.record.seen {
            self.answer_stale(now, from, key, hello, agreed);
            return Err(Drop::Stale);
        }
        if let Some(welcome) = self.repeated_welcome(key, hello) {
            self.send(To::Endpoint(from.endpoint.into()), welcome);
            return Ok(Outcome::Consumed { from: None });
        }
        if self.crosses(now, from, key, hello.timestamp) {
            return Ok(Outcome::Consumed { from: None });
        }
        self.welcome(now, from, key, packet, hello, agreed)?;
        Ok(Outcome::Consumed { from: None })
    }

    /// Tells a sender whose clock or disk went back where it has to go on (Q5).
    fn answer_stale(
        &mut self,
        now: Now,
        from: Source<'_>,
        key: PeerKey,
        hello: &Hello<'_>,
        agreed: &Agreed,
    ) {
        let Some(peer) = self.peer_mut(key) else {
            return;
        };
        if peer
            .last_stale_answer
            .is_some_and(|last| now.at < last + STALE_SPACING)
        {
            return;
        }
        peer.last_stale_answer = Some(now.at);
        let (stored, far_peer) = (peer.record.seen, peer.pair.peer);
        let reply = CookieReply {
            index: hello.index,
            cookie: NO_COOKIE,
            stored,
        };
        let mut packet = reply.packet(&self.envelope(agreed.id, far_peer));
        agreed.mac.sign(&mut packet);
        self.counters.cookies_sent += 1;
        self.send(To::Endpoint(from.endpoint.into()), packet);
    }

    /// The WELCOME that this very HELLO has got already: no work for a copy.
    fn repeated_welcome(&self, key: PeerKey, hello: &Hello<'_>) -> Option<Vec<u8>> {
        let sessions = self.peer(key)?.sessions.iter();
        sessions
            .filter_map(|index| self.sessions.get(index))
            .find_map(|session| match &session.stage {
                Stage::Unconfirmed(Unconfirmed::Noise {
                    hello_index,
                    timestamp,
                    welcome,
                }) if *hello_index == hello.index && *timestamp == hello.timestamp => {
                    Some(welcome.to_vec())
                }
                _ => None,
            })
    }

    /// Q10. True if this HELLO crosses one of ours that goes first.
    fn crosses(&mut self, now: Now, from: Source<'_>, key: PeerKey, theirs: Timestamp) -> bool {
        let Some(far) = self.pair(key) else {
            return false;
        };
        let any = Pair {
            peer: PeerId::ANY,
            ..far
        };
        let we_go_first = self.own < far;
        let ours = [Some(key), self.lookup(&any)];
        for ours in ours.into_iter().flatten() {
            let Some(handshake) = self.peer_mut(ours).and_then(|peer| peer.handshake.as_mut())
            else {
                continue;
            };
            let Some(last) = handshake.pending.back() else {
                continue;
            };
            let first_crossing = match handshake.crossed {
                None => true,
                Some(crossed) => theirs <= crossed,
            };
            if we_go_first && first_crossing {
                handshake.crossed = Some(theirs);
                let packet = last.packet.clone();
                self.counters.hellos_sent += 1;
                self.send(To::Endpoint(from.endpoint.into()), packet);
                return true;
            }
            // Theirs is answered: it gets the time to come through.
            handshake.next = handshake.next.max(now.at + YIELD);
            self.reschedule(ours);
        }
        false
    }

    fn welcome(
        &mut self,
        now: Now,
        from: Source<'_>,
        key: PeerKey,
        packet: &Packet<&[u8]>,
        hello: &Hello<'_>,
        agreed: &Arc<Agreed>,
    ) -> Result<(), Drop> {
        let pair = self.pair(key).ok_or(Drop::PeersFull)?;
        let prologue = hello::prologue(
            hello.index,
            hello.timestamp,
            &pair,
            &self.own.address,
            packet.recipient_peer(),
        );
        let mut noise = noise::Handshake::responder(&self.key, agreed, &prologue, &mut *self.rng)
            .map_err(|_| Drop::Noise)?;
        let payload = noise.read(hello.noise).map_err(|_| Drop::Noise)?;
        let theirs = hello::parse_hello_payload(&payload).ok_or(Drop::Malformed)?;
        let with_kem = self.kem_wanted(key, theirs).ok_or(Drop::PqRequired)?;

        let index = self.new_index();
        let payload = WelcomePayload {
            index,
            peer: self.own.peer,
            capabilities: self.capabilities(),
        };
        let mut welcome = self.envelope(agreed.id, pair.peer).start(kind::WELCOME);
        Welcome::emit_fixed(&mut welcome, index, hello.index);
        noise
            .write(&payload.emit(), &mut welcome)
            .map_err(|_| Drop::Noise)?;
        agreed.mac.sign(&mut welcome);
        let split = noise.split().map_err(|_| Drop::Noise)?;
        self.counters.handshakes += 1;

        let ends = self.ends(key).ok_or(Drop::PeersFull)?;
        let keys = crypto::first_keys(&split.hash, &split.keys);
        let stage = Stage::Unconfirmed(Unconfirmed::Noise {
            hello_index: hello.index,
            timestamp: hello.timestamp,
            welcome: welcome.clone().into(),
        });
        let rekey_at = self.rekey_at(now.at, key);
        let mut session = Session::new(
            now.at,
            key,
            ends,
            (index, hello.index),
            Role::Responder,
            stage,
            split.hash,
            &keys,
            (now.at, rekey_at),
        );
        if with_kem {
            session.kem = Some(Box::new(KemState::Awaited { split: split.keys }));
        }
        session.successor = self.far_side_knows_current(key);
        self.make_room_for_unconfirmed(key);
        self.add_session(key, session);
        self.unconfirmed.push_back(index);
        self.counters.welcomes_sent += 1;
        self.send(To::Endpoint(from.endpoint.into()), welcome);
        Ok(())
    }

    /// Whether the far side has the present session, too: a HELLO of its making then asks for the next one, after a restart
    /// for example, however young the present one is.
    fn far_side_knows_current(&self, key: PeerKey) -> bool {
        let current = self.peer(key).and_then(|peer| peer.current);
        let session = current.and_then(|index| self.sessions.get(&index));
        session.is_some_and(|session| session.role == Role::Responder || session.confirm.is_none())
    }

    /// The oldest make room: three for a pair, and a bound for all.
    fn make_room_for_unconfirmed(&mut self, key: PeerKey) {
        let sessions = self.peer(key).map(|peer| peer.sessions.clone());
        let of_pair: Vec<_> = sessions
            .unwrap_or_default()
            .into_iter()
            .filter(|index| self.is_unconfirmed(*index))
            .collect();
        if of_pair.len() >= UNCONFIRMED {
            self.remove_session(of_pair[0]);
            self.counters.sessions_evicted += 1;
        }

        // Confirmed and dropped ones have left the list's end by time, or are passed over here.
        if self.unconfirmed.len() >= 2 * self.config.limits.unconfirmed {
            let mut queue = std::mem::take(&mut self.unconfirmed);
            queue.retain(|index| self.is_unconfirmed(*index));
            self.unconfirmed = queue;
        }
        while self.unconfirmed.len() >= self.config.limits.unconfirmed {
            let Some(oldest) = self.unconfirmed.pop_front() else {
                break;
            };
            if self.is_unconfirmed(oldest) {
                self.remove_session(oldest);
                self.counters.sessions_evicted += 1;
            }
        }
    }

    fn is_unconfirmed(&self, index: u32) -> bool {
        self.sessions.get(&index).is_some_and(|session| {
            matches!(session.stage, Stage::Unconfirmed(Unconfirmed::Noise { .. }))
        })
    }
}

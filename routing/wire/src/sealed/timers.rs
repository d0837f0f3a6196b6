//! Time: retries, repeats, rekeying and ends, each pair with one place in the table of timers (Q9, Q13, Q16).
use super::counters::Drop;
use super::peer::PeerKey;
use super::session::{KemState, Session, Stage, Unconfirmed};
use super::{Down, Event, Failed, Now, Reason, Sessions};
use std::time::{Duration, Instant};

/// A responder's session that nothing was heard in.
const UNCONFIRMED: Duration = Duration::from_secs(20);
/// ML-KEM that does not come through.
const KEM: Duration = Duration::from_secs(60);
/// Age at which the pair's lower address starts a new handshake (Q16).
const REKEY: Duration = Duration::from_secs(120);
/// The other side starts this much later, when nothing has come.
const REKEY_HIGHER: Duration = Duration::from_secs(10);
const REKEY_JITTER_MS: u32 = 4000;
/// Repeats of the initiator's empty packet.
const CONFIRMS: u8 = 6;

impl Sessions {
    /// When `handle_timeout` wants to be called, and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        if let Some(since) = self.rekeys_since {
            return Some((since, "a session is old enough for a new handshake"));
        }
        let ((at, _), why) = self.timers.first_key_value()?;
        Some((*at, *why))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.rekeys_since = None;
        for key in std::mem::take(&mut self.rekeys) {
            self.start_peer(now, key, Reason::Rekey);
            self.reschedule(key);
        }
        while let Some((at, key)) = self.timers.first_key_value().map(|(place, _)| *place) {
            if at > now.at {
                break;
            }
            self.peer_timeout(now, key);
            self.reschedule(key);
        }
    }

    /// When a session of this age asks for its successor: the lower address first, with jitter (Q16).
    pub(super) fn rekey_at(&mut self, created: Instant, key: PeerKey) -> Instant {
        let jitter = Duration::from_millis((self.rng.next_u32() % REKEY_JITTER_MS).into());
        let higher = self.pair(key).is_some_and(|far| far < self.own);
        created + REKEY + jitter + if higher { REKEY_HIGHER } else { Duration::ZERO }
    }

    /// Gives the pair its place in the timers.
    pub(super) fn reschedule(&mut self, key: PeerKey) {
        let next = self.next_of(key);
        let Some(peer) = self.peer_mut(key) else {
            return;
        };
        let at = next.map(|(at, _)| at);
        let before = std::mem::replace(&mut peer.scheduled, at);
        if before == at {
            return;
        }
        if let Some(at) = before {
            self.timers.remove(&(at, key));
        }
        if let Some((at, why)) = next {
            self.timers.insert((at, key), why);
        }
    }

    fn next_of(&self, key: PeerKey) -> Option<(Instant, &'static str)> {
        let peer = self.peer(key)?;
        let handshake = peer
            .handshake
            .iter()
            .map(|handshake| (handshake.next, "a HELLO is to be repeated"));
        let sessions = peer.sessions.iter().filter_map(|i| self.sessions.get(i));
        handshake
            .chain(sessions.flat_map(|session| timers_of(session)))
            .min()
    }

    fn peer_timeout(&mut self, now: Now, key: PeerKey) {
        self.handshake_timeout(now, key);
        let Some(peer) = self.peer(key) else { return };
        let trusted = peer.trusted;
        for index in peer.sessions.clone() {
            let Some(session) = self.sessions.get_mut(&index) else {
                continue;
            };
            if now.at >= end_of(session) {
                self.end_session(key, index);
                continue;
            }
            let pool = self.pools.of(trusted);
            for _ in 0..session.reassembly.expire(now.at, pool) {
                self.counters.count(Drop::FragmentTimeout);
            }
            self.repeat_kem(now.at, index);
            self.repeat_confirm(now.at, index);
        }
    }

    fn end_session(&mut self, key: PeerKey, index: u32) {
        let Some(session) = self.sessions.get(&index) else {
            return;
        };
        let offered = matches!(session.kem.as_deref(), Some(KemState::Offered { .. }));
        let Some(peer) = self.peer(key) else { return };
        let (pair, was_current) = (peer.pair, peer.current == Some(index));
        self.remove_session(index);
        if was_current {
            self.events.push_back(Event::SessionDown {
                peer: key,
                pair,
                reason: Down::Expired,
            });
        } else if offered {
            let reason = Failed::KemTimeout;
            self.events
                .push_back(Event::HandshakeFailed { pair, reason });
        }
    }

    fn repeat_kem(&mut self, now: Instant, index: u32) {
        let session = self.sessions.get_mut(&index);
        let Some(KemState::Offered { repeat, .. }) = session.and_then(|s| s.kem.as_deref_mut())
        else {
            return;
        };
        if now >= repeat.at {
            repeat.again(now);
            self.send_kem_offer(now, index);
        }
    }

    fn repeat_confirm(&mut self, now: Instant, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let Some((repeat, sent)) = &mut session.confirm else {
            return;
        };
        if now < repeat.at {
            return;
        }
        repeat.again(now);
        *sent += 1;
        if *sent >= CONFIRMS {
            session.confirm = None;
        }
        self.send_in(now, index, None);
    }
}

/// When a session is over.
fn end_of(session: &Session) -> Instant {
    let end = match session.stage {
        Stage::Unconfirmed(Unconfirmed::Noise { .. }) => session.created + UNCONFIRMED,
        Stage::Unconfirmed(Unconfirmed::Kem) | Stage::Kem => session.created + KEM,
        Stage::Live => session.expires_at(),
    };
    session.retire_at.map_or(end, |retire| retire.min(end))
}

fn timers_of(session: &Session) -> impl Iterator<Item = (Instant, &'static str)> {
    let kem = match session.kem.as_deref() {
        Some(KemState::Offered { repeat, .. }) => Some((repeat.at, "a KEM key is to be repeated")),
        _ => None,
    };
    let confirm = session
        .confirm
        .as_ref()
        .map(|(repeat, _)| (repeat.at, "a session is to be confirmed again"));
    let fragments = session
        .reassembly
        .deadline()
        .map(|at| (at, "a datagram of fragments is overdue"));
    [
        Some((end_of(session), "a session ends")),
        kem,
        confirm,
        fragments,
    ]
    .into_iter()
    .flatten()
}

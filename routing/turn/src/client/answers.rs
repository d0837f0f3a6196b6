//! What the server's answers mean (RFC 8656 §7.3, §7.4, §8.3, §10.3, §12.3).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use turn_types::attribute::Lifetime;

use super::auth::Challenged;
use super::requests::{Request, Transaction};
use super::{Allocation, Client, Event, Permission, REDIRECT_GUARD, State, Why};
use crate::server::ConnectionId;
use crate::stun::text::Text;
use crate::stun::{Class, Message, attr};

/// Permissions stand 300 s and are asked for again after four minutes (T38).
const PERMISSION: Duration = Duration::from_secs(300);
const PERMISSION_REFRESH: Duration = Duration::from_secs(240);
/// Nonces that one request may be asked again with.
const NONCES: u32 = 3;
/// How often something is asked again after 442 or 443 (T41).
const PACED: u32 = 3;
/// Client addresses tried after 437 (T42).
const MISMATCHES: u32 = 3;
/// Fresh starts after 400 to ChannelBind (T21) before it is given up.
const FRESH_STARTS: u32 = 3;
const AFTER_MISMATCH: Duration = Duration::from_secs(120);
const AFTER_QUOTA: Duration = Duration::from_secs(60);

impl Client {
    pub(super) fn answer(&mut self, now: Instant, message: &Message<'_>) {
        let same = |t: &Transaction| {
            t.id == message.transaction() && t.request.method() == message.method()
        };
        let Some(at) = self.transactions.iter().position(same) else {
            self.counters.strange_answers += 1;
            return;
        };
        let error = match message.class() {
            Class::Error => match message.error_code() {
                Ok(error) => Some(error),
                Err(_) => {
                    self.counters.malformed += 1;
                    return;
                }
            },
            _ => None,
        };
        let code = error.as_ref().map(|(code, _)| *code);
        if !self.is_genuine(message, self.transactions[at].signed, code) {
            self.counters.bad_integrity += 1;
            return;
        }
        if matches!(code, Some(401 | 438)) {
            self.challenge_answer(now, at, message, code == Some(438));
        } else {
            let transaction = self.finished(now, at);
            match error {
                None => self.succeeded(now, transaction.request, message),
                Some((code, reason)) => self.failed(now, transaction, code, reason, message),
            }
        }
        self.ask_waiting(now);
    }

    /// Takes a transaction off the list, and its round trip into the estimate.
    fn finished(&mut self, now: Instant, at: usize) -> Transaction {
        let transaction = self.transactions.swap_remove(at);
        if let Some(rtt) = transaction.timing.rtt(now) {
            self.estimator.sample(now, rtt);
        }
        transaction
    }

    /// RFC 8489 §9.2.5: the answer to a signed request must be signed with the same key, else it never came; 401 and
    /// 438 cannot be. Without `require_integrity` unsigned errors are heard, wrongly signed ones never (T39).
    fn is_genuine(&self, message: &Message<'_>, signed: bool, code: Option<u16>) -> bool {
        let Some(challenge) = self.challenge.as_ref().filter(|_| signed) else {
            // Nothing to check with. A success without credentials is only taken where none are configured.
            return code.is_some()
                || self.config.credentials.is_none()
                || !self.config.require_integrity;
        };
        if matches!(code, Some(401 | 438)) {
            return true;
        }
        if message.is_signed() {
            return challenge.key.verifies(challenge.mac, message);
        }
        code.is_some() && !self.config.require_integrity
    }

    fn challenge_answer(&mut self, now: Instant, at: usize, message: &Message<'_>, stale: bool) {
        let (signed, nonces) = (self.transactions[at].signed, self.transactions[at].nonces);
        let challenge = match self.challenged(message) {
            Challenged::Again(challenge) => challenge,
            Challenged::Ignore => {
                self.counters.bad_integrity += 1;
                return;
            }
            Challenged::NoCredentials => return self.end(Why::Credentials, None),
        };
        let transaction = self.finished(now, at);
        // 401 to signed credentials means that they are wrong, unless they were for a realm of before (RFC 8489 §9.2.5).
        let refused = signed && !stale && self.is_in_realm_of(&challenge);
        if refused || !self.accept_challenge(*challenge) && signed || nonces >= NONCES {
            return self.end(Why::Credentials, None);
        }
        self.ask_again(now, transaction.request, nonces + 1, transaction.paced);
    }

    fn succeeded(&mut self, now: Instant, request: Request, message: &Message<'_>) {
        match request {
            Request::Allocate => self.allocated(now, message),
            Request::Refresh { lifetime } if lifetime.is_zero() => self.left(now),
            Request::Refresh { .. } => {
                let granted = lifetime(message);
                if let (State::Ready(allocation), Some(granted)) = (&mut self.state, granted) {
                    allocation.expires = now + granted;
                    allocation.refresh_at = now + refresh_after(granted);
                }
            }
            Request::Permit(peers) => self.permit_stands(now, &peers),
            Request::Bind { peer, .. } => {
                self.channels.bound(now, peer);
                self.permit_stands(now, &[peer.ip()]);
                self.report(Event::Bound(peer));
            }
            Request::Connect { peer } => match connection_id(message) {
                Some(connection) => self.report(Event::Connected { peer, connection }),
                None => self.report(Event::ConnectFailed { peer, code: 500 }),
            },
        }
    }

    fn allocated(&mut self, now: Instant, message: &Message<'_>) {
        let relayed: Vec<SocketAddr> = message
            .xor_addresses(attr::XOR_RELAYED_ADDRESS)
            .filter_map(Result::ok)
            .take(2)
            .collect();
        let Some(granted) =
            lifetime(message).filter(|_| !relayed.is_empty() && self.state == State::Allocating)
        else {
            return self.end(Why::Nonsense, None);
        };
        self.mismatches = 0;
        let allocation = Allocation {
            relayed: relayed.clone(),
            refresh_at: now + refresh_after(granted),
            expires: now + granted,
        };
        self.state = State::Ready(allocation);
        let reservation = message
            .raw(attr::RESERVATION_TOKEN)
            .and_then(|t| t.try_into().ok());
        let mapped = message.xor_address(attr::XOR_MAPPED_ADDRESS).ok().flatten();
        self.events.push_back(Event::Allocated {
            relayed,
            mapped,
            reservation,
        });
        let wanted: Vec<IpAddr> = self.permissions.keys().copied().collect();
        for peers in wanted.chunks(32) {
            self.ask(now, Request::Permit(peers.to_vec()));
        }
    }

    fn permit_stands(&mut self, now: Instant, peers: &[IpAddr]) {
        let mut standing = Vec::new();
        for peer in peers {
            // Not there: it was forgotten meanwhile, and nobody waits for it.
            let Some(permission) = self.permissions.get_mut(peer) else {
                continue;
            };
            if *permission == Permission::Wanted {
                self.events.push_back(Event::Permitted(*peer));
            }
            *permission = Permission::Stands {
                expires: now + PERMISSION,
                refresh_at: Some(now + PERMISSION_REFRESH),
            };
            standing.push(*peer);
        }
        self.flush(now, &standing);
    }

    fn left(&mut self, now: Instant) {
        match self.state {
            State::Leaving { again: true } => self.begin_afresh(now),
            _ => self.end(Why::Closed, None),
        }
    }

    fn failed(
        &mut self,
        now: Instant,
        transaction: Transaction,
        code: u16,
        reason: String,
        message: &Message<'_>,
    ) {
        let paced = transaction.paced;
        match (transaction.request, code) {
            (Request::Allocate, 300) => self.redirected(now, message),
            (Request::Allocate, 437) => self.mismatch(now),
            (Request::Allocate, 420)
                if self.dont_fragment && unknown(message, attr::DONT_FRAGMENT) =>
            {
                self.dont_fragment = false;
                self.report(Event::NoDontFragment);
                self.ask(now, Request::Allocate);
            }
            (Request::Allocate, 486 | 508) => {
                self.end(Why::Refused { code, reason }, Some(now + AFTER_QUOTA))
            }
            (request, 442 | 443) if paced < PACED => {
                // 500, 1000, 2000 ms (T41). The count is kept by asking again right then.
                let delay = Duration::from_millis(500 << paced);
                self.later.push((now + delay, request, paced + 1));
            }
            (Request::Allocate, _) => self.end(Why::Refused { code, reason }, None),
            (Request::Refresh { lifetime }, _) if lifetime.is_zero() => self.left(now),
            (Request::Refresh { .. }, 437) => self.end(Why::Lost, None),
            (Request::Refresh { .. }, _) => self.end(Why::Refused { code, reason }, None),
            (_, 437) => self.end(Why::Lost, None),
            (_, 441) => self.end(Why::Credentials, None),
            (Request::Bind { .. }, 400) => self.bind_mismatch(now, reason),
            (Request::Bind { peer, .. }, _) => {
                // The permission is another matter: it may stand, and data goes by Send.
                self.channels.refused(now, peer);
                self.report(Event::PeerRefused {
                    peer: peer.ip(),
                    code,
                });
                if self.permissions.get(&peer.ip()) == Some(&Permission::Wanted) {
                    self.ask(now, Request::Permit(vec![peer.ip()]));
                }
            }
            (Request::Permit(peers), _) if peers.len() > 1 => {
                // All or nothing (T11): one bad peer must not keep the others out.
                for peer in peers {
                    self.ask(now, Request::Permit(vec![peer]));
                }
            }
            (Request::Permit(peers), _) => self.refused(&peers, code),
            (Request::Connect { peer }, _) => self.report(Event::ConnectFailed { peer, code }),
        }
    }

    /// RFC 8656 §12.3: the server thinks differently about this channel. Only a new allocation is sure to agree (T21).
    fn bind_mismatch(&mut self, now: Instant, reason: String) {
        self.fresh_starts += 1;
        if self.fresh_starts > FRESH_STARTS {
            return self.end(Why::Refused { code: 400, reason }, None);
        }
        self.leave(now, true);
    }

    fn refused(&mut self, peers: &[IpAddr], code: u16) {
        for peer in peers {
            self.permissions.remove(peer);
            self.counters.queue_dropped += self.queue.drop_peer(*peer);
            self.report(Event::PeerRefused { peer: *peer, code });
        }
    }

    /// T42
    fn mismatch(&mut self, now: Instant) {
        self.mismatches += 1;
        if self.mismatches >= MISMATCHES {
            self.mismatches = 0;
            return self.end(Why::Mismatch, Some(now + AFTER_MISMATCH));
        }
        self.drop_everything();
        self.state = State::Idle;
        self.events.push_back(Event::NewSocket);
    }

    /// T29
    fn redirected(&mut self, now: Instant, message: &Message<'_>) {
        let Ok(Some(server)) = message.address(attr::ALTERNATE_SERVER) else {
            return self.end(Why::Nonsense, None);
        };
        let tried = self
            .tried
            .iter()
            .any(|(s, at)| *s == server && now < *at + REDIRECT_GUARD);
        if tried || server.port() == 0 || server.ip().is_unspecified() || server.ip().is_multicast()
        {
            return self.end(Why::RedirectLoop(server), None);
        }
        let domain = message
            .raw(attr::ALTERNATE_DOMAIN)
            .and_then(|d| Text::Software.received(d).ok());
        self.drop_everything();
        self.state = State::Idle;
        let domain = domain.map(str::to_owned);
        self.events.push_back(Event::Redirect { server, domain });
    }
}

fn lifetime(message: &Message<'_>) -> Option<Duration> {
    let seconds = message.get::<Lifetime>().ok().flatten()?.seconds();
    // A server's lifetime is not trusted beyond a day: it only delays the refresh.
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds.min(86_400))))
}

/// About a minute before it ends; half-way where it is short (T38).
fn refresh_after(lifetime: Duration) -> Duration {
    lifetime
        .saturating_sub(Duration::from_secs(60))
        .max(lifetime / 2)
}

fn connection_id(message: &Message<'_>) -> Option<ConnectionId> {
    let id: [u8; 4] = message.raw(attr::CONNECTION_ID)?.try_into().ok()?;
    Some(ConnectionId(u32::from_be_bytes(id)))
}

fn unknown(message: &Message<'_>, kind: u16) -> bool {
    message
        .raw(attr::UNKNOWN_ATTRIBUTES)
        .is_some_and(|v| v.chunks_exact(2).any(|k| k == kind.to_be_bytes()))
}

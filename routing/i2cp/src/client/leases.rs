//! Lease sets: every request is answered at once, and the first one is sent again (I13, I14).
use super::{Client, Event, State};
use crate::encrypted::{ENCRYPTED, Encryption};
use crate::lease_set::{LeaseSet, MOST_LEASES, STANDARD};
use crate::message::{self as wire, Lease, SessionId};
use crate::options::LeaseSetKind;
use crate::time::Now;
use std::time::Duration;
use zeroize::Zeroizing;

/// i2pd publishes a lease set only if an outbound tunnel exists at that moment, and does not try again (i2cp.md
/// §2.11): the first one is sent again after these times. It builds tunnels every 10 to 15 s.
const REPUBLISH_AFTER: [Duration; 3] = [
    Duration::from_secs(30),
    Duration::from_secs(15),
    Duration::from_secs(5),
];

impl Client {
    /// I13, I14: every request is answered, at once; without an answer the router ends the session.
    pub(super) fn lease_request(&mut self, session: SessionId, mut leases: Vec<Lease>, now: Now) {
        let own = match self.state {
            State::Building { session, .. } | State::Ready { session } => session,
            _ => {
                self.counters.misplaced += 1;
                return;
            }
        };
        if own != session {
            self.counters.foreign_session += 1;
            return;
        }
        if !self.may_answer() {
            return;
        }
        let router_ms = self.router_ms(now);
        leases.retain(|lease| lease.end_ms > router_ms);
        leases.truncate(MOST_LEASES);
        if leases.is_empty() {
            self.counters.bad_lease_requests += 1;
            return;
        }
        self.leases = leases;
        self.publish(session, now);
        if matches!(self.state, State::Building { .. }) {
            self.state = State::Ready { session };
            self.last_traffic = now.instant;
            self.republish = REPUBLISH_AFTER.map(|after| now.instant + after).to_vec();
            self.events.push_back(Event::Ready);
        }
    }

    /// Signs the current leases and sends them. Each set is at least a second younger than the one before.
    pub(super) fn publish(&mut self, session: SessionId, now: Now) {
        let router_ms = self.router_ms(now);
        self.leases.retain(|lease| lease.end_ms > router_ms);
        if self.leases.is_empty() {
            return;
        }
        let now_s = u32::try_from(router_ms / 1000).unwrap_or(u32::MAX);
        self.published_s = now_s.max(self.published_s.saturating_add(1));
        let encrypted = self.options.lease_set == LeaseSetKind::Encrypted;
        let set = LeaseSet {
            keys: &self.keys,
            encryption: &self.encryption.0,
            published_s: self.published_s,
            unpublished: self.options.unpublished,
            blinded: encrypted,
            options: &self.options.lease_set_options,
            leases: &self.leases,
        };
        let mut bytes = set.signed();
        let mut kind = STANDARD;
        if encrypted {
            kind = ENCRYPTED;
            bytes = Encryption {
                keys: &self.keys,
                secret: &self.options.secret,
                auth: &self.options.client_auth,
                day_ms: router_ms,
                published_s: self.published_s,
                lifetime_s: set.lifetime_s(),
                unpublished: self.options.unpublished,
            }
            .encrypt(&bytes, &mut self.random);
        }
        let private = &self.encryption.1;
        let message = wire::create_lease_set(session, kind, &bytes, private);
        self.counters.lease_sets += 1;
        self.push(Zeroizing::new(message));
    }
}

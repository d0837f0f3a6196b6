//! SIP-REGISTRATION of this node's users (R131): each URI of theirs leads here, as long as this node runs.
use super::Dht;
use crate::dht::Role;
use crate::dht::publish::Copy;
use anode_reload::body::DataValue;
use anode_reload::node::{Answer, RequestId};
use anode_reload::usage::anode::LIFETIME;
use anode_reload::usage::sip::{self, SipRegistration};
use anode_reload::{Id, Now, ReloadError, TypeId};
use rand_core::Rng as _;
use std::time::Duration;

/// URIs that one node registers.
const MAX_REGISTRATIONS: usize = 16;

/// A user of this node, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its URI.
    pub uri: String,
    /// Whether the overlay has it.
    pub stored: bool,
}

pub(super) struct Registration {
    uri: String,
    resource: Id,
    copy: Copy,
}

impl Registration {
    pub fn due(&self) -> Option<Duration> {
        self.copy.next
    }

    pub fn is_asked(&self, request: RequestId) -> bool {
        self.copy.request == Some(request)
    }
}

/// Of URIs that have been checked; others are left out.
pub(super) fn of(uris: &[String]) -> Vec<Registration> {
    let known = uris.iter().take(MAX_REGISTRATIONS);
    let known = known.filter_map(|uri| Some((uri.clone(), sip::resource(uri)?)));
    known
        .map(|(uri, resource)| Registration {
            uri,
            resource,
            copy: Copy::default(),
        })
        .collect()
}

impl Dht {
    /// The own users, and whether the overlay has them.
    pub fn registered(&self) -> Vec<Registered> {
        let all = self.applications.registrations.iter();
        all.map(|it| Registered {
            uri: it.uri.clone(),
            stored: it.copy.is_stored(),
        })
        .collect()
    }

    /// This node has come into a ring, or is reached another way.
    pub(in crate::dht) fn register_again(&mut self, now: Now) {
        let all = self.applications.registrations.iter_mut();
        all.for_each(|it| it.copy.due(now.at));
    }

    /// A source route to this node: a client is reached through whom it has a link to (R8).
    fn own_route(&self) -> Vec<Id> {
        let access = self.access().filter(|_| self.config.role == Role::Client);
        access.into_iter().chain([self.node.id()]).collect()
    }

    pub(super) fn run_registrations(&mut self, now: Now) {
        if !self.is_in() {
            return;
        }
        for place in 0..self.applications.registrations.len() {
            let it = &self.applications.registrations[place];
            if it.due().is_none_or(|at| at > now.at) {
                continue;
            }
            let resource = it.resource;
            let registration = SipRegistration::Route {
                preferences: String::new(),
                route: self.own_route(),
            };
            let sent = registration
                .emit()
                .and_then(|value| self.store_registration(now, resource, value));
            self.applications.registrations[place].copy.asked(now, sent);
        }
    }

    fn store_registration(
        &mut self,
        now: Now,
        resource: Id,
        value: Vec<u8>,
    ) -> Result<RequestId, ReloadError> {
        let key = self.node.id().0.to_vec();
        let value = DataValue::Dictionary { key, value };
        let time = self.next_time(now);
        self.store_signed(
            now,
            resource,
            TypeId::SIP_REGISTRATION,
            value,
            time,
            LIFETIME,
        )
    }

    /// Takes them back; nobody waits for the answers.
    pub(in crate::dht) fn unregister(&mut self, now: Now) {
        if !self.is_in() {
            return;
        }
        let all = self.applications.registrations.iter();
        let stored = all.filter(|it| it.copy.is_stored());
        for resource in stored.map(|it| it.resource).collect::<Vec<_>>() {
            let _ = self.store_registration(now, resource, Vec::new());
        }
    }

    pub(super) fn registration_answered(
        &mut self,
        now: Now,
        request: RequestId,
        result: &Result<Answer, ReloadError>,
    ) {
        let mut all = self.applications.registrations.iter_mut();
        let Some(it) = all.find(|it| it.is_asked(request)) else {
            return;
        };
        match result {
            Ok(_) => it.copy.stored(now, self.rng.next_u32()),
            Err(error) => {
                tracing::warn!(
                    "DHT {}: {} is not registered: {error}",
                    self.config.overlay,
                    it.uri
                );
                it.copy.failed(now);
            }
        }
    }
}

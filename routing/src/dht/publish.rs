//! The own record: stored at both places, refreshed, and changed at once when an endpoint does (ANODE-RECORD).
use super::{Dht, Role};
use anode_reload::body::{DataValue, StoreRequest, StoreType};
use anode_reload::node::{Answer, RequestId, RequestOptions};
use anode_reload::usage::anode::{self, AnodeRecord, COPIES, LIFETIME, REFRESH};
use anode_reload::{Code, Id, Now, ReloadError, Signature, SignerIdentity, StoredData, TypeId};
use anode_wire::{Endpoint, PeerId};
use rand_core::Rng as _;
use std::time::Duration;

/// A changed record is stored no more often than this in the long run (reload.md §3)...
const CHANGE_EVERY: Duration = Duration::from_secs(10);
/// ...but so many changes at once: who moves loses one address, gets another, and then learns how others see it.
const CHANGES_AT_ONCE: u32 = 3;
/// Changes that come together are one.
const COALESCE: Duration = Duration::from_millis(200);
/// A copy that could not be stored is tried again after this, and after twice as long each time.
const RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(120);
/// Endpoints that a record names.
const MAX_ENDPOINTS: usize = 8;

/// Where this node is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct OwnPlaces {
    /// Best first.
    pub endpoints: Vec<Endpoint>,
}

/// Something of this node that the overlay keeps at one place.
#[derive(Default)]
pub(super) struct Copy {
    /// When it is stored next; `None`: it is being stored.
    pub next: Option<Duration>,
    pub request: Option<RequestId>,
    retry: Duration,
    stored: bool,
}

impl Copy {
    /// The overlay has had it at least once.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// It is to be stored at this time.
    pub fn due(&mut self, at: Duration) {
        self.next = Some(at);
        self.retry = RETRY;
    }

    /// It was sent, or could not be.
    pub fn asked(&mut self, now: Now, sent: Result<RequestId, ReloadError>) {
        match sent {
            Ok(request) => {
                self.request = Some(request);
                self.next = None;
            }
            Err(_) => self.failed(now),
        }
    }

    /// It is stored; again after `refresh` ±10 %, so that what began together does not stay together.
    pub fn stored(&mut self, now: Now, random: u32) {
        self.request = None;
        self.stored = true;
        self.retry = RETRY;
        let share = 0.9 + f64::from(random % 2000) / 10_000.0;
        self.next = Some(now.at + Duration::from_secs(REFRESH.into()).mul_f64(share));
    }

    /// It is tried again soon, and then less and less often.
    pub fn failed(&mut self, now: Now) {
        self.request = None;
        self.next = Some(now.at + self.retry);
        self.retry = (self.retry * 2).min(MAX_RETRY);
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Publisher {
    places: OwnPlaces,
    /// The record that is due tells something new.
    is_news: bool,
    /// Until then the changes that were stored are paid for, each with [`CHANGE_EVERY`].
    paid: Duration,
    /// Storage times only rise, also when two changes fall into one second.
    last_time: u32,
    copies: [Copy; COPIES as usize],
    /// Through whom a client is reached, by its record.
    pub access: Option<Id>,
}

impl Publisher {
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.places.endpoints
    }

    /// All copies have been stored.
    pub fn is_published(&self) -> bool {
        self.copies.iter().all(|copy| copy.stored)
    }

    fn is_anywhere(&self) -> bool {
        self.copies.iter().any(|copy| copy.stored)
    }

    pub fn set_places(&mut self, now: Now, mut places: OwnPlaces) {
        places.endpoints.truncate(MAX_ENDPOINTS);
        if places == self.places {
            return;
        }
        tracing::debug!(endpoints = ?places.endpoints, "the own record changes");
        self.places = places;
        self.store_changed(now);
    }

    /// The record says something else now.
    pub fn store_changed(&mut self, now: Now) {
        let credit = CHANGE_EVERY * (CHANGES_AT_ONCE - 1);
        let soon = now.at + COALESCE;
        // What waits already takes this change with it.
        let due = self.copies.iter().filter_map(|copy| copy.next).min();
        let due = due.filter(|_| self.is_news).unwrap_or(soon);
        let at = due.max(self.paid.saturating_sub(credit));
        self.is_news = true;
        for copy in &mut self.copies {
            // What is under way tells the old state.
            copy.request = None;
            copy.due(at);
        }
    }

    /// The ring is another one.
    pub fn store_again(&mut self, now: Now) {
        self.copies.iter_mut().for_each(|copy| copy.due(now.at));
    }

    fn note_stored(&mut self, now: Now) {
        if std::mem::take(&mut self.is_news) {
            self.paid = self.paid.max(now.at) + CHANGE_EVERY;
        }
    }

    pub fn deadline(&self, is_in: bool) -> Option<Duration> {
        let ready = is_in && !self.places.endpoints.is_empty();
        let due = self.copies.iter().filter_map(|copy| copy.next);
        due.min().filter(|_| ready)
    }
}

impl Dht {
    pub(super) fn run_publisher(&mut self, now: Now) {
        let is_in = self.is_in();
        let due = self.publisher.deadline(is_in);
        if !self.config.publish || due.is_none_or(|at| at > now.at) {
            if !self.config.publish {
                self.publisher
                    .copies
                    .iter_mut()
                    .for_each(|copy| copy.next = None);
            }
            return;
        }
        self.publisher.access = self.access();
        let Ok(value) = self.record().emit() else {
            return;
        };
        self.publisher.note_stored(now);
        let time = self.next_time(now);
        for copy in 0..COPIES {
            let place = usize::from(copy);
            if self.publisher.copies[place]
                .next
                .is_none_or(|at| at > now.at)
            {
                continue;
            }
            let request = self.store_record(now, copy, value.clone(), time);
            self.publisher.copies[place].asked(now, request);
        }
    }

    /// Takes the record back; nobody waits for the answer.
    pub(super) fn withdraw(&mut self, now: Now) {
        if !self.is_in() || !self.publisher.is_anywhere() {
            return;
        }
        let time = self.next_time(now);
        for copy in 0..COPIES {
            let _ = self.store_record(now, copy, AnodeRecord::withdrawal(), time);
        }
    }

    pub(super) fn next_time(&mut self, now: Now) -> u32 {
        let wall = u32::try_from(now.unix).unwrap_or(u32::MAX);
        self.publisher.last_time = wall.max(self.publisher.last_time + 1);
        self.publisher.last_time
    }

    fn record(&self) -> AnodeRecord {
        let is_client = self.config.role == Role::Client;
        let is_tcp = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp(_));
        let endpoints = self.publisher.places.endpoints.clone();
        let mut capabilities = AnodeRecord::CONNECT;
        if endpoints.iter().any(is_tcp) {
            capabilities |= AnodeRecord::TCP;
        }
        AnodeRecord {
            flags: if is_client { AnodeRecord::CLIENT } else { 0 }
                | if self.config.relays {
                    AnodeRecord::RELAY
                } else {
                    0
                },
            capabilities,
            peer: self.node.id(),
            // A client is reached through whom it has links to (R8).
            route: self
                .publisher
                .access
                .into_iter()
                .filter(|_| is_client)
                .collect(),
            endpoints,
            relayed: Vec::new(),
        }
    }

    /// The member of the ring that messages for a client go through: one that the operator has named, else any.
    pub(super) fn access(&self) -> Option<Id> {
        let mut named = self.entry.candidates();
        named
            .find_map(|address| self.links.member((address, PeerId::ANY)))
            .or_else(|| self.links.members().next())
            .or_else(|| self.own_links.peers().next())
    }

    fn store_record(
        &mut self,
        now: Now,
        copy: u8,
        value: Vec<u8>,
        time: u32,
    ) -> Result<RequestId, ReloadError> {
        let (address, digit) = self.own;
        let resource = anode::resource(address.ipv6(PeerId::ANY), copy);
        let key = anode::key(&address, digit);
        let value = DataValue::Dictionary { key, value };
        self.store_signed(now, resource, TypeId::ANODE_RECORD, value, time, LIFETIME)
    }

    /// Signs a value, and stores it: as the address, which needs no certificate, but where its place follows from a Peer-ID or
    /// a user's name that a credential server has given.
    pub(super) fn store_signed(
        &mut self,
        now: Now,
        resource: Id,
        kind: TypeId,
        value: DataValue,
        storage_time: u32,
        lifetime: u32,
    ) -> Result<RequestId, ReloadError> {
        let mut data = StoredData {
            storage_time,
            lifetime,
            value,
            signature: None,
        };
        let identity = match kind {
            TypeId::TURN_SERVICE | TypeId::SIP_REGISTRATION | TypeId::CERTIFICATE
                if !self.config.is_sealed() =>
            {
                self.node.security().identity(true)
            }
            _ => SignerIdentity::Anode(self.own.0),
        };
        let input = data.signature_input(resource, kind, &identity)?;
        let (algorithm, value) = self.node.security().sign(&input);
        data.signature = Some(Signature {
            algorithm,
            value,
            identity,
        });
        let request = StoreRequest {
            resource,
            types: vec![StoreType {
                kind,
                generation: 0,
                values: vec![data],
            }],
        };
        self.node.ask(now, &request, RequestOptions::default())
    }

    /// False: the answer is not to a record of ours.
    pub(super) fn publish_answered(
        &mut self,
        now: Now,
        request: RequestId,
        result: &Result<Answer, ReloadError>,
    ) -> bool {
        let copies = &mut self.publisher.copies;
        let Some(copy) = copies.iter_mut().find(|copy| copy.request == Some(request)) else {
            return false;
        };
        tracing::debug!(error = ?result.as_ref().err(), "a copy of the own record was stored");
        match result {
            Ok(_) => {
                copy.stored(now, self.rng.next_u32());
                self.counters.published += 1;
            }
            Err(error) => {
                if *error == ReloadError::Refused(Code::PRECONDITION_FAILED) {
                    // An earlier life of this node had a clock that was ahead.
                    self.publisher.last_time = self.publisher.last_time.saturating_add(60);
                }
                copy.failed(now);
                self.counters.publish_failed += 1;
            }
        }
        true
    }
}

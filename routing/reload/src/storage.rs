//! What a node stores: three data models, generations, storage times, quotas, tombstones, expiry (R64 to R87, R141).
//!
//! Access rules are not applied here: the node verifies signatures and permissions before it calls. Storage times,
//! generations, sizes and counts are.
mod slot;

use crate::body::{
    FetchResponse, FetchType, Generation, Reference, References, StoreRequest, StoreType,
};
use crate::usage::{Kind, Kinds};
use crate::{DataModel, DataValue, Id, Now, ReloadError, StoredData, TypeId};
use slot::{Place, Slot, Stored, index_place, select};
use std::collections::BTreeMap;
use std::time::Duration;

/// Highest place in an array (RD41).
pub const MAX_INDEX: i32 = 1023;
/// How far ahead of this node's clock a storage time may be, in seconds (RD39).
pub const MAX_AHEAD: u64 = 300;
/// How long the time of a REMOVE is remembered, in seconds (RD45).
pub const REMOVE_MEMORY: u64 = 24 * 3600;
/// What a value costs beside its bytes.
const OVERHEAD: usize = 96;

/// How much a node stores.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in all, with what holding them costs.
    pub bytes: usize,
    /// Bytes of values that came over links of one group (the caller's, such as a source prefix).
    pub group_bytes: usize,
    /// Values in all.
    pub values: usize,
    /// Times of removed values in all.
    pub removals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            group_bytes: 32 << 20,
            values: 100_000,
            removals: 10_000,
        }
    }
}

/// How values arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// From whoever wants them stored: one that is too old refuses the whole request (R65, R68).
    Owner,
    /// From a neighbour that hands over or replicates: generations are set, and values that are older than ours are
    /// passed over, as if all had been stored in the order of their storage times (R11, R118, RD38, RD72).
    Copy,
}

/// The table.
#[derive(Debug, Default)]
pub struct Storage {
    limits: Limits,
    slots: BTreeMap<(Id, TypeId), Slot>,
    bytes: usize,
    values: usize,
    removals: usize,
    groups: BTreeMap<u64, usize>,
    /// Unix second before which nothing can expire.
    next_expiry: Option<u64>,
    /// Values refused for a quota.
    pub refused: u64,
    /// Values whose time was over.
    pub expired: u64,
}

/// A store or remove that was checked and can no longer fail.
struct Change {
    place: Place,
    stored: Stored,
}

impl Storage {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Resources with at least one value.
    pub fn resources(&self) -> usize {
        let mut count = 0;
        let mut last = None;
        for ((resource, _), slot) in &self.slots {
            if last != Some(*resource) && slot.values.values().any(Stored::exists) {
                count += 1;
                last = Some(*resource);
            }
        }
        count
    }

    /// Values, tombstones included.
    pub fn values(&self) -> usize {
        self.values
    }

    /// Bytes, with what holding them costs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores all or nothing (R65). Gives the generations (R74), and whether anything changed.
    ///
    /// # Errors
    /// [`ReloadError::Precondition`]: a generation or a storage time does not fit; [`ReloadError::Forbidden`]: the future;
    /// [`ReloadError::Quota`]: too much.
    pub fn store(
        &mut self,
        now: Now,
        kinds: &Kinds,
        request: &StoreRequest,
        mode: Mode,
        group: u64,
        fresh_generation: u64,
    ) -> Result<(Vec<Generation>, bool), ReloadError> {
        if request.resource == Id::ZERO {
            return Err(ReloadError::Forbidden("nothing is stored at resource 0"));
        }
        self.expire(now);
        let mut planned = Vec::new();
        for one in &request.types {
            let kind = kinds
                .get(one.kind)
                .ok_or(ReloadError::UnknownType(one.kind))?;
            let changes = self.plan(now, kind, request.resource, one, mode, group)?;
            planned.push((one, changes));
        }
        self.check_quota(request.resource, &planned)?;

        let mut answer = Vec::new();
        let mut changed = false;
        for (one, changes) in planned {
            let key = (request.resource, one.kind);
            changed |= !changes.is_empty();
            let known = self.slots.get(&key).map(|slot| slot.generation);
            let generation = match (mode, known) {
                // a node that lost its state must not repeat a generation (RD38)
                (Mode::Owner, None) if !changes.is_empty() => fresh_generation,
                (Mode::Owner, known) => known.unwrap_or(0) + u64::from(!changes.is_empty()),
                (Mode::Copy, known) => known.unwrap_or(0).max(one.generation),
            };
            for change in changes {
                self.apply(key, change);
            }
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.generation = generation;
            }
            answer.push(Generation {
                kind: one.kind,
                generation,
            });
        }
        Ok((answer, changed))
    }

    fn plan(
        &self,
        now: Now,
        kind: &Kind,
        resource: Id,
        one: &StoreType,
        mode: Mode,
        group: u64,
    ) -> Result<Vec<Change>, ReloadError> {
        let slot = self.slots.get(&(resource, one.kind));
        let generation = slot.map_or(0, |slot| slot.generation);
        if mode == Mode::Owner && one.generation != 0 && one.generation != generation {
            return Err(ReloadError::Precondition("the generation has changed"));
        }
        let mut next = slot.map_or(0, Slot::len);
        let mut changes: Vec<Change> = Vec::new();
        for data in &one.values {
            check_value(now, kind, data)?;
            let place = match &data.value {
                DataValue::Single(_) => Place::Single,
                DataValue::Dictionary { key, .. } => Place::Key(key.clone()),
                DataValue::Array { index, .. } => {
                    // an append that was sent twice, and comes again under a new transaction, is the same value
                    let again = slot.and_then(|slot| slot.place_of(data));
                    match (*index, again) {
                        (-1, Some(place)) => place,
                        (-1, None) => {
                            next += 1;
                            index_place(next as i32 - 1)?
                        }
                        (index, _) => {
                            next = next.max(index as usize + 1);
                            index_place(index)?
                        }
                    }
                }
            };
            if changes.iter().any(|change| change.place == place) {
                return Err(ReloadError::Invalid {
                    what: "a STORE request",
                    why: "it stores two values at one place",
                });
            }
            let mut data = data.clone();
            if let (DataValue::Array { index, .. }, Place::Index(at)) = (&mut data.value, &place) {
                *index = i32::from(*at);
            }
            let newer = match slot.map_or(Ok(true), |slot| slot.accepts(&place, &data)) {
                Ok(newer) => newer,
                Err(_) if mode == Mode::Copy => false,
                Err(error) => return Err(error),
            };
            if newer && data.expires() > now.unix {
                let cost = data.wire_len() + place.cost() + OVERHEAD;
                let stored = Stored { data, group, cost };
                changes.push(Change { place, stored });
            } else if newer && mode == Mode::Owner {
                return Err(ReloadError::Forbidden("the value's time is over"));
            }
        }
        let kept = slot.map_or(0, |slot| {
            let is_replaced = |place: &Place| changes.iter().any(|one| one.place == *place);
            let kept = slot.values.iter().filter(|(place, _)| !is_replaced(place));
            kept.count()
        });
        if kept + changes.len() > kind.max_values && !changes.is_empty() {
            return Err(ReloadError::Quota("there are too many values of this type"));
        }
        Ok(changes)
    }

    /// Adds up what the changes cost before any is made.
    fn check_quota(
        &mut self,
        resource: Id,
        planned: &[(&StoreType, Vec<Change>)],
    ) -> Result<(), ReloadError> {
        let (mut bytes, mut values) = (self.bytes, self.values);
        let mut groups: BTreeMap<u64, usize> = BTreeMap::new();
        for (one, changes) in planned {
            let slot = self.slots.get(&(resource, one.kind));
            for change in changes {
                let old = slot.and_then(|slot| slot.values.get(&change.place));
                bytes = bytes + change.stored.cost - old.map_or(0, |old| old.cost);
                values += usize::from(old.is_none());
                // what it replaces counts on: a refusal at the very edge of the quota is no harm
                *groups.entry(change.stored.group).or_default() += change.stored.cost;
            }
        }
        let group_full = groups.iter().any(|(group, more)| {
            self.groups.get(group).copied().unwrap_or(0) + more > self.limits.group_bytes
        });
        let why = if group_full {
            "too much is stored for this part of the network"
        } else if bytes > self.limits.bytes && bytes > self.bytes {
            "this node is full"
        } else if values > self.limits.values && values > self.values {
            "this node holds too many values"
        } else {
            return Ok(());
        };
        self.refused += 1;
        Err(ReloadError::Quota(why))
    }

    fn apply(&mut self, key: (Id, TypeId), change: Change) {
        let expires = change.stored.data.expires();
        self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        self.bytes += change.stored.cost;
        self.values += 1;
        *self.groups.entry(change.stored.group).or_default() += change.stored.cost;
        let slot = self.slots.entry(key).or_default();
        if slot.removed.remove(&change.place).is_some() {
            self.removals -= 1;
        }
        if let Some(old) = slot.values.insert(change.place, change.stored) {
            self.forget(&old);
        }
    }

    fn forget(&mut self, old: &Stored) {
        self.bytes -= old.cost;
        self.values -= 1;
        if let Some(bytes) = self.groups.get_mut(&old.group) {
            *bytes -= old.cost;
            if *bytes == 0 {
                self.groups.remove(&old.group);
            }
        }
    }

    /// The current generations of the types of a request: what a 412 carries (R75).
    pub fn generations(
        &self,
        resource: Id,
        kinds: impl Iterator<Item = TypeId>,
    ) -> Vec<Generation> {
        kinds
            .map(|kind| Generation {
                kind,
                generation: self
                    .slots
                    .get(&(resource, kind))
                    .map_or(0, |slot| slot.generation),
            })
            .collect()
    }

    /// What a FETCH gives (R78, R79).
    pub fn fetch(&mut self, now: Now, request: &References) -> Vec<FetchResponse> {
        self.expire(now);
        request
            .types
            .iter()
            .map(|one| {
                let slot = self.slots.get(&(request.resource, one.kind));
                let generation = slot.map_or(0, |slot| slot.generation);
                let unchanged = one.generation != 0 && one.generation == generation;
                FetchResponse {
                    kind: one.kind,
                    generation,
                    values: match unchanged {
                        true => Vec::new(),
                        false => select(slot, one),
                    },
                }
            })
            .collect()
    }

    /// The values that a REMOVE would take, so that their owners' rights can be checked.
    pub fn selected(&self, resource: Id, one: &FetchType) -> Vec<&StoredData> {
        let Some(slot) = self.slots.get(&(resource, one.kind)) else {
            return Vec::new();
        };
        slot.places(&one.reference)
            .into_iter()
            .filter_map(|place| slot.values.get(&place))
            .map(|stored| &stored.data)
            .collect()
    }

    /// Removes all or nothing (R81 to R83). What is not there is a silent success. The storage times of what was there
    /// are remembered for a day, so that nobody brings it back (RD45).
    pub fn remove(
        &mut self,
        now: Now,
        request: &References,
        check_generation: bool,
    ) -> Result<(Vec<Generation>, bool), ReloadError> {
        self.expire(now);
        for one in &request.types {
            let slot = self.slots.get(&(request.resource, one.kind));
            let generation = slot.map_or(0, |slot| slot.generation);
            if check_generation && one.generation != 0 && one.generation != generation {
                return Err(ReloadError::Precondition("the generation has changed"));
            }
        }
        let mut answer = Vec::new();
        let mut changed = false;
        for one in &request.types {
            let key = (request.resource, one.kind);
            let mut taken = Vec::new();
            if let Some(slot) = self.slots.get_mut(&key) {
                for place in slot.places(&one.reference) {
                    let Some(old) = slot.values.remove(&place) else {
                        continue;
                    };
                    if self.removals < self.limits.removals {
                        let until = now.unix + REMOVE_MEMORY;
                        let time = old.data.storage_time;
                        if slot.removed.insert(place, (time, until)).is_none() {
                            self.removals += 1;
                        }
                        let next = self.next_expiry.map_or(until, |next| next.min(until));
                        self.next_expiry = Some(next);
                    }
                    taken.push(old);
                }
                slot.generation += u64::from(!taken.is_empty());
            }
            changed |= !taken.is_empty();
            taken.iter().for_each(|old| self.forget(old));
            answer.extend(self.generations(request.resource, [one.kind].into_iter()));
        }
        Ok((answer, changed))
    }

    /// The first resource with a value of this type at or after `from`, clockwise and no further than `upto`
    /// (R86, RD46).
    pub fn find(&mut self, now: Now, from: Id, upto: Id, kind: TypeId) -> Id {
        self.expire(now);
        let has = |(key, slot): (&(Id, TypeId), &Slot)| {
            (key.1 == kind && slot.values.values().any(Stored::exists)).then_some(key.0)
        };
        let ahead = self.slots.range((from, TypeId(0))..).find_map(has);
        let wrapped = || self.slots.range(..(from, TypeId(0))).find_map(has);
        ahead
            .or_else(wrapped)
            .filter(|found| from.distance_to(*found) <= from.distance_to(upto))
            .unwrap_or(Id::ZERO)
    }

    /// Takes out what is over (RD39), tombstones and remembered removals included.
    pub fn expire(&mut self, now: Now) {
        if self.next_expiry.is_none_or(|next| next > now.unix) {
            return;
        }
        let mut gone = Vec::new();
        let mut next: Option<u64> = None;
        let mut removals = 0;
        self.slots.retain(|_, slot| {
            let over: Vec<Place> = slot
                .values
                .iter()
                .filter(|(_, stored)| stored.data.expires() <= now.unix)
                .map(|(place, _)| place.clone())
                .collect();
            gone.extend(over.iter().filter_map(|place| slot.values.remove(place)));
            slot.removed.retain(|_, (_, until)| *until > now.unix);
            removals += slot.removed.len();
            let ends = slot.values.values().map(|stored| stored.data.expires());
            let ends = ends.chain(slot.removed.values().map(|(_, until)| *until));
            if let Some(first) = ends.min() {
                next = Some(next.map_or(first, |next| next.min(first)));
            }
            !slot.values.is_empty() || !slot.removed.is_empty()
        });
        self.removals = removals;
        self.expired += gone.len() as u64;
        gone.iter().for_each(|old| self.forget(old));
        self.next_expiry = next;
    }

    /// Resources in `(after, upto]`, tombstones included: what is handed over or replicated.
    pub fn resources_in(&self, after: Id, upto: Id) -> Vec<Id> {
        let mut found: Vec<Id> = self
            .slots
            .iter()
            .filter(|((resource, _), slot)| {
                resource.in_range(after, upto) && !slot.values.is_empty()
            })
            .map(|((resource, _), _)| *resource)
            .collect();
        found.dedup();
        found
    }

    /// STOREs with everything at a resource, each below `limit` bytes: what goes to a replica.
    pub fn copies(&self, resource: Id, limit: usize) -> Vec<StoreRequest> {
        let mut requests: Vec<StoreRequest> = Vec::new();
        let mut size = limit;
        for ((_, kind), slot) in self
            .slots
            .range((resource, TypeId(0))..=(resource, TypeId(u32::MAX)))
        {
            for stored in slot.values.values() {
                let more = stored.data.wire_len() + 16;
                if size + more > limit {
                    requests.push(StoreRequest {
                        resource,
                        types: Vec::new(),
                    });
                    size = 64;
                }
                size += more;
                let Some(request) = requests.last_mut() else {
                    continue;
                };
                if request.types.last().is_none_or(|last| last.kind != *kind) {
                    request.types.push(StoreType {
                        kind: *kind,
                        generation: slot.generation,
                        values: Vec::new(),
                    });
                }
                if let Some(last) = request.types.last_mut() {
                    last.values.push(stored.data.clone());
                }
            }
        }
        requests
    }

    /// Forgets resources that this node has no part in any more (R118).
    pub fn drop_resources(&mut self, mut is_ours: impl FnMut(Id) -> bool) -> usize {
        let mut gone = Vec::new();
        let mut removals = 0;
        self.slots.retain(|(resource, _), slot| {
            let keep = is_ours(*resource);
            match keep {
                true => removals += slot.removed.len(),
                false => gone.extend(std::mem::take(&mut slot.values).into_values()),
            }
            keep
        });
        self.removals = removals;
        gone.iter().for_each(|old| self.forget(old));
        gone.len()
    }

    /// When something expires next, in Unix seconds.
    pub fn deadline(&self) -> Option<u64> {
        self.next_expiry
    }

    /// Seconds until [`Storage::deadline`].
    pub fn until_expiry(&self, now: Now) -> Option<Duration> {
        Some(Duration::from_secs(
            self.next_expiry?.saturating_sub(now.unix),
        ))
    }
}

fn check_value(now: Now, kind: &Kind, data: &StoredData) -> Result<(), ReloadError> {
    if data.value.model() != kind.model {
        return Err(ReloadError::Invalid {
            what: "a stored value",
            why: "its data model is not that of its type",
        });
    }
    if u64::from(data.storage_time) > now.unix + MAX_AHEAD {
        return Err(ReloadError::Forbidden("the storage time is in the future"));
    }
    if data.lifetime > kind.max_lifetime {
        return Err(ReloadError::Quota("the lifetime is too long"));
    }
    if data.value.bytes().len() > kind.max_value {
        return Err(ReloadError::Quota("the value is too large"));
    }
    if let DataValue::Dictionary { key, .. } = &data.value
        && key.len() > 256
    {
        return Err(ReloadError::Quota("the key is too long"));
    }
    Ok(())
}

/// The data model whose places a kind uses; for callers that build references.
pub fn everything(resource: Id, kind: TypeId, model: DataModel) -> References {
    References {
        resource,
        types: vec![FetchType {
            kind,
            generation: 0,
            reference: Reference::all(model),
        }],
    }
}

#[cfg(test)]
mod tests;

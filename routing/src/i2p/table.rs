//! Which destination stands behind a synthetic address (DESIGN §4, i2cp.md §5.2). An address holds 112 of a hash's 256 bits,
//! so the way back needs this table: it is filled by names, by people, and by who comes in.
use anode_i2cp::destination::{Destination, Hash};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::Instant;

use super::config::Known;

/// Most destinations that are remembered.
pub(super) const MOST: usize = 4096;

/// Why an entry is there, in the order in which entries give way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Origin {
    /// It came to us.
    Met,
    /// A program of this machine asked for it.
    Asked,
    /// In a rule, trusted, or named by people: never forgotten.
    Kept,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) hash: Hash,
    pub(super) destination: Option<Destination>,
    /// The address-book name that led to it.
    pub(super) name: Option<String>,
    origin: Origin,
    pub(super) used: Instant,
    /// Streams that are open; while there are some, it stays.
    pub(super) streams: usize,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

/// Why a destination cannot be taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// Another destination has the same address, and was first.
    Taken(Hash),
    /// All entries are in use.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Ipv6Addr, Entry>,
    by_name: HashMap<String, Ipv6Addr>,
    /// What should be written down has changed.
    changed: bool,
    pub(super) evicted: u64,
    pub(super) taken: u64,
}

impl Table {
    /// Makes a destination known, and gives its address.
    pub(super) fn learn(
        &mut self,
        hash: Hash,
        destination: Option<&Destination>,
        origin: Origin,
        now: Instant,
    ) -> Result<Ipv6Addr, Refused> {
        let address = hash.synthetic_address();
        if let Some(entry) = self.entries.get_mut(&address) {
            if entry.hash != hash {
                self.taken += 1;
                tracing::warn!(
                    "{} and {} have the same address {address}: the second is refused",
                    entry.hash.b32(),
                    hash.b32()
                );
                return Err(Refused::Taken(entry.hash));
            }
            entry.used = now;
            entry.origin = entry.origin.max(origin);
            if entry.destination.is_none() {
                entry.destination = destination.cloned();
            }
            return Ok(address);
        }
        if self.entries.len() >= MOST {
            self.evict()?;
        }
        let entry = Entry {
            hash,
            destination: destination.cloned(),
            name: None,
            origin,
            used: now,
            streams: 0,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        self.entries.insert(address, entry);
        self.changed = true;
        Ok(address)
    }

    /// The one that matters least gives way: who came to us before what we asked for, the longest unused first.
    fn evict(&mut self) -> Result<(), Refused> {
        let least = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.streams == 0 && entry.origin != Origin::Kept)
            .min_by_key(|(_, entry)| (entry.origin, entry.used))
            .map(|(address, _)| *address);
        let address = least.ok_or(Refused::Full)?;
        if let Some(name) = self.entries.remove(&address).and_then(|entry| entry.name) {
            self.by_name.remove(&name);
        }
        self.evicted += 1;
        Ok(())
    }

    /// An address-book name led to this destination.
    pub(super) fn name(&mut self, address: Ipv6Addr, name: &str) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        if entry.name.as_deref() == Some(name) {
            return;
        }
        if let Some(old) = entry.name.replace(name.to_owned()) {
            self.by_name.remove(&old);
        }
        // a name moves when its owner has a new destination
        if let Some(before) = self.by_name.insert(name.to_owned(), address)
            && before != address
            && let Some(entry) = self.entries.get_mut(&before)
        {
            entry.name = None;
        }
        self.changed = true;
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Entry> {
        self.entries.get(self.by_name.get(name)?)
    }

    pub(super) fn get(&self, address: Ipv6Addr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    /// The entry of just this destination.
    pub(super) fn of(&mut self, hash: &Hash) -> Option<&mut Entry> {
        self.entries
            .get_mut(&hash.synthetic_address())
            .filter(|entry| entry.hash == *hash)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Ipv6Addr, &Entry)> {
        self.entries
            .iter()
            .map(|(address, entry)| (*address, entry))
    }

    /// True once after something changed.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// What is to be written down, what matters most first.
    pub(super) fn export(&self) -> Vec<Known> {
        let mut all: Vec<&Entry> = self.entries.values().collect();
        all.sort_by_key(|entry| Reverse((entry.origin, entry.used)));
        all.into_iter()
            .map(|entry| Known {
                hash: entry.hash,
                name: entry.name.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn hash(number: u32) -> Hash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Hash(bytes)
    }

    #[test]
    fn an_address_leads_back_to_the_destination_that_was_first() {
        let (mut table, now) = (Table::default(), Instant::now());
        let one = hash(1);
        let address = table.learn(one, None, Origin::Met, now).unwrap();
        assert_eq!(address, one.synthetic_address());
        assert!(address.to_string().starts_with("fda1:"));
        let mut other = one;
        other.0[31] = 1;
        let refused = table.learn(other, None, Origin::Kept, now);
        assert_eq!(refused, Err(Refused::Taken(one)));
        assert_eq!(table.get(address).map(|entry| entry.hash), Some(one));
        assert!(table.of(&other).is_none());
        assert_eq!(table.taken, 1);
        assert!(table.take_changed() && !table.take_changed());
    }

    #[test]
    fn a_full_table_forgets_who_came_before_what_was_asked_for_and_keeps_what_is_in_use() {
        let (mut table, now) = (Table::default(), Instant::now());
        let at = |n: u32| now + Duration::from_millis(n.into());
        for n in 0..MOST as u32 {
            let origin = match n {
                0 => Origin::Kept,
                1 => Origin::Asked,
                _ => Origin::Met,
            };
            table.learn(hash(n), None, origin, at(n)).unwrap();
        }
        table.of(&hash(2)).unwrap().streams = 1;
        table
            .learn(hash(9_000), None, Origin::Met, at(9_000))
            .unwrap();
        assert_eq!((table.len(), table.evicted), (MOST, 1));
        assert!(table.of(&hash(3)).is_none(), "the oldest stranger");
        for n in [0, 1, 2] {
            assert!(table.of(&hash(n)).is_some(), "{n}");
        }
        for entry in table.entries.values_mut() {
            entry.streams = 1;
        }
        let refused = table.learn(hash(9_001), None, Origin::Kept, now);
        assert_eq!(refused, Err(Refused::Full));
    }

    #[test]
    fn names_lead_to_one_destination_and_move_with_their_owner() {
        let (mut table, now) = (Table::default(), Instant::now());
        let one = table.learn(hash(1), None, Origin::Asked, now).unwrap();
        let two = table.learn(hash(2), None, Origin::Asked, now).unwrap();
        table.name(one, "site.i2p");
        assert_eq!(table.by_name("site.i2p").map(|e| e.hash), Some(hash(1)));
        table.name(two, "site.i2p");
        assert_eq!(table.by_name("site.i2p").map(|e| e.hash), Some(hash(2)));
        assert_eq!(table.get(one).unwrap().name, None);
        table.name(two, "new.i2p");
        assert!(table.by_name("site.i2p").is_none());
        let exported = table.export();
        assert_eq!(exported.len(), 2);
        assert!(
            exported
                .iter()
                .any(|known| known.name.as_deref() == Some("new.i2p"))
        );
    }
}

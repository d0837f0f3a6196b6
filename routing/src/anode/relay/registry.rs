//! Who may be reached through this relay: addresses, the peers that share each of them, and where they were proven to be
//! (A26, A44, A45, D40).
use crate::anode::limits::{Bucket, Rate, source_prefix};
use crate::anode::output::Destination;
use anode_wire::{Address, AddressId, Party, PeerId};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// A registration that is not renewed ends after this time (D40).
pub const LIFETIME: Duration = Duration::from_secs(120);
/// Places of one peer that are remembered: the latest is used, the others stand in when it goes away.
const MAX_PLACES: usize = 3;

/// One of the peers that share an address.
struct Machine {
    digit: PeerId,
    /// The latest proven last; never empty.
    places: Vec<Registered>,
    /// What may still be sent to it (bytes).
    bucket: Bucket,
}

#[derive(Clone, Copy)]
struct Registered {
    at: Destination,
    until: Instant,
}

impl Machine {
    fn is_alive(&self, now: Instant) -> bool {
        self.places.iter().any(|place| place.until > now)
    }
}

struct Entry {
    address: Address,
    /// At most 16, by digit.
    machines: Vec<Machine>,
}

/// Why a peer was not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotRegistered {
    /// The table is full.
    Full,
    /// Too many from this source.
    Source,
    /// Another address with the same short id is registered: short ids are all that packets carry.
    SameId,
}

/// How many may be registered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub peers: usize,
    pub per_source: usize,
}

/// A registration as people and files see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Whose key.
    pub address: Address,
    /// Which of the peers that share it.
    pub digit: PeerId,
    /// Where it is reached.
    pub at: Destination,
    /// How long it is good without another PING.
    pub left: Duration,
}

/// The table of registrations.
pub(super) struct Registry {
    entries: HashMap<AddressId, Entry>,
    /// Who is asked for by a synthetic address (WHOIS).
    by_ipv6: HashMap<Ipv6Addr, AddressId>,
    bounds: Bounds,
    /// Machines in `entries`.
    count: usize,
    /// Of these, how many from one source; as many entries at most as there are machines.
    sources: HashMap<u64, u32>,
    /// Registrations that were not renewed in time.
    pub expired: u64,
}

impl Registry {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            entries: HashMap::new(),
            by_ipv6: HashMap::new(),
            bounds,
            count: 0,
            sources: HashMap::new(),
            expired: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Registers a proven place, or renews it. True: the peer was not registered before.
    pub fn register(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
        at: Destination,
        source: IpAddr,
    ) -> Result<bool, NotRegistered> {
        let id = address.id();
        let until = now + LIFETIME;
        if let Some(entry) = self.entries.get_mut(&id) {
            if entry.address != *address {
                return Err(NotRegistered::SameId);
            }
            if let Some(machine) = entry.machines.iter_mut().find(|m| m.digit == digit) {
                machine
                    .places
                    .retain(|place| place.at.to != at.to && place.until > now);
                if machine.places.len() >= MAX_PLACES {
                    machine.places.remove(0);
                }
                machine.places.push(Registered { at, until });
                return Ok(false);
            }
        }
        if self.count >= self.bounds.peers {
            self.sweep(now);
        }
        if self.count >= self.bounds.peers {
            return Err(NotRegistered::Full);
        }
        let from_source = self.sources.entry(source_prefix(source)).or_default();
        if *from_source as usize >= self.bounds.per_source {
            return Err(NotRegistered::Source);
        }
        *from_source += 1;
        self.count += 1;
        let entry = self.entries.entry(id).or_insert_with(|| {
            self.by_ipv6.insert(address.ipv6(PeerId::ANY), id);
            Entry {
                address: *address,
                machines: Vec::with_capacity(1),
            }
        });
        entry.machines.push(Machine {
            digit,
            places: vec![Registered { at, until }],
            bucket: Bucket::default(),
        });
        entry
            .machines
            .sort_unstable_by_key(|machine| machine.digit.get());
        Ok(true)
    }

    /// Whether this peer is registered.
    pub fn knows(&self, now: Instant, address: &Address, digit: PeerId) -> bool {
        self.entries.get(&address.id()).is_some_and(|entry| {
            entry.address == *address
                && entry
                    .machines
                    .iter()
                    .any(|m| m.digit == digit && m.is_alive(now))
        })
    }

    /// The address behind a synthetic one, if any of its peers is registered.
    pub fn address_of(&self, now: Instant, ipv6: &Ipv6Addr) -> Option<Address> {
        let entry = self.entries.get(self.by_ipv6.get(ipv6)?)?;
        let alive = entry.machines.iter().any(|machine| machine.is_alive(now));
        alive.then_some(entry.address)
    }

    /// Where a packet goes, if its recipient is registered: to just the peer that is named, else to one that a hash of
    /// both ends chooses, so that a conversation stays in one place (A45, DESIGN §5). `bucket`: what it may still get.
    pub fn find(
        &mut self,
        now: Instant,
        sender: &Party<'_>,
        recipient: &Party<'_>,
        digit: PeerId,
    ) -> Option<(Destination, &mut Bucket)> {
        let id = recipient.id();
        let entry = self.entries.get_mut(&id)?;
        if let Party::Full(bytes) = recipient
            && *bytes != entry.address.as_bytes()
        {
            return None;
        }
        let machine = match entry.machines.as_slice() {
            [_] => 0,
            machines => {
                let named = machines
                    .iter()
                    .position(|m| m.digit == digit && digit != PeerId::ANY);
                let named = named.filter(|index| machines[*index].is_alive(now));
                named.or_else(|| {
                    let alive = (0..machines.len()).filter(|index| machines[*index].is_alive(now));
                    // Sender and recipient once in full and once by id must choose alike.
                    let pair = mix(u64::from_be_bytes(sender.id().0) ^ u64::from_be_bytes(id.0));
                    alive.max_by_key(|index| mix(pair ^ u64::from(machines[*index].digit.get())))
                })?
            }
        };
        let machine = &mut entry.machines[machine];
        let place = machine
            .places
            .iter()
            .rev()
            .find(|place| place.until > now)?;
        Some((place.at, &mut machine.bucket))
    }

    /// Drops registrations that were not renewed.
    pub fn sweep(&mut self, now: Instant) {
        let before = self.count;
        let (count, sources) = (&mut self.count, &mut self.sources);
        let by_ipv6 = &mut self.by_ipv6;
        sources.clear();
        *count = 0;
        self.entries.retain(|_, entry| {
            entry.machines.retain_mut(|machine| {
                machine.places.retain(|place| place.until > now);
                let alive = machine
                    .places
                    .last()
                    .map(|place| source_prefix(place.at.to.ip()));
                if let Some(source) = alive {
                    *sources.entry(source).or_default() += 1;
                    *count += 1;
                }
                alive.is_some()
            });
            if entry.machines.is_empty() {
                by_ipv6.remove(&entry.address.ipv6(PeerId::ANY));
            }
            !entry.machines.is_empty()
        });
        self.expired += (before - self.count) as u64;
    }

    /// All of them, each with its latest place.
    pub fn registrations(&self, now: Instant) -> impl Iterator<Item = Registration> {
        self.entries.values().flat_map(move |entry| {
            entry.machines.iter().filter_map(move |machine| {
                let place = machine
                    .places
                    .iter()
                    .rev()
                    .find(|place| place.until > now)?;
                Some(Registration {
                    address: entry.address,
                    digit: machine.digit,
                    at: place.at,
                    left: place.until - now,
                })
            })
        })
    }

    /// Takes up what an earlier run has registered: the places were proven then, and a relay that was away for a moment
    /// must not cost its peers more than that moment.
    pub fn restore(&mut self, now: Instant, known: &Registration) {
        let left = known.left.min(LIFETIME);
        let (address, digit) = (&known.address, known.digit);
        if self.knows(now, address, digit) || left.is_zero() {
            return;
        }
        if self
            .register(now, address, digit, known.at, known.at.to.ip())
            .is_ok()
            && let Some(entry) = self.entries.get_mut(&address.id())
            && let Some(machine) = entry.machines.iter_mut().find(|m| m.digit == digit)
            && let Some(place) = machine.places.last_mut()
        {
            place.until = now + left;
        }
    }
}

/// One token a byte, never more than it costs to look at a packet.
pub(super) fn take_bytes(bucket: &mut Bucket, now: Instant, rate: Rate, bytes: usize) -> bool {
    bucket.take_many(now, rate, u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Scatters bits (the finaliser of SplitMix64). It need not withstand anybody: who chooses his place chooses his own.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anode::Place;
    use crate::anode::sim::address;
    use std::net::SocketAddr;

    fn at(port: u16) -> Destination {
        Destination {
            to: Place::Udp(SocketAddr::from(([198, 51, 100, 1], port))),
            socket: 0,
            source: None,
        }
    }

    fn digit(digit: u8) -> PeerId {
        PeerId::new(digit).unwrap()
    }

    fn registry() -> Registry {
        Registry::new(Bounds {
            peers: 100,
            per_source: 100,
        })
    }

    fn register(registry: &mut Registry, now: Instant, number: u16, peer: u8, port: u16) {
        let place = at(port);
        let result = registry.register(now, &address(number), digit(peer), place, place.to.ip());
        assert!(result.is_ok());
    }

    fn found(
        registry: &mut Registry,
        now: Instant,
        sender: &Party<'_>,
        recipient: &Party<'_>,
        peer: u8,
    ) -> Option<Place> {
        let found = registry.find(now, sender, recipient, digit(peer));
        found.map(|(destination, _)| destination.to)
    }

    #[test]
    fn a_named_peer_gets_its_packets_and_a_conversation_stays_in_one_place() {
        // A45, DESIGN §5
        let (mut registry, now) = (registry(), Instant::now());
        let (to, senders) = (address(1), (100..200).map(address));
        for (peer, port) in [(3, 3), (5, 5), (9, 9)] {
            register(&mut registry, now, 1, peer, port);
        }
        let id = Party::Id(to.id());
        let full = Party::Full(to.as_bytes());
        let mut places = Vec::new();
        for sender in senders {
            let forms = [Party::Id(sender.id()), Party::Full(sender.as_bytes())];
            for peer in [3, 5, 9] {
                let expected = Some(at(u16::from(peer)).to);
                assert_eq!(found(&mut registry, now, &forms[0], &id, peer), expected);
            }
            // Whoever names nobody, or somebody who is not there, in whatever form.
            let mut chosen = Vec::new();
            for form in &forms {
                for recipient in [&id, &full] {
                    for peer in [0, 7] {
                        chosen.push(found(&mut registry, now, form, recipient, peer));
                    }
                }
            }
            chosen.dedup();
            assert_eq!(chosen.len(), 1);
            places.extend(chosen);
        }
        for port in [3, 5, 9] {
            let share = places.iter().filter(|place| **place == Some(at(port).to));
            assert!(share.count() > 15, "about a third of the senders");
        }
    }

    #[test]
    fn the_latest_place_counts_and_an_earlier_one_stands_in() {
        let (mut registry, start) = (registry(), Instant::now());
        let (sender, id) = (Party::Id(address(9).id()), address(1).id());
        for (seconds, port) in [(0, 1), (10, 2), (20, 3), (30, 4)] {
            register(
                &mut registry,
                start + Duration::from_secs(seconds),
                1,
                0,
                port,
            );
        }
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut place = |now| found(&mut registry, now, &sender, &Party::Id(id), 0);
        assert_eq!(place(later(31)), Some(at(4).to));
        assert_eq!(place(later(149)), Some(at(4).to));
        assert_eq!(place(later(150)), None, "120 s after the last PING");
        assert_eq!(registry.len(), 1);
        registry.sweep(later(150));
        assert_eq!((registry.len(), registry.expired), (0, 1));
        assert!(registry.by_ipv6.is_empty() && registry.sources.is_empty());
    }

    #[test]
    fn a_full_recipient_that_is_another_address_is_nobody() {
        // S10: one short id, two addresses
        let (mut registry, now) = (registry(), Instant::now());
        register(&mut registry, now, 1, 0, 1);
        let sender = Party::Id(address(9).id());
        assert!(
            found(
                &mut registry,
                now,
                &sender,
                &Party::Full(address(1).as_bytes()),
                0
            )
            .is_some()
        );
        assert!(
            found(
                &mut registry,
                now,
                &sender,
                &Party::Full(address(2).as_bytes()),
                0
            )
            .is_none()
        );
    }
}

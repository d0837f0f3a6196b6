//! Allocate and Refresh, and the sockets behind them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use turn_types::attribute::{EvenPort, Lifetime, RequestedTransport, ReservationToken};

use super::auth::{Caller, Signer};
use super::config::AlternateWhen;
use super::request::{optional, required};
use super::shared::{Full, RESERVED, Rate, Reservation};
use super::table::{Allocation, Relay};
use super::{Command, FiveTuple, OpenError, Phase, RelayId, Server, Timer};
use crate::stun::{Message, Writer, attr};

/// The lifetime when nothing else is asked, and the shortest (RFC 8656 §7.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// Ports that are tried before a relay is given up.
const PORT_TRIES: u32 = 32;

const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// An Allocate that waits for its sockets.
pub(super) struct Opening {
    /// The request, to answer it.
    request: Vec<u8>,
    signer: Signer,
    lifetime: Duration,
    /// Relays that are being opened.
    waiting: Vec<RelayId>,
    ports: Ports,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Any,
    Even,
    /// Even, and the next one kept.
    Pair,
    /// One that was kept.
    Kept(SocketAddr),
}

/// What an Allocate asks for.
struct Wish {
    tcp: bool,
    families: Vec<u8>,
    ports: Ports,
    lifetime: Duration,
}

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

impl Server {
    /// RFC 8656 §7.2. `Ok(None)`: the answer comes when the sockets are there.
    pub(super) fn allocate(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        if self.data_clients.contains_key(from) {
            return Err(400);
        }
        if let Some(index) = self.clients.get(from).copied() {
            return self.allocate_again(now, index, message, caller);
        }
        let mut wish = self.wish(from, message)?;
        if self.config.alternate.when == AlternateWhen::Always && self.alternate(from).is_some() {
            return Err(300);
        }
        let full = if self.alternate(from).is_some() {
            300
        } else {
            508
        };
        if self.phase != Phase::Serving {
            return Err(full);
        }
        let quota = self.config.quota;
        let usage = self
            .shared
            .take(&caller.account, &quota)
            .map_err(|why| match why {
                Full::User => 486_u16,
                Full::Server => full,
            })?;
        // From here on a failure gives the quota back.
        if let Some(token) = message.raw(attr::RESERVATION_TOKEN) {
            let token = <[u8; 8]>::try_from(token)
                .map(u64::from_be_bytes)
                .unwrap_or_default();
            let Some(address) = self.shared.claim(token, &caller.account, now) else {
                self.shared.give_back(&caller.account);
                return Err(508);
            };
            wish.ports = Ports::Kept(address);
            wish.families = vec![family_of(address.ip())];
        }
        let rate = Rate::default();
        rate.set_kbps(quota.kbps_per_allocation);
        let opening = Opening {
            request: message.bytes().to_vec(),
            signer: caller.signer.clone(),
            lifetime: wish.lifetime,
            waiting: Vec::new(),
            ports: wish.ports,
            tries: 0,
        };
        let index = self.allocations.insert(Allocation {
            client: *from,
            latest: None,
            transaction: message.transaction(),
            name: caller.name.clone(),
            account: caller.account.clone(),
            chosen: caller.chosen,
            usage,
            rate,
            tcp: wish.tcp,
            relays: [None, None],
            permissions: HashMap::with_hasher(self.seed),
            channels: HashMap::with_hasher(self.seed),
            peers: HashMap::with_hasher(self.seed),
            connections: Vec::new(),
            opening: Some(Box::new(opening)),
            token: None,
            missing: None,
        });
        self.clients.insert(*from, index);
        for family in wish.families {
            if !self.open(index, family) {
                self.opening_failed(index, family);
            }
        }
        self.finish_opening(now, index);
        Ok(None)
    }

    /// An Allocate from a 5-tuple that has an allocation: the same answer for the same request, else 437.
    fn allocate_again(
        &mut self,
        now: Instant,
        index: usize,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        let allocation = &self.allocations[index];
        if allocation.transaction != message.transaction() || allocation.name != caller.name {
            return Err(437);
        }
        if allocation.opening.is_some() {
            return Ok(None);
        }
        Ok(Some(self.allocated(now, index, Writer::success(message))))
    }

    fn wish(&self, from: &FiveTuple, message: &Message<'_>) -> Result<Wish, u16> {
        let protocol = required(message.get::<RequestedTransport>())?.protocol();
        let tcp = match protocol {
            RequestedTransport::UDP => false,
            RequestedTransport::TCP if self.config.tcp_relay => true,
            _ => return Err(442),
        };
        let even = optional(message.get::<EvenPort>())?;
        let token = optional(message.get::<ReservationToken>())?.is_some();
        let family = message.raw(attr::REQUESTED_ADDRESS_FAMILY);
        let additional = message
            .raw(attr::ADDITIONAL_ADDRESS_FAMILY)
            .or_else(|| message.raw(attr::ADDITIONAL_ADDRESS_FAMILY_DRAFT));
        let pair = even.as_ref().is_some_and(EvenPort::requested);
        if token && (even.is_some() || family.is_some() || additional.is_some())
            || additional.is_some() && (family.is_some() || pair)
        {
            return Err(400);
        }
        // RFC 6062 §5.1
        if tcp
            && (!from.transport.is_stream()
                || even.is_some()
                || token
                || message.has(attr::DONT_FRAGMENT))
        {
            return Err(400);
        }
        let has = |family: u8| {
            self.config
                .relays
                .iter()
                .any(|r| family_of(r.local) == family)
        };
        let families = match (family, additional) {
            (_, Some([IPV6, 0, 0, 0])) => vec![IPV4, IPV6],
            (_, Some(_)) => return Err(400),
            (Some([family @ (IPV4 | IPV6), 0, 0, 0]), _) => vec![*family],
            (Some([_, _, _, _]), _) => return Err(440),
            (Some(_), _) => return Err(400),
            (None, None) => vec![IPV4],
        };
        // Without a wish it is IPv4 (RFC 8656 §7.2); of two at least one must be there.
        if !token && !families.iter().any(|f| has(*f)) {
            return Err(440);
        }
        let ports = match even {
            None => Ports::Any,
            Some(_) if pair => Ports::Pair,
            Some(_) => Ports::Even,
        };
        Ok(Wish {
            tcp,
            families,
            ports,
            lifetime: self.lifetime(message)?,
        })
    }

    fn lifetime(&self, message: &Message<'_>) -> Result<Duration, u16> {
        let asked = optional(message.get::<Lifetime>())?;
        let asked = asked.map_or(DEFAULT_LIFETIME, |l| {
            Duration::from_secs(l.seconds().into())
        });
        let longest = match self.phase {
            Phase::Serving => self.config.max_lifetime.max(DEFAULT_LIFETIME),
            Phase::Draining { .. } => DEFAULT_LIFETIME,
        };
        Ok(asked.clamp(DEFAULT_LIFETIME, longest))
    }

    /// Asks for a relay socket of this family; `false` if there is no address or port left.
    fn open(&mut self, index: usize, family: u8) -> bool {
        let Some(opening) = self.allocations[index].opening.as_ref() else {
            return false;
        };
        let (tcp, ports) = (self.allocations[index].tcp, opening.ports);
        let kept = if let Ports::Kept(address) = ports {
            Some(address)
        } else {
            None
        };
        let Some((local, external)) = self.address(family, ports) else {
            return false;
        };
        self.generation = self.generation.wrapping_add(1);
        let relay = Relay {
            generation: self.generation,
            allocation: index,
            local,
            external,
            expires: None,
        };
        let slot = self.relays.insert(relay);
        let relay = RelayId {
            index: slot as u32,
            generation: self.generation,
        };
        self.bound.insert(local, ());
        let allocation = &mut self.allocations[index];
        allocation.relays[usize::from(family == IPV6)] = Some(relay);
        if let Some(opening) = allocation.opening.as_mut() {
            opening.waiting.push(relay);
            opening.tries += 1;
        }
        self.commands.push_back(match kept {
            Some(address) => Command::AdoptRelay { relay, address },
            None => Command::OpenRelay {
                relay,
                address: local,
                tcp,
                pair: ports == Ports::Pair,
            },
        });
        true
    }

    /// The next address of the family and a random port on it that is not in use by this shard (T2, T20, RFC 6056).
    fn address(&mut self, family: u8, ports: Ports) -> Option<(SocketAddr, SocketAddr)> {
        let of_family: Vec<_> = self
            .config
            .relays
            .iter()
            .filter(|r| family_of(r.local) == family)
            .copied()
            .collect();
        if let Ports::Kept(local) = ports {
            let external = of_family
                .iter()
                .find(|r| r.local == local.ip())
                .map_or(local.ip(), |r| r.external);
            return Some((local, SocketAddr::new(external, local.port())));
        }
        let (low, high) = (*self.config.ports.start(), *self.config.ports.end());
        for _ in 0..of_family.len() {
            self.turn = self.turn.wrapping_add(1);
            let relay = of_family[self.turn % of_family.len()];
            for _ in 0..64 {
                let port = self.random.random_range(low..=high);
                let port = if ports == Ports::Any { port } else { port & !1 };
                let last = if ports == Ports::Pair {
                    port.saturating_add(1)
                } else {
                    port
                };
                let local = SocketAddr::new(relay.local, port);
                let free = |p: u16| !self.bound.contains_key(&SocketAddr::new(relay.local, p));
                let served = self
                    .config
                    .policy
                    .listening
                    .iter()
                    .any(|l| l.port() == port || l.port() == last);
                if port >= low && last <= high && free(port) && free(last) && !served {
                    return Some((local, SocketAddr::new(relay.external, port)));
                }
            }
        }
        None
    }

    /// Says what became of a [`Command::OpenRelay`] or [`Command::AdoptRelay`].
    pub fn relay_opened(&mut self, now: Instant, relay: RelayId, result: Result<(), OpenError>) {
        let Some(index) = self.relay(relay).map(|r| r.allocation) else {
            return;
        };
        let Some(opening) = self.allocations[index].opening.as_mut() else {
            return;
        };
        opening.waiting.retain(|r| *r != relay);
        let (tries, ports) = (opening.tries, opening.ports);
        if let Err(error) = result {
            let family = self
                .relays
                .get(relay.index as usize)
                .map_or(IPV4, |r| family_of(r.local.ip()));
            self.forget_relay(relay);
            let again =
                error == OpenError::InUse && tries < PORT_TRIES && !matches!(ports, Ports::Kept(_));
            if !(again && self.open(index, family)) {
                self.opening_failed(index, family);
            }
        } else if ports == Ports::Pair {
            self.reserve(now, index, relay);
        }
        self.finish_opening(now, index);
    }

    /// Keeps the port above a relay for whoever shows the token.
    fn reserve(&mut self, now: Instant, index: usize, relay: RelayId) {
        let Some(local) = self.relay(relay).map(|r| r.local) else {
            return;
        };
        let address = SocketAddr::new(local.ip(), local.port().wrapping_add(1));
        let token = self.random.next_u64().max(1);
        let expires = now + RESERVED;
        let reservation = Reservation {
            address,
            user: self.allocations[index].account.clone(),
            expires,
        };
        if self
            .shared
            .reserve(token, reservation, self.config.bounds.reservations)
        {
            self.bound.insert(address, ());
            self.allocations[index].token = Some(token);
            self.timers
                .insert((expires, Timer::Reservation { token, address }));
        } else {
            self.commands.push_back(Command::CloseReserved { address });
        }
    }

    /// Closes a kept port that nobody came for. Where somebody did, in this shard or another, it is a relay by now.
    pub(super) fn reservation_timeout(&mut self, token: u64, address: SocketAddr) {
        if self.shared.forget(token).is_some() {
            self.commands.push_back(Command::CloseReserved { address });
        }
        if !self.relays.iter().any(|(_, relay)| relay.local == address) {
            self.bound.remove(&address);
        }
    }

    fn opening_failed(&mut self, index: usize, family: u8) {
        let has = self
            .config
            .relays
            .iter()
            .any(|r| family_of(r.local) == family);
        let allocation = &mut self.allocations[index];
        allocation.relays[usize::from(family == IPV6)] = None;
        allocation.missing = Some((family, if has { 508 } else { 440 }));
    }

    /// Answers the Allocate once no socket is awaited any more.
    fn finish_opening(&mut self, now: Instant, index: usize) {
        let waiting = self.allocations[index]
            .opening
            .as_ref()
            .is_none_or(|o| !o.waiting.is_empty());
        if waiting {
            return;
        }
        let Some(opening) = self.allocations[index].opening.take() else {
            return;
        };
        let from = self.allocations[index].client;
        // It was parsed when it came.
        let Ok(message) = Message::parse(&opening.request) else {
            return;
        };
        let relays = self.allocations[index].relays;
        let wanted_pair = opening.ports == Ports::Pair && self.allocations[index].token.is_none();
        if relays == [None, None] || wanted_pair {
            self.remove_allocation(index);
            return self.refuse(&from, &message, 508, Some(&opening.signer));
        }
        self.counters.allocations += 1;
        for relay in relays.into_iter().flatten() {
            self.set_expiry(relay, Some(now + opening.lifetime));
        }
        let writer = self.allocated(now, index, Writer::success(&message));
        self.succeed(&from, &message, writer, &opening.signer);
    }

    /// The attributes of an Allocate's success (RFC 8656 §7.2).
    fn allocated(&self, now: Instant, index: usize, mut writer: Writer) -> Writer {
        let allocation = &self.allocations[index];
        let mut lifetime = Duration::MAX;
        for relay in allocation
            .relays
            .into_iter()
            .flatten()
            .filter_map(|id| self.relay(id))
        {
            writer = writer.xor_address(attr::XOR_RELAYED_ADDRESS, relay.external);
            lifetime = relay.expires.map_or(lifetime, |at| {
                lifetime.min(at.saturating_duration_since(now))
            });
        }
        writer = writer.number(attr::LIFETIME, lifetime.as_secs() as u32);
        if let Some(token) = allocation.token {
            writer = writer.raw(attr::RESERVATION_TOKEN, &token.to_be_bytes());
        }
        if let Some((family, code)) = allocation.missing {
            writer = writer.raw(
                attr::ADDRESS_ERROR_CODE,
                &[family, 0, (code / 100) as u8, (code % 100) as u8],
            );
        }
        writer.xor_address(attr::XOR_MAPPED_ADDRESS, allocation.client.client)
    }

    /// RFC 8656 §8.2.
    pub(super) fn refresh(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        let index = self.owned(from, caller)?;
        let asked = optional(message.get::<Lifetime>())?.map(|l| l.seconds());
        let relays = match message.raw(attr::REQUESTED_ADDRESS_FAMILY) {
            None => self.allocations[index].relays.to_vec(),
            Some([family @ (IPV4 | IPV6), 0, 0, 0]) => {
                let relay = self.allocations[index].relays[usize::from(*family == IPV6)];
                vec![Some(relay.ok_or(443_u16)?)]
            }
            Some([_, _, _, _]) => return Err(443),
            Some(_) => return Err(400),
        };
        let lifetime = match asked {
            Some(0) => Duration::ZERO,
            _ => self.lifetime(message)?,
        };
        self.allocations[index].sweep_channels(now);
        for relay in relays.into_iter().flatten() {
            if lifetime.is_zero() {
                self.close_relay(relay);
            } else {
                let until = match self.phase {
                    Phase::Serving => now + lifetime,
                    Phase::Draining { until } => until.min(now + lifetime),
                };
                self.set_expiry(relay, Some(until));
            }
        }
        let granted = match self.phase {
            Phase::Draining { until } => lifetime.min(until.saturating_duration_since(now)),
            Phase::Serving => lifetime,
        };
        Ok(Some(
            Writer::success(message).number(attr::LIFETIME, granted.as_secs() as u32),
        ))
    }

    pub(super) fn relay(&self, id: RelayId) -> Option<&Relay> {
        self.relays
            .get(id.index as usize)
            .filter(|r| r.generation == id.generation)
    }

    fn set_expiry(&mut self, id: RelayId, expires: Option<Instant>) {
        let Some(relay) = self
            .relays
            .get_mut(id.index as usize)
            .filter(|r| r.generation == id.generation)
        else {
            return;
        };
        Timer::Relay(id).set(&mut self.timers, &mut relay.expires, expires);
    }

    /// Drops a relay from the tables, without closing its socket.
    fn forget_relay(&mut self, id: RelayId) -> Option<Relay> {
        self.set_expiry(id, None);
        self.relay(id)?;
        let relay = self.relays.remove(id.index as usize);
        self.bound.remove(&relay.local);
        Some(relay)
    }

    /// Closes a relay; the allocation goes with its last one.
    pub(super) fn close_relay(&mut self, id: RelayId) {
        let Some(relay) = self.forget_relay(id) else {
            return;
        };
        self.commands.push_back(Command::CloseRelay { relay: id });
        let allocation = &mut self.allocations[relay.allocation];
        let family = usize::from(relay.local.is_ipv6());
        allocation.relays[family] = None;
        if allocation.relays == [None, None] {
            self.remove_allocation(relay.allocation);
        }
    }

    /// Takes an allocation away with all that hangs on it.
    pub(super) fn remove_allocation(&mut self, index: usize) {
        let Some(allocation) = self.allocations.try_remove(index) else {
            return;
        };
        self.clients.remove(&allocation.client);
        for id in allocation.relays.into_iter().flatten() {
            if self.forget_relay(id).is_some() {
                self.commands.push_back(Command::CloseRelay { relay: id });
            }
        }
        for connection in allocation.connections {
            self.drop_connection(connection, true);
        }
        self.shared.give_back(&allocation.account);
    }
}

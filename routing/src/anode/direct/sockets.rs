//! Sockets beside the main ones, and what may be heard on each.
//!
//! The node has none itself: it orders them from whoever owns the sockets ([`SocketOrder`]), and is told when they stand.
use crate::anode::peers::PeerRef;
use anode_wire::message::kind;
use anode_wire::sealed;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Numbers from here on are second sockets of a relay, one port above its main ones, in their order.
pub const SECOND_SOCKET: usize = 1 << 12;
/// Numbers from here on are sockets that the node has ordered.
const FIRST_EXTRA: usize = 1 << 13;
/// Numbers are used again only after so many others: nothing that was meant for one leaves through another.
const NUMBERS: usize = 1 << 13;
/// Open at once: two searches of 256, and some for measuring.
const MAX_SOCKETS: usize = 544;
/// One that carried something authentic is kept open for so long after the last of it.
const HEARD_FOR: Duration = Duration::from_secs(40);

/// What the owner of the sockets is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketOrder {
    /// Open a UDP socket on any port; answer by `socket_opened`.
    Open {
        /// Its number from then on.
        number: usize,
        /// Over IPv4; else over IPv6.
        v4: bool,
        /// It sends and hears over the interface with this index alone; `None`: as the kernel's routes say.
        interface: Option<u32>,
    },
    /// Close it.
    Close(usize),
}

/// What a socket is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) enum Role {
    /// Everything.
    Main,
    /// NETID_REQ, from those who want to know what another port sees (ours as a relay).
    Second,
    /// NETID, to learn of the NAT.
    Survey,
    /// A hole in a NAT: everything.
    Hole,
    /// As a main one, but over one uplink alone: everything.
    Uplink,
}

impl Role {
    /// Whether a packet of this outer type is read at all.
    pub fn admits(self, packet_kind: u8) -> bool {
        let sealed = packet_kind == sealed::kind::SEALED;
        match self {
            Self::Main | Self::Hole | Self::Uplink => true,
            Self::Second => sealed || packet_kind == kind::NETID_REQ,
            Self::Survey => sealed || packet_kind == kind::NETID,
        }
    }

    /// Whether a message is heard.
    pub fn hears(self, message_kind: u8) -> bool {
        match self {
            Self::Main | Self::Hole | Self::Uplink => true,
            Self::Second => message_kind == kind::NETID_REQ,
            Self::Survey => message_kind == kind::NETID,
        }
    }

    /// Whether its sources are places where peers are.
    pub fn leads_to_peers(self) -> bool {
        matches!(self, Self::Main | Self::Hole | Self::Uplink)
    }
}

struct Slot {
    role: Role,
    owner: Option<PeerRef>,
    v4: bool,
    interface: Option<u32>,
    open: bool,
    heard: Option<Instant>,
}

/// See the module.
#[derive(Default)]
pub(in crate::anode) struct Sockets {
    slots: BTreeMap<usize, Slot>,
    next: usize,
    orders: VecDeque<SocketOrder>,
    /// The uplink that everything goes out over, where that is not for the kernel's routes to say.
    pub way: Option<u32>,
}

impl Sockets {
    /// Orders a socket over IPv4; `None`: there are too many.
    pub fn order(&mut self, role: Role, owner: Option<PeerRef>) -> Option<usize> {
        self.open(role, owner, true, self.way)
    }

    /// Orders a socket over one uplink, which belongs to nobody.
    pub fn order_over(&mut self, interface: u32, v4: bool) -> Option<usize> {
        self.open(Role::Uplink, None, v4, Some(interface))
    }

    fn open(
        &mut self,
        role: Role,
        owner: Option<PeerRef>,
        v4: bool,
        interface: Option<u32>,
    ) -> Option<usize> {
        if self.slots.len() >= MAX_SOCKETS {
            return None;
        }
        let mut number = FIRST_EXTRA + self.next % NUMBERS;
        while self.slots.contains_key(&number) {
            self.next += 1;
            number = FIRST_EXTRA + self.next % NUMBERS;
        }
        self.next += 1;
        let slot = Slot {
            role,
            owner,
            v4,
            interface,
            open: false,
            heard: None,
        };
        self.slots.insert(number, slot);
        self.orders.push_back(SocketOrder::Open {
            number,
            v4,
            interface,
        });
        Some(number)
    }

    pub fn poll_order(&mut self) -> Option<SocketOrder> {
        self.orders.pop_front()
    }

    /// It stands, or cannot be had. Whose it is.
    pub fn opened(&mut self, number: usize, stands: bool) -> Option<PeerRef> {
        let slot = self.slots.get_mut(&number)?;
        slot.open = stands;
        let owner = slot.owner;
        if !stands {
            self.slots.remove(&number);
        }
        owner
    }

    pub fn close(&mut self, number: usize) {
        if self.slots.remove(&number).is_some() {
            self.orders.push_back(SocketOrder::Close(number));
        }
    }

    pub fn is_open(&self, number: usize) -> bool {
        self.slots.get(&number).is_some_and(|slot| slot.open)
    }

    /// What this number is there for; `None`: it is closed.
    pub fn role(&self, number: usize) -> Option<Role> {
        match number {
            FIRST_EXTRA.. => self.slots.get(&number).map(|slot| slot.role),
            SECOND_SOCKET.. => Some(Role::Second),
            _ => Some(Role::Main),
        }
    }

    /// Whether it sends to IPv4 places, and not to IPv6 ones.
    pub fn is_v4(&self, number: usize) -> bool {
        self.slots.get(&number).is_none_or(|slot| slot.v4)
    }

    /// The socket over an uplink, open or ordered.
    pub fn over(&self, interface: u32, v4: bool) -> Option<usize> {
        let there = |slot: &Slot| {
            slot.role == Role::Uplink && slot.interface == Some(interface) && slot.v4 == v4
        };
        let mut found = self.slots.iter().filter(|(_, slot)| there(slot));
        found.next().map(|(number, _)| *number)
    }

    /// The uplink that this socket is for; `None`: it goes where the kernel's routes, or a search, say.
    pub fn uplink(&self, number: usize) -> Option<u32> {
        let slot = self.slots.get(&number)?;
        slot.interface.filter(|_| slot.role == Role::Uplink)
    }

    /// The sockets over uplinks that are no uplinks any more.
    pub fn without_uplink(&self, is_uplink: impl Fn(u32) -> bool) -> Vec<usize> {
        let slots = self.slots.iter();
        let lost = slots.filter(|(_, slot)| slot.interface.is_some_and(|index| !is_uplink(index)));
        lost.map(|(number, _)| *number).collect()
    }

    /// Something authentic has come through it.
    pub fn note_heard(&mut self, now: Instant, number: usize) {
        if number >= FIRST_EXTRA
            && let Some(slot) = self.slots.get_mut(&number)
        {
            slot.heard = Some(now);
        }
    }

    /// Those of one peer, in their order.
    pub fn of(&self, owner: PeerRef) -> Vec<usize> {
        let owned = self.slots.iter();
        let owned = owned.filter(|(_, slot)| slot.owner == Some(owner));
        owned.map(|(number, _)| *number).collect()
    }

    /// Closes what nobody needs: no path goes through it, no search is under way for its owner, and nothing has come
    /// through it lately. True if some are left that must be looked at again.
    pub fn sweep(
        &mut self,
        now: Instant,
        is_used: impl Fn(usize) -> bool,
        is_searching: impl Fn(PeerRef) -> bool,
    ) -> bool {
        let idle = |number: &usize, slot: &Slot| {
            let lately = slot.heard.is_some_and(|at| now < at + HEARD_FOR);
            let needed = slot.role == Role::Uplink && slot.interface == self.way;
            !needed && !lately && !slot.owner.is_some_and(&is_searching) && !is_used(*number)
        };
        let idle = self
            .slots
            .iter()
            .filter(|(number, slot)| idle(number, slot));
        let idle: Vec<usize> = idle.map(|(number, _)| *number).collect();
        idle.into_iter().for_each(|number| self.close(number));
        !self.slots.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Whether a number is one that the node has ordered.
pub(in crate::anode) fn is_extra(number: usize) -> bool {
    number >= FIRST_EXTRA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_bounded_and_their_numbers_are_not_used_again_soon() {
        let mut sockets = Sockets::default();
        let first: Vec<_> = std::iter::from_fn(|| sockets.order(Role::Hole, None)).collect();
        assert_eq!(first.len(), MAX_SOCKETS);
        first.iter().for_each(|number| sockets.close(*number));
        let again = sockets.order(Role::Survey, None).unwrap();
        assert!(!first.contains(&again));
        let orders = std::iter::from_fn(|| sockets.poll_order());
        assert_eq!(orders.count(), 2 * MAX_SOCKETS + 1);
    }

    #[test]
    fn a_socket_that_is_heard_on_stays_and_one_that_is_not_goes() {
        let (mut sockets, now) = (Sockets::default(), Instant::now());
        let [used, heard, idle] = std::array::from_fn(|_| sockets.order(Role::Hole, None).unwrap());
        sockets.note_heard(now, heard);
        let sweep = |sockets: &mut Sockets, now| sockets.sweep(now, |n| n == used, |_| false);
        assert!(sweep(&mut sockets, now));
        assert_eq!(sockets.role(idle), None);
        assert!(sweep(&mut sockets, now + 2 * HEARD_FOR));
        assert_eq!((sockets.role(heard), sockets.len()), (None, 1));
    }

    #[test]
    fn a_socket_for_measuring_hears_nothing_else() {
        assert!(Role::Survey.admits(sealed::kind::SEALED) && Role::Survey.hears(kind::NETID));
        for other in [kind::EPC_REQ, kind::PING, kind::DGRAM, kind::NETID_REQ] {
            assert!(!Role::Survey.hears(other) && Role::Hole.hears(other));
        }
        assert!(Role::Second.hears(kind::NETID_REQ) && !Role::Second.hears(kind::PING));
        assert!(!Role::Second.admits(sealed::kind::HELLO));
    }
}

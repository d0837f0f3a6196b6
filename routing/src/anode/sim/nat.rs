//! NATs and firewalls of the simulated underlay, by how they map and filter (RFC 4787).
use super::Flying;
use crate::anode::Place;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a box does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One port for all destinations, open to everybody.
    FullCone,
    /// The same, open to addresses that were sent to.
    AddressRestricted,
    /// The same, open to just where was sent to.
    PortRestricted,
    /// Another port for each destination, one after the other.
    Sequence,
    /// Another port for each destination, at random.
    Random,
    /// Nothing but connections gets out.
    NoDatagrams,
}

pub struct Nat {
    pub kind: Kind,
    outside: Ipv4Addr,
    /// Everything in 10.N.0.0/16 lies behind it.
    inside: u8,
    /// It turns packets to its own outside round.
    pub hairpin: bool,
    next_port: u16,
    keeps_ports: bool,
    rng: StdRng,
    bindings: Vec<Binding>,
}

struct Binding {
    inside: Place,
    /// The destination, where it makes a difference.
    far: Option<Place>,
    port: u16,
    sent_to: HashSet<Place>,
}

/// Host `number` behind NAT `nat` lives at 10.nat.0.number.
pub fn behind(nat: u8, number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, nat, 0, number as u8), 8737))
}

impl Nat {
    /// A symmetric one.
    pub fn new(inside: u8) -> Self {
        Self::of_kind(Kind::Random, inside)
    }

    pub fn of_kind(kind: Kind, inside: u8) -> Self {
        Self {
            kind,
            outside: Ipv4Addr::new(198, 51, 100, inside),
            inside,
            hairpin: false,
            next_port: 20_000,
            keeps_ports: false,
            rng: StdRng::seed_from_u64(u64::from(inside)),
            bindings: Vec::new(),
        }
    }

    /// One that keeps the port of the machine behind it, and lets in only what answers (a port-restricted cone).
    pub fn keeping_ports(inside: u8) -> Self {
        Self {
            keeps_ports: true,
            ..Self::of_kind(Kind::PortRestricted, inside)
        }
    }

    /// Where the machine behind it is seen.
    pub fn seen_at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.outside, port))
    }

    fn covers(&self, at: &Place) -> bool {
        matches!(at.ip(), IpAddr::V4(ip) if ip.octets()[..2] == [10, self.inside])
    }

    fn is_symmetric(&self) -> bool {
        matches!(self.kind, Kind::Sequence | Kind::Random)
    }

    /// Its power is cycled: nobody outside finds the way in any more, and the ports are others.
    pub fn forget(&mut self) {
        self.bindings.clear();
    }

    /// Whether something leaves one of the hosts behind it that it lets out. False: it is dropped.
    pub fn lets_out(&self, packet: &Flying) -> bool {
        let leaves = self.covers(&packet.from) && !self.covers(&packet.to);
        !(leaves && self.kind == Kind::NoDatagrams && packet.to.udp().is_some())
    }

    /// A packet leaves one of the hosts behind it, if it is one.
    pub fn out(&mut self, packet: &mut Flying) {
        if !self.covers(&packet.from) || self.covers(&packet.to) {
            return;
        }
        let (inside, to) = (packet.from, packet.to);
        let far = self.is_symmetric().then_some(to);
        let known = self
            .bindings
            .iter_mut()
            .find(|b| b.inside == inside && b.far == far);
        let port = match known {
            Some(binding) => {
                binding.sent_to.insert(to);
                binding.port
            }
            None => {
                let kept = inside.address().filter(|_| self.keeps_ports);
                let port = match (kept, self.kind) {
                    (Some(at), _) => at.port(),
                    (None, Kind::Random) => self.rng.random_range(1024..=65_535),
                    (None, _) => {
                        self.next_port += 1;
                        self.next_port
                    }
                };
                self.bindings.push(Binding {
                    inside,
                    far,
                    port,
                    sent_to: HashSet::from([to]),
                });
                port
            }
        };
        packet.from = self.outside(&packet.from, port);
    }

    /// A packet arrives. False: it does not come through.
    pub fn back(&self, packet: &mut Flying) -> bool {
        if packet.to.ip() != IpAddr::V4(self.outside) {
            return !self.covers(&packet.to) || self.covers(&packet.from);
        }
        if packet.from.ip() == packet.to.ip() && !self.hairpin {
            return false;
        }
        let open = |binding: &&Binding| {
            let passes = match self.kind {
                Kind::FullCone => true,
                Kind::AddressRestricted => {
                    binding.sent_to.iter().any(|to| to.ip() == packet.from.ip())
                }
                _ => binding.sent_to.contains(&packet.from),
            };
            passes && self.outside(&packet.to, binding.port) == packet.to
        };
        let Some(binding) = self.bindings.iter().find(open) else {
            return false;
        };
        packet.to = binding.inside;
        true
    }

    fn outside(&self, like: &Place, port: u16) -> Place {
        let at = SocketAddr::from((self.outside, port));
        Place::over(like.transport(), at).expect("hosts have IP alone")
    }
}

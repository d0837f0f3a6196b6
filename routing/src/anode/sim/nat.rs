//! Symmetric NATs of the simulated underlay: another port for each place that is sent to, open for just that place (address
//! and port dependent in both respects, RFC 4787).
use super::Flying;
use crate::anode::Place;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub struct Nat {
    outside: Ipv4Addr,
    /// Everything in 10.N.0.0/16 lies behind it.
    inside: u8,
    next_port: u16,
    keeps_ports: bool,
    bindings: Vec<Binding>,
}

struct Binding {
    inside: Place,
    far: Place,
    port: u16,
}

/// Host `number` behind NAT `nat` lives at 10.nat.0.number.
pub fn behind(nat: u8, number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, nat, 0, number as u8), 8737))
}

impl Nat {
    pub fn new(inside: u8) -> Self {
        Self {
            outside: Ipv4Addr::new(198, 51, 100, inside),
            inside,
            next_port: 20_000,
            keeps_ports: false,
            bindings: Vec::new(),
        }
    }

    /// One that keeps the port of the machine behind it, and lets in only what answers (a port-restricted cone).
    pub fn keeping_ports(inside: u8) -> Self {
        Self {
            keeps_ports: true,
            ..Self::new(inside)
        }
    }

    /// Where the machine behind it is seen.
    pub fn seen_at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.outside, port))
    }

    fn covers(&self, at: &Place) -> bool {
        matches!(at.ip(), IpAddr::V4(ip) if ip.octets()[..2] == [10, self.inside])
    }

    /// Its power is cycled: nobody outside finds the way in any more.
    pub fn forget(&mut self) {
        self.bindings.clear();
    }

    /// A packet leaves one of the hosts behind it, if it is one.
    pub fn out(&mut self, packet: &mut Flying) {
        if !self.covers(&packet.from) || self.covers(&packet.to) {
            return;
        }
        let (inside, far) = (packet.from, packet.to);
        let known = self
            .bindings
            .iter()
            .find(|b| b.inside == inside && b.far == far);
        let port = match known {
            Some(binding) => binding.port,
            None => {
                self.next_port += 1;
                let kept = inside.address().filter(|_| self.keeps_ports);
                let port = kept.map_or(self.next_port, |at| at.port());
                self.bindings.push(Binding { inside, far, port });
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
        let open = |binding: &&Binding| {
            binding.far == packet.from && self.outside(&packet.to, binding.port) == packet.to
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

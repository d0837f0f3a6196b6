//! Where packets with payload go, without a copy: those of programs to the overlays, those of peers past the gate to programs.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Instant;

use anode_netstack::{Netstack, Sink, prohibited};
use anode_routing::overlay::{Failure, Overlay, OverlaySink};

use super::echo::{Echo, Echoes};
use super::gate::Gate;
use super::quotes::{self, Quotes};
use super::refusals::Refusals;
use super::{Counters, Overlays};
use crate::policy::Verdict;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// Where the netstack puts datagrams, echoes and other packets of programs.
pub(super) struct FromOs<'a, A> {
    pub now: Instant,
    pub overlays: &'a mut Overlays<A>,
    pub echoes: &'a mut Echoes,
    pub quotes: &'a mut Quotes,
    pub gate: &'a mut Gate,
    pub errors: &'a mut Vec<(quotes::Quote, Failure)>,
    pub counters: &'a mut Counters,
}

impl<A: Overlay> FromOs<'_, A> {
    fn failed(&mut self, quote: &[u8], failure: Failure) {
        self.errors.push((quotes::Quote::new(quote), failure));
    }
}

impl<A: Overlay> Sink for FromOs<'_, A> {
    fn udp(&mut self, from: SocketAddrV6, to: SocketAddrV6, payload: &[u8], quote: &[u8]) {
        self.quotes.remember(*to.ip(), quote);
        self.gate
            .datagram_sent(self.now, from.port(), *to.ip(), to.port());
        let sent = match self.overlays.towards(*to.ip()) {
            Some(overlay) => overlay.send_datagram(
                self.now,
                *from.ip(),
                from.port(),
                *to.ip(),
                to.port(),
                payload,
            ),
            None => Err(Failure::NoSuchPeer),
        };
        if let Err(failure) = sent {
            self.counters.packets_unsent += 1;
            self.failed(quote, failure);
        }
    }

    fn echo(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        id: u16,
        sequence: u16,
        payload: &[u8],
        quote: &[u8],
    ) {
        let token = self.echoes.remember(
            self.now,
            Echo {
                from,
                to,
                id,
                sequence,
                quote: quotes::Quote::new(quote),
            },
        );
        let message = self.echoes.message(id, sequence, payload);
        let sent = match self.overlays.towards(to) {
            Some(overlay) => overlay.ping(self.now, Some(from), to, token, message),
            None => Err(Failure::NoSuchPeer),
        };
        if let Err(failure) = sent {
            self.counters.echoes_unsent += 1;
            self.echoes.take(token);
            self.failed(quote, failure);
        }
    }

    fn other(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
        quote: &[u8],
    ) {
        self.quotes.remember(to, quote);
        self.gate.other_sent(self.now, to, next_header);
        let sent = match self.overlays.towards(to) {
            Some(overlay) => overlay.send_other(self.now, from, to, next_header, payload),
            None => Err(Failure::NoSuchPeer),
        };
        if let Err(failure) = sent {
            self.counters.packets_unsent += 1;
            self.failed(quote, failure);
        }
    }
}

/// Where the overlays put packets of peers.
pub(super) struct ToOs<'a> {
    pub now: Instant,
    pub netstack: &'a mut Netstack,
    pub gate: &'a mut Gate,
    pub refusals: &'a mut Refusals,
}

impl OverlaySink for ToOs<'_> {
    fn datagram(
        &mut self,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) {
        match self.gate.datagram(self.now, from, from_port, to_port) {
            Verdict::Allow => self.netstack.udp_to_os(
                SocketAddrV6::new(from, from_port, 0, 0),
                SocketAddrV6::new(to, to_port, 0, 0),
                payload,
            ),
            Verdict::Reject => self.refusals.tell(self.now, to, from, || {
                let [f1, f2] = from_port.to_be_bytes();
                let [t1, t2] = to_port.to_be_bytes();
                // What UDP cannot say, nobody sends.
                let length = u16::try_from(UDP_HEADER + payload.len()).unwrap_or(u16::MAX);
                let [l1, l2] = length.to_be_bytes();
                let header = [f1, f2, t1, t2, l1, l2, 0, 0];
                prohibited(from, to, UDP, &[&header, payload])
            }),
            Verdict::Drop => {}
        }
    }

    fn other(&mut self, from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) {
        match self.gate.other(self.now, from, to, next_header, payload) {
            Verdict::Allow => self.netstack.other_to_os(from, to, next_header, payload),
            Verdict::Reject => self.refusals.tell(self.now, to, from, || {
                prohibited(from, to, next_header, &[payload])
            }),
            Verdict::Drop => {}
        }
    }
}

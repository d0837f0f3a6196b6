//! The whole picture of the network before this node, on request: `anode netcheck`.
//!
//! A new socket, which has spoken to one relay alone, shows what the NAT lets in: another address (the second relay is asked
//! to send there, D25), or another port (the first one answers from its second socket). A packet of ours to our own outer
//! place shows whether it turns round.
use super::Node;
use super::sockets::Role;
use super::survey::{Mapping, Purpose, own_source, own_source_from_second};
use crate::anode::output::{Destination, Way};
use crate::anode::peers::PeerRef;
use crate::anode::{Place, Timer};
use anode_wire::{Address, Endpoint};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Relays that are looked at.
const MAX_RELAYS: usize = 8;
/// Places of all of them.
const MAX_PLACES: usize = 32;
/// Everything is asked at these times: once more for what was lost, and where a connection had to be made first.
const ROUNDS_MS: [u64; 4] = [0, 300, 800, 1500];
/// Nothing is waited for longer.
const CHECK_FOR: Duration = Duration::from_millis(2500);
/// The same where connections were slow.
const QUIET_AFTER: Duration = Duration::from_millis(700);

/// What a NAT or firewall lets in (RFC 4787 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filtering {
    /// Nobody could try.
    Unknown,
    /// Anything for an open port.
    EndpointIndependent,
    /// What comes from addresses that were spoken to. Also where nobody could try with another address.
    AddressDependent,
    /// What comes from just where was spoken to.
    AddressPortDependent,
}

impl Filtering {
    /// As in `anode netcheck --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressPortDependent => "address-port-dependent",
        }
    }
}

/// One place of a relay, and whether it answers.
#[derive(Clone, PartialEq, Debug)]
pub struct RelayReach {
    /// The relay.
    pub relay: Address,
    /// Where it was asked.
    pub at: Place,
    /// `None`: it did not answer.
    pub rtt: Option<Duration>,
}

/// What [`Node::start_netcheck`] has found.
#[derive(Clone, PartialEq, Debug)]
pub struct NetReport {
    /// Datagrams go out, and answers come back.
    pub udp: bool,
    /// How the NAT chooses ports.
    pub mapping: Mapping,
    /// What it lets in.
    pub filtering: Filtering,
    /// Whether it turns packets to its own outside round; `None`: nobody could try.
    pub hairpin: Option<bool>,
    /// Ports that it gives lie in a sequence.
    pub in_sequence: bool,
    /// Where others see us.
    pub external: Vec<SocketAddr>,
    /// A port that the gateway keeps open for us.
    pub mapped: Option<SocketAddr>,
    /// The relays of our zone.
    pub relays: Vec<RelayReach>,
}

/// A check under way.
struct Check {
    started: Instant,
    rounds: usize,
    /// The new socket, once it stands, and where the first relay sees it.
    socket: Option<usize>,
    base: Option<SocketAddr>,
    address_passes: bool,
    port_passes: bool,
    turns_round: bool,
    places: Vec<(PeerRef, RelayReach)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Netcheck {
    check: Option<Check>,
    report: Option<NetReport>,
}

impl Node {
    /// Looks at everything; the result is there within seconds. One check at a time: who comes later shares it.
    pub fn start_netcheck(&mut self, now: Instant) {
        if self.direct.netcheck.check.is_some() {
            return;
        }
        let relays: Vec<(PeerRef, Address)> = self
            .all_relays()
            .take(MAX_RELAYS)
            .filter_map(|relay| Some((self.peers.find(relay.address.as_bytes())?, relay.address)))
            .collect();
        let mut places = Vec::new();
        for (found, relay) in relays {
            let peer = self.peers.get(found);
            let known = peer.into_iter().flat_map(|peer| &peer.paths);
            let known = known.filter(|path| !path.is_relayed());
            let mut of_relay: Vec<Place> = known.map(|path| path.endpoint).collect();
            of_relay.sort_by_key(|place| (place.transport(), place.address()));
            places.extend(of_relay.into_iter().map(|at| {
                let rtt = None;
                (found, RelayReach { relay, at, rtt })
            }));
        }
        places.truncate(MAX_PLACES);
        self.direct.sockets.order(Role::Survey, None);
        self.direct.netcheck = Netcheck {
            check: Some(Check {
                started: now,
                rounds: 0,
                socket: None,
                base: None,
                address_passes: false,
                port_passes: false,
                turns_round: false,
                places,
            }),
            report: None,
        };
        self.handle_netcheck_timer(now);
    }

    /// The result of the last check; `None`: it is under way.
    pub fn net_report(&self) -> Option<&NetReport> {
        self.direct.netcheck.report.as_ref()
    }

    pub(in crate::anode) fn handle_netcheck_timer(&mut self, now: Instant) {
        let Some(check) = &self.direct.netcheck.check else {
            return;
        };
        let age = now.duration_since(check.started);
        let all_answered = check.places.iter().all(|(_, place)| place.rtt.is_some());
        let all_known = all_answered && check.address_passes && check.turns_round;
        if age >= CHECK_FOR || age >= QUIET_AFTER && all_answered || all_known {
            return self.end_netcheck(now);
        }
        let due = ROUNDS_MS
            .get(check.rounds)
            .map(|at| Duration::from_millis(*at));
        if due.is_some_and(|due| due <= age) {
            self.netcheck_round(now);
        }
        let Some(check) = &self.direct.netcheck.check else {
            return;
        };
        let next = ROUNDS_MS
            .get(check.rounds)
            .map(|at| Duration::from_millis(*at));
        let next = [Some(CHECK_FOR), Some(QUIET_AFTER), next];
        let next = next.into_iter().flatten().filter(|at| *at > age).min();
        let at = check.started + next.unwrap_or(CHECK_FOR);
        self.timers.set(Timer::Netcheck, at, "netcheck");
    }

    fn netcheck_round(&mut self, now: Instant) {
        let Some(check) = &mut self.direct.netcheck.check else {
            return;
        };
        check.rounds += 1;
        let silent = check.places.iter().enumerate();
        let silent = silent.filter(|(_, (_, place))| place.rtt.is_none());
        let silent: Vec<(usize, PeerRef, Place)> = silent
            .map(|(index, (relay, place))| (index, *relay, place.at))
            .collect();
        for (index, relay, at) in silent {
            let Some(socket) = self.socket_for(&at) else {
                continue;
            };
            let v4 = at.address().is_none_or(|at| at.is_ipv4());
            self.ask_netid(
                now,
                relay,
                at,
                socket,
                own_source(v4),
                Purpose::Reach(index),
            );
        }
        self.survey_relays(now);
        self.try_filtering(now);
    }

    /// The socket for the check stands.
    pub(super) fn note_netcheck_socket(&mut self, now: Instant, number: usize, stands: bool) {
        match &mut self.direct.netcheck.check {
            Some(check) if stands => check.socket = Some(number),
            _ => return self.direct.sockets.close(number),
        }
        self.try_filtering(now);
    }

    /// What can be asked about filtering with what is known so far.
    fn try_filtering(&mut self, now: Instant) {
        let Some(check) = &self.direct.netcheck.check else {
            return;
        };
        let (Some(socket), base, address_passes) = (check.socket, check.base, check.address_passes)
        else {
            return;
        };
        let relays = self.relays_in_use();
        let places: Vec<(PeerRef, SocketAddr, usize)> = relays
            .iter()
            .filter_map(|relay| {
                let (at, main) = self.datagrams_to(*relay, true)?;
                Some((*relay, at, main))
            })
            .collect();
        let Some((first, at, _)) = places.first().copied() else {
            return;
        };
        let Some(base) = base else {
            self.ask_netid(
                now,
                first,
                at.into(),
                socket,
                own_source(true),
                Purpose::FilterBase,
            );
            return;
        };
        let question = own_source_from_second(true);
        self.ask_netid(now, first, at.into(), socket, question, Purpose::FilterPort);
        let mut others = places.iter().filter(|(_, other, _)| other.ip() != at.ip());
        if let Some((second, at, main)) = others.next().copied()
            && !address_passes
        {
            let question = Endpoint::Udp(base);
            self.ask_netid(
                now,
                second,
                at.into(),
                main,
                question,
                Purpose::FilterAddress,
            );
        }
        let seen = self.direct.survey.external();
        if let Some(own) = seen.into_iter().rev().find(SocketAddr::is_ipv4) {
            self.turn_round(own, socket);
        }
    }

    /// A packet of ours to our own outer place: nobody reads it but to see that it came (`note_turned`).
    fn turn_round(&mut self, own: SocketAddr, socket: usize) {
        let destination = Destination {
            to: own.into(),
            socket,
            source: None,
        };
        self.push_beacon(destination);
    }

    /// A beacon of our own has come: if it comes from our own outer address, the NAT has turned it round. Nobody vouches for
    /// it; what it changes is one word of a report.
    pub(in crate::anode) fn note_turned(&mut self, way: &Way) {
        let seen = self.direct.survey.external();
        let outer = |ip: IpAddr| seen.iter().any(|at| at.ip() == ip);
        if let Some(check) = &mut self.direct.netcheck.check
            && outer(way.from.ip())
        {
            check.turns_round = true;
        }
    }

    pub(super) fn note_reach(&mut self, now: Instant, place: usize, rtt: Duration) {
        let check = self.direct.netcheck.check.as_mut();
        if let Some((_, place)) = check.and_then(|check| check.places.get_mut(place)) {
            let known = place.rtt.get_or_insert(rtt);
            *known = rtt.min(*known);
        }
        self.handle_netcheck_timer(now);
    }

    pub(super) fn note_filter_base(&mut self, now: Instant, seen: SocketAddr) {
        if let Some(check) = &mut self.direct.netcheck.check {
            check.base = Some(seen);
        }
        self.try_filtering(now);
    }

    /// Something has come through that was not asked for: from another address, or from another port alone.
    pub(super) fn note_filter(&mut self, now: Instant, address: bool) {
        if let Some(check) = &mut self.direct.netcheck.check {
            check.port_passes = true;
            check.address_passes |= address;
        }
        self.handle_netcheck_timer(now);
    }

    fn end_netcheck(&mut self, now: Instant) {
        let Some(check) = self.direct.netcheck.check.take() else {
            return;
        };
        let mapping = self.mapping();
        let filtering = match (check.base, check.address_passes, check.port_passes) {
            (None, ..) => Filtering::Unknown,
            (_, true, _) => Filtering::EndpointIndependent,
            (_, false, true) => Filtering::AddressDependent,
            (_, false, false) => Filtering::AddressPortDependent,
        };
        let hairpin = match mapping {
            _ if check.base.is_none() => None,
            Mapping::None => None,
            _ => Some(check.turns_round),
        };
        let mut external = self.direct.survey.external();
        external.reverse();
        let relays: Vec<RelayReach> = check.places.into_iter().map(|(_, place)| place).collect();
        let answered = relays.iter().filter(|place| place.rtt.is_some());
        let udp = answered.clone().any(|place| place.at.udp().is_some());
        self.direct.netcheck.report = Some(NetReport {
            udp,
            mapping,
            filtering,
            hairpin,
            in_sequence: self.own_ports() == super::offer::Ports::Sequence,
            external,
            mapped: self.direct.survey.mapped,
            relays,
        });
        if let Some(socket) = check.socket {
            self.direct.sockets.close(socket);
        }
        // Where nothing was asked, nobody knows.
        self.timers.set(Timer::Sockets, now, "sockets nobody needs");
    }
}

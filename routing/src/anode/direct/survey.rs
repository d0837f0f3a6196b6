//! What lies between this node and the others: where they see us, and how the NAT behaves (NETID, RFC 4787).
//!
//! Relays are asked from the main sockets as soon as we are registered, on the main port and on their second one: two
//! answers tell of the mapping. How the NAT filters is found out only when somebody wants to know (`netcheck`).
use super::offer::Ports;
use super::sockets::{SECOND_SOCKET, is_extra};
use crate::anode::path::{Path, is_dialable};
use crate::anode::peers::PeerRef;
use crate::anode::receive::Arrival;
use crate::anode::{Destination, Node, Place, Sender};
use anode_wire::{Endpoint, Message, PeerId};
use rand_core::Rng as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// NETID_REQs that wait for an answer.
const MAX_QUESTIONS: usize = 64;
/// So long.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Answers that are remembered.
const MAX_SEEN: usize = 8;
/// Ports of one sequence are no further apart: what else goes through the NAT takes some, too.
const SEQUENCE_SPREAD: i32 = 32;
/// In the port of an unspecified endpoint: answer from another port than the one that was asked.
const FROM_SECOND: u16 = 1;

/// How the NAT chooses the outer endpoint of a mapping (RFC 4787 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Not known: nobody, or one place alone, has said how it sees us.
    Unknown,
    /// There is no NAT.
    None,
    /// One for all.
    EndpointIndependent,
    /// One for each address.
    AddressDependent,
    /// One for each address and port. Also where nobody could tell it from the former.
    AddressPortDependent,
}

impl Mapping {
    /// As in `anode netcheck --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressPortDependent => "address-port-dependent",
        }
    }
}

/// What a question is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) enum Purpose {
    /// Where the main sockets are seen.
    Mapping,
    /// Where a socket is seen that a hole to this peer shall go through.
    Hole(PeerRef),
    /// Where the socket is seen that filtering is tried with.
    FilterBase,
    /// Whether another address gets through.
    FilterAddress,
    /// Whether another port gets through.
    FilterPort,
    /// Whether a place of a relay answers: its number in the list.
    Reach(usize),
}

struct Question {
    id: u32,
    peer: PeerRef,
    to: Place,
    socket: usize,
    at: Instant,
    purpose: Purpose,
}

/// One answer about a main socket.
#[derive(Clone, Copy)]
struct Seen {
    by: SocketAddr,
    socket: usize,
    seen: SocketAddr,
}

/// See the module.
#[derive(Default)]
pub(in crate::anode) struct Survey {
    questions: Vec<Question>,
    /// One for each place and socket, the latest last.
    seen: Vec<Seen>,
    /// A port that the gateway keeps open for us.
    pub mapped: Option<SocketAddr>,
}

impl Survey {
    /// We are elsewhere.
    pub fn forget(&mut self) {
        self.seen.clear();
        self.questions.clear();
        self.mapped = None;
    }

    /// Notes an answer; true if it says something new.
    fn note(&mut self, answer: Seen) -> bool {
        let same = |known: &Seen| known.by == answer.by && known.socket == answer.socket;
        let before = self
            .seen
            .iter()
            .find(|known| same(known))
            .map(|known| known.seen);
        self.seen.retain(|known| !same(known));
        if self.seen.len() >= MAX_SEEN {
            self.seen.remove(0);
        }
        self.seen.push(answer);
        before != Some(answer.seen)
    }

    /// Where others see us, the latest last, each once.
    pub fn external(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for seen in &self.seen {
            all.retain(|known| *known != seen.seen);
            all.push(seen.seen);
        }
        all
    }

    fn v4(&self) -> impl Iterator<Item = &Seen> + Clone {
        self.seen.iter().filter(|seen| seen.seen.is_ipv4())
    }

    /// How the NAT maps, where `is_own` knows the addresses of the interfaces.
    pub fn mapping(&self, is_own: impl Fn(IpAddr) -> bool) -> Mapping {
        let mut seen = self.v4().peekable();
        let Some(first) = seen.peek().copied().copied() else {
            return Mapping::Unknown;
        };
        if self.v4().all(|seen| is_own(seen.seen.ip())) {
            return Mapping::None;
        }
        let of_one_socket = self.v4().filter(|seen| seen.socket == first.socket);
        let pairs = of_one_socket
            .clone()
            .flat_map(|a| of_one_socket.clone().map(move |b| (a, b)))
            .filter(|(a, b)| a.by < b.by);
        let differ = pairs.clone().any(|(a, b)| a.seen != b.seen);
        let mut of_one_address = pairs.clone().filter(|(a, b)| a.by.ip() == b.by.ip());
        match differ {
            true if of_one_address.clone().count() > 0
                && of_one_address.all(|(a, b)| a.seen == b.seen) =>
            {
                Mapping::AddressDependent
            }
            true => Mapping::AddressPortDependent,
            false if pairs.count() > 0 => Mapping::EndpointIndependent,
            false => Mapping::Unknown,
        }
    }

    /// Whether ports that were given one after the other lie close together.
    fn is_sequence(&self) -> bool {
        let mut ports: Vec<i32> = self.v4().map(|seen| seen.seen.port().into()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
            .windows(2)
            .all(|pair| pair[1] - pair[0] <= SEQUENCE_SPREAD)
    }
}

/// From one port of a sequence to the next, by two that were given one after the other; `None`: no sequence.
pub(in crate::anode) fn step(first: u16, second: u16) -> Option<i16> {
    let step = i32::from(second) - i32::from(first);
    (step != 0 && step.abs() <= SEQUENCE_SPREAD).then_some(step as i16)
}

impl Node {
    /// Where others have seen us (NETID), latest last.
    pub fn external_endpoints(&self) -> Vec<SocketAddr> {
        self.direct.survey.external()
    }

    /// A port that the gateway keeps open for us; `None`: none any more.
    pub fn set_port_mapping(&mut self, now: Instant, mapped: Option<SocketAddr>) {
        let mapped = mapped.filter(|at| is_dialable(&Place::Udp(*at), false));
        if std::mem::replace(&mut self.direct.survey.mapped, mapped) == mapped {
            return;
        }
        self.places_changed += 1;
        if mapped.is_some() {
            self.offer_again(now);
        }
    }

    /// How the NAT before us maps (IPv4).
    pub fn mapping(&self) -> Mapping {
        self.direct.survey.mapping(|ip| self.is_own_address(ip))
    }

    fn is_own_address(&self, ip: IpAddr) -> bool {
        let own = self.links.now.iter().flat_map(|one| &one.addresses);
        own.into_iter().any(|(own, _)| *own == ip)
            || self.sockets.iter().any(|socket| socket.ip() == ip)
    }

    /// What others may expect of our ports.
    pub(super) fn own_ports(&self) -> Ports {
        let survey = &self.direct.survey;
        match self.mapping() {
            Mapping::None | Mapping::EndpointIndependent => Ports::Stable,
            Mapping::Unknown if survey.seen.is_empty() && self.has_no_datagrams() => Ports::None,
            Mapping::Unknown => Ports::Unknown,
            Mapping::AddressDependent | Mapping::AddressPortDependent => {
                match survey.is_sequence() {
                    true => Ports::Sequence,
                    false => Ports::Random,
                }
            }
        }
    }

    /// Our relays are reached, and none of them by datagrams.
    fn has_no_datagrams(&self) -> bool {
        let relays = self.relays_in_use();
        let mut proven = relays
            .iter()
            .filter_map(|relay| self.peers.get(*relay))
            .flat_map(|peer| peer.paths.iter().filter(|path| path.is_proven()))
            .peekable();
        proven.peek().is_some() && proven.all(Path::is_fallback)
    }

    /// Asks our relays where they see us: the NAT may have changed its mind.
    pub(in crate::anode) fn survey_relays(&mut self, now: Instant) {
        for relay in self.relays_in_use() {
            self.survey_relay(now, relay);
        }
    }

    /// The same of one, on both of its ports.
    pub(in crate::anode) fn survey_relay(&mut self, now: Instant, relay: PeerRef) {
        for v4 in [true, false] {
            let Some((at, socket)) = self.datagrams_to(relay, v4) else {
                continue;
            };
            self.ask_netid(
                now,
                relay,
                at.into(),
                socket,
                own_source(v4),
                Purpose::Mapping,
            );
            if let Some(second) = second_port(at).filter(|_| v4) {
                self.ask_netid(
                    now,
                    relay,
                    second.into(),
                    socket,
                    own_source(v4),
                    Purpose::Mapping,
                );
            }
        }
    }

    /// Asks a peer that we have just reached where it sees us.
    pub(in crate::anode) fn ask_whereabouts(
        &mut self,
        now: Instant,
        peer: PeerRef,
        arrival: &Arrival,
    ) {
        let Some(at) = arrival.way.from.udp() else {
            return;
        };
        // Who only knows the draft knows one way to ask for the source.
        let question = match arrival.session {
            Some(_) => own_source(at.is_ipv4()),
            None => Endpoint::Unspecified,
        };
        let socket = arrival.way.socket;
        self.ask_netid(now, peer, at.into(), socket, question, Purpose::Mapping);
    }

    /// Where a relay takes datagrams, proven places first, and by which of our main sockets.
    pub(super) fn datagrams_to(&self, relay: PeerRef, v4: bool) -> Option<(SocketAddr, usize)> {
        let peer = self.peers.get(relay)?;
        let of_family = |path: &&Path| {
            let at = path.endpoint.udp();
            at.is_some_and(|at| at.is_ipv4() == v4) && !path.is_relayed()
        };
        let known = peer.paths.iter().filter(of_family);
        let path = known.min_by_key(|path| !path.is_proven())?;
        let at = path.endpoint.udp()?;
        let socket = match self.socket_over_way(&at) {
            Some(socket) => socket,
            None if is_extra(path.socket) => self.socket_for(&path.endpoint)?,
            None => path.socket,
        };
        self.reaches(socket, &path.endpoint).then_some((at, socket))
    }

    /// Asks where a socket of ours is seen, or has a packet sent elsewhere.
    pub(super) fn ask_netid(
        &mut self,
        now: Instant,
        peer: PeerRef,
        to: Place,
        socket: usize,
        endpoint: Endpoint,
        purpose: Purpose,
    ) {
        let questions = &mut self.direct.survey.questions;
        questions.retain(|question| now < question.at + ANSWER_WITHIN);
        if questions.len() >= MAX_QUESTIONS {
            self.counters.dropped_checks += 1;
            return;
        }
        let id = self.rng.next_u32();
        questions.push(Question {
            id,
            peer,
            to,
            socket,
            at: now,
            purpose,
        });
        let destination = Destination {
            to,
            socket,
            source: None,
        };
        let question = Message::NetidReq { id, endpoint };
        self.send_control_to(now, peer, PeerId::ANY, destination, Sender::Full, &question);
    }

    /// Answers only towards the address that asked (any port), and where a peer says that is registered with this relay:
    /// everything else would make us a reflector (D25, S21).
    pub(in crate::anode) fn handle_netid_req(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        id: u32,
        endpoint: Endpoint,
    ) {
        let from = arrival.way.from;
        let back = arrival.way.reply_to();
        let destination = match endpoint {
            Endpoint::Unspecified => Some(back),
            Endpoint::Udp(to) if to.ip().is_unspecified() && to.port() == 0 => Some(back),
            Endpoint::Udp(to) if to.ip().is_unspecified() && to.port() == FROM_SECOND => {
                self.second_socket(back.socket).map(|socket| Destination {
                    to: from,
                    socket,
                    source: back.source,
                })
            }
            Endpoint::Udp(to) => Some(Destination {
                to: Place::Udp(to),
                ..back
            }),
            _ => None,
        };
        let registered = self.is_registered(now, sender, arrival.sender_peer);
        let allowed = |destination: &Destination| {
            let to = &destination.to;
            *to == from
                || to.ip() == from.ip() && is_dialable(to, true)
                || registered && is_dialable(to, false)
        };
        let affordable = |node: &mut Self, to: &Place| {
            // Back to the source nobody is reflected upon; everything else is rare.
            match *to == from {
                true => node.direct.askers.take(now, from.ip()),
                false => node.budgets.netid.take(now, node.config.limits.netid),
            }
        };
        let destination = destination.filter(allowed);
        let destination =
            destination.filter(|to| arrival.hop_count == 0 && affordable(self, &to.to));
        let Some(destination) = destination else {
            self.counters.dropped_netid += 1;
            return;
        };
        let reply = Message::Netid {
            id,
            endpoint: destination.to.to_endpoint(),
        };
        // Whoever has a connection is where it says.
        if from.transport().is_stream() || self.may_reply(now, &arrival, &reply) {
            self.reply_at(now, sender, &arrival, destination, &reply);
        }
    }

    /// The other one of a relay's two sockets.
    fn second_socket(&self, socket: usize) -> Option<usize> {
        let (main, other) = match socket {
            SECOND_SOCKET.. => (socket - SECOND_SOCKET, socket - SECOND_SOCKET),
            main => (main, main + SECOND_SOCKET),
        };
        (self.direct.has_second && main < self.sockets.len()).then_some(other)
    }

    /// This relay has second sockets, one port above its main ones.
    pub fn set_second_sockets(&mut self) {
        self.direct.has_second = true;
    }

    pub(in crate::anode) fn handle_netid(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: &Arrival,
        id: u32,
        endpoint: Endpoint,
    ) {
        let questions = &mut self.direct.survey.questions;
        questions.retain(|question| now < question.at + ANSWER_WITHIN);
        let answered = |question: &Question| {
            let here = match question.purpose {
                // Sent to a socket that did not ask.
                Purpose::FilterAddress => true,
                _ => question.socket == arrival.way.socket,
            };
            question.id == id && question.peer == sender && here && arrival.hop_count == 0
        };
        let Some(index) = questions.iter().position(answered) else {
            self.counters.ignored_messages += 1;
            return;
        };
        let question = questions.remove(index);
        let rtt = now.duration_since(question.at);
        if let Purpose::Reach(place) = question.purpose {
            return self.note_reach(now, place, rtt);
        }
        let Endpoint::Udp(seen) = endpoint else {
            self.counters.refused_endpoints += 1;
            return;
        };
        // Whoever lies can name anything: nothing goes there but what the budgets of holes allow.
        if !is_dialable(&Place::Udp(seen), true) {
            self.counters.refused_endpoints += 1;
            return;
        }
        match question.purpose {
            Purpose::Mapping => {
                let Some(by) = question.to.udp() else { return };
                let socket = question.socket;
                if self.direct.survey.note(Seen { by, socket, seen }) {
                    self.places_changed += 1;
                    self.rendezvous_moved(now);
                    self.offer_again(now);
                }
            }
            Purpose::Hole(peer) => self.note_hole_seen(now, peer, question.socket, seen),
            Purpose::FilterBase => self.note_filter_base(now, seen),
            Purpose::FilterAddress => self.note_filter(now, true),
            Purpose::FilterPort => self.note_filter(now, false),
            Purpose::Reach(_) => {}
        }
    }
}

/// "Where this came from", as long as the answer.
pub(super) fn own_source(v4: bool) -> Endpoint {
    Endpoint::Udp(SocketAddr::new(unspecified(v4), 0))
}

/// The same, and the answer shall come from another port.
pub(super) fn own_source_from_second(v4: bool) -> Endpoint {
    Endpoint::Udp(SocketAddr::new(unspecified(v4), FROM_SECOND))
}

fn unspecified(v4: bool) -> IpAddr {
    match v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The second port of a relay.
pub(super) fn second_port(at: SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(at.ip(), at.port().checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(answers: &[(&str, &str)]) -> Survey {
        let mut survey = Survey::default();
        for (by, seen) in answers {
            survey.note(Seen {
                by: by.parse().unwrap(),
                socket: 0,
                seen: seen.parse().unwrap(),
            });
        }
        survey
    }

    #[test]
    fn answers_of_several_places_tell_the_mapping() {
        // RFC 4787 §4.1
        use Mapping::*;
        let (a, b, c) = ("192.0.2.1:8737", "192.0.2.1:8738", "192.0.2.2:8737");
        let (p, q, r) = (
            "198.51.100.9:4000",
            "198.51.100.9:4001",
            "198.51.100.9:61000",
        );
        type Case<'a> = (&'a [(&'a str, &'a str)], Mapping);
        let cases: &[Case] = &[
            (&[], Unknown),
            (&[(a, p)], Unknown),
            (&[(a, p), (b, p)], EndpointIndependent),
            (&[(a, p), (c, p)], EndpointIndependent),
            (&[(a, p), (c, q)], AddressPortDependent),
            (&[(a, p), (b, q)], AddressPortDependent),
            (&[(a, p), (b, p), (c, r)], AddressDependent),
            (&[(a, p), (b, q), (c, r)], AddressPortDependent),
            (&[(a, "10.0.0.2:8737")], None),
            (&[(a, p), (a, q)], Unknown),
        ];
        for (answers, mapping) in cases {
            let survey = survey(answers);
            let own = |ip: IpAddr| ip == IpAddr::from([10, 0, 0, 2]);
            assert_eq!(survey.mapping(own), *mapping, "{answers:?}");
        }
    }

    #[test]
    fn ports_that_lie_close_together_are_a_sequence() {
        let at = |port: u16| format!("198.51.100.9:{port}");
        for (ports, expected) in [
            ([40_000, 40_001, 40_002], true),
            ([40_002, 40_001, 40_030], true),
            ([40_000, 51_234, 1_200], false),
        ] {
            let seen = ports.map(at);
            let by = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"];
            let answers: Vec<_> = by
                .into_iter()
                .zip(seen.iter().map(String::as_str))
                .collect();
            assert_eq!(survey(&answers).is_sequence(), expected, "{ports:?}");
        }
        assert_eq!(step(40_000, 40_001), Some(1));
        assert_eq!(step(40_001, 39_999), Some(-2));
        assert_eq!((step(1, 1), step(1, 50_000)), (None, None));
    }

    #[test]
    fn what_was_seen_is_bounded_and_the_latest_counts() {
        let mut survey = survey(&[("192.0.2.1:1", "198.51.100.9:1")]);
        for port in 0..100 {
            let by = SocketAddr::from(([192, 0, 2, 9], port));
            let seen = "198.51.100.9:1".parse().unwrap();
            survey.note(Seen {
                by,
                socket: 0,
                seen,
            });
        }
        assert_eq!(survey.seen.len(), MAX_SEEN);
        assert_eq!(survey.external().len(), 1);
    }
}

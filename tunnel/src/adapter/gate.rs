//! The policy at work: every first packet of a peer passes here, or does not (DESIGN §6).

use std::net::Ipv6Addr;
use std::time::Instant;

use anode_wire::address::split_digit;

use crate::policy::{Flow, Flows, Policy, Protocol, Verdict, carried};

const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const IPV6_HEADER: usize = 40;
/// Of an ICMPv6 error, before the packet that it quotes (RFC 4443 §3).
const ICMP_HEADER: usize = 8;

/// First packets by verdict, for one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Let in.
    pub allow: u64,
    /// Refused; the peer was told where the protocol can say so.
    pub reject: u64,
    /// Refused in silence.
    pub drop: u64,
}

impl Verdicts {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Allow => self.allow += 1,
            Verdict::Reject => self.reject += 1,
            Verdict::Drop => self.drop += 1,
        }
    }
}

/// What the gate counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that peers opened.
    pub tcp: Verdicts,
    /// Datagrams that answer nothing of ours.
    pub udp: Verdicts,
    /// Packets of other protocols that answer nothing of ours.
    pub other: Verdicts,
    /// Packets of protocols that never cross the overlay.
    pub not_carried: u64,
    /// ICMPv6 that is no error about a live flow with its sender.
    pub icmp_unrelated: u64,
    /// Connections and other flows that a change of the policy ended.
    pub ended: u64,
}

impl Counters {
    /// The verdicts with their labels.
    pub fn verdicts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |protocol, verdicts: Verdicts| {
            [
                (protocol, "allow", verdicts.allow),
                (protocol, "reject", verdicts.reject),
                (protocol, "drop", verdicts.drop),
            ]
        };
        [
            of("tcp", self.tcp),
            of("udp", self.udp),
            of("other", self.other),
        ]
        .into_iter()
        .flatten()
    }
}

/// See the module.
#[derive(Default)]
pub struct Gate {
    policy: Policy,
    flows: Flows,
    pub(super) counters: Counters,
}

impl Gate {
    /// With the policy that is in force at the start.
    pub(super) fn new(policy: Policy) -> Self {
        Gate {
            policy,
            ..Self::default()
        }
    }

    /// From now on this is in force.
    pub(super) fn replace(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Flows without a connection that are remembered, and those forgotten too early.
    pub fn flows(&self) -> (usize, u64) {
        (self.flows.count(), self.flows.evicted())
    }

    /// A peer opens a stream to `port`.
    pub(super) fn stream(&mut self, from: Ipv6Addr, port: u16) -> Verdict {
        let (verdict, reason) = self.policy.verdict(from, Protocol::Tcp, port);
        tracing::debug!(%from, port, verdict = verdict.as_str(), %reason, "stream");
        self.counters.tcp.count(verdict);
        verdict
    }

    /// Whether a stream that was let in may stay.
    pub(super) fn allows_stream(&self, from: Ipv6Addr, port: u16) -> bool {
        self.policy.verdict(from, Protocol::Tcp, port).0 == Verdict::Allow
    }

    /// A program sends a datagram.
    pub(super) fn datagram_sent(&mut self, now: Instant, port: u16, to: Ipv6Addr, to_port: u16) {
        self.flows
            .sent(now, Flow::new(to, Protocol::Udp, port, to_port));
    }

    /// What becomes of a peer's datagram to `port`.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        from_port: u16,
        port: u16,
    ) -> Verdict {
        let flow = Flow::new(from, Protocol::Udp, port, from_port);
        if self.flows.answers(now, flow) {
            return Verdict::Allow;
        }
        let (verdict, _) = self.policy.verdict(from, Protocol::Udp, port);
        self.counters.udp.count(verdict);
        self.let_in(now, flow, verdict)
    }

    /// A program sends another protocol's packet. ICMPv6 begins nothing: errors need no answer, echo goes its own way.
    pub(super) fn other_sent(&mut self, now: Instant, to: Ipv6Addr, next_header: u8) {
        if carried(next_header) {
            self.flows
                .sent(now, Flow::new(to, Protocol::Ip(next_header), 0, 0));
        }
    }

    /// What becomes of a peer's packet of another protocol. `to` is this machine's. ICMPv6 and what is never carried is not
    /// answered: no error about an error (RFC 4443 §2.4 e).
    pub(super) fn other(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
    ) -> Verdict {
        if next_header == ICMPV6 {
            let related =
                quoted_flow(from, to, payload).is_some_and(|flow| self.flows.is_live(now, flow));
            self.counters.icmp_unrelated += u64::from(!related);
            return if related {
                Verdict::Allow
            } else {
                Verdict::Drop
            };
        }
        if !carried(next_header) {
            self.counters.not_carried += 1;
            return Verdict::Drop;
        }
        let flow = Flow::new(from, Protocol::Ip(next_header), 0, 0);
        if self.flows.answers(now, flow) {
            return Verdict::Allow;
        }
        let (verdict, _) = self.policy.verdict(from, Protocol::Ip(next_header), 0);
        self.counters.other.count(verdict);
        self.let_in(now, flow, verdict)
    }

    fn let_in(&mut self, now: Instant, flow: Flow, verdict: Verdict) -> Verdict {
        if verdict == Verdict::Allow {
            self.flows.let_in(now, flow);
        }
        verdict
    }
}

/// The flow that an ICMPv6 error of `from` is about: it must quote a packet that `to` sent to just this peer, for nobody else
/// can speak for it (S14). Unreachable, too big, time exceeded, parameter problem; nothing else passes (DESIGN §6).
fn quoted_flow(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Option<Flow> {
    let (header, quote) = message.split_at_checked(ICMP_HEADER)?;
    let (ip, rest) = quote.split_first_chunk::<IPV6_HEADER>()?;
    let address = |at: usize| {
        let bytes: [u8; 16] = ip[at..at + 16].try_into().ok()?;
        Some(split_digit(Ipv6Addr::from(bytes)).0)
    };
    let genuine = matches!(header[0], 1..=4)
        && ip[0] >> 4 == 6
        && address(8)? == split_digit(to).0
        && address(24)? == split_digit(from).0;
    if !genuine {
        return None;
    }
    match ip[6] {
        UDP => {
            let &[s1, s2, d1, d2] = rest.first_chunk()?;
            let (local, peer) = (u16::from_be_bytes([s1, s2]), u16::from_be_bytes([d1, d2]));
            Some(Flow::new(from, Protocol::Udp, local, peer))
        }
        other => carried(other).then(|| Flow::new(from, Protocol::Ip(other), 0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Given;
    use crate::policy::Otherwise;
    use crate::state::book::Book;
    use crate::zone::Members;

    const PEER: &str = "fda0::10";
    const OWN: &str = "fda0::90";

    impl Gate {
        fn passes(&mut self, now: Instant, from: Ipv6Addr, from_port: u16, port: u16) -> bool {
            self.datagram(now, from, from_port, port) == Verdict::Allow
        }

        fn passes_other(
            &mut self,
            now: Instant,
            from: Ipv6Addr,
            to: Ipv6Addr,
            next_header: u8,
            payload: &[u8],
        ) -> bool {
            self.other(now, from, to, next_header, payload) == Verdict::Allow
        }
    }

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn gate(allow: &[&str]) -> Gate {
        let rules = allow.iter().map(|text| {
            let rule: crate::policy::RuleText = text.parse().unwrap();
            rule.resolve(&Book::default(), &Given::default(), &Members::default())
                .unwrap()
        });
        Gate::new(Policy {
            otherwise: Otherwise::Reject,
            allow: rules.collect(),
            ..Policy::default()
        })
    }

    /// An ICMPv6 error of `kind` that quotes a packet of `protocol` between these.
    fn error(kind: u8, from: Ipv6Addr, to: Ipv6Addr, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut message = vec![kind, 4, 0, 0, 0, 0, 0, 0];
        message.extend([0x60, 0, 0, 0, 0, 8, protocol, 64]);
        message.extend(from.octets());
        message.extend(to.octets());
        message.extend(ports.0.to_be_bytes());
        message.extend(ports.1.to_be_bytes());
        message.extend([0, 8, 0, 0]);
        message
    }

    #[test]
    fn datagrams_pass_by_rule_or_as_answers() {
        let (now, peer) = (Instant::now(), ip(PEER));
        let mut gate = gate(&["any udp/53"]);
        assert!(gate.passes(now, peer, 40000, 53));
        assert!(!gate.passes(now, peer, 53, 40000));
        gate.datagram_sent(now, 40000, peer, 53);
        assert!(gate.passes(now, peer, 53, 40000), "an answer");
        assert!(!gate.passes(now, ip("fda0::20"), 53, 40000));
        let counted = Verdicts {
            allow: 1,
            reject: 2,
            drop: 0,
        };
        assert_eq!(gate.counters().udp, counted);
    }

    #[test]
    fn taking_a_rule_back_stops_what_it_let_in_although_it_was_answered() {
        let (now, peer) = (Instant::now(), ip(PEER));
        let mut gate = gate(&["any udp/53"]);
        assert!(gate.passes(now, peer, 40000, 53));
        gate.datagram_sent(now, 53, peer, 40000);
        gate.replace(Policy::default());
        assert!(!gate.passes(now, peer, 40000, 53));
        gate.datagram_sent(now, 53, peer, 40000);
        assert!(!gate.passes(now, peer, 40000, 53));
    }

    #[test]
    fn other_protocols_pass_by_rule_or_as_answers_and_some_never() {
        let (now, peer, own) = (Instant::now(), ip(PEER), ip(OWN));
        let mut gate = gate(&["any ip/132", "any any"]);
        assert!(gate.passes_other(now, peer, own, 132, &[]));
        assert!(gate.passes_other(now, peer, own, 47, &[]));
        assert!(gate.passes_other(now, peer, own, 253, &[]));
        for never in [0, 6, 17, 43, 44, 60, 135, 139, 140, 255] {
            assert!(!gate.passes_other(now, peer, own, never, &[]), "{never}");
        }
        gate.replace(Policy::default());
        assert_eq!(gate.other(now, peer, own, 132, &[]), Verdict::Reject);
        gate.other_sent(now, ip("fda0::20"), 132);
        assert!(gate.passes_other(now, ip("fda0::20"), own, 132, &[]));
        assert_eq!(gate.counters().not_carried, 10);
    }

    #[test]
    fn an_icmp_error_passes_only_with_a_live_flow_between_just_these_two() {
        // S14
        let (now, peer, own) = (Instant::now(), ip(PEER), ip(OWN));
        let stranger = ip("fda0::20");
        let mut gate = gate(&["any udp/53"]);
        gate.datagram_sent(now, 40000, peer, 7);
        gate.other_sent(now, peer, 132);
        assert!(gate.passes(now, peer, 40001, 53), "the peer began this one");
        let good = error(1, own, peer, UDP, (40000, 7));
        let passing = [
            good.clone(),
            error(2, own, peer, UDP, (40000, 7)),
            error(4, own, peer, UDP, (53, 40001)),
            error(1, own, peer, 132, (0, 0)),
            error(1, ip("fda0::93"), ip("fda0::15"), UDP, (40000, 7)),
        ];
        for message in &passing {
            assert!(
                gate.passes_other(now, peer, own, ICMPV6, message),
                "{message:?}"
            );
        }
        let mut not_ipv6 = good.clone();
        not_ipv6[8] = 0x45;
        let refused = [
            error(128, own, peer, UDP, (40000, 7)),
            error(0, own, peer, UDP, (40000, 7)),
            error(134, own, peer, UDP, (40000, 7)),
            error(1, peer, own, UDP, (40000, 7)),
            error(1, stranger, peer, UDP, (40000, 7)),
            error(1, own, stranger, UDP, (40000, 7)),
            error(1, own, peer, UDP, (40000, 8)),
            error(1, own, peer, UDP, (40002, 7)),
            error(1, own, peer, 6, (40000, 7)),
            error(1, own, peer, 58, (40000, 7)),
            error(1, own, peer, 47, (0, 0)),
            not_ipv6,
        ];
        for message in &refused {
            assert!(
                !gate.passes_other(now, peer, own, ICMPV6, message),
                "{message:?}"
            );
        }
        assert!(
            !gate.passes_other(now, stranger, own, ICMPV6, &good),
            "nobody speaks for another peer"
        );
        // Cut before the ports, it names no flow.
        for cut in 0..ICMP_HEADER + IPV6_HEADER + 4 {
            assert!(
                !gate.passes_other(now, peer, own, ICMPV6, &good[..cut]),
                "{cut}"
            );
        }
    }
}

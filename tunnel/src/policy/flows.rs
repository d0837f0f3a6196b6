//! Who began to speak, so that answers pass.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anode_wire::address::split_digit;

use super::Protocol;

/// A flow without a packet for this long is over; it may live up to twice as long.
const IDLE: Duration = Duration::from_secs(120);
/// Flows of one generation; two generations live, for each side.
const MAX_GENERATION: usize = 32_768;

/// A flow of a protocol without connections: the far end (digit 0) and both ports, 0 where the protocol has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    peer: Ipv6Addr,
    protocol: Protocol,
    local_port: u16,
    peer_port: u16,
}

impl Flow {
    /// `peer` with any digit: whoever holds the key is the same far end (D28).
    pub fn new(peer: Ipv6Addr, protocol: Protocol, local_port: u16, peer_port: u16) -> Self {
        Flow {
            peer: split_digit(peer).0,
            protocol,
            local_port,
            peer_port,
        }
    }
}

/// Flows in two generations: the younger becomes the older one when it is [`IDLE`] old or full. Nothing is searched or
/// sorted when the table is full, and whatever was used within [`IDLE`] is still there unless it was.
#[derive(Default)]
struct Table {
    young: HashMap<Flow, ()>,
    old: HashMap<Flow, ()>,
    turned: Option<Instant>,
    /// Flows forgotten before their time because a generation was full.
    evicted: u64,
}

impl Table {
    fn touch(&mut self, now: Instant, flow: Flow) {
        self.age(now);
        if self.young.contains_key(&flow) {
            return;
        }
        if self.young.len() >= MAX_GENERATION {
            self.evicted += self.old.len() as u64;
            self.turn(now);
        }
        self.young.insert(flow, ());
    }

    fn holds(&mut self, now: Instant, flow: Flow) -> bool {
        self.age(now);
        self.young.contains_key(&flow) || self.old.contains_key(&flow)
    }

    fn age(&mut self, now: Instant) {
        let since = *self.turned.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < IDLE {
            return;
        }
        self.turn(now);
        if age >= IDLE * 2 {
            self.old.clear();
        }
    }

    fn turn(&mut self, now: Instant) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.turned = Some(now);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// See the module. TCP needs no entry: a stream knows who opened it.
///
/// What a peer began is kept apart from what this machine began: strangers whose packets a rule lets in cannot push this
/// machine's own flows out, and an answer to them gives them no right that outlives the rule.
#[derive(Default)]
pub struct Flows {
    ours: Table,
    theirs: Table,
}

impl Flows {
    /// This machine sent a packet.
    pub fn sent(&mut self, now: Instant, flow: Flow) {
        let answers_theirs = self.theirs.holds(now, flow) && !self.ours.holds(now, flow);
        let table = if answers_theirs {
            &mut self.theirs
        } else {
            &mut self.ours
        };
        table.touch(now, flow);
    }

    /// Whether a packet of the peer answers something that this machine began; it keeps the flow alive.
    pub fn answers(&mut self, now: Instant, flow: Flow) -> bool {
        let answers = self.ours.holds(now, flow);
        if answers {
            self.ours.touch(now, flow);
        }
        answers
    }

    /// A packet of the peer that answers nothing was let in.
    pub fn let_in(&mut self, now: Instant, flow: Flow) {
        self.theirs.touch(now, flow);
    }

    /// Whether anything passed lately, whoever began it: an ICMPv6 error may speak of it.
    pub fn is_live(&mut self, now: Instant, flow: Flow) -> bool {
        self.ours.holds(now, flow) || self.theirs.holds(now, flow)
    }

    /// Entries in all.
    pub fn count(&self) -> usize {
        self.ours.len() + self.theirs.len()
    }

    /// Flows forgotten before their time because the table was full.
    pub fn evicted(&self) -> u64 {
        self.ours.evicted + self.theirs.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(local_port: u16, peer_port: u16) -> Flow {
        let peer = "fda0::10".parse().unwrap();
        Flow::new(peer, Protocol::Udp, local_port, peer_port)
    }

    #[test]
    fn answers_pass_until_the_flow_is_idle() {
        let now = Instant::now();
        let mut flows = Flows::default();
        let flow = udp(5000, 53);
        assert!(!flows.answers(now, flow));
        flows.sent(now, flow);
        let digit = Flow::new("fda0::17".parse().unwrap(), Protocol::Udp, 5000, 53);
        assert!(flows.answers(now, digit), "the same key with a peer digit");
        let mut later = now;
        for _ in 0..5 {
            later += IDLE;
            assert!(flows.answers(later, flow), "each answer keeps it alive");
        }
        assert!(!flows.answers(later + IDLE * 2, flow));
        let peer = "fda0::10".parse().unwrap();
        let other = "fda0::20".parse().unwrap();
        for wrong in [
            udp(5001, 53),
            udp(5000, 54),
            Flow::new(peer, Protocol::Ip(132), 5000, 53),
            Flow::new(other, Protocol::Udp, 5000, 53),
        ] {
            assert!(!flows.answers(later, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_to_a_peer_gives_it_no_right_of_its_own() {
        let now = Instant::now();
        let mut flows = Flows::default();
        let flow = udp(53, 5000);
        flows.let_in(now, flow);
        flows.sent(now, flow);
        assert!(!flows.answers(now, flow), "the rule decides each packet");
        assert!(flows.is_live(now, flow), "an error may speak of it");
        flows.sent(now + IDLE * 2, flow);
        assert!(
            flows.answers(now + IDLE * 2, flow),
            "by now this machine began"
        );
    }

    #[test]
    fn the_tables_are_bounded_and_what_peers_begin_pushes_nothing_of_ours_out() {
        let now = Instant::now();
        let mut flows = Flows::default();
        let own = udp(7, 7);
        flows.sent(now, own);
        for n in 0..(MAX_GENERATION as u32 * 3) {
            let peer = Ipv6Addr::from(u128::from(n) << 4);
            flows.let_in(now, Flow::new(peer, Protocol::Udp, 53, 1));
            assert!(flows.count() <= 2 * MAX_GENERATION + 1);
        }
        assert!(flows.evicted() > 0);
        assert!(flows.answers(now, own));
        for n in 0..(MAX_GENERATION as u32 * 5) {
            flows.sent(now, udp(n as u16, (n >> 16) as u16 + 1000));
            assert!(flows.count() <= 4 * MAX_GENERATION);
        }
    }
}

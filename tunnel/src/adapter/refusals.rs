//! What a peer is told about a packet that the policy refused: ICMPv6 "administratively prohibited" with the front of the
//! packet (RFC 4443 §3.1), so that its program hears of it as of any firewall's refusal. At a bounded rate (RFC 4443 §2.4 f).

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anode_wire::address::split_digit;

/// Refusals to one peer in each window.
const PER_PEER: u32 = 10;
/// To all peers together.
const IN_ALL: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);
/// Peers that are counted apart; those that fall on one slot share it.
const SLOTS: usize = 256;

/// What has been said in the present second.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since: Option<Instant>,
    count: u32,
}

impl Window {
    fn take(&mut self, now: Instant, limit: u32) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if self.since.is_none_or(over) {
            *self = Window {
                since: Some(now),
                count: 0,
            };
        }
        let allowed = self.count < limit;
        self.count += u32::from(allowed);
        allowed
    }
}

/// From which of our addresses, to which peer, and the ICMPv6 message.
type Refusal = (Ipv6Addr, Ipv6Addr, Vec<u8>);

/// Refusals that wait for the end of a turn of the loop. They are at most [`IN_ALL`], for that is their rate.
pub(super) struct Refusals {
    waiting: Vec<Refusal>,
    all: Window,
    peers: Box<[Window]>,
    hasher: RandomState,
    /// Refused packets whose sender was not told.
    pub limited: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals {
            waiting: Vec::new(),
            all: Window::default(),
            peers: vec![Window::default(); SLOTS].into_boxed_slice(),
            hasher: RandomState::new(),
            limited: 0,
        }
    }
}

impl Refusals {
    /// `own` has refused a packet of `peer`, which is to be told, if it is not told too much already. `message` makes the
    /// ICMPv6 message.
    pub fn tell(
        &mut self,
        now: Instant,
        own: Ipv6Addr,
        peer: Ipv6Addr,
        message: impl FnOnce() -> Vec<u8>,
    ) {
        let slot = self.hasher.hash_one(split_digit(peer).0) as usize % SLOTS;
        if self.peers[slot].take(now, PER_PEER) && self.all.take(now, IN_ALL) {
            self.waiting.push((own, peer, message()));
        } else {
            self.limited += 1;
        }
    }

    /// Those that wait.
    pub fn take(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_told_ten_times_a_second_and_all_together_a_hundred() {
        // S20
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let own = Ipv6Addr::LOCALHOST;
        let peer = |number: u128| Ipv6Addr::from((0xfda0 << 112) | (number << 4));
        for round in 0..50 {
            // Its digits are one peer.
            let digit = Ipv6Addr::from(u128::from(peer(1)) | (round % 16));
            refusals.tell(start, own, digit, Vec::new);
        }
        assert_eq!(refusals.take().len(), 10);
        for number in 0..1000 {
            refusals.tell(start, own, peer(number), Vec::new);
        }
        assert_eq!(refusals.take().len(), 90);
        assert_eq!(refusals.limited, 40 + 910);
        refusals.tell(start + WINDOW, own, peer(1), Vec::new);
        assert_eq!(refusals.take().len(), 1);
    }
}

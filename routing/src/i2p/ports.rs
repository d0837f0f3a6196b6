//! Ports of datagrams: those of I2CP beside those of UDP sockets (i2cp.md §2.7).
//!
//! A raw answer (18) names no sender, so that a pair of ports must stand for one destination: a program's own port is used
//! unless another destination has the pair, then a free one. And port 0, which sockets do not have, is shown as
//! [`UNSPECIFIED`].
use anode_i2cp::datagram::RawAnswers;
use anode_i2cp::destination::Hash;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What a program sees where a peer sends from port 0; what it sends there goes to port 0.
pub(super) const UNSPECIFIED: u16 = 65_535;

/// A flow that was quiet for so long is over, as with i2pd.
const LIFE: Duration = Duration::from_secs(120);
/// Ports that stand for others, and peers that send from port 0.
const MOST: usize = 1024;
/// Where free ports are looked for.
const FIRST_FREE: u16 = 49_152;

#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) raw: RawAnswers,
    /// (our port, theirs) on the wire → the program's port.
    aliases: HashMap<(u16, u16), (u16, Hash, Instant)>,
    /// (peer, our port): it sends from port 0.
    from_zero: HashMap<(Hash, u16), Instant>,
    next_free: u16,
    /// Datagrams that left from a port that another destination answers to, for want of room.
    pub(super) shared: u64,
}

impl Ports {
    /// A program sends from `local` to `remote` at `to`: the ports on the wire.
    pub(super) fn outgoing(
        &mut self,
        local: u16,
        remote: u16,
        to: Hash,
        now: Instant,
    ) -> (u16, u16) {
        let remote = match remote {
            UNSPECIFIED if self.sends_from_zero(to, local, now) => 0,
            other => other,
        };
        let local = self.own_port(local, remote, to, now);
        self.raw.sent(local, remote, to, now);
        (local, remote)
    }

    fn own_port(&mut self, local: u16, remote: u16, to: Hash, now: Instant) -> u16 {
        let is_ours = |(hash, at): (Hash, Instant)| hash == to && now < at + LIFE;
        let alias = self
            .aliases
            .iter()
            .find(|((_, r), (l, hash, at))| *r == remote && *l == local && is_ours((*hash, *at)))
            .map(|((alias, _), _)| *alias);
        if let Some(alias) = alias {
            self.aliases.insert((alias, remote), (local, to, now));
            return alias;
        }
        match self.raw.holder(local, remote, now) {
            Some(other) if other != to => {}
            _ => return local,
        }
        self.aliases.retain(|_, (_, _, at)| now < *at + LIFE);
        if self.aliases.len() >= MOST {
            self.shared += 1;
            return local;
        }
        for _ in FIRST_FREE..UNSPECIFIED {
            self.next_free = match self.next_free {
                FIRST_FREE..65_534 => self.next_free + 1,
                _ => FIRST_FREE,
            };
            if self.raw.holder(self.next_free, remote, now).is_none() {
                self.aliases
                    .insert((self.next_free, remote), (local, to, now));
                return self.next_free;
            }
        }
        local
    }

    /// A datagram of `from` came for `local`: the ports that the program sees.
    pub(super) fn incoming(
        &mut self,
        local: u16,
        remote: u16,
        from: Hash,
        now: Instant,
    ) -> (u16, u16) {
        let local = match self.aliases.get(&(local, remote)) {
            Some((program, hash, at)) if *hash == from && now < *at + LIFE => *program,
            _ => local,
        };
        if remote != 0 {
            return (local, remote);
        }
        if self.from_zero.len() >= MOST {
            self.from_zero.retain(|_, at| now < *at + LIFE);
        }
        if self.from_zero.len() < MOST || self.from_zero.contains_key(&(from, local)) {
            self.from_zero.insert((from, local), now);
        }
        (local, UNSPECIFIED)
    }

    fn sends_from_zero(&self, peer: Hash, local: u16, now: Instant) -> bool {
        let at = self.from_zero.get(&(peer, local));
        at.is_some_and(|at| now < *at + LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Hash = Hash([1; 32]);
    const B: Hash = Hash([2; 32]);

    // I68, I69
    #[test]
    fn a_pair_of_ports_stands_for_one_destination() {
        let (mut ports, now) = (Ports::default(), Instant::now());
        assert_eq!(ports.outgoing(4000, 53, A, now), (4000, 53));
        assert_eq!(ports.outgoing(4000, 53, A, now), (4000, 53));
        let (alias, remote) = ports.outgoing(4000, 53, B, now);
        assert_eq!(remote, 53);
        assert_ne!(alias, 4000);
        assert_eq!(ports.outgoing(4000, 53, B, now), (alias, 53), "it stays");
        assert_eq!(ports.raw.sender(4000, 53, now), Some(A));
        assert_eq!(ports.raw.sender(alias, 53, now), Some(B));
        assert_eq!(ports.incoming(alias, 53, B, now), (4000, 53));
        assert_eq!(ports.incoming(4000, 53, A, now), (4000, 53));
        assert_eq!(
            ports.incoming(alias, 53, A, now),
            (alias, 53),
            "not its pair"
        );
        let later = now + LIFE;
        assert_eq!(ports.outgoing(4000, 53, B, later), (4000, 53));
    }

    // I69, I70
    #[test]
    fn port_zero_has_a_number_that_sockets_know() {
        let (mut ports, now) = (Ports::default(), Instant::now());
        assert_eq!(ports.outgoing(7, UNSPECIFIED, A, now), (7, UNSPECIFIED));
        assert_eq!(ports.incoming(7, 0, A, now), (7, UNSPECIFIED));
        assert_eq!(ports.outgoing(7, UNSPECIFIED, A, now), (7, 0));
        assert_eq!(ports.outgoing(7, UNSPECIFIED, B, now).1, UNSPECIFIED);
        assert_eq!(ports.outgoing(7, UNSPECIFIED, A, now + LIFE).1, UNSPECIFIED);
    }

    #[test]
    fn what_peers_make_us_remember_is_bounded() {
        let (mut ports, now) = (Ports::default(), Instant::now());
        for n in 0..5000u16 {
            let mut peer = A;
            peer.0[..2].copy_from_slice(&n.to_be_bytes());
            ports.incoming(7, 0, peer, now);
            ports.outgoing(9, 53, peer, now);
        }
        assert!(ports.from_zero.len() <= MOST && ports.aliases.len() <= MOST);
    }
}

//! Which of the endpoints in an answer are probed at all.

use super::cidr::Cidr;
use super::scope::{Scope, scope};
use rand_core::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// The most candidates of one answer.
pub const MAX_CANDIDATES: usize = 20;
/// The most candidates of one answer in one IPv4 /24 or IPv6 /48.
pub const MAX_PER_NETWORK: usize = 3;

/// What is not probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Networks that the configuration names.
    pub deny: Vec<Cidr>,
    /// Our own sockets, as ourselves and others see them.
    pub own: Vec<SocketAddr>,
    /// Ports below belong to services that a stranger must not make us knock at.
    pub lowest_port: u16,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            deny: Vec::new(),
            own: Vec::new(),
            lowest_port: 1_024,
        }
    }
}

/// How many entries of an answer were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Not an address of another host: unspecified, multicast, loopback, link-local, overlay.
    pub scope: usize,
    /// Private, from a tracker that is not.
    pub private: usize,
    /// Our own.
    pub own: usize,
    /// Port 0 or below the lowest.
    pub port: usize,
    /// Denied by the configuration.
    pub denied: usize,
    /// Repeated.
    pub repeated: usize,
    /// More than [`MAX_PER_NETWORK`] of a network or [`MAX_CANDIDATES`] in all.
    pub surplus: usize,
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.scope += other.scope;
        self.private += other.private;
        self.own += other.own;
        self.port += other.port;
        self.denied += other.denied;
        self.repeated += other.repeated;
        self.surplus += other.surplus;
    }
}

/// What is left of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// In random order; IPv4 that was mapped into IPv6 is IPv4 here.
    pub candidates: Vec<SocketAddr>,
    /// The rest.
    pub dropped: Dropped,
}

impl Filter {
    /// Chooses from the endpoints that the tracker at `tracker` named.
    pub fn select(
        &self,
        peers: &[SocketAddr],
        tracker: IpAddr,
        rng: &mut dyn CryptoRng,
    ) -> Selection {
        let mut selection = Selection::default();
        let mut usable = BTreeSet::new();
        for peer in peers {
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            match self.refused(peer, tracker, &mut selection.dropped) {
                Some(count) => *count += 1,
                None if usable.insert(peer) => {}
                None => selection.dropped.repeated += 1,
            }
        }
        let mut usable: Vec<_> = usable.into_iter().collect();
        let mut networks: BTreeMap<IpAddr, usize> = BTreeMap::new();
        while !usable.is_empty() && selection.candidates.len() < MAX_CANDIDATES {
            let at = below(usable.len(), rng);
            let peer = usable.swap_remove(at);
            let taken = networks.entry(network(peer.ip())).or_default();
            if *taken < MAX_PER_NETWORK {
                *taken += 1;
                selection.candidates.push(peer);
            } else {
                selection.dropped.surplus += 1;
            }
        }
        selection.dropped.surplus += usable.len();
        selection
    }

    /// The counter to raise when an endpoint is not for us.
    fn refused<'a>(
        &self,
        peer: SocketAddr,
        tracker: IpAddr,
        dropped: &'a mut Dropped,
    ) -> Option<&'a mut usize> {
        match scope(peer.ip()) {
            Scope::Unusable | Scope::Loopback | Scope::LinkLocal | Scope::Overlay => {
                return Some(&mut dropped.scope);
            }
            Scope::Private if scope(tracker) == Scope::Global => return Some(&mut dropped.private),
            Scope::Private | Scope::Global => {}
        }
        if peer.port() == 0 || peer.port() < self.lowest_port {
            return Some(&mut dropped.port);
        }
        if self.own.contains(&peer) {
            return Some(&mut dropped.own);
        }
        self.deny
            .iter()
            .any(|network| network.contains(peer.ip()))
            .then_some(&mut dropped.denied)
    }
}

/// The /24 or /48 of an address.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() >> 8 << 8).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 80 << 80).into()),
    }
}

/// A number below `bound`, which is small against 2^64: the bias does not matter here.
pub(crate) fn below(bound: usize, rng: &mut dyn CryptoRng) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const PUBLIC: &str = "198.51.100.1";

    fn select(filter: &Filter, peers: &[&str], tracker: &str) -> Selection {
        let peers: Vec<SocketAddr> = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        filter.select(
            &peers,
            tracker.parse().unwrap(),
            &mut StdRng::seed_from_u64(1),
        )
    }

    #[test]
    fn what_no_peer_can_be_is_dropped_and_counted() {
        let filter = Filter {
            own: vec!["192.0.2.99:8737".parse().unwrap()],
            deny: vec!["203.0.113.0/24".parse().unwrap()],
            ..Filter::default()
        };
        let scope = |scope| Dropped {
            scope,
            ..Dropped::default()
        };
        for (peer, dropped) in [
            ("0.0.0.0:9000", scope(1)),
            ("255.255.255.255:9000", scope(1)),
            ("224.0.0.1:9000", scope(1)),
            ("127.0.0.1:9000", scope(1)),
            ("[::1]:9000", scope(1)),
            ("[::ffff:127.0.0.1]:9000", scope(1)),
            ("[fe80::1]:9000", scope(1)),
            ("[fda0::1]:9000", scope(1)),
            (
                "10.0.0.1:9000",
                Dropped {
                    private: 1,
                    ..Dropped::default()
                },
            ),
            (
                "[::ffff:192.168.0.1]:9000",
                Dropped {
                    private: 1,
                    ..Dropped::default()
                },
            ),
            (
                "[fd00::1]:9000",
                Dropped {
                    private: 1,
                    ..Dropped::default()
                },
            ),
            (
                "192.0.2.1:0",
                Dropped {
                    port: 1,
                    ..Dropped::default()
                },
            ),
            (
                "192.0.2.1:53",
                Dropped {
                    port: 1,
                    ..Dropped::default()
                },
            ),
            (
                "192.0.2.1:1023",
                Dropped {
                    port: 1,
                    ..Dropped::default()
                },
            ),
            (
                "192.0.2.99:8737",
                Dropped {
                    own: 1,
                    ..Dropped::default()
                },
            ),
            (
                "[::ffff:192.0.2.99]:8737",
                Dropped {
                    own: 1,
                    ..Dropped::default()
                },
            ),
            (
                "203.0.113.5:9000",
                Dropped {
                    denied: 1,
                    ..Dropped::default()
                },
            ),
            (
                "[::ffff:203.0.113.5]:9000",
                Dropped {
                    denied: 1,
                    ..Dropped::default()
                },
            ),
        ] {
            assert_eq!(
                select(&filter, &[peer], PUBLIC),
                Selection {
                    candidates: vec![],
                    dropped
                },
                "{peer}"
            );
        }
    }

    #[test]
    fn private_candidates_come_from_private_trackers_only() {
        let peers = ["10.0.0.1:9000", "192.0.2.1:9000", "[::ffff:192.0.2.1]:9000"];
        let found = select(&Filter::default(), &peers, "10.0.0.9");
        assert_eq!((found.candidates.len(), found.dropped.repeated), (2, 1));
        assert!(
            found.candidates.iter().all(SocketAddr::is_ipv4),
            "mapped addresses are IPv4"
        );
    }

    // S36
    #[test]
    fn ten_thousand_entries_leave_twenty_candidates() {
        let tracker = PUBLIC.parse().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let private: Vec<_> = (0..10_000u32)
            .map(|n| SocketAddr::new(IpAddr::from((0x0A00_0000 + n).to_be_bytes()), 9000))
            .collect();
        let found = Filter::default().select(&private, tracker, &mut rng);
        assert_eq!((found.candidates.len(), found.dropped.private), (0, 10_000));

        let one_network: Vec<_> = (1..=200u8)
            .map(|n| SocketAddr::new(IpAddr::from([192, 0, 2, n]), 9000))
            .collect();
        let found = Filter::default().select(&one_network, tracker, &mut rng);
        assert_eq!(
            (found.candidates.len(), found.dropped.surplus),
            (MAX_PER_NETWORK, 197)
        );

        let one_site: Vec<_> = (0..200u16)
            .map(|n| SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 1, n, 0, 0, 0, 1]), 9000))
            .collect();
        assert_eq!(
            Filter::default()
                .select(&one_site, tracker, &mut rng)
                .candidates
                .len(),
            MAX_PER_NETWORK
        );

        let spread: Vec<_> = (0..10_000u32)
            .map(|n| SocketAddr::new(IpAddr::from((0x5000_0000 + n * 256).to_be_bytes()), 9000))
            .collect();
        let first = Filter::default().select(&spread, tracker, &mut rng);
        let second = Filter::default().select(&spread, tracker, &mut rng);
        assert_eq!(
            (first.candidates.len(), first.dropped.surplus),
            (MAX_CANDIDATES, 9_980)
        );
        assert_ne!(first.candidates, second.candidates, "the choice is random");
    }

    proptest! {
        // S36
        #[test]
        fn every_selection_keeps_the_limits(bytes in proptest::collection::vec(any::<[u8; 6]>(), 0..400)) {
            let peers: Vec<_> = bytes.iter().map(|b| SocketAddr::new(IpAddr::from([b[0] % 4 + 80, 0, b[2] % 4, b[3]]), u16::from(b[4]) * 256)).collect();
            let found = Filter::default().select(&peers, PUBLIC.parse().unwrap(), &mut StdRng::seed_from_u64(2));
            prop_assert!(found.candidates.len() <= MAX_CANDIDATES);
            for one in &found.candidates {
                let near = found.candidates.iter().filter(|other| network(other.ip()) == network(one.ip())).count();
                prop_assert!(near <= MAX_PER_NETWORK && one.port() >= 1_024);
            }
            let Dropped { scope, private, own, port, denied, repeated, surplus } = found.dropped;
            let dropped = scope + private + own + port + denied + repeated + surplus;
            prop_assert_eq!(dropped + found.candidates.len(), peers.len());
        }
    }
}

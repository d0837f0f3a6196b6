//! Which of a peer's paths is used (DESIGN §7, D24).
use super::Peer;
use crate::anode::Transport;
use std::time::{Duration, Instant};

/// What one path is better in than another, the smaller the better: overdue, what stands on the way, transport, round trip.
type Rank = (bool, u8, Transport, Duration);

impl Peer {
    /// Chooses the path that is used: direct before relayed, datagrams before streams (A25), then the lower round
    /// trip, and a change only for a clear gain (D24, S17).
    pub fn choose_path(&mut self, now: Instant) {
        let best = (0..self.paths.len())
            .filter(|index| self.paths[*index].is_proven())
            .min_by_key(|index| self.rank(*index, now));
        let keep = match (self.active, best) {
            (Some(active), Some(best)) if self.paths[active].is_proven() => {
                let (old, new) = (self.rank(active, now), self.rank(best, now));
                // Asked at the same time as the newcomer and slower to answer: then the newcomer is the way the peer is at now.
                let overtaken = self.paths[active].asked_since().is_some()
                    && self.paths[best].asked_since().is_none();
                let coarse = |rank: &Rank| (rank.0, rank.1, rank.2);
                !overtaken && coarse(&new) >= coarse(&old) && new.3 * 5 >= old.3 * 4
            }
            _ => false,
        };
        if !keep {
            self.active = best;
        }
        if let Some(path) = self.active_path() {
            self.last_resort = Some((path.endpoint, path.socket));
        }
    }

    fn rank(&self, index: usize, now: Instant) -> Rank {
        let path = &self.paths[index];
        let waiting = path
            .asked_since()
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        let rtt = path.rtt.unwrap_or(Duration::MAX / 8);
        // IPv6 first, unless IPv4 is half as fast again: there is no NAT in between that forgets (DESIGN §7).
        let is_v4 = path.endpoint.udp().is_some_and(|at| at.is_ipv4());
        let rtt = rtt + if is_v4 { rtt / 2 } else { Duration::ZERO };
        (
            path.is_suspect(),
            path.distance(),
            path.endpoint.transport(),
            rtt.max(waiting),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anode::path::Origin;
    use crate::anode::peer::Standing;
    use crate::anode::sim::address;
    use std::net::SocketAddr;

    const V4: &str = "192.0.2.1:8737";
    const V6: &str = "[2001:db8::1]:8737";

    /// Which of these proven places, with their round trips in milliseconds, is used.
    fn chosen(places: &[(&str, u64)]) -> String {
        let now = Instant::now();
        let mut peer = Peer::new(now, address(1), Standing::Kept);
        for (at, rtt) in places {
            let at: SocketAddr = at.parse().unwrap();
            let path = peer.add_path(now, at.into(), 0, Origin::Configured);
            path.unwrap().prove(now, Duration::from_millis(*rtt));
        }
        peer.choose_path(now);
        peer.active_path().unwrap().endpoint.to_string()
    }

    // U7
    #[test]
    fn of_two_relays_the_nearer_by_round_trip_is_used() {
        let now = Instant::now();
        for (times, winner) in [([20, 60], 0), ([60, 20], 1), ([22, 20], 0)] {
            let mut peer = Peer::new(now, address(1), Standing::Kept);
            for (number, rtt) in times.into_iter().enumerate() {
                let at = SocketAddr::from(([192, 0, 2, number as u8 + 1], 8737));
                let path = peer
                    .add_path(now, at.into(), 0, Origin::Configured)
                    .unwrap();
                path.hops = 1;
                path.prove(now, Duration::from_millis(rtt));
                // Each is looked at as its answer comes: a small gain is no reason to change.
                peer.choose_path(now);
            }
            let used = peer.active_path().unwrap().endpoint.udp().unwrap();
            assert_eq!(
                used.ip().to_string(),
                format!("192.0.2.{}", winner + 1),
                "{times:?}"
            );
        }
    }

    #[test]
    fn ipv6_comes_first_unless_ipv4_is_half_as_fast_again() {
        for (v4, v6, winner) in [
            (20, 20, V6),
            (20, 25, V6),
            (20, 29, V6),
            (20, 31, V4),
            (20, 200, V4),
        ] {
            for places in [[(V4, v4), (V6, v6)], [(V6, v6), (V4, v4)]] {
                let used = chosen(&places);
                assert_eq!(used, format!("udp://{winner}"), "{v4} ms and {v6} ms");
            }
        }
    }
}

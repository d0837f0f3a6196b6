//! Connection ids that need no state: the first 8 bytes of CMAC(random key, IP ‖ minute).

use crate::udp::packet::ConnectionId;
use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use rand_core::CryptoRng;
use std::net::IpAddr;

/// How many minutes before the current one count: an id lives 2 to 3 minutes (BEP 15 asks for 2).
const EARLIER_MINUTES: u64 = 2;

pub(super) struct Cookies {
    mac: Cmac<Aes128>,
}

impl Cookies {
    pub(super) fn new(rng: &mut dyn CryptoRng) -> Self {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Self {
            mac: Cmac::new(&key.into()),
        }
    }

    /// The id of a source in a minute. The port is not in it: a client may send from another one.
    pub(super) fn issue(&self, ip: IpAddr, minute: u64) -> ConnectionId {
        let mut mac = self.mac.clone();
        match ip {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(&minute.to_be_bytes());
        let tag: [u8; 16] = mac.finalize().into_bytes().into();
        let mut id = [0; 8];
        id.copy_from_slice(&tag[..8]);
        ConnectionId(id)
    }

    pub(super) fn check(&self, id: ConnectionId, ip: IpAddr, minute: u64) -> bool {
        let earliest = minute.saturating_sub(EARLIER_MINUTES);
        (earliest..=minute).rev().any(|minute| {
            // two numbers: the comparison takes the same time whichever bytes differ
            u64::from_ne_bytes(self.issue(ip, minute).0) == u64::from_ne_bytes(id.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn an_id_holds_for_its_source_and_two_more_minutes() {
        let mut rng = StdRng::seed_from_u64(1);
        let (cookies, others) = (Cookies::new(&mut rng), Cookies::new(&mut rng));
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let id = cookies.issue(ip, 10);
            for (minute, good) in [(9, false), (10, true), (11, true), (12, true), (13, false)] {
                assert_eq!(cookies.check(id, ip, minute), good, "{minute}");
            }
            for other in ["192.0.2.2", "2001:db8::2", "::ffff:192.0.2.1"] {
                assert!(!cookies.check(id, other.parse().unwrap(), 10));
            }
            assert!(!others.check(id, ip, 10), "the key is random");
        }
        assert!(cookies.check(
            cookies.issue([0, 0, 0, 1].into(), 0),
            [0, 0, 0, 1].into(),
            1
        ));
    }
}

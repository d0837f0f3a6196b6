//! LeaseSet2: where and with which key we can be reached, signed (i2cp.md §2.5).
use crate::codec::{Mapping, Put as _};
use crate::keys::LocalDestination;
use crate::message::Lease;

/// The number of the only encryption type made here (I25).
pub(crate) const X25519: u16 = 4;
/// The store type, which is signed but not part of the lease set.
pub(crate) const STANDARD: u8 = 3;
/// No lease set may last longer, in seconds.
const LONGEST: u64 = 660;
const UNPUBLISHED: u16 = 2;
const BLINDED: u16 = 4;
/// Most leases of one set.
pub(crate) const MOST_LEASES: usize = 16;

/// What a lease set says.
pub(crate) struct LeaseSet<'a> {
    pub(crate) keys: &'a LocalDestination,
    /// The public half of the X25519 key.
    pub(crate) encryption: &'a [u8; 32],
    /// Seconds since 1970 by the router's clock, later than that of the one before.
    pub(crate) published_s: u32,
    pub(crate) unpublished: bool,
    /// It will be published in an encrypted one.
    pub(crate) blinded: bool,
    pub(crate) options: &'a Mapping,
    /// 1 to 16.
    pub(crate) leases: &'a [Lease],
}

impl LeaseSet<'_> {
    /// Seconds from publication to the end of the last lease.
    pub(crate) fn lifetime_s(&self) -> u16 {
        let last_s = self.leases.iter().map(|lease| lease.end_ms / 1000).max();
        let life = last_s
            .unwrap_or(0)
            .saturating_sub(u64::from(self.published_s));
        life.min(LONGEST) as u16
    }

    /// The bytes, with the signature.
    pub(crate) fn signed(&self) -> Vec<u8> {
        let flags = match (self.blinded, self.unpublished) {
            // the one inside an encrypted set counts as unpublished
            (true, _) => BLINDED | UNPUBLISHED,
            (false, true) => UNPUBLISHED,
            (false, false) => 0,
        };
        let mut out = vec![STANDARD];
        out.put(self.keys.destination().as_bytes());
        out.put_u32(self.published_s);
        out.put_u16(self.lifetime_s());
        out.put_u16(flags);
        self.options.put(&mut out);
        out.put_u8(1);
        out.put_u16(X25519);
        out.put_u16(32);
        out.put(self.encryption);
        out.put_u8(self.leases.len() as u8);
        for lease in self.leases {
            out.put(&lease.gateway);
            out.put_u32(lease.tunnel);
            out.put_u32(u32::try_from(lease.end_ms / 1000).unwrap_or(u32::MAX));
        }
        let signature = self.keys.sign(&out);
        out.put(&signature);
        out.remove(0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{SessionId, create_lease_set};
    use crate::vectors::{array, hex, keys, vector};

    fn leases() -> [Lease; 2] {
        [
            Lease {
                gateway: [0x11; 32],
                tunnel: 0x0102_0304,
                end_ms: 1_700_000_500_999,
            },
            Lease {
                gateway: [0x22; 32],
                tunnel: 0x0506_0708,
                end_ms: 1_700_000_600_999,
            },
        ]
    }

    // I14, I57, I75
    #[test]
    fn the_lease_sets_of_the_vectors_are_made() {
        let (a, private) = (keys("A"), array("/A/x25519_private"));
        for which in ["create_leaseset2", "create_leaseset2_with_option"] {
            let mut options = Mapping::new();
            for (key, value) in vector(&format!("/{which}/options")).as_object().unwrap() {
                options.set(key, value.as_str().unwrap()).unwrap();
            }
            let lease_set = LeaseSet {
                keys: &a,
                encryption: &array("/A/x25519_public"),
                published_s: 1_700_000_000,
                unpublished: false,
                blinded: false,
                options: &options,
                leases: &leases(),
            };
            let message = create_lease_set(SessionId(4660), 3, &lease_set.signed(), &private);
            assert_eq!(message, hex(&format!("/{which}/message")));
            // the signing key is in no message (I75)
            let seed = hex("/A/signing_seed");
            assert!(!message.windows(32).any(|part| part == seed));
        }
    }

    // I22
    #[test]
    fn flags_and_lifetime_keep_their_bounds() {
        let a = keys("A");
        let make = |unpublished, blinded, end_ms| {
            let leases = [Lease {
                end_ms,
                ..leases()[0]
            }];
            let set = LeaseSet {
                keys: &a,
                encryption: &array("/A/x25519_public"),
                published_s: 1_700_000_000,
                unpublished,
                blinded,
                options: &Mapping::new(),
                leases: &leases,
            };
            let bytes = set.signed();
            (
                u16::from_be_bytes([bytes[395], bytes[396]]),
                u16::from_be_bytes([bytes[397], bytes[398]]),
            )
        };
        assert_eq!(make(false, false, 1_700_000_600_000), (600, 0));
        assert_eq!(make(true, false, 1_700_009_999_000), (660, 2));
        assert_eq!(make(false, true, u64::MAX), (660, 6));
        assert_eq!(make(false, false, 0), (0, 0));
    }
}

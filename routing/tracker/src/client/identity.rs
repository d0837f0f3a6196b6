//! Who we are to trackers: another one in every swarm and every run.

use crate::rendezvous::hmac_sha1;
use crate::types::{InfoHash, Key, PeerId};

const PREFIX: &[u8; 8] = b"-AN0100-";

/// Peer ids and keys of one run. Derived, not stored: the same swarm gets the same ones for the whole run however
/// often it comes and goes (B7), and two swarms cannot be linked.
pub(super) struct Identity {
    secret: [u8; 32],
}

impl Identity {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    pub(super) fn of(&self, hash: &InfoHash) -> (PeerId, Key) {
        let bytes = hmac_sha1(&self.secret, &hash.0);
        let mut id = [0; 20];
        id[..8].copy_from_slice(PREFIX);
        id[8..].copy_from_slice(&bytes[..12]);
        (
            PeerId(id),
            Key(u32::from_be_bytes([
                bytes[12], bytes[13], bytes[14], bytes[15],
            ])),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // B6, B7, B8
    #[test]
    fn ids_and_keys_differ_by_swarm_and_run_and_stay_the_same_within() {
        let (run, other) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let (a, b) = (InfoHash([1; 20]), InfoHash([2; 20]));
        assert_eq!(run.of(&a), run.of(&a));
        assert!(run.of(&a).0.0.starts_with(b"-AN0100-"));
        let all = [run.of(&a), run.of(&b), other.of(&a)];
        for (at, one) in all.iter().enumerate() {
            for two in &all[at + 1..] {
                assert!(one.0 != two.0 && one.1 != two.1);
            }
        }
        // 32 bits of entropy: every bit of the key moves
        let keys: Vec<u32> = (0..64).map(|n| run.of(&InfoHash([n; 20])).1.0).collect();
        assert_eq!(keys.iter().fold(0, |seen, key| seen | key), u32::MAX);
        assert_eq!(keys.iter().fold(u32::MAX, |seen, key| seen & key), 0);
    }
}

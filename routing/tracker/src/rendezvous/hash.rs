//! The info hash of a rendezvous and when it changes.

use crate::types::InfoHash;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const LABEL: &[u8] = b"anode rendezvous v1\0";
const DAY: u64 = 86_400;
/// Both hashes are in force this long before and after a change, for clocks that differ.
const OVERLAP: u64 = 3_600;

/// `HMAC-SHA1(secret, "anode rendezvous v1" ‖ 00 ‖ zone ‖ epoch)`. An empty secret is the zone's public rendezvous.
pub fn info_hash(secret: &[u8], zone: [u8; 4], epoch: u64) -> InfoHash {
    let mut input = [0; LABEL.len() + 4 + 8];
    input[..20].copy_from_slice(LABEL);
    input[20..24].copy_from_slice(&zone);
    input[24..].copy_from_slice(&epoch.to_be_bytes());
    InfoHash(hmac_sha1(secret, &input))
}

pub(crate) fn hmac_sha1(key: &[u8], input: &[u8]) -> [u8; 20] {
    // HMAC takes keys of every length
    #[allow(clippy::unwrap_used)]
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(input);
    mac.finalize().into_bytes().into()
}

/// Whether the hash changes with time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// Epoch 0 for ever; what trackers with a list of hashes need.
    #[default]
    Off,
    /// A new epoch every day at midnight UTC.
    Daily,
}

/// The epochs in force at `unix` seconds: one, or two within an hour of a change, the current one first.
pub fn epochs_in_force(rotation: Rotation, unix: u64) -> impl Iterator<Item = u64> {
    let (current, other) = match rotation {
        Rotation::Off => (0, None),
        Rotation::Daily => {
            let (day, second) = (unix / DAY, unix % DAY);
            let previous = (second < OVERLAP).then(|| day.checked_sub(1)).flatten();
            (
                day,
                previous.or((second >= DAY - OVERLAP).then_some(day + 1)),
            )
        }
    };
    std::iter::once(current).chain(other)
}

/// The `unix` second at which [`epochs_in_force`] changes next; never without rotation.
pub fn next_change(rotation: Rotation, unix: u64) -> Option<u64> {
    let midnight = unix - unix % DAY;
    match rotation {
        Rotation::Off => None,
        Rotation::Daily => [OVERLAP, DAY - OVERLAP, DAY]
            .into_iter()
            .map(|second| midnight + second)
            .find(|change| *change > unix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::{hex, vectors};

    #[test]
    fn info_hashes_match_the_vectors() {
        for vector in vectors("rendezvous_info_hash") {
            let zone = hex(&vector["zone"]).try_into().unwrap();
            let hash = info_hash(
                &hex(&vector["secret"]),
                zone,
                vector["epoch"].as_u64().unwrap(),
            );
            assert_eq!(hash.0.to_vec(), hex(&vector["info_hash"]));
        }
    }

    #[test]
    fn both_neighbours_are_in_force_within_an_hour_of_a_change() {
        for (unix, epochs) in [
            (20_000 * DAY, vec![20_000, 19_999]),
            (20_000 * DAY + 3_599, vec![20_000, 19_999]),
            (20_000 * DAY + 3_600, vec![20_000]),
            (20_000 * DAY + DAY - 3_601, vec![20_000]),
            (20_000 * DAY + DAY - 3_600, vec![20_000, 20_001]),
            (20_000 * DAY + DAY - 1, vec![20_000, 20_001]),
            (0, vec![0]),
        ] {
            assert_eq!(
                epochs_in_force(Rotation::Daily, unix).collect::<Vec<_>>(),
                epochs,
                "{unix}"
            );
            assert_eq!(
                epochs_in_force(Rotation::Off, unix).collect::<Vec<_>>(),
                [0]
            );
        }
    }

    #[test]
    fn the_next_change_is_when_the_epochs_differ() {
        let epochs = |unix| epochs_in_force(Rotation::Daily, unix).collect::<Vec<_>>();
        for start in [
            20_000 * DAY,
            20_000 * DAY + 3_600,
            20_000 * DAY + 50_000,
            20_001 * DAY - 1,
        ] {
            let change = next_change(Rotation::Daily, start).unwrap();
            assert_eq!(epochs(start), epochs(change - 1));
            assert_ne!(epochs(change - 1), epochs(change));
        }
        assert_eq!(next_change(Rotation::Off, 1), None);
    }
}

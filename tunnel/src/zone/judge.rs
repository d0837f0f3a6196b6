//! Whether a file is taken: for this zone, by the key that vouched for it before, and not older than what was taken.

use anode_wire::Zone;
use anode_wire::zonefile::{Fault, Report, ZoneFile, ZoneKey};

/// What is expected of the next file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The own zone.
    pub zone: Zone,
    /// The key that signed the first signed file: from then on no other counts.
    pub pin: Option<ZoneKey>,
    /// The highest revision that was taken.
    pub revision: u64,
}

/// Why a file is not taken. The one in use stays.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A fault that is fatal.
    #[error("{0}")]
    Faulty(Fault),
    /// Of somebody else.
    #[error("it is for zone {found}, and this is zone {expected}")]
    OtherZone {
        /// The file's.
        found: Zone,
        /// The own.
        expected: Zone,
    },
    /// Forged, or the zone has a new key.
    #[error(
        "it is signed by {found}, and this zone's key is {pin}: it is forged, or the zone has a new key; if its operator says so, run `anode zone accept {found}`"
    )]
    OtherKey {
        /// Who signed it.
        found: ZoneKey,
        /// Who should have.
        pin: ZoneKey,
    },
    /// Forged, or the operator forgot.
    #[error(
        "it is not signed, and this zone's files are signed by {pin}: `anode zone sign` does it"
    )]
    Unsigned {
        /// Who should have signed it.
        pin: ZoneKey,
    },
    /// Somebody shows an old one.
    #[error(
        "its revision {found} is older than {known}, which was taken before; raise r= (`anode zone sign` does), or take it all the same with `anode zone refresh --force`"
    )]
    RolledBack {
        /// The file's.
        found: u64,
        /// The highest taken.
        known: u64,
    },
}

impl Expected {
    /// The file, with all that is wrong with it and not fatal.
    pub fn judge(&self, bytes: &[u8]) -> Result<(ZoneFile, Vec<Fault>), Refusal> {
        let (file, faults) = match ZoneFile::check(bytes) {
            Report {
                zone: Some(file),
                faults,
            } => (file, faults),
            Report { faults, .. } => {
                let fatal = faults.into_iter().next();
                // a report without a file begins with a fatal fault
                return Err(Refusal::Faulty(fatal.expect("the fault that was fatal")));
            }
        };
        if let Some(found) = file.zone().filter(|found| *found != self.zone) {
            let expected = self.zone;
            return Err(Refusal::OtherZone { found, expected });
        }
        match (self.pin, file.signer()) {
            (Some(pin), Some(found)) if pin != found => {
                return Err(Refusal::OtherKey { found, pin });
            }
            (Some(pin), None) => return Err(Refusal::Unsigned { pin }),
            _ => {}
        }
        if file.revision() < self.revision {
            return Err(Refusal::RolledBack {
                found: file.revision(),
                known: self.revision,
            });
        }
        Ok((file, faults))
    }

    /// What is expected after `file` was taken.
    pub fn after(self, file: &ZoneFile) -> Self {
        Self {
            pin: self.pin.or(file.signer()),
            revision: file.revision(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anode_wire::zonefile::{MIN_TTL, ZoneSigner};
    use rand::SeedableRng;

    const ZONE: Zone = Zone(0x2a);

    fn signer(seed: u64) -> ZoneSigner {
        ZoneSigner::generate(&mut rand::rngs::StdRng::seed_from_u64(seed))
    }

    fn file(zone: Zone, revision: u64, signer: Option<&ZoneSigner>) -> Vec<u8> {
        let mut file = ZoneFile::new("n", "d", "c", revision, MIN_TTL);
        if let Some(signer) = signer {
            file.sign(zone, signer);
        }
        file.emit()
    }

    // D4, S27
    #[test]
    fn a_file_must_be_of_this_zone_of_its_key_and_not_older() {
        let (own, other) = (signer(1), signer(2));
        let fresh = Expected {
            zone: ZONE,
            pin: None,
            revision: 0,
        };
        let pinned = fresh.after(&fresh.judge(&file(ZONE, 5, Some(&own))).unwrap().0);
        assert_eq!((pinned.pin, pinned.revision), (Some(own.public()), 5));
        let forged = String::from_utf8(file(ZONE, 5, Some(&own)))
            .unwrap()
            .replace("r=5", "r=6");
        for (expected, bytes, refusal) in [
            (fresh, file(ZONE, 0, None), None),
            (fresh, file(ZONE, 1, Some(&other)), None),
            (pinned, file(ZONE, 5, Some(&own)), None),
            (pinned, file(ZONE, u64::MAX, Some(&own)), None),
            (
                pinned,
                file(ZONE, 4, Some(&own)),
                Some("revision 4 is older than 5"),
            ),
            (pinned, file(ZONE, 9, Some(&other)), Some("signed by")),
            (pinned, file(ZONE, 9, None), Some("it is not signed")),
            (
                pinned,
                file(Zone(0x2b), 9, Some(&own)),
                Some("it is for zone 0000002b"),
            ),
            (
                fresh,
                file(Zone(0x2b), 9, Some(&own)),
                Some("it is for zone 0000002b"),
            ),
            (fresh, forged.into_bytes(), Some("sig= is not by key=")),
            (fresh, b"<html>".to_vec(), Some("the entry n= is missing")),
            (fresh, Vec::new(), Some("the entry n= is missing")),
        ] {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            match (expected.judge(&bytes), refusal) {
                (Ok(_), None) => {}
                (Err(error), Some(message)) => {
                    assert!(error.to_string().contains(message), "{error}");
                }
                (result, _) => panic!("{shown}: {result:?}"),
            }
        }
    }
}

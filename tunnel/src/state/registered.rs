//! `registered.toml`, of a relay: who is registered, and where. Read at the start, so that a relay that was away for a moment
//! costs its peers no more than that moment; losing it costs them up to 25 s.

use std::time::Duration;

use anode_routing::anode::{Destination, Place, Registration};
use anode_wire::{Endpoint, PeerId};
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir, notes};
use crate::Error;
use crate::clock::unix;
use crate::value::parse_address;

const NAME: &str = "registered.toml";

/// An entry is less than 250 bytes; more than these were never written.
const MAX_BYTES: u64 = 250 * 100_000;

#[derive(Serialize, Deserialize, Default)]
struct File {
    #[serde(default)]
    peer: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    address: String,
    digit: u8,
    endpoint: String,
    /// Which of the relay's sockets it is reached from, in the order of its `listen`.
    socket: usize,
    /// Our own address that it knows.
    source: Option<std::net::IpAddr>,
    /// Seconds since 1970 until which it is good.
    until: u64,
}

impl Entry {
    fn new(known: &Registration, now: u64) -> Self {
        Self {
            address: known.address.to_string(),
            digit: known.digit.get(),
            endpoint: known.at.to.to_string(),
            socket: known.at.socket,
            source: known.at.source,
            until: now + known.left.as_secs(),
        }
    }

    fn registration(&self, now: u64) -> Option<Registration> {
        let endpoint: Endpoint = self.endpoint.parse().ok()?;
        let left = self.until.checked_sub(now)?;
        Some(Registration {
            address: parse_address(&self.address).ok()?,
            digit: PeerId::new(self.digit)?,
            at: Destination {
                to: Place::from_endpoint(&endpoint)?,
                socket: self.socket,
                source: self.source,
            },
            left: Duration::from_secs(left),
        })
    }
}

/// Who was registered, as far as that is still good; empty, with a warning in the log, when the file is of no use.
pub fn load(dir: &StateDir) -> Vec<Registration> {
    let file: Option<File> = notes::load(dir, NAME, MAX_BYTES, "registrations");
    let now = unix();
    let entries = file.into_iter().flat_map(|file| file.peer);
    entries
        .filter_map(|entry| entry.registration(now))
        .collect()
}

/// Replaces the file. What is reached by a connection is left out: connections do not outlive us.
pub fn save(state: &LockedState, peers: &[Registration]) -> Result<(), Error> {
    let now = unix();
    let datagrams = peers.iter().filter(|known| known.at.to.udp().is_some());
    let file = File {
        peer: datagrams.map(|known| Entry::new(known, now)).collect(),
    };
    notes::save(state, NAME, &file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::TestDir;
    use anode_wire::{Identity, Zone};

    fn registration(endpoint: &str, left: u64) -> Registration {
        let identity = Identity::from_scalar(Zone(0), &[7; 32]).unwrap();
        Registration {
            address: *identity.address(),
            digit: PeerId::new(3).unwrap(),
            at: Destination {
                to: Place::from_endpoint(&endpoint.parse().unwrap()).unwrap(),
                socket: 1,
                source: Some("192.0.2.1".parse().unwrap()),
            },
            left: Duration::from_secs(left),
        }
    }

    #[test]
    fn registrations_survive_the_disk_as_long_as_they_are_good() {
        // D40
        let directory = TestDir::new();
        let dir = || StateDir::find(Some(directory.path())).unwrap();
        assert_eq!(load(&dir()), [], "there is no file yet");
        let state = dir().lock().unwrap();
        let good = registration("udp://198.51.100.7:4000", 100);
        let connection = registration("tcp://198.51.100.7:4000", 100);
        save(&state, &[good.clone(), connection]).unwrap();
        let loaded = load(&dir());
        assert_eq!(loaded.len(), 1, "connections end with the process");
        assert_eq!((loaded[0].address, loaded[0].at), (good.address, good.at));
        assert!(loaded[0].left <= good.left && loaded[0].left > Duration::from_secs(95));
        save(&state, &[registration("udp://198.51.100.7:4000", 0)]).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(load(&dir()), [], "its time is over");
        std::fs::write(dir().file("registered.toml"), "peer = 7").unwrap();
        assert_eq!(load(&dir()), [], "a damaged file costs nothing but time");
    }
}

//! `sessions.toml`: what sessions have taught about peers (Q5, Q13, Q23): the last timestamps, who seals, who does ML-KEM.
//! Losing it costs a round trip, and what was pinned; a damaged one is left out with a warning.

use anode_wire::PeerId;
use anode_wire::sealed::{Pair, Record, Timestamp};
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir, notes};
use crate::Error;
use crate::value::parse_address;

const NAME: &str = "sessions.toml";

/// Peers that are kept: as many as the node knows.
const MAX_ENTRIES: usize = 8192;
/// An entry is less than 200 bytes.
const MAX_BYTES: u64 = 200 * MAX_ENTRIES as u64;

#[derive(Serialize, Deserialize, Default)]
struct File {
    #[serde(default)]
    peer: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    address: String,
    /// Peer digit.
    digit: u8,
    /// Microseconds since 1970.
    sent: i64,
    seen: i64,
    pq: bool,
    sealed: bool,
}

impl From<&Record> for Entry {
    fn from(record: &Record) -> Self {
        // TOML knows signed numbers; these microseconds are of the next 290,000 years.
        let number = |timestamp: Timestamp| i64::try_from(timestamp.0).unwrap_or(i64::MAX);
        Self {
            address: record.pair.address.to_string(),
            digit: record.pair.peer.get(),
            sent: number(record.sent),
            seen: number(record.seen),
            pq: record.pq,
            sealed: record.sealed,
        }
    }
}

impl Entry {
    fn record(&self) -> Option<Record> {
        let time = |number: i64| u64::try_from(number).ok().map(Timestamp);
        Some(Record {
            pair: Pair {
                address: parse_address(&self.address).ok()?,
                peer: PeerId::new(self.digit)?,
            },
            sent: time(self.sent)?,
            seen: time(self.seen)?,
            pq: self.pq,
            sealed: self.sealed,
        })
    }
}

/// What earlier runs knew; empty, with a warning in the log, when the file is of no use.
pub fn load(dir: &StateDir) -> Vec<Record> {
    let file: Option<File> = notes::load(dir, NAME, MAX_BYTES, "pins");
    let entries = file.into_iter().flat_map(|file| file.peer);
    entries.filter_map(|entry| entry.record()).collect()
}

/// Replaces the file.
pub fn save(state: &LockedState, records: &[Record]) -> Result<(), Error> {
    let file = File {
        peer: records.iter().take(MAX_ENTRIES).map(Entry::from).collect(),
    };
    notes::save(state, NAME, &file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::TestDir;

    #[test]
    fn pins_survive_a_restart_and_a_damaged_file_is_left_out() {
        let test = TestDir::new();
        let dir = StateDir::find(Some(test.path())).unwrap();
        assert_eq!(load(&dir), []);
        let record = Record {
            pair: Pair {
                address: "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw"
                    .parse()
                    .unwrap(),
                peer: PeerId::new(3).unwrap(),
            },
            sent: Timestamp(1_795_000_000_000_001),
            seen: Timestamp(7),
            pq: true,
            sealed: true,
        };
        let state = dir.clone().lock().unwrap();
        save(&state, &[record, record]).unwrap();
        assert_eq!(load(&dir), [record, record]);
        std::fs::write(dir.file("sessions.toml"), "[[peer]]\naddress = 3\n").unwrap();
        assert_eq!(load(&dir), []);
        // One entry that cannot be: the others count.
        save(&state, &[record]).unwrap();
        let text = std::fs::read_to_string(dir.file("sessions.toml")).unwrap();
        let bad = text.replace("digit = 3", "digit = 16");
        std::fs::write(dir.file("sessions.toml"), format!("{text}{bad}")).unwrap();
        assert_eq!(load(&dir), [record]);
    }
}

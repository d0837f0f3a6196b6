//! What the state directory keeps of the own zone: the last good file, and what is remembered about it.
//!
//! The record says which key is pinned and which revision was the highest: a copy that is lost costs a fetch, a record that
//! is lost would make the next signed file a first one again.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anode_platform::files::write_atomic;
use anode_wire::Zone;
use anode_wire::zonefile::{MAX_LEN, Reach, ZoneKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::judge::Expected;
use crate::Error;
use crate::state::{LockedState, StateDir};

/// Five short lines.
const RECORD_MAX: u64 = 16 * 1024;

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// The key of the first signed file, or the one that was accepted since: no other counts.
    key: Option<String>,
    /// The highest revision that was taken.
    pub revision: u64,
    /// Where the copy came from.
    pub source: String,
    /// Its Last-Modified.
    pub modified: Option<String>,
    /// When it was seen last, in seconds since 1970.
    fetched: u64,
    /// What its relays may be.
    reach: Kept,
    /// SHA-256 of the copy: whether the two files belong together.
    sha256: String,
}

/// [`Reach`] as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kept {
    #[default]
    Public,
    Private,
    Local,
}

impl Record {
    /// The pinned key.
    pub fn pin(&self) -> Option<ZoneKey> {
        // checked when the record was read or made
        self.key.as_deref().and_then(|key| key.parse().ok())
    }

    /// What the next file must be.
    pub fn expected(&self, zone: Zone) -> Expected {
        Expected {
            zone,
            pin: self.pin(),
            revision: self.revision,
        }
    }

    /// The operator says that this key counts from now on, with whatever revision.
    pub fn accept(&mut self, key: ZoneKey) {
        self.key = Some(key.to_string());
        self.revision = 0;
    }

    /// A file was taken.
    pub fn take(&mut self, expected: Expected, bytes: &[u8], source: String, reach: Reach) {
        self.key = expected.pin.map(|key| key.to_string());
        self.revision = expected.revision;
        self.source = source;
        self.sha256 = digest(bytes);
        self.reach = match reach {
            Reach::Public => Kept::Public,
            Reach::Private => Kept::Private,
            Reach::Local => Kept::Local,
        };
        self.seen();
    }

    /// It was looked for and is what we have.
    pub fn seen(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // a clock before 1970 knows no age
        self.fetched = now.map_or(0, |now| now.as_secs());
    }

    /// When it was seen last.
    pub fn fetched(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.fetched)
    }

    /// How far inside the relays of the copy may be.
    pub fn reach(&self) -> Reach {
        match self.reach {
            Kept::Public => Reach::Public,
            Kept::Private => Reach::Private,
            Kept::Local => Reach::Local,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The two files.
#[derive(Clone, Debug)]
pub struct Store {
    record: PathBuf,
    copy: PathBuf,
}

impl Store {
    /// For a zone.
    pub fn new(dir: &StateDir, zone: Zone) -> Self {
        Self {
            record: dir.file(&format!("zone-{zone}.toml")),
            copy: dir.file(&format!("zone-{zone}")),
        }
    }

    /// What is there. A record that cannot be read is an error: the pinned key is in it.
    pub fn load(&self) -> Result<(Record, Option<Vec<u8>>), Error> {
        let wrong = |problem: String| {
            let place = self.record.display().to_string();
            let fix =
                "restore it from a backup, or remove it, and the next signed zone file is believed";
            Error::invalid(place, format!("{problem}; {fix}"))
        };
        let record = match read(&self.record, RECORD_MAX) {
            Ok(None) => return Ok((Record::default(), None)),
            Ok(Some(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                let record: Record = toml::from_str(&text)
                    .map_err(|error| wrong(error.message().replace('\n', " ")))?;
                match record.key.as_deref().map(str::parse::<ZoneKey>) {
                    Some(Err(error)) => return Err(wrong(format!("key: {error}"))),
                    _ => record,
                }
            }
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        };
        let copy = match read(&self.copy, MAX_LEN as u64) {
            Ok(copy) => copy.filter(|bytes| digest(bytes) == record.sha256),
            Err(error) => {
                tracing::warn!("{}: {error}: doing without", self.copy.display());
                None
            }
        };
        Ok((record, copy))
    }

    /// Writes the record, and the copy where there is a new one. The record first: a crash in between leaves a copy that
    /// is not believed, and never one whose key was forgotten.
    pub fn save(&self, _: &LockedState, record: &Record, copy: Option<&[u8]>) -> Result<(), Error> {
        let text = toml::to_string(record)
            .map_err(|error| Error::refused(format!("cannot write the zone's record: {error}")))?;
        write_atomic(&self.record, text.as_bytes(), 0o600)?;
        if let Some(bytes) = copy {
            write_atomic(&self.copy, bytes, 0o600)?;
        }
        Ok(())
    }
}

/// A file of at most `max` bytes; `None`: there is no such file.
pub fn read(path: &std::path::Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::File::options()
        .read(true)
        // without waiting for the other end of a pipe
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it has more than {max} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::TestDir;

    const ZONE: Zone = Zone(0x2a);

    #[test]
    fn what_was_saved_is_there_again_and_a_copy_of_another_record_is_not_believed() {
        let dir = TestDir::new();
        let state = StateDir::find(Some(dir.path())).unwrap().lock().unwrap();
        let store = Store::new(state.dir(), ZONE);
        assert_eq!(store.load().unwrap(), (Record::default(), None));
        let expected = Expected {
            zone: ZONE,
            pin: None,
            revision: 7,
        };
        let mut record = Record::default();
        record.take(expected, b"file", "http://x/z".into(), Reach::Private);
        record.modified = Some("Sat".into());
        store.save(&state, &record, Some(b"file")).unwrap();
        assert_eq!(
            store.load().unwrap(),
            (record.clone(), Some(b"file".to_vec()))
        );
        assert_eq!(
            (record.expected(ZONE), record.reach()),
            (expected, Reach::Private)
        );
        // a crash between the two writes
        record.take(expected, b"newer", "http://x/z".into(), Reach::Public);
        store.save(&state, &record, None).unwrap();
        assert_eq!(store.load().unwrap().1, None);
    }

    // S27: without its record the next signed file would be a first one
    #[test]
    fn a_record_that_is_damaged_is_told_and_not_forgotten() {
        let dir = TestDir::new();
        let state = StateDir::find(Some(dir.path())).unwrap();
        let store = Store::new(&state, ZONE);
        for damaged in ["key = \"03\"\n", "revision = -1\n", "\0", "pin = 1\n"] {
            std::fs::write(dir.path().join("zone-0000002a.toml"), damaged).unwrap();
            let error = store.load().unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(
                error.to_string().contains("zone-0000002a.toml: "),
                "{error}"
            );
        }
    }
}

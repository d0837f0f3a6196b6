//! Keeps the own zone's file: looks for it, judges it, remembers it. What is good once stays in use until something better
//! comes, whatever the server does.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anode_wire::Zone;
use anode_wire::zonefile::{MAX_LEN, Reach, ZoneFile, ZoneKey};
use rand::RngExt;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

use super::http::{FetchError, Fetched, Fetcher};
use super::judge::Refusal;
use super::source::{Url, ZoneFrom};
use super::store::{self, Record, Store};
use super::{Known, Members};
use crate::Error;
use crate::state::{LockedState, StateDir};

/// After the first failure; doubled by each further one (D5).
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// The longest wait after a failure (D5).
const RETRY_LAST: Duration = Duration::from_secs(3600);
/// How often a path is looked at. A look costs one `stat`; unlike a watch by the kernel it sees every way in which a file
/// can be replaced, links and network file systems too.
const PATH_INTERVAL: Duration = Duration::from_secs(2);

/// Why there is no new file. The one in use stays.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It was not to be had.
    #[error("{url}: {error}")]
    Fetch {
        /// Where.
        url: String,
        /// Why.
        error: FetchError,
    },
    /// It was not to be had.
    #[error("{path}: {problem}")]
    Path {
        /// Where.
        path: String,
        /// Why.
        problem: String,
    },
    /// It is not believed.
    #[error("{place}: {refusal}")]
    Refused {
        /// Where it came from.
        place: String,
        /// Why.
        refusal: Refusal,
    },
    /// Both ways of the draft.
    #[error("{0}; {1}")]
    Both(Box<Trouble>, Box<Trouble>),
}

impl Trouble {
    /// As an error about what stands in a file.
    fn invalid(self) -> Error {
        match self {
            Self::Path { path, problem } => Error::invalid(path, problem),
            Self::Refused {
                place,
                refusal: Refusal::Faulty(fault),
            } => match fault.line {
                // as every other file's faults: FILE:LINE
                Some(line) => Error::invalid(format!("{place}:{line}"), fault.kind.to_string()),
                None => Error::invalid(place, fault.kind.to_string()),
            },
            Self::Refused { place, refusal } => Error::invalid(place, refusal.to_string()),
            other => Error::refused(other.to_string()),
        }
    }
}

/// What a look brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Another file is in use now.
    Taken,
    /// The one in use is the newest.
    Unchanged,
}

/// What a file looked like from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// The own zone's file and how it is kept. One of it, in the control thread.
pub struct Keeper {
    from: ZoneFrom,
    zone: Zone,
    fetcher: Fetcher,
    store: Store,
    record: Record,
    known: Option<Arc<Known>>,
    /// Of the path, when it was read last.
    stamp: Option<Stamp>,
    failures: u32,
    /// What could not be written to the state directory yet.
    unsaved: Option<Vec<u8>>,
}

impl Keeper {
    /// For `zone`, with the copy on disk in use at once. A copy that is no longer believed is left out.
    pub fn new(
        from: ZoneFrom,
        zone: Zone,
        fetcher: Fetcher,
        dir: &StateDir,
    ) -> Result<Self, Error> {
        let store = Store::new(dir, zone);
        let (record, copy) = store.load()?;
        let mut keeper = Self {
            from,
            zone,
            fetcher,
            store,
            record,
            known: None,
            stamp: None,
            failures: 0,
            unsaved: None,
        };
        if let Some(bytes) = copy {
            match keeper.record.expected(zone).judge(&bytes) {
                Ok((file, faults)) => {
                    let (reach, seen) = (keeper.record.reach(), keeper.record.fetched());
                    let source = keeper.record.source.clone();
                    let known = Known::new(file, faults, zone, source, reach, seen);
                    keeper.known = Some(Arc::new(known));
                }
                Err(refusal) => tracing::warn!("the copy of the zone file: {refusal}"),
            }
        }
        Ok(keeper)
    }

    /// The file in use.
    pub fn known(&self) -> Option<&Arc<Known>> {
        self.known.as_ref()
    }

    /// Who belongs to the zone.
    pub fn members(&self) -> Members {
        self.known
            .as_ref()
            .map(|known| known.members())
            .unwrap_or_default()
    }

    /// The key that files must be signed with.
    pub fn pin(&self) -> Option<ZoneKey> {
        self.record.pin()
    }

    /// Where the file comes from.
    pub fn from(&self) -> &ZoneFrom {
        &self.from
    }

    /// The zone.
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// Whether there is anything to look for.
    pub fn is_idle(&self) -> bool {
        self.from == ZoneFrom::Nowhere
    }

    /// Reads the path, before anything stands: what is wrong with it is the user's to mend.
    pub fn read_path_first(&mut self) -> Result<(), Error> {
        if let ZoneFrom::Path(path) = self.from.clone() {
            self.look_at_path(&path).map_err(Trouble::invalid)?;
        }
        Ok(())
    }

    /// The operator says that files of this key count from now on.
    pub fn accept(&mut self, key: ZoneKey, state: &LockedState) -> Result<(), Error> {
        self.record.accept(key);
        self.store.save(state, &self.record, None)
    }

    /// Looks for a newer file. `force`: an older one is taken too (D4).
    pub async fn look(&mut self, force: bool) -> Result<Outcome, Trouble> {
        let before = self.record.revision;
        if force {
            self.record.revision = 0;
        }
        let result = match self.from.clone() {
            ZoneFrom::Nowhere => Ok(Outcome::Unchanged),
            ZoneFrom::Path(path) => self.look_at_path(&path),
            ZoneFrom::Url(url) => self.ask(&url, Reach::Local).await,
            ZoneFrom::Draft => self.ask_as_the_draft_says().await,
        };
        match result {
            Ok(_) => self.failures = 0,
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                self.record.revision = before;
            }
        }
        result
    }

    /// When to look again, after the last look.
    pub fn next(&self) -> Duration {
        match (&self.from, &self.known) {
            (ZoneFrom::Path(_), _) => PATH_INTERVAL,
            (_, Some(known)) if self.failures == 0 => {
                // not all nodes of a zone at once
                known
                    .file
                    .ttl()
                    .mul_f64(UnwrapErr(SysRng).random_range(0.9..1.1))
            }
            _ => {
                let doublings = self.failures.saturating_sub(1).min(16);
                RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_LAST)
            }
        }
    }

    /// Whether the next look is worth it: a path that has not changed since it was read is not.
    pub fn is_due(&self) -> bool {
        match &self.from {
            ZoneFrom::Path(path) => Stamp::of(path) != self.stamp,
            _ => true,
        }
    }

    /// D5: the name first; the IP after any failure, also of what the name brought.
    async fn ask_as_the_draft_says(&mut self) -> Result<Outcome, Trouble> {
        let [name, ip] = Url::of_zone(self.zone);
        // who registers the name, or makes up a zone, must not point us at ourselves
        match self.ask(&name, Reach::Private).await {
            Ok(outcome) => Ok(outcome),
            Err(first) => match self.ask(&ip, Reach::Private).await {
                Ok(outcome) => Ok(outcome),
                Err(second) => Err(Trouble::Both(Box::new(first), Box::new(second))),
            },
        }
    }

    async fn ask(&mut self, url: &Url, reach: Reach) -> Result<Outcome, Trouble> {
        let place = url.to_string();
        // the date of another server's copy says nothing to this one
        let has_copy = self.known.is_some() && self.record.source == place;
        let since = self.record.modified.clone().filter(|_| has_copy);
        let fetched = self.fetcher.fetch(url, reach, since.as_deref()).await;
        match fetched {
            Ok(Fetched::Unchanged) => {
                self.seen();
                Ok(Outcome::Unchanged)
            }
            Ok(Fetched::File {
                bytes,
                modified,
                reach,
            }) => self.take(&bytes, place, reach, modified),
            Err(error) => Err(Trouble::Fetch { url: place, error }),
        }
    }

    fn look_at_path(&mut self, path: &Path) -> Result<Outcome, Trouble> {
        let shown = path.display().to_string();
        let trouble = |problem: String| Trouble::Path {
            path: shown.clone(),
            problem,
        };
        // before the file: a change while it is read is another change
        self.stamp = Stamp::of(path);
        let bytes = match store::read(path, MAX_LEN as u64) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Err(trouble(
                    "there is no such zone file: make one with `anode zone new`, or correct zone-file".into(),
                ));
            }
            Err(error) => return Err(trouble(format!("cannot read the zone file: {error}"))),
        };
        self.take(&bytes, shown.clone(), Reach::Local, None)
    }

    fn take(
        &mut self,
        bytes: &[u8],
        source: String,
        reach: Reach,
        modified: Option<String>,
    ) -> Result<Outcome, Trouble> {
        let expected = self.record.expected(self.zone);
        let (file, faults) = expected.judge(bytes).map_err(|refusal| Trouble::Refused {
            place: source.clone(),
            refusal,
        })?;
        let expected = expected.after(&file);
        let known = Known::new(
            file,
            faults,
            self.zone,
            source.clone(),
            reach,
            SystemTime::now(),
        );
        let same = self
            .known
            .as_ref()
            .is_some_and(|old| old.file == known.file && old.source == known.source);
        self.known = Some(Arc::new(known));
        self.record.take(expected, bytes, source, reach);
        self.record.modified = modified;
        self.unsaved = Some(bytes.to_vec());
        Ok(if same {
            Outcome::Unchanged
        } else {
            Outcome::Taken
        })
    }

    fn seen(&mut self) {
        self.record.seen();
        if let Some(known) = &mut self.known {
            let mut seen = Known::clone(known);
            seen.seen = SystemTime::now();
            *known = Arc::new(seen);
        }
    }

    /// Writes down what was taken, if anything was. What cannot be written is tried again at the next time.
    pub fn save(&mut self, state: &LockedState) -> Result<(), Error> {
        if let Some(bytes) = &self.unsaved {
            self.store.save(state, &self.record, Some(bytes))?;
            self.unsaved = None;
        }
        Ok(())
    }
}

/// What `anode up` needs to know of the zone before it can start.
pub struct Start {
    /// The zone of this node, of a new identity too.
    pub zone: Zone,
    /// What keeps its file.
    pub keeper: Keeper,
}

impl Start {
    /// Finds out the zone, and takes what is there of its file. `zone` is that of the identity, or the one wanted for a new
    /// one; `None`: what the file says. `needs_members`: rules name the zone, so its list must be here before traffic flows.
    pub fn new(
        from: ZoneFrom,
        zone: Option<Zone>,
        needs_members: bool,
        dir: &StateDir,
    ) -> Result<Self, Error> {
        let fetcher = match from.needs_tls() {
            true => Fetcher::with_tls()?,
            false => Fetcher::plain(),
        };
        let zone = match zone {
            Some(zone) => zone,
            None => zone_of_file(&from, &fetcher)?,
        };
        let is_explicit = matches!(from, ZoneFrom::Path(_) | ZoneFrom::Url(_));
        if zone == Zone::LOCAL && is_explicit {
            return Err(Error::invalid(
                "zone-file",
                "zone 0 is local only and has no zone file: leave zone-file out, or make an identity in the file's zone (another --state DIR, or `anode key new --zone HEX --force`)",
            ));
        }
        let from = match from {
            ZoneFrom::Draft if zone == Zone::LOCAL => ZoneFrom::Nowhere,
            from => from,
        };
        let mut keeper = Keeper::new(from, zone, fetcher, dir)?;
        keeper.read_path_first()?;
        if needs_members && keeper.members().0.is_none() && !keeper.is_idle() {
            let looked = crate::cli::block_on(async { Ok(keeper.look(false).await) })?;
            looked.map_err(Trouble::invalid)?;
        }
        Ok(Self { zone, keeper })
    }
}

/// The zone that the file names, for an identity that is still to be made.
fn zone_of_file(from: &ZoneFrom, fetcher: &Fetcher) -> Result<Zone, Error> {
    let (place, bytes) = match from {
        ZoneFrom::Draft | ZoneFrom::Nowhere => return Ok(Zone::LOCAL),
        ZoneFrom::Path(path) => {
            let place = path.display().to_string();
            let read = store::read(path, MAX_LEN as u64);
            let found = read.map_err(|error| {
                Error::invalid(&place, format!("cannot read the zone file: {error}"))
            })?;
            let bytes = found.ok_or_else(|| {
                Error::invalid(
                    &place,
                    "there is no such zone file: make one with `anode zone new`",
                )
            })?;
            (place, bytes)
        }
        ZoneFrom::Url(url) => {
            let fetched =
                crate::cli::block_on(async { Ok(fetcher.fetch(url, Reach::Local, None).await) })?;
            let error = match fetched {
                Ok(Fetched::File { bytes, .. }) => return zone_of_bytes(&url.to_string(), &bytes),
                Ok(Fetched::Unchanged) => FetchError::UnchangedWithoutCopy,
                Err(error) => error,
            };
            return Err(Error::refused(format!(
                "{url}: {error}; a new identity needs its zone: try again, or name it with --zone HEX"
            )));
        }
    };
    zone_of_bytes(&place, &bytes)
}

fn zone_of_bytes(place: &str, bytes: &[u8]) -> Result<Zone, Error> {
    let report = ZoneFile::check(bytes);
    let Some(file) = report.zone else {
        let fault = report.faults.into_iter().next();
        // a report without a file begins with a fatal fault
        let refusal = Refusal::Faulty(fault.expect("the fault that was fatal"));
        let place = place.to_owned();
        return Err(Trouble::Refused { place, refusal }.invalid());
    };
    file.zone().ok_or_else(|| {
        Error::invalid(
            place,
            "this zone file does not say its zone, and there is no identity yet: name it with --zone HEX",
        )
    })
}

#[cfg(test)]
mod tests;

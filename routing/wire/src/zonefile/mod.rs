//! Zone files (Anode 0.8 §2.1, §2.3.1): who runs a zone, and through which relays its addresses are reached.
//!
//! ```text
//!   bytes ─▶ dictionary ─▶ the five entries (A6)
//!                        ├▶ relay     zr.*                        ◀─ reach: which addresses, by where the file came from
//!                        ├▶ signed    zone, key, sig, member.*    ours
//!                        └▶ services  host.*, turn.*, tracker.*, dht   ours
//! ```
//!
//! Here stands what makes a zone file of a dictionary, and every fault that people should hear of. The draft's zone file
//! is not authenticated: who forges one can redirect relays, hence drop and watch packets, but neither forge nor change
//! them. Ours may be signed, and then nobody but the zone's key can.
mod dictionary;
mod reach;
mod relay;
mod services;
mod signed;

pub use dictionary::{Dictionary, Entry};
pub use reach::{Forbidden, Reach};
pub use relay::{Family, Relay, RelayFault};
pub use services::{
    Dht, ServiceFault, TurnServer, dht_config_url, dht_name, relay_host, tracker_url,
};
pub use signed::{ZoneKey, ZoneKeyError, ZoneSigner};

use services::Services;
use signed::Signed;

use crate::{Address, WireError, Zone};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A file with all that it must have (A6, D4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneFile {
    dictionary: Dictionary,
    revision: u64,
    ttl: Duration,
    /// By index; `None` where the entry is there and cannot be used.
    relays: BTreeMap<u32, Option<Relay>>,
    signed: Signed,
    services: Services,
}

/// Bytes of the largest file that is read (D4).
pub const MAX_LEN: usize = 256 * 1024;
/// Shortest time between two looks at a file, whatever its ttl (D4).
pub const MIN_TTL: Duration = Duration::from_secs(60);
/// Longest time between two looks at a file, whatever its ttl (D4).
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most relay entries of a file.
pub const MAX_RELAYS: usize = 256;
/// Most members that a file lists.
pub const MAX_MEMBERS: usize = 3000;
/// Most TURN servers, and most trackers, that are read of a file.
pub const MAX_SERVICES: usize = 16;
/// Most faults that a report lists.
pub const MAX_FAULTS: usize = 100;

/// The five entries that must be there, and what they are for (A6).
const REQUIRED: [(&str, &str); 5] = [
    ("n", "the zone's name"),
    ("d", "its description"),
    ("c", "the mail address of its administrator"),
    ("r", "the revision, a number that grows with each edit"),
    ("ttl", "seconds until the next check"),
];
const RELAY_PREFIX: &str = "zr.";
const MEMBER_PREFIX: &str = "member.";

/// Something about a zone file that its author should hear of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Line of the file, from 1; `None` where it is about the whole.
    pub line: Option<usize>,
    /// What it is.
    pub kind: FaultKind,
}

/// What can be wrong with a zone file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// Fatal (D4).
    #[error("it has {0} bytes, and may have {MAX_LEN} at most")]
    TooLarge(usize),
    /// Fatal (D4).
    #[error("the entry {key}= is missing: {meaning}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What stands there.
        meaning: &'static str,
    },
    /// Fatal (D4): `r` or `ttl`.
    #[error("{key}={value:?} is not a decimal number, or too large a one")]
    NotDecimal {
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
    },
    /// The ttl is taken as the nearest bound (D4).
    #[error("ttl={given} counts as {used}: it may be 60 s to 7 days")]
    TtlClamped {
        /// As in the file.
        given: u64,
        /// What it counts as.
        used: u64,
    },
    /// The line is one with the next (D1).
    #[error(
        "it ends with LF alone, and others end with CR: it is one with the next line; `anode zone sign` mends that"
    )]
    BareLf,
    /// The line counts as a key with an empty value (D3).
    #[error("{0:?} has no = and counts as an entry without value")]
    NoSeparator(String),
    /// A later line has the same key (D3).
    #[error("{0:?} is overridden by a later line")]
    Overridden(String),
    /// The entry is left out: its key has no hexadecimal number.
    #[error("{0:?} is not a relay entry: zr. and a hexadecimal number, counted from 0")]
    RelayKey(String),
    /// The entry counts, and addresses that choose it have no relay.
    #[error("zr.{index:x} cannot be used: {fault}")]
    RelayValue {
        /// Number of the entry.
        index: u32,
        /// What is wrong with it.
        fault: RelayFault,
    },
    /// Fatal: each one is work for every node of the zone.
    #[error("it has {0} relay entries, and may have {MAX_RELAYS} at most")]
    TooManyRelays(usize),
    /// Fatal.
    #[error("zone={0:?} is not a zone: 1 to 8 hexadecimal digits")]
    Zone(String),
    /// Fatal: half of what makes a signed file.
    #[error(
        "the entry {0}= is missing: a signed file has zone=, key= and sig=; `anode zone sign` writes them"
    )]
    Unsigned(&'static str),
    /// Fatal in a signed file: readers could differ on which one counts.
    #[error("{0:?} stands there again in a later line: a signed file says everything once")]
    Twice(String),
    /// Fatal.
    #[error("key= is not 66 hexadecimal digits of a compressed point on P-256")]
    Key,
    /// Fatal.
    #[error("sig= is not a signature: 128 hexadecimal digits, r and s, with s in its lower half")]
    Signature,
    /// Fatal.
    #[error(
        "sig= is not by key= over this file: it was changed after it was signed (`anode zone sign`), or forged"
    )]
    Forged,
    /// Fatal: a list of members that is read in part lets in, or keeps out, the wrong ones.
    #[error("member.{label}: {problem}")]
    Member {
        /// What follows `member.`.
        label: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It has no effect.
    #[error("the list of members has no effect: the file is not signed")]
    MembersUnsigned,
    /// The entry is left out.
    #[error("{key} cannot be used: {problem}")]
    Service {
        /// The entry.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The entry counts, and addresses that choose it have no relay.
    #[error("zr.{index:x} is refused: {fault}")]
    RelayForbidden {
        /// Number of the entry.
        index: u32,
        /// Why.
        fault: Forbidden,
    },
    /// Addresses that choose it have no relay.
    #[error("zr.{index:x} is missing: of {count} relays, the numbers are 0 to {last:x}", last = count - 1)]
    RelayMissing {
        /// The number that is missing.
        index: u32,
        /// Number of relay entries.
        count: u32,
    },
    /// No address chooses it.
    #[error("zr.{index:x} is never used: of {count} relays, the numbers are 0 to {last:x}", last = count - 1)]
    RelayUnused {
        /// Number of the entry.
        index: u32,
        /// Number of relay entries.
        count: u32,
    },
}

impl Fault {
    /// Whether the file is refused for it; else it is used in spite of it.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self.kind,
            FaultKind::TooLarge(_)
                | FaultKind::Missing { .. }
                | FaultKind::NotDecimal { .. }
                | FaultKind::TooManyRelays(_)
                | FaultKind::Zone(_)
                | FaultKind::Unsigned(_)
                | FaultKind::Twice(_)
                | FaultKind::Key
                | FaultKind::Signature
                | FaultKind::Forged
                | FaultKind::Member { .. }
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        self.kind.fmt(f)
    }
}

/// What a look at a file found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The file, unless a fault is fatal.
    pub zone: Option<ZoneFile>,
    /// At most [`MAX_FAULTS`], fatal ones first.
    pub faults: Vec<Fault>,
}

impl ZoneFile {
    /// Reads a file; refused as a whole if one of the five entries is missing or wrong (D4). All else is forgiven.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        match Self::check(bytes) {
            Report {
                zone: Some(zone), ..
            } => Ok(zone),
            Report { faults, .. } => {
                // without a zone, the first fault is a fatal one
                let fatal = faults.into_iter().next();
                Err(WireError::ZoneFile(
                    fatal.expect("no zone without a fatal fault"),
                ))
            }
        }
    }

    /// Reads a file and tells everything that is wrong with it.
    pub fn check(bytes: &[u8]) -> Report {
        if bytes.len() > MAX_LEN {
            let fault = Fault {
                line: None,
                kind: FaultKind::TooLarge(bytes.len()),
            };
            return Report {
                zone: None,
                faults: vec![fault],
            };
        }
        Self::of(bytes, Dictionary::parse(bytes))
    }

    /// As [`ZoneFile::check`], but as if `key=` and `sig=` were not there: for a file that was edited and is to be signed.
    pub fn check_edited(bytes: &[u8]) -> Report {
        if bytes.len() > MAX_LEN {
            return Self::check(bytes);
        }
        let mut dictionary = Dictionary::parse(bytes);
        dictionary.remove("key");
        dictionary.remove("sig");
        Self::of(bytes, dictionary)
    }

    fn of(bytes: &[u8], dictionary: Dictionary) -> Report {
        let mut faults = Faults::default();
        for (key, meaning) in REQUIRED {
            if dictionary.get(key).is_none() {
                faults.add(None, FaultKind::Missing { key, meaning });
            }
        }
        let revision = decimal(&dictionary, "r", &mut faults);
        let ttl = decimal(&dictionary, "ttl", &mut faults);
        let count = prefixed(&dictionary, RELAY_PREFIX).count();
        if count > MAX_RELAYS {
            faults.add(None, FaultKind::TooManyRelays(count));
        }
        let signed = Signed::read(&dictionary, &mut faults);
        let is_refused = !faults.list.is_empty();

        let ttl = ttl.map(|(line, given)| {
            let used = given.clamp(MIN_TTL.as_secs(), MAX_TTL.as_secs());
            if used != given {
                faults.add(Some(line), FaultKind::TtlClamped { given, used });
            }
            Duration::from_secs(used)
        });
        for entry in dictionary.iter().filter(|entry| !entry.has_separator) {
            faults.add(Some(entry.line), FaultKind::NoSeparator(shown(&entry.key)));
        }
        for entry in dictionary.overridden() {
            faults.add(Some(entry.line), FaultKind::Overridden(shown(&entry.key)));
        }
        if signed.members.is_some() && signed.signer.is_none() {
            faults.add(None, FaultKind::MembersUnsigned);
        }
        let relays = relays(&dictionary, &mut faults);
        let services = Services::read(&dictionary, &mut faults);
        if let Some(line) = Dictionary::bare_lf(bytes) {
            faults.add(Some(line), FaultKind::BareLf);
        }

        let zone = match (revision, ttl) {
            (Some((_, revision)), Some(ttl)) if !is_refused => Some(Self {
                dictionary,
                revision,
                ttl,
                relays,
                signed,
                services,
            }),
            _ => None,
        };
        Report {
            zone,
            faults: faults.list,
        }
    }

    /// A new file with the given entries and no relays; `ttl` in whole seconds, clamped as D4 does.
    pub fn new(name: &str, description: &str, contact: &str, revision: u64, ttl: Duration) -> Self {
        let ttl = Duration::from_secs(ttl.clamp(MIN_TTL, MAX_TTL).as_secs());
        let mut dictionary = Dictionary::default();
        for (key, value) in [
            ("n", name),
            ("d", description),
            ("c", contact),
            ("r", &revision.to_string()),
            ("ttl", &ttl.as_secs().to_string()),
        ] {
            dictionary.set(key, value.as_bytes());
        }
        Self {
            dictionary,
            revision,
            ttl,
            relays: BTreeMap::new(),
            signed: Signed::default(),
            services: Services::default(),
        }
    }

    /// Says which zone the file is for, and signs it as it stands then.
    pub fn sign(&mut self, zone: Zone, signer: &ZoneSigner) {
        let key = signer.public();
        self.dictionary.remove("sig");
        self.dictionary.set("zone", zone.to_string().as_bytes());
        self.dictionary.set("key", key.to_string().as_bytes());
        let signature = signer.sign(&self.dictionary);
        self.dictionary.set("sig", signature.as_bytes());
        self.signed.zone = Some(zone);
        self.signed.signer = Some(key);
    }

    /// The text of a file that was edited, signed anew with a new revision; of the rest, only the line ends become CR LF.
    pub fn resign(text: &[u8], zone: Zone, revision: u64, signer: &ZoneSigner) -> Vec<u8> {
        let text = Dictionary::with_crlf(text);
        let (zone, revision, key) = (
            zone.to_string(),
            revision.to_string(),
            signer.public().to_string(),
        );
        let text = Dictionary::edit(
            &text,
            &[
                ("zone", zone.as_bytes()),
                ("r", revision.as_bytes()),
                ("key", key.as_bytes()),
            ],
        );
        let signature = signer.sign(&Dictionary::parse(&text));
        Dictionary::edit(&text, &[("sig", signature.as_bytes())])
    }

    /// Refuses relays whose addresses a file from there may not name. They keep their number and cannot be used.
    pub fn restrict(&mut self, reach: Reach) -> Vec<Fault> {
        let mut faults = Faults::default();
        let lines: BTreeMap<u32, usize> = prefixed(&self.dictionary, RELAY_PREFIX)
            .filter_map(|(number, entry)| Some((relay_index(number)?, entry.line)))
            .collect();
        for (&index, relay) in &mut self.relays {
            let mut ips = relay.iter().flat_map(|relay| &relay.ips);
            if let Some(fault) = ips.find_map(|ip| reach.check(*ip).err()) {
                *relay = None;
                let line = lines.get(&index).copied();
                faults.add(line, FaultKind::RelayForbidden { index, fault });
            }
        }
        faults.list
    }

    /// Appends a relay as the next number after the highest. Changes the relay of about every address.
    pub fn add_relay(&mut self, relay: Relay) {
        let index = self
            .relays
            .last_key_value()
            .map_or(0, |(last, _)| last.saturating_add(1));
        self.dictionary.set(
            &format!("{RELAY_PREFIX}{index:x}"),
            relay.to_string().as_bytes(),
        );
        self.relays.insert(index, Some(relay));
    }

    /// Adds a TURN server, which takes effect with the next [`ZoneFile::sign`]. Refused beyond [`MAX_SERVICES`].
    pub fn add_turn_server(&mut self, server: TurnServer) -> Result<(), ServiceFault> {
        let number = room(&self.services.turn)?;
        let value = server.to_string();
        self.dictionary
            .set(&format!("turn.{number:x}"), value.as_bytes());
        self.services.turn.push(server);
        Ok(())
    }

    /// Adds a tracker, by a URL that [`tracker_url`] takes. Refused beyond [`MAX_SERVICES`].
    pub fn add_tracker(&mut self, url: &str) -> Result<(), ServiceFault> {
        let number = room(&self.services.trackers)?;
        let url = tracker_url(url)?;
        self.dictionary
            .set(&format!("tracker.{number:x}"), url.as_bytes());
        self.services.trackers.push(url);
        Ok(())
    }

    /// Names the host of relay `index`: whoever reaches it by TLS checks its certificate.
    pub fn set_relay_host(&mut self, index: u32, host: &str) -> Result<(), ServiceFault> {
        let host = relay_host(host)?;
        self.dictionary
            .set(&format!("host.{index:x}"), host.as_bytes());
        self.services.hosts.insert(index, host);
        Ok(())
    }

    /// Names the zone's DHT.
    pub fn set_dht(&mut self, dht: Dht) -> Result<(), ServiceFault> {
        self.dictionary.set("dht", dht_name(&dht.name)?.as_bytes());
        if let Some(config) = &dht.config {
            let config = dht_config_url(config)?;
            self.dictionary.set("dht.config", config.as_bytes());
        }
        self.services.dht = Some(dht);
        Ok(())
    }

    /// The file's text, with the entries that this program does not know (A7).
    pub fn emit(&self) -> Vec<u8> {
        self.dictionary.emit()
    }

    /// `n`
    pub fn name(&self) -> Cow<'_, str> {
        self.text("n")
    }

    /// `d`
    pub fn description(&self) -> Cow<'_, str> {
        self.text("d")
    }

    /// `c`
    pub fn contact(&self) -> Cow<'_, str> {
        self.text("c")
    }

    fn text(&self, key: &str) -> Cow<'_, str> {
        self.dictionary.get(key).map_or(Cow::Borrowed(""), |entry| {
            String::from_utf8_lossy(&entry.value)
        })
    }

    /// `r`
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `ttl`, 60 s to 7 days.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether this file, just fetched, is older than the one in use: a roll-back, which is not taken (D4).
    pub fn is_rollback_of(&self, in_use: &ZoneFile) -> bool {
        self.revision < in_use.revision
    }

    /// Ours: the zone that it says it is for.
    pub fn zone(&self) -> Option<Zone> {
        self.signed.zone
    }

    /// Ours: the key that has signed it, `None` for a file that is not signed. Whose key that is, is not known here.
    pub fn signer(&self) -> Option<ZoneKey> {
        self.signed.signer
    }

    /// Ours: who belongs to the zone; `None` where a signed file does not list them, or the file is not signed.
    pub fn members(&self) -> Option<&[Address]> {
        let list = self.signed.members.as_deref();
        list.filter(|_| self.signed.signer.is_some())
    }

    /// Ours: TURN servers.
    pub fn turn_servers(&self) -> &[TurnServer] {
        &self.services.turn
    }

    /// Ours: URLs of BitTorrent trackers at which the zone meets.
    pub fn trackers(&self) -> &[String] {
        &self.services.trackers
    }

    /// Ours: the host name of relay `index`, for which its certificate must be good where TLS is spoken with it.
    pub fn relay_host(&self, index: u32) -> Option<&str> {
        self.services.hosts.get(&index).map(String::as_str)
    }

    /// Ours: the DHT.
    pub fn dht(&self) -> Option<&Dht> {
        self.services.dht.as_ref()
    }

    /// All entries.
    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// The relays that can be used, with their numbers.
    pub fn relays(&self) -> impl Iterator<Item = (u32, &Relay)> {
        self.relays
            .iter()
            .filter_map(|(index, relay)| Some((*index, relay.as_ref()?)))
    }

    /// How many relay entries there are, usable or not: everybody must divide by the same number.
    pub fn relay_count(&self) -> u32 {
        // an entry takes some bytes of at most 256 KiB
        self.relays.len() as u32
    }

    /// The relay that the byte sum designates for `address` (A22), then the next number: a node registers with both,
    /// senders try them in this order. Numbers without a usable relay are left out.
    pub fn relays_for(&self, address: &Address) -> impl Iterator<Item = (u32, &Relay)> {
        let count = self.relay_count();
        let first = designated(address.byte_sum(), count);
        let second = first
            .map(|index| (index + 1) % count)
            .filter(|index| Some(*index) != first);
        let numbers = first.into_iter().chain(second);
        numbers.filter_map(|index| Some((index, self.relays.get(&index)?.as_ref()?)))
    }
}

/// The next free number of a list of services in a file that was made here.
fn room<T>(list: &[T]) -> Result<usize, ServiceFault> {
    match list.len() {
        full if full >= MAX_SERVICES => Err(ServiceFault(format!(
            "there are more than {MAX_SERVICES} of them"
        ))),
        number => Ok(number),
    }
}

/// Number of the relay for an address with this byte sum; `None` if there are no relays (A22).
pub fn designated(byte_sum: u32, relay_count: u32) -> Option<u32> {
    byte_sum.checked_rem(relay_count)
}

fn relays(dictionary: &Dictionary, faults: &mut Faults) -> BTreeMap<u32, Option<Relay>> {
    let mut relays = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (number, entry) in prefixed(dictionary, RELAY_PREFIX) {
        let Some(index) = relay_index(number) else {
            faults.add(Some(entry.line), FaultKind::RelayKey(shown(&entry.key)));
            continue;
        };
        let relay = Relay::parse(&entry.value)
            .map_err(|fault| faults.add(Some(entry.line), FaultKind::RelayValue { index, fault }))
            .ok();
        // "zr.a" and "zr.0A" are one number (D6), and the last wins (D3)
        relays.insert(index, relay);
        if let Some(line) = lines.insert(index, entry.line) {
            faults.add(
                Some(line),
                FaultKind::Overridden(format!("{RELAY_PREFIX}{index:x}")),
            );
        }
    }
    let count = relays.len() as u32;
    for index in (0..count).filter(|index| !relays.contains_key(index)) {
        faults.add(None, FaultKind::RelayMissing { index, count });
    }
    for (index, line) in lines.range(count..) {
        faults.add(
            Some(*line),
            FaultKind::RelayUnused {
                index: *index,
                count,
            },
        );
    }
    relays
}

/// The entries whose keys start so, with the rest of their keys; ASCII case does not matter (D3).
fn prefixed<'a>(
    dictionary: &'a Dictionary,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a [u8], &'a Entry)> {
    dictionary.iter().filter_map(move |entry| {
        let (start, rest) = entry.key.split_at_checked(prefix.len())?;
        start
            .eq_ignore_ascii_case(prefix.as_bytes())
            .then_some((rest, entry))
    })
}

/// D6: any case, leading zeros allowed.
fn relay_index(digits: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

fn decimal(
    dictionary: &Dictionary,
    key: &'static str,
    faults: &mut Faults,
) -> Option<(usize, u64)> {
    let entry = dictionary.get(key)?;
    let text = String::from_utf8_lossy(&entry.value);
    match text.parse() {
        Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Some((entry.line, number)),
        _ => {
            let value = shown(&entry.value);
            faults.add(Some(entry.line), FaultKind::NotDecimal { key, value });
            None
        }
    }
}

/// Enough of a key or value to recognise it.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(64).collect()
}

#[derive(Default)]
struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    fn add(&mut self, line: Option<usize>, kind: FaultKind) {
        if self.list.len() < MAX_FAULTS {
            self.list.push(Fault { line, kind });
        }
    }
}

#[cfg(test)]
mod tests;

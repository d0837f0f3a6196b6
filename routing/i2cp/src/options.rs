//! Options of a session: names, ranges, defaults, and who interprets them (I16 to I60).
mod known;
#[cfg(test)]
mod tests;

use crate::codec::Mapping;
use crate::error::{Error, Result};
use crate::keys::x25519_public;
use crate::names::decode_base64;
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::Zeroizing;

use Interpreter::{Both, Connection, Router};
use Kind::{Base64, Boolean, Milliseconds, Number, Numbers, Reliability, Secret, Text};
use known::MANY;
pub use known::{Interpreter, KNOWN, Kind, Known};

/// Sent even when they are not set, because routers differ in what they assume (I22, I41).
const ALWAYS_SENT: [&str; 11] = [
    "i2cp.dontPublishLeaseSet",
    "i2cp.fastReceive",
    "i2cp.leaseSetEncType",
    "i2cp.leaseSetType",
    "i2cp.messageReliability",
    "inbound.length",
    "outbound.length",
    "inbound.nickname",
    "outbound.nickname",
    "inbound.quantity",
    "outbound.quantity",
];

/// Most authorised clients of an encrypted lease set, and most service records.
const MOST_NUMBERED: usize = 64;

/// How an encrypted lease set is opened to single clients (I24, I55, I56).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Whoever knows the name may read it.
    #[default]
    Nobody,
    /// The X25519 public keys that may.
    Dh(Vec<[u8; 32]>),
    /// The pre-shared keys that may.
    Psk(Vec<Zeroizing<[u8; 32]>>),
}

/// What kind of lease set is published (I31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseSetKind {
    /// 3
    #[default]
    Standard,
    /// 5
    Encrypted,
}

/// After how long a quiet session asks for fewer tunnels, and for how many (I47).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// Idle time.
    pub after: Duration,
    /// Tunnels each way from then on, 1 to 5.
    pub quantity: u8,
}

/// The options of one session, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionOptions {
    given: BTreeMap<String, String>,
    /// Close the session after so long without traffic (I46).
    pub close_on_idle: Option<Duration>,
    /// Ask for fewer tunnels after so long without traffic (I47).
    pub reduce_on_idle: Option<Reduce>,
    /// Do not publish the lease set (I22).
    pub unpublished: bool,
    /// The router delivers at once and does not announce first (I23).
    pub fast_receive: bool,
    /// Compress what is worth it (I52).
    pub gzip: bool,
    /// I31
    pub lease_set: LeaseSetKind,
    /// I24, I55, I56
    pub client_auth: ClientAuth,
    /// The secret that the blinding needs besides (I29).
    pub secret: Zeroizing<Vec<u8>>,
    /// Goes into the lease set, for everybody to read (I57).
    pub lease_set_options: Mapping,
    /// The X25519 private key of the lease set, if it is not to be the one beside the key file (I48).
    pub lease_private: Option<Zeroizing<[u8; 32]>>,
}

impl std::fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.given.iter().map(|(name, value)| {
            // A name that nobody knows may be that of a secret with an error in it.
            let public = match lookup(name) {
                Some(known) => known.kind != Secret,
                None => name.starts_with(RECORD),
            };
            (name, if public { value } else { "…" })
        });
        f.debug_map().entries(shown).finish()
    }
}

const DH: &str = "i2cp.leaseSetClient.dh.";
const PSK: &str = "i2cp.leaseSetClient.psk.";
const RECORD: &str = "i2cp.leaseSetOption.";

impl Default for SessionOptions {
    fn default() -> Self {
        Self::parse([]).expect("the defaults are good")
    }
}

impl SessionOptions {
    /// Checks options and applies the defaults.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, its value (unless it is a secret) and what is wrong.
    pub fn parse<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut options = BTreeMap::new();
        for (name, value) in given {
            check(name, value)?;
            if options.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(refuse(name, value, "it is set twice"));
            }
        }
        let get = |name| effective(&options, name);
        let flag = |name| get(name).eq_ignore_ascii_case("true");
        let close = Duration::from_millis(milliseconds(&get("i2cp.closeIdleTime")));
        let reduce = Reduce {
            after: Duration::from_millis(milliseconds(&get("i2cp.reduceIdleTime"))),
            quantity: get("i2cp.reduceQuantity").trim().parse().unwrap_or(1),
        };
        let close_on_idle = flag("i2cp.closeOnIdle").then_some(close);
        // I47: what closes earlier than it reduces never reduces
        let reduces =
            flag("i2cp.reduceOnIdle") && close_on_idle.is_none_or(|close| close > reduce.after);
        let lease_set = lease_set_kind(&options)?;
        Ok(Self {
            close_on_idle,
            reduce_on_idle: reduces.then_some(reduce),
            unpublished: flag("i2cp.dontPublishLeaseSet"),
            fast_receive: flag("i2cp.fastReceive"),
            gzip: flag("i2cp.gzip"),
            client_auth: client_auth(&options, lease_set)?,
            lease_set,
            secret: secret(&options)?,
            lease_set_options: service_records(&options)?,
            lease_private: lease_private(&options)?,
            given: options,
        })
    }

    /// What goes to the router: all that it or both interpret, and every default that matters. Secrets of this client,
    /// its keys above all, are not in it.
    ///
    /// # Errors
    /// [`Error::TooLong`] when all options together exceed 65,535 bytes.
    pub fn session_config(&self) -> Result<Mapping> {
        let mut mapping = Mapping::new();
        for name in ALWAYS_SENT {
            mapping.set(name, &effective(&self.given, name))?;
        }
        for (name, value) in &self.given {
            let by = lookup(name).map_or(Router, |known| known.by);
            let ours = [DH, PSK, RECORD].iter().any(|p| name.starts_with(p));
            if matches!(by, Router | Both) && !ours {
                let value = match name.as_str() {
                    "i2cp.messageReliability" => reliability(value),
                    _ => value,
                };
                mapping.set(name, value)?;
            }
        }
        Ok(mapping)
    }

    /// What turns this session's tunnels down while it is idle (I47).
    pub(crate) fn reduced_config(quantity: u8) -> Result<Mapping> {
        let mut mapping = Mapping::new();
        for direction in ["inbound", "outbound"] {
            mapping.set(&format!("{direction}.quantity"), &quantity.to_string())?;
            mapping.set(&format!("{direction}.backupQuantity"), "0")?;
        }
        Ok(mapping)
    }

    /// What undoes it. Options cannot be removed, so that defaults are written out (I47).
    pub(crate) fn restored_config(&self) -> Result<Mapping> {
        let mut mapping = Mapping::new();
        for name in [
            "inbound.quantity",
            "outbound.quantity",
            "inbound.backupQuantity",
            "outbound.backupQuantity",
        ] {
            mapping.set(name, &effective(&self.given, name))?;
        }
        Ok(mapping)
    }

    /// What a session with `self` must be told to become one with `new`: the options that differ. Options that are
    /// gone get their default; those without a default stay, because the protocol cannot remove them.
    ///
    /// # Errors
    /// [`Error::Option`] when an option differs that only a new session can change.
    pub fn changes_to(&self, new: &Self) -> Result<Mapping> {
        let fixed = [
            "i2cp.leaseSetType",
            "i2cp.leaseSetEncType",
            "i2cp.leaseSetPrivateKey",
            "i2cp.fastReceive",
        ];
        for name in fixed {
            let (old, now) = (self.given.get(name), new.given.get(name));
            if old != now {
                let value = now.map_or("", String::as_str);
                return Err(refuse(name, value, "it takes a new session to change it"));
            }
        }
        let (old, now) = (self.session_config()?, new.session_config()?);
        let mut changes = Mapping::new();
        for (name, value) in now
            .iter()
            .filter(|(name, value)| old.get(name) != Some(value))
        {
            changes.set(name, value)?;
        }
        for (name, _) in old.iter().filter(|(name, _)| now.get(name).is_none()) {
            if let Some(default) = lookup(name).and_then(|known| known.default) {
                changes.set(name, default)?;
            }
        }
        Ok(changes)
    }
}

fn lookup(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// The value that holds, which is the default where none is given.
fn effective(given: &BTreeMap<String, String>, name: &str) -> String {
    let default = || lookup(name).and_then(|known| known.default).unwrap_or("");
    match given.get(name) {
        Some(value) if name == "i2cp.messageReliability" => reliability(value).to_owned(),
        Some(value) => value.clone(),
        None => default().to_owned(),
    }
}

/// i2pd knows "none" in lower case only (I32).
fn reliability(value: &str) -> &'static str {
    if value.eq_ignore_ascii_case("none") {
        "none"
    } else {
        "BestEffort"
    }
}

fn refuse(name: &str, value: &str, why: impl Into<String>) -> Error {
    let secret = lookup(name).is_some_and(|known| known.kind == Secret)
        || name.starts_with(PSK)
        || name.starts_with(DH);
    Error::Option {
        name: name.to_owned(),
        value: if secret { "…" } else { value }.to_owned(),
        why: why.into(),
    }
}

fn check(name: &str, value: &str) -> Result<()> {
    // I45: bytes, not characters; never cut off
    for (what, text) in [("name", name), ("value", value)] {
        if text.len() > 255 {
            let shown: String = name.chars().take(40).collect();
            let why = format!("its {what} has {} bytes, 255 are allowed", text.len());
            return Err(refuse(&shown, "…", why));
        }
    }
    let Some(known) = lookup(name) else {
        // I43 and whatever a router may know that we do not: passed on
        return if name.is_empty() {
            Err(refuse(name, value, "an option needs a name"))
        } else {
            Ok(())
        };
    };
    if known.by == Connection {
        let why = "it belongs to the router's section and not to a destination";
        return Err(refuse(name, "…", why));
    }
    let number = |text: &str, low: i64, high: i64| match text.trim().parse::<i64>() {
        Ok(number) if (low..=high).contains(&number) => Ok(()),
        _ => Err(refuse(
            name,
            value,
            format!("a number from {low} to {high} is needed"),
        )),
    };
    match known.kind {
        Boolean if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") => {
            Err(refuse(name, value, "true or false is needed"))
        }
        Number(low, high) => number(value, low, high),
        Numbers(low, high) => value.split(',').try_for_each(|one| number(one, low, high)),
        Milliseconds(_) => number(value, 0, MANY),
        Reliability if !["none", "besteffort"].contains(&value.to_ascii_lowercase().as_str()) => {
            Err(refuse(name, value, "BestEffort or None is needed"))
        }
        Base64(length) if decode_base64("it", value).map(|b| b.len()) != Ok(length) => Err(refuse(
            name,
            value,
            format!("base 64 of {length} bytes is needed"),
        )),
        Boolean | Reliability | Base64(_) | Text | Secret => Ok(()),
    }
}

/// I46, I47: at least five minutes.
fn milliseconds(value: &str) -> u64 {
    value.trim().parse().unwrap_or(300_000).max(300_000)
}

fn lease_set_kind(options: &BTreeMap<String, String>) -> Result<LeaseSetKind> {
    let offline = [
        "i2cp.leaseSetOfflineExpiration",
        "i2cp.leaseSetOfflineSignature",
        "i2cp.leaseSetTransientPublicKey",
    ];
    for name in offline {
        if let Some(value) = options.get(name) {
            return Err(refuse(name, value, "offline keys cannot be used yet"));
        }
    }
    let name = "i2cp.leaseSetEncType";
    let value = effective(options, name);
    if value.trim() != "4" {
        return Err(refuse(name, &value, "only 4 (X25519) is made here"));
    }
    let name = "i2cp.leaseSetType";
    let value = effective(options, name);
    match value.trim() {
        "3" => Ok(LeaseSetKind::Standard),
        "5" => Ok(LeaseSetKind::Encrypted),
        "1" => Err(refuse(
            name,
            &value,
            "old lease sets (1) are not made any more; use 3",
        )),
        "7" => Err(refuse(
            name,
            &value,
            "meta lease sets (7) cannot be made by a client",
        )),
        _ => Err(refuse(
            name,
            &value,
            "3 (standard) or 5 (encrypted) is needed",
        )),
    }
}

/// The values of `prefix0`, `prefix1`, … until one is missing. Others of that prefix are an error: they would be
/// ignored silently.
fn numbered<'a>(
    options: &'a BTreeMap<String, String>,
    prefix: &str,
) -> Result<Vec<(&'a str, &'a str)>> {
    let mut found = Vec::new();
    while let Some((name, value)) = options.get_key_value(&format!("{prefix}{}", found.len())) {
        found.push((name.as_str(), value.as_str()));
    }
    let all = options.iter().filter(|(name, _)| name.starts_with(prefix));
    for (name, value) in all {
        if !found.iter().any(|(used, _)| used == name) {
            return Err(refuse(
                name,
                value,
                "the numbers must run from 0 without a gap",
            ));
        }
    }
    match found.get(MOST_NUMBERED) {
        Some((name, value)) => Err(refuse(
            name,
            value,
            format!("at most {MOST_NUMBERED} are allowed"),
        )),
        None => Ok(found),
    }
}

fn client_auth(options: &BTreeMap<String, String>, kind: LeaseSetKind) -> Result<ClientAuth> {
    let name = "i2cp.leaseSetAuthType";
    let value = effective(options, name);
    let prefix = match value.trim() {
        "1" => DH,
        "2" => PSK,
        _ => {
            for prefix in [DH, PSK] {
                if let Some((name, value)) = numbered(options, prefix)?.first() {
                    return Err(refuse(
                        name,
                        value,
                        "i2cp.leaseSetAuthType does not ask for it",
                    ));
                }
            }
            return Ok(ClientAuth::Nobody);
        }
    };
    if kind != LeaseSetKind::Encrypted {
        return Err(refuse(name, &value, "it needs i2cp.leaseSetType = 5"));
    }
    let mut keys = Vec::new();
    for (name, value) in numbered(options, prefix)? {
        let key = value
            .rsplit_once(':')
            .and_then(|(_, key)| decode_base64("it", key).ok())
            .map(Zeroizing::new)
            .and_then(|key| <[u8; 32]>::try_from(&key[..]).ok())
            .ok_or_else(|| {
                refuse(
                    name,
                    value,
                    "name:key is needed, both in base 64, the key of 32 bytes",
                )
            })?;
        keys.push(Zeroizing::new(key));
    }
    if keys.is_empty() {
        return Err(refuse(name, &value, format!("{prefix}0 is missing")));
    }
    Ok(match prefix {
        DH => ClientAuth::Dh(keys.iter().map(|key| **key).collect()),
        _ => ClientAuth::Psk(keys),
    })
}

fn secret(options: &BTreeMap<String, String>) -> Result<Zeroizing<Vec<u8>>> {
    let name = "i2cp.leaseSetSecret";
    let value = effective(options, name);
    decode_base64("it", &value)
        .map(Zeroizing::new)
        .map_err(|_| refuse(name, &value, "base 64 is needed"))
}

/// I57
fn service_records(options: &BTreeMap<String, String>) -> Result<Mapping> {
    let mut records = Mapping::new();
    for (name, value) in numbered(options, RECORD)? {
        let (service, record) = value
            .split_once('=')
            .filter(|(service, _)| !service.is_empty())
            .ok_or_else(|| refuse(name, value, "key=value is needed"))?;
        if records.get(service).is_some() {
            return Err(refuse(name, value, "this key has a record already"));
        }
        records.set(service, record)?;
    }
    Ok(records)
}

/// I48: `[type:]base 64`; of several, the X25519 one.
fn lease_private(options: &BTreeMap<String, String>) -> Result<Option<Zeroizing<[u8; 32]>>> {
    let name = "i2cp.leaseSetPrivateKey";
    let Some(value) = options.get(name) else {
        return Ok(None);
    };
    let bad = || {
        refuse(
            name,
            value,
            "4:key is needed, the key as base 64 of 32 bytes",
        )
    };
    let key = value
        .split(',')
        .find_map(|one| match one.split_once(':') {
            Some(("4" | "ECIES_X25519", key)) => Some(key),
            _ => None,
        })
        .ok_or_else(bad)?;
    let bytes = Zeroizing::new(decode_base64("it", key).map_err(|_| bad())?);
    let key = Zeroizing::new(<[u8; 32]>::try_from(&bytes[..]).map_err(|_| bad())?);
    x25519_public(&key).map_err(|_| bad())?;
    Ok(Some(key))
}
